//! The document that denies everything to sessions that are over, and to nobody else.
//!
//! It is built from our own list, never from what AWS answers. Every statement has a condition, and every condition has
//! values: an entry is made of nothing that could be left out. [`is_safe`] looks at the finished text once more.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::target::aws::Holder;

/// What a denial names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// `aws:userid`, or a pattern with a star that only one session matches.
    UserId(String),
    /// `aws:userid` of a name that is used again: of sessions issued until then, unix seconds.
    UserIdUntil(String, u64),
    /// A session tag that only one session carries: its key and value.
    Tag(String, String),
    /// A source identity: of sessions issued until then, unix seconds.
    SourceIdentity(String, u64),
    /// Sessions issued within a second of then, unix seconds.
    Issued(u64),
    /// Every session issued until then, unix seconds.
    Older(u64),
}

/// One denial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// What it names.
    pub by: By,
    /// When the last session that it names has ended by itself, unix seconds.
    pub expires: u64,
}

/// Lays `new` over `entries`: each thing is named once, with the latest of its times.
pub fn merge(entries: &mut Vec<Entry>, new: impl IntoIterator<Item = Entry>) {
    for entry in new {
        match entries.iter_mut().find(|known| same(known, &entry)) {
            Some(known) => {
                known.expires = known.expires.max(entry.expires);
                known.by = known.by.clone().max(entry.by);
            }
            None => entries.push(entry),
        }
    }
}

/// Whether two entries name the same thing.
pub fn same(one: &Entry, other: &Entry) -> bool {
    match (&one.by, &other.by) {
        (By::SourceIdentity(one, _), By::SourceIdentity(other, _)) => one == other,
        (By::UserIdUntil(one, _), By::UserIdUntil(other, _)) => one == other,
        (By::Older(_), By::Older(_)) => true,
        (one, other) => one == other,
    }
}

/// How many of the first entries fit into a document of this size.
pub fn fitting(holder: &Holder, entries: &[Entry], limit: usize) -> usize {
    let fits = |count: &usize| render(holder, &entries[..*count]).is_none_or(|text| size(&text) <= limit);
    if fits(&entries.len()) {
        return entries.len();
    }
    // The most that fit lies between what does and what does not.
    let (mut most, mut least) = (0, entries.len());
    while least - most > 1 {
        let middle = usize::midpoint(most, least);
        if fits(&middle) { most = middle } else { least = middle }
    }
    most
}

/// Drops what names only sessions that have ended by themselves; true if there was any.
pub fn prune(entries: &mut Vec<Entry>, now: u64) -> bool {
    let before = entries.len();
    entries.retain(|entry| entry.expires > now);
    entries.len() != before
}

/// All entries as one that ends every session issued until the last of them was revoked at `now`.
pub fn collapse(entries: &mut Vec<Entry>, now: u64) {
    let Some(expires) = entries.iter().map(|entry| entry.expires).max() else { return };
    *entries = vec![Entry { by: By::Older(now), expires }];
}

/// The document for these entries, `None` if there are none.
pub fn render(holder: &Holder, entries: &[Entry]) -> Option<String> {
    if entries.is_empty() {
        return None;
    }
    let mut user_ids = Vec::new();
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut conditions = Vec::new();
    for entry in entries {
        match &entry.by {
            By::UserId(id) => user_ids.push(id.as_str()),
            By::Tag(key, value) => tags.entry(key).or_default().push(value),
            By::UserIdUntil(id, until) => conditions.push(json!({
                "StringEquals": { "aws:userid": id },
                "DateLessThanEquals": { "aws:TokenIssueTime": instant(*until) },
            })),
            By::SourceIdentity(identity, until) => conditions.push(json!({
                "StringEquals": { "aws:SourceIdentity": identity },
                "DateLessThanEquals": { "aws:TokenIssueTime": instant(*until) },
            })),
            By::Issued(second) => conditions.push(json!({
                "DateGreaterThanEquals": { "aws:TokenIssueTime": instant(second.saturating_sub(1)) },
                "DateLessThanEquals": { "aws:TokenIssueTime": instant(second + 1) },
            })),
            By::Older(until) => conditions.push(json!({
                "DateLessThanEquals": { "aws:TokenIssueTime": instant(*until) },
            })),
        }
    }
    if !user_ids.is_empty() {
        conditions.push(json!({ "StringLike": { "aws:userid": user_ids } }));
    }
    for (key, values) in tags {
        conditions.push(json!({ "StringEquals": { format!("aws:PrincipalTag/{key}"): values } }));
    }
    let statements: Vec<Value> =
        conditions.into_iter().map(|condition| statement(guarded(holder, condition))).collect();
    Some(json!({ "Version": "2012-10-17", "Statement": statements }).to_string())
}

