//! One session at a server: opening it, running text statements, and what its errors mean.

use std::sync::Arc;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::time::Instant;

use super::dsn::Address;
use super::server::Server;
use super::settings::{Settings, TlsMode};
use super::{TargetError, relay};
use crate::secret::Secret;
use crate::target::dial;
use crate::target::pool::{self, jitter};

/// A row of texts, as the text protocol sends it.
pub type Texts = Vec<Option<String>>;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// How often a statement is tried that met a lock or a deadlock.
const TRIES: u32 = 4;

/// What the server answers to a login with a wrong password.
pub const WRONG_PASSWORD: &[&str] = &["1045", "1698"];

/// Why a statement did not work.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The server said no.
    Answer {
        /// Error number.
        number: u16,
        /// SQLSTATE.
        state: String,
        /// The server's words.
        message: String,
    },
    /// The session broke; the statement may have taken effect.
    Lost(String),
    /// No answer in time; the statement may still take effect.
    Timeout(Duration),
}

impl Fault {
    /// The error number of an answer.
    pub fn number(&self) -> Option<u16> {
        match self {
            Self::Answer { number, .. } => Some(*number),
            Self::Lost(_) | Self::Timeout(_) => None,
        }
    }

    /// True if the statement may have taken effect or still may.
    pub fn is_open(&self) -> bool {
        self.number().is_none()
    }

    /// The user lacks a privilege, or what it asks for is not a table here.
    pub fn is_denied(&self) -> bool {
        matches!(self.number(), Some(1044 | 1142 | 1143 | 1146 | 1227))
    }

    /// The server is a replica, or has become one.
    pub fn is_read_only(&self) -> bool {
        matches!(self.number(), Some(1290 | 1792 | 1836 | 3100))
    }

    /// Another transaction was in the way: trying again may help.
    fn is_transient(&self) -> bool {
        matches!(self.number(), Some(1205 | 1213))
    }

    /// Keeps the server's words about a statement with a password or a hash in it only as far as they do not quote it.
    pub fn without_quotation(self) -> Self {
        match self {
            // What may follow is a part of the statement.
            Self::Answer { number, state, message }
                if !matches!(number, 1044 | 1045 | 1142 | 1227 | 1396 | 1410 | 1819) =>
            {
                let kept = match number {
                    // `… for the right syntax to use near '…' at line 1`
                    1064 | 1149 => message.split(" near ").next().unwrap_or_default(),
                    1146 | 1049 | 1290 | 1133 | 1141 | 1524 => message.as_str(),
                    _ => "",
                };
                let message = format!("{kept} (the rest is withheld: the statement holds a password)");
                Self::Answer { number, state, message: message.trim_start().to_owned() }
            }
            other => other,
        }
    }
}

impl From<Fault> for TargetError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Answer { number, state, message } => {
                Self::Answer { text: format!("Error {number} ({state}): {message}"), code: number.to_string() }
            }
            Fault::Lost(text) => Self::Lost(text),
            Fault::Timeout(limit) => {
                Self::Timeout(format!("no answer within {}s (statement_timeout)", limit.as_secs_f32()))
            }
        }
    }
}

/// A session of the admin user.
pub struct Session {
    connection: MySqlConnection,
    /// The server's number of this session.
    pub id: u64,
    /// Which of the addresses this is.
    pub address: Address,
    /// What kind of server this is.
    pub server: Arc<Server>,
    /// The admin user may see the sessions of others, as far as can be told.
    pub sees_sessions: bool,
    /// The admin user may read `mysql.global_priv`, as far as is known.
    pub reads_privileges: bool,
    limit: Duration,
    read_only: bool,
    /// How much of the driver's buffer the last secret text takes: the buffer is written from its beginning again for
    /// each message, and not cleared.
    secret: usize,
}

impl Session {
    /// Opens a session at the first server that takes one; a server that can be written to is preferred. Servers that do
    /// not answer leave the others their share of `patience`.
    ///
    /// # Errors
    /// What the last server said. An answer to a login is final: other servers are not asked.
    pub async fn open(settings: &Settings, patience: Duration) -> Result<Self, TargetError> {
        let mut reader = None;
        let mut failure = TargetError::Connect("no server".into());
        for (address, share) in shares(settings, patience) {
            match Self::open_at(settings, address, share()).await {
                Ok(session) if !session.read_only || settings.addresses.len() == 1 => return Ok(session),
                Ok(session) => reader = reader.or(Some(session)),
                Err(answer @ TargetError::Answer { .. }) => return Err(answer),
                Err(e) => failure = e,
            }
        }
        reader.ok_or(failure)
    }

