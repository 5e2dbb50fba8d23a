//! How the process starts, and who is let in.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::json;
use tempfile::TempDir;

use super::{World, ended, mint};
use crate::support::{plugin, wait_for};

const COOKIE: (&str, &str) = ("VAULT_BACKEND_PLUGIN", "6669da05-b1c8-4f49-97d9-c8e5bed98e20");
const DATABASE_COOKIE: (&str, &str) = ("VAULT_DATABASE_PLUGIN", "926a0820-aea2-be28-51d6-83cdf00e8edb");
const LIMIT: Duration = Duration::from_secs(5);

/// The plugin, started as a host starts it, in a directory of its own for its socket.
fn command(directory: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(plugin());
    command.args(arguments).env_clear().env("TMPDIR", directory).envs(env.iter().copied()).stdin(Stdio::null());
    command
}

#[test]
fn who_is_not_invited_learns_why_and_nothing_is_offered() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = Identity::of_a_host().pem;
    let (five, cert) = (("PLUGIN_PROTOCOL_VERSIONS", "5"), ("PLUGIN_CLIENT_CERT", certificate.as_str()));
    let database: &[&str] = &["database"];
    for (arguments, env, told) in [
        (database, &[][..], "plugin register"),
        (database, &[five, cert], "plugin register"),
        (database, &[DATABASE_COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "5,6"), cert], "not a database plugin"),
        (database, &[DATABASE_COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "3,4")], "not a database plugin"),
        (database, &[(COOKIE.0, DATABASE_COOKIE.1), five, cert], COOKIE.0),
        (database, &[(COOKIE.0, ""), five, cert], COOKIE.0),
        (database, &[COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "3,4")], "\"3,4\""),
        (database, &[COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "4,3"), cert], "\"4,3\""),
        (database, &[COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "6"), cert], "version 5"),
        (database, &[COOKIE, cert], "version 5"),
        (database, &[COOKIE, five], "PLUGIN_CLIENT_CERT"),
        (database, &[COOKIE, five, ("PLUGIN_CLIENT_CERT", "")], "PLUGIN_CLIENT_CERT"),
        (database, &[COOKIE, five, ("PLUGIN_CLIENT_CERT", "nonsense")], "PLUGIN_CLIENT_CERT"),
        (&[], &[COOKIE, five, cert], "-args=database"),
        (database, &[COOKIE, five, cert, ("PLUGIN_UNIX_SOCKET_DIR", "/nonexistent")], "cannot listen"),
    ] {
        let output = command(directory.path(), arguments, env).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{env:?}: {stderr}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{env:?}: {stderr}");
        assert!(stderr.contains(told), "{env:?}: not a word of {told:?} in: {stderr}");
    }
    for (argument, told) in [("--help", "database"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = command(directory.path(), &[argument], &[]).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(told));
    }
    let output = command(directory.path(), &["nothing"], &[COOKIE, five, cert]).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty() && !output.stderr.is_empty());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "a socket was left behind");
}

/// A process of the plugin that has accepted our invitation.
struct Plugin {
    process: Child,
    stdout: BufReader<std::process::ChildStdout>,
    socket: PathBuf,
    _directory: TempDir,
}

