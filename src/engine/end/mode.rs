//! Whether users are ended at all.
//!
//! Who restores a snapshot of the host gets back leases as they were then: since, some were prolonged, and users were made
//! of which the snapshot knows nothing. Before the first of them is dropped an operator wants to look.

use std::fmt;

use serde_json::json;

use super::{Doomed, Trouble};
use crate::engine::Mount;
use crate::engine::database::connection::Config;
use crate::engine::database::role::Role;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::request::Fields;

/// The field of a connection.
pub const FIELD: &str = "revocation_mode";

/// What becomes of users that are to end, of one connection or of the whole process; the later of two counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RevocationMode {
    /// They end.
    #[default]
    Normal,
    /// They stay, and the log tells who would have gone.
    ReportOnly,
    /// They stay.
    Paused,
}

impl RevocationMode {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Normal, "normal"), (Self::ReportOnly, "report_only"), (Self::Paused, "paused")];

    /// By its name.
    ///
    /// # Errors
    /// Which names there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(_, known)| *known == name);
        found.map(|(mode, _)| mode).ok_or_else(|| format!("invalid {FIELD} {name:?}: normal, report_only or paused"))
    }

    /// That of a stored connection. One that nobody can read holds everything back.
    pub fn of(stored: &Fields) -> Self {
        match stored.get(FIELD) {
            None => Self::Normal,
            Some(name) => name.as_str().and_then(|name| Self::named(name).ok()).unwrap_or(Self::Paused),
        }
    }

    /// Lays what a request gives over a stored connection.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the field and what it takes.
    pub fn write(input: &Input, stored: &mut Fields) -> Result<(), Error> {
        match input.text(FIELD).map(str::trim) {
            None => {}
            Some("") => _ = stored.remove(FIELD),
            Some(name) => {
                let mode = Self::named(name).map_err(Error::Refused)?;
                stored.insert(FIELD.into(), json!(mode.to_string()));
            }
        }
        Ok(())
    }
}

impl fmt::Display for RevocationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find(|(mode, _)| mode == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// Nothing, if the user may end. Nothing is written of one that may not: its lease, its marker or its note stay, and bring
/// it back here.
///
/// # Errors
/// What holds it back, of a class that the host retries.
pub async fn permits(mount: &Mount, doomed: &Doomed) -> Result<(), Trouble> {
    let unread = |e: Error| Trouble::new(e.to_string(), false);
    let everywhere = mount.revocation_mode;
    let db_name = match doomed.db_name.as_str() {
        "" => Role::current(mount, &doomed.role)
            .await
            .map_err(unread)?
            .map(|role| role.db_name.clone())
            .unwrap_or_default(),
        name => name.to_owned(),
    };
    let here = match mount.connections.live(&db_name) {
        Some(connection) => connection.revocation_mode,
        None => {
            let config = Config::load(mount, &db_name).await.map_err(unread)?;
            config.map_or(RevocationMode::Normal, |config| RevocationMode::of(&config.other))
        }
    };
    let mode = everywhere.max(here);
    if mode == RevocationMode::Normal {
        return Ok(());
    }
    let set_by =
        if everywhere == mode { "of the plugin's process".into() } else { format!("of connection {db_name:?}") };
    if mode == RevocationMode::ReportOnly {
        tracing::warn!(
            username = doomed.username,
            role = doomed.role,
            connection = db_name,
            "would be ended, but revocation_mode is report_only"
        );
    }
    Err(Trouble::new(
        format!("the user {:?} stays: the {FIELD} {set_by} is {mode}; set it to normal to end it", doomed.username),
        false,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_by_name_and_by_weight() {
        for (mode, name) in RevocationMode::ALL {
            assert_eq!(RevocationMode::named(name).unwrap(), mode);
            assert_eq!(mode.to_string(), name);
        }
        assert!(RevocationMode::named("off").unwrap_err().contains("paused"));
        assert!(RevocationMode::Normal < RevocationMode::ReportOnly);
        assert!(RevocationMode::ReportOnly < RevocationMode::Paused);
        let stored = |value| [(FIELD.to_owned(), value)].into_iter().collect();
        assert_eq!(RevocationMode::of(&Fields::new()), RevocationMode::Normal);
        assert_eq!(RevocationMode::of(&stored(json!("report_only"))), RevocationMode::ReportOnly);
        assert_eq!(RevocationMode::of(&stored(json!("what"))), RevocationMode::Paused);
    }
}
