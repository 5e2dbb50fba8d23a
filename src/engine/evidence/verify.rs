//! Whether a record is what it was: each event against its own hash and the one before, and the whole against a signed
//! [`Checkpoint`]. Works on an export alone, on any machine.

use serde::Deserialize;
use serde_json::Value;

use super::Head;
use super::checkpoint::Checkpoint;
use super::cut::Cut;
use super::event::{GENESIS, Hash, hash_of, hex, unhex};
use super::tree::{self, Tree};
use crate::engine::access::repeat::{Decisions, Repeater};

/// What is wrong, and where: the first thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The text is no export.
    #[error("line {0} is neither an event nor a checkpoint")]
    Unreadable(usize),
    /// An event is missing, or out of its place.
    #[error("event {wanted} is missing or out of its place: found {found} instead")]
    Order {
        /// The number that should be next.
        wanted: u64,
        /// What is there.
        found: u64,
    },
    /// An event does not continue the one before.
    #[error("event {0} does not continue the event before it: one of the two was changed")]
    Link(u64),
    /// An event is not what its hash says.
    #[error("event {0} was changed: it is not what its hash says")]
    Content(u64),
    /// The record does not begin at its beginning.
    #[error("the record begins with event {0}, not 1; what came before cannot be judged")]
    Beginning(u64),
    /// It ends before a checkpoint.
    #[error("the record ends with event {end}, but a checkpoint says that there were {size}: the end was cut off")]
    CutOff {
        /// The last event.
        end: u64,
        /// What the checkpoint says.
        size: u64,
    },
    /// It is not the record that was signed.
    #[error("the first {0} events are not those that were signed")]
    Replaced(u64),
    /// The event is not in the tree that was signed.
    #[error("event {0} is not in the tree that was signed")]
    NotIncluded(u64),
    /// What stands in the place of the first events is not what it says.
    #[error("what is said of the first {0} events, which were taken away, contradicts itself")]
    Cut(u64),
    /// A checkpoint has another author.
    #[error("the checkpoint of {0} events is not signed by this key")]
    Signature(u64),
}

/// A record that fits together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sound {
    /// The number of the first event that was seen.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// Its hash.
    pub head: String,
    /// Checkpoints that were met and hold.
    pub checkpoints: usize,
    /// How many of the first events were taken away, by a signed statement of the mount.
    pub cut: u64,
    /// Checkpoints of the time before that: nobody can say of them whether they hold.
    pub too_old: usize,
    /// The signatures of those were checked against a key.
    pub signed: bool,
    /// What came of deciding again what was decided.
    pub decisions: Decisions,
}

/// Looks at one event after the other.
#[derive(Debug, Default)]
pub struct Reader {
    first: Option<u64>,
    next: u64,
    prev: Hash,
    tree: Tree,
    checkpoints: Vec<Checkpoint>,
    held: usize,
    /// All events from the first on are in the tree.
    whole: bool,
    cut: Option<Checkpoint>,
    repeater: Repeater,
}

impl Reader {
    /// A checkpoint that the record must agree with.
    pub fn expect(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push(checkpoint);
    }

