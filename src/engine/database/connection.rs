//! `config/:name`, `reset/:name`, `reload/:plugin_name`: configured targets, and the live connection to each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{check, root};
use crate::engine::Mount;
use crate::engine::end::mode::{self, RevocationMode};
use crate::engine::end::wishes::Wishes;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::go::instant;
use crate::engine::request::{Fields, Reply, Response};
use crate::engine::schedule::timing::{self, Timing};
use crate::engine::template::{self, Names, OsEntropy, Template};
use crate::engine::{caps, live};
use crate::secret::Secret;
use crate::target::{self, Dialect, Driver, Passwords, Target};

mod settings;

/// Fields of the request that the engine keeps itself; everything else describes the connection to the driver.
const ENGINE_FIELDS: &[&str] = &[
    "name",
    "plugin_name",
    "plugin_version",
    "verify_connection",
    "allowed_roles",
    "root_rotation_statements",
    "password_policy",
    "owned_objects",
    "sessions",
    "verify",
    "force",
    caps::MAX_LIVE_USERS,
    mode::FIELD,
];

/// Connection details that no read returns. `connection_url` is secret too (it may hold a password) and is shown
/// redacted.
const SECRET_DETAILS: &[&str] = &["password", "private_key", "tls_certificate_key", "service_account_json"];

/// The detail that says so: see [`Config::is_self_managed`].
const SELF_MANAGED: &str = "self_managed";

const EMBEDDED: &str = "Password found in connection_url, use a templated url to enable root rotation and prevent read \
                        access to password information.";
const OUTDATED: &str = "The given password was replaced by rotate-root; the valid one is kept. Leave password out, or \
                        have your tool ignore it.";

/// One configured target, as stored.
#[derive(Debug, Default)]
pub struct Config {
    /// Which driver.
    pub plugin_name: String,
    /// Version of the driver, empty for our own.
    pub plugin_version: String,
    /// Settings for the driver that may be seen.
    pub details: Fields,
    /// Settings for the driver that may not.
    pub secrets: BTreeMap<String, Secret>,
    /// Which roles may use the connection: names, or patterns with `*`.
    pub allowed_roles: Vec<String>,
    /// How the root password is changed.
    pub root_rotation_statements: Vec<String>,
    /// The host's policy for passwords minted here, empty for the default generator.
    pub password_policy: String,
    /// When the root password changes by itself.
    pub timing: Timing,
    /// What other engines of this stored form keep here; carried along untouched.
    pub other: Fields,
}

/// The stored form: the built-in engine's own keys.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default)]
    plugin_name: String,
    #[serde(default)]
    plugin_version: String,
    #[serde(default)]
    connection_details: Option<Fields>,
    #[serde(default)]
    allowed_roles: Option<Vec<String>>,
    #[serde(default)]
    root_credentials_rotate_statements: Option<Vec<String>>,
    #[serde(default)]
    password_policy: String,
    #[serde(flatten)]
    other: Fields,
}

/// Where connections are stored.
pub const PREFIX: &str = "config/";

/// Storage key of a connection.
pub fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// What every path says of a connection that is not there.
pub(in crate::engine) fn missing(name: &str) -> Error {
    Error::Failed(format!("failed to find entry for connection with name: {name:?}"))
}

