//! `leasehold migrate` against a live mount of the built-in engine.

mod load;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bao::{self, Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::{plugin, wait_for};
use load::Load;

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

/// A host with the built-in engine at `database/`: a connection, a role, and a user whose password changes.
fn built_in() -> (Bao, Postgres, Client) {
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
    (bao, postgres, client)
}

/// The file with what the server does not return, as an argument.
fn secrets(bao: &Bao) -> String {
    let secrets = bao.temporary().join("secrets.json");
    std::fs::write(&secrets, json!({ "config/pg": { "password": ADMIN_PASSWORD } }).to_string()).unwrap();
    format!("--secrets={}", secrets.display())
}

#[test]
fn a_live_mount_of_the_built_in_engine_moves_over_and_back() {
    let (bao, postgres, client) = built_in();
    let password = |mount: &str| client.get(&format!("{mount}/static-creds/batch")).data()["password"].clone();
    let before = password("database");

    let (done, told) = migrate(&bao, &[]);
    assert!(!done && told.contains("nothing is mounted at leasehold/"), "{told}");
    bao.mount("leasehold", PLUGIN);
    let (done, told) = migrate(&bao, &[]);
    assert!(!done && told.contains("config/pg: NOT DONE") && told.contains("--secrets"), "{told}");
    let secrets = secrets(&bao);
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
                std::thread::sleep(Duration::from_millis(50));
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

/// Applications mint, renew and revoke all the time: while the mount is copied, while it is switched, and afterwards.
#[test]
fn a_mount_under_load_is_copied_without_a_failed_request_and_switched_with_a_short_gap() {
    const LIMIT: Duration = Duration::from_secs(60);
    let (bao, postgres, client) = built_in();
    bao.mount("leasehold", PLUGIN);
    let secrets = secrets(&bao);
    let load = Load::start(&client, 3);
    let minted = |more: usize| {
        let wanted = load.so_far().minted + more;
        wait_for("mints", LIMIT, || (load.so_far().minted >= wanted).then_some(()));
    };
    minted(5);
    let (done, told) = migrate(&bao, &[&secrets]);
    assert!(done, "{told}");
    minted(5);
    let copied = load.so_far();
    assert!(copied.failed.is_empty(), "{:?}", copied.failed);
    assert!(copied.renewed > 0);

    let begun = Instant::now();
    let (done, told) = migrate(&bao, &["--switch", "--end-leases"]);
    assert!(done, "{told}");
    let over = Instant::now();
    minted(5);
    wait_for("a renewal", LIMIT, || (load.so_far().renewed > copied.renewed + 5).then_some(()));
    let tally = load.end();
    let kind = client.get("sys/mounts/database").data()["type"].clone();
    assert_eq!(kind, PLUGIN);

    // Nothing failed but what was sent during the switch, or was about a lease that it ended.
    let excused = |failed: &&load::Failed| match failed.born {
        None => (begun..=over).contains(&failed.sent),
        Some(born) => born <= over,
    };
    let (expected, others): (Vec<_>, Vec<_>) = tally.failed.iter().partition(excused);
    assert!(others.is_empty(), "{others:?}");
    let words: BTreeSet<&str> = expected.iter().map(|failed| failed.why.as_str()).collect();
    println!("what was said of the switch: {words:#?}");
    let gap = |mut mints: Vec<Instant>| {
        mints.sort();
        mints.last().zip(mints.first()).map_or(Duration::ZERO, |(last, first)| *last - *first)
    };
    let gap = gap(expected.iter().filter(|failed| failed.mint).map(|failed| failed.sent).collect());
    println!(
        "the switch took {:.1?}, and {gap:.1?} of it nobody minted; {} mints and {} other requests failed, of {} and {}",
        over - begun,
        expected.iter().filter(|failed| failed.mint).count(),
        expected.iter().filter(|failed| !failed.mint).count(),
        tally.minted,
        tally.renewed
    );
    // Each lease has its user, and no user is without a lease but one whose mint was not answered.
    let users = || -> Vec<String> {
        let ask = "SELECT coalesce(json_agg(rolname), '[]') FROM pg_roles WHERE rolname LIKE 'v-%'";
        serde_json::from_value(postgres.json(ask)).unwrap()
    };
    let alive: Vec<&String> =
        tally.held.iter().filter(|held| client.lookup(&held.lease).status == 200).map(|held| &held.username).collect();
    assert!(!alive.is_empty());
    let left = users();
    assert!(alive.iter().all(|user| left.contains(user)), "{alive:?} {left:?}");
    assert!(tally.ended.iter().all(|user| !left.contains(user)), "{left:?}");
    let without: Vec<&String> = left.iter().filter(|user| !alive.contains(user)).collect();
    assert!(without.len() <= expected.iter().filter(|failed| failed.mint).count(), "{without:?}");
}
