//! Username templates: Go's `text/template` with the functions that the host adds to it.
//!
//! Whatever the text, parsing and rendering end soon, use little memory and never panic: a template is written by an
//! operator, but its run must not be able to take the process with it.

mod function;
mod prepare;
mod scan;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use gotmpl::{FuncMap, MissingKey, Value, ValueFunc};

use function::{CallError, Parameter, Source};
use prepare::{GUARD, Place, Prepared, SHOW, Site, site_name};

pub use function::glob;

/// The default of `postgresql-database-plugin`.
pub const POSTGRESQL: &str = r#"{{ printf "v-%s-%s-%s-%s" (.DisplayName | truncate 8) (.RoleName | truncate 8) (random 20) (unix_time) | truncate 63 }}"#;

/// The default of `mysql-database-plugin`.
pub const MYSQL: &str = r#"{{ printf "v-%s-%s-%s-%s" (.DisplayName | truncate 10) (.RoleName | truncate 10) (random 20) (unix_time) | truncate 32 }}"#;

/// The default of `mysql-aurora-`, `mysql-rds-` and `mysql-legacy-database-plugin`.
pub const MYSQL_LEGACY: &str = r#"{{ printf "v-%s-%s" (.RoleName | truncate 4) (random 20) | truncate 16 }}"#;

/// The name of a `valkey-` or `redis-database-plugin` user, which the built-in engine makes without a template.
pub const REDIS: &str = r#"{{ printf "V_%s_%s_%s_%s" (.DisplayName | truncate 64) (.RoleName | truncate 64) (random 20) (unix_time) | uppercase | truncate 100 }}"#;

/// The longest template, in bytes.
const MAX_TEXT: usize = 4096;
/// The longest value within a template, and the longest result, in bytes.
const MAX_VALUE: usize = 8192;
/// How many commands a run may execute, and how many times its loops may turn.
const MAX_STEPS: u32 = 2000;
/// Random bytes that a run is first given, and the most that it may ask for.
const RANDOM_BYTES: (usize, usize) = (64, 16 * 1024);

/// The name of the template in Go's errors.
const NAME: &str = "template";
/// The type of the data in Go's errors.
const DATA_TYPE: &str = "dbplugin.UsernameMetadata";

/// What a username, or the common name of a certificate, is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names<'a> {
    /// The display name of the token that asks: `.DisplayName`.
    pub display_name: &'a str,
    /// The role: `.RoleName`.
    pub role_name: &'a str,
    /// The user, where it has a name already: `.Username`. Without one the field does not exist.
    pub username: Option<&'a str>,
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes")]
pub struct NoEntropy;

/// Where random bytes come from. They must be fit for secrets.
pub trait Entropy {
    /// Fills the whole buffer.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy>;
}

impl<F: FnMut(&mut [u8]) -> Result<(), NoEntropy>> Entropy for F {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        self(buffer)
    }
}

/// The operating system's random bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
        crate::secret::password::fill(buffer).map_err(|_| NoEntropy)
    }
}

/// Why a text is no template, or a template gave no username. After the prefix, the text is Go's where it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text does not parse.
    #[error("unable to parse template: {0}")]
    Parse(String),
    /// The template does not run.
    #[error("unable to apply template: {0}")]
    Apply(String),
    /// The template needs random bytes and there are none.
    #[error("unable to apply template: {0}")]
    Entropy(#[from] NoEntropy),
}

/// Why a template was refused when it was written. The texts are those of the built-in engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The text does not parse.
    #[error("unable to initialize username template: {0}")]
    Initialize(TemplateError),
    /// It does not run.
    #[error("invalid username template: {0}")]
    Invalid(TemplateError),
}

/// A parsed template. It keeps no state between renderings.
pub struct Template {
    prepared: Arc<Prepared>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("sites", &self.prepared.sites.len()).finish()
    }
}

