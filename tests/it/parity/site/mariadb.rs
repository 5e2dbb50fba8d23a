//! MariaDB as both sides' database.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{OpenSession, Site};
use crate::support::mariadb::{MariaDb, Session};

pub struct Maria(MariaDb);

impl Maria {
    pub fn start(world: &str) -> Maria {
        let site = Maria(MariaDb::start());
        site.0.sql(world);
        site
    }
}

impl Site for Maria {
    fn placeholders(&self) -> Vec<(&'static str, String)> {
        vec![
            ("{url}", self.0.url()),
            ("{port}", self.0.port().to_string()),
            ("{socket}", self.0.socket().display().to_string()),
        ]
    }

    fn run(&self, sql: &str) -> Result<String, String> {
        self.0.try_sql(sql)
    }

    fn login(&self, user: &str, password: &str) -> bool {
        self.0.login(user, password, "SELECT 1").is_ok()
    }

    fn session(&self, user: &str, password: &str) -> Box<dyn OpenSession> {
        Box::new(self.0.session(user, password))
    }

    fn has_user(&self, user: &str) -> bool {
        !self.0.hosts(user).is_empty()
    }

    fn drop_user(&self, user: &str) {
        for host in self.0.hosts(user) {
            self.0.sql(&format!("DROP USER '{user}'@'{host}'"));
        }
    }

    fn users(&self, known: &[String]) -> BTreeMap<String, Value> {
        // One JSON object a user: any column may be null.
        let rows = self.0.sql(
            "SELECT JSON_OBJECT('name', User, 'host', Host, 'plugin', JSON_VALUE(Priv, '$.plugin'), \
             'hash', JSON_VALUE(Priv, '$.authentication_string'), 'connections', JSON_VALUE(Priv, '$.max_user_connections'), \
             'account_locked', JSON_VALUE(Priv, '$.account_locked'), 'grants', JSON_ARRAY()) \
             FROM mysql.global_priv ORDER BY User, Host",
        );
        let mut users = BTreeMap::new();
        let mut grants = String::new();
        for row in rows.lines() {
            let user: Value = serde_json::from_str(row).unwrap();
            let key = format!("'{}'@'{}'", user["name"].as_str().unwrap(), user["host"].as_str().unwrap());
            if !known.contains(&key) {
                writeln!(grants, "SELECT '--of {}'; SHOW GRANTS FOR {key};", key.replace('\'', "''")).unwrap();
                users.insert(key, user);
            }
        }
        let mut of = String::new();
        for line in self.0.sql(&grants).lines() {
            match (line.strip_prefix("--of "), line.split_once(" IDENTIFIED ")) {
                (Some(key), _) => key.clone_into(&mut of),
                (_, Some((grant, _))) => add(&mut users, &of, grant),
                _ => add(&mut users, &of, line),
            }
        }
        users
    }
}

fn add(users: &mut BTreeMap<String, Value>, key: &str, grant: &str) {
    let grants = users.get_mut(key).and_then(|user| user["grants"].as_array_mut()).unwrap();
    grants.push(json!(grant));
}

impl OpenSession for Session {
    fn lives(&mut self) -> bool {
        self.one("SELECT 1").as_deref() == Some("1")
    }
}
