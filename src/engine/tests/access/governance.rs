//! What stands around requests: rules in Cedar, recording, tickets, alerts, reviews, changes of the rules.

use super::*;

async fn policy(mount: &Mount, fields: Value) -> Reply {
    ask(mount, Operation::Update, "policies/p", fields).await
}

async fn granted(mount: &Mount, who: &str) -> String {
    let id = file(mount, who).await.unwrap();
    act(mount, "bob", &id, "approve").await.unwrap();
    id
}

async fn report(mount: &Mount, name: &str) -> Response {
    ask(mount, Operation::Read, &format!("reports/{name}"), json!({})).await.unwrap().unwrap()
}

/// R15: rules in Cedar narrow what the fields allow, at each step; with them some requests need nobody and the rest people.
#[tokio::test]
async fn rules_in_cedar_decide_at_every_step() {
    let (world, mount) = gated(json!({ "uses": 0 })).await;
    assert_eq!(refusal(policy(&mount, json!({ "cedar": "permit(" })).await).0, 400);
    let rules = r#"@id("all") permit(principal, action, resource);
                   @id("morning") forbid(principal, action == Action::"issue", resource) unless { context.hour < 10 };
                   @id("short") forbid(principal, action == Action::"auto_approve", resource) unless { context.ttl <= 300 };"#;
    policy(&mount, json!({ "cedar": rules, "approval": "auto" })).await.unwrap();
    let ask_for = |ttl: u64| json!({ "reason": "because", "ttl": ttl });
    let reply = by(&mount, "ann", Operation::Create, "requests/secret", ask_for(3000)).await.unwrap().unwrap();
    assert_eq!(plain(&reply, "state"), json!("pending"), "too long for the rule: people decide");
    let id = plain(&reply, "request_id").as_str().unwrap().to_owned();
    refused(read(&mount, "ann").await, 403, "jit_pending");
    assert_eq!(act(&mount, "bob", &id, "approve").await.unwrap(), "approved");
    read(&mount, "ann").await.unwrap();
    let reply = by(&mount, "cid", Operation::Create, "requests/secret", ask_for(300)).await.unwrap().unwrap();
    assert_eq!((plain(&reply, "state"), plain(&reply, "mode")), (json!("approved"), json!("auto")));
    read(&mount, "cid").await.unwrap();
    let events = evidence::read(&mount, 1, 1000).await.unwrap();
    let intent = events.iter().find(|event| event["kind"] == "issue.intent").unwrap();
    assert_eq!(intent["rules"], json!(["all"]), "which of them allowed it");
    assert!(!intent["policy_hash"].as_str().unwrap().is_empty());
    later(&world, 7200);
    let reply = by(&mount, "cid", Operation::Create, "requests/secret", ask_for(300)).await.unwrap().unwrap();
    assert_eq!(plain(&reply, "state"), json!("approved"));
    refused(read(&mount, "cid").await, 403, "jit_policy");
    // Tightened: what is out ends within a tick.
    world.later.fetch_sub(7200, Ordering::SeqCst);
    let (world, mount) = gated(json!({})).await;
    let id = granted(&mount, "ann").await;
    read(&mount, "ann").await.unwrap();
    policy(&mount, json!({ "cedar": "permit(principal in Group::\"others\", action, resource);" })).await.unwrap();
    later(&world, 31);
    access::tick(&mount).await;
    assert_eq!((live(&world), state(&mount, &id).await), (0, State::Closed));
}

/// R21: where the target cannot record there is no credential, or a short one; break-glass goes on and it is said.
#[tokio::test]
async fn what_must_be_recorded_is_or_is_not_given() {
    let (world, mount) = gated(json!({ "recording": "require", "uses": 0, "break_glass_groups": "devs" })).await;
    granted(&mount, "ann").await;
    refused(read(&mount, "ann").await, 503, "jit_recording_unavailable");
    assert_eq!(live(&world), 0);
    world.records.store(true, Ordering::SeqCst);
    read(&mount, "ann").await.unwrap();
    assert_eq!(*world.recorded.lock().unwrap(), [true]);
    world.records.store(false, Ordering::SeqCst);
    policy(&mount, json!({ "recording": "prefer", "max_ttl_unrecorded": 120 })).await.unwrap();
    let lease = read(&mount, "ann").await.unwrap().unwrap().lease.unwrap();
    assert_eq!(lease.ttl, Duration::from_secs(120));
    policy(&mount, json!({ "recording": "require" })).await.unwrap();
    let glass = json!({ "reason": "the shop is down", "incident": "INC-1" });
    by(&mount, "ann", Operation::Update, "break-glass/secret", glass).await.unwrap();
    read(&mount, "ann").await.unwrap();
    let events = evidence::read(&mount, 1, 1000).await.unwrap();
    let told: Vec<&Value> =
        events.iter().filter(|event| event["kind"] == "issue.intent").map(|event| &event["recorded"]).collect();
    assert_eq!(told, [&json!(true), &json!(false), &json!(false)]);
    // Who wants no record costs no question.
    assert_eq!(world.recorded.lock().unwrap().len(), 3);
}

