//! Servers that behave like AWS, each of one's own, and a small signing client that is nobody's SDK.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use ureq::Agent;

use super::server::Server;

/// A key, and a token if it is a session's.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: String,
    pub secret: String,
    pub token: String,
}

impl Key {
    pub fn new(id: &str, secret: &str) -> Key {
        Key { id: id.to_owned(), secret: secret.to_owned(), token: String::new() }
    }

    /// What an engine answered.
    pub fn of(data: &Value) -> Key {
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        Key { id: text("access_key"), secret: text("secret_key"), token: text("security_token") }
    }
}

/// An answer of a service.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The text of the first element of that name.
    pub fn element(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    }

    pub fn ok(&self) -> bool {
        self.status == 200
    }

    /// True if it says that the caller may not do that.
    pub fn is_denied(&self) -> bool {
        self.status == 403 && self.body.contains("AccessDenied")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    MiniStack,
    Moto,
}

/// A running server.
pub struct Aws {
    kind: Kind,
    server: Server,
    port: u16,
    agent: Agent,
    dir: TempDir,
}

impl Aws {
    /// MiniStack, which judges every request by the policies of who asks. A version that did not would let every test pass,
    /// so it is looked at first.
    pub fn ministack() -> Aws {
        let aws = Aws::start(Kind::MiniStack);
        let nobody = Key::new("AKIABOGUS", "bogus");
        let refused = aws.iam(&nobody, "ListUsers", &[]);
        assert_eq!(refused.status, 403, "a bogus key is refused: {}", refused.body);
        let denied = aws.user("sanity", &[("deny", DENY_ALL)]);
        assert!(aws.iam(&denied, "ListUsers", &[]).is_denied(), "an unconditional deny is obeyed");
        aws
    }

    /// Moto, which counts keys as AWS does.
    pub fn moto() -> Aws {
        let aws = Aws::start(Kind::Moto);
        aws.enforce(false);
        aws
    }

    /// Whether Moto looks at keys. Nobody could make the first one if it always did.
    pub fn enforce(&self, enforce: bool) {
        let calls = if enforce { "0" } else { "inf" };
        self.raw("POST", "/moto-api/reset-auth", &[("content-type", "text/plain")], calls);
    }

