//! How many users may live at once: of a role, at a connection, of one caller.
//!
//! Nothing is counted for roles and connections that set no limit. Otherwise each connection has a book of its users, which
//! is read from where they are written down durably (their markers or notes), so that it is the same after a restart, and
//! read again before anybody is refused. A mint takes its place in the book before it begins, and gives it back if it makes
//! no user; one of which nobody knows what came of it keeps it until the book is read again, or the user has ended.

pub mod supersede;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Mount;
use super::database::connection::Connection;
use super::error::Error;
use super::field::Input;
use super::live::{self, User};
use super::request::Fields;
use crate::target::MintPlan;

/// The field of roles and connections.
pub const MAX_LIVE_USERS: &str = "max_live_users";

/// A book is not read again sooner than this after the last time, however many are refused.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// Between a new user and the end of the ones before, where a role does not say.
const OVERLAP: u64 = 60;

/// What a role says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Users of the role at most, 0 for no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_live_users: u64,
    /// Users of the role that one entity has at most, 0 for no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_active: u64,
    /// `supersede`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    on_new_issue: String,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    supersede_overlap: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A limit that a request gives.
///
/// # Errors
/// [`Error::Refused`], which names the field.
pub fn limit(input: &Input, name: &str) -> Result<Option<u64>, Error> {
    let wrong = |given| Error::Refused(format!("invalid {name} {given}: a number of users, or 0 for no limit"));
    input.int(name).map(|given| u64::try_from(given).map_err(|_| wrong(given))).transpose()
}

impl Limits {
    /// Lays what a request gives over what is there.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the field and what it takes.
    pub fn write(&mut self, input: &Input) -> Result<(), Error> {
        if let Some(limit) = limit(input, MAX_LIVE_USERS)? {
            self.max_live_users = limit;
        }
        if let Some(limit) = limit(input, "max_active")? {
            self.max_active = limit;
        }
        match input.text("on_new_issue").map(str::trim) {
            None => {}
            Some("" | "keep") => self.on_new_issue.clear(),
            Some("supersede") => "supersede".clone_into(&mut self.on_new_issue),
            Some(other) => {
                return Err(Error::Refused(format!("invalid on_new_issue {other:?}: keep or supersede")));
            }
        }
        if let Some(overlap) = input.span("supersede_overlap") {
            if overlap < Duration::from_secs(1) {
                return Err(Error::Refused("invalid supersede_overlap: at least one second".into()));
            }
            self.supersede_overlap = Some(overlap.as_secs());
        }
        if self.supersedes().is_some() && self.max_active == 1 {
            return Err(Error::Refused(
                "max_active must be 2 or more with on_new_issue=supersede: the user before lives on for a while".into(),
            ));
        }
        Ok(())
    }

    /// How long after a new user the ones before are ended, if they are.
    pub fn supersedes(&self) -> Option<Duration> {
        let overlap = Duration::from_secs(self.supersede_overlap.unwrap_or(OVERLAP));
        (self.on_new_issue == "supersede").then_some(overlap)
    }

    /// What a read shows: what was said.
    pub fn shown(&self) -> Vec<(&'static str, Value)> {
        let numbers = [(MAX_LIVE_USERS, self.max_live_users), ("max_active", self.max_active)];
        let mut shown: Vec<_> =
            numbers.into_iter().filter(|(_, limit)| *limit > 0).map(|(name, limit)| (name, json!(limit))).collect();
        if let Some(overlap) = self.supersedes() {
            shown.push(("on_new_issue", json!(self.on_new_issue)));
            shown.push(("supersede_overlap", json!(overlap.as_secs())));
        }
        shown
    }

    fn counts(&self) -> bool {
        self.max_live_users > 0 || self.max_active > 0 || self.supersedes().is_some()
    }
}

/// The limit of a stored connection.
pub fn of_connection(stored: &Fields) -> u64 {
    stored.get(MAX_LIVE_USERS).and_then(Value::as_u64).unwrap_or_default()
}

/// What a mount knows of its limits.
#[derive(Default)]
pub struct Caps {
    books: Mutex<HashMap<String, Arc<Book>>>,
    /// Roles that supersede, with their connections; unknown until they have been looked for.
    superseding: Mutex<Option<BTreeMap<String, String>>>,
}

impl Caps {
    fn books(&self) -> MutexGuard<'_, HashMap<String, Arc<Book>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self, connection: &str) -> Arc<Book> {
        self.books().entry(connection.to_owned()).or_default().clone()
    }

    /// Something has changed that books may not know of: they are read again before they are used.
    pub fn outdated(&self) {
        self.books().values().for_each(|book| book.pages().known = false);
    }

    /// The user can do nothing any more. Without a connection it is looked for in every book.
    pub fn ended(&self, connection: &str, username: &str) {
        let books = self.books();
        for (_, book) in books.iter().filter(|(name, _)| connection.is_empty() || *name == connection) {
            let mut pages = book.pages();
            pages.users.remove(username);
            if let Some(gone) = &mut pages.gone {
                gone.insert(username.to_owned());
            }
        }
    }
}

