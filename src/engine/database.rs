//! The paths of the `database` engine.

pub mod check;
pub mod connection;
pub mod credential;
pub mod creds;
pub mod paths;
pub mod rehearsal;
pub mod role;
pub mod root;
mod selftest;
pub mod static_role;

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::Mount;
use super::caps::supersede;
use super::end::Trouble;
use super::error::Error;
use super::field::Input;
use super::request::{Existence, Operation, Reply, Request, Response};
use super::rotation::queue::Lane;
use super::{intent, metrics, reconcile, remnant, status};
use crate::target::Standing;
use paths::Path;

/// The `database` kind of mount.
pub(super) struct Paths;

impl super::Engine for Paths {
    type Path = Path;
    const ROUTES: &'static [super::route::Route<Path>] = paths::ROUTES;
    const ACCESS: &'static [super::route::Route<super::access::paths::Path>] = super::access::paths::ROUTES;
    const NAME: &'static str = "database";
    const HELP: &'static str = paths::HELP;
    const NULL_IS_ABSENT: bool = false;

    async fn handle(mount: &Mount, path: Path, name: &str, input: &Input, request: &Request) -> Reply {
        handle(mount, path, name, input, request).await
    }
    async fn exists(mount: &Mount, path: Path, name: &str) -> Result<Existence, Error> {
        exists(mount, path, name).await
    }
}

/// Answers a request on a path of this engine. `name` is what the path captured.
pub async fn handle(mount: &Mount, path: Path, name: &str, input: &Input, request: &Request) -> Reply {
    use Operation::{Create, Delete, List, Read, Update};
    match (path, request.operation) {
        (Path::Configs, List) => connection::list(mount, input).await,
        (Path::Config, Read) => connection::read(mount, name).await,
        (Path::Config, Create | Update) => connection::write(mount, name, input, &request.data).await,
        (Path::Config, Delete) => connection::delete(mount, name, input).await,
        (Path::Check, Read) => check::read(mount, name).await,
        (Path::Reset, Create | Update) => connection::reset(mount, name).await,
        (Path::Reload, Create | Update) => connection::reload(mount, name).await,
        (Path::Roles, List) => role::list(mount, input).await,
        (Path::Role, Read) => role::read(mount, name).await,
        (Path::Role, Create | Update) => role::write(mount, name, input).await,
        (Path::Role, Delete) => role::delete(mount, name).await,
        (Path::Creds, Read) => creds::read(mount, name, request).await,
        (Path::StaticRoles, List) => static_role::list(mount, input).await,
        (Path::StaticRole, Read) => static_role::read(mount, name).await,
        (Path::StaticRole, Create | Update) => static_role::write(mount, name, input).await,
        (Path::StaticRole, Delete) => static_role::delete(mount, name).await,
        (Path::StaticCreds, Read) => static_role::creds(mount, name).await,
        (Path::RotateRole, Create | Update) => static_role::rotate(mount, name).await,
        (Path::RotateRoot, Create | Update) => root::rotate(mount, name).await,
        (Path::RoleTest, Create | Update) => rehearsal::test(mount, name).await,
        (Path::Selftest, Create | Update) => {
            selftest::run(mount, input.text("role").unwrap_or_default(), input, request).await
        }
        (Path::Statuses, Read) => status::list(mount).await,
        (Path::Status, Read) => status::read(mount, name).await,
        (Path::Metrics, Read) => metrics::read(mount).await,
        (Path::Reconcile, Read) => reconcile::read(mount, name).await,
        (Path::Reconcile, Create | Update) => reconcile::write(mount, name).await,
        (Path::Remnants, List) => remnant::list(mount, input).await,
        (Path::Remnant, Read) => remnant::read(mount, name).await,
        (Path::RemnantAccept, Create | Update) => remnant::accept(mount, name, input, request).await,
        (Path::RemnantRetry, Create | Update) => remnant::retry(mount, name).await,
        _ => Err(Error::UnsupportedOperation),
    }
}

