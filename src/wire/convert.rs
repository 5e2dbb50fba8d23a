//! Between the host's messages and the engine's own types. The only place where an engine error becomes a wire error.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use serde_json::Value;

use super::host::nanoseconds;
use super::padded::PADDING;
use super::proto::pb;
use crate::engine::error::Error;
use crate::engine::request::{
    Caller, Datum, Existence, Fields, LeaseGrant, LeaseRef, Operation, Reply, Request, Response,
};
use crate::secret::memory::WIPE_KEPT;

/// Above this size a message leaves in several frames, and padding is needed at its end too: a short last frame would
/// be copied like a short first part.
const ONE_FRAME: usize = 15 * 1024;
/// Year 1, which is what the hosts' own language has for "no time".
const NO_TIME: Timestamp = Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// The host's kinds of error (`err_type`), and what they become.
mod kind {
    /// HTTP 500 with the text; also what the host inspects for its own words.
    pub(super) const OTHER: u32 = 0;
    /// In the answer to an existence check: HTTP 400 with the text. Elsewhere 500.
    pub(super) const USER: u32 = 1;
    /// HTTP `err_code` with the text.
    pub(super) const CODED: u32 = 3;
    /// HTTP 405.
    pub(super) const UNSUPPORTED_OPERATION: u32 = 5;
    /// HTTP 404.
    pub(super) const UNSUPPORTED_PATH: u32 = 6;
}

/// The operation of that name, or `None`: answer [`unsupported_operation`] then, and touch nothing.
///
/// OpenBao sends `resolve-path` before nearly every request of a user, with that request's path and without a token.
/// Whoever takes it for the request itself hands out credentials to anyone.
pub(super) fn operation(name: &str) -> Option<Operation> {
    Some(match name {
        "create" => Operation::Create,
        "update" => Operation::Update,
        "read" => Operation::Read,
        "delete" => Operation::Delete,
        "list" => Operation::List,
        "help" => Operation::Help,
        "renew" => Operation::Renew,
        "revoke" => Operation::Revoke,
        "rollback" => Operation::Rollback,
        _ => return None,
    })
}

/// The engine's view of `request`. Fails with what to answer.
pub(super) fn request(operation: Operation, request: pb::Request) -> Result<Request, Error> {
    let data = match operation {
        // What comes with these is the answer that the client once got, password and all. Nobody needs it.
        Operation::Renew | Operation::Revoke | Operation::Rollback => Fields::new(),
        _ => object(&request.data_json)
            .ok_or_else(|| Error::Refused("the data of the request is not a JSON object".into()))?,
    };
    let lease = request.secret.map(lease_ref).transpose()?;
    Ok(Request {
        id: request.id,
        operation,
        path: request.path,
        data,
        lease,
        caller: Caller {
            display_name: request.display_name,
            entity_id: request.entity_id,
            token_accessor: request.client_token_accessor,
            mount_point: request.mount_point,
        },
    })
}

fn lease_ref(secret: pb::Secret) -> Result<LeaseRef, Error> {
    // A kind of error that the host tries again: with others it would give the lease up, and the user would stay.
    let internal = object(&secret.internal_data_json)
        .ok_or_else(|| Error::Failed("the internal data of the lease is not a JSON object".into()))?;
    let options = secret.lease_options.unwrap_or_default();
    Ok(LeaseRef {
        internal,
        issued: options.issue_time.and_then(time),
        increment: nanoseconds(options.increment),
        id: secret.lease_id,
    })
}

/// A time after 1970; the hosts send year 1 for none.
fn time(stamp: Timestamp) -> Option<SystemTime> {
    let (Ok(seconds @ 1..), Ok(nanos)) = (u64::try_from(stamp.seconds), u32::try_from(stamp.nanos)) else {
        return None;
    };
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999)))
}

/// A JSON object with its numbers as they were written; `null` and the empty text are the empty object.
fn object(json: &str) -> Option<Fields> {
    if json.is_empty() {
        return Some(Fields::new());
    }
    match serde_json::from_str(json) {
        Ok(Value::Object(fields)) => Some(fields),
        Ok(Value::Null) => Some(Fields::new()),
        _ => None,
    }
}

