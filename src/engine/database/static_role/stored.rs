//! A static role as it is stored: the built-in engine's own form.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::engine::Mount;
use crate::engine::database::credential::{CredentialType, Settings};
use crate::engine::database::role::{Statements, nanoseconds};
use crate::engine::error::Error;
use crate::engine::go::instant;
use crate::engine::journal::text;
use crate::engine::request::Fields;
use crate::engine::schedule::{self, Schedule};
use crate::secret::Secret;

/// One static role. Durations are nanoseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StaticRole {
    /// Connection where the user is.
    pub db_name: String,
    /// What changes the password.
    pub statements: Statements,
    /// What kind of credential.
    pub credential_type: CredentialType,
    /// Settings of that kind.
    pub credential_config: Settings,
    /// The user.
    pub static_account: StaticAccount,
    /// What other engines of this stored form keep here; carried along untouched.
    #[serde(flatten)]
    pub other: Fields,
}

/// The user of a static role, and when its password changes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StaticAccount {
    /// Its name at the target.
    pub username: String,
    /// Its password, empty if we were never told one.
    #[serde(with = "text")]
    pub password: Secret,
    /// When that was set.
    #[serde(with = "instant")]
    pub last_vault_rotation: Option<SystemTime>,
    /// Zero if there is a schedule.
    #[serde(with = "nanoseconds")]
    pub rotation_period: Duration,
    /// Empty if there is a period.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rotation_schedule: String,
    /// Empty for UTC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rotation_timezone: String,
    /// Zero for no limit.
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub rotation_window: Duration,
    /// With a schedule, or before the first change.
    #[serde(with = "instant", skip_serializing_if = "Option::is_none")]
    pub next_vault_rotation: Option<SystemTime>,
    /// What other engines of this stored form keep here; carried along untouched.
    #[serde(flatten)]
    pub other: Fields,
}

impl Default for StaticAccount {
    fn default() -> Self {
        Self {
            username: String::new(),
            password: Secret::new(String::new()),
            last_vault_rotation: None,
            rotation_period: Duration::ZERO,
            rotation_schedule: String::new(),
            rotation_timezone: String::new(),
            rotation_window: Duration::ZERO,
            next_vault_rotation: None,
            other: Fields::new(),
        }
    }
}

impl StaticAccount {
    /// The rule.
    ///
    /// # Errors
    /// What is wrong with the expression or the zone; a stored one was read before.
    pub fn schedule(&self) -> Result<Schedule, String> {
        if self.rotation_schedule.is_empty() {
            return Ok(Schedule::Period(self.rotation_period));
        }
        Ok(Schedule::Cron {
            cron: Box::new(schedule::cron(&self.rotation_schedule)?),
            zone: schedule::zone(&self.rotation_timezone)?,
            window: self.rotation_window,
        })
    }

    /// When the password is due to change. What cannot be told is due now.
    pub fn due(&self, now: SystemTime) -> SystemTime {
        let Ok(schedule) = self.schedule() else { return now };
        let due = match (&schedule, self.last_vault_rotation, self.next_vault_rotation) {
            (Schedule::Period(_), Some(last), _) => schedule.next(last),
            (_, _, Some(next)) => Some(next),
            (_, last, None) => schedule.next(last.unwrap_or(now)),
        };
        schedule.revised(due.unwrap_or(now), now)
    }

    /// Counts the schedule anew from `now`.
    pub fn reschedule(&mut self, now: SystemTime) {
        let untouched = self.last_vault_rotation.is_none() || !self.rotation_schedule.is_empty();
        let next = self.schedule().ok().and_then(|schedule| schedule.next(now));
        self.next_vault_rotation = next.filter(|_| untouched);
    }

    /// Takes a new password. A schedule goes on as it was: only a time that has passed is followed by the next.
    pub fn rotated(&mut self, password: &Secret, at: SystemTime, now: SystemTime) {
        self.password = password.duplicate();
        self.last_vault_rotation = Some(at);
        if self.rotation_schedule.is_empty() || self.next_vault_rotation.is_none_or(|next| next <= now) {
            self.reschedule(now);
        }
    }
}

/// Storage key of a static role.
pub fn key(name: &str) -> String {
    format!("static-role/{name}")
}

impl StaticRole {
    /// The stored role, `None` if there is none.
    pub async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        match mount.ports.storage.get(&key(name)).await? {
            Some(entry) => Self::decode(name, &entry).map(Some),
            None => Ok(None),
        }
    }

    /// Reads the stored form.
    pub fn decode(name: &str, entry: &Secret) -> Result<Self, Error> {
        // The parser's own message may quote what it read.
        serde_json::from_str(entry.expose())
            .map_err(|_| Error::Failed(format!("the stored static role {name:?} cannot be read")))
    }

    /// The stored form.
    pub fn encode(&self) -> Result<Secret, Error> {
        let text = serde_json::to_string(self);
        text.map(Secret::new).map_err(|_| Error::Failed("cannot encode the static role".into()))
    }

    /// Writes the role.
    pub async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        Ok(mount.ports.storage.put(&key(name), &self.encode()?, true).await?)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_stored_form_is_the_built_in_engines() {
        let foreign = json!({
            "db_name": "pg", "statements": {}, "default_ttl": 0, "max_ttl": 0, "credential_type": 0,
            "credential_config": null,
            "static_account": { "username": "st1", "password": "pass-word", "private_key": null,
                "last_vault_rotation": "2026-11-22T02:15:22.056945205Z", "rotation_period": 3_600_000_000_000_i64,
                "revoke_user_on_delete": false },
        });
        let role = StaticRole::decode("st", &Secret::new(foreign.to_string())).unwrap();
        assert_eq!(role.static_account.rotation_period, Duration::from_secs(3600));
        let due = Timestamp::try_from(role.static_account.due(SystemTime::UNIX_EPOCH)).unwrap();
        assert_eq!(due.to_string(), "2026-11-22T03:15:22.056945205Z");
        assert!(!format!("{role:?}").contains("pass-word"));
        let mut back: Value = serde_json::from_str(role.encode().unwrap().expose()).unwrap();
        back["credential_config"] = Value::Null;
        assert_eq!(back, foreign);
    }

    #[test]
    fn the_zero_time_is_none() {
        let role = r#"{"static_account":{"last_vault_rotation":"0001-01-01T00:00:00Z"}}"#;
        let role = StaticRole::decode("st", &Secret::new(role.into())).unwrap();
        assert_eq!(role.static_account.last_vault_rotation, None);
    }

    #[test]
    fn a_change_by_hand_does_not_move_a_schedule() {
        let at = |text: &str| -> SystemTime { text.parse::<Timestamp>().unwrap().into() };
        let mut account = StaticAccount { rotation_schedule: "0 3 * * *".into(), ..StaticAccount::default() };
        account.reschedule(at("2026-11-22T01:00:00Z"));
        let now = at("2026-11-22T02:00:00Z");
        account.rotated(&Secret::new("x".into()), now, now);
        assert_eq!(account.due(now), at("2026-11-22T03:00:00Z"));
        let now = at("2026-11-22T03:00:01Z");
        account.rotated(&Secret::new("x".into()), now, now);
        assert_eq!(account.due(now), at("2026-11-23T03:00:00Z"));
    }
}
