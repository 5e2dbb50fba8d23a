//! `config/:name`.

use serde_json::json;

use super::{CREATE, PLUGIN, with};
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    refused(t);
    written_and_read(t);
    ways(t);
    flavours(t);
    t.post("config/my", with(json!({ "allowed_roles": "*" }))).note("what the other parts use");
}

fn refused(t: &mut Table) {
    t.post("config/my", json!({ "plugin_name": PLUGIN })).note("no URL");
    t.post("config/my", with(json!({ "password": "wrong" })));
    t.post("config/my", with(json!({ "username": "nobody" })));
    t.post("config/my", with(json!({ "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:1)/" }))).note("down");
    t.post("config/my", with(json!({ "connection_url": "mysql://x:y@127.0.0.1:{port}/" }))).note("the URL form");
    t.post("config/my", with(json!({ "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:{port})/nosuch" })));
    t.post("config/my", with(json!({ "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:{port})" })))
        .note("no slash");
    t.post("config/my", with(json!({ "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:{port}/" })));
    t.post("config/my", with(json!({ "connection_url": "{{username}}:{{password}}@unix(/nonexistent)/" })));
    t.post(
        "config/my",
        with(json!({ "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:{port})/?tls=nosuch" })),
    );
    t.post("config/my", with(json!({ "tls_ca": "xx" })));
    t.post("config/my", with(json!({ "tls_certificate_key": "xx" })));
    t.post("config/my", with(json!({ "username_template": "{{ .Nope }}" })));
    t.post("config/my", with(json!({ "max_connection_lifetime": "abc" })));
    t.post("config/my", with(json!({ "max_open_connections": "abc" })));
    t.post("config/my", with(json!({ "tls_skip_verify": "abc" })));
    t.post("config/my", with(json!({ "plugin_name": "mysql8-database-plugin" })));
    t.get("config/my").note("nothing was stored");
}

fn written_and_read(t: &mut Table) {
    t.post("config/my", with(json!({ "allowed_roles": "*" })));
    t.get("config/my");
    t.post("config/my", json!({ "max_open_connections": 3, "max_connection_lifetime": "5m" }));
    t.get("config/my").note("a part is written");
    t.post("config/my", json!({ "password": "wrong" })).note("verified again");
    t.post("config/my", json!({ "root_rotation_statements": ["SET PASSWORD FOR '{{username}}' = '{{password}}'"] }));
    t.get("config/my");
    t.post("config/my", json!({ "root_rotation_statements": [], "max_open_connections": 4 }));
    t.post("config/myemb", with(json!({ "connection_url": "vaultadmin:rootpw@tcp(127.0.0.1:{port})/" }))).differs(
        "embedded-password-warning",
        200,
        "Password found in connection_url",
    );
    t.get("config/myemb").differs("mysql-dsn-read", 200, "vaultadmin:xxxxx@tcp");
    t.delete("config/myemb");
    t.post(
        "config/closed",
        with(json!({ "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:1)/",
                                         "verify_connection": false, "allowed_roles": "*" })),
    );
    t.get("config/closed");
    t.post("reset/closed", json!({}));
    t.post("reset/my", json!({}));
    t.list("config");
}

/// Every way to say where the server is; each mints once.
fn ways(t: &mut Table) {
    for (name, url) in [
        ("parts", "{{username}}:{{password}}@tcp(127.0.0.1:{port})/mysql?charset=utf8mb4&parseTime=true"),
        ("fails", "{{username}}:{{password}}@tcp(127.0.0.1:1,127.0.0.1:{port})/"),
        ("socket", "{{username}}:{{password}}@unix({socket})/"),
        ("tlspref", "{{username}}:{{password}}@tcp(127.0.0.1:{port})/?tls=preferred"),
        ("variable", "{{username}}:{{password}}@tcp(127.0.0.1:{port})/?wait_timeout=600"),
    ] {
        let connection = format!("config/{name}");
        t.post(&connection, with(json!({ "connection_url": url, "allowed_roles": "*" })));
        t.get(&connection);
        t.post(&format!("roles/{name}"), json!({ "db_name": name, "creation_statements": CREATE }));
        t.mint(name, "way");
        t.login("way");
        t.revoke("way");
        t.delete(&format!("roles/{name}"));
        t.delete(&connection);
    }
    let few = "cannot end sessions";
    t.post("config/odd", with(json!({ "username": "odd", "password": "p@ss:w/or#d%" })))
        .note("odd characters")
        .differs("missing-rights", 200, few);
    t.delete("config/odd");
    t.post("config/at", with(json!({ "username": "a@b", "password": "x" }))).note("an at sign in the user").differs(
        "missing-rights",
        200,
        few,
    );
    t.post("config/at", with(json!({ "username": "a@b", "password": "x", "disable_escaping": true }))).differs(
        "missing-rights",
        200,
        few,
    );
    t.delete("config/at");
}

/// Four names for one implementation; they differ in how users are named.
fn flavours(t: &mut Table) {
    for (name, plugin) in [
        ("lleg", "mysql-legacy-database-plugin"),
        ("lrds", "mysql-rds-database-plugin"),
        ("laur", "mysql-aurora-database-plugin"),
    ] {
        t.post(&format!("config/{name}"), with(json!({ "plugin_name": plugin, "allowed_roles": "*" })));
        t.get(&format!("config/{name}"));
        t.post(&format!("roles/{name}"), json!({ "db_name": name, "creation_statements": super::GRANTED }));
        t.mint(name, "flavour").note("a short name");
        t.login("flavour");
        t.revoke("flavour");
        t.delete(&format!("roles/{name}"));
        t.delete(&format!("config/{name}"));
    }
    t.post("config/long", with(json!({ "username_template": "{{ random 80 }}", "allowed_roles": "*" }))).differs(
        "username-length",
        400,
        "the database takes 32",
    );
    t.delete("config/long");
    t.post("config/named", with(json!({ "username_template": "v-x-{{ random 12 }}", "allowed_roles": "*" })));
    t.post("roles/named", json!({ "db_name": "named", "creation_statements": CREATE }));
    t.mint("named", "named");
    t.revoke("named");
    t.delete("roles/named");
    t.delete("config/named");
}
