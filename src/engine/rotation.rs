//! The one mechanism by which the password of an account changes, whoever asks for it: a request, the queue, or what is
//! left of an attempt that did not end.
//!
//! The order is what keeps a password from getting lost. The new password is in the [`journal`] before the target hears
//! of it; a login proves it before the old one is forgotten; it is stored where it belongs before the journal forgets
//! it. Between any two of these steps the process may die: then the record is still there, and [`settle`] finds out by
//! logging in which of the passwords the account has.
//!
//! [`journal`]: super::journal

pub mod queue;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::Mount;
use super::error::Error;
use super::journal::{self, MOST_CANDIDATES, Record};
use super::meter::{self, Work};
use super::port::StorageError;
use crate::secret::{Secret, password};
use crate::target::{LoginError, Outcome, Script, Target, TargetError};

/// A transaction that was under way when its client died is over after this long. A candidate that does not open the
/// account before then may yet do so.
const IN_FLIGHT: Duration = Duration::from_secs(60);

/// The shortest and the longest time until such a change is looked for again.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How often a new password is tried before it counts as wrong, and how long apart: a login may go to another server
/// than the change did.
const PROOFS: u32 = 3;
const BETWEEN_PROOFS: Duration = Duration::from_millis(200);

/// An account whose password is ours to change. Its lock is held by whoever has one.
#[async_trait]
pub trait Account: Send + Sync {
    /// Where its record is.
    fn key(&self) -> &str;
    /// The connection where it is.
    fn connection(&self) -> &str;
    /// Its name at the target.
    fn username(&self) -> &str;
    /// The password that is stored, if there is one.
    fn stored(&self) -> Option<&Secret>;
    /// Where it is.
    fn target(&self) -> Arc<dyn Target>;
    /// What changes its password.
    fn statements(&self) -> Script;
    /// Gives it `password` at the target.
    async fn set(&self, _mount: &Mount, password: &Secret) -> Outcome<()> {
        self.target().set_password(self.username(), password, &self.statements()).await
    }
    /// True if the stored password goes on working after a change.
    fn keeps_stored(&self) -> bool {
        false
    }
    /// True if `candidate` is the password before the stored one, and goes on working beside it: that it opens the account
    /// says nothing of the stored one.
    fn is_previous(&self, _candidate: &Secret) -> bool {
        false
    }
    /// What is stored with its first password, in its stored form, if this is the first.
    fn creating(&self) -> Result<Option<Secret>, Error>;
    /// A new password.
    async fn draw(&self, mount: &Mount) -> Result<Secret, Error>;
    /// `candidate` may open the account from now on: the target is about to hear of it.
    fn expect(&self, _mount: &Mount, _candidate: &Secret) {}
    /// Stores `password`, which opens the account since `at`.
    async fn adopt(&mut self, mount: &Mount, password: &Secret, at: SystemTime) -> Result<(), Error>;
}

/// Why a password did not change, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The target was not asked.
    #[error(transparent)]
    Before(#[from] Error),
    /// The target refused; everything is as it was.
    #[error("{0}")]
    Refused(TargetError),
    /// It is not known, or not stored, what password the account has. The record is; it is settled later.
    #[error("{0}; nothing is lost, this is settled as soon as it can be")]
    Open(String),
}

impl From<StorageError> for Failure {
    fn from(e: StorageError) -> Self {
        Self::Before(e.into())
    }
}

/// What a record came to.
#[derive(Debug)]
pub enum Settled {
    /// There was none.
    Nothing,
    /// One of its passwords opens the account and is stored.
    Adopted,
    /// The stored password opens the account.
    Kept,
    /// The stored password opens the account; the record stays, a change may still be on its way.
    Waiting(Record),
    /// No password that we know opens the account, or logins prove nothing here. A further change can end this.
    Unknown(Record),
}

impl Settled {
    /// True if the stored password is not known to open the account.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// True if nothing is left to be settled.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Nothing | Self::Adopted | Self::Kept)
    }
}

/// When to look again for a change that may still be on its way. Most that arrive do so soon. A record from the future is
/// another node's, whose clock is ahead.
pub fn look_again(record: &Record, now: SystemTime) -> SystemTime {
    let (soonest, latest) = LOOK_AGAIN;
    now + now.duration_since(record.started()).map_or(latest, |age| (age / 2).clamp(soonest, latest))
}

