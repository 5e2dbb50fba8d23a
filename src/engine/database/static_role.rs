//! `static-roles/:name`, `static-creds/:name`, `rotate-role/:name`: users that were there before, whose password we
//! change.

mod stored;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::connection::{Config, Connection};
use super::credential::CredentialType;
use super::creds::{allowed, password_for};
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::journal::Record;
use crate::engine::request::{Datum, Reply, Response};
use crate::engine::rotation::{self, Account, Failure, Settled};
use crate::engine::{Mount, schedule};
use crate::secret::Secret;
use crate::target::{Driver, LoginError, Script, Target};
pub use stored::{StaticRole, key};

/// Where the records of unfinished changes are.
pub const RECORDS: &str = "rotation/static/";
/// The built-in engine's.
const SHORTEST_PERIOD: Duration = Duration::from_secs(5);
/// Vault's.
const SHORTEST_WINDOW: Duration = Duration::from_secs(3600);
/// How long an answer waits for an unfinished change. Then it is what is stored, as if the database were down.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long no answer tries again what has just failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Key of a role's record, and of its place in the queue.
pub fn record_key(name: &str) -> String {
    format!("{RECORDS}{name}")
}

/// A static role with its connection.
struct Held {
    name: String,
    key: String,
    role: StaticRole,
    connection: Arc<Connection>,
    creating: bool,
}

#[async_trait]
impl Account for Held {
    fn key(&self) -> &str {
        &self.key
    }
    fn username(&self) -> &str {
        &self.role.static_account.username
    }
    fn stored(&self) -> Option<&Secret> {
        Some(&self.role.static_account.password).filter(|password| !password.is_empty())
    }
    fn target(&self) -> Arc<dyn Target> {
        self.connection.target.clone()
    }
    fn statements(&self) -> Script {
        Script::parse(&self.role.statements.rotation, self.connection.driver.dialect())
    }
    fn creating(&self) -> Result<Option<Secret>, Error> {
        self.creating.then(|| self.role.encode()).transpose()
    }
    async fn draw(&self, mount: &Mount) -> Result<Secret, Error> {
        password_for(mount, &self.role.credential_config, &self.connection.password_policy).await
    }
    async fn adopt(&mut self, mount: &Mount, password: &Secret, at: SystemTime) -> Result<(), Error> {
        let now = mount.ports.clock.now();
        self.role.static_account.rotated(password, at, now);
        self.role.store(mount, &self.name).await?;
        self.creating = false;
        mount.rotation.queue.plan(&self.key, &self.role.db_name, self.role.static_account.due(now));
        Ok(())
    }
}

/// The role with a connection that it may use.
async fn hold(mount: &Mount, name: &str, role: StaticRole, creating: bool) -> Result<Held, Error> {
    if Config::load(mount, &role.db_name).await?.is_none() {
        return Err(super::connection::missing(&role.db_name));
    }
    let connection = allowed(mount, name, &role.db_name).await?;
    if role.credential_type != CredentialType::Password {
        let kind = role.credential_type.name();
        return Err(Error::Failed(format!("unsupported credential_type: {kind:?}")));
    }
    Ok(Held { name: name.to_owned(), key: record_key(name), role, connection, creating })
}

/// In the built-in engine's words.
fn failed(driver: Driver, failure: Failure) -> Error {
    match failure {
        Failure::Before(e) => e,
        Failure::Refused(e) => Error::Failed(format!("error setting credentials: {}", driver.change_error(&e))),
        Failure::Open(_) => Error::Failed(format!("error setting credentials: {failure}")),
    }
}

