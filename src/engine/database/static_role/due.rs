//! What becomes of static roles without a request, and what a request has to wait for.

use std::time::{Duration, SystemTime};

use super::held::Held;
use super::stored::StaticRole;
use super::{record_key, second_record_key};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::journal::Record;
use crate::engine::rotation::{self, Settled};

/// How long an answer waits for an unfinished change. Then it is what is stored, as if the database were down.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long no answer tries again what has just failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Every static role with its connection and when it is due. One that cannot be read is reported and left out.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let now = mount.ports.clock.now();
    let mut found = Vec::new();
    for name in mount.ports.storage.list("static-role/", "", -1).await? {
        match StaticRole::load(mount, &name).await {
            Ok(Some(role)) => found.push((record_key(&name), role.db_name, role.static_account.next(&name, now))),
            Ok(None) => {}
            Err(e) => {
                tracing::error!(role = name, "its password is not changed: {e}");
                // It may be storage and not what is in it.
                found.push((record_key(&name), String::new(), now));
            }
        }
    }
    Ok(found)
}

/// Settles what is open, ends a password whose grace is over, and changes the password if that is due.
pub async fn when_due(mount: &Mount, name: &str) -> Result<(), Error> {
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    let now = mount.ports.clock.now();
    let loaded = StaticRole::load(mount, name).await;
    let loaded = loaded.inspect_err(|e| mount.rotation.queue.failed(&record, "", now, &e.to_string()))?;
    let Some(role) = loaded else {
        let settled = settle_creation(mount, name).await;
        match &settled {
            Ok(Some(again)) => mount.rotation.queue.plan(&record, "", *again),
            Ok(None) => {}
            Err(e) => mount.rotation.queue.failed(&record, "", now, &e.to_string()),
        }
        return settled.map(drop);
    };
    let db_name = role.db_name.clone();
    let done = async { work(mount, name, Held::new(mount, name, role, false).await?).await };
    let done = done.await;
    if let Err(e) = &done {
        mount.rotation.queue.failed(&record, &db_name, mount.ports.clock.now(), &e.to_string());
    }
    done
}

async fn work(mount: &Mount, name: &str, mut held: Held) -> Result<(), Error> {
    let now = mount.ports.clock.now();
    let standing = held.settle(mount).await?;
    let over = standing.unknown.is_none() && standing.again.is_none();
    let discarded = match held.role.static_account.outlived(now) {
        true if over => held.discard(mount).await,
        _ => Ok(()),
    };
    if standing.unknown.is_some() || held.role.static_account.rotates(name, now) <= now {
        // Which leaves the account with what it takes from now on, and ends everything else.
        if let Err(e) = discarded {
            tracing::warn!(role = name, "{e}");
        }
        return held.change(mount, standing.unknown).await.map_err(|failure| held.failed(failure));
    }
    discarded?;
    let next = held.role.static_account.next(name, now);
    let due = standing.again.map_or(next, |again| again.min(held.role.static_account.rotates(name, now)));
    mount.rotation.queue.plan(&record_key(name), &held.role.db_name, due);
    Ok(())
}

/// Settles what is open for somebody who waits for the password, but not for long.
pub async fn settle_for_use(mount: &Mount, name: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let key = record_key(name);
    let Ok(lock) = tokio::time::timeout_at(deadline, mount.rotation.locks.hold(&key)).await else { return };
    if !mount.rotation.vain.is_over(&key, mount.ports.clock.now()) {
        return;
    }
    let (mount, name) = (mount.clone(), name.to_owned());
    // Goes on when nobody waits any more; who comes meanwhile waits for the lock.
    let settling = tokio::spawn(async move {
        let _lock = lock;
        let again = settle_alone(&mount, &name).await.unwrap_or_else(|e| {
            tracing::warn!(role = name, "an unfinished password change cannot be settled yet: {e}");
            Some(mount.ports.clock.now() + AFTER_FAILURE)
        });
        if let Some(again) = again {
            mount.rotation.vain.until(&key, again, mount.ports.clock.now());
        }
    });
    let _ = tokio::time::timeout_at(deadline, settling).await;
}

/// Settles what is open of a role that is there, or not; gives when to look again. The caller holds the lock.
async fn settle_alone(mount: &Mount, name: &str) -> Result<Option<SystemTime>, Error> {
    let Some(role) = StaticRole::load(mount, name).await? else { return settle_creation(mount, name).await };
    let standing = Held::new(mount, name, role, false).await?.settle(mount).await?;
    let soon = standing.unknown.map(|_| mount.ports.clock.now() + AFTER_FAILURE);
    Ok(soon.or(standing.again))
}

/// Settles the creation of a role that is not there; gives when to look again. The caller holds the lock.
pub async fn settle_creation(mount: &Mount, name: &str) -> Result<Option<SystemTime>, Error> {
    let key = record_key(name);
    let storage = mount.ports.storage.as_ref();
    // A role is created with its first account: what there is of a second one is left of a role that was deleted.
    storage.delete(&second_record_key(name)).await?;
    let creating = match Record::load(storage, &key).await? {
        Some(Record { creating: Some(creating), .. }) => creating,
        Some(_) => {
            // The role was deleted.
            storage.delete(&key).await?;
            mount.rotation.queue.forget(&key);
            return Ok(None);
        }
        None => {
            mount.rotation.queue.forget(&key);
            return Ok(None);
        }
    };
    let mut held = Held::new(mount, name, StaticRole::decode(name, &creating)?, true).await?;
    match rotation::settle(mount, &mut held).await.map_err(|failure| held.failed(failure))? {
        Settled::Adopted => Ok(None),
        Settled::Waiting(record) => Ok(Some(rotation::look_again(&record, mount.ports.clock.now()))),
        Settled::Nothing | Settled::Kept => {
            mount.rotation.queue.forget(&key);
            Ok(None)
        }
        Settled::Unknown(_) => {
            held.change(mount, None).await.map_err(|failure| held.failed(failure))?;
            Ok(None)
        }
    }
}
