//! The databases of the campaign, the accounts in them, and the statements that hold the windows open.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::mariadb::MariaDb;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;

/// In PostgreSQL: before the change, between it and the commit, and during the commit. Each change that is committed
/// leaves a line.
const IN_POSTGRES: &[&str] = &[
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

/// In MariaDB each statement commits itself.
const IN_MARIADB: &[&str] = &[
    "DO SLEEP(0.3 * RAND())",
    "ALTER USER '{{username}}'@'%' IDENTIFIED BY '{{password}}'",
    "INSERT INTO chaos.changes VALUES ('{{username}}')",
    "DO SLEEP(0.3 * RAND())",
];

/// A kind of database. Redis has no statements: its window is between the change and writing it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    MariaDb,
    Redis,
}

/// A connection, which has an administrative account of its own.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    pub name: &'static str,
    pub kind: Kind,
    /// Its password changes every ten seconds.
    pub scheduled: bool,
    /// Its password changes when somebody asks.
    pub on_request: bool,
    /// Static roles there, each with an account of its own.
    pub roles: &'static [&'static str],
}

/// A static role that is deleted and created again.
pub const COMING_AND_GOING: &str = "fleeting";

pub const CONNECTIONS: &[Connection] = &[
    Connection {
        name: "p0",
        kind: Kind::Postgres,
        scheduled: false,
        on_request: true,
        roles: &["app0", "app1", COMING_AND_GOING],
    },
    Connection { name: "p1", kind: Kind::Postgres, scheduled: true, on_request: true, roles: &["app2", "app3"] },
    Connection { name: "p2", kind: Kind::Postgres, scheduled: true, on_request: false, roles: &["app4", "app5"] },
    Connection { name: "m0", kind: Kind::MariaDb, scheduled: true, on_request: true, roles: &["my0", "my1"] },
    Connection { name: "r0", kind: Kind::Redis, scheduled: true, on_request: true, roles: &["rd0", "rd1"] },
];

impl Connection {
    /// Its account.
    pub fn root(&self) -> String {
        format!("root_{}", self.name)
    }

    /// The body that makes a static role of that name, with the account of that name.
    pub fn role(&self, name: &str) -> Value {
        let mut role = json!({ "db_name": self.name, "username": name, "rotation_period": 5 });
        if let Some(statements) = self.kind.statements() {
            role["rotation_statements"] = json!(statements);
        }
        role
    }

    /// The body that makes a role that mints.
    pub fn minting(&self) -> Value {
        let creation = match self.kind {
            Kind::Postgres => json!("CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'"),
            Kind::MariaDb => json!("CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"),
            Kind::Redis => json!([r#"["+ping"]"#]),
        };
        json!({ "db_name": self.name, "creation_statements": creation })
    }
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Postgres, Kind::MariaDb, Kind::Redis];

    fn statements(self) -> Option<&'static [&'static str]> {
        match self {
            Kind::Postgres => Some(IN_POSTGRES),
            Kind::MariaDb => Some(IN_MARIADB),
            Kind::Redis => None,
        }
    }
}

/// The servers.
pub struct Sites {
    postgres: Postgres,
    mariadb: MariaDb,
    redis: Redis,
}

impl Sites {
    /// Running, with every account. Each has its own name as its first password.
    pub fn start() -> Sites {
        let sites = std::thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start_with(&["fsync=off", "max_connections=200"]));
            let mariadb = scope.spawn(MariaDb::start);
            Sites { postgres: postgres.join().unwrap(), mariadb: mariadb.join().unwrap(), redis: Redis::start() }
        });
        sites.postgres.sql(PREPARATION);
        sites.mariadb.sql("CREATE DATABASE chaos; CREATE TABLE chaos.changes (account TEXT)");
        for connection in CONNECTIONS {
            sites.account(connection.kind, &connection.root(), true);
            connection.roles.iter().for_each(|name| sites.account(connection.kind, name, false));
        }
        sites.redis.command(&["ACL", "SAVE"]);
        sites
    }

    fn account(&self, kind: Kind, name: &str, administers: bool) {
        match kind {
            Kind::Postgres => {
                let power = if administers { "SUPERUSER" } else { "NOSUPERUSER" };
                self.postgres.sql(&format!("CREATE ROLE {name} LOGIN {power} PASSWORD '{name}'"));
            }
            Kind::MariaDb => {
                self.mariadb.sql(&format!("CREATE USER {name}@'%' IDENTIFIED BY '{name}'"));
                if administers {
                    self.mariadb.sql(&format!("GRANT ALL ON *.* TO {name}@'%' WITH GRANT OPTION"));
                }
            }
            Kind::Redis => {
                let power = if administers { "+@all" } else { "+ping" };
                self.redis.command(&["ACL", "SETUSER", name, "on", &format!(">{name}"), "~*", "&*", power]);
            }
        }
    }

    /// The body that makes the connection.
    pub fn connection(&self, connection: &Connection) -> Value {
        let mut body = match connection.kind {
            Kind::Postgres => {
                json!({ "plugin_name": "postgresql-database-plugin", "connection_url": self.postgres.url() })
            }
            Kind::MariaDb => json!({ "plugin_name": "mysql-database-plugin", "connection_url": self.mariadb.url() }),
            Kind::Redis => json!({ "plugin_name": "valkey-database-plugin", "host": "127.0.0.1",
                                   "port": self.redis.port(), "persistence_mode": "aclfile" }),
        };
        body["username"] = json!(connection.root());
        body["password"] = json!(connection.root());
        body["allowed_roles"] = json!("*");
        body["rotation_period"] = json!(if connection.scheduled { 10 } else { 0 });
        if let Some(statements) = connection.kind.statements() {
            body["root_rotation_statements"] = json!(statements);
        }
        body
    }

    /// Logs in as an application would.
    pub fn login(&self, kind: Kind, user: &str, password: &str) -> Result<(), String> {
        match kind {
            Kind::Postgres => self.postgres.login(user, password, "SELECT 1").map(drop),
            Kind::MariaDb => self.mariadb.login(user, password, "SELECT 1").map(drop),
            Kind::Redis => self.redis.login(user, password, &["PING"]).map(drop),
        }
    }

    /// How many changes PostgreSQL and MariaDB have committed, of which accounts.
    pub fn changed(&self, accounts: &[String]) -> u64 {
        let names: Vec<String> = accounts.iter().map(|name| format!("'{name}'")).collect();
        let ask = |table| format!("SELECT count(*) FROM {table} WHERE account IN ({})", names.join(", "));
        let counts = [self.postgres.sql(&ask("changes")), self.mariadb.sql(&ask("chaos.changes"))];
        counts.iter().map(|count| count.trim().parse::<u64>().unwrap()).sum()
    }

    /// Ends a database at once, without a checkpoint or a goodbye, and starts it again after a while.
    pub fn kill(&mut self, kind: Kind, down: Duration) {
        match kind {
            Kind::Postgres => self.postgres.stop(),
            Kind::MariaDb => self.mariadb.stop(),
            Kind::Redis => self.redis.stop(),
        }
        std::thread::sleep(down);
        match kind {
            Kind::Postgres => self.postgres.start_again(),
            Kind::MariaDb => self.mariadb.start_again(),
            Kind::Redis => self.redis.start_again(),
        }
    }
}
