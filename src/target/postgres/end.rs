//! Ending a user: contain (no login, no session), clean up (grants, the role), verify (look again).

use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;

use super::mint::{SHARED_ROWS_LOCK, run_script};
use super::session::{PgSession, Problem};
use super::{Postgres, quoted_name, quoted_text};
use crate::target::pool::{Checkout, Lane, Session};
use crate::target::statement::Vars;
use crate::target::{EndPlan, Ended, TargetError};

/// How often a session that was told to go is looked for again.
const POLL: Duration = Duration::from_millis(10);

/// All sessions: what `pg_stat_activity` is made of, without its look at every role.
const SESSIONS: &str = "pg_stat_get_activity(NULL)";

/// What DROP OWNED would take away of a role `oid` that is an object rather than a grant. Default privileges and user
/// mappings count as grants: they hold nobody's data and mean nothing without the role.
fn owned(oid: i64) -> String {
    format!(
        "SELECT 1 FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = {oid} AND deptype = 'o' \
         AND classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass)"
    )
}

/// Ends a user. Whatever is already done is left as it is, so this may run again after any interruption.
pub async fn end(target: &Postgres, plan: &EndPlan) -> Result<Ended, TargetError> {
    let started = Instant::now();
    let ended = |existed, sessions| Ended { existed, sessions, took: started.elapsed(), left: Vec::new() };
    let (mut session, found) = look(target, &plan.username).await?;
    let Some(oid) = found else {
        session.give_back();
        return Ok(ended(false, 0));
    };

    // Seen by every login that begins after it; made durable by the commit that follows.
    let name = quoted_name(&plan.username);
    change(
        target,
        &mut session,
        &format!("SET LOCAL synchronous_commit = off;\nALTER ROLE {name} NOLOGIN VALID UNTIL '-infinity'"),
    )
    .await
    .or_else(|problem| if may_go_on(&problem, plan) { Ok(()) } else { Err(problem) })?;
    let mut sessions = terminate(target, &mut session, oid, &plan.username).await?;

    if plan.revocation.is_empty() {
        clean_up(target, &mut session, oid, &plan.username).await?;
    } else {
        // Not held meanwhile: the statements have a session of their own, and there may be no other.
        session.give_back();
        let run = run_script(target, &plan.revocation, &Vars::name(&plan.username)).await;
        session = target.session(Lane::End).await?;
        if let Err(e) = run {
            let gone = find(&mut session, &plan.username).await?.is_none();
            let about_it = matches!(&e, TargetError::Server { code, message }
                if code == "42704" && message.contains(&plan.username));
            if !(gone && about_it) {
                session.give_back();
                return Err(e);
            }
        }
    }
    sessions += terminate(target, &mut session, oid, &plan.username).await?;
    let open_still = can_log_in(&mut session, &plan.username).await?;
    session.give_back();
    if open_still {
        return Err(TargetError::Plan(format!(
            "the revocation statements ran, but \"{}\" can still log in: let them drop it, or set NOLOGIN",
            plan.username
        )));
    }
    Ok(ended(true, sessions))
}

/// Containment that failed need not be the end: the role went in the meantime, or the account may not change it and has
/// statements of its own (a function that runs as somebody else). What came of it is looked at afterwards.
fn may_go_on(problem: &Problem, plan: &EndPlan) -> bool {
    problem.has_code("42704") || (problem.has_code("42501") && !plan.revocation.is_empty())
}

async fn can_log_in(session: &mut PgSession, username: &str) -> Result<bool, TargetError> {
    let ask = format!("SELECT 1 FROM pg_roles WHERE rolcanlogin AND rolname = {}", quoted_text(username));
    Ok(session.run(&ask).await?.is_some())
}

/// A session, and what it says of the role. The question shows whether a session that was idle still lives; another is
/// asked if not, as ending is not worth an error for that.
async fn look(target: &Postgres, username: &str) -> Result<(Checkout<PgSession>, Option<i64>), TargetError> {
    let mut session = target.session(Lane::End).await?;
    let mut found = find(&mut session, username).await;
    if matches!(found, Err(TargetError::Lost(_))) {
        target.pool.drop_idle();
        session = target.session(Lane::End).await?;
        found = find(&mut session, username).await;
    }
    Ok((session, found?))
}

/// The role's number. Sessions are found by it: a name says nothing any more once the role is gone.
async fn find(session: &mut PgSession, username: &str) -> Result<Option<i64>, TargetError> {
    let ask = format!("SELECT oid::bigint FROM pg_roles WHERE rolname = {}", quoted_text(username));
    let Some(row) = session.run(&ask).await? else { return Ok(None) };
    row.try_get(0).map(Some).map_err(|_| TargetError::Lost("the server's answer about a role made no sense".into()))
}

