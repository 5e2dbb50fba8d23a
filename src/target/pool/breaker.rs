//! When not to ask: a target that has given no session several times in a row is left alone, but for one attempt now and
//! then, and everybody else is told at once what is the matter.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::target::TargetError;

/// So many failures in a row make an outage.
const FAILURES: u32 = 3;

/// How long after a failed attempt the next one may follow, at least and at most. In between it is a share of the time
/// that the outage has lasted already, so that its end is noticed soon after a short one and a long one costs little.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
const SHARE_OF_OUTAGE: u32 = 16;

/// The same for how long an attempt may take. A server that swallows what is sent is asked anew rather than waited for; but
/// one that takes long to let anybody in must have that time in the end.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPT_SHARE: u32 = 4;

/// What is known of whether a target gives sessions.
#[derive(Default)]
pub struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    outage: Option<Outage>,
}

/// Since the first of several failures.
struct Outage {
    since: Instant,
    /// What the last attempt said.
    said: String,
    /// No attempt before that.
    next: Instant,
    /// Somebody is at it.
    trying: bool,
}

impl State {
    fn refusal(&self, now: Instant) -> Option<TargetError> {
        let outage = self.outage.as_ref().filter(|_| self.failures >= FAILURES)?;
        if !outage.trying && outage.next <= now {
            return None;
        }
        let next = match outage.trying {
            true => "it is being tried right now".to_owned(),
            false => format!("next try in {:.1}s", (outage.next - now).as_secs_f32()),
        };
        let age = now.saturating_duration_since(outage.since).as_secs_f32();
        Some(TargetError::Unavailable(format!("no session could be had for {age:.1}s: {}; {next}", outage.said)))
    }
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an attempt would be worth it.
    ///
    /// # Errors
    /// [`TargetError::Unavailable`], with what the last attempt said and when the next one is due.
    pub fn check(&self, now: Instant) -> Result<(), TargetError> {
        self.lock().refusal(now).map_or(Ok(()), Err)
    }

    /// The outage that is going on, if any.
    pub fn outage(&self, now: Instant) -> Option<crate::target::Outage> {
        let state = self.lock();
        let outage = state.outage.as_ref().filter(|_| state.failures >= FAILURES)?;
        let age = now.saturating_duration_since(outage.since);
        Some(crate::target::Outage { age, said: outage.said.clone() })
    }

    /// Leave to make an attempt. During an outage one has it at a time.
    ///
    /// # Errors
    /// As [`Breaker::check`].
    pub fn attempt(&self, now: Instant) -> Result<Attempt<'_>, TargetError> {
        let mut state = self.lock();
        if let Some(refusal) = state.refusal(now) {
            return Err(refusal);
        }
        let open = state.failures >= FAILURES;
        let outage = state.outage.as_mut().filter(|_| open);
        let probing = outage.map(|outage| {
            outage.trying = true;
            now.saturating_duration_since(outage.since)
        });
        Ok(Attempt { breaker: self, probing })
    }

    /// The target answers.
    pub fn answered(&self) {
        let mut state = self.lock();
        let before = std::mem::take(&mut *state);
        drop(state);
        if let Some(outage) = before.outage.filter(|_| before.failures >= FAILURES) {
            let seconds = outage.since.elapsed().as_secs_f32();
            tracing::info!(seconds, "a database answers again: {}", outage.said);
        }
    }
}

/// An attempt at a session. Dropped without an outcome, it says nothing.
pub struct Attempt<'a> {
    breaker: &'a Breaker,
    /// During an outage: how old it is.
    probing: Option<Duration>,
}

