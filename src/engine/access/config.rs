//! `config/jit`: what holds for all policies of the mount.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::identity::Class;
use super::{proof, retention, staged};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::field::Input;
use crate::engine::request::{Reply, Request, Response};
use crate::secret::Secret;

/// Where it is stored.
pub const KEY: &str = "access/config";

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Class by accessor or type of an auth mount.
    pub identity_map: BTreeMap<String, String>,
    /// Names of aliases (with `*`) that are agents.
    pub agent_patterns: Vec<String>,
    /// The entity metadata that is the same for all entities of one person.
    pub person_key: String,
    /// Who may change the rules.
    pub policy_change: staged::Change,
    /// Groups that may see every request.
    pub auditor_groups: Vec<String>,
    /// Keys that sign proofs of workload identity: a JWK set, or nothing.
    pub proof_keys: Value,
    /// What proofs have to be made for.
    pub proof_audience: Vec<String>,
    /// Who may have made them; empty: whoever has a key.
    pub proof_issuers: Vec<String>,
    /// Entities that may do nothing any more, whatever the identity store says.
    pub offboarded: Vec<String>,
    /// How long the record is kept.
    #[serde(skip_serializing_if = "retention::Retention::is_empty")]
    pub retention: retention::Retention,
    /// Nothing is taken from the record.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub legal_hold: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            identity_map: BTreeMap::new(),
            agent_patterns: Vec::new(),
            person_key: "employee_id".into(),
            policy_change: staged::Change::Direct,
            auditor_groups: Vec::new(),
            proof_keys: json!({ "keys": [] }),
            proof_audience: Vec::new(),
            proof_issuers: Vec::new(),
            offboarded: Vec::new(),
            retention: retention::Retention::new(),
            legal_hold: false,
        }
    }
}

/// The settings of the mount, from memory if they are known.
pub async fn load(mount: &Mount) -> Result<Arc<Settings>, Error> {
    let known = mount.access.settings().clone();
    if let Some(settings) = known {
        return Ok(settings);
    }
    let settings = match mount.ports.storage.get(KEY).await? {
        Some(entry) => serde_json::from_str(entry.expose())
            .map_err(|e| Error::Failed(format!("the stored config/jit cannot be read: {e}")))?,
        None => Settings::default(),
    };
    let settings = Arc::new(settings);
    *mount.access.settings() = Some(settings.clone());
    Ok(settings)
}

/// GET.
pub async fn read(mount: &Mount) -> Reply {
    let settings = load(mount).await?;
    let waits = staged::load(mount, staged::CONFIG).await?;
    let waits = waits.iter().flat_map(|waits| waits.shown());
    Ok(Some(Response::data(waits.chain([
        ("agent_patterns", json!(settings.agent_patterns)),
        ("auditor_groups", json!(settings.auditor_groups)),
        ("identity_map", json!(settings.identity_map)),
        ("legal_hold", json!(settings.legal_hold)),
        ("offboarded", json!(settings.offboarded)),
        ("person_key", json!(settings.person_key)),
        ("policy_change", json!(settings.policy_change)),
        ("proof_audience", json!(settings.proof_audience)),
        ("proof_issuers", json!(settings.proof_issuers)),
        ("proof_keys", settings.proof_keys.clone()),
        ("retention", json!(settings.retention)),
    ]))))
}

/// POST and PUT.
pub async fn write(mount: &Mount, input: &Input, request: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let mut settings = Settings::clone(&*load(mount).await?);
    if let Some(map) = input.pairs("identity_map") {
        if let Some((key, name)) = map.iter().find(|(_, name)| Class::named(name).is_none()) {
            return Err(Error::Refused(format!(
                "identity_map: {name:?}, of {key:?}, is none of human, service, agent and third_party"
            )));
        }
        settings.identity_map = map.clone();
    }
    if let Some(list) = input.list("agent_patterns") {
        settings.agent_patterns = list.to_vec();
    }
    if let Some(list) = input.list("auditor_groups") {
        settings.auditor_groups = list.to_vec();
    }
    if let Some(key) = input.text("person_key") {
        settings.person_key = key.to_owned();
    }
    if let Some(keys) = input.json("proof_keys") {
        settings.proof_keys = if keys.is_null() { json!({ "keys": [] }) } else { keys.clone() };
        proof::keys(&settings).map_err(Error::Refused)?;
    }
    if let Some(list) = input.list("proof_audience") {
        settings.proof_audience = list.to_vec();
    }
    if let Some(list) = input.list("proof_issuers") {
        settings.proof_issuers = list.to_vec();
    }
    if let Some(list) = input.list("offboarded") {
        settings.offboarded = list.to_vec();
    }
    if let Some(spans) = input.pairs("retention") {
        settings.retention = retention::parse(spans)?;
    }
    if let Some(legal_hold) = input.flag("legal_hold") {
        settings.legal_hold = legal_hold;
    }
    if let Some(word) = input.text("policy_change") {
        settings.policy_change = serde_json::from_value(json!(word))
            .map_err(|_| Error::Refused(format!("policy_change: {word:?} is none of direct, two_person")))?;
    }
    let value = serde_json::to_value(&settings).map_err(|_| Error::Failed("cannot encode config/jit".into()))?;
    if let Some(staged) = staged::stage(mount, staged::CONFIG, value, request).await? {
        return Ok(Some(staged));
    }
    store(mount, &settings, request).await?;
    Ok(None)
}

/// Writes the settings, the record first.
pub async fn store(mount: &Mount, settings: &Settings, request: &Request) -> Result<(), Error> {
    let value = serde_json::to_value(settings).map_err(|_| Error::Failed("cannot encode config/jit".into()))?;
    // Once this has answered, what it keeps is kept.
    let _still = mount.access.pruning.lock().await;
    let draft = Draft::new("config.written").with("path", "config/jit").with("config", value.clone());
    evidence::append(mount, vec![draft.with("actor", super::token(request))]).await?;
    mount.ports.storage.put(KEY, &Secret::new(value.to_string()), false).await?;
    mount.access.settings().take();
    mount.access.stir();
    Ok(())
}
