//! A Redis server of one's own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::server::Server;

/// The user that connections are configured with; it may do everything.
pub const ADMIN: &str = "vaultadmin";
/// Its password.
pub const ADMIN_PASSWORD: &str = "rootpw";

/// A server in a directory of its own, with a file of users; nobody gets in without a name.
pub struct Redis {
    server: Option<Server>,
    port: u16,
    settings: Vec<(&'static str, String)>,
    dir: TempDir,
}

impl Redis {
    /// A fresh server, accepting connections.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// A fresh server with these further options of the command line.
    pub fn start_with(settings: &[(&'static str, String)]) -> Redis {
        let dir = tempfile::Builder::new().prefix("leasehold-redis-").tempdir().unwrap();
        let users = format!("user default off\nuser {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all\n");
        std::fs::write(dir.path().join("users.acl"), users).unwrap();
        let mut redis = Redis { server: None, port: 0, settings: settings.to_vec(), dir };
        for _ in 0..5 {
            redis.port = super::free_port();
            if redis.launch() {
                return redis;
            }
        }
        panic!("Redis does not start:\n{}", std::fs::read_to_string(redis.file("log")).unwrap_or_default());
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server has written of its users.
    pub fn users_file(&self) -> String {
        std::fs::read_to_string(self.file("users.acl")).unwrap()
    }

    /// From now on nothing can be written there; what was is set aside until [`Redis::restore_users_file`].
    pub fn block_users_file(&self) {
        std::fs::rename(self.file("users.acl"), self.file("users.aside")).unwrap();
        std::fs::create_dir_all(self.file("users.acl").join("in the way")).unwrap();
    }

    /// Undoes [`Redis::block_users_file`].
    pub fn restore_users_file(&self) {
        std::fs::remove_dir_all(self.file("users.acl")).unwrap();
        std::fs::rename(self.file("users.aside"), self.file("users.acl")).unwrap();
    }

    /// Runs a command as the administrator and gives what the client prints.
    pub fn command(&self, words: &[&str]) -> String {
        self.login(ADMIN, ADMIN_PASSWORD, words).unwrap_or_else(|error| panic!("{error}\nin: {words:?}"))
    }

    /// `ACL LIST`, one user a line, sorted.
    pub fn users(&self) -> Vec<String> {
        let mut users: Vec<String> = self.command(&["ACL", "LIST"]).lines().map(str::to_owned).collect();
        users.sort();
        users
    }

    /// Logs in with a password, as an application would, and runs a command.
    pub fn login(&self, user: &str, password: &str, words: &[&str]) -> Result<String, String> {
        let output = self
            .client(user, password)
            .args(words)
            .stderr(Stdio::piped())
            .output()
            .unwrap_or_else(|error| panic!("redis-cli: {error}; run scripts/setup"));
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        if output.status.success() && complaint.is_empty() { Ok(text) } else { Err(format!("{complaint} {text}")) }
    }

    /// A session that stays open until it is dropped. It speaks for itself: the client would log in again.
    pub fn session(&self, user: &str, password: &str) -> Session {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut session = Session(BufReader::new(stream));
        assert_eq!(session.ask(&format!("AUTH {user} {password}")).as_deref(), Some("+OK"));
        session
    }

    /// Stops the server; the directory and the port stay.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts a stopped server again, on the same port.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "already running");
        assert!((0..20).any(|_| self.launch()), "Redis does not start again on port {}", self.port);
    }

    /// Stops answering without closing anything, until [`Redis::thaw`].
    pub fn freeze(&self) {
        self.server.as_ref().expect("running").signal(Signal::STOP);
    }

    /// Undoes [`Redis::freeze`].
    pub fn thaw(&self) {
        self.server.as_ref().expect("running").signal(Signal::CONT);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// False if the server ended before it was ready (the port is taken, most of all).
    fn launch(&mut self) -> bool {
        let mut command: Vec<OsString> = vec!["redis-server".into()];
        for (option, value) in [
            ("--port", self.port.to_string()),
            ("--bind", "127.0.0.1".to_owned()),
            ("--dir", self.dir.path().display().to_string()),
            ("--aclfile", self.file("users.acl").display().to_string()),
            ("--save", String::new()),
            ("--appendonly", "no".to_owned()),
            ("--daemonize", "no".to_owned()),
        ] {
            command.extend([option.into(), value.into()]);
        }
        for (option, value) in &self.settings {
            command.extend([option.into(), value.into()]);
        }
        let server = Server::start("Redis", &command, &[("LC_ALL", "C")], "KILL", &self.file("log"));
        for _ in 0..500 {
            if server.ended() {
                return false;
            }
            if self.login(ADMIN, ADMIN_PASSWORD, &["PING"]).is_ok_and(|answer| answer == "PONG") {
                self.server = Some(server);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn client(&self, user: &str, password: &str) -> Command {
        let mut client = Command::new("redis-cli");
        client
            .args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string(), "--user", user])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("REDISCLI_AUTH", password);
        client
    }
}

/// An open session of one user.
pub struct Session(BufReader<TcpStream>);

impl Session {
    /// Sends a command that is answered with one line; `None` when the session is dead.
    pub fn ask(&mut self, command: &str) -> Option<String> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut line = String::new();
        let read = self.0.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }
}
