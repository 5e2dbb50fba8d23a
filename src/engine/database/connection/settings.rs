//! From `connection_details` to what a driver takes.

mod mysql;
mod postgres;
mod redis;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::engine::field::weak::Reader;
use crate::engine::go::GoDuration;
use crate::engine::request::Fields;
use crate::secret::Secret;
use crate::target::{self, Driver};

/// What the details say.
pub struct Read {
    /// For the driver.
    pub target: target::Settings,
    /// How users are named, empty for the default.
    pub username_template: String,
    /// Rounds of the SCRAM verifiers that the server is sent, if it is sent any.
    pub scram_iterations: Option<u32>,
}

/// The details of a connection: those that may be seen, and those that may not.
#[derive(Clone, Copy)]
struct Details<'a> {
    seen: &'a Fields,
    secrets: &'a BTreeMap<String, Secret>,
}

impl<'a> Details<'a> {
    /// A secret that is a text of some length.
    fn secret(&self, name: &str) -> Option<&'a Secret> {
        self.secrets.get(name)
    }

    /// What every driver reads first, in the built-in engine's order.
    fn reader(&self) -> Reader<'a> {
        let mut reader = Reader::new(self.seen);
        // A text is among the secrets; what is here has another type.
        let _ = reader.text("connection_url");
        reader
    }

    fn url(&self) -> &'a str {
        self.secret("connection_url").map_or("", |url| url.expose())
    }

    /// A duration, zero if it is absent.
    fn duration(&self, name: &str) -> Result<Duration, String> {
        match self.seen.get(name) {
            None | Some(Value::Null) => Ok(Duration::ZERO),
            Some(value) => {
                let span = GoDuration::from_value(value).map_err(|e| format!("invalid {name}: {e}"))?;
                span.to_std().ok_or_else(|| format!("invalid {name}: it is negative"))
            }
        }
    }

    fn durations(&self) -> Result<Durations, String> {
        Ok(Durations {
            lifetime: self.duration("max_connection_lifetime")?,
            connect: self.duration("connect_timeout")?,
            statement: self.duration("statement_timeout")?,
        })
    }
}

/// Spans of time that every driver has; zero for its default.
struct Durations {
    lifetime: Duration,
    connect: Duration,
    statement: Duration,
}

/// Reads the details of a connection.
///
/// # Errors
/// The text after `error creating database object: `.
pub fn read(driver: Driver, seen: &Fields, secrets: &BTreeMap<String, Secret>) -> Result<Read, String> {
    let details = Details { seen, secrets };
    match driver {
        Driver::PostgreSql => postgres::read(details),
        Driver::MySql | Driver::MySqlLegacy => mysql::read(details),
        Driver::Redis => redis::read(details),
    }
}
