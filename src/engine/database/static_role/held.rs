//! A static role at work: its connection, and whichever of its accounts is to change.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use super::stored::{Mode, StaticAccount, StaticRole};
use super::{record_key, second_record_key};
use crate::engine::Mount;
use crate::engine::database::connection::{self, Config, Connection};
use crate::engine::database::credential::CredentialType;
use crate::engine::database::creds::{allowed, password_for};
use crate::engine::error::Error;
use crate::engine::rotation::{self, Account, Failure, Settled};
use crate::secret::Secret;
use crate::target::{LoginError, Outcome, Script, Target, TargetError};

/// A static role with its connection, and one of its accounts.
pub struct Held {
    name: String,
    /// The role.
    pub role: StaticRole,
    /// Where the accounts are.
    pub connection: Arc<Connection>,
    creating: bool,
    /// Which account: the second one, if there are two.
    second: bool,
    /// Where the record of that account is.
    key: String,
    /// Of a self-managed connection: what to make connections of.
    own: Option<Config>,
    /// A change is made, as opposed to one of old settled.
    changing: bool,
}

#[async_trait]
impl Account for Held {
    fn key(&self) -> &str {
        &self.key
    }
    fn connection(&self) -> &str {
        &self.role.db_name
    }
    fn username(&self) -> &str {
        self.role.static_account.user(self.second).0
    }
    fn stored(&self) -> Option<&Secret> {
        Some(self.role.static_account.user(self.second).1).filter(|password| !password.is_empty())
    }
    fn target(&self) -> Arc<dyn Target> {
        self.connection.target.clone()
    }
    fn statements(&self) -> Script {
        Script::parse(&self.role.statements.rotation, self.connection.driver.dialect())
    }
    async fn set(&self, mount: &Mount, password: &Secret) -> Outcome<()> {
        let Some(config) = &self.own else {
            let target = &self.connection.target;
            return match self.stored().filter(|_| self.keeps_stored()) {
                Some(stored) => target.add_password(self.username(), password, stored).await,
                None => target.set_password(self.username(), password, &self.statements()).await,
            };
        };
        let username = self.username();
        let Some(stored) = self.stored() else {
            return Outcome::Failed(TargetError::Plan(format!(
                "{username:?} changes its password itself, and no password of it is known: write its password to the role"
            )));
        };
        // By what is stored now: what the connection was opened with may have been settled since.
        let connection = match config.open_as(mount, username, stored) {
            Ok(connection) => connection,
            Err(e) => return Outcome::Failed(TargetError::Config(e)),
        };
        let outcome = connection.target.set_password(username, password, &self.statements()).await;
        connection.target.close().await;
        outcome
    }
    /// Not before there is one that we know: what an account had before its role is replaced.
    fn keeps_stored(&self) -> bool {
        self.role.static_account.rotation_mode == Mode::DualPassword && self.stored().is_some()
    }
    fn is_previous(&self, candidate: &Secret) -> bool {
        self.role.static_account.previous_password == *candidate
    }
    fn creating(&self) -> Result<Option<Secret>, Error> {
        self.creating.then(|| self.role.encode()).transpose()
    }
    async fn draw(&self, mount: &Mount) -> Result<Secret, Error> {
        password_for(mount, &self.role.credential_config, &self.connection.password_policy).await
    }
    async fn adopt(&mut self, mount: &Mount, password: &Secret, at: SystemTime) -> Result<(), Error> {
        let now = mount.ports.clock.now();
        let account = &mut self.role.static_account;
        // What arrives after it was overtaken by a later change is stored, and is no change of its own.
        let overtaken = !self.changing && account.last_vault_rotation.is_some_and(|last| at <= last);
        match account.rotation_mode {
            Mode::DualAccount if overtaken => account.store_password(self.second, password),
            Mode::DualAccount => account.switched(self.second, password, at, now),
            Mode::DualPassword => account.retained(password, at, now),
            Mode::Single => account.rotated(password, at, now),
        }
        self.role.store(mount, &self.name).await?;
        self.creating = false;
        self.plan(mount, now);
        Ok(())
    }
}

/// What is left of changes after they were looked at.
#[derive(Default)]
pub struct Standing {
    /// The account, the second one or not, of which no known password is known to be valid.
    pub unknown: Option<bool>,
    /// When to look again for a change that may still be on its way.
    pub again: Option<SystemTime>,
}

impl Held {
    /// The role with a connection that it may use.
    pub async fn new(mount: &Mount, name: &str, role: StaticRole, creating: bool) -> Result<Self, Error> {
        let config = Config::load(mount, &role.db_name).await?;
        let config = config.ok_or_else(|| connection::missing(&role.db_name))?;
        let own = Some(config).filter(Config::is_self_managed);
        let connection = match &own {
            None => allowed(mount, name, &role.db_name).await?,
            Some(config) if !config.allows(name) => {
                return Err(Error::Failed(format!("{name:?} is not an allowed role")));
            }
            Some(config) => {
                let StaticAccount { username, password, .. } = &role.static_account;
                Arc::new(config.open_as(mount, username, password).map_err(Error::Failed)?)
            }
        };
        if role.credential_type != CredentialType::Password {
            let kind = role.credential_type.name();
            return Err(Error::Failed(format!("unsupported credential_type: {kind:?}")));
        }
        let (name, key) = (name.to_owned(), record_key(name));
        Ok(Self { name, role, connection, creating, second: false, key, own, changing: false })
    }

