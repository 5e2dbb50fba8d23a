//! Closed-loop clients, and what came of them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cpu;
use crate::rig::{Engine, Rig, Role, TTL};
use crate::support::client::{Answer, Client};

/// No turn mints more: direct grants fill a table's access list at about 2,400.
const MOST: usize = 1500;

/// What one turn came to.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Done, per second.
    pub rate: f64,
    /// Median time of one, in milliseconds.
    pub p50: f64,
    /// The time that one in a hundred exceeds, in milliseconds.
    pub p99: f64,
    /// Answers that were not what they should be.
    pub errors: usize,
    /// CPU time of host, plugin and database for each, in milliseconds.
    pub cpu: [f64; 3],
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { rate, p50, p99, errors, cpu: [host, plugin, database] } = self;
        write!(f, "{rate:.0}/s, {errors} errors, ")?;
        if p50.is_finite() {
            write!(f, "p50 {p50:.1} ms, p99 {p99:.1} ms, ")?;
        }
        write!(f, "CPU ms {host:.2} host, {plugin:.2} plugin, {database:.2} database")
    }
}

/// What one client did.
#[derive(Default)]
struct Share {
    took: Vec<Duration>,
    users: Vec<(String, String)>,
    errors: usize,
}

/// Mints for `limit` with so many clients, each with a connection of its own. The first answer of each is not counted: it
/// opens that connection, and a session at the database.
pub fn mint(rig: &Rig, engine: Engine, role: Role, clients: usize, limit: Duration) -> Measured {
    run(rig, engine, role, clients, limit, MOST)
}

fn run(rig: &Rig, engine: Engine, role: Role, clients: usize, limit: Duration, most: usize) -> Measured {
    let already = rig.users();
    let path = format!("{}/creds/{}", engine.mount(), role.name());
    let (ready, go) = (Barrier::new(clients + 1), Barrier::new(clients + 1));
    let begun = AtomicUsize::new(clients);
    let (shares, elapsed, cpu) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..clients)
            .map(|_| {
                let client = rig.client();
                let (path, ready, go, begun) = (&path, &ready, &go, &begun);
                scope.spawn(move || {
                    let mut share = Share::default();
                    one(&client, path, &mut share);
                    share.took.clear();
                    ready.wait();
                    go.wait();
                    let start = Instant::now();
                    while start.elapsed() < limit && begun.fetch_add(1, Ordering::Relaxed) < most {
                        one(&client, path, &mut share);
                    }
                    share
                })
            })
            .collect();
        ready.wait();
        let before = cpu::spent(rig);
        let start = Instant::now();
        go.wait();
        let shares: Vec<Share> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let elapsed = start.elapsed();
        let after = cpu::spent(rig);
        (shares, elapsed, std::array::from_fn(|n| after[n].saturating_sub(before[n])))
    });

    let mut took: Vec<Duration> = shares.iter().flat_map(|share| share.took.iter().copied()).collect();
    let users: HashSet<&String> = shares.iter().flat_map(|share| share.users.iter().map(|(name, _)| name)).collect();
    let mut errors = shares.iter().map(|share| share.errors).sum();
    // Every answer is another user, and the database has them all.
    let answers: usize = shares.iter().map(|share| share.users.len()).sum();
    errors += answers.abs_diff(users.len()) + answers.abs_diff(rig.users() - already);
    for share in &shares {
        if let Some((user, password)) = share.users.last()
            && let Err(why) = rig.postgres.login(user, password, "SELECT 1")
        {
            eprintln!("{user} cannot log in: {why}");
            errors += 1;
        }
    }
    measured(&mut took, elapsed, errors, cpu)
}

fn measured(took: &mut [Duration], elapsed: Duration, errors: usize, cpu: [Duration; 3]) -> Measured {
    took.sort_unstable();
    let at = |part: f64| {
        let index = ((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1));
        took.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
    };
    let count = took.len() as f64;
    Measured {
        rate: count / elapsed.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        errors,
        cpu: cpu.map(|spent| spent.as_secs_f64() * 1000.0 / count),
    }
}

fn one(client: &Client, path: &str, share: &mut Share) {
    let start = Instant::now();
    let answer = client.get(path);
    let took = start.elapsed();
    match user_of(&answer, path) {
        Some(user) => {
            share.took.push(took);
            share.users.push(user);
        }
        None => {
            // An answer that went well may hold a password even if something else in it is wrong.
            let text = if answer.status == 200 { "not what it should be".to_owned() } else { answer.body.to_string() };
            eprintln!("{path}: {}: {text}", answer.status);
            share.errors += 1;
        }
    }
}

/// Name and password, if the answer is whole.
fn user_of(answer: &Answer, path: &str) -> Option<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let body = &answer.body;
    let (user, password) = (text(&body["data"]["username"])?, text(&body["data"]["password"])?);
    let good = answer.status == 200
        && user.starts_with("v-")
        && password.len() == 20
        && body["lease_id"].as_str()?.starts_with(&format!("{path}/"))
        && body["lease_duration"] == TTL
        && body["renewable"] == true;
    good.then_some((user, password))
}

/// Mints `leases` and revokes them all in one call that waits. The host revokes them one after another.
pub fn revoke(rig: &Rig, engine: Engine, role: Role, leases: usize) -> Measured {
    let minted = run(rig, engine, role, leases.clamp(1, 8), Duration::from_secs(60), leases);
    let users = rig.users();
    let before = cpu::spent(rig);
    let start = Instant::now();
    rig.revoke_all(engine, role);
    let elapsed = start.elapsed();
    let after = cpu::spent(rig);
    let spent = |n: usize| after[n].saturating_sub(before[n]).as_secs_f64() * 1000.0;
    Measured {
        rate: users as f64 / elapsed.as_secs_f64(),
        // The host does them inside one call.
        p50: f64::NAN,
        p99: f64::NAN,
        errors: minted.errors + rig.users(),
        cpu: std::array::from_fn(|n| spent(n) / users as f64),
    }
}
