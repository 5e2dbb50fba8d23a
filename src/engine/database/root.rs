//! `rotate-root/:name`: the password of the account that a connection logs in with, changed on request and by itself.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::connection::{Config, Connection, missing};
use super::credential::Settings;
use super::creds::password_for;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::journal::Record;
use crate::engine::request::Reply;
use crate::engine::rotation::{self, Account, Failure, Settled};
use crate::engine::schedule::timing::Timing;
use crate::secret::{Secret, verifier};
use crate::target::{Script, Target};

/// Where the records of unfinished changes are.
pub const RECORDS: &str = "rotation/root/";
/// In the stored connection: verifiers of passwords that operators wrote and that were replaced here.
const SUPERSEDED: &str = "leasehold_superseded_passwords";
/// In the stored connection: the password is one that we made.
const OURS: &str = "leasehold_password_rotated";
/// How many verifiers are kept, the youngest.
const MOST_SUPERSEDED: usize = 16;

/// Key of a connection's record, and of its place in the queue.
pub fn record_key(name: &str) -> String {
    format!("{RECORDS}{name}")
}

/// A connection as the account that it logs in with.
struct Root {
    name: String,
    key: String,
    username: String,
    config: Config,
    connection: Arc<Connection>,
}

#[async_trait]
impl Account for Root {
    fn key(&self) -> &str {
        &self.key
    }
    fn connection(&self) -> &str {
        &self.name
    }
    fn username(&self) -> &str {
        &self.username
    }
    fn stored(&self) -> Option<&Secret> {
        self.config.secrets.get("password")
    }
    fn target(&self) -> Arc<dyn Target> {
        self.connection.target.clone()
    }
    fn statements(&self) -> Script {
        Script::parse(&self.config.root_rotation_statements, self.connection.driver.dialect())
    }
    fn creating(&self) -> Result<Option<Secret>, Error> {
        Ok(None)
    }
    async fn draw(&self, mount: &Mount) -> Result<Secret, Error> {
        let password = password_for(mount, &Settings::default(), &self.config.password_policy).await?;
        if !self.config.carries(&password) {
            return Err(Error::Failed(
                "the new password cannot be put into connection_url as it is: set disable_escaping=false, or let \
                 password_policy make passwords of letters and digits"
                    .into(),
            ));
        }
        Ok(password)
    }
    fn expect(&self, mount: &Mount, candidate: &Secret) {
        mount.connections.expect(&self.name, candidate);
    }
    /// The work of the live connection goes on.
    async fn adopt(&mut self, mount: &Mount, password: &Secret, at: SystemTime) -> Result<(), Error> {
        self.config.timing.rotated(at, mount.ports.clock.now());
        if self.stored() != Some(password) {
            supersede(&mut self.config, &self.username)?;
            self.config.secrets.insert("password".into(), password.duplicate());
        }
        self.config.store(mount, &self.name).await?;
        mount.connections.settle(&self.name, password);
        plan(mount, &self.name, &self.config.timing);
        Ok(())
    }
}

/// POST and PUT.
pub async fn rotate(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let _lock = mount.rotation.locks.hold(&record_key(name)).await;
    settle(mount, name).await?;
    let config = Config::load(mount, name).await?.ok_or_else(|| missing(name))?;
    change(mount, name, config).await?;
    Ok(None)
}

/// The account that a connection logs in with, if its password is one that can be changed here.
///
/// # Errors
/// Why not.
pub fn account(config: &Config) -> Result<String, &'static str> {
    let username = username(config).ok_or("no username in configuration")?;
    if config.secrets.get("password").is_none_or(Secret::is_empty) {
        return Err("no password in configuration");
    }
    if config.secrets.get("connection_url").is_some_and(|url| !url.is_empty() && !takes_password(url)) {
        return Err("connection_url does not use {{password}}");
    }
    Ok(username)
}

