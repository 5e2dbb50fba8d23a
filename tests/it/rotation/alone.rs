//! Connections without an account of their own: each account changes its own password.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::mariadb::MariaDb;
use crate::support::postgres::Postgres;
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

fn mounted() -> (Bao, Client) {
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    (bao, client)
}

fn postgres(url: &str) -> Value {
    json!({ "plugin_name": "postgresql-database-plugin", "connection_url": url, "allowed_roles": "st*",
            "self_managed": true })
}

fn role(password: &str) -> Value {
    json!({ "db_name": "db", "username": "st", "rotation_period": 3600, "password": password })
}

fn served(client: &Client) -> String {
    wait_for("an answer", LIMIT, || {
        client.get("database/static-creds/st").body["data"]["password"].as_str().map(str::to_owned)
    })
}

#[track_caller]
fn refused(answer: crate::support::client::Answer, expected: &str) {
    let text = answer.body["errors"][0].as_str().unwrap_or_default();
    assert!(answer.status >= 400 && text.contains(expected), "{} {}", answer.status, answer.body);
}

#[test]
fn a_postgres_account_changes_its_own_password() {
    let server = Postgres::start();
    server.sql("CREATE ROLE st LOGIN PASSWORD 'initial'");
    let (bao, client) = mounted();
    client.post("database/config/db", postgres(&server.url())).expect(204);
    assert_eq!(client.get("database/config/db").data()["connection_details"]["self_managed"], json!(true));

    let write = |body: Value| client.post("database/static-roles/st", body);
    let mut without = role("");
    without.as_object_mut().unwrap().remove("password");
    refused(write(without), "password is required");
    refused(write(role("wrong")), "the given password does not open the account");
    assert!(server.login("st", "initial", "SELECT 1").is_ok());
    write(role("initial")).expect(204);
    let mut last = served(&client);
    assert_ne!(last, "initial");
    for _ in 0..2 {
        assert!(server.login("st", &last, "SELECT 1").is_ok());
        client.post("database/rotate-role/st", json!({})).expect(204);
        assert!(server.login("st", &last, "SELECT 1").is_err());
        last = served(&client);
    }
    assert!(!server.log().contains(&last), "a password is in the database's log");

    // Changed by somebody else: there is no getting in until we are told.
    server.sql("ALTER ROLE st PASSWORD 'by hand'");
    refused(client.post("database/rotate-role/st", json!({})), "password authentication failed");
    refused(write(json!({ "password": "wrong" })), "the given password does not open the account");
    write(json!({ "password": "by hand" })).expect(204);
    client.post("database/rotate-role/st", json!({})).expect(204);
    last = served(&client);
    assert!(server.login("st", &last, "SELECT 1").is_ok());

    // Killed in the middle of changes.
    let slow = json!({ "rotation_statements": ["ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'", "SELECT pg_sleep(0.1)"] });
    write(slow).expect(204);
    for round in 0..8 {
        std::thread::scope(|scope| {
            scope.spawn(|| client.try_request("POST", "database/rotate-role/st", Some(&json!({})), &[]).ok());
            std::thread::sleep(Duration::from_millis(60 * round));
            for pid in bao.plugin_processes() {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        wait_for("the account", LIMIT, || server.login("st", &served(&client), "SELECT 1").is_ok().then_some(()));
    }
}

#[test]
fn what_needs_an_account_of_the_connection_is_refused() {
    let server = Postgres::start();
    server.sql("CREATE ROLE st LOGIN PASSWORD 'initial'");
    let (_bao, client) = mounted();
    let config = |body: Value| client.post("database/config/db", body);
    let mut with_user = postgres(&server.url());
    with_user["username"] = json!("postgres");
    refused(config(with_user), "self_managed is mutually exclusive with username and password");
    refused(config(postgres("postgresql://st@localhost/db")), "holds {{username}} and {{password}}");
    let redis = json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": 1, "self_managed": true });
    refused(config(redis), "self_managed is for PostgreSQL, MySQL and MariaDB");
    client.get("database/config/db").expect(404);
    // Nothing is verified, for there is nobody to do it as.
    let mut hosted = postgres("");
    hosted.as_object_mut().unwrap().remove("connection_url");
    hosted["host"] = json!("127.0.0.1");
    hosted["port"] = json!(server.port());
    config(hosted).expect(204);
    refused(config(json!({ "self_managed": false })), "stays one");
    refused(config(json!({ "username": "postgres", "password": "x" })), "mutually exclusive");

    client
        .post("database/roles/app", json!({ "db_name": "db", "creation_statements": "CREATE ROLE \"{{name}}\"" }))
        .expect(204);
    refused(client.get("database/creds/app"), "app");
    config(json!({ "allowed_roles": "*" })).expect(204);
    refused(client.get("database/creds/app"), "is for static roles only");
    refused(client.post("database/rotate-root/db", json!({})), "no username in configuration");
    let mut two = role("initial");
    two["rotation_mode"] = json!("dual_account");
    two["secondary_username"] = json!("other");
    two["grace_period"] = json!(60);
    refused(client.post("database/static-roles/st", two), "rotation_mode is single");
    client.post("database/static-roles/st", role("initial")).expect(204);
    assert!(server.login("st", &served(&client), "SELECT 1").is_ok());
}

#[test]
fn a_mariadb_account_changes_its_own_password() {
    let server = MariaDb::start();
    let (_bao, client) = mounted();
    let config = json!({ "plugin_name": "mysql-database-plugin", "connection_url": server.url(), "allowed_roles": "*",
                         "self_managed": true, "refuse_plaintext_password": true });
    client.post("database/config/db", config).expect(204);
    // Who may read the accounts may still not change them.
    for privileges in ["USAGE ON *.*", "SELECT ON *.*"] {
        server.sql("CREATE USER st@'%' IDENTIFIED BY 'initial'");
        server.sql(&format!("GRANT {privileges} TO st@'%'"));
        client.post("database/static-roles/st", role("initial")).expect(204);
        let mut passwords = vec![served(&client)];
        for _ in 0..2 {
            client.post("database/rotate-role/st", json!({})).expect(204);
            passwords.push(served(&client));
        }
        let last = passwords.pop().unwrap();
        assert!(server.login("st", &last, "SELECT 1").is_ok());
        for password in &passwords {
            assert!(server.login("st", password, "SELECT 1").is_err());
            assert!(!server.general_log().contains(password.as_str()), "a password is in the log");
        }
        client.delete("database/static-roles/st").expect(204);
        server.sql("DROP USER st@'%'");
    }
}
