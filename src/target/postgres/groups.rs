//! Users that have what groups have, and nothing of their own: no grant on any object, so that nothing is written that two
//! users share, and all that there is of the user goes with its role.

use super::{Postgres, quoted_name, quoted_text};
use crate::secret::Secret;
use crate::target::pool::Lane;
use crate::target::{Capability, Need, TargetError};

/// The statement that makes a member of `groups`. No text of an operator is in it but for their names, which are quoted as
/// they are: what looks like a variable in them is none.
///
/// `password` is the text or the verifier; `None` for who logs in by a certificate.
pub fn creation(username: &str, password: Option<&Secret>, expiration: &str, groups: &[String]) -> Secret {
    let groups: Vec<String> = groups.iter().map(|group| quoted_name(group)).collect();
    let (password, keyword) = match password {
        Some(password) => (quoted_text(password.expose()), " PASSWORD "),
        None => (String::new(), ""),
    };
    let password = Secret::new(password);
    let (name, until, groups) = (quoted_name(username), quoted_text(expiration), groups.join(", "));
    Secret::new(format!("CREATE ROLE {name} LOGIN{keyword}{} VALID UNTIL {until} IN ROLE {groups}", password.expose()))
}

/// Which of the groups there are, and whether the account may make users members of them.
pub async fn check(target: &Postgres, names: &[String]) -> Result<Vec<Capability>, TargetError> {
    let mut session = target.session(Lane::Issue).await?;
    let list: Vec<String> = names.iter().map(|name| quoted_text(name)).collect();
    // Before PostgreSQL 16 who makes roles may grant any but those of superusers; since, only with ADMIN OPTION.
    let makers = if session.knows_grantors() { "false" } else { "a.rolcreaterole AND NOT g.rolsuper" };
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(g.rolname, g.oid = a.oid, a.rolsuper OR {makers} \
           OR pg_has_role(a.oid, g.oid, 'MEMBER WITH ADMIN OPTION')))::text, '[]') \
         FROM pg_roles g, pg_roles a WHERE a.rolname = current_user AND g.rolname IN ({})",
        list.join(", ")
    );
    let known: Vec<(String, bool, bool)> = session.ask(&ask).await?;
    session.give_back();
    let account = target.account();
    let judged = names.iter().map(|name| {
        let group = quoted_name(name);
        let (granted, fix) = match known.iter().find(|(known, ..)| known == name) {
            None => (false, format!("CREATE ROLE {group} NOLOGIN, and grant it what its members need")),
            Some((_, true, _)) => {
                (false, format!("name another group than {group}, the account of the connection itself"))
            }
            Some((_, false, may)) => (*may, format!("GRANT {group} TO {account} WITH ADMIN OPTION")),
        };
        Capability { need: Need::GrantGroups, granted, required: true, fix }
    });
    Ok(judged.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::statement::{Dialect, Script};

    fn groups(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_member_is_made_by_one_statement() {
        let password = Secret::new("it's".into());
        let made = creation("v-x", Some(&password), "2030-01-01 00:00:00+0000", &groups(&["app", "Read Only"]));
        assert_eq!(
            made.expose(),
            "CREATE ROLE \"v-x\" LOGIN PASSWORD 'it''s' VALID UNTIL '2030-01-01 00:00:00+0000' IN ROLE \"app\", \"Read Only\""
        );
        let made = creation("v-x", None, "infinity", &groups(&["app"]));
        assert_eq!(made.expose(), "CREATE ROLE \"v-x\" LOGIN VALID UNTIL 'infinity' IN ROLE \"app\"");
    }

    proptest! {
        /// Whatever a group is called, there is one statement, and the name is in it as it is.
        #[test]
        fn no_name_leaves_its_quotes(name in "[^\0]{1,40}", other in r#"["';{}n \\$-]{1,8}"#) {
            let made = creation("v-x", None, "infinity", &groups(&[&name, &other]));
            let script = Script::parse(&[made.expose().to_owned()], Dialect::Postgres);
            prop_assert_eq!(script.statements().len(), 1);
            prop_assert!(script.statements()[0].is_closed());
            let expected = format!("IN ROLE {}, {}", quoted_name(&name), quoted_name(&other));
            prop_assert!(made.expose().ends_with(&expected));
        }
    }
}
