//! Text of a caller never becomes SQL: what the server runs for a hostile text is what it runs for a harmless one, with
//! the one, quoted, in the place of the other.

use leasehold::target::{Owned, RenewPlan};

use super::*;
use crate::hostile;

/// The harmless one. Like the hostile ones it is no plain word.
const HARMLESS: &str = "harmless~";

/// Everything that is done with a user of the name `text`, and with a password that holds it. False if the server does
/// not take the name.
async fn live(target: &MySql, text: &str) -> bool {
    let password = Secret::new(format!("pw {text}"));
    let creation = [
        "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT ALL ON app.* TO '{{username}}'@'%' /* {{name}} */",
        "DO '{{name}}'; SELECT 1 AS `x {{name}}` # {{name}}",
    ];
    match target.mint(&mint_plan(text, &creation, &[]), Login::Password(&password)).await {
        Outcome::Done(()) => {}
        Outcome::Failed(TargetError::Answer { .. }) => return false,
        other => panic!("{text:?}: {other:?}"),
    }
    let renew = script(&["GRANT SELECT ON app.* TO '{{name}}'@'%' -- {{expiration}}"]);
    let expiration = SystemTime::UNIX_EPOCH;
    target.renew(&RenewPlan { username: text.to_owned(), renew, expiration, expires: 0 }).await.unwrap();
    for statements in [&[][..], &["ALTER USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'"]] {
        let changed = target.set_password(text, &password, &script(statements)).await;
        assert!(matches!(changed, Outcome::Done(())), "{text:?}: {changed:?}");
    }
    assert_eq!(target.present(&[text.to_owned()]).await.unwrap(), [text]);
    let keep = ["REVOKE SELECT ON app.* FROM '{{name}}'@'%'"];
    assert_eq!(target.end(&end_plan(text, &keep)).await.unwrap().left.len(), 1, "{text:?}");
    let options = EndOptions { owned: Owned::Drop, ..EndOptions::default() };
    assert_eq!(target.end(&EndPlan { options, ..end_plan(text, &[]) }).await.unwrap().left, [], "{text:?}");
    true
}

/// What the server ran since it was last asked.
fn executed(server: &MariaDb) -> Vec<String> {
    let lines = server.sql(
        "SELECT HEX(argument) FROM mysql.general_log WHERE command_type = 'Query' ORDER BY event_time;
         TRUNCATE mysql.general_log",
    );
    let text = |line: &str| {
        let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        String::from_utf8((0..line.len()).step_by(2).map(byte).collect()).unwrap()
    };
    // Statements that cover what a secret one has left in the driver's buffer, and those of a session that is opened.
    let beside = |query: &str| {
        let opening = ["SET NAMES ", "SELECT CONNECTION_ID(), VERSION()", "SET SESSION lock_wait_timeout"];
        query == "DO 0" || opening.iter().any(|start| query.starts_with(start))
    };
    lines.lines().map(text).map(|query| query.trim_end().to_owned()).filter(|query| !beside(query)).collect()
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "''")
}

#[tokio::test]
async fn text_of_a_caller_is_never_sql() {
    let rig = Rig::with(|source| source.password_hashing = "none");
    rig.server.sql("CREATE TABLE app.canary (x INT); SET GLOBAL log_output = 'TABLE'");
    // The second time what is asked of a server once has been asked.
    assert!(live(&rig.target, HARMLESS).await);
    executed(&rig.server);
    assert!(live(&rig.target, HARMLESS).await);
    let model = executed(&rig.server);
    for shape in ["CREATE USER", "GRANT", "IDENTIFIED BY", "ACCOUNT LOCK", "DROP USER", "PROCESSLIST", "VIEWS"] {
        assert!(model.iter().any(|query| query.contains(shape)), "no {shape} in {model:#?}");
    }
    let mut compared = 0;
    for text in hostile::texts(60, 250) {
        if text.contains('\0') || text.contains("{{host}}") {
            let error = failure(&rig.target, &mint_plan(&text, &[CREATE], &[]), &fresh()).await;
            assert!(matches!(error, TargetError::Plan(_)), "{text:?}: {error}");
            continue;
        }
        let made = live(&rig.target, &text).await;
        let seen = executed(&rig.server);
        // The server's names have characters of three bytes at most.
        if made && text.chars().all(|c| c.len_utf8() < 4) {
            let expected = |query: &String| {
                // An identifier between backquotes; the rest between single quotes.
                query
                    .replace(&format!("`x {HARMLESS}`"), &format!("`x {}`", text.replace('`', "``")))
                    .replace(&format!("'{HARMLESS}@'"), &format!("'{}@'", quoted(&text)))
                    .replace(&format!("'{HARMLESS}'"), &format!("'{}'", quoted(&text)))
                    .replace(&format!("'pw {HARMLESS}'"), &format!("'pw {}'", quoted(&text)))
                    .replace(
                        &format!("LEFT(DEFINER, {})", HARMLESS.chars().count() + 1),
                        &format!("LEFT(DEFINER, {})", text.chars().count() + 1),
                    )
            };
            assert_eq!(seen, model.iter().map(expected).collect::<Vec<_>>(), "{text:?}");
            compared += 1;
        } else {
            assert!(seen.len() <= model.len(), "{text:?}: {seen:#?}");
        }
    }
    assert!(compared > 150, "{compared}");
    assert_eq!(rig.server.sql("SELECT GROUP_CONCAT(User ORDER BY User) FROM mysql.user WHERE User LIKE '%~'"), "NULL");
    assert_eq!(rig.server.sql("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'canary'"), "1");
}
