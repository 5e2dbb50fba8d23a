//! A request and its answer, as the engine sees them: no transport, no protobuf.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::engine::transit::Underway;
use crate::secret::Secret;

/// The JSON object of a request or of stored data. Numbers keep their literal text.
pub type Fields = Map<String, Value>;

/// What the host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// POST or PUT where the existence check found nothing.
    Create,
    /// POST or PUT otherwise.
    Update,
    /// GET.
    Read,
    /// DELETE.
    Delete,
    /// LIST.
    List,
    /// `?help=1`, and the OpenAPI document.
    Help,
    /// Prolong a lease (from the host's lease manager).
    Renew,
    /// End a lease (from the host's lease manager).
    Revoke,
    /// The host's clock: about every 60 seconds, on every node.
    Rollback,
}

/// The lease that a `Renew` or `Revoke` is about.
#[derive(Debug, Default)]
pub struct LeaseRef {
    /// What we gave the host to keep with the lease.
    pub internal: Fields,
    /// When the lease was issued.
    pub issued: Option<SystemTime>,
    /// The increment that the client asked for; zero if none.
    pub increment: Duration,
    /// The host's id of the lease; may be empty.
    pub id: String,
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The token's display name.
    pub display_name: String,
    /// The token's entity, empty if it has none.
    pub entity_id: String,
}

/// One request to a mount.
#[derive(Debug)]
pub struct Request {
    /// The host's id of the request; empty on calls from the host itself.
    pub id: String,
    /// What to do.
    pub operation: Operation,
    /// Path below the mount, without a leading slash.
    pub path: String,
    /// Body or query.
    pub data: Fields,
    /// The lease, for `Renew` and `Revoke`.
    pub lease: Option<LeaseRef>,
    /// Who asks.
    pub caller: Caller,
}

/// One value of an answer.
#[derive(Debug)]
pub enum Datum {
    /// Anything that may be seen.
    Plain(Value),
    /// A text that is written to the wire once and wiped.
    Secret(Secret),
}

/// The lease that comes with an answer.
#[derive(Debug)]
pub struct LeaseGrant {
    /// How long.
    pub ttl: Duration,
    /// The longest it may ever live, counted from its issue; zero means the mount's maximum.
    pub max_ttl: Duration,
    /// Whether the host may offer to prolong it.
    pub renewable: bool,
    /// What the host keeps for us and hands back on renew and revoke.
    pub internal: Fields,
}

/// The answer to a request.
#[derive(Debug, Default)]
pub struct Response {
    /// The data, in order; `None` is `null`.
    pub data: Option<Vec<(String, Datum)>>,
    /// A lease to register, or on renew its new terms.
    pub lease: Option<LeaseGrant>,
    /// Warnings for the caller.
    pub warnings: Vec<String>,
    /// The answer must not get lost: whoever sends it says what became of it.
    pub underway: Option<Underway>,
}

impl Response {
    /// An answer with plain data.
    pub fn data<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self { data: Some(fields.into_iter().map(|(k, v)| (k.into(), Datum::Plain(v))).collect()), ..Self::default() }
    }
}

/// `Ok(None)`: HTTP 204 for a write or delete, 404 for a read or list.
pub type Reply = Result<Option<Response>, crate::engine::error::Error>;

/// What an existence check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// The path has no check: the host goes on with `update`.
    Unchecked,
    /// There is an entry.
    Found,
    /// There is none: the host goes on with `create`.
    Missing,
}
