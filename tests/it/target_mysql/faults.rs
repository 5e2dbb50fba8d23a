//! Servers that are slow, in the way, or gone in the middle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::secret::Secret;
use leasehold::target::mysql::{MySql, Source};
use leasehold::target::{Login, Outcome, Target, TargetError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::{Rig, failure, fresh, mint_plan, name, target, until};
use crate::support::mariadb::{ADMIN, ADMIN_PASSWORD};

#[tokio::test]
async fn a_statement_without_an_answer_is_settled() {
    let rig = Rig::with(|source| source.statement_timeout = Duration::from_millis(300));
    let user = name();
    // The second statement would make the user come back long after the first was undone.
    let late = "BEGIN NOT ATOMIC DO SLEEP(1.5); EXECUTE IMMEDIATE 'CREATE USER ''{{name}}''@''late''' ; END";
    let plan = mint_plan(&user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", late], &[]);
    let error = failure(&rig.target, &plan, &fresh()).await;
    assert!(error.to_string().contains("statement_timeout"), "{error}");
    assert!(rig.server.hosts(&user).is_empty());
    let running = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                   WHERE ID <> CONNECTION_ID() AND INFO LIKE '%SLEEP(1.5)%'";
    until("the statement has ended", || rig.server.sql(running) == "0").await;
    assert!(rig.server.hosts(&user).is_empty(), "the statement took effect after it was undone");
}

#[tokio::test]
async fn a_lock_that_is_in_the_way_is_waited_for() {
    let rig = Rig::with(|source| source.statement_timeout = Duration::from_secs(4));
    rig.server.sql("CREATE TABLE app.t (a INT)");
    let user = name();
    let creation = ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "ALTER TABLE app.t COMMENT 'x'"];
    let mut other = rig.server.session(ADMIN, ADMIN_PASSWORD);
    assert_eq!(other.one("START TRANSACTION; INSERT INTO app.t VALUES (1); SELECT 7").as_deref(), Some("7"));
    let release = async {
        let waiting =
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table metadata%'";
        until("the statement waits", || rig.server.sql(waiting) == "1").await;
        assert_eq!(other.one("COMMIT; SELECT 8").as_deref(), Some("8"));
    };
    tokio::join!(rig.minted(&user, &creation), release);
    assert_eq!(rig.server.hosts(&user), ["%"]);
}

/// Passes connections on to the server until it is told not to.
struct Proxy {
    port: u16,
    accepting: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepting, open) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let proxy = Self { port, accepting: accepting.clone(), open: open.clone() };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if accepting.load(Ordering::SeqCst) {
                    let copy = tokio::spawn(async move {
                        let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    });
                    open.lock().unwrap().push(copy.abort_handle());
                }
            }
        });
        proxy
    }

    fn target(&self, change: impl FnOnce(&mut Source<'_>)) -> MySql {
        let url = format!("{{{{username}}}}:{{{{password}}}}@tcp(127.0.0.1:{})/", self.port);
        target(&url, ADMIN, &Secret::new(ADMIN_PASSWORD.into()), change)
    }

    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|copy| copy.abort());
    }
}

/// Mints through a proxy and has `cut` called when the user is there and its second statement is under way.
async fn cut_short(rig: &Rig, through: &MySql, user: &str, cut: impl FnOnce()) -> Outcome<()> {
    let plan = mint_plan(user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "DO SLEEP(20)"], &[]);
    let password = fresh();
    let made = async {
        let sleeping = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'DO SLEEP(20)'";
        until("the mint is under way", || rig.server.sql(sleeping) == "1").await;
        assert_eq!(rig.server.hosts(user), ["%"]);
        cut();
    };
    tokio::join!(through.mint(&plan, Login::Password(&password)), made).0
}

#[tokio::test]
async fn a_session_that_breaks_midway() {
    let rig = Rig::new();
    let proxy = Proxy::new(rig.server.port()).await;
    let through = proxy.target(|_| {});
    let user = name();
    match cut_short(&rig, &through, &user, || proxy.cut()).await {
        Outcome::Failed(e) => assert!(matches!(e, TargetError::Lost(_)), "{e}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.server.hosts(&user).is_empty());

    let through = proxy.target(|source| source.connect_timeout = Duration::from_secs(2));
    let gone = || {
        proxy.accepting.store(false, Ordering::SeqCst);
        proxy.cut();
    };
    match cut_short(&rig, &through, &user, gone).await {
        Outcome::Unknown(e) => assert!(matches!(e, TargetError::Lost(_)), "{e}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.server.hosts(&user), ["%"]);
    assert!(rig.end(&user, &[]).await.unwrap().existed);
}
