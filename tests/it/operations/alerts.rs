//! Each alert of `dashboards/alerts.yml` comes true in the situation that `docs/runbook.md` has a section for, and is
//! over when that is done.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::{CREATION, Site, scrape, values};
use crate::aws::faults::spoiled;
use crate::support::aws::TRUST_ALL;
use crate::support::aws_proxy::Fault;
use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD};
use crate::support::{repository, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// Seconds of the alerts are so much shorter here.
const HURRY: f64 = 300.0;

/// A mount whose revocations are held back.
const HELD: &str = "held";
/// The alerts that only a mount of AWS brings about.
const OF_AWS: [&str; 1] = ["LeaseholdDenialsUnwritten"];

/// One alert.
struct Alert {
    name: String,
    expression: String,
}

fn alerts() -> Vec<Alert> {
    let text = std::fs::read_to_string(repository().join("dashboards/alerts.yml")).unwrap();
    let mut alerts = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert { name: name.to_owned(), expression: String::new() });
        } else if let (Some(expression), Some(alert)) = (line.strip_prefix("expr: "), alerts.last_mut()) {
            alert.expression = expression.to_owned();
        }
    }
    alerts
}

impl Alert {
    /// What Prometheus would make of it, of the few forms that the file has. Counts begin with the test.
    fn is_true(&self, text: Option<&str>) -> bool {
        if let Some(metric) = self.expression.strip_prefix("absent(").and_then(|rest| rest.strip_suffix(')')) {
            return text.is_none_or(|text| values(text, metric, &[]).is_empty());
        }
        let Some(text) = text else { return false };
        let (left, threshold) = self.expression.split_once(" > ").unwrap();
        let mut threshold: f64 = threshold.parse().unwrap();
        let selector = left
            .strip_prefix("increase(")
            .map_or(left, |inner| inner.split_once('[').map_or(inner, |(inner, _)| inner));
        let (metric, labels) = selector.split_once('{').unwrap_or((selector, ""));
        let labels: Vec<String> =
            labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        if metric.ends_with("_seconds") {
            threshold /= HURRY;
        }
        values(text, metric, &labels).iter().any(|value| *value > threshold)
    }
}

struct Watch<'a> {
    client: &'a Client,
    mount: &'static str,
    alerts: Vec<Alert>,
    seen: Vec<String>,
}

impl Watch<'_> {
    fn is_true(&self, name: &str) -> bool {
        let alert = self.alerts.iter().find(|alert| alert.name == name).unwrap_or_else(|| panic!("no alert {name}"));
        alert.is_true(scrape(self.client, self.mount).as_deref())
    }

    #[track_caller]
    fn is_off(&self, name: &str) {
        assert!(!self.is_true(name), "{name} is on before anything happened");
    }

    #[track_caller]
    fn comes(&mut self, name: &str) {
        wait_for(name, LIMIT, || self.is_true(name).then_some(()));
        self.seen.push(name.to_owned());
    }

    #[track_caller]
    fn goes(&self, name: &str) {
        wait_for(&format!("the end of {name}"), LIMIT, || (!self.is_true(name)).then_some(()));
    }
}

