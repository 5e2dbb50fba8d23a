//! The harness itself: servers start, answer and end.

use serde_json::json;

use crate::support::bao::Bao;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};

/// The built-in engine mints a user who can log in until the lease is revoked: what every other test is built on.
#[test]
fn the_built_in_engine_works_in_the_harness() {
    let postgres = Postgres::start();
    let bao = Bao::start();
    let client = bao.client();
    bao.mount("database", "database");
    client
        .post(
            "database/config/pg",
            json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(), "username": ADMIN,
                    "password": ADMIN_PASSWORD, "allowed_roles": "*" }),
        )
        .expect(204);
    client
        .post(
            "database/roles/app",
            json!({ "db_name": "pg", "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'" }),
        )
        .expect(204);
    let minted = client.get("database/creds/app").expect(200);
    let user = minted["data"]["username"].as_str().unwrap();
    let password = minted["data"]["password"].as_str().unwrap();
    assert_eq!(postgres.login(user, password, "SELECT current_user").as_deref(), Ok(user));
    assert!(postgres.login(user, "wrong", "SELECT 1").is_err(), "TCP logins need the password");

    let mut session = postgres.session(user, password);
    assert_eq!(session.one("SELECT 1 + 1").as_deref(), Some("2"));
    postgres.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"));
    assert_eq!(session.one("SELECT 1 + 1"), None);

    client.revoke(minted["lease_id"].as_str().unwrap()).expect(204);
    assert!(postgres.login(user, password, "SELECT 1").is_err());
}