impl Config {
    /// The stored connection, `None` if there is none.
    pub async fn load(mount: &Mount, name: &str) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(&key(name)).await? else { return Ok(None) };
        let unreadable = || Error::Failed(format!("the stored connection {name:?} cannot be read"));
        let mut stored: Stored = serde_json::from_str(entry.expose()).map_err(|_| unreadable())?;
        let mut config = Self {
            timing: Timing::take(&mut stored.other).map_err(|_| unreadable())?,
            plugin_name: stored.plugin_name,
            plugin_version: stored.plugin_version,
            allowed_roles: stored.allowed_roles.unwrap_or_default(),
            root_rotation_statements: stored.root_credentials_rotate_statements.unwrap_or_default(),
            password_policy: stored.password_policy,
            other: stored.other,
            ..Self::default()
        };
        config.merge(stored.connection_details.unwrap_or_default());
        Ok(Some(config))
    }

    /// Writes the connection.
    pub(super) async fn store(&self, mount: &Mount, name: &str) -> Result<(), Error> {
        let mut details = self.details.clone();
        for (key, secret) in &self.secrets {
            details.insert(key.clone(), json!(secret.expose()));
        }
        let stored = Stored {
            plugin_name: self.plugin_name.clone(),
            plugin_version: self.plugin_version.clone(),
            connection_details: Some(details),
            allowed_roles: Some(self.allowed_roles.clone()),
            root_credentials_rotate_statements: Some(self.root_rotation_statements.clone()),
            password_policy: self.password_policy.clone(),
            other: self.other.clone().into_iter().chain(self.timing.stored()).collect(),
        };
        let text = serde_json::to_string(&stored).map_err(|_| Error::Failed("cannot encode the connection".into()))?;
        Ok(mount.ports.storage.put(&key(name), &Secret::new(text), true).await?)
    }

    /// Lays `details` over what is there, texts that may not be seen apart.
    fn merge(&mut self, details: Fields) {
        for (key, value) in details {
            let text = match value {
                _ if key != "connection_url" && !SECRET_DETAILS.contains(&key.as_str()) => Err(value),
                Value::String(text) => Ok(text),
                Value::Number(number) => Ok(number.to_string()),
                other => Err(other),
            };
            match text {
                Ok(text) => {
                    self.details.remove(&key);
                    self.secrets.insert(key, Secret::new(text));
                }
                Err(value) => {
                    self.secrets.remove(&key);
                    self.details.insert(key, value);
                }
            }
        }
    }

    /// True if `role` may mint here.
    pub fn allows(&self, role: &str) -> bool {
        self.allowed_roles.iter().any(|pattern| glob(pattern, role))
    }

    /// True if there is no account of the connection's own: each account of a static role changes its own password.
    pub(in crate::engine) fn is_self_managed(&self) -> bool {
        let flag = self.details.get(SELF_MANAGED);
        flag.is_some_and(|flag| *flag == json!(true) || flag.as_str().is_some_and(|text| text == "true" || text == "1"))
    }

    /// The connection, ready to be used. Opens no session.
    pub(super) fn open(&self, mount: &Mount) -> Result<Connection, String> {
        self.connect(mount, &self.details, &self.secrets)
    }

    /// The connection of somebody else, ready to be used. Opens no session.
    pub(super) fn open_as(&self, mount: &Mount, username: &str, password: &Secret) -> Result<Connection, String> {
        let mut details = self.details.clone();
        details.insert("username".into(), json!(username));
        let mut secrets: BTreeMap<String, Secret> =
            self.secrets.iter().map(|(key, secret)| (key.clone(), secret.duplicate())).collect();
        secrets.insert("password".into(), password.duplicate());
        self.connect(mount, &details, &secrets)
    }

    fn connect(
        &self,
        mount: &Mount,
        details: &Fields,
        secrets: &BTreeMap<String, Secret>,
    ) -> Result<Connection, String> {
        let driver = self.driver()?;
        let settings = settings::read(driver, details, secrets)?;
        let username = username_template(driver, &settings.username_template, mount)?;
        Ok(Connection {
            driver,
            allowed_roles: self.allowed_roles.clone(),
            password_policy: self.password_policy.clone(),
            username,
            passwords: settings.target.passwords(),
            wishes: Wishes::of(&self.other),
            revocation_mode: RevocationMode::of(&self.other),
            max_live_users: caps::of_connection(&self.other),
            scram_iterations: settings.scram_iterations,
            target: mount.ports.targets.open(settings.target),
        })
    }

    /// Whose statements it takes, and at which servers; `None` if nobody can say.
    fn place(&self) -> Option<(Dialect, String)> {
        let driver = self.driver().ok()?;
        let read = settings::read(driver, &self.details, &self.secrets).ok()?;
        Some((driver.dialect(), read.target.servers()))
    }

    /// True if the driver would log in with `password` were it this connection's: not every text can be put into
    /// `connection_url` as it is.
    pub(super) fn carries(&self, password: &Secret) -> bool {
        let mut secrets: BTreeMap<String, Secret> =
            self.secrets.iter().map(|(key, secret)| (key.clone(), secret.duplicate())).collect();
        secrets.insert("password".into(), password.duplicate());
        let read = self.driver().and_then(|driver| settings::read(driver, &self.details, &secrets));
        read.is_ok_and(|read| read.target.passwords().first().as_ref() == Some(password))
    }

    /// Which driver.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(in crate::engine) fn driver(&self) -> Result<Driver, String> {
        let found = Driver::named(&self.plugin_name).filter(|_| self.plugin_version.is_empty());
        found.ok_or_else(|| {
            let version = match self.plugin_version.as_str() {
                "" => String::new(),
                version => format!(", version={version}"),
            };
            let line = format!("\t* plugin not found in the catalog: {}{version}\n", self.plugin_name);
            format!("invalid database version: 2 errors occurred:\n{line}{line}\n")
        })
    }
}

