//! What does not come in turns: how costs grow with the number of users, what the plugin keeps in memory, how soon it answers.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::cpu;
use crate::direct;
use crate::load::{self, Measured};
use crate::rig::{Engine, Rig, Role};
use crate::table::median;

/// One round of verifiers: what is measured is all but the hashing.
const ROLE: Role = Role::Member1;
const CLIENTS: usize = 8;

/// So many users there were, and what a mint and a revocation came to.
pub struct Level {
    pub users: usize,
    pub mint: Measured,
    pub revoke: Measured,
}

/// Mints and revokes at each of these numbers of users.
pub fn curve(rig: &Rig, levels: &[usize], limit: Duration, leases: usize) -> Vec<Level> {
    let mut there = 0;
    let mut curve = Vec::new();
    for &users in levels {
        direct::populate(rig, there, users);
        there = there.max(users);
        rig.tidy();
        let mint = load::mint(rig, Engine::Ours, ROLE, CLIENTS, limit);
        rig.revoke_all(Engine::Ours, ROLE);
        rig.tidy();
        let revoke = load::revoke(rig, Engine::Ours, ROLE, CLIENTS, leases);
        eprintln!("{users} users: mint {mint}; revoke {revoke}");
        curve.push(Level { users, mint, revoke });
    }
    direct::depopulate(rig, there);
    curve
}

/// Markdown.
pub fn table(curve: &[Level]) -> String {
    let mut text = format!(
        "| users in the database | mints /s ({CLIENTS} clients, one round) | p50 ms | CPU ms each: host / plugin / database | \
         revocations /s | p50 ms | CPU ms each: host / plugin / database |\n|---|---|---|---|---|---|---|\n"
    );
    for Level { users, mint, revoke } in curve {
        let half = |m: &Measured| {
            format!("{:.0} | {:.1} | {:.2} / {:.2} / {:.2}", m.rate, m.p50, m.cpu[0], m.cpu[1], m.cpu[2])
        };
        let _ = writeln!(text, "| {users} | {} | {} |", half(mint), half(revoke));
    }
    text
}

/// What the plugin keeps in memory at rest, with so many live users, and at most until then. In MiB.
pub fn memory(rig: &Rig, users: usize) -> String {
    restart(rig);
    let [rest, _] = cpu::resident(rig);
    let (_, errors) = load::leases(rig, Engine::Ours, ROLE, users, 32);
    let [full, most] = cpu::resident(rig);
    rig.clear(Engine::Ours, ROLE);
    let [after, _] = cpu::resident(rig);
    assert_eq!(errors, 0, "there were errors");
    format!(
        "Memory of the plugin, MiB resident: {rest:.1} at rest, {full:.1} with {users} live users made by 32 clients ({most:.1} \
         at most), {after:.1} when they were gone.\n"
    )
}

/// Kills the plugin and takes the time until the next request is answered, by another process.
pub fn start(rig: &Rig, times: usize) -> String {
    let mut took: Vec<f64> = (0..times).map(|_| restart(rig).as_secs_f64() * 1000.0).collect();
    took.sort_by(f64::total_cmp);
    let (least, most) = (took.first().copied().unwrap_or(0.0), took.last().copied().unwrap_or(0.0));
    format!(
        "From a request to a mount whose plugin is gone to its answer, process start included: {:.0} ms [{least:.0}–{most:.0}], \
         {times} times.\n",
        median(&took)
    )
}

fn restart(rig: &Rig) -> Duration {
    let before = rig.plugin();
    for pid in &before {
        kill_process(*pid, Signal::KILL).unwrap();
    }
    let is_left = |rig: &Rig| rig.plugin().iter().any(|pid| before.contains(pid));
    while is_left(rig) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let client = rig.client();
    // Opens the connection, and touches no plugin.
    client.get("sys/health").expect(200);
    let start = Instant::now();
    client.get(&format!("{}/roles/{}", Engine::Ours.mount(), ROLE.name())).expect(200);
    start.elapsed()
}
