//! The note of whose a user is, in the comment of its role.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use sqlx::Row;

use super::session::{PgSession, Problem};
use super::{Postgres, quoted_name, quoted_text};
use crate::target::pool::Lane;
use crate::target::{Marked, Marker, TargetError};

/// What stands before a marker in a role's comment.
const PREFIX: &str = "leasehold:";

/// Names of so many roles are asked after in one question.
const AT_ONCE: usize = 500;

/// The statement that writes the note.
pub fn comment(username: &str, marker: &Marker) -> Result<String, TargetError> {
    let json = serde_json::to_string(marker).map_err(|_| TargetError::Plan("the marker cannot be written".into()))?;
    Ok(format!("COMMENT ON ROLE {} IS {}", quoted_name(username), quoted_text(&format!("{PREFIX}{json}"))))
}

/// The note in a comment, if it is one.
pub fn read(comment: &str) -> Option<Marker> {
    serde_json::from_str(comment.strip_prefix(PREFIX)?).ok()
}

/// The users of a mount. A comment that only looks like a note of it is nobody's.
pub async fn marked(target: &Postgres, mount: &str) -> Result<Vec<Marked>, TargetError> {
    // The server compares a prefix and a piece; whose the note is, its own text says.
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(r.rolname, r.rolcanlogin, d.description))::text, '[]') \
         FROM pg_roles r JOIN pg_shdescription d ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass \
         WHERE d.description LIKE {} AND position({} in d.description) > 0",
        quoted_text(&format!("{PREFIX}%")),
        quoted_text(&serde_json::json!(mount).to_string()),
    );
    let mut session = target.session(Lane::End).await?;
    let rows: Vec<(String, bool, String)> = session.ask(&ask).await?;
    session.give_back();
    let of_mount = rows.into_iter().filter_map(|(username, can_log_in, comment)| {
        let marker = read(&comment).filter(|marker| marker.mount == mount)?;
        Some(Marked { username, marker, barred: !can_log_in })
    });
    Ok(of_mount.collect())
}

/// The number of the lock that whoever makes a user for this request holds until its transaction is over.
pub fn lock_of(request: &str) -> i64 {
    let digest = Sha256::digest(format!("leasehold request {request}"));
    digest.iter().take(8).fold(0, |number, byte| number << 8 | i64::from(*byte))
}

/// Whether there is a user of the same mount and request.
pub async fn is_repeated(session: &mut PgSession, marker: &Marker) -> Result<bool, Problem> {
    let ask = format!(
        "SELECT coalesce(json_agg(d.description)::text, '[]') FROM pg_shdescription d \
         WHERE d.classoid = 'pg_authid'::regclass AND d.description LIKE {} AND position({} in d.description) > 0",
        quoted_text(&format!("{PREFIX}%")),
        quoted_text(&serde_json::json!(marker.request).to_string()),
    );
    let row = session.run(&ask).await?;
    let json = row.and_then(|row| row.try_get::<String, _>(0).ok()).unwrap_or_default();
    let comments: Vec<String> = serde_json::from_str(&json)
        .map_err(|_| Problem::Broken(TargetError::Lost("the server's answer about roles made no sense".into())))?;
    let mut known = comments.iter().filter_map(|comment| read(comment));
    Ok(known.any(|known| known.mount == marker.mount && known.request == marker.request))
}

/// The time by the server's clock.
pub async fn clock(target: &Postgres) -> Result<SystemTime, TargetError> {
    let mut session = target.session(Lane::End).await?;
    let row = session.run("SELECT extract(epoch FROM clock_timestamp())::bigint").await?;
    session.give_back();
    row.and_then(|row| row.try_get::<i64, _>(0).ok())
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.try_into().ok()?)))
        .ok_or_else(|| TargetError::Lost("the server's answer about the time made no sense".into()))
}

/// Which of these roles there are.
pub async fn present(target: &Postgres, usernames: &[String]) -> Result<Vec<String>, TargetError> {
    let mut session = target.session(Lane::End).await?;
    let mut found = Vec::new();
    for names in usernames.chunks(AT_ONCE) {
        let list: Vec<String> = names.iter().map(|name| quoted_text(name)).collect();
        let ask = format!(
            "SELECT coalesce(json_agg(rolname)::text, '[]') FROM pg_roles WHERE rolname IN ({})",
            list.join(", ")
        );
        found.extend(session.ask::<Vec<String>>(&ask).await?);
    }
    session.give_back();
    Ok(found)
}
