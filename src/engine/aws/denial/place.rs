//! The denials of one role or user at AWS: the stored list, and the policy that is made of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::document::{self, Entry};
use super::{PREFIX, Where, policy_name, writer};
use crate::engine::Mount;
use crate::engine::aws::role::Overflow;
use crate::engine::aws::whoami;
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;
use crate::secret::Secret;
use crate::target::aws::{Cause, Failure, arn};

/// How often it is looked at whether somebody else has changed the policy.
const LOOK: Duration = Duration::from_secs(600);
/// Entries that expire are dropped together, at most so often.
const PRUNE: Duration = Duration::from_secs(60);

/// One list, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    #[serde(flatten)]
    pub at: Where,
    entries: Vec<Entry>,
    /// AWS may not have what the list says.
    open: bool,
    /// A policy of ours may be there.
    written: bool,
    /// When AWS was last in line with the list, unix seconds.
    #[serde(default)]
    synced: Option<u64>,
    /// The last write named everything that was issued before it.
    #[serde(skip)]
    collapsed: bool,
}

/// Storage key of a list.
pub fn key(holder: &crate::target::aws::Holder) -> String {
    format!("{PREFIX}{}", digest(holder.arn()))
}

/// A short name for a long text.
pub fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Place {
    pub fn new(at: Where) -> Self {
        Self { at, entries: Vec::new(), open: false, written: false, synced: None, collapsed: false }
    }

    pub async fn load(mount: &Mount, key: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(key).await? else { return Ok(None) };
        serde_json::from_str(entry.expose())
            .map(Some)
            .map_err(|e| Error::Failed(format!("the list of denials at {key:?} cannot be read: {e}")))
    }

    async fn store(&self, mount: &Mount, key: &str) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|e| format!("cannot encode a list of denials: {e}"))?;
        mount.ports.storage.put(key, &Secret::new(text), false).await.map_err(|e| e.to_string())
    }

    /// Adds entries, in storage first, and writes the policy.
    pub async fn bring(&mut self, mount: &Mount, key: &str, new: Vec<Entry>) -> Result<(), String> {
        let now = unix_seconds(mount.ports.clock.now());
        document::prune(&mut self.entries, now);
        document::merge(&mut self.entries, new);
        if self.at.overflow == Overflow::Collective && self.room() < self.entries.len() {
            tracing::warn!(
                holder = self.at.holder.arn(),
                "the denials do not fit: every session issued until now ends"
            );
            document::collapse(&mut self.entries, now);
            self.collapsed = true;
        }
        self.open = true;
        self.store(mount, key).await?;
        self.settle(mount, key).await
    }

    /// Prunes, and brings AWS in line if it is not.
    pub async fn keep(&mut self, mount: &Mount, key: &str) -> Result<(), String> {
        let now = unix_seconds(mount.ports.clock.now());
        if document::prune(&mut self.entries, now) {
            self.open = true;
            self.store(mount, key).await?;
        }
        if !self.open && self.written && !self.is_there(mount, key).await? {
            tracing::warn!(
                holder = self.at.holder.arn(),
                "somebody else has changed the policy with the denials; mended"
            );
            self.open = true;
        }
        if self.open || self.entries.is_empty() {
            return self.settle(mount, key).await;
        }
        self.synced = Some(now);
        self.plan(mount, key);
        Ok(())
    }

    /// How many of the entries have room in the policy, the oldest first.
    fn room(&self) -> usize {
        document::fitting(&self.at.holder, &self.entries, self.at.holder.limit())
    }

    /// Whether AWS was told of this one by the last write.
    pub fn covers(&self, entry: &Entry) -> Result<(), String> {
        let written = self.entries.iter().take(self.room());
        // A list that is empty by now is of a role that is gone.
        if self.collapsed || self.entries.is_empty() || written.into_iter().any(|known| document::same(known, entry)) {
            return Ok(());
        }
        Err(format!(
            "{} denials are outstanding, and no more fit into the {} characters of the inline policies of {}: this is tried \
             again, room comes with every session that ends; or write revocation_overflow=collective to the role",
            self.entries.len(),
            self.at.holder.limit(),
            self.at.holder.arn()
        ))
    }

    async fn is_there(&self, mount: &Mount, key: &str) -> Result<bool, String> {
        let wanted = document::render(&self.at.holder, &self.entries[..self.room()]);
        let cloud = writer(mount, &self.at).await.map_err(|e| e.to_string())?;
        let found = match cloud.policy(&self.at.holder, &policy_name(mount)).await {
            Ok(found) => found,
            // To read is a right that writing does not need.
            Err(failure) if failure.cause == Cause::Denied => return Ok(true),
            Err(failure) => return Err(self.failed(mount, key, &failure)),
        };
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        Ok(found.as_deref().and_then(parse) == wanted.as_deref().and_then(parse))
    }

    /// Writes the policy that the list says, or removes it.
    async fn settle(&mut self, mount: &Mount, key: &str) -> Result<(), String> {
        let cloud = writer(mount, &self.at).await.map_err(|e| e.to_string())?;
        let (holder, name) = (&self.at.holder, policy_name(mount));
        let mut done = match document::render(holder, &self.entries[..self.room()]) {
            Some(text) if !document::is_safe(&text) => {
                tracing::error!(holder = holder.arn(), "a document that would deny too much is not written");
                Err(Failure::new(Cause::Refused, "Unsafe", "the document would deny more than was asked"))
            }
            Some(text) => cloud.put_policy(holder, &name, &text).await,
            None if self.written => cloud.delete_policy(holder, &name).await,
            None => Ok(()),
        };
        if let Err(failure) = &done
            && failure.cause == Cause::Missing
            && self.is_ours(mount).await
        {
            // Whoever removed the role has ended its sessions: one of the same name would be another.
            tracing::info!(holder = self.at.holder.arn(), "the role or user is gone, and its sessions with it");
            self.entries.clear();
            done = Ok(());
        }
        if let Err(failure) = &done
            && failure.cause == Cause::Limit
            && self.at.overflow == Overflow::Collective
        {
            // Other policies take their part of the limit.
            document::collapse(&mut self.entries, unix_seconds(mount.ports.clock.now()));
            self.collapsed = true;
            self.store(mount, key).await?;
            if let Some(text) = document::render(&self.at.holder, &self.entries).filter(|text| document::is_safe(text))
            {
                done = cloud.put_policy(&self.at.holder, &name, &text).await;
            }
        }
        done.map_err(|failure| self.failed(mount, key, &failure))?;
        if self.entries.is_empty() {
            mount.rotation.queue.forget(key);
            return mount.ports.storage.delete(key).await.map_err(|e| e.to_string());
        }
        // What had no room is written as soon as it has.
        self.open = self.room() < self.entries.len();
        self.written = true;
        self.synced = Some(unix_seconds(mount.ports.clock.now()));
        self.plan(mount, key);
        tracing::info!(holder = self.at.holder.arn(), denials = self.entries.len(), "the denials are written");
        if let Err(e) = self.store(mount, key).await {
            // It says that AWS is not in line, and so it is looked at again.
            mount.rotation.queue.failed(key, key, mount.ports.clock.now(), &e);
        }
        Ok(())
    }

    async fn is_ours(&self, mount: &Mount) -> bool {
        match &self.at.via {
            Some(_) => true,
            None => whoami(mount).await.is_ok_and(|me| arn::account(self.at.holder.arn()) == Some(me.account.as_str())),
        }
    }

    /// Notes the failure, and says what would help.
    fn failed(&self, mount: &Mount, key: &str, failure: &Failure) -> String {
        let text = explain(&self.at, failure);
        mount.rotation.queue.failed(key, key, mount.ports.clock.now(), &text);
        text
    }

    fn plan(&self, mount: &Mount, key: &str) {
        let now = mount.ports.clock.now();
        let first = self.entries.iter().map(|entry| entry.expires).min().unwrap_or_default();
        let expiry = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(first);
        let due = expiry.max(now + PRUNE).min(now + LOOK);
        mount.rotation.queue.plan(key, key, due);
    }

    /// For `status`.
    pub fn describe(&self, mount: &Mount, key: &str) -> Value {
        let room = self.room();
        let bytes = document::render(&self.at.holder, &self.entries[..room]).map_or(0, |text| document::size(&text));
        json!({
            "arn": self.at.holder.arn(),
            "outstanding": self.entries.len(),
            "without_room": self.entries.len() - room,
            "until": self.entries.iter().map(|entry| entry.expires).max().and_then(instant),
            "bytes": bytes,
            "bytes_limit": self.at.holder.limit(),
            "in_sync": !self.open,
            "last_sync": self.synced.and_then(instant),
            "last_error": mount.rotation.queue.state(key).and_then(|state| state.error),
        })
    }
}

