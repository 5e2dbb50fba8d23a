//! Users at a target that keeps no note of them, while everything else goes wrong.

use super::ending::remnants;
use super::rotation::{Fault, later, tick};
use super::*;
use crate::engine::intent::{self, Intent};

const PREFIX: &str = intent::PREFIX;

async fn prepared() -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    let mount = mount(&world);
    let config = json!({
        "plugin_name": "mysql-database-plugin", "username": "root", "password": "root's own", "allowed_roles": "*",
        "connection_url": "{{username}}:{{password}}@tcp(localhost)/",
    });
    ask(&mount, Operation::Create, "config/my", config).await.unwrap();
    let role = json!({ "db_name": "my", "creation_statements": "CREATE USER '{{name}}'", "default_ttl": 60 });
    ask(&mount, Operation::Create, "roles/app", role).await.unwrap();
    (world, mount)
}

fn users(world: &World) -> usize {
    world.users.lock().unwrap().len()
}

fn notes(world: &World) -> Vec<(String, Intent)> {
    let entries = world.entries.lock().unwrap();
    let notes = entries.iter().filter(|(key, _)| key.starts_with(PREFIX));
    notes.map(|(key, text)| (key.clone(), serde_json::from_str(text).unwrap())).collect()
}

async fn creds(mount: &Mount) -> Option<Response> {
    ask(mount, Operation::Read, "creds/app", json!({})).await.ok().flatten()
}

fn of_lease(operation: Operation, internal: &Fields, increment: u64) -> Request {
    let increment = Duration::from_secs(increment);
    let lease = LeaseRef { internal: internal.clone(), increment, ..LeaseRef::default() };
    Request { lease: Some(lease), ..request(operation, "creds/app", json!({})) }
}

/// A new process on the same storage, some time later: what was left is ended by its ticks.
async fn afterwards(world: &Arc<World>) -> Mount {
    let mount = super::mount(world);
    tick(&mount).await;
    for seconds in [6, 115, 30] {
        later(world, seconds);
        tick(&mount).await;
    }
    mount
}

#[tokio::test]
async fn a_note_lives_as_long_as_its_user() {
    let (world, mount) = prepared().await;
    let lease = creds(&mount).await.unwrap().lease.unwrap().internal;
    let (key, note) = notes(&world).remove(0);
    assert!(note.made && note.role == "app" && note.db_name == "my", "{note:?}");
    assert_eq!(lease["mint"], key);
    assert!(world.users.lock().unwrap().contains_key(&note.username));

    mount.handle(of_lease(Operation::Renew, &lease, 600)).await.unwrap();
    assert_eq!(notes(&world)[0].1, Intent { expires: note.expires + 540, ..note });
    mount.handle(of_lease(Operation::Revoke, &lease, 0)).await.unwrap();
    assert_eq!((users(&world), notes(&world).len()), (0, 0));
}

