//! When which account is due, and the task that sees to it: accounts whose password is to change, and minted users that
//! are to end. One queue for each mount, in memory: everything in it can be found again in storage.
//!
//! What is due at one connection is worked off in [`Lane`]s, which do not wait for each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::error::Error;
use crate::engine::port::Clock;
use crate::engine::{Mount, database};
use crate::secret::password;

/// How often the queue is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Connections that are worked at at once in each lane. Each has one change of a password at a time from here, so a slow
/// database delays no other.
const AT_ONCE: usize = 16;
/// Users of one connection that are ended at once. The pool has the last word.
const ENDS_AT_ONCE: usize = 8;
/// How long a database has to answer before the users that wait for it are tried, and how often it may fail to until it is
/// left as long as its own settings allow.
const PROBE: Duration = Duration::from_secs(3);
const SHORT_PROBES: u32 = 3;
/// The pause between two probes, and what it becomes after [`PATIENT`] of them.
const BETWEEN_PROBES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
const PATIENT: u32 = 600;
/// The pause after the first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A wall clock that runs from the steady one by more than this between two looks was set.
const SET: Duration = Duration::from_secs(10);
/// How long a mount that closes waits for changes that are under way. What does not end is settled by the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kinds of work at a connection, each with a turn of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Passwords change, one after the other.
    Passwords,
    /// Users end, several at once.
    Ends,
    /// The connection itself is looked at.
    Sweeps,
}

impl Lane {
    const ALL: usize = 3;
}

/// What is known of one account, by the key of its record.
#[derive(Debug, Clone)]
struct Item {
    connection: String,
    due: SystemTime,
    /// When it was to be done first, before anything failed.
    wanted: SystemTime,
    failures: u32,
    error: Option<String>,
    running: bool,
    /// It failed because nobody was at home: it is due as soon as somebody is.
    away: bool,
}

impl Item {
    fn new(connection: &str, due: SystemTime, running: bool) -> Self {
        Self { connection: connection.to_owned(), due, wanted: due, failures: 0, error: None, running, away: false }
    }
}

/// What a read shows.
#[derive(Debug, Clone)]
pub struct State {
    /// When the next attempt is made.
    pub due: SystemTime,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// One piece of work in the queue.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The key of its record.
    pub key: String,
    /// Its connection; empty if nobody knows.
    pub connection: String,
    /// When the next attempt is made.
    pub due: SystemTime,
    /// When it was to be done first; 1970 for what a process that died has left.
    pub wanted: SystemTime,
    /// How often it has failed since.
    pub failures: u32,
    /// Why, the last time.
    pub error: Option<String>,
    /// It is being done.
    pub running: bool,
}

/// The queue of a mount.
pub struct Queue {
    clock: Arc<dyn Clock>,
    items: Mutex<Items>,
    permits: [Arc<Semaphore>; Lane::ALL],
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Items {
    started: bool,
    /// Everything in storage is in here.
    loaded: bool,
    by_key: HashMap<String, Item>,
    /// Connections that did not answer when users were to be ended.
    silent: HashMap<String, Silence>,
    /// What the clocks said when the queue was last looked at.
    seen: Option<(SystemTime, Duration)>,
}

impl Items {
    /// Somebody has set the wall clock since the last look: pauses that were counted by it are over. Ends and sweeps find
    /// out for themselves whether it is their time.
    fn look_at(&mut self, clock: &dyn Clock) {
        let (now, steady) = (clock.now(), clock.steady());
        if let Some((wall, before)) = self.seen.replace((now, steady)) {
            let wanted = wall + steady.saturating_sub(before);
            let off = now.duration_since(wanted).or_else(|_| wanted.duration_since(now)).unwrap_or_default();
            if off > SET {
                tracing::warn!(seconds = off.as_secs(), "somebody has set the clock: what waits is looked at again");
                self.loaded = false;
                self.silent.clear();
                let waits = |key: &str, item: &Item| item.failures > 0 || database::lane(key) != Lane::Passwords;
                for (_, item) in self.by_key.iter_mut().filter(|(key, item)| waits(key, item)) {
                    item.due = item.due.min(now);
                }
            }
        }
    }
}

/// A connection that does not answer.
#[derive(Debug, Clone, Copy)]
struct Silence {
    probes: u32,
    until: SystemTime,
}

impl Queue {
    /// An empty one, whose times are told by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            items: Mutex::new(Items { seen: Some((clock.now(), clock.steady())), ..Items::default() }),
            clock,
            permits: std::array::from_fn(|_| Arc::new(Semaphore::new(AT_ONCE))),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The clocks are compared each time, so that nothing is planned by a wall clock that nobody has seen.
    fn lock(&self) -> MutexGuard<'_, Items> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.look_at(self.clock.as_ref());
        items
    }

