//! What a mount consists of: what is read of it, and what has to be written for the same.

use serde_json::{Map, Value};

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `config/:name`
    Connection,
    /// `roles/:name`
    Role,
    /// `static-roles/:name`
    StaticRole,
}

impl Kind {
    /// Where they are listed.
    pub fn list(self) -> &'static str {
        match self {
            Self::Connection => "config",
            Self::Role => "roles",
            Self::StaticRole => "static-roles",
        }
    }
}

/// One thing.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// What reads show and no write takes, or what changes by itself.
const SHOWN_ONLY: &[&str] = &["last_vault_rotation", "next_vault_rotation", "connection_details"];
/// Reads of the two engines name or show these differently though they mean the same.
const SPELT_DIFFERENTLY: &[&str] = &["plugin_version", "verify_connection", "skip_static_role_import_rotation"];

impl Item {
    /// Below the mount.
    pub fn path(&self) -> String {
        format!("{}/{}", self.kind.list(), self.name)
    }

    /// The fields of a write, by what a read shows.
    pub fn written(&self, read: &Map<String, Value>) -> Map<String, Value> {
        let mut wanted = Map::new();
        for (key, value) in read {
            let key = match key.as_str() {
                "root_credentials_rotate_statements" => "root_rotation_statements",
                other => other,
            };
            let unset = value.is_null() || value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty);
            // Of a rule of rotation only the half is written that is used.
            let unused = key.starts_with("rotation_") && (value.as_u64() == Some(0));
            if !SHOWN_ONLY.contains(&key) && key != "plugin_version" && !unset && !unused {
                wanted.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(Value::Object(details)) = read.get("connection_details") {
            wanted.extend(
                details.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        wanted
    }

    /// True if something is missing without which the connection cannot log in.
    pub fn needs_password(&self, wanted: &Map<String, Value>) -> bool {
        let text = |key: &str| wanted.get(key).and_then(Value::as_str).unwrap_or_default();
        self.kind == Kind::Connection
            && text("password").is_empty()
            && !text("username").is_empty()
            && !wanted.contains_key("private_key")
    }

    /// What is seen differently: the field, as it was, as it is.
    pub fn differences(&self, before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
        let (before, now) = (self.written(before), self.written(now));
        let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
        keys.sort();
        keys.dedup();
        let differs = |key: &&&String| {
            // A number that a form sent as a text is the same.
            let of = |fields: &Map<String, Value>| fields.get(**key).map(|value| value.to_string().replace('"', ""));
            of(&before) != of(&now) && !SPELT_DIFFERENTLY.contains(&key.as_str())
        };
        let shown =
            |fields: &Map<String, Value>, key: &str| fields.get(key).map_or("nothing".to_owned(), Value::to_string);
        keys.iter()
            .filter(differs)
            .map(|key| format!("{key}: {} is {}", shown(&before, key), shown(&now, key)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_read_is_written_flat_and_without_what_is_only_shown() {
        let item = Item { kind: Kind::Connection, name: "pg".into() };
        let read = fields(
            json!({ "plugin_name": "p", "plugin_version": "", "allowed_roles": ["*"], "password_policy": "",
            "root_credentials_rotate_statements": ["x"], "connection_details": { "username": "u", "connection_url": "c" } }),
        );
        let wanted = item.written(&read);
        let expected = json!({ "plugin_name": "p", "allowed_roles": ["*"], "root_rotation_statements": ["x"],
                               "username": "u", "connection_url": "c" });
        assert_eq!(Value::Object(wanted.clone()), expected);
        assert!(item.needs_password(&wanted));
        let more = fields(json!({ "username": "u", "password": "given" }));
        assert!(!item.needs_password(&more));
    }

    #[test]
    fn differences_name_the_field_and_both_values() {
        let item = Item { kind: Kind::Role, name: "app".into() };
        let before = fields(json!({ "default_ttl": 60, "max_ttl": "5", "db_name": "pg", "renew_statements": [] }));
        let now = fields(json!({ "default_ttl": 90, "max_ttl": 5, "db_name": "pg", "renew_statements": null }));
        assert_eq!(item.differences(&before, &now), ["default_ttl: 60 is 90"]);
    }
}
