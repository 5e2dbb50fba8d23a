//! Limits on how many users there are, and connections that are still needed, through the real host.

use std::time::Duration;

use serde_json::{Value, json};

use crate::drivers::{self, mint, mounted};
use crate::ending::World;
use crate::support::client::{Answer, Client};
use crate::support::postgres::Postgres;
use crate::support::redis::{self, Redis};
use crate::support::wait_for;

const CLIENTS: usize = 64;
const LIMIT: usize = 7;

/// A client whose token has an entity of its own.
fn person(client: &Client, name: &str) -> Client {
    if client.get("sys/auth").data()["userpass/"].is_null() {
        client.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
        let rules = "path \"database/creds/*\" { capabilities = [\"read\"] }";
        client.post("sys/policies/acl/reader", json!({ "policy": rules })).expect(204);
    }
    let user = json!({ "password": "p", "token_policies": "reader" });
    client.post(&format!("auth/userpass/users/{name}"), user).expect(204);
    let login = client.post(&format!("auth/userpass/login/{name}"), json!({ "password": "p" })).expect(200);
    client.with_token(login["auth"]["client_token"].as_str().unwrap())
}

/// All at once; gives back those that got a credential.
fn rush(client: &Client) -> Vec<Answer> {
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let reading: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client.get("database/creds/app"))).collect();
        reading.into_iter().map(|reading| reading.join().unwrap()).collect()
    });
    let (minted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    for answer in refused {
        assert_full(answer, "max_live_users is 7");
    }
    minted
}

#[track_caller]
fn assert_full(answer: Answer, limit: &str) {
    assert!(answer.status == 429 && answer.body.to_string().contains(limit), "{answer:?}");
}

fn held(client: &Client, users: impl Fn() -> usize, restart: impl Fn()) {
    client.post("database/roles/app", json!({ "max_live_users": LIMIT })).expect(204);
    let minted = rush(client);
    assert_eq!((minted.len(), users()), (LIMIT, LIMIT));
    let lease = minted[0].body["lease_id"].as_str().unwrap();
    client.revoke(lease).expect(204);
    assert_eq!((rush(client).len(), users()), (1, LIMIT));
    // A new process counts what it finds.
    restart();
    assert_eq!((rush(client).len(), users()), (0, LIMIT));
    // The same for the whole connection.
    client.post("database/roles/app", json!({ "max_live_users": 0 })).expect(204);
    let connection = client.get("database/roles/app").data()["db_name"].as_str().unwrap().to_owned();
    let connection = format!("database/config/{connection}");
    client.post(&connection, json!({ "max_live_users": LIMIT })).expect(204);
    assert_eq!((rush(client).len(), users()), (0, LIMIT));
    assert_eq!(client.get(&connection).data()["max_live_users"], LIMIT);

    let refused = client.delete(&connection).expect(400).to_string();
    assert!(refused.contains("still needed by 7 live users") && refused.contains("force=true"), "{refused}");
    client.get(&connection).expect(200);
    client.post("sys/leases/revoke-prefix/database/creds/app", json!({})).expect(204);
    client.delete(&connection).expect(204);
    client.get(&connection).expect(404);
}

fn restart(client: &Client) {
    client.post("sys/plugins/reload/backend", json!({ "mounts": ["database/"] })).expect(200);
}

#[test]
fn a_limit_holds_however_many_ask_in_postgresql() {
    let world = World::start();
    held(&world.client, || world.users().len(), || restart(&world.client));
}

#[test]
fn a_limit_holds_however_many_ask_in_mariadb() {
    let (server, _bao, client) = drivers::with_mariadb(json!({}));
    let users = || server.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'v-%'").parse().unwrap();
    held(&client, users, || restart(&client));
}

#[test]
fn a_limit_holds_however_many_ask_in_redis() {
    let server = Redis::start();
    let (_bao, client) = mounted();
    let connection = json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": server.port(),
                             "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD, "allowed_roles": "*" });
    client.post("database/config/cache", connection).expect(204);
    client.post("database/roles/app", json!({ "db_name": "cache" })).expect(204);
    let users = || server.users().iter().filter(|line| line.starts_with("user V_")).count();
    held(&client, users, || restart(&client));
}

#[test]
fn each_entity_has_a_limit_of_its_own_and_a_newer_user_ends_the_one_before() {
    let world = World::start();
    world.role("app", json!({ "max_active": 2 }));
    let (ann, bob) = (person(&world.client, "ann"), person(&world.client, "bob"));
    for client in [&ann, &bob] {
        mint(client, "app");
        mint(client, "app");
        assert_full(client.get("database/creds/app"), "max_active is 2");
    }

    world.role("loop", json!({ "on_new_issue": "supersede", "supersede_overlap": "4s", "max_active": 3 }));
    let [first, _, lease] = mint(&ann, "loop");
    let [others, ..] = mint(&bob, "loop");
    let [second, ..] = mint(&ann, "loop");
    assert!(world.users().contains(&first), "it has some seconds");
    wait_for("the end of the first", Duration::from_secs(40), || (!world.users().contains(&first)).then_some(()));
    assert!(world.users().contains(&second) && world.users().contains(&others));
    // The host has a lease of it still: no renewal brings it back, and its end is a success.
    assert_ne!(world.client.renew(&lease, 60).status, 200);
    world.client.revoke(&lease).expect(204);

    // A process that dies in between leaves it to the next one.
    let [third, ..] = mint(&ann, "loop");
    restart(&world.client);
    wait_for("the end of the second", Duration::from_secs(40), || {
        let _ = world.client.get("database/config/pg");
        (!world.users().contains(&second)).then_some(())
    });
    assert!(world.users().contains(&third) && world.users().contains(&others));
}

#[test]
fn a_connection_is_not_pointed_away_from_its_users_or_deleted_while_it_cannot_be_asked() {
    let mut world = World::start();
    let other = Postgres::start();
    let client = world.bao.client();
    let [user, password, lease] = world.mint("app");
    let away = |force: Value| json!({ "connection_url": other.url(), "force": force });
    let refused = client.post("database/config/pg", away(json!(false))).expect(400).to_string();
    assert!(
        refused.contains("still needed by 1 live user:") && refused.contains("pointed at another server"),
        "{refused}"
    );
    client.post("database/config/pg", json!({ "max_open_connections": 3 })).expect(204);
    let same = world.postgres.url().replace("/postgres?", "/template1?");
    client.post("database/config/pg", json!({ "connection_url": same })).expect(204);
    assert!(world.postgres.login(&user, &password, "SELECT 1").is_ok());

    world.postgres.stop();
    let refused = client.delete("database/config/pg").expect(400).to_string();
    assert!(refused.contains("cannot be asked") && refused.contains("force=true"), "{refused}");
    world.postgres.start_again();
    client.post("database/config/pg", away(json!(true))).expect(204);
    client.post("database/config/pg", json!({ "connection_url": world.postgres.url() })).expect(204);
    client.revoke(&lease).expect(204);
    assert!(world.users().is_empty());
    world.mint("app");
    client.delete("database/config/pg?force=true").expect(204);
    client.get("database/config/pg").expect(404);
}
