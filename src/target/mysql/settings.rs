//! Connection settings of a MySQL or MariaDB server, from the fields of `config/:name`.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use zeroize::Zeroizing;

use super::TargetError;
use super::dsn::{self, Address, Dsn};
use super::server::Plugin;
use crate::secret::Secret;
use crate::target::Passwords;
use crate::target::pool::Limits;

/// How long a request waits for a session unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one statement may take unless `statement_timeout` says otherwise.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters that the Go driver keeps for itself; every other one is a system variable for it.
const DRIVER_PARAMS: &[&str] = &[
    "allowAllFiles",
    "allowCleartextPasswords",
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "allowOldPasswords",
    "charset",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "compress",
    "connectionAttributes",
    "interpolateParams",
    "loc",
    "maxAllowedPacket",
    "multiStatements",
    "parseTime",
    "readTimeout",
    "rejectReadOnly",
    "serverPubKey",
    "timeTruncate",
    "timeout",
    "tls",
    "writeTimeout",
];

/// Which hash stands in for a password where a statement names no plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// That of the plugin the server would itself take, so that whoever could log in before still can.
    Server,
    /// That of this plugin.
    With(Plugin),
    /// None: the server shall see the password, for example to judge it.
    Off,
}

/// How sessions are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the server offers it; nothing is verified.
    Preferred,
    /// Always; nothing is verified.
    Unverified,
    /// Always; certificate and name are verified.
    Verified,
}

/// Everything about TLS.
pub struct Tls {
    /// How sessions are protected.
    pub mode: TlsMode,
    /// Certificates to trust, PEM.
    pub ca: Option<String>,
    /// Client certificate and key, PEM.
    pub client: Option<Secret>,
    /// The name that the server's certificate must have, if not the host's.
    pub server_name: Option<String>,
}

/// The settings of one connection.
pub struct Settings {
    /// Servers, to be tried in order. Never empty.
    pub addresses: Vec<Address>,
    /// The admin user's name.
    pub username: String,
    /// The admin user's password, if it has one.
    pub passwords: Passwords,
    /// The database to use, empty for none.
    pub database: String,
    /// Character set of the session.
    pub charset: Option<String>,
    /// Collation of the session.
    pub collation: Option<String>,
    /// The server may ask for the password itself; only heeded over verified TLS.
    pub cleartext: bool,
    /// System variables to set in each session.
    pub variables: Vec<(String, String)>,
    /// TLS.
    pub tls: Tls,
    /// What bounds the pool.
    pub limits: Limits,
    /// How long a session at one server may take to be had, if the data source name says.
    pub dial_timeout: Option<Duration>,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// `{{host}}`: where users may log in from, unless their statements say otherwise.
    pub user_host: String,
    /// What stands in for passwords.
    pub hashing: Hashing,
    /// Statements that keep the password itself are refused.
    pub refuse_plain: bool,
}

/// What a connection is configured with. All texts as the operator wrote them, empty for absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// Data source name. Empty only if `host` is given.
    pub connection_url: &'a str,
    /// Value of `{{username}}`; with structured fields the user.
    pub username: &'a str,
    /// Value of `{{password}}`; with structured fields the password.
    pub password: Option<&'a Secret>,
    /// Structured: host, several with commas, or the path of a socket. Only without `connection_url`.
    pub host: &'a str,
    /// Structured: port.
    pub port: &'a str,
    /// Structured: database.
    pub database: &'a str,
    /// Structured: `true`, `false`, `preferred` or `skip-verify`, as the parameter of the same name.
    pub tls: &'a str,
    /// PEM text of certificate authorities.
    pub tls_ca: &'a str,
    /// PEM text of a client certificate and its key, one after the other.
    pub tls_certificate_key: Option<&'a Secret>,
    /// The name that the server's certificate must have, if not the host's.
    pub tls_server_name: &'a str,
    /// With `tls_ca` or `tls_certificate_key`: do not verify the server.
    pub tls_skip_verify: bool,
    /// `{{host}}`: where users may log in from. Default `%`.
    pub user_host: &'a str,
    /// Which hash stands in for passwords: `server` (default), `none`, or the name of a plugin.
    pub password_hashing: &'a str,
    /// Statements that keep a password in clear text are refused.
    pub refuse_plaintext_password: bool,
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

