//! What we act on: database servers, and AWS. A target knows nothing of roles, leases or approvals; it is handed a filled plan
//! and gives back an outcome.

pub mod aws;
mod dial;
pub mod dsn;
pub mod mysql;
pub mod pool;
pub mod postgres;
pub mod redis;
pub mod statement;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::secret::Secret;

/// How an action at a target ended.
///
/// A time-out or a lost connection *after* something was sent that may have taken effect is `Unknown`, never `Failed`:
/// the caller has to settle it, not guess.
#[must_use = "an unknown outcome must be settled"]
#[derive(Debug)]
pub enum Outcome<T> {
    /// It happened.
    Done(T),
    /// It did not happen, and nothing of it remains.
    Failed(TargetError),
    /// It may have happened.
    Unknown(TargetError),
}

/// Why a target refused or could not be reached. The text never holds a secret: it is built from the server's own
/// message and from the parts of the connection that are public (user, host, port, database).
#[derive(Debug, Clone, thiserror::Error)]
pub enum TargetError {
    /// The connection settings cannot be used at all (unparsable DSN, bad certificate, …).
    #[error("{0}")]
    Config(String),
    /// A creation could not begin.
    #[error("unable to start transaction: {0}")]
    Begin(Box<TargetError>),
    /// The password of an account could not be changed: the account was not even looked up. (The built-in engine's words,
    /// whatever the cause.)
    #[error("user does not appear to exist: {0}")]
    Account(Box<TargetError>),
    /// A role statement failed.
    #[error("failed to execute query: {0}")]
    Statement(Box<TargetError>),
    /// No session could be had: refused, timed out, authentication failed.
    #[error("{0}")]
    Connect(String),
    /// The server answered a statement with an error.
    #[error("ERROR: {message} (SQLSTATE {code})")]
    Server {
        /// The server's primary message.
        message: String,
        /// SQLSTATE (PostgreSQL) or the error number (MySQL).
        code: String,
    },
    /// The server answered a statement with an error, in the words of its own clients (MySQL, Redis).
    #[error("{text}")]
    Answer {
        /// What the built-in engine would show.
        text: String,
        /// The error number (MySQL) or the first word (Redis).
        code: String,
    },
    /// The deadline passed; the text names the setting that would change it.
    #[error("{0}")]
    Timeout(String),
    /// The session broke while in use.
    #[error("{0}")]
    Lost(String),
    /// The plan cannot be carried out as written (for example: it does not create the user it should).
    #[error("{0}")]
    Plan(String),
}

/// A role statement list, ready to be filled, and whose SQL it is in: see [`statement`].
pub use statement::{Dialect, Script};

/// A kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// PostgreSQL and what speaks its protocol.
    PostgreSql,
    /// MySQL and MariaDB.
    MySql,
    /// The same with names that MySQL before 5.7, and the managed servers of its time, take too.
    MySqlLegacy,
    /// Valkey and Redis.
    Redis,
}

impl Driver {
    /// The driver of a built-in engine's `plugin_name`.
    pub fn named(plugin_name: &str) -> Option<Self> {
        match plugin_name {
            "postgresql-database-plugin" => Some(Self::PostgreSql),
            "mysql-database-plugin" => Some(Self::MySql),
            "mysql-aurora-database-plugin" | "mysql-rds-database-plugin" | "mysql-legacy-database-plugin" => {
                Some(Self::MySqlLegacy)
            }
            "valkey-database-plugin" | "redis-database-plugin" => Some(Self::Redis),
            _ => None,
        }
    }

    /// Whose SQL its statements are in.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::PostgreSql => Dialect::Postgres,
            Self::MySql | Self::MySqlLegacy => Dialect::MySql,
            Self::Redis => Dialect::Redis,
        }
    }

    /// Bytes of the longest user name that the server keeps whole.
    pub fn longest_username(self) -> usize {
        match self {
            Self::PostgreSql => postgres::LONGEST_NAME,
            Self::MySql => mysql::LONGEST_NAME,
            Self::MySqlLegacy => mysql::LONGEST_LEGACY_NAME,
            Self::Redis => redis::LONGEST_NAME,
        }
    }

    /// True if a mint without creation statements makes a user all the same.
    pub fn has_default_creation(self) -> bool {
        matches!(self, Self::Redis)
    }

    /// True if each user is made together with its [`Marker`], in one transaction. Of the users of other targets there
    /// is a note only if somebody wrote one before.
    pub fn keeps_marker(self) -> bool {
        matches!(self, Self::PostgreSql)
    }

    /// What [`Target::verify`] came to, in the built-in engine's words.
    pub fn verify_error(self, error: &TargetError) -> String {
        match (self, error) {
            (Self::MySql | Self::MySqlLegacy, TargetError::Config(text)) => text.clone(),
            (Self::MySql | Self::MySqlLegacy, error) => format!("{}{error}", mysql::VERIFY_PREFIX),
            (Self::PostgreSql | Self::Redis, error) => format!("error verifying connection: {error}"),
        }
    }

    /// Whether a user of this kind of server can log in that way.
    pub fn takes(self, kind: LoginKind) -> bool {
        match self {
            Self::PostgreSql => matches!(kind, LoginKind::Password | LoginKind::Certificate),
            Self::MySql | Self::MySqlLegacy | Self::Redis => kind == LoginKind::Password,
        }
    }

    /// What a refused [`Target::set_password`] came to, in the built-in engine's words.
    pub fn change_error(self, error: &TargetError) -> String {
        match self {
            Self::PostgreSql => format!("1 error occurred:\n\t* {error}\n\n"),
            Self::MySql | Self::MySqlLegacy => format!("failed to change password: {error}"),
            Self::Redis => error.to_string(),
        }
    }
}

