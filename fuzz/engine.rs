//! Requests to a mount, and what its storage may hold, with a storage of its own and no server behind it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use leasehold::engine::port::{
    Alias, Clock, Entity, Group, Host, HostError, LeftNote, Post, Posted, Scratch, Storage, StorageError, Web, WebError,
};
use leasehold::engine::request::{Caller, LeaseRef, Operation, Request};
use leasehold::engine::{Kind, Mount, Ports};
use leasehold::secret::Secret;
use leasehold::target::{Connector, Drivers, Settings, Target, aws, redis};
use serde_json::Value;

use crate::cloud::Cloud;

/// Storage, host and time in one.
struct World(Mutex<BTreeMap<String, String>>);

#[async_trait]
impl Storage for World {
    async fn get(&self, key: &str) -> Result<Option<Secret>, StorageError> {
        Ok(self.0.lock().unwrap().get(key).cloned().map(Secret::new))
    }
    async fn put(&self, key: &str, value: &Secret, _: bool) -> Result<(), StorageError> {
        self.0.lock().unwrap().insert(key.to_owned(), value.expose().to_owned());
        Ok(())
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
    async fn list(&self, prefix: &str, after: &str, _: i32) -> Result<Vec<String>, StorageError> {
        let all = self.0.lock().unwrap();
        Ok(all
            .keys()
            .filter_map(|key| key.strip_prefix(prefix))
            .filter(|key| *key > after)
            .map(str::to_owned)
            .collect())
    }
}

#[async_trait]
impl Host for World {
    async fn default_lease_ttl(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(3600))
    }
    async fn max_lease_ttl(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(7200))
    }
    async fn is_standby(&self) -> Result<bool, HostError> {
        Ok(false)
    }
    async fn generate_password(&self, _: &str) -> Result<Option<Secret>, HostError> {
        Ok(None)
    }
    async fn entity(&self, id: &str) -> Result<Option<Entity>, HostError> {
        let alias = Alias { mount_type: "userpass".into(), name: "ann".into(), ..Alias::default() };
        Ok(Some(Entity { id: id.to_owned(), name: "ann".into(), aliases: vec![alias], ..Entity::default() }))
    }
    async fn groups(&self, _: &str) -> Result<Vec<Group>, HostError> {
        Ok(vec![Group { id: "g".into(), name: "leads".into(), ..Group::default() }])
    }
}

impl Clock for World {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_313_477)
    }
    fn steady(&self) -> Duration {
        Duration::ZERO
    }
}

impl Scratch for World {
    fn write(&self, _: &str) -> Option<u64> {
        None
    }
    fn clear(&self, _: u64) {}
    fn left(&self) -> Vec<LeftNote> {
        Vec::new()
    }
    fn clear_left(&self, _: &str) {}
}

#[async_trait]
impl Web for World {
    async fn post(&self, _: &Post) -> Result<Posted, WebError> {
        Err(WebError("nobody is there".into()))
    }
}

/// Whatever is asked for, a server at a port where none can be; an account that agrees to everything.
struct Nowhere;

impl Connector for Nowhere {
    fn open(&self, _: Settings) -> Arc<dyn Target> {
        let password = Secret::new("p".into());
        let source = redis::Source {
            host: "127.0.0.1",
            port: "1",
            username: "u",
            password: Some(&password),
            ..Default::default()
        };
        match redis::Settings::new(&source) {
            Ok(settings) => Drivers.open(Settings::Redis(settings)),
            Err(error) => panic!("{error}"),
        }
    }

    fn aws(&self, _: aws::Settings) -> Arc<dyn aws::Cloud> {
        Arc::new(Cloud)
    }
}

fn with_mount(kind: Kind, stored: BTreeMap<String, String>, work: impl AsyncFnOnce(&Mount)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = Arc::new(World(Mutex::new(stored)));
    let ports = Ports {
        storage: world.clone(),
        host: world.clone(),
        clock: world.clone(),
        scratch: world.clone(),
        targets: Arc::new(Nowhere),
        web: world.clone(),
    };
    runtime.block_on(async {
        let mount = Mount::new(kind, "mount".to_owned(), ports);
        work(&mount).await;
        mount.close().await;
    });
}

/// Each line is a request to a mount for databases: its operation, its path, its data.
pub fn database(text: &str) {
    requests(Kind::Database, BTreeMap::new(), text);
}

/// The same to a mount for AWS.
pub fn aws(text: &str) {
    let root = r#"{"access_key":"AKIA0000000000000000","secret_key":"the-secret-key-of-the-engine-itself","region":"us-east-1"}"#;
    requests(Kind::Aws, BTreeMap::from([("config/root".to_owned(), root.to_owned())]), text);
}

fn requests(kind: Kind, stored: BTreeMap<String, String>, text: &str) {
    with_mount(kind, stored, async |mount| {
        for line in text.lines().take(8) {
            let mut words = line.splitn(3, ' ');
            let operation = words.next().and_then(|word| word.chars().next());
            let path = words.next().unwrap_or_default();
            let Some(operation) = operation.and_then(named) else { continue };
            let Ok(Value::Object(mut data)) = serde_json::from_str(words.next().unwrap_or("{}")) else { continue };
            data.insert("verify_connection".into(), false.into());
            let _ = mount.exists(path, &data).await;
            let _ = mount.handle(request(operation, path, data)).await;
        }
    });
}

/// Each line is an entry of the storage: its key, its value. Then all of it is used.
pub fn records(text: &str) {
    let stored = text.lines().take(6).filter_map(|line| line.split_once(' '));
    let stored: BTreeMap<String, String> = stored.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let keys: Vec<String> = stored.keys().cloned().collect();
    with_mount(Kind::Database, stored, async |mount| {
        for key in keys {
            let Some((_, name)) = key.split_once('/') else { continue };
            for (operation, path) in [
                (Operation::Read, format!("config/{name}")),
                (Operation::Read, format!("roles/{name}")),
                (Operation::Read, format!("static-roles/{name}")),
                (Operation::Read, format!("static-creds/{name}")),
                (Operation::Read, format!("creds/{name}")),
                (Operation::Update, format!("rotate-role/{name}")),
                (Operation::Update, format!("rotate-root/{name}")),
            ] {
                let _ = mount.handle(request(operation, &path, Default::default())).await;
            }
        }
    });
}

fn request(operation: Operation, path: &str, data: serde_json::Map<String, Value>) -> Request {
    let lease = matches!(operation, Operation::Renew | Operation::Revoke)
        .then(|| LeaseRef { internal: data.clone(), ..Default::default() });
    let caller = Caller { display_name: "token".to_owned(), entity_id: "e".to_owned(), ..Caller::default() };
    Request { id: String::new(), operation, path: path.to_owned(), data, lease, caller }
}

fn named(first: char) -> Option<Operation> {
    Some(match first {
        'c' => Operation::Create,
        'u' => Operation::Update,
        'r' => Operation::Read,
        'd' => Operation::Delete,
        'l' => Operation::List,
        'h' => Operation::Help,
        'n' => Operation::Renew,
        'v' => Operation::Revoke,
        _ => return None,
    })
}
