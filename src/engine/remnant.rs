//! What an end has left: durable records of users whose end is not over, and `remnants/`, where operators see them.
//!
//! There are three kinds. A *contained* user can do nothing any more, but something of it is still there: an object that it
//! owns, a grant that only somebody else may take back. The host has been told that its lease is over, which is true; the
//! rest is ours, tried again with growing pauses. An *open* one could not be contained: the target could not be reached, or
//! refused. The host has been told so and tries again, but rarely and not for ever, so we do too: as soon as the target
//! answers, if that was the cause. Whoever succeeds first closes the record. And one in its *grace* cannot log in any more
//! while its open sessions have time to end.
//!
//! A record stands at a key made of connection and user, so there is one for each user, and is written before the answer
//! of the attempt goes out.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Mount;
use super::end::{self, Doomed, Report, Trouble};
use super::error::Error;
use super::field::Input;
use super::intent::{Intent, unix_seconds};
use super::request::{Caller, Reply, Request, Response};
use crate::secret::Secret;
use crate::target::Left;

/// How soon again at the latest, if the user may still log in.
const OPEN: Duration = Duration::from_secs(60);

/// Where the open records are.
pub const PREFIX: &str = "remnant/";

/// Where the records are that somebody has closed. They keep the tick from opening them again.
pub const ACCEPTED: &str = "accepted/";

/// How far the end of a user got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can do nothing any more, but something of it is left.
    Contained,
    /// It cannot log in any more, but the sessions that it has may go on for a while.
    Grace,
    /// It may still log in.
    Open,
}

impl State {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contained => "contained",
            Self::Grace => "grace",
            Self::Open => "open",
        }
    }
}

/// One user whose end is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remnant {
    /// Who, and what is needed to end it.
    pub user: Doomed,
    /// How far its end got.
    pub state: State,
    /// Why it is not over.
    pub reason: String,
    /// What is left, if it is contained.
    #[serde(default)]
    pub left: Vec<Left>,
    /// Attempts so far; those that found nobody at home are not counted.
    pub attempts: u32,
    /// When the first failed, unix seconds.
    pub since: u64,
    /// When the last failed, unix seconds.
    pub tried: u64,
    /// Who closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// Somebody has decided that what is left may stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Why.
    pub reason: String,
    /// The display name of the token.
    pub by: String,
    /// Its entity, empty if it has none.
    pub entity: String,
    /// When, unix seconds.
    pub at: u64,
}

