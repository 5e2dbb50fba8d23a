//! A host with people and workloads who log in, each with the host's own ACL and identity groups.

use std::thread;

use serde_json::{Value, json};

use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};

/// The gated role's statements: it may read one table.
pub const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; \
     GRANT SELECT ON orders TO \"{{name}}\"";

/// A database that counts what each user does.
const COUNTING: &[&str] =
    &["fsync=off", "full_page_writes=off", "log_statement=all", "shared_preload_libraries=pg_stat_statements"];

/// The servers, and the mount `db/` with the connection `pg` and the policy `p`.
pub struct Site {
    pub root: Client,
    pub bao: Bao,
    pub postgres: Postgres,
}

/// Somebody who has logged in.
pub struct Person {
    pub client: Client,
    pub entity: String,
}

impl Site {
    /// With the gated role `secret`, whose policy has these fields besides one vote of the group `leads`.
    pub fn start(policy: Value) -> Site {
        Site::start_with(COUNTING, policy)
    }

    /// The same, at a database with these settings, which load `pg_stat_statements`.
    pub fn start_with(settings: &'static [&'static str], policy: Value) -> Site {
        let (bao, postgres) = thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start_with(settings));
            (Bao::start(), postgres.join().unwrap())
        });
        bao.register();
        bao.mount("db", PLUGIN);
        let root = bao.client();
        postgres.sql(
            "CREATE EXTENSION pg_stat_statements; CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (2)",
        );
        let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(),
                                 "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*" });
        root.post("db/config/pg", connection).expect(204);
        let site = Site { root, bao, postgres };
        site.policy(policy);
        site.role(json!({}));
        for kind in ["userpass", "approle"] {
            site.root.post(&format!("sys/auth/{kind}"), json!({ "type": kind })).expect(204);
        }
        // The texts that the mount itself gives for the host's ACL.
        let acl = site.root.get("db/policies/p/acl").data();
        for who in ["requester", "approver", "auditor"] {
            let text = acl[who].as_str().unwrap().replace("ROLE", "secret");
            site.root.post(&format!("sys/policies/acl/{who}"), json!({ "policy": text })).expect(204);
        }
        site
    }

    /// Lays fields over the policy.
    #[track_caller]
    pub fn policy(&self, fields: Value) {
        let mut policy = json!({ "steps": [{ "groups": ["leads"] }], "require_reason": 3 });
        policy.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap());
        let written = self.root.post("db/policies/p", policy);
        assert!(written.status < 300, "{}", written.body);
    }

    /// Lays fields over the role.
    #[track_caller]
    pub fn role(&self, fields: Value) {
        let mut role = json!({ "db_name": "pg", "creation_statements": CREATION, "jit_policy": "p" });
        role.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap());
        self.root.post("db/roles/secret", role).expect(204);
    }

    /// Somebody with a password, with these of the policies `requester`, `approver`, `auditor`.
    #[track_caller]
    pub fn person(&self, name: &str, policies: &[&str]) -> Person {
        let body = json!({ "password": "pw", "token_policies": policies });
        self.root.post(&format!("auth/userpass/users/{name}"), body).expect(204);
        let login = self.root.post(&format!("auth/userpass/login/{name}"), json!({ "password": "pw" })).expect(200);
        self.logged_in(&login)
    }

    /// A workload: role id and secret id besides.
    #[track_caller]
    pub fn workload(&self, name: &str, policies: &[&str]) -> (Person, String, String) {
        let path = format!("auth/approle/role/{name}");
        self.root.post(&path, json!({ "token_policies": policies })).expect(204);
        let role_id = self.root.get(&format!("{path}/role-id")).data()["role_id"].as_str().unwrap().to_owned();
        let secret = self.root.post(&format!("{path}/secret-id"), json!({})).data();
        let secret_id = secret["secret_id"].as_str().unwrap().to_owned();
        let body = json!({ "role_id": role_id, "secret_id": secret_id });
        let login = self.root.post("auth/approle/login", body).expect(200);
        (self.logged_in(&login), role_id, secret_id)
    }

    fn logged_in(&self, login: &Value) -> Person {
        let text = |key: &str| login["auth"][key].as_str().unwrap().to_owned();
        Person { client: self.root.with_token(&text("client_token")), entity: text("entity_id") }
    }

    /// An identity group of these.
    #[track_caller]
    pub fn group(&self, name: &str, members: &[&Person]) {
        let members: Vec<&str> = members.iter().map(|person| person.entity.as_str()).collect();
        let body = json!({ "name": name, "member_entity_ids": members });
        let made = self.root.post(&format!("identity/group/name/{name}"), body);
        assert!(made.status < 300, "{}", made.body);
    }

    /// The kinds of all events of a request.
    #[track_caller]
    pub fn kinds(&self, id: &str) -> Vec<String> {
        let chain = self.root.get(&format!("db/evidence/chain/{id}")).data();
        chain["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    }
}

impl Person {
    /// Files a request for `secret`; its id.
    #[track_caller]
    pub fn file(&self) -> String {
        let filed = self.client.post("db/requests/secret", json!({ "reason": "an order is stuck" })).data();
        filed["request_id"].as_str().unwrap().to_owned()
    }

    /// Does something to a request for `secret`; its state afterwards.
    #[track_caller]
    pub fn act(&self, id: &str, verb: &str) -> String {
        let done =
            self.client.post(&format!("db/requests/secret/{id}/{verb}"), json!({ "reason": "it is over" })).data();
        done["state"].as_str().unwrap().to_owned()
    }

    /// Whether that is refused: the status and the text.
    #[track_caller]
    pub fn refused(&self, method: &str, path: &str) -> (u16, String) {
        let body = (method == "POST").then(|| json!({ "reason": "an order is stuck" }));
        let answer = self.client.request(method, path, body.as_ref());
        assert!(answer.status >= 400, "{method} {path}: {}", answer.body);
        (answer.status, answer.body["errors"][0].as_str().unwrap_or_default().to_owned())
    }
}
