//! PostgreSQL: users made, prolonged and ended in transactions, over the simple query protocol only (nothing is
//! prepared, so a pooler in front does no harm, and no statement text stays in a cache).

mod check;
mod end;
mod groups;
mod marker;
mod mint;
mod password;
mod record;
mod rehearse;
mod session;
mod standing;
mod usage;

pub use record::UNRECORDED;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::dsn::PgEndpoint;
use super::pool::{Checkout, Lane, Limits, NotOpened, Pool, Trust, jitter};
use super::{
    Capability, EndOptions, EndPlan, Ended, Login, LoginError, Marked, MintPlan, Outcome, Rehearsal, RenewPlan, Script,
    Standing, Target, TargetError, Usage, Vitals,
};
use crate::secret::Secret;
use session::{PgSession, Problem};

/// Length of the longest role name, in bytes (`NAMEDATALEN` − 1).
pub const LONGEST_NAME: usize = 63;

/// How many such mints are at work at once. They wait for each other in the server anyway, all but their hashing; more of
/// them only take the cores away from the one whose turn it is.
const TURNS: usize = 3;

/// How `{{password}}` is filled in statements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PasswordForm {
    /// A SCRAM verifier where the server takes one, the text elsewhere.
    #[default]
    Where,
    /// A SCRAM verifier everywhere.
    Verifier,
    /// The text everywhere.
    Text,
}

/// What a connection to PostgreSQL is made of.
#[derive(Debug)]
pub struct Settings {
    /// Where, and as whom.
    pub endpoint: PgEndpoint,
    /// How many sessions, for how long.
    pub limits: Limits,
    /// How long one statement may take.
    pub statement_timeout: Duration,
    /// What the server gets to see of a password.
    pub password_form: PasswordForm,
    /// Rounds of the verifiers that are made for it.
    pub scram_iterations: u32,
}

/// One PostgreSQL server (or several hosts of which the first that answers is used).
pub struct Postgres {
    settings: Settings,
    pool: Arc<Pool<PgSession>>,
    /// The server has reported a conflict: from now on statements that only may write shared rows are kept apart too.
    cautious: AtomicBool,
    /// Who makes users whose statements write shared rows.
    turns: Semaphore,
}

impl Postgres {
    /// Opens no session yet.
    pub fn new(settings: Settings) -> Self {
        let pool = Pool::new(settings.limits);
        Self { settings, pool, cautious: AtomicBool::new(false), turns: Semaphore::new(TURNS) }
    }

    async fn session(&self, lane: Lane) -> Result<Checkout<PgSession>, TargetError> {
        let Settings { endpoint, statement_timeout, .. } = &self.settings;
        let open = |patience| session::open(endpoint, None, *statement_timeout, patience);
        self.pool.checkout(lane, Trust::Recent, open).await
    }

    /// A session of its own in another database of the same server, for the clean-up there.
    async fn session_in(&self, database: &str) -> Result<PgSession, TargetError> {
        let Settings { endpoint, statement_timeout, limits, .. } = &self.settings;
        let opened = session::open(endpoint, Some(database), *statement_timeout, limits.connect_timeout).await;
        opened.map_err(NotOpened::into)
    }

    /// The account of the connection, as statements name it.
    fn account(&self) -> String {
        quoted_name(&self.settings.endpoint.user)
    }

    /// Runs `attempt` again while the server reports a conflict with somebody else's transaction, with a growing,
    /// jittered pause, until `statement_timeout` is used up.
    async fn retrying<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        let mut conflicts = self.conflicts();
        loop {
            match attempt().await {
                Err(problem) if conflicts.wait_out(&problem).await => {}
                settled => return settled,
            }
        }
    }

    fn conflicts(&self) -> Conflicts<'_> {
        let until = tokio::time::Instant::now() + self.settings.statement_timeout;
        Conflicts { cautious: &self.cautious, until, pause: Duration::from_millis(4) }
    }
}

/// The conflicts of one piece of work with other transactions.
struct Conflicts<'a> {
    cautious: &'a AtomicBool,
    until: tokio::time::Instant,
    pause: Duration,
}

