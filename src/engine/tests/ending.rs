//! Users that are to end, while the target is away, refuses, or keeps a part of them.

use super::rotation::{Fault, later, tick};
use super::*;
use crate::target::{EndOptions, Owned, Sessions, Verify};

struct Lease(Fields);

async fn minted(mount: &Mount) -> Lease {
    Lease(ask(mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap().lease.unwrap().internal)
}

async fn revoke(mount: &Mount, lease: &Lease) -> Reply {
    let lease = LeaseRef { internal: lease.0.clone(), ..LeaseRef::default() };
    mount.handle(Request { lease: Some(lease), ..request(Operation::Revoke, "creds/app", json!({})) }).await
}

fn users(world: &World) -> usize {
    world.users.lock().unwrap().len()
}

fn records(world: &World, prefix: &str) -> Vec<(String, Value)> {
    let entries = world.entries.lock().unwrap();
    let found = entries.iter().filter(|(key, _)| key.starts_with(prefix));
    found.map(|(key, text)| (key[prefix.len()..].to_owned(), serde_json::from_str(text).unwrap())).collect()
}

pub fn remnants(world: &World) -> Vec<(String, Value)> {
    records(world, "remnant/")
}

fn set(flag: &AtomicBool, to: bool) {
    flag.store(to, Ordering::SeqCst);
}

#[tokio::test]
async fn what_is_left_of_a_user_is_a_remnant_and_no_error() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    set(&world.owners, true);
    assert!(revoke(&mount, &lease).await.unwrap().is_none(), "the lease is over");
    let listed = ask(&mount, Operation::List, "remnants/", json!({})).await.unwrap().unwrap();
    let id = plain(&listed, "keys")[0].as_str().unwrap().to_owned();
    let info = plain(&listed, "key_info")[&id].clone();
    assert_eq!((&info["connection"], &info["state"]), (&json!("pg"), &json!("contained")));
    let path = format!("remnants/{id}");
    let shown = ask(&mount, Operation::Read, &path, json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&shown, "username"), lease.0["username"]);
    assert_eq!(plain(&shown, "left")[0]["object"], "table t");
    assert_eq!(plain(&shown, "reason"), "table t in database db: the user owns it");
    assert!(plain(&shown, "next_try").is_string(), "{shown:?}");

    later(&world, 13);
    tick(&mount).await;
    assert_eq!(remnants(&world)[0].1["attempts"], 2);
    tick(&mount).await;
    assert_eq!(remnants(&world)[0].1["attempts"], 2, "the pauses grow");
    set(&world.owners, false);
    later(&world, 25);
    tick(&mount).await;
    assert_eq!((users(&world), remnants(&world).len()), (0, 0));
    assert!(ask(&mount, Operation::Read, &path, json!({})).await.unwrap().is_none());
}

#[tokio::test]
async fn a_remnant_is_tried_again_when_asked_and_by_the_role_as_it_is_now() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    set(&world.owners, true);
    revoke(&mount, &lease).await.unwrap();
    let retry = format!("remnants/{}/retry", remnants(&world)[0].0);
    let answer = ask(&mount, Operation::Update, &retry, json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&answer, "result"), "contained");
    ask(&mount, Operation::Update, "roles/app", json!({ "owned_objects": "drop" })).await.unwrap();
    let answer = ask(&mount, Operation::Update, &retry, json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&answer, "result"), "verified");
    assert_eq!((users(&world), remnants(&world).len()), (0, 0));
    let refused = ask(&mount, Operation::Update, &retry, json!({})).await.unwrap_err();
    assert!(refused.to_string().contains("there is no remnant"), "{refused}");
}

