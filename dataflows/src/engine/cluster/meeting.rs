//! How the processes of a cluster find one another: each listens, tells its address, learns those of all,
//! and then has two connections with each other process.
//!
//! ```text
//!   hello:  "tallyflo" token(16) length(u32) JSON[length]     from both sides, the caller's first
//! ```
//! A process calls those before it. Who does not know the token is not answered and keeps nobody waiting.

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"tallyflo";
/// Of the hello, of the notes and of what workers exchange.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");
const HEAD: usize = 28;
const HELLO_BYTES_MAX: usize = 4_096;
/// How long a hello and its answer may take.
const HELLO: Duration = Duration::from_secs(2);
/// How long who does not answer is left alone.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked for callers.
const LOOK: Duration = Duration::from_millis(5);
/// How many callers may be in the midst of their hello.
const CALLERS_MAX: usize = 64;

/// A process's place in a cluster, and what all of them must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which one it is, from 0; process 0 leads.
    pub process: usize,
    pub processes: usize,
    /// Worker threads of each process.
    pub workers: usize,
    /// A secret of this start of the cluster: who does not know it is a stranger.
    pub token: [u8; 16],
    /// A digest of the configuration, of the secret of the hashes too.
    pub digest: String,
}

/// A process that listens and has told nobody yet.
#[derive(Debug)]
pub struct Meeting {
    listener: TcpListener,
    address: SocketAddr,
}

/// A process that is connected with all others; see [`Engine::start_in`](crate::engine::Engine::start_in).
#[derive(Debug)]
pub struct Cluster {
    pub(super) membership: Membership,
    pub(super) addresses: Vec<String>,
    /// By process; `None`: its own place.
    pub(super) pairs: Vec<Option<Pair>>,
}

/// The connections with one other process.
#[derive(Debug)]
pub(super) struct Pair {
    pub data: TcpStream,
    pub wire: TcpStream,
}

/// Why the processes did not come together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("process {process} of {processes} has no place among {addresses} addresses; name one for each process")]
    NoPlace { process: usize, processes: usize, addresses: usize },
    #[error("process {process} ({address}) runs version {theirs}, this one {ours}; run the same program everywhere")]
    OtherVersion { process: usize, address: String, theirs: String, ours: String },
    #[error(
        "process {process} ({address}) is configured as {theirs}, this one as {ours}; give all processes the same \
         configuration"
    )]
    OtherConfiguration { process: usize, address: String, theirs: String, ours: String },
    #[error("{missing} did not come within {within_ms} ms: {why}; start all processes of the cluster")]
    Missing { missing: String, within_ms: u64, why: String },
    #[error("listening for the other processes failed: {0}")]
    Io(String),
}

/// What each side says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    version: String,
    digest: String,
    processes: usize,
    workers: usize,
    from: usize,
    to: usize,
    way: Way,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    Data,
    Wire,
}

/// Of a hello of any version.
#[derive(Deserialize)]
struct AnyHello {
    version: String,
    #[serde(default)]
    from: usize,
}

/// A connection that has come about.
struct Met {
    process: usize,
    way: Way,
    stream: TcpStream,
}

