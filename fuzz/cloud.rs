//! An AWS account that agrees to everything and remembers nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use leasehold::secret::Secret;
use leasehold::target::aws::{
    AccessKey, AssumedAs, Failure, Holder, KeyInfo, Principal, Session, SessionPlan, Unmade, User, UserEnd, UserPlan,
};

pub struct Cloud;

fn key() -> AccessKey {
    AccessKey { id: "AKIA0000000000000001".into(), secret: Secret::new("the-secret-key-of-a-fuzz-target".into()) }
}

fn session(plan: &SessionPlan) -> Session {
    Session {
        key: key(),
        token: Secret::new("the-session-token-of-a-fuzz-target".into()),
        expires: SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_795_313_477)
            + plan.duration.min(Duration::from_secs(43_200)),
        arn: format!("arn:aws:sts::1:assumed-role/app/{}", plan.name),
        user_id: format!("AROA1:{}", plan.name),
    }
}

#[async_trait]
impl leasehold::target::aws::Cloud for Cloud {
    async fn whoami(&self) -> Result<Principal, Failure> {
        Ok(Principal { arn: "arn:aws:iam::1:user/engine".into(), account: "1".into(), user_id: "AIDA1".into() })
    }
    fn with_key(&self, _: &AccessKey) -> Arc<dyn leasehold::target::aws::Cloud> {
        Arc::new(Cloud)
    }
    fn assuming(&self, _: &AssumedAs) -> Arc<dyn leasehold::target::aws::Cloud> {
        Arc::new(Cloud)
    }
    async fn assume_role(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        Ok(session(plan))
    }
    async fn federation_token(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        Ok(session(plan))
    }
    async fn session_token(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        Ok(session(plan))
    }
    async fn create_user(&self, _: &UserPlan) -> Result<AccessKey, Unmade> {
        Ok(key())
    }
    async fn end_user(&self, _: &str) -> Result<UserEnd, Failure> {
        Ok(UserEnd::Gone)
    }
    async fn user(&self, name: &str) -> Result<Option<User>, Failure> {
        Ok(Some(User { name: name.to_owned(), id: "AIDA2".into(), tags: Default::default() }))
    }
    async fn keys(&self, _: &str) -> Result<Vec<KeyInfo>, Failure> {
        Ok(Vec::new())
    }
    async fn create_key(&self, _: &str) -> Result<AccessKey, Failure> {
        Ok(key())
    }
    async fn delete_key(&self, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }
    async fn group_policies(&self, _: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
        Ok((Vec::new(), Vec::new()))
    }
    async fn put_policy(&self, _: &Holder, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }
    async fn policy(&self, _: &Holder, _: &str) -> Result<Option<String>, Failure> {
        Ok(None)
    }
    async fn delete_policy(&self, _: &Holder, _: &str) -> Result<(), Failure> {
        Ok(())
    }
    async fn attach_policy(&self, _: &Holder, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }
    async fn attached_policy(&self, _: &Holder, _: &str) -> Result<Option<String>, Failure> {
        Ok(None)
    }
    async fn detach_policy(&self, _: &Holder, _: &str) -> Result<(), Failure> {
        Ok(())
    }
    async fn longest_session(&self, _: &str) -> Result<Duration, Failure> {
        Ok(Duration::from_secs(3600))
    }
}
