//! How grants end: at the target first, then in the record. And what time alone does to requests.

use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::cedar::{self, Action};
use super::identity;
use super::request::{AccessRequest, Credential, End, Mode, OPEN, Overdue, State};
use super::{config, emergency, file, pace, rules, rules::Act};
use crate::engine::Mount;
use crate::engine::access::policy::Policy;
use crate::engine::end::Report;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::intent::unix_seconds;
use crate::engine::request::Fields;
use crate::target::Usage;

/// How often somebody who has access is looked at again: an entity may be disabled, or its last day be over.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How soon an end that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// In a lease's internal data: of which request it is.
pub const REQUEST_FIELD: &str = "jit_request";
/// In what ends a credential: where it is, if that is no connection.
pub const TARGET_FIELD: &str = "target";
/// In a lease's internal data: of which issue.
pub const ISSUE_FIELD: &str = "jit_issue";

/// Does what is due by time alone. Whoever holds the request's lock calls this before anything else.
///
/// # Errors
/// If it could not be written down; the request is then as it was.
pub async fn touch(mount: &Mount, request: &mut AccessRequest) -> Result<(), Error> {
    let now = unix_seconds(evidence::now(mount).await);
    let (state, kind) = match request.overdue(now) {
        Overdue::No => return Ok(()),
        Overdue::Ended => return end(mount, request, "grant_until", "", None).await,
        Overdue::Lapsed => (State::Lapsed, "request.lapsed"),
        Overdue::Unused => (State::Unused, "request.unused"),
    };
    over(mount, request, state, request.event(kind)).await
}

/// Ends a request of which nothing was issued that still lives.
pub async fn over(mount: &Mount, request: &mut AccessRequest, state: State, draft: Draft) -> Result<(), Error> {
    let mut next = request.clone();
    next.last_event = evidence::append(mount, vec![draft]).await?;
    next.close(state, unix_seconds(evidence::now(mount).await));
    next.store(mount).await?;
    *request = next;
    Ok(())
}

/// Ends everything that was issued of a request, at the target, and then the request. Whatever cannot be written down,
/// the target is asked.
///
/// # Errors
/// If something could not be contained or written down. The request is `ending` then, and the tick goes on with it.
pub async fn end(
    mount: &Mount,
    request: &mut AccessRequest,
    cause: &str,
    reason: &str,
    actor: Option<Value>,
) -> Result<(), Error> {
    let now = unix_seconds(evidence::now(mount).await);
    let mut trouble = None;
    if !matches!(request.state, State::Ending | State::Remnant) {
        request.end = Some(End { cause: cause.to_owned(), at: now, reason: reason.to_owned() });
        request.state = State::Ending;
        let draft = request.event("end.requested").with("cause", cause).with("reason", reason);
        let draft = draft.with("actor", actor.unwrap_or(Value::Null));
        match evidence::append(mount, vec![draft]).await {
            Ok(seq) => request.last_event = seq,
            Err(e) => trouble = Some(e),
        }
        // What ends nothing needs no note of it, and what does is found again by it.
        if request.live().next().is_some()
            && let Err(e) = request.store(mount).await
        {
            trouble = Some(e);
        }
    }
    if request.state == State::Remnant {
        accepted(mount, request, now).await?;
    }
    let outcomes = join_all(request.live().map(|credential| async {
        let usage = mount.usage(&credential.internal).await;
        (mount.end_credential(&credential.internal).await, usage)
    }))
    .await;
    let mut drafts = Vec::new();
    let mut left = false;
    let live: Vec<usize> = (0..request.credentials.len()).filter(|i| request.credentials[*i].ended == 0).collect();
    for (place, (outcome, usage)) in live.into_iter().zip(outcomes) {
        pace::note(mount, &request.credentials[place], outcome.as_ref().ok());
        match outcome {
            Ok(ended) => {
                // What is left is said once.
                if ended.left.is_empty() || request.state != State::Remnant {
                    drafts.push(execution(request, &request.credentials[place], usage.as_ref()));
                    drafts.push(ended_event(request, &request.credentials[place], cause, &ended));
                }
                if ended.left.is_empty() {
                    request.credentials[place].ended = now;
                } else {
                    left = true;
                }
            }
            Err(e) => {
                tracing::warn!(request = request.id, "a grant cannot be ended yet: {e}");
                trouble = Some(e);
            }
        }
    }
    if !drafts.is_empty() {
        let count = drafts.len() as u64;
        match evidence::append(mount, drafts).await {
            Ok(seq) => request.last_event = seq + count - 1,
            Err(e) => trouble = Some(e),
        }
    }
    if trouble.is_none() {
        if left {
            request.state = State::Remnant;
        } else {
            request.close(State::Closed, unix_seconds(evidence::now(mount).await));
        }
    }
    if let Err(e) = request.store(mount).await {
        trouble = Some(e);
    }
    if request.state.is_over() {
        Ok(())
    } else {
        let pause = if request.state == State::Remnant { LOOK_AGAIN } else { RETRY };
        let again = mount.ports.clock.now() + pause;
        mount.access.plan(&request.role, &request.id, again);
        match trouble {
            Some(e) => Err(Error::Failed(format!("the grant is being ended, and tried again until it is: {e}"))),
            None => Ok(()),
        }
    }
}

