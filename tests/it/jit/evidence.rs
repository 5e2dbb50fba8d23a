//! The record: what it holds, and that nobody can quietly change it.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::site::Site;
use crate::support::plugin;

/// Runs the offline verifier on a file.
fn verify(dir: &std::path::Path, name: &str, content: &str, arguments: &[&str]) -> (bool, String) {
    let file = dir.join(name);
    std::fs::write(&file, content).unwrap();
    let Output { status, stdout, stderr } =
        Command::new(plugin()).arg("verify-evidence").arg(&file).args(arguments).output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// R29, R31, R32: one chain, found by the user's name alone, judged on another machine, and no event of it can be changed,
/// left out, moved or cut off.
#[test]
fn the_record_is_whole_and_any_change_is_found() {
    let site = Site::start(json!({}));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver", "auditor"]));
    site.group("leads", &[&bob]);
    let id = ann.file();
    bob.act(&id, "approve");
    let minted = ann.client.get("db/creds/secret").data();
    let user = minted["username"].as_str().unwrap();
    for _ in 0..3 {
        site.postgres.login(user, minted["password"].as_str().unwrap(), "SELECT * FROM orders").unwrap();
    }
    ann.act(&id, "complete");

    let chain = site.root.get(&format!("db/evidence/by-credential/{user}")).data();
    assert_eq!((&chain["request_id"], &chain["state"]), (&json!(id), &json!("closed")));
    let kinds = site.kinds(&id);
    let wanted = [
        "request.filed",
        "vote.approve",
        "decision.approved",
        "issue.intent",
        "issue.done",
        "end.requested",
        "execution.summary",
        "revoke.verified",
    ];
    assert_eq!(kinds, wanted);
    let end = chain["events"].as_array().unwrap().iter().find(|event| event["kind"] == "revoke.verified").unwrap();
    assert_eq!((&end["end"]["cause"], &end["end"]["existed"]), (&json!("completed"), &json!(true)));
    let done = chain["events"].as_array().unwrap().iter().find(|event| event["kind"] == "execution.summary").unwrap();
    assert_eq!(done["execution"], json!({ "source": "pg_stat_statements", "statements": 3, "rows": 6 }));
    assert_eq!((&chain["complete"], &chain["missing"]), (&json!(true), &json!([])));
    // R19: what was given is nowhere in the record.
    let export = bob.client.get("db/evidence/export").expect(200);
    assert!(!export.to_string().contains(minted["password"].as_str().unwrap()));

    let key = export["data"]["public_key"].as_str().unwrap().to_owned();
    let kept = bob.client.get("db/evidence/checkpoint").expect(200);
    assert_eq!(
        bob.client.post("db/evidence/verify", json!({ "checkpoint": kept["data"]["checkpoint"] })).data()["valid"],
        true
    );
    let dir = tempfile::tempdir().unwrap();
    let kept_file = dir.path().join("kept.json");
    std::fs::write(&kept_file, kept.to_string()).unwrap();
    let against = ["--key", &key, "--checkpoint", kept_file.to_str().unwrap()];
    let (sound, text) = verify(dir.path(), "whole.json", &export.to_string(), &against);
    assert!(sound && text.contains("signed by the given key"), "{text}");
    // What came with the credential, and so is in the host's own audit log, is a checkpoint too.
    std::fs::write(&kept_file, minted["jit_checkpoint"].as_str().unwrap()).unwrap();
    assert!(verify(dir.path(), "whole.json", &export.to_string(), &against).0);

    let events = export["data"]["events"].as_array().unwrap().clone();
    let count = events.len();
    let mut tampered: Vec<(&str, Vec<Value>, String)> = Vec::new();
    let mut changed = events.clone();
    changed[3]["requester"]["name"] = "somebody else".into();
    tampered.push(("changed", changed, "event 4 was changed".into()));
    let mut dropped = events.clone();
    dropped.remove(2);
    tampered.push(("dropped", dropped, "event 3 is missing".into()));
    let mut moved = events.clone();
    moved.swap(1, 2);
    tampered.push(("moved", moved, "event 2 is missing or out of its place".into()));
    tampered.push(("cut", events[..count - 1].to_vec(), "the end was cut off".into()));
    for (what, events, wanted) in tampered {
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        let text = format!("{lines}{}\n", export["data"]["checkpoint"]);
        let (sound, said) = verify(dir.path(), what, &text, &["--key", &key]);
        assert!(!sound && said.contains(&wanted), "{what}: {said}");
    }

    for (format, field) in [("ocsf", "events"), ("cef", "lines")] {
        let other = bob.client.get(&format!("db/evidence/export?format={format}&limit=3")).data();
        assert_eq!(other[field].as_array().unwrap().len(), 3);
        assert_eq!(other["more"], true);
    }
}
