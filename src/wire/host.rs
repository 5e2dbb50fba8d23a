//! The engine's ports over the connection to the host: storage and the view of the mount.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::padded;
use super::proto::pb::storage_client::StorageClient;
use super::proto::pb::system_view_client::SystemViewClient;
use super::proto::{logical, pb};
use crate::engine::port::{Alias, Entity, Group, Host, HostError, Storage, StorageError};
use crate::secret::Secret;

/// The largest message we take. The host's raft storage holds at most 1 MiB an entry by default, so what is large is a
/// list: this is some 300 000 names.
pub(super) const MESSAGE_LIMIT: usize = 32 * 1024 * 1024;
/// Set in the replication state of a node whose storage is read-only.
const STANDBY: i32 = 16_384;
/// What the host says if there is no such password policy.
const NO_POLICY: &str = "failed to generate password";

/// One mount's connection to its host.
pub(super) struct Link {
    /// Empty once the mount is closed.
    channel: Mutex<Option<Channel>>,
    /// The host has no paged lists.
    no_pages: AtomicBool,
}

impl Link {
    /// Over an open connection.
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel: Mutex::new(Some(channel)), no_pages: AtomicBool::new(false) }
    }

    /// Gives the connection up, so that the host can end its side; whoever still holds the link gets errors.
    pub(super) fn sever(&self) {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn channel(&self) -> Result<Channel, Status> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        channel.ok_or_else(|| Status::unavailable("the mount was closed"))
    }

    fn storage(&self) -> Result<StorageClient<Channel>, StorageError> {
        let channel = self.channel().map_err(storage_failed)?;
        Ok(StorageClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT))
    }

    fn view(&self) -> Result<SystemViewClient<Channel>, HostError> {
        let channel = self.channel().map_err(host_failed)?;
        Ok(SystemViewClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT))
    }
}

/// A call that did not reach storage, or came back as a status (as it does while the plugin is being registered).
fn storage_failed(status: Status) -> StorageError {
    StorageError(describe(&status))
}

fn host_failed(status: Status) -> HostError {
    HostError(describe(&status))
}

fn describe(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() }
}

/// An error in an answer, word for word: the host looks for its own words in ours.
fn refused(err: String) -> Result<(), StorageError> {
    if err.is_empty() { Ok(()) } else { Err(StorageError(err)) }
}

#[async_trait]
impl Storage for Link {
    async fn get(&self, key: &str) -> Result<Option<Secret>, StorageError> {
        let args = pb::StorageGetArgs { key: key.to_owned(), txn: String::new() };
        let reply = self.storage()?.get(args).await.map_err(storage_failed)?.into_inner();
        refused(reply.err)?;
        let Some(entry) = reply.entry else { return Ok(None) };
        match String::from_utf8(entry.value) {
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(_) => Err(StorageError(format!("the entry at {key:?} is not text"))),
        }
    }

    async fn put(&self, key: &str, value: &Secret, seal_wrap: bool) -> Result<(), StorageError> {
        let entry = pb::StorageEntry { key: key.to_owned(), value: value.expose().as_bytes().to_vec(), seal_wrap };
        let channel = self.channel().map_err(storage_failed)?;
        let reply = padded::put(channel, pb::StoragePutArgs { entry: Some(entry), txn: String::new() }).await;
        refused(reply.map_err(storage_failed)?.err)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let args = pb::StorageDeleteArgs { key: key.to_owned(), txn: String::new() };
        refused(self.storage()?.delete(args).await.map_err(storage_failed)?.into_inner().err)
    }

    async fn list(&self, prefix: &str, after: &str, limit: i32) -> Result<Vec<String>, StorageError> {
        let mut storage = self.storage()?;
        if !self.no_pages.load(Ordering::Relaxed) {
            let (prefix, after) = (prefix.to_owned(), after.to_owned());
            match storage.list_page(pb::StorageListPageArgs { prefix, after, limit, txn: String::new() }).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    return refused(reply.err).map(|()| reply.keys);
                }
                Err(status) if status.code() == Code::Unimplemented => self.no_pages.store(true, Ordering::Relaxed),
                Err(status) => return Err(storage_failed(status)),
            }
        }
        let args = pb::StorageListArgs { prefix: prefix.to_owned(), txn: String::new() };
        let reply = storage.list(args).await.map_err(storage_failed)?.into_inner();
        refused(reply.err)?;
        Ok(page(reply.keys, after, limit))
    }
}

