//! The MySQL target against a real MariaDB server: users made, prolonged, ended and given passwords.

mod ending;
mod faults;
mod injection;
mod minting;
mod passwords;
mod tls;

use std::time::{Duration, SystemTime};

use leasehold::secret::{Secret, password};
use leasehold::target::mysql::{MySql, Settings, Source};
use leasehold::target::{
    Dialect, EndOptions, EndPlan, Ended, Left, Login, Marker, MintPlan, Need, Outcome, Owned, Script, Sessions, Target,
    TargetError, Verify,
};

use crate::support::mariadb::{ADMIN, ADMIN_PASSWORD, MariaDb};

const CREATE: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT SELECT ON *.* TO '{{name}}'@'%';";

/// A server, and the target that works at it.
struct Rig {
    server: MariaDb,
    target: MySql,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// With changes to the settings of the connection.
    fn with(change: impl FnOnce(&mut Source<'_>)) -> Self {
        let server = MariaDb::start();
        server.sql("CREATE DATABASE app");
        let target = target(&server.url(), ADMIN, &Secret::new(ADMIN_PASSWORD.into()), change);
        Self { server, target }
    }

    /// Another connection to the same server.
    fn other(&self, change: impl FnOnce(&mut Source<'_>)) -> MySql {
        target(&self.server.url(), ADMIN, &Secret::new(ADMIN_PASSWORD.into()), change)
    }

    /// A connection as a user of less.
    fn as_user(&self, user: &str, password: &Secret) -> MySql {
        target(&self.server.url(), user, password, |_| {})
    }

    /// `host plugin hash` of each account of the user.
    fn accounts(&self, user: &str) -> Vec<String> {
        let sql = "SELECT CONCAT(Host, ' ', plugin, ' ', authentication_string) FROM mysql.user WHERE User = ";
        self.server.sql(&format!("{sql}'{user}' ORDER BY Host")).lines().map(str::to_owned).collect()
    }

    async fn minted(&self, user: &str, creation: &[&str]) -> Secret {
        minted(&self.target, user, creation).await
    }

    async fn failure(&self, user: &str, creation: &[&str]) -> TargetError {
        failure(&self.target, &mint_plan(user, creation, &[]), &fresh()).await
    }

    async fn end(&self, user: &str, revocation: &[&str]) -> Result<Ended, TargetError> {
        self.target.end(&end_plan(user, revocation)).await
    }

    async fn end_by(&self, user: &str, options: EndOptions) -> Ended {
        self.target.end(&EndPlan { options, ..end_plan(user, &[]) }).await.unwrap()
    }

    /// The general log does not hold `secret`; and is being written, or this would prove nothing.
    fn assert_not_logged(&self, user: &str, secret: &Secret) {
        let log = self.server.general_log();
        assert!(log.contains(user), "the general log is off");
        assert!(!log.contains(secret.expose()), "a password is in the general log");
    }
}

pub fn target(url: &str, user: &str, password: &Secret, change: impl FnOnce(&mut Source<'_>)) -> MySql {
    let mut source = Source { connection_url: url, username: user, password: Some(password), ..Source::default() };
    change(&mut source);
    MySql::new(Settings::new(&source).unwrap())
}

async fn minted(target: &MySql, user: &str, creation: &[&str]) -> Secret {
    let password = fresh();
    match target.mint(&mint_plan(user, creation, &[]), Login::Password(&password)).await {
        Outcome::Done(()) => password,
        other => panic!("{other:?}"),
    }
}

/// The error of a mint that must fail.
async fn failure(target: &MySql, plan: &MintPlan, password: &Secret) -> TargetError {
    match target.mint(plan, Login::Password(password)).await {
        Outcome::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

fn fresh() -> Secret {
    password::password().unwrap()
}

fn name() -> String {
    format!("v-test-{}", password::base62(16).unwrap())
}

fn script(statements: &[&str]) -> Script {
    let elements: Vec<String> = statements.iter().map(|&text| text.to_owned()).collect();
    Script::parse(&elements, Dialect::MySql)
}

pub fn mint_plan(user: &str, creation: &[&str], rollback: &[&str]) -> MintPlan {
    let marker = Marker {
        mount: "m".into(),
        role: "r".into(),
        request: "q".into(),
        entity: String::new(),
        begun: 0,
        expires: 0,
        ..Marker::default()
    };
    MintPlan {
        username: user.to_owned(),
        creation: script(creation),
        groups: Vec::new(),
        rollback: script(rollback),
        expiration: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_313_477),
        scram_iterations: None,
        marker,
        recorded: false,
        repeats: false,
    }
}

pub fn end_plan(user: &str, revocation: &[&str]) -> EndPlan {
    EndPlan { username: user.to_owned(), revocation: script(revocation), options: EndOptions::default() }
}

/// `database: object`.
fn objects(left: &[Left]) -> Vec<String> {
    left.iter().map(|left| format!("{}: {}", left.database, left.object)).collect()
}

/// A port that nobody listens on.
fn closed() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits for something, while the target goes on.
async fn until(what: &str, mut true_at_last: impl FnMut() -> bool) {
    let waiting = async {
        while !true_at_last() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{what}: it is not so"));
}
