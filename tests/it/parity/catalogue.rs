//! What a request changed in the database: the users it made, changed and removed, with all they may do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::postgres::Postgres;

/// Every role that is not in the list, as one JSON object by object id. Comments are left out on purpose: ours are an
/// addition that nothing reads back.
const ROLES: &str = r#"
SELECT coalesce(jsonb_object_agg(r.oid::text, jsonb_build_object(
  'name', r.rolname,
  'login', r.rolcanlogin, 'superuser', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole,
  'createdb', r.rolcreatedb, 'replication', r.rolreplication, 'connections', r.rolconnlimit,
  'verifier', regexp_replace(r.rolpassword, ':.*', ''),
  'until', CASE WHEN isfinite(r.rolvaliduntil) THEN to_jsonb(extract(epoch FROM r.rolvaliduntil)::bigint)
           ELSE to_jsonb(r.rolvaliduntil::text) END,
  'settings', (SELECT jsonb_agg(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid),
  'member_of', (SELECT jsonb_agg(g.rolname ORDER BY g.rolname)
                FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid),
  'grants', (SELECT jsonb_agg(g.text ORDER BY g.text) FROM (
      SELECT c.relkind::text || ' ' || c.oid::regclass || ' ' || a.privilege_type AS text
        FROM pg_class c, aclexplode(c.relacl) a WHERE a.grantee = r.oid
      UNION ALL SELECT 'column ' || c.attrelid::regclass || '.' || c.attname || ' ' || a.privilege_type
        FROM pg_attribute c, aclexplode(c.attacl) a WHERE a.grantee = r.oid
      UNION ALL SELECT 'schema ' || n.oid::regnamespace || ' ' || a.privilege_type
        FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee = r.oid
      UNION ALL SELECT 'function ' || p.oid::regprocedure || ' ' || a.privilege_type
        FROM pg_proc p, aclexplode(p.proacl) a WHERE a.grantee = r.oid
      UNION ALL SELECT 'database ' || d.datname || ' ' || a.privilege_type
        FROM pg_database d, aclexplode(d.datacl) a WHERE a.grantee = r.oid
      UNION ALL SELECT 'default ' || d.defaclobjtype::text || ' ' || a.privilege_type
        FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE a.grantee = r.oid) g),
  'dependencies', (SELECT jsonb_agg(d.text ORDER BY d.text) FROM (
      SELECT format('%s %s in %s: %s', s.deptype, s.classid::regclass,
                    coalesce((SELECT datname FROM pg_database b WHERE b.oid = s.dbid), 'shared'), count(*)) AS text
        FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
       GROUP BY s.deptype, s.classid, s.dbid) d)
)), '{}') FROM pg_authid r WHERE r.oid >= 16384 AND r.rolname <> ALL (string_to_array('$KNOWN', ','));
"#;

/// The generated users of one database.
pub struct Catalogue {
    query: String,
    roles: BTreeMap<u64, Value>,
}

impl Catalogue {
    /// Takes what is there now as given.
    pub fn new(postgres: &Postgres) -> Catalogue {
        let known = postgres.sql("SELECT string_agg(rolname, ',') FROM pg_authid WHERE oid >= 16384");
        Catalogue { query: ROLES.replace("$KNOWN", &known), roles: BTreeMap::new() }
    }

    /// What has changed since the last call; `Null` if nothing has. The user `touched` counts as changed in any case: a
    /// renewal in the second of the mint moves its end by nothing.
    pub fn changes(&mut self, postgres: &Postgres, touched: &str) -> Value {
        let now = self.read(postgres);
        let before = std::mem::replace(&mut self.roles, now);
        let show = |role: &Value| {
            let mut role = role.clone();
            if let Some(until) = role["until"].as_i64() {
                let now = jiff::Timestamp::now().as_second();
                role["until"] = json!({ "valid_for": until - now });
            }
            role
        };
        let mut changes = json!({});
        let mut note = |what: &str, role: &Value| match &mut changes[what] {
            Value::Array(list) => list.push(show(role)),
            empty => *empty = json!([show(role)]),
        };
        for (oid, role) in &self.roles {
            match before.get(oid) {
                None => note("created", role),
                Some(old) if old != role || role["name"] == touched => note("changed", role),
                Some(_) => {}
            }
        }
        for (_, role) in before.iter().filter(|(oid, _)| !self.roles.contains_key(oid)) {
            note("removed", &role["name"]);
        }
        if changes == json!({}) { Value::Null } else { changes }
    }

    fn read(&self, postgres: &Postgres) -> BTreeMap<u64, Value> {
        let Value::Object(roles) = postgres.json(&self.query) else { panic!("not an object") };
        roles.into_iter().map(|(oid, role)| (oid.parse().unwrap(), role)).collect()
    }
}
