//! The rotation job and the clients.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::Site;
use super::rust_client::Server;
use crate::support::{bao, repository};

fn job(site: &Site, token: &str, more: &[(&str, &str)]) -> (bool, Value, String) {
    let port = site.postgres.port().to_string();
    let Output { status, stdout, stderr } = Command::new("/bin/sh")
        .arg(repository().join("examples/rotation/rotate.sh"))
        .env("BAO", bao::program())
        .env("BAO_ADDR", site.bao.address())
        .env("BAO_TOKEN", token)
        .env("HOME", site.dir.path())
        .envs([("ROOTS", "pg"), ("STATIC_ROLES", "batch report"), ("VERIFY", "1"), ("VERIFY_HOST", "127.0.0.1")])
        .envs([("VERIFY_PORT", port.as_str()), ("WAIT", "3")])
        .envs(more.iter().copied())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    let report = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (status.success(), report.unwrap_or_else(|| panic!("{stdout}{stderr}")), stderr)
}

#[test]
fn the_rotation_job_does_what_is_to_be_done_with_the_least_policy() {
    let site = Site::start(|_| String::new());
    for name in ["batch", "report"] {
        site.postgres.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'first'"));
        let role = json!({ "db_name": "pg", "username": name, "rotation_period": "24h" });
        site.client.post(&format!("database/static-roles/{name}"), role).expect(204);
    }
    site.policy("rotation", "rotation/policy.hcl");
    let token = site.token("rotation");
    let password = |name: &str| site.client.get(&format!("database/static-creds/{name}")).data()["password"].clone();
    let before = [password("batch"), password("report")];

    // They have just been changed.
    let (well, report, log) = job(&site, &token, &[("ROOTS", "")]);
    assert!(well, "{log}");
    let both = json!(["static-roles/batch", "static-roles/report"]);
    assert_eq!(report, json!({ "rotated": [], "left_alone": both, "failed": [] }), "{log}");
    assert_eq!([password("batch"), password("report")], before);

    let (well, report, log) = job(&site, &token, &[("MIN_AGE", "0")]);
    assert!(well, "{log}");
    let all = json!(["static-roles/batch", "static-roles/report", "config/pg"]);
    assert_eq!(report, json!({ "rotated": all, "left_alone": [], "failed": [] }), "{log}");
    assert_ne!([password("batch"), password("report")], before);
    site.client.get("database/creds/app").expect(200);

    // One that cannot be changed is told, and hinders no other.
    site.postgres.sql("ALTER ROLE batch RENAME TO away");
    let (well, report, log) = job(&site, &token, &[("MIN_AGE", "0"), ("ROOTS", "")]);
    assert!(!well && report["failed"] == json!(["static-roles/batch"]), "{report} {log}");
    assert_eq!(report["rotated"], json!(["static-roles/report"]));

    // Nothing beyond its work.
    let job = site.client.with_token(&token);
    for path in ["database/config/pg", "database/creds/app", "database/roles/app"] {
        assert_eq!(job.get(path).status, 403, "{path}");
    }
    assert_eq!(job.delete("database/static-roles/report").status, 403);
}

/// Runs a client, and looks whether its user is gone afterwards.
fn client_works(site: &Site, program: &str, arguments: &[&str]) {
    let run = Command::new(program)
        .args(arguments)
        .current_dir(repository().join("examples/clients"))
        .env("BAO_ADDR", site.bao.address())
        .env("BAO_TOKEN", site.client.token())
        .output()
        .unwrap();
    let (told, error) = (String::from_utf8_lossy(&run.stdout).into_owned(), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{program}: {told}{error}");
    assert!(told.starts_with("v-"), "{told}");
    assert_eq!(site.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"), "0");
}

#[test]
fn clients_in_other_languages_read_renew_and_give_back() {
    let works = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let site = Site::start(|_| String::new());
    if works("node", &["-e", "fetch"]) {
        client_works(&site, "node", &["client.js", "database/creds/app"]);
    } else {
        println!("no Node.js 18 here: client.js is not exercised");
    }
    // scripts/setup brings it.
    let python = repository().join(".cache/hvac/bin/python").display().to_string();
    client_works(&site, &python, &["client.py", "database", "app"]);
}

#[test]
fn a_client_in_rust_reads_renews_and_gives_back() {
    let site = Site::start(|_| String::new());
    let server = Server::new(site.bao.address(), site.client.token());
    let mut credential = server.read("database/creds/app").unwrap();
    site.postgres.login(&credential.username, &credential.password, "SELECT 1").unwrap();
    // The role gives six seconds at a time.
    assert_eq!(credential.lasts.as_secs(), 6);
    credential.lasts = std::time::Duration::ZERO;
    server.renew(&mut credential).unwrap();
    assert!((5..=6).contains(&credential.lasts.as_secs()));
    let user = credential.username.clone();
    server.give_back(credential).unwrap();
    assert_eq!(site.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"), "0", "{user}");
    let refused = server.read("database/creds/none").err().unwrap();
    assert!(refused.starts_with("GET database/creds/none: 400 "), "{refused}");
}