    fn start(kind: Kind) -> Aws {
        let dir = tempfile::Builder::new().prefix("leasehold-aws-").tempdir().unwrap();
        let home = dir.path().to_string_lossy().into_owned();
        for _ in 0..5 {
            let port = super::free_port();
            let number = port.to_string();
            let environment = [
                ("HOME", home.as_str()),
                ("TMPDIR", &home),
                ("AUTH", "true"),
                ("BIND_HOST", "127.0.0.1"),
                ("GATEWAY_PORT", &number),
                ("CLOUDTRAIL_RECORDING", "1"),
            ];
            let cache = super::repository().join(".cache");
            let command: Vec<OsString> = match kind {
                Kind::MiniStack => vec![cache.join("ministack/bin/ministack").into()],
                Kind::Moto => {
                    let program = cache.join("moto/bin/moto_server");
                    vec![program.into(), "-H".into(), "127.0.0.1".into(), "-p".into(), number.clone().into()]
                }
            };
            let program = std::path::Path::new(&command[0]);
            assert!(program.exists(), "{} is missing: run scripts/setup", program.display());
            let server = Server::start("AWS", &command, &environment, "KILL", &dir.path().join("log"));
            let agent = Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(60)))
                .build()
                .into();
            let aws = Aws { kind, server, port, agent, dir: tempfile::tempdir().unwrap() };
            if aws.ready() {
                return Aws { dir, ..aws };
            }
            eprintln!("{kind:?} did not start:\n{}", aws.server.log());
        }
        panic!("{kind:?} does not start");
    }

    fn ready(&self) -> bool {
        let path = match self.kind {
            Kind::MiniStack => "/_ministack/health",
            Kind::Moto => "/moto-api/data.json",
        };
        for _ in 0..1500 {
            if self.server.ended() {
                return false;
            }
            let url = format!("{}{path}", self.url());
            if self.agent.get(&url).call().is_ok_and(|answer| answer.status() == 200) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The account that everything is in unless a test says otherwise.
    pub fn account(&self) -> &'static str {
        match self.kind {
            Kind::MiniStack => "000000000000",
            Kind::Moto => "123456789012",
        }
    }

    /// Who may do everything.
    pub fn root(&self) -> Key {
        Key::new("test", "test")
    }

    /// A role's ARN in the account.
    pub fn role_arn(&self, name: &str) -> String {
        format!("arn:aws:iam::{}:role/{name}", self.account())
    }

    /// One call of IAM.
    pub fn iam(&self, key: &Key, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.query(key, "iam", "2010-05-08", action, parameters)
    }

    /// One call of STS.
    pub fn sts(&self, key: &Key, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.query(key, "sts", "2011-06-15", action, parameters)
    }

    /// One call of SQS.
    pub fn sqs(&self, key: &Key, action: &str, parameters: &[(&str, &str)]) -> Answer {
        self.query(key, "sqs", "2012-11-05", action, parameters)
    }

    /// One call of IAM as root that must succeed.
    #[track_caller]
    pub fn admin(&self, action: &str, parameters: &[(&str, &str)]) -> Answer {
        let answer = self.iam(&self.root(), action, parameters);
        assert!(answer.ok(), "{action}: {}", answer.body);
        answer
    }

    /// A user with a key and these inline policies.
    pub fn user(&self, name: &str, policies: &[(&str, &str)]) -> Key {
        self.admin("CreateUser", &[("UserName", name)]);
        for (policy, document) in policies {
            let parameters = [("UserName", name), ("PolicyName", policy), ("PolicyDocument", document)];
            self.admin("PutUserPolicy", &parameters);
        }
        let made = self.admin("CreateAccessKey", &[("UserName", name)]);
        Key::new(made.element("AccessKeyId").unwrap(), made.element("SecretAccessKey").unwrap())
    }

    /// A role that may do everything, with this trust policy.
    pub fn role(&self, name: &str, trust: &str) -> String {
        self.admin("CreateRole", &[("RoleName", name), ("AssumeRolePolicyDocument", trust)]);
        self.admin("PutRolePolicy", &[("RoleName", name), ("PolicyName", "all"), ("PolicyDocument", ALLOW_ALL)]);
        self.role_arn(name)
    }

    /// A document that IAM has, `None` if there is none of that name.
    pub fn role_policy(&self, role: &str, policy: &str) -> Option<Value> {
        let answer = self.iam(&self.root(), "GetRolePolicy", &[("RoleName", role), ("PolicyName", policy)]);
        if !answer.ok() {
            return None;
        }
        let text = answer.element("PolicyDocument").unwrap().replace("&quot;", "\"");
        let text = percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned();
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Lists the buckets, as an application would.
    pub fn s3(&self, key: &Key) -> Answer {
        self.signed(key, "s3", "GET", "/", "", &[])
    }

    /// What MiniStack has recorded of the last calls, parameters and all.
    pub fn recorded(&self) -> String {
        let target = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents";
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
        self.signed(&self.root(), "cloudtrail", "POST", "/", "{}", &headers).body
    }

    /// Who a key is, or why it is nobody.
    pub fn whoami(&self, key: &Key) -> Result<String, String> {
        let answer = self.sts(key, "GetCallerIdentity", &[]);
        answer.element("Arn").map(str::to_owned).filter(|_| answer.ok()).ok_or(answer.body)
    }

    fn query(&self, key: &Key, service: &str, version: &str, action: &str, parameters: &[(&str, &str)]) -> Answer {
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in parameters {
            write!(body, "&{}={}", encode(name), encode(value)).unwrap();
        }
        let form = [("content-type", "application/x-www-form-urlencoded")];
        self.signed(key, service, "POST", "/", &body, &form)
    }

    /// A request with a version 4 signature.
    fn signed(&self, key: &Key, service: &str, method: &str, path: &str, body: &str, more: &[(&str, &str)]) -> Answer {
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let (date, host) = (&stamp[..8], format!("127.0.0.1:{}", self.port));
        let digest = hex(&Sha256::digest(body));
        let mut headers = vec![("host", host.as_str()), ("x-amz-content-sha256", &digest), ("x-amz-date", &stamp)];
        if !key.token.is_empty() {
            headers.push(("x-amz-security-token", &key.token));
        }
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{digest}");
        let scope = format!("{date}/us-east-1/{service}/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut signing = format!("AWS4{}", key.secret).into_bytes();
        for part in [date, "us-east-1", service, "aws4_request", &to_sign] {
            signing = mac(&signing, part);
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            key.id,
            hex(&signing)
        );
        let mut headers: Vec<(&str, &str)> = headers[1..].to_vec();
        headers.push(("authorization", &authorization));
        headers.extend(more);
        self.raw(method, path, &headers, body)
    }

    fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = match method {
            "GET" => self.agent.run(request.body(()).unwrap()).unwrap(),
            _ => self.agent.run(request.body(body.to_owned()).unwrap()).unwrap(),
        };
        Answer { status: answer.status().as_u16(), body: answer.body_mut().read_to_string().unwrap() }
    }
}

/// Everything, for whoever has it.
pub const ALLOW_ALL: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
/// Nothing at all.
pub const DENY_ALL: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;
/// A trust policy: the account may do everything that has to do with a session of the role.
pub const TRUST_ALL: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},
    "Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"]}]}"#;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn encode(text: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}
