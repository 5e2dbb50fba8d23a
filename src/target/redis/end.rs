//! Ending a user: off, no session, no user, written down, looked at again. The server ends what sessions are left along
//! with the user.

use std::time::Instant;

use super::node::Node;
use super::settings::Persistence;
use super::{Core, TargetError};
use crate::target::pool::Lane;
use crate::target::{EndOptions, Ended, Left, Sessions};

/// Ends the user. Every step can be repeated.
pub async fn end(core: &Core, username: &str, options: &EndOptions) -> Result<Ended, TargetError> {
    let begun = Instant::now();
    let mut session = core.session(Lane::End).await?;
    let mut ended = Ended { existed: session.knows(username).await?, ..Ended::default() };
    if ended.existed {
        session.set_user(username, &["off"]).await?;
        if wait(&mut session, username, options, &mut ended).await? {
            write_down(core, &mut session, &mut ended).await?;
            session.give_back();
            return Ok(Ended { took: begun.elapsed(), ..ended });
        }
        ended.sessions = session.end_sessions(username).await?;
        session.delete_user(username).await?;
    }
    // Also without a user: the one that removed it may have been stopped before this.
    write_down(core, &mut session, &mut ended).await?;
    if session.knows(username).await? {
        return Err(TargetError::Plan(format!("the user {username:?} came back")));
    }
    session.give_back();
    Ok(Ended { took: begun.elapsed(), ..ended })
}

/// True if the user has sessions that may go on: the server ends those of a user that it deletes, so the user waits for
/// them, off.
async fn wait(
    session: &mut Node,
    username: &str,
    options: &EndOptions,
    ended: &mut Ended,
) -> Result<bool, TargetError> {
    let (again, reason) = match options.sessions {
        Sessions::Keep => (None, "it may go on; the server would end it along with the user"),
        Sessions::Grace(grace) if !grace.is_zero() => (Some(grace), "it may go on for the time of grace"),
        _ => return Ok(false),
    };
    let open = session.sessions_of(username).await?;
    if open.is_empty() {
        return Ok(false);
    }
    ended.again = again;
    let left = |id| Left { database: String::new(), object: format!("session {id}"), reason: reason.to_owned() };
    ended.left = open.into_iter().map(left).collect();
    Ok(true)
}

/// A user that is not written down as gone, or as off, comes back with the next start of the server.
async fn write_down(core: &Core, session: &mut Node, ended: &mut Ended) -> Result<(), TargetError> {
    let command = match core.settings.persistence {
        Persistence::None => return Ok(()),
        Persistence::AclFile => "+acl|save",
        Persistence::Rewrite => "+config|rewrite",
    };
    match session.persist(core.settings.persistence).await {
        Ok(()) => Ok(()),
        Err(e @ TargetError::Answer { .. }) => {
            ended.left.push(Left {
                database: String::new(),
                object: "the server's list of users on disk".to_owned(),
                reason: format!(
                    "it could not be written, and brings the user back with the next start: {e}; {command} is needed, \
                     and a persistence_mode that the server can do"
                ),
            });
            Ok(())
        }
        Err(e) => Err(e),
    }
}
