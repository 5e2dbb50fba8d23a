//! A PostgreSQL server of one's own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::server::{Server, as_user, unprivileged};

/// The superuser that connections are configured with.
pub const ADMIN: &str = "vaultadmin";
/// Its password.
pub const ADMIN_PASSWORD: &str = "rootpw";

/// A cluster in a directory of its own: TCP on a free loopback port with SCRAM, and a unix socket that trusts.
pub struct Postgres {
    server: Option<Server>,
    programs: PathBuf,
    port: u16,
    settings: &'static [&'static str],
    dir: TempDir,
}

/// For tests: nothing here has to outlive the machine, and everything that is said to the server can be read.
const QUICK_AND_OPEN: &[&str] = &["fsync=off", "full_page_writes=off", "max_connections=200", "log_statement=all"];

impl Postgres {
    /// A fresh cluster, accepting connections.
    pub fn start() -> Postgres {
        Postgres::start_with(QUICK_AND_OPEN)
    }

    /// A fresh cluster with these settings (`name=value`) and otherwise the server's own.
    pub fn start_with(settings: &'static [&'static str]) -> Postgres {
        let programs = programs();
        let dir = tempfile::Builder::new().prefix("leasehold-pg-").tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, ADMIN_PASSWORD).unwrap();
        if let Some((uid, gid)) = unprivileged("postgres") {
            for path in [dir.path(), &password] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let mut initdb = as_user("postgres", &programs.join("initdb"));
        initdb.extend(
            [
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "-U",
                ADMIN,
            ]
            .map(OsString::from),
        );
        initdb.extend(["--pwfile".into(), password.into(), "-D".into(), dir.path().join("data").into()]);
        check(Command::new(&initdb[0]).args(&initdb[1..]).output().unwrap());

        let mut postgres = Postgres { server: None, programs, port: 0, settings, dir };
        for _ in 0..5 {
            postgres.port = super::free_port();
            if postgres.launch() {
                return postgres;
            }
        }
        panic!("PostgreSQL does not start:\n{}", std::fs::read_to_string(postgres.log_file()).unwrap_or_default());
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server; its sessions are its children.
    pub fn pid(&self) -> Pid {
        self.server.as_ref().expect("running").pid()
    }

    /// A connection URL as an operator writes it, without user and password.
    pub fn url(&self) -> String {
        format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// All the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs SQL as the superuser and gives what `psql` prints, unaligned and without headers.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }

    /// As [`Postgres::sql`], with the server's error text.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        text(self.psql(ADMIN, "", &self.dir.path().to_string_lossy(), "postgres", sql))
    }

    /// The major version of the server.
    pub fn version(&self) -> u32 {
        self.sql("SELECT current_setting('server_version_num')::int / 10000").parse().unwrap()
    }

    /// Waits until no session but that of the question is open, nor closing.
    pub fn wait_until_idle(&self) {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                      AND pid <> pg_backend_pid() AND application_name = 'psql'";
        for _ in 0..1000 {
            if self.sql(others) == "0" {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("sessions stay open");
    }

    /// The one JSON value that a query gives.
    pub fn json(&self, sql: &str) -> Value {
        serde_json::from_str(&self.sql(sql)).unwrap()
    }

    /// Logs in over TCP with a password, as an application would, and runs SQL.
    pub fn login(&self, user: &str, password: &str, sql: &str) -> Result<String, String> {
        text(self.psql(user, password, "127.0.0.1", "postgres", sql))
    }

    /// A session that stays open until it is dropped.
    pub fn session(&self, user: &str, password: &str) -> Session {
        let mut psql = self
            .client(user, password, "127.0.0.1", "postgres")
            .args(["-v", "ON_ERROR_STOP=0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = psql.stdin.take().unwrap();
        let output = BufReader::new(psql.stdout.take().unwrap());
        Session { psql, input: Some(input), output }
    }

    /// Stops the server; the directory and the port stay.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts a stopped server again, on the same port.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "already running");
        for _ in 0..50 {
            if self.launch() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("PostgreSQL does not start again on port {}:\n{}", self.port, self.log());
    }

    /// Stops answering without closing anything (SIGSTOP to the server and its sessions), until [`Postgres::thaw`].
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Undoes [`Postgres::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let server = self.server.as_ref().expect("running");
        server.signal(signal);
        let pid = server.pid().as_raw_nonzero();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|c| Pid::from_raw(c.parse().ok()?)) {
            let _ = rustix::process::kill_process(child, signal);
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// False if the server ended before it was ready (the port is taken, most of all).
    fn launch(&mut self) -> bool {
        let mut command = as_user("postgres", &self.programs.join("postgres"));
        command.extend(["-D".into(), self.dir.path().join("data").into()]);
        command.extend(["-k".into(), self.dir.path().into()]);
        command.extend(["-p".into(), self.port.to_string().into(), "-h".into(), "127.0.0.1".into()]);
        for setting in self.settings {
            command.extend(["-c".into(), (*setting).into()]);
        }
        let server = Server::start("PostgreSQL", &command, &[("LC_ALL", "C")], "QUIT", &self.log_file());
        for _ in 0..3000 {
            if server.ended() {
                return false;
            }
            let ready = Command::new(self.programs.join("pg_isready"))
                .args(["-q", "-U", ADMIN, "-d", "postgres", "-p", &self.port.to_string(), "-h"])
                .arg(self.dir.path())
                .status();
            if ready.is_ok_and(|status| status.success()) {
                self.server = Some(server);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn client(&self, user: &str, password: &str, host: &str, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-h", host, "-p", &self.port.to_string(), "-U", user, "-d", database])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "5")
            .stderr(Stdio::piped());
        if user == ADMIN {
            // What the tests do themselves is not part of the log that they read.
            psql.env("PGOPTIONS", "-c client_min_messages=warning -c log_statement=none");
        }
        psql
    }

    fn psql(&self, user: &str, password: &str, host: &str, database: &str, sql: &str) -> Output {
        // Through standard input, not `-c`: several statements are then not one implicit transaction.
        let mut psql = self
            .client(user, password, host, database)
            .args(["-v", "ON_ERROR_STOP=1", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("psql: {error}; run scripts/setup"));
        let _ = psql.stdin.take().unwrap().write_all(sql.as_bytes());
        psql.wait_with_output().unwrap()
    }
}

/// An open session of one user.
pub struct Session {
    psql: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Runs one statement that gives one line; `None` when the session is dead or the statement gave an error.
    pub fn one(&mut self, sql: &str) -> Option<String> {
        writeln!(self.input.as_mut()?, "{sql};\n\\echo --end").ok()?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim_end() == "--end" {
                return lines.pop();
            }
            lines.push(line.trim_end().to_owned());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}

/// Where the server programs are: Debian does not put them on the path. `POSTGRES_PROGRAMS` names those of another
/// version.
fn programs() -> PathBuf {
    if let Some(chosen) = std::env::var_os("POSTGRES_PROGRAMS") {
        return chosen.into();
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.pop().or_else(|| std::env::split_paths(&path).find(|bin| bin.join("initdb").exists())).unwrap_or_else(|| {
        panic!("no PostgreSQL server found (initdb): run scripts/setup");
    })
}

fn text(output: Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

fn check(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
