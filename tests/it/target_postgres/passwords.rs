//! Passwords of accounts that were there before: changed, and tried.

use leasehold::target::LoginError;

use super::*;

const NEW: &str = "nEw-nEw-nEw-nEw-1";

fn new() -> Secret {
    Secret::new(NEW.to_owned())
}

#[tokio::test]
async fn a_password_is_changed_without_the_server_seeing_it() {
    let rig = Rig::new();
    rig.pg.sql("CREATE ROLE \"o'dd \"\"one\" LOGIN PASSWORD 'old'");
    let user = "o'dd \"one";
    assert!(matches!(rig.target.set_password(user, &new(), &Script::default()).await, Outcome::Done(())));
    rig.target.login(user, &new()).await.unwrap();
    let own = script(&["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'; SELECT 1"]);
    assert!(matches!(rig.target.set_password(user, &password(), &own).await, Outcome::Done(())));
    rig.target.login(user, &password()).await.unwrap();
    assert!(matches!(rig.target.login(user, &new()).await, Err(LoginError::Refused(_))));
    let log = rig.pg.log();
    assert!(!log.contains(NEW) && !log.contains(PASSWORD), "the server's log shows a password");
}

#[tokio::test]
async fn a_change_that_fails_leaves_the_password() {
    let rig = Rig::new();
    rig.pg.sql(&format!("CREATE ROLE st LOGIN PASSWORD '{PASSWORD}'"));
    for statements in [
        &["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'", "SELECT 1 / 0"][..],
        &["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'", "ROLLBACK"],
        &["ALTER ROL"],
    ] {
        let outcome = rig.target.set_password("st", &new(), &script(statements)).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{statements:?}: {outcome:?}");
        assert!(rig.can_log_in("st"), "{statements:?}");
    }
    let cut = "a".repeat(64);
    let Outcome::Failed(why) = rig.target.set_password(&cut, &new(), &Script::default()).await else { panic!() };
    assert!(why.to_string().contains("64 bytes"), "{why}");
    let Outcome::Failed(why) = rig.target.set_password("nobody", &new(), &Script::default()).await else { panic!() };
    let missing = "failed to execute query: ERROR: role \"nobody\" does not exist (SQLSTATE 42704)";
    assert_eq!(why.to_string(), missing);
}

/// A server that refuses for another reason has looked at the password first; one that is away has not.
#[tokio::test]
async fn a_login_tells_a_wrong_password_from_everything_else() {
    let mut rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE barred NOLOGIN PASSWORD '{PASSWORD}'; CREATE ROLE full_up LOGIN CONNECTION LIMIT 0 PASSWORD '{PASSWORD}'; \
         CREATE ROLE elsewhere LOGIN PASSWORD '{PASSWORD}'; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; \
         GRANT CONNECT ON DATABASE postgres TO barred, full_up"
    ));
    for user in ["barred", "full_up", "elsewhere"] {
        let right = rig.target.login(user, &password()).await;
        assert!(right.is_ok(), "{user}: {right:?}");
        let wrong = rig.target.login(user, &new()).await;
        assert!(matches!(wrong, Err(LoginError::Refused(_))), "{user}: {wrong:?}");
    }
    rig.pg.stop();
    assert!(matches!(rig.target.login("barred", &password()).await, Err(LoginError::Unreachable(_))));
}
