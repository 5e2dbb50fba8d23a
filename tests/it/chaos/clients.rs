//! Who asks for changes of passwords, all the time and without looking at the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::world::{self, World};
use crate::support::client::Client;
use crate::support::random::Random;

const THREADS: usize = 4;

#[derive(Default)]
struct Shared {
    paused: AtomicBool,
    ended: AtomicBool,
    confirmed: AtomicU64,
}

/// The threads. They end with this value.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(world: &World, random: &mut Random) -> Clients {
        let shared = Arc::new(Shared::default());
        let threads = (0..THREADS).map(|_| {
            let (client, shared, random, changes) =
                (world.client().clone(), shared.clone(), random.split(), world.changes());
            std::thread::spawn(move || work(&client, &shared, random, &changes))
        });
        let threads = threads.collect();
        Clients { shared, threads }
    }

    /// No further requests. Those that are under way go on.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
    }

    pub fn go_on(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Waits for the last answers. How many changes were confirmed.
    pub fn end(self) -> u64 {
        let shared = self.shared.clone();
        drop(self);
        shared.confirmed.load(Ordering::SeqCst)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(client: &Client, shared: &Shared, mut random: Random, changes: &[String]) {
    let ask = |method: &str, path: &str, body: serde_json::Value| {
        let answer = client.try_request(method, path, Some(&body), &[]);
        answer.map_or(0, |answer| answer.status)
    };
    while !shared.ended.load(Ordering::SeqCst) {
        if shared.paused.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let status = match random.below(changes.len() as u64 + 1) as usize {
            chosen if chosen < changes.len() => ask("POST", &changes[chosen], json!({})),
            _ => {
                // A role that comes and goes: its first change creates it.
                let path = format!("database/static-roles/{}", world::COMING_AND_GOING);
                ask("DELETE", &path, json!({}));
                ask("POST", &path, world::role(world::COMING_AND_GOING, 0))
            }
        };
        match status {
            204 => _ = shared.confirmed.fetch_add(1, Ordering::SeqCst),
            // Nobody is there, or something is open: no reason to hurry.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
