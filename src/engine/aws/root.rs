//! `config/rotate-root`: the key that the engine itself uses, changed on request and by itself.
//!
//! The new key is noted as soon as it is known, used before it is stored, and stored before the old one is deleted. Whatever
//! stops in between leaves the record, and a key that works.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::config::Root;
use super::key::{self, Record, Unmade};
use super::{cloud, counted, refused};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;
use crate::engine::meter::Work;
use crate::engine::request::{Reply, Response};
use crate::engine::schedule::timing::Timing;
use crate::target::aws::arn::Arn;
use crate::target::aws::{Cause, Cloud, Failure, Principal};

/// Where the record of an unfinished change is, and its place in the queue.
pub const RECORD: &str = "rotation/root";
/// How long a new key may take to be usable, how often it must have been used in a row, and how far apart.
const USABLE_WITHIN: Duration = Duration::from_secs(45);
const PROOFS: u32 = 2;
const BETWEEN_PROOFS: Duration = Duration::from_millis(500);
/// How long an unfinished change is left alone: somebody may still be at it.
const UNFINISHED: Duration = Duration::from_secs(120);

/// POST and PUT.
pub async fn rotate(mount: &Mount) -> Reply {
    mount.refuse_on_standby().await?;
    let _lock = mount.rotation.locks.hold(RECORD).await;
    settle(mount).await?;
    let root =
        Root::load(mount).await?.ok_or_else(|| Error::Failed("no configuration found for config/root".into()))?;
    let (id, warnings) = change(mount, root).await?;
    Ok(Some(Response { warnings, ..Response::data([("access_key", json!(id))]) }))
}

/// Changes the key now; gives the new one's id, and what is to be known of the old one. The caller holds the lock.
async fn change(mount: &Mount, root: Root) -> Result<(String, Vec<String>), Error> {
    counted(mount, Work::Rotate, to_another(mount, root)).await
}

async fn to_another(mount: &Mount, mut root: Root) -> Result<(String, Vec<String>), Error> {
    if root.access_key.is_empty() || root.secret_key.is_empty() {
        return Err(Error::Refused(
            "Cannot call config/rotate-root when either access_key or secret_key is empty".into(),
        ));
    }
    let cloud = cloud(mount).await?;
    let me = cloud.whoami().await.map_err(|e| failed("GetCallerIdentity", &e))?;
    let username = username(&me)?;
    let now = unix_seconds(mount.ports.clock.now());
    let made = key::make(mount, cloud.as_ref(), RECORD, (&username, None), now, Some(&root.access_key), false).await;
    let record = made.map_err(|unmade| match unmade {
        Unmade::Ours(e) => e,
        Unmade::Aws(call, failure) => failed(call, &failure),
    })?;
    let Some(fresh) = &record.fresh else { return Err(Error::Failed("nil access key returned from request".into())) };
    let with_new = cloud.with_key(&fresh.key());
    if let Err(why) = proven(with_new.as_ref(), &me).await {
        // The old key is still the one in use; the new one goes again.
        match cloud.delete_key(&username, &fresh.id).await {
            Ok(()) => key::forget(mount, RECORD).await,
            Err(e) => tracing::warn!("a new key that does not work could not be deleted: {e}"),
        }
        return Err(Error::Failed(format!("the new key did not become usable, the old one stays: {why}")));
    }
    let old = std::mem::replace(&mut root.access_key, fresh.id.clone());
    root.secret_key = fresh.secret.duplicate();
    let mut timing = root.timing()?;
    timing.rotated(SystemTime::UNIX_EPOCH + Duration::from_secs(now), mount.ports.clock.now());
    root.set_timing(&timing);
    root.store(mount).await?;
    let mut warnings = Vec::new();
    match with_new.delete_key(&username, &old).await {
        Ok(()) => {
            key::forget(mount, RECORD).await;
            plan(mount, &timing);
        }
        Err(e) => {
            let now = mount.ports.clock.now();
            mount.rotation.queue.failed(RECORD, RECORD, now, &e.to_string());
            warnings.push(format!("the new key is in use; the old one, {old}, is deleted as soon as it can be: {e}"));
        }
    }
    tracing::info!(access_key = root.access_key, "the engine itself has a new key");
    Ok((root.access_key, warnings))
}

/// When the key changes by itself.
fn due(mount: &Mount, timing: &Timing) -> Option<SystemTime> {
    timing.due(&mount.id, mount.ports.clock.now())
}

