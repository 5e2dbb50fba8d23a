//! When which account is due, and the task that sees to it: accounts whose password is to change, and minted users that
//! are to end. One queue for each mount, in memory: everything in it can be found again in storage.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::Mount;
use crate::engine::error::Error;

/// How often the queue is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Connections that are worked at at once. Each has one change of a password at a time from here, so a slow database
/// delays no other.
const AT_ONCE: usize = 16;
/// The pause after the first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How long a mount that closes waits for changes that are under way. What does not end is settled by the next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of one account, by the key of its record.
#[derive(Debug, Clone)]
struct Item {
    connection: String,
    due: SystemTime,
    failures: u32,
    error: Option<String>,
    running: bool,
}

/// What a read shows.
#[derive(Debug, Clone)]
pub struct State {
    /// When the next attempt is made.
    pub due: SystemTime,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
}

/// The queue of a mount.
pub struct Queue {
    items: Mutex<Items>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Items {
    started: bool,
    /// Everything in storage is in here.
    loaded: bool,
    by_key: HashMap<String, Item>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            items: Mutex::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account is due at `due`, and all is well with it.
    pub fn plan(&self, key: &str, connection: &str, due: SystemTime) {
        let mut items = self.lock();
        let running = items.by_key.get(key).is_some_and(|item| item.running);
        let item = Item { connection: connection.to_owned(), due, failures: 0, error: None, running };
        items.by_key.insert(key.to_owned(), item);
    }

    /// An attempt failed: the next one follows after a pause that grows. Attempts that were made before a pause was over,
    /// which somebody asked for, do not lengthen it.
    pub fn failed(&self, key: &str, connection: &str, now: SystemTime, error: &str) {
        let mut items = self.lock();
        let before = items.by_key.get(key);
        let running = before.is_some_and(|item| item.running);
        let (failures, due) = match before {
            Some(item) if item.failures > 0 && item.due > now => (item.failures, item.due),
            _ => {
                let failures = before.map_or(0, |item| item.failures).saturating_add(1);
                (failures, now + pause(failures, rand::random()))
            }
        };
        let item = Item { connection: connection.to_owned(), due, failures, error: Some(error.to_owned()), running };
        items.by_key.insert(key.to_owned(), item);
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

    /// The task is never started: a test does its work.
    #[cfg(test)]
    pub(in crate::engine) fn by_hand(&self) {
        self.lock().started = true;
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
                            let (mount, permits, stop) = (mount.clone(), permits.clone(), stop.clone());
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
        self.permits.close();
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
    let now = mount.ports.clock.now();
    let (loaded, waiting) = {
        let items = queue.lock();
        (items.loaded, items.by_key.values().any(|item| !item.running && item.due <= now))
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
            let item = Item { connection, due, failures: 0, error: None, running: false };
            items.by_key.entry(key).and_modify(|known| known.due = known.due.min(due)).or_insert(item);
        }
    }
    let mut items = queue.lock();
    let busy: Vec<String> =
        items.by_key.values().filter(|item| item.running).map(|item| item.connection.clone()).collect();
    let mut groups: BTreeMap<String, Vec<(SystemTime, String)>> = BTreeMap::new();
    for (key, item) in &mut items.by_key {
        if item.due <= now && !item.running && !busy.contains(&item.connection) {
            item.running = true;
            groups.entry(item.connection.clone()).or_default().push((item.due, key.clone()));
        }
    }
    drop(items);
    let in_order = |mut keys: Vec<(SystemTime, String)>| {
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    };
    Ok(groups.into_values().map(|keys| Group { mount: mount.clone(), keys: in_order(keys) }).collect())
}

/// Works a group off, one account after the other. A failure ends the turn: the others are due again at once, and if it
/// is the database that is not well, each waits for its own pause.
pub async fn run(mount: &Mount, group: Group, stop: &CancellationToken) {
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
