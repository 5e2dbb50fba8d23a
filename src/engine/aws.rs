//! The paths of the AWS engine.

pub mod check;
pub mod config;
pub mod creds;
pub mod denial;
pub mod identity;
mod key;
pub mod lease;
pub mod name;
pub mod paths;
pub mod role;
pub mod root;
pub mod session;
pub mod static_role;
pub mod status;
pub mod user;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::json;

use super::error::Error;
use super::field::Input;
use super::meter::{self, Work};
use super::request::{Existence, Operation, Reply, Request, Response};
use super::{Mount, RevocationMode, access, metrics};
use crate::target::aws::{Cause, Cloud, Failure, Principal};
use paths::Path;

/// What a lease of this engine is called in its internal data.
pub const SECRET_KIND: &str = "access_keys";

/// What a mount keeps in memory.
#[derive(Default)]
pub struct State {
    open: Mutex<Option<Open>>,
    /// Counts what made the open account outdated.
    changes: AtomicU64,
    denials: denial::Desks,
}

/// The account as `config/root` says.
#[derive(Clone)]
struct Open {
    cloud: Arc<dyn Cloud>,
    whoami: Option<Principal>,
}

impl State {
    /// The account is opened anew, as whom it is then.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The account, as `config/root` says it is reached.
pub async fn cloud(mount: &Mount) -> Result<Arc<dyn Cloud>, Error> {
    opened(mount).await.map(|open| open.cloud)
}

async fn opened(mount: &Mount) -> Result<Open, Error> {
    let state = &mount.aws;
    if let Some(open) = state.open.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        return Ok(open.clone());
    }
    let change = state.changes.load(Ordering::SeqCst);
    let config = config::Root::load(mount).await?.unwrap_or_default();
    let open = Open { cloud: mount.ports.targets.aws(config.settings()), whoami: None };
    keep(state, change, &open);
    Ok(open)
}

fn keep(state: &State, change: u64, open: &Open) {
    let mut slot = state.open.lock().unwrap_or_else(PoisonError::into_inner);
    if state.changes.load(Ordering::SeqCst) == change {
        *slot = Some(open.clone());
    }
}

/// Who the engine itself is at AWS. Asked once for each configuration.
pub async fn whoami(mount: &Mount) -> Result<Principal, Failure> {
    let change = mount.aws.changes.load(Ordering::SeqCst);
    let open = opened(mount).await.map_err(|e| Failure::new(Cause::Refused, "ConfigError", e.to_string()))?;
    if let Some(principal) = open.whoami {
        return Ok(principal);
    }
    let principal = open.cloud.whoami().await?;
    keep(&mount.aws, change, &Open { whoami: Some(principal.clone()), ..open });
    Ok(principal)
}

/// What AWS said to a request, in the built-in engine's words: 502 for "slow down", else 400.
fn refused(what: &str, failure: &Failure) -> Error {
    let text = format!("{what}: {failure}");
    match failure.cause {
        Cause::Throttled => Error::Coded(502, text),
        _ => Error::Refused(text),
    }
}

/// Does `work` at AWS, and counts it.
async fn counted<T>(mount: &Mount, work: Work, doing: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let why = |done: &Result<T, Error>| done.as_ref().err().map(ToString::to_string);
    meter::timed(mount, status::ACCOUNT, work, doing, why).await
}

/// What the lease of a gated role says besides: whose it is, and where.
fn gated<'a>(
    wanted: &creds::Wanted<'a>,
    target: &'a str,
) -> impl Iterator<Item = (String, serde_json::Value)> + use<'a> {
    let said = [("role", wanted.name), (access::ending::TARGET_FIELD, target)];
    let gated = !wanted.role.gate.jit_policy.is_empty();
    said.into_iter().filter(move |_| gated).map(|(key, text)| (key.to_owned(), json!(text)))
}

/// Whether credentials are ended at all: an operator may hold that back for the whole process.
fn may_end(mount: &Mount, what: &str, name: &str) -> Result<(), Error> {
    let mode = mount.revocation_mode;
    if mode == RevocationMode::Normal {
        return Ok(());
    }
    if mode == RevocationMode::ReportOnly {
        tracing::warn!(what, name, "would be ended, but revocation_mode is report_only");
    }
    Err(Error::Failed(format!(
        "the {what} {name:?} stays: the revocation_mode of the plugin's process is {mode}; set it to normal to end it"
    )))
}

