//! `roles/:name`: what may be minted.

pub mod known;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::credential::{CredentialType, Settings};
use crate::engine::Mount;
use crate::engine::access::{self, Gate};
use crate::engine::caps::{self, Limits};
use crate::engine::end::wishes::Wishes;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::request::{Fields, Reply, Response};
use crate::secret::{Secret, verifier};
use crate::target::Driver;

/// Statements of a role, each list as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statements {
    /// Create the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub creation: Vec<String>,
    /// End the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revocation: Vec<String>,
    /// Undo a failed creation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rollback: Vec<String>,
    /// Prolong the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renewal: Vec<String>,
    /// Change the password of a static role's user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rotation: Vec<String>,
}

/// One role. The stored form is the built-in engine's own, durations in nanoseconds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Role {
    /// Connection the role mints at.
    pub db_name: String,
    /// What runs at the target.
    pub statements: Statements,
    /// Roles of the database that its users are members of, instead of creation statements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_roles: Vec<String>,
    /// Lease duration, zero for the mount's default.
    #[serde(with = "nanoseconds")]
    pub default_ttl: Duration,
    /// Longest lease, zero for the mount's maximum.
    #[serde(with = "nanoseconds")]
    pub max_ttl: Duration,
    /// What kind of credential.
    pub credential_type: CredentialType,
    /// Settings of that kind.
    pub credential_config: Settings,
    /// Who may have a credential, beyond the host's own ACL.
    #[serde(flatten)]
    pub gate: Gate,
    /// How many users it may have.
    #[serde(flatten)]
    pub limits: Limits,
    /// Rounds of the SCRAM verifiers of its users; `None` for the connection's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scram_iterations: Option<u32>,
    /// What other engines of this stored form keep here; carried along untouched.
    #[serde(flatten)]
    pub other: Fields,
}

/// Go's `time.Duration`: an integer of nanoseconds.
pub(in crate::engine) mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_nanos(i64::deserialize(from)?.try_into().unwrap_or(0)))
    }
}

/// Storage key of a role.
pub fn key(name: &str) -> String {
    format!("role/{name}")
}

impl Role {
    /// The stored role, `None` if there is none.
    pub async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&key(name)).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the stored role {name:?} cannot be read: {e}")))
    }

    /// The role, of which this mount may know without a look at storage: see [`known`].
    pub async fn current(mount: &Mount, name: &str) -> Result<Option<Arc<Self>>, Error> {
        let reading = match mount.known_roles.get(name, mount.ports.clock.steady()) {
            Ok(role) => return Ok(Some(role)),
            Err(reading) => reading,
        };
        let role = Self::load(mount, name).await?.map(Arc::new);
        if let Some(role) = &role {
            mount.known_roles.keep(name, &reading, role);
        }
        Ok(role)
    }

    /// Whether `group_roles` can be what it says. `has_groups`: the database knows such a thing.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the fix.
    pub fn judge_groups(&self, has_groups: bool) -> Result<(), Error> {
        let longest = Driver::PostgreSql.longest_username();
        let wrong = self.group_roles.iter().find(|name| name.is_empty() || name.len() > longest || name.contains('\0'));
        Err(Error::Refused(if !has_groups {
            "group_roles is for PostgreSQL: remove it, and write creation_statements that grant what users need".into()
        } else if !self.statements.creation.is_empty() {
            "group_roles and creation_statements exclude each other: leave one of them empty".into()
        } else if let Some(wrong) = wrong {
            format!("invalid group_roles: {wrong:?} is no name of a role, which has 1 to {longest} bytes")
        } else {
            return Ok(());
        }))
    }

    /// How its users end.
    pub fn wishes(&self) -> Wishes {
        Wishes::of(&self.other)
    }

    async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|e| Error::Failed(format!("cannot encode role: {e}")))?;
        let seal_wrap = self.credential_config.holds_secret();
        let change = mount.known_roles.change(name);
        mount.ports.storage.put(&key(name), &Secret::new(text), seal_wrap).await?;
        change.done();
        Ok(())
    }
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(role) = Role::load(mount, name).await? else { return Ok(None) };
    let mut data = vec![
        ("creation_statements", json!(role.statements.creation)),
        ("credential_type", json!(role.credential_type.name())),
        ("db_name", json!(role.db_name)),
        ("default_ttl", json!(role.default_ttl.as_secs())),
        ("max_ttl", json!(role.max_ttl.as_secs())),
        ("renew_statements", json!(role.statements.renewal)),
        ("revocation_statements", json!(role.statements.revocation)),
        ("rollback_statements", json!(role.statements.rollback)),
    ];
    if let Some(rounds) = role.scram_iterations {
        data.push(("scram_iterations", json!(rounds)));
    }
    if !role.group_roles.is_empty() {
        data.push(("group_roles", json!(role.group_roles)));
    }
    let shown = role.credential_config.shown();
    if !shown.is_empty() {
        data.push(("credential_config", Value::Object(shown.clone())));
    }
    data.extend(role.gate.shown());
    data.extend(role.wishes().said());
    data.extend(role.limits.shown());
    Ok(Some(Response::data(data)))
}

