//! IAM users: noted before they are made, tagged as they are made, and gone when their lease is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::creds::{Wanted, templates};
use super::identity::{self, Facts};
use super::name::{self, Named};
use super::status::ACCOUNT;
use super::{SECRET_KIND, cloud, config, counted, refused};
use crate::engine::end::Report;
use crate::engine::end::wishes::Wishes;
use crate::engine::error::Error;
use crate::engine::intent::{self, Intent, unix_seconds};
use crate::engine::issue::{self, Permit};
use crate::engine::lease::Terms;
use crate::engine::meter::Work;
use crate::engine::request::{Datum, Fields, LeaseGrant, Reply, Request, Response};
use crate::engine::{Mount, SECRET_TYPE};
use crate::secret::password;
use crate::target::aws::{AccessKey, Cause, Cloud, Step, User, UserEnd, UserPlan};

/// The tag by which a user is known to be ours; its value is the note's id.
const MARK: &str = "leasehold";
/// Where the notes of users are. They hold no secret.
pub const PREFIX: &str = "user/";
/// How many uses in a row make a key usable, and how long between two.
const PROOFS: u32 = 3;
const BETWEEN_PROOFS: Duration = Duration::from_millis(500);

/// Makes a user with a key.
pub async fn mint(mount: &Mount, mut wanted: Wanted<'_>, request: &Request) -> Reply {
    let (lease, lease_max) = config::lease(mount).await?;
    let now = mount.ports.clock.now();
    let terms = Terms::bounded(lease, lease_max, wanted.bounds);
    super::role::gate(&wanted.role)?;
    let permit = issue::authorize(mount, wanted.name, &wanted.role.gate, request, terms.at_issue(now)).await?;
    if let Some(params) = permit.params() {
        wanted.role = wanted.role.narrowed(params);
    }
    let id = password::base62(24).map_err(|e| Error::Failed(e.to_string()))?;
    let key = format!("{PREFIX}{id}");
    let plan = plan(mount, &wanted, &permit, &key).await?;
    let cloud = cloud(mount).await?;
    let note = note(mount, &wanted, &permit, &plan);
    let planned = internal(&note, &wanted, &key)?;
    let make = counted(mount, Work::Mint, make(mount, cloud.as_ref(), note, &plan, (&key, planned.clone())));
    let (internal, access) = issue::recorded(mount, &permit, &plan.name, planned, make, |_, _| ()).await?;
    let mut warnings = Vec::new();
    if !wanted.role.wait_until_usable.is_zero() && !usable(cloud.as_ref(), &access, wanted.role.wait_until_usable).await
    {
        warnings.push("the key is not usable everywhere yet: AWS needs some more seconds".to_owned());
    }
    let mut data = vec![
        ("access_key".to_owned(), Datum::Plain(json!(access.id))),
        ("secret_key".to_owned(), Datum::Secret(access.secret)),
        ("security_token".to_owned(), Datum::Plain(Value::Null)),
        ("session_token".to_owned(), Datum::Plain(Value::Null)),
    ];
    data.extend(permit.answer(mount).await);
    let (ttl, max_ttl) = permit.lease(mount, lease, lease_max);
    Ok(Some(Response {
        data: Some(data),
        lease: Some(LeaseGrant { ttl, max_ttl, renewable: true, internal }),
        warnings,
        ..Response::default()
    }))
}

async fn plan(mount: &Mount, wanted: &Wanted<'_>, permit: &Permit, key: &str) -> Result<UserPlan, Error> {
    let role = &wanted.role;
    let facts = Facts::gather(mount, wanted.name, permit, templates(role)).await?;
    let name = if role.principal_name.is_empty() {
        let template = config::Root::load(mount).await?.unwrap_or_default().username_template;
        name::by_template(mount, &template, permit.display_name(), wanted.name, Named::User)?
    } else {
        name::of_principal(&facts.fill("principal_name", &role.principal_name)?, Named::User)?
    };
    let mut tags = BTreeMap::new();
    for (key, value) in role.iam_tags.iter().flatten() {
        let value = facts.fill("iam_tags", value)?;
        identity::tag_value(&value).map_err(|why| Error::Refused(format!("iam_tags: the value of {key:?} {why}")))?;
        tags.insert(key.clone(), value);
    }
    let document = Some(role.policy_document.clone()).filter(|document| !document.is_empty());
    Ok(UserPlan {
        name,
        path: role.user_path.clone(),
        boundary: role.permissions_boundary_arn.clone(),
        tags,
        mark: (MARK.to_owned(), mark(key).to_owned()),
        policies: role.policy_arns().to_vec(),
        inline: document.map(|document| (wanted.name.to_owned(), document)),
        groups: role.iam_groups().to_vec(),
    })
}

