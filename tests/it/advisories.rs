//! No dependency has a known flaw, as of the facts in `tests/advisories.tsv` (from RustSec, by `scripts/advisory-facts`).
//! Needs no network; what was found since is for `make advisories`.

use std::fs;

use semver::{Version, VersionReq};

use crate::support::repository;

/// Advisories that are known and do not apply, each with the reason.
const ACCEPTED: &[(&str, &str)] = &[];

/// One advisory.
struct Advisory<'a> {
    package: &'a str,
    id: &'a str,
    kind: &'a str,
    /// Versions that match one of these do not have the flaw.
    sound: Vec<VersionReq>,
    /// The only operating systems it is about; empty for all.
    systems: &'a str,
}

fn read(facts: &str) -> Vec<Advisory<'_>> {
    let lines = facts.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let advisory = |line| {
        let fields: Vec<&str> = str::split(line, '\t').collect();
        let [package, id, kind, patched, unaffected, systems] = fields[..] else {
            panic!("not a line of facts: {line}")
        };
        let ranges =
            [patched, unaffected].into_iter().flat_map(|list| list.split("; ")).filter(|text| !text.is_empty());
        let sound =
            ranges.map(|text| VersionReq::parse(text).unwrap_or_else(|e| panic!("{id}: {text}: {e}"))).collect();
        Advisory { package, id, kind, sound, systems }
    };
    lines.map(advisory).collect()
}

/// Name and version of each package in a lock file.
fn locked(lock: &str) -> Vec<(&str, Version)> {
    fn value<'a>(entry: &'a str, key: &str) -> Option<&'a str> {
        entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
    }
    let mut found = Vec::new();
    for entry in lock.split("[[package]]\n").skip(1) {
        if let (Some(name), Some(version)) = (value(entry, "name"), value(entry, "version")) {
            found.push((name, Version::parse(version).unwrap()));
        }
    }
    found
}

/// What is known against the packages of a lock file.
fn against(lock: &str, facts: &str) -> Vec<String> {
    let packages = locked(lock);
    assert!(packages.len() > 1, "no packages");
    let mut found = Vec::new();
    for advisory in read(facts) {
        let ours = advisory.systems.is_empty() || advisory.systems.split(' ').any(|system| system == "linux");
        if !ours || ACCEPTED.iter().any(|(id, _)| *id == advisory.id) {
            continue;
        }
        for (name, version) in packages.iter().filter(|(name, _)| *name == advisory.package) {
            if !advisory.sound.iter().any(|range| range.matches(version)) {
                found.push(format!("{name} {version}: {} ({})", advisory.id, advisory.kind));
            }
        }
    }
    found
}

#[test]
fn no_dependency_has_a_known_flaw() {
    let file = |name: &str| fs::read_to_string(repository().join(name)).unwrap();
    let facts = file("tests/advisories.tsv");
    assert!(read(&facts).len() > 1000, "the facts are not all there");
    let found = against(&file("Cargo.lock"), &facts);
    println!("{}: {} against us", facts.lines().next().unwrap(), found.len());
    assert!(found.is_empty(), "{}\n(a newer version, or a line with the reason in ACCEPTED)", found.join("\n"));
    for (id, reason) in ACCEPTED {
        assert!(facts.contains(id) && reason.len() > 20, "{id} is of no use in ACCEPTED");
    }
}

#[test]
fn a_flaw_would_be_seen() {
    let lock = |version: &str| {
        format!(
            "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"rsa\"\nversion = \"{version}\"\n"
        )
    };
    let facts = "# x\nrsa\tR-1\tvulnerability\t>=0.9.5, <0.10.0; >= 1.2\t< 0.3.0\t\nrsa\tR-2\tunsound\t\t\twindows\n";
    for (version, wanted) in [("0.2.9", 0), ("0.3.0", 1), ("0.9.4", 1), ("0.9.5", 0), ("1.1.0", 1), ("1.2.0", 0)] {
        assert_eq!(against(&lock(version), facts).len(), wanted, "{version}");
    }
}
