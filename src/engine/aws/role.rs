//! `roles/:name`: what may be minted.

mod check;
mod legacy;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{denial, list};
use crate::engine::Mount;
use crate::engine::access::{self, Gate};
use crate::engine::database::role::nanoseconds;
use crate::engine::error::Error;
use crate::engine::field::{Input, is_name};
use crate::engine::request::{Fields, Reply, Response};
use crate::secret::Secret;

/// Where roles are.
pub const PREFIX: &str = "role/";

/// AWS lets a role or user have ten managed policies at first, the operator's own among them, and twenty at most.
const MOST_ATTACHED: u32 = 20;

/// What a role gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IAM user with a key.
    IamUser,
    /// A session of a role.
    AssumedRole,
    /// A session of a federated user.
    FederationToken,
    /// A session of the engine's own user.
    SessionToken,
}

impl Kind {
    /// In the order in which one is chosen where a role allows several.
    pub const ALL: [Self; 4] = [Self::IamUser, Self::AssumedRole, Self::FederationToken, Self::SessionToken];

    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IamUser => "iam_user",
            Self::AssumedRole => "assumed_role",
            Self::FederationToken => "federation_token",
            Self::SessionToken => "session_token",
        }
    }
}

/// How sessions of a role end before AWS ends them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revocation {
    /// They do not: the built-in engine's way.
    #[default]
    Off,
    /// Each by its own id, or for session tokens by the second of its issue.
    Session,
    /// Each by a tag that only it carries.
    Tag,
    /// All that an identity has at that moment, by its source identity.
    Identity,
    /// All that were issued before, whoever has them.
    Older,
}

impl Revocation {
    const ALL: [Self; 5] = [Self::Off, Self::Session, Self::Tag, Self::Identity, Self::Older];

    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Session => "session",
            Self::Tag => "tag",
            Self::Identity => "identity",
            Self::Older => "older",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == text)
    }
}

/// What happens when no more denials fit into a role's policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The revocation fails and is tried again: room comes with every session that ends.
    #[default]
    Fail,
    /// All sessions end that the identities have whose sessions were revoked the most, as far as roles name them.
    Identity,
    /// And if that is not enough, all sessions issued before the last revocation end.
    Collective,
}

impl Overflow {
    const ALL: [Self; 3] = [Self::Fail, Self::Identity, Self::Collective];

    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Identity => "identity",
            Self::Collective => "collective",
        }
    }
}

/// One role. The stored form is the built-in engines', durations in nanoseconds; ours are further keys.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Role {
    /// What it gives, by name.
    #[serde(deserialize_with = "texts")]
    pub credential_types: Vec<String>,
    /// Managed policies: attached to users, narrowing sessions.
    pub policy_arns: Option<Vec<String>>,
    /// Roles that may be assumed.
    pub role_arns: Option<Vec<String>>,
    /// The policy document, without white space.
    pub policy_document: String,
    /// Groups: joined by users, narrowing sessions.
    pub iam_groups: Option<Vec<String>>,
    /// Tags of users.
    pub iam_tags: Option<BTreeMap<String, String>>,
    /// Tags of sessions.
    pub session_tags: Option<BTreeMap<String, String>>,
    /// What the trust of an assumed role may ask for.
    pub external_id: String,
    /// What an old entry said that is no role.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub invalid_data: String,
    /// Written in the old way: users from `creds/`, sessions from `sts/` only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prohibit_flexible_cred_path: bool,
    /// Of the stored form.
    pub version: i64,
    /// Length of a session that is asked for without one; zero for none.
    #[serde(with = "nanoseconds")]
    pub default_sts_ttl: Duration,
    /// Longest session; zero for the mount's maximum.
    #[serde(with = "nanoseconds")]
    pub max_sts_ttl: Duration,
    /// Path of users.
    pub user_path: String,
    /// Permissions boundary of users.
    pub permissions_boundary_arn: String,
    /// The device of session tokens.
    pub mfa_serial_number: String,
    /// How sessions end early.
    pub revocation: Revocation,
    /// Roles to write denials with, one an account.
    pub revocation_role_arns: Vec<String>,
    /// What happens when denials do not fit.
    pub revocation_overflow: Overflow,
    /// How many managed policies may carry what the inline one has no room for.
    #[serde(skip_serializing_if = "is_zero")]
    pub revocation_attached_policies: u32,
    /// Template of the name of a user or session; empty for the mount's.
    pub principal_name: String,
    /// Template of the source identity; empty for none.
    pub source_identity: String,
    /// Session tags that go along when the session assumes another role.
    pub transitive_tag_keys: Vec<String>,
    /// Who may have a credential, beyond the host's own ACL.
    #[serde(flatten)]
    pub gate: Gate,
    /// How long to wait for a new key to be usable.
    #[serde(with = "nanoseconds")]
    pub wait_until_usable: Duration,
    /// What other engines of this stored form keep here; carried along untouched.
    #[serde(flatten)]
    pub other: Fields,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A list that Go may have written as `null`.
