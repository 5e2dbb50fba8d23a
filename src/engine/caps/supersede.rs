//! `on_new_issue=supersede`: a new user of a role ends the ones that the same entity had of it before, after an overlap.
//!
//! What is to end follows from the users themselves, so nothing is written down for it, and a new process knows as much as
//! the one before. Whom an empty entity stands for nobody knows: such users supersede nobody.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Entry, Limits, Pages};
use crate::engine::Mount;
use crate::engine::database::role::Role;
use crate::engine::end::{self, Doomed};
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent};
use crate::engine::live::User;

/// In the queue: a role whose users are to be looked at.
pub const PREFIX: &str = "supersede/";

/// How soon by a process that has just begun.
const FIRST: Duration = Duration::from_secs(2);
/// How soon again if the database cannot be asked.
const AGAIN: Duration = Duration::from_secs(30);

fn key(role: &str) -> String {
    format!("{PREFIX}{role}")
}

/// A user of the role was made for somebody.
pub fn issued(mount: &Mount, role: &str, connection: &str, limits: &Limits, entity: &str) {
    if let Some(overlap) = limits.supersedes().filter(|_| !entity.is_empty()) {
        let due = mount.ports.clock.now() + overlap;
        // Who looks what is due next sees either the user or this.
        let book = mount.caps.book(connection);
        let _pages = book.pages();
        let known = mount.rotation.queue.state(&key(role)).map(|known| known.due);
        mount.rotation.queue.plan(&key(role), connection, known.map_or(due, |known| known.min(due)));
    }
}

/// A role was written, or is gone.
pub fn written(mount: &Mount, name: &str, role: Option<&Role>) {
    let mut known = mount.caps.superseding.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(known) = known.as_mut() else { return };
    match role.filter(|role| role.limits.supersedes().is_some()) {
        Some(role) => {
            known.insert(name.to_owned(), role.db_name.clone());
            mount.rotation.queue.plan(&key(name), &role.db_name, mount.ports.clock.now() + FIRST);
        }
        None => _ = known.remove(name),
    }
}

/// Another node has written a role.
pub fn outdated(mount: &Mount) {
    *mount.caps.superseding.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    mount.caps.outdated();
}

/// The roles that supersede: they are looked at soon.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let lock = || mount.caps.superseding.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let known = lock().clone();
    let known = match known {
        Some(known) => known,
        None => {
            let mut found = BTreeMap::new();
            for name in mount.roles().await? {
                match Role::load(mount, &name).await {
                    Ok(Some(role)) if role.limits.supersedes().is_some() => _ = found.insert(name, role.db_name),
                    Ok(_) => {}
                    Err(e) => {
                        tracing::error!("{e}");
                        // It may be one: it is read again when its turn comes, and again after each failure.
                        found.insert(name, String::new());
                    }
                }
            }
            lock().insert(found).clone()
        }
    };
    let due = mount.ports.clock.now() + FIRST;
    Ok(known.into_iter().map(|(name, connection)| (key(&name), connection, due)).collect())
}

/// Asked by the queue: ends what the users of a role have superseded.
pub async fn when_due(mount: &Mount, name: &str) {
    let (queue, key) = (&mount.rotation.queue, key(name));
    let role = match Role::load(mount, name).await {
        Ok(role) => role,
        Err(e) => return queue.failed(&key, "", mount.ports.clock.now(), &e.to_string()),
    };
    let Some((role, overlap)) = role.and_then(|role| role.limits.supersedes().map(|overlap| (role, overlap))) else {
        return queue.forget(&key);
    };
    let book = mount.caps.book(&role.db_name);
    let ready = async {
        let connection = mount.connections.get(mount, &role.db_name).await?;
        if book.pages().known { Ok(()) } else { book.read(mount, &role.db_name, &connection).await }
    };
    if let Err(e) = ready.await {
        tracing::debug!(role = name, "who is superseded cannot be asked: {e}");
        return queue.plan(&key, &role.db_name, mount.ports.clock.now() + AGAIN);
    }
    let now = mount.ports.clock.now();
    let found = superseded(&book.pages(), name, overlap);
    for (user, _) in found.into_iter().filter(|(_, due)| *due <= now) {
        tracing::info!(username = user.username, role = name, entity = user.entity, "superseded by a newer user");
        let doomed = match doomed(mount, &role.db_name, &user).await {
            Ok(doomed) => doomed,
            Err(e) => {
                tracing::warn!(username = user.username, "superseded, but not ended yet: {e}");
                continue;
            }
        };
        // It is a remnant if that fails.
        if let Err(trouble) = end::end(mount, doomed).await {
            tracing::warn!(username = user.username, "superseded, but not ended yet: {trouble}");
        }
    }
    let pages = book.pages();
    let next = superseded(&pages, name, overlap).into_iter().map(|(_, due)| due).min();
    match next {
        Some(next) => queue.plan(&key, &role.db_name, next.max(now + AGAIN.min(overlap))),
        None => queue.forget(&key),
    }
}

async fn doomed(mount: &Mount, db_name: &str, user: &User) -> Result<Doomed, Error> {
    for key in intent::of_request(mount, &user.request).await? {
        if let Some(note) = Intent::load(mount.ports.storage.as_ref(), &key).await?
            && note.username == user.username
        {
            return Ok(note.doomed(&key));
        }
    }
    Ok(Doomed {
        username: user.username.clone(),
        role: user.role.clone(),
        db_name: db_name.to_owned(),
        entity: user.entity.clone(),
        ..Doomed::default()
    })
}

/// The users of a role for whose entity a newer one was made, and when they end. Of two that were made in the same second,
/// and not by this process, neither is newer.
fn superseded(pages: &Pages, role: &str, overlap: Duration) -> Vec<(User, SystemTime)> {
    let mut by_entity: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in pages.users.values() {
        if !entry.pending && entry.user.role == role && !entry.user.entity.is_empty() {
            by_entity.entry(&entry.user.entity).or_default().push(entry);
        }
    }
    let is_newer = |one: &Entry, other: &Entry| match (one.number, other.number) {
        (0, _) | (_, 0) => one.user.begun > other.user.begun,
        (one, other) => one > other,
    };
    let mut found = Vec::new();
    for users in by_entity.values() {
        for entry in users {
            let newer = users.iter().filter(|other| is_newer(other, entry));
            if let Some(first) = newer.map(|newer| newer.user.begun).min() {
                let since = SystemTime::UNIX_EPOCH + Duration::from_secs(first);
                found.push((entry.user.clone(), since + overlap));
            }
        }
    }
    found
}
