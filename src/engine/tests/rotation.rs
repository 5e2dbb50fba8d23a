//! Passwords that change while everything else goes wrong.

mod overlap;

use std::sync::atomic::{AtomicU8, AtomicUsize};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::rotation::queue;

/// What happens at one of the points where something can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies.
    Death = 1,
    /// The call fails; it may have had its effect.
    Error = 2,
}

/// Points are counted; at one of them there is a fault.
#[derive(Default)]
pub struct Faults {
    passed: AtomicUsize,
    /// 0 for none, else the point counted from 1.
    at: AtomicUsize,
    kind: AtomicU8,
    pub died: Notify,
}

impl Faults {
    pub fn arm(&self, at: usize, kind: Fault) {
        self.passed.store(0, Ordering::SeqCst);
        self.kind.store(kind as u8, Ordering::SeqCst);
        self.at.store(at, Ordering::SeqCst);
    }

    /// Disarms; true if the point was reached.
    pub fn disarm(&self) -> bool {
        let at = self.at.swap(0, Ordering::SeqCst);
        self.passed.load(Ordering::SeqCst) >= at
    }

    /// True if the call must fail here. Does not return if the process dies here.
    pub async fn point(&self) -> bool {
        let passed = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        if passed != self.at.load(Ordering::SeqCst) {
            return false;
        }
        if self.kind.load(Ordering::SeqCst) == Fault::Death as u8 {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        true
    }
}

const USER: &str = "static-user";
const INITIAL: &str = "initial password";
const ROOT: &str = "root's own";

/// After so many seconds the role `st` is due again: with its share of jitter.
const PERIOD: u64 = 3620;

async fn world_with_role() -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    for (user, password) in [(USER, INITIAL), ("root", ROOT)] {
        world.accounts.lock().unwrap().insert(user.into(), password.into());
    }
    let mount = prepared(&world).await;
    ask(&mount, Operation::Create, "static-roles/st", role()).await.unwrap();
    assert_ne!(account(&world, USER), INITIAL, "the creation changes it");
    (world, mount)
}

fn role() -> Value {
    json!({ "db_name": "pg", "username": USER, "rotation_period": 3600 })
}

pub fn account(world: &World, user: &str) -> String {
    world.accounts.lock().unwrap()[user].clone()
}

pub fn stored(world: &World, key: &str) -> Value {
    world.entries.lock().unwrap().get(key).map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
}

/// The password that a static role answers with, if there is the role.
async fn served(mount: &Mount, role: &str) -> Option<String> {
    let answer = ask(mount, Operation::Read, &format!("static-creds/{role}"), json!({})).await.ok()??;
    answer.data?.into_iter().find_map(|(key, datum)| match datum {
        Datum::Secret(secret) if key == "password" => Some(secret.expose().to_owned()),
        _ => None,
    })
}

pub fn later(world: &World, seconds: u64) {
    world.later.fetch_add(seconds, Ordering::SeqCst);
}

/// What the task of the queue does in a second.
pub async fn tick(mount: &Mount) {
    for group in queue::due(mount).await.unwrap() {
        queue::run(mount, group, &CancellationToken::new()).await;
    }
}

/// Every password in storage.
pub fn known(world: &World) -> String {
    format!("{:?}", *world.entries.lock().unwrap())
}

/// Sends the request with a fault at each of its points in turn. After each, a new process takes over: the account must
/// open with a password that is in storage at once, and a minute later with the one that is answered.
async fn survives(path: &str, body: Value, kind: Fault, prepare: impl AsyncFn() -> (Arc<World>, Mount)) -> usize {
    for at in 1.. {
        let (world, mount) = prepare().await;
        world.faults.arm(at, kind);
        tokio::select! {
            _ = ask(&mount, Operation::Update, path, body.clone()) => {}
            () = world.faults.died.notified() => {}
        }
        let reached = world.faults.disarm();
        drop(mount);
        let what = format!("{kind:?} at point {at} of {path}");
        let changed = account(&world, USER) != INITIAL;
        assert!(!changed || known(&world).contains(&account(&world, USER)), "{what}: nobody knows the user's password");
        assert!(known(&world).contains(&account(&world, "root")), "{what}: nobody knows root's password");

        let mount = super::mount(&world);
        tick(&mount).await;
        later(&world, 61);
        tick(&mount).await;
        later(&world, 30);
        tick(&mount).await;
        assert_eq!(stored(&world, "config/pg")["connection_details"]["password"], account(&world, "root"), "{what}");
        let served = served(&mount, "st").await;
        if changed || served.is_some() {
            assert_eq!(served, Some(account(&world, USER)), "{what}");
        }
        let left: Vec<String> =
            world.entries.lock().unwrap().keys().filter(|key| key.starts_with("rotation/")).cloned().collect();
        assert!(left.is_empty(), "{what}: {left:?}");
        if !reached {
            return at;
        }
    }
    0
}

