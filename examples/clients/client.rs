//! Reads a credential, renews it, gives it back. `BAO_ADDR`, `BAO_TOKEN`; the path is the first argument.
//!
//! A program of its own needs `ureq` (with its feature `json`) and `serde_json`; here:
//! `cargo run --example client database/creds/app`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

/// How often a request is sent that finds nobody, or a server in trouble.
const ATTEMPTS: u32 = 3;

/// An OpenBao or Vault server, and the token to use it with.
pub struct Server {
    agent: ureq::Agent,
    address: String,
    token: String,
}

/// A credential, and what ends it.
pub struct Credential {
    /// Its lease.
    pub lease: String,
    /// Who the database knows.
    pub username: String,
    /// Keep it in memory, and nowhere else.
    pub password: String,
    /// How long it is good for without a renewal.
    pub lasts: Duration,
}

impl Server {
    /// The server at `https://host:port`.
    pub fn new(address: &str, token: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        Self { agent: agent.into(), address: address.to_owned(), token: token.to_owned() }
    }

    /// Reads a credential: there is a new user in the database.
    pub fn read(&self, path: &str) -> Result<Credential, String> {
        let answer = self.ask("GET", path, None)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(format!("{path}: not a credential"));
        Ok(Credential {
            lease: text(&answer["lease_id"])?,
            username: text(&answer["data"]["username"])?,
            password: text(&answer["data"]["password"])?,
            lasts: lasts(&answer),
        })
    }

    /// Prolongs it by as much as the role allows; do so after two thirds of the time that is left. If that fails, or gives
    /// much less than was wanted, read another one before this one is over.
    pub fn renew(&self, credential: &mut Credential) -> Result<(), String> {
        let answer = self.ask("POST", "sys/leases/renew", Some(&json!({ "lease_id": credential.lease })))?;
        credential.lasts = lasts(&answer);
        Ok(())
    }

    /// Gives it back: when this returns nobody is logged in with it any more.
    pub fn give_back(&self, credential: Credential) -> Result<(), String> {
        let body = json!({ "lease_id": credential.lease, "sync": true });
        self.ask("POST", "sys/leases/revoke", Some(&body)).map(drop)
    }

    /// One request; once more if there was a failover, or a reload.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let mut attempt = 1;
        loop {
            let why = match self.once(method, path, body) {
                Ok((200..300, answer)) => return Ok(answer),
                // Nothing changes by asking again.
                Ok((status @ 400..500, answer)) => {
                    return Err(format!("{method} {path}: {status} {}", answer["errors"]));
                }
                Ok((status, _)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            if attempt == ATTEMPTS {
                return Err(format!("{method} {path}: {why}"));
            }
            std::thread::sleep(Duration::from_millis(500) * attempt);
            attempt += 1;
        }
    }

    fn once(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), ureq::Error> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.address))
            .header("X-Vault-Token", &self.token);
        let mut answer = match body {
            Some(body) => self.agent.run(request.header("Content-Type", "application/json").body(body.to_string())?)?,
            None => self.agent.run(request.body(())?)?,
        };
        let (status, text) = (answer.status().as_u16(), answer.body_mut().read_to_string()?);
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }
}

fn lasts(answer: &Value) -> Duration {
    Duration::from_secs(answer["lease_duration"].as_u64().unwrap_or_default())
}

fn run() -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let server = Server::new(&variable("BAO_ADDR")?, &variable("BAO_TOKEN")?);
    let path = std::env::args().nth(1).ok_or("which path?")?;
    let mut credential = server.read(&path)?;
    println!("{}", credential.username);
    let (length, lasts) = (credential.password.chars().count(), credential.lasts.as_secs());
    eprintln!("with a password of {length} characters, good for {lasts} s");
    server.renew(&mut credential)?;
    server.give_back(credential)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
