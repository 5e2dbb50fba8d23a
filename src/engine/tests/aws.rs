//! The AWS engine at an account that remembers, while everything else goes wrong.

use std::collections::BTreeMap;

use super::rotation::{Fault, later, tick};
use super::*;
use crate::target::aws::{
    AccessKey, AssumedAs, Cause, Cloud, Failure, Holder, KeyInfo, Principal, Session, SessionPlan,
    Settings as AwsSettings, Source, Step, Unmade, User, UserEnd, UserPlan,
};

/// The tags of a user, and its keys in the order in which they were made.
type Known = (BTreeMap<String, String>, Vec<String>);

/// What an account remembers.
#[derive(Default)]
pub struct Account {
    users: Mutex<BTreeMap<String, Known>>,
    policies: Mutex<BTreeMap<String, String>>,
    /// The names of the sessions that were given.
    sessions: Mutex<Vec<String>>,
    made: AtomicU64,
}

const ROLE: &str = "arn:aws:iam::1:role/app";

struct Fake {
    world: Arc<World>,
    key: String,
}

/// The account, as whoever has the key of these settings.
pub fn open(world: &Arc<World>, settings: AwsSettings) -> Arc<dyn Cloud> {
    let key = match settings.source {
        Source::Keys(key) => key.id,
        _ => String::new(),
    };
    Arc::new(Fake { world: world.clone(), key })
}

impl Account {
    fn number(&self) -> u64 {
        self.made.fetch_add(1, Ordering::SeqCst)
    }

    fn keys(&self, user: &str) -> Vec<String> {
        self.users.lock().unwrap().get(user).map(|(_, keys)| keys.clone()).unwrap_or_default()
    }

    fn add(&self, user: &str) -> String {
        let key = format!("AKIA{}", self.number());
        self.users.lock().unwrap().entry(user.to_owned()).or_default().1.push(key.clone());
        key
    }
}

fn lost() -> Failure {
    Failure::new(Cause::Unreachable, "RequestError", "gone")
}

fn missing() -> Failure {
    Failure::new(Cause::Missing, "NoSuchEntity", "none")
}

impl Fake {
    /// The user that the key is of.
    fn user(&self) -> Result<String, Failure> {
        let users = self.world.account.users.lock().unwrap();
        let found = users.iter().find(|(_, (_, keys))| keys.contains(&self.key)).map(|(name, _)| name.clone());
        found.ok_or_else(|| Failure::new(Cause::Unauthenticated, "InvalidClientTokenId", "no such key"))
    }

    /// A call that changes something: it may not happen, or its answer may get lost.
    async fn change<T>(&self, change: impl FnOnce(&Account) -> Result<T, Failure>) -> Result<T, Failure> {
        self.user()?;
        if self.world.faults.point().await {
            return Err(lost());
        }
        let done = change(&self.world.account)?;
        if self.world.faults.point().await { Err(lost()) } else { Ok(done) }
    }
}

