//! What to end, how, and what it came to.

use std::time::Duration;

use super::Script;

/// What to end, and how.
#[derive(Debug)]
pub struct EndPlan {
    /// The user's name.
    pub username: String,
    /// Revocation statements; empty means the target's default clean-up.
    pub revocation: Script,
    /// What happens to sessions and objects.
    pub options: EndOptions,
}

/// How a user ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndOptions {
    /// What becomes of objects that the user owns.
    pub owned: Owned,
    /// What becomes of its open sessions.
    pub sessions: Sessions,
    /// Whether the end is looked at afterwards.
    pub verify: Verify,
}

/// What becomes of objects that a user owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Owned {
    /// They are somebody's data: they stay, and with them the user, barred, until somebody decides.
    #[default]
    Fail,
    /// They go with the user.
    Drop,
    /// They become another role's.
    Reassign(String),
}

/// What becomes of the open sessions of a user. No new one is let in, whatever this says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sessions {
    /// They are ended at once.
    #[default]
    Terminate,
    /// They are not touched, and the user goes as if there were none, as the built-in engine has it: what the user was
    /// granted by name is gone from them too.
    Keep,
    /// They may end by themselves for so long, counted from the call: who calls again passes what is left of it
    /// ([`Sessions::after`]). Meanwhile the user stays, barred, and with all that its sessions need.
    Grace(Duration),
}

impl Sessions {
    /// What is left of a grace, so long after it began. One that is used up ends the sessions.
    #[must_use]
    pub fn after(&self, elapsed: Duration) -> Self {
        match self {
            Self::Grace(grace) if *grace > elapsed => Self::Grace(*grace - elapsed),
            Self::Grace(_) => Self::Terminate,
            other => other.clone(),
        }
    }
}

/// Whether the target is looked at for what an end leaves: back doors that the user made before it, and the user itself
/// and its sessions after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Yes; what cannot be looked at counts as left, and so does what the user may have made where the target does not
    /// say who did.
    #[default]
    Required,
    /// Yes, as far as the account of the connection can see, and only what is certainly the user's.
    BestEffort,
    /// No. With this a user goes whatever it leaves behind.
    Off,
}

/// What ending a user came to. The user is contained in any case: no login, and no session but those that
/// [`Sessions`] allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// The user existed when we came.
    pub existed: bool,
    /// Sessions that were ended.
    pub sessions: u64,
    /// How long it took.
    pub took: Duration,
    /// What could not be cleaned up; empty if the end is verified. As long as there is something, the user is kept at
    /// the target where that is possible: ending it again looks again, and once nothing is left the user goes.
    pub left: Vec<Left>,
    /// Sessions are open that a [`Sessions::Grace`] allows (they are in `left`): the user has to be ended again after so
    /// long, or earlier.
    pub again: Option<Duration>,
}

/// Something of a user that is still there after its end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Left {
    /// The database it is in, empty for what belongs to the whole server.
    #[serde(default)]
    pub database: String,
    /// What it is, in the target's words: `table public.orders`, `role v-app-…`.
    pub object: String,
    /// Why it is still there, with what would mend it.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_that_is_used_up_ends_the_sessions() {
        let second = Duration::from_secs(1);
        let grace = Sessions::Grace(3 * second);
        assert_eq!(grace.after(second), Sessions::Grace(2 * second));
        assert_eq!(grace.after(3 * second), Sessions::Terminate);
        assert_eq!(grace.after(9 * second), Sessions::Terminate);
        assert_eq!(Sessions::Keep.after(second), Sessions::Keep);
    }
}
