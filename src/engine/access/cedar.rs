//! Rules of a policy in Cedar. The structured fields of the policy are judged first, always; these can only narrow what
//! they allow, but for `auto_approve`, which decides whether a request needs people at all.
//!
//! What is not permitted is denied, and so is everything when a rule cannot be evaluated: Cedar itself skips such a rule,
//! and a skipped `forbid` would let somebody in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet,
    Request as Question, RestrictedExpression as Expression, Schema, ValidationMode, Validator,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::identity::Who;
use super::policy::{Policy, Tier};
use super::request::{AccessRequest, State};
use super::{coverage, freeze, rules};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;

/// What rules can speak of. Times of day are UTC; `weekday` is 1 on Mondays; `coverage` is in thousandths of the last 24
/// hours; `live` counts other grants of the caller for the role.
pub const SCHEMA: &str = "\
entity Group;
entity Caller in [Group] = { class: String, name: String, sponsor?: String, org?: String };
entity Role = { name: String, tier: String };
action request, auto_approve, approve, issue, renew, break_glass appliesTo {
  principal: Caller, resource: Role, context: {
    reason: String, ticket?: String, purpose?: String, params: Set<String>, ttl: Long, hour: Long, weekday: Long,
    live: Long, coverage: Long, approvals: Long, frozen: Bool
  }
};
";

/// The longest text of rules.
const LONGEST: usize = 64 * 1024;
/// How many texts are kept parsed.
const KEPT: usize = 64;
/// The window of `coverage`.
const DAY: u64 = 86_400;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A request is filed.
    Request,
    /// It is approved without people.
    AutoApprove,
    /// The last vote that it needs has come.
    Approve,
    /// A credential is issued of it.
    Issue,
    /// What was issued goes on: asked at each renewal, and twice a minute.
    Renew,
    /// Somebody takes access without anybody's agreement.
    BreakGlass,
}

impl Action {
    /// As rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::AutoApprove => "auto_approve",
            Self::Approve => "approve",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::BreakGlass => "break_glass",
        }
    }
}

/// All that a decision depends on.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    /// Who asks.
    pub who: &'a Who,
    /// For which role.
    pub role: &'a str,
    /// How much harm it can do.
    pub tier: Tier,
    /// Why.
    pub reason: &'a str,
    /// The ticket, or nothing.
    pub ticket: &'a str,
    /// What for, or nothing.
    pub purpose: &'a str,
    /// What narrows the role.
    pub params: &'a BTreeMap<String, String>,
    /// How long, in seconds.
    pub ttl: u64,
    /// When.
    pub now: SystemTime,
    /// Other grants of the caller for the role.
    pub live: u64,
    /// How much of the last day the caller held the role, in thousandths.
    pub coverage: u64,
    /// Votes for it.
    pub approvals: u64,
    /// The role is frozen.
    pub frozen: bool,
}

/// What a decision depends on besides the request, the caller and the time: see [`Moment`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// How long, in seconds.
    pub ttl: u64,
    /// Other grants of the caller for the role.
    pub live: u64,
    /// How much of the last day the caller held the role, in thousandths.
    pub coverage: u64,
    /// Votes for it.
    pub approvals: u64,
    /// The role is frozen.
    pub frozen: bool,
}

/// What rules have permitted.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// Those that did.
    pub rules: Vec<String>,
    /// What they were told; `None` if there are none.
    pub told: Option<Told>,
}

/// Rules that were read.
#[derive(Debug)]
pub struct Rules(PolicySet);

static SCHEMA_READ: LazyLock<Result<Schema, String>> =
    LazyLock::new(|| Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|e| e.to_string()));

/// The types, parsed once.
static TYPES: LazyLock<Option<[EntityTypeName; 4]>> = LazyLock::new(|| {
    let name = |text| EntityTypeName::from_str(text).ok();
    Some([name("Caller")?, name("Role")?, name("Group")?, name("Action")?])
});

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn long(number: u64) -> Expression {
    Expression::new_long(i64::try_from(number).unwrap_or(i64::MAX))
}

fn text(text: &str) -> Expression {
    Expression::new_string(text.to_owned())
}

