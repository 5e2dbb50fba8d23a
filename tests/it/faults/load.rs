//! Who mints, renews and revokes all the time, and remembers what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::world::World;
use crate::support::client::Client;
use crate::support::random::Random;

/// A credential that somebody was given.
#[derive(Debug, Clone)]
pub struct Given {
    pub lease: String,
    pub user: String,
    pub password: String,
    /// Until when it was promised.
    pub until: Instant,
}

/// What the threads know.
#[derive(Default)]
pub struct Ledger {
    /// Given, and nobody has asked for their end.
    pub live: Vec<Given>,
    /// Their end was asked for, and confirmed.
    pub gone: BTreeSet<String>,
    /// Their end was asked for; what came of it nobody knows.
    pub unsure: Vec<Given>,
    /// When mints were answered, and how long they took.
    pub mints: Vec<(Instant, Duration)>,
    pub renewed: u64,
    /// Found missing before their time, and before anybody asked for their end.
    pub lost: Vec<String>,
    /// By their first words.
    pub errors: BTreeMap<String, u64>,
}

impl Ledger {
    /// How long mints took between two moments: at the median, at the 99th percentile, and at most; and how many they were.
    pub fn mints_between(&self, from: Instant, to: Instant) -> Latency {
        let among = self.mints.iter().filter(|(at, _)| (from..to).contains(at));
        Latency::of(among.map(|(_, took)| *took).collect())
    }

    fn error(&mut self, text: &str) {
        // What differs from one to the next is not counted apart.
        let kind: String = text.chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
        *self.errors.entry(kind).or_default() += 1;
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    pub count: usize,
    pub median: Duration,
    pub p99: Duration,
    pub most: Duration,
}

impl Latency {
    pub fn of(mut all: Vec<Duration>) -> Latency {
        all.sort();
        let at = |share: f64| all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1))).copied();
        let at = |share| at(share).unwrap_or_default();
        Latency { count: all.len(), median: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mints, p50 {:.1?}, p99 {:.1?}, at most {:.1?}", self.count, self.median, self.p99, self.most)
    }
}

/// What the threads do, in parts of their time.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub threads: usize,
    pub mint: u64,
    pub renew: u64,
    pub revoke: u64,
    /// After each.
    pub pause: Duration,
}

/// The threads. They end with this value.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    ended: AtomicBool,
    ledger: Mutex<Ledger>,
    role: String,
    mix: Mix,
}

impl Load {
    pub fn start(world: &World, role: &str, mix: Mix, random: &mut Random) -> Load {
        let shared =
            Arc::new(Shared { ended: AtomicBool::new(false), ledger: Mutex::default(), role: role.to_owned(), mix });
        let threads = (0..mix.threads).map(|_| {
            let (client, shared, random) = (world.client(), shared.clone(), random.split());
            std::thread::spawn(move || work(&client, &shared, random))
        });
        Load { threads: threads.collect(), shared }
    }

    /// When the first mint after `since` was answered, if one was.
    pub fn first_mint_after(&self, since: Instant) -> Option<Instant> {
        let ledger = self.shared.ledger.lock().unwrap();
        ledger.mints.iter().map(|(at, _)| *at).filter(|at| *at > since).min()
    }

    pub fn count(&self) -> usize {
        self.shared.ledger.lock().unwrap().mints.len()
    }