/// GET `static-roles/:name`.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(role) = StaticRole::load(mount, name).await? else { return Ok(None) };
    let account = &role.static_account;
    let mut data = vec![
        ("credential_type", json!(role.credential_type.name())),
        ("db_name", json!(role.db_name)),
        ("rotation_statements", json!(role.statements.rotation)),
        ("username", json!(account.username)),
    ];
    data.extend(timing(&role));
    let shown = role.credential_config.shown();
    if !shown.is_empty() {
        data.push(("credential_config", Value::Object(shown.clone())));
    }
    let state = mount.rotation.queue.state(&record_key(name));
    let due = state.as_ref().map_or_else(|| account.due(mount.ports.clock.now()), |state| state.due);
    data.extend(instant(due).map(|due| ("next_vault_rotation", due)));
    if let Some(error) = state.and_then(|state| state.error) {
        data.push(("last_rotation_error", json!(error)));
    }
    Ok(Some(Response::data(data)))
}

fn instant(time: SystemTime) -> Option<Value> {
    Timestamp::try_from(time).ok().map(|time| json!(time.to_string()))
}

/// What both reads say of when the password changes.
fn timing(role: &StaticRole) -> Vec<(&'static str, Value)> {
    let account = &role.static_account;
    let mut data = Vec::new();
    if account.rotation_schedule.is_empty() {
        data.push(("rotation_period", json!(account.rotation_period.as_secs())));
    } else {
        data.push(("rotation_schedule", json!(account.rotation_schedule)));
        data.push(("rotation_window", json!(account.rotation_window.as_secs())));
        if !account.rotation_timezone.is_empty() {
            data.push(("rotation_timezone", json!(account.rotation_timezone)));
        }
    }
    data.extend(account.last_vault_rotation.and_then(instant).map(|last| ("last_vault_rotation", last)));
    data
}

/// GET `static-creds/:name`. From storage: works while the database is down.
pub async fn creds(mount: &Mount, name: &str) -> Reply {
    let key = record_key(name);
    let (mut role, open) = tokio::join!(StaticRole::load(mount, name), mount.ports.storage.get(&key));
    if open?.is_some() {
        // What is stored may not open the account any more, or there may be a role after all.
        mount.refuse_on_standby().await?;
        settle_for_use(mount, name).await;
        role = StaticRole::load(mount, name).await;
    }
    let role = role?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    let config = Config::load(mount, &role.db_name).await?.ok_or_else(|| super::connection::missing(&role.db_name))?;
    if !config.allows(name) {
        return Err(Error::Failed(format!("{name:?} is not an allowed role")));
    }
    let now = mount.ports.clock.now();
    let left = role.static_account.due(now).duration_since(now).unwrap_or_default();
    let mut data: Vec<(String, Datum)> =
        timing(&role).into_iter().map(|(key, value)| (key.to_owned(), Datum::Plain(value))).collect();
    data.push(("ttl".into(), Datum::Plain(json!(left.as_secs_f64().round() as u64))));
    data.push(("username".into(), Datum::Plain(json!(role.static_account.username))));
    data.push(("password".into(), Datum::Secret(role.static_account.password)));
    Ok(Some(Response { data: Some(data), ..Response::default() }))
}

/// POST and PUT of `static-roles/:name`. The first one changes the password.
pub async fn write(mount: &Mount, name: &str, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    if mount.ports.storage.get(&super::role::key(name)).await?.is_some() {
        return Err(Error::Refused("Role and Static Role names must be unique".into()));
    }
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    let mut stored = StaticRole::load(mount, name).await?;
    if stored.is_none() && mount.ports.storage.get(&record).await?.is_some() {
        // An earlier creation has not come to its end: there may be a role after all.
        settle_creation(mount, name).await?;
        stored = StaticRole::load(mount, name).await?;
    }
    let creating = stored.is_none();
    let mut role = stored.unwrap_or_default();
    let now = mount.ports.clock.now();
    lay_over(&mut role, input, creating, now)?;

    if !creating {
        if let Some(password) = input.secret("password") {
            if role.static_account.last_vault_rotation.is_some() {
                return Err(Error::Refused("password can only be given until the first rotation".into()));
            }
            let held = hold(mount, name, role, false).await?;
            role = import(held, password).await?.role;
        }
        role.store(mount, name).await?;
        mount.rotation.queue.plan(&record, &role.db_name, role.static_account.due(now));
        return Ok(None);
    }
    let mut held = hold(mount, name, role, true).await?;
    if let Some(password) = input.secret("password") {
        held = import(held, password).await?;
    }
    if skips_import(mount, &held.role.db_name, input).await? {
        held.role.static_account.reschedule(now);
        held.role.store(mount, name).await?;
        mount.rotation.queue.plan(&record, &held.role.db_name, held.role.static_account.due(now));
        return Ok(None);
    }
    let changed = rotation::change(mount, &mut held).await;
    if let Err(failure @ Failure::Open(_)) = &changed {
        mount.rotation.queue.failed(&record, &held.role.db_name, now, &failure.to_string());
    }
    changed.map_err(|failure| failed(held.connection.driver, failure))?;
    Ok(None)
}

