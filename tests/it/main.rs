//! Everything that is tested through a real host and a real database, in one binary: one link, one place for servers.
//!
//! Each test that needs servers starts its own: OpenBao answers after about 0.6 s, PostgreSQL after about 0.5 s
//! (`initdb` included), and with nextest each test is a process of its own that could share nothing anyway. What a test
//! breaks, stops or fills up is then nobody else's.
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod advisories;
mod architecture;
mod aws;
mod caps;
mod certificates;
mod chaos;
mod check;
mod cluster;
mod connections;
mod dist;
mod drivers;
mod ending;
mod examples;
mod faults;
mod groups;
mod hostile;
mod jit;
mod manifest;
mod migrate;
mod notrace;
mod operations;
mod parity;
mod pictures;
mod protocol;
mod reconcile;
mod rotation;
mod smoke;
mod support;
mod target_mysql;
mod target_postgres;
mod target_redis;
