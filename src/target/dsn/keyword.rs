//! Keyword/value connection strings: `host=… user='…'`.

use super::Setting;

/// The settings of a string, quotes and escapes undone.
///
/// A variable may stand bare (`password={{password}}`) or in quotes; its value is put in later and needs no escapes.
pub(super) fn settings(text: &str) -> Result<Vec<Setting>, String> {
    Ok(values(text)?.into_iter().map(|value| (value.key, value.text)).collect())
}

/// One `key = value`.
pub(super) struct Value {
    pub(super) key: String,
    pub(super) text: String,
    /// Where the value stands in the string, with its quotes.
    pub(super) span: std::ops::Range<usize>,
}

/// All values of a string. No error holds a part of the string.
pub(super) fn values(text: &str) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    let mut at = skip_space(text, 0);
    while at < text.len() {
        let equals = text[at..].find('=').ok_or("invalid keyword/value")? + at;
        let key = text[at..equals].trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) || key.contains(['\'', '\\']) {
            return Err("invalid keyword/value".to_owned());
        }
        let begin = skip_space(text, equals + 1);
        let (value, end) = value_at(text, begin)?;
        found.push(Value { key: key.to_owned(), text: value, span: begin..end });
        at = skip_space(text, end);
    }
    Ok(found)
}

fn skip_space(text: &str, from: usize) -> usize {
    text.len() - text[from..].trim_start().len()
}

/// The value that begins at `begin`, and where it ends.
fn value_at(text: &str, begin: usize) -> Result<(String, usize), String> {
    let quoted = text[begin..].starts_with('\'');
    let mut value = String::with_capacity(text.len() - begin);
    let mut characters = text[begin..].char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next().ok_or("invalid backslash")?.1),
            '\'' if quoted => return Ok((value, begin + at + 1)),
            c if !quoted && c.is_whitespace() => return Ok((value, begin + at)),
            c => value.push(c),
        }
    }
    if quoted {
        Err("unterminated quoted string in connection info string".to_owned())
    } else {
        Ok((value, text.len()))
    }
}
