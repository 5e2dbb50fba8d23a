//! More denials than one policy has room for.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use super::identity::people;
use crate::support::aws::{ALLOW_ALL, Key};
use crate::support::wait_for;

/// Revokes all at once; how many were refused.
fn revoke(stage: &Stage, leases: &[(String, Key)]) -> usize {
    thread::scope(|scope| {
        let parts = leases.chunks(leases.len().div_ceil(10)).map(|part| {
            scope.spawn(move || part.iter().filter(|(lease, _)| stage.client.revoke(lease).status != 204).count())
        });
        parts.collect::<Vec<_>>().into_iter().map(|part| part.join().unwrap()).sum()
    })
}

/// What the inline policy has no room for goes into a managed one, which is looked after like the other.
#[test]
fn denials_spill_into_a_policy_that_is_attached() {
    let stage = Stage::ministack();
    let arn = stage.assumed("app", json!({ "revocation": "session", "revocation_attached_policies": 1 }));
    // Chosen names need long entries.
    let long = "x".repeat(60);
    let leases: Vec<(String, Key)> = (0..54)
        .map(|i| stage.mint(&format!("creds/app?role_session_name={long}{i:02}")))
        .map(|(lease, key, _)| (lease, key))
        .collect();
    let (_, survivor, _) = stage.mint("creds/app");
    assert_eq!(revoke(&stage, &leases), 0);
    for (_, key) in &leases {
        assert!(!stage.works(key));
    }
    assert!(stage.works(&survivor));
    let status = &stage.denials()[0];
    assert_eq!((&status["outstanding"], &status["without_room"]), (&json!(54), &json!(0)), "{status}");
    assert!(status["bytes"].as_u64().unwrap() <= 10_240, "{status}");
    let attached = &status["attached_policies"][0];
    assert!((500..=6144).contains(&attached["bytes"].as_u64().unwrap()), "{status}");
    let name = attached["name"].as_str().unwrap();
    let managed = format!("arn:aws:iam::000000000000:policy/{name}");
    let on_role = || stage.aws.admin("ListAttachedRolePolicies", &[("RoleName", "app")]).body;
    assert!(on_role().contains(&managed), "{}", on_role());
    // Somebody takes it off: it is put back.
    stage.aws.admin("DetachRolePolicy", &[("RoleName", "app"), ("PolicyArn", &managed)]);
    assert!(leases.iter().any(|(_, key)| stage.works(key)), "until it is mended");
    let synced = stage.client.post("aws/sync", json!({})).expect(200);
    assert_eq!(synced["data"]["denials"][0]["in_sync"], true, "{synced}");
    assert!(leases.iter().all(|(_, key)| !stage.works(key)));
    // More than there may be versions of a managed policy.
    for i in 0..7 {
        let (lease, key, _) = stage.mint(&format!("creds/app?role_session_name={}{i:02}", "y".repeat(60)));
        stage.client.revoke(&lease).expect(204);
        assert!(!stage.works(&key), "{i}");
    }
    // Whoever removes the role has ended its sessions.
    for policy in [&stage.policy_name(), "all"] {
        stage.aws.admin("DeleteRolePolicy", &[("RoleName", "app"), ("PolicyName", policy)]);
    }
    stage.aws.admin("DetachRolePolicy", &[("RoleName", "app"), ("PolicyArn", &managed)]);
    stage.aws.admin("DeleteRole", &[("RoleName", "app")]);
    stage.client.post("aws/sync", json!({})).expect(200);
    assert_eq!(stage.denials(), json!([]), "{arn}");
    let policies = stage.aws.admin("ListPolicies", &[("Scope", "Local")]).body;
    assert!(!policies.contains("bao-revoked"), "{policies}");
}

/// Without room, one identity's sessions are named together: his others end too, and nobody else's.
#[test]
fn denials_of_one_identity_become_one() {
    let stage = Stage::ministack();
    let (alice, bob) = people(&stage);
    stage.write(
        "fed",
        json!({ "credential_type": "federation_token", "policy_document": ALLOW_ALL,
                "principal_name": "{{identity.entity.name}}", "revocation": "session",
                "revocation_overflow": "identity" }),
    );
    let of = |person: &crate::support::client::Client| {
        let minted = person.get("aws/sts/fed").expect(200);
        (minted["lease_id"].as_str().unwrap().to_owned(), Key::of(&minted["data"]))
    };
    let leases: Vec<(String, Key)> = (0..130).map(|_| of(&alice)).collect();
    let ((of_bob, ended), (_, his), (_, hers)) = (of(&bob), of(&bob), of(&alice));
    // What is issued in the second of the denial is not told apart.
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(revoke(&stage, &leases), 0);
    stage.client.revoke(&of_bob).expect(204);
    for (_, key) in leases.iter().step_by(13) {
        assert!(!stage.works(key));
    }
    assert!(!stage.works(&ended) && stage.works(&his), "bob's are told apart");
    assert!(!stage.works(&hers), "alice's all end");
    let status = &stage.denials()[0];
    assert_eq!(status["without_room"], 0, "{status}");
    assert!(status["outstanding"].as_u64().unwrap() < 100 && status["bytes"].as_u64().unwrap() <= 2048, "{status}");
    assert!(stage.works(&stage.engine), "the engine's own key is not meant");
    thread::sleep(Duration::from_millis(2100));
    let (_, later) = of(&alice);
    assert!(stage.works(&later), "what is issued later lives");
}

/// The engine's own key changes by itself; what cannot be meant is refused.
#[test]
fn the_engines_own_key_changes_by_itself() {
    let stage = Stage::moto();
    for (body, part) in [
        (json!({ "rotation_period": 5 }), "rotation_period must be 10 seconds or more"),
        (json!({ "rotation_period": 60, "rotation_schedule": "0 * * * *" }), "mutually exclusive"),
        (json!({ "rotation_window": 3600 }), "rotation_window is invalid without rotation_schedule"),
        (json!({ "access_key": "", "secret_key": "", "rotation_period": 60 }), "need an access_key"),
    ] {
        let refused = stage.client.post("aws/config/root", body.clone()).expect(400);
        assert!(super::error(&refused).contains(part), "{body}: {refused}");
    }
    let old = stage.engine.id.clone();
    stage.configure(json!({ "rotation_period": "10s" }));
    let shown = stage.client.get("aws/config/root").data();
    assert_eq!(shown["rotation_period"], 10, "{shown}");
    let shown = wait_for("the key to change", Duration::from_secs(120), || {
        let shown = stage.client.get("aws/config/root").data();
        (shown["access_key"] != json!(old) && shown["last_vault_rotation"].is_string()).then_some(shown)
    });
    wait_for("the old key to go", Duration::from_secs(60), || {
        let keys = stage.aws.admin("ListAccessKeys", &[("UserName", "engine")]).body;
        (!keys.contains(&old)).then_some(())
    });
    stage.client.post("aws/config/root", json!({ "disable_automated_rotation": true })).expect(204);
    let stopped: Value = stage.client.get("aws/config/root").data();
    assert_eq!((&stopped["disable_automated_rotation"], &shown["rotation_period"]), (&json!(true), &json!(10)));
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL }));
    stage.mint("creds/app");
}
