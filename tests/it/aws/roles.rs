//! What is written and read without AWS: the answers of the built-in engines, as their published sources give them.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{Stage, error, mounted};
use crate::support::aws::Key;

const WRAPPER: &str = "error(s) validating supplied role data: ";

/// Writes lay what is given over what is stored; the secret is never shown, and never lost.
#[test]
fn the_configuration_survives_partial_writes() {
    let (_bao, client) = mounted();
    assert_eq!(client.get("aws/config/root").status, 404);
    client
        .post(
            "aws/config/root",
            json!({ "access_key": "AKIAONE", "secret_key": "hush-hush", "region": "eu-central-1" }),
        )
        .expect(204);
    let shown = client.get("aws/config/root").data();
    assert!(!shown.to_string().contains("hush-hush"), "{shown}");
    assert_eq!(shown["max_retries"], -1);
    assert!(shown["username_template"].as_str().unwrap().contains("vault-"), "the default is shown");
    // As a client library writes it: what it does not set is null.
    client
        .post("aws/config/root", json!({ "iam_endpoint": "localhost", "max_retries": null, "region": null }))
        .expect(204);
    let shown = client.get("aws/config/root").data();
    assert_eq!((&shown["access_key"], &shown["region"]), (&json!("AKIAONE"), &json!("eu-central-1")));
    assert_eq!((&shown["iam_endpoint"], &shown["max_retries"]), (&json!("localhost"), &json!(-1)));
    for (body, part) in [
        (json!({ "access_key": "AKIATWO" }), "secret_key of the new one"),
        (json!({ "region": "narnia" }), "no AWS region"),
        (json!({ "sts_fallback_endpoints": "a,b", "sts_fallback_regions": "us-east-1" }), "must be the same length"),
        (json!({ "identity_token_audience": "x" }), "only one of 'access_key' or 'identity_token_audience'"),
        (json!({ "identity_token_file": "/x" }), "only one of 'access_key'"),
        (json!({ "max_retries": "many" }), "Field validation failed"),
    ] {
        let refused = client.post("aws/config/root", body.clone()).expect(400);
        assert!(error(&refused).contains(part), "{body}: {refused}");
    }
    let shown = client.get("aws/config/root").data();
    assert_eq!((&shown["access_key"], &shown["region"]), (&json!("AKIAONE"), &json!("eu-central-1")), "nothing stored");
    assert_eq!(client.delete("aws/config/root").status, 405);
}

#[test]
fn the_lease_configuration_is_that_of_the_built_in_engine() {
    let (_bao, client) = mounted();
    assert_eq!(client.get("aws/config/lease").status, 404);
    for (body, text) in [
        (json!({}), "'lease' is a required parameter"),
        (json!({ "lease": "1h" }), "'lease_max' is a required parameter"),
        (json!({ "lease": "abc", "lease_max": "1h" }), "Invalid lease: time: invalid duration \"abc\""),
        (json!({ "lease": "1h", "lease_max": "5" }), "Invalid lease_max: time: missing unit in duration \"5\""),
    ] {
        assert_eq!(error(&client.post("aws/config/lease", body).expect(400)), text);
    }
    client.post("aws/config/lease", json!({ "lease": "30m", "lease_max": "12h" })).expect(204);
    assert_eq!(client.get("aws/config/lease").data(), json!({ "lease": "30m0s", "lease_max": "12h0m0s" }));
}

