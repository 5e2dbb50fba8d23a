//! Closed-loop clients, and what came of them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cpu;
use crate::rig::{Engine, Rig, Role, TTL};
use crate::support::client::{Answer, Client};

/// No turn mints more.
const fn most(role: Role) -> usize {
    match role {
        // A table's access list is full at about 2,400.
        Role::Direct => 1500,
        _ => 3000,
    }
}

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

/// What a client's attempt came to.
pub enum Step {
    /// It counts.
    Done,
    /// It did not do what it should.
    Failed,
    /// There is nothing left to do.
    Over,
}

/// What clients did.
pub struct Ran<S> {
    /// What each of them has at the end.
    pub states: Vec<S>,
    took: Vec<Duration>,
    errors: usize,
    elapsed: Duration,
    cpu: [Duration; 3],
}

/// One turn of clients, each with a state of its own: they act again as soon as they have their answer, for `limit` or until
/// `most` were begun in all. A `warm` one acts once before anything is counted: that opens its connection.
pub struct Turn<'a> {
    pub rig: &'a Rig,
    pub role: Role,
    pub limit: Duration,
    pub most: usize,
    pub warm: bool,
}

impl Turn<'_> {
    pub fn run<S: Send>(&self, states: Vec<S>, act: impl Fn(&Client, &mut S) -> Step + Sync) -> Ran<S> {
        let Turn { rig, role, limit, most, warm } = *self;
        let database = role.database();
        let clients = states.len();
        let (ready, go) = (Barrier::new(clients + 1), Barrier::new(clients + 1));
        let begun = AtomicUsize::new(if warm { clients } else { 0 });
        std::thread::scope(|scope| {
            let workers: Vec<_> = states
                .into_iter()
                .map(|mut state| {
                    let client = rig.client();
                    let (act, ready, go, begun) = (&act, &ready, &go, &begun);
                    scope.spawn(move || {
                        let (mut took, mut errors) = (Vec::new(), 0_usize);
                        if warm && !matches!(act(&client, &mut state), Step::Done) {
                            errors += 1;
                        }
                        ready.wait();
                        go.wait();
                        let start = Instant::now();
                        while start.elapsed() < limit && begun.fetch_add(1, Ordering::Relaxed) < most {
                            let asked = Instant::now();
                            match act(&client, &mut state) {
                                Step::Done => took.push(asked.elapsed()),
                                Step::Failed => errors += 1,
                                Step::Over => break,
                            }
                        }
                        (state, took, errors)
                    })
                })
                .collect();
            ready.wait();
            let before = cpu::spent(rig, database);
            let start = Instant::now();
            go.wait();
            let shares: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
            let elapsed = start.elapsed();
            let after = cpu::spent(rig, database);
            let cpu = std::array::from_fn(|n| after[n].saturating_sub(before[n]));
            let mut ran = Ran { states: Vec::new(), took: Vec::new(), errors: 0, elapsed, cpu };
            for (state, took, errors) in shares {
                ran.states.push(state);
                ran.took.extend(took);
                ran.errors += errors;
            }
            ran
        })
    }
}

impl<S> Ran<S> {
    pub fn measured(mut self) -> Measured {
        measured(&mut self.took, self.elapsed, self.errors, self.cpu)
    }
}

