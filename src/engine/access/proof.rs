//! Proof that the workload itself reads, and not somebody with its token: a JWT that says so, signed by a key that was
//! configured, made for this mount, fresh, and used once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::config::Settings;
use super::identity::Who;
use super::policy::{Policy, Proof};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::evidence::{self, event::hex};
use crate::engine::intent::unix_seconds;

/// How far the clock of an issuer may be ahead.
const SKEW: Duration = Duration::from_secs(30);

/// No policy takes a proof that is older.
pub const OLDEST: Duration = Duration::from_secs(3600);

/// What is read of a token.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    iat: u64,
    exp: u64,
    #[serde(default)]
    jti: String,
    #[serde(default)]
    auth_time: u64,
    #[serde(default)]
    acr: String,
    #[serde(default)]
    amr: Vec<String>,
}

/// A proof that held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// Whom it names.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// How old it was, in seconds.
    pub age: u64,
    /// What recognises it if it comes again.
    pub id: String,
}

impl Proven {
    /// As events show it.
    pub fn shown(&self) -> Value {
        json!({ "subject": self.subject, "issuer": self.issuer, "age": self.age, "id": self.id })
    }
}

/// Proofs that were used, by hash, and until when each is remembered: until nothing would take it any more.
#[derive(Default)]
pub struct Used {
    known: Mutex<HashMap<String, SystemTime>>,
    /// Those of earlier processes are known too.
    remembered: tokio::sync::Mutex<bool>,
}

/// Events that are read for proofs that earlier processes have taken; older ones are older than any proof may be.
const REMEMBERED: u64 = 20_000;

impl Used {
    /// False if it was used before.
    fn first(&self, id: &str, until: SystemTime, now: SystemTime) -> bool {
        let mut used = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until| *until > now);
        used.insert(id.to_owned(), until).is_none()
    }

    /// Whether it was used.
    #[cfg(test)]
    pub(in crate::engine) fn knows(&self, id: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Learns from the record which proofs were taken before this process began: nothing else would remember them.
    ///
    /// # Errors
    /// If the record cannot be read. Then no proof can be judged.
    pub async fn remember(&self, mount: &Mount) -> Result<(), Error> {
        let mut remembered = self.remembered.lock().await;
        if *remembered {
            return Ok(());
        }
        let end = evidence::head(mount).await?.next;
        let mut from = end.saturating_sub(REMEMBERED).max(1);
        while from < end {
            let page = evidence::read(mount, from, 1000).await?;
            let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { break };
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &page {
                let time = event["time"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
                if let (Some(id), Some(time)) = (event["proof"]["id"].as_str(), time) {
                    known.insert(id.to_owned(), SystemTime::from(time) + OLDEST + SKEW * 2);
                }
            }
            from = last.max(from) + 1;
        }
        *remembered = true;
        Ok(())
    }
}

/// What keys there are, and what proofs have to be made for.
///
/// # Errors
/// What is wrong with the keys.
pub fn keys(settings: &Settings) -> Result<JwkSet, String> {
    serde_json::from_value(settings.proof_keys.clone()).map_err(|e| format!("proof_keys: not a JWK set: {e}"))
}

/// Judges the proof that a policy asks for. `None` if it asks for none.
///
/// # Errors
/// 403 `jit_identity` with what is missing.
pub fn judge(
    policy: &Policy,
    settings: &Settings,
    used: &Used,
    who: &Who,
    given: Option<&str>,
    now: SystemTime,
) -> Result<Option<Proven>, Error> {
    if policy.require_proof == Proof::None {
        return Ok(None);
    }
    let refused = |why: &str| Error::Coded(403, format!("jit_identity: {why}"));
    let token = given.filter(|token| !token.is_empty()).ok_or_else(|| {
        refused("this role needs an identity_proof: a JWT of the workload itself, made for this mount, on the read")
    })?;
    let claims = signed(settings, token).map_err(|why| refused(&format!("identity_proof: {why}")))?;
    let seconds = unix_seconds(now);
    let newest = seconds.saturating_add(SKEW.as_secs());
    if claims.iat == 0 || claims.iat > newest || claims.exp <= seconds {
        return Err(refused("identity_proof: it is not of this time"));
    }
    let age = seconds.saturating_sub(claims.iat);
    if age > policy.proof_max_age {
        return Err(refused(&format!(
            "identity_proof: it is {age}s old, and proof_max_age says {}s",
            policy.proof_max_age
        )));
    }
    if !who.aliases.contains(&claims.sub) {
        return Err(refused("identity_proof: its subject is none of your aliases"));
    }
    if policy.require_proof == Proof::StepUp {
        let strong = claims.amr.iter().any(|method| matches!(method.as_str(), "mfa" | "hwk" | "otp" | "fido"))
            || !claims.acr.is_empty();
        let fresh = claims.auth_time > 0 && seconds.saturating_sub(claims.auth_time) <= policy.proof_max_age;
        if !(strong && fresh) {
            return Err(refused("step-up required: log in once more with a second factor (auth_time, amr or acr)"));
        }
    }
    // A token without an id is known by itself.
    let id = if claims.jti.is_empty() { token } else { &claims.jti };
    let id = hex(&Sha256::new().chain_update(&claims.iss).chain_update([0]).chain_update(id).finalize());
    if !used.first(&id, now + Duration::from_secs(policy.proof_max_age) + SKEW * 2, now) {
        return Err(refused("identity_proof: it was used before"));
    }
    Ok(Some(Proven { subject: claims.sub, issuer: claims.iss, age, id }))
}

/// The claims of a token that one of the keys has signed for this mount.
fn signed(settings: &Settings, token: &str) -> Result<Claims, String> {
    let header = decode_header(token).map_err(|_| "not a JWT".to_owned())?;
    let set = keys(settings)?;
    let fits = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
    let mut last = "no configured key has signed it".to_owned();
    for key in set.keys.iter().filter(fits) {
        if !takes(key, header.alg) {
            continue;
        }
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&settings.proof_audience);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        // The time is judged by the mount's own clock.
        validation.validate_exp = false;
        if !settings.proof_issuers.is_empty() {
            validation.set_issuer(&settings.proof_issuers);
            validation.set_required_spec_claims(&["exp", "aud", "sub", "iss"]);
        }
        let Ok(key) = DecodingKey::from_jwk(key) else { continue };
        match decode::<Claims>(token, &key, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

/// A key is used for the algorithms of its own kind only, never as a shared secret.
fn takes(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
        AlgorithmParameters::EllipticCurve(_) => matches!(algorithm, ES256 | ES384),
        AlgorithmParameters::OctetKeyPair(_) => matches!(algorithm, EdDSA),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
