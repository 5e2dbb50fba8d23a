//! The database that both sides work at.

mod mariadb;
mod postgres;
mod redis;

use std::collections::BTreeMap;

use serde_json::Value;

pub use mariadb::Maria;
pub use postgres::PostgreSql;
pub use redis::RedisServer;

/// What the table asks of a database.
pub trait Site {
    /// Where it is, by placeholder.
    fn placeholders(&self) -> Vec<(&'static str, String)>;
    /// Runs statements as the administrator.
    fn run(&self, statements: &str) -> Result<String, String>;
    /// True if the user gets in.
    fn login(&self, user: &str, password: &str) -> bool;
    /// A session that stays open.
    fn session(&self, user: &str, password: &str) -> Box<dyn OpenSession>;
    /// True if there is such a user.
    fn has_user(&self, user: &str) -> bool;
    /// Removes a user, if it is there.
    fn drop_user(&self, user: &str);
    /// Every user but the `known`, by a key that stays the same for as long as the user lives: an object with its `name`
    /// and all it may do; `until` is an instant in unix seconds, `hash` is of its password.
    fn users(&self, known: &[String]) -> BTreeMap<String, Value>;
    /// Stops the spare server.
    fn stop_spare(&mut self) {
        unimplemented!("this site has no spare server");
    }
    /// Starts it again.
    fn start_spare(&mut self) {
        unimplemented!("this site has no spare server");
    }
}

/// An open session of one user.
pub trait OpenSession {
    /// True if it still answers.
    fn lives(&mut self) -> bool;
}