/// The template of user names; refused if not even empty names make one that the server takes.
fn username_template(driver: Driver, text: &str, mount: &Mount) -> Result<Template, String> {
    if text.is_empty() {
        let default = match driver {
            Driver::PostgreSql => template::POSTGRESQL,
            Driver::MySql => template::MYSQL,
            Driver::MySqlLegacy => template::MYSQL_LEGACY,
            Driver::Redis => template::REDIS,
        };
        return Template::parse(default).map_err(|e| e.to_string());
    }
    let now = mount.ports.clock.now();
    let checked = Template::checked(text, &mut OsEntropy, now).map_err(|e| e.to_string())?;
    let shortest = checked.render(&Names::default(), &mut OsEntropy, now).map_err(|e| e.to_string())?;
    if shortest.len() > driver.longest_username() {
        return Err(format!(
            "invalid username template: it makes names of {} bytes or more, the database takes {}: use truncate",
            shortest.len(),
            driver.longest_username()
        ));
    }
    Ok(checked)
}

/// A connection in use. Dropped from the mount when its configuration changes; work that still holds it goes on.
pub struct Connection {
    /// Which driver.
    pub driver: Driver,
    allowed_roles: Vec<String>,
    /// The host's policy for passwords minted here, empty for the default generator.
    pub password_policy: String,
    /// How users are named.
    pub username: Template,
    /// What its sessions are opened with.
    pub passwords: Passwords,
    /// How users end of roles that do not say.
    pub wishes: Wishes,
    /// Whether its users are ended at all.
    pub revocation_mode: RevocationMode,
    /// How many users it may have, 0 for no limit.
    pub max_live_users: u64,
    /// Rounds of the SCRAM verifiers that the server is sent, if it is sent any.
    pub scram_iterations: Option<u32>,
    /// The target itself.
    pub target: Arc<dyn Target>,
}

impl Connection {
    /// True if `role` may mint here.
    pub fn allows(&self, role: &str) -> bool {
        self.allowed_roles.iter().any(|pattern| glob(pattern, role))
    }
}

/// The live connections of a mount, by name.
#[derive(Default)]
pub struct Connections(Mutex<Live>);

#[derive(Default)]
struct Live {
    by_name: HashMap<String, Arc<Connection>>,
    /// Those that did not answer when they were opened. They are asked again as they are: what a target knows of its
    /// outage, and its bound on sessions, hold for whoever asks.
    unproven: HashMap<String, Arc<Connection>>,
    /// Counts changes, so that a connection opened from an older configuration is not taken for a new one.
    changes: u64,
}

impl Live {
    /// The connection of that name, proven or not.
    fn of(&self, name: &str) -> impl Iterator<Item = &Arc<Connection>> {
        self.by_name.get(name).into_iter().chain(self.unproven.get(name))
    }
}

impl Connections {
    fn lock(&self) -> std::sync::MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a live connection; its sessions are closed once nobody uses them.
    pub fn forget(&self, name: &str) {
        self.change(name, None);
    }

    /// Puts another live connection in the place of that name, or none.
    pub(super) fn change(&self, name: &str, to: Option<Arc<Connection>>) {
        let mut live = self.lock();
        live.changes += 1;
        let gone = match to {
            Some(connection) => live.by_name.insert(name.to_owned(), connection),
            None => live.by_name.remove(name),
        };
        let unproven = live.unproven.remove(name);
        drop(live);
        retire(gone);
        retire(unproven);
    }

