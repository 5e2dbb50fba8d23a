//! The gate in front of a mint and a renewal: finds the caller's grant, judges it anew, and counts the use before
//! anything is made.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::cedar::Action;
use super::ending::{self, ISSUE_FIELD, REQUEST_FIELD, TARGET_FIELD};
use super::file::{self, Asked, Case, file};
use super::identity::Who;
use super::policy::{Approval, Policy, Proof, Recording, Unapproved};
use super::preapproval;
use super::proof::{self, Proven};
use super::request::{AccessRequest, Credential, Mode, State};
use super::rules::{self, Act};
use super::{Gate, campaign, cedar, config, drill, emergency, freeze, identity, pace, repeat, votes};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, checkpoint};
use crate::engine::field::weak;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Datum, Fields, Request};
use crate::secret::{Secret, password};

/// The longest that a read waits for an approval: the host gives up after 90 seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One use of a grant, for one credential. Nobody else uses the grant while this exists.
#[derive(Debug)]
pub struct Use {
    request: AccessRequest,
    issue_id: String,
    core_request_id: String,
    actor: Value,
    proven: Option<Proven>,
    /// The rules that permitted it.
    rules: Vec<String>,
    /// What the decision rested on.
    facts: Value,
    /// The text of the policy that did.
    policy_hash: String,
    recording: Recording,
    max_ttl_unrecorded: u64,
    /// How long an end may take, and the longest that a credential lasts where it takes longer.
    slow: (u64, u64),
    /// Whether the target records what the user does; `None` if nobody asked.
    recorded: Option<bool>,
    /// How long older credentials of the grant go on.
    overlap: Option<u64>,
    bound: SystemTime,
    _lock: OwnedMutexGuard<()>,
}

/// What a read says besides the role.
struct Wish {
    request_id: Option<String>,
    params: Option<BTreeMap<String, String>>,
    wait: Duration,
    proof: Option<Secret>,
}

impl Wish {
    fn of(data: &Fields) -> Result<Self, Error> {
        let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
        let params = match data.get("params") {
            None => None,
            Some(given) => Some(pairs(given)?),
        };
        let wait = match data.get("wait") {
            None => Duration::ZERO,
            Some(given) => crate::engine::go::GoDuration::from_value(given)
                .ok()
                .and_then(|duration| u64::try_from(duration.whole_seconds()).ok())
                .map(Duration::from_secs)
                .ok_or_else(|| Error::Refused("wait: a duration is needed, as 45s".into()))?,
        };
        let proof = text("identity_proof").map(Secret::new);
        Ok(Self { request_id: text("request_id"), params, wait: wait.min(LONGEST_WAIT), proof })
    }
}

/// `name=value` once or several times, or an object.
fn pairs(given: &Value) -> Result<BTreeMap<String, String>, Error> {
    let wrong = || Error::Refused("params: expected name=value".into());
    if let Some(pairs) = weak::texts(given) {
        return Ok(pairs);
    }
    let list = weak::list(given).map_err(|_| wrong())?;
    list.iter()
        .map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(wrong))
        .collect()
}

/// Leave to issue one credential of a gated role.
///
/// # Errors
/// 403 with what is missing and what to do about it; 429 if there were too many.
pub async fn enter(mount: &Mount, role: &str, gate: &Gate, source: &Request) -> Result<Use, Error> {
    let wish = Wish::of(&source.data)?;
    let until = mount.ports.clock.now() + wish.wait;
    loop {
        let changed = mount.access.changed.notified();
        let refusal = match attempt(mount, role, gate, &wish, source).await {
            Err(Error::Coded(403, text)) if text.starts_with(PENDING) => Error::Coded(403, text),
            other => return other,
        };
        let left = until.duration_since(mount.ports.clock.now()).unwrap_or_default();
        if left.is_zero() || tokio::time::timeout(left, changed).await.is_err() {
            return Err(refusal);
        }
    }
}

const PENDING: &str = "jit_pending";