/// One page out of a whole list, as a host with paged lists would cut it.
fn page(mut keys: Vec<String>, after: &str, limit: i32) -> Vec<String> {
    keys.sort_unstable();
    keys.retain(|key| key.as_str() > after);
    if let Ok(limit @ 1..) = usize::try_from(limit) {
        keys.truncate(limit);
    }
    keys
}

#[async_trait]
impl Host for Link {
    async fn default_lease_ttl(&self) -> Result<Duration, HostError> {
        let reply = self.view()?.default_lease_ttl(pb::Empty {}).await.map_err(host_failed)?;
        Ok(nanoseconds(reply.into_inner().ttl))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, HostError> {
        let reply = self.view()?.max_lease_ttl(pb::Empty {}).await.map_err(host_failed)?;
        Ok(nanoseconds(reply.into_inner().ttl))
    }

    async fn is_standby(&self) -> Result<bool, HostError> {
        let reply = self.view()?.replication_state(pb::Empty {}).await.map_err(host_failed)?;
        Ok(reply.into_inner().state & STANDBY != 0)
    }

    async fn generate_password(&self, policy: &str) -> Result<Option<Secret>, HostError> {
        let args = pb::GeneratePasswordFromPolicyRequest { policy_name: policy.to_owned() };
        match self.view()?.generate_password_from_policy(args).await {
            Ok(reply) => Ok(Some(Secret::new(reply.into_inner().password))),
            Err(status) => match status.code() {
                Code::Unimplemented => Ok(None),
                Code::Internal if status.message().contains(NO_POLICY) => Ok(None),
                _ => Err(host_failed(status)),
            },
        }
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, HostError> {
        let args = pb::EntityInfoArgs { entity_id: id.to_owned() };
        let reply = self.view()?.entity_info(args).await.map_err(host_failed)?.into_inner();
        told(reply.err)?;
        Ok(reply.entity.map(entity).filter(|entity| !entity.id.is_empty()))
    }

    async fn groups(&self, entity: &str) -> Result<Vec<Group>, HostError> {
        let args = pb::EntityInfoArgs { entity_id: entity.to_owned() };
        let reply = self.view()?.groups_for_entity(args).await.map_err(host_failed)?.into_inner();
        told(reply.err)?;
        Ok(reply.groups.into_iter().map(group).collect())
    }
}

/// An error in an answer about identities.
fn told(err: String) -> Result<(), HostError> {
    if err.is_empty() { Ok(()) } else { Err(HostError(err)) }
}

fn entity(entity: logical::Entity) -> Entity {
    Entity {
        id: entity.id,
        name: entity.name,
        metadata: entity.metadata.into_iter().collect(),
        disabled: entity.disabled,
        aliases: entity.aliases.into_iter().map(alias).collect(),
    }
}

fn alias(alias: logical::Alias) -> Alias {
    Alias {
        id: alias.id,
        mount_type: alias.mount_type,
        mount_accessor: alias.mount_accessor,
        name: alias.name,
        metadata: alias.metadata.into_iter().collect(),
        custom_metadata: alias.custom_metadata.into_iter().collect(),
    }
}

fn group(group: logical::Group) -> Group {
    Group { id: group.id, name: group.name, metadata: group.metadata.into_iter().collect() }
}

/// The host's durations are nanoseconds; what is negative means none.
pub(super) fn nanoseconds(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cuts_a_page() {
        let keys = || ["b", "a/", "c", "a"].map(str::to_owned).to_vec();
        assert_eq!(page(keys(), "", 0), ["a", "a/", "b", "c"]);
        assert_eq!(page(keys(), "", -1), ["a", "a/", "b", "c"]);
        assert_eq!(page(keys(), "a", 2), ["a/", "b"]);
        assert_eq!(page(keys(), "zz", 2), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn pages_add_up(mut keys in prop::collection::vec("[a-c/]{1,3}", 0..20), limit in 1i32..5) {
            keys.sort();
            keys.dedup();
            let mut all = Vec::<String>::new();
            loop {
                let after = all.last().cloned().unwrap_or_default();
                let next = page(keys.clone(), &after, limit);
                if next.is_empty() { break }
                prop_assert!(next.len() <= limit as usize);
                all.extend(next);
            }
            prop_assert_eq!(all, keys);
        }
    }

    #[test]
    fn negative_durations_are_none() {
        assert_eq!(nanoseconds(-1), Duration::ZERO);
        assert_eq!(nanoseconds(1_500_000_000), Duration::from_millis(1500));
    }
}