/// The request's, else the connection's (Vault's `skip_static_role_import_rotation`).
async fn skips_import(mount: &Mount, db_name: &str, input: &Input) -> Result<bool, Error> {
    if let Some(skip) = input.flag("skip_import_rotation") {
        return Ok(skip);
    }
    let config = Config::load(mount, db_name).await?.unwrap_or_default();
    Ok(config.details.get("skip_static_role_import_rotation").and_then(Value::as_bool).unwrap_or(false))
}

/// Takes the password that the operator says is valid, if it is.
async fn import(mut held: Held, password: &Secret) -> Result<Held, Error> {
    match held.connection.target.login(held.username(), password).await {
        Ok(()) | Err(LoginError::Barred(_)) => {
            held.role.static_account.password = password.duplicate();
            Ok(held)
        }
        Err(LoginError::Refused(e)) => {
            Err(Error::Refused(format!("the given password does not open the account: {e}")))
        }
        Err(LoginError::Unreachable(e)) => Err(Error::Failed(format!("the given password cannot be tried: {e}"))),
    }
}

/// Lays what the request gives over the role. The order of the checks is the built-in engine's.
fn lay_over(role: &mut StaticRole, input: &Input, creating: bool, now: SystemTime) -> Result<(), Error> {
    let refused = |text: &str| Err(Error::Refused(text.to_owned()));
    if let Some(db_name) = input.text("db_name") {
        db_name.clone_into(&mut role.db_name);
    }
    if role.db_name.is_empty() {
        return refused("database name is a required field");
    }
    let account = &mut role.static_account;
    match input.text("username").filter(|username| !username.is_empty()) {
        None if creating => return refused("username is a required field to create a static account"),
        None => {}
        Some(username) if !creating && username != account.username => {
            return refused("cannot update static account username");
        }
        Some(username) => username.clone_into(&mut account.username),
    }

    let expression = input.text("rotation_schedule").filter(|text| !text.is_empty());
    match (input.span("rotation_period"), expression) {
        (Some(_), Some(_)) => {
            return refused(
                "mutually exclusive fields rotation_period and rotation_schedule were both specified; only one of them \
                 can be provided",
            );
        }
        (None, None) if creating => return refused("rotation_period is required to create static accounts"),
        (None, None) => {}
        (Some(period), None) if period < SHORTEST_PERIOD => {
            return refused("rotation_period must be 5 seconds or more");
        }
        (Some(period), None) => {
            account.rotation_period = period;
            account.rotation_schedule.clear();
            account.rotation_timezone.clear();
            account.rotation_window = Duration::ZERO;
        }
        (None, Some(text)) => {
            schedule::cron(text).map_err(|e| Error::Refused(format!("could not parse rotation_schedule: {e}")))?;
            text.clone_into(&mut account.rotation_schedule);
            account.rotation_period = Duration::ZERO;
        }
    }
    if let Some(window) = input.span("rotation_window").filter(|window| !window.is_zero()) {
        if account.rotation_schedule.is_empty() {
            return refused("rotation_window is invalid with use of rotation_period");
        }
        if window < SHORTEST_WINDOW {
            return refused("rotation_window is invalid: rotation_window must be 3600 seconds or more");
        }
    }
    if let Some(window) = input.span("rotation_window") {
        account.rotation_window = window;
    }
    if let Some(zone) = input.text("rotation_timezone") {
        if account.rotation_schedule.is_empty() && !zone.is_empty() {
            return refused("rotation_timezone is invalid with use of rotation_period");
        }
        schedule::zone(zone).map_err(|e| Error::Refused(format!("invalid rotation_timezone: {e}")))?;
        zone.clone_into(&mut account.rotation_timezone);
    }
    let timed = ["rotation_period", "rotation_schedule", "rotation_timezone"];
    if creating || timed.iter().any(|field| input.has(field)) {
        account.reschedule(now);
    }

    if let Some(statements) = input.list("rotation_statements") {
        role.statements.rotation = statements.to_vec();
    }
    let kind = input.text("credential_type");
    if let Some(kind) = kind {
        role.credential_type =
            CredentialType::named(kind).ok_or_else(|| Error::Refused(format!("invalid credential_type {kind:?}")))?;
    }
    let config = input.pairs("credential_config");
    if config.is_some() || kind.is_some() || creating {
        role.credential_config = role
            .credential_type
            .validate(&config.cloned().unwrap_or_default(), now)
            .map_err(|e| Error::Refused(format!("credential_config validation failed: {e}")))?;
    }
    Ok(())
}

