//! `bao agent` and `bao proxy` with the examples' configurations, through everything that may happen meanwhile.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::{LIMIT, Site};
use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::tls::Authority;
use crate::support::{bao, free_port, wait_for};

/// Starts `bao agent` or `bao proxy`.
fn start(site: &Site, what: &'static str, configuration: &Path) -> Server {
    let command: Vec<OsString> = vec![
        bao::program().into(),
        what.into(),
        format!("-config={}", configuration.display()).into(),
        "-log-level=debug".into(),
    ];
    let home = site.dir.path().display().to_string();
    Server::start("the sidecar", &command, &[("HOME", &home)], "TERM", &site.path("log"))
}

/// What a rendered file says; `None` if it is not there (yet), a panic if it holds anything else than a credential.
pub fn rendered(path: &Path) -> Option<(String, String)> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let mut value = |name: &str| {
        let line = lines.next().unwrap_or_else(|| panic!("rendered: {text:?}"));
        line.strip_prefix(name).unwrap_or_else(|| panic!("rendered: {text:?}")).to_owned()
    };
    let (user, password) = (value("DB_USERNAME="), value("DB_PASSWORD="));
    assert!(user.starts_with("v-") && password.len() >= 20 && lines.next().is_none(), "rendered: {text:?}");
    Some((user, password))
}

/// Waits for a credential that is not the one before, and works.
#[track_caller]
fn another(site: &Site, file: &Path, sidecar: &Server, before: Option<&str>) -> String {
    wait_for("another credential in the file", LIMIT, || {
        assert!(!sidecar.ended(), "{}", sidecar.log());
        let (user, password) = rendered(file).filter(|(user, _)| Some(user.as_str()) != before)?;
        site.postgres.login(&user, &password, "SELECT 1").is_ok().then_some(user)
    })
}

/// The leases of the role.
fn leases(client: &Client) -> Vec<String> {
    let answer = client.list("sys/leases/lookup/database/creds/app");
    let keys = if answer.status == 200 { answer.data()["keys"].take() } else { json!([]) };
    keys.as_array().unwrap().iter().map(|key| format!("database/creds/app/{}", key.as_str().unwrap())).collect()
}

#[test]
fn an_agent_keeps_a_good_credential_in_its_file_whatever_happens() {
    let mut site = Site::start(|_| String::new());
    site.app_role();
    let file = site.path("database.env");
    let etc = site.dir.path().display().to_string();
    let configuration = site.example(
        "agent/approle.hcl",
        &[("https://bao.example.com:8200", site.bao.address()), ("/etc/leasehold", &etc), ("/run/leasehold", &etc)],
    );
    let agent = start(&site, "agent", &configuration);
    let first = another(&site, &file, &agent, None);

    // It is renewed while it can be, and read anew before its end: there is never one in the file that is over for good.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::SeqCst) {
                // Panics if there is anything else in it.
                rendered(&file).expect("the file is there");
                seen += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            seen
        });
        let second = another(&site, &file, &agent, Some(&first));

        // Somebody revokes the lease.
        leases(&site.client).iter().for_each(|lease| drop(site.client.revoke(lease)));
        let third = another(&site, &file, &agent, Some(&second));

        // The plugin dies.
        site.kill_plugin();
        another(&site, &file, &agent, Some(&third));
        stop.store(true, Ordering::SeqCst);
        assert!(watching.join().unwrap() > 100);
    });

    // The database is away when a new one is due.
    let (before, _) = rendered(&file).unwrap();
    site.postgres.stop();
    leases(&site.client).iter().for_each(|lease| drop(site.client.revoke(lease)));
    let refused = || agent.log().matches("no session").count() + agent.log().matches("refused").count();
    let so_far = refused();
    wait_for("a read that fails", LIMIT, || (refused() > so_far).then_some(()));
    assert_eq!(rendered(&file).unwrap().0, before, "the file stays as it is");
    site.postgres.start_again();
    another(&site, &file, &agent, Some(&before));
}

