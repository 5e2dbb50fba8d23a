//! The Redis target against a real server: users made, ended and given passwords.

use std::time::{Duration, SystemTime};

use leasehold::secret::verifier::redis::acl_rule;
use leasehold::secret::{Secret, password};
use leasehold::target::redis::{Redis, Settings, Source};
use leasehold::target::{
    Dialect, EndOptions, EndPlan, Login, LoginError, Marker, MintPlan, Need, Outcome, Owned, RenewPlan, Script,
    Sessions, Target, TargetError, Verify,
};

use crate::hostile;
use crate::support::redis::{ADMIN, ADMIN_PASSWORD, Redis as Server};
use crate::support::tls::Authority;

/// A server with a file of users, and the target that works at it.
struct Rig {
    server: Server,
    target: Redis,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Source<'_>)) -> Self {
        let server = Server::start();
        let target = target(server.port(), change);
        Self { server, target }
    }

    fn knows(&self, user: &str) -> bool {
        self.line(user).is_some()
    }

    /// The user's line in the server's list.
    fn line(&self, user: &str) -> Option<String> {
        self.server.users().into_iter().find(|line| line.starts_with(&format!("user {user} ")))
    }

    async fn minted(&self, user: &str, creation: &[&str]) -> Secret {
        let password = fresh();
        match self.target.mint(&mint_plan(user, creation), Login::Password(&password)).await {
            Outcome::Done(()) => password,
            other => panic!("{other:?}"),
        }
    }

    async fn failure(&self, user: &str, creation: &[&str]) -> TargetError {
        match self.target.mint(&mint_plan(user, creation), Login::Password(&fresh())).await {
            Outcome::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }
}

pub fn target(port: u16, change: impl FnOnce(&mut Source<'_>)) -> Redis {
    let url = format!("redis://{ADMIN}:{ADMIN_PASSWORD}@127.0.0.1:{port}");
    let mut source = Source { connection_url: &url, persistence_mode: "aclfile", ..Source::default() };
    change(&mut source);
    Redis::new(Settings::new(&source).unwrap())
}

fn fresh() -> Secret {
    password::password().unwrap()
}

fn name() -> String {
    format!("V_TEST_{}", password::base62(16).unwrap().to_uppercase())
}

fn script(statements: &[&str]) -> Script {
    Script::parse(&statements.iter().map(|&text| text.to_owned()).collect::<Vec<_>>(), Dialect::Redis)
}

pub fn mint_plan(user: &str, creation: &[&str]) -> MintPlan {
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
        rollback: Script::default(),
        expiration: SystemTime::UNIX_EPOCH,
        scram_iterations: None,
        marker,
        recorded: false,
        repeats: false,
    }
}

pub fn end_plan(user: &str) -> EndPlan {
    EndPlan { username: user.to_owned(), revocation: Script::default(), options: EndOptions::default() }
}