/// Accounts whose record was looked at in vain, by key, and until when. Each look costs failed logins, of which a server
/// may take only so many.
#[derive(Default)]
pub struct Vain(Mutex<HashMap<String, SystemTime>>);

impl Vain {
    /// No look before `until`.
    pub fn until(&self, key: &str, until: SystemTime, now: SystemTime) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, until| *until > now);
        all.insert(key.to_owned(), until);
    }

    /// Whether to look.
    pub fn is_over(&self, key: &str, now: SystemTime) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).is_none_or(|until| *until <= now)
    }
}

/// Records that say they were written later than now, by a clock that was set back since: when each was first seen, by the
/// steady clock, which is later than it was written.
#[derive(Default)]
pub struct Future(Mutex<HashMap<u64, Duration>>);

impl Future {
    /// For how long such a record has been known.
    fn known_for(&self, record: &Record, steady: Duration) -> Duration {
        /// More than there are accounts in trouble at a time; whoever is forgotten waits once more.
        const MOST: usize = 256;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        steady.saturating_sub(*all.entry(record.started).or_insert(steady))
    }
}

/// The locks of a mount's accounts, by key.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits until nobody else changes the account. One lock at a time; but who holds that of a static role may take
    /// that of its connection.
    pub async fn hold(&self, key: &str) -> OwnedMutexGuard<()> {
        self.of(key).lock_owned().await
    }

    /// The lock, if nobody has it.
    pub fn try_hold(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        self.of(key).try_lock_owned().ok()
    }

    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() > 64 {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        locks.entry(key.to_owned()).or_default().clone()
    }
}

/// Gives the account a new password.
///
/// # Errors
/// After [`Failure::Before`] and [`Failure::Refused`] the account has the password it had.
pub async fn change(mount: &Mount, account: &mut dyn Account) -> Result<(), Failure> {
    let connection = account.connection().to_owned();
    let why = |changed: &Result<(), Failure>| changed.as_ref().err().map(Failure::to_string);
    meter::timed(mount, &connection, Work::Rotate, to_another(mount, account), why).await
}

async fn to_another(mount: &Mount, account: &mut dyn Account) -> Result<(), Failure> {
    let storage = mount.ports.storage.as_ref();
    let key = account.key().to_owned();
    let mut record = match settle(mount, account).await? {
        Settled::Nothing | Settled::Adopted | Settled::Kept => Record {
            username: account.username().to_owned(),
            candidates: Vec::new(),
            started: 0,
            creating: account.creating()?,
        },
        Settled::Waiting(record) | Settled::Unknown(record) => record,
    };
    // A further password is one more that the account may have. So many without an answer, and it is one of these again.
    let again = record.candidates.len() >= MOST_CANDIDATES;
    let fresh = if again { record.candidates.remove(0) } else { account.draw(mount).await? };
    let at = mount.ports.clock.now();
    let mut earlier = Record {
        username: record.username.clone(),
        candidates: record.candidates.iter().map(Secret::duplicate).collect(),
        started: record.started,
        creating: None,
    };
    record.candidates.push(fresh.duplicate());
    record.started = journal::nanoseconds(at);
    // What could not be written may be there all the same.
    record.store(storage, &key).await.inspect_err(|_| mount.rotation.queue.outdated())?;
    account.expect(mount, &fresh);

    let target = account.target();
    let certain = match account.set(mount, &fresh).await {
        Outcome::Done(()) => true,
        Outcome::Failed(e) => {
            // One that is tried again may have been taken the first time.
            if !again {
                withdraw(mount, &key, record).await;
            }
            return Err(Failure::Refused(e));
        }
        Outcome::Unknown(e) => match target.login(account.username(), &fresh).await {
            Ok(()) if !proves_nothing(target.as_ref(), account.username()).await? => {
                tracing::warn!(username = account.username(), "the password was changed, and not all went well: {e}");
                keep(mount, target.as_ref(), account.stored(), &mut earlier).await;
                false
            }
            _ => return Err(Failure::Open(format!("the password may have been changed: {e}"))),
        },
    };
    if let Err(failure) = prove(account, target.as_ref(), &fresh).await {
        match failure {
            Failure::Refused(_) if !again => withdraw(mount, &key, record).await,
            // The server's own word that it is none of the others, unless one is still on its way.
            Failure::Open(_) if certain && account.statements().is_empty() && !in_flight(mount, &earlier) => {
                record.candidates = vec![fresh];
                if let Err(e) = record.store(storage, &key).await {
                    tracing::warn!(record = key, "passwords that are not valid any more stay recorded: {e}");
                }
            }
            _ => {}
        }
        return Err(failure);
    }
    finish(mount, account, &fresh, at, earlier).await
}

