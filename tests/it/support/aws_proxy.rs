//! Stands between the engine and AWS, and spoils what it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What happens to a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is answered with this code and HTTP status, and does not happen.
    Refuse(&'static str, u16),
    /// It does not happen, and nobody answers.
    Cut,
    /// It happens, and nobody answers.
    CutAfter,
}

type Faults = Arc<Mutex<Vec<(String, Fault, usize)>>>;

/// A running proxy. It ends with the test's process.
pub struct Proxy {
    port: u16,
    faults: Faults,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Before the server at this URL.
    pub fn before(url: &str) -> Proxy {
        let upstream = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (faults, seen) = (Faults::default(), Arc::<Mutex<Vec<String>>>::default());
        let (of_thread, seen_by) = (faults.clone(), seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (faults, seen, upstream) = (of_thread.clone(), seen_by.clone(), upstream.clone());
                thread::spawn(move || serve(stream, &upstream, &faults, &seen));
            }
        });
        Proxy { port, faults, seen }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Spoils the next `times` calls of `action`.
    pub fn spoil(&self, action: &str, fault: Fault, times: usize) {
        self.faults.lock().unwrap().push((action.to_owned(), fault, times));
    }

    /// Spoils nothing any more.
    pub fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// Everything that was asked for, in turn.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How often an action was asked for.
    pub fn count(&self, action: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| *seen == action).count()
    }
}

fn serve(stream: TcpStream, upstream: &str, faults: &Faults, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((head, body)) = request(&mut reader) {
        let text = String::from_utf8_lossy(&body);
        let action = text.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default().to_owned();
        seen.lock().unwrap().push(action.clone());
        let mut answer = &stream;
        match next(faults, &action) {
            Some(Fault::Refuse(code, status)) => {
                let body = format!(
                    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>on purpose</Message></Error>\
                     <RequestId>r-1</RequestId></ErrorResponse>"
                );
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: text/xml\r\nx-amzn-requestid: r-1\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                if answer.write_all((head + &body).as_bytes()).is_err() {
                    return;
                }
            }
            Some(Fault::Cut) => return,
            fault => {
                let Some(reply) = forward(upstream, &head, &body) else { return };
                if matches!(fault, Some(Fault::CutAfter)) || answer.write_all(&reply).is_err() {
                    return;
                }
                // The server ends its connections so, and so do we.
                return;
            }
        }
    }
}

fn next(faults: &Faults, action: &str) -> Option<Fault> {
    let mut faults = faults.lock().unwrap();
    let (_, fault, times) = faults.iter_mut().find(|(of, _, times)| of == action && *times > 0)?;
    *times -= 1;
    Some(fault.clone())
}

fn request(reader: &mut impl BufRead) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if !lower.starts_with("connection:") {
            head.extend_from_slice(line.as_bytes());
        }
        if line == "\r\n" {
            head.truncate(head.len() - 2);
            head.extend_from_slice(b"connection: close\r\n\r\n");
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn forward(upstream: &str, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(upstream).ok()?;
    server.write_all(head).ok()?;
    server.write_all(body).ok()?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).ok()?;
    Some(reply)
}