/// One statement in a transaction of its own, again after a conflict.
async fn change(target: &Postgres, session: &mut PgSession, sql: &str) -> Result<(), Problem> {
    let whole = format!("{};\n{sql};\nCOMMIT", session.begin());
    let deadline = Instant::now() + target.settings.statement_timeout;
    loop {
        match session.run(&whole).await {
            Err(problem @ Problem::Server { .. }) => {
                if !session.roll_back().await {
                    return Err(problem);
                }
                if !problem.is_conflict() || Instant::now() >= deadline {
                    return Err(problem);
                }
                tokio::time::sleep(POLL).await;
            }
            other => return other.map(drop),
        }
    }
}

async fn drop_role(target: &Postgres, session: &mut PgSession, username: &str) -> Result<(), Problem> {
    change(target, session, &format!("DROP ROLE IF EXISTS {}", quoted_name(username))).await
}

/// Ends all sessions of the role and waits until they are gone.
async fn terminate(target: &Postgres, session: &mut PgSession, oid: i64, username: &str) -> Result<u64, TargetError> {
    let signal = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM {SESSIONS} WHERE usesysid = {oid} AND pid <> pg_backend_pid()"
    );
    let deadline = Instant::now() + target.settings.statement_timeout;
    let mut most = 0;
    let mut joined = false;
    loop {
        match session.run(&signal).await {
            Ok(row) => match row.and_then(|row| row.try_get::<i64, _>(0).ok()) {
                Some(0) => return Ok(most),
                Some(open) => most = most.max(open.unsigned_abs()),
                None => return Err(TargetError::Lost("the server's answer about sessions made no sense".into())),
            },
            // Who may do what the user may can also end its sessions; the maker of a role can make itself that.
            Err(problem) if problem.has_code("42501") && !joined => {
                joined = true;
                let join = format!("GRANT {} TO CURRENT_USER", quoted_name(username));
                change(target, session, &join).await?;
                continue;
            }
            Err(Problem::Server { message, code }) if code == "42501" => {
                return Err(TargetError::Server {
                    message: format!(
                        "the user can no longer log in, but its open sessions cannot be ended: {message}; \
                         GRANT pg_signal_backend to the account of this connection"
                    ),
                    code,
                });
            }
            Err(problem) => return Err(problem.into()),
        }
        if Instant::now() >= deadline {
            return Err(TargetError::Timeout(format!(
                "the user can no longer log in, but some of its sessions did not end within {}s (statement_timeout)",
                target.settings.statement_timeout.as_secs_f32()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Removes what the role was granted, in every database where it was, and the role. What it owns is somebody's data and
/// is not dropped: then the server's own refusal to drop the role is the error.
async fn clean_up(
    target: &Postgres,
    session: &mut Checkout<PgSession>,
    oid: i64,
    username: &str,
) -> Result<(), TargetError> {
    let Err(refusal) = drop_role(target, session, username).await else { return Ok(()) };
    if !refusal.has_code("2BP01") {
        return Err(refusal.into());
    }
    let depends = format!("FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = {oid}");
    if session.run(&format!("{} LIMIT 1", owned(oid))).await?.is_some() {
        return Err(refusal.into());
    }
    let list = format!(
        "SELECT coalesce(json_agg(d.datname)::text, '[]') FROM pg_database d \
         WHERE d.datallowconn AND d.datname <> current_database() AND d.oid IN (SELECT dbid {depends})"
    );
    let row = session.run(&list).await?;
    let elsewhere: Vec<String> = row
        .and_then(|row| row.try_get::<String, _>(0).ok())
        .and_then(|json| serde_json::from_str(&json).ok())
        .ok_or_else(|| TargetError::Lost("the server's answer about databases made no sense".into()))?;
    for database in elsewhere {
        let mut there = target.session_in(&database).await?;
        let cleaned = drop_owned(target, &mut there, oid, username).await;
        there.close().await;
        cleaned?;
    }
    drop_owned(target, session, oid, username).await?;
    drop_role(target, session, username).await.map_err(TargetError::from)
}

/// Removes the grants of a role that owns nothing in the session's database.
///
/// The division fails, and with it the transaction, if that has changed since it was looked at.
async fn drop_owned(target: &Postgres, session: &mut PgSession, oid: i64, username: &str) -> Result<(), TargetError> {
    let name = quoted_name(username);
    let here = "AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let nothing_owned = format!("SELECT 1 / (CASE WHEN EXISTS ({} {here}) THEN 0 ELSE 1 END)", owned(oid));
    let sql = format!("{SHARED_ROWS_LOCK};\n{nothing_owned};\nDROP OWNED BY {name}");
    match change(target, session, &sql).await {
        Err(problem) if problem.has_code("42501") => {
            change(target, session, &format!("GRANT {name} TO CURRENT_USER")).await?;
            change(target, session, &sql).await.map_err(TargetError::from)
        }
        other => other.map_err(TargetError::from),
    }
}
