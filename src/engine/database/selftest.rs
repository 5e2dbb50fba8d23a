//! `selftest/:role`: all of a gated role at once. A credential that nobody gets goes the whole way, by the same code as any
//! other: filed, approved (by being a drill), made, used for a login, ended, looked for; and its chain is in the record.

use std::time::Duration;

use serde_json::{Value, json};

use super::connection::Connection;
use super::creds::{self, Issued};
use super::role::Role;
use crate::engine::access::{drill, verbs};
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::issue::{self, Permit};
use crate::engine::lease::{MountTerms, Terms};
use crate::engine::request::{Datum, Reply, Request};
use crate::engine::{Mount, evidence, transit};
use crate::secret::Secret;
use crate::target::LoginError;

/// What a login came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Shut,
    /// From here nobody can tell: a user may be for clients elsewhere, or log in by something else than a password.
    Unseen,
}

impl Door {
    async fn of(connection: &Connection, username: &str, password: Option<&Secret>) -> Self {
        let Some(password) = password else { return Self::Unseen };
        match connection.target.login(username, password).await {
            Ok(()) => Self::Open,
            Err(LoginError::Refused(_)) => Self::Shut,
            Err(LoginError::Barred(_) | LoginError::Unreachable(_)) => Self::Unseen,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Shut => "shut",
            Self::Unseen => "unseen",
        }
    }
}

/// How long a part took.
struct Watch<'a> {
    mount: &'a Mount,
    begun: Duration,
}

impl<'a> Watch<'a> {
    fn start(mount: &'a Mount) -> Self {
        Self { mount, begun: mount.ports.clock.steady() }
    }

    fn milliseconds(&self) -> Value {
        let took = self.mount.ports.clock.steady().saturating_sub(self.begun);
        json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
    }
}

/// POST `selftest/:role`.
pub async fn run(mount: &Mount, name: &str, input: &Input, source: &Request) -> Reply {
    mount.refuse_on_standby().await?;
    let role = Role::load(mount, name).await?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    let gate = verbs::gate_of(mount, name).await?;
    let connection = creds::allowed(mount, name, &role.db_name).await?;
    creds::fits(&role, &connection)?;
    let terms = Terms::of(&role, MountTerms::ask(mount).await?);
    let params = input.pairs("params").cloned().unwrap_or_default();
    let whole = Watch::start(mount);
    let mut permit = issue::drill(mount, name, &gate, source, params, terms.at_issue(mount.stamp())).await?;
    let id = permit.grant_id().to_owned();
    let tried = used(mount, name, &role, &connection, &mut permit).await;
    let ending = Watch::start(mount);
    // Whatever came of it. The permit is still ours: nobody else looks at the request meanwhile.
    let ended = drill::end(mount, name, &id).await;
    let end_took = ending.milliseconds();
    let failed = |e: Error| Error::Failed(format!("the self-test of {name:?} failed, see evidence/chain/{id}: {e}"));
    let Used { issued, door, mint_took, login_took } = match (tried, &ended) {
        (Ok(used), Ok(())) => used,
        (Ok(used), Err(_)) => {
            transit::lost(mount, &used.issued.underway);
            return Err(failed(ended.err().unwrap_or(Error::UnsupportedOperation)));
        }
        (Err(e), _) => return Err(failed(e)),
    };
    transit::arrived(mount, &issued.underway);
    let username = issued.plan.username.as_str();
    let looking = Watch::start(mount);
    let left = connection.target.present(std::slice::from_ref(&issued.plan.username)).await;
    let left = left.map_err(|e| failed(Error::Failed(e.to_string())))?;
    let after = Door::of(&connection, username, issued.made.login().password()).await;
    let look_took = looking.milliseconds();
    drop(permit);

    let mut answer = evidence::answer::chain(mount, &id)
        .await?
        .ok_or_else(|| failed(Error::Failed("the request is not there any more".into())))?;
    let data = answer.data.get_or_insert_default();
    let complete =
        data.iter().any(|(key, value)| key == "complete" && matches!(value, Datum::Plain(Value::Bool(true))));
    let gone = left.is_empty() && after != Door::Open;
    for (key, value) in [
        ("passed", json!(complete && gone && door != Door::Shut)),
        ("username", json!(username)),
        ("login", json!(door.name())),
        ("login_afterwards", json!(after.name())),
        ("gone", json!(gone)),
        (
            "milliseconds",
            json!({
                "mint": mint_took, "login": login_took, "end": end_took, "look_again": look_took,
                "all": whole.milliseconds(),
            }),
        ),
    ] {
        data.push((key.to_owned(), Datum::Plain(value)));
    }
    if door == Door::Unseen {
        answer.warnings.push("nobody could try from here whether the user can log in".into());
    }
    Ok(Some(answer))
}

/// A user that was made and has logged in.
struct Used {
    issued: Issued,
    door: Door,
    mint_took: Value,
    login_took: Value,
}

async fn used(
    mount: &Mount,
    name: &str,
    role: &Role,
    connection: &Connection,
    permit: &mut Permit,
) -> Result<Used, Error> {
    let minting = Watch::start(mount);
    let issued = creds::issue(mount, name, role, connection, permit).await?;
    let mint_took = minting.milliseconds();
    let login = Watch::start(mount);
    let door = Door::of(connection, &issued.plan.username, issued.made.login().password()).await;
    Ok(Used { issued, door, mint_took, login_took: login.milliseconds() })
}
