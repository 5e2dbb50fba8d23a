//! The kill campaign: passwords of static roles and of connections change all the time, on request and by themselves, in
//! PostgreSQL, MariaDB and Redis, with windows that are held open, while the plugin, its host and the databases are killed
//! at random moments and a tool writes the connections again with their first passwords. After each burst of kills
//! everything must come right by itself: every static role answers with a password that logs in, every connection makes
//! users.
//!
//! `make test` runs a short form, `make chaos` a long one. The seed decides what is killed when; what is under way at that
//! moment also depends on the machine, so a seed brings back a kind of campaign rather than the very same one.

mod clients;
mod sites;
mod world;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::support::random::Random;
use clients::Clients;
use sites::Kind;
use world::World;

/// How long everything may take to come right after a burst. Failed changes wait some ten seconds before they are tried
/// again.
const SETTLING: Duration = Duration::from_secs(120);

/// What takes longer is shown.
const SLOW: Duration = Duration::from_secs(5);

/// At the end each password must change once more. After an interrupted change this may have to wait a minute, until no
/// transaction can be left that would undo it.
const LAST_CHANGE: Duration = Duration::from_secs(150);

#[derive(Debug, Clone, Copy)]
enum Victim {
    Plugin,
    Host,
    Database,
}

/// What happened.
#[derive(Default)]
struct Tally {
    plugin: u32,
    host: u32,
    database: u32,
    /// Changes that were asked for and confirmed.
    confirmed: u64,
    /// Changes that PostgreSQL and MariaDB have committed: all, those of connections, those of a connection that only changes
    /// by itself.
    changed: [u64; 3],
    /// Changes that were settled after somebody had died.
    settled: usize,
    /// The longest that anything took to come right.
    longest: Duration,
    /// The longest that a plugin lived after its host's death.
    orphan: Duration,
    /// Accounts and connections that did not come right.
    lost: BTreeSet<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills of the plugin, {} of the host, {} of databases; {} password changes in PostgreSQL and MariaDB, {} of \
             them of connections, {} by schedule alone; {} confirmed to who asked, there and in Redis; {} settled after a \
             death; right again after {:.1} s at most; a plugin outlived its host by {:.1} s at most; {} passwords lost",
            self.plugin,
            self.host,
            self.database,
            self.changed[0],
            self.changed[1],
            self.changed[2],
            self.confirmed,
            self.settled,
            self.longest.as_secs_f32(),
            self.orphan.as_secs_f32(),
            self.lost.len(),
        )
    }
}

fn number(variable: &str, default: u32) -> u32 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

#[test]
fn no_password_is_lost_whoever_is_killed() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = number("LEASEHOLD_CHAOS_SEED", now as u32);
    println!("LEASEHOLD_CHAOS_SEED={seed}");
    let mut random = Random::new(seed.into());
    let kills = [
        (Victim::Plugin, number("LEASEHOLD_CHAOS_KILLS", 6)),
        (Victim::Host, number("LEASEHOLD_CHAOS_HOST_KILLS", 1)),
        (Victim::Database, number("LEASEHOLD_CHAOS_DATABASE_KILLS", 0)),
    ];
    let victims: Vec<Victim> =
        kills.iter().flat_map(|(victim, count)| std::iter::repeat_n(*victim, *count as usize)).collect();
    let victims = random.shuffled(victims);

    let mut world = World::start();
    let clients = Clients::start(&world, &mut random);
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut rest = victims.as_slice();
    while !rest.is_empty() {
        let (burst, later) = rest.split_at(rest.len().min(1 + random.below(4) as usize));
        rest = later;
        clients.go_on();
        for victim in burst {
            kill(&mut world, *victim, &mut random, &mut tally);
        }
        std::thread::sleep(random.duration(Duration::from_millis(300)));
        clients.pause();
        settle(&world, &mut tally);
        println!("{:4} s: {burst:?}", started.elapsed().as_secs());
        if !tally.lost.is_empty() {
            break;
        }
    }
    tally.confirmed = clients.end();
    if tally.lost.is_empty() {
        let stuck = std::thread::scope(|scope| {
            let changing: Vec<_> = world
                .all_changes()
                .into_iter()
                .map(|path| scope.spawn(|| (!world.changes_again(&path, LAST_CHANGE)).then_some(path)))
                .collect();
            changing.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        tally.lost.extend(stuck);
        settle(&world, &mut tally);
    }
    tally.changed = world.changed();
    tally.settled = world.log().matches("an interrupted password change is brought to its end").count();
    println!("LEASEHOLD_CHAOS_SEED={seed}, {} s: {tally}", started.elapsed().as_secs());

    assert!(tally.lost.is_empty(), "lost: {:?}", tally.lost);
    assert!(tally.changed[0] > u64::from(tally.plugin), "too little was going on for this to mean anything");
    assert!(tally.plugin < 50 || tally.settled > 0, "no kill came at a moment that matters");
}

fn kill(world: &mut World, victim: Victim, random: &mut Random, tally: &mut Tally) {
    // From when the plugin is there: its start and its first look at what was left are worth a kill too.
    world.plugin();
    std::thread::sleep(random.duration(Duration::from_millis(1000)));
    match victim {
        Victim::Plugin => {
            world.kill_plugin();
            tally.plugin += 1;
        }
        Victim::Host => {
            tally.orphan = tally.orphan.max(world.kill_host());
            tally.host += 1;
        }
        Victim::Database => {
            let kind = Kind::ALL[random.below(Kind::ALL.len() as u64) as usize];
            world.kill_database(kind, random.duration(Duration::from_millis(500)));
            tally.database += 1;
        }
    }
}

/// Waits until everything is right.
fn settle(world: &World, tally: &mut Tally) {
    let begin = Instant::now();
    let wrong = std::thread::scope(|scope| {
        let waiting: Vec<_> = world
            .invariants()
            .into_iter()
            .map(|(what, right)| scope.spawn(move || (!comes_right(&what, right.as_ref(), begin)).then_some(what)))
            .collect();
        waiting.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    tally.lost.extend(wrong);
    tally.longest = tally.longest.max(begin.elapsed());
}

fn comes_right(what: &str, right: &dyn Fn() -> Result<(), String>, begin: Instant) -> bool {
    let mut first = None;
    loop {
        match right() {
            Ok(()) => break,
            Err(why) if begin.elapsed() > SETTLING => {
                println!("{what} is not right: {why}");
                return false;
            }
            Err(why) => {
                first.get_or_insert(why);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    if let Some(why) = first.filter(|_| begin.elapsed() > SLOW) {
        println!("{what} was right after {:?} only; at first: {why}", begin.elapsed());
    }
    true
}
