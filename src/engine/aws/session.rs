//! STS sessions: what is asked of STS, what the caller gets, and what the lease knows to end it by.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::creds::{Wanted, templates};
use super::denial::{self, Denial, Seen};
use super::identity::{self, Facts};
use super::name::{self, Named};
use super::role::{Kind, Revocation};
use super::{SECRET_KIND, cloud, config, counted, refused};
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;
use crate::engine::issue::{self, Permit};
use crate::engine::meter::Work;
use crate::engine::request::{Datum, Fields, LeaseGrant, Reply, Request, Response};
use crate::engine::{Mount, SECRET_TYPE};
use crate::secret::password;
use crate::target::aws::{Cloud, LONGEST_ROLE_SESSION, SHORTEST_SESSION, Session, SessionPlan};

/// The session tag that only one session carries.
pub const TAG: &str = "leasehold:session";
/// Characters of its value.
const TAG_LENGTH: usize = 12;
/// The longest session policy, as STS counts it.
const LONGEST_POLICY: usize = 2048;

/// Gets a session for the caller.
pub async fn mint(mount: &Mount, kind: Kind, mut wanted: Wanted<'_>, request: &Request) -> Reply {
    let (ttl, revocation) = (wanted.ttl(), wanted.role.revocation);
    // What is denied at the end of its lease may live longer at AWS.
    let length = |ttl: Duration| if revocation == Revocation::Off { ttl } else { ttl.max(SHORTEST_SESSION) };
    lengths(kind, length(ttl))?;
    super::role::gate(&wanted.role)?;
    let now = mount.ports.clock.now();
    let permit = issue::authorize(mount, wanted.name, &wanted.role.gate, request, now + ttl).await?;
    let ttl = permit.until().duration_since(now).unwrap_or_default().min(ttl);
    if let Some(params) = permit.params() {
        wanted.role = wanted.role.narrowed(params);
    }
    let cloud = cloud(mount).await?;
    let plan = plan(mount, cloud.as_ref(), kind, &wanted, &permit, length(ttl)).await?;
    // Known before there is a session: who carries its denial.
    let place = match revocation {
        Revocation::Off => None,
        _ => Some(denial::place(mount, &wanted.role, &plan.role_arn).await?),
    };
    if !plan.source_identity.is_empty() {
        denial::remember_identity(mount, &wanted.role, &plan.role_arn, &plan.source_identity).await?;
    }
    let denial = |seen| place.clone().map(|place| Denial::of(place, kind, &wanted, &plan, seen));
    let planned = internal(kind, &wanted, &plan, denial(Seen::before(&plan, now)))?;
    let make = async {
        let session = counted(mount, Work::Mint, ask(cloud.as_ref(), kind, &plan)).await?;
        Ok((internal(kind, &wanted, &plan, denial(Seen::of(&session, &plan)))?, session))
    };
    let (internal, session) = issue::recorded(mount, &permit, &plan.name, planned, make, |_, _| ()).await?;
    let mut response = answer(mount, kind, session, internal, ttl);
    if let Some(data) = &mut response.data {
        data.extend(permit.answer(mount).await);
    }
    Ok(Some(response))
}

/// What AWS would refuse, in words that name the remedy.
fn lengths(kind: Kind, duration: Duration) -> Result<(), Error> {
    if duration < SHORTEST_SESSION {
        return Err(Error::Refused(format!(
            "a ttl of {} seconds is shorter than the {} that STS gives at least: ask for more, or let the role revoke its \
             sessions (revocation=session)",
            duration.as_secs(),
            SHORTEST_SESSION.as_secs()
        )));
    }
    if kind == Kind::AssumedRole && duration > LONGEST_ROLE_SESSION {
        return Err(Error::Refused(format!(
            "a ttl of {} seconds is longer than the {} that STS gives at most: write max_sts_ttl to the role",
            duration.as_secs(),
            LONGEST_ROLE_SESSION.as_secs()
        )));
    }
    Ok(())
}

