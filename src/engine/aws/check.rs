//! `check/:name`: what the engine's own credentials can do of what a role needs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::role::{Kind, Revocation, Role};
use super::{cloud, denial, whoami};
use crate::engine::Mount;
use crate::engine::request::{Reply, Response};
use crate::target::aws::{Cause, Cloud, Failure, SHORTEST_SESSION, SessionPlan};

/// The longest session that credentials which are a session themselves can give.
const CHAINED: Duration = Duration::from_secs(3600);

/// GET.
pub async fn check(mount: &Mount, name: &str) -> Reply {
    let Some(role) = Role::load(mount, name).await? else { return Ok(None) };
    mount.refuse_on_standby().await?;
    let mut checks = Vec::new();
    let me = match whoami(mount).await {
        Ok(me) => me,
        Err(failure) => {
            let fix = "write valid credentials to config/root";
            checks.push(outcome("sts:GetCallerIdentity", "", Err(failure), fix));
            return Ok(Some(Response::data([("ok", json!(false)), ("checks", json!(checks))])));
        }
    };
    let is_session = me.arn.contains(":assumed-role/");
    let cloud = cloud(mount).await?;
    if role.gives(Kind::AssumedRole) {
        for arn in role.role_arns() {
            checks.extend(session_checks(cloud.as_ref(), &role, arn, is_session).await);
        }
    }
    for kind in [Kind::FederationToken, Kind::SessionToken] {
        if role.gives(kind) && is_session {
            checks.push(json!({
                "action": if kind == Kind::FederationToken { "sts:GetFederationToken" } else { "sts:GetSessionToken" },
                "ok": false,
                "fix": "AWS gives these to long-term keys of users only: write one to config/root",
            }));
        }
    }
    if role.revocation != Revocation::Off {
        checks.push(match denial::rights(mount, &role).await {
            Ok(on) => json!({ "action": "write denials", "on": on, "ok": true }),
            Err(why) => json!({ "action": "write denials", "ok": false, "fix": why }),
        });
    }
    let ok = checks.iter().all(|check| check["ok"] == json!(true));
    Ok(Some(Response::data([("identity", json!(me.arn)), ("ok", json!(ok)), ("checks", json!(checks))])))
}

fn outcome(action: &str, on: &str, done: Result<(), Failure>, fix: &str) -> Value {
    match done {
        Ok(()) => json!({ "action": action, "on": on, "ok": true }),
        Err(failure) => json!({ "action": action, "on": on, "ok": false, "error": failure.to_string(), "fix": fix }),
    }
}

/// A session as plain as can be, then one with each thing that the role adds: what fails first is what is missing.
async fn session_checks(cloud: &dyn Cloud, role: &Role, arn: &str, is_session: bool) -> Vec<Value> {
    let plain = SessionPlan {
        name: "leasehold-check".to_owned(),
        duration: SHORTEST_SESSION,
        role_arn: arn.to_owned(),
        external_id: role.external_id.clone(),
        // What is thrown away may do nothing.
        policy: json!({
            "Version": "2012-10-17",
            "Statement": [{ "Effect": "Deny", "Action": "*", "Resource": "*" }],
        })
        .to_string(),
        ..SessionPlan::default()
    };
    let ask = async |plan: &SessionPlan| cloud.assume_role(plan).await.map(drop);
    let fix = format!("allow the engine sts:AssumeRole on {arn}, and the engine in the role's trust policy");
    let mut checks = vec![outcome("sts:AssumeRole", arn, ask(&plain).await, &fix)];
    if checks[0]["ok"] != json!(true) {
        return checks;
    }
    if role.session_tags.as_ref().is_some_and(|tags| !tags.is_empty()) || role.revocation == Revocation::Tag {
        let tags = BTreeMap::from([("leasehold:check".to_owned(), "check".to_owned())]);
        let fix = format!("allow sts:TagSession to the engine on {arn}, and in the role's trust policy");
        checks.push(outcome("sts:TagSession", arn, ask(&SessionPlan { tags, ..plain.clone() }).await, &fix));
    }
    if !role.source_identity.is_empty() {
        let source_identity = "leasehold-check".to_owned();
        let fix = format!("allow sts:SetSourceIdentity to the engine on {arn}, and in the role's trust policy");
        let done = ask(&SessionPlan { source_identity, ..plain.clone() }).await;
        checks.push(outcome("sts:SetSourceIdentity", arn, done, &fix));
    }
    let wanted = role.max_sts_ttl.max(role.default_sts_ttl);
    if is_session && wanted > CHAINED {
        checks.push(json!({
            "action": "session length", "on": arn, "ok": false,
            "fix": "config/root is itself a session, and AWS then gives one hour at most: write a user's key to config/root, \
                    or a max_sts_ttl of 3600",
        }));
    }
    match cloud.longest_session(arn).await {
        Ok(longest) if wanted > longest => checks.push(json!({
            "action": "session length", "on": arn, "ok": false,
            "fix": format!(
                "the role's MaxSessionDuration is {} seconds: raise it, or lower max_sts_ttl", longest.as_secs()
            ),
        })),
        Ok(longest) => checks.push(json!({
            "action": "session length", "on": arn, "ok": true, "max_session_duration": longest.as_secs(),
        })),
        // To look is a right that nothing else needs.
        Err(failure) if matches!(failure.cause, Cause::Denied | Cause::Missing) => {}
        Err(failure) => checks.push(outcome("iam:GetRole", arn, Err(failure), "")),
    }
    checks
}
