//! `scripts/dist`: what is packed, and that the same input gives the same bytes.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::repository;

fn pack(to: &Path) {
    // Any program: what is packed is the plugin's name, whatever is in it.
    let packed = Command::new(repository().join("scripts/dist")).arg("/bin/true").env("DIST", to).output().unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
}

fn output(program: &str, arguments: &[&str], place: &Path) -> String {
    let run = Command::new(program).args(arguments).current_dir(place).output().unwrap();
    assert!(run.status.success(), "{program}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn packages_hold_the_plugin_and_are_the_same_twice() {
    let [one, two] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    pack(one.path());
    pack(two.path());
    let sums = std::fs::read_to_string(one.path().join("SHA256SUMS")).unwrap();
    assert_eq!(sums, std::fs::read_to_string(two.path().join("SHA256SUMS")).unwrap());
    output("sha256sum", &["--check", "SHA256SUMS"], one.path());
    let file = |ending: &str| {
        let name = sums.lines().filter_map(|line| line.split_whitespace().nth(1)).find(|name| name.ends_with(ending));
        name.unwrap_or_else(|| panic!("no {ending} in {sums}")).to_owned()
    };
    let program = std::fs::read("/bin/true").unwrap();

    // The Debian package, by Debian's own program.
    let deb = file(".deb");
    assert!(output("dpkg-deb", &["--field", &deb, "Package"], one.path()).starts_with("leasehold"));
    output("dpkg-deb", &["--extract", &deb, "deb"], one.path());
    let installed = one.path().join("deb/usr");
    assert!(std::fs::read(installed.join("lib/openbao/plugins/leasehold")).unwrap() == program);
    assert!(installed.join("share/doc/leasehold/docs/operators.md").exists());

    // The image: every digest holds, and the entry point is the layer's one file.
    std::fs::create_dir(one.path().join("oci")).unwrap();
    output("tar", &["-xf", &file(".oci.tar"), "-C", "oci"], one.path());
    let blob = |reference: &Value| {
        let digest = reference["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = std::fs::read(one.path().join("oci/blobs/sha256").join(digest)).unwrap();
        assert_eq!(hex(&bytes), digest);
        assert_eq!(reference["size"], bytes.len());
        bytes
    };
    let index: Value = serde_json::from_slice(&std::fs::read(one.path().join("oci/index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
    assert_eq!(config["config"]["Entrypoint"][0], "/leasehold");
    std::fs::write(one.path().join("layer.tar.gz"), blob(&manifest["layers"][0])).unwrap();
    assert_eq!(output("tar", &["-tzf", "layer.tar.gz"], one.path()).trim(), "leasehold");

    // The list of what is linked in, and not of what only tests use.
    let list: Value = serde_json::from_slice(&std::fs::read(one.path().join(file(".cdx.json"))).unwrap()).unwrap();
    let names: Vec<&str> =
        list["components"].as_array().unwrap().iter().map(|component| component["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"tokio") && names.contains(&"sqlx-postgres"), "{names:?}");
    assert!(!names.contains(&"proptest") && !names.contains(&"ureq"), "{names:?}");
    assert_eq!(list["metadata"]["component"]["hashes"][0]["content"], hex(&program));
}

#[test]
fn a_binary_that_tells_where_it_was_built_is_not_packed() {
    let place = tempfile::tempdir().unwrap();
    let binary = place.path().join("leasehold");
    let sources = repository().join("src/main.rs");
    std::fs::write(&binary, format!("\x7fELF {}", sources.display())).unwrap();
    let dist = place.path().join("dist");
    let packed = Command::new(repository().join("scripts/dist")).arg(&binary).env("DIST", &dist).output().unwrap();
    let told = String::from_utf8_lossy(&packed.stderr);
    assert!(!packed.status.success() && told.contains("paths of this machine"), "{told}");
    assert!(!dist.exists());
}
