//! Gated roles on simulated ports: people and workloads, a clock of our own, and faults at every point.

use super::rotation::{Fault, later};
use super::*;
use crate::engine::access::paths::ROUTES;
use crate::engine::access::request::{AccessRequest, DONE, OPEN, State};
use crate::engine::evidence::{self, verify};
use crate::engine::port::Alias;
use crate::engine::{access, database};

/// Somebody that the host knows.
fn known(world: &World, id: &str, mount_type: &str, groups: &[&str]) {
    let entity = Entity {
        id: id.into(),
        name: format!("{id}-name"),
        aliases: vec![Alias { mount_type: mount_type.into(), mount_accessor: "a".into(), name: id.into() }],
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

async fn by(mount: &Mount, who: &str, operation: Operation, path: &str, data: Value) -> Reply {
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
    read(&mount, "ann").await.unwrap();
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
    assert_eq!(world.writes.load(Ordering::SeqCst), 6, "filed and decided, used, done, and the signing key once");
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
    assert_eq!(live(&world), 0);
}

#[tokio::test]
async fn an_answer_that_reached_nobody_is_no_use() {
    let (world, mount) = gated(json!({})).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    let lease = read(&mount, "ann").await.unwrap().unwrap().lease.unwrap();
    mount.undelivered("creds/secret".into(), lease).await;
    assert_eq!(live(&world), 0);
    read(&mount, "ann").await.unwrap();
    assert_eq!(live(&world), 1);
}

/// A role without a policy costs what it did: no write, and no question about anybody.
#[tokio::test]
async fn what_is_not_gated_costs_nothing() {
    let (world, mount) = gated(json!({})).await;
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
