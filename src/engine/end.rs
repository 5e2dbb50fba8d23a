//! The one path that ends a credential, whoever asks for it: the host, a caller that left, or the tick.
//!
//! Two who ask for the same user share one attempt and its answer. What an attempt does not bring to its end is a
//! [`remnant`]: durable before the answer goes out, and tried again until somebody has succeeded.
//!
//! [`remnant`]: super::remnant

pub mod mode;
pub mod wishes;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::error::Error;
use super::meter::{self, Work};
use super::{Mount, database, intent, remnant};
use crate::target::{EndPlan, Ended, Left, Sessions, Target, Verify};
use wishes::Wishes;

/// A user that is to end, with all that this takes should the role be gone by then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Doomed {
    /// Its name.
    pub username: String,
    /// The role it is of.
    pub role: String,
    /// The connection it is at.
    pub db_name: String,
    /// Who it was made for, empty if nobody knows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub entity: String,
    /// What ends it, if the role is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revocation: Vec<String>,
    /// How, if the role is gone.
    pub wishes: Wishes,
    /// The key of its note, if it has one: it goes when the user is ended, or when a remnant stands for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What an end came to. The user is contained in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The user existed when we came.
    pub existed: bool,
    /// Sessions that were ended.
    pub sessions: u64,
    /// How long the target took.
    pub took: Duration,
    /// What is left, and why; then the user is a remnant.
    pub left: Vec<Left>,
    /// Its sessions may go on for so long; then it is ended again.
    pub again: Option<Duration>,
    /// Nobody looked again.
    unseen: bool,
}

impl Report {
    /// Of a credential that is no database user: nothing of it is left.
    pub fn whole(existed: bool, took: Duration, unseen: bool) -> Self {
        Self { existed, sessions: 0, took, left: Vec::new(), again: None, unseen }
    }

    /// In one word: `verified`, `contained` if something is left, `unverified` if nobody was to look.
    pub fn verdict(&self) -> &'static str {
        match (self.left.is_empty(), self.unseen) {
            (false, _) => "contained",
            (true, true) => "unverified",
            (true, false) => "verified",
        }
    }
}

/// Why a user could not be contained, or may not be. It is a remnant then.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    text: String,
    /// The target could not be reached: it is tried again as soon as it answers.
    pub outage: bool,
}

impl Trouble {
    /// For that reason.
    pub fn new(text: impl Into<String>, outage: bool) -> Self {
        Self { text: text.into(), outage }
    }
}

impl From<Trouble> for Error {
    /// A class that the host retries: nothing here may make a lease irrevocable at once.
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble.text)
    }
}

type Landed = Result<Report, Trouble>;

/// Connection and user.
type Whom = (String, String);

/// Attempts that are under way, by connection and user.
#[derive(Default)]
struct Flights(Mutex<HashMap<Whom, watch::Receiver<Option<Landed>>>>);

/// An entry among the flights, until the attempt is over, however that comes about.
struct Flight {
    mount: Mount,
    key: Whom,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.mount.ending.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// What the mount knows of ends.
#[derive(Default)]
pub struct Ending {
    flights: Flights,
    /// Users whose remnant could not be written, by its key: nobody else knows of them.
    unwritten: Mutex<HashMap<String, Doomed>>,
}

impl Ending {
    /// What could not be written is kept as long as this process lives.
    pub fn keep(&self, key: &str, doomed: Doomed) {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), doomed);
    }

    /// Takes back what was kept.
    pub fn kept(&self, key: &str) -> Option<Doomed> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }
}

/// Ends a user. One that is already gone is a success, and so is one that can do nothing any more but of which something
/// is left. Goes on when the caller leaves.
///
/// # Errors
/// If the user could not be contained, or nobody knows whether it is. A remnant then sees to it; if not even that could
/// be written, the text says so.
pub async fn end(mount: &Mount, doomed: Doomed) -> Landed {
    let key = (doomed.db_name.clone(), doomed.username.clone());
    let mut landing = {
        let mut flights = mount.ending.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.get(&key) {
            Some(landing) => landing.clone(),
            None => {
                let (tell, landing) = watch::channel(None);
                flights.insert(key.clone(), landing.clone());
                let flight = Flight { mount: mount.clone(), key };
                tokio::spawn(async move {
                    let landed = run(&flight.mount, &doomed).await;
                    drop(flight);
                    tell.send_replace(Some(landed));
                });
                landing
            }
        }
    };
    let landed = landing.wait_for(Option::is_some).await.ok().and_then(|landed| landed.clone());
    landed.unwrap_or_else(|| Err(Trouble::new("internal error", false)))
}

/// One attempt, and what has to be written down of it.
async fn run(mount: &Mount, doomed: &Doomed) -> Landed {
    mode::permits(mount, doomed).await?;
    let landed = attempt(mount, doomed).await;
    match &landed {
        Ok(report) => tell(doomed, report),
        Err(trouble) => tracing::debug!(username = doomed.username, "not ended: {trouble}"),
    }
    if landed.is_ok() {
        mount.caps.ended(&doomed.db_name, &doomed.username);
    }
    remnant::after(mount, doomed, &landed).await?;
    if let Some(note) = &doomed.note {
        intent::forget(mount, note).await;
    }
    landed
}

async fn attempt(mount: &Mount, doomed: &Doomed) -> Landed {
    let (connection, wishes, revocation) = database::creds::how_to_end(mount, doomed).await?;
    let mut options = wishes.options().map_err(|text| Trouble::new(text, false))?;
    if let Sessions::Grace(_) = options.sessions {
        options.sessions = options.sessions.after(remnant::going_on_for(mount, doomed).await);
    }
    let unseen = options.verify == Verify::Off;
    let plan = EndPlan { username: doomed.username.clone(), revocation, options };
    let why = |ended: &Result<Ended, Trouble>| ended.as_ref().err().map(Trouble::to_string);
    let ending = at(connection.target.as_ref(), &plan);
    let ended = meter::timed(mount, place(doomed), Work::End, ending, why).await?;
    let Ended { existed, sessions, took, left, again } = ended;
    Ok(Report { existed, sessions, took, left, again, unseen })
}

/// Where an end counts. Leases of other engines name no connection.
fn place(doomed: &Doomed) -> &str {
    if doomed.db_name.is_empty() { "unknown" } else { &doomed.db_name }
}

async fn at(target: &dyn Target, plan: &EndPlan) -> Result<Ended, Trouble> {
    target.end(plan).await.map_err(|e| Trouble::new(e.to_string(), e.is_outage()))
}

/// One line for each user.
fn tell(doomed: &Doomed, report: &Report) {
    let milliseconds = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX);
    if !report.existed && report.left.is_empty() {
        tracing::debug!(username = doomed.username, role = doomed.role, milliseconds, "ended: it was gone");
        return;
    }
    tracing::info!(
        username = doomed.username,
        role = doomed.role,
        existed = report.existed,
        sessions = report.sessions,
        milliseconds,
        result = report.verdict(),
        left = report.left.len(),
        "ended"
    );
}
