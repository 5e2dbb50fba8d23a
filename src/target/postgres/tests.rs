//! Against a real server: the one that `LEASEHOLD_TEST_PG_URL` names, as a superuser over TCP with a password. Each test
//! has names of its own and leaves nothing; without the variable they say so and pass.

mod ending;
mod faults;
mod minting;

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::Row;

use super::session::{self, PgSession};
use super::*;
use crate::target::statement::Dialect;
use crate::target::{Marker, Script};

pub(super) const PASSWORD: &str = "aB3-aB3-aB3-aB3-aB3-";
const CREATE: &str = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;

/// The server under test.
struct Rig {
    url: String,
    prefix: String,
    target: Postgres,
    admin: PgSession,
}

impl Rig {
    /// `None`, said aloud, if there is no server.
    async fn new(name: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Ok(url) = std::env::var("LEASEHOLD_TEST_PG_URL") else {
            println!("{name}: skipped, LEASEHOLD_TEST_PG_URL is not set");
            return None;
        };
        let prefix = format!("lh_{name}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let target = Postgres::new(settings(endpoint(&url)));
        let admin =
            session::open(&endpoint(&url), None, Duration::from_secs(20), Duration::from_secs(5)).await.unwrap();
        Some(Self { url, prefix, target, admin })
    }

    async fn sql(&mut self, sql: &str) {
        self.admin.run(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// The first value of the first row, as text.
    async fn ask(&mut self, sql: &str) -> Option<String> {
        self.admin.run(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))?.try_get(0).unwrap()
    }

    async fn role_exists(&mut self, name: &str) -> bool {
        self.ask(&format!("SELECT 'yes' FROM pg_roles WHERE rolname = {}", quoted_text(name))).await.is_some()
    }

    /// Logs in as `user` with the test's password.
    async fn login(&self, user: &str) -> Result<PgSession, TargetError> {
        login(&self.url, user).await
    }

    async fn minted(&mut self, user: &str, creation: &[&str]) {
        let plan = mint_plan(user, creation);
        let outcome = self.target.mint(&plan, &password()).await;
        assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
    }

    async fn end(&self, user: &str, revocation: &[&str]) -> Result<Ended, TargetError> {
        self.target.end(&EndPlan { username: user.to_owned(), revocation: script(revocation) }).await
    }
}

async fn login(url: &str, user: &str) -> Result<PgSession, TargetError> {
    let mut endpoint = endpoint(url);
    user.clone_into(&mut endpoint.user);
    endpoint.password = Some(password());
    session::open(&endpoint, None, Duration::from_secs(20), Duration::from_secs(5)).await
}

fn endpoint(url: &str) -> PgEndpoint {
    let source = crate::target::dsn::Source { connection_url: url, ..Default::default() };
    PgEndpoint::parse(&source).unwrap()
}

fn settings(endpoint: PgEndpoint) -> Settings {
    Settings {
        endpoint,
        limits: Limits::new(8, 0, Duration::ZERO, Duration::from_secs(5)),
        statement_timeout: Duration::from_secs(20),
        password_form: PasswordForm::Where,
    }
}

fn password() -> Secret {
    Secret::new(PASSWORD.to_owned())
}

fn script(statements: &[&str]) -> Script {
    let elements: Vec<String> = statements.iter().map(|&text| text.to_owned()).collect();
    Script::parse(&elements, Dialect::Postgres)
}

/// 2100-01-01, in seconds.
const FAR: u64 = 4_102_444_800;

fn mint_plan(user: &str, creation: &[&str]) -> MintPlan {
    MintPlan {
        username: user.to_owned(),
        creation: script(creation),
        rollback: Script::default(),
        expiration: SystemTime::UNIX_EPOCH + Duration::from_secs(FAR),
        marker: Marker {
            mount: "mount'\\\"".into(),
            role: "role".into(),
            request: "request".into(),
            entity: String::new(),
            expires: FAR,
        },
    }
}

#[test]
fn names_and_texts_are_quoted_whatever_they_hold() {
    assert_eq!(quoted_name(r#"a"; DROP"#), r#""a""; DROP""#);
    assert_eq!(quoted_text("it's"), "'it''s'");
    assert_eq!(quoted_text(r"a\'b"), r" E'a\\''b'");
}

#[test]
fn an_end_is_written_as_the_built_in_engine_writes_it() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_313_477_900);
    assert_eq!(timestamp(time).unwrap(), "2026-11-22 02:11:17+0000");
}

#[test]
fn a_name_that_the_server_would_cut_is_refused() {
    assert!(check_name(&"x".repeat(63)).is_ok());
    assert!(check_name(&"x".repeat(64)).unwrap_err().to_string().contains("username_template"));
    assert!(check_name("").is_err());
}
