//! What depends on a user, database by database: what it owns, and what it was granted.

use super::contain::{Found, join};
use super::{User, change, in_database, no_connections};
use crate::target::postgres::mint::SHARED_ROWS_LOCK;
use crate::target::postgres::session::{PgSession, Problem};
use crate::target::postgres::{Postgres, quoted_name, quoted_text};
use crate::target::{Left, Owned, TargetError};

/// So many objects are named in one database; of the others it is said how many they are.
const NAMED: usize = 100;

/// A database in which something depends on the user. What belongs to no database counts as of the session's own.
#[derive(serde::Deserialize)]
struct Place {
    name: String,
    /// The session is in it.
    here: bool,
    connectable: bool,
    /// How much depends on the user there.
    rows: u64,
}

/// Something that a user owns.
#[derive(serde::Deserialize)]
struct Object {
    kind: String,
    identity: String,
    /// SECURITY DEFINER.
    definer: bool,
    /// It reads, or is maintained, with the rights of its owner.
    acts: bool,
}

impl Object {
    fn text(&self) -> String {
        format!("{} {}", self.kind, self.identity)
    }
}

/// Cleans up after a user, in every database of the server. What cannot be cleaned is told; it is no error, and does not
/// keep the rest from being cleaned.
///
/// # Errors
/// If nothing can be told, as the session broke.
pub async fn clean(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    owned: &Owned,
) -> Result<Vec<Left>, TargetError> {
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_object('name', d.datname, 'here', d.datname = current_database(), \
           'connectable', d.datallowconn, 'rows', s.rows) ORDER BY d.datname = current_database(), d.datname)::text, '[]') \
         FROM (SELECT coalesce(nullif(dbid, 0), (SELECT oid FROM pg_database WHERE datname = current_database())) AS oid, \
           count(*) AS rows FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = {} GROUP BY 1) s \
         JOIN pg_database d ON d.oid = s.oid",
        user.oid
    );
    let places: Vec<Place> = session.ask(&ask).await?;
    let mut left = Vec::new();
    for place in places {
        let cleaned = if place.here {
            clean_in(target, session, user, owned, &place).await
        } else if place.connectable {
            in_database(target, &place.name, async |there| clean_in(target, there, user, owned, &place).await).await
        } else {
            Err(TargetError::Plan(no_connections(&place.name)))
        };
        match cleaned {
            Ok(of_place) => left.extend(of_place),
            // The session is needed for the rest.
            Err(e @ (TargetError::Lost(_) | TargetError::Timeout(_))) if place.here => return Err(e),
            Err(e) => left.push(Left {
                database: place.name,
                object: format!("{} dependencies of the user", place.rows),
                reason: e.to_string(),
            }),
        }
    }
    Ok(left)
}

async fn clean_in(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    owned: &Owned,
    place: &Place,
) -> Result<Vec<Left>, TargetError> {
    let objects = objects(session, user, place).await?;
    let mut left = match (owned, objects.is_empty()) {
        (_, true) => Vec::new(),
        (Owned::Fail, _) => named(&objects, place, owned_reason),
        (Owned::Drop, _) => drop_objects(target, session, user, place, &objects).await?,
        (Owned::Reassign(owner), _) => reassign(target, session, user, place, &objects, owner).await?,
    };
    if left.is_empty() {
        drop_grants(target, session, user).await?;
    } else {
        strip(target, session, user, place).await?;
    }
    left.extend(foreign_grants(target, session, user, place).await?);
    Ok(left)
}

fn owned_reason(object: &Object) -> String {
    let warning = match (object.definer, object.acts) {
        (true, _) => "; it is SECURITY DEFINER: whoever may run it acts as the user",
        (_, true) => "; it acts with the rights of the user",
        _ => "",
    };
    format!("the user owns it{warning}: drop it, give it another owner, or set owned_objects to drop or reassign")
}

/// The objects as they are told, the first of them by name.
fn named(objects: &[Object], place: &Place, reason: impl Fn(&Object) -> String) -> Vec<Left> {
    let left = |object, reason| Left { database: place.name.clone(), object, reason };
    let mut all: Vec<Left> = objects.iter().take(NAMED).map(|object| left(object.text(), reason(object))).collect();
    if let Some(last) = objects.get(NAMED) {
        all.push(left(format!("{} more objects", objects.len() - NAMED), reason(last)));
    }
    all
}