/// Tells the queue when that is, and that nothing is open.
fn plan(mount: &Mount, timing: &Timing) {
    match due(mount, timing) {
        Some(due) => mount.rotation.queue.plan(RECORD, RECORD, due),
        None => mount.rotation.queue.forget(RECORD),
    }
}

fn failed(call: &str, failure: &Failure) -> Error {
    match failure.cause {
        Cause::Throttled => refused(&format!("error calling {call}"), failure),
        _ => Error::Failed(format!("error calling {call}: {failure}")),
    }
}

/// The user that the key is of.
fn username(me: &Principal) -> Result<String, Error> {
    let name = Arn::parse(&me.arn).ok().and_then(|arn| arn.name("user")).map(str::to_owned);
    name.ok_or_else(|| {
        Error::Failed(format!(
            "config/root is {}, which is no IAM user: only a user has a key that can be changed",
            me.arn
        ))
    })
}

/// Uses a new key until it works several times in a row.
async fn proven(with_new: &dyn Cloud, me: &Principal) -> Result<(), String> {
    let (begun, mut proofs) = (Instant::now(), 0);
    loop {
        let why = match with_new.whoami().await {
            Ok(found) if found.arn == me.arn => {
                proofs += 1;
                if proofs == PROOFS {
                    return Ok(());
                }
                continue;
            }
            Ok(found) => return Err(format!("it is {}, not {}", found.arn, me.arn)),
            Err(failure) => failure.to_string(),
        };
        proofs = 0;
        if begun.elapsed() >= USABLE_WITHIN {
            return Err(why);
        }
        tokio::time::sleep(BETWEEN_PROOFS).await;
    }
}

/// Brings an earlier change to its end: with the stored key, which is the old or the new one, whatever else was made goes.
/// The caller holds the lock.
async fn settle(mount: &Mount) -> Result<(), Error> {
    let Some(record) = Record::load(mount, RECORD).await? else { return Ok(()) };
    let Some(root) = Root::load(mount).await?.filter(|root| !root.access_key.is_empty()) else {
        key::forget(mount, RECORD).await;
        return Ok(());
    };
    let cloud = cloud(mount).await?;
    let is_new = record.fresh.as_ref().is_some_and(|fresh| fresh.id == root.access_key);
    let open = |e: Failure| failed("an earlier change of the key is open", &e);
    if is_new {
        for old in &record.before {
            cloud.delete_key(&record.username, old).await.map_err(open)?;
        }
    } else {
        let me = cloud.whoami().await.map_err(open)?;
        if username(&me).is_ok_and(|name| name == record.username) {
            key::clear(cloud.as_ref(), &record, &[&root.access_key]).await.map_err(open)?;
        }
    }
    key::forget(mount, RECORD).await;
    mount.rotation.queue.forget(RECORD);
    Ok(())
}

/// The unfinished change, or the next one.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let at = match Record::load(mount, RECORD).await? {
        Some(record) => Some(SystemTime::UNIX_EPOCH + Duration::from_secs(record.begun) + UNFINISHED),
        None => match Root::load(mount).await? {
            Some(root) => due(mount, &root.timing()?),
            None => None,
        },
    };
    Ok(at.into_iter().map(|at| (RECORD.to_owned(), RECORD.to_owned(), at)).collect())
}

/// Asked by the queue: settles what is open, and changes the key if that is due.
pub async fn when_due(mount: &Mount) -> Result<(), Error> {
    let _lock = mount.rotation.locks.hold(RECORD).await;
    let queue = &mount.rotation.queue;
    let done = async {
        settle(mount).await?;
        let Some(root) = Root::load(mount).await? else {
            queue.forget(RECORD);
            return Ok(());
        };
        let timing = root.timing()?;
        match due(mount, &timing) {
            Some(due) if due <= mount.ports.clock.now() => change(mount, root).await.map(drop),
            // What went wrong is shown until it is made good.
            Some(due) if queue.has_failed(RECORD) && timing.has_missed(due) => {
                queue.postpone(RECORD, due);
                Ok(())
            }
            _ => {
                plan(mount, &timing);
                Ok(())
            }
        }
    };
    let done: Result<(), Error> = done.await;
    if let Err(e) = &done {
        queue.failed(RECORD, RECORD, mount.ports.clock.now(), &e.to_string());
    }
    done
}
