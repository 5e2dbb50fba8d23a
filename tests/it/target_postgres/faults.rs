//! Servers that refuse, hang, break and lose an answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::support::wait_for;

fn waiting(endpoint: PgEndpoint, connect_timeout: Duration) -> Postgres {
    let limits = Limits::new(4, 0, Duration::ZERO, connect_timeout);
    Postgres::new(Settings { limits, ..settings(endpoint) })
}

/// An address where nothing listens.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn refusals_read_as_the_built_in_engine_writes_them() {
    let rig = Rig::new();
    let port = closed_port().await;
    let down = PgEndpoint { hosts: vec![("127.0.0.1".into(), port)], ..endpoint(&rig.pg) };
    let who = format!("`user={} database={}`", down.user, down.database);
    let target = waiting(down, Duration::from_secs(4));
    let refused = format!(
        "failed to connect to {who}: 127.0.0.1:{port} (127.0.0.1): dial error: dial tcp 127.0.0.1:{port}: connect: \
         connection refused"
    );
    assert_eq!(target.verify().await.unwrap_err().to_string(), refused);
    let Outcome::Failed(why) = target.mint(&mint_plan("x", &[CREATE]), Login::Password(&password())).await else {
        panic!()
    };
    assert_eq!(why.to_string(), format!("unable to start transaction: {refused}"));
    let why = target.end(&end_plan("x", &[])).await.unwrap_err();
    assert_eq!(why.to_string(), refused);

    let wrong = PgEndpoint { passwords: Some(Secret::new("wrong-password".into())).into(), ..endpoint(&rig.pg) };
    let (host, port) = wrong.hosts[0].clone();
    let user = wrong.user.clone();
    assert_eq!(
        waiting(wrong, Duration::from_secs(4)).verify().await.unwrap_err().to_string(),
        format!(
            "failed to connect to {who}: {host}:{port} ({host}): failed SASL auth: FATAL: password authentication failed \
             for user \"{user}\" (SQLSTATE 28P01)"
        )
    );
}

#[tokio::test]
async fn several_hosts_are_tried_in_order() {
    let rig = Rig::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = endpoint(&rig.pg).hosts[0].clone();
    let refused = ("127.0.0.1".to_owned(), closed_port().await);
    let hangs = ("127.0.0.1".to_owned(), silent.local_addr().unwrap().port());
    let several = PgEndpoint { hosts: vec![refused, hangs.clone(), good], ..endpoint(&rig.pg) };
    waiting(several, Duration::from_secs(4)).verify().await.unwrap();

    let hanging = PgEndpoint { hosts: vec![hangs], ..endpoint(&rig.pg) };
    let why = waiting(hanging, Duration::from_millis(300)).verify().await.unwrap_err().to_string();
    assert!(why.starts_with("failed to connect to `user=") && why.contains("connect_timeout"), "{why}");
}

#[tokio::test]
async fn a_statement_that_takes_too_long_names_the_setting() {
    let rig = Rig::new();
    let target =
        Postgres::new(Settings { statement_timeout: Duration::from_millis(300), ..settings(endpoint(&rig.pg)) });
    let Outcome::Failed(why) =
        target.mint(&mint_plan("user", &[CREATE, "SELECT pg_sleep(10)"]), Login::Password(&password())).await
    else {
        panic!()
    };
    assert!(why.to_string().contains("statement_timeout"), "{why}");
    assert!(!rig.role_exists("user"));
}

#[tokio::test]
async fn sessions_that_died_while_idle_are_replaced() {
    let rig = Rig::new();
    let named = PgEndpoint { application_name: "idle".into(), ..endpoint(&rig.pg) };
    let target = Postgres::new(settings(named));
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'idle'";
    for _ in 0..2 {
        target.verify().await.unwrap();
        assert_eq!(rig.pg.sql(kill), "1");
        minted(&target, &mint_plan("user", &[CREATE])).await;
        assert_eq!(rig.pg.sql(kill), "1");
        assert!(target.end(&end_plan("user", &[])).await.unwrap().existed);
    }
}

#[tokio::test]
async fn a_dropped_request_leaves_neither_a_user_nor_a_used_session() {
    let rig = Rig::new();
    let target = Postgres::new(Settings {
        limits: Limits::new(1, 0, Duration::ZERO, Duration::from_secs(5)),
        ..settings(endpoint(&rig.pg))
    });
    target.verify().await.unwrap();
    let (plan, secret) = (mint_plan("user", &[CREATE, "SELECT pg_sleep(0.5)"]), password());
    let cut = tokio::time::timeout(Duration::from_millis(200), target.mint(&plan, Login::Password(&secret))).await;
    assert!(cut.is_err());
    target.verify().await.unwrap();
    let busy = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.5)%' AND pid <> pg_backend_pid()";
    wait_for("the server's end of it", Duration::from_secs(10), || rig.pg.sql(busy).is_empty().then_some(()));
    assert!(!rig.role_exists("user"));
}

