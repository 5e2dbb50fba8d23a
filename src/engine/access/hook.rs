//! `notify/`: web servers that are told what comes into the record, and one that is asked about tickets.
//!
//! The record is the queue. Of each hook is stored how far it has been told, so an event reaches it at least once however
//! often the process dies, and an issue of a credential writes nothing more for it. A server that is away is tried again
//! with growing pauses; what it refuses, or has not taken for a day, is put aside in `notify/:name/dead`, from where
//! `notify/:name/retry` sends it again. Nothing here delays a refusal or an end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::token;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::Draft};
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::port::{Post, Posted};
use crate::engine::request::{Reply, Request, Response};
use crate::engine::template::glob;
use crate::secret::{Secret, mac};

/// Where they are.
pub const PREFIX: &str = "access/hook/";
/// Where their keys are, wrapped with the host's seal.
const KEYS: &str = "access/hook-key/";
/// How far each has been told.
const TOLD: &str = "access/told/";
/// What each has not taken.
const DEAD: &str = "access/dead/";

/// The shortest key.
const SHORTEST_KEY: usize = 16;
/// Events that are looked at in one go.
const PAGE: usize = 200;
/// What one has not taken for so long is put aside.
const PATIENCE: u64 = 86_400;
/// The longest pause between two tries.
const LONGEST_PAUSE: u64 = 300;
/// A server that has refused an event so often does not want it.
const REFUSALS: u32 = 3;

/// A web server that is told of events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Where it is.
    pub url: String,
    /// The authorities that its certificate may be of, PEM; empty: those of this machine.
    pub ca_cert: String,
    /// Kinds of events that it is told of, with `*`.
    pub events: Vec<String>,
}

/// How far a hook has been told. Times are unix seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    /// The number of the last event that it needs not be told of any more.
    after: u64,
    /// Failures since the last success.
    failures: u32,
    /// When it is tried again.
    next: u64,
}

/// An event that was not taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Dead {
    why: String,
    at: u64,
}

async fn get<T: serde::de::DeserializeOwned>(mount: &Mount, key: &str) -> Result<Option<T>, Error> {
    let Some(entry) = mount.ports.storage.get(key).await? else { return Ok(None) };
    let read = serde_json::from_str(entry.expose());
    read.map(Some).map_err(|e| Error::Failed(format!("what is stored at {key:?} cannot be read: {e}")))
}

async fn put(mount: &Mount, key: &str, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(value).map_err(|_| Error::Failed("cannot encode a hook".into()))?;
    Ok(mount.ports.storage.put(key, &Secret::new(text), false).await?)
}

async fn known(mount: &Mount, name: &str) -> Result<Option<Hook>, Error> {
    get(mount, &format!("{PREFIX}{name}")).await
}

/// POST and PUT `notify/:name`. Told of what comes from then on.
pub async fn write(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let stored = known(mount, name).await?;
    let is_new = stored.is_none();
    let mut hook = stored.unwrap_or_else(|| Hook { events: vec!["*".into()], ..Hook::default() });
    for (key, place) in [("url", &mut hook.url), ("ca_cert", &mut hook.ca_cert)] {
        if let Some(text) = input.text(key) {
            text.clone_into(place);
        }
    }
    if let Some(list) = input.list("events") {
        hook.events = list.to_vec();
    }
    let url = url::Url::parse(&hook.url).map_err(|e| Error::Refused(format!("url: {e}")))?;
    let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if !(url.scheme() == "https" || url.scheme() == "http" && here) {
        return Err(Error::Refused("url: https, but for this machine itself".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Refused("url: no user and no password; what is sent is signed".into()));
    }
    let key = input.secret("signing_key");
    if is_new && key.is_none() || key.is_some_and(|key| key.expose().len() < SHORTEST_KEY) {
        return Err(Error::Refused(format!("signing_key: {SHORTEST_KEY} characters at least")));
    }
    let value = serde_json::to_value(&hook).unwrap_or_default();
    let draft = Draft::new("config.written").with("path", format!("notify/{name}")).with("config", value);
    let seq = evidence::append(mount, vec![draft.with("actor", token(source))]).await?;
    if let Some(key) = key {
        mount.ports.storage.put(&format!("{KEYS}{name}"), key, true).await?;
    }
    if is_new {
        put(mount, &format!("{TOLD}{name}"), &Told { after: seq, ..Told::default() }).await?;
    }
    put(mount, &format!("{PREFIX}{name}"), &hook).await?;
    mount.access.nobody.store(false, Ordering::Relaxed);
    Ok(None)
}

/// GET `notify/:name`: not the key.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(hook) = known(mount, name).await? else { return Ok(None) };
    let told: Told = get(mount, &format!("{TOLD}{name}")).await?.unwrap_or_default();
    Ok(Some(Response::data([
        ("url", json!(hook.url)),
        ("ca_cert", json!(hook.ca_cert)),
        ("events", json!(hook.events)),
        ("told_until", json!(told.after)),
        ("failures", json!(told.failures)),
        ("dead", json!(mount.ports.storage.list(&format!("{DEAD}{name}/"), "", -1).await?.len())),
    ])))
}

