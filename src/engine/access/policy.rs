//! `policies/:name`: who may ask for a role, who must agree, for how long and how often.

pub mod hours;
mod write;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::identity::Class;
use super::staged;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::event::{canonical, hex};
use crate::engine::request::{Reply, Response};

pub use write::{delete, judge, lay_over, store, write};

/// Where policies are.
pub const PREFIX: &str = "access/policy/";

/// How much harm a role can do. Some rules have a floor by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Little.
    Low,
    /// Some.
    #[default]
    Medium,
    /// Much: somebody has to agree.
    High,
    /// All: two have to agree.
    Critical,
}

impl Tier {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Whether what a user does has to be in the log of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recording {
    /// As the target is set up.
    #[default]
    Off,
    /// Where it can be; a credential that is not recorded lasts `max_ttl_unrecorded` at most.
    Prefer,
    /// No record, no credential.
    Require,
}

/// How a request comes to be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// By the policy itself, in the read that needs it.
    Auto,
    /// By people.
    #[default]
    Manual,
}

/// What a read does that finds no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unapproved {
    /// It is refused.
    #[default]
    Deny,
    /// It files the request, and is refused.
    File,
}

/// What a read has to bring besides its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Nothing.
    #[default]
    None,
    /// A token of the workload itself: see [`super::proof`].
    Workload,
    /// One that says that somebody has logged in a moment ago, with a second factor.
    StepUp,
}

/// Some people who have to agree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Who is in one of these may.
    pub groups: Vec<String>,
    /// So many have to.
    #[serde(default = "one")]
    pub min: u32,
    /// Who is of one of these classes may; empty: people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Class>,
}

fn one() -> u32 {
    1
}

/// A policy. Durations are seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// For people.
    pub description: String,
    /// How much harm its roles can do.
    pub tier: Tier,
    /// Who is in one of these may ask; empty: everybody whom the ACL lets.
    pub eligible_groups: Vec<String>,
    /// Who is of one of these classes may ask.
    pub eligible_classes: Vec<Class>,
    /// Nobody may.
    pub never: bool,
    /// When credentials may be issued: see [`hours`]. Empty: always.
    pub hours: String,
    /// The fewest characters of a reason.
    pub require_reason: u64,
    /// A regular expression that the whole reason matches.
    pub reason_pattern: String,
    /// A regular expression that the whole ticket matches; empty: no ticket is needed.
    pub ticket_pattern: String,
    /// The hook that is asked whether a ticket is open; empty: nobody is.
    pub ticket_hook: String,
    /// A grant ends with its ticket.
    pub end_with_ticket: bool,
    /// The purposes there are; empty: none has to be given.
    pub purposes: Vec<String>,
    /// The reason of requests that a read files.
    pub service_reason: String,
    /// How a request is approved.
    pub approval: Approval,
    /// Who has to agree.
    pub steps: Vec<Step>,
    /// Votes that count come from different groups.
    pub distinct_groups: bool,
    /// Who approved a request of B does not have one approved by B within this.
    pub forbid_reciprocal: u64,
    /// So many votes against it end a request.
    pub deny_threshold: u32,
    /// Who may end a grant besides those who may approve it.
    pub owner_groups: Vec<String>,
    /// How long a request waits for votes.
    pub pending_ttl: u64,
    /// How long an approved request waits for its first use.
    pub activate_within: u64,
    /// How long a grant lasts, from its approval.
    pub grant_ttl: u64,
    /// The longest that a credential lasts; 0: as the role says.
    pub cred_max_ttl: u64,
    /// How many credentials may be issued of a grant; 0: any number.
    pub uses: u32,
    /// The most grants of a role that one person has at a time; 0: any number.
    pub max_active: u32,
    /// How long after the end of a grant the same person may not ask again.
    pub cooldown: u64,
    /// The most requests of one person for a role in 24 hours; 0: any number.
    pub max_requests_per_day: u32,
    /// The largest share of a time that one person holds a role: see [`super::coverage`]. Empty: any.
    pub max_coverage: String,
    /// What a read has to bring besides its token.
    pub require_proof: Proof,
    /// How old that may be.
    pub proof_max_age: u64,
    /// A grant ends when its credentials were not used for so long; 0: not for that.
    pub end_idle: u64,
    /// A newer credential of a grant ends the older ones.
    pub supersede: bool,
    /// So long after it was issued.
    pub overlap: u64,
    /// Who may have access without anybody's agreement; empty: nobody.
    pub break_glass_groups: Vec<String>,
    /// Only for who has waited so long for an ordinary approval; 0: at once.
    pub break_glass_after: u64,
    /// Only while somebody else says that there is the incident: see [`super::freeze`].
    pub break_glass_incident: bool,
    /// How long that lasts.
    pub break_glass_ttl: u64,
    /// By when somebody looks at it.
    pub break_glass_review_within: u64,
    /// How many reviews of one person may be open.
    pub break_glass_open_reviews: u32,
    /// Whether what is done with a credential has to be recorded.
    pub recording: Recording,
    /// The longest that a credential lasts of which nothing is recorded; 0: as any other.
    pub max_ttl_unrecorded: u64,
    /// An end at a database that takes longer is slow.
    pub slow_revoke: u64,
    /// The longest that a credential lasts where ends are slow; 0: as any other.
    pub max_ttl_slow_revoke: u64,
    /// Roles of databases that name it have to say `verify=required`, and be able to.
    pub verified_end: bool,
    /// Rules in Cedar: see [`super::cedar`]. Empty: none.
    pub cedar: String,
    /// What a read does that finds no grant.
    pub on_unapproved: Unapproved,
    /// How long after a request has lapsed or was denied a read may file the next.
    pub refile_after: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            description: String::new(),
            tier: Tier::Medium,
            eligible_groups: Vec::new(),
            eligible_classes: vec![Class::Human],
            never: false,
            hours: String::new(),
            require_reason: 10,
            reason_pattern: String::new(),
            ticket_pattern: String::new(),
            ticket_hook: String::new(),
            end_with_ticket: false,
            purposes: Vec::new(),
            service_reason: String::new(),
            approval: Approval::Manual,
            steps: Vec::new(),
            distinct_groups: false,
            forbid_reciprocal: 0,
            deny_threshold: 1,
            owner_groups: Vec::new(),
            pending_ttl: 3600,
            activate_within: 900,
            grant_ttl: 3600,
            cred_max_ttl: 0,
            uses: 1,
            max_active: 1,
            cooldown: 0,
            max_requests_per_day: 20,
            max_coverage: String::new(),
            require_proof: Proof::None,
            proof_max_age: 300,
            end_idle: 0,
            supersede: false,
            overlap: 120,
            break_glass_groups: Vec::new(),
            break_glass_after: 0,
            break_glass_incident: false,
            break_glass_ttl: 900,
            break_glass_review_within: 86_400,
            break_glass_open_reviews: 0,
            recording: Recording::Off,
            max_ttl_unrecorded: 0,
            slow_revoke: 5,
            max_ttl_slow_revoke: 0,
            verified_end: false,
            cedar: String::new(),
            on_unapproved: Unapproved::Deny,
            refile_after: 900,
        }
    }
}

