//! The one path that mints.

mod repeat;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::access::Gate;
use super::access::ending::REQUEST_FIELD;
use super::access::gate::{self, Use};
use super::caps::Place;
use super::end::Doomed;
use super::end::wishes::Wishes;
use super::error::Error;
use super::intent::{self, Intent};
use super::meter::{self, Work};
use super::request::{Datum, Fields, LeaseRef, Request};
use super::transit::{self, Underway};
use super::{Kind, Mount, end};
use crate::target::{Driver, Login, MintPlan, Outcome, Target, TargetError};

/// Leave to mint one credential for one caller until a certain time. Only [`authorize`] makes one, and [`drill`] one for
/// nobody; nothing is minted without one.
#[derive(Debug)]
pub struct Permit {
    request_id: String,
    entity_id: String,
    display_name: String,
    until: SystemTime,
    /// Of a gated role: the use of a grant.
    grant: Option<Use>,
}

impl Permit {
    /// The host's id of the request.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The id of the request for access that it is a use of; empty for a role that is not gated.
    pub fn grant_id(&self) -> &str {
        self.grant.as_ref().map_or("", Use::request_id)
    }

    /// The caller's entity, empty if the token has none.
    pub fn entity_id(&self) -> &str {
        &self.entity_id
    }

    /// What stands for the caller in names: the display name; of a gated role, a part of its request's id.
    pub fn display_name(&self) -> &str {
        self.grant.as_ref().map_or(&self.display_name, Use::short_id)
    }

    /// When the credential ends.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// What narrows the role, if it is gated.
    pub fn params(&self) -> Option<&BTreeMap<String, String>> {
        self.grant.as_ref().map(Use::params)
    }

    /// Whether what the user does should be in the target's log.
    pub fn wants_record(&self) -> bool {
        self.grant.as_ref().is_some_and(Use::wants_record)
    }

    /// Whether it will be.
    pub fn is_recorded(&self) -> bool {
        self.grant.as_ref().is_some_and(Use::is_recorded)
    }

    /// Tells what the target says of that; may bring the end nearer.
    ///
    /// # Errors
    /// 503 if there is no credential without it.
    pub fn record(&mut self, able: Result<(), String>, now: SystemTime) -> Result<(), Error> {
        if let Some(grant) = &mut self.grant {
            grant.record(able, now)?;
            self.until = self.until.min(grant.bound());
        }
        Ok(())
    }

    /// Brings the end nearer where the target is slow to let go of users, if the policy of the role says so.
    ///
    /// # Errors
    /// If what is known of that cannot be read.
    pub async fn pace(&mut self, mount: &Mount, target: &str) -> Result<(), Error> {
        if let Some(grant) = &mut self.grant {
            grant.pace(mount, target).await?;
            self.until = self.until.min(grant.bound());
        }
        Ok(())
    }

    /// What the answer says of the grant; nothing for a role that is not gated.
    pub async fn answer(&self, mount: &Mount) -> Vec<(String, Datum)> {
        match &self.grant {
            Some(grant) => grant.answer(mount).await,
            None => Vec::new(),
        }
    }

    /// The times of the lease: the role's own, cut to the grant.
    pub fn lease(&self, mount: &Mount, ttl: Duration, max_ttl: Duration) -> (Duration, Duration) {
        match &self.grant {
            Some(grant) => (left(mount, self.until), left(mount, grant.bound())),
            None => (ttl, max_ttl),
        }
    }
}

/// At least a second: none at all would mean the mount's default to the host.
fn left(mount: &Mount, until: SystemTime) -> Duration {
    until.duration_since(mount.ports.clock.now()).unwrap_or_default().max(Duration::from_secs(1))
}

