//! Wiping what the HTTP/2 library read.
//!
//! The library reads into one block per connection, cuts frames off it and uses the room again when it needs some; it
//! clears nothing. So after messages have come, it is given something else to read: frames of a type that nobody knows,
//! which every receiver has to pass over (RFC 9113, section 4.1), full of zeros, and more of them than the block is large.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::secret::memory::WIPE_KEPT;

/// How long a message may stay in the library's block. A busy connection is scrubbed that often, not after each message.
const DELAY: Duration = Duration::from_millis(100);
/// Length of a frame's header.
const HEADER: usize = 9;
/// The largest payload that every receiver takes.
const PAYLOAD: usize = 16 * 1024;
/// How much is fed. The block has 64 KiB at most: it grows when a frame of 16 KiB does not fit, to twice what it was.
/// What is read into it goes on behind what was read before, and starts again at the front when no room is left: twice
/// the block, and a frame more for what is lost at the turn, covers all of it wherever it was.
const FRAMES: usize = 10;
/// A type of frame that is not assigned, and that nobody is likely to be assigned: `'~'`.
const UNKNOWN: u8 = 0x7e;
/// A payload up to this length is a number or nothing: the five bytes of gRPC, a tag and eleven more at most.
const HARMLESS: usize = 16;

/// A connection to an HTTP/2 library, as that library sees it.
pub(super) struct Scrubbed<S> {
    inner: S,
    frames: Frames,
    delay: Duration,
    /// When it is time to scrub; `None` while nothing came that may hold a secret.
    due: Option<Pin<Box<Sleep>>>,
    /// How much is still to be fed.
    feed: usize,
}

impl<S> Scrubbed<S> {
    /// Bytes of a client, which begin with its preface.
    pub(super) fn from_client(inner: S) -> Self {
        Self::new(inner, Part::Passing(24))
    }

    /// Bytes of a server.
    pub(super) fn from_server(inner: S) -> Self {
        Self::new(inner, Part::Header)
    }

    fn new(inner: S, part: Part) -> Self {
        let frames = Frames { part, header: [0; HEADER], held: 0, open_headers: false, messages: false };
        Self { inner, frames, delay: DELAY, due: None, feed: 0 }
    }

