//! Connection settings of a Redis or Valkey server, from the fields of `config/:name`.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use super::TargetError;
use crate::secret::Secret;
use crate::target::Passwords;
use crate::target::pool::Limits;

/// The servers' port.
const PORT: u16 = 6379;

/// How long a request waits for a session unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one command may take unless `statement_timeout` says otherwise.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// How users are kept for the next start of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Not at all.
    #[default]
    None,
    /// `ACL SAVE`, into the server's `aclfile`.
    AclFile,
    /// `CONFIG REWRITE`, into the server's configuration.
    Rewrite,
}

/// What a connection is configured with. All texts as the operator wrote them, empty for absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// `valkey://`, `valkeys://`, `redis://` or `rediss://`, then `user:password@host:port/database`. Instead of the
    /// single fields.
    pub connection_url: &'a str,
    /// Host.
    pub host: &'a str,
    /// Port.
    pub port: &'a str,
    /// Value of `{{username}}`, or the admin user.
    pub username: &'a str,
    /// Value of `{{password}}`, or its password.
    pub password: Option<&'a Secret>,
    /// Protect the session.
    pub tls: bool,
    /// Do not verify the server.
    pub insecure_tls: bool,
    /// PEM text of certificate authorities; with a URL the system's are the default.
    pub ca_cert: &'a str,
    /// `none` (default), `aclfile` or `rewrite`.
    pub persistence_mode: &'a str,
    /// `max_open_connections`.
    pub max_open: i64,
    /// `max_idle_connections`.
    pub max_idle: i64,
    /// `max_connection_lifetime`, zero for ever.
    pub max_lifetime: Duration,
    /// `connect_timeout`, zero for the default of 10 s.
    pub connect_timeout: Duration,
    /// `statement_timeout`, zero for the default of 30 s.
    pub statement_timeout: Duration,
}

/// The settings of one connection.
pub struct Settings {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The admin user, empty for the server's default user.
    pub username: String,
    /// Its password, if it has one.
    pub passwords: Passwords,
    /// Protect the session.
    pub tls: bool,
    /// Do not verify the server.
    pub insecure: bool,
    /// Certificate authorities instead of the system's, PEM.
    pub ca: Option<String>,
    /// How users are kept.
    pub persistence: Persistence,
    /// What bounds the pool.
    pub limits: Limits,
    /// How long one command may take.
    pub command_timeout: Duration,
}

/// Tells where, not how.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`TargetError::Config`], in the built-in engine's words where it has any. No error holds a secret.
    pub fn new(source: &Source<'_>) -> Result<Self, TargetError> {
        let persistence = match source.persistence_mode {
            "" | "none" => Persistence::None,
            "aclfile" => Persistence::AclFile,
            "rewrite" => Persistence::Rewrite,
            _ => return config("persistence_mode is none of none, aclfile and rewrite"),
        };
        let or = |given: Duration, default| if given.is_zero() { default } else { given };
        let connect_timeout = or(source.connect_timeout, CONNECT_TIMEOUT);
        let settings = Self {
            host: String::new(),
            port: PORT,
            username: String::new(),
            passwords: Passwords::default(),
            tls: source.tls,
            insecure: source.insecure_tls,
            ca: Some(source.ca_cert.trim().to_owned()).filter(|pem| !pem.is_empty()),
            persistence,
            limits: Limits::new(source.max_open, source.max_idle, source.max_lifetime, connect_timeout),
            command_timeout: or(source.statement_timeout, COMMAND_TIMEOUT),
        };
        if source.connection_url.trim().is_empty() { settings.single(source) } else { settings.url(source) }
    }

    fn single(mut self, source: &Source<'_>) -> Result<Self, TargetError> {
        let missing = |name| TargetError::Config(format!("{name} cannot be empty"));
        let given =
            |text: &str, name| Some(text.trim().to_owned()).filter(|t| !t.is_empty()).ok_or_else(|| missing(name));
        self.host = given(source.host, "host")?.trim_matches(['[', ']']).to_owned();
        self.port = match given(source.port, "port")?.parse() {
            Ok(0) | Err(_) => return config("port is not a port number"),
            Ok(port) => port,
        };
        self.username = given(source.username, "username")?;
        let password = source.password.filter(|password| !password.is_empty());
        self.passwords = Some(password.ok_or_else(|| missing("password"))?.duplicate()).into();
        if self.tls && self.ca.is_none() && !self.insecure {
            return Err(missing("ca_cert"));
        }
        Ok(self)
    }

    fn url(mut self, source: &Source<'_>) -> Result<Self, TargetError> {
        let text = source.connection_url.trim();
        let templated = text.contains("{{username}}") || text.contains("{{password}}");
        let has_login = !source.username.is_empty() || source.password.is_some();
        if !source.host.is_empty() || !source.port.is_empty() || has_login && !templated {
            return config("cannot specify both connection_url and individual connection parameters");
        }
        // Nothing of the text is repeated: it may hold a password.
        let url = Url::parse(text).or_else(|_| config("connection_url is not a URL"))?;
        self.tls |= match url.scheme() {
            "valkey" | "redis" => false,
            "valkeys" | "rediss" => true,
            _ => return config("connection_url does not begin with valkey://, valkeys://, redis:// or rediss://"),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let Some(host) = host else { return config("connection_url names no host") };
        self.host = host.trim_matches(['[', ']']).to_owned();
        self.port = url.port().unwrap_or(PORT);
        self.username = filled(url.username(), source)?.expose().to_owned();
        self.passwords = url.password().map(|password| filled(password, source)).transpose()?.into();
        Ok(self)
    }
}

