//! Against a real Redis server with a file of users, one for each process of tests.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use ::redis::cmd;

use super::*;
use crate::secret::password;
use crate::support::redis::{ADMIN, ADMIN_PASSWORD, Redis as Server};
use crate::target::{Dialect, Marker, Script};

fn url() -> Option<String> {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let port = SERVER.get_or_init(Server::start).port();
    Some(format!("redis://{ADMIN}:{ADMIN_PASSWORD}@127.0.0.1:{port}"))
}

fn target_with(change: impl FnOnce(&mut Source<'_>)) -> Option<Redis> {
    let url = url()?;
    let mut source = Source { connection_url: &url, persistence_mode: "aclfile", ..Source::default() };
    change(&mut source);
    Some(Redis::new(Settings::new(&source).unwrap()))
}

fn target() -> Option<Redis> {
    target_with(|_| {})
}

fn script(texts: &[&str]) -> Script {
    Script::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), Dialect::Redis)
}

fn name() -> String {
    format!("V_TEST_{}", password::base62(16).unwrap().to_uppercase())
}

fn mint_plan(username: &str, creation: &[&str]) -> MintPlan {
    let marker = Marker { mount: "m".into(), role: "r".into(), request: "q".into(), entity: String::new(), expires: 0 };
    MintPlan {
        username: username.to_owned(),
        creation: script(creation),
        rollback: Script::default(),
        expiration: SystemTime::UNIX_EPOCH,
        marker,
    }
}

fn end_plan(username: &str) -> EndPlan {
    EndPlan { username: username.to_owned(), revocation: Script::default() }
}

async fn minted(target: &Redis, username: &str, creation: &[&str]) -> Secret {
    let password = password::password().unwrap();
    match target.mint(&mint_plan(username, creation), Login::Password(&password)).await {
        Outcome::Done(()) => password,
        other => panic!("{other:?}"),
    }
}

async fn knows(target: &Redis, username: &str) -> bool {
    let mut session = target.core.session().await.unwrap();
    let knows = session.knows(username).await.unwrap();
    session.give_back();
    knows
}

/// The user's line in the server's list.
async fn line(target: &Redis, username: &str) -> Option<String> {
    let mut session = target.core.session().await.unwrap();
    let lines: Vec<String> = session.ask(cmd("ACL").arg("LIST")).await.unwrap();
    session.give_back();
    lines.into_iter().find(|line| line.starts_with(&format!("user {username} ")))
}

