//! Revocation where something is in its way.

use serde_json::json;

use super::LOGIN;
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    what_the_default_cannot_clean(t);
    sessions(t);
    custom_statements(t);
    users_that_are_gone(t);
    roles_and_connections_that_are_gone(t);
}

fn what_the_default_cannot_clean(t: &mut Table) {
    let owner = "CREATE SCHEMA \"s_{{name}}\" AUTHORIZATION \"{{name}}\"";
    t.post("roles/stuck", json!({ "db_name": "pg", "creation_statements": [LOGIN, owner], "default_ttl": "1h" }));
    t.mint("stuck", "owner").note("owns a schema");
    t.revoke("owner").note("owns a schema").differs("revoke-contains-first", 204, "\"login\":false");
    t.lookup("owner").differs("revoke-contains-first", 400, "invalid lease");
    t.request("PUT", "sys/leases/revoke-force/{mount}/creds/stuck", Some(json!({})));
    t.drop_user("owner");
    for (note, grant) in [
        ("a schema without tables", "GRANT USAGE ON SCHEMA app TO \"{{name}}\""),
        ("a function", "GRANT EXECUTE ON FUNCTION app.total TO \"{{name}}\""),
        ("default privileges", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO \"{{name}}\""),
        ("another database", "GRANT CONNECT ON DATABASE other TO \"{{name}}\""),
        ("sequences elsewhere", "GRANT USAGE ON ALL SEQUENCES IN SCHEMA app TO \"{{name}}\""),
    ] {
        t.post("roles/stuck", json!({ "db_name": "pg", "creation_statements": [LOGIN, grant], "default_ttl": "1h" }));
        t.mint("stuck", "stuck").note(note);
        t.revoke("stuck").note(note).differs("revoke-cleans", 204, "\"removed\"");
        t.lookup("stuck").differs("revoke-cleans", 400, "invalid lease");
        t.request("PUT", "sys/leases/revoke-force/{mount}/creds/stuck", Some(json!({})));
        t.drop_user("stuck");
    }
    t.delete("roles/stuck");
}

fn sessions(t: &mut Table) {
    t.post("roles/sess", json!({ "db_name": "pg", "creation_statements": [LOGIN, "GRANT readers TO \"{{name}}\""], "default_ttl": "1h" }));
    t.mint("sess", "sess");
    t.open_session("sess");
    t.revoke("sess");
    t.login("sess");
    t.session_lives("sess").differs("sessions-end", 0, "session ended");
    t.delete("roles/sess");
}

fn custom_statements(t: &mut Table) {
    let role = |revocation: &str| json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h", "revocation_statements": revocation });
    t.post("roles/cust", role("DROP OWNED BY \"{{name}}\"; DROP ROLE \"{{username}}\""));
    t.mint("cust", "c1");
    t.revoke("c1");
    t.mint("cust", "c2");
    t.post("roles/cust", role("DROP ROL"));
    t.revoke("c2").note("the current statements, failing").differs("revoke-contains-first", 204, "\"login\":false");
    t.post("roles/cust", role("DROP ROLE \"{{name}}\"; SELECT '{{password}} {{expiration}}'"));
    t.revoke("c2").differs("revoke-contains-first", 204, "").note("tried again");
    t.drop_user("c2");
    t.mint("cust", "c3");
    t.post("roles/cust", role("ALTER ROLE \"{{name}}\" NOLOGIN"));
    t.revoke("c3").note("statements that leave the user").differs("revoke-contains-first", 204, "\"login\":false");
    t.login("c3");
    t.drop_user("c3");
    t.post("roles/cust", role("DO $$ BEGIN EXECUTE 'DROP ROLE \"{{name}}\"'; END $$;"));
    t.mint("cust", "c4");
    t.revoke("c4").note("a DO block");
    t.delete("roles/cust");
}

fn users_that_are_gone(t: &mut Table) {
    t.post("roles/gone", json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h" }));
    t.mint("gone", "g1");
    t.sql("DROP ROLE \"{user:g1}\"");
    t.renew("g1", 0);
    t.revoke("g1");
    t.post("roles/gone", json!({ "revocation_statements": "DROP ROLE \"{{name}}\"" }));
    t.mint("gone", "g2");
    t.sql("DROP ROLE \"{user:g2}\"");
    t.revoke("g2").differs("gone-is-revoked", 204, "").note("custom statements without IF EXISTS");
    t.request("PUT", "sys/leases/revoke-force/{mount}/creds/gone", Some(json!({})));
    t.delete("roles/gone");
}

fn roles_and_connections_that_are_gone(t: &mut Table) {
    t.post("roles/delr", json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h" }));
    t.mint("delr", "d1");
    t.delete("roles/delr");
    t.renew("d1", 0);
    t.revoke("d1");

    t.post("roles/delr", json!({ "db_name": "pg", "creation_statements": [LOGIN, "GRANT USAGE ON SCHEMA app TO \"{{name}}\""], "default_ttl": "1h", "revocation_statements": "DROP OWNED BY \"{{name}}\"; DROP ROLE \"{{name}}\"" }));
    t.mint("delr", "d2");
    t.delete("roles/delr");
    t.revoke("d2").note("by the statements in the lease");

    t.post("roles/delr", json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h" }));
    t.mint("delr", "d3");
    t.delete("roles/delr");
    t.post("roles/delr", json!({ "db_name": "nosuch", "creation_statements": LOGIN }));
    t.renew("d3", 0).note("the role now names a connection that is not there").differs("ends-where-made", 200, "");
    t.revoke("d3").differs("ends-where-made", 204, "");
    t.post("roles/delr", json!({ "db_name": "pg" }));
    t.revoke("d3").differs("ends-where-made", 204, "");
    t.delete("roles/delr");

    t.post("config/pg2", json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "{url}", "username": "vaultadmin", "password": "rootpw", "allowed_roles": "*" }));
    t.post("roles/delc", json!({ "db_name": "pg2", "creation_statements": LOGIN, "default_ttl": "1h" }));
    t.mint("delc", "d4");
    t.post("config/pg2", json!({ "allowed_roles": "nobody" }));
    t.renew("d4", 60).note("no longer allowed");
    t.delete("config/pg2").differs("connection-in-use", 400, "still needed by 1 live user").note("with a lease");
    t.delete("config/pg2?force=true");
    t.renew("d4", 60);
    t.revoke("d4");
    t.lookup("d4");
    t.request("PUT", "sys/leases/revoke-force/{mount}/creds/delc", Some(json!({})));
    t.login("d4");
    t.drop_user("d4");
    t.delete("roles/delc");
}
