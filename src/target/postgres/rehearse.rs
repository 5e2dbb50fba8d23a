//! Trying what a role says, in a transaction that is rolled back.

use super::mint::{self, joined};
use super::session::{PgSession, Problem};
use super::{Postgres, check_name, quoted_name, quoted_text, timestamp};
use crate::secret::Secret;
use crate::target::pool::{Checkout, Lane};
use crate::target::statement::Vars;
use crate::target::{Login, Rehearsal, TargetError};

/// Makes, renews and ends the user; nothing of it stays, whatever comes of it.
///
/// # Errors
/// Which step failed, and what the server said.
pub async fn rehearse(target: &Postgres, plan: &Rehearsal, login: Login<'_>) -> Result<(), TargetError> {
    check_name(&plan.mint.username)?;
    let mut session = target.session(Lane::Issue).await?;
    let tried = steps(target, &mut session, plan, login).await;
    // A session that cannot be rolled back is closed, which rolls it back.
    if session.roll_back().await && session.reset().await.is_ok() {
        session.give_back();
    }
    tried
}

async fn steps(
    target: &Postgres,
    session: &mut Checkout<PgSession>,
    plan: &Rehearsal,
    login: Login<'_>,
) -> Result<(), TargetError> {
    let named = |step: &'static str| {
        move |problem: Problem| {
            let told = match login.password() {
                Some(password) => mint::withheld(problem, password),
                None => problem,
            };
            match mint::explained(told, &plan.mint).into() {
                e if TargetError::is_outage(&e) => e,
                e => TargetError::Plan(format!("{step}: {e}")),
            }
        }
    };
    let name = quoted_name(&plan.mint.username);
    let messages = mint::messages(target, &plan.mint, login, session.knows_scram())?;
    let begin = session.begin();
    session.run(&begin).await?;
    for message in &messages {
        session.run_secret(message).await.map_err(named("creation_statements"))?;
    }

    let until = timestamp(plan.mint.expiration)?;
    let vars = Vars { expiration: Some(&until), ..Vars::name(&plan.mint.username) };
    let renewal = if plan.renew.is_empty() {
        vec![Secret::new(format!("ALTER ROLE {name} VALID UNTIL {}", quoted_text(&until)))]
    } else {
        joined(target, &plan.renew, &plan.renew.fill(&vars)?)?
    };
    for message in &renewal {
        session.run_secret(message).await.map_err(named("renew_statements"))?;
    }

    let ending = if plan.revocation.is_empty() {
        vec![Secret::new(format!("GRANT {name} TO CURRENT_USER;\nDROP OWNED BY {name};\nDROP ROLE {name}"))]
    } else {
        joined(target, &plan.revocation, &plan.revocation.fill(&Vars::name(&plan.mint.username))?)?
    };
    for message in &ending {
        session.run_secret(message).await.map_err(named("revocation_statements"))?;
    }
    // Statements that leave the role to us are finished here, as they are at a real end.
    let there = format!("SELECT 1 FROM pg_roles WHERE rolname = {}", quoted_text(&plan.mint.username));
    if session.run(&there).await?.is_some() {
        let drop = format!("DROP ROLE {name}");
        session.run(&drop).await.map_err(named("the role stays after its revocation_statements"))?;
    }
    Ok(())
}
