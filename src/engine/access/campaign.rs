//! `reviews/`: from time to time somebody looks at who may have which role, and keeps it or takes it away. What nobody has
//! looked at by the due time is taken away until somebody does.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::identity::{self, Who};
use super::policy::Policy;
use super::request::{AccessRequest, Mode, OPEN};
use super::{actor, config, coverage, ending, rules, token};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};
use crate::engine::template::glob;
use crate::secret::Secret;

/// Where they are.
pub const PREFIX: &str = "access/campaign/";
const DAY: u64 = 86_400;
const WEEK: u64 = 7 * DAY;

/// What somebody decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Decision {
    keep: bool,
    by: Who,
    comment: String,
    /// Unix seconds.
    at: u64,
}

/// Somebody and a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    role: String,
    who: Who,
    requests: usize,
    issued: u32,
    /// Unix seconds; 0: never.
    last_use: u64,
    /// Of the week before, in thousandths.
    coverage: u64,
    approved_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

/// A review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Campaign {
    /// Unix seconds.
    begun: u64,
    due: u64,
    lines: Vec<Line>,
}

impl Line {
    fn of(role: &str, requests: &[&AccessRequest], now: u64) -> Option<Self> {
        let who = requests.last()?.who.clone();
        let held = coverage::held(requests.iter().copied(), now);
        let (total, _) = coverage::union(&held, now.saturating_sub(WEEK), now);
        let votes = requests.iter().flat_map(|request| &request.votes).filter(|vote| vote.approve);
        let mut approved_by: Vec<String> = votes.map(|vote| vote.who.name.clone()).collect();
        approved_by.sort_unstable();
        approved_by.dedup();
        Some(Self {
            role: role.to_owned(),
            who,
            requests: requests.len(),
            issued: requests.iter().map(|request| request.used).sum(),
            last_use: requests.iter().flat_map(|r| &r.credentials).map(|c| c.issued).max().unwrap_or(0),
            coverage: total * 1000 / WEEK,
            approved_by,
            decision: None,
        })
    }

    /// Why who is on it gets nothing.
    fn bars(&self, due: u64, now: u64) -> Option<&'static str> {
        match &self.decision {
            Some(decision) if !decision.keep => Some("it was revoked"),
            None if now >= due => Some("nobody has kept it in time"),
            _ => None,
        }
    }
}

async fn load(mount: &Mount, name: &str) -> Result<Option<Campaign>, Error> {
    let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{name}")).await? else { return Ok(None) };
    let read = serde_json::from_str(entry.expose());
    read.map(Some).map_err(|e| Error::Failed(format!("the stored review {name:?} cannot be read: {e}")))
}

async fn store(mount: &Mount, name: &str, campaign: &Campaign) -> Result<(), Error> {
    let text = serde_json::to_string(campaign).map_err(|_| Error::Failed("cannot encode a review".into()))?;
    Ok(mount.ports.storage.put(&format!("{PREFIX}{name}"), &Secret::new(text), false).await?)
}

/// Whether reviews let somebody have a role.
///
/// # Errors
/// 403 with the review that does not.
pub async fn check(mount: &Mount, role: &str, who: &Who, now: SystemTime) -> Result<(), Error> {
    let now = unix_seconds(now);
    for name in mount.ports.storage.list(PREFIX, "", -1).await? {
        let Some(campaign) = load(mount, &name).await? else { continue };
        let own = campaign.lines.iter().filter(|line| line.role == role && line.who.is_same_person(who));
        if let Some(why) = own.filter_map(|line| line.bars(campaign.due, now)).next() {
            return Err(Error::Coded(403, format!("jit_policy: suspended by review {name:?}: {why}")));
        }
    }
    Ok(())
}

/// POST `reviews/:name`: begins one.
pub async fn start(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    if load(mount, name).await?.is_some() {
        return Err(Error::Refused(format!("review {name:?} has begun: its list stays as it is")));
    }
    let days = u64::try_from(input.int_or_preset("days")).unwrap_or(0);
    let span = input.span_or_preset("due").as_secs();
    if !(1..=366).contains(&days) || span == 0 || span > 366 * DAY {
        return Err(Error::Refused("days and due: more than nothing, and at most 366 days".into()));
    }
    let patterns = input.list("roles").map_or_else(|| vec!["*".to_owned()], <[String]>::to_vec);
    let now = evidence::now(mount).await;
    let seconds = unix_seconds(now);
    let mut lines = Vec::new();
    for role in mount.roles().await? {
        let gated = mount.gate(&role).await?.is_some_and(|gate| !gate.jit_policy.is_empty());
        if !gated || !patterns.iter().any(|pattern| glob(pattern, &role)) {
            continue;
        }
        let mut all = rules::recent(mount, &role, now, Duration::from_secs(days * DAY)).await?;
        all.extend(rules::open(mount, &role).await?);
        all.retain(|request| request.mode != Mode::Drill);
        all.sort_by(|a, b| a.id.cmp(&b.id));
        let mut people: Vec<Vec<&AccessRequest>> = Vec::new();
        for request in &all {
            match people.iter_mut().find(|own| own.first().is_some_and(|first| first.who.is_same_person(&request.who)))
            {
                Some(own) => own.push(request),
                None => people.push(vec![request]),
            }
        }
        lines.extend(people.iter().filter_map(|own| Line::of(&role, own, seconds)));
    }
    lines.sort_by(|a, b| (&a.role, &a.who.name).cmp(&(&b.role, &b.who.name)));
    let campaign = Campaign { begun: seconds, due: seconds.saturating_add(span), lines };
    let draft = Draft::new("review.started").with("review", name).with("lines", json!(campaign.lines.len()));
    evidence::append(mount, vec![draft.with("due", json!(campaign.due)).with("actor", token(source))]).await?;
    store(mount, name, &campaign).await?;
    Ok(Some(shown(&campaign, seconds)))
}

