//! Users that end, with statements and without.

use leasehold::target::Target;

use super::{CREATE, Rig, end_plan, minted, name};

#[tokio::test]
async fn custom_revocation_of_a_user_that_is_gone() {
    let rig = Rig::new();
    let drop_user = ["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'", "DROP USER '{{name}}'@'%'"];
    let user = name();
    rig.minted(&user, &[CREATE]).await;
    assert!(rig.end(&user, &drop_user).await.unwrap().existed);
    assert!(rig.server.hosts(&user).is_empty());
    assert!(!rig.end(&user, &drop_user).await.unwrap().existed);
    // Another user that is not there is an error.
    let other = rig.end(&user, &["DROP USER 'somebody'@'%'"]).await.unwrap_err();
    assert_eq!(other.to_string(), "Error 1396 (HY000): Operation DROP USER failed for 'somebody'@'%'");
    // Statements for the wrong host do not end the user.
    rig.minted(&user, &["CREATE USER '{{name}}'@'localhost' IDENTIFIED BY '{{password}}'"]).await;
    let wrong = rig.end(&user, &["DROP USER '{{name}}'@'%'"]).await.unwrap_err();
    assert!(wrong.to_string().starts_with("Error 1396"), "{wrong}");
    assert!(rig.end(&user, &[]).await.unwrap().existed);
}

#[tokio::test]
async fn revocation_that_leaves_the_user_leaves_it_locked() {
    let rig = Rig::new();
    let user = name();
    let password = rig.minted(&user, &[CREATE]).await;
    assert!(rig.end(&user, &["REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{{name}}'@'%'"]).await.unwrap().existed);
    assert_eq!(rig.server.hosts(&user), ["%"]);
    let refused = rig.target.login(&user, &password).await.unwrap_err().to_string();
    assert!(refused.contains("locked"), "{refused}");
    rig.end(&user, &[]).await.unwrap();
    assert!(rig.server.hosts(&user).is_empty());
}

/// What it defined stays, and does not keep it.
#[tokio::test]
async fn a_user_that_defined_something_ends_all_the_same() {
    let rig = Rig::new();
    let user = name();
    let creation = ["CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'", "GRANT ALL ON app.* TO '{{name}}'@'%'"];
    let password = rig.minted(&user, &creation).await;
    rig.server.login(&user, password.expose(), "CREATE VIEW app.seen AS SELECT 1 AS a").unwrap();
    assert!(rig.end(&user, &[]).await.unwrap().existed);
    assert!(rig.server.hosts(&user).is_empty());
    assert_eq!(rig.server.sql("SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'app'"), "seen");
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
