//! `credential_type=client_certificate`: what `credential_config` must say, and what comes of it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::parity::table::Table;

const CREATE: &str = "CREATE ROLE \"{{name}}\" LOGIN VALID UNTIL '{{expiration}}';";

/// Certificates and keys, PEM.
struct Authorities {
    ca: String,
    key: String,
    other_key: String,
    /// Signed by `ca`, and not a certificate that may sign.
    leaf: String,
    leaf_key: String,
}

impl Authorities {
    fn new() -> Authorities {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "parity authority");
        let [key, other, leaf_key] = std::array::from_fn(|_| KeyPair::generate().unwrap());
        let ca = params.self_signed(&key).unwrap().pem();
        let pem = key.serialize_pem();
        let issuer = Issuer::new(params, key);
        let leaf = CertificateParams::new(vec!["leaf".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap().pem();
        Authorities { ca, key: pem, other_key: other.serialize_pem(), leaf, leaf_key: leaf_key.serialize_pem() }
    }

    /// A complete configuration, with `more` laid over it; `null` takes a key away.
    fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "common_name_template": "{{.DisplayName}}-{{.RoleName}}",
            "ca_cert": self.ca, "ca_private_key": self.key, "key_type": "ec",
        });
        for (key, value) in more.as_object().unwrap() {
            match value {
                Value::Null => config.as_object_mut().unwrap().remove(key),
                value => config.as_object_mut().unwrap().insert(key.clone(), value.clone()),
            };
        }
        config
    }
}

pub fn rows(t: &mut Table) {
    let a = Authorities::new();
    for more in [
        json!({ "key_type": null }),
        json!({ "key_type": "" }),
        json!({ "key_type": "dsa" }),
        json!({ "key_type": "RSA" }),
        json!({ "key_type": "rsa", "key_bits": 1024 }),
        json!({ "key_type": "rsa", "key_bits": 256 }),
        json!({ "key_type": "rsa", "key_bits": 8192 }),
        json!({ "key_type": "ec", "key_bits": 2048 }),
        json!({ "key_type": "ec", "key_bits": -1 }),
        json!({ "key_type": "ec", "key_bits": "abc" }),
        json!({ "key_type": "zzz", "key_bits": "abc" }),
        json!({ "key_type": "ec", "key_bits": "0x100" }),
        json!({ "key_type": "ec", "key_bits": " 256" }),
        json!({ "key_type": "ec", "key_bits": "99999999999999999999" }),
        json!({ "key_type": "ec", "key_bits": "abc", "signature_bits": "def" }),
        json!({ "signature_bits": 224 }),
        json!({ "signature_bits": "x" }),
        json!({ "common_name_template": null }),
        json!({ "common_name_template": "" }),
        json!({ "common_name_template": "{{" }),
        json!({ "common_name_template": "{{.Nope}}" }),
        json!({ "common_name_template": "{{.RoleName | nope}}" }),
        json!({ "common_name_template": "{{.RoleName | truncate 0}}" }),
        json!({ "ca_cert": null }),
        json!({ "ca_cert": "" }),
        json!({ "ca_cert": "nonsense" }),
        json!({ "ca_cert": " " }),
        json!({ "ca_cert": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" }),
        json!({ "ca_private_key": null }),
        json!({ "ca_private_key": "" }),
        json!({ "ca_private_key": "nonsense" }),
        json!({ "ca_private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" }),
        json!({ "ca_private_key": a.other_key }),
        json!({ "ca_private_key": a.ca }),
        json!({ "ca_private_key": format!("{}{}", a.key, a.other_key) }),
        json!({ "ca_private_key": format!("{}{}", a.key, a.key) }),
        json!({ "ca_cert": a.key }),
        json!({ "ca_cert": a.key, "ca_private_key": a.ca }),
        json!({ "ca_cert": a.leaf, "ca_private_key": a.leaf_key }),
        json!({ "ca_cert": a.leaf }),
        json!({ "key_type": null, "signature_bits": 1, "common_name_template": "" }),
        json!({ "signature_bits": 1, "common_name_template": "" }),
        json!({ "common_name_template": "", "ca_cert": "" }),
        json!({ "ca_cert": "", "ca_private_key": "" }),
    ] {
        t.post(
            "roles/cert",
            json!({ "db_name": "pg", "credential_type": "client_certificate", "credential_config": a.config(more) }),
        );
        t.get("roles/cert");
        t.delete("roles/cert");
    }
    for more in [
        json!({}),
        json!({ "key_type": "rsa" }),
        json!({ "key_type": "rsa", "key_bits": "4096", "signature_bits": 512 }),
        json!({ "key_type": "ec", "key_bits": 224 }),
        json!({ "key_type": "ec", "key_bits": 521, "signature_bits": "384" }),
        json!({ "key_type": "ed25519" }),
        json!({ "key_type": "ed25519", "key_bits": 4096 }),
        json!({ "common_name_template": "{{.Username}}" }),
        json!({ "ca_cert": format!("{}{}", a.ca, a.key), "ca_private_key": a.ca }),
        json!({ "ca_cert": format!("{}{}", a.ca, a.leaf) }),
        json!({ "ca_cert": format!("\n  text before\n{}", a.ca) }),
        json!({ "ca_cert": format!("{}text after\n", a.ca) }),
        json!({ "nope": "x" }),
    ] {
        t.post(
            "roles/cert",
            json!({ "db_name": "pg", "credential_type": "client_certificate", "credential_config": a.config(more) }),
        );
        t.get("roles/cert");
        t.delete("roles/cert");
    }
    for config in [json!("key_type=rsa"), json!(["key_type=rsa", "key_bits=1"]), json!({ "key_type": 5 })] {
        t.post(
            "roles/cert",
            json!({ "db_name": "pg", "credential_type": "client_certificate", "credential_config": config }),
        );
    }
    t.post(
        "roles/cert",
        json!({ "db_name": "pg", "credential_type": "client_certificate", "creation_statements": CREATE }),
    );
    t.post(
        "roles/cert",
        json!({
            "db_name": "pg", "credential_type": "client_certificate", "creation_statements": CREATE,
            "credential_config": a.config(json!({})),
        }),
    );
    t.get("roles/cert");
    t.post("roles/cert", json!({ "max_ttl": "1h" })).note("the configuration is not written again");
    t.get("roles/cert");
    t.post("roles/cert", json!({ "credential_config": {} }));
    t.get("roles/cert");
    t.mint("cert", "cert");
    t.post("roles/cert", json!({ "creation_statements": "" }));
    t.get("creds/cert").note("no statements");
    t.delete("roles/cert");

    t.post(
        "roles/rsa",
        json!({ "db_name": "pg", "credential_type": "rsa_private_key", "credential_config": { "key_bits": 4096 } }),
    );
    t.post("roles/rsa", json!({ "max_ttl": "1h" })).note("the configuration is not written again");
    t.get("roles/rsa");
    for config in [
        json!({ "format": "PKCS8" }),
        json!({ "key_bits": "abc", "format": "x" }),
        json!({ "key_bits": 1, "format": "x" }),
        json!({ "key_bits": "" }),
        json!({ "nope": 1 }),
    ] {
        t.post(
            "roles/rsa",
            json!({ "db_name": "pg", "credential_type": "rsa_private_key", "credential_config": config }),
        );
        t.get("roles/rsa");
    }
    t.delete("roles/rsa");
}
