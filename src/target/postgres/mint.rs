//! Making a user, and moving its end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::marker::{self, comment};
use super::session::{PgSession, Problem};
use super::{PasswordForm, Postgres, check_name, quoted_name, quoted_text, timestamp};
use super::{groups, record};
use crate::secret::{Secret, verifier};
use crate::target::pool::{Checkout, Lane};
use crate::target::statement::{Script, Statement, Vars};
use crate::target::{Login, Marker, MintPlan, Outcome, RenewPlan, TargetError};

/// Serialises what writes catalogue rows that other users' statements write too, across nodes and mounts of this engine
/// in one database. Nothing but chance would keep them apart otherwise, and PostgreSQL fails the loser. The key is the
/// text `leasehol` as a number.
pub const SHARED_ROWS_LOCK: &str = "SELECT pg_advisory_xact_lock(7810756276994469740)";

/// What stands between two statements of a message. The first may end in a comment, which ends with its line.
const BETWEEN: &str = "\n;\n";

/// How long the fate of an unanswered COMMIT is asked after.
const SETTLE: Duration = Duration::from_secs(10);

/// Makes the user in one transaction: statements, marker, commit.
pub async fn mint(target: &Postgres, plan: &MintPlan, login: Login<'_>) -> Outcome<()> {
    match login {
        // Left in place, the variable itself would be a password that everybody knows.
        Login::Certificate if plan.creation.uses_password() => {
            return Outcome::Failed(TargetError::Plan(
                "the creation statements use {{password}}, but the user logs in by a certificate: remove it".into(),
            ));
        }
        Login::PublicKey(_) => return Outcome::Failed(TargetError::Plan("PostgreSQL knows no users' keys".into())),
        Login::Password(_) | Login::Prepared(_) | Login::Certificate => {}
    }
    let result = target.retrying(|| create(target, plan, login)).await;
    match result {
        Ok(()) => Outcome::Done(()),
        Err(Problem::Broken(e)) => Outcome::Unknown(e),
        Err(Problem::Unsent(e)) => Outcome::Failed(e),
        Err(e @ Problem::Server { .. }) => {
            undo(target, plan).await;
            Outcome::Failed(TargetError::Statement(Box::new(e.into())))
        }
    }
}

/// One attempt at a mint.
async fn create(target: &Postgres, plan: &MintPlan, login: Login<'_>) -> Result<(), Problem> {
    check_name(&plan.username).map_err(Problem::Unsent)?;
    let shares = plan.creation.statements().iter().any(Statement::touches_shared_rows);
    // Who waits too long goes on without: then it is the pool that says what is the matter.
    let turn = tokio::time::timeout(target.settings.limits.connect_timeout, target.turns.acquire());
    let _turn = if shares { turn.await.ok() } else { None };
    let no_session = |e| TargetError::Begin(Box::new(e));
    let message = |scram| messages(target, plan, login, scram);
    let made = in_transaction(target, login.password(), Some(plan), no_session, message).await;
    made.map_err(|problem| explained(problem, plan))
}

/// Runs the messages that `make` gives (told whether the server knows SCRAM) in one transaction. `Broken` means only
/// this: COMMIT was sent, and its fate could not be learned. No server text that shows a part of `password` is passed on.
/// Of `once` there is one transaction at a time at this server, whoever runs it; that its user is there shows that one was
/// committed.
pub async fn in_transaction(
    target: &Postgres,
    password: Option<&Secret>,
    once: Option<&MintPlan>,
    no_session: impl Fn(TargetError) -> TargetError,
    make: impl Fn(bool) -> Result<Vec<Secret>, TargetError>,
) -> Result<(), Problem> {
    // Nobody else makes a role of this name.
    let proof = once.map(|plan| format!("SELECT 1 FROM pg_roles WHERE rolname = {}", quoted_text(&plan.username)));
    let mut again = true;
    loop {
        let mut session = target.session(Lane::Issue).await.map_err(|e| Problem::Unsent(no_session(e)))?;
        let messages = match make(session.knows_scram()) {
            Ok(messages) => messages,
            Err(e) => {
                session.give_back();
                return Err(Problem::Unsent(e));
            }
        };
        match transact(&mut session, once, &messages).await {
            Ok(transaction) => return commit(target, session, &transaction, proof.as_deref()).await,
            // Without COMMIT the server undoes what it did. A session that died while idle is not worth an error.
            Err(Problem::Broken(TargetError::Lost(_))) if again => {
                again = false;
                target.pool.drop_idle();
            }
            Err(Problem::Broken(e)) => return Err(Problem::Unsent(e)),
            Err(problem) => {
                if session.roll_back().await {
                    session.give_back();
                }
                return Err(match password {
                    Some(password) => withheld(problem, password),
                    None => problem,
                });
            }
        }
    }
}

