//! The end of the process.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal};
use serde_json::json;

use super::handshake::sockets;
use super::{World, ended, mint};
use crate::support::wait_for;

/// When the host wrote the last line that holds `text`.
fn logged(log: &str, text: &str) -> Timestamp {
    let line = log.lines().rfind(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in the log"));
    line.split(' ').next().unwrap().parse().unwrap()
}

/// From the moment the host tells a process to end until it is gone, by the host's own clock.
fn shutdown_took(world: &World, process: Pid) -> SignedDuration {
    wait_for("the plugin's end", Duration::from_secs(5), || ended(process).then_some(()));
    let gone = format!("pid={}", process.as_raw_nonzero());
    let log = wait_for("the host's word of it", Duration::from_secs(5), || {
        let log = world.bao.log();
        log.lines().any(|line| line.contains("killed external") && line.ends_with(&gone)).then_some(log)
    });
    assert!(!log.contains("failed to exit gracefully"), "the host had to kill the process");
    let gone = format!("id={}", process.as_raw_nonzero());
    let exited = log.lines().rfind(|line| line.contains("plugin process exited") && line.ends_with(&gone)).unwrap();
    assert!(exited.contains("[INFO]"), "not a clean exit: {exited}");
    logged(&log, &gone).duration_since(logged(&log, "cleaning up plugin client connection"))
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