impl Template {
    /// Parses a template of at most 4096 bytes.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEXT {
            return Err(TemplateError::Parse(format!("template: {NAME}: longer than {MAX_TEXT} bytes")));
        }
        scan::scan(text).map_err(|e| TemplateError::Parse(format!("template: {NAME}:{}: {}", e.line, e.message)))?;
        match catch_unwind(|| prepare::prepare(NAME, text)) {
            Ok(prepared) => Ok(Self { prepared: Arc::new(prepared.map_err(TemplateError::Parse)?) }),
            Err(_) => Err(TemplateError::Parse(format!("template: {NAME}: the parser failed"))),
        }
    }

    /// Parses a template and runs it once with empty names, as the host does when a connection is written.
    pub fn checked(text: &str, entropy: &mut dyn Entropy, now: SystemTime) -> Result<Self, CheckError> {
        let template = Self::parse(text).map_err(CheckError::Initialize)?;
        template.render(&Names::default(), entropy, now).map_err(CheckError::Invalid)?;
        Ok(template)
    }

    /// Makes a username of at most 8192 bytes.
    pub fn render(
        &self,
        names: &Names<'_>,
        entropy: &mut dyn Entropy,
        now: SystemTime,
    ) -> Result<String, TemplateError> {
        let fields = [("DisplayName", names.display_name), ("RoleName", names.role_name)];
        let fields: Vec<_> = fields.into_iter().chain(names.username.map(|name| ("Username", name))).collect();
        self.render_fields(&fields, entropy, now)
    }

    /// The same with other fields than [`Names`] has.
    pub fn render_fields(
        &self,
        fields: &[(&str, &str)],
        entropy: &mut dyn Entropy,
        now: SystemTime,
    ) -> Result<String, TemplateError> {
        let mut random = Vec::new();
        let (mut wanted, most) = RANDOM_BYTES;
        // A run that used up its bytes begins again with the same ones and more of them.
        loop {
            let start = random.len();
            random.resize(wanted, 0);
            entropy.fill(&mut random[start..])?;
            let run = Arc::new(Mutex::new(Run { random, drawn: 0, steps: 0, now, failure: None }));
            let result = self.execute(fields, &run);
            let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
            match run.failure.take() {
                Some(Failure::Hungry) if wanted < most => {
                    random = std::mem::take(&mut run.random);
                    wanted *= 2;
                }
                Some(Failure::Hungry) => return Err(TemplateError::Apply(general("too much randomness"))),
                Some(Failure::Text(text)) => return Err(TemplateError::Apply(text)),
                None => return result.map_err(|text| TemplateError::Apply(general(&text))),
            }
        }
    }

    /// Runs the template once. What our own functions complained about is in `run`, what the engine did is the error.
    fn execute(&self, fields: &[(&str, &str)], run: &Arc<Mutex<Run>>) -> Result<String, String> {
        let mut template = gotmpl::Template::new(NAME)
            .missing_key(MissingKey::Error)
            .max_range_iters(u64::from(MAX_STEPS))
            .funcs(self.functions(run));
        for (name, body) in &self.prepared.defines {
            template = template.add_parse_tree(name, body.clone());
        }
        if !self.prepared.main.is_empty_tree() || template.lookup(NAME).is_none() {
            template = template.add_parse_tree(NAME, self.prepared.main.clone());
        }
        let data: BTreeMap<Arc<str>, Value> =
            fields.iter().map(|(key, text)| ((*key).into(), Value::String((*text).into()))).collect();
        let mut out = Limited(String::new());
        let done = catch_unwind(AssertUnwindSafe(|| {
            template.execute_template_fmt(&mut out, NAME, &Value::Map(Arc::new(data)))
        }));
        match done {
            Ok(Ok(())) => Ok(out.0),
            Ok(Err(gotmpl::TemplateError::Write)) => Err(too_long()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the template engine failed".to_owned()),
        }
    }

    fn functions(&self, run: &Arc<Mutex<Run>>) -> FuncMap {
        let mut functions = FuncMap::new();
        let guarded = Arc::clone(run);
        let guard: ValueFunc = Arc::new(move |args| lock(&guarded, |run| run.guard(args)));
        functions.insert(GUARD.to_owned(), guard);
        functions.insert(SHOW.to_owned(), Arc::new(|args| Ok(show(args.first().unwrap_or(&Value::Nil)))));
        for index in 0..self.prepared.sites.len() {
            let (prepared, run) = (Arc::clone(&self.prepared), Arc::clone(run));
            let answer: ValueFunc = Arc::new(move |args| {
                lock(&run, |run| match prepared.sites.get(index) {
                    Some(site) => run.answer(site, args, &prepared),
                    None => Err(Failure::Text(general("no such site"))),
                })
            });
            functions.insert(site_name(index), answer);
        }
        functions
    }
}

/// The state of one run.
struct Run {
    random: Vec<u8>,
    drawn: usize,
    steps: u32,
    now: SystemTime,
    failure: Option<Failure>,
}

enum Failure {
    /// More random bytes, please.
    Hungry,
    /// The complete text.
    Text(String),
}