/// Of roles: what a write takes, what it refuses, and in which words.
#[test]
fn roles_are_those_of_the_built_in_engine() {
    let (_bao, client) = mounted();
    assert_eq!(client.list("aws/roles").status, 404);
    assert_eq!(client.get("aws/roles/none").status, 404);
    assert_eq!(client.delete("aws/roles/none").status, 204);
    let user = json!({
        "credential_type": "iam_user", "policy_arns": ["arn:aws:iam::aws:policy/A", "arn:aws:iam::aws:policy/B"],
        "policy_document": "{ \"Statement\": [ ] }", "iam_groups": "one,two", "iam_tags": ["a=b=c"], "user_path": "/x/",
        "permissions_boundary_arn": "arn:aws:iam::aws:policy/PB",
    });
    client.post("aws/roles/us.er@x-y", user).expect(204);
    let shown = client.get("aws/roles/us.er@x-y").data();
    let want = json!({
        "credential_type": "iam_user", "policy_arns": ["arn:aws:iam::aws:policy/A", "arn:aws:iam::aws:policy/B"],
        "role_arns": null, "policy_document": "{\"Statement\":[]}", "iam_groups": ["one", "two"], "iam_tags": { "a": "b=c" },
        "default_sts_ttl": 0, "max_sts_ttl": 0, "user_path": "/x/",
        "permissions_boundary_arn": "arn:aws:iam::aws:policy/PB", "session_tags": null, "external_id": "",
        "mfa_serial_number": "",
    });
    for (key, value) in want.as_object().unwrap() {
        assert_eq!(&shown[key], value, "{key}");
    }
    // A write changes what it gives, and the whole is looked at.
    client.post("aws/roles/us.er@x-y", json!({ "user_path": "/y/" })).expect(204);
    assert_eq!(client.get("aws/roles/us.er@x-y").data()["policy_document"], "{\"Statement\":[]}");
    assert_eq!(client.list("aws/roles").data()["keys"], json!(["us.er@x-y"]));

    let wrapped = |text: &str| format!("{WRAPPER}{:?}", format!("1 error occurred:\n\t* {text}\n\n"));
    for (body, text) in [
        (json!({}), wrapped("did not supply credential_type")),
        (json!({ "credential_type": "magic" }), wrapped("unrecognized credential type: magic")),
        (
            json!({ "credential_type": "iam_user", "default_sts_ttl": "1h" }),
            wrapped(
                "default_sts_ttl parameter only valid for assumed_role, federation_token, and session_token credential types",
            ),
        ),
        (
            json!({ "credential_type": "assumed_role", "default_sts_ttl": 3600, "max_sts_ttl": 1800 }),
            wrapped("\"default_sts_ttl\" value must be less than or equal to \"max_sts_ttl\" value"),
        ),
        (
            json!({ "credential_type": "assumed_role", "user_path": "/x/" }),
            wrapped("user_path parameter only valid for iam_user credential type"),
        ),
        (
            json!({ "credential_type": "iam_user", "role_arns": "arn:aws:iam::1:role/r" }),
            wrapped("cannot supply role_arns when credential_type isn't assumed_role"),
        ),
        (
            json!({ "credential_type": "session_token", "policy_document": "{\"Statement\":[]}" }),
            wrapped("cannot supply a policy or role when using credential_type session_token"),
        ),
        (
            json!({ "credential_type": "federation_token", "external_id": "x" }),
            wrapped("cannot supply external_id when credential_type isn't assumed_role"),
        ),
        (
            json!({ "credential_type": "assumed_role", "permissions_boundary_arn": "arn:aws:iam::aws:policy/P" }),
            wrapped("cannot supply permissions_boundary_arn when credential_type isn't iam_user"),
        ),
        (
            json!({ "credential_type": "iam_user", "permissions_boundary_arn": "x" }),
            wrapped("invalid permissions_boundary_arn parameter: arn: invalid prefix"),
        ),
        (
            json!({ "credential_type": "iam_user", "policy_document": "{" }),
            "cannot parse policy document: \"{\"".into(),
        ),
        (json!({ "policy": "{" }), "unable to parse supplied data: \"{\"".into()),
        (json!({ "policy": "{}", "arn": "arn:x" }), "only one of policy or arn should be provided".into()),
        (
            json!({ "policy": "{}", "credential_type": "iam_user" }),
            "cannot supply deprecated role or policy parameters with an explicit credential_type".into(),
        ),
        (
            json!({ "arn": "arn:aws:iam::1:role/r", "role_arns": "arn:aws:iam::1:role/r" }),
            "cannot supply deprecated role or policy parameters with role_arns".into(),
        ),
    ] {
        let refused = client.post("aws/roles/bad", body.clone()).expect(400);
        assert_eq!(error(&refused), text, "{body}");
    }
    assert_eq!(client.get("aws/roles/bad").status, 404, "nothing was stored");

    let warned = client.post("aws/roles/old", json!({ "policy": "{\"Statement\":[]}" })).expect(200);
    assert!(warned["warnings"][0].as_str().unwrap().starts_with("Detected use of legacy role or policy parameter."));
    assert_eq!(client.get("aws/roles/old").data()["credential_type"], "iam_user,federation_token");
    assert_eq!(error(&client.get("aws/creds/none").expect(400)), "Role \"none\" not found",);
}

