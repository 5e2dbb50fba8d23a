//! MySQL and MariaDB: users made, ended and given passwords one statement at a time, in the text protocol only.
//!
//! The servers commit every such statement at once, so there is nothing to roll back; what fails in the middle is undone
//! by dropping the user. Passwords go to the server as hashes wherever it takes one.

mod account;
mod check;
mod define;
mod dsn;
mod end;
mod hash;
mod mint;
mod relay;
mod rotate;
mod server;
mod session;
mod settings;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;

use super::pool::{Checkout, Lane, NotOpened, Pool, Trust};
use super::statement::Vars;
use super::{
    Capability, EndOptions, EndPlan, Ended, Login, LoginError, Marked, MintPlan, Outcome, RenewPlan, Script, Standing,
    Target, TargetError, Usage, Vitals,
};
use crate::secret::Secret;
use end::Ending;
use mint::Creation;
use rotate::{Change, Old};
use session::Session;

pub use settings::{Settings, Source};

/// Length of the longest user name that every server of today takes, in characters: MySQL's. MariaDB takes 80.
pub const LONGEST_NAME: usize = 32;

/// The same for MySQL before 5.7.8.
pub const LONGEST_LEGACY_NAME: usize = 16;

/// What the built-in engine puts before the error of a connection that could not be verified.
pub const VERIFY_PREFIX: &str = "error verifying - ping: ";

/// One server, or several of which the first that can be written to is used.
pub struct MySql {
    core: Arc<Core>,
}

/// What tasks share that outlive their callers.
struct Core {
    settings: Settings,
    pool: Arc<Pool<Session>>,
}

impl Core {
    async fn session(&self, lane: Lane) -> Result<Checkout<Session>, TargetError> {
        self.pool.checkout(lane, Trust::Recent, |patience| self.open(patience)).await
    }

    async fn open(&self, patience: Duration) -> Result<Session, NotOpened> {
        let opened = Session::open(&self.settings, patience).await;
        // Too many connections, of all or of this account.
        opened.map_err(|e| NotOpened::by_answer(e, |code, _| matches!(code, "1040" | "1203")))
    }

    /// Fills a script, `{{host}}` included.
    fn fill(&self, script: &Script, vars: &Vars<'_>) -> Result<Vec<Secret>, TargetError> {
        const HOST: &str = "{{host}}";
        if vars.name.contains(HOST) || vars.password.is_some_and(|password| password.expose().contains(HOST)) {
            return Err(TargetError::Plan("a user name or password holds {{host}}".into()));
        }
        let host = |filled: Secret| {
            let found = filled.expose().contains(HOST);
            if found { Secret::new(filled.expose().replace(HOST, &self.settings.user_host)) } else { filled }
        };
        Ok(script.fill(vars)?.into_iter().map(host).collect())
    }
}

impl MySql {
    /// Opens no session yet.
    pub fn new(settings: Settings) -> Self {
        let pool = Pool::new(settings.limits);
        Self { core: Arc::new(Core { settings, pool }) }
    }

    async fn change(&self, username: &str, password: &Secret, statements: Vec<Secret>, old: Old) -> Outcome<()> {
        let change = Change {
            core: self.core.clone(),
            username: username.to_owned(),
            password: password.duplicate(),
            statements,
            old,
        };
        match tokio::spawn(change.run()).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown(TargetError::Lost("the task that set the password died".into())),
        }
    }
}

