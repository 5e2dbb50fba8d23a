//! Valkey and Redis.

use serde_json::{Value, json};

use crate::parity::table::Table;

const PLUGIN: &str = "valkey-database-plugin";

/// A connection that works, with further fields.
fn with(more: Value) -> Value {
    let mut body = json!({ "plugin_name": PLUGIN, "host": "127.0.0.1", "port": "{port}", "username": "vaultadmin",
                           "password": "rootpw" });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub fn rows(t: &mut Table) {
    connections(t);
    one_life(t);
    rules(t);
    rotation(t);
}

fn connections(t: &mut Table) {
    t.post("config/vk", json!({ "plugin_name": PLUGIN })).note("nothing");
    for missing in ["host", "port", "username", "password"] {
        t.post("config/vk", with(json!({ missing: "" })));
    }
    t.post("config/vk", with(json!({ "password": "wrong" })));
    t.post("config/vk", with(json!({ "port": 1 }))).note("down");
    t.post("config/vk", with(json!({ "port": "x" })));
    t.post("config/vk", with(json!({ "tls": true }))).note("no CA");
    t.post("config/vk", with(json!({ "connection_url": "valkey://127.0.0.1:{port}" }))).note("both");
    t.post("config/vk", with(json!({ "allowed_roles": "*" })));
    t.get("config/vk");
    t.post(
        "config/vu",
        json!({ "plugin_name": PLUGIN, "connection_url": "valkey://vaultadmin:rootpw@127.0.0.1:{port}",
                "allowed_roles": "*" }),
    )
    .differs("no-spurious-warning", 200, "Password found in connection_url");
    t.get("config/vu");
    t.delete("config/vu");
    t.post("reset/vk", json!({}));
}

fn one_life(t: &mut Table) {
    t.post(
        "roles/r",
        json!({ "db_name": "vk", "creation_statements": [r#"["~app:*", "+get", "+ping"]"#],
                              "default_ttl": "1m", "max_ttl": "5m" }),
    );
    t.get("roles/r");
    t.mint("r", "one");
    t.login("one");
    t.lookup("one");
    t.renew("one", 100);
    t.revoke("one");
    t.login("one");
    t.revoke("one").note("again");
    t.mint("r", "open");
    t.open_session("open");
    t.revoke("open");
    t.session_lives("open").note("the server itself ends it");
    t.mint("r", "gone");
    t.drop_user("gone");
    t.revoke("gone").note("the user is gone");
    t.post("roles/brief", json!({ "db_name": "vk", "default_ttl": "3s", "max_ttl": "6s" }));
    t.mint("brief", "brief").note("no statements");
    t.wait_gone("brief").note("it ends by itself");
    t.delete("roles/brief");
}

fn rules(t: &mut Table) {
    for statements in [
        json!(["~*", "+@read"]),
        json!([r#"["allkeys", "+@all", "-@dangerous"]"#]),
        json!(r#"["~a", "~b", "&news", "+@hash"]"#),
        json!([]),
    ] {
        t.post("roles/f", json!({ "db_name": "vk", "creation_statements": statements, "default_ttl": "1h" }));
        t.mint("f", "form");
        t.login("form");
        t.revoke("form");
    }
    t.post("roles/f", json!({ "creation_statements": ["+nosuchcommand"] }));
    t.get("creds/f").note("no such command");
    t.delete("roles/f");
}

fn rotation(t: &mut Table) {
    t.sql("ACL SETUSER {mount}-st on >one ~* +ping");
    t.post("static-roles/st", json!({ "db_name": "vk", "username": "nosuchuser", "rotation_period": "1h" })).differs(
        "missing-account",
        500,
        "the server has no user \\\"nosuchuser\\\"",
    );
    t.post("static-roles/st", json!({ "db_name": "vk", "username": "{mount}-st", "rotation_period": "1h" }));
    t.get("static-creds/st").save("st").differs("rotation-jitter", 200, "\"ttl\":36");
    t.login("st");
    t.post("rotate-role/st", json!({}));
    t.login("st").note("the old password");
    t.get("static-creds/st").save("st").differs("rotation-jitter", 200, "\"ttl\":36");
    t.login("st");
    t.delete("static-roles/st");
    t.sql("ACL SETUSER {mount}-root on >rr ~* &* +@all");
    t.post("config/vr", with(json!({ "username": "{mount}-root", "password": "rr", "allowed_roles": "*" })));
    t.post("roles/r", json!({ "db_name": "vr" }));
    t.mint("r", "before");
    t.post("rotate-root/vr", json!({}));
    t.mint("r", "after");
    t.revoke("before");
    t.revoke("after");
    t.delete("roles/r");
    t.delete("config/vr");
    t.list("config");
}
