//! Just-in-time access through a real host, with people and workloads who each have a token of their own.

mod agent;
mod evidence;
mod governance;
mod proof;
mod selftest;
mod site;

use std::time::Duration;

use serde_json::json;
use site::Site;

use crate::support::wait_for;

/// R5, R12, R17: one token and one ACL, before, within and after. When `complete` has answered nothing is left at the
/// database, while the lease is still there.
#[test]
fn access_is_asked_for_agreed_to_used_and_over() {
    let site = Site::start(json!({ "grant_ttl": "10m" }));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);

    let (status, text) = ann.refused("GET", "db/creds/secret");
    assert!(
        status == 403 && text.contains("jit_approval_required") && text.contains("bao write db/requests/secret"),
        "{text}"
    );
    let id = ann.file();
    let (status, text) = ann.refused("GET", "db/creds/secret");
    assert!(status == 403 && text.contains(&format!("jit_pending: {id} 0/1")), "{text}");
    let inbox = bob.client.get("db/inbox").data();
    assert_eq!(
        (&inbox["requests"][0]["request_id"], &inbox["requests"][0]["reason"]),
        (&json!(id), &json!("an order is stuck"))
    );
    assert_eq!(bob.act(&id, "approve"), "approved");

    let minted = ann.client.get("db/creds/secret").expect(200);
    let text = |key: &str| minted["data"][key].as_str().unwrap().to_owned();
    let (user, password) = (text("username"), text("password"));
    assert_eq!(text("request_id"), id);
    assert!(minted["lease_duration"].as_u64().unwrap() <= 600, "{minted}");
    let mut session = site.postgres.session(&user, &password);
    assert_eq!(session.one("SELECT count(*) FROM orders").as_deref(), Some("2"));
    // R3: the user itself says whose it is.
    let comment = site.postgres.sql(&format!(
        "SELECT description FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid WHERE rolname = '{user}'"
    ));
    assert!(comment.contains(&id) && comment.contains(&ann.entity), "{comment}");
    assert!(user.contains(&id[id.len() - 8..]), "{user}");

    let (status, _) = ann.refused("GET", "db/creds/secret");
    assert_eq!(status, 403, "one use is one credential");
    assert_eq!(ann.act(&id, "complete"), "closed");
    assert_eq!(session.one("SELECT 1"), None, "the open session ended");
    assert!(site.postgres.login(&user, &password, "SELECT 1").is_err());
    assert_eq!(site.postgres.sql(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'")), "0");
    let lease = minted["lease_id"].as_str().unwrap();
    site.root.lookup(lease).expect(200);
    site.root.revoke(lease).expect(204);
    let seen = ann.client.get(&format!("db/requests/secret/{id}")).data();
    assert_eq!(
        (&seen["state"], &seen["end_reason"], &seen["approvals"]),
        (&json!("closed"), &json!("completed"), &json!("1/1"))
    );
}

/// The ACL says who may try, the policy who may: each holds without the other.
#[test]
fn both_gates_must_open() {
    let site = Site::start(json!({ "eligible_groups": "devs" }));
    let (ann, bob, eve) = (
        site.person("ann", &["requester"]),
        site.person("bob", &["approver"]),
        site.person("eve", &["requester", "approver"]),
    );
    site.group("leads", &[&bob]);
    site.group("devs", &[&ann]);
    let id = ann.file();
    // Not in the ACL.
    for (person, method, path) in [
        (&bob, "POST", "db/requests/secret".to_owned()),
        (&bob, "GET", "db/creds/secret".to_owned()),
        (&ann, "POST", format!("db/requests/secret/{id}/approve")),
        (&ann, "GET", "db/inbox".to_owned()),
    ] {
        let (status, text) = person.refused(method, &path);
        assert!(status == 403 && text.contains("permission denied"), "{method} {path}: {text}");
    }
    // In the ACL, and not in the policy.
    let (status, text) = eve.refused("POST", "db/requests/secret");
    assert!(status == 403 && text.contains("eligible_groups"), "{text}");
    let (status, text) = eve.refused("GET", "db/creds/secret");
    assert!(status == 403 && text.contains("eligible_groups"), "{text}");
    assert_eq!(
        eve.refused("POST", &format!("db/requests/secret/{id}/approve")).0,
        404,
        "what is not hers is not there"
    );
    assert_eq!(eve.refused("GET", &format!("db/requests/secret/{id}")).0, 404);
    assert_eq!(bob.act(&id, "approve"), "approved");
    assert_eq!(bob.act(&id, "revoke"), "closed");
    assert_eq!(ann.refused("GET", "db/creds/secret").0, 403);
}

/// R1, R2, R13: who is nobody, or two at once, or votes for himself.
#[test]
fn who_is_not_clear_gets_nothing_and_nobody_agrees_with_himself() {
    let site = Site::start(json!({}));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["requester", "approver"]));
    let (robot, ..) = site.workload("robot", &["requester"]);
    site.group("leads", &[&bob]);
    let answer = site.root.get("db/creds/secret");
    assert!(answer.status == 403 && answer.body.to_string().contains("the token has no entity"), "{}", answer.body);
    let (status, text) = robot.refused("POST", "db/requests/secret");
    assert!(status == 403 && text.contains("eligible_classes says human"), "{text}");

    let own = bob.file();
    let (status, text) = bob.refused("POST", &format!("db/requests/secret/{own}/approve"));
    assert!(status == 403 && text.contains("nobody votes on a request of his own"), "{text}");

    // A second way to log in, of another class, on the same entity.
    let accessor = site.root.get("sys/auth").data()["approle/"]["accessor"].as_str().unwrap().to_owned();
    let alias = json!({ "name": "ann-the-robot", "canonical_id": ann.entity, "mount_accessor": accessor });
    site.root.post("identity/entity-alias", alias).expect(200);
    let (status, text) = ann.refused("POST", "db/requests/secret");
    assert!(status == 403 && text.contains("jit_identity") && text.contains("ambiguous class"), "{text}");
    let metadata = json!({ "metadata": { "jit_class": "human" } });
    site.root.post(&format!("identity/entity/id/{}", ann.entity), metadata).expect(204);
    ann.file();
}

