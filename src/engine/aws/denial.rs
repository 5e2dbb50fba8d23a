//! Ending STS sessions before AWS does: each role or user at AWS whose sessions are revoked carries one inline policy that
//! denies everything to them.
//!
//! The list of denials is ours and in storage, before AWS hears of one; the document is always built from it. Revocations
//! that come together share one write. What the host gives up on, or never asks again, the queue brings to its end.

mod document;
mod place;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::creds::Wanted;
use super::name::UNIQUE;
use super::role::{Kind, Overflow, Revocation, Role};
use super::session::{self, TAG};
use super::status::Denials;
use super::{cloud, whoami};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::meter::Work;
use crate::engine::request::{Reply, Response};
use crate::secret::Secret;
use crate::target::aws::{AssumedAs, Cloud, Holder, LONGEST_ROLE_SESSION, Session, SessionPlan, arn};
use document::{By, Entry, Identity};
use place::Place;

/// Where the lists are.
pub const PREFIX: &str = "denial/";
/// Where it is written down at which AWS roles an identity has had sessions.
const IDENTITIES: &str = "identity/";
/// In a lease's internal data: how its session is denied.
pub const LEASE_FIELD: &str = "denial";

/// A session that ends by itself so soon is not worth a call: AWS would not have told its servers by then.
const NOT_WORTH: Duration = Duration::from_secs(2);
/// Revocations that arrive within this time share a write.
const TOGETHER: Duration = Duration::from_millis(25);
/// The least time between two writes to one role: AWS takes few of them.
const BETWEEN_WRITES: Duration = Duration::from_millis(750);
/// How much later AWS may begin a session than we think.
const CLOCKS: Duration = Duration::from_secs(60);
/// How long a role's write may take that only asks whether it is allowed.
const PROBE: Duration = Duration::from_secs(15);

/// The lists that are being worked at.
#[derive(Default)]
pub struct Desks(Mutex<HashMap<String, Arc<Desk>>>);

/// One list: whoever holds the lock writes for everybody who waits.
#[derive(Default)]
struct Desk {
    /// When AWS was last written to.
    lock: tokio::sync::Mutex<Option<std::time::Instant>>,
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    place: Where,
    entry: Entry,
    done: oneshot::Sender<Result<(), String>>,
}

impl Desks {
    fn desk(&self, id: &str) -> Arc<Desk> {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        desks.entry(id.to_owned()).or_default().clone()
    }
}

/// Who carries a denial, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Where {
    holder: Holder,
    /// The role to write with, in an account that is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    #[serde(default)]
    overflow: Overflow,
    /// How many managed policies may be attached for what the inline one has no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    attached: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a lease knows of how its session is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    #[serde(flatten)]
    place: Where,
    by: By,
    /// Whose it is, where the role says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    /// When the session was issued, by AWS's clock, unix seconds.
    issued: u64,
    /// When it ends by itself, unix seconds.
    expires: u64,
}

/// How AWS knows a session.
pub struct Seen {
    /// What `aws:userid` says.
    pub user_id: String,
    /// When it was issued, unix seconds.
    pub issued: u64,
    /// When it ends by itself, unix seconds.
    pub expires: u64,
}

impl Seen {
    /// A session as STS described it.
    pub fn of(session: &Session, plan: &SessionPlan) -> Self {
        let issued = session::issued(session, plan);
        Self { user_id: session.user_id.clone(), issued, expires: unix_seconds(session.expires) }
    }

    /// One that is about to be asked for: its name is what is known of it. AWS's clock may be ahead of ours.
    pub fn before(plan: &SessionPlan, now: SystemTime) -> Self {
        let expires = unix_seconds(now + plan.duration + CLOCKS);
        Self { user_id: format!("*:{}", plan.name), issued: unix_seconds(now), expires }
    }
}

impl Denial {
    /// Of a session.
    pub fn of(place: Where, kind: Kind, wanted: &Wanted<'_>, plan: &SessionPlan, session: Seen) -> Self {
        let issued = session.issued;
        let by = match (wanted.role.revocation, kind) {
            (Revocation::Older, _) => By::Older(issued),
            (_, Kind::SessionToken) => By::Issued(issued),
            (Revocation::Identity, _) => By::SourceIdentity(plan.source_identity.clone(), issued),
            (Revocation::Tag, _) => By::Tag(TAG.to_owned(), plan.tags.get(TAG).cloned().unwrap_or_default()),
            // A name that the caller chose may come again, with a second of slack for how AWS rounds.
            _ if session::chosen(kind, wanted).is_some() => By::UserIdUntil(session.user_id.clone(), issued + 1),
            _ => By::UserId(pattern(&session.user_id, &plan.name)),
        };
        let identity = match (&plan.source_identity, &wanted.role.principal_name) {
            (source, _) if !source.is_empty() => Some(Identity::Source(source.clone())),
            (_, principal) if !principal.is_empty() => all_of(&session.user_id, &plan.name).map(Identity::Names),
            _ => None,
        };
        Self { place, by, identity, issued, expires: session.expires }
    }

