//! Changes of the rules that a second person has to put into force (`policy_change=two_person` in `config/jit`): policies,
//! and that setting itself. Until then the old rules hold.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::identity::{self, Who};
use super::policy::{self, Policy};
use super::{Gate, actor, config};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::evidence::event::{Draft, canonical, hex};
use crate::engine::field::Input;
use crate::engine::request::{Reply, Request, Response};
use crate::secret::Secret;

/// Where they wait.
const PREFIX: &str = "access/staged/";
/// What waits at `config/jit`.
pub const CONFIG: &str = "config";

/// Who may change the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Whoever the ACL lets.
    #[default]
    Direct,
    /// Two people: one writes, another activates.
    TwoPerson,
}

/// A change that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Staged {
    /// What is to be.
    pub value: Value,
    /// Who wrote it.
    pub by: Who,
}

impl Staged {
    /// What names this very change.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(canonical(&self.value)))
    }

    /// As a read shows it beside what holds.
    pub fn shown(&self) -> [(&'static str, Value); 3] {
        [("staged", self.value.clone()), ("staged_by", self.by.shown()), ("staged_hash", json!(self.hash()))]
    }
}

/// What waits for a policy.
pub fn of_policy(name: &str) -> String {
    format!("policy/{name}")
}

/// What waits at `place`.
pub async fn load(mount: &Mount, place: &str) -> Result<Option<Staged>, Error> {
    let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{place}")).await? else { return Ok(None) };
    let read = serde_json::from_str(entry.expose());
    read.map(Some).map_err(|e| Error::Failed(format!("the staged change at {place:?} cannot be read: {e}")))
}

/// Puts a change aside until somebody else activates it. `None` if the mount takes changes directly.
///
/// # Errors
/// 403 if nobody knows who writes.
pub async fn stage(mount: &Mount, place: &str, value: Value, source: &Request) -> Result<Option<Response>, Error> {
    let settings = config::load(mount).await?;
    if settings.policy_change == Change::Direct {
        return Ok(None);
    }
    let by = identity::of_caller(mount, &settings, &source.caller).await?;
    // Not between somebody's look at what waits and his putting it into force.
    let _lock = mount.access.locks.hold(place).await;
    let draft = Draft::new("policy.staged").with("place", place).with("text", value.clone());
    evidence::append(mount, vec![draft.with("actor", actor(&by, source))]).await?;
    let text =
        serde_json::to_string(&Staged { value, by }).map_err(|_| Error::Failed("cannot encode a change".into()))?;
    mount.ports.storage.put(&format!("{PREFIX}{place}"), &Secret::new(text), false).await?;
    let warnings = vec![
        "nothing has changed yet: somebody else has to read it, and write its \
                         staged_hash, as hash, to the activate path"
            .to_owned(),
    ];
    Ok(Some(Response { warnings, ..Response::data([("staged", json!(true))]) }))
}

/// Takes what waits, for somebody else than who wrote it, who names the hash of what he has seen: what was written in its
/// place meanwhile is not what he agrees to.
async fn take(mount: &Mount, place: &str, seen: Option<&str>, source: &Request) -> Result<Option<Staged>, Error> {
    let settings = config::load(mount).await?;
    let who = identity::of_caller(mount, &settings, &source.caller).await?;
    let Some(staged) = load(mount, place).await? else { return Ok(None) };
    if staged.by.is_same_person(&who) {
        return Err(Error::Coded(403, "jit_policy: nobody activates a change of his own".into()));
    }
    let Some(seen) = seen.filter(|seen| !seen.is_empty()) else {
        let text = "hash: name what you agree to: the staged_hash of a read of what is to be changed";
        return Err(Error::Refused(text.into()));
    };
    if seen != staged.hash() {
        return Err(Error::Coded(409, "jit_state: what waits is not what you have seen: read it again".into()));
    }
    let draft = Draft::new("policy.activated").with("place", place).with("text", staged.value.clone());
    let draft = draft.with("written_by", staged.by.shown()).with("actor", actor(&who, source));
    evidence::append(mount, vec![draft]).await?;
    Ok(Some(staged))
}

async fn drop_it(mount: &Mount, place: &str) -> Result<(), Error> {
    Ok(mount.ports.storage.delete(&format!("{PREFIX}{place}")).await?)
}

/// POST `policies/:name/activate`.
pub async fn activate_policy(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let place = of_policy(name);
    let _lock = mount.access.locks.hold(&place).await;
    let Some(staged) = take(mount, &place, input.text("hash"), source).await? else { return Ok(None) };
    let read: Policy =
        serde_json::from_value(staged.value).map_err(|_| Error::Failed("the staged policy cannot be read".into()))?;
    policy::judge(&read).map_err(Error::Refused)?;
    policy::store(mount, name, &read, source).await?;
    drop_it(mount, &place).await?;
    Ok(None)
}

/// POST `config/jit/activate`.
pub async fn activate_config(mount: &Mount, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let _lock = mount.access.locks.hold(CONFIG).await;
    let Some(staged) = take(mount, CONFIG, input.text("hash"), source).await? else { return Ok(None) };
    let mut settings: config::Settings =
        serde_json::from_value(staged.value).map_err(|_| Error::Failed("the staged settings cannot be read".into()))?;
    // Who was offboarded meanwhile stays so.
    for gone in &config::load(mount).await?.offboarded {
        if !settings.offboarded.contains(gone) {
            settings.offboarded.push(gone.clone());
        }
    }
    config::store(mount, &settings, source).await?;
    drop_it(mount, CONFIG).await?;
    Ok(None)
}

/// Whether the gate of a role may become that of `after`.
///
/// # Errors
/// 403 if it is taken away or changed while changes of the rules need two people.
pub async fn may_change(mount: &Mount, before: &Gate, after: &Gate) -> Result<(), Error> {
    if before.jit_policy.is_empty() || before == after {
        return Ok(());
    }
    if config::load(mount).await?.policy_change == Change::Direct {
        return Ok(());
    }
    Err(Error::Coded(
        403,
        "jit_policy: the gate of a role is not changed while policy_change=two_person; have that set to direct first, by \
         two people"
            .into(),
    ))
}
