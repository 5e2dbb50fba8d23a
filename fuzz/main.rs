//! One program for all targets: the environment variable `TARGET` says which, the arguments are libFuzzer's.
#![no_main]

mod access;
mod cloud;
mod engine;
mod targets;

use std::sync::OnceLock;

use targets::TARGETS;

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() {
    let name = std::env::var("TARGET").unwrap_or_default();
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("TARGET is one of: {}", known.join(" "));
        std::process::exit(2);
    };
    CHOSEN.get_or_init(|| *target);
}

libfuzzer_sys::fuzz_target!(
    init: choose(),
    |data: &[u8]| if let Some(target) = CHOSEN.get() {
        target(data);
    }
);
