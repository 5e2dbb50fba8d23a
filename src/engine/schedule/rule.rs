//! The rule by which a password changes by itself, as an operator writes it and as it is stored: a period, or a schedule
//! with its window and time zone. Static roles, the accounts of connections and the AWS engine's own key have the same one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::database::role::nanoseconds;
use crate::engine::error::Error;
use crate::engine::field::{Field, FieldType, Input};
use crate::engine::schedule::{self, Schedule};

/// Vault's.
const SHORTEST_WINDOW: Duration = Duration::from_secs(3600);

/// A period or a schedule, or neither. Durations are stored in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Zero if there is a schedule, or none of both.
    #[serde(rename = "rotation_period", with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub period: Duration,
    /// Empty if there is a period, or none of both.
    #[serde(rename = "rotation_schedule", skip_serializing_if = "String::is_empty")]
    pub expression: String,
    /// Of a schedule; zero for no limit.
    #[serde(rename = "rotation_window", with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub window: Duration,
    /// Of a schedule; empty for UTC.
    #[serde(rename = "rotation_timezone", skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// The field of a request with the window of a schedule.
pub const WINDOW_FIELD: Field = Field::new(
    "rotation_window",
    FieldType::DurationSecond,
    "With rotation_schedule: for how many seconds a missed time is made up for, at least 3600; then the next time is waited \
     for. Without it there is no limit.",
);
/// The one with its time zone.
pub const TIMEZONE_FIELD: Field = Field::new(
    "rotation_timezone",
    FieldType::String,
    "With rotation_schedule: whose clock it means, such as Europe/Berlin. Empty means UTC.",
);

impl Rule {
    /// Its fields in a request.
    pub const FIELDS: [&str; 4] = ["rotation_period", "rotation_schedule", "rotation_window", "rotation_timezone"];

    /// True if there is one.
    pub fn is_some(&self) -> bool {
        !self.period.is_zero() || !self.expression.is_empty()
    }

    /// Lays what the request gives over the rule. One kind takes the place of the other. A period is at least `shortest`; if
    /// the rule `may_end`, a zero period and an empty schedule end it.
    ///
    /// # Errors
    /// [`Error::Refused`], in the built-in engine's words, and in Vault's for the fields that only Vault has.
    pub fn lay_over(&mut self, input: &Input, shortest: Duration, may_end: bool) -> Result<(), Error> {
        let zero_is_none = |period: &Duration| !may_end || !period.is_zero();
        let period = input.span("rotation_period").filter(zero_is_none);
        let expression = input.text("rotation_schedule").filter(|text| !text.is_empty());
        match (period, expression) {
            (Some(_), Some(_)) => {
                return refused(
                    "mutually exclusive fields rotation_period and rotation_schedule were both specified; only one of \
                     them can be provided",
                );
            }
            (Some(period), None) if period < shortest => {
                return refused(&format!("rotation_period must be {} seconds or more", shortest.as_secs()));
            }
            (Some(period), None) => *self = Self { period, ..Self::default() },
            (None, Some(text)) => {
                schedule::cron(text).map_err(|e| Error::Refused(format!("could not parse rotation_schedule: {e}")))?;
                text.clone_into(&mut self.expression);
                self.period = Duration::ZERO;
            }
            (None, None) if may_end => {
                if input.has("rotation_period") {
                    self.period = Duration::ZERO;
                }
                if input.has("rotation_schedule") {
                    *self = Self { period: self.period, ..Self::default() };
                }
            }
            (None, None) => {}
        }
        self.lay_over_details(input)
    }

    fn lay_over_details(&mut self, input: &Input) -> Result<(), Error> {
        if let Some(window) = input.span("rotation_window") {
            if !window.is_zero() {
                self.has_schedule_for("rotation_window")?;
                if window < SHORTEST_WINDOW {
                    return refused("rotation_window is invalid: rotation_window must be 3600 seconds or more");
                }
            }
            self.window = window;
        }
        if let Some(zone) = input.text("rotation_timezone") {
            if !zone.is_empty() {
                self.has_schedule_for("rotation_timezone")?;
            }
            schedule::zone(zone).map_err(|e| Error::Refused(format!("invalid rotation_timezone: {e}")))?;
            zone.clone_into(&mut self.zone);
        }
        Ok(())
    }

    fn has_schedule_for(&self, field: &str) -> Result<(), Error> {
        match (self.expression.is_empty(), self.period.is_zero()) {
            (false, _) => Ok(()),
            (true, true) => refused(&format!("{field} is invalid without rotation_schedule")),
            (true, false) => refused(&format!("{field} is invalid with use of rotation_period")),
        }
    }

    /// The rule as it is followed; `None` if there is none.
    ///
    /// # Errors
    /// What is wrong with the expression or the zone; a stored one was read before.
    pub fn schedule(&self) -> Result<Option<Schedule>, String> {
        if self.expression.is_empty() {
            return Ok(Some(self.period).filter(|period| !period.is_zero()).map(Schedule::Period));
        }
        Ok(Some(Schedule::Cron {
            cron: Box::new(schedule::cron(&self.expression)?),
            zone: schedule::zone(&self.zone)?,
            window: self.window,
        }))
    }
}

fn refused<T>(text: &str) -> Result<T, Error> {
    Err(Error::Refused(text.to_owned()))
}
