//! What is killed, and what must hold.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::postgres::Postgres;
use crate::support::server::is_gone;
use crate::support::wait_for;

/// Connections, each with an administrative account of its own whose password changes.
const CONNECTIONS: usize = 3;
/// Accounts of static roles, shared out to the connections.
const ACCOUNTS: usize = 6;
/// A static role that is deleted and created again.
pub const COMING_AND_GOING: &str = "fleeting";

const LIMIT: Duration = Duration::from_secs(30);

/// Holds the windows open: before the change, between it and the commit, and during the commit. Each change that is
/// committed leaves a line.
const ROTATION: &[&str] = &[
    "SELECT pg_sleep(0.3 * random())",
    "ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'",
    "INSERT INTO changes VALUES ('{{username}}')",
    "SELECT pg_sleep(0.3 * random())",
];
const PREPARATION: &str = "
    CREATE TABLE changes (account text);
    CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.3 * random()); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON changes DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION linger();
";

/// A statement of what must hold, and how to find out whether it does.
pub type Invariant<'a> = (String, Box<dyn Fn() -> Result<(), String> + 'a>);

/// A host on durable storage with our engine at `database/`, and a database.
pub struct World {
    cluster: Cluster,
    postgres: Postgres,
    client: Client,
}

/// The body that makes a static role of that name with the account of that name.
pub fn role(name: &str, connection: usize) -> Value {
    json!({ "db_name": format!("c{connection}"), "username": name, "rotation_period": 5,
            "rotation_statements": ROTATION })
}

fn accounts() -> impl Iterator<Item = (String, usize)> {
    (0..ACCOUNTS).map(|number| (format!("app{number}"), number % CONNECTIONS))
}

impl World {
    pub fn start() -> World {
        let (cluster, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start_with(&["fsync=off", "max_connections=200"]));
            (Cluster::start(1), postgres.join().unwrap())
        });
        postgres.sql(PREPARATION);
        cluster.register();
        let client = cluster.client(0);
        client.post("sys/mounts/database", json!({ "type": PLUGIN })).expect(204);
        for number in 0..CONNECTIONS {
            postgres.sql(&format!("CREATE ROLE root{number} LOGIN SUPERUSER PASSWORD 'first{number}'"));
            let connection = json!({
                "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(), "allowed_roles": "*",
                "username": format!("root{number}"), "password": format!("first{number}"),
                "root_rotation_statements": ROTATION,
            });
            client.post(&format!("database/config/c{number}"), connection).expect(204);
            let minting = json!({ "db_name": format!("c{number}"),
                "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'" });
            client.post(&format!("database/roles/by{number}"), minting).expect(204);
        }
        let world = World { cluster, postgres, client };
        std::thread::scope(|scope| {
            for (name, connection) in accounts().chain([(COMING_AND_GOING.to_owned(), 0)]) {
                let world = &world;
                scope.spawn(move || {
                    world.postgres.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'first'"));
                    world.client.post(&format!("database/static-roles/{name}"), role(&name, connection)).expect(204);
                });
            }
        });
        world
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn log(&self) -> String {
        self.cluster.nodes[0].log()
    }

    /// Everything that changes a password on request.
    pub fn changes(&self) -> Vec<String> {
        let roles = accounts().map(|(name, _)| format!("database/rotate-role/{name}"));
        roles.chain((0..CONNECTIONS).map(|number| format!("database/rotate-root/c{number}"))).collect()
    }

    /// How many changes the database has committed.
    pub fn changed(&self) -> u64 {
        self.postgres.sql("SELECT count(*) FROM changes").parse().unwrap()
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

    /// Ends the database at once, without a checkpoint or a goodbye, and starts it again after a while.
    pub fn kill_database(&mut self, down: Duration) {
        self.postgres.stop();
        std::thread::sleep(down);
        self.postgres.start_again();
    }

    /// All that must hold, sooner or later, after whatever happened.
    pub fn invariants(&self) -> Vec<Invariant<'_>> {
        let mut all: Vec<Invariant<'_>> = Vec::new();
        for (name, connection) in accounts().chain([(COMING_AND_GOING.to_owned(), 0)]) {
            all.push((name.clone(), Box::new(move || self.opens(&name, connection))));
        }
        for number in 0..CONNECTIONS {
            all.push((format!("c{number}"), Box::new(move || self.mints(number))));
        }
        all
    }

    /// The static role answers with a password that opens the account.
    fn opens(&self, name: &str, connection: usize) -> Result<(), String> {
        let mut answer = self.ask("GET", &format!("database/static-creds/{name}"), None);
        if answer.as_ref().is_err_and(|why| why.contains("unknown role")) && name == COMING_AND_GOING {
            // Between its end and its beginning.
            self.ask("POST", &format!("database/static-roles/{name}"), Some(&role(name, connection)))?;
            answer = self.ask("GET", &format!("database/static-creds/{name}"), None);
        }
        let answer = answer?;
        let password = answer["data"]["password"].as_str().ok_or("no password")?;
        self.postgres.login(name, password, "SELECT 1").map(drop)
    }

    /// The connection works as it is, and reset.
    fn mints(&self, number: usize) -> Result<(), String> {
        for reset in [false, true] {
            if reset {
                self.ask("POST", &format!("database/reset/c{number}"), Some(&json!({})))?;
            }
            let answer = self.ask("GET", &format!("database/creds/by{number}"), None)?;
            let data = &answer["data"];
            let (Some(user), Some(password)) = (data["username"].as_str(), data["password"].as_str()) else {
                return Err(answer.to_string());
            };
            self.postgres.login(user, password, "SELECT 1")?;
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
