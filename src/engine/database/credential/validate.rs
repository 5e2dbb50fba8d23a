//! What `credential_config` must say. The order of the checks and their texts are the built-in engine's.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{CA_PRIVATE_KEY, Settings};
use crate::engine::field::weak::{self, Undecodable};
use crate::engine::request::Fields;
use crate::engine::template::{Names, OsEntropy, Template};
use crate::secret::Secret;
use crate::secret::authority::Authority;
use crate::secret::key::{Hash, KeyKind};

type Written = BTreeMap<String, String>;

pub(super) fn password(written: &Written) -> Settings {
    let policy = text(written, "password_policy");
    let shown = (!policy.is_empty()).then(|| ("password_policy".into(), json!(policy)));
    Settings { shown: shown.into_iter().collect(), ca_private_key: None }
}

pub(super) fn rsa_private_key(written: &Written) -> Result<Settings, String> {
    let [bits] = numbers(written, ["key_bits"])?;
    let format = match text(written, "format") {
        "" => "pkcs8",
        format if format.eq_ignore_ascii_case("pkcs8") => format,
        other => return Err(format!("invalid format: {other}")),
    };
    let bits = or(bits, 2048);
    KeyKind::rsa(bits).ok_or_else(|| format!("invalid key_bits: {bits}"))?;
    let shown = [("format".to_owned(), json!(format)), ("key_bits".to_owned(), json!(bits))];
    Ok(Settings { shown: shown.into_iter().collect(), ca_private_key: None })
}

pub(super) fn client_certificate(written: &Written, now: SystemTime) -> Result<Settings, String> {
    let mut shown = Fields::new();
    let [bits, signature] = numbers(written, ["key_bits", "signature_bits"])?;
    let key_type = text(written, "key_type");
    let (bits, known) = match key_type {
        "rsa" => (or(bits, 2048), KeyKind::rsa(or(bits, 2048)).is_some()),
        "ec" if bits == 224 => return Err("invalid key_bits: no keys are made on P-224, take 256, 384 or 521".into()),
        "ec" => (or(bits, 256), KeyKind::ec(or(bits, 256)).is_some()),
        "ed25519" => (bits, true),
        _ => return Err("invalid key_type".into()),
    };
    if !known {
        return Err("invalid key_bits".into());
    }
    let signature = or(signature, 256);
    let hash = Hash::of_bits(signature).ok_or("invalid signature_bits")?;
    shown.insert("key_type".into(), json!(key_type));
    if bits != 0 {
        shown.insert("key_bits".into(), json!(bits));
    }
    shown.insert("signature_bits".into(), json!(signature));

    let template = required(written, "common_name_template")?;
    let parsed = Template::parse(template).map_err(|e| format!("failed to create template: {e}"))?;
    let nobody = Names { username: Some(""), ..Names::default() };
    parsed.render(&nobody, &mut OsEntropy, now).map_err(|e| format!("invalid common_name_template: {e}"))?;
    shown.insert("common_name_template".into(), json!(template));

    let ca_cert = required(written, "ca_cert")?;
    let ca_private_key = Secret::new(required(written, CA_PRIVATE_KEY)?.to_owned());
    Authority::read(ca_cert, &ca_private_key, hash).map_err(|e| e.to_string())?;
    shown.insert("ca_cert".into(), json!(ca_cert));
    Ok(Settings { shown, ca_private_key: Some(ca_private_key) })
}

fn text<'a>(from: &'a Written, key: &str) -> &'a str {
    from.get(key).map_or("", String::as_str)
}

fn required<'a>(from: &'a Written, key: &str) -> Result<&'a str, String> {
    match text(from, key) {
        "" => Err(format!("missing required {key}")),
        value => Ok(value),
    }
}

fn or(number: i64, default: i64) -> i64 {
    if number == 0 { default } else { number }
}

/// Numbers given as texts; an absent or empty one is 0. What is wrong with any of them comes before all else.
fn numbers<const N: usize>(from: &Written, keys: [&str; N]) -> Result<[i64; N], String> {
    let mut errors = Vec::new();
    let numbers = keys.map(|key| {
        weak::int(key, &Value::from(text(from, key))).unwrap_or_else(|error| {
            errors.push(error);
            0
        })
    });
    if errors.is_empty() { Ok(numbers) } else { Err(Undecodable(errors).to_string()) }
}
