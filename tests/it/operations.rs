//! What the person on call has: status, metrics, a test of a role, and alerts that come true.

mod alerts;

use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::redis::{self, Redis};
use crate::support::{repository, wait_for};
use std::collections::BTreeSet;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

/// A host with our engine at `db/`, and a database behind the connection `pg`.
struct Site {
    client: Client,
    bao: Bao,
    postgres: Postgres,
}

impl Site {
    fn start() -> Site {
        let (bao, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(Postgres::start);
            (Bao::start(), postgres.join().unwrap())
        });
        bao.register();
        bao.mount("db", PLUGIN);
        let site = Site { client: bao.client(), bao, postgres };
        site.connect(json!({}));
        site.role("app", json!({}));
        site
    }

    #[track_caller]
    fn connect(&self, more: Value) {
        self.connect_at("db", more);
    }

    #[track_caller]
    fn connect_at(&self, mount: &str, more: Value) {
        let base = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": self.postgres.url(),
            "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*", "connect_timeout": "2s" });
        self.client.post(&format!("{mount}/config/pg"), with(base, more)).expect(204);
    }

    #[track_caller]
    fn role(&self, name: &str, more: Value) {
        let base = json!({ "db_name": "pg", "creation_statements": CREATION });
        self.client.post(&format!("db/roles/{name}"), with(base, more)).expect(204);
    }

    fn users(&self) -> usize {
        self.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").parse().unwrap()
    }

    #[track_caller]
    fn status(&self) -> Value {
        self.client.get("db/status/pg").data()
    }
}

fn with(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}

/// The text of a mount's `metrics`; `None` if nobody answers.
pub fn scrape(client: &Client, mount: &str) -> Option<String> {
    let answer = client.try_request("GET", &format!("{mount}/metrics"), None, &[]).ok()?;
    match (answer.status, answer.body) {
        (200, Value::String(text)) => Some(text),
        _ => None,
    }
}

/// The values of a metric whose line has all of these labels.
pub fn values(text: &str, metric: &str, labels: &[String]) -> Vec<f64> {
    let of_metric = |line: &&str| {
        line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label.as_str()))
    };
    text.lines().filter(of_metric).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

#[test]
fn status_and_metrics_say_what_there_is() {
    let site = Site::start();
    let client = &site.client;
    let minted: Vec<Value> = (0..3).map(|_| client.get("db/creds/app").expect(200)).collect();
    client.renew(minted[0]["lease_id"].as_str().unwrap(), 0).expect(200);
    client.revoke(minted[0]["lease_id"].as_str().unwrap()).expect(204);
    assert_eq!(client.get("db/creds/none").status, 400);
    site.postgres.sql("CREATE ROLE batch LOGIN PASSWORD 'batch-password'");
    let rotated = json!({ "db_name": "pg", "username": "batch", "rotation_period": "1h" });
    client.post("db/static-roles/batch", rotated).expect(204);

    let status = site.status();
    assert_eq!(status["users"]["live"], 2, "{status}");
    assert_eq!(status["users"]["overdue"], 0);
    assert!(status["users"]["oldest"].is_string() && status["users"]["error"].is_null(), "{status}");
    assert_eq!(status["breaker"]["state"], "closed");
    assert_eq!(status["complaints"], json!([]));
    assert_eq!(status["pool"]["limit"], 4);
    assert!(status["pool"]["idle"].as_u64().unwrap() >= 1, "{status}");
    for (operation, count) in [("mint", 3), ("renew", 1), ("end", 1), ("rotate", 1)] {
        let shown = &status["operations"][operation];
        assert_eq!(shown["count"], count, "{operation}: {status}");
        assert_eq!(shown["failed"], 0);
        let share = |name: &str| shown[name].as_f64().unwrap();
        assert!(0.0 < share("p50_milliseconds") && share("p50_milliseconds") <= share("p99_milliseconds"), "{shown}");
    }
    let rotation = &status["rotations"][0];
    assert_eq!(rotation["account"], "static-roles/batch");
    assert!(rotation["next"].is_string() && rotation["late"] == 0 && rotation["error"].is_null(), "{rotation}");

    let all = client.get("db/status").data();
    assert_eq!(all["connections"]["pg"]["users"], 2, "{all}");
    assert_eq!(all["connections"]["pg"]["answers"], true);
    assert_eq!(all["unwell"], json!({}));
    assert_eq!(client.get("db/status/none").status, 404);

    // As it is, with a type that Prometheus reads.
    let mut raw = ureq::get(format!("{}/v1/db/metrics", site.bao.address()))
        .header("Authorization", format!("Bearer {}", client.token()))
        .call()
        .unwrap();
    assert!(raw.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = raw.body_mut().read_to_string().unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let one = |metric: &str, labels: &[&str]| {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        match values(&text, metric, &labels).as_slice() {
            [one] => *one,
            other => panic!("{metric} {labels:?}: {other:?}\n{text}"),
        }
    };
    assert_eq!(one("leasehold_users", &["connection=\"pg\""]), 2.0);
    assert_eq!(one("leasehold_work_total", &["operation=\"mint\"", "outcome=\"ok\""]), 3.0);
    assert_eq!(one("leasehold_requests_total", &["operation=\"creds\"", "result=\"ok\""]), 3.0);
    assert_eq!(one("leasehold_requests_total", &["operation=\"creds\"", "result=\"refused\""]), 1.0);
    assert_eq!(one("leasehold_requests_total", &["operation=\"renew\""]), 1.0);
    assert_eq!(one("leasehold_work_seconds_count", &["operation=\"end\""]), 1.0);
    assert_eq!(one("leasehold_standby", &[]), 0.0);
    assert!((3500.0..=3700.0).contains(&one("leasehold_rotation_next_seconds", &["connection=\"pg\""])));
    // Whatever somebody writes into a path makes no label.
    assert_eq!(client.get("db/nonsense").status, 404);
    assert_eq!(
        values(&scrape(client, "db").unwrap(), "leasehold_requests_total", &["operation=\"unknown\"".into()]),
        [1.0]
    );

    // The names are those of the documentation, and the other way round.
    let mut documented = documented();
    documented.retain(|name| !name.starts_with("leasehold_denials"));
    assert_eq!(described(&text), documented);

    // The log tells of each who, by which request, with which lease.
    let user = minted[0]["data"]["username"].as_str().unwrap();
    let request = minted[0]["request_id"].as_str().unwrap();
    let log = site.bao.log();
    let line = |with: &[&str]| log.lines().any(|line| with.iter().all(|text| line.contains(text)));
    assert!(line(&["operation=creds", "role=app", request]), "no line of the mint");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("operation=")).collect();
    assert!(line(&["operation=renew", "role=app", user, "lease="]), "no line of the renewal: {lines:#?}");
    assert!(line(&["operation=revoke", "role=app", user, "lease="]), "no line of the revocation: {lines:#?}");
    println!("{lines:#?}");
}