impl Attempt<'_> {
    /// How much of `left` the attempt may take.
    pub fn patience(&self, left: Duration) -> Duration {
        self.probing.map_or(left, |age| left.min((age / ATTEMPT_SHARE).max(SHORTEST_ATTEMPT)))
    }

    /// The target answered, whatever it said.
    pub fn answered(self) {
        self.breaker.answered();
    }

    /// No session could be had. `jitter` is between 0 and 1.
    pub fn failed(self, error: &TargetError, now: Instant, jitter: f64) {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        let begins = state.failures == FAILURES;
        let outage =
            state.outage.get_or_insert_with(|| Outage { since: now, said: String::new(), next: now, trying: false });
        outage.said = error.to_string();
        let pause = (now.saturating_duration_since(outage.since) / SHARE_OF_OUTAGE).clamp(PAUSE.0, PAUSE.1);
        outage.next = now + pause.mul_f64(0.8 + 0.4 * jitter);
        drop(state);
        if begins {
            tracing::warn!("a database gives no sessions, requests are refused until it does: {error}");
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probing.is_some()
            && let Some(outage) = &mut self.breaker.lock().outage
        {
            outage.trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> TargetError {
        TargetError::Connect("connection refused".into())
    }

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.attempt(now).unwrap().failed(&down(), now, 0.5);
    }

    fn open(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        (0..FAILURES).for_each(|_| fail(&breaker, now));
        breaker
    }

    #[test]
    fn one_success_is_the_end_of_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..5 {
            fail(&breaker, now);
            fail(&breaker, now);
            assert!(breaker.check(now).is_ok(), "two failures are no outage");
            breaker.attempt(now).unwrap().answered();
        }
        fail(&breaker, now);
        fail(&breaker, now);
        fail(&breaker, now);
        assert!(breaker.check(now).is_err());
        breaker.attempt(now + PAUSE.1).unwrap().answered();
        assert!(breaker.check(now).is_ok());
        fail(&breaker, now);
        assert!(breaker.check(now).is_ok(), "counted anew");
    }

    #[test]
    fn refusals_say_what_and_how_long_and_when() {
        let begin = Instant::now();
        let refusal = open(begin).check(begin).unwrap_err();
        assert!(matches!(refusal, TargetError::Unavailable(_)));
        let text = refusal.to_string();
        assert_eq!(text, "no session could be had for 0.0s: connection refused; next try in 0.2s");
    }

    #[test]
    fn one_tries_at_a_time() {
        let begin = Instant::now();
        let breaker = open(begin);
        let later = begin + Duration::from_secs(1);
        let probe = breaker.attempt(later).unwrap();
        assert!(breaker.check(later).unwrap_err().to_string().ends_with("it is being tried right now"));
        assert!(breaker.attempt(later).is_err());
        drop(probe);
        let probe = breaker.attempt(later).expect("the caller of the other one left");
        probe.failed(&down(), later, 0.5);
        assert!(breaker.attempt(later).is_err());
        assert!(breaker.attempt(later + Duration::from_millis(300)).is_ok());
    }

    #[test]
    fn the_longer_the_outage_the_longer_the_pause() {
        let begin = Instant::now();
        for (age, soonest, latest) in [(1, 0.19, 0.31), (16, 0.79, 1.21), (600, 3.9, 6.1), (86_400, 3.9, 6.1)] {
            for jitter in [0.0, 1.0] {
                let breaker = open(begin);
                let now = begin + Duration::from_secs(age);
                breaker.attempt(now).unwrap().failed(&down(), now, jitter);
                let at = |seconds: f64| now + Duration::from_secs_f64(seconds);
                assert!(breaker.check(at(soonest)).is_err(), "{age}");
                assert!(breaker.check(at(latest)).is_ok(), "{age}");
            }
        }
    }

    #[test]
    fn attempts_are_short_at_first() {
        let begin = Instant::now();
        let breaker = open(begin);
        let left = Duration::from_secs(10);
        for (age, seconds) in [(1, 1), (20, 5), (100, 10)] {
            let now = begin + Duration::from_secs(age);
            assert_eq!(breaker.attempt(now).unwrap().patience(left), Duration::from_secs(seconds));
        }
        assert_eq!(Breaker::default().attempt(begin).unwrap().patience(left), left);
    }
}
