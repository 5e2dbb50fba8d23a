//! The host's plugin protocol: handshake, TLS, broker, services, conversion. The only place that knows tonic and prost.

#[doc(hidden)]
pub mod proto;
