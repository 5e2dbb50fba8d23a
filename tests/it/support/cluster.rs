//! Several OpenBao servers over one raft storage: one active, the others on standby.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::bao;
use super::client::Client;
use super::server::Server;

const LIMIT: Duration = Duration::from_secs(60);

/// The servers, all unsealed, with one root token.
pub struct Cluster {
    pub nodes: Vec<Node>,
    token: String,
    key: Value,
}

/// One server.
pub struct Node {
    server: Server,
    address: String,
    dir: TempDir,
}

/// A server that was killed. What it has left running, if anything, ends when this is dropped.
pub struct Killed {
    _server: Server,
}

impl Cluster {
    /// A fresh cluster of `size`; the first node is active.
    pub fn start(size: usize) -> Cluster {
        let nodes: Vec<Node> = (0..size).map(Node::start).collect();
        let nobody = nodes[0].client("");
        let made = nobody.post("sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).expect(200);
        let (key, token) = (&made["keys_base64"][0], made["root_token"].as_str().unwrap());
        nobody.post("sys/unseal", json!({ "key": key })).expect(200);
        let first = nodes[0].client(token);
        super::wait_for("the first node", LIMIT, || ready(&first, 200).then_some(()));
        // A node that has just joined has no vote, and cannot take over, until it has been seen for a while.
        let patience = json!({ "server_stabilization_time": "500ms" });
        first.post("sys/storage/raft/autopilot/configuration", patience).expect(204);
        for node in &nodes[1..] {
            let client = node.client(token);
            client.post("sys/storage/raft/join", json!({ "leader_api_addr": nodes[0].address })).expect(200);
            super::wait_for("a key to be taken", LIMIT, || {
                let unsealing = client.post("sys/unseal", json!({ "key": key }));
                (unsealing.status == 200 && unsealing.body["sealed"] == false).then_some(())
            });
            super::wait_for("a node on standby", LIMIT, || ready(&client, 429).then_some(()));
            super::wait_for("its vote", LIMIT, || {
                // On a machine under load it may lose its place for a moment, and answers nothing meanwhile.
                let answer = first.get("sys/storage/raft/configuration");
                let servers = (answer.status == 200).then(|| answer.data()["config"]["servers"].take())?;
                let voters = |servers: &Vec<Value>| servers.iter().all(|server| server["voter"] == true);
                servers.as_array().is_some_and(voters).then_some(())
            });
        }
        Cluster { nodes, token: token.to_owned(), key: key.clone() }
    }

    /// Kills a server (SIGKILL, and nothing but the server), starts it again on its storage and unseals it.
    pub fn kill(&mut self, node: usize) -> Killed {
        let node = &mut self.nodes[node];
        node.server.signal(Signal::KILL);
        super::wait_for("its end", LIMIT, || node.server.ended().then_some(()));
        let server = super::wait_for("the server again", LIMIT, || launch(&node.dir, &node.address).ok());
        let killed = Killed { _server: std::mem::replace(&mut node.server, server) };
        let (nobody, client) = (node.client(""), node.client(&self.token));
        super::wait_for("a key to be taken", LIMIT, || {
            let unsealing = nobody.try_request("POST", "sys/unseal", Some(&json!({ "key": self.key })), &[]).ok()?;
            (unsealing.status == 200 && unsealing.body["sealed"] == false).then_some(())
        });
        super::wait_for("its mounts", LIMIT, || ready(&client, 200).then_some(()));
        killed
    }

    /// Kills a server (SIGKILL, and nothing but the server) and leaves it down.
    pub fn crash(&mut self, node: usize) {
        self.end(node, Signal::KILL);
    }

    /// Tells a server to end, waits until it has, and leaves it down.
    pub fn stop(&mut self, node: usize) {
        self.end(node, Signal::TERM);
    }

    fn end(&mut self, node: usize, signal: Signal) {
        let node = &mut self.nodes[node];
        node.server.signal(signal);
        super::wait_for("its end", LIMIT, || node.server.ended().then_some(()));
    }

    /// Starts a server that was crashed, on its storage, unseals it, and waits until it is a node again.
    pub fn revive(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.server = super::wait_for("the server again", LIMIT, || launch(&node.dir, &node.address).ok());
        let (nobody, client) = (node.client(""), node.client(&self.token));
        super::wait_for("a key to be taken", LIMIT, || {
            let unsealing = nobody.try_request("POST", "sys/unseal", Some(&json!({ "key": self.key })), &[]).ok()?;
            (unsealing.status == 200 && unsealing.body["sealed"] == false).then_some(())
        });
        super::wait_for("its mounts", LIMIT, || (ready(&client, 429) || ready(&client, 200)).then_some(()));
    }

    /// A client of one node, with the root token.
    pub fn client(&self, node: usize) -> Client {
        self.nodes[node].client(&self.token)
    }

    /// A write that the active node takes, whichever it is by then. It is sent again only if nobody was active.
    #[track_caller]
    pub fn write(&self, path: &str, body: Value) -> Value {
        let answer = super::wait_for(path, LIMIT, || {
            let answer = self.client(self.active()).try_request("POST", path, Some(&body), &[]).ok()?;
            (!matches!(answer.status, 307 | 500 | 503)).then_some(answer)
        });
        assert!(answer.status < 300, "{path}: {} {}", answer.status, answer.body);
        answer.body
    }

    /// Puts the plugin into the catalogue, as what serves the paths of `engine`.
    pub fn register_as(&self, name: &str, engine: &str) {
        let plugin =
            json!({ "command": "leasehold", "args": [engine], "sha256": bao::sha256(&self.nodes[0].plugins()) });
        self.write(&format!("sys/plugins/catalog/secret/{name}"), plugin);
    }

    /// Puts the plugin into the catalogue.
    pub fn register(&self) {
        self.register_as(bao::PLUGIN, "database");
    }

    /// The one process of the plugin on a node.
    #[track_caller]
    pub fn plugin(&self, node: usize) -> Pid {
        match self.nodes[node].plugin_processes().as_slice() {
            [one] => *one,
            other => panic!("not one plugin process on node {node}: {other:?}"),
        }
    }

    /// Which node is active, if one is.
    pub fn active_now(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|node| ready(&self.client(*node), 200))
    }

