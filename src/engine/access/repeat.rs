//! Decides again what the record says was decided: by the text of the policy that is in the record, and by the facts that
//! were written with the decision. Asks nobody, so that it works on an export too.
//!
//! What others answered at the time (tickets, freezes, proofs, the limits of how often and how many) is not judged anew.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cedar::{self, Action, Judged, Moment, Rules};
use super::identity::{Class, Who};
use super::policy::{Approval, Policy, Tier};
use super::request::Mode;
use super::rules::{self, Act, Said};
use super::{emergency, votes};
use crate::engine::evidence::event::{canonical, hex};
use crate::engine::intent::unix_seconds;

/// In an event: what the decision rested on.
pub const FIELD: &str = "facts";
/// How many requests are remembered at a time, and how many decisions are named of which nothing could be said.
const KEPT: usize = 100_000;
const NAMED: usize = 100;

/// What a decision rested on, besides the request and the policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    /// When, unix seconds.
    at: u64,
    /// Who asked, as they were at that moment.
    who: Who,
    /// Whose votes counted, as they were at that moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters: Vec<Who>,
    /// What rules in Cedar were told besides; missing if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<cedar::Told>,
}

/// The facts of a decision, for its event.
pub fn facts(who: &Who, voters: &[Who], judged: &Judged, now: SystemTime) -> Value {
    // Which of several entities are one person has been seen to.
    let plain = |who: &Who| Who { person: String::new(), ..who.clone() };
    let voters = voters.iter().map(plain).collect();
    let facts = Facts { at: unix_seconds(now), who: plain(who), voters, told: judged.told };
    serde_json::to_value(facts).unwrap_or(Value::Null)
}

/// What came of deciding again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// How many came out as the record says.
    pub repeated: u64,
    /// Those that did not.
    pub otherwise: Vec<Line>,
    /// How many could not be decided again.
    pub unrepeatable: u64,
    /// The first of those, with what is missing.
    pub first_unrepeatable: Vec<Line>,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The number of its event.
    pub seq: u64,
    /// The kind of its event.
    pub kind: String,
    /// The request.
    pub request_id: String,
    /// What is missing, or what comes out instead.
    pub why: String,
}

/// What is needed of a request.
#[derive(Debug)]
struct Asked {
    role: String,
    tier: Tier,
    params: BTreeMap<String, String>,
    reason: String,
    ticket: String,
    purpose: String,
    mode: Option<Mode>,
}

/// A policy whose text is in the record.
#[derive(Debug)]
struct Known {
    policy: Policy,
    rules: Option<Result<Rules, String>>,
}

/// Goes through a record.
#[derive(Debug, Default)]
pub struct Repeater {
    policies: HashMap<String, Known>,
    /// By id: the oldest is forgotten first.
    requests: BTreeMap<String, Asked>,
    decisions: Decisions,
}

impl Repeater {
    /// The next event, which is what it was.
    pub fn event(&mut self, event: &Value) {
        let kind = event["kind"].as_str().unwrap_or_default();
        match kind {
            "policy.written" => self.learn(&event["text"]),
            "request.filed" | "breakglass.used" => self.filed(event),
            _ => {}
        }
        let mode = match kind {
            "decision.auto" => Mode::Auto,
            "decision.approved" => Mode::Manual,
            "decision.preapproved" => Mode::Preapproved,
            "breakglass.used" => Mode::BreakGlass,
            // Nothing was decided, and nobody got anything.
            "decision.drill" => {
                self.drilled(event);
                return;
            }
            "issue.intent" if self.is_drill(event) => return,
            "issue.intent" => return self.tell(event, kind, self.issue(event)),
            _ => return,
        };
        let id = event["request_id"].as_str().unwrap_or_default();
        if let Some(asked) = self.requests.get_mut(id) {
            asked.mode = Some(mode);
        }
        self.tell(event, kind, self.decision(event, mode));
    }

    fn drilled(&mut self, event: &Value) {
        if let Some(asked) = event["request_id"].as_str().and_then(|id| self.requests.get_mut(id)) {
            asked.mode = Some(Mode::Drill);
        }
    }

