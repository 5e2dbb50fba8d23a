//! Redis as both sides' database.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{OpenSession, Site};
use crate::support::redis::{Redis, Session};

pub struct RedisServer(Redis);

impl RedisServer {
    pub fn start() -> RedisServer {
        RedisServer(Redis::start())
    }
}

impl Site for RedisServer {
    fn placeholders(&self) -> Vec<(&'static str, String)> {
        vec![("{port}", self.0.port().to_string())]
    }

    /// One command a line, words apart by spaces.
    fn run(&self, commands: &str) -> Result<String, String> {
        for command in commands.lines() {
            self.0.command(&command.split(' ').collect::<Vec<_>>());
        }
        Ok(String::new())
    }

    fn login(&self, user: &str, password: &str) -> bool {
        // Whatever the user may do: a refused login is answered otherwise than a refused command.
        let answer = self.0.login(user, password, &["PING"]);
        answer.map_or_else(|text| !text.contains("WRONGPASS"), |_| true)
    }

    fn session(&self, user: &str, password: &str) -> Box<dyn OpenSession> {
        Box::new(self.0.session(user, password))
    }

    fn has_user(&self, user: &str) -> bool {
        self.0.users().iter().any(|line| line.starts_with(&format!("user {user} ")))
    }

    fn drop_user(&self, user: &str) {
        self.0.command(&["ACL", "DELUSER", user]);
    }

    fn users(&self, known: &[String]) -> BTreeMap<String, Value> {
        let mut users = BTreeMap::new();
        for line in self.0.users() {
            let name = line.split(' ').nth(1).unwrap().to_owned();
            if known.contains(&name) {
                continue;
            }
            // Said or not, `sanitize-payload` is what the server does.
            let said = line.split(' ').skip(2).filter(|rule| *rule != "sanitize-payload");
            let (hashes, rules): (Vec<&str>, Vec<&str>) = said.partition(|rule| rule.starts_with('#'));
            let user = json!({ "name": name, "hash": hashes, "hashes": hashes.len(), "rules": rules });
            users.insert(name, user);
        }
        users
    }
}

impl OpenSession for Session {
    fn lives(&mut self) -> bool {
        self.ask("CLIENT ID").is_some()
    }
}
