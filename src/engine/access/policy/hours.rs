//! `Mon-Fri 07:00-19:00 Europe/Berlin`: when access may be given.

use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::engine::schedule;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days of the week, a time of the day, and whose clock.
#[derive(Debug, Clone)]
pub struct Hours {
    /// Monday first.
    days: [bool; 7],
    /// Minutes of the day; an end before the beginning is on the next day.
    from: u16,
    to: u16,
    zone: TimeZone,
}

impl Hours {
    /// Days (`Mon-Fri`, `Sat,Sun`, `*`), times (`07:00-19:00`; an end of `24:00` is midnight), and a time zone, UTC if
    /// there is none.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (Some(days), Some(times), zone, None) = (words.next(), words.next(), words.next(), words.next()) else {
            return Err("expected days, times and a time zone: \"Mon-Fri 07:00-19:00 Europe/Berlin\"".into());
        };
        let (from, to) = times.split_once('-').ok_or("expected times as in 07:00-19:00")?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == to || from == 24 * 60 {
            return Err("the times leave nothing".into());
        }
        Ok(Self { days: parse_days(days)?, from, to, zone: schedule::zone(zone.unwrap_or_default())? })
    }

    /// Whether `now` is one of them.
    pub fn are_now(&self, now: SystemTime) -> bool {
        let Ok(now) = Timestamp::try_from(now) else { return false };
        let local = Zoned::new(now, self.zone.clone());
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0);
        let today = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0);
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            self.days[today] && (self.from..self.to).contains(&minute)
        } else {
            (self.days[today] && minute >= self.from) || (self.days[yesterday] && minute < self.to)
        }
    }
}

fn minutes(text: &str) -> Result<u16, String> {
    let wrong = || format!("{text:?} is no time of the day");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let (hour, minute): (u16, u16) = (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
    if minute < 60 && (hour < 24 || (hour, minute) == (24, 0)) { Ok(hour * 60 + minute) } else { Err(wrong()) }
}

fn parse_days(text: &str) -> Result<[bool; 7], String> {
    if text == "*" {
        return Ok([true; 7]);
    }
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("{name:?} is no day: Mon, Tue, Wed, Thu, Fri, Sat, Sun"))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        loop {
            days[at] = true;
            if at == last {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: &str, time: &str) -> bool {
        Hours::parse(hours).unwrap().are_now(time.parse::<Timestamp>().unwrap().into())
    }

    #[test]
    fn hours_follow_the_clock_of_their_zone_also_when_it_is_changed() {
        let office = "Mon-Fri 07:00-19:00 Europe/Berlin";
        for (time, open) in [
            ("2026-11-20T05:59:00Z", false),
            ("2026-11-20T06:00:00Z", true),
            ("2026-11-20T17:59:00Z", true),
            ("2026-11-20T18:00:00Z", false),
            ("2026-11-21T12:00:00Z", false),
            // Summer time ends on 2026-10-25: on Friday before, 05:00 UTC is 07:00; on Monday after, it is 06:00.
            ("2026-10-23T05:00:00Z", true),
            ("2026-10-26T05:00:00Z", false),
            ("2026-10-26T06:00:00Z", true),
            // And begins on 2026-03-29.
            ("2026-03-27T05:30:00Z", false),
            ("2026-03-30T05:30:00Z", true),
        ] {
            assert_eq!(at(office, time), open, "{time}");
        }
        for (time, open) in [
            ("2026-11-20T21:59:00Z", false),
            ("2026-11-20T22:00:00Z", true),
            ("2026-11-21T05:59:00Z", true),
            ("2026-11-21T22:30:00Z", false),
            ("2026-11-20T05:00:00Z", false),
        ] {
            assert_eq!(at("Fri 22:00-06:00", time), open, "{time}");
        }
        assert!(at("* 00:00-24:00", "2026-11-22T23:59:59Z"));
        assert!(
            at("Sat-Mon 00:00-24:00", "2026-11-22T10:00:00Z") && !at("Sat-Mon 00:00-24:00", "2026-11-24T10:00:00Z")
        );
    }

    #[test]
    fn what_is_unclear_is_refused() {
        for text in [
            "",
            "Mon",
            "Mon 7-19",
            "Mon 07:00-25:00",
            "Xyz 07:00-19:00",
            "Mon 07:00-07:00",
            "Mon 07:00-08:00 No/Where",
            "Mon 07:00-08:00 UTC more",
            "Mon 24:00-08:00",
            "Mon 07:60-08:00",
        ] {
            assert!(Hours::parse(text).is_err(), "{text}");
        }
    }
}