    /// True if the account itself changes its password.
    pub fn is_self_managed(&self) -> bool {
        self.own.is_some()
    }

    fn turn_to(&mut self, second: bool) {
        self.second = second;
        self.key = if second { second_record_key(&self.name) } else { record_key(&self.name) };
    }

    /// Settles what is open of every account.
    pub async fn settle(&mut self, mount: &Mount) -> Result<Standing, Error> {
        let now = mount.ports.clock.now();
        let mut standing = Standing::default();
        let accounts: &[bool] =
            if self.role.static_account.rotation_mode == Mode::DualAccount { &[false, true] } else { &[false] };
        for &second in accounts {
            self.turn_to(second);
            let settled = rotation::settle(mount, self).await;
            match settled.map_err(|failure| self.failed(failure))? {
                Settled::Nothing | Settled::Adopted | Settled::Kept => {}
                Settled::Waiting(record) => {
                    let again = rotation::look_again(&record, now);
                    standing.again = Some(standing.again.map_or(again, |other| other.min(again)));
                }
                // The one that is handed out comes first.
                Settled::Unknown(_) if standing.unknown == Some(self.role.static_account.second_active) => {}
                Settled::Unknown(_) => standing.unknown = Some(second),
            }
        }
        Ok(standing)
    }

    /// Gives an account a new password: the one that is `unknown`, else the one whose turn it is.
    pub async fn change(&mut self, mount: &Mount, unknown: Option<bool>) -> Result<(), Failure> {
        self.turn_to(unknown.unwrap_or_else(|| self.role.static_account.turn()));
        self.changing = true;
        let changed = rotation::change(mount, self).await;
        self.changing = false;
        changed
    }

    /// Ends the previous password of an account that has two. If it was not the previous one that ended, because somebody
    /// has changed it by hand, there is a new one.
    pub async fn discard(&mut self, mount: &Mount) -> Result<(), Error> {
        let account = &mut self.role.static_account;
        let target = &self.connection.target;
        target
            .remove_password(&account.username, &account.previous_password)
            .await
            .map_err(|e| Error::Failed(format!("the previous password could not be ended: {e}")))?;
        account.discarded();
        self.role.store(mount, &self.name).await?;
        let account = &self.role.static_account;
        if let Err(LoginError::Refused(e)) = target.login(&account.username, &account.password).await {
            tracing::warn!(username = account.username, "the stored password is not valid any more: {e}");
            return self.change(mount, None).await.map_err(|failure| self.failed(failure));
        }
        self.plan(mount, mount.ports.clock.now());
        Ok(())
    }

    /// Puts what is to be done next into the queue.
    pub fn plan(&self, mount: &Mount, now: SystemTime) {
        let due = self.role.static_account.next(&self.name, now);
        mount.rotation.queue.plan(&record_key(&self.name), &self.role.db_name, due);
    }

    /// In the built-in engine's words.
    pub fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Before(e) => e,
            Failure::Refused(e) => {
                Error::Failed(format!("error setting credentials: {}", self.connection.driver.change_error(&e)))
            }
            Failure::Open(_) => Error::Failed(format!("error setting credentials: {failure}")),
        }
    }

    /// Takes the password that the operator says is valid, if it is.
    pub async fn import(&mut self, password: &Secret) -> Result<(), Error> {
        match self.connection.target.login(&self.role.static_account.username, password).await {
            Ok(()) => {
                self.role.static_account.password = password.duplicate();
                Ok(())
            }
            Err(LoginError::Barred(_)) if self.own.is_none() => {
                self.role.static_account.password = password.duplicate();
                Ok(())
            }
            Err(LoginError::Refused(e) | LoginError::Barred(e)) => {
                Err(Error::Refused(format!("the given password does not open the account: {e}")))
            }
            Err(LoginError::Unreachable(e)) => Err(Error::Failed(format!("the given password cannot be tried: {e}"))),
        }
    }

    /// Whether the server can do what the mode asks for.
    pub async fn check_mode(&self) -> Result<(), Error> {
        let (account, target) = (&self.role.static_account, &self.connection.target);
        if self.own.is_some() && account.rotation_mode != Mode::Single {
            return Err(Error::Refused("rotation_mode is single with a self-managed connection".into()));
        }
        match account.rotation_mode {
            Mode::Single => Ok(()),
            Mode::DualAccount => match target.present(std::slice::from_ref(&account.secondary_username)).await {
                Ok(present) if present.is_empty() => Err(Error::Refused(format!(
                    "secondary_username: there is no user {:?}",
                    account.secondary_username
                ))),
                Ok(_) => Ok(()),
                Err(e) => Err(Error::Failed(format!("secondary_username cannot be looked up: {e}"))),
            },
            Mode::DualPassword => match target.keeps_two_passwords().await {
                Ok(()) => Ok(()),
                Err(TargetError::Plan(e)) => {
                    Err(Error::Refused(format!("rotation_mode=dual_password: {e}; dual_account works with any")))
                }
                Err(e) => Err(Error::Failed(format!("rotation_mode=dual_password cannot be checked: {e}"))),
            },
        }
    }
}
