//! Proofs that hold, and those that do not.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL, Engine as _};

use super::*;
use crate::engine::access::identity::Class;

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn settings() -> Settings {
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": URL.encode(key(1).public_key().as_ref()) });
    Settings {
        proof_keys: json!({ "keys": [jwk] }),
        proof_audience: vec!["leasehold".into()],
        proof_issuers: vec!["cluster".into()],
        ..Settings::default()
    }
}

fn token(seed: u8, change: &Value) -> String {
    let mut claims =
        json!({ "sub": "app", "iss": "cluster", "aud": "leasehold", "iat": 1000, "exp": 1600, "jti": "1" });
    claims.as_object_mut().unwrap().extend(change.as_object().cloned().unwrap());
    let header = json!({ "alg": "EdDSA", "kid": "k1", "typ": "JWT" });
    let body = format!("{}.{}", URL.encode(header.to_string()), URL.encode(claims.to_string()));
    format!("{body}.{}", URL.encode(key(seed).sign(body.as_bytes()).as_ref()))
}

fn ask(used: &Used, proof: Proof, token: Option<&str>, now: u64) -> Result<Option<Proven>, String> {
    let who = Who {
        entity_id: "e".into(),
        name: "e".into(),
        class: Class::Service,
        person: String::new(),
        aliases: vec!["app".into()],
        groups: std::collections::BTreeSet::new(),
        about: std::collections::BTreeMap::new(),
    };
    let policy = Policy { require_proof: proof, proof_max_age: 300, ..Policy::default() };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
    judge(&policy, &settings(), used, &who, token, now).map_err(|e| e.to_string())
}

#[test]
fn a_proof_is_signed_for_us_fresh_of_the_caller_and_used_once() {
    let used = Used::default();
    let good = token(1, &json!({}));
    assert_eq!(ask(&used, Proof::None, None, 1100), Ok(None));
    let proven = ask(&used, Proof::Workload, Some(&good), 1100).unwrap().unwrap();
    assert_eq!((proven.subject.as_str(), proven.age), ("app", 100));
    assert!(ask(&used, Proof::Workload, Some(&good), 1100).unwrap_err().contains("used before"));
    for (change, now, why) in [
        (json!({ "jti": "2", "sub": "other" }), 1100, "none of your aliases"),
        (json!({ "jti": "3" }), 1301, "proof_max_age"),
        (json!({ "jti": "4", "exp": 1050 }), 1100, "not of this time"),
        (json!({ "jti": "5", "iat": 1200 }), 1100, "not of this time"),
        (json!({ "jti": "6", "aud": "another" }), 1100, "InvalidAudience"),
        (json!({ "jti": "7", "iss": "another" }), 1100, "InvalidIssuer"),
        (json!({ "jti": "8", "iat": 0 }), 1100, "not of this time"),
    ] {
        let refusal = ask(&used, Proof::Workload, Some(&token(1, &change)), now).unwrap_err();
        assert!(refusal.contains(why), "{change}: {refusal}");
    }
    let forged = ask(&used, Proof::Workload, Some(&token(2, &json!({ "jti": "9" }))), 1100).unwrap_err();
    assert!(forged.contains("InvalidSignature"), "{forged}");
    assert!(ask(&used, Proof::Workload, None, 1100).unwrap_err().contains("needs an identity_proof"));
    let none = format!("{}.{}.", URL.encode(r#"{"alg":"none"}"#), URL.encode(r#"{"sub":"app"}"#));
    assert!(ask(&used, Proof::Workload, Some(&none), 1100).is_err());
}

#[test]
fn step_up_is_a_second_factor_a_moment_ago() {
    let used = Used::default();
    let stale = token(1, &json!({ "jti": "a", "auth_time": 500, "amr": ["mfa"] }));
    assert!(ask(&used, Proof::StepUp, Some(&stale), 1100).unwrap_err().contains("step-up required"));
    let weak = token(1, &json!({ "jti": "b", "auth_time": 1000 }));
    assert!(ask(&used, Proof::StepUp, Some(&weak), 1100).unwrap_err().contains("step-up required"));
    let strong = token(1, &json!({ "jti": "c", "auth_time": 1000, "amr": ["pwd", "mfa"] }));
    assert!(ask(&used, Proof::StepUp, Some(&strong), 1100).is_ok());
}
