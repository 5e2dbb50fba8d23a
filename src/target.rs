//! What we act on: database servers, and AWS. A target knows nothing of roles, leases or approvals; it is handed a filled plan
//! and gives back an outcome.

pub mod aws;
mod capability;
mod dial;
pub mod dsn;
mod ending;
pub mod mysql;
pub mod passwords;
pub mod pool;
pub mod postgres;
pub mod redis;
pub mod statement;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::secret::Secret;
use crate::secret::verifier::Prepared;

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
    /// Nothing was tried: the target gives no sessions at the moment, or too many requests wait for one.
    #[error("{0}")]
    Unavailable(String),
    /// The session broke while in use.
    #[error("{0}")]
    Lost(String),
    /// The target has a user of the same request already; see [`MintPlan::repeats`].
    #[error("the request was carried out before")]
    Repeated,
    /// The plan cannot be carried out as written (for example: it does not create the user it should).
    #[error("{0}")]
    Plan(String),
}

impl TargetError {
    /// True for an answer of the server with one of these codes.
    fn has_code(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Answer { code, .. } if codes.contains(&code.as_str()))
    }

    /// True if a user was not made because it could have turned its recording off.
    pub fn is_unrecorded(&self) -> bool {
        match self {
            Self::Begin(inner) | Self::Statement(inner) => inner.is_unrecorded(),
            Self::Server { code, .. } => code == postgres::UNRECORDED,
            _ => false,
        }
    }

    /// True if the target could not be reached, or works on nothing at the moment: what failed may be tried again as
    /// soon as it answers. False if it answered, and said no.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout(_) | Self::Unavailable(_) | Self::Lost(_) => true,
            Self::Begin(inner) | Self::Account(inner) | Self::Statement(inner) => inner.is_outage(),
            // Shutting down or starting, out of sessions or memory, read-only.
            Self::Server { code, .. } => {
                ["57P", "53"].iter().any(|class| code.starts_with(class)) || code.as_str() == "25006"
            }
            // Out of sessions, shutting down, read-only; and Redis's.
            Self::Answer { code, .. } => matches!(
                code.as_str(),
                "1040" | "1053" | "1290" | "1792" | "1836" | "BUSY" | "LOADING" | "MASTERDOWN" | "READONLY"
            ),
            Self::Config(_) | Self::Plan(_) | Self::Repeated => false,
        }
    }
}

