//! `creds/:name`: from a role to a plan, and from a lease back to one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::connection::{Config, Connection};
use super::credential::{self, CredentialType, Made, Settings};
use super::role::Role;
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent, unix_seconds};
use crate::engine::issue::{self, Permit, Site};
use crate::engine::lease::{MountTerms, Terms};
use crate::engine::request::{Datum, Fields, LeaseGrant, LeaseRef, Reply, Request, Response};
use crate::engine::template::{Names, OsEntropy};
use crate::engine::{Mount, access, end as ending};
use crate::secret::Secret;
use crate::secret::password;
use crate::target::{EndOptions, EndPlan, Ended, Marker, MintPlan, RenewPlan, Script};

/// The server refuses the login this long after the lease's end: its clock and the host's may differ, and the host
/// needs a moment to renew. The built-in engine's own figure.
const LOGIN_GRACE: Duration = Duration::from_secs(5);

/// Key of a lease's internal data: when the certificate ends that came with it, unix seconds.
const CERTIFICATE_UNTIL: &str = "certificate_until";

/// GET: mints a user for the caller.
pub async fn read(mount: &Mount, name: &str, request: &Request) -> Reply {
    // Each question is a round trip to the host: they are asked together, and what was answered is judged in turn.
    let (role, active, bounds) =
        tokio::join!(Role::load(mount, name), mount.refuse_on_standby(), MountTerms::ask(mount));
    let role = role?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    // Before anything is touched: a standby has no business at a target, and the host forwards when told so.
    active?;
    let connection = allowed(mount, name, &role.db_name).await?;
    if !connection.driver.takes(role.credential_type.login()) {
        let kind = role.credential_type.name();
        return Err(Error::Refused(format!("unsupported credential_type: {kind:?}")));
    }
    if role.statements.creation.is_empty() && !connection.driver.has_default_creation() {
        return Err(Error::Failed("empty creation statements".into()));
    }
    let terms = Terms::of(&role, bounds?);
    let permit = issue::authorize(mount, name, &role.gate, request, terms.at_issue(mount.ports.clock.now())).await?;
    let plan = plan(mount, name, &role, &connection, &permit)?;
    let made = make(mount, name, &role, &connection, &permit, &plan).await?;
    let site = Site {
        db_name: &role.db_name,
        driver: connection.driver,
        target: connection.target.as_ref(),
        revocation: &role.statements.revocation,
    };
    let mut internal = issue::mint(mount, &permit, &site, &plan, made.login()).await?;

    let ends_for_good = made.ends_for_good();
    if let Some(end) = ends_for_good {
        internal.insert(CERTIFICATE_UNTIL.into(), json!(unix_seconds(end)));
    }
    let mut data = vec![("username".to_owned(), Datum::Plain(json!(plan.username)))];
    data.extend(made.into_data());
    data.extend(permit.answer(mount).await);
    let (ttl, max_ttl) = permit.lease(mount, role.default_ttl, role.max_ttl);
    Ok(Some(Response {
        data: Some(data),
        lease: Some(LeaseGrant { ttl, max_ttl, renewable: ends_for_good.is_none(), internal }),
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

/// What the caller will log in with, of the role's type.
async fn make(
    mount: &Mount,
    name: &str,
    role: &Role,
    connection: &Connection,
    permit: &Permit,
    plan: &MintPlan,
) -> Result<Made, Error> {
    match role.credential_type {
        CredentialType::Password => {
            password_for(mount, &role.credential_config, &connection.password_policy).await.map(Made::Password)
        }
        CredentialType::RsaPrivateKey => credential::rsa_private_key(&role.credential_config).await,
        CredentialType::ClientCertificate => {
            let names = Names { display_name: permit.display_name(), role_name: name, username: Some(&plan.username) };
            let now = mount.ports.clock.now();
            credential::client_certificate(&role.credential_config, &names, now, plan.expiration).await
        }
    }
}

/// By the policy of the role's `credential_config`, else the connection's, else the default generator.
pub(super) async fn password_for(mount: &Mount, config: &Settings, connection_policy: &str) -> Result<Secret, Error> {
    let own = config.password_policy();
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
    let names = Names { display_name: permit.display_name(), role_name: name, username: None };
    let username = connection
        .username
        .render(&names, &mut OsEntropy, mount.ports.clock.now())
        .map_err(|e| Error::Failed(format!("failed to generate username: {e}")))?;
    let dialect = connection.driver.dialect();
    Ok(MintPlan {
        creation: match permit.params() {
            Some(params) => Script::parse(&access::narrowed(&role.statements.creation, params), dialect),
            None => Script::parse(&role.statements.creation, dialect),
        },
        rollback: Script::parse(&role.statements.rollback, dialect),
        expiration: permit.until() + LOGIN_GRACE,
        marker: Marker {
            mount: mount.id.clone(),
            role: name.to_owned(),
            request: permit.request_id().to_owned(),
            entity: permit.entity_id().to_owned(),
            begun: unix_seconds(mount.ports.clock.now()),
            expires: unix_seconds(permit.until()),
        },
        username,
    })
}

/// What a lease of ours says of its user.
struct Leased {
    username: String,
    role: String,
    db_name: String,
    revocation: Vec<String>,
    /// The key of its note, if it has one.
    note: Option<String>,
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
            note: text(intent::LEASE_FIELD).filter(|key| key.starts_with(intent::PREFIX)),
        })
    }
}

/// Renew, asked by the host's lease manager.
pub async fn renew(mount: &Mount, lease: &LeaseRef) -> Reply {
    let leased = Leased::of(&lease.internal)?;
    if lease.internal.contains_key(CERTIFICATE_UNTIL) {
        // The host knows such a lease as not renewable and should not ask.
        return Err(Error::Failed(
            "the certificate ends with its lease, neither can be prolonged: read a new one".into(),
        ));
    }
    let (role, bounds) = tokio::join!(Role::load(mount, &leased.role), MountTerms::ask(mount));
    let role = role?
        .ok_or_else(|| Error::Failed(format!("error during renew: could not find role with name {:?}", leased.role)))?;
    let terms = Terms::of(&role, bounds?);
    let until = terms.at_renew(mount.ports.clock.now(), lease.issued, lease.increment);
    let extension = issue::prolong(mount, &leased.role, &role.gate, lease, until).await?;
    let until = extension.until();
    let connection = mount.connections.get(mount, &role.db_name).await?;
    if let Some(key) = &leased.note {
        // First: a note that ends later than its user does no harm.
        prolong(mount, key, &leased, &role.db_name, until).await?;
    }
    let plan = RenewPlan {
        username: leased.username,
        renew: Script::parse(&role.statements.renewal, connection.driver.dialect()),
        expiration: until + LOGIN_GRACE,
        expires: unix_seconds(until),
    };
    // The host's own texts around this one count the errors, as the built-in engine's do.
    let renewed = connection.target.renew(&plan).await;
    renewed.map_err(|e| Error::Failed(format!("1 error occurred:\n\t* {e}\n\n")))?;
    let (ttl, max_ttl) = extension.lease(mount, lease, role.default_ttl, role.max_ttl);
    Ok(Some(Response {
        lease: Some(LeaseGrant { ttl, max_ttl, renewable: true, internal: lease.internal.clone() }),
        ..Response::default()
    }))
}

/// Moves the end that the note of a user says. A note that is not there is written anew.
async fn prolong(mount: &Mount, key: &str, leased: &Leased, db_name: &str, until: SystemTime) -> Result<(), Error> {
    let storage = mount.ports.storage.as_ref();
    let stored = Intent::load(storage, key).await?;
    let mut note = stored.unwrap_or_else(|| Intent {
        username: leased.username.clone(),
        role: leased.role.clone(),
        db_name: db_name.to_owned(),
        revocation: leased.revocation.clone(),
        request: String::new(),
        entity: String::new(),
        begun: unix_seconds(mount.ports.clock.now()),
        expires: 0,
        made: true,
    });
    note.expires = unix_seconds(until);
    note.store(storage, key).await?;
    mount.rotation.queue.plan(key, db_name, note.due());
    Ok(())
}

/// Ends a user: asked by the host's lease manager, for a credential that never reached the host, or because a grant is over.
///
/// Statements and connection come from the role as it is now; from the lease if the role is gone.
pub async fn end(mount: &Mount, internal: &Fields) -> Result<Ended, Error> {
    let leased = Leased::of(internal)?;
    let (db_name, revocation) = match Role::load(mount, &leased.role).await? {
        Some(role) => (role.db_name, role.statements.revocation),
        None => (leased.db_name, leased.revocation),
    };
    let connection = mount.connections.get(mount, &db_name).await?;
    let plan = EndPlan {
        username: leased.username,
        revocation: Script::parse(&revocation, connection.driver.dialect()),
        options: EndOptions::default(),
    };
    let ended = ending::end(connection.target.as_ref(), &plan, &leased.role).await?;
    if let Some(key) = &leased.note {
        intent::forget(mount, key).await;
    }
    Ok(ended)
}

/// A credential that was made and reached nobody. If it cannot be ended now and has a note, the note says so: the tick
/// tries again until it can.
///
/// # Errors
/// If it could not be ended now.
pub async fn unwanted(mount: &Mount, internal: &Fields) -> Result<Ended, Error> {
    let error = match end(mount, internal).await {
        Ok(ended) => return Ok(ended),
        Err(error) => error,
    };
    let storage = mount.ports.storage.as_ref();
    if let Some(key) = Leased::of(internal)?.note
        && let Ok(Some(note)) = Intent::load(storage, &key).await
    {
        mount.rotation.queue.failed(&key, &note.db_name, mount.ports.clock.now(), &error.to_string());
        if let Err(e) = (Intent { made: false, ..note }).store(storage, &key).await {
            tracing::warn!(record = key, "the note of a user that nobody has still says that somebody does: {e}");
        }
    }
    Err(error)
}

/// The users that have a note: its key, their connection, and when they have to be gone.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut found = Vec::new();
    for id in storage.list(intent::PREFIX, "", -1).await? {
        let key = format!("{}{id}", intent::PREFIX);
        match Intent::load(storage, &key).await {
            Ok(Some(note)) => found.push((key, note.db_name.clone(), note.due())),
            Ok(None) => {}
            Err(e) => tracing::error!("{e}"),
        }
    }
    Ok(found)
}

/// Asked by the queue: ends a user whose time is over by its note, and a mint that did not come to its end.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Error> {
    let (queue, now) = (&mount.rotation.queue, mount.ports.clock.now());
    // Held by the mint itself, which plans what is to come.
    let Some(_lock) = mount.rotation.locks.try_hold(key) else {
        queue.postpone(key, now + intent::UNFINISHED);
        return Ok(());
    };
    let Some(note) = Intent::load(mount.ports.storage.as_ref(), key).await? else {
        queue.forget(key);
        return Ok(());
    };
    // One that reached nobody is tried again as soon as the queue says so.
    if note.due() > now && !queue.has_failed(key) {
        queue.plan(key, &note.db_name, note.due());
        return Ok(());
    }
    let what = if note.made { "outlived its lease" } else { "was left by a mint that did not come to its end" };
    tracing::warn!(username = note.username, role = note.role, request = note.request, "ending a user that {what}");
    end(mount, &note.lease(key)).await.map(drop).inspect_err(|e| queue.failed(key, &note.db_name, now, &e.to_string()))
}
