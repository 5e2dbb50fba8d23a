//! IAM users that we make and end.

use std::collections::BTreeMap;

use aws_sdk_iam::Client;
use aws_sdk_iam::types::Tag;

use super::client::Account;
use super::failure::{self, Cause, Failure};
use super::{AccessKey, Step, Unmade, User, UserEnd, UserPlan, key};

pub(super) async fn get(iam: &Client, name: &str) -> Result<Option<User>, Failure> {
    let answer = match iam.get_user().user_name(name).send().await.map_err(failure::of) {
        Err(failure) if failure.cause == Cause::Missing => return Ok(None),
        answer => answer?,
    };
    Ok(answer.user.map(|user| User {
        name: user.user_name,
        id: user.user_id,
        tags: user.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)).collect::<BTreeMap<_, _>>(),
    }))
}

pub(super) async fn create(account: &Account, plan: &UserPlan) -> Result<AccessKey, Unmade> {
    let iam = &account.iam;
    let at = |step: Step, remains: bool| move |failure: Failure| Unmade { step, failure, remains };
    if let Err(failure) = make(iam, plan).await {
        // A try whose answer got lost is followed by one that finds the user there.
        let ours = failure.cause == Cause::Exists && is_ours(iam, plan).await.map_err(at(Step::Create, false))?;
        if !ours {
            let remains = failure.cause == Cause::Unreachable;
            return Err(Unmade { step: Step::Create, failure, remains });
        }
    }
    for arn in &plan.policies {
        let call = iam.attach_user_policy().user_name(&plan.name).policy_arn(arn).send();
        call.await.map_err(failure::of).map_err(at(Step::Attach, true))?;
    }
    if let Some((name, document)) = &plan.inline {
        let call = iam.put_user_policy().user_name(&plan.name).policy_name(name).policy_document(document).send();
        call.await.map_err(failure::of).map_err(at(Step::Put, true))?;
    }
    for group in &plan.groups {
        let call = iam.add_user_to_group().user_name(&plan.name).group_name(group).send();
        call.await.map_err(failure::of).map_err(at(Step::Join, true))?;
    }
    key::create(iam, &plan.name).await.map_err(at(Step::Key, true))
}

async fn make(iam: &Client, plan: &UserPlan) -> Result<(), Failure> {
    let tags = plan.tags.iter().chain(std::iter::once((&plan.mark.0, &plan.mark.1)));
    // Both parts are given, so every one is built.
    let tags: Vec<Tag> = tags.filter_map(|(key, value)| Tag::builder().key(key).value(value).build().ok()).collect();
    iam.create_user()
        .user_name(&plan.name)
        .path(if plan.path.is_empty() { "/" } else { &plan.path })
        .set_permissions_boundary(Some(plan.boundary.clone()).filter(|arn| !arn.is_empty()))
        .set_tags(Some(tags))
        .send()
        .await
        .map(drop)
        .map_err(failure::of)
}

async fn is_ours(iam: &Client, plan: &UserPlan) -> Result<bool, Failure> {
    let (key, value) = &plan.mark;
    Ok(get(iam, &plan.name).await?.is_some_and(|user| user.tags.get(key) == Some(value)))
}

/// Keys first: from then on the rest is only tidying up. What most users never have is looked for too, as far as we may.
pub(super) async fn end(iam: &Client, name: &str) -> Result<UserEnd, Failure> {
    let keys = match key::list(iam, name).await {
        Err(failure) if failure.cause == Cause::Missing => return Ok(UserEnd::Missing),
        keys => keys?,
    };
    let had_keys = !keys.is_empty();
    for key in keys {
        key::delete(iam, name, &key.id).await?;
    }
    rare(logins(iam, name).await)?;
    rare(devices(iam, name).await)?;
    rare(ssh_keys(iam, name).await)?;
    rare(certificates(iam, name).await)?;
    rare(service_credentials(iam, name).await)?;
    let rest = async {
        policies(iam, name).await?;
        groups(iam, name).await
    };
    match rest.await {
        // Not every server says so to the first question.
        Err(failure) if failure.cause == Cause::Missing && !had_keys => return Ok(UserEnd::Missing),
        rest => rest?,
    }
    match iam.delete_user().user_name(name).send().await.map_err(failure::of) {
        Err(failure) if failure.cause == Cause::Missing => Ok(UserEnd::Gone),
        answer => answer.map(|_| UserEnd::Gone),
    }
}