    fn is_drill(&self, event: &Value) -> bool {
        let asked = event["request_id"].as_str().and_then(|id| self.requests.get(id));
        asked.is_some_and(|asked| asked.mode == Some(Mode::Drill))
    }

    /// That was all.
    pub fn end(self) -> Decisions {
        self.decisions
    }

    fn tell(&mut self, event: &Value, kind: &str, outcome: Result<Result<(), String>, &'static str>) {
        let line = |why: String| Line {
            seq: event["seq"].as_u64().unwrap_or(0),
            kind: kind.to_owned(),
            request_id: event["request_id"].as_str().unwrap_or_default().to_owned(),
            why,
        };
        match outcome {
            Ok(Ok(())) => self.decisions.repeated += 1,
            Ok(Err(why)) => self.decisions.otherwise.push(line(why)),
            Err(missing) => {
                self.decisions.unrepeatable += 1;
                if self.decisions.first_unrepeatable.len() < NAMED {
                    self.decisions.first_unrepeatable.push(line(missing.to_owned()));
                }
            }
        }
    }

    /// The text of a policy. It is known by its own hash.
    pub fn learn(&mut self, text: &Value) {
        let Ok(policy) = serde_json::from_value::<Policy>(text.clone()) else { return };
        let written = hex(&Sha256::digest(canonical(text)));
        // A later version knows more fields, and names the same text by another hash.
        for hash in [written, policy.hash()] {
            let rules = (!policy.cedar.is_empty()).then(|| Rules::read(&policy.cedar));
            self.policies.insert(hash, Known { policy: policy.clone(), rules });
        }
    }

    fn filed(&mut self, event: &Value) {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let id = text("request_id");
        let ticket = if event["incident"].is_string() { text("incident") } else { text("ticket") };
        let asked = Asked {
            role: text("role"),
            tier: serde_json::from_value(event["tier"].clone()).unwrap_or_default(),
            params: serde_json::from_value(event["params"].clone()).unwrap_or_default(),
            reason: text("reason"),
            ticket,
            purpose: text("purpose"),
            mode: None,
        };
        self.requests.insert(id, asked);
        if self.requests.len() > KEPT {
            self.requests.pop_first();
        }
    }

    /// What the decision rested on.
    fn ground(&self, event: &Value, hash: &Value) -> Result<(&Known, &Asked, Facts), &'static str> {
        let hash = hash.as_str().unwrap_or_default();
        let known = self.policies.get(hash).ok_or("the text of its policy is not in what was read")?;
        let id = event["request_id"].as_str().unwrap_or_default();
        let asked = self.requests.get(id).ok_or("its request is not in what was read")?;
        let facts = serde_json::from_value(event[FIELD].clone());
        let facts: Facts = facts.map_err(|_| "the facts of that moment were not recorded")?;
        Ok((known, asked, facts))
    }

    fn decision(&self, event: &Value, mode: Mode) -> Result<Result<(), String>, &'static str> {
        let hash = if mode == Mode::BreakGlass { &event["policy"]["hash"] } else { &event["decision"]["policy_hash"] };
        let (known, asked, facts) = self.ground(event, hash)?;
        let policy = &known.policy;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(facts.at);
        let fields = match mode {
            Mode::BreakGlass => emergency::permit(policy, &facts.who).map_err(|e| e.to_string()),
            _ => rules::permit(policy, &facts.who, Act::Ask, now).map_err(|e| e.to_string()),
        };
        let agreed = || match mode {
            Mode::BreakGlass | Mode::Drill => Ok(()),
            Mode::Auto => by_itself(policy, asked, &facts.who),
            Mode::Manual => enough_votes(policy, &facts),
            Mode::Preapproved => enough_beforehand(policy, &facts),
        };
        let action = match mode {
            Mode::BreakGlass => Action::BreakGlass,
            Mode::Auto => Action::AutoApprove,
            Mode::Manual => Action::Approve,
            Mode::Preapproved | Mode::Drill => Action::Request,
        };
        let judged = known.judge(action, asked, &facts)?;
        Ok(fields.and_then(|()| agreed()).and(judged).and_then(|rules| same(event, &rules)))
    }

    fn issue(&self, event: &Value) -> Result<Result<(), String>, &'static str> {
        let (known, asked, facts) = self.ground(event, &event["policy_hash"])?;
        let mode = asked.mode.ok_or("its approval is not in what was read")?;
        let policy = &known.policy;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(facts.at);
        let fields = match mode {
            Mode::BreakGlass => emergency::permit(policy, &facts.who).map_err(|e| e.to_string()),
            _ => rules::permit(policy, &facts.who, Act::Issue, now).map_err(|e| e.to_string()),
        };
        let agreed = || match (mode, policy.approval) {
            (Mode::BreakGlass | Mode::Drill, _) | (Mode::Auto, Approval::Auto) => Ok(()),
            (Mode::Auto, Approval::Manual) => Err("the policy asks for people who approve".to_owned()),
            (Mode::Preapproved, _) => enough_beforehand(policy, &facts),
            (Mode::Manual, Approval::Auto) if policy.steps.is_empty() => Ok(()),
            (Mode::Manual, _) => enough_votes(policy, &facts),
        };
        let action = if mode == Mode::BreakGlass { Action::BreakGlass } else { Action::Issue };
        let judged = known.judge(action, asked, &facts)?;
        Ok(fields.and_then(|()| agreed()).and(judged).and_then(|rules| same(event, &rules)))
    }
}

