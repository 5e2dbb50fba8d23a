//! Roles as they were read from storage, so that not each user costs a read.
//!
//! What is in here is what storage holds: this mount drops a role before and after it writes it, the host tells a node of
//! what another one has written, and a standby keeps nothing. For what nobody tells (a raw write past the mount) a role is
//! read again after [`AGE`]. A write of which nobody knows what came of it may still take effect later: its role is never
//! kept again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Role;

/// How long a role is taken from here without a look at storage.
const AGE: Duration = Duration::from_secs(5);

/// So many roles are kept: about a kilobyte each.
const MOST: usize = 2048;

/// The roles that a mount knows.
#[derive(Default)]
pub struct Known(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// With the time before they were read, by the steady clock.
    roles: HashMap<String, (Duration, Arc<Role>)>,
    /// Those that are not kept.
    doubtful: HashSet<String>,
    /// Counts changes: a role whose reading began before one is not kept.
    changes: u64,
}

/// The reading of a role has begun.
pub(super) struct Reading {
    begun: Duration,
    changes: u64,
}

impl Known {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The role, or what to give to [`Known::keep`] once it was read.
    pub(super) fn get(&self, name: &str, steady: Duration) -> Result<Arc<Role>, Reading> {
        let held = self.held();
        match held.roles.get(name) {
            Some((begun, role)) if steady.saturating_sub(*begun) < AGE => Ok(role.clone()),
            _ => Err(Reading { begun: steady, changes: held.changes }),
        }
    }

    /// Keeps what was read, unless something has changed since the reading began. Keys of an authority stay in storage.
    pub(super) fn keep(&self, name: &str, reading: &Reading, role: &Arc<Role>) {
        let mut held = self.held();
        if held.changes != reading.changes || role.credential_config.holds_secret() || held.doubtful.contains(name) {
            return;
        }
        if held.roles.len() >= MOST && !held.roles.contains_key(name) {
            let some = held.roles.keys().next().cloned().unwrap_or_default();
            held.roles.remove(&some);
        }
        held.roles.insert(name.to_owned(), (reading.begun, role.clone()));
    }

    /// Somebody else has written this role.
    pub fn forget(&self, name: &str) {
        let mut held = self.held();
        held.changes += 1;
        held.roles.remove(name);
    }

    /// Nobody says any more what is written.
    pub fn outdated(&self) {
        let mut held = self.held();
        held.changes += 1;
        held.roles.clear();
    }

    /// This mount is about to write the role.
    pub(super) fn change(&self, name: &str) -> Change<'_> {
        self.forget(name);
        Change { known: self, name: name.to_owned(), told: false }
    }
}

/// A write of a role, until it is over.
#[must_use = "a write that nobody tells the outcome of is in doubt"]
pub(super) struct Change<'a> {
    known: &'a Known,
    name: String,
    told: bool,
}

impl Change<'_> {
    /// Storage has done it.
    pub(super) fn done(mut self) {
        self.told = true;
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.known.held().doubtful.insert(self.name.clone());
        }
        self.known.forget(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(db_name: &str) -> Arc<Role> {
        Arc::new(Role { db_name: db_name.into(), ..Role::default() })
    }

    fn reading(known: &Known, at: u64) -> Reading {
        known.get("app", Duration::from_secs(at)).unwrap_err()
    }

    fn db_name(known: &Known, at: u64) -> Option<String> {
        known.get("app", Duration::from_secs(at)).ok().map(|role| role.db_name.clone())
    }

    #[test]
    fn a_role_is_kept_for_its_time() {
        let known = Known::default();
        known.keep("app", &reading(&known, 1), &role("pg"));
        assert_eq!(db_name(&known, 5).as_deref(), Some("pg"));
        assert_eq!(db_name(&known, 6), None);
    }

    #[test]
    fn a_reading_that_began_before_the_end_of_a_write_is_not_kept() {
        let known = Known::default();
        let before = reading(&known, 1);
        let change = known.change("app");
        let during = reading(&known, 1);
        known.keep("app", &before, &role("old"));
        assert_eq!(db_name(&known, 1), None);
        known.keep("app", &during, &role("old"));
        change.done();
        known.keep("app", &during, &role("old"));
        assert_eq!(db_name(&known, 1), None);
        known.keep("app", &reading(&known, 1), &role("new"));
        assert_eq!(db_name(&known, 1).as_deref(), Some("new"));
        known.outdated();
        assert_eq!(db_name(&known, 1), None);
    }

    #[test]
    fn a_role_whose_write_nobody_knows_of_is_never_kept_again() {
        let known = Known::default();
        drop(known.change("app"));
        known.keep("app", &reading(&known, 1), &role("pg"));
        assert_eq!(db_name(&known, 1), None);
        known.change("app").done();
        known.keep("app", &reading(&known, 1), &role("pg"));
        assert_eq!(db_name(&known, 1), None);
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let known = Known::default();
        for number in 0..=MOST {
            known.keep(&format!("r{number}"), &reading(&known, 1), &role("pg"));
        }
        assert_eq!(known.held().roles.len(), MOST);
    }
}