/// R25: a disabled entity's session is dead within a tick, and its pending requests lead nowhere.
#[test]
fn who_is_disabled_loses_the_session_that_is_open() {
    let site = Site::start(json!({}));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);
    let id = ann.file();
    bob.act(&id, "approve");
    let minted = ann.client.get("db/creds/secret").data();
    let text = |key: &str| minted[key].as_str().unwrap();
    let mut session = site.postgres.session(text("username"), text("password"));
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
    site.root.post(&format!("identity/entity/id/{}", ann.entity), json!({ "disabled": true })).expect(204);
    wait_for("the session to end", Duration::from_secs(60), || session.one("SELECT 1").is_none().then_some(()));
    wait_for("the end in the record", Duration::from_secs(60), || {
        let chain = site.root.get(&format!("db/evidence/chain/{id}")).data();
        (chain["state"] == "closed").then_some(())
    });
    let kinds = site.kinds(&id);
    assert!(kinds.contains(&"revoke.verified".to_owned()), "{kinds:?}");
}

/// A read may wait for the approval, and the plugin's process may die in between.
#[test]
fn a_read_waits_and_a_grant_outlives_the_process() {
    let site = Site::start(json!({ "uses": 2 }));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);
    let id = ann.file();
    let client = ann.client.clone();
    let waiting = std::thread::spawn(move || client.get("db/creds/secret?wait=60s"));
    wait_for("the read to be on its way", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(300));
        (!waiting.is_finished()).then_some(())
    });
    bob.act(&id, "approve");
    let minted = waiting.join().unwrap().data();
    assert_eq!(minted["request_id"], json!(id));

    let process = site.bao.plugin_processes()[0];
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let again = wait_for("the second use", Duration::from_secs(30), || {
        let answer = ann.client.get("db/creds/secret");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(again.data()["request_id"], json!(id));
    assert_eq!(ann.refused("GET", "db/creds/secret").0, 403, "two uses are two credentials");
    assert_eq!(ann.act(&id, "complete"), "closed");
    let users = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'";
    assert_eq!(site.postgres.sql(users), "0");
}

/// R8, R9: a schema that was approved is the only one that the user sees.
#[test]
fn a_parameter_narrows_the_user() {
    let site = Site::start(json!({}));
    site.postgres
        .sql("CREATE SCHEMA sales; CREATE TABLE sales.t (id int); CREATE SCHEMA hr; CREATE TABLE hr.t (id int)");
    site.role(json!({
        "creation_statements": "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'; \
             GRANT USAGE ON SCHEMA \"{{schema}}\" TO \"{{name}}\"; GRANT SELECT ON ALL TABLES IN SCHEMA \"{{schema}}\" TO \"{{name}}\"",
        "params_allowed": { "schema": "[a-z]+" },
    }));
    let (ann, bob) = (site.person("ann", &["requester"]), site.person("bob", &["approver"]));
    site.group("leads", &[&bob]);
    let filed =
        ann.client.post("db/requests/secret", json!({ "reason": "report", "params": { "schema": "sales" } })).data();
    let id = filed["request_id"].as_str().unwrap();
    bob.act(id, "approve");
    assert_eq!(ann.refused("GET", "db/creds/secret?params=schema=hr").0, 403);
    let minted = ann.client.get("db/creds/secret?params=schema=sales").data();
    let login = |sql: &str| {
        site.postgres.login(minted["username"].as_str().unwrap(), minted["password"].as_str().unwrap(), sql)
    };
    assert!(login("SELECT * FROM sales.t").is_ok());
    assert!(login("SELECT * FROM hr.t").is_err());
}
