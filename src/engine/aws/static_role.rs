//! `static-roles/:name`, `static-creds/:name`, `rotate-role/:name`: users that were there before, whose key we change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::{self, Record, Unmade};
use super::{cloud, counted, identity, refused};
use crate::engine::Mount;
use crate::engine::database::role::nanoseconds;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::intent::unix_seconds;
use crate::engine::journal::text;
use crate::engine::meter::Work;
use crate::engine::request::{Datum, Fields, Reply, Response};
use crate::secret::Secret;
use crate::target::aws::arn::Arn;
use crate::target::aws::{AssumedAs, Cloud, Failure};

/// Where static roles are.
pub const PREFIX: &str = "static-roles/";
/// Where their keys are.
const CREDS: &str = "static-creds/";
/// Where the records of unfinished changes are.
pub const RECORDS: &str = "rotation/static/";
/// The built-in engine's.
const SHORTEST_PERIOD: Duration = Duration::from_secs(60);

/// A key that is younger may be there without being listed.
const YOUNG: Duration = Duration::from_secs(120);

/// A static role. The stored form is the built-in engine's; ours are further keys.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct StaticRole {
    name: String,
    /// The user's own id, which no other user will ever have.
    id: String,
    username: String,
    #[serde(with = "nanoseconds")]
    rotation_period: Duration,
    #[serde(with = "nanoseconds")]
    grace_period: Duration,
    /// The role to reach the user's account as; empty for the engine's own credentials.
    #[serde(skip_serializing_if = "String::is_empty")]
    assume_role_arn: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    assume_role_session_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    external_id: String,
    #[serde(flatten)]
    other: Fields,
}

/// The key of a static role.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Creds {
    access_key: String,
    #[serde(with = "text")]
    secret_key: Secret,
    /// When it changes next.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<Timestamp>,
    /// When it was made, unix seconds.
    rotated: u64,
    /// The key before, while it still works.
    previous: String,
    #[serde(flatten)]
    other: Fields,
}

impl Default for Creds {
    fn default() -> Self {
        Self {
            access_key: String::new(),
            secret_key: Secret::new(String::new()),
            expiration: None,
            rotated: 0,
            previous: String::new(),
            other: Fields::new(),
        }
    }
}

impl StaticRole {
    async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&format!("{PREFIX}{name}")).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the stored static role {name:?} cannot be read: {e}")))
    }

    async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|e| Error::Failed(format!("cannot encode a role: {e}")))?;
        Ok(mount.ports.storage.put(&format!("{PREFIX}{name}"), &Secret::new(text), false).await?)
    }

    /// The role that the user's account is reached as.
    fn via(&self) -> Option<AssumedAs> {
        (!self.assume_role_arn.is_empty()).then(|| AssumedAs {
            role_arn: self.assume_role_arn.clone(),
            session_name: self.assume_role_session_name.clone(),
            external_id: self.external_id.clone(),
        })
    }

    /// The account that the user is in.
    async fn cloud(&self, mount: &Mount) -> Result<Arc<dyn Cloud>, Error> {
        let cloud = cloud(mount).await?;
        Ok(self.via().map_or(cloud.clone(), |role| cloud.assuming(&role)))
    }

    /// Of a creation that did not come to its end.
    fn of_record(record: Record) -> Self {
        let via = record.via.unwrap_or_default();
        Self {
            username: record.username,
            assume_role_arn: via.role_arn,
            assume_role_session_name: via.session_name,
            external_id: via.external_id,
            ..Self::default()
        }
    }

    /// What of it says how the user's account is reached.
    fn lay_over(&mut self, input: &Input) -> Result<(), Error> {
        let texts = [
            ("assume_role_arn", &mut self.assume_role_arn),
            ("assume_role_session_name", &mut self.assume_role_session_name),
            ("external_id", &mut self.external_id),
        ];
        for (field, place) in texts {
            if let Some(text) = input.text(field) {
                text.clone_into(place);
            }
        }
        let (arn, name) = (&self.assume_role_arn, &self.assume_role_session_name);
        if !arn.is_empty() && Arn::parse(arn).ok().and_then(|arn| arn.name("role")).is_none() {
            return Err(Error::Refused(format!("invalid assume_role_arn parameter: {arn:?} is no ARN of a role")));
        }
        if arn.is_empty() && !(name.is_empty() && self.external_id.is_empty()) {
            return Err(Error::Refused(
                "assume_role_session_name and external_id mean nothing without assume_role_arn".into(),
            ));
        }
        if !name.is_empty() {
            identity::principal(name, 64)
                .map_err(|why| Error::Refused(format!("assume_role_session_name {name:?} {why}")))?;
        }
        Ok(())
    }

    fn answer(&self) -> Reply {
        let reached = [
            ("assume_role_arn", &self.assume_role_arn),
            ("assume_role_session_name", &self.assume_role_session_name),
            ("external_id", &self.external_id),
        ];
        let reached = reached.into_iter().filter(|_| !self.assume_role_arn.is_empty());
        let reached = reached.map(|(key, text)| (key, json!(text)));
        Ok(Some(Response::data(
            [
                ("name", json!(self.name)),
                ("id", json!(self.id)),
                ("username", json!(self.username)),
                ("rotation_period", json!(self.rotation_period.as_secs())),
                ("grace_period", json!(self.grace_period.as_secs())),
            ]
            .into_iter()
            .chain(reached),
        )))
    }
}