/// The name of the record of a user, made so that it can stand in a path.
pub fn id(db_name: &str, username: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(db_name.as_bytes());
    // No name of a connection holds it.
    hash.update([0]);
    hash.update(username.as_bytes());
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// The key of the record of a user.
pub fn key_of(user: &Doomed) -> String {
    format!("{PREFIX}{}", id(&user.db_name, &user.username))
}

impl Remnant {
    /// The record at `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Failed`] if storage refuses or the record cannot be read.
    pub async fn load(mount: &Mount, key: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(key).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the record of a remnant at {key:?} cannot be read: {e}")))
    }

    async fn store(&self, mount: &Mount, key: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode a remnant".into()))?;
        Ok(mount.ports.storage.put(key, &Secret::new(text), false).await?)
    }

    /// What a read shows.
    fn shown(&self, next: Option<SystemTime>) -> Vec<(&'static str, Value)> {
        let mut data = vec![
            ("attempts", json!(self.attempts)),
            ("connection", json!(self.user.db_name)),
            ("entity", json!(self.user.entity)),
            ("last_try", instant(self.tried)),
            ("left", json!(self.left)),
            ("next_try", next.map_or(Value::Null, |next| instant(unix_seconds(next)))),
            ("reason", json!(self.reason)),
            ("role", json!(self.user.role)),
            ("since", instant(self.since)),
            ("state", json!(if self.accepted.is_some() { "accepted" } else { self.state.name() })),
            ("username", json!(self.user.username)),
        ];
        if let Some(accepted) = &self.accepted {
            data.push(("accepted_at", instant(accepted.at)));
            data.push(("accepted_by", json!(accepted.by)));
            data.push(("accepted_by_entity", json!(accepted.entity)));
            data.push(("accepted_because", json!(accepted.reason)));
        }
        data
    }
}

/// Unix seconds as `2026-11-22T02:11:17Z`.
pub fn instant(seconds: u64) -> Value {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or(Value::Null, |time| json!(time.to_string()))
}

/// Writes down what an attempt has left, or that nothing is left any more.
///
/// # Errors
/// If what is left could not be written down: then whoever asked must ask again.
pub async fn after(mount: &Mount, user: &Doomed, landed: &Result<Report, Trouble>) -> Result<(), Trouble> {
    let key = key_of(user);
    let queue = &mount.rotation.queue;
    let (state, reason, left, outage) = match landed {
        Ok(report) if report.left.is_empty() => {
            close(mount, &key).await;
            mount.ending.kept(&key);
            return Ok(());
        }
        Ok(report) => {
            let state = if report.again.is_some() { State::Grace } else { State::Contained };
            (state, summary(&report.left), report.left.clone(), false)
        }
        Err(trouble) => (State::Open, trouble.to_string(), Vec::new(), trouble.outage),
    };
    let now = mount.ports.clock.now();
    // Whoever closes a record by hand has the same lock.
    let _lock = mount.rotation.locks.hold(&key).await;
    let written = async {
        let known = Remnant::load(mount, &key).await?;
        if state != State::Open && known.is_none() && is_accepted(mount, user).await? {
            return Ok(false);
        }
        let mut whole = user.clone();
        if known.is_none()
            && user.entity.is_empty()
            && let Some(note) = &user.note
        {
            // A lease does not say whose it is, and the note goes.
            let note = Intent::load(mount.ports.storage.as_ref(), note).await?;
            whole.entity = note.map(|note| note.entity).unwrap_or_default();
        }
        let first = Remnant {
            user: whole,
            state,
            reason: reason.clone(),
            left: left.clone(),
            attempts: 0,
            since: unix_seconds(now),
            tried: 0,
            accepted: None,
        };
        let is_new = known.is_none();
        let mut record = known.unwrap_or(first);
        if !is_new && outage && record.state == state {
            // There is nothing new to say, and it is said every second.
            return Ok(true);
        }
        if is_new && !outage && state != State::Grace {
            tracing::warn!(
                username = user.username,
                role = user.role,
                connection = user.db_name,
                state = state.name(),
                remnants = key.trim_start_matches(PREFIX),
                "an end is not over: {reason}"
            );
        }
        (record.state, record.reason, record.left) = (state, reason.clone(), left);
        record.attempts += 1;
        record.tried = unix_seconds(now);
        record.user.note = None;
        record.store(mount, &key).await.map(|()| true)
    };
    let again = landed.as_ref().ok().and_then(|report| report.again);
    match written.await {
        Ok(true) if let Some(again) = again => queue.plan(&key, &user.db_name, now + again),
        Ok(true) if outage => queue.away(&key, &user.db_name, now, &reason),
        Ok(true) => {
            queue.failed(&key, &user.db_name, now, &reason);
            if state == State::Open {
                queue.no_later_than(&key, now + OPEN);
            }
        }
        Ok(false) => queue.forget(&key),
        Err(e) => {
            // It is tried again as long as this process lives, and by whoever got the error.
            mount.ending.keep(&key, user.clone());
            queue.away(&key, &user.db_name, now, &reason);
            return Err(Trouble::new(format!("{reason}; and this could not be written down: {e}"), outage));
        }
    }
    Ok(())
}

/// How long the end of a user has been going on, zero if it is about to begin.
pub async fn going_on_for(mount: &Mount, user: &Doomed) -> Duration {
    let key = key_of(user);
    if mount.rotation.queue.state(&key).is_none() {
        return Duration::ZERO;
    }
    let since = match Remnant::load(mount, &key).await {
        Ok(Some(record)) => record.since,
        Ok(None) | Err(_) => return Duration::ZERO,
    };
    Duration::from_secs(unix_seconds(mount.ports.clock.now()).saturating_sub(since))
}

/// Nothing is left of the user. A record that stays is found to be of nobody when it is due.
async fn close(mount: &Mount, key: &str) {
    if mount.rotation.queue.state(key).is_none() {
        return;
    }
    match mount.ports.storage.delete(key).await {
        Ok(()) => mount.rotation.queue.forget(key),
        Err(e) => tracing::warn!(record = key, "the record of a user that is gone stays for now: {e}"),
    }
}

/// What is left, in one line.
fn summary(left: &[Left]) -> String {
    const SHOWN: usize = 3;
    let mut lines: Vec<String> = left.iter().take(SHOWN).map(line).collect();
    if left.len() > SHOWN {
        lines.push(format!("and {} more", left.len() - SHOWN));
    }
    lines.join("; ")
}

fn line(left: &Left) -> String {
    let place = if left.database.is_empty() { String::new() } else { format!(" in database {}", left.database) };
    format!("{}{place}: {}", left.object, left.reason)
}

/// Whether somebody has decided that what is left of the user may stay.
///
/// # Errors
/// [`Error::Failed`] if storage refuses.
pub async fn is_accepted(mount: &Mount, user: &Doomed) -> Result<bool, Error> {
    let key = format!("{ACCEPTED}{}", id(&user.db_name, &user.username));
    Ok(mount.ports.storage.get(&key).await?.is_some())
}

/// The records: their keys, their connections, and when they are due, which is now.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let mut found = Vec::new();
    for id in mount.ports.storage.list(PREFIX, "", -1).await? {
        let key = format!("{PREFIX}{id}");
        match Remnant::load(mount, &key).await {
            Ok(Some(record)) => found.push((key, record.user.db_name, SystemTime::UNIX_EPOCH)),
            Ok(None) => {}
            // It may be storage and not what is in it: whoever tries finds out.
            Err(e) => {
                tracing::error!("{e}");
                found.push((key, String::new(), mount.ports.clock.now()));
            }
        }
    }
    Ok(found)
}

