//! `creds/:name` and the life of a lease.

use serde_json::json;

use super::{CREATE, GRANTED};
use crate::parity::table::Table;

/// The statements of the golden session, in base64: as text, and as a JSON array.
const BASE64: &str = "Q1JFQVRFIFVTRVIgJ3t7bmFtZX19J0AnJScgSURFTlRJRklFRCBCWSAne3twYXNzd29yZH19JzsgR1JBTlQgU0VMRUNUIE9OICouKiBUTyAne3tuYW1lfX0nQCclJzs=";
const BASE64_LIST: &str = "WyJDUkVBVEUgVVNFUiAne3tuYW1lfX0nQCclJyBJREVOVElGSUVEIEJZICd7e3Bhc3N3b3JkfX0nIiwgIkdSQU5UIFNFTEVDVCBPTiAqLiogVE8gJ3t7bmFtZX19J0AnJSciXQ==";

pub fn rows(t: &mut Table) {
    one_life(t);
    forms(t);
    failures(t);
    revocations(t);
    t.list("roles");
}

fn one_life(t: &mut Table) {
    t.post(
        "roles/myr",
        json!({ "db_name": "my", "creation_statements": GRANTED, "default_ttl": "1m", "max_ttl": "5m" }),
    );
    t.get("roles/myr");
    t.mint("myr", "one");
    t.login("one");
    t.lookup("one");
    t.renew("one", 100);
    t.renew("one", 0);
    t.renew("one", 99_999).note("capped");
    t.login("one");
    t.revoke("one");
    t.login("one");
    t.lookup("one");
    t.revoke("one").note("again");
    t.mint("myr", "s");
    t.open_session("s");
    t.revoke("s");
    t.session_lives("s").differs("sessions-end", 0, "session ended");
    t.post(
        "roles/brief",
        json!({ "db_name": "my", "creation_statements": CREATE, "default_ttl": "3s", "max_ttl": "6s" }),
    );
    t.mint("brief", "brief");
    t.wait_gone("brief").note("it ends by itself");
    t.renew("brief", 0);
    t.delete("roles/brief");
    t.post(
        "roles/renews",
        json!({ "db_name": "my", "creation_statements": CREATE, "default_ttl": "1h",
                                   "renew_statements": ["GRANT SELECT ON shop.orders TO '{{name}}'@'%'"] }),
    );
    t.mint("renews", "renews");
    t.renew("renews", 60).differs("renew-statements", 200, "GRANT SELECT ON `shop`.`orders`");
    t.revoke("renews");
    t.delete("roles/renews");
    for name in ["m1", "m2"] {
        t.mint("myr", name);
    }
    t.request("PUT", "sys/leases/revoke-prefix/{mount}/creds/myr", Some(json!({ "sync": true })));
    t.login("m1");
}

/// Every form in which statements are written.
fn forms(t: &mut Table) {
    for statements in [
        json!(GRANTED),
        json!([CREATE, "GRANT SELECT ON shop.* TO '{{name}}'@'%'"]),
        json!([format!("{CREATE};"), "GRANT SELECT ON shop.* TO '{{username}}'@'%';"]),
        json!(BASE64),
        json!(BASE64_LIST),
        json!([BASE64]),
        json!(
            "[\"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'\", \"GRANT SELECT ON *.* TO '{{name}}'@'%'\"]"
        ),
        json!("CREATE USER '{{name}}' IDENTIFIED BY '{{password}}';GRANT INSERT ON shop.orders TO '{{name}}';;"),
        json!("CREATE USER '{{name}}'@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('{{password}}')"),
        json!("CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}' WITH MAX_USER_CONNECTIONS 3"),
        json!(
            "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT ALL ON shop.* TO '{{name}}'@'%' WITH GRANT OPTION"
        ),
        json!(["CREATE USER '{{name}}'@'%'", "SET PASSWORD FOR '{{name}}'@'%' = PASSWORD('{{password}}')"]),
        json!("GRANT SELECT ON shop.orders TO '{{name}}'@'%' IDENTIFIED BY '{{password}}'"),
    ] {
        t.post("roles/myf", json!({ "db_name": "my", "creation_statements": statements, "default_ttl": "1h" }));
        t.get("roles/myf");
        t.mint("myf", "form");
        t.login("form");
        t.revoke("form");
        t.login("form");
    }
    t.delete("roles/myf");
}

