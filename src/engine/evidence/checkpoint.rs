//! A signed statement of how far the record went and what its tree was then. One that is kept elsewhere makes it
//! impossible to replace what was recorded before it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::event::{canonical, hex};
use super::{Head, stamp};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::secret::Secret;
use crate::secret::signer::{Signer, is_signed};

/// Where the key is. The host wraps it with its seal.
pub const KEY: &str = "evidence/key";

/// A statement about the record, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The mount's stable id.
    pub mount: String,
    /// How many events there were.
    pub size: u64,
    /// The hash of the last one.
    pub head: String,
    /// The root of the tree (RFC 6962) over the hashes of all of them.
    pub root: String,
    /// The time of the last event.
    pub time: String,
    /// Ed25519 over the canonical JSON of all of the above, base64.
    pub signature: String,
}

impl Checkpoint {
    fn body(&self) -> Vec<u8> {
        let body =
            json!({ "mount": self.mount, "size": self.size, "head": self.head, "root": self.root, "time": self.time });
        canonical(&body).into_bytes()
    }

    /// Of this end of the record.
    pub fn sign(mount: &str, head: &Head, signer: &Signer) -> Self {
        let mut checkpoint = Self {
            mount: mount.to_owned(),
            size: head.next - 1,
            head: hex(&head.hash),
            root: hex(&head.tree.root()),
            time: stamp(head.time),
            signature: String::new(),
        };
        checkpoint.signature = signer.sign(&checkpoint.body());
        checkpoint
    }

    /// Whether it is signed by the owner of this public key (base64).
    pub fn is_by(&self, public: &str) -> bool {
        is_signed(public, &self.body(), &self.signature)
    }

    /// In one line, as answers carry it.
    pub fn line(&self) -> String {
        canonical(&serde_json::to_value(self).unwrap_or(Value::Null))
    }
}

/// The key of the mount; drawn when it is first needed.
pub async fn signer(mount: &Mount) -> Result<Arc<Signer>, Error> {
    let mut known = mount.evidence.signer.lock().await;
    if let Some(signer) = known.as_ref() {
        return Ok(signer.clone());
    }
    let storage = &mount.ports.storage;
    let stored: Secret = match storage.get(KEY).await? {
        Some(stored) => stored,
        None => {
            mount.refuse_on_standby().await?;
            let drawn = Signer::draw().map_err(|e| Error::Failed(e.to_string()))?;
            storage.put(KEY, &drawn, true).await?;
            drawn
        }
    };
    let signer = Arc::new(Signer::read(&stored).map_err(|e| Error::Failed(e.to_string()))?);
    *known = Some(signer.clone());
    Ok(signer)
}

/// Of the record as it is now.
pub async fn take(mount: &Mount) -> Result<Checkpoint, Error> {
    let signer = signer(mount).await?;
    Ok(Checkpoint::sign(&mount.id, &super::head(mount).await?, &signer))
}
