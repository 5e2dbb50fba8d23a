//! The end of the process.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal};
use serde_json::json;

use super::handshake::sockets;
use super::{World, ended, mint};
use crate::support::wait_for;

/// From the moment the host tells a process to end until it is gone, by the host's own clock.
fn shutdown_took(world: &World, process: Pid) -> SignedDuration {
    let begins = ["cleaning up plugin client connection", "reload external plugin process"];
    let ends = format!("id={}", process.as_raw_nonzero());
    wait_for("the plugin's end", Duration::from_secs(5), || ended(process).then_some(()));
    wait_for("the host's word of it", Duration::from_secs(5), || {
        let log = world.bao.log();
        let lines: Vec<&str> = log.lines().collect();
        let exited = |line: &&str| line.contains("plugin process exited") && line.split(' ').any(|word| word == ends);
        let end = lines.iter().position(exited)?;
        let begin = lines[..end].iter().rposition(|line| begins.iter().any(|begin| line.contains(begin)))?;
        assert!(lines[end].contains("[INFO]"), "not a clean exit: {}", lines[end]);
        assert!(!log.contains("failed to exit gracefully"), "the host had to kill the process");
        Some(time(lines[end]).duration_since(time(lines[begin])))
    })
}

/// When the host wrote a line.
fn time(line: &str) -> Timestamp {
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_process_is_gone_in_no_time_once_it_is_told_to() {
    let world = World::start();
    let mut times = Vec::new();
    for round in 0..5 {
        // With sessions open at the database, and a request that has just been answered.
        mint(&world.client, "db/creds/app");
        let process = world.plugin();
        let socket = sockets(world.bao.temporary());
        assert_eq!(socket.len(), 1, "{socket:?}");
        if round < 4 {
            world.client.post("sys/plugins/reload/backend", json!({ "mounts": ["db/"] })).expect(200);
        } else {
            world.client.post("sys/seal", json!({})).expect(204);
        }
        times.push(shutdown_took(&world, process));
        assert!(!socket[0].exists(), "the socket was left behind");
    }
    assert!(sockets(world.bao.temporary()).is_empty());
    times.sort();
    // A machine with other things to do may be late, but not most of the time.
    assert!(times[times.len() / 2] < SignedDuration::from_millis(200), "{times:?}");
}

#[test]
fn the_process_does_not_outlive_its_host() {
    let world = World::start();
    mint(&world.client, "db/creds/app");
    let process = world.plugin();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL";
    assert_ne!(world.postgres.sql(sessions), "0");
    world.bao.signal(Signal::KILL);
    wait_for("the plugin's end", Duration::from_secs(5), || ended(process).then_some(()));
    wait_for("its sessions' end", Duration::from_secs(5), || (world.postgres.sql(sessions) == "0").then_some(()));
    assert!(sockets(world.bao.temporary()).is_empty(), "the socket was left behind");
}
