//! Where the record begins after its oldest part was taken away, as a whole and at the end of a batch. What is left in its
//! place is a signed [`Checkpoint`] of that end and the roots of its tree: later events hang on it as they did before, and
//! later roots are the same. What says whether something may go is not here: see `access::retention`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checkpoint::{self, Checkpoint};
use super::event::{Hash, hex, unhex};
use super::tree::Tree;
use super::verify::Reader;
use super::{Batch, Head, PREFIX};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::secret::Secret;

/// Where it is.
const KEY: &str = "evidence/cut";
/// The most bytes of policies that are kept from before it; the newest count. Storage takes 1 MiB.
const POLICIES: usize = 256 * 1024;

/// What stands in the place of the events that are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The record as it was when the last of them was written.
    pub checkpoint: Checkpoint,
    /// The roots of the complete subtrees of its tree then, the largest first.
    pub peaks: Vec<String>,
    /// The texts of policies that were written in it, the oldest first: later decisions may rest on them. A text is named by
    /// its own hash, so nobody has to vouch for it.
    #[serde(default)]
    pub policies: Vec<Value>,
}

impl Cut {
    /// The hash of the last event that is gone, and the tree. `None` if it contradicts itself.
    pub fn end(&self) -> Option<(Hash, Tree)> {
        let tree = Tree::read(self.checkpoint.size, &self.peaks)?;
        let head = unhex(&self.checkpoint.head)?;
        (hex(&tree.root()) == self.checkpoint.root).then_some((head, tree))
    }
}

/// The cut of the record, if there is one.
///
/// # Errors
/// If storage refuses or what it has is none: then nobody knows where the record begins.
pub async fn load(mount: &Mount) -> Result<Option<Cut>, Error> {
    let Some(entry) = mount.ports.storage.get(KEY).await? else { return Ok(None) };
    let cut: Option<Cut> = serde_json::from_str(entry.expose()).ok();
    let cut = cut.filter(|cut| cut.end().is_some());
    cut.map(Some).ok_or_else(|| Error::Failed(format!("what is stored at {KEY:?} is no beginning of a record")))
}

/// How many of the first events are gone.
///
/// # Errors
/// As [`load`].
pub async fn size(mount: &Mount) -> Result<u64, Error> {
    Ok(load(mount).await?.map_or(0, |cut| cut.checkpoint.size))
}

/// The oldest part of the record that nobody has to keep.
#[derive(Debug)]
pub struct Part {
    /// The record as it was at its end.
    pub end: Head,
    /// How many events it has.
    pub events: u64,
    /// As [`Cut::policies`].
    policies: Vec<Value>,
}

/// The keys of all batches, in order.
async fn batches(mount: &Mount) -> Result<Vec<(u64, String)>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut keys = Vec::new();
    for folder in storage.list(PREFIX, "", -1).await? {
        for name in storage.list(&format!("{PREFIX}{folder}"), "", -1).await? {
            let key = format!("{PREFIX}{folder}{name}");
            let first = name.parse().map_err(|_| Error::Failed(format!("{key:?} is no part of the record")))?;
            keys.push((first, key));
        }
    }
    keys.sort_unstable();
    Ok(keys)
}

/// Finds the part before the first event that `must_stay`, at most `most` events of it. Every event up to there, and the one
/// behind, is held against its hash: what was changed is not taken away. The newest batch stays.
///
/// # Errors
/// If storage refuses, or the record is not sound.
pub async fn part(mount: &Mount, most: u64, mut must_stay: impl FnMut(&Value) -> bool) -> Result<Option<Part>, Error> {
    let unsound = |why: String| Error::Failed(format!("the record is not sound, and nothing is taken from it: {why}"));
    let before = load(mount).await?;
    let mut reader = Reader::default();
    let mut policies = Vec::new();
    let gone = before.as_ref().map_or(0, |cut| cut.checkpoint.size);
    if let Some(cut) = before {
        reader.begin(&cut).map_err(|flaw| unsound(flaw.to_string()))?;
        policies = cut.policies;
    }
    let mut keys = batches(mount).await?;
    keys.retain(|(first, _)| *first > gone);
    let newest = keys.last().map_or(0, |(first, _)| *first);
    let mut found: Option<(Head, usize)> = None;
    for (first, key) in keys {
        let batch = Batch::load(mount.ports.storage.as_ref(), &key).await?;
        let (mut time, mut stays) = (0, first == newest);
        for event in &batch.events {
            reader.event(event).map_err(|flaw| unsound(flaw.to_string()))?;
            time = event["time"].as_str().and_then(super::unstamp).ok_or_else(|| unsound("no time".into()))?;
            stays |= must_stay(event);
            if stays {
                break;
            }
            if event["kind"] == "policy.written" {
                policies.push(event["text"].clone());
            }
        }
        let done = found.as_ref().map_or(0, |(end, _)| end.next - 1 - gone);
        if stays || done >= most {
            break;
        }
        let end = reader.head(time);
        if end.tree.stored() != batch.peaks {
            return Err(unsound(format!("the tree at {key:?} is another")));
        }
        found = Some((end, policies.len()));
    }
    Ok(found.map(|(end, known)| {
        policies.truncate(known);
        let mut policies = newest_of(policies);
        policies.reverse();
        Part { events: end.next - 1 - gone, end, policies }
    }))
}

/// Each text once, the newest first, as far as there is room.
fn newest_of(policies: Vec<Value>) -> Vec<Value> {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for text in policies.into_iter().rev() {
        bytes += text.to_string().len();
        if bytes > POLICIES {
            break;
        }
        if !kept.contains(&text) {
            kept.push(text);
        }
    }
    kept
}

/// From now on the record begins behind this part. Its batches are still in storage, and nobody reads them: see [`sweep`].
///
/// # Errors
/// If storage refuses.
pub async fn make(mount: &Mount, part: Part) -> Result<(), Error> {
    let checkpoint = Checkpoint::sign(&mount.id, &part.end, checkpoint::signer(mount).await?.as_ref());
    let cut = Cut { checkpoint, peaks: part.end.tree.stored(), policies: part.policies };
    let text = serde_json::to_string(&cut).map_err(|_| Error::Failed("cannot encode a cut".into()))?;
    Ok(mount.ports.storage.put(KEY, &Secret::new(text), false).await?)
}

/// Removes batches that are before the cut.
///
/// # Errors
/// If storage refuses; who comes next goes on.
pub async fn sweep(mount: &Mount) -> Result<(), Error> {
    let gone = size(mount).await?;
    if gone == 0 {
        return Ok(());
    }
    // A cut is at the end of a batch: whatever begins before it also ends before it.
    for (_, key) in batches(mount).await?.into_iter().filter(|(first, _)| *first <= gone) {
        mount.ports.storage.delete(&key).await?;
    }
    Ok(())
}