    /// The account is due at `due`, and all is well with it.
    pub fn plan(&self, key: &str, connection: &str, due: SystemTime) {
        let mut items = self.lock();
        let running = items.by_key.get(key).is_some_and(|item| item.running);
        items.by_key.insert(key.to_owned(), Item::new(connection, due, running));
    }

    /// An attempt failed: the next one follows after a pause that grows. Attempts that were made before a pause was over,
    /// which somebody asked for, do not lengthen it.
    pub fn failed(&self, key: &str, connection: &str, now: SystemTime, error: &str) {
        let mut items = self.lock();
        let now = self.since(now);
        let before = items.by_key.get(key);
        let running = before.is_some_and(|item| item.running);
        let (failures, due) = match before {
            Some(item) if item.failures > 0 && item.due > now => (item.failures, item.due),
            _ => {
                let failures = before.map_or(0, |item| item.failures).saturating_add(1);
                (failures, now + pause(failures, password::number() as u8))
            }
        };
        let wanted = before.map_or(now, |item| item.wanted);
        let item = Item { wanted, failures, error: Some(error.to_owned()), ..Item::new(connection, due, running) };
        items.by_key.insert(key.to_owned(), item);
    }

    /// Brings the next attempt forward, if it is later than that.
    pub fn no_later_than(&self, key: &str, latest: SystemTime) {
        if let Some(item) = self.lock().by_key.get_mut(key) {
            item.due = item.due.min(latest);
        }
    }

    /// From when a pause counts that began at `now`: the clock may have been set back since.
    fn since(&self, now: SystemTime) -> SystemTime {
        now.min(self.clock.now())
    }

    /// An attempt failed because the database was away: the next one follows as soon as it answers. If it does answer, and
    /// only this keeps failing, after a pause that grows.
    pub fn away(&self, key: &str, connection: &str, now: SystemTime, error: &str) {
        let mut items = self.lock();
        let now = self.since(now);
        let before = items.by_key.get(key);
        let (failures, running) = before.map_or((0, false), |item| (item.failures, item.running));
        let wanted = before.map_or(now, |item| item.wanted);
        let due = now + BETWEEN_PROBES.0.saturating_mul(1 << failures.min(5));
        let failures = failures.saturating_add(1);
        let error = Some(error.to_owned());
        let item = Item { wanted, failures, error, away: true, ..Item::new(connection, due, running) };
        items.by_key.insert(key.to_owned(), item);
    }

    /// The database answers again: whoever waited for that is due.
    fn back(&self, connection: &str, now: SystemTime) {
        let mut items = self.lock();
        items.silent.remove(connection);
        for item in items.by_key.values_mut().filter(|item| item.away && item.connection == connection) {
            (item.due, item.failures) = (item.due.min(now), 0);
        }
    }

    /// The account is looked at again at `due`, whatever it is then.
    pub fn postpone(&self, key: &str, due: SystemTime) {
        if let Some(item) = self.lock().by_key.get_mut(key) {
            item.due = due;
        }
    }

    /// True if the last attempt failed.
    pub fn has_failed(&self, key: &str) -> bool {
        self.lock().by_key.get(key).is_some_and(|item| item.failures > 0)
    }

    /// The account is not ours any more.
    pub fn forget(&self, key: &str) {
        self.lock().by_key.remove(key);
    }

    /// Storage changed without us: everything is read again.
    pub fn outdated(&self) {
        self.lock().loaded = false;
    }

    /// What is known of an account.
    pub fn state(&self, key: &str) -> Option<State> {
        self.lock().by_key.get(key).map(|item| State { due: item.due, error: item.error.clone() })
    }