#[async_trait]
impl Cloud for Fake {
    async fn whoami(&self) -> Result<Principal, Failure> {
        let user = self.user()?;
        Ok(Principal { arn: format!("arn:aws:iam::1:user/{user}"), account: "1".into(), user_id: user })
    }
    fn with_key(&self, key: &AccessKey) -> Arc<dyn Cloud> {
        Arc::new(Fake { world: self.world.clone(), key: key.id.clone() })
    }
    fn assuming(&self, _: &AssumedAs) -> Arc<dyn Cloud> {
        Arc::new(Fake { world: self.world.clone(), key: self.key.clone() })
    }
    async fn assume_role(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        self.change(|account| {
            account.sessions.lock().unwrap().push(plan.name.clone());
            Ok(())
        })
        .await?;
        Ok(Session {
            key: AccessKey { id: "ASIA".into(), secret: Secret::new("s".into()) },
            token: Secret::new("t".into()),
            expires: At(self.world.clone()).now() + plan.duration,
            arn: format!("{}/{}", plan.role_arn, plan.name),
            user_id: format!("AROA:{}", plan.name),
        })
    }
    async fn federation_token(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        self.assume_role(plan).await
    }
    async fn session_token(&self, plan: &SessionPlan) -> Result<Session, Failure> {
        self.assume_role(plan).await
    }
    async fn create_user(&self, plan: &UserPlan) -> Result<AccessKey, Unmade> {
        let create = self.change(|account| {
            let mut users = account.users.lock().unwrap();
            if users.contains_key(&plan.name) {
                return Err(Failure::new(Cause::Exists, "EntityAlreadyExists", "taken"));
            }
            users.insert(plan.name.clone(), (BTreeMap::from([plan.mark.clone()]), Vec::new()));
            Ok(())
        });
        if let Err(failure) = create.await {
            let remains = failure.cause == Cause::Unreachable;
            return Err(Unmade { step: Step::Create, failure, remains });
        }
        let key = self.create_key(&plan.name).await;
        key.map_err(|failure| Unmade { step: Step::Key, failure, remains: true })
    }
    async fn end_user(&self, name: &str) -> Result<UserEnd, Failure> {
        let gone = self.change(|account| Ok(account.users.lock().unwrap().remove(name).is_some())).await?;
        Ok(if gone { UserEnd::Gone } else { UserEnd::Missing })
    }
    async fn user(&self, name: &str) -> Result<Option<User>, Failure> {
        Fake::user(self)?;
        let users = self.world.account.users.lock().unwrap();
        Ok(users.get(name).map(|(tags, _)| User { name: name.into(), id: format!("id-{name}"), tags: tags.clone() }))
    }
    async fn keys(&self, user: &str) -> Result<Vec<KeyInfo>, Failure> {
        Fake::user(self)?;
        let keys = self.world.account.keys(user).into_iter();
        Ok(keys
            .map(|id| KeyInfo {
                created: id[4..].parse().ok().map(|n| SystemTime::UNIX_EPOCH + Duration::from_secs(n)),
                id,
            })
            .collect())
    }
    async fn create_key(&self, user: &str) -> Result<AccessKey, Failure> {
        self.change(|account| {
            if !account.users.lock().unwrap().contains_key(user) {
                return Err(missing());
            }
            if account.keys(user).len() >= 2 {
                return Err(Failure::new(Cause::Limit, "LimitExceeded", "two keys"));
            }
            let id = account.add(user);
            Ok(AccessKey { secret: Secret::new(format!("secret of {id}")), id })
        })
        .await
    }
    async fn delete_key(&self, user: &str, id: &str) -> Result<(), Failure> {
        self.change(|account| {
            if let Some((_, keys)) = account.users.lock().unwrap().get_mut(user) {
                keys.retain(|key| key != id);
            }
            Ok(())
        })
        .await
    }
    async fn group_policies(&self, _: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
        Err(missing())
    }
    async fn put_policy(&self, holder: &Holder, _: &str, document: &str) -> Result<(), Failure> {
        self.change(|account| {
            account.policies.lock().unwrap().insert(holder.arn().to_owned(), document.to_owned());
            Ok(())
        })
        .await
    }
    async fn policy(&self, holder: &Holder, _: &str) -> Result<Option<String>, Failure> {
        Ok(self.world.account.policies.lock().unwrap().get(holder.arn()).cloned())
    }
    async fn delete_policy(&self, holder: &Holder, _: &str) -> Result<(), Failure> {
        self.change(|account| {
            account.policies.lock().unwrap().remove(holder.arn());
            Ok(())
        })
        .await
    }
    async fn attach_policy(&self, holder: &Holder, name: &str, document: &str) -> Result<(), Failure> {
        self.change(|account| {
            account.policies.lock().unwrap().insert(format!("{} {name}", holder.arn()), document.to_owned());
            Ok(())
        })
        .await
    }
    async fn attached_policy(&self, holder: &Holder, name: &str) -> Result<Option<String>, Failure> {
        Ok(self.world.account.policies.lock().unwrap().get(&format!("{} {name}", holder.arn())).cloned())
    }
    async fn detach_policy(&self, holder: &Holder, name: &str) -> Result<(), Failure> {
        self.change(|account| {
            account.policies.lock().unwrap().remove(&format!("{} {name}", holder.arn()));
            Ok(())
        })
        .await
    }
    async fn longest_session(&self, _: &str) -> Result<Duration, Failure> {
        Ok(Duration::from_secs(3600))
    }
}

