//! The host and its lease manager: it starts the plugin again when it has died, sends what was not answered once more,
//! keeps the leases and ends them, with the pauses and the patience of OpenBao's.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use super::world::{Fate, Life, Port, World};
use super::*;
use crate::engine::rotation::queue;
use crate::engine::transit::Underway;

/// How often the host tries to end a lease until it gives up, and the pause after the first time.
const MOST_TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// What the host does with a lease at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Live,
    /// A request of it is under way.
    Renewing,
    Ending,
    /// It is over; tried again at that time.
    Waiting(Duration),
    /// Over, and confirmed.
    Gone,
    /// The host has given up.
    Irrevocable,
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub user: String,
    pub server: usize,
    internal: Fields,
    /// By the host's wall clock.
    issued: SystemTime,
    /// By the time that really passes.
    pub expires: Duration,
    last: Duration,
    pub phase: Phase,
    tries: u32,
    /// A process that began after that clock was corrected cannot know that it was wrong: the end has passed by all clocks.
    pub misjudged: bool,
}

/// A process, and its mount.
#[derive(Clone)]
pub struct Running {
    pub life: Arc<Life>,
    pub mount: Mount,
}

#[derive(Default)]
pub struct State {
    pub active: Option<Running>,
    /// A node that is not active any more, and does not know it yet.
    pub former: Option<Running>,
    machine: u64,
    started: u64,
    requests: u64,
    pub leases: Vec<Lease>,
    /// Users whose lease was lost with the host, or whose answer nobody could know to be lost: their time ends them.
    pub excused: BTreeSet<String>,
    /// Those of them that were made by a clock that was years ahead.
    pub ahead: BTreeSet<String>,
    /// Users whose end was confirmed.
    pub gone: BTreeSet<String>,
    /// When the next process is started.
    restart: Option<Duration>,
    next_tick: Duration,
    /// By how much the wall clock was off when the last one came.
    ticked_at: i64,
    /// Counts crashes of the host.
    pub crashes: u64,
    /// Requests under way.
    pub busy: usize,
    pub tally: Tally,
}

/// What there was, so that nobody takes a quiet simulation for a good one.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub mints: u64,
    pub renewals: u64,
    pub ends: u64,
    pub refused: u64,
    pub again: u64,
    pub deaths: u64,
    pub crashes: u64,
    pub switches: u64,
    pub left: u64,
    pub excused: u64,
    pub given_up: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        for (sum, number) in [
            (&mut self.mints, other.mints),
            (&mut self.renewals, other.renewals),
            (&mut self.ends, other.ends),
            (&mut self.refused, other.refused),
            (&mut self.again, other.again),
            (&mut self.deaths, other.deaths),
            (&mut self.crashes, other.crashes),
            (&mut self.switches, other.switches),
            (&mut self.left, other.left),
            (&mut self.excused, other.excused),
            (&mut self.given_up, other.given_up),
        ] {
            *sum += number;
        }
    }
}

#[derive(Clone)]
pub struct HostOf {
    pub world: Arc<World>,
    state: Arc<Mutex<State>>,
}

