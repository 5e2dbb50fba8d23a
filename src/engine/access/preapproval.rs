//! `preapprovals/:name`: who may approve agrees beforehand, for shifts and nightly jobs: so many credentials a day, each for
//! so long, within hours, until a day. Each read that draws from it files a request of its own, which is in the record like
//! any other.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::config::{self, Settings};
use super::file::Case;
use super::identity::{self, Who};
use super::policy::{Policy, hours::Hours};
use super::request::{AccessRequest, Mode};
use super::{actor, rules, votes};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::evidence::event::{Draft, canonical, hex};
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};
use crate::secret::Secret;

/// Where they are.
pub const PREFIX: &str = "access/pre/";
/// The longest that one lasts; then it is looked at again or is over.
const LONGEST: u64 = 90 * 86_400;

/// A preapproval. Times are unix seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preapproval {
    /// The role.
    pub role: String,
    /// For whom: an entity,
    pub entity_id: String,
    /// or the members of a group.
    pub group: String,
    /// With these parameters.
    pub params: BTreeMap<String, String>,
    /// Why.
    pub reason: String,
    /// When it is over.
    pub until: u64,
    /// How many credentials a day.
    pub per_day: u64,
    /// How long each lasts, in seconds.
    pub ttl: u64,
    /// When they are issued; empty: as the policy says.
    pub hours: String,
    /// Who has agreed, as they were then.
    pub votes: Vec<Who>,
}

impl Default for Preapproval {
    fn default() -> Self {
        Self {
            role: String::new(),
            entity_id: String::new(),
            group: String::new(),
            params: BTreeMap::new(),
            reason: String::new(),
            until: 0,
            per_day: 1,
            ttl: 900,
            hours: String::new(),
            votes: Vec::new(),
        }
    }
}

impl Preapproval {
    async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{name}")).await? else { return Ok(None) };
        let read = serde_json::from_str(entry.expose());
        read.map(Some).map_err(|e| Error::Failed(format!("the stored preapproval {name:?} cannot be read: {e}")))
    }

    async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode a preapproval".into()))?;
        Ok(mount.ports.storage.put(&format!("{PREFIX}{name}"), &Secret::new(text), false).await?)
    }

    fn is_for(&self, who: &Who) -> bool {
        (!self.entity_id.is_empty() && self.entity_id == who.entity_id)
            || (!self.group.is_empty() && who.groups.contains(&self.group))
    }

    /// What names it as it is, whoever has agreed.
    fn hash(&self) -> String {
        let asked = Self { votes: Vec::new(), ..self.clone() };
        hex(&Sha256::digest(canonical(&serde_json::to_value(asked).unwrap_or_default())))
    }

    /// Those who agreed and still may, without whom it is for.
    async fn standing(&self, mount: &Mount, settings: &Settings) -> Result<Vec<Who>, Error> {
        let mut voters: Vec<Who> = Vec::new();
        for vote in &self.votes {
            if let Some(who) = identity::look(mount, settings, &vote.entity_id).await?
                && !self.is_for(&who)
                && !voters.iter().any(|other| other.is_same_person(&who))
            {
                voters.push(who);
            }
        }
        Ok(voters)
    }
}

