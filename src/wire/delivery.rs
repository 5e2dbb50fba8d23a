//! Knowing that an answer did not go out.
//!
//! When a client leaves, the host cancels its call. If the call had minted a credential, nobody will ever get it and no
//! lease holds it: it has to be ended. A call can be cancelled while it works, while its answer waits to be sent, and
//! while it is being sent; a [`Delivery`] travels with the answer through all of these and acts when it is dropped on
//! the way. The answer counts as delivered once its last frame was handed to the connection; if the host gave the call up
//! in that moment, it says so afterwards (see [`super::returned`]). What is lost with the connection itself, nobody
//! learns of; the end of a user that slips through there is what the target itself was told.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::{MapOk, TryFutureExt as _};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use uuid::Uuid;

use super::returned::{Returns, Undo};

/// Something that is done unless the answer it belongs to was delivered.
#[derive(Clone)]
pub(super) struct Delivery(Arc<Pending>);

struct Pending {
    undo: Mutex<Option<Undo>>,
    /// Done when the answer is delivered.
    made: Mutex<Option<Undo>>,
    /// Kept until the answer is delivered or undone.
    held: Mutex<Option<Box<dyn Send>>>,
    /// Where it is kept after that, and the host's id of the request.
    after: Option<(Returns, Uuid)>,
}

impl Delivery {
    /// Does `made` when the answer is delivered. Does `undo` when the last clone is dropped and nobody confirmed, and if the
    /// answer comes back `after` that. Drops `held` when the answer is delivered or undone.
    pub(super) fn unless_made(
        after: Option<(Returns, Uuid)>,
        held: impl Send + 'static,
        made: impl FnOnce() + Send + 'static,
        undo: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self(Arc::new(Pending {
            undo: Mutex::new(Some(Box::new(undo))),
            made: Mutex::new(Some(Box::new(made))),
            held: Mutex::new(Some(Box::new(held))),
            after,
        }))
    }

    fn confirm(&self) {
        let Some(undo) = self.0.undo.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if let Some(made) = self.0.made.lock().unwrap_or_else(PoisonError::into_inner).take() {
            made();
        }
        if let Some((returns, request)) = &self.0.after {
            returns.answered(*request, undo);
        }
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // `held` is dropped after this.
        if let Some(undo) = self.undo.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            undo();
        }
    }
}

/// Follows answers that carry a [`Delivery`] among their extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Follow;

impl<S> Layer<S> for Follow {
    type Service = Followed<S>;

    fn layer(&self, inner: S) -> Followed<S> {
        Followed(inner)
    }
}

/// A service under [`Follow`].
#[derive(Debug, Clone)]
pub(super) struct Followed<S>(S);

type Answer = http::Response<Body>;

impl<S, B> Service<http::Request<B>> for Followed<S>
where
    S: Service<http::Request<B>, Response = Answer>,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Answer) -> Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.call(request).map_ok(follow)
    }
}

fn follow(mut answer: Answer) -> Answer {
    match answer.extensions_mut().remove::<Delivery>() {
        Some(delivery) => answer.map(|inner| Body::new(FollowedBody { inner, delivery })),
        None => answer,
    }
}

struct FollowedBody {
    inner: Body,
    delivery: Delivery,
}

impl http_body::Body for FollowedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            // The trailers are the last frame; another status than 0 says that the message could not be sent.
            let status = frame.trailers_ref().and_then(|trailers| trailers.get("grpc-status"));
            if status.is_some_and(|status| status == "0") {
                self.delivery.confirm();
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::HeaderMap;
    use http_body::Body as _;

    use super::*;

    /// A body of one message and its trailers.
    struct Unary(Vec<Frame<Bytes>>);

    impl http_body::Body for Unary {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    fn unary(status: &'static str) -> Unary {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(status));
        Unary(vec![Frame::trailers(trailers), Frame::data(Bytes::from_static(b"message"))])
    }

    /// How often the undoing ran after `frames` frames were taken.
    async fn undone_after(frames: usize, status: &'static str) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let mut answer = Answer::new(Body::new(unary(status)));
        answer.extensions_mut().insert(Delivery::unless_made(
            None,
            (),
            || (),
            move || {
                counter.fetch_add(1, Ordering::Relaxed);
            },
        ));
        let mut body = follow(answer).into_body();
        for _ in 0..frames {
            poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
        drop(body);
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn delivered_with_the_last_frame_and_not_before() {
        assert_eq!(undone_after(0, "0").await, 1);
        assert_eq!(undone_after(1, "0").await, 1);
        assert_eq!(undone_after(2, "0").await, 0);
        assert_eq!(undone_after(3, "0").await, 0);
        assert_eq!(undone_after(2, "8").await, 1);
    }

    #[test]
    fn acts_once_and_only_with_the_last_clone() {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let one = Delivery::unless_made(
            None,
            (),
            || (),
            move || {
                counter.fetch_add(1, Ordering::Relaxed);
            },
        );
        let two = one.clone();
        drop(one);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        drop(two);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
