//! Every secret that a test sends or is answered, and every log of the servers it runs: none may be in the other.
//!
//! The client notes what it sees, and each server's log is searched when the server stops; a find fails the test. What
//! the built-in engine does with passwords is not ours to judge: tests that run it say so with [`leave`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::search::{Form, Hit, Known, SHORTEST, Search};

/// Fields of requests and answers whose text is a secret, whatever the path.
const SECRET: &[&str] = &[
    "password",
    "private_key",
    "rsa_private_key",
    "ca_private_key",
    "tls_certificate_key",
    "secret_key",
    "session_token",
    "security_token",
];

/// Answers of paths with one of these in them hold no secret, and are searched.
pub const NEVER: &[&str] = &["evidence", "reports", "requests", "inbox", "status", "audit", "metrics"];

static SEEN: Mutex<Seen> = Mutex::new(Seen { all: BTreeSet::new(), index: None, fresh: Vec::new() });
static LEFT: AtomicBool = AtomicBool::new(false);

/// What was noted. Under load each error is searched, so the search is not made anew each time.
struct Seen {
    all: BTreeSet<Known>,
    /// Finds all but the fresh ones.
    index: Option<Arc<Search>>,
    fresh: Vec<Known>,
}

impl Seen {
    fn lock() -> MutexGuard<'static, Seen> {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn searches(&mut self) -> [Arc<Search>; 2] {
        let index = match &self.index {
            Some(index) if self.fresh.len() <= self.all.len() / 8 => index.clone(),
            _ => {
                self.fresh.clear();
                self.index.insert(Arc::new(Search::new(self.all.iter().cloned()))).clone()
            }
        };
        [index, Arc::new(Search::new(self.fresh.iter().cloned()))]
    }
}

/// From now on nothing is noted and nothing searched, in this process: the test runs the built-in engine too.
pub fn leave() {
    LEFT.store(true, Ordering::Relaxed);
}

/// Notes a secret. Those that are too short to be anything's are passed over: tests have words like `rootpw`.
pub fn note(what: &str, text: &str) {
    let known = match text.contains("PRIVATE KEY-----") {
        true => Known::private_key(what, text),
        false if text.len() < SHORTEST => return,
        false => vec![Known::new(what, text)],
    };
    let mut seen = Seen::lock();
    for known in known {
        if seen.all.insert(known.clone()) {
            seen.fresh.push(known);
        }
    }
}

/// Notes the signature of a proof that a path brings along. What comes before it says nothing that could be used.
pub fn note_proof(path: &str) {
    let Some((_, rest)) = path.split_once("identity_proof=") else { return };
    let token = rest.split('&').next().unwrap_or_default();
    if let (3, Some(signature)) = (token.split('.').count(), token.rsplit('.').next()) {
        note("proof", signature);
    }
}

/// A secret that a server was shown on purpose may be in its log.
pub fn forget(text: &str) {
    let mut seen = Seen::lock();
    seen.all.retain(|known| known.bytes != text.as_bytes());
    seen.index = None;
}

/// Notes the secrets among the fields of a request or an answer.
pub fn note_all(value: &Value) {
    if LEFT.load(Ordering::Relaxed) {
        return;
    }
    if let Some(proof) = value.get("identity_proof").and_then(Value::as_str) {
        note_proof(&format!("identity_proof={proof}"));
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if SECRET.contains(&name.as_str()) => note(name, text),
                    value => note_all(value),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(note_all),
        _ => {}
    }
}

/// What was noted so far.
pub fn seen() -> Vec<Known> {
    Seen::lock().all.iter().cloned().collect()
}

/// The secrets that stand in `text`, with what surrounds them. Of a secret a part of twelve bytes counts.
pub fn found(search: &Search, text: &[u8]) -> Vec<String> {
    let hits = search.find(text).into_iter().filter(|hit| !matches!(hit.form, Form::Part(length) if length < SHORTEST));
    hits.map(|Hit { secret, form, at, length }| {
        let around = |from: usize, to: usize| text[from..to].escape_ascii().to_string();
        let before = around(at.saturating_sub(80), at);
        let after = around(at + length, (at + length + 40).min(text.len()));
        format!("{} ({form:?}): {before}#####{after}", search.known()[secret].what)
    })
    .collect()
}

/// Fails if `text`, which `whose` has written, holds anything that was noted. To be called when a server stops.
pub fn check(whose: &str, text: &[u8]) {
    if LEFT.load(Ordering::Relaxed) || std::thread::panicking() {
        return;
    }
    let searches = Seen::lock().searches();
    let found: Vec<String> = searches.iter().flat_map(|search| found(search, text)).collect();
    assert!(found.is_empty(), "secrets in what {whose} wrote: {}", found.join("\n"));
}
