//! What a write says of a static role, laid over what is stored.

use std::time::{Duration, SystemTime};

use super::stored::{Mode, StaticRole};
use crate::engine::database::credential::CredentialType;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::schedule;

/// The built-in engine's.
const SHORTEST_PERIOD: Duration = Duration::from_secs(5);
/// Vault's.
const SHORTEST_WINDOW: Duration = Duration::from_secs(3600);

/// Lays what the request gives over the role. The order of the checks is the built-in engine's.
pub fn lay_over(role: &mut StaticRole, input: &Input, creating: bool, now: SystemTime) -> Result<(), Error> {
    let refused = |text: &str| Err(Error::Refused(text.to_owned()));
    if let Some(db_name) = input.text("db_name") {
        if db_name != role.db_name {
            // Another server's account has no previous password.
            role.static_account.discarded();
        }
        db_name.clone_into(&mut role.db_name);
    }
    if role.db_name.is_empty() {
        return refused("database name is a required field");
    }
    let account = &mut role.static_account;
    match input.text("username").filter(|username| !username.is_empty()) {
        None if creating => return refused("username is a required field to create a static account"),
        None => {}
        Some(username) if !creating && username != account.username => {
            return refused("cannot update static account username");
        }
        Some(username) => username.clone_into(&mut account.username),
    }

    let expression = input.text("rotation_schedule").filter(|text| !text.is_empty());
    match (input.span("rotation_period"), expression) {
        (Some(_), Some(_)) => {
            return refused(
                "mutually exclusive fields rotation_period and rotation_schedule were both specified; only one of them \
                 can be provided",
            );
        }
        (None, None) if creating => return refused("rotation_period is required to create static accounts"),
        (None, None) => {}
        (Some(period), None) if period < SHORTEST_PERIOD => {
            return refused("rotation_period must be 5 seconds or more");
        }
        (Some(period), None) => {
            account.rotation_period = period;
            account.rotation_schedule.clear();
            account.rotation_timezone.clear();
            account.rotation_window = Duration::ZERO;
        }
        (None, Some(text)) => {
            schedule::cron(text).map_err(|e| Error::Refused(format!("could not parse rotation_schedule: {e}")))?;
            text.clone_into(&mut account.rotation_schedule);
            account.rotation_period = Duration::ZERO;
        }
    }
    if let Some(window) = input.span("rotation_window").filter(|window| !window.is_zero()) {
        if account.rotation_schedule.is_empty() {
            return refused("rotation_window is invalid with use of rotation_period");
        }
        if window < SHORTEST_WINDOW {
            return refused("rotation_window is invalid: rotation_window must be 3600 seconds or more");
        }
    }
    if let Some(window) = input.span("rotation_window") {
        account.rotation_window = window;
    }
    if let Some(zone) = input.text("rotation_timezone") {
        if account.rotation_schedule.is_empty() && !zone.is_empty() {
            return refused("rotation_timezone is invalid with use of rotation_period");
        }
        schedule::zone(zone).map_err(|e| Error::Refused(format!("invalid rotation_timezone: {e}")))?;
        zone.clone_into(&mut account.rotation_timezone);
    }
    let timed = ["rotation_period", "rotation_schedule", "rotation_timezone"];
    if creating || timed.iter().any(|field| input.has(field)) {
        account.reschedule(now);
    }

    if let Some(statements) = input.list("rotation_statements") {
        role.statements.rotation = statements.to_vec();
    }
    let kind = input.text("credential_type");
    if let Some(kind) = kind {
        role.credential_type =
            CredentialType::named(kind).ok_or_else(|| Error::Refused(format!("invalid credential_type {kind:?}")))?;
    }
    let config = input.pairs("credential_config");
    if config.is_some() || kind.is_some() || creating {
        role.credential_config = role
            .credential_type
            .validate(&config.cloned().unwrap_or_default(), now)
            .map_err(|e| Error::Refused(format!("credential_config validation failed: {e}")))?;
    }
    lay_over_mode(role, input, creating, now)
}

/// How the password changes, and what becomes of the one before.
fn lay_over_mode(role: &mut StaticRole, input: &Input, creating: bool, now: SystemTime) -> Result<(), Error> {
    let refused = |text: &str| Err(Error::Refused(text.to_owned()));
    let account = &mut role.static_account;
    if let Some(text) = input.text("rotation_mode") {
        let mode = Mode::named(text).ok_or_else(|| {
            Error::Refused(format!("invalid rotation_mode {text:?}: it is single, dual_account or dual_password"))
        })?;
        if !creating && account.rotation_mode == Mode::DualAccount && mode != Mode::DualAccount {
            return refused("a role with rotation_mode=dual_account keeps it: delete the role, and write it anew");
        }
        account.rotation_mode = mode;
    }
    let mode = account.rotation_mode;
    if let Some(second) = input.text("secondary_username").filter(|second| !second.is_empty()) {
        if mode != Mode::DualAccount {
            return refused("secondary_username is invalid without rotation_mode=dual_account");
        }
        if !account.secondary_username.is_empty() && account.secondary_username != second {
            return refused("cannot update static account secondary_username");
        }
        if second == account.username {
            return refused("secondary_username must be another user than username");
        }
        second.clone_into(&mut account.secondary_username);
    }
    if mode == Mode::DualAccount && account.secondary_username.is_empty() {
        return refused("secondary_username is required with rotation_mode=dual_account");
    }
    if mode == Mode::Single {
        if input.span("grace_period").is_some_and(|grace| !grace.is_zero()) {
            return refused("grace_period is invalid with rotation_mode=single");
        }
        account.grace_period = Duration::ZERO;
        return Ok(());
    }
    if let Some(grace) = input.span("grace_period") {
        account.grace_period = grace;
        let end = now.checked_add(grace);
        account.previous_valid_until =
            account.previous_valid_until.map(|until| end.map_or(until, |end| end.min(until)));
    }
    if account.grace_period.is_zero() {
        return Err(Error::Refused(format!("grace_period is required with rotation_mode={}", mode.name())));
    }
    if account.rotation_schedule.is_empty() && account.grace_period > account.rotation_period {
        return refused("grace_period must not be longer than rotation_period");
    }
    if mode == Mode::DualPassword && !role.statements.rotation.is_empty() {
        return refused("rotation_statements are invalid with rotation_mode=dual_password");
    }
    Ok(())
}
