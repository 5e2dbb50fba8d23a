//! What requests do, and above all what they do not do.

use serde_json::{Value, json};

use super::{World, connection, mint};
use crate::support::client::Client;

/// Before almost every request the host sends the plugin one with that request's path and no token, to ask what the path
/// means; before a write it asks whether there is an entry; and both come before it looks at what the caller may do.
#[test]
fn only_a_read_that_is_allowed_reaches_the_database() {
    const ROUNDS: usize = 5;
    let world = World::start();
    let root = &world.client;
    let token = root.post("auth/token/create", json!({ "policies": ["default"] })).expect(200);
    let weak = token["auth"]["client_token"].as_str().unwrap();

    // A process that has no session yet: whatever needs one opens it.
    world.kill_plugin();
    let (users, statements) = (world.users(), world.statements());
    assert!(statements > 0, "the log shows the plugin's statements");
    for _ in 0..ROUNDS {
        for token in ["", "nonsense", "s.AAAAAAAAAAAAAAAAAAAAAAAA", weak] {
            let caller = root.with_token(token);
            for (method, path, body) in [
                ("GET", "db/creds/app", None),
                ("GET", "db/creds/app?resolve=1", None),
                ("HEAD", "db/creds/app", None),
                ("LIST", "db/creds/app", None),
                ("SCAN", "db/creds/app", None),
                ("GET", "db/creds/app/", None),
                ("POST", "db/creds/app", Some(json!({}))),
                ("PUT", "db/creds/app", None),
                ("DELETE", "db/creds/app", None),
                ("POST", "db/config/pg", Some(connection(&world.postgres, json!({})))),
                ("POST", "db/config/other", Some(connection(&world.postgres, json!({})))),
                ("DELETE", "db/config/pg", None),
                ("POST", "db/roles/app", Some(json!({ "db_name": "x" }))),
                ("DELETE", "db/roles/app", None),
                ("POST", "db/reset/pg", None),
                ("POST", "db/reload/postgresql-database-plugin", None),
            ] {
                let answer = caller.request(method, path, body.as_ref());
                assert_eq!(answer.status, 403, "{method} {path} as {token:?}: {}", answer.body);
            }
        }
        // Who has a token may ask what a path is for; that is all that happens.
        for token in [weak, crate::support::bao::ROOT_TOKEN] {
            let caller = root.with_token(token);
            caller.get("db/creds/app?help=1").expect(200);
            caller.post("sys/capabilities-self", json!({ "paths": ["db/creds/app"] })).expect(200);
        }
        // And what is no way to read a credential is none for root either.
        for (method, path, status) in [
            ("HEAD", "db/creds/app", 405),
            ("LIST", "db/creds/app", 404),
            ("SCAN", "db/creds/app", 405),
            ("POST", "db/creds/app", 405),
            ("DELETE", "db/creds/app", 405),
            ("GET", "db/creds/", 404),
            ("GET", "db/roles/app", 200),
            ("GET", "db/config/pg", 200),
            ("GET", "sys/internal/specs/openapi", 200),
        ] {
            let answer = root.request(method, path, None);
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        }
    }
    assert_eq!(world.statements(), statements, "something reached the database");
    assert_eq!(world.users(), users);
    assert_eq!(root.list("db/config").data()["keys"], json!(["pg"]));

    // One user for one read, not one for each time the plugin was asked about it.
    for _ in 0..ROUNDS {
        mint(root, "db/creds/app");
    }
    assert_eq!(world.users().len(), users.len() + ROUNDS);
}

