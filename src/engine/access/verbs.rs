//! `requests/` and `inbox`: filing, voting, taking back, completing, revoking, looking.

use serde_json::{Value, json};

use super::cedar::Action;
use super::config::{self, Settings};
use super::file::{self, Asked, Case};
use super::identity::{self, Who};
use super::policy::{Approval, Policy};
use super::request::{AccessRequest, DONE, Mode, OPEN, State, Vote};
use super::rules::{self, Act};
use super::{Gate, actor, cedar, ending, repeat, token, votes};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};

/// What a requester or a voter may do to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Vote for it.
    Approve,
    /// Vote against it.
    Deny,
    /// Take it back.
    Cancel,
    /// Say that the work is done.
    Complete,
    /// End what was granted.
    Revoke,
}

/// POST `requests/:role`.
pub async fn create(mount: &Mount, role: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let gate = gate_of(mount, role).await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let policy = Policy::of_role(mount, role, &gate.jit_policy).await?;
    let case = Case { role, gate: &gate, policy, who, settings };
    let text = |key: &str| input.text(key).unwrap_or_default().to_owned();
    let asked = Asked {
        reason: text("reason"),
        ticket: text("ticket"),
        purpose: text("purpose"),
        ttl: input.span("ttl").unwrap_or_default().as_secs(),
        params: input.pairs("params").cloned().unwrap_or_default(),
    };
    let mode = if case.policy.approval == Approval::Auto { Mode::Auto } else { Mode::Manual };
    let _lock = mount.access.locks.hold(&format!("{role}/{}", case.who.entity_id)).await;
    let (request, new) = file::file(mount, &case, &asked, mode, source).await?;
    let mut response = shown(mount, &case.settings, &case.policy, &request).await?;
    if !new {
        response.warnings.push("you have an open request for the same already: this is it".into());
    }
    Ok(Some(response))
}

/// The gate of a role that has one.
pub async fn gate_of(mount: &Mount, role: &str) -> Result<Gate, Error> {
    let gate = mount.gate(role).await?.ok_or_else(|| Error::Refused(format!("unknown role: {role}")))?;
    if gate.jit_policy.is_empty() {
        return Err(Error::Refused(format!(
            "role {role:?} names no jit_policy: read creds/{role}, no request is needed"
        )));
    }
    Ok(gate)
}

/// A request with what is still missing.
async fn shown(
    mount: &Mount,
    settings: &Settings,
    policy: &Policy,
    request: &AccessRequest,
) -> Result<Response, Error> {
    let mut fields = request.shown();
    if request.mode == Mode::Manual {
        let standing = votes::standing(mount, settings, request).await?;
        let tally = votes::tally(&policy.steps, policy.distinct_groups, &standing);
        fields.push(("approvals".into(), json!(format!("{}/{}", tally.given, tally.needed))));
        fields.push(("approvers".into(), json!(policy.approvers())));
    }
    Ok(Response::data(fields))
}

/// GET `requests/:role/:id`.
pub async fn read(mount: &Mount, role: &str, id: &str, source: &Request) -> Reply {
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let Some(mut request) = AccessRequest::load(mount, role, id).await? else { return Ok(None) };
    let policy = Policy::load(mount, &request.policy).await?.unwrap_or_default();
    if !may_see(&settings, &policy, &request, &who) {
        return Ok(None);
    }
    if request.overdue(unix_seconds(evidence::now(mount).await)) != super::request::Overdue::No {
        mount.refuse_on_standby().await?;
        let _lock = mount.access.locks.hold(id).await;
        if let Some(again) = AccessRequest::load(mount, role, id).await? {
            request = again;
            ending::touch(mount, &mut request).await?;
        }
    }
    shown(mount, &settings, &policy, &request).await.map(Some)
}

/// The requester, who may vote, who may end it, and auditors.
fn may_see(settings: &Settings, policy: &Policy, request: &AccessRequest, who: &Who) -> bool {
    let in_one_of = |groups: &[String]| groups.iter().any(|group| who.groups.contains(group));
    request.who.entity_id == who.entity_id
        || policy.steps.iter().any(|step| step.admits(who.class, &who.groups).next().is_some())
        || in_one_of(&policy.owner_groups)
        || in_one_of(&settings.auditor_groups)
}

