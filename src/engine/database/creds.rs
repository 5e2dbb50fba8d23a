//! `creds/:name`: from a role to a plan, and from a lease back to one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::connection::{Config, Connection};
use super::credential::CredentialType;
use super::role::Role;
use crate::engine::error::Error;
use crate::engine::issue::{self, Permit};
use crate::engine::lease::{MountTerms, Terms};
use crate::engine::request::{Datum, Fields, LeaseGrant, LeaseRef, Reply, Request, Response};
use crate::engine::template::{Names, OsEntropy};
use crate::engine::{Mount, end};
use crate::secret::Secret;
use crate::secret::password;
use crate::target::{EndPlan, Marker, MintPlan, RenewPlan, Script};

/// The server refuses the login this long after the lease's end: its clock and the host's may differ, and the host
/// needs a moment to renew. The built-in engine's own figure.
const LOGIN_GRACE: Duration = Duration::from_secs(5);

/// GET: mints a user for the caller.
pub async fn read(mount: &Mount, name: &str, request: &Request) -> Reply {
    // Each question is a round trip to the host: they are asked together, and what was answered is judged in turn.
    let (role, active, bounds) =
        tokio::join!(Role::load(mount, name), mount.refuse_on_standby(), MountTerms::ask(mount));
    let role = role?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    // Before anything is touched: a standby has no business at a target, and the host forwards when told so.
    active?;
    let connection = allowed(mount, name, &role.db_name).await?;
    if role.credential_type != CredentialType::Password {
        let kind = role.credential_type.name();
        return Err(Error::Refused(format!("unsupported credential_type: {kind:?}")));
    }
    if role.statements.creation.is_empty() {
        return Err(Error::Failed("empty creation statements".into()));
    }
    let terms = Terms::of(&role, bounds?);
    let permit = issue::authorize(mount, name, request, terms.at_issue(mount.ports.clock.now()))?;
    let password = password_for(mount, &role.credential_config, &connection.password_policy).await?;
    let plan = plan(mount, name, &role, &connection, &permit)?;
    issue::mint(&permit, connection.target.as_ref(), &plan, &password).await?;

    let internal = [
        ("username".to_owned(), json!(plan.username)),
        ("role".to_owned(), json!(name)),
        ("db_name".to_owned(), json!(role.db_name)),
        ("revocation_statements".to_owned(), json!(role.statements.revocation)),
        ("secret_type".to_owned(), json!("creds")),
    ];
    Ok(Some(Response {
        data: Some(vec![
            ("username".into(), Datum::Plain(json!(plan.username))),
            ("password".into(), Datum::Secret(password)),
        ]),
        lease: Some(LeaseGrant {
            ttl: role.default_ttl,
            max_ttl: role.max_ttl,
            internal: internal.into_iter().collect(),
        }),
        warnings: Vec::new(),
    }))
}

/// The connection of the role, if the role may use it.
pub(super) async fn allowed(mount: &Mount, name: &str, db_name: &str) -> Result<Arc<Connection>, Error> {
    let refused = || Error::Failed(format!("{name:?} is not an allowed role"));
    // A connection that would have to be opened is asked only once its configuration has said yes.
    if mount.connections.live(db_name).is_none()
        && Config::load(mount, db_name).await?.is_some_and(|config| !config.allows(name))
    {
        return Err(refused());
    }
    let connection = mount.connections.get(mount, db_name).await?;
    if connection.allows(name) { Ok(connection) } else { Err(refused()) }
}

/// By the policy of the role's `credential_config`, else the connection's, else the default generator.
pub(super) async fn password_for(mount: &Mount, config: &Fields, connection_policy: &str) -> Result<Secret, Error> {
    let own = config.get("password_policy").and_then(Value::as_str).unwrap_or_default();
    let policy = if own.is_empty() { connection_policy } else { own };
    if policy.is_empty() {
        return password::password().map_err(|e| Error::Failed(format!("failed to generate password: {e}")));
    }
    let made = mount.ports.host.generate_password(policy).await;
    made.map_err(|e| Error::Failed(format!("failed to generate password: {e}")))?
        .ok_or_else(|| Error::Failed("failed to generate password: no password policy found".into()))
}

