//! What an account lacks: told, and which roles are refused for it.

use super::*;

fn warned(reply: Reply) -> Vec<String> {
    reply.unwrap().map(|response| response.warnings).unwrap_or_default()
}

#[tokio::test]
async fn what_an_account_lacks_is_a_warning_and_for_a_role_that_asks_for_it_a_refusal() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    world.weak.store(true, Ordering::SeqCst);
    let write = |path: &'static str, data| ask(&mount, Operation::Update, path, data);
    let told = warned(write("config/pg", json!({})).await);
    assert!(
        told.len() == 1 && told[0].contains("cannot end sessions, and users of app need that: GRANT SIGNALS"),
        "{told:?}"
    );
    assert!(warned(write("roles/app", json!({ "default_ttl": 50 })).await).is_empty(), "it says nothing");
    let before = world.entries.lock().unwrap().clone();
    for (wishes, reason) in [
        (
            json!({ "owned_objects": "drop" }),
            "says owned_objects=drop, but the account of connection \"pg\" cannot drop objects: GRANT DROPS",
        ),
        (json!({ "sessions": "grace:1m" }), "says sessions=grace:1m, but"),
        (json!({ "verify": "required" }), "says verify=required, but"),
    ] {
        let refused = write("roles/app", wishes).await.unwrap_err();
        assert!(matches!(&refused, Error::Refused(text) if text.contains(reason)), "{refused}");
    }
    assert_eq!(*world.entries.lock().unwrap(), before);
    // What the role leaves to the connection is the connection's to answer for.
    let told = warned(write("roles/app", json!({ "owned_objects": "fail" })).await);
    assert!(told.len() == 1 && told[0].contains("GRANT SIGNALS"), "{told:?}");
    assert!(warned(write("roles/app", json!({ "sessions": "keep" })).await).is_empty());

    world.down.store(true, Ordering::SeqCst);
    let told = warned(write("roles/app", json!({ "sessions": "terminate" })).await);
    assert!(told[0].contains("could not be asked"), "{told:?}");
    let checked = ask(&mount, Operation::Read, "check/pg", json!({})).await.unwrap().unwrap();
    assert_eq!((plain(&checked, "reachable"), plain(&checked, "ok")), (json!(false), json!(false)));
    world.down.store(false, Ordering::SeqCst);
    *world.target_clock.lock().unwrap() = Some(Duration::from_secs(90));
    let checked = ask(&mount, Operation::Read, "check/pg", json!({})).await.unwrap().unwrap();
    assert_eq!((plain(&checked, "reachable"), plain(&checked, "ok")), (json!(true), json!(false)));
    assert_eq!(plain(&checked, "clock_skew_seconds"), 90);
    let missing = json!([{ "need": "end_sessions", "granted": false, "required": true, "fix": "GRANT SIGNALS" }]);
    assert_eq!(plain(&checked, "needs"), missing);
    assert_eq!(plain(&checked, "roles"), json!([{ "role": "app", "missing": missing }]));
}
