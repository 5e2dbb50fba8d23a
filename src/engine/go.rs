//! Go's notion of a duration: how the host's clients write one, and how the host prints one.
//!
//! The grammar and the error texts are those of Go's `time.ParseDuration` and of the host's wrapper around it, because
//! clients and their tests depend on both.

pub mod instant;
pub mod layout;

use std::fmt;
use std::time::Duration;

use serde_json::{Number, Value};

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Why a text or value is not a duration. The texts are Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not follow the grammar, or its parts are too large.
    #[error("time: invalid duration {}", Quoted(.0))]
    Invalid(String),
    /// A number without a unit, in a text that is not a whole number of seconds.
    #[error("time: missing unit in duration {}", Quoted(.0))]
    MissingUnit(String),
    /// A unit other than ns, us, ms, s, m, h.
    #[error("time: unknown unit {} in duration {}", Quoted(.unit), Quoted(.text))]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// What stands before a `d` is not a whole number.
    #[error("strconv.ParseInt: parsing {0:?}: invalid syntax")]
    Days(String),
    /// What stands before a `d` has too many digits.
    #[error("strconv.ParseInt: parsing {0:?}: value out of range")]
    DaysRange(String),
    /// More than about 292 years.
    #[error("multiplication of durations resulted in overflow, one operand may be too large")]
    Overflow,
    /// A boolean, a list or an object.
    #[error("could not parse duration from input")]
    NotADuration,
}

/// A Go `time.Duration`: signed, in nanoseconds, at most about 292 years either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(i64);

impl GoDuration {
    /// `seconds`, or `None` if Go could not hold so many.
    pub const fn from_secs(seconds: i64) -> Option<Self> {
        match seconds.checked_mul(SECOND) {
            Some(nanoseconds) => Some(Self(nanoseconds)),
            None => None,
        }
    }

    /// Whole seconds, the fraction cut towards zero.
    pub const fn whole_seconds(self) -> i64 {
        self.0 / SECOND
    }

    /// The same span, or `None` if it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// The same span; what Go cannot hold becomes the longest it can.
    pub fn from_std(span: Duration) -> Self {
        Self(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Reads a text as Go's `time.ParseDuration` does: `1h30m`, `1.5h`, `-5s`, `0`; no days and no bare numbers.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let whole = digits(rest);
            rest = &rest[whole.len()..];
            let mut fraction = "";
            if let Some(after) = rest.strip_prefix('.') {
                fraction = digits(after);
                rest = &after[fraction.len()..];
            }
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
            let (unit, after) = rest.split_at(end);
            // Go reads the number before it looks at the unit, so a number that is too long is the first complaint.
            let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
            if whole > 1 << 63 {
                return Err(invalid());
            }
            if unit.is_empty() {
                return Err(DurationError::MissingUnit(text.to_owned()));
            }
            let scale = nanoseconds(unit)
                .ok_or_else(|| DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?;
            let part = whole.checked_mul(scale).and_then(|n| n.checked_add(part_of(fraction, scale)));
            total = part.and_then(|n| n.checked_add(total)).filter(|n| *n <= 1 << 63).ok_or_else(invalid)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (false, Ok(n)) => Ok(Self(n)),
            (true, Ok(n)) => Ok(Self(-n)),
            (true, Err(_)) => Ok(Self(i64::MIN)),
            (false, Err(_)) => Err(invalid()),
        }
    }

    /// Reads a text as the host's duration fields do: empty is zero, a whole number is seconds, `7d` is days, anything
    /// else is [`GoDuration::parse`].
    pub fn parse_field(text: &str) -> Result<Self, DurationError> {
        if text.is_empty() {
            return Ok(Self(0));
        }
        if let Ok(seconds) = text.parse::<i64>() {
            return Self::from_secs(seconds).ok_or(DurationError::Overflow);
        }
        if let Some(days) = text.strip_suffix('d') {
            let days: i64 = days.parse().map_err(|_| {
                let unsigned = days.strip_prefix(['+', '-']).unwrap_or(days);
                let number = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
                if number { DurationError::DaysRange(days.to_owned()) } else { DurationError::Days(days.to_owned()) }
            })?;
            return days.checked_mul(86_400).and_then(Self::from_secs).ok_or(DurationError::Overflow);
        }
        Self::parse(text)
    }

    /// Reads a JSON value as the host's duration fields do: numbers by their literal text, `null` is zero.
    pub fn from_value(value: &Value) -> Result<Self, DurationError> {
        match value {
            Value::Null => Ok(Self(0)),
            Value::String(text) => Self::parse_field(text),
            Value::Number(number) => Self::parse_field(&literal(number)),
            _ => Err(DurationError::NotADuration),
        }
    }

    /// The form of the host's warnings: Go's form without trailing zero parts (`2h`, `45m`, `27h46m39s`).
    pub fn short(self) -> String {
        let mut text = self.to_string();
        for zero in ["m0s", "h0m"] {
            if text.ends_with(zero) {
                text.truncate(text.len() - 2);
            }
        }
        text
    }
}

/// Go's `Duration.String`: `2h0m0s`, `1.5s`, `100ms`, `0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let total = self.0.unsigned_abs();
        let second = SECOND.unsigned_abs();
        if total < second {
            return match total {
                0 => f.write_str("0s"),
                1..1_000 => write!(f, "{total}ns"),
                1_000..1_000_000 => write!(f, "{}µs", Decimal(total, 1_000)),
                _ => write!(f, "{}ms", Decimal(total, 1_000_000)),
            };
        }
        let (hours, minutes) = (total / HOUR.unsigned_abs(), total / MINUTE.unsigned_abs() % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", Decimal(total % MINUTE.unsigned_abs(), second))
    }
}