/// What the user owns. Default privileges and user mappings count as grants: they hold nobody's data and mean nothing
/// without the role.
async fn objects(session: &mut PgSession, user: &User<'_>, place: &Place) -> Result<Vec<Object>, TargetError> {
    let ask = format!(
        "SELECT coalesce(json_agg(o ORDER BY o.kind, o.identity)::text, '[]') FROM (SELECT i.type AS kind, i.identity, \
           s.classid = 'pg_proc'::regclass AND EXISTS (SELECT FROM pg_proc p WHERE p.oid = s.objid AND p.prosecdef) \
             AS definer, \
           s.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_class c WHERE c.oid = s.objid AND ( \
             c.relkind = 'm' OR c.relkind = 'v' AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) \
               WHERE option_name = 'security_invoker' AND option_value::bool) \
             OR c.relkind IN ('r', 'p') AND (c.relhasrules OR EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid \
               AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))))) AS acts \
         FROM pg_shdepend s, pg_identify_object(s.classid, s.objid, s.objsubid) i \
         WHERE {} AND i.identity IS NOT NULL) o",
        owned_here(user, place)
    );
    session.ask(&ask).await.map_err(TargetError::from)
}

/// The rows of `pg_shdepend` that speak of something owned here.
fn owned_here(user: &User<'_>, place: &Place) -> String {
    format!(
        "refclassid = 'pg_authid'::regclass AND refobjid = {} AND deptype = 'o' \
         AND classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) AND {}",
        user.oid,
        here(place)
    )
}

/// The rows of `pg_shdepend` of this database.
fn here(place: &Place) -> String {
    let shared = if place.here { "dbid = 0 OR " } else { "" };
    format!("({shared}dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))")
}

/// As [`change`]; an account that may not, makes itself one that acts as the user, and tries again.
async fn change_as(target: &Postgres, session: &mut PgSession, user: &User<'_>, sql: &str) -> Result<(), Problem> {
    match change(target, session, sql).await {
        Err(problem) if problem.has_code("42501") => {
            if join(target, session, user).await.is_err() {
                return Err(problem);
            }
            change(target, session, sql).await
        }
        other => other,
    }
}

/// Drops what the user owns, and nothing that others own.
async fn drop_objects(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    place: &Place,
    objects: &[Object],
) -> Result<Vec<Left>, TargetError> {
    let sql = format!("{SHARED_ROWS_LOCK};\nDROP OWNED BY {}", user.quoted());
    match change_as(target, session, user, &sql).await {
        Ok(()) => {}
        Err(Problem::Server { message, code }) => {
            let reason = format!("DROP OWNED: {message} (SQLSTATE {code}){}", hint(target, &code));
            return Ok(named(objects, place, |_| reason.clone()));
        }
        Err(broken) => return Err(broken.into()),
    }
    // Databases, tablespaces and subscriptions are nobody's to drop along with a user.
    let spared = self::objects(session, user, place).await?;
    Ok(named(&spared, place, |_| {
        "the user owns it, and DROP OWNED spares it: drop it, or give it another owner".to_owned()
    }))
}