#[tokio::test]
async fn what_is_accepted_is_left_alone() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    set(&world.owners, true);
    revoke(&mount, &lease).await.unwrap();
    let id = remnants(&world)[0].0.clone();
    let accept = format!("remnants/{id}/accept");
    let refused = ask(&mount, Operation::Update, &accept, json!({ "reason": " " })).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(text) if text.contains("reason is required")), "{refused}");
    let answer = ask(&mount, Operation::Update, &accept, json!({ "reason": "kept for the audit" })).await;
    let answer = answer.unwrap().unwrap();
    assert_eq!(plain(&answer, "state"), "accepted");
    assert_eq!(plain(&answer, "accepted_by"), "token");
    assert_eq!(plain(&answer, "left")[0]["object"], "table t");

    let before = world.ends.lock().unwrap().len();
    let mount = super::mount(&world);
    later(&world, 3600);
    tick(&mount).await;
    assert_eq!(world.ends.lock().unwrap().len(), before, "tried again");
    revoke(&mount, &lease).await.unwrap();
    assert_eq!((remnants(&world).len(), records(&world, "accepted/").len()), (0, 1), "opened again");
    let shown = ask(&mount, Operation::Read, &format!("remnants/{id}"), json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&shown, "accepted_because"), "kept for the audit");
}

#[tokio::test]
async fn users_that_the_host_could_not_end_end_as_soon_as_the_target_is_back() {
    for restarted in [false, true] {
        let world: Arc<World> = Arc::default();
        let mut mount = prepared(&world).await;
        let mut leases = Vec::new();
        for _ in 0..200 {
            leases.push(minted(&mount).await);
        }
        set(&world.down, true);
        for lease in &leases {
            let refused = revoke(&mount, lease).await.unwrap_err();
            assert!(matches!(refused, Error::Failed(_)), "a class that the host does not retry: {refused:?}");
        }
        assert_eq!(remnants(&world).len(), 200);
        assert!(remnants(&world).iter().all(|(_, record)| record["state"] == "open"));
        if restarted {
            mount = super::mount(&world);
        }
        for _ in 0..720 {
            later(&world, 1);
            tick(&mount).await;
        }
        assert_eq!((users(&world), world.ends.lock().unwrap().len()), (200, 0));
        set(&world.down, false);
        later(&world, 3);
        tick(&mount).await;
        assert_eq!((users(&world), remnants(&world).len()), (0, 0), "restarted: {restarted}");
        // The host comes back minutes later.
        assert!(revoke(&mount, &leases[0]).await.unwrap().is_none());
        assert_eq!(remnants(&world).len(), 0);
    }
}

#[tokio::test]
async fn who_succeeds_first_closes_the_record() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    set(&world.strict, true);
    let refused = revoke(&mount, &lease).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    assert_eq!(remnants(&world)[0].1["state"], "open");
    later(&world, 2);
    tick(&mount).await;
    assert_eq!(world.ends.lock().unwrap().len(), 1, "a refusal is not asked for again every second");
    set(&world.strict, false);
    revoke(&mount, &lease).await.unwrap();
    assert_eq!((users(&world), remnants(&world).len()), (0, 0));
}

#[tokio::test]
async fn two_revokes_at_once_are_one() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    let (one, two, ()) = tokio::join!(
        revoke(&mount, &lease),
        revoke(&mount, &lease),
        mount.undelivered(
            "p".into(),
            super::super::request::LeaseGrant {
                ttl: Duration::ZERO,
                max_ttl: Duration::ZERO,
                renewable: false,
                internal: lease.0.clone(),
            },
            None,
        )
    );
    assert!(one.unwrap().is_none() && two.unwrap().is_none());
    assert_eq!((users(&world), world.ends.lock().unwrap().len()), (0, 1));
    revoke(&mount, &lease).await.unwrap();
    assert_eq!(world.ends.lock().unwrap().len(), 2, "a later one looks for itself");
}

