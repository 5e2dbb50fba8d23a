//! The engine on simulated ports: storage, host and target in memory.

mod access;
mod aws;
mod caps;
mod check;
mod cost;
mod ending;
mod mint;
mod mode;
mod reconcile;
mod root;
mod rotation;
mod simulation;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::error::Error;
use super::port::{
    Clock, Entity, Group, Host, HostError, LeftNote, Post, Posted, Scratch, Storage, StorageError, Web, WebError,
};
use super::request::{Caller, Datum, Existence, Fields, LeaseGrant, LeaseRef, Operation, Reply, Request, Response};
use super::{Kind, Mount, Ports};
use crate::secret::Secret;
use crate::target::{
    Capability, Connector, EndOptions, EndPlan, Ended, Left, Login, LoginError, Marked, Marker, MintPlan, Need,
    Outcome, Owned, Passwords, RenewPlan, Script, Sessions, Settings, Standing, Target, TargetError,
};
use rotation::Faults;

/// What a login says of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// It is right, whatever it is.
    Open,
    /// It is wrong, whatever it is.
    Shut,
    /// Nothing.
    Barred,
}

/// A host, its storage, and a target that only remembers names.
#[derive(Default)]
struct World {
    entries: Mutex<BTreeMap<String, String>>,
    users: Mutex<BTreeMap<String, SystemTime>>,
    standby: AtomicBool,
    down: AtomicBool,
    touched: AtomicBool,
    /// Targets that were made of settings.
    opened: AtomicU64,
    /// Accounts with a password; an account that is not here has any.
    accounts: Mutex<BTreeMap<String, String>>,
    /// Passwords that accounts have beside.
    beside: Mutex<BTreeMap<String, String>>,
    /// The target's policy takes no password.
    picky: AtomicBool,
    /// What it did not take.
    refused: Mutex<Vec<String>>,
    /// The target never says what became of a new password; takes it or not.
    mute: Mutex<Option<bool>>,
    /// What every login but the administrator's comes to.
    logging_in: Mutex<Option<Door>>,
    /// The target cannot write down what it changes.
    forgetful: AtomicBool,
    /// Passwords that a restart of the target brings back.
    unwritten: Mutex<BTreeMap<String, String>>,
    /// Attempts to log in.
    logins: AtomicU64,
    /// Seconds that have passed.
    later: AtomicU64,
    /// Users own something, which somebody has to decide on.
    owners: AtomicBool,
    /// The target lets nobody be ended.
    strict: AtomicBool,
    /// The account of the connection lacks every right.
    weak: AtomicBool,
    /// Ends that the target was asked for, and how.
    ends: Mutex<Vec<crate::target::EndOptions>>,
    /// Markers of users.
    markers: Mutex<BTreeMap<String, Marker>>,
    /// Scratch notes; those up to `dead` are dead processes'.
    scratch: Mutex<BTreeMap<u64, String>>,
    touches: AtomicU64,
    dead: AtomicU64,
    /// By how much somebody has set the wall clock forward.
    set: AtomicU64,
    /// By how much the target's clock is ahead of the true time, if it can be asked.
    target_clock: Mutex<Option<Duration>>,
    faults: Faults,
    /// Who there is, and in which groups.
    entities: Mutex<BTreeMap<String, (Entity, Vec<String>)>>,
    /// Writes to storage.
    writes: AtomicU64,
    /// Deletions from storage.
    deletions: AtomicU64,
    /// Reads of storage.
    reads: AtomicU64,
    /// Questions to the host.
    questions: AtomicU64,
    /// What was sent to web servers, and what they answer; nothing: they are not there.
    posted: Mutex<Vec<Post>>,
    web: Mutex<Option<Posted>>,
    /// The target records what its users do; and whether it was asked to, for each user.
    records: AtomicBool,
    recorded: Mutex<Vec<bool>>,
    /// For how long sessions have been silent, if the target tells.
    silence: Mutex<Option<Option<u64>>>,
    /// The AWS account.
    account: aws::Account,
}

