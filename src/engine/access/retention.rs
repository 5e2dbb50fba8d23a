//! How long the record is kept, and what keeps it longer: `retention` and `legal_hold` in `config/jit`,
//! `requests/:role/:request_id/hold`, and `retention/prune`.
//!
//! Only the oldest part goes, as a whole: up to the first event that has to be kept. Whatever cannot be read keeps
//! everything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{self, Settings};
use super::policy::Tier;
use super::request::{AccessRequest, DONE, OPEN, id_at};
use super::{emergency, hook, rules, token};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, cut, event::Draft};
use crate::engine::field::Input;
use crate::engine::go::GoDuration;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};
use crate::secret::Secret;

/// Where the holds on single requests are, by the request's id.
const HOLDS: &str = "access/hold/";
/// How often a mount looks whether something is old enough.
pub const PAUSE: Duration = Duration::from_secs(3600);
/// The shortest time, in seconds: limits, reports and the pace of a target look back as far.
const SHORTEST: u64 = 30 * 86_400;
/// The most events that go in one turn.
const MOST: u64 = 100_000;

const TIERS: [Tier; 4] = [Tier::Low, Tier::Medium, Tier::High, Tier::Critical];

/// Seconds by tier; 0: for ever. Empty: everything for ever.
pub type Retention = BTreeMap<Tier, u64>;

/// Reads `low=90d medium=1y …`; all four, or none.
///
/// # Errors
/// What is wrong, for the caller.
pub fn parse(given: &BTreeMap<String, String>) -> Result<Retention, Error> {
    let refused = |why: String| Err(Error::Refused(format!("retention: {why}")));
    let mut retention = Retention::new();
    for (name, text) in given {
        let Some(tier) = TIERS.into_iter().find(|tier| tier.name() == name) else {
            return refused(format!("{name:?} is none of low, medium, high, critical"));
        };
        let span = GoDuration::from_value(&json!(text)).ok().and_then(|span| u64::try_from(span.whole_seconds()).ok());
        match span {
            Some(seconds) if seconds == 0 || seconds >= SHORTEST => drop(retention.insert(tier, seconds)),
            _ => return refused(format!("{name}: a time of 30d or more is needed, or 0 for ever; not {text:?}")),
        }
    }
    if !retention.is_empty() && retention.len() < TIERS.len() {
        return refused("name all of low, medium, high and critical (0: for ever), or none".into());
    }
    Ok(retention)
}

/// What nobody has to keep, and what keeps the rest.
struct Found {
    part: Option<cut::Part>,
    /// Requests that are over and old enough, with the number of the last event of each.
    old: Vec<AccessRequest>,
    kept_by: String,
}

/// The first event that has to be kept whatever its age, and why.
struct Bound {
    seq: u64,
    why: String,
}

impl Bound {
    fn at(&mut self, seq: u64, why: impl FnOnce() -> String) {
        if seq < self.seq {
            *self = Self { seq, why: why() };
        }
    }
}

/// Whether something of that time (unix seconds) is old enough. What is of no tier is kept as long as anything.
fn is_old(retention: &Retention, tier: Option<Tier>, time: u64, now: u64) -> bool {
    let longest =
        || if retention.values().any(|span| *span == 0) { 0 } else { retention.values().copied().max().unwrap_or(0) };
    let span = match tier {
        Some(tier) => retention.get(&tier).copied().unwrap_or(0),
        None => longest(),
    };
    span > 0 && time.saturating_add(span) <= now
}