/// A change that nobody confirmed may be undone by a restart of the server. Unless the target can be told to keep it, the
/// password `before` it stays among the `others`.
async fn keep(mount: &Mount, target: &dyn Target, before: Option<&Secret>, others: &mut Record) {
    if let Err(e) = target.keep().await {
        tracing::warn!(username = others.username, "a restart of the server would bring an old password back: {e}");
        others.candidates.extend(before.map(Secret::duplicate));
        others.started = journal::nanoseconds(mount.ports.clock.now());
    }
}

/// Takes back the youngest candidate, which the target has refused. If storage refuses too the record stays as it was,
/// and is settled later.
async fn withdraw(mount: &Mount, key: &str, mut record: Record) {
    record.candidates.pop();
    let storage = mount.ports.storage.as_ref();
    let withdrawn = if record.candidates.is_empty() {
        storage.delete(key).await.map_err(Error::from)
    } else {
        record.store(storage, key).await
    };
    if let Err(e) = withdrawn {
        mount.rotation.queue.outdated();
        tracing::warn!(record = key, "the record of a refused password change stays: {e}");
    }
}

/// Logs in with the new password. [`Failure::Refused`] if the account still has the old one.
async fn prove(account: &dyn Account, target: &dyn Target, fresh: &Secret) -> Result<(), Failure> {
    let mut tried = 1;
    loop {
        match target.login(account.username(), fresh).await {
            Ok(()) => return Ok(()),
            Err(LoginError::Refused(_)) if tried < PROOFS => {
                tried += 1;
                tokio::time::sleep(BETWEEN_PROOFS).await;
            }
            Err(LoginError::Barred(e)) => {
                // The server has confirmed the change, and more cannot be had.
                tracing::warn!(username = account.username(), "the new password cannot be proven by a login: {e}");
                return Ok(());
            }
            Err(LoginError::Unreachable(e)) => {
                return Err(Failure::Open(format!("the password was changed, but could not be tried: {e}")));
            }
            Err(LoginError::Refused(e)) => {
                // One that goes on working in any case says nothing of the new one.
                let unchanged = match account.stored().filter(|_| !account.keeps_stored()) {
                    Some(stored) => target.login(account.username(), stored).await.is_ok(),
                    None => false,
                };
                if !unchanged {
                    return Err(Failure::Open(format!("the account does not open with its new password: {e}")));
                }
                return Err(Failure::Refused(TargetError::Plan(
                    "the statements ran, but the account still has its old password: let them set '{{password}}'"
                        .into(),
                )));
            }
        }
    }
}

/// Stores a proven password. The record is forgotten but for the `others` that may still be on their way: a node that was
/// cut off does not know that it has been overtaken, and may yet set one of them.
async fn finish(
    mount: &Mount,
    account: &mut dyn Account,
    proven: &Secret,
    at: SystemTime,
    others: Record,
) -> Result<(), Failure> {
    let adopted = account.adopt(mount, proven, at).await;
    adopted.map_err(|e| Failure::Open(format!("the password was changed, but could not be stored: {e}")))?;
    if others.candidates.is_empty() || !in_flight(mount, &others) {
        forget(mount, account.key()).await;
        return Ok(());
    }
    if let Err(e) = others.store(mount.ports.storage.as_ref(), account.key()).await {
        tracing::warn!(record = account.key(), "the record of a finished password change stays: {e}");
    }
    mount.rotation.queue.outdated();
    Ok(())
}

