//! Static roles and rotation through the real host: what happens by itself, and what is left when the plugin is killed.

mod faults;
mod overlap;
mod root;

use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::wait_for;

/// A host with our engine at `database/`, and a database with an account for the tests.
struct World {
    postgres: Postgres,
    bao: Bao,
    client: Client,
}

impl World {
    fn start() -> World {
        let postgres = Postgres::start();
        postgres.sql("CREATE ROLE st LOGIN PASSWORD 'initial'; CREATE ROLE rooty LOGIN SUPERUSER PASSWORD 'rr'");
        let bao = Bao::start();
        bao.register();
        bao.mount("database", PLUGIN);
        let client = bao.client();
        let world = World { postgres, bao, client };
        world.connection("pg", ADMIN, ADMIN_PASSWORD).expect(204);
        world
    }

    fn connection(&self, name: &str, user: &str, password: &str) -> crate::support::client::Answer {
        self.client.post(
            &format!("database/config/{name}"),
            json!({ "plugin_name": "postgresql-database-plugin", "connection_url": self.postgres.url(),
                    "username": user, "password": password, "allowed_roles": "*" }),
        )
    }

    fn role(&self, name: &str, more: Value) {
        let mut body = json!({ "db_name": "pg", "username": "st" });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.client.post(&format!("database/static-roles/{name}"), body).expect(204);
    }

    /// The password that the engine answers with; waits for a plugin that has just been killed.
    fn served(&self, name: &str) -> String {
        wait_for("an answer", Duration::from_secs(10), || {
            let answer = self.client.get(&format!("database/static-creds/{name}"));
            answer.body["data"]["password"].as_str().map(str::to_owned)
        })
    }

    fn opens(&self, user: &str, password: &str) -> bool {
        self.postgres.login(user, password, "SELECT 1").is_ok()
    }
}

#[test]
fn a_password_changes_by_itself() {
    let world = World::start();
    world.role("st", json!({ "rotation_period": 5 }));
    let first = world.served("st");
    assert!(world.opens("st", &first));
    let second = wait_for("a change", Duration::from_secs(20), || Some(world.served("st")).filter(|p| *p != first));
    assert!(world.opens("st", &second) && !world.opens("st", &first));
    let log = world.postgres.log();
    assert!(!log.contains(&second), "the database's log shows a password");
}

#[test]
fn a_schedule_fires() {
    let world = World::start();
    world.role("st", json!({ "rotation_schedule": "* * * * *", "rotation_timezone": "UTC" }));
    let first = world.served("st");
    let shown = world.client.get("database/static-roles/st").data();
    assert!(shown["next_vault_rotation"].as_str().unwrap().ends_with(":00Z"), "{shown}");
    let second = wait_for("the minute", Duration::from_secs(75), || Some(world.served("st")).filter(|p| *p != first));
    assert!(world.opens("st", &second) && !world.opens("st", &first));
}

