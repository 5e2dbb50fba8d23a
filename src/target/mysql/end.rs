//! Ending a user: contain (no login, no session), clean up (revocation statements or `DROP USER`), look again.

use std::sync::Arc;
use std::time::Instant;

use super::account::Accounts;
use super::session::Session;
use super::{Core, TargetError};
use crate::secret::Secret;
use crate::target::Ended;

/// A revocation, with all it takes: it goes on when the caller has left.
pub struct Ending {
    /// The server.
    pub core: Arc<Core>,
    /// The user's name.
    pub username: String,
    /// The filled revocation statements; empty for the default.
    pub statements: Vec<Secret>,
}

impl Ending {
    /// Ends the user. Once more if the session broke: every step can be repeated.
    pub async fn run(self) -> Result<Ended, TargetError> {
        let begun = Instant::now();
        let ended = match self.once().await {
            Err(TargetError::Lost(why)) => {
                tracing::debug!(username = self.username, "ending a user once more: {why}");
                self.core.pool.drop_idle();
                self.once().await
            }
            other => other,
        };
        let (existed, sessions) = ended?;
        Ok(Ended { existed, sessions, took: begun.elapsed(), left: Vec::new(), again: None })
    }

    async fn once(&self) -> Result<(bool, u64), TargetError> {
        let mut session = self.core.session().await?;
        let ended = self.end(&mut session).await;
        // A session is given back only if nothing is under way in it.
        if ended.is_ok() {
            session.give_back();
        }
        ended
    }

    async fn end(&self, session: &mut Session) -> Result<(bool, u64), TargetError> {
        let patience = self.core.settings.statement_timeout;
        let host = self.core.settings.user_host.as_str();
        let before = session.accounts(&self.username, host).await?;
        // Containing is for the time until the user is gone. If it fails, the user must go all the same; if then the
        // user stays, this is the error that counts.
        let locked = session.lock(&self.username, &before).await;
        let contained = match session.end_sessions(&self.username, patience).await {
            Ok(sessions) => locked.map(|()| sessions),
            Err(fault) if fault.is_open() => return Err(fault.into()),
            Err(fault) => Err(fault),
        };
        if !session.sees_sessions {
            tracing::warn!(
                username = self.username,
                "GRANT PROCESS to the account of this connection: without it, sessions of other users cannot be seen"
            );
        }
        let defines = session.may_define(&self.username, &before).await;

        let cleaned = if self.statements.is_empty() {
            session.drop_accounts(&self.username, &before).await.map_err(TargetError::from)
        } else {
            self.run_statements(session).await
        };
        let mut after = session.accounts(&self.username, "").await?;
        if after.assumed {
            after.list.clear();
        }
        if !after.list.is_empty() {
            cleaned?;
            self.keep_locked(session, &after).await?;
        } else if let Err(e) = cleaned {
            // The statements wanted to do something else, too, or to do it again: the user is gone, and that was asked.
            if !self.is_about_the_user(&e) {
                return Err(e);
            }
        }
        // Sessions that came in before the lock, or that a server without locks let in.
        let late = session.end_sessions(&self.username, patience).await?;
        if defines {
            self.report(session, &before).await;
        }
        let sessions = match contained {
            Ok(sessions) => sessions + late,
            Err(fault) => {
                tracing::debug!(username = self.username, "gone, but was not contained: {}", TargetError::from(fault));
                late
            }
        };
        Ok((!before.assumed && !before.list.is_empty(), sessions))
    }

    async fn run_statements(&self, session: &mut Session) -> Result<(), TargetError> {
        let mut about_the_user = Ok(());
        for statement in &self.statements {
            match session.run(statement.expose()).await.map_err(TargetError::from) {
                Ok(()) => {}
                Err(e) if self.is_about_the_user(&e) => about_the_user = Err(e),
                Err(e) => return Err(e),
            }
        }
        about_the_user
    }

    /// True for the server's ways to say that exactly this user is not there: 1396 (operation failed for the user),
    /// 1269 (cannot revoke from the user, which names nobody), 1141 and 1147 (no such grant for the user), 1133 (no
    /// such user).
    fn is_about_the_user(&self, error: &TargetError) -> bool {
        let TargetError::Answer { text, code } = error else { return false };
        let named = text.contains(&format!("'{}'", self.username));
        matches!(code.as_str(), "1396" | "1141" | "1147") && named || matches!(code.as_str(), "1269" | "1133")
    }

    /// Revocation statements that leave the user there on purpose: it stays, but nobody can log in as it.
    async fn keep_locked(&self, session: &mut Session, left: &Accounts) -> Result<(), TargetError> {
        let hosts: Vec<&str> = left.list.iter().map(|account| account.host.as_str()).collect();
        if !session.server.can_lock() || self.statements.is_empty() {
            return Err(TargetError::Plan(format!(
                "the user {:?} is still there at {hosts:?}; its revocation_statements should DROP USER",
                self.username
            )));
        }
        session.lock(&self.username, left).await?;
        tracing::warn!(
            username = self.username,
            hosts = hosts.join(", "),
            "revocation statements left the user there; it is locked"
        );
        Ok(())
    }

    /// What the user made still names it as its definer.
    async fn report(&self, session: &mut Session, accounts: &Accounts) {
        match session.defined_by(&self.username, accounts).await {
            Ok(objects) if objects.is_empty() => {}
            Ok(objects) => tracing::warn!(
                username = self.username,
                objects = objects.join(", "),
                "objects whose definer is gone no longer run"
            ),
            Err(fault) => {
                tracing::debug!(username = self.username, "could not look for definers: {}", TargetError::from(fault));
            }
        }
    }
}