struct At(Arc<World>);

#[async_trait]
impl Storage for At {
    async fn get(&self, key: &str) -> Result<Option<Secret>, StorageError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        if self.0.faults.point().await {
            return Err(StorageError("storage is away".into()));
        }
        Ok(self.0.entries.lock().unwrap().get(key).cloned().map(Secret::new))
    }
    async fn put(&self, key: &str, value: &Secret, _seal_wrap: bool) -> Result<(), StorageError> {
        assert!(!key.is_empty() && !key.starts_with('/') && !key.ends_with('/'), "bad storage key {key:?}");
        if self.0.standby.load(Ordering::SeqCst) {
            return Err(StorageError("cannot write to readonly storage".into()));
        }
        if self.0.faults.point().await {
            return Err(StorageError("storage is away".into()));
        }
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        self.0.entries.lock().unwrap().insert(key.into(), value.expose().into());
        if self.0.faults.point().await {
            return Err(StorageError("storage is away".into()));
        }
        Ok(())
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.0.deletions.fetch_add(1, Ordering::SeqCst);
        if self.0.faults.point().await {
            return Err(StorageError("storage is away".into()));
        }
        self.0.entries.lock().unwrap().remove(key);
        if self.0.faults.point().await {
            return Err(StorageError("storage is away".into()));
        }
        Ok(())
    }
    async fn list(&self, prefix: &str, after: &str, limit: i32) -> Result<Vec<String>, StorageError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let entries = self.0.entries.lock().unwrap();
        let child = |key: &'_ str| key.split_inclusive('/').next().unwrap_or_default().to_owned();
        let mut keys: Vec<String> = entries.keys().filter_map(|key| key.strip_prefix(prefix)).map(child).collect();
        keys.dedup();
        keys.retain(|key| key.as_str() > after);
        Ok(keys.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }
}

#[async_trait]
impl Host for At {
    async fn default_lease_ttl(&self) -> Result<Duration, HostError> {
        self.0.questions.fetch_add(1, Ordering::SeqCst);
        Ok(Duration::from_secs(3600))
    }
    async fn max_lease_ttl(&self) -> Result<Duration, HostError> {
        self.0.questions.fetch_add(1, Ordering::SeqCst);
        Ok(Duration::from_secs(7200))
    }
    async fn is_standby(&self) -> Result<bool, HostError> {
        self.0.questions.fetch_add(1, Ordering::SeqCst);
        Ok(self.0.standby.load(Ordering::SeqCst))
    }
    async fn entity(&self, id: &str) -> Result<Option<Entity>, HostError> {
        Ok(self.0.entities.lock().unwrap().get(id).map(|(entity, _)| entity.clone()))
    }
    async fn groups(&self, id: &str) -> Result<Vec<Group>, HostError> {
        let names = self.0.entities.lock().unwrap().get(id).map(|(_, groups)| groups.clone()).unwrap_or_default();
        Ok(names.into_iter().map(|name| Group { name, ..Group::default() }).collect())
    }
    async fn generate_password(&self, policy: &str) -> Result<Option<Secret>, HostError> {
        let passwords = [("known", "by-policy"), ("awkward", "a%41b")];
        Ok(passwords.iter().find(|(name, _)| *name == policy).map(|(_, password)| Secret::new((*password).into())))
    }
}

#[async_trait]
impl Web for At {
    async fn post(&self, post: &Post) -> Result<Posted, WebError> {
        let answer = self.0.web.lock().unwrap().clone();
        let answer = answer.ok_or_else(|| WebError("nobody is there".into()))?;
        self.0.posted.lock().unwrap().push(post.clone());
        Ok(answer)
    }
}

