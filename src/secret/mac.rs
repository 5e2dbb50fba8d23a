//! A code that shows who wrote a message, to whoever has the same key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// HMAC-SHA256 of the parts one after the other, in lower case hexadecimal digits. Any key is long enough for the
/// function itself.
pub fn hmac_sha256(key: &Secret, parts: &[&str]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()) else { return String::new() };
    parts.iter().for_each(|part| mac.update(part.as_bytes()));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, the second case.
    #[test]
    fn the_code_is_that_of_the_rfc() {
        let key = Secret::new("Jefe".into());
        let wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hmac_sha256(&key, &["what do ya want ", "for nothing?"]), wanted);
    }
}
