//! Applications that read, renew and give back while the mount that they use changes its engine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::Client;
use crate::support::random::Random;

/// What an application got.
#[derive(Clone)]
pub struct Held {
    pub lease: String,
    pub username: String,
    pub born: Instant,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    pub sent: Instant,
    pub mint: bool,
    /// When the lease was born that it was about.
    pub born: Option<Instant>,
    pub why: String,
}

/// What came of it.
#[derive(Clone, Default)]
pub struct Tally {
    pub held: Vec<Held>,
    /// Users whose revocation was answered.
    pub ended: BTreeSet<String>,
    pub minted: usize,
    pub renewed: usize,
    pub failed: Vec<Failed>,
    /// When a mint was answered last.
    pub last: Option<Instant>,
}

/// The applications. They end with this value.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(client: &Client, threads: usize) -> Load {
        let (tally, stop) = (Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicBool::new(false)));
        let mut random = Random::new(u64::from(std::process::id()));
        let threads = (0..threads).map(|_| {
            let (client, tally, stop, mut random) = (client.clone(), tally.clone(), stop.clone(), random.split());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    step(&client, &tally, &mut random);
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        });
        Load { threads: threads.collect(), tally, stop }
    }

    pub fn so_far(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Waits for the last answers.
    pub fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn step(client: &Client, tally: &Mutex<Tally>, random: &mut Random) {
    let chosen = {
        let mut tally = tally.lock().unwrap();
        let place = random.below(tally.held.len().max(1) as u64) as usize;
        (tally.held.len() > 5).then(|| tally.held.swap_remove(place))
    };
    let sent = Instant::now();
    let Some(held) = chosen else {
        let answer = client.get("database/creds/app");
        let mut tally = tally.lock().unwrap();
        if answer.status != 200 {
            tally.failed.push(Failed { sent, mint: true, born: None, why: why(&answer.body) });
            return;
        }
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (lease, username) = (text(&answer.body["lease_id"]), text(&answer.body["data"]["username"]));
        tally.held.push(Held { lease, username, born: sent });
        tally.minted += 1;
        tally.last = Some(Instant::now());
        return;
    };
    let gives_back = random.below(3) == 0;
    let answer = if gives_back { client.revoke(&held.lease) } else { client.renew(&held.lease, 0) };
    let mut tally = tally.lock().unwrap();
    match (answer.status, gives_back) {
        (204, true) => drop(tally.ended.insert(held.username)),
        (200, false) => {
            tally.renewed += 1;
            tally.held.push(held);
        }
        _ => {
            tally.failed.push(Failed { sent, mint: false, born: Some(held.born), why: why(&answer.body) });
            tally.held.push(held);
        }
    }
}

fn why(body: &Value) -> String {
    body.to_string()
}