/// Those of a connection.
///
/// # Errors
/// [`Error::Failed`] if storage refuses. A record that cannot be read is reported and left out.
pub async fn of_connection(mount: &Mount, name: &str) -> Result<Vec<Remnant>, Error> {
    let mut found = Vec::new();
    for id in mount.ports.storage.list(PREFIX, "", -1).await? {
        match Remnant::load(mount, &format!("{PREFIX}{id}")).await {
            Ok(record) => found.extend(record.filter(|record| record.user.db_name == name)),
            Err(e) => tracing::error!("{e}"),
        }
    }
    Ok(found)
}

/// Asked by the queue: one more attempt.
///
/// # Errors
/// If the user is still not contained.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Trouble> {
    match Remnant::load(mount, key).await {
        Ok(Some(record)) => end::end(mount, record.user).await.map(drop),
        Ok(None) if let Some(user) = mount.ending.kept(key) => end::end(mount, user).await.map(drop),
        Ok(None) => {
            mount.rotation.queue.forget(key);
            Ok(())
        }
        Err(e) => {
            mount.rotation.queue.failed(key, "", mount.ports.clock.now(), &e.to_string());
            Err(Trouble::new(e.to_string(), false))
        }
    }
}

/// LIST `remnants/`, with `after` and `limit`.
pub async fn list(mount: &Mount, input: &Input) -> Reply {
    let mut response = super::database::list(mount, PREFIX, input).await?;
    let Some(data) = response.as_mut().and_then(|response| response.data.as_mut()) else { return Ok(response) };
    let keys = data.iter().find_map(|(name, datum)| match datum {
        super::request::Datum::Plain(Value::Array(keys)) if name == "keys" => Some(keys.clone()),
        _ => None,
    });
    let mut info = serde_json::Map::new();
    for id in keys.iter().flatten().filter_map(Value::as_str) {
        if let Some(record) = Remnant::load(mount, &format!("{PREFIX}{id}")).await? {
            let shown = json!({ "connection": record.user.db_name, "username": record.user.username,
                                "state": record.state, "since": instant(record.since) });
            info.insert(id.to_owned(), shown);
        }
    }
    if !info.is_empty() {
        data.push(("key_info".to_owned(), super::request::Datum::Plain(info.into())));
    }
    Ok(response)
}