impl Rules {
    /// Reads rules and holds them against [`SCHEMA`].
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(source: &str) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes"));
        }
        let set = PolicySet::from_str(source).map_err(|e| e.to_string())?;
        if set.templates().next().is_some() {
            return Err("templates have nothing to be filled with here".into());
        }
        if set.is_empty() {
            return Err("there is no rule in it, so nothing would be permitted".into());
        }
        let schema = SCHEMA_READ.as_ref().map_err(Clone::clone)?;
        let judged = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        match judged.validation_errors().next() {
            Some(error) => Err(error.to_string()),
            None => Ok(Self(set)),
        }
    }

    /// Whether the rules permit it: the names of those that do (their `@id`, else their number).
    ///
    /// # Errors
    /// The names of those that forbid it, or what could not be evaluated.
    pub fn decide(&self, action: Action, moment: &Moment<'_>) -> Result<Vec<String>, String> {
        let response = self.ask(action, moment)?;
        let names = |source: &mut dyn Iterator<Item = &cedar_policy::PolicyId>| {
            let mut names: Vec<String> =
                source.map(|id| self.0.annotation(id, "id").map_or_else(|| id.to_string(), str::to_owned)).collect();
            names.sort_unstable();
            names
        };
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(format!("cannot be evaluated, which denies: {error}"));
        }
        let deciding = names(&mut response.diagnostics().reason());
        match response.decision() {
            Decision::Allow => Ok(deciding),
            Decision::Deny if deciding.is_empty() => Err(format!("nothing permits {}", action.name())),
            Decision::Deny => Err(format!("{} is forbidden by {}", action.name(), deciding.join(", "))),
        }
    }

    fn ask(&self, action: Action, moment: &Moment<'_>) -> Result<cedar_policy::Response, String> {
        let [caller, role, group, verb] = TYPES.as_ref().ok_or("the types cannot be read")?;
        let who = moment.who;
        let groups: HashSet<EntityUid> = who.groups.iter().map(|name| uid(group, name)).collect();
        let mut about =
            HashMap::from([("class".to_owned(), text(who.class.name())), ("name".to_owned(), text(&who.name))]);
        for key in ["sponsor", "org"] {
            if let Some(value) = who.about.get(key) {
                about.insert(key.to_owned(), text(value));
            }
        }
        let harm =
            HashMap::from([("name".to_owned(), text(moment.role)), ("tier".to_owned(), text(moment.tier.name()))]);
        let mut entities: Vec<Entity> =
            groups.iter().map(|group| Entity::new_no_attrs(group.clone(), HashSet::new())).collect();
        let (principal, resource) = (uid(caller, &who.entity_id), uid(role, moment.role));
        let wrong = |e: &dyn std::fmt::Display| format!("cannot be asked: {e}");
        entities.push(Entity::new(principal.clone(), about, groups).map_err(|e| wrong(&e))?);
        entities.push(Entity::new(resource.clone(), harm, HashSet::new()).map_err(|e| wrong(&e))?);
        let entities = Entities::from_entities(entities, None).map_err(|e| wrong(&e))?;
        let context = Context::from_pairs(moment.pairs()).map_err(|e| wrong(&e))?;
        let question = Question::new(principal, uid(verb, action.name()), resource, context, None);
        let question = question.map_err(|e| wrong(&e))?;
        Ok(Authorizer::new().is_authorized(&question, &self.0, &entities))
    }
}

impl Moment<'_> {
    fn pairs(&self) -> Vec<(String, Expression)> {
        let time = Timestamp::try_from(self.now).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC);
        let params = self.params.iter().map(|(name, value)| text(&format!("{name}={value}")));
        let mut pairs = vec![
            ("reason", text(self.reason)),
            ("params", Expression::new_set(params)),
            ("ttl", long(self.ttl)),
            ("hour", long(u64::try_from(time.hour()).unwrap_or(0))),
            ("weekday", long(u64::try_from(time.weekday().to_monday_one_offset()).unwrap_or(0))),
            ("live", long(self.live)),
            ("coverage", long(self.coverage)),
            ("approvals", long(self.approvals)),
            ("frozen", Expression::new_bool(self.frozen)),
        ];
        for (key, value) in [("ticket", self.ticket), ("purpose", self.purpose)] {
            if !value.is_empty() {
                pairs.push((key, text(value)));
            }
        }
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Rules that were read, by their text.
#[derive(Default)]
pub struct Cache(Mutex<HashMap<String, Arc<Rules>>>);

impl Cache {
    fn of(&self, source: &str) -> Result<Arc<Rules>, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = known.get(source) {
            return Ok(rules.clone());
        }
        let rules = Arc::new(Rules::read(source)?);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(source.to_owned(), rules.clone());
        Ok(rules)
    }
}

