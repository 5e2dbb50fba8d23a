//! Events in the forms that security tools read: OCSF classes and CEF lines.

use serde_json::{Value, json};

/// The class and the activity of a kind of event, in OCSF's numbering.
fn class_of(kind: &str) -> (u32, &'static str, u32) {
    match kind {
        // Account Change: create, delete.
        "issue.done" => (3001, "Account Change", 1),
        "revoke.verified" | "revoke.contained" => (3001, "Account Change", 6),
        // User Access Management: assign, revoke privileges.
        "decision.approved" | "decision.auto" | "decision.preapproved" => (3005, "User Access Management", 1),
        "end.requested" => (3005, "User Access Management", 2),
        "execution.summary" => (6005, "Datastore Activity", 99),
        "remnant.opened" | "breakglass.used" => (2004, "Detection Finding", 1),
        // Entity Management: create, update.
        "request.filed" => (3004, "Entity Management", 1),
        _ => (3004, "Entity Management", 3),
    }
}

/// OCSF's categories are the first digit of its classes.
fn category(class: u32) -> &'static str {
    match class / 1000 {
        2 => "Findings",
        6 => "Application Activity",
        _ => "Identity & Access Management",
    }
}

fn severity(kind: &str) -> u32 {
    match kind {
        "breakglass.used" | "remnant.opened" => 4,
        "issue.failed" | "vote.deny" | "decision.denied" | "revoke.contained" => 3,
        _ => 1,
    }
}

/// An event as OCSF.
pub fn ocsf(event: &Value) -> Value {
    let kind = event["kind"].as_str().unwrap_or_default();
    let (class, class_name, activity) = class_of(kind);
    let actor = if event["actor"].is_object() { &event["actor"] } else { &event["requester"] };
    let requester = &event["requester"];
    let time = event["time"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let mut shown = json!({
        "class_uid": class,
        "class_name": class_name,
        "category_uid": class / 1000,
        "category_name": category(class),
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": severity(kind),
        "status_id": if matches!(kind, "issue.failed" | "decision.denied") { 2 } else { 1 },
        "time": time.map(|time| time.as_millisecond()),
        "message": kind,
        "metadata": {
            "version": "1.3.0",
            "product": { "name": "Leasehold", "vendor_name": "Leasehold", "version": env!("CARGO_PKG_VERSION") },
            "uid": event["hash"],
            "sequence": event["seq"],
            "correlation_uid": event["request_id"],
            "original_time": event["time"],
        },
        "actor": { "user": { "uid": actor["entity_id"], "name": actor["name"], "type": actor["class"] } },
        "unmapped": event,
    });
    let own = match class {
        3001 => json!({ "user": { "name": event["credential"]["name"], "uid": event["issue_id"] } }),
        3005 => json!({
            "user": { "uid": requester["entity_id"], "name": requester["name"] },
            "privileges": [event["role"]],
            "resource": { "name": event["role"], "type": "role" },
        }),
        6005 => json!({
            "database": { "name": event["target"], "type_id": 99 },
            "src_endpoint": { "name": event["credential"]["name"] },
        }),
        2004 => json!({ "finding_info": { "uid": event["hash"], "title": kind, "desc": event["reason"] } }),
        _ => json!({ "entity": { "name": event["role"], "type": "role", "uid": event["request_id"] } }),
    };
    if let (Value::Object(shown), Value::Object(own)) = (&mut shown, own) {
        shown.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
    }
    shown
}

/// An event as one line of CEF.
pub fn cef(event: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let header = |value: &str| value.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
    let field = |value: &str| value.replace('\\', "\\\\").replace('=', "\\=").replace(['\n', '\r'], " ");
    let kind = text(&event["kind"]);
    let actor = if event["actor"].is_object() { &event["actor"] } else { &event["requester"] };
    let mut line = format!(
        "CEF:0|Leasehold|Leasehold|{}|{}|{}|{}|",
        env!("CARGO_PKG_VERSION"),
        header(&kind),
        header(&kind),
        severity(&kind) * 2
    );
    let fields = [
        ("rt", &event["time"]),
        ("externalId", &event["hash"]),
        ("suser", &actor["name"]),
        ("suid", &actor["entity_id"]),
        ("duser", &event["credential"]["name"]),
        ("cs1", &event["request_id"]),
        ("cs2", &event["role"]),
        ("cs3", &event["core_request_id"]),
        ("reason", &event["reason"]),
        ("cn1", &event["seq"]),
    ];
    let labels = [("cs1Label", "requestId"), ("cs2Label", "role"), ("cs3Label", "hostRequestId"), ("cn1Label", "seq")];
    let given = fields.into_iter().filter(|(_, value)| !value.is_null());
    let mut parts: Vec<String> = given.map(|(key, value)| format!("{key}={}", field(&text(value)))).collect();
    parts.extend(labels.into_iter().map(|(key, value)| format!("{key}={value}")));
    line.push_str(&parts.join(" "));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_class_and_nothing_breaks_a_line() {
        let event = json!({
            "kind": "issue.done", "seq": 4, "time": "2026-01-01T00:00:00.000Z", "hash": "ab", "request_id": "jr_1", "role": "r|x",
            "reason": "a=b\nCEF:0|\\", "requester": { "name": "ann", "entity_id": "e", "class": "human" },
            "credential": { "name": "v-1" },
        });
        let ocsf = ocsf(&event);
        assert_eq!((ocsf["class_uid"].as_u64(), ocsf["type_uid"].as_u64()), (Some(3001), Some(300_101)));
        // What the published schema (1.3) asks of every event, and of each class.
        for (kind, needed) in [
            ("issue.done", &["user"][..]),
            ("decision.approved", &["user", "privileges"]),
            ("execution.summary", &["actor", "database", "src_endpoint"]),
            ("breakglass.used", &["finding_info"]),
            ("request.filed", &["entity"]),
            ("policy.written", &["entity"]),
        ] {
            let mut event = event.clone();
            event["kind"] = json!(kind);
            let shown = super::ocsf(&event);
            let everywhere =
                ["class_uid", "category_uid", "activity_id", "type_uid", "severity_id", "time", "metadata"];
            for field in everywhere.iter().chain(needed) {
                assert!(!shown[*field].is_null(), "{kind} has no {field}");
            }
            let uid = |key: &str| shown[key].as_u64().unwrap();
            assert_eq!(uid("type_uid"), uid("class_uid") * 100 + uid("activity_id"), "{kind}");
            assert_eq!(uid("category_uid"), uid("class_uid") / 1000, "{kind}");
            assert!(!shown["metadata"]["product"]["vendor_name"].is_null() && !shown["metadata"]["version"].is_null());
        }
        assert_eq!((&ocsf["actor"]["user"]["name"], &ocsf["user"]["name"]), (&json!("ann"), &json!("v-1")));
        assert_eq!(ocsf["time"], 1_767_225_600_000_i64);
        let line = cef(&event);
        assert!(line.starts_with("CEF:0|Leasehold|Leasehold|") && line.lines().count() == 1, "{line}");
        assert!(line.contains(r"reason=a\=b CEF:0|\\") && line.contains("cs1=jr_1"), "{line}");
    }
}
