//! Making a user. The server commits every statement by itself, so what fails in the middle is undone by us: there is no
//! transaction that would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::account::{Accounts, literal};
use super::hash::{Hashed, hashed};
use super::session::{Fault, Session};
use super::settings::Hashing;
use super::{Core, TargetError};
use crate::secret::Secret;
use crate::target::pool::{Checkout, Lane};
use crate::target::{Marker, Outcome};

/// How often an undo is tried before it is given up.
const UNDO_TRIES: u32 = 3;

/// A creation, with all it takes: it goes on when the caller has left.
pub struct Creation {
    /// The server.
    pub core: Arc<Core>,
    /// The user's name.
    pub username: String,
    /// The filled creation statements.
    pub statements: Vec<Secret>,
    /// The filled rollback statements.
    pub rollback: Vec<Secret>,
    /// The user's password.
    pub password: Secret,
    /// Whose the user is.
    pub marker: Marker,
    /// Nobody waits for the user any more.
    pub abandoned: Arc<AtomicBool>,
}

/// A user that somebody must take: dropped without, it is removed again.
pub struct Minted(Option<Undo>);

impl Minted {
    /// Takes the user.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Minted {
    fn drop(&mut self) {
        let Some(undo) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                if undo.run().await.is_err() {
                    tracing::error!(username = undo.username, "a user that nobody waited for could not be removed");
                }
            })),
            Err(_) => tracing::error!(username = undo.username, "a user that nobody waited for is left behind"),
        }
    }
}

impl Creation {
    /// Makes the user, or undoes what was done of it.
    pub async fn run(self) -> Outcome<Minted> {
        let mut begun = self.begin().await;
        if let Err(TargetError::Lost(_)) = begun {
            // A session that died while idle; nothing has been done yet.
            self.core.pool.drop_idle();
            begun = self.begin().await;
        }
        let (mut session, statements, assumed) = match begun {
            Ok(begun) => begun,
            Err(e) => return Outcome::Failed(e),
        };
        let undo = Undo {
            core: self.core.clone(),
            username: self.username.clone(),
            rollback: self.rollback.iter().map(Secret::duplicate).collect(),
        };
        let mut created = false;
        for (position, statement) in statements.iter().enumerate() {
            if self.abandoned.load(Ordering::Acquire) {
                session.give_back();
                if created || position > 0 && !assumed {
                    drop(Minted(Some(undo)));
                }
                return Outcome::Failed(TargetError::Plan("the request was cancelled".into()));
            }
            let Err(fault) = session.run_secret(&statement.text).await else {
                created |= creates_user(statement.text.expose());
                continue;
            };
            let open = fault.is_open();
            created |= open && creates_user(statement.text.expose());
            // A statement that waits for an answer may take effect after it was undone. Not when its session is gone.
            let settled = !open || settle(&self.core, &session).await;
            if open || fault.is_read_only() {
                drop(session);
            } else {
                session.give_back();
            }
            // A name that was taken is somebody's.
            let taken = fault.number() == Some(1396);
            let fault = if statement.sensitive { fault.without_quotation() } else { fault };
            let error = TargetError::from(Self::explained(fault));
            let nothing = !created && (taken || assumed && !open && position == 0);
            return match () {
                () if nothing => Outcome::Failed(error),
                () if !created && assumed => Outcome::Unknown(error),
                () if undo.run().await.is_ok() && settled => Outcome::Failed(error),
                () => Outcome::Unknown(error),
            };
        }
        if !assumed && !session.wants_attribute(&self.marker) && shows_the_user(&statements, &self.username) {
            session.give_back();
            return Outcome::Done(Minted(Some(undo)));
        }
        let host = self.core.settings.user_host.as_str();
        let found = session.accounts(&self.username, host).await;
        let missing = match &found {
            // Nobody could end it who looks for it there.
            Ok(found) if found.assumed => session.lacks(&self.username, found).await,
            Ok(found) => found.list.is_empty(),
            Err(_) => false,
        };
        if missing {
            session.give_back();
            let at = if assumed { format!(" at {host:?}, the only host that can be looked at") } else { String::new() };
            let error = TargetError::Plan(format!(
                "the creation statements did not create the user {:?}{at}: use {{{{name}}}} in CREATE USER",
                self.username
            ));
            // What they did instead is for the rollback statements to undo.
            return if undo.run().await.is_ok() { Outcome::Failed(error) } else { Outcome::Unknown(error) };
        }
        // An answer that does not come changes nothing: every statement has been answered, so the user is there.
        let Ok(found) = found else { return Outcome::Done(Minted(Some(undo))) };
        // Whose it is, is in the record already: a user is not refused for want of this.
        match session.attribute(&self.username, &found, &self.marker).await {
            Ok(()) => session.give_back(),
            Err(fault) => {
                let open = fault.is_open();
                tracing::warn!(username = self.username, "the user carries no attribute: {}", TargetError::from(fault));
                if !open {
                    session.give_back();
                }
            }
        }
        Outcome::Done(Minted(Some(undo)))
    }

