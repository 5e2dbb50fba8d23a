//! What the account of the connection can do.

use super::end::SEEING;
use super::{Postgres, quoted_name, quoted_text};
use crate::target::pool::Lane;
use crate::target::{Capability, EndOptions, Need, Owned, Sessions, TargetError, Verify};

/// What the server says of the account.
#[derive(serde::Deserialize)]
struct Account {
    superuser: bool,
    makes_roles: bool,
    /// It may end the sessions of others.
    signals: bool,
    sees_sessions: bool,
    /// Databases that take connections, but not from it.
    unreachable: Vec<String>,
    /// Whether the role that inherits is there, and whether the account has what it has.
    heir: Option<(bool, bool)>,
}

/// Asks the catalogue; nothing is tried.
pub async fn check(target: &Postgres, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
    let heir = match &options.owned {
        Owned::Reassign(heir) => Some(heir),
        Owned::Fail | Owned::Drop => None,
    };
    let of_heir = heir.map_or_else(
        || "NULL".to_owned(),
        |heir| {
            format!(
                "(SELECT json_build_array(count(*) > 0, coalesce(bool_or(pg_has_role(h.oid, 'USAGE')), false)) \
                 FROM pg_roles h WHERE h.rolname = {})",
                quoted_text(heir)
            )
        },
    );
    let functions = SEEING.map(quoted_text).join(", ");
    let ask = format!(
        "SELECT json_build_object('superuser', rolsuper, 'makes_roles', rolcreaterole, \
           'signals', pg_has_role('pg_signal_backend', 'USAGE'), \
           'sees_sessions', (SELECT bool_and(has_function_privilege(f, 'EXECUTE')) FROM unnest(ARRAY[{functions}]) f), \
           'unreachable', (SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database \
             WHERE datallowconn AND NOT has_database_privilege(oid, 'CONNECT')), \
           'heir', {of_heir})::text FROM pg_roles WHERE rolname = current_user"
    );
    let mut session = target.session(Lane::Issue).await?;
    let account: Account = session.ask(&ask).await?;
    session.give_back();
    Ok(capabilities(&account, &target.account(), options))
}

fn capabilities(can: &Account, account: &str, options: &EndOptions) -> Vec<Capability> {
    let makes_roles = can.superuser || can.makes_roles;
    let create = || format!("ALTER ROLE {account} CREATEROLE");
    let ends = options.sessions != Sessions::Keep && options.verify == Verify::Required;
    let capability = |need, granted, required, fix| Capability { need, granted, required, fix };
    let mut all = vec![
        capability(Need::CreateUsers, makes_roles, true, create()),
        capability(Need::MarkUsers, makes_roles, true, create()),
        capability(Need::EndUsers, makes_roles, true, create()),
        capability(
            Need::SeeSessions,
            can.sees_sessions,
            ends,
            format!("GRANT EXECUTE ON FUNCTION {} TO {account}", SEEING.join(", ")),
        ),
        // Who makes a role can let itself act as it, and then end its sessions.
        capability(
            Need::EndSessions,
            makes_roles || can.signals,
            ends,
            format!("GRANT pg_signal_backend TO {account}"),
        ),
        capability(Need::ReachDatabases, can.unreachable.is_empty(), false, {
            let databases: Vec<String> = can.unreachable.iter().map(|name| quoted_name(name)).collect();
            format!("GRANT CONNECT ON DATABASE {} TO {account}", databases.join(", "))
        }),
    ];
    match (&options.owned, can.heir) {
        (Owned::Drop, _) => all.push(capability(Need::DropObjects, makes_roles, true, create())),
        (Owned::Reassign(heir), Some((exists, has_it))) => {
            let heir = quoted_name(heir);
            let fix = match (exists, has_it) {
                (false, _) => format!("CREATE ROLE {heir}"),
                (true, false) => format!("GRANT {heir} TO {account}"),
                (true, true) => create(),
            };
            all.push(capability(Need::ReassignObjects, exists && (can.superuser || has_it && makes_roles), true, fix));
        }
        _ => {}
    }
    all
}
