//! Sending a secret so that no copy stays in the HTTP/2 library.
//!
//! The library keeps one write buffer per connection for its life. Of a payload it copies the first bytes into it (up to
//! 256, or 1024 on a transport without vectored writes) and sends the rest by reference. So the first bytes of what
//! holds a secret are padding: white space where the receiver parses JSON ([`PADDING`] spaces), a field that nobody
//! knows, and therefore skips, in a plain message.

use bytes::BufMut as _;
use prost::Message as _;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::host::MESSAGE_LIMIT;
use super::proto::pb;
use crate::secret::memory::WIPE_KEPT;

/// How many bytes cover the part that is copied, whichever the transport.
pub(super) const PADDING: usize = 1280;

/// Tag of field 536870911 (the highest there is), length-delimited, and its length: 1280.
const FIELD: [u8; 7] = [0xfa, 0xff, 0xff, 0xff, 0x0f, 0x80, 0x0a];

/// `Storage/Put` with padding before the entry.
pub(super) async fn put(channel: Channel, args: pb::StoragePutArgs) -> Result<pb::StoragePutReply, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/pb.Storage/Put");
    Ok(client.unary(Request::new(args), path, PutCodec).await?.into_inner())
}

struct PutCodec;

impl Codec for PutCodec {
    type Encode = pb::StoragePutArgs;
    type Decode = pb::StoragePutReply;
    type Encoder = PutEncoder;
    type Decoder = <ProstCodec<Self::Encode, Self::Decode> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        PutEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Self::Encode, Self::Decode>::default().decoder()
    }
}

struct PutEncoder;

impl Encoder for PutEncoder {
    type Item = pb::StoragePutArgs;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(FIELD.len() + PADDING + item.encoded_len());
        if WIPE_KEPT {
            out.put_slice(&FIELD);
            out.put_bytes(0, PADDING);
        }
        item.encode(out).map_err(|e| Status::internal(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_padding_is_a_field_that_is_skipped() {
        let entry = pb::StorageEntry { key: "a/b".into(), value: b"x".to_vec(), seal_wrap: true };
        let args = pb::StoragePutArgs { entry: Some(entry), txn: String::new() };
        let mut bytes = FIELD.to_vec();
        bytes.resize(FIELD.len() + PADDING, 0);
        bytes.extend(args.encode_to_vec());
        assert!(pb::StoragePutArgs::decode(bytes.as_slice()).is_ok_and(|back| back == args));
    }
}