/// Sends everything up to the commit; gives back the server's id of the transaction.
async fn transact(
    session: &mut Checkout<PgSession>,
    once: Option<&MintPlan>,
    messages: &[Secret],
) -> Result<String, Problem> {
    let mut begin = format!("{};\nSELECT txid_current()::text;\n", session.begin());
    let once = once.filter(|plan| !plan.marker.request.is_empty());
    if let Some(plan) = once {
        begin += &format!("SELECT pg_advisory_xact_lock({});\n", marker::lock_of(&plan.marker.request));
    }
    let mut transaction = None;
    let number = |row: Option<PgRow>| row.and_then(|row| row.try_get::<String, _>(0).ok());
    if let Some(plan) = once.filter(|plan| plan.repeats) {
        transaction = number(session.run(&begin).await?);
        // Nobody else is making this user any more: it is there or it is not.
        if marker::is_repeated(session, &plan.marker).await? {
            return Err(Problem::Unsent(TargetError::Repeated));
        }
        begin.clear();
    }
    for (position, message) in messages.iter().enumerate() {
        if position == 0 && !begin.is_empty() {
            let whole = Secret::new(format!("{begin}{}", message.expose()));
            transaction = number(session.run_secret(&whole).await?);
        } else {
            session.run_secret(message).await?;
        }
    }
    transaction.ok_or_else(|| Problem::Broken(TargetError::Lost("the server gave no transaction id".into())))
}

async fn commit(
    target: &Postgres,
    mut session: Checkout<PgSession>,
    transaction: &str,
    proof: Option<&str>,
) -> Result<(), Problem> {
    match session.run("COMMIT").await {
        Ok(_) => {
            session.give_back();
            Ok(())
        }
        Err(Problem::Broken(why)) => {
            drop(session);
            match fate(target, transaction, proof).await {
                Some(true) => Ok(()),
                Some(false) => Err(Problem::Unsent(why)),
                None => Err(Problem::Broken(why)),
            }
        }
        Err(problem) => Err(problem),
    }
}

