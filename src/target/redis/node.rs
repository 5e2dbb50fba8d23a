//! One session at a server.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError,
    TlsCertificates, cmd,
};

use super::TargetError;
use super::settings::{Persistence, Settings};
use crate::secret::Secret;
use crate::target::{dial, pool};

/// How often a session that was told to go is looked for again.
const POLL: Duration = Duration::from_millis(5);

/// What fills the library's buffer for what is sent, of 8 KiB, with the 23 bytes around it to the last byte: one byte
/// more, and the library would move what is there into a larger one.
const COVER: usize = 8 * 1024 - 23;

/// What the server says first to a login with a wrong password.
pub const WRONG_PASSWORD: &[&str] = &["WRONGPASS"];

/// A session of the admin user.
pub struct Node {
    connection: MultiplexedConnection,
    /// The server's number of this session.
    pub id: i64,
    limit: Duration,
}

impl Node {
    /// Opens a session.
    pub async fn open(settings: &Settings, patience: Duration) -> Result<Self, TargetError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut tries = settings.passwords.tries();
        let connection = loop {
            let patience = deadline.saturating_duration_since(tokio::time::Instant::now());
            match connect(settings, &settings.username, tries.current(), patience).await {
                Err(e) if e.has_code(WRONG_PASSWORD) && tries.go_on() => {}
                opened => break opened?,
            }
        };
        tries.succeed();
        let mut node = Self { connection, id: 0, limit: settings.command_timeout };
        node.id = node.ask(cmd("CLIENT").arg("ID")).await?;
        node.cover_login().await?;
        Ok(node)
    }

    /// The library's buffer still holds the login, until what is sent next has no room behind it and is put at its front.
    async fn cover_login(&mut self) -> Result<(), TargetError> {
        match self.ask::<String>(cmd("PING").arg("0".repeat(COVER))).await {
            Ok(_) | Err(TargetError::Answer { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Runs one command. [`TargetError::Lost`] and [`TargetError::Timeout`] leave open whether it took effect.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, TargetError> {
        match tokio::time::timeout(self.limit, command.query_async(&mut self.connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(problem(&e)),
            Err(_elapsed) => {
                Err(TargetError::Timeout(format!("no answer within {}s (statement_timeout)", self.limit.as_secs_f32())))
            }
        }
    }

    /// What server it is. Everybody may ask.
    pub async fn version(&mut self) -> Result<String, TargetError> {
        let said: HashMap<String, ::redis::Value> = self.ask(&cmd("HELLO")).await?;
        let text = |name: &str| said.get(name).and_then(|value| ::redis::from_redis_value_ref::<String>(value).ok());
        let kind = match text("server").as_deref() {
            Some("valkey") => "Valkey",
            _ => "Redis",
        };
        Ok(format!("{kind} {}", text("version").unwrap_or_default()))
    }

    /// True if there is such a user.
    pub async fn knows(&mut self, username: &str) -> Result<bool, TargetError> {
        let found: ::redis::Value = self.ask(cmd("ACL").arg("GETUSER").arg(username)).await?;
        Ok(!matches!(found, ::redis::Value::Nil))
    }

    /// The hashes of a user's passwords, in lower-case hex; none of a user that is not there.
    pub async fn passwords(&mut self, username: &str) -> Result<Vec<String>, TargetError> {
        let described: Option<HashMap<String, ::redis::Value>> =
            self.ask(cmd("ACL").arg("GETUSER").arg(username)).await?;
        let hashes = described.and_then(|mut described| described.remove("passwords"));
        let unclear = |_| TargetError::Lost("the server's answer to ACL GETUSER made no sense".into());
        hashes.map_or_else(|| Ok(Vec::new()), |hashes| ::redis::from_redis_value(hashes).map_err(unclear))
    }

    /// Applies rules to a user, all or none; one that is not there is made.
    pub async fn set_user(&mut self, username: &str, rules: &[&str]) -> Result<(), TargetError> {
        self.ask(cmd("ACL").arg("SETUSER").arg(username).arg(rules)).await
    }

    /// Removes a user and ends its sessions. One that is not there is no error.
    pub async fn delete_user(&mut self, username: &str) -> Result<(), TargetError> {
        self.ask::<i64>(cmd("ACL").arg("DELUSER").arg(username)).await.map(drop)
    }

    /// Ends the sessions of a user until there are none; says how many there were.
    pub async fn end_sessions(&mut self, username: &str) -> Result<u64, TargetError> {
        let kill = || {
            let mut kill = cmd("CLIENT");
            kill.arg("KILL").arg("USER").arg(username);
            kill
        };
        let deadline = tokio::time::Instant::now() + self.limit;
        let mut ended = 0;
        loop {
            let killed: i64 = match self.ask(&kill()).await {
                Ok(killed) => killed,
                Err(TargetError::Answer { text, .. }) if text.contains("No such user") => 0,
                Err(e) => return Err(e),
            };
            if killed == 0 {
                return Ok(ended);
            }
            ended += killed.unsigned_abs();
            if tokio::time::Instant::now() >= deadline {
                return Err(TargetError::Timeout("the user's sessions come back faster than they end".into()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The numbers of the sessions of a user.
    pub async fn sessions_of(&mut self, username: &str) -> Result<Vec<String>, TargetError> {
        let list: String = self.ask(cmd("CLIENT").arg("LIST")).await?;
        let of_user = |line: &str| {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name).map(str::to_owned));
            field("user=").filter(|user| user == username).and_then(|_| field("id="))
        };
        Ok(list.lines().filter_map(of_user).collect())
    }

    /// What a user may run, as the server writes it: `-@all +get +acl|setuser`.
    pub async fn commands_of(&mut self, username: &str) -> Result<String, TargetError> {
        let user: std::collections::HashMap<String, ::redis::Value> =
            self.ask(cmd("ACL").arg("GETUSER").arg(username)).await?;
        let commands = user.get("commands").map(::redis::from_redis_value_ref::<String>);
        commands.and_then(Result::ok).ok_or_else(|| TargetError::Lost("the server's answer made no sense".into()))
    }

    /// Ends another session of the admin user, one that gave no answer: what it was told has then happened or not.
    pub async fn end_own_session(&mut self, id: i64) -> Result<(), TargetError> {
        self.ask::<i64>(cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await.map(drop)
    }

    /// Keeps the users for the next start of the server.
    pub async fn persist(&mut self, mode: Persistence) -> Result<(), TargetError> {
        match mode {
            Persistence::None => Ok(()),
            Persistence::AclFile => self.ask(cmd("ACL").arg("SAVE")).await,
            Persistence::Rewrite => self.ask(cmd("CONFIG").arg("REWRITE")).await,
        }
    }
}

impl pool::Session for Node {
    async fn ping(&mut self) -> bool {
        self.ask::<String>(&cmd("PING")).await.is_ok()
    }

    async fn close(self) {}
}

/// Logs in as somebody; what is returned is dropped to leave again.
pub async fn connect(
    settings: &Settings,
    username: &str,
    password: Option<&Secret>,
    patience: Duration,
) -> Result<MultiplexedConnection, TargetError> {
    let (host, port) = (settings.host.clone(), settings.port);
    let at = dial::tcp(&host, port);
    let unusable = |e: RedisError| TargetError::Config(format!("the TLS settings cannot be used: {}", e.category()));
    let address = if settings.tls {
        ConnectionAddr::TcpTls { host, port, insecure: settings.insecure, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let info = address.into_connection_info().map_err(unusable)?;
    // Nothing is told about the library: a command that the admin user may lack the right to. Nor does the library log in:
    // it would not repeat what the server says to that, a wrong password or anything else.
    let plain = info.redis_settings().clone().set_skip_set_lib_name();
    let info = info.set_redis_settings(plain);
    let client = match &settings.ca {
        Some(ca) if settings.tls => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.clone().into_bytes()) };
            Client::build_with_tls(info, certificates).map_err(unusable)?
        }
        _ => Client::open(info).map_err(unusable)?,
    };
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let opening = client.get_multiplexed_async_connection_with_config(&config);
    let opening = async {
        let mut connection = opening.await.map_err(|e| match (problem(&e), io_error(&e)) {
            (TargetError::Lost(_), Some(e)) => TargetError::Connect(dial::failure(&at, e)),
            (TargetError::Lost(_), None) => TargetError::Connect(format!("dial {at}: {}", e.category())),
            (other, _) => other,
        })?;
        if let Some(password) = password {
            let mut login = cmd("AUTH");
            if !username.is_empty() {
                login.arg(username);
            }
            let answer: Result<(), RedisError> = login.arg(password.expose()).query_async(&mut connection).await;
            answer.map_err(|e| match problem(&e) {
                TargetError::Lost(text) => TargetError::Connect(text),
                other => other,
            })?;
        }
        Ok(connection)
    };
    match tokio::time::timeout(patience, opening).await {
        Ok(opened) => opened,
        Err(_elapsed) => Err(TargetError::Connect(format!("dial {at}: i/o timeout"))),
    }
}

/// What the library got of the network; it hands it out behind a pointer of its own.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    let source = error.source()?;
    let inner = source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>();
    inner.and_then(|inner| inner.downcast_ref()).or_else(|| source.downcast_ref())
}

/// What the built-in engine's client puts before an answer of the server.
const ANSWERED: &str = "response returned from Conn: ";

/// The server's answer in its own words, or that there was none.
fn problem(error: &RedisError) -> TargetError {
    if let Some(code) = error.code() {
        let text = format!("{ANSWERED}{code} {}", error.detail().unwrap_or_default());
        return TargetError::Answer { text: text.trim_end().to_owned(), code: code.to_owned() };
    }
    match error.kind() {
        ErrorKind::Io => TargetError::Lost("the session broke".into()),
        _ => TargetError::Lost(format!("the server's answer made no sense: {}", error.category())),
    }
}
