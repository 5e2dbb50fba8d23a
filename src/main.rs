//! The plugin's process: harden it, read the arguments, serve.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leasehold::engine::evidence::verify::{self, Sound};
use leasehold::engine::{Kind, Orders, RevocationMode};
use leasehold::secret::memory;
use leasehold::wire::{self, Invitation};
use leasehold::{migrate, observe};
use tracing::Level;

/// A secrets engine for OpenBao and Vault: credentials that are bound to a workload and really end.
///
/// The server starts this program as a plugin; run by hand it explains how to register it.
#[derive(Parser)]
#[command(name = "leasehold", version)]
struct Arguments {
    #[command(subcommand)]
    engine: Option<Engine>,
    /// The least important log records to write: trace, debug, info, warn or error.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    log_level: Level,
}

#[derive(Subcommand)]
enum Engine {
    /// Database credentials: the paths of the built-in `database` engine.
    Database {
        #[command(flatten)]
        ending: Ending,
    },
    /// AWS credentials: the paths of the AWS engine.
    Aws {
        #[command(flatten)]
        ending: Ending,
    },
    /// Move a live mount of the built-in database engine over to a mount of Leasehold.
    ///
    /// Copies connections and roles, tries each, and says what will be seen differently; run again it goes on where it
    /// stopped. Static roles change over with --switch. Uses the server's command line program, with its BAO_ADDR,
    /// BAO_TOKEN and so on.
    Migrate {
        #[command(flatten)]
        plan: Box<Migration>,
    },
    /// Judge a record of evidence, on any machine: the answer of `evidence/export`, or events one a line.
    ///
    /// Names the first event that was changed, left out, moved or cut off.
    VerifyEvidence {
        /// The export. `-` reads standard input.
        file: PathBuf,
        /// The mount's public key, from elsewhere than the export.
        #[arg(long, value_name = "BASE64")]
        key: Option<String>,
        /// A file with a checkpoint that was kept.
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Migration {
    /// The mount of the built-in engine.
    #[arg(long, value_name = "MOUNT")]
    from: String,
    /// The mount of Leasehold, which is there already.
    #[arg(long, value_name = "MOUNT")]
    to: String,
    /// A JSON file with what the server does not return: {"config/orders": {"password": "…"}}.
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Afterwards take static roles over, move the old mount aside, and ours to its path.
    #[arg(long)]
    switch: bool,
    /// Let --switch and --back end the leases that are alive: the server ends those of a mount that it moves.
    #[arg(long)]
    end_leases: bool,
    /// Undo --switch.
    #[arg(long, conflicts_with = "switch")]
    back: bool,
    /// The server's command line program.
    #[arg(long, default_value = "bao", value_name = "PROGRAM")]
    program: PathBuf,
}

fn move_over(given: Migration) -> ExitCode {
    let Migration { from, to, secrets, dry_run, switch, end_leases, back, program } = given;
    let plan = migrate::Plan { from, to, secrets, dry_run, switch, end_leases, back, program };
    match migrate::run(&plan, |line| println!("{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("leasehold: {why}");
            ExitCode::FAILURE
        }
    }
}

#[derive(clap::Args)]
struct Ending {
    /// Whether users are ended: normal, report_only (the log tells who would be) or paused. The variable
    /// LEASEHOLD_REVOCATION_MODE of the server's own environment says the same; the stricter of the two counts.
    #[arg(long, default_value = "normal", value_name = "MODE", value_parser = RevocationMode::named)]
    revocation_mode: RevocationMode,
}

/// What a host restores with everything else cannot hold back what it would do next; its environment can.
const MODE_VARIABLE: &str = "LEASEHOLD_REVOCATION_MODE";

fn ordered(argument: RevocationMode) -> Result<RevocationMode, String> {
    match std::env::var(MODE_VARIABLE) {
        Ok(name) => {
            RevocationMode::named(&name).map(|mode| mode.max(argument)).map_err(|e| format!("{MODE_VARIABLE}: {e}"))
        }
        Err(std::env::VarError::NotPresent) => Ok(argument),
        Err(e) => Err(format!("{MODE_VARIABLE}: {e}")),
    }
}

fn main() -> ExitCode {
    // First of all, and before there are threads.
    let moves_over = std::env::args_os().nth(1).is_some_and(|first| first == "migrate");
    let not_hardened = if moves_over { memory::conceal() } else { memory::harden() };
    let arguments = Arguments::parse();
    if let Some(Engine::VerifyEvidence { file, key, checkpoint }) = &arguments.engine {
        return verify_evidence(file, key.as_deref(), checkpoint);
    }
    if let Some(Engine::Migrate { plan }) = arguments.engine {
        return move_over(*plan);
    }
    let invitation = match Invitation::read() {
        Ok(invitation) => invitation,
        Err(refusal) => {
            eprintln!("{refusal}");
            return ExitCode::FAILURE;
        }
    };
    let (kind, ending) = match arguments.engine {
        Some(Engine::Database { ending }) => (Kind::Database, ending),
        Some(Engine::Aws { ending }) => (Kind::Aws, ending),
        Some(Engine::VerifyEvidence { .. } | Engine::Migrate { .. }) | None => {
            eprintln!("leasehold: no engine is named; register the plugin with -args=database or -args=aws");
            return ExitCode::FAILURE;
        }
    };
    let orders = match ordered(ending.revocation_mode) {
        Ok(revocation_mode) => Orders { kind, revocation_mode },
        Err(error) => {
            eprintln!("leasehold: {error}");
            return ExitCode::FAILURE;
        }
    };
    observe::start(arguments.log_level);
    for problem in not_hardened {
        tracing::warn!(error = %problem, "the process is less protected than it should be");
    }
    if orders.revocation_mode != RevocationMode::Normal {
        tracing::warn!(revocation_mode = %orders.revocation_mode, "no user is ended by this process");
    }
    match wire::run(&invitation, orders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "the plugin cannot run");
            ExitCode::FAILURE
        }
    }
}

