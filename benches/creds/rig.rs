//! The servers: one host with both engines, and the databases that both work at.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::free_port;
use crate::support::mariadb::{self, MariaDb};
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};

/// Who mints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The host's own, or another build of the plugin.
    Other,
    /// The plugin.
    Ours,
}

impl Engine {
    pub const BOTH: [Engine; 2] = [Engine::Other, Engine::Ours];

    pub fn mount(self) -> &'static str {
        match self {
            Engine::Other => "other",
            Engine::Ours => "ours",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Engine::Other => "other",
            Engine::Ours => "ours",
        })
    }
}

/// What is minted at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Postgres,
    MariaDb,
}

/// What a user is granted, and how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Membership in a group that has the rights.
    Group,
    /// The rights themselves, on ten tables.
    Direct,
    /// As the group, with revocation statements of its own.
    GroupDrop,
    /// Ours: `group_roles`. The other engine: as the group.
    Member,
    /// The same, with verifiers of 1,024 rounds.
    #[value(name = "member-1024")]
    Member1024,
    /// The same, with verifiers of one round.
    #[value(name = "member-1")]
    Member1,
    /// A user of MariaDB with a grant on a database.
    Maria,
}

impl Role {
    pub const ALL: [Role; 7] =
        [Role::Group, Role::Direct, Role::GroupDrop, Role::Member, Role::Member1024, Role::Member1, Role::Maria];
    /// Those that differ in how they mint.
    pub const MINTED: [Role; 6] =
        [Role::Group, Role::Direct, Role::Member, Role::Member1024, Role::Member1, Role::Maria];
    /// Those that differ in how they are revoked.
    pub const REVOKED: [Role; 5] = [Role::Group, Role::GroupDrop, Role::Direct, Role::Member, Role::Maria];
    /// One for each way to renew.
    pub const RENEWED: [Role; 2] = [Role::Member, Role::Maria];

