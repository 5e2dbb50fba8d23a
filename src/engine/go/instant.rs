//! A Go `time.Time` as it is stored: RFC 3339; its zero is the year 1.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer};

const ZERO: &str = "0001-01-01T00:00:00Z";

/// The time as a text; `None` outside any calendar.
pub fn text(time: SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(|time| time.to_string())
}

/// Writes the time, or the zero.
pub fn serialize<S: Serializer>(time: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(time.and_then(text).as_deref().unwrap_or(ZERO))
}

/// Reads a time; the zero and anything before 1970 is none.
pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let time: Timestamp = text.parse().map_err(|_| serde::de::Error::custom("not a time"))?;
    Ok((time > Timestamp::UNIX_EPOCH).then(|| time.into()))
}
