//! Users that end, with statements and without.

use std::time::Duration;

use super::{CREATE, EndOptions, EndPlan, Need, Owned, Rig, Sessions, Target, Verify, end_plan, minted, name, objects};

#[tokio::test]
async fn custom_revocation_of_a_user_that_is_gone() {
    let rig = Rig::new();
    let drop_user = ["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'", "DROP USER '{{name}}'@'%'"];
    let user = name();
    rig.minted(&user, &[CREATE]).await;
    assert!(rig.end(&user, &drop_user).await.unwrap().existed);
    assert!(rig.server.hosts(&user).is_empty());
    assert!(!rig.end(&user, &drop_user).await.unwrap().existed);
    // That another user is not there is worth knowing.
    let other = rig.end(&user, &["DROP USER 'somebody'@'%'"]).await.unwrap();
    assert_eq!(objects(&other.left), [format!(": user {user:?}")]);
    let refused = "Error 1396 (HY000): Operation DROP USER failed for 'somebody'@'%'";
    assert!(other.left[0].reason.contains(refused), "{other:?}");
    // Statements for the wrong host do not end the user, but bar it.
    let local = ["CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'"];
    let password = rig.minted(&user, &local).await;
    let wrong = rig.end(&user, &["DROP USER '{{name}}'@'%'"]).await.unwrap();
    assert!(wrong.left[0].reason.contains("Error 1396"), "{wrong:?}");
    let refused = rig.target.login(&user, &password).await.unwrap_err().to_string();
    assert!(refused.contains("locked"), "{refused}");
    assert!(rig.end(&user, &[]).await.unwrap().existed);
}

#[tokio::test]
async fn revocation_that_leaves_the_user_leaves_it_locked() {
    let rig = Rig::new();
    let user = name();
    let password = rig.minted(&user, &[CREATE]).await;
    let keep_it = end_plan(&user, &["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'"]);
    let ended = rig.target.end(&keep_it).await.unwrap();
    assert!(ended.existed && ended.left[0].reason.contains("best_effort"), "{ended:?}");
    let on_purpose = EndOptions { verify: Verify::BestEffort, ..EndOptions::default() };
    assert_eq!(rig.target.end(&EndPlan { options: on_purpose, ..keep_it }).await.unwrap().left, []);
    assert_eq!(rig.server.hosts(&user), ["%"]);
    let refused = rig.target.login(&user, &password).await.unwrap_err().to_string();
    assert!(refused.contains("locked"), "{refused}");
    rig.end(&user, &[]).await.unwrap();
    assert!(rig.server.hosts(&user).is_empty());
}

/// What it defined stays, is told, and does not keep it.
#[tokio::test]
async fn what_a_user_defined() {
    let rig = Rig::new();
    let user = name();
    let creation = ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "GRANT ALL ON app.* TO '{{name}}'@'%'"];
    let define = async || {
        let password = rig.minted(&user, &creation).await;
        let made = "USE app; CREATE TABLE t (x INT); CREATE VIEW `se``en` AS SELECT 1 AS a; \
                    CREATE PROCEDURE p() SELECT 1; CREATE FUNCTION f() RETURNS INT RETURN 1; \
                    CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.x = 1; \
                    CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1";
        rig.server.login(&user, password.expose(), made).unwrap();
    };
    let all = ["app: function f", "app: procedure p", "app: view se`en", "app: trigger tr", "app: event e"];
    define().await;
    // Again, when the user is gone: they are still there.
    for _ in 0..2 {
        let ended = rig.end(&user, &[]).await.unwrap();
        assert_eq!(objects(&ended.left), all);
        assert!(rig.server.hosts(&user).is_empty());
    }
    assert_eq!(ended_view(&rig), "se`en");
    rig.server.sql("DROP DATABASE app; CREATE DATABASE app");
    assert_eq!(rig.end(&user, &[]).await.unwrap().left, []);

    for (owned, verify, expected) in [
        (Owned::Fail, Verify::Off, &all[..0]),
        (Owned::Reassign("root".into()), Verify::BestEffort, &all),
        (Owned::Drop, Verify::Required, &[]),
    ] {
        rig.server.sql("DROP DATABASE app; CREATE DATABASE app");
        define().await;
        let options = EndOptions { owned: owned.clone(), verify, ..EndOptions::default() };
        assert_eq!(objects(&rig.end_by(&user, options).await.left), expected, "{owned:?}");
        assert!(rig.server.hosts(&user).is_empty());
        assert_eq!(ended_view(&rig).is_empty(), owned == Owned::Drop);
    }
    assert_eq!(rig.server.sql("SELECT COUNT(*) FROM app.t"), "0", "tables are nobody's");
}

fn ended_view(rig: &Rig) -> String {
    rig.server.sql("SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'app'")
}