/// What most users never have. That it cannot be looked at or removed (a right is missing, a server that only looks like
/// IAM does not know the call) matters only if there is something, and then DeleteUser says so.
fn rare(done: Result<(), Failure>) -> Result<(), Failure> {
    match done {
        Err(failure) if failure.cause != Cause::Throttled => Ok(()),
        done => done,
    }
}

/// What is gone is gone.
fn gone<T, E>(
    answer: Result<T, aws_sdk_iam::error::SdkError<E, aws_sdk_iam::config::http::HttpResponse>>,
) -> Result<(), Failure>
where
    E: aws_sdk_iam::error::ProvideErrorMetadata + std::error::Error + 'static,
{
    match answer.map_err(failure::of) {
        Err(failure) if failure.cause == Cause::Missing => Ok(()),
        answer => answer.map(drop),
    }
}

async fn logins(iam: &Client, name: &str) -> Result<(), Failure> {
    gone(iam.delete_login_profile().user_name(name).send().await)
}

async fn devices(iam: &Client, name: &str) -> Result<(), Failure> {
    let mut pages = iam.list_mfa_devices().user_name(name).into_paginator().send();
    let mut devices = Vec::new();
    while let Some(page) = pages.next().await {
        devices.extend(page.map_err(failure::of)?.mfa_devices.into_iter().map(|device| device.serial_number));
    }
    for serial in devices {
        gone(iam.deactivate_mfa_device().user_name(name).serial_number(&serial).send().await)?;
        if serial.contains(":mfa/") {
            gone(iam.delete_virtual_mfa_device().serial_number(&serial).send().await)?;
        }
    }
    Ok(())
}

async fn ssh_keys(iam: &Client, name: &str) -> Result<(), Failure> {
    let mut pages = iam.list_ssh_public_keys().user_name(name).into_paginator().send();
    let mut ids = Vec::new();
    while let Some(page) = pages.next().await {
        let keys = page.map_err(failure::of)?.ssh_public_keys.unwrap_or_default();
        ids.extend(keys.into_iter().map(|key| key.ssh_public_key_id));
    }
    for id in ids {
        gone(iam.delete_ssh_public_key().user_name(name).ssh_public_key_id(id).send().await)?;
    }
    Ok(())
}

async fn certificates(iam: &Client, name: &str) -> Result<(), Failure> {
    let mut pages = iam.list_signing_certificates().user_name(name).into_paginator().send();
    let mut ids = Vec::new();
    while let Some(page) = pages.next().await {
        ids.extend(page.map_err(failure::of)?.certificates.into_iter().map(|certificate| certificate.certificate_id));
    }
    for id in ids {
        gone(iam.delete_signing_certificate().user_name(name).certificate_id(id).send().await)?;
    }
    Ok(())
}

async fn service_credentials(iam: &Client, name: &str) -> Result<(), Failure> {
    let answer = iam.list_service_specific_credentials().user_name(name).send().await.map_err(failure::of)?;
    for credential in answer.service_specific_credentials.unwrap_or_default() {
        let id = credential.service_specific_credential_id;
        let call = iam.delete_service_specific_credential().user_name(name).service_specific_credential_id(id);
        gone(call.send().await)?;
    }
    Ok(())
}

async fn policies(iam: &Client, name: &str) -> Result<(), Failure> {
    let mut pages = iam.list_attached_user_policies().user_name(name).into_paginator().send();
    let mut attached = Vec::new();
    while let Some(page) = pages.next().await {
        let policies = page.map_err(failure::of)?.attached_policies.unwrap_or_default();
        attached.extend(policies.into_iter().filter_map(|policy| policy.policy_arn));
    }
    for arn in attached {
        gone(iam.detach_user_policy().user_name(name).policy_arn(arn).send().await)?;
    }
    let mut pages = iam.list_user_policies().user_name(name).into_paginator().send();
    let mut inline = Vec::new();
    while let Some(page) = pages.next().await {
        inline.extend(page.map_err(failure::of)?.policy_names);
    }
    for policy in inline {
        gone(iam.delete_user_policy().user_name(name).policy_name(policy).send().await)?;
    }
    Ok(())
}

async fn groups(iam: &Client, name: &str) -> Result<(), Failure> {
    let mut pages = iam.list_groups_for_user().user_name(name).into_paginator().send();
    let mut groups = Vec::new();
    while let Some(page) = pages.next().await {
        groups.extend(page.map_err(failure::of)?.groups.into_iter().map(|group| group.group_name));
    }
    for group in groups {
        gone(iam.remove_user_from_group().user_name(name).group_name(group).send().await)?;
    }
    Ok(())
}
