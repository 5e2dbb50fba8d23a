//! A TLS connection that keeps nothing of what came over it.
//!
//! The usual adapter decrypts in a buffer that lives as long as the connection and is not cleared, so the last record
//! stays in it. This one owns the buffers and clears each record once it was handed on.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use zeroize::Zeroize as _;

use crate::secret::memory::WIPE_KEPT;

/// How much is read from the socket at once: a record of the largest size.
const RECORD: usize = 5 + 16 * 1024 + 256;
/// The most that one write takes in.
const WRITE: usize = 64 * 1024;

/// One end of a connection.
pub(in crate::wire) trait Side: Unpin + Send {
    /// What the library keeps for this end.
    type Data: 'static;
    /// See the library's `process_tls_records`.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// A connection whose handshake is done.
pub(in crate::wire) struct TlsStream<S, C> {
    socket: S,
    session: Session<C>,
}

/// The records on their way.
struct Session<C> {
    connection: C,
    /// Of the peer: the first `filled` bytes are records that did not come whole yet.
    incoming: Vec<u8>,
    filled: usize,
    /// Decrypted and not yet asked for.
    plaintext: VecDeque<u8>,
    /// Encrypted and not yet sent.
    outgoing: Vec<u8>,
    /// The peer said that nothing more comes.
    closed: bool,
    /// We said so.
    said_goodbye: bool,
}

/// What the session can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nothing until more has come from the peer.
    NotYet,
    /// Send.
    ToSend,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S, UnbufferedServerConnection> {
    /// Answers the peer's handshake.
    pub(in crate::wire) async fn accept(socket: S, config: Arc<ServerConfig>) -> io::Result<Self> {
        Self::shake_hands(socket, UnbufferedServerConnection::new(config).map_err(invalid)?).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S, UnbufferedClientConnection> {
    /// Begins the handshake.
    pub(in crate::wire) async fn connect(
        socket: S,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        Self::shake_hands(socket, UnbufferedClientConnection::new(config, name).map_err(invalid)?).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Side> TlsStream<S, C> {
    async fn shake_hands(mut socket: S, connection: C) -> io::Result<Self> {
        let mut session = Session {
            connection,
            incoming: vec![0; RECORD],
            filled: 0,
            plaintext: VecDeque::new(),
            outgoing: Vec::new(),
            closed: false,
            said_goodbye: false,
        };
        loop {
            let advanced = session.advance();
            // What the peer should know, the reason of a refusal too.
            socket.write_all(&session.outgoing).await?;
            session.outgoing.clear();
            match advanced? {
                _ if session.closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ready::ToSend => return Ok(Self { socket, session }),
                Ready::NotYet => match socket.read(session.room()).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => session.filled += read,
                },
            }
        }
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.session.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.outgoing.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what can be sent now; the rest goes with the next write or flush.
    fn send_some(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_send(cx) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }
}

impl<C: Side> Session<C> {
    /// Room for what comes next from the peer.
    fn room(&mut self) -> &mut [u8] {
        if self.incoming.len() - self.filled < RECORD / 2 {
            self.incoming.resize(self.incoming.len() + RECORD, 0);
        }
        &mut self.incoming[self.filled..]
    }

    /// Takes in all records that came whole, and clears them.
    fn advance(&mut self) -> io::Result<Ready> {
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process(&mut self.incoming[..self.filled]);
            let mut ready = None;
            let state = state.map_err(invalid).and_then(|state| {
                match state {
                    ConnectionState::ReadTraffic(mut traffic) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record.map_err(invalid)?;
                            discard += record.discard;
                            self.plaintext.extend(record.payload);
                        }
                    }
                    ConnectionState::EncodeTlsData(mut data) => append(&mut self.outgoing, |room| data.encode(room))?,
                    ConnectionState::TransmitTlsData(data) => data.done(),
                    ConnectionState::WriteTraffic(_) => ready = Some(Ready::ToSend),
                    ConnectionState::PeerClosed => self.closed = true,
                    ConnectionState::Closed => {
                        self.closed = true;
                        ready = Some(Ready::NotYet);
                    }
                    // Early data was not offered.
                    _ => ready = Some(Ready::NotYet),
                }
                Ok(())
            });
            // Decrypted in place: this is the text.
            if WIPE_KEPT {
                self.incoming[..discard].zeroize();
            }
            self.incoming.copy_within(discard..self.filled, 0);
            self.filled -= discard;
            if let Err(error) = state {
                self.say_why();
                return Err(error);
            }
            if let Some(ready) = ready {
                return Ok(ready);
            }
        }
    }

    /// After an error: the alert that is waiting, for the peer.
    fn say_why(&mut self) {
        let incoming = &mut self.incoming[..self.filled];
        while let Ok(ConnectionState::EncodeTlsData(mut alert)) = self.connection.process(incoming).state {
            if append(&mut self.outgoing, |room| alert.encode(room)).is_err() {
                return;
            }
        }
    }

    /// Encrypts `text`.
    fn encrypt(&mut self, text: &[u8]) -> io::Result<()> {
        // All that came whole was taken in before, so no text turns up here that a reader would have to be told of.
        self.advance()?;
        match self.connection.process(&mut self.incoming[..self.filled]).state.map_err(invalid)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                append(&mut self.outgoing, |room| traffic.encrypt(text, room))
            }
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Tells the peer that nothing more comes.
    fn say_goodbye(&mut self) -> io::Result<()> {
        if self.said_goodbye {
            return Ok(());
        }
        self.said_goodbye = true;
        self.advance()?;
        match self.connection.process(&mut self.incoming[..self.filled]).state.map_err(invalid)? {
            ConnectionState::WriteTraffic(mut traffic) => {
                append(&mut self.outgoing, |room| traffic.queue_close_notify(room))
            }
            _ => Ok(()),
        }
    }
}

/// Lets `write` append to `out`, with as much room as it asks for.
fn append<E: TooShort>(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, E>) -> io::Result<()> {
    let from = out.len();
    let written = match write(&mut []) {
        Ok(written) => written,
        Err(error) => {
            let size = error.required().ok_or_else(|| io::Error::other(error))?;
            out.resize(from + size, 0);
            write(&mut out[from..]).map_err(io::Error::other)?
        }
    };
    out.truncate(from + written);
    Ok(())
}

/// An error that may say how much room it wants.
trait TooShort: std::error::Error + Send + Sync + 'static {
    fn required(&self) -> Option<usize>;
}

impl TooShort for EncodeError {
    fn required(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
            Self::AlreadyEncoded => None,
        }
    }
}

