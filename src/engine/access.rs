//! Just-in-time access: a role that names a policy gives credentials only to who asked, was approved, and asks again
//! within the time of the grant. A role that names none is as it is without all of this, and costs the same.
//!
//! Every mint and every renewal comes by [`issue`], which asks [`gate`]. Who may ask and vote is in [`policy`] and
//! [`rules`], who somebody is in [`identity`], what became of a request in [`request`], and how a grant ends in
//! [`ending`].
//!
//! [`issue`]: super::issue

mod approvers;
pub mod campaign;
pub mod cedar;
pub mod config;
pub mod coverage;
pub mod drill;
pub mod emergency;
pub mod ending;
mod file;
pub mod freeze;
pub mod gate;
pub mod hook;
pub mod identity;
pub mod pace;
pub mod paths;
pub mod policy;
pub mod preapproval;
pub mod proof;
pub mod repeat;
mod report;
pub mod request;
pub mod retention;
pub mod rules;
mod simulate;
pub mod staged;
mod standing;
pub mod verbs;
pub mod votes;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::field::{Field, FieldType, Input};
use super::request::{Existence, Operation, Reply, Request};
use super::rotation::Locks;
use super::{Mount, evidence};
use identity::Who;
use paths::Path;
use request::{AccessRequest, OPEN};
use verbs::Verb;

/// How often the agenda is looked at.
const TICK: Duration = Duration::from_secs(1);
/// The pause after something that was due could not be done.
const PAUSE: Duration = Duration::from_secs(10);

/// How many entities are remembered that were refused.
const REFUSALS: usize = 1000;

/// What a role says of access.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// The policy; empty: the role is not gated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jit_policy: String,
    /// What may narrow the role, each with a regular expression for its value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params_allowed: BTreeMap<String, String>,
}

/// The fields of a role that make its gate.
pub const ROLE_FIELDS: [Field; 2] = [
    Field::new(
        "jit_policy",
        FieldType::String,
        "The access policy (policies/:name) that callers have to satisfy before they get a credential. Empty means that \
         the host's own ACL is all there is.",
    ),
    Field::new(
        "params_allowed",
        FieldType::KvPairs,
        "With jit_policy: what a request must say to narrow the role, each with a regular expression for its whole value. \
         {{NAME}} in the creation statements, or in an AWS role's policy_document, tags and principal_name, is filled with \
         it. Values are letters, digits, _, - and . only.",
    ),
];

/// The fields of a read that mean something for a gated role.
pub const CREDS_FIELDS: [Field; 4] = [
    Field::new("request_id", FieldType::String, "Of a role with jit_policy: use this grant.").query(),
    Field::new("params", FieldType::KvPairs, "Of a role with jit_policy: use the grant for these params.").query(),
    Field::new(
        "identity_proof",
        FieldType::Secret,
        "Of a role whose policy asks for it (require_proof): a JWT of the workload itself.",
    )
    .query(),
    Field::new(
        "wait",
        FieldType::DurationSecond,
        "Of a role with jit_policy: how long to wait for an approval, in seconds or as a duration; at most 60s.",
    )
    .query(),
];

/// Names that creation statements have a meaning for already.
const TAKEN: [&str; 5] = ["name", "username", "password", "expiration", "host"];