/// What the tag of a user with this note says.
fn mark(key: &str) -> &str {
    key.strip_prefix(PREFIX).unwrap_or(key)
}

/// What is written down of a user before it is made.
fn note(mount: &Mount, wanted: &Wanted<'_>, permit: &Permit, plan: &UserPlan) -> Intent {
    Intent {
        username: plan.name.clone(),
        role: wanted.name.to_owned(),
        db_name: ACCOUNT.to_owned(),
        revocation: Vec::new(),
        request: permit.request_id().to_owned(),
        entity: permit.entity_id().to_owned(),
        begun: unix_seconds(mount.ports.clock.now()),
        expires: unix_seconds(permit.until()),
        made: false,
        wishes: Wishes::default(),
        incarnation: mount.incarnation.clone(),
    }
}

/// Writes the note, makes the user, and gives back what the host is to keep with its key. A user that is not made to its
/// end is removed at once, or by its note.
async fn make(
    mount: &Mount,
    cloud: &dyn Cloud,
    mut note: Intent,
    plan: &UserPlan,
    (key, internal): (&str, Fields),
) -> Result<(Fields, AccessKey), Error> {
    let (storage, queue) = (mount.ports.storage.as_ref(), &mount.rotation.queue);
    // Who finds the note leaves it alone for as long as we are at it.
    let _lock = mount.rotation.locks.hold(key).await;
    note.store(storage, key).await?;
    let access = match cloud.create_user(plan).await {
        Ok(access) => access,
        Err(unmade) => {
            // Of a user that may not even be ours only its mark tells, and the note's time to look at it comes.
            let certain = unmade.step != Step::Create && unmade.failure.cause != Cause::Unreachable;
            let removed = unmade.remains && certain && matches!(cloud.end_user(&plan.name).await, Ok(UserEnd::Gone));
            if removed || !unmade.remains {
                intent::forget(mount, key).await;
            } else {
                queue.plan(key, key, note.due());
            }
            return Err(refused(step(unmade.step), &unmade.failure));
        }
    };
    note.is_made(mount.ports.clock.now());
    if let Err(e) = note.store(storage, key).await {
        queue.plan(key, key, note.due());
        match cloud.end_user(&plan.name).await {
            Ok(_) => intent::forget(mount, key).await,
            Err(why) => tracing::error!(username = plan.name, "a user without a note could not be ended: {why}"),
        }
        return Err(e);
    }
    queue.plan(key, key, note.due());
    Ok((internal, access))
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Create => "Error creating IAM user",
        Step::Attach => "Error attaching user policy",
        Step::Put => "Error putting user policy",
        Step::Join => "Error adding user to group",
        Step::Key => "Error creating access keys",
    }
}

/// The internal data of a lease: the built-in engine's, and where its note is.
fn internal(note: &Intent, wanted: &Wanted<'_>, key: &str) -> Result<Fields, Error> {
    let fields = [
        ("username", json!(note.username)),
        ("policy", wanted.role.encode()?),
        ("is_sts", json!(false)),
        (intent::LEASE_FIELD, json!(key)),
        (SECRET_TYPE, json!(SECRET_KIND)),
    ];
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value));
    Ok(fields.chain(super::gated(wanted, ACCOUNT)).collect())
}

