//! The typed fields of a path: what a field is, and how a request's JSON becomes values of those types.
//!
//! Which values are accepted, what they become and the text of every refusal are those of the host's plugin framework,
//! as observed on its built-in database engine.

pub mod weak;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::engine::go::{DurationError, GoDuration};
use crate::engine::request::Fields;
use crate::secret::Secret;
use weak::{Undecodable, WeakError};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// A text.
    String,
    /// A text that must never be shown.
    Secret,
    /// A text that may stand in a path: see [`is_name`].
    NameString,
    /// True or false.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A span of whole seconds, not negative.
    DurationSecond,
    /// A list of texts, each trimmed; a single text is a list of one.
    StringSlice,
    /// A list of texts, each trimmed; a single text is split at its commas.
    CommaStringSlice,
    /// Texts by name: an object, or a list of `name=text`.
    KvPairs,
    /// Any object.
    Map,
    /// Any JSON value; a text is read as JSON.
    Json,
}

/// The value of a field that a request does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The zero of the type: an empty text or list, false, 0.
    Zero,
    /// This text.
    Text(&'static str),
    /// This boolean.
    Bool(bool),
    /// This number; of a duration, seconds.
    Int(i64),
}

/// One field of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its key in the request.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldType,
    /// Its value when the request does not give it.
    pub preset: Preset,
    /// What it means, for help and the OpenAPI document. A duration's names its unit.
    pub description: &'static str,
    /// Whether a request must have it. Documentation only: the engine has its own words for what is missing.
    pub required: bool,
    /// Whether it is given in the query of a read or a list.
    pub query: bool,
}

impl Field {
    /// An optional field with the zero of its type.
    pub const fn new(name: &'static str, kind: FieldType, description: &'static str) -> Self {
        Self { name, kind, preset: Preset::Zero, description, required: false, query: false }
    }

    /// The same field with another value when the request gives none.
    pub const fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// The same field, required.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The same field, given in the query.
    pub const fn query(mut self) -> Self {
        self.query = true;
        self
    }

    /// Decodes a value that the request gives; `Ok(None)` if the value counts as not given.
    fn decode(&'static self, value: &Value) -> Result<Option<Typed>, FieldError> {
        let fail = |reason: Reason| FieldError { field: self.name, reason };
        let decoded = match self.kind {
            FieldType::String => weak::text("", value).map(Typed::Text).map_err(Reason::Weak),
            FieldType::Secret => weak::text("", value).map(|t| Typed::Secret(Secret::new(t))).map_err(Reason::Weak),
            FieldType::NameString => weak::text("", value)
                .map_err(Reason::Weak)
                .and_then(|text| if is_name(&text) { Ok(Typed::Text(text)) } else { Err(Reason::Name) }),
            FieldType::Bool => weak::flag("", value).map(Typed::Bool).map_err(Reason::Weak),
            FieldType::Int => weak::int("", value).map(Typed::Int).map_err(Reason::Weak),
            FieldType::DurationSecond if value.is_null() => return Ok(None),
            FieldType::DurationSecond => span(value).map(Typed::Span),
            FieldType::StringSlice => slice(value).map(Typed::List),
            FieldType::CommaStringSlice => comma_slice(value).map(Typed::List),
            FieldType::KvPairs => pairs(value, self.name).map(Typed::Pairs),
            FieldType::Map => weak::map(value).map(Typed::Map).map_err(Reason::Weak),
            FieldType::Json => json(value).map(Typed::Json),
        };
        decoded.map(Some).map_err(fail)
    }
}

/// Whether `text` may stand for a name in a path: ASCII word characters, with `-` and `.` in the middle.
pub fn is_name(text: &str) -> bool {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let bytes = text.as_bytes();
    bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|b| word(b) || matches!(b, b'-' | b'.'))
}

/// Why a field of a request was refused. The text carries no value, except of durations and of comma-separated lists,
/// which the host's framework quotes and which are never secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("error converting input for field {field:?}: {reason}")]
pub struct FieldError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: Reason,
}

