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
use crate::engine::schedule::rule::Rule;
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

/// Roles that were written together change their passwords at most this much after the time of their rule, and at most a
/// twentieth of the time between two changes: each at a moment of its own. Shorter than the shortest `rotation_window`.
pub const MOST_JITTER: Duration = Duration::from_secs(60);

/// What becomes of the password that is handed out when there is a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It ends.
    #[default]
    Single,
    /// Nothing: the new one is that of a second account, which is handed out from then on.
    DualAccount,
    /// It goes on working beside the new one for a while.
    DualPassword,
}

impl Mode {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Single, "single"), (Self::DualAccount, "dual_account"), (Self::DualPassword, "dual_password")];

    /// By its name in requests.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(mode, _)| mode)
    }

    /// Its name in requests.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }

    fn is_single(&self) -> bool {
        *self == Self::Single
    }
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
    /// When it changes by itself.
    #[serde(flatten)]
    pub rule: Rule,
    /// With a schedule, or before the first change.
    #[serde(with = "instant", skip_serializing_if = "Option::is_none")]
    pub next_vault_rotation: Option<SystemTime>,
    /// What becomes of the password before.
    #[serde(skip_serializing_if = "Mode::is_single")]
    pub rotation_mode: Mode,
    /// How long it goes on working at least; zero for [`Mode::Single`].
    #[serde(with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub grace_period: Duration,
    /// Of [`Mode::DualAccount`]: the second account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secondary_username: String,
    /// Its password, empty before its first change.
    #[serde(with = "text", skip_serializing_if = "Secret::is_empty")]
    pub secondary_password: Secret,
    /// It is the one that is handed out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_active: bool,
    /// Of [`Mode::DualPassword`]: the password before, until it is ended.
    #[serde(with = "text", skip_serializing_if = "Secret::is_empty")]
    pub previous_password: Secret,
    /// Until when whoever was given the password before may use it.
    #[serde(with = "instant", skip_serializing_if = "Option::is_none")]
    pub previous_valid_until: Option<SystemTime>,
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
            rule: Rule::default(),
            next_vault_rotation: None,
            rotation_mode: Mode::Single,
            grace_period: Duration::ZERO,
            secondary_username: String::new(),
            secondary_password: Secret::new(String::new()),
            second_active: false,
            previous_password: Secret::new(String::new()),
            previous_valid_until: None,
            other: Fields::new(),
        }
    }
}

impl StaticAccount {
    /// When the password of the role of that name is due to change: at the time of the rule, or up to [`MOST_JITTER`]
    /// later, the same each time. What cannot be told is due now.
    pub fn due(&self, name: &str, now: SystemTime) -> SystemTime {
        let Ok(Some(schedule)) = self.rule.schedule() else { return now };
        let due = match (&schedule, self.last_vault_rotation, self.next_vault_rotation) {
            (Schedule::Period(_), Some(last), _) => schedule.next(last),
            (_, _, Some(next)) => Some(next),
            (_, last, None) => schedule.next(last.unwrap_or(now)),
        };
        let due = schedule.revised(due.unwrap_or(now), now);
        let between = schedule.next(due).and_then(|next| next.duration_since(due).ok()).unwrap_or_default();
        let jitter = schedule::share(name, (between / 20).min(MOST_JITTER));
        due.checked_add(Duration::from_secs(jitter.as_secs())).unwrap_or(due)
    }

    /// When the password changes: when it is due, and not while somebody may still use the one before.
    pub fn rotates(&self, name: &str, now: SystemTime) -> SystemTime {
        let due = self.due(name, now);
        self.grace(now).map_or(due, |until| until.max(due))
    }

    /// When there is something to do for it.
    pub fn next(&self, name: &str, now: SystemTime) -> SystemTime {
        let (ends, rotates) = (self.previous_valid_until, self.rotates(name, now));
        ends.filter(|_| !self.previous_password.is_empty()).map_or(rotates, |ends| ends.min(rotates))
    }

    /// Until when somebody may still use the password before, if at all.
    pub fn grace(&self, now: SystemTime) -> Option<SystemTime> {
        self.previous_valid_until.filter(|until| *until > now && self.rotation_mode != Mode::Single)
    }

    /// True if there is a previous password that must end.
    pub fn outlived(&self, now: SystemTime) -> bool {
        !self.previous_password.is_empty() && self.previous_valid_until.is_none_or(|until| until <= now)
    }

    /// Name and password of the account, or of the second one.
    pub fn user(&self, second: bool) -> (&str, &Secret) {
        match second {
            false => (&self.username, &self.password),
            true => (&self.secondary_username, &self.secondary_password),
        }
    }

    /// Which account changes next: the one that is not handed out, unless there is nothing to hand out yet.
    pub fn turn(&self) -> bool {
        let other = self.rotation_mode == Mode::DualAccount && !self.user(self.second_active).1.is_empty();
        self.second_active != other
    }