    /// The record begins here: what was before was taken away. Told before any event.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn begin(&mut self, cut: &Cut) -> Result<(), Flaw> {
        let size = cut.checkpoint.size;
        let (head, tree) = cut.end().ok_or(Flaw::Cut(size))?;
        (self.first, self.next, self.prev) = (Some(size + 1), size + 1, head);
        (self.tree, self.whole) = (tree, true);
        self.cut = Some(cut.checkpoint.clone());
        cut.policies.iter().for_each(|text| self.repeater.learn(text));
        Ok(())
    }

    /// The record as it was after the last event that was told, which came at `time`.
    pub fn head(&self, time: u64) -> Head {
        Head { next: self.next, hash: self.prev, time, tree: self.tree.clone() }
    }

    /// The next event.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn event(&mut self, event: &Value) -> Result<(), Flaw> {
        let seq = event["seq"].as_u64().unwrap_or(0);
        if self.first.is_none() {
            self.first = Some(seq);
            (self.next, self.whole) = (seq, seq <= 1);
            self.prev = match seq {
                0 | 1 => GENESIS,
                _ => event["prev"].as_str().and_then(unhex).ok_or(Flaw::Link(seq))?,
            };
        }
        if seq != self.next || seq == 0 {
            return Err(Flaw::Order { wanted: self.next.max(1), found: seq });
        }
        if event["prev"].as_str() != Some(&hex(&self.prev)) {
            return Err(Flaw::Link(seq));
        }
        let hash = hash_of(&self.prev, event);
        if event["hash"].as_str() != Some(&hex(&hash)) {
            return Err(Flaw::Content(seq));
        }
        (self.prev, self.next) = (hash, seq + 1);
        self.tree.push(&hash);
        for checkpoint in self.checkpoints.iter().filter(|checkpoint| checkpoint.size == seq) {
            if checkpoint.head != hex(&hash) || (self.whole && checkpoint.root != hex(&self.tree.root())) {
                return Err(Flaw::Replaced(seq));
            }
            self.held += 1;
        }
        self.repeater.event(event);
        Ok(())
    }

    /// That was all. `public` is the key of the mount, if the caller has it from elsewhere.
    ///
    /// # Errors
    /// A checkpoint that does not fit.
    pub fn end(self, public: Option<&str>) -> Result<Sound, Flaw> {
        let (first, last) = (self.first.unwrap_or(1), self.next.saturating_sub(1));
        let cut = self.cut.as_ref().map_or(0, |cut| cut.size);
        let (mut held, mut too_old) = (self.held, 0);
        for checkpoint in self.checkpoints.iter().chain(&self.cut) {
            if public.is_some_and(|public| !checkpoint.is_by(public)) {
                return Err(Flaw::Signature(checkpoint.size));
            }
        }
        for checkpoint in &self.checkpoints {
            if let Some(at) = self.cut.as_ref().filter(|at| at.size == checkpoint.size) {
                if (&checkpoint.head, &checkpoint.root) != (&at.head, &at.root) {
                    return Err(Flaw::Replaced(at.size));
                }
                held += 1;
            }
            too_old += usize::from(checkpoint.size < cut);
            if checkpoint.size > last {
                return Err(Flaw::CutOff { end: last, size: checkpoint.size });
            }
        }
        let signed = public.is_some() && held > 0;
        let decisions = self.repeater.end();
        Ok(Sound { first, last, head: hex(&self.prev), checkpoints: held, cut, too_old, signed, decisions })
    }
}

/// An export as `evidence/export` answers it, with or without the host's envelope.
#[derive(Deserialize)]
struct Export {
    events: Vec<Value>,
    #[serde(default)]
    checkpoint: Option<Checkpoint>,
    #[serde(default)]
    cut: Option<Cut>,
}

/// One event with the path to the root of a checkpoint, as `evidence/proof/:seq` answers it.
#[derive(Deserialize)]
struct Included {
    event: Value,
    path: Vec<String>,
    checkpoint: Checkpoint,
}

impl Included {
    fn judge(&self, kept: &[Checkpoint], public: Option<&str>) -> Result<Sound, Flaw> {
        let seq = self.event["seq"].as_u64().unwrap_or(0);
        let prev = self.event["prev"].as_str().and_then(unhex).ok_or(Flaw::Link(seq))?;
        let hash = hash_of(&prev, &self.event);
        if self.event["hash"].as_str() != Some(&hex(&hash)) {
            return Err(Flaw::Content(seq));
        }
        let path: Option<Vec<Hash>> = self.path.iter().map(|text| unhex(text)).collect();
        let (path, root) = path.zip(unhex(&self.checkpoint.root)).ok_or(Flaw::NotIncluded(seq))?;
        let place = seq.checked_sub(1).ok_or(Flaw::NotIncluded(seq))?;
        if !tree::leads(&hash, place, self.checkpoint.size, &path, &root) {
            return Err(Flaw::NotIncluded(seq));
        }
        if public.is_some_and(|public| !self.checkpoint.is_by(public)) {
            return Err(Flaw::Signature(self.checkpoint.size));
        }
        if let Some(other) =
            kept.iter().find(|kept| kept.size != self.checkpoint.size || kept.root != self.checkpoint.root)
        {
            return Err(Flaw::Replaced(other.size));
        }
        let (head, signed) = (hex(&hash), public.is_some());
        Ok(Sound { first: seq, last: seq, head, checkpoints: 1, signed, ..Sound::default() })
    }
}

