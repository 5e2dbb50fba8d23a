//! Back doors: what a user may have made in its time to come in again once it is gone. They are looked for before the
//! end, as most of what tells of them goes with the role.

use std::collections::BTreeSet;

use super::{User, change, in_database};
use crate::target::postgres::marker;
use crate::target::postgres::session::PgSession;
use crate::target::postgres::{Postgres, quoted_name};
use crate::target::{Left, TargetError, Verify};

use super::contain::Found;

/// What one look at the roles of the server shows.
#[derive(serde::Deserialize)]
struct View {
    /// The user may act as a superuser.
    all: bool,
    /// The roles that the user can act as, by number; itself is not among them.
    reach: Vec<i64>,
    /// Name, whether the user certainly made it, its comment.
    roles: Vec<(String, bool, Option<String>)>,
    /// The comment of the user itself.
    note: Option<String>,
    /// Databases with routines that may count: name, whether it is that of the session, whether it takes connections.
    databases: Vec<(String, bool, bool)>,
}

/// Roles and routines that the user made, or may have made, and that outlive it.
pub async fn look(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    found: &Found,
    verify: Verify,
) -> Result<Vec<Left>, TargetError> {
    let relevant = match verify {
        Verify::Required => found.superuser || found.makes_roles || found.member,
        // Who made a role is known since PostgreSQL 16, of a routine never.
        Verify::BestEffort => found.makes_roles && session.knows_grantors(),
        Verify::Off => false,
    };
    if !relevant {
        return Ok(Vec::new());
    }
    let suspects = verify == Verify::Required;
    if suspects && !found.superuser && !found.makes_roles && !session.ask::<bool>(&first_question(user)).await? {
        return Ok(Vec::new());
    }
    let view: View = session.ask(&question(user, session.knows_grantors())).await?;
    let mut left = roles(&view, suspects);
    if suspects {
        left.extend(routines(target, session, user, &view).await?);
    }
    Ok(left)
}

/// The roles that the user can act as. Each is looked up by itself: joined as they are, the server may read the members
/// of all groups, however many there are.
fn reach(user: &User<'_>) -> String {
    format!(
        "WITH RECURSIVE reach(oid) AS (SELECT {}::oid UNION SELECT m.roleid FROM reach \
         CROSS JOIN LATERAL (SELECT roleid FROM pg_auth_members WHERE member = reach.oid OFFSET 0) m)",
        user.oid
    )
}

/// Whether the user could act as somebody who makes roles, or who owns routines that are younger than the user: asked of
/// every user that is in a group, so it reads no table as a whole.
fn first_question(user: &User<'_>) -> String {
    format!(
        "{} SELECT bool_or((SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles r WHERE r.oid = reach.oid) \
         OR reach.oid <> {oid} AND (SELECT true FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass \
           AND s.refobjid = reach.oid AND s.classid = 'pg_proc'::regclass AND s.deptype = 'o' AND s.objid > {oid} \
           LIMIT 1) IS NOT NULL)::text FROM reach",
        reach(user),
        oid = user.oid
    )
}

fn question(user: &User<'_>, knows_grantors: bool) -> String {
    let oid = user.oid;
    // From PostgreSQL 16 on, who makes a role gets a membership from the first superuser that allows nothing but to
    // administer it, and cannot take it away. The row is read as JSON because older servers have not all its columns.
    let maker = "m.admin_option AND m.grantor = 10 AND to_jsonb(m)->>'set_option' = 'false' \
                 AND to_jsonb(m)->>'inherit_option' = 'false'";
    // Before, all that is known is that a role is younger than the user.
    let suspect = if knows_grantors {
        "((SELECT super FROM power) OR EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid \
         AND m.admin_option AND m.member IN (SELECT oid FROM reach)))"
    } else {
        "true"
    };
    format!(
        "{reach}, made(oid) AS (SELECT m.roleid FROM pg_auth_members m WHERE m.member = {oid} AND m.roleid > {oid} AND {maker} \
           UNION SELECT m.roleid FROM pg_auth_members m JOIN made ON m.member = made.oid WHERE {maker}), \
         power AS (SELECT bool_or(rolsuper) AS super, bool_or(rolsuper OR rolcreaterole) AS makes FROM pg_roles \
           WHERE oid IN (SELECT oid FROM reach)), \
         roles AS (SELECT r.rolname, r.oid IN (SELECT oid FROM made) AS certain, \
             shobj_description(r.oid, 'pg_authid') AS note FROM pg_roles r \
           WHERE (r.oid IN (SELECT oid FROM made) \
             OR (SELECT makes FROM power) AND r.oid > {oid} AND {suspect}) \
           AND (r.rolcanlogin OR r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls \
             OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid))), \
         databases AS (SELECT d.datname, d.datname = current_database() AS here, d.datallowconn FROM pg_database d \
           WHERE (SELECT super FROM power) AND d.datallowconn OR d.oid IN (SELECT s.dbid FROM pg_shdepend s \
             WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid IN (SELECT oid FROM reach WHERE oid <> {oid}) \
             AND s.classid = 'pg_proc'::regclass AND s.deptype = 'o' AND s.objid > {oid})) \
         SELECT json_build_object('all', (SELECT super FROM power), \
           'reach', (SELECT coalesce(json_agg(oid::bigint), '[]') FROM reach WHERE oid <> {oid}), \
           'roles', (SELECT coalesce(json_agg(json_build_array(rolname, certain, note) ORDER BY rolname), '[]') \
             FROM roles), \
           'note', shobj_description({oid}, 'pg_authid'), \
           'databases', (SELECT coalesce(json_agg(json_build_array(datname, here, datallowconn)), '[]') \
             FROM databases))::text",
        reach = reach(user),
    )
}

