//! Users that are made, and those that are not.

use leasehold::secret::{Secret, password, verifier};
use leasehold::target::{Login, LoginError, Outcome, RenewPlan, Script, Target, TargetError};

use super::{CREATE, Rig, closed, end_plan, failure, fresh, mint_plan, minted, name, script, target, until};
use crate::support::mariadb::{ADMIN, ADMIN_PASSWORD};

#[tokio::test]
async fn the_life_of_a_user() {
    let rig = Rig::new();
    rig.target.verify().await.unwrap();
    let user = name();
    let password = rig.minted(&user, &[CREATE]).await;
    rig.target.login(&user, &password).await.unwrap();
    assert_eq!(rig.server.hosts(&user), ["%"]);

    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    let expiration = mint_plan(&user, &[], &[]).expiration;
    let renew =
        |statements: &[&str]| RenewPlan { username: user.clone(), renew: script(statements), expiration, expires: 0 };
    rig.target.renew(&renew(&[])).await.unwrap();
    rig.target.renew(&renew(&["GRANT INSERT ON app.* TO '{{name}}'@'%'"])).await.unwrap();
    assert!(rig.server.sql(&format!("SHOW GRANTS FOR '{user}'@'%'")).contains("INSERT ON `app`"));
    let ended = rig.end(&user, &[]).await.unwrap();
    assert!(ended.existed);
    assert_eq!(ended.sessions, 1);
    assert_eq!(open.one("SELECT 1"), None, "a session of the ended user still works");
    assert!(rig.server.hosts(&user).is_empty());
    let refused = rig.target.login(&user, &password).await.unwrap_err();
    assert!(matches!(&refused, LoginError::Refused(_)), "{refused}");

    let again = rig.end(&user, &[]).await.unwrap();
    assert!(!again.existed && again.sessions == 0);
    rig.assert_not_logged(&user, &password);
}

#[tokio::test]
async fn the_words_of_a_server_that_is_not_there_or_says_no() {
    let rig = Rig::new();
    let wrong = rig.as_user(ADMIN, &Secret::new("wrong".into()));
    let error = wrong.verify().await.unwrap_err().to_string();
    assert_eq!(error, "Error 1045 (28000): Access denied for user 'vaultadmin'@'localhost' (using password: YES)");
    let at = closed();
    let down = target(&format!("u:p@tcp({at})/"), "", &Secret::new(String::new()), |_| {});
    let error = down.verify().await.unwrap_err().to_string();
    assert_eq!(error, format!("dial tcp {at}: connect: connection refused"));

    // The next host is tried.
    let both = rig.server.url().replace("tcp(", &format!("tcp({at},"));
    target(&both, ADMIN, &Secret::new(ADMIN_PASSWORD.into()), |_| {}).verify().await.unwrap();
}

#[tokio::test]
async fn a_creation_that_fails_midway_leaves_nothing() {
    let rig = Rig::new();
    let user = name();
    let creation = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'",
        "GRANT SELECT ON nosuch.tbl TO '{{name}}'@'%'",
    ];
    let plan = mint_plan(&user, &creation, &["CREATE DATABASE traced", "DROP USER '{{name}}'@'%'"]);
    let password = fresh();
    let error = failure(&rig.target, &plan, &password).await;
    assert_eq!(error.to_string(), "Error 1146 (42S02): Table 'nosuch.tbl' doesn't exist");
    assert!(rig.server.hosts(&user).is_empty());
    // The rollback statements ran, the second in vain.
    assert_eq!(rig.server.sql("SHOW DATABASES LIKE 'traced'"), "traced");
    rig.assert_not_logged(&user, &password);
}

#[tokio::test]
async fn a_user_that_was_there_is_not_touched() {
    let rig = Rig::new();
    let user = name();
    rig.minted(&user, &["CREATE USER '{{name}}'@'10.1.2.3' IDENTIFIED BY '{{password}}'"]).await;
    let plan = mint_plan(&user, &[CREATE], &["DROP USER '{{name}}'@'10.1.2.3'"]);
    let error = failure(&rig.target, &plan, &fresh()).await;
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(rig.server.hosts(&user), ["10.1.2.3"]);
    rig.end(&user, &[]).await.unwrap();
    assert!(rig.server.hosts(&user).is_empty(), "the default finds every host");
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_no_user() {
    let rig = Rig::new();
    let user = name();
    let password = fresh();
    let plan = mint_plan(&user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "DO SLEEP(0.3)"], &[]);
    {
        let mint = rig.target.mint(&plan, Login::Password(&password));
        tokio::pin!(mint);
        let made = until("the user is there", || !rig.server.hosts(&user).is_empty());
        tokio::select! { outcome = &mut mint => panic!("{outcome:?}"), () = made => {} }
    }
    until("the user is gone", || rig.server.hosts(&user).is_empty()).await;
}

#[tokio::test]
async fn statements_that_make_no_user_are_refused() {
    let rig = Rig::new();
    let error = rig.failure(&name(), &["DO 1"]).await;
    assert!(error.to_string().contains("did not create the user"), "{error}");
    // What they did instead is undone by the statements that are there for it.
    let plan = mint_plan(&name(), &["CREATE USER 'another'@'%'"], &["DROP USER 'another'@'%'"]);
    let error = failure(&rig.target, &plan, &fresh()).await;
    assert!(error.to_string().contains("did not create the user"), "{error}");
    assert!(rig.server.hosts("another").is_empty());
    let error = rig.failure(&"x".repeat(81), &[CREATE]).await;
    assert!(error.to_string().contains("username_template"), "{error}");
}

