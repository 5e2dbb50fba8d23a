//! Writing a policy: what is refused, and what is only warned of.

use serde_json::{Value, json};

use super::hours::Hours;
use super::{Approval, PREFIX, Policy, Step, Tier, Unapproved};
use crate::engine::Mount;
use crate::engine::access::{cedar, coverage, emergency, identity::Class, pattern, proof, staged, token};
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::field::Input;
use crate::engine::request::{Reply, Request, Response};
use crate::secret::Secret;

const DAY: u64 = 86_400;

/// POST and PUT.
pub async fn write(mount: &Mount, name: &str, input: &Input, request: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let stored = Policy::load(mount, name).await?;
    let mut policy = stored.unwrap_or_default();
    lay_over(&mut policy, input).map_err(Error::Refused)?;
    let warnings = judge(&policy).map_err(Error::Refused)?;
    if let Some(mut response) = staged::stage(mount, &staged::of_policy(name), policy.value(), request).await? {
        response.warnings.extend(warnings);
        return Ok(Some(response));
    }
    store(mount, name, &policy, request).await?;
    Ok((!warnings.is_empty()).then(|| Response { warnings, ..Response::default() }))
}

/// Puts a policy into force, the record first.
///
/// # Errors
/// If either cannot be written.
pub async fn store(mount: &Mount, name: &str, policy: &Policy, request: &Request) -> Result<(), Error> {
    let draft = Draft::new("policy.written")
        .with("policy", name)
        .with("policy_hash", policy.hash())
        .with("text", policy.value())
        .with("actor", token(request));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.put(&format!("{PREFIX}{name}"), &Secret::new(policy.value().to_string()), false).await?;
    mount.access.stir();
    Ok(())
}

/// DELETE. Roles that name it can be used by nobody from then on.
pub async fn delete(mount: &Mount, name: &str, request: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let draft = Draft::new("policy.deleted").with("policy", name).with("actor", token(request));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.delete(&format!("{PREFIX}{name}")).await?;
    Ok(None)
}

/// Lays the fields of a write over a policy.
///
/// # Errors
/// What is wrong with them.
pub fn lay_over(policy: &mut Policy, input: &Input) -> Result<(), String> {
    let texts = [
        ("description", &mut policy.description),
        ("hours", &mut policy.hours),
        ("reason_pattern", &mut policy.reason_pattern),
        ("ticket_pattern", &mut policy.ticket_pattern),
        ("ticket_hook", &mut policy.ticket_hook),
        ("service_reason", &mut policy.service_reason),
        ("max_coverage", &mut policy.max_coverage),
        ("cedar", &mut policy.cedar),
    ];
    for (key, place) in texts {
        if let Some(text) = input.text(key) {
            text.clone_into(place);
        }
    }
    let lists = [
        ("eligible_groups", &mut policy.eligible_groups),
        ("purposes", &mut policy.purposes),
        ("owner_groups", &mut policy.owner_groups),
        ("break_glass_groups", &mut policy.break_glass_groups),
    ];
    for (key, place) in lists {
        if let Some(list) = input.list(key) {
            *place = list.iter().filter(|item| !item.is_empty()).cloned().collect();
        }
    }
    let spans = [
        ("forbid_reciprocal", &mut policy.forbid_reciprocal),
        ("pending_ttl", &mut policy.pending_ttl),
        ("activate_within", &mut policy.activate_within),
        ("grant_ttl", &mut policy.grant_ttl),
        ("cred_max_ttl", &mut policy.cred_max_ttl),
        ("cooldown", &mut policy.cooldown),
        ("refile_after", &mut policy.refile_after),
        ("proof_max_age", &mut policy.proof_max_age),
        ("overlap", &mut policy.overlap),
        ("end_idle", &mut policy.end_idle),
        ("max_ttl_unrecorded", &mut policy.max_ttl_unrecorded),
        ("slow_revoke", &mut policy.slow_revoke),
        ("max_ttl_slow_revoke", &mut policy.max_ttl_slow_revoke),
        ("break_glass_after", &mut policy.break_glass_after),
        ("break_glass_ttl", &mut policy.break_glass_ttl),
        ("break_glass_review_within", &mut policy.break_glass_review_within),
    ];
    for (key, place) in spans {
        if let Some(span) = input.span(key) {
            *place = span.as_secs();
        }
    }
    let numbers = [
        ("deny_threshold", &mut policy.deny_threshold),
        ("uses", &mut policy.uses),
        ("max_active", &mut policy.max_active),
        ("max_requests_per_day", &mut policy.max_requests_per_day),
        ("break_glass_open_reviews", &mut policy.break_glass_open_reviews),
    ];
    for (key, place) in numbers {
        if let Some(number) = input.int(key) {
            *place = u32::try_from(number).map_err(|_| format!("{key} cannot be {number}"))?;
        }
    }
    if let Some(number) = input.int("require_reason") {
        policy.require_reason = u64::try_from(number).map_err(|_| format!("require_reason cannot be {number}"))?;
    }
    if let Some(flag) = input.flag("never") {
        policy.never = flag;
    }
    if let Some(flag) = input.flag("distinct_groups") {
        policy.distinct_groups = flag;
    }
    if let Some(flag) = input.flag("end_with_ticket") {
        policy.end_with_ticket = flag;
    }
    if let Some(flag) = input.flag("supersede") {
        policy.supersede = flag;
    }
    if let Some(flag) = input.flag("break_glass_incident") {
        policy.break_glass_incident = flag;
    }
    if let Some(flag) = input.flag("verified_end") {
        policy.verified_end = flag;
    }
    if let Some(text) = input.text("require_proof") {
        policy.require_proof = word("require_proof", text, "none, workload, step_up")?;
    }
    if let Some(text) = input.text("tier") {
        policy.tier = word("tier", text, "low, medium, high, critical")?;
    }
    if let Some(text) = input.text("approval") {
        policy.approval = word("approval", text, "auto, manual")?;
    }
    if let Some(text) = input.text("recording") {
        policy.recording = word("recording", text, "off, prefer, require")?;
    }
    if let Some(text) = input.text("on_unapproved") {
        policy.on_unapproved = word("on_unapproved", text, "deny, file")?;
    }
    if let Some(list) = input.list("eligible_classes") {
        policy.eligible_classes = list.iter().map(|name| class(name)).collect::<Result<_, _>>()?;
    }
    if let Some(steps) = input.json("steps") {
        policy.steps = read_steps(steps)?;
    }
    Ok(())
}

