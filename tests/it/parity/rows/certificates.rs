//! `credential_type=client_certificate`: what `credential_config` must say, and what comes of it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::parity::table::{Row, Table};

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

const HIDDEN: &str = "ca-private-key-hidden";
const REAL: &str = "client-certificate";
const KEPT: &str = "credential-config-kept";

pub fn rows(t: &mut Table) {
    let a = Authorities::new();
    refused(t, &a);
    accepted(t, &a);
    // The key would be read back.
    write(t, &a, json!({ "ca_cert": a.key, "ca_private_key": a.ca })).differs(HIDDEN, 400, "belongs in ca_private_key");
    t.get("roles/cert").differs(HIDDEN, 404, "");
    t.delete("roles/cert");
    write(t, &a, json!({ "key_bits": 224 })).differs(REAL, 400, "P-224");
    t.get("roles/cert").differs(REAL, 404, "");
    t.delete("roles/cert");
    write(t, &a, json!({ "common_name_template": "{{.Username}}" })).differs(REAL, 204, "");
    t.get("roles/cert").differs(REAL, 200, "{{.Username}}");
    t.delete("roles/cert");
    lifecycle(t, &a);
    key_pairs(t);
}

#[track_caller]
fn write<'a>(t: &'a mut Table, a: &Authorities, more: Value) -> &'a mut Row {
    t.post("roles/cert", role(a.config(more)))
}

fn role(config: Value) -> Value {
    json!({
        "db_name": "pg", "credential_type": "client_certificate", "creation_statements": CREATE,
        "credential_config": config,
    })
}

/// Each check, and which comes first.
fn refused(t: &mut Table, a: &Authorities) {
    for more in [
        json!({ "key_type": null }),
        json!({ "key_type": "" }),
        json!({ "key_type": "dsa" }),
        json!({ "key_type": "RSA" }),
        json!({ "key_type": "rsa", "key_bits": 1024 }),
        json!({ "key_type": "rsa", "key_bits": 256 }),
        json!({ "key_type": "rsa", "key_bits": 8192 }),
        json!({ "key_bits": 2048 }),
        json!({ "key_bits": -1 }),
        json!({ "key_bits": "abc" }),
        json!({ "key_type": "zzz", "key_bits": "abc" }),
        json!({ "key_bits": " 256" }),
        json!({ "key_bits": "99999999999999999999" }),
        json!({ "key_bits": "abc", "signature_bits": "def" }),
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
        json!({ "ca_private_key": format!("{}text after", a.key) }),
        json!({ "ca_cert": a.key }),
        json!({ "ca_cert": a.leaf, "ca_private_key": a.leaf_key }),
        json!({ "ca_cert": a.leaf }),
        json!({ "ca_cert": format!("{}{}", a.ca, a.key), "ca_private_key": a.ca }),
        json!({ "ca_cert": format!("{}{}", a.ca, a.leaf) }),
        json!({ "key_type": null, "signature_bits": 1, "common_name_template": "" }),
        json!({ "signature_bits": 1, "common_name_template": "" }),
        json!({ "common_name_template": "", "ca_cert": "" }),
        json!({ "ca_cert": "", "ca_private_key": "" }),
    ] {
        write(t, a, more);
        t.get("roles/cert");
    }
    for config in
        [json!("key_type=rsa"), json!(["key_type=rsa", "key_bits=1"]), json!({ "key_type": 5 }), json!({}), json!(null)]
    {
        t.post("roles/cert", role(config));
    }
}

fn accepted(t: &mut Table, a: &Authorities) {
    for more in [
        json!({}),
        json!({ "key_type": "rsa" }),
        json!({ "key_type": "rsa", "key_bits": "4096", "signature_bits": 512 }),
        json!({ "key_bits": "0x100" }),
        json!({ "key_bits": 521, "signature_bits": "384" }),
        json!({ "key_type": "ed25519" }),
        json!({ "key_type": "ed25519", "key_bits": 4096 }),
        json!({ "ca_cert": format!("\n  text before\n{}", a.ca) }),
        json!({ "ca_cert": format!("{}text after\n", a.ca) }),
        json!({ "nope": "x" }),
    ] {
        write(t, a, more);
        t.get("roles/cert").differs(HIDDEN, 200, "\"ca_cert\"");
        t.delete("roles/cert");
    }
}

fn lifecycle(t: &mut Table, a: &Authorities) {
    write(t, a, json!({}));
    t.post("roles/cert", json!({ "max_ttl": "1h" })).note("something else").differs(KEPT, 204, "");
    t.get("roles/cert").differs(KEPT, 200, "\"max_ttl\":3600");
    t.post("roles/cert", json!({ "credential_type": "client_certificate" })).note("as it is").differs(KEPT, 204, "");
    t.post("roles/cert", json!({ "credential_config": {} }));
    t.get("roles/cert").differs(KEPT, 200, "\"ca_cert\"");
    t.mint("cert", "cert").differs(REAL, 200, "\"private_key_type\":\"ec\"");
    t.renew("cert", 0).differs(REAL, 400, "not renewable");
    t.revoke("cert").differs(REAL, 204, "");
    t.post("roles/cert", json!({ "creation_statements": "" })).differs(KEPT, 204, "");
    t.get("creds/cert").note("no statements").differs(REAL, 500, "empty creation statements");
    t.delete("roles/cert");
}

/// `rsa_private_key`, which no database here takes.
fn key_pairs(t: &mut Table) {
    let pair =
        |config: Value| json!({ "db_name": "pg", "credential_type": "rsa_private_key", "credential_config": config });
    t.post("roles/rsa", pair(json!({ "key_bits": 4096 })));
    t.post("roles/rsa", json!({ "max_ttl": "1h" })).note("something else");
    t.get("roles/rsa").differs(KEPT, 200, "\"key_bits\":4096");
    for config in [
        json!({ "format": "PKCS8" }),
        json!({ "key_bits": "abc", "format": "x" }),
        json!({ "key_bits": 1, "format": "x" }),
        json!({ "format": "Yz" }),
        json!({ "key_bits": "" }),
        json!({ "key_bits": "0xC00" }),
        json!({ "nope": 1 }),
    ] {
        t.post("roles/rsa", pair(config));
        t.get("roles/rsa");
    }
    t.delete("roles/rsa");
}