/// What a target is made of, by driver.
#[derive(Debug)]
pub enum Settings {
    /// For [`Driver::PostgreSql`].
    PostgreSql(postgres::Settings),
    /// For [`Driver::MySql`] and [`Driver::MySqlLegacy`].
    MySql(mysql::Settings),
    /// For [`Driver::Redis`].
    Redis(redis::Settings),
}

/// Makes targets of settings. A port, so that the engine can be tried against targets that fail as no server can be
/// made to.
pub trait Connector: Send + Sync {
    /// A target; no session is opened yet.
    fn open(&self, settings: Settings) -> Arc<dyn Target>;
    /// An AWS account; nobody is asked yet.
    fn aws(&self, settings: aws::Settings) -> Arc<dyn aws::Cloud> {
        aws::open(settings)
    }
}

/// The real drivers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Drivers;

impl Connector for Drivers {
    fn open(&self, settings: Settings) -> Arc<dyn Target> {
        match settings {
            Settings::PostgreSql(settings) => Arc::new(postgres::Postgres::new(settings)),
            Settings::MySql(settings) => Arc::new(mysql::MySql::new(settings)),
            Settings::Redis(settings) => Arc::new(redis::Redis::new(settings)),
        }
    }
}

/// How a user logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginKind {
    /// By a password.
    Password,
    /// By a key whose public half the server knows.
    PublicKey,
    /// By a certificate of an authority that the server trusts.
    Certificate,
}

/// What a server is told of how a new user logs in.
#[derive(Debug, Clone, Copy)]
pub enum Login<'a> {
    /// The password.
    Password(&'a Secret),
    /// The public key: PKIX, PEM.
    PublicKey(&'a str),
    /// Nothing: the server has only to trust the authority.
    Certificate,
}

/// Whose a minted user is, and until when: written beside it at the target, in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Marker {
    /// The mount's stable id (the host's `backendUUID`).
    pub mount: String,
    /// Role name.
    pub role: String,
    /// Id of the request that minted the user.
    pub request: String,
    /// The caller's entity id, empty if the token has none.
    pub entity: String,
    /// When it was minted, unix seconds; 0 if nobody wrote that down.
    #[serde(default)]
    pub begun: u64,
    /// When the user must be gone, unix seconds.
    pub expires: u64,
}

/// What to create.
#[derive(Debug)]
pub struct MintPlan {
    /// The user's name.
    pub username: String,
    /// Creation statements; `{{name}}`, `{{username}}`, `{{password}}`, `{{expiration}}` are filled, the
    /// password only where there is one.
    pub creation: Script,
    /// Statements that undo a failed creation; `{{name}}`, `{{username}}` are filled. Run in a transaction of their own.
    pub rollback: Script,
    /// When the server itself should refuse the login.
    pub expiration: SystemTime,
    /// The note left at the target.
    pub marker: Marker,
}

/// What to prolong.
#[derive(Debug)]
pub struct RenewPlan {
    /// The user's name.
    pub username: String,
    /// Renew statements; empty means the target's default.
    pub renew: Script,
    /// The new end.
    pub expiration: SystemTime,
    /// When the marker should say the user ends, unix seconds.
    pub expires: u64,
}

/// What to end, and how.
#[derive(Debug)]
pub struct EndPlan {
    /// The user's name.
    pub username: String,
    /// Revocation statements; empty means the target's default clean-up.
    pub revocation: Script,
    /// What happens to sessions and objects.
    pub options: EndOptions,
}