fn texts<'a, D: serde::Deserializer<'a>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

impl Role {
    /// True if it gives credentials of this kind.
    pub fn gives(&self, kind: Kind) -> bool {
        self.credential_types.iter().any(|name| name == kind.name())
    }

    /// True if it gives sessions.
    pub fn gives_sessions(&self) -> bool {
        self.gives(Kind::AssumedRole) || self.gives(Kind::FederationToken) || self.gives(Kind::SessionToken)
    }

    /// What parameters of a request for access may narrow.
    fn places(&mut self) -> impl Iterator<Item = &mut String> {
        let tags = [&mut self.session_tags, &mut self.iam_tags].into_iter().flatten().flat_map(BTreeMap::values_mut);
        [&mut self.policy_document, &mut self.principal_name].into_iter().chain(tags)
    }

    /// The role with the values of parameters in their places.
    pub fn narrowed(mut self, params: &BTreeMap<String, String>) -> Self {
        for place in self.places() {
            *place = access::narrowed(std::slice::from_ref(place), params).concat();
        }
        self
    }

    /// The roles that may be assumed.
    pub fn role_arns(&self) -> &[String] {
        self.role_arns.as_deref().unwrap_or_default()
    }

    /// The managed policies.
    pub fn policy_arns(&self) -> &[String] {
        self.policy_arns.as_deref().unwrap_or_default()
    }

    /// The groups.
    pub fn iam_groups(&self) -> &[String] {
        self.iam_groups.as_deref().unwrap_or_default()
    }

    /// The role to write denials with in this account, if it is not ours.
    pub fn revocation_role_arn(&self, account: &str) -> Option<&str> {
        let of = |arn: &&String| crate::target::aws::arn::account(arn) == Some(account);
        self.revocation_role_arns.iter().find(of).map(String::as_str)
    }

    /// The stored role, `None` if there is none. One of the oldest form is brought up to date.
    pub async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&key(name)).await? else { return legacy::load(mount, name).await };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the stored role {name:?} cannot be read: {e}")))
    }

    /// Its stored form.
    pub fn encode(&self) -> Result<Value, Error> {
        serde_json::to_value(self).map_err(|e| Error::Failed(format!("cannot encode role: {e}")))
    }

    async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        Ok(mount.ports.storage.put(&key(name), &Secret::new(self.encode()?.to_string()), false).await?)
    }
}

/// Storage key of a role.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// LIST. Entries of the oldest form are roles too.
pub async fn list_all(mount: &Mount, input: &Input) -> Reply {
    list(mount, &[PREFIX, legacy::PREFIX], input).await
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(role) = Role::load(mount, name).await? else { return Ok(None) };
    let mut data = vec![
        ("credential_type", json!(role.credential_types.join(","))),
        ("policy_arns", json!(role.policy_arns)),
        ("role_arns", json!(role.role_arns)),
        ("policy_document", json!(role.policy_document)),
        ("iam_groups", json!(role.iam_groups)),
        ("iam_tags", json!(role.iam_tags)),
        ("default_sts_ttl", json!(role.default_sts_ttl.as_secs())),
        ("max_sts_ttl", json!(role.max_sts_ttl.as_secs())),
        ("user_path", json!(role.user_path)),
        ("permissions_boundary_arn", json!(role.permissions_boundary_arn)),
        ("session_tags", json!(role.session_tags)),
        ("external_id", json!(role.external_id)),
        ("mfa_serial_number", json!(role.mfa_serial_number)),
        ("revocation", json!(role.revocation.name())),
        ("revocation_role_arns", json!(role.revocation_role_arns)),
        ("revocation_overflow", json!(role.revocation_overflow)),
        ("revocation_attached_policies", json!(role.revocation_attached_policies)),
        ("principal_name", json!(role.principal_name)),
        ("source_identity", json!(role.source_identity)),
        ("transitive_tag_keys", json!(role.transitive_tag_keys)),
        ("wait_until_usable", json!(role.wait_until_usable.as_secs())),
    ];
    data.extend(role.gate.shown());
    if !role.invalid_data.is_empty() {
        data.push(("invalid_data", json!(role.invalid_data)));
    }
    Ok(Some(Response::data(data)))
}