    /// Opens a session at one server.
    ///
    /// # Errors
    /// [`TargetError::Connect`] without, [`TargetError::Answer`] with an answer of the server.
    pub async fn open_at(settings: &Settings, address: &Address, patience: Duration) -> Result<Self, TargetError> {
        let opening = async {
            let mut tries = settings.passwords.tries();
            let connection = loop {
                match connect(settings, address, &settings.username, tries.current(), &settings.database).await {
                    Err(e) if e.has_code(WRONG_PASSWORD) && tries.go_on() => {}
                    opened => break opened?,
                }
            };
            tries.succeed();
            let mut session = Self {
                connection,
                id: 0,
                address: address.clone(),
                server: Arc::new(Server::new("", &[], None, None)),
                sees_sessions: true,
                reads_privileges: true,
                limit: settings.statement_timeout,
                read_only: false,
                secret: 0,
            };
            match session.introduce(settings).await {
                Ok(()) => Ok(session),
                Err(Fault::Lost(text)) => Err(TargetError::Connect(text)),
                Err(fault) => Err(fault.into()),
            }
        };
        in_time(address, patience, opening).await
    }

    /// Asks who is there, and makes the session what the statements expect.
    async fn introduce(&mut self, settings: &Settings) -> Result<(), Fault> {
        const PLUGINS: &str = "(SELECT GROUP_CONCAT(PLUGIN_NAME) FROM information_schema.PLUGINS \
                               WHERE PLUGIN_TYPE = 'AUTHENTICATION' AND PLUGIN_STATUS = 'ACTIVE')";
        const SEES: &str = "(SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'PROCESS' \
                            AND GRANTEE = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), ''''))";
        let question = |plugins, sees| {
            format!("SELECT CONNECTION_ID(), VERSION(), @@sql_mode, @@global.read_only, {plugins}, {sees}")
        };
        let rows = match self.rows(&question(PLUGINS, SEES)).await {
            // Servers that only speak like MySQL may have no such tables.
            Err(Fault::Answer { .. }) => self.rows(&question("NULL", "NULL")).await?,
            other => other?,
        };
        let mut texts = rows.into_iter().next().unwrap_or_default().into_iter();
        let mut next = || texts.next().flatten();
        self.id = next().and_then(|id| id.parse().ok()).unwrap_or(0);
        let version = next().unwrap_or_default();
        let sql_mode = next().unwrap_or_default();
        self.read_only = next().is_some_and(|flag| !matches!(flag.as_str(), "0" | "OFF"));
        let plugins = next().unwrap_or_default();
        self.sees_sessions = next().is_none_or(|count| count != "0");
        let plugins: Vec<&str> = plugins.split(',').collect();
        let mut server = Server::new(&version, &plugins, None, None);
        if !server.mariadb {
            let names = "'default_authentication_plugin', 'authentication_policy'";
            let rows = self.rows(&format!("SHOW VARIABLES WHERE Variable_name IN ({names})")).await?;
            let named = |name: &str| {
                let row = rows.iter().find(|row| row.first().and_then(Option::as_deref) == Some(name))?;
                row.get(1)?.as_deref()
            };
            let (default, policy) = (named("default_authentication_plugin"), named("authentication_policy"));
            server = Server::new(&version, &plugins, default, policy);
        }
        self.server = Arc::new(server);

        // A statement that waits for a lock shall give up before we give up on it.
        let wait = format!("lock_wait_timeout = {}", (self.limit.as_secs() / 3).max(1));
        let given: Vec<String> = settings.variables.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let both = std::iter::once(wait).chain(given.iter().cloned()).collect::<Vec<_>>();
        match self.run(&format!("SET SESSION {}", both.join(", "))).await {
            // Servers that only speak like MySQL may have no such variable; what was asked for they must have.
            Err(Fault::Answer { .. }) if given.is_empty() => {}
            Err(Fault::Answer { .. }) => self.run(&format!("SET SESSION {}", given.join(", "))).await?,
            other => other?,
        }
        // Values are filled in with their backslashes doubled.
        if sql_mode.contains("NO_BACKSLASH_ESCAPES")
            || settings.variables.iter().any(|(name, _)| name.contains("sql_mode"))
        {
            self.run("SET SESSION sql_mode = REPLACE(@@sql_mode, 'NO_BACKSLASH_ESCAPES', '')").await?;
        }
        Ok(())
    }

    /// Runs one statement that holds no secret; tries again when a lock was in the way.
    pub async fn run(&mut self, sql: &str) -> Result<(), Fault> {
        let covering = self.covering(sql);
        self.tried(&covering).await
    }

