//! Weak decoding: a JSON value becomes the type a field asks for wherever the host's own engines would convert it, and
//! is refused with their words where they would not.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::engine::go::literal;
use crate::engine::request::Fields;
use crate::secret::Secret;

/// Why one value cannot become the type that is asked for. Never shows the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeakError {
    /// The kind of the value has no conversion.
    #[error("'{path}' expected type '{expected}', got unconvertible type '{got}'")]
    Unconvertible {
        /// Where the value stood: empty for the field itself, `[0]` in a list, a key in an object.
        path: String,
        /// The type that was asked for, by its name in Go.
        expected: &'static str,
        /// The type that came, by its name in Go.
        got: &'static str,
    },
    /// A text or number that is not a boolean.
    #[error("'{0}' cannot parse value as 'bool': strconv.ParseBool: invalid syntax")]
    Bool(String),
    /// A text or number that is not a whole number.
    #[error("'{0}' cannot parse value as 'int': strconv.ParseInt: invalid syntax")]
    Int(String),
    /// A whole number of more than 64 bits.
    #[error("'{0}' cannot parse value as 'int': strconv.ParseInt: value out of range")]
    IntRange(String),
}

/// The errors of a list or an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable(pub Vec<WeakError>);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("decoding failed due to the following error(s):\n")?;
        self.0.iter().try_for_each(|error| write!(f, "\n{error}"))
    }
}

impl std::error::Error for Undecodable {}

/// The kind of a value, by its name in Go.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "json.Number",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn unconvertible(path: &str, expected: &'static str, value: &Value) -> WeakError {
    WeakError::Unconvertible { path: path.to_owned(), expected, got: go_type(value) }
}

/// A text: numbers by their literal, booleans as `1` and `0`, `null` as nothing.
pub fn text(path: &str, value: &Value) -> Result<String, WeakError> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(flag) => Ok(if *flag { "1" } else { "0" }.to_owned()),
        Value::Number(number) => Ok(literal(number)),
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) | Value::Object(_) => Err(unconvertible(path, "string", value)),
    }
}

/// A boolean: texts and numbers by Go's `ParseBool`, nothing and `null` as false.
pub fn flag(path: &str, value: &Value) -> Result<bool, WeakError> {
    let parse = |text: &str| match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(WeakError::Bool(path.to_owned())),
    };
    match value {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) => parse(&literal(number)),
        Value::String(text) => parse(text),
        Value::Array(_) | Value::Object(_) => Err(unconvertible(path, "bool", value)),
    }
}

/// A whole number: texts and numbers by Go's `ParseInt` with any base prefix, booleans as 1 and 0, nothing and `null`
/// as 0.
pub fn int(path: &str, value: &Value) -> Result<i64, WeakError> {
    let parse = |text: &str| match parse_int(text) {
        _ if text.is_empty() => Ok(0),
        Ok(number) => Ok(number),
        Err(NotAnInt::Syntax) => Err(WeakError::Int(path.to_owned())),
        Err(NotAnInt::Range) => Err(WeakError::IntRange(path.to_owned())),
    };
    match value {
        Value::Null => Ok(0),
        Value::Bool(flag) => Ok(i64::from(*flag)),
        Value::Number(number) => parse(&literal(number)),
        Value::String(text) => parse(text),
        Value::Array(_) | Value::Object(_) => Err(unconvertible(path, "int", value)),
    }
}

/// A list of texts: a single value is a list of one, `null` and an empty object are an empty list.
pub fn list(value: &Value) -> Result<Vec<String>, Undecodable> {
    let items: &[Value] = match value {
        Value::Null => &[],
        Value::Object(object) if object.is_empty() => &[],
        Value::Array(items) => items,
        single => std::slice::from_ref(single),
    };
    let mut out = Vec::with_capacity(items.len());
    let mut errors = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match text(&format!("[{index}]"), item) {
            Ok(text) => out.push(text),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(out) } else { Err(Undecodable(errors)) }
}

/// An object of texts, also merged from a list of objects; `None` if the value has another shape.
pub fn texts(value: &Value) -> Option<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (key, value) in map(value).ok()? {
        let text = text("", &value).ok()?;
        out.insert(key, text);
    }
    Some(out)
}

