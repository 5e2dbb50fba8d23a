//! Durable notes of minted users, for targets that keep none themselves.
//!
//! PostgreSQL makes a user and the note of whose it is in one transaction. MySQL and Redis cannot, so the note is written
//! here, before the target hears of the user: without a note, no user. It lives as long as the user does, and costs two
//! writes at a mint, one at a renewal, one removal at the end:
//!
//! 1. *begun*, before the mint. A mint that dies, whatever dies with it, leaves this. The next process ends what has been
//!    made as soon as it is certain that the one which wrote the note is gone ([`CLEARED`]), and again and again until it is
//!    [`UNFINISHED`] old itself: a statement that was under way may have made it in between.
//! 2. *made*, after the mint and before the caller gets the password. If this cannot be written the user is ended: a
//!    credential that somebody holds is never taken for an unfinished one.
//! 3. A renewal moves the end.
//! 4. Once the user is gone, so is the note. If the host never asks for that, the tick does it, [`GRACE`] after the end.
//!
//! If a process dies between 2 and the host's own note of the lease, the host sends the request again, and the user is
//! found by it. One case remains: the host dies then, too. That user lives until the end of a lease that nobody has, as
//! with the built-in engine it would for ever.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::end::Doomed;
use super::end::wishes::Wishes;
use super::error::Error;
use super::issue::Site;
use super::port::Storage;
use super::request::Fields;
use super::{Mount, transit};
use crate::secret::{Secret, password};
use crate::target::MintPlan;

/// Where the notes are. They hold no secret.
pub const PREFIX: &str = "mint/";

/// In a lease's internal data: which note is its user's.
pub const LEASE_FIELD: &str = "mint";

/// A mint of which nothing was heard for so long is over. No statement may take longer at its target.
pub const UNFINISHED: Duration = Duration::from_secs(120);

/// A process that has been replaced for so long can write nothing any more: what it had not finished by then it will not.
pub const CLEARED: Duration = Duration::from_secs(5);

/// A user is ended without being asked for so long after its lease. The host tries first; and its lease begins when the
/// answer arrives, which is later than what was written down when the mint began.
pub const GRACE: Duration = Duration::from_secs(60);

/// One user, from before it is made until it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its name.
    pub username: String,
    /// The role it is of.
    pub role: String,
    /// The connection it is at.
    pub db_name: String,
    /// What ends it, if the role is gone by then.
    #[serde(default)]
    pub revocation: Vec<String>,
    /// And how, then.
    #[serde(default, skip_serializing_if = "Wishes::is_silent")]
    pub wishes: Wishes,
    /// Id of the request that asked for it.
    #[serde(default)]
    pub request: String,
    /// Who asked, empty if the token has no entity.
    #[serde(default)]
    pub entity: String,
    /// When the mint began, unix seconds.
    pub begun: u64,
    /// When the lease ends, unix seconds.
    pub expires: u64,
    /// The mint came to its end.
    #[serde(default)]
    pub made: bool,
    /// The process that mints: [`Inner::incarnation`](super::Inner).
    #[serde(default)]
    pub incarnation: String,
}

/// What is to be done about a mint that did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// Its user ends, if there is one, and so does the note.
    Over,
    /// Its user ends, and may still be made afterwards: once more after so long.
    MayBeMade(Duration),
    /// Nothing before that time.
    Early(SystemTime),
}

impl Intent {
    /// Of a mint that is about to begin.
    pub fn new(mount: &Mount, plan: &MintPlan, site: &Site<'_>) -> Self {
        Self {
            username: plan.username.clone(),
            role: plan.marker.role.clone(),
            db_name: site.db_name.to_owned(),
            revocation: site.revocation.to_vec(),
            wishes: site.wishes.clone(),
            request: plan.marker.request.clone(),
            entity: plan.marker.entity.clone(),
            begun: unix_seconds(mount.stamp()),
            expires: plan.marker.expires,
            made: false,
            incarnation: mount.incarnation.clone(),
        }
    }

    /// The mint came to its end. The lease begins now.
    pub fn is_made(&mut self, now: SystemTime) {
        self.made = true;
        self.expires = self.expires.saturating_add(unix_seconds(now).saturating_sub(self.begun));
    }

    /// How a mint stands that did not come to its end, and that nobody in this process is at any more.
    pub fn unfinished(&self, mount: &Mount, now: SystemTime) -> Unfinished {
        let is_own = self.incarnation == mount.incarnation;
        let age = mount.clocks.age(mount.ports.clock.as_ref());
        // The wall clock may have been wrong when the note was written: how long ago that was says our own age, or what this
        // process remembers.
        let may_be_made = match is_own {
            true => transit::is_lost(mount, &self.db_name, &self.request),
            false => age < UNFINISHED,
        };
        let is_due = self.due() <= now;
        match (may_be_made, is_own) {
            // However old it says it is: its process may be the next one already, under another clock.
            (true, false) if age >= CLEARED => {
                Unfinished::MayBeMade((UNFINISHED / 4).min(UNFINISHED.saturating_sub(age)))
            }
            (true, false) => Unfinished::Early(now + until_cleared(mount)),
            (true, true) if is_due => Unfinished::MayBeMade(UNFINISHED / 4),
            (false, false) => Unfinished::Over,
            (false, true) if is_due || self.begun > unix_seconds(now) => Unfinished::Over,
            (_, true) => Unfinished::Early(self.due()),
        }
    }