impl Scratch for At {
    fn write(&self, text: &str) -> Option<u64> {
        let note = self.0.touches.fetch_add(1, Ordering::SeqCst);
        self.0.scratch.lock().unwrap().insert(note, text.to_owned());
        Some(note)
    }
    fn clear(&self, note: u64) {
        self.0.scratch.lock().unwrap().remove(&note);
    }
    fn left(&self) -> Vec<LeftNote> {
        let dead = self.0.dead.load(Ordering::SeqCst);
        let notes = self.0.scratch.lock().unwrap();
        let left = notes.range(..dead);
        left.map(|(note, text)| LeftNote { place: note.to_string(), text: text.clone() }).collect()
    }
    fn clear_left(&self, place: &str) {
        self.0.scratch.lock().unwrap().remove(&place.parse().unwrap());
    }
}

impl Clock for At {
    fn now(&self) -> SystemTime {
        self.true_time() + Duration::from_secs(self.0.set.load(Ordering::SeqCst))
    }
    fn steady(&self) -> Duration {
        Duration::from_secs(self.0.later.load(Ordering::SeqCst))
    }
}

impl At {
    fn true_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + self.0.later.load(Ordering::SeqCst))
    }
}

impl Connector for At {
    fn open(&self, settings: Settings) -> Arc<dyn Target> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        let passwords = settings.passwords();
        let user = match settings {
            Settings::PostgreSql(settings) => settings.endpoint.user,
            Settings::MySql(settings) => settings.username,
            Settings::Redis(settings) => settings.username,
        };
        Arc::new(Database { world: self.0.clone(), user, passwords })
    }
    fn aws(&self, settings: crate::target::aws::Settings) -> Arc<dyn crate::target::aws::Cloud> {
        aws::open(&self.0, settings)
    }
}

/// A target, as an account logs in to it.
struct Database {
    world: Arc<World>,
    user: String,
    passwords: Passwords,
}

impl World {
    fn takes(&self, user: &str, password: Option<&str>) -> bool {
        let beside = self.beside.lock().unwrap();
        if password.is_some() && beside.get(user).map(String::as_str) == password {
            return true;
        }
        self.accounts.lock().unwrap().get(user).is_none_or(|valid| Some(valid.as_str()) == password)
    }
}

impl Database {
    fn reach(&self) -> Result<(), TargetError> {
        self.world.touched.store(true, Ordering::SeqCst);
        if self.world.down.load(Ordering::SeqCst) {
            return Err(TargetError::Connect("down".into()));
        }
        let mut tries = self.passwords.tries();
        while !self.world.takes(&self.user, tries.current().map(Secret::expose)) {
            if !tries.go_on() {
                return Err(TargetError::Connect("wrong password".into()));
            }
        }
        tries.succeed();
        Ok(())
    }
}

