//! Where our own credentials come from.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Provided;
use aws_sdk_iam::config::{BehaviorVersion, Credentials, ProvideCredentials, Region, SharedCredentialsProvider};

use super::client::{Shared, http, in_turn};
use super::failure::{self, Failure};
use super::{AccessKey, AssumedAs, Source};

/// What the SDK calls the origin of credentials.
const NAME: &str = "leasehold";

/// The SDK's view of a source.
pub(super) fn of(source: Source, shared: &Shared) -> SharedCredentialsProvider {
    match source {
        Source::Keys(access) => key(&access),
        Source::Chain => SharedCredentialsProvider::new(Chain { region: shared.region.clone() }),
        Source::WebIdentity { role_arn, token_file } => {
            SharedCredentialsProvider::new(WebIdentity { sts: shared.sts(None), role_arn, token_file })
        }
    }
}

/// A fixed key.
pub(super) fn key(key: &AccessKey) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new(key.id.clone(), key.secret.expose(), None, None, NAME))
}

/// The SDK's default chain, built when it is asked.
#[derive(Debug)]
struct Chain {
    region: String,
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::new(async {
            let config = ProviderConfig::without_region()
                .with_region(Some(Region::new(self.region.clone())))
                .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
                .with_http_client(http());
            DefaultCredentialsChain::builder().configure(config).build().await.provide_credentials().await
        })
    }
}

/// A role assumed with the token in a file.
#[derive(Debug)]
struct WebIdentity {
    sts: Vec<aws_sdk_sts::Client>,
    role_arn: String,
    token_file: String,
}

impl WebIdentity {
    async fn exchange(&self) -> Result<Credentials, CredentialsError> {
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|e| {
            CredentialsError::provider_error(format!(
                "the identity token file {:?} cannot be read: {e}",
                self.token_file
            ))
        })?;
        let token = zeroize::Zeroizing::new(token);
        let answer = in_turn(&self.sts, |sts| {
            let call = sts
                .assume_role_with_web_identity()
                .role_arn(&self.role_arn)
                .role_session_name(NAME)
                .web_identity_token(token.trim());
            async move { call.send().await.map_err(failure::of) }
        });
        let answer = answer.await.map_err(CredentialsError::provider_error)?;
        credentials(answer.credentials)
    }
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::new(self.exchange())
    }
}

/// A role that we assume with what we have.
#[derive(Debug)]
pub(super) struct Assumed {
    sts: Vec<aws_sdk_sts::Client>,
    role: AssumedAs,
}

impl Assumed {
    pub(super) fn new(sts: Vec<aws_sdk_sts::Client>, role: AssumedAs) -> Self {
        Self { sts, role }
    }

    async fn assume(&self) -> Result<Credentials, CredentialsError> {
        let answer = in_turn(&self.sts, |sts| {
            let AssumedAs { role_arn, session_name, external_id } = &self.role;
            let name = if session_name.is_empty() { NAME } else { session_name };
            let external_id = Some(external_id.clone()).filter(|id| !id.is_empty());
            let call = sts.assume_role().role_arn(role_arn).role_session_name(name).set_external_id(external_id);
            async move { call.send().await.map_err(failure::of) }
        });
        let answer = answer.await.map_err(|e: Failure| CredentialsError::provider_error(e))?;
        credentials(answer.credentials)
    }
}

impl ProvideCredentials for Assumed {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::new(self.assume())
    }
}

fn credentials(given: Option<aws_sdk_sts::types::Credentials>) -> Result<Credentials, CredentialsError> {
    let given = given.ok_or_else(|| CredentialsError::provider_error("STS gave no credentials"))?;
    let expires = (*given.expiration()).try_into().map_err(CredentialsError::provider_error)?;
    Ok(Credentials::new(given.access_key_id, given.secret_access_key, Some(given.session_token), Some(expires), NAME))
}
