//! Sessions at a target: how many at once, how long they live, when they are given up. One place for every target.
//!
//! The driver library's own pool is not used: it retries a refused connection until its acquire time-out and then
//! reports the time-out instead of the cause, and it cannot try several hosts.
//!
//! A request waits in its [`Lane`], uses a session that is idle or opens one, and is told at once when there is no point in
//! trying ([`breaker`]).

mod breaker;
mod lanes;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use self::breaker::Breaker;
use self::lanes::{Lanes, Permit};
use super::{TargetError, Vitals};
use crate::secret::memory::WIPE_KEPT;

pub use self::lanes::Lane;

/// A session idle for longer than this is asked for a sign of life before it is used.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How long a sign of life may take. A session that takes longer is replaced, which costs little.
const PING: Duration = Duration::from_secs(2);

/// How much longer than it was told to an opening may take before it is given up from outside.
const OPEN_GRACE: Duration = Duration::from_secs(1);

/// How long a server that starts, or is full, is asked again, and the first and the longest pause between two questions.
const BUSY: Duration = Duration::from_secs(2);
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(320));

/// Sessions that grow too old while idle are looked for no more often.
const SHORTEST_NAP: Duration = Duration::from_millis(100);

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
    /// Asks the server for a sign of life. The pool does not wait for ever.
    fn ping(&mut self) -> impl Future<Output = bool> + Send;
    /// Says goodbye and closes. The pool does not wait for ever.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// `sql` with as many spaces behind it as make it `length` bytes long. The driver writes each message over the one before:
/// this one covers a secret of that length.
pub fn covering(sql: &str, length: usize) -> String {
    let mut text = String::with_capacity(sql.len().max(length));
    text.push_str(sql);
    if WIPE_KEPT {
        text.extend(std::iter::repeat_n(' ', length.saturating_sub(sql.len())));
    }
    text
}

/// Why a session could not be opened: the pool asks again, goes easy on the target, or neither.
#[derive(Debug)]
pub enum NotOpened {
    /// Nobody answered, or the session broke before it was one.
    Silent(TargetError),
    /// The server answered that it cannot just now: it starts or stops, or has too many sessions.
    Busy(TargetError),
    /// The server answered, and said no.
    Refused(TargetError),
}

impl NotOpened {
    /// By what a target said; `busy` tells the answers that may be another in a moment.
    pub fn by_answer(error: TargetError, busy: impl FnOnce(&str, &str) -> bool) -> Self {
        match &error {
            TargetError::Answer { text, code } if busy(code, text) => Self::Busy(error),
            other if other.is_outage() => Self::Silent(error),
            _ => Self::Refused(error),
        }
    }
}

impl From<NotOpened> for TargetError {
    fn from(not_opened: NotOpened) -> Self {
        match not_opened {
            NotOpened::Silent(e) | NotOpened::Busy(e) | NotOpened::Refused(e) => e,
        }
    }
}

/// Whether a session that was in use a moment ago is taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Yes: whoever uses it notices, and tries another.
    Recent,
    /// No: it must show that it lives.
    Nobody,
}

/// Open sessions to one target.
pub struct Pool<S: Session> {
    limits: Limits,
    lanes: Lanes,
    breaker: Breaker,
    idle: Mutex<Vec<Idle<S>>>,
    /// Somebody waits for idle sessions to grow too old.
    ageing: AtomicBool,
}

struct Idle<S> {
    session: S,
    opened: Instant,
    since: Instant,
}

