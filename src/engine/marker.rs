//! The markers that users carry: who made them, sealed, so that a comment which somebody else wrote is not taken for ours.

use super::Mount;
use super::error::Error;
use crate::secret::{Secret, password, seal};
use crate::target::Marker;

/// Where the key of the seals is. It is made with the mount's first user.
const KEY: &str = "key/marker";

/// The marker with its seal.
///
/// # Errors
/// [`Error::Failed`] if storage refuses.
pub async fn sealed(mount: &Mount, username: &str, mut marker: Marker) -> Result<Marker, Error> {
    marker.seal = seal::of(key(mount).await?, &texts(username, &marker, &marker.begun.to_string()));
    Ok(marker)
}

/// Whether this mount wrote the marker, for this user.
///
/// # Errors
/// [`Error::Failed`] if storage refuses.
pub async fn is_ours(mount: &Mount, username: &str, marker: &Marker) -> Result<bool, Error> {
    if marker.mount != mount.id || marker.seal.is_empty() {
        return Ok(false);
    }
    Ok(seal::holds(key(mount).await?, &texts(username, marker, &marker.begun.to_string()), &marker.seal))
}

/// All that does not change while the user lives.
fn texts<'a>(username: &'a str, marker: &'a Marker, begun: &'a str) -> [&'a str; 7] {
    [&marker.mount, username, &marker.role, &marker.request, &marker.entity, &marker.connection, begun]
}

async fn key(mount: &Mount) -> Result<&Secret, Error> {
    let storage = mount.ports.storage.as_ref();
    let made = async {
        if let Some(key) = storage.get(KEY).await? {
            return Ok(key);
        }
        let fresh = password::base62(43).map_err(|e| Error::Failed(e.to_string()))?;
        storage.put(KEY, &Secret::new(fresh), true).await?;
        // What is there counts, whoever wrote it.
        storage.get(KEY).await?.ok_or_else(|| Error::Failed("storage keeps no key for markers".into()))
    };
    mount.seals.get_or_try_init(|| made).await
}