fn mount(world: &Arc<World>) -> Mount {
    let at = || Arc::new(At(world.clone()));
    let mount = Mount::new(
        Kind::Aws,
        "0a1b2c3d-id".into(),
        Ports { storage: at(), host: at(), clock: at(), targets: at(), scratch: at(), web: at() },
    );
    mount.rotation.queue.by_hand();
    mount.access.by_hand();
    mount
}

async fn prepared() -> (Arc<World>, Mount) {
    let world: Arc<World> = Arc::default();
    let mount = mount(&world);
    let key = world.account.add("engine");
    world.account.users.lock().unwrap().insert("batch".into(), Default::default());
    update(&mount, "config/root", json!({ "access_key": key, "secret_key": "s" })).await.unwrap();
    update(&mount, "roles/user", json!({ "credential_type": "iam_user" })).await.unwrap();
    let role = json!({ "credential_type": "assumed_role", "role_arns": ROLE, "revocation": "session" });
    update(&mount, "roles/app", role).await.unwrap();
    (world, mount)
}

async fn update(mount: &Mount, path: &str, data: Value) -> Reply {
    ask(mount, Operation::Update, path, data).await
}

async fn mint(mount: &Mount, path: &str) -> Option<Fields> {
    let answer = ask(mount, Operation::Read, path, json!({})).await.ok().flatten()?;
    Some(answer.lease?.internal)
}

fn of_lease(operation: Operation, internal: &Fields) -> Request {
    let lease = LeaseRef { internal: internal.clone(), ..LeaseRef::default() };
    Request { lease: Some(lease), ..request(operation, "creds/app", json!({})) }
}

fn notes(world: &World) -> usize {
    world.entries.lock().unwrap().keys().filter(|key| key.starts_with(crate::engine::aws::user::PREFIX)).count()
}

/// Users that we have made.
fn minted(world: &World) -> usize {
    world.account.users.lock().unwrap().keys().filter(|name| name.starts_with("vault-")).count()
}

fn entry(world: &World, key: &str) -> Value {
    world.entries.lock().unwrap().get(key).map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
}

/// A new process on the same storage: what was left is seen to by its ticks.
async fn afterwards(world: &Arc<World>) -> Mount {
    let mount = mount(world);
    tick(&mount).await;
    for seconds in [121, 30] {
        later(world, seconds);
        tick(&mount).await;
    }
    mount
}

