//! The Merkle tree of RFC 6962 over the hashes of all events, as far as it is needed to go on and to name its root: the
//! roots of its complete subtrees, one for each bit of the size.

use sha2::{Digest, Sha256};

use super::event::{Hash, hex, unhex};

/// The tree of the first `size` events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Largest first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// How many events are in it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the hash of the next event.
    pub fn push(&mut self, event: &Hash) {
        let mut node = leaf(event);
        let mut full = self.size;
        while full & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                node = inner(&left, &node);
            }
            full >>= 1;
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Sha256::digest([]).into(),
            Some(last) => peaks.fold(*last, |right, left| inner(left, &right)),
        }
    }

    /// The root of the complete subtree over exactly these events, if it is one of those that are known.
    fn peak(&self, from: u64, to: u64) -> Option<Hash> {
        let mut start = 0;
        // One for each bit of the size, the highest first.
        let widths = (0..u64::BITS).rev().map(|bit| 1 << bit).filter(|width| self.size & width != 0);
        for (peak, width) in self.peaks.iter().zip(widths) {
            if (start, start + width) == (from, to) {
                return Some(*peak);
            }
            start += width;
        }
        None
    }

    /// As texts.
    pub fn stored(&self) -> Vec<String> {
        self.peaks.iter().map(|peak| hex(peak)).collect()
    }

    /// From such texts. `None` if they are not of a tree of that size.
    pub fn read(size: u64, stored: &[String]) -> Option<Self> {
        let peaks: Vec<Hash> = stored.iter().map(|text| unhex(text)).collect::<Option<_>>()?;
        (peaks.len() == usize::try_from(size.count_ones()).ok()?).then_some(Self { size, peaks })
    }
}

/// The largest power of two below `count`, of two or more leaves: where the RFC splits a tree.
fn split(count: u64) -> u64 {
    (count.next_power_of_two() / 2).max(1)
}

/// The audit path (RFC 6962, 2.1.1) of the event at `place` (from 0) in the tree of `before` and then these events: the
/// lowest hash first. `None` for one that is not among these.
pub fn path(before: &Tree, events: &[Hash], place: u64) -> Option<Vec<Hash>> {
    let size = before.size.checked_add(u64::try_from(events.len()).ok()?)?;
    if !(before.size..size).contains(&place) {
        return None;
    }
    let (mut from, mut to, mut hashes) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if place < middle {
            hashes.push(root_of(before, events, middle, to)?);
            to = middle;
        } else {
            hashes.push(root_of(before, events, from, middle)?);
            from = middle;
        }
    }
    hashes.reverse();
    Some(hashes)
}

/// The root of the subtree over the events from `from` to before `to`; `None` if it is within one of which only the root is
/// known.
fn root_of(before: &Tree, events: &[Hash], from: u64, to: u64) -> Option<Hash> {
    if let Some(start) = from.checked_sub(before.size) {
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(to - before.size).ok()?);
        let mut tree = Tree::default();
        events.get(start..end)?.iter().for_each(|event| tree.push(event));
        return Some(tree.root());
    }
    if let Some(peak) = before.peak(from, to) {
        return Some(peak);
    }
    if to - from < 2 {
        return None;
    }
    let middle = from + split(to - from);
    Some(inner(&root_of(before, events, from, middle)?, &root_of(before, events, middle, to)?))
}

/// Whether `path` leads from the event at `place` (from 0) to this root of a tree of `size` events.
pub fn leads(event: &Hash, place: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    fn climb(event: &Hash, place: u64, size: u64, path: &[Hash]) -> Option<Hash> {
        if size == 1 {
            return path.is_empty().then(|| leaf(event));
        }
        let (last, below) = path.split_last()?;
        let half = size.checked_next_power_of_two()? / 2;
        match place.checked_sub(half) {
            None => Some(inner(&climb(event, place, half, below)?, last)),
            Some(place) => Some(inner(last, &climb(event, place, size - half, below)?)),
        }
    }
    place < size && climb(event, place, size, path).as_ref() == Some(root)
}

fn leaf(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

fn inner(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in the RFC, word for word.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => leaf(one),
            many => {
                let mut k = 1;
                while k * 2 < many.len() {
                    k *= 2;
                }
                inner(&mth(&many[..k]), &mth(&many[k..]))
            }
        }
    }

    #[test]
    fn a_path_leads_from_its_event_and_from_no_other() {
        let events: Vec<Hash> = (0..33u8).map(|i| Sha256::digest([i]).into()).collect();
        for size in 1..=events.len() {
            let root = mth(&events[..size]);
            for place in 0..size {
                let path = path(&Tree::default(), &events[..size], place as u64).unwrap();
                let to = |event: &Hash, place: u64, path: &[Hash]| leads(event, place, size as u64, path, &root);
                assert!(to(&events[place], place as u64, &path), "{place} of {size}");
                assert!(!to(&events[(place + 1) % 33], place as u64, &path), "another event");
                assert!(size < 2 || !to(&events[place], (place as u64 + 1) % size as u64, &path), "another place");
                assert!(path.is_empty() || !to(&events[place], place as u64, &path[1..]), "a shorter path");
            }
        }
        assert!(!leads(&events[0], 0, 0, &[], &mth(&[])), "nothing is in an empty tree");
    }

    #[test]
    fn a_path_is_the_same_when_the_first_events_are_known_by_their_roots_only() {
        let events: Vec<Hash> = (0..33u8).map(|i| Sha256::digest([i]).into()).collect();
        let mut before = Tree::default();
        for cut in 0..events.len() {
            for size in cut..=events.len() {
                for place in 0..size {
                    let whole = path(&Tree::default(), &events[..size], place as u64);
                    let rest = path(&before, &events[cut..size], place as u64);
                    assert_eq!(rest, whole.filter(|_| place >= cut), "{place} of {size} without {cut}");
                }
            }
            before.push(&events[cut]);
        }
    }

    #[test]
    fn roots_are_those_of_the_rfc() {
        let leaves: Vec<Hash> = (0..70u8).map(|i| Sha256::digest([i]).into()).collect();
        let mut tree = Tree::default();
        for n in 0..=leaves.len() {
            assert_eq!(tree.root(), mth(&leaves[..n]), "{n}");
            assert_eq!(Tree::read(tree.size(), &tree.stored()), Some(tree.clone()));
            if let Some(next) = leaves.get(n) {
                tree.push(next);
            }
        }
        assert_eq!(Tree::read(3, &tree.stored()), None);
        assert_eq!(hex(&leaf(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d", "a known leaf");
    }
}
