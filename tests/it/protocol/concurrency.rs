//! Many requests at once, and databases that do not answer.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{CREATION, World, connection, mint, role, users};
use crate::support::postgres::Postgres;
use crate::support::wait_for;

#[test]
fn requests_to_one_connection_run_beside_each_other() {
    const CLIENTS: u32 = 8;
    const EACH: Duration = Duration::from_millis(500);
    let world = World::start();
    world.connect("db/config/pg", json!({ "max_open_connections": CLIENTS }));
    world.role("db/roles/app", json!({ "creation_statements": ["SELECT pg_sleep(0.5)", CREATION] }));
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| mint(&world.client, "db/creds/app"));
        }
    });
    let took = begin.elapsed();
    assert!(took >= EACH, "the statements did not wait: {took:?}");
    assert!(took < CLIENTS * EACH / 2, "one after the other: {took:?}");
    assert_eq!(world.users().len(), CLIENTS as usize);
}

#[test]
fn a_database_that_hangs_fails_in_time_and_holds_nobody_else_up() {
    let world = World::start();
    let hung = Postgres::start();
    let limits = json!({ "connect_timeout": "3s", "statement_timeout": "3s" });
    world.client.post("db/config/hung", connection(&hung, limits)).expect(204);
    for (name, creation) in [("quick", json!(CREATION)), ("slow", json!([CREATION, "SELECT pg_sleep(0.9)"]))] {
        let fields = json!({ "db_name": "hung", "creation_statements": creation });
        world.client.post(&format!("db/roles/{name}"), role(fields)).expect(204);
    }
    mint(&world.client, "db/creds/quick");

    // Each gives back its error, and how long that took.
    let fails = |path: &str| {
        let begin = Instant::now();
        let answer = world.client.get(path);
        assert_eq!(answer.status, 500, "{}", answer.body);
        (answer.body.to_string(), begin.elapsed())
    };
    thread::scope(|scope| {
        let caught = scope.spawn(|| fails("db/creds/slow"));
        // Its user is made, and not yet committed.
        wait_for("the slow statement", Duration::from_secs(5), || {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            (hung.sql(running) == "1").then_some(())
        });
        hung.freeze();
        let late = [scope.spawn(|| fails("db/creds/quick")), scope.spawn(|| fails("db/creds/quick"))];
        let begin = Instant::now();
        for _ in 0..5 {
            mint(&world.client, "db/creds/app");
        }
        let took = begin.elapsed();
        // Nobody waited for what hangs, which hangs still.
        assert!(!caught.is_finished(), "held up for {took:?}");

        let (error, took) = caught.join().unwrap();
        assert!(error.contains("statement_timeout"), "{error}");
        assert!(took < Duration::from_secs(15), "{took:?}");
        for late in late {
            let (error, took) = late.join().unwrap();
            assert!(error.contains("connect_timeout") || error.contains("statement_timeout"), "{error}");
            assert!(took < Duration::from_secs(15), "{took:?}");
        }
    });
    hung.thaw();
    // Nothing of the creation that hung remains, and the connection has recovered by itself.
    wait_for("the server to give up what was cut", Duration::from_secs(10), || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle'";
        (hung.sql(running) == "1").then_some(())
    });
    assert_eq!(users(&hung).len(), 1, "{:?}", users(&hung));
    mint(&world.client, "db/creds/quick");
}

/// GRANT and DROP write rows that others write too, and PostgreSQL fails whoever comes second. Two connections to the
/// same server know nothing of each other.
#[test]
fn nobody_is_failed_by_somebody_elses_grant() {
    const CLIENTS: usize = 16;
    const READS: usize = 7;
    let world = World::start();
    let tables: Vec<String> = (0..12).map(|i| format!("CREATE TABLE t{i} (x int)")).collect();
    world.postgres.sql(&tables.join(";"));
    world.postgres.sql(
        "CREATE FUNCTION admit(who text) RETURNS void LANGUAGE plpgsql AS
         $$ BEGIN EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA public TO %I', who); END $$",
    );
    // The second is in a function, where it cannot be seen.
    let grants =
        [("pg", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{{name}}\""), ("same", "SELECT admit('{{name}}')")];
    for (name, grant) in grants {
        world.connect(&format!("db/config/{name}"), json!({ "max_open_connections": 8 }));
        let fields = json!({ "db_name": name, "creation_statements": [CREATION, grant] });
        world.role(&format!("db/roles/{name}"), fields);
    }
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (world, failures) = (&world, &failures);
            scope.spawn(move || {
                for read in 0..READS {
                    let name = if (client + read) % 2 == 0 { "pg" } else { "same" };
                    let answer = world.client.get(&format!("db/creds/{name}"));
                    if answer.status != 200 {
                        failures.lock().unwrap().push(format!("read: {} {}", answer.status, answer.body));
                        continue;
                    }
                    let lease = answer.body["lease_id"].as_str().unwrap();
                    let ended = world.client.revoke(lease);
                    if ended.status != 204 {
                        failures.lock().unwrap().push(format!("revoke: {} {}", ended.status, ended.body));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} reads and revokes:\n{}",
        failures.len(),
        2 * CLIENTS * READS,
        failures.join("\n")
    );
    assert!(world.users().is_empty());
}