fn answers(world: &World, status: u16, body: &Value) {
    *world.web.lock().unwrap() = Some(Posted { status, body: body.to_string() });
}

async fn hooked(mount: &Mount, events: &str) {
    let hook = json!({ "url": "https://hooks.example/x", "signing_key": "0123456789abcdef", "events": events });
    ask(mount, Operation::Create, "notify/ops", hook).await.unwrap();
}

fn sent(world: &World) -> Vec<String> {
    let posts = std::mem::take(&mut *world.posted.lock().unwrap());
    let body = |post: &Post| serde_json::from_str::<Value>(&post.body).unwrap();
    posts.iter().map(|post| body(post)["event"]["kind"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Every event reaches who wants it, in order, however often the server is away or the process dies.
#[tokio::test]
async fn who_wants_to_know_is_told_until_they_are() {
    let (world, mount) = gated(json!({})).await;
    for bad in [
        json!({ "url": "http://hooks.example", "signing_key": "0123456789abcdef" }),
        json!({ "url": "https://u:p@hooks.example", "signing_key": "0123456789abcdef" }),
        json!({ "url": "https://hooks.example", "signing_key": "short" }),
        json!({ "url": "https://hooks.example" }),
    ] {
        assert_eq!(refusal(ask(&mount, Operation::Create, "notify/ops", bad).await).0, 400);
    }
    hooked(&mount, "request.*,vote.*").await;
    let shown = ask(&mount, Operation::Read, "notify/ops", json!({})).await.unwrap().unwrap();
    assert!(!format!("{shown:?}").contains("0123456789abcdef"), "the key is never shown");
    let id = file(&mount, "ann").await.unwrap();
    access::hook::tick(&mount).await.unwrap();
    assert_eq!(sent(&world).len(), 0, "nobody is there");
    act(&mount, "bob", &id, "approve").await.unwrap();
    let mount = super::super::mount(&world);
    answers(&world, 200, &json!({}));
    access::hook::tick(&mount).await.unwrap();
    assert_eq!(sent(&world).len(), 0, "a pause after a failure");
    later(&world, 10);
    access::hook::tick(&mount).await.unwrap();
    let post = world.posted.lock().unwrap()[0].clone();
    let header = |name: &str| post.headers.iter().find(|(key, _)| *key == name).unwrap().1.clone();
    let key = Secret::new("0123456789abcdef".into());
    let wanted = crate::secret::mac::hmac_sha256(&key, &[&header("x-leasehold-time"), ".", &post.body]);
    assert_eq!(header("x-leasehold-signature"), format!("sha256={wanted}"));
    assert_eq!(sent(&world), ["request.filed", "vote.approve"], "what it does not want is left out");
    access::hook::tick(&mount).await.unwrap();
    assert!(sent(&world).is_empty(), "once");

    // What it refuses is put aside, and does not hold up the rest.
    answers(&world, 400, &json!({}));
    act(&mount, "ann", &id, "cancel").await.unwrap();
    for _ in 0..4 {
        access::hook::tick(&mount).await.unwrap();
        later(&world, 400);
    }
    let dead = ask(&mount, Operation::Read, "notify/ops/dead", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&dead, "events")[0]["why"], json!("it answered 400"));
    sent(&world);
    answers(&world, 204, &json!({}));
    let again = ask(&mount, Operation::Update, "notify/ops/retry", json!({})).await.unwrap().unwrap();
    assert_eq!((plain(&again, "taken"), sent(&world)), (json!(1), vec!["request.cancelled".to_owned()]));
    assert_eq!(plain(&report(&mount, "notifications").await, "lines")[0]["dead"], json!(0));
}

/// A gated issue writes no more because somebody is told of it, and break-glass is told before access is given.
#[tokio::test]
async fn alerts_cost_an_issue_nothing_and_break_glass_is_told_at_once() {
    let (world, mount) = gated(json!({ "uses": 0, "break_glass_groups": "devs" })).await;
    hooked(&mount, "*").await;
    answers(&world, 200, &json!({}));
    granted(&mount, "ann").await;
    read(&mount, "ann").await.unwrap();
    world.writes.store(0, Ordering::SeqCst);
    read(&mount, "ann").await.unwrap();
    assert_eq!(world.writes.load(Ordering::SeqCst), 3);
    let glass = json!({ "reason": "the shop is down", "incident": "INC-1" });
    by(&mount, "ann", Operation::Update, "break-glass/secret", glass).await.unwrap();
    assert_eq!(sent(&world).last().map(String::as_str), Some("breakglass.used"));
}

/// R14: no open ticket, no request; a ticket that is closed ends the grant; a ticket system that is away gives nothing.
#[tokio::test]
async fn a_ticket_is_asked_about_and_its_end_ends_the_grant() {
    let fields = json!({ "ticket_pattern": "CHG-[0-9]+", "ticket_hook": "ops", "end_with_ticket": true, "uses": 0 });
    let (world, mount) = gated(fields).await;
    hooked(&mount, "nothing").await;
    let file = |ticket: &'static str| {
        by(&mount, "ann", Operation::Create, "requests/secret", json!({ "reason": "because", "ticket": ticket }))
    };
    refused(file("CHG-1").await, 503, "jit_ticket");
    answers(&world, 200, &json!({ "open": false }));
    refused(file("CHG-1").await, 403, "jit_ticket");
    answers(&world, 200, &json!({ "open": true, "assignee": "zoe" }));
    refused(file("CHG-1").await, 403, "jit_ticket");
    answers(&world, 200, &json!({ "open": true, "assignee": "ann" }));
    let id = plain(&file("CHG-1").await.unwrap().unwrap(), "request_id").as_str().unwrap().to_owned();
    act(&mount, "bob", &id, "approve").await.unwrap();
    read(&mount, "ann").await.unwrap();
    *world.web.lock().unwrap() = None;
    refused(read(&mount, "ann").await, 503, "jit_ticket");
    later(&world, 31);
    access::tick(&mount).await;
    assert_eq!(live(&world), 1, "a ticket system that is away ends nothing");
    answers(&world, 200, &json!({ "open": false }));
    later(&world, 31);
    access::tick(&mount).await;
    assert_eq!((live(&world), request_of(&mount, &id).await.end.unwrap().cause), (0, "ticket".to_owned()));
}

/// R17: who has gone away has given back.
#[tokio::test]
async fn a_grant_that_nobody_uses_ends() {
    let (world, mount) = gated(json!({ "end_idle": 120, "grant_ttl": "8h" })).await;
    assert_eq!(refusal(policy(&mount, json!({ "end_idle": 5 })).await).0, 400);
    let id = granted(&mount, "ann").await;
    read(&mount, "ann").await.unwrap();
    let pass = async |silence: Option<u64>| {
        *world.silence.lock().unwrap() = Some(silence);
        later(&world, 60);
        access::tick(&mount).await;
    };
    for _ in 0..5 {
        pass(Some(0)).await;
    }
    assert_eq!(live(&world), 1, "in use");
    pass(Some(50)).await;
    pass(None).await;
    assert_eq!(live(&world), 1, "only a moment ago");
    pass(None).await;
    assert_eq!((live(&world), request_of(&mount, &id).await.end.unwrap().cause), (0, "idle".to_owned()));
}

/// R35: what nobody keeps in time is taken away, and what is revoked ends.
#[tokio::test]
async fn what_nobody_keeps_in_a_review_is_taken_away() {
    let (world, mount) = gated(json!({ "uses": 0, "max_active": 0 })).await;
    granted(&mount, "ann").await;
    read(&mount, "ann").await.unwrap();
    let of_cid = granted(&mount, "cid").await;
    read(&mount, "cid").await.unwrap();
    let begun = json!({ "due": 1000 });
    let started = ask(&mount, Operation::Create, "reviews/q1", begun.clone()).await.unwrap().unwrap();
    let items = plain(&started, "items");
    assert_eq!(items.as_array().unwrap().len(), 2, "{items}");
    assert_eq!((&items[0]["who"]["name"], &items[0]["issued"]), (&json!("ann-name"), &json!(1)));
    assert_eq!(refusal(ask(&mount, Operation::Create, "reviews/q1", begun).await).0, 400, "the list stays");
    let decide = |who: &'static str, item: &'static str, decision: &'static str| {
        let body = json!({ "decision": decision, "comment": "looked at it" });
        let path: &'static str = if item == "1" { "reviews/q1/items/1" } else { "reviews/q1/items/2" };
        by(&mount, who, Operation::Update, path, body)
    };
    refused(decide("ann", "1", "keep").await, 403, "jit_policy");
    refused(decide("cid", "2", "keep").await, 403, "jit_policy");
    decide("bob", "2", "revoke").await.unwrap();
    assert_eq!((live(&world), state(&mount, &of_cid).await), (1, State::Closed), "what was out is over");
    refused(file(&mount, "cid").await, 403, "jit_policy");
    read(&mount, "ann").await.unwrap();
    later(&world, 1001);
    refused(read(&mount, "ann").await, 403, "jit_policy");
    let shown = ask(&mount, Operation::Read, "reviews/q1", json!({})).await.unwrap().unwrap();
    assert_eq!(plain(&shown, "overdue"), json!(true));
    decide("bob", "1", "keep").await.unwrap();
    read(&mount, "ann").await.unwrap();
    record_is_sound(&mount).await;
}