/// Judges whether the caller may have a credential of `role` until `until`. That the host let the request through is
/// the first half of the answer; that the connection allows the role has been seen by the caller of this function. Of a
/// gated role the caller needs a grant, and until the permit is dropped nobody else uses that.
///
/// # Errors
/// [`Error::Refused`] if the lease would end before it begins; coded ones if there is no grant.
pub async fn authorize(
    mount: &Mount,
    role: &str,
    gate: &Gate,
    request: &Request,
    until: SystemTime,
) -> Result<Permit, Error> {
    let mut grant =
        if gate.jit_policy.is_empty() { None } else { Some(gate::enter(mount, role, gate, request).await?) };
    if let Some(grant) = grant.as_mut().filter(|grant| mount.kind == Kind::Aws && grant.wants_record()) {
        let why = "an AWS mount does not ask whether a trail records what its credentials do";
        grant.record(Err(why.into()), mount.ports.clock.now())?;
    }
    permitted(mount, role, request, until, grant)
}

/// Leave to mint one credential of a gated role that nobody gets: whoever calls ends it before it answers anybody.
///
/// # Errors
/// If the role is frozen, has no time left, or the drill cannot be written down.
pub async fn drill(
    mount: &Mount,
    role: &str,
    gate: &Gate,
    request: &Request,
    params: BTreeMap<String, String>,
    until: SystemTime,
) -> Result<Permit, Error> {
    let grant = gate::drill(mount, role, gate, params, request).await?;
    permitted(mount, role, request, until, Some(grant))
}

fn permitted(
    mount: &Mount,
    role: &str,
    request: &Request,
    until: SystemTime,
    grant: Option<Use>,
) -> Result<Permit, Error> {
    let until = grant.as_ref().map_or(until, |grant| until.min(grant.bound()));
    if until <= mount.stamp() {
        return Err(Error::Refused(format!("role {role:?} has no time left: its max_ttl or the mount's is too short")));
    }
    Ok(Permit {
        request_id: request.id.clone(),
        entity_id: request.caller.entity_id.clone(),
        display_name: request.caller.display_name.clone(),
        until,
        grant,
    })
}

/// Leave to prolong one credential. Only [`prolong`] makes one.
#[derive(Debug)]
pub struct Extension {
    until: SystemTime,
    bounded: bool,
}

impl Extension {
    /// Until when.
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// The new times of the lease: the role's own, cut to the grant. The longest counts from the issue.
    pub fn lease(&self, mount: &Mount, lease: &LeaseRef, ttl: Duration, max_ttl: Duration) -> (Duration, Duration) {
        if !self.bounded {
            return (ttl, max_ttl);
        }
        let issued = lease.issued.unwrap_or_else(|| mount.ports.clock.now());
        let longest = self.until.duration_since(issued).unwrap_or_default().max(Duration::from_secs(1));
        (left(mount, self.until), longest)
    }
}

