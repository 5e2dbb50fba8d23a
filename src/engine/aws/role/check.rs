//! What a role may be. Texts are the built-in engine's; what only we look at comes after.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Kind, Revocation, Role};
use crate::engine::access;
use crate::engine::aws::identity;
use crate::target::aws::LONGEST_ROLE_SESSION;
use crate::target::aws::arn::Arn;

const USER_PATH: &str = r"^\/([\x21-\x7F]{0,510}\/)?$";
/// The longest that a mint may wait for its key.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Of federation and session tokens.
const LONGEST_TOKEN: Duration = Duration::from_secs(129_600);

/// Everything that is wrong with a role, in one text.
pub fn check(role: &Role) -> Result<(), String> {
    let mut wrong = built_in(role);
    wrong.extend(ours(role));
    if wrong.is_empty() {
        return Ok(());
    }
    let count = if wrong.len() == 1 { "1 error".to_owned() } else { format!("{} errors", wrong.len()) };
    let lines: String = wrong.iter().map(|text| format!("\t* {text}\n")).collect();
    Err(format!("error(s) validating supplied role data: {:?}", format!("{count} occurred:\n{lines}\n")))
}

/// What a gated role has to be so that what was approved is what is given, and ends when it is to.
pub fn gate(role: &Role) -> Result<(), String> {
    if role.gate.jit_policy.is_empty() {
        return Ok(());
    }
    if role.gives(Kind::SessionToken) || role.credential_types.len() != 1 {
        return Err("jit_policy: a role of this credential_type gives what cannot be told apart, and so not be ended \
                    alone: gate one of iam_user, assumed_role or federation_token"
            .to_owned());
    }
    if role.role_arns().len() > 1 {
        return Err("jit_policy: name one of the role_arns: what is approved must be one thing".to_owned());
    }
    if role.gives_sessions() && role.revocation == Revocation::Off {
        return Err("jit_policy needs a revocation: with revocation=off a session would outlive its grant".to_owned());
    }
    if let Some(name) = role.gate.params_allowed.keys().find(|name| name.contains('.')) {
        return Err(format!("params_allowed: {name:?} cannot be the name of a parameter: no dots"));
    }
    Ok(())
}

fn built_in(role: &Role) -> Vec<String> {
    let mut wrong = Vec::new();
    if role.credential_types.is_empty() {
        wrong.push("did not supply credential_type".into());
    }
    for name in &role.credential_types {
        if !Kind::ALL.iter().any(|kind| kind.name() == name) {
            wrong.push(format!("unrecognized credential type: {name}"));
        }
    }
    let gives = |kind| role.gives(kind);
    for (field, ttl) in [("default_sts_ttl", role.default_sts_ttl), ("max_sts_ttl", role.max_sts_ttl)] {
        if !ttl.is_zero() && !role.gives_sessions() {
            wrong.push(format!(
                "{field} parameter only valid for assumed_role, federation_token, and session_token credential types"
            ));
        }
    }
    if !role.max_sts_ttl.is_zero() && role.default_sts_ttl > role.max_sts_ttl {
        wrong.push("\"default_sts_ttl\" value must be less than or equal to \"max_sts_ttl\" value".into());
    }
    if !role.user_path.is_empty() {
        if !gives(Kind::IamUser) {
            wrong.push("user_path parameter only valid for iam_user credential type".into());
        }
        if !is_path(&role.user_path) {
            wrong.push(format!("The specified value for user_path is invalid. It must match {USER_PATH:?} regexp"));
        }
    }
    if !role.permissions_boundary_arn.is_empty() {
        if !gives(Kind::IamUser) {
            wrong.push("cannot supply permissions_boundary_arn when credential_type isn't iam_user".into());
        }
        if let Err(why) = boundary(&role.permissions_boundary_arn) {
            wrong.push(format!("invalid permissions_boundary_arn parameter: {why}"));
        }
    }
    let has_policy = !role.policy_document.is_empty() || !role.policy_arns().is_empty();
    if gives(Kind::SessionToken) && (has_policy || !role.role_arns().is_empty()) {
        wrong.push("cannot supply a policy or role when using credential_type session_token".into());
    }
    let only_assumed = [
        ("role_arns", !role.role_arns().is_empty() && !gives(Kind::SessionToken)),
        ("session_tags", role.session_tags.as_ref().is_some_and(|tags| !tags.is_empty())),
        ("external_id", !role.external_id.is_empty()),
    ];
    for (field, given) in only_assumed {
        if given && !gives(Kind::AssumedRole) {
            wrong.push(format!("cannot supply {field} when credential_type isn't assumed_role"));
        }
    }
    wrong
}