/// How a user ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndOptions {
    /// What becomes of objects that the user owns.
    pub owned: Owned,
    /// What becomes of its open sessions.
    pub sessions: Sessions,
    /// Whether the end is looked at afterwards.
    pub verify: Verify,
}

/// What becomes of objects that a user owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Owned {
    /// They are somebody's data: they stay, and with them the user, barred, until somebody decides.
    #[default]
    Fail,
    /// They go with the user.
    Drop,
    /// They become another role's.
    Reassign(String),
}

/// What becomes of the open sessions of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sessions {
    /// They are ended at once.
    #[default]
    Terminate,
    /// They go on until they end by themselves.
    Keep,
    /// They may end by themselves for so long.
    Grace(Duration),
}

/// Whether the target is looked at once more after an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Yes; what cannot be looked at counts as left.
    #[default]
    Required,
    /// Yes, as far as the account of the connection can see.
    BestEffort,
    /// No.
    Off,
}

/// What ending a user came to. The user is contained in any case: no login, and no session but those that
/// [`Sessions`] allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// The user existed when we came.
    pub existed: bool,
    /// Sessions that were ended.
    pub sessions: u64,
    /// How long it took.
    pub took: Duration,
    /// What could not be cleaned up; empty if the end is verified.
    pub left: Vec<Left>,
}

/// Something of a user that is still there after its end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Left {
    /// The database it is in, empty for what belongs to the whole server.
    #[serde(default)]
    pub database: String,
    /// What it is, in the target's words: `table public.orders`, `role v-app-…`.
    pub object: String,
    /// Why it is still there, with what would mend it.
    pub reason: String,
}

/// A user that carries a [`Marker`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Its name.
    pub username: String,
    /// Whose it is.
    pub marker: Marker,
    /// It cannot log in any more.
    pub barred: bool,
}

/// Something that the engine asks of the account of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// What for, in a few words: `create users`, `end sessions of users`.
    pub name: &'static str,
    /// The account can do it.
    pub granted: bool,
    /// The statement that would grant it, if it is missing.
    pub fix: String,
}

/// What a login that was tried to learn whether a password is right came to, if not to a session.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginError {
    /// The password is not the account's.
    #[error("{0}")]
    Refused(TargetError),
    /// The account may not log in here, whatever the password: there is no telling.
    #[error("{0}")]
    Barred(TargetError),
    /// Nobody could be asked.
    #[error("{0}")]
    Unreachable(TargetError),
}

impl LoginError {
    /// By what the server answered: one of `wrong` says that the password is; any other answer, that there is no telling.
    fn by_code(error: TargetError, wrong: &[&str]) -> Self {
        match &error {
            TargetError::Answer { code, .. } if wrong.contains(&code.as_str()) => Self::Refused(error),
            TargetError::Answer { .. } => Self::Barred(error),
            _ => Self::Unreachable(error),
        }
    }
}

/// One connected target. Calls may run concurrently; each has its own deadline.
#[async_trait]
pub trait Target: Send + Sync {
    /// Connects and asks for a sign of life.
    async fn verify(&self) -> Result<(), TargetError>;
    /// Creates a user that logs in by `login`, which [`Driver::takes`]. Safe against a dropped future: the work is done or undone, not half done.
    async fn mint(&self, plan: &MintPlan, login: Login<'_>) -> Outcome<()>;
    /// Moves the end of a user.
    async fn renew(&self, plan: &RenewPlan) -> Result<(), TargetError>;
    /// Ends a user: no login, no session, no user. A user that is already gone is a success, and so is one that is
    /// contained but not cleaned up: [`Ended::left`] then says why.
    ///
    /// # Errors
    /// If the user could not be contained, or nobody knows whether it is.
    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError>;
    /// The users of this mount that carry a [`Marker`]; none where [`Driver::keeps_marker`] says so.
    async fn marked(&self, mount: &str) -> Result<Vec<Marked>, TargetError>;
    /// Which of these users are there.
    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError>;
    /// What the account of the connection can do of what the engine needs. Changes nothing.
    async fn check(&self) -> Result<Vec<Capability>, TargetError>;
    /// Changes the password of an account that we did not make. `{{name}}`, `{{username}}`, `{{password}}` are filled; an
    /// empty script means the target's default. Safe against a dropped future as [`Target::mint`] is.
    async fn set_password(&self, username: &str, password: &Secret, statements: &Script) -> Outcome<()>;
    /// Logs in as `username`, on a session of its own, to learn whether `password` opens the account. A server that
    /// refuses for another reason after it has accepted the password counts as `Ok`.
    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError>;
    /// Closes every session. Later calls fail with [`TargetError::Connect`].
    async fn close(&self);
}