    /// Runs one statement that may hold a secret; tries again when a lock was in the way.
    pub async fn run_secret(&mut self, sql: &Secret) -> Result<(), Fault> {
        self.secret = self.secret.max(sql.expose().len());
        self.tried(sql.expose()).await
    }

    fn covering(&mut self, sql: &str) -> String {
        pool::covering(sql, std::mem::take(&mut self.secret))
    }

    async fn tried(&mut self, sql: &str) -> Result<(), Fault> {
        let limit = self.limit;
        let tries = async {
            let mut pause = Duration::from_millis(20);
            for _ in 1..TRIES {
                match self.once(sql).await {
                    Err(fault) if fault.is_transient() => tokio::time::sleep(pause.mul_f64(0.5 + jitter())).await,
                    done => return done,
                }
                pause *= 3;
            }
            self.once(sql).await
        };
        tokio::time::timeout(limit, tries).await.unwrap_or(Err(Fault::Timeout(limit)))
    }

    async fn once(&mut self, sql: &str) -> Result<(), Fault> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        query.execute(&mut self.connection).await.map(drop).map_err(fault)
    }

    /// Runs one statement and returns its rows.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Texts>, Fault> {
        let query = sqlx::raw_sql(AssertSqlSafe(self.covering(sql)));
        let all = query.fetch_all(&mut self.connection);
        let rows = tokio::time::timeout(self.limit, all).await.map_err(|_| Fault::Timeout(self.limit))?;
        Ok(rows.map_err(fault)?.iter().map(texts).collect())
    }
}

impl pool::Session for Session {
    fn holds_secret(&self) -> bool {
        self.secret > 0
    }

    async fn ping(&mut self) -> bool {
        if self.holds_secret() {
            return self.run("DO 0").await.is_ok();
        }
        self.connection.ping().await.is_ok()
    }

    async fn close(self) {
        // A server that is gone, or hangs, need not hear a goodbye.
        let _ = tokio::time::timeout(GOODBYE, self.connection.close()).await;
    }
}

fn texts(row: &MySqlRow) -> Texts {
    let text = |index| {
        let bytes: Option<Vec<u8>> = row.try_get_unchecked(index).ok().flatten();
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    (0..row.len()).map(text).collect()
}

/// Each server with what it gets of the time that is left when it is its turn.
fn shares<'a>(
    settings: &'a Settings,
    patience: Duration,
) -> impl Iterator<Item = (&'a Address, impl FnOnce() -> Duration + 'a)> {
    let deadline = Instant::now() + patience;
    let count = settings.addresses.len();
    settings.addresses.iter().enumerate().map(move |(position, address)| {
        let share = move || {
            let left = u32::try_from(count - position).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            settings.dial_timeout.map_or(share, |limit| limit.min(share))
        };
        (address, share)
    })
}

async fn in_time<T>(
    address: &Address,
    patience: Duration,
    opening: impl Future<Output = Result<T, TargetError>>,
) -> Result<T, TargetError> {
    let slow = |_| Err(TargetError::Connect(format!("dial {}: i/o timeout", spelt(address))));
    tokio::time::timeout(patience, opening).await.unwrap_or_else(slow)
}

