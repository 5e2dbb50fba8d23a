//! What becomes of what a user owns, and of what it was granted.

use super::*;

const OWN: &str = r#"CREATE SCHEMA own AUTHORIZATION "{{name}}""#;

/// A user of each of these forms is made, uses its rights, and ends with nothing left of it.
#[tokio::test]
async fn nothing_that_depends_on_a_user_keeps_it() {
    let rig = Rig::new();
    rig.pg.sql(
        "CREATE DATABASE other; CREATE SCHEMA app; CREATE TABLE app.t (x int); CREATE SEQUENCE app.s;
         CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE ROLE granter;
         GRANT USAGE ON SCHEMA app TO granter WITH GRANT OPTION;
         GRANT SELECT ON app.t TO granter WITH GRANT OPTION; GRANT SELECT (x) ON app.t TO granter WITH GRANT OPTION;
         CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; SELECT lo_create(7)",
    );
    let user = r#""{{name}}""#;
    let cases = [
        ("a table", format!("CREATE TABLE own.t (); ALTER TABLE own.t OWNER TO {user}")),
        ("USAGE on a schema only", format!("GRANT USAGE ON SCHEMA app TO {user}")),
        ("a function", format!("GRANT EXECUTE ON FUNCTION app.f() TO {user}")),
        ("a sequence", format!("GRANT USAGE ON SEQUENCE app.s TO {user}")),
        (
            "default privileges",
            format!(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO {user};
                 ALTER DEFAULT PRIVILEGES FOR ROLE {user} GRANT SELECT ON TABLES TO PUBLIC"
            ),
        ),
        ("another database", format!("GRANT CREATE ON DATABASE other TO {user}")),
        ("a column", format!("GRANT SELECT (x) ON app.t TO {user}")),
        ("a large object", format!("GRANT SELECT ON LARGE OBJECT 7 TO {user}")),
        ("a parameter", format!("GRANT SET ON PARAMETER log_statement TO {user}")),
        ("a user mapping", format!("CREATE USER MAPPING FOR {user} SERVER far")),
        ("a grant of another's", format!("SET ROLE granter; GRANT SELECT ON app.t TO {user}; RESET ROLE")),
        (
            "a grant of a column of another's",
            format!("SET ROLE granter; GRANT SELECT (x) ON app.t TO {user}; RESET ROLE"),
        ),
        (
            "grants of two",
            format!(
                "GRANT USAGE ON SCHEMA app TO {user}; SET ROLE granter; GRANT USAGE ON SCHEMA app TO {user}; RESET ROLE"
            ),
        ),
    ];
    rig.pg.sql("CREATE SCHEMA own");
    for (what, statement) in cases {
        rig.minted("user", &[CREATE, &statement]).await;
        assert!(rig.pg.try_sql("DROP ROLE \"user\"").is_err(), "{what} depends on it");
        let ended = rig.end_by("user", owned(Owned::Drop)).await;
        assert_eq!(ended.left, [], "{what}");
        assert!(!rig.role_exists("user"), "{what}");
    }
    assert_eq!(rig.pg.sql("SELECT count(*) FROM pg_user_mapping"), "0");
}

