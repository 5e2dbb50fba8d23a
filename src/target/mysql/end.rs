//! Ending a user: contain (no login, no session), clean up (revocation statements or `DROP USER`), look again.
//!
//! Only what cannot be contained is an error; what else is left of the user is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::{Accounts, account};
use super::define::Defined;
use super::session::{Fault, Session};
use super::{Core, TargetError};
use crate::secret::Secret;
use crate::target::pool::Lane;
use crate::target::{EndOptions, Ended, Left, Owned, Sessions, Verify};

/// MySQL does not drop what is somebody's definer, unless the account may leave definers that are not there.
const IS_DEFINER: u16 = 4006;

/// A revocation, with all it takes: it goes on when the caller has left.
pub struct Ending {
    /// The server.
    pub core: Arc<Core>,
    /// The user's name.
    pub username: String,
    /// The filled revocation statements; empty for the default.
    pub statements: Vec<Secret>,
    /// What becomes of sessions and objects.
    pub options: EndOptions,
}

/// What became of the sessions of a user.
enum Contained {
    /// They are over, or are none of our business; so many were ended.
    Over(u64),
    /// They go on for a while.
    Waiting(Vec<u64>, Duration),
    /// They could not be ended.
    Open(Fault),
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
        Ok(Ended { took: begun.elapsed(), ..ended? })
    }

    async fn once(&self) -> Result<Ended, TargetError> {
        let mut session = self.core.session(Lane::End).await?;
        let ended = self.end(&mut session).await;
        // A session is given back only if nothing is under way in it.
        if ended.is_ok() {
            session.give_back();
        }
        ended
    }

    async fn end(&self, session: &mut Session) -> Result<Ended, TargetError> {
        let host = self.core.settings.user_host.as_str();
        let before = session.accounts(&self.username, host).await?;
        let mut ended = Ended { existed: !before.assumed && !before.list.is_empty(), ..Ended::default() };
        // Containing is for the time until the user is gone. If it fails, the user must go all the same; if then the
        // user stays, this is the error that counts.
        let locked = session.lock(&self.username, &before).await;
        let barred = locked.is_ok() && session.server.can_lock();
        let contained = match self.contain(session, barred).await {
            Contained::Waiting(open, grace) => {
                ended.left = open.into_iter().map(waiting).collect();
                ended.again = Some(grace);
                return Ok(ended);
            }
            Contained::Open(fault) if fault.is_open() => return Err(fault.into()),
            Contained::Open(fault) => Err(fault),
            Contained::Over(sessions) => locked.map(|()| sessions),
        };
        if !session.sees_sessions && ended.existed {
            self.blind(&mut ended);
        }

        let objects = self.objects(session, &before, &mut ended).await?;
        let cleaned = if self.statements.is_empty() {
            session.drop_accounts(&self.username, &before).await.map_err(TargetError::from)
        } else {
            self.run_statements(session).await
        };
        let mut after = session.accounts(&self.username, "").await?;
        if after.assumed {
            after.list.clear();
        }
        if after.list.is_empty() {
            // The statements wanted to do something else, too, or to do it again: the user is gone, and that was asked.
            if let Err(e) = cleaned
                && !self.is_about_the_user(&e)
            {
                // Where it cannot be seen whether the user is gone, they are all there is.
                if after.assumed {
                    return Err(e);
                }
                ended.left.push(self.left(format!("it is gone, but {}", refused(&e))));
            }
        } else {
            self.keep(session, &after, cleaned, barred, &mut ended).await?;
        }
        ended.left.extend(objects);
        // Sessions that came in before the lock, or that a server without locks let in.
        let late = match self.options.sessions {
            Sessions::Keep => 0,
            _ => session.end_sessions(&self.username, self.core.settings.statement_timeout).await?,
        };
        ended.sessions = late
            + contained.unwrap_or_else(|fault| {
                tracing::debug!(username = self.username, "gone, but was not contained: {}", TargetError::from(fault));
                0
            });
        Ok(ended)
    }

    async fn contain(&self, session: &mut Session, barred: bool) -> Contained {
        let ended = match self.options.sessions {
            Sessions::Keep => Ok(0),
            Sessions::Grace(grace) if barred && !grace.is_zero() => match session.sessions_of(&self.username).await {
                Ok(open) if open.is_empty() => Ok(0),
                Ok(open) => return Contained::Waiting(open, grace),
                Err(fault) => Err(fault),
            },
            _ => session.end_sessions(&self.username, self.core.settings.statement_timeout).await,
        };
        ended.map_or_else(Contained::Open, Contained::Over)
    }

    /// Sessions of users that nobody can see may be open.
    fn blind(&self, ended: &mut Ended) {
        tracing::warn!(
            username = self.username,
            "GRANT PROCESS to the account of this connection: without it, sessions of other users cannot be seen"
        );
        if self.options.verify == Verify::Required && self.options.sessions != Sessions::Keep {
            let account = &self.core.settings.username;
            ended.left.push(Left {
                database: String::new(),
                object: format!("sessions of {:?}", self.username),
                reason: format!(
                    "the account of this connection does not see them: GRANT PROCESS ON *.* TO {account:?}"
                ),
            });
        }
    }

    /// What the user defined, once what is to be dropped with it is dropped. It is looked for before the end of a user
    /// that could define anything, and after the end of one that was ended before.
    async fn objects(
        &self,
        session: &mut Session,
        accounts: &Accounts,
        ended: &mut Ended,
    ) -> Result<Vec<Left>, TargetError> {
        let relevant = match (self.options.verify, &self.options.owned) {
            (Verify::Off, Owned::Fail) => false,
            _ if accounts.list.is_empty() => self.options.verify == Verify::Required,
            _ => session.may_define(&self.username, accounts).await,
        };
        if !relevant {
            return Ok(Vec::new());
        }
        let found = match session.defined_by(&self.username).await {
            Ok(found) => found,
            Err(fault) if fault.is_open() => return Err(fault.into()),
            Err(fault) => {
                if self.options.verify == Verify::Required {
                    let why = TargetError::from(fault);
                    ended.left.push(self.left(format!("it could not be looked for what it defined: {why}")));
                }
                return Ok(Vec::new());
            }
        };
        let mut left = Vec::new();
        for object in found {
            let reason = match self.options.owned {
                Owned::Drop => match session.run(&object.drop_statement()).await {
                    Ok(()) => continue,
                    Err(fault) if fault.is_open() => return Err(fault.into()),
                    Err(fault) => TargetError::from(fault).to_string(),
                },
                Owned::Fail | Owned::Reassign(_) => {
                    "the user is its definer: without the user it no longer runs".to_owned()
                }
            };
            if self.options.verify != Verify::Off {
                left.push(defined(&object, &reason));
            }
        }
        Ok(left)
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

    /// The user is still there: nobody can log in as it, or that is an error.
    async fn keep(
        &self,
        session: &mut Session,
        after: &Accounts,
        cleaned: Result<(), TargetError>,
        barred: bool,
        ended: &mut Ended,
    ) -> Result<(), TargetError> {
        let hosts: Vec<&str> = after.list.iter().map(|account| account.host.as_str()).collect();
        if !barred {
            cleaned?;
            return Err(TargetError::Plan(format!(
                "the user {:?} is still there at {hosts:?}, and could not be locked; its revocation_statements should \
                 DROP USER",
                self.username
            )));
        }
        // Statements may have unlocked it.
        session.lock(&self.username, after).await?;
        let (own, required) = (!self.statements.is_empty(), self.options.verify == Verify::Required);
        let reason = match cleaned {
            Err(e @ (TargetError::Lost(_) | TargetError::Timeout(_))) => return Err(e),
            Err(e) if own => format!("it is locked at {hosts:?}, but {}", refused(&e)),
            Err(e) => {
                if matches!(&e, TargetError::Answer { code, .. } if *code == IS_DEFINER.to_string()) {
                    self.strip(session, after).await;
                }
                format!("it is locked at {hosts:?}, but {e}{}", self.hint(session, &e))
            }
            Ok(()) if own && !required => return Ok(()),
            Ok(()) if own => format!(
                "the revocation statements keep it, locked at {hosts:?}: let them DROP USER, or set verify to best_effort"
            ),
            Ok(()) => format!("it came back at {hosts:?}, and is locked"),
        };
        ended.left.push(self.left(reason));
        Ok(())
    }

    /// A user that has to stay lends its rights to what it defined: it shall have none.
    async fn strip(&self, session: &mut Session, accounts: &Accounts) {
        for host in accounts.list.iter().map(|account| &account.host) {
            let revoke = format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM {}", account(&self.username, host));
            if let Err(fault) = session.run(&revoke).await {
                tracing::warn!(username = self.username, "a locked user keeps rights: {}", TargetError::from(fault));
            }
        }
    }

    fn hint(&self, session: &Session, error: &TargetError) -> String {
        let TargetError::Answer { code, .. } = error else { return String::new() };
        let admin = &self.core.settings.username;
        match code.parse() {
            Ok(IS_DEFINER) => {
                format!("; set owned_objects=drop, or GRANT {} ON *.* TO {admin:?}", session.server.orphans_definers())
            }
            Ok(1227_u16 | 1044 | 1142 | 1410) => format!("; GRANT CREATE USER ON *.* TO {admin:?}"),
            _ => String::new(),
        }
    }

    fn left(&self, reason: String) -> Left {
        Left { database: String::new(), object: format!("user {:?}", self.username), reason }
    }
}

fn refused(error: &TargetError) -> String {
    format!("the revocation statements failed: {error}; change the role's revocation_statements")
}

fn waiting(id: u64) -> Left {
    let reason = "it may go on for the time of grace".to_owned();
    Left { database: String::new(), object: format!("session {id}"), reason }
}

fn defined(object: &Defined, why: &str) -> Left {
    let drop = object.drop_statement();
    Left { database: object.schema.clone(), object: object.text(), reason: format!("{why}; {drop}, or define it anew") }
}
