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
    /// A pattern that the `aws:userid` of each session of one identity matches: of those issued until then, unix seconds.
    NamesUntil(String, u64),
}

/// Whose a session is, and how all that are his would be named together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// By a source identity.
    Source(String),
    /// By a pattern of names: of a role whose `principal_name` says who it is.
    Names(String),
}

impl Identity {
    fn until(&self, now: u64) -> By {
        match self {
            Self::Source(identity) => By::SourceIdentity(identity.clone(), now),
            Self::Names(pattern) => By::NamesUntil(pattern.clone(), now),
        }
    }
}

/// One denial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it names.
    pub by: By,
    /// When the last session that it names has ended by itself, unix seconds.
    pub expires: u64,
    /// When the session was issued that it names, unix seconds; zero if it names several, or nobody knows.
    #[serde(default)]
    pub issued: u64,
    /// Whose it is, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Which of the policies has it: 0 is the inline one. `None` while none has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

impl Entry {
    /// One that is in no policy yet.
    pub fn new(by: By, expires: u64) -> Self {
        Self { by, expires, issued: 0, identity: None, slot: None }
    }

    /// Whether this one ends all that `other` does, for as long.
    pub fn contains(&self, other: &Self) -> bool {
        let of = |until: u64, identity: Option<Identity>| {
            // AWS's second of issue may be the next one to ours.
            let before = other.issued > 0 && other.issued < until;
            before && self.expires >= other.expires && (identity.is_none() || identity == other.identity)
        };
        match &self.by {
            By::Older(until) => of(*until, None),
            By::SourceIdentity(identity, until) => of(*until, Some(Identity::Source(identity.clone()))),
            By::NamesUntil(pattern, until) => of(*until, Some(Identity::Names(pattern.clone()))),
            _ => false,
        }
    }
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

/// Replaces the entries of the identity that has the most of them by one that ends every session it has by `now`, if that
/// is shorter; false if there is none of whom it would be. The new one comes first, and is in no policy yet.
pub fn gather(holder: &Holder, entries: &mut Vec<Entry>, now: u64, expires: u64) -> bool {
    let mut groups: BTreeMap<&Identity, Vec<&Entry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.issued > 0 && entry.issued <= now) {
        if let Some(identity) = &entry.identity {
            groups.entry(identity).or_default().push(entry);
        }
    }
    let length = |entries: &[&Entry]| render(holder, entries).map_or(0, |text| size(&text));
    let shorter = groups.into_iter().filter_map(|(identity, group)| {
        let latest = group.iter().map(|entry| entry.expires).max().unwrap_or_default();
        let one = Entry::new(identity.until(now), latest.max(expires));
        (length(&[&one]) < length(&group)).then(|| (group.len(), identity.clone(), one))
    });
    let Some((_, identity, one)) = shorter.max_by_key(|(count, ..)| *count) else { return false };
    entries.retain(|entry| entry.identity.as_ref() != Some(&identity) || entry.issued == 0 || entry.issued > now);
    entries.retain(|entry| !same(entry, &one));
    entries.insert(0, one);
    true
}

/// Whether two entries name the same thing.
pub fn same(one: &Entry, other: &Entry) -> bool {
    match (&one.by, &other.by) {
        (By::SourceIdentity(one, _), By::SourceIdentity(other, _)) => one == other,
        (By::UserIdUntil(one, _), By::UserIdUntil(other, _)) => one == other,
        (By::NamesUntil(one, _), By::NamesUntil(other, _)) => one == other,
        (By::Older(_), By::Older(_)) => true,
        (one, other) => one == other,
    }
}

/// How many of the first `new` entries fit into a document of this size beside those that are `kept`.
pub fn fitting(holder: &Holder, kept: &[&Entry], new: &[&Entry], limit: usize) -> usize {
    let fits = |count: &usize| {
        let all: Vec<&Entry> = kept.iter().chain(&new[..*count]).copied().collect();
        render(holder, &all).is_none_or(|text| size(&text) <= limit)
    };
    if fits(&new.len()) {
        return new.len();
    }
    // The most that fit lies between what does and what does not.
    let (mut most, mut least) = (0, new.len());
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
    *entries = vec![Entry::new(By::Older(now), expires)];
}