/// Gives what the user owns to `owner`, but nothing with which the user would go on acting as the owner.
async fn reassign(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    place: &Place,
    objects: &[Object],
    owner: &str,
) -> Result<Vec<Left>, TargetError> {
    let ask = format!(
        "SELECT json_build_array(count(*) > 0, coalesce(bool_or(pg_has_role({}::oid, oid, 'MEMBER')), false))::text \
         FROM pg_roles WHERE rolname = {}",
        user.oid,
        quoted_text(owner)
    );
    let (exists, is_member): (bool, bool) = session.ask(&ask).await?;
    let owner = quoted_name(owner);
    if !exists {
        let reason = format!("owned_objects gives it to the role {owner}, which does not exist: CREATE ROLE {owner}");
        return Ok(named(objects, place, |_| reason.clone()));
    }
    let traps: Vec<&Object> = objects.iter().filter(|object| object.definer || object.acts && !is_member).collect();
    if !traps.is_empty() {
        let left = |object: &&Object| {
            let mend = match object {
                Object { definer: true, .. } => "it is SECURITY DEFINER: ALTER it to SECURITY INVOKER",
                _ => "it acts with its owner's rights, which the user had not: make the user a member of the new owner",
            };
            Left {
                database: place.name.clone(),
                object: object.text(),
                reason: format!(
                    "{mend}, drop it, or give it to {owner} yourself; until then nothing here is given away"
                ),
            }
        };
        return Ok(traps.iter().take(NAMED).map(left).collect());
    }
    let name = user.quoted();
    let sql = format!("{SHARED_ROWS_LOCK};\nREASSIGN OWNED BY {name} TO {owner}");
    match change_as(target, session, user, &sql).await {
        Ok(()) => Ok(Vec::new()),
        Err(Problem::Server { message, code }) => {
            let grant = format!("; GRANT {owner} TO {}", target.account());
            let hint = if code == "42501" { grant } else { hint(target, &code) };
            let reason = format!("REASSIGN OWNED TO {owner}: {message} (SQLSTATE {code}){hint}");
            Ok(named(objects, place, |_| reason.clone()))
        }
        Err(broken) => Err(broken.into()),
    }
}

fn hint(target: &Postgres, code: &str) -> String {
    match code {
        "42501" => format!("; let {} be a superuser, or drop it by hand", target.account()),
        "2BP01" => "; drop by hand what others made of it".to_owned(),
        "57014" | "55P03" => "; somebody holds a lock on it".to_owned(),
        _ => String::new(),
    }
}

/// Removes the grants of a role that owns nothing here.
async fn drop_grants(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<(), TargetError> {
    change_as(target, session, user, &dropping_grants(user)).await.map_err(TargetError::from)
}

/// Removes the grants of a role, and the role. On an error nothing has changed: it owns something, or has grants in other
/// databases or by others than the owners.
pub async fn drop_granted(target: &Postgres, session: &mut PgSession, user: &User<'_>) -> Result<(), Problem> {
    let sql = format!("{};\nDROP ROLE IF EXISTS {}", dropping_grants(user), user.quoted());
    change_as(target, session, user, &sql).await
}

/// The division fails, and with it the transaction, if the user owns something here: that would go as well.
fn dropping_grants(user: &User<'_>) -> String {
    let nothing_owned = format!(
        "SELECT 1 / (CASE WHEN EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
         AND refobjid = {} AND deptype = 'o' AND classid NOT IN ('pg_default_acl'::regclass, \
         'pg_user_mapping'::regclass) AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())) \
         THEN 0 ELSE 1 END)",
        user.oid
    );
    format!("{SHARED_ROWS_LOCK};\n{nothing_owned};\nDROP OWNED BY {}", user.quoted())
}

