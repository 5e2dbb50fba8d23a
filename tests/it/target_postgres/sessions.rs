//! What becomes of open sessions.

use super::*;

/// Whatever a session is in the middle of.
#[tokio::test]
async fn no_session_outlives_its_user() {
    let rig = Rig::new();
    rig.pg.sql(
        "CREATE ROLE readers; CREATE TABLE t AS SELECT * FROM generate_series(1, 1000) x; GRANT SELECT ON t TO readers",
    );
    rig.minted("user", &[CREATE, r#"GRANT readers TO "{{name}}""#]).await;
    let doings = [
        "SELECT 1",
        "BEGIN; SELECT count(*) / 1000 FROM t",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT x FROM t; FETCH 1 FROM c",
        "SET ROLE readers; SELECT 1",
        "CREATE TEMP TABLE own (); PREPARE p AS SELECT 1; LISTEN x; SELECT pg_advisory_lock(1); SELECT 1",
        "BEGIN; LOCK TABLE t IN ACCESS SHARE MODE; SELECT 1",
    ];
    let mut open: Vec<Session> = doings
        .iter()
        .map(|doing| {
            let mut session = rig.session("user");
            assert_eq!(session.one(doing).as_deref(), Some("1"), "{doing}");
            session
        })
        .collect();
    let ended = rig.end_by("user", EndOptions::default()).await;
    assert_eq!((ended.sessions, ended.left, ended.again), (doings.len() as u64, vec![], None));
    assert!(!rig.role_exists("user"));
    for (session, doing) in open.iter_mut().zip(doings) {
        assert_eq!(session.one("SELECT 1"), None, "{doing}");
    }
}

#[tokio::test]
async fn sessions_may_be_kept() {
    let rig = Rig::new();
    rig.minted("user", &[CREATE]).await;
    let mut session = rig.session("user");
    let ended = rig.end_by("user", sessions(Sessions::Keep)).await;
    assert_eq!((ended.sessions, ended.left, ended.again), (0, vec![], None));
    assert!(!rig.role_exists("user"));
    assert_eq!(session.one("SELECT 1").as_deref(), Some("1"));
}

#[tokio::test]
async fn sessions_may_have_a_time_of_grace() {
    let rig = Rig::new();
    rig.pg.sql("CREATE TABLE t AS SELECT 1 AS x");
    rig.minted("user", &[CREATE, r#"GRANT SELECT ON t TO "{{name}}""#]).await;
    let mut session = rig.session("user");
    let grace = Sessions::Grace(Duration::from_secs(3600));
    for _ in 0..2 {
        let ended = rig.end_by("user", sessions(grace.clone())).await;
        assert!(ended.took < Duration::from_secs(30), "nobody waits for it");
        assert_eq!(ended.again, Some(Duration::from_secs(3600)));
        assert_eq!(ended.left.len(), 1);
        assert!(ended.left[0].object.starts_with("session ") && ended.left[0].database == "postgres", "{ended:?}");
        assert!(!rig.can_log_in("user"), "no more of them");
        assert_eq!(session.one("SELECT x FROM t").as_deref(), Some("1"), "it goes on as before");
    }
    // They have ended by themselves: so does the user, before its time.
    drop(session);
    rig.pg.wait_until_idle();
    let ended = rig.end_by("user", sessions(grace.clone())).await;
    assert_eq!((ended.sessions, ended.left, ended.again), (0, vec![], None));
    assert!(!rig.role_exists("user"));

    rig.minted("user", &[CREATE]).await;
    let mut session = rig.session("user");
    let ended = rig.end_by("user", sessions(grace.after(Duration::from_secs(3600)))).await;
    assert_eq!((ended.sessions, ended.left, ended.again), (1, vec![], None), "the time is over");
    assert_eq!(session.one("SELECT 1"), None);
    assert!(!rig.end_by("user", sessions(grace)).await.existed);
}
