//! The host's plugin protocol: handshake, TLS, broker, services, conversion. The only place that knows tonic and prost.
//!
//! A plugin is a gRPC server on a unix socket, started by its host. Both ends know each other by certificates that they
//! exchanged at the start. One process serves several mounts; each has its own connection back to the host, for storage
//! and for questions about the mount.

mod broker;
mod convert;
mod delivery;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod host;
mod leaving;
mod lifetime;
mod padded;
mod process;
#[doc(hidden)]
pub mod proto;
mod returned;
mod scratch;
mod scrub;
mod service;
#[cfg(test)]
mod tests;
mod tls;
mod web;

use std::io::{self, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;

pub use self::handshake::{Invitation, Refusal};

use self::broker::Broker;
use self::host::MESSAGE_LIMIT;
use self::process::Process;
use self::proto::logical::plugin_version_server::PluginVersionServer;
use self::proto::multiplexing::plugin_multiplexing_server::PluginMultiplexingServer;
use self::proto::pb::backend_server::BackendServer;
use self::proto::plugin::grpc_broker_server::GrpcBrokerServer;
use self::proto::plugin::grpc_controller_server::GrpcControllerServer;
use self::proto::plugin::grpc_stdio_server::GrpcStdioServer;
use self::service::{Instances, Make, Patience};
use self::tls::{Identity, TlsError};
use crate::engine::{Mount, Orders};
use crate::secret::memory;

/// How long open calls may go on after the end was announced. The host has hung up by then, or waits for us.
const DRAIN: Duration = Duration::from_millis(150);
/// How long the mounts may take after that. The host kills us 2 s after it told us to end.
const LAST_WORK: Patience = Patience { work: Duration::from_secs(1), sessions: Duration::from_millis(300) };

/// Why the plugin could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No socket.
    #[error("cannot listen: {0}")]
    Listen(io::Error),
    /// No threads, signals or stdout.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The server gave up.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves mounts that are made by `orders` to the host that sent `invitation`, until it is told to end or the host is gone.
pub fn run(invitation: &Invitation, orders: Orders) -> Result<(), RunError> {
    let parent = lifetime::parent();
    if let Err(e) = memory::lock_pages() {
        let advice = "memory is not locked: grant CAP_IPC_LOCK, or keep swap off or encrypted";
        if invitation.lock_pages || memory::may_swap() {
            tracing::warn!(error = %e, "{advice}");
        } else {
            tracing::info!(error = %e, "{advice} (it is off now)");
        }
    }
    let identity = Identity::generate()?;
    let socket = invitation.bind().map_err(RunError::Listen)?;
    let listener = socket.listener().map_err(RunError::Listen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(memory::wipe_stack)
        .build()
        .map_err(RunError::Start)?;
    let make: Make = Box::new(move |id, ports| Arc::new(Mount::new(orders, id, ports)));
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let plugin = Plugin::new(&identity, &invitation.peer, make, stop.clone())?;
        lifetime::watch(parent, plugin.broker.streams(), stop).map_err(RunError::Start)?;
        announce(&invitation.answer(socket.path(), &identity.encoded())).map_err(RunError::Start)?;
        plugin.serve(listener).await
    });
    runtime.shutdown_background();
    ended
}

/// Writes the only thing that is ever written to stdout.
fn announce(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}

/// Everything that is served, not yet on a socket.
struct Plugin {
    tls: Arc<ServerConfig>,
    broker: Broker,
    instances: Instances,
    stop: CancellationToken,
}

impl Plugin {
    /// For the one host whose certificate is `peer`.
    fn new(
        identity: &Identity,
        peer: &CertificateDer<'static>,
        make: Make,
        stop: CancellationToken,
    ) -> Result<Self, TlsError> {
        let broker = Broker::new(stop.clone());
        let instances = Instances::new(make, broker.clone(), identity.client_config(peer.clone())?);
        Ok(Self { tls: identity.server_config(peer.clone())?, broker, instances, stop })
    }

    /// Serves until `stop`, then finishes quickly.
    async fn serve(self, listener: UnixListener) -> Result<(), RunError> {
        let listener = tokio::net::UnixListener::from_std(listener).map_err(RunError::Listen)?;
        let cut = CancellationToken::new();
        let process = Process { stop: self.stop.clone() };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("plugin", ServingStatus::Serving).await;
        let backend = BackendServer::new(self.instances.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        let server = Server::builder()
            // The peer is our own host. The defaults would let many callers wait in line behind 200 of them, and end
            // the connection, and with it every mount, when a few dozen callers leave at the same moment.
            .max_concurrent_streams(Some(65_536))
            .http2_max_pending_accept_reset_streams(Some(65_536))
            .http2_max_local_error_reset_streams(Some(65_536))
            .layer(delivery::Follow)
            .add_service(backend)
            .add_service(GrpcBrokerServer::new(self.broker))
            .add_service(GrpcStdioServer::new(process.clone()))
            .add_service(GrpcControllerServer::new(process.clone()))
            .add_service(PluginMultiplexingServer::new(process.clone()))
            .add_service(PluginVersionServer::new(process))
            .add_service(health_service)
            .serve_with_incoming_shutdown(
                tls::incoming(listener, self.tls, cut.clone(), self.instances.returns()),
                self.stop.clone().cancelled_owned(),
            );
        let served = tokio::select! {
            served = server => served,
            () = async { self.stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
        };
        // What was not answered by now will not be, and is told so: it may have a credential to end.
        cut.cancel();
        self.instances.close(LAST_WORK).await;
        Ok(served?)
    }
}
