//! The plugin and a fake host in one process, over real sockets and TLS.

mod crossing;
mod host;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

use self::host::{FakeHost, MountSide, args, dial};
use super::proto::logical::plugin_version_client::PluginVersionClient;
use super::proto::multiplexing::MultiplexingSupportRequest;
use super::proto::multiplexing::plugin_multiplexing_client::PluginMultiplexingClient;
use super::proto::plugin::grpc_controller_client::GrpcControllerClient;
use super::proto::{logical, pb, plugin};
use super::service::{Engine, Make};
use super::tls::Identity;
use crate::engine::Ports;
use crate::engine::error::Error;
use crate::engine::request::{Datum, Existence, Fields, LeaseGrant, Reply, Request, Response};
use crate::engine::transit::Underway;
use crate::secret::Secret;

/// What all mounts of one plugin did.
struct Seen {
    made: Mutex<Vec<String>>,
    handled: AtomicUsize,
    checked: AtomicUsize,
    undelivered: Mutex<Vec<String>>,
    invalidated: Mutex<Vec<String>>,
    closed: AtomicUsize,
    /// A request for `slow` adds a permit when it begins…
    begun: Semaphore,
    /// …and takes one before it ends.
    finish: Semaphore,
    /// One permit for each credential that was ended for want of delivery.
    ended: Semaphore,
}

impl Seen {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            made: Mutex::default(),
            handled: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
            undelivered: Mutex::default(),
            invalidated: Mutex::default(),
            closed: AtomicUsize::new(0),
            begun: Semaphore::new(0),
            finish: Semaphore::new(0),
            ended: Semaphore::new(0),
        })
    }

    /// Makes mounts that report here.
    fn make(self: &Arc<Self>) -> Make {
        let seen = Arc::clone(self);
        Box::new(move |id, ports| {
            seen.made.lock().unwrap().push(id);
            Arc::new(Probe { ports, seen: Arc::clone(&seen) })
        })
    }
}

/// Takes one permit for good, or fails the test.
async fn take(semaphore: &Semaphore) {
    tokio::time::timeout(Duration::from_secs(5), semaphore.acquire()).await.expect("in time").unwrap().forget();
}

/// A mount that does what the path says.
struct Probe {
    ports: Ports,
    seen: Arc<Seen>,
}

fn credential(path: &str, password: String) -> Reply {
    let internal = Fields::from_iter([("path".to_owned(), path.into())]);
    Ok(Some(Response {
        data: Some(vec![("password".into(), Datum::Secret(Secret::new(password)))]),
        lease: Some(LeaseGrant { ttl: Duration::from_secs(60), max_ttl: Duration::ZERO, renewable: true, internal }),
        warnings: vec!["careful".into()],
        ..Response::default()
    }))
}

#[async_trait]
impl Engine for Probe {
    async fn handle(&self, request: Request) -> Reply {
        self.seen.handled.fetch_add(1, SeqCst);
        let (storage, host) = (&self.ports.storage, &self.ports.host);
        match request.path.as_str() {
            "write" => {
                for key in ["a/b", "a/c/d", "a/e"] {
                    storage.put(key, &Secret::new(format!("value of {key}")), key == "a/b").await?;
                }
                storage.delete("a/e").await?;
                Ok(None)
            }
            "read" => {
                let value = storage.get("a/b").await?.ok_or(Error::UnsupportedPath)?;
                let missing = storage.get("none").await?.is_none();
                let keys = storage.list("a/", "", 0).await?;
                let second = storage.list("a/", "b", 1).await?;
                let data = [("keys", keys.into()), ("second", second.into()), ("missing", missing.into())];
                let mut response = Response::data(data);
                response.data.as_mut().unwrap().push(("value".into(), Datum::Secret(value)));
                Ok(Some(response))
            }
            "view" => {
                let there = host.generate_password("there").await?.map(|p| p.expose().to_owned());
                let none = host.generate_password("none").await?.is_none();
                let unnamed = host.generate_password("").await.is_err();
                let data = [
                    ("default", host.default_lease_ttl().await?.as_secs().into()),
                    ("max", host.max_lease_ttl().await?.as_secs().into()),
                    ("standby", host.is_standby().await?.into()),
                    ("password", there.into()),
                    ("refused", (none && unnamed).into()),
                ];
                Ok(Some(Response::data(data)))
            }
            "large" => {
                storage.put("large", &Secret::new("x".repeat(6 << 20)), false).await?;
                let back = storage.get("large").await?.ok_or(Error::UnsupportedPath)?;
                Ok(Some(Response { data: Some(vec![("x".into(), Datum::Secret(back))]), ..Response::default() }))
            }
            "panic" => panic!("on purpose"),
            "creds" => credential("creds", "s3cret".into()),
            "large-creds" => credential("large-creds", "s".repeat(16 << 20)),
            "slow" => {
                self.seen.begun.add_permits(1);
                self.seen.finish.acquire().await.unwrap().forget();
                credential("slow", "s3cret".into())
            }
            _ => Err(Error::UnsupportedPath),
        }
    }

