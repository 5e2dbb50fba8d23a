//! From `connection_details` to what a driver takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::engine::field::weak::Reader;
use crate::engine::go::GoDuration;
use crate::engine::request::Fields;
use crate::secret::Secret;
use crate::target::dsn::{PgEndpoint, Source};
use crate::target::pool::Limits;
use crate::target::postgres::{self, PasswordForm};
use crate::target::{self, Driver};

/// Without `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without `database`, beside `host`.
const DATABASE: &str = "postgres";
/// Without `statement_timeout`.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the details say.
pub struct Read {
    /// For the driver.
    pub target: target::Settings,
    /// How users are named, empty for the default.
    pub username_template: String,
}

/// Reads the details of a connection.
///
/// # Errors
/// The text after `error creating database object: `.
pub fn read(driver: Driver, details: &Fields, secrets: &BTreeMap<String, Secret>) -> Result<Read, String> {
    let _ = driver;
    let secret = |name: &str| secrets.get(name);
    let mut reader = Reader::new(details);
    // A text is among the secrets; what is here has another type.
    let _ = reader.text("connection_url");
    let username = reader.text("username").unwrap_or_default();
    let max_open = reader.int("max_open_connections").unwrap_or_default();
    let max_idle = reader.int("max_idle_connections").unwrap_or_default();
    let disable_escaping = reader.flag("disable_escaping").unwrap_or_default();
    let username_template = reader.text("username_template").unwrap_or_default();
    let password_authentication = reader.text("password_authentication").unwrap_or_default();
    let host = reader.text("host").unwrap_or_default();
    let port = reader.text("port").unwrap_or_default();
    let database = reader.text("database").filter(|name| !name.is_empty()).unwrap_or_else(|| DATABASE.to_owned());
    let sslmode = reader.text("sslmode").unwrap_or_default();
    let tls_ca = reader.text("tls_ca").unwrap_or_default();
    let tls_certificate = reader.text("tls_certificate").unwrap_or_default();
    reader.finish().map_err(|e| e.to_string())?;

    let lifetime = duration(details, "max_connection_lifetime")?.unwrap_or_default();
    let connect_timeout = duration(details, "connect_timeout")?.filter(|d| !d.is_zero());
    let statement_timeout =
        duration(details, "statement_timeout")?.filter(|d| !d.is_zero()).unwrap_or(STATEMENT_TIMEOUT);

    let endpoint = PgEndpoint::parse(&Source {
        connection_url: secret("connection_url").map_or("", |url| url.expose()),
        username: &username,
        password: secret("password"),
        disable_escaping,
        host: &host,
        port: &port,
        database: &database,
        sslmode: &sslmode,
        tls_ca: &tls_ca,
        tls_certificate: &tls_certificate,
        // Without a certificate the built-in engine's driver has no use for a key, and keeps it.
        private_key: secret("private_key").filter(|_| !tls_certificate.is_empty()),
    })
    .map_err(|e| e.to_string())?;
    let connect_timeout = connect_timeout.or(endpoint.connect_timeout).unwrap_or(CONNECT_TIMEOUT);
    let password_form = match password_authentication.as_str() {
        "" => PasswordForm::Where,
        "password" => PasswordForm::Text,
        "scram-sha-256" => PasswordForm::Verifier,
        other => return Err(format!("'{other}' is not a valid password authentication type")),
    };
    Ok(Read {
        target: target::Settings::PostgreSql(postgres::Settings {
            endpoint,
            limits: Limits::new(max_open, max_idle, lifetime, connect_timeout),
            statement_timeout,
            password_form,
        }),
        username_template,
    })
}

fn duration(details: &Fields, name: &str) -> Result<Option<Duration>, String> {
    match details.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let span = GoDuration::from_value(value).map_err(|e| format!("invalid {name}: {e}"))?;
            span.to_std().map(Some).ok_or_else(|| format!("invalid {name}: it is negative"))
        }
    }
}