/// Changes the password now. The caller holds the lock.
async fn change(mount: &Mount, name: &str, config: Config) -> Result<(), Error> {
    let username =
        account(&config).map_err(|why| Error::Failed(format!("unable to rotate root credentials: {why}")))?;
    let connection = mount.connections.opened(mount, name).await?;
    super::connection::verify(&connection).await.map_err(Error::Failed)?;
    let mut root = Root { name: name.to_owned(), key: record_key(name), username, config, connection };
    let changed = rotation::change(mount, &mut root).await;
    refresh(mount, &root).await;
    changed.map_err(|failure| match failure {
        Failure::Before(e) => e,
        Failure::Refused(e) => {
            Error::Failed(format!("failed to update user: {}", root.connection.driver.change_error(&e)))
        }
        Failure::Open(_) => {
            let text = failure.to_string();
            mount.rotation.queue.failed(&root.key, name, mount.ports.clock.now(), &text);
            Error::Failed(format!("failed to update user: {text}"))
        }
    })
}

/// The passwords that the account of a connection may have beside the stored one.
pub async fn candidates(mount: &Mount, name: &str, config: &Config) -> Result<Vec<Secret>, Error> {
    let record = Record::load(mount.ports.storage.as_ref(), &record_key(name)).await?;
    let own = record.filter(|record| username(config).as_ref() == Some(&record.username));
    Ok(own.map(|record| record.candidates).unwrap_or_default())
}

/// Lets the live connection try these, and no others. If they cannot be read it goes on trying those that it knows.
async fn refresh(mount: &Mount, root: &Root) {
    if let Some(live) = mount.connections.live(&root.name)
        && let Ok(candidates) = candidates(mount, &root.name, &root.config).await
    {
        live.passwords.only_add(&candidates);
    }
}

fn username(config: &Config) -> Option<String> {
    config.details.get("username").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned)
}

fn takes_password(url: &Secret) -> bool {
    url.expose().replace(' ', "").contains("{{password}}")
}

/// When the password of a connection changes by itself.
pub fn due(mount: &Mount, name: &str, timing: &Timing) -> Option<SystemTime> {
    timing.due(&format!("{}/{name}", mount.id), mount.ports.clock.now())
}

/// Tells the queue when that is, and that nothing is open.
pub fn plan(mount: &Mount, name: &str, timing: &Timing) {
    let key = record_key(name);
    match due(mount, name, timing) {
        Some(due) => mount.rotation.queue.plan(&key, name, due),
        None => mount.rotation.queue.forget(&key),
    }
}

/// Every connection whose password changes by itself, and when. One that cannot be read is reported and left out.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let mut found = Vec::new();
    for name in mount.ports.storage.list("config/", "", -1).await? {
        match Config::load(mount, &name).await {
            Ok(Some(config)) => {
                found.extend(due(mount, &name, &config.timing).map(|due| (record_key(&name), name, due)));
            }
            Ok(None) => {}
            Err(e) => {
                tracing::error!(connection = name, "its password is not changed: {e}");
                // It may be storage and not what is in it.
                found.push((record_key(&name), name, mount.ports.clock.now()));
            }
        }
    }
    Ok(found)
}

/// Settles what is open of a connection. The caller holds the lock.
///
/// # Errors
/// If it cannot be settled now.
pub async fn settle(mount: &Mount, name: &str) -> Result<Settled, Error> {
    let key = record_key(name);
    if mount.ports.storage.get(&key).await?.is_none() {
        return Ok(Settled::Nothing);
    }
    let config = Config::load(mount, name).await?;
    let Some((config, username)) = config.and_then(|config| username(&config).map(|username| (config, username)))
    else {
        mount.ports.storage.delete(&key).await?;
        return Ok(Settled::Nothing);
    };
    let live = mount.connections.live(name);
    let connection = match &live {
        Some(live) => live.clone(),
        None => {
            let opened = config.open(mount).map_err(Error::Failed)?;
            opened.passwords.only_add(&candidates(mount, name, &config).await?);
            Arc::new(opened)
        }
    };
    let mut root = Root { name: name.to_owned(), key, username, config, connection };
    let settled = rotation::settle(mount, &mut root).await;
    if live.is_none() {
        root.connection.target.close().await;
    }
    refresh(mount, &root).await;
    settled.map_err(|failure| Error::Failed(failure.to_string()))
}

