//! Accounts that are no superusers: what they can do, what they say they can do, and what they cannot.

use super::*;

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

/// An account with no more than operators are told to give it.
#[tokio::test]
async fn the_account_that_is_recommended() {
    let rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE app; CREATE ROLE lesser LOGIN CREATEROLE PASSWORD '{PASSWORD}'; GRANT app TO lesser;
         CREATE SCHEMA app AUTHORIZATION app; CREATE TABLE app.t AS SELECT 1 AS x; ALTER TABLE app.t OWNER TO app;
         GRANT pg_signal_backend TO lesser; CREATE DATABASE other OWNER app"
    ));
    if rig.pg.version() >= 16 {
        rig.pg.sql("GRANT app TO lesser WITH ADMIN OPTION");
    }
    let target = Postgres::new(settings(as_user(&rig, "lesser")));
    for (options, leaves) in [
        (EndOptions::default(), vec!["other: table public.far", "postgres: table app.own"]),
        (owned(Owned::Drop), vec![]),
        (reassign("app"), vec![]),
    ] {
        let creation = [CREATE, r#"GRANT app TO "{{name}}""#, r#"GRANT SELECT ON app.t TO "{{name}}""#];
        minted(&target, &mint_plan("user", &creation)).await;
        let mut session = rig.session("user");
        assert_eq!(session.one("CREATE TABLE app.own (); SELECT 1").as_deref(), Some("1"));
        rig.pg.sql("\\connect other\nCREATE TABLE far (); ALTER TABLE far OWNER TO \"user\"");
        let plan = EndPlan { options, ..end_plan("user", &[]) };
        let ended = target.end(&plan).await.unwrap();
        assert_eq!(
            (objects(&ended.left), ended.sessions),
            (leaves.iter().map(|&s| s.to_owned()).collect(), 1),
            "{:?}",
            ended.left
        );
        assert_eq!(session.one("SELECT 1"), None);
        assert_eq!(rig.role_exists("user"), !leaves.is_empty());
        if rig.role_exists("user") {
            assert_eq!(rig.pg.sql("SELECT has_table_privilege('user', 'app.t', 'SELECT')"), "f");
            let plan = EndPlan { options: owned(Owned::Drop), ..end_plan("user", &[]) };
            assert_eq!(target.end(&plan).await.unwrap().left, []);
        }
        rig.pg.sql("DROP TABLE IF EXISTS app.own; \\connect other\nDROP TABLE IF EXISTS far");
    }
}

/// What is missing is named, with the statement that grants it; and with it it works.
#[tokio::test]
async fn what_an_account_can_do() {
    let rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE \"le\"\"sser\" LOGIN PASSWORD '{PASSWORD}'; CREATE DATABASE closed; \
         REVOKE CONNECT ON DATABASE closed FROM PUBLIC; \
         REVOKE EXECUTE ON FUNCTION pg_stat_get_backend_userid(integer) FROM PUBLIC"
    ));
    let all = EndOptions::default();
    for capability in rig.target.check(&reassign(ADMIN)).await.unwrap() {
        assert!(capability.granted, "a superuser can do everything: {capability:?}");
    }
    let target = Postgres::new(settings(as_user(&rig, "le\"sser")));
    let missing = async |options: &EndOptions| -> Vec<Capability> {
        target.check(options).await.unwrap().into_iter().filter(|capability| !capability.granted).collect()
    };
    let needs = |of: &[Capability]| of.iter().map(|capability| capability.need).collect::<Vec<_>>();
    let lacks = missing(&all).await;
    let create = [Need::CreateUsers, Need::MarkUsers, Need::EndUsers];
    assert_eq!(needs(&lacks), [&create[..], &[Need::SeeSessions, Need::EndSessions, Need::ReachDatabases]].concat());
    assert!(lacks.iter().all(|lack| lack.required == (lack.need != Need::ReachDatabases)));
    let kept = missing(&sessions(Sessions::Keep)).await;
    assert!(kept.iter().any(|lack| lack.need == Need::EndSessions && !lack.required), "nothing is to be ended");

    for fix in lacks.iter().map(|lack| &lack.fix) {
        rig.pg.sql(fix);
    }
    assert_eq!(missing(&all).await, []);
    assert_eq!(missing(&owned(Owned::Drop)).await, []);
    for step in ["CREATE ROLE \"app\"", "GRANT \"app\" TO \"le\"\"sser\""] {
        let lacks = missing(&reassign("app")).await;
        assert_eq!(needs(&lacks), [Need::ReassignObjects]);
        assert_eq!((lacks[0].fix.as_str(), lacks[0].required), (step, true));
        rig.pg.sql(step);
    }
    assert_eq!(missing(&reassign("app")).await, []);
    assert_eq!(Need::ReassignObjects.id(), "reassign_objects");
}
