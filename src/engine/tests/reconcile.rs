//! What the tick finds at the target, and what it leaves alone.

use super::ending::remnants;
use super::rotation::{later, tick};
use super::*;

const MOUNT: &str = "id";

async fn minted(mount: &Mount) -> (String, Fields) {
    let response = ask(mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap();
    (plain(&response, "username").as_str().unwrap().to_owned(), response.lease.unwrap().internal)
}

fn users(world: &World) -> Vec<String> {
    world.users.lock().unwrap().keys().cloned().collect()
}

/// What happens in so many seconds, looked at every ten.
async fn pass(world: &Arc<World>, mount: &Mount, seconds: u64) {
    for _ in 0..seconds / 10 {
        later(world, 10);
        tick(mount).await;
    }
}

async fn reconcile(mount: &Mount, operation: Operation) -> Vec<Value> {
    let answer = ask(mount, operation, "reconcile/pg", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&answer, "acted"), operation == Operation::Update);
    plain(&answer, "users").as_array().unwrap().clone()
}

#[tokio::test]
async fn a_user_whose_lease_the_host_lost_ends_by_its_marker() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let (lost, _) = minted(&mount).await;
    let (renewed, lease) = minted(&mount).await;
    let lease = LeaseRef { internal: lease, increment: Duration::from_secs(600), ..LeaseRef::default() };
    mount.handle(Request { lease: Some(lease), ..request(Operation::Renew, "creds/app", json!({})) }).await.unwrap();
    let mount = super::mount(&world);
    pass(&world, &mount, 110).await;
    assert_eq!(users(&world).len(), 2, "the host has a minute");
    world.down.store(true, Ordering::SeqCst);
    pass(&world, &mount, 120).await;
    world.down.store(false, Ordering::SeqCst);
    pass(&world, &mount, 80).await;
    assert_eq!(users(&world), std::slice::from_ref(&renewed), "{lost}");
    pass(&world, &mount, 500).await;
    assert!(users(&world).is_empty());
}

#[tokio::test]
async fn nobody_elses_user_is_touched() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let (ours, _) = minted(&mount).await;
    let marker = world.markers.lock().unwrap()[&ours].clone();
    let long_over = Marker { expires: 5, ..marker.clone() };
    let elsewhere = json!({
        "plugin_name": "postgresql-database-plugin", "username": "root", "password": "root's own", "allowed_roles": "*",
        "connection_url": "postgresql://{{username}}:{{password}}@localhost/db",
    });
    ask(&mount, Operation::Create, "config/other", elsewhere).await.unwrap();
    let of_other = crate::engine::marker::sealed(
        &mount,
        "of-the-other-connection",
        Marker { connection: "other".into(), role: "gone".into(), ..long_over.clone() },
    );
    let of_other = of_other.await.unwrap();
    for (username, marker) in [
        // Another mount or another cluster: another id, another key.
        ("of-another-mount", Marker { mount: "id2".into(), ..long_over.clone() }),
        // Somebody wrote our mount's name into a comment, with and without a seal that fits another user.
        ("postgres", long_over.clone()),
        ("v-token-app-like-ours", Marker { seal: String::new(), ..long_over.clone() }),
        ("of-another-role", Marker { role: "app2".into(), ..long_over.clone() }),
        ("of-the-other-connection", of_other.clone()),
    ] {
        world.users.lock().unwrap().insert(username.into(), At(world.clone()).now());
        world.markers.lock().unwrap().insert(username.into(), marker);
    }
    world.users.lock().unwrap().insert("v-token-app-by-hand".into(), At(world.clone()).now());
    let refused = ask(&mount, Operation::Delete, "config/other", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("still needed by 1 live user:"), "{refused}");
    ask(&mount, Operation::Delete, "config/other", json!({ "force": true })).await.unwrap();
    ask(
        &mount,
        Operation::Create,
        "config/other",
        json!({
            "plugin_name": "postgresql-database-plugin", "verify_connection": false,
            "connection_url": "postgresql://localhost/db",
        }),
    )
    .await
    .unwrap();

    let shown = reconcile(&mount, Operation::Read).await;
    let left: Vec<&Value> = shown.iter().map(|user| &user["username"]).collect();
    assert_eq!(left, ["of-another-role", "postgres", "v-token-app-like-ours"], "{shown:?}");
    assert!(shown.iter().all(|user| user["action"] == "leave" && user["suspicious"] == true), "{shown:?}");
    reconcile(&mount, Operation::Update).await;
    for key in ["sweep/pg"] {
        assert!(crate::engine::database::when_due(&mount, key).await.is_ok());
    }
    assert_eq!(users(&world).len(), 7, "{:?}", users(&world));
    later(&world, 500);
    assert!(crate::engine::database::when_due(&mount, "sweep/pg").await.is_ok());
    assert_eq!(users(&world).len(), 6, "ours, and no other");
    assert!(!users(&world).contains(&ours) && marker.mount == MOUNT);
    // Nobody else looks after the users of a connection that is gone.
    ask(&mount, Operation::Delete, "config/other", json!({ "force": true })).await.unwrap();
    assert!(crate::engine::database::when_due(&mount, "sweep/pg").await.is_ok());
    assert!(!users(&world).contains(&"of-the-other-connection".to_owned()));
}