#[test]
fn an_agent_logs_in_by_a_certificate() {
    let authority = Authority::new();
    let (server, server_key) = authority.sign("bao", &["127.0.0.1", "localhost"]);
    let (client, client_key) = authority.sign("app.example.com", &["app.example.com"]);
    let port = free_port();
    let site = Site::start(|dir| {
        let path = |name: &str| dir.join(name).display().to_string();
        std::fs::write(path("server.pem"), &server).unwrap();
        std::fs::write(path("server-key.pem"), &server_key).unwrap();
        format!(
            "listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n tls_cert_file = {:?}\n tls_key_file = {:?}\n}}",
            path("server.pem"),
            path("server-key.pem")
        )
    });
    site.policy("sidecar", "agent/policy.hcl");
    site.client.post("sys/auth/cert", json!({ "type": "cert" })).expect(204);
    let trusted = json!({ "certificate": authority.pem, "allowed_common_names": "app.example.com",
                          "token_policies": "sidecar" });
    site.client.post("auth/cert/certs/app", trusted).expect(204);
    site.write("ca.pem", &authority.pem);
    site.write("client.pem", &client);
    site.write("client-key.pem", &client_key);
    let etc = site.dir.path().display().to_string();
    let configuration = site.example(
        "agent/cert.hcl",
        &[
            ("https://bao.example.com:8200", &format!("https://127.0.0.1:{port}")),
            ("/etc/leasehold", &etc),
            ("/run/leasehold", &etc),
        ],
    );
    let agent = start(&site, "agent", &configuration);
    another(&site, &site.path("database.env"), &agent, None);
}

#[test]
fn an_agent_runs_an_application_anew_with_each_credential() {
    let site = Site::start(|_| String::new());
    site.app_role();
    let seen = site.path("seen");
    // Writes what it was given, and goes on until it is told to end.
    let app = format!(
        "trap 'exit 0' TERM; echo \"$DB_USERNAME $DB_PASSWORD\" >> {}; while :; do sleep 0.1; done",
        seen.display()
    );
    site.write("app.sh", &app);
    let etc = site.dir.path().display().to_string();
    let configuration = site.example(
        "agent/exec.hcl",
        &[
            ("https://bao.example.com:8200", site.bao.address()),
            ("/etc/leasehold", &etc),
            ("\"/usr/local/bin/app\"", &format!("\"/bin/sh\", \"{etc}/app.sh\"")),
        ],
    );
    let agent = start(&site, "agent", &configuration);
    let runs = || std::fs::read_to_string(&seen).unwrap_or_default();
    wait_for("two runs of the application", LIMIT, || {
        assert!(!agent.ended(), "{}", agent.log());
        (runs().lines().count() >= 2).then_some(())
    });
    let text = runs();
    let users: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    assert!(users.iter().all(|(user, password)| user.starts_with("v-") && password.len() >= 20), "{text}");
    assert_ne!(users[0].0, users[1].0);
    let (user, password) = users[users.len() - 1];
    site.postgres.login(user, password, "SELECT 1").unwrap();
}

#[test]
fn a_proxy_reads_for_those_who_have_no_token() {
    let site = Site::start(|_| String::new());
    site.app_role();
    let port = free_port();
    let etc = site.dir.path().display().to_string();
    let configuration = site.example(
        "proxy/proxy.hcl",
        &[
            ("https://bao.example.com:8200", site.bao.address()),
            ("/etc/leasehold", &etc),
            ("127.0.0.1:8100", &format!("127.0.0.1:{port}")),
        ],
    );
    let proxy = start(&site, "proxy", &configuration);
    let nobody = Client::new(&format!("http://127.0.0.1:{port}"), "");
    let read = || {
        assert!(!proxy.ended(), "{}", proxy.log());
        let answer = nobody.try_request("GET", "database/creds/app", None, &[]).ok()?;
        (answer.status == 200).then_some(answer.body)
    };
    let first = wait_for("a credential", LIMIT, read);
    let text = |name: &str| first["data"][name].as_str().unwrap();
    site.postgres.login(text("username"), text("password"), "SELECT 1").unwrap();
    let second = read().unwrap();
    assert_eq!(first["data"]["username"], second["data"]["username"], "one lease for everybody");
    assert_eq!(leases(&site.client).len(), 1);
    // What the policy does not say, nobody gets through it either.
    assert_eq!(nobody.get("database/config/pg").status, 403);
    // When it cannot be renewed any more, there is another.
    wait_for("another credential", LIMIT, || {
        read().filter(|body| body["data"]["username"] != first["data"]["username"])
    });
}

/// What External Secrets does: a new read every interval, and never a word of the old one.
#[test]
fn a_loop_that_only_reads_leaves_no_more_than_live_leases() {
    let site = Site::start(|_| String::new());
    site.policy("sidecar", "agent/policy.hcl");
    let operator = site.client.with_token(&site.token("sidecar"));
    let users =
        || site.postgres.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").parse::<usize>().unwrap();
    // Six seconds each: one read a second is six or seven users at a time, and some that are just ending.
    let mut most = 0;
    for _ in 0..15 {
        operator.get("database/creds/app").expect(200);
        most = most.max(users());
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    assert!((4..=10).contains(&most), "{most} users at a time");
    wait_for("the end of all", LIMIT, || (users() == 0).then_some(()));
}
