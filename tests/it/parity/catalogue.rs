//! What a request changed in the database: the users it made, changed and removed, with all they may do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::site::Site;

/// The users of one database that were not there at the beginning.
pub struct Catalogue {
    known: Vec<String>,
    users: BTreeMap<String, Value>,
}

impl Catalogue {
    /// Takes what is there now as given.
    pub fn new(site: &dyn Site) -> Catalogue {
        Catalogue { known: site.users(&[]).into_keys().collect(), users: BTreeMap::new() }
    }

    /// What has changed since the last call; `Null` if nothing has. The user `touched` counts as changed in any case: a
    /// renewal in the second of the mint moves its end by nothing.
    pub fn changes(&mut self, site: &dyn Site, touched: &str) -> Value {
        let now = site.users(&self.known);
        let before = std::mem::replace(&mut self.users, now);
        let show = |user: &Value| {
            let mut user = user.clone();
            if let Some(until) = user["until"].as_i64() {
                let now = jiff::Timestamp::now().as_second();
                user["until"] = json!({ "valid_for": until - now });
            }
            // That it changed is compared; what it is cannot be.
            if user.get("hash").is_some() {
                user["hash"] = json!("<hash>");
            }
            user
        };
        let mut changes = json!({});
        let mut note = |what: &str, user: &Value| match &mut changes[what] {
            Value::Array(list) => list.push(show(user)),
            empty => *empty = json!([show(user)]),
        };
        for (id, user) in &self.users {
            match before.get(id) {
                None => note("created", user),
                Some(old) if old != user || user["name"] == touched => note("changed", user),
                Some(_) => {}
            }
        }
        for (_, user) in before.iter().filter(|(id, _)| !self.users.contains_key(*id)) {
            note("removed", &user["name"]);
        }
        if changes == json!({}) { Value::Null } else { changes }
    }
}
