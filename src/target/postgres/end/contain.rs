//! No login, no session: what of an end must not fail.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::{User, change};
use crate::target::pool::{Checkout, Lane};
use crate::target::postgres::session::{PgSession, Problem};
use crate::target::postgres::{Postgres, quoted_text};
use crate::target::{Left, TargetError};

/// How often a session that was told to go is looked for again.
const POLL: Duration = Duration::from_millis(10);

/// All sessions, of `pg_stat_activity` only what is asked for: the server makes the whole of a row, texts and all, or each
/// value alone.
const SESSIONS: &str = "(SELECT pg_stat_get_backend_pid(s) AS pid, pg_stat_get_backend_userid(s) AS usesysid, \
                        pg_stat_get_backend_dbid(s) AS datid FROM pg_stat_get_backend_idset() s) a";

/// What an account must be allowed to call for [`SESSIONS`]; everybody is, unless somebody took it away.
pub const SEEING: [&str; 4] = [
    "pg_stat_get_backend_idset()",
    "pg_stat_get_backend_pid(integer)",
    "pg_stat_get_backend_userid(integer)",
    "pg_stat_get_backend_dbid(integer)",
];

/// What the server says of a role before its end.
pub struct Found {
    /// Its number. Sessions are found by it: a name says nothing any more once the role is gone.
    pub oid: i64,
    /// It may do anything.
    pub superuser: bool,
    /// It may make roles, or give roles to others.
    pub makes_roles: bool,
    /// It has roles.
    pub member: bool,
    /// It has transactions that wait for a COMMIT PREPARED.
    pub prepared: bool,
    /// Something depends on it: it was granted something, or owns it.
    pub depended_on: bool,
}

/// A session, and what it says of the role. The question shows whether a session that was idle still lives; another is
/// asked if not, as ending is not worth an error for that.
pub async fn look(target: &Postgres, username: &str) -> Result<(Checkout<PgSession>, Option<Found>), TargetError> {
    let mut session = target.session(Lane::End).await?;
    let mut found = find(&mut session, username).await;
    if matches!(found, Err(TargetError::Lost(_))) {
        target.pool.drop_idle();
        drop(session);
        session = target.session(Lane::End).await?;
        found = find(&mut session, username).await;
    }
    Ok((session, found?))
}

async fn find(session: &mut PgSession, username: &str) -> Result<Option<Found>, TargetError> {
    // One row in any case: an answer without one is not taken for "there is no such role".
    let ask = format!(
        "SELECT r.oid::bigint, r.rolsuper, r.rolcreaterole OR EXISTS (SELECT FROM pg_auth_members m \
         WHERE m.member = r.oid AND m.admin_option), EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid), \
         EXISTS (SELECT FROM pg_prepared_xact() x WHERE x.ownerid = r.oid), \
         EXISTS (SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid) \
         FROM (SELECT) AS one LEFT JOIN pg_roles r ON r.rolname = {}",
        quoted_text(username)
    );
    let nonsense = || TargetError::Lost("the server's answer about a role made no sense".into());
    let row = session.run(&ask).await?.ok_or_else(nonsense)?;
    let read = || {
        let Some(oid) = row.try_get(0)? else { return Ok(None) };
        Ok::<_, sqlx::Error>(Some(Found {
            oid,
            superuser: row.try_get(1)?,
            makes_roles: row.try_get(2)?,
            member: row.try_get(3)?,
            prepared: row.try_get(4)?,
            depended_on: row.try_get(5)?,
        }))
    };
    read().map_err(|_| nonsense())
}

/// Takes the login. Seen by every login that begins after it; made durable by the commit that follows.
pub async fn bar(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<(), Problem> {
    change(target, session, &barring(user)).await
}

fn barring(user: &User<'_>) -> String {
    format!("SET LOCAL synchronous_commit = off;\nALTER ROLE {} NOLOGIN VALID UNTIL '-infinity'", user.quoted())
}

/// [`bar`], and the first signal of [`terminate`] behind it, in one message: how many sessions were told to go. On an error
/// both have to be done one after the other; what it was about shows then.
pub async fn bar_and_signal(session: &mut PgSession, user: &User<'_>) -> Result<Option<u64>, Problem> {
    let whole = format!("{};\n{};\nCOMMIT;\n{}", session.begin(), barring(user), signal(user));
    match session.run(&whole).await {
        Ok(row) => counted(row).map(Some).map_err(Problem::Broken),
        // Should the transaction be over by then, this does nothing.
        Err(problem @ Problem::Server { .. }) if !session.roll_back().await => Err(problem),
        Err(Problem::Server { .. }) => Ok(None),
        Err(broken) => Err(broken),
    }
}

fn signal(user: &User<'_>) -> String {
    format!(
        "SELECT count(pg_terminate_backend(pid)) FROM {SESSIONS} WHERE usesysid = {} AND pid <> pg_backend_pid()",
        user.oid
    )
}

fn counted(row: Option<PgRow>) -> Result<u64, TargetError> {
    row.and_then(|row| row.try_get::<i64, _>(0).ok())
        .map(i64::unsigned_abs)
        .ok_or_else(|| TargetError::Lost("the server's answer about sessions made no sense".into()))
}

/// The open sessions of the role.
pub async fn open_sessions(session: &mut PgSession, user: &User<'_>) -> Result<Vec<Left>, TargetError> {
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(a.pid, coalesce(d.datname, '')) ORDER BY a.pid)::text, '[]') \
         FROM {SESSIONS} LEFT JOIN pg_database d ON d.oid = a.datid \
         WHERE a.usesysid = {} AND a.pid <> pg_backend_pid()",
        user.oid
    );
    let open: Vec<(i64, String)> = session.ask(&ask).await?;
    let left = |(pid, database)| Left {
        database,
        object: format!("session {pid}"),
        reason: "it may go on for the time of grace".to_owned(),
    };
    Ok(open.into_iter().map(left).collect())
}

