//! Rotation that breaks nobody, at real servers: two accounts in turn, or two passwords of one.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::{Answer, Client};
use crate::support::mariadb::{self, MariaDb};
use crate::support::postgres::{self, Postgres};
use crate::support::redis::{self, Redis};
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

fn mounted(config: Value) -> (Bao, Client) {
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    client.post("database/config/db", config).expect(204);
    (bao, client)
}

fn write(client: &Client, more: Value) -> Answer {
    let mut body = json!({ "db_name": "db", "username": "blue", "rotation_period": 3600, "grace_period": 4 });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    client.post("database/static-roles/st", body)
}

fn two_accounts(client: &Client) {
    write(client, json!({ "rotation_mode": "dual_account", "secondary_username": "green" })).expect(204);
}

/// User and password that are handed out.
fn served(client: &Client) -> (String, String, Value) {
    wait_for("an answer", LIMIT, || {
        let data = client.get("database/static-creds/st").body["data"].clone();
        Some((data["username"].as_str()?.to_owned(), data["password"].as_str()?.to_owned(), data))
    })
}

/// Two accounts take turns, and each password works for as long as was said, and longer.
fn turns(client: &Client, opens: impl Fn(&str, &str) -> bool) {
    two_accounts(client);
    let (mut user, mut password, first) = served(client);
    assert_eq!(user, "blue");
    assert!(opens(&user, &password) && first["previous_valid_until"].is_null());
    for _ in 0..3 {
        client.post("database/rotate-role/st", json!({})).expect(204);
        let (new_user, new_password, answer) = served(client);
        assert_ne!(new_user, user);
        assert!(opens(&new_user, &new_password) && opens(&user, &password));
        assert_eq!(answer["previous_username"], json!(user));
        assert!(answer["previous_valid_until"].is_string(), "{answer}");
        let refused = client.post("database/rotate-role/st", json!({}));
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body["errors"][0].as_str().unwrap().contains("the previous password is valid for another"));
        wait_for("the end of the grace", LIMIT, || served(client).2["previous_valid_until"].is_null().then_some(()));
        assert!(opens(&new_user, &new_password) && opens(&user, &password), "nothing ends before the next change");
        (user, password) = (new_user, new_password);
    }
    let shown = client.get("database/static-roles/st").data();
    assert_eq!(
        (&shown["rotation_mode"], &shown["username"], &shown["secondary_username"], &shown["grace_period"]),
        (&json!("dual_account"), &json!("blue"), &json!("green"), &json!(4))
    );
    client.delete("database/static-roles/st").expect(204);
    let missing = write(client, json!({ "rotation_mode": "dual_account", "secondary_username": "nobody" }));
    assert_eq!(missing.status, 400);
    assert!(missing.body["errors"][0].as_str().unwrap().contains("there is no user \"nobody\""), "{}", missing.body);
}

/// As a server says no that keeps one password a user.
fn no_two_passwords(client: &Client, server: &str) {
    let refused = write(client, json!({ "rotation_mode": "dual_password" }));
    assert_eq!(refused.status, 400);
    let text = refused.body["errors"][0].as_str().unwrap();
    assert!(text.contains(server) && text.contains("MySQL 8.0.14 or later"), "{text}");
    client.get("database/static-roles/st").expect(404);
}

fn with_postgres() -> (Postgres, Bao, Client) {
    let server = Postgres::start();
    server.sql("CREATE ROLE blue LOGIN PASSWORD 'x'; CREATE ROLE green LOGIN PASSWORD 'y'");
    let (bao, client) = mounted(json!({
        "plugin_name": "postgresql-database-plugin", "connection_url": server.url(), "allowed_roles": "*",
        "username": postgres::ADMIN, "password": postgres::ADMIN_PASSWORD,
    }));
    (server, bao, client)
}

fn with_redis() -> (Redis, Bao, Client) {
    let server = Redis::start();
    for user in ["blue", "green"] {
        server.command(&["ACL", "SETUSER", user, "on", ">initial", "~*", "+@all"]);
    }
    let (bao, client) = mounted(json!({
        "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": server.port(), "allowed_roles": "*",
        "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD, "persistence_mode": "aclfile",
    }));
    (server, bao, client)
}

#[test]
fn two_postgres_accounts_take_turns() {
    let (server, _bao, client) = with_postgres();
    no_two_passwords(&client, "this server keeps one password a user");
    turns(&client, |user, password| server.login(user, password, "SELECT 1").is_ok());
}