/// Answers through the run and leaves a failure in it, where the engine cannot reword it.
fn lock(
    run: &Mutex<Run>,
    answer: impl FnOnce(&mut Run) -> Result<Value, Failure>,
) -> Result<Value, gotmpl::TemplateError> {
    let mut run = run.lock().unwrap_or_else(PoisonError::into_inner);
    answer(&mut run).map_err(|failure| {
        run.failure = Some(failure);
        gotmpl::TemplateError::Write
    })
}

impl Run {
    fn guard(&mut self, args: &[Value]) -> Result<Value, Failure> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Failure::Text(general(&format!("more than {MAX_STEPS} steps"))));
        }
        match args {
            [Value::String(text)] if text.len() > MAX_VALUE => Err(Failure::Text(general(&too_long()))),
            [value] => Ok(value.clone()),
            _ => Ok(Value::String("".into())),
        }
    }

    fn answer(&mut self, site: &Site, args: &[Value], prepared: &Prepared) -> Result<Value, Failure> {
        match site {
            Site::Call { function, place, arguments } => {
                let parameters = function.parameters();
                if args.len() != parameters.len() {
                    let (name, want, got) = (function.name(), parameters.len(), args.len());
                    let place = Place { at: place.at.clone(), node: name.to_owned() };
                    return Err(at(&place, &format!("wrong number of args for {name}: want {want} got {got}")));
                }
                for (index, (parameter, value)) in parameters.iter().zip(args).enumerate() {
                    // A value that came through the pipe has no place of its own.
                    let argument = arguments.get(index);
                    if let Some(wrong) = mismatch(*parameter, value, argument) {
                        return Err(at(argument.map_or(place, |argument| &argument.place), &wrong));
                    }
                }
                let mut source = Source { random: &self.random, drawn: &mut self.drawn, now: self.now };
                function.call(args, &mut source).map_err(|error| match error {
                    CallError::Hungry => Failure::Hungry,
                    error => at(place, &format!("error calling {}: {error}", function.name())),
                })
            }
            Site::Field { names, place } => {
                let mut value = args.first().cloned().unwrap_or(Value::Nil);
                for name in names {
                    let next = match &value {
                        Value::Map(map) => map.get(name.as_str()).cloned(),
                        _ => None,
                    };
                    value = next.ok_or_else(|| {
                        at(place, &format!("can't evaluate field {name} in type {}", type_name(&value)))
                    })?;
                }
                Ok(value)
            }
            Site::Template { name, place } => {
                if name == NAME || prepared.defines.iter().any(|(defined, _)| defined == name) {
                    return Ok(Value::String("".into()));
                }
                Err(at(place, &format!("template {name:?} not defined")))
            }
        }
    }
}

/// What Go says about an argument of the wrong type.
fn mismatch(parameter: Parameter, value: &Value, argument: Option<&prepare::Argument>) -> Option<String> {
    let (go_type, constant, fits) = match parameter {
        Parameter::Int => ("int", "integer", function::integer(value).is_some()),
        Parameter::Text => ("string", "string", matches!(value, Value::String(_))),
    };
    match (fits, value, argument) {
        (true, _, _) => None,
        (_, Value::Nil, _) => Some(format!("cannot assign nil to {go_type}")),
        (_, _, Some(argument)) if argument.literal => {
            Some(format!("expected {constant}; found {}", argument.place.node))
        }
        _ => Some(format!("wrong type for value; expected {go_type}; got {}", type_name(value))),
    }
}

/// The data as Go prints it, and every other value as it is.
fn show(value: &Value) -> Value {
    match value {
        Value::Map(data) => {
            let texts: Vec<&str> = data.values().filter_map(Value::as_str).collect();
            Value::String(format!("{{{}}}", texts.join(" ")).into())
        }
        other => other.clone(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Map(_) => DATA_TYPE,
        other => other.type_name(),
    }
}

/// An error at a place.
fn at(place: &Place, message: &str) -> Failure {
    Failure::Text(format!("template: {NAME}:{}: executing \"{NAME}\" at <{}>: {message}", place.at, place.node))
}

/// An error whose place is not known.
fn general(message: &str) -> String {
    let message = message.strip_prefix("execution error: ").unwrap_or(message);
    format!("template: {NAME}: executing \"{NAME}\": {message}")
}

fn too_long() -> String {
    format!("a value is longer than {MAX_VALUE} bytes")
}

/// Text that refuses to grow beyond [`MAX_VALUE`].
struct Limited(String);

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_VALUE {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
