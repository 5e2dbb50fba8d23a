//! What a mount does. It names no transport and no driver; what it needs of the world are [`port`]s.
//!
//! A request goes one way: [`Mount::handle`] finds its [`route`], the path's own module makes a plan of it, and
//! [`issue`], [`lease`] or [`end`] carry the plan to a target.

pub mod access;
pub mod aws;
pub mod caps;
pub mod clocks;
pub mod database;
pub mod end;
pub mod error;
pub mod evidence;
pub mod field;
pub mod go;
pub mod help;
pub mod intent;
pub mod issue;
pub mod journal;
pub mod lease;
pub mod live;
pub mod marker;
pub mod meter;
pub mod metrics;
pub mod port;
pub mod recent;
pub mod reconcile;
pub mod remnant;
pub mod request;
pub mod rotation;
pub mod route;
pub mod schedule;
pub mod status;
pub mod template;
pub mod transit;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use database::connection::Connections;
use database::credential::Ahead;
use error::Error;
use field::Input;
use port::{Clock, Host, Scratch, Storage, Web};
use request::{Existence, Fields, LeaseGrant, LeaseRef, Operation, Reply, Request, Response};

use crate::secret::{Secret, password};
use crate::target::{Connector, Standing, Usage};

/// Whether users are ended at all.
pub use end::mode::RevocationMode;

/// Which paths a mount answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The paths of the built-in `database` engine.
    Database,
    /// The paths of the AWS engine.
    Aws,
}

/// What every mount of a process is told when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Orders {
    /// Which paths it answers on.
    pub kind: Kind,
    /// Whether users are ended at all.
    pub revocation_mode: RevocationMode,
}

impl From<Kind> for Orders {
    fn from(kind: Kind) -> Self {
        Self { kind, revocation_mode: RevocationMode::Normal }
    }
}

/// The ports of one mount.
#[derive(Clone)]
pub struct Ports {
    /// The mount's storage.
    pub storage: Arc<dyn Storage>,
    /// The host's view of the mount.
    pub host: Arc<dyn Host>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The drivers.
    pub targets: Arc<dyn Connector>,
    /// Notes for the next process.
    pub scratch: Arc<dyn Scratch>,
    /// Other people's web servers.
    pub web: Arc<dyn Web>,
}

/// One mount of the engine. Clones are the same mount.
#[derive(Clone)]
pub struct Mount(Arc<Inner>);

/// A mount that may be gone.
#[derive(Clone)]
struct WeakMount(Weak<Inner>);

impl WeakMount {
    fn upgrade(&self) -> Option<Mount> {
        self.0.upgrade().map(Mount)
    }
}

impl Deref for Mount {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// What a mount consists of.
pub struct Inner {
    kind: Kind,
    /// The host's stable id of the mount.
    id: String,
    ports: Ports,
    revocation_mode: RevocationMode,
    connections: Connections,
    known_roles: database::role::known::Known,
    terms: recent::Recent<lease::MountTerms>,
    standby: recent::Recent<bool>,
    aws: aws::State,
    ahead: Ahead,
    rotation: Rotation,
    ending: end::Ending,
    access: access::Access,
    caps: caps::Caps,
    evidence: evidence::Log,
    clocks: clocks::Clocks,
    transit: transit::Transit,
    meter: meter::Meter,
    sights: reconcile::Sights,
    /// Which of all the processes that ever serve the mount this is.
    incarnation: String,
    /// The key of the seals of markers, once it was asked for.
    seals: tokio::sync::OnceCell<Secret>,
}

/// What changes passwords: see [`rotation`].
struct Rotation {
    locks: rotation::Locks,
    vain: rotation::Vain,
    future: rotation::Future,
    queue: rotation::queue::Queue,
}

/// How long an end waits for what the target counted.
const USAGE: std::time::Duration = std::time::Duration::from_millis(500);

/// Storage prefixes the host should wrap with its seal.
pub const SEAL_WRAPPED: &[&str] = &[
    "config/*",
    "static-role/*",
    "static-creds/*",
    "rotation/*",
    "key/*",
    "access/hook-key/*",
    evidence::checkpoint::KEY,
];

impl Mount {
    /// A mount with the host's stable id for it. Touches nothing yet: storage may not be writable.
    pub fn new(orders: impl Into<Orders>, id: String, ports: Ports) -> Self {
        let Orders { kind, revocation_mode } = orders.into();
        let (connections, ahead) = (Connections::default(), Ahead::default());
        let rotation = Rotation {
            locks: rotation::Locks::default(),
            vain: rotation::Vain::default(),
            future: rotation::Future::default(),
            queue: rotation::queue::Queue::new(ports.clock.clone()),
        };
        let (ending, clocks) = (end::Ending::default(), clocks::Clocks::new(ports.clock.as_ref()));
        let transit = transit::Transit::default();
        let (incarnation, seals) = (format!("{:016x}", password::number()), tokio::sync::OnceCell::new());
        Self(Arc::new(Inner {
            kind,
            id,
            ports,
            revocation_mode,
            connections,
            known_roles: database::role::known::Known::default(),
            terms: recent::Recent::default(),
            standby: recent::Recent::default(),
            aws: aws::State::default(),
            ahead,
            rotation,
            ending,
            clocks,
            transit,
            meter: meter::Meter::default(),
            sights: reconcile::Sights::default(),
            incarnation,
            seals,
            access: access::Access::default(),
            caps: caps::Caps::default(),
            evidence: evidence::Log::default(),
        }))
    }

