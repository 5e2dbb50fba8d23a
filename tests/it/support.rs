//! Servers and clients for the tests. Every server is stopped when its value is dropped, and also when the test process
//! is killed.
#![allow(dead_code, reason = "a kit: not every test needs every tool")]

// With their paths: the load program takes this file in from another folder.
#[path = "support/aws.rs"]
pub mod aws;
#[path = "support/aws_proxy.rs"]
pub mod aws_proxy;
#[path = "support/bao.rs"]
pub mod bao;
#[path = "support/client.rs"]
pub mod client;
#[path = "support/cluster.rs"]
pub mod cluster;
#[path = "support/mariadb.rs"]
pub mod mariadb;
#[path = "support/memory.rs"]
pub mod memory;
#[path = "support/postgres.rs"]
pub mod postgres;
#[path = "support/proxy.rs"]
pub mod proxy;
#[path = "support/random.rs"]
pub mod random;
#[path = "support/redis.rs"]
pub mod redis;
#[path = "support/search.rs"]
pub mod search;
#[path = "support/server.rs"]
pub mod server;
#[path = "support/tls.rs"]
pub mod tls;
#[path = "support/words.rs"]
pub mod words;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The plugin under test. The tests of the library, which use the servers only, have none.
pub fn plugin() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_leasehold") {
        Some(plugin) => plugin.into(),
        None => panic!("only integration tests have the plugin"),
    }
}

/// Waits until `ready` gives a value, at most `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A size that the environment may change.
pub fn number(variable: &str, default: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

/// A loopback port that nothing listens on at the moment. Another process may take it before it is used: who starts a
/// server on it tries again with another one.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
