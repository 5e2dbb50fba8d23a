//! What the host has answered a moment ago.
//!
//! The host is asked over a socket, and each question costs both sides more than most of what a request does. What it
//! answers may change without anybody telling us, so an answer holds for its own short time only, counted from before the
//! question was asked; an error holds for none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::port::Clock;

/// For how long what may change at any time is taken for what it is: long enough to serve many who ask at the same time, and
/// too short for anybody to change it and ask.
pub const MOMENT: Duration = Duration::from_millis(20);

/// The last answer to one question.
pub struct Recent<T>(Mutex<Held<T>>);

struct Held<T> {
    /// With the time before it was asked for, by the steady clock.
    answer: Option<(Duration, T)>,
    /// Counts what made answers worthless, so that one that was on its way meanwhile is not kept.
    changes: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::new(Held { answer: None, changes: 0 }))
    }
}

impl<T: Clone> Recent<T> {
    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last answer if it is younger than `age`, else a new one, which is kept if `holds` says so.
    ///
    /// # Errors
    /// Those of the question.
    pub async fn ask<E>(
        &self,
        clock: &dyn Clock,
        age: Duration,
        question: impl Future<Output = Result<T, E>>,
        holds: impl FnOnce(&T) -> bool,
    ) -> Result<T, E> {
        let now = clock.steady();
        let seen = {
            let held = self.held();
            if let Some((asked, answer)) = &held.answer
                && now.saturating_sub(*asked) < age
            {
                return Ok(answer.clone());
            }
            held.changes
        };
        let answer = question.await?;
        let mut held = self.held();
        if held.changes == seen && holds(&answer) {
            held.answer = Some((now, answer.clone()));
        }
        Ok(answer)
    }

    /// Whatever was answered so far holds no longer, nor does what is on its way.
    pub fn forget(&self) {
        let mut held = self.held();
        held.changes += 1;
        held.answer = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;

    use super::*;

    #[derive(Default)]
    struct Watch(AtomicU64);

    impl Clock for Watch {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
        fn steady(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }
    }

    const AGE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn an_answer_holds_for_its_time_and_an_error_for_none() {
        let (watch, recent) = (Watch::default(), Recent::<u8>::default());
        let ask = async |answer: Result<u8, ()>| recent.ask(&watch, AGE, async { answer }, |&kept| kept < 9).await;
        assert_eq!(ask(Err(())).await, Err(()));
        assert_eq!(ask(Ok(1)).await, Ok(1));
        watch.0.store(99, Ordering::SeqCst);
        assert_eq!(ask(Ok(2)).await, Ok(1));
        watch.0.store(100, Ordering::SeqCst);
        assert_eq!(ask(Err(())).await, Err(()), "an old answer stands in for no error");
        assert_eq!(ask(Ok(9)).await, Ok(9));
        assert_eq!(ask(Ok(3)).await, Ok(3), "nine is not kept");
        recent.forget();
        assert_eq!(ask(Ok(4)).await, Ok(4));
    }

    #[tokio::test]
    async fn an_answer_that_was_on_its_way_when_all_was_forgotten_is_not_kept() {
        let (watch, recent) = (Watch::default(), Recent::<u8>::default());
        let late = async {
            recent.forget();
            Ok::<_, ()>(1)
        };
        assert_eq!(recent.ask(&watch, AGE, late, |_| true).await, Ok(1));
        assert_eq!(recent.ask(&watch, AGE, async { Ok::<_, ()>(2) }, |_| true).await, Ok(2));
    }

    #[tokio::test]
    async fn the_time_counts_from_before_the_question() {
        let (watch, recent) = (Watch::default(), Recent::<u8>::default());
        let slow = async {
            watch.0.store(100, Ordering::SeqCst);
            Ok::<_, ()>(1)
        };
        assert_eq!(recent.ask(&watch, AGE, slow, |_| true).await, Ok(1));
        assert_eq!(recent.ask(&watch, AGE, async { Ok::<_, ()>(2) }, |_| true).await, Ok(2));
    }
}
