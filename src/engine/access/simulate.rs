//! `policies/:name/simulate`: what a change of a policy would have decided differently of the requests there were. Writes
//! nothing and mints nothing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::cedar::{Action, Moment, Rules, Told};
use super::freeze::{self, Freeze};
use super::policy::{self, Approval, Policy};
use super::request::{AccessRequest, DONE, Mode, OPEN};
use super::rules::{self, Act, Said};
use super::{coverage, votes};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::request::{Reply, Response};

/// The most requests that are judged.
const MOST: usize = 10_000;
/// The window of `coverage`, in seconds.
const DAY: u64 = 86_400;

/// POST `policies/:name/simulate`.
pub async fn run(mount: &Mount, name: &str, input: &Input) -> Reply {
    let Some(stored) = Policy::load(mount, name).await? else { return Ok(None) };
    let mut candidate = stored.clone();
    policy::lay_over(&mut candidate, input).map_err(Error::Refused)?;
    let warnings = policy::judge(&candidate).map_err(Error::Refused)?;
    let most = usize::try_from(input.int_or_preset("replay_last")).unwrap_or(0).clamp(1, MOST);
    let requests = past(mount, name, most).await?;
    let history = History::read(mount, &requests, &[&stored, &candidate]).await?;
    let (before, after) = (Judge::new(&stored, &history)?, Judge::new(&candidate, &history)?);
    let (mut differences, mut counts) = (Vec::new(), BTreeMap::<&str, u64>::new());
    for request in &requests {
        // By what there was when it was filed. Limits are left out: they depend on what else there would have been.
        let (was, is) = (before.judge(request), after.judge(request));
        *counts.entry(is.word()).or_default() += 1;
        if was != is {
            differences.push(json!({
                "request_id": request.id, "role": request.role, "requester": request.who.name,
                "stored": was.text(), "candidate": is.text(), "really": request.state.name(),
            }));
        }
    }
    Ok(Some(Response {
        warnings,
        ..Response::data([
            ("policy_hash", json!(stored.hash())),
            ("candidate_hash", json!(candidate.hash())),
            ("judged", json!(requests.len())),
            ("candidate_decides", json!(counts)),
            ("differences", json!(differences)),
            ("not_judged", json!("max_active, max_coverage, max_requests_per_day, cooldown, tickets, proofs, reviews")),
        ])
    }))
}

/// The newest requests by a policy, oldest first.
async fn past(mount: &Mount, name: &str, most: usize) -> Result<Vec<AccessRequest>, Error> {
    let storage = &mount.ports.storage;
    let mut keys = Vec::new();
    for folder in [OPEN, DONE] {
        for role in storage.list(folder, "", -1).await? {
            for id in storage.list(&format!("{folder}{role}"), "", -1).await? {
                keys.push((id.clone(), format!("{folder}{role}{id}")));
            }
        }
    }
    keys.sort_unstable();
    let mut found = Vec::new();
    for (_, key) in keys.iter().rev() {
        if found.len() >= most {
            break;
        }
        let request = AccessRequest::at(mount, key).await?;
        found.extend(
            request.filter(|request| request.policy == name && !matches!(request.mode, Mode::BreakGlass | Mode::Drill)),
        );
    }
    found.reverse();
    Ok(found)
}

/// What a policy would say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Approved,
    /// By people, and those who voted are not enough.
    Waits(u32, u32),
    Refused(String),
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Waits(..) => "waits",
            Self::Refused(_) => "refused",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Approved => "approved".into(),
            Self::Waits(given, needed) => format!("waits for votes: {given}/{needed}"),
            Self::Refused(why) => format!("refused: {why}"),
        }
    }
}

/// What there was beside each request.
struct History {
    /// By role, those of the time before the first that is judged and all later ones.
    requests: BTreeMap<String, Vec<AccessRequest>>,
    /// Each with when it was written, and when it was taken away, unix milliseconds.
    freezes: Vec<(Freeze, u64, u64)>,
}

impl History {
    /// Reads what rules of these policies speak of.
    async fn read(mount: &Mount, judged: &[AccessRequest], policies: &[&Policy]) -> Result<Self, Error> {
        let speaks_of = |word: &str| policies.iter().any(|policy| policy.cedar.contains(word));
        let mut history = Self { requests: BTreeMap::new(), freezes: Vec::new() };
        let first = judged.first().filter(|_| speaks_of("live") || speaks_of("coverage"));
        if let Some(first) = first {
            let first = SystemTime::UNIX_EPOCH + Duration::from_secs(first.filed);
            for role in judged.iter().map(|request| &request.role) {
                if !history.requests.contains_key(role) {
                    let all = coverage::used(mount, role, first, DAY).await?;
                    history.requests.insert(role.clone(), all);
                }
            }
        }
        if speaks_of("frozen") {
            history.freezes = freeze::past(mount).await?;
        }
        Ok(history)
    }

