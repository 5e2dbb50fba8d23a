//! A network between a client and a server that does what networks do: delays, cuts, swallows, crawls and garbles.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::random::Random;

/// What happens to what passes. A change holds for open connections, too, and for what they hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// Every piece of data takes so long, each way.
    Slow(Duration),
    /// Nothing arrives while this lasts, and nobody is told. Afterwards it does.
    BlackHole,
    /// So many bytes a second.
    Crawl(u32),
    /// One character in so many of what the server says is another. Lengths of messages stay believable: the PostgreSQL
    /// driver makes room for whatever length it is told, up to 4 GiB.
    Garbled(u64),
    /// A connection breaks in the middle of an answer, after fewer bytes than this from the server.
    Breaking(u64),
    /// Nobody is let in.
    Closed,
}

/// What is garbled, and into what.
const TEXT: std::ops::Range<u8> = b' '..127;

/// The proxy. It ends with this value.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    weather: watch::Sender<Weather>,
    random: Mutex<Random>,
    open: Mutex<Vec<AbortHandle>>,
    taken: AtomicU64,
}

impl Shared {
    fn random(&self) -> Random {
        self.random.lock().unwrap().split()
    }
}

impl Proxy {
    /// In front of `127.0.0.1:server`.
    pub fn start(server: u16, seed: u64) -> Proxy {
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::Fair),
            random: Mutex::new(Random::new(seed)),
            open: Mutex::default(),
            taken: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = shared.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
            while let Ok((client, _)) = listener.accept().await {
                accepting.taken.fetch_add(1, Ordering::SeqCst);
                if *accepting.weather.borrow() == Weather::Closed {
                    // With a reset, as from a port that nobody listens on.
                    let _ = client.set_zero_linger();
                    continue;
                }
                let passing = tokio::spawn(pass(client, server, accepting.clone()));
                let mut open = accepting.open.lock().unwrap();
                open.retain(|task| !task.is_finished());
                open.push(passing.abort_handle());
            }
        });
        Proxy { port, shared, runtime: Some(runtime) }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        self.shared.open.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    /// How many connections have come in so far.
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn pass(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let mut weather = shared.weather.subscribe();
    if weather.wait_for(|weather| *weather != Weather::BlackHole).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let questions = Pipe { weather: weather.clone(), answers: None };
    let answers = Pipe { weather, answers: Some(shared.random()) };
    // The end of one side is passed on; a break ends both.
    tokio::select! {
        true = questions.pass(from_client, to_server) => {}
        true = answers.pass(from_server, to_client) => {}
        else => {}
    }
}

/// One direction of a connection.
struct Pipe {
    weather: watch::Receiver<Weather>,
    /// Of the direction in which answers go: what is garbled and where it breaks.
    answers: Option<Random>,
}

impl Pipe {
    /// Passes on until one side ends. True if the connection is to break.
    async fn pass(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> bool {
        let mut buffer = vec![0; 4096];
        let mut until_break: Option<u64> = None;
        loop {
            let length = match from.read(&mut buffer).await {
                Ok(0) => {
                    let _ = self.weather.wait_for(|weather| *weather != Weather::BlackHole).await;
                    let _ = to.shutdown().await;
                    return false;
                }
                Ok(length) => length,
                Err(_) => return true,
            };
            let mut rest = &mut buffer[..length];
            while !rest.is_empty() {
                let now = *self.weather.borrow_and_update();
                let step = match now {
                    Weather::BlackHole => {
                        if self.weather.changed().await.is_err() {
                            return true;
                        }
                        continue;
                    }
                    Weather::Crawl(rate) => {
                        self.wait(Duration::from_secs(1) / rate).await;
                        1
                    }
                    Weather::Slow(time) => {
                        self.wait(time).await;
                        rest.len()
                    }
                    Weather::Garbled(one_in) => {
                        if let Some(random) = &mut self.answers {
                            for byte in rest.iter_mut().filter(|byte| TEXT.contains(byte)) {
                                if random.below(one_in) == 0 {
                                    *byte = TEXT.start + random.below(TEXT.len() as u64) as u8;
                                }
                            }
                        }
                        rest.len()
                    }
                    Weather::Breaking(limit) => match &mut self.answers {
                        Some(random) => {
                            let left = until_break.get_or_insert_with(|| random.below(limit));
                            let step = (*left as usize).min(rest.len());
                            *left -= step as u64;
                            if step == 0 {
                                return true;
                            }
                            step
                        }
                        None => rest.len(),
                    },
                    Weather::Fair | Weather::Closed => rest.len(),
                };
                let (now, later) = rest.split_at_mut(step);
                if to.write_all(now).await.is_err() {
                    return true;
                }
                rest = later;
            }
        }
    }

    /// Waits, but not beyond a change of the weather.
    async fn wait(&mut self, time: Duration) {
        let _ = tokio::time::timeout(time, self.weather.changed()).await;
    }
}

#[test]
fn the_weather_changes() {
    use std::io::{Read, Write};
    use std::time::Instant;

    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(server.local_addr().unwrap().port(), 1);
    std::thread::spawn(move || {
        for connection in server.incoming() {
            std::thread::spawn(move || {
                let mut connection = connection.unwrap();
                let mut byte = [0];
                while connection.read_exact(&mut byte).is_ok() && connection.write_all(&[b'7'; 64]).is_ok() {}
            });
        }
    });
    let connect = || {
        let connection = std::net::TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        connection.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        connection
    };
    let ask = |connection: &mut std::net::TcpStream| {
        let mut answer = [0; 64];
        connection.write_all(&[1])?;
        connection.read_exact(&mut answer).map(|()| answer)
    };
    let mut open = connect();
    assert_eq!(ask(&mut open).unwrap(), [b'7'; 64]);
    proxy.set(Weather::Garbled(8));
    assert_ne!(ask(&mut open).unwrap(), [b'7'; 64]);
    for weather in [Weather::Crawl(1), Weather::BlackHole, Weather::Slow(Duration::from_secs(60))] {
        proxy.set(Weather::Fair);
        let mut open = connect();
        assert_eq!(ask(&mut open).unwrap(), [b'7'; 64]);
        proxy.set(weather);
        assert!(ask(&mut open).is_err(), "{weather:?}");
        proxy.set(Weather::Fair);
        let begin = Instant::now();
        open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        open.shutdown(std::net::Shutdown::Write).unwrap();
        open.read_to_end(&mut rest).unwrap();
        assert!(
            rest.len() >= 63 && begin.elapsed() < Duration::from_secs(10),
            "what was held back arrives: {weather:?}"
        );
    }
    proxy.set(Weather::Breaking(60));
    assert!(ask(&mut connect()).is_err());
    proxy.set(Weather::Closed);
    assert!(ask(&mut connect()).is_err());
    proxy.set(Weather::Fair);
    let mut open = connect();
    assert_eq!(ask(&mut open).unwrap(), [b'7'; 64]);
    proxy.cut();
    assert!(ask(&mut open).is_err());
    assert_eq!(proxy.taken(), 7);
}
