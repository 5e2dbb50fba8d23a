//! Random operations by several people, against a small reference of what may come of them.

use super::*;

/// Something that somebody does.
#[derive(Debug, Clone)]
enum Step {
    File(usize),
    Vote(usize, usize, bool),
    Read(usize),
    Complete(usize, usize),
    Cancel(usize, usize),
    Revoke(usize, usize),
    /// The lease of the newest credential ends.
    Lease,
    Pass(u64),
    Back(u64),
    Disable(usize),
    Enable(usize),
    Leave(usize),
    Join(usize),
    Fault(usize),
    Restart,
}

const PEOPLE: [&str; 4] = ["ann", "bob", "cid", "dan"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..PEOPLE.len();
    let step = prop_oneof![
        4 => who().prop_map(Step::File),
        8 => (who(), 0usize..4, prop::bool::weighted(0.9)).prop_map(|(who, which, yes)| Step::Vote(who, which, yes)),
        6 => who().prop_map(Step::Read),
        2 => (who(), 0usize..4).prop_map(|(who, which)| Step::Complete(who, which)),
        1 => (who(), 0usize..4).prop_map(|(who, which)| Step::Cancel(who, which)),
        1 => (who(), 0usize..4).prop_map(|(who, which)| Step::Revoke(who, which)),
        1 => Just(Step::Lease),
        3 => (1u64..900).prop_map(Step::Pass),
        1 => (1u64..300).prop_map(Step::Back),
        1 => who().prop_map(Step::Disable),
        2 => who().prop_map(Step::Enable),
        1 => who().prop_map(Step::Leave),
        2 => who().prop_map(Step::Join),
        1 => (1usize..12).prop_map(Step::Fault),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// What the requests say, and what the target says.
async fn holds(world: &Arc<World>, mount: &Mount, step: &Step) -> Result<(), TestCaseError> {
    let events = evidence::read(mount, 1, 100_000).await.unwrap();
    let named = |kind: &str, name: &str| events.iter().any(|e| e["kind"] == kind && e["credential"]["name"] == name);
    let mut all = Vec::new();
    for folder in [OPEN, DONE] {
        for id in mount.ports.storage.list(&format!("{folder}secret/"), "", -1).await.unwrap() {
            all.push(request_of(mount, &id).await);
        }
    }
    let now = evidence::now(mount).await.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for user in world.users.lock().unwrap().keys() {
        prop_assert!(named("issue.intent", user), "{step:?}: a user without an intent");
        let owner = all.iter().find(|request| request.credentials.iter().any(|c| c.name == *user && c.ended == 0));
        prop_assert!(owner.is_some(), "{step:?}: a live user of no live credential");
        let owner = owner.unwrap();
        prop_assert!(!owner.state.is_over(), "{step:?}: a live user of a request that is {}", owner.state.name());
        // Half a minute for who was disabled, and a tick for the rest.
        prop_assert!(owner.state != State::Active || now <= owner.grant_until + 60, "{step:?}: a user after its grant");
    }
    for request in &all {
        let what = format!("{step:?}: {} is {}", request.id, request.state.name());
        let voters: Vec<&str> = request.votes.iter().map(|vote| vote.who.entity_id.as_str()).collect();
        let mut distinct = voters.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), voters.len(), "{}: somebody voted twice", what);
        prop_assert!(!voters.contains(&request.who.entity_id.as_str()), "{what}: by himself");
        if request.approved > 0 {
            let agreed = request.votes.iter().filter(|vote| vote.approve).count();
            prop_assert!(agreed >= 2, "{what}: approved by {agreed}");
        }
        prop_assert!(request.used <= 2, "{what}: used {} times", request.used);
        if request.state.is_over() {
            prop_assert!(request.live().next().is_none(), "{what}: with something alive");
        }
    }
    Ok(())
}

async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let policy = json!({ "steps": [{ "groups": ["leads"], "min": 2 }], "tier": "critical", "uses": 2, "grant_ttl": 1200,
                         "pending_ttl": 1000, "max_requests_per_day": 0 });
    let (world, mut mount) = gated(policy).await;
    for who in PEOPLE {
        known(&world, who, "userpass", &["leads"]);
    }
    let mut leases: Vec<Fields> = Vec::new();
    for step in steps {
        let ids = mount.ports.storage.list("access/open/secret/", "", -1).await.unwrap();
        let id = |which: &usize| ids.get(*which).cloned().unwrap_or_else(|| "jr_none".into());
        match &step {
            Step::File(who) => drop(file(&mount, PEOPLE[*who]).await),
            Step::Vote(who, which, yes) => {
                drop(act(&mount, PEOPLE[*who], &id(which), if *yes { "approve" } else { "deny" }).await);
            }
            Step::Read(who) => {
                let before = live(&world);
                if let Ok(Some(response)) = read(&mount, PEOPLE[*who]).await {
                    let owner = plain(&response, "request_id");
                    let request = request_of(&mount, owner.as_str().unwrap()).await;
                    prop_assert_eq!(&request.who.entity_id, PEOPLE[*who], "somebody else's grant");
                    leases.push(response.lease.unwrap().internal);
                    prop_assert_eq!(live(&world), before + 1);
                }
            }
            Step::Complete(who, which) => drop(act(&mount, PEOPLE[*who], &id(which), "complete").await),
            Step::Cancel(who, which) => drop(act(&mount, PEOPLE[*who], &id(which), "cancel").await),
            Step::Revoke(who, which) => drop(act(&mount, PEOPLE[*who], &id(which), "revoke").await),
            Step::Lease => {
                if let Some(internal) = leases.pop() {
                    let lease = LeaseRef { internal, ..LeaseRef::default() };
                    drop(
                        mount
                            .handle(Request {
                                lease: Some(lease),
                                ..request(Operation::Revoke, "creds/secret", json!({}))
                            })
                            .await,
                    );
                }
            }
            Step::Pass(seconds) => {
                later(&world, *seconds);
                access::tick(&mount).await;
            }
            Step::Back(seconds) => {
                let seconds = (*seconds).min(world.later.load(Ordering::SeqCst));
                world.later.fetch_sub(seconds, Ordering::SeqCst);
            }
            Step::Disable(who) => change(&world, PEOPLE[*who], |entity, _| entity.disabled = true),
            Step::Enable(who) => change(&world, PEOPLE[*who], |entity, _| entity.disabled = false),
            Step::Leave(who) => change(&world, PEOPLE[*who], |_, groups| groups.clear()),
            Step::Join(who) => change(&world, PEOPLE[*who], |_, groups| *groups = vec!["leads".into()]),
            Step::Fault(at) => {
                // Somebody reads, and something fails on the way.
                world.faults.arm(*at, Fault::Error);
                if let Ok(Some(response)) = read(&mount, "ann").await {
                    leases.push(response.lease.unwrap().internal);
                }
                world.faults.disarm();
            }
            Step::Restart => mount = super::super::mount(&world),
        }
        holds(&world, &mount, &step).await?;
    }
    // In the end all is over, and the record is whole.
    later(&world, 100_000);
    for _ in 0..4 {
        access::tick(&mount).await;
        later(&world, 60);
    }
    holds(&world, &mount, &Step::Pass(0)).await?;
    prop_assert_eq!(live(&world), 0);
    record_is_sound(&mount).await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_people_do_access_is_agreed_to_recorded_and_over(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(steps))?;
    }
}
