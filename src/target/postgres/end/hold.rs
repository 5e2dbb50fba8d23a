//! A user that has to stay for a while: nothing may come of that.

use super::{User, change};
use crate::target::TargetError;
use crate::target::postgres::session::{PgSession, Problem};
use crate::target::postgres::{Postgres, quoted_name};

/// Takes from a barred user what others could use through it: the rights of the roles that it is in, with which views
/// and routines of its own act, and the roles that may act as it. That it was in them is kept: it tells later what it
/// could have made. What grants it had is taken where the objects are.
///
/// What is refused stays as it was: the user is told as left in any case.
pub async fn hold(
    target: &Postgres,
    session: &mut PgSession,
    user: &User<'_>,
    disempower: bool,
) -> Result<(), TargetError> {
    let name = user.quoted();
    let mut statements = Vec::new();
    if disempower {
        statements.push(format!("ALTER ROLE {name} NOSUPERUSER"));
    }
    let (of, by) = if session.knows_grantors() {
        let ask = format!(
            "SELECT coalesce(json_agg(json_build_array(r.rolname, g.rolname))::text, '[]') FROM pg_auth_members m \
             JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles g ON g.oid = m.grantor \
             WHERE m.member = {} AND (to_jsonb(m)->>'inherit_option')::bool",
            user.oid
        );
        for (role, grantor) in session.ask::<Vec<(String, String)>>(&ask).await? {
            let (role, grantor) = (quoted_name(&role), quoted_name(&grantor));
            statements.push(format!("REVOKE INHERIT OPTION FOR {role} FROM {name} GRANTED BY {grantor}"));
        }
        // A membership that only administers is how the server knows who made the user.
        ("(to_jsonb(m)->>'inherit_option')::bool OR (to_jsonb(m)->>'set_option')::bool", true)
    } else {
        statements.push(format!("ALTER ROLE {name} NOINHERIT"));
        ("true", false)
    };
    let ask = format!(
        "SELECT coalesce(json_agg(json_build_array(r.rolname, coalesce(g.rolname, '')))::text, '[]') \
         FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member LEFT JOIN pg_roles g ON g.oid = m.grantor \
         WHERE m.roleid = {} AND r.rolname <> current_user AND ({of})",
        user.oid
    );
    for (member, grantor) in session.ask::<Vec<(String, String)>>(&ask).await? {
        let by = if by { format!(" GRANTED BY {} CASCADE", quoted_name(&grantor)) } else { String::new() };
        statements.push(format!("REVOKE {name} FROM {}{by}", quoted_name(&member)));
    }
    for statement in statements {
        match change(target, session, &statement).await {
            Ok(()) => {}
            Err(Problem::Server { message, code }) => {
                tracing::warn!(username = user.name, "a barred user keeps a right: {message} (SQLSTATE {code})");
            }
            Err(broken) => return Err(broken.into()),
        }
    }
    Ok(())
}
