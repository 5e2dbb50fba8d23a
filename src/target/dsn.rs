//! Connection strings and structured connection fields.
//!
//! The accepted forms are those of the built-in engine's driver: URLs (`postgres://`, `postgresql://`) and keyword/value
//! strings (`host=… user=…`), each with several hosts. `{{username}}` and `{{password}}` are put in *after* parsing, so
//! that no value, whatever is in it, can change what the string means.

mod keyword;
mod redact;
mod uri;

use std::fmt;
use std::time::Duration;

use crate::secret::Secret;
use crate::target::{Passwords, TargetError};

pub use redact::{has_embedded_password, redact};

/// Port of a PostgreSQL server if the connection string names none.
const DEFAULT_PORT: u16 = 5432;

/// How a session is protected. `verify-ca` does not exist here: it becomes [`SslMode::VerifyFull`], because the driver
/// trusts the public certificate authorities beside a given one, and without a check of the host name any of their
/// certificates would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// No TLS if the server takes that, else TLS.
    Allow,
    /// TLS if the server offers it, else none.
    Prefer,
    /// TLS, any certificate.
    Require,
    /// TLS with a trusted certificate for the host's name.
    VerifyFull,
}

/// Which server of several is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    /// The first that answers.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that does not take writes.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// In recovery if there is one, else any.
    PreferStandby,
}

/// A certificate or key: a file on the machine of the plugin, or the text itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Pem {
    /// Path of a file, read at each new session.
    File(String),
    /// PEM text.
    Inline(Secret),
}

/// Where and how to connect: everything that a connection string and its companion fields say.
///
/// Its `Debug` shows the public parts only.
#[derive(PartialEq, Eq)]
pub struct PgEndpoint {
    /// Host names, addresses or directories of unix sockets, with ports; tried in order. Never empty.
    pub hosts: Vec<(String, u16)>,
    /// Whom to connect as.
    pub user: String,
    /// The password, if any.
    pub passwords: Passwords,
    /// The database; empty means the server's choice, which is the one named like the user.
    pub database: String,
    /// Protection of the session.
    pub ssl_mode: SslMode,
    /// Certificate authorities to trust beside the public ones.
    pub ssl_root_cert: Option<Pem>,
    /// Client certificate.
    pub ssl_cert: Option<Pem>,
    /// Key of the client certificate.
    pub ssl_key: Option<Pem>,
    /// Time for one session to be had, if the string says.
    pub connect_timeout: Option<Duration>,
    /// `application_name` of the sessions.
    pub application_name: String,
    /// Which server is wanted.
    pub session_attrs: SessionAttrs,
    /// Server settings of the sessions, in order.
    pub params: Vec<(String, String)>,
}

/// What a connection is configured with. All texts as the operator wrote them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// URL or keyword/value string. Empty only if `host` is given.
    pub connection_url: &'a str,
    /// Value of `{{username}}`; with structured fields the user.
    pub username: &'a str,
    /// Value of `{{password}}`; with structured fields the password.
    pub password: Option<&'a Secret>,
    /// Put the values into the string as they are, before parsing: they are escaped already.
    pub disable_escaping: bool,
    /// Structured: host, or several with commas. Used if there is no `connection_url`.
    pub host: &'a str,
    /// Structured: port, or one for each host with commas.
    pub port: &'a str,
    /// Structured: database.
    pub database: &'a str,
    /// Structured, or beside a string that does not say: `disable`, `allow`, `prefer`, `require`, `verify-ca`,
    /// `verify-full`.
    pub sslmode: &'a str,
    /// PEM text of certificate authorities; wins over the string's `sslrootcert`.
    pub tls_ca: &'a str,
    /// PEM text of a client certificate; wins over the string's `sslcert`.
    pub tls_certificate: &'a str,
    /// PEM text of its key; wins over the string's `sslkey`.
    pub private_key: Option<&'a Secret>,
}

/// One setting of a connection string, placeholders not yet filled, escapes undone.
type Setting = (String, String);

