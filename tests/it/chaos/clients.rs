//! Who asks for changes of passwords, all the time and without looking at the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::sites::{COMING_AND_GOING, CONNECTIONS};
use super::world::World;
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
            let (client, shared, random) = (world.client().clone(), shared.clone(), random.split());
            let (changes, configurations) = (world.changes(), world.configurations());
            std::thread::spawn(move || work(&client, &shared, random, &changes, &configurations))
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

fn work(client: &Client, shared: &Shared, mut random: Random, changes: &[String], configurations: &[(String, Value)]) {
    let ask = |method: &str, path: &str, body: &Value| {
        let answer = client.try_request(method, path, Some(body), &[]);
        answer.map_or(0, |answer| answer.status)
    };
    while !shared.ended.load(Ordering::SeqCst) {
        if shared.paused.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let status = match random.below(changes.len() as u64 + 2) as usize {
            chosen if chosen < changes.len() => ask("POST", &changes[chosen], &json!({})),
            chosen if chosen == changes.len() => {
                let (path, body) = &configurations[random.below(configurations.len() as u64) as usize];
                // Confirmed, but no change.
                ask("POST", path, body).min(1)
            }
            _ => {
                // A role that comes and goes: its first change creates it.
                let path = format!("database/static-roles/{COMING_AND_GOING}");
                ask("DELETE", &path, &json!({}));
                let home = CONNECTIONS.iter().find(|connection| connection.roles.contains(&COMING_AND_GOING)).unwrap();
                ask("POST", &path, &home.role(COMING_AND_GOING))
            }
        };
        match status {
            204 => _ = shared.confirmed.fetch_add(1, Ordering::SeqCst),
            // Nobody is there, or something is open: no reason to hurry.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
