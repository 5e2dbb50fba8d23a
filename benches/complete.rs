//! How long `complete` takes until nobody can be in any more: a PostgreSQL user with five open sessions, through a real host,
//! with storage in memory and a database that writes to the disk. And the read before it. See `docs/jit.md`.
#![allow(clippy::disallowed_methods, reason = "a stopwatch lives in real time")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that fails is not one")]

#[path = "../tests/it/jit/site.rs"]
#[allow(dead_code, reason = "a kit: not every program needs every tool")]
mod site;
#[path = "../tests/it/support.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use site::Site;

const ROUNDS: usize = 200;
const SESSIONS: usize = 5;

fn show(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!("{what}: p50 {:.1?}, p99 {:.1?}, longest {:.1?}", at(50), at(99), times[times.len() - 1]);
}

fn main() {
    let policy = json!({ "grant_ttl": "10m", "max_requests_per_day": 0 });
    let site = Site::start_with(&["shared_preload_libraries=pg_stat_statements"], policy);
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);
    let (mut reads, mut ends, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let id = ann.file();
        assert_eq!(bob.act(&id, "approve"), "approved");
        let begun = Instant::now();
        let minted = ann.client.get("db/creds/secret").expect(200);
        reads.push(begun.elapsed());
        let text = |key: &str| minted["data"][key].as_str().unwrap().to_owned();
        let (user, password) = (text("username"), text("password"));
        let mut sessions: Vec<_> = (0..SESSIONS).map(|_| site.postgres.session(&user, &password)).collect();
        for session in &mut sessions {
            assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
        }
        let begun = Instant::now();
        assert_eq!(ann.act(&id, "complete"), "closed");
        ends.push(begun.elapsed());
        assert!(sessions.iter_mut().all(|session| session.one("SELECT 1").is_none()), "somebody is still in");
        let chain = site.root.get(&format!("db/evidence/chain/{id}")).data();
        let ended =
            chain["events"].as_array().unwrap().iter().find(|event| event["kind"] == "revoke.verified").unwrap();
        assert_eq!(ended["end"]["sessions_ended"], SESSIONS);
        targets.push(Duration::from_millis(ended["end"]["milliseconds"].as_u64().unwrap()));
    }
    println!("{ROUNDS} grants, one after another, {SESSIONS} sessions each");
    show("a gated read, from the request to the answer", &mut reads);
    show("complete, from the request to the answer: contained, cleaned up, looked again, recorded", &mut ends);
    show("of that at the database, as the record says (whole milliseconds)", &mut targets);
}
