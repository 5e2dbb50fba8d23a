//! What access is asked for and granted by: proofs, policies, the record of evidence.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL, Engine as _};
use leasehold::engine::access::config::Settings;
use leasehold::engine::access::identity::{Class, Who};
use leasehold::engine::access::policy::hours::Hours;
use leasehold::engine::access::policy::{Policy, Proof};
use leasehold::engine::access::{coverage, proof};
use leasehold::engine::evidence::event::{GENESIS, hex, unhex};
use leasehold::engine::evidence::{event, export, verify};
use leasehold::secret::signer::Signer;
use serde_json::{Value, json};

const NOW: u64 = 1_795_313_477;

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::read(&Signer::draw().unwrap()).unwrap())
}

/// A token as it is; or a header and claims, which are signed with a key that the mount knows; or a set of keys.
pub fn proofs(text: &str) {
    let (kind, rest) = text.split_once('\n').unwrap_or(("", text));
    let public = BASE64_STANDARD.decode(signer().public()).unwrap();
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": URL.encode(public) });
    let mut settings = Settings {
        proof_keys: json!({ "keys": [jwk] }),
        proof_audience: vec!["leasehold".into()],
        proof_issuers: vec!["cluster".into()],
        ..Settings::default()
    };
    let signed = |header: &str, claims: &str| {
        let body = format!("{}.{}", URL.encode(header), URL.encode(claims));
        let signature = BASE64_STANDARD.decode(signer().sign(body.as_bytes())).unwrap();
        format!("{body}.{}", URL.encode(signature))
    };
    let header = r#"{"alg":"EdDSA","kid":"k"}"#;
    let token = match kind {
        "claims" => signed(header, rest),
        "header" => match rest.split_once('\n') {
            Some((header, claims)) => signed(header, claims),
            None => return,
        },
        "keys" => {
            let (keys, token) = rest.split_once('\n').unwrap_or((rest, ""));
            settings.proof_keys = serde_json::from_str(keys).unwrap_or_default();
            let _ = proof::keys(&settings);
            token.to_owned()
        }
        _ => text.to_owned(),
    };
    let who = Who {
        entity_id: "e".into(),
        name: "e".into(),
        class: Class::Service,
        person: String::new(),
        aliases: vec!["app".into()],
        groups: Default::default(),
        about: Default::default(),
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    for require_proof in [Proof::Workload, Proof::StepUp] {
        let policy = Policy { require_proof, proof_max_age: 300, ..Policy::default() };
        let used = proof::Used::default();
        let judge = || proof::judge(&policy, &settings, &used, &who, Some(&token), now);
        if let Ok(Some(proven)) = judge() {
            assert!(proven.subject == "app" && kind != "keys" && !kind.is_empty(), "nobody has signed that");
            assert!(judge().is_err(), "it was used before");
        }
    }
}

/// An export, a checkpoint, a line of hours, a limit of coverage.
pub fn evidence(text: &str) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    if let Ok(hours) = Hours::parse(text) {
        let _ = hours.are_now(now);
    }
    let _ = coverage::limit(text);
    let kept: Vec<_> = verify::checkpoint(text).into_iter().collect();
    let public = signer().public();
    for key in [None, Some(public.as_str())] {
        if let Ok(sound) = verify::file(text, kept.clone(), key) {
            assert!(!sound.signed, "nobody has signed that");
        }
    }
    // The same events, put in order: a chain that holds, until a byte of it changes.
    // One alone that says it has events inside would be taken for an answer.
    let is_event =
        |value: &Value| value.is_object() && ["data", "event", "events"].iter().all(|key| value.get(key).is_none());
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(is_event);
    let (mut prev, mut chain) = (GENESIS, Vec::new());
    for (number, mut event) in (1u64..).zip(events.take(16)) {
        event["seq"] = number.into();
        event["prev"] = hex(&prev).into();
        prev = event::hash_of(&prev, &event);
        event["hash"] = hex(&prev).into();
        assert_eq!(unhex(&hex(&prev)), Some(prev));
        let _ = (export::ocsf(&event), export::cef(&event));
        chain.push(event);
    }
    let lines = |chain: &[Value]| chain.iter().map(|event| format!("{event}\n")).collect::<String>();
    if let Some(last) = chain.last().cloned() {
        assert_eq!(verify::file(&lines(&chain), Vec::new(), None).map(|sound| sound.last), Ok(chain.len() as u64));
        let length = chain.len();
        chain[length - 1]["seen"] = match &last["seen"] {
            Value::Null => 1.into(),
            _ => Value::Null,
        };
        assert!(verify::file(&lines(&chain), Vec::new(), None).is_err(), "a change is not seen");
    }
}
