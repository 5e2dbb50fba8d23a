//! What is told of a connection and the rights of its account, and which roles are refused for want of them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::drivers::{mint, mounted};
use crate::ending::World;
use crate::support::client::{Answer, Client};
use crate::support::mariadb::MariaDb;
use crate::support::redis::{self, Redis};
use crate::support::wait_for;

/// One need as `check/:name` tells it.
#[track_caller]
fn need<'a>(checked: &'a Value, name: &str) -> &'a Value {
    let all = checked["needs"].as_array().unwrap();
    all.iter().find(|need| need["need"] == name).unwrap_or_else(|| panic!("no {name}: {checked}"))
}

#[track_caller]
fn warnings(answer: Answer) -> String {
    answer.expect(200)["warnings"].to_string()
}

fn login(client: &Client, role: &str, more: &Value) -> Answer {
    let mut body = json!({ "db_name": "weak", "creation_statements": [crate::ending::LOGIN] });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    client.post(&format!("database/roles/{role}"), body)
}

#[test]
fn a_postgresql_role_that_asks_for_too_much_is_refused_with_the_missing_grant() {
    let mut world = World::start();
    let client = world.bao.client();
    let full = client.get("database/check/pg").data();
    assert_eq!((&full["ok"], &full["reachable"]), (&json!(true), &json!(true)), "{full}");
    assert!(full["version"].as_str().unwrap().starts_with("PostgreSQL 1"), "{full}");
    assert!(full["latency_ms"].as_f64().unwrap() > 0.0 && full["clock_skew_seconds"].as_i64().unwrap().abs() < 5);
    assert_eq!(full["roles"], json!([{ "role": "app", "missing": [] }]));

    world.postgres.sql("CREATE ROLE weak LOGIN CREATEROLE PASSWORD 'w'; CREATE ROLE heirs");
    let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": world.postgres.url(),
                             "username": "weak", "password": "w", "allowed_roles": "*" });
    client.post("database/config/weak", connection).expect(204);
    login(&client, "plain", &json!({})).expect(204);
    mint(&client, "plain");
    let reassign = json!({ "owned_objects": "reassign:heirs" });
    let refused = login(&client, "heir", &reassign).expect(400)["errors"][0].as_str().unwrap().to_owned();
    assert!(refused.contains("owned_objects=reassign:heirs") && refused.contains("reassign objects"), "{refused}");
    assert!(refused.contains("GRANT \"heirs\" TO \"weak\""), "{refused}");
    client.get("database/roles/heir").expect(404);
    // A connection is only warned: its roles may say otherwise.
    let warned = warnings(client.post("database/config/weak", reassign.clone()));
    assert!(warned.contains("GRANT \\\"heirs\\\" TO \\\"weak\\\"") && warned.contains("users of plain"), "{warned}");
    login(&client, "plain", &json!({ "default_ttl": 60 })).expect(204);
    let checked = client.get("database/check/weak").data();
    let wanted = need(&checked, "reassign_objects");
    assert_eq!((&checked["ok"], &wanted["granted"], &wanted["required"]), (&json!(false), &json!(false), &json!(true)));
    assert_eq!(need(&checked, "create_users")["fix"], Value::Null);
    assert_eq!(checked["roles"][0]["missing"][0]["need"], "reassign_objects", "{checked}");

    world.postgres.sql("GRANT heirs TO weak");
    login(&client, "heir", &reassign).expect(204);
    assert_eq!(client.get("database/check/weak").data()["ok"], true);

    // An account that may make nobody serves an operator's own statements, as with the built-in engine.
    world.postgres.sql("CREATE ROLE weaker LOGIN PASSWORD 'w'");
    let warned = warnings(client.post("database/config/weak", json!({ "username": "weaker", "owned_objects": "" })));
    assert!(warned.contains("cannot create users") && warned.contains("CREATEROLE"), "{warned}");

    world.postgres.stop();
    let gone = client.get("database/check/weak").data();
    assert_eq!((&gone["ok"], &gone["reachable"]), (&json!(false), &json!(false)), "{gone}");
    assert!(gone["error"].as_str().unwrap().contains("connect"), "{gone}");
    let unsure = warnings(login(&client, "heir2", &reassign));
    assert!(unsure.contains("could not be asked"), "{unsure}");
    world.postgres.start_again();
    wait_for("the database to be back", Duration::from_secs(30), || {
        client.get("database/check/weak").data()["reachable"].as_bool().filter(|reachable| *reachable)
    });
    client.get("database/check/nosuch").expect(500);
}

