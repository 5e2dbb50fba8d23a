//! `status` and `status/:name`: how a mount is doing, for whoever was woken up, and for [`metrics`](super::metrics).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::database::connection::{self, Config, Connection};
use super::database::{lane, root, static_role};
use super::end::mode::RevocationMode;
use super::error::Error;
use super::intent::{self, unix_seconds};
use super::meter::{Recent, Work};
use super::reconcile::{self, Sight};
use super::remnant::{self, Remnant, State, instant};
use super::request::{Reply, Response};
use super::rotation::queue::{Lane, Waiting};
use super::{Kind, Mount, aws};
use crate::target::{Driver, Vitals};

/// How long a database is asked for its users.
const LOOK: Duration = Duration::from_secs(3);
/// So many remnants are shown; the others LIST remnants/ shows.
const MOST_SHOWN: usize = 20;
/// Work that has waited for so long is late.
const LATE: Duration = Duration::from_secs(60);

/// How one connection is doing.
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its kind; empty if the connection cannot be read.
    pub plugin_name: String,
    /// Whether its users are ended at all.
    pub revocation_mode: RevocationMode,
    /// Its users, as they were seen last.
    pub sight: Option<Sight>,
    /// Why they could not be looked at now, if somebody tried.
    pub blind: Option<String>,
    /// Users whose end is not over: id and record.
    pub remnants: Vec<(String, Remnant)>,
    /// Passwords that change by themselves, or are in the middle of it.
    pub rotations: Vec<Waiting>,
    /// Users that are to end at some time, as far as this mount has to see to it.
    pub ends: Vec<Waiting>,
    /// Its sessions; `None` if none was wanted since the process began.
    pub vitals: Option<Vitals>,
    /// The latest work, by kind.
    pub work: BTreeMap<Work, Recent>,
    /// Denials of sessions; `None` where there are no sessions to deny.
    pub denials: Option<aws::status::Denials>,
    /// When this was looked at.
    pub now: SystemTime,
}

impl Standing {
    /// How long the password waits that has waited longest.
    pub fn rotation_lag(&self) -> Duration {
        self.rotations.iter().map(|waiting| late(waiting, self.now)).max().unwrap_or_default()
    }

    /// Password changes that were begun and did not come to their end.
    pub fn unfinished(&self) -> usize {
        self.rotations.iter().filter(|waiting| waiting.wanted == SystemTime::UNIX_EPOCH).count()
    }

    /// Password changes whose last attempt failed.
    pub fn failing(&self) -> usize {
        self.rotations.iter().filter(|waiting| waiting.failures > 0).count()
    }

    /// Users whose end failed, as far as this mount has to see to it by itself.
    pub fn failing_ends(&self) -> usize {
        self.ends.iter().filter(|waiting| waiting.failures > 0).count()
    }

    /// What is due, and not done yet.
    pub fn due(&self, lane: Lane) -> usize {
        let all = if lane == Lane::Ends { &self.ends } else { &self.rotations };
        all.iter().filter(|waiting| waiting.due <= self.now || waiting.running || waiting.failures > 0).count()
    }

    /// Remnants in that state.
    pub fn remnants(&self, state: State) -> usize {
        self.remnants.iter().filter(|(_, remnant)| remnant.state == state).count()
    }

    /// How many users there are, if anybody knows.
    pub fn users(&self) -> Option<usize> {
        self.sight.map(|sight| sight.users)
    }

    /// Why somebody should look at it; nothing if all is well.
    pub fn complaints(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(outage) = self.vitals.as_ref().and_then(|vitals| vitals.outage.as_ref()) {
            all.push(format!("the database has given no session for {}s: {}", outage.age.as_secs(), outage.said));
        }
        if self.revocation_mode != RevocationMode::Normal {
            all.push(format!("revocation_mode is {}: no user is ended", self.revocation_mode));
        }
        let mut count = |number: usize, what: &str| {
            if number > 0 {
                all.push(format!("{number} {what}"));
            }
        };
        count(self.remnants(State::Open), "users could not be ended and may still log in");
        count(self.remnants(State::Contained), "users are contained, but something of them is left");
        let secret = if self.denials.is_some() { "key" } else { "password" };
        count(self.failing(), &format!("{secret}s could not be changed"));
        count(self.unfinished(), &format!("{secret} changes did not come to their end"));
        if let Some(denials) = &self.denials {
            count(self.failing_ends(), "users or denials could not be seen to, and are tried again");
            count(denials.unwritten, "denials are not at AWS: their sessions may still work");
            count(denials.without_room, "of them have no room there");
        }
        let lag = self.rotation_lag();
        if lag > LATE {
            all.push(format!("a {secret} should have changed {}s ago", lag.as_secs()));
        }
        all
    }
}