/// What somebody has decided to leave at the target counts as ended.
async fn accepted(mount: &Mount, request: &mut AccessRequest, now: u64) -> Result<(), Error> {
    for place in 0..request.credentials.len() {
        let credential = &request.credentials[place];
        if credential.ended == 0 && mount.is_accepted(&credential.internal).await? {
            let name = json!({ "name": credential.name });
            let draft = request.event("remnant.accepted").with("credential", name);
            request.last_event = evidence::append(mount, vec![draft]).await?;
            request.credentials[place].ended = now;
        }
    }
    Ok(())
}

/// What was done with a credential. Where nobody counts, that is said, and not that nothing was done.
fn execution(request: &AccessRequest, credential: &Credential, usage: Option<&Usage>) -> Draft {
    let counted = match usage {
        Some(usage) => json!({ "source": usage.source, "statements": usage.statements, "rows": usage.rows }),
        None => json!({ "source": "none" }),
    };
    let draft = request.event("execution.summary").with("issue_id", credential.issue_id.as_str());
    draft.with("credential", json!({ "name": credential.name })).with("execution", counted)
}

fn ended_event(request: &AccessRequest, credential: &Credential, cause: &str, ended: &Report) -> Draft {
    let kind = if ended.verdict() == "verified" { "revoke.verified" } else { "revoke.contained" };
    let draft = request.event(kind).with("issue_id", credential.issue_id.as_str());
    let draft = draft.with("target", pace::target(&credential.internal));
    draft.with("credential", json!({ "name": credential.name })).with(
        "end",
        json!({
            "cause": cause,
            "verdict": ended.verdict(),
            "existed": ended.existed,
            "sessions_ended": ended.sessions,
            "milliseconds": u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
            "left": ended.left.iter().map(|left| json!({ "object": left.object, "reason": left.reason })).collect::<Vec<_>>(),
        }),
    )
}

/// The host has ended the lease of a credential that was issued of a request. What cannot be written down now is seen to
/// by the tick, when the grant is over.
pub async fn lease_ended(
    mount: &Mount,
    role: &str,
    internal: &Fields,
    (cause, usage): (&str, Option<Usage>),
    ended: &Report,
) -> Result<(), Error> {
    let text = |key: &str| internal.get(key).and_then(Value::as_str);
    let (Some(id), Some(issue)) = (text(REQUEST_FIELD), text(ISSUE_FIELD)) else { return Ok(()) };
    let _lock = mount.access.locks.hold(id).await;
    let Some(mut request) = AccessRequest::load(mount, role, id).await? else { return Ok(()) };
    let Some(place) = request.credentials.iter().position(|c| c.issue_id == issue && c.ended == 0) else {
        return Ok(());
    };
    if request.state.is_over() {
        return Ok(());
    }
    let credential = &request.credentials[place];
    pace::note(mount, credential, Some(ended));
    let drafts = vec![execution(&request, credential, usage.as_ref()), ended_event(&request, credential, cause, ended)];
    request.last_event = evidence::append(mount, drafts).await? + 1;
    let now = unix_seconds(evidence::now(mount).await);
    if ended.left.is_empty() {
        request.credentials[place].ended = now;
    } else if !request.has_use_left() {
        request.state = State::Remnant;
        request.end = Some(End { cause: cause.to_owned(), at: now, reason: String::new() });
        return request.store(mount).await;
    }
    if cause == NOBODY {
        request.used = request.used.saturating_sub(1);
    } else if !request.has_use_left() && request.live().next().is_none() {
        if request.end.is_none() {
            request.end = Some(End { cause: cause.to_owned(), at: now, reason: String::new() });
        }
        request.close(State::Closed, now);
    }
    request.store(mount).await
}

/// The cause of an end: the answer reached nobody, so the use does not count.
pub const NOBODY: &str = "undelivered";

/// Asked by the agenda: whatever is due of this request.
pub async fn when_due(mount: &Mount, role: &str, id: &str) -> Result<(), Error> {
    let Some(_lock) = mount.access.locks.try_hold(id) else {
        mount.access.plan(role, id, mount.ports.clock.now() + Duration::from_secs(1));
        return Ok(());
    };
    let Some(mut request) = AccessRequest::at(mount, &format!("{OPEN}{role}/{id}")).await? else {
        mount.access.forget(role, id);
        return Ok(());
    };
    if request.state.is_over() {
        // Its removal from among the open ones failed.
        return request.store(mount).await;
    }
    touch(mount, &mut request).await?;
    match request.state {
        State::Ending | State::Remnant => {
            let cause = request.end.as_ref().map_or_else(|| "again".to_owned(), |end| end.cause.clone());
            end(mount, &mut request, &cause, "", None).await
        }
        State::Approved | State::Active => {
            if let Some((cause, why)) = lost(mount, &request).await? {
                return end(mount, &mut request, cause, &why, None).await;
            }
            if idle(mount, &request).await? {
                return end(mount, &mut request, "idle", "", None).await;
            }
            make_room(mount, &mut request).await?;
            mount.access.plan(role, id, due(&request, mount.ports.clock.now()));
            Ok(())
        }
        _ => {
            if !request.state.is_over() {
                mount.access.plan(role, id, due(&request, mount.ports.clock.now()));
            }
            Ok(())
        }
    }
}

