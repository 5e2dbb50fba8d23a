//! What time it is when users are to end because of it.
//!
//! Ends are written down by the wall clock, and a wall clock can be set. Whoever ended users by it alone would end them all
//! when somebody sets it forward by mistake. So it is compared with the clock of this process, which nobody sets, and with
//! that of the database; what they do not agree about counts as not yet. The host's own leases are not ours to judge: what
//! it revokes is ended whatever our clocks say.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::port::Clock;

/// Clocks that differ by no more than this agree.
const TOLERANCE: Duration = Duration::from_secs(60);

/// How far the wall clock may run from the steady one between two looks without having been set.
const DRIFT: Duration = Duration::from_secs(10);

/// A clock that was set is believed after so long, when the host has long ended what it thinks is over.
pub const BELIEVED: Duration = Duration::from_secs(600);

/// A process that is younger than this may be asked for what a dead one was about to do: the host sends its requests again
/// as soon as there is another.
const YOUNG: Duration = Duration::from_secs(60);

/// The clocks of a mount.
#[derive(Debug)]
pub struct Clocks {
    /// By the steady clock.
    born: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// A wall clock that is believed, and what the steady one said then.
    wall: SystemTime,
    steady: Duration,
    /// When the wall clock was first seen to have been set since.
    set: Option<Duration>,
}

impl Clocks {
    /// Of a process that begins now.
    pub fn new(clock: &dyn Clock) -> Self {
        let (wall, steady) = (clock.now(), clock.steady());
        Self { born: steady, seen: Mutex::new(Seen { wall, steady, set: None }) }
    }

    /// How long the mount has been here, by the steady clock.
    pub fn age(&self, clock: &dyn Clock) -> Duration {
        clock.steady().saturating_sub(self.born)
    }

    /// True as long as requests of a dead process may come again.
    pub fn is_young(&self, clock: &dyn Clock) -> bool {
        self.age(clock) < YOUNG
    }

    /// The latest time that no clock denies, given the time by the database's if it has one.
    pub fn certain(&self, clock: &dyn Clock, database: Option<SystemTime>) -> SystemTime {
        let (wall, steady) = (clock.now(), clock.steady());
        let by_steady = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let by_steady = seen.wall + steady.saturating_sub(seen.steady);
            if apart(wall, by_steady) <= DRIFT {
                // Slow corrections add up to no jump.
                *seen = Seen { wall, steady, set: None };
            } else if steady.saturating_sub(*seen.set.get_or_insert(steady)) >= BELIEVED {
                *seen = Seen { wall, steady, set: None };
                return certain(wall, wall, database);
            }
            by_steady
        };
        certain(wall, by_steady, database)
    }
}

fn certain(wall: SystemTime, by_steady: SystemTime, database: Option<SystemTime>) -> SystemTime {
    if apart(wall, by_steady) <= DRIFT {
        // The database says nothing, or the same, or something else: then the earlier of the two.
        return match database {
            Some(database) if apart(database, wall) > TOLERANCE => wall.min(database),
            _ => wall,
        };
    }
    match database {
        Some(database) if apart(database, by_steady) <= TOLERANCE => by_steady.min(database),
        // A machine that slept: its steady clock slept, too.
        Some(database) if apart(database, wall) <= TOLERANCE => wall.min(database),
        Some(database) => wall.min(by_steady).min(database),
        None => wall.min(by_steady),
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).or_else(|_| other.duration_since(one)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    const HOUR: i64 = 3600;

    /// Seconds since the beginning, by each clock.
    #[derive(Default)]
    struct Times {
        wall: AtomicI64,
        steady: AtomicI64,
    }

    fn at(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(1_800_000_000 + seconds).unwrap())
    }

    impl Clock for Times {
        fn now(&self) -> SystemTime {
            at(self.wall.load(Ordering::SeqCst))
        }
        fn steady(&self) -> Duration {
            Duration::from_secs(u64::try_from(self.steady.load(Ordering::SeqCst)).unwrap())
        }
    }

    impl Times {
        fn pass(&self, seconds: i64) {
            self.wall.fetch_add(seconds, Ordering::SeqCst);
            self.steady.fetch_add(seconds, Ordering::SeqCst);
        }
        fn set(&self, by: i64) {
            self.wall.fetch_add(by, Ordering::SeqCst);
        }
    }

    #[test]
    fn time_that_passes_is_certain_and_time_that_was_set_is_not() {
        for jump in [-10 * 365 * 24 * HOUR, -HOUR, HOUR, 10 * 365 * 24 * HOUR] {
            let times = Times::default();
            let clocks = Clocks::new(&times);
            times.pass(100);
            assert_eq!(clocks.certain(&times, None), at(100));
            assert_eq!(clocks.certain(&times, Some(at(90))), at(100), "the database's clock may be a little off");
            times.set(jump);
            times.pass(5);
            assert_eq!(clocks.certain(&times, Some(at(110))), at(105), "two of three");
            assert_eq!(clocks.certain(&times, None), at(105 + jump.min(0)), "the earlier");
            assert_eq!(clocks.certain(&times, Some(at(105 + jump))), at(105 + jump), "the machine slept");
            assert_eq!(clocks.certain(&times, Some(at(-9 * HOUR))), at((105 + jump).min(-9 * HOUR)), "nobody knows");
            times.pass(600);
            assert_eq!(clocks.certain(&times, None), at(705 + jump), "it stayed that way");
        }
    }

    #[test]
    fn a_database_that_is_behind_counts_and_one_that_is_ahead_does_not() {
        let times = Times::default();
        let clocks = Clocks::new(&times);
        times.pass(50);
        assert_eq!(clocks.certain(&times, Some(at(50 + HOUR))), at(50));
        assert_eq!(clocks.certain(&times, Some(at(50 - HOUR))), at(50 - HOUR));
    }

    #[test]
    fn a_clock_that_is_corrected_slowly_is_believed() {
        let times = Times::default();
        let clocks = Clocks::new(&times);
        for _ in 0..100 {
            times.pass(60);
            times.set(5);
            clocks.certain(&times, None);
        }
        assert_eq!(clocks.certain(&times, None), at(6500));
    }

    #[test]
    fn a_process_is_young_for_a_minute_whatever_is_set() {
        let times = Times::default();
        let clocks = Clocks::new(&times);
        times.set(9 * HOUR);
        times.pass(59);
        assert!(clocks.is_young(&times));
        times.pass(1);
        assert!(!clocks.is_young(&times));
    }
}
