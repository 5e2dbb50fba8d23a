//! The users of ours that are at a connection now: by their markers where the target keeps them, else by their notes.

use std::collections::BTreeSet;

use super::database::connection::{Config, Connection};
use super::error::Error;
use super::intent::{self, Intent};
use super::remnant::{self, State};
use super::{Mount, marker};

/// One of them. It may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub username: String,
    /// The role it is of.
    pub role: String,
    /// Who asked, empty if the token has no entity.
    pub entity: String,
    /// Id of the request that asked for it, empty if nobody wrote that down.
    pub request: String,
    /// When it was made, unix seconds; 0 if nobody wrote that down.
    pub begun: u64,
}

/// All of them, those that are being made or could not be ended included. Who can do nothing any more is not among them.
///
/// # Errors
/// [`Error::Failed`] if storage refuses, or if the target has to be asked and cannot be.
pub async fn users(mount: &Mount, name: &str, connection: &Connection) -> Result<Vec<User>, Error> {
    let mut users = if connection.driver.keeps_marker() {
        marked(mount, name, connection).await?
    } else {
        noted(mount, name).await?
    };
    let known: BTreeSet<String> = users.iter().map(|user| user.username.clone()).collect();
    for record in remnant::of_connection(mount, name).await? {
        if record.state == State::Open && !known.contains(&record.user.username) {
            users.push(User {
                username: record.user.username,
                role: record.user.role,
                entity: record.user.entity,
                request: String::new(),
                begun: 0,
            });
        }
    }
    Ok(users)
}

async fn marked(mount: &Mount, name: &str, connection: &Connection) -> Result<Vec<User>, Error> {
    let marked = connection.target.marked(&mount.id).await.map_err(|e| Error::Failed(e.to_string()))?;
    let mut users = Vec::new();
    for found in marked {
        if found.marker.connection == name
            && !found.barred
            && marker::is_ours(mount, &found.username, &found.marker).await?
        {
            users.push(User {
                username: found.username,
                role: found.marker.role,
                entity: found.marker.entity,
                request: found.marker.request,
                begun: found.marker.begun,
            });
        }
    }
    Ok(users)
}

/// Those of which there is a note. Nobody but storage is asked.
///
/// # Errors
/// [`Error::Failed`] if storage refuses. A note that cannot be read is reported and left out.
pub async fn noted(mount: &Mount, name: &str) -> Result<Vec<User>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut users = Vec::new();
    for id in storage.list(intent::PREFIX, "", -1).await? {
        match Intent::load(storage, &format!("{}{id}", intent::PREFIX)).await {
            Ok(Some(note)) if note.db_name == name => users.push(User {
                username: note.username,
                role: note.role,
                entity: note.entity,
                request: note.request,
                begun: note.begun,
            }),
            Ok(_) => {}
            Err(e) => tracing::error!("{e}"),
        }
    }
    Ok(users)
}

/// Refuses what would leave a connection's users behind: `what` says how that is called. The lock of the connection's password
/// is held. Static roles leave nobody behind, so they do not count, as in the built-in engine.
///
/// # Errors
/// [`Error::Refused`], with how many there are and what to do; also if they cannot be counted.
pub async fn refuse(mount: &Mount, name: &str, config: &Config, what: &str) -> Result<(), Error> {
    let Ok(driver) = config.driver() else {
        // Nothing could ever be ended through it.
        return Ok(());
    };
    let counted = async {
        if config.is_self_managed() {
            return Ok(Vec::new());
        }
        if !driver.keeps_marker() {
            return noted(mount, name).await;
        }
        let connection = mount.connections.opened(mount, name).await?;
        marked(mount, name, &connection).await
    };
    let users = counted.await.map_err(|e| {
        Error::Refused(format!(
            "whether users are left at connection {name:?} cannot be asked: {e}; with force=true {what} all the same, and \
             what is left there stays until somebody ends it"
        ))
    })?;
    let known: BTreeSet<&str> = users.iter().map(|user| user.username.as_str()).collect();
    let remnants = remnant::of_connection(mount, name).await?;
    let remnants = remnants.iter().filter(|record| !known.contains(record.user.username.as_str())).count();
    let counts = [(users.len(), "live user"), (remnants, "remnant")];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if counts.is_empty() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "connection {name:?} is still needed by {}: revoke their leases (sys/leases/revoke-prefix), see to remnants/; or with \
         force=true {what} all the same, and what is left at the database stays until somebody ends it",
        counts.join(", ")
    )))
}
