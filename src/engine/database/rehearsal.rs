//! `roles/:name/test`, and `validate=true` on a role: a user that nobody gets, made and ended.

use std::time::Duration;

use serde_json::json;

use super::creds::{self, Purpose};
use super::role::Role;
use crate::engine::end::{self, Doomed};
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent};
use crate::engine::issue::Site;
use crate::engine::lease::{MountTerms, Terms};
use crate::engine::request::{Reply, Response};
use crate::engine::{Mount, marker};
use crate::secret::password;
use crate::target::{LoginError, Outcome, Rehearsal, Script};

/// What stands for the caller in the name of the user.
const DISPLAY_NAME: &str = "test";
/// How long a user of a test lives if nobody can end it.
const LIFE: Duration = Duration::from_secs(60);

/// What a test showed.
pub struct Tried {
    /// In a transaction that was rolled back; otherwise the user was real.
    rolled_back: bool,
    /// It logged in.
    logged_in: bool,
    username: String,
    milliseconds: u64,
}

/// POST `roles/:name/test`.
pub async fn test(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let role = Role::load(mount, name).await?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    let tried = rehearse(mount, name, &role).await?;
    Ok(Some(Response::data([
        ("logged_in", json!(tried.logged_in)),
        ("milliseconds", json!(tried.milliseconds)),
        ("rolled_back", json!(tried.rolled_back)),
        ("username", json!(tried.username)),
    ])))
}

/// Makes a user of the role and ends it. No permit is asked for: nobody gets what would open it.
///
/// # Errors
/// Which step failed. A user that could not be ended is a remnant, and the text says so.
pub async fn rehearse(mount: &Mount, name: &str, role: &Role) -> Result<Tried, Error> {
    let begun = mount.ports.clock.steady();
    let connection = creds::allowed(mount, name, &role.db_name).await?;
    creds::fits(role, &connection)?;
    let now = mount.ports.clock.now();
    let until = Terms::of(role, MountTerms::ask(mount).await?).at_issue(now).min(now + LIFE);
    let purpose = Purpose {
        display_name: DISPLAY_NAME,
        request_id: "",
        entity_id: "",
        grant_id: "",
        params: None,
        recorded: false,
        until,
    };
    let mut plan = creds::plan(mount, name, role, &connection, &purpose)?;
    if connection.driver.keeps_marker() {
        plan.marker = marker::sealed(mount, &plan.username, plan.marker).await?;
    }
    let made = creds::make(mount, name, role, &connection, DISPLAY_NAME, &plan).await?;
    let dialect = connection.driver.dialect();
    let rehearsal = Rehearsal {
        mint: plan,
        renew: Script::parse(&role.statements.renewal, dialect),
        revocation: Script::parse(&role.statements.revocation, dialect),
    };
    let mut tried =
        Tried { rolled_back: true, logged_in: false, username: rehearsal.mint.username.clone(), milliseconds: 0 };
    match connection.target.rehearse(&rehearsal, made.login()).await {
        Some(rehearsed) => rehearsed.map_err(|e| Error::Failed(e.to_string()))?,
        None => {
            let site = creds::site(role, &connection);
            tried.rolled_back = false;
            tried.logged_in = for_real(mount, &site, &rehearsal, made.login()).await?;
        }
    }
    let took = mount.ports.clock.steady().saturating_sub(begun);
    tried.milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Ok(tried)
}

/// A real user, with a note before it that ends it whatever becomes of this process. True if it could log in.
async fn for_real(
    mount: &Mount,
    site: &Site<'_>,
    rehearsal: &Rehearsal,
    login: crate::target::Login<'_>,
) -> Result<bool, Error> {
    let storage = mount.ports.storage.as_ref();
    let plan = &rehearsal.mint;
    let note = Intent::new(mount, plan, site);
    let key = intent::key_of(&password::base62(16).map_err(|e| Error::Failed(e.to_string()))?)?;
    let _lock = mount.rotation.locks.hold(&key).await;
    note.store(storage, &key).await?;
    mount.rotation.queue.plan(&key, site.db_name, note.due());
    match site.target.mint(plan, login).await {
        Outcome::Done(()) => {}
        Outcome::Failed(e) => {
            intent::forget(mount, &key).await;
            return Err(Error::Failed(format!("creation_statements: {e}")));
        }
        // The note sees to what there is of it.
        Outcome::Unknown(e) => return Err(Error::Failed(format!("creation_statements: {e}"))),
    }
    let logged_in = match login.password() {
        Some(password) => Some(site.target.login(&plan.username, password).await),
        None => None,
    };
    let doomed = Doomed { note: Some(key.clone()), ..note.doomed(&key) };
    let ended = end::end(mount, doomed).await?;
    if let Some(left) = ended.left.first() {
        return Err(Error::Failed(format!(
            "revocation_statements: {} is left: {}; see remnants/",
            left.object, left.reason
        )));
    }
    match logged_in {
        None => Ok(false),
        Some(Ok(())) => Ok(true),
        Some(Err(LoginError::Refused(e))) => {
            Err(Error::Failed(format!("creation_statements: the user cannot log in with its password: {e}")))
        }
        // From here; a user may be for clients elsewhere.
        Some(Err(LoginError::Barred(_) | LoginError::Unreachable(_))) => Ok(false),
    }
}
