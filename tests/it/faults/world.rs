//! What is disturbed: a host on durable storage with our engine, a database, and the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::mariadb::{self, MariaDb};
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::proxy::Proxy;
use crate::support::server::is_gone;
use crate::support::wait_for;

pub const LIMIT: Duration = Duration::from_secs(60);

/// Sessions that the engine may have at the database.
pub const SESSIONS: usize = 4;

const CREATE: &str = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;

const CREATE_IN_MARIADB: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'";

pub struct World {
    pub cluster: Cluster,
    pub postgres: Postgres,
    pub proxy: Proxy,
    /// Some campaigns have this one too, as the connection `my`.
    pub mariadb: Option<MariaDb>,
}

impl World {
    /// With a connection `pg`, through the proxy.
    pub fn start(seed: u64, more: Value) -> World {
        let (cluster, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start_with(&["fsync=off", "max_connections=300"]));
            (Cluster::start(1), postgres.join().unwrap())
        });
        cluster.register();
        let client = cluster.client(0);
        client.post("sys/mounts/database", json!({ "type": PLUGIN })).expect(204);
        let world = World { proxy: Proxy::start(postgres.port(), seed), cluster, postgres, mariadb: None };
        world.connection("pg", world.proxy.port(), more);
        world
    }

    /// Adds a MariaDB server, with a connection and a role that are both called `my`.
    pub fn with_mariadb(mut self, ttl: u64) -> World {
        let mariadb = MariaDb::start();
        let connection = json!({
            "plugin_name": "mysql-database-plugin", "connection_url": mariadb.url(), "allowed_roles": "*",
            "username": mariadb::ADMIN, "password": mariadb::ADMIN_PASSWORD, "max_open_connections": SESSIONS,
        });
        self.client().post("database/config/my", connection).expect(204);
        let role = json!({ "db_name": "my", "creation_statements": CREATE_IN_MARIADB, "default_ttl": ttl,
                           "max_ttl": ttl.max(3600) });
        self.client().post("database/roles/my", role).expect(204);
        self.mariadb = Some(mariadb);
        self
    }

    /// Of the database, or the proxy in front of it.
    pub fn url(port: u16, sslmode: &str) -> String {
        format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/postgres?sslmode={sslmode}")
    }

    pub fn connection(&self, name: &str, port: u16, more: Value) {
        let mut connection = json!({
            "plugin_name": "postgresql-database-plugin", "connection_url": Self::url(port, "disable"),
            "allowed_roles": "*",
            "username": ADMIN, "password": ADMIN_PASSWORD, "max_open_connections": SESSIONS,
        });
        for (key, value) in more.as_object().unwrap() {
            connection[key] = value.clone();
        }
        self.client().post(&format!("database/config/{name}"), connection).expect(204);
    }

    /// A role whose leases last so many seconds.
    pub fn role(&self, name: &str, connection: &str, ttl: u64) {
        let role = json!({ "db_name": connection, "creation_statements": CREATE, "default_ttl": ttl,
                           "max_ttl": ttl.max(3600) });
        self.client().post(&format!("database/roles/{name}"), role).expect(204);
    }

    pub fn client(&self) -> Client {
        self.cluster.client(0)
    }

    /// Users of ours at the databases; none of anybody else are called like that.
    pub fn users(&self) -> BTreeSet<String> {
        let mut users = self.postgres.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'");
        if let Some(mariadb) = &self.mariadb {
            users += "\n";
            users += &mariadb.sql("SELECT User FROM mysql.user WHERE User LIKE 'v-%'");
        }
        users.lines().filter(|user| !user.is_empty()).map(str::to_owned).collect()
    }

    /// Logs in where the user is.
    pub fn login(&self, user: &str, password: &str) -> Result<String, String> {
        match &self.mariadb {
            Some(mariadb) if !mariadb.hosts(user).is_empty() => mariadb.login(user, password, "SELECT 1"),
            _ => self.postgres.login(user, password, "SELECT 1"),
        }
    }

    /// Sessions of users of ours at PostgreSQL, and of users that are gone.
    pub fn sessions(&self) -> usize {
        let ask = "SELECT count(*) FROM pg_stat_get_activity(NULL) a LEFT JOIN pg_roles r ON r.oid = a.usesysid \
                   WHERE a.usesysid IS NOT NULL AND (r.rolname IS NULL OR r.rolname LIKE 'v-%')";
        self.postgres.sql(ask).parse().unwrap()
    }

    /// The leases of a role, as the host knows them.
    pub fn leases(&self, role: &str) -> BTreeSet<String> {
        let prefix = format!("database/creds/{role}/");
        let listed = self.client().list(&format!("sys/leases/lookup/{prefix}"));
        match listed.status {
            404 => BTreeSet::new(),
            _ => {
                let keys = listed.data()["keys"].take();
                keys.as_array().unwrap().iter().map(|key| format!("{prefix}{}", key.as_str().unwrap())).collect()
            }
        }
    }

    /// The user that a lease is for, as the host has stored it, unless it is gone by now. A lease stays what it is: what was
    /// once read is in `known`.
    pub fn user_of(&self, lease: &str, known: &mut BTreeMap<String, String>) -> Option<String> {
        if let Some(user) = known.get(lease) {
            return Some(user.clone());
        }
        let stored = self.client().get(&format!("sys/raw/sys/expire/id/{lease}"));
        if stored.status == 404 {
            return None;
        }
        let entry: Value = serde_json::from_str(stored.data()["value"].as_str().unwrap()).unwrap();
        let user = entry["data"]["username"].as_str().unwrap().to_owned();
        known.insert(lease.to_owned(), user.clone());
        Some(user)
    }

    /// Waits until no user, no session and no lease of the role is left. How long that took, or what is left.
    pub fn drained(&self, role: &str, limit: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        loop {
            let (users, leases) = (self.users(), self.leases(role));
            if users.is_empty() && leases.is_empty() && self.sessions() == 0 {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > limit {
                return Err(format!(
                    "after {limit:?}: {} users ({:?}), {} leases ({:?}), {} sessions",
                    users.len(),
                    users.iter().take(5).collect::<Vec<_>>(),
                    leases.len(),
                    leases.iter().take(5).collect::<Vec<_>>(),
                    self.sessions()
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// There are no leases any more, and no users but a few whose leases died with the host: their time ends them, and that
    /// comes soon. How long it took until that was so.
    pub fn only_lost_ones(&self, most: usize, life: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        let mut users = self.users();
        while users.len() > most && begin.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(200));
            users = self.users();
        }
        // Those that are about to go are given the time.
        while !users.is_empty() && begin.elapsed() < Duration::from_secs(8) {
            std::thread::sleep(Duration::from_millis(200));
            users = self.users();
        }
        let late = format!(
            "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%' AND coalesce(rolvaliduntil, 'infinity') > now() + \
             interval '{} seconds'",
            life.as_secs() + 5
        );
        let endless = self.postgres.sql(&late);
        if users.len() > most || endless != "0" {
            return Err(format!("{} users have no lease, {endless} of them no end: {users:?}", users.len()));
        }
        println!("{} users whose lease died with the host", users.len());
        Ok(begin.elapsed())
    }

    /// Asks for a credential and hangs up after so long. True if the answer had begun to come by then.
    pub fn mint_impatiently(&self, role: &str, patience: Duration) -> bool {
        let client = self.client();
        let address = client.address().trim_start_matches("http://").to_owned();
        let mut connection = TcpStream::connect(&address).unwrap();
        let request = format!(
            "GET /v1/database/creds/{role} HTTP/1.1\r\nHost: {address}\r\nX-Vault-Token: {}\r\n\r\n",
            client.token()
        );
        connection.write_all(request.as_bytes()).unwrap();
        connection.set_read_timeout(Some(patience.max(Duration::from_micros(1)))).unwrap();
        connection.read(&mut [0; 64]).is_ok_and(|length| length > 0)
    }

    /// Ends every lease of the role, as the host does it in the background.
    pub fn revoke_all(&self, role: &str) {
        self.client()
            .post(&format!("sys/leases/revoke-prefix/database/creds/{role}"), json!({ "sync": false }))
            .expect(202);
    }

    /// Ends the database at once, without a checkpoint or a goodbye; it stays down for so long.
    pub fn restart_database(&mut self, down: Duration) {
        self.postgres.stop();
        std::thread::sleep(down);
        self.postgres.start_again();
    }

    pub fn plugin(&self) -> Vec<Pid> {
        wait_for("the plugin", LIMIT, || Some(self.cluster.nodes[0].plugin_processes()).filter(|pids| !pids.is_empty()))
    }

    pub fn kill_plugin(&self) {
        for pid in self.plugin() {
            let _ = kill_process(pid, Signal::KILL);
            wait_for("its end", LIMIT, || is_gone(pid).then_some(()));
        }
    }

    /// Kills the host and starts it again. Its plugin ends by itself.
    pub fn kill_host(&mut self) {
        let plugin = self.plugin();
        let killed = self.cluster.kill(0);
        wait_for("the end of a plugin without host", LIMIT, || plugin.iter().all(|pid| is_gone(*pid)).then_some(()));
        drop(killed);
    }
}

/// Connections of this machine to a port of it that are open, or being opened, as the kernel sees them.
pub fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let remote = format!(":{port:04X}");
    let alive = |line: &&str| {
        let mut columns = line.split_whitespace().skip(2);
        let (to, state) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
        to.ends_with(&remote) && matches!(state, "01" | "02")
    };
    table.lines().filter(alive).count()
}