#[tokio::test]
async fn errors_quote_no_password() {
    let rig = Rig::new();
    let password = fresh();
    let hash = verifier::mysql::native(&password);
    for creation in [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}' GARBAGE",
        "CREATE USER '{{name}}'@'%' IDENTIFIED VIA pam USING PASSWORD('{{password}}') GARBAGE",
        "CREATE USER '{{name}}'@'%' GARBAGE '{{password}}'",
        "SELECT '{{password}}' FROM nosuch.tbl WHERE GARBAGE",
    ] {
        let text = failure(&rig.target, &mint_plan(&name(), &[creation], &[]), &password).await.to_string();
        assert!(text.starts_with("Error 1"), "{text}");
        for secret in [&password, &hash] {
            let parts: Vec<char> = secret.expose().chars().collect();
            let seen = parts.windows(6).any(|part| text.contains(&part.iter().collect::<String>()));
            assert!(!seen, "{text}");
        }
    }
}

#[tokio::test]
async fn odd_names_and_passwords_do_not_break_out() {
    let rig = Rig::new();
    for (position, odd) in
        ["it's", r"back\slash", r#"dou"ble"#, "trail\\", "ünïcödé", "per%cent_"].into_iter().enumerate()
    {
        let user = format!("{odd}{}", password::base62(6).unwrap());
        let password = Secret::new(format!("{odd}'\\\"{position}"));
        let outcome = rig.target.mint(&mint_plan(&user, &[CREATE], &[]), Login::Password(&password)).await;
        assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
        rig.target.login(&user, &password).await.unwrap();
        assert!(rig.end(&user, &[]).await.unwrap().existed);
        assert!(rig.target.login(&user, &password).await.is_err());
    }
}

#[tokio::test]
async fn an_admin_that_may_not_read_the_users() {
    let rig = Rig::new();
    let admin = name();
    let grants = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "GRANT CREATE USER ON *.* TO '{{name}}'@'%'",
        "GRANT SELECT ON app.* TO '{{name}}'@'%' WITH GRANT OPTION",
    ];
    let narrow = rig.as_user(&admin, &rig.minted(&admin, &grants).await);
    let user = name();
    let creation =
        ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "GRANT SELECT ON app.* TO '{{name}}'@'%'"];
    minted(&narrow, &user, &creation).await;
    // It cannot see that the user is there; the server can.
    let again = mint_plan(&user, &creation, &["DROP USER '{{name}}'@'%'"]);
    let error = failure(&narrow, &again, &fresh()).await.to_string();
    assert!(error.starts_with("Error 1396"), "{error}");
    assert_eq!(rig.server.hosts(&user), ["%"]);
    narrow.end(&end_plan(&user, &[])).await.unwrap();
    assert!(rig.server.hosts(&user).is_empty());
    let failing =
        ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "GRANT SELECT ON nosuch.t TO '{{name}}'@'%'"];
    failure(&narrow, &mint_plan(&user, &failing, &[]), &fresh()).await;
    assert!(rig.server.hosts(&user).is_empty());
    // A user at another host than the connection's could not be found again.
    let elsewhere = ["CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'"];
    let plan = mint_plan(&user, &elsewhere, &["DROP USER '{{name}}'@'localhost'"]);
    let error = failure(&narrow, &plan, &fresh()).await.to_string();
    assert!(error.contains("did not create the user") && error.contains("\"%\""), "{error}");
    assert!(rig.server.hosts(&user).is_empty());
}

/// The table behind `mysql.user` says the same in less time; the view alone is enough.
#[tokio::test]
async fn an_admin_that_may_read_the_view_of_the_users_only() {
    let rig = Rig::new();
    let admin = name();
    let grants = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "GRANT CREATE USER, PROCESS ON *.* TO '{{name}}'@'%'",
        "GRANT SELECT ON mysql.user TO '{{name}}'@'%'",
    ];
    let narrow = rig.as_user(&admin, &rig.minted(&admin, &grants).await);
    let user = name();
    // At another host than the connection's: found, as it can look.
    let creation = ["CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'"];
    minted(&narrow, &user, &creation).await;
    let error = failure(&narrow, &mint_plan(&user, &creation, &[]), &fresh()).await.to_string();
    assert!(error.contains("exists already"), "{error}");
    assert!(narrow.end(&end_plan(&user, &[])).await.unwrap().existed);
    assert!(rig.server.hosts(&user).is_empty());
}

#[tokio::test]
async fn statements_that_take_their_user_away_again_have_not_made_one() {
    let rig = Rig::new();
    let user = name();
    let statements = ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "DROP USER '{{name}}'@'%'"];
    let error = failure(&rig.target, &mint_plan(&user, &statements, &[]), &fresh()).await.to_string();
    assert!(error.contains("did not create the user"), "{error}");
}

#[tokio::test]
async fn a_session_that_was_killed_while_idle_costs_nothing() {
    let rig = Rig::new();
    let kill_all = || {
        let ids = rig.server.sql(&format!(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{ADMIN}' AND ID <> CONNECTION_ID()"
        ));
        assert!(!ids.is_empty());
        for id in ids.lines() {
            rig.server.sql(&format!("KILL {id}"));
        }
    };
    rig.target.verify().await.unwrap();
    for _ in 0..2 {
        let user = name();
        kill_all();
        rig.minted(&user, &[CREATE]).await;
        kill_all();
        assert!(rig.end(&user, &[]).await.unwrap().existed);
    }
    rig.target.close().await;
    assert!(matches!(rig.target.verify().await, Err(TargetError::Connect(_))));
    assert!(matches!(
        rig.target.set_password("x", &fresh(), &Script::default()).await,
        Outcome::Failed(TargetError::Connect(_))
    ));
}