    /// Everything that can be refused before anything is done: a session, the statements to send, and whether it could
    /// not be looked up that there is no such user yet.
    async fn begin(&self) -> Result<(Checkout<Session>, Vec<Hashed>, bool), TargetError> {
        let mut session = self.core.session(Lane::Issue).await?;
        let begun = self.prepare(&mut session).await;
        match begun {
            Ok((statements, assumed)) => Ok((session, statements, assumed)),
            Err(e) => {
                if matches!(e, TargetError::Plan(_) | TargetError::Answer { .. }) {
                    session.give_back();
                }
                Err(e)
            }
        }
    }

    async fn prepare(&self, session: &mut Session) -> Result<(Vec<Hashed>, bool), TargetError> {
        let longest = session.server.longest_username();
        let length = self.username.chars().count();
        if length == 0 || length > longest {
            return Err(TargetError::Plan(format!(
                "the user name {:?} has {length} characters; this server takes 1 to {longest}: shorten username_template",
                self.username,
            )));
        }
        // Also so that nothing here ever removes a user that it did not make.
        let before = session.accounts(&self.username, "").await?;
        if !before.assumed && !before.list.is_empty() {
            return Err(TargetError::Plan(format!("a user {:?} exists already: it was not touched", self.username)));
        }
        let statements = prepared(&self.core, session, &self.statements, &self.password, None)?;
        Ok((statements, before.assumed))
    }

    /// Says what to do about refusals that hashes bring about.
    fn explained(fault: Fault) -> Fault {
        match fault {
            Fault::Answer { number: 1290, state, message } if message.contains("strict-password-validation") => {
                let message = format!("{message}; set password_hashing=none to let the server see and judge passwords");
                Fault::Answer { number: 1290, state, message }
            }
            other => other,
        }
    }
}

/// True for a statement whose success proves that its user is new.
fn creates_user(statement: &str) -> bool {
    behind(statement, &["create", "user"]).is_some_and(|rest| behind(rest, &["if"]).is_none())
}

/// True if the success of these statements proves that there is a user of this name: one makes it, and the others grant.
/// Anything else may have taken it away again.
fn shows_the_user(statements: &[Hashed], username: &str) -> bool {
    let makes = |statement: &Hashed| creates(statement.text.expose(), username);
    let grants = |statement: &Hashed| behind(statement.text.expose(), &["grant"]).is_some();
    statements.iter().any(makes) && statements.iter().all(|statement| makes(statement) || grants(statement))
}

/// True for a statement whose success proves that there is a user of this name.
fn creates(statement: &str, username: &str) -> bool {
    let Some(rest) = behind(statement, &["create", "user"]) else { return false };
    let rest = behind(rest, &["if", "not", "exists"]).unwrap_or(rest);
    // As it is filled in.
    let name = rest.strip_prefix(&literal(username));
    name.is_some_and(|rest| rest.is_empty() || rest.starts_with(['@', ' ', '\n']))
}

/// What follows these words at the beginning of a statement.
fn behind<'a>(statement: &'a str, words: &[&str]) -> Option<&'a str> {
    words.iter().try_fold(statement.trim_ascii_start(), |rest, word| {
        let (first, rest) = rest.split_at_checked(word.len())?;
        let ends = rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_whitespace());
        (first.eq_ignore_ascii_case(word) && ends).then(|| rest.trim_ascii_start())
    })
}

