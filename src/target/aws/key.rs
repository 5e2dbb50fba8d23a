//! Long-term keys of users.

use std::time::SystemTime;

use aws_sdk_iam::Client;

use super::failure::{self, Cause, Failure};
use super::{AccessKey, KeyInfo};
use crate::secret::Secret;

pub(super) async fn list(iam: &Client, user: &str) -> Result<Vec<KeyInfo>, Failure> {
    let mut pages = iam.list_access_keys().user_name(user).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        for key in page.map_err(failure::of)?.access_key_metadata {
            let created = key.create_date.and_then(|date| SystemTime::try_from(date).ok());
            keys.extend(key.access_key_id.map(|id| KeyInfo { id, created }));
        }
    }
    Ok(keys)
}

pub(super) async fn create(iam: &Client, user: &str) -> Result<AccessKey, Failure> {
    let answer = iam.create_access_key().user_name(user).send().await.map_err(failure::of)?;
    let key = answer
        .access_key
        .ok_or_else(|| Failure::new(Cause::Refused, "MalformedResponse", "nil access key returned from request"))?;
    Ok(AccessKey { id: key.access_key_id, secret: Secret::new(key.secret_access_key) })
}

pub(super) async fn delete(iam: &Client, user: &str, id: &str) -> Result<(), Failure> {
    match iam.delete_access_key().user_name(user).access_key_id(id).send().await.map_err(failure::of) {
        Err(failure) if failure.cause == Cause::Missing => Ok(()),
        answer => answer.map(drop),
    }
}
