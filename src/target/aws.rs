//! AWS: IAM users and their keys, STS sessions, and the policies that end both. It knows nothing of roles of ours, of
//! leases or of callers.

pub mod arn;
mod attached;
mod client;
mod failure;
mod key;
mod policy;
mod session;
mod source;
mod user;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

pub use client::open;
pub use failure::{Cause, Failure};

use crate::secret::Secret;

/// The longest inline policies of a role together, in characters that are no white space. An account cannot raise it.
pub const ROLE_POLICY_LIMIT: usize = 10_240;
/// The same of a user.
pub const USER_POLICY_LIMIT: usize = 2_048;
/// The longest customer-managed policy, counted the same way.
pub const MANAGED_POLICY_LIMIT: usize = 6_144;
/// The shortest session that STS gives.
pub const SHORTEST_SESSION: Duration = Duration::from_secs(900);
/// The longest session of a role, whatever the role allows.
pub const LONGEST_ROLE_SESSION: Duration = Duration::from_secs(43_200);

/// An account, and as whom we reach it.
#[derive(Debug, Default)]
pub struct Settings {
    /// Who we are.
    pub source: Source,
    /// The region; empty for `AWS_REGION`, `AWS_DEFAULT_REGION`, else `us-east-1`.
    pub region: String,
    /// Where IAM is; empty for the partition's own.
    pub iam_endpoint: String,
    /// Where STS is, the next one for when one cannot be reached. Never empty.
    pub sts: Vec<StsPlace>,
    /// Tries after the first; `None` for the SDK's number.
    pub retries: Option<u32>,
}

/// One place of STS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StsPlace {
    /// Its URL; empty for the region's own.
    pub endpoint: String,
    /// Its region; empty for that of the settings.
    pub region: String,
}

/// Where our own credentials come from.
#[derive(Debug, Default)]
pub enum Source {
    /// The SDK's default chain: environment, profile, web identity, container, instance.
    #[default]
    Chain,
    /// A long-term key.
    Keys(AccessKey),
    /// A role, assumed with a token that something else keeps in a file.
    WebIdentity {
        /// The role.
        role_arn: String,
        /// The file. It is read at each exchange.
        token_file: String,
    },
}

/// A role that we assume ourselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AssumedAs {
    /// The role.
    pub role_arn: String,
    /// The name of the session; empty for ours.
    #[serde(default)]
    pub session_name: String,
    /// What the role's trust may ask for; empty for none.
    #[serde(default)]
    pub external_id: String,
}

impl AssumedAs {
    /// A role that asks for nothing more.
    pub fn role(arn: &str) -> Self {
        Self { role_arn: arn.to_owned(), ..Self::default() }
    }
}

/// A long-term key of a user.
#[derive(Debug)]
pub struct AccessKey {
    /// Its id, which is no secret.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
}

/// A key as IAM lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created: Option<SystemTime>,
}

/// Who a credential is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `arn:aws:iam::…:user/…`, `arn:aws:sts::…:assumed-role/…/…` or `arn:aws:iam::…:root`.
    pub arn: String,
    /// The account.
    pub account: String,
    /// What `aws:userid` says.
    pub user_id: String,
}

/// A user as IAM describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its id, which no other user will ever have.
    pub id: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A user to make.
#[derive(Debug, Default)]
pub struct UserPlan {
    /// Its name.
    pub name: String,
    /// Its path; empty for `/`.
    pub path: String,
    /// Its permissions boundary; empty for none.
    pub boundary: String,
    /// Its tags, given in the request that makes it.
    pub tags: BTreeMap<String, String>,
    /// A tag that nobody else gives this value: how a user that is already there is known to be ours.
    pub mark: (String, String),
    /// Managed policies to attach.
    pub policies: Vec<String>,
    /// An inline policy, name and document.
    pub inline: Option<(String, String)>,
    /// Groups to join.
    pub groups: Vec<String>,
}

/// Which step of making a user failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// CreateUser.
    Create,
    /// AttachUserPolicy.
    Attach,
    /// PutUserPolicy.
    Put,
    /// AddUserToGroup.
    Join,
    /// CreateAccessKey.
    Key,
}

/// A user that was not made, or not to its end.
#[derive(Debug)]
pub struct Unmade {
    /// Where it stopped.
    pub step: Step,
    /// Why.
    pub failure: Failure,
    /// Something of it may be there.
    pub remains: bool,
}

