//! `break-glass/`: access without anybody's agreement, for those who were chosen for it beforehand. It is in the record
//! before anything is given, it is short, and until somebody else has looked at it there is no next time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cedar::{self, Action};
use super::file::{self, Asked, Case};
use super::identity::{self, Class, Who};
use super::policy::Policy;
use super::request::{AccessRequest, Mode, State};
use super::rules;
use super::{Gate, actor, config, freeze, hook, repeat};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};
use crate::secret::Secret;

/// Where the reviews are that somebody owes.
pub const REVIEWS: &str = "access/review/";

/// How long the alert is waited for before access is given.
const ALERT: Duration = Duration::from_secs(2);

/// A review that is owed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Owed {
    /// The role.
    pub role: String,
    /// Who used it.
    pub who: Who,
    /// By when it is to be reviewed, unix seconds.
    pub due: u64,
}

fn refused(why: &str) -> Error {
    Error::Coded(403, format!("jit_policy: {why}"))
}

/// Whether somebody may break the glass of a policy.
///
/// # Errors
/// 403 with the reason.
pub fn permit(policy: &Policy, who: &Who) -> Result<(), Error> {
    if who.class != Class::Human {
        return Err(refused("break-glass is for people"));
    }
    if !policy.break_glass_groups.iter().any(|group| who.groups.contains(group)) {
        return Err(refused("you are in none of the break_glass_groups"));
    }
    Ok(())
}

/// POST `break-glass/:role`.
pub async fn open(mount: &Mount, role: &str, gate: &Gate, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let policy = Policy::of_role(mount, role, &gate.jit_policy).await?;
    permit(&policy, &who)?;
    let text = |key: &str| input.text(key).unwrap_or_default().trim().to_owned();
    let (reason, incident) = (text("reason"), text("incident"));
    if reason.len() < 10 || incident.is_empty() {
        return Err(Error::Refused("reason (10 characters at least) and incident are needed".into()));
    }
    let _lock = mount.access.locks.hold(&format!("{role}/{}", who.entity_id)).await;
    let owed = owed(mount).await?;
    let open = owed.iter().filter(|(_, owed)| owed.who.is_same_person(&who)).count();
    if open > policy.break_glass_open_reviews as usize {
        return Err(refused(&format!(
            "{open} uses of yours wait for a review: break-glass/ROLE/ID/review, by somebody else"
        )));
    }
    let asked = Asked {
        reason,
        ticket: incident,
        params: input.pairs("params").cloned().unwrap_or_default(),
        ..Asked::default()
    };
    waited(mount, role, &policy, &who).await?;
    if policy.break_glass_incident && !freeze::tells(mount, role, &asked.ticket, &who).await? {
        return Err(refused(&format!(
            "nobody else says that there is an incident {:?}: write freezes/NAME incident=… flag_only=true",
            asked.ticket
        )));
    }
    rules::params(&gate.params_allowed, &asked.params)?;
    let case = Case { role, gate, policy, who, settings };
    let now = evidence::now(mount).await;
    let mut request = file::drafted(&case, &asked, Mode::BreakGlass, now)?;
    request.uses = 1;
    let judged = cedar::judge(mount, &case.policy, (Action::BreakGlass, &case.who), &request, now).await?;
    request.approve(request.filed, case.policy.break_glass_ttl, case.policy.break_glass_ttl);
    let draft = request
        .event("breakglass.used")
        .with("actor", actor(&case.who, source))
        .with("core_request_id", source.id.as_str())
        .with("reason", request.reason.as_str())
        .with("incident", request.ticket.as_str())
        .with("policy", json!({ "name": request.policy, "hash": request.policy_hash }))
        .with("rules", json!(judged.rules))
        .with(repeat::FIELD, repeat::facts(&case.who, &[], &judged, now))
        .with("drill", input.flag("drill") == Some(true));
    request.first_event = evidence::append(mount, vec![draft]).await?;
    request.last_event = request.first_event;
    tracing::error!(
        role,
        request = request.id,
        entity = case.who.name,
        incident = request.ticket,
        "break-glass: access without an approval"
    );
    hook::alert(mount, ALERT).await;
    if input.flag("drill") == Some(true) {
        return Ok(Some(Response::data([("drill", json!(true)), ("request_id", json!(request.id))])));
    }
    let due = unix_seconds(now).saturating_add(case.policy.break_glass_review_within);
    let note = Owed { role: role.to_owned(), who: case.who.clone(), due };
    let text = serde_json::to_string(&note).map_err(|_| Error::Failed("cannot encode a review".into()))?;
    // First: nobody has access that nobody will look at.
    mount.ports.storage.put(&format!("{REVIEWS}{}", request.id), &Secret::new(text), false).await?;
    request.store(mount).await?;
    let mut fields = request.shown();
    fields.push((
        "next".into(),
        json!(format!("read creds/{role}; one credential, until {}", evidence::stamp(request.grant_until * 1000))),
    ));
    fields.push(("review_due".into(), json!(evidence::stamp(due * 1000))));
    Ok(Some(Response::data(fields)))
}

