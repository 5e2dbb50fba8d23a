//! Managed policies that we make, attach to one role or user, and remove again.

use aws_sdk_iam::Client;

use super::Holder;
use super::arn::Arn;
use super::failure::{self, Cause, Failure};
use super::policy::{decoded, name};

/// The ARN of a policy of this name in the holder's account.
fn arn(holder: &Holder, policy: &str) -> Result<String, Failure> {
    let Ok(Arn { partition, account, .. }) = Arn::parse(holder.arn()) else {
        return Err(Failure::new(Cause::Refused, "ValidationError", format!("{:?} is no ARN", holder.arn())));
    };
    Ok(format!("arn:{partition}:iam::{account}:policy/{policy}"))
}

/// What is gone is gone.
fn gone(done: Result<(), Failure>) -> Result<(), Failure> {
    match done {
        Err(failure) if failure.cause == Cause::Missing => Ok(()),
        done => done,
    }
}

pub(super) async fn attach(iam: &Client, holder: &Holder, policy: &str, document: &str) -> Result<(), Failure> {
    let arn = arn(holder, policy)?;
    let made = iam.create_policy().policy_name(policy).policy_document(document).send().await;
    match made.map(drop).map_err(failure::of) {
        Err(failure) if failure.cause == Cause::Exists => {
            // Five versions are the most that there may be.
            clear(iam, &arn).await?;
            let call = iam.create_policy_version().policy_arn(&arn).policy_document(document).set_as_default(true);
            call.send().await.map_err(failure::of)?;
        }
        made => made?,
    }
    let name = name(holder)?;
    match holder {
        Holder::Role(_) => {
            iam.attach_role_policy().role_name(name).policy_arn(arn).send().await.map(drop).map_err(failure::of)
        }
        Holder::User(_) => {
            iam.attach_user_policy().user_name(name).policy_arn(arn).send().await.map(drop).map_err(failure::of)
        }
    }
}

pub(super) async fn get(iam: &Client, holder: &Holder, policy: &str) -> Result<Option<String>, Failure> {
    let arn = arn(holder, policy)?;
    if !is_attached(iam, holder, &arn).await? {
        return Ok(None);
    }
    let found = async {
        let answer = iam.get_policy().policy_arn(&arn).send().await.map_err(failure::of)?;
        let version = answer.policy.and_then(|policy| policy.default_version_id).unwrap_or_default();
        let call = iam.get_policy_version().policy_arn(&arn).version_id(version);
        let answer = call.send().await.map_err(failure::of)?;
        Ok(answer.policy_version.and_then(|version| version.document).as_deref().map(decoded))
    };
    match found.await {
        Err(Failure { cause: Cause::Missing, .. }) => Ok(None),
        found => found,
    }
}

async fn is_attached(iam: &Client, holder: &Holder, arn: &str) -> Result<bool, Failure> {
    let name = name(holder)?;
    let is_it = |attached: Option<Vec<aws_sdk_iam::types::AttachedPolicy>>| {
        attached.unwrap_or_default().iter().any(|policy| policy.policy_arn.as_deref() == Some(arn))
    };
    match holder {
        Holder::Role(_) => {
            let mut pages = iam.list_attached_role_policies().role_name(name).into_paginator().send();
            while let Some(page) = pages.next().await {
                if is_it(page.map_err(failure::of)?.attached_policies) {
                    return Ok(true);
                }
            }
        }
        Holder::User(_) => {
            let mut pages = iam.list_attached_user_policies().user_name(name).into_paginator().send();
            while let Some(page) = pages.next().await {
                if is_it(page.map_err(failure::of)?.attached_policies) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

pub(super) async fn detach(iam: &Client, holder: &Holder, policy: &str) -> Result<(), Failure> {
    let arn = arn(holder, policy)?;
    let name = name(holder)?;
    let detached = match holder {
        Holder::Role(_) => {
            iam.detach_role_policy().role_name(name).policy_arn(&arn).send().await.map(drop).map_err(failure::of)
        }
        Holder::User(_) => {
            iam.detach_user_policy().user_name(name).policy_arn(&arn).send().await.map(drop).map_err(failure::of)
        }
    };
    gone(detached)?;
    gone(clear(iam, &arn).await)?;
    gone(iam.delete_policy().policy_arn(&arn).send().await.map(drop).map_err(failure::of))
}

/// Removes all versions but the one that is in force.
async fn clear(iam: &Client, arn: &str) -> Result<(), Failure> {
    let mut pages = iam.list_policy_versions().policy_arn(arn).into_paginator().send();
    let mut old = Vec::new();
    while let Some(page) = pages.next().await {
        let versions = page.map_err(failure::of)?.versions.unwrap_or_default();
        old.extend(versions.into_iter().filter(|version| !version.is_default_version).filter_map(|v| v.version_id));
    }
    for version in old {
        let call = iam.delete_policy_version().policy_arn(arn).version_id(version);
        gone(call.send().await.map(drop).map_err(failure::of))?;
    }
    Ok(())
}
