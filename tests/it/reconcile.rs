//! Users that nobody has a lease for: what is found, what is left alone, and what a plugin leaves that is killed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::ending::{LOGIN, World};
use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::mariadb::MariaDb;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD};
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

impl World {
    /// Makes a user's marker say that its time is long over.
    fn is_overdue(&self, user: &str) {
        let comment = self.comment(user);
        let (head, rest) = comment.split_once("\"expires\":").unwrap();
        let tail = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        self.set_comment(user, &format!("{head}\"expires\":1000000000{tail}"));
    }

    fn comment(&self, user: &str) -> String {
        self.postgres.sql(&format!("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = '{user}'"))
    }

    fn set_comment(&self, user: &str, comment: &str) {
        self.postgres.sql(&format!("COMMENT ON ROLE \"{user}\" IS '{}'", comment.replace('\'', "''")));
    }

    fn there(&self, user: &str) -> bool {
        self.postgres.sql(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{user}'")) == "1"
    }
}

/// What `reconcile/:name` says of each user.
fn told(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    answer["users"].as_array().unwrap().iter().map(|user| (text(&user["username"]), text(&user["action"]))).collect()
}

#[test]
fn only_users_of_this_mount_that_outlived_their_leases_are_ended() {
    let world = World::start();
    let client = &world.client;
    world.bao.mount("second", PLUGIN);
    let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": world.postgres.url(),
                             "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*" });
    client.post("second/config/pg", connection).expect(204);
    let role = json!({ "db_name": "pg", "creation_statements": [LOGIN], "default_ttl": "1h" });
    client.post("second/roles/app", role).expect(204);

    let ([live, password, lease], [lost, ..]) = (world.mint("app"), world.mint("app"));
    let theirs = client.get("second/creds/app").data()["username"].as_str().unwrap().to_owned();
    world.is_overdue(&lost);
    // The name of a user of ours and its comment, word for word; the same for the other mount; no comment at all.
    let twin = format!("{lost}2");
    for (name, comment) in [(twin.as_str(), world.comment(&lost)), ("liar", world.comment(&theirs))] {
        world.postgres.sql(&format!("CREATE ROLE \"{name}\" LOGIN"));
        world.set_comment(name, &comment);
    }
    world.is_overdue("liar");
    world.postgres.sql(&format!("CREATE ROLE \"{lost}3\" LOGIN"));
    let foreign = [twin.as_str(), "liar", &format!("{lost}3"), ADMIN];

    let shown = client.get("database/reconcile/pg").data();
    let (end, leave) = ((lost.clone(), "end".to_owned()), (twin.clone(), "leave".to_owned()));
    assert_eq!(told(&shown), [end, leave], "{shown}");
    assert_eq!((&shown["acted"], &shown["count"]), (&json!(false), &json!(2)));
    assert_eq!((&shown["users"][0]["suspicious"], &shown["users"][1]["suspicious"]), (&json!(false), &json!(true)));
    assert!(world.there(&lost), "a read does nothing");
    let done = client.post("database/reconcile/pg", json!({})).data();
    assert_eq!(done["users"][0]["result"], "verified", "{done}");
    assert!(!world.there(&lost) && world.there(&live) && world.there(&theirs));
    let shown = client.post("second/reconcile/pg", json!({})).data();
    assert_eq!(told(&shown), [("liar".to_owned(), "leave".to_owned())], "{shown}");
    assert!(foreign.iter().all(|name| world.there(name)));
    assert!(world.postgres.login(&live, &password, "SELECT 1").is_ok());
    client.revoke(&lease).expect(204);
}

/// The tick of a process that has just begun looks after two seconds, that of an older one every minute.
#[test]
fn the_tick_ends_a_user_that_outlived_its_lease() {
    let world = World::start();
    let ([lost, ..], [live, ..]) = (world.mint("app"), world.mint("app"));
    world.is_overdue(&lost);
    for pid in world.bao.plugin_processes() {
        kill_process(pid, Signal::KILL).unwrap();
    }
    wait_for("the tick", LIMIT, || {
        // Any request starts the plugin again.
        let _ = world.client.get("database/config/pg");
        (!world.there(&lost)).then_some(())
    });
    assert!(world.there(&live));
}