/// The host's view of what the engine answered.
pub(super) fn reply(operation: Operation, reply: &Reply) -> pb::HandleRequestReply {
    match reply {
        Ok(Some(response)) => answer(self::response(response)),
        // To a question for help the host takes no answer for a bug of its own, and drops the connection.
        Ok(None) if operation == Operation::Help => answer(self::response(&Response::default())),
        Ok(None) => pb::HandleRequestReply::default(),
        Err(error) => failure(error),
    }
}

fn answer(response: pb::Response) -> pb::HandleRequestReply {
    pb::HandleRequestReply { response: Some(response), err: None }
}

/// What the host is told instead of an answer.
pub(super) fn failure(error: &Error) -> pb::HandleRequestReply {
    match error {
        // As data, the text reaches the caller with nothing around it and as HTTP 400.
        Error::Refused(text) => answer(self::response(&Response::data([("error", text.as_str().into())]))),
        other => pb::HandleRequestReply { response: None, err: Some(proto_error(other)) },
    }
}

/// The answer to what was not understood.
pub(super) fn unsupported_operation() -> pb::HandleRequestReply {
    failure(&Error::UnsupportedOperation)
}

fn proto_error(error: &Error) -> pb::ProtoError {
    let (err_type, err_code) = match error {
        Error::Refused(_) => (kind::USER, 0),
        Error::Failed(_) | Error::ReadOnly => (kind::OTHER, 0),
        Error::Coded(status, _) => (kind::CODED, i64::from(*status)),
        Error::UnsupportedPath => (kind::UNSUPPORTED_PATH, 0),
        Error::UnsupportedOperation => (kind::UNSUPPORTED_OPERATION, 0),
    };
    pb::ProtoError { err_type, err_msg: error.to_string(), err_code }
}

/// The host's view of what an existence check found.
pub(super) fn existence(found: &Result<Existence, Error>) -> pb::HandleExistenceCheckReply {
    let (check_found, exists, err) = match found {
        Ok(Existence::Unchecked) | Err(Error::UnsupportedPath) => (false, false, None),
        Ok(Existence::Found) => (true, true, None),
        Ok(Existence::Missing) => (true, false, None),
        Err(error) => (false, false, Some(proto_error(error))),
    };
    pb::HandleExistenceCheckReply { check_found, exists, err }
}

fn response(response: &Response) -> pb::Response {
    pb::Response {
        secret: response.lease.as_ref().map(secret),
        data_json: response.data.as_deref().map_or_else(|| "null".to_owned(), data),
        warnings: response.warnings.clone(),
        ..pb::Response::default()
    }
}

fn secret(lease: &LeaseGrant) -> pb::Secret {
    let options = pb::LeaseOptions {
        ttl: nanos(lease.ttl),
        renewable: lease.renewable,
        increment: 0,
        issue_time: Some(NO_TIME),
        max_ttl: nanos(lease.max_ttl),
    };
    // What was parsed from text, or made of strings and numbers, always has a JSON form.
    let internal_data_json = serde_json::to_string(&lease.internal).unwrap_or_else(|_| "null".to_owned());
    pb::Secret { lease_options: Some(options), internal_data_json, lease_id: String::new() }
}

/// Nanoseconds as the host counts them; at most 292 years.
fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// `fields` as a JSON object. A secret is written once, into a text that never has to grow and that starts with enough
/// white space (see [`super::padded`]).
fn data(fields: &[(String, Datum)]) -> String {
    let mut secret = false;
    let size: usize = fields
        .iter()
        .map(|(key, datum)| {
            let value = match datum {
                Datum::Plain(value) => value.to_string().len(),
                Datum::Secret(text) => {
                    secret = true;
                    longest(text.expose())
                }
            };
            longest(key) + value + 2
        })
        .sum();
    let pad = if secret && WIPE_KEPT { PADDING } else { 0 };
    let mut json = String::with_capacity(pad + 2 + size + pad);
    let room = json.capacity();
    json.extend(std::iter::repeat_n(' ', pad));
    json.push('{');
    for (i, (key, datum)) in fields.iter().enumerate() {
        if i > 0 {
            json.push(',');
        }
        write_text(&mut json, key);
        json.push(':');
        match datum {
            Datum::Plain(value) => json.push_str(&value.to_string()),
            Datum::Secret(text) => write_text(&mut json, text.expose()),
        }
    }
    json.push('}');
    if json.len() > ONE_FRAME {
        json.extend(std::iter::repeat_n(' ', pad));
    }
    debug_assert_eq!(json.capacity(), room, "the text had to grow");
    json
}