impl Database {
    async fn set(&self, username: &str, password: &Secret, retain: bool) -> Outcome<()> {
        if let Err(e) = self.reach() {
            return Outcome::Failed(TargetError::Account(Box::new(e)));
        }
        if self.world.picky.load(Ordering::SeqCst) {
            self.world.refused.lock().unwrap().push(password.expose().to_owned());
            return Outcome::Failed(TargetError::Server { message: "too weak".into(), code: "22023".into() });
        }
        if self.world.faults.point().await {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        let mute = *self.world.mute.lock().unwrap();
        if mute == Some(false) {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        let before = self.world.accounts.lock().unwrap().insert(username.into(), password.expose().into());
        if let Some(before) = &before {
            self.world.unwritten.lock().unwrap().entry(username.into()).or_insert_with(|| before.clone());
        }
        if let Some(before) = before.filter(|_| retain) {
            self.world.beside.lock().unwrap().insert(username.into(), before);
        }
        if mute.is_some() {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        if self.world.faults.point().await {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        match self.keep().await {
            Ok(()) => Outcome::Done(()),
            Err(e) => Outcome::Unknown(e),
        }
    }
}

#[async_trait]
impl Target for Database {
    async fn verify(&self) -> Result<(), TargetError> {
        self.reach()
    }
    async fn version(&self) -> Result<String, TargetError> {
        self.reach().map(|()| "Simulated 1".into())
    }
    async fn mint(&self, plan: &MintPlan, _login: Login<'_>) -> Outcome<()> {
        if let Err(e) = self.reach() {
            return Outcome::Failed(e);
        }
        if self.world.faults.point().await {
            return Outcome::Failed(TargetError::Lost("gone".into()));
        }
        let is_repeat = |marker: &Marker| marker.request == plan.marker.request;
        if plan.repeats && self.world.markers.lock().unwrap().values().any(is_repeat) {
            return Outcome::Failed(TargetError::Repeated);
        }
        if !plan.marker.seal.is_empty() {
            self.world.markers.lock().unwrap().insert(plan.username.clone(), plan.marker.clone());
        }
        self.world.recorded.lock().unwrap().push(plan.recorded);
        self.world.users.lock().unwrap().insert(plan.username.clone(), plan.expiration);
        if self.world.faults.point().await {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        Outcome::Done(())
    }
    async fn records(&self) -> Result<(), TargetError> {
        let able = self.world.records.load(Ordering::SeqCst);
        if able { Ok(()) } else { Err(TargetError::Plan("it writes no log".into())) }
    }
    async fn silence(&self, _username: &str) -> Result<Option<u64>, TargetError> {
        self.world.silence.lock().unwrap().ok_or_else(|| TargetError::Plan("it does not tell".into()))
    }
    async fn standing(&self, _mount: &str) -> Result<Vec<Standing>, TargetError> {
        Ok(vec![Standing { name: "rogue".into(), rights: vec!["SUPERUSER".into()], own: false }])
    }
    async fn renew(&self, plan: &RenewPlan) -> Result<(), TargetError> {
        self.reach()?;
        match self.world.users.lock().unwrap().get_mut(&plan.username) {
            Some(end) => *end = plan.expiration,
            None => return Err(TargetError::Connect("no such user".into())),
        }
        if let Some(marker) = self.world.markers.lock().unwrap().get_mut(&plan.username) {
            marker.expires = marker.expires.max(plan.expires);
        }
        Ok(())
    }
    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError> {
        self.reach()?;
        if self.world.faults.point().await {
            return Err(TargetError::Lost("gone".into()));
        }
        self.world.ends.lock().unwrap().push(plan.options.clone());
        tokio::task::yield_now().await;
        if self.world.strict.load(Ordering::SeqCst) {
            return Err(TargetError::Server { message: "permission denied".into(), code: "42501".into() });
        }
        let mut users = self.world.users.lock().unwrap();
        if let crate::target::Sessions::Grace(again) = plan.options.sessions {
            let left = Left { database: String::new(), object: "session 7".into(), reason: "it is open".into() };
            return Ok(Ended { existed: true, left: vec![left], again: Some(again), ..Ended::default() });
        }
        if self.world.owners.load(Ordering::SeqCst)
            && plan.options.owned == crate::target::Owned::Fail
            && let Some(user) = users.get_mut(&plan.username)
        {
            *user = SystemTime::UNIX_EPOCH;
            let left = Left { database: "db".into(), object: "table t".into(), reason: "the user owns it".into() };
            return Ok(Ended { existed: true, left: vec![left], ..Ended::default() });
        }
        let existed = users.remove(&plan.username).is_some();
        self.world.markers.lock().unwrap().remove(&plan.username);
        Ok(Ended { existed, ..Ended::default() })
    }
    async fn marked(&self, mount: &str) -> Result<Vec<Marked>, TargetError> {
        self.reach()?;
        let users = self.world.users.lock().unwrap();
        let markers = self.world.markers.lock().unwrap();
        let of_mount = markers.iter().filter(|(_, marker)| marker.mount == mount);
        Ok(of_mount
            .map(|(username, marker)| Marked {
                username: username.clone(),
                marker: marker.clone(),
                barred: users.get(username).is_none_or(|until| *until == SystemTime::UNIX_EPOCH),
            })
            .collect())
    }
    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError> {
        self.reach()?;
        let (users, accounts) = (self.world.users.lock().unwrap(), self.world.accounts.lock().unwrap());
        let there = |name: &&String| users.contains_key(*name) || accounts.contains_key(*name);
        Ok(usernames.iter().filter(there).cloned().collect())
    }
    async fn clock(&self) -> Result<Option<SystemTime>, TargetError> {
        self.reach()?;
        let ahead = *self.world.target_clock.lock().unwrap();
        Ok(ahead.map(|ahead| At(self.world.clone()).true_time() + ahead))
    }
    async fn check(&self, options: &EndOptions) -> Result<Vec<Capability>, TargetError> {
        self.reach()?;
        let weak = self.world.weak.load(Ordering::SeqCst);
        let capability = |need, required, fix: &str| Capability { need, granted: !weak, required, fix: fix.into() };
        let mut all = vec![capability(Need::EndSessions, options.sessions != Sessions::Keep, "GRANT SIGNALS")];
        if options.owned == Owned::Drop {
            all.push(capability(Need::DropObjects, true, "GRANT DROPS"));
        }
        Ok(all)
    }
    async fn set_password(&self, username: &str, password: &Secret, _statements: &Script) -> Outcome<()> {
        self.set(username, password, false).await
    }
    async fn keeps_two_passwords(&self) -> Result<(), TargetError> {
        self.reach()
    }
    /// As MySQL: what is kept is the password that the account has.
    async fn add_password(&self, username: &str, password: &Secret, _old: &Secret) -> Outcome<()> {
        self.set(username, password, true).await
    }
    async fn remove_password(&self, username: &str, _old: &Secret) -> Result<(), TargetError> {
        self.reach()?;
        if self.world.faults.point().await {
            return Err(TargetError::Lost("gone".into()));
        }
        self.world.beside.lock().unwrap().remove(username);
        if self.world.faults.point().await {
            return Err(TargetError::Lost("gone".into()));
        }
        Ok(())
    }
    async fn keep(&self) -> Result<(), TargetError> {
        self.reach()?;
        if self.world.forgetful.load(Ordering::SeqCst) {
            return Err(TargetError::Lost("the disk is full".into()));
        }
        self.world.unwritten.lock().unwrap().clear();
        Ok(())
    }
    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError> {
        self.world.logins.fetch_add(1, Ordering::SeqCst);
        if self.world.faults.point().await || self.world.down.load(Ordering::SeqCst) {
            return Err(LoginError::Unreachable(TargetError::Connect("down".into())));
        }
        let door = *self.world.logging_in.lock().unwrap();
        match door.filter(|_| username != "root") {
            Some(Door::Open) => return Ok(()),
            Some(Door::Shut) => return Err(LoginError::Refused(TargetError::Connect("wrong password".into()))),
            Some(Door::Barred) => return Err(LoginError::Barred(TargetError::Connect("not from here".into()))),
            None => {}
        }
        // Users that were made have their generated names.
        let ended = username.starts_with("v-") && !self.world.users.lock().unwrap().contains_key(username);
        if !ended && self.world.takes(username, Some(password.expose())) {
            Ok(())
        } else {
            Err(LoginError::Refused(TargetError::Connect("wrong password".into())))
        }
    }
    async fn close(&self) {}
}

fn mount(world: &Arc<World>) -> Mount {
    let at = || Arc::new(At(world.clone()));
    let mount = Mount::new(
        Kind::Database,
        "id".into(),
        Ports { storage: at(), host: at(), clock: at(), targets: at(), scratch: at(), web: at() },
    );
    mount.rotation.queue.by_hand();
    mount.access.by_hand();
    mount
}

fn request(operation: Operation, path: &str, data: Value) -> Request {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    Request {
        id: format!("request-{}", REQUESTS.fetch_add(1, Ordering::SeqCst)),
        operation,
        path: path.into(),
        data: data.as_object().cloned().unwrap_or_default(),
        lease: None,
        caller: Caller { display_name: "token".into(), ..Caller::default() },
    }
}

async fn ask(mount: &Mount, operation: Operation, path: &str, data: Value) -> Reply {
    mount.handle(request(operation, path, data)).await
}

async fn prepared(world: &Arc<World>) -> Mount {
    let mount = mount(world);
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "username": "root", "password": "root's own", "allowed_roles": "*",
        "connection_url": "postgresql://{{username}}:{{password}}@localhost/db",
    });
    ask(&mount, Operation::Create, "config/pg", config).await.unwrap();
    let role = json!({ "db_name": "pg", "creation_statements": "CREATE ROLE \"{{name}}\"", "default_ttl": 60 });
    ask(&mount, Operation::Create, "roles/app", role).await.unwrap();
    mount
}

fn plain(response: &Response, key: &str) -> Value {
    let found = response.data.iter().flatten().find(|(name, _)| name == key);
    match found {
        Some((_, Datum::Plain(value))) => value.clone(),
        Some((_, Datum::Secret(_))) => panic!("{key} is a secret"),
        None => Value::Null,
    }
}

#[tokio::test]
async fn a_user_lives_from_creds_to_revoke() {
    let world = Arc::default();
    let mount = prepared(&world).await;
    let response = ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap();
    let username = plain(&response, "username").as_str().unwrap().to_owned();
    assert!(username.starts_with("v-token-app-"), "{username}");
    let lease = response.lease.unwrap();
    assert_eq!((lease.ttl, lease.max_ttl), (Duration::from_secs(60), Duration::ZERO));
    let end = world.users.lock().unwrap()[&username];
    assert_eq!(end, At(world.clone()).now() + Duration::from_secs(65), "lease and five seconds of grace");

    let lease = |increment| LeaseRef {
        internal: lease.internal.clone(),
        issued: Some(At(world.clone()).now()),
        increment: Duration::from_secs(increment),
        id: String::new(),
    };
    let renew = Request { lease: Some(lease(9_000_000)), ..request(Operation::Renew, "creds/app", json!({})) };
    mount.handle(renew).await.unwrap();
    let end = world.users.lock().unwrap()[&username];
    assert_eq!(end, At(world.clone()).now() + Duration::from_secs(7205), "never past the mount's maximum");

    ask(&mount, Operation::Delete, "roles/app", json!({})).await.unwrap();
    for _ in 0..2 {
        let revoke = Request { lease: Some(lease(0)), ..request(Operation::Revoke, "creds/app", json!({})) };
        assert!(mount.handle(revoke).await.unwrap().is_none());
        assert!(world.users.lock().unwrap().is_empty());
    }
}

/// What bounds sessions and knows of the outage is one target, whoever asks.
#[tokio::test]
async fn a_database_that_is_down_from_the_start_is_asked_by_one_target() {
    let world: Arc<World> = Arc::default();
    prepared(&world).await;
    let mount = mount(&world);
    let before = world.opened.load(Ordering::SeqCst);
    world.down.store(true, Ordering::SeqCst);
    let creds = || ask(&mount, Operation::Read, "creds/app", json!({}));
    for _ in 0..3 {
        let (one, other) = tokio::join!(creds(), creds());
        assert!(one.is_err() && other.is_err());
    }
    assert_eq!(world.opened.load(Ordering::SeqCst) - before, 1);
    world.down.store(false, Ordering::SeqCst);
    let (one, other) = tokio::join!(creds(), creds());
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(world.opened.load(Ordering::SeqCst) - before, 1);

    // Written anew by another node: what was kept is of no use any more.
    world.down.store(true, Ordering::SeqCst);
    mount.invalidate("config/pg");
    assert!(creds().await.is_err());
    mount.invalidate("config/pg");
    let before = world.opened.load(Ordering::SeqCst);
    assert!(creds().await.is_err());
    assert_eq!(world.opened.load(Ordering::SeqCst) - before, 1);
}

/// A certificate has an end that no lease can move.
#[tokio::test]
async fn a_lease_with_a_certificate_is_not_prolonged() {
    let world = Arc::default();
    let mount = prepared(&world).await;
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let config = json!({
        "common_name_template": "{{.Username}}", "ca_cert": params.self_signed(&key).unwrap().pem(),
        "ca_private_key": key.serialize_pem(), "key_type": "ed25519",
    });
    let role = json!({ "credential_type": "client_certificate", "credential_config": config });
    ask(&mount, Operation::Update, "roles/app", role).await.unwrap();
    let shown = format!("{:?}", ask(&mount, Operation::Read, "roles/app", json!({})).await.unwrap());
    assert!(shown.contains("ca_cert") && !shown.contains("PRIVATE KEY"), "{shown}");

    let response = ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap();
    let username = plain(&response, "username").as_str().unwrap().to_owned();
    let lease = response.lease.unwrap();
    assert!(!lease.renewable);
    let lease = LeaseRef { internal: lease.internal, issued: Some(At(world.clone()).now()), ..LeaseRef::default() };
    let renew = Request { lease: Some(lease), ..request(Operation::Renew, "creds/app", json!({})) };
    let refused = mount.handle(renew).await.unwrap_err().to_string();
    assert!(refused.contains("neither can be prolonged"), "{refused}");
    let end = world.users.lock().unwrap()[&username];
    assert_eq!(end, At(world.clone()).now() + Duration::from_secs(65));
}

#[tokio::test]
async fn an_answer_that_nobody_took_leaves_no_user() {
    let world = Arc::default();
    let mount = prepared(&world).await;
    let response = ask(&mount, Operation::Read, "creds/app", json!({})).await.unwrap().unwrap();
    assert_eq!(world.users.lock().unwrap().len(), 1);
    mount.undelivered("creds/app".into(), response.lease.unwrap(), response.underway.as_ref()).await;
    assert!(world.scratch.lock().unwrap().is_empty());
    assert!(world.users.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_standby_touches_no_target() {
    let world = Arc::default();
    let mount = prepared(&world).await;
    world.standby.store(true, Ordering::SeqCst);
    world.touched.store(false, Ordering::SeqCst);
    for (operation, path, data) in [
        (Operation::Read, "creds/app", json!({})),
        (Operation::Update, "config/pg", json!({"allowed_roles": "x"})),
        (Operation::Update, "roles/app", json!({"max_ttl": 5})),
        (Operation::Delete, "roles/app", json!({})),
        (Operation::Delete, "config/pg", json!({})),
        (Operation::Update, "static-roles/app", json!({"db_name": "pg", "username": "u", "rotation_period": 60})),
        (Operation::Delete, "static-roles/app", json!({})),
        (Operation::Update, "rotate-role/app", json!({})),
        (Operation::Update, "rotate-root/pg", json!({})),
        (Operation::Update, "remnants/x/accept", json!({"reason": "x"})),
        (Operation::Update, "remnants/x/retry", json!({})),
        (Operation::Read, "check/pg", json!({})),
    ] {
        let reply = ask(&mount, operation, path, data).await;
        assert!(matches!(reply, Err(Error::ReadOnly)), "{path}: {reply:?}");
    }
    assert!(!world.touched.load(Ordering::SeqCst));
    assert!(world.users.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_that_cannot_be_reached_is_not_stored() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    world.down.store(true, Ordering::SeqCst);
    let before = world.entries.lock().unwrap().clone();
    let refused = ask(&mount, Operation::Update, "config/pg", json!({"allowed_roles": "x"})).await;
    assert_eq!(refused.unwrap_err().to_string(), "error creating database object: error verifying connection: down");
    assert_eq!(*world.entries.lock().unwrap(), before);
}

#[tokio::test]
async fn no_read_returns_a_secret() {
    let world = Arc::default();
    let mount = prepared(&world).await;
    let extra = json!({"tls_certificate_key": "KEY-2", "service_account_json": "KEY-3", "unknown": 5});
    ask(&mount, Operation::Update, "config/pg", extra).await.unwrap();
    let mut stored: Value = serde_json::from_str(&world.entries.lock().unwrap()["config/pg"]).unwrap();
    stored["connection_details"]["private_key"] = json!("KEY-1");
    world.entries.lock().unwrap().insert("config/pg".into(), stored.to_string());
    let shown = format!("{:?}", ask(&mount, Operation::Read, "config/pg", json!({})).await.unwrap());
    assert!(!shown.contains("KEY-") && !shown.contains("root's own"), "{shown}");
    assert!(shown.contains("unknown") && shown.contains("{{password}}"), "{shown}");
}

#[tokio::test]
async fn an_existing_entry_is_an_update_and_a_missing_one_a_create() {
    let world = Arc::default();
    let mount = prepared(&world).await;
    let none = super::request::Fields::new();
    assert_eq!(mount.exists("roles/app", &none).await.unwrap(), Existence::Found);
    assert_eq!(mount.exists("roles/other", &none).await.unwrap(), Existence::Missing);
    assert_eq!(mount.exists("reset/pg", &none).await.unwrap(), Existence::Unchecked);
    assert!(matches!(mount.exists("nothing", &none).await, Err(Error::UnsupportedPath)));
    let wrong = json!({"default_ttl": "abc"});
    let refused = mount.exists("roles/app", wrong.as_object().unwrap()).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn a_stored_role_keeps_what_it_does_not_know() {
    let world: Arc<World> = Arc::default();
    let mount = prepared(&world).await;
    let foreign = json!({
        "db_name": "pg", "statements": {"creation": ["X"]}, "default_ttl": 60_000_000_000_i64, "max_ttl": 0,
        "credential_type": 0, "credential_config": null, "static_account": null, "later": {"a": 1},
    });
    world.entries.lock().unwrap().insert("role/old".into(), foreign.to_string());
    ask(&mount, Operation::Update, "roles/old", json!({"max_ttl": 7})).await.unwrap();
    let stored: Value = serde_json::from_str(&world.entries.lock().unwrap()["role/old"]).unwrap();
    assert_eq!(stored["later"], json!({"a": 1}));
    assert_eq!(stored["max_ttl"], json!(7_000_000_000_i64));
    assert_eq!(stored["statements"]["creation"], json!(["X"]));
}

/// Any JSON value, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![Just("1h"), Just("{{name}}"), Just("{{ .RoleName }}"), Just("WyJhIl0="), Just("postgres://%zz")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A body with the fields that matter, holding anything.
fn any_body() -> impl Strategy<Value = Value> {
    let fields = super::database::paths::ROUTES
        .iter()
        .flat_map(|route| route.fields.iter().chain(route.details.unwrap_or_default()))
        .map(|field| field.name)
        .collect::<Vec<_>>();
    prop::collection::btree_map(
        prop_oneof![prop::sample::select(fields).prop_map(str::to_owned), ".{0,8}"],
        any_json(),
        0..6,
    )
    .prop_map(|map| Value::Object(map.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is written at whatever path: an answer, no panic; and if it was refused, nothing is stored and nothing
    /// left at the target.
    #[test]
    fn any_json_at_any_path_is_answered(
        path in prop_oneof![
            (prop::sample::select(vec![
                "config", "roles", "creds", "reset", "reload", "static-roles", "static-creds", "rotate-role", "rotate-root",
                "remnants", "reconcile", "check",
            ]),
             prop_oneof![Just("pg".to_owned()), Just("app".to_owned()), ".{0,10}"])
                .prop_map(|(place, name)| format!("{place}/{name}")),
            ".{0,20}",
        ],
        operation in prop::sample::select(vec![
            Operation::Create, Operation::Update, Operation::Read, Operation::Delete, Operation::List, Operation::Help,
        ]),
        body in any_body(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = Arc::default();
            let mount = prepared(&world).await;
            let before = world.entries.lock().unwrap().clone();
            let _ = mount.exists(&path, body.as_object().unwrap()).await;
            let reply = ask(&mount, operation, &path, body).await;
            if reply.is_err() {
                prop_assert_eq!(&*world.entries.lock().unwrap(), &before);
                prop_assert!(world.users.lock().unwrap().is_empty());
            }
            Ok(())
        })?;
    }
}