async fn attempt(mount: &Mount, role: &str, gate: &Gate, wish: &Wish, source: &Request) -> Result<Use, Error> {
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let policy = Policy::of_role(mount, role, &gate.jit_policy).await?;
    let case = Case { role, gate, policy, who, settings };
    let found = find(mount, &case, wish).await?;
    let usable = found.iter().find(|request| request.has_use_left());
    if let Some(emergency) = usable.filter(|request| request.mode == Mode::BreakGlass) {
        return take(mount, &case, &emergency.id, wish, source).await;
    }
    rules::permit(&case.policy, &case.who, Act::Issue, evidence::now(mount).await)?;
    freeze::check(mount, role).await?;
    if let Some(usable) = usable {
        return take(mount, &case, &usable.id, wish, source).await;
    }
    if let Some(pending) = found.iter().find(|request| request.state == State::Pending) {
        return Err(pending_text(&case, pending));
    }
    let params = wish.params.clone().unwrap_or_default();
    if wish.request_id.is_none()
        && let Some((name, from, standing)) =
            preapproval::find(mount, &case, &params, evidence::now(mount).await).await?
    {
        let lock = mount.access.locks.hold(&format!("{role}/{}", case.who.entity_id)).await;
        // Somebody may have drawn the last one meanwhile.
        if preapproval::find(mount, &case, &params, evidence::now(mount).await).await?.is_none() {
            return Err(missing(&case, source, ""));
        }
        let request = file::draw(mount, &case, (&name, &from, &standing), source).await?;
        drop(lock);
        return take(mount, &case, &request.id, wish, source).await;
    }
    let asked = || Asked {
        reason: case.policy.service_reason.clone(),
        params: wish.params.clone().unwrap_or_default(),
        ..Asked::default()
    };
    match (case.policy.approval, case.policy.on_unapproved) {
        _ if wish.request_id.is_some() => Err(missing(&case, source, "there is no such request that you could use; ")),
        (Approval::Auto, _) => {
            let lock = mount.access.locks.hold(&format!("{role}/{}", case.who.entity_id)).await;
            let (request, _) = file(mount, &case, &asked(), Mode::Auto, source).await?;
            drop(lock);
            if request.state == State::Pending {
                return Err(pending_text(&case, &request));
            }
            take(mount, &case, &request.id, wish, source).await
        }
        (Approval::Manual, Unapproved::File) => {
            let _lock = mount.access.locks.hold(&format!("{role}/{}", case.who.entity_id)).await;
            refile_in_time(mount, &case).await?;
            let (request, _) = file(mount, &case, &asked(), Mode::Manual, source).await?;
            Err(pending_text(&case, &request))
        }
        (Approval::Manual, Unapproved::Deny) => Err(missing(&case, source, "")),
    }
}

/// The caller's open requests that the read may mean: whoever broke the glass means that, else the oldest first.
async fn find(mount: &Mount, case: &Case<'_>, wish: &Wish) -> Result<Vec<AccessRequest>, Error> {
    let mut found = rules::open(mount, case.role).await?;
    found.retain(|request| {
        request.who.entity_id == case.who.entity_id
            && wish.request_id.as_ref().is_none_or(|id| *id == request.id)
            && wish.params.as_ref().is_none_or(|params| *params == request.params)
    });
    let now = unix_seconds(evidence::now(mount).await);
    found.retain(|request| request.overdue(now) == super::request::Overdue::No);
    let place = |request: &AccessRequest| (request.mode != Mode::BreakGlass, request.id.clone());
    found.sort_by_cached_key(place);
    Ok(found)
}

/// A workload that reads again and again files one request, and the next one only some time after that came to nothing.
async fn refile_in_time(mount: &Mount, case: &Case<'_>) -> Result<(), Error> {
    let now = evidence::now(mount).await;
    let span = Duration::from_secs(case.policy.refile_after.saturating_add(case.policy.pending_ttl));
    let done = rules::recent(mount, case.role, now, span).await?;
    let vain = done.iter().filter(|request| {
        request.who.entity_id == case.who.entity_id && matches!(request.state, State::Lapsed | State::Denied)
    });
    let until = vain.map(|request| request.closed.saturating_add(case.policy.refile_after)).max().unwrap_or(0);
    match until.checked_sub(unix_seconds(now)).filter(|left| *left > 0) {
        Some(left) => Err(Error::Coded(
            403,
            format!("jit_denied: the last request came to nothing; the next one is filed in {left}s (refile_after)"),
        )),
        None => Ok(()),
    }
}

