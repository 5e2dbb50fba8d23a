//! How many credentials a second, how fast, at what cost: our engine beside the built-in one, mounted in the same server,
//! working at the same databases, in turns; and what the databases do when nobody stands between. See `docs/performance.md`.
#![allow(clippy::disallowed_methods, reason = "a stopwatch lives in real time")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that fails is not one")]

mod cpu;
mod direct;
mod load;
mod plot;
mod rig;
mod scale;
mod table;

#[path = "../../tests/it/support.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use load::Measured;
use rig::{Engine, Rig, Role};
use table::{Row, Who};

/// Mints, renews and revokes at the built-in engine and at ours in turns, and prints what it measured as Markdown.
#[derive(Parser)]
struct Arguments {
    /// The host's storage is raft on disk, not memory.
    #[arg(long)]
    raft: bool,
    /// How often both engines have their turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each turn that has no number of its own.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Leases that are revoked in each turn of single revocations.
    #[arg(long, default_value_t = 200)]
    leases: usize,
    /// Leases that are revoked by prefix in each turn; above 2,000 only of the roles `member` and `maria`.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    prefix: Vec<usize>,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 64])]
    clients: Vec<usize>,
    /// Users in the database for the curve.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 10_000, 100_000])]
    users: Vec<usize>,
    /// Live users for the memory, and those that expire in an outage.
    #[arg(long, default_value_t = 10_000)]
    live: usize,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these roles.
    #[arg(long, value_enum, value_delimiter = ',')]
    roles: Vec<Role>,
    /// A folder for pictures of the ratios and of the curve.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// A build of the plugin that takes the built-in engine's place: what does wiping cost? (scripts/build-unwiped)
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Mint,
    Renew,
    Revoke,
    Prefix,
    Static,
    Direct,
    Scale,
    Memory,
    Width,
    Drain,
    Start,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn roles(&self, of: &[Role]) -> Vec<Role> {
        of.iter().copied().filter(|role| self.roles.is_empty() || self.roles.contains(role)).collect()
    }

    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// The turns so far.
struct Turns<'a> {
    rig: &'a Rig,
    round: usize,
    rows: Vec<Row>,
}

impl Turns<'_> {
    /// A turn of each engine. Who comes first changes, so that a machine that gets slower or faster favours neither.
    fn both(&mut self, what: &str, role: Role, clients: usize, measure: impl Fn(Engine) -> Measured) {
        let mut engines = Engine::BOTH;
        engines.rotate_left(self.round % 2);
        for engine in engines {
            self.rig.tidy();
            let measured = measure(engine);
            self.keep(what, Who::Engine(engine), role, clients, measured);
            self.rig.clear(engine, role);
        }
    }

    fn keep(&mut self, what: &str, who: Who, role: Role, clients: usize, measured: Measured) {
        eprintln!("round {}: {what}: {who} {role} {clients}: {measured}", self.round + 1);
        self.rows.push(Row { what: what.to_owned(), round: self.round, who, role, clients, measured });
    }
}

fn main() {
    let arguments = Arguments::parse();
    // Those that the parts about the plugin alone work with are always there.
    let mut roles = arguments.roles(&Role::ALL);
    roles.extend((!roles.contains(&Role::Member1)).then_some(Role::Member1));
    let mut rig = Rig::start(arguments.raft, arguments.beside.as_deref(), &roles);
    println!("{}", rig.description());
    match &arguments.beside {
        None => println!("The other engine is the built-in one.\n"),
        Some(build) => println!("The other engine is {}.\n", build.display()),
    }

    let before = cpu::machine(&rig);
    let mut turns = Turns { rig: &rig, round: 0, rows: Vec::new() };
    for round in 0..arguments.rounds {
        turns.round = round;
        one_round(&arguments, &mut turns);
    }
    let mut rows = turns.rows;
    // What was done together stands together.
    let order: Vec<String> = rows.iter().map(|row| row.what.clone()).collect();
    rows.sort_by_key(|row| order.iter().position(|what| *what == row.what));
    println!("{}", table::print(&rows));

    let mut curve = Vec::new();
    if arguments.wants(Part::Scale) {
        curve = scale::curve(&rig, &arguments.users, arguments.limit(), arguments.leases);
        println!("{}", scale::table(&curve));
    }
    if arguments.wants(Part::Memory) {
        println!("{}", scale::memory(&rig, arguments.live));
    }
    if arguments.wants(Part::Width) {
        println!("{}", scale::width(&rig, 100, 1000, 50));
    }
    if arguments.wants(Part::Drain) {
        println!("{}", scale::drain(&mut rig, arguments.live));
    }
    if arguments.wants(Part::Start) {
        println!("{}", scale::start(&rig, 10));
    }
    println!("{}", cpu::others(&before, &rig));
    if let Some(folder) = &arguments.plots {
        std::fs::create_dir_all(folder).unwrap();
        let ratios = table::ratios(&rows);
        if !ratios.is_empty() {
            std::fs::write(folder.join("performance-ratios.svg"), plot::ratios(&ratios)).unwrap();
        }
        if !curve.is_empty() {
            std::fs::write(folder.join("performance-scale.svg"), plot::scale(&curve)).unwrap();
        }
    }
    let errors =
        rows.iter().map(|row| &row.measured).chain(curve.iter().flat_map(|level| [&level.mint, &level.revoke]));
    assert_eq!(errors.map(|measured| measured.errors).sum::<usize>(), 0, "there were errors");
}

fn one_round(arguments: &Arguments, turns: &mut Turns<'_>) {
    let (rig, limit) = (turns.rig, arguments.limit());
    if arguments.wants(Part::Mint) {
        for role in arguments.roles(&Role::MINTED) {
            for &clients in &arguments.clients {
                turns.both("mints", role, clients, |engine| load::mint(rig, engine, role, clients, limit));
            }
        }
    }
    if arguments.wants(Part::Renew) {
        for role in arguments.roles(&Role::RENEWED) {
            for &clients in &arguments.clients {
                turns.both("renewals", role, clients, |engine| load::renew(rig, engine, role, clients, limit));
            }
        }
    }
    if arguments.wants(Part::Revoke) {
        for role in arguments.roles(&Role::REVOKED) {
            for &clients in &arguments.clients {
                let count = arguments.leases;
                turns.both("revocations", role, clients, |engine| load::revoke(rig, engine, role, clients, count));
            }
        }
    }
    if arguments.wants(Part::Prefix) {
        for role in arguments.roles(&Role::REVOKED) {
            let takes_part = |count: usize| count <= 2000 || matches!(role, Role::Member | Role::Maria);
            for &count in arguments.prefix.iter().filter(|&&count| takes_part(count)) {
                let what = format!("revocations of {count} by prefix (`sync`: one after another)");
                turns.both(&what, role, 1, |engine| load::revoke_prefix(rig, engine, role, count));
            }
        }
    }
    if arguments.wants(Part::Static) {
        for &clients in &arguments.clients {
            turns.both("reads of a static role", Role::Group, clients, |engine| {
                load::read_static(rig, engine, clients, limit)
            });
        }
    }
    if arguments.wants(Part::Direct) {
        for role in arguments.roles(&[Role::Member, Role::Member1024, Role::Member1, Role::Maria]) {
            for &clients in &arguments.clients {
                rig.tidy();
                let [mints, drops] = direct::mint_and_drop(rig, role, clients, limit);
                turns.keep("mints", Who::Sql, role, clients, mints);
                turns.keep("revocations", Who::Sql, role, clients, drops);
            }
        }
    }
}
