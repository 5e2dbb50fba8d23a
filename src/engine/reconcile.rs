//! What a target has against what the mount knows: users of ours whose time is over and that nobody has ended.
//!
//! The host ends leases; this is for when it does not: it lost the lease, gave up, or died between the user and the lease.
//! Users that carry a marker are found at the target; of the others there is a note in storage, which has its own place in
//! the queue. `reconcile/:name` shows both, and does at once what the tick would do.
//!
//! A user is ours if its marker names this mount, this connection and this very user, and carries this mount's seal.
//! Anything else is somebody's, whatever it is called and whatever its comment says, and is not touched.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::clocks;
use super::database::connection::{self, Config, Connection};
use super::end::{self, Doomed};
use super::error::Error;
use super::intent::{self, Intent, Unfinished, unix_seconds};
use super::remnant::{self, instant};
use super::request::{Reply, Response};
use super::{Mount, marker, transit};
use crate::secret::password;
use crate::target::Marked;

/// In the queue: a connection that is to be looked at.
pub const PREFIX: &str = "sweep/";

/// How often each is.
const PERIOD: Duration = Duration::from_secs(60);
/// How soon again, if a user's time is over before.
const SOONEST: Duration = Duration::from_secs(15);
/// How soon again, if an answer did not arrive and its user may still be in the making; then twice as long.
const LOST: Duration = Duration::from_secs(5);
/// How soon by a process that has just begun.
const FIRST: Duration = Duration::from_secs(2);
/// Looking takes at most this part of the time, and this one while an answer that did not arrive is looked for.
const SHARE: u32 = 50;
const SHARE_OF_LOST: u32 = 10;
/// The longest lease of a host that nobody has configured.
const LONGEST: Duration = Duration::from_secs(32 * 24 * 3600);
/// So many at once, and most of all there are, is more than a host leaves behind: it may be the clock.
const MANY: usize = 20;

/// Why a user is to end.
const OVERDUE: &str = "it outlived its lease";
/// Why one is not touched that says it is ours.
const FORGED: &str = "its comment was not written by this mount";
const LEFT: &str = "it was left by a mint that did not come to its end";
/// Why one is left alone.
const MAKING: &str = "it is being made";
/// Why a user is to end.
const ANSWER_LOST: &str = "the process that made it died before the host had the answer";

/// The key of a connection in the queue.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// A connection is looked at as soon as may be.
pub fn soon(mount: &Mount, name: &str) {
    mount.rotation.queue.plan(&key(name), name, mount.ports.clock.now());
}

/// What is to be done with a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// End it.
    End,
    /// Nothing: somebody else sees to it, or it is not certain.
    Wait,
    /// Nothing: it is as it should be, or nobody's business here.
    Leave,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Wait => "wait",
            Self::Leave => "leave",
        }
    }
}

/// A user about which there is something to say.
#[derive(Debug)]
struct Finding {
    user: Doomed,
    expires: u64,
    why: String,
    action: Action,
}

/// What was seen at a connection.
#[derive(Debug)]
struct Look {
    findings: Vec<Finding>,
    /// Users of ours, those of the findings among them.
    users: usize,
    /// When the next one's time is over.
    next: Option<SystemTime>,
    /// When the oldest was made, unix seconds.
    oldest: Option<u64>,
}

impl Look {
    fn count(&mut self, begun: u64) {
        self.users += 1;
        // Nobody wrote it down of the oldest ones of all.
        self.oldest = Some(begun).filter(|begun| *begun > 0).into_iter().chain(self.oldest).min();
    }
}

/// What the last look at a connection showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When.
    pub at: SystemTime,
    /// Users of this mount that are there.
    pub users: usize,
    /// Those of them whose lease is over.
    pub overdue: usize,
    /// When the oldest of them was made, unix seconds.
    pub oldest: Option<u64>,
}

/// The last looks, by connection.
#[derive(Default)]
pub struct Sights(Mutex<HashMap<String, Sight>>);

impl Sights {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, mount: &Mount, name: &str, look: &Look) {
        let overdue = look.findings.iter().filter(|finding| finding.why.starts_with(OVERDUE)).count();
        let sight = Sight { at: mount.ports.clock.now(), users: look.users, overdue, oldest: look.oldest };
        self.put(name, sight);
    }

    /// What somebody else has seen.
    pub fn put(&self, name: &str, sight: Sight) {
        self.lock().insert(name.to_owned(), sight);
    }

    /// What the last look at a connection showed; `None` before the first.
    pub fn last(&self, name: &str) -> Option<Sight> {
        self.lock().get(name).copied()
    }

    /// The connection is gone.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }
}

