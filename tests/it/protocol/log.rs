//! The plugin's log lines, as the host reads them. A line that it does not understand can end the host.

use serde_json::json;

use super::{World, connection, mint};
use crate::support::client::Answer;
use crate::support::postgres::ADMIN_PASSWORD;

/// A text that would be a line of its own, and a deadly one, if it came through as it is.
const DEADLY: &str = "\"\\\n{\"@message\":5,\"@level\":7}\r\u{1b}[31m\u{2028}é";

#[test]
fn hostile_texts_and_passwords_stay_out_of_the_hosts_log() {
    let world = World::start_with(&["--log-level=trace"]);
    let client = &world.client;
    let mut secrets = vec![ADMIN_PASSWORD.to_owned()];

    // In names of users, and with it in every line about them.
    world.connect("db/config/pg", json!({ "username_template": format!("{DEADLY}{{{{random 12}}}}") }));
    world.role("db/roles/a.b-c_d", json!({}));
    for path in ["db/creds/app", "db/creds/a.b-c_d"] {
        for _ in 0..3 {
            let minted = mint(client, path);
            assert!(minted.username.starts_with(DEADLY), "{:?}", minted.username);
            client.renew(&minted.lease, 0).expect(200);
            client.revoke(&minted.lease).expect(204);
            secrets.push(minted.password);
        }
    }
    assert_eq!(world.users(), Vec::<String>::new());

    // In what the database says, at any length.
    let raise = |text: &str| format!("DO $$ BEGIN RAISE EXCEPTION E'%', {text}; END $$");
    let hostile = r#"E'oh\n{"@message":5}\n{"@level":1}\npanic: '"#;
    let long = format!("{hostile} || repeat('é\\n', 100000)");
    for (name, text) in [("hostile", hostile), ("long", &long)] {
        world.role(
            &format!("db/roles/{name}"),
            json!({ "creation_statements": ["CREATE ROLE \"{{name}}\"", raise(text)], "rollback_statements": raise(text),
                    "revocation_statements": raise(text) }),
        );
        failed(client.get(&format!("db/creds/{name}")), "oh");
    }
    // A user that cannot be cleaned up.
    world.role("db/roles/stays", json!({ "revocation_statements": raise(hostile) }));
    let stays = mint(client, "db/creds/stays");
    client.revoke(&stays.lease).expect(204);
    secrets.push(stays.password);

    // Where a password might slip out: statements that fail on it, a server that cannot be reached, a wrong one.
    for (name, creation) in [
        ("syntax", "CREATE ROLE \"{{name}}\" PASSWORD '{{password}}' NONSENSE"),
        ("cast", "CREATE ROLE \"{{name}}\"; SELECT '{{password}}'::int"),
        ("relation", "CREATE ROLE \"{{name}}\"; SELECT * FROM \"{{password}}\""),
    ] {
        world.role(&format!("db/roles/{name}"), json!({ "creation_statements": creation }));
        let answer = client.get(&format!("db/creds/{name}"));
        // What the database quotes, it quotes to the one whose password it would have been.
        let quoted = answer.body.to_string();
        secrets.extend(quoted.split(['\\', '"']).filter(|text| text.len() == 20).map(str::to_owned));
        failed(answer, "ERROR");
    }
    let refused = connection(&world.postgres, json!({ "password": "wr0ng-but-secret" }));
    assert_eq!(client.post("db/config/wrong", refused).status, 400);
    let url = "postgresql://u:emb3dded-secret@127.0.0.1:1/postgres";
    let unreachable = connection(&world.postgres, json!({ "connection_url": url }));
    assert_eq!(client.post("db/config/unreachable", unreachable).status, 400);
    secrets.extend(["wr0ng-but-secret", "emb3dded-secret"].map(str::to_owned));

    // The host lives, with the one process that it had.
    let process = world.plugin();
    mint(client, "db/creds/app");
    assert_eq!(world.plugin(), process);
    let log = world.bao.log();
    assert!(secrets.len() >= 10);
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{secret:?} is in the log:\n{}", around(&log, secret));
    }
    // Lines arrive with their level, their fields and nothing out of place.
    let entries = entries(&log);
    let ours: Vec<&String> = entries.iter().filter(|line| line.contains(" secrets.leasehold-database.")).collect();
    let ended: Vec<&&String> =
        ours.iter().filter(|line| line.contains("[INFO] ") && line.contains(": ended:")).collect();
    assert!(ended.len() >= 6, "{ours:#?}");
    for field in ["role=app", "role=a.b-c_d", "existed=true", "milliseconds="] {
        assert!(ended.iter().any(|line| line.contains(field)), "no {field} in {ended:#?}");
    }
    assert!(
        ours.iter().any(|line| line.contains("[WARN] ") && line.contains("rollback statements failed")),
        "{ours:#?}"
    );
    for line in log.lines() {
        assert!(!line.trim_start().starts_with("{\"@"), "a raw line: {line}");
        assert!(!line.contains("[DEBUG]") || !line.contains("\"@timestamp\""), "not understood by the host: {line}");
    }
}

#[track_caller]
fn failed(answer: Answer, with: &str) {
    assert!((400..=500).contains(&answer.status), "{}: {}", answer.status, answer.body);
    assert!(answer.body.to_string().contains(with), "{}", answer.body);
}

/// The line that holds `text`.
fn around<'a>(log: &'a str, text: &str) -> &'a str {
    log.lines().find(|line| line.contains(text)).unwrap_or_default()
}

/// The entries of a host's log. It puts a value with a line break on lines of its own, and the other fields behind them.
fn entries(log: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        match entries.last_mut() {
            Some(last) if !line.starts_with("20") => *last += &format!("\n{line}"),
            _ => entries.push(line.to_owned()),
        }
    }
    entries
}