/// The AWS kind of mount.
pub(super) struct Paths;

impl super::Engine for Paths {
    type Path = Path;
    const ROUTES: &'static [super::route::Route<Path>] = paths::ROUTES;
    const ACCESS: &'static [super::route::Route<super::access::paths::Path>] = super::access::paths::ROUTES;
    const NAME: &'static str = "aws";
    const HELP: &'static str = paths::HELP;
    // Clients send what they do not set as null; the built-in engine takes that for zero.
    const NULL_IS_ABSENT: bool = true;

    async fn handle(mount: &Mount, path: Path, name: &str, input: &Input, request: &Request) -> Reply {
        use Operation::{Delete, List, Read, Update};
        match (path, request.operation) {
            (Path::Root, Read) => config::read(mount).await,
            (Path::Root, Update) => config::write(mount, input).await,
            (Path::RotateRoot, Update) => root::rotate(mount).await,
            (Path::Lease, Read) => config::read_lease(mount).await,
            (Path::Lease, Update) => config::write_lease(mount, input).await,
            (Path::Roles, List) => role::list_all(mount, input).await,
            (Path::Role, Read) => role::read(mount, name).await,
            (Path::Role, Update) => role::write(mount, name, input).await,
            (Path::Role, Delete) => role::delete(mount, name).await,
            (Path::Creds | Path::Sts, Read | Update) => creds::mint(mount, path, name, input, request).await,
            (Path::StaticRoles, List) => list(mount, &[static_role::PREFIX], input).await,
            (Path::StaticRole, Read) => static_role::read(mount, name).await,
            (Path::StaticRole, Update) => static_role::write(mount, name, input).await,
            (Path::StaticRole, Delete) => static_role::delete(mount, name).await,
            (Path::StaticCreds, Read) => static_role::creds(mount, name).await,
            (Path::RotateRole, Update) => static_role::rotate(mount, name).await,
            (Path::Status, Read) => status::read(mount).await,
            (Path::Metrics, Read) => metrics::read(mount).await,
            (Path::Sync, Update) => denial::sync_all(mount).await,
            (Path::RevokeIdentity, Update) => denial::revoke_identity(mount, input).await,
            (Path::Check, Read) => check::check(mount, name).await,
            _ => Err(Error::UnsupportedOperation),
        }
    }

    async fn exists(_: &Mount, _: Path, _: &str) -> Result<Existence, Error> {
        Ok(Existence::Unchecked)
    }
}

/// LIST below several storage prefixes, with `after` and `limit`. An empty list is a 404 of the host.
async fn list(mount: &Mount, prefixes: &[&str], input: &Input) -> Reply {
    let after = input.text("after").unwrap_or_default();
    let limit = input.int("limit").unwrap_or(-1);
    let limit = i32::try_from(limit).map_err(|_| Error::Refused(format!("limit {limit} is out of range")))?;
    let mut keys = BTreeSet::new();
    for prefix in prefixes {
        keys.extend(mount.ports.storage.list(prefix, after, limit).await?);
    }
    let most = usize::try_from(limit).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
    let keys: Vec<String> = keys.into_iter().take(most).collect();
    Ok(Some(if keys.is_empty() {
        Response { data: Some(Vec::new()), ..Response::default() }
    } else {
        Response::data([("keys", json!(keys))])
    }))
}

/// Every key that is to change at some time, every user that must be gone, every denial that may be dropped: its record,
/// what it is done one after the other with, and when it is due.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let mut found = static_role::scheduled(mount).await?;
    found.extend(root::scheduled(mount).await?);
    found.extend(user::scheduled(mount).await?);
    found.extend(denial::scheduled(mount).await?);
    Ok(found)
}

/// Does what the record at `key` is due for. Failures are in the queue when this returns.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Error> {
    if let Some(name) = key.strip_prefix(static_role::RECORDS) {
        static_role::when_due(mount, name).await
    } else if key == root::RECORD {
        root::when_due(mount).await
    } else if key.starts_with(user::PREFIX) {
        user::when_due(mount, key).await
    } else if key.starts_with(denial::PREFIX) {
        denial::when_due(mount, key).await
    } else {
        mount.rotation.queue.forget(key);
        Ok(())
    }
}