fn ours(role: &Role) -> Vec<String> {
    let mut wrong = Vec::new();
    let arns = [
        ("role_arns", role.role_arns(), "role/"),
        ("policy_arns", role.policy_arns(), "policy/"),
        ("revocation_role_arns", &role.revocation_role_arns, "role/"),
    ];
    for (field, list, kind) in arns {
        for arn in list {
            if !Arn::parse(arn).is_ok_and(|arn| arn.service == "iam" && arn.resource.starts_with(kind)) {
                wrong.push(format!("invalid {field} parameter: {arn:?} is no ARN of a {}", kind.trim_end_matches('/')));
            }
        }
    }
    if !role.policy_document.is_empty() && !is_policy(&role.policy_document) {
        wrong.push("policy_document must be a JSON object with a Statement".into());
    }
    for (field, tags) in [("iam_tags", &role.iam_tags), ("session_tags", &role.session_tags)] {
        wrong.extend(tags.iter().flat_map(|tags| wrong_tags(field, tags)));
    }
    let longest = if role.gives(Kind::AssumedRole) { LONGEST_ROLE_SESSION } else { LONGEST_TOKEN };
    for (field, ttl) in [("default_sts_ttl", role.default_sts_ttl), ("max_sts_ttl", role.max_sts_ttl)] {
        if role.gives_sessions() && ttl > longest {
            wrong.push(format!("{field} is longer than the {} seconds that STS gives at most", longest.as_secs()));
        }
    }
    if role.wait_until_usable > LONGEST_WAIT {
        wrong.push(format!("wait_until_usable must be {} seconds or less", LONGEST_WAIT.as_secs()));
    }
    // As it is once parameters have their values.
    let values = role.gate.params_allowed.keys().map(|name| (name.clone(), "x".to_owned())).collect();
    for (field, template) in templates(role) {
        let filled = access::narrowed(&[template.to_owned()], &values).concat();
        if let Err(why) = identity::Template::parse(&filled) {
            wrong.push(format!("invalid {field} parameter: {why}"));
        }
    }
    if !role.source_identity.is_empty() && !role.gives(Kind::AssumedRole) {
        wrong.push("cannot supply source_identity when credential_type isn't assumed_role".into());
    }
    if role.gives(Kind::SessionToken) && !role.principal_name.is_empty() {
        wrong.push("cannot supply principal_name when credential_type is session_token, which has no name".into());
    }
    for key in &role.transitive_tag_keys {
        if !role.session_tags.as_ref().is_some_and(|tags| tags.contains_key(key)) {
            wrong.push(format!("transitive_tag_keys names {key:?}, which is none of the session_tags"));
        }
    }
    match role.revocation {
        Revocation::Off => {}
        _ if !role.gives_sessions() => {
            wrong.push(
                "revocation is of sessions: users of credential_type iam_user always end with their lease".into(),
            );
        }
        Revocation::Identity if role.source_identity.is_empty() => {
            wrong.push("revocation=identity needs source_identity: it is what the denial names".into());
        }
        Revocation::Tag if !role.gives(Kind::AssumedRole) => {
            wrong.push("revocation=tag needs credential_type assumed_role".into());
        }
        _ => {}
    }
    wrong
}

/// The fields that may hold `{{…}}`.
fn templates(role: &Role) -> Vec<(&'static str, &str)> {
    let mut all = vec![("principal_name", role.principal_name.as_str()), ("source_identity", &role.source_identity)];
    for (field, tags) in [("iam_tags", &role.iam_tags), ("session_tags", &role.session_tags)] {
        all.extend(tags.iter().flat_map(BTreeMap::values).map(|value| (field, value.as_str())));
    }
    all
}

