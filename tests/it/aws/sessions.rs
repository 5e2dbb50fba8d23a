//! STS sessions: what they may, whose they are, and how one ends while its siblings live on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Stage, error};
use crate::support::aws::{Key, TRUST_ALL};
use crate::support::wait_for;

impl Stage {
    /// A role of ours for a role at AWS that may do everything.
    pub fn assumed(&self, name: &str, more: Value) -> String {
        let arn = self.aws.role(name, TRUST_ALL);
        let mut role = json!({ "credential_type": "assumed_role", "role_arns": arn });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write(name, role);
        arn
    }

    pub fn works(&self, key: &Key) -> bool {
        let (s3, sqs) = (self.aws.s3(key), self.aws.sqs(key, "ListQueues", &[]));
        assert_eq!(s3.ok(), sqs.ok(), "{} {}", s3.body, sqs.body);
        assert!(s3.ok() || (s3.is_denied() && sqs.status == 403), "{} {}", s3.body, sqs.body);
        s3.ok()
    }

    /// True once neither service lets the session in. Between the two questions it may end.
    fn is_over(&self, key: &Key) -> bool {
        self.aws.s3(key).is_denied() && self.aws.sqs(key, "ListQueues", &[]).status == 403
    }

    /// Revokes; false if there was no room.
    fn revoke(&self, lease: &str, key: &Key) -> bool {
        let answer = self.client.revoke(lease);
        if answer.status == 204 {
            assert!(!self.works(key));
            return true;
        }
        assert!(answer.body.to_string().contains("revocation_overflow=collective"), "{}", answer.body);
        false
    }

    pub fn denials(&self) -> Value {
        self.client.get("aws/status").data()["denials"].clone()
    }

    pub fn policy_name(&self) -> String {
        self.client.get("aws/status").data()["policy_name"].as_str().unwrap().to_owned()
    }
}

/// The core promise: one session ends at revoke; its sibling and a new one work on.
#[test]
fn a_revoked_session_is_denied_and_its_siblings_are_not() {
    let stage = Stage::ministack();
    let arn = stage.assumed("app", json!({}));
    let (lease, one, minted) = stage.mint("creds/app");
    let (_, two, _) = stage.mint("sts/app");
    assert_eq!(
        (&minted["renewable"], &minted["data"]["security_token"]),
        (&json!(false), &minted["data"]["session_token"])
    );
    assert!(minted["data"]["arn"].as_str().unwrap().contains(":assumed-role/app/vault-token-app-"), "{minted}");
    let ttl = minted["data"]["ttl"].as_u64().unwrap();
    assert!((3590..=3600).contains(&ttl), "{ttl}");
    assert!(stage.works(&one) && stage.works(&two));
    assert_eq!(stage.denials(), json!([]));

    stage.client.revoke(&lease).expect(204);
    assert!(!stage.works(&one), "revoked");
    assert!(stage.works(&two), "the sibling lives");
    let (_, three, _) = stage.mint("creds/app");
    assert!(stage.works(&three), "a new one lives");
    assert!(stage.aws.whoami(&one).is_ok(), "GetCallerIdentity cannot be denied");

    let status = &stage.denials()[0];
    assert_eq!((&status["arn"], &status["outstanding"], &status["in_sync"]), (&json!(arn), &json!(1), &json!(true)));
    assert_eq!((&status["bytes_limit"], &status["last_error"]), (&json!(10240), &Value::Null));
    let bytes = status["bytes"].as_u64().unwrap();
    assert!((100..300).contains(&bytes), "{bytes}");
    // Somebody else removes the policy: it is written anew.
    let name = stage.policy_name();
    stage.aws.admin("DeleteRolePolicy", &[("RoleName", "app"), ("PolicyName", &name)]);
    assert!(stage.works(&one), "until it is mended");
    stage.client.post("aws/sync", json!({})).expect(200);
    assert!(!stage.works(&one) && stage.works(&two));
    // A role that is gone has no sessions to deny.
    let (lease, _, _) = stage.mint("creds/app");
    for policy in ["all", &name] {
        stage.aws.admin("DeleteRolePolicy", &[("RoleName", "app"), ("PolicyName", policy)]);
    }
    stage.aws.admin("DeleteRole", &[("RoleName", "app")]);
    stage.client.revoke(&lease).expect(204);
    assert_eq!(stage.denials(), json!([]));
}