/// The use of this grant, if all still holds.
async fn take(mount: &Mount, case: &Case<'_>, id: &str, wish: &Wish, source: &Request) -> Result<Use, Error> {
    let lock = mount.access.locks.hold(id).await;
    let Some(mut request) = AccessRequest::load(mount, case.role, id).await? else {
        return Err(missing(case, source, ""));
    };
    ending::touch(mount, &mut request).await?;
    if request.who.entity_id != case.who.entity_id || !request.has_use_left() {
        return Err(missing(case, source, &format!("request {id} is {} and has no use left; ", request.state.name())));
    }
    if request.who.class != case.who.class {
        return Err(Error::Coded(
            403,
            format!("jit_identity: you asked as {}, and are {} now", request.who.class, case.who.class),
        ));
    }
    rules::params(&case.gate.params_allowed, &request.params)?;
    let now = evidence::now(mount).await;
    let voters = approved_still(mount, case, &request, now).await?;
    if request.mode != Mode::BreakGlass {
        // Once more: whoever waited for the lock is judged by the time that the record has.
        rules::permit(&case.policy, &case.who, Act::Issue, now)?;
        file::ticket_is_open(mount, &case.policy, (&request.ticket, case.role), &case.who).await?;
        campaign::check(mount, case.role, &case.who, now).await?;
    }
    let action = if request.mode == Mode::BreakGlass { Action::BreakGlass } else { Action::Issue };
    let judged = cedar::judge(mount, &case.policy, (action, &case.who), &request, now).await?;
    let facts = repeat::facts(&case.who, &voters, &judged, now);
    let mut bound = SystemTime::UNIX_EPOCH + Duration::from_secs(request.grant_until);
    for longest in [request.ttl, case.policy.cred_max_ttl] {
        if longest > 0 {
            bound = bound.min(now + Duration::from_secs(longest));
        }
    }
    if let Some(end) = rules::third_party_end(&case.who).filter(|_| case.who.class == identity::Class::ThirdParty) {
        bound = bound.min(end);
    }
    if case.policy.require_proof != Proof::None {
        mount.access.proofs.remember(mount).await?;
    }
    let proven = proof::judge(
        &case.policy,
        &case.settings,
        &mount.access.proofs,
        &case.who,
        wish.proof.as_ref().map(Secret::expose),
        now,
    )?;
    let issue_id = password::base62(16).map_err(|e| Error::Failed(e.to_string()))?;
    let actor = super::actor(&case.who, source);
    let overlap = case.policy.supersede.then_some(case.policy.overlap);
    Ok(Use {
        request,
        issue_id,
        core_request_id: source.id.clone(),
        actor,
        proven,
        rules: judged.rules,
        facts,
        policy_hash: case.policy.hash(),
        recording: case.policy.recording,
        max_ttl_unrecorded: case.policy.max_ttl_unrecorded,
        slow: (case.policy.slow_revoke, case.policy.max_ttl_slow_revoke),
        recorded: None,
        overlap,
        bound,
        _lock: lock,
    })
}

/// The one use of a drill, for a credential that nobody gets.
///
/// # Errors
/// If the role is frozen or it cannot be written down.
pub async fn drill(
    mount: &Mount,
    role: &str,
    gate: &Gate,
    params: BTreeMap<String, String>,
    source: &Request,
) -> Result<Use, Error> {
    let (request, policy, lock) = drill::file(mount, role, gate, params, source).await?;
    let bound = SystemTime::UNIX_EPOCH + Duration::from_secs(request.grant_until);
    Ok(Use {
        request,
        issue_id: password::base62(16).map_err(|e| Error::Failed(e.to_string()))?,
        core_request_id: source.id.clone(),
        actor: super::token(source),
        proven: None,
        rules: Vec::new(),
        facts: Value::Null,
        policy_hash: policy.hash(),
        recording: policy.recording,
        max_ttl_unrecorded: policy.max_ttl_unrecorded,
        slow: (policy.slow_revoke, policy.max_ttl_slow_revoke),
        recorded: None,
        overlap: None,
        bound,
        _lock: lock,
    })
}

