//! Gated roles on simulated ports: people and workloads, a clock of our own, and faults at every point.

mod governance;
mod model;
mod retention;

use super::rotation::{Fault, later};
use super::*;
use crate::engine::access::paths::ROUTES;
use crate::engine::access::request::{AccessRequest, DONE, OPEN, State};
use crate::engine::evidence::{self, verify};
use crate::engine::port::Alias;
use crate::engine::{access, database};

/// Somebody that the host knows.
pub(super) fn known(world: &World, id: &str, mount_type: &str, groups: &[&str]) {
    let entity = Entity {
        id: id.into(),
        name: format!("{id}-name"),
        aliases: vec![Alias {
            mount_type: mount_type.into(),
            mount_accessor: "a".into(),
            name: id.into(),
            ..Alias::default()
        }],
        ..Entity::default()
    };
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    world.entities.lock().unwrap().insert(id.into(), (entity, groups));
}

fn change(world: &World, id: &str, change: impl FnOnce(&mut Entity, &mut Vec<String>)) {
    let mut all = world.entities.lock().unwrap();
    let (entity, groups) = all.get_mut(id).unwrap();
    change(entity, groups);
}

/// A mount with the gated role `secret`, and ann, who may ask, bob and cid, who approve, and a robot.
async fn gated(policy: Value) -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    known(&world, "ann", "userpass", &["devs"]);
    known(&world, "bob", "userpass", &["leads"]);
    known(&world, "cid", "ldap", &["leads", "sec"]);
    known(&world, "robot", "approle", &["bots"]);
    let mut fields = json!({ "steps": [{ "groups": ["leads"] }], "require_reason": 3 });
    fields.as_object_mut().unwrap().extend(policy.as_object().cloned().unwrap());
    ask(&mount, Operation::Create, "policies/p", fields).await.unwrap();
    let role = json!({ "db_name": "pg", "creation_statements": "CREATE ROLE \"{{name}}\"", "jit_policy": "p" });
    ask(&mount, Operation::Create, "roles/secret", role).await.unwrap();
    (world, mount)
}

pub(super) async fn by(mount: &Mount, who: &str, operation: Operation, path: &str, data: Value) -> Reply {
    let caller = Caller { entity_id: who.into(), display_name: format!("token-{who}"), ..Caller::default() };
    mount.handle(Request { caller, ..request(operation, path, data) }).await
}

async fn read(mount: &Mount, who: &str) -> Reply {
    by(mount, who, Operation::Read, "creds/secret", json!({})).await
}

async fn file(mount: &Mount, who: &str) -> Result<String, Error> {
    let reply = by(mount, who, Operation::Create, "requests/secret", json!({ "reason": "because" })).await?;
    Ok(plain(&reply.unwrap(), "request_id").as_str().unwrap().to_owned())
}

async fn act(mount: &Mount, who: &str, id: &str, verb: &str) -> Result<String, Error> {
    let data = json!({ "reason": "so it is" });
    let reply = by(mount, who, Operation::Update, &format!("requests/secret/{id}/{verb}"), data).await?;
    Ok(plain(&reply.unwrap(), "state").as_str().unwrap().to_owned())
}

