//! `group_roles`: users that are members of groups, through the host.

use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};

/// A name that would do harm in any statement that did not quote it, and in any that filled it in.
const HOSTILE: &str = r#"r"; DROP TABLE a; --'{{name}} {{password}}\"#;

fn connect(client: &Client, postgres: &Postgres, name: &str, user: &str, password: &str) {
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": postgres.url(),
        "username": user, "password": password, "verify_connection": true,
    });
    let answer = client.post(&format!("database/config/{name}"), config);
    assert!([200, 204].contains(&answer.status), "{}", answer.body);
}

fn error(answer: &crate::support::client::Answer) -> String {
    assert_eq!(answer.status, 400, "{}", answer.body);
    answer.body["errors"][0].as_str().unwrap().to_owned()
}

/// A database with two tables, each with a group that reads it; and an account that may make members of both.
fn mounted() -> (Postgres, Bao, Client) {
    let postgres = Postgres::start();
    let hostile = HOSTILE.replace('"', "\"\"");
    postgres.sql(&format!(
        "CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE ROLE reader; CREATE ROLE \"{hostile}\"; CREATE ROLE boss; \
         GRANT SELECT ON a TO reader; GRANT SELECT ON b TO \"{hostile}\"; \
         CREATE ROLE maker LOGIN CREATEROLE PASSWORD 'makerpw'; CREATE ROLE maid LOGIN PASSWORD 'maidpw'; \
         GRANT reader, \"{hostile}\" TO maker WITH ADMIN OPTION; GRANT pg_signal_backend TO maker"
    ));
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let client = bao.client();
    connect(&client, &postgres, "maker", "maker", "makerpw");
    (postgres, bao, client)
}

fn text(answer: &Value, key: &str) -> String {
    answer["data"][key].as_str().unwrap().to_owned()
}

#[test]
fn a_member_has_what_its_groups_have_from_its_mint_to_its_end() {
    let (postgres, _bao, client) = mounted();
    let role = json!({ "db_name": "maker", "group_roles": ["reader", HOSTILE], "default_ttl": 600, "max_ttl": 1200 });
    client.post("database/roles/app", role).expect(204);
    let shown = client.get("database/roles/app").expect(200);
    assert_eq!(shown["data"]["group_roles"], json!(["reader", HOSTILE]));
    assert_eq!(shown["data"]["creation_statements"], json!([]));

    let minted = client.get("database/creds/app").expect(200);
    let (user, password) = (text(&minted, "username"), text(&minted, "password"));
    let log = postgres.log();
    assert!(!log.contains(&password), "the server saw the password");
    assert_eq!(
        postgres.login(&user, &password, "SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b)"),
        Ok("0".into())
    );
    assert!(postgres.login(&user, &password, "INSERT INTO a VALUES (1)").is_err());
    let of_user =
        |what: &str| postgres.sql(&format!("SELECT {what} FROM pg_roles WHERE rolname = '{user}'")).trim().to_owned();
    assert!(of_user("shobj_description(oid, 'pg_authid')").starts_with("leasehold:"));
    let ends = || of_user("round(extract(epoch FROM rolvaliduntil - now()) / 300)");
    assert_eq!(ends(), "2");
    // Newer servers note memberships there, too.
    let granted = "(SELECT count(*) FROM pg_shdepend WHERE refobjid = oid AND classid <> 'pg_auth_members'::regclass)";
    assert_eq!(of_user(granted), "0", "nothing is granted to it");

    let lease = minted["lease_id"].as_str().unwrap();
    client.post("sys/leases/renew", json!({ "lease_id": lease, "increment": 900 })).expect(200);
    assert_eq!(ends(), "3");

    let mut session = postgres.session(&user, &password);
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
    let before = postgres.log().len();
    client.revoke(lease).expect(204);
    assert_eq!(of_user("1"), "");
    assert_eq!(session.one("SELECT 1"), None, "the session ended");
    assert!(
        !postgres.log()[before..].contains("OWNED"),
        "nothing had to be looked for: the role could just be dropped"
    );
    assert_eq!(postgres.sql("SELECT count(*) FROM a").trim(), "0");
}

#[test]
fn a_role_whose_groups_cannot_be_given_is_refused_with_the_fix() {
    let (postgres, _bao, client) = mounted();
    connect(&client, &postgres, "root", ADMIN, ADMIN_PASSWORD);
    let write = |more: Value| {
        let mut role = json!({ "db_name": "maker", "group_roles": "reader" });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.post("database/roles/app", role)
    };
    assert!(error(&write(json!({ "group_roles": "reader,nobody" }))).contains("CREATE ROLE \"nobody\" NOLOGIN"));
    assert!(error(&write(json!({ "group_roles": "maker" }))).contains("the account of the connection itself"));
    assert!(error(&write(json!({ "group_roles": [""] }))).contains("invalid group_roles"));
    assert!(error(&write(json!({ "group_roles": "x".repeat(64) }))).contains("1 to 63 bytes"));
    let both = json!({ "creation_statements": "CREATE ROLE \"{{name}}\"" });
    assert!(error(&write(both)).contains("exclude each other"));
    // Before PostgreSQL 16 who makes roles may give away every group but those of superusers.
    postgres.sql("ALTER ROLE boss SUPERUSER");
    let wish = "GRANT \"boss\" TO \"maker\" WITH ADMIN OPTION";
    assert!(error(&write(json!({ "group_roles": "boss" }))).contains(wish));
    assert_eq!(client.get("database/roles/app").status, 404, "nothing is stored of what was refused");

    write(json!({})).expect(204);
    write(json!({ "db_name": "root", "group_roles": "boss" })).expect(204);
    let checked = client.get("database/check/root").expect(200);
    assert_eq!((&checked["data"]["ok"], &checked["data"]["roles"][0]["role"]), (&json!(true), &json!("app")));

    // What was true when the role was written need not be so later: then nobody is made.
    postgres.sql("DROP ROLE boss");
    let refused = client.get("database/creds/app");
    assert_eq!(refused.status, 500, "{}", refused.body);
    assert!(refused.body.to_string().contains("boss"), "{}", refused.body);
    assert_eq!(postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").trim(), "0");
    let checked = client.get("database/check/root").expect(200);
    assert_eq!(checked["data"]["ok"], json!(false));
    assert!(checked["data"]["roles"][0]["missing"].to_string().contains("grant_groups"), "{checked}");
}