fn shown(campaign: &Campaign, now: u64) -> Response {
    let time = |seconds: u64| if seconds == 0 { Value::Null } else { json!(evidence::stamp(seconds * 1000)) };
    let lines = campaign.lines.iter().enumerate().map(|(number, line)| {
        let state = match &line.decision {
            Some(decision) if decision.keep => "kept",
            Some(_) => "revoked",
            None if now >= campaign.due => "overdue",
            None => "open",
        };
        json!({
            "item": number + 1, "role": line.role, "who": line.who.shown(), "requests": line.requests,
            "issued": line.issued, "last_use": time(line.last_use), "coverage_per_mille": line.coverage,
            "approved_by": line.approved_by, "state": state,
            "decided_by": line.decision.as_ref().map(|decision| &decision.by.name),
            "comment": line.decision.as_ref().map(|decision| &decision.comment),
        })
    });
    let lines: Vec<Value> = lines.collect();
    let open = campaign.lines.iter().filter(|line| line.decision.is_none()).count();
    Response::data([
        ("begun", time(campaign.begun)),
        ("due", time(campaign.due)),
        ("overdue", json!(open > 0 && now >= campaign.due)),
        ("open", json!(open)),
        ("items", json!(lines)),
    ])
}

/// GET `reviews/:name`.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let now = unix_seconds(evidence::now(mount).await);
    Ok(load(mount, name).await?.map(|campaign| shown(&campaign, now)))
}

/// DELETE `reviews/:name`: what it has decided holds no more.
pub async fn delete(mount: &Mount, name: &str, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let draft = Draft::new("review.deleted").with("review", name).with("actor", token(source));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.delete(&format!("{PREFIX}{name}")).await?;
    Ok(None)
}

/// POST `reviews/:name/items/:item`.
pub async fn decide(mount: &Mount, name: &str, item: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let _lock = mount.access.locks.hold(&format!("{PREFIX}{name}")).await;
    let Some(mut campaign) = load(mount, name).await? else { return Ok(None) };
    let place = item.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let Some(line) = place.and_then(|place| campaign.lines.get_mut(place)) else { return Ok(None) };
    let refused = |why: &str| Err(Error::Coded(403, format!("jit_policy: {why}")));
    if line.who.is_same_person(&who) {
        return refused("nobody reviews himself, whichever of his entities he uses");
    }
    let gate = mount.gate(&line.role).await?.unwrap_or_default();
    let policy = Policy::load(mount, &gate.jit_policy).await?.unwrap_or_default();
    let admitted = policy.steps.iter().any(|step| step.admits(who.class, &who.groups).next().is_some());
    if !admitted && !policy.owner_groups.iter().any(|group| who.groups.contains(group)) {
        return refused("who may approve requests for the role, or is in owner_groups, reviews it");
    }
    let keep = match input.text("decision") {
        Some("keep") => true,
        Some("revoke") => false,
        _ => return Err(Error::Refused("decision: keep or revoke".into())),
    };
    let comment = input.text("comment").unwrap_or_default().trim().to_owned();
    if comment.is_empty() {
        return Err(Error::Refused("comment: say why".into()));
    }
    let draft = Draft::new("review.decided")
        .with("review", name)
        .with("role", line.role.as_str())
        .with("requester", line.who.shown())
        .with("decision", if keep { "keep" } else { "revoke" })
        .with("comment", comment.as_str())
        .with("actor", actor(&who, source));
    evidence::append(mount, vec![draft]).await?;
    let at = unix_seconds(evidence::now(mount).await);
    line.decision = Some(Decision { keep, by: who.clone(), comment: comment.clone(), at });
    let (role, subject) = (line.role.clone(), line.who.clone());
    store(mount, name, &campaign).await?;
    let mut response = shown(&campaign, at);
    if !keep {
        response.warnings = end_all(mount, &role, &subject, &comment, &actor(&who, source)).await?;
    }
    Ok(Some(response))
}

/// Ends what somebody has of a role now. What cannot be ended yet goes on being tried, and is told.
async fn end_all(mount: &Mount, role: &str, who: &Who, why: &str, by: &Value) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for id in mount.ports.storage.list(&format!("{OPEN}{role}/"), "", -1).await? {
        let _lock = mount.access.locks.hold(&id).await;
        let Some(mut request) = AccessRequest::load(mount, role, &id).await? else { continue };
        if request.state.is_over() || !request.who.is_same_person(who) {
            continue;
        }
        if let Err(e) = ending::end(mount, &mut request, "review", why, Some(by.clone())).await {
            warnings.push(format!("{id}: {e}"));
        }
    }
    Ok(warnings)
}