impl Policy {
    /// The policy of that name.
    pub async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{name}")).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the stored policy {name:?} cannot be read: {e}")))
    }

    /// The policy that a role names. One that is gone allows nothing.
    ///
    /// # Errors
    /// 403 `jit_policy` if there is none.
    pub async fn of_role(mount: &Mount, role: &str, name: &str) -> Result<Self, Error> {
        Self::load(mount, name).await?.ok_or_else(|| {
            Error::Coded(403, format!("jit_policy: role {role:?} names the policy {name:?}, which does not exist"))
        })
    }

    /// As JSON.
    pub fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// What names this very text of it.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(canonical(&self.value())))
    }

    /// Votes that are needed in all.
    pub fn votes(&self) -> u32 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.min))
    }

    /// Every group that may vote.
    pub fn approvers(&self) -> BTreeSet<&str> {
        self.steps.iter().flat_map(|step| step.groups.iter().map(String::as_str)).collect()
    }
}

impl Step {
    /// Whether somebody of this class and these groups may vote here: the group by which.
    pub fn admits<'a>(&'a self, class: Class, groups: &'a BTreeSet<String>) -> impl Iterator<Item = &'a str> {
        let of_class = if self.classes.is_empty() { class == Class::Human } else { self.classes.contains(&class) };
        self.groups.iter().filter(move |group| of_class && groups.contains(*group)).map(String::as_str)
    }
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(policy) = Policy::load(mount, name).await? else { return Ok(None) };
    let mut data: Vec<(String, Value)> = match policy.value() {
        Value::Object(fields) => fields.into_iter().collect(),
        _ => Vec::new(),
    };
    data.push(("policy_hash".into(), json!(policy.hash())));
    if let Some(waits) = staged::load(mount, &staged::of_policy(name)).await? {
        data.extend(waits.shown().map(|(key, value)| (key.to_owned(), value)));
    }
    Ok(Some(Response::data(data)))
}

/// `policies/:name/acl`: texts for the host's own policies.
pub async fn acl(mount: &Mount, name: &str, mount_point: &str) -> Reply {
    if Policy::load(mount, name).await?.is_none() {
        return Ok(None);
    }
    let at = if mount_point.is_empty() { "MOUNT/" } else { mount_point };
    let path = |rest: &str, can: &str| format!("path \"{at}{rest}\" {{ capabilities = [{can}] }}\n");
    let requester = path("requests/ROLE", r#""create", "list""#)
        + &path("requests/ROLE/+", r#""read""#)
        + &path("requests/ROLE/+/cancel", r#""update""#)
        + &path("requests/ROLE/+/complete", r#""update""#)
        + &path("creds/ROLE", r#""read""#);
    let approver = path("inbox", r#""read""#)
        + &path("requests/ROLE", r#""list""#)
        + &path("requests/ROLE/+", r#""read""#)
        + &path("requests/ROLE/+/approve", r#""update""#)
        + &path("requests/ROLE/+/deny", r#""update""#)
        + &path("requests/ROLE/+/revoke", r#""update""#);
    let auditor = path("evidence/+", r#""read", "update""#)
        + &path("evidence/chain/+", r#""read""#)
        + &path("evidence/by-credential/+", r#""read""#)
        + &path("policies", r#""list""#)
        + &path("policies/+", r#""read""#);
    let note = "Put the name of a role for ROLE. A * at the end of a path also covers what is below it, votes included: \
                write roles out, or use + for one whole part of a path.";
    Ok(Some(Response::data([
        ("approver", json!(approver)),
        ("auditor", json!(auditor)),
        ("note", json!(note)),
        ("requester", json!(requester)),
    ])))
}
