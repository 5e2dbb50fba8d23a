//! When two answers are the same.
//!
//! What is random or follows the clock is put into a common form on each side first: mount path, lease ids, request ids,
//! the random and timed parts of user names, passwords (their length and character classes stay), instants (as seconds
//! from now). The rest is compared value by value; spans of time may differ by what passes between the two sides' turns.

use std::time::SystemTime;

use regex_lite::Regex;
use serde_json::{Map, Value, json};

/// By how many seconds spans and instants may differ.
const SLACK: f64 = 4.0;

/// Numbers with one of these names are spans of time that shrink while the test runs.
const SPANS: &[&str] = &["ttl", "valid_for", "seconds_from_now"];

/// Puts the values of one side into the common form.
pub struct Normaliser {
    mount: Regex,
    lease: Regex,
    generated: Vec<(Regex, &'static str)>,
    /// A user name whose random part was cut off: how long it is stays.
    cut: Regex,
    instant: Regex,
    duration: Regex,
}

impl Normaliser {
    /// For the side mounted at `mount` (without slash).
    pub fn new(mount: &str) -> Normaliser {
        let regex = |text: &str| Regex::new(text).unwrap();
        Normaliser {
            mount: regex(&format!(r"\b{mount}([/-])")),
            lease: regex(r"^[A-Za-z0-9]{24}$|/[A-Za-z0-9]{24}$"),
            generated: vec![
                (regex(r"-[A-Za-z0-9]{20}-[0-9]{10}"), "-<random>-<time>"),
                (regex(r"_[A-Za-z0-9]{4}_[0-9]{10}"), "_<random>_<time>"),
                (regex(r"^[A-Za-z0-9]{80}$"), "<80 random>"),
                (regex(r"~[A-Za-z0-9]{8}"), "~<random>"),
                (regex(r"near ''[A-Za-z0-9-]{20}'"), "near ''<password>'"),
                (regex(r"_[A-Z0-9]{20}_[0-9]{10}"), "_<random>_<time>"),
                // What our side adds when a database has been away for a while: whether it has depends on the time.
                (regex(r"no session could be had for [0-9.]+s: "), ""),
                (regex(r"; (next try in [0-9.]+s|it is being tried right now)"), ""),
            ],
            cut: regex(r"\bv-((?:[A-Za-z0-9_.]{1,10}-){1,2})([A-Za-z0-9]{9,20}(?:-[0-9]{0,9})?)"),
            instant: regex(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)$"),
            duration: regex(r#""(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?""#),
        }
    }

    /// The common form of `value`, which stands under `name`.
    pub fn value(&self, name: &str, value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let map: Map<String, Value> = map.iter().map(|(k, v)| (self.text(k), self.value(k, v))).collect();
                Value::Object(map)
            }
            Value::Array(list) => Value::Array(list.iter().map(|v| self.value(name, v)).collect()),
            Value::String(text) => self.string(name, text),
            other => other.clone(),
        }
    }

