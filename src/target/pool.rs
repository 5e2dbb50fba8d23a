//! Sessions at a target: how many at once, how long they live, when they are given up. One place for every target.
//!
//! The driver library's own pool is not used: it retries a refused connection until its acquire time-out and then
//! reports the time-out instead of the cause, and it cannot try several hosts.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::TargetError;

/// A session idle for longer than this is asked for a sign of life before it is used.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How much longer than it was told to an opening may take before it is given up from outside.
const OPEN_GRACE: Duration = Duration::from_secs(1);

/// What bounds a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions open at once; requests beyond wait.
    pub max_open: usize,
    /// Sessions kept while idle.
    pub max_idle: usize,
    /// Age at which a session is closed instead of used again; `None` for never.
    pub max_lifetime: Option<Duration>,
    /// How long a request waits for a session, including the time to open one.
    pub connect_timeout: Duration,
}

impl Limits {
    /// The built-in engines' reading of `max_open_connections` (0: four, negative: no limit) and
    /// `max_idle_connections` (0: as many as may be open, negative: none, and never more than may be open).
    pub fn new(max_open: i64, max_idle: i64, max_lifetime: Duration, connect_timeout: Duration) -> Self {
        let max_open = match max_open {
            0 => 4,
            n if n < 0 => UNLIMITED,
            n => usize::try_from(n).unwrap_or(UNLIMITED).min(UNLIMITED),
        };
        let max_idle = match max_idle {
            0 => max_open,
            n if n < 0 => 0,
            n => usize::try_from(n).unwrap_or(max_open).min(max_open),
        };
        Self { max_open, max_idle, max_lifetime: (!max_lifetime.is_zero()).then_some(max_lifetime), connect_timeout }
    }
}

/// More sessions than any server allows.
const UNLIMITED: usize = 10_000;

/// A session of some driver.
pub trait Session: Send + 'static {
    /// True if the driver still has something of a secret in its buffers. [`Session::ping`] puts an end to that.
    fn holds_secret(&self) -> bool {
        false
    }
    /// Asks the server for a sign of life.
    fn ping(&mut self) -> impl Future<Output = bool> + Send;
    /// Says goodbye and closes.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// `sql` with as many spaces behind it as make it `length` bytes long. The driver writes each message over the one before:
/// this one covers a secret of that length.
pub fn covering(sql: &str, length: usize) -> String {
    let mut text = String::with_capacity(sql.len().max(length));
    text.push_str(sql);
    text.extend(std::iter::repeat_n(' ', length.saturating_sub(sql.len())));
    text
}

/// Open sessions to one target.
pub struct Pool<S: Session> {
    limits: Limits,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle<S>>>,
}

struct Idle<S> {
    session: S,
    opened: Instant,
    since: Instant,
}

impl<S: Session> Pool<S> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, permits: Arc::new(Semaphore::new(limits.max_open)), idle: Mutex::new(Vec::new()) })
    }

    /// A session, idle or opened by `open`, which is told how much of `connect_timeout` is left and keeps to it: it knows
    /// better than the pool what it was waiting for. Waits while the pool is full.
    ///
    /// # Errors
    /// What `open` says; [`TargetError::Timeout`] past `connect_timeout`; [`TargetError::Connect`] once closed.
    pub async fn checkout<F>(self: &Arc<Self>, open: impl FnOnce(Duration) -> F) -> Result<Checkout<S>, TargetError>
    where
        F: Future<Output = Result<S, TargetError>>,
    {
        let deadline = Instant::now() + self.limits.connect_timeout;
        let permit = match tokio::time::timeout_at(deadline, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(TargetError::Connect("the connection was closed".into())),
            Err(_elapsed) => {
                return Err(TargetError::Timeout(format!(
                    "all {} sessions of this connection were busy for {}s: raise max_open_connections or connect_timeout",
                    self.limits.max_open,
                    self.limits.connect_timeout.as_secs_f32(),
                )));
            }
        };
        while let Some(mut idle) = self.pop() {
            let old = self.limits.max_lifetime.is_some_and(|life| idle.opened.elapsed() >= life);
            let trusted = idle.since.elapsed() < TRUSTED_IDLE;
            if !old && (trusted || tokio::time::timeout_at(deadline, idle.session.ping()).await.unwrap_or(false)) {
                return Ok(self.hand_out(idle.session, idle.opened, permit));
            }
            // A session that is too old or dead says goodbye on its own time.
            tokio::spawn(tokio::time::timeout(self.limits.connect_timeout, idle.session.close()));
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(patience + OPEN_GRACE, open(patience)).await {
            Ok(opened) => Ok(self.hand_out(opened?, Instant::now(), permit)),
            Err(_elapsed) => Err(TargetError::Timeout(format!(
                "no session within {}s (connect_timeout)",
                self.limits.connect_timeout.as_secs_f32()
            ))),
        }
    }

    fn hand_out(self: &Arc<Self>, session: S, opened: Instant, permit: OwnedSemaphorePermit) -> Checkout<S> {
        Checkout { session, opened, pool: self.clone(), _permit: permit }
    }

    fn pop(&self) -> Option<Idle<S>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Drops idle sessions: one of them was found dead, and the others are no younger.
    pub fn drop_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes idle sessions now and sessions in use when they are given back; waiting requests fail.
    pub async fn close(&self) {
        self.permits.close();
        while let Some(idle) = self.pop() {
            // A server that does not answer a goodbye has not got to.
            let _ = tokio::time::timeout(Duration::from_millis(100), idle.session.close()).await;
        }
    }
}

