//! Looking for secrets in bytes: in each form that a copy may have, and in part.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The shortest secret that can be looked for: shorter ones are found where they are not.
pub const SHORTEST: usize = 12;
/// What is looked up at each place.
const WINDOW: usize = 8;
/// How many bytes of a secret in a row are reported when not all of it is there.
const PART: usize = 8;

/// Something that must not be found, or must be found in so many places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// What it is, for reports; several secrets may have the same.
    pub what: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Known {
    /// A secret text.
    pub fn new(what: &str, text: &str) -> Known {
        Known { what: what.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    /// What only the holder of a private key has: a stretch of its PEM text and the same place of its DER, past the parts
    /// that all keys share and the public key.
    pub fn private_key(what: &str, pem: &str) -> Vec<Known> {
        let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----") && !line.is_empty()).collect();
        let body = lines.concat();
        let der = base64::engine::general_purpose::STANDARD.decode(&body).expect("a PEM text");
        // RSA: within the private exponent. Otherwise within the secret number, which of Ed25519 ends at byte 48 and of the
        // curves lies before the public key.
        let (first, length) = match der.len() {
            601.. => (336, 48),
            66.. => (48, 16),
            _ => (24, 24),
        };
        let text = &body[first / 3 * 4..(first + length) / 3 * 4];
        let text = Known { what: what.to_owned(), bytes: text.as_bytes()[..text.len().min(20)].to_vec() };
        vec![text, Known { what: what.to_owned(), bytes: der[first..first + length].to_vec() }]
    }
}

/// How a secret was written where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    Plain,
    /// Some of its bytes in a row.
    Part(usize),
    Utf16,
    Hex,
    Base64,
    /// As JSON or a URL escapes it.
    Escaped,
}

/// One place where one secret was found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Which of the secrets that were looked for.
    pub secret: usize,
    pub form: Form,
    /// Where in the bytes, and how many of them.
    pub at: usize,
    pub length: usize,
}

/// All forms of all secrets, ready to be looked for.
pub struct Search {
    known: Vec<Known>,
    patterns: Vec<Pattern>,
    /// The patterns, and the place in each, that have these eight bytes.
    windows: HashMap<[u8; WINDOW], Vec<(usize, usize)>>,
    /// Which hashes of eight bytes occur at all: most places are passed over here.
    filter: Vec<u64>,
}

struct Pattern {
    secret: usize,
    form: Form,
    bytes: Vec<u8>,
}

const FILTER_BITS: u32 = 22;

fn slot(window: [u8; WINDOW]) -> usize {
    (u64::from_le_bytes(window).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - FILTER_BITS)) as usize
}

impl Search {
    /// For these secrets; the same text twice counts once.
    pub fn new(known: impl IntoIterator<Item = Known>) -> Search {
        let mut known: Vec<Known> = known.into_iter().collect();
        known.sort();
        known.dedup_by(|a, b| a.bytes == b.bytes);
        let mut patterns = Vec::new();
        for (secret, Known { what, bytes }) in known.iter().enumerate() {
            assert!(bytes.len() >= SHORTEST, "{what}: too short to be looked for");
            for (form, bytes) in forms(bytes) {
                patterns.push(Pattern { secret, form, bytes });
            }
        }
        let mut search = Search { known, patterns, windows: HashMap::new(), filter: vec![0; 1 << (FILTER_BITS - 6)] };
        for (index, pattern) in search.patterns.iter().enumerate() {
            // Of the text itself any part is looked for; the other forms whole.
            let last = if pattern.form == Form::Plain { pattern.bytes.len() - WINDOW } else { 0 };
            for place in 0..=last {
                let window = pattern.bytes[place..place + WINDOW].try_into().unwrap();
                search.windows.entry(window).or_default().push((index, place));
                let slot = slot(window);
                search.filter[slot / 64] |= 1 << (slot % 64);
            }
        }
        search
    }

    /// The secrets, in the order that [`Hit::secret`] counts.
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// The longest form of any secret.
    pub fn longest(&self) -> usize {
        self.patterns.iter().map(|pattern| pattern.bytes.len()).max().unwrap_or(0)
    }

    /// Every place where a secret, or a part of one, stands.
    pub fn find(&self, bytes: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        let mut at = 0;
        while at + WINDOW <= bytes.len() {
            let window: [u8; WINDOW] = bytes[at..at + WINDOW].try_into().unwrap();
            let slot = slot(window);
            if self.filter[slot / 64] & (1 << (slot % 64)) == 0 {
                at += 1;
                continue;
            }
            let best = self
                .windows
                .get(&window)
                .into_iter()
                .flatten()
                .filter_map(|&(index, place)| self.matched(index, place, &bytes[at..]).map(|hit| Hit { at, ..hit }))
                .max_by_key(|hit| hit.length);
            at += match best {
                Some(hit) => {
                    let length = hit.length;
                    hits.push(hit);
                    length
                }
                None => 1,
            };
        }
        hits
    }

