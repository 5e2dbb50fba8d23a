//! What time it is when users are made, and when they are to end because of it.
//!
//! Ends are written down by the wall clock, and a wall clock can be set. Whoever ended users by it alone would end them all
//! when somebody sets it forward, by mistake, or because it was wrong before: then the ends of all users were written down
//! by the wrong clock. So it is compared with the clock of this process, which nobody sets, and with that of the database.
//! A clock that is set back counts at once. One that is set forward counts for new users as soon as the database confirms
//! it, and for the end of users only once those that were made before must be gone. The host's own leases are not ours to
//! judge: what it revokes is ended whatever our clocks say.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::port::Clock;

/// Clocks that differ by no more than this agree.
const TOLERANCE: Duration = Duration::from_secs(60);

/// How far the wall clock may run from the steady one between two looks without having been set.
const DRIFT: Duration = Duration::from_secs(10);

/// A clock that was set forward and that nobody confirms is believed after so long, when users are made. When they end,
/// not before the longest lease is over.
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
    /// How far it was ahead of a database that agreed with it, in milliseconds.
    agreed: Option<i64>,
    /// When the wall clock was first seen to have been set forward since.
    set: Option<Duration>,
    /// The database says the same of it.
    confirmed: bool,
}

impl Seen {
    fn at(wall: SystemTime, steady: Duration, agreed: Option<i64>) -> Self {
        Self { wall, steady, agreed, set: None, confirmed: false }
    }

    /// What the wall clock would say if nobody had set it.
    fn unset(&self, steady: Duration) -> SystemTime {
        self.wall + steady.saturating_sub(self.steady)
    }
}

impl Clocks {
    /// Of a process that begins now.
    pub fn new(clock: &dyn Clock) -> Self {
        let (wall, steady) = (clock.now(), clock.steady());
        Self { born: steady, seen: Mutex::new(Seen::at(wall, steady, None)) }
    }

    /// How long the mount has been here, by the steady clock.
    pub fn age(&self, clock: &dyn Clock) -> Duration {
        clock.steady().saturating_sub(self.born)
    }

