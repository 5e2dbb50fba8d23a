//! Static roles and the root credential.

use serde_json::{Value, json};

use super::with;
use crate::parity::table::Table;

const JITTER: &str = "rotation-jitter";
const STATE: &str = "static-state";

fn role(more: Value) -> Value {
    let mut body = json!({ "db_name": "my", "username": "{mount}-ms1", "rotation_period": "1h" });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub fn rows(t: &mut Table) {
    t.sql(
        "CREATE USER '{mount}-ms1'@'%' IDENTIFIED BY 'one'; CREATE USER '{mount}-ms2'@'localhost' IDENTIFIED BY 'two'",
    );
    t.post("static-roles/ms1", role(json!({ "username": "nosuchuser" }))).differs(
        "missing-account",
        500,
        "error setting credentials",
    );
    t.post("static-roles/ms1", role(json!({ "db_name": "closed" }))).note("down");
    t.post("static-roles/ms1", role(json!({})));
    t.get("static-roles/ms1").differs(STATE, 200, "\"rotation_period\":3600");
    t.get("static-creds/ms1").save("ms").differs(JITTER, 200, "\"ttl\":36");
    t.login("ms");
    t.post("rotate-role/ms1", json!({}));
    t.login("ms").note("the old password");
    t.get("static-creds/ms1").save("ms").differs(JITTER, 200, "\"ttl\":36");
    t.login("ms");
    for statements in [
        "ALTER USER '{{username}}'@'%' IDENTIFIED BY '{{password}}'",
        "SET PASSWORD FOR '{{name}}'@'%' = PASSWORD('{{password}}');",
        "ALTER USER '{{name}}'@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('{{password}}')",
    ] {
        t.post("static-roles/ms1", role(json!({ "rotation_statements": [statements] })));
        t.get("static-roles/ms1").differs(STATE, 200, "rotation_statements");
        t.post("rotate-role/ms1", json!({}));
        t.get("static-creds/ms1").save("ms").differs(JITTER, 200, "\"ttl\":36");
        t.login("ms");
    }
    t.post("static-roles/ms1", role(json!({ "rotation_statements": ["ALTER USR x"] })));
    t.post("rotate-role/ms1", json!({})).note("a syntax error");
    t.post("static-roles/ms1", role(json!({ "rotation_statements": ["SELECT 1"] })));
    t.post("rotate-role/ms1", json!({})).differs("rotation-is-proven", 500, "still has its old password");
    t.post("static-roles/ms1", role(json!({ "rotation_statements": [] })));
    t.post("rotate-role/ms1", json!({}));
    t.get("static-creds/ms1").save("ms").differs(JITTER, 200, "\"ttl\":36");
    t.login("ms");
    t.delete("static-roles/ms1");

    let local = json!({ "db_name": "my", "username": "{mount}-ms2", "rotation_period": 3600 });
    t.post("static-roles/ms2", local).differs("every-host", 204, "changed").note("a user of another host");
    t.delete("static-roles/ms2");
    t.post(
        "static-roles/ms3",
        json!({ "db_name": "my", "username": "{mount}-ms2", "rotation_period": 3600,
                "rotation_statements": ["ALTER USER '{{username}}'@'localhost' IDENTIFIED BY '{{password}}'"] }),
    );
    t.get("static-creds/ms3").differs(JITTER, 200, "\"ttl\":36");
    t.delete("static-roles/ms3");
    roots(t);
}

fn roots(t: &mut Table) {
    t.sql("CREATE USER '{mount}-root'@'%' IDENTIFIED BY 'p@ss:w/or#d%'; GRANT ALL ON *.* TO '{mount}-root'@'%' WITH GRANT OPTION");
    let root = || with(json!({ "username": "{mount}-root", "password": "p@ss:w/or#d%", "allowed_roles": "*" }));
    t.post("config/myroot", root());
    t.post("roles/byroot", json!({ "db_name": "myroot", "creation_statements": super::CREATE, "default_ttl": "1h" }));
    t.mint("byroot", "before");
    t.post("rotate-root/myroot", json!({}));
    t.post("reset/myroot", json!({}));
    t.get("config/myroot").differs("root-state", 200, "\"last_vault_rotation\":{\"seconds_from_now\":-");
    t.mint("byroot", "after");
    t.revoke("before");
    t.revoke("after");
    t.post("config/myroot", root()).differs("superseded-password-kept", 200, "replaced by rotate-root");
    t.post("config/myroot", json!({ "root_rotation_statements": ["ALTER USR x"] }));
    t.post("rotate-root/myroot", json!({})).note("a syntax error");
    t.post("reset/myroot", json!({}));
    t.delete("roles/byroot");
    t.delete("config/myroot");
    t.post("config/myroot", with(json!({ "connection_url": "{{username}}:rootpw@tcp(127.0.0.1:{port})/" }))).differs(
        "embedded-password-warning",
        200,
        "Password found in connection_url",
    );
    t.delete("config/myroot");
    // Written anew, the connection knows nothing yet of how long nobody has answered.
    t.post("config/closed", json!({ "verify_connection": false }));
    t.post("rotate-root/closed", json!({})).note("down");
}
