//! The server, through its own command line program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value};

/// What the program ends with when there is nothing at a path.
const NOTHING: i32 = 2;

/// The server.
pub struct Host {
    program: PathBuf,
}

impl Host {
    /// Asks nobody yet.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned() }
    }

    /// Runs the program; what it is to read goes to its standard input, never into an argument.
    fn run(&self, arguments: &[&str], input: Option<&Map<String, Value>>) -> Result<Output, String> {
        let named =
            |e: std::io::Error| format!("{}: {e}; --program names the server's program", self.program.display());
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(named)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            let text = serde_json::to_string(input).map_err(|_| "cannot encode a request")?;
            stdin.write_all(text.as_bytes()).map_err(named)?;
        }
        child.wait_with_output().map_err(named)
    }

    /// The answer; `None` if there is nothing at the path.
    fn ask(&self, arguments: &[&str], input: Option<&Map<String, Value>>) -> Result<Option<Value>, String> {
        let output = self.run(arguments, input)?;
        if output.status.code() == Some(NOTHING) && is_nothing(&output) {
            return Ok(None);
        }
        if !output.status.success() {
            return Err(said(&output));
        }
        if output.stdout.is_empty() {
            return Ok(Some(Value::Null));
        }
        let path = arguments.last().copied().unwrap_or_default();
        serde_json::from_slice(&output.stdout).map(Some).map_err(|_| format!("{path}: the answer is no JSON"))
    }

    /// What a read shows.
    pub fn read(&self, path: &str) -> Result<Option<Map<String, Value>>, String> {
        let answer = self.ask(&["read", "-format=json", path], None)?;
        Ok(answer.and_then(|mut answer| match answer["data"].take() {
            Value::Object(data) => Some(data),
            _ => None,
        }))
    }

    /// The names at a path.
    pub fn list(&self, path: &str) -> Result<Vec<String>, String> {
        let answer = self.ask(&["list", "-format=json", path], None)?;
        let names = answer.and_then(|answer| serde_json::from_value(answer).ok());
        Ok(names.unwrap_or_default())
    }

    /// Writes.
    pub fn write(&self, path: &str, fields: &Map<String, Value>) -> Result<(), String> {
        let answer = self.ask(&["write", "-format=json", path, "-"], Some(fields))?;
        answer.map(drop).ok_or_else(|| format!("{path}: there is no such path"))
    }

    /// Deletes.
    pub fn delete(&self, path: &str) -> Result<(), String> {
        let output = self.run(&["delete", path], None)?;
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    }

    /// What is mounted at a path.
    pub fn mount_type(&self, path: &str) -> Result<Option<String>, String> {
        let mounts = self.ask(&["secrets", "list", "-format=json"], None)?.unwrap_or_default();
        Ok(mounts[format!("{path}/")]["type"].as_str().map(str::to_owned))
    }

    /// How many roles of a mount have leases.
    pub fn leases(&self, mount: &str) -> Result<usize, String> {
        let roles = self.list(&format!("sys/leases/lookup/{mount}/creds"))?;
        Ok(roles.len())
    }

    /// Moves a mount, and waits until it is there.
    pub fn relocate(&self, from: &str, to: &str) -> Result<(), String> {
        let output = self.run(&["secrets", "move", &format!("{from}/"), &format!("{to}/")], None)?;
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    }
}

fn is_nothing(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    output.stdout.trim_ascii() == b"{}" || text.contains("No value found") || text.contains("Code: 404")
}

/// The server's own words, in one line.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