#[tokio::test]
async fn a_read_tells_what_a_write_does() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let (first, _) = minted(&mount).await;
    assert!(reconcile(&mount, Operation::Read).await.is_empty());
    later(&world, 121);
    let told = reconcile(&mount, Operation::Read).await;
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["username"], &told[0]["action"]), (&json!(first), &json!("end")));
    assert_eq!((&told[0]["role"], &told[0]["result"]), (&json!("app"), &Value::Null));
    assert_eq!(told[0]["suspicious"], false);
    assert_eq!(users(&world).len(), 1, "nothing happens");
    world.owners.store(true, Ordering::SeqCst);
    assert_eq!(reconcile(&mount, Operation::Update).await[0]["result"], "contained");
    let told = reconcile(&mount, Operation::Update).await;
    assert_eq!((&told[0]["action"], remnants(&world).len()), (&json!("wait"), 1), "{told:?}");

    let accept = format!("remnants/{}/accept", remnants(&world)[0].0);
    ask(&mount, Operation::Update, &accept, json!({ "reason": "kept" })).await.unwrap();
    let told = reconcile(&mount, Operation::Update).await;
    assert_eq!((&told[0]["action"], &told[0]["why"]), (&json!("leave"), &json!("what is left of it was accepted")));
    let refused = ask(&mount, Operation::Read, "reconcile/nosuch", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("failed to find entry"), "{refused}");
}

#[tokio::test]
async fn a_clock_that_is_set_forward_ends_nobody_early() {
    const DECADE: u64 = 10 * 365 * 24 * 3600;
    for target_clock in [None, Some(Duration::ZERO)] {
        for jump in [3600, DECADE] {
            let world: Arc<World> = Arc::default();
            *world.target_clock.lock().unwrap() = target_clock;
            let mount = prepared(&world).await;
            ask(&mount, Operation::Update, "roles/app", json!({ "default_ttl": 1800 })).await.unwrap();
            for _ in 0..5 {
                minted(&mount).await;
            }
            pass(&world, &mount, 60).await;
            world.set.store(jump, Ordering::SeqCst);
            pass(&world, &mount, 500).await;
            assert_eq!(users(&world).len(), 5, "{target_clock:?} {jump}");
            if target_clock.is_some() {
                // The database says what time it is, as long as it takes.
                pass(&world, &mount, 1200).await;
                assert_eq!(users(&world).len(), 5, "{jump}");
            }
            world.set.store(0, Ordering::SeqCst);
            pass(&world, &mount, 2000).await;
            assert_eq!(users(&world).len(), 0, "{target_clock:?} {jump}");
        }
    }
}