#[tokio::test]
async fn a_rotation_survives_a_fault_at_every_point() {
    for kind in [Fault::Death, Fault::Error] {
        let points = survives("rotate-role/st", json!({}), kind, world_with_role).await;
        assert!(points > 8, "only {points} points");
    }
}

#[tokio::test]
async fn a_creation_survives_a_fault_at_every_point() {
    let without_role = async || {
        let world: Arc<World> = Arc::default();
        for (user, password) in [(USER, INITIAL), ("root", ROOT)] {
            world.accounts.lock().unwrap().insert(user.into(), password.into());
        }
        let mount = prepared(&world).await;
        (world, mount)
    };
    for kind in [Fault::Death, Fault::Error] {
        let points = survives("static-roles/st", role(), kind, without_role).await;
        assert!(points > 8, "only {points} points");
    }
}

#[tokio::test]
async fn a_root_rotation_survives_a_fault_at_every_point() {
    for kind in [Fault::Death, Fault::Error] {
        let points = survives("rotate-root/pg", json!({}), kind, world_with_role).await;
        assert!(points > 8, "only {points} points");
    }
}

/// The account itself logs in to change its password: nobody else could mend what is lost.
#[tokio::test]
async fn an_account_on_its_own_survives_a_fault_at_every_point() {
    let body = json!({ "db_name": "own", "username": USER, "rotation_period": 3600, "password": INITIAL });
    let without_role = async || {
        let world: Arc<World> = Arc::default();
        for (user, password) in [(USER, INITIAL), ("root", ROOT)] {
            world.accounts.lock().unwrap().insert(user.into(), password.into());
        }
        let mount = prepared(&world).await;
        let config = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "self_managed": true,
            "connection_url": "postgresql://{{username}}:{{password}}@localhost/db",
        });
        ask(&mount, Operation::Create, "config/own", config).await.unwrap();
        (world, mount)
    };
    let with_role = async || {
        let (world, mount) = without_role().await;
        ask(&mount, Operation::Create, "static-roles/st", body.clone()).await.unwrap();
        assert_ne!(account(&world, USER), INITIAL, "the creation changes it");
        (world, mount)
    };
    for kind in [Fault::Death, Fault::Error] {
        let points = survives("static-roles/st", body.clone(), kind, without_role).await;
        assert!(points > 8, "only {points} points");
        let points = survives("rotate-role/st", json!({}), kind, with_role).await;
        assert!(points > 8, "only {points} points");
    }
}

/// Who asks for the password first is answered with the one that opens the account, before the queue has been there.
#[tokio::test]
async fn what_is_asked_for_is_settled_at_once() {
    let mut changed = 0;
    for at in 1.. {
        let (world, mount) = world_with_role().await;
        let first = account(&world, USER);
        world.faults.arm(at, Fault::Death);
        tokio::select! {
            _ = ask(&mount, Operation::Update, "rotate-role/st", json!({})) => {}
            () = world.faults.died.notified() => {}
        }
        let reached = world.faults.disarm();
        let mount = super::mount(&world);
        assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "point {at}");
        changed += u32::from(account(&world, USER) != first);
        world.standby.store(true, Ordering::SeqCst);
        if stored(&world, "rotation/static/st") != Value::Null {
            assert_eq!(served(&mount, "st").await, None, "a standby passes it on");
        }
        if !reached {
            break;
        }
    }
    assert!(changed > 1, "{changed}");
}

