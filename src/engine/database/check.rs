//! `check/:name`: whether a database answers, and whether the account of its connection may do what roles ask of it.
//!
//! The same is asked when a connection or a role is written. What is missing is a warning then, for an account with few
//! rights may still serve statements that an operator wrote for it. A role alone is refused that itself asks for an end which
//! the database has said it cannot give: its users could not end as it says.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::connection::{self, Config, Connection};
use super::role::Role;
use crate::engine::end::wishes::Wishes;
use crate::engine::error::Error;
use crate::engine::request::{Reply, Response};
use crate::engine::{Mount, access};
use crate::target::{Capability, EndOptions, Need, TargetError};

/// How long a write waits for the answer; then it does without.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many roles are named in a warning.
const NAMED: usize = 5;

/// What the account can do for users that end in one way and are in the same groups, and of which roles they are.
struct Asked {
    options: EndOptions,
    groups: Vec<String>,
    roles: Vec<String>,
    capabilities: Vec<Capability>,
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    // The sessions that count are those of the active node.
    mount.refuse_on_standby().await?;
    if Config::load(mount, name).await?.is_none() {
        return Err(connection::missing(name));
    }
    let mut data = vec![("connection", json!(name))];
    match look(mount, name).await {
        Ok(found) => data.extend(found),
        Err(why) => data.extend([("ok", json!(false)), ("reachable", json!(false)), ("error", json!(why))]),
    }
    Ok(Some(Response::data(data)))
}

/// What is to be told of a connection that can be reached.
async fn look(mount: &Mount, name: &str) -> Result<Vec<(&'static str, Value)>, String> {
    let connection = mount.connections.get(mount, name).await.map_err(|e| e.to_string())?;
    let (target, clock) = (connection.target.as_ref(), mount.ports.clock.as_ref());
    target.verify().await.map_err(|e| connection.driver.verify_error(&e))?;
    let begun = clock.steady();
    let version = target.version().await.map_err(|e| e.to_string())?;
    let took = clock.steady().saturating_sub(begun);
    let theirs = target.clock().await.map_err(|e| e.to_string())?;
    let ahead = theirs.map(|theirs| seconds_ahead(theirs, clock.now()));
    let asked = ask(mount, name, &connection).await.map_err(|e| e.to_string())?;
    let own = asked.iter().find(|asked| is_of(&connection.wishes, asked));
    let needs: Vec<Value> = own.iter().flat_map(|asked| &asked.capabilities).map(shown).collect();
    let mut roles = Vec::new();
    for asked in &asked {
        let missing: Vec<Value> = missing(&asked.capabilities).map(shown).collect();
        roles.extend(asked.roles.iter().map(|role| (role, missing.clone())));
    }
    roles.sort_unstable_by_key(|(role, _)| *role);
    let role = |(role, missing): (&String, Vec<Value>)| json!({ "role": role, "missing": missing });
    let ok = asked.iter().all(|asked| missing(&asked.capabilities).next().is_none());
    Ok(vec![
        ("ok", json!(ok)),
        ("reachable", json!(true)),
        ("version", json!(version)),
        ("latency_ms", json!(took.as_secs_f64() * 1000.0)),
        ("clock_skew_seconds", json!(ahead)),
        ("needs", json!(needs)),
        ("roles", roles.into_iter().map(role).collect()),
    ])
}

/// By how much a clock is ahead of ours; less than nothing if it is behind.
fn seconds_ahead(theirs: SystemTime, ours: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => whole(ahead),
        // A database tells whole seconds: up to one behind is none.
        Err(behind) => -whole(behind.duration()),
    }
}

fn is_of(wishes: &Wishes, asked: &Asked) -> bool {
    asked.groups.is_empty() && wishes.options().is_ok_and(|options| options == asked.options)
}

fn shown(capability: &Capability) -> Value {
    let fix = (!capability.granted).then_some(&capability.fix);
    json!({ "need": capability.need, "granted": capability.granted, "required": capability.required, "fix": fix })
}

fn missing(capabilities: &[Capability]) -> impl Iterator<Item = &Capability> {
    capabilities.iter().filter(|capability| capability.required && !capability.granted)
}

/// Asks the target once for each kind of users of the connection: those that say nothing, and those of its roles.
async fn ask(mount: &Mount, name: &str, connection: &Connection) -> Result<Vec<Asked>, Error> {
    let mut all: Vec<Asked> = Vec::new();
    let mut note = |wishes: &Wishes, groups: &[String], role: Option<String>| {
        let Ok(options) = wishes.options() else { return };
        let known = all.iter().position(|known| known.options == options && known.groups == groups);
        let at = known.unwrap_or_else(|| {
            all.push(Asked { options, groups: groups.to_vec(), roles: Vec::new(), capabilities: Vec::new() });
            all.len() - 1
        });
        all[at].roles.extend(role);
    };
    note(&connection.wishes, &[], None);
    for role_name in mount.roles().await? {
        if let Some(role) = Role::load(mount, &role_name).await?.filter(|role| role.db_name == name) {
            note(&role.wishes().or(&connection.wishes), &role.group_roles, Some(role_name));
        }
    }
    for asked in &mut all {
        asked.capabilities = capabilities(connection, &asked.options, &asked.groups).await?;
    }
    Ok(all)
}