/// The users of one connection.
#[derive(Default)]
struct Book {
    pages: Mutex<Pages>,
    /// Held by who reads the users from where they are written down.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pages {
    users: HashMap<String, Entry>,
    /// Every user is in here.
    known: bool,
    /// When it was read last, by the steady clock.
    read: Duration,
    /// How often it was.
    readings: u64,
    /// Users that have ended while somebody reads.
    gone: Option<BTreeSet<String>>,
    /// Users that this process has made.
    made: u64,
}

#[derive(Debug)]
struct Entry {
    user: User,
    /// The how manieth user of this process it is; 0 if another one made it.
    number: u64,
    /// It is being made.
    pending: bool,
    /// Which reading was the last to begin before it was made.
    reading: u64,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the users from where they are written down. What happens meanwhile is not lost.
    async fn read(&self, mount: &Mount, name: &str, connection: &Connection) -> Result<(), Error> {
        let asked = mount.ports.clock.steady();
        let _turn = self.reading.lock().await;
        {
            let mut pages = self.pages();
            if pages.known && pages.read >= asked {
                return Ok(());
            }
            pages.readings += 1;
            pages.gone = Some(BTreeSet::new());
        }
        let found = live::users(mount, name, connection).await;
        let mut pages = self.pages();
        let gone = pages.gone.take().unwrap_or_default();
        let found: HashMap<String, User> = found?.into_iter().map(|user| (user.username.clone(), user)).collect();
        let this = pages.readings;
        pages.users.retain(|name, entry| entry.pending || entry.reading >= this || found.contains_key(name));
        for (username, user) in found.into_iter().filter(|(username, _)| !gone.contains(username)) {
            pages.users.entry(username).or_insert(Entry { user, number: 0, pending: false, reading: 0 });
        }
        (pages.known, pages.read) = (true, mount.ports.clock.steady());
        Ok(())
    }

    /// A place for the user of this plan, or why there is none.
    fn reserve(self: &Arc<Self>, plan: &MintPlan, limits: &Limits, at_connection: u64) -> Result<Place, Error> {
        let marker = &plan.marker;
        let mut pages = self.pages();
        let (mut all, mut of_role, mut of_entity) = (0, 0, 0);
        for Entry { user, .. } in pages.users.values() {
            // What the same request has made before ends with it.
            if user.request == marker.request && !user.request.is_empty() {
                continue;
            }
            all += 1;
            of_role += u64::from(user.role == marker.role);
            of_entity += u64::from(user.role == marker.role && user.entity == marker.entity);
        }
        let full = |limit: u64, count: u64| limit > 0 && count >= limit;
        let role = &marker.role;
        let refused = if full(limits.max_active, of_entity) {
            format!(
                "this caller has {of_entity} live users of role {role:?}, and its max_active is {}: use those, or revoke \
                 their leases; or raise max_active of the role",
                limits.max_active
            )
        } else if full(limits.max_live_users, of_role) {
            format!(
                "role {role:?} has {of_role} live users, and its max_live_users is {}: revoke leases that are not needed, \
                 or wait for their end; or raise max_live_users of the role",
                limits.max_live_users
            )
        } else if full(at_connection, all) {
            format!(
                "connection {:?} has {all} live users, and its max_live_users is {at_connection}: revoke leases that are \
                 not needed, or wait for their end; or raise max_live_users of the connection",
                marker.connection
            )
        } else {
            pages.made += 1;
            let user = User {
                username: plan.username.clone(),
                role: role.clone(),
                entity: marker.entity.clone(),
                request: marker.request.clone(),
                begun: marker.begun,
            };
            let entry = Entry { user, number: pages.made, pending: true, reading: 0 };
            pages.users.insert(plan.username.clone(), entry);
            return Ok(Place { book: self.clone(), username: plan.username.clone(), kept: false });
        };
        Err(Error::Coded(429, refused))
    }
}

/// The place of a user that is being made. Dropped, it is free again.
#[must_use = "a place that is not kept is free again"]
pub struct Place {
    book: Arc<Book>,
    username: String,
    kept: bool,
}

impl Place {
    /// There is a user, or there may be one.
    pub fn keep(mut self) {
        self.kept = true;
        let mut pages = self.book.pages();
        let this = pages.readings;
        // One that has ended since is not in here.
        if let Some(entry) = pages.users.get_mut(&self.username) {
            (entry.pending, entry.reading) = (false, this);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            self.book.pages().users.remove(&self.username);
        }
    }
}

/// Before a user is made: takes a place for it, if anything counts.
///
/// # Errors
/// A coded one, 429, if there is none, which names the limit; [`Error::Failed`] if nobody can count.
pub async fn enter(
    mount: &Mount,
    limits: &Limits,
    connection: &Connection,
    plan: &MintPlan,
) -> Result<Option<Place>, Error> {
    let at_connection = connection.max_live_users;
    if !limits.counts() && at_connection == 0 {
        return Ok(None);
    }
    let name = &plan.marker.connection;
    let book = mount.caps.book(name);
    if !book.pages().known {
        book.read(mount, name, connection).await?;
    }
    let first = book.reserve(plan, limits, at_connection);
    let steady = mount.ports.clock.steady();
    if first.is_ok() || steady.saturating_sub(book.pages().read) < READ_AGAIN {
        return first.map(Some);
    }
    // Somebody may have dropped users by hand.
    book.read(mount, name, connection).await?;
    book.reserve(plan, limits, at_connection).map(Some)
}
