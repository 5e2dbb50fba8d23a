//! How many credentials a second, how fast, at what cost: our engine beside the built-in one, mounted in the same server,
//! working at the same database, in turns. See `docs/performance.md`.
#![allow(clippy::disallowed_methods, reason = "a stopwatch lives in real time")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that fails is not one")]

mod cpu;
mod load;
mod rig;
mod table;

#[path = "../../tests/it/support.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use rig::{Engine, Rig, Role};

/// Mints and revokes at the built-in engine and at ours in turns, and prints what it measured as Markdown.
#[derive(Parser)]
struct Arguments {
    /// The host's storage is raft on disk, not memory.
    #[arg(long)]
    raft: bool,
    /// How often both engines have their turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of minting in each turn.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Leases that are revoked in each turn.
    #[arg(long, default_value_t = 200)]
    leases: usize,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    clients: Vec<usize>,
    /// A build of the plugin that takes the built-in engine's place: what does wiping cost? (scripts/build-unwiped)
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let rig = Rig::start(arguments.raft, arguments.beside.as_deref());
    println!("{}", rig.description());
    match &arguments.beside {
        None => println!("The other engine is the built-in one.\n"),
        Some(build) => println!("The other engine is {}.\n", build.display()),
    }

    let mut mints = Vec::new();
    let mut revocations = Vec::new();
    let before = cpu::machine(&rig);
    for round in 0..arguments.rounds {
        // Who comes first changes, so that a machine that gets slower or faster favours neither.
        let mut turns = Engine::BOTH;
        turns.rotate_left(round % 2);
        for role in Role::MINTED {
            for &clients in &arguments.clients {
                for engine in turns {
                    rig.tidy();
                    let measured = load::mint(&rig, engine, role, clients, Duration::from_secs_f64(arguments.seconds));
                    eprintln!("round {}: {engine} {role} {clients}: {measured}", round + 1);
                    mints.push(table::Row { round, engine, role, clients, measured });
                    rig.clear(engine, role);
                }
            }
        }
        for role in Role::REVOKED {
            for engine in turns {
                rig.tidy();
                let measured = load::revoke(&rig, engine, role, arguments.leases);
                eprintln!("round {}: {engine} {role} revocation: {measured}", round + 1);
                revocations.push(table::Row { round, engine, role, clients: 1, measured });
            }
        }
    }
    println!("{}", table::print("mints", &mints));
    println!("{}", table::print("revocations, one after another (`sync`)", &revocations));
    println!("{}", cpu::others(&before, &rig));
    let errors: usize = mints.iter().chain(&revocations).map(|row| row.measured.errors).sum();
    assert_eq!(errors, 0, "there were errors");
}
