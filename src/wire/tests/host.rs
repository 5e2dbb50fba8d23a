//! A host in the same process: the other half of the protocol, over real sockets and real TLS.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use super::super::broker::{Broker, BrokerError};
use super::super::host::MESSAGE_LIMIT;
use super::super::proto::pb;
use super::super::proto::pb::backend_client::BackendClient;
use super::super::proto::pb::storage_server::{Storage, StorageServer};
use super::super::proto::pb::system_view_server::{SystemView, SystemViewServer};
use super::super::proto::plugin::grpc_broker_client::GrpcBrokerClient;
use super::super::proto::plugin::grpc_stdio_client::GrpcStdioClient;
use super::super::proto::plugin::{ConnInfo, StdioData};
use super::super::returned::Returns;
use super::super::service::Make;
use super::super::tls::{Identity, incoming};
use super::super::{Plugin, RunError};

/// A host and the plugin that it started.
pub(super) struct FakeHost {
    pub(super) directory: tempfile::TempDir,
    pub(super) identity: Identity,
    pub(super) plugin: Identity,
    pub(super) socket: PathBuf,
    pub(super) channel: Channel,
    pub(super) stop: CancellationToken,
    pub(super) served: tokio::task::JoinHandle<Result<(), RunError>>,
    announce: mpsc::Sender<ConnInfo>,
    _broker: Streaming<ConnInfo>,
    _stdio: Streaming<StdioData>,
    next: AtomicU32,
}

impl FakeHost {
    /// Starts the plugin and does what hosts do first: connect, open both streams.
    pub(super) async fn start(make: Make) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("plugin");
        let (identity, plugin) = (Identity::of_a_host(), Identity::generate().unwrap());
        let stop = CancellationToken::new();
        let process = Plugin::new(&plugin, &identity.certificate(), make, stop.clone()).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let served = tokio::spawn(process.serve(listener));

