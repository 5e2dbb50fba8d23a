//! The policies in docs/aws.md that say what the engine needs: enough for what they are for. And what a session may that is
//! narrowed by groups.

use serde_json::{Value, json};

use super::{Stage, error};
use crate::support::aws::{ALLOW_ALL, Key, TRUST_ALL};
use crate::support::aws_proxy::Proxy;
use crate::support::repository;

/// The block of docs/aws.md that begins with this word after `json`, for the emulator's account.
fn documented(what: &str) -> String {
    let text = std::fs::read_to_string(repository().join("docs/aws.md")).unwrap();
    let (_, rest) = text.split_once(&format!("```json {what}\n")).unwrap_or_else(|| panic!("no block {what}"));
    let (block, _) = rest.split_once("```").unwrap();
    let parsed: Value = serde_json::from_str(block).unwrap();
    parsed.to_string().replace("123456789012", "000000000000")
}

/// The engine as a user with what the documentation says, and nothing more.
fn least(stage: &Stage, user: &str, blocks: &[&str]) {
    let documents: Vec<String> = blocks.iter().map(|block| documented(block)).collect();
    let policies: Vec<(&str, &str)> = blocks.iter().copied().zip(documents.iter().map(String::as_str)).collect();
    let key = stage.aws.user(user, &policies);
    stage.configure(json!({ "access_key": key.id, "secret_key": key.secret }));
}

#[test]
fn every_block_of_the_documentation_is_a_policy() {
    let text = std::fs::read_to_string(repository().join("docs/aws.md")).unwrap();
    let blocks: Vec<&str> = text.split("```json ").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        let (name, json) = block.split_once('\n').unwrap();
        let policy: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(policy["Version"], "2012-10-17", "{name}");
        for statement in policy["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow", "{name}");
            assert!(statement["Action"].is_array() && !statement["Resource"].is_null(), "{name}");
        }
    }
}

/// Users: made, renewed and removed with the documented rights, and without one of them not.
#[test]
fn the_documented_rights_are_enough_for_users() {
    let stage = Stage::ministack();
    stage.aws.admin("CreateGroup", &[("GroupName", "vault-ops")]);
    let role = json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL, "iam_groups": "vault-ops",
                       "iam_tags": { "team": "red" } });
    stage.write("app", role);
    least(&stage, "engine-users", &["iam_user"]);
    let (lease, key, _) = stage.mint("creds/app");
    assert!(stage.aws.s3(&key).ok());
    stage.client.revoke(&lease).expect(204);
    assert!(stage.aws.whoami(&key).is_err());
    let without: Value = serde_json::from_str(&documented("iam_user")).unwrap();
    let without = without.to_string().replace("\"iam:CreateAccessKey\",", "");
    let key = stage.aws.user("engine-less", &[("less", &without)]);
    stage.configure(json!({ "access_key": key.id, "secret_key": key.secret }));
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).contains("AccessDenied"), "{refused}");
}

/// Sessions with tags and a source identity, and their revocation, also when it spills.
#[test]
fn the_documented_rights_are_enough_for_sessions() {
    let stage = Stage::ministack();
    let arn = stage.aws.role("app", TRUST_ALL);
    least(&stage, "engine-sessions", &["assumed_role"]);
    let written = stage.write("plain", json!({ "credential_type": "assumed_role", "role_arns": arn }));
    let text = written["warnings"][0].as_str().unwrap();
    assert!(text.contains("revocation=off") && text.contains("iam:PutRolePolicy"), "{text}");
    stage.mint("creds/plain");
    least(&stage, "engine-revoking", &["assumed_role", "revocation"]);
    let role = json!({ "credential_type": "assumed_role", "role_arns": arn, "revocation": "tag",
                       "session_tags": { "team": "red" } });
    assert_eq!(stage.write("app", role), Value::Null, "nothing to warn of");
    let (lease, key, _) = stage.mint("creds/app");
    let (_, sibling, _) = stage.mint("creds/app");
    assert!(stage.aws.s3(&key).ok());
    stage.client.revoke(&lease).expect(204);
    assert!(stage.aws.s3(&key).is_denied() && stage.aws.s3(&sibling).ok());
    let checked = stage.client.get("aws/check/app").data();
    assert_eq!(checked["ok"], true, "{checked}");
    // Spilling needs more, and says so.
    let written = stage.write("app", json!({ "revocation": "tag", "revocation_attached_policies": 1 }));
    let text = written["warnings"][0].as_str().unwrap_or_default();
    assert!(text.contains("iam:CreatePolicy") || text.contains("iam:AttachRolePolicy"), "{written}");
    // The server does not know which policy CreatePolicy makes, nor the key iam:PolicyARN: what is proven are the actions.
    let mut attached: Value = serde_json::from_str(&documented("attached")).unwrap();
    for statement in attached["Statement"].as_array_mut().unwrap() {
        let narrow = statement.as_object_mut().unwrap();
        if narrow.remove("Condition").is_none() {
            narrow.insert("Resource".to_owned(), json!("*"));
        }
    }
    let attached = attached.to_string();
    let (assume, revoke) = (documented("assumed_role"), documented("revocation"));
    let key = stage.aws.user("engine-spilling", &[("a", &assume), ("b", &revoke), ("c", &attached)]);
    stage.configure(json!({ "access_key": key.id, "secret_key": key.secret }));
    assert_eq!(stage.write("app", json!({ "revocation": "tag" })), Value::Null, "nothing to warn of");
}

