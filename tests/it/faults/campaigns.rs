//! Databases that restart, networks that fail, clients that leave, processes that are killed, under load: nobody loses what
//! was promised, and nothing stays that should be gone.
//!
//! `make test` runs short forms, `make campaigns` long ones: see [`size`]. The seed decides what is done when; what is
//! under way at that moment depends on the machine, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::load::{Given, Ledger, Load, Mix, broken_promises};
use super::world::{LIMIT, SESSIONS, World, connections_to};
use crate::support::client::Client;
use crate::support::postgres::Session;
use crate::support::proxy::Weather;
use crate::support::random::Random;
use crate::support::tls::{Authority, speak_tls};
use crate::support::{number, wait_for};

/// The long form takes what it takes, on a machine with nothing else to do, and judges by what such a machine reaches.
fn is_long() -> bool {
    number("LEASEHOLD_CAMPAIGN_LONG", 0) > 0
}

/// `LEASEHOLD_CAMPAIGN_…`, or what the short form and the long one have.
fn size(name: &str, short: u32, long: u32) -> u32 {
    number(&format!("LEASEHOLD_CAMPAIGN_{name}"), if is_long() { long } else { short })
}

/// Of this run, or the same as another's.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = size("SEED", now as u32, now as u32);
    println!("LEASEHOLD_CAMPAIGN_SEED={seed}");
    seed.into()
}

const MIXED: Mix = Mix { threads: 6, mint: 5, renew: 2, revoke: 3, pause: Duration::from_millis(5) };

fn report(ledger: &Ledger) {
    println!(
        "{} mints, {} renewals, {} confirmed ends, {} unconfirmed, {} left",
        ledger.mints.len(),
        ledger.renewed,
        ledger.gone.len(),
        ledger.unsure.len(),
        ledger.live.len()
    );
    for (text, count) in &ledger.errors {
        println!("  {count} × {text}");
    }
}

#[test]
fn a_database_that_restarts_loses_no_lease() {
    let seed = seed();
    let mut random = Random::new(seed);
    let restarts = size("RESTARTS", 2, 180);
    let mut world = World::start(seed, json!({}));
    world.role("app", "pg", 3600);
    let ended = AtomicBool::new(false);
    let most = AtomicUsize::new(0);
    let port = world.proxy.port();
    let (mut slowest, mut silence) = (Duration::ZERO, Duration::ZERO);
    let ledger = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                most.fetch_max(connections_to(port), Ordering::SeqCst);
                // The kernel's table is long, and to read it is work.
                std::thread::sleep(Duration::from_millis(if is_long() { 200 } else { 20 }));
            }
        });
        let load = Load::start(&world, "app", MIXED, &mut random);
        for _ in 0..restarts {
            let before = load.count();
            wait_for("some mints", LIMIT, || (load.count() > before + 10).then_some(()));
            std::thread::sleep(random.duration(Duration::from_millis(1500)));
            let stopped = Instant::now();
            world.restart_database(random.duration(Duration::from_millis(1500)));
            let back = Instant::now();
            let said = world.cluster.nodes[0].log().len();
            let first = wait_for("a mint", LIMIT, || load.first_mint_after(back));
            if first - back > Duration::from_secs(1) {
                let log = world.cluster.nodes[0].log();
                println!("a first mint after {:.2?}:\n{}", first - back, log.get(said..).unwrap_or_default());
            }
            slowest = slowest.max(first - back);
            silence = silence.max(first - stopped);
        }
        let ledger = load.end();
        ended.store(true, Ordering::SeqCst);
        ledger
    });
    report(&ledger);
    let most = most.into_inner();
    let wrong = broken_promises(&world, &ledger, 50);
    let open = sessions(&world, &ledger, 10);
    world.revoke_all("app");
    let drained = world.drained("app", LIMIT);
    println!("{} sessions of users were open", open.len());
    println!(
        "LEASEHOLD_CAMPAIGN_SEED={seed}: {restarts} restarts; the first mint came {slowest:.2?} after the database at most, \
         {silence:.2?} after its end; {most} sessions at most; all gone after {drained:?}"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    drained.unwrap();
    assert!(most <= SESSIONS, "{most} sessions at the database");
    let limit = if is_long() { Duration::from_secs(1) } else { Duration::from_secs(10) };
    assert!(slowest < limit, "the first mint came {slowest:?} after the database");
}