/// LIST `requests/:role`: ids that the caller may see, those that are over too.
pub async fn list(mount: &Mount, role: &str, source: &Request) -> Reply {
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let mut keys = Vec::new();
    let mut states = serde_json::Map::new();
    for folder in [DONE, OPEN] {
        for id in mount.ports.storage.list(&format!("{folder}{role}/"), "", -1).await? {
            let Some(request) = AccessRequest::at(mount, &format!("{folder}{role}/{id}")).await? else { continue };
            let policy = Policy::load(mount, &request.policy).await?.unwrap_or_default();
            if may_see(&settings, &policy, &request, &who) && !keys.contains(&id) {
                states.insert(id.clone(), json!({ "state": request.state.name(), "requester": request.who.name }));
                keys.push(id);
            }
        }
    }
    keys.sort();
    Ok(Some(if keys.is_empty() {
        Response { data: Some(Vec::new()), ..Response::default() }
    } else {
        Response::data([("keys", json!(keys)), ("key_info", states.into())])
    }))
}

/// `inbox`: what the caller could vote on now.
pub async fn inbox(mount: &Mount, source: &Request) -> Reply {
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let now = unix_seconds(evidence::now(mount).await);
    let mut waiting: Vec<Value> = Vec::new();
    for role in mount.ports.storage.list(OPEN, "", -1).await? {
        for request in rules::open(mount, role.trim_end_matches('/')).await? {
            if request.state != State::Pending || request.overdue(now) != super::request::Overdue::No {
                continue;
            }
            let Some(policy) = Policy::load(mount, &request.policy).await? else { continue };
            if votes::may_vote(&policy, &request, &who).is_ok() {
                waiting.push(json!({
                    "request_id": request.id, "role": request.role, "requester": request.who.name, "reason": request.reason,
                    "ticket": request.ticket, "params": request.params,
                    "pending_until": evidence::stamp(request.pending_until * 1000),
                }));
            }
        }
    }
    Ok(Some(Response::data([("requests", json!(waiting))])))
}

/// `lookup/request`: a request by its id alone.
pub async fn lookup(mount: &Mount, id: &str, source: &Request) -> Reply {
    match role_of(mount, id).await? {
        Some(role) => match read(mount, &role, id, source).await? {
            Some(found) => Ok(Some(found)),
            None => Err(unknown()),
        },
        None => Err(unknown()),
    }
}

/// The role that a request is for.
pub async fn role_of(mount: &Mount, id: &str) -> Result<Option<String>, Error> {
    let storage = &mount.ports.storage;
    for folder in [OPEN, DONE] {
        for role in storage.list(folder, "", -1).await? {
            let role = role.trim_end_matches('/');
            if storage.get(&format!("{folder}{role}/{id}")).await?.is_some() {
                return Ok(Some(role.to_owned()));
            }
        }
    }
    Ok(None)
}

fn unknown() -> Error {
    Error::Coded(404, "there is no such request that you could see".into())
}

