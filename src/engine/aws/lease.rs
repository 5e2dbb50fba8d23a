//! Leases: prolonged for users, ended for both.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::denial::{self, Denial};
use super::role::Role;
use super::{config, user};
use crate::engine::Mount;
use crate::engine::access::ending::REQUEST_FIELD;
use crate::engine::end::Report;
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent, unix_seconds};
use crate::engine::issue;
use crate::engine::lease::{MountTerms, Terms};
use crate::engine::request::{Fields, LeaseGrant, LeaseRef, Reply, Response};

/// From this age on, a user that is not to be seen is not there. The built-in engine's figure.
const GROWN_UP: Duration = Duration::from_secs(300);

/// What a lease of this engine, or of a built-in one, is of.
enum Leased {
    User { username: String, note: Option<String> },
    Session { denial: Option<Denial> },
}

impl Leased {
    fn of(internal: &Fields) -> Result<Self, Error> {
        // A lease from before there were sessions says nothing.
        let is_session = match internal.get("is_sts") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(is_session)) => *is_session,
            Some(_) => return Err(Error::Failed("secret has is_sts but value could not be understood".into())),
        };
        let text = |key: &str| internal.get(key).and_then(Value::as_str).map(str::to_owned);
        if is_session {
            return Ok(Self::Session { denial: internal.get(denial::LEASE_FIELD).map(Denial::decode).transpose()? });
        }
        let username =
            text("username").ok_or_else(|| Error::Failed("secret is missing username internal data".into()))?;
        let note = text(intent::LEASE_FIELD).filter(|key| key.starts_with(user::PREFIX));
        Ok(Self::User { username, note })
    }
}

/// Renew, asked by the host's lease manager. A session cannot be prolonged: the host does not ask.
pub async fn renew(mount: &Mount, lease: &LeaseRef) -> Reply {
    let Leased::User { note, .. } = Leased::of(&lease.internal)? else { return Ok(None) };
    let ((mut ttl, mut max_ttl), bounds) = tokio::try_join!(config::lease(mount), MountTerms::ask(mount))?;
    let until = Terms::bounded(ttl, max_ttl, bounds).at_renew(mount.ports.clock.now(), lease.issued, lease.increment);
    if let Some(key) = note {
        // First: a note that ends later than its user does no harm.
        let storage = mount.ports.storage.as_ref();
        let mut note = Intent::load(storage, &key)
            .await?
            .ok_or_else(|| Error::Failed("the user of this lease has been ended: read a new one".into()))?;
        let gate = Role::load(mount, &note.role).await?.map(|role| role.gate).unwrap_or_default();
        let extension = issue::prolong(mount, &note.role, &gate, lease, until).await?;
        (ttl, max_ttl) = extension.lease(mount, lease, ttl, max_ttl);
        let until = extension.until();
        note.expires = unix_seconds(until);
        note.store(storage, &key).await?;
        mount.rotation.queue.plan(&key, &key, note.due());
    }
    let grant = LeaseGrant { ttl, max_ttl, renewable: true, internal: lease.internal.clone() };
    Ok(Some(Response { lease: Some(grant), ..Response::default() }))
}

/// Revoke, asked by the host's lease manager.
pub async fn revoke(mount: &Mount, lease: &LeaseRef) -> Result<Report, Error> {
    let now = mount.ports.clock.now();
    let young = lease.issued.is_some_and(|at| now.duration_since(at).unwrap_or_default() < GROWN_UP);
    finish(mount, &lease.internal, young).await
}

/// Ends what was issued of a grant, whose lease goes on. A user that is still noted and young may not be seen yet.
pub async fn end(mount: &Mount, internal: &Fields) -> Result<Report, Error> {
    let mut young = false;
    if let Leased::User { note: Some(key), .. } = Leased::of(internal)?
        && let Some(note) = Intent::load(mount.ports.storage.as_ref(), &key).await?
    {
        young = unix_seconds(mount.ports.clock.now()).saturating_sub(note.begun) < GROWN_UP.as_secs();
    }
    finish(mount, internal, young).await
}

async fn finish(mount: &Mount, internal: &Fields, may_be_young: bool) -> Result<Report, Error> {
    match Leased::of(internal)? {
        Leased::User { username, note } => {
            // What the grant has ended, the lease finds gone.
            let gone = internal.contains_key(REQUEST_FIELD) && !is_noted(mount, note.as_deref()).await?;
            let report = user::end(mount, &username, may_be_young && !gone).await?;
            if let Some(key) = note {
                intent::forget(mount, &key).await;
            }
            Ok(report)
        }
        Leased::Session { denial: Some(denial) } => {
            let begun = Instant::now();
            let lived = denial::deny(mount, denial).await?;
            // AWS has the denial; that each of its servers knows of it, nobody can see.
            Ok(Report::whole(lived, begun.elapsed(), lived))
        }
        Leased::Session { denial: None } => Ok(Report::whole(false, Duration::ZERO, true)),
    }
}

async fn is_noted(mount: &Mount, note: Option<&str>) -> Result<bool, Error> {
    match note {
        Some(key) => Ok(Intent::load(mount.ports.storage.as_ref(), key).await?.is_some()),
        None => Ok(true),
    }
}

/// A credential that was made and reached nobody. A user that cannot be ended now is ended by its note as soon as it can.
///
/// # Errors
/// If it could not be ended now.
pub async fn unwanted(mount: &Mount, internal: &Fields) -> Result<Report, Error> {
    let error = match finish(mount, internal, false).await {
        Ok(report) => return Ok(report),
        Err(e) => e,
    };
    let storage = mount.ports.storage.as_ref();
    if let Leased::User { note: Some(key), .. } = Leased::of(internal)?
        && let Ok(Some(note)) = Intent::load(storage, &key).await
    {
        mount.rotation.queue.failed(&key, &key, mount.ports.clock.now(), &error.to_string());
        if let Err(e) = (Intent { made: false, ..note }).store(storage, &key).await {
            tracing::warn!(record = key, "the note of a user that nobody has still says that somebody does: {e}");
        }
    }
    Err(error)
}