impl PgEndpoint {
    /// Parses a configuration.
    ///
    /// # Errors
    /// [`TargetError::Config`] with the built-in engine's texts where it has one. No error holds a value of the string.
    pub fn parse(source: &Source<'_>) -> Result<Self, TargetError> {
        let is_template = |text: &str| text.contains("{{username}}") || text.contains("{{password}}");
        if is_template(source.username) || source.password.is_some_and(|password| is_template(password.expose())) {
            return config("username and/or password cannot contain the template variables");
        }
        let settings = match source.connection_url.trim() {
            "" if source.host.is_empty() => return config("connection_url cannot be empty"),
            "" => structured(source),
            url => {
                let escaped_already = source.disable_escaping.then(|| fill(url, source));
                let text = escaped_already.as_ref().map_or(url, Secret::expose);
                let parsed = if uri::is_url(text) { uri::settings(text) } else { keyword::settings(text) };
                parsed.map_err(|why| TargetError::Config(format!("cannot parse connection url: {why}")))?
            }
        };
        Draft::read(settings, source)?.finish(source)
    }
}

impl fmt::Debug for PgEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgEndpoint")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("ssl_mode", &self.ssl_mode)
            .finish_non_exhaustive()
    }
}

fn config<T>(text: impl Into<String>) -> Result<T, TargetError> {
    Err(TargetError::Config(text.into()))
}

/// Replaces the two variables, once from left to right.
fn fill(template: &str, source: &Source<'_>) -> Secret {
    let password = source.password.map_or("", Secret::expose);
    // Reserved at full size: a buffer that grows leaves copies of its content behind.
    let variables = template.matches("{{").count();
    let mut out = String::with_capacity(template.len() + variables * source.username.len().max(password.len()));
    let mut rest = template;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{{username}}") {
            out.push_str(source.username);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{{password}}") {
            out.push_str(password);
            rest = after;
        } else {
            out.push('{');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Secret::new(out)
}

