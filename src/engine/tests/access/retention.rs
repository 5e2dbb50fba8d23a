//! R30: what is old enough goes, the oldest first and as a whole, and the rest still proves itself. R33: a self-test.

use super::*;
use crate::engine::access::drill;

const DAY: u64 = 86_400;

/// All of it: asked for, agreed to, used, completed.
async fn round(mount: &Mount) -> String {
    let id = file(mount, "ann").await.unwrap();
    act(mount, "bob", &id, "approve").await.unwrap();
    read(mount, "ann").await.unwrap();
    assert_eq!(act(mount, "ann", &id, "complete").await.unwrap(), "closed");
    id
}

async fn config(mount: &Mount, fields: Value) {
    ask(mount, Operation::Update, "config/jit", fields).await.unwrap();
}

fn ninety_days() -> Value {
    json!({ "retention": { "low": "30d", "medium": "90d", "high": "90d", "critical": "90d" } })
}

async fn prune(mount: &Mount, dry: bool) -> Result<Response, Error> {
    Ok(ask(mount, Operation::Update, "retention/prune", json!({ "dry_run": dry })).await?.unwrap())
}

async fn verified(mount: &Mount, checkpoint: Value) -> Response {
    ask(mount, Operation::Update, "evidence/verify", json!({ "checkpoint": checkpoint })).await.unwrap().unwrap()
}

async fn checkpoint(mount: &Mount) -> Value {
    plain(&ask(mount, Operation::Read, "evidence/checkpoint", json!({})).await.unwrap().unwrap(), "checkpoint")
}

async fn chain(mount: &Mount, id: &str) -> Option<Response> {
    ask(mount, Operation::Read, &format!("evidence/chain/{id}"), json!({})).await.unwrap()
}

async fn first_event(mount: &Mount) -> u64 {
    evidence::read(mount, 1, 1).await.unwrap()[0]["seq"].as_u64().unwrap()
}

/// Batches of the record in storage, whoever reads them.
fn batches(world: &World) -> usize {
    world.entries.lock().unwrap().keys().filter(|key| key.starts_with(evidence::PREFIX)).count()
}

