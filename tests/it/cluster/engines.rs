//! Both engines on one cluster, in several mounts, in two namespaces: the active node dies, and each goes on where it was.

use serde_json::{Value, json};

use super::{CREATION, LIMIT};
use crate::support::aws::{ALLOW_ALL, Aws, Key, TRUST_ALL};
use crate::support::bao::PLUGIN;
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres};
use crate::support::wait_for;

/// Each kind of mount in the root namespace and in another one.
const SPACES: [&str; 2] = ["", "team/"];

/// A credential, as somebody got it.
struct Given {
    lease: String,
    data: Value,
}

fn read(client: &Client, path: &str) -> Given {
    // The mounts of a node that has just taken over come one after the other.
    wait_for(path, LIMIT, || {
        let answer = client.try_request("GET", path, None, &[]).ok()?;
        if answer.status != 200 {
            eprintln!("{path}: {} {}", answer.status, answer.body);
            return None;
        }
        Some(Given { lease: answer.body["lease_id"].as_str().unwrap().to_owned(), data: answer.data() })
    })
}

fn mount(cluster: &Cluster, postgres: &Postgres, aws: &Aws) {
    cluster.register();
    cluster.register_as("aws", "aws");
    cluster.write("sys/namespaces/team", json!({}));
    let engine = aws.user("engine", &[("all", ALLOW_ALL)]);
    let arn = aws.role("app", TRUST_ALL);
    for space in SPACES {
        cluster.write(&format!("{space}sys/mounts/db"), json!({ "type": PLUGIN }));
        let connection = json!({ "plugin_name": "postgresql-database-plugin", "connection_url": postgres.url(),
            "username": ADMIN, "password": ADMIN_PASSWORD, "allowed_roles": "*" });
        cluster.write(&format!("{space}db/config/pg"), connection);
        let role = json!({ "db_name": "pg", "creation_statements": CREATION, "default_ttl": "1h" });
        cluster.write(&format!("{space}db/roles/app"), role);

        cluster.write(&format!("{space}sys/mounts/aws"), json!({ "type": "aws" }));
        let account = json!({ "access_key": engine.id, "secret_key": engine.secret, "region": "us-east-1",
            "iam_endpoint": aws.url(), "sts_endpoint": aws.url() });
        cluster.write(&format!("{space}aws/config/root"), account);
        let session = json!({ "credential_type": "assumed_role", "role_arns": arn });
        cluster.write(&format!("{space}aws/roles/session"), session);
        let user = json!({ "credential_type": "iam_user", "policy_document": ALLOW_ALL });
        cluster.write(&format!("{space}aws/roles/user"), user);
    }
}

#[test]
fn both_engines_go_on_where_they_were_when_the_active_node_is_killed() {
    let (mut cluster, postgres, aws) = std::thread::scope(|scope| {
        let postgres = scope.spawn(Postgres::start);
        let aws = scope.spawn(Aws::ministack);
        (Cluster::start(3), postgres.join().unwrap(), aws.join().unwrap())
    });
    mount(&cluster, &postgres, &aws);
    let opens = |given: &Given| {
        let text = |field: &str| given.data[field].as_str().unwrap();
        postgres.login(text("username"), text("password"), "SELECT 1").is_ok()
    };
    let works = |given: &Given| aws.s3(&Key::of(&given.data)).ok();
    let kinds = ["db/creds/app", "aws/creds/session", "aws/creds/user"];
    let paths: Vec<String> = SPACES.iter().flat_map(|space| kinds.map(|kind| format!("{space}{kind}"))).collect();
    let well = |path: &str, given: &Given| if path.contains("aws/") { works(given) } else { opens(given) };

    // From a standby: it passes on.
    let (active, passing) = (cluster.active(), (cluster.active() + 1) % 3);
    let held: Vec<[Given; 2]> = paths.iter().map(|path| [0, 1].map(|_| read(&cluster.client(passing), path))).collect();
    for (path, pair) in paths.iter().zip(&held) {
        assert!(pair.iter().all(|given| well(path, given)), "{path}");
    }
    // The host runs one process for each engine, whatever there is of mounts.
    let processes = || cluster.nodes[active].plugin_processes().len();
    wait_for("one process for each engine", LIMIT, || (processes() == 2).then_some(()));

    // What counts is what the node knows that acts, whoever is asked; of itself a standby says that it is one.
    for space in SPACES {
        let standby = cluster.client(passing);
        let status = standby.get(&format!("{space}aws/status")).data();
        assert!(status["users"]["live"].as_u64() >= Some(2), "{status}");
        let text = standby.get(&format!("{space}aws/metrics")).body;
        let text = text.as_str().unwrap();
        assert!(text.contains("\nleasehold_standby 1") && !text.contains("leasehold_users{"), "{text}");
    }

    cluster.crash(active);
    let client = cluster.client(cluster.active());
    for (path, [one, other]) in paths.iter().zip(&held) {
        assert!(well(path, one) && well(path, other), "{path}");
        // What one node has made another ends, and nothing besides.
        wait_for("the revocation", LIMIT, || (client.revoke(&one.lease).status == 204).then_some(()));
        wait_for("its end", LIMIT, || (!well(path, one)).then_some(()));
        assert!(well(path, other), "{path}: ended with another one");
        let new = read(&client, path);
        assert!(well(path, &new), "{path}");
        client.revoke(&new.lease).expect(204);
    }
    for space in SPACES {
        let status = client.get(&format!("{space}aws/status")).data();
        assert_eq!(status["complaints"], json!([]), "{status}");
        assert!(status["users"]["live"].as_u64() >= Some(1), "{status}");
        let status = client.get(&format!("{space}db/status/pg")).data();
        assert!(status["users"]["live"].as_u64() >= Some(1), "{status}");
    }
}