/// Logs in as somebody and leaves again.
///
/// # Errors
/// As [`Session::open`].
pub async fn login(settings: &Settings, username: &str, password: &Secret) -> Result<(), TargetError> {
    let mut failure = TargetError::Connect("no server".into());
    for (address, share) in shares(settings, settings.limits.connect_timeout) {
        match in_time(address, share(), connect(settings, address, username, Some(password), "")).await {
            Ok(connection) => {
                // The login is proven; a goodbye that fails proves nothing else.
                let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
                return Ok(());
            }
            Err(answer @ TargetError::Answer { .. }) => return Err(answer),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

async fn connect(
    settings: &Settings,
    address: &Address,
    username: &str,
    password: Option<&Secret>,
    database: &str,
) -> Result<MySqlConnection, TargetError> {
    let mut options = MySqlConnectOptions::new()
        .username(username)
        // Statements of operators shall run as if typed in: with the server's own modes and time zone.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .statement_cache_capacity(0)
        .disable_statement_logging();
    let verified = settings.tls.mode == TlsMode::Verified;
    let other_name = settings.tls.server_name.as_deref().filter(|_| verified);
    options = match (address, other_name) {
        (Address::Tcp(host, port), Some(name)) if name != host => {
            let unreachable = |e| TargetError::Connect(dial::failure(&spelt(address), &e));
            options.socket(relay::open(host, *port).await.map_err(unreachable)?).host(name)
        }
        (Address::Tcp(host, port), _) => options.host(host).port(*port),
        (Address::Unix(path), name) => options.socket(path).host(name.unwrap_or("localhost")),
    };
    // An empty password is none: the driver would hash it.
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        options = options.password(password.expose());
    }
    if !database.is_empty() {
        options = options.database(database);
    }
    if let Some(charset) = &settings.charset {
        options = options.charset(charset);
    }
    if let Some(collation) = &settings.collation {
        options = options.collation(collation);
    }
    options = options.ssl_mode(match settings.tls.mode {
        TlsMode::Off => MySqlSslMode::Disabled,
        TlsMode::Preferred => MySqlSslMode::Preferred,
        TlsMode::Unverified => MySqlSslMode::Required,
        TlsMode::Verified => MySqlSslMode::VerifyIdentity,
    });
    if let Some(ca) = &settings.tls.ca {
        options = options.ssl_ca_from_pem(ca.clone().into_bytes());
    }
    if let Some(pem) = &settings.tls.client {
        // The driver finds the certificates and the key among the blocks.
        options = options.ssl_client_cert_from_pem(pem.expose()).ssl_client_key_from_pem(pem.expose());
    }
    if settings.cleartext && verified {
        options = options.enable_cleartext_plugin(true);
    }
    options.connect().await.map_err(|e| refusal(e, address))
}

fn spelt(address: &Address) -> String {
    match address {
        Address::Tcp(host, port) => dial::tcp(host, *port),
        Address::Unix(path) => format!("unix {path}"),
    }
}

/// What stands in the error of a login whose plugin the driver does not know.
const UNSPOKEN: &str = "this build cannot log in: ";

/// True if a login failed because the driver does not know the plugin that the server asks for.
pub fn is_unspoken(error: &TargetError) -> bool {
    matches!(error, TargetError::Connect(text) if text.contains(UNSPOKEN))
}

/// Why no session could be had, in the words of the Go driver where it has any. Nothing of the driver's own error is
/// repeated that it might have made from our options.
fn refusal(error: sqlx::Error, address: &Address) -> TargetError {
    let at = spelt(address);
    match error {
        sqlx::Error::Database(_) => fault(error).into(),
        sqlx::Error::Io(e) => TargetError::Connect(dial::failure(&at, &e)),
        sqlx::Error::Tls(e) => TargetError::Connect(format!("tls: {at}: {e}")),
        sqlx::Error::Protocol(text) if text.contains("unknown authentication plugin") => {
            TargetError::Connect(format!("{at}: {UNSPOKEN}{text}"))
        }
        sqlx::Error::Configuration(e) => TargetError::Connect(format!("{at}: {e}")),
        _ => TargetError::Connect(format!("{at}: the server does not speak the protocol as expected")),
    }
}

fn fault(error: sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(e) => {
            let Some(e) = e.try_downcast_ref::<MySqlDatabaseError>() else {
                return Fault::Lost("an error of another server".into());
            };
            // The server ended the session, with whatever it was doing: shutdown, kill, idle too long.
            if matches!(e.number(), 1053 | 1927 | 3169 | 4031) {
                return Fault::Lost(format!("the server ended the session (Error {})", e.number()));
            }
            Fault::Answer {
                number: e.number(),
                state: e.code().unwrap_or("HY000").to_owned(),
                message: e.message().to_owned(),
            }
        }
        sqlx::Error::Io(e) => Fault::Lost(format!("the session broke: {}", e.kind())),
        _ => Fault::Lost("the session broke: the server does not speak the protocol as expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: u16, message: &str) -> Fault {
        Fault::Answer { number, state: "42000".into(), message: message.into() }
    }

    #[test]
    fn errors_read_as_the_go_driver_writes_them() {
        let error = TargetError::from(answer(1064, "You have an error in your SQL syntax; check"));
        assert_eq!(error.to_string(), "Error 1064 (42000): You have an error in your SQL syntax; check");
    }

    #[test]
    fn the_server_does_not_quote_passwords() {
        let syntax = answer(1064, "You have an error …; the right syntax to use near ''hunter2' at line 1");
        for fault in [syntax, answer(1105, "hunter2"), answer(1372, "'hunter2' is no hash")] {
            let shown = TargetError::from(fault.without_quotation()).to_string();
            assert!(!shown.contains("hunter2") && shown.contains("withheld"), "{shown}");
        }
        let kept = answer(1396, "Operation CREATE USER failed for 'u'@'%'");
        assert_eq!(
            TargetError::from(kept.without_quotation()).to_string(),
            "Error 1396 (42000): Operation CREATE USER failed for 'u'@'%'"
        );
    }
}