/// What the rules of a policy say of a request now: those that permit it, and by what. No rules, no objection.
///
/// # Errors
/// 403 `jit_policy` with what forbids it, or that it could not be evaluated.
pub async fn judge(
    mount: &Mount,
    policy: &Policy,
    (action, who): (Action, &Who),
    request: &AccessRequest,
    now: SystemTime,
) -> Result<Judged, Error> {
    if policy.cedar.is_empty() {
        return Ok(Judged::default());
    }
    let refused = |why: String| Error::Coded(403, format!("jit_policy: cedar: {why}"));
    let rules = mount.access.rules.of(&policy.cedar).map_err(refused)?;
    // What no rule speaks of need not be known.
    let speaks_of = |word: &str| policy.cedar.contains(word);
    let (mut live, mut share, mut frozen) = (0, 0, false);
    if speaks_of("live") {
        let open = rules::open(mount, &request.role).await?;
        let others = open.iter().filter(|other| other.id != request.id && other.who.is_same_person(who));
        live = others.filter(|other| other.state.is_usable() || other.state == State::Ending).count() as u64;
    }
    if speaks_of("coverage") {
        let used = coverage::used(mount, &request.role, now, DAY).await?;
        share = coverage::share(&used, who, unix_seconds(now), DAY);
    }
    if speaks_of("frozen") {
        frozen = match freeze::check(mount, &request.role).await {
            Ok(()) => false,
            Err(Error::Coded(..)) => true,
            Err(other) => return Err(other),
        };
    }
    let longest = if policy.cred_max_ttl > 0 { policy.cred_max_ttl.min(policy.grant_ttl) } else { policy.grant_ttl };
    let told = Told {
        ttl: if request.ttl > 0 { request.ttl.min(longest) } else { longest },
        live,
        coverage: share,
        approvals: request.votes.iter().filter(|vote| vote.approve).count() as u64,
        frozen,
    };
    let moment = Moment {
        who,
        role: &request.role,
        tier: policy.tier,
        reason: &request.reason,
        ticket: &request.ticket,
        purpose: &request.purpose,
        params: &request.params,
        ttl: told.ttl,
        now,
        live: told.live,
        coverage: told.coverage,
        approvals: told.approvals,
        frozen: told.frozen,
    };
    let rules = rules.decide(action, &moment).map_err(refused)?;
    Ok(Judged { rules, told: Some(told) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::access::identity::Class;

    fn ann() -> Who {
        Who {
            entity_id: "e1".into(),
            name: "ann".into(),
            class: Class::Human,
            person: String::new(),
            aliases: vec!["ann".into()],
            groups: BTreeSet::from(["devs".into()]),
            about: BTreeMap::new(),
        }
    }

    fn moment<'a>(who: &'a Who, params: &'a BTreeMap<String, String>, ticket: &'a str) -> Moment<'a> {
        Moment {
            who,
            role: "orders",
            tier: Tier::Medium,
            reason: "because",
            ticket,
            purpose: "",
            params,
            ttl: 600,
            now: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000),
            live: 0,
            coverage: 0,
            approvals: 0,
            frozen: false,
        }
    }

    #[test]
    fn rules_narrow_and_say_which_of_them_decided() {
        let rules = Rules::read(
            r#"@id("everybody") permit(principal in Group::"devs", action, resource);
               @id("no night work") forbid(principal, action == Action::"issue", resource) unless { context.hour >= 8 };
               @id("only with a ticket") forbid(principal, action == Action::"auto_approve", resource)
                 unless { context has ticket && context.ttl <= 900 && context.weekday == 5 };
               @id("no hr") forbid(principal, action, resource) when { context.params.contains("schema=hr") };"#,
        )
        .unwrap();
        let (who, none) = (ann(), BTreeMap::new());
        // 2027-01-15 08:00 UTC, a Friday.
        assert_eq!(rules.decide(Action::Issue, &moment(&who, &none, "")), Ok(vec!["everybody".into()]));
        let early = Moment {
            now: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_799_999_999),
            ..moment(&who, &none, "")
        };
        assert_eq!(rules.decide(Action::Issue, &early), Err("issue is forbidden by no night work".into()));
        assert!(
            rules.decide(Action::AutoApprove, &moment(&who, &none, "")).unwrap_err().contains("only with a ticket")
        );
        assert!(rules.decide(Action::AutoApprove, &moment(&who, &none, "CHG-1")).is_ok());
        let hr = BTreeMap::from([("schema".to_owned(), "hr".to_owned())]);
        assert!(rules.decide(Action::Request, &moment(&who, &hr, "")).unwrap_err().contains("no hr"));
        let stranger = Who { groups: BTreeSet::new(), ..ann() };
        assert_eq!(rules.decide(Action::Request, &moment(&stranger, &none, "")), Err("nothing permits request".into()));
    }

    /// Cedar skips a rule that it cannot evaluate; here that denies.
    #[test]
    fn what_cannot_be_evaluated_denies() {
        let rules = Rules::read(
            "permit(principal, action, resource); \
             forbid(principal, action, resource) when { context.ttl * 9223372036854775807 > 5 };",
        )
        .unwrap();
        let (who, none) = (ann(), BTreeMap::new());
        let refusal = rules.decide(Action::Issue, &moment(&who, &none, "")).unwrap_err();
        assert!(refusal.contains("cannot be evaluated, which denies"), "{refusal}");
    }

    #[test]
    fn rules_that_speak_of_what_there_is_not_are_refused() {
        for bad in [
            "",
            "permit(principal, action, resource)",
            "permit(principal == ?principal, action, resource);",
            "permit(principal, action == Action::\"drop\", resource);",
            "permit(principal, action, resource) when { context.colour == \"red\" };",
            // Without `has`, an attribute that may be missing.
            "permit(principal, action, resource) when { context.ticket == \"CHG\" };",
            "permit(principal, action, resource) when { context.ttl == \"600\" };",
        ] {
            assert!(Rules::read(bad).is_err(), "{bad}");
        }
    }
}