fn word<T: serde::de::DeserializeOwned>(key: &str, text: &str, known: &str) -> Result<T, String> {
    serde_json::from_value(json!(text)).map_err(|_| format!("{key}: {text:?} is none of {known}"))
}

fn class(name: &str) -> Result<Class, String> {
    Class::named(name).ok_or_else(|| format!("{name:?} is none of human, service, agent and third_party"))
}

fn read_steps(steps: &Value) -> Result<Vec<Step>, String> {
    match steps {
        Value::Null => Ok(Vec::new()),
        // One step may stand alone.
        Value::Object(_) => read_steps(&json!([steps])),
        list => serde_json::from_value(list.clone())
            .map_err(|e| format!("steps: expected a list such as [{{\"groups\": [\"dba-leads\"], \"min\": 1}}]: {e}")),
    }
}

/// What is refused, and else what is warned of.
pub fn judge(policy: &Policy) -> Result<Vec<String>, String> {
    let manual = policy.approval == Approval::Manual;
    if !policy.hours.is_empty() {
        Hours::parse(&policy.hours).map_err(|e| format!("hours: {e}"))?;
    }
    for (key, text) in [("reason_pattern", &policy.reason_pattern), ("ticket_pattern", &policy.ticket_pattern)] {
        pattern(text).map_err(|e| format!("{key}: {e}"))?;
    }
    for (number, step) in policy.steps.iter().enumerate() {
        if step.groups.is_empty() || step.groups.iter().any(String::is_empty) {
            return Err(format!("steps: step {} names no group, so nobody could approve", number + 1));
        }
        if step.min == 0 {
            return Err(format!("steps: step {} asks for no vote; leave it out instead", number + 1));
        }
    }
    if manual && policy.steps.is_empty() && !policy.never {
        return Err("steps: nobody could approve; name the groups that do, or set approval=auto".into());
    }
    if !policy.ticket_hook.is_empty() && policy.ticket_pattern.is_empty() {
        return Err("ticket_hook: there would be no ticket to ask about; set ticket_pattern".into());
    }
    if policy.end_with_ticket && policy.ticket_hook.is_empty() {
        return Err("end_with_ticket: nobody would know of the end; set ticket_hook".into());
    }
    if !policy.cedar.is_empty() {
        cedar::Rules::read(&policy.cedar).map_err(|e| format!("cedar: {e}"))?;
    }
    if !manual && !policy.steps.is_empty() && policy.cedar.is_empty() {
        return Err("approval=auto and steps exclude each other, unless rules in cedar tell them apart".into());
    }
    if policy.distinct_groups
        && policy.steps.iter().map(|step| step.groups.len()).sum::<usize>() < policy.votes() as usize
    {
        return Err("distinct_groups: there are more votes to be given than groups to give them".into());
    }
    if policy.tier >= Tier::High && !manual && !policy.never {
        return Err("a policy of tier high or critical needs people who approve: approval=manual".into());
    }
    if policy.tier == Tier::Critical && policy.votes() < 2 && !policy.never {
        return Err("a policy of tier critical needs two votes at least".into());
    }
    if policy.proof_max_age == 0 || policy.proof_max_age > proof::OLDEST.as_secs() {
        return Err("proof_max_age: more than nothing and at most 1h".into());
    }
    if policy.deny_threshold == 0 {
        return Err("deny_threshold: at least 1".into());
    }
    if policy.pending_ttl == 0 || policy.pending_ttl > DAY {
        return Err("pending_ttl: more than nothing and at most 24h".into());
    }
    if policy.activate_within == 0 || policy.grant_ttl == 0 {
        return Err("activate_within and grant_ttl cannot be 0".into());
    }
    if policy.eligible_classes.is_empty() && !policy.never {
        return Err("eligible_classes: nobody could ask; set never=true if that is meant".into());
    }
    if policy.on_unapproved == Unapproved::File && (policy.service_reason.len() as u64) < policy.require_reason {
        return Err(
            "on_unapproved=file needs a service_reason that is long enough: reads have no reason of their own".into()
        );
    }
    coverage::limit(&policy.max_coverage).map_err(|e| format!("max_coverage: {e}"))?;
    if !policy.break_glass_groups.is_empty() && policy.steps.is_empty() && policy.owner_groups.is_empty() {
        return Err("break_glass_groups: nobody could review it; name steps or owner_groups".into());
    }
    if (1..60).contains(&policy.end_idle) {
        return Err("end_idle: at least 60s, for it is looked at twice a minute".into());
    }
    if policy.break_glass_after >= policy.pending_ttl {
        return Err("break_glass_after: no request waits for so long; see pending_ttl".into());
    }
    if policy.break_glass_ttl == 0 || policy.break_glass_ttl > emergency::LONGEST.as_secs() {
        return Err("break_glass_ttl: more than nothing and at most 1h".into());
    }
    let mut warnings = Vec::new();
    if policy.uses == 0 && policy.grant_ttl > 8 * 3600 {
        warnings.push("standing access in disguise: a grant of more than 8h with any number of uses".into());
    }
    if policy.max_active == 0 && policy.max_requests_per_day == 0 {
        warnings.push("nothing limits how often one person asks: see max_active and max_requests_per_day".into());
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manual(steps: &Value) -> Policy {
        Policy { steps: read_steps(steps).unwrap(), ..Policy::default() }
    }

    #[test]
    fn policies_that_would_let_everybody_in_are_refused() {
        let good = manual(&json!([{ "groups": ["leads"] }]));
        assert_eq!(judge(&good), Ok(vec![]));
        let refused: Vec<(Policy, &str)> = vec![
            (Policy::default(), "nobody could approve"),
            (manual(&json!([{ "groups": [] }])), "names no group"),
            (manual(&json!([{ "groups": ["leads"], "min": 0 }])), "no vote"),
            (Policy { tier: Tier::Critical, ..good.clone() }, "two votes"),
            (
                Policy { tier: Tier::High, approval: Approval::Auto, steps: vec![], ..good.clone() },
                "people who approve",
            ),
            (Policy { approval: Approval::Auto, ..good.clone() }, "exclude each other"),
            (Policy { cedar: "permit(".into(), ..good.clone() }, "cedar"),
            (Policy { pending_ttl: DAY + 1, ..good.clone() }, "at most 24h"),
            (Policy { deny_threshold: 0, ..good.clone() }, "at least 1"),
            (Policy { grant_ttl: 0, ..good.clone() }, "cannot be 0"),
            (Policy { eligible_classes: vec![], ..good.clone() }, "nobody could ask"),
            (Policy { hours: "always".into(), ..good.clone() }, "hours"),
            (Policy { ticket_pattern: "(".into(), ..good.clone() }, "ticket_pattern"),
            (Policy { max_coverage: "2/1h".into(), ..good.clone() }, "max_coverage"),
            (Policy { break_glass_ttl: 7200, ..good.clone() }, "at most 1h"),
            (Policy { on_unapproved: Unapproved::File, ..good.clone() }, "service_reason"),
            (
                Policy { distinct_groups: true, ..manual(&json!([{ "groups": ["leads"], "min": 2 }])) },
                "more votes to be given than groups",
            ),
        ];
        for (policy, wanted) in refused {
            let refusal = judge(&policy).unwrap_err();
            assert!(refusal.contains(wanted), "{refusal}");
        }
        let standing = Policy { uses: 0, grant_ttl: DAY, ..good };
        assert!(judge(&standing).unwrap()[0].contains("standing access in disguise"));
        assert!(read_steps(&json!([{ "groups": ["a"], "wrong": 1 }])).is_err());
    }
}
