//! `creds/:name` and `sts/:name`: which kind of credential, for how long, and for whom.

use std::time::Duration;

use super::paths::Path;
use super::role::{Kind, Role};
use super::{session, user};
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::lease::MountTerms;
use crate::engine::request::{Reply, Request};

/// What a request asks for.
pub struct Wanted<'a> {
    /// The name of our role.
    pub name: &'a str,
    /// Our role.
    pub role: Role,
    /// What the mount allows.
    pub bounds: MountTerms,
    /// What the caller gives.
    pub input: &'a Input,
}

impl Wanted<'_> {
    /// How long a session is to be, by the built-in engine's rules: what is too long is cut without a word.
    pub fn ttl(&self) -> Duration {
        let asked = self.input.span("ttl").filter(|ttl| !ttl.is_zero());
        let default = Some(self.role.default_sts_ttl).filter(|ttl| !ttl.is_zero());
        let ttl = asked.or(default).unwrap_or_else(|| self.input.span_or_preset("ttl"));
        let cap = if self.role.max_sts_ttl.is_zero() { self.bounds.max() } else { self.role.max_sts_ttl };
        ttl.min(cap)
    }
}

/// GET, POST and PUT: makes a credential for the caller.
pub async fn mint(mount: &Mount, path: Path, name: &str, input: &Input, request: &Request) -> Reply {
    // Each question is a round trip to the host: they are asked together, and what was answered is judged in turn.
    let (role, active, bounds) =
        tokio::join!(Role::load(mount, name), mount.refuse_mint_on_standby(), MountTerms::ask(mount));
    // First: a standby may not know of the role yet.
    active?;
    let role = role?.ok_or_else(|| Error::Refused(format!("Role {name:?} not found")))?;
    let kind = kind(&role, path)?;
    let wanted = Wanted { name, role, bounds: bounds?, input };
    match kind {
        Kind::IamUser => user::mint(mount, wanted, request).await,
        kind => session::mint(mount, kind, wanted, request).await,
    }
}

/// A role in today's form gives one kind. One in the oldest form may give two, and then the path says which.
fn kind(role: &Role, path: Path) -> Result<Kind, Error> {
    let named = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = match role.credential_types.as_slice() {
        [one] => named(one),
        [] => None,
        _ if path == Path::Creds => Some(Kind::IamUser),
        _ => Some(Kind::FederationToken),
    };
    let kind = kind.filter(|kind| role.gives(*kind)).ok_or_else(|| {
        Error::Refused(format!("requested credential type not in allowed credential types {:?}", role.credential_types))
    })?;
    if role.prohibit_flexible_cred_path {
        let refused = |what: &str, path: &str| {
            Err(Error::Refused(format!(
                "attempted to retrieve {what} credentials through the {path} path; this is not allowed for legacy roles"
            )))
        };
        if kind == Kind::IamUser && path == Path::Sts {
            return refused("iam_user", "sts");
        }
        if kind != Kind::IamUser && path == Path::Creds {
            return refused("STS", "creds");
        }
    }
    Ok(kind)
}

/// What identity data a role's credentials are made of.
pub fn templates(role: &Role) -> impl Iterator<Item = &str> {
    let tags = [&role.iam_tags, &role.session_tags].into_iter().flatten().flat_map(|tags| tags.values());
    [&role.principal_name, &role.source_identity].into_iter().chain(tags).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_chooses_for_roles_of_the_oldest_form() {
        let role = |json: &str| -> Role { serde_json::from_str(json).unwrap() };
        let both = role(r#"{"credential_types":["iam_user","federation_token"],"prohibit_flexible_cred_path":true}"#);
        assert_eq!(kind(&both, Path::Creds).unwrap(), Kind::IamUser);
        assert_eq!(kind(&both, Path::Sts).unwrap(), Kind::FederationToken);
        let old = role(r#"{"credential_types":["assumed_role"],"prohibit_flexible_cred_path":true}"#);
        assert!(kind(&old, Path::Creds).unwrap_err().to_string().contains("through the creds path"));
        let new = role(r#"{"credential_types":["assumed_role"]}"#);
        assert_eq!(kind(&new, Path::Creds).unwrap(), Kind::AssumedRole);
        assert!(kind(&role("{}"), Path::Sts).is_err());
    }
}
