//! Users that log in by a certificate: minted through the host, used by `psql` over TLS.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::tls::{Authority, speak_tls};

/// A server that lets members of `certified` in by certificate alone, and the engine in front of it.
struct Rig {
    bao: Bao,
    client: Client,
    postgres: Postgres,
    authority: Authority,
    dir: TempDir,
}

/// A credential as it was answered.
struct Minted {
    user: String,
    lease: String,
    certificate: PathBuf,
    key: PathBuf,
    answer: Value,
}

impl Rig {
    fn new() -> Rig {
        let postgres = Postgres::start();
        let authority = Authority::new();
        postgres.sql("CREATE ROLE certified");
        speak_tls(&postgres, &authority, "hostssl all +certified all cert");
        let bao = Bao::start();
        bao.register();
        bao.mount("database", PLUGIN);
        let client = bao.client();
        let config = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": postgres.url(),
            "username": ADMIN, "password": ADMIN_PASSWORD,
        });
        client.post("database/config/pg", config).expect(204);
        Rig { bao, client, postgres, authority, dir: tempfile::tempdir().unwrap() }
    }

    fn role(&self, name: &str, config: Value) {
        self.role_with(name, "CREATE ROLE \"{{name}}\" LOGIN IN ROLE certified", config);
    }

    fn role_with(&self, name: &str, creation: &str, more: Value) {
        let mut config = json!({
            "common_name_template": "{{.Username}}", "ca_cert": self.authority.pem, "ca_private_key": self.authority.key(),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({
            "db_name": "pg", "creation_statements": creation, "credential_type": "client_certificate",
            "credential_config": config, "default_ttl": "10m", "max_ttl": "1h",
        });
        self.client.post(&format!("database/roles/{name}"), body).expect(204);
    }

    fn mint(&self, role: &str) -> Minted {
        let answer = self.client.get(&format!("database/creds/{role}")).expect(200);
        let text = |key: &str| answer["data"][key].as_str().unwrap_or_else(|| panic!("{key}: {answer}")).to_owned();
        let user = text("username");
        let [certificate, key] = ["client_certificate", "private_key"].map(|part| {
            let file = self.dir.path().join(format!("{user}.{part}"));
            std::fs::write(&file, text(part)).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            file
        });
        Minted { user, lease: answer["lease_id"].as_str().unwrap().to_owned(), certificate, key, answer }
    }

    /// Logs in as `user` with what was minted.
    fn login(&self, user: &str, with: &Minted) -> Result<String, String> {
        let root = self.dir.path().join("ca.pem");
        std::fs::write(&root, &self.authority.pem).unwrap();
        let parameters = format!(
            "host=localhost port={} dbname=postgres user='{user}' sslmode=verify-full sslrootcert='{}' sslcert='{}' \
             sslkey='{}' connect_timeout=5",
            self.postgres.port(),
            root.display(),
            with.certificate.display(),
            with.key.display(),
        );
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-w", "-c", "SELECT current_user", &parameters])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

#[test]
fn a_certificate_opens_its_own_user_until_the_lease_is_revoked() {
    let rig = Rig::new();
    for (name, config) in [
        ("ec", json!({ "key_type": "ec" })),
        ("p521", json!({ "key_type": "ec", "key_bits": 521 })),
        ("ed", json!({ "key_type": "ed25519" })),
        ("rsa", json!({ "key_type": "rsa", "key_bits": 3072, "signature_bits": 512 })),
    ] {
        rig.role(name, config);
        let minted = rig.mint(name);
        let other = rig.mint(name);
        assert_eq!(rig.login(&minted.user, &minted), Ok(minted.user.clone()), "{name}");
        let refused = rig.login(&other.user, &minted).unwrap_err();
        assert!(refused.contains("certificate authentication failed"), "{name}: {refused}");
        let refused = rig.login(ADMIN, &minted).unwrap_err();
        assert!(refused.contains("no password supplied"), "{name}: {refused}");

        rig.client.revoke(&minted.lease).expect(204);
        assert!(rig.login(&minted.user, &minted).is_err(), "{name}: revoked");
        assert_eq!(rig.login(&other.user, &other), Ok(other.user.clone()), "{name}: another one's");
        rig.client.revoke(&other.lease).expect(204);
    }
    let left = rig.postgres.sql("SELECT count(*) FROM pg_auth_members WHERE roleid = 'certified'::regrole");
    assert_eq!(left, "0", "nobody is left");
}

#[test]
fn a_certificate_ends_with_its_lease_and_neither_is_prolonged() {
    let rig = Rig::new();
    rig.role("app", json!({ "key_type": "ec", "key_bits": 384 }));
    let minted = rig.mint("app");
    assert_eq!(minted.answer["renewable"], json!(false));
    assert_eq!(minted.answer["lease_duration"], json!(600));
    assert_eq!(minted.answer["data"]["private_key_type"], json!("ec"));
    let refused = rig.client.renew(&minted.lease, 60).expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("not renewable"), "{refused}");

    let pem = std::fs::read(&minted.certificate).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = block.parse_x509().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap();
    assert!((now + 590..=now + 605).contains(&end), "lease and five seconds of grace: {} s", end - now);
    assert_eq!(certificate.subject().to_string(), format!("CN={}", minted.user));

    // What nobody but the caller may have is nowhere else.
    let key = std::fs::read_to_string(&minted.key).unwrap();
    let line = key.lines().nth(1).unwrap();
    let own = rig.authority.key();
    let own = own.lines().nth(1).unwrap();
    let shown = rig.client.get("database/roles/app").data();
    for (what, text) in [("role", shown.to_string()), ("log", rig.bao.log()), ("server's log", rig.postgres.log())] {
        assert!(!text.contains(line) && !text.contains(own), "{what}");
    }
    assert_eq!(shown["credential_config"]["ca_cert"], json!(rig.authority.pem));
    assert_eq!(shown["credential_config"].get("ca_private_key"), None);
}

/// The database takes what it is given; what would be of no use, or a danger, is not made.
#[test]
fn what_cannot_be_used_is_not_minted() {
    let rig = Rig::new();
    let refused = |role: &str| {
        let answer = rig.client.get(&format!("database/creds/{role}"));
        (answer.status, answer.body["errors"][0].as_str().unwrap_or_default().to_owned())
    };
    rig.role_with(
        "password",
        "CREATE ROLE \"{{name}}\" LOGIN IN ROLE certified PASSWORD '{{password}}'",
        json!({ "key_type": "ec" }),
    );
    let (status, text) = refused("password");
    assert!(status == 500 && text.contains("the creation statements use {{password}}"), "{status} {text}");
    rig.role("long", json!({ "key_type": "ec", "common_name_template": "{{.Username}}{{.Username}}" }));
    let (status, text) = refused("long");
    assert!(status == 500 && text.contains("the common name has"), "{status} {text}");
    let pem = json!({ "db_name": "pg", "credential_type": "rsa_private_key", "creation_statements": "x" });
    rig.client.post("database/roles/pair", pem).expect(204);
    assert_eq!(refused("pair"), (400, "unsupported credential_type: \"rsa_private_key\"".to_owned()));
    let left = rig.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'");
    assert_eq!(left, "0");

    // An update of something else keeps the authority's key, which no read would give back.
    rig.role("kept", json!({ "key_type": "ed25519" }));
    rig.client.post("database/roles/kept", json!({ "max_ttl": "30m" })).expect(204);
    let minted = rig.mint("kept");
    assert_eq!(rig.login(&minted.user, &minted), Ok(minted.user.clone()));
}