/// The process begins after the clock was set, so it cannot know; but so many at once are left to the host for a while.
#[tokio::test]
async fn a_process_that_finds_most_users_overdue_waits() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    for _ in 0..30 {
        minted(&mount).await;
    }
    world.set.store(3600, Ordering::SeqCst);
    let mount = super::mount(&world);
    pass(&world, &mount, 300).await;
    assert_eq!(users(&world).len(), 30);
    let told = reconcile(&mount, Operation::Update).await;
    assert!(told.iter().all(|user| user["action"] == "wait"), "{told:?}");
    pass(&world, &mount, 400).await;
    assert_eq!(users(&world).len(), 0, "the clock stayed as it is");
}

#[tokio::test]
async fn a_request_that_comes_again_ends_the_user_that_it_made() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let again = request(Operation::Read, "creds/app", json!({}));
    let same = || Request { id: again.id.clone(), ..request(Operation::Read, "creds/app", json!({})) };
    mount.handle(again_of(&again)).await.unwrap();
    let first = users(&world);
    // The process dies; the next one gets the request that the host never saw answered.
    let mount = super::mount(&world);
    mount.handle(same()).await.unwrap();
    let second = users(&world);
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    minted(&mount).await;
    assert_eq!(users(&world).len(), 2, "other requests are others");

    // One that cannot be ended now does not stand in the way.
    world.strict.store(true, Ordering::SeqCst);
    let mount = super::mount(&world);
    mount.handle(same()).await.unwrap();
    assert_eq!((users(&world).len(), remnants(&world).len()), (3, 1));
    world.strict.store(false, Ordering::SeqCst);
    pass(&world, &mount, 30).await;
    assert_eq!((users(&world).len(), remnants(&world).len()), (2, 0));
}

/// The process dies with the answer; the host does not ask again.
#[tokio::test]
async fn a_user_whose_answer_did_not_arrive_is_ended_by_the_next_process() {
    for plugin in ["postgresql-database-plugin", "mysql-database-plugin"] {
        let world: Arc<World> = Arc::default();
        let mount = prepared(&world).await;
        let url = if plugin.starts_with('m') {
            "{{username}}:{{password}}@tcp(localhost)/"
        } else {
            "postgresql://{{username}}:{{password}}@localhost/db"
        };
        let connection = json!({ "plugin_name": plugin, "connection_url": url });
        ask(&mount, Operation::Update, "config/pg", connection).await.unwrap();
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap());
        }
        // One arrives, one is sent again by the host, the third one nobody hears of.
        mount.delivered(answers[0].underway.as_ref().unwrap());
        let kept = plain(&answers[0], "username");
        let again: Vec<String> = world.scratch.lock().unwrap().values().cloned().collect();
        assert_eq!(again.len(), 2);
        let again = serde_json::from_str::<Value>(&again[0]).unwrap()["request"].as_str().unwrap().to_owned();
        world.dead.store(u64::MAX >> 1, Ordering::SeqCst);
        world.touches.store(u64::MAX >> 1, Ordering::SeqCst);

        let mount = super::mount(&world);
        let same = Request { id: again, ..request(Operation::Read, "creds/app", json!({})) };
        let answer = mount.handle(same).await.unwrap().unwrap();
        mount.delivered(answer.underway.as_ref().unwrap());
        assert_eq!(users(&world).len(), 3, "{plugin}");
        tick(&mount).await;
        pass(&world, &mount, 40).await;
        let left = users(&world);
        assert_eq!(left.len(), 2, "{plugin}");
        for name in [kept, plain(&answer, "username")] {
            assert!(left.contains(&name.as_str().unwrap().to_owned()), "{plugin}: {name} is somebody's");
        }
        for name in &left {
            let lease = json!({ "username": name, "role": "app", "db_name": "pg" }).as_object().unwrap().clone();
            let lease = LeaseRef { internal: lease, increment: Duration::from_secs(900), ..LeaseRef::default() };
            mount
                .handle(Request { lease: Some(lease), ..request(Operation::Renew, "creds/app", json!({})) })
                .await
                .unwrap();
        }
        pass(&world, &mount, 130).await;
        assert!(world.scratch.lock().unwrap().is_empty(), "{plugin}: what is old enough is done with");
    }
}

fn again_of(request: &Request) -> Request {
    Request { id: request.id.clone(), ..super::request(Operation::Read, "creds/app", json!({})) }
}