fn instant(seconds: u64) -> Option<String> {
    jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(|time| time.to_string())
}

/// What AWS said, and what would help.
fn explain(at: &Where, failure: &Failure) -> String {
    let arn = at.holder.arn();
    let account = arn::account(arn).unwrap_or_default();
    let kind = if matches!(at.holder, crate::target::aws::Holder::Role(_)) { "Role" } else { "User" };
    let help = match failure.cause {
        Cause::Denied => {
            format!("the engine needs iam:Put{kind}Policy, iam:Get{kind}Policy and iam:Delete{kind}Policy on {arn}")
        }
        Cause::Missing if at.via.is_none() => format!(
            "if {arn} is in an account that is not the engine's own, name a role of account {account} that may write there \
             in revocation_role_arns"
        ),
        Cause::Limit => format!(
            "the inline policies of {arn} may have {} characters together: remove some, or write \
             revocation_overflow=collective to the role",
            at.holder.limit()
        ),
        _ if failure.code == "UnmodifiableEntity" => {
            format!("{arn} belongs to AWS and cannot carry a policy of ours: write revocation=off")
        }
        _ => return failure.to_string(),
    };
    format!("{failure}; {help}")
}

/// Writes a policy that can match nobody, under another name, and removes it.
pub async fn probe(mount: &Mount, at: &Where) -> Result<(), String> {
    let cloud = writer(mount, at).await.map_err(|e| e.to_string())?;
    let name = format!("{}-probe", policy_name(mount));
    let written = cloud.put_policy(&at.holder, &name, &document::probe(&at.holder)).await;
    written.map_err(|failure| explain(at, &failure))?;
    cloud.delete_policy(&at.holder, &name).await.map_err(|failure| explain(at, &failure))
}
