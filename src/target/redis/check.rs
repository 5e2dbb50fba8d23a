//! What the account of the connection can do.

use super::settings::Persistence;
use super::{Core, TargetError};
use crate::target::pool::Lane;
use crate::target::{Capability, EndOptions, Need, Owned, Sessions, Verify};

/// Asks for the account's own rules; nothing is tried.
pub async fn check(core: &Core, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
    let account = if core.settings.username.is_empty() { "default" } else { &core.settings.username };
    let mut session = core.session(Lane::Issue).await?;
    let commands = match session.commands_of(account).await {
        Ok(commands) => commands,
        // Then it cannot look at others either, and that is all that can be said.
        Err(TargetError::Answer { code, .. }) if code == "NOPERM" => "-@all".to_owned(),
        Err(e) => return Err(e),
    };
    session.give_back();
    Ok(capabilities(&commands, account, core.settings.persistence, options))
}

fn capabilities(commands: &str, account: &str, persistence: Persistence, options: &EndOptions) -> Vec<Capability> {
    let capability = |need, granted, required, fix| Capability { need, granted, required, fix };
    let command = |need, names: &[&str], required| {
        let granted = names.iter().all(|name| allows(commands, name));
        let rules: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
        capability(need, granted, required, format!("ACL SETUSER {account} {}", rules.join(" ")))
    };
    let ends = options.verify == Verify::Required;
    let mut all = vec![
        command(Need::CreateUsers, &["acl|setuser"], true),
        command(Need::SeeUsers, &["acl|getuser"], true),
        command(Need::EndUsers, &["acl|setuser", "acl|deluser"], true),
        command(Need::EndSessions, &["client|kill"], ends && options.sessions != Sessions::Keep),
    ];
    if options.sessions != Sessions::Terminate {
        all.push(command(Need::SeeSessions, &["client|list"], true));
    }
    match persistence {
        Persistence::None => {}
        Persistence::AclFile => all.push(command(Need::SaveUsers, &["acl|save"], true)),
        Persistence::Rewrite => all.push(command(Need::SaveUsers, &["config|rewrite"], true)),
    }
    let no_owner = || "keys have no owner: leave owned_objects out".to_owned();
    match options.owned {
        Owned::Fail => {}
        Owned::Drop => all.push(capability(Need::DropObjects, false, true, no_owner())),
        Owned::Reassign(_) => all.push(capability(Need::ReassignObjects, false, true, no_owner())),
    }
    all
}

/// Whether rules like `-@all +acl|setuser` allow `command|subcommand`: the last one that speaks of it counts. All that is
/// asked of an account here is administration.
fn allows(rules: &str, command: &str) -> bool {
    let whole = command.split('|').next().unwrap_or_default();
    let speaks = |of: &str| {
        let of = of.to_ascii_lowercase();
        of == command
            || of == whole
            || matches!(of.as_str(), "@all" | "@admin" | "@dangerous" | "@slow")
            || of == "@connection" && whole == "client"
    };
    let last = rules.split_ascii_whitespace().rev().find(|rule| rule.get(1..).is_some_and(speaks));
    last.is_some_and(|rule| rule.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        for rules in
            ["+@all", "-@all +acl|setuser", "-@all +acl", "-@all +@admin", "+@all -acl +@admin", "+@all -acl|whoami"]
        {
            assert!(allows(rules, "acl|setuser"), "{rules}");
        }
        for rules in
            ["", "-@all", "+@all -acl", "+@all -@dangerous", "-@all +acl|getuser +get", "+@read", "+@connection"]
        {
            assert!(!allows(rules, "acl|setuser"), "{rules}");
        }
        assert!(allows("-@all +@connection", "client|kill"));
    }
}
