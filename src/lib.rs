//! Leasehold: a secrets engine for OpenBao and HashiCorp Vault.
//!
//! ```text
//! main ──► wire ──► engine ──► target ──► secret        observe: a leaf, used by wire and main
//! ```
//!
//! * [`wire`] speaks the host's plugin protocol and nothing else.
//! * [`engine`] is what a mount does: routes, connections, roles, leases. It knows no transport and no driver.
//! * [`target`] is what we act on. It is handed a filled plan and gives back an outcome.
//! * [`migrate`] moves a built-in mount over, from outside; it uses nothing of the others.
//! * [`secret`] holds secret types, randomness, verifiers and the memory of the process.
//!
//! Arrows never turn back; `tests/it/architecture.rs` reads the `use crate::` lines and fails when one does.
#![deny(missing_docs, unused_must_use)]
#![deny(clippy::await_holding_lock)]

pub mod engine;
pub mod migrate;
pub mod observe;
pub mod secret;
pub mod target;
pub mod wire;