    /// Storage works from now on: the mount may begin what it does without being asked. Any request says the same.
    pub fn start(&self) {
        self.rotation.queue.start(self);
        self.access.start(self);
    }

    /// The time by which ends are written down: see [`clocks`].
    fn stamp(&self) -> SystemTime {
        self.clocks.stamp(self.ports.clock.as_ref())
    }

    fn weak(&self) -> WeakMount {
        WeakMount(Arc::downgrade(&self.0))
    }

    /// Answers one request.
    ///
    /// The future must be driven to its end even if the caller leaves: it may be in the middle of work at a target.
    /// Who drives it hands an answer that nobody took to [`Mount::undelivered`].
    pub async fn handle(&self, request: Request) -> Reply {
        self.start();
        let clock = self.ports.clock.as_ref();
        let (begun, about) = (clock.steady(), About::of(&request, self.operation(&request)));
        let reply = self.answer(request).await;
        let took = clock.steady().saturating_sub(begun);
        if let Some(about) = about {
            self.meter.answered(about.operation, meter::result_of(&reply), took);
            about.tell(&reply, took);
        }
        reply
    }

    /// What a request asks for, in one word that is ours: not whatever somebody may write into a path.
    fn operation(&self, request: &Request) -> &'static str {
        fn first<P>(routes: &'static [route::Route<P>], path: &str) -> Option<&'static str> {
            let given = path.split('/').next().unwrap_or_default();
            routes.iter().filter_map(|route| route.pattern.split('/').next()).find(|first| *first == given)
        }
        match (request.operation, self.kind) {
            (Operation::Renew, _) => Some("renew"),
            (Operation::Revoke, _) => Some("revoke"),
            (_, Kind::Database) => {
                first(database::Paths::ACCESS, &request.path).or_else(|| first(database::Paths::ROUTES, &request.path))
            }
            (_, Kind::Aws) => {
                first(aws::Paths::ACCESS, &request.path).or_else(|| first(aws::Paths::ROUTES, &request.path))
            }
        }
        .unwrap_or("unknown")
    }

    async fn answer(&self, request: Request) -> Reply {
        match request.operation {
            Operation::Help => Ok(Some(self.help(&request)?)),
            Operation::Rollback => Ok(None),
            Operation::Renew => match (&request.lease, self.kind) {
                (Some(lease), Kind::Database) => database::creds::renew(self, lease).await,
                (Some(lease), Kind::Aws) => aws::lease::renew(self, lease).await,
                (None, _) => Err(Error::Failed("the host sent no lease to renew".into())),
            },
            Operation::Revoke => match &request.lease {
                Some(lease) => self.revoke(lease).await,
                None => Err(Error::Failed("the host sent no lease to revoke".into())),
            },
            _ => match self.kind {
                Kind::Database => self.route::<database::Paths>(request).await,
                Kind::Aws => self.route::<aws::Paths>(request).await,
            },
        }
    }

    /// The host ends a lease.
    async fn revoke(&self, lease: &LeaseRef) -> Reply {
        let internal = &lease.internal;
        let gated = internal.contains_key(access::ending::REQUEST_FIELD);
        let usage = if gated { self.usage(internal).await } else { None };
        let ended = match self.kind {
            Kind::Database => self.end_credential(internal).await?,
            Kind::Aws => aws::lease::revoke(self, lease).await?,
        };
        // Access is over; what is not in the record yet comes into it when the grant is over.
        if let Err(e) = access::ending::lease_ended(self, role_of(internal), internal, ("lease", usage), &ended).await {
            tracing::warn!("the end of a gated credential is not in the record yet: {e}");
        }
        Ok(None)
    }

