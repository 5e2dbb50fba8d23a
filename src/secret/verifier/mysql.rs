//! What MySQL and MariaDB store: the hashes of their three password plugins.
//!
//! Each can be given to the server in place of the password, so that neither the password nor anything a log could be
//! searched for travels in a statement. None of the texts made here needs quoting or escaping inside `'…'`.

use base64::engine::general_purpose::STANDARD_NO_PAD;
use curve25519_dalek::edwards::EdwardsPoint;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use zeroize::{Zeroize, Zeroizing};

use crate::secret::password::{self, NoRandomness};
use crate::secret::{Secret, push_base64};

/// The alphabet of crypt(3), in the order of its 6-bit values.
const CRYPT: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Salt of `caching_sha2_password`, bytes.
const SALT_LENGTH: usize = 20;

/// Rounds of `caching_sha2_password`: what `$005$` stands for, and the server's default.
const ROUNDS: u32 = 5000;

/// `mysql_native_password`: `*` and the upper-case hex of SHA1(SHA1(password)), 41 characters; nothing for no password.
pub fn native(password: &Secret) -> Secret {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if password.is_empty() {
        return Secret::new(String::new());
    }
    let mut once = Sha1::digest(password.expose().as_bytes());
    let mut twice = Sha1::digest(once);
    let mut text = String::with_capacity(41);
    text.push('*');
    for byte in twice.iter() {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    once.as_mut_slice().zeroize();
    twice.as_mut_slice().zeroize();
    Secret::new(text)
}

/// `caching_sha2_password` with a fresh salt: `$A$005$`, 20 characters of salt, 43 of hash, 70 in all.
///
/// The salt is drawn from the 64 characters of crypt(3), 120 bits, and not from all the bytes that the server itself
/// takes: so the text is printable, and a quoted string will do where servers before 8.0.17 know no hex literal.
/// Takes about 2 ms of CPU.
pub fn caching_sha2(password: &Secret) -> Result<Secret, NoRandomness> {
    let mut salt = *password::bytes::<SALT_LENGTH>()?;
    for byte in &mut salt {
        *byte = CRYPT[usize::from(*byte & 63)];
    }
    Ok(caching_sha2_with_salt(password, &salt))
}

fn caching_sha2_with_salt(password: &Secret, salt: &[u8; SALT_LENGTH]) -> Secret {
    let mut text = String::with_capacity(70);
    text.push_str("$A$005$");
    for &byte in salt {
        text.push(char::from(byte));
    }
    sha256_crypt(password.expose().as_bytes(), salt, ROUNDS, &mut text);
    Secret::new(text)
}

/// Whether `stored` is what [`caching_sha2`] makes of `password` with the salt that is in it; `None` for a text in which the
/// server has put a salt of its own, which need not be readable.
pub fn is_caching_sha2(stored: &str, password: &Secret) -> Option<bool> {
    let salted = stored.strip_prefix("$A$005$").filter(|rest| rest.is_ascii() && rest.len() == SALT_LENGTH + 43)?;
    let salt: &[u8; SALT_LENGTH] = salted.as_bytes().first_chunk()?;
    Some(caching_sha2_with_salt(password, salt) == Secret::new(stored.to_owned()))
}

/// MariaDB's `ed25519`: base64 without padding, 43 characters, of clamp(SHA-512(password)\[..32\]) times the base point.
///
/// There is no salt: equal passwords have equal verifiers.
pub fn ed25519(password: &Secret) -> Secret {
    let mut digest = Sha512::digest(password.expose().as_bytes());
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&digest[..32]);
    digest.as_mut_slice().zeroize();
    let public = EdwardsPoint::mul_base_clamped(*scalar).compress();
    let mut text = String::with_capacity(43);
    push_base64(&mut text, &STANDARD_NO_PAD, public.as_bytes());
    Secret::new(text)
}

/// The SHA-256 variant of crypt(3) (U. Drepper, "Unix crypt using SHA-256 and SHA-512", version 0.6, the step numbers
/// are its own), for salts of any length; appends the 43 characters of the hash to `out`.
fn sha256_crypt(password: &[u8], salt: &[u8], rounds: u32, out: &mut String) {
    // Steps 4-8.
    let mut mixed = Zeroizing::new([0; 32]);
    digest(&mut mixed, &[password, salt, password]);
    // Steps 1-3, 9-12.
    let mut hash = Sha256::new();
    hash.update(password);
    hash.update(salt);
    update_repeated(&mut hash, &mixed, password.len());
    let mut bits = password.len();
    while bits > 0 {
        if bits & 1 == 1 {
            hash.update(mixed.as_slice());
        } else {
            hash.update(password);
        }
        bits >>= 1;
    }
    let mut state = Zeroizing::new([0; 32]);
    finish(hash, &mut state);

    // Steps 13-16: the password's stand-in, as long as the password.
    let mut hash = Sha256::new();
    for _ in 0..password.len() {
        hash.update(password);
    }
    finish(hash, &mut mixed);
    let password_bytes = Zeroizing::new(repeated(&mixed, password.len()));
    // Steps 17-20: the salt's.
    let mut hash = Sha256::new();
    for _ in 0..16 + usize::from(state[0]) {
        hash.update(salt);
    }
    finish(hash, &mut mixed);
    let salt_bytes = Zeroizing::new(repeated(&mixed, salt.len()));

    // Step 21.
    for round in 0..rounds {
        let mut hash = Sha256::new();
        let odd = round % 2 == 1;
        hash.update(if odd { password_bytes.as_slice() } else { state.as_slice() });
        if round % 3 != 0 {
            hash.update(salt_bytes.as_slice());
        }
        if round % 7 != 0 {
            hash.update(password_bytes.as_slice());
        }
        hash.update(if odd { state.as_slice() } else { password_bytes.as_slice() });
        finish(hash, &mut state);
    }

    // Step 22: ten groups of three bytes, each from the three thirds of the digest in turn, and the last two bytes.
    for group in 0..10 {
        let (a, b, c) = (group, group + 10, group + 20);
        let [high, middle, low] = match group % 3 {
            0 => [a, b, c],
            1 => [c, a, b],
            _ => [b, c, a],
        };
        encode([state[high], state[middle], state[low]], 4, out);
    }
    encode([0, state[31], state[30]], 3, out);
}

