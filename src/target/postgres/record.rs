//! Whether all that a user does is in the server's log: `log_statement`, set for the role by us, which the role itself
//! cannot change.

use super::{Postgres, quoted_name, quoted_text};
use crate::target::pool::Lane;
use crate::target::{MintPlan, TargetError};

/// The SQLSTATE of our own refusal to make a user that could turn its recording off.
pub const UNRECORDED: &str = "LH001";

/// Whether the account of the connection may set it. Nothing is tried.
pub async fn records(target: &Postgres) -> Result<(), TargetError> {
    // The function is there since PostgreSQL 15; before, only superusers may.
    let ask = "SELECT json_build_array(rolsuper, current_setting('server_version_num')::int >= 150000, \
               current_setting('logging_collector') = 'on' OR current_setting('log_destination') <> '')::text \
               FROM pg_roles WHERE rolname = current_user";
    let mut session = target.session(Lane::Issue).await?;
    let (superuser, grantable, logs): (bool, bool, bool) = session.ask(ask).await?;
    let granted = if superuser || !grantable {
        superuser
    } else {
        session.ask("SELECT has_parameter_privilege('log_statement', 'SET')::text").await?
    };
    session.give_back();
    match (granted, logs) {
        (true, true) => Ok(()),
        (true, false) => Err(TargetError::Plan("the server writes no log: set log_destination".into())),
        (false, _) => Err(TargetError::Plan(format!(
            "the connection cannot set log_statement for its users: GRANT SET ON PARAMETER log_statement TO {} \
             (PostgreSQL 15 or later)",
            target.account()
        ))),
    }
}

/// What is said of a new role, behind its creation statements and in their transaction; nothing if it need not be
/// recorded. Fails if the role could turn it off.
pub fn statements(plan: &MintPlan) -> String {
    if !plan.recorded {
        return String::new();
    }
    let (name, text) = (quoted_name(&plan.username), quoted_text(&plan.username));
    format!(
        "ALTER ROLE {name} SET log_statement = 'all';\n\
         DO $leasehold$ DECLARE able boolean; BEGIN \
         SELECT rolsuper OR rolcreaterole INTO able FROM pg_roles WHERE rolname = {text}; \
         IF NOT able AND current_setting('server_version_num')::int >= 150000 THEN \
         SELECT has_parameter_privilege({text}, 'log_statement', 'SET') INTO able; END IF; \
         IF able THEN RAISE EXCEPTION 'the user could turn its recording off: it would be a superuser, make roles, or have \
         SET on log_statement' USING ERRCODE = '{UNRECORDED}'; END IF; END $leasehold$;\n"
    )
}
