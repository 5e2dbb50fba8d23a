//! Clients that leave in the middle of a request.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{CREATION, World};
use crate::support::bao::ROOT_TOKEN;
use crate::support::wait_for;

/// The variable that repeats a run.
const SEED: &str = "LEASEHOLD_TEST_SEED";
/// Clients, each with its own moment. A creation takes about half of the longest.
const ROUNDS: u64 = 24;
const LONGEST_MILLISECONDS: u64 = 700;

/// The next number of a sequence (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => u64::from_ne_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap()),
    }
}

#[test]
fn a_client_that_leaves_leaves_no_user_without_a_lease() {
    let mut state = seed();
    eprintln!("{SEED}={state}");
    let world = World::start();
    // A statement that takes its time when the transaction is committed.
    world.postgres.sql(
        "CREATE TABLE made (name text);
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON made DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION slow();",
    );
    world.connect("db/config/pg", json!({ "max_open_connections": 8 }));
    let sleep = "SELECT pg_sleep(0.15)";
    let note = "INSERT INTO made VALUES ('{{name}}')";
    let places = [
        ("before", json!([sleep, sleep, CREATION])),
        ("after", json!([CREATION, sleep, sleep])),
        ("around", json!([sleep, CREATION, sleep])),
        ("at-commit", json!([CREATION, note])),
        ("quick", json!(CREATION)),
    ];
    for (name, creation) in &places {
        world.role(&format!("db/roles/{name}"), json!({ "creation_statements": creation }));
    }

    let host = world.bao.address().strip_prefix("http://").unwrap();
    thread::scope(|scope| {
        for round in 0..ROUNDS {
            let (role, moment) = (places[round as usize % places.len()].0, next(&mut state) % LONGEST_MILLISECONDS);
            let (begin, abrupt) = (next(&mut state) % 300, next(&mut state) % 2 == 0);
            scope.spawn(move || {
                // These are the moments, not waiting for anything.
                thread::sleep(Duration::from_millis(begin));
                let mut stream = TcpStream::connect(host).unwrap();
                let request =
                    format!("GET /v1/db/creds/{role} HTTP/1.1\r\nHost: {host}\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(moment));
                if !abrupt {
                    stream.shutdown(Shutdown::Write).unwrap();
                }
            });
        }
    });
    // The mount is closed once its work is done.
    world.client.post("sys/plugins/reload/backend", json!({ "mounts": ["db/"] })).expect(200);
    let leases = || -> usize {
        let of = |role: &str| {
            world.client.list(&format!("sys/leases/lookup/db/creds/{role}")).body["data"]["keys"]
                .as_array()
                .map_or(0, Vec::len)
        };
        places.iter().map(|(role, _)| of(role)).sum()
    };
    wait_for("as many users as leases", Duration::from_secs(10), || {
        let (users, leases) = (world.users().len(), leases());
        (users == leases).then_some(())
    });
    let minted = world.postgres.log().matches("COMMENT ON ROLE").count();
    let kept = leases();
    eprintln!("{ROUNDS} clients left; {minted} users were begun, {kept} leases were given");
    assert!(minted > kept, "nobody left in the middle: the test has lost its point");
    world.client.post("sys/leases/revoke-prefix/db/creds", json!({ "sync": true })).expect(204);
    assert_eq!(world.users(), Vec::<String>::new());
}
