//! Credential types of a role and their settings.

mod ahead;
mod make;
mod validate;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::engine::request::Fields;
use crate::secret::Secret;
use crate::target::LoginKind;

pub use ahead::Ahead;
pub use make::{Made, client_certificate, rsa_private_key};

/// The one setting that no read returns.
const CA_PRIVATE_KEY: &str = "ca_private_key";

/// What kind of credential a role hands out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CredentialType {
    /// A password.
    #[default]
    Password,
    /// An RSA key pair whose public half the target learns.
    RsaPrivateKey,
    /// A certificate signed by a CA that the target trusts.
    ClientCertificate,
}

impl CredentialType {
    /// The type of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "password" => Some(Self::Password),
            "rsa_private_key" => Some(Self::RsaPrivateKey),
            "client_certificate" => Some(Self::ClientCertificate),
            _ => None,
        }
    }

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::RsaPrivateKey => "rsa_private_key",
            Self::ClientCertificate => "client_certificate",
        }
    }

    /// What of it a target sees; [`crate::target::Driver::takes`] says whether it can make use of that.
    pub fn login(self) -> LoginKind {
        match self {
            Self::Password => LoginKind::Password,
            Self::RsaPrivateKey => LoginKind::PublicKey,
            Self::ClientCertificate => LoginKind::Certificate,
        }
    }

    /// Checks `credential_config` and gives back what is stored: defaults of a key are written out.
    ///
    /// # Errors
    /// The text after `credential_config validation failed: `.
    pub fn validate(self, written: &BTreeMap<String, String>, now: SystemTime) -> Result<Settings, String> {
        match self {
            Self::Password => Ok(validate::password(written)),
            Self::RsaPrivateKey => validate::rsa_private_key(written),
            Self::ClientCertificate => validate::client_certificate(written, now),
        }
    }
}

/// A role's `credential_config`. Stored as one object, the built-in engine's; in memory the CA's key is apart.
#[derive(Debug, Default, PartialEq)]
pub struct Settings {
    shown: Fields,
    ca_private_key: Option<Secret>,
}

impl Settings {
    /// What a read returns.
    pub fn shown(&self) -> &Fields {
        &self.shown
    }

    /// The policy that passwords are made by; empty for the connection's.
    pub fn password_policy(&self) -> &str {
        self.text("password_policy")
    }

    /// True if something is kept here that no read returns.
    pub fn holds_secret(&self) -> bool {
        self.ca_private_key.is_some()
    }

    /// A text among what is shown; empty if there is none.
    fn text(&self, key: &str) -> &str {
        self.shown.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number among what is shown; 0 if there is none.
    fn number(&self, key: &str) -> i64 {
        self.shown.get(key).and_then(Value::as_i64).unwrap_or_default()
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let key = self.ca_private_key.as_ref().map(|key| (CA_PRIVATE_KEY, Value::from(key.expose())));
        to.collect_map(self.shown.iter().map(|(k, v)| (k.as_str(), v.clone())).chain(key))
    }
}

impl<'a> Deserialize<'a> for Settings {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        let mut shown = Option::<Fields>::deserialize(from)?.unwrap_or_default();
        let ca_private_key = match shown.remove(CA_PRIVATE_KEY) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Secret::new(text)),
            Some(other) => Some(Secret::new(other.to_string())),
        };
        Ok(Self { shown, ca_private_key })
    }
}

/// Stored as the built-in engine's integer.
impl Serialize for CredentialType {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(*self as u8)
    }
}

impl<'a> Deserialize<'a> for CredentialType {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Null => Ok(Self::Password),
            value => match value.as_u64() {
                Some(0) => Ok(Self::Password),
                Some(1) => Ok(Self::RsaPrivateKey),
                Some(2) => Ok(Self::ClientCertificate),
                _ => Err(serde::de::Error::custom("unknown credential type")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
