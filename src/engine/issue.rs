//! The one path that mints.

mod repeat;

use std::time::SystemTime;

use super::end::Doomed;
use super::end::wishes::Wishes;
use super::error::Error;
use super::intent::{self, Intent};
use super::request::{Fields, Request};
use super::transit::{self, Underway};
use super::{Mount, end};
use crate::target::{Driver, Login, MintPlan, Outcome, Target, TargetError};

/// Leave to mint one credential for one caller until a certain time. Only [`authorize`] makes one, and nothing is
/// minted without one.
#[derive(Debug)]
pub struct Permit {
    request_id: String,
    entity_id: String,
    display_name: String,
    until: SystemTime,
}

impl Permit {
    /// The host's id of the request.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The caller's entity, empty if the token has none.
    pub fn entity_id(&self) -> &str {
        &self.entity_id
    }

    /// The caller's display name.
    pub fn display_name(&self) -> &str {
        &self.display_name
    }

    /// When the credential ends.
    pub fn until(&self) -> SystemTime {
        self.until
    }
}

/// Judges whether the caller may have a credential of `role` until `until`. That the host let the request through is
/// the first half of the answer; that the connection allows the role has been seen by the caller of this function.
///
/// # Errors
/// [`Error::Refused`] if the lease would end before it begins.
pub fn authorize(mount: &Mount, role: &str, request: &Request, until: SystemTime) -> Result<Permit, Error> {
    if until <= mount.ports.clock.now() {
        return Err(Error::Refused(format!("role {role:?} has no time left: its max_ttl or the mount's is too short")));
    }
    Ok(Permit {
        request_id: request.id.clone(),
        entity_id: request.caller.entity_id.clone(),
        display_name: request.caller.display_name.clone(),
        until,
    })
}

/// Where a user is minted.
pub struct Site<'a> {
    /// Name of the connection.
    pub db_name: &'a str,
    /// Its kind.
    pub driver: Driver,
    /// The target itself.
    pub target: &'a dyn Target,
    /// What ends the user.
    pub revocation: &'a [String],
    /// And how.
    pub wishes: Wishes,
}

/// Mints, and gives back what the host is to keep with the lease. At a target that keeps no marker the [`intent`] is
/// written first. An outcome that the target could not settle is an error; what is left of it is looked for afterwards.
pub async fn mint(
    mount: &Mount,
    _permit: &Permit,
    site: &Site<'_>,
    plan: &mut MintPlan,
    login: Login<'_>,
) -> Result<(Fields, Underway), Error> {
    let underway = transit::begin(mount, site.db_name, &plan.marker.request);
    let made = if site.driver.keeps_marker() {
        marked(mount, site, plan, login).await
    } else {
        noted(mount, site, plan, login).await
    };
    match made {
        Ok(internal) => Ok((internal, underway)),
        Err(Unmade::Certain(e)) => {
            transit::arrived(mount, &underway);
            Err(e)
        }
        Err(Unmade::Unknown(e)) => {
            tracing::error!(
                username = plan.username,
                role = plan.marker.role,
                request = plan.marker.request,
                "a mint could not be settled; what there is of it is looked for: {e}"
            );
            transit::lost(mount, &underway);
            Err(Error::Failed(e.to_string()))
        }
    }
}

/// Why there is no credential.
enum Unmade {
    /// There is no user, or its end is seen to.
    Certain(Error),
    /// There may be one.
    Unknown(TargetError),
}

impl From<Error> for Unmade {
    fn from(e: Error) -> Self {
        Self::Certain(e)
    }
}

async fn marked(mount: &Mount, site: &Site<'_>, plan: &mut MintPlan, login: Login<'_>) -> Result<Fields, Unmade> {
    let mut outcome = site.target.mint(plan, login).await;
    if let Outcome::Failed(TargetError::Repeated) = outcome {
        repeat::end_marked(mount, site, plan).await?;
        plan.repeats = false;
        outcome = site.target.mint(plan, login).await;
    }
    match outcome {
        Outcome::Done(()) => Ok(intent::lease(&site.doomed(plan, None))),
        Outcome::Failed(e) => Err(Unmade::Certain(Error::Failed(e.to_string()))),
        Outcome::Unknown(e) => Err(Unmade::Unknown(e)),
    }
}

async fn noted(mount: &Mount, site: &Site<'_>, plan: &MintPlan, login: Login<'_>) -> Result<Fields, Unmade> {
    if plan.repeats {
        repeat::end_noted(mount, &plan.marker.request).await?;
    }
    let storage = mount.ports.storage.as_ref();
    let mut note = Intent::new(mount, plan, site);
    let key = intent::key_of(&plan.marker.request)?;
    // Who finds the note leaves it alone for as long as we are at it, however long that is.
    let _lock = mount.rotation.locks.hold(&key).await;
    note.store(storage, &key).await?;
    match site.target.mint(plan, login).await {
        Outcome::Done(()) => {}
        Outcome::Failed(e) => {
            intent::forget(mount, &key).await;
            return Err(Unmade::Certain(Error::Failed(e.to_string())));
        }
        Outcome::Unknown(e) => {
            mount.rotation.queue.plan(&key, site.db_name, note.due());
            return Err(Unmade::Unknown(e));
        }
    }
    note.is_made(mount.ports.clock.now());
    if let Err(e) = note.store(storage, &key).await {
        mount.rotation.queue.plan(&key, site.db_name, note.due());
        if let Err(why) = end::end(mount, note.doomed(&key)).await {
            tracing::error!(username = plan.username, "a user without a note could not be ended: {why}");
        }
        return Err(e.into());
    }
    mount.rotation.queue.plan(&key, site.db_name, note.due());
    Ok(intent::lease(&note.doomed(&key)))
}

impl Site<'_> {
    /// What ends the user of this plan.
    pub fn doomed(&self, plan: &MintPlan, note: Option<String>) -> Doomed {
        Doomed {
            username: plan.username.clone(),
            role: plan.marker.role.clone(),
            db_name: self.db_name.to_owned(),
            entity: plan.marker.entity.clone(),
            revocation: self.revocation.to_vec(),
            wishes: self.wishes.clone(),
            note,
        }
    }
}
