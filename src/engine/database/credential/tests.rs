use std::time::Duration;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;

use super::*;
use crate::engine::error::Error;
use crate::engine::request::Datum;
use crate::engine::template::Names;
use crate::target::Login;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn written(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A complete configuration of client certificates.
fn config() -> BTreeMap<String, String> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    written(&[
        ("common_name_template", "{{.Username}}"),
        ("ca_cert", &ca),
        ("ca_private_key", &key.serialize_pem()),
        ("key_type", "ec"),
    ])
}

#[test]
fn the_authoritys_key_is_stored_and_not_shown() {
    let config = config();
    let settings = CredentialType::ClientCertificate.validate(&config, now()).unwrap();
    assert!(settings.holds_secret());
    let key = config["ca_private_key"].as_str();
    assert!(!Value::from(settings.shown().clone()).to_string().contains("PRIVATE KEY"));
    assert!(!format!("{settings:?}").contains("PRIVATE KEY"));
    let stored = serde_json::to_value(&settings).unwrap();
    assert_eq!(stored["ca_private_key"], key);
    assert_eq!((&stored["key_bits"], &stored["signature_bits"]), (&json!(256), &json!(256)));
    assert_eq!(serde_json::from_value::<Settings>(stored).unwrap(), settings);
    assert_eq!(serde_json::from_value::<Settings>(Value::Null).unwrap(), Settings::default());
}

#[test]
fn numbers_are_judged_before_all_else() {
    let judge = |pairs: &[(&str, &str)]| {
        CredentialType::ClientCertificate.validate(&written(pairs), now()).unwrap_err().replace("\n\n", "\n")
    };
    let int = |key: &str| format!("'{key}' cannot parse value as 'int': strconv.ParseInt: invalid syntax");
    assert_eq!(
        judge(&[("key_type", "zzz"), ("key_bits", "a"), ("signature_bits", "b")]),
        format!("decoding failed due to the following error(s):\n{}\n{}", int("key_bits"), int("signature_bits"))
    );
    assert_eq!(judge(&[("key_type", "ec"), ("key_bits", "0x100")]), "missing required common_name_template");
    assert!(
        judge(&[("key_type", "ec"), ("key_bits", "224")]).starts_with("invalid key_bits: no keys are made on P-224")
    );
}

#[tokio::test]
async fn an_rsa_key_pair() {
    let settings = CredentialType::RsaPrivateKey.validate(&BTreeMap::new(), now()).unwrap();
    let made = rsa_private_key(&settings).await.unwrap();
    let Login::PublicKey(public) = made.login() else { panic!("{made:?}") };
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"));
    assert_eq!(made.ends_for_good(), None);
    let data = made.into_data();
    let [(key, Datum::Secret(private))] = data.as_slice() else { panic!("{data:?}") };
    assert_eq!(key, "rsa_private_key");
    assert!(private.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
}

#[tokio::test]
async fn a_client_certificate() {
    let not_after = now() + Duration::from_secs(65);
    for (key_type, bits) in [("ec", "384"), ("ed25519", ""), ("rsa", "2048")] {
        let mut config = config();
        config.extend(written(&[("key_type", key_type), ("key_bits", bits)]));
        let settings = CredentialType::ClientCertificate.validate(&config, now()).unwrap();
        let names = Names { username: Some("v-the-user"), ..Names::default() };
        let made = client_certificate(&settings, &names, now(), not_after).await.unwrap();
        assert!(matches!(made.login(), Login::Certificate));
        assert_eq!(made.ends_for_good(), Some(not_after));
        assert!(!format!("{made:?}").contains("PRIVATE KEY"));
        let Made::ClientCertificate { certificate, .. } = &made else { panic!("{made:?}") };
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
        assert_eq!(block.parse_x509().unwrap().subject().to_string(), "CN=v-the-user");
        let data: BTreeMap<String, Datum> = made.into_data().into_iter().collect();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["client_certificate", "private_key", "private_key_type"]);
        assert!(matches!(&data["private_key"], Datum::Secret(_)));
        assert!(matches!(&data["private_key_type"], Datum::Plain(kind) if kind == key_type));
    }
}

/// What the built-in engine stored, and what cannot be made.
#[tokio::test]
async fn what_cannot_be_made_is_an_error() {
    let stored = json!({ "key_type": "ec", "key_bits": 224, "signature_bits": 256 });
    let settings: Settings = serde_json::from_value(stored).unwrap();
    let made = client_certificate(&settings, &Names::default(), now(), now()).await;
    assert!(matches!(made, Err(Error::Failed(text)) if text.starts_with("failed to generate client certificate: ")));
    assert!(matches!(rsa_private_key(&settings).await, Err(Error::Failed(_))));

    let mut config = config();
    config.insert("common_name_template".into(), "{{.DisplayName}}".into());
    let settings = CredentialType::ClientCertificate.validate(&config, now()).unwrap();
    let long = "x".repeat(65);
    let names = Names { display_name: &long, ..Names::default() };
    let made = client_certificate(&settings, &names, now(), now()).await;
    assert!(matches!(made, Err(Error::Failed(text)) if text.contains("65 characters")));
}

/// A setting of any kind with any text, half of them over a configuration that is good.
fn any_config() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof![
        8 => prop::sample::select(vec![
            "common_name_template", "ca_cert", "ca_private_key", "key_type", "key_bits", "signature_bits", "format",
            "password_policy",
        ]).prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    let value = prop_oneof![
        ".{0,40}",
        any::<i64>().prop_map(|number| number.to_string()),
        prop::sample::select(vec!["rsa", "ec", "ed25519", "256", "521", "2048", "pkcs8", "{{.Username}}", "{{"])
            .prop_map(str::to_owned),
        (prop::sample::select(vec!["CERTIFICATE", "PRIVATE KEY", "X"]), "[A-Za-z0-9+/=\n]{0,80}")
            .prop_map(|(label, body)| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")),
    ];
    (any::<bool>(), prop::collection::btree_map(key, value, 0..6)).prop_map(|(good, over)| {
        let mut all = if good { config() } else { BTreeMap::new() };
        all.extend(over);
        all
    })
}

proptest! {
    /// Whatever is written is accepted or refused; what is accepted is stored and read as it was.
    #[test]
    fn any_configuration_is_judged(config in any_config()) {
        for kind in [CredentialType::Password, CredentialType::RsaPrivateKey, CredentialType::ClientCertificate] {
            if let Ok(settings) = kind.validate(&config, now()) {
                let stored = serde_json::to_string(&settings).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Settings>(&stored).unwrap(), &settings);
                prop_assert!(!settings.text("ca_cert").contains("PRIVATE KEY"));
                prop_assert!(!settings.shown().contains_key("ca_private_key"));
                prop_assert_eq!(settings.holds_secret(), kind == CredentialType::ClientCertificate);
            }
        }
    }
}