    fn matched(&self, index: usize, place: usize, bytes: &[u8]) -> Option<Hit> {
        let Pattern { secret, form, bytes: pattern } = &self.patterns[index];
        let length = pattern[place..].iter().zip(bytes).take_while(|(a, b)| a == b).count();
        let whole = length == pattern.len();
        let form = match form {
            _ if whole => *form,
            Form::Plain if length >= PART && !is_a_number(&pattern[place..place + length]) => Form::Part(length),
            _ => return None,
        };
        Some(Hit { secret: *secret, form, at: 0, length })
    }
}

/// Tokens are long and many, and some have eight digits in a row that the date of a certificate has as well.
fn is_a_number(part: &[u8]) -> bool {
    part.len() < SHORTEST && part.iter().all(u8::is_ascii_digit)
}

/// The forms of a secret. Of base64 there are three, for the three places in a longer text that it can start at; each
/// is what does not depend on the bytes around it.
fn forms(bytes: &[u8]) -> Vec<(Form, Vec<u8>)> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        (Form::Plain, bytes.to_vec()),
        (Form::Hex, hex.to_uppercase().into_bytes()),
        (Form::Hex, hex.into_bytes()),
    ];
    for (before, cut) in [(0, 0), (1, 2), (2, 3)] {
        let padded = [&vec![0; before], bytes].concat();
        let whole = padded.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.push((Form::Base64, text.as_bytes()[cut..whole].to_vec()));
        }
    }
    if let Ok(text) = str::from_utf8(bytes) {
        forms.push((Form::Utf16, text.encode_utf16().flat_map(u16::to_le_bytes).collect()));
        forms.push((Form::Utf16, text.encode_utf16().flat_map(u16::to_be_bytes).collect()));
        let json = serde_json::to_string(text).unwrap();
        forms.push((Form::Escaped, json.trim_matches('"').as_bytes().to_vec()));
        let url = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        forms.push((Form::Escaped, url.into_bytes()));
    }
    forms.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
    forms.dedup_by(|a, b| a.1 == b.1);
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "k9-Qw\"3Rt/Zz7%Lm0Vb8";

    fn found(text: &[u8]) -> Vec<(Form, usize)> {
        let search = Search::new([Known::new("one", SECRET), Known::new("other", "another-secret-text")]);
        search.find(text).into_iter().map(|hit| (hit.form, hit.at)).collect()
    }

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        for before in 0..9 {
            let around = |text: &[u8]| [&vec![b'x'; before], text, b"yyyyyyyyyyyy"].concat();
            let hex = |upper: bool| -> String {
                SECRET.bytes().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect()
            };
            assert_eq!(found(&around(SECRET.as_bytes())), [(Form::Plain, before)]);
            assert_eq!(found(&around(hex(true).as_bytes())), [(Form::Hex, before)]);
            assert_eq!(found(&around(hex(false).as_bytes())), [(Form::Hex, before)]);
            let wide: Vec<u8> = SECRET.encode_utf16().flat_map(u16::to_le_bytes).collect();
            assert_eq!(found(&around(&wide)), [(Form::Utf16, before)]);
            let json = serde_json::to_string(SECRET).unwrap();
            assert!(found(&around(json.as_bytes())).iter().any(|(form, _)| *form == Form::Escaped));
            for encoded in
                [STANDARD_NO_PAD.encode(around(SECRET.as_bytes())), URL_SAFE_NO_PAD.encode(around(SECRET.as_bytes()))]
            {
                assert!(matches!(found(encoded.as_bytes())[..], [(Form::Base64, _)]), "{before}: {encoded}");
            }
        }
    }

    #[test]
    fn a_part_is_found_and_nothing_else() {
        assert_eq!(found(&SECRET.as_bytes()[3..]), [(Form::Part(17), 0)]);
        assert_eq!(found(&SECRET.as_bytes()[..8]), [(Form::Part(8), 0)]);
        let token = Search::new([Known::new("token", "a-token-with-109221122020-in-it")]);
        assert_eq!(token.find(b"\r110922112202Z0k").len(), 0, "a date");
        assert_eq!(token.find(b"-10922112").len(), 1);
        assert_eq!(token.find(b"109221122020").len(), 1);
        assert_eq!(found(&SECRET.as_bytes()[..7]), []);
        assert_eq!(found(&[0; 4096]), []);
        let two = [SECRET.as_bytes(), b"another-secret-text"].concat();
        assert_eq!(found(&two), [(Form::Plain, 0), (Form::Plain, SECRET.len())]);
    }
}
