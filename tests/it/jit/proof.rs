//! A token alone is not enough where the workload itself has to show who it is.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL, Engine as _};
use serde_json::{Value, json};

use super::site::Site;

fn token(key: &Ed25519KeyPair, claims: &Value) -> String {
    let header = json!({ "alg": "EdDSA", "kid": "cluster-1", "typ": "JWT" });
    let body = format!("{}.{}", URL.encode(header.to_string()), URL.encode(claims.to_string()));
    format!("{body}.{}", URL.encode(key.sign(body.as_bytes()).as_ref()))
}

/// R2: no proof, another's, an old one, a forged one, and one that was used: none of them mints.
#[test]
fn a_stolen_token_alone_mints_nothing() {
    let site = Site::start(json!({
        "steps": [], "approval": "auto", "eligible_classes": "service", "require_reason": 0, "max_active": 0,
        "require_proof": "workload",
    }));
    let (key, other) = (
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap(),
        Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap(),
    );
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "cluster-1", "x": URL.encode(key.public_key().as_ref()) });
    let settings =
        json!({ "proof_keys": { "keys": [jwk] }, "proof_audience": "leasehold", "proof_issuers": "cluster" });
    site.root.post("db/config/jit", settings).expect(204);
    // The name of a workload's alias is its role id.
    let (robot, role_id, _) = site.workload("robot", &["requester"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = |id: &str, subject: &str, issued: u64| json!({ "sub": subject, "iss": "cluster", "aud": ["leasehold"], "iat": issued, "exp": now + 600, "jti": id });
    let read = |proof: &str| robot.client.get(&format!("db/creds/secret?identity_proof={proof}"));
    let refused = |proof: &str, why: &str| {
        let answer = read(proof);
        assert!(answer.status == 403 && answer.body.to_string().contains(why), "{why}: {}", answer.body);
    };
    refused("", "needs an identity_proof");
    refused(&token(&key, &claims("1", "somebody-else", now)), "none of your aliases");
    refused(&token(&key, &claims("2", &role_id, now - 400)), "proof_max_age");
    refused(&token(&other, &claims("3", &role_id, now)), "InvalidSignature");
    assert_eq!(site.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"), "0");
    let proof = token(&key, &claims("4", &role_id, now));
    let minted = read(&proof).data();
    assert!(
        site.postgres
            .login(minted["username"].as_str().unwrap(), minted["password"].as_str().unwrap(), "SELECT 1")
            .is_ok()
    );
    refused(&proof, "used before");
    let chain = site.root.get(&format!("db/evidence/chain/{}", minted["request_id"].as_str().unwrap())).data();
    let intent = chain["events"].as_array().unwrap().iter().find(|event| event["kind"] == "issue.intent").unwrap();
    assert_eq!(intent["proof"]["subject"], json!(role_id));
}
