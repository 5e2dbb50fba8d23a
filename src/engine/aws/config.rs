//! `config/root` and `config/lease`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::name;
use crate::engine::Mount;
use crate::engine::database::role::nanoseconds;
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::go::GoDuration;
use crate::engine::journal::text;
use crate::engine::request::{Fields, Reply, Response};
use crate::engine::schedule::timing::Timing;
use crate::secret::Secret;
use crate::target::aws::{AccessKey, Settings, Source, StsPlace};

/// Where the account's own credentials are.
pub const KEY: &str = "config/root";
const LEASE_KEY: &str = "config/lease";

/// The account's own credentials. The stored form is the built-in engines'; ours are further keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Access key id; empty for the SDK's chain.
    pub access_key: String,
    /// Its secret.
    #[serde(with = "text")]
    pub secret_key: Secret,
    /// URL of IAM.
    pub iam_endpoint: String,
    /// URL of STS.
    pub sts_endpoint: String,
    /// Region of STS.
    pub sts_region: String,
    /// Further URLs of STS.
    #[serde(deserialize_with = "list")]
    pub sts_fallback_endpoints: Vec<String>,
    /// Their regions.
    #[serde(deserialize_with = "list")]
    pub sts_fallback_regions: Vec<String>,
    /// The region.
    pub region: String,
    /// Tries after the first; -1 for the SDK's number.
    pub max_retries: i64,
    /// Names of users and sessions.
    pub username_template: String,
    /// The role of the engine itself.
    pub role_arn: String,
    /// The token that it is assumed with.
    pub identity_token_file: String,
    /// What other engines of this stored form keep here; carried along untouched.
    #[serde(flatten)]
    pub other: Fields,
}

fn list<'a, D: serde::Deserializer<'a>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

impl Default for Root {
    fn default() -> Self {
        Self {
            access_key: String::new(),
            secret_key: Secret::new(String::new()),
            iam_endpoint: String::new(),
            sts_endpoint: String::new(),
            sts_region: String::new(),
            sts_fallback_endpoints: Vec::new(),
            sts_fallback_regions: Vec::new(),
            region: String::new(),
            max_retries: -1,
            username_template: name::TEMPLATE.to_owned(),
            role_arn: String::new(),
            identity_token_file: String::new(),
            other: Fields::new(),
        }
    }
}

impl Root {
    /// What is stored, `None` if nothing is.
    pub async fn load(mount: &Mount) -> Result<Option<Self>, Error> {
        let Some(entry) = mount.ports.storage.get(KEY).await? else { return Ok(None) };
        // The parser's own message may quote what it read.
        let mut root: Self = serde_json::from_str(entry.expose())
            .map_err(|_| Error::Failed("the stored config/root cannot be read".into()))?;
        if root.username_template.is_empty() {
            name::TEMPLATE.clone_into(&mut root.username_template);
        }
        Ok(Some(root))
    }

    /// Stores it. From then on it is what is used.
    pub async fn store(&self, mount: &Mount) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|_| Error::Failed("cannot encode config/root".into()))?;
        let stored = mount.ports.storage.put(KEY, &Secret::new(text), true).await;
        // It may be stored even if that failed.
        mount.aws.forget();
        Ok(stored?)
    }

    /// When the key changes by itself.
    ///
    /// # Errors
    /// [`Error::Failed`] if what is stored cannot be read.
    pub fn timing(&self) -> Result<Timing, Error> {
        Timing::take(&mut self.other.clone())
            .map_err(|e| Error::Failed(format!("the stored rotation of config/root cannot be read: {e}")))
    }

    /// Changes when that is.
    pub fn set_timing(&mut self, timing: &Timing) {
        timing.put(&mut self.other);
    }

    /// The account as the target is to reach it.
    pub fn settings(&self) -> Settings {
        let source = if !self.access_key.is_empty() && !self.secret_key.is_empty() {
            Source::Keys(AccessKey { id: self.access_key.clone(), secret: self.secret_key.duplicate() })
        } else if !self.identity_token_file.is_empty() {
            Source::WebIdentity { role_arn: self.role_arn.clone(), token_file: self.identity_token_file.clone() }
        } else {
            Source::Chain
        };
        let region = if self.sts_endpoint.is_empty() { String::new() } else { self.sts_region.clone() };
        let mut sts = vec![StsPlace { endpoint: url(&self.sts_endpoint), region }];
        let fallbacks = self.sts_fallback_endpoints.iter().zip(&self.sts_fallback_regions);
        sts.extend(fallbacks.map(|(endpoint, region)| StsPlace { endpoint: url(endpoint), region: region.clone() }));
        let retries = u32::try_from(self.max_retries).ok();
        Settings { source, region: self.region.clone(), iam_endpoint: url(&self.iam_endpoint), sts, retries }
    }
}