/// Set when the future that holds it is dropped.
struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Target for MySql {
    async fn verify(&self) -> Result<(), TargetError> {
        let core = &self.core;
        core.pool.checkout(Lane::Issue, Trust::Nobody, |patience| core.open(patience)).await?.give_back();
        Ok(())
    }

    async fn version(&self) -> Result<String, TargetError> {
        let mut session = self.core.session(Lane::Issue).await?;
        let rows = session.rows("SELECT VERSION()").await?;
        let kind = if session.server.mariadb { "MariaDB" } else { "MySQL" };
        session.give_back();
        let version = rows.into_iter().flatten().flatten().next().unwrap_or_default();
        Ok(format!("{kind} {version}"))
    }

    async fn mint(&self, plan: &MintPlan, login: Login<'_>) -> Outcome<()> {
        let Some(password) = login.password() else {
            return Outcome::Failed(TargetError::Plan("a user of MySQL and MariaDB logs in by a password here".into()));
        };
        let filled = timestamp(plan.expiration).and_then(|expiration| {
            let vars = Vars { password: Some(password), expiration: Some(&expiration), ..Vars::name(&plan.username) };
            let creation = self.core.fill(&plan.creation, &vars)?;
            Ok((creation, self.core.fill(&plan.rollback, &Vars::name(&plan.username))?))
        });
        let (statements, rollback) = match filled {
            Ok(filled) => filled,
            Err(e) => return Outcome::Failed(e),
        };
        let abandoned = Arc::new(AtomicBool::new(false));
        let creation = Creation {
            core: self.core.clone(),
            username: plan.username.clone(),
            statements,
            rollback,
            password: password.duplicate(),
            marker: plan.marker.clone(),
            abandoned: abandoned.clone(),
        };
        // If this future is dropped, the task stops before its next statement; and if it was done already, what it made
        // is dropped with its result, which removes it.
        let _leaving = Leaving(abandoned);
        match tokio::spawn(creation.run()).await {
            Ok(Outcome::Done(minted)) => {
                minted.keep();
                Outcome::Done(())
            }
            Ok(Outcome::Failed(e)) => Outcome::Failed(e),
            Ok(Outcome::Unknown(e)) => Outcome::Unknown(e),
            Err(_) => Outcome::Unknown(TargetError::Lost("the task that creates the user died".into())),
        }
    }

    async fn set_password(&self, username: &str, password: &Secret, statements: &Script) -> Outcome<()> {
        let vars = Vars { password: Some(password), ..Vars::name(username) };
        match self.core.fill(statements, &vars) {
            Ok(statements) => self.change(username, password, statements, Old::Replaced).await,
            Err(e) => Outcome::Failed(e),
        }
    }

    async fn keeps_two_passwords(&self) -> Result<(), TargetError> {
        let session = self.core.session(Lane::Issue).await?;
        let kept = rotate::two_passwords(&session.server);
        session.give_back();
        kept
    }

    /// What is kept is the password that the user has, whichever that is.
    async fn add_password(&self, username: &str, password: &Secret, _old: &Secret) -> Outcome<()> {
        self.change(username, password, Vec::new(), Old::Retained).await
    }

    /// There can be one old password only.
    async fn remove_password(&self, username: &str, _old: &Secret) -> Result<(), TargetError> {
        let (core, username) = (self.core.clone(), username.to_owned());
        match tokio::spawn(async move { rotate::discard_old(&core, &username).await }).await {
            Ok(discarded) => discarded,
            Err(_) => Err(TargetError::Lost("the task that discards the password died".into())),
        }
    }

    /// An account whose plugin the driver does not speak is compared by its hash instead, and so is one that does not open:
    /// the server says the same of the right password from a host that the account is not for.
    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError> {
        let proven = match session::login(&self.core.settings, username, password).await {
            Err(e) if session::is_unspoken(&e) => {
                rotate::compare(&self.core, username, password).await.unwrap_or(Err(e))
            }
            Err(TargetError::Answer { text, code }) if code == "1045" => {
                match rotate::compare(&self.core, username, password).await {
                    Some(Ok(())) => Ok(()),
                    Some(Err(_)) | None => Err(TargetError::Answer { text, code }),
                }
            }
            proven => proven,
        };
        proven.map_err(|e| LoginError::by_code(e, session::WRONG_PASSWORD))
    }

    async fn renew(&self, plan: &RenewPlan) -> Result<(), TargetError> {
        if plan.renew.is_empty() {
            return Ok(());
        }
        let expiration = timestamp(plan.expiration)?;
        let vars = Vars { expiration: Some(&expiration), ..Vars::name(&plan.username) };
        let statements = self.core.fill(&plan.renew, &vars)?;
        let mut session = self.core.session(Lane::Issue).await?;
        for statement in &statements {
            if let Err(fault) = session.run(statement.expose()).await {
                if !fault.is_open() && !fault.is_read_only() {
                    session.give_back();
                }
                return Err(fault.into());
            }
        }
        session.give_back();
        Ok(())
    }

    async fn marked(&self, _mount: &str) -> Result<Vec<Marked>, TargetError> {
        Ok(Vec::new())
    }

    async fn silence(&self, username: &str) -> Result<Option<u64>, TargetError> {
        usage::silence(&self.core, username).await
    }

    async fn standing(&self, _mount: &str) -> Result<Vec<Standing>, TargetError> {
        usage::standing(&self.core).await
    }

    async fn records(&self) -> Result<(), TargetError> {
        usage::records(&self.core).await
    }

    async fn usage(&self, username: &str) -> Result<Option<Usage>, TargetError> {
        usage::usage(&self.core, username).await
    }

    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError> {
        let mut session = self.core.session(Lane::End).await?;
        let mut found = Vec::new();
        for username in usernames {
            if !session.accounts(username, "").await?.list.is_empty() {
                found.push(username.clone());
            }
        }
        session.give_back();
        Ok(found)
    }

    async fn clock(&self) -> Result<Option<SystemTime>, TargetError> {
        let mut session = self.core.session(Lane::End).await?;
        let rows = session.rows("SELECT FLOOR(UNIX_TIMESTAMP(SYSDATE()))").await?;
        session.give_back();
        let seconds = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()?.parse().ok());
        Ok(seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))))
    }

    async fn check(&self, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
        check::check(&self.core, options).await
    }

    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError> {
        let statements = self.core.fill(&plan.revocation, &Vars::name(&plan.username))?;
        let (core, username, options) = (self.core.clone(), plan.username.clone(), plan.options.clone());
        let ending = Ending { core, username, statements, options };
        match tokio::spawn(ending.run()).await {
            Ok(ended) => ended,
            Err(_) => Err(TargetError::Lost("the task that ends the user died".into())),
        }
    }

    fn vitals(&self) -> Option<Vitals> {
        Some(self.core.pool.vitals())
    }

    async fn close(&self) {
        self.core.pool.close().await;
    }
}

/// A time in the built-in engine's form: `2026-11-22 02:11:17+0000`.
fn timestamp(time: SystemTime) -> Result<String, TargetError> {
    let time = Timestamp::try_from(time).map_err(|_| TargetError::Plan("the end lies outside any calendar".into()))?;
    Ok(time.strftime("%Y-%m-%d %H:%M:%S%z").to_string())
}
