//! A plain client of the host's HTTP interface.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;

/// One answer of the host.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; `Null` if it is empty.
    pub body: Value,
}

impl Answer {
    /// The body, if the status is the expected one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "unexpected answer: {}", self.body);
        self.body
    }

    /// `data` of a 200.
    #[track_caller]
    pub fn data(self) -> Value {
        self.expect(200)["data"].take()
    }
}

/// A client with one token.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    address: String,
    token: String,
}

impl Client {
    /// A client of the server at `address` (`http://host:port`). An empty token is not sent at all.
    pub fn new(address: &str, token: &str) -> Client {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(Duration::from_secs(150)))
            .build();
        Client { agent: agent.into(), address: address.to_owned(), token: token.to_owned() }
    }

    /// `http://host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The same server with another token.
    pub fn with_token(&self, token: &str) -> Client {
        Client { token: token.to_owned(), ..self.clone() }
    }

    /// One request. `path` is what follows `/v1/`.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.request_with(method, path, body, &[])
    }

    /// One request with further headers.
    pub fn request_with(&self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        self.try_request(method, path, body, headers).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// One request that may fail below HTTP.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, ureq::Error> {
        if let Some(body) = body {
            if path.starts_with("sys/mounts/") && body["type"] == "database" {
                super::words::leave();
            }
            super::words::note_all(body);
        }
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/v1/{path}", self.address))
            .header("X-Vault-Request", "true");
        if !self.token.is_empty() {
            request = request.header("X-Vault-Token", &self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => {
                if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                    request = request.header("Content-Type", "application/json");
                }
                self.agent.run(request.body(body.to_string())?)?
            }
            None => self.agent.run(request.body(())?)?,
        };
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        let body =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        super::words::note_proof(path);
        if status < 400 {
            super::words::note_all(&body);
            if super::words::NEVER.iter().any(|part| path.split(['/', '?']).any(|word| word == *part)) {
                super::words::check(path, body.to_string().as_bytes());
            }
        } else {
            super::words::check("an error of the host", body.to_string().as_bytes());
        }
        Ok(Answer { status, body })
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None)
    }

    /// `POST` with a JSON body.
    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.request("POST", path, Some(&body))
    }

    /// `LIST`.
    pub fn list(&self, path: &str) -> Answer {
        self.request("LIST", path, None)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, None)
    }

    /// Renews a lease; `increment` in seconds, 0 for the default.
    pub fn renew(&self, lease: &str, increment: u64) -> Answer {
        let mut body = json!({ "lease_id": lease });
        if increment > 0 {
            body["increment"] = increment.into();
        }
        self.post("sys/leases/renew", body)
    }

    /// Revokes a lease and waits for it.
    pub fn revoke(&self, lease: &str) -> Answer {
        self.post("sys/leases/revoke", json!({ "lease_id": lease, "sync": true }))
    }

    /// The host's view of a lease.
    pub fn lookup(&self, lease: &str) -> Answer {
        self.post("sys/leases/lookup", json!({ "lease_id": lease }))
    }
}
