//! Clients that leave in the middle of a request.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{CREATION, World, mint};
use crate::support::bao::ROOT_TOKEN;
use crate::support::wait_for;

/// The variable that repeats a run.
const SEED: &str = "LEASEHOLD_TEST_SEED";
/// How many clients leave.
const ROUNDS: usize = 24;
/// How many of them are there at a time.
const CLIENTS: usize = 8;
/// The last moment to leave. A slow creation takes about half of that.
const LONGEST: Duration = Duration::from_millis(700);

/// The next number of a sequence (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn seed() -> u64 {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => u64::from_ne_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap()),
    };
    eprintln!("{SEED}={seed} repeats these moments");
    seed
}

#[test]
fn a_client_that_leaves_leaves_no_user_without_a_lease() {
    let mut state = seed();
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

    leave(&world, &mut state, ROUNDS, LONGEST, |round| places[round % places.len()].0);
    settled(&world, &places.map(|(role, _)| role));
}

/// The host's word that the caller has left, and the plugin's answer, meet on the way.
#[test]
fn a_client_that_leaves_as_the_answer_comes_leaves_no_user_without_a_lease() {
    let mut state = seed();
    let world = World::start();
    let begin = Instant::now();
    for _ in 0..5 {
        mint(&world.client, "db/creds/app");
    }
    // Most of what takes the time is the way to the plugin and through it.
    leave(&world, &mut state, 5 * ROUNDS, begin.elapsed(), |_| "app");
    settled(&world, &["app"]);
}

/// Clients that read a credential of some role and leave after some time, up to `longest`.
fn leave(world: &World, state: &mut u64, clients: usize, longest: Duration, role: impl Fn(usize) -> &'static str) {
    let host = world.bao.address().strip_prefix("http://").unwrap();
    let moments: Vec<_> =
        (0..clients).map(|client| (role(client), next(state), next(state).is_multiple_of(2))).collect();
    let moments = Mutex::new(moments.into_iter());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some((role, moment, abrupt)) = { moments.lock().unwrap().next() } {
                    let mut stream = TcpStream::connect(host).unwrap();
                    let head = format!(
                        "GET /v1/db/creds/{role} HTTP/1.1\r\nHost: {host}\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\r\n"
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    // This is the moment; nothing is waited for.
                    thread::sleep(longest.mul_f64((moment % 1000) as f64 / 1000.0));
                    if !abrupt {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
            });
        }
    });
}

/// Once the plugin has nothing more to do, there is a lease for each user, and it ends that user.
fn settled(world: &World, roles: &[&str]) {
    // The mount is closed when its work is done.
    world.client.post("sys/plugins/reload/backend", json!({ "mounts": ["db/"] })).expect(200);
    let leases = || {
        let leases = roles.iter().map(|role| world.client.list(&format!("sys/leases/lookup/db/creds/{role}")).body);
        leases.map(|body| body["data"]["keys"].as_array().map_or(0, Vec::len)).sum::<usize>()
    };
    wait_for("as many users as leases", Duration::from_secs(10), || (world.users().len() == leases()).then_some(()));
    let (made, kept) = (world.postgres.log().matches("COMMENT ON ROLE").count(), leases());
    eprintln!("{made} users were begun, {kept} leases were given");
    assert!(made > kept, "nobody left in the middle: the test has lost its point");
    world.client.post("sys/leases/revoke-prefix/db/creds", json!({ "sync": true })).expect(204);
    assert_eq!(world.users(), Vec::<String>::new());
}
