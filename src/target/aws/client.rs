//! The clients of one account.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_iam::config::retry::RetryConfig;
use aws_sdk_iam::config::timeout::TimeoutConfig;
use aws_sdk_iam::config::{BehaviorVersion, Region, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::failure::{self, Failure};
use super::{
    AccessKey, AssumedAs, Cloud, Holder, KeyInfo, Principal, Session, SessionPlan, Settings, StsPlace, Unmade, User,
    UserEnd, UserPlan, attached, key, policy, session, source, user,
};

/// One try of one call.
const ATTEMPT: Duration = Duration::from_secs(20);
/// A call with all its tries.
const CALL: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

/// An account. Nobody is asked anything yet.
pub fn open(settings: Settings) -> Arc<dyn Cloud> {
    let shared = Shared {
        region: region(&settings.region),
        iam_endpoint: settings.iam_endpoint,
        sts: if settings.sts.is_empty() { vec![StsPlace::default()] } else { settings.sts },
        retries: settings.retries,
    };
    let source = source::of(settings.source, &shared);
    Arc::new(Account::new(Arc::new(shared), source))
}

/// The configured region, else the environment's, else the built-in engine's.
fn region(configured: &str) -> String {
    let from = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    if !configured.is_empty() {
        return configured.to_owned();
    }
    from("AWS_REGION").or_else(|| from("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".to_owned())
}

/// What does not depend on who we are.
pub(super) struct Shared {
    pub(super) region: String,
    pub(super) iam_endpoint: String,
    pub(super) sts: Vec<StsPlace>,
    pub(super) retries: Option<u32>,
}

impl Shared {
    fn retry(&self) -> RetryConfig {
        let config = RetryConfig::standard();
        match self.retries {
            Some(retries) => config.with_max_attempts(retries.saturating_add(1)),
            None => config,
        }
    }

    fn timeouts() -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(CALL)
            .build()
    }

    /// One client of STS for each place, in their order; unsigned without credentials.
    pub(super) fn sts(&self, source: Option<&SharedCredentialsProvider>) -> Vec<aws_sdk_sts::Client> {
        let client = |place: &StsPlace| {
            let region = if place.region.is_empty() { &self.region } else { &place.region };
            let mut config = aws_sdk_sts::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .http_client(http())
                .region(Region::new(region.clone()))
                .retry_config(self.retry())
                .timeout_config(Self::timeouts());
            config.set_credentials_provider(source.cloned());
            if !place.endpoint.is_empty() {
                config.set_endpoint_url(Some(place.endpoint.clone()));
            }
            aws_sdk_sts::Client::from_conf(config.build())
        };
        self.sts.iter().map(client).collect()
    }

    fn iam(&self, source: &SharedCredentialsProvider) -> aws_sdk_iam::Client {
        let mut config = aws_sdk_iam::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http())
            .region(Region::new(self.region.clone()))
            .retry_config(self.retry())
            .timeout_config(Self::timeouts())
            .credentials_provider(source.clone());
        if !self.iam_endpoint.is_empty() {
            config.set_endpoint_url(Some(self.iam_endpoint.clone()));
        }
        aws_sdk_iam::Client::from_conf(config.build())
    }
}

/// One HTTP client for the process. No connection is kept: what it has read, keys among it, dies with it.
pub(super) fn http() -> SharedHttpClient {
    static HTTP: OnceLock<SharedHttpClient> = OnceLock::new();
    let make =
        || Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).pool_max_idle_per_host(0).build_https();
    HTTP.get_or_init(make).clone()
}

/// One account, as one identity.
pub(super) struct Account {
    shared: Arc<Shared>,
    pub(super) iam: aws_sdk_iam::Client,
    sts: Vec<aws_sdk_sts::Client>,
}

impl Account {
    fn new(shared: Arc<Shared>, source: SharedCredentialsProvider) -> Self {
        let (iam, sts) = (shared.iam(&source), shared.sts(Some(&source)));
        Self { shared, iam, sts }
    }