/// An object, also merged from a list of objects; `null` is an empty one.
pub fn map(value: &Value) -> Result<Fields, WeakError> {
    const EXPECTED: &str = "map[string]interface {}";
    let items: &[Value] = match value {
        Value::Null => &[],
        Value::Object(object) => return Ok(object.clone()),
        Value::Array(items) => items,
        other => return Err(unconvertible("", EXPECTED, other)),
    };
    let mut out = Fields::new();
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::Null => {}
            Value::Object(object) => out.extend(object.iter().map(|(k, v)| (k.clone(), v.clone()))),
            other => return Err(unconvertible(&format!("[{index}]"), EXPECTED, other)),
        }
    }
    Ok(out)
}

/// Reads named values of one object and collects what is wrong with them, in the order in which they are asked for.
pub struct Reader<'a> {
    fields: &'a Fields,
    errors: Vec<WeakError>,
}

impl<'a> Reader<'a> {
    /// Reads from `fields`.
    pub fn new(fields: &'a Fields) -> Self {
        Self { fields, errors: Vec::new() }
    }

    /// The text `name`; `None` if it is absent or wrong.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.read(name, text)
    }

    /// The text `name`, as a secret.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        self.read(name, text).map(Secret::new)
    }

    /// The boolean `name`.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, flag)
    }

    /// The whole number `name`.
    pub fn int(&mut self, name: &str) -> Option<i64> {
        self.read(name, int)
    }

    /// What was wrong, if anything was.
    pub fn finish(self) -> Result<(), Undecodable> {
        if self.errors.is_empty() { Ok(()) } else { Err(Undecodable(self.errors)) }
    }

    fn read<T>(&mut self, name: &str, decode: fn(&str, &Value) -> Result<T, WeakError>) -> Option<T> {
        match decode(name, self.fields.get(name)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum NotAnInt {
    Syntax,
    Range,
}

/// Go's `strconv.ParseInt(text, 0, 64)`: a sign, a base prefix (`0x`, `0o`, `0b`, `0`), underscores between digits.
fn parse_int(text: &str) -> Result<i64, NotAnInt> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = unsigned.to_ascii_lowercase();
    let (base, digits) = match (lower.get(..2), lower.len()) {
        (Some("0b"), 3..) => (2, &lower[2..]),
        (Some("0o"), 3..) => (8, &lower[2..]),
        (Some("0x"), 3..) => (16, &lower[2..]),
        (Some(_), _) if lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() {
        return Err(NotAnInt::Syntax);
    }
    let mut value: u64 = 0;
    // An underscore stands between two digits, or between the prefix and a digit.
    let mut after_digit = base != 10;
    for c in digits.chars() {
        if c == '_' {
            if !after_digit {
                return Err(NotAnInt::Syntax);
            }
            after_digit = false;
            continue;
        }
        let digit = c.to_digit(base).ok_or(NotAnInt::Syntax)?;
        value =
            value.checked_mul(u64::from(base)).and_then(|v| v.checked_add(u64::from(digit))).ok_or(NotAnInt::Range)?;
        after_digit = true;
    }
    if !after_digit {
        return Err(NotAnInt::Syntax);
    }
    match (negative, i64::try_from(value)) {
        (false, Ok(value)) => Ok(value),
        (true, Ok(value)) => Ok(-value),
        (true, Err(_)) if value == 1 << 63 => Ok(i64::MIN),
        _ => Err(NotAnInt::Range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Observed on the built-in engines.
    #[test]
    fn whole_numbers_are_read_as_go_reads_them() {
        for (text, want) in [
            ("5", Ok(5)),
            ("+5", Ok(5)),
            ("-5", Ok(-5)),
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("010", Ok(8)),
            ("0_7", Ok(7)),
            ("0x10", Ok(16)),
            ("0x_1", Ok(1)),
            ("0b11", Ok(3)),
            ("0B1", Ok(1)),
            ("0o17", Ok(15)),
            ("1_000", Ok(1000)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(NotAnInt::Range)),
            ("-9223372036854775809", Err(NotAnInt::Range)),
            ("99999999999999999999x", Err(NotAnInt::Range)),
            ("08", Err(NotAnInt::Syntax)),
            ("0x", Err(NotAnInt::Syntax)),
            ("0_8", Err(NotAnInt::Syntax)),
            ("0b2", Err(NotAnInt::Syntax)),
            ("_1", Err(NotAnInt::Syntax)),
            ("1_", Err(NotAnInt::Syntax)),
            ("1__0", Err(NotAnInt::Syntax)),
            ("1e3", Err(NotAnInt::Syntax)),
            ("5.0", Err(NotAnInt::Syntax)),
            (" 5", Err(NotAnInt::Syntax)),
            ("--5", Err(NotAnInt::Syntax)),
            ("+-5", Err(NotAnInt::Syntax)),
            ("+", Err(NotAnInt::Syntax)),
            ("", Err(NotAnInt::Syntax)),
            ("٣", Err(NotAnInt::Syntax)),
        ] {
            assert_eq!(parse_int(text), want, "{text:?}");
        }
    }

    /// Observed on the built-in engine with a body of five wrong values.
    #[test]
    fn a_reader_reports_every_wrong_value_in_order() {
        let fields = json!({
            "connection_url": [1], "max_open_connections": "a", "max_idle_connections": [], "username": {},
            "disable_escaping": "z", "password": true, "tls_ca": 4
        });
        let Value::Object(fields) = fields else { panic!() };
        let mut reader = Reader::new(&fields);
        assert_eq!(reader.text("connection_url"), None);
        assert_eq!(reader.int("max_open_connections"), None);
        assert_eq!(reader.int("max_idle_connections"), None);
        assert_eq!(reader.text("username"), None);
        assert_eq!(reader.secret("password"), Some(Secret::new("1".to_owned())));
        assert_eq!(reader.flag("disable_escaping"), None);
        assert_eq!(reader.text("tls_ca").as_deref(), Some("4"));
        assert_eq!(reader.int("absent"), None);
        let text = reader.finish().unwrap_err().to_string();
        assert_eq!(
            text,
            "decoding failed due to the following error(s):\n\n\
             'connection_url' expected type 'string', got unconvertible type '[]interface {}'\n\
             'max_open_connections' cannot parse value as 'int': strconv.ParseInt: invalid syntax\n\
             'max_idle_connections' expected type 'int', got unconvertible type '[]interface {}'\n\
             'username' expected type 'string', got unconvertible type 'map[string]interface {}'\n\
             'disable_escaping' cannot parse value as 'bool': strconv.ParseBool: invalid syntax"
        );
    }

    #[test]
    fn a_reader_of_good_values_is_content() {
        let Value::Object(fields) = json!({ "n": "0x10", "t": true, "z": null, "f": 0 }) else { panic!() };
        let mut reader = Reader::new(&fields);
        assert_eq!(reader.int("n"), Some(16));
        assert_eq!(reader.int("t"), Some(1));
        assert_eq!(reader.int("z"), Some(0));
        assert_eq!(reader.flag("f"), Some(false));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn maps_merge_from_lists() {
        assert_eq!(texts(&json!([{ "a": "1" }, { "a": 2 }, null])), Some([("a".into(), "2".into())].into()));
        assert_eq!(texts(&json!({ "a": null, "b": false })).map(|m| m["a"].clone() + &m["b"]), Some("0".into()));
        assert_eq!(texts(&json!({ "a": [] })), None);
        assert_eq!(texts(&json!("a=b")), None);
        let error = |value| map(&value).unwrap_err().to_string();
        let got =
            |path, kind| format!("'{path}' expected type 'map[string]interface {{}}', got unconvertible type '{kind}'");
        assert_eq!(error(json!("abc")), got("", "string"));
        assert_eq!(error(json!(5)), got("", "json.Number"));
        assert_eq!(error(json!(true)), got("", "bool"));
        assert_eq!(error(json!(["a"])), got("[0]", "string"));
    }

    proptest! {
        #[test]
        fn no_text_is_a_surprise(text in ".*") {
            let _ = parse_int(&text);
        }

        #[test]
        fn printed_numbers_are_read_back(number: i64) {
            prop_assert_eq!(parse_int(&number.to_string()), Ok(number));
        }
    }
}