/// The structured fields as settings. The user's name and password are variables, so that they are filled like others.
fn structured(source: &Source<'_>) -> Vec<Setting> {
    let fields = [
        ("host", source.host),
        ("port", source.port),
        ("user", "{{username}}"),
        ("password", "{{password}}"),
        ("dbname", source.database),
    ];
    fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The settings, sorted by what they mean, as texts.
#[derive(Default)]
struct Draft {
    host: String,
    port: String,
    user: String,
    password: Option<Secret>,
    database: String,
    sslmode: String,
    sslrootcert: String,
    sslcert: String,
    sslkey: String,
    connect_timeout: String,
    application_name: String,
    session_attrs: String,
    params: Vec<Setting>,
}

impl Draft {
    fn read(settings: Vec<Setting>, source: &Source<'_>) -> Result<Self, TargetError> {
        let mut draft = Self::default();
        for (key, template) in settings {
            let filled = if source.disable_escaping { Secret::new(template) } else { fill(&template, source) };
            let text = || filled.expose().to_owned();
            match key.as_str() {
                "host" | "hostaddr" => draft.host = text(),
                "port" => draft.port = text(),
                "user" => draft.user = text(),
                "password" => draft.password = Some(filled),
                "dbname" | "database" => draft.database = text(),
                "sslmode" => draft.sslmode = text(),
                "sslrootcert" => draft.sslrootcert = text(),
                "sslcert" => draft.sslcert = text(),
                "sslkey" => draft.sslkey = text(),
                "connect_timeout" => draft.connect_timeout = text(),
                "application_name" => draft.application_name = text(),
                "target_session_attrs" => draft.session_attrs = text(),
                "options" => draft.params.extend(server_options(filled.expose())?),
                "sslpassword" | "service" | "servicefile" | "krbspn" | "krbsrvname" => {
                    return config(format!("the connection parameter {key} is not supported"));
                }
                // Ours, whatever the string says: the driver sets them, or they are the library's own.
                "timezone"
                | "TimeZone"
                | "client_encoding"
                | "datestyle"
                | "DateStyle"
                | "passfile"
                | "sslsni"
                | "sslnegotiation"
                | "channel_binding"
                | "gssencmode"
                | "min_read_buffer_size"
                | "default_query_exec_mode"
                | "statement_cache_capacity"
                | "statement_cache_mode"
                | "description_cache_capacity" => {}
                _ => draft.params.push((key, text())),
            }
        }
        Ok(draft)
    }

    fn finish(self, source: &Source<'_>) -> Result<PgEndpoint, TargetError> {
        let ssl_root_cert = pem(source.tls_ca, &self.sslrootcert);
        let ssl_cert = pem(source.tls_certificate, &self.sslcert);
        let ssl_key = match source.private_key {
            Some(key) if !key.is_empty() => Some(Pem::Inline(key.duplicate())),
            _ => pem("", &self.sslkey),
        };
        if ssl_cert.is_some() != ssl_key.is_some() {
            return config("both a client certificate and its private key are required");
        }
        let sslmode = if self.sslmode.is_empty() { source.sslmode } else { &self.sslmode };
        let ssl_mode = match sslmode {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            // As the built-in engine's driver has it: an authority that nobody checks against would be a trap.
            "require" if ssl_root_cert.is_some() => SslMode::VerifyFull,
            "require" => SslMode::Require,
            "verify-ca" | "verify-full" => SslMode::VerifyFull,
            // The inline fields ask for TLS; only the built-in engine's own default may go without.
            "" if !source.tls_ca.is_empty() => SslMode::VerifyFull,
            "" if !source.tls_certificate.is_empty() => SslMode::Require,
            "" | "prefer" => SslMode::Prefer,
            _ => return config("cannot parse connection url: sslmode is invalid"),
        };
        let connect_timeout = match self.connect_timeout.as_str() {
            "" => None,
            text => match text.parse::<u64>() {
                Ok(0) => None,
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => return config("cannot parse connection url: invalid connect_timeout"),
            },
        };
        let session_attrs = match self.session_attrs.as_str() {
            "" | "any" => SessionAttrs::Any,
            "read-write" => SessionAttrs::ReadWrite,
            "read-only" => SessionAttrs::ReadOnly,
            "primary" => SessionAttrs::Primary,
            "standby" => SessionAttrs::Standby,
            "prefer-standby" => SessionAttrs::PreferStandby,
            _ => return config("cannot parse connection url: unknown target_session_attrs value"),
        };
        let application_name =
            if self.application_name.is_empty() { "leasehold".to_owned() } else { self.application_name };
        let endpoint = PgEndpoint {
            hosts: hosts(&self.host, &self.port)?,
            user: self.user,
            passwords: self.password.into(),
            database: self.database,
            ssl_mode,
            ssl_root_cert,
            ssl_cert,
            ssl_key,
            connect_timeout,
            application_name,
            session_attrs,
            params: self.params,
        };
        endpoint.refuse_nul()
    }
}

impl PgEndpoint {
    /// The protocol ends texts with a NUL: one inside would cut off what follows, or smuggle in a parameter.
    fn refuse_nul(self) -> Result<Self, TargetError> {
        let password = self.passwords.first();
        let password = password.as_ref().map_or("", Secret::expose);
        let params = self.params.iter().flat_map(|(key, value)| [key, value]);
        let texts = [&self.user, &self.database, &self.application_name].into_iter().chain(params);
        if texts.map(String::as_str).chain([password]).any(|text| text.contains('\0')) {
            return config("cannot parse connection url: a value holds a NUL character");
        }
        Ok(self)
    }
}

fn pem(inline: &str, file: &str) -> Option<Pem> {
    match (inline, file) {
        ("", "" | "system") => None,
        ("", path) => Some(Pem::File(path.to_owned())),
        (text, _) => Some(Pem::Inline(Secret::new(text.to_owned()))),
    }
}

/// Hosts with their ports: one port each, or one for all.
fn hosts(hosts: &str, ports: &str) -> Result<Vec<(String, u16)>, TargetError> {
    let ports: Vec<&str> = ports.split(',').collect();
    let names: Vec<&str> = if hosts.is_empty() { vec!["localhost"] } else { hosts.split(',').collect() };
    let all = names.iter().enumerate().map(|(index, &name)| {
        let port = match ports.get(index).or(ports.first()).map(|port| port.trim()) {
            None | Some("") => DEFAULT_PORT,
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return config("cannot parse connection url: invalid port"),
            },
        };
        let name = if name.is_empty() { "localhost" } else { name };
        Ok((name.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
    });
    all.collect()
}

/// The settings in a server command line: `-c name=value`, `-cname=value`, `--name=value`, separated by spaces; a
/// backslash escapes a space or a backslash. Other switches cannot be passed on.
fn server_options(text: &str) -> Result<Vec<Setting>, TargetError> {
    let refused = || config("the connection parameter options may hold only -c name=value and --name=value");
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            (c, _) if c.is_whitespace() => words.push(String::new()),
            ('\\', Some(word)) => word.extend(characters.next()),
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(rest) => rest.to_owned(),
            None => return refused(),
        };
        match assignment.split_once('=') {
            Some((name, value)) if !name.is_empty() => settings.push((name.replace('-', "_"), value.to_owned())),
            _ => return refused(),
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests;
