//! Redis and Valkey: users of the access control lists. One command makes a user with all its rules or none; the server
//! sees the hash of a password, never the password.
//!
//! The servers keep their lists each for itself: what is done here is done at one server, not at its replicas and not at
//! the other nodes of a cluster.

mod check;
mod end;
mod node;
mod rules;
mod settings;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::pool::{Checkout, Lane, NotOpened, Pool, Trust};
use super::{
    Capability, EndOptions, EndPlan, Ended, Login, LoginError, Marked, MintPlan, Outcome, RenewPlan, Script, Target,
    TargetError, Vitals,
};
use crate::secret::Secret;
use crate::secret::verifier::redis::acl_rule;
use node::Node;

pub use settings::{Persistence, Settings, Source};

/// Length of the longest user name that is minted (the built-in engine's; the servers have no limit).
pub const LONGEST_NAME: usize = 100;

/// One server.
pub struct Redis {
    core: Arc<Core>,
}

/// What tasks share that outlive their callers.
struct Core {
    settings: Settings,
    pool: Arc<Pool<Node>>,
}

impl Core {
    /// A session that has just shown that it lives.
    async fn session(&self, lane: Lane) -> Result<Checkout<Node>, TargetError> {
        self.pool.checkout(lane, Trust::Nobody, |patience| self.open(patience)).await
    }

    async fn open(&self, patience: Duration) -> Result<Node, NotOpened> {
        let opened = Node::open(&self.settings, patience).await;
        let full = "max number of clients";
        opened.map_err(|e| NotOpened::by_answer(e, |code, text| code == "LOADING" || text.contains(full)))
    }

    /// Makes the user, or leaves nothing.
    async fn create(&self, username: &str, rules: &[&str]) -> Outcome<()> {
        let begun = async {
            let mut session = self.session(Lane::Issue).await?;
            let taken = session.knows(username).await?;
            Ok((session, taken))
        };
        let mut session = match begun.await {
            Ok((session, false)) => session,
            Ok((session, true)) => {
                session.give_back();
                let error = format!("a user {username:?} exists already: it was not touched");
                return Outcome::Failed(TargetError::Plan(error));
            }
            Err(e) => return Outcome::Failed(e),
        };
        let error = match session.set_user(username, rules).await {
            Ok(()) => match session.persist(self.settings.persistence).await {
                Ok(()) => {
                    session.give_back();
                    return Outcome::Done(());
                }
                Err(e) => e,
            },
            // All or none: the server refused, so there is none.
            Err(e @ TargetError::Answer { .. }) => {
                session.give_back();
                return Outcome::Failed(e);
            }
            Err(e) => e,
        };
        let silent = session.id;
        drop(session);
        match self.remove(username, Some(silent)).await {
            Ok(()) => Outcome::Failed(error),
            Err(e) => {
                tracing::warn!(username, "could not undo a failed creation: {e}");
                Outcome::Unknown(error)
            }
        }
    }

    /// Removes a user for good; `silent` is a session that may still be about to make it.
    async fn remove(&self, username: &str, silent: Option<i64>) -> Result<(), TargetError> {
        let mut session = self.session(Lane::End).await?;
        if let Some(id) = silent {
            session.end_own_session(id).await?;
        }
        session.delete_user(username).await?;
        let there = session.knows(username).await?;
        if !there && let Err(e) = session.persist(self.settings.persistence).await {
            // A user that was not kept in the first place does not come back.
            tracing::warn!(username, "the user is gone, but that was not written down: {e}");
        }
        session.give_back();
        if there { Err(TargetError::Plan(format!("the user {username:?} came back"))) } else { Ok(()) }
    }

    /// The hashes of a user's passwords; none of a user that is not there.
    async fn passwords(&self, username: &str) -> Result<Vec<String>, TargetError> {
        let mut session = self.session(Lane::Issue).await?;
        let found = session.passwords(username).await?;
        session.give_back();
        Ok(found)
    }

    /// Changes a user that must be there.
    async fn change(&self, username: &str, rules: &[&str]) -> Outcome<()> {
        let begun = async {
            let mut session = self.session(Lane::Issue).await?;
            if session.knows(username).await? {
                return Ok(session);
            }
            session.give_back();
            Err(TargetError::Plan(format!("the server has no user {username:?}")))
        };
        let mut session = match begun.await {
            Ok(session) => session,
            Err(e) => return Outcome::Failed(e),
        };
        match session.set_user(username, rules).await {
            Ok(()) => {}
            Err(e @ TargetError::Answer { .. }) => {
                session.give_back();
                return Outcome::Failed(e);
            }
            Err(e) => return Outcome::Unknown(e),
        }
        match session.persist(self.settings.persistence).await {
            Ok(()) => {
                session.give_back();
                Outcome::Done(())
            }
            // Changed, but the next start would bring the old password back.
            Err(e) => Outcome::Unknown(e),
        }
    }
}

impl Redis {
    /// Opens no session yet.
    pub fn new(settings: Settings) -> Self {
        let pool = Pool::new(settings.limits);
        Self { core: Arc::new(Core { settings, pool }) }
    }

    async fn change(&self, username: &str, rules: Vec<String>) -> Outcome<()> {
        let (core, username) = (self.core.clone(), username.to_owned());
        let change = async move {
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            core.change(&username, &rules).await
        };
        match tokio::spawn(change).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown(TargetError::Lost("the task that set the password died".into())),
        }
    }
}

/// A user that somebody must take: dropped without, it is removed again.
struct Minted(Option<(Arc<Core>, String)>);

impl Drop for Minted {
    fn drop(&mut self) {
        let Some((core, username)) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if let Err(e) = core.remove(&username, None).await {
                    tracing::error!(username, "a user that nobody waited for could not be removed: {e}");
                }
            })),
            Err(_) => tracing::error!(username, "a user that nobody waited for is left behind"),
        }
    }
}

