//! Who a session is, as AWS sees it: names, tags and source identities made of the caller's identity.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{Stage, error};
use crate::support::aws::{ALLOW_ALL, Key};
use crate::support::client::Client;

/// The accessor of the auth method that people log in with.
fn accessor(client: &Client) -> String {
    client.get("sys/auth").data()["userpass/"]["accessor"].as_str().unwrap().to_owned()
}

/// Two people who log in with a password, in a team each.
pub fn people(stage: &Stage) -> (Client, Client) {
    let client = &stage.client;
    client.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
    let policy = "path \"aws/*\" { capabilities = [\"read\", \"update\"] }";
    client.post("sys/policies/acl/app", json!({ "policy": policy })).expect(204);
    let log_in = |name: &str, team: &str| {
        client
            .post(&format!("auth/userpass/users/{name}"), json!({ "password": "pw", "policies": ["app"] }))
            .expect(204);
        let entity = json!({ "name": format!("{name}-entity"), "metadata": { "team": team } });
        let id = client.post("identity/entity", entity).data()["id"].as_str().unwrap().to_owned();
        let alias = json!({ "name": name, "canonical_id": id, "mount_accessor": accessor(client) });
        client.post("identity/entity-alias", alias).expect(200);
        let login = client.post(&format!("auth/userpass/login/{name}"), json!({ "password": "pw" })).expect(200);
        client.with_token(login["auth"]["client_token"].as_str().unwrap())
    };
    (log_in("alice", "red"), log_in("bob", "blue"))
}

const TRUST_TAGGED: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},
    "Action":["sts:AssumeRole","sts:TagSession"],"Condition":{"StringLike":{"aws:RequestTag/team":"*"}}}]}"#;

/// A session carries its caller's name and tags, and may what the tags say.
#[test]
fn a_session_carries_who_asked() {
    let stage = Stage::ministack();
    let (alice, bob) = people(&stage);
    let arn = stage.aws.role("app", TRUST_TAGGED);
    // Only the red team may list buckets.
    let only_red = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*",
        "Condition":{"StringEquals":{"aws:PrincipalTag/team":"red"}}}]}"#;
    let parameters = [("RoleName", "app"), ("PolicyName", "all"), ("PolicyDocument", only_red)];
    stage.aws.admin("PutRolePolicy", &parameters);
    let role = json!({
        "credential_type": "assumed_role", "role_arns": arn, "transitive_tag_keys": "team", "revocation": "session",
        "principal_name": format!("{{{{identity.entity.aliases.{}.name}}}}", accessor(&stage.client)),
        "session_tags": { "team": "{{identity.entity.metadata.team}}", "engine": "{{role.name}}" },
    });
    stage.write("app", role);
    let minted = alice.get("aws/creds/app").expect(200);
    let session = minted["data"]["arn"].as_str().unwrap();
    assert!(session.contains(":assumed-role/app/alice-"), "{session}");
    assert!(stage.aws.s3(&Key::of(&minted["data"])).ok(), "red");
    let of_bob = Key::of(&bob.get("aws/creds/app").data());
    assert!(stage.aws.whoami(&of_bob).unwrap().contains("/bob-"));
    assert!(stage.aws.s3(&of_bob).is_denied(), "blue");

    // A caller chooses no name where the role says who it is, and one without an identity gets nothing.
    let refused = bob.get("aws/creds/app?role_session_name=alice").expect(400);
    assert!(error(&refused).contains("not the caller's to choose"), "{refused}");
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).contains("no entity"), "{refused}");
    stage.write("app", json!({ "session_tags": { "team": "{{identity.entity.metadata.cost}}" } }));
    let refused = alice.get("aws/creds/app").expect(400);
    assert!(
        error(&refused).contains("cannot fill session_tags: {{identity.entity.metadata.cost}} has no value"),
        "{refused}"
    );
    // Names that AWS would not take are not bent until it does.
    stage.write(
        "app",
        json!({ "principal_name": "{{identity.entity.id}}{{identity.entity.id}}", "session_tags": { "team": "x" } }),
    );
    let refused = alice.get("aws/creds/app").expect(400);
    assert!(error(&refused).contains("51 is the most"), "{refused}");
    for (field, value) in [
        ("principal_name", json!("{{identity.entity.password}}")),
        ("principal_name", json!("{{request.display_name}}")),
        ("session_tags", json!({ "aws:x": "1" })),
        ("session_tags", json!({ "a": "what*ever" })),
        ("source_identity", json!("{{")),
    ] {
        let refused = stage.client.post("aws/roles/app", json!({ field: value })).expect(400);
        assert!(error(&refused).contains(field), "{refused}");
    }
}

/// A user is named and tagged after who asked.
#[test]
fn a_user_carries_who_asked() {
    let stage = Stage::ministack();
    let (alice, _) = people(&stage);
    stage.write(
        "app",
        json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL,
                "principal_name": "{{identity.entity.name}}", "iam_tags": { "team": "{{identity.entity.metadata.team}}" } }),
    );
    let minted = alice.get("aws/creds/app").expect(200);
    let arn = stage.aws.whoami(&Key::of(&minted["data"])).unwrap();
    assert!(arn.contains(":user/alice-entity-"), "{arn}");
    let name = arn.rsplit('/').next().unwrap();
    let tags = stage.aws.admin("ListUserTags", &[("UserName", name)]).body;
    assert!(tags.contains("<Value>red</Value>"), "{tags}");
}

