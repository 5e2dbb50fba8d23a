//! What a policy says of a caller and a moment: the same rules when a request is filed, when it is approved, at each
//! issue and at each renewal.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::identity::{Class, Who};
use super::policy::Policy;
use super::policy::hours::Hours;
use super::request::{AccessRequest, DONE, OPEN, State, id_at};
use super::{coverage, pattern};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A request is filed or approved.
    Ask,
    /// A credential is issued or prolonged.
    Issue,
}

/// Whether the policy lets this caller do that now.
///
/// # Errors
/// 403 with the rule that does not.
pub fn permit(policy: &Policy, who: &Who, act: Act, now: SystemTime) -> Result<(), Error> {
    let refused = |why: String| Err(Error::Coded(403, format!("jit_policy: {why}")));
    if policy.never {
        return refused("access is never given by this policy (never=true)".into());
    }
    if !policy.eligible_classes.contains(&who.class) {
        let classes: Vec<&str> = policy.eligible_classes.iter().map(|class| class.name()).collect();
        return refused(format!("you are of class {}, and eligible_classes says {}", who.class, classes.join(", ")));
    }
    if !policy.eligible_groups.is_empty() && !policy.eligible_groups.iter().any(|group| who.groups.contains(group)) {
        return refused(format!("you are in none of the eligible_groups: {}", policy.eligible_groups.join(", ")));
    }
    if who.class == Class::ThirdParty {
        third_party(who, now)?;
    }
    if act == Act::Issue
        && !policy.hours.is_empty()
        && !Hours::parse(&policy.hours).is_ok_and(|hours| hours.are_now(now))
    {
        return refused(format!("not at this time: hours says {}", policy.hours));
    }
    Ok(())
}

/// Somebody of another organisation has a sponsor, and an end.
fn third_party(who: &Who, now: SystemTime) -> Result<(), Error> {
    let refused = |why: String| Err(Error::Coded(403, format!("jit_identity: {why}")));
    for key in ["sponsor", "end_date", "org"] {
        if who.about.get(key).is_none_or(String::is_empty) {
            return refused(format!("third parties need the metadata {key} on their entity"));
        }
    }
    match third_party_end(who) {
        Some(end) if now < end => Ok(()),
        Some(_) => refused(format!("your end_date {} is over", who.about["end_date"])),
        None => refused("end_date is no date as in 2027-01-31".into()),
    }
}

/// The end of a third party's last day (UTC).
pub fn third_party_end(who: &Who) -> Option<SystemTime> {
    let date: jiff::civil::Date = who.about.get("end_date")?.parse().ok()?;
    let end = date.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(end.timestamp().into())
}

/// What was said in a request.
pub struct Said<'a> {
    /// Why.
    pub reason: &'a str,
    /// The ticket.
    pub ticket: &'a str,
    /// What for.
    pub purpose: &'a str,
}

/// Whether it is enough.
///
/// # Errors
/// 400 with the field and what it must be.
pub fn enough(policy: &Policy, said: &Said<'_>) -> Result<(), Error> {
    let fits = |text: &str, rule: &str| pattern(rule).ok().flatten().is_none_or(|regex| regex.is_match(text));
    if (said.reason.trim().chars().count() as u64) < policy.require_reason {
        return Err(Error::Refused(format!("reason: at least {} characters are needed", policy.require_reason)));
    }
    if !fits(said.reason, &policy.reason_pattern) {
        return Err(Error::Refused(format!("reason: it has to match {}", policy.reason_pattern)));
    }
    if !policy.ticket_pattern.is_empty() && !fits(said.ticket, &policy.ticket_pattern) {
        return Err(Error::Refused(format!("ticket: one is needed that matches {}", policy.ticket_pattern)));
    }
    if !policy.purposes.is_empty() && !policy.purposes.iter().any(|purpose| purpose == said.purpose) {
        return Err(Error::Refused(format!("purpose: one of {}", policy.purposes.join(", "))));
    }
    Ok(())
}

/// What a value of a parameter may look like at all, whatever the role allows: nothing that means something in any SQL.
fn is_plain(value: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !value.is_empty() && value.len() <= 63 && value.chars().all(word) && !value.contains("--")
}

/// Whether these parameters narrow the role as it allows: each one that it knows, and no other.
///
/// # Errors
/// 400 with the parameter.
pub fn params(allowed: &BTreeMap<String, String>, given: &BTreeMap<String, String>) -> Result<(), Error> {
    for name in given.keys() {
        if !allowed.contains_key(name) {
            return Err(Error::Refused(format!("params: the role knows no parameter {name:?}")));
        }
    }
    for (name, rule) in allowed {
        let value = given.get(name);
        let fits = value.is_some_and(|value| {
            is_plain(value) && pattern(rule).ok().flatten().is_none_or(|regex| regex.is_match(value))
        });
        if !fits {
            return Err(Error::Refused(format!("params: {name} is needed, and has to match {rule}")));
        }
    }
    Ok(())
}

