//! `status` and `metrics` of a mount of AWS.

use serde_json::{Value, json};

use super::Stage;
use crate::operations::{described, documented, scrape, values};
use crate::support::aws::ALLOW_ALL;

#[test]
fn status_and_metrics_say_what_there_is_at_the_account() {
    let stage = Stage::ministack();
    let client = &stage.client;
    stage.assumed("app", json!({}));
    stage.write("user", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    stage.aws.user("batch", &[]);
    let (lease, _, _) = stage.mint("creds/app");
    stage.mint("creds/app");
    let (user, _, _) = stage.mint("creds/user");
    stage.mint("creds/user");
    client.revoke(&lease).expect(204);
    client.revoke(&user).expect(204);
    let batch = json!({ "username": "batch", "rotation_period": "1h" });
    assert!(client.post("aws/static-roles/batch", batch).status < 300);
    // AWS refuses: a group that there is not.
    stage.write("bad", json!({ "credential_type": "iam_user", "iam_groups": "nobody" }));
    assert_eq!(client.get("aws/creds/bad").status, 400);

    let status = client.get("aws/status").data();
    assert_eq!((&status["users"]["live"], &status["users"]["overdue"]), (&json!(1), &json!(0)), "{status}");
    assert!(status["users"]["oldest"].is_string() && status["users"]["seen"].is_string(), "{status}");
    assert_eq!((&status["complaints"], &status["revocation_mode"]), (&json!([]), &json!("normal")), "{status}");
    assert_eq!(status["queue"], json!({ "ends": 0, "passwords": 0 }), "{status}");
    for (operation, count, failed) in [("mint", 5, 1), ("end", 2, 0), ("rotate", 1, 0)] {
        let shown = &status["operations"][operation];
        assert_eq!((&shown["count"], &shown["failed"]), (&json!(count), &json!(failed)), "{operation}: {status}");
        let share = |name: &str| shown[name].as_f64().unwrap();
        assert!(0.0 < share("p50_milliseconds") && share("p50_milliseconds") <= share("p99_milliseconds"), "{shown}");
    }
    let last_error = &status["operations"]["mint"]["last_error"];
    assert!(last_error.to_string().contains("Error adding user to group"), "{status}");
    let rotation = &status["rotations"][0];
    assert_eq!((&rotation["account"], &rotation["late"]), (&json!("static-roles/batch"), &json!(0)), "{status}");
    assert!(rotation["next"].is_string() && rotation["error"].is_null(), "{status}");
    assert_eq!(status["denials"][0]["outstanding"], 1, "{status}");
    for absent in ["breaker", "pool", "remnants"] {
        assert_eq!(status.get(absent), None, "an account has none");
    }

    let text = scrape(client, "aws").unwrap();
    let one = |metric: &str, labels: &[&str]| {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        match values(&text, metric, &labels).as_slice() {
            [one] => *one,
            other => panic!("{metric} {labels:?}: {other:?}\n{text}"),
        }
    };
    assert_eq!(one("leasehold_build_info", &["engine=\"aws\""]), 1.0);
    assert_eq!(one("leasehold_users", &["connection=\"aws\""]), 1.0);
    assert_eq!(one("leasehold_users_overdue", &[]), 0.0);
    assert_eq!(one("leasehold_work_total", &["operation=\"mint\"", "outcome=\"ok\""]), 4.0);
    assert_eq!(one("leasehold_work_total", &["operation=\"mint\"", "outcome=\"failed\""]), 1.0);
    assert_eq!(one("leasehold_work_total", &["operation=\"end\"", "outcome=\"ok\""]), 2.0);
    assert_eq!(one("leasehold_work_seconds_count", &["operation=\"rotate\""]), 1.0);
    assert_eq!(one("leasehold_requests_total", &["operation=\"creds\"", "result=\"ok\""]), 4.0);
    assert!((3500.0..=3600.0).contains(&one("leasehold_rotation_next_seconds", &[])));
    assert_eq!(one("leasehold_denials", &["state=\"in_force\""]), 1.0);
    assert_eq!(one("leasehold_denials", &["state=\"unwritten\""]), 0.0);
    let fullest = one("leasehold_denials_fullest", &[]);
    assert!(0.0 < fullest && fullest < 0.1, "{fullest}");
    // All of them are documented; those of sessions at a database are not there.
    let (described, documented) = (described(&text), documented());
    let absent: Vec<&String> = documented.difference(&described).collect();
    assert!(described.is_subset(&documented), "{described:?}");
    let of_databases = ["sessions", "requests_waiting", "breaker_open", "outage_seconds"];
    let expected = |name: &&String| of_databases.iter().any(|part| name.contains(part)) || name.ends_with("remnants");
    assert!(absent.iter().all(expected), "{absent:?}");

    // A new key of the engine's own, and who may read: what the policy says.
    let rotated: Value = client.post("aws/config/rotate-root", json!({})).body;
    assert!(rotated["data"]["access_key"].is_string(), "{rotated}");
    assert_eq!(client.get("aws/status").data()["operations"]["rotate"]["count"], 2);
}