/// GET `remnants/:id`, of an open record or of one that was accepted.
pub async fn read(mount: &Mount, id: &str) -> Reply {
    let key = format!("{PREFIX}{id}");
    let record = match Remnant::load(mount, &key).await? {
        Some(record) => record,
        None => match Remnant::load(mount, &format!("{ACCEPTED}{id}")).await? {
            Some(record) => record,
            None => return Ok(None),
        },
    };
    let next = mount.rotation.queue.state(&key).map(|state| state.due).filter(|_| record.accepted.is_none());
    Ok(Some(Response::data(record.shown(next))))
}

fn unknown(id: &str) -> Error {
    Error::Refused(format!("there is no remnant {id:?}; LIST remnants/ shows those there are"))
}

/// POST `remnants/:id/accept`: what is left may stay. The answer tells what that is.
pub async fn accept(mount: &Mount, id: &str, input: &Input, request: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let reason = input.text("reason").unwrap_or_default().trim();
    if reason.is_empty() {
        return Err(Error::Refused("reason is required: say why what is left may stay".into()));
    }
    let key = format!("{PREFIX}{id}");
    let _lock = mount.rotation.locks.hold(&key).await;
    let mut record = Remnant::load(mount, &key).await?.ok_or_else(|| unknown(id))?;
    let Caller { display_name, entity_id, .. } = &request.caller;
    record.accepted = Some(Accepted {
        reason: reason.to_owned(),
        by: display_name.clone(),
        entity: entity_id.clone(),
        at: unix_seconds(mount.ports.clock.now()),
    });
    record.store(mount, &format!("{ACCEPTED}{id}")).await?;
    mount.ports.storage.delete(&key).await?;
    mount.rotation.queue.forget(&key);
    tracing::warn!(
        username = record.user.username,
        connection = record.user.db_name,
        state = record.state.name(),
        by = display_name,
        entity = entity_id,
        request = request.id,
        "a remnant is accepted: {reason}"
    );
    Ok(Some(Response::data(record.shown(None))))
}

/// POST `remnants/:id/retry`: one more attempt, now.
pub async fn retry(mount: &Mount, id: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let record = Remnant::load(mount, &format!("{PREFIX}{id}")).await?.ok_or_else(|| unknown(id))?;
    let report = end::end(mount, record.user).await?;
    Ok(Some(Response::data([
        ("existed", json!(report.existed)),
        ("left", json!(report.left)),
        ("result", json!(report.verdict())),
        ("sessions", json!(report.sessions)),
    ])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_and_differ() {
        let all = [id("pg", "v-a"), id("p", "gv-a"), id("pg", "v-b"), id("", "")];
        assert!(all.iter().all(|id| super::super::field::is_name(id) && id.len() == 24), "{all:?}");
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn what_is_left_is_said_in_one_line() {
        let left = |object: &str, database: &str| Left {
            database: database.into(),
            object: object.into(),
            reason: "it owns it".into(),
        };
        assert_eq!(summary(&[left("table a", "")]), "table a: it owns it");
        let many = [left("table a", "x"), left("b", ""), left("c", ""), left("d", ""), left("e", "")];
        assert_eq!(summary(&many), "table a in database x: it owns it; b: it owns it; c: it owns it; and 2 more");
    }
}
