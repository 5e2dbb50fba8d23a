//! Ending a user: contain (no login, no session), clean up (what depends on it, the role), look again.
//!
//! Only what cannot be contained is an error. What cannot be cleaned up is told, and the role stays for as long: barred,
//! without rights, and as the one thing that still says what was its. Ending it again goes on from there.

mod clean;
mod contain;
mod doors;
mod hold;

use tokio::time::Instant;

use super::mint::run_script;
use super::session::{PgSession, Problem};
use super::{Postgres, quoted_name};
use crate::target::pool::{Checkout, Lane, Session};
use crate::target::statement::Vars;
use crate::target::{EndPlan, Ended, Left, Owned, Sessions, TargetError, Verify};
pub use contain::SEEING;
use contain::{Found, Seen};

/// Whom an end is about.
struct User<'a> {
    name: &'a str,
    /// The number of its role.
    oid: i64,
}

impl User<'_> {
    fn quoted(&self) -> String {
        quoted_name(self.name)
    }

    fn left(&self, reason: String) -> Left {
        Left { database: String::new(), object: format!("role {}", self.quoted()), reason }
    }
}

/// Ends a user. Whatever is already done is left as it is, so this may run again after any interruption, and beside
/// another end of the same user.
pub async fn end(target: &Postgres, plan: &EndPlan) -> Result<Ended, TargetError> {
    let started = Instant::now();
    let (mut session, found) = contain::look(target, &plan.username).await?;
    let Some(found) = found else {
        session.give_back();
        return Ok(Ended { took: started.elapsed(), ..Ended::default() });
    };
    let user = User { name: &plan.username, oid: found.oid };

    // The role may be gone in the meantime; or the account may not change it and has statements of its own (a function
    // that runs as somebody else): what came of it is looked at afterwards.
    let mut told_to_go = None;
    if plan.options.sessions == Sessions::Terminate {
        told_to_go = contain::bar_and_signal(&mut session, &user).await?;
    }
    let barred = match told_to_go {
        Some(_) => true,
        None => match contain::bar(target, &mut session, &user).await {
            Ok(()) => true,
            Err(problem) if problem.has_code("42704") => true,
            Err(problem) if problem.has_code("42501") && !plan.revocation.is_empty() => false,
            Err(problem) => return Err(not_barred(target, &user, problem)),
        },
    };
    let mut ended = Ended { existed: true, ..Ended::default() };
    match plan.options.sessions {
        Sessions::Keep => {}
        Sessions::Grace(grace) if barred && !grace.is_zero() => {
            ended.left = contain::open_sessions(&mut session, &user).await?;
            if !ended.left.is_empty() {
                session.give_back();
                return Ok(Ended { again: Some(grace), took: started.elapsed(), ..ended });
            }
        }
        _ if told_to_go == Some(0) => {}
        _ => {
            let more = contain::terminate(target, &mut session, &user).await?;
            ended.sessions = more.max(told_to_go.unwrap_or_default());
        }
    }

    let mut seen = None;
    ended.left = match finish(target, &mut session, &user, &found, plan, barred).await {
        Ok(finished) => {
            seen = finished.seen;
            finished.left
        }
        Err(e) if !barred => return Err(e),
        Err(e) => {
            // Nothing is known of this session any more.
            drop(session);
            session = target.session(Lane::End).await?;
            vec![user.left(format!("it could not be cleaned up: {e}"))]
        }
    };
    let seen = match seen {
        Some(seen) => seen,
        None => contain::look_again(&mut session, &user).await?,
    };
    settle(target, &mut session, &user, plan, &seen, &mut ended).await?;
    session.give_back();
    ended.took = started.elapsed();
    Ok(ended)
}

fn not_barred(target: &Postgres, user: &User<'_>, problem: Problem) -> TargetError {
    match problem {
        Problem::Server { message, code } if code == "42501" => TargetError::Server {
            message: format!(
                "{message}: the user can still log in; GRANT {} TO {} WITH ADMIN OPTION, as the role that made it",
                user.quoted(),
                target.account()
            ),
            code,
        },
        problem => problem.into(),
    }
}

/// What came of the clean-up.
#[derive(Default)]
struct Finished {
    left: Vec<Left>,
    /// The last look, if there was one already.
    seen: Option<Seen>,
}

impl From<Vec<Left>> for Finished {
    fn from(left: Vec<Left>) -> Self {
        Self { left, seen: None }
    }
}

/// What most ends come to: the user owns nothing, so it can go, and what it was granted with it. `None` if there is more
/// to it; nothing has changed then.
async fn drop_at_once(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    found: &Found,
) -> Result<Option<Finished>, Problem> {
    if found.depended_on {
        return match clean::drop_granted(target, session, user).await {
            Ok(()) => Ok(Some(Finished::default())),
            Err(Problem::Server { .. }) => Ok(None),
            Err(broken) => Err(broken),
        };
    }
    match contain::change_and_look(session, user, &dropping(user)).await {
        Ok(seen) => Ok(Some(Finished { seen: Some(seen), left: Vec::new() })),
        Err(problem @ Problem::Server { .. }) if !session.roll_back().await => Err(problem),
        Err(Problem::Server { .. }) => Ok(None),
        Err(broken) => Err(broken),
    }
}

