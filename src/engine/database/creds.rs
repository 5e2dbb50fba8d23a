//! `creds/:name`: from a role to a plan, and from a lease back to one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::connection::{Config, Connection};
use super::credential::{self, CredentialType, Made, Settings};
use super::role::Role;
use crate::engine::end::wishes::Wishes;
use crate::engine::end::{Doomed, Report, Trouble};
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent, Unfinished, unix_seconds};
use crate::engine::issue::{self, Permit, Site};
use crate::engine::lease::{MountTerms, Terms};
use crate::engine::meter::{self, Work};
use crate::engine::request::{Datum, Fields, LeaseGrant, LeaseRef, Reply, Request, Response};
use crate::engine::template::{Names, OsEntropy};
use crate::engine::transit::Underway;
use crate::engine::{Mount, access, caps, end, marker, reconcile, remnant};
use crate::secret::Secret;
use crate::secret::password;
use crate::target::{Marker, MintPlan, RenewPlan, Script, TargetError, Usage};

/// The server refuses the login this long after the lease's end: its clock and the host's may differ, and the host
/// needs a moment to renew. The built-in engine's own figure.
const LOGIN_GRACE: Duration = Duration::from_secs(5);

/// Key of a lease's internal data: when the certificate ends that came with it, unix seconds.
const CERTIFICATE_UNTIL: &str = "certificate_until";

/// GET: mints a user for the caller.
pub async fn read(mount: &Mount, name: &str, request: &Request) -> Reply {
    // What is not known is a round trip to the host: all is asked together, and what was answered is judged in turn.
    let (role, active, bounds) =
        tokio::join!(Role::current(mount, name), mount.refuse_mint_on_standby(), MountTerms::ask(mount));
    // Before anything is touched or judged: a standby may not know of the role yet and has no business at a target, and the
    // host forwards when told so.
    active?;
    let role = role?.ok_or_else(|| Error::Refused(format!("unknown role: {name}")))?;
    let connection = allowed(mount, name, &role.db_name).await?;
    fits(&role, &connection)?;
    let terms = Terms::of(&role, bounds?);
    let mut permit = issue::authorize(mount, name, &role.gate, request, terms.at_issue(mount.stamp())).await?;
    let Issued { plan, made, mut internal, underway } = issue(mount, name, &role, &connection, &mut permit).await?;
    caps::supersede::issued(mount, name, &role.db_name, &role.limits, permit.entity_id());

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
        underway: Some(underway),
        ..Response::default()
    }))
}

/// A user that was made.
pub(super) struct Issued {
    /// As what.
    pub plan: MintPlan,
    /// What opens it.
    pub made: Made,
    /// What ends it: a lease's internal data.
    pub internal: Fields,
    /// Until somebody has it.
    pub underway: Underway,
}

/// Makes the user that the permit is for.
pub(super) async fn issue(
    mount: &Mount,
    name: &str,
    role: &Role,
    connection: &Connection,
    permit: &mut Permit,
) -> Result<Issued, Error> {
    if permit.wants_record() {
        let able = connection.target.records().await.map_err(|e| e.to_string());
        permit.record(able, mount.ports.clock.now())?;
    }
    permit.pace(mount, &role.db_name).await?;
    let mut plan = plan(mount, name, role, connection, &Purpose::of(permit))?;
    if connection.driver.keeps_marker() {
        plan.marker = marker::sealed(mount, &plan.username, plan.marker).await?;
    }
    let place = caps::enter(mount, &role.limits, connection, &plan).await?;
    let made = make(mount, name, role, connection, permit.display_name(), &plan).await?;
    let site = site(role, connection);
    let (internal, underway) = issue::mint(mount, permit, &site, &mut plan, made.login(), place).await?;
    Ok(Issued { plan, made, internal, underway })
}