/// Every connection, and when it is due.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let names = mount.ports.storage.list(connection::PREFIX, "", -1).await?;
    let due = mount.ports.clock.now() + FIRST;
    Ok(names.into_iter().map(|name| (key(&name), name, due)).collect())
}

/// Asked by the queue: looks at a connection and ends what is to end.
pub async fn when_due(mount: &Mount, name: &str) {
    let (queue, begun) = (&mount.rotation.queue, mount.ports.clock.steady());
    if !matches!(Config::load(mount, name).await, Ok(Some(_)) | Err(_)) {
        queue.forget(&key(name));
        return;
    }
    let mut has_marked_users = false;
    let looked = match mount.connections.get(mount, name).await {
        // What has notes has its own places in the queue, but for what they cannot know.
        Ok(connection) if !connection.driver.keeps_marker() => of_lost_requests(mount, name).await,
        Ok(connection) => {
            has_marked_users = true;
            look_at_markers(mount, name, &connection).await
        }
        Err(e) => Err(e),
    };
    let took = mount.ports.clock.steady().saturating_sub(begun);
    let now = mount.ports.clock.now();
    let mut share = SHARE;
    let mut pause = PERIOD.mul_f64(0.8 + 0.4 * (password::number() as f64 / u64::MAX as f64));
    match looked {
        Ok(look) => {
            if has_marked_users {
                mount.sights.seen(mount, name, &look);
            }
            if let Some(next) = look.next {
                let over = next + intent::GRACE + Duration::from_secs(1);
                let until = over.duration_since(now).unwrap_or_default();
                pause = pause.min(until.max(SOONEST));
            }
            for finding in look.findings.into_iter().filter(|finding| finding.action == Action::End) {
                let (username, role) = (finding.user.username.clone(), finding.user.role.clone());
                match end::end(mount, finding.user).await {
                    Ok(report) if !report.existed => {}
                    Ok(_) => tracing::warn!(username, role, connection = name, "ended a user: {}", finding.why),
                    // It is a remnant.
                    Err(trouble) => {
                        tracing::warn!(username, role, connection = name, "must end: {}; {trouble}", finding.why);
                    }
                }
            }
            if let Some(known_for) = transit::looked(mount, name) {
                pause = pause.min(known_for.max(LOST));
                share = SHARE_OF_LOST;
            }
        }
        Err(e) => tracing::debug!(connection = name, "cannot be looked at: {e}"),
    }
    // It may have been set meanwhile.
    let now = mount.ports.clock.now();
    queue.plan(&key(name), name, now + pause.max(took * share));
}

async fn look(mount: &Mount, name: &str) -> Result<Look, Error> {
    let connection = mount.connections.get(mount, name).await?;
    let look = if connection.driver.keeps_marker() {
        look_at_markers(mount, name, &connection).await?
    } else {
        look_at_notes(mount, name, &connection).await?
    };
    mount.sights.seen(mount, name, &look);
    Ok(look)
}

/// Looks at a connection now, for somebody who only wants to know.
///
/// # Errors
/// Why the database or storage did not answer.
pub async fn sight(mount: &Mount, name: &str) -> Result<Option<Sight>, Error> {
    look(mount, name).await?;
    Ok(mount.sights.last(name))
}

/// The time by which users of the connection end; `None` is one that cannot be had.
pub async fn certain_time(mount: &Mount, connection: Option<&Connection>) -> SystemTime {
    let clock = mount.ports.clock.as_ref();
    let database = match connection {
        Some(connection) => connection.target.clock().await.unwrap_or_else(|e| {
            tracing::debug!("a database does not say what time it is: {e}");
            None
        }),
        None => None,
    };
    // Whoever cannot be asked allows what hosts allow by themselves.
    let longest = mount.ports.host.max_lease_ttl().await.unwrap_or(LONGEST);
    let certain = mount.clocks.certain(clock, database, longest);
    if clock.now().duration_since(certain).is_ok_and(|ahead| ahead > Duration::from_secs(1)) {
        tracing::warn!(
            certain = %instant(unix_seconds(certain)),
            wall = %instant(unix_seconds(clock.now())),
            "clocks do not agree: no user is ended before its time by the earliest of them"
        );
    }
    certain
}

