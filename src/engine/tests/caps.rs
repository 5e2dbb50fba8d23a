//! How many users there may be, whoever asks at once, and whatever dies in between.

use super::rotation::{Fault, later, tick};
use super::*;

const KINDS: [&str; 2] = ["postgresql-database-plugin", "mysql-database-plugin"];

async fn prepared(plugin: &str, limits: Value) -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    let mount = mount(&world);
    let url = match plugin {
        "mysql-database-plugin" => "{{username}}:{{password}}@tcp(localhost)/",
        _ => "postgresql://{{username}}:{{password}}@localhost/db",
    };
    let config = json!({ "plugin_name": plugin, "username": "root", "password": "root's own", "allowed_roles": "*",
                         "connection_url": url });
    ask(&mount, Operation::Create, "config/db", config).await.unwrap();
    let mut role = json!({ "db_name": "db", "creation_statements": "CREATE '{{name}}'", "default_ttl": 3600 });
    for (key, value) in limits.as_object().unwrap() {
        role[key] = value.clone();
    }
    ask(&mount, Operation::Create, "roles/app", role).await.unwrap();
    (world, mount)
}

fn by(entity: &str) -> Request {
    let mut asked = request(Operation::Read, "creds/app", json!({}));
    asked.caller.entity_id = entity.into();
    asked
}

/// User and lease, or why there is none.
async fn read(mount: &Mount, entity: &str) -> Result<(String, Fields), Error> {
    let response = mount.handle(by(entity)).await?.unwrap();
    mount.delivered(response.underway.as_ref().unwrap());
    let username = plain(&response, "username").as_str().unwrap().to_owned();
    Ok((username, response.lease.unwrap().internal))
}

#[track_caller]
fn full(answer: Result<(String, Fields), Error>, limit: &str) {
    match answer {
        Err(Error::Coded(429, text)) => assert!(text.contains(limit), "{text}"),
        other => panic!("{other:?}"),
    }
}

async fn revoke(mount: &Mount, internal: Fields) {
    let lease = LeaseRef { internal, ..LeaseRef::default() };
    mount.handle(Request { lease: Some(lease), ..request(Operation::Revoke, "creds/app", json!({})) }).await.unwrap();
}