#[tokio::test]
async fn the_life_of_a_user() {
    let rig = Rig::new();
    rig.target.verify().await.unwrap();
    let user = name();
    let password = rig.minted(&user, &[r#"["~app:*", "+get", "+client|id", "&news"]"#]).await;
    let line = rig.line(&user).unwrap();
    assert!(line.contains(acl_rule(&password).expose()) && line.contains("~app:*") && line.contains("+get"), "{line}");
    assert!(!line.contains(password.expose()) && !line.contains("nopass") && !line.contains("+@all"), "{line}");
    rig.target.login(&user, &password).await.unwrap();
    let refused = rig.target.login(&user, &fresh()).await.unwrap_err();
    assert!(matches!(&refused, LoginError::Refused(_)), "{refused:?}");

    let mut open = rig.server.session(&user, password.expose());
    assert!(open.ask("CLIENT ID").unwrap().starts_with(':'));
    let renew =
        RenewPlan { username: user.clone(), renew: script(&["x"]), expiration: SystemTime::UNIX_EPOCH, expires: 0 };
    rig.target.renew(&renew).await.unwrap();
    let ended = rig.target.end(&end_plan(&user)).await.unwrap();
    assert!(ended.existed);
    assert_eq!(ended.sessions, 1);
    assert_eq!(open.ask("CLIENT ID"), None, "a session of the ended user still works");
    assert!(!rig.knows(&user));
    assert!(rig.target.login(&user, &password).await.is_err());
    let again = rig.target.end(&end_plan(&user)).await.unwrap();
    assert!(!again.existed && again.sessions == 0);
}

#[tokio::test]
async fn users_are_kept_for_the_next_start() {
    let mut rig = Rig::new();
    let user = name();
    let password = rig.minted(&user, &[]).await;
    let kept = rig.server.users_file();
    assert!(kept.contains(acl_rule(&password).expose()) && !kept.contains(password.expose()));
    rig.server.stop();
    rig.server.start_again();
    rig.target.login(&user, &password).await.unwrap();
    rig.target.end(&end_plan(&user)).await.unwrap();
    assert!(!rig.server.users_file().contains(&user));
}

/// Deleting a user ends its sessions: where they may go on, it waits for them.
#[tokio::test]
async fn sessions_that_may_go_on() {
    let rig = Rig::new();
    let grace = Sessions::Grace(Duration::from_secs(60));
    for sessions in [grace.clone(), Sessions::Keep] {
        let user = name();
        let password = rig.minted(&user, &["+ping"]).await;
        let mut open = rig.server.session(&user, password.expose());
        assert_eq!(open.ask("PING").as_deref(), Some("+PONG"));
        let options = EndOptions { sessions: sessions.clone(), ..EndOptions::default() };
        let plan = EndPlan { options, ..end_plan(&user) };
        for _ in 0..2 {
            let ended = rig.target.end(&plan).await.unwrap();
            assert_eq!((ended.sessions, ended.left.len()), (0, 1));
            assert_eq!(ended.again, (sessions == grace).then_some(Duration::from_secs(60)));
            assert!(rig.server.login(&user, password.expose(), &["PING"]).is_err(), "no more of them");
            assert!(rig.server.users_file().lines().any(|line| line.starts_with(&format!("user {user} off"))));
            assert_eq!(open.ask("PING").as_deref(), Some("+PONG"));
        }
        drop(open);
        let mut left = 1;
        for _ in 0..500 {
            left = rig.target.end(&plan).await.unwrap().left.len();
            if left == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((left, rig.knows(&user)), (0, false));
    }
    let user = name();
    let password = rig.minted(&user, &["+ping"]).await;
    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.ask("PING").as_deref(), Some("+PONG"));
    let options = EndOptions { sessions: grace.after(Duration::from_secs(60)), ..EndOptions::default() };
    let ended = rig.target.end(&EndPlan { options, ..end_plan(&user) }).await.unwrap();
    assert_eq!((ended.sessions, ended.left), (1, vec![]));
    assert_eq!(open.ask("PING"), None);
}

#[tokio::test]
async fn a_list_that_cannot_be_written_is_told() {
    let rig = Rig::new();
    let user = name();
    rig.minted(&user, &[]).await;
    let broken = target(rig.server.port(), |source| source.persistence_mode = "rewrite");
    for existed in [true, false] {
        let ended = broken.end(&end_plan(&user)).await.unwrap();
        assert_eq!((ended.existed, ended.left.len()), (existed, 1));
        assert!(ended.left[0].reason.contains("+config|rewrite"), "{ended:?}");
        assert!(!rig.knows(&user));
    }
    assert_eq!(rig.target.end(&end_plan(&user)).await.unwrap().left, []);
    assert!(!rig.server.users_file().contains(&user));
}

#[tokio::test]
async fn what_an_account_can_do() {
    let rig = Rig::new();
    let grace = EndOptions { sessions: Sessions::Grace(Duration::from_secs(1)), ..EndOptions::default() };
    assert!(rig.target.check(&grace).await.unwrap().iter().all(|capability| capability.granted));
    for (owned, need) in [(Owned::Drop, Need::DropObjects), (Owned::Reassign("x".into()), Need::ReassignObjects)] {
        let last = rig.target.check(&EndOptions { owned, ..grace.clone() }).await.unwrap().pop().unwrap();
        assert_eq!((last.need, last.granted, last.required), (need, false, true));
    }
    let account = name();
    let password = rig.minted(&account, &["+ping", "+client|id"]).await;
    let url = format!("redis://{account}:{}@127.0.0.1:{}", password.expose(), rig.server.port());
    let narrow = Redis::new(
        Settings::new(&Source { connection_url: &url, persistence_mode: "aclfile", ..Source::default() }).unwrap(),
    );
    let lacks = narrow.check(&grace).await.unwrap();
    assert!(lacks.iter().all(|lack| !lack.granted && lack.required), "{lacks:?}");
    let needs =
        [Need::CreateUsers, Need::SeeUsers, Need::EndUsers, Need::EndSessions, Need::SeeSessions, Need::SaveUsers];
    assert_eq!(lacks.iter().map(|lack| lack.need).collect::<Vec<_>>(), needs);
    for lack in &lacks {
        rig.server.command(&lack.fix.split(' ').collect::<Vec<_>>());
    }
    for capability in narrow.check(&grace).await.unwrap() {
        assert!(capability.granted, "{capability:?}");
    }
    // And it is enough.
    let user = name();
    let made = narrow.mint(&mint_plan(&user, &[]), Login::Password(&fresh())).await;
    assert!(matches!(made, Outcome::Done(())), "{made:?}");
    let ended = narrow.end(&EndPlan { options: grace, ..end_plan(&user) }).await.unwrap();
    assert_eq!((ended.existed, ended.left), (true, vec![]));
    let lax = EndOptions { verify: Verify::BestEffort, ..EndOptions::default() };
    assert!(narrow.check(&lax).await.unwrap().iter().all(|capability| capability.need != Need::SeeSessions));
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_made() {
    let rig = Rig::with(|source| source.persistence_mode = "rewrite");
    let user = name();
    // A server started without a configuration file cannot write one.
    let error = rig.failure(&user, &[]).await.to_string();
    assert!(error.contains("ERR "), "{error}");
    assert!(!rig.knows(&user));
}

#[tokio::test]
async fn refusals_leave_nothing() {
    let rig = Rig::new();
    let user = name();
    for creation in ["+nosuchcommand", ">hunter2", "nopass"] {
        let error = rig.failure(&user, &[creation]).await.to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!rig.knows(&user));
    }
    for bad in ["", "a b", "default"] {
        let error = rig.failure(bad, &[]).await;
        assert!(matches!(error, TargetError::Plan(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_user_that_was_there_is_not_touched() {
    let rig = Rig::new();
    let user = name();
    let password = rig.minted(&user, &[]).await;
    let error = rig.failure(&user, &[]).await.to_string();
    assert!(error.contains("exists already"), "{error}");
    rig.target.login(&user, &password).await.unwrap();
}

#[tokio::test]
async fn passwords_of_a_user_that_stays() {
    let rig = Rig::new();
    let target = &rig.target;
    let user = name();
    let (new, newest) = (fresh(), fresh());
    assert!(matches!(target.set_password(&user, &new, &script(&[])).await, Outcome::Failed(TargetError::Plan(_))));
    assert!(!rig.knows(&user), "setting the password of nobody made somebody");
    let old = rig.minted(&user, &[]).await;
    assert!(matches!(target.set_password(&user, &new, &script(&[])).await, Outcome::Done(())));
    assert!(target.login(&user, &old).await.is_err());
    assert!(matches!(target.add_password(&user, &newest, &new).await, Outcome::Done(())));
    target.login(&user, &new).await.unwrap();
    target.login(&user, &newest).await.unwrap();
    for _ in 0..2 {
        target.remove_password(&user, &new).await.unwrap();
        assert!(target.login(&user, &new).await.is_err());
        target.login(&user, &newest).await.unwrap();
    }
    // What somebody has taken from the user does not come back as the old one.
    assert!(matches!(target.add_password(&user, &old, &new).await, Outcome::Done(())));
    target.login(&user, &old).await.unwrap();
    assert!(target.login(&user, &new).await.is_err() && target.login(&user, &newest).await.is_err());
}

/// The server stands still while the caller waits; once it goes on, what was sent to it takes effect.
#[tokio::test]
async fn a_caller_that_leaves_leaves_no_user() {
    let rig = Rig::new();
    rig.target.verify().await.unwrap();
    let user = name();
    let (plan, password) = (mint_plan(&user, &[]), fresh());
    rig.server.freeze();
    let left =
        tokio::time::timeout(Duration::from_millis(50), rig.target.mint(&plan, Login::Password(&password))).await;
    rig.server.thaw();
    assert!(left.is_err(), "{left:?}");
    // The administrator's sessions stand in one line: when the target answers again, the mint is behind it.
    let gone = async {
        let mut quiet = 0;
        while quiet < 10 {
            quiet = if rig.knows(&user) { 0 } else { quiet + 1 };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the user is still there");
}

#[tokio::test]
async fn the_words_of_a_server_that_is_not_there_or_says_no() {
    let rig = Rig::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("redis://a:b@{closed}");
    let down = Redis::new(Settings::new(&Source { connection_url: &down, ..Source::default() }).unwrap());
    let error = down.verify().await.unwrap_err().to_string();
    assert_eq!(error, format!("dial tcp {closed}: connect: connection refused"));
    let wrong = format!("redis://{ADMIN}:wrong@127.0.0.1:{}", rig.server.port());
    let wrong = Redis::new(Settings::new(&Source { connection_url: &wrong, ..Source::default() }).unwrap());
    let error = wrong.verify().await.unwrap_err().to_string();
    assert!(error.starts_with("response returned from Conn: WRONGPASS "), "{error}");
}

#[tokio::test]
async fn a_session_that_was_killed_while_idle_costs_nothing() {
    let rig = Rig::new();
    rig.target.verify().await.unwrap();
    for _ in 0..2 {
        let user = name();
        rig.server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        rig.minted(&user, &[]).await;
        rig.server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(rig.target.end(&end_plan(&user)).await.unwrap().existed);
    }
    rig.target.close().await;
    assert!(matches!(rig.target.verify().await, Err(TargetError::Connect(_))));
}

/// The certificate is for `localhost` and not for addresses.
#[tokio::test]
async fn sessions_are_protected_as_configured() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("server", &["localhost"]);
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let port = crate::support::free_port();
    let server = Server::start_with(&[
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", file("server.pem", &certificate)),
        ("--tls-key-file", file("server.key", &key)),
        ("--tls-ca-cert-file", file("ca.pem", &authority.pem)),
        ("--tls-auth-clients", "no".to_owned()),
    ]);
    let of = |source: Source<'_>| Redis::new(Settings::new(&source).unwrap());
    let by_name = format!("rediss://{ADMIN}:{ADMIN_PASSWORD}@localhost:{port}");
    of(Source { connection_url: &by_name, ca_cert: &authority.pem, ..Source::default() }).verify().await.unwrap();
    of(Source { connection_url: &by_name, insecure_tls: true, ..Source::default() }).verify().await.unwrap();
    let by_address = format!("valkeys://{ADMIN}:{ADMIN_PASSWORD}@127.0.0.1:{port}");
    let other = Source { connection_url: &by_address, ca_cert: &authority.pem, ..Source::default() };
    let error = of(other).verify().await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let stranger = Authority::new();
    let unknown = Source { connection_url: &by_name, ca_cert: &stranger.pem, ..Source::default() };
    assert!(of(unknown).verify().await.is_err());
    drop(server);
}

/// Names and passwords are arguments, never a part of a command; in a rule a name stands only if it means nothing there.
#[tokio::test]
async fn text_of_a_caller_is_never_a_rule() {
    let rig = Rig::new();
    let before = rig.server.users().len();
    let mut made = 0;
    for text in hostile::texts(60, 300) {
        let password = Secret::new(format!("pw {text}"));
        for (rule, filled) in [("~app:*", true), ("~{{name}}:*", false), ("(+get ~{{username}})", false)] {
            let outcome = rig.target.mint(&mint_plan(&text, &[rule]), Login::Password(&password)).await;
            let taken = !text.chars().any(|c| c.is_whitespace() || c.is_control());
            match outcome {
                Outcome::Done(()) => assert!(taken && filled, "{text:?} in {rule}"),
                Outcome::Failed(TargetError::Plan(_)) => {
                    assert!(!(taken && filled), "{text:?} in {rule}");
                    assert_eq!(rig.server.users().len(), before, "{text:?}");
                    continue;
                }
                other => panic!("{text:?}: {other:?}"),
            }
            made += 1;
            let users = rig.server.users();
            assert_eq!(users.len(), before + 1, "{text:?}");
            let hash = acl_rule(&password).expose().to_owned();
            let line = users.iter().find(|line| line.starts_with(&format!("user {text} "))).unwrap();
            let expected = format!("user {text} on {hash} ~app:* resetchannels -@all");
            assert_eq!(line.replacen(" sanitize-payload", "", 1), expected);
            rig.target.login(&text, &password).await.unwrap();
            assert_eq!(rig.target.present(std::slice::from_ref(&text)).await.unwrap(), std::slice::from_ref(&text));
            assert!(rig.target.end(&end_plan(&text)).await.unwrap().existed);
            assert_eq!(rig.server.users().len(), before, "{text:?}");
        }
    }
    assert!(made > 50, "{made}");
}