impl Gate {
    /// Lays the fields of a role's write over it. A parameter must be in one of the places, which are called `what`.
    ///
    /// # Errors
    /// What is wrong, for the caller.
    pub fn lay_over(&mut self, input: &Input, (what, places): (&str, &[String])) -> Result<(), Error> {
        if let Some(name) = input.text("jit_policy") {
            name.clone_into(&mut self.jit_policy);
        }
        if let Some(params) = input.pairs("params_allowed") {
            self.params_allowed = params.clone();
        }
        if self.jit_policy.is_empty() && !self.params_allowed.is_empty() {
            return Err(Error::Refused("params_allowed means nothing without jit_policy".into()));
        }
        for (name, rule) in &self.params_allowed {
            if TAKEN.contains(&name.as_str()) || !super::field::is_name(name) {
                return Err(Error::Refused(format!("params_allowed: {name:?} cannot be the name of a parameter")));
            }
            if !matches!(pattern(rule), Ok(Some(_))) {
                return Err(Error::Refused(format!(
                    "params_allowed: {name} needs a regular expression for its values"
                )));
            }
            let place = format!("{{{{{name}}}}}");
            if !places.iter().any(|text| text.contains(&place)) {
                return Err(Error::Refused(format!(
                    "params_allowed: {place} is nowhere in {what}, so {name} would narrow nothing"
                )));
            }
        }
        Ok(())
    }

    /// As a read of the role shows it: nothing at all for a role that is not gated.
    pub fn shown(&self) -> Vec<(&'static str, Value)> {
        if self.jit_policy.is_empty() {
            return Vec::new();
        }
        vec![("jit_policy", json!(self.jit_policy)), ("params_allowed", json!(self.params_allowed))]
    }
}

/// Whether the policy that a role names wants ends that were seen to be ends.
///
/// # Errors
/// If storage refuses.
pub async fn asks_for_verified_end(mount: &Mount, gate: &Gate) -> Result<bool, Error> {
    if gate.jit_policy.is_empty() {
        return Ok(false);
    }
    Ok(policy::Policy::load(mount, &gate.jit_policy).await?.is_some_and(|policy| policy.verified_end))
}

