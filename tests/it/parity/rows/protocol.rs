//! What the host makes of a mount: ACL, existence, help, wrapping, paths that are not there.

use serde_json::json;

use super::LOGIN;
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    unknown_paths(t);
    policies(t);
    help(t);
    wrapping(t);
}

fn unknown_paths(t: &mut Table) {
    for path in ["", "nope", "config/a/b", "creds/a/b", "roles//x", "static"] {
        t.get(path);
        t.post(path, json!({}));
    }
    t.list("");
    t.get("roles/app/");
    t.get("../sys/mounts").note("not a way out");
    t.get("creds/app%00");
}

fn policies(t: &mut Table) {
    let policy = r#"
        path "{mount}/roles/new" { capabilities = ["create"] }
        path "{mount}/roles/old" { capabilities = ["update"] }
        path "{mount}/roles/read" { capabilities = ["read"] }
        path "{mount}/config/new" { capabilities = ["create"] }
        path "{mount}/creds/app" { capabilities = ["read"] }
        path "{mount}/roles" { capabilities = ["list"] }
    "#;
    t.request("PUT", "sys/policies/acl/policy-{mount}-limited", Some(json!({ "policy": policy })));
    t.request("POST", "auth/token/create", Some(json!({ "policies": ["policy-{mount}-limited"], "ttl": "1h" })))
        .save("limited");
    let role = json!({ "db_name": "pg", "creation_statements": LOGIN });
    t.post("roles/new", role.clone()).token("limited").note("create");
    t.post("roles/new", role.clone()).token("limited").note("would be an update");
    t.post("roles/old", role.clone()).token("limited").note("would be a creation");
    t.post("roles/old", role.clone());
    t.post("roles/old", role).token("limited").note("update");
    t.get("roles/old").token("limited");
    t.get("roles/read").token("limited").note("missing, readable");
    t.delete("roles/old").token("limited");
    t.list("roles").token("limited");
    t.list("config").token("limited");
    t.post("config/new", json!({})).token("limited").note("fails in the engine, not in the policy");
    t.post("config/pg", json!({})).token("limited");
    t.get("creds/app").token("limited").save("bylimited");
    t.get("creds/old").token("limited");
    t.get("creds/app").token("nosuch").note("no such token");
    t.request("GET", "sys/internal/ui/mounts/{mount}", None).token("nosuch");
    t.request("POST", "sys/capabilities", Some(json!({ "token": "{token:limited}", "paths": ["{mount}/roles/new"] })));
    t.request("PUT", "sys/leases/renew", Some(json!({ "lease_id": "{lease:bylimited}" }))).token("limited");
    t.revoke("bylimited");
    t.delete("roles/new");
    t.delete("roles/old");
}

fn help(t: &mut Table) {
    for path in [
        "",
        "config/pg",
        "config/",
        "roles/app",
        "roles/",
        "creds/app",
        "reset/pg",
        "rotate-root/pg",
        "static-roles/st",
        "static-roles/",
        "static-creds/st",
        "rotate-role/st",
    ] {
        t.get(&format!("{path}?help=1")).differs("help-text", 200, "\"help\":");
    }
    t.get("nope?help=1");
}

fn wrapping(t: &mut Table) {
    t.get("roles/app").header("X-Vault-Wrap-TTL", "60").save("role");
    t.request("POST", "sys/wrapping/unwrap", Some(json!({ "token": "{token:role}" })));
    t.get("roles/nope").header("X-Vault-Wrap-TTL", "60");
    t.get("creds/unknown").header("X-Vault-Wrap-TTL", "60");
}