async fn look(mount: &Mount, settings: &Settings) -> Result<Found, Error> {
    let nothing = |why: &str| Ok(Found { part: None, old: Vec::new(), kept_by: why.to_owned() });
    let retention = &settings.retention;
    if settings.legal_hold {
        return nothing("legal_hold in config/jit");
    }
    let Some(shortest) = retention.values().copied().filter(|span| *span > 0).min() else {
        return nothing("config/jit names no retention that ends");
    };
    let shown = |event: &Value| {
        let tier = serde_json::from_value(event["tier"].clone()).ok();
        let time = event["time"].as_str().and_then(evidence::unstamp).unwrap_or(u64::MAX) / 1000;
        (event["seq"].as_u64().unwrap_or(0), tier, time)
    };
    // Not the time of the record: that runs ahead for good if the clock once did.
    let now = mount.ports.clock.now();
    let seconds = unix_seconds(now);
    // Most of the time that is all there is to see.
    if let Some((seq, tier, time)) = evidence::read(mount, 1, 1).await?.first().map(shown)
        && !is_old(retention, tier, time, seconds)
    {
        return nothing(&format!("event {seq} is not old enough"));
    }
    let mut bound = Bound { seq: u64::MAX, why: String::new() };
    let storage = &mount.ports.storage;
    let held: BTreeSet<String> = storage.list(HOLDS, "", -1).await?.into_iter().collect();
    let owed: BTreeSet<String> = emergency::owed(mount).await?.into_iter().map(|(id, _)| id).collect();
    for role in storage.list(OPEN, "", -1).await? {
        for request in rules::open(mount, role.trim_end_matches('/')).await? {
            bound.at(request.first_event, || format!("request {} is not over", request.id));
        }
    }
    let mut old = Vec::new();
    let newest = id_at(now.checked_sub(Duration::from_secs(shortest)).unwrap_or(std::time::SystemTime::UNIX_EPOCH));
    for role in storage.list(DONE, "", -1).await? {
        for id in storage.list(&format!("{DONE}{role}"), "", -1).await? {
            let is_held = held.contains(&id);
            if id >= newest && !is_held {
                continue;
            }
            let Some(request) = AccessRequest::at(mount, &format!("{DONE}{role}{id}")).await? else { continue };
            if is_held {
                bound.at(request.first_event, || format!("request {id} is held"));
            } else if owed.contains(&id) {
                bound.at(request.first_event, || format!("the break-glass request {id} waits for its review"));
            } else if !is_old(retention, Some(request.tier), request.closed, seconds) {
                bound.at(request.first_event, || format!("request {id} is not old enough"));
            } else {
                old.push(request);
            }
        }
    }
    for (name, seq) in hook::untold(mount).await? {
        bound.at(seq, || format!("notify/{name} has not taken event {seq} yet"));
    }
    let mut kept_by = String::new();
    let part = cut::part(mount, MOST, |event| {
        let (seq, tier, time) = shown(event);
        if seq >= bound.seq {
            kept_by.clone_from(&bound.why);
        } else if !is_old(retention, tier, time, seconds) {
            kept_by = format!("event {seq} is not old enough");
        }
        !kept_by.is_empty()
    });
    let part = part.await?;
    if kept_by.is_empty() {
        kept_by = "what was written at once goes at once, and the newest stays".into();
    }
    Ok(Found { part, old, kept_by })
}

/// POST `retention/prune`: says what would go; with `dry_run=false` it goes.
pub async fn prune(mount: &Mount, input: &Input, source: &Request) -> Reply {
    let dry = input.flag_or_preset("dry_run");
    once(mount, dry, token(source)).await.map(Some)
}

/// Takes away what is old enough, if `config/jit` says that something ever is.
///
/// # Errors
/// If something cannot be read or written. What was begun is gone on with by the next.
pub async fn tick(mount: &Mount) -> Result<(), Error> {
    if config::load(mount).await?.retention.is_empty() {
        return Ok(());
    }
    once(mount, false, json!({ "name": "retention" })).await.map(drop)
}