/// Requests of a role that are not over.
pub async fn open(mount: &Mount, role: &str) -> Result<Vec<AccessRequest>, Error> {
    at(mount, &format!("{OPEN}{role}/"), "").await
}

async fn at(mount: &Mount, folder: &str, after: &str) -> Result<Vec<AccessRequest>, Error> {
    let ids = mount.ports.storage.list(folder, after, -1).await?;
    let keys: Vec<String> = ids.iter().map(|id| format!("{folder}{id}")).collect();
    let found = futures_util::future::try_join_all(keys.iter().map(|key| AccessRequest::at(mount, key))).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Requests of a role that were filed in the last `span` and are over.
pub async fn recent(mount: &Mount, role: &str, now: SystemTime, span: Duration) -> Result<Vec<AccessRequest>, Error> {
    let from = now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH);
    at(mount, &format!("{DONE}{role}/"), &id_at(from)).await
}

/// A day: requests are counted by it.
const DAY: Duration = Duration::from_secs(86_400);

/// Whether the caller has not had, or asked, too much of a role.
///
/// # Errors
/// 429 `jit_limit` with the limit.
pub async fn limits(
    mount: &Mount,
    policy: &Policy,
    who: &Who,
    role: &str,
    open: &[AccessRequest],
    now: SystemTime,
) -> Result<(), Error> {
    let refused = |why: String| Err(Error::Coded(429, format!("jit_limit: {why}")));
    let own = |request: &&AccessRequest| request.who.is_same_person(who);
    let active = open.iter().filter(own).filter(|r| r.state.is_usable() || r.state == State::Ending).count();
    if policy.max_active > 0 && active >= policy.max_active as usize {
        return refused(format!("you have {active} grants of this role, and max_active says {}", policy.max_active));
    }
    if let Some((most, window)) = coverage::limit(&policy.max_coverage).ok().flatten() {
        let used = coverage::used(mount, role, now, window).await?;
        let share = coverage::share(&used, who, unix_seconds(now), window);
        if share > most {
            let show = |share: u64| format!("0.{share:03}");
            return refused(format!(
                "coverage {} of {window}s, and max_coverage says {}",
                show(share),
                policy.max_coverage
            ));
        }
    }
    if policy.max_requests_per_day == 0 && policy.cooldown == 0 {
        return Ok(());
    }
    let span = DAY.max(Duration::from_secs(policy.cooldown.saturating_add(policy.grant_ttl).min(30 * 86_400)));
    let done = recent(mount, role, now, span).await?;
    let since = unix_seconds(now).saturating_sub(DAY.as_secs());
    let today = open.iter().chain(&done).filter(own).filter(|request| request.filed > since).count();
    if policy.max_requests_per_day > 0 && today >= policy.max_requests_per_day as usize {
        return refused(format!(
            "{today} requests in 24 hours, and max_requests_per_day says {}",
            policy.max_requests_per_day
        ));
    }
    let last = done.iter().filter(own).filter(|request| request.used > 0).map(|request| request.closed).max();
    if let Some(until) =
        last.map(|closed| closed.saturating_add(policy.cooldown)).filter(|until| *until > unix_seconds(now))
    {
        let left = until - unix_seconds(now);
        return refused(format!("your last grant of this role ended a moment ago: cooldown ends in {left}s"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn no_parameter_is_more_than_a_word() {
        let allowed = pairs(&[("schema", "[a-z_]+.*")]);
        assert!(params(&allowed, &pairs(&[("schema", "sales_eu")])).is_ok());
        for value in [
            "",
            "a b",
            "a;DROP TABLE x",
            "a'--",
            "a\"",
            "a--b",
            "a/*",
            "a$$",
            "a\0",
            "a\n",
            "ä",
            "a)",
            "a,b",
            "{{name}}",
            "a`b",
            "a\\",
        ] {
            assert!(params(&allowed, &pairs(&[("schema", value)])).is_err(), "{value:?}");
        }
        assert!(params(&allowed, &pairs(&[("schema", "Sales")])).is_err(), "the role's own rule");
        assert!(params(&allowed, &pairs(&[])).is_err(), "a parameter that is left out narrows nothing");
        assert!(params(&allowed, &pairs(&[("schema", "a"), ("more", "b")])).is_err());
        assert!(params(&pairs(&[("a", "x")]), &pairs(&[("a", "xx")])).is_err(), "the whole value");
    }
}
