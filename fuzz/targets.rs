//! What is fuzzed. Each target reads an input as the process would; it may refuse it, and nothing else.

use std::time::{Duration, SystemTime};

use leasehold::engine::aws::{denial, identity, role};
use leasehold::engine::go::GoDuration;
use leasehold::engine::go::layout;
use leasehold::engine::schedule::{self, Schedule};
use leasehold::engine::template::{Names, NoEntropy, Template};
use leasehold::secret::authority::{Authority, Leaf};
use leasehold::secret::key::{Hash, PrivateKey};
use leasehold::secret::{Secret, verifier};
use leasehold::target::aws::arn::{self, Arn};
use leasehold::target::dsn::{self, PgEndpoint};
use leasehold::target::statement::Vars;
use leasehold::target::{Dialect, Script, mysql, redis};
#[cfg(fuzzing)]
use leasehold::wire;

/// What reads an input.
pub type Target = fn(&[u8]);

/// By name; `scripts/fuzz` runs them in this order.
pub const TARGETS: &[(&str, Target)] = &[
    #[cfg(fuzzing)]
    ("request", |data| wire::fuzzing::request(data)),
    #[cfg(fuzzing)]
    ("environment", |data| text(data, wire::fuzzing::environment)),
    #[cfg(fuzzing)]
    ("frames", |data| wire::fuzzing::frames(data)),
    ("dsn_postgres", |data| text(data, dsn_postgres)),
    ("dsn_mysql", |data| text(data, dsn_mysql)),
    ("dsn_redis", |data| text(data, dsn_redis)),
    ("statements", |data| text(data, statements)),
    ("template", |data| text(data, template)),
    ("schedule", |data| text(data, times)),
    ("certificate", |data| text(data, certificate)),
    ("key", |data| drop(PrivateKey::read(data))),
    ("engine", |data| text(data, crate::engine::database)),
    ("records", |data| text(data, crate::engine::records)),
    ("proofs", |data| text(data, crate::access::proofs)),
    ("policies", |data| text(data, crate::engine::database)),
    ("evidence", |data| text(data, crate::access::evidence)),
    ("aws", |data| text(data, crate::engine::aws)),
    ("aws_texts", |data| text(data, aws_texts)),
];

