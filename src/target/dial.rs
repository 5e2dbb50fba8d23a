//! Why a server could not be reached, in the words of Go's network library: what operators of the built-in engine know.

use std::io;

/// `tcp 127.0.0.1:3306`, `tcp [::1]:3306`.
pub fn tcp(host: &str, port: u16) -> String {
    if host.contains(':') { format!("tcp [{host}]:{port}") } else { format!("tcp {host}:{port}") }
}

/// The failure to connect to `at`, which is spelt as [`tcp`] spells it.
pub fn failure(at: &str, error: &io::Error) -> String {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => format!("dial {at}: connect: connection refused"),
        ErrorKind::NotFound => format!("dial {at}: connect: no such file or directory"),
        ErrorKind::PermissionDenied => format!("dial {at}: connect: permission denied"),
        ErrorKind::HostUnreachable => format!("dial {at}: connect: no route to host"),
        ErrorKind::NetworkUnreachable => format!("dial {at}: connect: network is unreachable"),
        ErrorKind::ConnectionReset => format!("dial {at}: connection reset by peer"),
        ErrorKind::TimedOut => format!("dial {at}: i/o timeout"),
        ErrorKind::UnexpectedEof => format!("dial {at}: the server closed the connection (unexpected EOF)"),
        _ => format!("dial {at}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelt_as_go_spells_it() {
        assert_eq!(tcp("::1", 1), "tcp [::1]:1");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(failure(&tcp("h", 1), &refused), "dial tcp h:1: connect: connection refused");
    }
}
