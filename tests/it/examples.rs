//! The files below `examples/`, used as they are.

mod jobs;
#[path = "../../examples/clients/client.rs"]
#[allow(dead_code, reason = "it is a program")]
mod rust_client;
pub mod sidecars;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::repository;

const LIMIT: Duration = Duration::from_secs(90);
const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";

/// A host with our engine at `database/`, the role `app`, and a directory for what the examples expect on their machine.
struct Site {
    client: Client,
    bao: Bao,
    postgres: Postgres,
    dir: TempDir,
}

impl Site {
    fn start(more: impl FnOnce(&Path) -> String + Send) -> Site {
        let (bao, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(Postgres::start);
            (Bao::start_as("debug", more), postgres.join().unwrap())
        });
        bao.register();
        bao.mount("database", PLUGIN);
        let dir = tempfile::Builder::new().prefix("leasehold-examples-").tempdir().unwrap();
        let site = Site { client: bao.client(), bao, postgres, dir };
        let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": site.postgres.url(),
            "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*", "connect_timeout": "2s" });
        site.client.post("database/config/pg", connection).expect(204);
        let role = json!({ "db_name": "pg", "creation_statements": CREATION, "default_ttl": "6s", "max_ttl": "20s" });
        site.client.post("database/roles/app", role).expect(204);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// An example with the names of this site instead of its own; each of them must be there.
    fn example(&self, file: &str, names: &[(&str, &str)]) -> PathBuf {
        let mut text = std::fs::read_to_string(repository().join("examples").join(file)).unwrap();
        for (theirs, ours) in names {
            assert!(text.contains(theirs), "{file} has no {theirs}");
            text = text.replace(theirs, ours);
        }
        let path = self.path(file.rsplit('/').next().unwrap());
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A policy of the examples, written under a name.
    fn policy(&self, name: &str, file: &str) {
        let text = std::fs::read_to_string(repository().join("examples").join(file)).unwrap();
        self.client.post(&format!("sys/policies/acl/{name}"), json!({ "policy": text })).expect(204);
    }

    /// The token of somebody with one policy and the default one.
    fn token(&self, policy: &str) -> String {
        let made = self.client.post("auth/token/create", json!({ "policies": [policy] })).expect(200);
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// An AppRole with the policy of a sidecar, its ids in the files where the examples look for them.
    fn app_role(&self) {
        self.policy("sidecar", "agent/policy.hcl");
        self.client.post("sys/auth/approle", json!({ "type": "approle" })).expect(204);
        let role = json!({ "token_policies": "sidecar", "token_ttl": "1h" });
        self.client.post("auth/approle/role/app", role).expect(204);
        let text = |answer: Value, field: &str| answer[field].as_str().unwrap().to_owned();
        self.write("role-id", &text(self.client.get("auth/approle/role/app/role-id").data(), "role_id"));
        let secret_id = self.client.post("auth/approle/role/app/secret-id", json!({})).data();
        self.write("secret-id", &text(secret_id, "secret_id"));
    }

    fn kill_plugin(&self) {
        for process in self.bao.plugin_processes() {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}
