//! TLS to a server whose certificate is for `localhost` and `db.test`, and not for addresses.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use leasehold::secret::Secret;
use leasehold::target::Target;
use leasehold::target::mysql::{MySql, Settings, Source};

use super::{CREATE, minted, name};
use crate::support::mariadb::{ADMIN, ADMIN_PASSWORD, MariaDb};
use crate::support::tls::Authority;

fn of(source: Source<'_>) -> MySql {
    MySql::new(Settings::new(&source).unwrap())
}

async fn refusal(source: Source<'_>) -> String {
    of(source).verify().await.unwrap_err().to_string()
}

#[tokio::test]
async fn sessions_are_protected_as_configured() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (certificate, key) = authority.sign("server", &["localhost", "db.test"]);
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o044, 0o044);
        file.display().to_string()
    };
    let settings = [
        format!("ssl-ca={}", file("ca.pem", &authority.pem)),
        format!("ssl-cert={}", file("server.pem", &certificate)),
        format!("ssl-key={}", file("server.key", &key)),
    ];
    let server = MariaDb::start_with(&settings.each_ref().map(String::as_str));
    // Who gets in as one of these has proven that the session is what it should be.
    server.sql(&format!(
        "CREATE USER over_tls@'%' IDENTIFIED BY '{ADMIN_PASSWORD}' REQUIRE SSL; \
         CREATE USER by_certificate@'%' IDENTIFIED BY '{ADMIN_PASSWORD}' REQUIRE X509"
    ));
    let by_address = server.url();
    let by_name = by_address.replace("127.0.0.1", "localhost");
    let (certificate, key) = authority.sign("client", &[]);
    let (client, password) = (Secret::new(certificate + &key), Secret::new(ADMIN_PASSWORD.into()));

    let plain =
        Source { connection_url: &by_name, username: "over_tls", password: Some(&password), ..Source::default() };
    let trusting = Source { tls_ca: &authority.pem, ..plain };
    of(trusting).verify().await.unwrap();
    let named = Source { username: "by_certificate", ..trusting };
    assert!(refusal(named).await.starts_with("Error 1045"));
    of(Source { tls_certificate_key: Some(&client), ..named }).verify().await.unwrap();

    // An authority that nobody knows, and a name that is not the host's.
    let strict = format!("{by_name}?tls=true");
    let error = refusal(Source { connection_url: &strict, ..plain }).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
    let address = Source { connection_url: &by_address, ..trusting };
    let error = refusal(address).await;
    assert!(error.contains("not valid for name"), "{error}");
    of(Source { tls_skip_verify: true, ..address }).verify().await.unwrap();
    of(Source { tls_server_name: "db.test", ..address }).verify().await.unwrap();
    let error = refusal(Source { tls_server_name: "else.test", ..address }).await;
    assert!(error.contains("not valid for name"), "{error}");
    // Without a word about it: if the server can.
    of(Source { connection_url: &by_address, ..plain }).verify().await.unwrap();
    let off = format!("{by_address}?tls=false");
    assert!(refusal(Source { connection_url: &off, ..plain }).await.starts_with("Error 1045"));

    let admin = of(Source { username: ADMIN, ..trusting });
    let user = name();
    let password = minted(&admin, &user, &[CREATE]).await;
    admin.login(&user, &password).await.unwrap();
}
