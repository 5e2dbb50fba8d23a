//! The functions that the host adds to Go's templates.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gotmpl::Value;
use sha2::{Digest, Sha256};

use crate::engine::go::layout;

/// The longest text that `random` gives.
pub const MAX_RANDOM: i64 = 1024;

/// Go's own functions, which the template engine brings along.
const BUILTINS: &[&str] = &[
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf",
    "println", "slice", "urlquery",
];

/// A function that the host adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Random,
    Truncate,
    TruncateSha256,
    Uppercase,
    Lowercase,
    Replace,
    Sha256,
    Base64,
    DecodeBase64,
    Hex,
    DecodeHex,
    UnixTime,
    UnixTimeMillis,
    Timestamp,
    Uuid,
    Glob,
}

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    Int,
    Text,
}

use Function::*;
use Parameter::{Int, Text};

const ADDED: &[(&str, Function, &[Parameter])] = &[
    ("random", Random, &[Int]),
    ("truncate", Truncate, &[Int, Text]),
    ("truncate_sha256", TruncateSha256, &[Int, Text]),
    ("uppercase", Uppercase, &[Text]),
    ("lowercase", Lowercase, &[Text]),
    ("replace", Replace, &[Text, Text, Text]),
    ("sha256", Sha256, &[Text]),
    ("base64", Base64, &[Text]),
    ("decode_base64", DecodeBase64, &[Text]),
    ("hex", Hex, &[Text]),
    ("decode_hex", DecodeHex, &[Text]),
    ("unix_time", UnixTime, &[]),
    ("unix_time_millis", UnixTimeMillis, &[]),
    ("timestamp", Timestamp, &[Text]),
    ("uuid", Uuid, &[]),
    ("glob", Glob, &[Text, Text]),
];

/// Whether a template may call `name`.
pub fn is_known(name: &str) -> bool {
    BUILTINS.contains(&name) || named(name).is_some()
}

/// The function that the host adds under `name`.
pub fn named(name: &str) -> Option<Function> {
    ADDED.iter().find(|(n, _, _)| *n == name).map(|(_, function, _)| *function)
}

/// What a call may not do. The text is Go's where Go has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The caller must bring more random bytes and begin again.
    #[error("not enough random bytes")]
    Hungry,
    #[error("length must be between 0 and {MAX_RANDOM} but was {0}")]
    RandomLength(i64),
    #[error("max length must be > {1} but was {0}")]
    TooShort(i64, i64),
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
    #[error("encoding/hex: odd length hex string")]
    HexLength,
    #[error("encoding/hex: invalid byte: {}", describe(*.0))]
    HexByte(u8),
    #[error("the decoded bytes are not UTF-8")]
    NotUtf8,
    #[error("the arguments have the wrong types")]
    Arguments,
}

/// What calls draw on: random bytes, handed out once each, and the time.
pub struct Source<'a> {
    pub random: &'a [u8],
    pub drawn: &'a mut usize,
    pub now: SystemTime,
}

impl Function {
    pub fn name(self) -> &'static str {
        self.entry().map_or("", |(name, _, _)| *name)
    }

    pub fn parameters(self) -> &'static [Parameter] {
        self.entry().map_or(&[], |(_, _, parameters)| *parameters)
    }

    fn entry(self) -> Option<&'static (&'static str, Function, &'static [Parameter])> {
        ADDED.iter().find(|(_, function, _)| *function == self)
    }

    /// Calls it. Arguments are of the declared types already; numbers may still be out of range.
    pub fn call(self, args: &[Value], source: &mut Source<'_>) -> Result<Value, CallError> {
        let texts: Vec<&str> = args.iter().filter_map(Value::as_str).collect();
        let number = args.first().and_then(integer);
        let text = match (self, texts.as_slice(), number) {
            (Random, _, Some(length)) => random(length, source)?,
            (Truncate, [text], Some(max)) => truncate(max, text)?,
            (TruncateSha256, [text], Some(max)) => truncate_sha256(max, text)?,
            (Uppercase, [text], _) => text.chars().map(upper).collect(),
            (Lowercase, [text], _) => text.chars().map(lower).collect(),
            (Replace, [from, to, text], _) => text.replace(from, to),
            (Sha256, [text], _) => hex(&Sha256::digest(text)),
            (Base64, [text], _) => STANDARD.encode(text),
            (DecodeBase64, [text], _) => decode_base64(text)?,
            (Hex, [text], _) => hex(text.as_bytes()),
            (DecodeHex, [text], _) => decode_hex(text)?,
            (UnixTime, [], _) => since_epoch(source.now).as_secs().to_string(),
            (UnixTimeMillis, [], _) => since_epoch(source.now).as_millis().to_string(),
            (Timestamp, [text], _) => layout::format(text, source.now),
            (Uuid, [], _) => uuid(source)?,
            (Glob, [pattern, subject], _) => return Ok(Value::Bool(glob(pattern, subject))),
            _ => return Err(CallError::Arguments),
        };
        Ok(Value::String(text.into()))
    }
}

/// A whole number, also as a floating-point constant without a fraction.
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(*n),
        Value::Uint(n) => i64::try_from(*n).ok(),
        // Within 2^53 a float is exact, and nothing here wants more.
        Value::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => Some(*f as i64),
        _ => None,
    }
}