impl HostOf {
    pub fn new(world: &Arc<World>) -> HostOf {
        HostOf { world: world.clone(), state: Arc::default() }
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Starts a process, on this machine or another.
    pub fn start(&self, elsewhere: bool) {
        let mut state = self.state();
        state.started += 1;
        state.machine += u64::from(elsewhere);
        let life = Life::new(&self.world, state.started, state.machine);
        let (off, behind) = {
            let world = self.world.state();
            (world.off, world.farthest.0)
        };
        state.leases.iter_mut().for_each(|lease| lease.misjudged |= behind + 10 < off);
        let port = || Arc::new(Port(life.clone()));
        let ports =
            Ports { storage: port(), host: port(), clock: port(), targets: port(), scratch: port(), web: port() };
        let mount = Mount::new(Kind::Database, "id".into(), ports);
        mount.rotation.queue.by_hand();
        mount.access.by_hand();
        state.active = Some(Running { life, mount });
        state.restart = None;
    }

    /// The process dies.
    pub fn kill(&self) {
        let active = self.state().active.clone();
        if let Some(running) = active {
            running.life.die();
        }
        self.notice();
    }

    /// The host dies, and the plugin with it: leases stay, whatever was under way does not.
    pub fn crash(&self) {
        self.state().crashes += 1;
        self.state().tally.crashes += 1;
        self.kill();
    }

    /// Another node takes over; this one finds out when its storage refuses.
    pub fn switch(&self) {
        let former = self.state().active.take();
        self.retire();
        if let Some(running) = &former {
            running.life.stand_by();
        }
        let mut state = self.state();
        state.former = former;
        state.tally.switches += 1;
        // Its own leases are loaded again.
        state.crashes += 1;
        drop(state);
        self.start(true);
    }

    /// The former node ends.
    pub fn retire(&self) {
        if let Some(running) = self.state().former.take() {
            running.life.die();
        }
    }

    /// Whoever has died is missed, and replaced after a while.
    pub fn notice(&self) {
        let mut state = self.state();
        if state.active.as_ref().is_some_and(|running| running.life.is_dead()) {
            state.active = None;
            state.tally.deaths += 1;
            let mut world = self.world.state();
            let pause = Duration::from_millis(100) + world.random.millis(6000);
            state.restart = Some(world.now + pause);
        }
    }

    /// When there is something to do without being asked.
    pub fn next_due(&self) -> Option<Duration> {
        let state = self.state();
        let (now, wall, off) = {
            let world = self.world.state();
            (world.now, world.wall(), world.off)
        };
        let leases = state.leases.iter().filter_map(|lease| match lease.phase {
            Phase::Live => Some(lease.expires),
            Phase::Waiting(until) => Some(until),
            _ => None,
        });
        let tick = state.active.iter().chain(&state.former).filter_map(|running| {
            let due = running.mount.rotation.queue.next()?;
            // A clock that was set is noticed by the next tick.
            let due =
                if off == state.ticked_at { due.duration_since(wall).unwrap_or_default() } else { Duration::ZERO };
            Some(state.next_tick.max(now + due))
        });
        leases.chain(state.restart).chain(tick.min()).min()
    }

    /// Does what is due.
    pub fn do_due(&self) {
        self.notice();
        let now = self.world.state().now;
        if self.state().restart.is_some_and(|at| at <= now) {
            self.start(false);
        }
        let mut ending = Vec::new();
        {
            let mut state = self.state();
            for (number, lease) in state.leases.iter_mut().enumerate() {
                let due = match lease.phase {
                    Phase::Live => lease.expires,
                    Phase::Waiting(until) => until,
                    _ => continue,
                };
                if due <= now {
                    lease.phase = Phase::Ending;
                    ending.push(number);
                }
            }
        }
        ending.into_iter().for_each(|number| self.end_in_background(number));
        if self.state().next_tick <= now {
            let off = self.world.state().off;
            self.state().next_tick = now + Duration::from_secs(1);
            self.state().ticked_at = off;
            let running: Vec<Running> = {
                let state = self.state();
                state.active.iter().chain(&state.former).cloned().collect()
            };
            for running in running {
                tokio::spawn(async move {
                    let stop = CancellationToken::new();
                    for group in queue::due(&running.mount).await.unwrap_or_default() {
                        let (mount, stop) = (running.mount.clone(), stop.clone());
                        tokio::spawn(async move { queue::run(&mount, group, &stop).await });
                    }
                });
            }
        }
    }

    /// The process that requests go to, as soon as there is one.
    async fn running(&self) -> Running {
        loop {
            if let Some(running) = self.state().active.clone().filter(|running| !running.life.is_dead()) {
                return running;
            }
            self.world.sleep(Duration::from_millis(500)).await;
        }
    }

    fn request(&self, operation: Operation, path: &str) -> Request {
        let mut state = self.state();
        state.requests += 1;
        Request {
            id: format!("00000000-0000-0000-0000-{:012}", state.requests),
            operation,
            path: path.into(),
            data: Fields::new(),
            lease: None,
            caller: Caller { display_name: "token".into(), ..Caller::default() },
        }
    }

    /// Sends a request to the process that is there; `None` if that dies meanwhile.
    async fn ask(&self, running: &Running, request: Request) -> Option<Reply> {
        let (mount, life) = (running.mount.clone(), running.life.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let reply = mount.handle(request).await;
            if !life.is_dead() {
                let _ = tell.send(reply);
            }
        });
        tokio::select! {
            biased;
            () = running.life.end() => None,
            reply = told => reply.ok(),
        }
    }

    /// A request that somebody makes and does not wait for; nothing of it is kept.
    pub fn order(&self, operation: Operation, path: &'static str) {
        let host = self.clone();
        self.state().busy += 1;
        tokio::spawn(async move {
            let running = host.running().await;
            let request = host.request(operation, path);
            host.ask(&running, request).await;
            host.state().busy -= 1;
        });
    }

    /// Somebody asks for a credential, and may leave after so long.
    pub fn mint(&self, server: usize, leaves: Option<Duration>) {
        let host = self.clone();
        self.state().busy += 1;
        tokio::spawn(async move {
            host.minting(server, leaves).await;
            host.state().busy -= 1;
        });
    }

