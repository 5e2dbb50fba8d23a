//! What a mount does. It names no transport and no driver; what it needs of the world are [`port`]s.

pub mod error;
pub mod port;
pub mod request;

use std::sync::Arc;

use error::Error;
use port::{Clock, Host, Storage};
use request::{Existence, LeaseGrant, Reply, Request};

/// Which paths a mount answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The paths of the built-in `database` engine.
    Database,
}

/// The ports of one mount.
#[derive(Clone)]
pub struct Ports {
    /// The mount's storage.
    pub storage: Arc<dyn Storage>,
    /// The host's view of the mount.
    pub host: Arc<dyn Host>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// One mount of the engine.
pub struct Mount {
    _kind: Kind,
    _id: String,
    _ports: Ports,
}

impl Mount {
    /// A mount with the host's stable id for it. Touches nothing yet: storage may not be writable.
    pub fn new(kind: Kind, id: String, ports: Ports) -> Self {
        Self { _kind: kind, _id: id, _ports: ports }
    }

    /// Answers one request. Work at a target outlives the drop of this future.
    pub async fn handle(&self, _request: Request) -> Reply {
        Err(Error::UnsupportedPath)
    }

    /// Whether the path of a write has an entry already. A pure read: the host asks before it checks the ACL.
    pub async fn exists(&self, _path: &str) -> Result<Existence, Error> {
        Ok(Existence::Unchecked)
    }

    /// Drops what was cached of a storage key that another node changed.
    pub fn invalidate(&self, _key: &str) {}

    /// The answer to a request at `path` never reached the host, and `lease` with it: end the user at once.
    pub async fn undelivered(&self, _path: String, _lease: LeaseGrant) {}

    /// Closes every session. The mount is not used afterwards.
    pub async fn close(&self) {}
}

/// Storage prefixes the host should wrap with its seal.
pub const SEAL_WRAPPED: &[&str] = &["config/*", "static-role/*"];