#[async_trait]
impl Target for Redis {
    async fn verify(&self) -> Result<(), TargetError> {
        self.core.session(Lane::Issue).await?.give_back();
        Ok(())
    }

    async fn version(&self) -> Result<String, TargetError> {
        let mut session = self.core.session(Lane::Issue).await?;
        let version = session.version().await?;
        session.give_back();
        Ok(version)
    }

    async fn mint(&self, plan: &MintPlan, login: Login<'_>) -> Outcome<()> {
        let Some(password) = login.password() else {
            return Outcome::Failed(TargetError::Plan("a user of Redis and Valkey logs in by a password here".into()));
        };
        let rules = check_name(&plan.username).and_then(|()| rules::rules(&plan.creation, &plan.username));
        let rules = match rules {
            Ok(rules) => rules,
            Err(e) => return Outcome::Failed(e),
        };
        let (core, username, hash) = (self.core.clone(), plan.username.clone(), acl_rule(password));
        let creation = async move {
            let mut all = vec!["reset", "on", hash.expose()];
            all.extend(rules.iter().map(String::as_str));
            let created = core.create(&username, &all).await;
            // Dropped with the result if nobody waits for it.
            let minted = matches!(created, Outcome::Done(())).then(|| (core.clone(), username.clone()));
            (Minted(minted), created)
        };
        match tokio::spawn(creation).await {
            Ok((mut minted, outcome)) => {
                minted.0 = None;
                outcome
            }
            Err(_) => Outcome::Unknown(TargetError::Lost("the task that creates the user died".into())),
        }
    }

    /// Statements mean nothing here, as in the built-in engine.
    async fn set_password(&self, username: &str, password: &Secret, _statements: &Script) -> Outcome<()> {
        self.change(username, vec!["resetpass".to_owned(), acl_rule(password).expose().to_owned()]).await
    }

    async fn keep(&self) -> Result<(), TargetError> {
        let core = self.core.clone();
        let keeping = async move {
            let mut session = core.session(Lane::Issue).await?;
            session.persist(core.settings.persistence).await?;
            session.give_back();
            Ok(())
        };
        tokio::spawn(keeping).await.unwrap_or_else(|_| Err(TargetError::Lost("the task that keeps users died".into())))
    }

    async fn keeps_two_passwords(&self) -> Result<(), TargetError> {
        Ok(())
    }

    /// All other passwords end: this is the one time that those are seen to which an unfinished change has left behind.
    async fn add_password(&self, username: &str, password: &Secret, old: &Secret) -> Outcome<()> {
        let known = match self.core.passwords(username).await {
            Ok(known) => known,
            Err(e) => return Outcome::Failed(e),
        };
        let old = acl_rule(old);
        let mut rules = vec!["resetpass".to_owned()];
        if known.iter().any(|known| old.expose().strip_prefix('#') == Some(known)) {
            rules.push(old.expose().to_owned());
        }
        rules.push(acl_rule(password).expose().to_owned());
        self.change(username, rules).await
    }

    async fn remove_password(&self, username: &str, old: &Secret) -> Result<(), TargetError> {
        let rule = acl_rule(old).expose().replacen('#', "!", 1);
        let known = self.core.passwords(username).await?;
        // Also without the password: who removed it may have been stopped before the users were kept.
        let rules =
            if known.iter().any(|known| rule.strip_prefix('!') == Some(known)) { vec![rule] } else { Vec::new() };
        match self.change(username, rules).await {
            Outcome::Done(()) => Ok(()),
            Outcome::Failed(e) | Outcome::Unknown(e) => Err(e),
        }
    }

    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError> {
        let settings = &self.core.settings;
        let opened = node::connect(settings, username, Some(password), settings.limits.connect_timeout).await;
        let Err(e) = opened else { return Ok(()) };
        let refused = LoginError::by_code(e, node::WRONG_PASSWORD);
        // The server says the same of the right password of a user that is off.
        if matches!(refused, LoginError::Refused(_))
            && let Ok(known) = self.core.passwords(username).await
            && known.iter().any(|known| acl_rule(password).expose().strip_prefix('#') == Some(known))
        {
            return Ok(());
        }
        Err(refused)
    }

    /// Users have no end of their own here: nothing to move.
    async fn renew(&self, _plan: &RenewPlan) -> Result<(), TargetError> {
        Ok(())
    }

    async fn marked(&self, _mount: &str) -> Result<Vec<Marked>, TargetError> {
        Ok(Vec::new())
    }

    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError> {
        let mut session = self.core.session(Lane::End).await?;
        let mut found = Vec::new();
        for username in usernames {
            if session.knows(username).await? {
                found.push(username.clone());
            }
        }
        session.give_back();
        Ok(found)
    }

    /// The account need not be allowed to ask.
    async fn clock(&self) -> Result<Option<SystemTime>, TargetError> {
        Ok(None)
    }

    async fn check(&self, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
        check::check(&self.core, options).await
    }

    /// Revocation statements mean nothing here, as in the built-in engine.
    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError> {
        let (core, username, options) = (self.core.clone(), plan.username.clone(), plan.options.clone());
        match tokio::spawn(async move { end::end(&core, &username, &options).await }).await {
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

/// The servers refuse names with spaces, and `default` is everybody.
fn check_name(username: &str) -> Result<(), TargetError> {
    let usable = !username.is_empty() && !username.chars().any(|c| c.is_whitespace() || c.is_control());
    if usable && username.chars().count() <= LONGEST_NAME && !username.eq_ignore_ascii_case("default") {
        return Ok(());
    }
    Err(TargetError::Plan(format!("{username:?} is no name for a user here: change username_template")))
}
