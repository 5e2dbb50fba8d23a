//! The denials of one role or user at AWS: the stored list, and the policies that are made of it.
//!
//! There is one inline policy; where the role allows it, managed ones take what it has no room for. An entry stays in the
//! policy that it was put into, so that nothing is ever moved out of force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::document::{self, By, Entry};
use super::{PREFIX, Where, policy_name, writer};
use crate::engine::Mount;
use crate::engine::aws::role::Overflow;
use crate::engine::aws::status::Denials;
use crate::engine::aws::whoami;
use crate::engine::error::Error;
use crate::engine::intent::unix_seconds;
use crate::secret::Secret;
use crate::target::aws::{Cause, Cloud, Failure, LONGEST_ROLE_SESSION, MANAGED_POLICY_LIMIT, arn};

/// How often it is looked at whether somebody else has changed the policy.
const LOOK: Duration = Duration::from_secs(600);
/// Entries that expire are dropped together, at most so often.
const PRUNE: Duration = Duration::from_secs(60);

/// The inline policy's number among those of a list.
const INLINE: u32 = 0;

/// One list, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Place {
    #[serde(flatten)]
    pub at: Where,
    entries: Vec<Entry>,
    /// AWS may not have what the list says.
    open: bool,
    /// The policies of ours that may be there, each with the digest of what it says if that is known.
    #[serde(default)]
    written: BTreeMap<u32, Option<String>>,
    /// What the inline policy had room for when AWS said that there is no more: others' take their part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inline_limit: Option<usize>,
    /// How many entries the inline policy had when it was last written.
    #[serde(default)]
    inline_known: usize,
    /// When AWS was last in line with the list, unix seconds.
    #[serde(default)]
    synced: Option<u64>,
    /// Policies that have got entries: they are written before others lose some.
    #[serde(skip)]
    first: BTreeSet<u32>,
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
        Self {
            at,
            entries: Vec::new(),
            open: false,
            written: BTreeMap::new(),
            inline_limit: None,
            inline_known: 0,
            synced: None,
            first: BTreeSet::new(),
            collapsed: false,
        }
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

    /// Adds entries, in storage first, and writes the policies.
    pub async fn bring(&mut self, mount: &Mount, key: &str, new: Vec<Entry>) -> Result<(), String> {
        let now = unix_seconds(mount.ports.clock.now());
        document::prune(&mut self.entries, now);
        document::merge(&mut self.entries, new);
        self.arrange(now);
        self.settle(mount, key).await
    }

    /// Prunes, and brings AWS in line if it is not.
    pub async fn keep(&mut self, mount: &Mount, key: &str) -> Result<(), String> {
        let now = unix_seconds(mount.ports.clock.now());
        if document::prune(&mut self.entries, now) {
            self.arrange(now);
            self.open = true;
        }
        if !self.open {
            for slot in self.written.keys().copied().collect::<Vec<_>>() {
                if !self.is_there(mount, key, slot).await? {
                    tracing::warn!(
                        holder = self.at.holder.arn(),
                        "somebody else has changed a policy with denials; mended"
                    );
                    self.written.insert(slot, None);
                    self.open = true;
                }
            }
        }
        if self.open || self.entries.is_empty() {
            return self.settle(mount, key).await;
        }
        self.synced = Some(now);
        self.plan(mount, key);
        Ok(())
    }

    /// Gives each entry its policy. If there is no room, what the role allows is done about it: one entry for all sessions
    /// of an identity, and then one for all that there are.
    fn arrange(&mut self, now: u64) {
        self.assign();
        // What names many has what names one of them, once it is in force itself.
        let many: Vec<Entry> = self.entries.iter().filter(|entry| entry.slot.is_some()).cloned().collect();
        self.entries.retain(|entry| !many.iter().any(|one| !document::same(one, entry) && one.contains(entry)));
        self.assign();
        while self.without_room() > 0 && self.at.overflow != Overflow::Fail {
            let before = self.entries.clone();
            let expires = now.saturating_add(LONGEST_ROLE_SESSION.as_secs());
            if !document::gather(&self.at.holder, &mut self.entries, now, expires) {
                break;
            }
            self.assign();
            if self.entries[0].slot.is_none() {
                self.entries = before;
                break;
            }
            tracing::warn!(
                holder = self.at.holder.arn(),
                "the denials do not fit: every session that an identity has by now ends"
            );
        }
        if self.without_room() > 0 && self.at.overflow == Overflow::Collective {
            self.collapse(now);
        }
    }

    fn collapse(&mut self, now: u64) {
        tracing::warn!(holder = self.at.holder.arn(), "the denials do not fit: every session issued until now ends");
        document::collapse(&mut self.entries, now);
        self.assign();
        self.collapsed = true;
    }

    /// What a policy has room for.
    fn limit(&self, slot: u32) -> usize {
        match slot {
            INLINE => self.inline_limit.unwrap_or(usize::MAX).min(self.at.holder.limit()),
            _ => MANAGED_POLICY_LIMIT,
        }
    }

    /// Puts entries that are in no policy into the first one that has room.
    fn assign(&mut self) {
        let holder = self.at.holder.clone();
        for slot in INLINE..=self.at.attached {
            let limit = self.limit(slot);
            let in_it: Vec<&Entry> = self.of(slot);
            let stay = document::fitting(&holder, &[], &in_it, limit);
            let waiting: Vec<&Entry> = self.entries.iter().filter(|entry| entry.slot.is_none()).collect();
            let come = if stay < in_it.len() { 0 } else { document::fitting(&holder, &in_it, &waiting, limit) };
            let last = self.entries.iter_mut().filter(|entry| entry.slot == Some(slot)).skip(stay);
            last.for_each(|entry| entry.slot = None);
            if come > 0 {
                let waiting = self.entries.iter_mut().filter(|entry| entry.slot.is_none()).take(come);
                waiting.for_each(|entry| entry.slot = Some(slot));
                self.first.insert(slot);
            }
        }
    }

    fn of(&self, slot: u32) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.slot == Some(slot)).collect()
    }

    fn without_room(&self) -> usize {
        self.entries.iter().filter(|entry| entry.slot.is_none()).count()
    }

    /// Whether AWS was told of this one by the last write.
    pub fn covers(&self, entry: &Entry) -> Result<(), String> {
        let mut told = self.entries.iter().filter(|known| known.slot.is_some());
        // A list that is empty by now is of a role that is gone.
        if self.collapsed
            || self.entries.is_empty()
            || told.any(|known| document::same(known, entry) || known.contains(entry) || self.gathered(known, entry))
        {
            return Ok(());
        }
        Err(format!(
            "{} denials are outstanding, and no more fit into the policies of {}: this is tried again, room comes with every \
             session that ends; or write revocation_attached_policies or revocation_overflow=collective to the role",
            self.entries.len(),
            self.at.holder.arn()
        ))
    }

    /// Whether `known` was made just now of all that an identity has.
    fn gathered(&self, known: &Entry, entry: &Entry) -> bool {
        let later = match &known.by {
            By::SourceIdentity(_, until) | By::NamesUntil(_, until) => *until >= entry.issued,
            _ => false,
        };
        later && known.contains(&Entry { issued: 1, ..entry.clone() })
    }

    async fn is_there(&self, mount: &Mount, key: &str, slot: u32) -> Result<bool, String> {
        let wanted = document::render(&self.at.holder, &self.of(slot));
        let cloud = writer(mount, &self.at).await.map_err(|e| e.to_string())?;
        let name = self.name(mount, slot);
        let found = match slot {
            INLINE => cloud.policy(&self.at.holder, &name).await,
            _ => cloud.attached_policy(&self.at.holder, &name).await,
        };
        let found = match found {
            Ok(found) => found,
            // To read is a right that writing does not need.
            Err(failure) if failure.cause == Cause::Denied => return Ok(true),
            // The role or user itself is gone: what is to be done about it, the write finds out.
            Err(failure) if failure.cause == Cause::Missing => None,
            Err(failure) => return Err(self.failed(mount, key, &failure)),
        };
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        Ok(found.as_deref().and_then(parse) == wanted.as_deref().and_then(parse))
    }

    /// The name of a policy: managed ones are the account's, so their holder is in it.
    fn name(&self, mount: &Mount, slot: u32) -> String {
        match slot {
            INLINE => policy_name(mount),
            _ => format!("{}-{}-{slot}", policy_name(mount), &digest(self.at.holder.arn())[..8]),
        }
    }

    /// Writes the policies that the list says, or removes them.
    async fn settle(&mut self, mount: &Mount, key: &str) -> Result<(), String> {
        let cloud = writer(mount, &self.at).await.map_err(|e| e.to_string())?;
        let now = unix_seconds(mount.ports.clock.now());
        let mut done = self.write(mount, key, cloud.as_ref()).await?;
        if let Err(failure) = &done
            && failure.cause == Cause::Missing
            && self.is_ours(mount).await
        {
            // Whoever removed the role has ended its sessions: one of the same name would be another.
            tracing::info!(holder = self.at.holder.arn(), "the role or user is gone, and its sessions with it");
            self.entries.clear();
            self.written.remove(&INLINE);
            done = self.write(mount, key, cloud.as_ref()).await?;
        }
        if let Err(failure) = &done
            && failure.cause == Cause::Limit
            && (self.at.attached > 0 || self.at.overflow != Overflow::Fail)
        {
            // Other policies take their part of the limit: what AWS had before has room.
            let had: Vec<&Entry> = self.of(INLINE);
            let known = had.len().saturating_sub(1).min(self.inline_known);
            let had = document::render(&self.at.holder, &had[..known]).map_or(0, |text| document::size(&text));
            self.inline_limit = Some(had);
            self.arrange(now);
            done = self.write(mount, key, cloud.as_ref()).await?;
        }
        if let Err(failure) = &done
            && failure.cause == Cause::Limit
            && self.at.overflow == Overflow::Collective
        {
            self.inline_limit = None;
            self.collapse(now);
            done = self.write(mount, key, cloud.as_ref()).await?;
        }
        done.map_err(|failure| self.failed(mount, key, &failure))?;
        if self.entries.is_empty() {
            mount.rotation.queue.forget(key);
            return mount.ports.storage.delete(key).await.map_err(|e| e.to_string());
        }
        // What had no room is written as soon as it has.
        self.open = self.without_room() > 0;
        self.synced = Some(now);
        self.inline_known = self.of(INLINE).len();
        self.plan(mount, key);
        tracing::info!(holder = self.at.holder.arn(), denials = self.entries.len(), "the denials are written");
        if let Err(e) = self.store(mount, key).await {
            // It says that AWS is not in line, and so it is looked at again.
            mount.rotation.queue.failed(key, key, mount.ports.clock.now(), &e);
        }
        Ok(())
    }

    /// Stores the list, and writes each policy that is not known to say it: those that got entries first.
    async fn write(&mut self, mount: &Mount, key: &str, cloud: &dyn Cloud) -> Result<Result<(), Failure>, String> {
        let slots: BTreeSet<u32> = self.written.keys().copied().chain(INLINE..=self.at.attached).collect();
        let mut work = Vec::new();
        for slot in slots {
            let text = document::render(&self.at.holder, &self.of(slot));
            let known = self.written.get(&slot);
            match &text {
                Some(text) if known == Some(&Some(digest(text))) => {}
                None if known.is_none() => {}
                _ => work.push((slot, text)),
            }
        }
        let first = std::mem::take(&mut self.first);
        work.sort_by_key(|(slot, _)| (!first.contains(slot), *slot));
        // Whatever becomes of a write, it is known to have begun.
        for (slot, _) in &work {
            self.written.insert(*slot, None);
        }
        self.open = true;
        self.store(mount, key).await?;
        let holder = self.at.holder.clone();
        for (slot, text) in work {
            let name = self.name(mount, slot);
            let done = match &text {
                Some(text) if !document::is_safe(text) => {
                    tracing::error!(holder = holder.arn(), "a document that would deny too much is not written");
                    Err(Failure::new(Cause::Refused, "Unsafe", "the document would deny more than was asked"))
                }
                Some(text) if slot == INLINE => cloud.put_policy(&holder, &name, text).await,
                Some(text) => cloud.attach_policy(&holder, &name, text).await,
                None if slot == INLINE => cloud.delete_policy(&holder, &name).await,
                None => cloud.detach_policy(&holder, &name).await,
            };
            if let Err(failure) = done {
                return Ok(Err(failure));
            }
            match text {
                Some(text) => self.written.insert(slot, Some(digest(&text))),
                None => self.written.remove(&slot),
            };
        }
        Ok(Ok(()))
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
    /// Adds what it has to what there is.
    pub fn count(&self, all: &mut Denials) {
        let without_room = self.without_room();
        all.without_room += without_room;
        if self.open {
            all.unwritten += self.entries.len();
        } else {
            all.in_force += self.entries.len().saturating_sub(without_room);
        }
        #[allow(clippy::cast_precision_loss, reason = "some thousands at most")]
        let full = self.size(INLINE) as f64 / self.at.holder.limit() as f64;
        all.fullest = all.fullest.max(full);
    }

    fn size(&self, slot: u32) -> usize {
        document::render(&self.at.holder, &self.of(slot)).map_or(0, |text| document::size(&text))
    }

    pub fn describe(&self, mount: &Mount, key: &str) -> Value {
        let attached = self.written.keys().filter(|slot| **slot != INLINE);
        json!({
            "arn": self.at.holder.arn(),
            "outstanding": self.entries.len(),
            "without_room": self.without_room(),
            "until": self.entries.iter().map(|entry| entry.expires).max().and_then(instant),
            "bytes": self.size(INLINE),
            "bytes_limit": self.at.holder.limit(),
            "attached_policies":
                attached.map(|slot| json!({ "name": self.name(mount, *slot), "bytes": self.size(*slot) })).collect::<Vec<_>>(),
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
            let attached = if at.attached == 0 {
                String::new()
            } else {
                format!(
                    ", and for revocation_attached_policies iam:Attach{kind}Policy, iam:Detach{kind}Policy and \
                     iam:ListAttached{kind}Policies, and on policy/bao-revoked-* iam:CreatePolicy, DeletePolicy, GetPolicy, \
                     GetPolicyVersion, CreatePolicyVersion, DeletePolicyVersion and ListPolicyVersions"
                )
            };
            format!(
                "the engine needs iam:Put{kind}Policy, iam:Get{kind}Policy and iam:Delete{kind}Policy on {arn}{attached}"
            )
        }
        Cause::Missing if at.via.is_none() => format!(
            "if {arn} is in an account that is not the engine's own, name a role of account {account} that may write there \
             in revocation_role_arns"
        ),
        Cause::Limit => format!(
            "the inline policies of {arn} may have {} characters together: remove some, or write \
             revocation_attached_policies or revocation_overflow=collective to the role",
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
    cloud.delete_policy(&at.holder, &name).await.map_err(|failure| explain(at, &failure))?;
    if at.attached > 0 {
        let name = format!("{name}-{}", &digest(at.holder.arn())[..8]);
        let attached = cloud.attach_policy(&at.holder, &name, &document::probe(&at.holder)).await;
        let gone = cloud.detach_policy(&at.holder, &name).await;
        attached.and(gone).map_err(|failure| explain(at, &failure))?;
    }
    Ok(())
}
