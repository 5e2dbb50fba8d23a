//! How fast the databases of this mount have let go of users lately: a policy may give less where that is slow. The record
//! says it; it is read once, and then kept up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::ending::TARGET_FIELD;
use super::request::Credential;
use crate::engine::Mount;
use crate::engine::end::Report;
use crate::engine::error::Error;
use crate::engine::evidence;
use crate::engine::request::Fields;

/// How many ends of each target are looked at.
const KEPT: usize = 100;
/// How many events are looked back at.
const BACK: u64 = 5000;

/// Ends in the order in which they came, in milliseconds; `u64::MAX` for one that left something or failed.
type Ends = VecDeque<u64>;

/// What is known of each target. `None`: the record has not been asked.
#[derive(Default)]
pub struct Paces(Mutex<Option<HashMap<String, Ends>>>);

/// Where a credential is.
pub fn target(internal: &Fields) -> &str {
    internal.get("db_name").or(internal.get(TARGET_FIELD)).and_then(Value::as_str).unwrap_or_default()
}

fn add(ends: &mut HashMap<String, Ends>, target: &str, end: u64) {
    let ends = ends.entry(target.to_owned()).or_default();
    ends.push_back(end);
    if ends.len() > KEPT {
        ends.pop_front();
    }
}

/// A user has ended, or could not be ended.
pub fn note(mount: &Mount, credential: &Credential, ended: Option<&Report>) {
    let mut known = mount.access.paces.0.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = known.as_mut() else { return };
    let end = ended.filter(|ended| ended.left.is_empty());
    let end = end.map_or(u64::MAX, |ended| u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX));
    add(known, target(&credential.internal), end);
}

/// The time within which 99 of 100 ends at a target were done, of its last hundred. `None` if there were none.
///
/// # Errors
/// If the record cannot be read.
pub async fn slowest(mount: &Mount, target: &str) -> Result<Option<Duration>, Error> {
    let of = |known: &HashMap<String, Ends>| {
        let mut ends: Vec<u64> = known.get(target)?.iter().copied().collect();
        ends.sort_unstable();
        let place = (ends.len() * 99).div_ceil(100).saturating_sub(1);
        ends.get(place).map(|end| Duration::from_millis(*end))
    };
    if let Some(known) = mount.access.paces.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        return Ok(of(known));
    }
    let read = of_record(mount).await?;
    let slowest = of(&read);
    // Whoever was faster knows as much.
    mount.access.paces.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(read);
    Ok(slowest)
}

async fn of_record(mount: &Mount) -> Result<HashMap<String, Ends>, Error> {
    let mut found = HashMap::new();
    let mut from = evidence::head(mount).await?.next.saturating_sub(BACK).max(1);
    loop {
        let page = evidence::read(mount, from, 1000).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { return Ok(found) };
        for event in &page {
            let (Some(target), Some(took)) = (event["target"].as_str(), event["end"]["milliseconds"].as_u64()) else {
                continue;
            };
            let clean = event["end"]["left"].as_array().is_none_or(Vec::is_empty);
            add(&mut found, target, if clean { took } else { u64::MAX });
        }
        from = last.max(from) + 1;
    }
}
