//! Policies of users, roles and groups.

use std::time::Duration;

use aws_sdk_iam::Client;
use percent_encoding::percent_decode_str;

use super::arn::Arn;
use super::failure::{self, Cause, Failure};
use super::{Holder, LONGEST_ROLE_SESSION};

/// The name by which IAM knows a holder.
pub(super) fn name(holder: &Holder) -> Result<&str, Failure> {
    let kind = match holder {
        Holder::Role(_) => "role",
        Holder::User(_) => "user",
    };
    let name = Arn::parse(holder.arn()).ok().and_then(|arn| arn.name(kind));
    name.ok_or_else(|| {
        Failure::new(Cause::Refused, "ValidationError", format!("{:?} is no ARN of a {kind}", holder.arn()))
    })
}

pub(super) async fn put(iam: &Client, holder: &Holder, policy: &str, document: &str) -> Result<(), Failure> {
    let name = name(holder)?;
    match holder {
        Holder::Role(_) => {
            let call = iam.put_role_policy().role_name(name).policy_name(policy).policy_document(document);
            call.send().await.map(drop).map_err(failure::of)
        }
        Holder::User(_) => {
            let call = iam.put_user_policy().user_name(name).policy_name(policy).policy_document(document);
            call.send().await.map(drop).map_err(failure::of)
        }
    }
}

pub(super) async fn get(iam: &Client, holder: &Holder, policy: &str) -> Result<Option<String>, Failure> {
    let name = name(holder)?;
    let found = match holder {
        Holder::Role(_) => {
            let call = iam.get_role_policy().role_name(name).policy_name(policy);
            call.send().await.map(|answer| answer.policy_document).map_err(failure::of)
        }
        Holder::User(_) => {
            let call = iam.get_user_policy().user_name(name).policy_name(policy);
            call.send().await.map(|answer| answer.policy_document).map_err(failure::of)
        }
    };
    match found {
        Ok(document) => Ok(Some(decoded(&document))),
        Err(failure) if failure.cause == Cause::Missing => Ok(None),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn delete(iam: &Client, holder: &Holder, policy: &str) -> Result<(), Failure> {
    let name = name(holder)?;
    let done = match holder {
        Holder::Role(_) => {
            let call = iam.delete_role_policy().role_name(name).policy_name(policy);
            call.send().await.map(drop).map_err(failure::of)
        }
        Holder::User(_) => {
            let call = iam.delete_user_policy().user_name(name).policy_name(policy);
            call.send().await.map(drop).map_err(failure::of)
        }
    };
    match done {
        Err(failure) if failure.cause == Cause::Missing => Ok(()),
        done => done,
    }
}

pub(super) async fn of_group(iam: &Client, group: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
    let mut arns = Vec::new();
    let mut pages = iam.list_attached_group_policies().group_name(group).into_paginator().send();
    while let Some(page) = pages.next().await {
        let attached = page.map_err(failure::of)?.attached_policies.unwrap_or_default();
        arns.extend(attached.into_iter().filter_map(|policy| policy.policy_arn));
    }
    let mut names = Vec::new();
    let mut pages = iam.list_group_policies().group_name(group).into_paginator().send();
    while let Some(page) = pages.next().await {
        names.extend(page.map_err(failure::of)?.policy_names);
    }
    let mut documents = Vec::new();
    for name in names {
        let answer = iam.get_group_policy().group_name(group).policy_name(name).send().await.map_err(failure::of)?;
        documents.push(decoded(&answer.policy_document));
    }
    Ok((documents, arns))
}

pub(super) async fn longest_session(iam: &Client, role_arn: &str) -> Result<Duration, Failure> {
    let holder = Holder::Role(role_arn.to_owned());
    let answer = iam.get_role().role_name(name(&holder)?).send().await.map_err(failure::of)?;
    let seconds =
        answer.role.and_then(|role| role.max_session_duration).and_then(|seconds| u64::try_from(seconds).ok());
    Ok(seconds.map_or(LONGEST_ROLE_SESSION, Duration::from_secs))
}

/// IAM answers with documents as URLs have them.
pub(super) fn decoded(document: &str) -> String {
    if document.trim_start().starts_with('{') {
        return document.to_owned();
    }
    percent_decode_str(document).decode_utf8_lossy().into_owned()
}
