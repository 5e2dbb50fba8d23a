//! What a user has done, by `pg_stat_statements` where the database of the connection has it.

use sqlx::Row;

use super::{Postgres, quoted_text};
use crate::target::pool::Lane;
use crate::target::{TargetError, Usage};

/// The statements of a user, all databases together.
pub async fn usage(target: &Postgres, username: &str) -> Result<Option<Usage>, TargetError> {
    let mut session = target.session(Lane::End).await?;
    // The view is there only with its extension, and without the library behind it every look at it fails.
    let ask = "SELECT 1 WHERE to_regclass('pg_stat_statements') IS NOT NULL \
               AND current_setting('pg_stat_statements.track', true) IS NOT NULL";
    if session.run(ask).await?.is_none() {
        session.give_back();
        return Ok(None);
    }
    let ask = format!(
        "SELECT coalesce(sum(s.calls), 0)::bigint, coalesce(sum(s.rows), 0)::bigint \
         FROM pg_roles r LEFT JOIN pg_stat_statements s ON s.userid = r.oid WHERE r.rolname = {}",
        quoted_text(username)
    );
    let row = session.run(&ask).await?;
    let count = |place: usize| {
        let row = row.as_ref()?;
        u64::try_from(row.try_get::<i64, _>(place).ok()?).ok()
    };
    let found = count(0).zip(count(1));
    session.give_back();
    Ok(found.map(|(statements, rows)| Usage { source: "pg_stat_statements", statements, rows }))
}

/// For how many seconds no session of the user has done anything; `None` if it has no session.
pub async fn silence(target: &Postgres, username: &str) -> Result<Option<u64>, TargetError> {
    let ask = format!(
        "SELECT coalesce(to_json(min(CASE WHEN state = 'active' THEN 0 ELSE \
         greatest(0, extract(epoch FROM clock_timestamp() - coalesce(state_change, backend_start)))::bigint END))::text, \
         'null') FROM pg_stat_activity WHERE usename = {}",
        quoted_text(username)
    );
    let mut session = target.session(Lane::End).await?;
    let silence = session.ask(&ask).await?;
    session.give_back();
    Ok(silence)
}