fn kept_by(answer: &Response) -> String {
    plain(answer, "kept_by").as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_old_enough_goes_as_a_whole_and_the_rest_still_proves_itself() {
    let (world, mount) = gated(json!({})).await;
    let older = checkpoint(&mount).await;
    let first = round(&mount).await;
    let kept = checkpoint(&mount).await;
    later(&world, 100 * DAY);
    let answer = prune(&mount, false).await.unwrap();
    assert_eq!((plain(&answer, "events"), plain(&answer, "requests")), (json!(0), json!(0)));
    assert!(kept_by(&answer).contains("no retention"), "{answer:?}");
    let second = round(&mount).await;
    config(&mount, ninety_days()).await;

    let before = batches(&world);
    let answer = prune(&mount, true).await.unwrap();
    let gone = plain(&answer, "record_begins_after");
    assert_eq!((&gone, plain(&answer, "requests")), (&kept["size"], json!(1)), "up to the second request");
    let next = gone.as_u64().unwrap() + 1;
    assert_eq!(
        (kept_by(&answer), request_of(&mount, &second).await.first_event),
        (format!("event {next} is not old enough"), next)
    );
    assert_eq!((first_event(&mount).await, batches(&world)), (1, before), "only looked at");
    assert_eq!(plain(&prune(&mount, false).await.unwrap(), "record_begins_after"), gone);
    let gone = gone.as_u64().unwrap();
    assert_eq!(first_event(&mount).await, gone + 1);
    assert!(batches(&world) < before);
    assert!(chain(&mount, &first).await.is_none());
    assert_eq!(plain(&chain(&mount, &second).await.unwrap(), "complete"), json!(true));

    // Also for who comes new: the next process.
    let mount = super::super::mount(&world);
    let found = verified(&mount, kept.clone()).await;
    let field = |key: &str| plain(&found, key);
    assert_eq!((field("valid"), field("events_taken_away")), (json!(true), json!(gone)), "{found:?}");
    assert_eq!((field("checkpoints"), field("checkpoints_too_old")), (json!(1), json!(0)), "one of the very end holds");
    assert_eq!(field("decisions")["unrepeatable"], 0, "the text of the policy is still there: {found:?}");
    let found = verified(&mount, older).await;
    assert_eq!((plain(&found, "checkpoints"), plain(&found, "checkpoints_too_old")), (json!(0), json!(1)));
    round(&mount).await;
    assert_eq!(plain(&verified(&mount, checkpoint(&mount).await).await, "checkpoints"), json!(1));

    // Elsewhere: all of it, and one event alone.
    let export = ask(&mount, Operation::Read, "evidence/export", json!({})).await.unwrap().unwrap();
    let public = plain(&export, "public_key").as_str().unwrap().to_owned();
    let whole = json!({ "events": plain(&export, "events"), "checkpoint": plain(&export, "checkpoint"), "cut": plain(&export, "cut") });
    let judge = |text: &Value| verify::file(&text.to_string(), vec![], Some(&public));
    let sound = judge(&whole).unwrap();
    assert_eq!((sound.first, sound.cut, sound.signed, sound.decisions.unrepeatable), (gone + 1, gone, true, 0));
    assert!(sound.decisions.repeated > 0 && sound.decisions.otherwise.is_empty());
    let mut changed = whole.clone();
    changed["cut"]["peaks"][0] = changed["cut"]["checkpoint"]["head"].clone();
    assert_eq!(judge(&changed), Err(verify::Flaw::Cut(gone)));
    let mut changed = whole.clone();
    changed["cut"]["checkpoint"]["time"] = json!("2020-01-01T00:00:00.000Z");
    assert_eq!(judge(&changed), Err(verify::Flaw::Signature(gone)));
    let mut changed = whole.clone();
    changed["events"].as_array_mut().unwrap().remove(0);
    assert!(matches!(judge(&changed), Err(verify::Flaw::Order { .. })));
    let seq = gone + 3;
    let answer = ask(&mount, Operation::Read, &format!("evidence/proof/{seq}"), json!({})).await.unwrap().unwrap();
    let one = json!({ "event": plain(&answer, "event"), "path": plain(&answer, "path"), "checkpoint": plain(&answer, "checkpoint") });
    assert_eq!(judge(&one).unwrap().first, seq);
    ask(&mount, Operation::Read, "evidence/proof/1", json!({})).await.unwrap_err();

    // And again, on top.
    later(&world, 100 * DAY);
    let again = plain(&prune(&mount, false).await.unwrap(), "record_begins_after").as_u64().unwrap();
    assert!(again > gone && first_event(&mount).await == again + 1);
    assert_eq!(plain(&verified(&mount, checkpoint(&mount).await).await, "valid"), json!(true));
    assert!(chain(&mount, &second).await.is_none());

    // What is missing without a word for it is a flaw.
    world.entries.lock().unwrap().remove("evidence/cut");
    assert_eq!(plain(&verified(&mount, Value::Null).await, "valid"), json!(false));
}

#[tokio::test]
async fn what_is_held_open_or_not_told_stays() {
    let (world, mount) = gated(json!({})).await;
    config(&mount, ninety_days()).await;
    let id = round(&mount).await;
    let hold = async |who: &str, fields: Value| {
        by(&mount, who, Operation::Update, &format!("requests/secret/{id}/hold"), fields).await
    };
    hold("bob", json!({})).await.unwrap_err();
    hold("bob", json!({ "reason": "a lawsuit" })).await.unwrap();
    later(&world, 100 * DAY);
    // The policy's own writing may go.
    let answer = prune(&mount, false).await.unwrap();
    assert!(kept_by(&answer).contains(&format!("{id} is held")), "{answer:?}");
    assert_eq!(plain(&chain(&mount, &id).await.unwrap(), "complete"), json!(true));

    hold("bob", json!({ "reason": "it is over", "hold": false })).await.unwrap();
    config(&mount, json!({ "legal_hold": true })).await;
    assert!(kept_by(&prune(&mount, false).await.unwrap()).contains("legal_hold"));
    config(&mount, json!({ "legal_hold": false })).await;

    // Nobody is there to be told.
    let hook = json!({ "url": "https://localhost/x", "signing_key": "0123456789abcdef" });
    ask(&mount, Operation::Update, "notify/ops", hook).await.unwrap();
    let second = round(&mount).await;
    assert!(chain(&mount, &id).await.is_some());
    prune(&mount, false).await.unwrap();
    assert!(chain(&mount, &id).await.is_none(), "from before the hook");
    later(&world, 100 * DAY);
    let answer = prune(&mount, false).await.unwrap();
    assert!(kept_by(&answer).contains("notify/ops"), "{answer:?}");
    assert!(chain(&mount, &second).await.is_some());
    let open = file(&mount, "ann").await.unwrap();
    ask(&mount, Operation::Delete, "notify/ops", json!({})).await.unwrap();
    prune(&mount, false).await.unwrap();
    assert!(chain(&mount, &second).await.is_none());
    later(&world, 100 * DAY);
    let answer = prune(&mount, false).await.unwrap();
    assert!(kept_by(&answer).contains(&format!("{open} is not over")), "nobody has looked at it: {answer:?}");
    assert_eq!(plain(&verified(&mount, Value::Null).await, "valid"), json!(true));
    for wrong in ["29d", "x"] {
        let fields = json!({ "retention": { "low": wrong, "medium": "90d", "high": "90d", "critical": "90d" } });
        ask(&mount, Operation::Update, "config/jit", fields).await.unwrap_err();
    }
}

#[tokio::test]
async fn nothing_is_taken_from_a_record_that_was_changed() {
    let (world, mount) = gated(json!({})).await;
    config(&mount, ninety_days()).await;
    let id = round(&mount).await;
    later(&world, 100 * DAY);
    round(&mount).await;
    let seq = request_of(&mount, &id).await.first_event;
    let key = format!("{}{:010}/{seq:016}", evidence::PREFIX, 0);
    let text = world.entries.lock().unwrap()[&key].clone();
    world.entries.lock().unwrap().insert(key.clone(), text.replace("because", "be cause"));
    let before = batches(&world);
    let why = prune(&mount, false).await.unwrap_err().to_string();
    assert!(why.contains("not sound"), "{why}");
    assert_eq!((batches(&world), first_event(&mount).await), (before, 1));
    world.entries.lock().unwrap().insert(key, text);
    assert!(first_event(&mount).await == 1 && prune(&mount, false).await.is_ok() && first_event(&mount).await > 1);
}

/// Storage refuses, or took it and said that it did not, at each step: what is read is sound, and the next one finishes.
#[tokio::test]
async fn who_fails_in_the_middle_of_pruning_leaves_a_sound_record() {
    let mut points = 0;
    for point in 1.. {
        let (world, mount) = gated(json!({})).await;
        config(&mount, ninety_days()).await;
        let first = round(&mount).await;
        later(&world, 100 * DAY);
        let second = round(&mount).await;
        world.faults.arm(point, Fault::Error);
        let pruned = prune(&mount, false).await;
        if !world.faults.disarm() {
            pruned.unwrap();
            break;
        }
        points = point;
        let mount = super::super::mount(&world);
        assert_eq!(plain(&verified(&mount, checkpoint(&mount).await).await, "valid"), json!(true), "{point}");
        let gone = plain(&prune(&mount, false).await.unwrap(), "record_begins_after").as_u64().unwrap();
        assert_eq!(plain(&verified(&mount, checkpoint(&mount).await).await, "valid"), json!(true), "{point}");
        assert!(chain(&mount, &first).await.is_none() && chain(&mount, &second).await.is_some(), "{point}");
        assert_eq!(first_event(&mount).await, gone + 1);
        let left = evidence::read(&mount, 1, 10_000).await.unwrap();
        assert!(batches(&world) <= left.len(), "{point}: nothing is left of what went");
    }
    assert!(points > 10, "{points}");
}

/// R33: the whole way, by the same code, and nobody gets anything.
#[tokio::test]
async fn a_self_test_goes_the_whole_way_and_gives_nobody_anything() {
    let (world, mount) = gated(json!({})).await;
    let test = async || ask(&mount, Operation::Update, "selftest/secret", json!({})).await;
    let answer = test().await.unwrap().unwrap();
    let field = |key: &str| plain(&answer, key);
    assert_eq!((field("passed"), field("missing"), field("state")), (json!(true), json!([]), json!("closed")));
    assert_eq!((field("login"), field("login_afterwards"), field("gone")), (json!("open"), json!("shut"), json!(true)));
    let links = ["request", "approval", "issuance", "execution", "revocation"];
    assert!(links.iter().all(|link| field("links")[link]["seq"].is_u64()), "{}", field("links"));
    assert_eq!(field("links")["approval"]["kind"], "decision.drill");
    assert!(field("events").as_array().unwrap().iter().all(|event| event["drill"] == true));
    assert!(!format!("{:?}", answer.data).contains("password"), "nothing that opens it");
    assert_eq!((live(&world), answer.lease.is_none()), (0, true));
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    let coverage = ask(&mount, Operation::Read, "reports/coverage", json!({})).await.unwrap().unwrap();
    assert!(!format!("{coverage:?}").contains("self-test"), "{coverage:?}");
    record_is_sound(&mount).await;

    *world.logging_in.lock().unwrap() = Some(Door::Shut);
    assert_eq!(plain(&test().await.unwrap().unwrap(), "passed"), json!(false), "nobody could log in");
    *world.logging_in.lock().unwrap() = None;
    ask(&mount, Operation::Update, "freezes/now", json!({ "reason": "change freeze" })).await.unwrap();
    refused(test().await, 403, "jit_frozen");
    ask(&mount, Operation::Delete, "freezes/now", json!({})).await.unwrap();
    ask(&mount, Operation::Update, "selftest/app", json!({})).await.unwrap_err();
    ask(&mount, Operation::Update, "selftest/none", json!({})).await.unwrap_err();
    assert_eq!(live(&world), 0);
}

/// R33: whatever fails in it, nothing lives on, and what its process left undone is done by the tick.
#[tokio::test]
async fn a_self_test_that_fails_leaves_nothing() {
    let mut points = 0;
    for point in 1.. {
        let (world, mount) = gated(json!({})).await;
        ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap();
        world.users.lock().unwrap().clear();
        world.faults.arm(point, Fault::Error);
        let tested = ask(&mount, Operation::Update, "selftest/secret", json!({})).await;
        if !world.faults.disarm() {
            tested.unwrap();
            break;
        }
        points = point;
        for _ in 0..20 {
            later(&world, 31);
            access::tick(&mount).await;
        }
        assert_eq!(live(&world), 0, "{point}: {tested:?}");
        assert!(!world.entries.lock().unwrap().keys().any(|key| key.starts_with(OPEN)), "{point}: {tested:?}");
        record_is_sound(&mount).await;
    }
    assert!(points > 5, "{points}");

    let (world, mount) = gated(json!({})).await;
    let gate = access::verbs::gate_of(&mount, "secret").await.unwrap();
    let source = request(Operation::Update, "selftest/secret", json!({}));
    let (left, _, lock) = drill::file(&mount, "secret", &gate, BTreeMap::new(), &source).await.unwrap();
    access::tick(&mount).await;
    assert_eq!(state(&mount, &left.id).await, State::Approved, "somebody is at it");
    refused(read(&mount, "").await, 403, "jit_identity");
    drop(lock);
    later(&world, 31);
    access::tick(&mount).await;
    assert_eq!(state(&mount, &left.id).await, State::Closed);
}

/// R30, and the cost of it all: what a gated issue writes besides.
#[tokio::test]
async fn a_gated_issue_writes_three_times() {
    let (world, mount) = gated(json!({ "uses": 0 })).await;
    let id = file(&mount, "ann").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    // The first makes the keys of markers and checkpoints.
    read(&mount, "ann").await.unwrap();
    for _ in 0..3 {
        world.writes.store(0, Ordering::SeqCst);
        world.deletions.store(0, Ordering::SeqCst);
        read(&mount, "ann").await.unwrap();
        let spent = (world.writes.load(Ordering::SeqCst), world.deletions.load(Ordering::SeqCst));
        assert_eq!(spent, (3, 0), "the intent, the use, that it was made");
    }
}
