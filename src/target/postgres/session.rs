//! One session at a PostgreSQL server, and what it says.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgRow, PgSeverity, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Either, Executor, Row};
use tokio::time::Instant;

use crate::secret::Secret;
use crate::target::TargetError;
use crate::target::dsn::{Pem, PgEndpoint, SessionAttrs, SslMode};
use crate::target::pool::{NotOpened, Session};

/// How much longer than the server's own `statement_timeout` we wait for its answer.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// What every session begins with.
const PREPARATION: &str = "SET standard_conforming_strings = on";

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

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
            Ok(Err(e)) => Err(match problem(e) {
                Problem::Server { message, code } if code == "57014" => Problem::Server {
                    message: format!("{message} (statement_timeout is {}s)", self.statement_timeout.as_secs_f32()),
                    code,
                },
                other => other,
            }),
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

    /// Takes back whatever statements of others may have set in the session.
    pub async fn reset(&mut self) -> Result<(), Problem> {
        let all = "RESET SESSION AUTHORIZATION; RESET ALL; SELECT pg_advisory_unlock_all()";
        self.run(&format!("{all}; {PREPARATION}")).await.map(drop)
    }

    /// Rolls back; false if the session is of no further use.
    pub async fn roll_back(&mut self) -> bool {
        self.run("ROLLBACK").await.is_ok()
    }

    /// Asks a question whose answer is one JSON text.
    pub async fn ask<T: serde::de::DeserializeOwned>(&mut self, question: &str) -> Result<T, Problem> {
        let row = self.run(question).await?;
        row.and_then(|row| row.try_get::<String, _>(0).ok())
            .and_then(|json| serde_json::from_str(&json).ok())
            .ok_or_else(|| Problem::Broken(TargetError::Lost("the server's answer made no sense".into())))
    }

    /// PostgreSQL 10 and later know SCRAM.
    pub fn knows_scram(&self) -> bool {
        self.connection.server_version_num().is_none_or(|version| version >= 100_000)
    }

    /// PostgreSQL 16 and later keep apart who granted a membership, and what it allows.
    pub fn knows_grantors(&self) -> bool {
        self.connection.server_version_num().is_none_or(|version| version >= 160_000)
    }
}

impl Session for PgSession {
    async fn ping(&mut self) -> bool {
        self.run("-- ping").await.is_ok()
    }

    async fn close(self) {
        // A server that is gone, or hangs, need not hear a goodbye.
        let _ = tokio::time::timeout(GOODBYE, self.connection.close()).await;
    }
}