    pub fn name(self) -> &'static str {
        match self {
            Role::Group => "group",
            Role::Direct => "direct",
            Role::GroupDrop => "group-drop",
            Role::Member => "member",
            Role::Member1024 => "member-1024",
            Role::Member1 => "member-1",
            Role::Maria => "maria",
        }
    }

    pub fn database(self) -> Database {
        if self == Role::Maria { Database::MariaDb } else { Database::Postgres }
    }

    /// Rounds of the verifiers of its users, where we make them.
    pub fn rounds(self) -> u32 {
        match self {
            Role::Member1024 => 1024,
            Role::Member1 => 1,
            _ => 4096,
        }
    }

    fn is_member(self) -> bool {
        matches!(self, Role::Member | Role::Member1024 | Role::Member1)
    }

    fn creation(self) -> &'static str {
        match self {
            Role::Group | Role::GroupDrop | Role::Member | Role::Member1024 | Role::Member1 => {
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE readers;"
            }
            Role::Direct => {
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA app TO \"{{name}}\";"
            }
            Role::Maria => {
                "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT SELECT ON app.* TO '{{name}}'@'%';"
            }
        }
    }

    /// `native`: for our engine, whichever build of it.
    fn settings(self, native: bool) -> Value {
        let connection = if self.database() == Database::MariaDb { "maria" } else { "pg" };
        let mut settings = json!({ "db_name": connection, "default_ttl": TTL, "max_ttl": 2 * TTL });
        if self.is_member() && native {
            settings["group_roles"] = json!(["readers"]);
            settings["scram_iterations"] = json!(self.rounds());
        } else {
            settings["creation_statements"] = json!(self.creation());
        }
        if self == Role::GroupDrop {
            settings["revocation_statements"] = json!(["DROP ROLE IF EXISTS \"{{name}}\""]);
        }
        settings
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What another build of the plugin is registered as, and its file.
const OTHER_BUILD: &str = "leasehold-other";

/// Leases live this long, in seconds: longer than any measurement.
pub const TTL: u64 = 3600;

/// The servers, ready.
pub struct Rig {
    pub bao: Bao,
    pub postgres: Postgres,
    /// Only if it is measured.
    pub mariadb: Option<MariaDb>,
    raft: bool,
}

impl Rig {
    /// `beside` is a build of the plugin to take the built-in engine's place. A MariaDB is started only if one of the
    /// roles wants it.
    pub fn start(raft: bool, beside: Option<&Path>, roles: &[Role]) -> Rig {
        // The room for sessions is the only setting that is not the server's own.
        let postgres = Postgres::start_with(&["max_connections=300"]);
        let with_maria = roles.iter().any(|role| role.database() == Database::MariaDb);
        // As it comes, not as tests want it: what is committed is on the disk, and nobody writes down what is said.
        let mariadb = with_maria.then(|| {
            MariaDb::start_with(&["general-log=0", "innodb-flush-log-at-trx-commit=1", "innodb-buffer-pool-size=128M"])
        });
        let bao = Bao::start_as("warn", |dir| {
            let data = dir.join("raft");
            std::fs::create_dir(&data).unwrap();
            match raft {
                true => format!(
                    "cluster_addr = \"https://127.0.0.1:{}\"\nstorage \"raft\" {{\n  path = {data:?}\n  node_id = \"one\"\n}}",
                    free_port()
                ),
                false => String::new(),
            }
        });
        bao.register();
        let rig = Rig { bao, postgres, mariadb, raft };
        rig.tables();
        let other = match beside {
            None => "database",
            Some(build) => {
                rig.bao.add(build, OTHER_BUILD);
                OTHER_BUILD
            }
        };
        rig.bao.mount(Engine::Other.mount(), other);
        rig.bao.mount(Engine::Ours.mount(), PLUGIN);
        for engine in Engine::BOTH {
            rig.configure(engine, engine == Engine::Ours || beside.is_some(), roles);
        }
        rig
    }

    fn configure(&self, engine: Engine, native: bool, roles: &[Role]) {
        let (client, mount) = (self.client(), engine.mount());
        let connect = |name: &str, plugin: &str, url: String, user: &str, password: &str| {
            let connection = json!({
                "plugin_name": plugin, "connection_url": url, "username": user, "password": password,
                "allowed_roles": "*", "max_open_connections": 32,
            });
            client.post(&format!("{mount}/config/{name}"), connection).expect(204);
        };
        connect("pg", "postgresql-database-plugin", self.postgres.url(), ADMIN, ADMIN_PASSWORD);
        if let Some(mariadb) = &self.mariadb {
            mariadb.sql("CREATE DATABASE IF NOT EXISTS app");
            let (user, password) = (mariadb::ADMIN, mariadb::ADMIN_PASSWORD);
            connect("maria", "mysql-database-plugin", mariadb.url(), user, password);
        }
        for role in roles {
            client.post(&format!("{mount}/roles/{}", role.name()), role.settings(native)).expect(204);
        }
        let account = format!("static_{mount}");
        self.postgres.sql(&format!("CREATE ROLE {account} LOGIN PASSWORD 'before'"));
        let fixed = json!({ "db_name": "pg", "username": account, "rotation_period": 24 * TTL });
        client.post(&format!("{mount}/static-roles/fixed"), fixed).expect(204);
    }

    /// A further connection to PostgreSQL.
    pub fn connect(&self, mount: &str, name: &str, most: usize) {
        let connection = json!({
            "plugin_name": "postgresql-database-plugin", "connection_url": self.postgres.url(), "username": ADMIN,
            "password": ADMIN_PASSWORD, "allowed_roles": "*", "max_open_connections": most,
        });
        self.client().post(&format!("{mount}/config/{name}"), connection).expect(204);
    }

    /// A further role of ours, as `member-1`; its leases live so many seconds.
    pub fn add_member(&self, mount: &str, name: &str, connection: &str, ttl: u64) {
        let mut settings = Role::Member1.settings(true);
        settings["db_name"] = json!(connection);
        settings["default_ttl"] = json!(ttl);
        settings["max_ttl"] = json!(ttl);
        self.client().post(&format!("{mount}/roles/{name}"), settings).expect(204);
    }

    /// The process of a database server.
    pub fn server(&self, database: Database) -> Pid {
        match (database, &self.mariadb) {
            (Database::MariaDb, Some(mariadb)) => mariadb.pid(),
            _ => self.postgres.pid(),
        }
    }

    /// Whether a minted user can log in.
    pub fn login(&self, database: Database, user: &str, password: &str) -> Result<String, String> {
        match (database, &self.mariadb) {
            (Database::MariaDb, Some(mariadb)) => mariadb.login(user, password, "SELECT 1"),
            _ => self.postgres.login(user, password, "SELECT 1"),
        }
    }

    /// A client with a connection of its own, kept alive.
    pub fn client(&self) -> Client {
        self.bao.client()
    }

    /// What is measured, in one line.
    pub fn description(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let storage = if self.raft { "raft on disk" } else { "in memory" };
        let version = self.postgres.sql("SHOW server_version");
        let host = self.client().get("sys/health").body["version"].as_str().unwrap_or("?").to_owned();
        let maria = match &self.mariadb {
            Some(mariadb) => format!("; MariaDB {}", mariadb.sql("SELECT version()").trim()),
            None => String::new(),
        };
        format!("{cores} cores; OpenBao {host}, storage {storage}; PostgreSQL {version}, fsync on{maria}\n")
    }

    /// Processes of the plugin.
    pub fn plugin(&self) -> Vec<Pid> {
        self.bao.plugin_processes()
    }

    /// How many minted users there are.
    pub fn users(&self, database: Database) -> usize {
        let count = match (database, &self.mariadb) {
            (Database::MariaDb, Some(mariadb)) => mariadb.sql("SELECT count(*) FROM mysql.user WHERE User LIKE 'v-%'"),
            _ => self.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"),
        };
        count.trim().parse().unwrap()
    }

    /// The same ground for everybody: no dead rows, nothing left to be written.
    pub fn tidy(&self) {
        self.postgres.sql("VACUUM;\nCHECKPOINT");
    }

    /// Removes what a measurement has made, the quick way: direct grants go with their tables.
    pub fn clear(&self, engine: Engine, role: Role) {
        if role.database() == Database::MariaDb {
            return self.revoke_all(engine, role);
        }
        self.tables();
        self.postgres.sql(
            "DO $$ DECLARE names text; BEGIN
               SELECT string_agg(quote_ident(rolname), ', ') INTO names FROM pg_roles WHERE rolname LIKE 'v-%';
               IF names IS NOT NULL THEN EXECUTE 'DROP ROLE ' || names; END IF;
             END $$",
        );
        self.revoke_all(engine, role);
    }

    /// Revokes every lease of a role and waits for it.
    pub fn revoke_all(&self, engine: Engine, role: Role) {
        let path = format!("sys/leases/revoke-prefix/{}/creds/{}", engine.mount(), role.name());
        self.client().post(&path, json!({ "sync": true })).expect(204);
    }

    fn tables(&self) {
        let tables: String = (0..10).map(|n| format!("CREATE TABLE app.t{n} (x int);\n")).collect();
        self.postgres.sql(&format!(
            "DROP SCHEMA IF EXISTS app CASCADE; CREATE SCHEMA app; {tables}
             DO $$ BEGIN CREATE ROLE readers; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT SELECT ON ALL TABLES IN SCHEMA app TO readers"
        ));
    }
}