/// The decisions of MiniStack's evaluator about sessions with these keys.
fn judge(document: &Value, cases: &[Value]) -> Vec<String> {
    let root = crate::support::repository();
    let mut python = std::process::Command::new(root.join(".cache/ministack/bin/python"))
        .arg(root.join("tests/it/aws/evaluate.py"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(json!([document, cases]).to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The source identity is sent, and one call denies all sessions that it has by now, at each role that it was at.
#[test]
fn every_session_of_one_identity_ends_at_once() {
    let stage = Stage::ministack();
    let (alice, bob) = people(&stage);
    for name in ["one", "two"] {
        let arn = stage.aws.role(name, crate::support::aws::TRUST_ALL);
        stage.write(
            name,
            json!({ "credential_type": "assumed_role", "role_arns": arn, "source_identity": "{{identity.entity.name}}",
                    "revocation": "identity" }),
        );
        alice.get(&format!("aws/creds/{name}")).expect(200);
    }
    bob.get("aws/creds/one").expect(200);
    // What went over the wire, as the server recorded it.
    let recorded = stage.aws.recorded().replace('\\', "");
    assert!(recorded.contains(r#""SourceIdentity": "alice-entity""#), "{recorded}");

    let refused = stage.client.post("aws/revoke-identity", json!({ "source_identity": "carol" })).expect(400);
    assert!(error(&refused).contains("no role here has given a session"), "{refused}");
    let done = stage.client.post("aws/revoke-identity", json!({ "source_identity": "alice-entity" })).data();
    assert_eq!(done["denied_at"].as_array().unwrap().len(), 2, "{done}");
    let name = stage.client.get("aws/status").data()["policy_name"].as_str().unwrap().to_owned();
    for role in ["one", "two"] {
        let document = stage.aws.role_policy(role, &name).unwrap();
        let condition = &document["Statement"][0]["Condition"];
        assert_eq!(condition["StringEquals"]["aws:SourceIdentity"], "alice-entity", "{document}");
        assert!(condition["DateLessThanEquals"]["aws:TokenIssueTime"].is_string(), "{document}");
        assert_eq!(document["Statement"].as_array().map(Vec::len), Some(1));
    }
    // Which sessions it denies, by somebody else's judgement.
    let case = |identity: &str, issued: &str| json!({ "aws:SourceIdentity": identity, "aws:TokenIssueTime": issued });
    let decisions = judge(
        &stage.aws.role_policy("one", &name).unwrap(),
        &[
            case("alice-entity", "2026-01-01T00:00:00Z"),
            case("alice-entity", "2199-01-01T00:00:00Z"),
            case("bob-entity", "2026-01-01T00:00:00Z"),
            case("ALICE-ENTITY", "2026-01-01T00:00:00Z"),
            json!({ "aws:TokenIssueTime": "2026-01-01T00:00:00Z" }),
            json!({}),
        ],
    );
    assert_eq!(decisions, ["Deny", "Allow", "Allow", "Allow", "Allow", "Allow"]);
    // And it is what a lease of that kind comes to.
    let minted = bob.get("aws/creds/two").expect(200);
    stage.client.revoke(minted["lease_id"].as_str().unwrap()).expect(204);
    let document = stage.aws.role_policy("two", &name).unwrap();
    assert!(document.to_string().contains("bob-entity"), "{document}");
    let names: Vec<&Value> = document["Statement"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 2);
}

/// The engine's own credentials are a role, assumed with a token that something else keeps in a file.
#[test]
fn the_engine_itself_logs_in_with_a_web_identity() {
    let stage = Stage::ministack();
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":
        "arn:aws:iam::000000000000:oidc-provider/issuer.example"},"Action":"sts:AssumeRoleWithWebIdentity",
        "Condition":{"StringEquals":{"issuer.example:aud":"sts.amazonaws.com"}}}]}"#;
    let engine = stage.aws.role("engine", trust);
    stage.aws.admin(
        "CreateOpenIDConnectProvider",
        &[
            ("Url", "https://issuer.example"),
            ("ClientIDList.member.1", "sts.amazonaws.com"),
            ("ThumbprintList.member.1", &"a".repeat(40)),
        ],
    );
    let file = stage.bao.temporary().join("token");
    let token = |audience: &str| {
        use base64::Engine as _;
        let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
        let claims =
            json!({ "iss": "https://issuer.example", "aud": audience, "sub": "leasehold", "exp": 4_000_000_000u64 });
        format!("{}.{}.c2ln", part(json!({ "alg": "RS256", "typ": "JWT" })), part(claims))
    };
    let (file, write) = (file.display().to_string(), |audience: &str| std::fs::write(&file, token(audience)).unwrap());
    write("somebody-else");
    let config = json!({ "access_key": "", "secret_key": "", "role_arn": engine, "identity_token_file": file });
    stage.configure(config.clone());
    let arn = stage.aws.role("app", crate::support::aws::TRUST_ALL);
    stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn, "revocation": "off" }));
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).starts_with("Error assuming role: "), "{refused}");
    write("sts.amazonaws.com");
    stage.configure(config);
    let (_, key, _) = stage.mint("creds/app");
    assert!(stage.aws.s3(&key).ok());
    let checked = stage.client.get("aws/check/app").data();
    assert!(checked["identity"].as_str().unwrap().contains(":assumed-role/engine/"), "{checked}");
    stage.client.post("aws/config/root", json!({ "identity_token_file": "/nowhere/token" })).expect(204);
    let refused = stage.client.get("aws/creds/app").expect(400);
    assert!(error(&refused).contains("/nowhere/token"), "{refused}");
    stage
        .client
        .post(
            "aws/roles/fed",
            json!({ "credential_type": "federation_token", "policy_document": ALLOW_ALL, "revocation": "off" }),
        )
        .expect(204);
}
