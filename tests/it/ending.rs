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

/// A statement that gives the minted user a table.
const OWNS: &str = "CREATE TABLE \"t_{{name}}\" (n int); ALTER TABLE \"t_{{name}}\" OWNER TO \"{{name}}\"";

impl World {
    /// The one remnant: its id, and what is told of it.
    #[track_caller]
    fn remnant(&self) -> (String, Value) {
        let keys = self.client.list("database/remnants").data()["keys"].clone();
        let id = keys[0].as_str().unwrap().to_owned();
        assert_eq!(keys.as_array().unwrap().len(), 1, "{keys}");
        let told = self.client.get(&format!("database/remnants/{id}")).data();
        (id, told)
    }
}

#[test]
fn what_a_user_owns_makes_a_remnant_that_is_retried_or_accepted() {
    let world = World::start();
    let client = &world.client;
    world.role("owner", json!({ "creation_statements": [LOGIN, OWNS] }));
    let [user, password, lease] = world.mint("owner");
    client.revoke(&lease).expect(204);
    assert_ne!(client.lookup(&lease).status, 200, "the lease is over");
    assert!(world.postgres.login(&user, &password, "SELECT 1").is_err());
    let (id, told) = world.remnant();
    assert_eq!((&told["state"], &told["username"]), (&json!("contained"), &json!(user)));
    assert!(told["left"][0]["object"].as_str().unwrap().contains(&format!("t_{user}")), "{told}");
    assert!(told["next_try"].is_string() && told["reason"].as_str().unwrap().contains("owns"), "{told}");

    let retry = format!("database/remnants/{id}/retry");
    assert_eq!(client.post(&retry, json!({})).data()["result"], "contained");
    world.postgres.sql("CREATE ROLE heirs");
    world.role("owner", json!({ "creation_statements": [LOGIN, OWNS], "owned_objects": "reassign:heirs" }));
    assert_eq!(client.post(&retry, json!({})).data()["result"], "verified");
    assert!(world.users().is_empty() && world.remnants().is_empty());
    let owner = format!("SELECT tableowner FROM pg_tables WHERE tablename = 't_{user}'");
    assert_eq!(world.postgres.sql(&owner), "heirs");
    client.post(&retry, json!({})).expect(400);

    world.role("owner", json!({ "creation_statements": [LOGIN, OWNS], "owned_objects": "fail" }));
    let [user, _, lease] = world.mint("owner");
    client.revoke(&lease).expect(204);
    let accept = format!("database/remnants/{}/accept", world.remnant().0);
    client.post(&accept, json!({})).expect(400);
    let accepted = client.post(&accept, json!({ "reason": "the audit wants its table" })).data();
    assert_eq!(
        (&accepted["state"], &accepted["accepted_because"]),
        (&json!("accepted"), &json!("the audit wants its table"))
    );
    assert!(world.remnants().is_empty());
    assert_eq!(world.users(), [user], "it stays, and nobody tries again");
}

#[test]
fn sessions_go_on_for_as_long_as_their_role_says() {
    let world = World::start();
    world.role("grace", json!({ "sessions": "grace:8s" }));
    world.role("keep", json!({ "sessions": "keep" }));
    let [user, password, lease] = world.mint("grace");
    let mut session = world.postgres.session(&user, &password);
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
    world.client.revoke(&lease).expect(204);
    let revoked = Instant::now();
    assert!(world.postgres.login(&user, &password, "SELECT 1").is_err(), "nobody new gets in");
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'");
    if world.remnants().iter().any(|remnant| remnant["state"] == "grace") {
        assert_eq!(session.one("SELECT 2").as_deref(), Some("2"));
    } else {
        assert!(revoked.elapsed() > Duration::from_secs(7), "no grace at all");
    }
    wait_for("the end of the grace", Duration::from_secs(90), || (!world.users().contains(&user)).then_some(()));
    assert!(revoked.elapsed() > Duration::from_secs(7), "{:?}", revoked.elapsed());
    assert_eq!((session.one("SELECT 3"), world.postgres.sql(&open)), (None, "0".to_owned()));
    wait_for("the record to be closed", Duration::from_secs(30), || world.remnants().is_empty().then_some(()));

    let [user, password, lease] = world.mint("keep");
    let mut session = world.postgres.session(&user, &password);
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
    world.client.revoke(&lease).expect(204);
    assert!(!world.users().contains(&user) && world.remnants().is_empty());
    assert_eq!(session.one("SELECT 2").as_deref(), Some("2"), "it was to be kept");
}