/// Every account that has a time to change its password, or an unfinished change, and every user that must be gone at
/// some time: the key of its record, its connection, and when it is due. What cannot be read is reported and left out.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let storage = &mount.ports.storage;
    let mut found = static_role::scheduled(mount).await?;
    let mut open = storage.list(static_role::RECORDS, "", -1).await?;
    open.extend(storage.list(static_role::SECOND_RECORDS, "", -1).await?);
    for name in open {
        let connection = found.iter().find(|(key, ..)| *key == static_role::record_key(&name));
        let connection = connection.map(|(_, connection, _)| connection.clone()).unwrap_or_default();
        found.push((static_role::record_key(&name), connection, SystemTime::UNIX_EPOCH));
    }
    found.extend(root::scheduled(mount).await?);
    for name in storage.list(root::RECORDS, "", -1).await? {
        found.push((root::record_key(&name), name, SystemTime::UNIX_EPOCH));
    }
    found.extend(creds::scheduled(mount).await?);
    found.extend(remnant::scheduled(mount).await?);
    found.extend(reconcile::scheduled(mount).await?);
    found.extend(supersede::scheduled(mount).await?);
    Ok(found)
}

/// Which turn the work with this record key has.
pub fn lane(key: &str) -> Lane {
    let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    match key {
        _ if is(&[intent::PREFIX, remnant::PREFIX]) => Lane::Ends,
        _ if is(&[reconcile::PREFIX, supersede::PREFIX]) => Lane::Sweeps,
        _ => Lane::Passwords,
    }
}

/// Does what the account with this record key is due for. Failures are in the queue when this returns.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Error> {
    if let Some(name) = key.strip_prefix(static_role::RECORDS) {
        static_role::when_due(mount, name).await
    } else if let Some(name) = key.strip_prefix(root::RECORDS) {
        root::when_due(mount, name).await
    } else if let Some(name) = key.strip_prefix(reconcile::PREFIX) {
        reconcile::when_due(mount, name).await;
        Ok(())
    } else if let Some(name) = key.strip_prefix(supersede::PREFIX) {
        supersede::when_due(mount, name).await;
        Ok(())
    } else {
        mount.rotation.queue.forget(key);
        Ok(())
    }
}

/// Ends the user with this record key. Failures are in the queue when this returns.
pub async fn end_due(mount: &Mount, key: &str) -> Result<(), Trouble> {
    if key.starts_with(intent::PREFIX) {
        creds::when_due(mount, key).await
    } else {
        remnant::when_due(mount, key).await
    }
}

/// Whether the database of a connection answers, in `patience` or in the time that its own settings give it. A connection
/// that is not there any more answers too: what comes of it, everybody finds out for himself.
pub async fn answers(mount: &Mount, name: &str, patience: Option<Duration>) -> Result<(), String> {
    if name.is_empty() {
        // Of what could not be read.
        return Ok(());
    }
    let asking = async {
        match mount.connections.live(name) {
            Some(connection) => connection::verify(&connection).await,
            None => match connection::Config::load(mount, name).await {
                Ok(Some(_)) => mount.connections.get(mount, name).await.map(drop).map_err(|e| e.to_string()),
                Ok(None) => Ok(()),
                Err(e) => Err(e.to_string()),
            },
        }
    };
    match patience {
        Some(patience) => tokio::time::timeout(patience, asking)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {}s", patience.as_secs()))),
        None => asking.await,
    }
}

/// Whether a write to the path would create something.
pub async fn exists(mount: &Mount, path: Path, name: &str) -> Result<Existence, Error> {
    let key = match path {
        Path::Config => connection::key(name),
        Path::Role => role::key(name),
        Path::StaticRole => static_role::key(name),
        _ => return Ok(Existence::Unchecked),
    };
    Ok(match mount.ports.storage.get(&key).await? {
        Some(_) => Existence::Found,
        None => Existence::Missing,
    })
}

/// Who can log in to the database of each connection with rights over others, but for the users of this mount; or why that
/// is not known.
pub async fn standing(mount: &Mount) -> Result<Vec<(String, Result<Vec<Standing>, String>)>, Error> {
    let mut all = Vec::new();
    for name in mount.ports.storage.list("config/", "", -1).await? {
        let found = match mount.connections.get(mount, &name).await {
            Ok(connection) => connection.target.standing(&mount.id).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        all.push((name, found));
    }
    Ok(all)
}

/// LIST below a storage prefix, with `after` and `limit`. An empty list is a 404 of the host.
pub(super) async fn list(mount: &Mount, prefix: &str, input: &Input) -> Reply {
    let after = input.text("after").unwrap_or_default();
    let limit = input.int("limit").unwrap_or(-1);
    let limit = i32::try_from(limit).map_err(|_| Error::Refused(format!("limit {limit} is out of range")))?;
    let keys = mount.ports.storage.list(prefix, after, limit).await?;
    Ok(Some(if keys.is_empty() {
        Response { data: Some(Vec::new()), ..Response::default() }
    } else {
        Response::data([("keys", json!(keys))])
    }))
}