/// Does `work` with a fault at each point in turn, until there is none left, and then looks.
async fn at_every_point(
    least: usize,
    work: impl AsyncFn(&Mount) -> bool,
    look: impl AsyncFn(Arc<World>, Mount, bool, &str),
) {
    for kind in [Fault::Death, Fault::Error] {
        for at in 1.. {
            let (world, mount) = prepared().await;
            world.faults.arm(at, kind);
            let done = tokio::select! {
                done = work(&mount) => done,
                () = world.faults.died.notified() => false,
            };
            let reached = world.faults.disarm();
            drop(mount);
            let what = format!("{kind:?} at point {at}");
            look(world.clone(), afterwards(&world).await, done, &what).await;
            if !reached {
                assert!(at > least, "only {at} points");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_user_that_stops_being_made_at_any_point_is_removed() {
    let work = async |mount: &Mount| mint(mount, "creds/user").await.is_some();
    at_every_point(8, work, async |world, mount, done, what| {
        assert!(minted(&world) <= notes(&world), "{what}: a user without a note");
        if done {
            assert_eq!((minted(&world), notes(&world)), (1, 1), "{what}");
        } else {
            // Made and noted as made, but the host never heard: it ends with the lease that nobody has.
            later(&world, 2 * 3600 + 400);
            tick(&mount).await;
            assert_eq!((minted(&world), notes(&world)), (0, 0), "{what}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_user_of_somebody_else_is_never_removed() {
    let (world, mount) = prepared().await;
    update(&mount, "config/root", json!({ "username_template": "batch" })).await.unwrap();
    assert_eq!(mint(&mount, "creds/user").await, None);
    // Even if nobody could tell: the process died before it heard that the name is taken.
    world.faults.arm(6, Fault::Death);
    tokio::select! {
        _ = mint(&mount, "creds/user") => {}
        () = world.faults.died.notified() => {}
    }
    world.faults.disarm();
    assert_eq!(notes(&world), 1);
    afterwards(&world).await;
    assert_eq!(notes(&world), 0);
    assert!(world.account.users.lock().unwrap().contains_key("batch"));
}

#[tokio::test]
async fn a_lease_of_a_user_ends_it_and_so_does_one_of_the_built_in_engine() {
    let (world, mount) = prepared().await;
    let lease = mint(&mount, "creds/user").await.unwrap();
    assert_eq!((&lease["is_sts"], &lease["secret_type"]), (&json!(false), &json!("access_keys")));
    mount.handle(of_lease(Operation::Renew, &lease)).await.unwrap();
    mount.handle(of_lease(Operation::Revoke, &lease)).await.unwrap();
    assert_eq!((minted(&world), notes(&world)), (0, 0));
    world.account.add("vault-old");
    for old in [json!({ "username": "vault-old", "policy": "x" }), json!({ "username": "vault-old", "is_sts": false })]
    {
        mount.handle(of_lease(Operation::Revoke, old.as_object().unwrap())).await.unwrap();
    }
    assert_eq!(minted(&world), 0);
    let odd = json!({ "username": "u", "is_sts": "yes" });
    assert!(mount.handle(of_lease(Operation::Revoke, odd.as_object().unwrap())).await.is_err());
    let sts = json!({ "username": "u", "is_sts": true });
    assert!(mount.handle(of_lease(Operation::Revoke, sts.as_object().unwrap())).await.unwrap().is_none());
}

/// The engine always has a key that works, and in the end only that one.
#[tokio::test]
async fn rotating_the_engines_key_never_loses_it() {
    let work = async |mount: &Mount| update(mount, "config/rotate-root", json!({})).await.is_ok();
    at_every_point(8, work, async |world, mount, _, what| {
        for seconds in [15, 30, 60, 121] {
            later(&world, seconds);
            tick(&mount).await;
        }
        let root = entry(&world, "config/root");
        assert_eq!(json!(world.account.keys("engine")), json!([root["access_key"]]), "{what}");
        let key = root["access_key"].as_str().unwrap();
        let secret = root["secret_key"].as_str().unwrap();
        assert!(secret == "s" || secret == format!("secret of {key}"), "{what}");
        assert_eq!(entry(&world, "rotation/root"), Value::Null, "{what}");
    })
    .await;
}

/// A static role always answers with a key that works; nothing that nobody knows is left.
#[tokio::test]
async fn changing_a_static_roles_key_never_loses_it() {
    let role = json!({ "username": "batch", "rotation_period": 3600, "grace_period": 100 });
    let work = async |mount: &Mount| {
        let made = update(mount, "static-roles/batch", role.clone()).await.is_ok();
        update(mount, "rotate-role/batch", json!({})).await.is_ok() && made
    };
    at_every_point(16, work, async |world, mount, _, what| {
        for seconds in [15, 30, 60, 121] {
            later(&world, seconds);
            tick(&mount).await;
        }
        let keys = world.account.keys("batch");
        match entry(&world, "static-creds/batch") {
            Value::Null => assert_eq!((keys.len(), entry(&world, "static-roles/batch")), (0, Value::Null), "{what}"),
            creds => {
                assert_eq!(json!(keys), json!([creds["access_key"]]), "{what}: the one before has had its time");
                assert_eq!(creds["secret_key"], format!("secret of {}", keys[0]), "{what}");
            }
        }
        assert_eq!(entry(&world, "rotation/static/batch"), Value::Null, "{what}");
        // And goes on.
        if entry(&world, "static-roles/batch") != Value::Null {
            later(&world, 3601);
            tick(&mount).await;
            assert_ne!(world.account.keys("batch"), keys, "{what}");
        }
    })
    .await;
}

/// Whatever stops on the way, a denial that is stored is written, and goes once its session has ended.
#[tokio::test]
async fn a_denial_is_brought_to_its_end_and_pruned() {
    let (leases, world_of_leases) = {
        let (world, mount) = prepared().await;
        (mint(&mount, "creds/app").await.unwrap(), world)
    };
    drop(world_of_leases);
    let denied = |world: &World| {
        let policies = world.account.policies.lock().unwrap();
        let name = leases["username"].as_str().unwrap();
        policies.get(ROLE).is_some_and(|text| text.contains(name.rsplit('-').next().unwrap()))
    };
    let work = async |mount: &Mount| mount.handle(of_lease(Operation::Revoke, &leases)).await.is_ok();
    at_every_point(5, work, async |world, mount, done, what| {
        for seconds in [15, 30] {
            later(&world, seconds);
            tick(&mount).await;
        }
        let list = world.entries.lock().unwrap().keys().any(|key| key.starts_with("denial/"));
        assert_eq!(list, denied(&world), "{what}: what is stored is what AWS has");
        assert!(!done || list, "{what}: a revocation that was answered is in force");
        // The host asks again.
        mount.handle(of_lease(Operation::Revoke, &leases)).await.unwrap();
        assert!(denied(&world), "{what}");
        later(&world, 3700);
        tick(&mount).await;
        assert!(world.account.policies.lock().unwrap().is_empty(), "{what}: pruned");
        let left = world.entries.lock().unwrap().keys().any(|key| key.starts_with("denial/"));
        assert!(!left, "{what}");
        // The session has ended by itself: that costs nothing.
        mount.handle(of_lease(Operation::Revoke, &leases)).await.unwrap();
        assert!(world.account.policies.lock().unwrap().is_empty(), "{what}");
    })
    .await;
}

/// A role that robot gets credentials of by itself, for ten minutes, all of it in the record.
async fn gated(kind: &str) -> (Arc<World>, Mount) {
    let (world, mount) = prepared().await;
    super::access::known(&world, "robot", "approle", &[]);
    let policy = json!({ "steps": [], "approval": "auto", "eligible_classes": "service", "require_reason": 0,
                         "grant_ttl": 600, "max_active": 2 });
    ask(&mount, Operation::Create, "policies/p", policy).await.unwrap();
    let mut role = json!({ "credential_type": kind, "jit_policy": "p" });
    if kind == "assumed_role" {
        role["role_arns"] = json!(ROLE);
        role["revocation"] = json!("session");
    }
    update(&mount, "roles/gated", role).await.unwrap();
    (world, mount)
}

async fn read(mount: &Mount) -> Reply {
    super::access::by(mount, "robot", Operation::Read, "creds/gated", json!({})).await
}

/// Wherever the process dies or is refused, what a grant gave ends with the grant, even if nobody ever heard of it.
#[tokio::test]
async fn what_a_grant_gave_ends_with_it_wherever_its_issue_stops() {
    for kind in ["assumed_role", "iam_user"] {
        for fault in [Fault::Death, Fault::Error] {
            for at in 1.. {
                let (world, mount) = gated(kind).await;
                world.faults.arm(at, fault);
                let done = tokio::select! {
                    done = read(&mount) => done.is_ok(),
                    () = world.faults.died.notified() => false,
                };
                let reached = world.faults.disarm();
                drop(mount);
                let what = format!("{kind}: {fault:?} at point {at}");
                let given = world.account.sessions.lock().unwrap().clone();
                assert!(!done || given.len() + minted(&world) == 1, "{what}");
                let mount = self::mount(&world);
                later(&world, 601);
                // All that was ever denied: an entry goes with its session.
                let mut policy = String::new();
                for seconds in [0, 10, 61, 301] {
                    later(&world, seconds);
                    crate::engine::access::tick(&mount).await;
                    tick(&mount).await;
                    policy += world.account.policies.lock().unwrap().get(ROLE).map_or("", String::as_str);
                }
                for name in given {
                    assert!(policy.contains(name.rsplit('-').next().unwrap()), "{what}: {name} lives on");
                }
                assert_eq!((minted(&world), notes(&world)), (0, 0), "{what}");
                let open = world.entries.lock().unwrap().keys().any(|key| key.starts_with("access/open/"));
                assert!(!open, "{what}: a request is still open");
                if !reached {
                    assert!(at > 8, "only {at} points");
                    break;
                }
            }
        }
    }
}

/// The end of the lease ends the grant that had one use; and no record, no credential.
#[tokio::test]
async fn a_gated_lease_that_ends_is_in_the_record() {
    let (world, mount) = gated("assumed_role").await;
    let response = read(&mount).await.unwrap().unwrap();
    let grant = response.lease.unwrap();
    assert!(grant.ttl <= Duration::from_secs(600) && !grant.renewable, "{:?}", grant.ttl);
    assert_eq!((&grant.internal["role"], &grant.internal["target"]), (&json!("gated"), &json!(ROLE)));
    mount.handle(of_lease(Operation::Revoke, &grant.internal)).await.unwrap();
    let open = world.entries.lock().unwrap().keys().any(|key| key.starts_with("access/open/"));
    assert!(!open, "closed with its only credential");
    assert!(world.account.policies.lock().unwrap().contains_key(ROLE));
    // A role that became another since is refused, not given without its gate.
    let mut stored = entry(&world, "role/gated");
    stored["revocation"] = json!("off");
    world.entries.lock().unwrap().insert("role/gated".into(), stored.to_string());
    assert!(matches!(read(&mount).await, Err(Error::Refused(text)) if text.contains("would outlive its grant")));
    let (world, mount) = gated("iam_user").await;
    let grant = read(&mount).await.unwrap().unwrap().lease.unwrap();
    assert!(grant.renewable && grant.max_ttl <= Duration::from_secs(600));
    let renew = mount.handle(of_lease(Operation::Renew, &grant.internal)).await.unwrap().unwrap();
    assert!(renew.lease.unwrap().ttl <= Duration::from_secs(600));
    assert_eq!(minted(&world), 1);
}

/// The key changes when it is due, whatever happens on the way, and each change begins a new period.
#[tokio::test]
async fn the_engines_key_changes_when_it_is_due() {
    let work = async |mount: &Mount| update(mount, "config/root", json!({ "rotation_period": 3600 })).await.is_ok();
    at_every_point(1, work, async |world, mount, done, what| {
        if !done && entry(&world, "config/root").get("rotation_period").is_none() {
            return;
        }
        let before = world.account.keys("engine");
        later(&world, 3601);
        tick(&mount).await;
        let after = world.account.keys("engine");
        assert!(after.len() == 1 && after != before, "{what}: {before:?} {after:?}");
        assert_eq!(json!(after), json!([entry(&world, "config/root")["access_key"]]), "{what}");
        later(&world, 1800);
        tick(&mount).await;
        assert_eq!(world.account.keys("engine"), after, "{what}: too early");
        // It cannot be done, and is done as soon as it can.
        world.account.add("engine");
        later(&world, 1801);
        tick(&mount).await;
        let shown = ask(&mount, Operation::Read, "config/root", json!({})).await.unwrap().unwrap();
        assert!(plain(&shown, "last_rotation_error").to_string().contains("LimitExceeded"), "{what}");
        world.account.users.lock().unwrap().get_mut("engine").unwrap().1.pop();
        later(&world, 600);
        tick(&mount).await;
        assert_ne!(world.account.keys("engine"), after, "{what}");
        update(&mount, "config/root", json!({ "disable_automated_rotation": true })).await.unwrap();
        let last = world.account.keys("engine");
        later(&world, 7200);
        tick(&mount).await;
        assert_eq!(world.account.keys("engine"), last, "{what}");
    })
    .await;
}

/// What has spilled into managed policies goes with the sessions that it is of.
#[tokio::test]
async fn attached_policies_go_with_the_last_session() {
    let (world, mount) = prepared().await;
    let role = json!({ "revocation_attached_policies": 2 });
    update(&mount, "roles/app", role).await.unwrap();
    let long = "x".repeat(60);
    let mut leases = Vec::new();
    for i in 0..90 {
        let path = json!({ "role_session_name": format!("{long}{i:02}") });
        let made = ask(&mount, Operation::Update, "creds/app", path).await.unwrap().unwrap();
        leases.push(made.lease.unwrap().internal);
    }
    let revoked = leases.iter().map(|lease| mount.handle(of_lease(Operation::Revoke, lease)));
    for done in futures_util::future::join_all(revoked).await {
        done.unwrap();
    }
    let policies = world.account.policies.lock().unwrap().clone();
    assert_eq!(policies.len(), 3, "{:?}", policies.keys());
    for (name, document) in &policies {
        let size = document.chars().filter(|c| !c.is_whitespace()).count();
        assert!(size <= if name == ROLE { 10_240 } else { 6_144 }, "{name}: {size}");
    }
    for i in 0..90 {
        let name = format!("{long}{i:02}");
        assert_eq!(policies.values().filter(|text| text.contains(&name)).count(), 1, "{name}");
    }
    later(&world, 3700);
    tick(&mount).await;
    assert!(world.account.policies.lock().unwrap().is_empty());
    assert!(!world.entries.lock().unwrap().keys().any(|key| key.starts_with("denial/")));
}