/// The longest JSON form that `text` can have.
fn longest(text: &str) -> usize {
    2 + 6 * text.len()
}

/// Appends `text` as a JSON string, without a copy elsewhere.
fn write_text(json: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            control @ '\0'..'\u{20}' => {
                let code = usize::from(control as u8);
                json.push_str("\\u00");
                json.push(char::from(HEX[code >> 4]));
                json.push(char::from(HEX[code & 15]));
            }
            other => json.push(other),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn wire_request(operation: &str, data: &str) -> pb::Request {
        pb::Request { operation: operation.into(), path: "p".into(), data_json: data.into(), ..Default::default() }
    }

    #[test]
    fn only_known_operations() {
        for name in ["create", "update", "read", "delete", "list", "help", "renew", "revoke", "rollback"] {
            assert!(operation(name).is_some(), "{name}");
        }
        for name in ["resolve-path", "resolve-role", "alias-lookahead", "header", "patch", "scan", "", "Read", "read "]
        {
            assert!(operation(name).is_none(), "{name}");
        }
    }

    #[test]
    fn request_data_keeps_the_text_of_numbers() {
        let json = r#"{"big":12345678901234567890123,"money":1.50,"nested":{"a":[1,null]}}"#;
        let read = request(Operation::Update, wire_request("update", json)).unwrap();
        assert_eq!(read.data["big"].to_string(), "12345678901234567890123");
        assert_eq!(read.data["money"].to_string(), "1.50");
        for empty in ["null", "", "{}"] {
            assert!(request(Operation::Read, wire_request("read", empty)).unwrap().data.is_empty());
        }
        for bad in ["[]", "3", "{", "{} {}"] {
            assert!(matches!(request(Operation::Read, wire_request("read", bad)), Err(Error::Refused(_))), "{bad}");
        }
    }

    #[test]
    fn the_password_of_a_lease_is_not_even_parsed() {
        for operation in [Operation::Renew, Operation::Revoke, Operation::Rollback] {
            let read = request(operation, wire_request("", r#"{"password":"x"}"#)).unwrap();
            assert!(read.data.is_empty());
        }
    }

    #[test]
    fn reads_a_lease() {
        let mut wire = wire_request("renew", "null");
        let options = pb::LeaseOptions {
            increment: 120_000_000_000,
            issue_time: Some(Timestamp { seconds: 1_800_000_000, nanos: 5 }),
            ..Default::default()
        };
        wire.secret = Some(pb::Secret {
            lease_options: Some(options),
            internal_data_json: r#"{"username":"u","n":1}"#.into(),
            lease_id: "id".into(),
        });
        let lease = request(Operation::Renew, wire.clone()).unwrap().lease.unwrap();
        assert_eq!(lease.increment, Duration::from_secs(120));
        assert_eq!(lease.issued, Some(SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 5)));
        assert_eq!(lease.internal["username"], "u");
        assert_eq!(lease.id, "id");

        // Undoing a credential whose lease could not be stored carries year 1.
        wire.secret.as_mut().unwrap().lease_options.as_mut().unwrap().issue_time = Some(NO_TIME);
        assert_eq!(request(Operation::Revoke, wire.clone()).unwrap().lease.unwrap().issued, None);

        // The host must try again, so this may not be an error that it takes for final.
        wire.secret.as_mut().unwrap().internal_data_json = "[".into();
        assert!(matches!(request(Operation::Revoke, wire), Err(Error::Failed(_))));
    }

    #[test]
    fn an_answer_always_has_data_and_a_lease_always_a_time() {
        let lease = LeaseGrant {
            ttl: Duration::from_secs(60),
            max_ttl: Duration::MAX,
            renewable: true,
            internal: Fields::new(),
        };
        let response = Response { lease: Some(lease), ..Default::default() };
        let sent = reply(Operation::Renew, &Ok(Some(response))).response.unwrap();
        assert_eq!(sent.data_json, "null");
        let secret = sent.secret.unwrap();
        assert_eq!(secret.internal_data_json, "{}");
        let options = secret.lease_options.unwrap();
        assert_eq!(options.issue_time, Some(NO_TIME));
        assert_eq!((options.ttl, options.max_ttl), (60_000_000_000, i64::MAX));
        assert!(options.renewable);
    }

    #[test]
    fn nothing_to_say() {
        assert!(reply(Operation::Read, &Ok(None)) == pb::HandleRequestReply::default());
        let help = reply(Operation::Help, &Ok(None));
        assert_eq!(help.response.unwrap().data_json, "null");
    }

    #[test]
    fn errors() {
        let refused = reply(Operation::Read, &Err(Error::Refused("no \"x\"".into())));
        assert!(refused.err.is_none());
        assert_eq!(refused.response.unwrap().data_json, r#"{"error":"no \"x\""}"#);
        for (error, wanted) in [
            (Error::Failed("cannot write to readonly storage".into()), (0, "cannot write to readonly storage", 0)),
            (Error::ReadOnly, (0, "cannot write to readonly storage", 0)),
            (Error::Coded(429, "slow down".into()), (3, "slow down", 429)),
            (Error::UnsupportedPath, (6, "unsupported path", 0)),
            (Error::UnsupportedOperation, (5, "unsupported operation", 0)),
        ] {
            let sent = reply(Operation::Read, &Err(error));
            assert!(sent.response.is_none());
            let err = sent.err.unwrap();
            assert_eq!((err.err_type, err.err_msg.as_str(), err.err_code), wanted);
        }
    }

    #[test]
    fn existence_checks_have_their_own_errors() {
        let of = |found| existence(&found);
        assert!(!of(Ok(Existence::Unchecked)).check_found);
        assert!(of(Ok(Existence::Found)).exists);
        let missing = of(Ok(Existence::Missing));
        assert!(missing.check_found && !missing.exists);
        let unsupported = of(Err(Error::UnsupportedPath));
        assert!(!unsupported.check_found && unsupported.err.is_none());
        let refused = of(Err(Error::Refused("bad".into()))).err.unwrap();
        assert_eq!((refused.err_type, refused.err_msg.as_str()), (1, "bad"));
        assert_eq!(of(Err(Error::Failed("down".into()))).err.unwrap().err_type, 0);
    }

    #[test]
    fn only_secrets_are_padded() {
        let plain = Response::data([("a", 1.into()), ("b", "x".into())]);
        assert_eq!(response(&plain).data_json, r#"{"a":1,"b":"x"}"#);
        assert_eq!(response(&Response::data::<String>([])).data_json, "{}");
        let long = "s".repeat(20_000);
        for (text, tail) in [("s", 0), (long.as_str(), PADDING)] {
            let data = vec![("password".to_owned(), Datum::Secret(Secret::new(text.to_owned())))];
            let json = response(&Response { data: Some(data), ..Default::default() }).data_json;
            assert_eq!(json.len() - json.trim_start().len(), PADDING);
            assert_eq!(json.len() - json.trim_end().len(), tail);
        }
    }

    proptest! {
        #[test]
        fn any_secret_arrives_and_is_written_once(key in any::<String>(), text in any::<String>(), n in any::<i64>()) {
            let fields = vec![
                ("n".to_owned(), Datum::Plain(n.into())),
                (format!("k{key}"), Datum::Secret(Secret::new(text.clone()))),
            ];
            let json = data(&fields);
            let back: Value = serde_json::from_str(&json).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(back["n"].as_i64(), Some(n));
            prop_assert_eq!(back[format!("k{key}")].as_str(), Some(text.as_str()));
        }

        #[test]
        fn no_request_panics(operation_name in any::<String>(), json in any::<String>(), seconds in any::<i64>(), nanos in any::<i32>()) {
            let mut wire = wire_request(&operation_name, &json);
            let options = pb::LeaseOptions {
                increment: seconds,
                issue_time: Some(Timestamp { seconds, nanos }),
                ..Default::default()
            };
            wire.secret = Some(pb::Secret { lease_options: Some(options), internal_data_json: json, ..Default::default() });
            for operation in [Operation::Update, Operation::Renew] {
                let _ = request(operation, wire.clone());
            }
        }
    }
}