/// Settles what is open of a connection that could not be used; true if that may have helped.
pub async fn recovered(mount: &Mount, name: &str) -> bool {
    let key = record_key(name);
    if !matches!(mount.ports.storage.get(&key).await, Ok(Some(_))) {
        return false;
    }
    let _lock = mount.rotation.locks.hold(&key).await;
    matches!(settle(mount, name).await, Ok(Settled::Adopted | Settled::Nothing))
}

/// Asked by the queue: settles what is open, and changes the password if that is due.
pub async fn when_due(mount: &Mount, name: &str) -> Result<(), Error> {
    let (key, queue) = (record_key(name), &mount.rotation.queue);
    let _lock = mount.rotation.locks.hold(&key).await;
    let now = mount.ports.clock.now();
    let done = async {
        let settled = settle(mount, name).await?;
        let Some(config) = Config::load(mount, name).await? else {
            queue.forget(&key);
            return Ok(());
        };
        let due = due(mount, name, &config.timing);
        match (&settled, due) {
            (_, Some(due)) if due <= now => change(mount, name, config).await?,
            (Settled::Waiting(record), due) => {
                let again = rotation::look_again(record, now);
                queue.plan(&key, name, due.map_or(again, |due| due.min(again)));
            }
            (Settled::Unknown(_), _) => {
                return Err(Error::Failed(
                    "no password that is known here opens the account: write the valid one to the connection".into(),
                ));
            }
            // What went wrong is shown until it is made good.
            (_, Some(due)) if queue.has_failed(&key) && config.timing.has_missed(due) => queue.postpone(&key, due),
            _ => plan(mount, name, &config.timing),
        }
        Ok(())
    };
    let done: Result<(), Error> = done.await;
    if let Err(e) = &done {
        queue.failed(&key, name, mount.ports.clock.now(), &e.to_string());
    }
    done
}

/// Remembers the password that is about to be replaced, if it is one that somebody else knows and may write again.
fn supersede(config: &mut Config, username: &str) -> Result<(), Error> {
    let ours = config.other.get(OURS) == Some(&json!(true));
    if !ours && let Some(password) = config.secrets.get("password") {
        let verifier =
            verifier::scram_sha_256(password, verifier::SCRAM_ITERATIONS).map_err(|e| Error::Failed(e.to_string()))?;
        let mut list = config.other.get(SUPERSEDED).and_then(Value::as_array).cloned().unwrap_or_default();
        list.push(json!({ "username": username, "verifier": verifier.expose() }));
        let surplus = list.len().saturating_sub(MOST_SUPERSEDED);
        list.drain(..surplus);
        config.other.insert(SUPERSEDED.into(), Value::Array(list));
    }
    config.other.insert(OURS.into(), json!(true));
    Ok(())
}

/// True if `password` is one of the account's that a rotation has replaced: whoever writes it does not know of that.
pub fn is_superseded(config: &Config, password: &Secret) -> bool {
    let entries = config.other.get(SUPERSEDED).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let user = config.details.get("username");
    let of_user = entries.iter().filter(|entry| entry.get("username") == user);
    of_user.filter_map(|entry| entry.get("verifier")?.as_str()).any(|known| verifier::is_of(known, password))
}

/// The password of the connection is an operator's again.
pub fn taken_over(config: &mut Config, password: &Secret) {
    config.other.remove(OURS);
    if let Some(Value::Array(list)) = config.other.get_mut(SUPERSEDED) {
        list.retain(|entry| {
            let known = entry.get("verifier").and_then(Value::as_str).unwrap_or_default();
            !verifier::is_of(known, password)
        });
    }
}
