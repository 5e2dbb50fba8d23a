//! The plugin's process: harden it, read the arguments, serve.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leasehold::engine::{Kind, Orders, RevocationMode};
use leasehold::observe;
use leasehold::secret::memory;
use leasehold::wire::{self, Invitation};
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
    let not_hardened = memory::harden();
    let arguments = Arguments::parse();
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
        None => {
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