    async fn exists(&self, path: &str, _data: &Fields) -> Result<Existence, Error> {
        self.seen.checked.fetch_add(1, SeqCst);
        match path {
            "panic" => panic!("on purpose"),
            "write" => Ok(Existence::Missing),
            _ => Err(Error::UnsupportedPath),
        }
    }

    fn invalidate(&self, key: &str) {
        assert_ne!(key, "panic", "on purpose");
        self.seen.invalidated.lock().unwrap().push(key.to_owned());
    }

    async fn undelivered(&self, path: String, lease: LeaseGrant, _underway: Option<&Underway>) {
        assert_eq!(lease.internal["path"], path);
        self.seen.undelivered.lock().unwrap().push(path);
        self.seen.ended.add_permits(1);
    }

    async fn close(&self) {
        self.seen.closed.fetch_add(1, SeqCst);
    }
}

fn json(reply: &pb::HandleRequestReply) -> serde_json::Value {
    serde_json::from_str(&reply.response.as_ref().unwrap().data_json).unwrap()
}

#[tokio::test]
async fn storage_and_view_through_the_broker() {
    for no_pages in [false, true] {
        let seen = Seen::new();
        let host = FakeHost::start(seen.make()).await;
        let side = MountSide { no_pages, ..MountSide::default() };
        let _listener = host.mount("m", side.clone()).await;
        assert!(host.request("m", "update", "write").await == pb::HandleRequestReply::default());
        let read = json(&host.request("m", "read", "read").await);
        assert_eq!(read["value"], "value of a/b");
        assert_eq!(read["keys"], serde_json::json!(["b", "c/"]));
        assert_eq!(read["second"], serde_json::json!(["c/"]));
        assert_eq!(read["missing"], true);
        let wraps = side.entries.lock().unwrap().values().map(|e| e.seal_wrap).collect::<Vec<_>>();
        assert_eq!(wraps, [true, false]);

        let view = json(&host.request("m", "read", "view").await);
        assert_eq!(
            view,
            serde_json::json!({
                "default": 3600, "max": 7200, "standby": false, "password": "generated", "refused": true
            })
        );
        assert_eq!(*seen.made.lock().unwrap(), ["uuid-m"]);
    }
}

#[tokio::test]
async fn the_words_of_a_standby_pass_unchanged() {
    let host = FakeHost::start(Seen::new().make()).await;
    let side = MountSide { state: 24_576, ..MountSide::default() };
    side.read_only.store(true, SeqCst);
    let _listener = host.mount("m", side).await;
    assert_eq!(json(&host.request("m", "read", "view").await)["standby"], true);
    let err = host.request("m", "update", "write").await.err.unwrap();
    assert_eq!((err.err_type, err.err_msg.as_str()), (0, "cannot write to readonly storage"));
}

#[tokio::test]
async fn an_announcement_may_come_late() {
    let host = FakeHost::start(Seen::new().make()).await;
    let late = host.listen(MountSide::default(), &host.identity);
    let soon = host.listen(MountSide::default(), &host.identity);
    let both = async {
        tokio::join!(host.set_up("late", late.id), host.set_up("soon", soon.id), async {
            // Both calls are on their way when the announcements come, the later listener's first.
            tokio::task::yield_now().await;
            host.announce(&soon).await;
            host.announce(&late).await;
        })
    };
    let (late_err, soon_err, ()) = both.await;
    assert_eq!((late_err.as_str(), soon_err.as_str()), ("", ""));
    assert_eq!(json(&host.request("late", "read", "view").await)["max"], 7200);
    assert_eq!(json(&host.request("soon", "read", "view").await)["max"], 7200);
}

