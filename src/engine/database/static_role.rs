//! `static-roles/:name`, `static-creds/:name`, `rotate-role/:name`: users that were there before, whose password we
//! change.

mod due;
mod fields;
mod held;
mod stored;

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::connection::Config;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::request::{Datum, Reply, Response};
use crate::engine::rotation::{self, Failure};
use crate::secret::Secret;
pub use due::{scheduled, when_due};
use held::Held;
pub use stored::key;
use stored::{Mode, StaticRole};

/// Where the records of unfinished changes are.
pub const RECORDS: &str = "rotation/static/";
/// Where those of second accounts are.
pub const SECOND_RECORDS: &str = "rotation/static-secondary/";
/// How long the end of a role waits for the end of its account's previous password.
const PATIENCE: Duration = Duration::from_secs(5);

/// Key of a role's record, and of its place in the queue.
pub fn record_key(name: &str) -> String {
    format!("{RECORDS}{name}")
}

/// Key of the record of a role's second account.
fn second_record_key(name: &str) -> String {
    format!("{SECOND_RECORDS}{name}")
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
    if account.rotation_mode != Mode::Single {
        data.push(("rotation_mode", json!(account.rotation_mode.name())));
        data.push(("grace_period", json!(account.grace_period.as_secs())));
    }
    if account.rotation_mode == Mode::DualAccount {
        data.push(("secondary_username", json!(account.secondary_username)));
    }
    let shown = role.credential_config.shown();
    if !shown.is_empty() {
        data.push(("credential_config", Value::Object(shown.clone())));
    }
    let state = mount.rotation.queue.state(&record_key(name));
    let failed = state.as_ref().filter(|state| state.error.is_some());
    let due = failed.map_or_else(|| account.rotates(name, mount.ports.clock.now()), |state| state.due);
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
    if account.rule.expression.is_empty() {
        data.push(("rotation_period", json!(account.rule.period.as_secs())));
    } else {
        data.push(("rotation_schedule", json!(account.rule.expression)));
        data.push(("rotation_window", json!(account.rule.window.as_secs())));
        if !account.rule.zone.is_empty() {
            data.push(("rotation_timezone", json!(account.rule.zone)));
        }
    }
    data.extend(account.last_vault_rotation.and_then(instant).map(|last| ("last_vault_rotation", last)));
    data
}

/// GET `static-creds/:name`. From storage: works while the database is down.
pub async fn creds(mount: &Mount, name: &str) -> Reply {
    let key = record_key(name);
    let (mut role, open) = tokio::join!(StaticRole::load(mount, name), mount.ports.storage.get(&key));
    let mut open = open?.is_some();
    if let Ok(Some(StaticRole { static_account, .. })) = &role
        && static_account.rotation_mode == Mode::DualAccount
    {
        open |= mount.ports.storage.get(&second_record_key(name)).await?.is_some();
    }
    if open {
        // What is stored may not open the account any more, or there may be a role after all.
        mount.refuse_on_standby().await?;
        due::settle_for_use(mount, name).await;
        role = StaticRole::load(mount, name).await;
    }
    let role = role?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    let config = Config::load(mount, &role.db_name).await?.ok_or_else(|| super::connection::missing(&role.db_name))?;
    if !config.allows(name) {
        return Err(Error::Failed(format!("{name:?} is not an allowed role")));
    }
    let now = mount.ports.clock.now();
    let account = &role.static_account;
    let left = account.rotates(name, now).duration_since(now).unwrap_or_default();
    let (username, password) = account.user(account.second_active);
    let mut data: Vec<(String, Datum)> =
        timing(&role).into_iter().map(|(key, value)| (key.to_owned(), Datum::Plain(value))).collect();
    data.push(("ttl".into(), Datum::Plain(json!(left.as_secs_f64().round() as u64))));
    data.push(("username".into(), Datum::Plain(json!(username))));
    data.push(("password".into(), Datum::Secret(password.duplicate())));
    if let Some(until) = account.grace(now).and_then(instant) {
        data.push(("previous_valid_until".into(), Datum::Plain(until)));
        if account.rotation_mode == Mode::DualAccount {
            let previous = account.user(!account.second_active).0;
            data.push(("previous_username".into(), Datum::Plain(json!(previous))));
        }
    }
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
        due::settle_creation(mount, name).await?;
        stored = StaticRole::load(mount, name).await?;
    }
    let creating = stored.is_none();
    let mut role = stored.unwrap_or_default();
    let now = mount.ports.clock.now();
    fields::lay_over(&mut role, input, creating, now)?;

    if !creating {
        if let Some(password) = given_password(input) {
            let rotated = role.static_account.last_vault_rotation.is_some();
            let mut held = Held::new(mount, name, role, false).await?;
            if rotated && !held.is_self_managed() {
                return Err(Error::Refused("password can only be given until the first rotation".into()));
            }
            held.import(password).await?;
            role = held.role;
        }
        if ["rotation_mode", "secondary_username", "db_name"].iter().any(|field| input.has(field))
            && role.static_account.rotation_mode != Mode::Single
        {
            let held = Held::new(mount, name, role, false).await?;
            held.check_mode().await?;
            role = held.role;
        }
        role.store(mount, name).await?;
        mount.rotation.queue.plan(&record, &role.db_name, role.static_account.next(name, now));
        return Ok(None);
    }
    let mut held = Held::new(mount, name, role, true).await?;
    held.check_mode().await?;
    match given_password(input) {
        Some(password) => held.import(password).await?,
        None if held.is_self_managed() => {
            return Err(Error::Refused(
                "password is required: at a self-managed connection the account logs in to change its own password"
                    .into(),
            ));
        }
        None => {}
    }
    if skips_import(mount, &held.role.db_name, input).await? {
        held.role.static_account.reschedule(now);
        held.role.store(mount, name).await?;
        held.plan(mount, now);
        return Ok(None);
    }
    let changed = rotation::change(mount, &mut held).await;
    if let Err(failure @ Failure::Open(_)) = &changed {
        mount.rotation.queue.failed(&record, &held.role.db_name, now, &failure.to_string());
    }
    changed.map_err(|failure| held.failed(failure))?;
    Ok(None)
}

