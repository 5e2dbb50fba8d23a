//! What the engine stands on: time, storage, databases and scratch notes that a seed decides on.
//!
//! Every call of a port passes two points, before its effect and after it. At a point the call may take time, it may fail,
//! and its process may die: then none of its calls ever returns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use super::*;
use crate::engine::intent::UNFINISHED;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    pub fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// How often what goes wrong, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub death: u64,
    pub storage: u64,
    pub target: u64,
    /// A statement takes long.
    pub slow: u64,
    /// A call takes a moment, and others go on meanwhile.
    pub delay: u64,
}

/// A user at a server.
#[derive(Debug, Clone)]
pub struct User {
    pub marker: Option<Marker>,
    pub foreign: bool,
}

/// A database server.
#[derive(Default)]
pub struct Server {
    pub users: BTreeMap<String, User>,
    pub accounts: BTreeMap<String, String>,
    /// Every name that a user ever had.
    used: BTreeSet<String>,
    /// It is not there.
    pub away: bool,
    /// It ends nobody.
    pub strict: bool,
    /// Statements that are under way, by request.
    under_way: BTreeMap<String, usize>,
}

pub struct State {
    pub random: Random,
    pub weather: Weather,
    /// The time that has really passed.
    pub now: Duration,
    /// By how many seconds the wall clock is off.
    pub off: i64,
    /// Somebody has set it at some time.
    pub was_set: bool,
    /// The earliest and the latest that it said, in seconds from the truth.
    pub farthest: (i64, i64),
    timers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
    serial: u64,
    pub entries: BTreeMap<String, String>,
    pub servers: [Server; 2],
    /// By machine, process and number.
    pub scratch: BTreeMap<(u64, u64, u64), String>,
    dead: BTreeSet<u64>,
    /// Points that were passed.
    pub passed: u64,
    /// At this one the process dies.
    pub kill_at: u64,
    /// At this one the call fails.
    pub fail_at: u64,
    /// What they were, if anybody wants to know.
    pub names: Option<Vec<String>>,
    /// What must never happen, and did.
    pub wrong: Vec<String>,
    /// Of all that happened.
    pub trace: u64,
    /// It is told, too.
    pub tells: bool,
}

