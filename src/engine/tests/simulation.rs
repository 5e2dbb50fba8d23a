//! The engine under everything at once, by a seed: clients that come and leave, leases that are renewed and end, processes
//! and hosts that die at any await, nodes that take over, storage and databases that fail, answers that get lost, clocks
//! that are set. A model of the host knows which users there should be.
//!
//! What holds at any time: a live lease has its user; an end that was confirmed stays one; no name comes twice; nobody
//! else's user is touched; no answer makes a lease irrevocable at once. What holds two minutes after the last fault: a user
//! has a live lease. And in the end there is nothing left: no user, no note, no remnant.
//!
//! The rest follows from the seed, down to the names: `LEASEHOLD_SIMULATION_SEED=…` runs the same one again.

mod host;
mod world;

use std::collections::BTreeSet;

use super::*;
use host::{HostOf, Phase, Tally};
use world::{Random, User, Weather, World as Sim};

use crate::secret::password::seeded;

/// After the last fault every user without a live lease is gone within this.
const SETTLED: Duration = Duration::from_secs(120);
/// The same after a switch: of a user whose process died on another machine only the marker tells, so it ends by its time. A
/// lease, a minute of grace, a look.
const ELSEWHERE: Duration = Duration::from_secs(60 + 60 + 75);

/// How long after the last lease everything is over: the grace of the host, the sweep, and the pauses of what failed.
const LAST: Duration = Duration::from_secs(60 + 75 + 600);

/// What everything begins with.
fn prepared_storage() -> BTreeMap<String, String> {
    static STORAGE: std::sync::OnceLock<BTreeMap<String, String>> = std::sync::OnceLock::new();
    let make = || {
        let world: Arc<World> = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mount = mount(&world);
            for (name, plugin, url) in [
                ("pg", "postgresql-database-plugin", "postgresql://{{username}}:{{password}}@localhost/db"),
                ("my", "mysql-database-plugin", "{{username}}:{{password}}@tcp(localhost)/"),
            ] {
                let config = json!({
                    "plugin_name": plugin, "username": "root", "password": "root's own", "allowed_roles": "*",
                    "connection_url": url, "password_policy": "known",
                });
                ask(&mount, Operation::Create, &format!("config/{name}"), config).await.unwrap();
                let role = json!({
                    "db_name": name, "creation_statements": "CREATE ROLE \"{{name}}\"", "default_ttl": 60,
                    "max_ttl": 200,
                });
                ask(&mount, Operation::Create, &format!("roles/{name}"), role).await.unwrap();
            }
            ask(&mount, Operation::Read, "creds/pg", json!({})).await.unwrap();
        });
        let mut entries = world.entries.lock().unwrap().clone();
        entries.retain(|key, _| !key.starts_with("mint/"));
        entries
    };
    STORAGE.get_or_init(make).clone()
}

/// One simulation.
struct Story {
    sim: Arc<Sim>,
    host: HostOf,
}

/// What came of one.
struct Told {
    wrong: Vec<String>,
    tally: Tally,
    trace: u64,
    points: u64,
    names: Vec<String>,
}

fn run(seed: u64, prepare: impl FnOnce(&Sim), play: impl AsyncFnOnce(&Story)) -> Told {
    // Not what this seed decides on.
    seeded::by(Some(0));
    let storage = prepared_storage();
    seeded::by(Some(seed ^ 0x5EED));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let sim = Sim::new(seed);
    {
        let mut state = sim.state();
        state.tells = std::env::var_os("LEASEHOLD_SIMULATION_TELLS").is_some();
        state.entries = storage;
        for server in &mut state.servers {
            server.accounts.insert("root".into(), "root's own".into());
        }
        let marker = Marker { mount: "id".into(), role: "pg".into(), expires: 5, ..Marker::default() };
        let strangers = [
            ("v-token-pg-by-hand", None),
            ("of-another-mount", Some(Marker { mount: "id2".into(), seal: "x".into(), ..marker.clone() })),
            ("v-token-pg-liar", Some(Marker { seal: "made up".into(), connection: "pg".into(), ..marker })),
        ];
        for (name, marker) in strangers {
            state.servers[0].users.insert(name.into(), User { marker, foreign: true });
        }
    }
    prepare(&sim);
    let story = Story { host: HostOf::new(&sim), sim: sim.clone() };
    let tally = runtime.block_on(async {
        story.host.start(false);
        play(&story).await;
        story.host.state().tally
    });
    drop(runtime);
    seeded::by(None);
    let mut state = sim.state();
    Told {
        wrong: std::mem::take(&mut state.wrong),
        tally,
        trace: state.trace,
        points: state.passed,
        names: state.names.take().unwrap_or_default(),
    }
}

