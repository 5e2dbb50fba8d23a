//! A sidecar of the examples, while the active node of a cluster is killed.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{CREATION, LIMIT};
use crate::examples::sidecars::rendered;
use crate::support::bao::{self, PLUGIN};
use crate::support::cluster::Cluster;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::server::Server;
use crate::support::{repository, wait_for};

/// An application may be so long without a credential that works, while nodes are killed on a machine under load.
const BOUND: Duration = Duration::from_secs(60);

/// What stands before a cluster: each connection goes to the first of these nodes that lets it in. It ends with the
/// test's process.
fn balancer(nodes: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let node = nodes.iter().find_map(|node| TcpStream::connect(node.trim_start_matches("http://")).ok());
            let Some(node) = node else { continue };
            for (from, to) in [(client.try_clone(), node.try_clone()), (Ok(node), Ok(client))] {
                std::thread::spawn(move || pass(from.unwrap(), to.unwrap()));
            }
        }
    });
    format!("http://{address}")
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

struct Place {
    cluster: Cluster,
    postgres: Postgres,
    dir: tempfile::TempDir,
}

impl Place {
    fn start() -> Place {
        let (cluster, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(Postgres::start);
            (Cluster::start(3), postgres.join().unwrap())
        });
        cluster.register();
        cluster.write("sys/mounts/database", json!({ "type": PLUGIN }));
        let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(),
            "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*" });
        cluster.write("database/config/pg", connection);
        let role = json!({ "db_name": "pg", "creation_statements": CREATION, "default_ttl": "6s", "max_ttl": "20s" });
        cluster.write("database/roles/app", role);
        let policy = std::fs::read_to_string(repository().join("examples/agent/policy.hcl")).unwrap();
        cluster.write("sys/policies/acl/sidecar", json!({ "policy": policy }));
        cluster.write("sys/auth/approle", json!({ "type": "approle" }));
        let login = json!({ "token_policies": "sidecar", "token_ttl": "1h" });
        cluster.write("auth/approle/role/app", login);
        let dir = tempfile::Builder::new().prefix("leasehold-sidecar-").tempdir().unwrap();
        let text = |answer: Value, field: &str| answer[field].as_str().unwrap().to_owned();
        let id = text(cluster.client(cluster.active()).get("auth/approle/role/app/role-id").data(), "role_id");
        std::fs::write(dir.path().join("role-id"), id).unwrap();
        let secret = text(cluster.write("auth/approle/role/app/secret-id", json!({}))["data"].take(), "secret_id");
        std::fs::write(dir.path().join("secret-id"), secret).unwrap();
        Place { cluster, postgres, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `bao agent` with the example's configuration, by way of a balancer that asks these nodes first.
    fn agent(&self, first: usize) -> Server {
        let size = self.cluster.nodes.len();
        let nodes = (first..first + size).map(|node| self.cluster.client(node % size).address().to_owned());
        let here = self.dir.path().display().to_string();
        let mut text = std::fs::read_to_string(repository().join("examples/agent/approle.hcl")).unwrap();
        let names = [
            ("https://bao.example.com:8200", balancer(nodes.collect())),
            ("/etc/leasehold", here.clone()),
            ("/run/leasehold", here.clone()),
        ];
        for (theirs, ours) in names {
            assert!(text.contains(theirs), "no {theirs}");
            text = text.replace(theirs, &ours);
        }
        let configuration = self.path("agent.hcl");
        std::fs::write(&configuration, text).unwrap();
        let command: Vec<OsString> =
            vec![bao::program().into(), "agent".into(), format!("-config={}", configuration.display()).into()];
        Server::start("the sidecar", &command, &[("HOME", &here)], "TERM", &self.path("log"))
    }

    /// Whether what is in the file opens the database, and who that is.
    fn works(&self, file: &Path) -> Option<String> {
        let (user, password) = rendered(file)?;
        self.postgres.login(&user, &password, "SELECT 1").is_ok().then_some(user)
    }
}

/// Ends the watching, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_sidecar_has_a_good_credential_again_after_each_failover() {
    let mut place = Place::start();
    let file = place.path("database.env");
    // The one that it talks to is the active one at first, and dies.
    let agent = place.agent(place.cluster.active());
    wait_for("a credential", LIMIT, || {
        assert!(!agent.ended(), "{}", agent.log());
        place.works(&file)
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::SeqCst) {
                // Panics if there is anything else in it than a credential.
                rendered(&file).expect("the file is there");
                seen += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        let end = Stop(&stop);
        // Twice: the second time it is another node, to which all had gone over.
        for _ in 0..2 {
            let before = rendered(&file).unwrap().0;
            let active = place.cluster.active();
            let killed = Instant::now();
            place.cluster.crash(active);
            let another = wait_for("another credential that works", BOUND, || {
                assert!(!agent.ended(), "{}", agent.log());
                place.works(&file).filter(|user| *user != before)
            });
            println!("{another} {:.1?} after the kill", killed.elapsed());
            place.cluster.revive(active);
        }
        drop(end);
        assert!(watching.join().unwrap() > 100);
    });
}
