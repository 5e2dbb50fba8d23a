//! What the engine needs of the world. `wire` implements these for a real host, tests for a simulated one.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use crate::secret::Secret;

/// Why the host's storage refused. The text is the host's own and must reach the caller unchanged: the host recognises
/// `cannot write to readonly storage` in it and forwards the request to the active node.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub String);

/// The mount's own part of the host's storage. Keys are relative to the mount: no leading or trailing slash.
#[async_trait]
pub trait Storage: Send + Sync {
    /// The entry at `key`, wiped when dropped; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Secret>, StorageError>;
    /// Writes `value` at `key`. `seal_wrap` asks the host for its additional wrapping.
    async fn put(&self, key: &str, value: &Secret, seal_wrap: bool) -> Result<(), StorageError>;
    /// Deletes `key`; deleting what is not there succeeds.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;
    /// Direct children of `prefix` (which ends with `/`), sorted, exclusive of `after`; at most `limit` if positive.
    async fn list(&self, prefix: &str, after: &str, limit: i32) -> Result<Vec<String>, StorageError>;
}

/// Why the host could not answer a question. The text is for the caller.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// The host's view of the mount.
#[async_trait]
pub trait Host: Send + Sync {
    /// The mount's default lease duration.
    async fn default_lease_ttl(&self) -> Result<Duration, HostError>;
    /// The mount's longest lease duration.
    async fn max_lease_ttl(&self) -> Result<Duration, HostError>;
    /// True on a node that must not act on a target (its storage is read-only).
    async fn is_standby(&self) -> Result<bool, HostError>;
    /// A password by a policy of the host. `None` if there is no such policy.
    async fn generate_password(&self, policy: &str) -> Result<Option<Secret>, HostError>;
    /// Who that entity is. `None` if there is none of that id, or the host knows no identities at all.
    async fn entity(&self, _id: &str) -> Result<Option<Entity>, HostError> {
        Ok(None)
    }
    /// The groups that the entity is in, inherited ones included: only those of the mount's namespace.
    async fn groups(&self, _entity: &str) -> Result<Vec<Group>, HostError> {
        Ok(Vec::new())
    }
}

/// Someone, as the host's identity store knows them. Of several namespaces only the mount's own is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entity {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What identity administrators wrote of it.
    pub metadata: BTreeMap<String, String>,
    /// Its tokens are refused.
    pub disabled: bool,
    /// The ways in which it logs in. Which of them a token came by is not told.
    pub aliases: Vec<Alias>,
}

/// One way in which an entity logs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    /// Its id.
    pub id: String,
    /// The kind of the auth mount: `userpass`, `kubernetes`, …
    pub mount_type: String,
    /// The auth mount itself.
    pub mount_accessor: String,
    /// The name there.
    pub name: String,
    /// What the auth mount says of it.
    pub metadata: BTreeMap<String, String>,
    /// What identity administrators wrote of it.
    pub custom_metadata: BTreeMap<String, String>,
}

/// A group of entities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What identity administrators wrote of it.
    pub metadata: BTreeMap<String, String>,
}

/// Something to be sent to a web server.
#[derive(Debug, Clone, Default)]
pub struct Post {
    /// Where to.
    pub url: String,
    /// Beside the type of the content.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: String,
    /// The authorities that its certificate may be of, PEM; empty: those of this machine.
    pub authority: String,
}

/// What it answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Posted {
    /// The status.
    pub status: u16,
    /// What it said.
    pub body: String,
}

/// Why there is no answer. The text names the server at most.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct WebError(pub String);

/// Other people's web servers.
#[async_trait]
pub trait Web: Send + Sync {
    /// Sends it, once.
    async fn post(&self, post: &Post) -> Result<Posted, WebError>;
}

/// The time.
pub trait Clock: Send + Sync {
    /// Now, by the wall clock, which somebody may set at any moment.
    fn now(&self) -> SystemTime;
    /// The time since some moment, by a clock that nobody sets.
    fn steady(&self) -> Duration;
}

/// Notes that outlive this process, though not the machine, and that cost next to nothing to write.
pub trait Scratch: Send + Sync {
    /// Writes a note; `None` if it cannot be kept.
    fn write(&self, text: &str) -> Option<u64>;
    /// Removes a note that [`Scratch::write`] gave.
    fn clear(&self, note: u64);
    /// The notes of processes that have died.
    fn left(&self) -> Vec<LeftNote>;
    /// Removes one of those.
    fn clear_left(&self, place: &str);
}

/// A note of a process that has died.
#[derive(Debug)]
pub struct LeftNote {
    /// Where it is.
    pub place: String,
    /// What it says.
    pub text: String,
}

/// The wall clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
    fn steady(&self) -> Duration {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGUN.elapsed()
    }
}