/// What the user was granted here, as the statements that take it away, each with who granted it.
async fn grants(session: &mut PgSession, user: &User<'_>, place: &Place) -> Result<Vec<Grant>, Problem> {
    let ask = format!(
        "WITH kinds(type, word) AS (VALUES ('table', 'TABLE'), ('view', 'TABLE'), ('materialized view', 'TABLE'), \
           ('foreign table', 'TABLE'), ('table column', 'TABLE'), ('view column', 'TABLE'), \
           ('materialized view column', 'TABLE'), ('foreign table column', 'TABLE'), \
           ('sequence', 'SEQUENCE'), ('function', 'FUNCTION'), ('aggregate', 'FUNCTION'), ('procedure', 'PROCEDURE'), \
           ('schema', 'SCHEMA'), ('database', 'DATABASE'), ('type', 'TYPE'), ('language', 'LANGUAGE'), \
           ('foreign-data wrapper', 'FOREIGN DATA WRAPPER'), ('server', 'FOREIGN SERVER'), \
           ('large object', 'LARGE OBJECT'), ('tablespace', 'TABLESPACE'), ('parameter ACL', 'PARAMETER')), \
         of_user AS (SELECT DISTINCT classid, objid FROM pg_shdepend s WHERE refclassid = 'pg_authid'::regclass \
           AND refobjid = {oid} AND deptype = 'a' AND {here}), \
         acls AS (SELECT classid, objid, CASE classid \
           WHEN 'pg_class'::regclass THEN (SELECT c.relacl || coalesce((SELECT array_agg(x) FROM pg_attribute a, \
             unnest(a.attacl) x WHERE a.attrelid = c.oid), '{{}}') FROM pg_class c WHERE c.oid = objid) \
           WHEN 'pg_proc'::regclass THEN (SELECT proacl FROM pg_proc p WHERE p.oid = objid) \
           WHEN 'pg_namespace'::regclass THEN (SELECT nspacl FROM pg_namespace n WHERE n.oid = objid) \
           WHEN 'pg_database'::regclass THEN (SELECT datacl FROM pg_database d WHERE d.oid = objid) \
           WHEN 'pg_type'::regclass THEN (SELECT typacl FROM pg_type t WHERE t.oid = objid) \
           WHEN 'pg_foreign_server'::regclass THEN (SELECT srvacl FROM pg_foreign_server f WHERE f.oid = objid) \
           END AS acl FROM of_user) \
         SELECT coalesce(json_agg(g ORDER BY g.object, g.grantor)::text, '[]') FROM ( \
           SELECT k.word || ' ' || CASE WHEN classid = 'pg_class'::regclass THEN \
             (pg_identify_object(classid, objid, 0)).identity ELSE i.identity END AS object, \
             (SELECT min(x.grantor::regrole::text) FROM aclexplode(acl) x WHERE x.grantee = {oid}) AS grantor \
           FROM acls, pg_identify_object(classid, objid, 0) i JOIN kinds k ON k.type = i.type) g",
        oid = user.oid,
        here = here(place),
    );
    session.ask(&ask).await
}

/// Something that the user may do with an object.
#[derive(serde::Deserialize)]
struct Grant {
    /// As `GRANT … ON` names it.
    object: String,
    /// The role that granted it, quoted; `None` where it was not looked up.
    grantor: Option<String>,
}

/// Takes from a user that stays what it was granted here. Objects that it owns and that act with its rights have no more
/// than these.
async fn strip(target: &Postgres, session: &mut PgSession, user: &User<'_>, place: &Place) -> Result<(), TargetError> {
    let name = user.quoted();
    let defaults = format!(
        "SELECT coalesce(json_agg('ALTER DEFAULT PRIVILEGES FOR ROLE ' || a.defaclrole::regrole || coalesce(' IN SCHEMA ' \
           || a.defaclnamespace::regnamespace, '') || ' REVOKE ALL ON ' || CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' \
           WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' END)::text, '[]') \
         FROM pg_shdepend s JOIN (SELECT oid, defaclrole, nullif(defaclnamespace, 0) AS defaclnamespace, defaclobjtype \
           FROM pg_default_acl) a ON a.oid = s.objid \
         WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = {oid} AND s.deptype = 'a' \
         AND s.classid = 'pg_default_acl'::regclass AND {here}",
        oid = user.oid,
        here = here(place),
    );
    let mappings = format!(
        "SELECT coalesce(json_agg(format('DROP USER MAPPING IF EXISTS FOR %s SERVER %I', {user}::text, srvname))::text, \
         '[]') FROM pg_user_mappings WHERE umuser = {oid}",
        user = quoted_text(&name),
        oid = user.oid,
    );
    let mut statements: Vec<String> = Vec::new();
    for grant in grants(session, user, place).await? {
        statements.push(format!("REVOKE ALL ON {} FROM {name} CASCADE", grant.object));
    }
    let revoked = |statement: Option<String>| statement.map(|statement| format!("{statement} FROM {name}"));
    statements.extend(session.ask::<Vec<Option<String>>>(&defaults).await?.into_iter().filter_map(revoked));
    statements.extend(session.ask::<Vec<String>>(&mappings).await?);
    if statements.is_empty() {
        return Ok(());
    }
    let all = format!("{SHARED_ROWS_LOCK};\n{}", statements.join(";\n"));
    match change(target, session, &all).await {
        // Each by itself: one that is refused shall not keep the others. What stays is told by `foreign_grants`.
        Err(Problem::Server { .. }) => {
            for statement in statements {
                match change(target, session, &format!("{SHARED_ROWS_LOCK};\n{statement}")).await {
                    Ok(()) => {}
                    Err(Problem::Server { message, .. }) => tracing::debug!(username = user.name, "{message}"),
                    Err(broken) => return Err(broken.into()),
                }
            }
            Ok(())
        }
        other => other.map_err(TargetError::from),
    }
}