/// The token that read a credential is revoked, and with it the session; and a lease shorter than any that STS gives ends
/// the session when it ends.
#[test]
fn a_session_ends_with_its_token_and_with_a_lease_shorter_than_sts_allows() {
    let stage = Stage::ministack();
    stage.assumed("app", json!({}));
    stage
        .client
        .post("sys/policies/acl/app", json!({ "policy": "path \"aws/*\" { capabilities = [\"read\"] }" }))
        .expect(204);
    let token = stage.client.post("auth/token/create", json!({ "policies": ["app"], "ttl": "1h" })).expect(200);
    let token = token["auth"]["client_token"].as_str().unwrap().to_owned();
    let of_token = stage.client.with_token(&token);
    let cascaded = Key::of(&of_token.get("aws/creds/app").data());
    let (_, short, minted) = stage.mint("creds/app?ttl=3s");
    assert!(minted["lease_duration"].as_u64().unwrap() <= 3, "{minted}");
    assert!(stage.works(&cascaded) && stage.works(&short));
    stage.client.post("auth/token/revoke", json!({ "token": token })).expect(204);
    wait_for("the token's session to end", Duration::from_secs(60), || stage.is_over(&cascaded).then_some(()));
    wait_for("the short lease to end", Duration::from_secs(60), || stage.is_over(&short).then_some(()));
    assert!(stage.aws.whoami(&short).is_ok(), "AWS itself has not ended it");
    let refused = {
        stage.write(
            "plain",
            json!({ "credential_type": "assumed_role", "role_arns": stage.aws.role_arn("app"), "revocation": "off" }),
        );
        stage.client.get("aws/creds/plain?ttl=60").expect(400)
    };
    assert!(error(&refused).contains("shorter than the 900"), "{refused}");
}

/// Each way to name a session ends what it says, and nothing else.
#[test]
fn each_way_of_revoking_ends_what_it_names() {
    let stage = Stage::ministack();
    stage.assumed("tagged", json!({ "revocation": "tag" }));
    stage.assumed("older", json!({ "revocation": "older" }));
    for name in ["tagged", "older"] {
        // Names that are used again: a tag still tells the sessions apart.
        let path = format!("creds/{name}?role_session_name=deploy");
        let (lease, one, _) = stage.mint(&path);
        let (_, two, _) = stage.mint(&path);
        std::thread::sleep(Duration::from_millis(1100));
        stage.client.revoke(&lease).expect(204);
        assert!(!stage.works(&one), "{name}");
        assert_eq!(stage.works(&two), name == "tagged", "{name}");
        std::thread::sleep(Duration::from_millis(2100));
        let (_, three, _) = stage.mint(&path);
        assert!(stage.works(&three), "{name}: what is issued later lives");
    }
    // A chosen name without a tag: those of the name that are older end too, those that come later do not.
    stage.assumed("named", json!({ "revocation": "session" }));
    let (lease, one, _) = stage.mint("creds/named?role_session_name=deploy");
    let (_, other, _) = stage.mint("creds/named?role_session_name=other");
    stage.client.revoke(&lease).expect(204);
    std::thread::sleep(Duration::from_millis(2100));
    let (_, later, _) = stage.mint("creds/named?role_session_name=deploy");
    assert!(!stage.works(&one) && stage.works(&other) && stage.works(&later));
    // Off: the built-in engine's way.
    stage.assumed("off", json!({ "revocation": "off" }));
    let (lease, one, _) = stage.mint("creds/off");
    stage.client.revoke(&lease).expect(204);
    assert!(stage.works(&one));
}

/// Federation tokens and session tokens are denied at the engine's own user, whose key goes on working.
#[test]
fn tokens_of_the_engines_own_user_are_revoked_and_its_key_works_on() {
    let stage = Stage::ministack();
    let everything = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    stage.write("fed", json!({ "credential_type": "federation_token", "policy_document": everything }));
    assert_eq!(stage.client.get("aws/roles/fed").data()["revocation"], "session");
    let (lease, one, minted) = stage.mint("sts/fed");
    let (_, two, _) = stage.mint("sts/fed");
    assert!(minted["data"].get("arn").is_none());
    assert!(stage.works(&one) && stage.works(&two));
    stage.client.revoke(&lease).expect(204);
    assert!(!stage.works(&one) && stage.works(&two));
    assert!(stage.works(&stage.engine), "the engine's own key is not meant");

    stage.write("session", json!({ "credential_type": "session_token" }));
    let (lease, one, _) = stage.mint("creds/session");
    std::thread::sleep(Duration::from_millis(2100));
    let (_, two, _) = stage.mint("creds/session");
    assert!(stage.works(&one) && stage.works(&two));
    stage.client.revoke(&lease).expect(204);
    assert!(!stage.works(&one) && stage.works(&two) && stage.works(&stage.engine));
    let refused = stage.client.get("aws/creds/none").expect(400);
    assert_eq!(error(&refused), "Role \"none\" not found");
    stage.write("nothing", json!({ "credential_type": "federation_token" }));
    let refused = stage.client.get("aws/sts/nothing").expect(400);
    assert!(error(&refused).starts_with("must specify at least one of policy_arns or policy_document"), "{refused}");
}

