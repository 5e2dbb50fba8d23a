//! The record of who was given what, why, and how it ended: events that each hold the hash of the one before.
//!
//! An event is durable before what it tells of is done: no record, no credential. Events that are written at the same
//! time share one write to storage: whoever comes first writes for all that wait by then.
//!
//! A chain alone shows only that it fits together. What shows that nobody has replaced all of it are signed
//! [`checkpoint`]s that somebody else keeps.

pub mod answer;
pub mod checkpoint;
pub mod cut;
pub mod event;
pub mod export;
pub mod tree;
pub mod verify;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::Mount;
use super::error::Error;
use super::port::{Storage, StorageError};
use crate::secret::Secret;
use crate::secret::signer::Signer;
use event::{Draft, GENESIS, Hash, unhex};
use tree::Tree;

/// Where the record is.
pub const PREFIX: &str = "evidence/log/";
/// Batches are in folders by the number of their first event, so that the last one is found without a list of all.
const FOLDER: u64 = 4096;
/// The most events that share a write.
const BATCH: usize = 128;
/// The most bytes of events that share a write; storage takes 1 MiB.
const BATCH_BYTES: usize = 256 * 1024;

/// The record of a mount.
#[derive(Default)]
pub struct Log {
    waiting: Mutex<Vec<Waiting>>,
    /// Whoever writes holds this. `None`: storage may know more than we do.
    head: tokio::sync::Mutex<Option<Head>>,
    /// Another node has written since the head was read.
    stale: AtomicBool,
    signer: tokio::sync::Mutex<Option<Arc<Signer>>>,
}

/// Events of one caller, which stay together.
struct Waiting {
    drafts: Vec<Draft>,
    done: oneshot::Sender<Result<u64, StorageError>>,
}

/// The end of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The number of the next event; the first is 1.
    pub next: u64,
    /// The hash of the last one.
    pub hash: Hash,
    /// The time of the last one, in milliseconds since 1970.
    pub time: u64,
    /// The tree of all of them.
    pub tree: Tree,
}

/// What is in storage: some events, and the tree with them in it.
#[derive(Serialize, Deserialize)]
struct Batch {
    events: Vec<Value>,
    peaks: Vec<String>,
}

fn folder(seq: u64) -> String {
    format!("{:010}/", seq / FOLDER)
}

fn key(seq: u64) -> String {
    format!("{PREFIX}{}{seq:016}", folder(seq))
}

/// A time as events have it.
pub fn stamp(milliseconds: u64) -> String {
    let time = i64::try_from(milliseconds).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "0000-01-01T00:00:00.000Z".to_owned(), |time| format!("{time:.3}"))
}

/// The time of an event, in milliseconds since 1970.
pub fn unstamp(text: &str) -> Option<u64> {
    text.parse::<Timestamp>().ok().map(|time| milliseconds(time.into()))
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Head {
    fn empty() -> Self {
        Self { next: 1, hash: GENESIS, time: 0, tree: Tree::default() }
    }

    /// What storage says.
    async fn load(storage: &dyn Storage) -> Result<Self, Error> {
        let Some(last) = storage.list(PREFIX, "", -1).await?.pop() else { return Ok(Self::empty()) };
        let place = format!("{PREFIX}{last}");
        let Some(name) = storage.list(&place, "", -1).await?.pop() else { return Ok(Self::empty()) };
        let batch = Batch::load(storage, &format!("{place}{name}")).await?;
        let wrong = || Error::Failed(format!("the end of the record of evidence cannot be read: {place}{name}"));
        let event = batch.events.last().ok_or_else(wrong)?;
        let seq = event["seq"].as_u64().ok_or_else(wrong)?;
        let time = event["time"].as_str().and_then(|text| text.parse::<Timestamp>().ok()).ok_or_else(wrong)?;
        Ok(Self {
            next: seq + 1,
            hash: event["hash"].as_str().and_then(unhex).ok_or_else(wrong)?,
            time: milliseconds(time.into()),
            tree: Tree::read(seq, &batch.peaks).ok_or_else(wrong)?,
        })
    }
}

impl Batch {
    async fn load(storage: &dyn Storage, key: &str) -> Result<Self, Error> {
        let entry = storage.get(key).await?;
        let batch = entry.and_then(|entry| serde_json::from_str(entry.expose()).ok());
        batch.ok_or_else(|| Error::Failed(format!("the evidence at {key:?} is missing or cannot be read")))
    }
}

impl Log {
    /// Another node may have written.
    pub fn outdated(&self) {
        self.stale.store(true, Ordering::SeqCst);
    }

    /// The end of the record, in the hands of who may write. Empty if storage has to be asked.
    async fn hold(&self) -> tokio::sync::MutexGuard<'_, Option<Head>> {
        let mut head = self.head.lock().await;
        if self.stale.swap(false, Ordering::SeqCst) {
            head.take();
        }
        head
    }
}