/// What was approved must be so by the policy of today and by those who voted, as they are today: who they are.
async fn approved_still(
    mount: &Mount,
    case: &Case<'_>,
    request: &AccessRequest,
    now: SystemTime,
) -> Result<Vec<Who>, Error> {
    let refused = |why: &str| Err(Error::Coded(403, format!("jit_policy: {why}; file a new request")));
    if case.policy.uses != 0 && request.used >= case.policy.uses {
        return refused("the policy allows fewer uses by now");
    }
    match (request.mode, case.policy.approval) {
        (Mode::Drill, _) => refused("it is a drill, and gives nobody anything"),
        (Mode::BreakGlass, _) => emergency::permit(&case.policy, &case.who).map(|()| Vec::new()),
        (Mode::Preapproved, _) => preapproval::still(mount, case, request, now).await,
        (Mode::Auto, Approval::Auto) => {
            cedar::judge(mount, &case.policy, (Action::AutoApprove, &case.who), request, now).await.map(|_| Vec::new())
        }
        (Mode::Manual, Approval::Auto) if case.policy.steps.is_empty() => Ok(Vec::new()),
        (Mode::Auto, Approval::Manual) => refused("the policy asks for people who approve by now"),
        (Mode::Manual, _) => {
            let standing = votes::standing(mount, &case.settings, request).await?;
            let tally = votes::tally(&case.policy.steps, case.policy.distinct_groups, &standing);
            if votes::is_enough(&case.policy, &case.who, &standing) {
                return Ok(standing);
            }
            refused(&format!("only {} of {} votes for it still count", tally.given, tally.needed))
        }
    }
}

fn missing(case: &Case<'_>, source: &Request, first: &str) -> Error {
    let mount = &source.caller.mount_point;
    let role = case.role;
    let mut fields = vec!["reason=…".to_owned()];
    if !case.policy.ticket_pattern.is_empty() {
        fields.push("ticket=…".into());
    }
    if !case.policy.purposes.is_empty() {
        fields.push(format!("purpose={}", case.policy.purposes.join("|")));
    }
    fields.extend(case.gate.params_allowed.keys().map(|name| format!("params={name}=…")));
    let fields = fields.join(" ");
    Error::Coded(
        403,
        format!(
            "jit_approval_required: {first}role {role:?} needs an approval: bao write {mount}requests/{role} {fields}"
        ),
    )
}

fn pending_text(case: &Case<'_>, request: &AccessRequest) -> Error {
    let standing: Vec<_> = request.votes.iter().filter(|vote| vote.approve).map(|vote| vote.who.clone()).collect();
    let tally = votes::tally(&case.policy.steps, case.policy.distinct_groups, &standing);
    let groups: Vec<&str> = case.policy.approvers().into_iter().collect();
    Error::Coded(
        403,
        format!(
            "{PENDING}: {} {}/{} until {}: somebody of {} has to write requests/{}/{}/approve; then read again",
            request.id,
            tally.given,
            tally.needed,
            evidence::stamp(request.pending_until * 1000),
            groups.join(", "),
            request.role,
            request.id
        ),
    )
}

impl Use {
    /// The request's id.
    pub fn request_id(&self) -> &str {
        &self.request.id
    }

    /// A part of it that user names have room for.
    pub fn short_id(&self) -> &str {
        self.request.short_id()
    }

