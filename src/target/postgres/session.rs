//! One session at a PostgreSQL server, and what it says.

use std::io;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Either, Executor};

use crate::secret::Secret;
use crate::target::TargetError;
use crate::target::dsn::{Endpoint, Host};
use crate::target::pool::Session;

/// How much longer than the server's own `statement_timeout` we wait for its answer.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// A session. It must be dropped, not used again, after anything but a server error.
pub struct PgSession {
    connection: PgConnection,
    statement_timeout: Duration,
}

/// Why a statement did not succeed.
#[derive(Debug)]
pub enum Problem {
    /// The server said no.
    Server {
        /// Its primary message.
        message: String,
        /// Its SQLSTATE.
        code: String,
    },
    /// There is no telling what the server did: the session broke, or did not answer in time.
    Broken(TargetError),
    /// Nothing was sent.
    Unsent(TargetError),
}

impl Problem {
    /// True if trying again may help: somebody else changed the same rows at the same time.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Server { message, code } => match code.as_str() {
                "40001" | "40P01" => true,
                // Catalogue rows are not retried by the server itself.
                "XX000" => message.starts_with("tuple concurrently"),
                _ => false,
            },
            _ => false,
        }
    }

    /// True for that SQLSTATE.
    pub fn has_code(&self, expected: &str) -> bool {
        matches!(self, Self::Server { code, .. } if code == expected)
    }
}

impl From<Problem> for TargetError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Server { message, code } => Self::Server { message, code },
            Problem::Broken(e) | Problem::Unsent(e) => e,
        }
    }
}

impl PgSession {
    /// Runs one message of statements; rows are dropped, but for the first.
    pub async fn run(&mut self, sql: &str) -> Result<Option<PgRow>, Problem> {
        let limit = self.statement_timeout + ANSWER_GRACE;
        let mut first = None;
        let reading = async {
            // The one door for statement text that is made at run time: everything that reaches it was filled by
            // `statement` or quoted here.
            let mut answers = self.connection.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())));
            while let Some(answer) = answers.try_next().await? {
                if let Either::Right(row) = answer
                    && first.is_none()
                {
                    first = Some(row);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(limit, reading).await {
            Ok(Ok(())) => Ok(first),
            Ok(Err(e)) => Err(problem(e)),
            Err(_elapsed) => Err(Problem::Broken(TargetError::Timeout(format!(
                "the database did not answer within {}s (statement_timeout)",
                self.statement_timeout.as_secs_f32()
            )))),
        }
    }

    /// Runs one message whose text holds a secret.
    pub async fn run_secret(&mut self, sql: &Secret) -> Result<Option<PgRow>, Problem> {
        self.run(sql.expose()).await
    }

    /// Begins a transaction in which no statement takes longer than `statement_timeout`.
    pub fn begin(&self) -> String {
        format!("BEGIN;\nSET LOCAL statement_timeout = {}", self.statement_timeout.as_millis())
    }

    /// Rolls back; false if the session is of no further use.
    pub async fn roll_back(&mut self) -> bool {
        self.run("ROLLBACK").await.is_ok()
    }

    /// PostgreSQL 10 and later know SCRAM.
    pub fn knows_scram(&self) -> bool {
        self.connection.server_version_num().is_none_or(|version| version >= 100_000)
    }
}

impl Session for PgSession {
    async fn ping(&mut self) -> bool {
        self.run("-- ping").await.is_ok()
    }

    async fn close(self) {
        // A server that is gone need not hear a goodbye.
        let _ = self.connection.close().await;
    }
}

fn problem(e: sqlx::Error) -> Problem {
    match e {
        sqlx::Error::Database(e) => match e.try_downcast_ref::<PgDatabaseError>() {
            // FATAL and PANIC end the session: whether what was sent took effect is not in the message.
            Some(e) if matches!(e.code(), "57P01" | "57P02" | "57P03") => {
                Problem::Broken(TargetError::Lost(format!("FATAL: {} (SQLSTATE {})", e.message(), e.code())))
            }
            Some(e) => Problem::Server { message: e.message().to_owned(), code: e.code().to_owned() },
            None => Problem::Broken(TargetError::Lost("the server sent an unknown error".into())),
        },
        sqlx::Error::Io(e) => {
            Problem::Broken(TargetError::Lost(format!("the session broke: {}", io_text(&e))))
        }
        // Other texts of the driver may quote what was sent.
        _ => Problem::Broken(TargetError::Lost("the session broke: the server's answer made no sense".into())),
    }
}

/// Connects to the first host that lets us in.
///
/// # Errors
/// What each host said, in the words of the built-in engine's driver.
pub async fn open(
    endpoint: &Endpoint,
    database: Option<&str>,
    statement_timeout: Duration,
) -> Result<PgSession, TargetError> {
    let database = database.unwrap_or(&endpoint.database);
    let mut said = Vec::new();
    for host in &endpoint.hosts {
        let options = options(endpoint, host, database)?;
        match PgConnection::connect_with(&options).await {
            Ok(connection) => return Ok(PgSession { connection, statement_timeout }),
            Err(e) => said.push(format!("{}: {}", address(host), connect_text(e, host))),
        }
    }
    let who = format!("failed to connect to `user={} database={database}`:", endpoint.user);
    Err(TargetError::Connect(match said.as_slice() {
        [one] => format!("{who} {one}"),
        several => format!("{who}\n\t{}", several.join("\n\t")),
    }))
}

fn address(host: &Host) -> String {
    if host.is_socket() {
        format!("{}/.s.PGSQL.{} ({})", host.name, host.port, host.name)
    } else {
        format!("{}:{} ({})", host.name, host.port, host.name)
    }
}

fn connect_text(e: sqlx::Error, host: &Host) -> String {
    match e {
        sqlx::Error::Io(e) if host.is_socket() => {
            format!("dial error: dial unix {}/.s.PGSQL.{}: connect: {}", host.name, host.port, io_text(&e))
        }
        sqlx::Error::Io(e) => format!("dial error: dial tcp {}:{}: connect: {}", host.name, host.port, io_text(&e)),
        sqlx::Error::Database(e) => match e.try_downcast_ref::<PgDatabaseError>() {
            Some(e) => {
                let stage = if e.code() == "28P01" { "failed SASL auth" } else { "server error" };
                format!("{stage}: FATAL: {} (SQLSTATE {})", e.message(), e.code())
            }
            None => "server error".into(),
        },
        sqlx::Error::Tls(e) => format!("tls error: {e}"),
        sqlx::Error::Configuration(e) => format!("cannot use these settings: {e}"),
        // Other texts of the driver may quote settings.
        _ => "the server's answer made no sense".into(),
    }
}

fn io_text(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        io::ErrorKind::UnexpectedEof => "unexpected EOF".into(),
        _ => e.to_string(),
    }
}

/// Every setting is given: what is not would be read from the environment.
fn options(endpoint: &Endpoint, host: &Host, database: &str) -> Result<PgConnectOptions, TargetError> {
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(host.port)
        .username(&endpoint.user)
        .password(endpoint.password.expose())
        .database(database)
        .application_name(&endpoint.application_name)
        .statement_cache_capacity(0)
        .disable_statement_logging();
    options = if host.is_socket() { options.socket(&host.name) } else { options.host(&host.name) };
    options = endpoint.tls.apply(options)?;
    if !endpoint.parameters.is_empty() {
        options = options.options(endpoint.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    }
    Ok(options)
}
