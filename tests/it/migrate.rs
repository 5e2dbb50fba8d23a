//! `leasehold migrate` against a live mount of the built-in engine.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::bao::{self, Bao, PLUGIN};
use crate::support::plugin;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};

const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

/// Runs it; whether it succeeded, and all that it said.
fn migrate(bao: &Bao, more: &[&str]) -> (bool, String) {
    let run = Command::new(plugin())
        .args(["migrate", "--from=database/", "--to=leasehold/", "--program"])
        .arg(bao::program())
        .args(more)
        .env("BAO_ADDR", bao.address())
        .env("BAO_TOKEN", bao.client().token())
        .env("HOME", bao.temporary())
        .output()
        .unwrap();
    let text = [&run.stdout[..], &run.stderr[..]].concat();
    (run.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_live_mount_of_the_built_in_engine_moves_over_and_back() {
    let (bao, postgres) = std::thread::scope(|scope| {
        let postgres = scope.spawn(Postgres::start);
        (Bao::start(), postgres.join().unwrap())
    });
    let client = bao.client();
    bao.register();
    bao.mount("database", "database");
    let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(),
        "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "app,batch", "max_open_connections": 7 });
    client.post("database/config/pg", connection).expect(204);
    let role = json!({ "db_name": "pg", "creation_statements": CREATION, "default_ttl": "5m", "max_ttl": "1h" });
    client.post("database/roles/app", role).expect(204);
    postgres.sql("CREATE ROLE batch LOGIN PASSWORD 'first'");
    let account = json!({ "db_name": "pg", "username": "batch", "rotation_period": "24h" });
    client.post("database/static-roles/batch", account).expect(204);
    let password = |mount: &str| client.get(&format!("{mount}/static-creds/batch")).data()["password"].clone();
    let before = password("database");

    let (done, told) = migrate(&bao, &[]);
    assert!(!done && told.contains("nothing is mounted at leasehold/"), "{told}");
    bao.mount("leasehold", PLUGIN);
    let (done, told) = migrate(&bao, &[]);
    assert!(!done && told.contains("config/pg: NOT DONE") && told.contains("--secrets"), "{told}");
    let secrets = bao.temporary().join("secrets.json");
    std::fs::write(&secrets, json!({ "config/pg": { "password": ADMIN_PASSWORD } }).to_string()).unwrap();
    let secrets = format!("--secrets={}", secrets.display());

    let (done, told) = migrate(&bao, &[&secrets, "--dry-run"]);
    assert!(done && told.contains("config/pg: would be written"), "{told}");
    assert_eq!(client.list("leasehold/config").status, 404);

    // While the old mount is read, and all the time after.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut minted = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let answer = client.get("database/creds/app").expect(200);
                minted.push(answer["lease_id"].as_str().unwrap().to_owned());
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            minted
        });
        let (done, told) = migrate(&bao, &[&secrets]);
        assert!(done, "{told}");
        for line in ["config/pg: written and tried", "roles/app: written and tried", "static-roles/batch: stays"] {
            assert!(told.contains(line), "{told}");
        }
        let (again, told) = migrate(&bao, &[]);
        assert!(again && told.contains("config/pg: is there already"), "{told}");
        stop.store(true, Ordering::SeqCst);
        assert!(!reading.join().unwrap().is_empty());
    });
    assert_eq!(
        client.get("leasehold/config/pg").data()["connection_details"]["max_open_connections"]
            .to_string()
            .replace('"', ""),
        "7"
    );
    client.get("leasehold/creds/app").expect(200);

    // The server would end what is alive.
    let (done, told) = migrate(&bao, &[&secrets, "--switch", "--dry-run"]);
    assert!(!done && told.contains("--end-leases"), "{told}");
    let (done, told) = migrate(&bao, &["--switch", "--end-leases"]);
    assert!(done && told.contains("static-roles/batch: taken over"), "{told}");
    assert_eq!(client.get("sys/mounts/database").data()["type"], PLUGIN);
    assert_eq!(client.get("sys/mounts/database-before-leasehold").data()["type"], "database");
    assert_eq!(password("database"), before, "the account keeps its password");
    postgres.login("batch", before.as_str().unwrap(), "SELECT 1").unwrap();
    let minted = client.get("database/creds/app").expect(200);
    let text = |name: &str| minted["data"][name].as_str().unwrap();
    postgres.login(text("username"), text("password"), "SELECT 1").unwrap();
    assert!(client.get("database/status/pg").data()["users"]["live"].as_u64() >= Some(1));

    let (done, told) = migrate(&bao, &["--back", "--end-leases"]);
    assert!(done, "{told}");
    assert_eq!(client.get("sys/mounts/database").data()["type"], "database");
    postgres.login("batch", password("database").as_str().unwrap(), "SELECT 1").unwrap();
    assert_eq!(client.get("leasehold/static-roles/batch").body["data"], Value::Null);
    client.get("database/creds/app").expect(200);
    let (done, told) = migrate(&bao, &["--back"]);
    assert!(!done && told.contains("nothing to undo"), "{told}");
}
