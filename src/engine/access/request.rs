//! One request for access: what was asked, who agreed, what came of it, and the states it goes through.
//!
//! ```text
//!            ┌──► denied   ┌──► cancelled
//! file ─► pending ──► approved ──► active ──► ending ──► closed
//!            └─► lapsed    └─► unused           │  ▲
//!                                               ▼  │
//!                                             remnant
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::identity::Who;
use super::policy::Tier;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{event::Draft, stamp};
use crate::engine::request::Fields;
use crate::secret::{Secret, password};

/// Where requests are that are not over.
pub const OPEN: &str = "access/open/";
/// Where those are that are.
pub const DONE: &str = "access/done/";

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for votes.
    Pending,
    /// It may be used.
    Approved,
    /// It was used, and may be in use.
    Active,
    /// What was issued is being ended.
    Ending,
    /// Something is left at the target, or could not be reached there.
    Remnant,
    /// Somebody said no.
    Denied,
    /// The requester took it back.
    Cancelled,
    /// Nobody decided in time.
    Lapsed,
    /// It was approved and not used in time.
    Unused,
    /// Over, and nothing is left.
    Closed,
}

impl State {
    /// As answers and events say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Active => "active",
            Self::Ending => "ending",
            Self::Remnant => "remnant",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Lapsed => "lapsed",
            Self::Unused => "unused",
            Self::Closed => "closed",
        }
    }

    /// Nothing follows it.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Denied | Self::Cancelled | Self::Lapsed | Self::Unused | Self::Closed)
    }

    /// Credentials may be issued.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Approved | Self::Active)
    }
}

/// How it was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By people.
    #[default]
    Manual,
    /// By the policy.
    Auto,
    /// By people, beforehand: see [`super::preapproval`].
    Preapproved,
    /// By nobody: see [`super::emergency`].
    BreakGlass,
    /// By being a drill, of which nobody gets anything: see [`super::drill`].
    Drill,
}

/// A vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Who, as they were then.
    pub who: Who,
    /// For it.
    pub approve: bool,
    /// What they said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// When, unix seconds.
    pub at: u64,
}

/// Something that was issued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// Id of the issue.
    pub issue_id: String,
    /// Its name at the target.
    pub name: String,
    /// When it was to be made, unix seconds.
    pub issued: u64,
    /// When it ends, unix seconds.
    pub expires: u64,
    /// When it ended, unix seconds; 0 if it has not.
    #[serde(default)]
    pub ended: u64,
    /// When it makes room for a newer one, unix seconds; 0 if there is none.
    #[serde(default)]
    pub room: u64,
    /// What ends it: a lease's internal data.
    pub internal: Fields,
}

/// Why it ends, or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// `completed`, `revoked`, `grant_until`, `lease`, …
    pub cause: String,
    /// When, unix seconds.
    pub at: u64,
    /// In whose words, if somebody asked for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A request. Times are unix seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessRequest {
    /// Its id; ids of later requests sort behind.
    pub id: String,
    /// The role.
    pub role: String,
    /// How far it has come.
    pub state: State,
    /// Who asks, as they were then.
    pub who: Who,
    /// What narrows the role. Part of what is approved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// The ticket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
    /// What for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// The name of the policy.
    pub policy: String,
    /// Its text when the request was filed.
    pub policy_hash: String,
    /// The policy's tier then.
    pub tier: Tier,
    /// How it was approved.
    #[serde(default)]
    pub mode: Mode,
    /// The preapproval that it was drawn from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preapproval: String,
    /// How long each credential was asked to last; 0: as role and policy say.
    #[serde(default)]
    pub ttl: u64,
    /// How many may be issued; 0: any number.
    pub uses: u32,
    /// How many were.
    #[serde(default)]
    pub used: u32,
    /// When it was filed.
    pub filed: u64,
    /// When it lapses if nobody decides.
    pub pending_until: u64,
    /// When it was approved; 0 if it was not.
    #[serde(default)]
    pub approved: u64,
    /// When it ends if it is not used.
    #[serde(default)]
    pub activate_until: u64,
    /// When it ends.
    #[serde(default)]
    pub grant_until: u64,
    /// The votes.
    #[serde(default)]
    pub votes: Vec<Vote>,
    /// What was issued.
    #[serde(default)]
    pub credentials: Vec<Credential>,
    /// Why it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// When it was over.
    #[serde(default)]
    pub closed: u64,
    /// The number of its first event.
    #[serde(default)]
    pub first_event: u64,
    /// The number of the last event that was written before it was stored last.
    #[serde(default)]
    pub last_event: u64,
}

/// What its deadlines say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Nothing yet.
    No,
    /// Nobody decided in time.
    Lapsed,
    /// Nobody used it in time.
    Unused,
    /// The grant is over.
    Ended,
}

impl AccessRequest {
    /// What became of it by mere passing of time.
    pub fn overdue(&self, now: u64) -> Overdue {
        match self.state {
            State::Pending if now >= self.pending_until => Overdue::Lapsed,
            State::Approved if now >= self.activate_until.min(self.grant_until) => Overdue::Unused,
            State::Active if now >= self.grant_until => Overdue::Ended,
            _ => Overdue::No,
        }
    }

    /// Whether one more credential may be issued of it.
    pub fn has_use_left(&self) -> bool {
        self.state.is_usable() && (self.uses == 0 || self.used < self.uses)
    }

    /// Credentials that have not ended.
    pub fn live(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.iter().filter(|credential| credential.ended == 0)
    }

