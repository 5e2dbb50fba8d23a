//! The backend service: one instance per mount, keyed by the id that the host puts into the metadata of every call.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::broker::{Broker, BrokerError};
use super::convert;
use super::delivery::Delivery;
use super::host::Link;
use super::proto::pb;
use super::proto::pb::backend_server::Backend;
use super::returned::Returns;
use super::scratch::Files;
use crate::engine::error::Error;
use crate::engine::port::SystemClock;
use crate::engine::request::{self, Existence, LeaseGrant, Operation, Reply};
use crate::engine::transit::Underway;
use crate::engine::{self, Mount, Ports};
use crate::target::Drivers;

/// The metadata key by which calls name their mount.
const MOUNT_KEY: &str = "multiplex_id";
/// A secrets engine, in the host's numbering.
const SECRETS_ENGINE: u32 = 1;
/// How long Cleanup waits for a mount. The host holds its callers up meanwhile.
const CLEANUP: Patience = Patience { work: Duration::from_secs(2), sessions: Duration::from_secs(3) };

/// What a mount's instance is asked to do: [`Mount`], or a double of it.
#[async_trait]
pub(super) trait Engine: Send + Sync + 'static {
    /// See [`Mount::handle`].
    async fn handle(&self, request: request::Request) -> Reply;
    /// See [`Mount::start`].
    fn start(&self) {}
    /// See [`Mount::exists`].
    async fn exists(&self, path: &str, data: &request::Fields) -> Result<Existence, Error>;
    /// See [`Mount::invalidate`].
    fn invalidate(&self, key: &str);
    /// See [`Mount::delivered`].
    fn delivered(&self, _underway: &Underway) {}
    /// See [`Mount::undelivered`].
    async fn undelivered(&self, path: String, lease: LeaseGrant, underway: Option<&Underway>);
    /// See [`Mount::close`].
    async fn close(&self);
}

#[async_trait]
impl Engine for Mount {
    async fn handle(&self, request: request::Request) -> Reply {
        Mount::handle(self, request).await
    }
    fn start(&self) {
        Mount::start(self);
    }
    async fn exists(&self, path: &str, data: &request::Fields) -> Result<Existence, Error> {
        Mount::exists(self, path, data).await
    }
    fn invalidate(&self, key: &str) {
        Mount::invalidate(self, key);
    }
    fn delivered(&self, underway: &Underway) {
        Mount::delivered(self, underway);
    }
    async fn undelivered(&self, path: String, lease: LeaseGrant, underway: Option<&Underway>) {
        Mount::undelivered(self, path, lease, underway).await;
    }
    async fn close(&self) {
        Mount::close(self).await;
    }
}

/// Makes the instance for a mount with this stable id and these ports.
pub(super) type Make = Box<dyn Fn(String, Ports) -> Arc<dyn Engine> + Send + Sync>;

/// The service. Clones share the instances.
#[derive(Clone)]
pub(super) struct Instances(Arc<Shared>);

struct Shared {
    make: Make,
    broker: Broker,
    /// For the connections to the host's listeners.
    tls: Arc<ClientConfig>,
    returns: Returns,
    scratch: Arc<Files>,
    running: Mutex<HashMap<String, Arc<Instance>>>,
}

/// One mount.
struct Instance {
    engine: Arc<dyn Engine>,
    link: Arc<Link>,
    /// Work that must not end with the call that began it, and answers on their way.
    tasks: TaskTracker,
    returns: Returns,
}

/// How long to wait for a mount that is closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For requests that are at work, and for credentials to be ended that could not be delivered.
    pub(super) work: Duration,
    /// After that, for its sessions to close.
    pub(super) sessions: Duration,
}

/// Work ended in a panic. The hook has reported it.
struct Panicked;

impl From<Panicked> for Error {
    fn from(_: Panicked) -> Self {
        Error::Failed("internal error".into())
    }
}

impl Instances {
    /// No instance yet.
    pub(super) fn new(make: Make, broker: Broker, tls: Arc<ClientConfig>) -> Self {
        let scratch = Arc::new(Files::new(&std::env::temp_dir()));
        Self(Arc::new(Shared { make, broker, tls, returns: Returns::default(), scratch, running: Mutex::default() }))
    }

    /// Answers that the host may not have taken.
    pub(super) fn returns(&self) -> Returns {
        self.0.returns.clone()
    }