impl Story {
    /// Everything goes as far as it can without time passing.
    async fn idle(&self) {
        let mut quiet = 0;
        let mut before = self.sim.state().passed;
        while quiet < 2 {
            tokio::task::yield_now().await;
            let now = self.sim.state().passed;
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }

    async fn pass(&self, time: Duration) {
        let end = self.sim.state().now + time;
        loop {
            self.idle().await;
            self.host.notice();
            self.check_live();
            let due = self.host.next_due();
            let mut state = self.sim.state();
            let next = state.next_timer().into_iter().chain(due).min().unwrap_or(end).max(state.now);
            if next > end {
                state.now = end;
                return;
            }
            state.now = next;
            state.wake();
            drop(state);
            self.host.do_due();
        }
    }

    /// A live lease has its user, and who was confirmed to be gone is.
    fn check_live(&self) {
        let host = self.host.state();
        let mut sim = self.sim.state();
        let now = sim.now;
        let mut wrong = Vec::new();
        let live = host.leases.iter().filter(|lease| lease.phase == Phase::Live && !lease.misjudged);
        for lease in live.filter(|lease| lease.expires > now) {
            if !sim.servers[lease.server].users.contains_key(&lease.user) {
                wrong.push(format!("{now:?}: {} is gone, and its lease lives until {:?}", lease.user, lease.expires));
            }
        }
        sim.wrong.extend(wrong);
    }

    fn ours(&self) -> Vec<String> {
        let state = self.sim.state();
        let users = state.servers.iter().flat_map(|server| &server.users);
        users.filter(|(_, user)| !user.foreign).map(|(name, _)| name.clone()).collect()
    }

    fn wrong(&self, what: String) {
        self.sim.state().wrong.push(what);
    }

    /// The faults are over; what must hold does.
    async fn settle(&self) {
        {
            let mut state = self.sim.state();
            // A look that takes long would be followed by a pause of many times that.
            state.weather = Weather { delay: state.weather.delay.min(60), ..Weather::default() };
            (state.kill_at, state.fail_at) = (0, 0);
            state.off = 0;
            for server in &mut state.servers {
                (server.away, server.strict) = (false, false);
            }
        }
        self.host.retire();
        let limit = if self.host.state().tally.switches > 0 { ELSEWHERE } else { SETTLED };
        self.until(limit, || self.orphans().is_empty() && self.host.state().busy == 0).await;
        let orphans = self.orphans();
        // Those of another machine end by their time, and clocks that were set may put that off: see `over`.
        let put_off = self.host.state().tally.switches > 0 && self.sim.state().was_set;
        if !orphans.is_empty() && !put_off {
            self.wrong(format!("no live lease {limit:?} after the last fault: {orphans:?}"));
        }
        let gone = self.host.state().gone.clone();
        for user in self.ours().iter().filter(|user| gone.contains(*user)) {
            self.wrong(format!("{user} is there, and its end was confirmed"));
        }
        // Everybody is served again.
        let before = self.host.state().tally.mints;
        (0..2).for_each(|server| self.host.mint(server, None));
        self.until(Duration::from_secs(30), || self.host.state().tally.mints >= before + 2).await;
        if self.host.state().tally.mints < before + 2 {
            self.wrong("nobody is served two minutes after the last fault".into());
        }
        self.over().await;
    }

    /// Passes time until it is so, or for so long.
    async fn until(&self, limit: Duration, is_so: impl Fn() -> bool) {
        let end = self.sim.state().now + limit;
        while !is_so() && self.sim.state().now < end {
            self.pass(Duration::from_secs(5)).await;
        }
    }

    /// Users that nobody has a lease for, or will have.
    fn orphans(&self) -> Vec<String> {
        let host = self.host.state();
        let open = |phase: Phase| !matches!(phase, Phase::Gone | Phase::Irrevocable);
        let live: BTreeSet<&str> =
            host.leases.iter().filter(|lease| open(lease.phase)).map(|lease| lease.user.as_str()).collect();
        let mut orphans = self.ours();
        orphans.retain(|user| !live.contains(user.as_str()) && !host.excused.contains(user));
        orphans
    }

    /// What is left of users, of leases, and of what is written down of both.
    fn left(&self) -> Vec<String> {
        const RECORDS: [&str; 3] = ["mint/", "remnant/", "rotation/"];
        let mut left = self.ours();
        let host = self.host.state();
        let open = host.leases.iter().filter(|lease| !matches!(lease.phase, Phase::Gone | Phase::Irrevocable));
        left.extend(open.map(|lease| format!("the lease of {}", lease.user)));
        let switched = host.tally.switches > 0;
        drop(host);
        let sim = self.sim.state();
        let records = sim.entries.keys().filter(|key| RECORDS.iter().any(|prefix| key.starts_with(prefix)));
        left.extend(records.cloned());
        // The notes of another machine are nobody's.
        left.extend(sim.scratch.values().filter(|_| !switched).cloned());
        left
    }

    /// All leases end by their time, and nothing is left.
    async fn over(&self) {
        let now = self.sim.state().now;
        let last = self.host.state().leases.iter().map(|lease| lease.expires).max().unwrap_or(now);
        self.until(last.saturating_sub(now) + LAST, || self.left().is_empty()).await;
        if !self.left().is_empty() && self.sim.state().was_set {
            // Those that were made by a wrong clock, and whose lease was lost, have the time of the longest lease.
            self.until(Duration::from_secs(7200) + LAST, || self.left().is_empty()).await;
        }
        let mut left = self.left();
        // Nobody but the clock that was years ahead when its process began knows when these end.
        let host = self.host.state();
        let sim = self.sim.state();
        let years = sim.farthest.1 > 200 * 24 * 3600;
        let soon = crate::engine::intent::unix_seconds(sim.wall()) + 200 * 24 * 3600;
        let ahead = |user: &str| {
            let marker = sim.servers.iter().find_map(|server| server.users.get(user)?.marker.as_ref());
            let notes = sim.entries.iter().filter(|(key, _)| key.starts_with("mint/"));
            let mut note =
                notes.filter_map(|(_, text)| serde_json::from_str::<crate::engine::intent::Intent>(text).ok());
            let note = note.find(|note| note.username == user);
            let ends = marker.map(|marker| marker.expires).or(note.map(|note| note.expires));
            host.ahead.contains(user)
                || (host.excused.contains(user) || host.tally.switches > 0) && ends.is_some_and(|end| end > soon)
        };
        left.retain(|what| !(ahead(what) || years && what.starts_with("mint/")));
        drop((host, sim));
        if !left.is_empty() {
            self.wrong(format!("left in the end: {left:?}"));
        }
        let strangers = self.sim.state().servers[0].users.values().filter(|user| user.foreign).count();
        if strangers != 3 {
            self.wrong(format!("{strangers} of 3 users of somebody else are left"));
        }
    }
}

/// How much goes wrong at all differs from seed to seed.
fn weather(random: &mut Random) -> Weather {
    let mut often = |most: u64| if random.chance(500) { random.below(most) } else { 0 };
    Weather { death: often(12), storage: often(60), target: often(60), slow: often(200), delay: 50 + often(300) }
}

/// A random life of a mount.
async fn random_story(story: &Story) {
    let (sim, host) = (&story.sim, &story.host);
    let steps = {
        let mut state = sim.state();
        state.weather = weather(&mut state.random);
        4 + state.random.below(9)
    };
    for _ in 0..steps {
        let (what, server, pause) = {
            let mut state = sim.state();
            let pause = match state.random.below(10) {
                0..4 => Duration::ZERO,
                4..7 => state.random.millis(3_000),
                7..9 => state.random.millis(20_000),
                _ => state.random.millis(120_000),
            };
            (state.random.below(100), state.random.below(2) as usize, pause)
        };
        sim.state().note(&format!("step {what} at {server}, then {pause:?}"));
        match what {
            0..40 => {
                let leaves = {
                    let mut state = sim.state();
                    state.random.chance(300).then(|| state.random.millis(1500))
                };
                host.mint(server, leaves);
            }
            40..55 => {
                if let Some(lease) = host.any_lease() {
                    let increment = Duration::from_secs(sim.state().random.below(600));
                    host.renew(lease, increment);
                }
            }
            55..70 => {
                if let Some(lease) = host.any_lease() {
                    host.end_in_background(lease);
                }
            }
            70..75 => host.kill(),
            75..78 => host.crash(),
            78..81 => host.switch(),
            81..85 => {
                let mut state = sim.state();
                state.servers[server].away ^= true;
            }
            85..87 => {
                let mut state = sim.state();
                state.servers[server].strict ^= true;
            }
            87..91 => set_the_clock(sim),
            91..94 => host.order(Operation::Update, ["rotate-root/pg", "rotate-root/my"][server]),
            94..97 => host.order(Operation::Update, ["reconcile/pg", "reconcile/my"][server]),
            _ => {
                let mut state = sim.state();
                state.weather = weather(&mut state.random);
            }
        }
        story.pass(pause).await;
    }
    story.settle().await;
}

fn set_the_clock(sim: &Sim) {
    const YEAR: i64 = 365 * 24 * 3600;
    let mut state = sim.state();
    let by = [1, 30, 3600, 3 * YEAR][state.random.below(4) as usize];
    state.was_set = true;
    state.off = match state.random.below(3) {
        0 => by,
        1 => -by,
        _ => 0,
    };
    let off = state.off;
    state.farthest = (state.farthest.0.min(off), state.farthest.1.max(off));
}

/// A part of the seeds: tests run beside each other.
fn seeds(part: u64) {
    const PARTS: u64 = 4;
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("LEASEHOLD_SIMULATION_SEED") {
        if part == 0 {
            check(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        return;
    }
    let count = number("LEASEHOLD_SIMULATION_SEEDS").unwrap_or(10_000);
    let begin = std::time::Instant::now();
    let mut total = Tally::default();
    let mut failed = Vec::new();
    for seed in (part..count).step_by(PARTS as usize) {
        match check(seed) {
            Ok(tally) => total.add(&tally),
            Err(wrong) => failed.push(wrong),
        }
        assert!(failed.len() < 10, "{}", failed.join("\n"));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{} of {count} seeds in {:.1?}: {total:?}", count.div_ceil(PARTS), begin.elapsed());
    let all = [total.mints, total.renewals, total.ends, total.refused, total.again, total.deaths, total.crashes];
    let rare = [total.switches, total.left, total.excused];
    assert!(count < 4000 || all.iter().chain(&rare).all(|number| *number > 0), "too little happened: {total:?}");
    assert!(count < 400_000 || total.given_up > 0, "the server never gave a lease up: {total:?}");
}

/// One seed, and what to say if it fails.
fn check(seed: u64) -> Result<Tally, String> {
    let told = run(seed, |_| {}, random_story);
    let (points, wrong) = (told.points, &told.wrong[..told.wrong.len().min(5)]);
    match wrong {
        [] => Ok(told.tally),
        _ => Err(format!("seed {seed}, {points} points: {wrong:#?}\nonce more, and told: make simulate SEED={seed}")),
    }
}

#[test]
fn whatever_happens_nothing_is_orphaned_1() {
    seeds(0);
}

#[test]
fn whatever_happens_nothing_is_orphaned_2() {
    seeds(1);
}

#[test]
fn whatever_happens_nothing_is_orphaned_3() {
    seeds(2);
}

#[test]
fn whatever_happens_nothing_is_orphaned_4() {
    seeds(3);
}

#[test]
fn a_seed_decides_on_everything() {
    for seed in 0..25 {
        let traces = [(); 2].map(|()| run(seed, |_| {}, random_story).trace);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

/// Everything that a mount does for a user, once, at both kinds of targets.
async fn whole_story(story: &Story) {
    for server in 0..2 {
        let host = &story.host;
        host.mint(server, None);
        host.mint(server, Some(Duration::ZERO));
        story.pass(Duration::from_secs(3)).await;
        if let Some(lease) = host.any_lease() {
            host.renew(lease, Duration::from_secs(30));
        }
        story.pass(Duration::from_secs(1)).await;
        host.order(Operation::Update, ["rotate-root/pg", "rotate-root/my"][server]);
        story.pass(Duration::from_secs(1)).await;
        host.order(Operation::Update, ["reconcile/pg", "reconcile/my"][server]);
        story.pass(Duration::from_secs(1)).await;
        if let Some(lease) = host.any_lease() {
            host.end_in_background(lease);
        }
        host.mint(server, None);
        story.pass(Duration::from_secs(4)).await;
    }
    // The last two end by their time, after a look at each connection.
    story.pass(Duration::from_secs(70)).await;
    story.settle().await;
}

/// The process dies at each point where it waits for something.
#[test]
fn a_death_at_any_await_leaves_nothing() {
    at_each_point(|sim, at| sim.state().kill_at = at);
}

/// Each call of a port fails once, before its effect or after it.
#[test]
fn a_call_that_fails_leaves_nothing() {
    at_each_point(|sim, at| sim.state().fail_at = at);
}

fn at_each_point(fault: impl Fn(&Sim, u64)) {
    let listed = run(1, |sim| sim.state().names = Some(Vec::new()), whole_story);
    assert!(listed.wrong.is_empty(), "{:?}", listed.wrong);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    listed.names.iter().for_each(|name| *kinds.entry(name).or_default() += 1);
    println!("{} points: {kinds:#?}", listed.names.len());
    for kind in [
        "storage.put mint",
        "target.mint done",
        "target.renew done",
        "target.end done",
        "target.set_password done",
        "target.marked",
        "storage.put rotation",
        "wire answer",
        "wire answer delivered",
    ] {
        assert!(kinds.contains_key(kind), "{kind} is not among {kinds:?}");
    }
    for at in 1..=listed.points {
        let what = &listed.names[at as usize - 1];
        let told = run(1, |sim| fault(sim, at), whole_story);
        assert!(told.wrong.is_empty(), "at point {at}, {what}: {:#?}", told.wrong);
    }
}

/// Somebody sets the clock, for a while or for good, and sets it right again: nobody is ended early, no lease is without
/// an end, and every user has its own.
#[test]
fn a_clock_that_is_set_ends_nobody_early_and_keeps_nobody() {
    const YEAR: i64 = 365 * 24 * 3600;
    for (number, off) in [1, 3600, YEAR, 10 * YEAR, -1, -3600, -YEAR, -10 * YEAR].into_iter().enumerate() {
        for minutes in [1, 5, 30] {
            let story = async |story: &Story| {
                let set = |off| {
                    let mut state = story.sim.state();
                    (state.off, state.was_set) = (off, true);
                };
                let mint = || (0..12).for_each(|number| story.host.mint(number % 2, None));
                mint();
                story.pass(Duration::from_secs(20)).await;
                set(off);
                for _ in 0..minutes * 2 {
                    mint();
                    if let Some(lease) = story.host.any_lease() {
                        story.host.renew(lease, Duration::from_secs(90));
                    }
                    story.pass(Duration::from_secs(30)).await;
                }
                set(0);
                mint();
                story.pass(Duration::from_secs(100)).await;
                story.settle().await;
            };
            let told = run(number as u64, |_| {}, story);
            assert!(told.wrong.is_empty(), "{off} s for {minutes} min: {:#?}", &told.wrong[..told.wrong.len().min(5)]);
        }
    }
}
