//! `metrics`: the figures of a mount on this node as OpenMetrics text, served as it is.

use std::sync::atomic::AtomicU64;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::error::Error;
use super::intent::unix_seconds;
use super::remnant::State;
use super::request::{Reply, Response};
use super::rotation::queue::Lane;
use super::status::{self, Standing};
use super::{Kind, Mount, RevocationMode};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What every name begins with.
const PREFIX: &str = "leasehold";

/// One metric, as the documentation has it.
pub struct Metric {
    /// Without what every name begins with, and ends with by its kind.
    pub name: &'static str,
    /// gauge, counter or histogram.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static str,
    /// What it counts, in which unit.
    pub meaning: &'static str,
}

const fn metric(name: &'static str, kind: &'static str, labels: &'static str, meaning: &'static str) -> Metric {
    Metric { name, kind, labels, meaning }
}

const PLACE: &str = "connection";

/// All there are.
pub const METRICS: &[Metric] = &[
    metric("build_info", "gauge", "engine, version", "Always 1: what runs here"),
    metric("uptime_seconds", "gauge", "", "How long the mount has been served by this process"),
    metric("standby", "gauge", "", "1 on a node that only passes on; it has none of what follows but the counts"),
    metric(
        "requests",
        "counter",
        "operation, result",
        "Requests, by the first word of their path (renew and revoke are the host's), and by what came of them: ok, \
         refused (the request is wrong), failed, forwarded (by a standby)",
    ),
    metric("request_seconds", "histogram", "operation", "How long requests took, with all that they waited for"),
    metric(
        "work",
        "counter",
        "connection, operation, outcome",
        "Work at the databases, or at AWS: mint, renew, end, rotate; ok or failed",
    ),
    metric("work_seconds", "histogram", "connection, operation", "How long that took, waiting for a session included"),
    metric("users", "gauge", PLACE, "Users of this mount at the database when it was looked at last"),
    metric("users_overdue", "gauge", PLACE, "Those of them whose lease is over"),
    metric("users_oldest_seconds", "gauge", PLACE, "Age of the oldest of them"),
    metric("users_seen_seconds", "gauge", PLACE, "How long ago that was; about once a minute"),
    metric("remnants", "gauge", "connection, state", "Users whose end is not over: open, contained, grace"),
    metric("revocation_held", "gauge", PLACE, "1 if revocation_mode keeps users from being ended"),
    metric("rotation_lag_seconds", "gauge", PLACE, "How long the password waits to be changed that has waited longest"),
    metric("rotation_next_seconds", "gauge", PLACE, "How long until a password changes next"),
    metric("rotations_failing", "gauge", PLACE, "Passwords whose last change failed; they are tried again"),
    metric("rotations_unfinished", "gauge", PLACE, "Password changes that did not come to their end"),
    metric("queue", "gauge", "connection, lane", "What is due and not done yet: ends, passwords"),
    metric("sessions", "gauge", "connection, state", "Sessions at the database: in_use, idle"),
    metric("sessions_limit", "gauge", PLACE, "max_open_connections"),
    metric("requests_waiting", "gauge", "connection, lane", "Who waits for a session: issue, end"),
    metric("breaker_open", "gauge", PLACE, "1 while the database gives no sessions, and requests are told at once"),
    metric("outage_seconds", "gauge", PLACE, "How long that has been so"),
    metric(
        "denials",
        "gauge",
        "connection, state",
        "AWS: denials of sessions: in_force, unwritten (AWS does not have them, the sessions may still work), without_room",
    ),
    metric(
        "denials_fullest",
        "gauge",
        PLACE,
        "AWS: the used share of the characters of an inline policy, where it is largest; 1 is all",
    ),
];

