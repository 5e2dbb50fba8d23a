//! Changing the key of a user: the one mechanism, whoever asks for it.
//!
//! AWS makes the secret and tells it once, so it cannot be noted before. What can be is that a key is about to be made, and
//! which keys were there before: a key that is there afterwards, and that nobody stored, is one whose secret is lost, and is
//! removed. A user has two keys at most; the one in use is never the one that makes room.

use serde::{Deserialize, Serialize};

use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::journal::text;
use crate::secret::Secret;
use crate::target::aws::{AccessKey, AssumedAs, Cause, Cloud, Failure};

/// A change that has begun, and has not come to its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Whose key.
    pub username: String,
    /// The role that the user's account is reached as, if it is not the engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<AssumedAs>,
    /// When it began, unix seconds.
    pub begun: u64,
    /// The keys that were there before.
    pub before: Vec<String>,
    /// The new key, once it is known.
    #[serde(default)]
    pub fresh: Option<Fresh>,
}

/// A new key that is not stored where it belongs yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fresh {
    /// Its id.
    pub id: String,
    /// Its secret.
    #[serde(with = "text")]
    pub secret: Secret,
}

impl Fresh {
    /// As a target takes it.
    pub fn key(&self) -> AccessKey {
        AccessKey { id: self.id.clone(), secret: self.secret.duplicate() }
    }
}

impl Record {
    /// The record at `key`, if there is one.
    pub async fn load(mount: &Mount, key: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(key).await? else { return Ok(None) };
        // The parser's own message may quote what it read.
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|_| Error::Failed(format!("the record of a key change at {key:?} cannot be read")))
    }

    /// Writes the record.
    pub async fn store(&self, mount: &Mount, key: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode a key change".into()))?;
        Ok(mount.ports.storage.put(key, &Secret::new(text), true).await?)
    }
}

/// Removes a record. One that stays says nothing new.
pub async fn forget(mount: &Mount, key: &str) {
    if let Err(e) = mount.ports.storage.delete(key).await {
        mount.rotation.queue.outdated();
        tracing::warn!(record = key, "the record of a finished key change stays: {e}");
    }
}

/// Why a key was not made.
pub enum Unmade {
    /// Storage or the record.
    Ours(Error),
    /// AWS, while it was asked for `call`.
    Aws(&'static str, Failure),
}

impl From<Error> for Unmade {
    fn from(e: Error) -> Self {
        Self::Ours(e)
    }
}

/// Makes a new key of `username`. The record is at `key` when this returns, with the new key in it.
///
/// With two keys there, the one that is not `in_use` and is the oldest makes room, if `make_room`.
pub async fn make(
    mount: &Mount,
    cloud: &dyn Cloud,
    key: &str,
    (username, via): (&str, Option<AssumedAs>),
    begun: u64,
    in_use: Option<&str>,
    make_room: bool,
) -> Result<Record, Unmade> {
    let list = || async { cloud.keys(username).await.map_err(|e| Unmade::Aws("ListAccessKeys", e)) };
    let mut keys = list().await?;
    if keys.len() >= 2 && make_room {
        keys.sort_by_key(|info| (Some(info.id.as_str()) == in_use, info.created));
        let oldest = keys.remove(0);
        tracing::info!(username, access_key = oldest.id, "the oldest key makes room for a new one");
        cloud.delete_key(username, &oldest.id).await.map_err(|e| Unmade::Aws("DeleteAccessKey", e))?;
    }
    let before = keys.into_iter().map(|info| info.id).collect();
    let mut record = Record { username: username.to_owned(), via, begun, before, fresh: None };
    record.store(mount, key).await?;
    let made = match cloud.create_key(username).await {
        Ok(made) => made,
        Err(failure) => {
            if failure.cause == Cause::Unreachable {
                mount.rotation.queue.outdated();
            } else {
                forget(mount, key).await;
            }
            return Err(Unmade::Aws("CreateAccessKey", failure));
        }
    };
    record.fresh = Some(Fresh { id: made.id, secret: made.secret });
    if let Err(e) = record.store(mount, key).await {
        // It may be stored all the same. What is settled later goes by what is there then.
        mount.rotation.queue.outdated();
        return Err(e.into());
    }
    Ok(record)
}

/// Removes the keys of a change whose secrets nobody has: they were not there before, and are none of `known`.
pub async fn clear(cloud: &dyn Cloud, record: &Record, known: &[&str]) -> Result<(), Failure> {
    for info in cloud.keys(&record.username).await? {
        if !record.before.contains(&info.id) && !known.contains(&info.id.as_str()) {
            tracing::warn!(username = record.username, access_key = info.id, "removing a key whose secret was lost");
            cloud.delete_key(&record.username, &info.id).await?;
        }
    }
    Ok(())
}