/// A document that is shaped as a denial and can match nobody: no `aws:userid` has a space.
pub fn probe(holder: &Holder) -> String {
    let condition = guarded(holder, json!({ "StringEquals": { "aws:userid": ["leasehold probe"] } }));
    json!({ "Version": "2012-10-17", "Statement": [statement(condition)] }).to_string()
}

/// A user's own long-term key has no issue time: a denial in a user's policy must never reach it, for it is the engine's.
fn guarded(holder: &Holder, mut condition: Value) -> Value {
    if let (Holder::User(_), Some(condition)) = (holder, condition.as_object_mut()) {
        condition.insert("Null".to_owned(), json!({ "aws:TokenIssueTime": "false" }));
    }
    condition
}

fn statement(condition: Value) -> Value {
    json!({ "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition })
}

fn instant(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// How AWS measures a document: white space does not count.
pub fn size(document: &str) -> usize {
    document.chars().filter(|c| !c.is_whitespace()).count()
}

/// Whether a document denies only under conditions, none of them empty. Nothing else is ever written.
pub fn is_safe(document: &str) -> bool {
    let parsed: Option<Value> = serde_json::from_str(document).ok();
    let statements = parsed.as_ref().and_then(|value| value.get("Statement")).and_then(Value::as_array);
    let Some(statements) = statements.filter(|list| !list.is_empty()) else { return false };
    statements.iter().all(|statement| {
        let condition = statement.get("Condition").and_then(Value::as_object);
        statement.get("Effect") == Some(&json!("Deny")) && condition.is_some_and(narrows)
    })
}

/// A test for something that a session has and others have not, each with values.
fn narrows(condition: &Map<String, Value>) -> bool {
    let filled = |value: &Value| match value {
        Value::String(text) => !text.is_empty() && text.chars().any(|c| c != '*' && c != '?'),
        Value::Array(list) => {
            !list.is_empty()
                && list.iter().all(|item| {
                    item.as_str().is_some_and(|text| text.chars().filter(|c| c.is_alphanumeric()).count() >= 2)
                })
        }
        _ => false,
    };
    let all_filled = condition
        .values()
        .all(|test| test.as_object().is_some_and(|keys| !keys.is_empty() && keys.values().all(filled)));
    let names = |operator: &str| operator.starts_with("String") || operator == "DateLessThanEquals";
    all_filled && condition.keys().any(|operator| names(operator))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::aws::{ROLE_POLICY_LIMIT, USER_POLICY_LIMIT};

    fn role() -> Holder {
        Holder::Role("arn:aws:iam::1:role/r".into())
    }

    fn user() -> Holder {
        Holder::User("arn:aws:iam::1:user/u".into())
    }

    fn any_by() -> impl Strategy<Value = By> {
        let id = "[A-Z0-9]{4,20}:[A-Za-z0-9@.-]{2,64}";
        let time = 1_500_000_000u64..2_500_000_000;
        prop_oneof![
            "\\*-[A-Za-z0-9]{12}".prop_map(By::UserId),
            id.prop_map(By::UserId),
            (id, time.clone()).prop_map(|(id, at)| By::UserIdUntil(id, at)),
            "[A-Za-z0-9]{12}".prop_map(|value| By::Tag("leasehold:session".into(), value)),
            ("[A-Za-z0-9@.-]{2,64}", time.clone()).prop_map(|(id, at)| By::SourceIdentity(id, at)),
            time.clone().prop_map(By::Issued),
            time.prop_map(By::Older),
        ]
    }

    proptest! {
        /// The one rule that must never break: no denial without a condition, whatever is revoked.
        #[test]
        fn every_document_is_safe(all in prop::collection::vec((any_by(), 1u64..5_000_000_000), 0..30)) {
            let mut entries = Vec::new();
            merge(&mut entries, all.into_iter().map(|(by, expires)| Entry { by, expires }));
            for holder in [role(), user()] {
                match render(&holder, &entries) {
                    None => prop_assert!(entries.is_empty()),
                    Some(document) => {
                        prop_assert!(is_safe(&document), "{document}");
                        let parsed: Value = serde_json::from_str(&document).unwrap();
                        for statement in parsed["Statement"].as_array().unwrap() {
                            let null = statement["Condition"].get("Null").is_some();
                            prop_assert_eq!(null, matches!(holder, Holder::User(_)));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_document_without_conditions_is_not_written() {
        for document in [
            "",
            "{}",
            r#"{"Statement":[]}"#,
            r#"{"Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#,
            r#"{"Statement":[{"Effect":"Deny","Condition":{}}]}"#,
            r#"{"Statement":[{"Effect":"Deny","Condition":{"StringLike":{"aws:userid":[]}}}]}"#,
            r#"{"Statement":[{"Effect":"Deny","Condition":{"StringLike":{"aws:userid":["*"]}}}]}"#,
            r#"{"Statement":[{"Effect":"Deny","Condition":{"StringLike":{"aws:userid":["*-"]}}}]}"#,
            r#"{"Statement":[{"Effect":"Deny","Condition":{"Null":{"aws:TokenIssueTime":"false"}}}]}"#,
            r#"{"Statement":[{"Effect":"Deny","Condition":{"DateGreaterThanEquals":{"aws:TokenIssueTime":"2026-01-01T00:00:00Z"}}}]}"#,
            r#"{"Statement":[{"Effect":"Allow","Condition":{"StringLike":{"aws:userid":["A:b"]}}}]}"#,
        ] {
            assert!(!is_safe(document), "{document}");
        }
        assert!(is_safe(&probe(&user())) && is_safe(&probe(&role())));
    }

    #[test]
    fn entries_merge_and_expire() {
        let entry = |by, expires| Entry { by, expires };
        let mut entries = vec![entry(By::SourceIdentity("alice".into(), 10), 100), entry(By::UserId("A:x".into()), 50)];
        merge(&mut entries, [entry(By::SourceIdentity("alice".into(), 20), 90), entry(By::UserId("A:x".into()), 60)]);
        assert_eq!(entries, [entry(By::SourceIdentity("alice".into(), 20), 100), entry(By::UserId("A:x".into()), 60)]);
        assert!(prune(&mut entries, 60) && entries.len() == 1);
        assert!(!prune(&mut entries, 60));
        collapse(&mut entries, 30);
        assert_eq!(entries, [entry(By::Older(30), 100)]);
        assert_eq!(render(&role(), &[]), None);
    }

    /// How many revocations can be outstanding at once: the figures in the documentation.
    #[test]
    fn capacities() {
        let fits = |holder: &Holder, limit: usize, make: &dyn Fn(usize) -> By| {
            let entries = |n: usize| -> Vec<Entry> { (0..n).map(|i| Entry { by: make(i), expires: 1 }).collect() };
            fitting(holder, &entries(1000), limit)
        };
        let short = |i: usize| By::UserId(format!("*-{i:012}"));
        let tag = |i: usize| By::Tag("leasehold:session".into(), format!("{i:012}"));
        let full = |i: usize| By::UserId(format!("AROAEXAMPLEEXAMPLE123:{i:064}"));
        assert_eq!(fits(&role(), ROLE_POLICY_LIMIT, &short), 594);
        assert_eq!(fits(&role(), ROLE_POLICY_LIMIT, &tag), 672);
        assert_eq!(fits(&role(), ROLE_POLICY_LIMIT, &full), 113);
        assert_eq!(fits(&user(), USER_POLICY_LIMIT, &short), 110);
    }
}
