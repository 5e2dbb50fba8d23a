//! The one path that mints.

use std::time::SystemTime;

use super::Mount;
use super::error::Error;
use super::request::Request;
use crate::target::{Login, MintPlan, Outcome, Target};

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

/// Mints. An outcome that the target could not settle ends the user, as far as it can be reached, and is an error.
pub async fn mint(_permit: &Permit, target: &dyn Target, plan: &MintPlan, login: Login<'_>) -> Result<(), Error> {
    match target.mint(plan, login).await {
        Outcome::Done(()) => Ok(()),
        Outcome::Failed(e) => Err(Error::Failed(e.to_string())),
        Outcome::Unknown(e) => {
            tracing::error!(
                username = plan.username,
                role = plan.marker.role,
                request = plan.marker.request,
                "a mint could not be settled; its marker ends the login at the target: {e}"
            );
            Err(Error::Failed(e.to_string()))
        }
    }
}