    async fn minting(&self, server: usize, leaves: Option<Duration>) {
        let path = ["creds/pg", "creds/my"][server];
        let first = self.request(Operation::Read, path);
        let left = self.world.state().now + leaves.unwrap_or(Duration::MAX / 4);
        for attempt in 0..3 {
            let running = self.running().await;
            let crashes = self.state().crashes;
            let request = Request { id: first.id.clone(), ..self.request(Operation::Read, path) };
            let (tell, told) = tokio::sync::oneshot::channel();
            let wire = Wire { host: self.clone(), running: running.clone(), path, left };
            tokio::spawn(async move {
                let host = wire.host.clone();
                if let Some(answer) = wire.answer(request).await
                    && let Err(Some(lost)) = tell.send(answer)
                {
                    // Nobody is there who could take it any more.
                    host.excuse(lost.internal["username"].as_str().unwrap().to_owned());
                }
            });
            let answer = tokio::select! {
                biased;
                answer = told => answer.ok(),
                () = running.life.end() => None,
            };
            match answer {
                Some(Some(lease)) => return self.keep(&running, server, lease, crashes).await,
                // Refused, or the client has left.
                Some(None) => return,
                // It died with the request, or the host did.
                None if self.state().crashes != crashes || !self.world.state().random.chance(800) => return,
                None => self.state().tally.again += u64::from(attempt < 2),
            }
        }
    }

    /// The host writes a lease down.
    async fn keep(&self, running: &Running, server: usize, grant: LeaseGrant, crashes: u64) {
        let user = grant.internal["username"].as_str().unwrap().to_owned();
        let issued = self.world.state().wall();
        let pause = self.world.state().random.millis(30);
        self.world.sleep(pause).await;
        if self.state().crashes != crashes {
            return self.excuse(user);
        }
        let refused = {
            let mut world = self.world.state();
            let failing = world.weather.storage / 2;
            failing > 0 && world.random.chance(failing)
        };
        if refused || running.life.is_standby() {
            // It takes the credential back at once.
            let lease = LeaseRef { internal: grant.internal, issued: Some(issued), ..LeaseRef::default() };
            let request = Request { lease: Some(lease), ..self.request(Operation::Revoke, "creds/x") };
            if !matches!(self.ask(running, request).await, Some(Ok(_))) {
                self.excuse(user);
            }
            return;
        }
        let mut state = self.state();
        let now = self.world.state().now;
        let max = if grant.max_ttl.is_zero() { Duration::from_secs(7200) } else { grant.max_ttl };
        if grant.ttl.is_zero() || grant.ttl > max {
            self.world.state().wrong.push(format!("{user} has a lease of {:?}, of {max:?} at most", grant.ttl));
        }
        state.tally.mints += 1;
        self.world.state().note(&format!("lease {} of {user} for {:?}", state.leases.len(), grant.ttl));
        state.leases.push(Lease {
            user,
            server,
            internal: grant.internal,
            issued,
            expires: now + grant.ttl,
            last: now + max,
            phase: Phase::Live,
            tries: 0,
            misjudged: false,
        });
    }

