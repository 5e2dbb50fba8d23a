//! Data source names in the form of the Go MySQL driver: `user:password@protocol(address)/database?name=value&…`.
//!
//! The grammar has no quoting, so the order in which it is read decides what a character means: the last `/`, before it
//! the last `@`, before that the first `:`. A password may hold any character but for that reason is best filled in
//! after parsing, into `{{password}}`; so it is done here.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::TargetError;
use crate::secret::Secret;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host name or IP address (IPv6 without brackets) and port.
    Tcp(String, u16),
    /// Path of a socket.
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// MySQL's port.
pub const PORT: u16 = 3306;

/// The parts of a data source name.
#[derive(Debug)]
pub struct Dsn {
    /// The login's name.
    pub user: String,
    /// The login's password.
    pub password: Option<Secret>,
    /// Servers, to be tried in order. Never empty.
    pub addresses: Vec<Address>,
    /// The database to use, empty for none.
    pub database: String,
    /// Parameters, decoded, in order.
    pub params: Vec<(String, String)>,
}

impl Dsn {
    /// Parses `text` and fills `{{username}}` and `{{password}}` into its parts.
    ///
    /// # Errors
    /// [`TargetError::Config`]; its text is built from the grammar and from addresses.
    pub fn parse(text: &str, username: &str, password: Option<&Secret>) -> Result<Self, TargetError> {
        let Some(slash) = text.rfind('/') else {
            return Err(unparsable("invalid DSN: missing the slash separating the database name"));
        };
        let (login, endpoint) = match text[..slash].rfind('@') {
            Some(at) => (&text[..at], &text[at + 1..slash]),
            None => ("", &text[..slash]),
        };
        let (user, own_password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        let (database, params) = match text[slash + 1..].split_once('?') {
            Some((database, params)) => (database, params),
            None => (&text[slash + 1..], ""),
        };
        let decoded = percent_decode_str(database).decode_utf8();
        let database = decoded.map_err(|_| unparsable("invalid DSN: the database name is not UTF-8"))?;
        Ok(Self {
            user: user.replace("{{username}}", username),
            password: own_password.filter(|own| !own.is_empty()).map(|own| fill(own, username, password)),
            addresses: addresses(endpoint, !login.is_empty())?,
            database: database.replace("{{username}}", username),
            params: parameters(params)?,
        })
    }

    /// The value of a parameter; the last one counts.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A password of the DSN with its variables filled.
fn fill(template: &str, username: &str, password: Option<&Secret>) -> Secret {
    let given = password.map(Secret::expose).unwrap_or_default();
    // Piece by piece: a password that holds `{{username}}` is not filled again. Reserved at full size: a buffer that
    // grows leaves copies of its content behind.
    let variables = template.matches("{{").count();
    let mut out = String::with_capacity(template.len() + variables * (given.len() + username.len()));
    let mut rest = template;
    while let Some(at) = rest.find("{{") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (value, length) = if rest.starts_with("{{password}}") {
            (given, "{{password}}".len())
        } else if rest.starts_with("{{username}}") {
            (username, "{{username}}".len())
        } else {
            ("{", 1)
        };
        out.push_str(value);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Secret::new(out)
}

/// `protocol(address)`, either part of which may be missing.
fn addresses(endpoint: &str, own_login: bool) -> Result<Vec<Address>, TargetError> {
    let (protocol, address) = match endpoint.split_once('(') {
        Some((protocol, rest)) => match rest.strip_suffix(')') {
            Some(address) => (protocol, address),
            None if rest.contains(')') => {
                return Err(unparsable("invalid DSN: did you forget to escape a param value?"));
            }
            None => {
                return Err(unparsable("invalid DSN: network address not terminated (missing closing brace)"));
            }
        },
        None => (endpoint, ""),
    };
    match (protocol, address) {
        ("" | "tcp" | "tcp4" | "tcp6", "") => Ok(vec![Address::Tcp("127.0.0.1".to_owned(), PORT)]),
        ("" | "tcp" | "tcp4" | "tcp6", list) => hosts(list, PORT),
        ("unix", "") => Ok(vec![Address::Unix("/tmp/mysql.sock".to_owned())]),
        ("unix", path) => Ok(vec![Address::Unix(path.to_owned())]),
        // Named only where it is an address, as in a URL given for a DSN: it might be a part of the password.
        (other, "") if other.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && own_login => {
            Err(unparsable(&format!("default addr for network '{other}' unknown")))
        }
        _ => Err(unparsable("the network is neither tcp(host:port) nor unix(/path)")),
    }
}

/// A list of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address, with commas between.
///
/// # Errors
/// [`TargetError::Config`] for an empty host or a port that is none.
pub fn hosts(list: &str, default_port: u16) -> Result<Vec<Address>, TargetError> {
    let one = |entry: &str| {
        let entry = entry.trim();
        let bad = || unparsable(&format!("invalid address {entry:?}"));
        let (host, port) = match entry.strip_prefix('[') {
            Some(rest) => match rest.split_once(']').ok_or_else(bad)? {
                (host, "") => (host, None),
                (host, tail) => (host, Some(tail.strip_prefix(':').ok_or_else(bad)?)),
            },
            None if entry.parse::<std::net::Ipv6Addr>().is_ok() => (entry, None),
            None => match entry.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (entry, None),
            },
        };
        let port = match port {
            Some("") | None => default_port,
            Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or_else(bad)?,
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(bad());
        }
        Ok(Address::Tcp(host.to_owned(), port))
    };
    list.split(',').map(one).collect()
}

fn parameters(text: &str) -> Result<Vec<(String, String)>, TargetError> {
    let mut params = Vec::new();
    for pair in text.split('&') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        // Go's query unescaping: `+` is a space.
        let spaced = value.replace('+', " ");
        let value = percent_decode_str(&spaced).decode_utf8();
        let value = value.map_err(|_| unparsable(&format!("invalid value for parameter {name:?}")))?;
        params.push((name.to_owned(), value.into_owned()));
    }
    Ok(params)
}