/// A user that owns something of many kinds, in two databases.
async fn owner(rig: &Rig) {
    rig.pg.sql("CREATE DATABASE other; CREATE SCHEMA app; CREATE TABLE app.t (); CREATE ROLE readers");
    let creation = [CREATE, OWN, r#"GRANT SELECT ON app.t TO "{{name}}"; GRANT readers TO "{{name}}""#];
    rig.minted("owner", &creation).await;
    rig.pg.sql(
        "SET ROLE owner; CREATE TABLE own.\"T 1\" AS SELECT 1 AS x; CREATE SEQUENCE own.s; CREATE TYPE own.ty AS (x int);
         CREATE FUNCTION own.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT lo_create(4711)",
    );
    rig.pg.sql("\\connect other\nCREATE TABLE far AS SELECT 2 AS x; ALTER TABLE far OWNER TO owner");
}

const OWNED: [&str; 7] = [
    "other: table public.far",
    "postgres: function own.f(integer)",
    "postgres: large object 4711",
    "postgres: schema own",
    "postgres: sequence own.s",
    "postgres: table own.\"T 1\"",
    "postgres: type own.ty",
];

fn data(rig: &Rig) -> [String; 2] {
    [rig.pg.sql("SELECT x FROM own.\"T 1\""), rig.pg.sql("\\connect other\nSELECT x FROM far")]
}

#[tokio::test]
async fn what_a_user_owns_is_not_dropped_unasked() {
    let rig = Rig::new();
    owner(&rig).await;
    let mut session = rig.session("owner");
    for _ in 0..2 {
        let ended = rig.end_by("owner", EndOptions::default()).await;
        assert_eq!(objects(&ended.left), OWNED);
        assert!(ended.left.iter().all(|left| left.reason.contains("owned_objects")), "{:?}", ended.left);
        assert!(!rig.can_log_in("owner") && rig.role_exists("owner"));
        assert_eq!(session.one("SELECT 1"), None, "its session is over");
        assert_eq!(data(&rig), ["1", "2"]);
    }
    let may = |what: &str| rig.pg.sql(&format!("SELECT has_table_privilege('owner', {what}, 'SELECT')"));
    assert_eq!((may("'app.t'"), may("'own.\"T 1\"'")), ("f".into(), "t".into()), "what it was granted is gone");

    rig.pg.sql("DROP SCHEMA own CASCADE; SELECT lo_unlink(4711)");
    assert_eq!(objects(&rig.end_by("owner", EndOptions::default()).await.left), OWNED[..1]);
    rig.pg.sql("\\connect other\nALTER TABLE far OWNER TO CURRENT_USER");
    rig.end_cleanly("owner", EndOptions::default()).await;
    assert!(!rig.end("owner", &[]).await.unwrap().existed);
}

#[tokio::test]
async fn what_a_user_owns_is_dropped_if_asked() {
    let rig = Rig::new();
    owner(&rig).await;
    rig.pg.sql("CREATE DATABASE its OWNER owner; CREATE VIEW app.v AS SELECT x FROM own.\"T 1\"");
    let ended = rig.end_by("owner", owned(Owned::Drop)).await;
    let mut expected = OWNED[1..].to_vec();
    expected.insert(0, "postgres: database its");
    assert_eq!(objects(&ended.left), expected, "a view of somebody else's depends on a table; all or nothing");
    assert!(ended.left.iter().all(|left| left.reason.contains("2BP01")), "{:?}", ended.left);
    assert_eq!(rig.pg.sql("\\connect other\nSELECT count(*) FROM pg_class WHERE relname = 'far'"), "0");

    rig.pg.sql("DROP VIEW app.v");
    let ended = rig.end_by("owner", owned(Owned::Drop)).await;
    assert_eq!(objects(&ended.left), ["postgres: database its"], "databases are not dropped along with a user");
    assert_eq!(rig.pg.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'own'"), "0");
    rig.pg.sql("DROP DATABASE its");
    rig.end_cleanly("owner", owned(Owned::Drop)).await;
    assert_eq!(rig.pg.sql("SELECT count(*) FROM pg_largeobject_metadata"), "0");
}

#[tokio::test]
async fn what_a_user_owns_is_given_away_if_asked() {
    let rig = Rig::new();
    owner(&rig).await;
    rig.pg.sql("CREATE DATABASE its OWNER owner");
    let ended = rig.end_by("owner", reassign("heir")).await;
    assert!(ended.left.iter().all(|left| left.reason.contains("CREATE ROLE \"heir\"")), "{:?}", ended.left);
    assert_eq!(ended.left.len(), OWNED.len() + 1);
    rig.pg.sql("CREATE ROLE heir");
    rig.end_cleanly("owner", reassign("heir")).await;
    assert_eq!(data(&rig), ["1", "2"]);
    let owners = "SELECT string_agg(DISTINCT o::regrole::text, ',') FROM (
        SELECT relowner FROM pg_class WHERE relnamespace = 'own'::regnamespace UNION SELECT proowner FROM pg_proc
        WHERE pronamespace = 'own'::regnamespace UNION SELECT lomowner FROM pg_largeobject_metadata
        UNION SELECT datdba FROM pg_database WHERE datname = 'its') x(o)";
    assert_eq!(rig.pg.sql(owners), "heir");
}

/// With a routine, or a view, the user would go on acting as the new owner.
#[tokio::test]
async fn nothing_is_given_away_that_would_act_as_its_new_owner() {
    let rig = Rig::new();
    rig.pg.sql("CREATE ROLE heir; CREATE SCHEMA app; CREATE TABLE app.secret AS SELECT 7 AS x; GRANT ALL ON SCHEMA app TO heir; GRANT ALL ON app.secret TO heir");
    rig.minted("owner", &[CREATE, OWN]).await;
    rig.pg.sql(
        "SET ROLE owner; CREATE TABLE own.t (x int); GRANT USAGE ON SCHEMA own TO PUBLIC;
         SET check_function_bodies = off;
         CREATE FUNCTION own.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT x FROM app.secret'",
    );
    // Made when it could be; the rights were taken away.
    rig.pg.sql(
        "CREATE VIEW own.v AS SELECT x FROM app.secret; GRANT SELECT ON own.v TO PUBLIC; ALTER VIEW own.v OWNER TO owner;
         CREATE TABLE own.log (x int); CREATE RULE r AS ON INSERT TO own.t DO ALSO INSERT INTO own.log SELECT x FROM app.secret;
         ALTER TABLE own.log OWNER TO owner",
    );
    let traps = ["postgres: function own.f()", "postgres: table own.t", "postgres: view own.v"];
    for _ in 0..2 {
        let ended = rig.end_by("owner", reassign("heir")).await;
        assert_eq!(objects(&ended.left), traps, "{:?}", ended.left);
        assert_eq!(
            rig.pg.sql("SELECT relowner::regrole FROM pg_class WHERE relname = 'log'"),
            "owner",
            "nothing was given away"
        );
    }
    let off = EndOptions { verify: Verify::Off, ..reassign("heir") };
    assert_eq!(objects(&rig.end_by("owner", off).await.left), traps, "not even unverified");

    // Who may act as the new owner anyway gains nothing by a view, but others by a routine.
    rig.pg.sql("GRANT heir TO owner");
    let ended = rig.end_by("owner", reassign("heir")).await;
    assert_eq!(objects(&ended.left), traps[..1]);
    assert!(ended.left[0].reason.contains("SECURITY INVOKER"), "{:?}", ended.left);
    rig.pg.sql("ALTER FUNCTION own.f() SECURITY INVOKER");
    rig.end_cleanly("owner", reassign("heir")).await;
    assert_eq!(rig.pg.sql("SELECT proowner::regrole FROM pg_proc WHERE proname = 'f'"), "heir");
}

/// A user that has to stay is of no use to anybody.
#[tokio::test]
async fn a_user_that_stays_lends_its_rights_to_nobody() {
    let rig = Rig::new();
    rig.pg.sql(&format!(
        "CREATE ROLE other LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE readers; CREATE TABLE open AS SELECT 1 AS x;
         CREATE TABLE direct AS SELECT 1 AS x; CREATE TABLE grouped AS SELECT 1 AS x;
         GRANT SELECT ON grouped TO readers"
    ));
    let grants = r#"GRANT SELECT ON direct TO "{{name}}"; GRANT readers TO "{{name}}"; GRANT "{{name}}" TO other"#;
    let default = r#"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "{{name}}""#;
    rig.minted("owner", &[CREATE, OWN, grants, default]).await;
    let mut session = rig.session("owner");
    assert_eq!(
        session
            .one(
                "CREATE VIEW own.direct AS SELECT x FROM direct; CREATE VIEW own.grouped AS SELECT x FROM grouped;
             CREATE FUNCTION own.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT x FROM grouped';
             GRANT USAGE ON SCHEMA own TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA own TO PUBLIC; SELECT 1"
            )
            .as_deref(),
        Some("1")
    );
    let ways = ["SELECT x FROM own.direct", "SELECT x FROM own.grouped", "SELECT own.f()"];
    for way in ways.iter().chain(&["SET ROLE owner"]) {
        assert!(rig.pg.login("other", PASSWORD, way).is_ok(), "{way} is a way");
    }
    let ended = rig.end_by("owner", EndOptions::default()).await;
    assert_eq!(ended.left.len(), 4, "{:?}", ended.left);
    let definer = ended.left.iter().find(|left| left.object == "function own.f()").unwrap();
    assert!(definer.reason.contains("SECURITY DEFINER"));
    for way in ways.iter().chain(&["SET ROLE owner"]) {
        let refused = rig.pg.login("other", PASSWORD, way).unwrap_err();
        assert!(refused.contains("permission denied"), "{way}: {refused}");
    }
    rig.pg.sql("CREATE TABLE later ()");
    assert_eq!(rig.pg.sql("SELECT has_table_privilege('owner', 'later', 'SELECT')"), "f");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told() {
    let rig = Rig::new();
    rig.minted("user", &[CREATE]).await;
    rig.pg.sql("CREATE DATABASE closed; CREATE DATABASE its");
    rig.pg.sql("\\connect closed\nCREATE TABLE t (); GRANT SELECT ON t TO \"user\"");
    rig.pg.sql("ALTER DATABASE closed ALLOW_CONNECTIONS false; ALTER DATABASE its OWNER TO \"user\"");
    let ended = rig.end_by("user", EndOptions::default()).await;
    assert_eq!(objects(&ended.left), ["closed: 1 dependencies of the user", "postgres: database its"]);
    assert!(ended.left[0].reason.contains("ALTER DATABASE \"closed\" ALLOW_CONNECTIONS true"), "{:?}", ended.left);
    assert!(!rig.can_log_in("user"));

    rig.pg.sql("ALTER DATABASE closed ALLOW_CONNECTIONS true; ALTER DATABASE its OWNER TO CURRENT_USER");
    rig.end_cleanly("user", EndOptions::default()).await;
}

#[tokio::test]
async fn a_lock_that_somebody_holds_delays_only_the_clean_up() {
    let mut rig = Rig::new();
    rig.target =
        Postgres::new(Settings { statement_timeout: Duration::from_millis(700), ..settings(endpoint(&rig.pg)) });
    rig.minted("owner", &[CREATE, OWN, r#"CREATE TABLE own.t (); ALTER TABLE own.t OWNER TO "{{name}}""#]).await;
    let mut holder = rig.pg.session(ADMIN, ADMIN_PASSWORD);
    assert_eq!(holder.one("BEGIN; LOCK TABLE own.t; SELECT 1").as_deref(), Some("1"));
    let ended = rig.end_by("owner", owned(Owned::Drop)).await;
    assert_eq!(objects(&ended.left), ["postgres: schema own", "postgres: table own.t"]);
    assert!(ended.left[0].reason.contains("lock"), "{:?}", ended.left);
    drop(holder);
    rig.pg.wait_until_idle();
    rig.end_cleanly("owner", owned(Owned::Drop)).await;
}

/// What only a superuser may own.
#[tokio::test]
async fn what_a_superuser_owns() {
    let rig = Rig::new();
    rig.minted("root", &[r#"CREATE ROLE "{{name}}" LOGIN SUPERUSER PASSWORD '{{password}}'"#]).await;
    let mut session = rig.session("root");
    assert_eq!(
        session.one(
            "SET client_min_messages = error;
             CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
             CREATE EVENT TRIGGER watcher ON sql_drop EXECUTE FUNCTION watch();
             CREATE SUBSCRIPTION sub CONNECTION 'dbname=postgres' PUBLICATION pub WITH (connect = false, slot_name = NONE);
             CREATE PUBLICATION pub; SELECT 1"
        ).as_deref(),
        Some("1")
    );
    let ended = rig.end_by("root", EndOptions::default()).await;
    let all = [
        "postgres: event trigger watcher",
        "postgres: function public.watch()",
        "postgres: publication pub",
        "postgres: subscription sub",
    ];
    assert_eq!(objects(&ended.left), all);
    assert_eq!(rig.pg.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'root'"), "f");
    let ended = rig.end_by("root", owned(Owned::Drop)).await;
    assert_eq!(objects(&ended.left), all[3..]);
    rig.pg.sql("DROP SUBSCRIPTION sub");
    rig.end_cleanly("root", owned(Owned::Drop)).await;
}

#[tokio::test]
async fn prepared_transactions() {
    let rig = Rig::at(Server::start_with(&["fsync=off", "max_prepared_transactions=5", "log_statement=all"]));
    rig.pg.sql("CREATE DATABASE other; CREATE TABLE t (x int); GRANT INSERT ON t TO PUBLIC");
    rig.minted("user", &[CREATE]).await;
    let mut session = rig.session("user");
    let prepare = "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s \\mine'; SELECT 1";
    assert_eq!(session.one(prepare).as_deref(), Some("1"));
    for options in [EndOptions::default(), reassign(ADMIN)] {
        let ended = rig.end_by("user", options).await;
        assert_eq!(objects(&ended.left), ["postgres: prepared transaction  E'it''s \\\\mine'"]);
        assert!(ended.left[0].reason.contains("ROLLBACK PREPARED"), "{:?}", ended.left);
    }
    rig.end_cleanly("user", owned(Owned::Drop)).await;
    assert_eq!(rig.pg.sql("SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM pg_prepared_xacts)"), "0");
}

/// Of many objects the first are named, and the others counted.
#[tokio::test]
async fn many_objects() {
    let rig = Rig::new();
    rig.minted("owner", &[CREATE, OWN]).await;
    rig.pg.sql("SET ROLE owner; SELECT format('CREATE TABLE own.t%s ()', lpad(n::text, 3, '0')) FROM generate_series(1, 150) n \\gexec");
    let ended = rig.end_by("owner", EndOptions::default()).await;
    assert_eq!(ended.left.len(), 101);
    assert_eq!(ended.left.last().unwrap().object, "51 more objects");
    rig.end_cleanly("owner", owned(Owned::Drop)).await;
}
