//! Users whose answer is on its way to the host.
//!
//! Between the moment a user exists and the moment the host has the answer, only this process knows of it. If it is killed
//! then, the host tells the caller so and forgets the matter, and nobody would end the user before its time. So each mint
//! leaves a scratch note first, which is removed once the answer is with the host, and the next process on the machine
//! looks for users of the requests in the notes that it finds, and ends them. Where the notes are lost with the machine, a
//! user's time ends it; and so it does in the one case that nobody here can tell from a good one: the answer was with the
//! kernel when the process died, and the host broke the connection off before it read it.
//!
//! A note names connection and request; whose the user is says its marker, or its note in storage.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Mount;
use super::intent::UNFINISHED;

/// A user whose answer is on its way. Nothing but [`arrived`] or [`lost`] may come of it.
#[derive(Debug)]
#[must_use = "whoever made the user knows whether its answer arrived"]
pub struct Underway {
    note: Option<u64>,
    connection: String,
    request: String,
    /// A dead process was at the same request.
    again: bool,
}

/// What a note says.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    mount: String,
    connection: String,
    request: String,
}

/// What the mount knows of answers that did not arrive.
#[derive(Default)]
pub struct Transit(Mutex<HashMap<Place, Lost>>);

/// Where the note is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// With this process.
    Own(u64),
    /// With a dead one.
    Left(String),
}

#[derive(Debug)]
struct Lost {
    connection: String,
    request: String,
    /// When it was first known, by the steady clock.
    since: Duration,
}

impl Transit {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Lost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before a user is made. If a dead process was at the same request, that is settled by whoever makes the user: it looks
/// for the earlier one first.
pub fn begin(mount: &Mount, connection: &str, request: &str) -> Underway {
    let young = mount.clocks.is_young(mount.ports.clock.as_ref());
    let again = young && requests(mount, connection).contains(request);
    // First: there is always one of the two.
    let note = write(mount, connection, request);
    if again {
        mount.transit.lock().retain(|place, lost| {
            let same = lost.connection == connection && lost.request == request;
            match place {
                Place::Left(place) if same => mount.ports.scratch.clear_left(place),
                _ => {}
            }
            !same || matches!(place, Place::Own(_))
        });
    }
    Underway { note, connection: connection.to_owned(), request: request.to_owned(), again }
}

/// As long as the end of a user whose answer nobody has takes: what is to become of it is said of this one then.
pub fn again(mount: &Mount, underway: &Underway) -> Underway {
    let (connection, request) = (underway.connection.clone(), underway.request.clone());
    Underway { note: write(mount, &connection, &request), connection, request, again: underway.again }
}

fn write(mount: &Mount, connection: &str, request: &str) -> Option<u64> {
    let note = Note { mount: mount.id.clone(), connection: connection.to_owned(), request: request.to_owned() };
    let text = serde_json::to_string(&note).ok().filter(|_| !request.is_empty());
    text.and_then(|text| mount.ports.scratch.write(&text))
}

/// There is no user. But if a dead process was at the same request, nobody has looked for its user yet.
pub fn unmade(mount: &Mount, underway: &Underway) {
    if underway.again { lost(mount, underway) } else { arrived(mount, underway) }
}

/// The host has the answer, or there is no user, or its end is somebody else's by now.
pub fn arrived(mount: &Mount, underway: &Underway) {
    if let Some(note) = underway.note {
        mount.ports.scratch.clear(note);
    }
}

/// Nobody knows whether there is a user, and nobody will get it.
pub fn lost(mount: &Mount, underway: &Underway) {
    let Some(note) = underway.note else { return };
    let lost = Lost {
        connection: underway.connection.clone(),
        request: underway.request.clone(),
        since: mount.ports.clock.steady(),
    };
    mount.transit.lock().insert(Place::Own(note), lost);
    super::reconcile::soon(mount, &underway.connection);
}

/// The requests of a connection whose answers did not arrive.
pub fn requests(mount: &Mount, connection: &str) -> BTreeSet<String> {
    let steady = mount.ports.clock.steady();
    let left = mount.ports.scratch.left();
    let mut known = mount.transit.lock();
    for note in left {
        let place = Place::Left(note.place);
        if !known.contains_key(&place)
            && let Ok(note) = serde_json::from_str::<Note>(&note.text)
            && note.mount == mount.id
        {
            known.insert(place, Lost { connection: note.connection, request: note.request, since: steady });
        }
    }
    known.values().filter(|lost| lost.connection == connection).map(|lost| lost.request.clone()).collect()
}

/// Whether the answer to a request did not arrive, as far as is known without looking.
pub fn is_lost(mount: &Mount, connection: &str, request: &str) -> bool {
    mount.transit.lock().values().any(|lost| lost.connection == connection && lost.request == request)
}

/// A look at the connection has ended what there was. What is so old that nobody can be making its user any more is done
/// with; gives back for how long the youngest that is left has been known, and has to be looked for again.
pub fn looked(mount: &Mount, connection: &str) -> Option<Duration> {
    let steady = mount.ports.clock.steady();
    let mut known = mount.transit.lock();
    known.retain(|place, lost| {
        let done = lost.connection == connection && steady.saturating_sub(lost.since) >= UNFINISHED;
        if done {
            match place {
                Place::Own(note) => mount.ports.scratch.clear(*note),
                Place::Left(place) => mount.ports.scratch.clear_left(place),
            }
        }
        !done
    });
    let left = known.values().filter(|lost| lost.connection == connection);
    left.map(|lost| steady.saturating_sub(lost.since)).min()
}