/// The time up to which a user may have ended to be ended now. The host has its turn first.
fn overdue_since(certain: SystemTime) -> u64 {
    unix_seconds(certain.checked_sub(intent::GRACE).unwrap_or(SystemTime::UNIX_EPOCH))
}

async fn look_at_markers(mount: &Mount, name: &str, connection: &Connection) -> Result<Look, Error> {
    let marked = connection.target.marked(&mount.id).await.map_err(|e| Error::Failed(e.to_string()))?;
    let limit = overdue_since(certain_time(mount, Some(connection)).await);
    // After the users: a request that comes again is taken off before it makes one.
    let lost = transit::requests(mount, name);
    let mut look = Look { findings: Vec::new(), users: 0, next: None, oldest: None };
    let mut elsewhere = Elsewhere::default();
    for Marked { username, marker, barred } in marked {
        let user = Doomed {
            username,
            role: marker.role.clone(),
            db_name: name.to_owned(),
            entity: marker.entity.clone(),
            ..Doomed::default()
        };
        let expires = marker.expires;
        let finding = |user, why: &str, action| Finding { user, expires, why: why.to_owned(), action };
        if !marker::is_ours(mount, &user.username, &marker).await? {
            look.findings.push(finding(user, FORGED, Action::Leave));
            continue;
        }
        if elsewhere.has(mount, name, &marker.connection).await? {
            continue;
        }
        look.count(marker.begun);
        let is_remnant = mount.rotation.queue.state(&remnant::key_of(&user)).is_some();
        if is_remnant {
            look.findings.push(finding(user, "its end is not over: see remnants/", Action::Wait));
        } else if lost.contains(&marker.request) {
            look.findings.push(finding(user, ANSWER_LOST, Action::End));
        } else if expires <= limit {
            if barred && remnant::is_accepted(mount, &user).await? {
                look.findings.push(finding(user, "what is left of it was accepted", Action::Leave));
            } else {
                look.findings.push(finding(user, OVERDUE, Action::End));
            }
        } else {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(expires);
            look.next = Some(look.next.map_or(at, |next| next.min(at)));
        }
    }
    hold_back(mount, &mut look);
    Ok(look)
}

/// A young process that finds most users overdue does not trust its clock, until the host has had the time to end what it
/// thinks is over.
fn hold_back(mount: &Mount, look: &mut Look) {
    let overdue = look.findings.iter().filter(|finding| finding.why == OVERDUE).count();
    let young = mount.clocks.age(mount.ports.clock.as_ref()) < clocks::BELIEVED;
    if !young || overdue <= MANY || overdue * 2 <= look.users {
        return;
    }
    tracing::warn!(
        overdue,
        users = look.users,
        "most users have outlived their leases: it may be the clock, so the host is waited for"
    );
    let overdue = |finding: &&mut Finding| finding.action == Action::End && finding.why == OVERDUE;
    for finding in look.findings.iter_mut().filter(overdue) {
        finding.action = Action::Wait;
        finding.why += ", as most here did: it may be the clock";
    }
}

/// Users of requests whose answers did not arrive, by their notes.
async fn of_lost_requests(mount: &Mount, name: &str) -> Result<Look, Error> {
    let mut look = Look { findings: Vec::new(), users: 0, next: None, oldest: None };
    for request in transit::requests(mount, name) {
        for key in intent::of_request(mount, &request).await? {
            // A request that has come again since is not lost, and what there is now is somebody's.
            if let Some(note) = Intent::load(mount.ports.storage.as_ref(), &key).await?
                && transit::is_lost(mount, name, &request)
            {
                let (user, why, action) = (note.doomed_now(&key), ANSWER_LOST.to_owned(), Action::End);
                look.findings.push(Finding { user, expires: note.expires, why, action });
            }
        }
    }
    Ok(look)
}