#[test]
fn a_network_that_fails_loses_no_lease_and_disturbs_nobody_else() {
    let seed = seed();
    let mut random = Random::new(seed);
    let rounds = size("PARTITIONS", 1, 30);
    let patience = json!({ "connect_timeout": "2s", "statement_timeout": "2s" });
    let world = World::start(seed, patience.clone());
    // Over TLS: without it, an answer in which a character was changed says something else, and nobody can tell.
    speak_tls(&world.postgres, &Authority::new(), "");
    let mut far = patience.clone();
    far["connection_url"] = World::url(world.proxy.port(), "require").into();
    world.connection("pg", world.proxy.port(), far);
    world.role("app", "pg", 3600);
    world.connection("near", world.postgres.port(), patience);
    world.role("near", "near", 3600);
    let gentle = Mix { threads: 1, mint: 1, renew: 0, revoke: 1, pause: Duration::from_millis(20) };
    let neighbour = Load::start(&world, "near", gentle, &mut random);
    let load = Load::start(&world, "app", MIXED, &mut random);
    let quiet = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    let disturbed = Instant::now();
    let weathers = [
        Weather::Slow(Duration::from_secs(5)),
        Weather::Breaking(2000),
        Weather::BlackHole,
        Weather::Crawl(1),
        Weather::Garbled(400),
        Weather::Closed,
    ];
    let mut slowest = Duration::ZERO;
    let calm = Duration::from_millis(size("PARTITION_MS", 1200, 6000).into());
    for _ in 0..rounds {
        for weather in random.shuffled(weathers.to_vec()) {
            world.proxy.set(weather);
            if weather == Weather::Closed {
                world.proxy.cut();
            }
            std::thread::sleep(Duration::from_millis(500) + random.duration(calm));
            world.proxy.set(Weather::Fair);
            let back = Instant::now();
            let first = wait_for("a mint", LIMIT, || load.first_mint_after(back)) - back;
            println!("{weather:?}: the first mint {first:.2?} after its end");
            slowest = slowest.max(first);
            std::thread::sleep(random.duration(Duration::from_millis(500)));
        }
    }
    let end = Instant::now();
    let (ledger, neighbour) = (load.end(), neighbour.end());
    report(&ledger);
    report(&neighbour);
    let alone = neighbour.mints_between(quiet, disturbed);
    let beside = neighbour.mints_between(disturbed, end);
    println!("another connection: {alone} beforehand; {beside} meanwhile");
    let mut wrong = broken_promises(&world, &ledger, 50);
    wrong.extend(broken_promises(&world, &neighbour, 10));
    world.revoke_all("near");
    world.revoke_all("app");
    let drained = world.drained("app", Duration::from_secs(120));
    println!(
        "LEASEHOLD_CAMPAIGN_SEED={seed}: {rounds} rounds of {} disturbances; the first mint came {slowest:.2?} after \
              the end of one at most; all gone after {drained:?}",
        weathers.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    drained.unwrap();
    assert!(neighbour.errors.is_empty(), "another connection failed");
    let limit = if is_long() { Duration::from_millis(500) } else { Duration::from_secs(5) };
    assert!(beside.most < limit, "another connection waited for {:?}", beside.most);
}

/// Sessions of some that have a credential: open until they are dropped, or ended.
fn sessions(world: &World, ledger: &Ledger, most: usize) -> Vec<Session> {
    let open = |given: &Given| {
        let mut session = world.postgres.session(&given.user, &given.password);
        session.one("SELECT 1").map(|_| session)
    };
    ledger.live.iter().take(most).filter_map(open).collect()
}

/// Each waits for about as long as answers take at the moment, so that they leave at every stage of a mint, the moment of
/// the answer before all.
#[test]
fn clients_that_leave_in_the_middle_of_a_mint_leave_no_user() {
    let seed = seed();
    let mut random = Random::new(seed);
    let count = size("DEPARTURES", 160, 10_000);
    let world = World::start(seed, json!({ "max_open_connections": 8 }));
    world.role("app", "pg", 3600);
    let begin = Instant::now();
    world.client().get("database/creds/app").expect(200);
    let first = begin.elapsed();
    let threads: Vec<Random> = (0..8).map(|_| random.split()).collect();
    let (answered, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for mut random in threads {
            let (world, answered) = (&world, &answered);
            scope.spawn(move || {
                let mut usual = first;
                for _ in 0..count / 8 {
                    let patience = random.duration(usual * 2);
                    let stayed = world.mint_impatiently("app", patience);
                    answered.fetch_add(usize::from(stayed), Ordering::SeqCst);
                    // Of three, two leave too early.
                    usual = if stayed { usual.mul_f32(0.87) } else { usual.mul_f32(1.07) };
                }
            });
        }
    });
    let left_in = begun.elapsed();
    // What was begun comes to its end, and what nobody took is ended: then each user has a lease. A lease may be without
    // a user: if the client leaves while the host writes the lease down, it has the user ended, and then mostly cannot
    // remove what it wrote, and says so.
    let begin = Instant::now();
    let mut known = BTreeMap::new();
    let mut state = || {
        let users = world.users();
        let mut holders: BTreeSet<_> =
            world.leases("app").iter().filter_map(|lease| world.user_of(lease, &mut known)).collect();
        let kept = world.cluster.nodes[0].log().matches("failed to delete lease entry: context canceled").count();
        let without_lease: Vec<_> = users.iter().filter(|user| !holders.remove(*user)).cloned().collect();
        (users.len(), without_lease, holders.len(), kept)
    };
    let (users, kept) = loop {
        let (users, without_lease, vain, kept) = state();
        if without_lease.is_empty() && vain <= kept {
            break (users, vain);
        }
        assert!(
            begin.elapsed() < SETTLED,
            "{users} users, without a lease {without_lease:?}; {vain} leases without a user, of which the host says {kept}"
        );
        std::thread::sleep(Duration::from_millis(200));
    };
    let took = begin.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let (_, without_lease, vain, _) = state();
    assert!(
        without_lease.is_empty() && vain == kept,
        "without a lease {without_lease:?}; {vain} leases without a user"
    );
    world.revoke_all("app");
    let drained = world.drained("app", SETTLED);
    println!(
        "LEASEHOLD_CAMPAIGN_SEED={seed}: {count} clients in {left_in:.1?}, of which {} stayed for the answer; {users} users, \
         each with a lease, after {took:.2?}, and {kept} leases that the host could not take back; all gone after {drained:?}",
        answered.into_inner()
    );
    drained.unwrap();
}