/// The status and the first word of a refusal.
#[track_caller]
fn refusal<T: std::fmt::Debug>(reply: Result<T, Error>) -> (u16, String) {
    match reply {
        Err(Error::Coded(code, text)) => (code, text.split([':', ' ']).next().unwrap_or_default().to_owned()),
        Err(Error::Refused(text)) => (400, text),
        other => panic!("not refused: {other:?}"),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(reply: Result<T, Error>, code: u16, word: &str) {
    assert_eq!(refusal(reply), (code, word.to_owned()));
}

fn live(world: &World) -> usize {
    world.users.lock().unwrap().len()
}

async fn request_of(mount: &Mount, id: &str) -> AccessRequest {
    AccessRequest::load(mount, "secret", id).await.unwrap().unwrap()
}

async fn state(mount: &Mount, id: &str) -> State {
    request_of(mount, id).await.state
}

async fn kinds(mount: &Mount) -> Vec<String> {
    let events = evidence::read(mount, 1, 10_000).await.unwrap();
    events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// The record as it is in storage, against itself and what it says now.
async fn record_is_sound(mount: &Mount) {
    let events = evidence::read(mount, 1, 10_000).await.unwrap();
    let text: String = events.iter().map(|event| format!("{event}\n")).collect();
    let checkpoint = evidence::checkpoint::take(mount).await.unwrap();
    let sound = verify::file(&text, vec![checkpoint], None).unwrap();
    assert_eq!((sound.last as usize, sound.checkpoints), (events.len(), 1));
    let decisions = sound.decisions;
    assert!(decisions.otherwise.is_empty() && decisions.unrepeatable == 0, "{decisions:?}");
}

#[tokio::test]
async fn access_goes_from_request_to_completion() {
    let (world, mount) = gated(json!({})).await;
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    let id = file(&mount, "ann").await.unwrap();
    assert_eq!(file(&mount, "ann").await.unwrap(), id, "asking again is the same request");
    refused(read(&mount, "ann").await, 403, "jit_pending");
    assert_eq!(act(&mount, "bob", &id, "approve").await.unwrap(), "approved");
    refused(act(&mount, "cid", &id, "approve").await, 409, "jit_state");

    let response = read(&mount, "ann").await.unwrap().unwrap();
    assert_eq!(plain(&response, "request_id"), json!(id));
    let username = plain(&response, "username").as_str().unwrap().to_owned();
    assert!(username.contains(&id[id.len() - 8..]), "{username} of {id}");
    assert_eq!(live(&world), 1);
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    refused(act(&mount, "bob", &id, "complete").await, 403, "jit_policy");
    assert_eq!(act(&mount, "ann", &id, "complete").await.unwrap(), "closed");
    assert_eq!(live(&world), 0);
    // The lease is still there; its end finds nothing to do.
    let lease = LeaseRef { internal: response.lease.unwrap().internal, ..LeaseRef::default() };
    let revoke = Request { lease: Some(lease), ..request(Operation::Revoke, "creds/secret", json!({})) };
    mount.handle(revoke).await.unwrap();
    let wanted = [
        "policy.written",
        "request.filed",
        "vote.approve",
        "decision.approved",
        "issue.intent",
        "issue.done",
        "end.requested",
        "execution.summary",
        "revoke.verified",
    ];
    assert_eq!(kinds(&mount).await, wanted);
    record_is_sound(&mount).await;
    let entries = world.entries.lock().unwrap();
    assert!(entries.keys().any(|key| key.starts_with(DONE)) && !entries.keys().any(|key| key.starts_with(OPEN)));
}

/// R5: the same token and the same path, before, within and after.
#[tokio::test]
async fn a_grant_ends_with_its_time() {
    let (world, mount) = gated(json!({ "uses": 0, "grant_ttl": 600 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    let response = read(&mount, "ann").await.unwrap().unwrap();
    let lease = response.lease.unwrap();
    assert_eq!(
        (lease.ttl, lease.max_ttl),
        (Duration::from_secs(600), Duration::from_secs(600)),
        "never past the grant"
    );
    later(&world, 400);
    world.writes.store(0, Ordering::SeqCst);
    read(&mount, "ann").await.unwrap();
    assert_eq!(world.writes.load(Ordering::SeqCst), 3, "intent, use, done");
    let lease = |increment| LeaseRef {
        internal: lease.internal.clone(),
        increment: Duration::from_secs(increment),
        ..LeaseRef::default()
    };
    let renew =
        |seconds| Request { lease: Some(lease(seconds)), ..request(Operation::Renew, "creds/secret", json!({})) };
    let renewed = mount.handle(renew(5000)).await.unwrap().unwrap();
    assert_eq!(renewed.lease.unwrap().ttl, Duration::from_secs(200), "renewed to the end of the grant");
    later(&world, 200);
    access::tick(&mount).await;
    assert_eq!((live(&world), state(&mount, &id).await), (0, State::Closed));
    refused(mount.handle(renew(10)).await, 403, "jit_policy");
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    record_is_sound(&mount).await;
}

#[tokio::test]
async fn nobody_approves_for_himself() {
    let (world, mount) = gated(json!({ "eligible_classes": "human,service" })).await;
    // Bob asks: he is a lead, and so are two further entities of his.
    known(&world, "bob2", "oidc", &["leads"]);
    change(&world, "bob2", |entity, _| entity.aliases[0].name = "BOB".into());
    known(&world, "bob3", "oidc", &["leads"]);
    for id in ["bob", "bob3"] {
        change(&world, id, |entity, _| drop(entity.metadata.insert("employee_id".into(), "7".into())));
    }
    let id = file(&mount, "bob").await.unwrap();
    for voter in ["bob", "bob2", "bob3"] {
        refused(act(&mount, voter, &id, "approve").await, 403, "jit_policy");
    }
    // Who is in no group sees nothing; who has no entity is nobody; a machine is no person.
    refused(act(&mount, "ann", &id, "approve").await, 404, "there");
    refused(act(&mount, "", &id, "approve").await, 403, "jit_identity");
    change(&world, "robot", |_, groups| groups.push("leads".into()));
    refused(act(&mount, "robot", &id, "approve").await, 404, "there");
    assert_eq!(state(&mount, &id).await, State::Pending);
    assert_eq!(act(&mount, "cid", &id, "approve").await.unwrap(), "approved");
    let inbox = by(&mount, "cid", Operation::Read, "inbox", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&inbox, "requests"), json!([]));
}

#[tokio::test]
async fn votes_are_those_of_today() {
    let steps = json!([{ "groups": ["leads"] }, { "groups": ["sec"] }]);
    let (world, mount) = gated(json!({ "steps": steps, "tier": "critical", "uses": 3 })).await;
    let id = file(&mount, "ann").await.unwrap();
    assert_eq!(act(&mount, "cid", &id, "approve").await.unwrap(), "pending");
    refused(act(&mount, "cid", &id, "approve").await, 403, "jit_policy");
    refused(read(&mount, "ann").await, 403, "jit_pending");
    // Cid loses the group before bob votes, and gets it back: his vote counts for either.
    assert_eq!(act(&mount, "bob", &id, "approve").await.unwrap(), "approved");
    read(&mount, "ann").await.unwrap();
    change(&world, "cid", |_, groups| groups.retain(|group| group != "sec"));
    refused(read(&mount, "ann").await, 403, "jit_policy");
    change(&world, "cid", |_, groups| groups.push("sec".into()));
    read(&mount, "ann").await.unwrap();
    change(&world, "cid", |entity, _| entity.disabled = true);
    refused(read(&mount, "ann").await, 403, "jit_policy");
    assert_eq!(live(&world), 2, "what was issued before lives on");
}

#[tokio::test]
async fn a_request_that_is_left_alone_lapses() {
    let (world, mount) = gated(json!({ "pending_ttl": 100, "activate_within": 50 })).await;
    let id = file(&mount, "ann").await.unwrap();
    later(&world, 100);
    refused(act(&mount, "bob", &id, "approve").await, 409, "jit_state");
    assert_eq!(state(&mount, &id).await, State::Lapsed, "judged without any tick");
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    later(&world, 50);
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    access::tick(&mount).await;
    assert_eq!(state(&mount, &id).await, State::Unused);
    let id = file(&mount, "ann").await.unwrap();
    assert_eq!(act(&mount, "bob", &id, "deny").await.unwrap(), "denied");
    let id = file(&mount, "ann").await.unwrap();
    assert_eq!(act(&mount, "ann", &id, "cancel").await.unwrap(), "cancelled");
    refused(act(&mount, "bob", &id, "approve").await, 409, "jit_state");
    record_is_sound(&mount).await;
}

/// R8, R9: what is approved is the request with its parameters.
#[tokio::test]
async fn parameters_are_part_of_what_is_approved() {
    let (world, mount) = gated(json!({})).await;
    let role = json!({ "creation_statements": "CREATE ROLE \"{{name}}\"; GRANT USAGE ON SCHEMA {{schema}} TO \"{{name}}\"",
                       "params_allowed": { "schema": "[a-z]+" } });
    ask(&mount, Operation::Update, "roles/secret", role).await.unwrap();
    let asked = |schema: &str| json!({ "reason": "because", "params": { "schema": schema } });
    for schema in ["", "Sales", "a;drop", "sales-1"] {
        let reply = by(&mount, "ann", Operation::Create, "requests/secret", asked(schema)).await;
        assert_eq!(refusal(reply).0, 400, "{schema}");
    }
    let reply = by(&mount, "ann", Operation::Create, "requests/secret", asked("sales")).await.unwrap().unwrap();
    let id = plain(&reply, "request_id").as_str().unwrap().to_owned();
    act(&mount, "bob", &id, "approve").await.unwrap();
    let other = json!({ "params": "schema=hr" });
    refused(by(&mount, "ann", Operation::Read, "creds/secret", other).await, 403, "jit_approval_required");
    assert_eq!(live(&world), 0);
    by(&mount, "ann", Operation::Read, "creds/secret", json!({ "params": "schema=sales" })).await.unwrap();
    for bad in [
        json!({ "params_allowed": { "name": "x" } }),
        json!({ "params_allowed": { "table": "x" } }),
        json!({ "jit_policy": "" }),
    ] {
        assert_eq!(refusal(ask(&mount, Operation::Update, "roles/secret", bad).await).0, 400);
    }
}

#[tokio::test]
async fn who_is_disabled_or_tightened_away_loses_access_within_a_tick() {
    for cause in ["entity", "policy"] {
        let (world, mount) = gated(json!({})).await;
        let id = file(&mount, "ann").await.unwrap();
        act(&mount, "bob", &id, "approve").await.unwrap();
        read(&mount, "ann").await.unwrap();
        access::tick(&mount).await;
        assert_eq!(live(&world), 1);
        match cause {
            "entity" => change(&world, "ann", |entity, _| entity.disabled = true),
            _ => {
                let fields = json!({ "eligible_groups": "others" });
                ask(&mount, Operation::Update, "policies/p", fields).await.unwrap();
            }
        }
        later(&world, 31);
        access::tick(&mount).await;
        assert_eq!((live(&world), state(&mount, &id).await), (0, State::Closed), "{cause}");
        assert_eq!(request_of(&mount, &id).await.end.unwrap().cause, cause);
    }
}

#[tokio::test]
async fn an_end_that_fails_is_tried_until_it_is_one() {
    let (world, mount) = gated(json!({})).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    read(&mount, "ann").await.unwrap();
    world.down.store(true, Ordering::SeqCst);
    assert!(matches!(act(&mount, "ann", &id, "complete").await, Err(Error::Failed(_))));
    assert_eq!((live(&world), state(&mount, &id).await), (1, State::Ending));
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    later(&world, 10);
    access::tick(&mount).await;
    world.down.store(false, Ordering::SeqCst);
    later(&world, 10);
    access::tick(&mount).await;
    assert_eq!((live(&world), state(&mount, &id).await), (0, State::Closed));
}

/// A read files the request by itself, once, however often it is tried; after the approval the same read mints.
#[tokio::test]
async fn a_workload_files_by_reading() {
    let policy = json!({ "eligible_classes": "service", "on_unapproved": "file", "service_reason": "nightly job", "refile_after": 300 });
    let (world, mount) = gated(policy).await;
    for _ in 0..20 {
        refused(read(&mount, "robot").await, 403, "jit_pending");
    }
    let filed = kinds(&mount).await.iter().filter(|kind| *kind == "request.filed").count();
    assert_eq!(filed, 1);
    let ids = mount.ports.storage.list("access/open/secret/", "", -1).await.unwrap();
    act(&mount, "bob", &ids[0], "deny").await.unwrap();
    refused(read(&mount, "robot").await, 403, "jit_denied");
    later(&world, 301);
    refused(read(&mount, "robot").await, 403, "jit_pending");
    let ids = mount.ports.storage.list("access/open/secret/", "", -1).await.unwrap();
    act(&mount, "bob", &ids[0], "approve").await.unwrap();
    read(&mount, "robot").await.unwrap();
    assert_eq!(live(&world), 1);
    refused(read(&mount, "ann").await, 403, "jit_policy");
}

#[tokio::test]
async fn a_policy_may_approve_by_itself() {
    let policy =
        json!({ "steps": [], "approval": "auto", "eligible_classes": "service", "require_reason": 0, "max_active": 2 });
    let (world, mount) = gated(policy).await;
    world.writes.store(0, Ordering::SeqCst);
    read(&mount, "robot").await.unwrap();
    assert_eq!(world.writes.load(Ordering::SeqCst), 7, "filed and decided, used, done, and two signing keys once");
    read(&mount, "robot").await.unwrap();
    refused(read(&mount, "robot").await, 429, "jit_limit");
    assert_eq!(live(&world), 2);
    record_is_sound(&mount).await;
}

/// R30: if the record cannot be written there is no credential, whatever else happens.
#[tokio::test]
async fn no_record_no_credential() {
    for kind in [Fault::Death, Fault::Error] {
        for at in 1.. {
            let (world, mount) = gated(json!({})).await;
            let id = file(&mount, "ann").await.unwrap();
            act(&mount, "bob", &id, "approve").await.unwrap();
            world.faults.arm(at, kind);
            let answer = tokio::select! {
                answer = read(&mount, "ann") => answer.ok().flatten(),
                () = world.faults.died.notified() => None,
            };
            let reached = world.faults.disarm();
            let what = format!("{kind:?} at point {at}");
            let recorded = kinds(&mount).await;
            let request = request_of(&mount, &id).await;
            for user in world.users.lock().unwrap().keys() {
                assert!(recorded.contains(&"issue.intent".to_owned()), "{what}: a user that nobody knows of");
                assert!(
                    request.credentials.iter().any(|c| c.name == *user),
                    "{what}: a user that the request does not know"
                );
            }
            if answer.is_some() {
                assert!(recorded.contains(&"issue.done".to_owned()), "{what}");
            }
            // A new process, and the time of the grant passes.
            drop(mount);
            let mount = super::mount(&world);
            later(&world, 4000);
            access::tick(&mount).await;
            later(&world, 20);
            access::tick(&mount).await;
            assert_eq!(live(&world), 0, "{what}: outlived the grant");
            assert!(state(&mount, &id).await.is_over(), "{what}");
            record_is_sound(&mount).await;
            if !reached {
                assert!(at > 8, "only {at} points");
                break;
            }
        }
    }
}

/// 64 who read at once with a grant for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_use_is_one_credential() {
    let (world, mount) = gated(json!({})).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let mount = mount.clone();
            tokio::spawn(async move { read(&mount, "ann").await.is_ok() })
        })
        .collect();
    let mut got = 0;
    for task in tasks {
        got += usize::from(task.await.unwrap());
    }
    assert_eq!((got, live(&world)), (1, 1));
    record_is_sound(&mount).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_opens_nothing_again() {
    let (world, mount) = gated(json!({ "uses": 0, "grant_ttl": 100 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    later(&world, 200);
    // Something is recorded at that time.
    ask(&mount, Operation::Update, "policies/p", json!({ "description": "x" })).await.unwrap();
    world.later.fetch_sub(200, Ordering::SeqCst);
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    // Nor for a new process.
    let mount = super::mount(&world);
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    assert_eq!(live(&world), 0);
}

#[tokio::test]
async fn an_answer_that_reached_nobody_is_no_use() {
    let (world, mount) = gated(json!({})).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    let lease = read(&mount, "ann").await.unwrap().unwrap().lease.unwrap();
    mount.undelivered("creds/secret".into(), lease, None).await;
    assert_eq!(live(&world), 0);
    read(&mount, "ann").await.unwrap();
    assert_eq!(live(&world), 1);
}

/// A role without a policy costs what it did: no write, and no question about anybody.
#[tokio::test]
async fn what_is_not_gated_costs_nothing() {
    let (world, mount) = gated(json!({})).await;
    // The first mint of a mount makes the key of its markers.
    ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap();
    world.writes.store(0, Ordering::SeqCst);
    let before = kinds(&mount).await;
    let response = ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap();
    assert_eq!(world.writes.load(Ordering::SeqCst), 0);
    let keys: Vec<&str> = response.data.as_ref().unwrap().iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["username", "password"]);
    let shown = ask(&mount, Operation::Read, "roles/app", json!({})).await.unwrap().unwrap();
    assert!(shown.data.unwrap().iter().all(|(key, _)| !key.starts_with("jit") && !key.starts_with("params")));
    let lease = LeaseRef { internal: response.lease.unwrap().internal, ..LeaseRef::default() };
    mount.handle(Request { lease: Some(lease), ..request(Operation::Renew, "creds/app", json!({})) }).await.unwrap();
    assert_eq!(world.writes.load(Ordering::SeqCst), 0);
    assert_eq!(kinds(&mount).await, before);
    assert!(!world.entries.lock().unwrap()["role/app"].contains("jit"), "stored as before");
}

/// R41: every path and operation that there is, by somebody who has no grant, mints and prolongs nothing.
#[tokio::test]
async fn there_is_no_way_around_the_gate() {
    let (world, mount) = gated(json!({})).await;
    // A lease from before the role was gated.
    ask(&mount, Operation::Update, "roles/secret", json!({ "jit_policy": "" })).await.unwrap();
    let lease = read(&mount, "ann").await.unwrap().unwrap().lease.unwrap();
    ask(&mount, Operation::Update, "roles/secret", json!({ "jit_policy": "p" })).await.unwrap();
    let before = world.users.lock().unwrap().clone();
    let mut asked = 0;
    let patterns = database::paths::ROUTES.iter().map(|r| r.pattern).chain(ROUTES.iter().map(|r| r.pattern));
    for pattern in patterns.filter(|pattern| !pattern.starts_with("roles/{")) {
        let path = pattern.trim_end_matches("/?").replace("{name}", "secret").replace("{role}", "secret");
        let path = path.replace("{plugin_name}", "secret").replace("{request_id}", "jr_none");
        for operation in [
            Operation::Create,
            Operation::Update,
            Operation::Read,
            Operation::List,
            Operation::Help,
            Operation::Renew,
            Operation::Revoke,
            Operation::Rollback,
        ] {
            for who in ["ann", "bob", "robot", ""] {
                let caller = Caller { entity_id: who.into(), ..Caller::default() };
                let data = json!({ "reason": "because", "request_id": "jr_none", "role": "app" });
                let internal = lease.internal.clone();
                let prolonged = LeaseRef { internal, increment: Duration::from_secs(7000), ..LeaseRef::default() };
                let lease = (operation == Operation::Renew).then_some(prolonged);
                let _ = mount.handle(Request { caller, lease, ..request(operation, &path, data) }).await;
                assert_eq!(*world.users.lock().unwrap(), before, "{operation:?} {path} by {who:?}");
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "{asked}");
}

fn meta(world: &World, id: &str, key: &str, value: &str) {
    change(world, id, |entity, _| drop(entity.metadata.insert(key.into(), value.into())));
}

/// R11: a freeze stops what was agreed to, and with `end` what is out; time ends it.
#[tokio::test]
async fn a_freeze_stops_everything_but_break_glass() {
    let (world, mount) = gated(json!({ "uses": 0, "break_glass_groups": "devs" })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    let lease = read(&mount, "ann").await.unwrap().unwrap().lease.unwrap();
    let freeze = json!({ "reason": "change freeze", "roles": "se*", "ttl": 300 });
    ask(&mount, Operation::Update, "freezes/xmas", freeze).await.unwrap();
    refused(read(&mount, "ann").await, 403, "jit_frozen");
    let renewal = LeaseRef { internal: lease.internal, ..LeaseRef::default() };
    let renew = Request { lease: Some(renewal), ..request(Operation::Renew, "creds/secret", json!({})) };
    refused(mount.handle(renew).await, 403, "jit_frozen");
    let glass = json!({ "reason": "the shop is down", "incident": "INC-1" });
    by(&mount, "ann", Operation::Update, "break-glass/secret", glass).await.unwrap();
    let other = json!({ "reason": "incident", "end": true });
    ask(&mount, Operation::Update, "freezes/now", other).await.unwrap();
    assert_eq!(live(&world), 0);
    ask(&mount, Operation::Delete, "freezes/now", json!({})).await.unwrap();
    later(&world, 301);
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    read(&mount, "ann").await.unwrap();
}

/// R11: the clock decides, not the approval.
#[tokio::test]
async fn outside_the_hours_nothing_is_issued() {
    // The clock of the tests stands at 2027-01-15 08:00 UTC, a Friday.
    let (world, mount) =
        gated(json!({ "hours": "Fri 09:00-10:00", "activate_within": "4h", "grant_ttl": "4h", "uses": 2 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    refused(read(&mount, "ann").await, 403, "jit_policy");
    later(&world, 3600);
    read(&mount, "ann").await.unwrap();
    later(&world, 3600);
    refused(read(&mount, "ann").await, 403, "jit_policy");
}

/// R24: an hour at a time, again and again, is no temporary access.
#[tokio::test]
async fn asking_again_and_again_is_seen_and_stopped() {
    let policy = json!({ "grant_ttl": 3000, "max_coverage": "0.5/24h", "max_requests_per_day": 0 });
    let (world, mount) = gated(policy).await;
    let mut rounds = 0;
    let refusal = loop {
        let id = match file(&mount, "ann").await {
            Ok(id) => id,
            Err(refusal) => break refusal.to_string(),
        };
        act(&mount, "bob", &id, "approve").await.unwrap();
        read(&mount, "ann").await.unwrap();
        later(&world, 3000);
        access::tick(&mount).await;
        later(&world, 600);
        rounds += 1;
        assert!(rounds < 30, "never stopped");
    };
    assert!(refusal.starts_with("jit_limit: coverage 0.5"), "{refusal}");
    assert!((14..17).contains(&rounds), "{rounds} of 50 minutes are half a day");
    let report = ask(&mount, Operation::Read, "reports/coverage", json!({})).await.unwrap().unwrap();
    let line = plain(&report, "lines")[0].clone();
    assert_eq!((&line["role"], &line["requests"]), (&json!("secret"), &json!(rounds)));
    assert!(line["per_mille"]["day"].as_u64().unwrap() > 500, "{line}");
    let metrics = ask(&mount, Operation::Read, "reports/metrics", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&metrics, "issued"), json!(rounds));
    assert_eq!(plain(&metrics, "verified_per_mille"), json!(1000));
    file(&mount, "bob").await.unwrap();
}

/// R24: the other limits.
#[tokio::test]
async fn limits_count_the_person() {
    let (world, mount) = gated(json!({ "max_requests_per_day": 3, "cooldown": 600 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    read(&mount, "ann").await.unwrap();
    act(&mount, "ann", &id, "complete").await.unwrap();
    refused(file(&mount, "ann").await, 429, "jit_limit");
    // Another entity of hers is she.
    known(&world, "ann2", "oidc", &["devs"]);
    change(&world, "ann2", |entity, _| entity.aliases[0].name = "Ann".into());
    refused(file(&mount, "ann2").await, 429, "jit_limit");
    later(&world, 601);
    for _ in 0..2 {
        let id = file(&mount, "ann").await.unwrap();
        act(&mount, "ann", &id, "cancel").await.unwrap();
    }
    refused(file(&mount, "ann").await, 429, "jit_limit");
    later(&world, 86_400);
    file(&mount, "ann").await.unwrap();
}

/// R26: a third party has a sponsor who agrees, and an end that ends what it has.
#[tokio::test]
async fn a_third_party_has_a_sponsor_and_an_end() {
    let (world, mount) =
        gated(json!({ "eligible_classes": "third_party", "grant_ttl": "72h", "activate_within": "72h" })).await;
    meta(&world, "ann", "jit_class", "third_party");
    refused(file(&mount, "ann").await, 403, "jit_identity");
    for (key, value) in [("sponsor", "cid"), ("org", "contractors"), ("end_date", "2027-01-15")] {
        meta(&world, "ann", key, value);
    }
    let id = file(&mount, "ann").await.unwrap();
    assert_eq!(act(&mount, "bob", &id, "approve").await.unwrap(), "pending", "the sponsor has not agreed");
    assert_eq!(act(&mount, "cid", &id, "approve").await.unwrap(), "approved");
    let response = read(&mount, "ann").await.unwrap().unwrap();
    assert!(response.lease.unwrap().ttl <= Duration::from_secs(16 * 3600), "never past the last day");
    later(&world, 16 * 3600);
    access::tick(&mount).await;
    assert_eq!((live(&world), state(&mount, &id).await), (0, State::Closed));
    refused(file(&mount, "ann").await, 403, "jit_identity");
}

/// R25: offboarding ends it all at once, and votes of the person count no more.
#[tokio::test]
async fn who_is_offboarded_has_nothing_and_agrees_to_nothing() {
    let (world, mount) = gated(json!({ "uses": 0 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    read(&mount, "ann").await.unwrap();
    let own = file(&mount, "bob").await;
    assert_eq!(refusal(ask(&mount, Operation::Update, "offboard/entity/bob", json!({})).await).0, 400);
    let off =
        ask(&mount, Operation::Update, "offboard/entity/bob", json!({ "reason": "left" })).await.unwrap().unwrap();
    assert_eq!(plain(&off, "voided"), json!(1));
    assert_eq!(state(&mount, &own.unwrap()).await, State::Cancelled);
    refused(read(&mount, "ann").await, 403, "jit_policy");
    refused(file(&mount, "bob").await, 403, "jit_identity");
    ask(&mount, Operation::Update, "offboard/entity/ann", json!({ "reason": "left" })).await.unwrap();
    assert_eq!((live(&world), state(&mount, &id).await), (0, State::Closed));
}

/// R38: what was agreed to beforehand is drawn from, so often and at such times.
#[tokio::test]
async fn a_preapproval_is_drawn_from_within_its_bounds() {
    let (world, mount) = gated(json!({ "eligible_classes": "service", "max_active": 0 })).await;
    let wish = |more: Value| {
        let mut wish = json!({ "role": "secret", "entity_id": "robot", "reason": "the nightly job", "per_day": 2, "ttl": 300,
                               "hours": "Fri 08:00-12:00", "period": 100_000 });
        wish.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        wish
    };
    let write = |who: &'static str, more: Value| by(&mount, who, Operation::Update, "preapprovals/night", wish(more));
    refused(write("robot", json!({})).await, 403, "jit_policy");
    refused(write("ann", json!({})).await, 403, "jit_policy");
    assert_eq!(refusal(write("bob", json!({ "period": 91 * 86_400 })).await).0, 400);
    refused(read(&mount, "robot").await, 403, "jit_approval_required");
    let written = write("bob", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&written, "live"), json!(true));
    let lease = read(&mount, "robot").await.unwrap().unwrap().lease.unwrap();
    assert!(lease.ttl <= Duration::from_secs(300));
    read(&mount, "robot").await.unwrap();
    refused(read(&mount, "robot").await, 429, "jit_limit");
    assert_eq!(live(&world), 2);
    later(&world, 5 * 3600);
    access::tick(&mount).await;
    assert_eq!(live(&world), 0, "each lasts its time");
    refused(read(&mount, "robot").await, 403, "jit_policy");
    // A day later, at the same time of the next day: no Friday; the group of who agreed is gone as well.
    change(&world, "bob", |_, groups| groups.clear());
    refused(read(&mount, "robot").await, 403, "jit_policy");
    assert!(kinds(&mount).await.contains(&"decision.preapproved".to_owned()));
}

/// R37: without anybody's agreement, once, and not again before somebody else has looked at it.
#[tokio::test]
async fn the_glass_is_broken_once_and_then_looked_at() {
    let (world, mount) = gated(json!({ "break_glass_groups": "devs", "break_glass_ttl": 600 })).await;
    let glass = |who: &'static str, more: Value| {
        let mut body = json!({ "reason": "the shop is down", "incident": "INC-1" });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        by(&mount, who, Operation::Update, "break-glass/secret", body)
    };
    change(&world, "robot", |_, groups| groups.push("devs".into()));
    refused(glass("bob", json!({})).await, 403, "jit_policy");
    refused(glass("robot", json!({})).await, 403, "jit_policy");
    assert_eq!(refusal(glass("ann", json!({ "incident": "" })).await).0, 400);
    glass("ann", json!({ "drill": true })).await.unwrap();
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    let opened = glass("ann", json!({})).await.unwrap().unwrap();
    let id = plain(&opened, "request_id").as_str().unwrap().to_owned();
    let lease = read(&mount, "ann").await.unwrap().unwrap().lease.unwrap();
    assert!(lease.ttl <= Duration::from_secs(600));
    later(&world, 600);
    access::tick(&mount).await;
    assert_eq!(live(&world), 0);
    refused(glass("ann", json!({})).await, 403, "jit_policy");
    let review = |who: &'static str| {
        by(
            &mount,
            who,
            Operation::Update,
            &*Box::leak(format!("break-glass/secret/{id}/review").into_boxed_str()),
            json!({ "comment": "it was so" }),
        )
    };
    refused(review("ann").await, 403, "jit_policy");
    refused(review("robot").await, 403, "jit_policy");
    let list = by(&mount, "bob", Operation::List, "break-glass", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&list, "keys"), json!([id]));
    review("bob").await.unwrap();
    glass("ann", json!({})).await.unwrap();
    let chain: Vec<String> = kinds(&mount).await;
    assert!(chain.contains(&"breakglass.used".to_owned()) && chain.contains(&"review.done".to_owned()));
    let report = ask(&mount, Operation::Read, "reports/break-glass", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&report, "used_in_30_days").as_array().unwrap().len(), 2);
}

/// R1, R36: what is out of order is in the reports.
#[tokio::test]
async fn reports_say_what_is_out_of_order() {
    let (world, mount) = gated(json!({})).await;
    change(&world, "ann", |entity, _| {
        let alias = Alias {
            mount_type: "kubernetes".into(),
            mount_accessor: "k".into(),
            name: "pod".into(),
            ..Alias::default()
        };
        entity.aliases.push(alias);
    });
    refused(file(&mount, "ann").await, 403, "jit_identity");
    let of = |name: &'static str| ask(&mount, Operation::Read, name, json!({}));
    let identities = of("reports/identities").await.unwrap().unwrap();
    assert!(plain(&identities, "refused")["ann"].as_str().unwrap().contains("ambiguous class"));
    let unused = of("reports/unused").await.unwrap().unwrap();
    assert_eq!(plain(&unused, "roles_without_use_in_30_days"), json!(["secret"]));
    ask(&mount, Operation::Delete, "policies/p", json!({})).await.unwrap();
    refused(read(&mount, "bob").await, 403, "jit_policy");
    let unapprovable = of("reports/unapprovable").await.unwrap().unwrap();
    assert!(plain(&unapprovable, "lines")[0]["why"].as_str().unwrap().contains("does not exist"));
    assert!(of("reports/nothing").await.unwrap().is_none());
}

/// A sidecar that reads before its lease is over has two users for a moment, and not more.
#[tokio::test]
async fn a_newer_credential_takes_the_place_of_the_older() {
    let (world, mount) = gated(json!({ "uses": 0, "supersede": true, "overlap": 60 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    for round in 1..4 {
        read(&mount, "ann").await.unwrap();
        assert_eq!(live(&world), if round == 1 { 1 } else { 2 });
        later(&world, 61);
        access::tick(&mount).await;
        assert_eq!(live(&world), 1);
    }
    assert_eq!(state(&mount, &id).await, State::Active);
}

/// R13: two who approve each other's requests.
#[tokio::test]
async fn approvals_do_not_go_in_a_ring() {
    let (_world, mount) = gated(json!({ "forbid_reciprocal": "24h" })).await;
    let of_bob = file(&mount, "bob").await.unwrap();
    act(&mount, "cid", &of_bob, "approve").await.unwrap();
    let of_cid = file(&mount, "cid").await.unwrap();
    refused(act(&mount, "bob", &of_cid, "approve").await, 403, "jit_policy");
}