/// A session in use. Dropped, it is closed: only [`Checkout::give_back`] makes it available again, so a future that is
/// dropped in the middle of a statement never leaves a half-used session behind.
pub struct Checkout<S: Session> {
    session: S,
    opened: Instant,
    pool: Arc<Pool<S>>,
    _permit: OwnedSemaphorePermit,
}

impl<S: Session> Checkout<S> {
    /// Returns the session, which is in no transaction and waits for nothing.
    pub fn give_back(mut self) {
        if self.session.holds_secret() {
            // On its own time: whoever gives it back has his answer.
            tokio::spawn(async move {
                let answered = tokio::time::timeout(self.pool.limits.connect_timeout, self.session.ping()).await;
                if answered.unwrap_or(false) && !self.session.holds_secret() {
                    self.keep();
                }
            });
        } else {
            self.keep();
        }
    }

    fn keep(self) {
        let Self { session, opened, pool, _permit } = self;
        let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !pool.permits.is_closed() && idle.len() < pool.limits.max_idle {
            idle.push(Idle { session, opened, since: Instant::now() });
        }
    }
}

impl<S: Session> std::ops::Deref for Checkout<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.session
    }
}

impl<S: Session> std::ops::DerefMut for Checkout<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.session
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Fake {
        alive: bool,
        closed: Arc<AtomicUsize>,
        secret: bool,
    }

    impl Session for Fake {
        fn holds_secret(&self) -> bool {
            self.secret
        }
        async fn ping(&mut self) -> bool {
            self.secret = false;
            self.alive
        }
        async fn close(self) {
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn limits(max_open: i64, max_idle: i64) -> Limits {
        Limits::new(max_open, max_idle, Duration::ZERO, Duration::from_millis(20))
    }

    async fn take(pool: &Arc<Pool<Fake>>, opened: &AtomicUsize, closed: &Arc<AtomicUsize>) -> Checkout<Fake> {
        let open = |_| async {
            opened.fetch_add(1, Ordering::SeqCst);
            Ok(Fake { alive: true, closed: closed.clone(), secret: false })
        };
        pool.checkout(open).await.unwrap()
    }

    #[test]
    fn limits_read_as_the_built_in_engine_reads_them() {
        assert_eq!(limits(0, 0).max_open, 4);
        assert_eq!(limits(0, 0).max_idle, 4);
        assert_eq!(limits(2, 9).max_idle, 2);
        assert_eq!(limits(2, -1).max_idle, 0);
        assert!(limits(-1, 0).max_open > 1000);
    }

    #[tokio::test]
    async fn a_session_that_holds_a_secret_is_cleaned_before_it_is_used_again() {
        let closed = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(limits(1, 1));
        let open = |alive| {
            let closed = closed.clone();
            move |_| async move { Ok(Fake { alive, closed, secret: true }) }
        };
        pool.checkout(open(true)).await.unwrap().give_back();
        let again = pool.checkout(open(false)).await.unwrap();
        assert!(again.alive && !again.secret, "the same session, cleaned");
        drop(again);
        pool.checkout(open(false)).await.unwrap().give_back();
        let another = pool.checkout(open(true)).await.unwrap();
        assert!(another.alive && another.secret, "one that cannot be cleaned is not kept");
    }

    #[test]
    fn a_covering_text_is_as_long_as_what_it_covers() {
        assert_eq!(covering("COMMIT", 0), "COMMIT");
        assert_eq!(covering("é", 4), "é  ");
    }

    #[tokio::test]
    async fn a_session_is_used_again_only_when_given_back() {
        let (opened, closed) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let pool = Pool::new(limits(1, 0));
        take(&pool, &opened, &closed).await.give_back();
        drop(take(&pool, &opened, &closed).await);
        assert_eq!(opened.load(Ordering::SeqCst), 1);
        take(&pool, &opened, &closed).await.give_back();
        assert_eq!(opened.load(Ordering::SeqCst), 2, "a dropped session is not used again");
    }

    #[tokio::test]
    async fn a_full_pool_makes_requests_wait_and_names_the_cure() {
        let (opened, closed) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let pool = Pool::new(limits(1, 0));
        let held = take(&pool, &opened, &closed).await;
        let refused =
            pool.checkout(|_| async { Ok(Fake { alive: true, closed: closed.clone(), secret: false }) }).await;
        assert!(refused.err().unwrap().to_string().contains("max_open_connections"));
        held.give_back();
        take(&pool, &opened, &closed).await.give_back();
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_session_that_died_while_idle_is_replaced() {
        let (opened, closed) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let pool = Pool::new(limits(1, 0));
        let mut session = take(&pool, &opened, &closed).await;
        session.alive = false;
        session.give_back();
        pool.idle.lock().unwrap()[0].since -= TRUSTED_IDLE;
        take(&pool, &opened, &closed).await.give_back();
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_closed_pool_keeps_nothing_and_opens_nothing() {
        let (opened, closed) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let pool = Pool::new(limits(2, 0));
        let held = take(&pool, &opened, &closed).await;
        take(&pool, &opened, &closed).await.give_back();
        pool.close().await;
        assert_eq!(closed.load(Ordering::SeqCst), 1);
        held.give_back();
        assert!(pool.pop().is_none());
        assert!(
            pool.checkout(|_| async { Ok(Fake { alive: true, closed: closed.clone(), secret: false }) }).await.is_err()
        );
    }
}