/// Judges an export: the answer of `evidence/export`, or events, checkpoints and the cut one a line. `kept` are checkpoints that
/// somebody kept, `public` the key that must have signed all of them.
///
/// # Errors
/// The first thing that does not fit.
pub fn file(text: &str, kept: Vec<Checkpoint>, public: Option<&str>) -> Result<Sound, Flaw> {
    if let Some(included) = whole::<Included>(text) {
        return included.judge(&kept, public);
    }
    let mut reader = Reader::default();
    for checkpoint in kept {
        reader.expect(checkpoint);
    }
    let mut events = Vec::new();
    if let Some(export) = whole::<Export>(text) {
        export.checkpoint.into_iter().for_each(|checkpoint| reader.expect(checkpoint));
        if let Some(cut) = export.cut {
            reader.begin(&cut)?;
        }
        events = export.events;
    } else {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let value: Value = serde_json::from_str(line).map_err(|_| Flaw::Unreadable(number + 1))?;
            if value.get("seq").is_some() {
                events.push(value);
            } else if value.get("peaks").is_some() {
                let cut: Cut = serde_json::from_value(value).map_err(|_| Flaw::Unreadable(number + 1))?;
                reader.begin(&cut)?;
            } else {
                let checkpoint = serde_json::from_value(value).map_err(|_| Flaw::Unreadable(number + 1))?;
                reader.expect(checkpoint);
            }
        }
    }
    for event in &events {
        reader.event(event)?;
    }
    let sound = reader.end(public)?;
    if sound.first > sound.cut + 1 && sound.checkpoints == 0 {
        return Err(Flaw::Beginning(sound.first));
    }
    Ok(sound)
}

/// A checkpoint from the answer of `evidence/checkpoint`, from a part of it, or from `jit_checkpoint`.
pub fn checkpoint(text: &str) -> Option<Checkpoint> {
    let value: Value = serde_json::from_str(text).ok()?;
    let inner = value.get("data").unwrap_or(&value);
    let inner = inner.get("checkpoint").unwrap_or(inner);
    serde_json::from_value(inner.clone()).ok()
}

