//! How a plugin process is started: what the host says through the environment, and the one line we answer on stdout.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;
use rustls::pki_types::CertificateDer;

use super::process::VERSION;
use super::tls::peer_certificate;

/// What the hosts set so that a plugin knows who starts it. No secret.
const COOKIE: (&str, &str) = ("VAULT_BACKEND_PLUGIN", "6669da05-b1c8-4f49-97d9-c8e5bed98e20");
/// The same for database plugins, another protocol. A host that does not know what we are tries it first.
const DATABASE_COOKIE: &str = "VAULT_DATABASE_PLUGIN";
/// The version of the plugin protocol itself.
const CORE_PROTOCOL: u32 = 1;
/// The version of the backend protocol: gRPC over mutual TLS.
const PROTOCOL: u32 = 5;
/// The longest path of a unix socket, without its terminator, on every system we build for.
const MAX_SOCKET_PATH: usize = 103;

/// What a host said when it started us.
pub struct Invitation {
    /// The one certificate we talk to.
    pub(super) peer: CertificateDer<'static>,
    /// Say on the handshake line that we do not share one connection. Older hosts do not know the field.
    pub(super) answer_mux: bool,
    /// The host wants all memory locked into RAM.
    pub(super) lock_pages: bool,
    socket_directory: PathBuf,
    /// Group that may use the socket too.
    socket_group: Option<u32>,
}

/// Why we do not start. The text is for whoever reads stderr.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No host at all.
    #[error(
        "leasehold {VERSION} is a secrets engine for OpenBao and Vault. The server starts it as a plugin; run by hand it \
         does nothing.\n\n\
         Put the binary into the server's plugin_directory, then:\n\n  \
         bao plugin register -sha256=\"$(sha256sum leasehold | cut -d' ' -f1)\" \\\n      \
         -command=leasehold -args=database -version={VERSION} secret leasehold-database\n  \
         bao secrets enable -path=database leasehold-database\n\n\
         With Vault, write vault for bao."
    )]
    ByHand,
    /// Another kind of plugin was wanted.
    #[error("leasehold is a secrets engine, not a database plugin: register it with type \"secret\"")]
    DatabasePlugin,
    /// The cookie is not the one of this protocol.
    #[error("leasehold: {} is not the value that OpenBao and Vault use", COOKIE.0)]
    Cookie,
    /// Only other protocol versions are offered.
    #[error("leasehold speaks version {PROTOCOL} of the plugin protocol; the server offers {0:?}")]
    Version(String),
    /// No certificate, so no TLS.
    #[error("leasehold serves over mutual TLS only: the server sent no usable certificate (PLUGIN_CLIENT_CERT)")]
    Certificate,
    /// `PLUGIN_UNIX_SOCKET_GROUP` is not a number.
    #[error("leasehold: PLUGIN_UNIX_SOCKET_GROUP must be a group id")]
    Group,
}

impl Invitation {
    /// Reads the environment of this process.
    pub fn read() -> Result<Self, Refusal> {
        Self::from_variables(|name| std::env::var(name).ok(), std::env::temp_dir())
    }

    pub(super) fn from_variables(var: impl Fn(&str) -> Option<String>, temporary: PathBuf) -> Result<Self, Refusal> {
        match var(COOKIE.0) {
            Some(cookie) if cookie == COOKIE.1 => {}
            Some(_) => return Err(Refusal::Cookie),
            None if var(DATABASE_COOKIE).is_some() => return Err(Refusal::DatabasePlugin),
            None => return Err(Refusal::ByHand),
        }
        let versions = var("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_default();
        if !versions.split(',').any(|version| version.trim().parse() == Ok(PROTOCOL)) {
            return Err(Refusal::Version(versions));
        }
        let pem = var("PLUGIN_CLIENT_CERT").ok_or(Refusal::Certificate)?;
        let peer = peer_certificate(&pem).map_err(|_| Refusal::Certificate)?;
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let socket_group = set("PLUGIN_UNIX_SOCKET_GROUP").map(|group| group.parse().map_err(|_| Refusal::Group));
        let lock = set("BAO_PLUGIN_MLOCK_ENABLED").or_else(|| set("VAULT_PLUGIN_MLOCK_ENABLED"));
        Ok(Self {
            peer,
            answer_mux: set("PLUGIN_MULTIPLEX_GRPC").is_some(),
            lock_pages: lock.is_some_and(|value| value == "true"),
            socket_directory: set("PLUGIN_UNIX_SOCKET_DIR").map_or(temporary, PathBuf::from),
            socket_group: socket_group.transpose()?,
        })
    }

    /// Binds the socket that the host will dial, as yet without anybody behind it: the kernel queues the host's
    /// connections until we accept. Best called while no other thread runs, for the sake of the umask.
    pub(super) fn bind(&self) -> io::Result<Socket> {
        let name = format!("leasehold-{}", uuid::Uuid::new_v4().simple());
        let path = std::path::absolute(&self.socket_directory)?.join(name);
        if path.as_os_str().len() > MAX_SOCKET_PATH || path.to_str().is_none_or(|path| path.contains(['|', '\n'])) {
            let what = format!("the socket path {} is too long or has an unusable character", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        // Nobody else may connect, not even before the mode is set below.
        let before = umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(&path);
        umask(before);
        let socket = Socket { listener: bound?, path };
        match self.socket_group {
            Some(group) => {
                chown(&socket.path, None, Some(group))?;
                fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o660))?;
            }
            None => fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o600))?,
        }
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// The line that tells the host where to find us and which certificate to expect.
    pub(super) fn answer(&self, socket: &Path, certificate: &str) -> String {
        let mux = if self.answer_mux { "|false" } else { "" };
        format!("{CORE_PROTOCOL}|{PROTOCOL}|unix|{}|grpc|{certificate}{mux}\n", socket.display())
    }
}

