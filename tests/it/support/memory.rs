//! The memory of another process, read as its administrator can: through its memory file, and from a core image.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

use super::search::{Form, Search};

/// How much is read at once.
const PIECE: usize = 1 << 20;
/// How many bytes are shown on each side of a find.
const AROUND: usize = 40;

/// One place in a process where a secret was found.
#[derive(Debug, Clone)]
pub struct Copy {
    /// What was found.
    pub what: String,
    pub form: Form,
    /// Where: the kind of memory.
    pub kind: String,
    pub address: u64,
    /// The bytes around it, the find itself and others like it struck out.
    pub around: String,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Report {
    /// How many bytes were looked at.
    pub bytes: u64,
    pub copies: Vec<Copy>,
}

impl Report {
    /// How often each thing was found, whole or in part.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for copy in &self.copies {
            *counts.entry(copy.what.as_str()).or_default() += 1;
        }
        counts
    }

    /// For a person: what, where, how often, and the surroundings of the first ones of each kind.
    pub fn explained(&self) -> String {
        let mut kinds: BTreeMap<(&str, &str, Form), Vec<&Copy>> = BTreeMap::new();
        for copy in &self.copies {
            let form = if matches!(copy.form, Form::Part(_)) { Form::Part(0) } else { copy.form };
            kinds.entry((&copy.what, &copy.kind, form)).or_default().push(copy);
        }
        let mut text = format!("{} copies in {} KiB\n", self.copies.len(), self.bytes / 1024);
        for ((what, kind, form), copies) in kinds {
            text.push_str(&format!("  {:>4} × {what}, {form:?}, in {kind}\n", copies.len()));
            for copy in copies.iter().take(3) {
                text.push_str(&format!("         {:#x} {:?}: {}\n", copy.address, copy.form, copy.around));
            }
        }
        text
    }
}

/// A stretch of a process's memory.
struct Region {
    from: u64,
    to: u64,
    kind: String,
}

/// Looks through all memory that the process can write to.
pub fn scan(process: Pid, search: &Search) -> Report {
    let memory = File::open(format!("/proc/{}/mem", process.as_raw_nonzero())).expect("only root may look");
    let mut report = Report::default();
    for region in regions(process) {
        let read = |from: u64, piece: &mut [u8]| memory.read_at(piece, from).unwrap_or(0);
        look(&region, search, read, &mut report);
    }
    report
}

/// Looks through a whole core image of the process: the memory that a dump would leave out too, and the registers.
pub fn scan_core(process: Pid, search: &Search, directory: &Path) -> Report {
    let name = directory.join("core");
    let made = Command::new("gdb")
        .args(["-batch", "-nx", "-p", &process.as_raw_nonzero().to_string()])
        .args(["-ex", "set use-coredump-filter off", "-ex", "set dump-excluded-mappings on"])
        .args(["-ex", &format!("gcore {}", name.display())])
        .output()
        .expect("no debugger found (gdb): run scripts/setup");
    let file = File::open(&name).unwrap_or_else(|_| panic!("no core: {}", String::from_utf8_lossy(&made.stderr)));
    let region = Region { from: 0, to: file.metadata().unwrap().len(), kind: "core image".to_owned() };
    let mut report = Report::default();
    look(&region, search, |from, piece| file.read_at(piece, from).unwrap(), &mut report);
    report
}

fn look(region: &Region, search: &Search, read: impl Fn(u64, &mut [u8]) -> usize, report: &mut Report) {
    // Pieces overlap, so that what lies across the seam is seen whole, with its surroundings.
    let overlap = search.longest() + 2 * AROUND;
    let mut piece = vec![0; PIECE + overlap];
    let mut from = region.from;
    while from < region.to {
        let wanted = piece.len().min((region.to - from) as usize);
        let got = read(from, &mut piece[..wanted]);
        if got == 0 {
            // A page that cannot be read, or never was used.
            from += 4096;
            continue;
        }
        let bytes = &piece[..got];
        let hits = search.find(bytes);
        for hit in &hits {
            let address = from + hit.at as u64;
            // A part of what the piece before had whole.
            let cut = hit.at == 0 && from > region.from && matches!(hit.form, Form::Part(_));
            if cut || (got == piece.len() && hit.at >= PIECE) {
                continue;
            }
            let (first, last) = (hit.at.saturating_sub(AROUND), (hit.at + hit.length + AROUND).min(got));
            let around = (first..last).map(|at| {
                let struck = hits.iter().any(|hit| (hit.at..hit.at + hit.length).contains(&at));
                if struck { "#".to_owned() } else { bytes[at].escape_ascii().to_string() }
            });
            report.copies.push(Copy {
                what: search.known()[hit.secret].what.clone(),
                form: hit.form,
                kind: region.kind.clone(),
                address,
                around: around.collect(),
            });
        }
        let step = if got < piece.len() { got } else { PIECE };
        report.bytes += step as u64;
        from += step as u64;
    }
}

/// What the process can write to, each with what it is used for. A stack is two: what is in use, and what is below.
fn regions(process: Pid) -> Vec<Region> {
    let directory = format!("/proc/{}", process.as_raw_nonzero());
    let maps = std::fs::read_to_string(format!("{directory}/maps")).expect("a process");
    let stacks = stack_pointers(&directory);
    let mut regions = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let name = words.nth(3).unwrap_or_default();
        if !rights.starts_with("rw") || name.starts_with("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        match stacks.iter().find(|(sp, _)| (from..to).contains(sp)) {
            Some((sp, thread)) => {
                regions.push(Region { from, to: *sp, kind: format!("dead stack of {thread}") });
                regions.push(Region { from: *sp, to, kind: format!("stack of {thread}") });
            }
            None => {
                let kind = match name {
                    "" => "anonymous memory (arenas)",
                    "[heap]" => "heap",
                    file => file.rsplit('/').next().unwrap_or(file),
                };
                regions.push(Region { from, to, kind: kind.to_owned() });
            }
        }
    }
    regions
}

/// Where each waiting thread's stack ends at the moment, and the thread's name.
fn stack_pointers(directory: &str) -> Vec<(u64, String)> {
    let threads = std::fs::read_dir(format!("{directory}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| {
            let call = std::fs::read_to_string(thread.path().join("syscall")).ok()?;
            let sp = call.split_whitespace().rev().nth(1)?.strip_prefix("0x")?;
            let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
            Some((u64::from_str_radix(sp, 16).ok()?, name.trim().to_owned()))
        })
        .collect()
}

/// Writes `text` where the process will not miss it, at the far end of its main stack. Returns the address.
pub fn plant(process: Pid, text: &[u8]) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.as_raw_nonzero())).unwrap();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
    let address = u64::from_str_radix(stack.split('-').next().unwrap(), 16).unwrap() + 64;
    let memory = File::options().write(true).open(format!("/proc/{}/mem", process.as_raw_nonzero())).unwrap();
    memory.write_all_at(text, address).unwrap();
    address
}
