//! Requests of the wrong size or shape: the host's own answer, or the built-in engine's.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{World, connection, role};
use crate::support::bao::{PLUGIN, ROOT_TOKEN};
use crate::support::cluster::Cluster;
use crate::support::postgres::Postgres;

/// Sends `body` as it is and gives status and body of the answer. (HTTP/1.0: then the answer's body is in one piece.)
fn send(world: &World, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let host = world.bao.address().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "{method} /v1/{path} HTTP/1.0\r\nHost: {host}\r\nX-Vault-Token: {ROOT_TOKEN}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The host may answer before it has read everything.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {head:?}")), body.to_owned())
}

/// The answer without what differs from request to request, and without each driver's words for a broken connection.
fn comparable((status, mut body): (u16, String)) -> (u16, Value) {
    if let Some(at) = body.find("(127.0.0.1): ") {
        body.truncate(at);
    }
    let mut body: Value = serde_json::from_str(&body).unwrap_or(Value::String(body));
    if let Value::Object(fields) = &mut body {
        fields.remove("request_id");
    }
    (status, body)
}

#[test]
fn a_body_that_is_not_an_object_or_far_too_large_is_answered_as_by_the_built_in_engine() {
    let world = World::start();
    world.bao.mount("database", "database");
    world.connect("database/config/pg", json!({}));
    let megabyte = "x".repeat(1 << 20);
    let many: Vec<String> = (0..10_000).map(|i| format!("SELECT {i}")).collect();
    let nested = |depth| format!("{{\"db_name\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let deep = nested(100);
    let roles = [
        role(json!({ "creation_statements": megabyte })),
        role(json!({ "creation_statements": many })),
        role(json!({ "db_name": megabyte })),
        role(json!({ "default_ttl": megabyte })),
        role(json!({ "default_ttl": "9".repeat(1 << 10) })),
        role(json!({ "credential_type": megabyte })),
        role(json!({ "revocation_statements": [megabyte, megabyte] })),
        role(json!({ "creation_statements": "S;".repeat(200_000) })),
    ]
    .map(|body| body.to_string());
    let shapes = ["", "null", "[]", "[{}]", "\"text\"", "5", "true", "{", "{\"db_name\":", "\u{0}", "{}{}", &deep];
    let connections = [
        connection(&world.postgres, json!({ "username": megabyte })),
        connection(&world.postgres, json!({ "allowed_roles": many })),
        connection(
            &world.postgres,
            json!({ "connection_url": format!("postgresql://{megabyte}/x"), "verify_connection": false }),
        ),
    ]
    .map(|body| body.to_string());

    let mut number = 0;
    let mut differences = Vec::new();
    let mut compare = |method: &str, place: &str, body: &str| {
        number += 1;
        let [theirs, ours] = ["database", "db"].map(|mount| {
            let path = format!("{mount}/{place}/t{number}");
            let written = comparable(send(&world, method, &path, body.as_bytes()));
            // What is stored reads the same, and what is refused was not stored.
            let read = world.client.get(&path);
            let stored = read.status;
            if place != "creds" && written.0 >= 400 {
                assert_eq!(stored, 404, "{method} {path}: refused, and yet stored");
            }
            (written, stored, read.body["data"].clone())
        });
        // The beginning and the end.
        let short = |text: &str| {
            let (head, tail) = (text.floor_char_boundary(200), text.ceil_char_boundary(text.len().saturating_sub(300)));
            if head < tail { format!("{} … {}", &text[..head], &text[tail..]) } else { text.to_owned() }
        };
        if theirs != ours {
            let said = [&theirs, &ours].map(|(written, stored, _)| short(&format!("{written:?}, read: {stored}")));
            let body = format!("{} bytes {}", body.len(), short(body));
            differences.push(format!("{method} {place} {body}\n  {}\n  {}", said[0], said[1]));
        }
    };
    for body in roles.iter().map(String::as_str).chain(shapes) {
        compare("POST", "roles", body);
    }
    for body in shapes {
        compare("POST", "config", body);
        compare("PUT", "creds", body);
    }
    for body in &connections {
        compare("POST", "config", body);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // Deeper than anything that is read: refused, though in other words.
    let abyss = nested(100_000);
    for place in ["roles/abyss", "config/abyss"] {
        assert_eq!(send(&world, "POST", &format!("db/{place}"), abyss.as_bytes()).0, 400);
        world.client.get(&format!("db/{place}")).expect(404);
    }
    // None of it did the plugin any harm.
    super::mint(&world.client, "db/creds/app");
}

/// Storage has a limit of its own for one entry.
#[test]
fn what_storage_does_not_take_is_refused_and_changes_nothing() {
    let (cluster, postgres) = std::thread::scope(|scope| {
        let postgres = scope.spawn(Postgres::start);
        (Cluster::start(1), postgres.join().unwrap())
    });
    cluster.register();
    let client = cluster.client(0);
    for (mount, engine) in [("database", "database"), ("db", PLUGIN)] {
        client.post(&format!("sys/mounts/{mount}"), json!({ "type": engine })).expect(204);
    }
    let large = "x".repeat(3 << 20);
    for (place, good, bad) in [
        ("config/pg", connection(&postgres, json!({})), connection(&postgres, json!({ "password_policy": large }))),
        ("roles/app", role(json!({})), role(json!({ "creation_statements": large }))),
    ] {
        let [theirs, ours] = ["database", "db"].map(|mount| {
            let (path, fresh) = (format!("{mount}/{place}"), format!("{mount}/{place}-fresh"));
            client.post(&path, good.clone()).expect(204);
            let before = client.get(&path).data();
            let refused = [client.post(&path, bad.clone()), client.post(&fresh, bad.clone())];
            assert_eq!(client.get(&path).data(), before, "{path}");
            client.get(&fresh).expect(404);
            refused.map(|answer| (answer.status, answer.body.to_string()))
        });
        for answer in theirs.iter().chain(&ours) {
            // The built-in engine's words name the size of the key.
            assert_eq!(answer.0, 500, "{answer:?}");
            assert!(answer.1.contains("value being too large"), "{answer:?}");
        }
    }
    super::mint(&client, "db/creds/app");
}