impl Settings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`TargetError::Config`], in the built-in engine's words where it has any. No error holds a secret.
    pub fn new(source: &Source<'_>) -> Result<Self, TargetError> {
        let dsn = match (source.connection_url.trim(), source.host.trim()) {
            ("", "") => return Err(config("connection_url cannot be empty")),
            ("", host) => structured(source, host)?,
            (url, "") => Dsn::parse(url, source.username, source.password)?,
            _ => return Err(config("connection_url and host cannot be combined")),
        };
        let or = |given: Duration, default| if given.is_zero() { default } else { given };
        let connect_timeout = or(source.connect_timeout, CONNECT_TIMEOUT);
        let dial_timeout = dsn
            .param("timeout")
            .map(|text| dsn::duration(text).ok_or_else(|| config("invalid value of the parameter timeout")));
        Ok(Self {
            charset: dsn.param("charset").and_then(|list| list.split(',').find_map(unicode)),
            collation: dsn.param("collation").and_then(unicode),
            cleartext: dsn.param("allowCleartextPasswords").is_some_and(is_true),
            variables: variables(&dsn)?,
            tls: tls(source, &dsn)?,
            limits: Limits::new(source.max_open, source.max_idle, source.max_lifetime, connect_timeout),
            dial_timeout: dial_timeout.transpose()?.filter(|limit| !limit.is_zero()),
            statement_timeout: or(source.statement_timeout, STATEMENT_TIMEOUT),
            user_host: user_host(source.user_host)?,
            hashing: hashing(source.password_hashing)?,
            refuse_plain: source.refuse_plaintext_password,
            addresses: dsn.addresses,
            username: dsn.user,
            passwords: dsn.password.into(),
            database: dsn.database,
        })
    }
}

/// Tells where, not how.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("addresses", &self.addresses)
            .field("username", &self.username)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "TRUE" | "True")
}

/// A character set or collation whose bytes mean what the bytes of our texts mean. In others (`gbk`, `sjis`) a part of a
/// character can be a backslash, and quoting would be for nothing; sessions then are in `utf8mb4`.
fn unicode(name: &str) -> Option<String> {
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (is_name && name.starts_with("utf8")).then(|| name.to_owned())
}

fn config(text: &str) -> TargetError {
    TargetError::Config(text.to_owned())
}

fn structured(source: &Source<'_>, host: &str) -> Result<Dsn, TargetError> {
    let port = match source.port.trim() {
        "" => dsn::PORT,
        port => port.parse().ok().filter(|&port| port != 0).ok_or_else(|| config("port is not a port number"))?,
    };
    let addresses = match host.strip_prefix('/') {
        Some(_) => vec![Address::Unix(host.to_owned())],
        None => dsn::hosts(host, port)?,
    };
    let tls = (!source.tls.is_empty()).then(|| ("tls".to_owned(), source.tls.to_owned()));
    Ok(Dsn {
        user: source.username.to_owned(),
        password: source.password.map(Secret::duplicate),
        addresses,
        database: source.database.to_owned(),
        params: tls.into_iter().collect(),
    })
}

/// What the Go driver would `SET`: names as they are, values as they are.
fn variables(dsn: &Dsn) -> Result<Vec<(String, String)>, TargetError> {
    let own = dsn.params.iter().filter(|(name, _)| !DRIVER_PARAMS.contains(&name.as_str()));
    let checked = |(name, value): &(String, String)| {
        let charset = name.to_ascii_lowercase().contains("character_set");
        let named =
            !name.is_empty() && !charset && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_@.".contains(&b));
        // One assignment a parameter: a `;` or a comma outside of quotes would begin another.
        let single = value.starts_with('\'') && value.ends_with('\'') && value.len() > 1
            || !value.contains([';', ',', '\'', '"', '#', '\\']) && !value.contains("--") && !value.contains("/*");
        let quotes = value.trim_matches('\'').contains(['\'', '\\']);
        if named && single && !quotes && !value.is_empty() {
            return Ok((name.clone(), value.clone()));
        }
        Err(TargetError::Config(format!("the parameter {name:?} of connection_url is no system variable with a value")))
    };
    own.map(checked).collect()
}

