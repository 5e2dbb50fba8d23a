//! A host with our AWS engine, an account that behaves like AWS, and every secret that goes through.

use std::path::Path;
use std::sync::Mutex;

use hmac::{Hmac, KeyInit, Mac};
use rustix::process::Pid;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{CLIENTS, started};
use crate::support::aws::{ALLOW_ALL, Aws, TRUST_ALL};
use crate::support::bao::{self, Bao, sha256};
use crate::support::client::Client;
use crate::support::search::{Known, Search};

/// What roles give; each kind has a role of the same name.
pub const KINDS: [&str; 4] = ["iam_user", "assumed_role", "federation_token", "session_token"];
/// What the engine itself uses, and keeps.
pub const IN_FORCE: &str = "aws: the engine's own secret key in force";

pub struct Site {
    pub aws: Aws,
    pub bao: Bao,
    pub client: Client,
    known: Mutex<Vec<Known>>,
}

impl Site {
    /// With another build of the plugin, if one is given.
    pub fn start(build: Option<&Path>) -> Site {
        let bao = started(build);
        let client = bao.client();
        let plugin =
            json!({ "command": "leasehold", "args": ["aws", "--log-level=trace"], "sha256": sha256(&bao.plugins()) });
        client.post("sys/plugins/catalog/secret/aws", plugin).expect(204);
        bao.mount("aws", "aws");
        let known = Mutex::new(vec![Known::new("the host's environment", bao::INHERITED_TOKEN)]);
        Site { aws: Aws::ministack(), bao, client, known }
    }

    fn take(&self, what: &str, secret: &Value) {
        let text = secret.as_str().unwrap_or_else(|| panic!("{what}: {secret}"));
        self.known.lock().unwrap().push(Known::new(what, text));
    }

    /// The engine's own key, a role of each kind, a static role.
    pub fn configure(&self) {
        let engine = self.aws.user("engine", &[("all", ALLOW_ALL)]);
        self.take("aws: first secret key of the engine", &json!(engine.secret));
        let root = json!({
            "access_key": engine.id, "secret_key": engine.secret, "region": "us-east-1",
            "iam_endpoint": self.aws.url(), "sts_endpoint": self.aws.url(),
        });
        self.client.post("aws/config/root", root).expect(204);
        let arn = self.aws.role("app", TRUST_ALL);
        for kind in KINDS {
            let mut role = json!({ "credential_type": kind });
            match kind {
                "iam_user" | "federation_token" => role["policy_document"] = json!(ALLOW_ALL),
                "assumed_role" => {
                    role["role_arns"] = json!(arn);
                    role["revocation_overflow"] = json!("collective");
                }
                _ => {}
            }
            let written = self.client.post(&format!("aws/roles/{kind}"), role);
            assert!(written.status < 300, "{}", written.body);
        }
        self.aws.user("batch", &[]);
        self.client.post("aws/static-roles/batch", json!({ "username": "batch", "rotation_period": "1h" })).expect(200);
    }

    /// Mints `count` credentials of a kind by some clients at a time, renews half of those that can be renewed, and
    /// revokes a quarter; of sessions of the engine's own user fewer, for which its policies have room.
    pub fn mint(&self, kind: &str, count: usize) {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for number in 0..count / CLIENTS {
                        let minted = self.client.get(&format!("aws/creds/{kind}")).expect(200);
                        let (data, lease) = (&minted["data"], minted["lease_id"].as_str().unwrap());
                        self.take(&format!("aws: minted secret key, {kind}"), &data["secret_key"]);
                        if data["session_token"].is_string() {
                            self.take(&format!("aws: minted session token, {kind}"), &data["session_token"]);
                        }
                        if number % 2 == 0 && minted["renewable"] == true {
                            self.client.renew(lease, 600).expect(200);
                        }
                        let rare = if matches!(kind, "iam_user" | "assumed_role") { 4 } else { 20 };
                        if number % rare == 0 {
                            self.client.revoke(lease).expect(204);
                        }
                    }
                });
            }
        });
    }

    /// Reads and changes the static role's key, and the engine's own.
    pub fn rotate(&self) {
        for _ in 0..3 {
            for _ in 0..4 {
                let read = self.client.get("aws/static-creds/batch").data();
                self.take("aws: static secret key", &read["secret_key"]);
            }
            self.client.post("aws/rotate-role/batch", json!({})).expect(204);
        }
        for _ in 0..3 {
            self.take("aws: former secret key of the engine", &self.in_force());
            self.client.post("aws/config/rotate-root", json!({})).data();
        }
    }

    fn in_force(&self) -> Value {
        let mounts = self.client.get("sys/mounts").data();
        let mount = mounts["aws/"]["uuid"].as_str().unwrap();
        let raw = self.client.get(&format!("sys/raw/logical/{mount}/config/root?compressed=false")).data();
        let stored: Value = serde_json::from_str(raw["value"].as_str().unwrap()).unwrap();
        stored["secret_key"].clone()
    }

    /// All that was seen, and what requests are signed with. What is in use now has a name of its own.
    pub fn search(&self) -> Search {
        let mut known = self.known.lock().unwrap().clone();
        let in_force = self.in_force().as_str().unwrap().to_owned();
        known.retain(|known| known.bytes != in_force.as_bytes());
        for service in ["iam", "sts"] {
            let bytes = signing_key(&in_force, service);
            known.push(Known { what: format!("aws: key that signs today's calls of {service}"), bytes });
        }
        known.push(Known::new(IN_FORCE, &in_force));
        Search::new(known)
    }

    pub fn plugin(&self) -> Pid {
        let processes = self.bao.plugin_processes();
        assert_eq!(processes.len(), 1, "one plugin");
        processes[0]
    }
}

/// What version 4 signatures of today are made with.
fn signing_key(secret: &str, service: &str) -> Vec<u8> {
    let date = jiff::Timestamp::now().strftime("%Y%m%d").to_string();
    [date.as_str(), "us-east-1", service, "aws4_request"].into_iter().fold(
        format!("AWS4{secret}").into_bytes(),
        |key, part| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(part.as_bytes());
            mac.finalize().into_bytes().to_vec()
        },
    )
}
