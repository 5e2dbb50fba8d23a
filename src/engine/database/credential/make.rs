//! Key pairs and certificates for one caller.

use std::time::SystemTime;

use serde_json::json;

use super::Settings;
use crate::engine::error::Error;
use crate::engine::request::Datum;
use crate::engine::template::{Names, OsEntropy, Template};
use crate::secret::Secret;
use crate::secret::authority::{Authority, Leaf};
use crate::secret::key::{Hash, KeyKind, PrivateKey};
use crate::secret::verifier::Prepared;
use crate::target::Login;

/// A credential that was made for one caller.
#[derive(Debug)]
pub enum Made {
    /// A password.
    Password(Secret),
    /// A password that was drawn ahead.
    Prepared(Prepared),
    /// A key pair.
    RsaPrivateKey {
        /// PEM, PKCS#8.
        private: Secret,
        /// PEM, PKIX.
        public: String,
    },
    /// A key pair and a certificate of it.
    ClientCertificate {
        /// PEM.
        certificate: String,
        /// PEM, PKCS#8.
        private: Secret,
        /// `rsa`, `ec` or `ed25519`.
        key_type: &'static str,
        /// When the certificate ends, which nothing can put off.
        not_after: SystemTime,
    },
}

impl Made {
    /// What the target is told.
    pub fn login(&self) -> Login<'_> {
        match self {
            Self::Password(password) => Login::Password(password),
            Self::Prepared(prepared) => Login::Prepared(prepared),
            Self::RsaPrivateKey { public, .. } => Login::PublicKey(public),
            Self::ClientCertificate { .. } => Login::Certificate,
        }
    }

    /// The end that no renewal can move, if it has one.
    pub fn ends_for_good(&self) -> Option<SystemTime> {
        match self {
            Self::Password(_) | Self::Prepared(_) | Self::RsaPrivateKey { .. } => None,
            Self::ClientCertificate { not_after, .. } => Some(*not_after),
        }
    }

    /// What the caller is told, beside the user's name.
    pub fn into_data(self) -> Vec<(String, Datum)> {
        match self {
            Self::Password(password) | Self::Prepared(Prepared { password, .. }) => {
                vec![("password".into(), Datum::Secret(password))]
            }
            Self::RsaPrivateKey { private, .. } => vec![("rsa_private_key".into(), Datum::Secret(private))],
            Self::ClientCertificate { certificate, private, key_type, .. } => vec![
                ("client_certificate".into(), Datum::Plain(json!(certificate))),
                ("private_key".into(), Datum::Secret(private)),
                ("private_key_type".into(), Datum::Plain(json!(key_type))),
            ],
        }
    }
}

/// A key pair as `settings` say.
pub async fn rsa_private_key(settings: &Settings) -> Result<Made, Error> {
    let bits = settings.number("key_bits");
    let kind = KeyKind::rsa(bits).ok_or_else(|| failed("key pair", format!("invalid key_bits: {bits}")))?;
    let key = draw(kind, "key pair").await?;
    let private = key.pkcs8_pem().map_err(|e| failed("key pair", e))?;
    let public = key.public_pem().map_err(|e| failed("key pair", e))?;
    Ok(Made::RsaPrivateKey { private, public })
}

/// A key pair and its certificate as `settings` say, for the user that `names` name, valid from now until `not_after`.
pub async fn client_certificate(
    settings: &Settings,
    names: &Names<'_>,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<Made, Error> {
    const WHAT: &str = "client certificate";
    let bits = settings.number("key_bits");
    let kind = match settings.text("key_type") {
        "rsa" => KeyKind::rsa(bits),
        "ec" => KeyKind::ec(bits),
        "ed25519" => Some(KeyKind::Ed25519),
        _ => None,
    };
    // What the built-in engine stored may be more than can be made here.
    let kind =
        kind.ok_or_else(|| failed(WHAT, "no such keys are made here: write the role's credential_config anew"))?;
    let hash =
        Hash::of_bits(settings.number("signature_bits")).ok_or_else(|| failed(WHAT, "invalid signature_bits"))?;
    let template = Template::parse(settings.text("common_name_template")).map_err(|e| failed(WHAT, e))?;
    let common_name = template.render(names, &mut OsEntropy, now).map_err(|e| failed(WHAT, e))?;
    let ca_private_key =
        settings.ca_private_key.as_ref().ok_or_else(|| failed(WHAT, "missing required ca_private_key"))?;
    let authority = Authority::read(settings.text("ca_cert"), ca_private_key, hash).map_err(|e| failed(WHAT, e))?;

    let key = draw(kind, WHAT).await?;
    let leaf = Leaf { common_name: &common_name, key: &key, now, not_after };
    let certificate = authority.issue(&leaf).map_err(|e| failed(WHAT, e))?;
    let private = key.pkcs8_pem().map_err(|e| failed(WHAT, e))?;
    Ok(Made::ClientCertificate { certificate, private, key_type: kind.name(), not_after })
}

/// Draws a key where it holds up nobody else.
async fn draw(kind: KeyKind, what: &str) -> Result<PrivateKey, Error> {
    let drawn = tokio::task::spawn_blocking(move || PrivateKey::generate(kind)).await;
    drawn.map_err(|_| failed(what, "interrupted"))?.map_err(|e| failed(what, e))
}

fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::Failed(format!("failed to generate {what}: {why}"))
}
