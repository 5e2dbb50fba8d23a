//! Roles as they were written before there were credential types.

use serde_json::Value;

use super::{Kind, Role, compact, key};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::secret::Secret;
use crate::target::aws::arn::Arn;

/// Where the oldest form is: a policy or an ARN, and nothing else.
pub const PREFIX: &str = "policy/";

/// What a write in the old way is answered with.
pub const WARNING: &str = "Detected use of legacy role or policy parameter. Please upgrade to use the new parameters.";

/// What is given in the old way, if anything.
pub fn given(input: &Input) -> Result<Option<&str>, Error> {
    let text = |field| input.text(field).filter(|text| !text.is_empty());
    let text = match (text("policy"), text("arn")) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(Error::Refused("only one of policy or arn should be provided".into())),
        (Some(text), None) | (None, Some(text)) => text,
    };
    let refused =
        |what: &str| Err(Error::Refused(format!("cannot supply deprecated role or policy parameters with {what}")));
    if input.has("credential_type") {
        return refused("an explicit credential_type");
    }
    match ["role_arns", "policy_arns", "policy_document"].into_iter().find(|field| input.has(field)) {
        Some(field) => refused(field),
        None => Ok(Some(text)),
    }
}

/// The role that such a text stands for.
pub fn role(text: &str) -> Role {
    let mut role = Role { prohibit_flexible_cred_path: true, version: 1, ..Role::default() };
    let types = |kinds: &[Kind]| kinds.iter().map(|kind| kind.name().to_owned()).collect::<Vec<_>>();
    if text.starts_with("arn:") {
        let resource = Arn::parse(text).map(|arn| arn.resource).unwrap_or_default();
        if resource.starts_with("role/") {
            role.credential_types = types(&[Kind::AssumedRole]);
            role.role_arns = Some(vec![text.to_owned()]);
        } else if resource.starts_with("policy/") {
            role.credential_types = types(&[Kind::IamUser]);
            role.policy_arns = Some(vec![text.to_owned()]);
        } else {
            text.clone_into(&mut role.invalid_data);
        }
        return role;
    }
    match compact(text) {
        Some(document) => {
            role.credential_types = types(&[Kind::IamUser, Kind::FederationToken]);
            role.policy_document = document;
        }
        None => text.clone_into(&mut role.invalid_data),
    }
    role
}

/// A role of the oldest form, stored anew in today's. On a node that must not write it is only read.
pub async fn load(mount: &Mount, name: &str) -> Result<Option<Role>, Error> {
    let old = format!("{PREFIX}{name}");
    let Some(entry) = mount.ports.storage.get(&old).await? else { return Ok(None) };
    let role = role(entry.expose());
    if role.invalid_data.is_empty() && !mount.ports.host.is_standby().await? {
        let form: Value = role.encode()?;
        mount.ports.storage.put(&key(name), &Secret::new(form.to_string()), false).await?;
        mount.ports.storage.delete(&old).await?;
    }
    Ok(Some(role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_texts_become_roles() {
        let of = |text: &str| {
            let role = role(text);
            (role.credential_types.join(","), role.role_arns().len(), role.policy_arns().len(), role.policy_document)
        };
        assert_eq!(of("arn:aws:iam::1:role/r"), ("assumed_role".into(), 1, 0, String::new()));
        assert_eq!(of("arn:aws:iam::1:policy/p"), ("iam_user".into(), 0, 1, String::new()));
        assert_eq!(of("{ }"), ("iam_user,federation_token".into(), 0, 0, "{}".into()));
        assert_eq!(role("arn:aws:iam::1:user/u").invalid_data, "arn:aws:iam::1:user/u");
        assert_eq!(role("{").invalid_data, "{");
    }
}
