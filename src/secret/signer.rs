//! An Ed25519 key that signs what must be recognised later.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use zeroize::Zeroizing;

use crate::secret::{Secret, password, push_base64};

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The operating system gave no randomness.
    #[error(transparent)]
    NoRandomness(#[from] password::NoRandomness),
    /// A stored key cannot be read.
    #[error("the stored signing key cannot be read")]
    Unreadable,
}

/// A key pair.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// A new key, as it is to be stored.
    ///
    /// # Errors
    /// [`SignerError::NoRandomness`].
    pub fn draw() -> Result<Secret, SignerError> {
        let seed = password::bytes::<32>()?;
        // Reserved at full size: a text that grows leaves copies behind.
        let mut text = String::with_capacity(64);
        push_base64(&mut text, &BASE64_STANDARD, seed.as_slice());
        Ok(Secret::new(text))
    }

    /// The key of a stored text.
    ///
    /// # Errors
    /// [`SignerError::Unreadable`].
    pub fn read(stored: &Secret) -> Result<Self, SignerError> {
        let seed = BASE64_STANDARD.decode(stored.expose()).map(Zeroizing::new).map_err(|_| SignerError::Unreadable)?;
        Ed25519KeyPair::from_seed_unchecked(&seed).map(Self).map_err(|_| SignerError::Unreadable)
    }

    /// The public half, base64.
    pub fn public(&self) -> String {
        BASE64_STANDARD.encode(self.0.public_key().as_ref())
    }

    /// A signature, base64.
    pub fn sign(&self, message: &[u8]) -> String {
        BASE64_STANDARD.encode(self.0.sign(message).as_ref())
    }
}

/// Whether `signature` is one of `message` by the owner of `public`; both base64.
pub fn is_signed(public: &str, message: &[u8], signature: &str) -> bool {
    let (Ok(public), Ok(signature)) = (BASE64_STANDARD.decode(public), BASE64_STANDARD.decode(signature)) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, public).verify(message, &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_signs() {
        let stored = Signer::draw().unwrap();
        let signer = Signer::read(&stored).unwrap();
        let signature = signer.sign(b"this");
        assert!(is_signed(&signer.public(), b"this", &signature));
        assert!(!is_signed(&signer.public(), b"that", &signature));
        let other = Signer::read(&Signer::draw().unwrap()).unwrap();
        assert!(!is_signed(&other.public(), b"this", &signature));
        assert!(!is_signed("", b"this", &signature) && Signer::read(&Secret::new("x".into())).is_err());
    }
}
