//! Filing a request.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::cedar::{Action, Judged};
use super::config::Settings;
use super::identity::{Class, Who};
use super::policy::Policy;
use super::preapproval::Preapproval;
use super::request::{AccessRequest, Mode, State, Vote, new_id};
use super::rules::{self, Act, Said};
use super::{Gate, campaign, cedar, ending, hook, repeat};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::intent::unix_seconds;
use crate::engine::request::Request;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Why.
    pub reason: String,
    /// The ticket.
    pub ticket: String,
    /// What for.
    pub purpose: String,
    /// How long each credential is to last, in seconds; 0: as role and policy say.
    pub ttl: u64,
    /// What narrows the role.
    pub params: BTreeMap<String, String>,
}

/// A role that is gated, its policy, and who asks for it.
pub struct Case<'a> {
    /// The role.
    pub role: &'a str,
    /// What the role says of access.
    pub gate: &'a Gate,
    /// Its policy.
    pub policy: Policy,
    /// Who asks.
    pub who: Who,
    /// The mount's settings.
    pub settings: std::sync::Arc<Settings>,
}

/// Files a request, or finds the one that asks for the same and is open. Whoever calls holds the lock of role and entity.
///
/// # Errors
/// If the policy does not let the caller ask, the request says too little, or there were too many.
pub async fn file(
    mount: &Mount,
    case: &Case<'_>,
    asked: &Asked,
    mode: Mode,
    source: &Request,
) -> Result<(AccessRequest, bool), Error> {
    let now = evidence::now(mount).await;
    rules::permit(&case.policy, &case.who, Act::Ask, now)?;
    rules::params(&case.gate.params_allowed, &asked.params)?;
    rules::enough(&case.policy, &Said { reason: &asked.reason, ticket: &asked.ticket, purpose: &asked.purpose })?;
    ticket_is_open(mount, &case.policy, (&asked.ticket, case.role), &case.who).await?;
    campaign::check(mount, case.role, &case.who, now).await?;
    let mut open = rules::open(mount, case.role).await?;
    for request in open.iter_mut().filter(|request| request.who.entity_id == case.who.entity_id) {
        // It may be in somebody else's hands; then it is as it was read.
        if let Some(_lock) = mount.access.locks.try_hold(&request.id) {
            ending::touch(mount, request).await?;
        }
    }
    let same = |request: &&AccessRequest| {
        let waits = request.state == State::Pending || request.has_use_left();
        waits && request.who.entity_id == case.who.entity_id && request.params == asked.params
    };
    if let Some(request) = open.iter().find(same) {
        return Ok((request.clone(), false));
    }
    open.retain(|request| !request.state.is_over());
    rules::limits(mount, &case.policy, &case.who, case.role, &open, now).await?;

    let mut request = drafted(case, asked, mode, now)?;
    cedar::judge(mount, &case.policy, (Action::Request, &case.who), &request, now).await?;
    let mut drafts = Vec::new();
    if mode == Mode::Auto {
        match by_itself(mount, case, &request, now).await {
            Ok(judged) => {
                request.approve(request.filed, case.policy.activate_within, case.policy.grant_ttl);
                let facts = repeat::facts(&case.who, &[], &judged, now);
                drafts.push(decision(&request, "decision.auto", &case.policy, (judged, facts)));
            }
            Err(Error::Coded(..)) if !case.policy.steps.is_empty() => request.mode = Mode::Manual,
            Err(refusal) => return Err(refusal),
        }
    }
    drafts.insert(0, filed_event(&request, source));
    let count = drafts.len() as u64;
    request.first_event = evidence::append(mount, drafts).await?;
    request.last_event = request.first_event + count - 1;
    request.store(mount).await?;
    Ok((request, true))
}

/// Whether the ticket system has nothing against it, where the policy wants it asked.
///
/// # Errors
/// 403 or 503 `jit_ticket`.
pub async fn ticket_is_open(
    mount: &Mount,
    policy: &Policy,
    (ticket, role): (&str, &str),
    who: &Who,
) -> Result<(), Error> {
    if policy.ticket_hook.is_empty() || ticket.is_empty() {
        return Ok(());
    }
    hook::ticket(mount, &policy.ticket_hook, (ticket, role), who).await
}