impl Known {
    fn judge(&self, action: Action, asked: &Asked, facts: &Facts) -> Result<Result<Vec<String>, String>, &'static str> {
        let rules = match &self.rules {
            None => return Ok(Ok(Vec::new())),
            Some(Ok(rules)) => rules,
            Some(Err(_)) => return Err("its rules in Cedar cannot be read by this version"),
        };
        let told = facts.told.ok_or("what its rules in Cedar were told was not recorded")?;
        let moment = Moment {
            who: &facts.who,
            role: &asked.role,
            tier: asked.tier,
            reason: &asked.reason,
            ticket: &asked.ticket,
            purpose: &asked.purpose,
            params: &asked.params,
            ttl: told.ttl,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(facts.at),
            live: told.live,
            coverage: told.coverage,
            approvals: told.approvals,
            frozen: told.frozen,
        };
        Ok(rules.decide(action, &moment).map_err(|why| format!("cedar: {why}")))
    }
}

fn by_itself(policy: &Policy, asked: &Asked, who: &Who) -> Result<(), String> {
    if policy.approval != Approval::Auto || who.class == Class::ThirdParty {
        return Err("it does not approve this by itself".into());
    }
    let said = Said { reason: &asked.reason, ticket: &asked.ticket, purpose: &asked.purpose };
    rules::enough(policy, &said).map_err(|e| e.to_string())
}

fn enough_votes(policy: &Policy, facts: &Facts) -> Result<(), String> {
    if votes::is_enough(policy, &facts.who, &facts.voters) { Ok(()) } else { Err(too_few(policy, facts)) }
}

fn enough_beforehand(policy: &Policy, facts: &Facts) -> Result<(), String> {
    let tally = votes::tally(&policy.steps, policy.distinct_groups, &facts.voters);
    if tally.is_full() { Ok(()) } else { Err(too_few(policy, facts)) }
}

fn too_few(policy: &Policy, facts: &Facts) -> String {
    let tally = votes::tally(&policy.steps, policy.distinct_groups, &facts.voters);
    format!("only {} of {} votes count, or the sponsor's is missing", tally.given, tally.needed)
}

/// Whether the rules that the event names are those.
fn same(event: &Value, rules: &[String]) -> Result<(), String> {
    let recorded = event["rules"].as_array().cloned().unwrap_or_default();
    if json!(recorded) == json!(rules) {
        Ok(())
    } else {
        Err(format!("it is permitted by {}, and the record names {}", rules.join(", "), json!(recorded)))
    }
}