/// R23: what can be done without asking is in a report, until somebody answers for it, and only so long.
#[tokio::test]
async fn standing_rights_are_open_until_somebody_answers_for_them() {
    let (world, mount) = gated(json!({})).await;
    let shown = report(&mount, "standing").await;
    assert_eq!(plain(&shown, "open")[0]["name"], json!("rogue"));
    let id = plain(&shown, "open")[0]["id"].as_str().unwrap().to_owned();
    let path = format!("acknowledgements/{id}");
    assert_eq!(refusal(ask(&mount, Operation::Create, &path, json!({ "owner": "cid" })).await).0, 400);
    let known = json!({ "owner": "cid", "reason": "the backup", "ttl": 1000 });
    ask(&mount, Operation::Create, &path, known).await.unwrap();
    let shown = report(&mount, "standing").await;
    assert_eq!((plain(&shown, "open"), plain(&shown, "acknowledged")[0]["owner"].clone()), (json!([]), json!("cid")));
    later(&world, 1001);
    assert_eq!(plain(&report(&mount, "standing").await, "open")[0]["name"], json!("rogue"));
}

/// What a change of a policy would have changed, without changing it.
#[tokio::test]
async fn a_candidate_is_judged_by_what_was_asked() {
    let (world, mount) = gated(json!({ "max_active": 0 })).await;
    granted(&mount, "ann").await;
    file(&mount, "cid").await.unwrap();
    let before = world.entries.lock().unwrap().clone();
    let run = |fields: Value| ask(&mount, Operation::Update, "policies/p/simulate", fields);
    let same = run(json!({})).await.unwrap().unwrap();
    assert_eq!((plain(&same, "judged"), plain(&same, "differences")), (json!(2), json!([])));
    let tighter = run(json!({ "eligible_groups": "leads" })).await.unwrap().unwrap();
    let differences = plain(&tighter, "differences");
    assert_eq!(differences.as_array().unwrap().len(), 1, "{differences}");
    assert!(differences[0]["candidate"].as_str().unwrap().contains("eligible_groups"), "{differences}");
    let looser = run(json!({ "approval": "auto", "steps": [] })).await.unwrap().unwrap();
    assert_eq!(plain(&looser, "candidate_decides"), json!({ "approved": 2 }));
    let cedar = "permit(principal, action, resource); forbid(principal in Group::\"sec\", action, resource);";
    let narrower = run(json!({ "cedar": cedar })).await.unwrap().unwrap();
    assert_eq!(plain(&narrower, "candidate_decides"), json!({ "approved": 1, "refused": 1 }));
    assert_eq!(refusal(run(json!({ "steps": [] })).await).0, 400, "a candidate that could not be written");
    assert!(plain(&same, "not_judged").as_str().unwrap().contains("max_coverage"));
    assert_eq!(*world.entries.lock().unwrap(), before, "nothing was written");
}