/// An endpoint without a scheme is one of HTTPS.
fn url(endpoint: &str) -> String {
    if endpoint.is_empty() || endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") }
}

/// GET `config/root`: all but the secret.
pub async fn read(mount: &Mount) -> Reply {
    let Some(root) = Root::load(mount).await? else { return Ok(None) };
    let mut data = vec![
        ("access_key", json!(root.access_key)),
        ("region", json!(root.region)),
        ("iam_endpoint", json!(root.iam_endpoint)),
        ("sts_endpoint", json!(root.sts_endpoint)),
        ("sts_region", json!(root.sts_region)),
        ("sts_fallback_endpoints", json!(root.sts_fallback_endpoints)),
        ("sts_fallback_regions", json!(root.sts_fallback_regions)),
        ("max_retries", json!(root.max_retries)),
        ("username_template", json!(root.username_template)),
        ("role_arn", json!(root.role_arn)),
        ("identity_token_file", json!(root.identity_token_file)),
    ];
    data.extend(root.timing()?.shown());
    let error = mount.rotation.queue.state(super::root::RECORD).and_then(|state| state.error);
    data.extend(error.map(|error| ("last_rotation_error", json!(error))));
    Ok(Some(Response::data(data)))
}

/// POST and PUT `config/root`: lays what is given over what is stored.
pub async fn write(mount: &Mount, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    let _lock = mount.rotation.locks.hold(super::root::RECORD).await;
    let mut root = Root::load(mount).await?.unwrap_or_default();
    if let Some(id) = input.text("access_key") {
        if id != root.access_key
            && !id.is_empty()
            && !root.secret_key.is_empty()
            && input.secret("secret_key").is_none()
        {
            return Err(Error::Refused(
                "the stored secret_key is of another access_key: give the secret_key of the new one too".into(),
            ));
        }
        id.clone_into(&mut root.access_key);
        if id.is_empty() && input.secret("secret_key").is_none() {
            root.secret_key = Secret::new(String::new());
        }
    }
    if let Some(secret) = input.secret("secret_key") {
        root.secret_key = secret.duplicate();
    }
    let texts = [
        ("region", &mut root.region),
        ("iam_endpoint", &mut root.iam_endpoint),
        ("sts_endpoint", &mut root.sts_endpoint),
        ("sts_region", &mut root.sts_region),
        ("username_template", &mut root.username_template),
        ("role_arn", &mut root.role_arn),
        ("identity_token_file", &mut root.identity_token_file),
    ];
    for (field, place) in texts {
        if let Some(text) = input.text(field) {
            text.clone_into(place);
        }
    }
    if root.username_template.is_empty() {
        name::TEMPLATE.clone_into(&mut root.username_template);
    }
    let lists = [
        ("sts_fallback_endpoints", &mut root.sts_fallback_endpoints),
        ("sts_fallback_regions", &mut root.sts_fallback_regions),
    ];
    for (field, place) in lists {
        if let Some(list) = input.list(field) {
            *place = list.to_vec();
        }
    }
    if let Some(retries) = input.int("max_retries") {
        root.max_retries = retries;
    }
    let mut timing = root.timing()?;
    timing.lay_over(input, mount.ports.clock.now())?;
    if timing.is_active() && (root.access_key.is_empty() || root.secret_key.is_empty()) {
        return Err(Error::Refused(
            "rotation_period and rotation_schedule need an access_key and its secret_key: nothing else can be changed \
             here; write disable_automated_rotation=true to keep them"
                .into(),
        ));
    }
    root.set_timing(&timing);
    check(&root, input).map_err(Error::Refused)?;
    root.store(mount).await?;
    mount.rotation.queue.outdated();
    Ok(None)
}

