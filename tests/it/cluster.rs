//! Three servers over one raft storage, with the plugin on each, under load: the active one is killed, and the plugin is
//! replaced by a newer version.
//!
//! Short here; `make cluster` is the long form. Both print the figures that `docs/cluster.md` has.

mod changes;
mod engines;
mod load;
mod sidecar;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::{bao, number, wait_for};
use load::{Load, Tally};

const LIMIT: Duration = Duration::from_secs(60);
const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
/// How long the users of the load live without a renewal, in seconds.
const LIFE: u32 = 120;
/// Static roles, each with its own user.
const ACCOUNTS: usize = 4;
/// Where the mounts are: two in the root namespace, one in another.
const MOUNTS: [&str; 3] = ["db", "other", "team/db"];

struct World {
    cluster: Cluster,
    postgres: Postgres,
}

fn account(mount: usize, number: usize) -> String {
    format!("account{mount}{number}")
}

impl World {
    fn start() -> World {
        let (cluster, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(Postgres::start);
            (Cluster::start(3), postgres.join().unwrap())
        });
        cluster.register();
        postgres.sql(changes::TABLE);
        cluster.write("sys/namespaces/team", json!({}));
        for (number, mount) in MOUNTS.iter().enumerate() {
            let (namespace, path) = mount.rsplit_once('/').map_or(("", *mount), |(space, path)| (space, path));
            let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            cluster.write(&format!("{prefix}sys/mounts/{path}"), json!({ "type": PLUGIN }));
            let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(),
                "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*", "password_authentication":
                "scram-sha-256" });
            cluster.write(&format!("{mount}/config/pg"), connection);
            let role =
                json!({ "db_name": "pg", "creation_statements": CREATION, "default_ttl": LIFE, "max_ttl": "1h" });
            cluster.write(&format!("{mount}/roles/app"), role);
            let on_request = (0..ACCOUNTS).map(|place| (account(number, place), Duration::from_secs(3600)));
            for (name, period) in on_request.chain([(changes::scheduled(number), changes::PERIOD)]) {
                postgres.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'first'"));
                let role = json!({ "db_name": "pg", "username": name, "rotation_period": period.as_secs(),
                    "rotation_statements": changes::statements() });
                cluster.write(&format!("{mount}/static-roles/{name}"), role);
            }
        }
        World { cluster, postgres }
    }

    fn users(&self) -> Vec<String> {
        let ask = "SELECT coalesce(json_agg(rolname), '[]') FROM pg_roles WHERE rolname LIKE 'v-%'";
        serde_json::from_value(self.postgres.json(ask)).unwrap()
    }

    /// A client of a node that answers.
    fn anyone(&self) -> Client {
        self.cluster.client(self.cluster.active())
    }

    /// Every lease that somebody was given lives, with its user; every one that was taken back is gone with it; and every
    /// password that is handed out opens its account.
    fn check(&self, tally: &Tally) {
        let client = self.anyone();
        let users = self.users();
        for held in &tally.held {
            let found = client.lookup(&held.lease);
            assert_eq!(found.status, 200, "the lease of {} is lost: {}", held.username, found.body);
            assert!(users.contains(&held.username), "{} is gone, its lease is not", held.username);
        }
        for held in tally.held.iter().step_by(5) {
            self.postgres.login(&held.username, &held.password, "SELECT 1").unwrap();
        }
        for username in &tally.ended {
            assert!(!users.contains(username), "{username} was revoked");
        }
        for (number, mount) in MOUNTS.iter().enumerate() {
            for place in 0..ACCOUNTS {
                let name = account(number, place);
                let creds = wait_for("a password", LIMIT, || {
                    let answer = client.get(&format!("{mount}/static-creds/{name}"));
                    (answer.status == 200).then(|| answer.data())
                });
                self.postgres.login(&name, creds["password"].as_str().unwrap(), "SELECT 1").unwrap();
            }
            // This one may change between the question and the login.
            let name = changes::scheduled(number);
            wait_for("a password that opens its account", LIMIT, || {
                let answer = client.get(&format!("{mount}/static-creds/{name}"));
                let password = answer.body["data"]["password"].as_str()?;
                self.postgres.login(&name, password, "SELECT 1").ok()
            });
        }
    }

    /// Ends everything by its lease; gives the users that have none.
    fn end_all(&self, tally: &Tally) -> usize {
        let client = self.anyone();
        for mount in MOUNTS {
            let prefix = mount.rsplit_once('/').map_or(String::new(), |(namespace, _)| format!("{namespace}/"));
            let path = mount.rsplit('/').next().unwrap();
            let revoked =
                client.post(&format!("{prefix}sys/leases/revoke-prefix/{path}/creds"), json!({ "sync": true }));
            assert!(revoked.status == 204, "{}", revoked.body);
        }
        let left = self.users();
        for username in tally.held.iter().map(|held| &held.username) {
            assert!(!left.contains(username), "{username} outlived its lease");
        }
        left.len()
    }

    /// The file that a node's plugin runs.
    fn runs(&self, node: usize) -> Vec<String> {
        self.cluster.nodes[node].plugins_run()
    }
}