    /// True as long as requests of a dead process may come again.
    pub fn is_young(&self, clock: &dyn Clock) -> bool {
        self.age(clock) < YOUNG
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which ends are written down.
    pub fn stamp(&self, clock: &dyn Clock) -> SystemTime {
        let (wall, steady) = (clock.now(), clock.steady());
        let mut seen = self.seen();
        let unset = seen.unset(steady);
        if wall <= unset + DRIFT {
            let agreed = seen.agreed.filter(|_| wall + DRIFT >= unset);
            *seen = Seen::at(wall, steady, agreed);
            return wall;
        }
        let since = *seen.set.get_or_insert(steady);
        if seen.confirmed || steady.saturating_sub(since) >= BELIEVED { wall } else { unset }
    }

    /// The time by which users end, given the time by the database's clock if it has one, and how long the longest lease is.
    pub fn certain(&self, clock: &dyn Clock, database: Option<SystemTime>, longest: Duration) -> SystemTime {
        let (wall, steady) = (clock.now(), clock.steady());
        let agrees = database.map(|database| apart(database, wall) <= TOLERANCE);
        let ahead = database.filter(|_| agrees == Some(true)).map(|database| ahead(wall, database));
        let mut seen = self.seen();
        let unset = seen.unset(steady);
        let is_forward = wall > unset + DRIFT;
        if is_forward {
            let since = *seen.set.get_or_insert(steady);
            seen.confirmed = agrees.unwrap_or(seen.confirmed);
            // A machine that slept, and with it its steady clock: what was written down before is right. The database may
            // be off by as much as it was, or it is the wall clock that has moved.
            let slept =
                seen.agreed.zip(ahead).is_some_and(|(before, now)| before.abs_diff(now) <= DRIFT.as_millis() as u64);
            if !slept && steady.saturating_sub(since) < longest.max(BELIEVED) {
                return earlier(unset, database);
            }
        }
        // Slow corrections add up to no jump.
        let agreed = match database {
            Some(_) => ahead,
            None => seen.agreed.filter(|_| apart(wall, unset) <= DRIFT),
        };
        *seen = Seen::at(wall, steady, agreed);
        earlier(wall, database)
    }
}

/// A database that is clearly behind counts, one that is ahead does not.
fn earlier(time: SystemTime, database: Option<SystemTime>) -> SystemTime {
    match database {
        Some(database) if apart(database, time) > TOLERANCE => time.min(database),
        _ => time,
    }
}

/// By how many milliseconds.
fn ahead(one: SystemTime, other: SystemTime) -> i64 {
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    one.duration_since(other).map_or_else(|e| -milliseconds(e.duration()), milliseconds)
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

    const LONGEST: Duration = Duration::from_secs(7200);

    #[test]
    fn time_that_passes_is_certain_and_time_that_was_set_is_not() {
        for jump in [HOUR, 10 * 365 * 24 * HOUR] {
            let (times, clocks) = (Times::default(), Clocks::new(&Times::default()));
            times.pass(100);
            assert_eq!(clocks.certain(&times, None, LONGEST), at(100));
            assert_eq!(clocks.certain(&times, Some(at(90)), LONGEST), at(100), "a database may be a little off");
            times.set(jump);
            times.pass(5);
            assert_eq!(clocks.certain(&times, Some(at(110)), LONGEST), at(105));
            assert_eq!(clocks.certain(&times, None, LONGEST), at(105));
            assert_eq!(clocks.certain(&times, Some(at(-9 * HOUR)), LONGEST), at(-9 * HOUR), "nobody knows");
            assert_eq!(clocks.stamp(&times), at(105));
            times.pass(600);
            assert_eq!(clocks.stamp(&times), at(705 + jump), "it stayed that way");
            assert_eq!(clocks.certain(&times, None, LONGEST), at(705));
            times.pass(6600);
            assert_eq!(clocks.certain(&times, None, LONGEST), at(7305 + jump), "whoever was there before is gone");
        }
    }

    #[test]
    fn a_machine_that_slept_has_missed_something() {
        let (times, clocks) = (Times::default(), Clocks::new(&Times::default()));
        times.pass(100);
        assert_eq!(clocks.certain(&times, Some(at(100)), LONGEST), at(100));
        times.set(HOUR);
        assert_eq!(clocks.certain(&times, Some(at(100 + HOUR)), LONGEST), at(100 + HOUR));
        assert_eq!(clocks.stamp(&times), at(100 + HOUR));
    }

    /// Those that were made by the wrong clock are judged by it, new ones are made by the right one.
    #[test]
    fn a_clock_that_was_behind_is_corrected() {
        for by_stamp in [true, false] {
            let (times, clocks) = (Times::default(), Clocks::new(&Times::default()));
            times.pass(100);
            clocks.certain(&times, Some(at(100)), LONGEST);
            times.set(-HOUR);
            // Whoever looks first sees it.
            match by_stamp {
                true => assert_eq!(clocks.stamp(&times), at(100 - HOUR)),
                false => assert_eq!(clocks.certain(&times, Some(at(100)), LONGEST), at(100 - HOUR)),
            }
            times.pass(10);
            times.set(HOUR);
            assert_eq!(clocks.stamp(&times), at(110 - HOUR), "nobody has confirmed it yet");
            assert_eq!(clocks.certain(&times, Some(at(110)), LONGEST), at(110 - HOUR));
            assert_eq!(clocks.stamp(&times), at(110));
            times.pass(7200);
            assert_eq!(clocks.certain(&times, Some(at(7310)), LONGEST), at(7310));
        }
    }

    #[test]
    fn a_database_that_is_behind_counts_and_one_that_is_ahead_does_not() {
        let (times, clocks) = (Times::default(), Clocks::new(&Times::default()));
        times.pass(50);
        assert_eq!(clocks.certain(&times, Some(at(50 + HOUR)), LONGEST), at(50));
        assert_eq!(clocks.certain(&times, Some(at(50 - HOUR)), LONGEST), at(50 - HOUR));
    }

    #[test]
    fn a_clock_that_is_corrected_slowly_is_believed() {
        let (times, clocks) = (Times::default(), Clocks::new(&Times::default()));
        for _ in 0..100 {
            times.pass(60);
            times.set(5);
            clocks.certain(&times, None, LONGEST);
        }
        assert_eq!(clocks.certain(&times, None, LONGEST), at(6500));
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