/// R15: a candidate is told what there was beside each request: other grants, coverage, freezes.
#[tokio::test]
async fn a_candidate_is_told_what_there_was_then() {
    let (world, mount) = gated(json!({ "max_active": 0, "uses": 0, "grant_ttl": "8h" })).await;
    let run = async |rule: &str| {
        let cedar =
            format!("permit(principal, action, resource); forbid(principal, action, resource) when {{ {rule} }};");
        let answer = ask(&mount, Operation::Update, "policies/p/simulate", json!({ "cedar": cedar })).await;
        plain(&answer.unwrap().unwrap(), "candidate_decides")
    };
    granted(&mount, "ann").await;
    read(&mount, "ann").await.unwrap();
    later(&world, 3600 * 7);
    ask(&mount, Operation::Create, "freezes/f", json!({ "reason": "year end", "ttl": 60 })).await.unwrap();
    let id = file(&mount, "cid").await.unwrap();
    act(&mount, "bob", &id, "approve").await.unwrap();
    later(&world, 61);
    assert_eq!(run("context.frozen").await, json!({ "approved": 1, "refused": 1 }));
    assert_eq!(run("context.live > 0").await, json!({ "approved": 2 }), "of other people");
    later(&world, 3600);
    access::tick(&mount).await;
    granted(&mount, "ann").await;
    assert_eq!(run("context.coverage > 300").await, json!({ "approved": 2, "refused": 1 }));
    assert_eq!(run("context.live > 0").await, json!({ "approved": 3 }), "it was over by then");
}

