//! What the account of the connection can do.

use super::account::account;
use super::{Core, TargetError};
use crate::target::pool::Lane;
use crate::target::{Capability, EndOptions, Need, Owned, Sessions, Verify};

/// Asks for the account's own grants; nothing is tried.
pub async fn check(core: &Core, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
    let mut session = core.session(Lane::Issue).await?;
    let asked = async {
        let who = session.rows("SELECT CURRENT_USER()").await?;
        // MySQL names the roles of an account, and what they grant only if it is asked for them.
        let roles = if session.server.mariadb {
            Vec::new()
        } else {
            session.rows("SELECT CURRENT_ROLE()").await.unwrap_or_default()
        };
        let using = match first(roles) {
            Some(roles) if roles != "NONE" => format!(" FOR CURRENT_USER() USING {roles}"),
            _ => String::new(),
        };
        let grants = session.rows(&format!("SHOW GRANTS{using}")).await?;
        // Amazon's managed servers; whoever sees it may call it.
        let kill =
            "SELECT 1 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'mysql' AND ROUTINE_NAME = 'rds_kill'";
        let procedure = !session.rows(kill).await?.is_empty();
        Ok::<_, super::session::Fault>((first(who).unwrap_or_default(), grants, procedure))
    };
    let (who, rows, procedure) = asked.await?;
    let admin = session.server.connection_admin();
    session.give_back();
    let grants: Vec<Grant> = rows.into_iter().flatten().flatten().filter_map(|line| Grant::read(&line)).collect();
    let (user, host) = who.rsplit_once('@').unwrap_or((&who, "%"));
    Ok(capabilities(&grants, &account(user, host), procedure, admin, options))
}

fn first(rows: Vec<Vec<Option<String>>>) -> Option<String> {
    rows.into_iter().flatten().flatten().next()
}

/// One line of `SHOW GRANTS`, in upper case.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    privileges: Vec<String>,
    /// `*.*`, `MYSQL.*`, `MYSQL.USER`, `PROCEDURE MYSQL.RDS_KILL`.
    on: String,
}

impl Grant {
    /// `None` for a role.
    fn read(line: &str) -> Option<Self> {
        let line = line.to_ascii_uppercase();
        let (privileges, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
        let on = rest.split(" TO ").next()?.replace('`', "");
        // Columns, too, stand between commas; nothing here asks for them.
        let privileges = privileges.split(',').map(|privilege| privilege.trim().replace('_', " ")).collect();
        Some(Self { privileges, on })
    }

    fn gives(&self, privilege: &str) -> bool {
        self.privileges.iter().any(|given| given == privilege || given == "ALL PRIVILEGES" || given == "ALL")
    }
}

/// `procedure`: there is one that ends sessions; `admin`: the privilege to end them.
fn capabilities(
    grants: &[Grant],
    account: &str,
    procedure: bool,
    admin: &str,
    options: &EndOptions,
) -> Vec<Capability> {
    let on = |places: &[&str], privilege: &str| {
        grants.iter().any(|grant| places.contains(&grant.on.as_str()) && grant.gives(privilege))
    };
    let global = |privilege: &str| on(&["*.*"], privilege);
    let grant = |privileges: &str| format!("GRANT {privileges} ON *.* TO {account}");
    let ends = options.sessions != Sessions::Keep && options.verify == Verify::Required;
    let capability = |need, granted, required, fix| Capability { need, granted, required, fix };

    let kills = procedure || ["CONNECTION ADMIN", "SUPER"].into_iter().any(global);
    let mut all = vec![
        // Statements of a role may do it by a procedure that may.
        capability(Need::CreateUsers, global("CREATE USER"), false, grant("CREATE USER")),
        capability(Need::EndUsers, global("CREATE USER"), false, grant("CREATE USER")),
        capability(
            Need::SeeUsers,
            on(&["*.*", "MYSQL.*", "MYSQL.USER"], "SELECT"),
            false,
            format!("GRANT SELECT ON mysql.user TO {account}"),
        ),
        capability(Need::SeeSessions, global("PROCESS"), ends, grant("PROCESS")),
        capability(Need::EndSessions, kills, ends, grant(admin)),
        capability(
            Need::SeeObjects,
            ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"].into_iter().all(global),
            false,
            grant("SELECT, SHOW VIEW, TRIGGER, EVENT"),
        ),
    ];
    match options.owned {
        Owned::Fail => {}
        Owned::Drop => {
            let anywhere = |privilege: &str| grants.iter().any(|grant| grant.gives(privilege));
            let granted = ["DROP", "ALTER ROUTINE", "TRIGGER", "EVENT"].into_iter().all(anywhere);
            all.push(capability(Need::DropObjects, granted, true, grant("DROP, ALTER ROUTINE, TRIGGER, EVENT")));
        }
        Owned::Reassign(_) => all.push(capability(
            Need::ReassignObjects,
            false,
            true,
            "nothing here has an owner, and a definer cannot be changed: set owned_objects to fail or drop".to_owned(),
        )),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(lines: &[&str], options: &EndOptions) -> Vec<Need> {
        let grants: Vec<Grant> = lines.iter().filter_map(|line| Grant::read(line)).collect();
        let all = capabilities(&grants, "'a'@'%'", false, "CONNECTION_ADMIN", options);
        all.into_iter().filter(|capability| !capability.granted).map(|capability| capability.need).collect()
    }

    #[test]
    fn grants_as_the_servers_write_them() {
        let mariadb = [
            "GRANT `r` TO `a`@`%`",
            "GRANT SELECT, CREATE USER, PROCESS, CONNECTION ADMIN, SHOW VIEW, EVENT, TRIGGER ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*X'",
        ];
        assert_eq!(missing(&mariadb, &EndOptions::default()), []);
        let mysql = [
            "GRANT CREATE USER, PROCESS ON *.* TO `a`@`%`",
            "GRANT CONNECTION_ADMIN,ROLE_ADMIN ON *.* TO `a`@`%`",
            "GRANT SELECT ON `mysql`.`user` TO `a`@`%`",
        ];
        assert_eq!(missing(&mysql, &EndOptions::default()), [Need::SeeObjects]);
        let all = ["GRANT ALL PRIVILEGES ON *.* TO `a`@`%` WITH GRANT OPTION"];
        assert_eq!(missing(&all, &EndOptions { owned: Owned::Drop, ..EndOptions::default() }), []);
        let elsewhere = ["GRANT ALL PRIVILEGES ON `app`.* TO `a`@`%`"];
        assert_eq!(missing(&elsewhere, &EndOptions::default()).len(), 6);
    }
}
