//! When an account's password is to change next.

pub mod rule;
pub mod timing;

use std::time::{Duration, SystemTime};

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use sha2::{Digest, Sha256};

/// The rule.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// So long after the last change.
    Period(Duration),
    /// At the times of a cron expression, and for `window` after each; zero for no limit.
    Cron {
        /// The times.
        cron: Box<Cron>,
        /// By whose clock.
        zone: TimeZone,
        /// How long a missed time is made up for.
        window: Duration,
    },
}

/// A cron expression of five fields: minute, hour, day of the month, month, day of the week.
///
/// # Errors
/// What is wrong with it.
pub fn cron(text: &str) -> Result<Cron, String> {
    // The parser would take further fields, and other seconds than zero.
    if text.split_whitespace().count() != 5 && !text.trim_start().starts_with('@') {
        return Err(format!("expected exactly 5 fields, found {}", text.split_whitespace().count()));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser.parse(text).map_err(|e| e.to_string())?;
    let from = Zoned::new(Timestamp::UNIX_EPOCH, TimeZone::UTC);
    cron.find_next_occurrence(&from, false).map_err(|_| "there is no such time".to_owned())?;
    Ok(cron)
}

/// The time zone of that name (`Europe/Berlin`); empty for UTC.
///
/// # Errors
/// A text that names the zone.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    match name {
        "" | "UTC" => Ok(TimeZone::UTC),
        name => TimeZone::get(name).map_err(|_| format!("unknown time zone {name:?}")),
    }
}

impl Schedule {
    /// The first time after `from`, which is the last change (or, of a cron expression, any time). `None` if the
    /// calendar ends before.
    pub fn next(&self, from: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Period(period) => from.checked_add(*period),
            Self::Cron { cron, zone, .. } => {
                let from = Zoned::new(Timestamp::try_from(from).ok()?, zone.clone());
                cron.find_next_occurrence(&from, false).ok().map(|next| next.timestamp().into())
            }
        }
    }

    /// What becomes of a change that was due at `due`, now that it is `now`: the last time of the expression that may
    /// still be made up for, else the next one.
    pub fn revised(&self, due: SystemTime, now: SystemTime) -> SystemTime {
        let Self::Cron { cron, zone, window } = self else { return due };
        let open = |due: SystemTime| due.checked_add(*window).is_none_or(|end| end >= now);
        if window.is_zero() || open(due) {
            return due;
        }
        let last = Timestamp::try_from(now).ok().and_then(|now| {
            let last = cron.find_previous_occurrence(&Zoned::new(now, zone.clone()), true).ok()?;
            Some(SystemTime::from(last.timestamp()))
        });
        last.filter(|last| open(*last)).or_else(|| self.next(now)).unwrap_or(due)
    }
}

/// A share of `most`, decided by a name: accounts that were written together do not change their passwords together.
pub fn share(of: &str, most: Duration) -> Duration {
    let mut share = [0; 4];
    share.copy_from_slice(&Sha256::digest(of.as_bytes())[..4]);
    most.mul_f64(f64::from(u32::from_be_bytes(share)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    fn schedule(text: &str, place: &str, window: u64) -> Schedule {
        Schedule::Cron {
            cron: Box::new(cron(text).unwrap()),
            zone: zone(place).unwrap(),
            window: Duration::from_secs(window),
        }
    }

    #[test]
    fn times_are_those_of_the_expression_and_the_zone() {
        for (text, zone, from, expected) in [
            ("0 0 * * SAT", "", "2026-11-22T02:00:00Z", "2026-11-28T00:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-11-22T02:15:00Z", "2026-11-22T02:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-11-22T02:00:00Z", "2026-11-23T01:30:00Z"),
            ("0 12 31 12 *", "", "2026-12-31T12:00:00Z", "2027-12-31T12:00:00Z"),
            ("@daily", "", "2026-11-22T02:15:00Z", "2026-11-23T00:00:00Z"),
        ] {
            assert_eq!(schedule(text, zone, 0).next(at(from)), Some(at(expected)), "{text} {zone}");
        }
    }

    #[test]
    fn what_is_no_expression_of_five_fields_is_refused() {
        for text in ["", "* * * *", "* * * * * *", "61 * * * *", "a b c d e", "0 0 30 2 *"] {
            assert!(cron(text).is_err(), "{text}");
        }
        assert!(zone("Nowhere/City").is_err());
    }

    #[test]
    fn a_missed_window_waits_for_the_next_time() {
        let nightly = schedule("0 1 * * *", "", 3600);
        let due = at("2026-11-22T01:00:00Z");
        assert_eq!(nightly.revised(due, at("2026-11-22T01:59:00Z")), due);
        assert_eq!(nightly.revised(due, at("2026-11-22T02:01:00Z")), at("2026-11-23T01:00:00Z"));
        assert_eq!(nightly.revised(due, at("2026-11-23T01:01:00Z")), at("2026-11-23T01:00:00Z"), "is here");
        assert_eq!(schedule("0 1 * * *", "", 0).revised(due, at("2026-12-22T02:01:00Z")), due, "no window, no limit");
        let hourly = Schedule::Period(Duration::from_secs(3600));
        assert_eq!(hourly.next(due), Some(at("2026-11-22T02:00:00Z")));
        assert_eq!(hourly.revised(due, at("2027-01-01T00:00:00Z")), due);
    }
}