    /// What narrows the role.
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.request.params
    }

    /// The latest end of what is issued.
    pub fn bound(&self) -> SystemTime {
        self.bound
    }

    /// Whether the target has to record what the user does, and can: `able` is what it says. May bring the end nearer.
    ///
    /// # Errors
    /// 503 if it has to and cannot. Break-glass goes on, and the record says that nothing is recorded.
    pub fn record(&mut self, able: Result<(), String>, now: SystemTime) -> Result<(), Error> {
        self.recorded = Some(able.is_ok());
        let Err(why) = able else { return Ok(()) };
        if self.recording == Recording::Require && self.request.mode != Mode::BreakGlass {
            return Err(Error::Coded(503, format!("jit_recording_unavailable: {why}")));
        }
        if self.max_ttl_unrecorded > 0 {
            self.bound = self.bound.min(now + Duration::from_secs(self.max_ttl_unrecorded));
        }
        Ok(())
    }

    /// Brings the end nearer where ends were slow lately, if the policy says so.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub async fn pace(&mut self, mount: &Mount, target: &str) -> Result<(), Error> {
        let (slow, longest) = self.slow;
        if longest > 0 && pace::slowest(mount, target).await?.is_some_and(|took| took > Duration::from_secs(slow)) {
            self.bound = self.bound.min(mount.ports.clock.now() + Duration::from_secs(longest));
        }
        Ok(())
    }

    /// Whether the policy wants what the user does in the target's log.
    pub fn wants_record(&self) -> bool {
        self.recording != Recording::Off
    }

    /// Whether it will be there.
    pub fn is_recorded(&self) -> bool {
        self.recorded == Some(true)
    }

    /// Before anything is made: the intent in the record, then the use in the request. Both outlive the process.
    ///
    /// # Errors
    /// If either cannot be written. Then nothing may be made.
    pub async fn begin(&self, mount: &Mount, name: &str, internal: Fields, expires: SystemTime) -> Result<(), Error> {
        let must = self.recording == Recording::Require && self.request.mode != Mode::BreakGlass;
        if must && self.recorded.is_none() {
            return Err(Error::Coded(503, "jit_recording_unavailable: nobody has asked the target".into()));
        }
        let mut next = self.request.clone();
        let draft = next
            .event("issue.intent")
            .with("issue_id", self.issue_id.as_str())
            .with("core_request_id", self.core_request_id.as_str())
            .with("actor", self.actor.clone())
            .with("credential", json!({ "name": name, "expires": unix_seconds(expires) }))
            .with("policy_hash", self.policy_hash.as_str())
            .with("rules", json!(self.rules))
            .with(repeat::FIELD, self.facts.clone())
            .with("recorded", self.recorded.map_or(Value::Null, Value::from))
            .with("proof", self.proven.as_ref().map_or(Value::Null, Proven::shown))
            .with("target", internal.get("db_name").or(internal.get(TARGET_FIELD)).cloned().unwrap_or(Value::Null));
        next.last_event = evidence::append(mount, vec![draft]).await?;
        next.state = State::Active;
        next.used = next.used.saturating_add(1);
        let now = unix_seconds(evidence::now(mount).await);
        if let Some(overlap) = self.overlap {
            for older in next.credentials.iter_mut().filter(|c| c.ended == 0 && c.room == 0) {
                older.room = now.saturating_add(overlap);
            }
        }
        next.credentials.push(Credential {
            issue_id: self.issue_id.clone(),
            name: name.to_owned(),
            issued: now,
            expires: unix_seconds(expires),
            ended: 0,
            room: 0,
            internal,
        });
        next.store(mount).await
    }

    /// It was made. Adds to what the host keeps with the lease.
    ///
    /// # Errors
    /// If that cannot be written. Then the credential must end, and reach nobody.
    pub async fn done(&self, mount: &Mount, internal: &mut Fields) -> Result<(), Error> {
        internal.insert(REQUEST_FIELD.into(), json!(self.request.id));
        internal.insert(ISSUE_FIELD.into(), json!(self.issue_id));
        let draft = self.request.event("issue.done").with("issue_id", self.issue_id.as_str());
        evidence::append(mount, vec![draft]).await.map(drop)
    }

    /// It was not made, or nobody will get it: the use does not count. What may be there is ended with the grant.
    pub async fn failed(&self, mount: &Mount, why: &str) {
        let draft = self.request.event("issue.failed").with("issue_id", self.issue_id.as_str()).with("reason", why);
        if let Err(e) = evidence::append(mount, vec![draft]).await {
            tracing::warn!(request = self.request.id, "a failed issue is not in the record: {e}");
        }
        let back = async {
            let Some(mut request) = AccessRequest::load(mount, &self.request.role, &self.request.id).await? else {
                return Ok(());
            };
            request.used = request.used.saturating_sub(1);
            request.store(mount).await
        };
        if let Err(e) = back.await {
            tracing::warn!(request = self.request.id, "the use of a failed issue stays counted: {e}");
        }
    }

    /// What the answer says of it.
    pub async fn answer(&self, mount: &Mount) -> Vec<(String, Datum)> {
        let mut data = vec![
            ("request_id".to_owned(), Datum::Plain(json!(self.request.id))),
            ("grant_until".to_owned(), Datum::Plain(json!(evidence::stamp(self.request.grant_until * 1000)))),
        ];
        // The statement is for the host's audit log; a credential is not refused for want of it.
        match checkpoint::take(mount).await {
            Ok(checkpoint) => data.push(("jit_checkpoint".to_owned(), Datum::Plain(json!(checkpoint.line())))),
            Err(e) => tracing::warn!("no checkpoint: {e}"),
        }
        data
    }
}