/// Tokens of the engine's own user, its own key, and keys of other users.
#[test]
fn the_documented_rights_are_enough_for_tokens_and_keys() {
    let stage = Stage::ministack();
    least(&stage, "leasehold", &["federation_token"]);
    let document = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
    let role = json!({ "credential_type": "federation_token", "policy_document": document, "revocation": "session" });
    assert_eq!(stage.write("fed", role), Value::Null, "nothing to warn of");
    let (lease, key, _) = stage.mint("sts/fed");
    let (_, sibling, _) = stage.mint("sts/fed");
    assert!(stage.aws.s3(&key).ok());
    stage.client.revoke(&lease).expect(204);
    assert!(stage.aws.s3(&key).is_denied() && stage.aws.s3(&sibling).ok());
    stage.aws.user("batch-1", &[]);
    let keys = documented("keys");
    stage.aws.admin("PutUserPolicy", &[("UserName", "leasehold"), ("PolicyName", "keys"), ("PolicyDocument", &keys)]);
    stage.client.post("aws/static-roles/batch", json!({ "username": "batch-1", "rotation_period": "1h" })).expect(200);
    stage.client.post("aws/rotate-role/batch", json!({})).expect(204);
    stage.client.post("aws/config/rotate-root", json!({})).expect(200);
    stage.client.delete("aws/static-roles/batch").expect(204);
}

/// A session may what its groups' policies allow, attached ones and their own.
#[test]
fn a_session_is_narrowed_to_what_its_groups_may() {
    let stage = Stage::ministack();
    let arn = stage.aws.role("app", TRUST_ALL);
    let allow = |service: &str| {
        format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"{service}:*","Resource":"*"}}}}"#)
    };
    for (group, service) in [("buckets", "s3"), ("queues", "sqs")] {
        stage.aws.admin("CreateGroup", &[("GroupName", group)]);
        let document = allow(service);
        let policy = [("GroupName", group), ("PolicyName", "own"), ("PolicyDocument", document.as_str())];
        stage.aws.admin("PutGroupPolicy", &policy);
    }
    let of = |groups: &str| {
        stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn, "iam_groups": groups }));
        let (_, key, _) = stage.mint("creds/app");
        (stage.aws.s3(&key).ok(), stage.aws.sqs(&key, "ListQueues", &[]).ok())
    };
    assert_eq!(of("buckets"), (true, false));
    assert_eq!(of("queues"), (false, true));
    assert_eq!(of("buckets,queues"), (true, true));
    let managed = [("PolicyName", "sqs"), ("PolicyDocument", &allow("sqs"))];
    let made = stage.aws.admin("CreatePolicy", &managed);
    let policy = made.element("Arn").unwrap().to_owned();
    stage.aws.admin("CreateGroup", &[("GroupName", "managed")]);
    stage.aws.admin("AttachGroupPolicy", &[("GroupName", "managed"), ("PolicyArn", &policy)]);
    assert_eq!(of("managed"), (false, true));
    stage.write("app", json!({ "iam_groups": "none" }));
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).starts_with("unable to retrieve group policies: NoSuchEntity"), "{refused}");
}

