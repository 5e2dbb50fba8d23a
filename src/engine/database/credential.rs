//! Credential types of a role and their settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::engine::request::Fields;
use crate::engine::template::Template;

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

    /// Checks `credential_config` and gives back what is stored: defaults of a key are written out.
    ///
    /// # Errors
    /// The text after `credential_config validation failed: `.
    pub fn validate(self, written: &BTreeMap<String, String>) -> Result<Fields, String> {
        match self {
            Self::Password => {
                let policy = text(written, "password_policy");
                Ok((!policy.is_empty()).then(|| ("password_policy".into(), json!(policy))).into_iter().collect())
            }
            Self::RsaPrivateKey => {
                let format = text(written, "format").to_lowercase();
                if !matches!(format.as_str(), "" | "pkcs8") {
                    return Err(format!("invalid format: {format}"));
                }
                let bits = match number(written, "key_bits")? {
                    0 => 2048,
                    bits @ (2048 | 3072 | 4096) => bits,
                    bits => return Err(format!("invalid key_bits: {bits}")),
                };
                Ok([("format".to_owned(), json!("pkcs8")), ("key_bits".to_owned(), json!(bits))].into_iter().collect())
            }
            Self::ClientCertificate => certificate(written),
        }
    }
}

/// The order of the checks is the built-in engine's.
fn certificate(written: &BTreeMap<String, String>) -> Result<Fields, String> {
    let mut stored = Fields::new();
    let key_type = text(written, "key_type");
    let bits = number(written, "key_bits")?;
    let bits = match (key_type, bits) {
        ("rsa", 0) => 2048,
        ("rsa", 2048 | 3072 | 4096) | ("ec", 224 | 256 | 384 | 521) => bits,
        ("ec", 0) => 256,
        ("ed25519", _) => 0,
        ("rsa" | "ec", _) => return Err("invalid key_bits".into()),
        _ => return Err("invalid key_type".into()),
    };
    let signature = match number(written, "signature_bits")? {
        0 => 256,
        bits @ (256 | 384 | 512) => bits,
        _ => return Err("invalid signature_bits".into()),
    };
    stored.insert("key_type".into(), json!(key_type));
    stored.insert("key_bits".into(), json!(bits));
    stored.insert("signature_bits".into(), json!(signature));
    for required in ["common_name_template", "ca_cert", "ca_private_key"] {
        let value = text(written, required);
        if value.is_empty() {
            return Err(format!("missing required {required}"));
        }
        if required == "common_name_template" {
            Template::parse(value).map_err(|e| format!("failed to create template: {e}"))?;
        }
        stored.insert(required.into(), json!(value));
    }
    Ok(stored)
}

fn text<'a>(from: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    from.get(key).map_or("", String::as_str)
}

/// A number given as text; an empty text counts as 0, as in the host's framework.
fn number(from: &BTreeMap<String, String>, key: &str) -> Result<i64, String> {
    match text(from, key) {
        "" => Ok(0),
        digits => digits.parse().map_err(|_| {
            format!("decoding failed due to the following error(s):\n\n'{key}' cannot parse value as 'int': strconv.ParseInt: invalid syntax")
        }),
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
