//! What a user has done, by the server's own counters, and whether it is in the server's log.

use super::session::{Fault, Session};
use super::{Core, TargetError};
use crate::target::pool::Lane;
use crate::target::{Standing, Usage};

/// Counters of MariaDB (`userstat`), else of the performance schema; each is off where the administrator wants it so.
const COUNTERS: [(&str, &str, &str); 2] = [
    (
        "userstat",
        "SELECT @@global.userstat",
        "SELECT COALESCE(SUM(SELECT_COMMANDS + UPDATE_COMMANDS + OTHER_COMMANDS), 0), \
         COALESCE(SUM(ROWS_SENT + ROWS_DELETED + ROWS_INSERTED + ROWS_UPDATED), 0) \
         FROM information_schema.USER_STATISTICS WHERE USER = ",
    ),
    (
        "performance_schema",
        "SELECT @@global.performance_schema",
        "SELECT COALESCE(SUM(COUNT_STAR), 0), COALESCE(SUM(SUM_ROWS_SENT + SUM_ROWS_AFFECTED), 0) \
         FROM performance_schema.events_statements_summary_by_user_by_event_name WHERE USER = ",
    ),
];

/// What the user has done so far; `None` if nobody counts.
pub async fn usage(core: &Core, username: &str) -> Result<Option<Usage>, TargetError> {
    let mut session = core.session(Lane::End).await?;
    let quoted = quoted(username);
    let mut found = None;
    for (source, on, count) in COUNTERS {
        // An unknown variable, or a table that the account may not read: then these are not the counters.
        if first(&mut session, on).await?.as_deref() != Some("1") {
            continue;
        }
        let rows = match session.rows(&format!("{count}{quoted}")).await {
            Ok(rows) => rows,
            Err(fault) if fault.is_open() => return Err(fault.into()),
            Err(_) => continue,
        };
        let mut numbers = rows.into_iter().flatten().flatten().filter_map(|text| text.parse().ok());
        if let (Some(statements), Some(rows)) = (numbers.next(), numbers.next()) {
            found = Some(Usage { source, statements, rows });
            break;
        }
    }
    session.give_back();
    Ok(found)
}

/// The first field of the answer; `None` if the server says that it cannot tell.
async fn first(session: &mut Session, ask: &str) -> Result<Option<String>, Fault> {
    match session.rows(ask).await {
        Ok(rows) => Ok(rows.into_iter().flatten().flatten().next()),
        Err(fault) if fault.is_open() => Err(fault),
        Err(_) => Ok(None),
    }
}

/// Whether what every user does is logged: by the general log, or by an audit plugin that leaves nobody out.
pub async fn records(core: &Core) -> Result<(), TargetError> {
    let mut session = core.session(Lane::Issue).await?;
    let general = first(&mut session, "SELECT @@global.general_log").await?.as_deref() == Some("1");
    let audited = first(
        &mut session,
        "SELECT @@global.server_audit_logging = 1 AND @@global.server_audit_incl_users = '' \
         AND @@global.server_audit_excl_users = '' \
         AND (@@global.server_audit_events = '' OR FIND_IN_SET('QUERY', UPPER(@@global.server_audit_events)))",
    )
    .await?;
    // The audit log of MySQL Enterprise and of Percona.
    let policy = first(&mut session, "SELECT @@global.audit_log_policy").await?;
    session.give_back();
    if general || audited.as_deref() == Some("1") || policy.is_some_and(|policy| policy.eq_ignore_ascii_case("ALL")) {
        return Ok(());
    }
    Err(TargetError::Plan(
        "the server logs nothing of what its users do: set general_log, or an audit plugin that records the queries of \
         everybody"
            .into(),
    ))
}

/// Privileges over others.
const POWERS: &str = "'SUPER', 'CREATE USER', 'GRANT OPTION', 'FILE', 'SHUTDOWN', 'RELOAD', 'PROCESS', 'SYSTEM_USER', \
                      'CONNECTION_ADMIN', 'SET USER', 'SET_ANY_DEFINER', 'BINLOG ADMIN', 'REPLICATION SLAVE'";

/// The accounts with such privileges, or that may pass any privilege on.
pub async fn standing(core: &Core) -> Result<Vec<Standing>, TargetError> {
    let mut session = core.session(Lane::End).await?;
    let ask = format!(
        "SELECT GRANTEE, PRIVILEGE_TYPE, IS_GRANTABLE = 'YES', \
         GRANTEE = CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''') \
         FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN ({POWERS}) OR IS_GRANTABLE = 'YES' \
         ORDER BY GRANTEE, PRIVILEGE_TYPE"
    );
    let rows = session.rows(&ask).await?;
    session.give_back();
    let mut found: Vec<Standing> = Vec::new();
    for row in rows {
        let [Some(name), Some(right), grantable, own] = row.as_slice() else { continue };
        let right = if grantable.as_deref() == Some("1") { format!("{right} (and pass it on)") } else { right.clone() };
        match found.last_mut() {
            Some(last) if last.name == *name => last.rights.push(right),
            _ => found.push(Standing { name: name.clone(), rights: vec![right], own: own.as_deref() == Some("1") }),
        }
    }
    Ok(found)
}

/// For how many seconds no session of the user has done anything; `None` if it has no session.
pub async fn silence(core: &Core, username: &str) -> Result<Option<u64>, TargetError> {
    let mut session = core.session(Lane::End).await?;
    let ask = format!(
        "SELECT MIN(IF(COMMAND = 'Sleep', GREATEST(TIME, 0), 0)) FROM information_schema.PROCESSLIST WHERE USER = {}",
        quoted(username)
    );
    let rows = session.rows(&ask).await?;
    session.give_back();
    Ok(rows.into_iter().flatten().flatten().next().and_then(|text| text.parse().ok()))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