/// A node that was cut off in the middle of a change goes on when another one has already made the next.
#[tokio::test]
async fn a_change_that_was_overtaken_may_still_arrive() {
    for path in ["rotate-role/st", "rotate-root/pg"] {
        let user = if path == "rotate-role/st" { USER } else { "root" };
        let record = if user == USER { "rotation/static/st" } else { "rotation/root/pg" };
        let mut overtaken = 0;
        for at in 1.. {
            let (world, mount) = world_with_role().await;
            let first = account(&world, user);
            world.faults.arm(at, Fault::Death);
            tokio::select! {
                _ = ask(&mount, Operation::Update, path, json!({})) => break,
                () = world.faults.died.notified() => {}
            }
            world.faults.disarm();
            let Some(late) = stored(&world, record)["candidates"][0].as_str().map(str::to_owned) else { continue };
            if account(&world, user) != first {
                continue;
            }
            overtaken += 1;
            let mount = super::mount(&world);
            ask(&mount, Operation::Update, path, json!({})).await.unwrap();
            assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{path}, point {at}");
            world.accounts.lock().unwrap().insert(user.into(), late.clone());
            later(&world, 30);
            tick(&mount).await;
            let kept = stored(&world, "config/pg")["connection_details"]["password"].clone();
            assert_eq!(kept, account(&world, "root"), "{path}, point {at}");
            assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{path}, point {at}");
            assert_eq!(account(&world, user), late, "{path}, point {at}");
            later(&world, 31);
            tick(&mount).await;
            assert_eq!(stored(&world, record), Value::Null, "{path}, point {at}");
        }
        assert!(overtaken > 0, "{path}");
    }
}

/// Readers of a password whose change is open cost the database no login each.
#[tokio::test]
async fn a_look_in_vain_is_not_repeated_at_once() {
    let (world, mount) = world_with_role().await;
    for at in 1.. {
        world.faults.arm(at, Fault::Death);
        tokio::select! {
            _ = ask(&mount, Operation::Update, "rotate-role/st", json!({})) => panic!("no point leaves a record"),
            () = world.faults.died.notified() => {}
        }
        world.faults.disarm();
        if stored(&world, "rotation/static/st") != Value::Null {
            break;
        }
    }
    let mount = super::mount(&world);
    let logins = || world.logins.load(Ordering::SeqCst);
    served(&mount, "st").await.unwrap();
    let looked = logins();
    for _ in 0..10 {
        served(&mount, "st").await.unwrap();
    }
    assert_eq!(logins(), looked);
    later(&world, 2);
    served(&mount, "st").await.unwrap();
    assert!(logins() > looked);
}

/// The same for what the queue does by itself, with faults while it settles an earlier one too.
#[tokio::test]
async fn the_queue_survives_faults_on_top_of_faults() {
    for first in 1..14 {
        for second in 1..14 {
            let (world, mount) = world_with_role().await;
            later(&world, PERIOD);
            for at in [first, second] {
                let mount = super::mount(&world);
                world.faults.arm(at, Fault::Death);
                tokio::select! {
                    _ = async { if let Ok(groups) = queue::due(&mount).await {
                        for group in groups { queue::run(&mount, group, &CancellationToken::new()).await; }
                    } } => {}
                    () = world.faults.died.notified() => {}
                }
                world.faults.disarm();
                assert!(known(&world).contains(&account(&world, USER)), "{first}, {second}");
            }
            drop(mount);
            let mount = super::mount(&world);
            for _ in 0..3 {
                tick(&mount).await;
                later(&world, 61);
            }
            assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{first}, {second}");
        }
    }
}

#[tokio::test]
async fn a_password_changes_when_it_is_due_and_not_before() {
    let (world, mount) = world_with_role().await;
    let first = account(&world, USER);
    later(&world, PERIOD - 1);
    tick(&mount).await;
    assert_eq!(account(&world, USER), first);
    later(&world, 1);
    tick(&mount).await;
    let second = account(&world, USER);
    assert_ne!(second, first);
    assert_eq!(served(&mount, "st").await, Some(second.clone()));

    let scheduled = json!({"rotation_schedule": "0 3 * * *", "rotation_window": 3600});
    ask(&mount, Operation::Update, "static-roles/st", scheduled).await.unwrap();
    later(&world, 30 * 3600);
    let restarted = super::mount(&world);
    tick(&restarted).await;
    // 1 800 003 600 is 2027-01-15T09:00:00Z: thirty hours later it is 15:00, twelve hours past the window.
    assert_eq!(account(&world, USER), second, "the window was missed");
    later(&world, 12 * 3600 + 60);
    tick(&restarted).await;
    assert_ne!(account(&world, USER), second, "the next time is not");
}