/// DELETE. The user and its password stay as they are.
pub async fn delete(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    mount.ports.storage.delete(&key(name)).await?;
    mount.ports.storage.delete(&record).await?;
    mount.rotation.queue.forget(&record);
    Ok(None)
}

/// LIST, with `after` and `limit`.
pub async fn list(mount: &Mount, input: &Input) -> Reply {
    super::list(mount, "static-role/", input).await
}

/// POST and PUT of `rotate-role/:name`.
pub async fn rotate(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    let role = StaticRole::load(mount, name).await?;
    let role = role.ok_or_else(|| Error::Refused("no static role found for role name".into()))?;
    let db_name = role.db_name.clone();
    let changed = async {
        let mut held = hold(mount, name, role, false).await?;
        let driver = held.connection.driver;
        rotation::change(mount, &mut held).await.map_err(|failure| failed(driver, failure))
    };
    if let Err(e) = changed.await {
        mount.rotation.queue.failed(&record, &db_name, mount.ports.clock.now(), &e.to_string());
        return Err(Error::Failed(format!(
            "unable to finish rotating credentials; retries will continue in the background but it is also safe to \
             retry manually: {e}"
        )));
    }
    Ok(None)
}

/// Every static role with its connection and when it is due. One that cannot be read is reported and left out.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let now = mount.ports.clock.now();
    let mut found = Vec::new();
    for name in mount.ports.storage.list("static-role/", "", -1).await? {
        match StaticRole::load(mount, &name).await {
            Ok(Some(role)) => found.push((record_key(&name), role.db_name, role.static_account.due(now))),
            Ok(None) => {}
            Err(e) => tracing::error!(role = name, "its password is not changed: {e}"),
        }
    }
    Ok(found)
}

