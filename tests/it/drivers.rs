//! MariaDB and Redis through the real host: the life of a user, and what is left when the plugin is killed.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::mariadb::{self, MariaDb};
use crate::support::redis::{self, Redis};
use crate::support::wait_for;

const CREATE: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'";

pub fn mounted() -> (Bao, Client) {
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    (bao, client)
}

/// With a connection `my` and a role `app`.
pub fn with_mariadb(more: Value) -> (MariaDb, Bao, Client) {
    let server = MariaDb::start();
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT)");
    let (bao, client) = mounted();
    client
        .post(
            "database/config/my",
            json!({ "plugin_name": "mysql-database-plugin", "connection_url": server.url(), "allowed_roles": "*",
                    "username": mariadb::ADMIN, "password": mariadb::ADMIN_PASSWORD }),
        )
        .expect(204);
    let mut role =
        json!({ "db_name": "my", "creation_statements": [CREATE, "GRANT SELECT ON shop.* TO '{{name}}'@'%'"] });
    for (key, value) in more.as_object().unwrap() {
        role[key] = value.clone();
    }
    client.post("database/roles/app", role).expect(204);
    (server, bao, client)
}

/// User, password and lease of a fresh credential.
pub fn mint(client: &Client, role: &str) -> [String; 3] {
    let body = client.get(&format!("database/creds/{role}")).expect(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    [text(&body["data"]["username"]), text(&body["data"]["password"]), text(&body["lease_id"])]
}

#[test]
fn a_mariadb_user_comes_and_goes() {
    let (server, bao, client) = with_mariadb(json!({}));
    let [user, password, lease] = mint(&client, "app");
    assert_eq!(server.login(&user, &password, "SELECT COUNT(*) FROM shop.orders"), Ok("0".to_owned()));
    let mut session = server.session(&user, &password);
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
    client.post("sys/leases/renew", json!({ "lease_id": lease, "increment": 60 })).expect(200);
    assert_eq!(session.one("SELECT 2").as_deref(), Some("2"));
    client.revoke(&lease).expect(204);
    assert_eq!(session.one("SELECT 3"), None, "the session of a revoked user still answers");
    let refused = server.login(&user, &password, "SELECT 1").unwrap_err();
    assert!(refused.contains("1045"), "{refused}");
    assert!(server.hosts(&user).is_empty());

    server.sql("CREATE USER st@'%' IDENTIFIED BY 'initial'; CREATE USER rooty@'%' IDENTIFIED BY 'rr'");
    server.sql("GRANT ALL ON *.* TO rooty@'%' WITH GRANT OPTION");
    client
        .post("database/static-roles/st", json!({ "db_name": "my", "username": "st", "rotation_period": 3600 }))
        .expect(204);
    let served = client.get("database/static-creds/st").data()["password"].as_str().unwrap().to_owned();
    server.login("st", &served, "SELECT 1").unwrap();
    client
        .post(
            "database/config/rr",
            json!({ "plugin_name": "mysql-database-plugin", "connection_url": server.url(), "username": "rooty",
                    "password": "rr" }),
        )
        .expect(204);
    client.post("database/rotate-root/rr", json!({})).expect(204);
    client.post("database/reset/rr", json!({})).expect(204);
    assert!(server.login("rooty", "rr", "SELECT 1").is_err());

    let log = server.general_log();
    assert!(log.contains(&user) && log.contains("IDENTIFIED") && log.contains("st"), "the log is off");
    for secret in [&password, &served] {
        assert!(!log.contains(secret.as_str()), "a password is in the general log");
        assert!(!bao.log().contains(secret.as_str()), "a password is in the host's log");
    }
}

/// `{{host}}` in every kind of statement, and all hosts of a user where there are none.
#[test]
fn a_mariadb_user_is_ended_and_changed_at_every_host() {
    let (server, _bao, client) = with_mariadb(json!({}));
    client.post("database/config/my", json!({ "user_host": "127.0.0.1" })).expect(204);
    server.sql("CREATE TABLE shop.ran (what VARCHAR(200))");
    let at = |what: &str| format!("INSERT INTO shop.ran VALUES ('{what} {{{{name}}}} at {{{{host}}}}')");
    let ran = || {
        let ran = server.sql("SELECT GROUP_CONCAT(what) FROM shop.ran");
        server.sql("DELETE FROM shop.ran");
        ran
    };
    let create = |host: &str| format!("CREATE USER '{{{{name}}}}'@'{host}' IDENTIFIED BY '{{{{password}}}}'");
    let role = json!({ "db_name": "my", "creation_statements": [create("{{host}}"), create("10.0.0.1")],
                       "renew_statements": [at("renewed")], "rollback_statements": [at("undone")] });
    client.post("database/roles/app", role).expect(204);
    let [user, password, lease] = mint(&client, "app");
    assert_eq!(server.hosts(&user), ["10.0.0.1", "127.0.0.1"]);
    server.login(&user, &password, "SELECT 1").unwrap();
    client.post("sys/leases/renew", json!({ "lease_id": lease, "increment": 60 })).expect(200);
    assert_eq!(ran(), format!("renewed {user} at 127.0.0.1"));
    client.revoke(&lease).expect(204);
    assert!(server.hosts(&user).is_empty());

    // Statements of one's own, and what they leave.
    let own = json!({ "revocation_statements": [at("ended"), "DROP USER '{{name}}'@'{{host}}'"] });
    client.post("database/roles/app", own).expect(204);
    let [user, _, lease] = mint(&client, "app");
    client.revoke(&lease);
    assert_eq!(ran(), format!("ended {user} at 127.0.0.1"));
    assert!(!server.hosts(&user).contains(&"127.0.0.1".to_owned()), "{:?}", server.hosts(&user));
    let failing = json!({ "creation_statements": [create("{{host}}"), "GRANT nonsense"] });
    client.post("database/roles/app", failing).expect(204);
    assert!(client.get("database/creds/app").status >= 400);
    let undone = ran();
    assert!(undone.starts_with("undone ") && undone.ends_with(" at 127.0.0.1"), "{undone}");
    assert_eq!(server.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'v-%' AND Host = '127.0.0.1'"), "0");

    for host in ["127.0.0.1", "10.%"] {
        server.sql(&format!("CREATE USER st@'{host}' IDENTIFIED BY 'initial'"));
    }
    client
        .post("database/static-roles/st", json!({ "db_name": "my", "username": "st", "rotation_period": 3600 }))
        .expect(204);
    let hashes = || server.sql("SELECT GROUP_CONCAT(DISTINCT authentication_string) FROM mysql.user WHERE User = 'st'");
    let first = hashes();
    assert!(!first.contains(','), "one host has another password: {first}");
    let statements =
        json!({ "rotation_statements": ["ALTER USER '{{name}}'@'{{host}}' IDENTIFIED BY '{{password}}'"] });
    client.post("database/static-roles/st", statements).expect(204);
    client.post("database/rotate-role/st", json!({})).expect(204);
    let served = client.get("database/static-creds/st").data()["password"].as_str().unwrap().to_owned();
    server.login("st", &served, "SELECT 1").unwrap();
    assert!(hashes().contains(&first) && hashes().contains(','), "the statements name one host");
}

/// The server commits each statement by itself: what ran before the one that failed stays.
#[test]
fn mariadb_statements_that_fail_halfway_leave_a_password_that_is_known() {
    let (server, bao, client) = with_mariadb(json!({}));
    server.sql("CREATE USER st@'%' IDENTIFIED BY 'initial'");
    client
        .post("database/static-roles/st", json!({ "db_name": "my", "username": "st", "rotation_period": 3600 }))
        .expect(204);
    let served = || client.get("database/static-creds/st").data()["password"].as_str().unwrap().to_owned();
    let first = served();
    let set = "ALTER USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'";
    let rotate = |statements: Value| {
        client.post("database/static-roles/st", json!({ "rotation_statements": statements })).expect(204);
        client.post("database/rotate-role/st", json!({}))
    };
    let refused = rotate(json!(["GRANT nonsense", set]));
    assert_eq!(refused.status, 500, "{}", refused.body);
    assert_eq!(served(), first);
    server.login("st", &first, "SELECT 1").unwrap();
    // Changed all the same; the server's complaint is in the log.
    rotate(json!([set, "GRANT nonsense"])).expect(204);
    assert_ne!(served(), first);
    server.login("st", &served(), "SELECT 1").unwrap();
    assert!(bao.log().contains("the password was changed, and not all went well: Error 1064"), "{}", bao.log());
    rotate(json!([set])).expect(204);
    server.login("st", &served(), "SELECT 1").unwrap();
}

#[test]
fn a_mariadb_user_ends_with_its_lease_and_a_failed_mint_leaves_nobody() {
    let (server, _bao, client) = with_mariadb(json!({ "default_ttl": "2s", "max_ttl": "4s" }));
    let [user, _, _] = mint(&client, "app");
    assert_eq!(server.hosts(&user), ["%"]);
    wait_for("the end of the lease", Duration::from_secs(20), || server.hosts(&user).is_empty().then_some(()));
    let before = server.sql("SELECT COUNT(*) FROM mysql.user");
    let failing =
        json!({ "db_name": "my", "creation_statements": [CREATE, "GRANT SELECT ON nosuch.t TO '{{name}}'@'%'"] });
    client.post("database/roles/failing", failing).expect(204);
    let answer = client.get("database/creds/failing");
    assert!(answer.status == 500 && answer.body.to_string().contains("nosuch"), "{answer:?}");
    assert_eq!(server.sql("SELECT COUNT(*) FROM mysql.user"), before);
}

/// Nothing of the mint is in a lease, in an answer or in the mount's memory; only its note is there.
#[test]
fn a_mariadb_user_of_a_mint_that_was_killed_is_found_and_ended() {
    let (server, bao, client) = with_mariadb(json!({ "creation_statements": [CREATE, "DO SLEEP(2)"] }));
    let users = || server.sql("SELECT User FROM mysql.user WHERE User LIKE 'v-%'");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = client.try_request("GET", "database/creds/app", None, &[]);
            assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status != 200), "the mint came to its end");
        });
        wait_for("the user", Duration::from_secs(20), || (!users().is_empty()).then_some(()));
        for pid in bao.plugin_processes() {
            kill_process(pid, Signal::KILL).unwrap();
        }
    });
    // It is there, and nobody knows of it but the note; a mint of today must not be taken for one of those.
    assert!(users().starts_with("v-"), "{}", users());
    client.post("database/roles/app", json!({ "creation_statements": CREATE })).expect(204);
    let [kept, _, _] = mint(&client, "app");
    wait_for("its end", Duration::from_secs(180), || {
        // Any request starts the plugin again.
        client.get("database/config/my").expect(200);
        (users() == kept).then_some(())
    });
}

