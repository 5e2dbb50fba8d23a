//! A host that was restored and may not drop anybody yet.

use serde_json::json;

use crate::support::bao::{self, Bao, PLUGIN};
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};

/// By what holds it back: the environment of the host, or an argument in its catalogue.
fn started(postgres: &Postgres, variable: Option<&str>, argument: Option<&str>) -> Bao {
    let variable: Vec<(&str, &str)> = variable.map(|mode| ("LEASEHOLD_REVOCATION_MODE", mode)).into_iter().collect();
    let bao = Bao::start_in(&variable, "debug", |_| String::new());
    let argument: Vec<String> = argument.map(|mode| format!("--revocation-mode={mode}")).into_iter().collect();
    let arguments: Vec<&str> = argument.iter().map(String::as_str).collect();
    bao::register(&bao.client(), &bao.plugins(), &arguments);
    bao.mount("database", PLUGIN);
    let connection = json!({
        "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(), "allowed_roles": "*",
        "username": ADMIN, "password": ADMIN_PASSWORD,
    });
    bao.client().post("database/config/pg", connection).expect(204);
    let role =
        json!({ "db_name": "pg", "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'" });
    bao.client().post("database/roles/app", role).expect(204);
    bao
}

#[test]
fn a_host_that_is_told_to_hold_back_drops_nobody() {
    let postgres = Postgres::start();
    for (variable, argument, mode) in [
        (Some("paused"), None, "paused"),
        (None, Some("report_only"), "report_only"),
        (Some("normal"), Some("report_only"), "report_only"),
    ] {
        let bao = started(&postgres, variable, argument);
        let client = bao.client();
        let minted = client.get("database/creds/app").expect(200);
        let (lease, user) = (minted["lease_id"].as_str().unwrap(), minted["data"]["username"].as_str().unwrap());
        let password = minted["data"]["password"].as_str().unwrap();
        let refused = client.revoke(lease);
        assert!(refused.status >= 400, "{}", refused.body);
        let log = bao.log();
        assert!(log.contains(&format!("is {mode}; set it to normal")), "the host was not told why");
        assert_eq!(log.contains("would be ended"), mode == "report_only");
        assert_eq!(postgres.login(user, password, "SELECT 1").as_deref(), Ok("1"));
        assert_eq!(client.lookup(lease).status, 200, "the lease is not given up");
    }
}

#[test]
fn a_mode_that_does_not_exist_is_refused() {
    let postgres = Postgres::start();
    let bao = Bao::start();
    bao.register();
    bao.mount("database", PLUGIN);
    let connection = json!({
        "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(), "username": ADMIN,
        "password": ADMIN_PASSWORD, "revocation_mode": "maybe",
    });
    let refused = bao.client().post("database/config/pg", connection).expect(400);
    assert!(refused.to_string().contains("normal, report_only or paused"), "{refused}");
}
