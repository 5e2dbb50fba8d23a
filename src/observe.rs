//! Log lines in the form the host reads: hclog JSON on stderr, one object a line.
//!
//! The host's reader is brittle and a mistake here is not a bad log line but an outage: a line whose `@message` is not
//! a string ends the host's whole process, a time stamp without exactly six fraction digits loses the level, and a line
//! over 64 KiB is cut up. So there is one function that makes lines, and it is tested with arbitrary input.

use std::any::Any;
use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;
use std::panic::Location;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Longest text of one field or message, in bytes before escaping. Escaping makes it six times as long at worst.
const MAX_TEXT: usize = 2 * 1024;
/// Longest line in bytes; a quarter of what the host takes in one piece.
const MAX_LINE: usize = 16 * 1024;

/// Starts logging to stderr: our own records from `level` up, those of libraries from WARN up, never those of the SQL
/// driver (they hold statements). Panics are reported as one line too, by place, without what they were about.
///
/// Only the first call of a process has an effect.
pub fn start(level: Level) {
    let subscriber = tracing_subscriber::registry().with(Lines { level });
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(|info| emit(&panic_line(info.payload(), info.location()))));
    }
}

/// The layer that turns records into lines.
struct Lines {
    level: Level,
}

impl Lines {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        if of_crate(target, "leasehold") {
            *metadata.level() <= self.level
        } else {
            *metadata.level() <= Level::WARN && !target.starts_with("sqlx")
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::default();
        event.record(&mut record);
        let level = match *metadata.level() {
            Level::TRACE => "trace",
            Level::DEBUG => "debug",
            Level::INFO => "info",
            Level::WARN => "warn",
            Level::ERROR => "error",
        };
        emit(&line(level, metadata.target(), Timestamp::now(), record));
    }
}