/// POST `requests/:role/:id/…`.
pub async fn act(mount: &Mount, verb: Verb, (role, id): (&str, &str), input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let _lock = mount.access.locks.hold(id).await;
    let Some(mut request) = AccessRequest::load(mount, role, id).await? else { return Err(unknown()) };
    let policy = Policy::load(mount, &request.policy).await?.unwrap_or_default();
    if !may_see(&settings, &policy, &request, &who) {
        return Err(unknown());
    }
    ending::touch(mount, &mut request).await?;
    let said = input.text("comment").or_else(|| input.text("reason")).unwrap_or_default();
    match verb {
        Verb::Approve | Verb::Deny => {
            let shorter = input.span("ttl").map(|span| span.as_secs());
            vote(mount, &settings, &policy, &mut request, &who, (verb == Verb::Approve, said, shorter), source).await?;
        }
        Verb::Cancel => {
            requester(&request, &who)?;
            state(&request, matches!(request.state, State::Pending | State::Approved))?;
            let draft = request.event("request.cancelled").with("actor", actor(&who, source));
            ending::over(mount, &mut request, State::Cancelled, draft).await?;
        }
        Verb::Complete => {
            requester(&request, &who)?;
            state(&request, request.state.is_usable() || matches!(request.state, State::Ending | State::Remnant))?;
            ending::end(mount, &mut request, "completed", said, Some(actor(&who, source))).await?;
        }
        Verb::Revoke => {
            let may = policy.owner_groups.iter().any(|group| who.groups.contains(group))
                || policy.steps.iter().any(|step| step.admits(who.class, &who.groups).next().is_some());
            if !may {
                return Err(Error::Coded(
                    403,
                    "jit_policy: who may approve a request, or is in owner_groups, revokes it".into(),
                ));
            }
            if said.trim().is_empty() {
                return Err(Error::Refused("reason: say why".into()));
            }
            state(&request, !request.state.is_over())?;
            ending::end(mount, &mut request, "revoked", said, Some(actor(&who, source))).await?;
        }
    }
    mount.access.stir();
    shown(mount, &settings, &policy, &request).await.map(Some)
}

fn requester(request: &AccessRequest, who: &Who) -> Result<(), Error> {
    if request.who.entity_id == who.entity_id {
        return Ok(());
    }
    Err(Error::Coded(403, "jit_policy: only the requester does that; others revoke".into()))
}

fn state(request: &AccessRequest, fits: bool) -> Result<(), Error> {
    if fits { Ok(()) } else { Err(Error::Coded(409, format!("jit_state: the request is {}", request.state.name()))) }
}

async fn vote(
    mount: &Mount,
    settings: &Settings,
    policy: &Policy,
    request: &mut AccessRequest,
    who: &Who,
    (approve, comment, shorter): (bool, &str, Option<u64>),
    source: &Request,
) -> Result<(), Error> {
    state(request, request.state == State::Pending)?;
    votes::may_vote(policy, request, who).map_err(|why| Error::Coded(403, format!("jit_policy: {why}")))?;
    let now = evidence::now(mount).await;
    // Who asked must be allowed to still.
    let requester = if approve {
        reciprocal(mount, policy, request, who).await?;
        let Some(requester) = identity::look(mount, settings, &request.who.entity_id).await? else {
            return Err(Error::Coded(403, "jit_identity: who asked is gone or disabled".into()));
        };
        rules::permit(policy, &requester, Act::Ask, now)?;
        Some(requester)
    } else {
        None
    };
    let mut next = request.clone();
    let seconds = unix_seconds(now);
    next.votes.push(Vote { who: who.clone(), approve, comment: comment.to_owned(), at: seconds });
    if let Some(shorter) = shorter.filter(|shorter| approve && *shorter > 0) {
        next.ttl = if next.ttl == 0 { shorter } else { next.ttl.min(shorter) };
    }
    let kind = if approve { "vote.approve" } else { "vote.deny" };
    let mut drafts =
        vec![next.event(kind).with("actor", actor(who, source)).with("comment", comment).with("ttl", next.ttl)];
    if let Some(requester) = &requester {
        let standing = votes::standing(mount, settings, &next).await?;
        if votes::is_enough(policy, requester, &standing) {
            let judged = cedar::judge(mount, policy, (Action::Approve, requester), &next, now).await?;
            next.approve(seconds, policy.activate_within, policy.grant_ttl);
            let facts = repeat::facts(requester, &standing, &judged, now);
            drafts.push(file::decision(&next, "decision.approved", policy, (judged, facts)));
        }
    } else if next.votes.iter().filter(|vote| !vote.approve).count() >= policy.deny_threshold as usize {
        next.close(State::Denied, seconds);
        drafts.push(next.event("decision.denied").with("policy_hash", policy.hash()));
    }
    let count = drafts.len() as u64;
    next.last_event = evidence::append(mount, drafts).await? + count - 1;
    next.store(mount).await?;
    *request = next;
    Ok(())
}