/// POST and PUT.
pub async fn write(mount: &Mount, name: &str, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    if mount.ports.storage.get(&super::static_role::key(name)).await?.is_some() {
        return Err(Error::Refused("Role and Static Role names must be unique".into()));
    }
    let stored = Role::load(mount, name).await?;
    let creating = stored.is_none();
    let mut role = stored.unwrap_or_default();

    if let Some(db_name) = input.text("db_name") {
        role.db_name = db_name.to_owned();
    }
    if role.db_name.is_empty() {
        return Err(Error::Refused("database name is required".into()));
    }

    let before = role.credential_type;
    if let Some(kind) = input.text("credential_type") {
        role.credential_type =
            CredentialType::named(kind).ok_or_else(|| Error::Refused(format!("invalid credential_type {kind:?}")))?;
    }
    let config = input.pairs("credential_config");
    if config.is_some() || role.credential_type != before || creating {
        let written = config.cloned().unwrap_or_default();
        role.credential_config = role
            .credential_type
            .validate(&written, mount.ports.clock.now())
            .map_err(|e| Error::Refused(format!("credential_config validation failed: {e}")))?;
    }

    if let Some(ttl) = input.span("default_ttl") {
        role.default_ttl = ttl;
    }
    if let Some(ttl) = input.span("max_ttl") {
        role.max_ttl = ttl;
    }
    if let Some(rounds) = input.int("scram_iterations") {
        role.scram_iterations = match rounds {
            0 => None,
            given => Some(verifier::scram_iterations(given).map_err(Error::Refused)?),
        };
    }
    if let Some(list) = input.list("creation_statements") {
        role.statements.creation = list.to_vec();
    }
    if let Some(list) = input.list("revocation_statements") {
        role.statements.revocation = list.iter().filter(|text| !text.is_empty()).cloned().collect();
    }
    if let Some(list) = input.list("rollback_statements") {
        role.statements.rollback = list.to_vec();
    }
    if let Some(list) = input.list("renew_statements") {
        role.statements.renewal = list.to_vec();
    }

    if let Some(list) = input.list("group_roles") {
        role.group_roles.clear();
        for group in list {
            if !role.group_roles.contains(group) {
                role.group_roles.push(group.clone());
            }
        }
    }
    if !role.group_roles.is_empty() {
        role.judge_groups(true)?;
    }

    let gate = role.gate.clone();
    role.gate.lay_over(input, ("creation_statements", &role.statements.creation))?;
    access::staged::may_change(mount, &gate, &role.gate).await?;
    role.limits.write(input)?;
    let mut wishes = role.wishes();
    wishes.write(input)?;
    wishes.store(&mut role.other);

    let mut warnings = super::check::judge(mount, name, &role).await?;

    if input.flag("validate").unwrap_or(false) {
        let tried = super::rehearsal::rehearse(mount, name, &role).await;
        tried.map_err(|e| Error::Refused(format!("nothing is stored, the role does not work: {e}")))?;
    }
    role.store(mount, name).await?;
    // Users that were made while nobody counted are in no book.
    mount.caps.outdated();
    caps::supersede::written(mount, name, Some(&role));
    if !role.max_ttl.is_zero() && role.default_ttl > role.max_ttl {
        warnings.insert(0, "default_ttl is longer than max_ttl: every lease of this role is cut to max_ttl".into());
    }
    Ok((!warnings.is_empty()).then(|| Response { warnings, ..Response::default() }))
}

/// DELETE. Leases that are out carry what is needed to end them.
pub async fn delete(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let change = mount.known_roles.change(name);
    mount.ports.storage.delete(&key(name)).await?;
    change.done();
    caps::supersede::written(mount, name, None);
    Ok(None)
}

/// LIST, with `after` and `limit`.
pub async fn list(mount: &Mount, input: &Input) -> Reply {
    super::list(mount, "role/", input).await
}