impl Meeting {
    /// Listens. Port 0 takes a free one.
    pub fn open(on: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(on)?;
        let address = listener.local_addr()?;
        Ok(Meeting { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects with all others, which are at these addresses (`host:port`), by process. Blocks, at most for
    /// so long.
    pub fn join(self, us: &Membership, addresses: &[String], within: Duration) -> Result<Cluster, JoinError> {
        let Membership { process, processes, .. } = *us;
        if process >= processes || addresses.len() != processes {
            return Err(JoinError::NoPlace { process, processes, addresses: addresses.len() });
        }
        let failed = |error: io::Error| JoinError::Io(error.to_string());
        self.listener.set_nonblocking(true).map_err(failed)?;
        let us = &Membership { workers: us.workers.max(1), ..us.clone() };
        let until = Instant::now() + within;
        let over = Arc::new(AtomicBool::new(false));
        let (send, met) = channel();
        for (peer, address) in addresses.iter().enumerate().take(process) {
            for way in [Way::Data, Way::Wire] {
                let (us, address, send, over) = (us.clone(), address.clone(), send.clone(), over.clone());
                let call = move || call(&us, (peer, &address, way), until, &send, &over);
                std::thread::Builder::new().name(format!("call-{peer}")).spawn(call).map_err(failed)?;
            }
        }
        let mut found: Vec<(Option<TcpStream>, Option<TcpStream>)> = (0..processes).map(|_| (None, None)).collect();
        let mut why = "no answer".to_owned();
        let callers = Arc::new(AtomicUsize::new(0));
        let result = loop {
            let is_missing = |(at, (data, wire)): &(usize, &(Option<TcpStream>, Option<TcpStream>))| {
                *at != process && (data.is_none() || wire.is_none())
            };
            if !found.iter().enumerate().any(|one| is_missing(&one)) {
                break Ok(());
            }
            if Instant::now() > until {
                let missing = found.iter().enumerate().filter(is_missing);
                let missing: Vec<_> = missing.map(|(at, _)| format!("process {at} ({})", addresses[at])).collect();
                let within_ms = within.as_millis() as u64;
                break Err(JoinError::Missing { missing: missing.join(", "), within_ms, why });
            }
            match self.listener.accept() {
                Ok((stream, _)) if callers.load(Ordering::Acquire) < CALLERS_MAX => {
                    callers.fetch_add(1, Ordering::AcqRel);
                    let (us, addresses, send, callers) =
                        (us.clone(), addresses.to_vec(), send.clone(), callers.clone());
                    let answer = move || {
                        // Of strangers nothing is told.
                        if let Some(met) = answer(stream, &us, &addresses).transpose() {
                            send.send(met.map_err(Trouble::Final)).ok();
                        }
                        callers.fetch_sub(1, Ordering::AcqRel);
                    };
                    std::thread::Builder::new().name("answer".to_owned()).spawn(answer).map_err(failed)?;
                }
                // One too many is let go, and calls again.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => why = error.to_string(),
            }
            match met.recv_timeout(LOOK) {
                Ok(Ok(Met { process, way, stream })) => match way {
                    Way::Data => found[process].0 = Some(stream),
                    Way::Wire => found[process].1 = Some(stream),
                },
                Ok(Err(Trouble::Final(error))) => break Err(error),
                Ok(Err(Trouble::Passing(error))) => why = error,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        };
        over.store(true, Ordering::Release);
        result?;
        let pair = |(data, wire)| match (data, wire) {
            (Some(data), Some(wire)) => Some(Pair { data, wire }),
            _ => None,
        };
        let pairs = found.into_iter().map(pair).collect();
        Ok(Cluster { membership: us.clone(), addresses: addresses.to_vec(), pairs })
    }
}

/// Why a call did not come about.
enum Trouble {
    /// It may the next time.
    Passing(String),
    Final(JoinError),
}

fn call(
    us: &Membership,
    (peer, address, way): (usize, &str, Way),
    until: Instant,
    send: &Sender<Result<Met, Trouble>>,
    over: &AtomicBool,
) {
    while !over.load(Ordering::Acquire) && Instant::now() < until {
        let met = call_once(us, (peer, address, way));
        let is_passing = matches!(met, Err(Trouble::Passing(_)));
        if send.send(met).is_err() || !is_passing {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

fn call_once(us: &Membership, (peer, address, way): (usize, &str, Way)) -> Result<Met, Trouble> {
    let passing = |error: io::Error| Trouble::Passing(format!("process {peer} ({address}): {error}"));
    let mut last = io::Error::other("the name has no address");
    let mut connected = None;
    for at in address.to_socket_addrs().map_err(passing)? {
        match TcpStream::connect_timeout(&at, HELLO) {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = error,
        }
    }
    let Some(mut stream) = connected else { return Err(passing(last)) };
    let until = Instant::now() + HELLO;
    let hello = us.hello(peer, way);
    let said = stream.set_nodelay(true).and_then(|()| write_hello(&mut stream, us, &hello));
    said.map_err(passing)?;
    let answer = read_hello(&mut stream, us, until).map_err(passing)?;
    us.check(&answer, address).map_err(Trouble::Final)?;
    Ok(Met { process: peer, way, stream })
}

/// Answers a caller; `None`: a stranger.
fn answer(mut stream: TcpStream, us: &Membership, addresses: &[String]) -> Result<Option<Met>, JoinError> {
    let until = Instant::now() + HELLO;
    let ready = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
    let Ok(bytes) = ready.and_then(|()| read_hello(&mut stream, us, until)) else { return Ok(None) };
    let from = serde_json::from_slice(&bytes).map_or(0, |any: AnyHello| any.from);
    let way = serde_json::from_slice(&bytes).map_or(Way::Wire, |hello: Hello| hello.way);
    // Who calls is told who answers, so that both can say what differs.
    let written = write_hello(&mut stream, us, &us.hello(from, way));
    let address = addresses.get(from).map_or("an unknown place", String::as_str);
    let hello = us.check(&bytes, address)?;
    let is_ours = hello.to == us.process && hello.from > us.process && hello.from < us.processes;
    Ok((is_ours && written.is_ok()).then_some(Met { process: hello.from, way, stream }))
}

impl Cluster {
    /// Worker threads of each process.
    pub fn workers(&self) -> usize {
        self.membership.workers
    }
}

impl Membership {
    fn hello(&self, to: usize, way: Way) -> Hello {
        let version = VERSION.to_owned();
        let Membership { process, processes, workers, digest, .. } = self.clone();
        Hello { version, digest, processes, workers, from: process, to, way }
    }

    /// Whether who says so is one of us.
    fn check(&self, hello: &[u8], address: &str) -> Result<Hello, JoinError> {
        let ours = VERSION.to_owned();
        let (process, address) = (usize::MAX, address.to_owned());
        let any = serde_json::from_slice(hello).unwrap_or(AnyHello { version: "unknown".to_owned(), from: process });
        let process = any.from;
        if any.version != ours {
            return Err(JoinError::OtherVersion { process, address, theirs: any.version, ours });
        }
        let theirs: Hello = serde_json::from_slice(hello).map_err(|_| JoinError::OtherVersion {
            process,
            address: address.clone(),
            theirs: format!("{} with another hello", any.version),
            ours,
        })?;
        let of = |digest: &str, processes, workers| format!("{digest}, {processes} processes of {workers} workers");
        if (&theirs.digest, theirs.processes, theirs.workers) != (&self.digest, self.processes, self.workers) {
            let ours = of(&self.digest, self.processes, self.workers);
            let theirs = of(&theirs.digest, theirs.processes, theirs.workers);
            return Err(JoinError::OtherConfiguration { process, address, theirs, ours });
        }
        Ok(theirs)
    }
}

fn write_hello(to: &mut TcpStream, us: &Membership, hello: &Hello) -> io::Result<()> {
    let body = serde_json::to_vec(hello)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(us.token);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    to.set_write_timeout(Some(HELLO))?;
    to.write_all(&bytes)?;
    to.set_write_timeout(None)
}

/// The JSON of a hello with our token.
fn read_hello(from: &mut TcpStream, us: &Membership, until: Instant) -> io::Result<Vec<u8>> {
    let mut head = [0; HEAD];
    read_until(from, &mut head, until)?;
    if &head[..8] != MAGIC || head[8..24] != us.token {
        return Err(io::Error::other("it belongs to another cluster, or to another start of this one"));
    }
    let length = u32::from_le_bytes([head[24], head[25], head[26], head[27]]) as usize;
    if length > HELLO_BYTES_MAX {
        return Err(io::Error::other(format!("its hello has {length} bytes, more than {HELLO_BYTES_MAX}")));
    }
    let mut body = vec![0; length];
    read_until(from, &mut body, until)?;
    from.set_read_timeout(None)?;
    Ok(body)
}

fn not_accepted() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "it did not accept the call; it belongs to another cluster, or to another start of this one",
    )
}

/// Fills the buffer, however slowly it comes, until then.
fn read_until(from: &mut TcpStream, buffer: &mut [u8], until: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not say who it is"));
        }
        from.set_read_timeout(Some(left))?;
        match from.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(not_accepted()),
            Ok(0) => return Err(not_accepted()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