#[tokio::test]
async fn the_life_of_a_user() {
    let Some(target) = target() else { return };
    target.verify().await.unwrap();
    let user = name();
    let password = minted(&target, &user, &[r#"["~app:*", "+get", "+client|id", "&news"]"#]).await;
    let line = line(&target, &user).await.unwrap();
    assert!(line.contains(acl_rule(&password).expose()) && line.contains("~app:*") && line.contains("+get"), "{line}");
    assert!(!line.contains(password.expose()) && !line.contains("nopass") && !line.contains("+@all"), "{line}");
    target.login(&user, &password).await.unwrap();
    let refused = target.login(&user, &password::password().unwrap()).await.unwrap_err();
    assert!(matches!(&refused, LoginError::Refused(_)), "{refused:?}");

    let settings = &target.core.settings;
    let mut open = node::connect(settings, &user, Some(&password), Duration::from_secs(5)).await.unwrap();
    let _: i64 = cmd("CLIENT").arg("ID").query_async(&mut open).await.unwrap();
    let renew =
        RenewPlan { username: user.clone(), renew: script(&["x"]), expiration: SystemTime::UNIX_EPOCH, expires: 0 };
    target.renew(&renew).await.unwrap();
    let ended = target.end(&end_plan(&user)).await.unwrap();
    assert!(ended.existed);
    assert_eq!(ended.sessions, 1);
    let after: Result<i64, _> = cmd("CLIENT").arg("ID").query_async(&mut open).await;
    assert!(after.is_err(), "a session of the ended user still works");
    assert!(!knows(&target, &user).await);
    assert!(target.login(&user, &password).await.is_err());
    let again = target.end(&end_plan(&user)).await.unwrap();
    assert!(!again.existed && again.sessions == 0);
}

#[tokio::test]
async fn users_are_kept_for_the_next_start() {
    let Some(target) = target() else { return };
    let mut session = target.core.session().await.unwrap();
    let file: Vec<String> = session.ask(cmd("CONFIG").arg("GET").arg("aclfile")).await.unwrap();
    session.give_back();
    let user = name();
    let kept = || std::fs::read_to_string(&file[1]).unwrap().contains(&user);
    let password = minted(&target, &user, &[]).await;
    assert!(kept());
    let text = std::fs::read_to_string(&file[1]).unwrap();
    assert!(text.contains(acl_rule(&password).expose()) && !text.contains(password.expose()));
    target.end(&end_plan(&user)).await.unwrap();
    assert!(!kept());
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_made() {
    let Some(target) = target_with(|source| source.persistence_mode = "rewrite") else { return };
    let user = name();
    // A server started without a configuration file cannot write one.
    match target.mint(&mint_plan(&user, &[]), Login::Password(&password::password().unwrap())).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("ERR "), "{e}"),
        other => panic!("{other:?}"),
    }
    assert!(!knows(&target, &user).await);
}

#[tokio::test]
async fn refusals_leave_nothing() {
    let Some(target) = target() else { return };
    let user = name();
    for creation in [["+nosuchcommand"], [">hunter2"], ["nopass"]] {
        match target.mint(&mint_plan(&user, &creation), Login::Password(&password::password().unwrap())).await {
            Outcome::Failed(e) => assert!(!e.to_string().contains("hunter2"), "{e}"),
            other => panic!("{other:?}"),
        }
        assert!(!knows(&target, &user).await);
    }
    for bad in ["", "a b", "default"] {
        let outcome = target.mint(&mint_plan(bad, &[]), Login::Password(&password::password().unwrap())).await;
        assert!(matches!(outcome, Outcome::Failed(TargetError::Plan(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_user_that_was_there_is_not_touched() {
    let Some(target) = target() else { return };
    let user = name();
    let password = minted(&target, &user, &[]).await;
    match target.mint(&mint_plan(&user, &[]), Login::Password(&password::password().unwrap())).await {
        Outcome::Failed(e) => assert!(e.to_string().contains("exists already"), "{e}"),
        other => panic!("{other:?}"),
    }
    target.login(&user, &password).await.unwrap();
    target.end(&end_plan(&user)).await.unwrap();
}

#[tokio::test]
async fn passwords_of_a_user_that_stays() {
    let Some(target) = target() else { return };
    let user = name();
    let (new, newest) = (password::password().unwrap(), password::password().unwrap());
    assert!(matches!(target.set_password(&user, &new, &script(&[])).await, Outcome::Failed(TargetError::Plan(_))));
    assert!(!knows(&target, &user).await, "setting the password of nobody made somebody");
    let old = minted(&target, &user, &[]).await;
    assert!(matches!(target.set_password(&user, &new, &script(&[])).await, Outcome::Done(())));
    assert!(target.login(&user, &old).await.is_err());
    assert!(matches!(target.add_password(&user, &newest).await, Outcome::Done(())));
    target.login(&user, &new).await.unwrap();
    target.login(&user, &newest).await.unwrap();
    assert!(matches!(target.remove_password(&user, &new).await, Outcome::Done(())));
    assert!(target.login(&user, &new).await.is_err());
    target.login(&user, &newest).await.unwrap();
    target.end(&end_plan(&user)).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_no_user() {
    let Some(target) = target() else { return };
    let Some(other) = self::target() else { return };
    let user = name();
    let mut session = other.core.session().await.unwrap();
    // Everything but this session waits.
    session.ask::<()>(cmd("CLIENT").arg("PAUSE").arg(300).arg("WRITE")).await.unwrap();
    let password = password::password().unwrap();
    let plan = mint_plan(&user, &[]);
    let left = tokio::time::timeout(Duration::from_millis(50), target.mint(&plan, Login::Password(&password))).await;
    session.ask::<()>(cmd("CLIENT").arg("UNPAUSE")).await.unwrap();
    drop(session);
    if left.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    } else {
        // The server does not pause for this command: the mint was done, nobody left.
        target.end(&end_plan(&user)).await.unwrap();
    }
    assert!(!knows(&target, &user).await);
}

#[tokio::test]
async fn a_result_that_nobody_takes_is_undone() {
    let Some(target) = target() else { return };
    let user = name();
    minted(&target, &user, &[]).await;
    drop(Minted(Some((target.core.clone(), user.clone()))));
    let gone = async {
        while knows(&target, &user).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the user is still there");
}

#[tokio::test]
async fn the_words_of_a_server_that_is_not_there_or_says_no() {
    let Some(url) = url() else { return };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("redis://a:b@{closed}");
    let down = Redis::new(Settings::new(&Source { connection_url: &down, ..Source::default() }).unwrap());
    let error = down.verify().await.unwrap_err().to_string();
    assert_eq!(error, format!("dial tcp {closed}: connect: connection refused"));
    let wrong = format!("redis://admin:wrong{}", &url[url.rfind('@').unwrap()..]);
    let wrong = Redis::new(Settings::new(&Source { connection_url: &wrong, ..Source::default() }).unwrap());
    let error = wrong.verify().await.unwrap_err().to_string();
    assert!(error.contains("WRONGPASS "), "{error}");
}

#[tokio::test]
async fn a_session_that_was_killed_while_idle_costs_nothing() {
    let Some(target) = target() else { return };
    let Some(other) = self::target() else { return };
    let user = name();
    for _ in 0..2 {
        let session = target.core.session().await.unwrap();
        let id = session.id;
        session.give_back();
        other.core.session().await.unwrap().end_own_session(id).await.unwrap();
        minted(&target, &user, &[]).await;
        assert!(target.end(&end_plan(&user)).await.unwrap().existed);
    }
    target.close().await;
    assert!(matches!(target.verify().await, Err(TargetError::Connect(_))));
}

/// `LEASEHOLD_TEST_REDIS_TLS_PORT` is a port with TLS, `LEASEHOLD_TEST_REDIS_CA` the authority of its certificate, which
/// is for `localhost` and not for addresses; `LEASEHOLD_TEST_REDIS_URL` is the server without TLS.
#[tokio::test]
#[ignore = "needs a server with a certificate, named in the environment"]
async fn tls() {
    let url = std::env::var("LEASEHOLD_TEST_REDIS_URL").unwrap();
    let port = std::env::var("LEASEHOLD_TEST_REDIS_TLS_PORT").unwrap();
    let ca = std::fs::read_to_string(std::env::var("LEASEHOLD_TEST_REDIS_CA").unwrap()).unwrap();
    let login = &url["redis://".len()..url.rfind('@').unwrap()];
    let of = |source: Source<'_>| Redis::new(Settings::new(&source).unwrap());
    let by_name = format!("rediss://{login}@localhost:{port}");
    of(Source { connection_url: &by_name, ca_cert: &ca, ..Source::default() }).verify().await.unwrap();
    of(Source { connection_url: &by_name, insecure_tls: true, ..Source::default() }).verify().await.unwrap();
    let by_address = format!("valkeys://{login}@127.0.0.1:{port}");
    let other = Source { connection_url: &by_address, ca_cert: &ca, ..Source::default() };
    let error = of(other).verify().await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}