/// How long something waits that is due; nothing is known of that for what was left behind.
fn late(waiting: &Waiting, now: SystemTime) -> Duration {
    if waiting.wanted == SystemTime::UNIX_EPOCH {
        return Duration::ZERO;
    }
    now.duration_since(waiting.wanted).unwrap_or_default()
}

/// How every connection is doing, by name. Asks storage, and no database.
///
/// # Errors
/// If storage refuses.
pub async fn all(mount: &Mount) -> Result<Vec<Standing>, Error> {
    if mount.kind == Kind::Aws {
        return Ok(vec![aws::status::standing(mount).await?]);
    }
    let storage = mount.ports.storage.as_ref();
    let mut remnants: BTreeMap<String, Vec<(String, Remnant)>> = BTreeMap::new();
    for id in storage.list(remnant::PREFIX, "", -1).await? {
        if let Some(record) = Remnant::load(mount, &format!("{}{id}", remnant::PREFIX)).await? {
            remnants.entry(record.user.db_name.clone()).or_default().push((id, record));
        }
    }
    let mut waiting: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
    for one in mount.rotation.queue.all() {
        waiting.entry(one.connection.clone()).or_default().push(one);
    }
    let mut found = Vec::new();
    for name in storage.list(connection::PREFIX, "", -1).await? {
        let config = Config::load(mount, &name).await.ok().flatten();
        let mut waiting = waiting.remove(&name).unwrap_or_default();
        waiting.sort_by_key(|one| one.due);
        let (ends, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|one| lane(&one.key) == Lane::Ends);
        let rotations = rest.into_iter().filter(|one| lane(&one.key) == Lane::Passwords).collect();
        found.push(Standing {
            plugin_name: config.as_ref().map(|config| config.plugin_name.clone()).unwrap_or_default(),
            revocation_mode: mode(mount, config.as_ref()),
            sight: sight(mount, &name, config.as_ref(), &ends),
            blind: None,
            remnants: remnants.remove(&name).unwrap_or_default(),
            rotations,
            ends,
            vitals: mount.connections.known(&name).and_then(|known: Arc<Connection>| known.target.vitals()),
            work: mount.meter.at(&name).into_iter().collect(),
            denials: None,
            now: mount.ports.clock.now(),
            name,
        });
    }
    Ok(found)
}

/// A connection that cannot be read ends nobody.
fn mode(mount: &Mount, config: Option<&Config>) -> RevocationMode {
    let own = config.map_or(RevocationMode::Paused, |config| RevocationMode::of(&config.other));
    own.max(mount.revocation_mode)
}

/// Who there is: as the last look at the markers had it, or by the notes, which are always up to date.
fn sight(mount: &Mount, name: &str, config: Option<&Config>, ends: &[Waiting]) -> Option<Sight> {
    let last = mount.sights.last(name);
    let driver = config.and_then(|config| Driver::named(&config.plugin_name));
    if driver.is_none_or(Driver::keeps_marker) {
        return last;
    }
    let notes = || ends.iter().filter(|one| one.key.starts_with(intent::PREFIX));
    let now = mount.ports.clock.now();
    let (users, overdue) = (notes().count(), notes().filter(|note| note.wanted <= now).count());
    Some(Sight { at: now, users, overdue, oldest: last.and_then(|last| last.oldest).filter(|_| users > 0) })
}

/// GET `status`.
pub async fn list(mount: &Mount) -> Reply {
    // What counts is what the node knows that acts.
    mount.refuse_on_standby().await?;
    let (mut connections, mut unwell) = (serde_json::Map::new(), serde_json::Map::new());
    for standing in all(mount).await? {
        let complaints = standing.complaints();
        if !complaints.is_empty() {
            unwell.insert(standing.name.clone(), json!(complaints));
        }
        connections.insert(
            standing.name.clone(),
            json!({
                "plugin_name": standing.plugin_name,
                "users": standing.users(),
                "remnants": standing.remnants.len(),
                "rotation_lag": standing.rotation_lag().as_secs(),
                "rotations_failing": standing.failing(),
                "answers": standing.vitals.as_ref().map(|vitals| vitals.outage.is_none()),
            }),
        );
    }
    Ok(Some(Response::data([
        ("connections", Value::Object(connections)),
        ("revocation_mode", json!(mount.revocation_mode.to_string())),
        ("unwell", Value::Object(unwell)),
        ("uptime", json!(mount.clocks.age(mount.ports.clock.as_ref()).as_secs())),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ])))
}