/// Whether nobody has used what was issued for as long as the policy allows. What the target does not say is no idleness.
async fn idle(mount: &Mount, request: &AccessRequest) -> Result<bool, Error> {
    let policy = Policy::load(mount, &request.policy).await?.unwrap_or_default();
    if policy.end_idle == 0 || request.live().next().is_none() {
        return Ok(false);
    }
    let now = unix_seconds(mount.ports.clock.now());
    for credential in request.live() {
        let Some(silence) = mount.silence(&credential.internal).await else { return Ok(false) };
        let mut active = mount.access.active.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = active.entry(credential.issue_id.clone()).or_insert(now);
        if let Some(silence) = silence {
            *seen = (*seen).max(now.saturating_sub(silence));
        }
        if now.saturating_sub(*seen) < policy.end_idle {
            return Ok(false);
        }
    }
    let mut active = mount.access.active.lock().unwrap_or_else(PoisonError::into_inner);
    active.retain(|issue, _| request.live().all(|credential| credential.issue_id != *issue));
    Ok(true)
}

/// Ends credentials that a newer one of the same grant has replaced.
async fn make_room(mount: &Mount, request: &mut AccessRequest) -> Result<(), Error> {
    let now = unix_seconds(evidence::now(mount).await);
    for place in 0..request.credentials.len() {
        let credential = &request.credentials[place];
        if credential.ended > 0 || credential.room == 0 || credential.room > now {
            continue;
        }
        let usage = mount.usage(&credential.internal).await;
        let ended = mount.end_credential(&credential.internal).await;
        pace::note(mount, credential, ended.as_ref().ok());
        let ended = ended?;
        let drafts = vec![
            execution(request, credential, usage.as_ref()),
            ended_event(request, credential, "superseded", &ended),
        ];
        request.last_event = evidence::append(mount, drafts).await? + 1;
        request.credentials[place].ended = now;
        request.store(mount).await?;
    }
    Ok(())
}

/// Whether the requester may no longer have what he has: he is gone, disabled, of another class, or his last day is over.
async fn lost(mount: &Mount, request: &AccessRequest) -> Result<Option<(&'static str, String)>, Error> {
    if request.mode == Mode::Drill {
        // Whoever is at it holds the lock.
        return Ok(Some(("drill", "whoever made the self-test is gone".into())));
    }
    let settings = config::load(mount).await?;
    let Some(who) = identity::look(mount, &settings, &request.who.entity_id).await? else {
        return Ok(Some(("entity", "the entity is gone, disabled, or its class is not clear any more".into())));
    };
    if who.class != request.who.class {
        return Ok(Some(("entity", format!("the entity became one of class {}", who.class))));
    }
    let now = evidence::now(mount).await;
    if rules::third_party_end(&who).is_some_and(|end| who.class == identity::Class::ThirdParty && now >= end) {
        return Ok(Some(("end_date", "the end date of the third party is over".into())));
    }
    let Some(policy) = Policy::load(mount, &request.policy).await? else { return Ok(None) };
    let permitted = match request.mode {
        Mode::BreakGlass => emergency::permit(&policy, &who),
        _ => rules::permit(&policy, &who, Act::Ask, now),
    };
    if policy.end_with_ticket
        && request.mode != Mode::BreakGlass
        && let Err(Error::Coded(403, why)) =
            file::ticket_is_open(mount, &policy, (&request.ticket, &request.role), &who).await
    {
        // A ticket system that is away ends nothing.
        return Ok(Some(("ticket", why)));
    }
    let permitted = match permitted {
        Ok(()) if request.mode != Mode::BreakGlass => {
            cedar::judge(mount, &policy, (Action::Renew, &who), request, now).await.map(drop)
        }
        other => other,
    };
    match permitted {
        Err(Error::Coded(_, why)) => Ok(Some(("policy", why))),
        _ => Ok(None),
    }
}

/// When the agenda has to look at it next.
pub fn due(request: &AccessRequest, now: SystemTime) -> SystemTime {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    match request.state {
        State::Pending => at(request.pending_until),
        State::Approved => at(request.activate_until.min(request.grant_until)).min(now + LOOK_AGAIN),
        State::Active => {
            let room = request.live().filter(|c| c.room > 0).map(|c| at(c.room)).min();
            at(request.grant_until).min(now + LOOK_AGAIN).min(room.unwrap_or(now + LOOK_AGAIN))
        }
        _ => now,
    }
}