/// `0 / 1` written as a decimal fraction without trailing zeros; the divisor is a power of ten.
struct Decimal(u64, u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / self.1, self.0 % self.1);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let places = self.1.ilog10() as usize;
        let fraction = format!("{rest:0places$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// A text as Go's package time quotes it in errors: everything that is not printable ASCII byte by byte.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for byte in self.0.bytes() {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b' '..=0x7f => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A JSON number as the client wrote it, which is how Go sees it. Our parser adds a `+` to exponents without a sign;
/// hardly anyone writes one.
pub fn literal(number: &Number) -> String {
    number.to_string().replace("e+", "e")
}

/// The leading ASCII digits of `text`.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

fn nanoseconds(unit: &str) -> Option<u64> {
    let nanoseconds = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    };
    Some(nanoseconds.unsigned_abs())
}

/// The part of a unit that a decimal fraction stands for, rounded as Go's floating-point arithmetic rounds it.
fn part_of(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0u64, 1f64);
    for digit in fraction.bytes() {
        // Digits that no longer fit are far below a nanosecond: Go drops them too.
        if value > (i64::MAX.unsigned_abs()) / 10 {
            break;
        }
        value = value * 10 + u64::from(digit - b'0');
        scale *= 10.0;
    }
    // Less than or equal to `unit`, so well within range.
    (value as f64 * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn seconds(text: &str) -> Result<i64, String> {
        GoDuration::parse_field(text).map(GoDuration::whole_seconds).map_err(|e| e.to_string())
    }

    /// Every pair was observed on the built-in engine.
    #[test]
    fn reads_what_the_built_in_engine_reads() {
        for (text, want) in [
            ("", 0),
            ("5", 5),
            ("+5", 5),
            ("010", 10),
            ("0", 0),
            ("-0", 0),
            ("-5", -5),
            ("-5s", -5),
            ("1h30m", 5400),
            ("1.5h", 5400),
            (".5h", 1800),
            ("1.h", 3600),
            ("+1h", 3600),
            ("1d", 86_400),
            ("-1d", -86_400),
            ("1ms", 0),
            ("1500ms", 1),
            ("1us", 0),
            ("1µs", 0),
            ("1μs", 0),
            ("1h1h", 7200),
            ("9223372036", 9_223_372_036),
            ("106751d", 9_223_286_400),
            ("2562047h", 9_223_369_200),
            ("2562047h47m16.854775807s", 9_223_372_036),
            ("0.9999999999999999999999h", 3600),
        ] {
            assert_eq!(seconds(text), Ok(want), "{text:?}");
        }
    }

    /// Every pair was observed on the built-in engine.
    #[test]
    fn refuses_with_the_words_of_go() {
        let overflow = "multiplication of durations resulted in overflow, one operand may be too large";
        for (text, want) in [
            ("abc", r#"time: invalid duration "abc""#),
            (" ", r#"time: invalid duration " ""#),
            (" 5", r#"time: invalid duration " 5""#),
            ("-", r#"time: invalid duration "-""#),
            ("..5h", r#"time: invalid duration "..5h""#),
            ("1.5.5h", r#"time: missing unit in duration "1.5.5h""#),
            ("5m5", r#"time: missing unit in duration "5m5""#),
            ("-9223372037", overflow),
            ("-2562048h", r#"time: invalid duration "-2562048h""#),
            ("5 ", r#"time: unknown unit " " in duration "5 ""#),
            ("1.5", r#"time: missing unit in duration "1.5""#),
            ("1e3", r#"time: unknown unit "e" in duration "1e3""#),
            ("0x10", r#"time: unknown unit "x" in duration "0x10""#),
            ("1_000", r#"time: unknown unit "_" in duration "1_000""#),
            ("1w", r#"time: unknown unit "w" in duration "1w""#),
            ("1d12h", r#"time: unknown unit "d" in duration "1d12h""#),
            ("1 h", r#"time: unknown unit " h" in duration "1 h""#),
            ("1h-30m", r#"time: unknown unit "h-" in duration "1h-30m""#),
            ("1H", r#"time: unknown unit "H" in duration "1H""#),
            ("h", r#"time: invalid duration "h""#),
            (".", r#"time: invalid duration ".""#),
            ("d", r#"strconv.ParseInt: parsing "": invalid syntax"#),
            ("1.5d", r#"strconv.ParseInt: parsing "1.5": invalid syntax"#),
            ("99999999999999999999d", r#"strconv.ParseInt: parsing "99999999999999999999": value out of range"#),
            ("99999999999999999999", r#"time: invalid duration "99999999999999999999""#),
            ("2562048h", r#"time: invalid duration "2562048h""#),
            ("9223372037", overflow),
            ("106752d", overflow),
            ("9999999d", overflow),
            ("\n", r#"time: invalid duration "\x0a""#),
            ("é", r#"time: invalid duration "\xc3\xa9""#),
            ("1é", r#"time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9""#),
            ("a\"b", r#"time: invalid duration "a\"b""#),
        ] {
            assert_eq!(seconds(text), Err(want.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn a_json_number_counts_by_its_literal_text() {
        for (value, want) in [
            (json!(5), Ok(5)),
            (json!(-5), Ok(-5)),
            (json!(null), Ok(0)),
            (serde_json::from_str("5.0").unwrap(), Err(r#"time: missing unit in duration "5.0""#)),
            (json!(true), Err("could not parse duration from input")),
            (json!([]), Err("could not parse duration from input")),
            (json!({}), Err("could not parse duration from input")),
        ] {
            let got = GoDuration::from_value(&value).map(GoDuration::whole_seconds).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{value}");
        }
    }

    #[test]
    fn prints_as_go_prints() {
        for (nanoseconds, long, short) in [
            (0, "0s", "0s"),
            (1, "1ns", "1ns"),
            (1_100, "1.1µs", "1.1µs"),
            (2_200_000, "2.2ms", "2.2ms"),
            (3_300_000_000, "3.3s", "3.3s"),
            (45 * MINUTE, "45m0s", "45m"),
            (2 * HOUR, "2h0m0s", "2h"),
            (768 * HOUR, "768h0m0s", "768h"),
            (HOUR + 5 * SECOND, "1h0m5s", "1h0m5s"),
            (99_999 * SECOND, "27h46m39s", "27h46m39s"),
            (299 * SECOND, "4m59s", "4m59s"),
            (4 * MINUTE + 5_001 * 1_000_000, "4m5.001s", "4m5.001s"),
            (10 * MINUTE, "10m0s", "10m"),
            (20 * HOUR + 10 * MINUTE, "20h10m0s", "20h10m"),
            (-90 * SECOND, "-1m30s", "-1m30s"),
            (i64::MIN, "-2562047h47m16.854775808s", "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration(nanoseconds).to_string(), long);
            assert_eq!(GoDuration(nanoseconds).short(), short);
        }
    }

    #[test]
    fn converts_to_and_from_std() {
        assert_eq!(GoDuration(-1).to_std(), None);
        assert_eq!(GoDuration(1_500_000_000).to_std(), Some(Duration::from_millis(1500)));
        assert_eq!(GoDuration::from_std(Duration::MAX), GoDuration(i64::MAX));
        assert_eq!(GoDuration::from_secs(i64::MAX), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanoseconds: i64) {
            prop_assert_eq!(GoDuration::parse(&GoDuration(nanoseconds).to_string()), Ok(GoDuration(nanoseconds)));
        }

        #[test]
        fn no_text_is_a_surprise(text in ".*") {
            let _ = GoDuration::parse_field(&text).map_err(|e| e.to_string());
        }

        #[test]
        fn no_number_is_a_surprise(text in "[-+]?[0-9.]{0,40}(ns|us|ms|s|m|h|d|w)?[0-9.]{0,4}h?") {
            let _ = GoDuration::parse_field(&text).map_err(|e| e.to_string());
        }
    }
}