fn wrong_tags(field: &str, tags: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    if tags.len() > 49 {
        wrong.push(format!("{field} holds {} tags: AWS takes 50, and one is needed for whose it is", tags.len()));
    }
    let mut seen = Vec::new();
    for (key, value) in tags {
        if let Err(why) = identity::tag_key(key) {
            wrong.push(format!("{field}: {why}"));
        }
        if !value.contains("{{")
            && let Err(why) = identity::tag_value(value)
        {
            wrong.push(format!("{field}: the value of {key:?} {why}"));
        }
        let lower = key.to_lowercase();
        if seen.contains(&lower) {
            wrong.push(format!("{field} holds {key:?} twice: AWS does not tell upper from lower case in keys"));
        }
        seen.push(lower);
    }
    wrong
}

fn is_path(path: &str) -> bool {
    let inner = path.strip_prefix('/').map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match inner {
        Some("") => path == "/" || path == "//",
        Some(inner) => path.ends_with('/') && inner.len() <= 510 && inner.bytes().all(|b| (0x21..=0x7f).contains(&b)),
        None => false,
    }
}

fn boundary(arn: &str) -> Result<(), String> {
    let arn = Arn::parse(arn)?;
    if arn.service != "iam" {
        return Err(format!("expected a service of iam but got {}", arn.service));
    }
    if !arn.resource.starts_with("policy/") {
        return Err(format!("expected a resource of a policy but got {}", arn.resource));
    }
    Ok(())
}

fn is_policy(document: &str) -> bool {
    let parsed: Option<Value> = serde_json::from_str(document).ok();
    parsed.is_some_and(|value| value.get("Statement").is_some_and(|list| list.is_array() || list.is_object()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(json: &str) -> Role {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn errors_are_collected_in_the_built_in_engines_words() {
        assert_eq!(
            check(&role("{}")),
            Err(r#"error(s) validating supplied role data: "1 error occurred:\n\t* did not supply credential_type\n\n""#
                .into())
        );
        let text = check(&role(
            r#"{"credential_types":["iam_user"],"max_sts_ttl":1000000000,"user_path":"x","role_arns":["a"]}"#,
        ))
        .unwrap_err();
        for part in [
            "4 errors occurred",
            "max_sts_ttl parameter only valid for assumed_role",
            "The specified value for user_path is invalid. It must match",
            "cannot supply role_arns when credential_type isn't assumed_role",
            "is no ARN of a role",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn paths_are_those_of_the_expression() {
        for good in ["/", "/a/", "/a/b/", "//"] {
            assert!(is_path(good), "{good}");
        }
        for bad in ["", "a", "/a", "a/", "/a b/"] {
            assert!(!is_path(bad), "{bad}");
        }
    }

    #[test]
    fn what_does_not_fit_the_kind_is_refused() {
        for (json, part) in [
            (r#"{"credential_types":["session_token"],"policy_document":"{\"Statement\":[]}"}"#, "a policy or role"),
            (r#"{"credential_types":["federation_token"],"external_id":"x"}"#, "cannot supply external_id"),
            (r#"{"credential_types":["iam_user"],"revocation":"session"}"#, "always end with their lease"),
            (r#"{"credential_types":["assumed_role"],"revocation":"identity"}"#, "needs source_identity"),
            (r#"{"credential_types":["assumed_role"],"source_identity":"{{identity.nothing}}"}"#, "source_identity"),
            (r#"{"credential_types":["assumed_role"],"session_tags":{"a":"1","A":"2"}}"#, "twice"),
            (r#"{"credential_types":["assumed_role"],"transitive_tag_keys":["a"]}"#, "none of the session_tags"),
            (r#"{"credential_types":["assumed_role"],"max_sts_ttl":50000000000000}"#, "43200 seconds"),
            (r#"{"credential_types":["iam_user"],"policy_document":"[]"}"#, "JSON object with a Statement"),
            (r#"{"credential_types":["iam_user"],"iam_tags":{"aws:x":"1"}}"#, "aws:"),
        ] {
            let text = check(&role(json)).unwrap_err();
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(check(&role(r#"{"credential_types":["assumed_role"],"policy_document":""}"#)), Ok(()));
    }
}