/// Appends events, together and in order. Answers with the number of the first. When this returns `Ok` they outlive the
/// process and the host.
///
/// # Errors
/// If storage refuses; then they may be there or not, and what they tell of must not be done.
pub async fn append(mount: &Mount, drafts: Vec<Draft>) -> Result<u64, Error> {
    let log = &mount.evidence;
    let (done, mut landed) = oneshot::channel();
    log.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { drafts, done });
    let mut head = log.hold().await;
    loop {
        match landed.try_recv() {
            Ok(result) => return Ok(result?),
            Err(oneshot::error::TryRecvError::Empty) => write(mount, &mut head).await,
            Err(oneshot::error::TryRecvError::Closed) => return Err(Error::Failed("internal error".into())),
        }
    }
}

/// Writes what waits, as far as it fits into one write, and tells those who wait.
async fn write(mount: &Mount, head: &mut Option<Head>) {
    let taken: Vec<Waiting> = {
        let mut waiting = mount.evidence.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        let fitting = waiting.iter().take_while(|next| {
            count += next.drafts.len();
            count <= BATCH
        });
        let fitting = fitting.count().max(1).min(waiting.len());
        waiting.drain(..fitting).collect()
    };
    let (drafts, callers): (Vec<_>, Vec<_>) = taken.into_iter().map(|waiting| (waiting.drafts, waiting.done)).unzip();
    let counts: Vec<usize> = drafts.iter().map(Vec::len).collect();
    let written = write_batches(mount, head, drafts.into_iter().flatten().collect()).await;
    let mut seq = written.clone();
    for (caller, count) in callers.into_iter().zip(counts) {
        // Who asked may be gone; its events are in the record all the same.
        let _ = caller.send(seq.clone());
        seq = seq.map(|seq| seq + count as u64);
    }
}

/// Answers with the number of the first event.
async fn write_batches(mount: &Mount, head: &mut Option<Head>, drafts: Vec<Draft>) -> Result<u64, StorageError> {
    let storage = mount.ports.storage.as_ref();
    let mut end = match head.take() {
        Some(head) => head,
        None => Head::load(storage).await.map_err(|e| StorageError(e.to_string()))?,
    };
    let first = end.next;
    end.time = end.time.max(milliseconds(mount.ports.clock.now()));
    let time = stamp(end.time);
    let (mut events, mut bytes, mut from) = (Vec::new(), 0, first);
    let mut drafts = drafts.into_iter().peekable();
    while let Some(draft) = drafts.next() {
        let (event, hash) = draft.placed(end.next, &time, &mount.id, &end.hash);
        bytes += event.to_string().len();
        events.push(event);
        end.next += 1;
        end.hash = hash;
        end.tree.push(&hash);
        if drafts.peek().is_none() || bytes > BATCH_BYTES {
            let batch = Batch { events: std::mem::take(&mut events), peaks: end.tree.stored() };
            let text = serde_json::to_string(&batch).map_err(|e| StorageError(e.to_string()))?;
            storage.put(&key(from), &Secret::new(text), false).await?;
            (bytes, from) = (0, end.next);
        }
    }
    *head = Some(end);
    Ok(first)
}

/// The end of the record as storage knows it.
pub async fn head(mount: &Mount) -> Result<Head, Error> {
    let mut head = mount.evidence.hold().await;
    if let Some(known) = head.as_ref() {
        return Ok(known.clone());
    }
    let loaded = Head::load(mount.ports.storage.as_ref()).await?;
    // A standby is not told of everything that the active node writes.
    if !mount.ports.host.is_standby().await? {
        *head = Some(loaded.clone());
    }
    Ok(loaded)
}

/// The time, never before that of the last event: a clock that is set back opens nothing again.
pub async fn now(mount: &Mount) -> SystemTime {
    // Without the record nothing is issued anyway.
    let last = head(mount).await.map_or(0, |head| head.time);
    mount.ports.clock.now().max(SystemTime::UNIX_EPOCH + Duration::from_millis(last))
}

/// At most `limit` events, from number `from` on; of what was taken away (see [`cut`]), none.
pub async fn read(mount: &Mount, from: u64, limit: usize) -> Result<Vec<Value>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut events = Vec::new();
    let from = from.max(cut::size(mount).await?.saturating_add(1));
    let mut folders: Vec<String> = storage.list(PREFIX, "", -1).await?;
    // The batch with the event begins in the same folder or in an earlier one.
    let before = folders.iter().filter(|name| **name < folder(from)).max().cloned();
    folders.retain(|name| *name >= folder(from) || Some(name) == before.as_ref());
    for place in folders {
        let place = format!("{PREFIX}{place}");
        let mut names = storage.list(&place, "", -1).await?;
        let start = names.iter().rposition(|name| name.parse::<u64>().is_ok_and(|first| first <= from)).unwrap_or(0);
        names.drain(..start);
        for chunk in names.chunks(16) {
            let keys: Vec<String> = chunk.iter().map(|name| format!("{place}{name}")).collect();
            for batch in try_join_all(keys.iter().map(|key| Batch::load(storage, key))).await? {
                events.extend(batch.events.into_iter().filter(|event| event["seq"].as_u64().is_none_or(|s| s >= from)));
            }
            if events.len() >= limit {
                events.truncate(limit);
                return Ok(events);
            }
        }
    }
    Ok(events)
}