async fn once(mount: &Mount, dry: bool, actor: Value) -> Result<Response, Error> {
    mount.refuse_on_standby().await?;
    // Nobody sets a hold between the look and the deed.
    let _one = mount.access.pruning.lock().await;
    let settings = config::load(mount).await?;
    let Found { part, old, kept_by } = look(mount, &settings).await?;
    let before = cut::size(mount).await?;
    let (gone, events) = part.as_ref().map_or((before, 0), |part| (part.end.next - 1, part.events));
    let old: Vec<AccessRequest> = old.into_iter().filter(|request| request.last_event <= gone).collect();
    let answer = Response::data([
        ("dry_run", json!(dry)),
        ("events", json!(events)),
        ("requests", json!(old.len())),
        ("record_begins_after", json!(gone)),
        ("kept_by", json!(kept_by)),
    ]);
    if dry || (settings.legal_hold || settings.retention.is_empty()) {
        return Ok(answer);
    }
    if let Some(part) = part {
        let end = json!({
            "size": gone,
            "head": evidence::event::hex(&part.end.hash),
            "root": evidence::event::hex(&part.end.tree.root()),
            "time": evidence::stamp(part.end.time),
        });
        let retention: BTreeMap<&str, u64> =
            settings.retention.iter().map(|(tier, span)| (tier.name(), *span)).collect();
        let draft = Draft::new("evidence.pruned").with("cut", end).with("events", events).with("requests", old.len());
        let draft = draft.with("retention", json!(retention)).with("actor", actor);
        // First: what goes says so in what stays.
        evidence::append(mount, vec![draft]).await?;
        // Before the cut: whoever comes after one who died here finds by its events that they are old.
        for request in &old {
            mount.ports.storage.delete(&format!("{DONE}{}/{}", request.role, request.id)).await?;
        }
        cut::make(mount, part).await?;
    }
    // Also what somebody has left who died here.
    cut::sweep(mount).await?;
    Ok(answer)
}

/// A hold.
#[derive(Debug, Serialize, Deserialize)]
struct Hold {
    role: String,
    reason: String,
    /// When, unix seconds.
    at: u64,
}

/// POST `requests/:role/:request_id/hold`: nothing of a request is taken away, nor what came after it, until the hold is
/// lifted with `hold=false`.
pub async fn hold(mount: &Mount, role: &str, id: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let reason = input.text("reason").unwrap_or_default().trim().to_owned();
    if reason.is_empty() {
        return Err(Error::Refused("reason: say why".into()));
    }
    let _one = mount.access.pruning.lock().await;
    let key = format!("{HOLDS}{id}");
    let Some(request) = AccessRequest::load(mount, role, id).await? else {
        return Err(Error::Coded(404, "there is no such request".into()));
    };
    let holds = input.flag_or_preset("hold");
    let at = unix_seconds(evidence::now(mount).await);
    let draft = request.event(if holds { "hold.set" } else { "hold.lifted" });
    let draft = draft.with("reason", reason.as_str()).with("actor", token(source));
    evidence::append(mount, vec![draft]).await?;
    if holds {
        let text = serde_json::to_string(&Hold { role: role.to_owned(), reason, at });
        let text = text.map_err(|_| Error::Failed("cannot encode a hold".into()))?;
        mount.ports.storage.put(&key, &Secret::new(text), false).await?;
    } else {
        mount.ports.storage.delete(&key).await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn all_tiers_have_a_time_or_none_has() {
        let all =
            |critical| parse(&pairs(&[("low", "30d"), ("medium", "90d"), ("high", "8760h"), ("critical", critical)]));
        assert_eq!(all("0").unwrap()[&Tier::Critical], 0);
        assert_eq!(all("400d").unwrap()[&Tier::Medium], 90 * 86_400);
        assert!(parse(&pairs(&[])).unwrap().is_empty());
        for wrong in ["29d", "-40d", "x", "3600"] {
            assert!(all(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&pairs(&[("low", "30d")])).is_err());
        assert!(parse(&pairs(&[("lowest", "30d")])).is_err());
    }

    #[test]
    fn what_has_no_tier_is_kept_as_long_as_anything() {
        let of = |critical: u64| {
            Retention::from([(Tier::Low, 10), (Tier::Medium, 20), (Tier::High, 30), (Tier::Critical, critical)])
        };
        assert!(is_old(&of(40), Some(Tier::Low), 100, 110) && !is_old(&of(40), Some(Tier::Low), 100, 109));
        assert!(is_old(&of(40), None, 100, 140) && !is_old(&of(40), None, 100, 139));
        assert!(!is_old(&of(0), None, 100, 1_000_000) && !is_old(&of(0), Some(Tier::Critical), 100, 1_000_000));
        assert!(!is_old(&Retention::new(), Some(Tier::Low), 100, 1_000_000));
    }
}