    /// Asks STS, at the next place if one cannot be reached.
    pub(super) async fn sts<T, F>(&self, ask: impl Fn(aws_sdk_sts::Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        in_turn(&self.sts, ask).await
    }
}

/// The answer of the first place that can be reached.
pub(super) async fn in_turn<T, F>(
    places: &[aws_sdk_sts::Client],
    ask: impl Fn(aws_sdk_sts::Client) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut last = None;
    for place in places {
        match ask(place.clone()).await {
            Err(failure) if failure.cause == super::Cause::Unreachable => last = Some(failure),
            answer => return answer,
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(super::Cause::Unreachable, "RequestError", "there is no STS endpoint")))
}

#[async_trait]
impl Cloud for Account {
    async fn whoami(&self) -> Result<Principal, Failure> {
        self.sts(|sts| async move {
            let answer = sts.get_caller_identity().send().await.map_err(failure::of)?;
            Ok(Principal {
                arn: answer.arn.unwrap_or_default(),
                account: answer.account.unwrap_or_default(),
                user_id: answer.user_id.unwrap_or_default(),
            })
        })
        .await
    }

    fn with_key(&self, key: &AccessKey) -> Arc<dyn Cloud> {
        Arc::new(Self::new(self.shared.clone(), source::key(key)))
    }

    fn assuming(&self, role: &AssumedAs) -> Arc<dyn Cloud> {
        let source = source::Assumed::new(self.sts.clone(), role.clone());
        Arc::new(Self::new(self.shared.clone(), SharedCredentialsProvider::new(source)))
    }

    async fn assume_role(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        session::assume_role(self, plan).await
    }
    async fn federation_token(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        session::federation_token(self, plan).await
    }
    async fn session_token(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        session::session_token(self, plan).await
    }
    async fn create_user(&self, plan: &UserPlan) -> Result<AccessKey, Unmade> {
        user::create(self, plan).await
    }
    async fn end_user(&self, name: &str) -> Result<UserEnd, Failure> {
        user::end(&self.iam, name).await
    }
    async fn user(&self, name: &str) -> Result<Option<User>, Failure> {
        user::get(&self.iam, name).await
    }
    async fn keys(&self, user: &str) -> Result<Vec<KeyInfo>, Failure> {
        key::list(&self.iam, user).await
    }
    async fn create_key(&self, user: &str) -> Result<AccessKey, Failure> {
        key::create(&self.iam, user).await
    }
    async fn delete_key(&self, user: &str, id: &str) -> Result<(), Failure> {
        key::delete(&self.iam, user, id).await
    }
    async fn group_policies(&self, group: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
        policy::of_group(&self.iam, group).await
    }
    async fn put_policy(&self, holder: &Holder, name: &str, document: &str) -> Result<(), Failure> {
        policy::put(&self.iam, holder, name, document).await
    }
    async fn policy(&self, holder: &Holder, name: &str) -> Result<Option<String>, Failure> {
        policy::get(&self.iam, holder, name).await
    }
    async fn delete_policy(&self, holder: &Holder, name: &str) -> Result<(), Failure> {
        policy::delete(&self.iam, holder, name).await
    }
    async fn attach_policy(&self, holder: &Holder, name: &str, document: &str) -> Result<(), Failure> {
        attached::attach(&self.iam, holder, name, document).await
    }
    async fn attached_policy(&self, holder: &Holder, name: &str) -> Result<Option<String>, Failure> {
        attached::get(&self.iam, holder, name).await
    }
    async fn detach_policy(&self, holder: &Holder, name: &str) -> Result<(), Failure> {
        attached::detach(&self.iam, holder, name).await
    }
    async fn longest_session(&self, role_arn: &str) -> Result<Duration, Failure> {
        policy::longest_session(&self.iam, role_arn).await
    }
}
