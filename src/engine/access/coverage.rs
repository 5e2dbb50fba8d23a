//! How much of the last hour, day and week somebody really held a role: what tells temporary access from standing access
//! that is asked for again and again.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::identity::Who;
use super::request::AccessRequest;
use super::rules;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;

/// The windows that are reported.
pub const WINDOWS: [(&str, u64); 3] = [("hour", 3600), ("day", 86_400), ("week", 604_800)];

/// The length of the union of intervals within `[from, to)`, and the longest of its pieces.
pub fn union(intervals: &[(u64, u64)], from: u64, to: u64) -> (u64, u64) {
    let clip = |(start, end): &(u64, u64)| ((*start).max(from), (*end).min(to));
    let mut inside: Vec<(u64, u64)> = intervals.iter().map(clip).filter(|(start, end)| start < end).collect();
    inside.sort_unstable();
    let (mut total, mut longest, mut piece) = (0, 0, None::<(u64, u64)>);
    for (start, end) in inside {
        match &mut piece {
            Some((_, last)) if start <= *last => *last = (*last).max(end),
            _ => {
                if let Some((start, end)) = piece.replace((start, end)) {
                    total += end - start;
                    longest = longest.max(end - start);
                }
            }
        }
    }
    if let Some((start, end)) = piece {
        total += end - start;
        longest = longest.max(end - start);
    }
    (total, longest)
}

/// When somebody held something of these requests.
pub fn held<'a>(requests: impl Iterator<Item = &'a AccessRequest>, now: u64) -> Vec<(u64, u64)> {
    let credentials = requests.flat_map(|request| &request.credentials);
    credentials.map(|c| (c.issued, if c.ended > 0 { c.ended } else { now })).collect()
}

/// How many of a thousand parts of a window somebody held the role.
pub fn share(requests: &[AccessRequest], who: &Who, now: u64, window: u64) -> u64 {
    let own = requests.iter().filter(|request| request.who.is_same_person(who));
    let (total, _) = union(&held(own, now), now.saturating_sub(window), now);
    total.saturating_mul(1000) / window.max(1)
}

/// `0.5/24h`: the share of a window (in thousandths), and the window in seconds.
///
/// # Errors
/// What is wrong.
pub fn limit(text: &str) -> Result<Option<(u64, u64)>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("{text:?} is no share of a time, as 0.5/24h");
    let (share, window) = text.split_once('/').ok_or_else(wrong)?;
    let share: f64 = share.trim().parse().map_err(|_| wrong())?;
    let window = crate::engine::go::GoDuration::from_value(&json!(window.trim())).map_err(|_| wrong())?.whole_seconds();
    let window = u64::try_from(window).map_err(|_| wrong())?;
    if !(0.0..1.0).contains(&share) || !(60..=30 * 86_400).contains(&window) {
        return Err(format!("{text:?}: a share below 1, of a minute to 30 days"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
    Ok(Some(((share * 1000.0) as u64, window)))
}

/// Requests of a role that may have been used within the last `window` seconds.
pub async fn used(mount: &Mount, role: &str, now: SystemTime, window: u64) -> Result<Vec<AccessRequest>, Error> {
    // A grant may have begun before the window.
    let mut all = rules::recent(mount, role, now, Duration::from_secs(window + 2 * 86_400)).await?;
    all.extend(rules::open(mount, role).await?);
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.dedup_by(|a, b| a.id == b.id);
    Ok(all)
}

/// One line for each person and role, those who held most first.
pub fn lines(requests: &[AccessRequest], now: SystemTime) -> Vec<(u64, Value)> {
    let now = unix_seconds(now);
    let mut people: Vec<&Who> = Vec::new();
    for request in requests.iter().filter(|request| request.used > 0) {
        if !people.iter().any(|who| who.is_same_person(&request.who)) {
            people.push(&request.who);
        }
    }
    let line = |who: &&Who| {
        let own: Vec<&AccessRequest> = requests.iter().filter(|request| request.who.is_same_person(who)).collect();
        let intervals = held(own.iter().copied(), now);
        let (week, longest) = union(&intervals, now.saturating_sub(WINDOWS[2].1), now);
        let shares: serde_json::Map<String, Value> = WINDOWS
            .iter()
            .map(|(name, window)| {
                let (total, _) = union(&intervals, now.saturating_sub(*window), now);
                ((*name).to_owned(), json!(total * 1000 / window))
            })
            .collect();
        let role = own.first().map_or("", |request| request.role.as_str());
        let value = json!({
            "requester": who.shown(), "role": role, "per_mille": shares, "longest_run_seconds": longest,
            "requests": own.len(), "de_facto_standing": week * 2 > WINDOWS[2].1 || longest > WINDOWS[1].1,
        });
        (week, value)
    };
    let mut lines: Vec<(u64, Value)> = people.iter().map(line).collect();
    lines.sort_by_key(|(week, _)| std::cmp::Reverse(*week));
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_is_a_share_of_a_time() {
        assert_eq!(limit("0.5/24h"), Ok(Some((500, 86_400))));
        assert_eq!(limit(""), Ok(None));
        for bad in ["0.5", "1/24h", "x/24h", "0.5/x", "0.5/5s", "-1/24h", "0.5/9999h"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// Against counting the seconds.
        #[test]
        fn the_union_counts_each_second_once(intervals in prop::collection::vec((0u64..60, 0u64..60), 0..8), from in 0u64..60, to in 0u64..60) {
            let inside = |second: &u64| intervals.iter().any(|(start, end)| (start..end).contains(&second));
            let seconds: Vec<bool> = (from..to.max(from)).map(|second| inside(&second)).collect();
            let longest = seconds.split(|held| !held).map(<[bool]>::len).max().unwrap_or(0) as u64;
            let total = seconds.iter().filter(|held| **held).count() as u64;
            prop_assert_eq!(union(&intervals, from, to), (total, longest));
        }
    }
}
