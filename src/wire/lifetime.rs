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
/// How long a host may take from starting us to its first stream.
const FIRST_STREAM: Duration = Duration::from_secs(120);
/// How long to go on without a broker stream. A host opens one and never again; without it no further mount can be set
/// up, while after our end it starts a new process by itself.
const WITHOUT_STREAM: Duration = Duration::from_secs(10);

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
            () = orphaned(parent) => tracing::warn!("ending: the host is gone"),
            () = abandoned(streams) => tracing::warn!("ending: the host closed its connection"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
        drop(ignored);
    });
    Ok(())
}

async fn orphaned(parent: Option<Pid>) {
    let mut clock = tokio::time::interval(LOOK);
    while getppid() == parent {
        clock.tick().await;
    }
}

/// Returns when no stream is open for too long.
async fn abandoned(mut streams: watch::Receiver<Streams>) {
    loop {
        // A sender that is gone means that the server ended; the process is about to.
        if streams.wait_for(|s| s.opened == s.ended).await.is_err() {
            return;
        }
        let patience = if streams.borrow().opened == 0 { FIRST_STREAM } else { WITHOUT_STREAM };
        if tokio::time::timeout(patience, streams.wait_for(|s| s.opened > s.ended)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_host_that_does_not_come_or_leaves() {
        let begin = tokio::time::Instant::now();
        let (streams, seen) = watch::channel(Streams::default());
        abandoned(seen.clone()).await;
        assert_eq!(begin.elapsed(), FIRST_STREAM);

        streams.send_modify(|s| s.opened = 1);
        let mut waiting = tokio::spawn(abandoned(seen));
        assert!(tokio::time::timeout(Duration::from_secs(86_400), &mut waiting).await.is_err());
        let closed = tokio::time::Instant::now();
        streams.send_modify(|s| s.ended = 1);
        assert!(waiting.await.is_ok());
        assert_eq!(closed.elapsed(), WITHOUT_STREAM);
    }

    #[tokio::test(start_paused = true)]
    async fn notices_another_parent() {
        let ours = parent();
        assert!(tokio::time::timeout(Duration::from_secs(10), orphaned(ours)).await.is_err());
        let other = Pid::from_raw(1_000_000);
        assert!(tokio::time::timeout(Duration::from_secs(10), orphaned(other)).await.is_ok());
    }
}