/// Settles what is open and changes the password if that is due.
pub async fn when_due(mount: &Mount, name: &str) -> Result<(), Error> {
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    let now = mount.ports.clock.now();
    let Some(role) = StaticRole::load(mount, name).await? else {
        let settled = settle_creation(mount, name).await;
        match &settled {
            Ok(Some(again)) => mount.rotation.queue.plan(&record, "", *again),
            Ok(None) => {}
            Err(e) => mount.rotation.queue.failed(&record, "", now, &e.to_string()),
        }
        return settled.map(drop);
    };
    let db_name = role.db_name.clone();
    let done = async {
        let mut held = hold(mount, name, role, false).await?;
        let driver = held.connection.driver;
        let settled = rotation::settle(mount, &mut held).await.map_err(|failure| failed(driver, failure))?;
        let due = held.role.static_account.due(now);
        if due <= now || settled.is_open() {
            rotation::change(mount, &mut held).await.map_err(|failure| failed(driver, failure))?;
        } else {
            let again = match &settled {
                Settled::Waiting(record) => due.min(rotation::look_again(record, now)),
                _ => due,
            };
            mount.rotation.queue.plan(&record, &db_name, again);
        }
        Ok(())
    };
    let done: Result<(), Error> = done.await;
    if let Err(e) = &done {
        mount.rotation.queue.failed(&record, &db_name, mount.ports.clock.now(), &e.to_string());
    }
    done
}

/// Settles what is open for somebody who waits for the password, but not for long.
async fn settle_for_use(mount: &Mount, name: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let key = record_key(name);
    let Ok(lock) = tokio::time::timeout_at(deadline, mount.rotation.locks.hold(&key)).await else { return };
    if !mount.rotation.vain.is_over(&key, mount.ports.clock.now()) {
        return;
    }
    let (mount, name) = (mount.clone(), name.to_owned());
    // Goes on when nobody waits any more; who comes meanwhile waits for the lock.
    let settling = tokio::spawn(async move {
        let _lock = lock;
        let again = settle_alone(&mount, &name).await.unwrap_or_else(|e| {
            tracing::warn!(role = name, "an unfinished password change cannot be settled yet: {e}");
            Some(mount.ports.clock.now() + AFTER_FAILURE)
        });
        if let Some(again) = again {
            mount.rotation.vain.until(&key, again, mount.ports.clock.now());
        }
    });
    let _ = tokio::time::timeout_at(deadline, settling).await;
}

/// Settles what is open of a role that is there, or not; gives when to look again. The caller holds the lock.
async fn settle_alone(mount: &Mount, name: &str) -> Result<Option<SystemTime>, Error> {
    let Some(role) = StaticRole::load(mount, name).await? else { return settle_creation(mount, name).await };
    let mut held = hold(mount, name, role, false).await?;
    let (driver, now) = (held.connection.driver, mount.ports.clock.now());
    let settled = rotation::settle(mount, &mut held).await.map_err(|failure| failed(driver, failure))?;
    Ok(match settled {
        Settled::Nothing | Settled::Adopted | Settled::Kept => None,
        Settled::Waiting(record) => Some(rotation::look_again(&record, now)),
        Settled::Unknown(_) => Some(now + AFTER_FAILURE),
    })
}

/// Settles the creation of a role that is not there; gives when to look again. The caller holds the lock.
async fn settle_creation(mount: &Mount, name: &str) -> Result<Option<SystemTime>, Error> {
    let key = record_key(name);
    let storage = mount.ports.storage.as_ref();
    let creating = match Record::load(storage, &key).await? {
        Some(Record { creating: Some(creating), .. }) => creating,
        Some(_) => {
            // The role was deleted.
            storage.delete(&key).await?;
            mount.rotation.queue.forget(&key);
            return Ok(None);
        }
        None => {
            mount.rotation.queue.forget(&key);
            return Ok(None);
        }
    };
    let mut held = hold(mount, name, StaticRole::decode(name, &creating)?, true).await?;
    let driver = held.connection.driver;
    match rotation::settle(mount, &mut held).await.map_err(|failure| failed(driver, failure))? {
        Settled::Adopted => Ok(None),
        Settled::Waiting(record) => Ok(Some(rotation::look_again(&record, mount.ports.clock.now()))),
        Settled::Nothing | Settled::Kept => {
            mount.rotation.queue.forget(&key);
            Ok(None)
        }
        Settled::Unknown(_) => {
            rotation::change(mount, &mut held).await.map_err(|failure| failed(driver, failure))?;
            Ok(None)
        }
    }
}
