//! R30 and R33 with real servers: a gated role shown whole, and what may be taken from the record.

use serde_json::{Value, json};

use super::site::Site;
use crate::support::mariadb::{self, MariaDb};
use crate::support::redis::{self, Redis};

#[track_caller]
fn passes(site: &Site, role: &str) -> Value {
    let tested = site.root.post(&format!("db/selftest/{role}"), json!({})).data();
    for (key, wanted) in [
        ("passed", json!(true)),
        ("missing", json!([])),
        ("login", json!("open")),
        ("login_afterwards", json!("shut")),
        ("gone", json!(true)),
        ("state", json!("closed")),
    ] {
        assert_eq!(tested[key], wanted, "{key} of {role}: {tested}");
    }
    for link in ["request", "approval", "issuance", "execution", "revocation"] {
        assert!(tested["links"][link]["seq"].is_u64(), "{link} of {role}: {tested}");
    }
    assert!(tested["events"].as_array().unwrap().iter().all(|event| event["drill"] == true), "{tested}");
    assert!(tested["milliseconds"]["mint"].is_u64() && tested.get("password").is_none(), "{tested}");
    tested
}

#[test]
fn a_role_is_shown_whole_at_every_kind_of_database() {
    let site = Site::start(json!({}));
    let (mariadb, redis) = (MariaDb::start(), Redis::start());
    mariadb.sql("CREATE DATABASE shop");
    for (name, connection, creation) in [
        (
            "my",
            json!({ "plugin_name": "mysql-database-plugin", "connection_url": mariadb.url(),
                    "username": mariadb::ADMIN, "password": mariadb::ADMIN_PASSWORD }),
            json!([
                "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
                "GRANT SELECT ON shop.* TO '{{name}}'@'%'"
            ]),
        ),
        (
            "vk",
            json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": redis.port(),
                    "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD }),
            json!("[\"+get\", \"~app:*\"]"),
        ),
    ] {
        let mut connection = connection;
        connection["allowed_roles"] = json!("*");
        site.root.post(&format!("db/config/{name}"), connection).expect(204);
        let role = json!({ "db_name": name, "creation_statements": creation, "jit_policy": "p" });
        site.root.post(&format!("db/roles/{name}"), role).expect(204);
    }
    let tested = passes(&site, "secret");
    let user = tested["username"].as_str().unwrap();
    assert_eq!(site.postgres.sql(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'")), "0");
    passes(&site, "my");
    passes(&site, "vk");
    let users = mariadb.sql("SELECT count(*) FROM mysql.user WHERE User LIKE 'v-%' OR User LIKE 'V-%'");
    assert_eq!(users.trim(), "0");
    let valid = site.root.post("db/evidence/verify", json!({})).data();
    assert_eq!((&valid["valid"], &valid["decisions_hold"]), (&json!(true), &json!(true)), "{valid}");

    // Whoever may ask for the role may not do this.
    let ann = site.person("ann", &["requester"]);
    assert_eq!(ann.refused("POST", "db/selftest/secret").0, 403);
    // A role that does not work says so, and leaves nothing.
    site.role(json!({ "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN; SELECT nonsense" }));
    let failed = site.root.post("db/selftest/secret", json!({}));
    assert!(failed.status >= 500 && failed.body.to_string().contains("evidence/chain/jr_"), "{}", failed.body);
    assert_eq!(site.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"), "0");
}

#[test]
fn the_record_is_kept_as_long_as_it_has_to_be() {
    let site = Site::start(json!({}));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver", "auditor"]));
    site.group("leads", &[&bob]);
    let id = ann.file();
    bob.act(&id, "approve");
    ann.client.get("db/creds/secret").expect(200);
    ann.act(&id, "complete");
    let answer = site.root.post("db/retention/prune", json!({})).data();
    assert!(answer["kept_by"].as_str().unwrap().contains("no retention") && answer["dry_run"] == true, "{answer}");
    let short = site.root.post("db/config/jit", json!({ "retention": "low=1d,medium=1d,high=1d,critical=1d" }));
    assert_eq!(short.status, 400, "{}", short.body);
    let spans = json!({ "low": "30d", "medium": "90d", "high": "90d", "critical": "90d" });
    site.root.post("db/config/jit", json!({ "retention": spans })).expect(204);
    for (person, path) in [(&ann, format!("db/requests/secret/{id}/hold")), (&bob, "db/retention/prune".to_owned())] {
        assert_eq!(person.refused("POST", &path).0, 403, "{path}");
    }
    let hold = |fields: Value| site.root.post(&format!("db/requests/secret/{id}/hold"), fields);
    hold(json!({ "reason": "a lawsuit" })).expect(204);
    let answer = site.root.post("db/retention/prune", json!({ "dry_run": false })).data();
    assert_eq!((&answer["events"], &answer["requests"]), (&json!(0), &json!(0)), "{answer}");
    hold(json!({ "reason": "settled", "hold": false })).expect(204);
    let export = bob.client.get("db/evidence/export").data();
    for kind in ["hold.set", "hold.lifted"] {
        let of = |event: &&Value| event["kind"] == kind && event["request_id"] == json!(id);
        assert_eq!(export["events"].as_array().unwrap().iter().filter(of).count(), 1, "{kind}");
    }
    let valid = bob.client.post("db/evidence/verify", json!({})).data();
    assert_eq!((&valid["valid"], &valid["events_taken_away"]), (&json!(true), &json!(0)), "{valid}");
}