fn whole<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    let value: Value = serde_json::from_str(text).ok()?;
    let inner = value.get("data").filter(|data| data.is_object()).unwrap_or(&value);
    serde_json::from_value(inner.clone()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::evidence::Head;
    use crate::engine::evidence::event::Draft;
    use crate::secret::signer::Signer;

    fn record(length: u64) -> (Vec<Value>, Checkpoint, String) {
        let signer = Signer::read(&Signer::draw().unwrap()).unwrap();
        let (mut prev, mut tree, mut events) = (GENESIS, Tree::default(), Vec::new());
        for seq in 1..=length {
            let draft = Draft::new("x").with("reason", format!("because of {seq}")).with("request_id", "jr_1");
            let (event, hash) = draft.placed(seq, "2026-01-01T00:00:00.000Z", "m", &prev);
            tree.push(&hash);
            prev = hash;
            events.push(event);
        }
        let head = Head { next: length + 1, hash: prev, time: 0, tree };
        (events, Checkpoint::sign("m", &head, &signer), signer.public())
    }

    fn lines(events: &[Value]) -> String {
        events.iter().map(|event| format!("{event}\n")).collect()
    }

    #[test]
    fn what_was_not_touched_is_sound_and_every_other_record_is_found_out() {
        let (events, checkpoint, public) = record(9);
        let check = |events: &[Value]| file(&lines(events), vec![checkpoint.clone()], Some(&public));
        let sound = check(&events).unwrap();
        assert_eq!((sound.first, sound.last, sound.checkpoints, sound.signed), (1, 9, 1, true));

        let mut changed = events.clone();
        changed[4]["reason"] = "another".into();
        assert_eq!(check(&changed), Err(Flaw::Content(5)));
        let mut dropped = events.clone();
        dropped.remove(3);
        assert_eq!(check(&dropped), Err(Flaw::Order { wanted: 4, found: 5 }));
        let mut swapped = events.clone();
        swapped.swap(2, 3);
        assert_eq!(check(&swapped), Err(Flaw::Order { wanted: 3, found: 4 }));
        assert_eq!(check(&events[..8]), Err(Flaw::CutOff { end: 8, size: 9 }));
        let (replaced, ..) = record(9);
        assert!(check(&replaced).is_ok(), "the same events are the same record");
        let mut rewritten = Vec::new();
        let mut prev = GENESIS;
        for seq in 1..=9 {
            let (event, hash) = Draft::new("y").placed(seq, "t", "m", &prev);
            rewritten.push(event);
            prev = hash;
        }
        assert_eq!(check(&rewritten), Err(Flaw::Replaced(9)));
        let other = Signer::read(&Signer::draw().unwrap()).unwrap().public();
        assert_eq!(file(&lines(&events), vec![checkpoint.clone()], Some(&other)), Err(Flaw::Signature(9)));
        assert_eq!(file(&lines(&events[2..]), vec![], None), Err(Flaw::Beginning(3)));
        assert!(
            file(&lines(&events[2..]), vec![checkpoint.clone()], Some(&public)).is_ok(),
            "a later part, with its end"
        );
        assert_eq!(file("nonsense", vec![], None), Err(Flaw::Unreadable(1)));
        let answer = serde_json::json!({ "data": { "events": events, "checkpoint": checkpoint } });
        assert_eq!(file(&answer.to_string(), vec![], Some(&public)).unwrap().checkpoints, 1);
    }

    #[test]
    fn one_event_is_shown_to_be_in_the_tree() {
        let (events, checkpoint, public) = record(9);
        let hashes: Vec<Hash> = events.iter().map(|event| unhex(event["hash"].as_str().unwrap()).unwrap()).collect();
        let path: Vec<String> =
            tree::path(&Tree::default(), &hashes, 4).unwrap().iter().map(|hash| hex(hash)).collect();
        let answer = |event: &Value| {
            serde_json::json!({ "data": { "event": event, "path": path, "checkpoint": checkpoint } }).to_string()
        };
        let sound = file(&answer(&events[4]), vec![checkpoint.clone()], Some(&public)).unwrap();
        assert_eq!((sound.first, sound.last, sound.signed), (5, 5, true));
        assert_eq!(file(&answer(&events[5]), vec![], None), Err(Flaw::NotIncluded(6)));
        let mut changed = events[4].clone();
        changed["reason"] = "another".into();
        assert_eq!(file(&answer(&changed), vec![], None), Err(Flaw::Content(5)));
        let other = Checkpoint { root: hex(&GENESIS), ..checkpoint.clone() };
        assert_eq!(file(&answer(&events[4]), vec![other], None), Err(Flaw::Replaced(9)));
    }

    proptest! {
        /// Every byte of every stored event counts.
        #[test]
        fn no_byte_can_be_changed(at in 0usize..10_000, to in any::<u8>()) {
            let (events, checkpoint, public) = record(5);
            let text = lines(&events);
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = to;
            let Ok(changed) = String::from_utf8(bytes) else { return Ok(()) };
            let same = |a: &str, b: &str| {
                let values = |text: &str| text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>().ok();
                values(a) == values(b)
            };
            let found = file(&changed, vec![checkpoint], Some(&public));
            prop_assert_eq!(found.is_ok(), same(&text, &changed), "{:?}", found);
        }
    }
}
