//! Against a real MariaDB server, one for each process of tests, with its general log on.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::*;
use crate::secret::password;
use crate::support::mariadb::{ADMIN, ADMIN_PASSWORD, MariaDb};
use crate::target::{Dialect, Marker};

const CREATE: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT SELECT ON *.* TO '{{name}}'@'%';";

fn server() -> &'static MariaDb {
    static SERVER: OnceLock<MariaDb> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = MariaDb::start_with(&["plugin-load-add=auth_ed25519"]);
        server.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT)");
        server
    })
}

fn url() -> Option<String> {
    Some(format!("{ADMIN}:{ADMIN_PASSWORD}@tcp(127.0.0.1:{})/", server().port()))
}

fn target_with(change: impl FnOnce(&mut Source<'_>)) -> Option<MySql> {
    let url = url()?;
    let mut source = Source { connection_url: &url, ..Source::default() };
    change(&mut source);
    Some(MySql::new(Settings::new(&source).unwrap()))
}

fn target() -> Option<MySql> {
    target_with(|_| {})
}

fn script(texts: &[&str]) -> Script {
    Script::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), Dialect::MySql)
}

fn name() -> String {
    format!("v-test-{}", password::base62(16).unwrap())
}

fn mint_plan(username: &str, creation: &[&str], rollback: &[&str]) -> MintPlan {
    let marker = Marker { mount: "m".into(), role: "r".into(), request: "q".into(), entity: String::new(), expires: 0 };
    MintPlan {
        username: username.to_owned(),
        creation: script(creation),
        rollback: script(rollback),
        expiration: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_313_477),
        marker,
    }
}

fn end_plan(username: &str, revocation: &[&str]) -> EndPlan {
    EndPlan { username: username.to_owned(), revocation: script(revocation) }
}

async fn rows(target: &MySql, sql: &str) -> Vec<Vec<Option<String>>> {
    let mut session = target.core.session().await.unwrap();
    let rows = session.rows(sql).await.unwrap();
    session.give_back();
    rows
}

async fn run(target: &MySql, sql: &str) {
    let mut session = target.core.session().await.unwrap();
    session.run(sql).await.unwrap();
    session.give_back();
}

