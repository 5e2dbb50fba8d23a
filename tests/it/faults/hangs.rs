//! A server that is there and does not answer: no call of a target lasts longer than its limits allow, another connection
//! notices nothing, and all is well as soon as the server is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leasehold::secret::{Secret, password};
use leasehold::target::dsn::PgEndpoint;
use leasehold::target::pool::Limits;
use leasehold::target::{EndOptions, EndPlan, Login, MintPlan, Outcome, RenewPlan, Script, Target, postgres};

use crate::support::mariadb::{self, MariaDb};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Proxy, Weather};
use crate::support::redis::Redis;
use crate::{target_mysql, target_postgres, target_redis};

/// Of the connection that is disturbed: to connect, and to wait for a statement.
const LIMIT: Duration = Duration::from_secs(1);

/// The longest that any call may take: a few attempts of a few steps each, of which each has its limit, and what a machine
/// with other work adds. A call that waits for the server takes for ever.
const LONGEST: Duration = Duration::from_secs(25);

/// A kind of server, through the proxy and directly.
struct Rig {
    through: Arc<dyn Target>,
    directly: Arc<dyn Target>,
    proxy: Proxy,
    plan: Box<dyn Fn(&str) -> MintPlan>,
}

impl Rig {
    async fn mint(&self, target: &dyn Target, user: &str) -> Outcome<()> {
        target.mint(&(self.plan)(user), Login::Password(&password::password().unwrap())).await
    }

    /// Everything that can be asked of a target, at once. The longest that one of them took.
    async fn everything(&self, round: usize) -> Duration {
        let target = self.through.as_ref();
        let secret = password::password().unwrap();
        let user = |number: usize| name(round, number);
        let renew = RenewPlan {
            username: user(0),
            renew: Script::default(),
            expiration: (self.plan)("x").expiration,
            expires: 0,
        };
        let known = [user(0)];
        let fresh = user(1);
        let end = end_plan(&known[0]);
        let none = Script::default();
        let (a, b, c, d, e, f, g) = tokio::join!(
            timed("verify", target.verify()),
            timed("mint", self.mint(target, &fresh)),
            timed("renew", target.renew(&renew)),
            timed("end", target.end(&end)),
            timed("present", target.present(&known)),
            timed("set_password", target.set_password(&known[0], &secret, &none)),
            timed("login", target.login(&known[0], &secret)),
        );
        [a, b, c, d, e, f, g].into_iter().max().unwrap()
    }

    async fn survives(self) {
        // What another connection takes at its worst, while nothing is wrong and then while the first one hangs.
        let stop = AtomicBool::new(false);
        let other = async {
            let mut worst = Duration::ZERO;
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                let user = format!("{}_{number}", name(9, 9));
                number += 1;
                let begin = Instant::now();
                assert!(matches!(self.mint(self.directly.as_ref(), &user).await, Outcome::Done(())));
                assert!(self.directly.end(&end_plan(&user)).await.unwrap().existed);
                worst = worst.max(begin.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (worst, number)
        };
        let disturbed = async {
            let weathers = [
                Weather::BlackHole,
                Weather::Crawl(1),
                Weather::Slow(Duration::from_secs(5)),
                Weather::Garbled(40),
                Weather::Breaking(400),
                Weather::Closed,
            ];
            for (round, weather) in weathers.into_iter().enumerate() {
                let user = name(round, 0);
                let minted = self.mint(self.through.as_ref(), &user).await;
                assert!(matches!(minted, Outcome::Done(())), "before {weather:?}: {minted:?}");
                self.proxy.set(weather);
                if weather == Weather::Closed {
                    self.proxy.cut();
                }
                let longest = self.everything(round).await;
                let again = self.everything(round).await;
                self.proxy.set(Weather::Fair);
                let back = Instant::now();
                while self.through.verify().await.is_err() {
                    assert!(back.elapsed() < LONGEST, "{weather:?} is over, and nobody has noticed");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                println!("{weather:?}: at most {longest:.1?}, then {again:.1?}; noticed after {:.1?}", back.elapsed());
                for number in 0..2 {
                    self.through.end(&end_plan(&name(round, number))).await.unwrap();
                }
            }
            stop.store(true, Ordering::SeqCst);
        };
        let ((worst, rounds), ()) = tokio::join!(other, disturbed);
        println!("another connection meanwhile: {rounds} users came and went in {worst:.2?} at most");
        assert!(worst < Duration::from_secs(5), "another connection waited for {worst:?}");
    }
}

async fn timed<T>(what: &str, call: impl Future<Output = T>) -> Duration {
    let begin = Instant::now();
    match tokio::time::timeout(LONGEST, call).await {
        Ok(_) => begin.elapsed(),
        Err(_) => panic!("{what} holds its worker longer than {LONGEST:?}"),
    }
}

/// A name that every server takes.
fn name(round: usize, number: usize) -> String {
    format!("V_HANG_{round}_{number}")
}

fn end_plan(user: &str) -> EndPlan {
    EndPlan { username: user.to_owned(), revocation: Script::default(), options: EndOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_that_hangs() {
    let server = Postgres::start();
    let proxy = Proxy::start(server.port(), 1);
    let endpoint =
        |port| PgEndpoint { hosts: vec![("127.0.0.1".to_owned(), port)], ..target_postgres::endpoint(&server) };
    let through = postgres::Settings {
        limits: Limits::new(2, 0, Duration::ZERO, LIMIT),
        statement_timeout: LIMIT,
        ..target_postgres::settings(endpoint(proxy.port()))
    };
    let rig = Rig {
        through: Arc::new(postgres::Postgres::new(through)),
        directly: Arc::new(postgres::Postgres::new(target_postgres::settings(endpoint(server.port())))),
        proxy,
        plan: Box::new(|user| {
            target_postgres::mint_plan(user, &[r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'"#])
        }),
    };
    rig.survives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_that_hangs() {
    let server = MariaDb::start();
    let proxy = Proxy::start(server.port(), 1);
    let admin = Secret::new(mariadb::ADMIN_PASSWORD.to_owned());
    let at = |port: u16| format!("{{{{username}}}}:{{{{password}}}}@tcp(127.0.0.1:{port})/");
    let through = target_mysql::target(&at(proxy.port()), mariadb::ADMIN, &admin, |source| {
        (source.connect_timeout, source.statement_timeout) = (LIMIT, LIMIT);
        source.max_open = 2;
    });
    let rig = Rig {
        through: Arc::new(through),
        directly: Arc::new(target_mysql::target(&server.url(), mariadb::ADMIN, &admin, |_| {})),
        proxy,
        plan: Box::new(|user| {
            target_mysql::mint_plan(user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"], &[])
        }),
    };
    rig.survives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_hangs() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port(), 1);
    let through = target_redis::target(proxy.port(), |source| {
        (source.connect_timeout, source.statement_timeout) = (LIMIT, LIMIT);
        source.max_open = 2;
    });
    let rig = Rig {
        through: Arc::new(through),
        directly: Arc::new(target_redis::target(server.port(), |_| {})),
        proxy,
        plan: Box::new(|user| target_redis::mint_plan(user, &[r#"["~app:*", "+get"]"#])),
    };
    rig.survives().await;
}