/// A session to get.
#[derive(Debug, Clone, Default)]
pub struct SessionPlan {
    /// Session name, or name of the federated user.
    pub name: String,
    /// How long; STS knows whole seconds.
    pub duration: Duration,
    /// A policy that narrows what the session may; empty for none.
    pub policy: String,
    /// Managed policies that narrow it.
    pub policy_arns: Vec<String>,
    /// Session tags.
    pub tags: BTreeMap<String, String>,
    /// Which of them go along when the session assumes a further role.
    pub transitive: Vec<String>,
    /// The role; only of [`Cloud::assume_role`].
    pub role_arn: String,
    /// What the role's trust may ask for; empty for none.
    pub external_id: String,
    /// Who it is, for good; empty for none.
    pub source_identity: String,
    /// The device and its code; only of [`Cloud::session_token`].
    pub mfa: Option<(String, String)>,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its key.
    pub key: AccessKey,
    /// Its token.
    pub token: Secret,
    /// When AWS ends it.
    pub expires: SystemTime,
    /// The session's own ARN; empty if STS names none.
    pub arn: String,
    /// What `aws:userid` says in its requests; empty if STS does not tell.
    pub user_id: String,
}

/// Who carries a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A role, by ARN.
    Role(String),
    /// A user, by ARN.
    User(String),
}

impl Holder {
    /// The ARN.
    pub fn arn(&self) -> &str {
        match self {
            Self::Role(arn) | Self::User(arn) => arn,
        }
    }

    /// What all inline policies of the holder may have together.
    pub fn limit(&self) -> usize {
        match self {
            Self::Role(_) => ROLE_POLICY_LIMIT,
            Self::User(_) => USER_POLICY_LIMIT,
        }
    }
}

/// What ending a user came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEnd {
    /// It is gone now.
    Gone,
    /// There was none to be seen.
    Missing,
}

/// One account, reached as somebody. Calls may run concurrently; each has its own deadline, and throttled ones are tried
/// again within a budget that all calls of the process share.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// Who we are.
    async fn whoami(&self) -> Result<Principal, Failure>;
    /// The same place, reached with another key.
    fn with_key(&self, key: &AccessKey) -> Arc<dyn Cloud>;
    /// The same place, reached as a role that we assume.
    fn assuming(&self, role: &AssumedAs) -> Arc<dyn Cloud>;

    /// AssumeRole.
    async fn assume_role(&self, plan: &SessionPlan) -> Result<Session, Failure>;
    /// GetFederationToken.
    async fn federation_token(&self, plan: &SessionPlan) -> Result<Session, Failure>;
    /// GetSessionToken.
    async fn session_token(&self, plan: &SessionPlan) -> Result<Session, Failure>;

    /// Makes a user and a key of it. Safe against a dropped future only in so far as what was begun can be ended by name.
    async fn create_user(&self, plan: &UserPlan) -> Result<AccessKey, Unmade>;
    /// Removes a user and all that is its own: keys first.
    ///
    /// # Errors
    /// What AWS refused. The keys may be gone all the same.
    async fn end_user(&self, name: &str) -> Result<UserEnd, Failure>;
    /// The user of that name.
    async fn user(&self, name: &str) -> Result<Option<User>, Failure>;

    /// The keys of a user.
    async fn keys(&self, user: &str) -> Result<Vec<KeyInfo>, Failure>;
    /// A new key of a user.
    async fn create_key(&self, user: &str) -> Result<AccessKey, Failure>;
    /// Removes a key. One that is gone is a success.
    async fn delete_key(&self, user: &str, id: &str) -> Result<(), Failure>;

    /// What the policies of a group are: documents, and ARNs of managed ones.
    async fn group_policies(&self, group: &str) -> Result<(Vec<String>, Vec<String>), Failure>;
    /// Writes an inline policy.
    async fn put_policy(&self, holder: &Holder, name: &str, document: &str) -> Result<(), Failure>;
    /// The document of an inline policy.
    async fn policy(&self, holder: &Holder, name: &str) -> Result<Option<String>, Failure>;
    /// Removes an inline policy. One that is gone is a success.
    async fn delete_policy(&self, holder: &Holder, name: &str) -> Result<(), Failure>;
    /// Makes a managed policy of that name what the document says, and attaches it.
    async fn attach_policy(&self, holder: &Holder, name: &str, document: &str) -> Result<(), Failure>;
    /// The document of a managed policy of that name, if it is attached.
    async fn attached_policy(&self, holder: &Holder, name: &str) -> Result<Option<String>, Failure>;
    /// Detaches a managed policy and removes it. One that is gone is a success.
    async fn detach_policy(&self, holder: &Holder, name: &str) -> Result<(), Failure>;
    /// How long a session of the role may be.
    async fn longest_session(&self, role_arn: &str) -> Result<Duration, Failure>;
}
