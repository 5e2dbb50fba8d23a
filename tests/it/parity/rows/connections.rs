//! `config/:name` and `reset/:name`.

use serde_json::{Value, json};

use crate::parity::table::Table;

const PLUGIN: &str = "postgresql-database-plugin";
/// Nothing listens there.
const CLOSED: &str = "postgresql://{{username}}:{{password}}@127.0.0.1:1/postgres?sslmode=disable";

/// A connection that works, with further fields.
fn with(more: Value) -> Value {
    let mut body =
        json!({ "plugin_name": PLUGIN, "connection_url": "{url}", "username": "vaultadmin", "password": "rootpw" });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub fn rows(t: &mut Table) {
    t.get("config/pg").note("missing");
    t.list("config").note("empty");
    t.get("config?list=true").note("empty");
    refused(t);
    written_and_read(t);
    fields(t);
    names_and_methods(t);
    resets(t);
    t.post("config/pg", with(json!({ "allowed_roles": "*" }))).note("what the other parts use");
}

fn refused(t: &mut Table) {
    t.post("config/pg", json!({})).note("no plugin");
    t.post("config/pg", json!({ "plugin_name": "" }));
    t.post("config/pg", json!({ "plugin_name": "nope" }));
    t.post("config/pg", json!({ "plugin_name": PLUGIN })).note("no URL");
    t.post("config/pg", json!({ "plugin_name": PLUGIN, "plugin_version": "zz" }));
    t.post("config/pg", json!({ "plugin_name": PLUGIN, "plugin_version": "1.2.3" })).note("no such version");
    t.post("config/pg", with(json!({ "connection_url": "", "verify_connection": false })));
    t.post("config/pg", with(json!({ "password": "wrong" })));
    t.post("config/pg", with(json!({ "username": "nobody" })));
    t.post("config/pg", with(json!({ "connection_url": CLOSED })));
    t.post(
        "config/pg",
        with(
            json!({ "connection_url": "postgresql://{{username}}:{{password}}@127.0.0.1:{port}/nodb?sslmode=disable" }),
        ),
    )
    .note("no such database");
    t.post("config/pg", with(json!({ "username": "{{username}}", "password": "x" }))).note("template in the user");
    t.post("config/pg", with(json!({ "password": "{{password}}" }))).note("template in the password");
    t.post("config/pg", with(json!({ "connection_url": "postgres://%zz" })));
    t.post("config/pg", with(json!({ "username_template": "{{ .Nope }}" })));
    t.post("config/pg", with(json!({ "username_template": "{{ foo" })));
    t.post("config/pg", with(json!({ "username_template": "{{ foo 1 }}" })));
    t.post("config/pg", with(json!({ "password_authentication": "md5" })));
    t.post("config/pg", with(json!({ "max_connection_lifetime": "abc" })));
    t.post("config/pg", with(json!({ "max_open_connections": "abc" })));
    t.post("config/pg", with(json!({ "verify_connection": "abc" })));
    t.post("config/pg", with(json!({ "allowed_roles": { "a": 1 } }))).differs(
        "errors-quote-no-value",
        400,
        "got unconvertible type",
    );
    t.post("config/pg", with(json!({ "root_rotation_statements": { "a": 1 } })));
    t.post("config/pg", with(json!({ "password_policy": ["a"] })));
    t.post("config/pg", json!({ "plugin_name": ["a"] }));
    t.post("config/pg", with(json!({ "plugin_version": { "a": 1 } })));
    t.post("config/pg", with(json!({ "connection_url": ["a"] })));
    t.post("config/pg", with(json!({ "username": { "a": 1 } })));
    t.post("config/pg", with(json!({ "disable_escaping": "abc" })));
    t.get("config/pg").note("nothing was saved");
    t.list("config");
}

fn written_and_read(t: &mut Table) {
    t.post(
        "config/pg",
        with(json!({ "allowed_roles": "app, ro-*,st,bad*", "unknown_field": "hello", "max_open_connections": 5,
                     "max_connection_lifetime": "5s", "root_rotation_statements": "ALTER ROLE x" })),
    );
    t.get("config/pg");
    t.post("config/pg", json!({ "max_idle_connections": 2 })).note("partial");
    t.get("config/pg");
    t.post(
        "config/pg",
        json!({ "allowed_roles": [" a ", "b"], "username_template": "", "max_open_connections": null }),
    );
    t.get("config/pg");
    t.post("config/pg", json!({ "allowed_roles": "", "root_rotation_statements": "" })).note("cleared");
    t.get("config/pg");
    t.post("config/pg", json!({ "unknown_field": { "deep": [1, 2.5, "x", null, true] }, "max_open_connections": "7" }));
    t.get("config/pg").note("kept as sent");
    t.post("config/pg", json!({ "password": "wrong" })).note("a partial update is verified too");
    t.post("config/pg", json!({ "plugin_name": "nope" }));
    t.get("config/pg").note("unchanged");
    t.post("config/pg", json!({ "password_policy": "nosuch" })).note("not looked up");
    t.get("config/pg");
    t.post("config/pg", json!({ "password_policy": "" }));
    t.post("config/pg", json!("notjson")).note("a body that is no object");

    t.post(
        "config/pgpw",
        json!({ "plugin_name": PLUGIN, "allowed_roles": ["*"],
                "connection_url": "postgresql://vaultadmin:rootpw@127.0.0.1:{port}/postgres?sslmode=disable" }),
    )
    .differs("no-spurious-warning", 200, "Password found in connection_url")
    .note("password in the URL");
    t.get("config/pgpw");
    t.post(
        "config/pgkv",
        with(json!({ "connection_url":
                     "host=127.0.0.1 port={port} user={{username}} password={{password}} dbname=postgres sslmode=disable" })),
    );
    t.get("config/pgkv").differs("keyword-dsn-read", 200, "user={{username}}");
    t.post(
        "config/pgkv2",
        json!({ "plugin_name": PLUGIN, "allowed_roles": ["*"],
                "connection_url": "host=127.0.0.1 port={port} user=vaultadmin password=rootpw dbname=postgres sslmode=disable" }),
    )
    .differs("embedded-password-warning", 200, "Password found in connection_url");
    t.get("config/pgkv2").differs("keyword-dsn-read", 200, "user=vaultadmin").note("password in the DSN");
    t.post(
        "config/noverify",
        json!({ "plugin_name": PLUGIN, "connection_url": CLOSED, "username": "alice", "password": "bob123",
                "verify_connection": false, "allowed_roles": "*", "root_rotation_statements": ["ALTER ROLE x", ""] }),
    );
    t.get("config/noverify");
    t.list("config");
    t.get("config?list=true");
    t.list("config?limit=1").differs("config-paging", 200, "\"keys\":[\"noverify\"]");
    t.list("config?after=pg").differs("config-paging", 200, "\"keys\":[\"pgkv\"");
    t.list("config/").note("with a slash");
}

/// Fields that only show in the read.
fn fields(t: &mut Table) {
    for (name, more) in [
        ("f1", json!({ "verify_connection": "true" })),
        ("f2", json!({ "verify_connection": 1 })),
        ("f3", json!({ "allowed_roles": "a" })),
        ("f4", json!({ "allowed_roles": ["a,b", "c"] })),
        ("f5", json!({ "allowed_roles": ["*", ""] })),
        ("f6", json!({ "private_key": "hidden" })),
        ("f7", json!({ "disable_escaping": true, "password_authentication": "scram-sha-256" })),
        ("f8", json!({ "max_open_connections": -1, "max_idle_connections": -1, "max_connection_lifetime": 10 })),
        ("f9", json!({ "plugin_version": "" })),
        ("f10", json!({ "username_template": "{{ .RoleName | truncate 3 }}~{{ random 8 }}" })),
        ("f11", json!({ "password": "" })),
    ] {
        let path = format!("config/{name}");
        t.post(&path, with(more));
        t.get(&path);
        t.delete(&path);
    }
}

fn names_and_methods(t: &mut Table) {
    for name in ["-bad", "trail.", "a/b", "sp%20ace", "%C3%A9", "_x", "a.b-c_d"] {
        t.post(&format!("config/{name}"), json!({})).note("names");
        t.get(&format!("config/{name}"));
    }
    t.request("PUT", "{mount}/config/pg", Some(json!({ "allowed_roles": ["app"] })));
    t.request("PATCH", "{mount}/config/pg", Some(json!({ "allowed_roles": ["app"] })));
    t.request("PATCH", "{mount}/config/pg", Some(json!({ "allowed_roles": ["app"] })))
        .header("Content-Type", "application/merge-patch+json");
    t.post("config", json!({})).note("no name");
    t.delete("config");
    t.get("config");
    t.list("config/pg");
    t.delete("config/nope").note("missing");
    t.delete("config/pgkv2");
    t.get("config/pgkv2").note("gone");
}

fn resets(t: &mut Table) {
    t.post("reset/pg", json!({}));
    t.request("PUT", "{mount}/reset/pg", None);
    t.post("reset/pg", json!({ "unknown": 1 }));
    t.post("reset/nope", json!({})).note("missing");
    t.post("reset/noverify", json!({})).note("unreachable");
    t.get("reset/pg");
    t.list("reset");
    t.delete("reset/pg");
    t.post("reset/-bad", json!({}));
    t.post("reload/postgresql-database-plugin", json!({})).differs("reload", 200, "\"count\":");
}
