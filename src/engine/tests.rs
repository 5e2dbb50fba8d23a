//! The engine on simulated ports: storage, host and target in memory.

mod aws;
mod mint;
mod rotation;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::error::Error;
use super::port::{Clock, Host, HostError, Storage, StorageError};
use super::request::{Caller, Datum, Existence, Fields, LeaseRef, Operation, Reply, Request, Response};
use super::{Kind, Mount, Ports};
use crate::secret::Secret;
use crate::target::{
    Capability, Connector, EndPlan, Ended, Login, LoginError, Marked, MintPlan, Outcome, RenewPlan, Script, Settings,
    Target, TargetError,
};
use rotation::Faults;

/// A host, its storage, and a target that only remembers names.
#[derive(Default)]
struct World {
    entries: Mutex<BTreeMap<String, String>>,
    users: Mutex<BTreeMap<String, SystemTime>>,
    standby: AtomicBool,
    down: AtomicBool,
    touched: AtomicBool,
    /// Accounts with a password; an account that is not here has any.
    accounts: Mutex<BTreeMap<String, String>>,
    /// The target's policy takes no password.
    picky: AtomicBool,
    /// Attempts to log in.
    logins: AtomicU64,
    /// Seconds that have passed.
    later: AtomicU64,
    faults: Faults,
    /// The AWS account.
    account: aws::Account,
}

struct At(Arc<World>);

#[async_trait]
impl Storage for At {
    async fn get(&self, key: &str) -> Result<Option<Secret>, StorageError> {
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
        self.0.entries.lock().unwrap().insert(key.into(), value.expose().into());
        if self.0.faults.point().await {
            return Err(StorageError("storage is away".into()));
        }
        Ok(())
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
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
        let entries = self.0.entries.lock().unwrap();
        let keys = entries.keys().filter_map(|key| key.strip_prefix(prefix)).filter(|key| *key > after);
        Ok(keys.map(str::to_owned).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }
}

#[async_trait]
impl Host for At {
    async fn default_lease_ttl(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(3600))
    }
    async fn max_lease_ttl(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(7200))
    }
    async fn is_standby(&self) -> Result<bool, HostError> {
        Ok(self.0.standby.load(Ordering::SeqCst))
    }
    async fn generate_password(&self, policy: &str) -> Result<Option<Secret>, HostError> {
        Ok((policy == "known").then(|| Secret::new("by-policy".into())))
    }
}

impl Clock for At {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + self.0.later.load(Ordering::SeqCst))
    }
}

impl Connector for At {
    fn open(&self, settings: Settings) -> Arc<dyn Target> {
        let (user, password) = match settings {
            Settings::PostgreSql(settings) => (settings.endpoint.user, settings.endpoint.password),
            Settings::MySql(settings) => (settings.username, settings.password),
            Settings::Redis(settings) => (settings.username, settings.password),
        };
        let password = password.map(|password| password.expose().to_owned());
        Arc::new(Database { world: self.0.clone(), user, password })
    }
    fn aws(&self, settings: crate::target::aws::Settings) -> Arc<dyn crate::target::aws::Cloud> {
        aws::open(&self.0, settings)
    }
}

/// A target, as an account logs in to it.
struct Database {
    world: Arc<World>,
    user: String,
    password: Option<String>,
}

impl World {
    fn takes(&self, user: &str, password: Option<&str>) -> bool {
        self.accounts.lock().unwrap().get(user).is_none_or(|valid| Some(valid.as_str()) == password)
    }
}

impl Database {
    fn reach(&self) -> Result<(), TargetError> {
        self.world.touched.store(true, Ordering::SeqCst);
        if self.world.down.load(Ordering::SeqCst) {
            return Err(TargetError::Connect("down".into()));
        }
        if !self.world.takes(&self.user, self.password.as_deref()) {
            return Err(TargetError::Connect("wrong password".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Target for Database {
    async fn verify(&self) -> Result<(), TargetError> {
        self.reach()
    }
    async fn mint(&self, plan: &MintPlan, _login: Login<'_>) -> Outcome<()> {
        if let Err(e) = self.reach() {
            return Outcome::Failed(e);
        }
        if self.world.faults.point().await {
            return Outcome::Failed(TargetError::Lost("gone".into()));
        }
        self.world.users.lock().unwrap().insert(plan.username.clone(), plan.expiration);
        if self.world.faults.point().await {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        Outcome::Done(())
    }
    async fn renew(&self, plan: &RenewPlan) -> Result<(), TargetError> {
        self.reach()?;
        match self.world.users.lock().unwrap().get_mut(&plan.username) {
            Some(end) => *end = plan.expiration,
            None => return Err(TargetError::Connect("no such user".into())),
        }
        Ok(())
    }
    async fn end(&self, plan: &EndPlan) -> Result<Ended, TargetError> {
        self.reach()?;
        if self.world.faults.point().await {
            return Err(TargetError::Lost("gone".into()));
        }
        let existed = self.world.users.lock().unwrap().remove(&plan.username).is_some();
        Ok(Ended { existed, ..Ended::default() })
    }
    async fn marked(&self, _mount: &str) -> Result<Vec<Marked>, TargetError> {
        self.reach().map(|()| Vec::new())
    }
    async fn present(&self, usernames: &[String]) -> Result<Vec<String>, TargetError> {
        self.reach()?;
        let users = self.world.users.lock().unwrap();
        Ok(usernames.iter().filter(|name| users.contains_key(*name)).cloned().collect())
    }
    async fn check(&self) -> Result<Vec<Capability>, TargetError> {
        self.reach().map(|()| Vec::new())
    }
    async fn set_password(&self, username: &str, password: &Secret, _statements: &Script) -> Outcome<()> {
        if let Err(e) = self.reach() {
            return Outcome::Failed(TargetError::Account(Box::new(e)));
        }
        if self.world.picky.load(Ordering::SeqCst) {
            return Outcome::Failed(TargetError::Server { message: "too weak".into(), code: "22023".into() });
        }
        if self.world.faults.point().await {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        self.world.accounts.lock().unwrap().insert(username.into(), password.expose().into());
        if self.world.faults.point().await {
            return Outcome::Unknown(TargetError::Lost("gone".into()));
        }
        Outcome::Done(())
    }
    async fn login(&self, username: &str, password: &Secret) -> Result<(), LoginError> {
        self.world.logins.fetch_add(1, Ordering::SeqCst);
        if self.world.faults.point().await || self.world.down.load(Ordering::SeqCst) {
            return Err(LoginError::Unreachable(TargetError::Connect("down".into())));
        }
        if self.world.takes(username, Some(password.expose())) {
            Ok(())
        } else {
            Err(LoginError::Refused(TargetError::Connect("wrong password".into())))
        }
    }
    async fn close(&self) {}
}

fn mount(world: &Arc<World>) -> Mount {
    let at = || Arc::new(At(world.clone()));
    let mount =
        Mount::new(Kind::Database, "id".into(), Ports { storage: at(), host: at(), clock: at(), targets: at() });
    mount.rotation.queue.by_hand();
    mount
}

fn request(operation: Operation, path: &str, data: Value) -> Request {
    Request {
        id: "request".into(),
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
    mount.undelivered("creds/app".into(), response.lease.unwrap()).await;
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