#[test]
fn no_lease_user_or_password_is_lost_when_the_active_node_is_killed() {
    let kills = number("LEASEHOLD_CLUSTER_KILLS", 1);
    let pause = Duration::from_secs(u64::from(number("LEASEHOLD_CLUSTER_SECONDS", 3)));
    let mut world = World::start();
    let load = Load::start(&world.cluster, 4);
    std::thread::sleep(pause);
    let mut gaps = Vec::new();
    for _ in 0..kills {
        let before = world.cluster.active();
        let killed = Instant::now();
        world.cluster.crash(before);
        let after = world.cluster.active();
        assert_ne!(before, after);
        load.wait_for_success_after(killed, LIMIT);
        gaps.push(killed.elapsed());
        std::thread::sleep(pause);
        world.cluster.revive(before);
    }
    let tally = load.end();
    world.check(&tally);
    changes::check(&world.postgres, tally.rotated, tally.rotations_sent);
    let left = world.end_all(&tally);
    println!("kills {kills}: answers again after {gaps:.1?}; {tally}; users without a lease right after: {left}");
    // What was being made for a request whose answer died with the node; its lease never came to be. It is gone a minute
    // after the lease would have been.
    assert!(left <= tally.unanswered, "{left} users, {} answers that did not come", tally.unanswered);
    if number("LEASEHOLD_CLUSTER_TO_THE_END", 0) == 1 {
        let begun = Instant::now();
        let limit = Duration::from_secs(u64::from(LIFE) + 60 + 60 + 30);
        wait_for("the end of every user", limit, || world.users().is_empty().then_some(()));
        println!("the last of them was gone after {:.0?}", begun.elapsed());
    }
    // Standbys have what was written.
    for node in 0..3 {
        let client = world.cluster.client(node);
        wait_for("the role on every node", LIMIT, || (client.get("db/roles/app").status == 200).then_some(()));
    }
}

/// The version that comes after this one: the same program with another number in it.
fn next_version(plugins: &Path) -> (String, String) {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let mut next = version.clone();
    let last = next.pop().unwrap();
    next.push(if last == '9' { '8' } else { char::from(last as u8 + 1) });
    let mut program = std::fs::read(plugins.join("leasehold")).unwrap();
    let mut from = 0;
    while let Some(at) = program[from..].windows(version.len()).position(|bytes| bytes == version.as_bytes()) {
        program[from + at..][..version.len()].copy_from_slice(next.as_bytes());
        from += at + version.len();
    }
    let file = "leasehold-next";
    std::fs::write(plugins.join(file), program).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(plugins.join(file), std::fs::Permissions::from_mode(0o755)).unwrap();
    (next, file.to_owned())
}

#[test]
fn a_newer_plugin_comes_to_every_node_under_load() {
    let mut world = World::start();
    let mut newer = Default::default();
    for node in &world.cluster.nodes {
        newer = next_version(&node.plugins());
    }
    let (version, file) = newer;
    let sum = bao::sha256_of(&world.cluster.nodes[0].plugins().join(&file));
    let load = Load::start(&world.cluster, 4);
    std::thread::sleep(Duration::from_secs(2));

    let active = world.cluster.active();
    let client = world.cluster.client(active);
    let entry = json!({ "command": file, "args": ["database"], "sha256": sum, "version": version });
    client.post(&format!("sys/plugins/catalog/secret/{PLUGIN}"), entry).expect(204);
    for mount in MOUNTS {
        let prefix = mount.rsplit_once('/').map_or(String::new(), |(namespace, _)| format!("{namespace}/"));
        let path = mount.rsplit('/').next().unwrap();
        client.post(&format!("{prefix}sys/mounts/{path}/tune"), json!({ "plugin_version": version })).expect(204);
        let reload = json!({ "mounts": [format!("{path}/")] });
        let reloaded = client.post(&format!("{prefix}sys/plugins/reload/backend"), reload);
        assert!(matches!(reloaded.status, 200 | 202 | 204), "{}", reloaded.body);
        // Mounts share a process. Who was cut off by this one has sent the request again before the next one.
        std::thread::sleep(2 * load::PAUSE);
    }
    wait_for("the newer plugin", LIMIT, || (world.runs(active) == [file.clone()]).then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    let reload = load.so_far();
    // A standby takes it when it starts again; the active node is last, and another one takes over.
    let mut took = Vec::new();
    for node in (0..3).filter(|node| *node != active).chain([active]) {
        let begun = Instant::now();
        world.cluster.stop(node);
        world.cluster.revive(node);
        wait_for("the newer plugin", LIMIT, || {
            // A standby starts it with the first request.
            let _ = world.cluster.client(node).try_request("GET", "db/roles/app", None, &[]);
            (world.runs(node) == [file.clone()]).then_some(())
        });
        took.push(begun.elapsed());
    }
    assert_ne!(world.cluster.active(), active);
    std::thread::sleep(Duration::from_secs(1));
    let tally = load.end();
    println!("reload of three mounts: {reload}; and with all nodes restarted, which took {took:.1?}: {tally}");
    assert_eq!(reload.unhealed, 0, "a single retry did not heal: {:?}", reload.complaints);
    world.check(&tally);
    changes::check(&world.postgres, tally.rotated, tally.rotations_sent);
    let running: Value = world.anyone().get("sys/mounts/db").data();
    assert_eq!(running["running_plugin_version"], version.as_str());
    let left = world.end_all(&tally);
    assert!(left <= tally.unanswered, "{left} users, {} answers that did not come", tally.unanswered);
}