    /// `candidate` may open the account of that connection from now on.
    pub(super) fn expect(&self, name: &str, candidate: &Secret) {
        let mut live = self.lock();
        live.changes += 1;
        for connection in live.of(name) {
            connection.passwords.add(candidate);
        }
    }

    /// `password` opens the account of that connection, and it is stored. Its sessions go on.
    pub(super) fn settle(&self, name: &str, password: &Secret) {
        let mut live = self.lock();
        live.changes += 1;
        for connection in live.of(name) {
            connection.passwords.settle(password);
        }
    }

    /// Forgets all, and waits until their sessions are closed.
    pub async fn close(&self) {
        let all: Vec<_> = {
            let mut live = self.lock();
            live.changes += 1;
            let Live { by_name, unproven, .. } = &mut *live;
            by_name.drain().chain(unproven.drain()).map(|(_, connection)| connection).collect()
        };
        for connection in all {
            connection.target.close().await;
        }
    }

    /// The live connection of that name, if there is one.
    pub fn live(&self, name: &str) -> Option<Arc<Connection>> {
        self.lock().by_name.get(name).cloned()
    }

    /// The live connection of that name, or one that has yet to answer for the first time.
    pub fn known(&self, name: &str) -> Option<Arc<Connection>> {
        let live = self.lock();
        live.by_name.get(name).or_else(|| live.unproven.get(name)).cloned()
    }

    /// The live connection of that name; the first use opens and verifies it. If that fails while a change of its
    /// password is open, the change is settled first.
    pub async fn get(&self, mount: &Mount, name: &str) -> Result<Arc<Connection>, Error> {
        match self.opened(mount, name).await {
            Err(_) if super::root::recovered(mount, name).await => self.opened(mount, name).await,
            tried => tried,
        }
    }

    /// As [`Connections::get`], for who holds the lock of the connection's password.
    pub(in crate::engine) async fn opened(&self, mount: &Mount, name: &str) -> Result<Arc<Connection>, Error> {
        loop {
            let (seen, unproven) = {
                let live = self.lock();
                if let Some(connection) = live.by_name.get(name) {
                    return Ok(connection.clone());
                }
                (live.changes, live.unproven.get(name).cloned())
            };
            let opened = match unproven {
                Some(connection) => connection,
                None => {
                    let config = Config::load(mount, name).await?.ok_or_else(|| missing(name))?;
                    if config.is_self_managed() {
                        return Err(Error::Failed(format!(
                            "connection {name:?} is self-managed: it has no account of its own, and is for static roles only"
                        )));
                    }
                    let opened = Arc::new(config.open(mount).map_err(Error::Failed)?);
                    opened.passwords.only_add(&super::root::candidates(mount, name, &config).await?);
                    let mut live = self.lock();
                    if live.changes != seen {
                        continue;
                    }
                    live.unproven.entry(name.to_owned()).or_insert(opened).clone()
                }
            };
            verify(&opened).await.map_err(Error::Failed)?;
            let mut live = self.lock();
            if live.unproven.get(name).is_some_and(|unproven| Arc::ptr_eq(unproven, &opened)) {
                live.changes += 1;
                live.unproven.remove(name);
                live.by_name.insert(name.to_owned(), opened.clone());
                return Ok(opened);
            }
            // Somebody else has proven it, or changed the connection meanwhile: look again.
        }
    }
}

/// Closes sessions in the background: a request that still uses the connection finishes first.
fn retire(connection: Option<Arc<Connection>>) {
    if let Some(connection) = connection {
        tokio::spawn(async move { connection.target.close().await });
    }
}

/// Asks the server for a sign of life.
pub(super) async fn verify(connection: &Connection) -> Result<(), String> {
    connection.target.verify().await.map_err(|e| connection.driver.verify_error(&e))
}