async fn plan(
    mount: &Mount,
    cloud: &dyn Cloud,
    kind: Kind,
    wanted: &Wanted<'_>,
    permit: &Permit,
    duration: Duration,
) -> Result<SessionPlan, Error> {
    let role = &wanted.role;
    let mut plan = SessionPlan { duration, ..SessionPlan::default() };
    if kind == Kind::SessionToken {
        plan.mfa = mfa(wanted)?;
        return Ok(plan);
    }
    if kind == Kind::AssumedRole {
        plan.role_arn = role_arn(wanted)?;
        role.external_id.clone_into(&mut plan.external_id);
    }
    let facts = Facts::gather(mount, wanted.name, permit, templates(role)).await?;
    plan.name = session_name(mount, kind, wanted, permit, &facts).await?;
    if !role.source_identity.is_empty() {
        let filled = facts.fill("source_identity", &role.source_identity)?;
        identity::principal(&filled, 64)
            .map_err(|why| Error::Refused(format!("source_identity comes to {filled:?}, which {why}")))?;
        plan.source_identity = filled;
    }
    plan.tags = tags(wanted, &facts)?;
    plan.transitive.clone_from(&role.transitive_tag_keys);
    if role.revocation == Revocation::Tag {
        let value = password::base62(TAG_LENGTH).map_err(|e| Error::Failed(e.to_string()))?;
        plan.tags.insert(TAG.to_owned(), value);
    }
    narrow(cloud, wanted, &mut plan).await?;
    if kind == Kind::FederationToken && plan.policy.is_empty() && plan.policy_arns.is_empty() {
        return Err(Error::Refused(
            "must specify at least one of policy_arns or policy_document with federation_token credential_type".into(),
        ));
    }
    if plan.policy.len() > LONGEST_POLICY {
        return Err(Error::Refused(format!(
            "the session policy has {} characters, groups included, and {LONGEST_POLICY} is the most that STS takes",
            plan.policy.len()
        )));
    }
    Ok(plan)
}

fn mfa(wanted: &Wanted<'_>) -> Result<Option<(String, String)>, Error> {
    let code = wanted.input.text("mfa_code").unwrap_or_default();
    let device = &wanted.role.mfa_serial_number;
    match (device.is_empty(), code.is_empty()) {
        (false, true) => Err(Error::Refused("mfa_code is required: the role has an mfa_serial_number".into())),
        (false, false) if code.len() != 6 || !code.bytes().all(|b| b.is_ascii_digit()) => {
            Err(Error::Refused("mfa_code must be 6 digits".into()))
        }
        (false, false) => Ok(Some((device.clone(), code.to_owned()))),
        (true, _) => Ok(None),
    }
}

fn role_arn(wanted: &Wanted<'_>) -> Result<String, Error> {
    let allowed = wanted.role.role_arns();
    match wanted.input.text("role_arn").filter(|arn| !arn.is_empty()) {
        None => match allowed {
            [one] => Ok(one.clone()),
            _ => Err(Error::Refused("did not supply a role_arn parameter and unable to determine one".into())),
        },
        Some(arn) if allowed.iter().any(|one| one == arn) => Ok(arn.to_owned()),
        Some(arn) => {
            let name = wanted.name;
            Err(Error::Refused(format!("role_arn {arn:?} not in allowed role arns for Vault role {name:?}")))
        }
    }
}

/// The name of the session. Where the role says who is in it, the caller has no say.
async fn session_name(
    mount: &Mount,
    kind: Kind,
    wanted: &Wanted<'_>,
    permit: &Permit,
    facts: &Facts,
) -> Result<String, Error> {
    let role = &wanted.role;
    let named = if kind == Kind::FederationToken { Named::Federated } else { Named::Session };
    if let Some(name) = chosen(kind, wanted) {
        if !role.principal_name.is_empty() || !role.source_identity.is_empty() || permit.params().is_some() {
            return Err(Error::Refused(
                "role_session_name is not the caller's to choose: the role has a principal_name, source_identity or \
                 jit_policy"
                    .into(),
            ));
        }
        let name = name::normalized(name);
        identity::principal(&name, named.longest())
            .map_err(|why| Error::Refused(format!("role_session_name {name:?} {why}")))?;
        return Ok(name);
    }
    if !role.principal_name.is_empty() {
        return name::of_principal(&facts.fill("principal_name", &role.principal_name)?, named);
    }
    let template = config::Root::load(mount).await?.unwrap_or_default().username_template;
    let name = name::by_template(mount, &template, permit.display_name(), wanted.name, named)?;
    if role.revocation == Revocation::Session || permit.params().is_some() {
        name::unique(&name, named)
    } else {
        Ok(name)
    }
}

/// The name that the caller chose.
pub fn chosen<'a>(kind: Kind, wanted: &Wanted<'a>) -> Option<&'a str> {
    let name = wanted.input.text("role_session_name").filter(|name| !name.is_empty());
    name.filter(|_| kind == Kind::AssumedRole)
}

fn tags(wanted: &Wanted<'_>, facts: &Facts) -> Result<BTreeMap<String, String>, Error> {
    let mut tags = BTreeMap::new();
    for (key, value) in wanted.role.session_tags.iter().flatten() {
        let value = facts.fill("session_tags", value)?;
        identity::tag_value(&value)
            .map_err(|why| Error::Refused(format!("session_tags: the value of {key:?} {why}")))?;
        tags.insert(key.clone(), value);
    }
    Ok(tags)
}

