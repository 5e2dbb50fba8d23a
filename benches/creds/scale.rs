//! What does not come in turns: how costs grow with the number of users, what the plugin keeps in memory, how soon it answers.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::cpu;
use crate::direct;
use crate::load::{self, Measured};
use crate::rig::{Engine, Rig, Role, TTL};
use crate::support::bao::PLUGIN;
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

/// What many connections, roles and mounts take: all in the one process of the plugin. Everything is used once.
pub fn width(rig: &Rig, connections: usize, roles: usize, mounts: usize) -> String {
    restart(rig);
    let client = rig.client();
    let [rest, _] = cpu::resident(rig);
    let ours = Engine::Ours.mount();
    let names: Vec<String> = (0..roles).map(|n| format!("wide-{n}")).collect();
    for n in 0..connections {
        rig.connect(ours, &format!("wide-{n}"), 1);
    }
    for (n, role) in names.iter().enumerate() {
        rig.add_member(ours, role, &format!("wide-{}", n % connections), TTL);
    }
    let mint = |mount: &str, role: &str| drop(client.get(&format!("{mount}/creds/{role}")).expect(200));
    let begin = Instant::now();
    names.iter().for_each(|role| mint(ours, role));
    let took = begin.elapsed().as_secs_f64() * 1000.0 / roles as f64;
    let [wide, _] = cpu::resident(rig);

    let paths: Vec<String> = (0..mounts).map(|n| format!("many-{n}")).collect();
    for path in &paths {
        rig.bao.mount(path, PLUGIN);
        rig.connect(path, "pg", 1);
        rig.add_member(path, "one", "pg", TTL);
        mint(path, "one");
    }
    let [many, _] = cpu::resident(rig);
    let processes = rig.plugin().len();
    for path in &paths {
        client.delete(&format!("sys/mounts/{path}")).expect(204);
    }
    let each = |more: f64, count: usize| more * 1024.0 / count as f64;
    format!(
        "{roles} roles on {connections} connections in one mount: {took:.1} ms for each role's first credential, one after \
         another; {:.0} KiB more for each connection with a session and its roles. {mounts} further mounts: {processes} process, \
         {:.0} KiB more for each.\n",
        each(wide - rest, connections),
        each(many - wide, mounts),
    )
}

/// Lets so many leases expire while the database is away, and takes the time until their users are gone once it is back.
pub fn drain(rig: &mut Rig, users: usize) -> String {
    const LIFE: Duration = Duration::from_secs(40);
    rig.add_member(Engine::Ours.mount(), "drain", "pg", LIFE.as_secs());
    let path = format!("{}/creds/drain", Engine::Ours.mount());
    let (before, begun) = (rig.users(ROLE.database()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let client = rig.client();
                while begun.fetch_add(1, Ordering::Relaxed) < users {
                    client.get(&path).expect(200);
                }
            });
        }
    });
    let expired = Instant::now() + LIFE;
    assert_eq!(rig.users(ROLE.database()), before + users, "some expired before the database was away");
    rig.postgres.stop();
    std::thread::sleep(expired.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
    rig.postgres.start_again();
    let start = Instant::now();
    let used = cpu::spent(rig, ROLE.database());
    while rig.users(ROLE.database()) > before {
        assert!(start.elapsed() < Duration::from_secs(300), "{} are left", rig.users(ROLE.database()) - before);
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = start.elapsed().as_secs_f64();
    let now = cpu::spent(rig, ROLE.database());
    let each = |n: usize| now[n].saturating_sub(used[n]).as_secs_f64() * 1000.0 / users as f64;
    format!(
        "{users} users whose leases expired while the database was away: gone {took:.1} s after it answered again, {:.0} a second; \
         CPU ms each: {:.2} / {:.2} / {:.2} (host, plugin, database).\n",
        users as f64 / took,
        each(0),
        each(1),
        each(2)
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
    let client = rig.client();
    let path = format!("{}/roles/{}", Engine::Ours.mount(), ROLE.name());
    loop {
        for pid in rig.plugin() {
            kill_process(pid, Signal::KILL).unwrap();
            // Until the host has fetched what became of it: before that it would send the request to nobody.
            while std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // Opens the connection, and touches no plugin.
        client.get("sys/health").expect(200);
        let start = Instant::now();
        let answer = client.get(&path);
        let took = start.elapsed();
        if answer.status == 200 {
            return took;
        }
        // The host learns of the end by more ways than one, and this request was before the last of them.
        while client.get(&path).status != 200 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
