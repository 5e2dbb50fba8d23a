//! The doors of the fuzz targets (`fuzz/`), which cannot reach in. Built by `scripts/fuzz` only.

use std::path::PathBuf;

use prost::Message as _;

use super::convert;
use super::handshake::Invitation;
use super::proto::pb;
use super::returned::Returns;

const OPERATIONS: [&str; 9] = ["create", "update", "read", "delete", "list", "help", "renew", "revoke", "rollback"];

/// A request as the host sends it, in each operation. The first byte says whether what follows is the message, or the
/// JSON in one.
pub fn request(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let request = if kind % 2 == 0 {
        let args = pb::HandleRequestArgs::decode(rest).ok();
        args.and_then(|args| args.request).unwrap_or_default()
    } else {
        let json = String::from_utf8_lossy(rest).into_owned();
        let secret = pb::Secret { internal_data_json: json.clone(), ..Default::default() };
        pb::Request { data_json: json, secret: Some(secret), ..Default::default() }
    };
    for name in OPERATIONS.iter().copied().chain([request.operation.as_str()]) {
        if let Some(operation) = convert::operation(name) {
            let _ = convert::request(operation, request.clone());
        }
    }
}

/// The environment of the process, a variable a line.
pub fn environment(text: &str) {
    let variable = |name: &str| {
        let found = text.lines().find_map(|line| line.split_once('=').filter(|(known, _)| *known == name));
        // A line cannot hold the lines of a certificate.
        found.map(|(_, value)| value.replace('|', "\n"))
    };
    let _ = Invitation::from_variables(variable, PathBuf::from("/tmp"));
}

/// The bytes of the host's connection, as far as they are followed.
pub fn frames(data: &[u8]) {
    let mut scan = Returns::default().scan();
    scan.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    data.chunks(7).for_each(|piece| scan.read(piece));
}
