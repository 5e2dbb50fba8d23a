//! Changing the password of an account that was there before, and trying one.

use super::mint::{in_transaction, joined, verifier_for};
use super::session::{self, Problem, Verdict};
use super::{LONGEST_NAME, PasswordForm, Postgres, quoted_text};
use crate::secret::Secret;
use crate::target::pool::{Lane, Session};
use crate::target::statement::{Dialect, Vars};
use crate::target::{Login, LoginError, Outcome, Script, TargetError};

/// What changes a password unless there are statements: the built-in engine's own.
const DEFAULT: &str = r#"ALTER ROLE "{{username}}" WITH PASSWORD '{{password}}'"#;

/// Changes the password in one transaction.
pub async fn set(target: &Postgres, username: &str, password: &Secret, statements: &Script) -> Outcome<()> {
    if username.is_empty() || username.len() > LONGEST_NAME || username.contains('\0') {
        // The server would cut the name, and change somebody else's password.
        return Outcome::Failed(TargetError::Plan(format!(
            "the user name has {} bytes; PostgreSQL takes 1 to {LONGEST_NAME}",
            username.len()
        )));
    }
    let default;
    let script = if statements.is_empty() {
        default = Script::parse(&[DEFAULT.to_owned()], Dialect::Postgres);
        &default
    } else {
        statements
    };
    let messages = |scram| {
        let rounds = target.settings.scram_iterations;
        let verifier = verifier_for(target, script.uses_password(), Login::Password(password), rounds, scram)?;
        let filled = script.fill(&Vars {
            password: Some(password),
            verifier: verifier.as_ref(),
            verifier_everywhere: target.settings.password_form == PasswordForm::Verifier,
            ..Vars::name(username)
        })?;
        joined(target, script, &filled)
    };
    let no_session = |e| TargetError::Account(Box::new(e));
    let attempt = || in_transaction(target, Some(password), None, no_session, messages);
    match target.retrying(attempt).await {
        Ok(()) => Outcome::Done(()),
        Err(Problem::Broken(e)) => Outcome::Unknown(e),
        Err(Problem::Unsent(e)) => Outcome::Failed(e),
        Err(e @ Problem::Server { .. }) => Outcome::Failed(TargetError::Statement(Box::new(e.into()))),
    }
}

/// Logs in once, outside of the pool.
pub async fn login(target: &Postgres, username: &str, password: &Secret) -> Result<(), LoginError> {
    let endpoint = &target.settings.endpoint;
    let database = if endpoint.database.is_empty() { &endpoint.user } else { &endpoint.database };
    let login = session::Login { user: username, password: Some(password) };
    let patience = target.settings.limits.connect_timeout;
    match session::open_as(endpoint, &login, database, target.settings.statement_timeout, patience).await {
        Ok(session) => {
            session.close().await;
            Ok(())
        }
        Err(not_opened) => match not_opened.verdict {
            Some(Verdict::Accepted) => Ok(()),
            // The server says the same of the right password once its time is over.
            Some(Verdict::Refused) if is_expired(target, username).await => Err(LoginError::Barred(not_opened.error)),
            Some(Verdict::Refused) => Err(LoginError::Refused(not_opened.error)),
            Some(Verdict::Barred) => Err(LoginError::Barred(not_opened.error)),
            None => Err(LoginError::Unreachable(not_opened.error)),
        },
    }
}

/// True if the account's `VALID UNTIL` has passed; false also if nobody says so.
async fn is_expired(target: &Postgres, username: &str) -> bool {
    let Ok(mut session) = target.session(Lane::Issue).await else { return false };
    let name = quoted_text(username);
    let ask = format!("SELECT (count(*) > 0)::text FROM pg_roles WHERE rolname = {name} AND rolvaliduntil <= now()");
    let expired = session.ask::<bool>(&ask).await;
    if expired.is_ok() {
        session.give_back();
    }
    expired.unwrap_or(false)
}
