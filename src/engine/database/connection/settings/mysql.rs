//! The details of a MySQL or MariaDB connection.

use super::{Details, Read};
use crate::target::mysql::{Settings, Source};

pub fn read(details: Details<'_>) -> Result<Read, String> {
    let mut reader = details.reader();
    let username = reader.text("username").unwrap_or_default();
    let max_open = reader.int("max_open_connections").unwrap_or_default();
    let max_idle = reader.int("max_idle_connections").unwrap_or_default();
    let username_template = reader.text("username_template").unwrap_or_default();
    let host = reader.text("host").unwrap_or_default();
    let port = reader.text("port").unwrap_or_default();
    let database = reader.text("database").unwrap_or_default();
    let tls = reader.text("tls").unwrap_or_default();
    let tls_ca = reader.text("tls_ca").unwrap_or_default();
    let tls_server_name = reader.text("tls_server_name").unwrap_or_default();
    let tls_skip_verify = reader.flag("tls_skip_verify").unwrap_or_default();
    let user_host = reader.text("user_host").unwrap_or_default();
    let password_hashing = reader.text("password_hashing").unwrap_or_default();
    let refuse_plaintext_password = reader.flag("refuse_plaintext_password").unwrap_or_default();
    reader.finish().map_err(|e| e.to_string())?;
    let durations = details.durations()?;

    let settings = Settings::new(&Source {
        connection_url: details.url(),
        username: &username,
        password: details.secret("password"),
        host: &host,
        port: &port,
        database: &database,
        tls: &tls,
        tls_ca: &tls_ca,
        tls_certificate_key: details.secret("tls_certificate_key"),
        tls_server_name: &tls_server_name,
        tls_skip_verify,
        user_host: &user_host,
        password_hashing: &password_hashing,
        refuse_plaintext_password,
        max_open,
        max_idle,
        max_lifetime: durations.lifetime,
        connect_timeout: durations.connect,
        statement_timeout: durations.statement,
    })
    .map_err(|e| e.to_string())?;
    Ok(Read { target: crate::target::Settings::MySql(settings), username_template, scram_iterations: None })
}
