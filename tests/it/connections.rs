//! Ways to say where a database is and how to log in to it, through the host.

use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::tls::{Authority, speak_tls};
use crate::support::wait_for;

fn role(client: &Client, connection: &str) {
    client
        .post(
            &format!("database/roles/{connection}"),
            json!({ "db_name": connection, "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'" }),
        )
        .expect(204);
}

fn mint_and_revoke(client: &Client, postgres: &Postgres, connection: &str) {
    role(client, connection);
    let minted = client.get(&format!("database/creds/{connection}")).expect(200);
    let text = |key: &str| minted["data"][key].as_str().unwrap().to_owned();
    let (user, password) = (text("username"), text("password"));
    assert_eq!(postgres.login(&user, &password, "SELECT current_user"), Ok(user.clone()));
    client.revoke(minted["lease_id"].as_str().unwrap()).expect(204);
    assert!(postgres.login(&user, &password, "SELECT 1").is_err());
}

fn mounted() -> (Bao, Client) {
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    (bao, client)
}

fn config(more: Value) -> Value {
    let mut all = json!({ "plugin_name": "postgresql-database-plugin", "allowed_roles": "*" });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

/// Fields instead of a connection string: nothing has to be escaped, and PEM text stands in the field itself.
#[test]
fn structured_fields_reach_a_server_over_verified_tls() {
    let postgres = Postgres::start();
    let authority = Authority::new();
    postgres.sql("CREATE ROLE cert_only LOGIN SUPERUSER");
    speak_tls(&postgres, &authority, "hostssl all cert_only all cert");
    let (_bao, client) = mounted();
    postgres.sql("CREATE ROLE \"odd @:/%' user\" SUPERUSER LOGIN PASSWORD 'p@ss:w/or#d% ''\"'");
    let fields = |more: Value| {
        let mut all = config(json!({
            "host": "localhost", "port": postgres.port(), "database": "postgres",
            "username": "odd @:/%' user", "password": "p@ss:w/or#d% '\"",
        }));
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    client
        .post("database/config/verified", fields(json!({ "sslmode": "verify-full", "tls_ca": authority.pem })))
        .expect(204);
    let sessions = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE ssl AND application_name = 'leasehold'";
    assert_ne!(postgres.sql(sessions).trim(), "0", "the session is encrypted");
    mint_and_revoke(&client, &postgres, "verified");

    let stranger = Authority::new();
    let refused = client
        .post("database/config/stranger", fields(json!({ "sslmode": "verify-full", "tls_ca": stranger.pem })))
        .expect(400);
    let text = refused["errors"][0].as_str().unwrap();
    assert!(text.contains("tls error") && !text.contains("p@ss"), "{text}");
    let refused = client
        .post(
            "database/config/name",
            fields(json!({ "host": "127.0.0.1", "sslmode": "verify-full", "tls_ca": authority.pem })),
        )
        .expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("tls error"), "a certificate for another name");
    assert_eq!(client.get("database/config/stranger").status, 404);

    // No password at all: the certificate is the login.
    let (certificate, key) = authority.sign("cert_only", &[]);
    let by_certificate = config(json!({
        "host": "localhost", "port": postgres.port(), "username": "cert_only", "sslmode": "verify-full",
        "tls_ca": authority.pem, "tls_certificate": certificate, "private_key": key,
    }));
    client.post("database/config/certified", by_certificate).expect(204);
    mint_and_revoke(&client, &postgres, "certified");
    let shown = client.get("database/config/certified").data();
    assert!(!shown.to_string().contains("PRIVATE KEY"), "{shown}");
}

/// The same server by URL, by keywords, by socket; the first host that answers of several.
#[test]
fn every_form_of_connection_string_connects() {
    let postgres = Postgres::start();
    let (_bao, client) = mounted();
    let port = postgres.port();
    postgres.sql("CREATE ROLE \"a b\" SUPERUSER LOGIN PASSWORD 'p@ s%'");
    let socket = postgres.sql("SHOW unix_socket_directories");
    let socket = socket.trim();
    for (name, url) in [
        ("url", format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/postgres?sslmode=disable")),
        ("several", format!("postgres://{{{{username}}}}:{{{{password}}}}@127.0.0.1:1,127.0.0.1:{port}/postgres")),
        (
            "keywords",
            format!("host=127.0.0.1 port={port} user={{{{username}}}} password={{{{password}}}} dbname=postgres"),
        ),
        (
            "quoted",
            format!("host='127.0.0.1' port={port} user='{{{{username}}}}' password='{{{{password}}}}' dbname=postgres"),
        ),
        (
            "socket",
            format!("host={socket} port={port} user={{{{username}}}} password={{{{password}}}} dbname=postgres"),
        ),
        (
            "primary",
            format!(
                "host=127.0.0.1 port={port} user={{{{username}}}} password={{{{password}}}} dbname=postgres \
                     target_session_attrs=read-write"
            ),
        ),
    ] {
        let body = config(json!({ "connection_url": url, "username": "a b", "password": "p@ s%" }));
        client.post(&format!("database/config/{name}"), body).expect(204);
        mint_and_revoke(&client, &postgres, name);
    }
    let body = config(json!({
        "connection_url": format!("host=127.0.0.1 port={port} user={ADMIN} password={ADMIN_PASSWORD} dbname=postgres target_session_attrs=standby"),
    }));
    let refused = client.post("database/config/standby", body).expect(400);
    assert!(refused["errors"][0].as_str().unwrap().contains("target_session_attrs"), "{refused}");
}

/// `reset` and `reload` open new sessions; what is at work finishes.
#[test]
fn reset_and_reload_open_new_sessions() {
    let postgres = Postgres::start();
    let (_bao, client) = mounted();
    for name in ["one", "two"] {
        let body = config(json!({ "connection_url": postgres.url(), "username": ADMIN, "password": ADMIN_PASSWORD }));
        client.post(&format!("database/config/{name}"), body).expect(204);
    }
    let pids = || postgres.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'leasehold' ORDER BY 1");
    let before = pids();
    assert_eq!(before.lines().count(), 2);
    let reloaded = client.post("database/reload/postgresql-database-plugin", json!({})).data();
    assert_eq!((&reloaded["count"], &reloaded["connections"]), (&json!(2), &json!(["one", "two"])));
    let renewed = wait_for("the old sessions to close", std::time::Duration::from_secs(5), || {
        let now = pids();
        (now.lines().count() == 2 && now.lines().all(|pid| !before.contains(pid))).then_some(now)
    });
    client.post("database/reset/one", json!({})).expect(204);
    wait_for("one session to be new", std::time::Duration::from_secs(5), || {
        let now = pids();
        let kept = now.lines().filter(|pid| renewed.contains(*pid)).count();
        (now.lines().count() == 2 && kept == 1).then_some(())
    });
    client.post("database/reload/mysql-database-plugin", json!({})).expect(400);
}

/// What the mount says of itself reaches the documents that tools read.
#[test]
fn the_mount_is_in_the_hosts_openapi_document() {
    let (_bao, client) = mounted();
    let document = client.get("sys/internal/specs/openapi").expect(200);
    let paths = document["paths"].as_object().unwrap();
    for path in ["config/{name}", "roles/{name}", "creds/{name}", "reset/{name}", "reload/{plugin_name}"] {
        let found = paths.iter().find(|(key, _)| key.ends_with(&format!("/{path}")) && key.contains("database"));
        assert!(found.is_some(), "{path} is missing among {:?}", paths.keys().collect::<Vec<_>>());
    }
    let help = client.get("database/roles/x?help=1").expect(200);
    assert!(help["help"].as_str().unwrap().contains("creation_statements (slice)"));
}

/// What the operators' page says of the administrative account: CREATEROLE is enough to mint and to end, sessions
/// included.
#[test]
fn an_account_that_is_no_superuser_is_enough() {
    let postgres = Postgres::start();
    let (_bao, client) = mounted();
    postgres.sql(
        "CREATE ROLE orders_reader; CREATE TABLE orders (id int); GRANT SELECT ON orders TO orders_reader; \
         CREATE ROLE plain LOGIN CREATEROLE PASSWORD 'plain-pw'; GRANT orders_reader TO plain WITH ADMIN OPTION; \
         CREATE ROLE signaller LOGIN CREATEROLE PASSWORD 'plain-pw'; GRANT pg_signal_backend TO signaller; \
         GRANT orders_reader TO signaller WITH ADMIN OPTION; CREATE DATABASE elsewhere; \
         CREATE TABLE of_plain (id int); ALTER TABLE of_plain OWNER TO plain; \
         CREATE TABLE of_signaller (id int); ALTER TABLE of_signaller OWNER TO signaller;",
    );
    for account in ["plain", "signaller"] {
        let body = config(json!({ "connection_url": postgres.url(), "username": account, "password": "plain-pw" }));
        client.post(&format!("database/config/{account}"), body).expect(204);
        client
            .post(
                &format!("database/roles/{account}"),
                json!({ "db_name": account, "creation_statements":
                        "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' \
                         IN ROLE orders_reader; GRANT SELECT ON of_ACCOUNT TO \"{{name}}\"".replace("ACCOUNT", account) }),
            )
            .expect(204);
        let minted = client.get(&format!("database/creds/{account}")).expect(200);
        let text = |key: &str| minted["data"][key].as_str().unwrap().to_owned();
        let (user, password) = (text("username"), text("password"));
        let mut session = postgres.session(&user, &password);
        assert_eq!(session.one("SELECT count(*) FROM orders").as_deref(), Some("0"));
        // What somebody else granted it, only he can take back: the user stays, barred, and its sessions end.
        postgres.sql(&format!("GRANT CONNECT ON DATABASE elsewhere TO \"{user}\""));
        let lease = minted["lease_id"].as_str().unwrap();
        client.revoke(lease).expect(204);
        assert!(postgres.login(&user, &password, "SELECT 1").is_err(), "barred");
        assert_eq!(session.one("SELECT 1"), None, "the session ended");
        let grants = "SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid WHERE r.rolname =";
        assert_eq!(postgres.sql(&format!("{grants} '{user}'")).trim(), "1", "what is left is that one grant");
        postgres.sql(&format!("DROP OWNED BY \"{user}\"; DROP ROLE \"{user}\""));
    }
    let leftovers = "SELECT count(*) FROM pg_auth_members WHERE member IN ('plain'::regrole, 'signaller'::regrole)";
    assert_eq!(postgres.sql(leftovers).trim(), "3", "the accounts are members of what they were, and of nothing more");
}

/// The rounds of the verifiers that the server stores: the connection's, the role's before them, 4096 without either.
#[test]
fn a_verifier_has_as_many_rounds_as_role_and_connection_say() {
    let postgres = Postgres::start();
    let (_bao, client) = mounted();
    let connect = |rounds: Value| {
        let login = json!({ "connection_url": postgres.url(), "username": ADMIN, "password": ADMIN_PASSWORD,
                            "scram_iterations": rounds });
        client.post("database/config/pg", config(login))
    };
    // Twice each: the second password may have been drawn ahead.
    let mint = |expected: &str| {
        for _ in 0..2 {
            let minted = client.get("database/creds/pg").expect(200);
            let text = |key: &str| minted["data"][key].as_str().unwrap().to_owned();
            let (user, password) = (text("username"), text("password"));
            let stored = postgres
                .sql(&format!("SELECT split_part(rolpassword, ':', 1) FROM pg_authid WHERE rolname = '{user}'"));
            assert_eq!(stored.trim(), format!("SCRAM-SHA-256${expected}"));
            assert_eq!(postgres.login(&user, &password, "SELECT current_user"), Ok(user.clone()));
        }
    };
    connect(json!(0)).expect(204);
    role(&client, "pg");
    mint("4096");
    connect(json!(7)).expect(204);
    mint("7");
    client.post("database/roles/pg", json!({ "db_name": "pg", "scram_iterations": 1 })).expect(204);
    assert_eq!(client.get("database/roles/pg").expect(200)["data"]["scram_iterations"], json!(1));
    mint("1");
    client.post("database/roles/pg", json!({ "db_name": "pg", "scram_iterations": 0 })).expect(204);
    mint("7");
    for wrong in [-1, 100_001] {
        assert!(connect(json!(wrong)).expect(400)["errors"][0].as_str().unwrap().contains("scram_iterations"));
        client.post("database/roles/pg", json!({ "db_name": "pg", "scram_iterations": wrong })).expect(400);
    }
}
