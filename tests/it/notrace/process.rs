//! What the system shows of the process to others of the same user, and what it says where it cannot lock its memory.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{closed_to_others, may_look};
use crate::support::search::{Known, Search};
use crate::support::{plugin, wait_for};

const USER: &str = "nobody";
/// What may not be found afterwards; the first is named as nothing else is.
const SECRETS: [(&str, &str); 4] = [
    ("PGPASSWORD", "a-password-of-libpq-0001"),
    ("AWS_SECRET_ACCESS_KEY", "a-secret-key-of-aws-0002"),
    ("BAO_TOKEN", "a-token-of-the-host-0003"),
    ("MYSQL_PWD", "a-password-of-mysql-0004"),
];

/// A command of a user without any privilege, who may lock 64 KiB and write core files of any size.
fn unprivileged(program: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.args(["--memlock=65536:65536", "--core=unlimited:unlimited", "setpriv"]).env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let ids = [format!("--reuid={USER}"), "--regid=nogroup".to_owned()];
    command.args(ids).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", program]);
    command
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether somebody of the same user can read a file of the process.
fn readable(process: Pid, file: &str) -> bool {
    let file = format!("/proc/{}/{file}", process.as_raw_nonzero());
    let read = unprivileged("head").args(["-c", "64", &file]).output().unwrap();
    read.status.success() && !read.stdout.is_empty()
}

/// Whether somebody of the same user can trace it.
fn traceable(process: Pid) -> bool {
    let debugger = unprivileged("gdb")
        .args(["-batch", "-nx", "-p", &process.as_raw_nonzero().to_string(), "-ex", "info registers"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&debugger.stdout).contains("rip")
        || String::from_utf8_lossy(&debugger.stdout).contains("sp ")
}

fn started(directory: &Path) -> (Running, String) {
    let program = directory.join("leasehold");
    std::fs::copy(plugin(), &program).unwrap();
    let everybody = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    everybody(directory);
    everybody(&program);
    let key = rcgen::KeyPair::generate().unwrap();
    let host = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut child = unprivileged(program.to_str().unwrap())
        .arg("database")
        .env("TMPDIR", directory)
        .env("VAULT_BACKEND_PLUGIN", "6669da05-b1c8-4f49-97d9-c8e5bed98e20")
        .env("PLUGIN_PROTOCOL_VERSIONS", "5")
        .env("PLUGIN_CLIENT_CERT", host)
        .envs(SECRETS)
        .current_dir(directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let log = std::fs::read_to_string(directory.join("log")).unwrap();
    assert!(line.starts_with("1|5|unix|"), "{line:?} {log}");
    (Running(child), log)
}

#[test]
fn others_of_the_same_user_see_nothing_and_no_core_is_left() {
    if !may_look() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut plugin, log) = started(directory.path());
    let process = Pid::from_child(&plugin.0);
    assert!(log.contains("memory is not locked: grant CAP_IPC_LOCK"), "{log}");
    let search = Search::new(SECRETS.map(|(name, secret)| Known::new(name, secret)));
    closed_to_others(process, &search, false);

    // What can be seen of a process that takes no care.
    let careless = Running(unprivileged("sleep").arg("600").spawn().unwrap());
    let open = Pid::from_child(&careless.0);
    wait_for("the other process", Duration::from_secs(30), || readable(open, "environ").then_some(()));
    for file in ["environ", "maps", "mem"] {
        // The first bytes of the memory are nobody's: only opening it tells.
        let (ours, its) = match file {
            "mem" => (traceable(process), traceable(open)),
            file => (readable(process, file), readable(open, file)),
        };
        assert!(its, "{file} of a careless process can be read");
        assert!(!ours, "{file} can be read");
    }

    kill_process(process, Signal::ABORT).unwrap();
    let status = plugin.0.wait().unwrap();
    assert!(!status.core_dumped(), "{status}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("core")), "{left:?}");
}