#[tokio::test]
async fn a_setup_that_cannot_reach_its_host_says_so() {
    let host = FakeHost::start(Seen::new().make()).await;
    // Never announced.
    assert!(host.set_up("a", 77).await.contains("no listener 77"));
    // Somebody else behind the socket.
    let other = host.listen(MountSide::default(), &Identity::of_a_host());
    host.announce(&other).await;
    assert!(host.set_up("b", other.id).await.starts_with("cannot connect"));
    // And the plugin is none the worse for it.
    let _listener = host.mount("c", MountSide::default()).await;
    assert_eq!(json(&host.request("c", "read", "view").await)["max"], 7200);
}

#[tokio::test]
async fn only_the_host_gets_in() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    // Another certificate of the same make.
    let stranger = dial(&host.socket, &Identity::of_a_host(), &host.plugin).await;
    // With TLS 1.3 the client believes itself connected until it reads the refusal.
    if let Ok(channel) = stranger {
        let answer = pb::backend_client::BackendClient::new(channel).r#type(pb::Empty {}).await;
        assert!(answer.is_err());
    }
    // No TLS at all.
    let mut plain = tokio::net::UnixStream::connect(&host.socket).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // A peer that says nothing does not hold anybody up.
    let _silent = tokio::net::UnixStream::connect(&host.socket).await.unwrap();
    let again = dial(&host.socket, &host.identity, &host.plugin).await.unwrap();
    let answer = pb::backend_client::BackendClient::new(again).r#type(pb::Empty {}).await;
    assert_eq!(answer.unwrap().into_inner().r#type, 1);
    // A host that expects another plugin refuses this one.
    assert!(dial(&host.socket, &host.identity, &Identity::generate().unwrap()).await.is_err());
}

#[tokio::test]
async fn what_needs_no_mount() {
    let host = FakeHost::start(Seen::new().make()).await;
    for id in [None, Some("nobody")] {
        let mut backend = host.backend(id);
        assert_eq!(backend.r#type(pb::Empty {}).await.unwrap().into_inner().r#type, 1);
        let paths = backend.special_paths(pb::Empty {}).await.unwrap().into_inner().paths.unwrap();
        assert_eq!(paths.seal_wrap_storage, crate::engine::SEAL_WRAPPED);
        assert!(backend.initialize(pb::InitializeArgs {}).await.unwrap().into_inner().err.is_none());
        backend.cleanup(pb::Empty {}).await.unwrap();
        backend.invalidate_key(pb::InvalidateKeyArgs { key: "k".into() }).await.unwrap();
        let reply = backend.handle_request(args("read", "creds")).await.unwrap().into_inner();
        assert_eq!(reply.err.unwrap().err_type, 0);
        let check = pb::HandleExistenceCheckArgs { storage_id: 0, request: None };
        let reply = backend.handle_existence_check(check).await.unwrap().into_inner();
        assert_eq!(reply.err.unwrap().err_type, 0);
        let nothing = pb::HandleRequestArgs { storage_id: 0, request: None };
        assert_eq!(backend.handle_request(nothing).await.unwrap().into_inner().err.unwrap().err_type, 5);
    }
    let version = PluginVersionClient::new(host.channel.clone()).version(logical::Empty {}).await;
    assert_eq!(version.unwrap().into_inner().plugin_version, super::process::VERSION);
    let support =
        PluginMultiplexingClient::new(host.channel.clone()).multiplexing_support(MultiplexingSupportRequest {}).await;
    assert!(support.unwrap().into_inner().supported);
}

#[tokio::test]
async fn what_is_not_an_operation_touches_nothing() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    for operation in ["resolve-path", "header", "patch", "scan", "", "READ"] {
        let reply = host.request("m", operation, "creds").await;
        assert_eq!(reply.err.unwrap().err_type, 5, "{operation}");
        assert!(reply.response.is_none());
    }
    assert_eq!(seen.handled.load(SeqCst), 0);
    assert_eq!(seen.checked.load(SeqCst), 0);
}

#[tokio::test]
async fn a_panic_fails_one_request_only() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    let slow = tokio::spawn({
        let mut backend = host.backend(Some("m"));
        async move { backend.handle_request(args("update", "slow")).await }
    });
    take(&seen.begun).await;
    let err = host.request("m", "read", "panic").await.err.unwrap();
    assert_eq!((err.err_type, err.err_msg.as_str()), (0, "internal error"));
    let mut request = args("update", "panic").request;
    let check = pb::HandleExistenceCheckArgs { storage_id: 0, request: request.take() };
    let reply = host.backend(Some("m")).handle_existence_check(check).await.unwrap().into_inner();
    assert_eq!(reply.err.unwrap().err_msg, "internal error");
    let key = pb::InvalidateKeyArgs { key: "panic".into() };
    assert!(host.backend(Some("m")).invalidate_key(key).await.is_ok());
    seen.finish.add_permits(1);
    assert!(slow.await.unwrap().unwrap().into_inner().response.is_some());
    assert_eq!(json(&host.request("m", "read", "view").await)["max"], 7200);
}