    /// It is approved now: the time of the grant begins.
    pub fn approve(&mut self, now: u64, activate_within: u64, grant_ttl: u64) {
        self.state = State::Approved;
        self.approved = now;
        self.grant_until = now.saturating_add(grant_ttl);
        self.activate_until = now.saturating_add(activate_within).min(self.grant_until);
    }

    /// It is over now.
    pub fn close(&mut self, state: State, now: u64) {
        self.state = state;
        self.closed = now;
    }

    /// A part of the id that user names have room for.
    pub fn short_id(&self) -> &str {
        self.id.get(self.id.len().saturating_sub(SHORT)..).unwrap_or(&self.id)
    }

    fn key(&self) -> String {
        let folder = if self.state.is_over() { DONE } else { OPEN };
        format!("{folder}{}/{}", self.role, self.id)
    }

    /// The stored request. One that is over is found too.
    pub async fn load(mount: &Mount, role: &str, id: &str) -> Result<Option<Self>, Error> {
        for folder in [OPEN, DONE] {
            if let Some(found) = Self::at(mount, &format!("{folder}{role}/{id}")).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The request at this storage key.
    pub async fn at(mount: &Mount, key: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(key).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the stored request at {key:?} cannot be read: {e}")))
    }

    /// Writes it. When this returns `Ok` it outlives the process and the host.
    pub async fn store(&self, mount: &Mount) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode a request".into()))?;
        let storage = &mount.ports.storage;
        storage.put(&self.key(), &Secret::new(text), false).await?;
        if self.state.is_over() {
            // If this fails it is found as open, is seen to be over, and is removed then.
            storage.delete(&format!("{OPEN}{}/{}", self.role, self.id)).await?;
        }
        mount.access.stored(self);
        Ok(())
    }

    /// An event about it.
    pub fn event(&self, kind: &str) -> Draft {
        Draft::new(kind)
            .with("request_id", self.id.as_str())
            .with("role", self.role.as_str())
            .with("tier", json!(self.tier))
            .with("requester", self.who.shown())
            .with("params", json!(self.params))
            .with("drill", if self.mode == Mode::Drill { json!(true) } else { Value::Null })
    }

    /// As answers show it: no secret is in it.
    pub fn shown(&self) -> Vec<(String, Value)> {
        let time = |seconds: u64| if seconds == 0 { Value::Null } else { json!(stamp(seconds * 1000)) };
        let votes: Vec<Value> = self
            .votes
            .iter()
            .map(|vote| json!({ "by": vote.who.name, "entity_id": vote.who.entity_id, "approve": vote.approve, "comment": vote.comment, "at": time(vote.at) }))
            .collect();
        let credentials: Vec<Value> = self
            .credentials
            .iter()
            .map(|c| json!({ "name": c.name, "issue_id": c.issue_id, "issued": time(c.issued), "expires": time(c.expires), "ended": time(c.ended) }))
            .collect();
        let mut fields: Map<String, Value> = Map::new();
        for (key, value) in [
            ("request_id", json!(self.id)),
            // The host's own clients take the field above for the one of their envelope.
            ("id", json!(self.id)),
            ("role", json!(self.role)),
            ("state", json!(self.state.name())),
            ("requester", self.who.shown()),
            ("params", json!(self.params)),
            ("reason", json!(self.reason)),
            ("ticket", json!(self.ticket)),
            ("purpose", json!(self.purpose)),
            ("policy", json!(self.policy)),
            ("policy_hash", json!(self.policy_hash)),
            ("tier", json!(self.tier)),
            ("mode", json!(self.mode)),
            ("preapproval", json!(self.preapproval)),
            ("ttl", json!(self.ttl)),
            ("uses", json!(self.uses)),
            ("used", json!(self.used)),
            ("filed", time(self.filed)),
            ("pending_until", time(self.pending_until)),
            ("approved", time(self.approved)),
            ("activate_until", time(self.activate_until)),
            ("grant_until", time(self.grant_until)),
            ("closed", time(self.closed)),
            ("end_reason", json!(self.end.as_ref().map(|end| &end.cause))),
            ("votes", json!(votes)),
            ("credentials", json!(credentials)),
        ] {
            fields.insert(key.to_owned(), value);
        }
        fields.into_iter().collect()
    }
}

/// How much of an id is its random part.
const SHORT: usize = 8;
/// Digits of ids: in order, and without those that look alike.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new id.
pub fn new_id(now: SystemTime) -> Result<String, Error> {
    let random = password::bytes::<SHORT>().map_err(|e| Error::Failed(e.to_string()))?;
    let random = random.iter().map(|byte| char::from(DIGITS[usize::from(byte % 32)]));
    Ok(random.fold(id_at(now), |mut id, digit| {
        id.push(digit);
        id
    }))
}

/// What ids of requests of that time begin with. All later ones sort behind it.
pub fn id_at(time: SystemTime) -> String {
    let milliseconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let digit = |place: u32| char::from(DIGITS[(milliseconds >> (5 * place)) as usize % 32]);
    "jr_".chars().chain((0..10).rev().map(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_are_names() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let (a, b) = (new_id(at(1_800_000_000_000)).unwrap(), new_id(at(1_800_000_000_001)).unwrap());
        assert!(a < b && a.len() == 21 && crate::engine::field::is_name(&a), "{a} {b}");
        assert!(id_at(at(1_800_000_000_001)) > a);
        assert_ne!(new_id(at(5)).unwrap(), new_id(at(5)).unwrap());
    }
}