/// A text with the values of parameters in their places.
pub fn narrowed(texts: &[String], params: &BTreeMap<String, String>) -> Vec<String> {
    let fill = |text: &String| {
        params.iter().fold(text.clone(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
    };
    texts.iter().map(fill).collect()
}

/// A regular expression for a whole text; `None` for an empty one.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<Option<Regex>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    Regex::new(&format!("^(?:{text})$")).map(Some).map_err(|e| e.to_string())
}

/// A caller that has been recognised, for the record.
fn actor(who: &Who, source: &Request) -> Value {
    let mut shown = who.shown();
    if let Value::Object(fields) = &mut shown {
        fields.insert("display_name".into(), json!(source.caller.display_name));
        fields.insert("token_accessor".into(), json!(hashed(&source.caller.token_accessor)));
    }
    shown
}

/// A caller of whom only the token is known, for the record.
fn token(source: &Request) -> Value {
    json!({
        "entity_id": source.caller.entity_id,
        "display_name": source.caller.display_name,
        "token_accessor": hashed(&source.caller.token_accessor),
    })
}

/// An accessor can be used to revoke its token: the record keeps what recognises it only.
fn hashed(accessor: &str) -> String {
    use sha2::{Digest, Sha256};
    if accessor.is_empty() { String::new() } else { evidence::event::hex(&Sha256::digest(accessor)) }
}

/// What a mount knows of access.
#[derive(Default)]
pub struct Access {
    /// Of requests, by id; of who files, by role and entity.
    pub locks: Locks,
    /// Something changed that somebody may wait for.
    pub changed: Notify,
    /// Proofs that were used.
    pub proofs: proof::Used,
    /// How fast targets have let go of users.
    paces: pace::Paces,
    /// Whoever takes something from the record holds this, and whoever says that nothing goes.
    pruning: tokio::sync::Mutex<()>,
    /// Whoever passes events on holds this.
    telling: tokio::sync::Mutex<()>,
    seen: hook::Seen,
    /// When each credential was seen to be in use, by the id of its issue; unix seconds.
    active: Mutex<BTreeMap<String, u64>>,
    /// Nobody is told of anything.
    nobody: AtomicBool,
    /// Rules in Cedar that were read.
    rules: cedar::Cache,
    /// Who was refused lately because it was not clear who they are, and why.
    refusals: Mutex<BTreeMap<String, String>>,
    settings: Mutex<Option<Arc<config::Settings>>>,
    agenda: Mutex<Agenda>,
    stop: CancellationToken,
}

/// When which request is looked at next.
#[derive(Default)]
struct Agenda {
    started: bool,
    loaded: bool,
    due: HashMap<(String, String), SystemTime>,
}

impl Access {
    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Option<Arc<config::Settings>>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody is not known well enough.
    fn refused(&self, entity: &str, why: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < REFUSALS || refusals.contains_key(entity) {
            refusals.insert(entity.to_owned(), why.to_owned());
        }
    }

    fn refusals(&self) -> BTreeMap<String, String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes who waits for an approval.
    fn stir(&self) {
        self.changed.notify_waiters();
    }

    /// A request was written.
    fn stored(&self, request: &AccessRequest) {
        if request.state.is_over() {
            self.forget(&request.role, &request.id);
        } else {
            // At once: whoever looks plans the next time.
            self.agenda().due.entry((request.role.clone(), request.id.clone())).or_insert(SystemTime::UNIX_EPOCH);
        }
        self.stir();
    }

    fn plan(&self, role: &str, id: &str, due: SystemTime) {
        self.agenda().due.insert((role.to_owned(), id.to_owned()), due);
    }

    fn forget(&self, role: &str, id: &str) {
        self.agenda().due.remove(&(role.to_owned(), id.to_owned()));
    }

    /// The task is never started: a test does its work.
    #[cfg(test)]
    pub(in crate::engine) fn by_hand(&self) {
        self.agenda().started = true;
    }

    /// Starts the task that does what is due, once.
    pub(in crate::engine) fn start(&self, mount: &Mount) {
        if std::mem::replace(&mut self.agenda().started, true) {
            return;
        }
        let (mount, stop) = (mount.weak(), self.stop.clone());
        let (teller, ended) = (mount.clone(), stop.clone());
        let (pruner, closed) = (mount.clone(), stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(retention::PAUSE) => {}
                    () = closed.cancelled() => return,
                }
                let Some(mount) = pruner.upgrade() else { return };
                if !mount.ports.host.is_standby().await.unwrap_or(true)
                    && let Err(e) = retention::tick(&mount).await
                {
                    tracing::warn!("old evidence stays for now: {e}");
                }
            }
        });
        tokio::spawn(async move {
            // Beside the agenda: a web server that hangs holds up no end.
            loop {
                tokio::select! {
                    () = tokio::time::sleep(TICK) => {}
                    () = ended.cancelled() => return,
                }
                let Some(mount) = teller.upgrade() else { return };
                if !mount.access.nobody.load(Ordering::Relaxed)
                    && !mount.ports.host.is_standby().await.unwrap_or(true)
                    && let Err(e) = hook::tick(&mount).await
                {
                    tracing::debug!("nobody can be told of events now: {e}");
                }
            }
        });
        tokio::spawn(async move {
            let mut clock = tokio::time::interval(TICK);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = clock.tick() => {}
                    () = stop.cancelled() => return,
                }
                let Some(mount) = mount.upgrade() else { return };
                tick(&mount).await;
            }
        });
    }

    /// Ends the task.
    pub(in crate::engine) fn close(&self) {
        self.stop.cancel();
    }

    /// Another node has changed what is at `key`.
    pub(in crate::engine) fn outdated(&self, key: &str) {
        if key == config::KEY {
            self.settings().take();
        }
        self.nobody.store(false, Ordering::Relaxed);
        if key.starts_with(OPEN) {
            self.agenda().loaded = false;
        }
        self.stir();
    }
}

