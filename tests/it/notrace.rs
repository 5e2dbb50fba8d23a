//! No secret that was answered or used leaves a copy: not in the memory of the plugin, which is read from outside and
//! searched, and not in what anybody writes.

mod world;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::search::Search;
use crate::support::{bao, memory, redis, words};
use world::World;

/// How many credentials of each kind are minted.
const MINTS: usize = 200;
/// How long the plugin is left alone before its memory is read.
const QUIET: Duration = Duration::from_secs(2);

#[test]
fn no_copy_of_a_secret_stays_in_memory() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "only root may read another process's memory");
        eprintln!("nothing was proven: only root may read another process's memory");
        return;
    }
    let world = World::start(&[]);
    world.configure();
    for role in ["pg", "my", "rd"] {
        world.mint(role, MINTS);
    }
    for role in ["pg-text", "my-text", "ec", "rsa"] {
        world.mint(role, 20);
    }
    world.rotate();
    world.know_verifiers();
    let search = world.search();
    let process = world.plugin();
    std::thread::sleep(QUIET);
    let report = memory::scan(process, &search);
    println!("{} secrets, memory: {}", search.known().len(), report.explained());
    let core = memory::scan_core(process, &search, world.bao.temporary());
    println!("{} secrets, core image: {}", search.known().len(), core.explained());

    let about = |file: &str| std::fs::read(format!("/proc/{}/{file}", process.as_raw_nonzero())).unwrap();
    for file in ["environ", "cmdline"] {
        assert_eq!(words::found(&search, &about(file)), [""; 0], "{file}");
    }
    let (status, limits) = (about("status"), String::from_utf8(about("limits")).unwrap());
    let locked = String::from_utf8(status).unwrap().lines().find_map(|line| {
        line.strip_prefix("VmLck:").map(|size| size.trim().trim_end_matches(" kB").parse::<u64>().unwrap())
    });
    assert!(locked.is_some_and(|size| size > 1024), "memory is locked: {locked:?} KiB");
    let files = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(files.split_whitespace().nth(4), Some("0"), "no core files");

    // Would a copy have been seen? In each form, where no code of the process looks.
    let (_, known) = search.known().iter().enumerate().find(|(_, known)| known.what == "pg: minted password").unwrap();
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
    let planted = [memory::scan(process, &search), memory::scan_core(process, &search, world.bao.temporary())];

    for (report, planted) in [&report, &core].into_iter().zip(&planted) {
        for connection in ["pg", "my", "rd"] {
            let what = format!("{connection}: root password in force");
            assert_eq!(report.counts().get(what.as_str()), Some(&1), "{what} must live, in one place");
        }
        assert_eq!(report.copies.len(), 3, "copies were left behind: {}", report.explained());
        assert_eq!(planted.copies.len(), 3 + 7, "planted copies were not seen: {}", planted.explained());
        assert_eq!(planted.counts().get("pg: minted password"), Some(&7));
    }
}

/// With everything logged that can be: the plugin's records at `trace`, the host's too, every statement at the servers,
/// and errors of all kinds.
#[test]
fn no_secret_is_in_a_log_or_an_error() {
    let world = World::start(&["--log-level=trace"]);
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

    let audit = world.bao.temporary().join("audit.log");
    let mut wrote = vec![
        ("the plugin and the host", world.bao.log()),
        ("the audit device", std::fs::read_to_string(audit).unwrap()),
        ("PostgreSQL", world.postgres.log()),
        ("MariaDB", world.mariadb.general_log()),
    ];
    while let Some(line) = monitor.heard() {
        heard.push_str(&line);
    }
    wrote.push(("Redis", heard));
    let seen = words::seen();
    assert!(seen.len() > 40, "{} secrets", seen.len());
    let search = Search::new(seen.clone());
    let planted = str::from_utf8(&seen.iter().find(|known| known.what == "password").unwrap().bytes).unwrap();
    for (whose, text) in &wrote {
        let proof = match *whose {
            "the plugin and the host" => "leasehold",
            "the audit device" => "hmac-sha256:",
            // Redis itself keeps what sets users out of it.
            "Redis" => "127.0.0.1",
            _ => "v-token-",
        };
        assert!(text.contains(proof), "nothing is in what {whose} wrote");
        assert_eq!(words::found(&search, text.as_bytes()), [""; 0], "{whose}");
        let text = format!("{text}{planted}");
        assert_eq!(words::found(&search, text.as_bytes()).len(), 1, "a planted one was not found");
    }
    println!(
        "{} secrets, {} bytes of words: 0 found",
        seen.len(),
        wrote.iter().map(|(_, text)| text.len()).sum::<usize>()
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
