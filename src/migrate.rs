//! `leasehold migrate`: from a live mount of the built-in `database` engine to one of ours, through the server's own
//! command line program, which knows the server's address, its certificates and the caller's token.
//!
//! Everything is read anew and compared before it is written, so a run that was interrupted is simply run again.

mod host;
mod item;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use host::Host;
use item::{Item, Kind};

/// Where an old mount stands aside.
const ASIDE: &str = "-before-leasehold";

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// The built-in mount.
    pub from: String,
    /// Ours.
    pub to: String,
    /// A file with what the server does not return: `{"config/orders": {"password": "…"}}`.
    pub secrets: Option<PathBuf>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Move the old mount aside, and ours to its path.
    pub switch: bool,
    /// Switch although leases of the old mount are alive, which ends them.
    pub end_leases: bool,
    /// Undo a switch.
    pub back: bool,
    /// The server's command line program.
    pub program: PathBuf,
}

/// Carries the plan out, a line for each step.
///
/// # Errors
/// What stopped it, and what to do. Whatever was done before stays done, and is not done again by the next run.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<(), String> {
    let host = Host::new(&plan.program);
    let (from, to) = (mount_path(&plan.from)?, mount_path(&plan.to)?);
    if from == to {
        return Err("--from and --to are the same mount".into());
    }
    if plan.back {
        return back(&host, plan, &from, &to, &mut say);
    }
    for (mount, flag) in [(&from, "--from"), (&to, "--to")] {
        let kind = host.mount_type(mount)?;
        let kind = kind.ok_or_else(|| format!("nothing is mounted at {mount}/: {flag} names a mount"))?;
        if (kind == "database") == (flag == "--to") {
            return Err(format!("{mount}/ is of type {kind:?}: --from is the built-in engine, --to is Leasehold"));
        }
    }
    let secrets = read_secrets(plan)?;
    let mut failures = 0;
    for kind in [Kind::Connection, Kind::Role, Kind::StaticRole] {
        for name in host.list(&format!("{from}/{}", kind.list()))? {
            let item = Item { kind, name };
            match copy(&host, plan, &from, &to, &item, &secrets) {
                Ok(told) => say(&format!("{}: {told}", item.path())),
                Err(why) => {
                    failures += 1;
                    say(&format!("{}: NOT DONE: {why}", item.path()));
                }
            }
        }
        if failures > 0 {
            // What comes next needs what was not done.
            break;
        }
    }
    if failures > 0 {
        return Err(format!("{failures} not done; mend that, and run this again: what is done is not done again"));
    }
    if plan.switch { switch(&host, plan, &from, &to, &mut say) } else { Ok(()) }
}

/// A path of a mount without slashes around it.
fn mount_path(given: &str) -> Result<String, String> {
    let path = given.trim_matches('/');
    if path.is_empty() { Err("a mount has a path, such as database/".into()) } else { Ok(path.to_owned()) }
}

fn read_secrets(plan: &Plan) -> Result<BTreeMap<String, Map<String, Value>>, String> {
    let Some(file) = &plan.secrets else { return Ok(BTreeMap::new()) };
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    // The parser's own words would show a part of the file.
    serde_json::from_str(&text)
        .map_err(|e| format!("{}, line {}: not {{\"config/name\": {{\"password\": \"…\"}}}}", file.display(), e.line()))
}

/// Writes one thing, and tries it. What came of it.
fn copy(
    host: &Host,
    plan: &Plan,
    from: &str,
    to: &str,
    item: &Item,
    secrets: &BTreeMap<String, Map<String, Value>>,
) -> Result<String, String> {
    let path = item.path();
    if item.kind == Kind::StaticRole && !plan.switch {
        // Two engines would change its password behind each other's back.
        return Ok("stays until --switch: an account has one engine that changes its password".into());
    }
    let read = host.read(&format!("{from}/{path}"))?.ok_or("it is gone")?;
    let there = host.read(&format!("{to}/{path}"))?;
    let mut wanted = item.written(&read);
    let before = there.as_ref().map(|there| item.differences(&read, there));
    if before.as_ref().is_some_and(Vec::is_empty) {
        if item.kind == Kind::Role && !plan.dry_run {
            try_role(host, to, &path)?;
        }
        return Ok("is there already".into());
    }
    if let Some(given) = secrets.get(&path) {
        wanted.extend(given.clone());
    }
    if item.needs_password(&wanted) {
        return Err(format!(
            "the server returns no password: put {{{path:?}: {{\"password\": \"…\"}}}} into a file, and name it with --secrets"
        ));
    }
    if plan.dry_run {
        return Ok("would be written".into());
    }
    if item.kind == Kind::StaticRole {
        return take_over(host, from, to, item, wanted);
    }
    host.write(&format!("{to}/{path}"), &wanted)?;
    if item.kind == Kind::Role {
        try_role(host, to, &path)?;
    }
    let now = host.read(&format!("{to}/{path}"))?.ok_or("it was written, and is not there")?;
    let differences = item.differences(&read, &now);
    Ok(match differences.is_empty() {
        true => "written and tried".into(),
        false => format!("written and tried; seen differently: {}", differences.join(", ")),
    })
}