/// Whether the ordinary way was tried for as long as the policy asks.
async fn waited(mount: &Mount, role: &str, policy: &Policy, who: &Who) -> Result<(), Error> {
    if policy.break_glass_after == 0 {
        return Ok(());
    }
    let now = unix_seconds(evidence::now(mount).await);
    let since = now.saturating_sub(policy.break_glass_after);
    let open = rules::open(mount, role).await?;
    let tried = open.iter().any(|r| r.state == State::Pending && r.filed <= since && r.who.is_same_person(who));
    if tried {
        return Ok(());
    }
    Err(refused(&format!(
        "ask in the ordinary way first; break-glass is there once that has waited for {}s",
        policy.break_glass_after
    )))
}

/// Every review that is owed, by the request's id.
pub async fn owed(mount: &Mount) -> Result<Vec<(String, Owed)>, Error> {
    let mut found = Vec::new();
    for id in mount.ports.storage.list(REVIEWS, "", -1).await? {
        let Some(entry) = mount.ports.storage.get(&format!("{REVIEWS}{id}")).await? else { continue };
        let read = serde_json::from_str(entry.expose());
        found.push((id.clone(), read.map_err(|e| Error::Failed(format!("the review of {id} cannot be read: {e}")))?));
    }
    Ok(found)
}

/// LIST `break-glass`.
pub async fn list(mount: &Mount) -> Reply {
    let now = unix_seconds(evidence::now(mount).await);
    let owed = owed(mount).await?;
    let keys: Vec<&str> = owed.iter().map(|(id, _)| id.as_str()).collect();
    let shown = |owed: &Owed| json!({ "role": owed.role, "requester": owed.who.name, "review_due": evidence::stamp(owed.due * 1000), "overdue": now > owed.due });
    let info: serde_json::Map<String, Value> = owed.iter().map(|(id, owed)| (id.clone(), shown(owed))).collect();
    Ok(Some(if keys.is_empty() {
        Response { data: Some(Vec::new()), ..Response::default() }
    } else {
        Response::data([("keys", json!(keys)), ("key_info", info.into())])
    }))
}

/// POST `break-glass/:role/:id/review`.
pub async fn review(mount: &Mount, role: &str, id: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let _lock = mount.access.locks.hold(id).await;
    let Some(request) = AccessRequest::load(mount, role, id).await? else {
        return Err(Error::Coded(404, "there is no such request".into()));
    };
    if request.mode != Mode::BreakGlass {
        return Err(Error::Coded(409, "jit_state: the request was no break-glass".into()));
    }
    if who.is_same_person(&request.who) {
        return Err(refused("nobody reviews himself, whichever of his entities he uses"));
    }
    let policy = Policy::load(mount, &request.policy).await?.unwrap_or_default();
    let admitted = policy.steps.iter().any(|step| step.admits(who.class, &who.groups).next().is_some());
    if !admitted && !policy.owner_groups.iter().any(|group| who.groups.contains(group)) {
        return Err(refused("who may approve a request, or is in owner_groups, reviews it"));
    }
    let comment = input.text("comment").unwrap_or_default().trim();
    if comment.is_empty() {
        return Err(Error::Refused("comment: say what you found".into()));
    }
    let justified = input.flag("justified").unwrap_or(true);
    let draft = request
        .event("review.done")
        .with("actor", actor(&who, source))
        .with("comment", comment)
        .with("justified", justified);
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.delete(&format!("{REVIEWS}{id}")).await?;
    Ok(None)
}

/// How long a grant of this kind lasts at most, whatever its policy says.
pub const LONGEST: Duration = Duration::from_secs(3600);
