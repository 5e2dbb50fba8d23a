//! The password of a connection's own account, which changes by itself.

use tokio_util::sync::CancellationToken;

use super::rotation::{Fault, account, known, later, stored, tick};
use super::*;
use crate::engine::rotation::queue;

const ROOT: &str = "root's own";
const RECORD: &str = "rotation/root/pg";

/// A connection with an account that has a password, and this rule.
async fn scheduled(rule: Value) -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    world.accounts.lock().unwrap().insert("root".into(), ROOT.into());
    let mount = prepared(&world).await;
    ask(&mount, Operation::Update, "config/pg", rule).await.unwrap();
    tick(&mount).await;
    assert_eq!(account(&world, "root"), ROOT, "not at once");
    (world, mount)
}

async fn mints(mount: &Mount) -> bool {
    ask(mount, Operation::Read, "creds/app", json!({})).await.is_ok()
}

async fn shown(mount: &Mount) -> Response {
    ask(mount, Operation::Read, "config/pg", json!({})).await.unwrap().unwrap()
}

/// The stored password opens the account, for this process and for the next.
async fn assert_opens(world: &Arc<World>, mount: &Mount, what: &str) {
    assert_eq!(stored(world, "config/pg")["connection_details"]["password"], account(world, "root"), "{what}");
    assert!(mints(mount).await, "{what}");
    assert!(mints(&super::mount(world)).await, "{what}");
}

#[tokio::test]
async fn it_changes_within_its_period_and_not_before() {
    let (world, mount) = scheduled(json!({ "rotation_period": 3600 })).await;
    let read = shown(&mount).await;
    assert_eq!(plain(&read, "rotation_period"), json!(3600));
    assert_eq!(plain(&read, "disable_automated_rotation"), json!(false));
    assert_eq!(plain(&read, "last_vault_rotation"), Value::Null);
    let next: jiff::Timestamp = plain(&read, "next_vault_rotation").as_str().unwrap().parse().unwrap();
    let next = next.as_second() - 1_800_000_000;
    assert!((3300..=3600).contains(&next), "{next}");

    later(&world, u64::try_from(next).unwrap() - 1);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), ROOT);
    later(&world, 2);
    tick(&mount).await;
    let second = account(&world, "root");
    assert_ne!(second, ROOT);
    assert_opens(&world, &mount, "after the change").await;
    assert_eq!(stored(&world, RECORD), Value::Null);
    let read = shown(&mount).await;
    assert!(
        plain(&read, "last_vault_rotation").as_str().unwrap() < plain(&read, "next_vault_rotation").as_str().unwrap()
    );

    // Another process goes on where this one was.
    drop(mount);
    let mount = super::mount(&world);
    later(&world, 3200);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), second);
    later(&world, 400);
    tick(&mount).await;
    assert_ne!(account(&world, "root"), second);
    assert_opens(&world, &mount, "by another process").await;
}

#[tokio::test]
async fn it_changes_after_the_times_of_a_schedule() {
    // It is 08:00.
    let rule = json!({ "rotation_schedule": "0 3 * * *", "rotation_window": 3600, "rotation_timezone": "UTC" });
    let (world, mount) = scheduled(rule).await;
    later(&world, 19 * 3600 - 1);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), ROOT);
    later(&world, 301);
    tick(&mount).await;
    let second = account(&world, "root");
    assert_ne!(second, ROOT);
    // Away for the whole of the next window.
    later(&world, 24 * 3600 + 2 * 3600);
    let mount = super::mount(&world);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), second, "the window was missed");
    later(&world, 22 * 3600);
    tick(&mount).await;
    assert_ne!(account(&world, "root"), second, "the next time is not");
}

#[tokio::test]
async fn a_partial_write_keeps_the_rule_and_its_moment() {
    let (world, mount) = scheduled(json!({ "rotation_period": 3600 })).await;
    for _ in 0..4 {
        later(&world, 800);
        // What a tool does that applies the same configuration again and again.
        let again = json!({ "username": "root", "password": ROOT, "allowed_roles": "*", "rotation_period": "1h" });
        ask(&mount, Operation::Update, "config/pg", again).await.unwrap();
        ask(&mount, Operation::Update, "config/pg", json!({ "max_open_connections": 3 })).await.unwrap();
        tick(&mount).await;
        assert_eq!(account(&world, "root"), ROOT);
    }
    later(&world, 400);
    tick(&mount).await;
    let second = account(&world, "root");
    assert_ne!(second, ROOT, "and does not put it off");

    // The tool still has the first password.
    let again = json!({ "username": "root", "password": ROOT, "allowed_roles": "*", "rotation_period": "1h" });
    for _ in 0..2 {
        let answer = ask(&mount, Operation::Update, "config/pg", again.clone()).await.unwrap().unwrap();
        assert!(answer.warnings[0].contains("replaced by"), "{:?}", answer.warnings);
        assert_opens(&world, &mount, "written again").await;
        later(&world, 3600);
        tick(&mount).await;
    }
    assert_ne!(account(&world, "root"), second);
    assert_opens(&world, &mount, "after the next change").await;
}