/// Looks at every request that is due.
pub async fn tick(mount: &Mount) {
    let now = mount.ports.clock.now();
    let loaded = mount.access.agenda().loaded;
    if loaded && mount.access.agenda().due.values().all(|due| *due > now) {
        return;
    }
    if mount.ports.host.is_standby().await.unwrap_or(true) {
        mount.access.agenda().loaded = false;
        return;
    }
    if !loaded {
        match open_requests(mount).await {
            Ok(found) => {
                let mut agenda = mount.access.agenda();
                agenda.loaded = true;
                found.into_iter().for_each(|key| {
                    agenda.due.entry(key).or_insert(SystemTime::UNIX_EPOCH);
                });
            }
            Err(e) => {
                tracing::debug!("requests cannot be listed: {e}");
                return;
            }
        }
    }
    let due: Vec<(String, String)> =
        mount.access.agenda().due.iter().filter(|(_, due)| **due <= now).map(|(key, _)| key.clone()).collect();
    let work = due.iter().map(|(role, id)| async move {
        // Whoever comes to an end without a plan is looked at again.
        mount.access.plan(role, id, now + PAUSE);
        if let Err(e) = ending::when_due(mount, role, id).await {
            tracing::warn!(request = id, "what is due could not be done: {e}");
        }
    });
    futures_util::future::join_all(work).await;
}

async fn open_requests(mount: &Mount) -> Result<Vec<(String, String)>, Error> {
    let storage = &mount.ports.storage;
    let mut found = Vec::new();
    for role in storage.list(OPEN, "", -1).await? {
        for id in storage.list(&format!("{OPEN}{role}"), "", -1).await? {
            found.push((role.trim_end_matches('/').to_owned(), id));
        }
    }
    Ok(found)
}