/// Until when a lease of a gated role may be prolonged.
///
/// # Errors
/// 403 if the grant is over, or does not allow it any more.
pub async fn prolong(
    mount: &Mount,
    role: &str,
    gate: &Gate,
    internal: &Fields,
    until: SystemTime,
) -> Result<SystemTime, Error> {
    let refused = |why: &str| Err(Error::Coded(403, format!("jit_policy: {why}; read a new credential")));
    let text = |key: &str| internal.get(key).and_then(Value::as_str);
    let (Some(id), Some(issue)) = (text(REQUEST_FIELD), text(ISSUE_FIELD)) else {
        return refused("the role needs an approval since this credential was issued");
    };
    let _lock = mount.access.locks.hold(id).await;
    let Some(mut request) = AccessRequest::load(mount, role, id).await? else {
        return refused("its request is gone");
    };
    ending::touch(mount, &mut request).await?;
    if request.state != State::Active {
        return refused(&format!("its grant is {}", request.state.name()));
    }
    let settings = config::load(mount).await?;
    let Some(who) = identity::look(mount, &settings, &request.who.entity_id).await? else {
        return refused("whom it was issued to is gone or disabled");
    };
    let now = evidence::now(mount).await;
    if !gate.jit_policy.is_empty() {
        let policy = Policy::of_role(mount, role, &gate.jit_policy).await?;
        if request.mode != Mode::BreakGlass {
            rules::permit(&policy, &who, Act::Issue, now)?;
            freeze::check(mount, role).await?;
        }
        if request.mode != Mode::BreakGlass {
            cedar::judge(mount, &policy, (Action::Renew, &who), &request, now).await?;
        }
        let case = Case { role, gate, policy, who, settings };
        approved_still_used(mount, &case, &request, now).await?;
    }
    let until = until.min(SystemTime::UNIX_EPOCH + Duration::from_secs(request.grant_until));
    let Some(credential) = request.credentials.iter_mut().find(|c| c.issue_id == issue && c.ended == 0) else {
        return refused("it was ended");
    };
    let expires = unix_seconds(until);
    credential.expires = expires;
    let credential = json!({ "name": credential.name, "expires": expires });
    let draft = request.event("renew.granted").with("issue_id", issue).with("credential", credential);
    request.last_event = evidence::append(mount, vec![draft]).await?;
    request.store(mount).await?;
    Ok(until)
}

/// As at an issue, but the uses are spent.
async fn approved_still_used(
    mount: &Mount,
    case: &Case<'_>,
    request: &AccessRequest,
    now: SystemTime,
) -> Result<(), Error> {
    let unused = AccessRequest { used: 0, ..request.clone() };
    approved_still(mount, case, &unused, now).await.map(drop)
}