async fn capabilities(
    connection: &Connection,
    options: &EndOptions,
    groups: &[String],
) -> Result<Vec<Capability>, Error> {
    let failed = |e: TargetError| Error::Failed(e.to_string());
    let mut all = connection.target.check(options).await.map_err(failed)?;
    if !groups.is_empty() {
        all.extend(connection.target.groups(groups).await.map_err(failed)?);
    }
    Ok(all)
}

/// What a connection that has just been written lacks, one line for each grant.
pub async fn warnings(mount: &Mount, name: &str, connection: &Connection) -> Vec<String> {
    let asked = match tokio::time::timeout(PATIENCE, ask(mount, name, connection)).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(e)) => return vec![format!("what the account of the connection may do could not be asked: {e}")],
        Err(_elapsed) => return vec!["what the account of the connection may do was not answered in time".to_owned()],
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    for asked in &asked {
        for Capability { need, fix, .. } in missing(&asked.capabilities) {
            let at = lines.iter().position(|line| line.fix == fix).unwrap_or_else(|| {
                lines.push(Line { fix, needs: Vec::new(), roles: Vec::new() });
                lines.len() - 1
            });
            let line = &mut lines[at];
            line.needs.extend((!line.needs.contains(need)).then_some(*need));
            let roles = asked.roles.iter().map(String::as_str);
            line.roles.extend(roles.filter(|role| !line.roles.contains(role)).collect::<Vec<_>>());
        }
    }
    lines.iter().map(|line| line.text(name)).collect()
}

/// One grant that is missing.
struct Line<'a> {
    fix: &'a str,
    needs: Vec<Need>,
    roles: Vec<&'a str>,
}

impl Line<'_> {
    fn text(&self, name: &str) -> String {
        let needs: Vec<String> = self.needs.iter().map(ToString::to_string).collect();
        let more = self.roles.len().saturating_sub(NAMED);
        let whose = match self.roles.get(..self.roles.len().min(NAMED)) {
            None | Some([]) => "users that are minted here".to_owned(),
            Some(named) if more == 0 => format!("users of {}", named.join(", ")),
            Some(named) => format!("users of {} and {more} more", named.join(", ")),
        };
        let needs = needs.join(", ");
        format!("the account of connection {name:?} cannot {needs}, and {whose} need that: {}", self.fix)
    }
}

/// Judges a role that is to be written; gives back warnings. One that says nothing of how its users end, and names no
/// groups, asks nobody.
///
/// # Errors
/// [`Error::Refused`] if it asks for what its database has said it cannot give, with what would grant it.
pub async fn judge(mount: &Mount, name: &str, role: &Role) -> Result<Vec<String>, Error> {
    let wishes = role.wishes();
    let strict = access::asks_for_verified_end(mount, &role.gate).await?;
    if strict && !wishes.is_verified() {
        let policy = &role.gate.jit_policy;
        return Err(Error::Refused(format!(
            "role {name:?} names the policy {policy:?}, which says verified_end: say verify=required, and nothing but \
             sessions=terminate"
        )));
    }
    if wishes.is_silent() && role.group_roles.is_empty() {
        return Ok(Vec::new());
    }
    let db_name = &role.db_name;
    let asking = async {
        let connection = mount.connections.get(mount, db_name).await?;
        let options = wishes.or(&connection.wishes).options().map_err(Error::Refused)?;
        if !role.group_roles.is_empty() {
            role.judge_groups(connection.driver.has_groups())?;
        }
        capabilities(&connection, &options, &role.group_roles).await
    };
    let capabilities = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(capabilities)) => capabilities,
        Ok(Err(e @ Error::Refused(_))) => return Err(e),
        Ok(Err(e)) if strict => return Err(Error::Refused(untold(db_name, &e.to_string()))),
        Err(_elapsed) if strict => return Err(Error::Refused(untold(db_name, "no answer in time"))),
        Ok(Err(e)) => return Ok(vec![untold(db_name, &e.to_string())]),
        Err(_elapsed) => return Ok(vec![untold(db_name, "no answer in time")]),
    };
    let mut warnings = Vec::new();
    for capability in missing(&capabilities) {
        if capability.need == Need::GrantGroups {
            return Err(Error::Refused(format!(
                "role {name:?} says group_roles, but the account of connection {db_name:?} cannot {}: {}",
                capability.need, capability.fix
            )));
        }
        match wishes.asking_for(capability.need) {
            Some(wish) => {
                return Err(Error::Refused(format!(
                    "role {name:?} says {wish}, but the account of connection {db_name:?} cannot {}: {}",
                    capability.need, capability.fix
                )));
            }
            None => {
                let line = Line { fix: &capability.fix, needs: vec![capability.need], roles: vec![name] };
                warnings.push(line.text(db_name));
            }
        }
    }
    Ok(warnings)
}

fn untold(db_name: &str, why: &str) -> String {
    format!("whether connection {db_name:?} can give what the role asks for could not be asked: {why}")
}