fn config<T>(text: &str) -> Result<T, TargetError> {
    Err(TargetError::Config(text.to_owned()))
}

/// A part of the URL, decoded, with its variables filled: a value is not decoded and not filled again.
fn filled(part: &str, source: &Source<'_>) -> Result<Secret, TargetError> {
    let decoded = percent_decode_str(part).decode_utf8().or_else(|_| config("connection_url is not UTF-8"))?;
    let password = source.password.map(Secret::expose).unwrap_or_default();
    let variables = decoded.matches("{{").count();
    let mut out = String::with_capacity(decoded.len() + variables * (password.len() + source.username.len()));
    let mut rest: &str = &decoded;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (value, length) = match rest {
            _ if rest.starts_with("{{username}}") => (source.username, "{{username}}".len()),
            _ if rest.starts_with("{{password}}") => (password, "{{password}}".len()),
            _ => ("{", 1),
        };
        out.push_str(value);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Ok(Secret::new(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: Source<'_>) -> Result<Settings, String> {
        Settings::new(&source).map_err(|e| e.to_string())
    }

    #[test]
    fn single_fields() {
        let password = Secret::new("p".into());
        let all = Source { host: "::1", port: "6380", username: "a", password: Some(&password), ..Source::default() };
        let settings = of(all).unwrap();
        assert_eq!((settings.host.as_str(), settings.port, settings.username.as_str()), ("::1", 6380, "a"));
        assert!(!settings.tls && settings.persistence == Persistence::None);
        for (source, text) in [
            (Source { host: "", ..all }, "host cannot be empty"),
            (Source { port: "", ..all }, "port cannot be empty"),
            (Source { port: "x", ..all }, "port is not a port number"),
            (Source { username: "", ..all }, "username cannot be empty"),
            (Source { password: None, ..all }, "password cannot be empty"),
            (Source { tls: true, ..all }, "ca_cert cannot be empty"),
            (Source { persistence_mode: "x", ..all }, "persistence_mode is none of none, aclfile and rewrite"),
            (
                Source { connection_url: "valkey://h", ..all },
                "cannot specify both connection_url and individual connection parameters",
            ),
        ] {
            assert_eq!(of(source).err().as_deref(), Some(text));
        }
        assert!(of(Source { tls: true, insecure_tls: true, ..all }).is_ok());
    }

    #[test]
    fn urls() {
        let url = |connection_url| Source { connection_url, ..Source::default() };
        let settings = of(url("valkeys://us%65r:p%40ss@[::1]:7000/0")).unwrap();
        assert!(settings.tls);
        assert_eq!((settings.host.as_str(), settings.port, settings.username.as_str()), ("::1", 7000, "user"));
        assert_eq!(settings.passwords.first().unwrap().expose(), "p@ss");
        assert_eq!(of(url("redis://h")).unwrap().port, PORT);
        for bad in ["http://h", "h:1", "redis://", "redis://u:hunter2@h:99999"] {
            assert!(!of(url(bad)).unwrap_err().contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn urls_with_variables() {
        let password = Secret::new("%41{{username}}/@".into());
        let source = Source {
            connection_url: "redis://{{username}}:{{password}}@h",
            username: "a b",
            password: Some(&password),
            ..Source::default()
        };
        let settings = of(source).unwrap();
        assert_eq!(settings.username, "a b");
        assert_eq!(settings.passwords.first().unwrap(), password);
    }
}
