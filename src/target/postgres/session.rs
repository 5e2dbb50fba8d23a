//! One session at a PostgreSQL server, and what it says.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Either, Executor, Row};

use crate::secret::Secret;
use crate::target::TargetError;
use crate::target::dsn::{Pem, PgEndpoint, SessionAttrs, SslMode};
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
        sqlx::Error::Io(e) => Problem::Broken(TargetError::Lost(format!("the session broke: {}", io_text(&e)))),
        // Other texts of the driver may quote what was sent.
        _ => Problem::Broken(TargetError::Lost("the session broke: the server's answer made no sense".into())),
    }
}

/// Connects to the first host that lets us in and is the kind of server that is wanted.
///
/// # Errors
/// What each host said, in the words of the built-in engine's driver.
pub async fn open(
    endpoint: &PgEndpoint,
    database: Option<&str>,
    statement_timeout: Duration,
) -> Result<PgSession, TargetError> {
    let database = database.unwrap_or(&endpoint.database);
    let mut said = Vec::new();
    let preferring = endpoint.session_attrs == SessionAttrs::PreferStandby;
    let rounds: &[SessionAttrs] =
        if preferring { &[SessionAttrs::Standby, SessionAttrs::Any] } else { &[endpoint.session_attrs] };
    for wanted in rounds {
        for (name, port) in &endpoint.hosts {
            let address = Address { name, port: *port };
            let connected = PgConnection::connect_with(&options(endpoint, &address, database)).await;
            let refusal = match connected {
                Ok(connection) => {
                    let mut session = PgSession { connection, statement_timeout };
                    match suits(&mut session, *wanted).await {
                        Ok(true) => return Ok(session),
                        Ok(false) => "the server is not the kind that target_session_attrs asks for".to_owned(),
                        Err(e) => TargetError::from(e).to_string(),
                    }
                }
                Err(e) => connect_text(e, &address),
            };
            said.push(format!("{address}: {refusal}"));
        }
    }
    let who = format!("failed to connect to `user={} database={database}`:", endpoint.user);
    Err(TargetError::Connect(match said.as_slice() {
        [one] => format!("{who} {one}"),
        several => format!("{who}\n\t{}", several.join("\n\t")),
    }))
}

/// Whether the server is the kind that is wanted (libpq's `target_session_attrs`).
async fn suits(session: &mut PgSession, wanted: SessionAttrs) -> Result<bool, Problem> {
    let (ask, expected) = match wanted {
        SessionAttrs::Any | SessionAttrs::PreferStandby => return Ok(true),
        SessionAttrs::ReadWrite => ("SHOW transaction_read_only", "off"),
        SessionAttrs::ReadOnly => ("SHOW transaction_read_only", "on"),
        SessionAttrs::Primary => ("SELECT pg_is_in_recovery()::text", "false"),
        SessionAttrs::Standby => ("SELECT pg_is_in_recovery()::text", "true"),
    };
    let row = session.run(ask).await?;
    Ok(row.and_then(|row| row.try_get::<String, _>(0).ok()).as_deref() == Some(expected))
}

/// One host of an endpoint.
struct Address<'a> {
    name: &'a str,
    port: u16,
}

impl Address<'_> {
    /// A directory of unix sockets, not a host.
    fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    fn dialled(&self) -> String {
        if self.is_socket() {
            format!("unix {}/.s.PGSQL.{}", self.name, self.port)
        } else if self.name.contains(':') {
            format!("tcp [{}]:{}", self.name, self.port)
        } else {
            format!("tcp {}:{}", self.name, self.port)
        }
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dialled = self.dialled();
        write!(f, "{} ({})", dialled.split_once(' ').map_or(dialled.as_str(), |(_, place)| place), self.name)
    }
}

fn connect_text(e: sqlx::Error, address: &Address<'_>) -> String {
    match e {
        sqlx::Error::Io(e) => format!("dial error: dial {}: connect: {}", address.dialled(), io_text(&e)),
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
fn options(endpoint: &PgEndpoint, address: &Address<'_>, database: &str) -> PgConnectOptions {
    let mode = match endpoint.ssl_mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Allow => PgSslMode::Allow,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    };
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(address.port)
        .username(&endpoint.user)
        .password(endpoint.password.as_ref().map_or("", |password| password.expose()))
        .database(if database.is_empty() { &endpoint.user } else { database })
        .application_name(&endpoint.application_name)
        .ssl_mode(mode)
        .statement_cache_capacity(0)
        .disable_statement_logging();
    options = if address.is_socket() { options.socket(address.name) } else { options.host(address.name) };
    options = match &endpoint.ssl_root_cert {
        Some(Pem::File(path)) => options.ssl_root_cert(path),
        Some(Pem::Inline(text)) => options.ssl_root_cert_from_pem(text.expose().as_bytes().to_vec()),
        None => options,
    };
    options = match &endpoint.ssl_cert {
        Some(Pem::File(path)) => options.ssl_client_cert(path),
        Some(Pem::Inline(text)) => options.ssl_client_cert_from_pem(text.expose()),
        None => options,
    };
    options = match &endpoint.ssl_key {
        Some(Pem::File(path)) => options.ssl_client_key(path),
        Some(Pem::Inline(text)) => options.ssl_client_key_from_pem(text.expose()),
        None => options,
    };
    if endpoint.params.is_empty() {
        options
    } else {
        options.options(endpoint.params.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }
}
