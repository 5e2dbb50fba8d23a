//! PostgreSQL as both sides' database, and a second one that may be stopped.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{OpenSession, Site};
use crate::support::postgres::{Postgres, Session};

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
)), '{}') FROM pg_authid r WHERE r.oid >= 16384 ;
"#;

pub struct PostgreSql {
    main: Postgres,
    spare: Postgres,
}

impl PostgreSql {
    pub fn start(world: &str) -> PostgreSql {
        let site = PostgreSql { main: Postgres::start(), spare: Postgres::start() };
        site.main.sql(world);
        site
    }
}

impl Site for PostgreSql {
    fn placeholders(&self) -> Vec<(&'static str, String)> {
        vec![("{url}", self.main.url()), ("{port}", self.main.port().to_string()), ("{spare}", self.spare.url())]
    }

    fn run(&self, sql: &str) -> Result<String, String> {
        self.main.try_sql(sql)
    }

    fn login(&self, user: &str, password: &str) -> bool {
        self.main.login(user, password, "SELECT 1").is_ok()
    }

    fn session(&self, user: &str, password: &str) -> Box<dyn OpenSession> {
        Box::new(self.main.session(user, password))
    }

    fn has_user(&self, user: &str) -> bool {
        self.main.sql(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'")) != "0"
    }

    fn drop_user(&self, user: &str) {
        self.main.sql(&format!(
            "DO $$ DECLARE gone text; BEGIN \
             FOR gone IN SELECT rolname FROM pg_roles WHERE rolname = '{user}' LOOP \
             EXECUTE format('DROP OWNED BY %I; DROP ROLE %I', gone, gone); END LOOP; END $$"
        ));
    }

    fn users(&self, known: &[String]) -> BTreeMap<String, Value> {
        let Value::Object(users) = self.main.json(ROLES) else { panic!("not an object") };
        users.into_iter().filter(|(oid, _)| !known.contains(oid)).collect()
    }

    fn stop_spare(&mut self) {
        self.spare.stop();
    }

    fn start_spare(&mut self) {
        self.spare.start_again();
    }
}

impl OpenSession for Session {
    fn lives(&mut self) -> bool {
        self.one("SELECT 1").as_deref() == Some("1")
    }
}
