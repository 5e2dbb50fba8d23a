//! Text of a caller never becomes SQL: what the server runs for a hostile text is what it runs for a harmless one, with
//! the one in the place of the other, as the server itself quotes it.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::hostile;

/// The harmless one. Like the hostile ones it is no plain word.
const HARMLESS: &str = "harmless~";

const SETTINGS: &[&str] = &[
    "fsync=off",
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track=all",
    "pg_stat_statements.save=off",
    "log_statement=all",
    "max_connections=50",
];

fn marker(text: &str) -> Marker {
    Marker {
        mount: format!("mount {text}"),
        role: text.to_owned(),
        request: text.to_owned(),
        entity: text.to_owned(),
        begun: 1,
        expires: FAR,
        connection: text.to_owned(),
        grant: String::new(),
        seal: text.to_owned(),
    }
}

/// Everything that is done with a user of the name `text`, and with a password that holds it.
async fn live(target: &Postgres, text: &str) {
    let password = Secret::new(format!("pw {text}"));
    let creation = [
        CREATE,
        r#"GRANT SELECT ON app.t TO "{{name}}" /* {{name}} */ -- {{name}}"#,
        r#"SELECT '{{name}}', E'{{username}}', "x" FROM (SELECT 1 AS "x") s"#,
        r#"GRANT SELECT ON "it's a ""table""" TO "{{name}}"; GRANT "{{name}}" TO "heir~'""\""#,
        r#"CREATE TABLE "{{name}}" (); ALTER TABLE "{{name}}" OWNER TO "{{name}}""#,
    ];
    let plan = MintPlan { marker: marker(text), ..mint_plan(text, &creation) };
    let outcome = target.mint(&plan, Login::Password(&password)).await;
    assert!(matches!(outcome, Outcome::Done(())), "{text:?}: {outcome:?}");
    for renew in [&[][..], &[r#"ALTER ROLE "{{name}}" CONNECTION LIMIT 3 VALID UNTIL '{{expiration}}'"#]] {
        let expiration = SystemTime::UNIX_EPOCH + Duration::from_secs(FAR + 60);
        let plan = RenewPlan { username: text.to_owned(), renew: script(renew), expiration, expires: FAR + 60 };
        target.renew(&plan).await.unwrap();
    }
    let changed = target.set_password(text, &password, &Script::default()).await;
    assert!(matches!(changed, Outcome::Done(())), "{text:?}: {changed:?}");
    let own = script(&[r#"ALTER USER "{{name}}" WITH PASSWORD '{{password}}'"#]);
    let changed = target.set_password(text, &password, &own).await;
    assert!(matches!(changed, Outcome::Done(())), "{text:?}: {changed:?}");
    assert_eq!(target.present(&[text.to_owned(), "nobody".to_owned()]).await.unwrap(), [text]);
    let of_mount = target.marked(&format!("mount {text}")).await.unwrap();
    assert_eq!(of_mount.len(), 1);
    let expected = Marker { expires: FAR + 60, ..marker(text) };
    assert_eq!((of_mount[0].username.as_str(), &of_mount[0].marker), (text, &expected));
    target.check(&reassign(text)).await.unwrap();

    // Statements that fail, none, and none with an heir of a hostile name.
    let failing = [r#"COMMENT ON ROLE "{{name}}" IS '{{name}}'; DROP ROLE "{{name}}""#];
    for revocation in [&failing[..], &[]] {
        let ended = target.end(&end_plan(text, revocation)).await.unwrap();
        assert!(!ended.left.is_empty(), "it owns something");
    }
    let plan = EndPlan { options: reassign("heir~'\"\\"), ..end_plan(text, &[]) };
    assert_eq!(target.end(&plan).await.unwrap().left, [], "{text:?}");
}

/// Every statement that the server ran, and how often; constants of queries are `$1` in them.
fn executed(pg: &Server) -> Vec<(String, i64)> {
    let rows = pg.json(
        "SELECT coalesce(json_agg(json_build_array(query, calls) ORDER BY query), '[]') FROM pg_stat_statements
         WHERE query !~ 'pg_stat_statements'",
    );
    let mut all: Vec<(String, i64)> = serde_json::from_value(rows).unwrap();
    // How many sessions there are is the pool's affair.
    all.retain(|(query, _)| query != "SET standard_conforming_strings = on");
    for (query, _) in &mut all {
        // A space keeps the E of a constant from what stands before it.
        if query.starts_with("SELECT") {
            *query = query.replace(" $", "$").replace(" $", "$");
        }
    }
    all
}

fn forget(pg: &Server) {
    pg.sql("SELECT pg_stat_statements_reset()");
}

/// Texts as the server quotes them: as an identifier, as a literal.
fn quoted(pg: &Server, texts: &[String]) -> Vec<(String, String)> {
    let values: Vec<String> = texts.iter().map(|text| format!("($quote${text}$quote$)")).collect();
    let all = pg.json(&format!(
        "SELECT json_agg(json_build_array(quote_ident(t), quote_literal(t))) FROM (VALUES {}) x(t)",
        values.join(", ")
    ));
    serde_json::from_value(all).unwrap()
}

/// What is said of roles in their time: their notes when they are made and when they are renewed, and what their failing
/// statements say.
fn comments(pg: &Server, texts: &[String]) -> Vec<String> {
    let note = |text: &String, expires| {
        let Marker { mount, role, request, entity, begun, connection, seal, .. } = marker(text);
        let joined = |texts: &[(&str, String)]| {
            texts.iter().map(|(key, value)| format!("\"{key}\":{}", json!(value))).collect::<Vec<_>>().join(",")
        };
        let before = joined(&[("mount", mount), ("role", role), ("request", request), ("entity", entity)]);
        let after = joined(&[("connection", connection), ("seal", seal)]);
        format!("leasehold:{{{before},\"begun\":{begun},\"expires\":{expires},{after}}}")
    };
    let notes: Vec<String> = texts.iter().flat_map(|text| [note(text, FAR), note(text, FAR + 60)]).collect();
    let mut all = Vec::new();
    let notes = quoted(pg, &notes);
    for ((text, (name, _)), notes) in texts.iter().zip(quoted(pg, texts)).zip(notes.chunks(2)) {
        // Backslashes mean themselves where an operator writes plain quotes.
        let plain = format!("'{}'", text.replace('\'', "''"));
        let said = [&notes[0].1, &notes[1].1, &plain];
        all.extend(said.map(|said| format!("COMMENT ON ROLE {name} IS {said}")));
    }
    sorted(all)
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort();
    all
}

/// The comments, and the other statements.
fn parted(executed: Vec<(String, i64)>) -> (Vec<String>, Vec<(String, i64)>) {
    let (comments, others): (Vec<_>, Vec<_>) =
        executed.into_iter().partition(|(query, _)| query.starts_with("COMMENT ON ROLE"));
    // A space keeps the E from what stands before it.
    let comments = comments.into_iter().map(|(query, _)| query.replacen("IS  E'", "IS E'", 1)).collect();
    (sorted(comments), sorted(others))
}

#[tokio::test]
async fn text_of_a_caller_is_never_sql() {
    let mut rig = Rig::at(Server::start_with(SETTINGS));
    // What is not hashed has to be quoted.
    rig.target = Postgres::new(Settings { password_form: PasswordForm::Text, ..settings(endpoint(&rig.pg)) });
    rig.pg.sql(
        "CREATE EXTENSION pg_stat_statements; CREATE TABLE canary (); CREATE SCHEMA app; CREATE TABLE app.t ();
         CREATE ROLE \"heir~'\"\"\\\"; CREATE TABLE \"it's a \"\"table\"\"\" ()",
    );
    forget(&rig.pg);
    live(&rig.target, HARMLESS).await;
    let (noted, model) = parted(executed(&rig.pg));
    assert_eq!(noted, comments(&rig.pg, &[HARMLESS.to_owned()]));
    for shape in [
        "CREATE ROLE",
        "DROP ROLE",
        "DROP OWNED",
        "REASSIGN OWNED",
        "REVOKE",
        "NOLOGIN",
        "PASSWORD",
        "CONNECTION LIMIT",
    ] {
        assert!(model.iter().any(|(query, _)| query.contains(shape)), "no {shape} in {model:#?}");
    }
    let roles = "SELECT count(*) FROM pg_roles";
    let before = rig.pg.sql(roles);

    let (texts, refused): (Vec<_>, Vec<_>) = hostile::texts(63, 340).into_iter().partition(|text| !text.contains('\0'));
    assert!(texts.len() > 300 && !refused.is_empty());
    forget(&rig.pg);
    for text in &refused {
        let plan = MintPlan { marker: marker(text), ..mint_plan(text, &[CREATE]) };
        assert!(matches!(rig.failure(&plan).await, TargetError::Plan(_)));
    }
    // In a body, or outside of quotes, there is no safe way to put it: nothing at all is run.
    let nowhere = [
        "DO $$ BEGIN PERFORM '{{name}}'; END $$",
        "SELECT {{name}}",
        "ALTER ROLE {{name}} SUPERUSER",
        "SELECT $${{name}}$$",
    ];
    for (text, statement) in texts.iter().zip(nowhere.into_iter().cycle()) {
        let error = rig.failure(&mint_plan(text, &[CREATE, statement])).await;
        assert!(matches!(error, TargetError::Plan(_)), "{text:?} in {statement}: {error}");
    }
    assert_eq!(executed(&rig.pg), []);

    for group in texts.chunks(25) {
        forget(&rig.pg);
        for text in group {
            live(&rig.target, text).await;
        }
        let (noted, seen) = parted(executed(&rig.pg));
        let mut expected = BTreeMap::new();
        for (text, (name, _)) in group.iter().zip(quoted(&rig.pg, group)) {
            for (query, calls) in &model {
                let password = format!("'pw {}'", text.replace('\'', "''"));
                let query = query.replace(&format!("'pw {HARMLESS}'"), &password);
                *expected.entry(query.replace(&format!("\"{HARMLESS}\""), &name)).or_insert(0) += calls;
            }
        }
        let expected: Vec<(String, i64)> = expected.into_iter().collect();
        let only = |of: &[(String, i64)], in_other: &[(String, i64)]| -> Vec<String> {
            of.iter().filter(|row| !in_other.contains(row)).map(|row| format!("{row:?}")).collect()
        };
        assert_eq!(only(&seen, &expected), only(&expected, &seen), "{group:?}");
        assert_eq!(noted, comments(&rig.pg, group));
    }
    assert_eq!(rig.pg.sql(roles), before);
    assert_eq!(rig.pg.sql("SELECT count(*) FROM pg_class WHERE relname = 'canary'"), "1");
}

/// Names that are not a caller's, but not ours either.
#[tokio::test]
async fn databases_and_roles_of_hostile_names() {
    let rig = Rig::new();
    for name in ["it's", "a\"b", "back\\slash", "\u{202e}\u{1f600} ; --", "dbname=postgres host=x"] {
        let (ident, _) = quoted(&rig.pg, &[name.to_owned()]).remove(0);
        rig.pg.sql(&format!("CREATE DATABASE {ident}; CREATE ROLE {ident}"));
        rig.minted("user", &[CREATE]).await;
        rig.pg.sql(&format!("GRANT CREATE ON DATABASE {ident} TO \"user\"; ALTER DATABASE {ident} OWNER TO \"user\""));
        let left = rig.end_by("user", owned(Owned::Drop)).await.left;
        assert_eq!(left.len(), 1, "{left:?}");
        rig.end_cleanly("user", reassign(name)).await;
        rig.minted("user", &[CREATE, &format!("GRANT {ident} TO \"{{{{name}}}}\"")]).await;
        rig.end_cleanly("user", EndOptions::default()).await;
        assert!(rig.role_exists(name));
    }
}
