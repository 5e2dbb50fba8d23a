//! The same users, made and dropped by SQL on open connections, with nobody in between: what the database can do.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::secret::{Secret, verifier};
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection};

use crate::cpu;
use crate::load::{self, Measured};
use crate::rig::{Database, Rig, Role};
use crate::support::{mariadb, postgres};

/// A connection to either.
enum Session {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

impl Session {
    async fn open(rig: &Rig, database: Database) -> Session {
        match (database, &rig.mariadb) {
            (Database::MariaDb, Some(server)) => {
                let (user, password) = (mariadb::ADMIN, mariadb::ADMIN_PASSWORD);
                let options = MySqlConnectOptions::new().host("127.0.0.1").port(server.port());
                let options = options.username(user).password(password);
                Session::MariaDb(MySqlConnection::connect_with(&options).await.unwrap())
            }
            _ => {
                let (user, password) = (postgres::ADMIN, postgres::ADMIN_PASSWORD);
                let options = PgConnectOptions::new().host("127.0.0.1").port(rig.postgres.port());
                let options = options.username(user).password(password).database("postgres");
                let options = options.ssl_mode(PgSslMode::Disable);
                Session::Postgres(PgConnection::connect_with(&options).await.unwrap())
            }
        }
    }

    async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
        match self {
            Session::Postgres(session) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *session).await.map(drop),
            Session::MariaDb(session) => {
                // One statement a message, as a driver sends them.
                for statement in sql.split(";\n") {
                    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *session).await?;
                }
                Ok(())
            }
        }
    }
}

/// Mints for `limit` with so many connections, then drops what was made: the two turns.
pub fn mint_and_drop(rig: &Rig, role: Role, clients: usize, limit: Duration) -> [Measured; 2] {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let verifier = verifier::scram_sha_256(&Secret::new("kNmTVCW4bRDf79FgAbcd".into()), role.rounds()).unwrap();
    let create = |name: &str| match role.database() {
        Database::MariaDb => format!(
            "CREATE USER '{name}'@'%' IDENTIFIED BY 'kNmTVCW4bRDf79FgAbcd';\nGRANT SELECT ON app.* TO '{name}'@'%'"
        ),
        Database::Postgres => format!(
            "CREATE ROLE \"{name}\" LOGIN PASSWORD '{}' VALID UNTIL '2099-01-01' IN ROLE readers",
            verifier.expose()
        ),
    };
    let remove = |name: &str| match role.database() {
        Database::MariaDb => format!("DROP USER '{name}'@'%'"),
        Database::Postgres => format!("DROP ROLE \"{name}\""),
    };
    let made = AtomicUsize::new(0);
    let name = |number: usize| format!("v-direct-{number}");
    let next = |most: usize, counter: &AtomicUsize| {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        (number < most).then(|| name(number))
    };
    let mints = turn(rig, &runtime, role, clients, limit, || next(usize::MAX, &made).map(|name| create(&name)));
    // One more than was made may have been counted by each.
    let (count, dropped) = (made.load(Ordering::Relaxed), AtomicUsize::new(0));
    let all = Duration::from_secs(3600);
    let drops = turn(rig, &runtime, role, clients, all, || next(count, &dropped).map(|name| remove(&name)));
    [mints, drops]
}

/// Runs what `next` gives until it gives nothing, or time is over.
fn turn(
    rig: &Rig,
    runtime: &tokio::runtime::Runtime,
    role: Role,
    clients: usize,
    limit: Duration,
    next: impl Fn() -> Option<String>,
) -> Measured {
    runtime.block_on(async {
        let mut sessions = Vec::new();
        for _ in 0..clients {
            sessions.push(Session::open(rig, role.database()).await);
        }
        let (before, start) = (cpu::spent(rig, role.database()), Instant::now());
        let next = &next;
        let working = sessions.into_iter().map(|mut session| async move {
            let (mut took, mut errors) = (Vec::new(), 0_usize);
            while start.elapsed() < limit
                && let Some(sql) = next()
            {
                let asked = Instant::now();
                match session.run(sql).await {
                    Ok(()) => took.push(asked.elapsed()),
                    Err(e) => {
                        eprintln!("direct SQL: {e}");
                        errors += 1;
                    }
                }
            }
            (took, errors)
        });
        let shares = futures_util::future::join_all(working).await;
        let elapsed = start.elapsed();
        let after = cpu::spent(rig, role.database());
        let errors = shares.iter().map(|(_, errors)| errors).sum();
        let mut took: Vec<Duration> = shares.into_iter().flat_map(|(took, _)| took).collect();
        load::measured(&mut took, elapsed, errors, std::array::from_fn(|n| after[n].saturating_sub(before[n])))
    })
}

/// Puts so many members of the group into the database that nobody has a lease for, beside those that are there from
/// `from` on.
pub fn populate(rig: &Rig, from: usize, to: usize) {
    for first in (from..to).step_by(1000) {
        let mut sql = String::from("BEGIN;\n");
        for number in first..to.min(first + 1000) {
            let _ = writeln!(sql, "CREATE ROLE \"f-{number}\" LOGIN VALID UNTIL '2099-01-01' IN ROLE readers;");
        }
        rig.postgres.sql(&format!("{sql}COMMIT"));
    }
}

/// Takes them away again.
pub fn depopulate(rig: &Rig, count: usize) {
    for first in (0..count).step_by(1000) {
        let names: Vec<String> = (first..count.min(first + 1000)).map(|number| format!("\"f-{number}\"")).collect();
        rig.postgres.sql(&format!("DROP ROLE {}", names.join(", ")));
    }
}
