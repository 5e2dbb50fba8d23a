//! The password of a connection's own account, by itself: with a plugin that is killed, a node that gives up, and a tool
//! that goes on writing the first password.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::World;
use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::{Answer, Client};
use crate::support::cluster::Cluster;
use crate::support::mariadb::MariaDb;
use crate::support::postgres::Postgres;
use crate::support::redis::{self, Redis};
use crate::support::wait_for;

/// A period is ten seconds at least; after a failure there is a pause of about as long.
const LIMIT: Duration = Duration::from_secs(60);
const VERIFIER: &str = "SELECT rolpassword FROM pg_authid WHERE rolname = 'rooty'";

/// Waits until the password is another than `before` and the connection has come to rest with it.
fn next(client: &Client, postgres: &Postgres, before: &str) -> String {
    let verifier = wait_for("a change", LIMIT, || Some(postgres.sql(VERIFIER)).filter(|now| now != before));
    wait_for("its end", LIMIT, || {
        let reset = client.try_request("POST", "database/reset/rr", Some(&json!({})), &[]);
        let mint = client.try_request("GET", "database/creds/byrr", None, &[]);
        (reset.is_ok_and(|answer| answer.status == 204) && mint.is_ok_and(|answer| answer.status == 200)).then_some(())
    });
    verifier
}

fn by_rr(client: &Client) {
    let role = json!({ "db_name": "rr", "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN" });
    client.post("database/roles/byrr", role).expect(204);
}

#[test]
fn the_root_password_changes_by_itself() {
    let world = World::start();
    world.connection("rr", "rooty", "rr").expect(204);
    by_rr(&world.client);
    let write = |body: Value| world.client.post("database/config/rr", body);
    for (body, text) in [
        (json!({ "rotation_period": 9 }), "rotation_period must be 10 seconds or more"),
        (json!({ "rotation_period": 60, "rotation_schedule": "0 3 * * *" }), "mutually exclusive fields"),
        (json!({ "rotation_schedule": "0 3 * *" }), "could not parse rotation_schedule"),
        (json!({ "rotation_schedule": "0 3 * * *", "rotation_window": 60 }), "must be 3600 seconds or more"),
        (json!({ "rotation_window": 3600 }), "rotation_window is invalid"),
        (json!({ "rotation_schedule": "0 3 * * *", "rotation_timezone": "Here" }), "invalid rotation_timezone"),
    ] {
        let refused = write(body);
        assert!(refused.status == 400 && refused.body.to_string().contains(text), "{text}: {}", refused.body);
    }
    let first = world.postgres.sql(VERIFIER);
    write(json!({ "rotation_period": 10 })).expect(204);
    let shown = world.client.get("database/config/rr").data();
    assert!(shown["rotation_period"] == 10 && shown["next_vault_rotation"].is_string(), "{shown}");
    assert!(shown["last_vault_rotation"].is_null() && shown["last_rotation_error"].is_null(), "{shown}");
    let mut session = world.postgres.session("rooty", "rr");
    let second = next(&world.client, &world.postgres, &first);
    assert!(!world.opens("rooty", "rr"));
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"), "open sessions go on");
    let shown = world.client.get("database/config/rr").data();
    assert!(shown["last_vault_rotation"].as_str() < shown["next_vault_rotation"].as_str(), "{shown}");

    // A tool that knows the first password only, and a plugin that is killed.
    let answer = world.connection("rr", "rooty", "rr").expect(200);
    assert!(answer["warnings"][0].as_str().unwrap().contains("was replaced"), "{answer}");
    assert_eq!(world.client.get("database/config/rr").data()["rotation_period"], 10, "a partial write keeps the rule");
    for pid in world.bao.plugin_processes() {
        kill_process(pid, Signal::KILL).unwrap();
    }
    wait_for("the plugin again", LIMIT, || (world.client.get("database/config/rr").status == 200).then_some(()));
    next(&world.client, &world.postgres, &second);

    write(json!({ "disable_automated_rotation": true })).expect(204);
    let shown = world.client.get("database/config/rr").data();
    assert!(shown["rotation_period"] == 10 && shown["next_vault_rotation"].is_null(), "{shown}");
}