impl Plugin {
    /// Started by a thread that is gone by now: only the end of the whole host means anything.
    fn start(host: &Identity) -> Plugin {
        let directory = tempfile::tempdir().unwrap();
        let env = [COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "3,5"), ("PLUGIN_CLIENT_CERT", host.pem.as_str())];
        let mut command = command(directory.path(), &["database"], &env);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = std::thread::spawn(move || command.spawn()).join().unwrap().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let fields: Vec<&str> = line.trim_end_matches('\n').split('|').collect();
        let ["1", "5", "unix", socket, "grpc", certificate] = fields[..] else { panic!("not an answer: {line:?}") };
        assert!(certificate.len() > 50 && !certificate.ends_with('='), "{certificate}");
        let socket = PathBuf::from(socket);
        assert_eq!(socket.parent(), Some(directory.path()));
        Plugin { process, stdout, socket, _directory: directory }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Waits for its end; the status, what it had printed after its first line, and whether its socket is still there.
    fn end(mut self) -> (std::process::ExitStatus, String, bool) {
        let pid = self.pid();
        wait_for("the plugin's end", LIMIT, || ended(pid).then_some(()));
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.process.wait().unwrap(), rest, self.socket.exists())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn only_the_host_that_sent_the_invitation_gets_in() {
    let host = Identity::of_a_host();
    let plugin = Plugin::start(&host);
    assert!(host.is_welcome(&plugin.socket), "the host itself");

    assert!(!Identity::of_a_host().is_welcome(&plugin.socket), "another certificate of the same make");
    let thief = Identity { key: Identity::of_a_host().key, ..host.clone() };
    assert!(!thief.is_welcome(&plugin.socket), "the host's certificate, which is no secret, without its key");
    assert!(!greeted(&plugin.socket, None), "no certificate");
    assert!(!greeted_in_plain(&plugin.socket), "no TLS");
    assert!(host.is_welcome(&plugin.socket), "the host, after all of them");

    // What is typed at the host's terminal is not for its plugins.
    for signal in [Signal::INT, Signal::HUP] {
        kill_process(plugin.pid(), signal).unwrap();
        assert!(host.is_welcome(&plugin.socket), "{signal:?}");
    }
    kill_process(plugin.pid(), Signal::TERM).unwrap();
    let (status, rest, left) = plugin.end();
    assert_eq!((status.code(), rest.as_str(), left), (Some(0), "", false));
}

#[test]
fn a_stranger_at_the_socket_does_not_disturb_the_mount() {
    let world = World::start();
    let process = world.plugin();
    let socket = sockets(world.bao.temporary()).pop().expect("the plugin's socket");
    std::thread::scope(|scope| {
        let strangers: Vec<_> = (0..8)
            .map(|i| {
                let socket = &socket;
                scope.spawn(move || match i % 3 {
                    0 => Identity::of_a_host().is_welcome(socket),
                    1 => greeted(socket, None),
                    _ => greeted_in_plain(socket),
                })
            })
            .collect();
        // Somebody who connects and says nothing.
        let _silent: Vec<_> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        mint(&world.client, "db/creds/app");
        for stranger in strangers {
            assert!(!stranger.join().unwrap());
        }
        mint(&world.client, "db/creds/app");
    });
    // A mount that comes later needs the connection between host and plugin all over again.
    world.bao.mount("later", crate::support::bao::PLUGIN);
    world.client.get("later/config/none").expect(404);
    assert_eq!(world.plugin(), process);
}

#[test]
fn a_host_that_looks_for_a_database_plugin_finds_none() {
    let world = World::start();
    let sha256 = crate::support::bao::sha256(&world.bao.plugins());
    let body = |name: &str| json!({ "command": "leasehold", "args": ["database"], "sha256": sha256, "name": name });
    // Without a type the host tries what the plugin is.
    world.client.post("sys/plugins/catalog/untyped", body("untyped")).expect(204);
    assert_eq!(world.client.get("sys/plugins/catalog/database/untyped").status, 404);
    assert_eq!(world.client.get("sys/plugins/catalog/secret/untyped?version=v0.1.0").data()["name"], "untyped");
}

/// The sockets of plugins (not those of the host) in a directory.
pub fn sockets(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.filter(|entry| entry.file_name().to_string_lossy().starts_with("leasehold-")).map(|e| e.path()).collect()
}

/// A certificate with a key; not necessarily the key of that certificate.
#[derive(Clone)]
struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: Arc<dyn rustls::sign::SigningKey>,
}

impl Identity {
    /// As hosts make them: P-521, marked as an authority.
    fn of_a_host() -> Identity {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let private = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Identity {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key: aws_lc_rs::sign::any_supported_type(&private).unwrap(),
        }
    }

    /// Whether the plugin serves who comes with this.
    fn is_welcome(&self, socket: &Path) -> bool {
        greeted(socket, Some(self))
    }
}

/// Presents a certificate and signs with the key, whether they belong together or not.
#[derive(Debug)]
struct Presented(Arc<CertifiedKey>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any server: whether the plugin takes us is the question.
#[derive(Debug)]
struct Anyone(CryptoProvider);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How an HTTP/2 client begins: the preface and empty settings.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// True if a server answers with the settings that an HTTP/2 connection begins with; false if it hangs up.
fn settings(mut stream: impl Read + Write) -> bool {
    if stream.write_all(BEGIN).and_then(|()| stream.flush()).is_err() {
        return false;
    }
    let mut frame = [0; 9];
    match stream.read_exact(&mut frame) {
        Ok(()) => frame[3] == 4,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither an answer nor a refusal"),
        Err(_) => false,
    }
}

fn connected(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn greeted(socket: &Path, identity: Option<&Identity>) -> bool {
    let provider = aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match identity {
        Some(identity) => {
            let certified = CertifiedKey::new(vec![identity.certificate.clone()], Arc::clone(&identity.key));
            builder.with_client_cert_resolver(Arc::new(Presented(Arc::new(certified))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    settings(StreamOwned::new(client, connected(socket)))
}

fn greeted_in_plain(socket: &Path) -> bool {
    settings(connected(socket))
}
