//! Connecting to one name and verifying another (`tls_server_name`).
//!
//! The driver verifies the host that it connects to, but takes a socket of this machine in the host's place. So it is
//! given one that only this process can use and that leads to the real host. What passes through is encrypted.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::secret::password;

/// How long the driver may take to use what it was given.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to a server. Returns the path of a socket that leads there, for one connection of this process.
///
/// # Errors
/// Those of connecting to the server.
pub async fn open(host: &str, port: u16) -> io::Result<PathBuf> {
    let server = TcpStream::connect((host, port)).await?;
    let _ = server.set_nodelay(true);
    let name = password::base62(32).map_err(io::Error::other)?;
    // Abstract: no file, and gone with its listener.
    let path = PathBuf::from(format!("\0leasehold-{name}"));
    let listener = UnixListener::bind(&path)?;
    tokio::spawn(async move {
        if let Ok(Ok(client)) = tokio::time::timeout(PATIENCE, own(&listener)).await {
            drop(listener);
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            // Ends when either side does: the other may be one that never will.
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
            }
        }
    });
    Ok(path)
}

/// The first connection that comes from this process: the name is no secret on this machine.
async fn own(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        let peer = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
        if peer == Some(std::process::id()) {
            return Ok(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn leads_there_once() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = open("127.0.0.1", server.local_addr().unwrap().port()).await.unwrap();
        let (mut at_server, _) = server.accept().await.unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"there").await.unwrap();
        let mut seen = [0; 5];
        at_server.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"there");
        at_server.write_all(b"back!").await.unwrap();
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"back!");
        assert!(UnixStream::connect(&path).await.is_err(), "for one connection only");
        drop(client);
        let server_sees = tokio::time::timeout(Duration::from_secs(5), at_server.read(&mut seen)).await;
        assert_eq!(server_sees.unwrap().unwrap(), 0, "a server that hangs holds nothing open");
    }
}