impl Conflicts<'_> {
    /// Waits for a moment and says that it is worth another try; false if this is no conflict, or the time is used up.
    async fn wait_out(&mut self, problem: &Problem) -> bool {
        if !problem.is_conflict() || tokio::time::Instant::now() + self.pause >= self.until {
            return false;
        }
        self.cautious.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.pause.mul_f64(0.5 + jitter())).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(250));
        true
    }
}

#[async_trait]
impl Target for Postgres {
    async fn verify(&self) -> Result<(), TargetError> {
        let mut session = self.session(Lane::Issue).await?;
        session.run("SELECT 1").await?;
        session.give_back();
        Ok(())
    }

    async fn version(&self) -> Result<String, TargetError> {
        let mut session = self.session(Lane::Issue).await?;
        let version: String =
            session.ask("SELECT to_json('PostgreSQL ' || current_setting('server_version'))::text").await?;
        session.give_back();
        Ok(version)
    }

    async fn mint(&self, plan: &MintPlan, login: Login<'_>) -> Outcome<()> {
        mint::mint(self, plan, login).await
    }

    async fn rehearse(&self, plan: &Rehearsal, login: Login<'_>) -> Option<Result<(), TargetError>> {
        Some(rehearse::rehearse(self, plan, login).await)
    }

    async fn renew(&self, plan: &RenewPlan) -> Result<(), TargetError> {
        mint::renew(self, plan).await
    }

    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError> {
        end::end(self, plan).await
    }

    async fn marked(&self, mount: &str) -> Result<Vec<Marked>, TargetError> {
        marker::marked(self, mount).await
    }

    async fn usage(&self, username: &str) -> Result<Option<Usage>, TargetError> {
        usage::usage(self, username).await
    }

    async fn silence(&self, username: &str) -> Result<Option<u64>, TargetError> {
        usage::silence(self, username).await
    }

    async fn standing(&self, mount: &str) -> Result<Vec<Standing>, TargetError> {
        standing::standing(self, mount).await
    }

    async fn records(&self) -> Result<(), TargetError> {
        record::records(self).await
    }

    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError> {
        marker::present(self, usernames).await
    }

    async fn clock(&self) -> Result<Option<SystemTime>, TargetError> {
        marker::clock(self).await.map(Some)
    }

    async fn check(&self, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
        check::check(self, options).await
    }

    async fn groups(&self, names: &[String]) -> Result<Vec<Capability>, TargetError> {
        groups::check(self, names).await
    }

    async fn set_password(&self, username: &str, password: &Secret, statements: &Script) -> Outcome<()> {
        password::set(self, username, password, statements).await
    }

    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError> {
        password::login(self, username, password).await
    }

    fn vitals(&self) -> Option<Vitals> {
        Some(self.pool.vitals())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// `"name"`, safe for any text without NUL.
fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`, safe for any text without NUL whatever `standard_conforming_strings` says.
fn quoted_text(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') { format!(" E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

/// A time as `VALID UNTIL` takes it: `2026-11-22 02:11:17+0000`, the built-in engine's form.
fn timestamp(time: SystemTime) -> Result<String, TargetError> {
    let time = Timestamp::try_from(time).map_err(|_| TargetError::Plan("the end lies outside any calendar".into()))?;
    Ok(time.strftime("%Y-%m-%d %H:%M:%S%z").to_string())
}

/// Refuses a name that the server would store cut, or not at all.
fn check_name(name: &str) -> Result<(), TargetError> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
        return Err(TargetError::Plan(format!(
            "the user name {name:?} has {} bytes; PostgreSQL takes 1 to {LONGEST_NAME}: shorten username_template",
            name.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted_whatever_they_hold() {
        assert_eq!(quoted_name(r#"a"; DROP"#), r#""a""; DROP""#);
        assert_eq!(quoted_text("it's"), "'it''s'");
        assert_eq!(quoted_text(r"a\'b"), r" E'a\\''b'");
    }

    #[test]
    fn an_end_is_written_as_the_built_in_engine_writes_it() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_313_477_900);
        assert_eq!(timestamp(time).unwrap(), "2026-11-22 02:11:17+0000");
    }

    #[test]
    fn a_name_that_the_server_would_cut_is_refused() {
        assert!(check_name(&"x".repeat(63)).is_ok());
        assert!(check_name(&"x".repeat(64)).unwrap_err().to_string().contains("username_template"));
        assert!(check_name("").is_err());
    }
}