fn given_password(input: &Input) -> Option<&Secret> {
    let given = ["password", "self_managed_password"].into_iter().filter_map(|field| input.secret(field));
    given.into_iter().find(|password| !password.is_empty())
}

/// The request's, else the connection's (Vault's `skip_static_role_import_rotation`).
async fn skips_import(mount: &Mount, db_name: &str, input: &Input) -> Result<bool, Error> {
    if let Some(skip) = input.flag("skip_import_rotation") {
        return Ok(skip);
    }
    let config = Config::load(mount, db_name).await?.unwrap_or_default();
    Ok(config.details.get("skip_static_role_import_rotation").and_then(Value::as_bool).unwrap_or(false))
}

/// DELETE. The user and its password stay as they are; a previous password ends now, for nobody would end it later.
pub async fn delete(mount: &Mount, name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let record = record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    let role = StaticRole::load(mount, name).await.unwrap_or_default();
    mount.ports.storage.delete(&key(name)).await?;
    mount.ports.storage.delete(&record).await?;
    mount.ports.storage.delete(&second_record_key(name)).await?;
    mount.rotation.queue.forget(&record);
    let Some(role) = role.filter(|role| !role.static_account.previous_password.is_empty()) else { return Ok(None) };
    let username = role.static_account.username.clone();
    let ended = tokio::time::timeout(PATIENCE, async {
        let held = Held::new(mount, name, role, false).await?;
        let account = &held.role.static_account;
        let ended = held.connection.target.remove_password(&account.username, &account.previous_password).await;
        ended.map_err(|e| Error::Failed(e.to_string()))
    });
    let why = match ended.await {
        Ok(Ok(())) => return Ok(None),
        Ok(Err(e)) => e.to_string(),
        Err(_elapsed) => "the database does not answer".to_owned(),
    };
    let warning = format!("the previous password of {username:?} goes on working, and nobody ends it now: {why}");
    Ok(Some(Response { warnings: vec![warning], ..Response::default() }))
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
    let now = mount.ports.clock.now();
    let changed = async {
        let mut held = Held::new(mount, name, role, false).await?;
        let standing = held.settle(mount).await?;
        let grace = held.role.static_account.grace(now).filter(|_| standing.unknown.is_none());
        if grace.is_none() {
            held.change(mount, standing.unknown).await.map_err(|failure| held.failed(failure))?;
        }
        Ok(grace)
    };
    let changed: Result<Option<SystemTime>, Error> = changed.await;
    match changed {
        Ok(None) => Ok(None),
        Ok(Some(until)) => {
            let left = until.duration_since(now).unwrap_or_default().as_secs_f64().ceil();
            Err(Error::Refused(format!(
                "the previous password is valid for another {left} s, and a rotation would end it: wait, or write a \
                 shorter grace_period"
            )))
        }
        Err(e) => {
            mount.rotation.queue.failed(&record, &db_name, mount.ports.clock.now(), &e.to_string());
            Err(Error::Failed(format!(
                "unable to finish rotating credentials; retries will continue in the background but it is also safe to \
                 retry manually: {e}"
            )))
        }
    }
}
