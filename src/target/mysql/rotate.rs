//! Passwords of users that stay: set, kept beside the old one, proven.

use std::sync::Arc;

use super::account::{Account, Accounts, account};
use super::mint::prepared;
use super::server::Plugin;
use super::session::{Fault, Session};
use super::settings::Hashing;
use super::{Core, TargetError};
use crate::secret::Secret;
use crate::target::Outcome;

/// What becomes of the password that a user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It no longer works.
    Replaced,
    /// It works as before until it is discarded.
    Retained,
}

/// A change of password, with all it takes: it goes on when the caller has left.
pub struct Change {
    /// The server.
    pub core: Arc<Core>,
    /// The user's name.
    pub username: String,
    /// The new password.
    pub password: Secret,
    /// The filled rotation statements; empty for the default: every account of the user.
    pub statements: Vec<Secret>,
    /// Only for the default.
    pub old: Old,
}

impl Change {
    /// Sets the password. A user with several accounts has several passwords: if some have been set and one has not, the
    /// outcome is unknown, and the change should be repeated.
    pub async fn run(self) -> Outcome<()> {
        let mut session = match self.core.session().await {
            Ok(session) => session,
            Err(e) => return Outcome::Failed(e),
        };
        let statements = match self.prepare(&mut session).await {
            Ok(statements) => statements,
            Err(e) => return Outcome::Failed(e),
        };
        for (position, (text, sensitive)) in statements.iter().enumerate() {
            let Err(fault) = session.run(text.expose()).await else { continue };
            let open = fault.is_open();
            let fault = if *sensitive { fault.without_quotation() } else { fault };
            if !open && !fault.is_read_only() {
                session.give_back();
            }
            return if open || position > 0 { Outcome::Unknown(fault.into()) } else { Outcome::Failed(fault.into()) };
        }
        session.give_back();
        Outcome::Done(())
    }

    async fn prepare(&self, session: &mut Session) -> Result<Vec<(Secret, bool)>, TargetError> {
        let accounts = accounts(&self.core, session, &self.username).await?;
        if !self.statements.is_empty() {
            let own = accounts.list.iter().find_map(|account| Plugin::named(&account.plugin));
            let all = prepared(&self.core, session, &self.statements, &self.password, own)?;
            return Ok(all.into_iter().map(|statement| (statement.text, statement.sensitive)).collect());
        }
        if self.old == Old::Retained && !session.server.has_two_passwords() {
            return Err(TargetError::Plan(
                "this server keeps one password a user: MySQL 8.0.14 and later keep two".into(),
            ));
        }
        let set = |account: &Account| Ok((self.statement(session, account)?, true));
        accounts.list.iter().map(set).collect()
    }

    /// The statement for one account: its plugin stays what it is, so that its clients can go on.
    fn statement(&self, session: &Session, at: &Account) -> Result<Secret, TargetError> {
        let server = &session.server;
        let who = account(&self.username, &at.host);
        let own = Plugin::named(&at.plugin).filter(|plugin| server.plugins.contains(plugin));
        let plugin = match self.core.settings.hashing {
            Hashing::Server => own.or(server.default_plugin),
            Hashing::With(plugin) => Some(plugin),
            Hashing::Off => None,
        };
        let hash = plugin.map(|plugin| Ok((plugin, plugin.hash(&self.password)?))).transpose();
        let hash = hash.map_err(|e: crate::secret::password::NoRandomness| TargetError::Plan(e.to_string()))?;
        let retain = if self.old == Old::Retained { " RETAIN CURRENT PASSWORD" } else { "" };
        Ok(Secret::new(match hash {
            Some((Plugin::Native, hash)) if !server.has_alter_user() => {
                format!("SET PASSWORD FOR {who} = '{}'", hash.expose())
            }
            Some((plugin, hash)) => {
                format!("ALTER USER {who} {}{retain}", server.identified(plugin, &hash).expose())
            }
            None => {
                let password = Secret::new(super::account::literal(self.password.expose()));
                format!("ALTER USER {who} IDENTIFIED BY {}{retain}", password.expose())
            }
        }))
    }
}

/// The accounts of a user that must be there.
async fn accounts(core: &Core, session: &mut Session, username: &str) -> Result<Accounts, TargetError> {
    let found = session.accounts(username, &core.settings.user_host).await?;
    if found.list.is_empty() {
        return Err(TargetError::Plan(format!("the server has no user {username:?}")));
    }
    Ok(found)
}

/// Ends the old passwords that [`Old::Retained`] kept.
pub async fn discard_old(core: &Core, username: &str) -> Result<(), TargetError> {
    let mut session = core.session().await?;
    let found = accounts(core, &mut session, username).await?;
    if !session.server.has_two_passwords() {
        session.give_back();
        return Ok(());
    }
    for Account { host, .. } in &found.list {
        let done: Result<(), Fault> =
            session.run(&format!("ALTER USER {} DISCARD OLD PASSWORD", account(username, host))).await;
        done?;
    }
    session.give_back();
    Ok(())
}