/// Answers a request on a path of this part of the engine.
pub async fn handle(mount: &Mount, path: Path, input: &Input, request: &Request) -> Reply {
    use Operation::{Create, Delete, List, Read, Update};
    let text = |key: &str| input.text(key).unwrap_or_default();
    let (role, name, id) = (text("role"), text("name"), text("request_id"));
    match (path, request.operation) {
        (Path::Config, Read) => config::read(mount).await,
        (Path::Config, Create | Update) => config::write(mount, input, request).await,
        (Path::ConfigActivate, Create | Update) => staged::activate_config(mount, input, request).await,
        (Path::PolicyActivate, Create | Update) => staged::activate_policy(mount, name, input, request).await,
        (Path::Policies, List) => super::database::list(mount, policy::PREFIX, input).await,
        (Path::Policy, Read) => policy::read(mount, name).await,
        (Path::Policy, Create | Update) => policy::write(mount, name, input, request).await,
        (Path::Policy, Delete) => policy::delete(mount, name, request).await,
        (Path::PolicyAcl, Read) => policy::acl(mount, name, &request.caller.mount_point).await,
        (Path::Requests, List) => verbs::list(mount, role, request).await,
        (Path::Requests, Create | Update) => verbs::create(mount, role, input, request).await,
        (Path::Request, Read) => verbs::read(mount, role, id, request).await,
        (Path::Approve, Create | Update) => verbs::act(mount, Verb::Approve, (role, id), input, request).await,
        (Path::Deny, Create | Update) => verbs::act(mount, Verb::Deny, (role, id), input, request).await,
        (Path::Cancel, Create | Update) => verbs::act(mount, Verb::Cancel, (role, id), input, request).await,
        (Path::Complete, Create | Update) => verbs::act(mount, Verb::Complete, (role, id), input, request).await,
        (Path::Revoke, Create | Update) => verbs::act(mount, Verb::Revoke, (role, id), input, request).await,
        (Path::Hold, Create | Update) => retention::hold(mount, role, id, input, request).await,
        (Path::Prune, Create | Update) => retention::prune(mount, input, request).await,
        (Path::Freezes, List) => super::database::list(mount, freeze::PREFIX, input).await,
        (Path::Freeze, Create | Update) => freeze::write(mount, name, input, request).await,
        (Path::Freeze, Read) => freeze::read(mount, name).await,
        (Path::Freeze, Delete) => freeze::delete(mount, name, request).await,
        (Path::PolicySimulate, Create | Update) => simulate::run(mount, name, input).await,
        (Path::Hooks, List) => super::database::list(mount, hook::PREFIX, input).await,
        (Path::Hook, Create | Update) => hook::write(mount, name, input, request).await,
        (Path::Hook, Read) => hook::read(mount, name).await,
        (Path::Hook, Delete) => hook::delete(mount, name, request).await,
        (Path::HookTest, Create | Update) => hook::test(mount, name).await,
        (Path::HookRetry, Create | Update) => hook::retry(mount, name).await,
        (Path::HookDead, Read) => hook::dead(mount, name).await,
        (Path::Acknowledgements, List) => super::database::list(mount, standing::PREFIX, input).await,
        (Path::Acknowledgement, Create | Update) => standing::acknowledge(mount, text("id"), input, request).await,
        (Path::Acknowledgement, Read) => standing::read(mount, text("id")).await,
        (Path::Acknowledgement, Delete) => standing::forget(mount, text("id"), request).await,
        (Path::Campaigns, List) => super::database::list(mount, campaign::PREFIX, input).await,
        (Path::Campaign, Create | Update) => campaign::start(mount, name, input, request).await,
        (Path::Campaign, Read) => campaign::read(mount, name).await,
        (Path::Campaign, Delete) => campaign::delete(mount, name, request).await,
        (Path::CampaignItem, Create | Update) => campaign::decide(mount, name, text("item"), input, request).await,
        (Path::Preapprovals, List) => super::database::list(mount, preapproval::PREFIX, input).await,
        (Path::Preapproval, Create | Update) => preapproval::write(mount, name, input, request).await,
        (Path::Preapproval, Read) => preapproval::read(mount, name).await,
        (Path::Preapproval, Delete) => preapproval::delete(mount, name, request).await,
        (Path::Preapprove, Create | Update) => preapproval::approve(mount, name, input, request).await,
        (Path::Emergencies, List) => emergency::list(mount).await,
        (Path::Emergency, Create | Update) => {
            let gate = verbs::gate_of(mount, role).await?;
            emergency::open(mount, role, &gate, input, request).await
        }
        (Path::EmergencyReview, Create | Update) => emergency::review(mount, role, id, input, request).await,
        (Path::Reports, List) => report::list(),
        (Path::Report, Read) => report::read(mount, name).await,
        (Path::Offboard, Create | Update) => verbs::offboard(mount, text("entity_id"), input, request).await,
        (Path::Inbox, Read) => verbs::inbox(mount, request).await,
        (Path::Lookup, Create | Update) => verbs::lookup(mount, id, request).await,
        (Path::Chain, Read) => evidence::answer::chain(mount, id).await,
        (Path::ByCredential, Read) => match verbs::by_credential(mount, name).await? {
            Some(found) => evidence::answer::chain(mount, &found.id).await,
            None => Ok(None),
        },
        (Path::Export, Read) => evidence::answer::export(mount, input).await,
        (Path::Checkpoint, Read) => evidence::answer::checkpoint(mount).await,
        (Path::Proof, Read) => evidence::answer::proof(mount, text("seq")).await,
        (Path::Verify, Create | Update) => evidence::answer::verify(mount, input).await,
        _ => Err(Error::UnsupportedOperation),
    }
}

/// The request of that id.
pub async fn find(mount: &Mount, id: &str) -> Result<Option<AccessRequest>, Error> {
    match verbs::role_of(mount, id).await? {
        Some(role) => AccessRequest::load(mount, &role, id).await,
        None => Ok(None),
    }
}

/// Whether a write to the path would create something.
pub async fn exists(mount: &Mount, path: Path, name: &str) -> Result<Existence, Error> {
    Ok(match path {
        // Who may ask has `create`, and nothing more.
        Path::Requests => Existence::Missing,
        Path::Policy => match mount.ports.storage.get(&format!("{}{name}", policy::PREFIX)).await? {
            Some(_) => Existence::Found,
            None => Existence::Missing,
        },
        _ => Existence::Unchecked,
    })
}