/// What will run at the target. Pure but for the random part of the name.
fn plan(mount: &Mount, name: &str, role: &Role, connection: &Connection, permit: &Permit) -> Result<MintPlan, Error> {
    let names = Names { display_name: permit.display_name(), role_name: name };
    let username = connection
        .username
        .render(&names, &mut OsEntropy, mount.ports.clock.now())
        .map_err(|e| Error::Failed(format!("failed to generate username: {e}")))?;
    let dialect = connection.driver.dialect();
    Ok(MintPlan {
        creation: Script::parse(&role.statements.creation, dialect),
        rollback: Script::parse(&role.statements.rollback, dialect),
        expiration: permit.until() + LOGIN_GRACE,
        marker: Marker {
            mount: mount.id.clone(),
            role: name.to_owned(),
            request: permit.request_id().to_owned(),
            entity: permit.entity_id().to_owned(),
            expires: unix_seconds(permit.until()),
        },
        username,
    })
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a lease of ours says of its user.
struct Leased {
    username: String,
    role: String,
    db_name: String,
    revocation: Vec<String>,
}

impl Leased {
    fn of(internal: &Fields) -> Result<Self, Error> {
        let text = |key: &str| internal.get(key).and_then(Value::as_str).map(str::to_owned);
        let need = |key: &str| text(key).ok_or_else(|| Error::Failed(format!("the lease has no {key}")));
        Ok(Self {
            username: need("username")?,
            role: need("role")?,
            db_name: text("db_name").unwrap_or_default(),
            revocation: internal
                .get("revocation_statements")
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                .unwrap_or_default(),
        })
    }
}

/// Renew, asked by the host's lease manager.
pub async fn renew(mount: &Mount, lease: &LeaseRef) -> Reply {
    let leased = Leased::of(&lease.internal)?;
    let (role, bounds) = tokio::join!(Role::load(mount, &leased.role), MountTerms::ask(mount));
    let role = role?
        .ok_or_else(|| Error::Failed(format!("error during renew: could not find role with name {:?}", leased.role)))?;
    let terms = Terms::of(&role, bounds?);
    let until = terms.at_renew(mount.ports.clock.now(), lease.issued, lease.increment);
    let connection = mount.connections.get(mount, &role.db_name).await?;
    let plan = RenewPlan {
        username: leased.username,
        renew: Script::parse(&role.statements.renewal, connection.driver.dialect()),
        expiration: until + LOGIN_GRACE,
        expires: unix_seconds(until),
    };
    // The host's own texts around this one count the errors, as the built-in engine's do.
    let renewed = connection.target.renew(&plan).await;
    renewed.map_err(|e| Error::Failed(format!("1 error occurred:\n\t* {e}\n\n")))?;
    Ok(Some(Response {
        lease: Some(LeaseGrant { ttl: role.default_ttl, max_ttl: role.max_ttl, internal: lease.internal.clone() }),
        ..Response::default()
    }))
}

/// Revoke, asked by the host's lease manager, or for a credential that never reached the host.
///
/// Statements and connection come from the role as it is now; from the lease if the role is gone.
pub async fn revoke(mount: &Mount, internal: &Fields) -> Reply {
    let leased = Leased::of(internal)?;
    let (db_name, revocation) = match Role::load(mount, &leased.role).await? {
        Some(role) => (role.db_name, role.statements.revocation),
        None => (leased.db_name, leased.revocation),
    };
    let connection = mount.connections.get(mount, &db_name).await?;
    let plan =
        EndPlan { username: leased.username, revocation: Script::parse(&revocation, connection.driver.dialect()) };
    end::end(connection.target.as_ref(), &plan, &leased.role).await?;
    Ok(None)
}
