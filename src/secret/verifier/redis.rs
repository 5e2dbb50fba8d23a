//! What Redis and Valkey store: an ACL rule that names a password by its hash.

use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::secret::Secret;

/// The ACL rule that gives a user `password` without telling it: `#` and the lower-case hex SHA-256, 65 characters.
///
/// The hash has no salt and one round; it protects a random password, not one that a person thought of.
pub fn acl_rule(password: &Secret) -> Secret {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digest = Sha256::digest(password.expose().as_bytes());
    let mut text = String::with_capacity(65);
    text.push('#');
    for byte in digest.iter() {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    digest.as_mut_slice().zeroize();
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Redis documentation of `ACL SETUSER`.
    #[test]
    fn documented_example() {
        let rule = acl_rule(&Secret::new("foobar".to_owned()));
        assert_eq!(rule.expose(), "#c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2");
    }

    /// FIPS 180-4: SHA-256 of the empty string.
    #[test]
    fn empty() {
        let rule = acl_rule(&Secret::new(String::new()));
        assert_eq!(rule.expose(), "#e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
