//! Passwords of users that stay: set, kept beside the old one, proven.

use std::sync::Arc;

use super::account::{Account, Accounts, account, literal};
use super::mint::prepared;
use super::server::{Plugin, Server};
use super::session::{Fault, Session};
use super::settings::Hashing;
use super::{Core, TargetError};
use crate::secret::Secret;
use crate::target::pool::Lane;
use crate::target::{Outcome, one_password};

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
        let mut session = match self.core.session(Lane::Issue).await {
            Ok(session) => session,
            Err(e) => return Outcome::Failed(e),
        };
        let statements = match self.prepare(&mut session).await {
            Ok(statements) => statements,
            Err(e) => return Outcome::Failed(e),
        };
        for (position, (text, sensitive)) in statements.iter().enumerate() {
            let mut ran = session.run(text.expose()).await;
            // Whoever may not change users may change itself.
            if position == 0
                && self.is_own()
                && ran.as_ref().is_err_and(Fault::is_denied)
                && let Ok(own) = self.own_statement(&session.server)
            {
                ran = session.run(own.expose()).await;
            }
            let Err(fault) = ran else { continue };
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
        if self.old == Old::Retained {
            two_passwords(&session.server)?;
        }
        if accounts.assumed && self.is_own() {
            return Ok(vec![(self.own_statement(&session.server)?, true)]);
        }
        let mut all = Vec::new();
        for account in accounts.list.iter().filter(|account| takes_password(&account.plugin)) {
            all.push((self.statement(session, account)?, true));
        }
        if all.is_empty() {
            return Err(TargetError::Plan(format!(
                "no account of the user {:?} logs in with a password",
                self.username
            )));
        }
        Ok(all)
    }

    /// What a user without privileges can tell the server: the new password of the account that it has logged in to, whose
    /// plugin stays what it is. In MariaDB that is the one that the driver can log in by.
    fn own_statement(&self, server: &Server) -> Result<Secret, TargetError> {
        let retain = if self.old == Old::Retained { " RETAIN CURRENT PASSWORD" } else { "" };
        if server.mariadb || !server.has_alter_user() {
            let hash = Plugin::Native.hash(&self.password).map_err(|e| TargetError::Plan(e.to_string()))?;
            return Ok(Secret::new(format!("SET PASSWORD = '{}'", hash.expose())));
        }
        // MySQL takes no hash here, and hides the password from its logs.
        if self.core.settings.refuse_plain {
            return Err(TargetError::Plan(
                "MySQL takes no hash of a user that changes its own password, and refuse_plaintext_password is set"
                    .into(),
            ));
        }
        Ok(Secret::new(format!("SET PASSWORD = {}{retain}", literal(self.password.expose()))))
    }

    /// True if the user that logs in is the one whose password changes, by the default statements.
    fn is_own(&self) -> bool {
        self.statements.is_empty() && self.username == self.core.settings.username
    }

    /// The statement for one account: its plugin stays what it is, so that its clients can go on.
    fn statement(&self, session: &Session, at: &Account) -> Result<Secret, TargetError> {
        let server = &session.server;
        let settings = &self.core.settings;
        let who = account(&self.username, &at.host);
        let plugin = match settings.hashing {
            Hashing::Server if at.plugin.is_empty() => server.default_plugin,
            Hashing::Server => Plugin::named(&at.plugin).filter(|plugin| server.plugins.contains(plugin)),
            Hashing::With(plugin) if server.plugins.contains(&plugin) => Some(plugin),
            Hashing::With(_) | Hashing::Off => None,
        };
        let retain = if self.old == Old::Retained { " RETAIN CURRENT PASSWORD" } else { "" };
        if let Some(plugin) = plugin {
            let hash = plugin.hash(&self.password).map_err(|e| TargetError::Plan(e.to_string()))?;
            return Ok(Secret::new(if server.has_alter_user() {
                format!("ALTER USER {who} {}{retain}", server.identified(plugin, &hash).expose())
            } else {
                format!("SET PASSWORD FOR {who} = '{}'", hash.expose())
            }));
        }
        if settings.refuse_plain && settings.hashing != Hashing::Off {
            return Err(TargetError::Plan(format!(
                "{who} has the plugin {:?}, which takes no hash made here, and refuse_plaintext_password is set",
                at.plugin
            )));
        }
        let password = Secret::new(literal(self.password.expose()));
        let (plugin, password) = (literal(&at.plugin), password.expose());
        Ok(Secret::new(match (at.plugin.as_str(), server.mariadb) {
            ("", _) => format!("ALTER USER {who} IDENTIFIED BY {password}{retain}"),
            (_, true) => format!("ALTER USER {who} IDENTIFIED VIA {} USING PASSWORD({password})", at.plugin),
            (_, false) => format!("ALTER USER {who} IDENTIFIED WITH {plugin} BY {password}{retain}"),
        }))
    }
}

/// False for accounts that log in by other means (a socket, a directory, a cloud's tokens), which must stay as they are.
fn takes_password(plugin: &str) -> bool {
    const OTHERS: [&str; 3] = ["sha256_password", "mysql_old_password", "parsec"];
    plugin.is_empty() || Plugin::named(plugin).is_some() || OTHERS.contains(&plugin)
}

/// The accounts of a user that must be there.
async fn accounts(core: &Core, session: &mut Session, username: &str) -> Result<Accounts, TargetError> {
    let found = session.accounts(username, &core.settings.user_host).await?;
    if found.list.is_empty() {
        return Err(TargetError::Plan(format!("the server has no user {username:?}")));
    }
    Ok(found)
}

/// Refuses a server that keeps one password a user.
pub fn two_passwords(server: &Server) -> Result<(), TargetError> {
    if server.has_two_passwords() { Ok(()) } else { Err(one_password(&server.to_string())) }
}

/// Ends the old passwords that [`Old::Retained`] kept.
pub async fn discard_old(core: &Core, username: &str) -> Result<(), TargetError> {
    let mut session = core.session(Lane::Issue).await?;
    let found = accounts(core, &mut session, username).await?;
    if !session.server.has_two_passwords() {
        session.give_back();
        return Ok(());
    }
    for Account { host, .. } in found.list.iter().filter(|account| takes_password(&account.plugin)) {
        session.run(&format!("ALTER USER {} DISCARD OLD PASSWORD", account(username, host))).await?;
    }
    session.give_back();
    Ok(())
}

/// Compares a password with the stored hashes of a user's accounts, where all of them can be read and compared: `Ok` if it
/// is the password of every one.
pub async fn compare(core: &Core, username: &str, password: &Secret) -> Option<Result<(), TargetError>> {
    let mut session = core.session(Lane::Issue).await.ok()?;
    let found = session.accounts(username, "").await.ok()?;
    let user = literal(username);
    let ask = format!("SELECT User, plugin, authentication_string FROM mysql.user WHERE User = {user}");
    let rows = session.rows(&ask).await.ok()?;
    session.give_back();
    if found.assumed {
        return None;
    }
    let (mut seen, mut all) = (false, true);
    for row in &rows {
        // The server compares names without regard to what pads them; and roles are no accounts.
        let [Some(name), Some(plugin), Some(stored)] = row.as_slice() else { continue };
        if name == username && takes_password(plugin) && !plugin.is_empty() {
            all &= Plugin::named(plugin)?.matches(stored, password)?;
            seen = true;
        }
    }
    if !seen {
        return None;
    }
    if all {
        return Some(Ok(()));
    }
    let text = format!("Error 1045 (28000): the stored hash of user {user} is of another password");
    Some(Err(TargetError::Answer { text, code: "1045".into() }))
}
