//! Rotation that breaks nobody: two accounts in turn, or two passwords of one.

use super::*;

const OTHER: &str = "static-user-b";
const GRACE: u64 = 600;

fn dual(mode: &str) -> Value {
    let mut role = json!({ "db_name": "pg", "username": USER, "rotation_period": 3600, "rotation_mode": mode,
                           "grace_period": GRACE, "password": INITIAL });
    if mode == "dual_account" {
        role["secondary_username"] = json!(OTHER);
    }
    role
}

async fn world_with(mode: &str) -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    for (user, password) in [(USER, INITIAL), (OTHER, "other's own"), ("root", ROOT)] {
        world.accounts.lock().unwrap().insert(user.into(), password.into());
    }
    let mount = prepared(&world).await;
    ask(&mount, Operation::Create, "static-roles/st", dual(mode)).await.unwrap();
    (world, mount)
}

/// User and password that are handed out, with the whole answer.
async fn handed_out(mount: &Mount) -> (String, String, Response) {
    let answer = ask(mount, Operation::Read, "static-creds/st", json!({})).await.unwrap().unwrap();
    let password = served(mount, "st").await.unwrap();
    (plain(&answer, "username").as_str().unwrap().to_owned(), password, answer)
}

fn opens(world: &World, user: &str, password: &str) -> bool {
    world.takes(user, Some(password))
}

/// Whoever reads the credential when it changes has the one before for as long as was said.
#[tokio::test]
async fn the_one_before_works_until_its_time_is_over() {
    for mode in ["dual_account", "dual_password"] {
        let (world, mount) = world_with(mode).await;
        for round in 0..4 {
            let (user, password, _) = handed_out(&mount).await;
            // What a change has kept has ended before the next.
            later(&world, PERIOD);
            tick(&mount).await;
            let (new_user, new_password, answer) = handed_out(&mount).await;
            assert_ne!((&user, &password), (&new_user, &new_password), "{mode} {round}");
            assert_eq!(user == new_user, mode == "dual_password");
            assert!(opens(&world, &user, &password) && opens(&world, &new_user, &new_password), "{mode} {round}");
            assert_eq!(plain(&answer, "ttl"), json!(PERIOD));
            let until = plain(&answer, "previous_valid_until").as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            let now = jiff::Timestamp::try_from(At(world.clone()).now()).unwrap();
            assert_eq!(until.duration_since(now).as_secs(), i64::try_from(GRACE).unwrap());
            if mode == "dual_account" {
                assert_eq!(plain(&answer, "previous_username"), json!(user));
            }
            later(&world, GRACE - 1);
            tick(&mount).await;
            assert!(opens(&world, &user, &password), "{mode} {round}: it ended before its time");
            let refused = ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap_err();
            assert!(matches!(&refused, Error::Refused(text) if text.contains("another 1 s")), "{refused:?}");
            later(&world, 1);
            tick(&mount).await;
            let (_, same, answer) = handed_out(&mount).await;
            assert_eq!(same, new_password);
            assert_eq!(plain(&answer, "previous_valid_until"), Value::Null);
            assert_eq!(opens(&world, &user, &password), mode == "dual_account", "{mode} {round}");
        }
        let shown = ask(&mount, Operation::Read, "static-roles/st", json!({})).await.unwrap().unwrap();
        assert_eq!(plain(&shown, "rotation_mode"), json!(mode));
        assert_eq!(plain(&shown, "grace_period"), json!(GRACE));
        assert_eq!(plain(&shown, "username"), json!(USER), "as it was written");
    }
}

/// A fault at every point of a change and of the end of the one before: what is answered is valid, and so is what was
/// answered before, until its time is over.
#[tokio::test]
async fn nothing_that_was_handed_out_ends_too_soon() {
    for mode in ["dual_account", "dual_password"] {
        for kind in [Fault::Death, Fault::Error] {
            let (mut points, mut changed) = (0, 0);
            for at in 1.. {
                let (world, mount) = world_with(mode).await;
                later(&world, 700);
                tick(&mount).await;
                let (user, password, _) = handed_out(&mount).await;
                world.faults.arm(at, kind);
                tokio::select! {
                    _ = ask(&mount, Operation::Update, "rotate-role/st", json!({})) => {}
                    () = world.faults.died.notified() => {}
                }
                let reached = world.faults.disarm();
                drop(mount);
                let what = format!("{mode}: {kind:?} at point {at}");
                assert!(opens(&world, &user, &password), "{what}: the one before has ended");
                let mount = super::super::mount(&world);
                let (now_user, now_password, _) = handed_out(&mount).await;
                assert!(opens(&world, &now_user, &now_password), "{what}: what is answered is not valid");
                for seconds in [1, 61, 300] {
                    later(&world, seconds);
                    tick(&mount).await;
                    let (now_user, now_password, _) = handed_out(&mount).await;
                    assert!(opens(&world, &now_user, &now_password), "{what}: what is answered is not valid");
                    assert!(opens(&world, &user, &password), "{what}: the one before has ended");
                }
                changed += u32::from(handed_out(&mount).await.1 != password);
                later(&world, GRACE);
                tick(&mount).await;
                let records: Vec<String> =
                    world.entries.lock().unwrap().keys().filter(|key| key.starts_with("rotation/")).cloned().collect();
                assert!(records.is_empty(), "{what}: {records:?}");
                let (now_user, now_password, _) = handed_out(&mount).await;
                assert!(opens(&world, &now_user, &now_password), "{what}");
                assert!(mode == "dual_account" || world.beside.lock().unwrap().is_empty(), "{what}: it never ends");
                if !reached {
                    points = at;
                    break;
                }
            }
            assert!(points > 8 && changed > 3, "{mode}: {points} points, {changed} changes");
        }
    }
}