    /// As [`super::cedar::judge`] would have counted it when the request was filed.
    fn told(&self, request: &AccessRequest, ttl: u64) -> Told {
        let now = request.filed;
        let all = self.requests.get(&request.role).map(Vec::as_slice).unwrap_or_default();
        let had = |other: &&AccessRequest| {
            let held = other.approved > 0 && other.approved <= now && (other.closed == 0 || other.closed > now);
            other.id < request.id && held && other.who.is_same_person(&request.who)
        };
        let there = |(freeze, from, to): &(Freeze, u64, u64)| {
            let then = *from / 1000 <= now && now < *to / 1000;
            then && !freeze.flag_only && freeze.covers(&request.role, now)
        };
        Told {
            ttl,
            live: all.iter().filter(had).count() as u64,
            coverage: coverage::share(all, &request.who, now, DAY),
            approvals: request.votes.iter().filter(|vote| vote.approve).count() as u64,
            frozen: self.freezes.iter().any(there),
        }
    }
}

struct Judge<'a> {
    policy: &'a Policy,
    history: &'a History,
    rules: Option<Rules>,
}

impl<'a> Judge<'a> {
    fn new(policy: &'a Policy, history: &'a History) -> Result<Self, Error> {
        let rules = if policy.cedar.is_empty() {
            None
        } else {
            Some(Rules::read(&policy.cedar).map_err(|e| Error::Refused(format!("cedar: {e}")))?)
        };
        Ok(Self { policy, history, rules })
    }

    fn judge(&self, request: &AccessRequest) -> Verdict {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(request.filed);
        let refused = |e: Error| Verdict::Refused(e.to_string());
        // Outside the hours nothing would have been issued.
        if let Err(e) = rules::permit(self.policy, &request.who, Act::Issue, now) {
            return refused(e);
        }
        let said = Said { reason: &request.reason, ticket: &request.ticket, purpose: &request.purpose };
        if request.mode != Mode::Preapproved
            && let Err(e) = rules::enough(self.policy, &said)
        {
            return refused(e);
        }
        if let Err(why) = self.ask(Action::Request, request, now) {
            return Verdict::Refused(why);
        }
        let manual = self.policy.approval == Approval::Manual;
        if !manual && self.ask(Action::AutoApprove, request, now).is_ok() {
            return self.issue(request, now);
        }
        if !manual && self.policy.steps.is_empty() {
            return Verdict::Refused("cedar: it does not approve by itself, and there are no steps".into());
        }
        let voters: Vec<_> = request.votes.iter().filter(|vote| vote.approve).map(|vote| vote.who.clone()).collect();
        let tally = votes::tally(&self.policy.steps, self.policy.distinct_groups, &voters);
        if !votes::is_enough(self.policy, &request.who, &voters) {
            return Verdict::Waits(tally.given, tally.needed);
        }
        match self.ask(Action::Approve, request, now) {
            Ok(()) => self.issue(request, now),
            Err(why) => Verdict::Refused(why),
        }
    }

    fn issue(&self, request: &AccessRequest, now: SystemTime) -> Verdict {
        self.ask(Action::Issue, request, now).map_or_else(Verdict::Refused, |()| Verdict::Approved)
    }

    fn ask(&self, action: Action, request: &AccessRequest, now: SystemTime) -> Result<(), String> {
        let Some(rules) = &self.rules else { return Ok(()) };
        let ttl = if request.ttl > 0 { request.ttl } else { self.policy.grant_ttl };
        let told = self.history.told(request, ttl);
        let moment = Moment {
            who: &request.who,
            role: &request.role,
            tier: self.policy.tier,
            reason: &request.reason,
            ticket: &request.ticket,
            purpose: &request.purpose,
            params: &request.params,
            now,
            ttl: told.ttl,
            live: told.live,
            coverage: told.coverage,
            approvals: told.approvals,
            frozen: told.frozen,
        };
        rules.decide(action, &moment).map(drop).map_err(|why| format!("cedar: {why}"))
    }
}
