//! A request that nobody has filed and nobody gets anything of: what a self-test of a role goes through.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use super::file::{self, Asked, Case};
use super::identity::{Class, Who};
use super::policy::Policy;
use super::request::{AccessRequest, Mode};
use super::{Gate, config, ending, freeze, rules, token};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::request::Request;

/// How long its grant lasts: whoever died at it leaves a user for so long at most, and its request is ended before.
const LIFE: Duration = Duration::from_secs(300);

/// A request that is approved by being a drill, and its policy. Nobody is its requester, so nobody can use it.
///
/// # Errors
/// If the role is frozen, the parameters are not those of the role, or it cannot be written down.
pub async fn file(
    mount: &Mount,
    role: &str,
    gate: &Gate,
    params: BTreeMap<String, String>,
    source: &Request,
) -> Result<(AccessRequest, Policy, OwnedMutexGuard<()>), Error> {
    freeze::check(mount, role).await?;
    rules::params(&gate.params_allowed, &params)?;
    let policy = Policy::of_role(mount, role, &gate.jit_policy).await?;
    let who = Who {
        entity_id: String::new(),
        name: "self-test".into(),
        class: Class::Service,
        person: String::new(),
        aliases: Vec::new(),
        groups: std::collections::BTreeSet::new(),
        about: BTreeMap::new(),
    };
    let case = Case { role, gate, policy, who, settings: config::load(mount).await? };
    let asked = Asked { reason: "self-test".into(), params, ..Asked::default() };
    let mut request = file::drafted(&case, &asked, Mode::Drill, evidence::now(mount).await)?;
    let lock = mount.access.locks.hold(&request.id).await;
    request.uses = 1;
    request.approve(request.filed, LIFE.as_secs(), LIFE.as_secs());
    let filed = request.event("request.filed").with("actor", token(source)).with("reason", request.reason.as_str());
    let filed = filed.with("policy", json!({ "name": request.policy, "hash": request.policy_hash }));
    let decided = request.event("decision.drill").with("actor", token(source));
    request.first_event = evidence::append(mount, vec![filed, decided]).await?;
    request.last_event = request.first_event + 1;
    request.store(mount).await?;
    Ok((request, case.policy, lock))
}

/// Ends what came of it. Whoever calls has what [`file`] gave.
///
/// # Errors
/// If something could not be contained or written down: it is tried again until it is.
pub async fn end(mount: &Mount, role: &str, id: &str) -> Result<(), Error> {
    let Some(mut request) = AccessRequest::load(mount, role, id).await? else { return Ok(()) };
    if request.state.is_over() {
        return Ok(());
    }
    ending::end(mount, &mut request, "drill", "", None).await
}
