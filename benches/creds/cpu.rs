//! CPU time and memory, from `/proc`.

use std::time::Duration;

use rustix::process::Pid;

use crate::rig::{Database, Rig};

/// CPU time spent so far by host, plugin and database.
pub fn spent(rig: &Rig, database: Database) -> [Duration; 3] {
    let plugin = rig.plugin().into_iter().map(|pid| times(pid)[0]).sum();
    let server = rig.server(database);
    // PostgreSQL's children are its sessions; those that ended are counted with the server.
    let sessions: Duration = children(server).into_iter().map(|pid| times(pid)[0]).sum();
    [times(rig.bao.pid())[0], plugin, sessions + times(server).into_iter().sum::<Duration>()]
}

/// What the plugin's processes keep in memory now, and kept at most, in MiB.
pub fn resident(rig: &Rig) -> [f64; 2] {
    let status =
        |pid: Pid| std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let all: Vec<String> = rig.plugin().into_iter().map(status).collect();
    ["VmRSS:", "VmHWM:"].map(|field| {
        let lines = all.iter().flat_map(|status| status.lines()).filter_map(|line| line.strip_prefix(field));
        lines.filter_map(|line| line.split_whitespace().next()?.parse::<f64>().ok()).sum::<f64>() / 1024.0
    })
}

/// What the process spent, and what its children did that have ended.
fn times(pid: Pid) -> [Duration; 2] {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The command is in parentheses, and may itself hold some.
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let sum = |from: usize| ticks(fields.iter().skip(from).take(2).sum());
    // utime, stime, cutime, cstime are fields 14 to 17; the state, field 3, is the first here.
    [sum(11), sum(13)]
}

/// Linux shows a hundred ticks a second on every machine this runs on, whatever its own clock does.
fn ticks(count: u64) -> Duration {
    Duration::from_millis(10 * count)
}

fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

/// The cores' time so far: all that was spent, all that was not, and what was spent by us.
pub struct Machine {
    busy: Duration,
    idle: Duration,
    own: Duration,
}

/// As of now.
pub fn machine(rig: &Rig) -> Machine {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    let at = |n: usize| fields.get(n).copied().unwrap_or(0);
    let maria = rig.mariadb.as_ref().map(|server| times(server.pid())[0]).unwrap_or_default();
    let postgres = spent(rig, Database::Postgres).into_iter();
    let own = postgres.chain(times(rustix::process::getpid())).sum::<Duration>() + maria;
    // user, nice, system, idle, iowait, irq, softirq, steal
    Machine { busy: ticks(at(0) + at(1) + at(2) + at(5) + at(6) + at(7)), idle: ticks(at(3) + at(4)), own }
}

/// How much of the machine others took since `before`: measurements are worth less the more it is.
pub fn others(before: &Machine, rig: &Rig) -> String {
    let now = machine(rig);
    let busy = now.busy.saturating_sub(before.busy);
    let all = busy + now.idle.saturating_sub(before.idle);
    let others = busy.saturating_sub(now.own.saturating_sub(before.own));
    let part = others.as_secs_f64() / all.as_secs_f64().max(0.001);
    format!("Other work on the machine: {:.0} % of its cores.", part * 100.0)
}
