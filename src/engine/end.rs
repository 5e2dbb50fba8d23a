//! The one path that ends a credential.

use super::error::Error;
use crate::target::{EndPlan, Ended, Target};

/// Ends a user at its target. Ending what is already gone succeeds.
///
/// # Errors
/// [`Error::Failed`], a class that the host retries: an error here must never make a lease irrevocable at once.
pub async fn end(target: &dyn Target, plan: &EndPlan, role: &str) -> Result<Ended, Error> {
    let ended = target.end(plan).await.map_err(|e| Error::Failed(e.to_string()))?;
    tracing::info!(
        username = plan.username,
        role,
        existed = ended.existed,
        sessions = ended.sessions,
        milliseconds = u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
        "ended"
    );
    Ok(ended)
}