impl Creds {
    async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&format!("{CREDS}{name}")).await? else { return Ok(None) };
        // The parser's own message may quote what it read.
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|_| Error::Failed(format!("the stored key of static role {name:?} cannot be read")))
    }

    async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode a key".into()))?;
        Ok(mount.ports.storage.put(&format!("{CREDS}{name}"), &Secret::new(text), true).await?)
    }

    /// When something is to be done: the key before removed, or a new one made. A key of the built-in engine that does not
    /// say when it was made is changed now.
    fn due(&self, role: &StaticRole) -> SystemTime {
        let rotated = SystemTime::UNIX_EPOCH + Duration::from_secs(self.rotated);
        let next = match self.expiration {
            Some(expiration) => SystemTime::from(expiration),
            None => rotated + role.rotation_period,
        };
        if self.previous.is_empty() || role.grace_period.is_zero() {
            next
        } else {
            next.min(rotated + role.grace_period)
        }
    }
}

fn record_key(name: &str) -> String {
    format!("{RECORDS}{name}")
}

/// GET `static-roles/:name`.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(role) = StaticRole::load(mount, name).await? else { return Ok(None) };
    let mut reply = role.answer()?;
    let creds = Creds::load(mount, name).await?;
    if let Some(Response { data: Some(data), .. }) = &mut reply {
        let mut add = |key: &str, value: Value| data.push((key.to_owned(), Datum::Plain(value)));
        if let Some(creds) = creds.filter(|creds| creds.rotated > 0) {
            let last = i64::try_from(creds.rotated).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            add("last_rotation", json!(last.map(|time| time.to_string())));
            add("next_rotation", json!(creds.expiration.map(|time| time.to_string())));
        }
        if let Some(error) = mount.rotation.queue.state(&record_key(name)).and_then(|state| state.error) {
            add("last_rotation_error", json!(error));
        }
    }
    Ok(reply)
}

/// GET `static-creds/:name`. From storage: works while AWS is away.
pub async fn creds(mount: &Mount, name: &str) -> Reply {
    let Some(creds) = Creds::load(mount, name).await? else { return Ok(None) };
    let mut data = vec![
        ("access_key".to_owned(), Datum::Plain(json!(creds.access_key))),
        ("secret_key".to_owned(), Datum::Secret(creds.secret_key)),
    ];
    if let Some(expiration) = creds.expiration {
        data.push(("expiration".to_owned(), Datum::Plain(json!(expiration.to_string()))));
    }
    Ok(Some(Response { data: Some(data), ..Response::default() }))
}

/// POST and PUT of `static-roles/:name`. The first one makes a key.
pub async fn write(mount: &Mount, name: &str, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    let stored = StaticRole::load(mount, name).await?;
    let creating = stored.is_none();
    let mut role = stored.unwrap_or_default();
    name.clone_into(&mut role.name);
    match input.text("username").filter(|username| !username.is_empty()) {
        Some(username) if !creating && username != role.username => {
            return Err(Error::Refused("cannot change the username of a static role: write another one".into()));
        }
        Some(username) => username.clone_into(&mut role.username),
        None if creating => return Err(Error::Refused("missing \"username\" parameter".into())),
        None => {}
    }
    match input.span("rotation_period") {
        Some(period) if period < SHORTEST_PERIOD => {
            return Err(Error::Refused(format!(
                "role rotation period out of range: must be greater than {:.2} seconds",
                SHORTEST_PERIOD.as_secs_f64()
            )));
        }
        Some(period) => role.rotation_period = period,
        None if creating => return Err(Error::Refused("missing \"rotation_period\" parameter".into())),
        None => {}
    }
    if let Some(grace) = input.span("grace_period") {
        role.grace_period = grace;
    }
    if !role.grace_period.is_zero() && role.grace_period >= role.rotation_period {
        return Err(Error::Refused("grace_period must be shorter than rotation_period".into()));
    }
    role.lay_over(input)?;
    role.id = same_user(mount, &role).await?;
    if creating {
        change(mount, name, &role).await?;
        role.store(mount, name).await?;
        return role.answer();
    }
    role.store(mount, name).await?;
    if let Some(mut creds) = Creds::load(mount, name).await? {
        creds.expiration = expiration(creds.rotated, role.rotation_period);
        creds.store(mount, name).await?;
        mount.rotation.queue.plan(&record, &record, creds.due(&role));
    }
    role.answer()
}