#[test]
fn another_node_goes_on_with_the_root_password() {
    let (cluster, postgres) = std::thread::scope(|scope| {
        let postgres = scope.spawn(Postgres::start);
        (Cluster::start(2), postgres.join().unwrap())
    });
    postgres.sql("CREATE ROLE rooty LOGIN SUPERUSER PASSWORD 'rr'");
    cluster.register();
    let client = cluster.client(0);
    client.post("sys/mounts/database", json!({ "type": PLUGIN })).expect(204);
    let connection = json!({
        "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(), "allowed_roles": "*",
        "username": "rooty", "password": "rr", "rotation_period": 10,
    });
    client.post("database/config/rr", connection.clone()).expect(204);
    by_rr(&client);
    let verifier = next(&client, &postgres, &postgres.sql(VERIFIER));
    let client = cluster.client(cluster.step_down());
    wait_for("the plugin there", LIMIT, || (client.get("database/config/rr").status == 200).then_some(()));
    next(&client, &postgres, &verifier);
    let answer = client.post("database/config/rr", connection).expect(200);
    assert!(answer["warnings"][0].as_str().unwrap().contains("was replaced"), "{answer}");
    let shown = client.get("database/config/rr").data();
    assert!(shown["last_vault_rotation"].is_string() && shown["last_rotation_error"].is_null(), "{shown}");
}

/// Asks for mints by `byrr` from so many clients while the password of `rr` changes so often. Each mint opens a session of
/// its own, so some do between the moment when the server has the new password and the one when the engine has stored it.
fn nobody_notices(client: &Client, clients: usize, rotations: usize) {
    client.post("database/config/rr", json!({ "max_open_connections": 16, "max_idle_connections": -1 })).expect(204);
    let (over, minted, failures) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let seen = |answer: Answer| match answer.status {
        200 | 204 => _ = minted.fetch_add(1, Ordering::SeqCst),
        _ => failures.lock().unwrap().push(answer.body.to_string()),
    };
    std::thread::scope(|scope| {
        for number in 0..clients {
            let (over, seen) = (&over, &seen);
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    seen(match number {
                        0 => client.post("database/rotate-role/st", json!({})),
                        _ => client.get("database/creds/byrr"),
                    });
                }
            });
        }
        for _ in 0..rotations {
            let before = minted.load(Ordering::SeqCst);
            seen(client.post("database/rotate-root/rr", json!({})));
            wait_for("some more mints", LIMIT, || (minted.load(Ordering::SeqCst) > before + clients / 2).then_some(()));
        }
        over.store(true, Ordering::SeqCst);
    });
    let failures = failures.into_inner().unwrap();
    println!("{} requests during {rotations} rotations, {} failed", minted.into_inner(), failures.len());
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn no_mint_fails_while_the_root_password_changes() {
    let world = World::start();
    world.connection("rr", "rooty", "rr").expect(204);
    by_rr(&world.client);
    let role = json!({ "db_name": "rr", "username": "st", "rotation_period": 3600 });
    world.client.post("database/static-roles/st", role).expect(204);
    nobody_notices(&world.client, 8, 20);
    assert!(!world.opens("rooty", "rr"));
    let log = world.postgres.log();
    println!(
        "{} logins with a password that was not valid any more",
        log.matches("password authentication failed").count()
    );
}

#[test]
fn no_mint_fails_while_the_root_password_changes_in_mariadb_and_redis() {
    let (mariadb, redis) = (MariaDb::start(), Redis::start());
    mariadb.sql(
        "CREATE USER st@'%' IDENTIFIED BY 'initial'; CREATE USER rooty@'%' IDENTIFIED BY 'rr'; \
         GRANT ALL ON *.* TO rooty@'%' WITH GRANT OPTION",
    );
    for [user, password] in [["st", "initial"], ["rooty", "rr"]] {
        let made = ["ACL", "SETUSER", user, "on", &format!(">{password}"), "~*", "+@all"];
        redis.login(redis::ADMIN, redis::ADMIN_PASSWORD, &made).unwrap();
    }
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    for (connection, creation) in [
        (
            json!({ "plugin_name": "mysql-database-plugin", "connection_url": mariadb.url() }),
            json!("CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"),
        ),
        (
            json!({ "plugin_name": "valkey-database-plugin", "host": "127.0.0.1", "port": redis.port() }),
            json!([r#"["+ping"]"#]),
        ),
    ] {
        let mut connection = connection;
        for (key, value) in [("username", "rooty"), ("password", "rr"), ("allowed_roles", "*")] {
            connection[key] = json!(value);
        }
        client.post("database/config/rr", connection).expect(204);
        client.post("database/roles/byrr", json!({ "db_name": "rr", "creation_statements": creation })).expect(204);
        let role = json!({ "db_name": "rr", "username": "st", "rotation_period": 3600 });
        client.post("database/static-roles/st", role).expect(204);
        nobody_notices(&client, 4, 5);
        client.delete("database/static-roles/st").expect(204);
        client.post("database/reset/rr", json!({})).expect(204);
        client.delete("database/config/rr?force=true").expect(204);
    }
    assert!(mariadb.login("rooty", "rr", "SELECT 1").is_err() && redis.login("rooty", "rr", &["PING"]).is_err());
}
