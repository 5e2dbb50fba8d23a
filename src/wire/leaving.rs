//! Knowing that an answer is out of this process.
//!
//! The last frame of an answer goes to the HTTP/2 library, which writes it when the connection has its turn. Until it has
//! been written and flushed it is lost with the process; what is to be done once it is not waits here.

use std::sync::{Arc, Mutex, PoisonError};

use super::returned::Undo;

/// What waits. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Until something is written.
    handed: Vec<Undo>,
    /// Until that is flushed.
    written: Vec<Undo>,
}

impl Leaving {
    fn with<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A last frame was handed over: `then` runs once it has left.
    pub(super) fn handed(&self, then: Undo) {
        self.with(|waiting| waiting.handed.push(then));
    }

    /// The connection has taken bytes.
    pub(super) fn wrote(&self) {
        self.with(|waiting| waiting.written.append(&mut waiting.handed));
    }

    /// All the bytes that it has taken are with the kernel.
    pub(super) fn flushed(&self) {
        let left = self.with(|waiting| std::mem::take(&mut waiting.written));
        left.into_iter().for_each(|then| then());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn an_answer_has_left_when_it_was_written_and_flushed() {
        let (leaving, count) = (Leaving::default(), Arc::new(AtomicUsize::new(0)));
        let hand = || {
            let count = Arc::clone(&count);
            leaving.handed(Box::new(move || _ = count.fetch_add(1, Ordering::Relaxed)));
        };
        hand();
        leaving.flushed();
        assert_eq!(count.load(Ordering::Relaxed), 0, "nothing was written yet");
        leaving.wrote();
        hand();
        leaving.flushed();
        assert_eq!(count.load(Ordering::Relaxed), 1);
        leaving.wrote();
        leaving.flushed();
        leaving.flushed();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }
}