    /// Waits for the last answers.
    pub fn end(self) -> Ledger {
        let shared = self.shared.clone();
        drop(self);
        std::mem::take(&mut *shared.ledger.lock().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(client: &Client, shared: &Shared, mut random: Random) {
    let Mix { mint, renew, revoke, pause, .. } = shared.mix;
    while !shared.ended.load(Ordering::SeqCst) {
        let chosen = random.below(mint + renew + revoke);
        if chosen < mint {
            mint_one(client, shared);
        } else if chosen < mint + renew {
            renew_one(client, shared, &mut random);
        } else {
            revoke_one(client, shared, &mut random);
        }
        std::thread::sleep(pause);
    }
}

/// The body of a 200 or 204.
fn ask(
    client: &Client,
    shared: &Shared,
    method: &str,
    path: &str,
    body: Option<serde_json::Value>,
) -> Result<serde_json::Value, String> {
    let text = match client.try_request(method, path, body.as_ref(), &[]) {
        Ok(answer) if matches!(answer.status, 200 | 204) => return Ok(answer.body),
        Ok(answer) => answer.body["errors"][0].as_str().unwrap_or_default().replace('\n', " "),
        Err(error) => format!("HTTP: {error}"),
    };
    shared.ledger.lock().unwrap().error(&text);
    Err(text)
}

pub fn given(body: &serde_json::Value, begin: Instant) -> Given {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    Given {
        lease: text(&body["lease_id"]),
        user: text(&body["data"]["username"]),
        password: text(&body["data"]["password"]),
        until: begin + Duration::from_secs(body["lease_duration"].as_u64().unwrap()),
    }
}

fn mint_one(client: &Client, shared: &Shared) {
    let begin = Instant::now();
    let Ok(body) = ask(client, shared, "GET", &format!("database/creds/{}", shared.role), None) else { return };
    let given = given(&body, begin);
    let mut ledger = shared.ledger.lock().unwrap();
    ledger.mints.push((Instant::now(), begin.elapsed()));
    ledger.live.push(given);
}

/// One that is not about to end; nobody else has it meanwhile.
fn take(shared: &Shared, random: &mut Random) -> Option<Given> {
    let mut ledger = shared.ledger.lock().unwrap();
    let number = ledger.live.len() as u64;
    (number > 0).then(|| ledger.live.swap_remove(random.below(number) as usize))
}

fn renew_one(client: &Client, shared: &Shared, random: &mut Random) {
    let Some(mut given) = take(shared, random) else { return };
    let begin = Instant::now();
    let path = "sys/leases/renew";
    match ask(client, shared, "POST", path, Some(json!({ "lease_id": given.lease }))) {
        Ok(body) => {
            let seconds = body["lease_duration"].as_u64().unwrap();
            given.until = begin + Duration::from_secs(seconds);
            let mut ledger = shared.ledger.lock().unwrap();
            ledger.renewed += 1;
            ledger.live.push(given);
        }
        // It may have been prolonged, and lasts at least as long as before.
        Err(text) => {
            let mut ledger = shared.ledger.lock().unwrap();
            if text.contains("does not exist") && given.until > Instant::now() {
                ledger.lost.push(format!("{} was found missing by a renewal", given.user));
            }
            ledger.live.push(given);
        }
    }
}

fn revoke_one(client: &Client, shared: &Shared, random: &mut Random) {
    let Some(given) = take(shared, random) else { return };
    let body = json!({ "lease_id": given.lease, "sync": true });
    let confirmed = ask(client, shared, "POST", "sys/leases/revoke", Some(body)).is_ok();
    let mut ledger = shared.ledger.lock().unwrap();
    match confirmed {
        true => _ = ledger.gone.insert(given.user),
        false => ledger.unsure.push(given),
    }
}

/// What of a ledger does not hold at the moment: credentials that were promised and do not work, and users that are there
/// although their end was confirmed. At most `sample` logins are tried.
pub fn broken_promises(world: &World, ledger: &Ledger, sample: usize) -> Vec<String> {
    let users = world.users();
    let mut wrong: Vec<String> =
        ledger.gone.intersection(&users).map(|user| format!("{user} is there, and its end was confirmed")).collect();
    wrong.extend(ledger.lost.iter().cloned());
    let soon = Instant::now() + Duration::from_secs(2);
    let live: Vec<&Given> = ledger.live.iter().filter(|given| given.until > soon).collect();
    wrong.extend(
        live.iter()
            .filter(|given| !users.contains(&given.user) && given.until > Instant::now())
            .map(|given| format!("{} is not there, and was promised", given.user)),
    );
    for given in live.iter().filter(|given| users.contains(&given.user)).take(sample) {
        let tried = world.login(&given.user, &given.password);
        if let Err(why) = tried
            && given.until > Instant::now()
        {
            wrong.push(format!("{} does not log in: {why}", given.user));
        }
    }
    wrong
}