#[tokio::test]
async fn sessions_that_may_go_on() {
    let rig = Rig::new();
    let options = |sessions| EndOptions { sessions, ..EndOptions::default() };
    let grace = Sessions::Grace(Duration::from_secs(600));
    let user = name();
    let password = rig.minted(&user, &[CREATE]).await;
    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    for _ in 0..2 {
        let ended = rig.end_by(&user, options(grace.clone())).await;
        assert_eq!((ended.sessions, ended.left.len(), ended.again), (0, 1, Some(Duration::from_secs(600))));
        assert!(ended.left[0].object.starts_with("session "), "{ended:?}");
        assert!(rig.target.login(&user, &password).await.unwrap_err().to_string().contains("locked"));
        assert_eq!(open.one("SELECT COUNT(*) > 0 FROM mysql.user").as_deref(), Some("1"), "as before");
    }
    let ended = rig.end_by(&user, options(grace.after(Duration::from_secs(600)))).await;
    assert_eq!((ended.sessions, ended.left, ended.again), (1, vec![], None));
    assert_eq!(open.one("SELECT 1"), None);
    assert!(rig.server.hosts(&user).is_empty());

    let password = rig.minted(&user, &[CREATE]).await;
    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    let ended = rig.end_by(&user, options(Sessions::Keep)).await;
    assert_eq!((ended.sessions, ended.left), (0, vec![]));
    assert!(rig.server.hosts(&user).is_empty());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
}

#[tokio::test]
async fn ends_at_once_are_one() {
    let rig = Rig::new();
    for revocation in [&[][..], &["DROP USER '{{name}}'@'%'"]] {
        let user = name();
        let password = rig.minted(&user, &[CREATE]).await;
        let mut open = rig.server.session(&user, password.expose());
        assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
        let plan = end_plan(&user, revocation);
        for ended in futures_util::future::join_all((0..6).map(|_| rig.target.end(&plan))).await {
            assert_eq!(ended.unwrap().left, []);
        }
        assert_eq!(open.one("SELECT 1"), None);
        assert!(rig.server.hosts(&user).is_empty());
    }
}

#[tokio::test]
async fn what_an_account_can_do() {
    let rig = Rig::new();
    let (options, admin) = (EndOptions::default(), name());
    assert!(rig.target.check(&options).await.unwrap().iter().all(|capability| capability.granted));
    let reassign = EndOptions { owned: Owned::Reassign("x".into()), ..EndOptions::default() };
    let refused = rig.target.check(&reassign).await.unwrap().pop().unwrap();
    assert_eq!((refused.need, refused.granted, refused.required), (Need::ReassignObjects, false, true));

    let password = rig.minted(&admin, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"]).await;
    let narrow = rig.as_user(&admin, &password);
    let lacks = narrow.check(&options).await.unwrap();
    let expected = [
        (Need::CreateUsers, false),
        (Need::EndUsers, false),
        (Need::SeeUsers, false),
        (Need::SeeSessions, true),
        (Need::EndSessions, true),
        (Need::SeeObjects, false),
    ];
    assert_eq!(lacks.iter().map(|lack| (lack.need, lack.required)).collect::<Vec<_>>(), expected);
    for lack in &lacks {
        assert!(!lack.granted, "{lack:?}");
        rig.server.sql(&lack.fix);
    }
    narrow.close().await;
    let narrow = rig.as_user(&admin, &password);
    for capability in narrow.check(&options).await.unwrap() {
        assert!(capability.granted, "{capability:?}");
    }
    // And it is enough.
    let user = name();
    let password = minted(&narrow, &user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"]).await;
    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    let ended = narrow.end(&end_plan(&user, &[])).await.unwrap();
    assert_eq!((ended.sessions, ended.left), (1, vec![]));
}

#[tokio::test]
async fn an_account_that_sees_no_sessions_says_so() {
    let rig = Rig::new();
    let admin = name();
    let grants = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "GRANT CREATE USER, SELECT ON *.* TO '{{name}}'@'%'",
    ];
    let narrow = rig.as_user(&admin, &rig.minted(&admin, &grants).await);
    for (verify, tells) in [(Verify::Required, true), (Verify::BestEffort, false)] {
        let user = name();
        minted(&narrow, &user, &["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"]).await;
        let options = EndOptions { verify, ..EndOptions::default() };
        let ended = narrow.end(&EndPlan { options, ..end_plan(&user, &[]) }).await.unwrap();
        assert_eq!(ended.left.iter().any(|left| left.reason.contains("GRANT PROCESS")), tells, "{ended:?}");
        assert!(rig.server.hosts(&user).is_empty());
    }
}

#[tokio::test]
async fn an_admin_that_may_not_kill() {
    let rig = Rig::new();
    // As on managed servers.
    rig.server
        .sql("DELIMITER //\nCREATE PROCEDURE mysql.rds_kill(IN thread BIGINT) BEGIN KILL thread; END//\nDELIMITER ;");
    let admin = name();
    let grants = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
        "GRANT CREATE USER, PROCESS, SELECT, EXECUTE ON *.* TO '{{name}}'@'%' WITH GRANT OPTION",
    ];
    let narrow = rig.as_user(&admin, &rig.minted(&admin, &grants).await);
    let user = name();
    let password = minted(&narrow, &user, &[CREATE]).await;
    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    assert_eq!(narrow.end(&end_plan(&user, &[])).await.unwrap().sessions, 1);
    assert_eq!(open.one("SELECT 1"), None);

    rig.server.sql("DROP PROCEDURE mysql.rds_kill");
    // Without the procedure the user goes all the same, and the session that stays is an error.
    let password = minted(&narrow, &user, &[CREATE]).await;
    let mut open = rig.server.session(&user, password.expose());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    let error = narrow.end(&end_plan(&user, &[])).await.unwrap_err().to_string();
    assert!(error.starts_with("Error 1095"), "{error}");
    assert!(rig.server.hosts(&user).is_empty());
    assert_eq!(open.one("SELECT 1").as_deref(), Some("1"));
    assert_eq!(rig.end(&user, &[]).await.unwrap().sessions, 1);
}