impl Metric {
    fn of(name: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.name == name)
    }

    /// The name under which it is found.
    pub fn full_name(&self) -> String {
        let suffix = if self.kind == "counter" { "_total" } else { "" };
        format!("{PREFIX}_{}{suffix}", self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    connection: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    connection: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InLane {
    connection: String,
    lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    engine: &'static str,
    version: &'static str,
}

/// Seconds and counts: whole numbers are shown as such.
type Number = Gauge<f64, AtomicU64>;

/// GET `metrics`.
pub async fn read(mount: &Mount) -> Reply {
    let standby = mount.ports.host.is_standby().await?;
    let standings = if standby { Vec::new() } else { status::all(mount).await? };
    let text = text_of(mount, standby, &standings)?;
    // The host decodes what happens to be base64, so it always is.
    Ok(Some(Response::data([
        ("http_content_type", json!(CONTENT_TYPE)),
        ("http_raw_body", json!(STANDARD.encode(text))),
        ("http_raw_cache_control", json!("no-store")),
        ("http_status_code", json!(200)),
    ])))
}

/// Puts metrics together.
struct Page(Registry);

impl Page {
    fn put(&mut self, name: &str, metric: impl prometheus_client::registry::Metric) {
        let help = Metric::of(name).map_or("", |metric| metric.meaning);
        self.0.register(name, help, metric);
    }

    /// One gauge with the values of several places.
    fn family<L>(&mut self, name: &str, values: impl IntoIterator<Item = (L, f64)>)
    where
        L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Number>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.put(name, family);
    }
}

fn text_of(mount: &Mount, standby: bool, standings: &[Standing]) -> Result<String, Error> {
    let mut page = Page(Registry::with_prefix(PREFIX));
    let engine = match mount.kind {
        Kind::Database => "database",
        Kind::Aws => "aws",
    };
    let number = |value: f64| {
        let gauge = Number::default();
        gauge.set(value);
        gauge
    };
    page.family("build_info", [(Build { engine, version: env!("CARGO_PKG_VERSION") }, 1.0)]);
    page.put("uptime_seconds", number(mount.clocks.age(mount.ports.clock.as_ref()).as_secs_f64()));
    page.put("standby", number(of(standby)));
    page.put("requests", mount.meter.requests.clone());
    page.put("request_seconds", mount.meter.request_seconds.clone());
    page.put("work", mount.meter.works.clone());
    page.put("work_seconds", mount.meter.work_seconds.clone());

    let now = mount.ports.clock.now();
    let place = |standing: &Standing| Place { connection: standing.name.clone() };
    let mut each = |name: &str, value: &dyn Fn(&Standing) -> Option<f64>| {
        page.family(name, standings.iter().filter_map(|standing| Some((place(standing), value(standing)?))));
    };
    each("users", &|standing| standing.users().map(count));
    each("users_overdue", &|standing| standing.sight.map(|sight| count(sight.overdue)));
    each("users_oldest_seconds", &|standing| {
        // Without a user there is no oldest one.
        let oldest = standing.sight?.oldest.unwrap_or_else(|| unix_seconds(now));
        Some(seconds(unix_seconds(now).saturating_sub(oldest)))
    });
    each("users_seen_seconds", &|standing| {
        standing.sight.map(|sight| now.duration_since(sight.at).unwrap_or_default().as_secs_f64())
    });
    each("revocation_held", &|standing| Some(of(standing.revocation_mode != RevocationMode::Normal)));
    each("rotation_lag_seconds", &|standing| Some(standing.rotation_lag().as_secs_f64()));
    each("rotation_next_seconds", &|standing| {
        standing.rotations.first().map(|next| next.due.duration_since(now).unwrap_or_default().as_secs_f64())
    });
    each("rotations_failing", &|standing| Some(count(standing.failing())));
    each("rotations_unfinished", &|standing| Some(count(standing.unfinished())));
    each("sessions_limit", &|standing| standing.vitals.as_ref().map(|vitals| count(vitals.limit)));
    each("breaker_open", &|standing| standing.vitals.as_ref().map(|vitals| of(vitals.outage.is_some())));
    each("outage_seconds", &|standing| {
        let vitals = standing.vitals.as_ref()?;
        Some(vitals.outage.as_ref().map_or(0.0, |outage| outage.age.as_secs_f64()))
    });

    let states = [State::Open, State::Contained, State::Grace];
    let remnants = standings.iter().flat_map(|standing| {
        states.map(|state| {
            let labels = InState { connection: standing.name.clone(), state: state.name() };
            (labels, count(standing.remnants(state)))
        })
    });
    page.family("remnants", remnants);
    let queue = standings.iter().flat_map(|standing| {
        [("ends", Lane::Ends), ("passwords", Lane::Passwords)]
            .map(|(lane, which)| (InLane { connection: standing.name.clone(), lane }, count(standing.due(which))))
    });
    page.family("queue", queue);
    let vitals = || standings.iter().filter_map(|standing| Some((standing.name.clone(), standing.vitals.clone()?)));
    let sessions = vitals().flat_map(|(connection, vitals)| {
        [("in_use", vitals.in_use), ("idle", vitals.idle)]
            .map(|(state, number)| (InState { connection: connection.clone(), state }, count(number)))
    });
    page.family("sessions", sessions);
    let waiting = vitals().flat_map(|(connection, vitals)| {
        [("issue", vitals.waiting_to_issue), ("end", vitals.waiting_to_end)]
            .map(|(lane, number)| (InLane { connection: connection.clone(), lane }, count(number)))
    });
    page.family("requests_waiting", waiting);
    let denials = || standings.iter().filter_map(|standing| Some((standing.name.clone(), standing.denials?)));
    let states = denials().flat_map(|(connection, denials)| {
        [("in_force", denials.in_force), ("unwritten", denials.unwritten), ("without_room", denials.without_room)]
            .map(|(state, number)| (InState { connection: connection.clone(), state }, count(number)))
    });
    page.family("denials", states);
    page.family("denials_fullest", denials().map(|(connection, denials)| (Place { connection }, denials.fullest)));

    let mut written = String::new();
    text::encode(&mut written, &page.0).map_err(|_| Error::Failed("the metrics cannot be written".into()))?;
    Ok(written)
}

fn of(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

#[allow(clippy::cast_precision_loss, reason = "nobody counts so far")]
fn count(number: usize) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss, reason = "nobody counts so far")]
fn seconds(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands before the table.
    const INTRODUCTION: &str = "\
# Metrics

Made from the table of metrics in the source by `make docs`; a test fails when it is out of date.

`GET <mount>/metrics` answers with OpenMetrics text, which Prometheus reads as it is. The token needs `read` on that path
and nothing else. Each mount has its own, and each node of a cluster answers for itself: scrape all nodes, and let the
scrape configuration add the path of the mount as a label if there are several.

```yaml
scrape_configs:
  - job_name: leasehold
    metrics_path: /v1/database/metrics
    authorization: { credentials_file: /etc/prometheus/leasehold.token }
    static_configs: [{ targets: [bao-0:8200, bao-1:8200, bao-2:8200], labels: { mount: database } }]
```

No scrape asks a database: users are counted when they are looked at, about once a minute, and the rest is known. Counts
begin with the process.

A mount of AWS has the same names, with `connection=\"aws\"` for its account: work at AWS, users that it has made, keys that
change, what is queued, and the denials of its sessions. Sessions themselves are not counted: the server has their leases.
An account has no sessions at a database, no breaker and no remnants.

[dashboards/leasehold.json](../dashboards/leasehold.json) shows them in Grafana;
[dashboards/alerts.yml](../dashboards/alerts.yml) says what to page on, and [runbook.md](runbook.md) what to do then.

| name | kind | labels | meaning |
|---|---|---|---|
";

    #[test]
    fn the_documented_metrics_are_those_that_there_are() {
        let mut text = INTRODUCTION.to_owned();
        for metric in METRICS {
            let Metric { kind, labels, meaning, .. } = metric;
            text += &format!("| `{}` | {kind} | {labels} | {meaning}. |\n", metric.full_name());
        }
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("LEASEHOLD_WRITE_DOCS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert!(std::fs::read_to_string(&file).unwrap() == text, "docs/metrics.md is out of date: make docs");
    }
}