#[tokio::test]
async fn a_credential_that_nobody_waits_for_is_ended() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;

    // Delivered: nothing to end.
    let reply = host.request("m", "read", "creds").await.response.unwrap();
    assert_eq!(reply.data_json.trim(), r#"{"password":"s3cret"}"#);
    assert_eq!(reply.secret.unwrap().internal_data_json, r#"{"path":"creds"}"#);
    assert_eq!(reply.warnings, ["careful"]);

    // The caller leaves while the request is at work.
    for _ in 0..3 {
        let waiting = tokio::spawn({
            let mut backend = host.backend(Some("m"));
            async move { backend.handle_request(args("read", "slow")).await }
        });
        take(&seen.begun).await;
        waiting.abort();
        assert!(waiting.await.is_err());
        // The cancellation and this go over the same connection, in order.
        assert_eq!(json(&host.request("m", "read", "view").await)["max"], 7200);
        seen.finish.add_permits(1);
        take(&seen.ended).await;
    }
    assert_eq!(*seen.undelivered.lock().unwrap(), ["slow", "slow", "slow"]);

    // A lease that was only prolonged, or a host that only wants to know, loses nothing.
    let waiting = tokio::spawn({
        let mut backend = host.backend(Some("m"));
        async move { backend.handle_request(args("renew", "slow")).await }
    });
    take(&seen.begun).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    seen.finish.add_permits(1);
    host.request("m", "read", "creds").await;
    // Everything is over once the plugin has ended; the ends of credentials are part of what it waits for.
    host.stop.cancel();
    host.served.await.unwrap().unwrap();
    assert_eq!(seen.undelivered.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_lost_connection_ends_what_it_carried() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    let (socket, identity, plugin) = (host.socket.clone(), host.identity.again(), host.plugin.again());
    // A connection of its own, as after a redial, in a runtime of its own, which goes away under the request.
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let caller = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let channel = dial(&socket, &identity, &plugin).await.unwrap();
            let mut request = tonic::Request::new(args("create", "slow"));
            request.metadata_mut().insert("multiplex_id", "m".parse().unwrap());
            pb::backend_client::BackendClient::new(channel).handle_request(request).await
        });
        let _ = left.recv();
    });
    take(&seen.begun).await;
    drop(leave);
    tokio::task::spawn_blocking(|| caller.join()).await.unwrap().unwrap();
    seen.finish.add_permits(1);
    take(&seen.ended).await;
    assert_eq!(*seen.undelivered.lock().unwrap(), ["slow"]);
}

#[tokio::test]
async fn an_answer_that_waits_to_be_sent_is_not_delivered() {
    type Codec = tonic_prost::ProstCodec<pb::HandleRequestArgs, pb::HandleRequestReply>;
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    // Answers that the peer begins to take but does not read.
    let begin = |path: &'static str| {
        let mut client = tonic::client::Grpc::new(host.channel.clone());
        async move {
            client.ready().await.unwrap();
            let mut request = tonic::Request::new(args("read", path));
            request.metadata_mut().insert("multiplex_id", "m".parse().unwrap());
            let path = http::uri::PathAndQuery::from_static("/pb.Backend/HandleRequest");
            client.server_streaming(request, path, Codec::default()).await.unwrap().into_inner()
        }
    };
    // Together more than the peer takes unread over one connection.
    let large = [begin("large-creds").await, begin("large-creds").await, begin("large-creds").await];
    let waiting = begin("creds").await;
    assert_eq!(seen.ended.available_permits(), 0);
    drop(waiting);
    take(&seen.ended).await;
    assert_eq!(*seen.undelivered.lock().unwrap(), ["creds"]);
    drop(large);
}

