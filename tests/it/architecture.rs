//! The arrows of `src/lib.rs`: who may name whom, and which crates stay where they belong.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;

/// Each module with the modules of ours it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["wire", "engine", "secret", "observe", "migrate"]),
    ("migrate", &[]),
    ("wire", &["engine", "target", "secret", "observe"]),
    ("engine", &["target", "secret"]),
    ("target", &["secret"]),
    ("secret", &[]),
    ("observe", &[]),
];

/// Crates with the only modules that may name them.
const CRATES: &[(&str, &[&str])] = &[
    ("tonic", &["wire"]),
    ("tonic_health", &["wire"]),
    ("tonic_prost", &["wire"]),
    ("prost", &["wire"]),
    ("prost_types", &["wire"]),
    ("hyper_util", &["wire"]),
    ("hyper_rustls", &["wire"]),
    ("http_body_util", &["wire"]),
    ("rustls_native_certs", &["wire"]),
    ("tower_service", &["wire"]),
    ("rustls", &["wire"]),
    ("tokio_rustls", &["wire"]),
    ("rcgen", &["wire"]),
    ("hmac", &["secret"]),
    ("cedar_policy", &["engine"]),
    ("aws_lc_rs", &["secret"]),
    ("x509_parser", &["secret"]),
    ("yasna", &["secret"]),
    ("sqlx", &["target"]),
    ("aws_config", &["target"]),
    ("aws_credential_types", &["target"]),
    ("aws_sdk_iam", &["target"]),
    ("aws_sdk_sts", &["target"]),
    ("aws_smithy_http_client", &["target"]),
    ("clap", &["main"]),
    ("prometheus_client", &["engine"]),
    ("tracing_subscriber", &["observe"]),
];

