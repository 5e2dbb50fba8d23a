//! The paths of the `database` engine.

pub mod connection;
pub mod credential;
pub mod creds;
pub mod paths;
pub mod role;

use serde_json::json;

use super::Mount;
use super::error::Error;
use super::field::Input;
use super::request::{Existence, Operation, Reply, Request, Response};
use paths::Path;

/// Answers a request on a path of this engine. `name` is what the path captured.
pub async fn handle(mount: &Mount, path: Path, name: &str, input: &Input, request: &Request) -> Reply {
    use Operation::{Create, Delete, List, Read, Update};
    match (path, request.operation) {
        (Path::Configs, List) => connection::list(mount, input).await,
        (Path::Config, Read) => connection::read(mount, name).await,
        (Path::Config, Create | Update) => connection::write(mount, name, input, &request.data).await,
        (Path::Config, Delete) => connection::delete(mount, name).await,
        (Path::Reset, Create | Update) => connection::reset(mount, name).await,
        (Path::Reload, Create | Update) => connection::reload(mount, name).await,
        (Path::Roles, List) => role::list(mount, input).await,
        (Path::Role, Read) => role::read(mount, name).await,
        (Path::Role, Create | Update) => role::write(mount, name, input).await,
        (Path::Role, Delete) => role::delete(mount, name).await,
        (Path::Creds, Read) => creds::read(mount, name, request).await,
        _ => Err(Error::UnsupportedOperation),
    }
}

/// Whether a write to the path would create something.
pub async fn exists(mount: &Mount, path: Path, name: &str) -> Result<Existence, Error> {
    let key = match path {
        Path::Config => connection::key(name),
        Path::Role => role::key(name),
        _ => return Ok(Existence::Unchecked),
    };
    Ok(match mount.ports.storage.get(&key).await? {
        Some(_) => Existence::Found,
        None => Existence::Missing,
    })
}

/// LIST below a storage prefix, with `after` and `limit`. An empty list is a 404 of the host.
async fn list(mount: &Mount, prefix: &str, input: &Input) -> Reply {
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