/// Cleans up after a user that is contained, and drops it if nothing is left.
async fn finish(
    target: &Postgres,
    session: &mut Checkout<PgSession>,
    user: &User<'_>,
    found: &Found,
    plan: &EndPlan,
    barred: bool,
) -> Result<Finished, TargetError> {
    let (own, owned) = (!plan.revocation.is_empty(), &plan.options.owned);
    let mut left = Vec::new();
    if found.makes_roles || found.superuser {
        left.extend(doors::take_back(target, session, user).await?);
    }
    left.extend(doors::look(target, session, user, found, plan.options.verify).await?);
    let has_doors = !left.is_empty();
    left.extend(clean::prepared(target, session, user, found, owned).await?);

    if left.is_empty() {
        if !own && let Some(finished) = drop_at_once(target, session, user, found).await? {
            return Ok(finished);
        }
        let refusal = if own {
            // They say what becomes of everything, unless the operator said so apart from them.
            if *owned != Owned::Fail {
                left.extend(clean::clean(target, session, user, owned).await?);
            }
            if left.is_empty() { run_own(target, session, user, plan).await? } else { None }
        } else {
            drop_role(target, session, user).await.err()
        };
        match refusal {
            None if left.is_empty() => return Ok(left.into()),
            None => {}
            Some(problem) if problem.has_code("2BP01") => {
                let owned = if own { &Owned::Fail } else { owned };
                left.extend(clean::clean(target, session, user, owned).await?);
                if own {
                    left.push(user.left(refused(&problem)));
                }
            }
            Some(problem) if own && barred => left.push(user.left(refused(&problem))),
            Some(problem) => return Err(problem.into()),
        }
    } else {
        let owned = if own { &Owned::Fail } else { owned };
        left.extend(clean::clean(target, session, user, owned).await?);
    }
    if !own && left.is_empty() {
        match drop_role(target, session, user).await {
            Ok(()) => return Ok(left.into()),
            Err(problem) if problem.has_code("2BP01") => left.extend(clean::dependent(session, user).await?),
            Err(problem) => return Err(problem.into()),
        }
    }
    hold::hold(target, session, user, found.superuser && !has_doors).await?;
    Ok(left.into())
}

fn refused(problem: &Problem) -> String {
    let why = match problem {
        Problem::Server { message, code } => format!("{message} (SQLSTATE {code})"),
        Problem::Broken(e) | Problem::Unsent(e) => e.to_string(),
    };
    format!("the revocation statements failed: {why}; change the role's revocation_statements")
}

/// Runs the revocation statements; gives back what they failed with, if that is not that the user is gone.
async fn run_own(
    target: &Postgres,
    session: &mut Checkout<PgSession>,
    user: &User<'_>,
    plan: &EndPlan,
) -> Result<Option<Problem>, TargetError> {
    let run = run_script(target, session, &plan.revocation, &Vars::name(&plan.username)).await;
    if let Err(Problem::Broken(e)) = run {
        return Err(e);
    }
    session.reset().await?;
    let Err(problem) = run else { return Ok(None) };
    let about_it = matches!(&problem, Problem::Server { code, message }
        if code == "42704" && message.contains(&plan.username));
    if about_it && !contain::look_again(session, user).await?.exists {
        return Ok(None);
    }
    Ok(Some(problem))
}

/// Looks at what came of the end.
async fn settle(
    target: &Postgres,
    session: &mut Checkout<PgSession>,
    user: &User<'_>,
    plan: &EndPlan,
    seen: &Seen,
    ended: &mut Ended,
) -> Result<(), TargetError> {
    if seen.sessions && plan.options.sessions != Sessions::Keep {
        ended.sessions += contain::terminate(target, session, user).await?;
    }
    if seen.can_log_in {
        return Err(TargetError::Plan(format!(
            "the revocation statements ran, but \"{}\" can still log in: let them drop it, or set NOLOGIN",
            user.name
        )));
    }
    if !seen.exists {
        // Another end of the same user was faster.
        ended.left.clear();
        if seen.traces && plan.options.verify != Verify::Off {
            ended.left.push(user.left("it is gone, but entries of the server's catalogue still name it".to_owned()));
        }
    } else if ended.left.is_empty() && plan.options.verify == Verify::Required {
        ended.left.push(user.left(
            "the revocation statements keep it, barred: let them DROP ROLE, or set verify to best_effort".to_owned(),
        ));
    }
    Ok(())
}

/// One statement in a transaction of its own, again after a conflict.
async fn change(target: &Postgres, session: &mut PgSession, sql: &str) -> Result<(), Problem> {
    let whole = format!("{};\n{sql};\nCOMMIT", session.begin());
    let mut conflicts = target.conflicts();
    loop {
        match session.run(&whole).await {
            Err(problem @ Problem::Server { .. }) => {
                if !session.roll_back().await || !conflicts.wait_out(&problem).await {
                    return Err(problem);
                }
            }
            other => return other.map(drop),
        }
    }
}

async fn drop_role(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<(), Problem> {
    change(target, session, &dropping(user)).await
}

fn dropping(user: &User<'_>) -> String {
    format!("DROP ROLE IF EXISTS {}", user.quoted())
}

/// Does something in a session of its own in another database of the server.
async fn in_database<T>(
    target: &Postgres,
    database: &str,
    act: impl AsyncFnOnce(&mut PgSession) -> Result<T, TargetError>,
) -> Result<T, TargetError> {
    let mut there = target.session_in(database).await?;
    let done = act(&mut there).await;
    there.close().await;
    done
}

fn no_connections(database: &str) -> String {
    format!("the database takes no connections: ALTER DATABASE {} ALLOW_CONNECTIONS true", quoted_name(database))
}
