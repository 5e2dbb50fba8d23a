//! Just-in-time access to AWS: a role that gives a credential only to who asked and was agreed to, and takes it back.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, error};
use crate::support::aws::{ALLOW_ALL, Key, TRUST_ALL};
use crate::support::client::Client;
use crate::support::wait_for;

/// Somebody who has logged in.
struct Person {
    client: Client,
    entity: String,
}

impl Person {
    fn file(&self, role: &str, params: Value) -> String {
        let body = json!({ "reason": "a bucket is stuck", "params": params });
        let filed = self.client.post(&format!("aws/requests/{role}"), body).expect(200);
        filed["data"]["request_id"].as_str().unwrap().to_owned()
    }

    fn act(&self, role: &str, id: &str, verb: &str) -> String {
        let done = self.client.post(&format!("aws/requests/{role}/{id}/{verb}"), json!({ "reason": "it is over" }));
        done.expect(200)["data"]["state"].as_str().unwrap().to_owned()
    }

    fn state(&self, role: &str, id: &str) -> String {
        self.client.get(&format!("aws/requests/{role}/{id}")).data()["state"].as_str().unwrap().to_owned()
    }

    /// A credential of a grant: its lease, key, and what was answered.
    fn read(&self, role: &str) -> (String, Key, Value) {
        let minted = self.client.get(&format!("aws/creds/{role}")).expect(200);
        let key = Key::of(&minted["data"]);
        (minted["lease_id"].as_str().unwrap().to_owned(), key, minted)
    }
}

/// Ann asks, Bob agrees.
fn site(stage: &Stage) -> (Person, Person) {
    let client = &stage.client;
    client.post("sys/auth/userpass", json!({ "type": "userpass" })).expect(204);
    let policy = "path \"aws/*\" { capabilities = [\"create\", \"read\", \"update\", \"list\"] }";
    client.post("sys/policies/acl/app", json!({ "policy": policy })).expect(204);
    let person = |name: &str| {
        let body = json!({ "password": "pw", "token_policies": ["app"] });
        client.post(&format!("auth/userpass/users/{name}"), body).expect(204);
        let login = client.post(&format!("auth/userpass/login/{name}"), json!({ "password": "pw" })).expect(200);
        let text = |key: &str| login["auth"][key].as_str().unwrap().to_owned();
        Person { client: client.with_token(&text("client_token")), entity: text("entity_id") }
    };
    let (ann, bob) = (person("ann"), person("bob"));
    let group = json!({ "name": "leads", "member_entity_ids": [bob.entity] });
    client.post("identity/group", group).expect(200);
    let written = client
        .post("aws/policies/p", json!({ "steps": [{ "groups": ["leads"] }], "grant_ttl": "10m", "max_active": 5 }));
    assert!(written.status < 300, "{}", written.body);
    (ann, bob)
}

/// A session of what was approved and of nothing else, until `complete` and not a moment longer.
#[test]
fn a_session_is_asked_for_agreed_to_narrowed_and_over() {
    let stage = Stage::ministack();
    let (ann, bob) = site(&stage);
    let arn = stage.aws.role("app", TRUST_ALL);
    let narrow = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"{{service}}:*","Resource":"*"}]}"#;
    let role = json!({
        "credential_type": "assumed_role", "role_arns": arn, "policy_document": narrow, "jit_policy": "p",
        "params_allowed": { "service": "s3|sqs" }, "session_tags": { "for": "{{service}}" },
    });
    stage.write("app", role);
    let shown = stage.client.get("aws/roles/app").data();
    assert_eq!((&shown["jit_policy"], &shown["revocation"]), (&json!("p"), &json!("session")));

    let refused = ann.client.get("aws/creds/app").expect(403);
    assert!(error(&refused).contains("jit_approval_required"), "{refused}");
    let id = ann.file("app", json!({ "service": "s3" }));
    let refused = ann.client.get("aws/sts/app").expect(403);
    assert!(error(&refused).contains(&format!("jit_pending: {id}")), "{refused}");
    assert_eq!(bob.act("app", &id, "approve"), "approved");
    let refused = ann.client.get("aws/creds/app?role_session_name=bob").expect(400);
    assert!(error(&refused).contains("not the caller's to choose"), "{refused}");
    let refused = ann.client.get("aws/creds/app?params=service=sqs").expect(403);
    assert!(error(&refused).contains("jit_approval_required"), "another parameter is another request: {refused}");

    let (lease, key, minted) = ann.read("app");
    assert_eq!((&minted["data"]["request_id"], &minted["renewable"]), (&json!(id), &json!(false)));
    assert!(minted["lease_duration"].as_u64().unwrap() <= 600, "{minted}");
    assert!(minted["data"]["jit_checkpoint"].is_string(), "{minted}");
    let session = minted["data"]["arn"].as_str().unwrap();
    assert!(session.contains(&id[id.len() - 8..]), "{session}");
    assert!(stage.aws.s3(&key).ok());
    assert_eq!(stage.aws.sqs(&key, "ListQueues", &[]).status, 403, "narrowed");
    assert_eq!(ann.client.get("aws/creds/app").status, 403, "one use is one credential");

    // A second grant, which goes on.
    let other = ann.file("app", json!({ "service": "sqs" }));
    assert_eq!(bob.act("app", &other, "approve"), "approved");
    let (second, sibling, _) = ann.read("app");
    assert!(stage.aws.sqs(&sibling, "ListQueues", &[]).ok());
    assert_eq!(ann.act("app", &id, "complete"), "closed");
    assert!(stage.aws.s3(&key).is_denied());
    assert!(stage.aws.sqs(&sibling, "ListQueues", &[]).ok(), "the other grant's session works on");
    stage.client.lookup(&lease).expect(200);
    stage.client.revoke(&lease).expect(204);
    // The lease ends first, and the grant with it.
    stage.client.revoke(&second).expect(204);
    assert_eq!(stage.aws.sqs(&sibling, "ListQueues", &[]).status, 403);
    assert_eq!(ann.state("app", &other), "closed");

    let chain = stage.client.get(&format!("aws/evidence/chain/{id}")).data();
    let kinds: Vec<&str> = chain["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    for kind in ["request.filed", "issue.intent", "issue.done", "end.requested", "revoke.contained"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let verified = stage.client.post("aws/evidence/verify", json!({})).expect(200);
    assert_eq!(verified["data"]["valid"], true, "{verified}");
}