pub struct World(Mutex<State>);

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        Arc::new(World(Mutex::new(State {
            random: Random(seed),
            weather: Weather::default(),
            now: Duration::ZERO,
            off: 0,
            was_set: false,
            farthest: (0, 0),
            timers: BTreeMap::new(),
            serial: 0,
            entries: BTreeMap::new(),
            servers: Default::default(),
            scratch: BTreeMap::new(),
            dead: BTreeSet::new(),
            passed: 0,
            kill_at: 0,
            fail_at: 0,
            names: None,
            wrong: Vec::new(),
            trace: seed,
            tells: false,
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Waits by the simulated time.
    pub async fn sleep(&self, time: Duration) {
        let woken = {
            let mut state = self.state();
            let (tell, woken) = oneshot::channel();
            state.serial += 1;
            let at = (state.now + time, state.serial);
            state.timers.insert(at, tell);
            woken
        };
        let _ = woken.await;
    }
}

impl State {
    pub fn wall(&self) -> SystemTime {
        let seconds = 1_800_000_000_i64 + self.off;
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs()) + self.now
    }

    pub fn next_timer(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Who waits for a time up to now goes on.
    pub fn wake(&mut self) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= self.now
        {
            let _ = entry.remove().send(());
        }
    }

    pub fn note(&mut self, what: &str) {
        if self.tells {
            println!("{:9.3} wall {:+}: {what}", self.now.as_secs_f64(), self.off);
        }
        for byte in what.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.trace = (self.trace ^ self.now.as_nanos() as u64).wrapping_mul(0x0100_0000_01B3);
    }
}

/// A process of the plugin.
pub struct Life {
    pub world: Arc<World>,
    pub number: u64,
    /// Notes are found by processes of the same one.
    machine: u64,
    dead: AtomicBool,
    standby: AtomicBool,
    pub died: Notify,
}

/// What becomes of a call at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Go,
    Fail,
    Die,
}

impl Life {
    pub fn new(world: &Arc<World>, number: u64, machine: u64) -> Arc<Life> {
        Arc::new(Life {
            world: world.clone(),
            number,
            machine,
            dead: AtomicBool::new(false),
            standby: AtomicBool::new(false),
            died: Notify::new(),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn is_standby(&self) -> bool {
        self.standby.load(Ordering::SeqCst)
    }

    /// Another node is active from now on.
    pub fn stand_by(&self) {
        self.standby.store(true, Ordering::SeqCst);
    }

    pub fn die(&self) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            let mut state = self.world.state();
            state.dead.insert(self.number);
            state.note("death");
            drop(state);
            self.died.notify_waiters();
        }
    }

    /// Returns when the process is dead.
    pub async fn end(&self) {
        let ended = self.died.notified();
        if !self.is_dead() {
            ended.await;
        }
    }

    /// Passes a point; `failing` says how often it fails.
    pub async fn point(&self, what: &str, of: &str, failing: impl Fn(&Weather) -> u64) -> Fate {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        let (fate, pause) = {
            let mut state = self.world.state();
            state.passed += 1;
            state.note(&format!("{} {what} {of}", self.number));
            if let Some(names) = &mut state.names {
                // Of a record its kind.
                let kind = of.split_once('/').map_or("", |(kind, _)| kind);
                names.push(format!("{what} {kind}").trim_end().to_owned());
            }
            let weather = state.weather;
            let dies = state.passed == state.kill_at || (weather.death > 0 && state.random.chance(weather.death));
            let failing = failing(&weather);
            if dies {
                state.note("dies");
                (Fate::Die, None)
            } else if state.passed == state.fail_at || (failing > 0 && state.random.chance(failing)) {
                state.note("fails");
                (Fate::Fail, None)
            } else if weather.delay > 0 && state.random.chance(weather.delay) {
                (Fate::Go, Some(if state.random.chance(500) { Duration::ZERO } else { state.random.millis(400) }))
            } else {
                (Fate::Go, None)
            }
        };
        match pause {
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(pause) => self.world.sleep(pause).await,
            None => {}
        }
        if fate == Fate::Die {
            self.die();
        } else if self.is_dead() {
            std::future::pending::<()>().await;
        }
        fate
    }

    /// As [`Life::point`], where nothing can fail and nobody waits.
    pub fn at_once(&self, what: &str) -> Fate {
        let dies = {
            let mut state = self.world.state();
            state.passed += 1;
            state.note(what);
            if let Some(names) = &mut state.names {
                names.push(what.to_owned());
            }
            let death = state.weather.death;
            state.passed == state.kill_at || (death > 0 && state.random.chance(death))
        };
        if dies {
            self.die();
            return Fate::Die;
        }
        Fate::Go
    }

    /// As [`Life::point`], for a call that does not begin, or was done, when the process dies.
    async fn fails(&self, what: &str, of: &str, failing: impl Fn(&Weather) -> u64) -> bool {
        match self.point(what, of, failing).await {
            Fate::Die => std::future::pending().await,
            fate => fate == Fate::Fail,
        }
    }
}

/// The ports of a process.
pub struct Port(pub Arc<Life>);

fn read_only() -> StorageError {
    StorageError("cannot write to readonly storage".into())
}

fn refused() -> StorageError {
    StorageError("storage is away".into())
}

#[async_trait]
impl Storage for Port {
    async fn get(&self, key: &str) -> Result<Option<Secret>, StorageError> {
        if self.0.fails("storage.get", key, |weather| weather.storage / 2).await {
            return Err(refused());
        }
        Ok(self.0.world.state().entries.get(key).cloned().map(Secret::new))
    }
    async fn put(&self, key: &str, value: &Secret, _seal_wrap: bool) -> Result<(), StorageError> {
        let write = || _ = self.0.world.state().entries.insert(key.into(), value.expose().into());
        match self.0.point("storage.put", key, |weather| weather.storage).await {
            Fate::Go if self.0.is_standby() => return Err(read_only()),
            Fate::Go => write(),
            Fate::Fail => return Err(refused()),
            Fate::Die => {
                // It was sent already, or not.
                if self.0.world.state().random.chance(500) {
                    write();
                }
                std::future::pending::<()>().await;
            }
        }
        if self.0.fails("storage.put done", key, |weather| weather.storage).await { Err(refused()) } else { Ok(()) }
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        if self.0.fails("storage.delete", key, |weather| weather.storage).await {
            return Err(refused());
        }
        if self.0.is_standby() {
            return Err(read_only());
        }
        self.0.world.state().entries.remove(key);
        if self.0.fails("storage.delete done", key, |weather| weather.storage).await { Err(refused()) } else { Ok(()) }
    }
    async fn list(&self, prefix: &str, after: &str, limit: i32) -> Result<Vec<String>, StorageError> {
        if self.0.fails("storage.list", prefix, |weather| weather.storage / 2).await {
            return Err(refused());
        }
        let state = self.0.world.state();
        let below = state.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let child = |key: &str| key[prefix.len()..].split_inclusive('/').next().unwrap_or_default().to_owned();
        let mut keys: Vec<String> = below.map(|(key, _)| child(key)).collect();
        keys.dedup();
        keys.retain(|key| key.as_str() > after);
        Ok(keys.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }
}

#[async_trait]
impl Host for Port {
    async fn default_lease_ttl(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(3600))
    }
    async fn max_lease_ttl(&self) -> Result<Duration, HostError> {
        if self.0.fails("host.max_lease_ttl", "", |weather| weather.storage / 4).await {
            return Err(HostError("the host is away".into()));
        }
        Ok(Duration::from_secs(7200))
    }
    async fn is_standby(&self) -> Result<bool, HostError> {
        if self.0.fails("host.is_standby", "", |weather| weather.storage / 4).await {
            return Err(HostError("the host is away".into()));
        }
        Ok(self.0.is_standby())
    }
    async fn generate_password(&self, _policy: &str) -> Result<Option<Secret>, HostError> {
        if self.0.fails("host.generate_password", "", |weather| weather.storage / 4).await {
            return Err(HostError("the host is away".into()));
        }
        Ok(Some(Secret::new(format!("pass-{:016x}", self.0.world.state().random.next()))))
    }
}

#[async_trait]
impl Web for Port {
    async fn post(&self, _post: &Post) -> Result<Posted, WebError> {
        Err(WebError("nobody is there".into()))
    }
}

impl Scratch for Port {
    fn write(&self, text: &str) -> Option<u64> {
        if self.0.is_dead() {
            return None;
        }
        let mut state = self.0.world.state();
        state.serial += 1;
        let note = state.serial;
        state.scratch.insert((self.0.machine, self.0.number, note), text.to_owned());
        Some(note)
    }
    fn clear(&self, note: u64) {
        if !self.0.is_dead() {
            self.0.world.state().scratch.remove(&(self.0.machine, self.0.number, note));
        }
    }
    fn left(&self) -> Vec<LeftNote> {
        let state = self.0.world.state();
        let of_dead = state.scratch.iter().filter(|((machine, life, _), _)| {
            *machine == self.0.machine && *life != self.0.number && state.dead.contains(life)
        });
        of_dead
            .map(|((_, life, note), text)| LeftNote { place: format!("{life}/{note}"), text: text.clone() })
            .collect()
    }
    fn clear_left(&self, place: &str) {
        let (life, note) = place.split_once('/').unwrap();
        let place = (self.0.machine, life.parse().unwrap(), note.parse().unwrap());
        self.0.world.state().scratch.remove(&place);
    }
}

impl Clock for Port {
    fn now(&self) -> SystemTime {
        self.0.world.state().wall()
    }
    fn steady(&self) -> Duration {
        self.0.world.state().now
    }
}

impl Connector for Port {
    fn open(&self, settings: Settings) -> Arc<dyn Target> {
        let passwords = settings.passwords();
        let (server, user) = match settings {
            Settings::PostgreSql(settings) => (0, settings.endpoint.user),
            Settings::MySql(settings) => (1, settings.username),
            Settings::Redis(settings) => (1, settings.username),
        };
        Arc::new(Session { life: self.0.clone(), server, user, passwords })
    }
}

/// A target, as an account logs in to it.
struct Session {
    life: Arc<Life>,
    server: usize,
    user: String,
    passwords: Passwords,
}

/// What a statement came to.
enum Ran {
    Done,
    Repeated,
    /// Nobody waited long enough to know.
    Unheard,
}

impl Session {
    fn server<T>(&self, work: impl FnOnce(&mut Server) -> T) -> T {
        work(&mut self.life.world.state().servers[self.server])
    }

    /// Opens a session.
    async fn reach(&self, what: &str, of: &str) -> Result<(), TargetError> {
        if self.life.fails(what, of, |weather| weather.target).await || self.server(|server| server.away) {
            return Err(TargetError::Connect("down".into()));
        }
        let mut tries = self.passwords.tries();
        while !self.opens(&self.user, tries.current().map(Secret::expose)) {
            if !tries.go_on() {
                return Err(TargetError::Connect("wrong password".into()));
            }
        }
        tries.succeed();
        Ok(())
    }

    fn opens(&self, user: &str, password: Option<&str>) -> bool {
        self.server(|server| server.accounts.get(user).is_none_or(|valid| Some(valid.as_str()) == password))
    }

    /// Whether the answer to what was done gets lost.
    async fn lost(&self, what: &str) -> bool {
        self.life.fails(what, "", |weather| weather.target).await
    }

    /// The statement itself, which goes on whatever becomes of who sent it.
    async fn make(&self, plan: &MintPlan) -> Ran {
        let (world, server) = (self.life.world.clone(), self.server);
        let (request, repeats) = (plan.marker.request.clone(), plan.repeats && server == 0);
        let user = User { marker: (!plan.marker.seal.is_empty()).then(|| plan.marker.clone()), foreign: false };
        let name = plan.username.clone();
        let took = {
            let mut state = world.state();
            *state.servers[server].under_way.entry(request.clone()).or_default() += 1;
            let slow = state.weather.slow;
            if slow > 0 && state.random.chance(slow) { state.random.millis(40_000) } else { Duration::ZERO }
        };
        assert!(took < UNFINISHED);
        let (tell, told) = oneshot::channel();
        let running = async move {
            if !took.is_zero() {
                world.sleep(took).await;
            }
            // At PostgreSQL one transaction of a request at a time.
            while repeats && world.state().servers[server].under_way[&request] > 1 {
                world.sleep(Duration::from_millis(200)).await;
            }
            let mut state = world.state();
            state.note(&format!("made {name}"));
            let at = &mut state.servers[server];
            if let Some(count) = at.under_way.get_mut(&request) {
                *count -= 1;
            }
            let same = |user: &User| user.marker.as_ref().is_some_and(|marker| marker.request == request);
            if repeats && at.users.values().any(same) {
                let _ = tell.send(Ran::Repeated);
                return;
            }
            if !at.used.insert(name.clone()) {
                state.wrong.push(format!("the name {name} was used twice"));
                return;
            }
            at.users.insert(name, user);
            let _ = tell.send(Ran::Done);
        };
        if took.is_zero() && !repeats {
            running.await;
        } else {
            tokio::spawn(running);
        }
        // The deadline of a statement.
        tokio::select! {
            biased;
            ran = told => ran.unwrap_or(Ran::Unheard),
            () = self.life.world.sleep(Duration::from_secs(20)) => Ran::Unheard,
        }
    }
}

fn gone() -> TargetError {
    TargetError::Lost("gone".into())
}

#[async_trait]
impl Target for Session {
    async fn verify(&self) -> Result<(), TargetError> {
        self.reach("target.verify", "").await
    }
    async fn version(&self) -> Result<String, TargetError> {
        self.reach("target.version", "").await.map(|()| "Simulated 1".into())
    }
    async fn mint(&self, plan: &MintPlan, _login: Login<'_>) -> Outcome<()> {
        if let Err(e) = self.reach("target.mint", &plan.username).await {
            return Outcome::Failed(e);
        }
        match self.make(plan).await {
            Ran::Repeated => return Outcome::Failed(TargetError::Repeated),
            Ran::Unheard => return Outcome::Unknown(TargetError::Timeout("no answer".into())),
            Ran::Done => {}
        }
        if self.lost("target.mint done").await { Outcome::Unknown(gone()) } else { Outcome::Done(()) }
    }
    async fn renew(&self, plan: &RenewPlan) -> Result<(), TargetError> {
        self.reach("target.renew", &plan.username).await?;
        let found = self.server(|server| match server.users.get_mut(&plan.username) {
            Some(user) => {
                user.marker.iter_mut().for_each(|marker| marker.expires = marker.expires.max(plan.expires));
                true
            }
            None => false,
        });
        if !found {
            return Err(TargetError::Server { message: "no such role".into(), code: "42704".into() });
        }
        if self.lost("target.renew done").await { Err(gone()) } else { Ok(()) }
    }
    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError> {
        self.reach("target.end", &plan.username).await?;
        if self.server(|server| server.strict) {
            return Err(TargetError::Server { message: "permission denied".into(), code: "42501".into() });
        }
        let removed = self.server(|server| server.users.remove(&plan.username));
        if removed.as_ref().is_some_and(|user| user.foreign) {
            self.life.world.state().wrong.push(format!("{} was somebody else's", plan.username));
        }
        if self.lost("target.end done").await {
            return Err(gone());
        }
        Ok(Ended { existed: removed.is_some(), ..Ended::default() })
    }
    async fn marked(&self, mount: &str) -> Result<Vec<Marked>, TargetError> {
        self.reach("target.marked", "").await?;
        Ok(self.server(|server| {
            let of_mount = server.users.iter().filter_map(|(username, user)| {
                let marker = user.marker.as_ref().filter(|marker| marker.mount == mount)?;
                Some(Marked { username: username.clone(), marker: marker.clone(), barred: false })
            });
            of_mount.collect()
        }))
    }
    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError> {
        self.reach("target.present", "").await?;
        Ok(self.server(|server| usernames.iter().filter(|name| server.users.contains_key(*name)).cloned().collect()))
    }
    async fn clock(&self) -> Result<Option<SystemTime>, TargetError> {
        self.reach("target.clock", "").await?;
        let state = self.life.world.state();
        Ok(Some(
            state.wall() - Duration::from_secs(state.off.max(0) as u64)
                + Duration::from_secs(state.off.min(0).unsigned_abs()),
        ))
    }
    async fn check(&self, _options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
        Ok(Vec::new())
    }
    async fn set_password(&self, username: &str, password: &Secret, _statements: &Script) -> Outcome<()> {
        if let Err(e) = self.reach("target.set_password", "").await {
            return Outcome::Failed(TargetError::Account(Box::new(e)));
        }
        self.server(|server| server.accounts.insert(username.into(), password.expose().into()));
        if self.lost("target.set_password done").await { Outcome::Unknown(gone()) } else { Outcome::Done(()) }
    }
    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError> {
        if self.life.fails("target.login", "", |weather| weather.target).await || self.server(|server| server.away) {
            return Err(LoginError::Unreachable(TargetError::Connect("down".into())));
        }
        match self.opens(username, Some(password.expose())) {
            true => Ok(()),
            false => Err(LoginError::Refused(TargetError::Connect("wrong password".into()))),
        }
    }
    async fn close(&self) {}
}
