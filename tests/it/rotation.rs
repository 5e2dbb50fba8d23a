//! Static roles and rotation through the real host: what happens by itself, and what is left when the plugin is killed.

mod alone;
mod faults;
mod overlap;
mod root;

use std::time::Duration;

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
    assert!(shown["next_vault_rotation"].as_str().unwrap().ends_with(":01Z"), "a second of jitter: {shown}");
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

/// Where in a change the plugin is killed. What the database shows says when.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// The database is at the statements.
    Before,
    /// It has committed the new password, and the login that would prove it has to wait.
    Between,
    /// The change was confirmed to who asked.
    After,
}

/// The plugin is killed at each kind of moment of a change; afterwards the account opens with what is answered.
#[test]
fn no_password_is_lost_when_the_plugin_is_killed() {
    const LIMIT: Duration = Duration::from_secs(60);
    let world = World::start();
    let slow = ["SELECT pg_sleep(0.2)", "ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'", "SELECT pg_sleep(0.2)"];
    world.role("st", json!({ "rotation_period": 3600, "rotation_statements": slow }));
    world.connection("rr", "rooty", "rr").expect(204);
    world.client.post("database/config/rr", json!({ "root_rotation_statements": slow })).expect(204);
    let minting = json!({ "db_name": "rr", "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN" });
    world.client.post("database/roles/byrr", minting).expect(204);

    let verifiers =
        "SELECT string_agg(rolpassword, ' ' ORDER BY rolname) FROM pg_authid WHERE rolname IN ('st', 'rooty')";
    let at_work = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' \
                   AND pid <> pg_backend_pid()";
    // One session for all questions: new ones have to wait when logins do.
    let mut watching = world.postgres.session(ADMIN, ADMIN_PASSWORD);
    let delay = |seconds: u32| {
        let set = format!("ALTER SYSTEM SET pre_auth_delay = {seconds}; SELECT pg_reload_conf()");
        world.postgres.sql(&set);
    };
    let mut changed = 0;
    let moments = [Moment::Before, Moment::Between, Moment::After];
    let kills = ["rotate-role/st", "rotate-root/rr"].map(|path| moments.map(|moment| (path, moment)));
    for (path, moment) in kills.into_iter().flatten() {
        world.served("st");
        wait_for("the connection", LIMIT, || (world.client.get("database/creds/byrr").status == 200).then_some(()));
        let before = watching.one(verifiers);
        let pids = world.bao.plugin_processes();
        assert!(!pids.is_empty(), "no plugin runs");
        if moment == Moment::Between {
            delay(2);
        }
        std::thread::scope(|scope| {
            // Its answer, if any, says nothing of what has happened.
            let path = format!("database/{path}");
            let rotating = scope.spawn(|| world.client.try_request("POST", &{ path }, Some(&json!({})), &[]));
            match moment {
                Moment::Before => wait_for("the statements", LIMIT, || {
                    watching.one(at_work).is_some_and(|count| count != "0").then_some(())
                }),
                Moment::Between => {
                    wait_for("the commit", LIMIT, || (watching.one(verifiers) != before).then_some(()));
                    assert!(!rotating.is_finished(), "confirmed before it was proven");
                }
                Moment::After => wait_for("the answer", LIMIT, || rotating.is_finished().then_some(())),
            }
            for pid in &pids {
                kill_process(*pid, Signal::KILL).unwrap();
            }
        });
        if moment == Moment::Between {
            delay(0);
        }
        // The host starts the plugin again at the next request.
        wait_for(&format!("the user's account after {path}, killed {moment:?}"), LIMIT, || {
            let answer = world.client.get("database/static-creds/st");
            let password = answer.body["data"]["password"].as_str()?.to_owned();
            world.opens("st", &password).then_some(())
        });
        wait_for(&format!("root's account after {path}, killed {moment:?}"), LIMIT, || {
            let reset = world.client.post("database/reset/rr", json!({})).status == 204;
            (reset && world.client.get("database/creds/byrr").status == 200).then_some(())
        });
        let now_other = watching.one(verifiers) != before;
        assert!(now_other || moment == Moment::Before, "{path}, killed {moment:?}: the change was undone");
        changed += u32::from(now_other);
    }
    let finished = world.bao.log().matches("an interrupted password change is brought to its end").count();
    println!("{} kills, {changed} after the database had committed, {finished} settled", kills.len() * moments.len());
    assert!(finished >= kills.len(), "{finished} changes were settled");
}
