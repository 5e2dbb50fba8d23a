//! When the process ends: told to by its host, or left alone by it.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, getppid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::broker::Streams;

/// How often to look whether the host still lives. A killed host leaves its plugins behind, and the signal that a kernel
/// can send on a parent's death comes too early here: it follows the parent's thread, not its process.
const LOOK: Duration = Duration::from_millis(500);

/// How long to go on without a broker stream.
struct Patience {
    /// From our start to the host's first stream.
    first: Duration,
    /// Later. A host opens one and never again; without it no further mount can be set up, while after our end it
    /// starts a new process by itself.
    without: Duration,
}

const PATIENCE: Patience = Patience { first: Duration::from_secs(120), without: Duration::from_secs(10) };

/// The process that started this one.
pub(super) fn parent() -> Option<Pid> {
    getppid()
}

/// Cancels `stop` when the process should end: SIGTERM, another parent than `parent`, no host at the other end. SIGINT
/// and SIGHUP are ignored; what is typed at the host's terminal reaches its plugins too, and the host decides.
pub(super) fn watch(parent: Option<Pid>, streams: watch::Receiver<Streams>, stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let ignored = [signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?];
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("ending: SIGTERM"),
            () = orphaned(parent, LOOK) => tracing::warn!("ending: the host is gone"),
            () = abandoned(streams, PATIENCE) => tracing::warn!("ending: the host closed its connection"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
        drop(ignored);
    });
    Ok(())
}

async fn orphaned(parent: Option<Pid>, look: Duration) {
    let mut clock = tokio::time::interval(look);
    while getppid() == parent {
        clock.tick().await;
    }
}

/// Returns when no stream is open for too long.
async fn abandoned(mut streams: watch::Receiver<Streams>, patience: Patience) {
    loop {
        // A sender that is gone means that the server ended; the process is about to.
        if streams.wait_for(|s| s.opened == s.ended).await.is_err() {
            return;
        }
        let limit = if streams.borrow().opened == 0 { patience.first } else { patience.without };
        if tokio::time::timeout(limit, streams.wait_for(|s| s.opened > s.ended)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(60);
    const WITHOUT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn gives_up_on_a_host_that_does_not_come_or_leaves() {
        let patience = || Patience { first: FIRST, without: WITHOUT };
        let begin = tokio::time::Instant::now();
        let (streams, seen) = watch::channel(Streams::default());
        abandoned(seen.clone(), patience()).await;
        assert!(begin.elapsed() >= FIRST);

        streams.send_modify(|s| s.opened = 1);
        let mut waiting = tokio::spawn(abandoned(seen, patience()));
        assert!(tokio::time::timeout(2 * FIRST, &mut waiting).await.is_err(), "an open stream is a living host");
        let closed = tokio::time::Instant::now();
        streams.send_modify(|s| s.ended = 1);
        assert!(waiting.await.is_ok());
        assert!(closed.elapsed() >= WITHOUT);
    }

    #[tokio::test]
    async fn notices_another_parent() {
        let look = Duration::from_millis(5);
        let ours = parent();
        assert!(tokio::time::timeout(10 * look, orphaned(ours, look)).await.is_err());
        orphaned(Pid::from_raw(1_000_000), look).await;
    }
}
