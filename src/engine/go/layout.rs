//! Go's time layouts: a time is described by how the moment Mon Jan 2 15:04:05 MST 2006 would look.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// What one piece of a layout asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    MonthName,
    MonthShort,
    Month(usize),
    WeekdayName,
    WeekdayShort,
    Day(usize),
    DayPadded,
    YearDay(char),
    Hour24,
    Hour12(usize),
    Minute(usize),
    Second(usize),
    Year,
    YearShort,
    UpperNoon,
    LowerNoon,
    ZoneName,
    /// An offset from UTC, as its text in UTC.
    Offset(&'static str),
    /// Separator, number of digits, whether trailing zeros go.
    Fraction(char, usize, bool),
}

/// The pieces that are recognised by their text alone, the longer before the shorter.
const FIXED: &[(&str, Piece)] = &[
    ("January", Piece::MonthName),
    ("Monday", Piece::WeekdayName),
    ("MST", Piece::ZoneName),
    ("002", Piece::YearDay('0')),
    ("01", Piece::Month(2)),
    ("02", Piece::Day(2)),
    ("03", Piece::Hour12(2)),
    ("04", Piece::Minute(2)),
    ("05", Piece::Second(2)),
    ("06", Piece::YearShort),
    ("15", Piece::Hour24),
    ("1", Piece::Month(1)),
    ("2006", Piece::Year),
    ("2", Piece::Day(1)),
    ("__2", Piece::YearDay(' ')),
    ("_2", Piece::DayPadded),
    ("3", Piece::Hour12(1)),
    ("4", Piece::Minute(1)),
    ("5", Piece::Second(1)),
    ("PM", Piece::UpperNoon),
    ("pm", Piece::LowerNoon),
    ("-070000", Piece::Offset("+000000")),
    ("-07:00:00", Piece::Offset("+00:00:00")),
    ("-0700", Piece::Offset("+0000")),
    ("-07:00", Piece::Offset("+00:00")),
    ("-07", Piece::Offset("+00")),
    ("Z070000", Piece::Offset("Z")),
    ("Z07:00:00", Piece::Offset("Z")),
    ("Z0700", Piece::Offset("Z")),
    ("Z07:00", Piece::Offset("Z")),
    ("Z07", Piece::Offset("Z")),
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// `time` in UTC by a Go layout. What the layout does not describe is copied as it is.
pub fn format(layout: &str, time: SystemTime) -> String {
    // A clock outside the years that the calendar knows is not a clock: the epoch is as good as any answer.
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC).datetime();
    let mut out = String::with_capacity(layout.len());
    let mut rest = layout;
    while let Some(c) = rest.chars().next() {
        // `_2006` is a literal underscore before a year, not a padded day before `006`.
        let underscored_year = rest.starts_with("_2006");
        match piece(rest).filter(|_| !underscored_year) {
            Some((piece, length)) => {
                write(&mut out, piece, time);
                rest = &rest[length..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

/// The piece that `rest` starts with, and its length in bytes.
fn piece(rest: &str) -> Option<(Piece, usize)> {
    if let Some((text, piece)) = FIXED.iter().find(|(text, _)| rest.starts_with(text)) {
        return Some((*piece, text.len()));
    }
    // `Jan` and `Mon` count only where no lower-case letter follows: `Month` is a word.
    for (text, piece) in [("Jan", Piece::MonthShort), ("Mon", Piece::WeekdayShort)] {
        if let Some(after) = rest.strip_prefix(text) {
            return (!after.starts_with(|c: char| c.is_ascii_lowercase())).then_some((piece, 3));
        }
    }
    let after = rest.strip_prefix(['.', ','])?;
    let digit = after.chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let digits = after.len() - after.trim_start_matches(digit).len();
    if after[digits..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let separator = if rest.starts_with('.') { '.' } else { ',' };
    Some((Piece::Fraction(separator, digits, digit == '9'), 1 + digits))
}

fn write(out: &mut String, piece: Piece, time: DateTime) {
    let month = MONTHS[usize::from(time.month().unsigned_abs()).saturating_sub(1) % 12];
    let weekday = WEEKDAYS[usize::from(time.weekday().to_monday_zero_offset().unsigned_abs()) % 7];
    let hour12 = match time.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    let noon = if time.hour() < 12 { ("AM", "am") } else { ("PM", "pm") };
    let text = match piece {
        Piece::MonthName => month.to_owned(),
        Piece::MonthShort => month[..3].to_owned(),
        Piece::Month(width) => format!("{:0width$}", time.month()),
        Piece::WeekdayName => weekday.to_owned(),
        Piece::WeekdayShort => weekday[..3].to_owned(),
        Piece::Day(width) => format!("{:0width$}", time.day()),
        Piece::DayPadded => format!("{:2}", time.day()),
        Piece::YearDay('0') => format!("{:03}", time.day_of_year()),
        Piece::YearDay(_) => format!("{:3}", time.day_of_year()),
        Piece::Hour24 => format!("{:02}", time.hour()),
        Piece::Hour12(width) => format!("{hour12:0width$}"),
        Piece::Minute(width) => format!("{:0width$}", time.minute()),
        Piece::Second(width) => format!("{:0width$}", time.second()),
        Piece::Year => format!("{:04}", time.year()),
        Piece::YearShort => format!("{:02}", time.year().rem_euclid(100)),
        Piece::UpperNoon => noon.0.to_owned(),
        Piece::LowerNoon => noon.1.to_owned(),
        Piece::ZoneName => "UTC".to_owned(),
        Piece::Offset(text) => text.to_owned(),
        Piece::Fraction(separator, digits, trim) => fraction(time, separator, digits, trim),
    };
    out.push_str(&text);
}

fn fraction(time: DateTime, separator: char, digits: usize, trim: bool) -> String {
    let mut text = format!("{separator}{:09}", time.subsec_nanosecond());
    text.truncate(1 + digits.min(9));
    if trim {
        let kept = text.trim_end_matches('0');
        return kept.strip_suffix(separator).unwrap_or(kept).to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    /// The text that the built-in engine gave for this layout at this moment.
    #[test]
    fn every_piece_prints_as_go_prints_it() {
        let layout = "Mon Monday Jan January 1 01 _1 2 02 _2 __2 002 3 03 15 4 04 5 05 PM pm 06 2006 MST Z0700 Z07:00 Z07 \
                      -0700 -07:00 -07 .000 .000000 .000000000 .999 ,999 -07:00:00 Z070000 Z07:00:00 -070000";
        let want = "Sun Sunday Nov November 11 11 _11 22 22 22 326 326 4 04 04 51 51 31 31 AM am 26 2026 UTC Z Z Z \
                    +0000 +00:00 +00 .493 .493907 .493907247 .493 ,493 +00:00:00 Z Z +000000";
        assert_eq!(format(layout, at(1_795_323_091, 493_907_247)), want);
    }

    #[test]
    fn common_layouts() {
        let time = at(1_795_323_091, 507_000_000);
        for (layout, want) in [
            ("2006-01-02T15:04:05Z07:00", "2026-11-22T04:51:31Z"),
            ("20060102150405", "20261122045131"),
            ("15.04.05.000 ,000 05.00", "04.51.31.507 ,507 31.50"),
            ("abc", "abc"),
            ("", ""),
            ("_2006", "_2026"),
            ("Month Januar", "Month Januar"),
            ("3:04PM", "4:51AM"),
            ("05.0001", "31.0011"),
            ("05.", "31."),
            ("é2006", "é2026"),
        ] {
            assert_eq!(format(layout, time), want, "{layout}");
        }
    }

    #[test]
    fn small_numbers_are_padded() {
        // 1970-01-02 12:03:04
        let time = at(86_400 + 12 * 3600 + 3 * 60 + 4, 0);
        assert_eq!(
            format("1 01|2 02 _2|002 __2|3 03 15|4 04|5 05|06|PM|.999 .000", time),
            "1 01|2 02  2|002   2|12 12 12|3 03|4 04|70|PM| .000"
        );
    }

    proptest! {
        #[test]
        fn any_layout_and_any_time_give_a_text(layout in ".*", seconds in 0u64..=u64::MAX / 4, before: bool) {
            let span = Duration::from_secs(seconds);
            let time = if before { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
            let _ = format(&layout, time.unwrap_or(UNIX_EPOCH));
        }
    }
}
