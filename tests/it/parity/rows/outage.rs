//! A database that is not there for a while.

use serde_json::json;

use super::LOGIN;
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    t.post(
        "config/spare",
        json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "{spare}", "username": "vaultadmin",
                "password": "rootpw", "allowed_roles": "*" }),
    );
    t.post("roles/sp", json!({ "db_name": "spare", "creation_statements": LOGIN, "default_ttl": "1h" }));
    t.mint("sp", "s1");
    t.mint("sp", "s2");
    t.post(
        "roles/spmake",
        json!({ "db_name": "spare",
                "creation_statements": [LOGIN, "CREATE ROLE \"{mount}-sp\" LOGIN PASSWORD 'sp'"] }),
    );
    t.mint("spmake", "s4").note("makes a user for the static role");
    t.post("static-roles/stsp", json!({ "db_name": "spare", "username": "{mount}-sp", "rotation_period": 60 }));
    t.stop_spare();
    t.get("creds/sp").note("a pooled connection is dead");
    t.get("creds/sp").note("refused");
    t.renew("s1", 60);
    t.revoke("s1");
    t.lookup("s1").note("the lease stays");
    t.request("PUT", "sys/leases/revoke", Some(json!({ "lease_id": "{lease:s1}" }))).note("not waited for");
    t.post("config/spare", json!({ "allowed_roles": "sp" })).note("verified");
    t.post("config/spare", json!({ "allowed_roles": "sp", "verify_connection": false }));
    t.get("config/spare");
    t.get("creds/sp").note("a fresh instance");
    t.post("reset/spare", json!({}));
    t.get("creds/sp").note("after the reset");
    t.mint("app", "elsewhere").note("another connection goes on");
    t.revoke("elsewhere");
    t.get("static-creds/stsp").note("from storage");
    t.post("rotate-role/stsp", json!({}));
    t.post("rotate-root/spare", json!({}));
    t.post("static-roles/stsp2", json!({ "db_name": "spare", "username": "{mount}-sp", "rotation_period": 60 }));
    t.get("static-roles/stsp2").note("not stored");
    t.start_spare();
    t.post("rotate-role/stsp", json!({}));
    t.delete("static-roles/stsp");
    t.revoke("s4");
    t.delete("roles/spmake");
    t.mint("sp", "s3");
    t.renew("s2", 60);
    for name in ["s1", "s2", "s3"] {
        t.revoke(name);
    }
    t.delete("roles/sp");
    t.delete("config/spare");
}