/// R16: what was decided is decided again, by the text and the facts that are in the record; what cannot be is named.
#[tokio::test]
async fn what_was_decided_is_decided_again() {
    let cedar = "@id(\"all\") permit(principal, action, resource); \
                 @id(\"busy\") forbid(principal, action, resource) when { context.coverage > 990 };";
    let (_world, mount) = gated(json!({ "cedar": cedar, "break_glass_groups": "devs" })).await;
    granted(&mount, "ann").await;
    read(&mount, "ann").await.unwrap();
    let glass = json!({ "reason": "the shop is down", "incident": "INC-1" });
    by(&mount, "ann", Operation::Update, "break-glass/secret", glass).await.unwrap();
    read(&mount, "ann").await.unwrap();
    let verified = async || {
        let answer = ask(&mount, Operation::Update, "evidence/verify", json!({})).await.unwrap().unwrap();
        (plain(&answer, "valid"), plain(&answer, "decisions_hold"), plain(&answer, "decisions"))
    };
    let (valid, hold, decisions) = verified().await;
    assert_eq!((valid, hold, &decisions["repeated"]), (json!(true), json!(true), &json!(4)), "{decisions}");
    // The policy of then counts, not that of now.
    policy(&mount, json!({ "never": true, "cedar": "" })).await.unwrap();
    assert_eq!(verified().await.2["repeated"], json!(4));
    // What neither votes nor rules bear, and what cannot be known.
    let events = evidence::read(&mount, 1, 100).await.unwrap();
    let decided = events.iter().find(|event| event["kind"] == "decision.approved").unwrap();
    let again = |facts: Value, rules: Value| {
        let draft = evidence::event::Draft::new("decision.approved").with("request_id", decided["request_id"].clone());
        draft.with("decision", decided["decision"].clone()).with("rules", rules).with("facts", facts)
    };
    let mut alone = decided["facts"].clone();
    alone["voters"] = json!([]);
    let drafts = vec![
        again(alone, decided["rules"].clone()),
        again(decided["facts"].clone(), json!(["busy"])),
        again(Value::Null, decided["rules"].clone()),
    ];
    evidence::append(&mount, drafts).await.unwrap();
    let (valid, hold, decisions) = verified().await;
    assert_eq!((valid, hold), (json!(true), json!(false)), "{decisions}");
    assert!(decisions["otherwise"][0]["why"].as_str().unwrap().contains("0 of 1 votes"), "{decisions}");
    assert!(decisions["otherwise"][1]["why"].as_str().unwrap().contains("permitted by all"), "{decisions}");
    assert!(decisions["first_unrepeatable"][0]["why"].as_str().unwrap().contains("facts"), "{decisions}");
    assert_eq!(decisions["unrepeatable"], json!(1));
    // The same on another machine.
    let text: String = evidence::read(&mount, 1, 100).await.unwrap().iter().map(|event| format!("{event}\n")).collect();
    assert_eq!(json!(verify::file(&text, vec![], None).unwrap().decisions), decisions);
}