fn users(world: &World) -> Vec<String> {
    world.users.lock().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_ask_at_once_no_more_than_the_limit_live() {
    for plugin in KINDS {
        for (role, connection) in [(10, 0), (0, 10)] {
            let (world, mount) = prepared(plugin, json!({ "max_live_users": role })).await;
            ask(&mount, Operation::Update, "config/db", json!({ "max_live_users": connection })).await.unwrap();
            let mut reading = tokio::task::JoinSet::new();
            for number in 0..64 {
                let mount = mount.clone();
                reading.spawn(async move { read(&mount, &format!("e{number}")).await });
            }
            let mut minted = Vec::new();
            while let Some(answer) = reading.join_next().await {
                match answer.unwrap() {
                    Ok((_, lease)) => minted.push(lease),
                    refused => full(refused, "max_live_users is 10"),
                }
            }
            assert_eq!((minted.len(), users(&world).len()), (10, 10), "{plugin}");
            revoke(&mount, minted.pop().unwrap()).await;
            read(&mount, "e").await.unwrap();
            // What counts is written down, not remembered.
            let mount = super::mount(&world);
            full(read(&mount, "e").await, "max_live_users is 10");
            revoke(&mount, minted.pop().unwrap()).await;
            read(&mount, "e").await.unwrap();
            full(read(&mount, "e").await, "max_live_users is 10");
        }
    }
}

#[tokio::test]
async fn a_mint_that_stops_at_any_point_gives_its_place_back() {
    for plugin in KINDS {
        for kind in [Fault::Death, Fault::Error] {
            for at in 1.. {
                let what = format!("{plugin}: {kind:?} at point {at}");
                let (world, mut mount) = prepared(plugin, json!({ "max_live_users": 1 })).await;
                world.faults.arm(at, kind);
                let answer = tokio::select! {
                    answer = read(&mount, "e") => answer.ok(),
                    () = world.faults.died.notified() => None,
                };
                let reached = world.faults.disarm();
                if kind == Fault::Death {
                    world.dead.store(u64::MAX >> 1, Ordering::SeqCst);
                    world.touches.store(u64::MAX >> 1, Ordering::SeqCst);
                    mount = super::mount(&world);
                }
                if let Some((_, lease)) = answer {
                    full(read(&mount, "e").await, "max_live_users");
                    revoke(&mount, lease).await;
                } else {
                    for seconds in [6, 60, 60, 30] {
                        later(&world, seconds);
                        tick(&mount).await;
                    }
                }
                assert!(read(&mount, "e").await.is_ok(), "{what}: {:?}", users(&world));
                full(read(&mount, "e").await, "max_live_users");
                if !reached {
                    break;
                }
            }
        }
    }
}

/// The host sends again what a process did not answer that has died: it is the same user's place.
#[tokio::test]
async fn a_request_that_comes_again_is_not_refused_for_its_own_user() {
    for plugin in KINDS {
        let (world, mount) = prepared(plugin, json!({ "max_active": 1 })).await;
        let first = by("e");
        let again = Request { id: first.id.clone(), ..by("e") };
        mount.handle(first).await.unwrap();
        let mount = super::mount(&world);
        mount.handle(again).await.unwrap();
        assert_eq!(users(&world).len(), 1, "{plugin}");
        full(read(&mount, "e").await, "max_active is 1");
    }
}

#[tokio::test]
async fn one_entity_is_held_to_its_own_limit_and_what_is_gone_does_not_count() {
    for plugin in KINDS {
        let (world, mount) = prepared(plugin, json!({ "max_active": 2 })).await;
        let mut kept = Vec::new();
        for entity in ["one", "other", ""] {
            kept.push(read(&mount, entity).await.unwrap());
            kept.push(read(&mount, entity).await.unwrap());
            full(read(&mount, entity).await, "max_active is 2");
        }
        // One that cannot be ended lives; one that can do nothing any more does not count.
        world.strict.store(true, Ordering::SeqCst);
        let lease = LeaseRef { internal: kept[0].1.clone(), ..LeaseRef::default() };
        let refused =
            mount.handle(Request { lease: Some(lease), ..request(Operation::Revoke, "creds/app", json!({})) });
        assert!(refused.await.is_err());
        world.strict.store(false, Ordering::SeqCst);
        full(read(&super::mount(&world), "one").await, "max_active is 2");
        world.owners.store(true, Ordering::SeqCst);
        revoke(&mount, kept[0].1.clone()).await;
        assert!(users(&world).contains(&kept[0].0), "{plugin}");
        read(&mount, "one").await.unwrap();
        full(read(&super::mount(&world), "one").await, "max_active is 2");
        if plugin == KINDS[0] {
            // Dropped by hand: found out before anybody is refused, though not at every request.
            world.users.lock().unwrap().remove(&kept[2].0);
            world.markers.lock().unwrap().remove(&kept[2].0);
            full(read(&mount, "other").await, "max_active is 2");
            later(&world, 6);
            read(&mount, "other").await.unwrap();
        }
        ask(&mount, Operation::Update, "roles/app", json!({ "max_active": 0 })).await.unwrap();
        read(&mount, "").await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_user_ends_the_ones_before_after_the_overlap() {
    let supersede = json!({ "on_new_issue": "supersede", "supersede_overlap": 90 });
    for plugin in KINDS {
        let (world, mount) = prepared(plugin, supersede.clone()).await;
        tick(&mount).await;
        let alone = read(&mount, "alone").await.unwrap().0;
        let nobody = [read(&mount, "").await.unwrap().0, read(&mount, "").await.unwrap().0];
        let mut last = Vec::new();
        for minute in 0..10 {
            last.push(read(&mount, "busy").await.unwrap());
            for _ in 0..12 {
                later(&world, 5);
                tick(&mount).await;
            }
            let alive = last.iter().filter(|(name, _)| users(&world).contains(name)).count();
            assert!(alive <= 3, "{plugin}: {alive} after {minute} minutes");
            assert!(last.iter().rev().take(2).all(|(name, _)| users(&world).contains(name)), "{plugin}");
        }
        assert!(users(&world).contains(&alone) && nobody.iter().all(|name| users(&world).contains(name)));
        // The host still has the lease of one that is gone: it cannot be renewed, and its end is a success.
        let gone = last[0].1.clone();
        let lease = LeaseRef { internal: gone.clone(), increment: Duration::from_secs(60), ..LeaseRef::default() };
        let renewed = mount.handle(Request { lease: Some(lease), ..request(Operation::Renew, "creds/app", json!({})) });
        assert!(renewed.await.is_err(), "{plugin}");
        revoke(&mount, gone).await;

        // Another process knows as much.
        last.push(read(&mount, "busy").await.unwrap());
        let mount = super::mount(&world);
        for _ in 0..30 {
            later(&world, 5);
            tick(&mount).await;
        }
        let alive: Vec<_> = last.iter().filter(|(name, _)| users(&world).contains(name)).collect();
        assert_eq!((alive.len(), &alive[0].0), (1, &last[10].0), "{plugin}");
    }
    let (_, mount) = prepared(KINDS[0], supersede).await;
    for (wrong, why) in [
        (json!({ "max_active": 1 }), "2 or more"),
        (json!({ "supersede_overlap": 0 }), "at least one second"),
        (json!({ "on_new_issue": "replace" }), "keep or supersede"),
        (json!({ "max_active": -1 }), "invalid max_active -1"),
    ] {
        let refused = ask(&mount, Operation::Update, "roles/app", wrong).await.unwrap_err();
        assert!(matches!(&refused, Error::Refused(text) if text.contains(why)), "{refused}");
    }
    let shown = ask(&mount, Operation::Read, "roles/app", json!({})).await.unwrap().unwrap();
    assert_eq!((plain(&shown, "on_new_issue"), plain(&shown, "supersede_overlap")), (json!("supersede"), json!(90)));
}

#[tokio::test]
async fn a_connection_that_is_needed_is_kept() {
    for plugin in KINDS {
        let (world, mount) = prepared(plugin, json!({})).await;
        let (_, lease) = read(&mount, "e").await.unwrap();
        let (_, second) = read(&mount, "e").await.unwrap();
        world.owners.store(true, Ordering::SeqCst);
        revoke(&mount, second).await;
        world.owners.store(false, Ordering::SeqCst);
        let elsewhere = match plugin {
            "mysql-database-plugin" => "{{username}}:{{password}}@tcp(elsewhere)/",
            _ => "postgresql://{{username}}:{{password}}@elsewhere/db",
        };
        let before = world.entries.lock().unwrap().clone();
        let point = |force| json!({ "connection_url": elsewhere, "force": force });
        for (operation, data) in [(Operation::Delete, json!({})), (Operation::Update, point(false))] {
            let refused = ask(&mount, operation, "config/db", data).await.unwrap_err();
            let text = "still needed by 1 live user, 1 remnant: revoke their leases";
            assert!(matches!(&refused, Error::Refused(said) if said.contains(text)), "{refused}");
            assert!(refused.to_string().contains("force=true"), "{refused}");
        }
        assert_eq!(*world.entries.lock().unwrap(), before);
        for harmless in
            [json!({ "username": "root" }), json!({ "max_open_connections": 9 }), json!({ "password": "p" })]
        {
            ask(&mount, Operation::Update, "config/db", harmless).await.unwrap();
        }
        ask(&mount, Operation::Update, "config/db", point(true)).await.unwrap();
        let shown = ask(&mount, Operation::Read, "config/db", json!({})).await.unwrap().unwrap();
        assert_eq!(plain(&shown, "connection_details")["force"], Value::Null);

        revoke(&mount, lease).await;
        for _ in 0..3 {
            later(&world, 30);
            tick(&mount).await;
        }
        if plugin == KINDS[0] {
            let mount = super::mount(&world);
            world.down.store(true, Ordering::SeqCst);
            let unsure = ask(&mount, Operation::Delete, "config/db", json!({})).await.unwrap_err().to_string();
            assert!(unsure.contains("cannot be asked: ") && unsure.contains("force=true"), "{unsure}");
            world.down.store(false, Ordering::SeqCst);
        }
        ask(&mount, Operation::Delete, "config/db", json!({})).await.unwrap();
    }
}