#[test]
fn no_arrow_turns_back() {
    let mut wrong = Vec::new();
    for (module, file, text) in sources() {
        let allowed = ARROWS.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        let allowed = allowed.unwrap_or_else(|| panic!("{module}: a new module needs a line in ARROWS"));
        for (other, _) in ARROWS {
            let named = ["crate", "leasehold", "super"].iter().any(|root| names(&text, root, other));
            if named && *other != module && !allowed.contains(other) {
                wrong.push(format!("{}: {module} must not use {other}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    // What only tests are built with is nobody's dependency.
    for (module, file, text) in sources().into_iter().filter(|(_, file, _)| !file.ends_with("tests.rs")) {
        for (krate, homes) in CRATES {
            // A name in a text (after a quote) is not a use: the log filter names its targets.
            let named = text
                .match_indices(&format!("{krate}::"))
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '"')));
            if named && !homes.contains(&module.as_str()) {
                wrong.push(format!("{}: {krate} belongs to {}", file.display(), homes.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `unsafe` is in one file: the process's memory.
#[test]
fn unsafe_code_is_in_one_file() {
    for (_, file, text) in sources() {
        if !file.ends_with("secret/memory.rs") {
            let found = text.lines().any(|line| line.split_whitespace().any(|word| word == "unsafe"));
            assert!(!found, "{}: unsafe belongs to secret/memory.rs", file.display());
        }
    }
}

/// What is called a secret is kept as one: no field, argument or static is a bare text or bytes.
#[test]
fn secrets_have_their_own_type() {
    let names = [
        "password",
        "passwd",
        "secret",
        "private_key",
        "secret_key",
        "secret_access_key",
        "session_token",
        "security_token",
        "salt",
        "seed",
        "verifier",
        "connection_url",
        "identity_proof",
        "jwt",
    ];
    let holders = ["", "Option", "Vec", "Box", "Arc", "Rc", "Mutex", "OnceLock"];
    let texts = ["String", "str", "[u8]", "Vec<u8>", "Bytes", "BytesMut", "Cow<'_, str>", "Cow<'static, str>", "Value"];
    let bare: Vec<String> = holders
        .iter()
        .flat_map(|holder| texts.iter().map(move |text| (holder, text)))
        .map(|(holder, text)| if holder.is_empty() { (*text).to_owned() } else { format!("{holder}<{text}>") })
        .collect();
    let mut wrong = Vec::new();
    for (_, file, text) in sources().into_iter().filter(|(_, file, _)| !file.ends_with("tests.rs")) {
        for line in text.split("mod tests {").next().unwrap_or_default().lines() {
            let Some((before, kind)) = line.split_once(": ") else { continue };
            let name = before.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
            // A setting about passwords is none: `password_policy`.
            let named = names.iter().any(|secret| name == *secret || name.ends_with(&format!("_{secret}")));
            let kind = kind.trim_end_matches([',', ';', ' ', '{']);
            if named && bare.iter().any(|bare| bare == kind) {
                wrong.push(format!("{}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "use crate::secret::Secret:\n{}", wrong.join("\n"));
}

/// No word that is logged, printed or told as an error is made where a secret is exposed.
#[test]
fn no_words_are_made_of_a_secret() {
    let mut wrong = Vec::new();
    for (_, file, text) in sources().into_iter().filter(|(_, file, _)| !file.ends_with("tests.rs")) {
        let code = text.split("mod tests {").next().unwrap_or_default();
        wrong.extend(words_of_secrets(code).into_iter().map(|call| format!("{}: {call}", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(words_of_secrets("tracing::warn!(\"{}\", key.expose()); let a = f(key.expose());").len(), 1);
    assert_eq!(words_of_secrets("Err(Error::Refused(format!(\"no {}\",\n key.expose())))").len(), 1);
    assert_eq!(words_of_secrets("Error::Refused(\"no\".into()); key.expose()").len(), 0);
}

/// Calls that make words, with a secret among what they are given.
fn words_of_secrets(code: &str) -> Vec<String> {
    const MAKERS: &[&str] = &[
        "tracing::trace!(",
        "tracing::debug!(",
        "tracing::info!(",
        "tracing::warn!(",
        "tracing::error!(",
        "println!(",
        "eprintln!(",
        "print!(",
        "eprint!(",
        "panic!(",
        "assert!(",
        "debug_assert!(",
        "unreachable!(",
        "Error::Refused(",
        "Error::Failed(",
        "Error::Coded(",
        "TargetError::",
        "Failure::new(",
        "Draft::new(",
        "io::Error::other(",
    ];
    let mut found = Vec::new();
    for maker in MAKERS {
        for (at, _) in code.match_indices(maker) {
            let Some(open) = code[at..].find('(').map(|from| at + from) else { continue };
            let mut depth = 0;
            let end = code[open..].find(|c| {
                depth += match c {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            });
            let call = &code[at..end.map_or(code.len(), |end| open + end)];
            if call.contains(".expose()") {
                found.push(call.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    found
}

/// Where a secret becomes a bare text, because a driver takes nothing else. Each place is known, and says why.
#[test]
fn secrets_become_texts_in_few_places() {
    const KNOWN: &[(&str, usize)] = &[
        ("src/secret/verifier.rs", 1),
        ("src/target/dsn.rs", 1),
        ("src/target/mysql/hash.rs", 1),
        ("src/target/postgres/session.rs", 2),
        ("src/target/redis.rs", 3),
        ("src/target/redis/settings.rs", 1),
        ("src/wire/host.rs", 1),
    ];
    let mut found = Vec::new();
    for (_, file, text) in sources().into_iter().filter(|(_, file, _)| !is_test(file)) {
        let code: String = text.split("mod tests {").next().unwrap_or_default().split_whitespace().collect();
        let ways = [".to_owned()", ".to_string()", ".into()", ".clone()", ".to_vec()", ".as_bytes().to_vec()"];
        let count: usize = ways.iter().map(|way| code.matches(&format!(".expose(){way}")).count()).sum();
        if count > 0 {
            let file = file.strip_prefix(repository()).unwrap().display().to_string();
            found.push((file, count));
        }
    }
    found.sort();
    let known: Vec<(String, usize)> = KNOWN.iter().map(|(file, count)| ((*file).to_owned(), *count)).collect();
    assert_eq!(found, known, "a secret is copied into a text that is not wiped by its type");
}

fn is_test(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs") && file.starts_with(repository().join("src"))
}

/// True if the text names `root::module`, alone or in a braced list.
fn names(text: &str, root: &str, module: &str) -> bool {
    if text.contains(&format!("{root}::{module}::")) || text.contains(&format!("{root}::{module};")) {
        return true;
    }
    let list = format!("{root}::{{");
    text.match_indices(&list).any(|(at, _)| {
        let inside = text[at + list.len()..].split(';').next().unwrap_or_default();
        inside.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == module)
    })
}

/// Each source file without its comments: its top module, its path, its text.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = repository().join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "the sources were not found");
    let sources = files.into_iter().filter_map(|file| {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (module != "lib").then(|| (module, file, code.join("\n")))
    });
    sources.collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn the_reader_of_arrows_sees_them() {
    assert!(names("use crate::wire::tls;", "crate", "wire"));
    assert!(names("use crate::wire;", "crate", "wire"));
    assert!(names("use crate::{engine::error, wire};", "crate", "wire"));
    assert!(names("use crate::{\n    wire::{tls},\n};", "crate", "wire"));
    assert!(!names("use crate::engine::wire;", "crate", "wire"));
    assert!(!names("use crate::wireless::x;", "crate", "wire"));
}