async fn look_at_notes(mount: &Mount, name: &str, connection: &Connection) -> Result<Look, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut notes = Vec::new();
    for id in storage.list(intent::PREFIX, "", -1).await? {
        let key = format!("{}{id}", intent::PREFIX);
        match Intent::load(storage, &key).await {
            Ok(Some(note)) if note.db_name == name => notes.push((key, note)),
            Ok(_) => {}
            Err(e) => tracing::error!("{e}"),
        }
    }
    // After the notes: one that was written once the clock was set back is not judged by what it said before.
    let limit = overdue_since(certain_time(mount, Some(connection)).await);
    let now = mount.ports.clock.now();
    let names: Vec<String> = notes.iter().map(|(_, note)| note.username.clone()).collect();
    let present = connection.target.present(&names).await.map_err(|e| Error::Failed(e.to_string()))?;
    let present: BTreeSet<String> = present.into_iter().collect();
    let lost = of_lost_requests(mount, name).await?;
    let mut look = lost;
    notes.iter().for_each(|(_, note)| look.count(note.begun));
    let lost: BTreeSet<String> = look.findings.iter().map(|finding| finding.user.username.clone()).collect();
    for (key, mut note) in notes {
        if lost.contains(&note.username) {
            continue;
        }
        if !note.made {
            // Held by the mint itself. One that is over by now has said so in its note.
            let Some(_lock) = mount.rotation.locks.try_hold(&key) else {
                look.findings.push(of_note(note.doomed_now(&key), &note, MAKING, Action::Wait));
                continue;
            };
            match Intent::load(storage, &key).await? {
                Some(now) => note = now,
                None => continue,
            }
        }
        let unfinished = (!note.made).then(|| note.unfinished(mount, now));
        let (why, action) = match unfinished {
            None if note.expires <= limit => (OVERDUE, Action::End),
            None if !present.contains(&note.username) => ("it is gone, but its lease lives", Action::Leave),
            None => continue,
            Some(Unfinished::Over | Unfinished::MayBeMade(_)) => (LEFT, Action::End),
            Some(Unfinished::Early(_)) => (MAKING, Action::Wait),
        };
        let user = match unfinished {
            None | Some(Unfinished::Over) => note.doomed(&key),
            Some(Unfinished::MayBeMade(_) | Unfinished::Early(_)) => note.doomed_now(&key),
        };
        look.findings.push(of_note(user, &note, why, action));
    }
    hold_back(mount, &mut look);
    Ok(look)
}

fn of_note(user: Doomed, note: &Intent, why: &str, action: Action) -> Finding {
    Finding { user, expires: note.expires, why: why.to_owned(), action }
}

/// Which connections there are, asked once each.
#[derive(Default)]
struct Elsewhere {
    others: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl Elsewhere {
    /// True if the users of `connection` are another's to look after. Those of one that is gone are everybody's.
    async fn has(&mut self, mount: &Mount, own: &str, connection: &str) -> Result<bool, Error> {
        if connection == own || self.gone.contains(connection) {
            return Ok(false);
        }
        if !self.others.contains(connection) {
            let there = Config::load(mount, connection).await?.is_some();
            let known = if there { &mut self.others } else { &mut self.gone };
            known.insert(connection.to_owned());
            return Ok(there);
        }
        Ok(true)
    }
}

/// GET `reconcile/:name`: what would be done.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    answer(mount, name, false).await
}

/// POST `reconcile/:name`: does it.
pub async fn write(mount: &Mount, name: &str) -> Reply {
    answer(mount, name, true).await
}

async fn answer(mount: &Mount, name: &str, act: bool) -> Reply {
    // The sessions that count, and what is under way, are those of the active node.
    mount.refuse_on_standby().await?;
    if Config::load(mount, name).await?.is_none() {
        return Err(connection::missing(name));
    }
    let look = look(mount, name).await?;
    let mut users = Vec::new();
    for finding in look.findings {
        let result = match (act, finding.action) {
            (true, Action::End) => match end::end(mount, finding.user.clone()).await {
                Ok(report) => json!(report.verdict()),
                Err(trouble) => json!(format!("error: {trouble}")),
            },
            _ => Value::Null,
        };
        users.push(json!({
            "username": finding.user.username,
            "role": finding.user.role,
            "entity": finding.user.entity,
            "expires": instant(finding.expires),
            "why": finding.why,
            "action": finding.action.name(),
            "suspicious": finding.why == FORGED,
            "result": result,
        }));
    }
    Ok(Some(Response::data([("acted", json!(act)), ("count", json!(look.users)), ("users", json!(users))])))
}
