//! The PostgreSQL target against a real server: users made, prolonged and ended.

mod account;
mod doors;
mod ending;
mod faults;
mod injection;
mod minting;
mod owned;
mod passwords;
mod sessions;

use std::time::{Duration, SystemTime};

use leasehold::secret::Secret;
use leasehold::target::dsn::{PgEndpoint, Source};
use leasehold::target::pool::Limits;
use leasehold::target::postgres::{PasswordForm, Postgres, Settings};
use leasehold::target::{
    Capability, Dialect, EndOptions, EndPlan, Ended, Left, Login, Marker, MintPlan, Need, Outcome, Owned, RenewPlan,
    Script, Sessions, Target, TargetError, Verify,
};

use crate::support::postgres::{ADMIN, ADMIN_PASSWORD, Postgres as Server, Session};

/// Of every user that is made here.
const PASSWORD: &str = "aB3-aB3-aB3-aB3-aB3-";
const CREATE: &str = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;
/// 2100-01-01, in seconds.
const FAR: u64 = 4_102_444_800;

/// A server, and the target that works at it.
struct Rig {
    pg: Server,
    target: Postgres,
}

impl Rig {
    fn new() -> Self {
        Self::at(Server::start())
    }

    fn at(pg: Server) -> Self {
        let target = Postgres::new(settings(endpoint(&pg)));
        Self { pg, target }
    }

    fn role_exists(&self, name: &str) -> bool {
        self.pg.sql(&format!("SELECT 1 FROM pg_roles WHERE rolname = $n${name}$n$")) == "1"
    }

    /// True if `user` gets in with the test's password.
    fn can_log_in(&self, user: &str) -> bool {
        self.pg.login(user, PASSWORD, "SELECT 1").is_ok()
    }

    /// A session of `user` that has answered.
    fn session(&self, user: &str) -> Session {
        let mut session = self.pg.session(user, PASSWORD);
        assert_eq!(session.one("SELECT 1").as_deref(), Some("1"), "{user} gets in");
        session
    }

    async fn minted(&self, user: &str, creation: &[&str]) {
        minted(&self.target, &mint_plan(user, creation)).await;
    }

    /// The error of a mint that must fail.
    async fn failure(&self, plan: &MintPlan) -> TargetError {
        match self.target.mint(plan, Login::Password(&password())).await {
            Outcome::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    async fn end(&self, user: &str, revocation: &[&str]) -> Result<Ended, TargetError> {
        self.target.end(&end_plan(user, revocation)).await
    }

    async fn end_by(&self, user: &str, options: EndOptions) -> Ended {
        self.target.end(&EndPlan { options, ..end_plan(user, &[]) }).await.unwrap()
    }

    /// Ends a user by the default statements; nothing may be left of it.
    async fn end_cleanly(&self, user: &str, options: EndOptions) {
        let ended = self.end_by(user, options).await;
        assert_eq!(ended.left, []);
        assert!(!self.role_exists(user));
    }
}

/// `database: object`, sorted.
fn objects(left: &[Left]) -> Vec<String> {
    let mut all: Vec<String> = left.iter().map(|left| format!("{}: {}", left.database, left.object)).collect();
    all.sort();
    all
}

fn owned(owned: Owned) -> EndOptions {
    EndOptions { owned, ..EndOptions::default() }
}

fn reassign(role: &str) -> EndOptions {
    owned(Owned::Reassign(role.to_owned()))
}

fn verify(verify: Verify) -> EndOptions {
    EndOptions { verify, ..EndOptions::default() }
}

fn sessions(sessions: Sessions) -> EndOptions {
    EndOptions { sessions, ..EndOptions::default() }
}

async fn minted(target: &Postgres, plan: &MintPlan) {
    let outcome = target.mint(plan, Login::Password(&password())).await;
    assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
}

/// As the superuser, over TCP with a password.
pub fn endpoint(pg: &Server) -> PgEndpoint {
    let secret = Secret::new(ADMIN_PASSWORD.to_owned());
    let url = pg.url();
    let source = Source { connection_url: &url, username: ADMIN, password: Some(&secret), ..Default::default() };
    PgEndpoint::parse(&source).unwrap()
}

pub fn settings(endpoint: PgEndpoint) -> Settings {
    Settings {
        endpoint,
        limits: Limits::new(8, 0, Duration::ZERO, Duration::from_secs(30)),
        statement_timeout: Duration::from_secs(20),
        password_form: PasswordForm::Where,
        scram_iterations: 4096,
    }
}

fn password() -> Secret {
    Secret::new(PASSWORD.to_owned())
}

fn script(statements: &[&str]) -> Script {
    let elements: Vec<String> = statements.iter().map(|&text| text.to_owned()).collect();
    Script::parse(&elements, Dialect::Postgres)
}

pub fn mint_plan(user: &str, creation: &[&str]) -> MintPlan {
    MintPlan {
        username: user.to_owned(),
        creation: script(creation),
        groups: Vec::new(),
        rollback: Script::default(),
        expiration: SystemTime::UNIX_EPOCH + Duration::from_secs(FAR),
        scram_iterations: None,
        marker: Marker {
            mount: "mount'\\\"".into(),
            role: "role".into(),
            request: "request".into(),
            entity: String::new(),
            begun: 0,
            expires: FAR,
            ..Marker::default()
        },
        recorded: false,
        repeats: false,
    }
}

pub fn end_plan(user: &str, revocation: &[&str]) -> EndPlan {
    EndPlan { username: user.to_owned(), revocation: script(revocation), options: EndOptions::default() }
}

/// The server as another account sees it.
fn as_user(rig: &Rig, user: &str) -> PgEndpoint {
    PgEndpoint { user: user.to_owned(), passwords: Some(password()).into(), ..endpoint(&rig.pg) }
}
