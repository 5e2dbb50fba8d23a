//! Mounts that share a process come, go and come back.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{World, connection, ended, mint};
use crate::support::bao::PLUGIN;
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(10);

/// `World` with a second mount, `two/`.
fn two_mounts() -> World {
    let world = World::start();
    world.bao.mount("two", PLUGIN);
    world.connect("two/config/pg", json!({}));
    world.role("two/roles/app", json!({}));
    world
}

#[test]
fn a_mount_with_live_leases_is_disabled_quickly_and_its_users_are_gone() {
    let world = two_mounts();
    let process = world.plugin();
    for _ in 0..10 {
        mint(&world.client, "db/creds/app");
    }
    let other = mint(&world.client, "two/creds/app");
    assert_eq!(world.users().len(), 11);

    let begin = Instant::now();
    world.client.delete("sys/mounts/db").expect(204);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(world.users(), [other.username]);
    // The other mount, in the same process, has lost nothing.
    assert_eq!(world.plugin(), process);
    world.client.renew(&other.lease, 0).expect(200);
    mint(&world.client, "two/creds/app");

    let begin = Instant::now();
    world.client.delete("sys/mounts/two").expect(204);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(world.users().is_empty());
    wait_for("the last mount's process to end", LIMIT, || ended(process).then_some(()));
    // The same path, and nothing of what was there.
    world.bao.mount("db", PLUGIN);
    world.client.get("db/config/pg").expect(404);
}

#[test]
fn mounts_come_back_after_a_reload_a_kill_and_a_seal() {
    let world = two_mounts();
    let client = &world.client;
    let mut leases = Vec::new();
    let mut works = |process| {
        for mount in ["db", "two"] {
            leases.push(mint(client, &format!("{mount}/creds/app")).lease);
        }
        let now = world.plugin();
        assert_ne!(Some(now), process, "the same process as before");
        now
    };
    let first = works(None);

    client.post("sys/plugins/reload/backend", json!({ "mounts": ["db/"] })).expect(200);
    let second = works(Some(first));

    client.post("sys/plugins/reload/backend", json!({ "plugin": PLUGIN })).expect(200);
    let third = works(Some(second));

    // After a violent end the host starts a new process by itself. It may pass one more request to where the old one was.
    world.kill_plugin();
    for mount in ["db", "two"] {
        wait_for("an answer", LIMIT, || (client.get(&format!("{mount}/config/pg")).status == 200).then_some(()));
    }
    let fourth = works(Some(third));

    client.post("sys/seal", json!({})).expect(204);
    wait_for("the plugin's end", LIMIT, || ended(fourth).then_some(()));
    assert_eq!(client.get("db/creds/app").status, 503);
    client.post("sys/unseal", json!({ "key": world.bao.unseal_key() })).expect(200);
    wait_for("the mounts", LIMIT, || (client.get("db/config/pg").status == 200).then_some(()));
    works(Some(fourth));

    // What was minted by one process is ended by another.
    assert_eq!(world.users().len(), leases.len());
    for lease in leases {
        client.revoke(&lease).expect(204);
    }
    assert!(world.users().is_empty());
}

/// A connection that was changed through one mount's process is not remembered by the next.
#[test]
fn a_request_after_a_kill_sees_what_was_written_before_it() {
    let world = World::start();
    mint(&world.client, "db/creds/app");
    world.client.post("db/config/pg", connection(&world.postgres, json!({ "allowed_roles": "other" }))).expect(204);
    world.kill_plugin();
    let refused = world.client.get("db/creds/app");
    assert_eq!(refused.status, 500);
    assert!(refused.body.to_string().contains("is not an allowed role"), "{}", refused.body);
    assert_eq!(world.users().len(), 1);
}

#[test]
fn the_version_is_reported_and_no_other_is_taken() {
    let world = World::start();
    let client = &world.client;
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let entry = client.get(&format!("sys/plugins/catalog/secret/{PLUGIN}?version={version}")).data();
    assert_eq!(entry["version"], version);
    assert_eq!(client.get("sys/mounts/db").data()["running_plugin_version"], version);

    let sha256 = crate::support::bao::sha256(&world.bao.plugins());
    let register = |name: &str, version: &str| {
        let body = json!({ "command": "leasehold", "args": ["database"], "sha256": sha256, "version": version });
        client.post(&format!("sys/plugins/catalog/secret/{name}"), body)
    };
    register("same", env!("CARGO_PKG_VERSION")).expect(204);
    client.post("sys/mounts/same", json!({ "type": "same" })).expect(204);
    client.get("same/config/none").expect(404);
    let refused = register("other", "v9.9.9");
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.body.to_string().contains(&version), "{}", refused.body);
    assert_eq!(client.post("sys/mounts/other", json!({ "type": "other" })).status, 400);
}
