//! `creds/:name` and the life of a lease.

use serde_json::json;

use super::LOGIN;
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    refused(t);
    one_life(t);
    many_leases(t);
    times(t);
    passwords(t);
}

fn refused(t: &mut Table) {
    t.get("creds/unknown");
    t.post("roles/empty", json!({ "db_name": "pg" }));
    t.get("creds/empty").note("no creation statements");
    t.post("config/pg", json!({ "allowed_roles": "app,ro-*,p*l" }));
    t.post("roles/other", json!({ "db_name": "pg", "creation_statements": LOGIN }));
    t.get("creds/other").note("not allowed");
    t.post("roles/ro-x", json!({ "db_name": "pg", "creation_statements": LOGIN }));
    t.mint("ro-x", "glob").note("allowed by a glob");
    t.revoke("glob");
    t.post("config/pg", json!({ "allowed_roles": "" }));
    t.get("creds/ro-x").note("nobody");
    t.post("config/pg", json!({ "allowed_roles": "*" }));
    t.post("roles/other", json!({ "db_name": "noverify" }));
    t.get("creds/other").note("unreachable");
    t.post("creds/app", json!({}));
    t.request("PUT", "{mount}/creds/app", None);
    t.delete("creds/app");
    t.list("creds");
    t.list("creds/app");
    t.get("creds/-bad");
    t.get("creds");
    t.post(
        "config/weak",
        json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "{url}", "username": "weak",
                "password": "weak", "allowed_roles": "*" }),
    )
    .differs("missing-rights", 200, "cannot create users");
    t.post("roles/other", json!({ "db_name": "weak" }));
    t.get("creds/other").note("may not create roles");
    t.delete("config/weak");
    for role in ["empty", "other", "ro-x"] {
        t.delete(&format!("roles/{role}"));
    }
}

fn one_life(t: &mut Table) {
    t.post(
        "roles/app",
        json!({ "creation_statements": [LOGIN, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{{name}}\""],
                "default_ttl": "1m", "max_ttl": "5m" }),
    );
    t.mint("app", "one");
    t.login("one");
    t.lookup("one");
    t.request("LIST", "sys/leases/lookup/{mount}/creds/app", None);
    t.renew("one", 120);
    t.renew("one", 0);
    t.renew("one", 99_999).note("capped");
    t.lookup("one");
    t.request("PUT", "sys/leases/renew/{lease:one}", Some(json!({ "increment": "90s" }))).note("lease in the path");
    t.revoke("one");
    t.login("one");
    t.lookup("one").note("after the revocation");
    t.renew("one", 0);
    t.revoke("one").note("again");
    t.request("LIST", "sys/leases/lookup/{mount}/creds/app", None);
    t.get("creds/app?ttl=5m").save("query").note("no such parameter");
    t.request("PUT", "sys/revoke", Some(json!({ "lease_id": "{lease:query}" }))).note("the old path");
    t.login("query");
}

fn many_leases(t: &mut Table) {
    for name in ["m1", "m2", "m3"] {
        t.mint("app", name);
    }
    t.request("PUT", "sys/leases/revoke", Some(json!({ "lease_id": "{lease:m1}" }))).note("not waited for");
    t.wait_gone("m1");
    t.request("PUT", "sys/leases/revoke-prefix/{mount}/creds/app", Some(json!({ "sync": true })));
    t.login("m3");
    t.mint("app", "forced");
    t.request("PUT", "sys/leases/revoke-force/{mount}/creds/app", Some(json!({}))).note("asks us to revoke as well");
    t.lookup("forced");
    t.login("forced");
    t.drop_user("forced");

    t.request(
        "PUT",
        "sys/policies/acl/policy-{mount}-mint",
        Some(json!({ "policy": "path \"{mount}/creds/*\" { capabilities = [\"read\"] }" })),
    );
    t.request("POST", "auth/token/create", Some(json!({ "policies": ["policy-{mount}-mint"], "ttl": "1h" })))
        .save("holder");
    t.mint("app", "held").token("holder");
    t.login("held");
    t.request("POST", "auth/token/revoke", Some(json!({ "token": "{token:holder}" })));
    t.wait_gone("held").note("its leases end with the token");
    t.lookup("held");

    t.get("creds/app").header("X-Vault-Wrap-TTL", "60s").save("wrapped");
    t.request("POST", "sys/wrapping/unwrap", Some(json!({ "token": "{token:wrapped}" }))).save("unwrapped");
    t.login("unwrapped");
    t.revoke("unwrapped");
}

fn times(t: &mut Table) {
    t.post("roles/ttl", json!({ "db_name": "pg", "creation_statements": LOGIN }));
    t.mint("ttl", "t0").note("the system's default");
    t.request("POST", "sys/mounts/{mount}/tune", Some(json!({ "default_lease_ttl": "30m", "max_lease_ttl": "45m" })));
    t.mint("ttl", "t1").note("the mount's default");
    t.renew("t1", 7200).note("above the mount's maximum");
    t.renew("t0", 0).note("an old lease");
    t.post("roles/ttl", json!({ "default_ttl": "2h", "max_ttl": "3h" }));
    t.mint("ttl", "t2").note("capped by the mount");
    t.post("roles/ttl", json!({ "default_ttl": "20m", "max_ttl": "10m" })).differs(
        "ttl-above-max",
        200,
        "cut to max_ttl",
    );
    t.mint("ttl", "t3").note("capped by the role");
    t.renew("t3", 0);
    t.renew("t3", 60);
    t.post("roles/ttl", json!({ "default_ttl": 0, "max_ttl": "15m" }));
    t.mint("ttl", "t4").note("only a maximum");
    t.request("POST", "sys/mounts/{mount}/tune", Some(json!({ "default_lease_ttl": "768h", "max_lease_ttl": "768h" })));
    for name in ["t0", "t1", "t2", "t3", "t4"] {
        t.revoke(name);
    }
    t.post("roles/ttl", json!({ "default_ttl": "4s", "max_ttl": "8s" }));
    t.mint("ttl", "short");
    t.wait_gone("short").note("it ends by itself");
    t.renew("short", 0);
    t.lookup("short");
    t.delete("roles/ttl");
}

fn passwords(t: &mut Table) {
    t.post("roles/pol", json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h" }));
    t.request(
        "PUT",
        "sys/policies/password/pp",
        Some(json!({ "policy": "length = 12\nrule \"charset\" { charset = \"abc123\" }" })),
    );
    t.post("config/pg", json!({ "password_policy": "pp" }));
    t.mint("pol", "p1").note("the connection's policy");
    t.login("p1");
    t.revoke("p1");
    t.post("roles/pol", json!({ "credential_config": { "password_policy": "nosuch" } }));
    t.get("creds/pol").note("the role's policy, missing");
    t.request(
        "PUT",
        "sys/policies/password/qq",
        Some(json!({ "policy": "length = 13\nrule \"charset\" { charset = \"'\" }" })),
    );
    t.post(
        "roles/pol",
        json!({ "credential_config": { "password_policy": "qq" },
                "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'" }),
    );
    t.get("creds/pol").save("quoted").differs("values-are-quoted", 200, "<13 others>").note("a quote in the password");
    t.drop_user("quoted");
    t.post("config/pg", json!({ "password_policy": "" }));
    t.delete("roles/pol");
    t.post("config/pg", json!({ "password_authentication": "scram-sha-256" }));
    t.mint("app", "scram");
    t.login("scram");
    t.revoke("scram");
    t.post("config/pg", json!({ "password_authentication": "password" }));
}