impl FieldError {
    /// The text on paths without an existence check, and on reads and lists. Paths with a check are refused by that
    /// check, and its text is the plain one.
    pub fn in_handler(&self) -> String {
        format!("Field validation failed: {self}")
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It has the wrong kind.
    #[error(transparent)]
    Weak(#[from] WeakError),
    /// An element of it has the wrong kind.
    #[error(transparent)]
    List(#[from] Undecodable),
    /// An element of a comma-separated list has the wrong kind; each with the value as Go prints it.
    #[error("{} error(s) decoding:\n\n{}", .0.len(), .0.join("\n"))]
    CommaList(Vec<String>),
    /// It is not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// A negative duration, in seconds.
    #[error("cannot provide negative value '{0}'")]
    Negative(i64),
    /// An element of a list of pairs is not `name=text`.
    #[error("invalid key pair at index {index} in field {field:?}")]
    KeyPair {
        /// Which element, from 0.
        index: usize,
        /// The field.
        field: &'static str,
    },
    /// It is not a name.
    #[error("field validation failed")]
    Name,
    /// A text is no JSON.
    #[error("the text is not JSON")]
    Json,
}

/// The decoded fields of one request. Secret values are wiped with it; its `Debug` shows names only.
#[derive(Default)]
pub struct Input {
    fields: &'static [Field],
    given: BTreeMap<&'static str, Typed>,
}

enum Typed {
    Text(String),
    Secret(Secret),
    Bool(bool),
    Int(i64),
    Span(Duration),
    List(Vec<String>),
    Pairs(BTreeMap<String, String>),
    Map(Fields),
    Json(Value),
}

impl Input {
    /// Decodes what `data` gives of `fields`; `captured` is what the path says, which wins over the data. The first
    /// field that is wrong, in the order of `fields`, is reported.
    pub fn decode<'a>(
        fields: &'static [Field],
        data: &Fields,
        captured: impl IntoIterator<Item = (&'static str, &'a str)>,
    ) -> Result<Self, FieldError> {
        let captured: Vec<_> = captured.into_iter().collect();
        let mut given = BTreeMap::new();
        for field in fields {
            if let Some((_, text)) = captured.iter().find(|(name, _)| *name == field.name) {
                given.insert(field.name, Typed::Text((*text).to_owned()));
            } else if let Some(value) = data.get(field.name)
                && let Some(typed) = field.decode(value)?
            {
                given.insert(field.name, typed);
            }
        }
        Ok(Self { fields, given })
    }

    /// Whether the request gives the field.
    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The text or name, if the request gives it.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.given.get(name) {
            Some(Typed::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The text or name, or what the field is without one.
    pub fn text_or_preset(&self, name: &str) -> &str {
        self.text(name).unwrap_or(match self.preset(name) {
            Preset::Text(text) => text,
            _ => "",
        })
    }

    /// The secret text, if the request gives it.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        match self.given.get(name) {
            Some(Typed::Secret(secret)) => Some(secret),
            _ => None,
        }
    }

    /// The boolean, if the request gives it.
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.given.get(name) {
            Some(Typed::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// The boolean, or what the field is without one.
    pub fn flag_or_preset(&self, name: &str) -> bool {
        self.flag(name).unwrap_or(self.preset(name) == Preset::Bool(true))
    }

    /// The number, if the request gives it.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.given.get(name) {
            Some(Typed::Int(number)) => Some(*number),
            _ => None,
        }
    }

    /// The number, or what the field is without one.
    pub fn int_or_preset(&self, name: &str) -> i64 {
        self.int(name).unwrap_or(match self.preset(name) {
            Preset::Int(number) => number,
            _ => 0,
        })
    }

    /// The span, if the request gives it.
    pub fn span(&self, name: &str) -> Option<Duration> {
        match self.given.get(name) {
            Some(Typed::Span(span)) => Some(*span),
            _ => None,
        }
    }

    /// The span, or what the field is without one.
    pub fn span_or_preset(&self, name: &str) -> Duration {
        self.span(name).unwrap_or(match self.preset(name) {
            Preset::Int(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            _ => Duration::ZERO,
        })
    }

    /// The list, if the request gives it.
    pub fn list(&self, name: &str) -> Option<&[String]> {
        match self.given.get(name) {
            Some(Typed::List(list)) => Some(list),
            _ => None,
        }
    }

    /// The pairs, if the request gives them.
    pub fn pairs(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        match self.given.get(name) {
            Some(Typed::Pairs(pairs)) => Some(pairs),
            _ => None,
        }
    }

    /// The object, if the request gives it.
    pub fn map(&self, name: &str) -> Option<&Fields> {
        match self.given.get(name) {
            Some(Typed::Map(map)) => Some(map),
            _ => None,
        }
    }

    /// The JSON value, if the request gives it.
    pub fn json(&self, name: &str) -> Option<&Value> {
        match self.given.get(name) {
            Some(Typed::Json(value)) => Some(value),
            _ => None,
        }
    }

    fn preset(&self, name: &str) -> Preset {
        self.fields.iter().find(|field| field.name == name).map_or(Preset::Zero, |field| field.preset)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.given.keys()).finish()
    }
}

fn span(value: &Value) -> Result<Duration, Reason> {
    let seconds = GoDuration::from_value(value)?.whole_seconds();
    u64::try_from(seconds).map(Duration::from_secs).map_err(|_| Reason::Negative(seconds))
}

fn slice(value: &Value) -> Result<Vec<String>, Reason> {
    if value.as_str() == Some("") {
        return Ok(Vec::new());
    }
    Ok(trimmed(weak::list(value)?))
}

fn comma_slice(value: &Value) -> Result<Vec<String>, Reason> {
    match value {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
        other => weak::list(other).map(trimmed).map_err(|wrong| Reason::CommaList(comma_errors(&wrong))),
    }
}

/// The framework decodes these lists with an older decoder, which words its errors otherwise. It quotes the values too,
/// which may be anything, a password in the wrong field among them: we do not.
fn comma_errors(wrong: &Undecodable) -> Vec<String> {
    let mut lines: Vec<String> = wrong.0.iter().map(|error| format!("* {error}")).collect();
    lines.sort();
    lines
}

fn pairs(value: &Value, field: &'static str) -> Result<BTreeMap<String, String>, Reason> {
    if let Some(pairs) = weak::texts(value) {
        return Ok(pairs);
    }
    let mut out = BTreeMap::new();
    for (index, pair) in weak::list(value)?.iter().enumerate() {
        match pair.split_once('=') {
            Some((name, text)) if !name.is_empty() => out.insert(name.to_owned(), text.to_owned()),
            _ => return Err(Reason::KeyPair { index, field }),
        };
    }
    Ok(out)
}

fn json(value: &Value) -> Result<Value, Reason> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        Value::String(text) => serde_json::from_str(text).map_err(|_| Reason::Json),
        other => Ok(other.clone()),
    }
}

