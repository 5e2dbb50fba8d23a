//! `roles/:name`.

use serde_json::json;

use super::LOGIN;
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    t.get("roles/nope").note("missing");
    t.list("roles").note("empty");
    t.post("roles/app", json!({})).note("no db_name");
    t.post("roles/app", json!({ "db_name": "" }));
    t.post("roles/app", json!({ "db_name": "doesnotexist" })).note("not looked up");
    t.get("roles/app").note("defaults");
    t.get("creds/app").note("no such connection");
    t.delete("roles/app");
    t.delete("roles/app").note("again");
    t.get("roles/app");
    types(t);
    times(t);
    credential_types(t);
    updates(t);
    names_and_lists(t);
}

/// What each field takes.
fn types(t: &mut Table) {
    for body in [
        json!({ "db_name": ["pg"] }),
        json!({ "db_name": { "a": 1 } }),
        json!({ "db_name": 5 }),
        json!({ "db_name": true }),
        json!({ "db_name": null }),
        json!({ "db_name": 1.5 }),
    ] {
        t.post("roles/types", body);
        t.get("roles/types");
    }
    t.post("roles/types", json!({ "db_name": "pg" }));
    for field in ["creation_statements", "revocation_statements", "renew_statements", "rollback_statements"] {
        for value in [
            json!("one; two"),
            json!(["one", "", "two"]),
            json!(""),
            json!([]),
            json!([1, true]),
            json!({ "a": 1 }),
            json!([{ "a": 1 }]),
            json!([null]),
            json!([["x"]]),
            json!(5),
            json!(false),
            json!(null),
        ] {
            let mut body = json!({});
            body[field] = value;
            t.post("roles/types", body);
            t.get("roles/types");
        }
    }
    t.post("roles/types", json!({ "unknown_field": 1 })).note("ignored");
    t.post("roles/types", json!("notjson"));
    t.post("roles/types", json!([1]));
    t.request("POST", "{mount}/roles/types", None).note("no body");
    t.get("roles/types");
    t.delete("roles/types");
}

/// Durations.
fn times(t: &mut Table) {
    for value in [
        json!("abc"),
        json!(-5),
        json!("-5"),
        json!("-5s"),
        json!(1.5),
        json!("1.5"),
        json!("1.5h"),
        json!("30"),
        json!("90s"),
        json!("1h30m"),
        json!("1d"),
        json!("1w"),
        json!("1d2h"),
        json!("500ms"),
        json!("1500ms"),
        json!(" 5"),
        json!(""),
        json!(null),
        json!(true),
        json!([1]),
        json!({ "a": 1 }),
        json!(0),
        json!("0"),
        json!(9_999_999_999_u64),
        json!("99999999999999999999"),
    ] {
        t.post("roles/times", json!({ "db_name": "pg", "default_ttl": value }));
        t.get("roles/times");
    }
    t.post("roles/times", json!({ "max_ttl": "1w" }));
    t.post("roles/times", json!({ "max_ttl": "2d" }));
    t.get("roles/times");
    t.post("roles/times", json!({ "default_ttl": "2h", "max_ttl": "1h" })).note("more than the maximum").differs(
        "ttl-above-max",
        200,
        "cut to max_ttl",
    );
    t.get("roles/times");
    t.delete("roles/times");
}

fn credential_types(t: &mut Table) {
    for (kind, config) in [
        (json!("zzz"), json!(null)),
        (json!(""), json!(null)),
        (json!(["password"]), json!(null)),
        (json!("password"), json!({ "password_policy": "p" })),
        (json!("password"), json!({})),
        (json!("password"), json!("password_policy=q")),
        (json!("password"), json!(["password_policy=r"])),
        (json!("password"), json!({ "nope": "x" })),
        (json!("password"), json!(5)),
        (json!("password"), json!({ "password_policy": 5 })),
        (json!("rsa_private_key"), json!({ "key_bits": 1024 })),
        (json!("rsa_private_key"), json!({ "key_bits": "abc" })),
        (json!("rsa_private_key"), json!({ "format": "x" })),
        (json!("rsa_private_key"), json!({ "key_bits": 3072, "format": "pkcs8" })),
        (json!("rsa_private_key"), json!({})),
        (json!("client_certificate"), json!({})),
    ] {
        let mut body = json!({ "db_name": "pg", "credential_type": kind });
        if !config.is_null() {
            body["credential_config"] = config;
        }
        t.post("roles/kinds", body);
        t.get("roles/kinds");
        t.delete("roles/kinds");
    }
    t.post(
        "roles/kinds",
        json!({ "db_name": "pg", "credential_type": "rsa_private_key", "creation_statements": LOGIN }),
    );
    t.get("roles/kinds");
    t.get("creds/kinds").note("not for this database");
    t.post("roles/kinds", json!({ "credential_type": "password" })).note("changed");
    t.get("roles/kinds").differs("credential-config-clears", 200, "\"credential_type\":\"password\"");
    t.delete("roles/kinds");
    t.post("roles/kinds", json!({ "db_name": "pg", "credential_config": { "password_policy": "p" } }));
    t.post("roles/kinds", json!({ "credential_config": {} }));
    t.get("roles/kinds").differs("credential-config-clears", 200, "\"db_name\":\"pg\"");
    t.delete("roles/kinds");
}

fn updates(t: &mut Table) {
    t.post(
        "roles/app",
        json!({ "db_name": "pg", "creation_statements": [LOGIN], "default_ttl": "1m", "max_ttl": "1h", "foo": "bar" }),
    );
    t.get("roles/app");
    t.post("roles/app", json!({ "max_ttl": "5m" })).note("partial");
    t.get("roles/app");
    t.request("PUT", "{mount}/roles/app", Some(json!({ "revocation_statements": ["x"], "rollback_statements": "y" })));
    t.get("roles/app");
    t.post("roles/app", json!({ "revocation_statements": "", "rollback_statements": [] })).note("cleared");
    t.get("roles/app");
    t.post("roles/app", json!({ "db_name": "" })).note("an empty connection name on update");
    t.get("roles/app");
    t.request("PATCH", "{mount}/roles/app", Some(json!({ "max_ttl": "5m" })));
    t.request("PATCH", "{mount}/roles/app", Some(json!({ "max_ttl": "5m" })))
        .header("Content-Type", "application/merge-patch+json");
}

fn names_and_lists(t: &mut Table) {
    for name in ["-bad", "trail.", "a/b", "a.b-c_d", "_", "Upper"] {
        t.post(&format!("roles/{name}"), json!({ "db_name": "pg" })).note("names");
        t.get(&format!("roles/{name}"));
    }
    t.list("roles");
    t.list("roles/");
    t.get("roles?list=true");
    t.get("roles/?list=true");
    for query in [
        "limit=1",
        "limit=2&after=_",
        "after=app",
        "after=zzz",
        "limit=0",
        "limit=-1",
        "limit=x",
        "foo=bar",
        "limit=1&foo=bar",
    ] {
        t.list(&format!("roles?{query}")).note("paging");
    }
    t.get("roles?list=true&limit=1&after=a");
    t.get("roles");
    t.post("roles", json!({}));
    t.delete("roles/a.b-c_d");
    t.delete("roles/_");
    t.delete("roles/Upper");
}