/// POST and PUT: lays what is given over what is stored.
pub async fn write(mount: &Mount, name: &str, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    let mut warnings = Vec::new();
    let mut role = Role::load(mount, name).await?.unwrap_or_default();
    let before = role.gate.clone();
    if !role.invalid_data.is_empty() {
        warnings.push(format!("Invalid data of {:?} cleared out of role", role.invalid_data));
        role.invalid_data.clear();
    }
    let new = role.credential_types.is_empty();
    match legacy::given(input)? {
        Some(text) => {
            role = Role { revocation: role.revocation, gate: role.gate, ..legacy::role(text) };
            if !role.invalid_data.is_empty() {
                return Err(Error::Refused(format!("unable to parse supplied data: {:?}", role.invalid_data)));
            }
            warnings.push(legacy::WARNING.into());
            lay_over(&mut role, input)?;
        }
        None => {
            role.prohibit_flexible_cred_path = false;
            lay_over(&mut role, input)?;
        }
    }
    access::staged::may_change(mount, &before, &role.gate).await?;
    role.version = 1;
    check::check(&role).map_err(Error::Refused)?;
    if new && !input.has("revocation") && role.gives_sessions() {
        role.revocation = Revocation::Session;
        match denial::rights(mount, &role).await {
            Ok(holders) => warnings.push(format!(
                "sessions of this role end with their leases: revocation=session, by the inline policy {:?} on {holders}. \
                 Set revocation=off to let them live on",
                denial::policy_name(mount)
            )),
            Err(why) => {
                role.revocation = Revocation::Off;
                warnings.push(format!(
                    "revocation=off: sessions of this role live until AWS ends them, also after their leases. They could \
                     be revoked, but {why}. Mend that and write revocation=session"
                ));
            }
        }
    } else if input.has("revocation")
        && role.revocation != Revocation::Off
        && let Err(why) = denial::rights(mount, &role).await
    {
        warnings.push(format!("sessions of this role cannot be revoked yet: {why}"));
    }
    if !role.gate.jit_policy.is_empty() && !is_name(name) {
        return Err(Error::Refused(format!(
            "a role with a jit_policy cannot be named {name:?}: letters, digits, _ . -"
        )));
    }
    gate(&role)?;
    role.store(mount, name).await?;
    if warnings.is_empty() {
        return Ok(None);
    }
    Ok(Some(Response { warnings, ..Response::default() }))
}

/// Whether a gated role still is one that can be.
///
/// # Errors
/// [`Error::Refused`], and why not.
pub fn gate(role: &Role) -> Result<(), Error> {
    check::gate(role).map_err(Error::Refused)
}

