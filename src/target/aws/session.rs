//! STS sessions.

use std::time::SystemTime;

use aws_sdk_sts::types::{Credentials, PolicyDescriptorType, Tag};

use super::client::Account;
use super::failure::{self, Cause, Failure};
use super::{AccessKey, Session, SessionPlan};
use crate::secret::Secret;

pub(super) async fn assume_role(account: &Account, plan: &SessionPlan) -> Result<Session, Failure> {
    account
        .sts(|sts| {
            let call = sts
                .assume_role()
                .role_arn(&plan.role_arn)
                .role_session_name(&plan.name)
                .duration_seconds(seconds(plan))
                .set_policy(given(&plan.policy))
                .set_policy_arns(arns(plan))
                .set_tags(tags(plan))
                .set_transitive_tag_keys(Some(plan.transitive.clone()).filter(|keys| !keys.is_empty()))
                .set_external_id(given(&plan.external_id))
                .set_source_identity(given(&plan.source_identity));
            async move {
                let answer = call.send().await.map_err(failure::of)?;
                let (arn, user_id) =
                    answer.assumed_role_user.map(|user| (user.arn, user.assumed_role_id)).unwrap_or_default();
                session(answer.credentials, arn, user_id)
            }
        })
        .await
}

pub(super) async fn federation_token(account: &Account, plan: &SessionPlan) -> Result<Session, Failure> {
    account
        .sts(|sts| {
            let call = sts
                .get_federation_token()
                .name(&plan.name)
                .duration_seconds(seconds(plan))
                .set_policy(given(&plan.policy))
                .set_policy_arns(arns(plan))
                .set_tags(tags(plan));
            async move {
                let answer = call.send().await.map_err(failure::of)?;
                let (arn, user_id) =
                    answer.federated_user.map(|user| (user.arn, user.federated_user_id)).unwrap_or_default();
                session(answer.credentials, arn, user_id)
            }
        })
        .await
}

pub(super) async fn session_token(account: &Account, plan: &SessionPlan) -> Result<Session, Failure> {
    account
        .sts(|sts| {
            let (device, code) = plan.mfa.clone().unzip();
            let call =
                sts.get_session_token().duration_seconds(seconds(plan)).set_serial_number(device).set_token_code(code);
            async move {
                let answer = call.send().await.map_err(failure::of)?;
                session(answer.credentials, String::new(), String::new())
            }
        })
        .await
}

fn seconds(plan: &SessionPlan) -> i32 {
    i32::try_from(plan.duration.as_secs()).unwrap_or(i32::MAX)
}

fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn arns(plan: &SessionPlan) -> Option<Vec<PolicyDescriptorType>> {
    let describe = |arn: &String| PolicyDescriptorType::builder().arn(arn).build();
    Some(plan.policy_arns.iter().map(describe).collect::<Vec<_>>()).filter(|list| !list.is_empty())
}

fn tags(plan: &SessionPlan) -> Option<Vec<Tag>> {
    // Both parts are given, so every one is built.
    let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build().ok();
    Some(plan.tags.iter().filter_map(tag).collect::<Vec<_>>()).filter(|list| !list.is_empty())
}

fn session(given: Option<Credentials>, arn: String, user_id: String) -> Result<Session, Failure> {
    let given = given.ok_or_else(|| Failure::new(Cause::Refused, "MalformedResponse", "STS gave no credentials"))?;
    let expires = SystemTime::try_from(given.expiration)
        .map_err(|_| Failure::new(Cause::Refused, "MalformedResponse", "STS gave an expiration that is no time"))?;
    Ok(Session {
        key: AccessKey { id: given.access_key_id, secret: Secret::new(given.secret_access_key) },
        token: Secret::new(given.session_token),
        expires,
        arn,
        user_id,
    })
}