/// Ends all sessions of the role and waits until they are gone.
pub async fn terminate(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<u64, TargetError> {
    let signal = signal(user);
    let deadline = Instant::now() + target.settings.statement_timeout;
    let mut most = 0;
    let mut joined = false;
    loop {
        match session.run(&signal).await {
            Ok(row) => match counted(row)? {
                0 => return Ok(most),
                open => most = most.max(open),
            },
            // Who may do what the user may can also end its sessions; the maker of a role can make itself that.
            Err(problem) if problem.has_code("42501") && !joined => {
                joined = true;
                match join(target, session, user).await {
                    Err(problem) if !problem.has_code("42704") && !problem.has_code("42501") => {
                        return Err(problem.into());
                    }
                    _ => continue,
                }
            }
            Err(Problem::Server { message, code }) if code == "42501" => {
                return Err(TargetError::Server {
                    message: format!(
                        "the user can no longer log in, but its open sessions cannot be ended: {message}; \
                         GRANT pg_signal_backend TO {}",
                        target.account()
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

/// Lets the account of the connection act as the user: what an account that is no superuser needs for the clean-up.
pub async fn join(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<(), Problem> {
    match change(target, session, &format!("GRANT {} TO CURRENT_USER", user.quoted())).await {
        // Another end of the same user was first.
        Err(problem) if problem.has_code("23505") => Ok(()),
        other => other,
    }
}

/// What a last look at a user shows.
pub struct Seen {
    /// Sessions are open.
    pub sessions: bool,
    /// The role is there.
    pub exists: bool,
    /// It can log in.
    pub can_log_in: bool,
    /// Something names the number of a role that is gone.
    pub traces: bool,
}

/// Looks at the user once more.
pub async fn look_again(session: &mut PgSession, user: &User<'_>) -> Result<Seen, TargetError> {
    let row = session.run(&looking_again(user)).await?;
    seen(row.as_ref())
}

/// Makes a change of which nothing is left if it fails, and looks at the user once more, in one message.
pub async fn change_and_look(session: &mut PgSession, user: &User<'_>, sql: &str) -> Result<Seen, Problem> {
    let whole = format!("{};\n{sql};\nCOMMIT;\n{}", session.begin(), looking_again(user));
    let row = session.run(&whole).await?;
    seen(row.as_ref()).map_err(Problem::Broken)
}

fn looking_again(user: &User<'_>) -> String {
    let User { name, oid } = user;
    format!(
        "SELECT EXISTS (SELECT FROM {SESSIONS} WHERE usesysid = {oid} AND pid <> pg_backend_pid()), \
         (SELECT rolcanlogin FROM pg_roles WHERE rolname = {}), \
         EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = {oid}) \
         OR EXISTS (SELECT FROM pg_auth_members WHERE member = {oid}) \
         OR EXISTS (SELECT FROM pg_auth_members WHERE roleid = {oid})",
        quoted_text(name)
    )
}

fn seen(row: Option<&PgRow>) -> Result<Seen, TargetError> {
    let read = |at: usize| row.and_then(|row| row.try_get::<bool, _>(at).ok());
    // Whether it can log in; of no role, nothing.
    let role = row.and_then(|row| row.try_get::<Option<bool>, _>(1).ok());
    match (read(0), role, read(2)) {
        (Some(sessions), Some(role), Some(named)) => Ok(Seen {
            sessions,
            exists: role.is_some(),
            can_log_in: role == Some(true),
            traces: named && role.is_none(),
        }),
        _ => Err(TargetError::Lost("the server's answer about a role made no sense".into())),
    }
}