/// GET `status/:name`.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let Some(config) = Config::load(mount, name).await? else { return Ok(None) };
    let looked = if config.is_self_managed() {
        // It makes no users.
        Ok(None)
    } else {
        let looking = tokio::time::timeout(LOOK, reconcile::sight(mount, name)).await;
        looking.unwrap_or_else(|_| Err(Error::Failed(format!("no answer within {}s", LOOK.as_secs()))))
    };
    let Some(mut standing) = all(mount).await?.into_iter().find(|standing| standing.name == name) else {
        return Ok(None);
    };
    standing.blind = looked.err().map(|e| e.to_string());
    Ok(Some(Response::data(shown(&standing))))
}

/// What is shown of one connection.
pub fn shown(standing: &Standing) -> Vec<(&'static str, Value)> {
    let sight = standing.sight;
    let at = |time: SystemTime| instant(unix_seconds(time));
    let milliseconds = |took: Option<Duration>| took.map(|took| (took.as_secs_f64() * 1e5).round() / 1e2);
    let work = standing.work.iter().map(|(work, recent)| {
        let last = recent.last_error.as_ref();
        let shown = json!({
            "count": recent.count,
            "failed": recent.failed,
            "last_error": last.map(|(why, _)| why),
            "last_error_time": last.map(|(_, when)| at(*when)),
            "p50_milliseconds": milliseconds(recent.share(0.5)),
            "p99_milliseconds": milliseconds(recent.share(0.99)),
        });
        (work.name().to_owned(), shown)
    });
    let rotations = standing.rotations.iter().map(|waiting| {
        json!({
            "account": account(&waiting.key),
            "next": at(waiting.due),
            "late": late(waiting, standing.now).as_secs(),
            "failures": waiting.failures,
            "error": waiting.error,
            "unfinished": waiting.wanted == SystemTime::UNIX_EPOCH,
            "running": waiting.running,
        })
    });
    let remnants = standing.remnants.iter().take(MOST_SHOWN).map(|(id, remnant)| {
        json!({
            "id": id,
            "attempts": remnant.attempts,
            "reason": remnant.reason,
            "role": remnant.user.role,
            "since": instant(remnant.since),
            "state": remnant.state.name(),
            "username": remnant.user.username,
        })
    });
    let pool = standing.vitals.as_ref().map(|vitals| {
        json!({
            "idle": vitals.idle,
            "in_use": vitals.in_use,
            "limit": vitals.limit,
            "waiting_to_end": vitals.waiting_to_end,
            "waiting_to_issue": vitals.waiting_to_issue,
        })
    });
    let outage = standing.vitals.as_ref().and_then(|vitals| vitals.outage.as_ref());
    vec![
        (
            "breaker",
            json!({
                "state": if outage.is_some() { "open" } else { "closed" },
                "seconds": outage.map_or(0, |outage| outage.age.as_secs()),
                "reason": outage.map(|outage| &outage.said),
            }),
        ),
        ("complaints", json!(standing.complaints())),
        ("connection", json!(standing.name)),
        ("operations", Value::Object(work.collect())),
        ("plugin_name", json!(standing.plugin_name)),
        ("pool", json!(pool)),
        ("queue", json!({ "ends": standing.due(Lane::Ends), "passwords": standing.due(Lane::Passwords) })),
        ("remnants", json!(remnants.collect::<Vec<_>>())),
        ("remnants_count", json!(standing.remnants.len())),
        ("revocation_mode", json!(standing.revocation_mode.to_string())),
        ("rotation_lag", json!(standing.rotation_lag().as_secs())),
        ("rotations", json!(rotations.collect::<Vec<_>>())),
        (
            "users",
            json!({
                "live": sight.map(|sight| sight.users),
                "oldest": sight.and_then(|sight| sight.oldest).map(instant),
                "overdue": sight.map(|sight| sight.overdue),
                "seen": sight.map(|sight| at(sight.at)),
                "error": standing.blind,
            }),
        ),
    ]
}

/// Whose password it is, as a path.
fn account(key: &str) -> String {
    if key == aws::root::RECORD {
        return "config/root".to_owned();
    }
    if let Some(name) = key.strip_prefix(root::RECORDS) {
        return format!("config/{name}");
    }
    key.strip_prefix(static_role::RECORDS).map_or_else(|| key.to_owned(), |name| format!("static-roles/{name}"))
}
