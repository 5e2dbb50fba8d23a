//! The details of a Valkey or Redis connection.

use super::{Details, Read};
use crate::target::redis::{Settings, Source};

pub fn read(details: Details<'_>) -> Result<Read, String> {
    let mut reader = details.reader();
    let host = reader.text("host").unwrap_or_default();
    let port = reader.int("port").unwrap_or_default();
    let username = reader.text("username").unwrap_or_default();
    let tls = reader.flag("tls").unwrap_or_default();
    let insecure_tls = reader.flag("insecure_tls").unwrap_or_default();
    let ca_cert = reader.text("ca_cert").unwrap_or_default();
    let persistence_mode = reader.text("persistence_mode").unwrap_or_default();
    let username_template = reader.text("username_template").unwrap_or_default();
    let max_open = reader.int("max_open_connections").unwrap_or_default();
    let max_idle = reader.int("max_idle_connections").unwrap_or_default();
    reader.finish().map_err(|e| e.to_string())?;
    let durations = details.durations()?;
    // Zero is as good as nothing, as in the built-in engine.
    let port = if port == 0 { String::new() } else { port.to_string() };

    let settings = Settings::new(&Source {
        connection_url: details.url(),
        host: &host,
        port: &port,
        username: &username,
        password: details.secret("password"),
        tls,
        insecure_tls,
        ca_cert: &ca_cert,
        persistence_mode: &persistence_mode,
        max_open,
        max_idle,
        max_lifetime: durations.lifetime,
        connect_timeout: durations.connect,
        statement_timeout: durations.statement,
    })
    .map_err(|e| e.to_string())?;
    Ok(Read { target: crate::target::Settings::Redis(settings), username_template, scram_iterations: None })
}