    /// As a lease keeps it.
    pub fn encode(&self) -> Result<Value, Error> {
        serde_json::to_value(self).map_err(|e| Error::Failed(format!("cannot encode a denial: {e}")))
    }

    /// From what a lease keeps.
    pub fn decode(value: &Value) -> Result<Self, Error> {
        Self::deserialize(value).map_err(|e| Error::Failed(format!("the lease's denial cannot be read: {e}")))
    }

    /// As it is written now: what names several sessions means those that exist by now.
    fn entry(&self, now: u64) -> Entry {
        let until = now.max(self.issued);
        let (by, expires) = match &self.by {
            By::SourceIdentity(identity, _) => (By::SourceIdentity(identity.clone(), until), until + longest()),
            By::Older(_) => (By::Older(until), until + longest()),
            other => {
                let entry = Entry::new(other.clone(), self.expires);
                return Entry { issued: self.issued, identity: self.identity.clone(), ..entry };
            }
        };
        Entry::new(by, expires)
    }
}

fn longest() -> u64 {
    LONGEST_ROLE_SESSION.as_secs()
}

/// The shortest pattern that only this session's `aws:userid` matches. Our own names end in a dash and random characters
/// that no other name has.
fn pattern(user_id: &str, name: &str) -> String {
    match name.rsplit_once('-') {
        Some((_, random)) if random.len() == UNIQUE && user_id.ends_with(name) => format!("*-{random}"),
        _ => user_id.to_owned(),
    }
}

/// The pattern that the `aws:userid` of every session of the same principal matches, and no other's: it has their length.
fn all_of(user_id: &str, name: &str) -> Option<String> {
    let (principal, random) = user_id.rsplit_once('-')?;
    (random.len() == UNIQUE && user_id.ends_with(name)).then(|| format!("{principal}-{}", "?".repeat(UNIQUE)))
}

/// The name of our policy: of this mount, since others may write to the same role.
pub fn policy_name(mount: &Mount) -> String {
    let id: String = mount.id.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("bao-revoked-{}", id.to_ascii_lowercase())
}

/// Who carries the denials of a role's sessions: the AWS role that is assumed, else the engine's own user.
pub async fn place(mount: &Mount, role: &Role, role_arn: &str) -> Result<Where, Error> {
    let holder = if role_arn.is_empty() {
        let me = whoami(mount).await.map_err(|e| super::refused("the engine's own user is not known", &e))?;
        Holder::User(me.arn)
    } else {
        Holder::Role(role_arn.to_owned())
    };
    let via = arn::account(holder.arn()).and_then(|account| role.revocation_role_arn(account)).map(str::to_owned);
    let (overflow, attached) = (role.revocation_overflow, role.revocation_attached_policies);
    Ok(Where { holder, via, overflow, attached })
}

/// Whether the engine can write the denials of this role, by writing one that can match nobody and removing it. Gives who
/// would carry them.
///
/// # Errors
/// Why it cannot, with what would help.
pub async fn rights(mount: &Mount, role: &Role) -> Result<String, String> {
    if super::config::Root::load(mount).await.map_err(|e| e.to_string())?.is_none() {
        return Err("config/root is not written yet".to_owned());
    }
    let mut arns: Vec<&str> = role.role_arns().iter().map(String::as_str).collect();
    if role.gives(Kind::AssumedRole) {
        if arns.is_empty() {
            return Err("there are no role_arns yet".to_owned());
        }
    } else {
        arns = vec![""];
    }
    let probing = async {
        let mut holders = Vec::new();
        for arn in arns {
            let place = place(mount, role, arn).await.map_err(|e| e.to_string())?;
            place::probe(mount, &place).await?;
            holders.push(place.holder.arn().to_owned());
        }
        Ok(holders.join(", "))
    };
    let answer = tokio::time::timeout(PROBE, probing).await;
    answer.unwrap_or_else(|_| Err(format!("AWS did not answer within {} seconds", PROBE.as_secs())))
}

