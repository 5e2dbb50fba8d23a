//! Views, routines, triggers and events that name a user as their definer. Unless they were made to run as whoever calls
//! them, they run with the definer's rights for as long as it is there, and fail once it is gone.

use super::account::{Account, Accounts, account, literal};
use super::session::{Fault, Session};

/// So many objects of one kind are named; of the others it is said that there are more.
const NAMED: usize = 100;

/// Something that a user defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defined {
    /// `VIEW`, `PROCEDURE`, `FUNCTION`, `TRIGGER`, `EVENT`.
    pub kind: String,
    /// The database it is in.
    pub schema: String,
    /// Its name there.
    pub name: String,
}

impl Defined {
    /// `view seen`.
    pub fn text(&self) -> String {
        format!("{} {}", self.kind.to_ascii_lowercase(), self.name)
    }

    /// The statement that removes it.
    pub fn drop_statement(&self) -> String {
        format!("DROP {} IF EXISTS {}.{}", self.kind, quoted(&self.schema), quoted(&self.name))
    }
}

/// `` `name` ``.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

impl Session {
    /// True if the accounts may have made objects that run as their definer, so that it is worth looking for them:
    /// that means reading the definition of every view. False if it cannot be told.
    pub async fn may_define(&mut self, username: &str, accounts: &Accounts) -> bool {
        for Account { host, .. } in &accounts.list {
            let rows = self.rows(&format!("SHOW GRANTS FOR {}", account(username, host))).await.unwrap_or_default();
            for grant in rows.into_iter().flatten().flatten() {
                let upper = grant.to_ascii_uppercase();
                let privileges = upper.split(" ON ").next().unwrap_or_default();
                let defines = ["ALL PRIVILEGES", "CREATE VIEW", "CREATE ROUTINE", "TRIGGER", "EVENT"];
                // A role: what it may do is not said here.
                let role = !upper.contains(" ON ");
                if role || defines.iter().any(|privilege| privileges.contains(privilege)) {
                    return true;
                }
            }
        }
        false
    }

    /// What a user defined, as far as the admin user may see it, whether the user is still there or not.
    pub async fn defined_by(&mut self, username: &str) -> Result<Vec<Defined>, Fault> {
        // A host holds no `@`, so that what comes before the last one is the name.
        let prefix = format!("{username}@");
        let definer = format!("LEFT(DEFINER, {}) = {}", prefix.chars().count(), literal(&prefix));
        let kinds = [
            ("ROUTINE_TYPE", "ROUTINE_SCHEMA", "ROUTINE_NAME", "ROUTINES"),
            ("'VIEW'", "TABLE_SCHEMA", "TABLE_NAME", "VIEWS"),
            ("'TRIGGER'", "TRIGGER_SCHEMA", "TRIGGER_NAME", "TRIGGERS"),
            ("'EVENT'", "EVENT_SCHEMA", "EVENT_NAME", "EVENTS"),
        ];
        let mut found = Vec::new();
        for (kind, schema, name, table) in kinds {
            let ask = format!(
                "SELECT {kind}, {schema}, {name}, DEFINER FROM information_schema.{table} WHERE {definer} \
                 ORDER BY 1, 2, 3 LIMIT {NAMED}"
            );
            for row in self.rows(&ask).await? {
                if let [Some(kind), Some(schema), Some(name), Some(definer)] = row.as_slice()
                    // The server compares without regard to case.
                    && definer.rsplit_once('@').is_some_and(|(user, _)| user == username)
                {
                    found.push(Defined { kind: kind.clone(), schema: schema.clone(), name: name.clone() });
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_quoted() {
        let view = Defined { kind: "VIEW".into(), schema: "a`b".into(), name: "c d".into() };
        assert_eq!(view.drop_statement(), "DROP VIEW IF EXISTS `a``b`.`c d`");
        assert_eq!(view.text(), "view c d");
    }
}
