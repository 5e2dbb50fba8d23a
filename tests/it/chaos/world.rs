//! What is killed, and what must hold.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::sites::{COMING_AND_GOING, CONNECTIONS, Connection, Kind, Sites};
use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::server::is_gone;
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

/// A statement of what must hold, and how to find out whether it does.
pub type Invariant<'a> = (String, Box<dyn Fn() -> Result<(), String> + Send + 'a>);

/// A host on durable storage with our engine at `database/`, and databases.
pub struct World {
    cluster: Cluster,
    sites: Sites,
    client: Client,
}

/// Every static role with its connection.
fn roles() -> impl Iterator<Item = (&'static str, &'static Connection)> {
    CONNECTIONS.iter().flat_map(|connection| connection.roles.iter().map(move |name| (*name, connection)))
}

impl World {
    pub fn start() -> World {
        let (cluster, sites) = std::thread::scope(|scope| {
            let sites = scope.spawn(Sites::start);
            (Cluster::start(1), sites.join().unwrap())
        });
        cluster.register();
        let client = cluster.client(0);
        client.post("sys/mounts/database", json!({ "type": PLUGIN })).expect(204);
        for connection in CONNECTIONS {
            let name = connection.name;
            client.post(&format!("database/config/{name}"), sites.connection(connection)).expect(204);
            client.post(&format!("database/roles/by-{name}"), connection.minting()).expect(204);
        }
        std::thread::scope(|scope| {
            for (name, connection) in roles() {
                let client = &client;
                scope.spawn(move || {
                    client.post(&format!("database/static-roles/{name}"), connection.role(name)).expect(204);
                });
            }
        });
        World { cluster, sites, client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn log(&self) -> String {
        self.cluster.nodes[0].log()
    }

    /// Everything that changes a password on request while there are kills.
    pub fn changes(&self) -> Vec<String> {
        let by_hand = CONNECTIONS.iter().filter(|connection| connection.on_request);
        self.roles_to_rotate()
            .chain(by_hand.map(|connection| format!("database/rotate-root/{}", connection.name)))
            .collect()
    }

    /// Everything that can change a password on request.
    pub fn all_changes(&self) -> Vec<String> {
        let roots = CONNECTIONS.iter().map(|connection| format!("database/rotate-root/{}", connection.name));
        self.roles_to_rotate().chain(roots).collect()
    }

    fn roles_to_rotate(&self) -> impl Iterator<Item = String> {
        roles().filter(|(name, _)| *name != COMING_AND_GOING).map(|(name, _)| format!("database/rotate-role/{name}"))
    }

    /// What a tool writes again and again that has never heard of another password than the first.
    pub fn configurations(&self) -> Vec<(String, Value)> {
        let write = |connection: &Connection| {
            (format!("database/config/{}", connection.name), self.sites.connection(connection))
        };
        CONNECTIONS.iter().map(write).collect()
    }

    /// How many changes the databases have committed that leave a line: all, those of connections, and those of a
    /// connection that changes by itself only.
    pub fn changed(&self) -> [u64; 3] {
        let roots: Vec<String> = CONNECTIONS.iter().map(Connection::root).collect();
        let scheduled = CONNECTIONS.iter().filter(|connection| !connection.on_request);
        let scheduled: Vec<String> = scheduled.map(Connection::root).collect();
        let all: Vec<String> = roles().map(|(name, _)| name.to_owned()).chain(roots.clone()).collect();
        [all, roots, scheduled].map(|accounts| self.sites.changed(&accounts))
    }

    /// Waits until the plugin runs. The next request of somebody starts it.
    pub fn plugin(&self) -> Vec<Pid> {
        wait_for("the plugin", LIMIT, || Some(self.cluster.nodes[0].plugin_processes()).filter(|pids| !pids.is_empty()))
    }

    pub fn kill_plugin(&self) {
        for pid in self.plugin() {
            let _ = kill_process(pid, Signal::KILL);
            wait_for("its end", LIMIT, || is_gone(pid).then_some(()));
        }
    }

    /// Kills the host and starts it again. How long the plugin of the old one went on.
    pub fn kill_host(&mut self) -> Duration {
        let plugin = self.plugin();
        let begin = Instant::now();
        let cluster = &mut self.cluster;
        std::thread::scope(|scope| {
            let orphans = scope.spawn(move || {
                wait_for("the end of a plugin without host", LIMIT, || {
                    plugin.iter().all(|pid| is_gone(*pid)).then(|| begin.elapsed())
                })
            });
            let killed = cluster.kill(0);
            let outlived = orphans.join().unwrap();
            drop(killed);
            outlived
        })
    }

    /// Ends a database at once, without a checkpoint or a goodbye, and starts it again after a while.
    pub fn kill_database(&mut self, kind: Kind, down: Duration) {
        self.sites.kill(kind, down);
    }

    /// All that must hold, sooner or later, after whatever happened.
    pub fn invariants(&self) -> Vec<Invariant<'_>> {
        let mut all: Vec<Invariant<'_>> = Vec::new();
        for (name, connection) in roles() {
            all.push((name.to_owned(), Box::new(move || self.opens(name, connection))));
        }
        for connection in CONNECTIONS {
            all.push((connection.name.to_owned(), Box::new(move || self.mints(connection))));
        }
        all
    }

    /// The static role answers with a password that opens the account.
    fn opens(&self, name: &str, connection: &Connection) -> Result<(), String> {
        let mut answer = self.ask("GET", &format!("database/static-creds/{name}"), None);
        if answer.as_ref().is_err_and(|why| why.contains("unknown role")) && name == COMING_AND_GOING {
            // Between its end and its beginning.
            self.ask("POST", &format!("database/static-roles/{name}"), Some(&connection.role(name)))?;
            answer = self.ask("GET", &format!("database/static-creds/{name}"), None);
        }
        let answer = answer?;
        let password = answer["data"]["password"].as_str().ok_or("no password")?;
        self.sites.login(connection.kind, name, password)
    }

    /// The connection works as it is, and reset.
    fn mints(&self, connection: &Connection) -> Result<(), String> {
        let name = connection.name;
        for reset in [false, true] {
            if reset {
                self.ask("POST", &format!("database/reset/{name}"), Some(&json!({})))?;
            }
            let answer = self.ask("GET", &format!("database/creds/by-{name}"), None)?;
            let data = &answer["data"];
            let (Some(user), Some(password)) = (data["username"].as_str(), data["password"].as_str()) else {
                return Err(answer.to_string());
            };
            self.sites.login(connection.kind, user, password)?;
            self.ask("POST", "sys/leases/revoke", Some(&json!({ "lease_id": answer["lease_id"], "sync": true })))?;
        }
        Ok(())
    }

    /// The body of an answer that is none of an error.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let answer = self.client.try_request(method, path, body, &[]).map_err(|e| format!("{path}: {e}"))?;
        match answer.status {
            200 | 204 => Ok(answer.body),
            status => Err(format!("{path}: {status} {}", answer.body)),
        }
    }

    /// Whether that change is made once more, at last.
    pub fn changes_again(&self, path: &str, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            match self.ask("POST", path, Some(&json!({}))) {
                Ok(_) => return true,
                Err(why) if begin.elapsed() > limit => {
                    println!("no change: {why}");
                    return false;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}
