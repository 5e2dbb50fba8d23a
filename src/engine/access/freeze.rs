//! `freezes/:name`: nothing is issued, whoever has agreed, for as long as there is a freeze.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ending;
use super::identity::{self, Who};
use super::request::{AccessRequest, OPEN, State};
use super::{config, rules, token};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};
use crate::engine::template::glob;
use crate::secret::Secret;

/// Where they are.
pub const PREFIX: &str = "access/freeze/";

/// A freeze.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Freeze {
    /// Why.
    pub reason: String,
    /// Which roles, with `*`.
    pub roles: Vec<String>,
    /// When it ends by itself, unix seconds; 0: it does not.
    pub until: u64,
    /// The incident that it is for, if any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub incident: String,
    /// It stops nothing, and only says that there is the incident.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub flag_only: bool,
    /// Who wrote it: needed of one that is for an incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Who>,
}

impl Freeze {
    /// Whether it is there for the role at that time, unix seconds.
    pub fn covers(&self, role: &str, now: u64) -> bool {
        let over = self.until > 0 && now >= self.until;
        !over && self.roles.iter().any(|pattern| glob(pattern, role))
    }
}

/// Whether something may be issued of a role.
///
/// # Errors
/// 403 `jit_frozen` with the freeze.
pub async fn check(mount: &Mount, role: &str) -> Result<(), Error> {
    let now = unix_seconds(evidence::now(mount).await);
    for name in mount.ports.storage.list(PREFIX, "", -1).await? {
        let Some(freeze) = load(mount, &name).await? else { continue };
        if !freeze.flag_only && freeze.covers(role, now) {
            return Err(Error::Coded(403, format!("jit_frozen: freeze {name:?}: {}", freeze.reason)));
        }
    }
    Ok(())
}

/// Whether somebody else than `who` says that there is this incident, for the role.
///
/// # Errors
/// If storage refuses.
pub async fn tells(mount: &Mount, role: &str, incident: &str, who: &Who) -> Result<bool, Error> {
    let now = unix_seconds(evidence::now(mount).await);
    for name in mount.ports.storage.list(PREFIX, "", -1).await? {
        let Some(freeze) = load(mount, &name).await? else { continue };
        let other = freeze.by.as_ref().is_some_and(|by| !by.is_same_person(who));
        if freeze.incident == incident && other && freeze.covers(role, now) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn load(mount: &Mount, name: &str) -> Result<Option<Freeze>, Error> {
    let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{name}")).await? else { return Ok(None) };
    let read = serde_json::from_str(entry.expose());
    read.map(Some).map_err(|e| Error::Failed(format!("the stored freeze {name:?} cannot be read: {e}")))
}

/// Every freeze that there was, by the record: when it was written, and when it was written anew or taken away (`u64::MAX`
/// if it was not), unix milliseconds.
///
/// # Errors
/// If the record cannot be read.
pub async fn past(mount: &Mount) -> Result<Vec<(Freeze, u64, u64)>, Error> {
    let mut found: Vec<(String, Freeze, u64, u64)> = Vec::new();
    let mut from = 1;
    loop {
        let page = evidence::read(mount, from, 1000).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { break };
        for event in &page {
            let Some(name) = event["freeze"].as_str() else { continue };
            let Some(time) = event["time"].as_str().and_then(evidence::unstamp) else { continue };
            if let Some(open) = found.iter_mut().find(|open| open.0 == name && open.3 == u64::MAX) {
                open.3 = time;
            }
            if let Ok(freeze) = serde_json::from_value(event["config"].clone()) {
                found.push((name.to_owned(), freeze, time, u64::MAX));
            }
        }
        from = last.max(from) + 1;
    }
    Ok(found.into_iter().map(|(_, freeze, from, to)| (freeze, from, to)).collect())
}

/// POST and PUT. With `end` what is out ends too.
pub async fn write(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let reason = input.text("reason").unwrap_or_default().trim().to_owned();
    if reason.is_empty() {
        return Err(Error::Refused("reason: say why".into()));
    }
    let now = unix_seconds(evidence::now(mount).await);
    let span = input.span("ttl").unwrap_or_default().as_secs();
    let incident = input.text("incident").unwrap_or_default().trim().to_owned();
    let flag_only = input.flag("flag_only") == Some(true);
    if flag_only && (incident.is_empty() || input.flag("end") == Some(true)) {
        return Err(Error::Refused("flag_only: incident is needed, and nothing ends by it".into()));
    }
    let by = if incident.is_empty() {
        None
    } else {
        let settings = config::load(mount).await?;
        // Root is nobody else.
        match identity::of_caller(mount, &settings, &source.caller).await {
            Ok(who) => Some(who),
            Err(refusal) if flag_only => return Err(refusal),
            Err(_) => None,
        }
    };
    let freeze = Freeze {
        incident,
        flag_only,
        by,
        reason,
        roles: input.list("roles").map_or_else(|| vec!["*".into()], <[String]>::to_vec),
        until: if span == 0 { 0 } else { now.saturating_add(span) },
    };
    let value = serde_json::to_value(&freeze).map_err(|_| Error::Failed("cannot encode a freeze".into()))?;
    let draft =
        Draft::new("freeze.written").with("freeze", name).with("config", value.clone()).with("actor", token(source));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.put(&format!("{PREFIX}{name}"), &Secret::new(value.to_string()), false).await?;
    if input.flag("end") != Some(true) {
        return Ok(None);
    }
    let mut ended = 0;
    let mut warnings = Vec::new();
    for role in mount.ports.storage.list(OPEN, "", -1).await? {
        let role = role.trim_end_matches('/');
        if !freeze.roles.iter().any(|pattern| glob(pattern, role)) {
            continue;
        }
        for found in rules::open(mount, role).await? {
            let _lock = mount.access.locks.hold(&found.id).await;
            let Some(mut request) = AccessRequest::load(mount, role, &found.id).await? else { continue };
            if !matches!(request.state, State::Approved | State::Active) {
                continue;
            }
            match ending::end(mount, &mut request, "freeze", &freeze.reason, Some(token(source))).await {
                Ok(()) => ended += 1,
                Err(e) => warnings.push(format!("{}: {e}", request.id)),
            }
        }
    }
    Ok(Some(Response { warnings, ..Response::data([("ended", json!(ended))]) }))
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(freeze) = load(mount, name).await? else { return Ok(None) };
    let until = (freeze.until > 0).then(|| evidence::stamp(freeze.until * 1000));
    Ok(Some(Response::data([
        ("reason", json!(freeze.reason)),
        ("incident", json!(freeze.incident)),
        ("flag_only", json!(freeze.flag_only)),
        ("by", freeze.by.as_ref().map_or(serde_json::Value::Null, Who::shown)),
        ("roles", json!(freeze.roles)),
        ("until", json!(until)),
    ])))
}

/// DELETE.
pub async fn delete(mount: &Mount, name: &str, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let draft = Draft::new("freeze.deleted").with("freeze", name).with("actor", token(source));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.delete(&format!("{PREFIX}{name}")).await?;
    mount.access.stir();
    Ok(None)
}