fn tls(source: &Source<'_>, dsn: &Dsn) -> Result<Tls, TargetError> {
    let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let ca = given(source.tls_ca);
    if ca.as_deref().is_some_and(|pem| !blocks(pem).iter().any(|block| block == "CERTIFICATE")) {
        return Err(config("failed to append CA to client options"));
    }
    let client = source.tls_certificate_key.filter(|pem| !pem.is_empty());
    if let Some(pem) = client {
        check_client(pem).map_err(|why| config(&format!("unable to load tls_certificate_key_data: tls: {why}")))?;
    }
    let fallback = dsn.param("allowFallbackToPlaintext").is_some_and(is_true);
    let mode = match dsn.param("tls") {
        _ if ca.is_some() || client.is_some() => {
            if source.tls_skip_verify {
                TlsMode::Unverified
            } else {
                TlsMode::Verified
            }
        }
        // The Go driver would not encrypt. That is no reason not to, and without TLS a server of today takes no password
        // that it has not cached.
        None => TlsMode::Preferred,
        Some("false" | "0" | "FALSE" | "False") => TlsMode::Off,
        Some("preferred") => TlsMode::Preferred,
        Some("skip-verify") if fallback => TlsMode::Preferred,
        Some("skip-verify") => TlsMode::Unverified,
        Some(flag) if is_true(flag) => TlsMode::Verified,
        Some(other) => {
            return Err(TargetError::Config(format!(
                "error verifying - connection: unable to parse connectionURL: invalid value / unknown config name: {other}"
            )));
        }
    };
    Ok(Tls { mode, ca, client: client.map(Secret::duplicate), server_name: given(source.tls_server_name) })
}

/// The labels of the PEM blocks of `text`, in order; blocks that are no base64 are not there.
fn blocks(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN ") {
        rest = &rest[begin + "-----BEGIN ".len()..];
        let Some((label, after)) = rest.split_once("-----") else { break };
        let Some((body, after)) = after.split_once(&format!("-----END {label}-----")) else { continue };
        let packed = Secret::new(body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
        if STANDARD.decode(packed.expose()).map(Zeroizing::new).is_ok_and(|der| !der.is_empty()) {
            labels.push(label.to_owned());
        }
        rest = after;
    }
    labels
}

/// The checks of Go's `tls.X509KeyPair`, in its words.
fn check_client(pem: &Secret) -> Result<(), String> {
    let labels = blocks(pem.expose());
    if labels.is_empty() {
        return Err("failed to find any PEM data in certificate input".into());
    }
    let key = labels.iter().any(|label| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY"));
    match (labels.iter().any(|label| label == "CERTIFICATE"), key) {
        (true, true) => Ok(()),
        (false, true) => Err("failed to find certificate PEM data in certificate input, but did find a private key; \
                              PEM inputs may have been switched"
            .into()),
        (false, false) => Err(format!(
            "failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following \
             types: {labels:?}"
        )),
        (true, false) => Err("found a certificate rather than a key in the PEM for the private key".into()),
    }
}

fn user_host(text: &str) -> Result<String, TargetError> {
    // What hosts, addresses, networks and patterns are made of; no quote can be.
    if text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"%_.:/-".contains(&b)) {
        return Ok(if text.is_empty() { "%".to_owned() } else { text.to_owned() });
    }
    Err(config("user_host is neither a host name, an address, a network nor a pattern"))
}

