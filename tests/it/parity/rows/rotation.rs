//! `static-roles/:name`, `static-creds/:name`, `rotate-role/:name`, `rotate-root/:name`.

use serde_json::{Value, json};

use super::LOGIN;
use crate::parity::table::Table;

/// What our reads say in addition.
const STATE: &str = "static-state";
const JITTER: &str = "rotation-jitter";

pub fn rows(t: &mut Table) {
    t.sql(r#"CREATE ROLE "{mount}-st1" LOGIN PASSWORD 'one'; CREATE ROLE "{mount}-st2" LOGIN PASSWORD 'two'"#);
    t.post(
        "config/few",
        json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "{url}", "username": "vaultadmin",
                "password": "rootpw", "allowed_roles": ["st"] }),
    );
    refused(t);
    lives(t);
    updates(t);
    fails(t);
    vault_fields(t);
    roots(t);
    roots_refused(t);
}

fn role(more: Value) -> Value {
    let mut body = json!({ "db_name": "pg", "username": "{mount}-st1", "rotation_period": "1h" });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn refused(t: &mut Table) {
    t.get("static-roles/st").note("missing");
    t.list("static-roles").note("empty");
    t.get("static-roles?list=true");
    t.post("static-roles/st", json!({})).note("no connection");
    t.post("static-roles/st", json!({ "db_name": "" }));
    t.post("static-roles/st", json!({ "db_name": "pg" })).note("no user");
    t.post("static-roles/st", json!({ "db_name": "pg", "username": "" }));
    t.post("static-roles/st", json!({ "db_name": "pg", "username": "{mount}-st1" })).note("no period");
    t.post("static-roles/st", role(json!({ "rotation_period": 4 })));
    t.post("static-roles/st", role(json!({ "rotation_period": 0 })));
    t.post("static-roles/st", role(json!({ "rotation_period": -5 })));
    t.post("static-roles/st", role(json!({ "rotation_period": "xx" })));
    t.post("static-roles/st", role(json!({ "rotation_period": ["1h"] })));
    t.post("static-roles/st", role(json!({ "db_name": "nope" }))).note("no such connection");
    t.post("static-roles/zz", role(json!({ "db_name": "few" }))).note("not allowed");
    t.post("static-roles/st", role(json!({ "username": "nosuchuser" })));
    t.get("static-roles/st").note("not stored");
    t.post("static-roles/app", role(json!({}))).note("a dynamic role has the name");
    t.post("static-roles/st", role(json!({ "credential_type": "rsa_private_key" })));
    t.post("static-roles/st", role(json!({ "credential_type": "client_certificate" })));
    t.post("static-roles/st", role(json!({ "credential_type": "nope" })));
    t.post("static-roles/st", role(json!({ "credential_config": { "password_policy": "nosuch" } })));
    t.post("static-roles/st", role(json!({ "rotation_statements": { "a": 1 } })));
    t.post("static-roles/st", role(json!({ "username": ["a"] })));
    t.post("static-roles/-bad", role(json!({})));
    t.post("static-roles/a/b", role(json!({})));
    t.post("static-roles", role(json!({}))).note("no name");
    t.get("static-creds/st").note("missing");
    t.get("static-creds/app").note("a dynamic role");
    t.post("rotate-role/st", json!({})).note("missing");
    t.post("rotate-role/app", json!({})).note("a dynamic role");
    for path in ["static-creds/st", "rotate-role/st", "rotate-root/pg"] {
        t.delete(path);
        t.list(path);
    }
    t.post("static-creds/st", json!({}));
    t.get("rotate-role/st");
    t.get("rotate-root/pg");
    t.delete("static-roles/nope").note("missing");
}

fn lives(t: &mut Table) {
    t.post("static-roles/st", role(json!({})));
    t.get("static-roles/st").differs(STATE, 200, "\"rotation_period\":3600,\"rotation_statements\":[],\"username\"");
    t.get("static-creds/st").save("st").differs(JITTER, 200, "\"ttl\":36");
    t.login("st");
    t.get("creds/st").note("a static role has no creds");
    t.post("roles/st", json!({ "db_name": "pg", "creation_statements": LOGIN })).note("the name is taken");
    t.list("static-roles");
    t.list("static-roles?limit=1");
    t.post("rotate-role/st", json!({}));
    t.login("st").note("the old password");
    t.get("static-creds/st").save("st").differs(JITTER, 200, "\"ttl\":36");
    t.login("st");
    t.post("rotate-role/st", json!({ "password": "foo" })).note("a body is ignored");
    t.request("PUT", "{mount}/rotate-role/st", None);
    t.get("static-creds/st?foo=bar").save("st").differs(JITTER, 200, "\"ttl\":36");
    t.login("st");
}

fn updates(t: &mut Table) {
    t.post("static-roles/st", json!({ "rotation_period": 120 })).differs("static-username-kept", 204, "");
    t.post("static-roles/st", role(json!({ "rotation_period": 120 })));
    t.post("static-roles/st", json!({ "username": "{mount}-st2" })).note("another user");
    t.get("static-roles/st").differs(STATE, 200, "\"rotation_period\":120");
    t.get("static-creds/st").note("the same password, a shorter time");
    t.login("st");
    t.post("static-roles/st", role(json!({ "rotation_period": 3 })));
    t.post(
        "static-roles/st",
        role(json!({ "rotation_statements": ["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'"] })),
    );
    t.get("static-roles/st").differs(STATE, 200, "ALTER ROLE");
    t.post("rotate-role/st", json!({}));
    t.get("static-creds/st").save("st").differs(JITTER, 200, "\"ttl\":36");
    t.login("st");
    t.post("static-roles/st", role(json!({ "db_name": "" })));
    t.post("static-roles/st", role(json!({ "rotation_statements": "" })));
    t.post("static-roles/st2", role(json!({ "username": "{mount}-st2", "rotation_period": 5 }))).note("the shortest");
    t.delete("static-roles/st2");
    t.get("static-creds/st2").note("gone");
    t.list("static-roles");
}

fn fails(t: &mut Table) {
    t.post("static-roles/st", role(json!({ "rotation_statements": ["ALTER ROL x"] })));
    t.post("rotate-role/st", json!({})).note("a syntax error");
    t.post("static-roles/st", role(json!({ "rotation_statements": ["SELECT 1"] })));
    t.post("rotate-role/st", json!({})).differs("rotation-is-proven", 500, "still has its old password");
    t.post("static-roles/st", role(json!({ "rotation_statements": [] })));
    t.post("rotate-role/st", json!({}));
    t.get("static-creds/st").save("st").differs(JITTER, 200, "\"ttl\":36");
    t.login("st");
    t.sql(r#"ALTER ROLE "{mount}-st1" RENAME TO "{mount}-st3""#);
    t.post("rotate-role/st", json!({})).note("the user is gone");
    t.get("static-creds/st").note("the password stays").differs(JITTER, 200, "\"ttl\":36");
    t.sql(r#"ALTER ROLE "{mount}-st3" RENAME TO "{mount}-st1""#);
    t.post("rotate-role/st", json!({})).note("it is back");
    t.post("static-roles/st", role(json!({ "db_name": "few" })));
    t.post("config/few", json!({ "allowed_roles": "other" }));
    t.get("static-creds/st").note("no longer allowed");
    t.post("rotate-role/st", json!({}));
    t.delete("config/few");
    t.get("static-creds/st").note("no connection");
    t.post("rotate-role/st", json!({}));
    t.delete("static-roles/st");
}

/// What OpenBao's engine ignores or does not take.
fn vault_fields(t: &mut Table) {
    let two = role(json!({ "rotation_mode": "dual_account" }));
    t.post("static-roles/two", role(two)).differs("rotation-mode", 400, "secondary_username is required");
    t.delete("static-roles/two");
    let own = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "postgresql://localhost/db",
                      "username": "somebody", "password": "somebody's", "self_managed": true,
                      "verify_connection": false });
    t.post("config/own", own).differs("self-managed", 400, "mutually exclusive with username and password");
    t.delete("config/own");
    let scheduled = json!({ "db_name": "pg", "username": "{mount}-st1", "rotation_schedule": "0 0 * * SAT" });
    t.post("static-roles/sc", scheduled).differs("rotation-schedule", 204, "");
    t.get("static-roles/sc").differs("rotation-schedule", 200, "\"rotation_schedule\":\"0 0 * * SAT\"");
    t.get("static-creds/sc").differs("rotation-schedule", 200, "\"rotation_window\":0");
    t.delete("static-roles/sc");
    t.post("static-roles/sc", role(json!({ "rotation_schedule": "0 0 * * SAT" }))).differs(
        "rotation-schedule",
        400,
        "mutually exclusive fields rotation_period and rotation_schedule",
    );
    t.delete("static-roles/sc");
}

/// A connection with an account of its own.
fn root(more: Value) -> Value {
    let mut body = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "{url}", "allowed_roles": "*",
                           "username": "{mount}-root", "password": "rr" });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn roots(t: &mut Table) {
    t.sql(r#"CREATE ROLE "{mount}-root" LOGIN SUPERUSER PASSWORD 'rr'"#);
    t.post("config/rr", root(json!({})));
    t.post("roles/byrr", json!({ "db_name": "rr", "creation_statements": LOGIN }));
    t.mint("byrr", "before");
    t.post("rotate-root/rr", json!({}));
    t.post("reset/rr", json!({}));
    t.get("config/rr").differs("root-state", 200, "\"last_vault_rotation\":{\"seconds_from_now\":-");
    t.mint("byrr", "after");
    t.request("PUT", "{mount}/rotate-root/rr", Some(json!({ "foo": "bar" })));
    t.revoke("before");
    t.revoke("after");
    t.post("config/rr", root(json!({}))).differs("superseded-password-kept", 200, "replaced by rotate-root");
    t.post("reset/rr", json!({}));
    t.post("config/rr", json!({ "password_policy": "nosuch" }));
    t.post("rotate-root/rr", json!({})).note("no such policy");
    t.post("config/rr", json!({ "password_policy": "", "root_rotation_statements": ["ALTER ROL x"] }));
    t.post("rotate-root/rr", json!({})).note("a syntax error");
    t.post("reset/rr", json!({}));
    t.post(
        "config/rr",
        json!({ "root_rotation_statements": ["ALTER ROLE \"{{username}}\" PASSWORD '{{password}}'; SELECT 1"] }),
    );
    t.post("rotate-root/rr", json!({}));
    t.post("reset/rr", json!({}));
    t.post("config/rr", json!({ "rotation_period": "24h" }));
    t.get("config/rr").differs("root-rotation", 200, "\"rotation_period\":86400");
    t.post("config/rr", json!({ "rotation_period": 5 })).differs("root-rotation", 400, "must be 10 seconds or more");
    t.delete("roles/byrr");
    t.delete("config/rr");
}

fn roots_refused(t: &mut Table) {
    t.post("rotate-root/nope", json!({})).note("missing");
    t.post("rotate-root/pgpw", json!({})).note("no user in the configuration");
    t.post("config/rr2", root(json!({ "password": "", "verify_connection": false })));
    t.post("rotate-root/rr2", json!({})).note("no password");
    t.delete("config/rr2").differs("connection-in-use", 400, "cannot be asked").note("unreachable");
    t.delete("config/rr2?force=true");
    t.post("rotate-root/noverify", json!({})).note("unreachable");
    t.post(
        "config/rr3",
        root(json!({ "username": "weak", "password": "weak",
                     "root_rotation_statements": ["ALTER ROLE vaultadmin PASSWORD '{{password}}'"] })),
    )
    .differs("missing-rights", 200, "cannot create users");
    t.post("rotate-root/rr3", json!({})).note("not permitted");
    t.post("reset/rr3", json!({}));
    t.delete("config/rr3");
    t.sql(r#"CREATE ROLE "{mount}-embedded" LOGIN SUPERUSER PASSWORD 'rr'"#);
    t.post(
        "config/rr4",
        root(json!({ "username": "{mount}-embedded",
                     "connection_url": "postgresql://{{username}}:rr@127.0.0.1:{port}/postgres?sslmode=disable" })),
    )
    .differs("embedded-password-warning", 200, "Password found in connection_url")
    .note("the URL has no place for a password");
    t.post("rotate-root/rr4", json!({})).differs("rotation-needs-a-place", 500, "does not use {{password}}");
    t.delete("config/rr4");
    t.post("rotate-root/-bad", json!({}));
}