fn in_flight(mount: &Mount, record: &Record) -> bool {
    let clock = mount.ports.clock.as_ref();
    let age = match clock.now().duration_since(record.started()) {
        Ok(age) => age,
        Err(_future) => mount.rotation.future.known_for(record, clock.steady()),
    };
    age < IN_FLIGHT
}

/// A record that stays says nothing new, and is found out and removed later.
async fn forget(mount: &Mount, key: &str) {
    if let Err(e) = mount.ports.storage.delete(key).await {
        mount.rotation.queue.outdated();
        tracing::warn!(record = key, "the record of a finished password change stays: {e}");
    }
}

/// Finds out what became of an earlier change of the account's password, by logging in, and stores the password that
/// opens the account.
///
/// # Errors
/// [`Failure::Open`] if the target cannot be asked, or the password not be stored; the record stays.
pub async fn settle(mount: &Mount, account: &mut dyn Account) -> Result<Settled, Failure> {
    let Some(record) = Record::load(mount.ports.storage.as_ref(), account.key()).await? else {
        return Ok(Settled::Nothing);
    };
    if record.username != account.username() {
        // The account was given to another user since; whoever did so has seen to its password.
        forget(mount, account.key()).await;
        return Ok(Settled::Kept);
    }
    let target = account.target();
    let (previous, others): (Vec<usize>, Vec<usize>) =
        (0..record.candidates.len()).rev().partition(|position| account.is_previous(&record.candidates[*position]));
    for position in others {
        match opens(target.as_ref(), &record.username, &record.candidates[position]).await? {
            Opens::No => {}
            Opens::Untold => return Ok(Settled::Unknown(record)),
            Opens::Yes => return take(mount, account, target.as_ref(), record, position).await,
        }
    }
    let stored = match account.stored() {
        Some(stored) => opens(target.as_ref(), &record.username, stored).await?,
        // Nothing was there before, and nothing has come of it.
        None => Opens::Yes,
    };
    match stored {
        Opens::Yes if in_flight(mount, &record) => Ok(Settled::Waiting(record)),
        Opens::Yes => {
            let kept = target.keep().await;
            kept.map_err(|e| Failure::Open(format!("a restart of the server may bring an old password back: {e}")))?;
            forget(mount, account.key()).await;
            Ok(Settled::Kept)
        }
        Opens::Untold => Ok(Settled::Unknown(record)),
        Opens::No => {
            for position in previous {
                if let Opens::Yes = opens(target.as_ref(), &record.username, &record.candidates[position]).await? {
                    return take(mount, account, target.as_ref(), record, position).await;
                }
            }
            Ok(Settled::Unknown(record))
        }
    }
}

/// Stores the candidate that opens the account, unless anything does.
async fn take(
    mount: &Mount,
    account: &mut dyn Account,
    target: &dyn Target,
    mut record: Record,
    position: usize,
) -> Result<Settled, Failure> {
    if proves_nothing(target, &record.username).await? {
        return Ok(Settled::Unknown(record));
    }
    let candidate = record.candidates.remove(position);
    record.creating = None;
    if account.stored() != Some(&candidate) {
        tracing::info!(username = record.username, "an interrupted password change is brought to its end");
    }
    let at = record.started();
    let before = account.stored().filter(|stored| **stored != candidate);
    keep(mount, target, before, &mut record).await;
    finish(mount, account, &candidate, at, record).await?;
    Ok(Settled::Adopted)
}

enum Opens {
    Yes,
    No,
    Untold,
}

async fn opens(target: &dyn Target, username: &str, password: &Secret) -> Result<Opens, Failure> {
    match target.login(username, password).await {
        Ok(()) => Ok(Opens::Yes),
        Err(LoginError::Refused(_)) => Ok(Opens::No),
        Err(LoginError::Barred(_)) => Ok(Opens::Untold),
        Err(LoginError::Unreachable(e)) => {
            Err(Failure::Open(format!("an earlier change of the password of {username:?} is open: {e}")))
        }
    }
}

/// A server may let everybody in, whatever the password.
async fn proves_nothing(target: &dyn Target, username: &str) -> Result<bool, Failure> {
    let nonsense = password::password().map_err(|e| Error::Failed(e.to_string()))?;
    Ok(matches!(opens(target, username, &nonsense).await?, Opens::Yes))
}
