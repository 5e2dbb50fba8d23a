//! IAM users and keys: made, used, and gone.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, error};
use crate::support::aws::{ALLOW_ALL, Key};
use crate::support::wait_for;

/// A user works until its lease is revoked, and nothing of it is left.
#[test]
fn a_user_comes_and_goes_with_its_lease() {
    let stage = Stage::ministack();
    stage.client.post("aws/config/lease", json!({ "lease": "30m", "lease_max": "12h" })).expect(204);
    stage.aws.admin("CreateGroup", &[("GroupName", "ops")]);
    let role = json!({
        "credential_type": "iam_user", "policy_document": ALLOW_ALL, "iam_groups": "ops", "user_path": "/made/",
        "iam_tags": { "team": "red" }, "wait_until_usable": "20s",
    });
    stage.write("app", role);
    let (lease, key, minted) = stage.mint("creds/app");
    assert_eq!((&minted["lease_duration"], &minted["renewable"]), (&json!(1800), &json!(true)));
    assert_eq!((&minted["data"]["security_token"], &minted["data"]["session_token"]), (&Value::Null, &Value::Null));
    let arn = stage.aws.whoami(&key).unwrap();
    assert!(arn.contains(":user/made/vault-token-app-"), "{arn}");
    assert!(stage.aws.s3(&key).ok());
    let name = arn.rsplit('/').next().unwrap();
    let tags = stage.aws.admin("ListUserTags", &[("UserName", name)]).body;
    assert!(tags.contains("<Key>team</Key>") && tags.contains("<Key>leasehold</Key>"), "{tags}");
    let renewed = stage.client.renew(&lease, 3600).expect(200);
    assert_eq!(renewed["lease_duration"], 3600);

    // What others hang on a user goes too.
    stage.aws.admin("CreateLoginProfile", &[("UserName", name), ("Password", "Long-enough-1")]);
    stage.aws.admin("CreateAccessKey", &[("UserName", name)]);
    let more = [("UserName", name), ("PolicyName", "more"), ("PolicyDocument", ALLOW_ALL)];
    stage.aws.admin("PutUserPolicy", &more);
    stage.client.revoke(&lease).expect(204);
    assert!(stage.aws.whoami(&key).is_err(), "the key is dead");
    assert_eq!(stage.aws.iam(&stage.aws.root(), "GetUser", &[("UserName", name)]).status, 404);
}

/// A creation that AWS refuses halfway leaves nothing, and says what the built-in engine says.
#[test]
fn a_user_that_is_not_made_to_its_end_is_removed() {
    let stage = Stage::ministack();
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL, "iam_groups": "nobody" }));
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).starts_with("Error adding user to group: NoSuchEntity: "), "{refused}");
    let users = stage.aws.admin("ListUsers", &[]).body;
    assert!(!users.contains("vault-"), "{users}");
    // A name that somebody else has is somebody else's.
    stage.aws.user("taken", &[]);
    stage.configure(json!({ "username_template": "taken" }));
    stage.write("fixed", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    let refused = stage.client.get("aws/creds/fixed").expect(400);
    assert!(error(&refused).starts_with("Error creating IAM user: EntityAlreadyExists: "), "{refused}");
    assert!(stage.aws.iam(&stage.aws.root(), "GetUser", &[("UserName", "taken")]).ok());
    stage.configure(json!({ "username_template": "{{.DisplayName}}-0123456789012345678901234567890123456789012345678901234567890" }));
    assert!(error(&stage.client.get("aws/creds/fixed").expect(500)).contains("IAM username length limits of 64"));
    stage.configure(json!({ "username_template": "{{nothing}}" }));
    assert!(error(&stage.client.get("aws/creds/fixed").expect(500)).contains("unable to initialize username template"));
}