/// Whether `subject` matches `pattern`, in which `*` stands for any text, also none.
pub fn glob(pattern: &str, subject: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| subject.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn draw<'a>(source: &mut Source<'a>, count: usize) -> Result<&'a [u8], CallError> {
    let end = source.drawn.saturating_add(count);
    let bytes = source.random.get(*source.drawn..end).ok_or(CallError::Hungry)?;
    *source.drawn = end;
    Ok(bytes)
}

fn random(length: i64, source: &mut Source<'_>) -> Result<String, CallError> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let wanted =
        usize::try_from(length).ok().filter(|_| length <= MAX_RANDOM).ok_or(CallError::RandomLength(length))?;
    let mut text = String::with_capacity(wanted);
    while text.len() < wanted {
        let byte = usize::from(draw(source, 1)?.first().copied().unwrap_or(u8::MAX));
        // 248 is the largest multiple of 62: what is above would favour some characters.
        if byte < 248 {
            text.push(char::from(ALPHABET[byte % ALPHABET.len()]));
        }
    }
    Ok(text)
}

/// Random bytes in the shape of a UUID, all 128 bits of them, as the host makes them.
fn uuid(source: &mut Source<'_>) -> Result<String, CallError> {
    let text = hex(draw(source, 16)?);
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

/// At most `max` bytes. Go may cut a character in half there, we cut before it.
fn truncate(max: i64, text: &str) -> Result<String, CallError> {
    if max <= 0 {
        return Err(CallError::TooShort(max, 0));
    }
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    Ok(text[..text.floor_char_boundary(max)].to_owned())
}

/// At most `max` bytes, the last eight of which stand for what was cut.
fn truncate_sha256(max: i64, text: &str) -> Result<String, CallError> {
    const DIGITS: usize = 8;
    if max <= DIGITS as i64 {
        return Err(CallError::TooShort(max, DIGITS as i64));
    }
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    if text.len() <= max {
        return Ok(text.to_owned());
    }
    let (kept, cut) = text.split_at(text.floor_char_boundary(max - DIGITS));
    Ok(format!("{kept}{}", &hex(&Sha256::digest(cut))[..DIGITS]))
}

/// Go maps each character to one character: `ß` stays.
fn upper(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(single), None) => single,
        _ => c,
    }
}

/// The only character with a longer lower case is `İ`, which Go makes an `i`.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_hex(text: &str) -> Result<String, CallError> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).ok_or(CallError::HexByte(*byte));
    let digits = text.bytes().map(|byte| digit(&byte)).collect::<Result<Vec<_>, _>>()?;
    if digits.len() % 2 != 0 {
        return Err(CallError::HexLength);
    }
    let bytes = digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
    String::from_utf8(bytes).map_err(|_| CallError::NotUtf8)
}

fn decode_base64(text: &str) -> Result<String, CallError> {
    // Go passes over line breaks.
    let clean = text.replace(['\r', '\n'], "");
    let bytes = STANDARD.decode(&clean).map_err(|_| {
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        CallError::Base64(clean.bytes().position(|b| !alphabet(b)).unwrap_or(clean.len() / 4 * 4))
    })?;
    String::from_utf8(bytes).map_err(|_| CallError::NotUtf8)
}

/// A byte as Go's `%#U` prints it.
fn describe(byte: u8) -> String {
    let c = char::from(byte);
    if byte.is_ascii() && !c.is_control() { format!("U+{byte:04X} '{c}'") } else { format!("U+{byte:04X}") }
}

fn since_epoch(now: SystemTime) -> std::time::Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs() {
        for (pattern, subject, want) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("*b*", "abc", true),
            ("*c", "abc", true),
            ("b*", "abc", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("p*l", "pol", true),
            ("ro-*", "ro", false),
            ("a*a", "a", false),
            ("**", "x", true),
            ("a**a", "aa", true),
        ] {
            assert_eq!(glob(pattern, subject), want, "{pattern:?} {subject:?}");
        }
    }

    #[test]
    fn random_bytes_are_used_once_and_evenly() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut drawn = 0;
        let mut source = Source { random: &bytes, drawn: &mut drawn, now: UNIX_EPOCH };
        let text = random(248, &mut source).unwrap();
        for c in text.chars() {
            assert_eq!(text.matches(c).count(), 4, "{c}");
        }
        assert_eq!(random(1, &mut source), Err(CallError::Hungry));
        assert_eq!(random(1_000_000_000, &mut source), Err(CallError::RandomLength(1_000_000_000)));
        assert_eq!(random(-1, &mut source), Err(CallError::RandomLength(-1)));
    }

    #[test]
    fn every_function_has_one_name() {
        for (name, function, parameters) in ADDED {
            assert_eq!((function.name(), function.parameters()), (*name, *parameters));
        }
    }

    proptest! {
        #[test]
        fn cuts_keep_to_their_length(max in 1i64..40, text in ".{0,40}") {
            prop_assert!(truncate(max, &text).unwrap().len() <= max as usize);
            prop_assert!(truncate_sha256(max + 8, &text).unwrap().len() <= max as usize + 8);
        }

        #[test]
        fn decoding_is_the_inverse_of_encoding(text in ".*") {
            prop_assert_eq!(decode_hex(&hex(text.as_bytes())), Ok(text.clone()));
            prop_assert_eq!(decode_base64(&STANDARD.encode(&text)), Ok(text));
        }

        #[test]
        fn no_text_is_a_surprise(a in ".*", b in ".*") {
            let _ = (decode_hex(&a), decode_base64(&a), glob(&a, &b));
        }
    }
}
