//! The plugin's process: harden it, read the arguments, serve.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leasehold::engine::Kind;
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
    Database,
    /// AWS credentials: the paths of the AWS engine.
    Aws,
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
    let kind = match arguments.engine {
        Some(Engine::Database) => Kind::Database,
        Some(Engine::Aws) => Kind::Aws,
        None => {
            eprintln!("leasehold: no engine is named; register the plugin with -args=database or -args=aws");
            return ExitCode::FAILURE;
        }
    };
    observe::start(arguments.log_level);
    for problem in not_hardened {
        tracing::warn!(error = %problem, "the process is less protected than it should be");
    }
    match wire::run(&invitation, kind) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "the plugin cannot run");
            ExitCode::FAILURE
        }
    }
}