/// The same at the end of a grace.
#[tokio::test]
async fn the_end_of_a_password_survives_a_fault_at_every_point() {
    for kind in [Fault::Death, Fault::Error] {
        for at in 1.. {
            let (world, mount) = world_with("dual_password").await;
            later(&world, GRACE + 1);
            world.faults.arm(at, kind);
            tokio::select! {
                _ = async { if let Ok(groups) = queue::due(&mount).await {
                    for group in groups { queue::run(&mount, group, &CancellationToken::new()).await; }
                } } => {}
                () = world.faults.died.notified() => {}
            }
            let reached = world.faults.disarm();
            drop(mount);
            let mount = super::super::mount(&world);
            tick(&mount).await;
            later(&world, 15);
            tick(&mount).await;
            assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{kind:?} at point {at}");
            assert!(world.beside.lock().unwrap().is_empty(), "{kind:?} at point {at}: it never ends");
            assert!(!known(&world).contains(INITIAL), "{kind:?} at point {at}: it is kept");
            if !reached {
                assert!(at > 4, "only {at} points");
                break;
            }
        }
    }
}

/// A person sets another password and keeps ours as the old one, which is then discarded.
#[tokio::test]
async fn a_password_that_ended_in_the_place_of_another_is_followed_by_a_fresh_one() {
    let (world, mount) = world_with("dual_password").await;
    let ours = account(&world, USER);
    world.beside.lock().unwrap().insert(USER.into(), ours.clone());
    world.accounts.lock().unwrap().insert(USER.into(), "by hand".into());
    later(&world, GRACE + 1);
    tick(&mount).await;
    let now = account(&world, USER);
    assert!(now != ours && now != "by hand");
    assert_eq!(served(&mount, "st").await, Some(now));
}

#[tokio::test]
async fn an_account_that_was_changed_by_hand_is_not_handed_out_for_long() {
    let (world, mount) = world_with("dual_account").await;
    later(&world, PERIOD);
    tick(&mount).await;
    let (user, ..) = handed_out(&mount).await;
    assert_eq!(user, OTHER);
    world.accounts.lock().unwrap().insert(OTHER.into(), "by hand".into());
    later(&world, GRACE);
    ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
    let (user, password, _) = handed_out(&mount).await;
    assert!(user == USER && opens(&world, &user, &password));
}

/// A node that was cut off in the middle of a change goes on when another one has already made the next.
#[tokio::test]
async fn a_change_of_the_other_account_may_still_arrive() {
    let mut overtaken = 0;
    for at in 1.. {
        let (world, mount) = world_with("dual_account").await;
        let first = account(&world, OTHER);
        world.faults.arm(at, Fault::Death);
        tokio::select! {
            _ = ask(&mount, Operation::Update, "rotate-role/st", json!({})) => break,
            () = world.faults.died.notified() => {}
        }
        world.faults.disarm();
        let record = "rotation/static-secondary/st";
        let Some(late) = stored(&world, record)["candidates"][0].as_str().map(str::to_owned) else { continue };
        if account(&world, OTHER) != first {
            continue;
        }
        overtaken += 1;
        let mount = super::super::mount(&world);
        ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
        assert_eq!(handed_out(&mount).await.0, OTHER, "point {at}");
        world.accounts.lock().unwrap().insert(OTHER.into(), late.clone());
        later(&world, 30);
        tick(&mount).await;
        let (user, password, answer) = handed_out(&mount).await;
        assert_eq!((user.as_str(), password), (OTHER, late), "point {at}");
        assert_eq!(plain(&answer, "previous_username"), json!(USER), "point {at}");
        later(&world, 31);
        tick(&mount).await;
        assert_eq!(stored(&world, record), Value::Null, "point {at}");
    }
    assert!(overtaken > 0);
}