/// The document for these entries, `None` if there are none.
pub fn render(holder: &Holder, entries: &[&Entry]) -> Option<String> {
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
            By::NamesUntil(pattern, until) => conditions.push(json!({
                "StringLike": { "aws:userid": pattern },
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
    use crate::target::aws::{MANAGED_POLICY_LIMIT, ROLE_POLICY_LIMIT, USER_POLICY_LIMIT};

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
            ("[A-Z0-9]{4,20}:[A-Za-z0-9@.-]{2,51}-[?]{12}", time.clone()).prop_map(|(id, at)| By::NamesUntil(id, at)),
            time.prop_map(By::Older),
        ]
    }

    proptest! {
        /// The one rule that must never break: no denial without a condition, whatever is revoked.
        #[test]
        fn every_document_is_safe(all in prop::collection::vec((any_by(), 1u64..5_000_000_000), 0..30)) {
            let mut entries = Vec::new();
            merge(&mut entries, all.into_iter().map(|(by, expires)| Entry::new(by, expires)));
            let entries: Vec<&Entry> = entries.iter().collect();
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
        let entry = Entry::new;
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
            let entries: Vec<Entry> = (0..1000).map(|i| Entry::new(make(i), 1)).collect();
            fitting(holder, &[], &entries.iter().collect::<Vec<_>>(), limit)
        };
        let short = |i: usize| By::UserId(format!("*-{i:012}"));
        let tag = |i: usize| By::Tag("leasehold:session".into(), format!("{i:012}"));
        let full = |i: usize| By::UserId(format!("AROAEXAMPLEEXAMPLE123:{i:064}"));
        assert_eq!(fits(&role(), ROLE_POLICY_LIMIT, &short), 594);
        assert_eq!(fits(&role(), ROLE_POLICY_LIMIT, &tag), 672);
        assert_eq!(fits(&role(), ROLE_POLICY_LIMIT, &full), 113);
        assert_eq!(fits(&user(), USER_POLICY_LIMIT, &short), 110);
        assert_eq!(fits(&role(), MANAGED_POLICY_LIMIT, &short), 353);
    }

    fn of(identity: &Identity, number: u64) -> Entry {
        let entry = Entry::new(By::UserId(format!("*-{number:012}")), 5000);
        Entry { issued: 100 + number, identity: Some(identity.clone()), ..entry }
    }

    /// One identity's entries become one; those of others, and what was issued later, stay as they are.
    #[test]
    fn the_entries_of_one_identity_become_one() {
        let (alice, bob) = (Identity::Source("alice".into()), Identity::Names("AROA:bob-????????????".into()));
        let mut entries: Vec<Entry> = (0..40).map(|i| of(&alice, i)).chain((40..60).map(|i| of(&bob, i))).collect();
        entries.push(Entry::new(By::UserId("*-somebodyelse".into()), 5000));
        entries.push(Entry { issued: 9000, ..of(&alice, 99) });
        assert!(gather(&role(), &mut entries, 1000, 7000));
        assert_eq!(entries[0], Entry::new(By::SourceIdentity("alice".into(), 1000), 7000));
        assert_eq!(entries.len(), 1 + 20 + 2);
        assert!(gather(&role(), &mut entries, 1000, 7000));
        assert_eq!(entries[0].by, By::NamesUntil("AROA:bob-????????????".into(), 1000));
        assert!(!gather(&role(), &mut entries, 1000, 7000), "nothing becomes shorter");
        assert_eq!(entries.len(), 4);
        // What names many ends what names one of them, if that was issued before.
        assert!(entries[1].contains(&of(&alice, 3)) && !entries[1].contains(&of(&bob, 3)));
        assert!(!entries[1].contains(&Entry { issued: 1000, ..of(&alice, 3) }));
        assert!(!entries[1].contains(&Entry { expires: 7001, ..of(&alice, 3) }));
        assert!(!entries[1].contains(&Entry { issued: 0, ..of(&alice, 3) }));
        assert!(Entry::new(By::Older(1000), 7000).contains(&of(&bob, 3)));
    }
}
