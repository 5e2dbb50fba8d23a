//! Contain, clean up, verify.

use super::*;

#[tokio::test]
async fn every_kind_of_grant_is_cleaned_up() {
    let rig = Rig::new();
    rig.pg.sql(
        "CREATE DATABASE other; CREATE SCHEMA app; CREATE TABLE app.t (); CREATE SEQUENCE app.s;
         CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    let creation = [
        CREATE,
        r#"GRANT USAGE ON SCHEMA app TO "{{name}}""#,
        r#"GRANT SELECT ON app.t TO "{{name}}"; GRANT USAGE ON SEQUENCE app.s TO "{{name}}""#,
        r#"GRANT EXECUTE ON FUNCTION app.f() TO "{{name}}""#,
        r#"GRANT CONNECT ON DATABASE other TO "{{name}}""#,
        r#"ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO "{{name}}""#,
        r#"ALTER DEFAULT PRIVILEGES FOR ROLE "{{name}}" GRANT SELECT ON TABLES TO PUBLIC"#,
        r#"GRANT pg_read_all_settings TO "{{name}}""#,
    ];
    rig.minted("user", &creation).await;
    rig.pg.sql("\\connect other\nCREATE TABLE t (); GRANT SELECT ON t TO \"user\"");
    assert!(rig.pg.try_sql("DROP ROLE \"user\"").is_err(), "something depends on it");

    let ended = rig.end("user", &[]).await.unwrap();
    assert_eq!((ended.existed, ended.sessions, ended.left), (true, 0, vec![]));
    assert!(!rig.role_exists("user"));
}

#[tokio::test]
async fn sessions_end_even_behind_another_role() {
    let rig = Rig::new();
    rig.pg.sql("CREATE ROLE readers");
    rig.minted("user", &[CREATE, r#"GRANT readers TO "{{name}}""#]).await;
    let mut first = rig.session("user");
    assert_eq!(first.one("SET ROLE readers; SELECT current_user").as_deref(), Some("readers"));
    let mut second = rig.session("user");
    assert_eq!(second.one("BEGIN; CREATE TEMP TABLE t (); SELECT 1").as_deref(), Some("1"));

    let ended = rig.end("user", &[]).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 2));
    assert_eq!((first.one("SELECT 1"), second.one("SELECT 1")), (None, None));
    assert!(!rig.role_exists("user"));
    let again = rig.end("user", &[]).await.unwrap();
    assert_eq!((again.existed, again.sessions), (false, 0));
}

#[tokio::test]
async fn own_statements_end_a_user() {
    let rig = Rig::new();
    let drop_it = &[r#"DROP ROLE "{{name}}""#][..];
    rig.minted("user", &[CREATE]).await;
    let mut session = rig.session("user");
    let ended = rig.end("user", drop_it).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 1));
    assert_eq!(session.one("SELECT 1"), None);
    assert!(!rig.role_exists("user"));
    assert!(!rig.end("user", drop_it).await.unwrap().existed, "a user that is gone is a success");

    // Statements that keep the user, as some operators want it: it must not be able to log in.
    rig.minted("user", &[CREATE]).await;
    let keep_it = end_plan("user", &[r#"COMMENT ON ROLE "{{name}}" IS 'kept'"#]);
    let ended = rig.target.end(&keep_it).await.unwrap();
    assert_eq!(objects(&ended.left), [": role \"user\""], "{ended:?}");
    assert!(rig.role_exists("user"));
    assert!(!rig.can_log_in("user"));
    let ended = rig.target.end(&EndPlan { options: verify(Verify::BestEffort), ..keep_it }).await.unwrap();
    assert_eq!(ended.left, []);
    let why = rig.end("user", &[r#"ALTER ROLE "{{name}}" LOGIN VALID UNTIL 'infinity'"#]).await.unwrap_err();
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("log in")), "{why}");

    // The user is contained, whatever the statements come to.
    let ended = rig.end("user", &["DROP ROLE nosuch"]).await.unwrap();
    assert_eq!(objects(&ended.left), [": role \"user\""]);
    let why = &ended.left[0].reason;
    assert!(why.contains("role \"nosuch\" does not exist (SQLSTATE 42704)") && why.contains("revocation_statements"));

    // Statements that do not reckon with what the user owns: it is told.
    rig.minted("owner", &[CREATE]).await;
    rig.pg.sql("CREATE TABLE t (); ALTER TABLE t OWNER TO owner");
    let ended = rig.end("owner", drop_it).await.unwrap();
    assert_eq!(objects(&ended.left), [": role \"owner\"", "postgres: table public.t"]);
    let plan = EndPlan { options: owned(Owned::Drop), ..end_plan("owner", drop_it) };
    assert_eq!(rig.target.end(&plan).await.unwrap().left, [], "owned_objects holds for own statements too");
    assert!(!rig.role_exists("owner"));
}

#[tokio::test]
async fn ends_at_once_are_one() {
    let rig = Rig::new();
    rig.pg.sql("CREATE SCHEMA app; CREATE TABLE app.t (); CREATE ROLE readers");
    let creation = [CREATE, r#"GRANT SELECT ON app.t TO "{{name}}"; GRANT readers TO "{{name}}""#];
    let drop_it = [r#"DROP OWNED BY "{{name}}"; DROP ROLE "{{name}}""#];
    for revocation in [&[][..], &drop_it] {
        for _ in 0..5 {
            rig.minted("user", &creation).await;
            rig.pg.sql("CREATE TABLE IF NOT EXISTS own (); ALTER TABLE own OWNER TO \"user\"");
            let mut session = rig.session("user");
            let plan = EndPlan { options: reassign(ADMIN), ..end_plan("user", revocation) };
            let ends = futures_util::future::join_all((0..6).map(|_| rig.target.end(&plan))).await;
            for ended in ends {
                assert_eq!(ended.unwrap().left, []);
            }
            assert!(!rig.role_exists("user"));
            assert_eq!(session.one("SELECT 1"), None);
        }
    }
}
