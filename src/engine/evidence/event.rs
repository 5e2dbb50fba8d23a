//! One event of the record: what it says, and the hash that ties it to the one before.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::engine::request::Fields;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What stands before the first event.
pub const GENESIS: Hash = [0; 32];

/// An event that has no place in the record yet. It holds texts, whole numbers, booleans, lists and objects: nothing
/// whose JSON could be written in two ways.
#[derive(Debug, Clone)]
pub struct Draft(Fields);

impl Draft {
    /// An event of that kind: `request.filed`, `issue.intent`, …
    pub fn new(kind: &str) -> Self {
        Self(Fields::from_iter([("kind".to_owned(), json!(kind))]))
    }

    /// The same event with one more field; empty texts, lists and objects are left out.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        if !empty {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    /// The event at its place: number `seq` after the event with the hash `prev`.
    pub fn placed(self, seq: u64, time: &str, mount: &str, prev: &Hash) -> (Value, Hash) {
        let mut fields = self.0;
        for (key, value) in [("v", json!(1)), ("seq", json!(seq)), ("time", json!(time)), ("mount", json!(mount))] {
            fields.insert(key.to_owned(), value);
        }
        let hash = hash(prev, &Value::Object(fields.clone()));
        fields.insert("prev".to_owned(), json!(hex(prev)));
        fields.insert("hash".to_owned(), json!(hex(&hash)));
        (Value::Object(fields), hash)
    }
}

/// The hash of an event: SHA-256 over the hash before and the canonical text of all but `prev` and `hash`.
pub fn hash(prev: &Hash, body: &Value) -> Hash {
    let mut digest = Sha256::new();
    digest.update(prev);
    digest.update(canonical(body).as_bytes());
    digest.finalize().into()
}

/// The hash of an event as it is stored or exported.
pub fn hash_of(prev: &Hash, event: &Value) -> Hash {
    let mut body = event.clone();
    if let Value::Object(fields) = &mut body {
        fields.remove("prev");
        fields.remove("hash");
    }
    hash(prev, &body)
}

/// The canonical JSON (RFC 8785) of a value without fractions.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value);
    text
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Array(list) => {
            text.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write(text, item);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            // Sorted as UTF-16, as the RFC has it.
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (i, (key, item)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(text, item);
            }
            text.push('}');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

/// As lower case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash from its hexadecimal digits.
pub fn unhex(text: &str) -> Option<Hash> {
    let mut out = GENESIS;
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_text_is_that_of_the_rfc() {
        let value =
            json!({ "\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": [true, null, "\u{8}\n\"\\"], "\u{1f600}": 5, "a": -7 });
        let wanted =
            "{\"\\r\":2,\"1\":[true,null,\"\\b\\n\\\"\\\\\"],\"a\":-7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
        assert_eq!(canonical(&value), wanted);
    }

    #[test]
    fn an_event_hangs_on_the_one_before() {
        let draft = || Draft::new("x").with("reason", "r").with("empty", "");
        let (event, hash) = draft().placed(7, "t", "m", &GENESIS);
        assert_eq!(event["hash"], hex(&hash));
        assert!(event.get("empty").is_none());
        assert_eq!(hash_of(&GENESIS, &event), hash);
        assert_ne!(draft().placed(7, "t", "m", &hash).1, hash);
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        assert_eq!(unhex("zz"), None);
    }
}