/// A user that goes and comes back: the error can be seen, and ends by itself.
#[test]
fn a_rotation_that_fails_is_seen_and_tried_again() {
    let world = World::start();
    world.role("st", json!({ "rotation_period": 5 }));
    world.postgres.sql("ALTER ROLE st RENAME TO elsewhere");
    let error = wait_for("an error", Duration::from_secs(20), || {
        let shown = world.client.get("database/static-roles/st").data();
        shown["last_rotation_error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("role \"st\" does not exist"), "{error}");
    world.postgres.sql("ALTER ROLE elsewhere RENAME TO st");
    wait_for("recovery", Duration::from_secs(30), || {
        let shown = world.client.get("database/static-roles/st").data();
        shown["last_rotation_error"].is_null().then_some(())
    });
    assert!(world.opens("st", &world.served("st")));
}

/// Written again with the password from before a rotation, as a tool does that keeps the configuration in files.
#[test]
fn a_connection_survives_its_own_configuration() {
    let world = World::start();
    world.connection("rr", "rooty", "rr").expect(204);
    let mut session = world.postgres.session("rooty", "rr");
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
    world.client.post("database/rotate-root/rr", json!({})).expect(204);
    assert!(!world.opens("rooty", "rr"));
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"), "open sessions go on");
    for _ in 0..2 {
        let answer = world.connection("rr", "rooty", "rr").expect(200);
        assert!(answer["warnings"][0].as_str().unwrap().contains("replaced by rotate-root"), "{answer}");
        world.client.post("database/reset/rr", json!({})).expect(204);
        world.client.post("database/rotate-root/rr", json!({})).expect(204);
    }
}

/// The plugin is killed again and again, at random moments of rotations whose window is held open; whatever was
/// under way, the account opens with what is answered afterwards.
#[test]
fn no_password_is_lost_when_the_plugin_is_killed() {
    const KILLS: u32 = 20;
    let seed = std::env::var("LEASEHOLD_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs()));
    println!("LEASEHOLD_SEED={seed}");
    let mut random = seed;
    let mut below = move |limit: u64| {
        // SplitMix64: any seed will do.
        random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    };
    let world = World::start();
    let slow = |set: &str| json!([set, "SELECT pg_sleep(0.05)"]);
    let set = "ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'";
    world.role("st", json!({ "rotation_period": 3600, "rotation_statements": slow(set) }));
    world.connection("rr", "rooty", "rr").expect(204);
    world.client.post("database/config/rr", json!({ "root_rotation_statements": slow(set) })).expect(204);
    world
        .client
        .post(
            "database/roles/byrr",
            json!({ "db_name": "rr", "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN" }),
        )
        .expect(204);

    // How long either takes in a plugin that has just been started, which also has to connect: the kills are spread over
    // the time from when that is done until well after the end: what a kill has left open is settled first, and takes time.
    let paths = ["database/rotate-role/st", "database/rotate-root/rr"];
    let windows = paths.map(|path| {
        world.bao.plugin_processes().iter().for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
        world.served("st");
        let begin = Instant::now();
        world.client.post(path, json!({})).expect(204);
        begin.elapsed()
    });
    println!("undisturbed: {windows:?}");

    let verifiers =
        "SELECT string_agg(rolpassword, ' ' ORDER BY rolname) FROM pg_authid WHERE rolname IN ('st', 'rooty')";
    let (mut changed, mut lost) = (0, 0);
    for round in 0..KILLS {
        let turn = usize::from(round % 2 == 1);
        let path = paths[turn];
        let slot = (f64::from(round / 2) + below(1000) as f64 / 1000.0) / f64::from(KILLS / 2);
        let delay = windows[turn].mul_f64(0.4 + 5.0 * slot);
        world.served("st");
        let before = world.postgres.sql(verifiers);
        let pids = world.bao.plugin_processes();
        assert!(!pids.is_empty(), "no plugin runs");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Its answer, if any, says nothing of what has happened.
                let _ = world.client.try_request("POST", path, Some(&json!({})), &[]);
            });
            std::thread::sleep(delay);
            for pid in &pids {
                let _ = kill_process(*pid, Signal::KILL);
            }
        });
        // The host starts the plugin again at the next request; then it is a matter of seconds.
        let settled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the user's account", Duration::from_secs(30), || {
                let answer = world.client.get("database/static-creds/st");
                let password = answer.body["data"]["password"].as_str()?.to_owned();
                world.opens("st", &password).then_some(())
            });
            wait_for("root's account", Duration::from_secs(30), || {
                let reset = world.client.post("database/reset/rr", json!({})).status == 204;
                (reset && world.client.get("database/creds/byrr").status == 200).then_some(())
            });
        }));
        if settled.is_err() {
            lost += 1;
            println!("round {round}: {path}, killed after {delay:?}");
        }
        changed += u32::from(world.postgres.sql(verifiers) != before);
    }
    let finished = world.bao.log().matches("an interrupted password change is brought to its end").count();
    println!(
        "{KILLS} kills, {changed} of them after the database had changed the password, {finished} in between and brought \
         to their end, {lost} passwords lost"
    );
    assert!(changed > 0, "no password changed before a kill: {changed} of {KILLS}");
    assert_eq!(lost, 0, "LEASEHOLD_SEED={seed}");
}
