//! What a minted and a renewed user look like at the server.

use super::*;
use crate::target::RenewPlan;

async fn marker(rig: &mut Rig, user: &str) -> Marker {
    let ask = format!("SELECT shobj_description('\"{user}\"'::regrole, 'pg_authid')");
    let comment = rig.ask(&ask).await.unwrap();
    serde_json::from_str(comment.strip_prefix("leasehold:").unwrap()).unwrap()
}

async fn failure(rig: &Rig, plan: &MintPlan) -> TargetError {
    match rig.target.mint(plan, &password()).await {
        Outcome::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_user_is_made_with_a_verifier_an_end_and_a_marker() {
    let Some(mut rig) = Rig::new("made").await else { return };
    let user = rig.prefix.clone();
    let group = format!("{user}_g");
    rig.sql(&format!("CREATE ROLE {group}")).await;
    rig.minted(&user, &[&format!("BEGIN; {CREATE}; GRANT {group} TO \"{{{{name}}}}\" -- why; not\n; COMMIT;")]).await;

    rig.login(&user).await.unwrap();
    let stored = rig.ask(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'")).await.unwrap();
    assert!(stored.starts_with("SCRAM-SHA-256$4096:"), "{stored}");
    let until = rig.ask(&format!("SELECT rolvaliduntil::text FROM pg_roles WHERE rolname = '{user}'")).await;
    assert_eq!(until.as_deref(), Some("2100-01-01 00:00:00+00"));
    assert_eq!(marker(&mut rig, &user).await, mint_plan(&user, &[]).marker);

    assert!(rig.end(&user, &[]).await.unwrap().existed);
    rig.sql(&format!("DROP ROLE {group}")).await;
}

#[tokio::test]
async fn a_comment_at_the_end_of_a_statement_swallows_nothing() {
    let Some(mut rig) = Rig::new("comment").await else { return };
    let user = rig.prefix.clone();
    rig.minted(&user, &[&format!("{CREATE} -- made"), "ALTER ROLE \"{{name}}\" NOINHERIT -- and changed"]).await;
    assert_eq!(marker(&mut rig, &user).await.role, "role");
    rig.end(&user, &["DROP ROLE \"{{name}}\" -- and gone"]).await.unwrap();
    assert!(!rig.role_exists(&user).await);
}

#[tokio::test]
async fn a_failed_statement_leaves_nothing_and_says_what_the_server_said() {
    let Some(mut rig) = Rig::new("failed").await else { return };
    let user = rig.prefix.clone();
    rig.sql(&format!("CREATE TABLE {user}_t (x text)")).await;
    let mut plan = mint_plan(&user, &[CREATE, r#"GRANT SELECT ON nosuch TO "{{name}}""#]);
    plan.rollback = script(&[&format!("INSERT INTO {user}_t VALUES ('{{{{name}}}}')")]);
    let why = failure(&rig, &plan).await;
    assert_eq!(why.to_string(), r#"failed to execute query: ERROR: relation "nosuch" does not exist (SQLSTATE 42P01)"#);
    assert!(!rig.role_exists(&user).await);
    assert_eq!(rig.ask(&format!("SELECT x FROM {user}_t")).await, Some(user.clone()), "rollback_statements ran");
    rig.sql(&format!("DROP TABLE {user}_t")).await;

    let why = failure(&rig, &mint_plan(&user, &["CREATE ROL \"{{name}}\""])).await;
    assert_eq!(why.to_string(), r#"failed to execute query: ERROR: syntax error at or near "ROL" (SQLSTATE 42601)"#);
}

#[tokio::test]
async fn statements_that_make_no_user_are_named_as_such() {
    let Some(mut rig) = Rig::new("Nobody").await else { return };
    let user = rig.prefix.clone();
    // Without quotes the server folds the name to lower case: another user.
    let why = failure(&rig, &mint_plan(&user, &["CREATE ROLE {{name}} LOGIN"])).await;
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("did not create")), "{why}");
    assert!(!rig.role_exists(&user.to_lowercase()).await);
}

#[tokio::test]
async fn a_message_that_quotes_the_password_is_withheld() {
    let Some(rig) = Rig::new("quoted").await else { return };
    for statement in
        ["SELECT '{{password}}'::int", "DO $$ BEGIN RAISE EXCEPTION 'x%', substr('{{password}}', 3); END $$"]
    {
        let why = failure(&rig, &mint_plan(&rig.prefix, &[CREATE, statement])).await.to_string();
        assert!(!why.contains(&PASSWORD[3..11]), "{why}");
        assert!(why.contains("SQLSTATE"), "{why}");
    }
}

#[tokio::test]
async fn grants_on_the_same_tables_at_once_all_succeed() {
    let Some(mut rig) = Rig::new("atonce").await else { return };
    let prefix = rig.prefix.clone();
    rig.sql(&format!("CREATE SCHEMA {prefix}; CREATE TABLE {prefix}.a (); CREATE TABLE {prefix}.b ()")).await;
    let grant = format!(
        r#"GRANT USAGE ON SCHEMA {prefix} TO "{{{{name}}}}"; GRANT SELECT ON ALL TABLES IN SCHEMA {prefix} TO "{{{{name}}}}""#
    );
    // Two targets: two nodes, or two mounts.
    let other = Postgres::new(settings(endpoint(&rig.url)));
    let plans: Vec<MintPlan> = (0..32).map(|n| mint_plan(&format!("{prefix}_{n}"), &[CREATE, &grant])).collect();
    let secret = password();
    let targets = [&rig.target, &other];
    let mints = plans.iter().enumerate().map(|(n, plan)| targets[n % 2].mint(plan, &secret));
    for outcome in futures_util::future::join_all(mints).await {
        assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
    }
    let ends: Vec<EndPlan> =
        plans.iter().map(|plan| EndPlan { username: plan.username.clone(), revocation: Script::default() }).collect();
    for ended in futures_util::future::join_all(ends.iter().enumerate().map(|(n, plan)| targets[n % 2].end(plan))).await
    {
        assert!(ended.as_ref().is_ok_and(|ended| ended.existed), "{ended:?}");
    }
    assert_eq!(rig.ask(&format!("SELECT 'left' FROM pg_roles WHERE rolname LIKE '{prefix}%'")).await, None);
    rig.sql(&format!("DROP SCHEMA {prefix} CASCADE")).await;
}

#[tokio::test]
async fn values_stay_in_their_quotes_whatever_the_account_is_set_to() {
    let Some(mut rig) = Rig::new("strings").await else { return };
    let admin = format!("{}_admin", rig.prefix);
    rig.sql(&format!("CREATE ROLE {admin} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")).await;
    rig.sql(&format!("ALTER ROLE {admin} SET standard_conforming_strings = off")).await;
    let mut changed = endpoint(&rig.url);
    (changed.user, changed.password) = (admin.clone(), Some(password()));
    let target = Postgres::new(settings(changed));
    // Where a backslash escapes, this name ends the literal and begins a statement.
    let user = format!("{}\\'; SELECT 1/0; --", &rig.prefix);
    let plan = mint_plan(&user, &[CREATE, "DO $$ BEGIN END $$; SELECT '{{name}}'"]);
    let outcome = target.mint(&plan, &password()).await;
    assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
    assert!(rig.role_exists(&user).await);
    rig.end(&user, &[]).await.unwrap();
    target.close().await;
    rig.sql(&format!("DROP ROLE {admin}")).await;
}

#[tokio::test]
async fn renewing_moves_the_end_and_the_marker() {
    let Some(mut rig) = Rig::new("renew").await else { return };
    let user = rig.prefix.clone();
    rig.minted(&user, &[CREATE]).await;
    let mut plan = RenewPlan {
        username: user.clone(),
        renew: Script::default(),
        expiration: SystemTime::UNIX_EPOCH + Duration::from_secs(FAR + 60),
        expires: FAR + 55,
    };
    let until = format!("SELECT rolvaliduntil::text FROM pg_roles WHERE rolname = '{user}'");
    rig.target.renew(&plan).await.unwrap();
    assert_eq!(rig.ask(&until).await.as_deref(), Some("2100-01-01 00:01:00+00"));
    let moved = Marker { expires: FAR + 55, ..mint_plan(&user, &[]).marker };
    assert_eq!(marker(&mut rig, &user).await, moved);

    // A comment of somebody else stays, and own statements are run instead.
    rig.sql(&format!("COMMENT ON ROLE \"{user}\" IS 'mine'")).await;
    plan.renew = script(&["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}' CONNECTION LIMIT 7 -- more"]);
    rig.target.renew(&plan).await.unwrap();
    let limit = rig.ask(&format!("SELECT rolconnlimit::text FROM pg_roles WHERE rolname = '{user}'")).await;
    assert_eq!(limit.as_deref(), Some("7"));
    let comment = rig.ask(&format!("SELECT shobj_description('\"{user}\"'::regrole, 'pg_authid')")).await;
    assert_eq!(comment.as_deref(), Some("mine"));

    rig.end(&user, &[]).await.unwrap();
    plan.renew = Script::default();
    let why = rig.target.renew(&plan).await.unwrap_err();
    assert_eq!(why.to_string(), format!("ERROR: role \"{user}\" does not exist (SQLSTATE 42704)"));
}