/// Ends a session; false if it has ended by itself, which costs nothing.
///
/// # Errors
/// [`Error::Failed`], a class that the host retries. If the denial is stored, the queue writes it too.
pub async fn deny(mount: &Mount, denial: Denial) -> Result<bool, Error> {
    let now = mount.ports.clock.now();
    if denial.expires <= unix_seconds(now + NOT_WORTH) {
        return Ok(false);
    }
    super::may_end(mount, "session of", denial.place.holder.arn())?;
    let entry = denial.entry(unix_seconds(now));
    super::counted(mount, Work::End, submit(mount, denial.place, entry)).await.map(|()| true)
}

/// Hands an entry in, and comes back when AWS has it.
async fn submit(mount: &Mount, place: Where, entry: Entry) -> Result<(), Error> {
    let key = place::key(&place.holder);
    let desk = mount.aws.denials.desk(&key);
    let (done, mut answer) = oneshot::channel();
    desk.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { place, entry, done });
    let mut last = desk.lock.lock().await;
    // Whoever held the lock before may have written this one along.
    let result = match answer.try_recv() {
        Ok(result) => result,
        Err(oneshot::error::TryRecvError::Closed) => Err("interrupted".to_owned()),
        Err(oneshot::error::TryRecvError::Empty) => {
            let pause = last.map_or(TOGETHER, |last| BETWEEN_WRITES.saturating_sub(last.elapsed()).max(TOGETHER));
            tokio::time::sleep(pause).await;
            let batch = std::mem::take(&mut *desk.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let place = write(mount, &key, &batch).await;
            *last = Some(std::time::Instant::now());
            for waiting in batch {
                let result = place.as_ref().map_err(String::clone).and_then(|place| place.covers(&waiting.entry));
                // Whoever is not there any more has no lease to keep.
                let _ = waiting.done.send(result);
            }
            answer.try_recv().unwrap_or_else(|_| Err("interrupted".to_owned()))
        }
    };
    result.map_err(|why| Error::Failed(format!("the session could not be denied: {why}")))
}

/// Adds what has come together to the list, and writes it.
async fn write(mount: &Mount, key: &str, batch: &[Waiting]) -> Result<Place, String> {
    let stored = Place::load(mount, key).await.map_err(|e| e.to_string())?;
    let latest = batch.last().map(|waiting| waiting.place.clone());
    let at = latest.ok_or("nothing to write")?;
    let mut place = stored.unwrap_or_else(|| Place::new(at.clone()));
    // The last word on how it is reached.
    place.at = at;
    place.bring(mount, key, batch.iter().map(|waiting| waiting.entry.clone()).collect()).await?;
    Ok(place)
}

/// The lists that there are.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let now = mount.ports.clock.now();
    let ids = mount.ports.storage.list(PREFIX, "", -1).await?;
    Ok(ids.into_iter().map(|id| (format!("{PREFIX}{id}"), format!("{PREFIX}{id}"), now)).collect())
}

/// Asked by the queue: prunes a list, writes what is not written, mends what somebody else changed.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Error> {
    let desk = mount.aws.denials.desk(key);
    let mut last = desk.lock.lock().await;
    let Some(mut place) = Place::load(mount, key).await? else {
        mount.rotation.queue.forget(key);
        return Ok(());
    };
    let done = place.keep(mount, key).await;
    *last = Some(std::time::Instant::now());
    done.map_err(|why| Error::Failed(format!("the denials of {}: {why}", place.at.holder.arn())))
}

/// POST `sync`: does for every list at once what the queue would do in time.
pub async fn sync_all(mount: &Mount) -> Reply {
    mount.refuse_on_standby().await?;
    let mut warnings = Vec::new();
    for id in mount.ports.storage.list(PREFIX, "", -1).await? {
        if let Err(e) = when_due(mount, &format!("{PREFIX}{id}")).await {
            warnings.push(e.to_string());
        }
    }
    let mut reply = super::status::read(mount).await?;
    if let Some(response) = &mut reply {
        response.warnings = warnings;
    }
    Ok(reply)
}

/// Every list, by its key.
async fn lists(mount: &Mount) -> Result<Vec<(String, Place)>, Error> {
    let mut lists = Vec::new();
    for id in mount.ports.storage.list(PREFIX, "", -1).await? {
        let key = format!("{PREFIX}{id}");
        if let Some(place) = Place::load(mount, &key).await? {
            lists.push((key, place));
        }
    }
    Ok(lists)
}