#[test]
fn a_mariadb_account_with_few_rights_is_told_what_it_lacks_and_still_mints() {
    let server = MariaDb::start();
    server.sql("CREATE USER weak@'%' IDENTIFIED BY 'w'; GRANT CREATE USER ON *.* TO weak@'%'");
    let (_bao, client) = mounted();
    let connection = json!({ "plugin_name": "mysql-database-plugin", "connection_url": server.url(),
                             "username": "weak", "password": "w", "allowed_roles": "*" });
    let warned = warnings(client.post("database/config/weak", connection));
    assert!(warned.contains("cannot see sessions") && warned.contains("GRANT PROCESS ON *.*"), "{warned}");
    assert!(warned.contains("cannot end sessions") && warned.contains("GRANT CONNECTION ADMIN ON *.*"), "{warned}");
    let role =
        json!({ "db_name": "weak", "creation_statements": "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'" });
    client.post("database/roles/plain", role.clone()).expect(204);
    let [_, _, lease] = mint(&client, "plain");
    client.revoke(&lease).expect(204);

    for (wish, value, grant) in [("sessions", "terminate", "PROCESS"), ("owned_objects", "drop", "DROP, ALTER ROUTINE")]
    {
        let mut body = role.clone();
        body[wish] = json!(value);
        let refused = client.post("database/roles/wants", body).expect(400).to_string();
        assert!(refused.contains(&format!("{wish}={value}")) && refused.contains(grant), "{refused}");
    }
    let mut keeps = role;
    keeps["sessions"] = json!("keep");
    client.post("database/roles/keeps", keeps).expect(204);
    let checked = client.get("database/check/weak").data();
    assert!(checked["version"].as_str().unwrap().starts_with("MariaDB 1"), "{checked}");
    assert_eq!((&checked["ok"], &need(&checked, "end_sessions")["granted"]), (&json!(false), &json!(false)));
    server.sql("GRANT PROCESS, CONNECTION ADMIN ON *.* TO weak@'%'");
    assert_eq!(client.get("database/check/weak").data()["ok"], true);
}

#[test]
fn a_redis_account_is_told_which_commands_it_lacks() {
    let server = Redis::start();
    server.command(&[
        "ACL",
        "SETUSER",
        "weak",
        "on",
        ">w",
        "-@all",
        "+ping",
        "+client|id",
        "+acl|setuser",
        "+acl|getuser",
        "+acl|deluser",
    ]);
    let (_bao, client) = mounted();
    let connection = json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": server.port(),
                             "username": "weak", "password": "w", "allowed_roles": "*" });
    let warned = warnings(client.post("database/config/weak", connection));
    assert!(warned.contains("ACL SETUSER weak +client|kill"), "{warned}");
    let checked = client.get("database/check/weak").data();
    let version = checked["version"].as_str().unwrap();
    assert!(version.starts_with("Redis ") || version.starts_with("Valkey "), "{checked}");
    assert!(version.contains('.') && checked["clock_skew_seconds"].is_null(), "{checked}");
    let refused = client.post("database/roles/app", json!({ "db_name": "weak", "sessions": "grace:1m" })).expect(400);
    assert!(refused.to_string().contains("+client|"), "{refused}");
    let admin = json!({ "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD });
    client.post("database/config/weak", admin).expect(204);
    assert_eq!(client.get("database/check/weak").data()["ok"], true);
}
