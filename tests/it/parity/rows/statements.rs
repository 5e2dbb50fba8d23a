//! The statement language: how texts become statements, and what is filled in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::LOGIN;
use crate::parity::table::{Row, Table};

const GRANT: &str = "GRANT SELECT ON public.customers TO \"{{name}}\"";

pub fn rows(t: &mut Table) {
    let two = format!("{LOGIN} {GRANT};");
    let array = json!([LOGIN, GRANT]).to_string();
    for (note, creation) in [
        ("one text", json!(two)),
        ("a list", json!([LOGIN, GRANT])),
        ("a list with empty ones", json!(["", LOGIN, " ; ;", GRANT])),
        ("base64", json!(STANDARD.encode(&two))),
        ("a list of base64", json!([STANDARD.encode(LOGIN), STANDARD.encode(GRANT)])),
        ("a JSON array in a text", json!(array)),
        ("a JSON array in base64", json!(STANDARD.encode(&array))),
        ("white space", json!(format!("\n\t {LOGIN}\n\n{GRANT}\r\n ;\n"))),
        ("username for name", json!(two.replace("{{name}}", "{{username}}"))),
        ("a line comment", json!(format!("-- a note\n{LOGIN} -- another\n{GRANT}"))),
        ("a block comment", json!(format!("/* a note */ {LOGIN} {GRANT} /* end */"))),
        ("a JSON array with semicolons", json!(json!([two]).to_string())),
        (
            "not filled",
            json!(format!("{LOGIN} COMMENT ON TABLE public.customers IS '{{{{ name }}}} {{{{role}}}} {{{{Name}}}}'")),
        ),
        ("a DO block", json!("DO $$ BEGIN EXECUTE 'CREATE ROLE \"{{name}}\" LOGIN'; END $$;")),
        (
            "a DO block with a password",
            json!(
                "DO $x$ BEGIN EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L', '{{name}}', '{{password}}'); END $x$"
            ),
        ),
        (
            "a DO block after a statement",
            json!([LOGIN, "DO $$ BEGIN EXECUTE 'GRANT readers TO \"{{name}}\"'; END $$;"]),
        ),
        (
            "a function body",
            json!([
                LOGIN,
                "CREATE OR REPLACE FUNCTION pg_temp.f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;"
            ]),
        ),
        (
            "attributes",
            json!(format!(
                "{LOGIN} ALTER ROLE \"{{{{name}}}}\" CONNECTION LIMIT 3 CREATEDB; ALTER ROLE \"{{{{name}}}}\" SET search_path = app;"
            )),
        ),
        ("membership", json!(format!("{LOGIN} GRANT readers TO \"{{{{name}}}}\""))),
        (
            "column privileges",
            json!(format!("{LOGIN} GRANT SELECT (id), UPDATE (secret) ON public.customers TO \"{{{{name}}}}\"")),
        ),
        (
            "sequence privileges",
            json!(format!("{LOGIN} GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO \"{{{{name}}}}\"")),
        ),
        (
            "a quoted schema",
            json!(format!(
                "{LOGIN} GRANT USAGE ON SCHEMA \"my S\" TO \"{{{{name}}}}\"; GRANT ALL ON ALL TABLES IN SCHEMA \"my S\" TO \"{{{{name}}}}\""
            )),
        ),
        ("no password", json!("CREATE ROLE \"{{name}}\" LOGIN")),
    ] {
        created(t, creation).note(note);
        t.login("made");
        t.revoke("made");
    }
    split_better(t);
    refused(t);
    on_renewal(t);
    t.delete("roles/made");
}

/// Writes the role and mints.
#[track_caller]
fn created(t: &mut Table, creation: Value) -> &mut Row {
    t.post("roles/made", json!({ "db_name": "pg", "creation_statements": creation, "default_ttl": "1h" }));
    t.mint("made", "made")
}

/// What a splitter at every semicolon gets wrong.
fn split_better(t: &mut Table) {
    for creation in [
        format!("{LOGIN} COMMENT ON TABLE public.customers IS 'a;b'"),
        format!("{LOGIN} COMMENT ON TABLE public.customers IS $$a;b$$"),
        format!("{LOGIN} /* a;b */ {GRANT}"),
        format!("{LOGIN} -- a;b\n{GRANT}"),
        "do $$ begin execute 'create role \"{{name}}\" login'; end $$;".to_owned(),
    ] {
        created(t, json!(creation)).differs("statements-are-lexed", 200, "\"created\"");
        t.drop_user("made");
    }
}

fn refused(t: &mut Table) {
    for (note, creation) in [
        ("a syntax error", json!("CREATE ROL \"{{name}}\"")),
        ("an error halfway", json!([LOGIN, "GRANT SELECT ON nosuch TO \"{{name}}\""])),
        ("an error halfway in a DO block", json!([LOGIN, "DO $$ BEGIN RAISE EXCEPTION 'no'; END $$;"])),
        ("a name that exists", json!("CREATE ROLE readers; CREATE ROLE \"{{name}}\"")),
        ("not in a transaction", json!([LOGIN, "CREATE DATABASE \"{{name}}\""])),
        ("a division by zero", json!([LOGIN, "SELECT 1/0"])),
    ] {
        created(t, creation).note(note);
    }
    t.post(
        "roles/made",
        json!({ "creation_statements": [LOGIN, "SELECT nosuch()"], "rollback_statements": ["SELECT 1"] }),
    );
    t.get("creds/made").note("rollback statements leave no trace");
}

fn on_renewal(t: &mut Table) {
    t.post(
        "roles/made",
        json!({ "creation_statements": LOGIN, "rollback_statements": "",
                "renew_statements": "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'; ALTER ROLE \"{{username}}\" CONNECTION LIMIT 7" }),
    );
    t.mint("made", "renewed");
    t.renew("renewed", 120).note("renew statements");
    t.post("roles/made", json!({ "renew_statements": ["ALTER ROL"] }));
    t.renew("renewed", 120).note("the current ones, failing");
    t.post(
        "roles/made",
        json!({ "renew_statements": [STANDARD.encode("ALTER ROLE \"{{name}}\" CONNECTION LIMIT 9")] }),
    );
    t.renew("renewed", 120).note("in base64");
    t.post("roles/made", json!({ "renew_statements": [] }));
    t.renew("renewed", 180).note("the default again");
    t.revoke("renewed");
}