#[tokio::test]
async fn it_stops_when_it_is_disabled_or_the_connection_deleted() {
    let (world, mount) = scheduled(json!({ "rotation_period": 3600 })).await;
    ask(&mount, Operation::Update, "config/pg", json!({ "disable_automated_rotation": true })).await.unwrap();
    later(&world, 9000);
    tick(&mount).await;
    tick(&super::mount(&world)).await;
    assert_eq!(account(&world, "root"), ROOT);
    assert_eq!(plain(&shown(&mount).await, "next_vault_rotation"), Value::Null);
    ask(&mount, Operation::Update, "rotate-root/pg", json!({})).await.unwrap();
    let second = account(&world, "root");
    assert_ne!(second, ROOT, "by hand it may change");

    ask(&mount, Operation::Update, "config/pg", json!({ "disable_automated_rotation": false })).await.unwrap();
    tick(&mount).await;
    assert_eq!(account(&world, "root"), second, "counted from now");
    later(&world, 3600);
    tick(&mount).await;
    let third = account(&world, "root");
    assert_ne!(third, second);
    ask(&mount, Operation::Update, "config/pg", json!({ "rotation_period": 0 })).await.unwrap();
    later(&world, 9000);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), third);

    ask(&mount, Operation::Update, "config/pg", json!({ "rotation_period": 60 })).await.unwrap();
    ask(&mount, Operation::Delete, "config/pg", json!({})).await.unwrap();
    later(&world, 9000);
    tick(&mount).await;
    tick(&super::mount(&world)).await;
    assert_eq!(account(&world, "root"), third);
}

#[tokio::test]
async fn a_failure_is_shown_and_tried_again_with_another_password() {
    let (world, mount) = scheduled(json!({ "rotation_period": 3600 })).await;
    world.picky.store(true, Ordering::SeqCst);
    later(&world, 3600);
    tick(&mount).await;
    let read = shown(&mount).await;
    assert!(plain(&read, "last_rotation_error").as_str().unwrap().contains("too weak"));
    assert_eq!(stored(&world, RECORD), Value::Null, "a refused password is discarded");
    assert_opens(&world, &mount, "after a refusal").await;
    world.picky.store(false, Ordering::SeqCst);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), ROOT, "there is a pause");
    later(&world, 13);
    tick(&mount).await;
    assert_ne!(account(&world, "root"), ROOT);
    assert_eq!(plain(&shown(&mount).await, "last_rotation_error"), Value::Null);
}

/// The window closes over a failure: the next time is waited for, and the reason can still be seen.
#[tokio::test]
async fn what_failed_for_a_whole_window_waits_for_the_next_time() {
    let (world, mount) = scheduled(json!({ "rotation_schedule": "0 3 * * *", "rotation_window": 3600 })).await;
    world.down.store(true, Ordering::SeqCst);
    later(&world, 19 * 3600 + 301);
    tick(&mount).await;
    later(&world, 3600);
    tick(&mount).await;
    world.down.store(false, Ordering::SeqCst);
    later(&world, 3600);
    tick(&mount).await;
    assert_eq!(account(&world, "root"), ROOT);
    let read = shown(&mount).await;
    assert!(plain(&read, "last_rotation_error").as_str().unwrap().contains("down"));
    assert!(plain(&read, "next_vault_rotation").as_str().unwrap().contains("T03:0"), "{read:?}");
    later(&world, 22 * 3600);
    tick(&mount).await;
    assert_ne!(account(&world, "root"), ROOT);
    assert_eq!(plain(&shown(&mount).await, "last_rotation_error"), Value::Null);
}