/// POST `preapprovals/:name`: by somebody who may approve; his vote counts. A change begins anew.
pub async fn write(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let text = |key: &str| input.text(key).unwrap_or_default().to_owned();
    let now = unix_seconds(evidence::now(mount).await);
    let span = input.span_or_preset("period").as_secs();
    let number = |key: &str| u64::try_from(input.int_or_preset(key)).unwrap_or(0);
    let new = Preapproval {
        role: text("role"),
        entity_id: text("entity_id"),
        group: text("group"),
        params: input.pairs("params").cloned().unwrap_or_default(),
        reason: text("reason"),
        until: now.saturating_add(span),
        per_day: number("per_day"),
        ttl: input.span_or_preset("ttl").as_secs(),
        hours: text("hours"),
        votes: vec![who.clone()],
    };
    if new.entity_id.is_empty() == new.group.is_empty() {
        return Err(Error::Refused("either entity_id or group is needed: for whom it is".into()));
    }
    if new.reason.trim().len() < 10 {
        return Err(Error::Refused("reason: at least 10 characters are needed".into()));
    }
    if span == 0 || span > LONGEST || new.per_day == 0 || new.ttl == 0 {
        return Err(Error::Refused("period (at most 90 days), per_day and ttl: more than nothing".into()));
    }
    if !new.hours.is_empty() {
        Hours::parse(&new.hours).map_err(|e| Error::Refused(format!("hours: {e}")))?;
    }
    let gate = mount.gate(&new.role).await?.filter(|gate| !gate.jit_policy.is_empty());
    let gate =
        gate.ok_or_else(|| Error::Refused(format!("role {:?} is not there, or names no jit_policy", new.role)))?;
    rules::params(&gate.params_allowed, &new.params)?;
    let policy = Policy::of_role(mount, &new.role, &gate.jit_policy).await?;
    may_agree(&policy, &new, &who)?;
    let value = serde_json::to_value(&new).unwrap_or_default();
    let draft = Draft::new("preapproval.written").with("preapproval", name).with("config", value);
    let _lock = mount.access.locks.hold(&format!("{PREFIX}{name}")).await;
    evidence::append(mount, vec![draft.with("actor", actor(&who, source))]).await?;
    new.store(mount, name).await?;
    shown(mount, &settings, &policy, &new).await
}

/// POST `preapprovals/:name/approve`: by somebody who names the hash of what he has seen, for it can be written anew.
pub async fn approve(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let _lock = mount.access.locks.hold(&format!("{PREFIX}{name}")).await;
    let Some(mut found) = Preapproval::load(mount, name).await? else { return Ok(None) };
    let gate = mount.gate(&found.role).await?.unwrap_or_default();
    let policy = Policy::of_role(mount, &found.role, &gate.jit_policy).await?;
    may_agree(&policy, &found, &who)?;
    if found.votes.iter().any(|vote| vote.is_same_person(&who)) {
        return Err(Error::Coded(403, "jit_policy: you have agreed already".into()));
    }
    match input.text("hash").filter(|seen| !seen.is_empty()) {
        Some(seen) if seen == found.hash() => {}
        Some(_) => return Err(Error::Coded(409, "jit_state: it is not what you have seen: read it again".into())),
        None => {
            return Err(Error::Refused("hash: name what you agree to: the hash of a read of the preapproval".into()));
        }
    }
    let draft = Draft::new("preapproval.approved").with("preapproval", name).with("hash", found.hash());
    let draft = draft.with("actor", actor(&who, source));
    found.votes.push(who.clone());
    evidence::append(mount, vec![draft]).await?;
    found.store(mount, name).await?;
    mount.access.stir();
    shown(mount, &settings, &policy, &found).await
}

fn may_agree(policy: &Policy, preapproval: &Preapproval, who: &Who) -> Result<(), Error> {
    if preapproval.is_for(who) {
        return Err(Error::Coded(403, "jit_policy: nobody approves for himself".into()));
    }
    if !policy.steps.iter().any(|step| step.admits(who.class, &who.groups).next().is_some()) {
        return Err(Error::Coded(403, "jit_policy: who may approve requests for the role approves this".into()));
    }
    Ok(())
}

async fn shown(mount: &Mount, settings: &Settings, policy: &Policy, found: &Preapproval) -> Reply {
    let standing = found.standing(mount, settings).await?;
    let tally = votes::tally(&policy.steps, policy.distinct_groups, &standing);
    let now = unix_seconds(evidence::now(mount).await);
    Ok(Some(Response::data([
        ("hash", json!(found.hash())),
        ("role", json!(found.role)),
        ("entity_id", json!(found.entity_id)),
        ("group", json!(found.group)),
        ("params", json!(found.params)),
        ("reason", json!(found.reason)),
        ("until", json!(evidence::stamp(found.until * 1000))),
        ("per_day", json!(found.per_day)),
        ("ttl", json!(found.ttl)),
        ("hours", json!(found.hours)),
        ("approvals", json!(format!("{}/{}", tally.given, tally.needed))),
        ("live", json!(tally.is_full() && now < found.until)),
    ])))
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(found) = Preapproval::load(mount, name).await? else { return Ok(None) };
    let settings = config::load(mount).await?;
    let gate = mount.gate(&found.role).await?.unwrap_or_default();
    let policy = Policy::load(mount, &gate.jit_policy).await?.unwrap_or_default();
    shown(mount, &settings, &policy, &found).await
}

