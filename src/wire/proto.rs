//! The generated messages and services. The packages refer to each other as siblings, hence the names.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

/// The backend service, with storage and system view.
pub mod pb {
    tonic::include_proto!("pb");
}

/// Identity and version.
pub mod logical {
    tonic::include_proto!("logical");
}

/// Broker, controller and stdio.
pub mod plugin {
    tonic::include_proto!("plugin");
}

/// Whether one process may serve several mounts.
pub mod multiplexing {
    tonic::include_proto!("pluginutil.multiplexing");
}
