//! When what an engine itself logs in with, the password of a connection's account or an AWS key, changes by itself: what
//! an operator writes, how it is stored, and which moment follows from it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rule::Rule;
use crate::engine::error::Error;
use crate::engine::field::{Field, FieldType, Input};
use crate::engine::go::instant;
use crate::engine::request::Fields;
use crate::engine::schedule::{self, Schedule};

/// Stops what the rule says.
const DISABLE: &str = "disable_automated_rotation";

/// The field of a request that does.
pub const DISABLE_FIELD: Field = Field::new(
    DISABLE,
    FieldType::Bool,
    "Keep rotation_period or rotation_schedule, and do not follow it; counted anew when this ends.",
);

/// True for a field of a request that belongs here.
pub fn is_field(name: &str) -> bool {
    name == DISABLE || Rule::FIELDS.contains(&name)
}

/// Vault's, for the accounts of connections.
const SHORTEST_PERIOD: Duration = Duration::from_secs(10);
/// Connections that were written together do not change their passwords together: each has a moment of its own within a
/// tenth of the time between two changes, and within this.
const MOST_JITTER: Duration = Duration::from_secs(300);

/// The rule and where it stands. The stored form is Vault's, with the times beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// The rule.
    #[serde(flatten)]
    rule: Rule,
    /// The rule is there and not followed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_automated_rotation: bool,
    /// When the password was changed last, by the rule or by hand.
    #[serde(with = "instant", skip_serializing_if = "Option::is_none")]
    last_vault_rotation: Option<SystemTime>,
    /// By the rule, before jitter.
    #[serde(with = "instant", skip_serializing_if = "Option::is_none")]
    next_vault_rotation: Option<SystemTime>,
}

impl Timing {
    /// Takes what is stored from among the other keys of a connection.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn take(stored: &mut Fields) -> Result<Self, String> {
        let taken: Fields = Self::own().filter_map(|key| stored.remove_entry(key)).collect();
        serde_json::from_value(Value::Object(taken)).map_err(|e| e.to_string())
    }

    /// The keys of the stored form.
    fn own() -> impl Iterator<Item = &'static str> {
        Rule::FIELDS.into_iter().chain([DISABLE, "last_vault_rotation", "next_vault_rotation"])
    }

    /// Puts it among the other keys of what is stored, in place of what was there.
    pub fn put(&self, stored: &mut Fields) {
        for key in Self::own() {
            stored.remove(key);
        }
        stored.extend(self.stored());
    }

    /// Its stored form.
    pub fn stored(&self) -> Fields {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => Fields::new(),
        }
    }

    /// True if the password changes by itself.
    pub fn is_active(&self) -> bool {
        !self.disable_automated_rotation && self.rule.is_some()
    }

    /// Lays what the request gives over the rule. Only a rule that has changed is counted anew, from `now`: who writes the
    /// same one again and again does not put the change off.
    ///
    /// # Errors
    /// [`Error::Refused`], in the words of static roles.
    pub fn lay_over(&mut self, input: &Input, now: SystemTime) -> Result<(), Error> {
        let before = self.clone();
        self.rule.lay_over(input, SHORTEST_PERIOD, true)?;
        if let Some(disable) = input.flag(DISABLE) {
            self.disable_automated_rotation = disable;
        }
        if before != *self {
            self.next_vault_rotation = self.after(now);
        }
        Ok(())
    }

    /// The password was changed at `at`. A period begins anew; a schedule goes on as it was: only a time that has passed
    /// is followed by the next.
    pub fn rotated(&mut self, at: SystemTime, now: SystemTime) {
        self.last_vault_rotation = Some(at);
        if self.rule.expression.is_empty() {
            self.next_vault_rotation = self.after(at);
        } else if self.next_vault_rotation.is_none_or(|next| next <= now) {
            self.next_vault_rotation = self.after(now);
        }
    }

    fn after(&self, from: SystemTime) -> Option<SystemTime> {
        self.schedule()?.next(from)
    }

    /// The rule, if it is followed. One that cannot be read is none: it was read before it was stored.
    fn schedule(&self) -> Option<Schedule> {
        self.rule.schedule().ok().flatten().filter(|_| self.is_active())
    }

    /// When the password of `account` is due to change, if it is at all: within a period of the last change, and not
    /// before a time of the schedule. `account` decides about the moment, the same each time.
    pub fn due(&self, account: &str, now: SystemTime) -> Option<SystemTime> {
        let schedule = self.schedule()?;
        let due = schedule.revised(self.next_vault_rotation.unwrap_or(now), now);
        match &schedule {
            Schedule::Period(period) => due.checked_sub(jitter(account, *period)),
            Schedule::Cron { .. } => {
                let apart = schedule.next(due).and_then(|next| next.duration_since(due).ok()).unwrap_or_default();
                due.checked_add(jitter(account, apart))
            }
        }
    }

    /// True if the time that was meant has passed without a change, and another one is waited for.
    pub fn has_missed(&self, due: SystemTime) -> bool {
        self.next_vault_rotation.is_some_and(|next| next + MOST_JITTER < due)
    }

    /// What a read shows. Nothing, if nothing was ever said of it or done.
    pub fn shown(&self) -> Vec<(&'static str, Value)> {
        let mut shown = Vec::new();
        if !self.rule.period.is_zero() {
            shown.push(("rotation_period", json!(self.rule.period.as_secs())));
        }
        if !self.rule.expression.is_empty() {
            shown.push(("rotation_schedule", json!(self.rule.expression)));
            shown.push(("rotation_window", json!(self.rule.window.as_secs())));
            shown.push(("rotation_timezone", json!(self.rule.zone)));
        }
        if self.rule.is_some() || self.disable_automated_rotation {
            shown.push((DISABLE, json!(self.disable_automated_rotation)));
        }
        shown.extend(self.last_vault_rotation.and_then(instant::text).map(|last| ("last_vault_rotation", json!(last))));
        shown
    }
}