/// Hashes in the place of passwords, by the settings and the server; `own` is the plugin that the user has already.
pub fn prepared(
    core: &Core,
    session: &Session,
    statements: &[Secret],
    password: &Secret,
    own: Option<super::server::Plugin>,
) -> Result<Vec<Hashed>, TargetError> {
    let server = &session.server;
    let by_default = match core.settings.hashing {
        Hashing::Server => own.or(server.default_plugin),
        Hashing::With(plugin) if server.plugins.contains(&plugin) => Some(plugin),
        Hashing::With(plugin) => {
            return Err(TargetError::Plan(format!(
                "password_hashing={0}: the server has no active plugin {0}",
                plugin.name()
            )));
        }
        Hashing::Off => {
            let plain = |text: &Secret| Hashed { text: text.duplicate(), plain: true, sensitive: true };
            return Ok(statements.iter().map(plain).collect());
        }
    };
    let mut all = Vec::with_capacity(statements.len());
    for (position, statement) in statements.iter().enumerate() {
        let statement =
            hashed(statement, password, server, by_default).map_err(|e| TargetError::Plan(e.to_string()))?;
        if statement.plain && core.settings.refuse_plain {
            return Err(TargetError::Plan(format!(
                "statement {} would show the server the password in clear text, and refuse_plaintext_password is set: \
                 put {{{{password}}}} right behind IDENTIFIED BY",
                position + 1
            )));
        }
        all.push(statement);
    }
    Ok(all)
}

/// Waits until a session that gave no answer is gone from its server, so that nothing it was told can still happen.
/// False if that cannot be made sure.
async fn settle(core: &Core, silent: &Session) -> bool {
    let settled = async {
        let mut session =
            Session::open_at(&core.settings, &silent.address, core.settings.limits.connect_timeout).await.ok()?;
        let admin = core.settings.username.as_str();
        let patience = core.settings.statement_timeout.min(Duration::from_secs(10));
        session.end_own_session(silent.id, admin, patience).await.ok()
    };
    silent.id != 0 && settled.await.is_some()
}

/// Removing a user that was just made.
struct Undo {
    core: Arc<Core>,
    username: String,
    rollback: Vec<Secret>,
}

impl Undo {
    /// Drops the user wherever it is, then runs the rollback statements, then looks again. `Ok` means that there is no
    /// such user.
    async fn run(&self) -> Result<(), ()> {
        let mut pause = Duration::from_millis(50);
        for attempt in 1..=UNDO_TRIES {
            match self.once().await {
                Ok(()) => return Ok(()),
                Err(e) => tracing::warn!(username = self.username, attempt, "could not undo a failed creation: {e}"),
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
        Err(())
    }

    async fn once(&self) -> Result<(), TargetError> {
        let mut session = self.core.session(Lane::End).await?;
        let host = self.core.settings.user_host.as_str();
        let found = session.accounts(&self.username, host).await?;
        session.drop_accounts(&self.username, &found).await?;
        for statement in &self.rollback {
            // They were written for a state that may not be there.
            if let Err(fault) = session.run_secret(statement).await {
                let open = fault.is_open();
                tracing::info!(username = self.username, "a rollback statement failed: {}", TargetError::from(fault));
                if open {
                    drop(session);
                    session = self.core.session(Lane::End).await?;
                }
            }
        }
        let Accounts { list, assumed } = session.accounts(&self.username, host).await?;
        session.give_back();
        if assumed || list.is_empty() {
            return Ok(());
        }
        Err(TargetError::Plan(format!("{} accounts of the user are still there", list.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_that_a_user_was_made() {
        assert!(creates_user("CREATE  user 'u'@'%'") && creates_user(" create\nUSER u"));
        assert!(!creates_user("CREATE USER IF NOT EXISTS 'u'") && !creates_user("CREATE USERS"));
        for made in ["CREATE USER 'u'@'%' IDENTIFIED BY 'x'", "create user if not exists 'u'@'%'", "CREATE USER 'u'"] {
            assert!(creates(made, "u"), "{made}");
        }
        for other in [
            "CREATE USER 'other'@'%', 'u'@'%'",
            "CREATE USER 'u''v'@'%'",
            "CREATE USER 'uv'@'%'",
            "CREATE USER u",
            "CREATE USER `u`",
            "CREATE USER",
            "CREATE OR REPLACE USER 'u'",
            "GRANT ALL ON *.* TO 'u'@'%'",
        ] {
            assert!(!creates(other, "u"), "{other}");
        }
        let shown = |texts: &[&str]| {
            let statement =
                |text: &&str| Hashed { text: Secret::new((*text).to_owned()), plain: false, sensitive: false };
            shows_the_user(&texts.iter().map(statement).collect::<Vec<_>>(), "u")
        };
        assert!(shown(&["CREATE USER 'u'@'%'", "GRANT SELECT ON app.* TO 'u'@'%'"]));
        assert!(!shown(&["CREATE USER 'u'@'%'", "DROP USER 'u'@'%'"]) && !shown(&["GRANT a TO 'u'"]) && !shown(&[]));
        assert!(creates(r"CREATE USER 'a\\''b'@'%'", r"a\'b") && !creates(r"CREATE USER 'a\'", r"a\"));
    }
}