/// Appends the lowest `count` 6-bit values of 24 bits, lowest first.
fn encode(bytes: [u8; 3], count: u32, out: &mut String) {
    let mut bits = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
    for _ in 0..count {
        out.push(char::from(CRYPT[(bits & 63) as usize]));
        bits >>= 6;
    }
}

fn digest(out: &mut [u8; 32], parts: &[&[u8]]) {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    finish(hash, out);
}

fn finish(hash: Sha256, out: &mut [u8; 32]) {
    hash.finalize_into(out.into());
}

/// Feeds `length` bytes of `block` repeated.
fn update_repeated(hash: &mut Sha256, block: &[u8; 32], length: usize) {
    let mut left = length;
    while left > 0 {
        let some = left.min(block.len());
        hash.update(&block[..some]);
        left -= some;
    }
}

/// `length` bytes of `block` repeated.
fn repeated(block: &[u8; 32], length: usize) -> Vec<u8> {
    block.iter().copied().cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// `PASSWORD('mypass')` of the MySQL 5.7 manual; `PASSWORD('password')` as everybody knows it.
    #[test]
    fn a_hash_is_told_from_that_of_another_password() {
        let (password, other) = (Secret::new("it's".to_owned()), Secret::new("its".to_owned()));
        let stored = caching_sha2(&password).unwrap();
        assert_eq!(is_caching_sha2(stored.expose(), &password), Some(true));
        assert_eq!(is_caching_sha2(stored.expose(), &other), Some(false));
        for strange in ["", "$A$005$short", &stored.expose().replace("$005$", "$006$")] {
            assert_eq!(is_caching_sha2(strange, &password), None);
        }
    }

    #[test]
    fn native_vectors() {
        assert_eq!(native(&secret("mypass")).expose(), "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4");
        assert_eq!(native(&secret("password")).expose(), "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
        assert_eq!(native(&secret("")).expose(), "");
    }

    /// MariaDB's documentation of the `ed25519` plugin: the password `secret`.
    #[test]
    fn ed25519_vector() {
        assert_eq!(ed25519(&secret("secret")).expose(), "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY");
    }

    /// Vectors of Drepper's specification; crypt(3) of the GNU C library gives the same.
    #[test]
    fn sha256_crypt_vectors() {
        let of = |password: &str, salt: &str, rounds| {
            let mut out = String::new();
            sha256_crypt(password.as_bytes(), salt.as_bytes(), rounds, &mut out);
            out
        };
        assert_eq!(of("Hello world!", "saltstring", 5000), "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5");
        assert_eq!(of("Hello world!", "saltstringsaltst", 10000), "3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA");
        assert_eq!(
            of(
                "a very much longer text to encrypt.  This one even stretches over morethan one line.",
                "anotherlongsalts",
                1400
            ),
            "Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1"
        );
        assert_eq!(
            of("we have a short salt string but not a short password", "short", 77777),
            "JiO1O3ZpDAxGJeaDIuqCoEFysAe1mZNJRs3pw0KQRd/"
        );
    }

    /// The example that hashcat publishes for its mode 7401: a 20-byte salt with bytes outside of the crypt alphabet,
    /// made by a real server.
    #[test]
    fn caching_sha2_vector() {
        let salt = [
            0xF9, 0xCC, 0x98, 0xCE, 0x08, 0x89, 0x29, 0x24, 0xF5, 0x0A, 0x21, 0x3B, 0x6B, 0xC5, 0x71, 0xA2, 0xC1, 0x17,
            0x78, 0xC5,
        ];
        let mut out = String::new();
        sha256_crypt(b"hashcat", &salt, ROUNDS, &mut out);
        let hex: String = out.bytes().map(|b| format!("{b:02X}")).collect();
        assert_eq!(hex, "625479393559393965414D45316477456B484F41316E64484742577A2E3162785353526B7554584647562F");
    }

    #[test]
    fn caching_sha2_needs_no_quoting_and_salts_differ() {
        let (one, two) = (caching_sha2(&secret("pw")).unwrap(), caching_sha2(&secret("pw")).unwrap());
        assert_ne!(one, two);
        for text in [one.expose(), two.expose()] {
            let rest = text.strip_prefix("$A$005$").unwrap();
            assert_eq!(rest.len(), SALT_LENGTH + 43);
            assert!(rest.bytes().all(|b| CRYPT.contains(&b)), "{text}");
        }
        let salt: [u8; SALT_LENGTH] = one.expose().as_bytes()[7..27].try_into().unwrap();
        assert_eq!(caching_sha2_with_salt(&secret("pw"), &salt), one);
        assert_ne!(caching_sha2_with_salt(&secret("pX"), &salt), one);
    }
}