/// Makes a user of the role, and ends it.
fn try_role(host: &Host, to: &str, path: &str) -> Result<(), String> {
    host.write(&format!("{to}/{path}/test"), &Map::new()).map_err(|e| format!("it is there, but does not work: {e}"))
}

/// One account changes its engine. The password goes with it, unchanged.
fn take_over(host: &Host, from: &str, to: &str, item: &Item, mut wanted: Map<String, Value>) -> Result<String, String> {
    let creds = format!("static-creds/{}", item.name);
    let valid = host.read(&format!("{from}/{creds}"))?.ok_or("it has no password yet")?;
    wanted.insert("password".into(), valid["password"].clone());
    wanted.insert("skip_import_rotation".into(), json!(true));
    host.write(&format!("{to}/{}", item.path()), &wanted)?;
    let taken = host.read(&format!("{to}/{creds}"))?;
    if taken.is_none_or(|taken| taken["password"] != valid["password"]) {
        return Err("it is there now, with another password: nothing was deleted".into());
    }
    host.delete(&format!("{from}/{}", item.path()))?;
    Ok("taken over with its password, and deleted from the old mount".into())
}

fn switch(host: &Host, plan: &Plan, from: &str, to: &str, say: &mut impl FnMut(&str)) -> Result<(), String> {
    let leases = host.leases(from)? + host.leases(to)?;
    if leases > 0 && !plan.end_leases {
        return Err(format!(
            "{leases} roles of these mounts have live leases, and the server ends all leases of a mount that it moves: wait \
             until they are over (shorten the roles' TTL, and let clients read from {to}/ meanwhile), or say --end-leases"
        ));
    }
    let aside = format!("{from}{ASIDE}");
    if plan.dry_run {
        say(&format!("{from}/ would become {aside}/, and {to}/ would become {from}/"));
        return Ok(());
    }
    host.relocate(from, &aside)?;
    say(&format!("{from}/ is {aside}/ now"));
    if let Err(why) = host.relocate(to, from) {
        let undone = host.relocate(&aside, from).map_or_else(|e| e, |()| "the old one is at its place again".into());
        return Err(format!("{to}/ could not be moved: {why}; {undone}"));
    }
    say(&format!("{to}/ is {from}/ now; `--back` undoes it"));
    Ok(())
}

fn back(host: &Host, plan: &Plan, from: &str, to: &str, say: &mut impl FnMut(&str)) -> Result<(), String> {
    let aside = format!("{from}{ASIDE}");
    if host.mount_type(&aside)?.as_deref() != Some("database") {
        return Err(format!("nothing to undo: there is no built-in mount at {aside}/"));
    }
    let leases = host.leases(from)?;
    if leases > 0 && !plan.end_leases {
        return Err(format!("{leases} roles of {from}/ have live leases, which moving it ends: say --end-leases"));
    }
    // The accounts first: the old engine takes each over by changing its password.
    for name in host.list(&format!("{from}/static-roles"))? {
        let item = Item { kind: Kind::StaticRole, name };
        let read = host.read(&format!("{from}/{}", item.path()))?.ok_or("it is gone")?;
        if plan.dry_run {
            say(&format!("{}: would be given back", item.path()));
            continue;
        }
        host.write(&format!("{aside}/{}", item.path()), &item.written(&read))?;
        host.delete(&format!("{from}/{}", item.path()))?;
        say(&format!("{}: given back, with a new password", item.path()));
    }
    if plan.dry_run {
        say(&format!("{from}/ would become {to}/, and {aside}/ would become {from}/"));
        return Ok(());
    }
    host.relocate(from, to)?;
    host.relocate(&aside, from)?;
    say(&format!("{from}/ is the built-in engine again, {to}/ is Leasehold"));
    Ok(())
}
