//! The services of the process itself: version, multiplexing, output, the end.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::proto::logical::plugin_version_server::PluginVersion;
use super::proto::multiplexing::plugin_multiplexing_server::PluginMultiplexing;
use super::proto::multiplexing::{MultiplexingSupportRequest, MultiplexingSupportResponse};
use super::proto::plugin::StdioData;
use super::proto::plugin::grpc_controller_server::GrpcController;
use super::proto::plugin::grpc_stdio_server::GrpcStdio;
use super::proto::{logical, plugin};

/// The version as the host wants it: with a `v`. Without, the plugin can be registered but never enabled.
pub(super) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Answers for the process.
#[derive(Clone)]
pub(super) struct Process {
    /// Cancelled when the process is to end.
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl PluginVersion for Process {
    async fn version(&self, _: Request<logical::Empty>) -> Result<Response<logical::VersionReply>, Status> {
        Ok(Response::new(logical::VersionReply { plugin_version: VERSION.to_owned() }))
    }
}

#[tonic::async_trait]
impl PluginMultiplexing for Process {
    async fn multiplexing_support(
        &self,
        _: Request<MultiplexingSupportRequest>,
    ) -> Result<Response<MultiplexingSupportResponse>, Status> {
        Ok(Response::new(MultiplexingSupportResponse { supported: true }))
    }
}

#[tonic::async_trait]
impl GrpcController for Process {
    /// Begins the end; the server still sends this answer before it closes.
    async fn shutdown(&self, _: Request<plugin::Empty>) -> Result<Response<plugin::Empty>, Status> {
        self.stop.cancel();
        Ok(Response::new(plugin::Empty {}))
    }
}

#[tonic::async_trait]
impl GrpcStdio for Process {
    type StreamStdioStream = Pin<Box<dyn Stream<Item = Result<StdioData, Status>> + Send>>;

    /// Open and silent: everything we say is on stderr.
    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(stream::pending().take_until(self.stop.clone().cancelled_owned()).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_semantic_with_a_v() {
        assert!(VERSION.strip_prefix('v').is_some_and(|v| semver::Version::parse(v).is_ok()));
    }
}