/// DELETE `notify/:name`.
pub async fn delete(mount: &Mount, name: &str, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let draft = Draft::new("config.deleted").with("path", format!("notify/{name}")).with("actor", token(source));
    evidence::append(mount, vec![draft]).await?;
    let storage = &mount.ports.storage;
    for seq in storage.list(&format!("{DEAD}{name}/"), "", -1).await? {
        storage.delete(&format!("{DEAD}{name}/{seq}")).await?;
    }
    for folder in [PREFIX, KEYS, TOLD] {
        storage.delete(&format!("{folder}{name}")).await?;
    }
    Ok(None)
}

/// POST `notify/:name/test`: sends an event that is in no record.
pub async fn test(mount: &Mount, name: &str) -> Reply {
    let Some(hook) = known(mount, name).await? else { return Ok(None) };
    let event = json!({ "kind": "notify.test", "mount": mount.id, "time": evidence::stamp(unix_seconds(evidence::now(mount).await) * 1000) });
    match send(mount, name, &hook, &event).await {
        Ok(posted) => Ok(Some(Response::data([("status", json!(posted.status))]))),
        Err(why) => Err(Error::Refused(format!("it was not taken: {why}"))),
    }
}

/// GET `notify/:name/dead`: what it has not taken.
pub async fn dead(mount: &Mount, name: &str) -> Reply {
    let mut lines = Vec::new();
    for seq in mount.ports.storage.list(&format!("{DEAD}{name}/"), "", -1).await? {
        if let Some(dead) = get::<Dead>(mount, &format!("{DEAD}{name}/{seq}")).await? {
            let number: u64 = seq.parse().unwrap_or(0);
            lines.push(json!({ "seq": number, "why": dead.why, "at": evidence::stamp(dead.at * 1000) }));
        }
    }
    Ok(Some(Response::data([("events", json!(lines))])))
}

/// POST `notify/:name/retry`: sends what it has not taken once more.
pub async fn retry(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let Some(hook) = known(mount, name).await? else { return Ok(None) };
    let (mut taken, mut left) = (0, 0);
    for seq in mount.ports.storage.list(&format!("{DEAD}{name}/"), "", -1).await? {
        let number: u64 = seq.parse().unwrap_or(0);
        let event = evidence::read(mount, number, 1).await?.pop().filter(|event| event["seq"] == number);
        match event {
            Some(event) if send(mount, name, &hook, &event).await.is_err() => left += 1,
            _ => {
                mount.ports.storage.delete(&format!("{DEAD}{name}/{seq}")).await?;
                taken += 1;
            }
        }
    }
    Ok(Some(Response::data([("taken", json!(taken)), ("left", json!(left))])))
}

/// Of each hook, the first event that it may not have taken.
///
/// # Errors
/// If that cannot be read.
pub async fn untold(mount: &Mount) -> Result<Vec<(String, u64)>, Error> {
    let mut found = Vec::new();
    for name in mount.ports.storage.list(PREFIX, "", -1).await? {
        let stored: Told = get(mount, &format!("{TOLD}{name}")).await?.unwrap_or_default();
        let mut first = mount.access.seen(&name, stored.after, &stored).after + 1;
        for seq in mount.ports.storage.list(&format!("{DEAD}{name}/"), "", -1).await? {
            first = first.min(seq.parse().unwrap_or(0));
        }
        found.push((name, first));
    }
    Ok(found)
}

/// One POST. The signature is over the time, a dot and the body.
async fn post(mount: &Mount, name: &str, hook: &Hook, body: String) -> Result<Posted, String> {
    let key = mount.ports.storage.get(&format!("{KEYS}{name}")).await.map_err(|e| e.to_string())?;
    let key = key.ok_or("its signing_key is gone")?;
    let time = unix_seconds(mount.ports.clock.now()).to_string();
    let signature = mac::hmac_sha256(&key, &[&time, ".", &body]);
    let headers = vec![("x-leasehold-time", time), ("x-leasehold-signature", format!("sha256={signature}"))];
    let post = Post { url: hook.url.clone(), headers, body, authority: hook.ca_cert.clone() };
    mount.ports.web.post(&post).await.map_err(|e| e.to_string())
}

/// An event, as people and chats read it too.
async fn send(mount: &Mount, name: &str, hook: &Hook, event: &Value) -> Result<Posted, String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let actor = if event["actor"].is_object() { &event["actor"] } else { &event["requester"] };
    let words = [&event["kind"], &event["role"], &actor["name"], &event["request_id"], &event["reason"]].map(word);
    let text = words.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" · ");
    let body = json!({ "text": text, "mount": mount.id, "event": event }).to_string();
    let posted = post(mount, name, hook, body).await?;
    if (200..300).contains(&posted.status) { Ok(posted) } else { Err(format!("it answered {}", posted.status)) }
}

