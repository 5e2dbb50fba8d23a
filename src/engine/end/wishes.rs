//! What roles and connections say of how their users end.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::go::GoDuration;
use crate::engine::request::Fields;
use crate::target::{EndOptions, Need, Owned, Sessions, Verify};

/// What becomes of objects that a user owns: `fail`, `drop` or `reassign:<role>`.
const OWNED: &str = "owned_objects";
/// What becomes of its open sessions: `terminate`, `keep` or `grace:<duration>`.
const SESSIONS: &str = "sessions";
/// Whether its end is looked at afterwards: `required`, `best_effort` or `off`.
const VERIFY: &str = "verify";

/// The names of the fields, in the order in which they are shown.
pub const NAMES: [&str; 3] = [OWNED, SESSIONS, VERIFY];

/// What somebody said of how users end, as it was written. What is empty was not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wishes {
    #[serde(skip_serializing_if = "String::is_empty")]
    owned_objects: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sessions: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    verify: String,
}

impl Wishes {
    /// Lays what a request gives over what is there.
    ///
    /// # Errors
    /// [`Error::Refused`], which names the field and what it takes.
    pub fn write(&mut self, input: &Input) -> Result<(), Error> {
        for (name, place) in NAMES.into_iter().zip([&mut self.owned_objects, &mut self.sessions, &mut self.verify]) {
            if let Some(text) = input.text(name) {
                text.trim().clone_into(place);
            }
        }
        self.options().map(drop).map_err(Error::Refused)
    }

    /// Puts them into a stored object, under the names of the fields.
    pub fn store(&self, stored: &mut Fields) {
        NAMES.into_iter().for_each(|name| _ = stored.remove(name));
        stored.extend(self.said().map(|(name, value)| (name.to_owned(), value)));
    }

    /// Those of a stored object.
    pub fn of(stored: &Fields) -> Self {
        let text = |name: &str| stored.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { owned_objects: text(OWNED), sessions: text(SESSIONS), verify: text(VERIFY) }
    }

    /// What was said, by field.
    pub fn said(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let texts = [&self.owned_objects, &self.sessions, &self.verify];
        NAMES.into_iter().zip(texts).filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, json!(text)))
    }

    /// What of it makes a target need that, if anything was said of it: `owned_objects=drop`.
    pub fn asking_for(&self, need: Need) -> Option<String> {
        let fields: &[&str] = match need {
            Need::DropObjects | Need::ReassignObjects => &[OWNED],
            Need::SeeSessions | Need::EndSessions => &[SESSIONS, VERIFY],
            _ => &[],
        };
        let said = self.said().find(|(name, _)| fields.contains(name));
        said.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
    }

    /// Whether an end has to be seen to be one, sessions and all.
    pub fn is_verified(&self) -> bool {
        self.verify == "required" && matches!(self.sessions.as_str(), "" | "terminate")
    }

    /// True if nothing was said.
    pub fn is_silent(&self) -> bool {
        self.said().next().is_none()
    }

    /// These, and where they are silent those of `other`.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let pick = |mine: &String, others: &String| if mine.is_empty() { others.clone() } else { mine.clone() };
        Self {
            owned_objects: pick(&self.owned_objects, &other.owned_objects),
            sessions: pick(&self.sessions, &other.sessions),
            verify: pick(&self.verify, &other.verify),
        }
    }

    /// As the target takes them.
    ///
    /// # Errors
    /// Which field has a value that it does not take, and which it does.
    pub fn options(&self) -> Result<EndOptions, String> {
        let owned = match self.owned_objects.as_str() {
            "" | "fail" => Owned::Fail,
            "drop" => Owned::Drop,
            text => match text.strip_prefix("reassign:").map(str::trim) {
                Some(role) if !role.is_empty() && !role.contains('\0') => Owned::Reassign(role.to_owned()),
                _ => return Err(format!("invalid {OWNED} {text:?}: fail, drop or reassign:<role>")),
            },
        };
        let sessions = match self.sessions.as_str() {
            "" | "terminate" => Sessions::Terminate,
            "keep" => Sessions::Keep,
            text => match text.strip_prefix("grace:").and_then(span) {
                Some(span) => Sessions::Grace(span),
                None => return Err(format!("invalid {SESSIONS} {text:?}: terminate, keep or grace:<duration>")),
            },
        };
        let verify = match self.verify.as_str() {
            "" | "required" => Verify::Required,
            "best_effort" => Verify::BestEffort,
            "off" => Verify::Off,
            text => return Err(format!("invalid {VERIFY} {text:?}: required, best_effort or off")),
        };
        Ok(EndOptions { owned, sessions, verify })
    }
}

/// A duration that is one.
fn span(text: &str) -> Option<Duration> {
    GoDuration::parse_field(text.trim()).ok()?.to_std().filter(|span| !span.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(owned: &str, sessions: &str, verify: &str) -> Wishes {
        Wishes { owned_objects: owned.into(), sessions: sessions.into(), verify: verify.into() }
    }

    #[test]
    fn what_is_said_is_what_the_target_gets() {
        assert_eq!(Wishes::default().options().unwrap(), EndOptions::default());
        let said = wishes("reassign: heirs", "grace:2m", "best_effort").options().unwrap();
        assert_eq!(said.owned, Owned::Reassign("heirs".into()));
        assert_eq!(said.sessions, Sessions::Grace(Duration::from_secs(120)));
        assert_eq!(said.verify, Verify::BestEffort);
        for wrong in [
            wishes("reassign:", "", ""),
            wishes("reassign", "", ""),
            wishes("keep", "", ""),
            wishes("", "grace", ""),
            wishes("", "grace:", ""),
            wishes("", "grace:0", ""),
            wishes("", "grace:soon", ""),
            wishes("", "kill", ""),
            wishes("", "", "yes"),
        ] {
            let refused = wrong.options().unwrap_err();
            assert!(refused.starts_with("invalid ") && refused.contains(" or "), "{refused}");
        }
    }

    #[test]
    fn a_role_comes_before_its_connection() {
        let both = wishes("drop", "", "off").or(&wishes("fail", "keep", ""));
        assert_eq!(both, wishes("drop", "keep", "off"));
        let mut stored = Fields::new();
        wishes("fail", "keep", "off").store(&mut stored);
        both.store(&mut stored);
        assert_eq!(Wishes::of(&stored), both);
        assert_eq!(serde_json::to_value(Wishes::default()).unwrap(), json!({}));
    }
}
