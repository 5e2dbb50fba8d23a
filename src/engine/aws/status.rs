//! `status`: how an AWS mount is doing. Its account counts as one connection, so that `metrics` has it under the names of
//! the database engine; what only AWS has is the denials.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::json;

use super::denial::{self, policy_name};
use super::user;
use super::{root, static_role};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::intent::Intent;
use crate::engine::reconcile::Sight;
use crate::engine::request::{Reply, Response};
use crate::engine::rotation::queue::Waiting;
use crate::engine::status::{Standing, shown};

/// What the account is called where the database engine names a connection.
pub const ACCOUNT: &str = "aws";
/// How long it is remembered which user is the oldest.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Notes that are read at once.
const AT_ONCE: usize = 16;
/// What an account has of what is shown of a connection.
const SHOWN: [&str; 7] = ["complaints", "operations", "queue", "revocation_mode", "rotation_lag", "rotations", "users"];

/// Denials of all roles and users at AWS that carry some.
#[derive(Debug, Clone, Copy, Default)]
pub struct Denials {
    /// Entries that AWS has.
    pub in_force: usize,
    /// Entries of lists that AWS does not have as they are: their sessions may still work.
    pub unwritten: usize,
    /// Those for which there is no room.
    pub without_room: usize,
    /// Characters of the inline policy's that are used, of the fullest; 1 is all.
    pub fullest: f64,
}

/// How the account is doing. Asks storage, and not AWS.
///
/// # Errors
/// If storage refuses.
pub async fn standing(mount: &Mount) -> Result<Standing, Error> {
    let now = mount.ports.clock.now();
    let (mut ends, mut rotations) = (Vec::new(), Vec::new());
    for waiting in mount.rotation.queue.all() {
        let key = waiting.key.as_str();
        if key == root::RECORD || key.starts_with(static_role::RECORDS) {
            rotations.push(waiting);
        } else if key.starts_with(user::PREFIX) || waiting.failures > 0 {
            ends.push(waiting);
        }
    }
    rotations.sort_by_key(|one| one.due);
    ends.sort_by_key(|one| one.due);
    Ok(Standing {
        name: ACCOUNT.to_owned(),
        plugin_name: ACCOUNT.to_owned(),
        revocation_mode: mount.revocation_mode,
        sight: Some(sight(mount, &ends, now).await?),
        blind: None,
        remnants: Vec::new(),
        rotations,
        ends,
        vitals: None,
        work: mount.meter.at(ACCOUNT).into_iter().collect::<BTreeMap<_, _>>(),
        denials: Some(denial::counted(mount).await?),
        now,
    })
}

/// The users that have a note. Which of them is the oldest is looked up about once a minute: that reads every note.
async fn sight(mount: &Mount, ends: &[Waiting], now: SystemTime) -> Result<Sight, Error> {
    let notes: Vec<&Waiting> = ends.iter().filter(|one| one.key.starts_with(user::PREFIX)).collect();
    let last = mount.sights.last(ACCOUNT).filter(|last| now.duration_since(last.at).unwrap_or_default() < REMEMBERED);
    let (at, oldest) = match last {
        _ if notes.is_empty() => (now, None),
        Some(last) if last.oldest.is_some() => (last.at, last.oldest),
        _ => (now, oldest(mount, &notes).await?),
    };
    let overdue = notes.iter().filter(|note| note.wanted <= now).count();
    let sight = Sight { at, users: notes.len(), overdue, oldest };
    mount.sights.put(ACCOUNT, sight);
    Ok(sight)
}

/// When the oldest of these users was made, unix seconds.
async fn oldest(mount: &Mount, notes: &[&Waiting]) -> Result<Option<u64>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut oldest: Option<u64> = None;
    for some in notes.chunks(AT_ONCE) {
        for note in join_all(some.iter().map(|note| Intent::load(storage, &note.key))).await {
            if let Some(note) = note? {
                oldest = Some(oldest.map_or(note.begun, |other| other.min(note.begun)));
            }
        }
    }
    Ok(oldest)
}

/// GET `status`.
pub async fn read(mount: &Mount) -> Reply {
    // What counts is what the node knows that acts.
    mount.refuse_on_standby().await?;
    mount.sights.forget(ACCOUNT);
    let standing = standing(mount).await?;
    let of_account = shown(&standing).into_iter().filter(|(key, _)| SHOWN.contains(key));
    let own = [
        ("policy_name", json!(policy_name(mount))),
        ("denials", json!(denial::described(mount).await?)),
        ("uptime", json!(mount.clocks.age(mount.ports.clock.as_ref()).as_secs())),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ];
    Ok(Some(Response::data(own.into_iter().chain(of_account))))
}