    /// The note at `key`, if there is one.
    pub async fn load(storage: &dyn Storage, key: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = storage.get(key).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the note of a user at {key:?} cannot be read: {e}")))
    }

    /// Writes the note. When this returns `Ok` it outlives the process and the host.
    pub async fn store(&self, storage: &dyn Storage, key: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode the note of a user".into()))?;
        Ok(storage.put(key, &Secret::new(text), false).await?)
    }

    /// When the tick has to end the user.
    pub fn due(&self) -> SystemTime {
        let (since, pause) = if self.made { (self.expires, GRACE) } else { (self.begun, UNFINISHED) };
        SystemTime::UNIX_EPOCH + Duration::from_secs(since).saturating_add(pause)
    }

    /// What ends the user, and with it this note at `key`.
    pub fn doomed(&self, key: &str) -> Doomed {
        Doomed {
            username: self.username.clone(),
            role: self.role.clone(),
            db_name: self.db_name.clone(),
            entity: self.entity.clone(),
            revocation: self.revocation.clone(),
            wishes: self.wishes.clone(),
            note: Some(key.to_owned()),
        }
    }

    /// The same, if it may be too early: then the note stays for what may still be made.
    pub fn doomed_now(&self, key: &str) -> Doomed {
        Doomed { note: self.made.then(|| key.to_owned()), ..self.doomed(key) }
    }
}

/// How long until what other processes had not finished is theirs no more.
pub fn until_cleared(mount: &Mount) -> Duration {
    CLEARED.saturating_sub(mount.clocks.age(mount.ports.clock.as_ref()))
}

/// The internal data of a lease: the built-in engine's own, and what else is needed to end its user.
pub fn lease(user: &Doomed) -> Fields {
    let fields = [
        ("username", json!(user.username)),
        ("role", json!(user.role)),
        ("db_name", json!(user.db_name)),
        ("revocation_statements", json!(user.revocation)),
        (super::SECRET_TYPE, json!("creds")),
    ];
    let mut internal: Fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    user.wishes.store(&mut internal);
    if let Some(note) = &user.note {
        internal.insert(LEASE_FIELD.into(), json!(note));
    }
    internal
}

/// A key for a new note of this request.
pub fn key_of(request: &str) -> Result<String, Error> {
    let id = password::base62(16).map_err(|e| Error::Failed(e.to_string()))?;
    Ok(format!("{PREFIX}{}{id}", of(request).unwrap_or_default()))
}

/// What keys of this request begin with, if it can be told by them.
fn of(request: &str) -> Option<String> {
    let usable = !request.is_empty() && request.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    usable.then(|| format!("{request}."))
}

/// The keys of the notes of a request.
///
/// # Errors
/// If storage refuses.
pub async fn of_request(mount: &Mount, request: &str) -> Result<Vec<String>, Error> {
    /// So often no process dies under one request.
    const MOST: i32 = 16;
    let Some(beginning) = of(request) else { return Ok(Vec::new()) };
    let found = mount.ports.storage.list(PREFIX, &beginning, MOST).await?;
    Ok(found.into_iter().take_while(|id| id.starts_with(&beginning)).map(|id| format!("{PREFIX}{id}")).collect())
}

/// The user is gone. A note that stays is found to be of nobody when it is due.
pub async fn forget(mount: &Mount, key: &str) {
    match mount.ports.storage.delete(key).await {
        Ok(()) => mount.rotation.queue.forget(key),
        Err(e) => {
            // The queue may not know of it yet.
            mount.rotation.queue.outdated();
            tracing::warn!(record = key, "the note of a user that is gone stays for now: {e}");
        }
    }
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_due_after_its_lease_and_a_mint_after_two_minutes() {
        let mut intent = Intent {
            username: "u".into(),
            role: "r".into(),
            db_name: "d".into(),
            revocation: vec!["DROP".into()],
            wishes: Wishes::default(),
            request: "q".into(),
            entity: String::new(),
            begun: 1000,
            expires: 5000,
            made: false,
            incarnation: String::new(),
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(intent.due(), at(1120));
        intent.made = true;
        assert_eq!(intent.due(), at(5060));
        let text = serde_json::to_string(&intent).unwrap();
        assert_eq!(serde_json::from_str::<Intent>(&text).unwrap(), intent);
        assert_eq!(lease(&intent.doomed("mint/x"))["mint"], "mint/x");
    }
}