fn hashing(name: &str) -> Result<Hashing, TargetError> {
    match (name, Plugin::named(name)) {
        ("" | "server", _) => Ok(Hashing::Server),
        ("none", _) => Ok(Hashing::Off),
        (_, Some(plugin)) => Ok(Hashing::With(plugin)),
        _ => Err(config(
            "password_hashing is none of server, mysql_native_password, caching_sha2_password, ed25519 and none",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(source: Source<'_>) -> Result<Settings, String> {
        Settings::new(&source).map_err(|e| e.to_string())
    }

    fn url(text: &str) -> Source<'_> {
        Source { connection_url: text, ..Source::default() }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    const URL: &str = "{{username}}:{{password}}@tcp(127.0.0.1:13306)/";
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n";

    #[test]
    fn golden_refusals() {
        let (no_pem, no_key) = (secret("xx"), secret(CERTIFICATE));
        let custom = format!("{URL}?tls=custom");
        for (source, text) in [
            (url(""), "connection_url cannot be empty"),
            (Source { tls_ca: "xx", ..url(URL) }, "failed to append CA to client options"),
            (
                Source { tls_certificate_key: Some(&no_pem), ..url(URL) },
                "unable to load tls_certificate_key_data: tls: failed to find any PEM data in certificate input",
            ),
            (
                Source { tls_certificate_key: Some(&no_key), ..url(URL) },
                "unable to load tls_certificate_key_data: tls: found a certificate rather than a key in the PEM for the \
                 private key",
            ),
            (
                url("mysql://x:y@127.0.0.1:13306/"),
                "error verifying - connection: unable to parse connectionURL: default addr for network \
                 '127.0.0.1:13306' unknown",
            ),
            (
                url(&custom),
                "error verifying - connection: unable to parse connectionURL: invalid value / unknown config name: custom",
            ),
            (Source { host: "h", ..url(URL) }, "connection_url and host cannot be combined"),
            (Source { host: "h", port: "70000", ..url("") }, "port is not a port number"),
        ] {
            assert_eq!(settings(source).err().as_deref(), Some(text));
        }
    }

    #[test]
    fn one_thing_said_two_ways() {
        let password = secret("p@/:");
        let who = Source { username: "u", password: Some(&password), ..Source::default() };
        let dsn = Source { connection_url: "{{username}}:{{password}}@tcp(a:1,b:2)/d?tls=true", ..who };
        let fields = Source { host: "a:1,b", port: "2", database: "d", tls: "true", ..who };
        for source in [dsn, fields] {
            let settings = settings(source).unwrap();
            assert_eq!(settings.addresses, [Address::Tcp("a".into(), 1), Address::Tcp("b".into(), 2)]);
            assert_eq!((settings.username.as_str(), settings.database.as_str()), ("u", "d"));
            assert_eq!(settings.passwords.first().unwrap().expose(), "p@/:");
            assert_eq!(settings.tls.mode, TlsMode::Verified);
            assert!(!format!("{settings:?}").contains("p@/"));
        }
        let socket = settings(Source { host: "/run/mysqld/mysqld.sock", ..Source::default() }).unwrap();
        assert_eq!(socket.addresses, [Address::Unix("/run/mysqld/mysqld.sock".into())]);
    }

    #[test]
    fn tls_modes() {
        let mode = |params: &str| settings(url(&format!("{URL}?{params}"))).unwrap().tls.mode;
        assert_eq!(mode(""), TlsMode::Preferred);
        assert_eq!(mode("tls=false"), TlsMode::Off);
        assert_eq!(mode("tls=true"), TlsMode::Verified);
        assert_eq!(mode("tls=skip-verify"), TlsMode::Unverified);
        assert_eq!(mode("tls=skip-verify&allowFallbackToPlaintext=true"), TlsMode::Preferred);
        let of = |source| settings(source).unwrap().tls.mode;
        assert_eq!(of(Source { tls_ca: CERTIFICATE, ..url(URL) }), TlsMode::Verified);
        let both = secret(&format!("{CERTIFICATE}{KEY}"));
        let client = Source { tls_certificate_key: Some(&both), tls_skip_verify: true, ..url(URL) };
        assert_eq!(of(client), TlsMode::Unverified);
        // As in the built-in engine: by itself it means nothing.
        assert_eq!(of(Source { tls_skip_verify: true, ..url(URL) }), TlsMode::Preferred);
    }

    #[test]
    fn variables_cannot_smuggle_statements() {
        let of = |params: &str| settings(url(&format!("{URL}?{params}")));
        let kept = of("timeout=5s&max_allowed_packet=16777216&sql_mode=%27ANSI%2CTRADITIONAL%27&charset=utf8").unwrap();
        let expected = [("max_allowed_packet", "16777216"), ("sql_mode", "'ANSI,TRADITIONAL'")];
        assert_eq!(kept.variables, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(kept.dial_timeout, Some(Duration::from_secs(5)));
        assert_eq!(kept.charset.as_deref(), Some("utf8"));
        assert_eq!(of("charset=gbk,utf8mb4&collation=gbk_bin").unwrap().charset.as_deref(), Some("utf8mb4"));
        assert_eq!(of("charset=utf8%27,sjis").unwrap().charset, None);
        assert_eq!(of("charset=gbk,utf8mb4&collation=gbk_bin").unwrap().charset.as_deref(), Some("utf8mb4"));
        assert_eq!(of("charset=utf8%27,sjis").unwrap().charset, None);
        for params in [
            "x=1;DROP",
            "x=1,y=2",
            "x%20=1",
            "x='a'='b'",
            "x='a",
            "x='a\\'",
            "x=1--",
            "x=",
            "x=a%2F*b",
            "character_set_client=gbk",
        ] {
            assert!(of(params).is_err(), "{params}");
        }
    }

    #[test]
    fn hosts_and_hashes() {
        assert_eq!(settings(url(URL)).unwrap().user_host, "%");
        let of = |user_host| settings(Source { user_host, ..url(URL) });
        assert_eq!(of("10.0.0.0/255.0.0.0").unwrap().user_host, "10.0.0.0/255.0.0.0");
        assert!(of("a'b").is_err());
        let of = |password_hashing| settings(Source { password_hashing, ..url(URL) }).map(|settings| settings.hashing);
        assert_eq!(of("ed25519").unwrap(), Hashing::With(Plugin::Ed25519));
        assert_eq!(of("none").unwrap(), Hashing::Off);
        assert_eq!(of("").unwrap(), Hashing::Server);
        assert!(of("md5").is_err());
    }
}