/// What is asked of the account of a connection.
pub use capability::{Capability, Need};
/// What to end, how, and what it came to.
pub use ending::{EndOptions, EndPlan, Ended, Left, Owned, Sessions, Verify};
/// What sessions are opened with.
pub use passwords::Passwords;
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

    /// True if users can be made members of roles by name alone.
    pub fn has_groups(self) -> bool {
        self == Self::PostgreSql
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

impl Settings {
    /// What sessions are opened with. What is said to it later holds for the target that is made of these settings.
    pub fn passwords(&self) -> Passwords {
        match self {
            Self::PostgreSql(settings) => settings.endpoint.passwords.clone(),
            Self::MySql(settings) => settings.passwords.clone(),
            Self::Redis(settings) => settings.passwords.clone(),
        }
    }

    /// Which servers it names, whoever logs in there and however: the same text for the same ones.
    pub fn servers(&self) -> String {
        let mut servers: Vec<String> = match self {
            Self::PostgreSql(settings) => {
                settings.endpoint.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect()
            }
            Self::MySql(settings) => settings.addresses.iter().map(ToString::to_string).collect(),
            Self::Redis(settings) => vec![format!("{}:{}", settings.host, settings.port)],
        };
        servers.sort_unstable();
        servers.join(", ")
    }
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
    /// The password, with a verifier that was made before.
    Prepared(&'a Prepared),
    /// The public key: PKIX, PEM.
    PublicKey(&'a str),
    /// Nothing: the server has only to trust the authority.
    Certificate,
}

impl<'a> Login<'a> {
    /// The password, if there is one.
    pub fn password(self) -> Option<&'a Secret> {
        match self {
            Self::Password(password) => Some(password),
            Self::Prepared(prepared) => Some(&prepared.password),
            Self::PublicKey(_) | Self::Certificate => None,
        }
    }
}

/// Whose a minted user is, and until when: written beside it at the target, in the same transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// The connection that it was made at; empty if nobody wrote that down.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub connection: String,
    /// The request for access that it was made of; empty if the role needs none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grant: String,
    /// Proof that the mount itself wrote this, of all but `expires`: others may write comments too.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub seal: String,
}

/// What to create.
#[derive(Debug)]
pub struct MintPlan {
    /// The user's name.
    pub username: String,
    /// Creation statements; `{{name}}`, `{{username}}`, `{{password}}`, `{{expiration}}` are filled, the
    /// password only where there is one.
    pub creation: Script,
    /// Roles of the server that the user is to be a member of. If there are any, `creation` is empty: the user has what
    /// they have, and nothing of its own. Only where [`Driver::has_groups`] says so.
    pub groups: Vec<String>,
    /// Statements that undo a failed creation; `{{name}}`, `{{username}}` are filled. Run in a transaction of their own.
    pub rollback: Script,
    /// When the server itself should refuse the login.
    pub expiration: SystemTime,
    /// Rounds of the SCRAM verifier where one is made; `None` for the connection's.
    pub scram_iterations: Option<u32>,
    /// The note left at the target.
    pub marker: Marker,
    /// Everything that the user does is to be in the server's log, and the user cannot change that.
    pub recorded: bool,
    /// A process that has died may have done the same: where the target keeps markers, a user with the same request is
    /// looked for once nobody can be making it any more, and [`TargetError::Repeated`] says that there is one.
    pub repeats: bool,
}

/// What to try.
#[derive(Debug)]
pub struct Rehearsal {
    /// The user, and what makes it.
    pub mint: MintPlan,
    /// What prolongs it; empty means the target's default.
    pub renew: Script,
    /// What ends it; empty means the target's default.
    pub revocation: Script,
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
    /// When the marker should say the user ends, unix seconds. It never says an earlier time than before: if this call
    /// fails, the lease may be the longer one.
    pub expires: u64,
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
            _ if error.has_code(wrong) => Self::Refused(error),
            TargetError::Answer { .. } => Self::Barred(error),
            _ => Self::Unreachable(error),
        }
    }
}

/// What a server says that keeps one password a user, and is called `server`.
fn one_password(server: &str) -> TargetError {
    TargetError::Plan(format!("{server} keeps one password a user; MySQL 8.0.14 or later, Valkey and Redis keep two"))
}

/// Somebody who can log in to a target and do more than others, and was not made by us.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// What it can do, in the target's own words.
    pub rights: Vec<String>,
    /// It is the account of the connection itself.
    pub own: bool,
}

/// What a user has done, as its target counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// What counted.
    pub source: &'static str,
    /// Statements that ran.
    pub statements: u64,
    /// Rows that they read or changed.
    pub rows: u64,
}

/// What the sessions at a target are at.
#[derive(Debug, Clone, PartialEq)]
pub struct Vitals {
    /// Sessions that may be open at once.
    pub limit: usize,
    /// Sessions that somebody works with, or is opening.
    pub in_use: usize,
    /// Sessions that are open and wait for work.
    pub idle: usize,
    /// Who waits for a session, to issue something.
    pub waiting_to_issue: usize,
    /// Who waits for one, to end something.
    pub waiting_to_end: usize,
    /// The target gives no sessions.
    pub outage: Option<Outage>,
}

/// A target gives no sessions: requests are told at once, but for one attempt now and then.
#[derive(Debug, Clone, PartialEq)]
pub struct Outage {
    /// How long it has been going on.
    pub age: std::time::Duration,
    /// What the last attempt said.
    pub said: String,
}

