//! A MariaDB server of one's own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::server::{Server, as_user, unprivileged};

/// The user that connections are configured with; it may do everything.
pub const ADMIN: &str = "vaultadmin";
/// Its password.
pub const ADMIN_PASSWORD: &str = "rootpw";

/// A server in a directory of its own: TCP on a free loopback port, a unix socket, and a log of every statement.
pub struct MariaDb {
    server: Option<Server>,
    port: u16,
    settings: Vec<String>,
    dir: TempDir,
}

impl MariaDb {
    /// A fresh server, accepting connections.
    pub fn start() -> MariaDb {
        MariaDb::start_with(&[])
    }

    /// A fresh server with these further options of the command line, without their dashes.
    pub fn start_with(settings: &[&str]) -> MariaDb {
        let dir = tempfile::Builder::new().prefix("leasehold-my-").tempdir().unwrap();
        let copied =
            Command::new("cp").args(["-a", "--reflink=auto"]).args([template(), dir.path().join("data")]).status();
        assert!(copied.is_ok_and(|status| status.success()), "the template of a MariaDB server cannot be copied");
        // On each start: what is there already stays.
        let first = format!(
            "CREATE USER IF NOT EXISTS '{ADMIN}'@'%' IDENTIFIED BY '{ADMIN_PASSWORD}';\n\
             GRANT ALL ON *.* TO '{ADMIN}'@'%' WITH GRANT OPTION;\n"
        );
        std::fs::write(dir.path().join("first.sql"), first).unwrap();
        if let Some((uid, gid)) = unprivileged("mysql") {
            for path in [dir.path(), &dir.path().join("first.sql")] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let settings = settings.iter().map(|setting| format!("--{setting}")).collect();
        let mut mariadb = MariaDb { server: None, port: 0, settings, dir };
        for _ in 0..5 {
            mariadb.port = super::free_port();
            if mariadb.launch() {
                return mariadb;
            }
        }
        panic!("MariaDB does not start:\n{}", std::fs::read_to_string(mariadb.file("log")).unwrap_or_default());
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server.
    pub fn pid(&self) -> Pid {
        self.server.as_ref().expect("running").pid()
    }

    /// The path of the unix socket.
    pub fn socket(&self) -> PathBuf {
        self.file("socket")
    }

    /// A data source name as an operator writes it, without user and password.
    pub fn url(&self) -> String {
        format!("{{{{username}}}}:{{{{password}}}}@tcp(127.0.0.1:{})/", self.port)
    }

    /// Every statement that the server was sent, but for those of [`MariaDb::sql`].
    pub fn general_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.file("general")).unwrap_or_default()).into_owned()
    }

    /// Runs SQL as the administrator and gives what the client prints, one line a row.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
    }

    /// As [`MariaDb::sql`], with the server's error text.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let mut client = self.client(ADMIN, ADMIN_PASSWORD);
        client.arg("--init-command=SET SESSION sql_log_off = 1");
        run(client, sql)
    }

    /// The one JSON value that a query gives.
    pub fn json(&self, sql: &str) -> Value {
        let text = self.sql(sql);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The hosts that `user` may come from.
    pub fn hosts(&self, user: &str) -> Vec<String> {
        let hosts = self.sql(&format!("SELECT Host FROM mysql.user WHERE User = '{user}' ORDER BY Host"));
        hosts.lines().map(str::to_owned).collect()
    }

    /// Logs in over TCP with a password, as an application would, and runs SQL.
    pub fn login(&self, user: &str, password: &str, sql: &str) -> Result<String, String> {
        run(self.client(user, password), sql)
    }

    /// A session that stays open until it is dropped.
    pub fn session(&self, user: &str, password: &str) -> Session {
        let mut client = self
            .client(user, password)
            .args(["--unbuffered", "--skip-reconnect"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = client.stdin.take().unwrap();
        let output = BufReader::new(client.stdout.take().unwrap());
        Session { client, input, output, asked: 0 }
    }

    /// Stops the server; the directory and the port stay.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts a stopped server again, on the same port.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "already running");
        assert!(
            (0..50).any(|_| {
                let ready = self.launch();
                if !ready {
                    std::thread::sleep(Duration::from_millis(100));
                }
                ready
            }),
            "MariaDB does not start again on port {}",
            self.port
        );
    }

    /// Stops answering without closing anything, until [`MariaDb::thaw`].
    pub fn freeze(&self) {
        self.server.as_ref().expect("running").signal(Signal::STOP);
    }

    /// Undoes [`MariaDb::freeze`].
    pub fn thaw(&self) {
        self.server.as_ref().expect("running").signal(Signal::CONT);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// False if the server ended before it was ready (the port is taken, most of all).
    fn launch(&mut self) -> bool {
        let mut command = as_user("mysql", &program("mariadbd"));
        // First of all: nothing of the machine's own configuration.
        command.push("--no-defaults".into());
        for (option, name) in [
            ("datadir", "data"),
            ("socket", "socket"),
            ("pid-file", "pid"),
            ("general-log-file", "general"),
            ("init-file", "first.sql"),
            ("tmpdir", ""),
        ] {
            command.push(format!("--{option}={}", self.file(name).display()).into());
        }
        command.push(format!("--port={}", self.port).into());
        command.extend(SETTINGS.map(OsString::from));
        command.extend(self.settings.iter().map(OsString::from));
        let server = Server::start("MariaDB", &command, &[("LC_ALL", "C")], "KILL", &self.file("log"));
        for _ in 0..3000 {
            if server.ended() {
                return false;
            }
            if self.try_sql("SELECT 1").is_ok() {
                self.server = Some(server);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn client(&self, user: &str, password: &str) -> Command {
        let mut client = Command::new("mariadb");
        client
            .args(["--no-defaults", "--batch", "--skip-column-names", "--raw", "--connect-timeout=5"])
            .args(["--protocol=tcp", "--host=127.0.0.1", &format!("--port={}", self.port), &format!("--user={user}")])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("MYSQL_PWD", password)
            .stderr(Stdio::piped());
        client
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        super::words::check("MariaDB's general log", self.general_log().as_bytes());
    }
}

/// For tests: nothing here has to outlive the machine, everything is small, and all that is said can be read.
const SETTINGS: [&str; 10] = [
    "--bind-address=127.0.0.1",
    "--general-log=1",
    "--skip-log-bin",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--innodb-undo-tablespaces=0",
    "--key-buffer-size=1M",
    "--max-connections=200",
    "--character-set-server=utf8mb4",
];

/// An open session of one user.
pub struct Session {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    asked: u32,
}

impl Session {
    /// Runs one statement that gives one line at most; `None` when the session is dead or the statement gave an error.
    pub fn one(&mut self, sql: &str) -> Option<String> {
        self.asked += 1;
        let end = format!("--end {}", self.asked);
        writeln!(self.input, "{sql};\nSELECT '{end}';").ok()?;
        let mut last = None;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim_end() == end {
                return last;
            }
            last = Some(line.trim_end().to_owned());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// A directory of a server that was never started. Made once for each build directory: it takes two seconds.
fn template() -> PathBuf {
    let server = program("mariadbd");
    let version = Command::new(&server).args(["--no-defaults", "--version"]).output().unwrap();
    let version: String = String::from_utf8_lossy(&version.stdout)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mariadb-{}", version.trim_matches('-')));
    if !template.exists() {
        let making = tempfile::Builder::new().prefix("leasehold-my-").tempdir().unwrap();
        let data = making.path().join("data");
        let mut install = Command::new(program("mariadb-install-db"));
        install
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(SETTINGS.iter().filter(|setting| setting.starts_with("--innodb")))
            .arg(format!("--datadir={}", data.display()));
        if let Some((uid, gid)) = unprivileged("mysql") {
            std::os::unix::fs::chown(making.path(), Some(uid), Some(gid)).unwrap();
            install.arg("--user=mysql");
        }
        let made = install.output().unwrap();
        assert!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stderr));
        // To the same file system first; then at once, so that nobody sees a part of it. Whoever was first has it.
        let beside = template.with_extension(std::process::id().to_string());
        let copied = Command::new("cp").arg("-a").args([&data, &beside]).status();
        assert!(copied.is_ok_and(|status| status.success()));
        if std::fs::rename(&beside, &template).is_err() {
            let _ = std::fs::remove_dir_all(&beside);
        }
    }
    template
}

/// Debian puts the server where only root looks.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")]);
    places
        .map(|place| place.join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("no MariaDB server found ({name}): run scripts/setup"))
}

fn run(mut client: Command, sql: &str) -> Result<String, String> {
    let mut client = client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("mariadb: {error}; run scripts/setup"));
    let _ = client.stdin.take().unwrap().write_all(sql.as_bytes());
    let output = client.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}
