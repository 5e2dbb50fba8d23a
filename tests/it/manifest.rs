//! What an operator installs: it must work as it is shipped.

use std::process::{Command, Output};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::bao::{Bao, PLUGIN, ROOT_TOKEN};
use crate::support::{plugin, repository};

/// Registers with the script; `path` is where it looks for a CLI.
fn register(bao: &Bao, path: &str, more: &[(&str, &str)]) -> Output {
    Command::new(repository().join("plugin-manifest/register.sh"))
        .env_clear()
        .env("PATH", path)
        .env("HOME", bao.plugins())
        .env("BAO_ADDR", bao.address())
        .env("BAO_TOKEN", ROOT_TOKEN)
        .env("PLUGIN_DIRECTORY", bao.plugins())
        .envs(more.iter().copied())
        .output()
        .unwrap()
}

fn catalogued(bao: &Bao) -> bool {
    let secrets = bao.client().list("sys/plugins/catalog/secret").data();
    secrets["keys"].as_array().unwrap().iter().any(|name| name == PLUGIN)
}

#[test]
fn the_script_registers_with_the_cli_and_without() {
    let with_cli = format!("{}:/usr/bin:/bin", repository().join(".cache/bin").display());
    for path in [with_cli.as_str(), "/usr/bin:/bin"] {
        let bao = Bao::start();
        let output = register(&bao, path, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(catalogued(&bao));
        bao.mount("database", PLUGIN);
    }
}

#[test]
fn the_script_refuses_what_the_server_would_refuse_later() {
    let bao = Bao::start();
    for (more, why) in [
        (("NAME", "database"), "no external plugin"),
        (("BINARY", "nosuch"), "copy the binary there first"),
        (("PLUGIN_DIRECTORY", ""), "set PLUGIN_DIRECTORY"),
        (("BINARY", "link"), "symbolic link"),
    ] {
        let link = bao.plugins().join("link");
        if !link.exists() {
            std::os::unix::fs::symlink(plugin(), link).unwrap();
        }
        let output = register(&bao, "/usr/bin:/bin", &[more]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!catalogued(&bao));
}

/// The stanza as shipped, with the hash of this binary and the test's plugin directory.
#[test]
fn the_declared_plugin_is_in_the_catalogue_after_the_start() {
    let hcl = std::fs::read_to_string(repository().join("plugin-manifest/openbao.hcl")).unwrap();
    let sha256: String =
        Sha256::digest(std::fs::read(plugin()).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let hcl: Vec<String> = hcl
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("plugin_directory"))
        .map(|line| line.replace(&"0".repeat(64), &sha256))
        .collect();
    let hcl = hcl.join("\n");
    assert!(hcl.contains(&sha256) && hcl.contains(&format!("version   = \"v{}\"", env!("CARGO_PKG_VERSION"))));
    let bao = Bao::start_with(&hcl);
    assert!(catalogued(&bao), "not registered");
    bao.mount("database", PLUGIN);
}

/// Each policy is accepted and lets its holder do its own work and nobody else's.
#[test]
fn the_policies_separate_who_may_do_what() {
    let bao = Bao::start();
    bao.mount("database", "database");
    let root = bao.client();
    root.post("database/roles/my-role", json!({ "db_name": "nosuch" })).expect(204);
    let may = |policy: &str, method: &str, path: &str| {
        let file = repository().join(format!("plugin-manifest/policies/{policy}.hcl"));
        let text = std::fs::read_to_string(file).unwrap();
        root.post(&format!("sys/policies/acl/{policy}"), json!({ "policy": text })).expect(204);
        let token = root.post("auth/token/create", json!({ "policies": [policy] })).expect(200);
        let client = root.with_token(token["auth"]["client_token"].as_str().unwrap());
        let body = (method == "POST").then(|| json!({}));
        client.request(method, path, body.as_ref()).status != 403
    };
    for (method, path, holders) in [
        ("GET", "database/creds/my-role", ["reader"].as_slice()),
        ("GET", "database/creds/other", &[]),
        ("GET", "database/static-creds/my-role", &["reader"]),
        ("POST", "database/config/x", &["operator"]),
        ("GET", "database/config/x", &["operator"]),
        ("LIST", "database/config", &["operator"]),
        ("LIST", "database/roles", &["operator"]),
        ("POST", "database/roles/x", &["operator"]),
        ("DELETE", "database/roles/x", &["operator"]),
        ("POST", "database/reset/x", &["operator"]),
        ("POST", "database/rotate-root/x", &["rotation"]),
        ("POST", "database/rotate-role/x", &["rotation"]),
        ("LIST", "database/static-roles", &["operator", "rotation"]),
        ("POST", "sys/leases/revoke-prefix/database/creds/x", &["operator"]),
        ("POST", "sys/leases/revoke-force/database/creds/x", &[]),
    ] {
        for policy in ["reader", "operator", "rotation"] {
            assert_eq!(may(policy, method, path), holders.contains(&policy), "{policy}: {method} {path}");
        }
    }
}

/// Three nodes and a sidecar, one of the nodes killed. It checks each of its own steps, too.
#[test]
fn the_demo_of_a_cluster_shows_what_it_says() {
    let output = Command::new(repository().join("scripts/demo-cluster")).env("PLUGIN", plugin()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("an application that was never without a credential"), "{text}");
}

/// The demo is what a newcomer runs first. It checks each of its own steps.
#[test]
fn the_demo_shows_what_it_says() {
    let output = Command::new(repository().join("scripts/demo")).env("PLUGIN", plugin()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("nothing left behind"), "{text}");
}
