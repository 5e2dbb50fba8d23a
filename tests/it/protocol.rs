//! The plugin protocol, through a real host and against a real database: what the host asks besides the users' own
//! requests, how the process starts and ends, who is let in, and what happens when somebody leaves in the middle.
//!
//! A panic in a request has its test at the wire (`src/wire/tests.rs`): nothing that can be sent makes a correct plugin
//! panic.

mod concurrency;
mod departure;
mod ending;
mod handshake;
mod log;
mod mounts;
mod requests;
mod sizes;
mod standby;

use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::{Answer, Client};
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::wait_for;

/// The usual creation statement.
const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

/// A host with our engine mounted at `db/`, a database behind the connection `pg`, and the role `app` there.
struct World {
    client: Client,
    bao: Bao,
    postgres: Postgres,
}

impl World {
    fn start() -> World {
        World::start_with(&[])
    }

    /// With further arguments for the plugin.
    fn start_with(arguments: &[&str]) -> World {
        let (bao, postgres) = thread::scope(|scope| {
            let postgres = scope.spawn(Postgres::start);
            (Bao::start(), postgres.join().unwrap())
        });
        crate::support::bao::register(&bao.client(), &bao.plugins(), arguments);
        bao.mount("db", PLUGIN);
        let world = World { client: bao.client(), bao, postgres };
        world.connect("db/config/pg", json!({}));
        world.role("db/roles/app", json!({}));
        world
    }

    /// Writes a connection to the database, with further fields.
    #[track_caller]
    fn connect(&self, path: &str, fields: Value) {
        self.client.post(path, connection(&self.postgres, fields)).expect(204);
    }

    /// Writes a role at the connection `pg`, with further fields.
    #[track_caller]
    fn role(&self, path: &str, fields: Value) {
        self.client.post(path, role(fields)).expect(204);
    }

    /// The users that were made: everybody but those whom the server was born with.
    fn users(&self) -> Vec<String> {
        users(&self.postgres)
    }

    /// How many statements the plugin has sent (the tests' own are not logged).
    fn statements(&self) -> usize {
        self.postgres.log().matches("LOG:  statement:").count()
    }

    /// The one process of the plugin.
    #[track_caller]
    fn plugin(&self) -> Pid {
        match self.bao.plugin_processes().as_slice() {
            [one] => *one,
            other => panic!("not one plugin process: {other:?}"),
        }
    }

    /// Kills the plugin and waits until the host knows: a request on its way to a process that dies is lost.
    fn kill_plugin(&self) {
        let process = self.plugin();
        kill_process(process, Signal::KILL).unwrap();
        let gone = format!("id={} error=", process.as_raw_nonzero());
        wait_for("the host's word of the plugin's end", Duration::from_secs(10), || {
            self.bao
                .log()
                .lines()
                .any(|line| line.contains("plugin process exited") && line.contains(&gone))
                .then_some(())
        });
    }
}

/// A connection's fields.
fn connection(postgres: &Postgres, fields: Value) -> Value {
    let base = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(), "username": ADMIN,
                       "password": ADMIN_PASSWORD, "allowed_roles": "*" });
    with(base, fields)
}

/// A role's fields.
fn role(fields: Value) -> Value {
    with(json!({ "db_name": "pg", "creation_statements": CREATION }), fields)
}

/// `base` with the fields of `more` laid over it.
fn with(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}

fn users(postgres: &Postgres) -> Vec<String> {
    let list =
        postgres.json("SELECT coalesce(json_agg(rolname ORDER BY rolname), '[]') FROM pg_roles WHERE oid >= 16384");
    serde_json::from_value(list).unwrap()
}

/// A credential and its lease.
struct Minted {
    lease: String,
    username: String,
    password: String,
}

/// Reads a credential.
#[track_caller]
fn mint(client: &Client, path: &str) -> Minted {
    minted(client.get(path))
}

#[track_caller]
fn minted(answer: Answer) -> Minted {
    let body = answer.expect(200);
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("not a credential: {body}")).to_owned();
    Minted {
        lease: text(&body["lease_id"]),
        username: text(&body["data"]["username"]),
        password: text(&body["data"]["password"]),
    }
}

/// True once a process has ended, reaped or not.
fn ended(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The state follows the command, which is in parentheses and may itself hold some.
    stat.map_or(true, |stat| stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z')))
}
