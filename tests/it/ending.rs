//! Users that end through the real host: while the database is away, and with something of theirs left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::wait_for;

/// A host with our engine at `database/`, a database, and a role `app`.
pub struct World {
    pub postgres: Postgres,
    pub bao: Bao,
    pub client: Client,
}

pub const LOGIN: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

impl World {
    pub fn start() -> World {
        let (bao, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(Postgres::start);
            (Bao::start(), postgres.join().unwrap())
        });
        bao.register();
        bao.mount("database", PLUGIN);
        let client = bao.client();
        let world = World { postgres, bao, client };
        let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": world.postgres.url(),
                                 "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*" });
        world.client.post("database/config/pg", connection).expect(204);
        world.role("app", json!({}));
        world
    }

    pub fn role(&self, name: &str, more: Value) {
        let mut body = json!({ "db_name": "pg", "creation_statements": [LOGIN], "default_ttl": "1h" });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.client.post(&format!("database/roles/{name}"), body).expect(204);
    }

    /// User, password, lease.
    #[track_caller]
    pub fn mint(&self, role: &str) -> [String; 3] {
        let answer = self.client.get(&format!("database/creds/{role}")).expect(200);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        [text(&answer["data"]["username"]), text(&answer["data"]["password"]), text(&answer["lease_id"])]
    }

    /// Minted users at the database, one a line.
    pub fn users(&self) -> Vec<String> {
        let users = self.postgres.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1");
        users.lines().map(str::to_owned).collect()
    }

    /// What `remnants/` lists.
    pub fn remnants(&self) -> Vec<Value> {
        let answer = self.client.list("database/remnants");
        if answer.status == 404 {
            return Vec::new();
        }
        let data = answer.data();
        data["keys"].as_array().unwrap().iter().map(|key| data["key_info"][key.as_str().unwrap()].clone()).collect()
    }
}

#[test]
fn users_that_could_not_be_ended_end_as_soon_as_the_database_is_back() {
    const LEASES: usize = 100;
    let mut world = World::start();
    for _ in 0..LEASES {
        world.mint("app");
    }
    world.postgres.stop();
    world.client.post("sys/leases/revoke-prefix/database/creds/app", json!({ "sync": false })).expect(202);
    wait_for("the host to have tried each", Duration::from_secs(60), || {
        (world.remnants().len() == LEASES).then_some(())
    });
    assert!(world.remnants().iter().all(|remnant| remnant["state"] == "open" && remnant["connection"] == "pg"));
    // Long enough for the host to wait a while until it comes back.
    std::thread::sleep(Duration::from_secs(5));
    world.postgres.start_again();
    let back = Instant::now();
    wait_for("the end of all", Duration::from_secs(30), || world.users().is_empty().then_some(()));
    let took = back.elapsed();
    println!("{LEASES} users ended {took:?} after the database was back");
    wait_for("the records to be closed", Duration::from_secs(10), || world.remnants().is_empty().then_some(()));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
