//! No secret that was answered or used leaves a copy: not in the memory of the plugin, which is read from outside and
//! searched, and not in what anybody writes.

mod aws;
mod process;
mod world;

use std::path::Path;
use std::time::Duration;

use aws::Site;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Pid;
use serde_json::{Value, json};
use world::{SIGNING_KEY, World};

use crate::support::bao::Bao;
use crate::support::search::Search;
use crate::support::{bao, memory, redis, repository, words};

/// How many credentials of each kind are minted.
const MINTS: usize = 200;
/// How many clients mint at a time.
const CLIENTS: usize = 4;
/// How long the plugin is left alone before its memory is read.
const QUIET: Duration = Duration::from_secs(2);

/// A host that shows what it stores, with everything that is asked of it in `audit.log`, and another build of the plugin
/// if one is given.
fn started(build: Option<&Path>) -> Bao {
    let bao = Bao::start_as("trace", |dir| {
        let file = dir.join("audit.log");
        format!("raw_storage_endpoint = true\naudit \"file\" \"file\" {{ options {{ file_path = {file:?} }} }}")
    });
    if let Some(build) = build {
        let plugin = bao.plugins().join("leasehold");
        std::fs::remove_file(&plugin).unwrap();
        std::fs::copy(build, plugin).unwrap();
    }
    bao
}

#[test]
fn no_copy_of_a_secret_stays_in_memory() {
    if !may_look() {
        return;
    }
    let world = used_databases(None);
    let lives: Vec<String> = ["pg", "my", "rd"].map(|name| format!("{name}: root password in force")).into();
    let lives: Vec<&str> = lives.iter().map(String::as_str).chain([SIGNING_KEY]).collect();
    judge(world.plugin(), &world.search(), world.bao.temporary(), &lives, "pg: minted password");
}

#[test]
fn no_copy_of_an_aws_secret_stays_in_memory() {
    if !may_look() {
        return;
    }
    let site = used_account(None);
    let planted = "aws: minted secret key, assumed_role";
    judge(site.plugin(), &site.search(), site.bao.temporary(), &[aws::IN_FORCE], planted);
}

/// How many copies each of the builds in the folder `LEASEHOLD_UNWIPED` leaves (`scripts/build-unwiped` makes them).
#[test]
fn what_wiping_is_for() {
    let Some(folder) = std::env::var_os("LEASEHOLD_UNWIPED") else {
        eprintln!("nothing was measured: LEASEHOLD_UNWIPED is not set");
        return;
    };
    let folder = repository().join(folder);
    println!("| build | engine | secrets | must live | copies that should not be there | in the core image |");
    println!("|---|---|---|---|---|---|");
    for build in ["types", "freed", "all"] {
        let program = folder.join(build);
        let databases = used_databases(Some(&program));
        row(build, "database", databases.plugin(), &databases.search(), databases.bao.temporary());
        drop(databases);
        let account = used_account(Some(&program));
        row(build, "AWS", account.plugin(), &account.search(), account.bao.temporary());
    }
}

fn row(build: &str, engine: &str, process: Pid, search: &Search, directory: &Path) {
    std::thread::sleep(QUIET);
    let reports = [memory::scan(process, search), memory::scan_core(process, search, directory)];
    let lives = |what: &str| what.ends_with("in force") || what == SIGNING_KEY;
    let live = reports[0].copies.iter().filter(|copy| lives(&copy.what)).count();
    let others = reports.each_ref().map(|report| report.copies.iter().filter(|copy| !lives(&copy.what)).count());
    eprintln!("{build}, {engine}: {}", reports[0].explained());
    println!("| {build} | {engine} | {} | {live} | {} | {} |", search.known().len(), others[0], others[1]);
}

fn may_look() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "only root may read another process's memory");
    eprintln!("nothing was proven: only root may read another process's memory");
    false
}

fn used_databases(build: Option<&Path>) -> World {
    let world = World::start(&[], build);
    world.configure();
    for role in ["pg", "my", "rd"] {
        world.mint(role, MINTS);
    }
    for role in ["pg-text", "my-text", "ec", "rsa"] {
        world.mint(role, 20);
    }
    world.grant(MINTS);
    world.rotate();
    // Sessions that did little since they logged in.
    for connection in ["pg", "my", "rd"] {
        world.client.post(&format!("database/reset/{connection}"), json!({})).expect(204);
        world.mint(connection, CLIENTS);
    }
    world.know_verifiers();
    world
}

fn used_account(build: Option<&Path>) -> Site {
    let site = Site::start(build);
    site.configure();
    for kind in aws::KINDS {
        site.mint(kind, MINTS);
    }
    site.rotate();
    // With the key that is in force now.
    for kind in aws::KINDS {
        site.mint(kind, CLIENTS);
    }
    site
}