/// The mount describes itself.
#[test]
fn the_mount_is_in_the_hosts_openapi_document() {
    let (_bao, client) = mounted();
    let document = client.get("sys/internal/specs/openapi").expect(200);
    let paths = document["paths"].as_object().unwrap();
    for path in ["config/root", "config/rotate-root", "config/lease", "roles/{name}", "creds/{name}", "sts/{name}"] {
        let found = paths.iter().find(|(key, _)| key.ends_with(&format!("/{path}")));
        assert!(found.is_some(), "{path} is missing among {:?}", paths.keys().collect::<Vec<_>>());
    }
    let help = client.get("aws/config/root?help=1").expect(200);
    assert!(help["help"].as_str().unwrap().contains("secret_key (string)"));
    // What a plugin that is not configured says.
    client.post("aws/roles/app", json!({ "credential_type": "iam_user" })).expect(204);
    let refused: Value = client.post("aws/config/rotate-root", json!({})).expect(500);
    assert!(error(&refused).contains("no configuration found for config/root"), "{refused}");
}

/// A role whose sessions cannot be ended says so when it is written.
#[test]
fn how_sessions_end_is_announced_when_a_role_is_written() {
    let (_bao, client) = mounted();
    let role = json!({ "credential_type": "assumed_role", "role_arns": "arn:aws:iam::1:role/r" });
    let written = client.post("aws/roles/early", role).expect(200);
    assert!(written["warnings"][0].as_str().unwrap().contains("config/root is not written yet"), "{written}");
    assert_eq!(client.get("aws/roles/early").data()["revocation"], "off");

    let stage = Stage::ministack();
    let arn = stage.aws.role("app", crate::support::aws::TRUST_ALL);
    let written = stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn }));
    let text = written["warnings"][0].as_str().unwrap();
    assert!(text.contains("revocation=session") && text.contains("bao-revoked-"), "{text}");
    let policies = stage.aws.admin("ListRolePolicies", &[("RoleName", "app")]).body;
    assert!(!policies.contains("bao-revoked"), "nothing of the attempt is left: {policies}");
    // The same role without the right.
    let weak = stage.aws.user(
        "weak",
        &[("assume", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}"#)],
    );
    stage.configure(json!({ "access_key": weak.id, "secret_key": weak.secret }));
    let written = stage.write("weak", json!({ "credential_type": "assumed_role", "role_arns": arn }));
    let text = written["warnings"][0].as_str().unwrap();
    assert!(text.contains("revocation=off") && text.contains("iam:PutRolePolicy"), "{text}");
    let checked = stage.client.get("aws/check/weak").data();
    assert_eq!(checked["ok"], true, "{checked}");
    let written = stage.write("weak", json!({ "revocation": "session" }));
    assert!(written["warnings"][0].as_str().unwrap().contains("cannot be revoked yet"), "{written}");
    let checked = stage.client.get("aws/check/weak").data();
    assert!(checked["ok"] == false && checked.to_string().contains("iam:PutRolePolicy"), "{checked}");
}

/// A Python program that knows the built-in engine's paths, and nothing of us, gets credentials that work and end.
#[test]
fn a_python_client_gets_credentials() {
    let stage = Stage::ministack();
    let arn = stage.aws.role("app", crate::support::aws::TRUST_ALL);
    let given = json!({
        "url": stage.client.address(), "token": stage.client.token(), "endpoint": stage.aws.url(), "role": arn,
        "access_key": stage.engine.id, "secret_key": stage.engine.secret, "policy": crate::support::aws::ALLOW_ALL,
    });
    let root = crate::support::repository();
    let mut python = std::process::Command::new(root.join(".cache/hvac/bin/python"))
        .arg(root.join("tests/it/aws/hvac_client.py"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("run scripts/setup");
    python.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made.as_object().unwrap().len(), 4);
    for (name, made) in made.as_object().unwrap() {
        let key = Key::of(&made[1]);
        assert!(stage.aws.s3(&key).ok(), "{name}");
        stage.client.revoke(made[0].as_str().unwrap()).expect(204);
        assert!(!stage.aws.s3(&key).ok(), "{name} has ended");
    }
}