/// Many revocations at once share few writes.
#[test]
fn many_revocations_share_few_writes() {
    let stage = Stage::ministack();
    stage.assumed("app", json!({}));
    let minted: Vec<Key> = (0..200).map(|_| stage.mint("creds/app").1).collect();
    // The same role at AWS under another name of ours.
    stage.write("other", json!({ "credential_type": "assumed_role", "role_arns": stage.aws.role_arn("app") }));
    let (_, survivor, _) = stage.mint("creds/other");
    let (single, key, _) = stage.mint("creds/other");
    let begun = Instant::now();
    stage.client.revoke(&single).expect(204);
    assert!(!stage.works(&key));
    let one = begun.elapsed();
    let begun = Instant::now();
    stage.client.post("sys/leases/revoke-prefix/aws/creds/app", json!({ "sync": false })).expect(202);
    wait_for("all to be denied", Duration::from_secs(120), || {
        (stage.denials()[0]["outstanding"] == 201 && stage.denials()[0]["in_sync"] == true).then_some(())
    });
    let all = begun.elapsed();
    for key in minted.iter().step_by(20) {
        assert!(!stage.works(key));
    }
    assert!(stage.works(&survivor));
    let log = stage.bao.log();
    let writes = log.matches("the denials are written").count();
    eprintln!("from revoke to denial: one {one:?}, 200 together {all:?} with {writes} writes in all");
    assert!(writes <= 20, "{writes} writes for 201 revocations");
}

/// When no more fit, either revocations wait or all sessions until then end; siblings are told apart as long as they can be.
#[test]
fn denials_that_do_not_fit_wait_or_become_one() {
    let stage = Stage::ministack();
    let long = "x".repeat(60);
    for (name, overflow) in [("strict", "fail"), ("coarse", "collective")] {
        stage.assumed(name, json!({ "revocation": "session", "revocation_overflow": overflow }));
        // Chosen names need long entries.
        let leases: Vec<(String, Key)> = (0..60)
            .map(|i| stage.mint(&format!("creds/{name}?role_session_name={long}{i:02}")))
            .map(|(lease, key, _)| (lease, key))
            .collect();
        let (_, survivor, _) = stage.mint(&format!("creds/{name}"));
        let refused: u64 = std::thread::scope(|scope| {
            let parts = leases.chunks(6).map(|part| {
                let stage = &stage;
                scope.spawn(move || part.iter().map(|(lease, key)| u64::from(!stage.revoke(lease, key))).sum::<u64>())
            });
            parts.collect::<Vec<_>>().into_iter().map(|part| part.join().unwrap()).sum()
        });
        let status = stage.denials();
        let status = status.as_array().unwrap().iter().find(|at| at["arn"] == stage.aws.role_arn(name)).unwrap();
        assert!(status["bytes"].as_u64().unwrap() <= 10_240, "{status}");
        if overflow == "fail" {
            assert!(refused > 0 && status["without_room"].as_u64().unwrap() > 0, "{status}");
            assert!(stage.works(&survivor));
        } else {
            assert_eq!((refused, &status["without_room"]), (0, &json!(0)), "{status}");
            assert!(!stage.works(&survivor), "collective");
            std::thread::sleep(Duration::from_millis(2100));
            let (_, later, _) = stage.mint(&format!("creds/{name}"));
            assert!(stage.works(&later));
        }
    }
}

/// A role in another account is written to by a role of that account.
#[test]
fn a_session_in_another_account_is_revoked_through_a_role_there() {
    let stage = Stage::ministack();
    let other = Key::new("111122223333", "test");
    let arn = |name: &str| format!("arn:aws:iam::111122223333:role/{name}");
    for name in ["far", "denier"] {
        let made = stage.aws.iam(&other, "CreateRole", &[("RoleName", name), ("AssumeRolePolicyDocument", TRUST_ALL)]);
        assert!(made.ok(), "{}", made.body);
        let all = crate::support::aws::ALLOW_ALL;
        let parameters = [("RoleName", name), ("PolicyName", "all"), ("PolicyDocument", all)];
        assert!(stage.aws.iam(&other, "PutRolePolicy", &parameters).ok());
    }
    let role = json!({ "credential_type": "assumed_role", "role_arns": arn("far") });
    let written = stage.write("far", role);
    let text = written["warnings"][0].as_str().unwrap();
    assert!(text.contains("revocation=off") && text.contains("revocation_role_arns"), "{text}");
    let written = stage.write("far", json!({ "revocation": "session", "revocation_role_arns": arn("denier") }));
    assert_eq!(written, Value::Null, "nothing to warn of");
    let (lease, one, _) = stage.mint("creds/far");
    let (_, two, _) = stage.mint("creds/far");
    assert!(stage.works(&one) && stage.works(&two));
    stage.client.revoke(&lease).expect(204);
    assert!(!stage.works(&one) && stage.works(&two));
}
