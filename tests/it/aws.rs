//! The AWS engine through a real host, against servers that behave like AWS.

mod access;
pub mod faults;
mod identity;
mod least;
mod overflow;
mod roles;
mod sessions;
mod status;
mod users;

use serde_json::{Value, json};

use crate::support::aws::{ALLOW_ALL, Aws, Key};
use crate::support::bao::{Bao, sha256};
use crate::support::client::Client;

/// What the plugin is registered as: the path is free, and so is this name.
const PLUGIN: &str = "aws";

/// A host with the engine at `aws/`, configured for a server as a user that may do everything.
pub struct Stage {
    pub aws: Aws,
    pub bao: Bao,
    pub client: Client,
    pub engine: Key,
}

impl Stage {
    pub fn ministack() -> Stage {
        Stage::with(Aws::ministack())
    }

    pub fn moto() -> Stage {
        Stage::with(Aws::moto())
    }

    fn with(aws: Aws) -> Stage {
        let engine = aws.user("engine", &[("all", ALLOW_ALL)]);
        let (bao, client) = mounted();
        let stage = Stage { aws, bao, client, engine };
        stage.configure(json!({}));
        stage
    }

    /// Writes `config/root`, with what is given laid over what is needed.
    pub fn configure(&self, more: Value) {
        let mut config = json!({
            "access_key": self.engine.id, "secret_key": self.engine.secret, "region": "us-east-1", "max_retries": 0,
            "iam_endpoint": self.aws.url(), "sts_endpoint": self.aws.url(),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.client.post("aws/config/root", config).expect(204);
    }

    /// Writes a role; any status below 300 will do.
    #[track_caller]
    pub fn write(&self, name: &str, role: Value) -> Value {
        let answer = self.client.post(&format!("aws/roles/{name}"), role);
        assert!(answer.status < 300, "{}", answer.body);
        answer.body
    }

    /// Reads a credential: the lease and the key.
    #[track_caller]
    pub fn mint(&self, path: &str) -> (String, Key, Value) {
        let minted = self.client.get(&format!("aws/{path}")).expect(200);
        let key = Key::of(&minted["data"]);
        (minted["lease_id"].as_str().unwrap().to_owned(), key, minted)
    }
}

/// A host with the engine at `aws/`.
pub fn mounted() -> (Bao, Client) {
    let bao = Bao::start();
    let client = bao.client();
    let plugin = json!({ "command": "leasehold", "args": ["aws"], "sha256": sha256(&bao.plugins()) });
    client.post(&format!("sys/plugins/catalog/secret/{PLUGIN}"), plugin).expect(204);
    bao.mount("aws", PLUGIN);
    (bao, client)
}

/// The first error of a refusal.
pub fn error(answer: &Value) -> &str {
    answer["errors"][0].as_str().unwrap_or_default()
}