fn check(root: &Root, input: &Input) -> Result<(), String> {
    if root.sts_fallback_endpoints.len() != root.sts_fallback_regions.len() {
        return Err("fallback endpoints and fallback regions must be the same length".into());
    }
    if input.text("identity_token_audience").is_some_and(|audience| !audience.is_empty()) {
        if !root.access_key.is_empty() {
            return Err("only one of 'access_key' or 'identity_token_audience' can be set".into());
        }
        return Err(
            "this host gives plugins no identity tokens: keep a token in a file and write identity_token_file and \
                    role_arn instead of identity_token_audience"
                .into(),
        );
    }
    if !root.identity_token_file.is_empty() {
        if !root.access_key.is_empty() {
            return Err("only one of 'access_key' or 'identity_token_file' can be set".into());
        }
        if root.role_arn.is_empty() {
            return Err("missing required 'role_arn' when 'identity_token_file' is set".into());
        }
    }
    let regions = [("region", &root.region), ("sts_region", &root.sts_region)];
    let fallbacks = root.sts_fallback_regions.iter().map(|region| ("sts_fallback_regions", region));
    for (field, region) in regions.into_iter().chain(fallbacks) {
        if !region.is_empty() && !is_region(region) {
            return Err(format!("{field} {region:?} is no AWS region: they look like eu-central-1"));
        }
    }
    Ok(())
}

/// `eu-central-1`, `us-gov-west-1`: words and then a number.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let (number, words) = match parts.split_last() {
        Some((number, words)) if words.len() >= 2 => (number, words),
        _ => return false,
    };
    let is = |part: &&&str, class: fn(&u8) -> bool| !part.is_empty() && part.bytes().all(|b| class(&b));
    words.iter().all(|word| is(&word, u8::is_ascii_lowercase)) && is(&number, u8::is_ascii_digit)
}

/// How long users live. The stored form is Go's.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Lease {
    #[serde(rename = "Lease", with = "nanoseconds")]
    lease: Duration,
    #[serde(rename = "LeaseMax", with = "nanoseconds")]
    lease_max: Duration,
}

/// The lease of users and its maximum; zero for the mount's.
pub async fn lease(mount: &Mount) -> Result<(Duration, Duration), Error> {
    let Some(lease) = load_lease(mount).await? else { return Ok((Duration::ZERO, Duration::ZERO)) };
    Ok((lease.lease, lease.lease_max))
}

async fn load_lease(mount: &Mount) -> Result<Option<Lease>, Error> {
    let Some(entry) = mount.ports.storage.get(LEASE_KEY).await? else { return Ok(None) };
    serde_json::from_str(entry.expose())
        .map(Some)
        .map_err(|e| Error::Failed(format!("the stored config/lease cannot be read: {e}")))
}

/// GET `config/lease`.
pub async fn read_lease(mount: &Mount) -> Reply {
    let Some(lease) = load_lease(mount).await? else { return Ok(None) };
    let text = |span| json!(GoDuration::from_std(span).to_string());
    Ok(Some(Response::data([("lease", text(lease.lease)), ("lease_max", text(lease.lease_max))])))
}

/// POST and PUT `config/lease`.
pub async fn write_lease(mount: &Mount, input: &Input) -> Reply {
    mount.refuse_on_standby().await?;
    let given = |field: &str| {
        let text = input.text(field).filter(|text| !text.is_empty());
        text.ok_or_else(|| Error::Refused(format!("'{field}' is a required parameter")))
    };
    let (lease, lease_max) = (given("lease")?, given("lease_max")?);
    let span = |field: &str, text: &str| {
        let span = GoDuration::parse(text).map_err(|e| Error::Refused(format!("Invalid {field}: {e}")))?;
        span.to_std().ok_or_else(|| Error::Refused(format!("Invalid {field}: it is negative")))
    };
    let lease = Lease { lease: span("lease", lease)?, lease_max: span("lease_max", lease_max)? };
    let text = serde_json::to_string(&lease).map_err(|e| Error::Failed(format!("cannot encode config/lease: {e}")))?;
    mount.ports.storage.put(LEASE_KEY, &Secret::new(text), false).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_look_like_regions() {
        for good in ["us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "ap-southeast-10"] {
            assert!(is_region(good), "{good}");
        }
        for bad in ["", "us", "useast1", "us-east-1a", "us-east-", "-us-1", "us-east", "US-EAST-1"] {
            assert!(!is_region(bad), "{bad}");
        }
    }

    #[test]
    fn the_built_in_engines_entry_is_read_and_nothing_of_it_is_lost() {
        let stored = r#"{"access_key":"A","secret_key":"hush","iam_endpoint":"","sts_endpoint":"sts.local","region":"",
            "max_retries":-1,"username_template":"","sts_fallback_endpoints":null,"identity_token_ttl":0}"#;
        let root: Root = serde_json::from_str(stored).unwrap();
        assert!(!format!("{root:?}").contains("hush"));
        assert_eq!(root.settings().sts[0].endpoint, "https://sts.local");
        assert_eq!(serde_json::to_value(&root).unwrap()["identity_token_ttl"], json!(0));
    }
}