/// R10: where users are slow to go, nobody gets one for long; a new process knows it from the record.
#[tokio::test]
async fn where_ends_are_slow_less_is_given() {
    let (world, mount) = gated(json!({ "uses": 0, "max_active": 0, "max_ttl_slow_revoke": 120 })).await;
    let ttl = async |mount: &Mount| {
        let id = granted(mount, "ann").await;
        let ttl = read(mount, "ann").await.unwrap().unwrap().lease.unwrap().ttl.as_secs();
        (id, ttl)
    };
    let (id, first) = ttl(&mount).await;
    assert!(first > 120, "nothing is known");
    act(&mount, "ann", &id, "complete").await.unwrap();
    let (id, second) = ttl(&mount).await;
    assert!(second > 120, "that one was quick");
    world.down.store(true, Ordering::SeqCst);
    drop(act(&mount, "ann", &id, "complete").await);
    world.down.store(false, Ordering::SeqCst);
    later(&world, 10);
    access::tick(&mount).await;
    let (id, third) = ttl(&mount).await;
    assert_eq!(third, 120, "one of two could not be done at once");
    act(&mount, "ann", &id, "complete").await.unwrap();
    // What the record says: an end that took ten seconds, of another database and of this.
    for (target, wanted) in [("other", false), ("pg", true)] {
        let end = json!({ "verdict": "verified", "milliseconds": 10_000 });
        let draft = evidence::event::Draft::new("revoke.verified").with("target", target).with("end", end);
        let next = super::super::mount(&world);
        evidence::append(&next, vec![draft]).await.unwrap();
        let (id, ttl) = ttl(&next).await;
        assert_eq!(ttl == 120, wanted, "{target} {ttl}");
        act(&next, "ann", &id, "complete").await.unwrap();
    }
}

/// R12, R36: what can be known of people from those who were here.
#[tokio::test]
async fn a_policy_that_nobody_known_could_approve_is_reported() {
    let (world, mount) = gated(json!({ "steps": [{ "groups": ["leads"], "min": 2 }], "uses": 0 })).await;
    let lines = async || plain(&report(&mount, "unapprovable").await, "lines");
    assert!(lines().await[0]["why"].as_str().unwrap().contains("0 of 2"), "nobody was here");
    let id = file(&mount, "ann").await.unwrap();
    for who in ["bob", "cid"] {
        act(&mount, who, &id, "approve").await.unwrap();
    }
    assert_eq!(lines().await, json!([]));
    let role = json!({ "db_name": "pg", "creation_statements": "CREATE ROLE \"{{name}}\"", "jit_policy": "p" });
    ask(&mount, Operation::Create, "roles/other", role).await.unwrap();
    let never = plain(&report(&mount, "unused").await, "eligible_and_asked_for_other_roles_only");
    let of_ann = never.as_array().unwrap().iter().filter(|line| line["who"] == "ann-name").collect::<Vec<_>>();
    assert_eq!(of_ann, [&json!({ "role": "other", "who": "ann-name" })], "{never}");
    change(&world, "cid", |entity, _| entity.disabled = true);
    let found = lines().await;
    assert_eq!(found[0]["certain"], json!(false));
    assert!(found[0]["why"].as_str().unwrap().contains("1 of 2"), "{found}");
    // R27: no user is handed out twice.
    let mut names: Vec<Value> = Vec::new();
    change(&world, "cid", |entity, _| entity.disabled = false);
    for _ in 0..5 {
        names.push(plain(&read(&mount, "ann").await.unwrap().unwrap(), "username"));
    }
    names.sort_by_key(Value::to_string);
    names.dedup();
    assert_eq!(names.len(), 5);
}

