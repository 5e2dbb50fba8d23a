//! The broker: the host announces a listener per mount, we dial it to reach that mount's storage and system view.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::proto::plugin::ConnInfo;
use super::proto::plugin::grpc_broker_server::GrpcBroker;
use super::scrub::Scrubbed;
use super::tls::TlsStream;

/// How long to wait for an announcement, and for the connection to it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest a call to the host may take. The host allows its own callers 90 s.
const CALL_LIMIT: Duration = Duration::from_secs(90);

/// Why a mount's listener cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokerError {
    /// The host did not announce the listener in time.
    #[error("the host announced no listener {0} within {PATIENCE:?}")]
    NotAnnounced(u32),
    /// The host announced a listener of a kind that we cannot dial.
    #[error("the host announced a listener on network {0:?}, which is not supported")]
    Network(String),
    /// The listener was announced but cannot be reached.
    #[error("cannot connect to the host's listener: {0}")]
    Connect(tonic::transport::Error),
    /// The listener was announced but did not answer.
    #[error("cannot connect to the host's listener within {PATIENCE:?}")]
    Timeout,
}

/// Announcements that wait to be claimed, and whether the host's stream is there. Clones share all of it.
#[derive(Clone)]
pub(super) struct Broker {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    /// Socket path or the reason why it cannot be used, by listener id.
    announced: Mutex<HashMap<u32, ConnInfo>>,
    arrived: Notify,
    streams: watch::Sender<Streams>,
}

/// What became of the host's broker streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Streams {
    /// How many were ever opened. A host opens one.
    pub(super) opened: usize,
    /// How many of them ended.
    pub(super) ended: usize,
}

impl Broker {
    /// A broker whose streams end with `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let shared = Shared {
            announced: Mutex::default(),
            arrived: Notify::new(),
            streams: watch::Sender::new(Streams::default()),
        };
        Self { shared: Arc::new(shared), stop }
    }

    /// To follow the host's streams.
    pub(super) fn streams(&self) -> watch::Receiver<Streams> {
        self.shared.streams.subscribe()
    }

    /// Connects to listener `id`, announced already or within the next seconds. Each can be claimed once.
    pub(super) async fn connect(&self, id: u32, tls: Arc<ClientConfig>) -> Result<Channel, BrokerError> {
        let claim = tokio::time::timeout(PATIENCE, self.claim(id)).await;
        let info = claim.map_err(|_| BrokerError::NotAnnounced(id))?;
        if info.network != "unix" {
            return Err(BrokerError::Network(info.network));
        }
        let dialer = Dialer { path: Arc::from(info.address), tls };
        // No keepalive: the host ends connections that ping it more often than it likes.
        let endpoint = Endpoint::from_static("http://localhost").timeout(CALL_LIMIT);
        match tokio::time::timeout(PATIENCE, endpoint.connect_with_connector(dialer)).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(e)) => Err(BrokerError::Connect(e)),
            Err(_) => Err(BrokerError::Timeout),
        }
    }

    async fn claim(&self, id: u32) -> ConnInfo {
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            // Listen first, look then: an announcement in between is not missed.
            arrived.as_mut().enable();
            if let Some(info) = self.announced().remove(&id) {
                return info;
            }
            arrived.await;
        }
    }

    /// Keeps an announcement until it is claimed.
    pub(super) fn announce(&self, info: ConnInfo) {
        // A knock belongs to brokering over one multiplexed connection, which we said we do not do.
        if info.knock.is_none() {
            self.announced().insert(info.service_id, info);
            self.shared.arrived.notify_waiters();
        }
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, HashMap<u32, ConnInfo>> {
        self.shared.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = Pin<Box<dyn Stream<Item = Result<ConnInfo, Status>> + Send>>;

    /// Takes announcements until the host hangs up. We announce nothing ourselves, but our half stays open: the host
    /// takes its end for the end of the broker, and then never finishes to unmount.
    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let mut announcements = request.into_inner();
        let broker = self.clone();
        self.shared.streams.send_modify(|s| s.opened += 1);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = announcements.message() => next,
                    () = broker.stop.cancelled() => break,
                };
                let Ok(Some(info)) = next else { break };
                broker.announce(info);
            }
            broker.shared.streams.send_modify(|s| s.ended += 1);
        });
        Ok(Response::new(stream::pending().take_until(self.stop.clone().cancelled_owned()).boxed()))
    }
}

/// Opens connections to one listener. The host's listener accepts many, so a lost connection can be made again.
struct Dialer {
    path: Arc<str>,
    tls: Arc<ClientConfig>,
}

impl tower_service::Service<http::Uri> for Dialer {
    type Response = TokioIo<Scrubbed<TlsStream<UnixStream, UnbufferedClientConnection>>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (path, tls) = (Arc::clone(&self.path), Arc::clone(&self.tls));
        Box::pin(async move {
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            let socket = UnixStream::connect(&*path).await?;
            Ok(TokioIo::new(Scrubbed::from_server(TlsStream::connect(socket, tls, name).await?)))
        })
    }
}