    /// All that is in it.
    pub fn all(&self) -> Vec<Waiting> {
        let items = self.lock();
        let waiting = items.by_key.iter().map(|(key, item)| Waiting {
            key: key.clone(),
            connection: item.connection.clone(),
            due: item.due,
            wanted: item.wanted,
            failures: item.failures,
            error: item.error.clone(),
            running: item.running,
        });
        waiting.collect()
    }

    /// The task is never started: a test does its work.
    #[cfg(test)]
    pub(in crate::engine) fn by_hand(&self) {
        self.lock().started = true;
    }

    /// When the next look is worth its while; `None` if nothing is known.
    #[cfg(test)]
    pub(in crate::engine) fn next(&self) -> Option<SystemTime> {
        let items = self.lock();
        if !items.loaded {
            return Some(SystemTime::UNIX_EPOCH);
        }
        items.by_key.values().filter(|item| !item.running).map(|item| item.due).min()
    }

    /// Starts the task, once.
    pub(in crate::engine) fn start(&self, mount: &Mount) {
        if std::mem::replace(&mut self.lock().started, true) {
            return;
        }
        let (mount, stop, tasks, permits) = (mount.weak(), self.stop.clone(), self.tasks.clone(), self.permits.clone());
        tokio::spawn(async move {
            let mut clock = tokio::time::interval(TICK);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut unwell = false;
            loop {
                tokio::select! {
                    _ = clock.tick() => {}
                    () = stop.cancelled() => return,
                }
                let Some(mount) = mount.upgrade() else { return };
                match due(&mount).await {
                    Ok(groups) => {
                        unwell = false;
                        for group in groups {
                            let permits = permits[group.lane as usize].clone();
                            let (mount, stop) = (mount.clone(), stop.clone());
                            tasks.spawn(async move {
                                let Ok(_permit) = permits.acquire().await else { return };
                                run(&mount, group, &stop).await;
                            });
                        }
                    }
                    Err(e) if !unwell => {
                        unwell = true;
                        tracing::warn!("cannot see what is due: {e}");
                    }
                    Err(_) => {}
                }
            }
        });
    }

    /// Ends the task, and waits a little for what it has begun.
    pub async fn close(&self) {
        self.stop.cancel();
        self.permits.iter().for_each(|permits| permits.close());
        self.tasks.close();
        if tokio::time::timeout(PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!(changes = self.tasks.len(), "a mount is closed in the middle of password changes");
        }
    }
}

/// 10 s, 20 s, … 10 min, each shorter or longer by up to a fifth, so that accounts that failed together do not come back
/// together.
fn pause(failures: u32, random: u8) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    doubled.mul_f64(0.8 + 0.4 * f64::from(random) / 255.0)
}

/// Accounts of one connection that are due. Until it is dropped nobody else takes them.
pub struct Group {
    mount: Mount,
    connection: String,
    lane: Lane,
    keys: Vec<String>,
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut items = self.mount.rotation.queue.lock();
        for key in &self.keys {
            if let Some(item) = items.by_key.get_mut(key) {
                item.running = false;
            }
        }
    }
}

