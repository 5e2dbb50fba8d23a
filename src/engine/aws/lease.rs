//! Leases: prolonged for users, ended for both.

use std::time::Duration;

use serde_json::Value;

use super::denial::{self, Denial};
use super::{config, user};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent, unix_seconds};
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
    let ((ttl, max_ttl), bounds) = tokio::try_join!(config::lease(mount), MountTerms::ask(mount))?;
    let until = Terms::bounded(ttl, max_ttl, bounds).at_renew(mount.ports.clock.now(), lease.issued, lease.increment);
    if let Some(key) = note {
        // First: a note that ends later than its user does no harm.
        let storage = mount.ports.storage.as_ref();
        let mut note = Intent::load(storage, &key)
            .await?
            .ok_or_else(|| Error::Failed("the user of this lease has been ended: read a new one".into()))?;
        note.expires = unix_seconds(until);
        note.store(storage, &key).await?;
        mount.rotation.queue.plan(&key, &key, note.due());
    }
    let grant = LeaseGrant { ttl, max_ttl, renewable: true, internal: lease.internal.clone() };
    Ok(Some(Response { lease: Some(grant), ..Response::default() }))
}

/// Revoke, asked by the host's lease manager.
pub async fn revoke(mount: &Mount, lease: &LeaseRef) -> Reply {
    let now = mount.ports.clock.now();
    let young = lease.issued.is_some_and(|at| now.duration_since(at).unwrap_or_default() < GROWN_UP);
    end(mount, &lease.internal, young).await?;
    Ok(None)
}

async fn end(mount: &Mount, internal: &Fields, may_be_young: bool) -> Result<(), Error> {
    match Leased::of(internal)? {
        Leased::User { username, note } => {
            user::end(mount, &username, may_be_young).await?;
            if let Some(key) = note {
                intent::forget(mount, &key).await;
            }
            Ok(())
        }
        Leased::Session { denial: Some(denial) } => denial::deny(mount, denial).await,
        Leased::Session { denial: None } => Ok(()),
    }
}

/// A credential that was made and reached nobody. A user that cannot be ended now is ended by its note as soon as it can.
///
/// # Errors
/// If it could not be ended now.
pub async fn unwanted(mount: &Mount, internal: &Fields) -> Result<(), Error> {
    let Err(error) = end(mount, internal, false).await else { return Ok(()) };
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