#[tokio::test]
async fn a_mint_that_stops_at_any_point_leaves_nothing() {
    for kind in [Fault::Death, Fault::Error] {
        for at in 1.. {
            let (world, mount) = prepared().await;
            world.faults.arm(at, kind);
            let answer = tokio::select! {
                answer = creds(&mount) => answer,
                () = world.faults.died.notified() => None,
            };
            let reached = world.faults.disarm();
            let what = format!("{kind:?} at point {at}");
            assert!(users(&world) <= notes(&world).len(), "{what}: a user without a note");
            drop(mount);
            let mount = afterwards(&world).await;
            let left = notes(&world);
            if let Some(response) = answer {
                assert_eq!((users(&world), left.len()), (0, 0), "{what}: the lease is over by a minute and a half");
                let lease = response.lease.unwrap().internal;
                mount.handle(of_lease(Operation::Revoke, &lease, 0)).await.unwrap();
            } else if !left.is_empty() {
                panic!("{what}: {left:?}");
            }
            assert_eq!((users(&world), notes(&world).len()), (0, 0), "{what}");
            if !reached {
                assert!(at > 7, "only {at} points");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_revocation_that_stops_at_any_point_is_brought_to_its_end() {
    for kind in [Fault::Death, Fault::Error] {
        for at in 1.. {
            let (world, mount) = prepared().await;
            let lease = creds(&mount).await.unwrap().lease.unwrap().internal;
            world.faults.arm(at, kind);
            tokio::select! {
                _ = mount.handle(of_lease(Operation::Revoke, &lease, 0)) => {}
                () = world.faults.died.notified() => {}
            }
            let reached = world.faults.disarm();
            let known = notes(&world).len() + remnants(&world).len();
            assert!(users(&world) <= known, "{kind:?} at point {at}: a user that nothing stands for");
            let mount = afterwards(&world).await;
            later(&world, 300);
            tick(&mount).await;
            assert_eq!((users(&world), notes(&world).len()), (0, 0), "{kind:?} at point {at}");
            assert_eq!(remnants(&world).len(), 0, "{kind:?} at point {at}");
            if !reached {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_user_whose_lease_the_host_lost_ends_by_its_note() {
    let (world, mount) = prepared().await;
    creds(&mount).await.unwrap();
    later(&world, 60 + 59);
    tick(&mount).await;
    assert_eq!(users(&world), 1, "the host has a minute");
    world.standby.store(true, Ordering::SeqCst);
    later(&world, 2);
    tick(&mount).await;
    assert_eq!(users(&world), 1, "not on a standby");
    world.standby.store(false, Ordering::SeqCst);
    world.down.store(true, Ordering::SeqCst);
    tick(&mount).await;
    assert_eq!((users(&world), notes(&world).len()), (1, 1));
    world.down.store(false, Ordering::SeqCst);
    later(&world, 13);
    tick(&mount).await;
    assert_eq!((users(&world), notes(&world).len()), (0, 0));
}

#[tokio::test]
async fn an_answer_that_nobody_took_is_tried_again() {
    let (world, mount) = prepared().await;
    let lease = creds(&mount).await.unwrap().lease.unwrap();
    world.down.store(true, Ordering::SeqCst);
    mount.undelivered("creds/app".into(), lease, None).await;
    assert_eq!((users(&world), notes(&world).len()), (1, 0), "a remnant stands for it");
    world.down.store(false, Ordering::SeqCst);
    later(&world, 2);
    tick(&mount).await;
    assert_eq!((users(&world), notes(&world).len()), (0, 0));
}

#[tokio::test]
async fn a_mint_that_takes_long_is_left_alone() {
    let (world, mount) = prepared().await;
    creds(&mount).await.unwrap();
    let (key, note) = notes(&world).remove(0);
    Intent { made: false, ..note }.store(&At(world.clone()), &key).await.unwrap();
    mount.rotation.queue.outdated();
    let working = mount.rotation.locks.hold(&key).await;
    later(&world, 121);
    tick(&mount).await;
    assert_eq!(users(&world), 1);
    drop(working);
    later(&world, 121);
    tick(&mount).await;
    assert_eq!((users(&world), notes(&world).len()), (0, 0));
}

#[tokio::test]
async fn nobody_reconciles_a_mint_away_that_is_under_way_whatever_the_clock_says() {
    let (world, mount) = prepared().await;
    creds(&mount).await.unwrap();
    let (key, note) = notes(&world).remove(0);
    Intent { made: false, ..note }.store(&At(world.clone()), &key).await.unwrap();
    let working = mount.rotation.locks.hold(&key).await;
    world.set.store(3 * 365 * 24 * 3600, Ordering::SeqCst);
    let act = async || ask(&mount, Operation::Update, "reconcile/my", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&act().await, "users")[0]["action"], "wait");
    assert_eq!((users(&world), notes(&world).len()), (1, 1));
    drop(working);
    assert_eq!(plain(&act().await, "users")[0]["action"], "end");
    assert_eq!((users(&world), notes(&world).len()), (0, 0));
}

#[tokio::test]
async fn a_dead_mint_from_the_future_is_over_after_two_minutes() {
    let (world, mount) = prepared().await;
    creds(&mount).await.unwrap();
    let (key, note) = notes(&world).remove(0);
    let begun = note.begun + 3 * 365 * 24 * 3600;
    Intent { made: false, begun, ..note }.store(&At(world.clone()), &key).await.unwrap();
    let mount = super::mount(&world);
    tick(&mount).await;
    later(&world, 6);
    tick(&mount).await;
    assert_eq!((users(&world), notes(&world).len()), (0, 1), "its user may still be made");
    for _ in 0..6 {
        later(&world, 30);
        tick(&mount).await;
    }
    assert_eq!(notes(&world).len(), 0);
}