    /// Which node is active; waits until one is.
    pub fn active(&self) -> usize {
        super::wait_for("an active node", LIMIT, || (0..self.nodes.len()).find(|node| ready(&self.client(*node), 200)))
    }

    /// Makes the active node give up, and waits until another one has taken over.
    pub fn step_down(&self) -> usize {
        let before = self.active();
        self.client(before).post("sys/step-down", json!({})).expect(204);
        super::wait_for("another active node", LIMIT, || {
            (0..self.nodes.len()).find(|node| *node != before && ready(&self.client(*node), 200))
        })
    }
}

/// Whether a node says of itself what it should (200: active, 429: on standby) and has its mounts.
fn ready(client: &Client, health: u16) -> bool {
    let status = |path: &str| client.try_request("GET", path, None, &[]).map_or(0, |answer| answer.status);
    status("sys/health") == health && status("sys/mounts") == 200
}

impl Node {
    fn start(number: usize) -> Node {
        let dir = tempfile::Builder::new().prefix("leasehold-node-").tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        bao::install(&plugins);
        let storage = dir.path().join("raft");
        std::fs::create_dir(&storage).unwrap();
        for _ in 0..5 {
            let (port, cluster) = (super::free_port(), super::free_port());
            let address = format!("http://127.0.0.1:{port}");
            let configuration = format!(
                "storage \"raft\" {{
                   path = {storage:?}
                   node_id = \"n{number}\"
                   performance_multiplier = 1
                   autopilot_reconcile_interval = \"200ms\"
                   autopilot_update_interval = \"200ms\"
                 }}
                 listener \"tcp\" {{
                   address = \"127.0.0.1:{port}\"
                   cluster_address = \"127.0.0.1:{cluster}\"
                   tls_disable = true
                 }}
                 api_addr = {address:?}
                 cluster_addr = \"https://127.0.0.1:{cluster}\"
                 plugin_directory = {plugins:?}
                 raw_storage_endpoint = true
                 log_level = \"debug\"\n"
            );
            let file = dir.path().join("bao.hcl");
            std::fs::write(&file, configuration).unwrap();
            match launch(&dir, &address) {
                Ok(server) => return Node { server, address, dir },
                Err(log) => eprintln!("OpenBao did not start on {address}:\n{log}"),
            }
        }
        panic!("OpenBao does not start");
    }

    fn client(&self, token: &str) -> Client {
        Client::new(&self.address, token)
    }

    /// The directory that holds the plugin's binary.
    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// The process ids of the plugin as this node runs it.
    pub fn plugin_processes(&self) -> Vec<Pid> {
        bao::plugin_processes(self.server.pid(), &self.plugins())
    }

    /// The names of the programs from the directory of plugins that this node runs.
    pub fn plugins_run(&self) -> Vec<String> {
        let plugins = self.plugins();
        let run = bao::children(self.server.pid()).into_iter().filter_map(|(_, exe)| {
            let name = exe.strip_prefix(&plugins).ok()?;
            Some(name.display().to_string())
        });
        run.collect()
    }

    /// All that the server and its plugins have logged.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

/// Starts the server that is configured in `dir`.
///
/// # Errors
/// What it has logged, if it ended again: another process may have its port.
fn launch(dir: &TempDir, address: &str) -> Result<Server, String> {
    let configuration = dir.path().join("bao.hcl");
    let command: Vec<OsString> =
        vec![bao::program().into(), "server".into(), format!("-config={}", configuration.display()).into()];
    let temporary = dir.path().to_string_lossy().into_owned();
    let env = [("TMPDIR", temporary.as_str()), ("HOME", temporary.as_str())];
    let server = Server::start("OpenBao", &command, &env, "TERM", &dir.path().join("log"));
    let client = Client::new(address, "");
    let answers = || client.try_request("GET", "sys/seal-status", None, &[]).is_ok();
    let started =
        super::wait_for("a server", LIMIT, || if server.ended() { Some(false) } else { answers().then_some(true) });
    if started { Ok(server) } else { Err(server.log()) }
}