fn problem(e: sqlx::Error) -> Problem {
    match e {
        sqlx::Error::Database(e) => match e.try_downcast_ref::<PgDatabaseError>() {
            // FATAL and PANIC end the session: whether what was sent took effect is not in the message.
            Some(e) if matches!(e.severity(), PgSeverity::Fatal | PgSeverity::Panic) => {
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

/// Connects to the first host that lets us in and is the kind of server that is wanted. Each host has its share of
/// `patience`, so that one that does not answer leaves time for the next.
///
/// # Errors
/// What each host said, in the words of the built-in engine's driver.
pub async fn open(
    endpoint: &PgEndpoint,
    database: Option<&str>,
    statement_timeout: Duration,
    patience: Duration,
) -> Result<PgSession, NotOpened> {
    let deadline = Instant::now() + patience;
    let database = database.unwrap_or(&endpoint.database);
    let mut tries = endpoint.passwords.tries();
    loop {
        let login = Login { user: &endpoint.user, password: tries.current() };
        let patience = deadline.saturating_duration_since(Instant::now());
        match open_as(endpoint, &login, database, statement_timeout, patience).await {
            Ok(session) => {
                tries.succeed();
                return Ok(session);
            }
            Err(refused) if refused.verdict == Some(Verdict::Refused) && tries.go_on() => {}
            Err(refused) => {
                return Err(match refused.answer {
                    Answer::None => NotOpened::Silent(refused.error),
                    Answer::NotNow => NotOpened::Busy(refused.error),
                    Answer::No => NotOpened::Refused(refused.error),
                });
            }
        }
    }
}

/// Who logs in.
pub struct Login<'a> {
    /// The account.
    pub user: &'a str,
    /// Its password, if it has one.
    pub password: Option<&'a Secret>,
}

/// What a refusal says of the password that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right: the server looked at it before it refused for another reason.
    Accepted,
    /// It is wrong.
    Refused,
    /// It was not looked at: the account may not log in from here.
    Barred,
}

/// How far a server got with a login that it refused; in the order in which one of several hosts counts for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It did not answer as a server that could give a session.
    None,
    /// It starts or stops, or has too many sessions.
    NotNow,
    /// It said no.
    No,
}

/// No session.
pub struct LoginRefused {
    /// What each host said.
    pub error: TargetError,
    /// What is known of the password all the same.
    pub verdict: Option<Verdict>,
    /// The most that a host said.
    pub answer: Answer,
}

/// As [`open`], with another login.
pub async fn open_as(
    endpoint: &PgEndpoint,
    login: &Login<'_>,
    database: &str,
    statement_timeout: Duration,
    patience: Duration,
) -> Result<PgSession, LoginRefused> {
    refuse_environment(endpoint).map_err(|error| LoginRefused { error, verdict: None, answer: Answer::No })?;
    let deadline = Instant::now() + patience;
    let rounds: &[SessionAttrs] = match endpoint.session_attrs {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        ref wanted => std::slice::from_ref(wanted),
    };
    let modes: &[PgSslMode] = match endpoint.ssl_mode {
        SslMode::Disable => &[PgSslMode::Disable],
        SslMode::Allow => &[PgSslMode::Disable, PgSslMode::Require],
        SslMode::Prefer => &[PgSslMode::Prefer],
        SslMode::Require => &[PgSslMode::Require],
        SslMode::VerifyFull => &[PgSslMode::VerifyFull],
    };
    let mut tries = Vec::new();
    for &wanted in rounds {
        for (name, port) in &endpoint.hosts {
            let address = Address { name, port: *port };
            // There is no TLS on a unix socket.
            let modes = if address.is_socket() { &[PgSslMode::Disable][..] } else { modes };
            tries.extend(modes.iter().map(|&mode| (wanted, Address { name, port: *port }, mode)));
        }
    }
    let mut said: Vec<String> = Vec::new();
    let mut verdict = None;
    let mut answer = Answer::None;
    let mut left = u32::try_from(tries.len()).unwrap_or(u32::MAX);
    for (wanted, address, mode) in tries {
        let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left -= 1;
        let trying = try_host(options(endpoint, login, &address, database, mode), statement_timeout, wanted, &address);
        let refusal = match tokio::time::timeout(share, trying).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(refusal)) => refusal,
            Err(_elapsed) => {
                let waited = share.as_secs_f32();
                Refusal {
                    text: format!("no answer within {waited:.1}s (connect_timeout)"),
                    is_final: false,
                    verdict: None,
                    answer: Answer::None,
                }
            }
        };
        said.push(format!("{address}: {}", refusal.text));
        verdict = refusal.verdict.or(verdict);
        answer = answer.max(refusal.answer);
        if refusal.is_final {
            break;
        }
    }
    let who = format!("failed to connect to `user={} database={database}`:", login.user);
    let error = TargetError::Connect(match said.as_slice() {
        [one] => format!("{who} {one}"),
        several => format!("{who}\n\t{}", several.join("\n\t")),
    });
    Err(LoginRefused { error, verdict, answer })
}

/// Why one host did not give a session.
struct Refusal {
    text: String,
    /// Another host would say the same: the login itself is wrong.
    is_final: bool,
    verdict: Option<Verdict>,
    answer: Answer,
}

async fn try_host(
    options: PgConnectOptions,
    statement_timeout: Duration,
    wanted: SessionAttrs,
    address: &Address<'_>,
) -> Result<PgSession, Refusal> {
    let connection = PgConnection::connect_with(&options).await.map_err(|e| connect_refusal(e, address))?;
    let mut session = PgSession { connection, statement_timeout };
    // Whoever got this far has logged in.
    let passing = |text| Refusal { text, is_final: false, verdict: Some(Verdict::Accepted), answer: Answer::None };
    // What is filled into plain quotes counts on it, and the server reads a message by the setting from before it.
    let prepared = session.run(PREPARATION).await;
    prepared.map_err(|e| passing(TargetError::from(e).to_string()))?;
    match suits(&mut session, wanted).await {
        Ok(true) => Ok(session),
        Ok(false) => Err(passing("the server is not the kind that target_session_attrs asks for".to_owned())),
        Err(e) => Err(passing(TargetError::from(e).to_string())),
    }
}

