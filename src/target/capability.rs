//! What is asked of the account of a connection.

use std::fmt;

/// Something that the engine asks of the account of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Make users.
    CreateUsers,
    /// Make users members of a group.
    GrantGroups,
    /// Leave the marker at a user.
    MarkUsers,
    /// See which users there are.
    SeeUsers,
    /// Take the login from users, and drop them.
    EndUsers,
    /// See the sessions of users.
    SeeSessions,
    /// End the sessions of users.
    EndSessions,
    /// Look into every database of the server.
    ReachDatabases,
    /// See what users own or define.
    SeeObjects,
    /// Drop what users own (`owned_objects=drop`).
    DropObjects,
    /// Give what users own to another (`owned_objects=reassign:<role>`).
    ReassignObjects,
    /// Write the list of users down, so that it outlives the server's process.
    SaveUsers,
}

impl Need {
    /// Its stable name: `end_sessions`.
    pub fn id(self) -> &'static str {
        match self {
            Self::CreateUsers => "create_users",
            Self::GrantGroups => "grant_groups",
            Self::MarkUsers => "mark_users",
            Self::SeeUsers => "see_users",
            Self::EndUsers => "end_users",
            Self::SeeSessions => "see_sessions",
            Self::EndSessions => "end_sessions",
            Self::ReachDatabases => "reach_databases",
            Self::SeeObjects => "see_objects",
            Self::DropObjects => "drop_objects",
            Self::ReassignObjects => "reassign_objects",
            Self::SaveUsers => "save_users",
        }
    }
}

/// What for, in a few words: `end sessions`.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id().replace('_', " "))
    }
}

/// Whether the account can do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// What.
    pub need: Need,
    /// It can.
    pub granted: bool,
    /// Users could not be made without it, or not end as the options say.
    pub required: bool,
    /// What would grant it if it is missing: a statement where there is one; else what to change.
    pub fix: String,
}
