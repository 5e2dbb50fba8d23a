//! `reports/:name`: who really holds what, what nobody uses, and what is out of order.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::identity::{Class, Who};
use super::policy::{self, Approval, Policy, Recording};
use super::request::{AccessRequest, DONE, Mode, OPEN, State};
use super::rules::Act;
use super::{Gate, approvers, coverage, emergency, hook, preapproval, rules, standing};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Response};

/// The reports there are.
const NAMES: [&str; 11] = [
    "break-glass",
    "coverage",
    "exceptions",
    "identities",
    "metrics",
    "notifications",
    "remnants",
    "standing",
    "third-party",
    "unapprovable",
    "unused",
];
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// LIST `reports`.
pub fn list() -> Reply {
    Ok(Some(Response::data([("keys", json!(NAMES))])))
}

/// GET `reports/:name`.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let data = match name {
        "coverage" => held(mount).await?,
        "unused" => unused(mount).await?,
        "exceptions" => exceptions(mount).await?,
        "identities" => json!({ "refused": mount.access.refusals() }),
        "third-party" => third_party(mount).await?,
        "unapprovable" => unapprovable(mount).await?,
        "break-glass" => glass(mount).await?,
        "standing" => standing::report(mount).await?,
        "remnants" => remnants(mount).await?,
        "notifications" => notifications(mount).await?,
        "metrics" => metrics(mount).await?,
        _ => return Ok(None),
    };
    match data {
        Value::Object(fields) => Ok(Some(Response::data(fields))),
        other => Ok(Some(Response::data([("lines", other)]))),
    }
}

/// Requests of every role, of the last while and open.
async fn requests(mount: &Mount, span: Duration) -> Result<BTreeMap<String, Vec<AccessRequest>>, Error> {
    let storage = &mount.ports.storage;
    let now = evidence::now(mount).await;
    let mut roles: Vec<String> = storage.list(OPEN, "", -1).await?;
    roles.extend(storage.list(DONE, "", -1).await?);
    roles.sort_unstable();
    roles.dedup();
    let mut found = BTreeMap::new();
    for role in roles {
        let role = role.trim_end_matches('/').to_owned();
        let mut all = rules::open(mount, &role).await?;
        all.extend(rules::recent(mount, &role, now, span).await?);
        all.retain(|request| request.mode != Mode::Drill);
        found.insert(role, all);
    }
    Ok(found)
}

