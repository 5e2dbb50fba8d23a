//! What a mount counts and times while it works: requests by what they ask for, and work at the targets by connection.
//!
//! Everything here begins at nothing with the process, and nothing here is asked by any decision.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::Mount;
use super::error::Error;

/// So many of the latest durations of one kind are kept: shares are counted among them.
const RECENT: usize = 512;
/// Upper bounds of the counted durations, in seconds.
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Work at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// A user is made.
    Mint,
    /// Its end is moved.
    Renew,
    /// It is ended.
    End,
    /// The password of an account is changed.
    Rotate,
}

impl Work {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Mint, Self::Renew, Self::End, Self::Rotate];

    /// As `status/` and the metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mint => "mint",
            Self::Renew => "renew",
            Self::End => "end",
            Self::Rotate => "rotate",
        }
    }
}

/// The labels of what is counted of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The first word of the path, or what the host's lease manager asks for.
    pub operation: String,
    /// `ok`, `refused` (the request is wrong), `failed`, `forwarded` (by a standby).
    pub result: String,
}

/// The labels of what is timed of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabels {
    /// As in [`RequestLabels`].
    pub operation: String,
}

/// The labels of what is counted of work at a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// The connection.
    pub connection: String,
    /// [`Work::name`].
    pub operation: String,
    /// `ok` or `failed`.
    pub outcome: String,
}

/// The labels of what is timed of work at a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkLabels {
    /// The connection.
    pub connection: String,
    /// [`Work::name`].
    pub operation: String,
}

/// What a mount has counted.
pub struct Meter {
    /// Requests.
    pub requests: Family<RequestLabels, Counter>,
    /// How long they took, with everything that they waited for.
    pub request_seconds: Family<OperationLabels, Histogram>,
    /// Work at the targets.
    pub works: Family<OutcomeLabels, Counter>,
    /// How long that took, waiting for a session included.
    pub work_seconds: Family<WorkLabels, Histogram>,
    recent: Mutex<HashMap<String, HashMap<Work, Recent>>>,
}

/// The latest work of one kind at one connection.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// How often it was done, or not, since the process began.
    pub count: u64,
    /// How often it failed.
    pub failed: u64,
    /// Why it failed last, and when.
    pub last_error: Option<(String, SystemTime)>,
    durations: VecDeque<Duration>,
}

impl Recent {
    /// The duration that this share of the latest work did not exceed; `None` if there was none.
    pub fn share(&self, share: f64) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.durations.iter().copied().collect();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "there are at most RECENT"
        )]
        let place = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(place.saturating_sub(1)).copied()
    }
}

impl Default for Meter {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BOUNDS);
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(histogram),
            works: Family::default(),
            work_seconds: Family::new_with_constructor(histogram),
            recent: Mutex::default(),
        }
    }
}

impl Meter {
    fn recent(&self) -> MutexGuard<'_, HashMap<String, HashMap<Work, Recent>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered.
    pub fn answered(&self, operation: &str, result: &str, took: Duration) {
        let operation = operation.to_owned();
        let labels = RequestLabels { operation: operation.clone(), result: result.to_owned() };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.get_or_create(&OperationLabels { operation }).observe(took.as_secs_f64());
    }

    /// Work at a target came to its end; `error` if it failed.
    pub fn worked(&self, connection: &str, work: Work, took: Duration, error: Option<(String, SystemTime)>) {
        let (connection, operation) = (connection.to_owned(), work.name().to_owned());
        let outcome = if error.is_some() { "failed" } else { "ok" }.to_owned();
        let counted = OutcomeLabels { connection: connection.clone(), operation: operation.clone(), outcome };
        self.works.get_or_create(&counted).inc();
        let timed = WorkLabels { connection: connection.clone(), operation };
        self.work_seconds.get_or_create(&timed).observe(took.as_secs_f64());
        let mut recent = self.recent();
        let recent = recent.entry(connection).or_default().entry(work).or_default();
        recent.count += 1;
        if let Some(error) = error {
            recent.failed += 1;
            recent.last_error = Some(error);
        }
        if recent.durations.len() == RECENT {
            recent.durations.pop_front();
        }
        recent.durations.push_back(took);
    }

    /// What there was of work at a connection.
    pub fn at(&self, connection: &str) -> HashMap<Work, Recent> {
        self.recent().get(connection).cloned().unwrap_or_default()
    }

    /// The connection is gone.
    pub fn forget(&self, connection: &str) {
        self.recent().remove(connection);
        for operation in Work::ALL.map(Work::name) {
            let (connection, operation) = (connection.to_owned(), operation.to_owned());
            for outcome in ["ok", "failed"].map(str::to_owned) {
                let labels = OutcomeLabels { connection: connection.clone(), operation: operation.clone(), outcome };
                self.works.remove(&labels);
            }
            self.work_seconds.remove(&WorkLabels { connection, operation });
        }
    }
}

/// How an answer counts.
pub fn result_of<T>(answer: &Result<T, Error>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(Error::ReadOnly) => "forwarded",
        Err(Error::Coded(500.., _)) => "failed",
        Err(Error::Refused(_) | Error::Coded(..) | Error::UnsupportedPath | Error::UnsupportedOperation) => "refused",
        // What the host's read-only storage says.
        Err(Error::Failed(text)) if text.contains("cannot write to readonly storage") => "forwarded",
        Err(Error::Failed(_)) => "failed",
    }
}

/// Does `work` at a target, and counts it. `failure` says why, if what came of it is a failure.
pub async fn timed<T>(
    mount: &Mount,
    connection: &str,
    work: Work,
    doing: impl Future<Output = T>,
    failure: impl FnOnce(&T) -> Option<String>,
) -> T {
    let clock = mount.ports.clock.as_ref();
    let begun = clock.steady();
    let done = doing.await;
    let error = failure(&done).map(|why| (why, clock.now()));
    mount.meter.worked(connection, work, clock.steady().saturating_sub(begun), error);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_latest_work() {
        let meter = Meter::default();
        assert!(meter.at("pg").is_empty());
        for milliseconds in 0..10_000 {
            let error = (milliseconds % 10 == 0).then(|| (format!("no {milliseconds}"), SystemTime::UNIX_EPOCH));
            meter.worked("pg", Work::Mint, Duration::from_millis(milliseconds), error);
        }
        let at = meter.at("pg");
        let mint = &at[&Work::Mint];
        assert_eq!((mint.count, mint.failed), (10_000, 1000));
        assert_eq!(mint.last_error.as_ref().map(|(why, _)| why.as_str()), Some("no 9990"));
        assert_eq!(mint.share(0.5), Some(Duration::from_millis(9743)));
        assert_eq!(mint.share(0.99), Some(Duration::from_millis(9994)));
        assert_eq!(mint.share(1.0), Some(Duration::from_millis(9999)));
        assert_eq!(Recent::default().share(0.5), None);
        meter.forget("pg");
        assert!(meter.at("pg").is_empty());
    }
}
