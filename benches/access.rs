//! What a decision of an access policy costs: its structured rules, and 20 rules in Cedar, as it is made at each issue. See
//! `docs/jit.md`.
#![allow(clippy::disallowed_methods, reason = "a stopwatch lives in real time")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that fails is not one")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use leasehold::engine::access::cedar::{Action, Moment, Rules};
use leasehold::engine::access::identity::{Class, Who};
use leasehold::engine::access::policy::{Policy, Tier};
use leasehold::engine::access::rules::{Act, permit};

const ROUNDS: usize = 20_000;

fn measure(what: &str, mut once: impl FnMut()) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            once();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{what}: p50 {:?}, p99 {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
}

fn main() {
    let who = Who {
        entity_id: "5f0c".into(),
        name: "ann".into(),
        class: Class::Human,
        person: "7".into(),
        aliases: vec!["ann".into()],
        groups: (0..10).map(|number| format!("group-{number}")).collect::<BTreeSet<_>>(),
        about: BTreeMap::new(),
    };
    let mut text = String::from("permit(principal, action, resource);\n");
    for number in 1..20 {
        text += &format!(
            "forbid(principal in Group::\"group-{}\", action, resource) when {{ context.ttl > {} && context.hour == 3 }};\n",
            number % 10,
            number * 1000
        );
    }
    let rules = Rules::read(&text).expect("the rules fit the schema");
    let params = BTreeMap::from([("schema".to_owned(), "sales".to_owned())]);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let moment = Moment {
        who: &who,
        role: "orders-admin",
        tier: Tier::Medium,
        reason: "order 991 is stuck",
        ticket: "CHG-4711",
        purpose: "",
        params: &params,
        ttl: 900,
        now,
        live: 0,
        coverage: 100,
        approvals: 1,
        frozen: false,
    };
    measure("20 rules in Cedar", || {
        black_box(rules.decide(Action::Issue, black_box(&moment)).expect("permitted"));
    });
    let policy = Policy {
        eligible_groups: (0..20).map(|number| format!("group-{number}")).collect(),
        hours: "Mon-Fri 07:00-19:00 Europe/Berlin".into(),
        ..Policy::default()
    };
    measure("structured rules", || {
        assert!(permit(black_box(&policy), &who, Act::Issue, now).is_ok());
    });
}
