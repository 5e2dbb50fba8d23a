//! AWS is slow, forgetful and away: what the engine makes of it.

use std::time::Duration;

use serde_json::json;

use super::{Stage, error};
use crate::support::aws::{ALLOW_ALL, TRUST_ALL};
use crate::support::aws_proxy::{Fault, Proxy};
use crate::support::wait_for;

/// An account that is reached by way of what spoils calls.
pub fn spoiled() -> (Stage, Proxy) {
    let stage = Stage::ministack();
    let proxy = Proxy::before(&stage.aws.url());
    stage.configure(json!({ "iam_endpoint": proxy.url(), "sts_endpoint": proxy.url() }));
    (stage, proxy)
}

/// Throttling is tried again, and if it goes on it is a 502 in the built-in engine's words.
#[test]
fn throttling_is_tried_again_and_ends_as_502() {
    let (stage, proxy) = spoiled();
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    proxy.spoil("CreateUser", Fault::Refuse("Throttling", 400), 1);
    let refused = stage.client.get("aws/creds/app").expect(502);
    assert!(error(&refused).contains("Error creating IAM user: Throttling: on purpose"), "{refused}");
    assert!(error(&refused).contains("status code: 400, request id: r-1"), "{refused}");
    let before = proxy.count("CreateUser");
    stage.configure(json!({ "iam_endpoint": proxy.url(), "sts_endpoint": proxy.url(), "max_retries": 3 }));
    proxy.spoil("CreateUser", Fault::Refuse("Throttling", 400), 2);
    stage.mint("creds/app");
    assert_eq!(proxy.count("CreateUser") - before, 3, "two were throttled");
}

/// The answer to a creation gets lost: the next try finds the user there, and knows it for its own.
#[test]
fn a_creation_whose_answer_is_lost_is_known_again() {
    let (stage, proxy) = spoiled();
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    stage.configure(json!({ "iam_endpoint": proxy.url(), "sts_endpoint": proxy.url(), "max_retries": 3 }));
    proxy.spoil("CreateUser", Fault::CutAfter, 1);
    let (lease, key, _) = stage.mint("creds/app");
    assert!(stage.aws.s3(&key).ok());
    stage.client.revoke(&lease).expect(204);
    let users = stage.aws.admin("ListUsers", &[]).body;
    assert!(!users.contains("vault-"), "{users}");
    // Cut later, the user is ours for certain, and is removed at once.
    stage.configure(json!({ "iam_endpoint": proxy.url(), "sts_endpoint": proxy.url(), "max_retries": 0 }));
    proxy.spoil("PutUserPolicy", Fault::Refuse("MalformedPolicyDocument", 400), 1);
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).starts_with("Error putting user policy: MalformedPolicyDocument"), "{refused}");
    let users = stage.aws.admin("ListUsers", &[]).body;
    assert!(!users.contains("vault-"), "{users}");
}

/// A user that is not to be seen yet is not taken for one that is gone.
#[test]
fn a_young_user_that_is_not_to_be_seen_is_not_taken_for_gone() {
    let (stage, proxy) = spoiled();
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    let (lease, key, _) = stage.mint("creds/app");
    proxy.spoil("ListAccessKeys", Fault::Refuse("NoSuchEntity", 404), 1);
    let refused = stage.client.revoke(&lease).expect(400);
    assert!(refused.to_string().contains("too young"), "{refused}");
    assert!(stage.aws.s3(&key).ok());
    stage.client.revoke(&lease).expect(204);
    assert!(stage.aws.whoami(&key).is_err());
}

/// A denial that AWS does not take now is stored, shown, and brought to it later.
#[test]
fn a_denial_that_cannot_be_written_is_not_forgotten() {
    let (stage, proxy) = spoiled();
    let arn = stage.aws.role("app", TRUST_ALL);
    stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn }));
    let (lease, key, _) = stage.mint("creds/app");
    let (_, sibling, _) = stage.mint("creds/app");
    proxy.spoil("PutRolePolicy", Fault::Refuse("ServiceFailure", 500), 100);
    let refused = stage.client.revoke(&lease).expect(400);
    assert!(refused.to_string().contains("ServiceFailure"), "{refused}");
    assert!(stage.aws.s3(&key).ok());
    let status = stage.client.get("aws/status").data();
    let at = &status["denials"][0];
    assert_eq!((&at["outstanding"], &at["in_sync"]), (&json!(1), &json!(false)), "{status}");
    assert!(at["last_error"].as_str().unwrap().contains("ServiceFailure"), "{status}");
    proxy.heal();
    // Whether or not the host asks again.
    wait_for("the denial to be written", Duration::from_secs(60), || stage.aws.s3(&key).is_denied().then_some(()));
    assert!(stage.aws.s3(&sibling).ok());
    stage.client.revoke(&lease).expect(204);
    // What others have written there takes its part of the room.
    let (lease, key, _) = stage.mint("creds/app");
    proxy.spoil("PutRolePolicy", Fault::Refuse("LimitExceeded", 409), 1);
    let refused = stage.client.revoke(&lease).expect(400);
    assert!(refused.to_string().contains("revocation_overflow=collective"), "{refused}");
    proxy.heal();
    stage.client.revoke(&lease).expect(204);
    assert!(stage.aws.s3(&key).is_denied());
}