#[tokio::test]
async fn the_end_waits_for_work_and_for_what_it_leaves() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    let waiting = tokio::spawn({
        let mut backend = host.backend(Some("m"));
        async move { backend.handle_request(args("create", "slow")).await }
    });
    take(&seen.begun).await;
    let begin = Instant::now();
    host.stop.cancel();
    // The call is cut off, the work behind it goes on for a while.
    assert!(waiting.await.unwrap().is_err());
    assert!(begin.elapsed() >= super::DRAIN);
    seen.finish.add_permits(1);
    host.served.await.unwrap().unwrap();
    assert_eq!(*seen.undelivered.lock().unwrap(), ["slow"]);
    assert_eq!(seen.closed.load(SeqCst), 1);
    // The host kills what takes longer.
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn hundreds_of_callers_may_leave_at_once() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    let calls = (0..500).map(|_| {
        let mut backend = host.backend(Some("m"));
        tokio::spawn(async move { backend.handle_request(args("read", "slow")).await })
    });
    let calls: Vec<_> = calls.collect();
    for _ in 0..250 {
        take(&seen.begun).await;
    }
    for call in calls {
        call.abort();
    }
    // The same connection still works, streams and all.
    assert_eq!(json(&host.request("m", "read", "view").await)["max"], 7200);
    let _other = host.mount("n", MountSide::default()).await;
    let handled = seen.handled.load(SeqCst) - 1;
    seen.finish.add_permits(handled);
    for _ in 0..handled {
        take(&seen.ended).await;
    }
}

#[tokio::test]
async fn cleanup_closes_hangs_up_and_may_come_again() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let listener = host.mount("m", MountSide::default()).await;
    let other = host.mount("n", MountSide::default()).await;
    // Someone is still at work in the mount, and holds its ports.
    let slow = tokio::spawn({
        let mut backend = host.backend(Some("m"));
        async move { backend.handle_request(args("renew", "slow")).await }
    });
    take(&seen.begun).await;
    for _ in 0..2 {
        host.backend(Some("m")).cleanup(pb::Empty {}).await.unwrap();
        assert_eq!(seen.closed.load(SeqCst), 1);
    }
    listener.close().await;
    seen.finish.add_permits(1);
    assert!(slow.await.unwrap().is_ok());
    assert_eq!(host.request("m", "read", "view").await.err.unwrap().err_type, 0);
    assert_eq!(json(&host.request("n", "read", "view").await)["max"], 7200);
    drop(other);
}

#[tokio::test]
async fn a_second_setup_replaces_the_first() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let first = host.mount("m", MountSide::default()).await;
    let _second = host.mount("m", MountSide { state: 16_384, ..MountSide::default() }).await;
    assert_eq!(json(&host.request("m", "read", "view").await)["standby"], true);
    first.close().await;
    assert_eq!(seen.closed.load(SeqCst), 1);
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let host = FakeHost::start(Seen::new().make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    let reply = json(&host.request("m", "read", "large").await);
    assert_eq!(reply["x"].as_str().map(str::len), Some(6 << 20));
}

#[tokio::test]
async fn existence_checks_and_invalidation_reach_their_mount() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    for (path, found) in [("write", true), ("other", false)] {
        let check = pb::HandleExistenceCheckArgs { storage_id: 0, request: args("update", path).request };
        let reply = host.backend(Some("m")).handle_existence_check(check).await.unwrap().into_inner();
        assert_eq!((reply.check_found, reply.exists, reply.err.is_none()), (found, false, true));
    }
    let key = pb::InvalidateKeyArgs { key: "role/x".into() };
    host.backend(Some("m")).invalidate_key(key).await.unwrap();
    assert_eq!(*seen.invalidated.lock().unwrap(), ["role/x"]);
}

#[tokio::test]
async fn help_is_always_answered() {
    let host = FakeHost::start(Seen::new().make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    // The description of all mounts: no error from ours.
    let reply = host.request("m", "help", "").await;
    assert!(reply.err.is_none());
    assert_eq!(reply.response.unwrap().data_json, "null");
    // A question about a path that is not there.
    assert_eq!(host.request("m", "help", "nowhere").await.err.unwrap().err_type, 6);
}

#[tokio::test]
async fn shutdown_is_answered_and_quick() {
    let seen = Seen::new();
    let host = FakeHost::start(seen.make()).await;
    let _listener = host.mount("m", MountSide::default()).await;
    // The worst case: the host's streams stay open.
    let begin = Instant::now();
    GrpcControllerClient::new(host.channel.clone()).shutdown(plugin::Empty {}).await.unwrap();
    host.served.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    assert_eq!(seen.closed.load(SeqCst), 1);
}
