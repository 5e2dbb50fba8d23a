//! A certificate authority of one's own, and a PostgreSQL server that trusts it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::postgres::Postgres;
use super::wait_for;

/// A certificate authority.
pub struct Authority {
    /// Its certificate, PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Its private key, PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate and its key, PEM.
    pub fn sign(&self, common_name: &str, hosts: &[&str]) -> (String, String) {
        let mut params = CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Turns TLS on, trusting `authority`, with `rules` before all others in `pg_hba.conf`.
pub fn speak_tls(postgres: &Postgres, authority: &Authority, rules: &str) {
    let (certificate, key) = authority.sign("server", &["localhost"]);
    let data = postgres.sql("SHOW data_directory");
    let data = Path::new(data.trim());
    let owner = std::fs::metadata(data).unwrap();
    for (name, text) in [("server.crt", &certificate), ("server.key", &key), ("ca.crt", &authority.pem)] {
        let file = data.join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let hba = data.join("pg_hba.conf");
    let others = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("{rules}\n{others}")).unwrap();
    for setting in ["ssl_ca_file = 'ca.crt'", "ssl = on"] {
        postgres.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    postgres.sql("SELECT pg_reload_conf()");
    wait_for("PostgreSQL to speak TLS", Duration::from_secs(5), || {
        (postgres.sql("SHOW ssl").trim() == "on").then_some(())
    });
}