/// Roles that were written together, as a tool does it.
#[tokio::test]
async fn roles_of_one_moment_do_not_change_in_one_second() {
    const ROLES: usize = 120;
    let (world, mount) = world_with_role().await;
    let name = |number: usize| format!("role-{number}");
    for number in 0..ROLES {
        world.accounts.lock().unwrap().insert(name(number), INITIAL.into());
        let body = json!({ "db_name": "pg", "username": name(number), "rotation_period": 3600 });
        ask(&mount, Operation::Create, &format!("static-roles/{}", name(number)), body).await.unwrap();
    }
    let passwords = || world.accounts.lock().unwrap().clone();
    let mut answered = Vec::new();
    for number in 0..ROLES {
        let answer = ask(&mount, Operation::Read, &format!("static-creds/{}", name(number)), json!({})).await;
        answered.push(plain(&answer.unwrap().unwrap(), "ttl").as_u64().unwrap());
    }
    later(&world, 3599);
    tick(&mount).await;
    let (mut before, mut most, mut changed) = (passwords(), 0, 0);
    assert!((0..ROLES).all(|number| answered[number] >= 3600 && answered[number] <= 3660));
    for second in 3600..=3660 {
        later(&world, 1);
        tick(&mount).await;
        let now = passwords();
        let of_this: Vec<usize> = (0..ROLES).filter(|number| now[&name(*number)] != before[&name(*number)]).collect();
        assert!(of_this.iter().all(|number| answered[*number] == second), "the time that was answered");
        (most, changed, before) = (most.max(of_this.len()), changed + of_this.len(), now);
    }
    assert_eq!(changed, ROLES);
    assert!(most <= 10, "{most} in one second");
}

#[tokio::test]
async fn a_failure_is_shown_and_tried_again_with_another_password_after_a_growing_pause() {
    let (world, mount) = world_with_role().await;
    let first = account(&world, USER);
    world.picky.store(true, Ordering::SeqCst);
    later(&world, PERIOD);
    tick(&mount).await;
    let shown = ask(&mount, Operation::Read, "static-roles/st", json!({})).await.unwrap().unwrap();
    assert!(plain(&shown, "last_rotation_error").as_str().unwrap().contains("too weak"));
    assert_eq!(stored(&world, "rotation/static/st"), Value::Null, "a refused password is discarded");
    assert_eq!(served(&mount, "st").await.as_ref(), Some(&first));
    world.picky.store(false, Ordering::SeqCst);
    tick(&mount).await;
    assert_eq!(account(&world, USER), first, "there is a pause");
    later(&world, 13);
    tick(&mount).await;
    assert_ne!(account(&world, USER), first);
    let shown = ask(&mount, Operation::Read, "static-roles/st", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&shown, "last_rotation_error"), Value::Null);
}

#[tokio::test]
async fn who_asks_while_the_database_is_down_does_not_put_the_retry_off() {
    let (world, mount) = world_with_role().await;
    let first = account(&world, USER);
    tick(&mount).await;
    later(&world, PERIOD);
    world.down.store(true, Ordering::SeqCst);
    for _ in 0..8 {
        ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap_err();
    }
    world.down.store(false, Ordering::SeqCst);
    later(&world, 13);
    tick(&mount).await;
    assert_ne!(account(&world, USER), first);
}

