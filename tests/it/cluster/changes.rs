//! Every change of a password, as the target itself has counted it.
//!
//! A change writes a row in the transaction that changes the password: what was changed is counted, whatever became of the
//! request, the answer or the node.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ACCOUNTS, MOUNTS, account};
use crate::support::postgres::Postgres;

/// How often the accounts change that nobody asks to be changed.
pub const PERIOD: Duration = Duration::from_secs(8);
/// Two changes of one of these accounts are at least so far apart. A change is dated when it begins, and arrives later.
const APART: f64 = 3.0;

/// The account of a mount that is changed by schedule only.
pub fn scheduled(mount: usize) -> String {
    format!("scheduled{mount}")
}

/// The table, to be made before any account.
pub const TABLE: &str = "CREATE TABLE changes (at timestamptz DEFAULT clock_timestamp(), name text, verifier text)";

/// What a role's change does.
pub fn statements() -> Value {
    json!([
        "ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'",
        "INSERT INTO changes (name, verifier) SELECT rolname, rolpassword FROM pg_authid WHERE rolname = '{{name}}'",
    ])
}

/// How often the accounts were changed that are changed on request only, the first time included.
fn on_request(postgres: &Postgres) -> usize {
    postgres.sql("SELECT count(*) FROM changes WHERE name LIKE 'account%'").parse().unwrap()
}

/// Nothing was done twice: `answered` requests were answered, of `sent` ones.
pub fn check(postgres: &Postgres, answered: usize, sent: usize) {
    let first = MOUNTS.len() * ACCOUNTS;
    let changes = on_request(postgres) - first;
    println!("changes at the target: {changes} for {sent} requests, of which {answered} were answered");
    assert!(answered <= changes, "{answered} changes were answered, {changes} happened");
    assert!(changes <= sent, "{sent} changes were asked for, {changes} happened");

    let ask = "SELECT coalesce(json_agg(c), '[]') FROM (SELECT name, extract(epoch FROM at - lag(at) OVER \
               (PARTITION BY name ORDER BY at))::float8 AS pause FROM changes WHERE name LIKE 'scheduled%') c";
    let pauses: Vec<Value> = serde_json::from_value(postgres.json(ask)).unwrap();
    let close = pauses.iter().filter(|row| row["pause"].as_f64().is_some_and(|pause| pause < APART));
    assert_eq!(close.count(), 0, "changed twice: {pauses:?}");
    println!("changes by schedule: {} of {} accounts", pauses.len() - MOUNTS.len(), MOUNTS.len());
    for mount in 0..MOUNTS.len() {
        assert!(pauses.iter().any(|row| row["name"] == scheduled(mount)), "{pauses:?}");
        for place in 0..ACCOUNTS {
            is_the_last(postgres, &account(mount, place));
        }
        is_the_last(postgres, &scheduled(mount));
    }
}

/// Nobody changed the account besides.
fn is_the_last(postgres: &Postgres, name: &str) {
    let ask = format!(
        "SELECT (SELECT verifier FROM changes WHERE name = '{name}' ORDER BY at DESC LIMIT 1) = \
         (SELECT rolpassword FROM pg_authid WHERE rolname = '{name}')"
    );
    assert_eq!(postgres.sql(&ask), "t", "{name}");
}