#[test]
fn two_mariadb_accounts_take_turns() {
    let server = MariaDb::start();
    // One of them has two hosts.
    server.sql("CREATE USER blue@'%' IDENTIFIED BY 'x'; CREATE USER green@'%' IDENTIFIED BY 'y'");
    server.sql("CREATE USER green@localhost IDENTIFIED BY 'y'");
    let (_bao, client) = mounted(json!({
        "plugin_name": "mysql-database-plugin", "connection_url": server.url(), "allowed_roles": "*",
        "username": mariadb::ADMIN, "password": mariadb::ADMIN_PASSWORD,
    }));
    no_two_passwords(&client, "MariaDB 1");
    turns(&client, |user, password| server.login(user, password, "SELECT 1").is_ok());
    let hashes = "SELECT COUNT(DISTINCT authentication_string) FROM mysql.user WHERE User = 'green'";
    assert_eq!(server.sql(hashes), "1", "one of its hosts has another password");
}

#[test]
fn two_redis_accounts_take_turns() {
    let (server, _bao, client) = with_redis();
    turns(&client, |user, password| server.login(user, password, &["PING"]).is_ok());
}

/// Redis keeps as many passwords a user as it is told to.
#[test]
fn an_account_with_two_passwords_loses_the_old_one_when_its_time_is_over() {
    let (server, bao, client) = with_redis();
    let opens = |password: &str| server.login("blue", password, &["PING"]).is_ok();
    write(&client, json!({ "rotation_mode": "dual_password", "password": "initial" })).expect(204);
    let (_, mut password, answer) = served(&client);
    assert!(opens("initial") && opens(&password) && answer["previous_username"].is_null());
    let mut before = "initial".to_owned();
    for _ in 0..2 {
        let until = served(&client).2["previous_valid_until"].as_str().map(str::to_owned);
        let until: jiff::Timestamp = until.expect("the time of the one before").parse().unwrap();
        let refused = client.post("database/rotate-role/st", json!({}));
        assert_eq!(refused.status, 400, "{}", refused.body);
        wait_for("the end of the old password", LIMIT, || (!opens(&before)).then_some(()));
        assert!(jiff::Timestamp::now() >= until, "it ended before its time");
        assert!(opens(&password));
        assert_eq!(server.users_file().matches('#').count(), 3, "{}", server.users_file());
        assert!(served(&client).2["previous_valid_until"].is_null());
        client.post("database/rotate-role/st", json!({})).expect(204);
        before = password;
        password = served(&client).1;
        assert!(opens(&before) && opens(&password), "both work for a while");
    }
    // The end of the role is that of the old password.
    client.delete("database/static-roles/st").expect(204);
    assert!(!opens(&before) && opens(&password));
    for secret in [&before, &password] {
        assert!(!bao.log().contains(secret.as_str()), "a password is in the host's log");
    }
}

/// The plugin is killed in the middle, at ever later moments: what was handed out works, and what is handed out then.
#[test]
fn neither_account_is_lost_when_the_plugin_is_killed() {
    let (server, bao, client) = with_postgres();
    let slow = json!([
        "SELECT pg_sleep(0.05)",
        "ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'",
        "SELECT pg_sleep(0.05)"
    ]);
    let role = json!({ "rotation_mode": "dual_account", "secondary_username": "green", "rotation_statements": slow,
                       "grace_period": 1 });
    write(&client, role).expect(204);
    let opens = |user: &str, password: &str| server.login(user, password, "SELECT 1").is_ok();
    // From before the statements to after the end, however long that takes a plugin that has just been started and finds
    // what those before it have left.
    let kill = || bao.plugin_processes().iter().for_each(|pid| _ = kill_process(*pid, Signal::KILL));
    kill();
    served(&client);
    let begin = Instant::now();
    client.post("database/rotate-role/st", json!({})).expect(204);
    let window = begin.elapsed();
    let mut switched = 0;
    for round in 0..12 {
        wait_for("the end of the grace", LIMIT, || served(&client).2["previous_valid_until"].is_null().then_some(()));
        let (user, password, _) = served(&client);
        std::thread::scope(|scope| {
            scope.spawn(|| client.try_request("POST", "database/rotate-role/st", Some(&json!({})), &[]).ok());
            std::thread::sleep(window.mul_f64(0.25 * f64::from(round)));
            kill();
        });
        assert!(opens(&user, &password), "round {round}: what was handed out does not work");
        let (now_user, now_password, _) = served(&client);
        assert!(opens(&now_user, &now_password), "round {round}: what is handed out does not work");
        switched += u32::from(now_user != user);
    }
    println!("12 kills, {switched} switches");
    assert!(switched > 0);
}
