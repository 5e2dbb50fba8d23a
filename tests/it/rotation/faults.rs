//! A database that refuses, hangs or takes no changes, and an operator who changes their mind: each time the answer says
//! what is wrong, and the stored password still opens the account.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::World;
use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Answer;
use crate::support::mariadb::{self, MariaDb};
use crate::support::redis::{self, Redis};
use crate::support::wait_for;

const SET: &str = "ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'";
const LIMIT: Duration = Duration::from_secs(30);

impl World {
    fn rotate(&self) -> Answer {
        self.client.post("database/rotate-role/st", json!({}))
    }

    /// The text of a rotation that fails.
    #[track_caller]
    fn rotate_in_vain(&self) -> String {
        error(&self.rotate())
    }

    #[track_caller]
    fn statements(&self, statements: Value) {
        self.client.post("database/static-roles/st", json!({ "rotation_statements": statements })).expect(204);
    }

    /// What is answered opens the account, now.
    #[track_caller]
    fn still_opens(&self) -> String {
        let password = self.served("st");
        assert!(self.opens("st", &password), "the stored password does not open the account");
        password
    }

    /// Waits until a session of the engine runs a statement.
    fn wait_for_statement(&self, statement: &str) {
        let ask = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
             AND query LIKE '{statement}'"
        );
        wait_for(statement, LIMIT, || (self.postgres.sql(&ask) != "0").then_some(()));
    }
}

#[track_caller]
fn error(answer: &Answer) -> String {
    assert!(answer.status >= 400, "no error: {} {}", answer.status, answer.body);
    answer.body["errors"][0].as_str().unwrap().to_owned()
}

#[test]
fn statements_that_fail_halfway_change_nothing() {
    let world = World::start();
    world.role("st", json!({ "rotation_period": 3600 }));
    let first = world.still_opens();
    world.statements(json!([SET, "SELECT 1/0"]));
    let refused = world.rotate_in_vain();
    assert!(refused.contains("division by zero"), "{refused}");
    assert_eq!(world.still_opens(), first);
    let shown = world.client.get("database/static-roles/st").data();
    assert!(shown["last_rotation_error"].as_str().unwrap().contains("division by zero"), "{shown}");
    world.statements(json!([SET]));
    world.rotate().expect(204);
    assert_ne!(world.still_opens(), first);

    world.connection("rr", "rooty", "rr").expect(204);
    let root = |statements: Value| {
        world.client.post("database/config/rr", json!({ "root_rotation_statements": statements })).expect(204);
        world.client.post("database/rotate-root/rr", json!({}))
    };
    let refused = error(&root(json!([SET, "SELECT 1/0"])));
    assert!(refused.contains("division by zero"), "{refused}");
    assert!(world.opens("rooty", "rr"));
    world.client.post("database/reset/rr", json!({})).expect(204);
    root(json!([SET])).expect(204);
    assert!(!world.opens("rooty", "rr"));
    world.client.post("database/reset/rr", json!({})).expect(204);
}