/// A bound unix socket, unlinked on drop.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the listener, for the runtime to use.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already; then that is what we wanted.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn certificate() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    fn read(variables: &[(&str, &str)]) -> Result<Invitation, Refusal> {
        let var = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Invitation::from_variables(var, std::env::temp_dir())
    }

    #[test]
    fn who_is_let_in() {
        let pem = certificate();
        let cert = ("PLUGIN_CLIENT_CERT", pem.as_str());
        let five = ("PLUGIN_PROTOCOL_VERSIONS", "5");
        assert!(read(&[COOKIE, five, cert]).is_ok());
        assert!(read(&[COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "3, 5"), cert]).is_ok());
        assert!(matches!(read(&[]), Err(Refusal::ByHand)));
        assert!(matches!(read(&[five, cert]), Err(Refusal::ByHand)));
        assert!(matches!(read(&[(COOKIE.0, "x"), five, cert]), Err(Refusal::Cookie)));
        let database = (DATABASE_COOKIE, "926a0820-aea2-be28-51d6-83cdf00e8edb");
        assert!(matches!(read(&[database, five, cert]), Err(Refusal::DatabasePlugin)));
        for versions in ["3,4", "4", "55", "", "6"] {
            let offered = ("PLUGIN_PROTOCOL_VERSIONS", versions);
            assert!(matches!(read(&[COOKIE, offered, cert]), Err(Refusal::Version(_))), "{versions}");
        }
        assert!(matches!(read(&[COOKIE, cert]), Err(Refusal::Version(_))));
        assert!(matches!(read(&[COOKIE, five]), Err(Refusal::Certificate)));
        assert!(matches!(read(&[COOKIE, five, ("PLUGIN_CLIENT_CERT", "x")]), Err(Refusal::Certificate)));
        assert!(matches!(read(&[COOKIE, five, cert, ("PLUGIN_UNIX_SOCKET_GROUP", "wheel")]), Err(Refusal::Group)));
    }

    #[test]
    fn the_line() {
        let pem = certificate();
        let base = [COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "5"), ("PLUGIN_CLIENT_CERT", pem.as_str())];
        let plain = read(&base).unwrap();
        assert_eq!(plain.answer(Path::new("/tmp/s"), "QUJD"), "1|5|unix|/tmp/s|grpc|QUJD\n");
        let asked = read(&[&base[..], &[("PLUGIN_MULTIPLEX_GRPC", "true")]].concat()).unwrap();
        assert_eq!(asked.answer(Path::new("/tmp/s"), "QUJD"), "1|5|unix|/tmp/s|grpc|QUJD|false\n");
    }

    #[test]
    fn the_socket_is_private_and_goes_away() {
        let pem = certificate();
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap();
        let base = [COOKIE, ("PLUGIN_PROTOCOL_VERSIONS", "5"), ("PLUGIN_CLIENT_CERT", pem.as_str())];
        let own_group = rustix::process::getgid().as_raw().to_string();
        let placed = [("PLUGIN_UNIX_SOCKET_DIR", place)];
        let grouped = [placed[0], ("PLUGIN_UNIX_SOCKET_GROUP", own_group.as_str())];
        for (more, mode) in [(&placed[..], 0o600), (&grouped[..], 0o660)] {
            let socket = read(&[&base[..], more].concat()).unwrap().bind().unwrap();
            let path = socket.path().to_owned();
            assert_eq!(path.parent(), Some(directory.path()));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert!(UnixStream::connect(&path).is_ok());
            drop(socket);
            assert!(!path.exists());
        }
        let long = format!("{place}/{}", "x".repeat(100));
        fs::create_dir(&long).unwrap();
        let refused = read(&[&base[..], &[("PLUGIN_UNIX_SOCKET_DIR", long.as_str())]].concat()).unwrap().bind();
        assert!(refused.is_err_and(|e| e.kind() == io::ErrorKind::InvalidInput));
    }
}