    fn excuse(&self, user: String) {
        let mut state = self.state();
        state.tally.excused += 1;
        self.world.state().note(&format!("excused {user}"));
        if self.world.state().wall() > SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + 200 * 24 * 3600) {
            state.ahead.insert(user.clone());
        }
        state.excused.insert(user);
    }

    /// One of the live leases, if there is one.
    pub fn any_lease(&self) -> Option<usize> {
        let state = self.state();
        let live: Vec<usize> =
            (0..state.leases.len()).filter(|number| state.leases[*number].phase == Phase::Live).collect();
        let chosen = self.world.state().random.below(live.len().max(1) as u64) as usize;
        live.get(chosen).copied()
    }

    pub fn renew(&self, number: usize, increment: Duration) {
        self.state().leases[number].phase = Phase::Renewing;
        self.state().busy += 1;
        let host = self.clone();
        tokio::spawn(async move {
            let running = host.running().await;
            let lease = host.state().leases[number].clone();
            let sent = LeaseRef { internal: lease.internal, issued: Some(lease.issued), increment, id: String::new() };
            let request = Request { lease: Some(sent), ..host.request(Operation::Renew, "creds/x") };
            let reply = host.ask(&running, request).await;
            let mut state = host.state();
            state.busy -= 1;
            host.world.state().note(&format!("renewal of {number} by {increment:?}: {reply:?}"));
            let now = host.world.state().now;
            if let Some(Ok(Some(Response { lease: Some(grant), .. }))) = reply {
                let ttl = if increment.is_zero() { grant.ttl } else { increment };
                let lease = &mut state.leases[number];
                lease.expires = (now + ttl).min(lease.last).max(now);
                state.tally.renewals += 1;
            }
            let lease = &mut state.leases[number];
            if lease.phase == Phase::Renewing {
                lease.phase = Phase::Live;
            }
        });
    }

    /// Somebody, or the host itself, ends a lease.
    pub fn end_in_background(&self, number: usize) {
        self.state().leases[number].phase = Phase::Ending;
        self.state().busy += 1;
        let host = self.clone();
        tokio::spawn(async move {
            let running = host.running().await;
            let lease = host.state().leases[number].clone();
            let sent = LeaseRef { internal: lease.internal, issued: Some(lease.issued), ..LeaseRef::default() };
            let request = Request { lease: Some(sent), ..host.request(Operation::Revoke, "creds/x") };
            let reply = host.ask(&running, request).await;
            let mut state = host.state();
            state.busy -= 1;
            let mut world = host.world.state();
            world.note(&format!("end of {number} {}: {reply:?}", lease.user));
            match reply {
                Some(Ok(_)) => {
                    if world.servers[lease.server].users.contains_key(&lease.user) {
                        world.wrong.push(format!("{} is there, and its end was confirmed", lease.user));
                    }
                    state.leases[number].phase = Phase::Gone;
                    state.gone.insert(lease.user);
                    state.tally.ends += 1;
                }
                Some(Err(Error::Refused(why) | Error::Coded(_, why))) => {
                    world.wrong.push(format!("{} would be irrevocable at once: {why}", lease.user));
                }
                Some(Err(Error::UnsupportedPath | Error::UnsupportedOperation)) => {
                    world.wrong.push(format!("{} would be irrevocable at once", lease.user));
                }
                _ => {
                    state.tally.refused += 1;
                    let lease = &mut state.leases[number];
                    lease.tries += 1;
                    let pause = FIRST_PAUSE * (1 << (lease.tries - 1));
                    let jitter = 0.5 + world.random.below(1000) as f64 / 1000.0;
                    lease.phase = match lease.tries < MOST_TRIES {
                        true => Phase::Waiting(world.now + pause.mul_f64(jitter)),
                        false => Phase::Irrevocable,
                    };
                    let is_given_up = lease.phase == Phase::Irrevocable;
                    state.tally.given_up += u64::from(is_given_up);
                }
            }
        });
    }
}

/// What carries an answer to the host: see `wire`.
struct Wire {
    host: HostOf,
    running: Running,
    path: &'static str,
    /// When the client is gone.
    left: Duration,
}

impl Wire {
    fn is_left(&self) -> bool {
        self.host.world.state().now >= self.left
    }

    /// `None` if the process dies; else the lease that the host gets, if it gets one.
    async fn answer(self, request: Request) -> Option<Option<LeaseGrant>> {
        let (mount, life) = (&self.running.mount, &self.running.life);
        let Ok(Some(Response { lease: Some(lease), underway: Some(underway), .. })) = mount.handle(request).await
        else {
            return (!life.is_dead()).then_some(None);
        };
        if life.point("wire answer", "", |_| 0).await == Fate::Die {
            std::future::pending::<()>().await;
        }
        if self.is_left() {
            return self.undo(lease, &underway).await;
        }
        let user = lease.internal["username"].as_str().unwrap().to_owned();
        mount.delivered(&underway);
        let (fate, pause, read) = {
            let mut world = self.host.world.state();
            let pause = world.random.millis(50);
            drop(world);
            let fate = life.at_once("wire answer delivered");
            (fate, pause, self.host.world.state().random.chance(500))
        };
        self.host.world.sleep(pause).await;
        if fate == Fate::Die || life.is_dead() {
            // It is with the kernel, and the host reads it, or it does not.
            if !read {
                self.host.excuse(user);
            }
            return read.then_some(Some(lease));
        }
        if self.is_left() {
            // The client's departure and the answer have crossed.
            return self.undo(lease, &underway).await;
        }
        Some(Some(lease))
    }

    async fn undo(&self, lease: LeaseGrant, underway: &Underway) -> Option<Option<LeaseGrant>> {
        self.host.state().tally.left += 1;
        let user = lease.internal["username"].as_str().unwrap().to_owned();
        self.running.mount.undelivered(self.path.into(), lease, Some(underway)).await;
        if self.running.life.is_standby() {
            // It can write nothing down any more: what it could not end ends by its time.
            self.host.excuse(user);
        }
        Some(None)
    }
}
