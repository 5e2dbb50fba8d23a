//! A host whose word that the caller has left meets the answer on its way: frame by frame, for no HTTP/2 library does it
//! on demand.

use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

use super::host::{FakeHost, MountSide, args};
use super::{Seen, take};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

struct Connection(TlsStream<UnixStream>);

impl Connection {
    async fn open(host: &FakeHost) -> Connection {
        let config = host.identity.client_config(host.plugin.certificate()).unwrap();
        let socket = UnixStream::connect(&host.socket).await.unwrap();
        let tls = TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
        let mut connection = Connection(tls);
        connection.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        connection.send(SETTINGS, 0, 0, &[]).await;
        connection
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.0.write_all(&frame).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Sends a request for a credential.
    async fn request(&mut self, stream: u32) {
        let mut headers = vec![0x83, 0x86];
        for (name, value) in [
            (":path", "/pb.Backend/HandleRequest"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("multiplex_id", "m"),
        ] {
            // Literals that are not remembered.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).unwrap());
                headers.extend_from_slice(text.as_bytes());
            }
        }
        let mut args = args("read", "creds");
        args.request.as_mut().unwrap().id = Uuid::new_v4().to_string();
        let args = args.encode_to_vec();
        let message = [&[0], &u32::try_from(args.len()).unwrap().to_be_bytes()[..], &args].concat();
        self.send(HEADERS, END_HEADERS, stream, &headers).await;
        self.send(DATA, END_STREAM, stream, &message).await;
    }

    /// Reads until the last frame of the answer has come.
    async fn answer(&mut self, stream: u32) {
        loop {
            let mut header = [0; 9];
            self.0.read_exact(&mut header).await.unwrap();
            let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, l1, l2, l3]) as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            if u32::from_be_bytes([s1, s2, s3, s4]) == stream && kind == HEADERS && flags & END_STREAM != 0 {
                return;
            }
            assert!(kind != RST_STREAM, "the plugin gave up");
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_back_is_undone() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    let mut connection = Connection::open(&host).await;
    for stream in [1, 3, 5] {
        connection.request(stream).await;
    }
    for stream in [1, 3, 5] {
        connection.answer(stream).await;
    }
    assert!(seen.undelivered.lock().unwrap().is_empty());
    // The caller of the second had left before the host read its answer.
    connection.send(RST_STREAM, 0, 3, &8_u32.to_be_bytes()).await;
    take(&seen.ended).await;
    // Everything is over once the plugin has ended.
    host.stop.cancel();
    host.served.await.unwrap().unwrap();
    assert_eq!(*seen.undelivered.lock().unwrap(), ["creds"]);
}