/// The engine's own key changes without a moment in which none works.
#[test]
fn the_engines_own_key_changes() {
    let stage = Stage::moto();
    let old = stage.engine.clone();
    let rotated = stage.client.post("aws/config/rotate-root", json!({})).data();
    let new = rotated["access_key"].as_str().unwrap();
    assert_ne!(new, old.id);
    assert_eq!(stage.client.get("aws/config/root").data()["access_key"], new);
    let keys = stage.aws.admin("ListAccessKeys", &[("UserName", "engine")]).body;
    assert!(keys.contains(new) && !keys.contains(&old.id), "{keys}");
    // The new key is what is used.
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    let (lease, _, _) = stage.mint("creds/app");
    // A second key is in the way, and the one in use stays.
    stage.aws.admin("CreateAccessKey", &[("UserName", "engine")]);
    let refused = stage.client.post("aws/config/rotate-root", json!({})).expect(500);
    assert!(error(&refused).contains("error calling CreateAccessKey: LimitExceeded"), "{refused}");
    assert_eq!(stage.client.get("aws/config/root").data()["access_key"], new);
    wait_for("the user to be old enough to be seen", Duration::from_secs(30), || {
        (stage.client.revoke(&lease).status == 204).then_some(())
    });
    stage.configure(json!({ "access_key": "", "secret_key": "" }));
    let refused = stage.client.post("aws/config/rotate-root", json!({})).expect(400);
    assert_eq!(error(&refused), "Cannot call config/rotate-root when either access_key or secret_key is empty");
}

/// A static role has one key at a time, or two with a grace period, and never more than AWS allows.
#[test]
fn a_static_role_changes_its_key() {
    let stage = Stage::moto();
    stage.aws.user("batch", &[("all", ALLOW_ALL)]);
    let refused = stage.client.post("aws/static-roles/batch", json!({ "rotation_period": "1h" })).expect(400);
    assert_eq!(error(&refused), "missing \"username\" parameter");
    let refused = stage.client.post("aws/static-roles/batch", json!({ "username": "batch" })).expect(400);
    assert_eq!(error(&refused), "missing \"rotation_period\" parameter");
    let short = json!({ "username": "batch", "rotation_period": "10s" });
    let refused = stage.client.post("aws/static-roles/batch", short).expect(400);
    assert_eq!(error(&refused), "role rotation period out of range: must be greater than 60.00 seconds");
    let nobody = json!({ "username": "nobody", "rotation_period": "1h" });
    let refused = stage.client.post("aws/static-roles/nobody", nobody).expect(400);
    assert!(error(&refused).starts_with("unable to validate username \"nobody\": NoSuchEntity"), "{refused}");
    assert_eq!(stage.client.get("aws/static-roles/batch").status, 404);
    assert_eq!(stage.client.get("aws/static-creds/batch").status, 404);

    let role = json!({ "username": "batch", "rotation_period": "1h" });
    let written = stage.client.post("aws/static-roles/batch", role).data();
    assert_eq!((&written["username"], &written["rotation_period"]), (&json!("batch"), &json!(3600)));
    assert!(written["id"].as_str().unwrap().starts_with("AIDA") || !written["id"].as_str().unwrap().is_empty());
    let first = stage.client.get("aws/static-creds/batch").data();
    stage.aws.enforce(true);
    assert!(stage.aws.iam(&Key::of(&first), "ListUsers", &[]).ok(), "{first}");
    stage.aws.enforce(false);
    assert!(first["expiration"].is_string());
    assert_eq!(stage.client.list("aws/static-roles").data()["keys"], json!(["batch"]));

    for _ in 0..3 {
        stage.client.post("aws/rotate-role/batch", json!({})).expect(204);
        let now = stage.client.get("aws/static-creds/batch").data();
        stage.aws.enforce(true);
        assert!(stage.aws.iam(&Key::of(&now), "ListUsers", &[]).ok());
        stage.aws.enforce(false);
        let keys = stage.aws.admin("ListAccessKeys", &[("UserName", "batch")]).body;
        assert!(keys.matches("<AccessKeyId>").count() == 2, "{keys}");
    }
    let last = Key::of(&stage.client.get("aws/static-creds/batch").data());
    stage.client.delete("aws/static-roles/batch").expect(204);
    stage.aws.enforce(true);
    assert!(!stage.aws.iam(&last, "ListUsers", &[]).ok(), "the key that was made is gone");
    assert!(!stage.aws.iam(&Key::of(&first), "ListUsers", &[]).ok(), "the first one too");
    stage.aws.enforce(false);
    assert!(stage.aws.iam(&stage.aws.root(), "GetUser", &[("UserName", "batch")]).ok(), "the user is not");
    assert_eq!(stage.client.get("aws/static-creds/batch").status, 404);
}