/// What the session may: the role's policies, and those of its groups.
async fn narrow(cloud: &dyn Cloud, wanted: &Wanted<'_>, plan: &mut SessionPlan) -> Result<(), Error> {
    let role = &wanted.role;
    plan.policy_arns = role.policy_arns().to_vec();
    let mut documents = Vec::new();
    for group in role.iam_groups() {
        let (inline, attached) =
            cloud.group_policies(group).await.map_err(|e| refused("unable to retrieve group policies", &e))?;
        documents.extend(inline);
        plan.policy_arns.extend(attached);
    }
    let mut seen = std::collections::BTreeSet::new();
    plan.policy_arns.retain(|arn| seen.insert(arn.clone()));
    if plan.policy_arns.len() > 10 {
        return Err(Error::Refused(format!(
            "the session has {} managed policies, groups included, and 10 is the most that STS takes",
            plan.policy_arns.len()
        )));
    }
    plan.policy = if documents.is_empty() {
        role.policy_document.clone()
    } else {
        let own = Some(&role.policy_document).filter(|document| !document.is_empty());
        merged(own.into_iter().chain(&documents))?
    };
    Ok(())
}

/// One document with the statements of several.
fn merged<'a>(documents: impl Iterator<Item = &'a String>) -> Result<String, Error> {
    let mut statements = Vec::new();
    for document in documents {
        let parsed: Value = serde_json::from_str(document)
            .map_err(|_| Error::Refused("a policy of the role's groups is no JSON".into()))?;
        match parsed.get("Statement") {
            Some(Value::Array(list)) => statements.extend(list.iter().cloned()),
            Some(one) => statements.push(one.clone()),
            None => {}
        }
    }
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }).to_string())
}

async fn ask(cloud: &dyn Cloud, kind: Kind, plan: &SessionPlan) -> Result<Session, Error> {
    match kind {
        Kind::AssumedRole => cloud.assume_role(plan).await.map_err(|e| refused("Error assuming role", &e)),
        Kind::FederationToken => {
            cloud.federation_token(plan).await.map_err(|e| refused("Error generating STS keys", &e))
        }
        Kind::SessionToken => cloud.session_token(plan).await.map_err(|e| refused("Error generating STS keys", &e)),
        Kind::IamUser => Err(Error::Failed("a user is no session".into())),
    }
}

/// The internal data of a lease: the built-in engine's, and what ends the session.
fn internal(kind: Kind, wanted: &Wanted<'_>, plan: &SessionPlan, denial: Option<Denial>) -> Result<Fields, Error> {
    let policy = match kind {
        Kind::AssumedRole => plan.role_arn.clone(),
        _ => wanted.role.policy_document.clone(),
    };
    let mut internal: Fields = [
        ("username", json!(plan.name)),
        ("policy", json!(policy)),
        ("is_sts", json!(true)),
        (SECRET_TYPE, json!(SECRET_KIND)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    internal.extend(super::gated(wanted, &plan.role_arn));
    if let Some(denial) = denial {
        internal.insert(denial::LEASE_FIELD.to_owned(), denial.encode()?);
    }
    Ok(internal)
}

fn answer(mount: &Mount, kind: Kind, session: Session, internal: Fields, ttl: Duration) -> Response {
    let left = session.expires.duration_since(mount.ports.clock.now()).unwrap_or_default();
    // Without a denial at its end, the credential is as good as its session.
    let lease = if internal.contains_key(denial::LEASE_FIELD) { ttl.min(left) } else { left };
    let mut data = vec![
        ("access_key".to_owned(), Datum::Plain(json!(session.key.id))),
        ("secret_key".to_owned(), Datum::Secret(session.key.secret)),
        ("security_token".to_owned(), Datum::Secret(session.token.duplicate())),
        ("session_token".to_owned(), Datum::Secret(session.token)),
        ("ttl".to_owned(), Datum::Plain(json!(lease.as_secs()))),
    ];
    if kind == Kind::AssumedRole {
        data.push(("arn".to_owned(), Datum::Plain(json!(session.arn))));
    }
    let grant = LeaseGrant { ttl: lease, max_ttl: Duration::ZERO, renewable: false, internal };
    Response { data: Some(data), lease: Some(grant), ..Response::default() }
}

/// When STS says that a session was issued: its own clock, to the second.
pub fn issued(session: &Session, plan: &SessionPlan) -> u64 {
    unix_seconds(session.expires.checked_sub(plan.duration).unwrap_or(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_merged_by_their_statements() {
        let documents =
            [r#"{"Statement":{"Effect":"Allow"}}"#.to_owned(), r#"{"Statement":[{"a":1},{"b":2}]}"#.to_owned()];
        let merged: Value = serde_json::from_str(&merged(documents.iter()).unwrap()).unwrap();
        assert_eq!(merged["Statement"].as_array().unwrap().len(), 3);
        assert_eq!(merged["Version"], "2012-10-17");
    }

    #[test]
    fn lengths_that_sts_would_refuse() {
        assert!(lengths(Kind::AssumedRole, Duration::from_secs(60)).is_err());
        assert!(lengths(Kind::AssumedRole, Duration::from_secs(43_201)).is_err());
        assert!(lengths(Kind::FederationToken, Duration::from_secs(43_201)).is_ok());
    }
}
