//! A host with our engine, a server of each kind, and every secret that goes through.

use std::path::Path;
use std::sync::Mutex;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL, Engine as _};
use rustix::process::Pid;
use serde_json::{Value, json};

use super::{CLIENTS, started};

use crate::support::bao::{self, Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::mariadb::MariaDb;
use crate::support::postgres::{self, Postgres};
use crate::support::redis::Redis;
use crate::support::search::{Known, Search};
use crate::support::tls::Authority;
use crate::support::words;

/// What signs the record of evidence.
pub const SIGNING_KEY: &str = "evidence: signing key";

/// A host with our engine, three servers and an account of its own at each, and every secret that was seen.
pub struct World {
    pub postgres: Postgres,
    pub mariadb: MariaDb,
    pub redis: Redis,
    pub bao: Bao,
    pub client: Client,
    known: Mutex<Vec<Known>>,
}

/// A password that occurs nowhere else.
fn fresh() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

impl World {
    /// With further arguments for the plugin, and another build of it if one is given.
    pub fn start(arguments: &[&str], build: Option<&Path>) -> World {
        let bao = started(build);
        bao::register(&bao.client(), &bao.plugins(), arguments);
        bao.mount("database", PLUGIN);
        let client = bao.client();
        World {
            postgres: Postgres::start(),
            mariadb: MariaDb::start(),
            redis: Redis::start(),
            bao,
            client,
            known: Mutex::new(vec![Known::new("the host's environment", bao::INHERITED_TOKEN)]),
        }
    }

    fn know(&self, what: &str, text: &str) {
        self.known.lock().unwrap().push(Known::new(what, text));
    }

    fn know_key(&self, what: &str, pem: &str) {
        self.known.lock().unwrap().extend(Known::private_key(what, pem));
    }

    /// A text of an answer, which is a secret.
    fn take(&self, what: &str, answer: &Value) -> String {
        let text = answer.as_str().unwrap_or_else(|| panic!("{what}: {answer}")).to_owned();
        self.know(what, &text);
        text
    }

    /// Configures `name` with the account `own` and a password that is used this once.
    pub fn connection(&self, name: &str, more: Value) -> String {
        let password = fresh();
        self.know(&format!("{name}: first root password"), &password);
        let create = |sql: &str| sql.replace("SECRET", &password);
        match name {
            "pg" => drop(self.postgres.sql(&create("CREATE ROLE own LOGIN SUPERUSER PASSWORD 'SECRET'"))),
            "my" => drop(self.mariadb.sql(&create(
                "CREATE USER own@'%' IDENTIFIED BY 'SECRET'; GRANT ALL ON *.* TO own@'%' WITH GRANT OPTION",
            ))),
            _ => {
                drop(self.redis.command(&["ACL", "SETUSER", "own", "on", &format!(">{password}"), "~*", "&*", "+@all"]))
            }
        }
        let mut body = json!({ "username": "own", "password": password, "allowed_roles": "*" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.client.post(&format!("database/config/{name}"), body).expect(204);
        password
    }

    /// Connections, roles and accounts of every kind.
    pub fn configure(&self) {
        let (pg, my) = (self.postgres.url(), self.mariadb.url());
        self.connection("pg", json!({ "plugin_name": "postgresql-database-plugin", "connection_url": pg }));
        self.connection("my", json!({ "plugin_name": "mysql-database-plugin", "connection_url": my }));
        let text = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": pg,
                           "password_authentication": "password", "username": postgres::ADMIN,
                           "password": postgres::ADMIN_PASSWORD, "allowed_roles": "*" });
        self.client.post("database/config/pg-text", text).expect(204);
        let port = self.redis.port();
        self.connection("rd", json!({ "plugin_name": "redis-database-plugin", "host": "127.0.0.1", "port": port }));
        let authority = Authority::new();
        self.know_key("CA's private key", &authority.key());
        let role = |name: &str, body: Value| self.client.post(&format!("database/roles/{name}"), body).expect(204);
        let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
        role("pg", json!({ "db_name": "pg", "creation_statements": create }));
        role("pg-text", json!({ "db_name": "pg-text", "creation_statements": create }));
        for kind in ["ec", "rsa"] {
            let config = json!({ "common_name_template": "{{.Username}}", "key_type": kind,
                                 "ca_cert": authority.pem, "ca_private_key": authority.key() });
            role(
                kind,
                json!({ "db_name": "pg", "credential_type": "client_certificate", "credential_config": config,
                        "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN" }),
            );
        }
        let create = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'";
        role("my", json!({ "db_name": "my", "creation_statements": create }));
        // Here the text of the password goes to the server.
        let own = "CREATE USER '{{name}}'@'%'; DO LENGTH('{{password}}')";
        role("my-text", json!({ "db_name": "my", "creation_statements": own }));
        role("rd", json!({ "db_name": "rd", "creation_statements": [r#"["~app:*", "+@read"]"#] }));
        self.postgres.sql("CREATE ROLE st LOGIN");
        self.mariadb.sql("CREATE USER st@'%'");
        for db in ["pg", "my"] {
            let body = json!({ "db_name": db, "username": "st", "rotation_period": 86400 });
            self.client.post(&format!("database/static-roles/{db}-static"), body).expect(204);
        }
    }

    /// Mints `count` credentials by some clients at a time, renews half of them, and revokes half of those.
    pub fn mint(&self, role: &str, count: usize) {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for number in 0..count / CLIENTS {
                        let minted = self.client.get(&format!("database/creds/{role}")).expect(200);
                        let (data, lease) = (&minted["data"], minted["lease_id"].as_str().unwrap());
                        match data.get("password") {
                            Some(password) => {
                                let password = self.take(&format!("{role}: minted password"), password);
                                if role.ends_with("-text") {
                                    words::forget(&password);
                                }
                            }
                            None => {
                                let key = data["private_key"].as_str().unwrap_or_else(|| panic!("{data}"));
                                self.know_key(&format!("{role}: minted key"), key);
                            }
                        }
                        if number % 2 == 0 && minted["renewable"] == true {
                            self.client.renew(lease, 600).expect(200);
                        }
                        if number % 4 == 0 {
                            self.client.revoke(lease).expect(204);
                        }
                    }
                });
            }
        });
    }

    /// Mints `count` credentials of a role that is gated, each with a token of the workload's own and a proof of its own.
    pub fn grant(&self, count: usize) {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": URL.encode(key.public_key().as_ref()) });
        let settings = json!({ "proof_keys": { "keys": [jwk] }, "proof_audience": "leasehold", "proof_issuers": "c" });
        self.client.post("database/config/jit", settings).expect(204);
        let policy = json!({ "steps": [], "approval": "auto", "eligible_classes": "service", "require_reason": 0,
                             "max_active": 0, "uses": 0, "require_proof": "workload" });
        let written = self.client.post("database/policies/p", policy);
        assert!(written.status < 300, "{}", written.body);
        let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'";
        let role = json!({ "db_name": "pg", "creation_statements": create, "jit_policy": "p" });
        self.client.post("database/roles/gated", role).expect(204);
        let read = json!({ "policy": "path \"database/creds/gated\" { capabilities = [\"read\"] }" });
        self.client.post("sys/policies/acl/reader", read).expect(204);
        self.client.post("sys/auth/approle", json!({ "type": "approle" })).expect(204);
        let path = "auth/approle/role/robot";
        self.client.post(path, json!({ "token_policies": ["reader"] })).expect(204);
        let subject = self.client.get(&format!("{path}/role-id")).data()["role_id"].clone();
        let secret = self.client.post(&format!("{path}/secret-id"), json!({})).data()["secret_id"].clone();
        let login = json!({ "role_id": subject, "secret_id": secret });
        let login = self.client.post("auth/approle/login", login).expect(200);
        let workload = self.client.with_token(login["auth"]["client_token"].as_str().unwrap());
        for number in 0..count {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let claims = json!({ "sub": subject, "iss": "c", "aud": "leasehold", "iat": now, "exp": now + 600,
                                 "jti": number.to_string() });
            let header = json!({ "alg": "EdDSA", "kid": "k" });
            let body = format!("{}.{}", URL.encode(header.to_string()), URL.encode(claims.to_string()));
            let signature = URL.encode(key.sign(body.as_bytes()).as_ref());
            // What comes before it says nothing that could be used.
            self.know("gated: proof", &signature);
            let read = format!("database/creds/gated?identity_proof={body}.{signature}");
            let minted = workload.get(&read).expect(200);
            self.take("gated: minted password", &minted["data"]["password"]);
            if number % 4 == 0 {
                self.client.revoke(minted["lease_id"].as_str().unwrap()).expect(204);
            }
        }
    }

    /// Reads and rotates the accounts with fixed names, and changes the root passwords.
    pub fn rotate(&self) {
        for db in ["pg", "my"] {
            for _ in 0..5 {
                for _ in 0..4 {
                    let answer = self.client.get(&format!("database/static-creds/{db}-static")).data();
                    self.take(&format!("{db}: static password"), &answer["password"]);
                }
                self.client.post(&format!("database/rotate-role/{db}-static"), json!({})).expect(204);
            }
            for _ in 0..3 {
                self.client.post(&format!("database/rotate-root/{db}"), json!({})).expect(204);
                let password = self.root_password(db);
                self.take(&format!("{db}: former root password"), &password);
            }
        }
    }

    /// What the servers keep of the passwords, and were sent instead of them.
    pub fn know_verifiers(&self) {
        let kept = self.postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'v-%'");
        for (_, salt_and_keys) in kept.lines().filter_map(|line| line.split_once(':')) {
            let (salt, keys) = salt_and_keys.split_once('$').unwrap();
            let (stored, server) = keys.split_once(':').unwrap();
            for part in [salt, stored, server] {
                self.know("pg: salt or key of a verifier", part.trim_end_matches('='));
            }
        }
        let kept = self.mariadb.sql("SELECT authentication_string FROM mysql.user WHERE User LIKE 'v-%'");
        kept.lines().filter(|line| line.len() > 20).for_each(|hash| self.know("my: hash", hash));
    }

    /// The root password in force.
    fn root_password(&self, connection: &str) -> Value {
        let stored: Value = serde_json::from_str(&self.stored(&format!("config/{connection}"))).unwrap();
        stored["connection_details"]["password"].clone()
    }

    /// What the mount has in the host's storage.
    fn stored(&self, key: &str) -> String {
        let mounts = self.client.get("sys/mounts").data();
        let mount = mounts["database/"]["uuid"].as_str().unwrap();
        // A text that begins with one of certain letters would be taken for something compressed.
        let raw = self.client.get(&format!("sys/raw/logical/{mount}/{key}?compressed=false")).data();
        raw["value"].as_str().unwrap().to_owned()
    }

    /// All that was seen. What is in use now has a name of its own.
    pub fn search(&self) -> Search {
        let mut known = self.known.lock().unwrap().clone();
        for connection in ["pg", "my", "rd"] {
            let password = self.root_password(connection).as_str().unwrap().to_owned();
            known.retain(|known| known.bytes != password.as_bytes());
            known.push(Known::new(&format!("{connection}: root password in force"), &password));
        }
        let text = self.stored("evidence/key");
        let bytes = BASE64_STANDARD.decode(text.trim()).expect("a key");
        known.push(Known { what: SIGNING_KEY.to_owned(), bytes });
        Search::new(known)
    }

    pub fn plugin(&self) -> Pid {
        let processes = self.bao.plugin_processes();
        assert_eq!(processes.len(), 1, "one plugin");
        processes[0]
    }
}
