//! What stands around requests, with a real database and a real web server: recording, standing rights, alerts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::site::Site;

/// R21: the user is in the server's log and cannot leave it; a connection that cannot see to that gives nothing, and a
/// role that could undo it neither.
#[test]
fn what_must_be_recorded_is_in_the_servers_log() {
    let site = Site::start(json!({ "recording": "require", "uses": 0 }));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);
    let id = ann.file();
    assert_eq!(bob.act(&id, "approve"), "approved");
    let minted = ann.client.get("db/creds/secret").expect(200);
    let text = |key: &str| minted["data"][key].as_str().unwrap().to_owned();
    let (user, password) = (text("username"), text("password"));
    assert_eq!(site.postgres.login(&user, &password, "SHOW log_statement").as_deref(), Ok("all"));
    let off = site.postgres.login(&user, &password, "SET log_statement = 'none'");
    assert!(off.unwrap_err().contains("permission denied"));
    let off = site.postgres.login(&user, &password, &format!("ALTER ROLE \"{user}\" RESET log_statement"));
    assert!(off.is_err(), "{off:?}");
    // A user that could turn it off is not made.
    let before = site.postgres.sql("SELECT count(*) FROM pg_roles");
    site.role(json!({ "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN SUPERUSER PASSWORD '{{password}}'" }));
    let (status, why) = ann.refused("GET", "db/creds/secret");
    assert!(status == 503 && why.contains("jit_recording_unavailable"), "{status} {why}");
    assert_eq!(site.postgres.sql("SELECT count(*) FROM pg_roles"), before);
}

/// R23: a superuser that nobody asked for here is in the report; what we made is not.
#[test]
fn a_rogue_superuser_is_in_the_report() {
    let site = Site::start(json!({}));
    let names = || {
        let report = site.root.get("db/reports/standing").data();
        let lines = report["open"].as_array().unwrap().clone();
        lines.iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(!names().contains(&"rogue".to_owned()));
    site.postgres.sql("CREATE ROLE rogue LOGIN SUPERUSER; CREATE ROLE plain LOGIN");
    site.role(json!({ "jit_policy": "", "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN CREATEDB" }));
    let minted = site.root.get("db/creds/secret").data();
    let found = names();
    assert!(found.contains(&"rogue".to_owned()), "{found:?}");
    for name in ["plain", minted["username"].as_str().unwrap()] {
        assert!(!found.contains(&name.to_owned()), "{name}");
    }
}

/// A web server that takes everything.
fn listener() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut text, mut part) = (String::new(), [0; 4096]);
            let whole = |text: &str| {
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
                (body.len() >= length.trim().parse().ok()?).then(|| body.to_owned())
            };
            while whole(&text).is_none() {
                match stream.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => text.push_str(&String::from_utf8_lossy(&part[..length])),
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
            if tell.send(text).is_err() {
                return;
            }
        }
    });
    (url, told)
}

/// Who wants to know is told, signed, by the process itself.
#[test]
fn a_web_server_is_told_of_what_happens() {
    let site = Site::start(json!({}));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);
    let (url, told) = listener();
    let hook = json!({ "url": url, "signing_key": "0123456789abcdef", "events": "request.*,vote.*" });
    site.root.post("db/notify/ops", hook).expect(204);
    site.root.post("db/notify/ops/test", json!({})).expect(200);
    let next = || {
        let text = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(text.contains("x-leasehold-signature: sha256="), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Value>(body).unwrap()["event"].clone()
    };
    assert_eq!(next()["kind"], "notify.test");
    let id = ann.file();
    let filed = next();
    assert_eq!((&filed["kind"], &filed["request_id"]), (&json!("request.filed"), &json!(id)));
    assert_eq!(bob.act(&id, "approve"), "approved");
    assert_eq!(next()["kind"], "vote.approve");
}