/// Ends that wait for a second session while they hold the first would wait for each other.
#[tokio::test]
async fn statements_of_an_end_need_no_second_session() {
    let rig = Rig::new();
    let settings = Settings {
        limits: Limits::new(2, 0, Duration::ZERO, Duration::from_secs(10)),
        statement_timeout: Duration::from_secs(10),
        ..settings(endpoint(&rig.pg))
    };
    let target = Postgres::new(settings);
    let users: Vec<String> = (0..6).map(|number| format!("user{number}")).collect();
    for user in &users {
        minted(&target, &mint_plan(user, &[CREATE])).await;
    }
    rig.pg.sql("CREATE ROLE other");
    let begin = std::time::Instant::now();
    let own = ["SET ROLE other", "RESET ROLE", "DROP ROLE \"{{name}}\"", "SET ROLE other"];
    let ended = users.iter().map(|user| async { target.end(&end_plan(user, &own)).await.unwrap() });
    assert!(futures_util::future::join_all(ended).await.iter().all(|ended| ended.left.is_empty()));
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert!(users.iter().all(|user| !rig.role_exists(user)));
    // What the statements have set in the session is not what the next one finds.
    minted(&target, &mint_plan("after", &[CREATE])).await;
}

/// Passes bytes on until the client says COMMIT; then that is passed on or not, and no answer comes back.
async fn losing_proxy(server: (String, u16), pass_on_commit: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut lost = false;
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect((server.0.as_str(), server.1)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            let answers =
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await.map(drop) });
            if lost {
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                continue;
            }
            let mut buffer = vec![0; 65536];
            loop {
                let length = from_client.read(&mut buffer).await.unwrap_or(0);
                let is_commit = buffer[..length].windows(6).any(|window| window == b"COMMIT");
                if is_commit {
                    lost = true;
                    answers.abort();
                }
                if length == 0 || (is_commit && !pass_on_commit) {
                    break;
                }
                to_server.write_all(&buffer[..length]).await.unwrap();
                if is_commit {
                    // The server is told, then both ends are cut.
                    to_server.flush().await.unwrap();
                    break;
                }
            }
        }
    });
    port
}

/// The server forgets a transaction in a crash and gives its number to others, who commit.
#[tokio::test]
async fn a_commit_that_a_crash_swallowed_is_not_taken_for_one_that_came_after() {
    // Nothing of a transaction is written down before its commit.
    let mut pg =
        Server::start_with(&["fsync=off", "wal_writer_delay=10s", "bgwriter_lru_maxpages=0", "autovacuum=off"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through =
        PgEndpoint { hosts: vec![("127.0.0.1".into(), listener.local_addr().unwrap().port())], ..endpoint(&pg) };
    let server = ("127.0.0.1", pg.port());
    let (reached, at_commit) = tokio::sync::oneshot::channel();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
        let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await.map(drop) });
        let mut buffer = vec![0; 65536];
        loop {
            let length = from_client.read(&mut buffer).await.unwrap();
            if buffer[..length].windows(6).any(|window| window == b"COMMIT") {
                break;
            }
            to_server.write_all(&buffer[..length]).await.unwrap();
        }
        answers.abort();
        reached.send(()).unwrap();
        gone.await.unwrap();
        drop((from_client, to_server));
        while let Ok((mut client, _)) = listener.accept().await {
            let mut upstream = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop) });
        }
    });
    let target = Postgres::new(settings(through));
    let (plan, secret) = (mint_plan("user", &[CREATE]), password());
    let crash = async {
        at_commit.await.unwrap();
        let next = || pg.sql("SELECT txid_snapshot_xmax(txid_current_snapshot())").parse::<u64>().unwrap();
        // The one after the last that has ended.
        let lost = next();
        pg.stop();
        pg.start_again();
        let next = || pg.sql("SELECT txid_snapshot_xmax(txid_current_snapshot())").parse::<u64>().unwrap();
        assert!(next() <= lost, "the number is given out again");
        while next() <= lost {
            pg.sql("SELECT txid_current()");
        }
        assert_eq!(pg.sql(&format!("SELECT txid_status({lost})")), "committed");
        go.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(target.mint(&plan, Login::Password(&secret)), crash);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test]
