//! Passwords, and the hashes that the server sees of them.

use leasehold::secret::{Secret, verifier};
use leasehold::target::{LoginError, Outcome, Script, Target};

use super::{CREATE, Rig, end_plan, failure, fresh, mint_plan, minted, name, script};

#[tokio::test]
async fn passwords_are_set_at_every_host_and_with_the_plugin_that_is_there() {
    let rig = Rig::new();
    rig.server.sql("INSTALL SONAME 'auth_ed25519'");
    let user = name();
    let old = rig
        .minted(
            &user,
            &[
                "CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'",
                "CREATE USER '{{name}}'@'127.0.0.1' IDENTIFIED BY '{{password}}'",
                "CREATE USER '{{name}}'@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{{password}}')",
            ],
        )
        .await;
    assert!(rig.accounts(&user)[0].starts_with("% ed25519"), "{:?}", rig.accounts(&user));
    let new = fresh();
    assert!(matches!(rig.target.set_password(&user, &new, &Script::default()).await, Outcome::Done(())));
    let (native, ed25519) = (verifier::mysql::native(&new), verifier::mysql::ed25519(&new));
    assert_eq!(
        rig.accounts(&user),
        [
            format!("% ed25519 {}", ed25519.expose()),
            format!("127.0.0.1 mysql_native_password {}", native.expose()),
            format!("localhost mysql_native_password {}", native.expose()),
        ]
    );
    assert!(rig.target.login(&user, &old).await.is_err());
    rig.target.login(&user, &new).await.unwrap();

    // With statements, and the server's own idea of the hash.
    let newest = fresh();
    let statements = script(&["ALTER USER '{{username}}'@'127.0.0.1' IDENTIFIED BY '{{password}}'"]);
    assert!(matches!(rig.target.set_password(&user, &newest, &statements).await, Outcome::Done(())));
    for secret in [&old, &new, &newest] {
        rig.assert_not_logged(&user, secret);
    }
    rig.end(&user, &[]).await.unwrap();
    match rig.target.set_password(&user, &new, &Script::default()).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("no user"), "{e}"),
        other => panic!("{other:?}"),
    }
    // This server keeps one password only.
    let refused = rig.target.keeps_two_passwords().await.unwrap_err().to_string();
    assert!(refused.starts_with("MariaDB 10.") && refused.contains("MySQL 8.0.14 or later"), "{refused}");
}

#[tokio::test]
async fn hashes_of_every_plugin_are_the_servers_own() {
    let rig = Rig::new();
    rig.server.sql("INSTALL SONAME 'auth_ed25519'");
    let text = "it's \\ \"ü\" 100%";
    let password = Secret::new(text.to_owned());
    let literal = text.replace('\\', "\\\\").replace('\'', "''");
    for (plugin, ours) in [
        ("mysql_native_password", verifier::mysql::native(&password)),
        ("ed25519", verifier::mysql::ed25519(&password)),
    ] {
        let user = name();
        rig.server.sql(&format!("CREATE USER '{user}'@'%' IDENTIFIED VIA {plugin} USING PASSWORD('{literal}')"));
        assert_eq!(rig.accounts(&user), [format!("% {plugin} {}", ours.expose())]);
        rig.target.login(&user, &password).await.unwrap();
    }
}

#[tokio::test]
async fn password_hashing_and_refusal_of_clear_text() {
    let rig = Rig::new();
    rig.server.sql("INSTALL SONAME 'auth_ed25519'");
    let strict = rig.other(|source| {
        source.password_hashing = "ed25519";
        source.refuse_plaintext_password = true;
        source.user_host = "127.0.0.1";
    });
    let user = name();
    let creation = ["CREATE USER '{{name}}'@'{{host}}' IDENTIFIED BY '{{password}}'"];
    let password = minted(&strict, &user, &creation).await;
    assert!(rig.accounts(&user)[0].starts_with("127.0.0.1 ed25519 "), "{:?}", rig.accounts(&user));
    strict.login(&user, &password).await.unwrap();
    let wrong = strict.login(&user, &fresh()).await.unwrap_err();
    assert!(matches!(&wrong, LoginError::Refused(_)), "{wrong}");
    strict.end(&end_plan(&user, &["DROP USER '{{name}}'@'{{host}}'"])).await.unwrap();
    let error = failure(&strict, &mint_plan(&user, &["SELECT CONCAT('{{password}}')"], &[]), &fresh()).await;
    assert!(error.to_string().contains("clear text"), "{error}");
    let plain = rig.other(|source| source.password_hashing = "none");
    let password = minted(&plain, &user, &[CREATE]).await;
    plain.login(&user, &password).await.unwrap();
    assert!(rig.server.general_log().contains(password.expose()), "the server was to see it");
}

#[tokio::test]
async fn accounts_that_log_in_without_a_password_stay_as_they_are() {
    let rig = Rig::new();
    let user = name();
    rig.minted(&user, &["CREATE USER '{{name}}'@'localhost' IDENTIFIED VIA unix_socket"]).await;
    let new = fresh();
    match rig.target.set_password(&user, &new, &Script::default()).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("with a password"), "{e}"),
        other => panic!("{other:?}"),
    }
    rig.server.sql(&format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'x'"));
    assert!(matches!(rig.target.set_password(&user, &new, &Script::default()).await, Outcome::Done(())));
    let accounts = rig.accounts(&user);
    assert!(accounts[0].starts_with("127.0.0.1 mysql_native_password "), "{accounts:?}");
    assert!(accounts[1].starts_with("localhost unix_socket"), "{accounts:?}");
}
