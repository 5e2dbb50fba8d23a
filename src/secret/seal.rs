//! Seals: proof that a text which somebody else keeps for us is one that we wrote.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Secret;

/// Bytes of HMAC-SHA-256 that a seal keeps: enough that nobody finds one by trying (RFC 2104, section 5).
const KEPT: usize = 16;

/// The seal of these texts, in hexadecimal. The same texts in other borders have another seal.
pub fn of(key: &Secret, texts: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(2 * KEPT);
    // HMAC takes keys of any length.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()) {
        for text in texts {
            mac.update(&(text.len() as u64).to_be_bytes());
            mac.update(text.as_bytes());
        }
        for byte in mac.finalize().into_bytes().iter().take(KEPT) {
            let _ = write!(out, "{byte:02x}");
        }
    }
    out
}

/// Whether `seal` is that of these texts.
pub fn holds(key: &Secret, texts: &[&str], seal: &str) -> bool {
    let wanted = of(key, texts);
    !wanted.is_empty() && bool::from(wanted.as_bytes().ct_eq(seal.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_its_key_and_its_texts() {
        let (key, other) = (Secret::new("k".into()), Secret::new("K".into()));
        let seal = of(&key, &["ab", "c"]);
        assert_eq!(seal.len(), 32);
        assert!(holds(&key, &["ab", "c"], &seal));
        for wrong in [&["a", "bc"][..], &["ab"], &["ab", "c", ""], &["abc"], &[]] {
            assert!(!holds(&key, wrong, &seal), "{wrong:?}");
        }
        assert!(!holds(&other, &["ab", "c"], &seal) && !holds(&key, &["ab", "c"], "") && !holds(&key, &[], ""));
    }
}
