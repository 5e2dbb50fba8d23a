//! What a minted and a renewed user look like at the server.

use super::*;

fn marker(rig: &Rig, user: &str) -> Marker {
    let comment = comment(rig, user);
    serde_json::from_str(comment.strip_prefix("leasehold:").unwrap()).unwrap()
}

fn comment(rig: &Rig, user: &str) -> String {
    rig.pg.sql(&format!("SELECT shobj_description('\"{user}\"'::regrole, 'pg_authid')"))
}

#[tokio::test]
async fn a_user_is_made_with_a_verifier_an_end_and_a_marker() {
    let rig = Rig::new();
    rig.pg.sql("CREATE ROLE readers");
    rig.minted("user", &[&format!("BEGIN; {CREATE}; GRANT readers TO \"{{{{name}}}}\" -- why; not\n; COMMIT;")]).await;

    assert!(rig.can_log_in("user"));
    let stored = rig.pg.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'user'");
    assert!(stored.starts_with("SCRAM-SHA-256$4096:"), "{stored}");
    let until = "SELECT rolvaliduntil AT TIME ZONE 'UTC' FROM pg_roles WHERE rolname = 'user'";
    assert_eq!(rig.pg.sql(until), "2100-01-01 00:00:00");
    assert_eq!(marker(&rig, "user"), mint_plan("user", &[]).marker);
    assert!(!rig.pg.log().contains(PASSWORD), "the server never saw the password");
}

#[tokio::test]
async fn a_comment_at_the_end_of_a_statement_swallows_nothing() {
    let rig = Rig::new();
    rig.minted("user", &[&format!("{CREATE} -- made"), "ALTER ROLE \"{{name}}\" NOINHERIT -- and changed"]).await;
    assert_eq!(marker(&rig, "user").role, "role");
    rig.end("user", &["DROP ROLE \"{{name}}\" -- and gone"]).await.unwrap();
    assert!(!rig.role_exists("user"));
}

#[tokio::test]
async fn a_failed_statement_leaves_nothing_and_says_what_the_server_said() {
    let rig = Rig::new();
    rig.pg.sql("CREATE TABLE undone (x text)");
    let mut plan = mint_plan("user", &[CREATE, r#"GRANT SELECT ON nosuch TO "{{name}}""#]);
    plan.rollback = script(&["INSERT INTO undone VALUES ('{{name}}')"]);
    let why = rig.failure(&plan).await;
    assert_eq!(why.to_string(), r#"failed to execute query: ERROR: relation "nosuch" does not exist (SQLSTATE 42P01)"#);
    assert!(!rig.role_exists("user"));
    assert_eq!(rig.pg.sql("SELECT x FROM undone"), "user", "rollback_statements ran");

    let why = rig.failure(&mint_plan("user", &["CREATE ROL \"{{name}}\""])).await;
    assert_eq!(why.to_string(), r#"failed to execute query: ERROR: syntax error at or near "ROL" (SQLSTATE 42601)"#);
}

#[tokio::test]
async fn statements_that_make_no_user_are_named_as_such() {
    let rig = Rig::new();
    // Without quotes the server folds the name to lower case: another user.
    let why = rig.failure(&mint_plan("Nobody", &["CREATE ROLE {{name}} LOGIN"])).await;
    assert!(matches!(&why, TargetError::Plan(text) if text.contains("did not create")), "{why}");
    assert!(!rig.role_exists("nobody"));
}

#[tokio::test]
async fn a_message_that_quotes_the_password_is_withheld() {
    let rig = Rig::new();
    for statement in
        ["SELECT '{{password}}'::int", "DO $$ BEGIN RAISE EXCEPTION 'x%', substr('{{password}}', 3); END $$"]
    {
        let why = rig.failure(&mint_plan("user", &[CREATE, statement])).await.to_string();
        assert!(!why.contains(&PASSWORD[3..11]), "{why}");
        assert!(why.contains("SQLSTATE"), "{why}");
    }
}

#[tokio::test]
async fn grants_on_the_same_tables_at_once_all_succeed() {
    let rig = Rig::new();
    rig.pg.sql("CREATE SCHEMA app; CREATE TABLE app.a (); CREATE TABLE app.b ()");
    let grant = r#"GRANT USAGE ON SCHEMA app TO "{{name}}"; GRANT SELECT ON ALL TABLES IN SCHEMA app TO "{{name}}""#;
    // Two targets: two nodes, or two mounts.
    let other = Postgres::new(settings(endpoint(&rig.pg)));
    let targets = [&rig.target, &other];
    let plans: Vec<MintPlan> = (0..32).map(|n| mint_plan(&format!("user_{n}"), &[CREATE, grant])).collect();
    let secret = password();
    let mints = plans.iter().enumerate().map(|(n, plan)| targets[n % 2].mint(plan, Login::Password(&secret)));
    for outcome in futures_util::future::join_all(mints).await {
        assert!(matches!(outcome, Outcome::Done(())), "{outcome:?}");
    }
    let ends: Vec<EndPlan> = plans.iter().map(|plan| end_plan(&plan.username, &[])).collect();
    let ending = ends.iter().enumerate().map(|(n, plan)| targets[n % 2].end(plan));
    for ended in futures_util::future::join_all(ending).await {
        assert!(ended.as_ref().is_ok_and(|ended| ended.existed), "{ended:?}");
    }
    assert_eq!(rig.pg.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'user_%'"), "");
}

#[tokio::test]
async fn values_stay_in_their_quotes_whatever_the_account_is_set_to() {
    let rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE changed SUPERUSER LOGIN PASSWORD '{PASSWORD}';
         ALTER ROLE changed SET standard_conforming_strings = off"
    ));
    let changed = PgEndpoint { user: "changed".into(), passwords: Some(password()).into(), ..endpoint(&rig.pg) };
    let target = Postgres::new(settings(changed));
    // Where a backslash escapes, this name ends the literal and begins a statement.
    let user = "user\\'; SELECT 1/0; --";
    minted(&target, &mint_plan(user, &[CREATE, "DO $$ BEGIN END $$; SELECT '{{name}}'"])).await;
    assert!(rig.role_exists(user));
}

#[tokio::test]
async fn renewing_moves_the_end_and_the_marker() {
    let rig = Rig::new();
    rig.minted("user", &[CREATE]).await;
    let mut plan = RenewPlan {
        username: "user".to_owned(),
        renew: Script::default(),
        expiration: SystemTime::UNIX_EPOCH + Duration::from_secs(FAR + 60),
        expires: FAR + 55,
    };
    rig.target.renew(&plan).await.unwrap();
    let until = "SELECT rolvaliduntil AT TIME ZONE 'UTC' FROM pg_roles WHERE rolname = 'user'";
    assert_eq!(rig.pg.sql(until), "2100-01-01 00:01:00");
    let moved = Marker { expires: FAR + 55, ..mint_plan("user", &[]).marker };
    assert_eq!(marker(&rig, "user"), moved);

    // A comment of somebody else stays, and own statements are run instead.
    rig.pg.sql("COMMENT ON ROLE \"user\" IS 'mine'");
    plan.renew = script(&["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}' CONNECTION LIMIT 7 -- more"]);
    rig.target.renew(&plan).await.unwrap();
    assert_eq!(rig.pg.sql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'user'"), "7");
    assert_eq!(comment(&rig, "user"), "mine");

    rig.end("user", &[]).await.unwrap();
    plan.renew = Script::default();
    let why = rig.target.renew(&plan).await.unwrap_err();
    assert_eq!(why.to_string(), "ERROR: role \"user\" does not exist (SQLSTATE 42704)");
}