/// Every list as `status` shows it.
///
/// # Errors
/// If storage refuses.
pub async fn described(mount: &Mount) -> Result<Vec<Value>, Error> {
    Ok(lists(mount).await?.into_iter().map(|(key, place)| place.describe(mount, &key)).collect())
}

/// All of them together.
///
/// # Errors
/// If storage refuses.
pub async fn counted(mount: &Mount) -> Result<Denials, Error> {
    let mut all = Denials::default();
    for (_, place) in lists(mount).await? {
        place.count(&mut all);
    }
    Ok(all)
}

/// At which AWS roles an identity has had sessions, and until when the last of them may live.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Trace {
    source_identity: String,
    places: Vec<(Where, u64)>,
}

fn trace_key(source_identity: &str) -> String {
    format!("{IDENTITIES}{}", place::digest(source_identity))
}

async fn load_trace(mount: &Mount, source_identity: &str) -> Result<Option<Trace>, Error> {
    let Some(entry) = mount.ports.storage.get(&trace_key(source_identity)).await? else { return Ok(None) };
    serde_json::from_str(entry.expose())
        .map(Some)
        .map_err(|e| Error::Failed(format!("the trace of an identity cannot be read: {e}")))
}

/// Writes down, before there is a session, that the identity may have one at this AWS role. Seldom more than a read: the
/// note is made for longer than any session.
pub async fn remember_identity(mount: &Mount, role: &Role, role_arn: &str, source_identity: &str) -> Result<(), Error> {
    let now = unix_seconds(mount.ports.clock.now());
    let place = place(mount, role, role_arn).await?;
    let key = trace_key(source_identity);
    let known = |trace: &Trace| trace.places.iter().any(|(at, until)| *at == place && *until > now + longest());
    if load_trace(mount, source_identity).await?.is_some_and(|trace| known(&trace)) {
        return Ok(());
    }
    let _lock = mount.rotation.locks.hold(&key).await;
    let mut trace = load_trace(mount, source_identity).await?.unwrap_or_default();
    source_identity.clone_into(&mut trace.source_identity);
    trace.places.retain(|(at, until)| at.holder != place.holder && *until > now);
    trace.places.push((place, now + 2 * longest()));
    let text = serde_json::to_string(&trace).map_err(|e| Error::Failed(format!("cannot encode a trace: {e}")))?;
    Ok(mount.ports.storage.put(&key, &Secret::new(text), false).await?)
}

/// POST `revoke-identity`.
pub async fn revoke_identity(mount: &Mount, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    let identity = input.text_or_preset("source_identity");
    if identity.is_empty() {
        return Err(Error::Refused("source_identity is required".into()));
    }
    super::may_end(mount, "identity", identity)?;
    let Some(trace) = load_trace(mount, identity).await? else {
        return Err(Error::Refused(format!(
            "no role here has given a session to the source identity {identity:?} (only roles with a source_identity do)"
        )));
    };
    let now = unix_seconds(mount.ports.clock.now());
    let ends = trace.places.into_iter().map(|(place, _)| {
        let arn = place.holder.arn().to_owned();
        // AWS's clock may be a little ahead of ours.
        let by = By::SourceIdentity(identity.to_owned(), now + 1);
        let entry = Entry::new(by, now + longest());
        async move { (arn, submit(mount, place, entry).await) }
    });
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (arn, ended) in futures_util::future::join_all(ends).await {
        match ended {
            Ok(()) => done.push(arn),
            Err(e) => failed.push(format!("{arn}: {e}")),
        }
    }
    if !failed.is_empty() {
        return Err(Error::Failed(failed.join("; ")));
    }
    Ok(Some(Response::data([("source_identity", json!(identity)), ("denied_at", json!(done))])))
}

/// The account, as whoever writes there.
async fn writer(mount: &Mount, place: &Where) -> Result<Arc<dyn Cloud>, Error> {
    let cloud = cloud(mount).await?;
    Ok(match &place.via {
        Some(role) => cloud.assuming(&AssumedAs::role(role)),
        None => cloud,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_endings_are_short() {
        assert_eq!(pattern("AROA1:vault-x-abcdefABCDEF", "vault-x-abcdefABCDEF"), "*-abcdefABCDEF");
        assert_eq!(pattern("AROA1:deploy", "deploy"), "AROA1:deploy");
        assert_eq!(pattern("AROA1:a-b", "a-b"), "AROA1:a-b");
        assert_eq!(all_of("AROA1:ann-abcdefABCDEF", "ann-abcdefABCDEF").as_deref(), Some("AROA1:ann-????????????"));
        assert_eq!(all_of("AROA1:ann-x", "ann-x"), None);
    }
}
