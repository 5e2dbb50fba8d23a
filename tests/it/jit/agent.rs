//! Software that knows nothing of approvals: it reads, is refused, and reads again.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::json;

use super::site::Site;
use crate::support::server::Server;
use crate::support::{bao, wait_for};

/// R39: the agent's own read files the request; somebody approves it; the agent's template is there, and its user works.
#[test]
fn an_agent_waits_for_an_approval_and_then_renders() {
    let site = Site::start(json!({
        "eligible_classes": "service", "on_unapproved": "file", "service_reason": "the nightly report", "uses": 0,
    }));
    let bob = site.person("bob", &["approver"]);
    site.group("leads", &[&bob]);
    let (_, role_id, secret_id) = site.workload("report", &["requester"]);

    let dir = tempfile::Builder::new().prefix("leasehold-agent-").tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("role-id"), role_id).unwrap();
    std::fs::write(path("secret-id"), secret_id).unwrap();
    let template = r#"{{ with secret \"db/creds/secret\" }}{{ .Data.username }} {{ .Data.password }}{{ end }}"#;
    let configuration = format!(
        "vault {{ address = \"{}\" }}\n\
         auto_auth {{ method {{ type = \"approle\" config = {{ role_id_file_path = \"{}\" secret_id_file_path = \"{}\" \
         remove_secret_id_file_after_reading = false }} }} }}\n\
         template {{ contents = \"{template}\" destination = \"{}\" }}\n",
        site.bao.address(),
        path("role-id"),
        path("secret-id"),
        path("rendered")
    );
    std::fs::write(path("agent.hcl"), configuration.replace("} }\n", "}\n}\n").replace("{ method", "{\n method"))
        .unwrap();
    let command: Vec<OsString> = vec![
        bao::program().into(),
        "agent".into(),
        format!("-config={}", path("agent.hcl")).into(),
        "-log-level=debug".into(),
    ];
    let home = dir.path().display().to_string();
    let agent = Server::start("the agent", &command, &[("HOME", &home)], "TERM", &dir.path().join("log"));

    let id = wait_for("the agent's request", Duration::from_secs(60), || {
        assert!(!agent.ended(), "{}", agent.log());
        bob.client.get("db/inbox").data()["requests"][0]["request_id"].as_str().map(str::to_owned)
    });
    wait_for("a second attempt", Duration::from_secs(60), || {
        (agent.log().matches("jit_pending").count() > 1).then_some(())
    });
    assert!(!dir.path().join("rendered").exists(), "nothing is rendered before");
    let inbox = bob.client.get("db/inbox").data();
    assert_eq!(inbox["requests"].as_array().unwrap().len(), 1, "many reads are one request");
    assert_eq!(bob.act(&id, "approve"), "approved");
    let rendered = wait_for("the template", Duration::from_secs(120), || {
        std::fs::read_to_string(path("rendered")).ok().filter(|text| text.contains(' '))
    });
    let (user, password) = rendered.trim().split_once(' ').unwrap();
    assert_eq!(site.postgres.login(user, password, "SELECT count(*) FROM orders").as_deref(), Ok("2"));
    drop(agent);
    assert_eq!(bob.act(&id, "revoke"), "closed");
    assert!(site.postgres.login(user, password, "SELECT 1").is_err());
}