/// Grants that are still there: the server takes away only what the owner of the object gave. Those of others are taken
/// away in their names.
async fn foreign_grants(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    place: &Place,
) -> Result<Vec<Left>, TargetError> {
    let mut left = Vec::new();
    for round in 0_u8.. {
        let grants = grants(session, user, place).await?;
        // An object may have been granted by several; each round ends the grants of one of them.
        if grants.is_empty() || round > 8 || !left.is_empty() {
            break;
        }
        for Grant { object, grantor } in grants {
            let revoke = format!("REVOKE ALL ON {object} FROM {} CASCADE", user.quoted());
            let grantor = grantor.unwrap_or_else(|| "NONE".to_owned());
            let sql = format!("{SHARED_ROWS_LOCK};\nSET LOCAL ROLE {grantor};\n{revoke}");
            match change(target, session, &sql).await {
                Ok(()) => {}
                Err(Problem::Server { message, code }) => left.push(Left {
                    database: place.name.clone(),
                    object: format!("privileges on {object}"),
                    reason: format!(
                        "{grantor} granted them: {message} (SQLSTATE {code}); GRANT {grantor} TO {}, or {revoke}",
                        target.account()
                    ),
                }),
                Err(broken) => return Err(broken.into()),
            }
        }
    }
    Ok(left)
}

/// Transactions of the user that wait for a COMMIT PREPARED: whoever may commit them acts as the user once more.
pub async fn prepared(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    found: &Found,
    owned: &Owned,
) -> Result<Vec<Left>, TargetError> {
    if !found.prepared {
        return Ok(Vec::new());
    }
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(d.datname, x.gid, d.datname = current_database()) ORDER BY x.gid)::text, \
         '[]') FROM pg_prepared_xact() x JOIN pg_database d ON d.oid = x.dbid WHERE x.ownerid = {}",
        user.oid
    );
    let waiting: Vec<(String, String, bool)> = session.ask(&ask).await?;
    let mut left = Vec::new();
    for (database, gid, here) in waiting {
        let roll_back = format!("ROLLBACK PREPARED {}", quoted_text(&gid));
        let rolled_back = match owned {
            Owned::Drop if here => session.run(&roll_back).await.map(drop).map_err(TargetError::from),
            Owned::Drop => {
                in_database(target, &database, async |there| {
                    there.run(&roll_back).await.map(drop).map_err(TargetError::from)
                })
                .await
            }
            _ => Err(TargetError::Plan("it waits for its end".to_owned())),
        };
        match rolled_back {
            Ok(()) => {}
            Err(e @ (TargetError::Lost(_) | TargetError::Timeout(_))) if here => return Err(e),
            Err(e) => left.push(Left {
                database,
                object: format!("prepared transaction {}", quoted_text(&gid)),
                reason: format!("{e}; {roll_back}, or COMMIT PREPARED"),
            }),
        }
    }
    Ok(left)
}

/// What still depends on the user, when the server refuses to drop it.
pub async fn dependent(session: &mut PgSession, user: &User<'_>) -> Result<Vec<Left>, TargetError> {
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(coalesce(d.datname, ''), CASE WHEN s.dbid = 0 OR d.datname = \
           current_database() THEN coalesce(pg_describe_object(s.classid, s.objid, s.objsubid), 'an object') \
           ELSE 'an object' END, s.deptype = 'o'))::text, '[]') \
         FROM (SELECT * FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = {} LIMIT {NAMED}) s \
         LEFT JOIN pg_database d ON d.oid = s.dbid",
        user.oid
    );
    let rows: Vec<(String, String, bool)> = session.ask(&ask).await?;
    let left = |(database, object, owned): (String, String, bool)| Left {
        database,
        object: if owned { object } else { format!("privileges for {object}") },
        reason: "it depends on the user, and could not be cleaned up".to_owned(),
    };
    Ok(rows.into_iter().map(left).collect())
}
