//! Two nodes: the one on standby runs the plugin too, and is asked before the active one is.

use std::time::Duration;

use rustix::process::Pid;
use serde_json::{Value, json};

use super::{CREATION, connection, mint, role, users};
use crate::support::bao::PLUGIN;
use crate::support::cluster::Cluster;
use crate::support::postgres::Postgres;
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(20);

/// How many TCP connections a process has to a local port.
fn connected(process: Pid, port: u16) -> usize {
    let process = format!("/proc/{}", process.as_raw_nonzero());
    let links = std::fs::read_dir(format!("{process}/fd")).unwrap().flatten();
    let sockets: Vec<String> =
        links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.to_str()?.to_owned())).collect();
    let remote = format!(":{port:04X}");
    let table = std::fs::read_to_string(format!("{process}/net/tcp")).unwrap();
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&remote) && sockets.contains(&format!("socket:[{}]", row[9]))).count()
}

#[test]
fn a_standby_passes_on_what_is_not_its_business_and_takes_over_with_what_was_written() {
    let (cluster, postgres) = std::thread::scope(|scope| {
        let postgres = scope.spawn(Postgres::start);
        (Cluster::start(2), postgres.join().unwrap())
    });
    // From here on, the log has a line for each connection.
    postgres.sql("ALTER SYSTEM SET log_connections = on; SELECT pg_reload_conf()");
    let sessions = || {
        let log = postgres.log();
        log.lines().filter(|line| line.contains("connection authorized") && !line.contains("=psql")).count()
    };

    cluster.register();
    let [active, standby] = [0, 1].map(|node| cluster.client(node));
    active.post("sys/mounts/db", json!({ "type": PLUGIN })).expect(204);
    // One session at most: every further connection is somebody else's.
    let limits = json!({ "max_open_connections": 1 });
    active.post("db/config/pg", connection(&postgres, limits.clone())).expect(204);
    active.post("db/roles/app", role(json!({}))).expect(204);
    assert_eq!(sessions(), 1);

    assert_eq!(connected(cluster.plugin(0), postgres.port()), 1);

    // The node on standby has the plugin and answers what it can from its own storage.
    wait_for("the standby's plugin", LIMIT, || (standby.get("db/roles/app").status == 200).then_some(()));
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(mint(&standby, "db/creds/app"));
        assert_eq!(users(&postgres).len(), leases.len(), "one user for one read");
    }
    for token in ["", "nonsense"] {
        assert_eq!(standby.with_token(token).get("db/creds/app").status, 403);
    }
    assert_eq!(users(&postgres).len(), leases.len());
    for (method, path, body, status) in [
        ("GET", "db/config/pg", None, 200),
        ("LIST", "db/roles", None, 200),
        ("GET", "db/creds/none", None, 400),
        ("POST", "db/reset/pg", None, 204),
        ("POST", "db/reload/postgresql-database-plugin", None, 200),
        ("POST", "db/config/pg", Some(connection(&postgres, limits)), 204),
        ("POST", "db/roles/second", Some(role(json!({}))), 204),
        ("POST", "db/roles/third", Some(role(json!({}))), 204),
        ("DELETE", "db/roles/third", None, 204),
    ] {
        let answer = standby.request(method, path, body.as_ref());
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(connected(cluster.plugin(1), postgres.port()), 0, "{method} {path} was done on the standby");
    }
    leases.push(mint(&standby, "db/creds/second"));
    standby.renew(&leases[0].lease, 0).expect(200);
    standby.revoke(&leases.remove(0).lease).expect(204);
    assert_eq!(users(&postgres).len(), leases.len());
    // The first session, and one for each time that the active node was told to begin anew: reset, reload, config.
    assert_eq!(sessions(), 4, "the standby has been at the database");

    // The other node takes over, with what was written last.
    active.post("db/config/pg", connection(&postgres, json!({ "allowed_roles": ["app"] }))).expect(204);
    active
        .post(
            "db/roles/app",
            role(json!({ "creation_statements": [CREATION, "COMMENT ON DATABASE postgres IS 'new'"] })),
        )
        .expect(204);
    assert_eq!(cluster.step_down(), 1);
    leases.push(mint(&standby, "db/creds/app"));
    assert_eq!(
        postgres.sql("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'postgres'"),
        "new"
    );
    let refused = standby.get("db/creds/second");
    assert!(refused.status == 500 && refused.body.to_string().contains("not an allowed role"), "{}", refused.body);
    standby.renew(&leases[0].lease, 0).expect(200);
    assert_eq!(users(&postgres).len(), leases.len());
    for minted in leases.drain(..2) {
        standby.revoke(&minted.lease).expect(204);
    }
    standby.post("db/config/pg", connection(&postgres, json!({ "allowed_roles": ["second"] }))).expect(204);

    // Whoever was active is now one that only passes on, once it has found the new active node.
    wait_for("the first node's plugin", LIMIT, || (active.get("db/roles/app").status == 200).then_some(()));
    wait_for("the first node to pass on", LIMIT, || {
        (active.post("db/reset/pg", json!({})).status == 204).then_some(())
    });
    leases.push(mint(&active, "db/creds/second"));
    assert_eq!(active.get("db/creds/app").status, 500);
    assert_eq!(connected(cluster.plugin(0), postgres.port()), 0, "the first node goes on");
    assert_eq!(users(&postgres).len(), leases.len());
    assert_eq!(active.delete("sys/mounts/db").body, Value::Null);
    assert!(users(&postgres).is_empty());
}