/// Every row of the first column.
async fn column(target: &MySql, sql: &str) -> Vec<String> {
    rows(target, sql).await.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

async fn hosts(target: &MySql, username: &str) -> Vec<String> {
    column(target, &format!("SELECT Host FROM mysql.user WHERE User = '{username}' ORDER BY Host")).await
}

async fn minted(target: &MySql, username: &str, creation: &[&str]) -> Secret {
    let password = password::password().unwrap();
    match target.mint(&mint_plan(username, creation, &[]), Login::Password(&password)).await {
        Outcome::Done(()) => password,
        other => panic!("{other:?}"),
    }
}

/// The general log does not hold `secret`; and is being written, or this would prove nothing.
async fn assert_not_logged(target: &MySql, secret: &Secret) {
    let mark = password::base62(20).unwrap();
    column(target, &format!("SELECT '{mark}'")).await;
    let log = server().general_log();
    assert!(log.contains(&mark), "the general log is off");
    assert!(!log.contains(secret.expose()), "a password is in the general log");
}

/// A session of `username` that stays open.
async fn session_as(username: &str, password: &Secret) -> Session {
    let url = url().unwrap();
    let at = url.rfind('@').unwrap();
    let filled = format!("{{{{username}}}}:{{{{password}}}}{}", &url[at..]);
    let source = Source { connection_url: &filled, username, password: Some(password), ..Source::default() };
    Session::open(&Settings::new(&source).unwrap(), Duration::from_secs(5)).await.unwrap()
}

#[tokio::test]
async fn the_life_of_a_user() {
    let Some(target) = target() else { return };
    target.verify().await.unwrap();
    let user = name();
    let password = minted(&target, &user, &[CREATE]).await;
    target.login(&user, &password).await.unwrap();
    assert_eq!(hosts(&target, &user).await, ["%"]);

    let mut open = session_as(&user, &password).await;
    open.run("SELECT 1").await.unwrap();
    let renew =
        RenewPlan { username: user.clone(), renew: Script::default(), expiration: SystemTime::UNIX_EPOCH, expires: 0 };
    target.renew(&renew).await.unwrap();
    let ended = target.end(&end_plan(&user, &[])).await.unwrap();
    assert!(ended.existed);
    assert_eq!(ended.sessions, 1);
    assert!(open.run("SELECT 1").await.is_err(), "a session of the ended user still works");
    assert!(hosts(&target, &user).await.is_empty());
    let refused = target.login(&user, &password).await.unwrap_err();
    assert!(matches!(&refused, LoginError::Refused(_)), "{refused}");

    let again = target.end(&end_plan(&user, &[])).await.unwrap();
    assert!(!again.existed && again.sessions == 0);
    assert_not_logged(&target, &password).await;
}

#[tokio::test]
async fn the_golden_refusals_of_the_server() {
    let Some(_) = target() else { return };
    let url = url().unwrap();
    let at = url.rfind('@').unwrap();
    let wrong = format!("vaultadmin:wrong{}", &url[at..]);
    let source = Source { connection_url: &wrong, ..Source::default() };
    let error = MySql::new(Settings::new(&source).unwrap()).verify().await.unwrap_err().to_string();
    assert!(error.starts_with("Error 1045 (28000): Access denied for user 'vaultadmin'@'"), "{error}");
    assert!(error.ends_with("' (using password: YES)"), "{error}");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("u:p@tcp({closed})/");
    let source = Source { connection_url: &down, ..Source::default() };
    let error = MySql::new(Settings::new(&source).unwrap()).verify().await.unwrap_err().to_string();
    assert_eq!(error, format!("dial tcp {closed}: connect: connection refused"));
}

#[tokio::test]
async fn the_next_host_is_tried() {
    let Some(_) = target() else { return };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let both = url().unwrap().replace("tcp(", &format!("tcp({closed},"));
    let source = Source { connection_url: &both, ..Source::default() };
    MySql::new(Settings::new(&source).unwrap()).verify().await.unwrap();
}

#[tokio::test]
async fn a_creation_that_fails_midway_leaves_nothing() {
    let Some(target) = target() else { return };
    let user = name();
    let creation = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'",
        "GRANT SELECT ON nosuch.tbl TO '{{name}}'@'%'",
    ];
    let trace = name();
    let rollback = [format!("CREATE DATABASE `{trace}`"), "DROP USER '{{name}}'@'%'".to_owned()];
    let plan = mint_plan(&user, &creation, &rollback.each_ref().map(String::as_str));
    let password = password::password().unwrap();
    match target.mint(&plan, Login::Password(&password)).await {
        Outcome::Failed(e) => assert_eq!(e.to_string(), "Error 1146 (42S02): Table 'nosuch.tbl' doesn't exist"),
        other => panic!("{other:?}"),
    }
    assert!(hosts(&target, &user).await.is_empty());
    // The rollback statements ran, the second in vain.
    assert_eq!(column(&target, &format!("SHOW DATABASES LIKE '{trace}'")).await, std::slice::from_ref(&trace));
    run(&target, &format!("DROP DATABASE `{trace}`")).await;
    assert_not_logged(&target, &password).await;
}