/// Nothing but what `lives` is in the process, each of it once; and the process keeps others out.
fn judge(process: Pid, search: &Search, directory: &Path, lives: &[&str], planted: &str) {
    std::thread::sleep(QUIET);
    let report = memory::scan(process, search);
    println!("{} secrets, memory: {}", search.known().len(), report.explained());
    let core = memory::scan_core(process, search, directory);
    println!("{} secrets, core image: {}", search.known().len(), core.explained());
    closed_to_others(process, search, true);

    // Would a copy have been seen? In each form, where no code of the process looks.
    let known = search.known().iter().find(|known| known.what == planted).unwrap();
    let text = String::from_utf8(known.bytes.clone()).unwrap();
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let bytes = [
        text.as_bytes(),
        b"|",
        &wide,
        b"|",
        hex.as_bytes(),
        b"|",
        STANDARD.encode(&text).as_bytes(),
        b"|",
        STANDARD.encode(format!("1{text}")).as_bytes(),
        b"|",
        STANDARD.encode(format!("12{text}")).as_bytes(),
        b"|",
        &text.as_bytes()[5..],
    ]
    .concat();
    memory::plant(process, &bytes);
    let found = [memory::scan(process, search), memory::scan_core(process, search, directory)];

    for (report, found) in [&report, &core].into_iter().zip(&found) {
        for what in lives {
            assert_eq!(report.counts().get(what), Some(&1), "{what} must live, in one place: {}", report.explained());
        }
        assert_eq!(report.copies.len(), lives.len(), "copies were left behind: {}", report.explained());
        assert_eq!(found.copies.len(), lives.len() + 7, "planted copies were not seen: {}", found.explained());
        assert_eq!(found.counts().get(planted), Some(&7));
    }
}

/// No secret is where the system shows it, no core file is written, and memory is locked if it may be.
fn closed_to_others(process: Pid, search: &Search, may_lock: bool) {
    let directory = format!("/proc/{}", process.as_raw_nonzero());
    let about = |file: &str| std::fs::read(format!("{directory}/{file}")).unwrap();
    for file in ["environ", "cmdline"] {
        assert_eq!(words::found(search, &about(file)), [""; 0], "{file}");
    }
    let (status, limits) = (about("status"), String::from_utf8(about("limits")).unwrap());
    let locked = String::from_utf8(status).unwrap().lines().find_map(|line| {
        line.strip_prefix("VmLck:").map(|size| size.trim().trim_end_matches(" kB").parse::<u64>().unwrap())
    });
    assert_eq!(locked.is_some_and(|size| size > 1024), may_lock, "{locked:?} KiB of memory are locked");
    let files = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(
        files.split_whitespace().collect::<Vec<_>>()[4..6],
        ["0", "0"],
        "no core files, and none to be had back"
    );
}

/// With everything logged that can be: the plugin's records at `trace`, the host's too, every statement at the servers,
/// and errors of all kinds.
#[test]
fn no_secret_is_in_a_log_or_an_error() {
    let world = World::start(&["--log-level=trace"], None);
    words::note("the host's environment", bao::INHERITED_TOKEN);
    let (mut monitor, mut heard) = (world.redis.session(redis::ADMIN, redis::ADMIN_PASSWORD), String::new());
    assert_eq!(monitor.ask("MONITOR").as_deref(), Some("+OK"));
    world.configure();
    for role in ["pg", "my", "rd", "ec"] {
        world.mint(role, 8);
    }
    world.rotate();

    // What goes wrong with a password in it; the client searches each answer.
    let secret = "not-the-password-of-anybody";
    let refused = |path: &str, body: Value| {
        let answer = world.client.post(path, body);
        assert!(answer.status >= 400, "{path}: {answer:?}");
        answer.body.to_string()
    };
    for (plugin, url) in [
        ("postgresql", world.postgres.url()),
        ("postgresql", format!("postgresql://own:{secret}@127.0.0.1:1/postgres?sslmode=bogus")),
        ("postgresql", format!("host=127.0.0.1 port=x user=own password='{secret}")),
        ("mysql", world.mariadb.url()),
        ("mysql", format!("own:{secret}@tcp(127.0.0.1:x)/?tls=bogus")),
        ("redis", format!("redis://own:{secret}@127.0.0.1:x")),
    ] {
        words::note("password", secret);
        let body = json!({ "plugin_name": format!("{plugin}-database-plugin"), "connection_url": url,
                           "username": "own", "password": secret });
        let told = refused("database/config/wrong", body);
        assert!(!told.contains(secret), "{told}");
    }
    let (pg, my) =
        ("CREATE ROLE \"{{name}}\" PASSWORD '{{password}}'", "CREATE USER '{{name}}' IDENTIFIED BY '{{password}}'");
    for (db, statement) in [
        ("pg", format!("{pg} NONSENSE")),
        ("pg", format!("{pg}; SELECT 1/0")),
        ("pg", "DO $$ BEGIN RAISE EXCEPTION 'no'; END $$".to_owned()),
        ("my", format!("{my} NONSENSE")),
        ("my", format!("{my}; SELECT nonsense")),
        ("rd", "[\"nonsense\"]".to_owned()),
    ] {
        let body = json!({ "db_name": db, "creation_statements": [statement] });
        world.client.post("database/roles/wrong", body).expect(204);
        assert!(world.client.get("database/creds/wrong").status >= 400, "{statement}");
    }
    for field in ["password", "private_key", "allowed_roles", "max_open_connections"] {
        let body =
            json!({ "plugin_name": "postgresql-database-plugin", "connection_url": "x", field: { "a": [secret] } });
        let told = refused("database/config/wrong", body);
        assert!(!told.contains(secret), "{told}");
    }

    world.grant(8);
    let evidence = world.client.get("database/evidence/export").data().to_string();
    let metrics = world.client.get("database/metrics").expect(200).to_string();
    let reports = world.client.get("database/reports/metrics").data().to_string();

    let audit = world.bao.temporary().join("audit.log");
    while let Some(line) = monitor.heard() {
        heard.push_str(&line);
    }
    clean(&[
        ("the plugin and the host", "leasehold", world.bao.log()),
        ("the audit device", "hmac-sha256:", std::fs::read_to_string(audit).unwrap()),
        ("PostgreSQL", "v-token-", world.postgres.log()),
        ("MariaDB", "v-token-", world.mariadb.general_log()),
        // Redis itself keeps what sets users out of it.
        ("Redis", "127.0.0.1", heard),
        ("the record of evidence", "issue.intent", evidence),
        ("the numbers of the record", "issued", reports),
        ("the metrics", "leasehold_", metrics),
    ]);
}