    fn string(&self, name: &str, text: &str) -> Value {
        if self.instant.is_match(text) {
            return json!({ "seconds_from_now": seconds_from_now(text) });
        }
        match name {
            "request_id" | "token" | "client_token" | "accessor" | "wrapped_accessor" | "entity_id"
                if !text.is_empty() =>
            {
                json!("<id>")
            }
            "password" => json!(password_shape(text)),
            "warnings" => {
                // `TTL of "4m59s" exceeded …`: the numbers depend on the second.
                let spans: Vec<u64> = self.duration.captures_iter(text).map(|c| seconds(&c)).collect();
                json!({ "text": self.duration.replace_all(text, "<span>"), "ttl": spans })
            }
            _ => json!(self.text(text)),
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = self.mount.replace_all(text, "<mount>$1").into_owned();
        if self.lease.is_match(&text) {
            text = format!("{}<lease>", &text[..text.len() - 24]);
        }
        for (regex, replacement) in &self.generated {
            text = regex.replace_all(&text, *replacement).into_owned();
        }
        let cut = |found: &regex_lite::Captures<'_>| format!("v-{}<{} random>", &found[1], found[2].len());
        self.cut.replace_all(&text, cut).into_owned()
    }
}

/// What differs between two values in common form, one line for each place.
pub fn differences(left: &Value, right: &Value, slack: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    compare(left, right, slack, "", "", &mut found);
    found
}

fn compare(left: &Value, right: &Value, slack: &[&str], path: &str, name: &str, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            for key in l.keys().chain(r.keys().filter(|key| !l.contains_key(*key))) {
                let place = format!("{path}.{key}");
                match (l.get(key), r.get(key)) {
                    (Some(l), Some(r)) => compare(l, r, slack, &place, key, found),
                    (Some(l), None) => found.push(format!("{place}: {l} is missing")),
                    (None, Some(r)) => found.push(format!("{place}: {r} is additional")),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(l), Value::Array(r)) if l.len() == r.len() => {
            for (index, (l, r)) in l.iter().zip(r).enumerate() {
                compare(l, r, slack, &format!("{path}[{index}]"), name, found);
            }
        }
        (Value::Number(l), Value::Number(r)) if SPANS.contains(&name) || slack.contains(&name) => {
            let (l, r) = (l.as_f64().unwrap(), r.as_f64().unwrap());
            if (l - r).abs() > SLACK {
                found.push(format!("{path}: {l} became {r} seconds"));
            }
        }
        _ if left == right => {}
        _ => found.push(format!("{path}: {left} became {right}")),
    }
}

fn seconds(captures: &regex_lite::Captures<'_>) -> u64 {
    let part = |index: usize| captures.get(index).map_or(0, |m| m.as_str().parse::<u64>().unwrap());
    part(1) * 3600 + part(2) * 60 + part(3)
}

fn seconds_from_now(instant: &str) -> f64 {
    let instant: jiff::Timestamp = instant.parse().unwrap();
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap();
    (instant.duration_since(now).as_secs_f64() * 10.0).round() / 10.0
}

fn password_shape(password: &str) -> String {
    let holds = |test: fn(char) -> bool| password.chars().any(test);
    let default = holds(|c| c.is_ascii_lowercase())
        && holds(|c| c.is_ascii_uppercase())
        && holds(|c| c.is_ascii_digit())
        && holds(|c| c == '-')
        && password.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    format!("<{} {}>", password.chars().count(), if default { "letters, digits and dashes" } else { "others" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(left: Value, right: Value) -> Vec<String> {
        let (builtin, ours) = (Normaliser::new("builtin"), Normaliser::new("ours"));
        differences(&builtin.value("", &left), &ours.value("", &right), &[])
    }

    #[test]
    fn what_is_random_or_timed_is_not_a_difference() {
        let now = jiff::Timestamp::now();
        let left = json!({
            "request_id": "a", "lease_id": "builtin/creds/app/3Xr3OmytnlP2rhnE8C2XbWcn",
            "data": { "username": "v-token-app-7Ba4TpAGL7UX3mU3gFwD-1795313412", "password": "biRr-NxIgfidUng9LKLI",
                      "ttl": 59, "expire_time": now.to_string() },
            "warnings": ["TTL of \"27h46m39s\" exceeded the effective max_ttl of \"4m59s\""] });
        let right = json!({
            "request_id": "b", "lease_id": "ours/creds/app/pc5tVbsLBVcS7uDrOnRWcTA1",
            "data": { "username": "v-token-app-veB9Zd04mTF2RCgma6Wm-1795314481", "password": "JeN4NYFLd6bd-x9xxxxx",
                      "ttl": 58, "expire_time": (now + jiff::SignedDuration::from_secs(2)).to_string() },
            "warnings": ["TTL of \"27h46m39s\" exceeded the effective max_ttl of \"5m\""] });
        assert_eq!(same(left, right), Vec::<String>::new());
    }

    #[test]
    fn what_a_client_can_notice_is_a_difference() {
        let now = jiff::Timestamp::now();
        for (left, right) in [
            (json!({ "a": 1 }), json!({ "a": "1" })),
            (json!({ "a": 1 }), json!({ "a": 2 })),
            (json!({ "a": null }), json!({})),
            (json!({}), json!({ "a": null })),
            (json!({ "a": [1] }), json!({ "a": [1, 1] })),
            (json!({ "ttl": 60 }), json!({ "ttl": 70 })),
            (json!({ "lease_duration": 60 }), json!({ "lease_duration": 61 })),
            (json!({ "password": "biRr-NxIgfidUng9LKLI" }), json!({ "password": "biRr-NxIgfidUng9LKL" })),
            (json!({ "password": "biRr-NxIgfidUng9LKLI" }), json!({ "password": "biRrxNxIgfidUng9LKLI" })),
            (json!({ "t": now.to_string() }), json!({ "t": (now + jiff::SignedDuration::from_secs(60)).to_string() })),
            (
                json!({ "lease_id": "builtin/creds/app/3Xr3OmytnlP2rhnE8C2XbWcn" }),
                json!({ "lease_id": "ours/creds/app/3" }),
            ),
            (
                json!({ "username": "v-token-app-7Ba4TpAGL7UX3mU3gFwD-1795313412" }),
                json!({ "username": "v-token-app-7Ba4TpAGL7UX3mU3gFw-1795313412" }),
            ),
            (
                json!({ "username": "v-token-app-7Ba4TpAGL7UX3mU3gFwD-1795313412" }),
                json!({ "username": "v-root-app-7Ba4TpAGL7UX3mU3gFwD-1795313412" }),
            ),
            (json!({ "warnings": ["TTL of \"2h\" capped"] }), json!({ "warnings": ["TTL of \"3h\" capped"] })),
        ] {
            assert_eq!(same(left.clone(), right.clone()).len(), 1, "{left} {right}");
        }
    }
}