/// Whether a transaction was committed; `None` if the server cannot be asked or does not say in time.
///
/// A server that crashed may have forgotten the transaction altogether and given its number to another one since. So that
/// the number is committed proves nothing; that it is aborted, or was never given out, does.
async fn fate(target: &Postgres, transaction: &str, proof: Option<&str>) -> Option<bool> {
    let asked = format!("SELECT txid_status({transaction})");
    let asking = async {
        loop {
            if let Ok(mut session) = target.session(Lane::Issue).await
                && let Ok(fate) = ask_fate(&mut session, &asked, proof).await
            {
                session.give_back();
                match fate {
                    Fate::Open => {}
                    Fate::Committed => return Some(true),
                    Fate::Lost => return Some(false),
                    Fate::Untold => return None,
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SETTLE, asking).await.ok().flatten()
}

enum Fate {
    /// It goes on.
    Open,
    Committed,
    Lost,
    /// The server does not know, or what it knows proves nothing.
    Untold,
}

async fn ask_fate(session: &mut PgSession, asked: &str, proof: Option<&str>) -> Result<Fate, Problem> {
    let status = match session.run(asked).await {
        Ok(row) => row.and_then(|row| row.try_get::<Option<String>, _>(0).ok().flatten()),
        // "transaction ID … is in the future".
        Err(problem) if problem.has_code("22023") => return Ok(Fate::Lost),
        Err(problem) => return Err(problem),
    };
    match (status.as_deref(), proof) {
        (Some("in progress"), _) => Ok(Fate::Open),
        (Some("aborted"), _) => Ok(Fate::Lost),
        (_, None) => Ok(Fate::Untold),
        (_, Some(proof)) => Ok(if session.run(proof).await?.is_some() { Fate::Committed } else { Fate::Lost }),
    }
}

/// The statements and the marker, in as few messages as their text allows.
pub fn messages(
    target: &Postgres,
    plan: &MintPlan,
    login: Login<'_>,
    knows_scram: bool,
) -> Result<Vec<Secret>, TargetError> {
    let rounds = plan.scram_iterations.unwrap_or(target.settings.scram_iterations);
    let is_member = !plan.groups.is_empty();
    if is_member && !plan.creation.is_empty() {
        return Err(TargetError::Plan("a member of group_roles has no creation statements: remove one of them".into()));
    }
    let uses_password = is_member || plan.creation.uses_password();
    let verifier = verifier_for(target, uses_password, login, rounds, knows_scram)?;
    let expiration = timestamp(plan.expiration)?;
    let mut messages = if is_member {
        let password = verifier.as_ref().or(login.password());
        if password.is_some_and(|password| password.expose().contains('\0')) {
            return Err(TargetError::Plan("the password holds a zero byte, which PostgreSQL does not take".into()));
        }
        vec![groups::creation(&plan.username, password, &expiration, &plan.groups)]
    } else {
        let filled = plan.creation.fill(&Vars {
            name: &plan.username,
            password: login.password(),
            verifier: verifier.as_ref(),
            verifier_everywhere: target.settings.password_form == PasswordForm::Verifier,
            expiration: Some(&expiration),
        })?;
        joined(target, &plan.creation, &filled)?
    };
    let is_closed = is_member || plan.creation.statements().last().is_some_and(|statement| statement.is_closed());
    let last = record::statements(plan);
    let marker = Secret::new(format!("{last}{}", comment(&plan.username, &plan.marker)?));
    match messages.last_mut() {
        Some(last) if is_closed => {
            *last = Secret::new(format!("{}{BETWEEN}{}", last.expose(), marker.expose()));
        }
        _ => messages.push(marker),
    }
    Ok(messages)
}

/// The verifier to fill in beside the password, if the server and the statements have a use for one.
pub fn verifier_for(
    target: &Postgres,
    uses_password: bool,
    login: Login<'_>,
    rounds: u32,
    knows_scram: bool,
) -> Result<Option<Secret>, TargetError> {
    if !knows_scram || target.settings.password_form == PasswordForm::Text || !uses_password {
        return Ok(None);
    }
    match login {
        Login::Prepared(prepared) if prepared.iterations == rounds => Ok(Some(prepared.verifier.duplicate())),
        _ => login
            .password()
            .map(|password| verifier::scram_sha_256(password, rounds))
            .transpose()
            .map_err(|e| TargetError::Plan(e.to_string())),
    }
}

/// Puts filled statements together into messages. A statement that leaves a quote open goes alone, lest it swallow its
/// neighbours; the lock is taken before the first that needs it, so that what is costly before it (hashing) runs
/// beside others. Functions, of which nobody can tell, run without it until the first conflict shows that they need it.
pub fn joined(target: &Postgres, script: &Script, filled: &[Secret]) -> Result<Vec<Secret>, TargetError> {
    let cautious = target.cautious.load(Ordering::Relaxed);
    let mut messages: Vec<Secret> = Vec::new();
    let mut open = false;
    let mut locked = false;
    for (statement, text) in script.statements().iter().zip(filled) {
        if statement.is_rollback() {
            return Err(TargetError::Plan("the statements roll back their own transaction: remove ROLLBACK".into()));
        }
        if statement.is_transaction_control() {
            continue;
        }
        let shares = statement.touches_shared_rows() || cautious && statement.calls_functions();
        let lock = if shares && !locked { SHARED_ROWS_LOCK } else { "" };
        locked |= !lock.is_empty();
        let text = if lock.is_empty() { text.duplicate() } else { Secret::new(format!("{lock};\n{}", text.expose())) };
        match messages.last_mut() {
            Some(last) if open && statement.is_closed() => {
                *last = Secret::new(format!("{}{BETWEEN}{}", last.expose(), text.expose()));
            }
            _ => messages.push(text),
        }
        open = statement.is_closed();
    }
    Ok(messages)
}

/// A server quotes what it cannot read, and statements may put a password anywhere: a message that shows a part of it is
/// not passed on.
pub fn withheld(problem: Problem, password: &Secret) -> Problem {
    /// The shortest piece that counts. Shorter ones are found in any message.
    const PIECE: usize = 6;
    match problem {
        Problem::Server { message, code } if shares_piece(&message, password.expose(), PIECE) => Problem::Server {
            message: "the server's message shows a part of the password and is withheld".to_owned(),
            code,
        },
        other => other,
    }
}

/// True if some `length` bytes of `secret`, or all of a shorter one, occur in `text`.
fn shares_piece(text: &str, secret: &str, length: usize) -> bool {
    let pieces = secret.as_bytes().windows(length.min(secret.len()).max(1));
    pieces.into_iter().any(|piece| text.as_bytes().windows(piece.len()).any(|window| window == piece))
}

/// The marker could not be set because there is nothing to set it on: says so in the words of the fix.
pub fn explained(problem: Problem, plan: &MintPlan) -> Problem {
    match problem {
        Problem::Server { message, code }
            if code == "42704" && message == format!("role \"{}\" does not exist", plan.username) =>
        {
            Problem::Unsent(TargetError::Plan(format!(
                "the creation statements did not create the role \"{}\": use {{{{name}}}} in CREATE ROLE",
                plan.username
            )))
        }
        other => other,
    }
}

/// `rollback_statements`, in a transaction of their own. The failed creation is already undone; these are for what the
/// statements did outside the database.
async fn undo(target: &Postgres, plan: &MintPlan) {
    if plan.rollback.is_empty() {
        return;
    }
    let run = async {
        let mut session = target.session(Lane::End).await?;
        run_script(target, &mut session, &plan.rollback, &Vars::name(&plan.username)).await?;
        session.reset().await?;
        session.give_back();
        Ok::<_, TargetError>(())
    };
    if let Err(e) = run.await {
        tracing::warn!(username = plan.username, "rollback statements failed: {e}");
    }
}

/// Runs a script in one transaction. Afterwards the session is in none; what else the statements left of themselves in it
/// [`PgSession::reset`] takes away.
pub async fn run_script(
    target: &Postgres,
    session: &mut PgSession,
    script: &Script,
    vars: &Vars<'_>,
) -> Result<(), Problem> {
    let filled = script.fill(vars).map_err(Problem::Unsent)?;
    // A quote that is left open would swallow what follows.
    let closed = script.statements().iter().all(|statement| statement.is_closed());
    let mut conflicts = target.conflicts();
    loop {
        let messages = joined(target, script, &filled).map_err(Problem::Unsent)?;
        let begin = session.begin();
        let result = match messages.as_slice() {
            [only] if closed => {
                session.run_secret(&Secret::new(format!("{begin};\n{}{BETWEEN}COMMIT", only.expose()))).await
            }
            several => {
                let mut result = session.run(&begin).await;
                for message in several {
                    if result.is_ok() {
                        result = session.run_secret(message).await;
                    }
                }
                if result.is_ok() { session.run("COMMIT").await } else { result }
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(problem @ Problem::Server { .. }) => {
                if !session.roll_back().await || !conflicts.wait_out(&problem).await {
                    return Err(problem);
                }
            }
            Err(problem) => return Err(problem),
        }
    }
}

/// Moves the end of a user, and of its marker, in one transaction.
pub async fn renew(target: &Postgres, plan: &RenewPlan) -> Result<(), TargetError> {
    check_name(&plan.username)?;
    let expiration = timestamp(plan.expiration)?;
    let vars = Vars { expiration: Some(&expiration), ..Vars::name(&plan.username) };
    let filled = plan.renew.fill(&vars)?;
    let attempt = || async {
        let messages = if plan.renew.is_empty() {
            let valid = quoted_text(&expiration);
            vec![Secret::new(format!("ALTER ROLE {} VALID UNTIL {valid}", quoted_name(&plan.username)))]
        } else {
            joined(target, &plan.renew, &filled).map_err(Problem::Unsent)?
        };
        let mut session = target.session(Lane::Issue).await.map_err(Problem::Unsent)?;
        let result = prolong(&mut session, plan, &messages).await;
        if result.is_ok() || matches!(result, Err(Problem::Server { .. })) && session.roll_back().await {
            session.give_back();
        }
        result
    };
    let mut result = target.retrying(attempt).await;
    if matches!(result, Err(Problem::Broken(TargetError::Lost(_)))) {
        // Doing it twice is doing it once.
        target.pool.drop_idle();
        result = target.retrying(attempt).await;
    }
    result.map_err(TargetError::from)
}

async fn prolong(session: &mut Checkout<PgSession>, plan: &RenewPlan, messages: &[Secret]) -> Result<(), Problem> {
    let mut ask = format!(
        "{};\nSELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {}",
        session.begin(),
        quoted_text(&plan.username)
    );
    let own = match messages {
        // Our own statement needs no message of its own.
        [only] if plan.renew.is_empty() => {
            ask += &format!("{BETWEEN}{}", only.expose());
            &[]
        }
        own => own,
    };
    let row = session.run(&ask).await?;
    let comment_now: Option<String> = row.and_then(|row| row.try_get(0).ok());
    for message in own {
        session.run_secret(message).await?;
    }
    let moved = comment_now
        .and_then(|text| marker::read(&text))
        .map(|marker| Marker { expires: plan.expires.max(marker.expires), ..marker })
        .and_then(|marker| comment(&plan.username, &marker).ok());
    let commit = moved.map_or_else(|| "COMMIT".to_owned(), |comment| format!("{comment};\nCOMMIT"));
    session.run(&commit).await.map(drop)
}