/// Tells every hook what it has not been told yet.
pub async fn tick(mount: &Mount) -> Result<(), Error> {
    let names = mount.ports.storage.list(PREFIX, "", -1).await?;
    if names.is_empty() {
        mount.access.nobody.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let Ok(_turn) = mount.access.telling.try_lock() else { return Ok(()) };
    let all = names.iter().map(|name| async move {
        if let Err(e) = tell(mount, name).await {
            tracing::warn!(hook = name, "events cannot be passed on now: {e}");
        }
    });
    futures_util::future::join_all(all).await;
    Ok(())
}

async fn tell(mount: &Mount, name: &str) -> Result<(), Error> {
    let Some(hook) = known(mount, name).await? else { return Ok(()) };
    let key = format!("{TOLD}{name}");
    let stored: Told = get(mount, &key).await?.unwrap_or_default();
    let now = unix_seconds(mount.ports.clock.now());
    let mut told = mount.access.seen(name, stored.after, &stored);
    if now < stored.next || evidence::head(mount).await?.next <= told.after + 1 {
        return Ok(());
    }
    let mut changed = false;
    for event in evidence::read(mount, told.after + 1, PAGE).await? {
        let (seq, kind) = (event["seq"].as_u64().unwrap_or(0), event["kind"].as_str().unwrap_or_default());
        if hook.events.iter().any(|pattern| glob(pattern, kind)) {
            changed = true;
            if let Err(why) = send(mount, name, &hook, &event).await {
                let since = event["time"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
                let age = since.map_or(0, |time| now.saturating_sub(unix_seconds(time.into())));
                let unwanted = why.starts_with("it answered 4") && told.failures + 1 >= REFUSALS;
                if !unwanted && age < PATIENCE {
                    told.failures = told.failures.saturating_add(1);
                    told.next = now + (1u64 << told.failures.min(9)).min(LONGEST_PAUSE);
                    return put(mount, &key, &told).await;
                }
                // First: what is in neither place is lost.
                put(mount, &format!("{DEAD}{name}/{seq:016}"), &Dead { why, at: now }).await?;
            }
            (told.failures, told.next) = (0, 0);
        }
        told.after = seq;
    }
    mount.access.saw(name, told.after);
    // What it does not want to hear of is only remembered: the next process looks at it once more.
    if changed { put(mount, &key, &told).await } else { Ok(()) }
}

impl super::Access {
    /// How far a hook was told, as far as this process knows.
    fn seen(&self, name: &str, after: u64, told: &Told) -> Told {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Told { after: seen.get(name).copied().unwrap_or(0).max(after), ..*told }
    }

    fn saw(&self, name: &str, after: u64) {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), after);
    }
}

/// Numbers of events that hooks have passed by without being told.
pub type Seen = std::sync::Mutex<BTreeMap<String, u64>>;

/// Tells everybody what is in the record now, for at most so long: who waits for it does not wait for a slow server.
pub async fn alert(mount: &Mount, patience: Duration) {
    if tokio::time::timeout(patience, tick(mount)).await.is_err() {
        tracing::warn!("an alert is still on its way");
    }
}

/// What a ticket system says of a ticket.
#[derive(Debug, Deserialize)]
struct Ticket {
    open: bool,
    #[serde(default)]
    assignee: String,
}

/// Whether the ticket is open, and the requester's if it says whose it is: asked of the hook `name`.
///
/// # Errors
/// 403 if it is not; 503 if the ticket system does not say.
pub async fn ticket(
    mount: &Mount,
    name: &str,
    (ticket, role): (&str, &str),
    who: &super::identity::Who,
) -> Result<(), Error> {
    let unsure = |why: &str| {
        Error::Coded(503, format!("jit_ticket: the ticket system does not say whether {ticket:?} is open: {why}"))
    };
    let hook = known(mount, name).await?.ok_or_else(|| unsure(&format!("there is no notify/{name}")))?;
    let body = json!({ "kind": "ticket.check", "ticket": ticket, "role": role, "requester": who.shown() }).to_string();
    let posted = post(mount, name, &hook, body).await.map_err(|why| unsure(&why))?;
    if posted.status != 200 {
        return Err(unsure(&format!("it answered {}", posted.status)));
    }
    let said: Ticket = serde_json::from_str(&posted.body).map_err(|_| unsure("its answer makes no sense"))?;
    if !said.open {
        return Err(Error::Coded(403, format!("jit_ticket: {ticket:?} is not open")));
    }
    let own = said.assignee.is_empty()
        || who.name == said.assignee
        || who.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(&said.assignee));
    if own { Ok(()) } else { Err(Error::Coded(403, format!("jit_ticket: {ticket:?} is somebody else's"))) }
}