/// A duration in Go's notation: numbers, with fractions if need be, each with a unit. No sign: nothing here can last
/// less than no time.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

/// The built-in engine's words around a DSN that cannot be read.
fn unparsable(why: &str) -> TargetError {
    TargetError::Config(format!("error verifying - connection: unable to parse connectionURL: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Dsn, String> {
        Dsn::parse(text, "admin", Some(&Secret::new("p@ss:w/or#d%".to_owned()))).map_err(|e| e.to_string())
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn the_usual_form() {
        let dsn = parse("{{username}}:{{password}}@tcp(127.0.0.1:13306)/").unwrap();
        assert_eq!(dsn.user, "admin");
        assert_eq!(dsn.password.unwrap().expose(), "p@ss:w/or#d%");
        assert_eq!(dsn.addresses, [tcp("127.0.0.1", 13306)]);
        assert_eq!(dsn.database, "");
        assert!(dsn.params.is_empty());
    }

    #[test]
    fn all_parts() {
        let dsn =
            parse("a:b@c:d@tcp(h1:1,h2, [::1]:3)/d%2Fb?tls=skip-verify&charset=utf8mb4%2Cutf8&x&tls=true").unwrap();
        assert_eq!(dsn.user, "a");
        assert_eq!(dsn.password.as_ref().unwrap().expose(), "b@c:d");
        assert_eq!(dsn.addresses, [tcp("h1", 1), tcp("h2", 3306), tcp("::1", 3)]);
        assert_eq!(dsn.database, "d/b");
        assert_eq!(dsn.param("tls"), Some("true"));
        assert_eq!(dsn.param("charset"), Some("utf8mb4,utf8"));
        assert_eq!(dsn.param("x"), None);
    }

    #[test]
    fn defaults() {
        assert_eq!(parse("/").unwrap().addresses, [tcp("127.0.0.1", 3306)]);
        assert_eq!(parse("u@/db").unwrap().addresses, [tcp("127.0.0.1", 3306)]);
        assert_eq!(parse("u@tcp/db").unwrap().addresses, [tcp("127.0.0.1", 3306)]);
        assert_eq!(parse("u@tcp(::1)/db").unwrap().addresses, [tcp("::1", 3306)]);
        assert_eq!(parse("u@unix/db").unwrap().addresses, [Address::Unix("/tmp/mysql.sock".to_owned())]);
        assert!(parse("u@tcp(x)/db").unwrap().password.is_none());
    }

    #[test]
    fn sockets() {
        let dsn = parse("{{username}}:{{password}}@unix(/run/mysqld/mysqld.sock)/").unwrap();
        assert_eq!(dsn.addresses, [Address::Unix("/run/mysqld/mysqld.sock".to_owned())]);
    }

    #[test]
    fn refusals() {
        let prefix = "error verifying - connection: unable to parse connectionURL: ";
        for (text, why) in [
            ("mysql://x:y@127.0.0.1:13306/", "default addr for network '127.0.0.1:13306' unknown"),
            ("u:p@tcp(h)", "invalid DSN: missing the slash separating the database name"),
            ("u:p@tcp(h/", "invalid DSN: network address not terminated (missing closing brace)"),
            ("u:p@tcp(h)/db?loc=US/Pacific", "invalid DSN: did you forget to escape a param value?"),
            ("u:p@tcp(h:0)/", r#"invalid address "h:0""#),
            ("u:p@tcp(h:70000)/", r#"invalid address "h:70000""#),
            ("u:p@tcp(,h)/", r#"invalid address """#),
            ("u:p@cloudsql(h)/", "the network is neither tcp(host:port) nor unix(/path)"),
            ("u:p tcp(h:1)/", "the network is neither tcp(host:port) nor unix(/path)"),
            ("u:p@w/", "the network is neither tcp(host:port) nor unix(/path)"),
        ] {
            assert_eq!(parse(text).unwrap_err(), format!("{prefix}{why}"), "{text}");
        }
    }

    #[test]
    fn a_filled_password_is_not_filled_again() {
        let password = Secret::new("{{username}}{{password}}{{".to_owned());
        let dsn = Dsn::parse("u:<{{password}}{{x}}{{username}}>@/", "admin", Some(&password)).unwrap();
        assert_eq!(dsn.password.unwrap().expose(), "<{{username}}{{password}}{{{{x}}admin>");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for text in ["", "5", "abc", "1d", "-1s", "1.2.3s", "s", "9e9s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(text in "\\PC*|[a-z:@/()?&=%\\[\\],{}0-9]{0,60}") {
            let _ = parse(&text);
            let _ = duration(&text);
        }

        /// What is put together comes apart again, whatever the password.
        #[test]
        fn round_trip(
            user in "[^:@/]{0,12}", password in "\\PC{1,30}", port in 1u16.., database in "[a-z0-9_-]{0,12}",
            value in "\\PC{0,12}",
        ) {
            let value_escaped: String = value.bytes().map(|b| format!("%{b:02X}")).collect();
            let text = format!("{{{{username}}}}:{{{{password}}}}@tcp(db.example:{port})/{database}?k={value_escaped}");
            let secret = Secret::new(password.clone());
            let dsn = Dsn::parse(&text, &user, Some(&secret)).unwrap();
            prop_assert_eq!(&dsn.user, &user);
            prop_assert!(dsn.password.is_some_and(|own| own.expose() == password));
            prop_assert_eq!(&dsn.addresses, &[tcp("db.example", port)]);
            prop_assert_eq!(dsn.database, database);
            prop_assert_eq!(dsn.params, [("k".to_owned(), value)]);
        }

        /// The same with the password in the text: any but `/` and `@`-terminated ambiguities are kept.
        #[test]
        fn embedded(user in "[^:@/{]{1,12}", password in "[^/{]{1,30}") {
            let dsn = Dsn::parse(&format!("{user}:{password}@tcp(h)/"), "", None).unwrap();
            prop_assert_eq!(dsn.user, user);
            prop_assert!(dsn.password.is_some_and(|own| own.expose() == password));
        }
    }
}