/// The names that a scrape shows.
pub fn described(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| format!("{name}{}", if kind == "counter" { "_total" } else { "" })).collect()
}

/// The names that the documentation has.
pub fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// The names that a file of ours mentions.
fn mentioned(file: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join(file)).unwrap();
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("leasehold_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_name_metrics_that_there_are() {
    let documented = documented();
    let exists = |name: &String| {
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        documented.contains(name) || plain.is_some_and(|plain| documented.contains(plain))
    };
    for file in ["dashboards/leasehold.json", "dashboards/alerts.yml"] {
        let mentioned = mentioned(file);
        assert!(mentioned.len() >= 7, "{file}: {mentioned:?}");
        let unknown: Vec<&String> = mentioned.iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let text = std::fs::read_to_string(repository().join("dashboards/leasehold.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 8);
}

#[test]
fn a_role_can_be_tried_without_leaving_anything() {
    let site = Site::start();
    let client = &site.client;
    site.postgres.sql("CREATE ROLE readers; CREATE TABLE t (n int)");
    let tested = client.post("db/roles/app/test", json!({})).data();
    assert_eq!((&tested["rolled_back"], &tested["logged_in"]), (&json!(true), &json!(false)), "{tested}");
    assert!(tested["username"].as_str().unwrap().starts_with("v-test-app-"), "{tested}");
    site.role(
        "reader",
        json!({ "creation_statements": [CREATION, "GRANT readers TO \"{{name}}\"", "GRANT SELECT ON t TO \"{{name}}\""],
                "renew_statements": "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'" }),
    );
    client.post("db/roles/reader/test", json!({})).expect(200);
    assert_eq!(site.users(), 0);
    assert_eq!(client.post("db/roles/none/test", json!({})).status, 400);

    // Each statement list that fails is named, and nothing is left or stored.
    for (name, field, value, said) in [
        ("one", "creation_statements", json!("CREATE ROLE \"{{name}}\" NONSENSE"), "creation_statements"),
        ("two", "creation_statements", json!("SELECT 1"), "did not create the role"),
        ("three", "renew_statements", json!("ALTER ROLE nobody VALID UNTIL '{{expiration}}'"), "renew_statements"),
        ("four", "revocation_statements", json!("REVOKE nothing FROM \"{{name}}\""), "revocation_statements"),
        ("five", "db_name", json!("none"), "none"),
    ] {
        let mut role = json!({ "db_name": "pg", "creation_statements": CREATION, "validate": true });
        role[field] = value;
        let refused = client.post(&format!("db/roles/{name}"), role.clone());
        assert!(refused.status == 400 && refused.body.to_string().contains(said), "{name}: {}", refused.body);
        assert_eq!(client.get(&format!("db/roles/{name}")).status, 404);
        role["validate"] = json!(false);
        client.post(&format!("db/roles/{name}"), role).expect(204);
        let failed = client.post(&format!("db/roles/{name}/test"), json!({}));
        assert!(failed.status == 500 && failed.body.to_string().contains(said), "{name}: {}", failed.body);
    }
    let sound = json!({ "db_name": "pg", "creation_statements": CREATION, "validate": true });
    client.post("db/roles/sound", sound).expect(204);
    assert!(client.get("db/roles/sound").data().get("validate").is_none());
    assert_eq!(site.users(), 0);
    assert_eq!(client.list("db/remnants").status, 404);

    // A server without transactions: a real user that logs in, and goes.
    let redis = Redis::start();
    let connection = json!({ "plugin_name": "redis-database-plugin", "allowed_roles": "*",
        "host": "127.0.0.1", "port": redis.port(), "username": redis::ADMIN, "password": redis::ADMIN_PASSWORD });
    client.post("db/config/cache", connection).expect(204);
    client.post("db/roles/cache", json!({ "db_name": "cache", "creation_statements": ["~*", "+@read"] })).expect(204);
    let before = redis.users();
    let tested = client.post("db/roles/cache/test", json!({})).data();
    assert_eq!((&tested["rolled_back"], &tested["logged_in"]), (&json!(false), &json!(true)), "{tested}");
    wait_for("its end", LIMIT, || (redis.users() == before).then_some(()));
    let broken = json!({ "db_name": "cache", "creation_statements": ["+@nonsense"], "validate": true });
    assert_eq!(client.post("db/roles/broken", broken).status, 400);
    assert_eq!(redis.users(), before);
}