    /// Closes every instance.
    pub(super) async fn close(&self, patience: Patience) {
        let instances: Vec<_> = self.running().drain().map(|(_, instance)| instance).collect();
        futures_util::future::join_all(instances.iter().map(|instance| instance.close(patience))).await;
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Instance>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instance(&self, id: &str) -> Option<Arc<Instance>> {
        self.running().get(id).cloned()
    }

    async fn set_up(&self, id: String, args: pb::SetupArgs) -> Result<(), BrokerError> {
        let channel = self.0.broker.connect(args.broker_id, Arc::clone(&self.0.tls)).await?;
        let link = Arc::new(Link::new(channel));
        let ports = Ports {
            storage: link.clone(),
            host: link.clone(),
            clock: Arc::new(SystemClock),
            targets: Arc::new(Drivers),
            scratch: self.0.scratch.clone(),
            web: Arc::new(super::web::Outbound),
        };
        let engine = (self.0.make)(args.backend_uuid, ports);
        let instance = Arc::new(Instance { engine, link, tasks: TaskTracker::new(), returns: self.returns() });
        let replaced = self.running().insert(id, instance);
        if let Some(replaced) = replaced {
            tokio::spawn(async move { replaced.close(CLEANUP).await });
        }
        Ok(())
    }
}

/// What goes back to the host.
type Answer = (pb::HandleRequestReply, Option<Delivery>);

impl Instance {
    /// Runs `work` to its end even if the caller goes away, and keeps its panic from spreading.
    async fn detached<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Panicked> {
        self.tasks.spawn(work).await.map_err(|_| Panicked)
    }

    /// Answers one request. The [`Delivery`] comes with an answer that must not get lost.
    async fn answer(self: Arc<Self>, operation: Operation, request: pb::Request) -> Answer {
        let request = match convert::request(operation, request) {
            Ok(request) => request,
            Err(error) => return (convert::failure(&error), None),
        };
        let path = request.path.clone();
        let after = Uuid::try_parse(&request.id).ok().map(|id| (self.returns.clone(), id));
        let mut reply = self.engine.handle(request).await;
        if let (Operation::Help, "", Err(_)) = (operation, path.as_str(), &reply) {
            // The host is collecting everybody's API description; an error from one mount would spoil it for all.
            reply = Ok(None);
        }
        let sent = convert::reply(operation, &reply);
        let minted = matches!(operation, Operation::Read | Operation::Create | Operation::Update);
        let response = reply.ok().flatten().filter(|_| minted);
        let (lease, underway) = response.map_or((None, None), |response| (response.lease, response.underway));
        let runtime = tokio::runtime::Handle::current();
        let delivery = lease.map(|lease| {
            // Whoever closes the mount waits for the answer to be on its way or to be undone.
            let token = self.tasks.token();
            let underway = underway.map(Arc::new);
            let (engine, arrived) = (Arc::clone(&self.engine), underway.clone());
            let made = move || arrived.iter().for_each(|underway| engine.delivered(underway));
            Delivery::unless_made(after, token, made, move || {
                tracing::warn!("the caller left before the credential reached it; ending it");
                let engine = Arc::clone(&self.engine);
                let ending = async move { engine.undelivered(path, lease, underway.as_deref()).await };
                self.tasks.spawn_on(ending, &runtime);
            })
        });
        (sent, delivery)
    }