/// How long after the last fault users and leases may differ.
const SETTLED: Duration = Duration::from_secs(120);

/// How long the leases live while processes are killed.
const SHORT_LIFE: u64 = 20;

/// Kills at random moments, while credentials of a short life come and go at two databases.
fn killed(seed: u64, mut kill: impl FnMut(&mut World), kills: u32, lost_at_most: usize) {
    let mut random = Random::new(seed);
    let mut world = World::start(seed, json!({})).with_mariadb(SHORT_LIFE);
    world.role("app", "pg", SHORT_LIFE);
    let mut wrong = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut all = Vec::new();
    let mut done = 0;
    let mix = Mix { threads: 3, ..MIXED };
    while done < kills {
        let loads = ["app", "my"].map(|role| Load::start(&world, role, mix, &mut random));
        for _ in 0..(kills - done).min(1 + random.below(4) as u32) {
            world.plugin();
            std::thread::sleep(random.duration(Duration::from_millis(1500)));
            kill(&mut world);
            done += 1;
            let back = Instant::now();
            for load in &loads {
                let first = wait_for("a mint", LIMIT, || load.first_mint_after(back)) - back;
                slowest = slowest.max(first);
            }
        }
        for load in loads {
            let ledger = load.end();
            wrong.extend(broken_promises(&world, &ledger, 10));
            all.push(ledger);
        }
        println!("{done} kills");
    }
    all.iter().for_each(report);
    let settled: Vec<_> = match is_long() {
        // By themselves: also those whose lease died with the host, which have nothing but their time to end them.
        true => {
            let limit = Duration::from_secs(SHORT_LIFE) + SETTLED;
            ["app", "my"].iter().map(|role| world.drained(role, limit)).collect()
        }
        false => {
            ["app", "my"].iter().for_each(|role| world.revoke_all(role));
            wait_for("the end of all leases", LIMIT, || {
                ["app", "my"].iter().all(|role| world.leases(role).is_empty()).then_some(())
            });
            vec![world.only_lost_ones(lost_at_most, Duration::from_secs(SHORT_LIFE))]
        }
    };
    println!(
        "LEASEHOLD_CAMPAIGN_SEED={seed}: {kills} kills; the first mint {slowest:.2?} after one at most; leases of \
         {SHORT_LIFE} s at PostgreSQL and MariaDB all gone after {settled:?}"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    settled.into_iter().for_each(|settled| _ = settled.unwrap());
}

#[test]
fn a_plugin_that_is_killed_leaves_no_user_and_loses_no_lease() {
    // An answer that the process had sent, and that the host had not read when it died, is one that its time ends.
    killed(seed(), |world| world.kill_plugin(), size("PLUGIN_KILLS", 4, 800), 4);
}

#[test]
fn a_host_that_is_killed_leaves_no_user_and_loses_no_lease() {
    // Each of the clients may have been at the one moment that counts.
    killed(seed(), |world| world.kill_host(), size("HOST_KILLS", 1, 200), 6);
}

#[test]
fn a_storm_of_revocations_leaves_room_for_mints() {
    let seed = seed();
    let mut random = Random::new(seed);
    let count = size("STORM", 160, 10_000) as usize;
    let world = World::start(seed, json!({}));
    world.role("app", "pg", 36_000);
    world.role("other", "pg", 36_000);
    let mints = Mix { threads: 4, mint: 1, renew: 0, revoke: 0, pause: Duration::from_millis(5) };
    let fill = |client: &Client, count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..count / 8 {
                        client.get("database/creds/app").expect(200);
                    }
                });
            }
        });
    };
    for by in ["prefix", "expiry"] {
        // All leases of a token end with it.
        let token = world.client().post("auth/token/create", json!({ "ttl": "10h" })).expect(200);
        let token = token["auth"]["client_token"].as_str().unwrap().to_owned();
        // The second is as many only where there is time.
        let count = if by == "prefix" || is_long() { count } else { count / 3 };
        fill(&world.client().with_token(&token), count);
        let load = Load::start(&world, "other", mints, &mut random);
        let quiet = Instant::now();
        wait_for("some mints", LIMIT, || (load.count() > if is_long() { 1000 } else { 40 }).then_some(()));
        let storm = Instant::now();
        match by {
            "prefix" => world.revoke_all("app"),
            _ => _ = world.client().post("auth/token/revoke", json!({ "token": token })).expect(204),
        }
        let patience = Duration::from_secs(30 + count as u64 / 20);
        wait_for("the end of the storm", patience, || world.leases("app").is_empty().then_some(()));
        let over = Instant::now();
        let ledger = load.end();
        report(&ledger);
        let (before, during) = (ledger.mints_between(quiet, storm), ledger.mints_between(storm, over));
        let rate = count as f32 / (over - storm).as_secs_f32();
        let ratio = during.p99.as_secs_f32() / before.p99.as_secs_f32();
        println!(
            "LEASEHOLD_CAMPAIGN_SEED={seed}: {count} leases at once, by {by}: gone in {:.1?} ({rate:.0}/s); \
             {before} beforehand, {during} meanwhile: p99 × {ratio:.2}",
            over - storm
        );
        assert!(ledger.errors.is_empty(), "mints failed");
        assert!(during.count > 0, "no mint went through");
        assert!(ratio < if is_long() { 5.0 } else { 20.0 }, "mints waited: p99 × {ratio}");
        world.revoke_all("other");
        world.drained("other", patience).unwrap();
    }
}

