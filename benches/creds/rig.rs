//! The servers: one host with both engines, one database.

use std::fmt;
use std::path::Path;

use rustix::process::Pid;
use serde_json::json;

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
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

/// What a user is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Membership in a group that has the rights.
    Group,
    /// The rights themselves, on ten tables.
    Direct,
    /// As the group, with revocation statements of its own.
    GroupDrop,
}

impl Role {
    /// Those that differ in how they mint.
    pub const MINTED: [Role; 2] = [Role::Group, Role::Direct];
    /// Those that differ in how they are revoked.
    pub const REVOKED: [Role; 3] = [Role::Group, Role::GroupDrop, Role::Direct];

    pub fn name(self) -> &'static str {
        match self {
            Role::Group => "group",
            Role::Direct => "direct",
            Role::GroupDrop => "group-drop",
        }
    }

    fn creation(self) -> &'static str {
        match self {
            Role::Group | Role::GroupDrop => {
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE readers;"
            }
            Role::Direct => {
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA app TO \"{{name}}\";"
            }
        }
    }

    fn revocation(self) -> &'static [&'static str] {
        match self {
            Role::Group | Role::Direct => &[],
            Role::GroupDrop => &["DROP ROLE IF EXISTS \"{{name}}\""],
        }
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

/// Both servers, ready.
pub struct Rig {
    pub bao: Bao,
    pub postgres: Postgres,
    raft: bool,
}

impl Rig {
    /// `beside` is a build of the plugin to take the built-in engine's place.
    pub fn start(raft: bool, beside: Option<&Path>) -> Rig {
        // The room for sessions is the only setting that is not the server's own.
        let postgres = Postgres::start_with(&["max_connections=200"]);
        let bao = Bao::start_as("warn", |dir| {
            let data = dir.join("raft");
            std::fs::create_dir(&data).unwrap();
            match raft {
                true => format!("storage \"raft\" {{\n  path = {data:?}\n  node_id = \"one\"\n}}"),
                false => String::new(),
            }
        });
        bao.register();
        let rig = Rig { bao, postgres, raft };
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
        let client = rig.client();
        for engine in Engine::BOTH {
            let mount = engine.mount();
            let connection = json!({
                "plugin_name": "postgresql-database-plugin", "connection_url": rig.postgres.url(), "username": ADMIN,
                "password": ADMIN_PASSWORD, "allowed_roles": "*", "max_open_connections": 32,
            });
            client.post(&format!("{mount}/config/pg"), connection).expect(204);
            for role in Role::REVOKED {
                let settings = json!({
                    "db_name": "pg", "creation_statements": role.creation(), "default_ttl": TTL, "max_ttl": 2 * TTL,
                    "revocation_statements": role.revocation(),
                });
                client.post(&format!("{mount}/roles/{}", role.name()), settings).expect(204);
            }
        }
        rig
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
        format!("{cores} cores; OpenBao {host}, storage {storage}; PostgreSQL {version}, fsync on\n")
    }

    /// Processes of the plugin.
    pub fn plugin(&self) -> Vec<Pid> {
        self.bao.plugin_processes()
    }

    /// How many minted users there are.
    pub fn users(&self) -> usize {
        self.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").parse().unwrap()
    }

    /// The same ground for everybody: no dead rows, nothing left to be written.
    pub fn tidy(&self) {
        self.postgres.sql("VACUUM;\nCHECKPOINT");
    }

    /// Removes what a measurement has made, the quick way: direct grants go with their tables.
    pub fn clear(&self, engine: Engine, role: Role) {
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