/// GET.
pub async fn read(mount: &Mount, name: &str) -> Reply {
    let Some(config) = Config::load(mount, name).await? else { return Ok(None) };
    let mut shown: Fields =
        config.details.into_iter().filter(|(key, _)| !SECRET_DETAILS.contains(&key.as_str())).collect();
    if let Some(url) = config.secrets.get("connection_url") {
        shown.insert("connection_url".into(), json!(target::dsn::redact(url.expose())));
    }
    let mut data = vec![
        ("allowed_roles", json!(config.allowed_roles)),
        ("connection_details", Value::Object(shown)),
        ("password_policy", json!(config.password_policy)),
        ("plugin_name", json!(config.plugin_name)),
        ("plugin_version", json!(config.plugin_version)),
        ("root_credentials_rotate_statements", json!(config.root_rotation_statements)),
    ];
    data.extend(Wishes::of(&config.other).said());
    data.extend(config.other.get(mode::FIELD).map(|mode| (mode::FIELD, mode.clone())));
    data.extend(config.other.get(caps::MAX_LIVE_USERS).map(|limit| (caps::MAX_LIVE_USERS, limit.clone())));
    data.extend(config.timing.shown());
    let state = mount.rotation.queue.state(&root::record_key(name));
    let failed = state.and_then(|state| Some((state.error?, state.due)));
    let planned = root::due(mount, name, &config.timing);
    let due = planned.map(|due| failed.as_ref().map_or(due, |(_, again)| *again));
    data.extend(due.and_then(instant::text).map(|due| ("next_vault_rotation", json!(due))));
    data.extend(failed.map(|(error, _)| ("last_rotation_error", json!(error))));
    Ok(Some(Response::data(data)))
}

/// POST and PUT. Nothing is stored unless the driver accepts the settings and, unless `verify_connection=false`, the
/// server answers.
pub async fn write(mount: &Mount, name: &str, input: &Input, data: &Fields) -> Reply {
    mount.refuse_on_standby().await?;
    let _lock = mount.rotation.locks.hold(&root::record_key(name)).await;
    let settled = root::settle(mount, name).await;
    if let Err(e) = &settled {
        // What is written may be what mends it.
        tracing::warn!(connection = name, "a change of its password is still open: {e}");
    }
    let verifying = input.flag_or_preset("verify_connection");
    let mut config = Config::load(mount, name).await?.unwrap_or_default();
    let was_self_managed = config.is_self_managed();
    let was_at = config.place();
    if let Some(plugin_name) = input.text("plugin_name") {
        config.plugin_name = plugin_name.to_owned();
    }
    if config.plugin_name.is_empty() {
        return Err(Error::Refused("empty plugin name".into()));
    }
    if let Some(version) = input.text("plugin_version") {
        config.plugin_version = canonical_version(version)?;
    }
    if let Some(roles) = input.list("allowed_roles") {
        config.allowed_roles = roles.to_vec();
    }
    if let Some(statements) = input.list("root_rotation_statements") {
        config.root_rotation_statements = statements.to_vec();
    }
    if let Some(policy) = input.text("password_policy") {
        config.password_policy = policy.to_owned();
    }
    let mut wishes = Wishes::of(&config.other);
    wishes.write(input)?;
    wishes.store(&mut config.other);
    RevocationMode::write(input, &mut config.other)?;
    match caps::limit(input, caps::MAX_LIVE_USERS)? {
        None => {}
        Some(0) => _ = config.other.remove(caps::MAX_LIVE_USERS),
        Some(limit) => _ = config.other.insert(caps::MAX_LIVE_USERS.into(), json!(limit)),
    }
    config.timing.lay_over(input, mount.ports.clock.now())?;
    let valid = config.secrets.get("password").map(Secret::duplicate);
    let own = |key: &str| ENGINE_FIELDS.contains(&key) || timing::is_field(key);
    let details = data.iter().filter(|(key, _)| !own(key));
    config.merge(details.map(|(key, value)| (key.clone(), value.clone())).collect());
    let written = config.secrets.get("password").filter(|_| data.contains_key("password")).map(Secret::duplicate);
    let outdated = written.as_ref().filter(|password| root::is_superseded(&config, password)).map(Secret::duplicate);
    match (&written, &outdated, valid) {
        // Whoever writes it does not know that it was replaced, and would lock us out.
        (_, Some(_), Some(valid)) => _ = config.secrets.insert("password".into(), valid),
        (Some(written), _, valid) if valid.as_ref() != Some(written) => root::taken_over(&mut config, written),
        _ => {}
    }

    if config.timing.is_active() {
        let account = root::account(&config);
        account.map_err(|why| Error::Refused(format!("the password cannot be rotated by a schedule: {why}")))?;
    }
    let refused = |text: String| Error::Refused(format!("error creating database object: {text}"));
    if !input.flag("force").unwrap_or_default()
        && let (Some(was_at), Some(is_at)) = (was_at, config.place())
        && was_at != is_at
    {
        // What is stored is what its users were made with.
        let stored = Config::load(mount, name).await?.unwrap_or_default();
        live::refuse(mount, name, &stored, "it is pointed at another server").await?;
    }
    if was_self_managed || config.is_self_managed() {
        check_self_managed(mount, &config).map_err(refused)?;
        config.store(mount, name).await?;
        mount.connections.forget(name);
        return Ok(None);
    }
    let mut opened = config.open(mount).map_err(refused)?;
    let mut warnings = Vec::new();
    if outdated.is_some() {
        warnings.push(OUTDATED.to_owned());
    }
    if verifying && let Err(text) = verify(&opened).await {
        opened.target.close().await;
        // Unless the database itself went back to it.
        let Some(outdated) = outdated else { return Err(refused(text)) };
        root::taken_over(&mut config, &outdated);
        config.secrets.insert("password".into(), outdated);
        opened = config.open(mount).map_err(refused)?;
        if verify(&opened).await.is_err() {
            opened.target.close().await;
            return Err(refused(text));
        }
        warnings.clear();
    }
    if let Err(e) = config.store(mount, name).await {
        opened.target.close().await;
        return Err(e);
    }
    if verifying {
        warnings.extend(check::warnings(mount, name, &opened).await);
    }
    // If they cannot be read, who changes the password tells the connection again.
    opened.passwords.only_add(&root::candidates(mount, name, &config).await.unwrap_or_default());
    mount.connections.change(name, Some(Arc::new(opened)));
    if settled.is_ok_and(|settled| settled.is_over()) {
        root::plan(mount, name, &config.timing);
    }
    mount.rotation.queue.outdated();
    mount.caps.outdated();

    if config.secrets.get("connection_url").is_some_and(|url| target::dsn::has_embedded_password(url.expose())) {
        warnings.push(EMBEDDED.to_owned());
    }
    Ok((!warnings.is_empty()).then(|| Response { warnings, ..Response::default() }))
}