/// True if `target` is the crate `name` or a module of it.
fn of_crate(target: &str, name: &str) -> bool {
    target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Message and fields of one record.
#[derive(Default)]
struct Record {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Record {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = Capped::default();
        // The only error is our own, at the cap.
        let _ = write!(text, "{value:?}");
        self.put(field, Value::String(text.0));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(cut(value).to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // Not every number has a JSON form.
        self.put(field, serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number));
    }
}

/// A text that stops growing at [`MAX_TEXT`].
#[derive(Default)]
struct Capped(String);

impl fmt::Write for Capped {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = MAX_TEXT.saturating_sub(self.0.len());
        let fits = &s[..s.floor_char_boundary(room)];
        self.0.push_str(fits);
        if fits.len() == s.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The beginning of `text`, at most [`MAX_TEXT`] bytes of it.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// `text` without what would begin a line of its own in the host's log, or command a terminal: the host prints messages
/// as they are (fields it quotes).
fn printable(text: &str) -> String {
    let unsafe_char = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.chars().fold(String::with_capacity(text.len()), |mut printed, c| {
        if unsafe_char(c) {
            printed.extend(c.escape_default())
        } else {
            printed.push(c)
        }
        printed
    })
}

/// One line, with its line feed. Fields that do not fit any more are left out; a key that starts with `@` is the host's
/// and loses the sign.
fn line(level: &str, module: &str, at: Timestamp, record: Record) -> String {
    let mut object = Map::new();
    object.insert("@level".into(), level.into());
    object.insert("@message".into(), printable(cut(&record.message)).into());
    object.insert("@module".into(), cut(module).into());
    // Exactly six digits: see above.
    let stamp = jiff::fmt::temporal::DateTimePrinter::new().precision(Some(6));
    object.insert("@timestamp".into(), stamp.timestamp_to_string(&at).into());
    let mut length = Value::Object(object.clone()).to_string().len();
    for (name, value) in record.fields {
        let key = cut(name.trim_start_matches('@'));
        let more = Value::from(key).to_string().len() + value.to_string().len() + 2;
        if length + more < MAX_LINE {
            length += more;
            object.insert(key.to_owned(), value);
        }
    }
    let mut text = Value::Object(object).to_string();
    text.push('\n');
    text
}

/// What a panic leaves: the place, and the message only if it is a literal of the program. A formatted message may hold
/// anything that the program was working on.
fn panic_line(payload: &dyn Any, place: Option<&Location<'_>>) -> String {
    let mut message = String::from("panic");
    if let Some(literal) = payload.downcast_ref::<&'static str>() {
        message.push_str(": ");
        message.push_str(cut(literal));
    }
    let place = place.map(ToString::to_string).unwrap_or_default();
    line("error", "leasehold", Timestamp::now(), Record { message, fields: vec![("location", place.into())] })
}

/// Writes one line in one piece. With nobody left to read there is nothing to be done about an error.
fn emit(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// What the host's reader needs of a line, or it falls over.
    fn read(text: &str) -> Map<String, Value> {
        assert!(text.ends_with('\n'));
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.len() <= 60 * 1024);
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { panic!("not an object: {text}") };
        for key in ["@level", "@message", "@module", "@timestamp"] {
            assert!(object[key].is_string(), "{key} in {text}");
        }
        object
    }

    proptest! {
        #[test]
        fn any_record_is_one_readable_line(
            message in ".{0,6000}|\\PC*|[\\x00-\\x1f\u{2028}\u{85}\"\\\\]*",
            module in any::<String>(),
            values in prop::collection::vec(any::<String>(), 0..20),
        ) {
            let names = ["@message", "@level", "@timestamp", "@@module", "a", "b c", "\"", "", "message"];
            let fields = values.iter().enumerate().map(|(i, v)| (names[i % names.len()], v.as_str().into())).collect();
            let object = read(&line("info", &module, Timestamp::now(), Record { message: message.clone(), fields }));
            let shown = object["@message"].as_str().unwrap_or_default();
            prop_assert!(!shown.contains(|c: char| c.is_control() || c == '\u{2028}'), "{:?}", shown);
            if !message.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
                prop_assert_eq!(shown, cut(&message));
            }
            prop_assert_eq!(object["@level"].as_str(), Some("info"));
        }

        #[test]
        fn any_time_has_six_digits(seconds in 0i64..4_000_000_000, nanos in 0i32..1_000_000_000) {
            let at = Timestamp::new(seconds, nanos).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let object = read(&line("info", "m", at, Record::default()));
            let text = object["@timestamp"].as_str().unwrap_or_default();
            let fraction = text.split_once('.').and_then(|(_, rest)| rest.strip_suffix('Z')).unwrap_or_default();
            prop_assert!(fraction.len() == 6 && fraction.bytes().all(|b| b.is_ascii_digit()), "{}", text);
        }
    }

    #[test]
    fn stays_short() {
        let long = "\u{1}".repeat(100_000);
        let fields = (0..100).map(|_| ("f", long.as_str().into())).collect();
        let text = line("info", &long, Timestamp::now(), Record { message: long.clone(), fields });
        read(&text);
        // Message and module are the only parts that are not counted against the limit: both escaped at their worst.
        assert!(text.len() < 32 * 1024, "{}", text.len());
    }

    /// Runs `work` with the layer's own view of records: what it wants, as it would print it.
    fn printed(level: Level, work: impl FnOnce()) -> Vec<Map<String, Value>> {
        struct Keep(Lines, Arc<Mutex<Vec<String>>>);
        impl<S: Subscriber> Layer<S> for Keep {
            fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
                self.0.wants(metadata)
            }
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut record = Record::default();
                event.record(&mut record);
                let text = line("info", event.metadata().target(), Timestamp::now(), record);
                self.1.lock().unwrap().push(text);
            }
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Keep(Lines { level }, Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, work);
        lines.lock().unwrap().iter().map(|text| read(text)).collect()
    }

    #[test]
    fn keeps_types_and_makes_the_message_a_string() {
        let lines = printed(Level::INFO, || {
            tracing::info!(target: "leasehold::x", count = 3, ratio = f64::NAN, ok = true, why = ?"a\nb", "two\nlines");
            tracing::info!(target: "leasehold", message = 7);
        });
        assert_eq!(lines[0]["@message"], "two\\nlines");
        assert_eq!(lines[0]["@module"], "leasehold::x");
        assert_eq!(lines[0]["count"], 3);
        assert_eq!(lines[0]["ratio"], "NaN");
        assert_eq!(lines[0]["ok"], true);
        assert_eq!(lines[0]["why"], "\"a\\nb\"");
        assert_eq!(lines[1]["@message"], "7");
    }

    #[test]
    fn a_panic_tells_its_place_and_only_literals() {
        let object = read(&panic_line(&"a literal", Some(Location::caller())));
        assert_eq!(object["@message"], "panic: a literal");
        assert_eq!(object["@level"], "error");
        assert!(object["location"].as_str().is_some_and(|place| place.contains("observe.rs")));
        let object = read(&panic_line(&format!("password {}", 1), None));
        assert_eq!(object["@message"], "panic");
        assert!(!object.values().any(|value| value.to_string().contains("password")));
    }

    #[test]
    fn never_the_drivers_statements() {
        let lines = printed(Level::INFO, || {
            tracing::warn!(target: "sqlx::query", "CREATE ROLE ...");
            tracing::error!(target: "sqlx::postgres::notice", "...");
            tracing::info!(target: "h2", "noise");
            tracing::info!(target: "leaseholder", "noise");
            tracing::debug!(target: "leasehold", "too fine");
            tracing::warn!(target: "h2", "heard");
        });
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["@message"], "heard");
    }
}