/// Judges whether a credential may live until `until`.
///
/// # Errors
/// Coded ones if its grant is over, or if its role is gated by now and it has none.
pub async fn prolong(
    mount: &Mount,
    role: &str,
    gate: &Gate,
    lease: &LeaseRef,
    until: SystemTime,
) -> Result<Extension, Error> {
    if gate.jit_policy.is_empty() && !lease.internal.contains_key(REQUEST_FIELD) {
        return Ok(Extension { until, bounded: false });
    }
    let until = gate::prolong(mount, role, gate, &lease.internal, until).await?;
    Ok(Extension { until, bounded: true })
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

/// Mints, and gives back what the host is to keep with the lease. Of a gated role the use is in the record before the
/// target hears of it, and that it was made before the caller does: no record, no credential.
pub async fn mint(
    mount: &Mount,
    permit: &Permit,
    site: &Site<'_>,
    plan: &mut MintPlan,
    login: Login<'_>,
    place: Option<Place>,
) -> Result<(Fields, Underway), Error> {
    let (name, named) = (plan.username.clone(), intent::lease(&site.doomed(plan, None)));
    let ended = |underway: Underway, is_ended| {
        if is_ended { transit::arrived(mount, &underway) } else { transit::lost(mount, &underway) }
    };
    recorded(mount, permit, &name, named, made(mount, site, plan, login, place), ended).await
}

/// Makes a credential that is called `name`. Of a gated role the use is in the record before, with `planned`, which is enough
/// to end whatever may come of it; and that it was made is there before this returns. What is not in the record is ended,
/// and `ended` is told with what was made whether that went well.
///
/// # Errors
/// Those of `make`, and if the record cannot be written.
pub async fn recorded<T>(
    mount: &Mount,
    permit: &Permit,
    name: &str,
    planned: Fields,
    make: impl Future<Output = Result<(Fields, T), Error>>,
    ended: impl FnOnce(T, bool),
) -> Result<(Fields, T), Error> {
    let Some(grant) = &permit.grant else { return make.await };
    grant.begin(mount, name, planned, permit.until).await?;
    let (mut internal, made) = match make.await {
        Ok(made) => made,
        Err(e) => {
            grant.failed(mount, &e.to_string()).await;
            return Err(e);
        }
    };
    if let Err(e) = grant.done(mount, &mut internal).await {
        let end = mount.end_credential(&internal).await;
        if let Err(why) = &end {
            tracing::error!(name, "a credential that is not in the record could not be ended: {why}");
        }
        ended(made, end.is_ok());
        grant.failed(mount, "the record could not be written").await;
        return Err(e);
    }
    Ok((internal, made))
}

/// At a target that keeps no marker the [`intent`] is written first. An outcome that the target could not settle is an
/// error; what is left of it is looked for afterwards.
async fn made(
    mount: &Mount,
    site: &Site<'_>,
    plan: &mut MintPlan,
    login: Login<'_>,
    place: Option<Place>,
) -> Result<(Fields, Underway), Error> {
    let underway = transit::begin(mount, site.db_name, &plan.marker.request);
    let made = if site.driver.keeps_marker() {
        marked(mount, site, plan, login).await
    } else {
        noted(mount, site, plan, login).await
    };
    if let Some(place) = place.filter(|_| !matches!(made, Err(Unmade::Certain(_)))) {
        place.keep();
    }
    match made {
        Ok(internal) => Ok((internal, underway)),
        Err(Unmade::Certain(e)) => {
            transit::unmade(mount, &underway);
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
    let mut outcome = at_target(mount, site, plan, login).await;
    if let Outcome::Failed(TargetError::Repeated) = outcome {
        repeat::end_marked(mount, site, plan).await?;
        plan.repeats = false;
        outcome = at_target(mount, site, plan, login).await;
    }
    match outcome {
        Outcome::Done(()) => Ok(intent::lease(&site.doomed(plan, None))),
        Outcome::Failed(e) if e.is_unrecorded() => {
            Err(Unmade::Certain(Error::Coded(503, format!("jit_recording_unavailable: {e}"))))
        }
        Outcome::Failed(e) => Err(Unmade::Certain(Error::Failed(e.to_string()))),
        Outcome::Unknown(e) => Err(Unmade::Unknown(e)),
    }
}

async fn at_target(mount: &Mount, site: &Site<'_>, plan: &MintPlan, login: Login<'_>) -> Outcome<()> {
    let why = |outcome: &Outcome<()>| match outcome {
        Outcome::Done(()) | Outcome::Failed(TargetError::Repeated) => None,
        Outcome::Failed(e) | Outcome::Unknown(e) => Some(e.to_string()),
    };
    meter::timed(mount, site.db_name, Work::Mint, site.target.mint(plan, login), why).await
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
    if let Err(e) = note.store(storage, &key).await {
        // It may be there all the same.
        mount.rotation.queue.plan(&key, site.db_name, note.due());
        return Err(e.into());
    }
    match at_target(mount, site, plan, login).await {
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
    note.is_made(mount.stamp());
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