/// How long leases live while the plugin is killed.
const TTL: Duration = Duration::from_secs(45);

/// The plugin is killed in the middle of mints again and again. Whatever the host makes of what was not answered, the next
/// process must not leave what the dead one has made.
///
/// Now and then a host breaks off before it has read an answer that was sent to it: then nobody knows, and the user lives
/// as long as its lease would have, and a minute.
fn no_orphans(client: &Client, kill: impl Fn(), users: impl Fn() -> Vec<String>) {
    const KILLS: u64 = 20;
    let leases = || {
        let answer = client.list("sys/leases/lookup/database/creds/app");
        answer.body["data"]["keys"].as_array().map_or(0, Vec::len)
    };
    let (stop, minted) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut known = Vec::new();
    std::thread::scope(|scope| {
        let minters: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut names = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        let begun = Instant::now();
                        let answer = client.try_request("GET", "database/creds/app", None, &[]);
                        if let Some(answer) = answer.ok().filter(|answer| answer.status == 200) {
                            names.push((begun, answer.body["data"]["username"].as_str().unwrap().to_owned()));
                            minted.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    names
                })
            })
            .collect();
        for round in 0..KILLS {
            let before = minted.load(Ordering::SeqCst);
            wait_for("mints", LIMIT, || (minted.load(Ordering::SeqCst) > before + 8).then_some(()));
            std::thread::sleep(Duration::from_millis(17 * round % 130));
            kill();
        }
        stop.store(true, Ordering::SeqCst);
        for minter in minters {
            known.extend(minter.join().unwrap());
        }
    });
    let (begun, number) = (Instant::now(), known.len());
    loop {
        // Any request starts the plugin again.
        let _ = client.get("database/config/pg");
        let (there, leases) = (users(), leases());
        let lives = |minted: &Instant| minted.elapsed() < TTL - Duration::from_secs(5);
        let gone: Vec<_> = known.iter().filter(|(minted, name)| lives(minted) && !there.contains(name)).collect();
        assert!(gone.iter().all(|(minted, _)| !lives(minted)), "users that somebody has are gone: {gone:?}");
        if there.len() == leases {
            println!("{KILLS} kills, {number} mints, {leases} leases and users {:?} later", begun.elapsed());
            return;
        }
        let unknown: Vec<_> = there.iter().filter(|name| known.iter().all(|(_, known)| known != *name)).collect();
        let late = begun.elapsed() > TTL + Duration::from_secs(180);
        assert!(!late, "{} users, {leases} leases; users that nobody was told of: {unknown:?}", there.len());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn killer(world: &crate::support::bao::Bao) -> impl Fn() {
    || {
        for pid in world.plugin_processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_plugin_that_is_killed_in_the_middle_of_mints_leaves_no_user_in_postgresql() {
    let world = World::start();
    // A commit that takes its time: the process dies, and its transaction does not.
    world.postgres.sql(
        "CREATE TABLE mints (name text);
         CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1 * random()); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON mints DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION linger();",
    );
    let slow = json!([LOGIN, "SELECT pg_sleep(0.05 * random())", "INSERT INTO mints VALUES ('{{name}}')"]);
    world.role("app", json!({ "creation_statements": slow, "default_ttl": TTL.as_secs() }));
    no_orphans(&world.client, killer(&world.bao), || world.users());
    let found =
        world.bao.log().matches("ended a user: the process that made it died before the host had the answer").count();
    println!("{found} users of a dead process were found");
    assert!(found > 0, "no kill came at a moment that matters");
}

#[test]
fn a_plugin_that_is_killed_in_the_middle_of_mints_leaves_no_user_in_mariadb() {
    let (server, bao, client) = crate::drivers::with_mariadb(json!({
        "creation_statements": ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "DO SLEEP(0.05)"],
        "default_ttl": TTL.as_secs(),
    }));
    let users = |server: &MariaDb| {
        let users = server.sql("SELECT User FROM mysql.user WHERE User LIKE 'v-%'");
        users.lines().map(str::to_owned).collect()
    };
    no_orphans(&client, killer(&bao), || users(&server));
}