async fn held(mount: &Mount) -> Result<Value, Error> {
    let now = evidence::now(mount).await;
    let all = requests(mount, WEEK + Duration::from_secs(2 * 86_400)).await?;
    let mut lines: Vec<(u64, Value)> = all.values().flat_map(|requests| coverage::lines(requests, now)).collect();
    lines.sort_by_key(|(week, _)| std::cmp::Reverse(*week));
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// Roles that are gated, with their policies.
async fn gated(mount: &Mount) -> Result<Vec<(String, Gate, Option<Policy>)>, Error> {
    let mut found = Vec::new();
    for role in mount.roles().await? {
        let Some(gate) = mount.gate(&role).await?.filter(|gate| !gate.jit_policy.is_empty()) else { continue };
        let policy = Policy::load(mount, &gate.jit_policy).await?;
        found.push((role, gate, policy));
    }
    Ok(found)
}

/// Requests whose credentials have left something at the target, or could not be ended yet.
async fn remnants(mount: &Mount) -> Result<Value, Error> {
    let mut lines = Vec::new();
    for role in mount.ports.storage.list(OPEN, "", -1).await? {
        for request in rules::open(mount, role.trim_end_matches('/')).await? {
            if matches!(request.state, State::Ending | State::Remnant) {
                let names: Vec<&str> = request.live().map(|credential| credential.name.as_str()).collect();
                lines.push(json!({
                    "request_id": request.id, "role": request.role, "requester": request.who.name,
                    "state": request.state.name(), "credentials": names,
                    "since": request.end.as_ref().map(|end| evidence::stamp(end.at * 1000)),
                }));
            }
        }
    }
    Ok(lines.into())
}

/// How far everybody was told.
async fn notifications(mount: &Mount) -> Result<Value, Error> {
    let mut lines = Vec::new();
    for name in mount.ports.storage.list(hook::PREFIX, "", -1).await? {
        let Some(shown) = hook::read(mount, &name).await? else { continue };
        let fields = shown.data.unwrap_or_default().into_iter();
        let plain = fields.filter_map(|(key, datum)| match datum {
            crate::engine::request::Datum::Plain(value) if key != "ca_cert" => Some((key, value)),
            _ => None,
        });
        let mut line: serde_json::Map<String, Value> = plain.collect();
        line.insert("name".into(), json!(name));
        lines.push(Value::Object(line));
    }
    Ok(lines.into())
}

async fn unused(mount: &Mount) -> Result<Value, Error> {
    let all = requests(mount, MONTH).await?;
    let gated = gated(mount).await?;
    let idle: Vec<&str> = gated
        .iter()
        .map(|(role, ..)| role.as_str())
        .filter(|role| all.get(*role).is_none_or(|requests| requests.iter().all(|request| request.used == 0)))
        .collect();
    let names = mount.ports.storage.list(policy::PREFIX, "", -1).await?;
    let loose: Vec<&String> =
        names.iter().filter(|name| gated.iter().all(|(_, gate, _)| gate.jit_policy != **name)).collect();
    let approved = all.values().flatten().filter(|request| request.state == State::Unused);
    let approved: Vec<Value> =
        approved.map(|r| json!({ "request_id": r.id, "role": r.role, "requester": r.who.name })).collect();
    let people = approvers::seen(mount, all.values().flatten()).await?;
    let now = evidence::now(mount).await;
    let mut never: Vec<Value> = Vec::new();
    for (role, _, policy) in &gated {
        let Some(policy) = policy else { continue };
        let asked = |who: &Who| all.get(role).is_some_and(|all| all.iter().any(|r| r.who.is_same_person(who)));
        let eligible = people.iter().filter(|who| rules::permit(policy, who, Act::Ask, now).is_ok() && !asked(who));
        never.extend(eligible.map(|who| json!({ "role": role, "who": who.name })));
    }
    Ok(json!({
        "roles_without_use_in_30_days": idle,
        "policies_of_no_role": loose,
        "approved_and_never_used": approved,
        "issued_and_nothing_done_with": nothing_done(mount).await?,
        // Of those who were here: the host does not tell who is in a group.
        "eligible_and_asked_for_other_roles_only": never,
    }))
}

async fn exceptions(mount: &Mount) -> Result<Value, Error> {
    let mut lines = Vec::new();
    for (role, _, policy) in gated(mount).await? {
        let Some(policy) = policy else { continue };
        if policy.approval == Approval::Auto {
            lines.push(json!({ "role": role, "what": "approves by itself" }));
        }
        if policy.recording != Recording::Require {
            lines
                .push(json!({ "role": role, "what": "gives credentials whose use is recorded by nobody, if need be" }));
        }
        if policy.uses == 0 && policy.grant_ttl > 8 * 3600 {
            lines.push(
                json!({ "role": role, "what": "standing access in disguise: any number of uses for more than 8h" }),
            );
        }
        if !policy.break_glass_groups.is_empty() {
            lines.push(
                json!({ "role": role, "what": "can be had by break-glass", "groups": policy.break_glass_groups }),
            );
        }
    }
    let uncounted = uncounted(mount).await?;
    if uncounted > 0 {
        let what = "credentials of which nobody counted what was done (no pg_stat_statements)";
        lines.push(json!({ "credentials": uncounted, "what": what }));
    }
    for name in mount.ports.storage.list(preapproval::PREFIX, "", -1).await? {
        lines.push(json!({ "preapproval": name, "what": "approved beforehand" }));
    }
    Ok(lines.into())
}

/// Credentials of which somebody counted what was done, and that was nothing; of the last 30 days.
async fn nothing_done(mount: &Mount) -> Result<Vec<Value>, Error> {
    let since = evidence::stamp(unix_seconds(evidence::now(mount).await).saturating_sub(MONTH.as_secs()) * 1000);
    let (mut from, mut found) = (1, Vec::new());
    loop {
        let page = evidence::read(mount, from, 1000).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { return Ok(found) };
        let idle = page.iter().filter(|event| event["execution"]["statements"] == 0);
        let idle = idle.filter(|event| event["time"].as_str().is_some_and(|time| time >= since.as_str()));
        found.extend(idle.map(|event| json!({ "request_id": event["request_id"], "role": event["role"], "credential": event["credential"]["name"] })));
        from = last.max(from) + 1;
    }
}

/// Ends without an execution summary, in the whole record.
async fn uncounted(mount: &Mount) -> Result<usize, Error> {
    let (mut from, mut count) = (1, 0);
    loop {
        let page = evidence::read(mount, from, 1000).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { return Ok(count) };
        count += page.iter().filter(|event| event["execution"]["source"] == "none").count();
        from = last.max(from) + 1;
    }
}

async fn third_party(mount: &Mount) -> Result<Value, Error> {
    let now = evidence::now(mount).await;
    let soon = now + WEEK;
    let all = requests(mount, MONTH).await?;
    let lines = all.values().flatten().filter(|request| request.who.class == Class::ThirdParty).map(|request| {
        let end = rules::third_party_end(&request.who);
        json!({
            "request_id": request.id, "role": request.role, "requester": request.who.name, "state": request.state.name(),
            "about": request.who.about, "over": end.is_none_or(|end| now >= end), "ends_within_a_week": end.is_none_or(|end| soon >= end),
        })
    });
    Ok(lines.collect())
}

/// The host does not tell who is in a group, only in which groups somebody is: what can be seen is what is never enough, and
/// whether those who were here lately would be.
async fn unapprovable(mount: &Mount) -> Result<Value, Error> {
    let mut lines = Vec::new();
    let all = requests(mount, MONTH).await?;
    let people = approvers::seen(mount, all.values().flatten()).await?;
    for (role, gate, policy) in gated(mount).await? {
        match policy {
            None => {
                lines.push(json!({ "role": role, "why": format!("its policy {:?} does not exist", gate.jit_policy) }))
            }
            Some(policy) if policy.never => lines.push(json!({ "role": role, "why": "never=true" })),
            Some(policy) if policy.approval == Approval::Manual && policy.steps.is_empty() => {
                lines.push(json!({ "role": role, "why": "no steps" }));
            }
            Some(policy) if !policy.steps.is_empty() => {
                let able = approvers::able(&policy, &people);
                if !able.is_full() {
                    lines.push(json!({
                        "role": role,
                        "certain": false,
                        "why": format!(
                            "of {} people who asked or voted here in 30 days, not enough are in its groups now: {} of {} \
                             votes; who was never here is not known",
                            people.len(), able.given, able.needed
                        ),
                    }));
                }
            }
            Some(_) => {}
        }
    }
    Ok(lines.into())
}

async fn glass(mount: &Mount) -> Result<Value, Error> {
    let all = requests(mount, MONTH).await?;
    let used: Vec<Value> = all
        .values()
        .flatten()
        .filter(|request| request.mode == Mode::BreakGlass)
        .map(|r| json!({ "request_id": r.id, "role": r.role, "requester": r.who.name, "reason": r.reason, "incident": r.ticket, "filed": evidence::stamp(r.filed * 1000) }))
        .collect();
    let now = unix_seconds(evidence::now(mount).await);
    let owed = emergency::owed(mount).await?;
    let overdue: Vec<&String> = owed.iter().filter(|(_, owed)| now > owed.due).map(|(id, _)| id).collect();
    let open: Vec<&String> = owed.iter().map(|(id, _)| id).collect();
    Ok(json!({ "used_in_30_days": used, "reviews_open": open, "reviews_overdue": overdue }))
}

/// Counted from the record itself.
async fn metrics(mount: &Mount) -> Result<Value, Error> {
    let (mut from, mut kinds) = (1, BTreeMap::<String, u64>::new());
    let mut contained: Vec<u64> = Vec::new();
    loop {
        let page = evidence::read(mount, from, 1000).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { break };
        for event in page.iter().filter(|event| event["drill"] != true || event["kind"] == "breakglass.used") {
            *kinds.entry(event["kind"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            contained.extend(event["end"]["milliseconds"].as_u64());
        }
        from = last.max(from) + 1;
    }
    contained.sort_unstable();
    let at = |share: usize| contained.get((contained.len() * share / 100).min(contained.len().saturating_sub(1)));
    let count = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
    let (verified, left) = (count("revoke.verified"), count("revoke.contained"));
    // Who decides within ten seconds has not read it.
    let requests = requests(mount, MONTH).await?;
    let hasty =
        requests.values().flatten().flat_map(|r| r.votes.iter().map(move |vote| vote.at.saturating_sub(r.filed)));
    let hasty = hasty.filter(|seconds| *seconds < 10).count();
    let mut approvers = BTreeMap::<&str, u64>::new();
    let votes = requests.values().flatten().flat_map(|request| &request.votes).filter(|vote| vote.approve);
    votes.for_each(|vote| *approvers.entry(vote.who.name.as_str()).or_default() += 1);
    let stuck = requests.values().flatten().filter(|request| request.state == State::Remnant).count();
    Ok(json!({
        "events": kinds,
        "issued": count("issue.done"),
        "ends_verified": verified,
        "ends_contained_only": left,
        "verified_per_mille": (verified + left > 0).then(|| verified * 1000 / (verified + left)),
        "milliseconds_to_end_p50": at(50),
        "milliseconds_to_end_p99": at(99),
        "approved_by_policy": count("decision.auto"),
        "approved_by_people": count("decision.approved"),
        "votes_within_10_seconds": hasty,
        "approvals_by_approver": approvers,
        "remnants_open": stuck,
        "break_glass": count("breakglass.used"),
    }))
}
