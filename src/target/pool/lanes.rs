//! Who may use a session next: two lanes, so that a flood in one of them does not stand in the way of the other.
//!
//! At most as many requests as there are sessions compete for them from the one lane, and one fewer from the other; the
//! rest wait in their own lane. So whoever is first in its lane waits behind a handful of others, whatever the flood, and
//! ends that hang never hold the last session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Limits;
use crate::target::TargetError;

/// How many may wait in a lane. Further ones would time out in any case, and cost memory until then.
const MOST_WAITING: usize = 1024;

/// What a session is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits for an answer: a mint, a renewal, a change of a password.
    Issue,
    /// A user ends, or is looked for.
    End,
}

/// The sessions that may be in use at once.
pub struct Lanes {
    all: Arc<Semaphore>,
    issue: Entrance,
    end: Entrance,
    limits: Limits,
}

struct Entrance {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Leave to use one session.
pub struct Permit {
    _session: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Entrance {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) }
    }
}

/// One that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// `None` if there are too many.
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let one = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(one)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    /// All sessions are free.
    pub fn new(limits: Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.max_open)),
            issue: Entrance::new(limits.max_open),
            // With a single session the lanes take turns.
            end: Entrance::new(limits.max_open.saturating_sub(1).max(1)),
            limits,
        }
    }

    /// Waits for a free session, until `deadline`.
    ///
    /// # Errors
    /// [`TargetError::Timeout`] past the deadline; [`TargetError::Unavailable`] if too many wait; [`TargetError::Connect`]
    /// once closed.
    pub async fn enter(&self, lane: Lane, deadline: Instant) -> Result<Permit, TargetError> {
        let entrance = match lane {
            Lane::Issue => &self.issue,
            Lane::End => &self.end,
        };
        let Some(_waiting) = Waiting::begin(&entrance.waiting) else {
            return Err(TargetError::Unavailable(format!(
                "{MOST_WAITING} requests wait for one of the {} sessions of this connection already: raise \
                 max_open_connections",
                self.limits.max_open
            )));
        };
        let entering = async {
            let place = entrance.places.clone().acquire_owned().await?;
            Ok::<_, AcquireError>(Permit { _session: self.all.clone().acquire_owned().await?, _place: place })
        };
        match tokio::time::timeout_at(deadline, entering).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(TargetError::Connect("the connection was closed".into())),
            Err(_elapsed) => Err(TargetError::Timeout(format!(
                "all {} sessions of this connection were busy for {}s: raise max_open_connections or connect_timeout",
                self.limits.max_open,
                self.limits.connect_timeout.as_secs_f32(),
            ))),
        }
    }

    /// How many sessions are in use, and how many requests wait for one in each lane.
    pub fn vitals(&self) -> (usize, [usize; 2]) {
        let in_use = self.limits.max_open.saturating_sub(self.all.available_permits());
        // Who has just been let in counts as waiting for an instant.
        (in_use, [&self.issue, &self.end].map(|entrance| entrance.waiting.load(Ordering::Relaxed)))
    }

    /// Lets nobody in any more; who waits is sent away.
    pub fn close(&self) {
        for semaphore in [&self.all, &self.issue.places, &self.end.places] {
            semaphore.close();
        }
    }

    /// True after [`Lanes::close`].
    pub fn is_closed(&self) -> bool {
        self.all.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lanes(max_open: i64) -> Arc<Lanes> {
        Arc::new(Lanes::new(Limits::new(max_open, 0, Duration::ZERO, Duration::from_secs(5))))
    }

    async fn soon(lanes: &Lanes, lane: Lane) -> Result<Permit, TargetError> {
        lanes.enter(lane, Instant::now() + Duration::from_millis(20)).await
    }

    /// Starts `count` requests in a lane, each of which holds its session for a moment and then says so.
    fn flood(lanes: &Arc<Lanes>, lane: Lane, count: usize, hold: Duration) -> Arc<AtomicUsize> {
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let (lanes, served) = (lanes.clone(), served.clone());
            tokio::spawn(async move {
                let permit = lanes.enter(lane, Instant::now() + Duration::from_secs(30)).await.unwrap();
                tokio::time::sleep(hold).await;
                served.fetch_add(1, Ordering::SeqCst);
                drop(permit);
            });
        }
        served
    }

    #[tokio::test]
    async fn ends_never_hold_the_last_session() {
        let lanes = lanes(3);
        let held = [soon(&lanes, Lane::End).await.unwrap(), soon(&lanes, Lane::End).await.unwrap()];
        assert!(soon(&lanes, Lane::End).await.is_err());
        let mint = soon(&lanes, Lane::Issue).await.unwrap();
        let refused = soon(&lanes, Lane::Issue).await.err().unwrap().to_string();
        assert!(refused.contains("max_open_connections") && refused.contains("connect_timeout"), "{refused}");
        drop(held);
        let all = [soon(&lanes, Lane::Issue).await.unwrap(), soon(&lanes, Lane::Issue).await.unwrap(), mint];
        assert!(soon(&lanes, Lane::End).await.is_err(), "mints may use every session that is free");
        drop(all);
    }

    #[tokio::test]
    async fn no_lane_starves_the_other() {
        let hold = Duration::from_millis(2);
        for max_open in [1, 2, 4] {
            for (flooded, other) in [(Lane::End, Lane::Issue), (Lane::Issue, Lane::End)] {
                let lanes = lanes(max_open);
                let served = flood(&lanes, flooded, 1000, hold);
                let queue = if flooded == Lane::End { &lanes.end } else { &lanes.issue };
                while queue.waiting.load(Ordering::SeqCst) < 900 {
                    tokio::task::yield_now().await;
                }
                for _ in 0..5 {
                    let before = served.load(Ordering::SeqCst);
                    let permit = lanes.enter(other, Instant::now() + Duration::from_secs(30)).await.unwrap();
                    let behind = served.load(Ordering::SeqCst) - before;
                    assert!(behind <= 2 * max_open as usize, "{flooded:?} of {max_open}: {behind} went first");
                    drop(permit);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_queue_that_is_too_long_is_told_so_at_once() {
        let lanes = lanes(1);
        let held = soon(&lanes, Lane::Issue).await.unwrap();
        let served = flood(&lanes, Lane::Issue, MOST_WAITING, Duration::ZERO);
        while lanes.issue.waiting.load(Ordering::SeqCst) < MOST_WAITING {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        let refused = lanes.enter(Lane::Issue, begin + Duration::from_secs(60)).await.err().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert!(refused.to_string().contains("max_open_connections"), "{refused}");
        drop(held);
        let ended = lanes.enter(Lane::End, begin + Duration::from_secs(60)).await;
        assert!(ended.is_ok(), "the other lane has a queue of its own");
        drop(ended);
        while served.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(lanes.enter(Lane::Issue, begin + Duration::from_secs(60)).await.is_ok(), "the queue has drained");
    }
}