/// A share of what may be, decided by the account's name.
fn jitter(account: &str, between_changes: Duration) -> Duration {
    schedule::share(account, (between_changes / 10).min(MOST_JITTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::database::paths::{Path, ROUTES};

    fn input(body: Value) -> Input {
        let fields = ROUTES.iter().find(|route| route.id == Path::Config).unwrap().fields;
        Input::decode(fields, body.as_object().unwrap(), None).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn written(body: Value) -> Timing {
        let mut timing = Timing::default();
        timing.lay_over(&input(body), at(0)).unwrap();
        timing
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_changes_nothing() {
        for (body, expected) in [
            (json!({"rotation_period": 9}), "rotation_period must be 10 seconds or more"),
            (json!({"rotation_period": 60, "rotation_schedule": "0 * * * *"}), "mutually exclusive fields"),
            (json!({"rotation_schedule": "0 * * *"}), "could not parse rotation_schedule: expected exactly 5 fields"),
            (json!({"rotation_schedule": "0 0 30 2 *"}), "could not parse rotation_schedule: there is no such time"),
            (
                json!({"rotation_period": 60, "rotation_window": 3600}),
                "rotation_window is invalid with use of rotation_p",
            ),
            (json!({"rotation_window": 3600}), "rotation_window is invalid without rotation_schedule"),
            (json!({"rotation_schedule": "0 * * * *", "rotation_window": 3599}), "must be 3600 seconds or more"),
            (json!({"rotation_period": 60, "rotation_timezone": "UTC"}), "rotation_timezone is invalid with use of"),
            (
                json!({"rotation_schedule": "0 * * * *", "rotation_timezone": "X/Y"}),
                "invalid rotation_timezone: unknown",
            ),
        ] {
            let refused = Timing::default().lay_over(&input(body.clone()), at(0)).unwrap_err().to_string();
            assert!(refused.contains(expected), "{body}: {refused}");
        }
    }

    #[test]
    fn a_rule_takes_the_place_of_the_other_and_ends_by_its_zero() {
        let mut timing = written(json!({"rotation_schedule": "0 3 * * *", "rotation_window": "2h",
                                        "rotation_timezone": "Europe/Berlin"}));
        timing.lay_over(&input(json!({"rotation_period": "1h"})), at(0)).unwrap();
        assert_eq!(timing, written(json!({"rotation_period": 3600})));
        timing.lay_over(&input(json!({"rotation_schedule": "@daily"})), at(0)).unwrap();
        assert_eq!(timing, written(json!({"rotation_schedule": "@daily"})));
        let none = json!({"rotation_period": 0, "rotation_schedule": "", "rotation_window": 0,
                          "disable_automated_rotation": false});
        timing.lay_over(&input(none), at(5)).unwrap();
        assert_eq!(timing, Timing::default());
        assert!(timing.shown().is_empty() && timing.stored().is_empty());
    }

    #[test]
    fn writing_the_same_again_puts_nothing_off() {
        let mut timing = written(json!({"rotation_period": 3600}));
        let due = timing.due("a", at(0)).unwrap();
        for body in
            [json!({}), json!({"rotation_period": "1h"}), json!({"rotation_period": 3600, "rotation_schedule": ""})]
        {
            timing.lay_over(&input(body), at(1800)).unwrap();
            assert_eq!(timing.due("a", at(1800)), Some(due));
        }
        timing.lay_over(&input(json!({"disable_automated_rotation": true})), at(1900)).unwrap();
        assert_eq!(timing.due("a", at(1900)), None);
        timing.lay_over(&input(json!({"disable_automated_rotation": false})), at(9000)).unwrap();
        assert!(timing.due("a", at(9000)).unwrap() > at(9000 + 3200), "counted from now");
    }

    #[test]
    fn each_account_has_its_own_moment_within_bounds() {
        let names: Vec<String> = (0..200).map(|number| format!("connection-{number}")).collect();
        for (period, most) in [(10, 1), (3600, 300), (86_400 * 30, 300)] {
            let timing = written(json!({"rotation_period": period}));
            let dues: Vec<SystemTime> = names.iter().map(|name| timing.due(name, at(0)).unwrap()).collect();
            assert!(dues.iter().all(|due| *due <= at(period) && *due >= at(period - most)), "a period is kept");
            assert_eq!(dues, names.iter().map(|name| timing.due(name, at(5)).unwrap()).collect::<Vec<_>>());
            let first = dues.iter().min().unwrap();
            let spread = dues.iter().max().unwrap().duration_since(*first).unwrap();
            assert!(spread.as_secs_f64() > 0.9 * most as f64, "{spread:?} of {most} s");
        }
        // 1 800 000 000 is 08:00.
        for (expression, next, most) in [("* * * * *", 60, 6), ("0 9 * * *", 3600, 300)] {
            let timing = written(json!({"rotation_schedule": expression}));
            for name in &names {
                let due = timing.due(name, at(0)).unwrap();
                assert!(due >= at(next) && due <= at(next + most), "{expression}");
            }
        }
    }

    #[test]
    fn a_change_by_hand_begins_a_period_and_moves_no_schedule() {
        let mut timing = written(json!({"rotation_period": 3600}));
        timing.rotated(at(1000), at(1000));
        assert_eq!(timing.next_vault_rotation, Some(at(4600)));
        let mut timing = written(json!({"rotation_schedule": "0 9 * * *", "rotation_window": 3600}));
        timing.rotated(at(1000), at(1000));
        assert_eq!(timing.next_vault_rotation, Some(at(3600)));
        timing.rotated(at(3601), at(3601));
        let tomorrow = at(3600 + 86_400);
        assert_eq!(timing.next_vault_rotation, Some(tomorrow));
        // A whole night is missed.
        let late = at(3 * 3600 + 86_400);
        let due = timing.due("a", late).unwrap();
        assert!(due >= tomorrow + Duration::from_secs(86_400) && timing.has_missed(due));
        assert!(!timing.has_missed(timing.due("a", tomorrow).unwrap()));
    }

    #[test]
    fn what_is_stored_is_read_back_and_leaves_the_rest() {
        let mut timing = written(json!({"rotation_schedule": "0 3 * * *", "rotation_window": 3600,
                                        "rotation_timezone": "Europe/Berlin", "disable_automated_rotation": true}));
        timing.rotated(at(5), at(5));
        let mut stored = timing.stored();
        assert_eq!(stored["rotation_window"], json!(3_600_000_000_000_i64));
        stored.insert("other".into(), json!(1));
        let text = serde_json::to_string(&stored).unwrap();
        let mut stored: Fields = serde_json::from_str(&text).unwrap();
        assert_eq!(Timing::take(&mut stored), Ok(timing));
        assert_eq!(Value::Object(stored), json!({"other": 1}));
        assert!(Timing::take(&mut json!({"rotation_period": "x"}).as_object().unwrap().clone()).is_err());
    }
}