/// Two who approve each other's requests are no check of either.
async fn reciprocal(mount: &Mount, policy: &Policy, request: &AccessRequest, voter: &Who) -> Result<(), Error> {
    if policy.forbid_reciprocal == 0 {
        return Ok(());
    }
    let now = evidence::now(mount).await;
    let span = std::time::Duration::from_secs(policy.forbid_reciprocal.saturating_add(86_400));
    let since = unix_seconds(now).saturating_sub(policy.forbid_reciprocal);
    let mut others = rules::open(mount, &request.role).await?;
    others.extend(rules::recent(mount, &request.role, now, span).await?);
    let mutual = others.iter().filter(|other| other.who.is_same_person(voter)).any(|other| {
        other.votes.iter().any(|vote| vote.approve && vote.at >= since && vote.who.is_same_person(&request.who))
    });
    if mutual {
        return Err(Error::Coded(
            403,
            "jit_policy: the requester approved a request of yours lately (forbid_reciprocal)".into(),
        ));
    }
    Ok(())
}

/// POST `offboard/entity/:entity_id`: everything of somebody ends now, and nothing begins any more.
pub async fn offboard(mount: &Mount, entity: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let reason = input.text("reason").unwrap_or_default().trim().to_owned();
    if reason.is_empty() {
        return Err(Error::Refused("reason: say why".into()));
    }
    // First: whatever is done meanwhile is refused.
    let mut settings = Settings::clone(&*config::load(mount).await?);
    if !settings.offboarded.iter().any(|id| id == entity) {
        settings.offboarded.push(entity.to_owned());
        config::store(mount, &settings, source).await?;
    }
    let (mut ended, mut voided, mut warnings) = (0, 0, Vec::new());
    for role in mount.ports.storage.list(OPEN, "", -1).await? {
        let role = role.trim_end_matches('/');
        for found in rules::open(mount, role).await?.into_iter().filter(|found| found.who.entity_id == entity) {
            let _lock = mount.access.locks.hold(&found.id).await;
            let Some(mut request) = AccessRequest::load(mount, role, &found.id).await? else { continue };
            let done = if request.state == State::Pending {
                let draft =
                    request.event("request.cancelled").with("actor", token(source)).with("reason", reason.as_str());
                ending::over(mount, &mut request, State::Cancelled, draft).await.map(|()| voided += 1)
            } else if request.state.is_over() {
                continue;
            } else {
                let actor = Some(token(source));
                ending::end(mount, &mut request, "offboarded", &reason, actor).await.map(|()| ended += 1)
            };
            if let Err(e) = done {
                warnings.push(format!("{}: {e}", request.id));
            }
        }
    }
    Ok(Some(Response {
        warnings,
        ..Response::data([
            ("ended", json!(ended)),
            ("voided", json!(voided)),
            (
                "left_to_do",
                json!("disable or delete the entity, its aliases and its group memberships in the identity store"),
            ),
        ])
    }))
}

/// `evidence/by-credential/:name`: the request that a credential was issued of.
pub async fn by_credential(mount: &Mount, name: &str) -> Result<Option<AccessRequest>, Error> {
    let storage = &mount.ports.storage;
    // User names hold a part of the id; only where a template left it out all requests are read.
    let named = name.to_ascii_lowercase();
    let mut rest = Vec::new();
    for folder in [OPEN, DONE] {
        for role in storage.list(folder, "", -1).await? {
            for id in storage.list(&format!("{folder}{role}"), "", -1).await? {
                let key = format!("{folder}{role}{id}");
                let part = id.get(id.len().saturating_sub(8)..).unwrap_or(&id);
                if named.contains(part) {
                    if let Some(found) = AccessRequest::at(mount, &key).await?.filter(|request| has(request, name)) {
                        return Ok(Some(found));
                    }
                } else {
                    rest.push(key);
                }
            }
        }
    }
    for key in rest {
        if let Some(found) = AccessRequest::at(mount, &key).await?.filter(|request| has(request, name)) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn has(request: &AccessRequest, name: &str) -> bool {
    request.credentials.iter().any(|credential| credential.name == name)
}