pub fn measured(took: &mut [Duration], elapsed: Duration, errors: usize, cpu: [Duration; 3]) -> Measured {
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

/// Name, password and lease.
type User = (String, String, String);

/// Mints for `limit` with so many clients.
pub fn mint(rig: &Rig, engine: Engine, role: Role, clients: usize, limit: Duration) -> Measured {
    minted(rig, engine, role, clients, limit, most(role)).0
}

/// Mints, and gives back the leases.
pub fn leases(rig: &Rig, engine: Engine, role: Role, count: usize, clients: usize) -> (Vec<String>, usize) {
    let (measured, users) = minted(rig, engine, role, count.clamp(1, clients), Duration::from_secs(3600), count);
    (users.into_iter().map(|(.., lease)| lease).collect(), measured.errors)
}

fn minted(
    rig: &Rig,
    engine: Engine,
    role: Role,
    clients: usize,
    limit: Duration,
    most: usize,
) -> (Measured, Vec<User>) {
    let (database, path) = (role.database(), format!("{}/creds/{}", engine.mount(), role.name()));
    let already = rig.users(database);
    let turn = Turn { rig, role, limit, most, warm: true };
    let mut ran = turn.run(vec![Vec::<User>::new(); clients], |client, users| one(client, &path, users));
    // Every answer is another user, and the database has them all.
    let all: Vec<User> = ran.states.iter().flatten().cloned().collect();
    let names: HashSet<&String> = all.iter().map(|(name, ..)| name).collect();
    ran.errors += all.len().abs_diff(names.len()) + all.len().abs_diff(rig.users(database) - already);
    for users in &ran.states {
        if let Some((user, password, _)) = users.last()
            && let Err(why) = rig.login(database, user, password)
        {
            eprintln!("{user} cannot log in: {why}");
            ran.errors += 1;
        }
    }
    (ran.measured(), all)
}

fn one(client: &Client, path: &str, users: &mut Vec<User>) -> Step {
    let answer = client.get(path);
    match user_of(&answer, path) {
        Some(user) => {
            users.push(user);
            Step::Done
        }
        None => {
            // An answer that went well may hold a password even if something else in it is wrong.
            let text = if answer.status == 200 { "not what it should be".to_owned() } else { answer.body.to_string() };
            eprintln!("{path}: {}: {text}", answer.status);
            Step::Failed
        }
    }
}

/// Name, password and lease, if the answer is whole.
fn user_of(answer: &Answer, path: &str) -> Option<User> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let body = &answer.body;
    let (user, password) = (text(&body["data"]["username"])?, text(&body["data"]["password"])?);
    let lease = text(&body["lease_id"])?;
    let good = answer.status == 200
        && user.starts_with("v-")
        && password.len() == 20
        && lease.starts_with(&format!("{path}/"))
        && body["lease_duration"] == TTL
        && body["renewable"] == true;
    good.then_some((user, password, lease))
}

/// What is expected of an answer, told if it is not.
fn expect(answer: &Answer, what: &str, expected: &[u16]) -> Step {
    if expected.contains(&answer.status) {
        return Step::Done;
    }
    let text = if answer.status == 200 { String::new() } else { answer.body.to_string() };
    eprintln!("{what}: {}: {text}", answer.status);
    Step::Failed
}

/// Each client renews a lease of its own again and again.
pub fn renew(rig: &Rig, engine: Engine, role: Role, clients: usize, limit: Duration) -> Measured {
    let (leases, errors) = leases(rig, engine, role, clients, clients);
    let turn = Turn { rig, role, limit, most: usize::MAX, warm: true };
    let ran = turn.run(leases, |client, lease| expect(&client.renew(lease, TTL), "renew", &[200]));
    let mut measured = ran.measured();
    measured.errors += errors;
    measured
}

/// The clients revoke so many leases in all, one call each.
pub fn revoke(rig: &Rig, engine: Engine, role: Role, clients: usize, count: usize) -> Measured {
    let (leases, errors) = leases(rig, engine, role, count, 8);
    let mut shares = vec![Vec::new(); clients];
    for (number, lease) in leases.into_iter().enumerate() {
        shares[number % clients].push(lease);
    }
    let turn = Turn { rig, role, limit: Duration::from_secs(3600), most: usize::MAX, warm: false };
    let ran = turn.run(shares, |client, leases: &mut Vec<String>| match leases.pop() {
        Some(lease) => expect(&client.revoke(&lease), "revoke", &[204]),
        None => Step::Over,
    });
    let mut measured = ran.measured();
    measured.errors += errors + rig.users(role.database());
    measured
}

/// Revokes so many leases in one call that waits. The host revokes them one after another.
pub fn revoke_prefix(rig: &Rig, engine: Engine, role: Role, count: usize) -> Measured {
    let (_, errors) = leases(rig, engine, role, count, 8);
    let database = role.database();
    let users = rig.users(database);
    let before = cpu::spent(rig, database);
    let start = Instant::now();
    rig.revoke_all(engine, role);
    let elapsed = start.elapsed();
    let after = cpu::spent(rig, database);
    let spent = |n: usize| after[n].saturating_sub(before[n]).as_secs_f64() * 1000.0;
    Measured {
        rate: users as f64 / elapsed.as_secs_f64(),
        // The host does them inside one call.
        p50: f64::NAN,
        p99: f64::NAN,
        errors: errors + rig.users(database),
        cpu: std::array::from_fn(|n| spent(n) / users as f64),
    }
}

/// Reads of a static role's password.
pub fn read_static(rig: &Rig, engine: Engine, clients: usize, limit: Duration) -> Measured {
    let path = format!("{}/static-creds/fixed", engine.mount());
    let turn = Turn { rig, role: Role::Group, limit, most: usize::MAX, warm: true };
    let ran = turn.run(vec![(); clients], |client, ()| expect(&client.get(&path), "static-creds", &[200]));
    ran.measured()
}
