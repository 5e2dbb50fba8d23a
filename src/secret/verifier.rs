//! Password verifiers: what a server stores instead of a password.
//!
//! A verifier goes over the wire and through the server's logs in place of the password; whoever reads it cannot log in
//! with it.

pub mod mysql;
pub mod redis;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::secret::password::{self, NoRandomness};
use crate::secret::{Secret, push_base64};

/// Rounds of a SCRAM verifier unless a role or a connection says otherwise: PostgreSQL's own default, and the least that
/// RFC 7677 allows. Some client libraries refuse fewer.
pub const SCRAM_ITERATIONS: u32 = 4096;

/// More would keep a server busy with logins.
const MOST_ITERATIONS: u32 = 100_000;

/// Reads a number of rounds that somebody wrote.
///
/// # Errors
/// If it is none, or so high that logins would keep a server busy.
pub fn scram_iterations(given: i64) -> Result<u32, String> {
    let rounds = u32::try_from(given).ok().filter(|rounds| (1..=MOST_ITERATIONS).contains(rounds));
    rounds.ok_or_else(|| format!("scram_iterations is {given}: it takes 1 to {MOST_ITERATIONS}, and 0 for the default"))
}

/// The SCRAM-SHA-256 verifier of `password` with a fresh 16-byte salt, in the form of PostgreSQL's `pg_authid`:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
///
/// Zero `iterations` count as one. Takes about 1.3 ms of CPU for 4,096 rounds.
pub fn scram_sha_256(password: &Secret, iterations: u32) -> Result<Secret, NoRandomness> {
    Ok(scram_sha_256_with_salt(password, &*password::bytes::<16>()?, iterations))
}

/// A password, and what a server that knows SCRAM-SHA-256 is to store of it.
#[derive(Debug)]
pub struct Prepared {
    /// The password.
    pub password: Secret,
    /// Its verifier.
    pub verifier: Secret,
    /// The rounds of the verifier.
    pub iterations: u32,
}

impl Prepared {
    /// A password of the default generator, and its verifier. Takes the time that [`scram_sha_256`] takes.
    pub fn draw(iterations: u32) -> Result<Self, NoRandomness> {
        let password = password::password()?;
        let verifier = scram_sha_256(&password, iterations)?;
        Ok(Self { password, verifier, iterations })
    }
}

/// Whether `verifier`, as [`scram_sha_256`] makes it, is one of `password`. False for anything that is no verifier.
pub fn is_of(verifier: &str, password: &Secret) -> bool {
    let salted = || {
        let (iterations, rest) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, _) = rest.split_once('$')?;
        // One of more rounds was not made here, and would take as long as it says.
        let iterations = iterations.parse().ok().filter(|rounds| *rounds <= MOST_ITERATIONS)?;
        Some((iterations, STANDARD.decode(salt).ok()?))
    };
    let Some((iterations, salt)) = salted() else { return false };
    scram_sha_256_with_salt(password, &salt, iterations) == Secret::new(verifier.to_owned())
}

fn scram_sha_256_with_salt(password: &Secret, salt: &[u8], iterations: u32) -> Secret {
    let iterations = iterations.max(1);
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(normalized(password).as_bytes(), salt, iterations, salted.as_mut_slice());
    let client_key = keyed(&salted, b"Client Key");
    let server_key = keyed(&salted, b"Server Key");
    let mut stored_key = Sha256::digest(client_key.as_slice());

    // Reserved at full size: a buffer that grows leaves copies of its content behind.
    let mut text = String::with_capacity(160);
    text.push_str("SCRAM-SHA-256$");
    text.push_str(&iterations.to_string());
    text.push(':');
    push_base64(&mut text, &STANDARD, salt);
    text.push('$');
    push_base64(&mut text, &STANDARD, stored_key);
    text.push(':');
    push_base64(&mut text, &STANDARD, server_key.as_slice());
    stored_key.as_mut_slice().zeroize();
    Secret::new(text)
}

/// SASLprep (RFC 4013), as both ends of a login do it. A password that SASLprep refuses is taken as it is: so do
/// PostgreSQL and its clients.
fn normalized(password: &Secret) -> Zeroizing<String> {
    Zeroizing::new(match stringprep::saslprep(password.expose()) {
        Ok(text) => text.into_owned(),
        Err(_) => password.expose().to_owned(),
    })
}

fn keyed(key: &[u8; 32], message: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    // HMAC takes keys of any length; this one is exactly a digest long.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        mac.update(message);
        out.copy_from_slice(mac.finalize().into_bytes().as_slice());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// The exchange of RFC 7677, section 3: user `user`, password `pencil`. The stored key must check the client's
    /// proof, the server key must make the server's signature.
    #[test]
    fn rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = scram_sha_256_with_salt(&secret("pencil"), &salt, 4096);
        let rest = verifier.expose().strip_prefix("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$").unwrap();
        let (stored, server) = rest.split_once(':').unwrap();
        let (stored, server) = (STANDARD.decode(stored).unwrap(), STANDARD.decode(server).unwrap());

        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let mac = |key: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(auth_message.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let client_key: Vec<u8> = proof.iter().zip(mac(&stored)).map(|(p, s)| p ^ s).collect();
        assert_eq!(Sha256::digest(&client_key).as_slice(), stored);
        assert_eq!(STANDARD.encode(mac(&server)), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_verifier_knows_its_password() {
        let verifier = scram_sha_256(&secret("pw"), 2).unwrap();
        assert!(is_of(verifier.expose(), &secret("pw")));
        assert!(!is_of(verifier.expose(), &secret("pW")));
        assert!(!is_of("SCRAM-SHA-256$899000000:W23ZaJ0s$", &secret("pw")));
        assert!(!is_of("pw", &secret("pw")) && !is_of("SCRAM-SHA-256$x:y$z", &secret("pw")));
    }

    #[test]
    fn salts_differ_and_rounds_are_told() {
        let (one, two) = (scram_sha_256(&secret("pw"), 1).unwrap(), scram_sha_256(&secret("pw"), 1).unwrap());
        assert_ne!(one, two);
        assert!(one.expose().starts_with("SCRAM-SHA-256$1:"), "{}", one.expose());
        assert!(scram_sha_256(&secret("pw"), 0).unwrap().expose().starts_with("SCRAM-SHA-256$1:"));
    }

    #[test]
    fn other_spellings_of_one_password_have_one_verifier() {
        let salt = [7; 16];
        let of = |text: &str| scram_sha_256_with_salt(&secret(text), &salt, 1);
        // RFC 4013, section 3: a soft hyphen is mapped to nothing, a roman numeral nine to its letters.
        assert_eq!(of("I\u{ad}X"), of("IX"));
        assert_eq!(of("\u{2168}"), of("IX"));
        // A control character is refused by SASLprep and used as it is.
        assert_ne!(of("\u{7}"), of(""));
    }
}