/// An outage of twelve minutes is longer than the host's patience: it gives leases up, and their users go all the same.
#[test]
fn users_that_expire_during_an_outage_are_gone_soon_after_it() {
    let seed = seed();
    let count = size("OUTAGE_LEASES", 60, 200);
    let outages = if is_long() { vec![15, size("OUTAGE_SECONDS", 0, 720)] } else { vec![size("OUTAGE_SECONDS", 8, 0)] };
    let mut world = World::start(seed, json!({}));
    world.role("app", "pg", 3600);
    for outage in outages {
        let outage = Duration::from_secs(outage.into());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let client = world.client();
                scope.spawn(move || (0..count / 4).for_each(|_| _ = client.get("database/creds/app").expect(200)));
            }
        });
        assert_eq!(world.users().len(), count as usize / 4 * 4);
        // All of them, however long it took to make them.
        for lease in world.leases("app") {
            world.client().renew(&lease, 4).expect(200);
        }
        let stopped = Instant::now();
        world.postgres.stop();
        std::thread::sleep(outage);
        world.postgres.start_again();
        let back = Instant::now();
        wait_for("the end of the users", SETTLED, || world.users().is_empty().then_some(()));
        let users = back.elapsed();
        // The host asks again in its own time, and after a long outage never.
        let leases = if is_long() { world.drained("app", Duration::from_secs(30)).ok() } else { None };
        println!(
            "LEASEHOLD_CAMPAIGN_SEED={seed}: {count} leases expired while the database was down for {:.1?}: all users gone \
             {users:.1?} after it was back; the host's leases: {}",
            back - stopped,
            leases.map_or(format!("{} left", world.leases("app").len()), |later| format!("gone {later:.1?} later"))
        );
        let limit = Duration::from_secs(if is_long() { 5 } else { 30 });
        assert!(users < limit, "users outlived the outage by {users:?}");
        if is_long() {
            world.client().post("sys/leases/revoke-force/database/creds/app", json!({})).expect(204);
        }
    }
}