/// R37: only in an incident that somebody else has declared, where the policy says so.
#[tokio::test]
async fn the_glass_is_broken_in_an_incident_that_another_has_declared() {
    let (world, mount) = gated(json!({ "break_glass_groups": "devs", "break_glass_incident": true, "uses": 0 })).await;
    let glass = || {
        let body = json!({ "reason": "the shop is down", "incident": "INC-1" });
        by(&mount, "ann", Operation::Update, "break-glass/secret", body)
    };
    let declare = |who: &'static str, incident: &'static str, more: Value| {
        let mut body = json!({ "reason": "the shop is down", "incident": incident, "flag_only": true, "ttl": 1000 });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        by(&mount, who, Operation::Update, "freezes/shop", body)
    };
    refused(glass().await, 403, "jit_policy");
    refused(declare("", "INC-1", json!({})).await, 403, "jit_identity");
    assert_eq!(refusal(declare("bob", "", json!({})).await).0, 400);
    for (who, incident, roles) in [("ann", "INC-1", "*"), ("bob", "INC-2", "*"), ("bob", "INC-1", "others-*")] {
        declare(who, incident, json!({ "roles": roles })).await.unwrap();
        refused(glass().await, 403, "jit_policy");
    }
    declare("bob", "INC-1", json!({})).await.unwrap();
    // It stops nothing.
    granted(&mount, "cid").await;
    read(&mount, "cid").await.unwrap();
    later(&world, 1001);
    refused(glass().await, 403, "jit_policy");
    declare("bob", "INC-1", json!({})).await.unwrap();
    glass().await.unwrap();
    read(&mount, "ann").await.unwrap();
}

/// R40: a policy that wants ends which were seen to be ends is for roles that can give them.
#[tokio::test]
async fn a_role_that_cannot_show_its_ends_is_refused_where_the_policy_asks_for_them() {
    let (world, mount) = gated(json!({})).await;
    policy(&mount, json!({ "verified_end": true })).await.unwrap();
    let write = |fields: Value| ask(&mount, Operation::Update, "roles/secret", fields);
    assert!(refusal(write(json!({ "default_ttl": 50 })).await).1.contains("say verify=required"));
    assert!(refusal(write(json!({ "verify": "required", "sessions": "keep" })).await).1.contains("terminate"));
    world.weak.store(true, Ordering::SeqCst);
    assert!(refusal(write(json!({ "verify": "required" })).await).1.contains("GRANT SIGNALS"));
    world.weak.store(false, Ordering::SeqCst);
    world.down.store(true, Ordering::SeqCst);
    assert!(refusal(write(json!({ "verify": "required" })).await).1.contains("could not be asked"));
    world.down.store(false, Ordering::SeqCst);
    write(json!({ "verify": "required" })).await.unwrap();
}

/// R42: one writes, another activates; neither the gate of a role nor the setting itself is a way around.
#[tokio::test]
async fn rules_are_changed_by_two() {
    let (_world, mount) = gated(json!({})).await;
    ask(&mount, Operation::Update, "config/jit", json!({ "policy_change": "two_person" })).await.unwrap();
    let looser = json!({ "steps": [], "approval": "auto", "require_reason": 0 });
    refused(policy(&mount, looser.clone()).await, 403, "jit_identity");
    by(&mount, "bob", Operation::Update, "policies/p", looser).await.unwrap();
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    let shown = ask(&mount, Operation::Read, "policies/p", json!({})).await.unwrap().unwrap();
    assert_eq!(
        (plain(&shown, "approval"), plain(&shown, "staged")["approval"].clone()),
        (json!("manual"), json!("auto"))
    );
    let activate = |who: &'static str, path: &'static str| by(&mount, who, Operation::Update, path, json!({}));
    refused(activate("bob", "policies/p/activate").await, 403, "jit_policy");
    refused(activate("", "policies/p/activate").await, 403, "jit_identity");
    // The setting itself, and the gate.
    by(&mount, "bob", Operation::Update, "config/jit", json!({ "policy_change": "direct" })).await.unwrap();
    refused(activate("bob", "config/jit/activate").await, 403, "jit_policy");
    refused(ask(&mount, Operation::Update, "roles/secret", json!({ "jit_policy": "" })).await, 403, "jit_policy");
    refused(read(&mount, "ann").await, 403, "jit_approval_required");
    let seen = plain(&shown, "staged_hash");
    let stale = by(&mount, "cid", Operation::Update, "policies/p/activate", json!({ "hash": "00" })).await;
    refused(stale, 409, "jit_state");
    assert!(refusal(activate("cid", "policies/p/activate").await).1.contains("staged_hash"), "not unseen");
    // Swapped after it was looked at.
    let swapped = json!({ "steps": [], "approval": "auto", "require_reason": 0, "uses": 0 });
    by(&mount, "bob", Operation::Update, "policies/p", swapped).await.unwrap();
    let agree = |path: &'static str, hash: Value| by(&mount, "cid", Operation::Update, path, json!({ "hash": hash }));
    refused(agree("policies/p/activate", seen.clone()).await, 409, "jit_state");
    let seen_of = async |path: &str| {
        let shown = ask(&mount, Operation::Read, path, json!({})).await.unwrap().unwrap();
        plain(&shown, "staged_hash")
    };
    agree("policies/p/activate", seen_of("policies/p").await).await.unwrap();
    read(&mount, "ann").await.unwrap();
    assert_eq!(refusal(activate("cid", "config/jit/activate").await).0, 400);
    agree("config/jit/activate", seen_of("config/jit").await).await.unwrap();
    policy(&mount, json!({ "description": "x" })).await.unwrap();
    let chain = kinds(&mount).await;
    assert!(chain.contains(&"policy.staged".to_owned()) && chain.contains(&"policy.activated".to_owned()));
}