/// The driver takes what an endpoint leaves open from variables that libpq knows, and some of it cannot be taken back.
fn refuse_environment(endpoint: &PgEndpoint) -> Result<(), TargetError> {
    let tls = endpoint.ssl_mode != SslMode::Disable && endpoint.ssl_cert.is_none();
    let harmful = [("PGOPTIONS", true), ("PGSSLCERT", tls), ("PGSSLKEY", tls)];
    match harmful.into_iter().find(|&(name, harms)| harms && std::env::var_os(name).is_some()) {
        Some((name, _)) => Err(TargetError::Config(format!(
            "the environment variable {name} is set for the plugin, and would change its sessions: remove it"
        ))),
        None => Ok(()),
    }
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

fn connect_refusal(e: sqlx::Error, address: &Address<'_>) -> Refusal {
    let mut is_final = false;
    let mut verdict = None;
    let mut answer = Answer::None;
    let text = match e {
        // A certificate that is not good enough ends the handshake as an error of the stream.
        sqlx::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => format!("tls error: {e}"),
        sqlx::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            "failed to receive message: unexpected EOF".into()
        }
        sqlx::Error::Io(e) => format!("dial error: dial {}: connect: {}", address.dialled(), io_text(&e)),
        sqlx::Error::Database(e) => match e.try_downcast_ref::<PgDatabaseError>() {
            Some(e) => {
                verdict = verdict_of(e);
                // Starts, stops, recovers (a crash of another session included), or is full.
                let not_now = matches!(e.code(), "57P01" | "57P02" | "57P03" | "53300");
                answer = if not_now { Answer::NotNow } else { Answer::No };
                is_final = matches!(e.code(), "28P01" | "3D000" | "42501");
                let stage = if e.code() == "28P01" { "failed SASL auth" } else { "server error" };
                format!("{stage}: FATAL: {} (SQLSTATE {})", e.message(), e.code())
            }
            None => "server error".into(),
        },
        sqlx::Error::Tls(e) => {
            answer = Answer::No;
            format!("tls error: {e}")
        }
        // The driver's text may quote a character of the password, or of a key.
        sqlx::Error::Configuration(_) => "the password, the certificate or its key cannot be used as it is".into(),
        // Other texts of the driver may quote settings.
        _ => "the server's answer made no sense".into(),
    };
    Refusal { text, is_final, verdict, answer }
}

/// The server looks at the password before it looks at most else; what it says of the rest is not in every case told
/// apart by its code.
fn verdict_of(e: &PgDatabaseError) -> Option<Verdict> {
    match e.code() {
        "28P01" => Some(Verdict::Refused),
        "3D000" | "42501" => Some(Verdict::Accepted),
        "28000" if e.message().ends_with("is not permitted to log in") => Some(Verdict::Accepted),
        "28000" => Some(Verdict::Barred),
        "53300" if e.message().starts_with("too many connections for") => Some(Verdict::Accepted),
        _ => None,
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
fn options(
    endpoint: &PgEndpoint,
    login: &Login<'_>,
    address: &Address<'_>,
    database: &str,
    mode: PgSslMode,
) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(address.port)
        .username(login.user)
        .password(login.password.map_or("", |password| password.expose()))
        .database(if database.is_empty() { login.user } else { database })
        .application_name(&endpoint.application_name)
        .ssl_mode(mode)
        // Poolers refuse parameters that they do not know, and nothing here is a floating point number.
        .extra_float_digits(None)
        .statement_cache_capacity(0)
        .disable_statement_logging();
    options = if address.is_socket() { options.socket(address.name) } else { options.host(address.name) };
    options = match &endpoint.ssl_root_cert {
        Some(Pem::File(path)) => options.ssl_root_cert(path),
        Some(Pem::Inline(text)) => options.ssl_root_cert_from_pem(text.expose().as_bytes().to_vec()),
        None => options.ssl_root_cert_from_pem(Vec::new()),
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