/// A grant that is over takes its session along, long before AWS would have.
#[test]
fn a_grant_that_is_over_ends_its_session() {
    let stage = Stage::ministack();
    let (ann, bob) = site(&stage);
    let written = stage.client.post("aws/policies/p", json!({ "grant_ttl": "20s" }));
    assert!(written.status < 300, "{}", written.body);
    let arn = stage.aws.role("app", TRUST_ALL);
    stage.write(
        "app",
        json!({ "credential_type": "assumed_role", "role_arns": arn, "jit_policy": "p", "revocation": "tag" }),
    );
    let id = ann.file("app", json!({}));
    bob.act("app", &id, "approve");
    let (_, key, minted) = ann.read("app");
    assert!(minted["lease_duration"].as_u64().unwrap() <= 20, "{minted}");
    assert!(stage.aws.s3(&key).ok());
    wait_for("the grant to take its session along", Duration::from_secs(120), || {
        stage.aws.s3(&key).is_denied().then_some(())
    });
    wait_for("the request to be closed", Duration::from_secs(60), || (ann.state("app", &id) == "closed").then_some(()));
    assert!(stage.aws.whoami(&key).is_ok(), "AWS itself has not ended it");
}

/// A user of a gated role: made for the grant, and removed with it.
#[test]
fn a_user_comes_and_goes_with_its_grant() {
    let stage = Stage::ministack();
    let (ann, bob) = site(&stage);
    stage.write("app", json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL, "jit_policy": "p" }));
    let id = ann.file("app", json!({}));
    bob.act("app", &id, "approve");
    let (lease, key, minted) = ann.read("app");
    assert!(minted["lease_duration"].as_u64().unwrap() <= 600, "{minted}");
    let name = stage.aws.whoami(&key).unwrap();
    assert!(name.contains(&id[id.len() - 8..]), "{name}");
    let renewed = ann.client.post("sys/leases/renew", json!({ "lease_id": lease, "increment": 86400 }));
    assert!(renewed.body["lease_duration"].as_u64().unwrap_or_default() <= 600, "{}", renewed.body);
    assert_eq!(bob.act("app", &id, "revoke"), "closed");
    assert!(stage.aws.whoami(&key).is_err(), "the user is gone");
    stage.client.revoke(&lease).expect(204);
    let users = stage.aws.admin("ListUsers", &[]).body;
    assert!(!users.contains("vault-"), "{users}");
}

/// A role that could not hold what its gate promises is none.
#[test]
fn a_gated_role_must_be_one_that_can_be_ended() {
    let stage = Stage::ministack();
    let (ann, _) = site(&stage);
    let arn = stage.aws.role("app", TRUST_ALL);
    for (role, part) in [
        (
            json!({ "credential_type": "assumed_role", "role_arns": arn, "revocation": "off" }),
            "would outlive its grant",
        ),
        (json!({ "credential_type": "session_token" }), "cannot be told apart"),
        (
            json!({ "credential_type": "assumed_role", "role_arns": [arn, stage.aws.role_arn("b")] }),
            "one of the role_arns",
        ),
        (
            json!({ "credential_type": "iam_user", "params_allowed": { "bucket": "[a-z]+" } }),
            "{{bucket}} is nowhere in policy_document",
        ),
    ] {
        let mut role = role;
        role["jit_policy"] = json!("p");
        let refused = stage.client.post("aws/roles/bad", role.clone()).expect(400);
        assert!(error(&refused).contains(part), "{role}: {refused}");
        assert_eq!(stage.client.get("aws/roles/bad").status, 404, "nothing was stored");
    }
    // And cannot become one.
    stage.write("app", json!({ "credential_type": "assumed_role", "role_arns": arn, "jit_policy": "p" }));
    let refused = stage.client.post("aws/roles/app", json!({ "revocation": "off" })).expect(400);
    assert!(error(&refused).contains("would outlive its grant"), "{refused}");
    let refused = ann.client.get("aws/creds/app").expect(403);
    assert!(error(&refused).contains("jit_approval_required"), "{refused}");
}