fn expiration(rotated: u64, period: Duration) -> Option<Timestamp> {
    let seconds = i64::try_from(rotated.saturating_add(period.as_secs())).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// The id of the role's user, if it is the one that it always was.
async fn same_user(mount: &Mount, role: &StaticRole) -> Result<String, Error> {
    let found = role.cloud(mount).await?.user(&role.username).await;
    let unable = format!("unable to validate username {:?}", role.username);
    let user = found
        .map_err(|e| refused(&unable, &e))?
        .ok_or_else(|| Error::Refused(format!("{unable}: NoSuchEntity: there is no such user")))?;
    if !role.id.is_empty() && role.id != user.id {
        return Err(Error::Refused(format!(
            "AWS GetUser returned a user, but the ID did not match: {:?} was deleted and made anew; write another static role",
            role.username
        )));
    }
    Ok(user.id)
}

/// Makes a new key and stores it. The caller holds the lock.
async fn change(mount: &Mount, name: &str, role: &StaticRole) -> Result<(), Error> {
    counted(mount, Work::Rotate, to_another(mount, name, role)).await
}

async fn to_another(mount: &Mount, name: &str, role: &StaticRole) -> Result<(), Error> {
    let key = record_key(name);
    settle(mount, name, role).await?;
    let cloud = role.cloud(mount).await?;
    let stored = Creds::load(mount, name).await?;
    let in_use = stored.as_ref().map(|creds| creds.access_key.clone());
    let now = unix_seconds(mount.ports.clock.now());
    let made = key::make(mount, cloud.as_ref(), &key, (&role.username, role.via()), now, in_use.as_deref(), true).await;
    let record = made.map_err(|unmade| match unmade {
        Unmade::Ours(e) => e,
        Unmade::Aws(call, failure) => {
            refused(&format!("failed to create new credentials for role {name:?}: {call}"), &failure)
        }
    })?;
    adopt(mount, name, role, stored, record).await
}

/// Stores the key of a record where it belongs.
async fn adopt(
    mount: &Mount,
    name: &str,
    role: &StaticRole,
    stored: Option<Creds>,
    record: Record,
) -> Result<(), Error> {
    let key = record_key(name);
    let Some(fresh) = record.fresh else { return Ok(()) };
    let stored = stored.unwrap_or_default();
    let creds = Creds {
        access_key: fresh.id,
        secret_key: fresh.secret,
        expiration: expiration(record.begun, role.rotation_period),
        rotated: record.begun,
        previous: stored.access_key,
        other: stored.other,
    };
    creds.store(mount, name).await?;
    tracing::info!(username = role.username, access_key = creds.access_key, "a static role has a new key");
    mount.rotation.queue.plan(&key, &key, creds.due(role));
    key::forget(mount, &key).await;
    Ok(())
}

/// Brings an earlier change to its end: a key that is known is stored, one whose secret is lost is removed. The caller holds
/// the lock.
async fn settle(mount: &Mount, name: &str, role: &StaticRole) -> Result<(), Error> {
    let key = record_key(name);
    let Some(record) = Record::load(mount, &key).await? else { return Ok(()) };
    let stored = Creds::load(mount, name).await?;
    let open = |e: Failure| Error::Failed(format!("an earlier change of the key is open: {e}"));
    let cloud = role.cloud(mount).await?;
    if let Some(fresh) = record.fresh.as_ref().filter(|_| record.username == role.username) {
        let is_stored = stored.as_ref().is_some_and(|creds| creds.access_key == fresh.id);
        if !is_stored && cloud.keys(&role.username).await.map_err(open)?.iter().any(|info| info.id == fresh.id) {
            return adopt(mount, name, role, stored, record).await;
        }
        let age = mount.ports.clock.now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(record.begun));
        if !is_stored && age.unwrap_or_default() < YOUNG {
            return Err(Error::Failed(format!(
                "an earlier change of the key is open: {} is not to be seen yet; this is tried again",
                fresh.id
            )));
        }
        key::forget(mount, &key).await;
        return Ok(());
    }
    let in_use = stored.map(|creds| creds.access_key).unwrap_or_default();
    key::clear(cloud.as_ref(), &record, &[&in_use]).await.map_err(open)?;
    key::forget(mount, &key).await;
    Ok(())
}