/// PostgreSQL checks the strength of passwords in a library; a function that the statements call is as good a judge.
#[test]
fn a_refused_password_is_followed_by_a_fresh_one() {
    let world = World::start();
    world.role("st", json!({ "rotation_period": 3600 }));
    let first = world.still_opens();
    world.postgres.sql(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION judge(password text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             IF length(password) < 12 THEN RAISE EXCEPTION 'too short'; END IF;
             IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'known as %', md5(password); END IF;
         END $$",
    );
    world.statements(json!([SET, "SELECT judge('{{password}}')"]));
    let refusals = [world.rotate_in_vain(), world.rotate_in_vain()];
    assert!(refusals.iter().all(|refusal| refusal.contains("known as")), "{refusals:?}");
    assert_ne!(refusals[0], refusals[1], "the same password again");
    assert_eq!(world.still_opens(), first);
    world.rotate().expect(204);
    let second = world.still_opens();
    assert_ne!(second, first);

    // A policy of the host that the database's does not go with, until somebody mends it.
    let policy = |length: u32| {
        let policy = format!("length = {length}\nrule \"charset\" {{ charset = \"abcdefghijklmnopqrstuvwxyz\" }}");
        world.client.post("sys/policies/password/letters", json!({ "policy": policy })).expect(204);
    };
    policy(8);
    let by_policy = json!({ "credential_config": { "password_policy": "letters" } });
    world.client.post("database/static-roles/st", by_policy).expect(204);
    for _ in 0..2 {
        let refused = world.rotate_in_vain();
        assert!(refused.contains("too short"), "{refused}");
        assert_eq!(world.still_opens(), second);
    }
    policy(14);
    world.rotate().expect(204);
    assert_eq!(world.still_opens().len(), 14);
}

#[test]
fn a_database_that_hangs_costs_time_and_nothing_else() {
    let world = World::start();
    world.client.post("database/config/pg", json!({ "connect_timeout": "2s", "statement_timeout": "2s" })).expect(204);
    world.role("st", json!({ "rotation_period": 3600 }));
    let first = world.still_opens();

    world.postgres.freeze();
    let begin = Instant::now();
    world.rotate_in_vain();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(world.served("st"), first, "what is stored is answered");
    world.postgres.thaw();
    assert_eq!(world.still_opens(), first);

    // In the middle of the statements, and in the middle of the commit: there the server alone knows what came of it.
    world.postgres.sql(
        "CREATE TABLE changes (account text);
         CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON changes DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION linger()",
    );
    let slow = "SELECT pg_sleep(1)";
    for (statements, seen) in
        [(json!([SET, slow]), "%pg_sleep%"), (json!([SET, "INSERT INTO changes VALUES ('{{username}}')"]), "COMMIT%")]
    {
        world.statements(statements);
        let answer = std::thread::scope(|scope| {
            let rotating = scope.spawn(|| world.rotate());
            world.wait_for_statement(seen);
            world.postgres.freeze();
            std::thread::sleep(Duration::from_secs(5));
            world.postgres.thaw();
            rotating.join().unwrap()
        });
        println!("frozen in {seen}: {} {}", answer.status, answer.body);
        wait_for("the account", LIMIT, || world.opens("st", &world.served("st")).then_some(()));
    }
    world.statements(json!([SET]));
    wait_for("a change", LIMIT, || (world.rotate().status == 204).then_some(()));
    world.still_opens();
}

/// What became of the database after a failover: every session is read-only.
#[test]
fn a_read_only_database_is_said_to_be_one() {
    let world = World::start();
    world.role("st", json!({ "rotation_period": 3600 }));
    world.connection("rr", "rooty", "rr").expect(204);
    let first = world.still_opens();
    let read_only = |set: &str, shown: &str| {
        world
            .postgres
            .sql(&format!("SET default_transaction_read_only = off; ALTER SYSTEM {set}; SELECT pg_reload_conf()"));
        wait_for(set, LIMIT, || (world.postgres.sql("SHOW default_transaction_read_only") == shown).then_some(()));
        for connection in ["pg", "rr"] {
            world.client.post(&format!("database/reset/{connection}"), json!({})).expect(204);
        }
    };
    read_only("SET default_transaction_read_only = on", "on");
    let refused = [world.rotate_in_vain(), error(&world.client.post("database/rotate-root/rr", json!({})))];
    assert!(refused.iter().all(|text| text.contains("read-only transaction")), "{refused:?}");
    assert_eq!(world.still_opens(), first);
    assert!(world.opens("rooty", "rr"));
    read_only("RESET default_transaction_read_only", "off");
    world.rotate().expect(204);
    assert_ne!(world.still_opens(), first);
    world.client.post("database/rotate-root/rr", json!({})).expect(204);
    assert!(!world.opens("rooty", "rr"));
}

#[test]
fn a_schedule_that_never_fires_is_refused() {
    let world = World::start();
    let never = json!({ "db_name": "pg", "username": "st", "rotation_schedule": "0 0 30 2 *" });
    let refused = world.client.post("database/static-roles/st", never.clone());
    assert_eq!(refused.status, 400);
    assert_eq!(error(&refused), "could not parse rotation_schedule: there is no such time");
    world.client.get("database/static-roles/st").expect(404);
    assert!(world.opens("st", "initial"));

    world.role("st", json!({ "rotation_schedule": "0 0 29 2 *" }));
    let shown = world.client.get("database/static-roles/st").data();
    assert!(shown["next_vault_rotation"].as_str().unwrap().contains("-02-29T00:00:20Z"), "{shown}");
    assert_eq!(world.client.post("database/static-roles/st", never).status, 400);
    assert_eq!(world.client.get("database/static-roles/st").data(), shown);
    world.still_opens();
}

#[test]
fn a_role_deleted_while_it_rotates_is_gone_and_can_come_back() {
    let world = World::start();
    let slow = json!({ "rotation_period": 5, "rotation_statements": ["SELECT pg_sleep(1)", SET] });
    let gone = || {
        assert_eq!(world.client.get("database/static-creds/st").status, 400);
        world.client.get("database/static-roles/st").expect(404);
    };
    world.role("st", slow.clone());

    // Whoever comes second waits.
    let answer = std::thread::scope(|scope| {
        let rotating = scope.spawn(|| world.rotate());
        world.wait_for_statement("%pg_sleep%");
        world.client.delete("database/static-roles/st").expect(204);
        rotating.join().unwrap()
    });
    answer.expect(204);
    gone();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'st'";
    let left = world.postgres.sql(verifier);
    // Longer than the period: nobody is left who would change it.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(world.postgres.sql(verifier), left);
    gone();
    world.role("st", slow.clone());
    world.still_opens();

    // Deleted after the plugin has died in the middle: what it had begun goes with the role.
    std::thread::scope(|scope| {
        scope.spawn(|| world.client.try_request("POST", "database/rotate-role/st", Some(&json!({})), &[]).ok());
        world.wait_for_statement("%pg_sleep%");
        for pid in world.bao.plugin_processes() {
            kill_process(pid, Signal::KILL).unwrap();
        }
    });
    wait_for("the role's end", LIMIT, || (world.client.delete("database/static-roles/st").status == 204).then_some(()));
    gone();
    world.role("st", slow);
    world.still_opens();

    // The connection of a root account, likewise.
    world.connection("rr", "rooty", "rr").expect(204);
    let slow = json!({ "root_rotation_statements": ["SELECT pg_sleep(1)", SET] });
    world.client.post("database/config/rr", slow).expect(204);
    std::thread::scope(|scope| {
        let rotating = scope.spawn(|| world.client.post("database/rotate-root/rr", json!({})));
        world.wait_for_statement("%pg_sleep%");
        world.client.delete("database/config/rr").expect(204);
        rotating.join().unwrap().expect(204);
    });
    world.client.get("database/config/rr").expect(404);
    world.still_opens();
}

/// An account that does not open, whatever its password: its time is over, it is locked, anybody may come in, or it is for
/// other hosts. The server's own word counts then, and no attempt is the last one.
#[test]
fn accounts_that_nobody_can_log_in_to_are_changed_all_the_same() {
    let world = World::start();
    world.postgres.sql("ALTER ROLE st VALID UNTIL '2001-01-01'");
    world.role("st", json!({ "rotation_period": 3600 }));
    for _ in 0..12 {
        world.rotate().expect(204);
    }
    assert!(!world.opens("st", &world.served("st")));
    world.postgres.sql("ALTER ROLE st VALID UNTIL 'infinity' NOLOGIN");
    world.rotate().expect(204);
    world.postgres.sql("ALTER ROLE st LOGIN");
    world.still_opens();

    let server = MariaDb::start();
    server.sql("CREATE USER st@'10.1.2.3' IDENTIFIED BY 'initial'");
    let config = json!({ "plugin_name": "mysql-database-plugin", "connection_url": server.url(), "allowed_roles": "*",
                         "username": mariadb::ADMIN, "password": mariadb::ADMIN_PASSWORD });
    world.client.post("database/config/my", config).expect(204);
    let elsewhere = json!({ "db_name": "my", "username": "st", "rotation_period": 3600 });
    world.client.post("database/static-roles/elsewhere", elsewhere).expect(204);
    for _ in 0..12 {
        world.client.post("database/rotate-role/elsewhere", json!({})).expect(204);
    }
    server.sql("RENAME USER st@'10.1.2.3' TO st@'%'");
    let password = world.served("elsewhere");
    assert!(server.login("st", &password, "SELECT 1").is_ok());
    server.sql("ALTER USER st@'%' ACCOUNT LOCK");
    world.client.post("database/rotate-role/elsewhere", json!({})).expect(204);
    server.sql("ALTER USER st@'%' ACCOUNT UNLOCK");
    assert!(server.login("st", &world.served("elsewhere"), "SELECT 1").is_ok());

    let server = Redis::start();
    server.command(&["ACL", "SETUSER", "st", "off", ">initial", "+ping"]);
    let config = json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": server.port(),
                         "allowed_roles": "*", "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD });
    world.client.post("database/config/rd", config).expect(204);
    let off = json!({ "db_name": "rd", "username": "st", "rotation_period": 3600 });
    world.client.post("database/static-roles/off", off).expect(204);
    for _ in 0..12 {
        world.client.post("database/rotate-role/off", json!({})).expect(204);
    }
    server.command(&["ACL", "SETUSER", "st", "on"]);
    assert!(server.login("st", &world.served("off"), &["PING"]).is_ok());
}

/// Redis has the new password, and a restart brings the old one back.
#[test]
fn a_redis_that_cannot_write_its_users_down_may_forget_the_change() {
    let mut redis = Redis::start();
    for (user, password) in [("st", "initial"), ("rooty", "rr")] {
        let made = ["ACL", "SETUSER", user, "on", &format!(">{password}"), "~*", "&*", "+@all"];
        redis.command(&made);
    }
    redis.command(&["ACL", "SAVE"]);
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    let connection = json!({ "plugin_name": "valkey-database-plugin", "host": "127.0.0.1", "port": redis.port(),
                             "username": "rooty", "password": "rr", "allowed_roles": "*",
                             "persistence_mode": "aclfile" });
    client.post("database/config/rd", connection).expect(204);
    let role = json!({ "db_name": "rd", "username": "st", "rotation_period": 3600 });
    client.post("database/static-roles/st", role).expect(204);
    let served = || client.get("database/static-creds/st").data()["password"].as_str().unwrap().to_owned();
    let opens = |redis: &Redis| redis.login("st", &served(), &["PING"]).is_ok();
    let first = served();

    redis.block_users_file();
    for path in ["rotate-role/st", "rotate-root/rd"] {
        client.post(&format!("database/{path}"), json!({})).expect(204);
    }
    assert!(served() != first && opens(&redis));
    redis.stop();
    redis.restore_users_file();
    redis.start_again();
    assert!(redis.login("st", &first, &["PING"]).is_ok(), "the server has written something down after all");
    wait_for("the account", LIMIT, || opens(&redis).then_some(()));
    wait_for("the connection", LIMIT, || (client.post("database/reset/rd", json!({})).status == 204).then_some(()));
    for path in ["rotate-role/st", "rotate-root/rd"] {
        client.post(&format!("database/{path}"), json!({})).expect(204);
    }
    redis.stop();
    redis.start_again();
    assert!(opens(&redis) && served() != first);
    wait_for("the connection", LIMIT, || (client.post("database/reset/rd", json!({})).status == 204).then_some(()));
}
