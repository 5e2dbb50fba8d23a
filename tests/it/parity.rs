//! The same requests to the built-in engine and to ours, in the same host and the same database, give the same answers
//! and do the same in the catalogue, apart from the differences that docs/differences.md names.

mod catalogue;
mod compare;
mod rows;
mod site;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support;
use crate::support::bao::{Bao, PLUGIN};
use crate::support::client::Client;
use catalogue::Catalogue;
use compare::{Normaliser, differences};
use site::{Maria, OpenSession, PostgreSql, RedisServer, Site};
use table::{Request, Row, Step};

/// The tables, each with the database it is about.
#[derive(Debug, Clone, Copy)]
enum About {
    PostgreSql,
    MariaDb,
    Redis,
}

impl About {
    fn rows(self) -> Vec<Row> {
        match self {
            About::PostgreSql => rows::all(),
            About::MariaDb => rows::mariadb(),
            About::Redis => rows::redis(),
        }
    }

    fn site(self) -> Box<dyn Site> {
        match self {
            About::PostgreSql => Box::new(PostgreSql::start(rows::WORLD)),
            About::MariaDb => Box::new(Maria::start(rows::MARIADB_WORLD)),
            About::Redis => Box::new(RedisServer::start()),
        }
    }

    /// How many requests there are at least, so that no part gets lost.
    fn least(self) -> usize {
        match self {
            About::PostgreSql => 1000,
            About::MariaDb => 270,
            About::Redis => 55,
        }
    }
}

fn holds(about: About, engine: &str) {
    let played = play(about, engine);
    println!("{about:?} {}", played.summary());
    assert!(played.failures.is_empty(), "unexpected differences");
}

/// The promise itself.
#[test]
fn ours_answers_as_the_built_in_engine_does() {
    holds(About::PostgreSql, PLUGIN);
}

#[test]
fn ours_answers_as_the_built_in_engine_does_for_mariadb() {
    holds(About::MariaDb, PLUGIN);
}

#[test]
fn ours_answers_as_the_built_in_engine_does_for_redis() {
    holds(About::Redis, PLUGIN);
}

/// The tables against two mounts of the built-in engine: what differs here is the harness's own fault.
#[test]
#[ignore = "checks the table itself; run it when rows are added"]
fn the_built_in_engine_answers_as_itself() {
    holds(About::PostgreSql, "database");
}

#[test]
#[ignore = "checks the table itself; run it when rows are added"]
fn the_built_in_engine_answers_as_itself_for_mariadb() {
    holds(About::MariaDb, "database");
}

#[test]
#[ignore = "checks the table itself; run it when rows are added"]
fn the_built_in_engine_answers_as_itself_for_redis() {
    holds(About::Redis, "database");
}

/// A permitted difference is described, and what is described is played.
#[test]
fn every_permitted_difference_is_described_and_used() {
    let text = std::fs::read_to_string(support::repository().join("docs/differences.md")).unwrap();
    let described: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let mut used = BTreeSet::new();
    for about in [About::PostgreSql, About::MariaDb, About::Redis] {
        let table = about.rows();
        used.extend(table.iter().filter_map(|row| Some(row.differs?.name)));
        let requests = table.iter().filter(|row| matches!(row.step, Step::Request(_))).count();
        assert!(requests >= about.least(), "only {requests} requests about {about:?}");
    }
    assert_eq!(used, described, "left: names in the tables; right: headings of docs/differences.md");
}

/// What came of the table.
struct Played {
    requests: usize,
    permitted: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

impl Played {
    fn summary(&self) -> String {
        let rows: usize = self.permitted.values().sum();
        let mut text = format!(
            "parity: {} requests to each side, {rows} answers differ as permitted, {} unexpectedly",
            self.requests,
            self.failures.len()
        );
        for (name, count) in &self.permitted {
            write!(text, "\n  {count:3} {name}").unwrap();
        }
        text
    }
}

impl Drop for Played {
    /// What was found is not lost if a later row breaks the test.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.failures.join("\n"));
        }
    }
}