/// What is due now, by connection. Nothing on a node that must not act.
pub async fn due(mount: &Mount) -> Result<Vec<Group>, Error> {
    let queue = &mount.rotation.queue;
    let (now, loaded, waiting) = {
        let now = mount.ports.clock.now();
        let items = queue.lock();
        (now, items.loaded, items.by_key.values().any(|item| !item.running && item.due <= now))
    };
    if loaded && !waiting {
        return Ok(Vec::new());
    }
    if mount.ports.host.is_standby().await? {
        queue.outdated();
        return Ok(Vec::new());
    }
    if !loaded {
        // What changes while it is read is read again.
        queue.lock().loaded = true;
        let read = mount.scheduled().await.inspect_err(|_| queue.outdated())?;
        let mut items = queue.lock();
        for (key, connection, due) in read {
            let item = Item::new(&connection, due, false);
            // A user that could not be ended waits for its pause.
            let waits = database::lane(&key) == Lane::Ends;
            let sooner = |known: &mut Item| {
                if known.failures == 0 || !waits {
                    known.due = known.due.min(due);
                    // What was left behind counts as such, though its account has a time of its own.
                    known.wanted = known.wanted.min(due);
                }
            };
            items.by_key.entry(key).and_modify(sooner).or_insert(item);
        }
    }
    let mut items = queue.lock();
    let Items { by_key, silent, .. } = &mut *items;
    let mut busy: HashSet<(String, Lane)> = by_key
        .iter()
        .filter(|(_, item)| item.running)
        .map(|(key, item)| (item.connection.clone(), database::lane(key)))
        .collect();
    let silences = silent.iter().filter(|(_, silence)| silence.until > now);
    busy.extend(silences.map(|(connection, _)| (connection.clone(), Lane::Ends)));
    let mut groups: BTreeMap<(String, Lane), Vec<(SystemTime, String)>> = BTreeMap::new();
    for (key, item) in by_key {
        let place = (item.connection.clone(), database::lane(key));
        if item.due <= now && !item.running && !busy.contains(&place) {
            item.running = true;
            groups.entry(place).or_default().push((item.due, key.clone()));
        }
    }
    drop(items);
    let in_order = |mut keys: Vec<(SystemTime, String)>| {
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    };
    let group = |((connection, lane), keys)| Group { mount: mount.clone(), connection, lane, keys: in_order(keys) };
    Ok(groups.into_iter().map(group).collect())
}

/// Works a group off. Passwords: one account after the other; a failure ends the turn: the others are due again at once,
/// and if it is the database that is not well, each waits for its own pause. Users: several at once, as soon as the
/// database answers at all.
pub async fn run(mount: &Mount, group: Group, stop: &CancellationToken) {
    if group.lane == Lane::Ends {
        return end_all(mount, &group, stop).await;
    }
    for key in &group.keys {
        if stop.is_cancelled() {
            return;
        }
        if let Err(e) = mount.when_due(key).await {
            tracing::warn!(account = key, "what is due could not be done: {e}");
            return;
        }
    }
}

/// Ends the users of a group. While the database does not answer nobody is tried: all stay due, and a probe each second
/// or so finds out when it is back.
async fn end_all(mount: &Mount, group: &Group, stop: &CancellationToken) {
    let queue = &mount.rotation.queue;
    let silence = queue.lock().silent.get(&group.connection).copied();
    let probes = silence.map_or(0, |silence| silence.probes);
    // Mostly short ones: what was sent into the void is not answered when the database comes back.
    let patience = (probes % (SHORT_PROBES + 1) < SHORT_PROBES).then_some(PROBE);
    if let Err(why) = database::answers(mount, &group.connection, patience).await {
        if probes == 0 {
            tracing::warn!(connection = group.connection, users = group.keys.len(), "users wait to be ended: {why}");
        }
        let pause = if probes < PATIENT { BETWEEN_PROBES.0 } else { BETWEEN_PROBES.1 };
        let silence = Silence { probes: probes.saturating_add(1), until: mount.ports.clock.now() + pause };
        queue.lock().silent.insert(group.connection.clone(), silence);
        return;
    }
    if silence.is_some() {
        queue.back(&group.connection, mount.ports.clock.now());
        tracing::info!(connection = group.connection, users = group.keys.len(), "the database answers: ending users");
    }
    let gone = AtomicBool::new(false);
    let end = async |key: &String| {
        if stop.is_cancelled() || gone.load(Ordering::Relaxed) {
            return;
        }
        if let Err(trouble) = database::end_due(mount, key).await {
            // If it is gone again, those that were not tried stay due, and the next probe finds out.
            gone.fetch_or(trouble.outage, Ordering::Relaxed);
            tracing::warn!(account = key, "a user could not be ended: {trouble}");
        }
    };
    futures_util::stream::iter(&group.keys).for_each_concurrent(ENDS_AT_ONCE, end).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let seconds = |failures| pause(failures, 128).as_secs();
        assert_eq!((seconds(1), seconds(2), seconds(3)), (10, 20, 40));
        assert_eq!(seconds(50), 600);
        assert_eq!((pause(1, 0).as_secs(), pause(1, 255).as_secs()), (8, 12));
    }
}