/// What cannot be right is refused in words before AWS hears of it, and nothing of it is stored.
#[test]
fn bad_input_never_reaches_aws() {
    let stage = Stage::ministack();
    let proxy = Proxy::before(&stage.aws.url());
    let arn = stage.aws.role("app", TRUST_ALL);
    stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn, "revocation": "off" }));
    stage.write(
        "fed",
        json!({ "credential_type": "federation_token", "policy_document": ALLOW_ALL, "revocation": "off" }),
    );
    stage.write(
        "long",
        json!({ "credential_type": "assumed_role", "role_arns": arn, "revocation": "off",
                "principal_name": "x".repeat(60) }),
    );
    stage.configure(json!({ "iam_endpoint": proxy.url(), "sts_endpoint": proxy.url() }));
    let assumed = |more: Value| {
        let mut role = json!({ "credential_type": "assumed_role", "role_arns": arn });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role
    };
    let user = |more: Value| {
        let mut role = json!({ "credential_type": "iam_user" });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role
    };
    for (role, part) in [
        // Policy documents.
        (user(json!({ "policy_document": "{" })), "cannot parse policy document"),
        (user(json!({ "policy_document": "\"s3:*\"" })), "JSON object with a Statement"),
        (user(json!({ "policy_document": "{}" })), "JSON object with a Statement"),
        (assumed(json!({ "policy_document": "nonsense" })), "cannot parse policy document"),
        // ARNs.
        (assumed(json!({ "role_arns": "app" })), "is no ARN of a role"),
        (assumed(json!({ "role_arns": "arn:aws:iam::1:user/u" })), "is no ARN of a role"),
        (user(json!({ "policy_arns": "arn:aws:s3:::bucket" })), "is no ARN of a policy"),
        (user(json!({ "permissions_boundary_arn": "arn:aws:iam::1:role/r" })), "invalid permissions_boundary_arn"),
        (assumed(json!({ "revocation_role_arns": "x" })), "invalid revocation_role_arns"),
        // Tags.
        (user(json!({ "iam_tags": { "aws:x": "1" } })), "aws:"),
        (user(json!({ "iam_tags": { "a": "b*" } })), "does not take in tags"),
        (assumed(json!({ "session_tags": { "a": "1", "A": "2" } })), "twice"),
        (assumed(json!({ "session_tags": { "k".repeat(129): "1" } })), "longer than 128"),
        (assumed(json!({ "session_tags": { "a": "v".repeat(257) } })), "longer than 256"),
        (assumed(json!({ "transitive_tag_keys": "none" })), "none of the session_tags"),
        // Durations.
        (assumed(json!({ "max_sts_ttl": "13h" })), "43200 seconds"),
        (assumed(json!({ "default_sts_ttl": "2h", "max_sts_ttl": "1h" })), "less than or equal"),
        (user(json!({ "wait_until_usable": "2m" })), "60 seconds or less"),
        (assumed(json!({ "default_sts_ttl": "soon" })), "Field validation failed"),
        // What does not belong to the type.
        (user(json!({ "session_tags": { "a": "1" } })), "cannot supply session_tags"),
        (user(json!({ "source_identity": "x" })), "cannot supply source_identity"),
        (user(json!({ "revocation": "session" })), "always end with their lease"),
        (assumed(json!({ "user_path": "/x/" })), "user_path parameter only valid"),
        (assumed(json!({ "revocation": "sometimes" })), "revocation must be one of"),
        (assumed(json!({ "revocation_overflow": "spill" })), "revocation_overflow must be one of"),
        (assumed(json!({ "revocation_attached_policies": 21 })), "must be 0 to 20"),
        (assumed(json!({ "principal_name": "{{identity.entity}}" })), "principal_name"),
        (json!({ "credential_type": "magic" }), "unrecognized credential type"),
    ] {
        let refused = stage.client.post("aws/roles/bad", role.clone()).expect(400);
        assert!(error(&refused).contains(part), "{role}: {refused}");
        assert_eq!(stage.client.get("aws/roles/bad").status, 404, "{role}: nothing is stored");
    }
    let long = "n".repeat(65);
    for (path, part) in [
        ("creds/app?ttl=60", "shorter than the 900"),
        ("creds/app?ttl=never", "Field validation failed"),
        (&format!("creds/app?role_session_name={long}"), "64 is the most"),
        ("creds/app?role_session_name=x", "shorter than the 2"),
        ("creds/app?role_arn=arn:aws:iam::1:role/other", "not in allowed role arns"),
        ("creds/long", "51 is the most"),
        ("sts/fed?ttl=10", "shorter than the 900"),
        ("creds/none", "not found"),
    ] {
        let refused = stage.client.get(&format!("aws/{path}")).expect(400);
        assert!(error(&refused).contains(part), "{path}: {refused}");
    }
    for (body, part) in [
        (json!({ "region": "atlantis" }), "no AWS region"),
        (json!({ "sts_region": "eu-central" }), "no AWS region"),
        (json!({ "sts_fallback_endpoints": "x", "sts_fallback_regions": "mars-1" }), "no AWS region"),
        (json!({ "rotation_period": 1 }), "10 seconds or more"),
        (json!({ "rotation_schedule": "whenever" }), "could not parse rotation_schedule"),
    ] {
        let refused = stage.client.post("aws/config/root", body.clone()).expect(400);
        assert!(error(&refused).contains(part), "{body}: {refused}");
    }
    for (body, part) in [
        (json!({ "username": "u", "rotation_period": 5 }), "out of range"),
        (json!({ "username": "u", "rotation_period": 60, "grace_period": 60 }), "shorter than rotation_period"),
        (json!({ "username": "u", "rotation_period": 60, "assume_role_arn": "x" }), "invalid assume_role_arn"),
        (json!({ "username": "u", "rotation_period": 60, "external_id": "x" }), "without assume_role_arn"),
    ] {
        let refused = stage.client.post("aws/static-roles/bad", body.clone()).expect(400);
        assert!(error(&refused).contains(part), "{body}: {refused}");
        assert_eq!(stage.client.get("aws/static-roles/bad").status, 404, "{body}: nothing is stored");
    }
    assert_eq!(proxy.seen(), Vec::<String>::new(), "AWS was never asked");
}

