//! `reports/standing`: who can log in to the targets with rights that nobody asked for here. As long as there are such, a
//! gate has a side door. Each has to be acknowledged by somebody, for a time, or counts as open.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::token;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::request::{Reply, Request, Response};
use crate::engine::{Mount, remnant};
use crate::secret::Secret;

/// Where acknowledgements are.
pub const PREFIX: &str = "access/acknowledged/";
/// The longest.
const LONGEST: u64 = 366 * 86_400;

/// Somebody knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Acknowledged {
    owner: String,
    reason: String,
    /// Unix seconds.
    at: u64,
    until: u64,
}

impl Acknowledged {
    fn shown(&self) -> Vec<(String, Value)> {
        vec![
            ("owner".into(), json!(self.owner)),
            ("reason".into(), json!(self.reason)),
            ("at".into(), json!(evidence::stamp(self.at * 1000))),
            ("until".into(), json!(evidence::stamp(self.until * 1000))),
        ]
    }
}

async fn load(mount: &Mount, id: &str) -> Result<Option<Acknowledged>, Error> {
    let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{id}")).await? else { return Ok(None) };
    let read = serde_json::from_str(entry.expose());
    read.map(Some).map_err(|e| Error::Failed(format!("the stored acknowledgement {id:?} cannot be read: {e}")))
}

/// What the targets say now.
pub async fn report(mount: &Mount) -> Result<Value, Error> {
    let now = unix_seconds(evidence::now(mount).await);
    let (mut open, mut acknowledged, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for (connection, found) in mount.standing().await? {
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                unknown.push(json!({ "connection": connection, "why": why }));
                continue;
            }
        };
        for one in found {
            let id = remnant::id(&connection, &one.name);
            let mut line = json!({
                "id": id, "connection": connection, "name": one.name, "rights": one.rights,
                "account_of_the_connection": one.own,
            });
            match load(mount, &id).await?.filter(|known| now < known.until) {
                Some(known) => {
                    if let Value::Object(fields) = &mut line {
                        fields.extend(known.shown());
                    }
                    acknowledged.push(line);
                }
                None => open.push(line),
            }
        }
    }
    Ok(json!({ "open": open, "acknowledged": acknowledged, "not_known": unknown }))
}

/// POST `acknowledgements/:id`.
pub async fn acknowledge(mount: &Mount, id: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let text = |key: &str| input.text(key).unwrap_or_default().trim().to_owned();
    let (owner, reason) = (text("owner"), text("reason"));
    let span = input.span_or_preset("ttl").as_secs();
    if owner.is_empty() || reason.is_empty() || span == 0 || span > LONGEST {
        return Err(Error::Refused("owner, reason and ttl (at most 366 days) are needed".into()));
    }
    let now = unix_seconds(evidence::now(mount).await);
    let known = Acknowledged { owner, reason, at: now, until: now.saturating_add(span) };
    let value = serde_json::to_value(&known).unwrap_or_default();
    let draft = Draft::new("standing.acknowledged").with("standing", id).with("config", value.clone());
    evidence::append(mount, vec![draft.with("actor", token(source))]).await?;
    mount.ports.storage.put(&format!("{PREFIX}{id}"), &Secret::new(value.to_string()), false).await?;
    Ok(None)
}

/// GET `acknowledgements/:id`.
pub async fn read(mount: &Mount, id: &str) -> Reply {
    Ok(load(mount, id).await?.map(|known| Response::data(known.shown())))
}

/// DELETE `acknowledgements/:id`.
pub async fn forget(mount: &Mount, id: &str, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let draft = Draft::new("standing.reopened").with("standing", id).with("actor", token(source));
    evidence::append(mount, vec![draft]).await?;
    mount.ports.storage.delete(&format!("{PREFIX}{id}")).await?;
    Ok(None)
}
