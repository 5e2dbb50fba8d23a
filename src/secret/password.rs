//! Randomness, and the default password generator.
//!
//! Every random byte that becomes part of a secret or of a name is drawn here, straight from the operating system: a
//! generator of our own would keep what it handed out, and with it the passwords, in its buffers.

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The operating system gave no randomness. There is nothing to fall back on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no randomness")]
pub struct NoRandomness;

/// Length of a password of the default generator, in characters (the built-in engine's).
pub const PASSWORD_LENGTH: usize = 20;

/// Characters of a password of the default generator (the built-in engine's).
const PASSWORD_CHARACTERS: &[u8; 63] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";

/// Characters of the template function `random`.
const BASE62: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// `N` random bytes, wiped when dropped.
pub fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; N]);
    fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

/// Fills `buffer` with random bytes.
pub fn fill(buffer: &mut [u8]) -> Result<(), NoRandomness> {
    #[cfg(test)]
    if seeded::fill(buffer) {
        return Ok(());
    }
    SysRng.try_fill_bytes(buffer).map_err(|_| NoRandomness)
}

/// Any number, to keep apart what must not meet: processes, and moments in time. Not for secrets.
pub fn number() -> u64 {
    #[cfg(test)]
    if let Some(number) = seeded::number() {
        return number;
    }
    rand::random()
}

/// `length` random characters of `[a-zA-Z0-9]`, each of the 62 as likely as any other.
pub fn base62(length: usize) -> Result<String, NoRandomness> {
    let mut text = String::with_capacity(length);
    let mut source = Source::new()?;
    while text.len() < length {
        text.push(source.pick(BASE62)?);
    }
    Ok(text)
}

/// A password of the default generator: [`PASSWORD_LENGTH`] characters of `[a-zA-Z0-9-]`, among them at least one lower
/// case letter, one upper case letter, one digit and one `-`.
///
/// All passwords of that form are equally likely: a draw that lacks a class is thrown away as a whole.
pub fn password() -> Result<Secret, NoRandomness> {
    let mut source = Source::new()?;
    loop {
        // Reserved at full size: a buffer that grows leaves copies of its content behind.
        let mut text = Zeroizing::new(String::with_capacity(PASSWORD_LENGTH));
        while text.len() < PASSWORD_LENGTH {
            text.push(source.pick(PASSWORD_CHARACTERS)?);
        }
        if has_every_class(&text) {
            return Ok(Secret::new(std::mem::take(&mut *text)));
        }
    }
}

fn has_every_class(text: &str) -> bool {
    let has = |class: fn(&u8) -> bool| text.as_bytes().iter().any(class);
    has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit) && has(|&b| b == b'-')
}

/// A small store of random bytes, so that not each character is a system call. Wiped when dropped.
struct Source {
    bytes: Zeroizing<[u8; 64]>,
    next: usize,
}

impl Source {
    fn new() -> Result<Self, NoRandomness> {
        Ok(Self { bytes: bytes()?, next: 0 })
    }

    /// One of at most 64 characters, without bias: six bits are drawn, and drawn again when they name none.
    fn pick(&mut self, characters: &[u8]) -> Result<char, NoRandomness> {
        loop {
            if self.next == self.bytes.len() {
                *self = Self::new()?;
            }
            let index = usize::from(self.bytes[self.next] & 63);
            self.next += 1;
            if let Some(&character) = characters.get(index) {
                return Ok(char::from(character));
            }
        }
    }
}

/// Randomness that repeats, for simulations: on a thread that was given a seed.
#[cfg(test)]
pub mod seeded {
    use std::cell::Cell;

    thread_local!(static STATE: Cell<Option<u64>> = const { Cell::new(None) });

    /// From now on everything that is drawn on this thread follows from `seed`; `None` ends that.
    pub fn by(seed: Option<u64>) {
        STATE.set(seed);
    }

    /// The next number, if this thread has a seed (SplitMix64).
    pub fn number() -> Option<u64> {
        let state = STATE.get()?.wrapping_add(0x9E37_79B9_7F4A_7C15);
        STATE.set(Some(state));
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(mixed ^ (mixed >> 31))
    }

    pub(super) fn fill(buffer: &mut [u8]) -> bool {
        for bytes in buffer.chunks_mut(8) {
            let Some(number) = number() else { return false };
            bytes.copy_from_slice(&number.to_le_bytes()[..bytes.len()]);
        }
        STATE.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn passwords_have_the_form_of_the_default_generator() {
        let mut seen = HashSet::new();
        for _ in 0..500 {
            let password = password().unwrap();
            let text = password.expose();
            assert_eq!(text.len(), PASSWORD_LENGTH);
            assert!(text.bytes().all(|b| PASSWORD_CHARACTERS.contains(&b)), "{text}");
            assert!(has_every_class(text), "{text}");
            assert!(seen.insert(text.to_owned()), "drawn twice");
        }
    }

    #[test]
    fn each_class_is_asked_for() {
        for missing in ["ABC0123-", "abc0123-", "abcABC--", "abcABC01"] {
            assert!(!has_every_class(missing), "{missing}");
        }
        assert!(has_every_class("-0Aa"));
    }

    /// 62 000 characters, 1 000 of each expected. The bound is about seven standard deviations: a modulo bias (4:5 for
    /// six bits folded onto 62) is far outside of it.
    #[test]
    fn base62_is_uniform() {
        let mut counts: HashMap<char, u32> = HashMap::new();
        for character in base62(62_000).unwrap().chars() {
            *counts.entry(character).or_default() += 1;
        }
        assert_eq!(counts.len(), 62);
        assert!(counts.values().all(|n| (780..=1_220).contains(n)), "{counts:?}");
    }

    #[test]
    fn lengths() {
        assert_eq!(base62(0).unwrap(), "");
        assert_eq!(base62(1).unwrap().len(), 1);
        assert_eq!(base62(129).unwrap().len(), 129);
        assert_ne!(*bytes::<16>().unwrap(), [0; 16]);
    }
}