/// One connected target. Calls may run concurrently; each has its own deadline.
#[async_trait]
pub trait Target: Send + Sync {
    /// Connects and asks for a sign of life.
    async fn verify(&self) -> Result<(), TargetError>;
    /// What server it is, in one round trip: `PostgreSQL 15.18`.
    async fn version(&self) -> Result<String, TargetError>;
    /// Creates a user that logs in by `login`, which [`Driver::takes`]. Safe against a dropped future: the work is done or undone, not half done.
    async fn mint(&self, plan: &MintPlan, login: Login<'_>) -> Outcome<()>;
    /// Makes a user as [`Target::mint`] does, renews it and ends it, all of it in one transaction that is rolled back:
    /// nobody else ever sees it. `None` where there is no such thing.
    async fn rehearse(&self, _plan: &Rehearsal, _login: Login<'_>) -> Option<Result<(), TargetError>> {
        None
    }
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
    /// Who can log in with rights over others, but for the users of this mount.
    async fn standing(&self, _mount: &str) -> Result<Vec<Standing>, TargetError> {
        Err(TargetError::Plan("this kind of server is not looked through".into()))
    }
    /// What a user has done so far, if the target counts that. Asked before its end: afterwards nobody knows its number.
    async fn usage(&self, _username: &str) -> Result<Option<Usage>, TargetError> {
        Ok(None)
    }
    /// For how many seconds no session of a user has done anything; `None` if it has no session.
    ///
    /// # Errors
    /// [`TargetError::Plan`] where that cannot be seen.
    async fn silence(&self, _username: &str) -> Result<Option<u64>, TargetError> {
        Err(TargetError::Plan("this kind of server does not tell".into()))
    }
    /// Whether all that a new user does can be in the server's log, without the user being able to change that.
    ///
    /// # Errors
    /// [`TargetError::Plan`] with what is missing.
    async fn records(&self) -> Result<(), TargetError> {
        Err(TargetError::Plan("this kind of server records nothing of what a user does".into()))
    }
    /// Which of these users are there.
    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError>;
    /// The time by the target's own clock; `None` where it cannot be asked.
    async fn clock(&self) -> Result<Option<SystemTime>, TargetError>;
    /// What the account of the connection can do of what the engine needs for users that end by `options`. Changes
    /// nothing. A role whose options give a [`Capability`] that is required and not granted cannot be kept: its users
    /// could not end as it says.
    async fn check(&self, options: &EndOptions) -> Result<Vec<Capability>, TargetError>;
    /// Whether the account of the connection can make users members of these groups: one [`Need::GrantGroups`] for each
    /// of them. Changes nothing.
    ///
    /// # Errors
    /// [`TargetError::Plan`] where users cannot be members of anything.
    async fn groups(&self, _names: &[String]) -> Result<Vec<Capability>, TargetError> {
        Err(TargetError::Plan("users of this kind of server cannot be made members of groups".into()))
    }
    /// Changes the password of an account that we did not make. `{{name}}`, `{{username}}`, `{{password}}` are filled; an
    /// empty script means the target's default. Safe against a dropped future as [`Target::mint`] is.
    async fn set_password(&self, username: &str, password: &Secret, statements: &Script) -> Outcome<()>;
    /// Whether a user can have two passwords at a time here.
    ///
    /// # Errors
    /// [`TargetError::Plan`] if not: it names the servers that can.
    async fn keeps_two_passwords(&self) -> Result<(), TargetError> {
        Err(one_password("this server"))
    }
    /// As [`Target::set_password`] without statements, but `old`, if it opens the account, goes on doing so.
    async fn add_password(&self, username: &str, password: &Secret, old: &Secret) -> Outcome<()> {
        let _ = (username, password, old);
        Outcome::Failed(one_password("this server"))
    }
    /// Ends `old`, which [`Target::add_password`] has kept. One that is gone already is no error: what failed can be done
    /// again.
    async fn remove_password(&self, username: &str, old: &Secret) -> Result<(), TargetError> {
        let _ = (username, old);
        Err(one_password("this server"))
    }
    /// Lets every password that was changed outlive a restart of the server, where that takes a step of its own: one that
    /// may have failed, or that nobody came to.
    async fn keep(&self) -> Result<(), TargetError> {
        Ok(())
    }
    /// Logs in as `username`, on a session of its own, to learn whether `password` opens the account. A server that
    /// refuses for another reason after it has accepted the password counts as `Ok`.
    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError>;
    /// What its sessions are at right now; nobody is asked. `None` where there are none to tell of.
    fn vitals(&self) -> Option<Vitals> {
        None
    }
    /// Closes every session. Later calls fail with [`TargetError::Connect`].
    async fn close(&self);
}