impl TooShort for EncryptError {
    fn required(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
            Self::EncryptExhausted => None,
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Side> AsyncRead for TlsStream<S, C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.session.plaintext.is_empty() {
                this.session.hand_over(buf);
                return Poll::Ready(Ok(()));
            }
            if this.session.closed {
                return Poll::Ready(Ok(()));
            }
            let mut room = ReadBuf::new(this.session.room());
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut room))?;
            let read = room.filled().len();
            if read == 0 {
                // Without a goodbye, something may be missing.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.session.filled += read;
            let advanced = this.session.advance();
            this.send_some(cx)?;
            advanced?;
        }
    }
}

impl<C> Session<C> {
    /// Moves as much text as fits to `buf`, and clears it here.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let (first, second) = self.plaintext.as_mut_slices();
        let mut moved = 0;
        for part in [first, second] {
            let fits = part.len().min(buf.remaining());
            let part = &mut part[..fits];
            buf.put_slice(part);
            if WIPE_KEPT {
                part.zeroize();
            }
            moved += part.len();
        }
        self.plaintext.drain(..moved);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Side> AsyncWrite for TlsStream<S, C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.say_goodbye()?;
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One write's worth waits at most.
        ready!(self.poll_send(cx))?;
        let mut taken = 0;
        for buf in bufs {
            let part = &buf[..buf.len().min(WRITE - taken)];
            if !part.is_empty() {
                self.session.encrypt(part)?;
                taken += part.len();
            }
        }
        self.send_some(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