async fn the_fate_of_a_lost_commit_is_learned() {
    let rig = Rig::new();
    for pass_on in [true, false] {
        let user = format!("user_{pass_on}");
        let server = endpoint(&rig.pg).hosts[0].clone();
        let hosts = vec![("127.0.0.1".into(), losing_proxy(server, pass_on).await)];
        let target = Postgres::new(settings(PgEndpoint { hosts, ..endpoint(&rig.pg) }));
        let outcome = target.mint(&mint_plan(&user, &[CREATE]), Login::Password(&password())).await;
        assert_eq!(matches!(outcome, Outcome::Done(())), pass_on, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Failed(_)), !pass_on, "{outcome:?}");
        assert_eq!(rig.role_exists(&user), pass_on);
    }
}

/// Passes on what clients send until so many messages came in one connection after its login, then cuts that connection:
/// before the last of them is passed on, or after the server has answered it, whose answer is lost. Later connections are
/// left alone.
async fn cutting_proxy(server: (String, u16), messages: usize, before: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut cut = false;
        while let Ok((mut client, _)) = listener.accept().await {
            let mut upstream = TcpStream::connect((server.0.as_str(), server.1)).await.unwrap();
            if cut {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop) });
                continue;
            }
            let (mut question, mut answer) = (vec![0; 65536], vec![0; 65536]);
            let mut seen = 0;
            while !cut {
                tokio::select! {
                    Ok(length @ 1..) = client.read(&mut question) => {
                        // A simple query; ours come in one piece.
                        seen += usize::from(question[0] == b'Q');
                        cut = seen > messages;
                        if !(cut && before) {
                            upstream.write_all(&question[..length]).await.unwrap();
                        }
                        if cut && !before {
                            // `ReadyForQuery` ends it: all of it has happened.
                            while answer[..6] != *b"Z\0\0\0\x05I" {
                                let length = upstream.read(&mut answer).await.unwrap();
                                let end = length.saturating_sub(6);
                                answer.copy_within(end..length, 0);
                            }
                        }
                    }
                    Ok(length @ 1..) = upstream.read(&mut answer) => client.write_all(&answer[..length]).await.unwrap(),
                    else => break,
                }
            }
        }
    });
    port
}

/// The process dies, or its connection, between any two messages of an end, or while one is answered: what the server has
/// got of it by then bars the user, and the next end does the rest.
#[tokio::test]
async fn an_end_that_is_cut_anywhere_is_finished_by_the_next() {
    let rig = Rig::new();
    rig.pg.sql("CREATE ROLE readers; CREATE TABLE t (x int)");
    let granted = "GRANT SELECT ON t TO \"{{name}}\"";
    let kinds: [(&str, &[&str]); 3] =
        [("plain", &[CREATE]), ("member", &[CREATE, "GRANT readers TO \"{{name}}\""]), ("granted", &[CREATE, granted])];
    for (kind, creation) in kinds {
        let mut whole = 0;
        for (after, before) in (0..8).flat_map(|after| [(after, true), (after, false)]) {
            let user = format!("{kind}_{after}_{before}");
            rig.minted(&user, creation).await;
            let mut session = rig.session(&user);
            let server = endpoint(&rig.pg).hosts[0].clone();
            // The first message prepares the session.
            let hosts = vec![("127.0.0.1".into(), cutting_proxy(server, after + 1, before).await)];
            let cut = Postgres::new(settings(PgEndpoint { hosts, ..endpoint(&rig.pg) }));
            // Where it was cut it says so, or does it again by itself.
            let first = cut.end(&end_plan(&user, &[])).await;
            if first.is_err() && !(after == 0 || after == 1 && before) {
                assert!(!rig.can_log_in(&user), "{user}: the login is taken first");
            }
            whole += usize::from(first.is_err());
            let ended = rig.end(&user, &[]).await.unwrap();
            assert_eq!(ended.left, [], "{user}");
            assert!(!rig.role_exists(&user) && session.one("SELECT 1").is_none(), "{user} is gone, and its session");
            let traces = "SELECT count(*) FROM pg_shdepend s LEFT JOIN pg_authid r ON r.oid = s.refobjid \
                          WHERE s.refclassid = 'pg_authid'::regclass AND r.oid IS NULL";
            assert_eq!(rig.pg.sql(traces), "0", "{user}");
        }
        assert!(whole >= 2, "{kind}: the cuts met {whole} ends");
    }
}