        let channel = dial(&socket, &identity, &plugin).await.unwrap();
        let (announce, announcements) = mpsc::channel(8);
        let broker = GrpcBrokerClient::new(channel.clone())
            .start_stream(ReceiverStream::new(announcements))
            .await
            .unwrap()
            .into_inner();
        let stdio = GrpcStdioClient::new(channel.clone()).stream_stdio(()).await.unwrap().into_inner();
        Self {
            directory,
            identity,
            plugin,
            socket,
            channel,
            stop,
            served,
            announce,
            _broker: broker,
            _stdio: stdio,
            next: AtomicU32::new(1),
        }
    }

    /// The backend service for calls to mount `id`; `None` sends no id.
    pub(super) fn backend(&self, id: Option<&'static str>) -> Backend {
        let add = move |mut request: Request<()>| {
            if let Some(id) = id {
                request.metadata_mut().insert("multiplex_id", id.parse().unwrap());
            }
            Ok(request)
        };
        BackendClient::with_interceptor(self.channel.clone(), Box::new(add) as Box<Add>)
            .max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// Opens a listener for one mount, as yet unannounced.
    pub(super) fn listen(&self, mount: MountSide, identity: &Identity) -> Listener {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.path().join(format!("mount{id}"));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let tls = identity.server_config(self.plugin.certificate()).unwrap();
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(StorageServer::new(mount.clone()).max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(SystemViewServer::new(mount))
            .serve_with_incoming_shutdown(
                incoming(listener, tls, CancellationToken::new(), Returns::default()),
                stop.clone().cancelled_owned(),
            );
        let info =
            ConnInfo { service_id: id, network: "unix".into(), address: path.to_str().unwrap().into(), knock: None };
        Listener { id, info, stop, server: tokio::spawn(server) }
    }

    pub(super) async fn announce(&self, listener: &Listener) {
        self.announce.send(listener.info.clone()).await.unwrap();
    }

    /// Mounts `id` over `mount`.
    pub(super) async fn mount(&self, id: &'static str, mount: MountSide) -> Listener {
        let listener = self.listen(mount, &self.identity);
        self.announce(&listener).await;
        let err = self.set_up(id, listener.id).await;
        assert_eq!(err, "");
        listener
    }

    /// Calls Setup; returns the error text.
    pub(super) async fn set_up(&self, id: &'static str, broker_id: u32) -> String {
        let args = pb::SetupArgs { broker_id, config: Default::default(), backend_uuid: format!("uuid-{id}") };
        self.backend(Some(id)).setup(args).await.unwrap().into_inner().err
    }

    /// Sends one request to mount `id`.
    pub(super) async fn request(&self, id: &'static str, operation: &str, path: &str) -> pb::HandleRequestReply {
        self.backend(Some(id)).handle_request(args(operation, path)).await.unwrap().into_inner()
    }
}

pub(super) type Add = dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send + Sync;
pub(super) type Backend = BackendClient<tonic::service::interceptor::InterceptedService<Channel, Box<Add>>>;

/// One request, as the host sends it.
pub(super) fn args(operation: &str, path: &str) -> pb::HandleRequestArgs {
    let request =
        pb::Request { operation: operation.into(), path: path.into(), data_json: "null".into(), ..Default::default() };
    pb::HandleRequestArgs { storage_id: 0, request: Some(request) }
}

/// Connects to a plugin's socket as `host`, expecting `plugin`.
pub(super) async fn dial(socket: &std::path::Path, host: &Identity, plugin: &Identity) -> Result<Channel, BrokerError> {
    let broker = Broker::new(CancellationToken::new());
    broker.announce(ConnInfo {
        service_id: 1,
        network: "unix".into(),
        address: socket.to_str().unwrap().into(),
        knock: None,
    });
    broker.connect(1, host.client_config(plugin.certificate()).unwrap()).await
}

/// The listener of one mount.
pub(super) struct Listener {
    pub(super) id: u32,
    info: ConnInfo,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Listener {
    /// What a host does after Cleanup: it waits until the plugin has hung up.
    pub(super) async fn close(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.server).await.unwrap().unwrap().unwrap();
    }
}

/// Storage and system view of one mount.
#[derive(Clone, Default)]
pub(super) struct MountSide {
    pub(super) entries: Arc<Mutex<BTreeMap<String, pb::StorageEntry>>>,
    /// Answers like a host without paged lists.
    pub(super) no_pages: bool,
    pub(super) read_only: Arc<AtomicBool>,
    pub(super) state: i32,
}

impl MountSide {
    fn err(&self) -> String {
        if self.read_only.load(Ordering::Relaxed) { "cannot write to readonly storage".into() } else { String::new() }
    }

    /// The direct children of `prefix`, not in order.
    fn children(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for key in self.entries.lock().unwrap().keys().rev() {
            if let Some(rest) = key.strip_prefix(prefix) {
                let child = rest.split_inclusive('/').next().unwrap().to_owned();
                if !keys.contains(&child) {
                    keys.push(child);
                }
            }
        }
        keys
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn nothing<T>() -> Answer<T> {
    Err(Status::unimplemented("unknown method"))
}

#[tonic::async_trait]
impl Storage for MountSide {
    async fn list(&self, request: Request<pb::StorageListArgs>) -> Answer<pb::StorageListReply> {
        let keys = self.children(&request.into_inner().prefix);
        Ok(Response::new(pb::StorageListReply { keys, err: String::new() }))
    }
    async fn get(&self, request: Request<pb::StorageGetArgs>) -> Answer<pb::StorageGetReply> {
        let entry = self.entries.lock().unwrap().get(&request.into_inner().key).cloned();
        Ok(Response::new(pb::StorageGetReply { entry, err: String::new() }))
    }
    async fn put(&self, request: Request<pb::StoragePutArgs>) -> Answer<pb::StoragePutReply> {
        let (err, entry) = (self.err(), request.into_inner().entry.unwrap());
        if err.is_empty() {
            self.entries.lock().unwrap().insert(entry.key.clone(), entry);
        }
        Ok(Response::new(pb::StoragePutReply { err }))
    }
    async fn delete(&self, request: Request<pb::StorageDeleteArgs>) -> Answer<pb::StorageDeleteReply> {
        let err = self.err();
        if err.is_empty() {
            self.entries.lock().unwrap().remove(&request.into_inner().key);
        }
        Ok(Response::new(pb::StorageDeleteReply { err }))
    }
    async fn list_page(&self, request: Request<pb::StorageListPageArgs>) -> Answer<pb::StorageListReply> {
        if self.no_pages {
            return nothing();
        }
        let args = request.into_inner();
        let mut keys = self.children(&args.prefix);
        keys.sort();
        let keys = keys.into_iter().filter(|key| *key > args.after);
        let keys = keys.take(usize::try_from(args.limit).ok().filter(|n| *n > 0).unwrap_or(usize::MAX)).collect();
        Ok(Response::new(pb::StorageListReply { keys, err: String::new() }))
    }
    async fn is_transactional(&self, _: Request<pb::Empty>) -> Answer<pb::IsTransactionalReply> {
        nothing()
    }
    async fn begin_tx(&self, _: Request<pb::Empty>) -> Answer<pb::BeginTxReply> {
        nothing()
    }
    async fn begin_read_only_tx(&self, _: Request<pb::Empty>) -> Answer<pb::BeginTxReply> {
        nothing()
    }
    async fn commit(&self, _: Request<pb::EndTxArgs>) -> Answer<pb::EndTxReply> {
        nothing()
    }
    async fn rollback(&self, _: Request<pb::EndTxArgs>) -> Answer<pb::EndTxReply> {
        nothing()
    }
}

#[tonic::async_trait]
impl SystemView for MountSide {
    async fn default_lease_ttl(&self, _: Request<pb::Empty>) -> Answer<pb::TtlReply> {
        Ok(Response::new(pb::TtlReply { ttl: 3_600_000_000_000 }))
    }
    async fn max_lease_ttl(&self, _: Request<pb::Empty>) -> Answer<pb::TtlReply> {
        Ok(Response::new(pb::TtlReply { ttl: 7_200_000_000_000 }))
    }
    async fn tainted(&self, _: Request<pb::Empty>) -> Answer<pb::TaintedReply> {
        nothing()
    }
    async fn caching_disabled(&self, _: Request<pb::Empty>) -> Answer<pb::CachingDisabledReply> {
        nothing()
    }
    async fn replication_state(&self, _: Request<pb::Empty>) -> Answer<pb::ReplicationStateReply> {
        Ok(Response::new(pb::ReplicationStateReply { state: self.state }))
    }
    async fn response_wrap_data(&self, _: Request<pb::ResponseWrapDataArgs>) -> Answer<pb::ResponseWrapDataReply> {
        nothing()
    }
    async fn mlock_enabled(&self, _: Request<pb::Empty>) -> Answer<pb::MlockEnabledReply> {
        nothing()
    }
    async fn local_mount(&self, _: Request<pb::Empty>) -> Answer<pb::LocalMountReply> {
        nothing()
    }
    async fn entity_info(&self, _: Request<pb::EntityInfoArgs>) -> Answer<pb::EntityInfoReply> {
        nothing()
    }
    async fn plugin_env(&self, _: Request<pb::Empty>) -> Answer<pb::PluginEnvReply> {
        nothing()
    }
    async fn groups_for_entity(&self, _: Request<pb::EntityInfoArgs>) -> Answer<pb::GroupsForEntityReply> {
        nothing()
    }
    async fn generate_password_from_policy(
        &self,
        request: Request<pb::GeneratePasswordFromPolicyRequest>,
    ) -> Answer<pb::GeneratePasswordFromPolicyReply> {
        match request.into_inner().policy_name.as_str() {
            "" => Err(Status::invalid_argument("missing policy name")),
            "there" => Ok(Response::new(pb::GeneratePasswordFromPolicyReply { password: "generated".into() })),
            _ => Err(Status::internal("failed to generate password")),
        }
    }
    async fn cluster_info(&self, _: Request<pb::Empty>) -> Answer<pb::ClusterInfoReply> {
        nothing()
    }
    async fn generate_identity_token(
        &self,
        _: Request<pb::GenerateIdentityTokenRequest>,
    ) -> Answer<pb::GenerateIdentityTokenResponse> {
        nothing()
    }
    async fn register_rotation_job(
        &self,
        _: Request<pb::RegisterRotationJobRequest>,
    ) -> Answer<pb::RegisterRotationJobResponse> {
        nothing()
    }
    async fn deregister_rotation_job(&self, _: Request<pb::DeregisterRotationJobRequest>) -> Answer<pb::Empty> {
        nothing()
    }
}
