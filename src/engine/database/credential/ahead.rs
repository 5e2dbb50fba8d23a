//! Passwords that are drawn and hashed before anybody asks for one: a lone mint then does not wait for its verifier.
//!
//! Nobody knows them yet, so they are worth nothing until they are given out; they are wiped if they never are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::secret::verifier::Prepared;

/// How many are kept. More would only help who comes in bursts, and then the server's own hashing is what counts.
const KEPT: usize = 2;

/// The passwords of a mount that nobody has asked for yet, all with the same rounds: those that were asked for last.
#[derive(Default)]
pub struct Ahead(Arc<Shelf>);

#[derive(Default)]
struct Shelf {
    ready: Mutex<Vec<Prepared>>,
    /// Somebody is drawing.
    busy: AtomicBool,
}

impl Shelf {
    /// One with so many rounds. Those with other rounds go: they would never be asked for.
    fn take(&self, iterations: u32) -> Option<Prepared> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|prepared| prepared.iterations == iterations);
        ready.pop()
    }

    fn draw(&self, iterations: u32) {
        while let Ok(prepared) = Prepared::draw(iterations) {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push(prepared);
            if ready.len() >= KEPT {
                break;
            }
        }
        self.busy.store(false, Ordering::Release);
    }
}

impl Ahead {
    /// One with so many rounds, if there is one; the next is drawn while its caller goes on.
    pub fn take(&self, iterations: u32) -> Option<Prepared> {
        let taken = self.0.take(iterations);
        if !self.0.busy.swap(true, Ordering::AcqRel) {
            let shelf = self.0.clone();
            tokio::task::spawn_blocking(move || shelf.draw(iterations));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::verifier;

    #[test]
    fn each_is_given_out_once_and_only_with_the_rounds_that_are_wanted() {
        let shelf = Shelf::default();
        shelf.draw(2);
        let (one, other) = (shelf.take(2).unwrap(), shelf.take(2).unwrap());
        assert!(shelf.take(2).is_none());
        assert_ne!(one.password, other.password);
        assert!(verifier::is_of(one.verifier.expose(), &one.password));
        shelf.draw(2);
        assert!(shelf.take(3).is_none() && shelf.take(2).is_none());
    }

    #[tokio::test]
    async fn the_next_is_drawn_while_nobody_waits() {
        let ahead = Ahead::default();
        assert!(ahead.take(2).is_none());
        while ahead.0.busy.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert!(ahead.take(2).is_some());
    }
}
