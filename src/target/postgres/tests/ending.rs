//! Contain, clean up, verify.

use super::*;

#[tokio::test]
async fn every_kind_of_grant_is_cleaned_up() {
    let Some(mut rig) = Rig::new("grants").await else { return };
    let user = rig.prefix.clone();
    let other = format!("{user}_db");
    rig.sql(&format!("CREATE DATABASE {other}")).await;
    rig.sql(&format!(
        "CREATE SCHEMA {user}; CREATE TABLE {user}.t (); CREATE SEQUENCE {user}.s; \
         CREATE FUNCTION {user}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    ))
    .await;
    rig.minted(
        &user,
        &[
            CREATE,
            &format!(r#"GRANT USAGE ON SCHEMA {user} TO "{{{{name}}}}""#),
            &format!(
                r#"GRANT SELECT ON {user}.t TO "{{{{name}}}}"; GRANT USAGE ON SEQUENCE {user}.s TO "{{{{name}}}}""#
            ),
            &format!(r#"GRANT EXECUTE ON FUNCTION {user}.f() TO "{{{{name}}}}""#),
            &format!(r#"GRANT CONNECT ON DATABASE {other} TO "{{{{name}}}}""#),
            &format!(r#"ALTER DEFAULT PRIVILEGES IN SCHEMA {user} GRANT SELECT ON TABLES TO "{{{{name}}}}""#),
            r#"ALTER DEFAULT PRIVILEGES FOR ROLE "{{name}}" GRANT SELECT ON TABLES TO PUBLIC"#,
            r#"GRANT pg_read_all_settings TO "{{name}}""#,
        ],
    )
    .await;
    let mut there = endpoint(&rig.url);
    other.clone_into(&mut there.database);
    let mut there = session::open(&there, None, Duration::from_secs(20), Duration::from_secs(5)).await.unwrap();
    there.run(&format!("CREATE TABLE t (); GRANT SELECT ON t TO \"{user}\"")).await.unwrap();
    drop(there);

    let ended = rig.end(&user, &[]).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 0));
    assert!(!rig.role_exists(&user).await);
    rig.sql(&format!("DROP SCHEMA {user} CASCADE")).await;
    rig.sql(&format!("DROP DATABASE {other} WITH (FORCE)")).await;
}

#[tokio::test]
async fn what_a_user_owns_is_never_dropped() {
    let Some(mut rig) = Rig::new("owner").await else { return };
    let user = rig.prefix.clone();
    rig.minted(&user, &[CREATE, &format!(r#"CREATE SCHEMA {user}_s AUTHORIZATION "{{{{name}}}}""#)]).await;
    let mut session = rig.login(&user).await.unwrap();
    session.run(&format!("CREATE TABLE {user}_s.t AS SELECT 1 AS x")).await.unwrap();

    let refused =
        format!("ERROR: role \"{user}\" cannot be dropped because some objects depend on it (SQLSTATE 2BP01)");
    for _ in 0..2 {
        assert_eq!(rig.end(&user, &[]).await.unwrap_err().to_string(), refused);
        assert!(rig.login(&user).await.is_err(), "contained all the same");
        assert!(session.run("SELECT 1").await.is_err(), "its session is over");
    }
    assert_eq!(rig.ask(&format!("SELECT x::text FROM {user}_s.t")).await.as_deref(), Some("1"));
    rig.sql(&format!("ALTER TABLE {user}_s.t OWNER TO CURRENT_USER; DROP SCHEMA {user}_s CASCADE")).await;
    assert!(rig.end(&user, &[]).await.unwrap().existed);
    assert!(!rig.role_exists(&user).await);
}

#[tokio::test]
async fn sessions_end_even_behind_another_role() {
    let Some(mut rig) = Rig::new("sessions").await else { return };
    let user = rig.prefix.clone();
    let group = format!("{user}_g");
    rig.sql(&format!("CREATE ROLE {group}")).await;
    rig.minted(&user, &[CREATE, &format!(r#"GRANT {group} TO "{{{{name}}}}""#)]).await;
    let mut first = rig.login(&user).await.unwrap();
    first.run(&format!("SET ROLE {group}")).await.unwrap();
    let mut second = rig.login(&user).await.unwrap();
    second.run("BEGIN; CREATE TEMP TABLE t ()").await.unwrap();

    let ended = rig.end(&user, &[]).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 2));
    assert!(first.run("SELECT 1").await.is_err() && second.run("SELECT 1").await.is_err());
    assert!(!rig.role_exists(&user).await);
    let again = rig.end(&user, &[]).await.unwrap();
    assert_eq!((again.existed, again.sessions), (false, 0));
    rig.sql(&format!("DROP ROLE {group}")).await;
}

#[tokio::test]
async fn own_statements_end_a_user() {
    let Some(mut rig) = Rig::new("own").await else { return };
    let user = rig.prefix.clone();
    let drop_it = &[r#"DROP ROLE "{{name}}""#][..];
    rig.minted(&user, &[CREATE]).await;
    let mut session = rig.login(&user).await.unwrap();
    let ended = rig.end(&user, drop_it).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 1));
    assert!(session.run("SELECT 1").await.is_err());
    assert!(!rig.role_exists(&user).await);
    assert!(!rig.end(&user, drop_it).await.unwrap().existed, "a user that is gone is a success");

    // Statements that keep the user, as some operators want it: it must not be able to log in.
    rig.minted(&user, &[CREATE]).await;
    rig.end(&user, &[r#"COMMENT ON ROLE "{{name}}" IS 'kept'"#]).await.unwrap();
    assert!(rig.role_exists(&user).await);
    assert!(rig.login(&user).await.is_err());
    let why = rig.end(&user, &[r#"ALTER ROLE "{{name}}" LOGIN VALID UNTIL 'infinity'"#]).await.unwrap_err();
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("log in")), "{why}");

    let why = rig.end(&user, &["DROP ROLE nosuch"]).await.unwrap_err();
    assert_eq!(why.to_string(), "ERROR: role \"nosuch\" does not exist (SQLSTATE 42704)");
    rig.end(&user, &[]).await.unwrap();
}

#[tokio::test]
async fn an_account_that_is_no_superuser_ends_what_it_made() {
    let Some(mut rig) = Rig::new("lesser").await else { return };
    let user = rig.prefix.clone();
    let admin = format!("{user}_admin");
    rig.sql(&format!("CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")).await;
    rig.sql(&format!("CREATE SCHEMA {user} AUTHORIZATION {admin}; CREATE TABLE {user}.t ()")).await;
    rig.sql(&format!("ALTER TABLE {user}.t OWNER TO {admin}")).await;
    let mut lesser = endpoint(&rig.url);
    (lesser.user, lesser.password) = (admin.clone(), Some(password()));
    let target = Postgres::new(settings(lesser));
    let grant = format!(r#"GRANT SELECT ON {user}.t TO "{{{{name}}}}""#);
    let outcome = target.mint(&mint_plan(&user, &[CREATE, &grant]), &password()).await;
    assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
    let _session = rig.login(&user).await.unwrap();
    let ended = target.end(&EndPlan { username: user.clone(), revocation: Script::default() }).await.unwrap();
    assert_eq!((ended.existed, ended.sessions), (true, 1));
    assert!(!rig.role_exists(&user).await);
    target.close().await;
    rig.sql(&format!("DROP SCHEMA {user} CASCADE; DROP ROLE {admin}")).await;
}

#[tokio::test]
async fn an_account_with_nothing_but_a_function_ends_by_it() {
    let Some(mut rig) = Rig::new("function").await else { return };
    let user = rig.prefix.clone();
    let admin = format!("{user}_admin");
    rig.sql(&format!("CREATE ROLE {admin} LOGIN PASSWORD '{PASSWORD}'")).await;
    rig.sql(&format!(
        "CREATE FUNCTION {user}_f(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \
         $$ BEGIN EXECUTE format('DROP ROLE %I', name); END $$"
    ))
    .await;
    rig.minted(&user, &[CREATE]).await;
    let mut lesser = endpoint(&rig.url);
    (lesser.user, lesser.password) = (admin.clone(), Some(password()));
    let target = Postgres::new(settings(lesser));
    let end = |statements: &[&str]| EndPlan { username: user.clone(), revocation: script(statements) };
    let why = target.end(&end(&["SELECT 1"])).await.unwrap_err();
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("log in")), "{why}");
    assert!(target.end(&end(&[])).await.is_err(), "it may not drop the role itself");
    assert!(target.end(&end(&[&format!("SELECT {user}_f('{{{{name}}}}')")])).await.unwrap().existed);
    assert!(!rig.role_exists(&user).await);
    target.close().await;
    rig.sql(&format!("DROP FUNCTION {user}_f; DROP ROLE {admin}")).await;
}
