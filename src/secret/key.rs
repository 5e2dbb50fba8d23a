//! Private keys: drawn, read, written as PEM, and used to sign.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
};
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::secret::{Secret, push_base64};

/// What kind of key is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
    /// ECDSA on a curve.
    Ec(Curve),
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// RSA of that many bits, if keys of that size are drawn here.
    pub fn rsa(bits: i64) -> Option<Self> {
        match bits {
            2048 => Some(Self::Rsa2048),
            3072 => Some(Self::Rsa3072),
            4096 => Some(Self::Rsa4096),
            _ => None,
        }
    }

    /// The curve of that many bits. P-224 is not among them: no TLS library takes it.
    pub fn ec(bits: i64) -> Option<Self> {
        match bits {
            256 => Some(Self::Ec(Curve::P256)),
            384 => Some(Self::Ec(Curve::P384)),
            521 => Some(Self::Ec(Curve::P521)),
            _ => None,
        }
    }

    /// The built-in engine's name of the kind: `rsa`, `ec` or `ed25519`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => "rsa",
            Self::Ec(_) => "ec",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// A NIST curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// `secp256r1`.
    P256,
    /// `secp384r1`.
    P384,
    /// `secp521r1`.
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Each curve with the hash that fits it; a longer one would only be cut.
    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }
}