/// The host takes the lease with its data, and hands the data back to another process of the plugin.
#[test]
fn a_lease_lasts_as_its_role_says_and_outlives_the_process() {
    let world = World::start();
    let client = &world.client;
    world.role("db/roles/app", json!({ "default_ttl": "5m", "max_ttl": "10m" }));
    let answer = client.get("db/creds/app");
    assert_eq!(answer.body["lease_duration"], 300);
    assert_eq!(answer.body["renewable"], true);
    let minted = super::minted(answer);
    let lease = client.lookup(&minted.lease).data();
    assert_eq!(lease["renewable"], true);
    assert!((290..=300).contains(&lease["ttl"].as_u64().unwrap()), "{lease}");

    let valid =
        format!("SELECT extract(epoch FROM rolvaliduntil)::bigint FROM pg_roles WHERE rolname = '{}'", minted.username);
    let at_issue: i64 = world.postgres.sql(&valid).parse().unwrap();
    for (restart, increment, duration) in [(false, 0, 300..=300), (true, 420, 420..=420), (true, 3600, 595..=600)] {
        if restart {
            world.kill_plugin();
        }
        let renewed = client.renew(&minted.lease, increment).expect(200);
        let given = renewed["lease_duration"].as_i64().unwrap();
        assert!(duration.contains(&given), "{renewed}");
        let moved = world.postgres.sql(&valid).parse::<i64>().unwrap() - at_issue;
        assert!(
            (given - 300 - 2..given - 300 + 30).contains(&moved),
            "login moved by {moved} s for a lease of {given} s"
        );
    }
    assert!(world.postgres.login(&minted.username, &minted.password, "SELECT 1").is_ok());
    client.revoke(&minted.lease).expect(204);
    assert_eq!(world.users(), Vec::<String>::new());
}

/// An answer whose data is anything but an object or nothing is an error of the host: the answers without data, and the
/// ones that are collected from all mounts, are the ones to be looked at.
#[test]
fn the_host_takes_every_kind_of_answer() {
    let world = World::start();
    let client = &world.client;
    let null_with_warning = |body: Value| {
        assert_eq!(body["data"], Value::Null);
        assert_eq!(body["warnings"].as_array().map(Vec::len), Some(1), "{body}");
    };
    let url = format!("postgresql://vaultadmin:rootpw@127.0.0.1:{}/postgres?sslmode=disable", world.postgres.port());
    let embedded = connection(&world.postgres, json!({ "connection_url": url }));
    null_with_warning(client.post("db/config/embedded", embedded).expect(200));
    let inverted = super::role(json!({ "default_ttl": 60, "max_ttl": 30 }));
    null_with_warning(client.post("db/roles/inverted", inverted).expect(200));

    assert_eq!(client.list("db/config").data(), json!({ "keys": ["embedded", "pg"] }));
    assert_eq!(client.list("db/roles").data(), json!({ "keys": ["app", "inverted"] }));
    client.get("db/config/none").expect(404);
    client.get("db/roles/none").expect(404);
    client.post("db/reset/pg", json!({})).expect(204);
    assert_eq!(client.post("db/reload/postgresql-database-plugin", json!({})).data()["count"], 2);
    for _ in 0..2 {
        client.delete("db/roles/inverted").expect(204);
        client.delete("db/config/embedded").expect(204);
    }
    client.renew(&mint(client, "db/creds/app").lease, 0).expect(200);

    for path in ["", "config", "config/pg", "roles", "roles/app", "creds/app", "reset/pg", "reload/x"] {
        let help = client.get(&format!("db/{path}?help=1")).expect(200);
        let help = if help["help"].is_string() { help } else { help["data"].clone() };
        assert!(help["help"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {help}");
        assert!(help["openapi"].is_object(), "{path}: {help}");
    }
    client.get("db/nowhere/at/all?help=1").expect(404);
    let paths = openapi(client);
    for path in ["/db/config", "/db/config/{name}", "/db/roles/{name}", "/db/creds/{name}", "/db/reset/{name}"] {
        let described = paths[path].is_object() || paths[format!("{path}/")].is_object();
        assert!(described, "{path} is not described: {:?}", paths.as_object().map(|paths| paths.keys()));
    }

    // With the last entry gone a list is empty.
    client.delete("db/roles/app").expect(204);
    client.list("db/roles").expect(404);
}

fn openapi(client: &Client) -> Value {
    client.get("sys/internal/specs/openapi").expect(200)["paths"].take()
}
