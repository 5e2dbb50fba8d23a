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
    assert_eq!((ended.existed, ended.sessions), (true, 0));
    assert!(!rig.role_exists("user"));
}

#[tokio::test]
async fn what_a_user_owns_is_never_dropped() {
    let rig = Rig::new();
    rig.minted("owner", &[CREATE, r#"CREATE SCHEMA own AUTHORIZATION "{{name}}""#]).await;
    let mut session = rig.session("owner");
    assert_eq!(session.one("CREATE TABLE own.t AS SELECT 1 AS x; SELECT x FROM own.t").as_deref(), Some("1"));

    let refused = "ERROR: role \"owner\" cannot be dropped because some objects depend on it (SQLSTATE 2BP01)";
    for _ in 0..2 {
        assert_eq!(rig.end("owner", &[]).await.unwrap_err().to_string(), refused);
        assert!(!rig.can_log_in("owner"), "contained all the same");
        assert_eq!(session.one("SELECT 1"), None, "its session is over");
    }
    assert_eq!(rig.pg.sql("SELECT x FROM own.t"), "1");
    rig.pg.sql("ALTER TABLE own.t OWNER TO CURRENT_USER; DROP SCHEMA own CASCADE");
    assert!(rig.end("owner", &[]).await.unwrap().existed);
    assert!(!rig.role_exists("owner"));
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
    rig.end("user", &[r#"COMMENT ON ROLE "{{name}}" IS 'kept'"#]).await.unwrap();
    assert!(rig.role_exists("user"));
    assert!(!rig.can_log_in("user"));
    let why = rig.end("user", &[r#"ALTER ROLE "{{name}}" LOGIN VALID UNTIL 'infinity'"#]).await.unwrap_err();
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("log in")), "{why}");

    let why = rig.end("user", &["DROP ROLE nosuch"]).await.unwrap_err();
    assert_eq!(why.to_string(), "ERROR: role \"nosuch\" does not exist (SQLSTATE 42704)");
}

#[tokio::test]
async fn an_account_that_is_no_superuser_ends_what_it_made() {
    let rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE lesser LOGIN CREATEROLE PASSWORD '{PASSWORD}';
         CREATE SCHEMA app AUTHORIZATION lesser; CREATE TABLE app.t (); ALTER TABLE app.t OWNER TO lesser"
    ));
    let target = Postgres::new(settings(as_user(&rig, "lesser")));
    minted(&target, &mint_plan("user", &[CREATE, r#"GRANT SELECT ON app.t TO "{{name}}""#])).await;
    let _session = rig.session("user");
    let ended = target.end(&end_plan("user", &[])).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 1));
    assert!(!rig.role_exists("user"));
}

#[tokio::test]
async fn an_account_with_nothing_but_a_function_ends_by_it() {
    let rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE lesser LOGIN PASSWORD '{PASSWORD}';
         CREATE FUNCTION remove(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
         $$ BEGIN EXECUTE format('DROP ROLE %I', name); END $$"
    ));
    rig.minted("user", &[CREATE]).await;
    let target = Postgres::new(settings(as_user(&rig, "lesser")));
    let why = target.end(&end_plan("user", &["SELECT 1"])).await.unwrap_err();
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("log in")), "{why}");
    assert!(target.end(&end_plan("user", &[])).await.is_err(), "it may not drop the role itself");
    assert!(target.end(&end_plan("user", &["SELECT remove('{{name}}')"])).await.unwrap().existed);
    assert!(!rig.role_exists("user"));
}

/// The server as another account sees it.
fn as_user(rig: &Rig, user: &str) -> PgEndpoint {
    PgEndpoint { user: user.to_owned(), passwords: Some(password()).into(), ..endpoint(&rig.pg) }
}