/// The hash of a signature by RSA; with other keys the key decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The hash of that many bits.
    pub fn of_bits(bits: i64) -> Option<Self> {
        match bits {
            256 => Some(Self::Sha256),
            384 => Some(Self::Sha384),
            512 => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// The library could not draw, write or use a key. It does not say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key could not be made or used")]
pub struct KeyError;

/// A private key. Its parts live in the library's own memory, which it clears.
pub struct PrivateKey(Inner);

enum Inner {
    Rsa(RsaKeyPair),
    Ec(Curve, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Which signature a key makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureKind {
    Rsa(Hash),
    Ec(Curve),
    Ed25519,
}

impl PrivateKey {
    /// Draws a key. RSA takes from a tenth of a second to seconds of computing: not to be called on a thread that
    /// others wait for.
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        let rsa = |size| RsaKeyPair::generate(size).map(Inner::Rsa);
        let drawn = match kind {
            KeyKind::Rsa2048 => rsa(KeySize::Rsa2048),
            KeyKind::Rsa3072 => rsa(KeySize::Rsa3072),
            KeyKind::Rsa4096 => rsa(KeySize::Rsa4096),
            KeyKind::Ec(curve) => EcdsaKeyPair::generate(curve.signing()).map(|key| Inner::Ec(curve, key)),
            KeyKind::Ed25519 => Ed25519KeyPair::generate().map(Inner::Ed25519),
        };
        drawn.map(Self).map_err(|_| KeyError)
    }

    /// Reads a key: PKCS#8, PKCS#1 (RSA) or SEC 1 (EC), DER. `None` if it is none of these, or of a kind that is not
    /// supported: RSA has 2048 to 8192 bits, EC is on one of [`Curve`].
    pub fn read(der: &[u8]) -> Option<Self> {
        if let Ok(key) = Ed25519KeyPair::from_pkcs8(der) {
            return Some(Self(Inner::Ed25519(key)));
        }
        for curve in Curve::ALL {
            if let Ok(key) = EcdsaKeyPair::from_private_key_der(curve.signing(), der) {
                return Some(Self(Inner::Ec(curve, key)));
            }
        }
        let rsa = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
        rsa.ok().map(|key| Self(Inner::Rsa(key)))
    }

    /// The key as PEM, PKCS#8 version 1: what every client library reads.
    pub fn pkcs8_pem(&self) -> Result<Secret, KeyError> {
        let der = match &self.0 {
            Inner::Rsa(key) => {
                let der: Pkcs8V1Der<'static> = key.as_der().map_err(|_| KeyError)?;
                Zeroizing::new(der.as_ref().to_vec())
            }
            Inner::Ec(_, key) => Zeroizing::new(key.to_pkcs8v1().map_err(|_| KeyError)?.as_ref().to_vec()),
            Inner::Ed25519(key) => Zeroizing::new(key.to_pkcs8v1().map_err(|_| KeyError)?.as_ref().to_vec()),
        };
        Ok(Secret::new(pem("PRIVATE KEY", &der)))
    }

    /// The public half, as PKIX (`SubjectPublicKeyInfo`), DER.
    pub fn public_der(&self) -> Result<Vec<u8>, KeyError> {
        let der: Result<PublicKeyX509Der<'static>, _> = match &self.0 {
            Inner::Rsa(key) => key.public_key().as_der(),
            Inner::Ec(_, key) => key.public_key().as_der(),
            Inner::Ed25519(key) => key.public_key().as_der(),
        };
        Ok(der.map_err(|_| KeyError)?.as_ref().to_vec())
    }

    /// The public half, as PKIX, PEM.
    pub fn public_pem(&self) -> Result<String, KeyError> {
        Ok(pem("PUBLIC KEY", &self.public_der()?))
    }

    /// The public half as it stands in the bits of a PKIX structure.
    pub(super) fn public_bits(&self) -> &[u8] {
        match &self.0 {
            Inner::Rsa(key) => key.public_key().as_ref(),
            Inner::Ec(_, key) => key.public_key().as_ref(),
            Inner::Ed25519(key) => key.public_key().as_ref(),
        }
    }

    pub(super) fn signature_kind(&self, hash: Hash) -> SignatureKind {
        match &self.0 {
            Inner::Rsa(_) => SignatureKind::Rsa(hash),
            Inner::Ec(curve, _) => SignatureKind::Ec(*curve),
            Inner::Ed25519(_) => SignatureKind::Ed25519,
        }
    }

    /// Signs as [`PrivateKey::signature_kind`] says.
    pub(super) fn sign(&self, hash: Hash, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.0 {
            Inner::Rsa(key) => {
                let padding = match hash {
                    Hash::Sha256 => &RSA_PKCS1_SHA256,
                    Hash::Sha384 => &RSA_PKCS1_SHA384,
                    Hash::Sha512 => &RSA_PKCS1_SHA512,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).map_err(|_| KeyError)?;
                Ok(signature)
            }
            Inner::Ec(_, key) => Ok(key.sign(&random, message).map_err(|_| KeyError)?.as_ref().to_vec()),
            Inner::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

/// PEM with lines of 64 characters, written into a text that never has to grow.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = der.len().div_ceil(3) * 4;
    let mut text = String::with_capacity(encoded + encoded / 64 + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(48) {
        push_base64(&mut text, &BASE64_STANDARD, line);
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use proptest::prelude::*;
    use x509_parser::pem::parse_x509_pem;

    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        for kind in [
            KeyKind::Rsa2048,
            KeyKind::Ec(Curve::P256),
            KeyKind::Ec(Curve::P384),
            KeyKind::Ec(Curve::P521),
            KeyKind::Ed25519,
        ] {
            let key = PrivateKey::generate(kind).unwrap();
            let text = key.pkcs8_pem().unwrap();
            assert!(text.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"), "{kind:?}");
            assert!(text.expose().lines().all(|line| line.len() <= 64));
            let (rest, block) = parse_x509_pem(text.expose().as_bytes()).unwrap();
            assert!(rest.is_empty());
            // Version 1 (an INTEGER 0): not every OpenSSL in use reads another for Ed25519.
            let header = &block.contents[..8];
            assert!(header.windows(3).any(|bytes| bytes == [2, 1, 0]), "{kind:?}: {header:?}");
            let read = PrivateKey::read(&block.contents).unwrap();
            assert_eq!(read.public_bits(), key.public_bits(), "{kind:?}");
            assert_eq!(read.public_der().unwrap(), key.public_der().unwrap());
            assert!(!format!("{key:?}").contains("PRIVATE"), "nothing of the key is shown");
        }
    }

    #[test]
    fn signatures_verify() {
        let rsa = PrivateKey::generate(KeyKind::Rsa2048).unwrap();
        let signature = rsa.sign(Hash::Sha256, b"message").unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa.public_bits());
        assert!(public.verify(b"message", &signature).is_ok() && public.verify(b"other", &signature).is_err());
        let ec = PrivateKey::generate(KeyKind::Ec(Curve::P256)).unwrap();
        let signature = ec.sign(Hash::Sha512, b"message").unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, ec.public_bits());
        assert!(public.verify(b"message", &signature).is_ok());
        assert_eq!(ec.signature_kind(Hash::Sha512), SignatureKind::Ec(Curve::P256), "the curve decides");
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys = [0; 2].map(|_| PrivateKey::generate(KeyKind::Ed25519).unwrap());
        assert_ne!(keys[0].public_bits(), keys[1].public_bits());
    }

    #[test]
    fn text_has_the_size_that_was_reserved() {
        for length in 0..200 {
            let text = pem("PRIVATE KEY", &vec![7; length]);
            let encoded = length.div_ceil(3) * 4;
            assert!(text.len() <= encoded + encoded / 64 + 2 * "PRIVATE KEY".len() + 40, "{length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_key(der in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(PrivateKey::read(&der).is_none());
        }
    }
}