    /// Sets the password of an account, and nothing else.
    pub fn store_password(&mut self, second: bool, password: &Secret) {
        *(if second { &mut self.secondary_password } else { &mut self.password }) = password.duplicate();
    }

    /// Takes a new password of one of two accounts, which is handed out from now on.
    pub fn switched(&mut self, second: bool, password: &Secret, at: SystemTime, now: SystemTime) {
        if second != self.second_active {
            let handed_out = !self.user(self.second_active).1.is_empty();
            self.previous_valid_until = now.checked_add(self.grace_period).filter(|_| handed_out);
            self.second_active = second;
        }
        self.store_password(second, password);
        self.changed(at, now);
    }

    /// Takes a new password beside the one before.
    pub fn retained(&mut self, password: &Secret, at: SystemTime, now: SystemTime) {
        if self.password != *password {
            self.previous_valid_until = now.checked_add(self.grace_period).filter(|_| !self.password.is_empty());
            self.previous_password = std::mem::replace(&mut self.password, password.duplicate());
        }
        self.changed(at, now);
    }

    /// The password before has ended.
    pub fn discarded(&mut self) {
        self.previous_password = Secret::new(String::new());
        self.previous_valid_until = None;
    }

    /// Counts the schedule anew from `now`.
    pub fn reschedule(&mut self, now: SystemTime) {
        let untouched = self.last_vault_rotation.is_none() || !self.rule.expression.is_empty();
        let next = self.rule.schedule().ok().flatten().and_then(|schedule| schedule.next(now));
        self.next_vault_rotation = next.filter(|_| untouched);
    }

    /// Takes a new password.
    pub fn rotated(&mut self, password: &Secret, at: SystemTime, now: SystemTime) {
        self.password = password.duplicate();
        self.changed(at, now);
    }

    /// A schedule goes on as it was: only a time that has passed is followed by the next.
    fn changed(&mut self, at: SystemTime, now: SystemTime) {
        self.last_vault_rotation = Some(at);
        if self.rule.expression.is_empty() || self.next_vault_rotation.is_none_or(|next| next <= now) {
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
        assert_eq!(role.static_account.rule.period, Duration::from_secs(3600));
        let due = Timestamp::try_from(role.static_account.due("st", SystemTime::UNIX_EPOCH)).unwrap();
        assert_eq!(due.to_string(), "2026-11-22T03:15:42.056945205Z", "with 20 s of jitter");
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
        let mut account = StaticAccount {
            rule: Rule { expression: "0 3 * * *".into(), ..Rule::default() },
            ..StaticAccount::default()
        };
        account.reschedule(at("2026-11-22T01:00:00Z"));
        let now = at("2026-11-22T02:00:00Z");
        account.rotated(&Secret::new("x".into()), now, now);
        assert_eq!(account.due("st", now), at("2026-11-22T03:00:20Z"));
        let now = at("2026-11-22T03:00:01Z");
        account.rotated(&Secret::new("x".into()), now, now);
        assert_eq!(account.due("st", now), at("2026-11-23T03:00:20Z"));
    }

    #[test]
    fn each_role_has_its_own_moment_within_bounds() {
        let at = |text: &str| -> SystemTime { text.parse::<Timestamp>().unwrap().into() };
        let now = at("2026-11-22T01:00:00Z");
        for (period, schedule, window, due, most) in [
            (5, "", 0, at("2026-11-22T01:00:05Z"), 0),
            (600, "", 0, at("2026-11-22T01:10:00Z"), 30),
            (86_400, "", 0, at("2026-11-23T01:00:00Z"), 60),
            (0, "* * * * *", 0, at("2026-11-22T01:01:00Z"), 3),
            (0, "0 3 * * SUN", 3600, at("2026-11-22T03:00:00Z"), 60),
        ] {
            let mut account = StaticAccount {
                rule: Rule {
                    period: Duration::from_secs(period),
                    expression: schedule.into(),
                    window: Duration::from_secs(window),
                    ..Rule::default()
                },
                ..StaticAccount::default()
            };
            account.reschedule(now);
            account.rotated(&Secret::new("x".into()), now, now);
            let late = |number: u64| account.due(&format!("role-{number}"), now).duration_since(due).unwrap().as_secs();
            let all: std::collections::BTreeSet<u64> = (0..2000).map(late).collect();
            assert_eq!(
                (all.first(), all.last().map(|last| *last <= most)),
                (Some(&0), Some(true)),
                "{schedule}{period}"
            );
            assert!(all.len() as u64 >= most, "{schedule}{period}: {all:?}");
            // A jitter does not make it miss its window, nor come twice.
            let then = due + Duration::from_secs(most);
            assert!(account.due("role-7", then) <= then);
            account.rotated(&Secret::new("x".into()), then, then);
            assert!(account.due("role-7", then) > then + Duration::from_secs(most.min(4)));
        }
    }
}
