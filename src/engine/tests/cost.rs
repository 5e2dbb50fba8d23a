//! What a mint, a renewal and a revocation ask of the host, and that what is not asked is still right.

use super::rotation::later;
use super::*;
use crate::engine::database::role;

/// Reads and writes of storage, questions to the host.
fn spent(world: &World) -> [u64; 3] {
    let taken = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
    [taken(&world.reads), taken(&world.writes) + taken(&world.deletions), taken(&world.questions)]
}

async fn mint(mount: &Mount) -> Reply {
    ask(mount, Operation::Read, "creds/app", json!({})).await
}

async fn of_lease(mount: &Mount, operation: Operation, lease: &LeaseGrant) {
    let lease = LeaseRef { internal: lease.internal.clone(), ..LeaseRef::default() };
    mount.handle(Request { lease: Some(lease), ..request(operation, "creds/app", json!({})) }).await.unwrap();
}

/// Each of these is a round trip over a socket, and work for the host: more than zero has to be worth it.
#[tokio::test]
async fn a_mint_a_renewal_and_a_revocation_ask_nothing_that_is_known() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    mint(&mount).await.unwrap();

    spent(&world);
    let lease = mint(&mount).await.unwrap().unwrap().lease.unwrap();
    assert_eq!(spent(&world), [0, 0, 0], "a mint");
    of_lease(&mount, Operation::Renew, &lease).await;
    assert_eq!(spent(&world), [0, 0, 0], "a renewal");
    of_lease(&mount, Operation::Revoke, &lease).await;
    assert_eq!(spent(&world), [0, 0, 0], "a revocation");

    later(&world, 1);
    mint(&mount).await.unwrap();
    assert_eq!(spent(&world), [0, 0, 3], "a second later: standby? two lease times");
    later(&world, 4);
    let lease = mint(&mount).await.unwrap().unwrap().lease.unwrap();
    assert_eq!(spent(&world), [1, 0, 3], "five seconds later: the role");
    later(&world, 5);
    of_lease(&mount, Operation::Revoke, &lease).await;
    assert_eq!(spent(&world), [1, 0, 0], "a revocation: the role");
}

#[tokio::test]
async fn a_role_that_was_written_or_deleted_is_the_role_at_once() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let ttl = async || mint(&mount).await.unwrap().unwrap().lease.unwrap().ttl.as_secs();
    ttl().await;
    for seconds in [61, 62] {
        ask(&mount, Operation::Update, "roles/app", json!({ "default_ttl": seconds })).await.unwrap();
        assert_eq!(ttl().await, seconds);
    }
    ask(&mount, Operation::Delete, "roles/app", json!({})).await.unwrap();
    let refused = mint(&mount).await.unwrap_err().to_string();
    assert_eq!(refused, "unknown role: app");
}

#[tokio::test]
async fn a_role_that_another_node_has_changed_is_read_again() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    mint(&mount).await.unwrap();
    let stored = world.entries.lock().unwrap().remove(&role::key("app")).unwrap();
    mount.invalidate(&role::key("app"));
    mint(&mount).await.unwrap_err();

    // Past the mount and without a word.
    world.entries.lock().unwrap().insert(role::key("app"), stored);
    mint(&mount).await.unwrap();
    world.entries.lock().unwrap().remove(&role::key("app"));
    later(&world, 5);
    mint(&mount).await.unwrap_err();
}

#[tokio::test]
async fn a_write_that_failed_and_took_effect_all_the_same_counts() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    mint(&mount).await.unwrap();
    // Storage has taken it away, and then says that it could not: the second point of a delete.
    world.faults.arm(2, super::rotation::Fault::Error);
    ask(&mount, Operation::Delete, "roles/app", json!({})).await.unwrap_err();
    assert!(world.faults.disarm());
    mint(&mount).await.unwrap_err();
}

#[tokio::test]
async fn a_node_that_is_no_longer_active_mints_nothing_a_moment_later() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    mint(&mount).await.unwrap();
    world.standby.store(true, Ordering::SeqCst);
    later(&world, 1);
    assert!(matches!(mint(&mount).await, Err(Error::ReadOnly)));

    // What the new active node writes is not known from before.
    world.entries.lock().unwrap().remove(&role::key("app"));
    world.standby.store(false, Ordering::SeqCst);
    mint(&mount).await.unwrap_err();
}
