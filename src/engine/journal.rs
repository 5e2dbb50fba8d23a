//! Durable notes of rotations that have begun: each holds the passwords an account may have, from before the target hears
//! of them until one of them is stored where it belongs. What a rotation leaves behind, however it stopped, is a note,
//! and a note is enough to find the password that opens the account.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::port::Storage;
use crate::secret::Secret;

/// Where the notes are. They hold passwords: the host wraps them with its seal.
pub const PREFIX: &str = "rotation/";

/// The most passwords that one note keeps. Something is wrong then that a further password would not cure: one of these is
/// tried again.
pub const MOST_CANDIDATES: usize = 8;

/// One rotation that has begun.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The account.
    pub username: String,
    /// Passwords that the target may have taken, oldest first.
    #[serde(with = "texts")]
    pub candidates: Vec<Secret>,
    /// When the youngest of them was written, in nanoseconds since 1970.
    pub started: u64,
    /// What is being created with the account's first rotation, in its stored form.
    #[serde(default, with = "optional_text", skip_serializing_if = "Option::is_none")]
    pub creating: Option<Secret>,
}

impl Record {
    /// The note at `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Failed`] if storage refuses, or if the note cannot be read; its text then names the key only.
    pub async fn load(storage: &dyn Storage, key: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = storage.get(key).await? else { return Ok(None) };
        // The parser's own message may quote what it read.
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|_| Error::Failed(format!("the record of a rotation at {key:?} cannot be read")))
    }

    /// Writes the note. When this returns `Ok` it outlives the process and the host.
    pub async fn store(&self, storage: &dyn Storage, key: &str) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode a rotation".into()))?;
        Ok(storage.put(key, &Secret::new(text), true).await?)
    }

    /// When the youngest candidate was written.
    pub fn started(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(self.started)
    }
}

/// Nanoseconds since 1970.
pub fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A secret in what is written to storage.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::Secret;

    /// Writes the text itself.
    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    /// Reads a text.
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}

mod texts {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::Secret;

    pub fn serialize<S: Serializer>(secrets: &[Secret], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(secrets.iter().map(Secret::expose))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Secret>, D::Error> {
        Ok(Vec::<String>::deserialize(from)?.into_iter().map(Secret::new).collect())
    }
}

mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::Secret;

    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => to.serialize_some(secret.expose()),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Secret::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_shows_nothing() {
        let note = Record {
            username: "app".into(),
            candidates: vec![Secret::new("first-one".into()), Secret::new("second-one".into())],
            started: 5,
            creating: Some(Secret::new("{\"x\":1}".into())),
        };
        assert!(!format!("{note:?}").contains("-one"));
        let text = serde_json::to_string(&note).unwrap();
        let back: Record = serde_json::from_str(&text).unwrap();
        assert_eq!((back.username.as_str(), back.started), ("app", 5));
        assert_eq!(back.candidates, note.candidates);
        assert_eq!(back.creating, note.creating);
        let plain: Record = serde_json::from_str(r#"{"username":"u","candidates":[],"started":0}"#).unwrap();
        assert!(plain.creating.is_none());
    }
}