    /// What was done with what was issued, if anybody counts that. Never holds an end up for long.
    async fn usage(&self, internal: &Fields) -> Option<Usage> {
        let asking = async {
            match self.kind {
                Kind::Database => database::creds::usage(self, internal).await,
                Kind::Aws => Ok(None),
            }
        };
        tokio::time::timeout(USAGE, asking).await.ok()?.ok()?
    }

    /// For how long the sessions of what was issued have been silent, in seconds; the inner `None`: it has no session. `None`
    /// if the target does not say.
    async fn silence(&self, internal: &Fields) -> Option<Option<u64>> {
        let asking = async {
            match self.kind {
                Kind::Database => database::creds::silence(self, internal).await.ok(),
                Kind::Aws => None,
            }
        };
        tokio::time::timeout(USAGE, asking).await.ok()?
    }

    /// Ends what was issued, by a lease's internal data. Ending what is already gone succeeds.
    async fn end_credential(&self, internal: &Fields) -> Result<end::Report, Error> {
        match self.kind {
            Kind::Database => database::creds::revoke(self, internal).await,
            Kind::Aws => aws::lease::end(self, internal).await,
        }
    }

    /// Who can log in to the targets with rights that nobody asked for here: by connection, or why that is not known.
    async fn standing(&self) -> Result<Vec<(String, Result<Vec<Standing>, String>)>, Error> {
        match self.kind {
            Kind::Database => database::standing(self).await,
            Kind::Aws => Ok(Vec::new()),
        }
    }

    /// The names of all roles.
    async fn roles(&self) -> Result<Vec<String>, Error> {
        // Those of the oldest form of AWS roles are elsewhere, and cannot be gated.
        Ok(self.ports.storage.list("role/", "", -1).await?)
    }

    /// Whether somebody has decided that what is left of it may stay.
    async fn is_accepted(&self, internal: &Fields) -> Result<bool, Error> {
        match self.kind {
            Kind::Database => database::creds::is_accepted(self, internal).await,
            Kind::Aws => Ok(false),
        }
    }

    /// What a role says of access; `None` if there is no such role.
    async fn gate(&self, role: &str) -> Result<Option<access::Gate>, Error> {
        match self.kind {
            Kind::Database => Ok(database::role::Role::load(self, role).await?.map(|role| role.gate)),
            Kind::Aws => Ok(aws::role::Role::load(self, role).await?.map(|role| role.gate)),
        }
    }

    async fn route<E: Engine>(&self, mut request: Request) -> Reply {
        if E::NULL_IS_ABSENT {
            request.data.retain(|_, value| !value.is_null());
        }
        if let Some((route, _)) = route::find(E::ACCESS, &request.path) {
            if !route.takes(request.operation) {
                return Err(Error::UnsupportedOperation);
            }
            let input = Input::decode(route.fields, &request.data, route.captured(&request.path))
                .map_err(|e| Error::Refused(e.in_handler()))?;
            let mut reply = access::handle(self, route.id, &input, &request).await?;
            if let Some(response) = &mut reply {
                response.warnings.extend(route.ignored(&request.data));
            }
            return Ok(reply);
        }
        let (route, name) = route::find(E::ROUTES, &request.path).ok_or(Error::UnsupportedPath)?;
        if !route.takes(request.operation) {
            return Err(Error::UnsupportedOperation);
        }
        if E::NULL_IS_ABSENT {
            request.data.retain(|_, value| !value.is_null());
        }
        let input = match request.operation {
            Operation::Create | Operation::Update | Operation::List => Some(&request.data),
            _ => Some(&request.data).filter(|_| route.takes_query()),
        };
        let input = match input {
            Some(data) => Input::decode(route.fields, data, route.captured(&request.path))
                .map_err(|e| Error::Refused(e.in_handler()))?,
            None => Input::default(),
        };
        let mut reply = E::handle(self, route.id, name, &input, &request).await?;
        if let Some(response) = &mut reply {
            response.warnings.extend(route.ignored(&request.data));
        }
        Ok(reply)
    }