impl<S: Session> Pool<S> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            lanes: Lanes::new(limits),
            breaker: Breaker::default(),
            idle: Mutex::default(),
            ageing: AtomicBool::new(false),
        })
    }

    /// A session, idle or opened by `open`, which is told how long it may take and keeps to it: it knows better than the
    /// pool what it was waiting for. Waits while the pool is full; asks a server that is busy again.
    ///
    /// # Errors
    /// What `open` says; [`TargetError::Timeout`] past `connect_timeout`; [`TargetError::Unavailable`], at once, while the
    /// target gives no sessions or too many requests wait; [`TargetError::Connect`] once closed.
    pub async fn checkout<F>(
        self: &Arc<Self>,
        lane: Lane,
        trust: Trust,
        open: impl Fn(Duration) -> F,
    ) -> Result<Checkout<S>, TargetError>
    where
        F: Future<Output = Result<S, NotOpened>>,
    {
        let deadline = Instant::now() + self.limits.connect_timeout;
        if self.idle().is_empty() {
            self.breaker.check(Instant::now())?;
        }
        let permit = self.lanes.enter(lane, deadline).await?;
        if let Some(Idle { session, opened, .. }) = self.living(trust, deadline).await {
            return Ok(Checkout { session, opened, pool: self.clone(), _permit: permit });
        }
        let session = self.open(deadline, open).await?;
        Ok(Checkout { session, opened: Instant::now(), pool: self.clone(), _permit: permit })
    }

    async fn open<F>(&self, deadline: Instant, open: impl Fn(Duration) -> F) -> Result<S, TargetError>
    where
        F: Future<Output = Result<S, NotOpened>>,
    {
        let attempt = self.breaker.attempt(Instant::now())?;
        let deadline = Instant::now() + attempt.patience(deadline.saturating_duration_since(Instant::now()));
        let busy_until = deadline.min(Instant::now() + BUSY);
        let mut pause = BUSY_PAUSE.0;
        let error = loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(patience + OPEN_GRACE, open(patience)).await {
                Ok(Ok(session)) => {
                    attempt.answered();
                    return Ok(session);
                }
                Ok(Err(NotOpened::Refused(e))) => {
                    attempt.answered();
                    return Err(e);
                }
                Ok(Err(NotOpened::Busy(_))) if Instant::now() + pause * 2 < busy_until => {
                    tokio::time::sleep(pause.mul_f64(0.5 + jitter())).await;
                    pause = (pause * 2).min(BUSY_PAUSE.1);
                }
                Ok(Err(NotOpened::Silent(e) | NotOpened::Busy(e))) => break e,
                Err(_elapsed) => {
                    let seconds = self.limits.connect_timeout.as_secs_f32();
                    break TargetError::Timeout(format!("no session within {seconds}s (connect_timeout)"));
                }
            }
        };
        attempt.failed(&error, Instant::now(), jitter());
        Err(error)
    }

    /// An idle session that can be used. One that shows no life is given up with all the others, which are no younger.
    async fn living(&self, trust: Trust, deadline: Instant) -> Option<Idle<S>> {
        loop {
            let mut idle = self.idle().pop()?;
            if self.is_too_old(&idle) {
                self.see_off(idle);
                continue;
            }
            if trust == Trust::Recent && idle.since.elapsed() < TRUSTED_IDLE {
                return Some(idle);
            }
            let limit = deadline.min(Instant::now() + PING);
            if tokio::time::timeout_at(limit, idle.session.ping()).await.unwrap_or(false) {
                self.breaker.answered();
                return Some(idle);
            }
            self.drop_idle();
        }
    }

    fn is_too_old(&self, idle: &Idle<S>) -> bool {
        self.limits.max_lifetime.is_some_and(|life| idle.opened.elapsed() >= life)
    }

    /// Closes a session that nobody waits for.
    fn see_off(&self, idle: Idle<S>) {
        tokio::spawn(tokio::time::timeout(PING, idle.session.close()));
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<S>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its sessions are at.
    pub fn vitals(&self) -> Vitals {
        let (in_use, [waiting_to_issue, waiting_to_end]) = self.lanes.vitals();
        Vitals {
            limit: self.limits.max_open,
            in_use,
            idle: self.idle().len(),
            waiting_to_issue,
            waiting_to_end,
            outage: self.breaker.outage(Instant::now()),
        }
    }

    /// Drops idle sessions: one of them was found dead, and the others are no younger.
    pub fn drop_idle(&self) {
        self.idle().clear();
    }

    /// Closes idle sessions now and sessions in use when they are given back; waiting requests fail.
    pub async fn close(&self) {
        self.lanes.close();
        loop {
            let Some(idle) = self.idle().pop() else { return };
            // A server that does not answer a goodbye has not got to.
            let _ = tokio::time::timeout(Duration::from_millis(100), idle.session.close()).await;
        }
    }

    /// Closes idle sessions that grow too old, for as long as there are any.
    async fn age(pool: Weak<Self>, life: Duration) {
        loop {
            let Some(pool) = pool.upgrade() else { return };
            let (old, oldest) = {
                let mut idle = pool.idle();
                let (old, young): (Vec<_>, Vec<_>) = idle.drain(..).partition(|idle| pool.is_too_old(idle));
                *idle = young;
                let oldest = idle.iter().map(|idle| idle.opened).min();
                if oldest.is_none() {
                    pool.ageing.store(false, Ordering::SeqCst);
                }
                (old, oldest)
            };
            old.into_iter().for_each(|idle| pool.see_off(idle));
            let Some(oldest) = oldest else { return };
            drop(pool);
            // An older one may be given back meanwhile.
            let look_again = Instant::now() + (life / 4).max(SHORTEST_NAP);
            tokio::time::sleep_until(look_again.min(oldest + life)).await;
        }
    }
}

/// Between 0 and 1: what is added to a pause, lest those that failed together come back together.
pub fn jitter() -> f64 {
    f64::from(rand::random::<u16>()) / f64::from(u16::MAX)
}

/// A session in use. Dropped, it is closed: only [`Checkout::give_back`] makes it available again, so a future that is
/// dropped in the middle of a statement never leaves a half-used session behind.
pub struct Checkout<S: Session> {
    session: S,
    opened: Instant,
    pool: Arc<Pool<S>>,
    _permit: Permit,
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
        let mut idle = pool.idle();
        if pool.lanes.is_closed() || idle.len() >= pool.limits.max_idle {
            return;
        }
        idle.push(Idle { session, opened, since: Instant::now() });
        if let Some(life) = pool.limits.max_lifetime
            && !pool.ageing.swap(true, Ordering::SeqCst)
        {
            tokio::spawn(Pool::age(Arc::downgrade(&pool), life));
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
