//! The details of a PostgreSQL connection.

use std::time::Duration;

use super::{Details, Read};
use crate::secret::verifier;
use crate::target::dsn::{PgEndpoint, Source};
use crate::target::pool::Limits;
use crate::target::postgres::{PasswordForm, Settings};

/// Without `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without `database`, beside `host`.
const DATABASE: &str = "postgres";
/// Without `statement_timeout`.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

pub fn read(details: Details<'_>) -> Result<Read, String> {
    let mut reader = details.reader();
    let username = reader.text("username").unwrap_or_default();
    let max_open = reader.int("max_open_connections").unwrap_or_default();
    let max_idle = reader.int("max_idle_connections").unwrap_or_default();
    let disable_escaping = reader.flag("disable_escaping").unwrap_or_default();
    let username_template = reader.text("username_template").unwrap_or_default();
    let password_authentication = reader.text("password_authentication").unwrap_or_default();
    let scram_iterations = reader.int("scram_iterations");
    let host = reader.text("host").unwrap_or_default();
    let port = reader.text("port").unwrap_or_default();
    let database = reader.text("database").filter(|name| !name.is_empty()).unwrap_or_else(|| DATABASE.to_owned());
    let sslmode = reader.text("sslmode").unwrap_or_default();
    let tls_ca = reader.text("tls_ca").unwrap_or_default();
    let tls_certificate = reader.text("tls_certificate").unwrap_or_default();
    reader.finish().map_err(|e| e.to_string())?;
    let durations = details.durations()?;

    let endpoint = PgEndpoint::parse(&Source {
        connection_url: details.url(),
        username: &username,
        password: details.secret("password"),
        disable_escaping,
        host: &host,
        port: &port,
        database: &database,
        sslmode: &sslmode,
        tls_ca: &tls_ca,
        tls_certificate: &tls_certificate,
        // Without a certificate the built-in engine's driver has no use for a key, and keeps it.
        private_key: details.secret("private_key").filter(|_| !tls_certificate.is_empty()),
    })
    .map_err(|e| e.to_string())?;
    let given = |span: Duration| Some(span).filter(|span| !span.is_zero());
    let connect_timeout = given(durations.connect).or(endpoint.connect_timeout).unwrap_or(CONNECT_TIMEOUT);
    let password_form = match password_authentication.as_str() {
        "" => PasswordForm::Where,
        "password" => PasswordForm::Text,
        "scram-sha-256" => PasswordForm::Verifier,
        other => return Err(format!("'{other}' is not a valid password authentication type")),
    };
    let scram_iterations = match scram_iterations {
        None | Some(0) => verifier::SCRAM_ITERATIONS,
        Some(given) => verifier::scram_iterations(given)?,
    };
    let is_sent = password_form != PasswordForm::Text;
    Ok(Read {
        target: crate::target::Settings::PostgreSql(Settings {
            endpoint,
            limits: Limits::new(max_open, max_idle, durations.lifetime, connect_timeout),
            statement_timeout: given(durations.statement).unwrap_or(STATEMENT_TIMEOUT),
            password_form,
            scram_iterations,
        }),
        scram_iterations: is_sent.then_some(scram_iterations),
        username_template,
    })
}
