use std::sync::atomic::AtomicUsize;

use super::*;

struct Fake {
    alive: bool,
    closed: Arc<AtomicUsize>,
}

impl Session for Fake {
    async fn ping(&mut self) -> bool {
        self.alive
    }
    async fn close(self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// A pool, and what happened to its sessions.
struct Rig {
    pool: Arc<Pool<Fake>>,
    opened: AtomicUsize,
    closed: Arc<AtomicUsize>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        Self { pool: Pool::new(limits), opened: AtomicUsize::new(0), closed: Arc::default() }
    }

    async fn take(&self) -> Checkout<Fake> {
        let open = |_| async {
            self.opened.fetch_add(1, Ordering::SeqCst);
            Ok(Fake { alive: true, closed: self.closed.clone() })
        };
        self.pool.checkout(Lane::Issue, Trust::Recent, open).await.unwrap()
    }

    /// An attempt that is answered like this; what the caller hears, and how often the target was asked.
    async fn refused(&self, lane: Lane, refusal: impl Fn() -> NotOpened) -> (TargetError, usize) {
        let asked = AtomicUsize::new(0);
        let open = |_| async {
            asked.fetch_add(1, Ordering::SeqCst);
            Err(refusal())
        };
        let refused = self.pool.checkout(lane, Trust::Recent, open).await.err().unwrap();
        (refused, asked.into_inner())
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

fn limits(max_open: i64, max_idle: i64) -> Limits {
    Limits::new(max_open, max_idle, Duration::ZERO, Duration::from_millis(20))
}

fn silent() -> NotOpened {
    NotOpened::Silent(TargetError::Connect("connection refused".into()))
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
async fn a_session_is_used_again_only_when_given_back() {
    let rig = Rig::new(limits(1, 0));
    rig.take().await.give_back();
    drop(rig.take().await);
    assert_eq!(rig.opened(), 1);
    rig.take().await.give_back();
    assert_eq!(rig.opened(), 2, "a dropped session is not used again");
}

#[tokio::test]
async fn a_full_pool_makes_requests_wait_and_names_the_cure() {
    let rig = Rig::new(limits(1, 0));
    let held = rig.take().await;
    let (refused, asked) = rig.refused(Lane::Issue, silent).await;
    assert!(refused.to_string().contains("max_open_connections") && asked == 0, "{refused}");
    held.give_back();
    rig.take().await.give_back();
    assert_eq!(rig.opened(), 1);
}

#[tokio::test]
async fn sessions_that_died_while_idle_are_replaced() {
    let rig = Rig::new(limits(2, 0));
    let mut both = [rig.take().await, rig.take().await];
    both.iter_mut().for_each(|session| session.alive = false);
    both.into_iter().for_each(Checkout::give_back);
    rig.pool.idle().iter_mut().for_each(|idle| idle.since -= TRUSTED_IDLE);
    rig.take().await.give_back();
    assert_eq!((rig.opened(), rig.pool.idle().len()), (3, 1), "one dead session speaks for all");
}

#[tokio::test]
async fn a_recent_session_is_trusted_only_by_who_says_so() {
    let rig = Rig::new(limits(1, 0));
    let mut session = rig.take().await;
    session.alive = false;
    session.give_back();
    rig.take().await.give_back();
    assert_eq!(rig.opened(), 1);
    let opened = rig.pool.checkout(Lane::Issue, Trust::Nobody, |_| async { Err(silent()) }).await;
    assert!(opened.is_err(), "the dead session was not used");
}

#[tokio::test]
async fn a_session_too_old_is_closed_while_nobody_asks_for_it() {
    let life = Duration::from_millis(60);
    let rig = Rig::new(Limits::new(2, 0, life, Duration::from_secs(1)));
    for round in 1..=2 {
        let both = [rig.take().await, rig.take().await];
        both.into_iter().for_each(Checkout::give_back);
        let begin = Instant::now();
        while rig.closed.load(Ordering::SeqCst) < 2 * round {
            assert!(begin.elapsed() < Duration::from_secs(20), "never closed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(rig.pool.idle().is_empty());
    }
    assert_eq!(rig.opened(), 4);
}

#[tokio::test]
async fn a_closed_pool_keeps_nothing_and_opens_nothing() {
    let rig = Rig::new(limits(2, 0));
    let held = rig.take().await;
    rig.take().await.give_back();
    rig.pool.close().await;
    assert_eq!(rig.closed.load(Ordering::SeqCst), 1);
    held.give_back();
    assert!(rig.pool.idle().is_empty());
    assert_eq!(rig.refused(Lane::End, silent).await.1, 0);
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_left_alone_and_everybody_told_at_once() {
    let rig = Rig::new(limits(4, 0));
    for _ in 0..3 {
        let (refused, asked) = rig.refused(Lane::Issue, silent).await;
        assert!(matches!(refused, TargetError::Connect(_)) && asked == 1, "{refused}");
    }
    let begin = Instant::now();
    for lane in [Lane::Issue, Lane::End] {
        let (refused, asked) = rig.refused(lane, silent).await;
        assert!(matches!(refused, TargetError::Unavailable(_)) && asked == 0, "{refused}");
        assert!(refused.is_outage() && refused.to_string().contains("connection refused"), "{refused}");
    }
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    // One attempt now and then.
    while rig.refused(Lane::Issue, silent).await.1 == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    rig.take().await.give_back();
    rig.take().await.give_back();
    assert_eq!(rig.opened(), 1, "it is back");
}

#[tokio::test]
async fn a_refused_login_is_no_outage() {
    let rig = Rig::new(limits(4, 0));
    for _ in 0..10 {
        let wrong = || NotOpened::Refused(TargetError::Connect("password authentication failed".into()));
        let (refused, asked) = rig.refused(Lane::Issue, wrong).await;
        assert!(refused.to_string() == "password authentication failed" && asked == 1, "{refused}");
    }
}

#[tokio::test]
async fn a_server_that_starts_is_asked_again() {
    let rig = Rig::new(Limits::new(1, 0, Duration::ZERO, Duration::from_secs(10)));
    let asked = AtomicUsize::new(0);
    let open = |_| async {
        match asked.fetch_add(1, Ordering::SeqCst) {
            0..3 => Err(NotOpened::Busy(TargetError::Connect("the database system is starting up".into()))),
            _ => Ok(Fake { alive: true, closed: Arc::default() }),
        }
    };
    assert!(rig.pool.checkout(Lane::Issue, Trust::Recent, open).await.is_ok());
    let begin = Instant::now();
    let full = || NotOpened::Busy(TargetError::Connect("too many clients already".into()));
    let (refused, asked) = rig.refused(Lane::Issue, full).await;
    assert_eq!(refused.to_string(), "too many clients already");
    assert!(asked > 3 && begin.elapsed() < BUSY + Duration::from_secs(1), "{asked} in {:?}", begin.elapsed());
}

#[tokio::test]
async fn an_opening_that_hangs_is_given_up() {
    let rig = Rig::new(limits(1, 0));
    let hangs = |_| async { std::future::pending::<Result<Fake, NotOpened>>().await };
    let refused = rig.pool.checkout(Lane::Issue, Trust::Recent, hangs).await.err().unwrap();
    assert!(refused.to_string().contains("connect_timeout"), "{refused}");
}