/// A static role of another account: reached through a role there.
#[test]
fn a_key_in_another_account_is_changed_through_a_role_there() {
    let stage = Stage::ministack();
    let other = Key::new("111122223333", "test");
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole",
        "Condition":{"StringEquals":{"sts:ExternalId":"secret-handshake"}}}]}"#;
    let there = |action: &str, parameters: &[(&str, &str)]| {
        let answer = stage.aws.iam(&other, action, parameters);
        assert!(answer.ok(), "{action}: {}", answer.body);
        answer.body
    };
    there("CreateRole", &[("RoleName", "keeper"), ("AssumeRolePolicyDocument", trust)]);
    there("PutRolePolicy", &[("RoleName", "keeper"), ("PolicyName", "all"), ("PolicyDocument", ALLOW_ALL)]);
    there("CreateUser", &[("UserName", "batch")]);
    let role = json!({ "username": "batch", "rotation_period": "1h",
                       "assume_role_arn": "arn:aws:iam::111122223333:role/keeper", "assume_role_session_name": "leasehold-x" });
    let refused = stage.client.post("aws/static-roles/far", role.clone()).expect(400);
    assert!(error(&refused).starts_with("unable to validate username"), "without the external id: {refused}");
    let mut role = role;
    role["external_id"] = json!("secret-handshake");
    let written = stage.client.post("aws/static-roles/far", role.clone()).data();
    assert_eq!((&written["external_id"], &written["username"]), (&role["external_id"], &json!("batch")));
    let key = Key::of(&stage.client.get("aws/static-creds/far").data());
    assert!(stage.aws.whoami(&key).unwrap().contains("111122223333:user/batch"));
    stage.client.post("aws/rotate-role/far", json!({})).expect(204);
    assert!(there("ListAccessKeys", &[("UserName", "batch")]).contains(&key.id));
    stage.client.delete("aws/static-roles/far").expect(204);
    assert!(!there("ListAccessKeys", &[("UserName", "batch")]).contains("<AccessKeyId>"));
}

/// `check` names the one thing that is missing: a right in the trust, or a length that AWS will not give.
#[test]
fn a_check_names_what_is_missing() {
    let stage = Stage::ministack();
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;
    let arn = stage.aws.role("app", trust);
    let of = |name: &str| {
        let checked = stage.client.get(&format!("aws/check/{name}")).data();
        let wrong: Vec<String> = checked["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["ok"] == false)
            .map(|check| format!("{}: {}", check["action"], check["fix"]))
            .collect();
        assert_eq!(checked["ok"], wrong.is_empty(), "{checked}");
        wrong
    };
    stage.write("plain", json!({ "credential_type": "assumed_role", "role_arns": arn }));
    assert_eq!(of("plain"), Vec::<String>::new());
    stage.write(
        "tagged",
        json!({ "credential_type": "assumed_role", "role_arns": arn, "session_tags": { "team": "red" } }),
    );
    let wrong = of("tagged");
    assert!(wrong.len() == 1 && wrong[0].contains("sts:TagSession") && wrong[0].contains("trust policy"), "{wrong:?}");
    // An hour is what a role gives unless its own maximum says more.
    stage.write("long", json!({ "credential_type": "assumed_role", "role_arns": arn, "max_sts_ttl": "2h" }));
    let wrong = of("long");
    assert!(wrong.len() == 1 && wrong[0].contains("MaxSessionDuration is 3600"), "{wrong:?}");
    let longer = [("RoleName", "app"), ("MaxSessionDuration", "7200")];
    stage.aws.admin("UpdateRole", &longer);
    assert_eq!(of("long"), Vec::<String>::new());
    let nowhere = json!({ "credential_type": "assumed_role", "role_arns": stage.aws.role_arn("nowhere") });
    stage.write("nowhere", nowhere);
    let wrong = of("nowhere");
    assert!(wrong.iter().any(|text| text.contains("sts:AssumeRole")), "{wrong:?}");
}