/// Whether the policy approves it without people: what its rules say.
async fn by_itself(mount: &Mount, case: &Case<'_>, request: &AccessRequest, now: SystemTime) -> Result<Judged, Error> {
    if case.who.class == Class::ThirdParty {
        return Err(Error::Coded(403, "jit_policy: third parties are approved by people only".into()));
    }
    cedar::judge(mount, &case.policy, (Action::AutoApprove, &case.who), request, now).await
}

/// A request that nobody has seen.
pub fn drafted(case: &Case<'_>, asked: &Asked, mode: Mode, now: SystemTime) -> Result<AccessRequest, Error> {
    let seconds = unix_seconds(now);
    Ok(AccessRequest {
        id: new_id(now)?,
        role: case.role.to_owned(),
        state: State::Pending,
        who: case.who.clone(),
        params: asked.params.clone(),
        reason: asked.reason.clone(),
        ticket: asked.ticket.clone(),
        purpose: asked.purpose.clone(),
        policy: case.gate.jit_policy.clone(),
        policy_hash: case.policy.hash(),
        tier: case.policy.tier,
        mode,
        preapproval: String::new(),
        ttl: asked.ttl,
        uses: case.policy.uses,
        used: 0,
        filed: seconds,
        pending_until: seconds.saturating_add(case.policy.pending_ttl),
        approved: 0,
        activate_until: 0,
        grant_until: 0,
        votes: Vec::new(),
        credentials: Vec::new(),
        end: None,
        closed: 0,
        first_event: 0,
        last_event: 0,
    })
}

/// Draws one use from a preapproval, which those of `standing` have agreed to.
///
/// # Errors
/// If it cannot be written.
pub async fn draw(
    mount: &Mount,
    case: &Case<'_>,
    (name, from, standing): (&str, &Preapproval, &[Who]),
    source: &Request,
) -> Result<AccessRequest, Error> {
    let now = evidence::now(mount).await;
    rules::permit(&case.policy, &case.who, Act::Ask, now)?;
    campaign::check(mount, case.role, &case.who, now).await?;
    let asked = Asked { reason: from.reason.clone(), params: from.params.clone(), ttl: from.ttl, ..Asked::default() };
    let mut request = drafted(case, &asked, Mode::Preapproved, now)?;
    name.clone_into(&mut request.preapproval);
    request.uses = 1;
    request.votes = from
        .votes
        .iter()
        .map(|who| Vote { who: who.clone(), approve: true, comment: String::new(), at: request.filed })
        .collect();
    let judged = cedar::judge(mount, &case.policy, (Action::Request, &case.who), &request, now).await?;
    request.approve(request.filed, from.ttl, from.ttl);
    let facts = repeat::facts(&case.who, standing, &judged, now);
    let decided = decision(&request, "decision.preapproved", &case.policy, (judged, facts)).with("preapproval", name);
    let drafts = vec![filed_event(&request, source), decided];
    request.first_event = evidence::append(mount, drafts).await?;
    request.last_event = request.first_event + 1;
    request.store(mount).await?;
    Ok(request)
}

fn filed_event(request: &AccessRequest, source: &Request) -> Draft {
    request
        .event("request.filed")
        .with("actor", super::actor(&request.who, source))
        .with("core_request_id", source.id.as_str())
        .with("reason", request.reason.as_str())
        .with("ticket", request.ticket.as_str())
        .with("purpose", request.purpose.as_str())
        .with("asked", json!({ "ttl": request.ttl, "uses": request.uses }))
        .with("policy", json!({ "name": request.policy, "hash": request.policy_hash }))
}

/// Why it is approved, and by what.
pub fn decision(request: &AccessRequest, kind: &str, policy: &Policy, (judged, facts): (Judged, Value)) -> Draft {
    request.event(kind).with("rules", json!(judged.rules)).with(repeat::FIELD, facts).with(
        "decision",
        json!({
            "result": "approved",
            "policy": request.policy,
            "policy_hash": policy.hash(),
            "votes": request.votes.iter().filter(|vote| vote.approve).map(|vote| vote.who.shown()).collect::<Vec<_>>(),
            "grant_until": request.grant_until,
        }),
    )
}