/// Waits until a new key works several times in a row. AWS tells its servers one after the other.
async fn usable(cloud: &dyn Cloud, key: &AccessKey, limit: Duration) -> bool {
    let (begun, with_key, mut proofs) = (Instant::now(), cloud.with_key(key), 0);
    while proofs < PROOFS {
        if begun.elapsed() >= limit {
            return false;
        }
        let left = limit.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left, with_key.whoami()).await {
            Ok(Ok(_)) => proofs += 1,
            Ok(Err(failure)) if failure.cause == Cause::Unreachable => return false,
            Ok(Err(_)) => {
                proofs = 0;
                tokio::time::sleep(BETWEEN_PROOFS).await;
            }
            Err(_) => return false,
        }
    }
    true
}

/// Ends a user at the end of its lease. `may_be_young` if it is not known to be old enough for everybody to see it: that
/// nothing is to be seen then proves nothing.
///
/// # Errors
/// [`Error::Failed`], a class that the host retries.
pub async fn end(mount: &Mount, username: &str, may_be_young: bool) -> Result<Report, Error> {
    super::may_end(mount, "user", username)?;
    let begun = Instant::now();
    let ending = async {
        let ended = cloud(mount).await?.end_user(username).await;
        ended.map_err(|e| Error::Failed(format!("the user {username:?} could not be removed: {e}")))
    };
    let ended = counted(mount, Work::End, ending).await?;
    match ended {
        UserEnd::Gone => {}
        UserEnd::Missing if may_be_young => {
            return Err(Error::Failed(format!(
                "there is no user {username:?} to be seen, but it may be too young for that: this is tried again"
            )));
        }
        UserEnd::Missing => tracing::info!(username, "the user was gone already"),
    }
    tracing::info!(username, "ended");
    Ok(Report::whole(ended == UserEnd::Gone, begun.elapsed(), false))
}

/// The users that have a note.
pub async fn scheduled(mount: &Mount) -> Result<Vec<(String, String, SystemTime)>, Error> {
    let storage = mount.ports.storage.as_ref();
    let mut found = Vec::new();
    for id in storage.list(PREFIX, "", -1).await? {
        let key = format!("{PREFIX}{id}");
        match Intent::load(storage, &key).await {
            Ok(Some(note)) => found.push((key.clone(), key, note.due())),
            Ok(None) => {}
            Err(e) => tracing::error!("{e}"),
        }
    }
    Ok(found)
}

/// Asked by the queue: ends a user whose time is over by its note, and one that was not made to its end.
pub async fn when_due(mount: &Mount, key: &str) -> Result<(), Error> {
    let (queue, now) = (&mount.rotation.queue, mount.ports.clock.now());
    // Held by the mint itself, which plans what is to come.
    let Some(_lock) = mount.rotation.locks.try_hold(key) else {
        queue.postpone(key, now + intent::UNFINISHED);
        return Ok(());
    };
    let Some(note) = Intent::load(mount.ports.storage.as_ref(), key).await? else {
        queue.forget(key);
        return Ok(());
    };
    if note.due() > now && !queue.has_failed(key) {
        queue.plan(key, key, note.due());
        return Ok(());
    }
    match end_noted(mount, &note, key).await {
        Ok(()) => {
            intent::forget(mount, key).await;
            Ok(())
        }
        Err(e) => {
            queue.failed(key, key, now, &e.to_string());
            Err(e)
        }
    }
}

/// A mint that did not come to its end may have met a user of that name that is somebody else's: only the mark tells.
async fn end_noted(mount: &Mount, note: &Intent, key: &str) -> Result<(), Error> {
    if !note.made {
        let found = cloud(mount).await?.user(&note.username).await;
        let found =
            found.map_err(|e| Error::Failed(format!("the user {:?} cannot be looked at: {e}", note.username)))?;
        let ours = |user: User| user.tags.get(MARK).is_some_and(|value| value == mark(key));
        if !found.is_some_and(ours) {
            return Ok(());
        }
    }
    let what = if note.made { "outlived its lease" } else { "was left by a mint that did not come to its end" };
    tracing::warn!(username = note.username, role = note.role, request = note.request, "ending a user that {what}");
    end(mount, &note.username, false).await.map(drop)
}