/// R42: a preapproval can be written anew, so a vote names what it is for.
#[tokio::test]
async fn a_vote_is_for_what_was_seen() {
    let (_world, mount) =
        gated(json!({ "eligible_classes": "service", "steps": [{ "groups": ["leads"], "min": 2 }] })).await;
    let write = |per_day: u32| {
        let wish = json!({ "role": "secret", "entity_id": "robot", "reason": "the nightly job", "per_day": per_day });
        by(&mount, "bob", Operation::Update, "preapprovals/night", wish)
    };
    let vote =
        |hash: Value| by(&mount, "cid", Operation::Update, "preapprovals/night/approve", json!({ "hash": hash }));
    let seen = plain(&write(1).await.unwrap().unwrap(), "hash");
    assert_eq!(refusal(vote(json!("")).await).0, 400);
    let swapped = plain(&write(50).await.unwrap().unwrap(), "hash");
    refused(vote(seen).await, 409, "jit_state");
    refused(read(&mount, "robot").await, 403, "jit_policy");
    assert_eq!(plain(&vote(swapped.clone()).await.unwrap().unwrap(), "hash"), swapped, "votes are no part of it");
    read(&mount, "robot").await.unwrap();
}

/// One event can be shown to be in the record without the others.
#[tokio::test]
async fn one_event_is_proven_alone() {
    let (_world, mount) = gated(json!({})).await;
    granted(&mount, "ann").await;
    for seq in 1..=4 {
        let answer = ask(&mount, Operation::Read, &format!("evidence/proof/{seq}"), json!({})).await.unwrap().unwrap();
        let field = |key: &str| plain(&answer, key);
        let text = json!({ "event": field("event"), "path": field("path"), "checkpoint": field("checkpoint") });
        let public = field("public_key").as_str().unwrap().to_owned();
        let sound = verify::file(&text.to_string(), vec![], Some(&public)).unwrap();
        assert_eq!((sound.first, sound.signed), (seq, true));
    }
    assert!(ask(&mount, Operation::Read, "evidence/proof/99", json!({})).await.unwrap().is_none());
}

/// R37: only once the ordinary way was tried, where the policy says so.
#[tokio::test]
async fn the_glass_is_not_broken_before_the_ordinary_way_was_tried() {
    let (world, mount) = gated(json!({ "break_glass_groups": "devs", "break_glass_after": 600 })).await;
    let glass = || {
        let body = json!({ "reason": "the shop is down", "incident": "INC-1" });
        by(&mount, "ann", Operation::Update, "break-glass/secret", body)
    };
    refused(glass().await, 403, "jit_policy");
    file(&mount, "ann").await.unwrap();
    later(&world, 599);
    refused(glass().await, 403, "jit_policy");
    later(&world, 1);
    glass().await.unwrap();
    read(&mount, "ann").await.unwrap();
    assert_eq!(refusal(policy(&mount, json!({ "break_glass_after": "2h" })).await).0, 400);
}

/// A proof that an earlier process has taken is known to the next.
#[tokio::test]
async fn a_used_proof_outlives_the_process() {
    let (world, mount) = gated(json!({})).await;
    let used = json!({ "subject": "s", "issuer": "i", "age": 1, "id": "abc" });
    let draft = evidence::event::Draft::new("issue.intent").with("proof", used);
    evidence::append(&mount, vec![draft]).await.unwrap();
    let next = super::super::mount(&world);
    next.access.proofs.remember(&next).await.unwrap();
    assert!(next.access.proofs.knows("abc") && !next.access.proofs.knows("abd"));
}