/// Refuses what a connection without an account of its own cannot be.
fn check_self_managed(mount: &Mount, config: &Config) -> Result<(), String> {
    if !config.is_self_managed() {
        return Err("a self-managed connection stays one: delete it, and write it anew".into());
    }
    let given = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
    if given(config.details.get("username").and_then(Value::as_str))
        || given(config.secrets.get("password").map(Secret::expose))
    {
        return Err("self_managed is mutually exclusive with username and password".into());
    }
    let opened = config.open_as(mount, "username", &Secret::new("password".into()))?;
    if opened.driver == Driver::Redis {
        return Err(
            "self_managed is for PostgreSQL, MySQL and MariaDB: a user who may change passwords of Valkey and \
                    Redis may do everything"
                .into(),
        );
    }
    let url = config.secrets.get("connection_url").map(|url| url.expose().replace(' ', "")).unwrap_or_default();
    if !url.is_empty() && !["{{username}}", "{{password}}"].iter().all(|part| url.contains(part)) {
        return Err("connection_url of a self-managed connection holds {{username}} and {{password}}".into());
    }
    Ok(())
}

/// DELETE. Refused while something needs it, unless `force` says otherwise.
pub async fn delete(mount: &Mount, name: &str, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    let record = root::record_key(name);
    let _lock = mount.rotation.locks.hold(&record).await;
    if input.flag("force").unwrap_or_default() {
        tracing::warn!(connection = name, "deleted by force: nobody ends what users are left there");
    } else if let Some(config) = Config::load(mount, name).await? {
        live::refuse(mount, name, &config, "it is deleted").await?;
    }
    mount.ports.storage.delete(&record).await?;
    mount.rotation.queue.forget(&record);
    mount.ports.storage.delete(&key(name)).await?;
    mount.connections.forget(name);
    mount.meter.forget(name);
    mount.sights.forget(name);
    mount.caps.outdated();
    Ok(None)
}