#[tokio::test]
async fn a_user_that_was_there_is_not_touched() {
    let Some(target) = target() else { return };
    let user = name();
    let password = minted(&target, &user, &["CREATE USER '{{name}}'@'10.1.2.3' IDENTIFIED BY '{{password}}'"]).await;
    let plan = mint_plan(&user, &[CREATE], &["DROP USER '{{name}}'@'10.1.2.3'"]);
    match target.mint(&plan, Login::Password(&password)).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("exists already"), "{e}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(hosts(&target, &user).await, ["10.1.2.3"]);
    target.end(&end_plan(&user, &[])).await.unwrap();
    assert!(hosts(&target, &user).await.is_empty(), "the default finds every host");
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_no_user() {
    let Some(target) = target() else { return };
    let user = name();
    let password = password::password().unwrap();
    let plan = mint_plan(&user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "DO SLEEP(0.3)"], &[]);
    {
        let mint = target.mint(&plan, Login::Password(&password));
        tokio::pin!(mint);
        let made = async {
            while hosts(&target, &user).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! { outcome = &mut mint => panic!("{outcome:?}"), () = made => {} }
    }
    let gone = async {
        while !hosts(&target, &user).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the user is still there");
}

#[tokio::test]
async fn a_statement_without_an_answer_is_settled() {
    let Some(target) = target_with(|source| source.statement_timeout = Duration::from_millis(300)) else { return };
    let user = name();
    // The second statement would make the user come back long after the first was undone.
    let late = "BEGIN NOT ATOMIC DO SLEEP(1.5); EXECUTE IMMEDIATE 'CREATE USER ''{{name}}''@''late''' ; END";
    let plan = mint_plan(&user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", late], &[]);
    if !target.core.session().await.unwrap().server.mariadb {
        return;
    }
    match target.mint(&plan, Login::Password(&password::password().unwrap())).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("statement_timeout"), "{e}"),
        other => panic!("{other:?}"),
    }
    assert!(hosts(&target, &user).await.is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(hosts(&target, &user).await.is_empty(), "the statement took effect after it was undone");
}

#[tokio::test]
async fn statements_that_make_no_user_are_refused() {
    let Some(target) = target() else { return };
    match target.mint(&mint_plan(&name(), &["DO 1"], &[]), Login::Password(&password::password().unwrap())).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("did not create the user"), "{e}"),
        other => panic!("{other:?}"),
    }
    match target
        .mint(&mint_plan(&"x".repeat(81), &[CREATE], &[]), Login::Password(&password::password().unwrap()))
        .await
    {
        Outcome::Failed(e) => assert!(e.to_string().contains("username_template"), "{e}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn errors_quote_no_password() {
    let Some(target) = target() else { return };
    let password = password::password().unwrap();
    for creation in [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}' GARBAGE",
        "CREATE USER '{{name}}'@'%' IDENTIFIED VIA pam USING PASSWORD('{{password}}') GARBAGE",
        "CREATE USER '{{name}}'@'%' GARBAGE '{{password}}'",
        "SELECT '{{password}}' FROM nosuch.tbl WHERE GARBAGE",
    ] {
        match target.mint(&mint_plan(&name(), &[creation], &[]), Login::Password(&password)).await {
            Outcome::Failed(e) => {
                let text = e.to_string();
                assert!(text.starts_with("Error 1"), "{text}");
                let hash = server::Plugin::Native.hash(&password).unwrap();
                for secret in [&password, &hash] {
                    let parts: Vec<char> = secret.expose().chars().collect();
                    let seen = parts.windows(6).any(|part| text.contains(&part.iter().collect::<String>()));
                    assert!(!seen, "{text}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn custom_revocation_of_a_user_that_is_gone() {
    let Some(target) = target() else { return };
    let drop_user = ["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'", "DROP USER '{{name}}'@'%'"];
    let user = name();
    minted(&target, &user, &[CREATE]).await;
    assert!(target.end(&end_plan(&user, &drop_user)).await.unwrap().existed);
    assert!(hosts(&target, &user).await.is_empty());
    assert!(!target.end(&end_plan(&user, &drop_user)).await.unwrap().existed);
    // Another user that is not there is an error.
    let other = target.end(&end_plan(&user, &["DROP USER 'somebody'@'%'"])).await.unwrap_err();
    assert_eq!(other.to_string(), "Error 1396 (HY000): Operation DROP USER failed for 'somebody'@'%'");
    // Statements for the wrong host do not end the user.
    minted(&target, &user, &["CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'"]).await;
    let wrong = target.end(&end_plan(&user, &["DROP USER '{{name}}'@'%'"])).await.unwrap_err();
    assert!(wrong.to_string().starts_with("Error 1396"), "{wrong}");
    assert!(target.end(&end_plan(&user, &[])).await.unwrap().existed);
}

#[tokio::test]
async fn revocation_that_leaves_the_user_leaves_it_locked() {
    let Some(target) = target() else { return };
    let user = name();
    let password = minted(&target, &user, &[CREATE]).await;
    let left = ["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'"];
    assert!(target.end(&end_plan(&user, &left)).await.unwrap().existed);
    assert_eq!(hosts(&target, &user).await, ["%"]);
    let refused = target.login(&user, &password).await.unwrap_err().to_string();
    assert!(refused.contains("locked"), "{refused}");
    target.end(&end_plan(&user, &[])).await.unwrap();
    assert!(hosts(&target, &user).await.is_empty());
}

#[tokio::test]
async fn what_a_user_defined_is_found() {
    let Some(target) = target() else { return };
    let user = name();
    let schema = name();
    run(&target, &format!("CREATE DATABASE `{schema}`")).await;
    let grant = format!("GRANT ALL ON `{schema}`.* TO '{{{{name}}}}'@'%'");
    let password = minted(&target, &user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", &grant]).await;
    let mut theirs = session_as(&user, &password).await;
    theirs.run(&format!("CREATE VIEW `{schema}`.seen AS SELECT 1 AS a")).await.unwrap();
    theirs.run(&format!("CREATE PROCEDURE `{schema}`.does() SELECT 1")).await.unwrap();
    let mut session = target.core.session().await.unwrap();
    let accounts = session.accounts(&user, "%").await.unwrap();
    assert!(session.may_define(&user, &accounts).await);
    let found = session.defined_by(&user, &accounts).await.unwrap();
    assert_eq!(found, [format!("procedure {schema}.does"), format!("view {schema}.seen")]);
    session.give_back();
    target.end(&end_plan(&user, &[])).await.unwrap();
    run(&target, &format!("DROP DATABASE `{schema}`")).await;
    // Who may only read has defined nothing, and no view is read to find that out.
    minted(&target, &user, &[CREATE]).await;
    let mut session = target.core.session().await.unwrap();
    let accounts = session.accounts(&user, "%").await.unwrap();
    assert!(!session.may_define(&user, &accounts).await);
    session.give_back();
    target.end(&end_plan(&user, &[])).await.unwrap();
}

#[tokio::test]
async fn passwords_are_set_at_every_host_and_with_the_plugin_that_is_there() {
    let Some(target) = target() else { return };
    let user = name();
    let old = minted(
        &target,
        &user,
        &[
            "CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'",
            "CREATE USER '{{name}}'@'127.0.0.1' IDENTIFIED BY '{{password}}'",
            "CREATE USER '{{name}}'@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{{password}}')",
        ],
    )
    .await;
    let of =
        format!("SELECT CONCAT(Host, ' ', plugin, ' ', authentication_string) FROM mysql.user WHERE User = '{user}'");
    let before = column(&target, &of).await;
    assert!(before.iter().any(|row| row.starts_with("% ed25519")), "{before:?}");
    let new = password::password().unwrap();
    assert!(matches!(target.set_password(&user, &new, &Script::default()).await, Outcome::Done(())));
    let native = server::Plugin::Native.hash(&new).unwrap();
    let ed25519 = server::Plugin::Ed25519.hash(&new).unwrap();
    let mut after = column(&target, &of).await;
    after.sort();
    assert_eq!(
        after,
        [
            format!("% ed25519 {}", ed25519.expose()),
            format!("127.0.0.1 mysql_native_password {}", native.expose()),
            format!("localhost mysql_native_password {}", native.expose()),
        ]
    );
    assert!(target.login(&user, &old).await.is_err());
    target.login(&user, &new).await.unwrap();

    // With statements, and the server's own idea of the hash.
    let newest = password::password().unwrap();
    let statements = script(&["ALTER USER '{{username}}'@'127.0.0.1' IDENTIFIED BY '{{password}}'"]);
    assert!(matches!(target.set_password(&user, &newest, &statements).await, Outcome::Done(())));
    for secret in [&old, &new, &newest] {
        assert_not_logged(&target, secret).await;
    }
    target.end(&end_plan(&user, &[])).await.unwrap();
    match target.set_password(&user, &new, &Script::default()).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("no user"), "{e}"),
        other => panic!("{other:?}"),
    }
    match target.add_password(&user, &new).await {
        Outcome::Failed(_) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hashes_of_every_plugin_are_the_servers_own() {
    let Some(target) = target() else { return };
    if !target.core.session().await.unwrap().server.mariadb {
        return;
    }
    let password = Secret::new("it's \\ \"ü\" 100%".to_owned());
    for plugin in [server::Plugin::Native, server::Plugin::Ed25519] {
        let user = name();
        let plain = script(&[&format!(
            "CREATE USER '{{{{name}}}}'@'%' IDENTIFIED VIA {} USING PASSWORD('{{{{password}}}}')",
            plugin.name()
        )]);
        let plain = plain.fill(&Vars { password: Some(&password), ..Vars::name(&user) }).unwrap();
        run(&target, plain[0].expose()).await;
        let ours = plugin.hash(&password).unwrap();
        let theirs =
            column(&target, &format!("SELECT authentication_string FROM mysql.user WHERE User = '{user}'")).await;
        assert_eq!(theirs, [ours.expose()]);
        target.end(&end_plan(&user, &[])).await.unwrap();
    }
}

#[tokio::test]
async fn password_hashing_and_refusal_of_clear_text() {
    let Some(strict) = target_with(|source| {
        source.password_hashing = "ed25519";
        source.refuse_plaintext_password = true;
        source.user_host = "127.0.0.1";
    }) else {
        return;
    };
    let user = name();
    let creation = ["CREATE USER '{{name}}'@'{{host}}' IDENTIFIED BY '{{password}}'"];
    let password = minted(&strict, &user, &creation).await;
    let of = format!("SELECT CONCAT(Host, ' ', plugin) FROM mysql.user WHERE User = '{user}'");
    assert_eq!(column(&strict, &of).await, ["127.0.0.1 ed25519"]);
    strict.login(&user, &password).await.unwrap();
    let wrong = strict.login(&user, &password::password().unwrap()).await.unwrap_err();
    assert!(matches!(&wrong, LoginError::Refused(_)), "{wrong}");
    strict.end(&end_plan(&user, &["DROP USER '{{name}}'@'{{host}}'"])).await.unwrap();
    let plan = mint_plan(&user, &["SELECT CONCAT('{{password}}')"], &[]);
    match strict.mint(&plan, Login::Password(&password::password().unwrap())).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("clear text"), "{e}"),
        other => panic!("{other:?}"),
    }
    let Some(plain) = target_with(|source| source.password_hashing = "none") else { return };
    let password = minted(&plain, &user, &[CREATE]).await;
    plain.login(&user, &password).await.unwrap();
    plain.end(&end_plan(&user, &[])).await.unwrap();
}

#[tokio::test]
async fn odd_names_and_passwords_do_not_break_out() {
    let Some(target) = target() else { return };
    for (position, odd) in
        ["it's", r"back\slash", r#"dou"ble"#, "trail\\", "ünïcödé", "per%cent_"].into_iter().enumerate()
    {
        let user = format!("{odd}{}", password::base62(6).unwrap());
        let password = Secret::new(format!("{odd}'\\\"{position}"));
        let outcome = target.mint(&mint_plan(&user, &[CREATE], &[]), Login::Password(&password)).await;
        assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
        target.login(&user, &password).await.unwrap();
        assert!(target.end(&end_plan(&user, &[])).await.unwrap().existed);
        assert!(target.login(&user, &password).await.is_err());
    }
}

#[tokio::test]
async fn an_admin_that_may_not_read_the_users() {
    let Some(target) = target() else { return };
    let admin = name();
    let password = minted(
        &target,
        &admin,
        &[
            "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
            "GRANT CREATE USER ON *.* TO '{{name}}'@'%'",
            "GRANT SELECT ON app.* TO '{{name}}'@'%' WITH GRANT OPTION",
        ],
    )
    .await;
    let url = url().unwrap();
    let filled = format!("{{{{username}}}}:{{{{password}}}}{}", &url[url.rfind('@').unwrap()..]);
    let source = Source { connection_url: &filled, username: &admin, password: Some(&password), ..Source::default() };
    let narrow = MySql::new(Settings::new(&source).unwrap());
    let user = name();
    let creation =
        ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "GRANT SELECT ON app.* TO '{{name}}'@'%'"];
    minted(&narrow, &user, &creation).await;
    // It cannot see that the user is there; the server can.
    match narrow.mint(&mint_plan(&user, &creation, &["DROP USER '{{name}}'@'%'"]), Login::Password(&password)).await {
        Outcome::Failed(e) => assert!(e.to_string().starts_with("Error 1396"), "{e}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(hosts(&target, &user).await, ["%"]);
    narrow.end(&end_plan(&user, &[])).await.unwrap();
    assert!(hosts(&target, &user).await.is_empty());
    let failing =
        ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "GRANT SELECT ON nosuch.t TO '{{name}}'@'%'"];
    match narrow.mint(&mint_plan(&user, &failing, &[]), Login::Password(&password)).await {
        Outcome::Failed(_) => {}
        other => panic!("{other:?}"),
    }
    assert!(hosts(&target, &user).await.is_empty());
    target.end(&end_plan(&admin, &[])).await.unwrap();
}

#[tokio::test]
async fn a_session_that_was_killed_while_idle_costs_nothing() {
    let Some(target) = target() else { return };
    let Some(other) = self::target() else { return };
    for _ in 0..2 {
        let user = name();
        let session = target.core.session().await.unwrap();
        let id = session.id;
        session.give_back();
        run(&other, &format!("KILL {id}")).await;
        minted(&target, &user, &[CREATE]).await;
        let session = target.core.session().await.unwrap();
        let id = session.id;
        session.give_back();
        run(&other, &format!("KILL {id}")).await;
        assert!(target.end(&end_plan(&user, &[])).await.unwrap().existed);
    }
    target.close().await;
    assert!(matches!(target.verify().await, Err(TargetError::Connect(_))));
}

/// The certificate authority of the server's certificate, which is for `localhost` and `db.test` and not for addresses;
/// beside it `client.pem` and `client.key`: `LEASEHOLD_TEST_MYSQL_CA`. The server: `LEASEHOLD_TEST_MYSQL_URL`.
#[tokio::test]
#[ignore = "needs a server with a certificate, named in the environment"]
async fn tls() {
    let url = std::env::var("LEASEHOLD_TEST_MYSQL_URL").unwrap();
    let path = std::env::var("LEASEHOLD_TEST_MYSQL_CA").unwrap();
    let ca = std::fs::read_to_string(&path).unwrap();
    let beside = |name: &str| std::fs::read_to_string(std::path::Path::new(&path).with_file_name(name)).unwrap();
    let client = Secret::new(beside("client.pem") + &beside("client.key"));
    let by_name = url.replace("127.0.0.1", "localhost");
    let of = |source: Source<'_>| MySql::new(Settings::new(&source).unwrap());
    let cipher = async |target: &MySql| rows(target, "SHOW STATUS LIKE 'Ssl_cipher'").await[0][1].clone().unwrap();

    let verified = of(Source { connection_url: &by_name, tls_ca: &ca, ..Source::default() });
    assert!(!cipher(&verified).await.is_empty());
    let both =
        Source { connection_url: &by_name, tls_ca: &ca, tls_certificate_key: Some(&client), ..Source::default() };
    assert!(!cipher(&of(both)).await.is_empty());
    // An authority that nobody knows, and a name that is not the host's.
    let unknown = format!("{by_name}?tls=true");
    let error = of(Source { connection_url: &unknown, ..Source::default() }).verify().await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let other = Source { connection_url: &url, tls_ca: &ca, ..Source::default() };
    let error = of(other).verify().await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let skipped = of(Source { tls_skip_verify: true, ..other });
    assert!(!cipher(&skipped).await.is_empty());
    let named = of(Source { tls_server_name: "db.test", ..other });
    assert!(!cipher(&named).await.is_empty());
    let error = of(Source { tls_server_name: "else.test", ..other }).verify().await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let off = format!("{url}?tls=false");
    assert!(cipher(&of(Source { connection_url: &off, ..Source::default() })).await.is_empty());
    let preferred = of(Source { connection_url: &url, ..Source::default() });
    assert!(!cipher(&preferred).await.is_empty());
    let user = name();
    let password = minted(&named, &user, &[CREATE]).await;
    named.login(&user, &password).await.unwrap();
    named.end(&end_plan(&user, &[])).await.unwrap();
}

/// Passes connections on to the server until it is told not to.
struct Proxy {
    port: u16,
    accepting: Arc<AtomicBool>,
    open: Arc<std::sync::Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Proxy {
    async fn new() -> Self {
        let url = url().unwrap();
        let server = url[url.rfind('(').unwrap() + 1..url.rfind(')').unwrap()].to_owned();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepting, open) = (Arc::new(AtomicBool::new(true)), Arc::new(std::sync::Mutex::new(Vec::new())));
        let (accepting_too, open_too) = (accepting.clone(), open.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                if accepting_too.load(Ordering::SeqCst) {
                    let copy = tokio::spawn(async move {
                        let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    });
                    open_too.lock().unwrap().push(copy.abort_handle());
                }
            }
        });
        Self { port, accepting, open }
    }

    fn target(&self, change: impl FnOnce(&mut Source<'_>)) -> MySql {
        let url = url().unwrap();
        let through = format!("{}@tcp(127.0.0.1:{})/", &url[..url.rfind('@').unwrap()], self.port);
        let mut source = Source { connection_url: &through, ..Source::default() };
        change(&mut source);
        MySql::new(Settings::new(&source).unwrap())
    }

    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|copy| copy.abort());
    }
}

/// Mints through a proxy and has `cut` called when the user is there and its second statement is under way.
async fn cut_short(target: &MySql, through: &MySql, user: &str, cut: impl FnOnce()) -> Outcome<()> {
    let plan = mint_plan(user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "DO SLEEP(20)"], &[]);
    let password = password::password().unwrap();
    let mint = through.mint(&plan, Login::Password(&password));
    let made = async {
        let sleeping = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO = 'DO SLEEP(20)'";
        while hosts(target, user).await.is_empty() || column(target, sleeping).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cut();
    };
    tokio::join!(mint, made).0
}

#[tokio::test]
async fn a_session_that_breaks_midway() {
    let Some(target) = target() else { return };
    let proxy = Proxy::new().await;
    let through = proxy.target(|_| {});
    let user = name();
    match cut_short(&target, &through, &user, || proxy.cut()).await {
        Outcome::Failed(e) => assert!(matches!(e, TargetError::Lost(_)), "{e}"),
        other => panic!("{other:?}"),
    }
    assert!(hosts(&target, &user).await.is_empty());

    let through = proxy.target(|source| source.connect_timeout = Duration::from_secs(2));
    let gone = || {
        proxy.accepting.store(false, Ordering::SeqCst);
        proxy.cut();
    };
    match cut_short(&target, &through, &user, gone).await {
        Outcome::Unknown(e) => assert!(matches!(e, TargetError::Lost(_)), "{e}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(hosts(&target, &user).await, ["%"]);
    target.end(&end_plan(&user, &[])).await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_in_the_way_is_waited_for() {
    let Some(target) = target_with(|source| source.statement_timeout = Duration::from_secs(4)) else { return };
    let table = format!("app.`{}`", name());
    run(&target, &format!("CREATE TABLE {table} (a INT)")).await;
    let user = name();
    let alter = format!("ALTER TABLE {table} COMMENT 'x'");
    let creation = ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", alter.as_str()];
    let mut other = self::target().unwrap().core.session().await.unwrap();
    other.run("START TRANSACTION").await.unwrap();
    other.run(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
    let begun = std::time::Instant::now();
    let release = async {
        // The server gives up waiting after one second, a third of the statement's time.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        other.run("COMMIT").await.unwrap();
    };
    tokio::join!(minted(&target, &user, &creation), release);
    assert!(begun.elapsed() >= Duration::from_millis(1300));
    target.end(&end_plan(&user, &[])).await.unwrap();
    run(&target, &format!("DROP TABLE {table}")).await;
}

#[tokio::test]
async fn an_admin_that_may_not_kill() {
    let Some(target) = target() else { return };
    if !target.core.session().await.unwrap().server.mariadb {
        return;
    }
    // As on managed servers.
    run(&target, "CREATE OR REPLACE PROCEDURE mysql.rds_kill(IN thread BIGINT) BEGIN KILL thread; END").await;
    let admin = name();
    let grants = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "GRANT CREATE USER, PROCESS, SELECT, EXECUTE ON *.* TO '{{name}}'@'%' WITH GRANT OPTION",
    ];
    let password = minted(&target, &admin, &grants).await;
    let url = url().unwrap();
    let filled = format!("{{{{username}}}}:{{{{password}}}}{}", &url[url.rfind('@').unwrap()..]);
    let source = Source { connection_url: &filled, username: &admin, password: Some(&password), ..Source::default() };
    let narrow = MySql::new(Settings::new(&source).unwrap());
    let user = name();
    let password = minted(&narrow, &user, &[CREATE]).await;
    let mut open = session_as(&user, &password).await;
    assert_eq!(narrow.end(&end_plan(&user, &[])).await.unwrap().sessions, 1);
    assert!(open.run("SELECT 1").await.is_err());
    assert!(!narrow.core.session().await.unwrap().server.has_two_passwords());
    run(&target, "DROP PROCEDURE mysql.rds_kill").await;
    // Without the procedure the user goes all the same, and the session with it is an error.
    let password = minted(&narrow, &user, &[CREATE]).await;
    let mut open = session_as(&user, &password).await;
    let error = narrow.end(&end_plan(&user, &[])).await.unwrap_err().to_string();
    assert!(error.starts_with("Error 1095"), "{error}");
    assert!(hosts(&target, &user).await.is_empty());
    open.run("SELECT 1").await.unwrap();
    assert_eq!(target.end(&end_plan(&user, &[])).await.unwrap().sessions, 1);
    target.end(&end_plan(&admin, &[])).await.unwrap();
}

#[tokio::test]
async fn accounts_that_log_in_without_a_password_stay_as_they_are() {
    let Some(target) = target() else { return };
    if !target.core.session().await.unwrap().server.mariadb {
        return;
    }
    let user = name();
    let socket = "CREATE USER '{{name}}'@'localhost' IDENTIFIED VIA unix_socket";
    minted(&target, &user, &[socket]).await;
    let new = password::password().unwrap();
    match target.set_password(&user, &new, &Script::default()).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("with a password"), "{e}"),
        other => panic!("{other:?}"),
    }
    run(&target, &format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'x'")).await;
    assert!(matches!(target.set_password(&user, &new, &Script::default()).await, Outcome::Done(())));
    let of = format!("SELECT CONCAT(Host, ' ', plugin) FROM mysql.user WHERE User = '{user}' ORDER BY Host");
    assert_eq!(column(&target, &of).await, ["127.0.0.1 mysql_native_password", "localhost unix_socket"]);
    target.end(&end_plan(&user, &[])).await.unwrap();
}
