//! A host with our engine, a server of each kind, and every secret that goes through.

use std::sync::Mutex;

use rustix::process::Pid;
use serde_json::{Value, json};

use crate::support::bao::{self, Bao, PLUGIN};
use crate::support::client::Client;
use crate::support::mariadb::MariaDb;
use crate::support::postgres::{self, Postgres};
use crate::support::redis::Redis;
use crate::support::search::{Known, Search};
use crate::support::tls::Authority;
use crate::support::words;

/// How many clients mint at a time.
const CLIENTS: usize = 4;

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
    /// With further arguments for the plugin. Everything that is asked of the host is in `audit.log`.
    pub fn start(arguments: &[&str]) -> World {
        let bao = Bao::start_as("trace", |dir| {
            let file = dir.join("audit.log");
            format!("raw_storage_endpoint = true\naudit \"file\" \"file\" {{ options {{ file_path = {file:?} }} }}")
        });
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

    /// The root password in force, from the host's storage.
    fn root_password(&self, connection: &str) -> Value {
        let mounts = self.client.get("sys/mounts").data();
        let mount = mounts["database/"]["uuid"].as_str().unwrap();
        let raw = self.client.get(&format!("sys/raw/logical/{mount}/config/{connection}")).data();
        let stored: Value = serde_json::from_str(raw["value"].as_str().unwrap()).unwrap();
        stored["connection_details"]["password"].clone()
    }

    /// All that was seen. What is in use now has a name of its own.
    pub fn search(&self) -> Search {
        let mut known = self.known.lock().unwrap().clone();
        for connection in ["pg", "my", "rd"] {
            let password = self.root_password(connection).as_str().unwrap().to_owned();
            known.retain(|known| known.bytes != password.as_bytes());
            known.push(Known::new(&format!("{connection}: root password in force"), &password));
        }
        Search::new(known)
    }

    pub fn plugin(&self) -> Pid {
        let processes = self.bao.plugin_processes();
        assert_eq!(processes.len(), 1, "one plugin");
        processes[0]
    }
}
