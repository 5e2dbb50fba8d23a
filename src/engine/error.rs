//! Why a request was not done. `wire` turns this into the host's error; nothing else does.

use crate::engine::port::{HostError, StorageError};

/// Why a request was not done, by cause. No text here is ever built from a statement, a DSN or a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong: HTTP 400 with this text and nothing around it.
    #[error("{0}")]
    Refused(String),
    /// It could not be done: HTTP 500 with this text.
    #[error("{0}")]
    Failed(String),
    /// A coded answer: the HTTP status and the text.
    #[error("{1}")]
    Coded(u16, String),
    /// No such path on this mount: HTTP 404.
    #[error("unsupported path")]
    UnsupportedPath,
    /// The path exists, the operation does not: HTTP 405.
    #[error("unsupported operation")]
    UnsupportedOperation,
    /// This node must not act; the host forwards the request to the active one when it sees this text.
    #[error("cannot write to readonly storage")]
    ReadOnly,
}

impl From<StorageError> for Error {
    fn from(e: StorageError) -> Self {
        Error::Failed(e.0)
    }
}

impl From<HostError> for Error {
    fn from(e: HostError) -> Self {
        Error::Failed(e.0)
    }
}