/// Where users of the role are minted.
pub(super) fn site<'a>(role: &'a Role, connection: &'a Connection) -> Site<'a> {
    Site {
        db_name: &role.db_name,
        driver: connection.driver,
        target: connection.target.as_ref(),
        revocation: &role.statements.revocation,
        wishes: role.wishes().or(&connection.wishes),
    }
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

/// Whether users of the role can be made there at all.
pub(super) fn fits(role: &Role, connection: &Connection) -> Result<(), Error> {
    let driver = connection.driver;
    if !driver.takes(role.credential_type.login()) {
        let kind = role.credential_type.name();
        return Err(Error::Refused(format!("unsupported credential_type: {kind:?}")));
    }
    if !role.group_roles.is_empty() {
        role.judge_groups(driver.has_groups())?;
    } else if role.statements.creation.is_empty() && !driver.has_default_creation() {
        return Err(Error::Failed("empty creation statements".into()));
    }
    Ok(())
}

/// What the caller will log in with, of the role's type.
pub(super) async fn make(
    mount: &Mount,
    name: &str,
    role: &Role,
    connection: &Connection,
    display_name: &str,
    plan: &MintPlan,
) -> Result<Made, Error> {
    match role.credential_type {
        CredentialType::Password => {
            let policies = [role.credential_config.password_policy(), &connection.password_policy];
            let rounds =
                role.scram_iterations.or(connection.scram_iterations).filter(|_| connection.scram_iterations.is_some());
            match rounds.filter(|_| policies == ["", ""]).and_then(|rounds| mount.ahead.take(rounds)) {
                Some(prepared) => Ok(Made::Prepared(prepared)),
                None => {
                    password_for(mount, &role.credential_config, &connection.password_policy).await.map(Made::Password)
                }
            }
        }
        CredentialType::RsaPrivateKey => credential::rsa_private_key(&role.credential_config).await,
        CredentialType::ClientCertificate => {
            let names = Names { display_name, role_name: name, username: Some(&plan.username) };
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

/// Whom a user is for.
pub(super) struct Purpose<'a> {
    /// What stands for the caller in names.
    pub display_name: &'a str,
    /// The host's id of the request.
    pub request_id: &'a str,
    /// The caller's entity.
    pub entity_id: &'a str,
    /// The request for access that it is a use of.
    pub grant_id: &'a str,
    /// What narrows the role.
    pub params: Option<&'a BTreeMap<String, String>>,
    /// What it does has to be in its target's log.
    pub recorded: bool,
    /// When the user ends.
    pub until: SystemTime,
}

impl<'a> Purpose<'a> {
    fn of(permit: &'a Permit) -> Self {
        Self {
            display_name: permit.display_name(),
            request_id: permit.request_id(),
            entity_id: permit.entity_id(),
            grant_id: permit.grant_id(),
            params: permit.params(),
            recorded: permit.is_recorded(),
            until: permit.until(),
        }
    }
}

/// What will run at the target. Pure but for the random part of the name.
pub(super) fn plan(
    mount: &Mount,
    name: &str,
    role: &Role,
    connection: &Connection,
    purpose: &Purpose<'_>,
) -> Result<MintPlan, Error> {
    let names = Names { display_name: purpose.display_name, role_name: name, username: None };
    let username = connection
        .username
        .render(&names, &mut OsEntropy, mount.ports.clock.now())
        .map_err(|e| Error::Failed(format!("failed to generate username: {e}")))?;
    let dialect = connection.driver.dialect();
    Ok(MintPlan {
        creation: match purpose.params {
            Some(params) => Script::parse(&access::narrowed(&role.statements.creation, params), dialect),
            None => Script::parse(&role.statements.creation, dialect),
        },
        groups: role.group_roles.clone(),
        rollback: Script::parse(&role.statements.rollback, dialect),
        expiration: purpose.until + LOGIN_GRACE,
        scram_iterations: role.scram_iterations,
        marker: Marker {
            mount: mount.id.clone(),
            role: name.to_owned(),
            request: purpose.request_id.to_owned(),
            entity: purpose.entity_id.to_owned(),
            begun: unix_seconds(mount.stamp()),
            expires: unix_seconds(purpose.until),
            connection: role.db_name.clone(),
            grant: purpose.grant_id.to_owned(),
            seal: String::new(),
        },
        recorded: purpose.recorded,
        repeats: mount.clocks.is_young(mount.ports.clock.as_ref()),
        username,
    })
}

/// What a lease of ours says of its user.
fn leased(internal: &Fields) -> Result<Doomed, Error> {
    let text = |key: &str| internal.get(key).and_then(Value::as_str).map(str::to_owned);
    let need = |key: &str| text(key).ok_or_else(|| Error::Failed(format!("the lease has no {key}")));
    Ok(Doomed {
        username: need("username")?,
        role: need("role")?,
        db_name: text("db_name").unwrap_or_default(),
        entity: String::new(),
        revocation: internal
            .get("revocation_statements")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default(),
        wishes: Wishes::of(internal),
        note: text(intent::LEASE_FIELD).filter(|key| key.starts_with(intent::PREFIX)),
    })
}

/// Renew, asked by the host's lease manager.
pub async fn renew(mount: &Mount, lease: &LeaseRef) -> Reply {
    let leased = leased(&lease.internal)?;
    if lease.internal.contains_key(CERTIFICATE_UNTIL) {
        // The host knows such a lease as not renewable and should not ask.
        return Err(Error::Failed(
            "the certificate ends with its lease, neither can be prolonged: read a new one".into(),
        ));
    }
    let (role, bounds) = tokio::join!(Role::current(mount, &leased.role), MountTerms::ask(mount));
    let role = role?
        .ok_or_else(|| Error::Failed(format!("error during renew: could not find role with name {:?}", leased.role)))?;
    let terms = Terms::of(&role, bounds?);
    let now = mount.stamp();
    let until = terms.at_renew(now, lease.issued, lease.increment);
    if until <= now {
        // Nothing is taken from it either: the host knows when it ends.
        return Err(Error::Failed("past the max TTL, cannot renew".into()));
    }
    let extension = issue::prolong(mount, &leased.role, &role.gate, lease, until).await?;
    let until = extension.until();
    let db_name = if leased.db_name.is_empty() { &role.db_name } else { &leased.db_name };
    let connection = mount.connections.get(mount, db_name).await?;
    if let Some(key) = &leased.note {
        // First: a note that ends later than its user does no harm.
        prolong(mount, key, &leased, (db_name, &connection), until).await?;
    }
    let plan = RenewPlan {
        username: leased.username,
        renew: Script::parse(&role.statements.renewal, connection.driver.dialect()),
        expiration: until + LOGIN_GRACE,
        expires: unix_seconds(until),
    };
    // The host's own texts around this one count the errors, as the built-in engine's do.
    let why = |renewed: &Result<(), TargetError>| renewed.as_ref().err().map(TargetError::to_string);
    let renewed = meter::timed(mount, db_name, Work::Renew, connection.target.renew(&plan), why).await;
    renewed.map_err(|e| Error::Failed(format!("1 error occurred:\n\t* {e}\n\n")))?;
    let (ttl, max_ttl) = extension.lease(mount, lease, role.default_ttl, role.max_ttl);
    Ok(Some(Response {
        lease: Some(LeaseGrant { ttl, max_ttl, renewable: true, internal: lease.internal.clone() }),
        ..Response::default()
    }))
}

/// Moves the end that the note of a user says. A note that is not there is written anew, unless the user is gone as well: one
/// that was superseded, say.
async fn prolong(
    mount: &Mount,
    key: &str,
    leased: &Doomed,
    (db_name, connection): (&str, &Connection),
    until: SystemTime,
) -> Result<(), Error> {
    let storage = mount.ports.storage.as_ref();
    let stored = Intent::load(storage, key).await?;
    if stored.is_none() {
        let present = connection.target.present(std::slice::from_ref(&leased.username)).await;
        if present.map_err(|e| Error::Failed(e.to_string()))?.is_empty() {
            return Err(Error::Failed(format!("the user {:?} has ended: read a new credential", leased.username)));
        }
    }
    let mut note = stored.unwrap_or_else(|| Intent {
        username: leased.username.clone(),
        role: leased.role.clone(),
        db_name: db_name.to_owned(),
        revocation: leased.revocation.clone(),
        wishes: leased.wishes.clone(),
        request: String::new(),
        entity: String::new(),
        begun: unix_seconds(mount.stamp()),
        expires: 0,
        made: true,
        incarnation: mount.incarnation.clone(),
    });
    // A renewal may shorten the lease, and may fail: then the host keeps the longer one.
    note.expires = note.expires.max(unix_seconds(until));
    note.store(storage, key).await?;
    mount.rotation.queue.plan(key, db_name, note.due());
    Ok(())
}

/// Whether somebody has decided that what is left of this user may stay.
pub async fn is_accepted(mount: &Mount, internal: &Fields) -> Result<bool, Error> {
    remnant::is_accepted(mount, &leased(internal)?).await
}

/// What the user of a lease has done so far, if its target counts that.
pub async fn usage(mount: &Mount, internal: &Fields) -> Result<Option<Usage>, Error> {
    let user = leased(internal)?;
    let connection = mount.connections.get(mount, &user.db_name).await?;
    connection.target.usage(&user.username).await.map_err(|e| Error::Failed(e.to_string()))
}

/// For how long the sessions of the user of a lease have been silent, in seconds; `None` if it has none.
pub async fn silence(mount: &Mount, internal: &Fields) -> Result<Option<u64>, Error> {
    let user = leased(internal)?;
    let connection = mount.connections.get(mount, &user.db_name).await?;
    connection.target.silence(&user.username).await.map_err(|e| Error::Failed(e.to_string()))
}

/// Ends the user of a lease: for the host's lease manager, or because its grant is over.
pub async fn revoke(mount: &Mount, internal: &Fields) -> Result<Report, Error> {
    Ok(end::end(mount, leased(internal)?).await?)
}

/// The connection of a user, and what ends it: the wishes and statements of its role as it is now, if that is still a role
/// of this connection, else those that were kept with the user.
pub async fn how_to_end(mount: &Mount, user: &Doomed) -> Result<(Arc<Connection>, Wishes, Script), Trouble> {
    let role = Role::current(mount, &user.role).await.unwrap_or_else(|e| {
        tracing::warn!(username = user.username, "ended as was planned when it was made: {e}");
        None
    });
    let role = role.filter(|role| user.db_name.is_empty() || role.db_name == user.db_name);
    let (db_name, wishes, statements) = match &role {
        Some(role) => (&role.db_name, role.wishes(), &role.statements.revocation),
        None => (&user.db_name, user.wishes.clone(), &user.revocation),
    };
    let connection = match mount.connections.get(mount, db_name).await {
        Ok(connection) => connection,
        Err(e) => {
            let is_there = !matches!(Config::load(mount, db_name).await, Ok(None));
            return Err(Trouble::new(e.to_string(), is_there));
        }
    };
    let revocation = Script::parse(statements, connection.driver.dialect());
    let wishes = wishes.or(&connection.wishes);
    Ok((connection, wishes, revocation))
}

/// A credential that was made and reached nobody. If it cannot be ended now it is a remnant.
///
/// # Errors
/// If it could not be ended now.
pub async fn unwanted(mount: &Mount, internal: &Fields) -> Result<Report, Error> {
    Ok(end::end(mount, leased(internal)?).await?)
}

/// The users that have a note: its key, their connection, and when they have to be gone.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut found = Vec::new();
    for id in storage.list(intent::PREFIX, "", -1).await? {
        let key = format!("{}{id}", intent::PREFIX);
        match Intent::load(storage, &key).await {
            Ok(Some(note)) if !note.made && note.incarnation != mount.incarnation => {
                let soon = mount.ports.clock.now() + intent::until_cleared(mount);
                found.push((key, note.db_name.clone(), note.due().min(soon)));
            }
            Ok(Some(note)) => found.push((key, note.db_name.clone(), note.due())),
            Ok(None) => {}
            // It may be storage and not what is in it: whoever tries finds out.
            Err(e) => {
                tracing::error!("{e}");
                found.push((key, String::new(), mount.ports.clock.now()));
            }
        }
    }
    Ok(found)
}

/// Asked by the queue: ends a user whose time is over by its note, and a mint that did not come to its end.
///
/// # Errors
/// If the user could not be contained; it is a remnant then.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Trouble> {
    let (queue, now) = (&mount.rotation.queue, mount.ports.clock.now());
    // Held by the mint itself, which plans what is to come.
    let Some(_lock) = mount.rotation.locks.try_hold(key) else {
        queue.postpone(key, now + intent::UNFINISHED);
        return Ok(());
    };
    let note = match Intent::load(mount.ports.storage.as_ref(), key).await {
        Ok(Some(note)) => note,
        Ok(None) => {
            queue.forget(key);
            return Ok(());
        }
        Err(e) => {
            queue.failed(key, "", now, &e.to_string());
            return Err(Trouble::new(e.to_string(), false));
        }
    };
    if note.made && note.due() > now {
        queue.plan(key, &note.db_name, note.due());
        return Ok(());
    }
    if note.made && !is_certain(mount, &note).await {
        queue.postpone(key, mount.ports.clock.now() + intent::GRACE);
        return Ok(());
    }
    match (!note.made).then(|| note.unfinished(mount, now)) {
        None | Some(Unfinished::Over) => {}
        Some(Unfinished::Early(due)) => {
            queue.plan(key, &note.db_name, due);
            return Ok(());
        }
        Some(Unfinished::MayBeMade(again)) => {
            queue.plan(key, &note.db_name, now + again);
            if mount.ports.host.is_standby().await.unwrap_or(true) {
                // It is of whoever is active now.
                return Ok(());
            }
            tracing::warn!(
                username = note.username,
                role = note.role,
                request = note.request,
                "ending a user that was left by a mint which may still be under way"
            );
            return end::end(mount, note.doomed_now(key)).await.map(drop);
        }
    }
    let what = if note.made { "outlived its lease" } else { "was left by a mint that did not come to its end" };
    tracing::warn!(username = note.username, role = note.role, request = note.request, "ending a user that {what}");
    let ended = end::end(mount, note.doomed(key)).await;
    if let Err(trouble) = &ended
        && queue.state(key).is_some()
    {
        // Nothing stands for it but the note.
        queue.away(key, &note.db_name, now, &trouble.to_string());
    }
    ended.map(drop)
}

/// Whether the time of a user is over by every clock that can be asked.
async fn is_certain(mount: &Mount, note: &Intent) -> bool {
    let connection = mount.connections.get(mount, &note.db_name).await.ok();
    reconcile::certain_time(mount, connection.as_deref()).await >= note.due()
}