/// The same of the AWS engine.
#[test]
fn no_aws_secret_is_in_a_log_or_an_error() {
    let site = Site::start(None);
    words::note("the host's environment", bao::INHERITED_TOKEN);
    site.configure();
    for kind in aws::KINDS {
        site.mint(kind, 8);
    }
    site.rotate();

    // What goes wrong with keys in it; the client searches each answer.
    let secret = "not-the-secret-key-of-anybody-at-all";
    let failing = |body: Value| {
        let written = site.client.post("aws/config/root", body);
        let failed = site.client.get("aws/creds/iam_user");
        assert!(written.status >= 400 || failed.status >= 400, "{written:?} {failed:?}");
        assert!(!format!("{written:?}{failed:?}").contains(secret), "{written:?} {failed:?}");
    };
    let root = json!({ "access_key": "AKIABOGUS", "secret_key": secret, "region": "us-east-1", "max_retries": 0,
                       "iam_endpoint": site.aws.url(), "sts_endpoint": site.aws.url() });
    for (field, value) in [
        ("access_key", json!("AKIABOGUS")),
        ("region", json!("nowhere")),
        ("iam_endpoint", json!("http://127.0.0.1:1")),
        ("iam_endpoint", json!("no url")),
        ("secret_key", json!({ "a": [secret] })),
        ("max_retries", json!(secret)),
        ("sts_fallback_endpoints", json!([secret])),
    ] {
        let mut body = root.clone();
        body[field] = value;
        failing(body);
    }
    let audit = site.bao.temporary().join("audit.log");
    clean(&[
        ("the plugin and the host", "leasehold", site.bao.log()),
        ("the audit device", "hmac-sha256:", std::fs::read_to_string(audit).unwrap()),
        ("the account", "ministack", site.aws.log()),
    ]);
}

/// No secret that was seen is in any of these: whose words, something that is in them for certain, the words.
fn clean(wrote: &[(&str, &str, String)]) {
    let seen = words::seen();
    assert!(seen.len() > 40, "{} secrets", seen.len());
    let search = Search::new(seen.clone());
    // Keys are no text.
    let texts = seen.iter().filter(|known| known.what != "proof").filter_map(|known| str::from_utf8(&known.bytes).ok());
    let planted = texts.max_by_key(|text| text.len()).unwrap();
    for (whose, proof, text) in wrote {
        assert!(text.contains(proof), "nothing is in what {whose} wrote: {text:.2000}");
        assert_eq!(words::found(&search, text.as_bytes()), [""; 0], "{whose}");
        let text = format!("{text}{planted}");
        assert_eq!(words::found(&search, text.as_bytes()).len(), 1, "a planted one was not found");
    }
    println!(
        "{} secrets, {} bytes of words: 0 found",
        seen.len(),
        wrote.iter().map(|(.., text)| text.len()).sum::<usize>()
    );
}

#[test]
fn what_was_seen_is_found_in_words() {
    words::note_all(&json!({ "data": { "username": "v-app-0000000000", "password": "planted-password" } }));
    words::check("nobody", b"v-app-0000000000 logged in");
    for text in ["CREATE ROLE x PASSWORD 'planted-password'", "planted-passwo", "706c616e7465642d70617373776f7264"] {
        assert!(std::panic::catch_unwind(|| words::check("somebody", text.as_bytes())).is_err(), "{text}");
    }
}