    /// `path-help` and the OpenAPI document, of one path or of the whole mount.
    fn help(&self, request: &Request) -> Result<Response, Error> {
        fn answer<E: Engine>(path: &str) -> Option<Response> {
            let own = E::ROUTES.iter().map(route::Route::plain);
            let routes: Vec<_> = E::ACCESS.iter().map(route::Route::plain).chain(own).collect();
            help::answer(&routes, E::NAME, E::HELP, path)
        }
        let answer = match self.kind {
            Kind::Database => answer::<database::Paths>(&request.path),
            Kind::Aws => answer::<aws::Paths>(&request.path),
        };
        answer.ok_or(Error::UnsupportedPath)
    }

    /// Whether the path of a write has an entry already. A pure read: the host asks before it checks the ACL.
    ///
    /// # Errors
    /// [`Error::Refused`] if a field of the request is wrong; [`Error::UnsupportedPath`].
    pub async fn exists(&self, path: &str, data: &Fields) -> Result<Existence, Error> {
        match self.kind {
            Kind::Database => self.entry::<database::Paths>(path, data).await,
            Kind::Aws => self.entry::<aws::Paths>(path, data).await,
        }
    }

    async fn entry<E: Engine>(&self, path: &str, data: &Fields) -> Result<Existence, Error> {
        if let Some((route, name)) = route::find(E::ACCESS, path) {
            return access::exists(self, route.id, name).await;
        }
        let (route, name) = route::find(E::ROUTES, path).ok_or(Error::UnsupportedPath)?;
        let found = E::exists(self, route.id, name).await?;
        if found != Existence::Unchecked {
            Input::decode(route.fields, data, route.captured(path)).map_err(|e| Error::Refused(e.to_string()))?;
        }
        Ok(found)
    }

    /// Drops what was cached of a storage key that another node changed.
    pub fn invalidate(&self, key: &str) {
        // Only a node that others write for is told.
        self.standby.forget();
        if let Some(name) = key.strip_prefix("role/") {
            self.known_roles.forget(name);
        }
        if let Some(name) = key.strip_prefix("config/") {
            self.connections.forget(name);
            self.aws.forget();
            self.rotation.queue.outdated();
            self.caps.outdated();
        }
        if key.starts_with("role/") {
            caps::supersede::outdated(self);
        }
        if key.starts_with(evidence::PREFIX) {
            self.evidence.outdated();
        }
        if key.starts_with("access/") {
            self.access.outdated(key);
        }
        if ["static-role/", "static-roles/", aws::denial::PREFIX, aws::user::PREFIX]
            .iter()
            .any(|prefix| key.starts_with(prefix))
            || [journal::PREFIX, intent::PREFIX, remnant::PREFIX].iter().any(|prefix| key.starts_with(prefix))
        {
            self.caps.outdated();
            self.rotation.queue.outdated();
        }
    }

    /// The host has the answer that this came with.
    pub fn delivered(&self, underway: &transit::Underway) {
        transit::arrived(self, underway);
    }

    /// A credential was made, but the answer never reached the host: there is no lease that will ever end it, so it
    /// ends now.
    pub async fn undelivered(&self, _path: String, lease: LeaseGrant, underway: Option<&transit::Underway>) {
        // It may have been taken for delivered until a moment ago, and its note removed.
        let anew = underway.map(|underway| transit::again(self, underway));
        let (underway, before) = (anew.as_ref(), underway);
        if let Some(before) = before {
            transit::arrived(self, before);
        }
        let ended = match self.kind {
            Kind::Aws => aws::lease::unwanted(self, &lease.internal).await,
            Kind::Database => database::creds::unwanted(self, &lease.internal).await,
        };
        let told = match ended {
            Ok(ended) => {
                let (role, cause) = (role_of(&lease.internal), access::ending::NOBODY);
                access::ending::lease_ended(self, role, &lease.internal, (cause, None), &ended).await
            }
            Err(e) => Err(e),
        };
        if let Err(e) = &told {
            tracing::error!("a credential that reached nobody could not be ended yet, and is tried again: {e}");
        }
        match (underway, told) {
            (Some(underway), Ok(_)) => transit::arrived(self, underway),
            // Should what is written of it get lost with this process, the next one knows.
            (Some(underway), Err(_)) => transit::lost(self, underway),
            (None, _) => {}
        }
    }

    /// Everything that is due at some time: the key of its record, what it is done one after the other with, and when.
    async fn scheduled(&self) -> Result<Vec<(String, String, SystemTime)>, Error> {
        match self.kind {
            Kind::Database => database::scheduled(self).await,
            Kind::Aws => aws::scheduled(self).await,
        }
    }