    /// Ends the instance: its work and its sessions first, while storage still works, then its connection to the host,
    /// which the host waits for.
    async fn close(&self, patience: Patience) {
        self.tasks.close();
        if tokio::time::timeout(patience.work, self.tasks.wait()).await.is_err() {
            tracing::warn!(requests = self.tasks.len(), "a mount is closed with work under way");
        }
        let engine = Arc::clone(&self.engine);
        let closing = tokio::spawn(async move { engine.close().await });
        if tokio::time::timeout(patience.sessions, closing).await.is_err() {
            tracing::warn!("a mount did not close its sessions in time");
        }
        self.link.sever();
    }
}

/// The mount that a call is for. A host that does not multiplex names none: the empty id serves as well as any.
fn mount_id<T>(request: &Request<T>) -> String {
    request.metadata().get(MOUNT_KEY).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

fn not_set_up() -> Error {
    Error::Failed("the plugin has no such mount: it was not set up, or it was cleaned up".into())
}

#[tonic::async_trait]
impl Backend for Instances {
    async fn setup(&self, request: Request<pb::SetupArgs>) -> Result<Response<pb::SetupReply>, Status> {
        let (id, instances) = (mount_id(&request), self.clone());
        let done = tokio::spawn(async move { instances.set_up(id, request.into_inner()).await }).await;
        let err = match done {
            Ok(Ok(())) => String::new(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => Error::from(Panicked).to_string(),
        };
        Ok(Response::new(pb::SetupReply { err }))
    }

    /// Never fails: a mount that cannot be initialized would stay, and fail every request again here.
    async fn initialize(&self, request: Request<pb::InitializeArgs>) -> Result<Response<pb::InitializeReply>, Status> {
        if let Some(instance) = self.instance(&mount_id(&request)) {
            instance.engine.start();
        }
        Ok(Response::new(pb::InitializeReply { err: None }))
    }

    async fn r#type(&self, _: Request<pb::Empty>) -> Result<Response<pb::TypeReply>, Status> {
        Ok(Response::new(pb::TypeReply { r#type: SECRETS_ENGINE }))
    }

    async fn special_paths(&self, _: Request<pb::Empty>) -> Result<Response<pb::SpecialPathsReply>, Status> {
        let seal_wrap_storage = engine::SEAL_WRAPPED.iter().map(ToString::to_string).collect();
        Ok(Response::new(pb::SpecialPathsReply { paths: Some(pb::Paths { seal_wrap_storage, ..Default::default() }) }))
    }

    async fn handle_existence_check(
        &self,
        request: Request<pb::HandleExistenceCheckArgs>,
    ) -> Result<Response<pb::HandleExistenceCheckReply>, Status> {
        let instance = self.instance(&mount_id(&request));
        let request = convert::request(Operation::Update, request.into_inner().request.unwrap_or_default());
        let found = match (instance, request) {
            (None, _) => Err(not_set_up()),
            (_, Err(unreadable)) => Err(unreadable),
            (Some(instance), Ok(request)) => {
                let engine = Arc::clone(&instance.engine);
                let checking = async move { engine.exists(&request.path, &request.data).await };
                instance.detached(checking).await.unwrap_or_else(|panicked| Err(panicked.into()))
            }
        };
        Ok(Response::new(convert::existence(&found)))
    }

    async fn handle_request(
        &self,
        request: Request<pb::HandleRequestArgs>,
    ) -> Result<Response<pb::HandleRequestReply>, Status> {
        let id = mount_id(&request);
        let request = request.into_inner().request.unwrap_or_default();
        // Before anything else: what is not one of our operations may come from anyone, and changes nothing.
        let Some(operation) = convert::operation(&request.operation) else {
            return Ok(Response::new(convert::unsupported_operation()));
        };
        let Some(instance) = self.instance(&id) else {
            return Ok(Response::new(convert::failure(&not_set_up())));
        };
        // If the caller leaves here, the work goes on, and its outcome is dropped where it ends: see `delivery`.
        let done = instance.detached(Arc::clone(&instance).answer(operation, request)).await;
        let (reply, delivery) = done.unwrap_or_else(|panicked| (convert::failure(&panicked.into()), None));
        let mut response = Response::new(reply);
        if let Some(delivery) = delivery {
            response.extensions_mut().insert(delivery);
        }
        Ok(response)
    }

    async fn invalidate_key(&self, request: Request<pb::InvalidateKeyArgs>) -> Result<Response<pb::Empty>, Status> {
        if let Some(instance) = self.instance(&mount_id(&request)) {
            let (engine, key) = (Arc::clone(&instance.engine), request.into_inner().key);
            // Nothing to tell the host: a panic here was reported by the hook.
            let _ = instance.detached(async move { engine.invalidate(&key) }).await;
        }
        Ok(Response::new(pb::Empty {}))
    }

    /// Comes twice on unmount; the second finds nothing.
    async fn cleanup(&self, request: Request<pb::Empty>) -> Result<Response<pb::Empty>, Status> {
        let removed = self.running().remove(&mount_id(&request));
        if let Some(instance) = removed {
            // To its end, even if the host stops waiting; there is no outcome.
            let _ = tokio::spawn(async move { instance.close(CLEANUP).await }).await;
        }
        Ok(Response::new(pb::Empty {}))
    }
}