/// What the server cannot write down is gone after its restart: then the one before is handed out again.
#[tokio::test]
async fn the_one_before_comes_back_with_a_server_that_forgets() {
    for restarts in [false, true] {
        let (world, mount) = world_with("dual_password").await;
        later(&world, GRACE + 1);
        tick(&mount).await;
        let old = served(&mount, "st").await.unwrap();
        world.forgetful.store(true, Ordering::SeqCst);
        *world.mute.lock().unwrap() = Some(true);
        ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
        *world.mute.lock().unwrap() = None;
        let new = served(&mount, "st").await.unwrap();
        assert!(new != old && stored(&world, "rotation/static/st") != Value::Null);
        for _ in 0..3 {
            later(&world, 30);
            tick(&mount).await;
            assert_eq!(served(&mount, "st").await.as_ref(), Some(&new), "both are valid");
        }
        if restarts {
            restart(&world);
            world.beside.lock().unwrap().clear();
            later(&world, 700);
            tick(&mount).await;
            assert_eq!(served(&mount, "st").await.as_ref(), Some(&old));
        }
        world.forgetful.store(false, Ordering::SeqCst);
        for _ in 0..4 {
            later(&world, 700);
            tick(&mount).await;
        }
        let (user, password, _) = handed_out(&mount).await;
        assert!(opens(&world, &user, &password));
        assert_eq!(stored(&world, "rotation/static/st"), Value::Null);
        assert!(world.beside.lock().unwrap().is_empty(), "it never ends");
    }
}

#[tokio::test]
async fn a_shorter_grace_ends_one_that_has_begun() {
    let (world, mount) = world_with("dual_password").await;
    ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap_err();
    ask(&mount, Operation::Update, "static-roles/st", json!({ "grace_period": 5 })).await.unwrap();
    later(&world, 5);
    tick(&mount).await;
    assert!(!opens(&world, USER, INITIAL));
    ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_role_is_the_end_of_its_previous_password() {
    let (world, mount) = world_with("dual_password").await;
    assert!(opens(&world, USER, INITIAL));
    let answer = ask(&mount, Operation::Delete, "static-roles/st", json!({})).await.unwrap();
    assert!(answer.is_none() && !opens(&world, USER, INITIAL));
    ask(&mount, Operation::Create, "static-roles/st", {
        let mut role = dual("dual_password");
        role["password"] = json!(account(&world, USER));
        role
    })
    .await
    .unwrap();
    world.down.store(true, Ordering::SeqCst);
    let answer = ask(&mount, Operation::Delete, "static-roles/st", json!({})).await.unwrap().unwrap();
    assert!(answer.warnings[0].contains("goes on working"), "{:?}", answer.warnings);
    assert!(ask(&mount, Operation::Read, "static-roles/st", json!({})).await.unwrap().is_none());
}

#[tokio::test]
async fn what_the_modes_do_not_go_with_is_refused() {
    let (world, mount) = world_with_role().await;
    world.accounts.lock().unwrap().insert(OTHER.into(), "other's own".into());
    for (mut body, expected) in [
        (json!({ "rotation_mode": "triple" }), "invalid rotation_mode \"triple\""),
        (json!({ "grace_period": 60 }), "grace_period is invalid with rotation_mode=single"),
        (json!({ "secondary_username": OTHER }), "secondary_username is invalid without"),
        (json!({ "rotation_mode": "dual_account", "grace_period": 60 }), "secondary_username is required"),
        (json!({ "rotation_mode": "dual_account", "secondary_username": OTHER }), "grace_period is required"),
        (json!({ "rotation_mode": "dual_account", "secondary_username": USER, "grace_period": 60 }), "another user"),
        (
            json!({ "rotation_mode": "dual_account", "secondary_username": "nobody", "grace_period": 60 }),
            "there is no user \"nobody\"",
        ),
        (json!({ "rotation_mode": "dual_password", "grace_period": 3601 }), "longer than rotation_period"),
        (
            json!({ "rotation_mode": "dual_password", "grace_period": 60, "rotation_statements": ["X"] }),
            "rotation_statements are invalid",
        ),
    ] {
        for (operation, path) in [(Operation::Update, "static-roles/st"), (Operation::Create, "static-roles/new")] {
            if operation == Operation::Create {
                for (key, value) in role().as_object().unwrap() {
                    body[key] = value.clone();
                }
            }
            let before = world.entries.lock().unwrap().clone();
            let refused = ask(&mount, operation, path, body.clone()).await;
            assert!(matches!(&refused, Err(Error::Refused(text)) if text.contains(expected)), "{body}: {refused:?}");
            assert_eq!(*world.entries.lock().unwrap(), before, "{body}");
        }
    }
    // A role may become one with two accounts, and then stays one.
    let two = json!({ "rotation_mode": "dual_account", "secondary_username": OTHER, "grace_period": 60 });
    ask(&mount, Operation::Update, "static-roles/st", two.clone()).await.unwrap();
    ask(&mount, Operation::Update, "static-roles/st", two).await.unwrap();
    ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
    assert_eq!(handed_out(&mount).await.0, OTHER);
    for body in [json!({ "rotation_mode": "single" }), json!({ "secondary_username": "third" })] {
        let refused = ask(&mount, Operation::Update, "static-roles/st", body.clone()).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{body}: {refused:?}");
    }
}