fn failures(t: &mut Table) {
    t.post("roles/none", json!({ "db_name": "my" }));
    t.get("creds/none").note("no creation statements");
    t.post("roles/none", json!({ "db_name": "closed", "creation_statements": CREATE }));
    t.get("creds/none").note("down");
    t.post(
        "roles/mybad",
        json!({ "db_name": "my", "creation_statements": [CREATE, "GRANT SELECT ON nosuch.tbl TO '{{name}}'@'%'"],
                "rollback_statements": ["DROP USER '{{name}}'@'%'"] }),
    );
    t.get("creds/mybad").differs("failed-mint-leaves-nothing", 500, "Table 'nosuch.tbl' doesn't exist").note("midway");
    t.post("roles/mybad", json!({ "creation_statements": ["CREATE USR '{{name}}'"] }));
    t.get("creds/mybad").note("a syntax error");
    t.post("roles/mybad", json!({ "creation_statements": ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}"] }));
    t.get("creds/mybad").differs("errors-hold-no-password", 500, "cannot be filled in safely").note("an open quote");
    t.post("roles/mybad", json!({ "creation_statements": ["CREATE USER '{{name}}'@'%' IDENTIFIED BY 'a;b'"] }));
    t.get("creds/mybad").save("semicolon").differs("statements-are-lexed", 200, "").note("a semicolon in a literal");
    t.drop_user("semicolon");
    t.post("roles/mybad", json!({ "creation_statements": ["SELECT 1"] }));
    t.get("creds/mybad").differs("mint-makes-its-user", 500, "did not create the user").note("creates no user");
    t.post(
        "config/weak",
        json!({ "plugin_name": super::PLUGIN, "connection_url": "{url}", "username": "weak",
                                  "password": "weak", "allowed_roles": "*" }),
    )
    .differs("missing-rights", 200, "cannot see sessions");
    t.post("roles/mybad", json!({ "db_name": "weak", "creation_statements": CREATE }));
    t.get("creds/mybad").note("may not create users");
    t.delete("roles/mybad");
    t.delete("roles/none");
    t.delete("config/weak");
}

fn revocations(t: &mut Table) {
    t.post("roles/myhost", json!({ "db_name": "my", "default_ttl": "1h",
                                   "creation_statements": "CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'" }));
    t.mint("myhost", "local");
    t.revoke("local").differs("every-host", 204, "removed").note("a user of another host");
    t.drop_user("local");
    t.post("roles/two", json!({ "db_name": "my", "default_ttl": "1h",
                                "creation_statements": [CREATE, "CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'"] }));
    t.mint("two", "two");
    t.revoke("two").differs("every-host", 204, "removed").note("two hosts");
    t.drop_user("two");

    t.post(
        "roles/mydrop",
        json!({ "db_name": "my", "creation_statements": CREATE, "default_ttl": "1h",
                                   "revocation_statements": ["DROP USER '{{name}}'@'%'"] }),
    );
    t.mint("mydrop", "custom");
    t.revoke("custom").note("statements of its own");
    t.mint("mydrop", "gone");
    t.drop_user("gone");
    t.revoke("gone").differs("gone-is-revoked", 204, "").note("the user is gone");
    t.mint("myr", "plain");
    t.drop_user("plain");
    t.revoke("plain").note("the user is gone, without statements");

    t.post("roles/mydrop", json!({ "revocation_statements": ["DROP USR x"] }));
    t.mint("mydrop", "bad");
    t.revoke("bad").differs("revoke-contains-first", 204, "account_locked").note("a syntax error");
    t.post("roles/mydrop", json!({ "revocation_statements": [] }));
    t.revoke("bad").differs("revoke-contains-first", 204, "").note("mended");
    t.drop_user("bad");
    t.mint("mydrop", "orphan");
    t.delete("roles/mydrop");
    t.revoke("orphan").note("the role is gone");
    t.delete("roles/two");
    t.delete("roles/myhost");
}
