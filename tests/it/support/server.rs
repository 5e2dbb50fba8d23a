//! A server process that does not outlive its owner.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

/// Runs the server in a process group of its own and reads its standard input until the other end is closed: by `Drop`,
/// or by the kernel when the test process dies, however it dies. (`PR_SET_PDEATHSIG` would be shorter, but it fires when
/// the *thread* that started the server ends.) Then the server has five seconds after the signal, and the group is killed.
const SUPERVISOR: &str = r#"
signal=$1; shift
"$@" </dev/null 1>&2 &
server=$!
echo $server
while read -r _; do :; done
kill -s "$signal" $server 2>/dev/null
(sleep 5; kill -s KILL 0) &
wait $server
kill -s KILL 0
"#;

/// How many lines of its log a server shows when the test fails.
const TAIL: usize = 60;

/// A running server.
pub struct Server {
    name: &'static str,
    supervisor: Child,
    pid: Pid,
    log: PathBuf,
}

impl Server {
    /// Starts `command`; what it prints is appended to `log`. `stop` is the signal (without SIG) that ends it quickly.
    pub fn start(name: &'static str, command: &[OsString], env: &[(&str, &str)], stop: &str, log: &Path) -> Server {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let mut supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "supervisor", stop])
            .args(command)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(supervisor.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        Server { name, supervisor, pid, log: log.to_owned() }
    }

    /// The process id of the server itself.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the server itself.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).unwrap();
    }

    /// True once the server has ended by itself.
    pub fn ended(&self) -> bool {
        is_gone(self.pid)
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn stop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// True once the process has ended, whether or not anybody has asked for its status.
pub fn is_gone(process: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())) else {
        return true;
    };
    // The state follows the command, which is in parentheses and may itself hold some.
    stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        super::words::check(self.name, &std::fs::read(&self.log).unwrap_or_default());
        if std::thread::panicking() {
            let mut text = String::new();
            if let Ok(mut file) = File::open(&self.log) {
                let end = file.metadata().map_or(0, |m| m.len());
                let _ = file.seek(SeekFrom::Start(end.saturating_sub(64 * 1024)));
                let mut bytes = Vec::new();
                let _ = file.read_to_end(&mut bytes);
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("---- the last lines of {} ----", self.name);
            for line in &lines[lines.len().saturating_sub(TAIL)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// User and group id of `user`, whom a server runs as that refuses to be run by root; `None` if we are not root.
pub fn unprivileged(user: &str) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, user]).output().unwrap();
        assert!(output.status.success(), "no user {user:?}: run scripts/setup");
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    Some((id("-u"), id("-g")))
}

/// The beginning of a command line that runs `program` as `user` if we are root.
pub fn as_user(user: &str, program: &Path) -> Vec<OsString> {
    let mut command = Vec::new();
    if unprivileged(user).is_some() {
        let ids = [format!("--reuid={user}"), format!("--regid={user}")].map(OsString::from);
        command.push("setpriv".into());
        command.extend(ids);
        command.push("--clear-groups".into());
    }
    command.push(program.into());
    command
}