/// POST and PUT of `rotate-role/:name`.
pub async fn rotate(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let _lock = mount.rotation.locks.hold(&record_key(name)).await;
    let role =
        StaticRole::load(mount, name).await?.ok_or_else(|| Error::Refused(format!("unknown static role: {name}")))?;
    same_user(mount, &role).await?;
    change(mount, name, &role).await?;
    Ok(None)
}

/// DELETE. The key that we made goes, the user stays.
pub async fn delete(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let key = record_key(name);
    let _lock = mount.rotation.locks.hold(&key).await;
    let Some(role) = StaticRole::load(mount, name).await? else {
        // A role that was never made may have left a key.
        if let Some(record) = Record::load(mount, &key).await? {
            let role = StaticRole::of_record(record);
            remove(mount, name, &role).await?;
        }
        return Ok(None);
    };
    remove(mount, name, &role).await?;
    mount.ports.storage.delete(&format!("{PREFIX}{name}")).await?;
    Ok(None)
}

async fn remove(mount: &Mount, name: &str, role: &StaticRole) -> Result<(), Error> {
    settle(mount, name, role).await?;
    if let Some(creds) = Creds::load(mount, name).await? {
        let cloud = role.cloud(mount).await?;
        for id in [&creds.access_key, &creds.previous] {
            if !id.is_empty() {
                let gone = cloud.delete_key(&role.username, id).await;
                gone.map_err(|e| refused("error calling DeleteAccessKey", &e))?;
            }
        }
        mount.ports.storage.delete(&format!("{CREDS}{name}")).await?;
    }
    mount.rotation.queue.forget(&record_key(name));
    Ok(())
}

/// The static roles, and changes that did not come to their end.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let storage = &mount.ports.storage;
    let mut found = Vec::new();
    for name in storage.list(PREFIX, "", -1).await? {
        let (role, creds) = tokio::join!(StaticRole::load(mount, &name), Creds::load(mount, &name));
        match (role, creds) {
            (Ok(Some(role)), Ok(creds)) => {
                let due = creds.map_or(SystemTime::UNIX_EPOCH, |creds| creds.due(&role));
                found.push((record_key(&name), record_key(&name), due));
            }
            (Ok(None), Ok(_)) => {}
            (Err(e), _) | (_, Err(e)) => tracing::error!("{e}"),
        }
    }
    for name in storage.list(RECORDS, "", -1).await? {
        found.push((record_key(&name), record_key(&name), SystemTime::UNIX_EPOCH));
    }
    Ok(found)
}

/// Asked by the queue.
pub async fn when_due(mount: &Mount, name: &str) -> Result<(), Error> {
    let (key, queue) = (record_key(name), &mount.rotation.queue);
    let _lock = mount.rotation.locks.hold(&key).await;
    let done = see_to(mount, name).await;
    if let Err(e) = &done {
        queue.failed(&key, &key, mount.ports.clock.now(), &e.to_string());
    }
    done
}

async fn see_to(mount: &Mount, name: &str) -> Result<(), Error> {
    let (key, queue, now) = (record_key(name), &mount.rotation.queue, mount.ports.clock.now());
    let Some(role) = StaticRole::load(mount, name).await? else {
        if let Some(record) = Record::load(mount, &key).await? {
            // A creation that did not come to its end: its key is nobody's.
            let role = StaticRole::of_record(record);
            remove(mount, name, &role).await?;
        }
        queue.forget(&key);
        return Ok(());
    };
    settle(mount, name, &role).await?;
    let Some(mut creds) = Creds::load(mount, name).await? else {
        same_user(mount, &role).await?;
        return change(mount, name, &role).await;
    };
    let rotated = SystemTime::UNIX_EPOCH + Duration::from_secs(creds.rotated);
    if !creds.previous.is_empty() && !role.grace_period.is_zero() && rotated + role.grace_period <= now {
        let gone = role.cloud(mount).await?.delete_key(&role.username, &creds.previous).await;
        gone.map_err(|e| refused("error calling DeleteAccessKey", &e))?;
        creds.previous.clear();
        creds.store(mount, name).await?;
    }
    if creds.due(&role) > now {
        queue.plan(&key, &key, creds.due(&role));
        return Ok(());
    }
    same_user(mount, &role).await?;
    change(mount, name, &role).await
}
