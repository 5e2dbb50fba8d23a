//! Who can log in with rights over others, but for the users that we made.

use super::{Postgres, marker, quoted_text};
use crate::target::pool::Lane;
use crate::target::{Standing, TargetError};

#[derive(serde::Deserialize)]
struct Found {
    name: String,
    rights: Vec<String>,
    own: bool,
    comment: Option<String>,
}

/// Roles that can log in and are superusers, may make roles or databases, replicate, pass row security by, or are members
/// of a role of the server's own (`pg_read_all_data`, …).
pub async fn standing(target: &Postgres, mount: &str) -> Result<Vec<Standing>, TargetError> {
    let ask = format!(
        "SELECT coalesce(json_agg(f ORDER BY f.name)::text, '[]') FROM (\
         SELECT r.rolname AS name, r.rolname = {} AS own, d.description AS comment, array_remove(ARRAY[\
           CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END, \
           CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END, \
           CASE WHEN rolbypassrls THEN 'BYPASSRLS' END], NULL) \
           || ARRAY(SELECT 'member of ' || g.rolname FROM pg_roles g WHERE g.rolname LIKE 'pg\\_%' AND NOT r.rolsuper \
                    AND pg_has_role(r.oid, g.oid, 'MEMBER') ORDER BY 1) \
           || CASE WHEN rolvaliduntil IS NULL OR rolvaliduntil = 'infinity' THEN ARRAY['never expires'] ELSE '{{}}' END \
           AS rights \
         FROM pg_roles r LEFT JOIN pg_shdescription d ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass \
         WHERE r.rolcanlogin) f WHERE f.rights <> '{{}}' AND f.rights <> ARRAY['never expires']",
        quoted_text(&target.settings.endpoint.user)
    );
    let mut session = target.session(Lane::End).await?;
    let found: Vec<Found> = session.ask(&ask).await?;
    session.give_back();
    let ours =
        |found: &Found| found.comment.as_deref().and_then(marker::read).is_some_and(|marker| marker.mount == mount);
    let standing = found.into_iter().filter(|found| !ours(found));
    Ok(standing.map(|found| Standing { name: found.name, rights: found.rights, own: found.own }).collect())
}