#[test]
fn every_alert_comes_and_goes_and_is_in_the_runbook() {
    let mut site = Site::start();
    let client = site.client.clone();
    let alerts = alerts();
    let names: Vec<String> = alerts.iter().map(|alert| alert.name.clone()).collect();
    let runbook = std::fs::read_to_string(repository().join("docs/runbook.md")).unwrap();
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections, names, "alerts.yml and runbook.md");
    let mut seen = Vec::new();

    // Somewhere else somebody holds revocations back, and a lease is over soon.
    site.bao.mount(HELD, PLUGIN);
    site.connect_at(HELD, json!({ "revocation_mode": "paused" }));
    let role = json!({ "db_name": "pg", "creation_statements": CREATION, "default_ttl": "1s", "max_ttl": "1s" });
    client.post(&format!("{HELD}/roles/app"), role).expect(204);
    let minted = client.get(&format!("{HELD}/creds/app")).data();
    let overdue = minted["username"].as_str().unwrap().to_owned();

    macro_rules! watch {
        () => {
            Watch { client: &client, mount: "db", alerts: self::alerts(), seen: Vec::new() }
        };
    }

    {
        let mut watch = watch!();
        names.iter().for_each(|name| watch.is_off(name));

        // The database refuses to make users.
        site.role("broken", json!({ "creation_statements": "CREATE ROLE \"{{name}}\" NONSENSE" }));
        for _ in 0..6 {
            assert_eq!(client.get("db/creds/broken").status, 500);
        }
        watch.comes("LeaseholdMintsFail");
        let status = site.status();
        assert!(status["operations"]["mint"]["last_error"].to_string().contains("nonsense"), "{status}");

        // A user has left something.
        site.role(
            "owner",
            json!({ "creation_statements": [CREATION, "GRANT CREATE ON SCHEMA public TO \"{{name}}\""] }),
        );
        let owner = client.get("db/creds/owner").expect(200);
        let [user, password] = ["username", "password"].map(|field| owner["data"][field].as_str().unwrap());
        site.postgres.login(user, password, "CREATE TABLE mine (n int)").unwrap();
        client.revoke(owner["lease_id"].as_str().unwrap()).expect(204);
        watch.comes("LeaseholdRemnants");
        let status = site.status();
        let remnant = &status["remnants"][0];
        assert!(remnant["state"] == "contained" && remnant["reason"].to_string().contains("mine"), "{status}");
        assert!(status["complaints"][0].as_str().unwrap().contains("contained"), "{status}");
        site.postgres.sql("DROP TABLE mine");
        client.post(&format!("db/remnants/{}/retry", remnant["id"].as_str().unwrap()), json!({})).expect(200);
        watch.goes("LeaseholdRemnants");

        // A password cannot be changed, and is late.
        site.postgres.sql("CREATE ROLE batch LOGIN PASSWORD 'batch-password'");
        let role = json!({ "db_name": "pg", "username": "batch", "rotation_period": "5s" });
        client.post("db/static-roles/batch", role).expect(204);
        site.postgres.sql("ALTER ROLE batch RENAME TO away");
        watch.comes("LeaseholdRotationFails");
        watch.comes("LeaseholdRotationLate");
        let status = site.status();
        assert!(status["rotations"][0]["error"].to_string().contains("batch"), "{status}");
        assert!(status["rotation_lag"].as_u64().unwrap() >= 2, "{status}");
        site.postgres.sql("ALTER ROLE away RENAME TO batch");
        client.post("db/rotate-role/batch", json!({})).expect(204);
        watch.goes("LeaseholdRotationFails");
        watch.goes("LeaseholdRotationLate");
        client.delete("db/static-roles/batch").expect(204);

        // Requests queue for sessions.
        site.connect(json!({ "max_open_connections": 1, "connect_timeout": "60s" }));
        site.postgres.sql("CREATE TABLE gate (n int)");
        site.role("slow", json!({ "creation_statements": [CREATION, "SELECT count(*) FROM gate"] }));
        std::thread::scope(|scope| {
            let mut lock = site.postgres.session(ADMIN, ADMIN_PASSWORD);
            lock.one("BEGIN; LOCK TABLE gate IN ACCESS EXCLUSIVE MODE; SELECT 1");
            let waiting: Vec<_> = (0..12).map(|_| scope.spawn(|| client.get("db/creds/slow").status)).collect();
            watch.comes("LeaseholdSessionsShort");
            lock.one("COMMIT; SELECT 1");
            waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap(), 200));
        });
        watch.goes("LeaseholdSessionsShort");
        site.connect(json!({ "max_open_connections": 4 }));

        // Nobody is ended.
        site.connect(json!({ "revocation_mode": "paused" }));
        watch.comes("LeaseholdRevocationHeld");
        assert_eq!(site.status()["revocation_mode"], "paused");
        site.connect(json!({ "revocation_mode": "normal" }));
        watch.goes("LeaseholdRevocationHeld");
        seen.extend(watch.seen);
    }

    // The database is away, and users that should end cannot.
    let minted = client.get("db/creds/app").expect(200);
    site.postgres.stop();
    {
        let mut watch = watch!();
        wait_for("an outage", LIMIT, || {
            client.get("db/creds/app");
            watch.is_true("LeaseholdDatabaseAway").then_some(())
        });
        watch.comes("LeaseholdDatabaseAway");
        let revoked = client.revoke(minted["lease_id"].as_str().unwrap());
        assert!(revoked.status >= 400, "{}", revoked.body);
        watch.comes("LeaseholdUsersStay");
        let status = site.status();
        assert_eq!(status["breaker"]["state"], "open", "{status}");
        assert!(status["users"]["error"].is_string(), "{status}");
        let unwell = client.get("db/status").data();
        assert!(unwell["unwell"]["pg"].to_string().contains("given no session"), "{unwell}");
        seen.extend(watch.seen);
    }
    site.postgres.start_again();
    {
        let watch = watch!();
        watch.goes("LeaseholdDatabaseAway");
        watch.goes("LeaseholdUsersStay");
    }

    // The plugin dies in the middle of a change, and the database is away when it comes back.
    site.postgres.sql("CREATE ROLE job LOGIN PASSWORD 'job-password'; CREATE TABLE hold (n int)");
    let role = json!({ "db_name": "pg", "username": "job", "rotation_period": "1h" });
    client.post("db/static-roles/job", role).expect(204);
    let statements = json!(["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'", "SELECT count(*) FROM hold"]);
    client.post("db/static-roles/job", json!({ "rotation_statements": statements })).expect(204);
    let mut lock = site.postgres.session(ADMIN, ADMIN_PASSWORD);
    lock.one("BEGIN; LOCK TABLE hold IN ACCESS EXCLUSIVE MODE; SELECT 1");
    std::thread::scope(|scope| {
        scope.spawn(|| client.post("db/rotate-role/job", json!({})));
        let asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'hold'::regclass";
        wait_for("the change", LIMIT, || (site.postgres.sql(asked) == "1").then_some(()));
        let [plugin] = site.bao.plugin_processes()[..] else { panic!("not one plugin") };
        kill_process(plugin, Signal::KILL).unwrap();
    });
    drop(lock);
    site.postgres.stop();
    {
        let mut watch = watch!();
        watch.comes("LeaseholdRotationUnfinished");
        seen.extend(watch.seen);
    }
    site.postgres.start_again();
    {
        let mut watch = watch!();
        watch.goes("LeaseholdRotationUnfinished");
        let creds = client.get("db/static-creds/job").data();
        site.postgres.login("job", creds["password"].as_str().unwrap(), "SELECT 1").unwrap();

        // Nobody answers.
        client.post("sys/seal", json!({})).expect(204);
        watch.comes("LeaseholdSilent");
        let key = site.bao.unseal_key();
        client.post("sys/unseal", json!({ "key": key })).expect(200);
        watch.goes("LeaseholdSilent");
        seen.extend(watch.seen);
    }
    // By now a lease of the other mount has been over for long, or will have been.
    let mut watch = Watch { client: &client, mount: HELD, alerts: self::alerts(), seen: Vec::new() };
    let look = || client.get(&format!("{HELD}/status/pg")).data();
    wait_for("a user that outlived its lease", 3 * LIMIT, || (look()["users"]["overdue"] == 1).then_some(()));
    watch.comes("LeaseholdUsersOverdue");
    let found = client.get(&format!("{HELD}/reconcile/pg")).data();
    assert!(found.to_string().contains(&overdue), "{found}");
    site.connect_at(HELD, json!({ "revocation_mode": "normal" }));
    client.post(&format!("{HELD}/reconcile/pg"), json!({})).expect(200);
    look();
    watch.goes("LeaseholdUsersOverdue");
    seen.extend(watch.seen);

    seen.extend(OF_AWS.map(str::to_owned));
    let missing: Vec<&String> = names.iter().filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "no situation for {missing:?}");
}

#[test]
fn the_alert_of_an_aws_mount_comes_and_goes() {
    let (stage, proxy) = spoiled();
    let mut watch = Watch { client: &stage.client, mount: "aws", alerts: alerts(), seen: Vec::new() };
    let arn = stage.aws.role("app", TRUST_ALL);
    stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn }));
    let (lease, key, _) = stage.mint("creds/app");
    watch.alerts.iter().for_each(|alert| watch.is_off(&alert.name));

    proxy.spoil("PutRolePolicy", Fault::Refuse("ServiceFailure", 500), 100);
    assert_eq!(stage.client.revoke(&lease).status, 400);
    watch.comes("LeaseholdDenialsUnwritten");
    assert!(stage.aws.s3(&key).ok(), "it still works");
    let status = stage.client.get("aws/status").data();
    assert!(status["complaints"][0].to_string().contains("denials"), "{status}");
    assert!(status["operations"]["end"]["last_error"].to_string().contains("ServiceFailure"), "{status}");
    proxy.heal();
    stage.client.post("aws/sync", json!({})).expect(200);
    watch.goes("LeaseholdDenialsUnwritten");
    assert!(stage.aws.s3(&key).is_denied());
    assert_eq!(watch.seen, OF_AWS);
}