    /// Gives the library its next piece of what is fed.
    fn feed(&mut self, buf: &mut ReadBuf<'_>) {
        const FRAME: usize = HEADER + PAYLOAD;
        let [_, length @ ..] = (PAYLOAD as u32).to_be_bytes();
        while self.feed > 0 && buf.remaining() > 0 {
            let at = (FRAME - self.feed % FRAME) % FRAME;
            let header = [length[0], length[1], length[2], UNKNOWN, 0, 0, 0, 0, 0];
            let piece = if at < HEADER { &header[at..] } else { &[0; PAYLOAD][at - HEADER..] };
            let piece = &piece[..piece.len().min(buf.remaining())];
            buf.put_slice(piece);
            self.feed -= piece.len();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Scrubbed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut most = buf.remaining();
        if this.feed == 0 && this.due.as_mut().is_some_and(|due| due.as_mut().poll(cx).is_ready()) {
            match this.frames.to_boundary() {
                0 => {
                    this.due = None;
                    this.feed = FRAMES * (HEADER + PAYLOAD);
                }
                // Not in the middle of something else.
                rest => most = most.min(rest),
            }
        }
        if this.feed > 0 {
            this.feed(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = if most == buf.remaining() {
            Pin::new(&mut this.inner).poll_read(cx, buf)
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            let polled = Pin::new(&mut this.inner).poll_read(cx, &mut part);
            let read = part.filled().len();
            buf.advance(read);
            polled
        };
        this.frames.read(&buf.filled()[before..]);
        if std::mem::take(&mut this.frames.messages) && this.due.is_none() && WIPE_KEPT {
            let mut due = Box::pin(tokio::time::sleep(this.delay));
            // So that it wakes this task.
            let _ = due.as_mut().poll(cx);
            this.due = Some(due);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Scrubbed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    /// Decides from which size on the library sends a payload by reference instead of copying it.
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Where in the frames of a connection we are.
struct Frames {
    part: Part,
    /// The frame's header, as far as it has come.
    header: [u8; HEADER],
    held: usize,
    /// A block of headers goes on in the next frame: nothing may come between.
    open_headers: bool,
    /// Something came that may hold a secret.
    messages: bool,
}

#[derive(Clone, Copy)]
enum Part {
    /// A header comes.
    Header,
    /// So many bytes of no interest.
    Passing(usize),
}

impl Frames {
    /// Takes the next bytes.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.part {
                Part::Passing(left) => {
                    let passed = left.min(bytes.len());
                    bytes = &bytes[passed..];
                    self.part = if passed == left { Part::Header } else { Part::Passing(left - passed) };
                }
                Part::Header => {
                    let taken = (HEADER - self.held).min(bytes.len());
                    self.header[self.held..self.held + taken].copy_from_slice(&bytes[..taken]);
                    self.held += taken;
                    bytes = &bytes[taken..];
                    if self.held == HEADER {
                        self.held = 0;
                        self.begin();
                    }
                }
            }
        }
    }

    fn begin(&mut self) {
        let [l1, l2, l3, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        match kind {
            // DATA.
            0 => self.messages |= length > HARMLESS,
            // HEADERS, PUSH_PROMISE, CONTINUATION; the flag says that it was the last.
            1 | 5 | 9 => self.open_headers = flags & 0x04 == 0,
            _ => {}
        }
        self.part = if length == 0 { Part::Header } else { Part::Passing(length) };
    }

    /// How many bytes may be read until another frame could come between; 0 if it could now.
    fn to_boundary(&self) -> usize {
        match self.part {
            Part::Passing(left) => left,
            Part::Header if self.held > 0 || self.open_headers => HEADER - self.held,
            Part::Header => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes out without the frames that nobody knows, and how many of those there were.
    fn known(mut bytes: &[u8], preface: usize) -> (Vec<u8>, usize) {
        let mut rest = bytes[..preface].to_vec();
        bytes = &bytes[preface..];
        let mut unknown = 0;
        while !bytes.is_empty() {
            let length = HEADER + u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let (frame, more) = bytes.split_at(length);
            if frame[3] == UNKNOWN {
                assert!(frame[HEADER..].iter().all(|byte| *byte == 0) && frame.len() == HEADER + PAYLOAD);
                unknown += 1;
            } else {
                rest.extend(frame);
            }
            bytes = more;
        }
        (rest, unknown)
    }

    async fn read_all(stream: &mut (impl AsyncRead + Unpin), sizes: &[usize]) -> Vec<u8> {
        let mut all = Vec::new();
        for size in sizes.iter().cycle() {
            let mut piece = vec![0; *size];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return all,
                Ok(read) => all.extend_from_slice(&piece[..read]),
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever is on the connection and however it comes: all of it arrives, and nothing comes in the middle of
        /// a frame or of a block of headers.
        #[test]
        fn frames_arrive_whole(
            frames in prop::collection::vec((0u8..12, any::<bool>(), 0usize..300, any::<bool>()), 1..20),
            cuts in prop::collection::vec(1usize..200, 1..20),
            sizes in prop::collection::vec(1usize..40_000, 1..10),
            client in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let preface = if client { 24 } else { 0 };
                let mut bytes = vec![b'P'; preface];
                for (kind, end, length, _) in &frames {
                    bytes.extend(frame(*kind, if *end { 4 } else { 0 }, &vec![b's'; *length]));
                }
                let (mut peer, socket) = duplex(64);
                let mut stream =
                    if client { Scrubbed::from_client(socket) } else { Scrubbed::from_server(socket) };
                stream.delay = Duration::from_millis(1);
                let sent = bytes.clone();
                let sending = async move {
                    let (mut rest, mut cuts) = (&sent[..], cuts.iter().cycle());
                    for (.., pause) in frames.iter().cycle() {
                        if rest.is_empty() {
                            break;
                        }
                        let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                        peer.write_all(now).await.unwrap();
                        rest = later;
                        if *pause {
                            tokio::time::sleep(Duration::from_millis(3)).await;
                        }
                    }
                };
                let (read, ()) = tokio::join!(read_all(&mut stream, &sizes), sending);
                let (rest, _) = known(&read, preface);
                prop_assert_eq!(rest, bytes);
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn messages_are_followed_by_zeros_and_numbers_are_not() {
        let (mut peer, socket) = duplex(4096);
        let mut stream = Scrubbed::from_server(socket);
        let mut piece = vec![0; 200_000];
        for (payload, expected) in [(HARMLESS, 0), (HARMLESS + 1, FRAMES), (0, 0), (300, FRAMES)] {
            // Before the moment from which the delay counts, however long this test has to wait for its turn.
            let begun = std::time::Instant::now();
            peer.write_all(&frame(0, 0, &vec![7; payload])).await.unwrap();
            assert_eq!(stream.read(&mut piece).await.unwrap(), HEADER + payload);
            let fed = match tokio::time::timeout(3 * DELAY, stream.read(&mut piece)).await {
                Ok(read) => known(&piece[..read.unwrap()], 0).1,
                Err(_) => 0,
            };
            assert_eq!(fed, expected, "after {payload} bytes");
            assert!(begun.elapsed() >= DELAY);
        }
    }
}
