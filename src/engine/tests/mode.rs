//! Users that may not end: what an operator sets after a restore.

use super::ending::remnants;
use super::rotation::{later, tick};
use super::*;
use crate::engine::RevocationMode;

fn users(world: &World) -> usize {
    world.users.lock().unwrap().len()
}

async fn minted(mount: &Mount) -> Fields {
    ask(mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap().lease.unwrap().internal
}

async fn revoke(mount: &Mount, internal: &Fields) -> Reply {
    let lease = LeaseRef { internal: internal.clone(), ..LeaseRef::default() };
    mount.handle(Request { lease: Some(lease), ..request(Operation::Revoke, "creds/app", json!({})) }).await
}

async fn set(mount: &Mount, mode: &str) -> Reply {
    ask(mount, Operation::Update, "config/pg", json!({ "revocation_mode": mode })).await
}

/// Another process on the same storage.
fn process(world: &Arc<World>, revocation_mode: RevocationMode) -> Mount {
    let at = || Arc::new(At(world.clone()));
    let orders = crate::engine::Orders { kind: Kind::Database, revocation_mode };
    let mount = Mount::new(
        orders,
        "id".into(),
        Ports { storage: at(), host: at(), clock: at(), targets: at(), scratch: at(), web: at() },
    );
    mount.rotation.queue.by_hand();
    mount
}

/// The error, of a class that the host retries.
fn withheld(reply: Reply) -> String {
    match reply {
        Err(Error::Failed(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_that_is_paused_keeps_its_users_until_it_is_not() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let lease = minted(&mount).await;
    for mode in ["paused", "report_only"] {
        set(&mount, mode).await.unwrap();
        let shown = ask(&mount, Operation::Read, "config/pg", json!({})).await.unwrap().unwrap();
        assert_eq!(plain(&shown, "revocation_mode"), mode);
        assert_eq!(plain(&shown, "connection_details")["revocation_mode"], Value::Null);
        // Whether the connection is in use or not.
        for mount in [&mount, &super::mount(&world)] {
            let text = withheld(revoke(mount, &lease).await);
            assert!(text.contains(mode) && text.contains(r#"connection "pg""#) && text.contains("normal"), "{text}");
            assert!(mount.connections.live("pg").is_none_or(|live| live.revocation_mode != RevocationMode::Normal));
        }
    }
    assert_eq!((users(&world), remnants(&world).len()), (1, 0));
    let more = minted(&mount).await;
    set(&mount, "normal").await.unwrap();
    assert!(revoke(&mount, &lease).await.unwrap().is_none());
    set(&mount, "paused").await.unwrap();
    set(&mount, "").await.unwrap();
    assert!(revoke(&mount, &more).await.unwrap().is_none());
    assert_eq!(users(&world), 0);
    let refused = set(&mount, "off").await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(text) if text.contains("report_only")), "{refused}");
}

#[tokio::test]
async fn a_paused_process_ends_nobody() {
    let world: Arc<World> = Arc::default();
    prepared(&world).await;
    let mount = process(&world, RevocationMode::Paused);
    let (lease, unwanted) = (minted(&mount).await, minted(&mount).await);
    set(&mount, "report_only").await.unwrap();
    let text = withheld(revoke(&mount, &lease).await);
    assert!(text.contains("process is paused"), "the stricter counts: {text}");
    mount.undelivered(String::new(), LeaseGrant { internal: unwanted, ..grant() }, None).await;
    assert_eq!((users(&world), remnants(&world).len()), (2, 0));
    set(&mount, "normal").await.unwrap();
    withheld(revoke(&mount, &lease).await);
    assert!(revoke(&process(&world, RevocationMode::Normal), &lease).await.is_ok());
    assert_eq!(users(&world), 1);
}

fn grant() -> LeaseGrant {
    LeaseGrant { ttl: Duration::ZERO, max_ttl: Duration::ZERO, renewable: true, internal: Fields::new() }
}

#[tokio::test]
async fn what_ends_by_itself_waits_too() {
    let world: Arc<World> = Arc::default();
    let mount = super::mount(&world);
    let config = json!({
        "plugin_name": "mysql-database-plugin", "username": "root", "password": "root's own", "allowed_roles": "*",
        "connection_url": "{{username}}:{{password}}@tcp(localhost)/",
    });
    ask(&mount, Operation::Create, "config/pg", config).await.unwrap();
    let role = json!({ "db_name": "pg", "creation_statements": "CREATE USER '{{name}}'", "default_ttl": 60 });
    ask(&mount, Operation::Create, "roles/app", role).await.unwrap();
    minted(&mount).await;
    // Long after the lease: the note says that the user is due, and the host never asks.
    let paused = process(&world, RevocationMode::Paused);
    for _ in 0..20 {
        later(&world, 900);
        tick(&paused).await;
    }
    assert_eq!((users(&world), remnants(&world).len()), (1, 0));
    let mount = super::mount(&world);
    for _ in 0..3 {
        later(&world, 900);
        tick(&mount).await;
    }
    assert_eq!((users(&world), remnants(&world).len()), (0, 0));
}