/// However logins and changes of an account come to nothing: the passwords that it may have stay few, no attempt is
/// refused for that, and once the target answers again the account has the one that is stored.
#[tokio::test]
async fn no_account_comes_to_a_dead_end() {
    for door in [None, Some(Door::Open), Some(Door::Shut), Some(Door::Barred)] {
        for mute in [None, Some(true), Some(false)] {
            for pause in [0, 30, 700] {
                let (world, mount) = world_with_role().await;
                *world.logging_in.lock().unwrap() = door;
                *world.mute.lock().unwrap() = mute;
                let what = format!("{door:?}, {mute:?}, every {pause} s");
                for _ in 0..20 {
                    let answer = ask(&mount, Operation::Update, "rotate-role/st", json!({})).await;
                    if let Err(e) = answer {
                        assert!(e.to_string().contains("nothing is lost"), "{what}: {e}");
                    }
                    assert!(known(&world).contains(&account(&world, USER)), "{what}: nobody knows the password");
                    let candidates = stored(&world, "rotation/static/st")["candidates"].as_array().map_or(0, Vec::len);
                    let most = if mute.is_none() && pause > 60 { 1 } else { 8 };
                    assert!(candidates <= most, "{what}: {candidates} candidates");
                    later(&world, pause);
                }
                *world.mute.lock().unwrap() = None;
                if door == Some(Door::Shut) {
                    *world.logging_in.lock().unwrap() = None;
                }
                ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
                assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{what}");
                *world.logging_in.lock().unwrap() = None;
                later(&world, 700);
                tick(&mount).await;
                assert_eq!(stored(&world, "rotation/static/st"), Value::Null, "{what}");
                assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{what}");
            }
        }
    }
}

/// A policy that refuses does so with a password that nobody sees again, and leaves nothing behind.
#[tokio::test]
async fn a_refused_password_is_forgotten_at_once() {
    let (world, mount) = world_with_role().await;
    world.picky.store(true, Ordering::SeqCst);
    let before = known(&world);
    for _ in 0..20 {
        ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap_err();
        assert_eq!(known(&world), before);
    }
    let refused = world.refused.lock().unwrap().clone();
    assert_eq!(refused.iter().collect::<std::collections::BTreeSet<_>>().len(), 20, "each was a fresh one");
}

#[tokio::test]
async fn an_unwritten_journal_means_an_unchanged_password() {
    let (world, mount) = world_with_role().await;
    let first = account(&world, USER);
    world.down.store(true, Ordering::SeqCst);
    let refused = ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap_err().to_string();
    assert!(refused.starts_with("unable to finish rotating credentials; retries will continue"), "{refused}");
    assert_eq!(served(&mount, "st").await, Some(first), "served while the database is down");
    assert_eq!(stored(&world, "rotation/static/st"), Value::Null);
}

#[tokio::test]
async fn an_old_root_password_written_again_locks_nobody_out() {
    let (world, mount) = world_with_role().await;
    ask(&mount, Operation::Update, "rotate-root/pg", json!({})).await.unwrap();
    let rotated = account(&world, "root");
    assert_ne!(rotated, ROOT);
    assert!(!known(&world).contains(ROOT), "the old password is not kept");
    for _ in 0..2 {
        let again = json!({ "username": "root", "password": ROOT, "allowed_roles": "*" });
        let answer = ask(&mount, Operation::Update, "config/pg", again).await.unwrap().unwrap();
        assert!(answer.warnings[0].contains("replaced by rotate-root"), "{:?}", answer.warnings);
        ask(&mount, Operation::Update, "reset/pg", json!({})).await.unwrap();
        ask(&mount, Operation::Update, "rotate-role/st", json!({})).await.unwrap();
    }
    assert_eq!(account(&world, "root"), rotated);
    let wrong = ask(&mount, Operation::Update, "config/pg", json!({ "password": "never valid" })).await;
    assert!(wrong.is_err());

    // A restored database has the old password again: then it is taken.
    world.accounts.lock().unwrap().insert("root".into(), ROOT.into());
    let restored = ask(&mount, Operation::Update, "config/pg", json!({ "password": ROOT })).await.unwrap();
    assert!(restored.is_none(), "{restored:?}");
    ask(&mount, Operation::Update, "rotate-root/pg", json!({})).await.unwrap();
    assert_ne!(account(&world, "root"), ROOT);
}