/// Both sides' world.
struct World {
    bao: Bao,
    site: Box<dyn Site>,
}

/// Plays a table with a mount of `engine` as our side. All answers are in `target/tmp/parity-<database>-<engine>.txt`
/// afterwards.
fn play(about: About, engine: &str) -> Played {
    let mut world = World { bao: Bao::start(), site: about.site() };
    if engine == PLUGIN {
        world.bao.register();
    }
    let mut sides = [Side::new("builtin", "database", &world), Side::new("ours", engine, &world)];
    let mut catalogue = Catalogue::new(world.site.as_ref());
    let mut played = Played { requests: 0, permitted: BTreeMap::new(), failures: Vec::new() };
    let mut transcript =
        File::create(format!("{}/parity-{about:?}-{engine}.txt", env!("CARGO_TARGET_TMPDIR"))).unwrap();

    for row in about.rows() {
        match &row.step {
            Step::StopSpare => {
                world.site.stop_spare();
                continue;
            }
            Step::StartSpare => {
                world.site.start_spare();
                continue;
            }
            Step::WaitGone(_) | Step::DropUser(_) => {
                // Nobody asked for it, so the two sides' users go in any order.
                for side in &mut sides {
                    side.play(&row, &world);
                }
                catalogue.changes(world.site.as_ref(), "");
                continue;
            }
            _ => {}
        }
        let [builtin, ours] = sides.each_mut().map(|side| {
            let outcome = side.play(&row, &world);
            let renewed = renewed(&row).map(|name| side.user(name)).unwrap_or_default();
            let changes =
                if touches_users(&row) { catalogue.changes(world.site.as_ref(), &renewed) } else { Value::Null };
            side.common(&json!({ "answer": outcome, "catalogue": changes }))
        });
        if matches!(row.step, Step::Request(_)) {
            played.requests += 1;
        }
        writeln!(transcript, "{}\n  builtin {builtin}\n  ours    {ours}", describe(&row, "")).unwrap();
        let slack: &[&str] = if renewed(&row).is_some() { &["lease_duration"] } else { &[] };
        let found = differences(&builtin, &ours, slack);
        match (row.differs.filter(|_| engine == PLUGIN), found.is_empty()) {
            (None, true) => {}
            (None, false) => played.failures.push(describe(&row, &found.join("\n    "))),
            (Some(permitted), true) => {
                played.failures.push(describe(&row, &format!("no longer differs: strike {:?}", permitted.name)));
            }
            (Some(permitted), false) => {
                *played.permitted.entry(permitted.name).or_default() += 1;
                let status = ours["answer"]["status"].as_u64().unwrap_or(0);
                if status != u64::from(permitted.status) || !ours.to_string().contains(permitted.holds) {
                    let what = format!(
                        "differs, but not as {:?} permits: want {} and {:?}, have {ours}",
                        permitted.name, permitted.status, permitted.holds
                    );
                    played.failures.push(describe(&row, &what));
                }
            }
        }
    }
    played
}

/// One mount and what has been saved of its answers.
struct Side {
    client: Client,
    normaliser: Normaliser,
    /// Texts by placeholder, such as `{lease:one}`.
    saved: BTreeMap<String, String>,
    sessions: BTreeMap<&'static str, Box<dyn OpenSession>>,
}

impl Side {
    fn new(mount: &'static str, engine: &str, world: &World) -> Side {
        world.bao.mount(mount, engine);
        let places = world.site.placeholders().into_iter().map(|(name, value)| (name.to_owned(), value));
        let saved = places.chain([("{mount}".to_owned(), mount.to_owned())]).collect();
        Side { client: world.bao.client(), normaliser: Normaliser::new(mount), saved, sessions: BTreeMap::new() }
    }