fn lay_over(role: &mut Role, input: &Input) -> Result<(), Error> {
    if let Some(kind) = input.text("credential_type") {
        role.credential_types = vec![kind.to_owned()];
    }
    let lists = [
        ("role_arns", &mut role.role_arns),
        ("policy_arns", &mut role.policy_arns),
        ("iam_groups", &mut role.iam_groups),
    ];
    for (field, place) in lists {
        if let Some(list) = input.list(field) {
            *place = Some(list.to_vec());
        }
    }
    let ours = [
        ("revocation_role_arns", &mut role.revocation_role_arns),
        ("transitive_tag_keys", &mut role.transitive_tag_keys),
    ];
    for (field, place) in ours {
        if let Some(list) = input.list(field) {
            *place = list.to_vec();
        }
    }
    if let Some(document) = input.text("policy_document") {
        role.policy_document =
            compact(document).ok_or_else(|| Error::Refused(format!("cannot parse policy document: {document:?}")))?;
    }
    for (field, place) in [("iam_tags", &mut role.iam_tags), ("session_tags", &mut role.session_tags)] {
        if let Some(tags) = input.pairs(field) {
            *place = Some(tags.clone());
        }
    }
    let spans = [
        ("default_sts_ttl", &mut role.default_sts_ttl),
        ("max_sts_ttl", &mut role.max_sts_ttl),
        ("wait_until_usable", &mut role.wait_until_usable),
    ];
    for (field, place) in spans {
        if let Some(span) = input.span(field) {
            *place = span;
        }
    }
    let texts = [
        ("user_path", &mut role.user_path),
        ("permissions_boundary_arn", &mut role.permissions_boundary_arn),
        ("external_id", &mut role.external_id),
        ("mfa_serial_number", &mut role.mfa_serial_number),
        ("principal_name", &mut role.principal_name),
        ("source_identity", &mut role.source_identity),
    ];
    for (field, place) in texts {
        if let Some(text) = input.text(field) {
            text.clone_into(place);
        }
    }
    if let Some(mode) = input.text("revocation") {
        role.revocation = Revocation::named(mode).ok_or_else(|| {
            Error::Refused(format!("revocation must be one of off, session, tag, identity, older, not {mode:?}"))
        })?;
    }
    if let Some(overflow) = input.text("revocation_overflow") {
        role.revocation_overflow = Overflow::ALL.into_iter().find(|one| one.name() == overflow).ok_or_else(|| {
            Error::Refused(format!("revocation_overflow must be one of fail, identity, collective, not {overflow:?}"))
        })?;
    }
    if let Some(number) = input.int("revocation_attached_policies") {
        role.revocation_attached_policies = u32::try_from(number)
            .ok()
            .filter(|number| *number <= MOST_ATTACHED)
            .ok_or_else(|| Error::Refused(format!("revocation_attached_policies must be 0 to {MOST_ATTACHED}")))?;
    }
    let mut gate = std::mem::take(&mut role.gate);
    let places: Vec<String> = role.places().map(|text| text.clone()).collect();
    gate.lay_over(input, ("policy_document, session_tags, iam_tags or principal_name", &places))?;
    role.gate = gate;
    Ok(())
}

/// A JSON text without its white space; `None` if it is no JSON. The empty text stays empty.
pub fn compact(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(String::new());
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if quoted || !c.is_ascii_whitespace() {
            out.push(c);
        }
        (quoted, escaped) = match (quoted, escaped, c) {
            (true, true, _) => (true, false),
            (true, false, '\\') => (true, true),
            (_, false, '"') => (!quoted, false),
            _ => (quoted, false),
        };
    }
    Some(out)
}

/// DELETE. Leases that are out carry what is needed to end them.
pub async fn delete(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    for prefix in [legacy::PREFIX, PREFIX] {
        mount.ports.storage.delete(&format!("{prefix}{name}")).await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_but_not_within_texts() {
        assert_eq!(compact(" { \"a\" : [ 1.50 , \"x \\\" y\" ] }\n").as_deref(), Some("{\"a\":[1.50,\"x \\\" y\"]}"));
        assert_eq!(compact("{"), None);
        assert_eq!(compact("").as_deref(), Some(""));
    }

    #[test]
    fn a_role_of_the_built_in_engine_is_read() {
        let stored = r#"{"credential_types":["assumed_role"],"policy_arns":null,"role_arns":["arn:aws:iam::1:role/r"],
            "policy_document":"","iam_groups":null,"iam_tags":null,"version":1,"default_sts_ttl":900000000000,
            "max_sts_ttl":0,"user_path":"","permissions_boundary_arn":"","new_key":5}"#;
        let role: Role = serde_json::from_str(stored).unwrap();
        assert_eq!(role.default_sts_ttl, Duration::from_secs(900));
        assert_eq!(role.revocation, Revocation::Off);
        let back = role.encode().unwrap();
        assert_eq!((&back["new_key"], &back["iam_tags"]), (&json!(5), &Value::Null));
    }
}