fn text(data: &[u8], target: fn(&str)) {
    if let Ok(text) = str::from_utf8(data) {
        target(text);
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

/// No error and no shown form may hold the password.
fn without(password: &str, shown: impl std::fmt::Display) {
    assert!(!shown.to_string().contains(password), "a password is shown");
}

const PASSWORD: &str = "the-password-of-the-fuzz-target";

/// The password that stands for `{{password}}` is in no error about the text around it. A text that holds it itself, in
/// the name of a parameter say, has not got it from there.
fn withheld(text: &str, error: impl std::fmt::Display) {
    if !text.contains(PASSWORD) {
        without(PASSWORD, error);
    }
}

fn dsn_postgres(text: &str) {
    let password = secret(PASSWORD);
    for disable_escaping in [false, true] {
        let source = dsn::Source {
            connection_url: text,
            username: "u",
            password: Some(&password),
            disable_escaping,
            ..Default::default()
        };
        if let Err(error) = PgEndpoint::parse(&source) {
            withheld(text, error);
        }
    }
    let mut parts = text.split('\n');
    let mut next = || parts.next().unwrap_or_default();
    let source = dsn::Source {
        host: next(),
        port: next(),
        database: next(),
        sslmode: next(),
        tls_ca: next(),
        tls_certificate: next(),
        ..Default::default()
    };
    let _ = PgEndpoint::parse(&source);
    let _ = (dsn::redact(text), dsn::has_embedded_password(text));
}

fn dsn_mysql(text: &str) {
    let password = secret(PASSWORD);
    let source = mysql::Source { connection_url: text, username: "u", password: Some(&password), ..Default::default() };
    if let Err(error) = mysql::Settings::new(&source) {
        withheld(text, error);
    }
    let mut parts = text.split('\n');
    let mut next = || parts.next().unwrap_or_default();
    let source = mysql::Source {
        host: next(),
        port: next(),
        database: next(),
        tls: next(),
        tls_ca: next(),
        ..Default::default()
    };
    let _ = mysql::Settings::new(&source);
}

fn dsn_redis(text: &str) {
    let password = secret(PASSWORD);
    let source = redis::Source { connection_url: text, username: "u", password: Some(&password), ..Default::default() };
    if let Err(error) = redis::Settings::new(&source) {
        withheld(text, error);
    }
}

fn statements(text: &str) {
    let (password, scram) = (secret(PASSWORD), secret("SCRAM-SHA-256$4096:c2FsdA==$a:b"));
    for dialect in [Dialect::Postgres, Dialect::MySql, Dialect::Redis] {
        let script = Script::parse(&[text.to_owned()], dialect);
        for statement in script.statements() {
            assert!(dialect == Dialect::Redis || !statement.text().is_empty());
            let _ = (statement.is_transaction_control(), statement.is_rollback(), statement.touches_shared_rows());
            let _ = (statement.calls_functions(), statement.is_closed());
        }
        for name in ["v-plain", "o'; DROP--", "\\\"$$"] {
            for verifier_everywhere in [false, true] {
                let vars = Vars {
                    name,
                    password: Some(&password),
                    verifier: Some(&scram),
                    verifier_everywhere,
                    expiration: Some("2026-11-22 02:11:17+0000"),
                };
                if let Err(error) = script.fill(&vars) {
                    without(PASSWORD, error);
                }
            }
        }
    }
}

fn template(text: &str) {
    let mut entropy = |buffer: &mut [u8]| -> Result<(), NoEntropy> {
        buffer.fill(0x5a);
        Ok(())
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_313_477);
    if let Ok(template) = Template::checked(text, &mut entropy, now) {
        let names = Names { display_name: "token-\u{e9}'\"{{", role_name: "app", ..Default::default() };
        if let Ok(name) = template.render(&names, &mut entropy, now) {
            assert!(name.len() <= 8192);
        }
    }
}

fn times(text: &str) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_313_477);
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let zone = schedule::zone(rest);
    if let (Ok(cron), Ok(zone)) = (schedule::cron(first), zone) {
        let schedule = Schedule::Cron { cron: Box::new(cron), zone, window: Duration::from_secs(3600) };
        if let Some(next) = schedule.next(now) {
            assert!(next > now, "in the past");
            let _ = schedule.revised(now, next);
        }
    }
    if let Ok(span) = GoDuration::parse_field(first) {
        assert_eq!(GoDuration::parse(&span.short()).ok(), Some(span), "{}", span.short());
    }
    let _ = layout::format(first, now);
    let _ = verifier::is_of(&first.chars().take(200).collect::<String>().replace("SCRAM-SHA-256$9", "S"), &secret("x"));
}

fn certificate(text: &str) {
    let (certificate, key) = text.split_once("\n--\n").unwrap_or((text, ""));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_313_477);
    if let Ok(authority) = Authority::read(certificate, &secret(key), Hash::Sha256)
        && let Ok(key) = PrivateKey::generate(leasehold::secret::key::KeyKind::Ed25519)
    {
        let leaf = Leaf { common_name: "v-app", key: &key, now, not_after: now + Duration::from_secs(60) };
        let _ = authority.issue(&leaf);
    }
}

fn aws_texts(text: &str) {
    if let Ok(arn) = Arn::parse(text) {
        for kind in ["user", "role", "assumed-role", ""] {
            assert!(arn.name(kind).is_none_or(|name| !name.is_empty() && !name.contains('/')));
        }
    }
    let _ = arn::account(text);
    for longest in [32, 64] {
        if identity::principal(text, longest).is_ok() {
            assert!((2..=longest).contains(&text.len()));
        }
    }
    let _ = (identity::tag_key(text), identity::tag_value(text), identity::Template::parse(text));
    let _ = identity::Facts::default().fill("session_tags", text);
    if let Some(compact) = role::compact(text) {
        assert_eq!(role::compact(&compact).as_deref(), Some(compact.as_str()), "a compact document stays what it is");
    }
    if let Ok(value) = serde_json::from_str(text) {
        let _ = denial::Denial::decode(&value);
    }
}
