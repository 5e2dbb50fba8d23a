//! Back doors that a user made for the time after its end.

use super::*;

const MAKER: &str = r#"CREATE ROLE "{{name}}" LOGIN CREATEROLE PASSWORD '{{password}}'"#;

#[tokio::test]
async fn roles_that_a_user_made() {
    let rig = Rig::new();
    rig.pg.sql(&format!("CREATE ROLE other LOGIN PASSWORD '{PASSWORD}'"));
    rig.minted("maker", &[MAKER, r#"GRANT pg_monitor TO "{{name}}" WITH ADMIN OPTION"#]).await;
    let mut session = rig.session("maker");
    let made = "CREATE ROLE \"back door\" LOGIN; CREATE ROLE harmless; GRANT pg_monitor TO other; SELECT 1";
    assert_eq!(session.one(made).as_deref(), Some("1"));
    let given = "SELECT pg_has_role('other', 'pg_monitor', 'MEMBER')";
    assert_eq!(rig.pg.sql(given), "t");
    // Of the same mount: it has an end of its own.
    rig.minted("later", &[CREATE]).await;

    for _ in 0..2 {
        let ended = rig.end_by("maker", EndOptions::default()).await;
        assert_eq!(objects(&ended.left), [": role \"back door\""], "{ended:?}");
        assert!(ended.left[0].reason.contains("DROP ROLE \"back door\""));
        assert!(!rig.can_log_in("maker") && rig.role_exists("maker"), "it stays as long as that is open");
        assert_eq!(rig.pg.sql(given), "f", "what it gave is taken back");
    }
    rig.pg.sql("DROP ROLE \"back door\"");
    rig.end_cleanly("maker", EndOptions::default()).await;
    assert!(rig.role_exists("harmless") && rig.role_exists("later"));
}

/// As the owner of the data, so that the routine is not its own.
#[tokio::test]
async fn routines_that_a_user_made_as_somebody_else() {
    let rig = Rig::new();
    rig.pg.sql(
        "CREATE ROLE data; CREATE DATABASE other OWNER data; CREATE SCHEMA app AUTHORIZATION data; SET ROLE data;
         CREATE FUNCTION app.old() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    );
    let member = [CREATE, r#"GRANT data TO "{{name}}""#];
    rig.minted("user", &member).await;
    rig.pg.sql("SET ROLE data; CREATE FUNCTION app.plain() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    let mut session = rig.session("user");
    let door = "SET ROLE data; CREATE FUNCTION app.door(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; SELECT 1";
    assert_eq!(session.one(door).as_deref(), Some("1"));
    rig.pg.sql(
        "\\connect other\nSET ROLE data; CREATE PROCEDURE public.far() LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    );
    let doors = ["other: procedure public.far()", "postgres: function app.door(integer)"];
    for _ in 0..2 {
        let ended = rig.end_by("user", EndOptions::default()).await;
        assert_eq!(objects(&ended.left), doors);
        assert!(ended.left.iter().all(|left| left.reason.contains("owner data")), "{:?}", ended.left);
        assert!(rig.role_exists("user") && !rig.can_log_in("user"));
    }
    // Own statements wait for it, too.
    let ended = rig.end("user", &[r#"DROP ROLE "{{name}}""#]).await.unwrap();
    assert_eq!(objects(&ended.left), doors);
    rig.pg.sql("ALTER FUNCTION app.door(int) SECURITY INVOKER");
    assert_eq!(objects(&rig.end_by("user", EndOptions::default()).await.left), doors[..1]);
    rig.pg.sql("\\connect other\nDROP PROCEDURE public.far()");
    rig.end_cleanly("user", EndOptions::default()).await;

    // Nobody can say for certain that it was this user.
    for (name, how) in [("second", Verify::BestEffort), ("third", Verify::Off)] {
        rig.minted(name, &member).await;
        rig.pg.sql("SET ROLE data; CREATE OR REPLACE FUNCTION app.door2() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'");
        rig.end_cleanly(name, verify(how)).await;
        rig.pg.sql("DROP FUNCTION app.door2()");
    }
}

#[tokio::test]
async fn doors_that_a_superuser_made() {
    let rig = Rig::new();
    rig.pg.sql("CREATE DATABASE other");
    rig.minted("root", &[r#"CREATE ROLE "{{name}}" LOGIN SUPERUSER PASSWORD '{{password}}'"#]).await;
    let mut session = rig.session("root");
    let door = format!(
        "SET ROLE {ADMIN}; CREATE FUNCTION door() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; \
         CREATE ROLE spy BYPASSRLS; SELECT 1"
    );
    assert_eq!(session.one(&door).as_deref(), Some("1"));
    rig.pg.sql("\\connect other\nCREATE FUNCTION far() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'");
    for _ in 0..2 {
        let ended = rig.end_by("root", EndOptions::default()).await;
        let expected = [": role \"spy\"", "other: function public.far()", "postgres: function public.door()"];
        assert_eq!(objects(&ended.left), expected);
    }
    rig.end_cleanly("root", verify(Verify::Off)).await;
}