    /// Does what the record at `key` is due for. Failures are in the queue when this returns.
    async fn when_due(&self, key: &str) -> Result<(), Error> {
        match self.kind {
            Kind::Database => database::when_due(self, key).await,
            Kind::Aws => aws::when_due(self, key).await,
        }
    }

    /// Ends what the mount does by itself, and closes every session. The mount is not used afterwards.
    pub async fn close(&self) {
        self.access.close();
        self.rotation.queue.close().await;
        self.connections.close().await;
    }

    /// The error that makes the host forward the request to the active node.
    async fn refuse_on_standby(&self) -> Result<(), Error> {
        let standby = self.ports.host.is_standby().await;
        self.active(standby?)
    }

    /// The same for a mint, which does not ask if the host has said so a [`recent::MOMENT`] ago. Whatever a
    /// node makes just after it has lost its place comes to nothing: the host gives out no lease for it, and ends it or
    /// leaves it to be found.
    async fn refuse_mint_on_standby(&self) -> Result<(), Error> {
        let asking = self.ports.host.is_standby();
        let standby = self.standby.ask(self.ports.clock.as_ref(), recent::MOMENT, asking, |standby| !standby).await;
        self.active(standby?)
    }

    fn active(&self, standby: bool) -> Result<(), Error> {
        if standby {
            // Others make users and write roles now.
            self.caps.outdated();
            self.known_roles.outdated();
            self.standby.forget();
            return Err(Error::ReadOnly);
        }
        Ok(())
    }
}

/// What the log says of a request when it is answered.
struct About {
    operation: &'static str,
    path: String,
    request: String,
    lease: String,
    /// Of the lease that it is about.
    user: Option<(String, String)>,
}

impl About {
    /// `None` of what the host asks for by itself.
    fn of(request: &Request, operation: &'static str) -> Option<Self> {
        if matches!(request.operation, Operation::Help | Operation::Rollback) {
            return None;
        }
        let lease = request.lease.as_ref();
        Some(Self {
            operation,
            path: request.path.clone(),
            request: request.id.clone(),
            lease: lease.map(|lease| lease.id.clone()).unwrap_or_default(),
            user: lease.map(|lease| user_of(&lease.internal)),
        })
    }

    /// One line for what changes who has access, and for what failed.
    fn tell(&self, reply: &Reply, took: std::time::Duration) {
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let Self { operation, path, request, lease, user } = self;
        match reply {
            Ok(answer) => {
                let minted = answer.as_ref().and_then(|answer| answer.lease.as_ref());
                let user = user.clone().or_else(|| minted.map(|lease| user_of(&lease.internal)));
                let Some((role, username)) = user else { return };
                tracing::info!(operation, role, username, lease, request, milliseconds, "done");
            }
            Err(e) if meter::result_of(reply) == "failed" => {
                let (role, username) = user.clone().unwrap_or_default();
                tracing::warn!(operation, path, role, username, lease, request, milliseconds, "failed: {e}");
            }
            Err(_) => {}
        }
    }
}

/// Role and user name of a lease.
fn user_of(internal: &Fields) -> (String, String) {
    let text = |key: &str| internal.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    (text("role"), text("username"))
}

/// The role of a lease.
fn role_of(internal: &Fields) -> &str {
    internal.get("role").and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// What makes one kind of mount different from another.
trait Engine {
    /// Its own name for a path.
    type Path: Copy + Send + Sync + 'static;
    /// Its paths.
    const ROUTES: &'static [route::Route<Self::Path>];
    /// The paths of just-in-time access, if its roles can be gated.
    const ACCESS: &'static [route::Route<access::paths::Path>];
    /// What operations are called after in the OpenAPI document.
    const NAME: &'static str;
    /// What `path-help` says of the mount as a whole.
    const HELP: &'static str;
    /// True if a field that is `null` counts as not given.
    const NULL_IS_ABSENT: bool;
    /// Answers a request on one of its paths; `name` is what the path captured.
    fn handle(
        mount: &Mount,
        path: Self::Path,
        name: &str,
        input: &Input,
        request: &Request,
    ) -> impl Future<Output = Reply> + Send;
    /// Whether a write to the path would create something.
    fn exists(mount: &Mount, path: Self::Path, name: &str) -> impl Future<Output = Result<Existence, Error>> + Send;
}

/// The kind of lease, as the host keeps it with its internal data.
pub const SECRET_TYPE: &str = "secret_type";