/// Prints what the record came to.
fn verify_evidence(file: &Path, key: Option<&str>, checkpoints: &[PathBuf]) -> ExitCode {
    match judge(file, key, checkpoints) {
        Ok(sound) => {
            println!("ok: events {} to {}, head {}", sound.first, sound.last, sound.head);
            if sound.cut > 0 {
                let by = if key.is_some() { "signed by the given key" } else { "give --key to check who signed that" };
                println!("the first {} events were taken away by a statement of the mount, {by}", sound.cut);
            }
            if sound.too_old > 0 {
                println!("{} checkpoint(s) are of events that were taken away, and show nothing", sound.too_old);
            }
            match (sound.checkpoints, sound.signed) {
                (0, _) => println!("no checkpoint: it fits together, but may have been replaced as a whole"),
                (n, true) => println!("{n} checkpoint(s) hold, signed by the given key"),
                (n, false) => println!("{n} checkpoint(s) hold; give --key to check who signed"),
            }
            let decisions = &sound.decisions;
            println!("{} decision(s) come out the same when they are made again", decisions.repeated);
            for line in &decisions.first_unrepeatable {
                println!("not decided again: event {} ({}, {}): {}", line.seq, line.kind, line.request_id, line.why);
            }
            if decisions.unrepeatable > decisions.first_unrepeatable.len() as u64 {
                println!("not decided again: {} in all", decisions.unrepeatable);
            }
            for line in &decisions.otherwise {
                eprintln!("DECIDED OTHERWISE: event {} ({}, {}): {}", line.seq, line.kind, line.request_id, line.why);
            }
            if !decisions.otherwise.is_empty() {
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("NOT SOUND: {why}");
            ExitCode::FAILURE
        }
    }
}

fn judge(file: &Path, key: Option<&str>, checkpoints: &[PathBuf]) -> Result<Sound, String> {
    let read = |file: &Path| {
        let text = if file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        text.map_err(|e| format!("{}: {e}", file.display()))
    };
    let kept = checkpoints.iter().map(|file| {
        let text = read(file)?;
        verify::checkpoint(&text).ok_or_else(|| format!("{}: not a checkpoint", file.display()))
    });
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    verify::file(&read(file)?, kept, key).map_err(|flaw| flaw.to_string())
}
