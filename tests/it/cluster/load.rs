//! Clients that mint, renew, revoke and rotate, each request at any node, with one retry as a client would.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ACCOUNTS, MOUNTS, account};
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::random::Random;

/// How long a client waits before its one retry.
pub const PAUSE: Duration = Duration::from_millis(500);
/// So many credentials a client holds at most.
const MOST_HELD: usize = 12;

/// A credential that a client was given.
#[derive(Clone)]
pub struct Held {
    pub lease: String,
    pub username: String,
    pub password: String,
}

/// What came of it.
#[derive(Clone, Default)]
pub struct Tally {
    /// Credentials that nobody has given back.
    pub held: Vec<Held>,
    /// Users whose revocation was confirmed.
    pub ended: BTreeSet<String>,
    /// Reads of credentials, and other mints, that were answered.
    pub minted: usize,
    pub renewed: usize,
    pub revoked: usize,
    pub rotated: usize,
    /// Requests for a rotation, answered or not.
    pub rotations_sent: usize,
    pub read: usize,
    /// Requests that failed and were healed by the retry.
    pub healed: usize,
    /// Requests that failed twice.
    pub unhealed: usize,
    /// Mints of which nobody knows what came of them: there was no answer, or an error.
    pub unanswered: usize,
    pub complaints: Vec<String>,
    /// When something was answered last.
    last: Option<Instant>,
    /// The longest time without any answer.
    gap: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minted, renewed, revoked, rotated, read, healed, unhealed, unanswered, gap, .. } = self;
        write!(
            f,
            "{minted} mints, {renewed} renewals, {revoked} revocations, {rotated} rotations, {read} reads; failed once \
             {healed}, twice {unhealed}, mints without an answer {unanswered}; longest time without an answer {gap:.1?}"
        )
    }
}

/// The clients. They end with this value.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(cluster: &Cluster, threads: usize) -> Load {
        let (tally, stop) = (Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicBool::new(false)));
        let clients: Vec<Client> = (0..cluster.nodes.len()).map(|node| cluster.client(node)).collect();
        let mut random = Random::new(u64::from(std::process::id()));
        let threads = (0..threads).map(|_| {
            let worker = Worker {
                clients: clients.clone(),
                random: random.split(),
                held: Vec::new(),
                tally: tally.clone(),
                stop: stop.clone(),
            };
            std::thread::spawn(move || worker.run())
        });
        let threads = threads.collect();
        Load { tally, stop, threads }
    }

    /// Waits until something succeeds that began after `since`.
    #[track_caller]
    pub fn wait_for_success_after(&self, since: Instant, limit: Duration) {
        let asked = Instant::now();
        crate::support::wait_for("an answer", limit, || {
            self.tally.lock().unwrap().last.filter(|last| *last > since && *last > asked).map(drop)
        });
    }

    pub fn so_far(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Waits for the last answers.
    pub fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Worker {
    clients: Vec<Client>,
    random: Random,
    held: Vec<Held>,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            match self.random.below(10) {
                0..=3 if self.held.len() < MOST_HELD => self.mint(),
                4 | 5 if !self.held.is_empty() => self.renew(),
                6 if !self.held.is_empty() => self.revoke(),
                _ if self.held.len() == MOST_HELD => self.revoke(),
                7 => self.rotate(),
                _ => self.look(),
            }
        }
        self.tally.lock().unwrap().held.append(&mut self.held);
    }

    /// One request at one node, and if it fails another at another. `mints`: nobody knows what becomes of an error.
    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>, mints: bool) -> Option<Value> {
        let first = self.random.below(self.clients.len() as u64) as usize;
        let mut failed = None;
        for attempt in 0..2 {
            if path.contains("/rotate-role/") {
                self.tally.lock().unwrap().rotations_sent += 1;
            }
            let client = &self.clients[(first + attempt) % self.clients.len()];
            let answer = client.try_request(method, path, body, &[]);
            let why = match answer {
                Ok(answer) if matches!(answer.status, 200 | 204) => {
                    let mut tally = self.tally.lock().unwrap();
                    let now = Instant::now();
                    tally.gap = tally.gap.max(tally.last.map_or(Duration::ZERO, |last| now - last));
                    tally.last = Some(now);
                    tally.healed += attempt;
                    return Some(answer.body);
                }
                Ok(answer) => format!("{method} {path}: {} {}", answer.status, answer.body),
                Err(e) => format!("{method} {path}: {e}"),
            };
            if mints {
                self.tally.lock().unwrap().unanswered += 1;
            }
            failed = Some(why);
            if attempt == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        let mut tally = self.tally.lock().unwrap();
        tally.unhealed += 1;
        if tally.complaints.len() < 20 {
            tally.complaints.extend(failed);
        }
        None
    }

    fn mount(&mut self) -> usize {
        self.random.below(MOUNTS.len() as u64) as usize
    }

    fn mint(&mut self) {
        let mount = self.mount();
        let Some(answer) = self.ask("GET", &format!("{}/creds/app", MOUNTS[mount]), None, true) else { return };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.held.push(Held {
            lease: text(&answer["lease_id"]),
            username: text(&answer["data"]["username"]),
            password: text(&answer["data"]["password"]),
        });
        self.tally.lock().unwrap().minted += 1;
    }

    fn renew(&mut self) {
        let chosen = self.random.below(self.held.len() as u64) as usize;
        let body = json!({ "lease_id": self.held[chosen].lease });
        if self.ask("POST", "sys/leases/renew", Some(&body), false).is_some() {
            self.tally.lock().unwrap().renewed += 1;
        }
    }

    /// A revocation that failed may have happened: the credential is then neither held nor ended.
    fn revoke(&mut self) {
        let chosen = self.random.below(self.held.len() as u64) as usize;
        let held = self.held.swap_remove(chosen);
        let body = json!({ "lease_id": held.lease, "sync": true });
        if self.ask("POST", "sys/leases/revoke", Some(&body), false).is_some() {
            let mut tally = self.tally.lock().unwrap();
            tally.revoked += 1;
            tally.ended.insert(held.username);
        }
    }

    fn rotate(&mut self) {
        let (mount, place) = (self.mount(), self.random.below(ACCOUNTS as u64) as usize);
        let path = format!("{}/rotate-role/{}", MOUNTS[mount], account(mount, place));
        if self.ask("POST", &path, Some(&json!({})), false).is_some() {
            self.tally.lock().unwrap().rotated += 1;
        }
    }

    fn look(&mut self) {
        let (mount, place) = (self.mount(), self.random.below(ACCOUNTS as u64) as usize);
        let path = format!("{}/static-creds/{}", MOUNTS[mount], account(mount, place));
        if self.ask("GET", &path, None, false).is_some() {
            self.tally.lock().unwrap().read += 1;
        }
    }
}
