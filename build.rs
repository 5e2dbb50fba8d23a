//! Turns `proto/` into Rust: both halves of every service, the host's half for the tests. Needs no `protoc`.

use std::error::Error;

const FILES: &[&str] = &[
    "plugin/process.proto",
    "plugin/multiplexing.proto",
    "logical/identity.proto",
    "logical/version.proto",
    "backend/backend.proto",
    "backend/storage.proto",
    "backend/system_view.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // No message has a Debug: requests, answers and storage entries hold secrets.
    tonic_prost_build::configure().skip_debug(["."]).compile_fds(descriptors)?;
    Ok(())
}
