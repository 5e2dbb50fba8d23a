//! A request that was carried out before.
//!
//! When a plugin process dies, its host sends what it had not answered yet to the next one, under the same id. The user
//! that the dead process may have made for it is nobody's: its password was in that process only. It is ended before
//! another is made.

use super::Site;
use crate::engine::end::{self, Doomed};
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent};
use crate::engine::{Mount, marker};
use crate::target::MintPlan;

/// Ends users whose marker names the request of this plan. Nobody is making one any more.
///
/// # Errors
/// If they could not be looked for. One that could not be ended is a remnant, and no reason to refuse the request.
pub async fn end_marked(mount: &Mount, site: &Site<'_>, plan: &MintPlan) -> Result<(), Error> {
    let marked = site.target.marked(&mount.id).await.map_err(|e| Error::Failed(e.to_string()))?;
    for found in marked.into_iter().filter(|found| found.marker.request == plan.marker.request) {
        if marker::is_ours(mount, &found.username, &found.marker).await? {
            let user = Doomed {
                username: found.username,
                role: found.marker.role,
                db_name: site.db_name.to_owned(),
                entity: found.marker.entity,
                ..Doomed::default()
            };
            end_it(mount, user, &plan.marker.request).await;
        }
    }
    Ok(())
}

/// Ends users whose note names the request.
///
/// # Errors
/// If storage refuses. One that could not be ended is a remnant, and no reason to refuse the request.
pub async fn end_noted(mount: &Mount, request: &str) -> Result<(), Error> {
    for key in intent::of_request(mount, request).await? {
        if let Some(note) = Intent::load(mount.ports.storage.as_ref(), &key).await? {
            end_it(mount, note.doomed_now(&key), request).await;
        }
    }
    Ok(())
}

async fn end_it(mount: &Mount, user: Doomed, request: &str) {
    tracing::warn!(
        username = user.username,
        role = user.role,
        request,
        "ending the user of a request that came again: the process that made it has died"
    );
    if let Err(trouble) = end::end(mount, user).await {
        tracing::warn!(request, "it is tried again: {trouble}");
    }
}