#[test]
fn a_redis_user_comes_and_goes() {
    let server = Redis::start();
    let (bao, client) = mounted();
    for plugin in ["valkey-database-plugin", "redis-database-plugin"] {
        let connection = json!({ "plugin_name": plugin, "host": "127.0.0.1", "port": server.port(),
                                 "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD, "allowed_roles": "*",
                                 "persistence_mode": "aclfile" });
        client.post("database/config/cache", connection).expect(204);
        let role = json!({ "db_name": "cache", "creation_statements": [r#"["~app:*", "+@read", "+ping"]"#] });
        client.post("database/roles/app", role).expect(204);
        let [user, password, lease] = mint(&client, "app");
        assert!(user.starts_with("V_TOKEN_APP_"), "{user}");
        assert_eq!(server.login(&user, &password, &["PING"]), Ok("PONG".to_owned()));
        assert!(server.login(&user, &password, &["SET", "app:x", "1"]).unwrap_err().contains("NOPERM"));
        let kept = server.users_file();
        assert!(kept.contains(&user) && !kept.contains(&password), "{kept}");
        let mut session = server.session(&user, &password);
        assert_eq!(session.ask("PING").as_deref(), Some("+PONG"));
        client.revoke(&lease).expect(204);
        assert_eq!(session.ask("PING"), None, "the session of a revoked user still answers");
        let refused = server.login(&user, &password, &["PING"]).unwrap_err();
        assert!(refused.contains("WRONGPASS"), "{refused}");
        assert!(!server.users_file().contains(&user));
        assert!(!bao.log().contains(&password), "a password is in the host's log");
        client.delete("database/config/cache").expect(204);
    }
}

/// Secrets of every driver go in and do not come out.
#[test]
fn no_read_of_a_connection_shows_a_secret() {
    let (_bao, client) = mounted();
    for (name, connection) in [
        (
            "my",
            json!({ "plugin_name": "mysql-database-plugin", "connection_url": "u:hunter2@tcp(127.0.0.1:1)/",
                       "tls_ca": "" }),
        ),
        (
            "rd",
            json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": 1, "username": "u",
                       "password": "hunter2" }),
        ),
        ("vk", json!({ "plugin_name": "valkey-database-plugin", "connection_url": "valkey://u:hunter2@127.0.0.1:1" })),
    ] {
        let mut body = connection;
        body["verify_connection"] = json!(false);
        let answer = client.post(&format!("database/config/{name}"), body);
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
        let shown = client.get(&format!("database/config/{name}")).expect(200);
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
    }
}