    /// Plays one row on this side and gives what is to be compared.
    fn play(&mut self, row: &Row, world: &World) -> Value {
        match &row.step {
            Step::Request(request) => self.send(request),
            Step::Sql(sql) => {
                let sql = self.fill(sql);
                world.site.run(&sql).unwrap_or_else(|error| panic!("{}: {error}\nin: {sql}", row.place));
                Value::Null
            }
            Step::DropUser(name) => {
                world.site.drop_user(&self.user(name));
                Value::Null
            }
            Step::Login(name) => {
                let opened = world.site.login(&self.user(name), &self.password(name));
                json!(if opened { "logged in" } else { "refused" })
            }
            Step::OpenSession(name) => {
                let mut session = world.site.session(&self.user(name), &self.password(name));
                assert!(session.lives(), "{}", row.place);
                self.sessions.insert(name, session);
                Value::Null
            }
            Step::SessionLives(name) => {
                let lives = self.sessions.get_mut(name).is_some_and(|session| session.lives());
                json!(if lives { "session lives" } else { "session ended" })
            }
            Step::WaitGone(name) => {
                let user = self.user(name);
                support::wait_for("user gone", Duration::from_secs(20), || (!world.site.has_user(&user)).then_some(()));
                Value::Null
            }
            Step::StopSpare | Step::StartSpare => unreachable!("not of one side"),
        }
    }

    fn send(&mut self, request: &Request) -> Value {
        let client = match request.token {
            Some(name) => {
                self.client.with_token(self.saved.get(&format!("{{token:{name}}}")).map_or(name, String::as_str))
            }
            None => self.client.clone(),
        };
        let body = request.body.as_ref().map(|body| self.fill_value(body));
        let answer = client.request_with(request.method, &self.fill(&request.path), body.as_ref(), &request.headers);
        if let Some(name) = request.save {
            let body = &answer.body;
            for (kind, value) in [
                ("lease", &body["lease_id"]),
                ("user", &body["data"]["username"]),
                ("password", &body["data"]["password"]),
                ("token", &body["auth"]["client_token"]),
                ("token", &body["wrap_info"]["token"]),
            ] {
                if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
                    self.saved.insert(format!("{{{kind}:{name}}}"), text.to_owned());
                }
            }
        }
        json!({ "status": answer.status, "body": answer.body })
    }

    fn user(&self, name: &str) -> String {
        self.saved.get(&format!("{{user:{name}}}")).cloned().unwrap_or_default()
    }

    fn password(&self, name: &str) -> String {
        self.saved.get(&format!("{{password:{name}}}")).cloned().unwrap_or_default()
    }

    fn fill(&self, text: &str) -> String {
        self.saved.iter().fold(text.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value))
    }

    fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(list) => Value::Array(list.iter().map(|value| self.fill_value(value)).collect()),
            Value::Object(map) => {
                Value::Object(map.iter().map(|(key, value)| (key.clone(), self.fill_value(value))).collect())
            }
            other => other.clone(),
        }
    }

    fn common(&self, outcome: &Value) -> Value {
        self.normaliser.value("", outcome)
    }
}

fn touches_users(row: &Row) -> bool {
    match &row.step {
        Step::Request(request) => {
            ["/creds/", "sys/leases/", "/static-", "/rotate-"].iter().any(|part| request.path.contains(part))
        }
        Step::Sql(_) => true,
        _ => false,
    }
}

/// The name under which the lease was saved that a row renews.
fn renewed(row: &Row) -> Option<&str> {
    let Step::Request(request) = &row.step else { return None };
    let after = request.path.strip_prefix("sys/leases/renew")?;
    let lease = after.strip_prefix('/').or_else(|| request.body.as_ref()?["lease_id"].as_str())?;
    lease.strip_prefix("{lease:")?.strip_suffix('}')
}

fn describe(row: &Row, what: &str) -> String {
    let step = match &row.step {
        Step::Request(request) => {
            let body = request.body.as_ref().map(Value::to_string).unwrap_or_default();
            format!("{} {} {body}", request.method, request.path)
        }
        Step::Sql(sql) => sql.clone(),
        Step::Login(name) => format!("login as {name}"),
        Step::SessionLives(name) => format!("session of {name}"),
        _ => String::new(),
    };
    format!("{}: {step} ({})\n    {what}", row.place, row.note)
}
