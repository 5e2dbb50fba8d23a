//! An OpenBao server of one's own, with the plugin beside it.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::client::Client;
use super::server::Server;

/// The token that may do everything.
pub const ROOT_TOKEN: &str = "root";
/// A secret in the environment of the server, which its plugins inherit.
pub const INHERITED_TOKEN: &str = "Zt7-qK2vXw9-bRm4LpD8-hY3";
/// What the plugin is registered as: the host lets no external plugin be called `database`.
pub const PLUGIN: &str = "leasehold-database";

/// A development server: unsealed, everything in memory.
pub struct Bao {
    server: Server,
    address: String,
    dir: TempDir,
}

impl Bao {
    /// A fresh server with an empty plugin catalogue.
    pub fn start() -> Bao {
        Bao::start_with("")
    }

    /// A fresh server with a further piece of configuration (HCL).
    pub fn start_with(configuration: &str) -> Bao {
        Bao::start_as("debug", |_| configuration.to_owned())
    }

    /// A fresh server that logs from `level` on, with a further piece of configuration that may name files in the
    /// server's own directory.
    pub fn start_as(level: &str, configuration: impl FnOnce(&Path) -> String) -> Bao {
        Bao::start_in(&[], level, configuration)
    }

    /// The same with these variables in its environment.
    pub fn start_in(more: &[(&str, &str)], level: &str, configuration: impl FnOnce(&Path) -> String) -> Bao {
        let program = program();
        let dir = tempfile::Builder::new().prefix("leasehold-bao-").tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        install(&plugins);
        let file = dir.path().join("bao.hcl");
        std::fs::write(&file, format!("plugin_directory = {:?}\n{}\n", plugins.display(), configuration(dir.path())))
            .unwrap();
        for _ in 0..5 {
            let listen = format!("127.0.0.1:{}", super::free_port());
            let command: Vec<OsString> = vec![
                program.clone().into(),
                "server".into(),
                "-dev".into(),
                "-dev-no-store-token".into(),
                format!("-dev-root-token-id={ROOT_TOKEN}").into(),
                format!("-dev-listen-address={listen}").into(),
                format!("-log-level={level}").into(),
                format!("-config={}", file.display()).into(),
            ];
            // Sockets of plugins go to the temporary directory of the server: into ours, so that nothing is left.
            let temporary = dir.path().to_string_lossy().into_owned();
            let own =
                [("TMPDIR", temporary.as_str()), ("HOME", temporary.as_str()), ("SOME_API_TOKEN", INHERITED_TOKEN)];
            let env = [more, &own].concat();
            let server = Server::start("OpenBao", &command, &env, "TERM", &dir.path().join("log"));
            let address = format!("http://{listen}");
            if ready(&server, &address) {
                return Bao { server, address, dir };
            }
            eprintln!("OpenBao did not start on {listen}:\n{}", server.log());
        }
        panic!("OpenBao does not start");
    }

    /// `http://host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process id of the server.
    pub fn pid(&self) -> Pid {
        self.server.pid()
    }

    /// Sends a signal to the server itself, and to nobody else.
    pub fn signal(&self, signal: Signal) {
        self.server.signal(signal);
    }

    /// The server's directory for temporary files, where its plugins have their sockets.
    pub fn temporary(&self) -> &Path {
        self.dir.path()
    }

    /// What a sealed server is opened with.
    pub fn unseal_key(&self) -> String {
        let log = self.log();
        let line = log.lines().find_map(|line| line.strip_prefix("Unseal Key:"));
        line.expect("a development server shows its key").trim().to_owned()
    }

    /// A client with the root token.
    pub fn client(&self) -> Client {
        Client::new(&self.address, ROOT_TOKEN)
    }

    /// All that the server and its plugins have logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The directory that holds the plugin's binary under its plain name.
    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// Puts the plugin into the catalogue.
    pub fn register(&self) {
        register(&self.client(), &self.plugins(), &[]);
    }

    /// Puts another build of the plugin beside it, and into the catalogue, under this name.
    pub fn add(&self, build: &Path, name: &str) {
        let file = self.plugins().join(name);
        std::fs::copy(build, &file).unwrap_or_else(|e| panic!("{}: {e}", build.display()));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let plugin = json!({ "command": name, "args": ["database"], "sha256": sha256_of(&file) });
        self.client().post(&format!("sys/plugins/catalog/secret/{name}"), plugin).expect(204);
    }

    /// Mounts an engine: `database` for the built-in one, [`PLUGIN`] for ours.
    #[track_caller]
    pub fn mount(&self, path: &str, engine: &str) {
        self.client().post(&format!("sys/mounts/{path}"), json!({ "type": engine })).expect(204);
    }

    /// The process ids of the plugin as this server runs it.
    pub fn plugin_processes(&self) -> Vec<Pid> {
        plugin_processes(self.server.pid(), &self.plugins())
    }
}

/// The server's binary.
pub fn program() -> PathBuf {
    let program = super::repository().join(".cache/bin/bao");
    assert!(program.exists(), "no OpenBao server found ({}): run scripts/setup", program.display());
    program
}

/// Puts the plugin of this directory into the catalogue, with further arguments.
pub fn register(client: &Client, plugins: &Path, arguments: &[&str]) {
    let arguments: Vec<&str> = [&["database"], arguments].concat();
    client
        .post(
            &format!("sys/plugins/catalog/secret/{PLUGIN}"),
            json!({ "command": "leasehold", "args": arguments, "sha256": sha256(plugins) }),
        )
        .expect(204);
}

/// The checksum of the plugin in this directory, as the catalogue wants it.
pub fn sha256(plugins: &Path) -> String {
    sha256_of(&plugins.join("leasehold"))
}

/// The checksum of a file.
pub fn sha256_of(file: &Path) -> String {
    let binary = std::fs::read(file).unwrap();
    Sha256::digest(&binary).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The children of a server that run a plugin of this directory.
pub fn plugin_processes(server: Pid, plugins: &Path) -> Vec<Pid> {
    let ours = |(child, exe): (Pid, PathBuf)| (exe.parent() == Some(plugins)).then_some(child);
    children(server).into_iter().filter_map(ours).collect()
}

/// The children of a server, each with the program that it runs.
pub fn children(server: Pid) -> Vec<(Pid, PathBuf)> {
    let children = std::fs::read_dir(format!("/proc/{}/task", server.as_raw_nonzero()))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .collect::<Vec<_>>()
        .join(" ");
    children
        .split_whitespace()
        .filter_map(|child| {
            let exe = std::fs::read_link(format!("/proc/{child}/exe")).ok()?;
            Some((Pid::from_raw(child.parse().ok()?)?, exe))
        })
        .collect()
}

/// The file itself under another name, or a copy of it; a symbolic link would lead outside of the plugin directory, from
/// where the host executes nothing.
pub fn install(plugins: &Path) {
    let target = plugins.join("leasehold");
    if std::fs::hard_link(super::plugin(), &target).is_err() {
        std::fs::copy(super::plugin(), &target).unwrap();
    }
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn ready(server: &Server, address: &str) -> bool {
    let client = Client::new(address, ROOT_TOKEN);
    for _ in 0..3000 {
        if server.ended() {
            return false;
        }
        // The mount table is complete only once the server says so to an authenticated request.
        if client.try_request("GET", "sys/mounts", None, &[]).is_ok_and(|answer| answer.status == 200) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