#[tokio::test]
async fn an_import_without_rotation_changes_nothing_until_it_is_due() {
    let (world, mount) = world_with_role().await;
    let other = "imported-user";
    world.accounts.lock().unwrap().insert(other.into(), INITIAL.into());
    let role = |password: &str| {
        json!({ "db_name": "pg", "username": other, "rotation_period": 60, "skip_import_rotation": true,
                "password": password })
    };
    let refused = ask(&mount, Operation::Create, "static-roles/im", role("wrong")).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    ask(&mount, Operation::Create, "static-roles/im", role(INITIAL)).await.unwrap();
    assert_eq!(served(&mount, "im").await.as_deref(), Some(INITIAL));
    let shown = ask(&mount, Operation::Read, "static-roles/im", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&shown, "last_vault_rotation"), Value::Null);
    later(&world, 63);
    tick(&mount).await;
    assert_ne!(account(&world, other), INITIAL);
    assert_eq!(served(&mount, "im").await, Some(account(&world, other)));
    let late = ask(&mount, Operation::Update, "static-roles/im", json!({ "password": INITIAL })).await;
    assert!(matches!(late, Err(Error::Refused(_))), "{late:?}");
}

#[tokio::test]
async fn a_standby_rotates_nothing_until_it_is_active() {
    let (world, _) = world_with_role().await;
    later(&world, PERIOD);
    let first = account(&world, USER);
    world.standby.store(true, Ordering::SeqCst);
    let mount = super::mount(&world);
    tick(&mount).await;
    assert_eq!(account(&world, USER), first);
    world.standby.store(false, Ordering::SeqCst);
    tick(&mount).await;
    assert_ne!(account(&world, USER), first);
}

#[tokio::test]
async fn a_deleted_role_is_left_alone() {
    let (world, mount) = world_with_role().await;
    let last = account(&world, USER);
    ask(&mount, Operation::Delete, "static-roles/st", json!({})).await.unwrap();
    later(&world, 9000);
    tick(&mount).await;
    assert_eq!(account(&world, USER), last);
    assert!(!known(&world).contains(&last));
}

/// The target starts again, with what it has written down.
fn restart(world: &World) {
    world.accounts.lock().unwrap().append(&mut world.unwritten.lock().unwrap());
}

/// A server that keeps its users in memory, and writes them down in a step of its own.
#[tokio::test]
async fn a_restart_of_the_server_brings_no_password_back_that_nobody_knows() {
    for path in ["rotate-role/st", "rotate-root/pg"] {
        let mut undone = 0;
        for at in 1.. {
            let (world, mount) = world_with_role().await;
            restart(&world);
            world.faults.arm(at, Fault::Death);
            let over = tokio::select! {
                _ = ask(&mount, Operation::Update, path, json!({})) => true,
                () = world.faults.died.notified() => false,
            };
            world.faults.disarm();
            let mount = super::mount(&world);
            tick(&mount).await;
            undone += world.unwritten.lock().unwrap().len();
            restart(&world);
            for _ in 0..3 {
                later(&world, 61);
                tick(&mount).await;
            }
            restart(&world);
            let kept = stored(&world, "config/pg")["connection_details"]["password"].clone();
            assert_eq!(kept, account(&world, "root"), "{path}, point {at}");
            assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{path}, point {at}");
            if over {
                break;
            }
        }
        assert_eq!(undone, 0, "{path}: settled, and not written down");
    }
}

#[tokio::test]
async fn what_a_server_cannot_write_down_is_known_both_ways() {
    for (path, record) in [("rotate-role/st", "rotation/static/st"), ("rotate-root/pg", "rotation/root/pg")] {
        for restarts in [false, true] {
            let (world, mount) = world_with_role().await;
            world.forgetful.store(true, Ordering::SeqCst);
            ask(&mount, Operation::Update, path, json!({})).await.unwrap();
            let opens = async |what: &str| {
                let kept = stored(&world, "config/pg")["connection_details"]["password"].clone();
                assert_eq!(kept, account(&world, "root"), "{path} {what}");
                assert_eq!(served(&mount, "st").await, Some(account(&world, USER)), "{path} {what}");
            };
            opens("at once").await;
            for _ in 0..3 {
                later(&world, 90);
                tick(&mount).await;
            }
            opens("later").await;
            assert_ne!(stored(&world, record), Value::Null, "{path}: not over while the server forgets");
            if restarts {
                restart(&world);
                later(&world, 700);
                tick(&mount).await;
                opens("after a restart").await;
            }
            world.forgetful.store(false, Ordering::SeqCst);
            for _ in 0..3 {
                later(&world, 700);
                tick(&mount).await;
            }
            restart(&world);
            opens("in the end").await;
            assert_eq!(stored(&world, record), Value::Null, "{path}");
        }
    }
}
