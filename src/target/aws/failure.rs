//! Why AWS did not do what it was asked.

use aws_sdk_iam::config::http::HttpResponse;
use aws_sdk_iam::error::{ProvideErrorMetadata, SdkError};

/// Codes by which AWS says "slow down". Those of its own libraries.
const THROTTLED: &[&str] = &[
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
];

/// A class of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Too many calls; waiting helps.
    Throttled,
    /// What was named is not there.
    Missing,
    /// Something of that name is there already.
    Exists,
    /// We lack a right.
    Denied,
    /// A limit of the account or of the document.
    Limit,
    /// Something else that AWS says no to.
    Refused,
    /// Nobody answered, or not in time; the call may have taken effect.
    Unreachable,
    /// We have no credentials to ask with.
    Unauthenticated,
}

/// A call that failed. The text is AWS's own in the form of its Go library, which the built-in engine shows; it holds
/// names and ARNs, never a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}{detail}")]
pub struct Failure {
    /// Its class.
    pub cause: Cause,
    /// AWS's code.
    pub code: String,
    /// AWS's message.
    pub message: String,
    /// HTTP status and id of the request, for whoever asks AWS's support.
    pub detail: String,
}

impl Failure {
    /// One of our own making.
    pub fn new(cause: Cause, code: &str, message: impl Into<String>) -> Self {
        Self { cause, code: code.to_owned(), message: message.into(), detail: String::new() }
    }

    /// Whether another place, or a later time, may have a better answer.
    pub fn is_passing(&self) -> bool {
        matches!(self.cause, Cause::Throttled | Cause::Unreachable)
    }
}

fn cause(code: &str, status: u16) -> Cause {
    match code {
        code if THROTTLED.contains(&code) => Cause::Throttled,
        "NoSuchEntity" | "NoSuchEntityException" => Cause::Missing,
        "EntityAlreadyExists" | "EntityAlreadyExistsException" => Cause::Exists,
        "LimitExceeded" | "PackedPolicyTooLarge" => Cause::Limit,
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => Cause::Denied,
        "InvalidClientTokenId" | "SignatureDoesNotMatch" | "ExpiredToken" | "UnrecognizedClientException" => {
            Cause::Unauthenticated
        }
        _ if status == 429 => Cause::Throttled,
        _ if status >= 500 => Cause::Unreachable,
        _ => Cause::Refused,
    }
}

/// Makes a failure of what the SDK says.
pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match &error {
        SdkError::ServiceError(inner) => {
            let status = inner.raw().status().as_u16();
            let meta = inner.err().meta();
            let code = meta.code().unwrap_or("Unknown").to_owned();
            let request = meta.extra("aws_request_id").unwrap_or_default();
            Failure {
                cause: cause(&code, status),
                message: meta.message().unwrap_or_default().trim().to_owned(),
                detail: format!("\n\tstatus code: {status}, request id: {request}"),
                code,
            }
        }
        SdkError::TimeoutError(_) => Failure::new(Cause::Unreachable, "RequestTimeout", "no answer in time"),
        SdkError::ResponseError(_) => Failure::new(Cause::Unreachable, "SerializationError", chain(&error)),
        SdkError::DispatchFailure(inner) if inner.is_timeout() => {
            Failure::new(Cause::Unreachable, "RequestTimeout", "no answer in time")
        }
        SdkError::DispatchFailure(inner) if inner.is_io() || inner.is_other() => {
            let text = chain(&error);
            let cause = if text.contains("credentials") { Cause::Unauthenticated } else { Cause::Unreachable };
            let code = if cause == Cause::Unauthenticated { "NoCredentialProviders" } else { "RequestError" };
            Failure::new(cause, code, text)
        }
        _ => Failure::new(Cause::Refused, "RequestError", chain(&error)),
    }
}

/// What went wrong, and why, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(inner) = next {
        let text = inner.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = inner.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_causes() {
        for (code, status, want) in [
            ("Throttling", 400, Cause::Throttled),
            ("Whatever", 429, Cause::Throttled),
            ("NoSuchEntity", 404, Cause::Missing),
            ("LimitExceeded", 409, Cause::Limit),
            ("AccessDenied", 403, Cause::Denied),
            ("ServiceFailure", 500, Cause::Unreachable),
            ("DeleteConflict", 409, Cause::Refused),
        ] {
            assert_eq!(cause(code, status), want, "{code}");
        }
    }
}
