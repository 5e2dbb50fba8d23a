//! Learning that the host did not take an answer that had left already.
//!
//! When a caller leaves, the host gives its call up and resets the stream. The reset and our answer can cross: the host
//! then drops the answer, and a credential in it is nobody's. An HTTP/2 library passes over the reset of a stream that
//! it has closed, so resets are read here from the host's bytes, with as little of the protocol as that takes: frame
//! headers, and the host's id at the beginning of each request.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::leaving::Leaving;

/// How long an answer can come back. The host's word for it takes one way over a local socket.
const KEEP: Duration = Duration::from_secs(5);
/// How many streams of a connection are remembered, the latest ones.
const STREAMS: usize = 16_384;
/// Where HTTP/2 frames begin, after the client's first words.
const PREFACE: usize = 24;
/// Length of a frame's header.
const HEADER: usize = 9;
/// How much of a request is looked at: its id is among the first bytes.
const BEGINNING: usize = 96;

/// What is done when an answer comes back.
pub(super) type Undo = Box<dyn FnOnce() + Send>;

/// Answers that may still come back, by the host's id of the request. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Returns {
    recent: Arc<Mutex<Recent>>,
    leaving: Leaving,
}

#[derive(Default)]
struct Recent {
    fates: HashMap<Uuid, Fate>,
    order: VecDeque<(Instant, Uuid)>,
}

/// What was the first to be known of an answer.
enum Fate {
    /// It left.
    Answered(Undo),
    /// The host does not want it.
    Returned,
}

impl Returns {
    /// An answer to `request` has left. If it comes back, or has done so already, `undo` runs.
    pub(super) fn answered(&self, request: Uuid, undo: Undo) {
        if let Some(undo) = self.with(|recent| match recent.fates.remove(&request) {
            Some(Fate::Returned) => Some(undo),
            _ => recent.keep(request, Fate::Answered(undo)),
        }) {
            undo();
        }
    }

    fn returned(&self, request: Uuid) {
        if let Some(undo) = self.with(|recent| match recent.fates.remove(&request) {
            Some(Fate::Answered(undo)) => Some(undo),
            _ => recent.keep(request, Fate::Returned),
        }) {
            undo();
        }
    }

    /// Answers that have not left yet.
    pub(super) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// For the bytes of one connection.
    pub(super) fn scan(&self) -> Scan {
        Scan {
            returns: self.clone(),
            begun: HashSet::new(),
            requests: VecDeque::new(),
            part: Part::Passing(PREFACE),
            held: Vec::new(),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Recent) -> T) -> T {
        work(&mut self.recent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Recent {
    /// Nothing to be done now.
    fn keep(&mut self, request: Uuid, fate: Fate) -> Option<Undo> {
        let now = Instant::now();
        while let Some((_, old)) = self.order.pop_front_if(|(since, _)| now.duration_since(*since) > KEEP) {
            self.fates.remove(&old);
        }
        self.fates.insert(request, fate);
        self.order.push_back((now, request));
        None
    }
}

/// Reads along on one connection.
pub(super) struct Scan {
    returns: Returns,
    /// Streams that have sent headers and no data yet.
    begun: HashSet<u32>,
    /// The request on each stream.
    requests: VecDeque<(u32, Uuid)>,
    /// What the next bytes are.
    part: Part,
    /// Those of a header or a beginning that have come.
    held: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Part {
    /// Nothing of interest.
    Passing(usize),
    /// A frame's header.
    Header,
    /// The first bytes of a request, and how many follow.
    Beginning { stream: u32, length: usize, rest: usize },
}

impl Scan {
    /// Answers that have not left yet.
    pub(super) fn leaving(&self) -> &Leaving {
        &self.returns.leaving
    }

    /// Takes the next bytes.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        loop {
            let wanted = match self.part {
                Part::Passing(left) if left > bytes.len() => {
                    self.part = Part::Passing(left - bytes.len());
                    return;
                }
                Part::Passing(left) => {
                    bytes = &bytes[left..];
                    self.part = Part::Header;
                    continue;
                }
                Part::Header => HEADER,
                Part::Beginning { length, .. } => length,
            };
            let taken = (wanted - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.held.len() < wanted {
                return;
            }
            let held = std::mem::take(&mut self.held);
            self.part = match self.part {
                Part::Beginning { stream, rest, .. } => {
                    self.begin(stream, &held);
                    Part::Passing(rest)
                }
                _ => self.header(&held),
            };
        }
    }

    fn header(&mut self, header: &[u8]) -> Part {
        let &[l1, l2, l3, kind, flags, s1, s2, s3, s4] = header else { return Part::Header };
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        let stream = u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]);
        match kind {
            // DATA, the first of its stream, without padding.
            0 if self.begun.remove(&stream) && flags & 0x08 == 0 => {
                let beginning = length.min(BEGINNING);
                return Part::Beginning { stream, length: beginning, rest: length - beginning };
            }
            // HEADERS.
            1 => {
                self.begun.insert(stream);
            }
            // RST_STREAM.
            3 => {
                self.begun.remove(&stream);
                let at = self.requests.iter().rposition(|(known, _)| *known == stream);
                if let Some((_, request)) = at.and_then(|at| self.requests.remove(at)) {
                    self.returns.returned(request);
                }
            }
            _ => {}
        }
        Part::Passing(length)
    }

    fn begin(&mut self, stream: u32, beginning: &[u8]) {
        if let Some(request) = request_id(beginning) {
            if self.requests.len() == STREAMS {
                self.requests.pop_front();
            }
            self.requests.push_back((stream, request));
        }
    }
}

/// The id in the first bytes of a call of `HandleRequest`: five bytes of gRPC, then field 2 of the arguments (after a
/// number as field 1, if there is one), and in it field 1 of the request.
fn request_id(beginning: &[u8]) -> Option<Uuid> {
    let (&[0, _, _, _, _], mut message) = beginning.split_first_chunk()? else { return None };
    if let Some(rest) = message.strip_prefix(&[0x08]) {
        message = number(rest)?.1;
    }
    let (_, request) = number(message.strip_prefix(&[0x12])?)?;
    let (length, id) = number(request.strip_prefix(&[0x0a])?)?;
    Uuid::try_parse_ascii(id.get(..length)?).ok()
}

/// A variable-length number, and what follows it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let last = bytes.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let (digits, rest) = bytes.split_at(last + 1);
    Some((digits.iter().rev().fold(0, |value, digit| value << 7 | usize::from(digit & 0x7f)), rest))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::wire::proto::pb;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// A request's message as gRPC sends it.
    fn message(id: &str, storage_id: u32, data_json: &str) -> Vec<u8> {
        let request =
            pb::Request { id: id.into(), operation: "read".into(), data_json: data_json.into(), ..Default::default() };
        let args = pb::HandleRequestArgs { storage_id, request: Some(request) }.encode_to_vec();
        [&[0], &u32::try_from(args.len()).unwrap().to_be_bytes()[..], &args].concat()
    }

    fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Undo) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        (count, move || {
            let count = Arc::clone(&counted);
            Box::new(move || {
                count.fetch_add(1, SeqCst);
            })
        })
    }

    proptest! {
        /// However the bytes are cut, and whatever else is on the connection.
        #[test]
        fn a_reset_returns_the_answer_of_its_stream(
            cuts in prop::collection::vec(1usize..60, 1..200),
            storage_id in 0u32..300,
            data_json in ".{0,300}",
            before in any::<bool>(),
        ) {
            let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
            let text = message(&two.to_string(), storage_id, &data_json);
            let (first, second) = text.split_at(text.len().min(BEGINNING));
            let bytes = [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(4, 0, 0, &[]),
                frame(1, 4, 1, b"headers"),
                frame(1, 4, 3, b"headers"),
                frame(0, 1, 1, &message(&one.to_string(), 0, "null")),
                frame(0, 0, 3, first),
                frame(8, 0, 0, &[0, 0, 1, 0]),
                frame(0, 1, 3, second),
                frame(0, 1, 3, &message(&one.to_string(), 0, "null")),
                frame(3, 0, 7, &[0, 0, 0, 8]),
                frame(3, 0, 3, &[0, 0, 0, 8]),
                frame(3, 0, 3, &[0, 0, 0, 8]),
            ]
            .concat();
            let returns = Returns::default();
            let ((kept, keep), (undone, undo)) = (counter(), counter());
            if before {
                returns.answered(one, keep());
                returns.answered(two, undo());
            }
            let (mut scan, mut rest, mut cuts) = (returns.scan(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                scan.read(now);
                rest = later;
            }
            if !before {
                returns.answered(two, undo());
                returns.answered(one, keep());
            }
            prop_assert_eq!((kept.load(SeqCst), undone.load(SeqCst)), (0, 1));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut scan = Returns::default().scan();
            scan.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            scan.read(&frame(1, 4, 1, &[]));
            scan.read(&bytes);
            scan.read(&frame(0, 0, 1, &bytes));
            request_id(&bytes);
        }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (count, undo) = counter();
        let returns = Returns::default();
        returns.answered(Uuid::from_u128(1), undo());
        returns.with(|recent| recent.order[0].0 -= KEEP + Duration::from_secs(1));
        returns.answered(Uuid::from_u128(2), undo());
        returns.returned(Uuid::from_u128(1));
        assert_eq!(count.load(SeqCst), 0);
        assert_eq!(returns.with(|recent| (recent.fates.len(), recent.order.len())), (2, 2));
    }
}