/// DELETE.
pub async fn delete(mount: &Mount, name: &str, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let draft = Draft::new("preapproval.deleted").with("preapproval", name).with("actor", super::token(source));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.delete(&format!("{PREFIX}{name}")).await?;
    Ok(None)
}

/// A day: uses are counted by it.
const DAY: Duration = Duration::from_secs(86_400);

/// The preapproval that the caller may draw from now: its name, itself, and who stands by it.
///
/// # Errors
/// 403 or 429 if there is one, but not now; the reason is the last one's.
pub async fn find(
    mount: &Mount,
    case: &Case<'_>,
    params: &BTreeMap<String, String>,
    now: SystemTime,
) -> Result<Option<(String, Preapproval, Vec<Who>)>, Error> {
    let mut refusal = None;
    for name in mount.ports.storage.list(PREFIX, "", -1).await? {
        let Some(found) = Preapproval::load(mount, &name).await? else { continue };
        if found.role != case.role || !found.is_for(&case.who) || found.params != *params {
            continue;
        }
        match holds(mount, case, &name, &found, now).await {
            Ok(standing) => return Ok(Some((name, found, standing))),
            Err(Error::Coded(code, text)) => refusal = Some(Error::Coded(code, text)),
            Err(other) => return Err(other),
        }
    }
    refusal.map_or(Ok(None), Err)
}

async fn holds(
    mount: &Mount,
    case: &Case<'_>,
    name: &str,
    found: &Preapproval,
    now: SystemTime,
) -> Result<Vec<Who>, Error> {
    let seconds = unix_seconds(now);
    let refused = |why: String| Err(Error::Coded(403, format!("jit_policy: preapproval {name:?}: {why}")));
    if seconds >= found.until {
        return refused("it is over".into());
    }
    if !found.hours.is_empty() && !Hours::parse(&found.hours).is_ok_and(|hours| hours.are_now(now)) {
        return refused(format!("not at this time: {}", found.hours));
    }
    let standing = found.standing(mount, &case.settings).await?;
    let tally = votes::tally(&case.policy.steps, case.policy.distinct_groups, &standing);
    if !tally.is_full() {
        return refused(format!("{} of {} have agreed", tally.given, tally.needed));
    }
    let mut drawn = rules::open(mount, case.role).await?;
    drawn.extend(rules::recent(mount, case.role, now, DAY).await?);
    let since = seconds.saturating_sub(DAY.as_secs());
    let today = |request: &&AccessRequest| request.preapproval == name && request.filed > since;
    let count = drawn.iter().filter(today).count() as u64;
    if count >= found.per_day {
        return Err(Error::Coded(
            429,
            format!("jit_limit: preapproval {name:?}: {count} in 24 hours, and per_day says {}", found.per_day),
        ));
    }
    Ok(standing)
}

/// Whether a request that was drawn from a preapproval may be used still: who stands by it.
///
/// # Errors
/// 403 if what it was drawn from is gone, over, or not agreed to any more.
pub async fn still(
    mount: &Mount,
    case: &Case<'_>,
    request: &AccessRequest,
    now: SystemTime,
) -> Result<Vec<Who>, Error> {
    let gone = || Error::Coded(403, "jit_policy: what it was drawn from is gone".into());
    let found = Preapproval::load(mount, &request.preapproval).await?.ok_or_else(gone)?;
    if request.mode != Mode::Preapproved || unix_seconds(now) >= found.until || !found.is_for(&case.who) {
        return Err(gone());
    }
    let standing = found.standing(mount, &case.settings).await?;
    if votes::tally(&case.policy.steps, case.policy.distinct_groups, &standing).is_full() {
        Ok(standing)
    } else {
        Err(gone())
    }
}