/// LIST, with `after` and `limit`.
pub async fn list(mount: &Mount, input: &Input) -> Reply {
    super::list(mount, "config/", input).await
}

/// `reset/:name`: new sessions, verified.
pub async fn reset(mount: &Mount, name: &str) -> Reply {
    // The sessions that count are those of the active node.
    mount.refuse_on_standby().await?;
    if Config::load(mount, name).await?.is_none() {
        return Err(missing(name));
    }
    mount.connections.forget(name);
    mount.connections.get(mount, name).await?;
    Ok(None)
}

/// `reload/:plugin_name`: resets every connection of that driver. One that cannot be reset does not stop the others.
pub async fn reload(mount: &Mount, plugin_name: &str) -> Reply {
    mount.refuse_on_standby().await?;
    let mut reset_names = Vec::new();
    let mut failed = Vec::new();
    for name in mount.ports.storage.list("config/", "", 0).await? {
        if Config::load(mount, &name).await?.is_some_and(|config| config.plugin_name == plugin_name) {
            match reset(mount, &name).await {
                Ok(_) => reset_names.push(name),
                Err(e) => failed.push(format!("failed to reload connection {name:?}: {e}")),
            }
        }
    }
    if reset_names.is_empty() && failed.is_empty() {
        return Err(Error::Refused(format!("no connections were found with plugin_name {plugin_name:?}")));
    }
    let mut response = Response::data([("connections", json!(reset_names)), ("count", json!(reset_names.len()))]);
    response.warnings = failed;
    Ok(Some(response))
}

/// Our own version and none are the same thing; other versions are kept as asked, in canonical form.
fn canonical_version(version: &str) -> Result<String, Error> {
    if version.is_empty() {
        return Ok(String::new());
    }
    let bare = version.strip_prefix('v').unwrap_or(version);
    let core = bare.find(['-', '+']).unwrap_or(bare.len());
    let (numbers, rest) = bare.split_at(core);
    let padded = match numbers.matches('.').count() {
        0 => format!("{numbers}.0.0{rest}"),
        1 => format!("{numbers}.0{rest}"),
        _ => bare.to_owned(),
    };
    let parsed = semver::Version::parse(&padded).map_err(|_| {
        Error::Refused(format!("version {version:?} is not a valid semantic version: malformed version: {version}"))
    })?;
    let own = parsed.build.as_str().starts_with("builtin") || parsed.to_string() == env!("CARGO_PKG_VERSION");
    Ok(if own { String::new() } else { format!("v{parsed}") })
}

/// `*` stands for any text, as often as it occurs.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut last: Option<&str> = None;
    for part in parts {
        if let Some(middle) = last {
            let Some(at) = rest.find(middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(end) => rest.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_role_names() {
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("app", "app", true),
            ("app", "apps", false),
            ("ro-*", "ro-x", true),
            ("ro-*", "rw-x", false),
            ("p*l", "pol", true),
            ("p*l", "pl", true),
            ("p*l", "p", false),
            ("a*a", "a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "ba", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn versions_are_canonical_or_refused() {
        assert_eq!(canonical_version("1.2").unwrap(), "v1.2.0");
        assert_eq!(canonical_version("v1.2.3").unwrap(), "v1.2.3");
        assert_eq!(canonical_version("v2.7.2+builtin.bao").unwrap(), "");
        assert_eq!(
            canonical_version("zz").unwrap_err().to_string(),
            "version \"zz\" is not a valid semantic version: malformed version: zz"
        );
    }

    #[test]
    fn a_secret_detail_moves_out_of_sight_and_back() {
        let mut config = Config::default();
        config.merge([("password".to_owned(), json!("p")), ("username".to_owned(), json!("u"))].into_iter().collect());
        assert!(!format!("{config:?}").contains("\"p\""));
        assert_eq!(config.details.len(), 1);
        config.merge([("password".to_owned(), json!(null))].into_iter().collect());
        assert!(config.secrets.is_empty(), "an explicit null replaces the password");
    }
}