#[tokio::test]
async fn a_rule_that_could_not_be_followed_is_refused() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let before = world.entries.lock().unwrap().clone();
    for (more, expected) in [
        (json!({ "password": "" }), "no password in configuration"),
        (json!({ "username": "" }), "no username in configuration"),
        (json!({ "connection_url": "postgresql://root:x@localhost/db" }), "connection_url does not use {{password}}"),
        (json!({ "rotation_schedule": "0 3 * * *" }), "mutually exclusive"),
    ] {
        let mut body = json!({ "rotation_period": 60 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let refused = ask(&mount, Operation::Update, "config/pg", body).await.unwrap_err();
        assert!(matches!(&refused, Error::Refused(text) if text.contains(expected)), "{refused}");
    }
    assert_eq!(*world.entries.lock().unwrap(), before);
}

/// What is due is begun with a fault at each of its points in turn, then another node takes over.
#[tokio::test]
async fn it_survives_a_fault_at_every_point() {
    for kind in [Fault::Death, Fault::Error] {
        for at in 1.. {
            let (world, mount) = scheduled(json!({ "rotation_period": 3600 })).await;
            later(&world, 3601);
            world.faults.arm(at, kind);
            tokio::select! {
                _ = async { if let Ok(groups) = queue::due(&mount).await {
                    for group in groups { queue::run(&mount, group, &CancellationToken::new()).await; }
                } } => {}
                () = world.faults.died.notified() => {}
            }
            let reached = world.faults.disarm();
            let what = format!("{kind:?} at point {at}");
            assert!(known(&world).contains(&account(&world, "root")), "{what}: nobody knows root's password");
            if kind == Fault::Death {
                drop(mount);
            } else {
                assert!(mints(&mount).await, "{what}: the live connection");
            }
            let mount = super::mount(&world);
            assert!(mints(&mount).await, "{what}");
            for _ in 0..3 {
                tick(&mount).await;
                later(&world, 61);
            }
            assert_opens(&world, &mount, &what).await;
            assert_ne!(account(&world, "root"), ROOT, "{what}: changed in the end");
            assert_eq!(stored(&world, RECORD), Value::Null, "{what}");
            assert_eq!(stored(&world, "config/pg")["rotation_period"], json!(3_600_000_000_000_i64), "{what}");
            if !reached {
                assert!(at > 8, "only {at} points");
                break;
            }
        }
    }
}

#[tokio::test]
async fn only_the_active_node_changes_it_and_the_next_one_goes_on() {
    let (world, first) = scheduled(json!({ "rotation_period": 3600 })).await;
    let second = super::mount(&world);
    tick(&second).await;
    world.standby.store(true, Ordering::SeqCst);
    later(&world, 3600);
    tick(&first).await;
    tick(&second).await;
    assert_eq!(account(&world, "root"), ROOT);
    world.standby.store(false, Ordering::SeqCst);
    tick(&second).await;
    let changed = account(&world, "root");
    assert_ne!(changed, ROOT);
    // The one that was active before is told that storage has changed, or finds out when it is its turn.
    first.invalidate("config/pg");
    tick(&first).await;
    assert_eq!(account(&world, "root"), changed, "once");
    assert_opens(&world, &first, "on the first node").await;
    ask(&second, Operation::Update, "config/pg", json!({ "rotation_period": 60 })).await.unwrap();
    first.invalidate("config/pg");
    later(&world, 60);
    tick(&first).await;
    assert_ne!(account(&world, "root"), changed);
    assert_opens(&world, &first, "by the new rule").await;
}

/// The change stops at each of its points in turn, and is not even dead: whoever needs the connection goes on at once, also
/// when it is opened anew.
#[tokio::test]
async fn nobody_waits_for_a_change() {
    let mut changed = 0;
    for at in 1.. {
        let (world, mount) = scheduled(json!({ "rotation_period": 3600 })).await;
        world.faults.arm(at, Fault::Death);
        let rotating = mount.clone();
        let mut rotation =
            tokio::spawn(async move { ask(&rotating, Operation::Update, "rotate-root/pg", json!({})).await });
        tokio::select! {
            _ = &mut rotation => break,
            () = world.faults.died.notified() => {}
        }
        changed += u32::from(account(&world, "root") != ROOT);
        let limit = Duration::from_secs(5);
        for path in ["creds/app", "reset/pg", "creds/app"] {
            let operation = if path.starts_with("reset") { Operation::Update } else { Operation::Read };
            let answer = tokio::time::timeout(limit, ask(&mount, operation, path, json!({}))).await;
            assert!(matches!(answer, Ok(Ok(_))), "{path}, point {at}: {answer:?}");
        }
        rotation.abort();
    }
    assert!(changed > 3, "{changed}");
}

/// A password that would not come out of the connection string as it went in would be lost at the next start.
#[tokio::test]
async fn a_password_that_the_connection_cannot_carry_is_not_set() {
    let world: Arc<World> = Arc::default();
    world.accounts.lock().unwrap().insert("root".into(), ROOT.into());
    let mount = prepared(&world).await;
    let raw = json!({
        "connection_url": "postgresql://{{username}}:{{password}}@localhost/db", "disable_escaping": true,
        "password": "plain", "password_policy": "awkward", "verify_connection": false,
    });
    world.accounts.lock().unwrap().insert("root".into(), "plain".into());
    ask(&mount, Operation::Update, "config/pg", raw).await.unwrap();
    let refused = ask(&mount, Operation::Update, "rotate-root/pg", json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("disable_escaping=false"), "{refused}");
    assert_eq!(account(&world, "root"), "plain");
    ask(&mount, Operation::Update, "config/pg", json!({ "disable_escaping": false })).await.unwrap();
    ask(&mount, Operation::Update, "rotate-root/pg", json!({})).await.unwrap();
    assert_opens(&world, &mount, "escaped").await;
}