#[tokio::test]
async fn the_role_says_how_then_the_connection_then_the_lease() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let last = || world.ends.lock().unwrap().last().cloned().unwrap();
    for (path, data) in [
        ("config/pg", json!({ "owned_objects": "drop", "verify": "off" })),
        ("roles/app", json!({ "owned_objects": "reassign:heirs", "sessions": "grace:90s" })),
    ] {
        ask(&mount, Operation::Update, path, data.clone()).await.unwrap();
        let shown = ask(&mount, Operation::Read, path, json!({})).await.unwrap().unwrap();
        for (name, value) in data.as_object().unwrap() {
            assert_eq!(&plain(&shown, name), value, "{path}");
        }
    }
    let of_role = EndOptions {
        owned: Owned::Reassign("heirs".into()),
        sessions: Sessions::Grace(Duration::from_secs(90)),
        verify: Verify::Off,
    };
    let (first, second) = (minted(&mount).await, minted(&mount).await);
    revoke(&mount, &first).await.unwrap();
    assert_eq!(last(), of_role);
    ask(&mount, Operation::Update, "config/pg", json!({ "verify": "best_effort", "owned_objects": "" })).await.unwrap();
    ask(&mount, Operation::Delete, "roles/app", json!({})).await.unwrap();
    revoke(&mount, &second).await.unwrap();
    assert_eq!(last(), of_role, "as it was when the user was made");

    let role = json!({ "db_name": "pg", "creation_statements": "CREATE ROLE \"{{name}}\"" });
    ask(&mount, Operation::Create, "roles/app", role).await.unwrap();
    let shown = ask(&mount, Operation::Read, "roles/app", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&shown, "sessions"), Value::Null, "shown only when set");
    let third = minted(&mount).await;
    revoke(&mount, &third).await.unwrap();
    assert_eq!(last(), EndOptions { verify: Verify::BestEffort, ..EndOptions::default() });
    for wrong in [json!({ "sessions": "maybe" }), json!({ "verify": true }), json!({ "owned_objects": "reassign:" })] {
        for path in ["roles/app", "config/pg"] {
            let refused = ask(&mount, Operation::Update, path, wrong.clone()).await;
            assert!(matches!(refused, Err(Error::Refused(_))), "{path} {wrong}");
        }
    }
}

#[tokio::test]
async fn sessions_that_have_time_have_it_once() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    ask(&mount, Operation::Update, "roles/app", json!({ "sessions": "grace:90s" })).await.unwrap();
    let lease = minted(&mount).await;
    revoke(&mount, &lease).await.unwrap();
    assert_eq!(remnants(&world)[0].1["state"], "grace");
    later(&world, 60);
    tick(&mount).await;
    assert_eq!(world.ends.lock().unwrap().len(), 2, "a record that is found is looked at");
    assert_eq!(world.ends.lock().unwrap()[1].sessions, Sessions::Grace(Duration::from_secs(30)));
    let mount = super::mount(&world);
    later(&world, 31);
    tick(&mount).await;
    assert_eq!(world.ends.lock().unwrap()[2].sessions, Sessions::Terminate);
    assert_eq!((users(&world), remnants(&world).len()), (0, 0));
}

/// A role that was pointed at another connection since knows nothing of the users that it left behind.
#[tokio::test]
async fn a_user_ends_where_it_was_made() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    ask(&mount, Operation::Update, "roles/app", json!({ "db_name": "elsewhere" })).await.unwrap();
    revoke(&mount, &lease).await.unwrap();
    assert_eq!(users(&world), 0);
}

#[tokio::test]
async fn an_answer_that_an_end_is_over_is_true_whatever_stops() {
    for owners in [false, true] {
        for kind in [Fault::Death, Fault::Error] {
            for at in 1.. {
                let world: Arc<World> = Arc::default();
                let mount = prepared(&world).await;
                let lease = minted(&mount).await;
                set(&world.owners, owners);
                world.faults.arm(at, kind);
                let answer = tokio::select! {
                    answer = revoke(&mount, &lease) => answer.ok(),
                    () = world.faults.died.notified() => None,
                };
                let reached = world.faults.disarm();
                let what = format!("{kind:?} at point {at}, owners: {owners}");
                assert!(answer.is_none() || users(&world) == 0 || remnants(&world).len() == 1, "{what}");
                let mount = super::mount(&world);
                if answer.is_none() {
                    // The host asks again.
                    revoke(&mount, &lease).await.unwrap();
                }
                set(&world.owners, false);
                tick(&mount).await;
                later(&world, 60);
                tick(&mount).await;
                assert_eq!((users(&world), remnants(&world).len()), (0, 0), "{what}");
                if !reached {
                    assert!(at > 1, "only {at} points");
                    break;
                }
            }
        }
    }
}