fn trimmed(list: Vec<String>) -> Vec<String> {
    list.into_iter().map(|text| text.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static FIELDS: &[Field] = &[
        Field::new("name", FieldType::NameString, "A name."),
        Field::new("string", FieldType::String, "A text.").preset(Preset::Text("password")),
        Field::new("secret", FieldType::Secret, "A secret."),
        Field::new("bool", FieldType::Bool, "A boolean.").preset(Preset::Bool(true)),
        Field::new("int", FieldType::Int, "A number.").preset(Preset::Int(7)).query(),
        Field::new("duration", FieldType::DurationSecond, "A span in seconds.").preset(Preset::Int(60)),
        Field::new("slice", FieldType::StringSlice, "A list."),
        Field::new("comma", FieldType::CommaStringSlice, "A list.").required(),
        Field::new("pairs", FieldType::KvPairs, "Pairs."),
        Field::new("map", FieldType::Map, "An object."),
        Field::new("json", FieldType::Json, "Anything."),
    ];

    fn decode(name: &str, json: &str) -> Result<Input, String> {
        let value: Value = serde_json::from_str(json).unwrap();
        let data = Fields::from_iter([(name.to_owned(), value)]);
        Input::decode(FIELDS, &data, None).map_err(|e| e.to_string())
    }

    /// A typed value as JSON text, `absent` for what counts as not given, or the reason of the refusal.
    fn outcome(name: &str, json: &str) -> String {
        match decode(name, json) {
            Err(text) => {
                let prefix = format!("error converting input for field {name:?}: ");
                text.strip_prefix(&prefix).unwrap_or_else(|| panic!("{text}")).to_owned()
            }
            Ok(input) => match input.given.get(name) {
                None => "absent".to_owned(),
                Some(Typed::Text(text)) => serde_json::to_string(text).unwrap(),
                Some(Typed::Secret(secret)) => serde_json::to_string(secret.expose()).unwrap(),
                Some(Typed::Bool(flag)) => flag.to_string(),
                Some(Typed::Int(number)) => number.to_string(),
                Some(Typed::Span(span)) => span.as_secs().to_string(),
                Some(Typed::List(list)) => serde_json::to_string(list).unwrap(),
                Some(Typed::Pairs(pairs)) => serde_json::to_string(pairs).unwrap(),
                Some(Typed::Map(map)) => serde_json::to_string(map).unwrap(),
                Some(Typed::Json(value)) => value.to_string(),
            },
        }
    }

    const LIST: &str = "'' expected type 'string', got unconvertible type '[]interface {}'";
    const OBJECT: &str = "'' expected type 'string', got unconvertible type 'map[string]interface {}'";
    const NOT_BOOL: &str = "'' cannot parse value as 'bool': strconv.ParseBool: invalid syntax";
    const NOT_INT: &str = "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax";
    const PAIR_0: &str = r#"invalid key pair at index 0 in field "pairs""#;

    /// Observed on the built-in engines: what was stored, or the refusal. Columns: field, JSON, outcome.
    #[test]
    fn values_become_what_they_become_in_the_built_in_engine() {
        for (name, json, want) in [
            ("string", r#"" abc ""#, r#"" abc ""#),
            ("string", "5", r#""5""#),
            ("string", "5.0", r#""5.0""#),
            ("string", "1e3", r#""1e3""#),
            ("string", "123456789012345678901234567890", r#""123456789012345678901234567890""#),
            ("string", "true", r#""1""#),
            ("string", "false", r#""0""#),
            ("string", "null", r#""""#),
            ("string", "[]", LIST),
            ("string", r#"["a"]"#, LIST),
            ("string", "{}", OBJECT),
            ("secret", "5", r#""5""#),
            ("secret", "[]", LIST),
            ("bool", "true", "true"),
            ("bool", "false", "false"),
            ("bool", "1", "true"),
            ("bool", "0", "false"),
            ("bool", "2", NOT_BOOL),
            ("bool", "5.0", NOT_BOOL),
            ("bool", r#""""#, "false"),
            ("bool", "null", "false"),
            ("bool", r#""T""#, "true"),
            ("bool", r#""TRUE""#, "true"),
            ("bool", r#""True""#, "true"),
            ("bool", r#""0""#, "false"),
            ("bool", r#""yes""#, NOT_BOOL),
            ("bool", r#""tRue""#, NOT_BOOL),
            ("bool", r#"" ""#, NOT_BOOL),
            ("bool", "[]", "'' expected type 'bool', got unconvertible type '[]interface {}'"),
            ("bool", "{}", "'' expected type 'bool', got unconvertible type 'map[string]interface {}'"),
            ("int", "5", "5"),
            ("int", "true", "1"),
            ("int", "null", "0"),
            ("int", r#""""#, "0"),
            ("int", r#""0x10""#, "16"),
            ("int", "-0", "0"),
            ("int", "5.0", NOT_INT),
            ("int", r#"" 5""#, NOT_INT),
            ("int", "99999999999999999999", "'' cannot parse value as 'int': strconv.ParseInt: value out of range"),
            ("int", "[1]", "'' expected type 'int', got unconvertible type '[]interface {}'"),
            ("duration", "null", "absent"),
            ("duration", r#""""#, "0"),
            ("duration", "5", "5"),
            ("duration", r#""1h30m""#, "5400"),
            ("duration", r#""1d""#, "86400"),
            ("duration", r#""1500ms""#, "1"),
            ("duration", "-5", "cannot provide negative value '-5'"),
            ("duration", r#""-1d""#, "cannot provide negative value '-86400'"),
            ("duration", r#""-1ms""#, "0"),
            ("duration", "1e3", r#"time: unknown unit "e" in duration "1e3""#),
            ("duration", "1.5", r#"time: missing unit in duration "1.5""#),
            ("duration", r#""abc""#, r#"time: invalid duration "abc""#),
            ("duration", "true", "could not parse duration from input"),
            ("slice", r#""abc""#, r#"["abc"]"#),
            ("slice", r#""a,b""#, r#"["a,b"]"#),
            ("slice", r#""""#, "[]"),
            ("slice", r#"" ""#, r#"[""]"#),
            ("slice", "5.0", r#"["5.0"]"#),
            ("slice", "true", r#"["1"]"#),
            ("slice", "null", "[]"),
            ("slice", "[]", "[]"),
            ("slice", "{}", "[]"),
            ("slice", r#"[" a ",1,true,null]"#, r#"["a","1","1",""]"#),
            (
                "slice",
                r#"[["b"],{"k":1}]"#,
                "decoding failed due to the following error(s):\n\n\
                 '[0]' expected type 'string', got unconvertible type '[]interface {}'\n\
                 '[1]' expected type 'string', got unconvertible type 'map[string]interface {}'",
            ),
            (
                "slice",
                r#"{"a":"b"}"#,
                "decoding failed due to the following error(s):\n\n\
                 '[0]' expected type 'string', got unconvertible type 'map[string]interface {}'",
            ),
            ("comma", r#""a, b ,,c""#, r#"["a","b","","c"]"#),
            ("comma", r#""""#, "[]"),
            ("comma", r#"" ""#, r#"[""]"#),
            ("comma", "null", "[]"),
            ("comma", "{}", "[]"),
            ("comma", "5", r#"["5"]"#),
            ("comma", "false", r#"["0"]"#),
            ("comma", r#"["a,b"," "]"#, r#"["a,b",""]"#),
            (
                "comma",
                r#"[["b"],{"k":1,"a":"x y"},"c",true]"#,
                "2 error(s) decoding:\n\n\
                 * '[0]' expected type 'string', got unconvertible type '[]interface {}'\n\
                 * '[1]' expected type 'string', got unconvertible type 'map[string]interface {}'",
            ),
            (
                "comma",
                r#"{"a":{"b":null}}"#,
                "1 error(s) decoding:\n\n\
                 * '[0]' expected type 'string', got unconvertible type 'map[string]interface {}'",
            ),
            ("pairs", "null", "{}"),
            ("pairs", "[]", "{}"),
            ("pairs", "[{}]", "{}"),
            ("pairs", r#"{"a":1.50,"b":false,"c":null}"#, r#"{"a":"1.50","b":"0","c":""}"#),
            ("pairs", r#""a=b,c=d""#, r#"{"a":"b,c=d"}"#),
            ("pairs", r#"["a=b","c=d=e"]"#, r#"{"a":"b","c":"d=e"}"#),
            ("pairs", r#"["x=1","x=2"]"#, r#"{"x":"2"}"#),
            ("pairs", r#"[{"a":"1"},{"b":2}]"#, r#"{"a":"1","b":"2"}"#),
            ("pairs", r#"[{"a":1},null]"#, r#"{"a":"1"}"#),
            ("pairs", r#""abc""#, PAIR_0),
            ("pairs", r#""""#, PAIR_0),
            ("pairs", "5", PAIR_0),
            ("pairs", "true", PAIR_0),
            ("pairs", r#"["=b"]"#, PAIR_0),
            ("pairs", r#"["a=b",null]"#, r#"invalid key pair at index 1 in field "pairs""#),
            (
                "pairs",
                r#"{"a":"b","c":["x"]}"#,
                "decoding failed due to the following error(s):\n\n\
                 '[0]' expected type 'string', got unconvertible type 'map[string]interface {}'",
            ),
            ("map", r#"{"a":{"b":1.0}}"#, r#"{"a":{"b":1.0}}"#),
            ("map", "null", "{}"),
            ("map", r#"[{"a":1},{"b":2}]"#, r#"{"a":1,"b":2}"#),
            ("map", r#""x""#, "'' expected type 'map[string]interface {}', got unconvertible type 'string'"),
            ("json", r#"[{"a":1}]"#, r#"[{"a":1}]"#),
            ("json", r#""[{\"a\":1}]""#, r#"[{"a":1}]"#),
            ("json", r#""""#, "null"),
            ("json", r#""{""#, "the text is not JSON"),
            ("name", r#""a.b-c_1""#, r#""a.b-c_1""#),
            ("name", r#""-a""#, "field validation failed"),
        ] {
            assert_eq!(outcome(name, json), want, "{name} {json}");
        }
    }

    #[test]
    fn a_name_is_ascii_and_keeps_its_marks_inside() {
        for good in ["a", "_", "0", "a-b", "a.b", "a--b", "_._", "A9"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-", ".", "-a", "a-", "trail.", ".a", "a/b", "a b", "é", "aé", "a\n", "a\0b", "a%2fb"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_path_wins_over_the_data_and_presets_fill_the_gaps() {
        let data = Fields::from_iter([("name".to_owned(), "other".into()), ("unknown".to_owned(), Value::Null)]);
        let input = Input::decode(FIELDS, &data, Some(("name", "mine"))).unwrap();
        assert_eq!(input.text("name"), Some("mine"));
        assert!(!input.has("unknown") && !input.has("string"));
        assert_eq!(input.text_or_preset("string"), "password");
        assert!(input.flag_or_preset("bool"));
        assert_eq!(input.int_or_preset("int"), 7);
        assert_eq!(input.span_or_preset("duration"), Duration::from_secs(60));
        assert_eq!((input.list("slice"), input.pairs("pairs"), input.map("map")), (None, None, None));
        assert_eq!((input.flag("bool"), input.int("int"), input.span("duration")), (None, None, None));
        assert!(input.secret("secret").is_none());
    }

    #[test]
    fn a_given_value_wins_over_the_preset() {
        let data = r#"{"string":"","bool":null,"int":0,"duration":0,"slice":[]}"#;
        let input = Input::decode(FIELDS, &serde_json::from_str(data).unwrap(), None).unwrap();
        assert_eq!(input.text_or_preset("string"), "");
        assert!(!input.flag_or_preset("bool"));
        assert_eq!(input.int_or_preset("int"), 0);
        assert_eq!(input.span_or_preset("duration"), Duration::ZERO);
        assert_eq!(input.list("slice"), Some(&[][..]));
    }

    #[test]
    fn nothing_of_a_value_shows() {
        let input = decode("secret", r#""hush""#).unwrap();
        assert_eq!(format!("{input:?}"), r#"{"secret"}"#);
        for (name, json) in [("secret", r#"["hush"]"#), ("pairs", r#"["hush"]"#), ("string", r#"{"a":"hush"}"#)] {
            assert!(!decode(name, json).unwrap_err().contains("hush"), "{name}");
        }
    }

    #[test]
    fn a_refusal_in_the_handler_says_so() {
        let data = Fields::from_iter([("int".to_owned(), "abc".into())]);
        let error = Input::decode(FIELDS, &data, None).unwrap_err();
        assert_eq!(
            error.in_handler(),
            "Field validation failed: error converting input for field \"int\": '' cannot parse value as 'int': \
             strconv.ParseInt: invalid syntax"
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            "-?[0-9]{1,30}(\\.[0-9]{1,5})?[a-z]?".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_is_a_surprise(value in any_json()) {
            for field in FIELDS {
                let data = Fields::from_iter([(field.name.to_owned(), value.clone())]);
                let _ = Input::decode(FIELDS, &data, None).map_err(|e| e.to_string());
            }
        }
    }
}