/// Of roles that nobody can say who made, those of the same mount are the engine's own and have an end of their own.
fn roles(view: &View, suspects: bool) -> Vec<Left> {
    let mount = |note: &Option<String>| note.as_deref().and_then(marker::read).map(|marker| marker.mount);
    let own = mount(&view.note);
    let counts = |(_, certain, note): &&(String, bool, Option<String>)| {
        *certain || suspects && (own.is_none() || mount(note) != own)
    };
    let left = |(name, certain, _): &(String, bool, Option<String>)| {
        let quoted = quoted_name(name);
        let reason = if *certain {
            format!("the user made it: DROP ROLE {quoted}, or accept it")
        } else {
            format!(
                "it is younger than the user, who could make roles, and the server does not say who made it: \
                 DROP ROLE {quoted}, or accept it"
            )
        };
        Left { database: String::new(), object: format!("role {quoted}"), reason }
    };
    view.roles.iter().filter(counts).map(left).collect()
}

/// Routines with their owner's rights, of owners that the user could act as, and younger than the user. Numbers of
/// objects grow; one that is changed keeps its number.
async fn routines(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    view: &View,
) -> Result<Vec<Left>, TargetError> {
    let owners = view.reach.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let whose = if view.all { "true".to_owned() } else { format!("p.proowner IN ({owners})") };
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(i.type, i.identity, p.proowner::regrole::text) ORDER BY i.identity)\
         ::text, '[]') FROM pg_proc p, pg_identify_object('pg_proc'::regclass, p.oid, 0) i \
         WHERE p.prosecdef AND p.oid > {oid} AND p.proowner <> {oid} AND {whose}",
        oid = user.oid
    );
    let mut left = Vec::new();
    for (database, here, connectable) in &view.databases {
        let seen: Result<Vec<(String, String, String)>, TargetError> = if *here {
            session.ask(&ask).await.map_err(TargetError::from)
        } else if *connectable {
            in_database(target, database, async |there| there.ask(&ask).await.map_err(TargetError::from)).await
        } else {
            Err(TargetError::Plan(super::no_connections(database)))
        };
        match seen {
            Ok(routines) => left.extend(routines.into_iter().map(|(kind, identity, owner)| Left {
                database: database.clone(),
                object: format!("{kind} {identity}"),
                reason: format!(
                    "SECURITY DEFINER, made while the user could act as its owner {owner}: drop it, ALTER it to \
                     SECURITY INVOKER, or accept it"
                ),
            })),
            Err(e) if *here => return Err(e),
            Err(e) => left.push(Left {
                database: database.clone(),
                object: "routines that may be SECURITY DEFINER".to_owned(),
                reason: format!("they cannot be looked at: {e}"),
            }),
        }
    }
    Ok(left)
}

/// Takes back the roles that the user gave to others: from PostgreSQL 16 on the server insists on it, before it forgets
/// who gave them.
pub async fn take_back(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<Vec<Left>, TargetError> {
    let ask = format!(
        "SELECT coalesce(json_agg(DISTINCT json_build_array(r.rolname, g.rolname)::jsonb)::text, '[]') \
         FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles g ON g.oid = m.member \
         WHERE m.grantor = {oid} AND m.member <> {oid}",
        oid = user.oid
    );
    let by = if session.knows_grantors() { format!(" GRANTED BY {} CASCADE", user.quoted()) } else { String::new() };
    let given: BTreeSet<(String, String)> = session.ask(&ask).await?;
    let mut left = Vec::new();
    for (role, member) in given {
        let (role, member) = (quoted_name(&role), quoted_name(&member));
        let sql = format!("REVOKE {role} FROM {member}{by}");
        if let Err(problem) = change(target, session, &sql).await {
            left.push(Left {
                database: String::new(),
                object: format!("membership of role {member} in role {role}"),
                reason: format!("the user gave it: {sql}; {}", TargetError::from(problem)),
            });
        }
    }
    Ok(left)
}
