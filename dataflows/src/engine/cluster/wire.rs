//! The wire between the engines of a cluster: notes in frames of a length (u32, little endian) and a
//! postcard body, with a thread to write and one to read for each other process.

use crate::checkpoint::Kind;
use crate::checkpoint::manifest::{File, Place};
use crate::claim::Position;
use crate::engine::cluster::{Cluster, Membership};
use crate::engine::job::Install;
use crate::engine::{Command, PollChange, lock};
use crate::ids::{Offset, PartitionId};
use crate::update::JobId;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a process gives a sign of life.
const BEAT: Duration = Duration::from_millis(200);
/// Sources wait while more notes than this are to be sent to one process.
const QUEUED_MAX: usize = 256;
/// No note is longer: an epoch's changes are told in pieces well below it.
const NOTE_BYTES_MAX: u32 = 1 << 30;

/// What engines say to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// A sign of life: for how long the slowest worker has not come round, and whether sources are to wait.
    Beat {
        silence_ms: u64,
        full: bool,
    },
    /// The job's clock stands there, or further on.
    Clock {
        job: JobId,
        epoch: u64,
    },
    /// A process has made the job, and asks where its clock stands.
    Joined {
        job: JobId,
    },

    /// To the leader: the job's dataflow stands on all workers of the process, or is gone from them.
    Built {
        job: JobId,
    },
    Gone {
        job: JobId,
    },
    /// To the leader: the job can't go on.
    Failed {
        job: JobId,
        error: String,
        at: Option<Position>,
    },
    /// To the leader: a partition is waited for, or is read again.
    Waits {
        job: JobId,
        input: u32,
        partition: PartitionId,
        why: Option<String>,
    },
    /// To the leader: the process has obeyed the order of this number; by input and partition, where reading
    /// stands as far as it knows.
    Obeyed {
        order: u64,
        positions: Vec<Vec<Offset>>,
    },
    /// To the leader: the job's clock is held, at this epoch, for the checkpoint of that number.
    Held {
        job: JobId,
        number: u64,
        epoch: u64,
    },
    /// To the leader: a process's part of a checkpoint is written.
    Part {
        job: JobId,
        number: u64,
        files: Vec<File>,
        frames: Vec<PartFrame>,
        stall: Duration,
    },
    /// To the leader: it can't be written and is tried again.
    PartFailed {
        job: JobId,
        number: u64,
        error: String,
    },

    /// From the leader: do this.
    Order(Box<Order>),
    /// From the leader: a clock goes on; with the checkpoint that is due, if that comes about.
    Release {
        job: JobId,
        due: Option<Due>,
    },
    /// From the leader: the job has failed, here or elsewhere.
    HasFailed {
        job: JobId,
    },
}

/// A frame of a part: of the file with that place among the part's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PartFrame {
    pub kind: Kind,
    pub group: u16,
    pub all: bool,
    pub bytes: u64,
    pub file: u32,
}

/// A checkpoint that is due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Due {
    /// As the command named it.
    pub number: u64,
    pub epoch: u64,
    /// The number that its manifest will have.
    pub manifest: u64,
    /// The key groups that are to be written whole.
    pub rewrite: Vec<(Kind, u16)>,
}

/// What the leader has all processes do, in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    Install {
        install: Box<Install>,
        taken: Taken,
    },
    Keep {
        job: JobId,
        place: Place,
        taken: Taken,
    },
    /// A command that is for the workers.
    Pass(Command),
    /// Have the job's sources read nothing, and tell where they stand: the order's number.
    Freeze {
        job: JobId,
        order: u64,
    },
    /// Change the job's book, reading standing there; and tell.
    Change {
        job: JobId,
        change: Box<PollChange>,
        positions: Option<(u64, Vec<Vec<Offset>>)>,
    },
    /// Let the job's sources read on.
    Thaw {
        job: JobId,
    },
    /// A refill is shown or given up.
    EndRefill {
        job: JobId,
        number: u64,
        shown: bool,
    },
}

/// What the leader found when it took a job up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Taken {
    /// Nothing is kept of it.
    Unkept,
    /// With a claim of that number, and the number of the checkpoint to go on from.
    Claimed {
        claim: u64,
        from: Option<u64>,
    },
    Refused(String),
}

/// The engine behind a wire.
pub trait Station: Send + Sync {
    /// Takes a note; must not block.
    fn take(&self, from: usize, note: Note);
    /// For how long the slowest of the process's workers has not come round.
    fn silence(&self) -> Duration;
    /// Whether the node is behind.
    fn is_full(&self) -> bool;
}

/// What is known of another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    pub process: usize,
    pub address: String,
    /// For how long nothing was heard of it.
    pub silence: Duration,
    /// For how long the slowest of its workers has not come round, by its own word.
    pub workers_silence: Duration,
    /// Why it is lost, if it is.
    pub lost: Option<String>,
}

/// See the module.
pub struct Wire {
    pub membership: Membership,
    links: Vec<Option<Link>>,
    started: Instant,
    /// The engine is ending: what becomes of the others is of no account any more.
    stopping: AtomicBool,
    closed: Mutex<bool>,
    closes: Condvar,
}

struct Link {
    address: String,
    out: Mutex<Option<Sender<Outgoing>>>,
    queued: AtomicUsize,
    /// In ms since the start.
    heard: AtomicU64,
    silence_ms: AtomicU64,
    full: AtomicBool,
    lost: Mutex<Option<String>>,
    data: TcpStream,
    wire: TcpStream,
}

enum Outgoing {
    Note(Arc<Note>),
    /// A beat is due at once.
    Nudge,
}

/// The ends of the threads that are to be started.
pub struct Ends(Vec<(usize, TcpStream, Receiver<Outgoing>)>);

impl Wire {
    /// The wire of a cluster, whose threads [`Wire::run`] starts.
    pub fn of(cluster: &Cluster) -> io::Result<(Arc<Self>, Ends)> {
        let mut ends = Vec::new();
        let mut links = Vec::new();
        for (peer, pair) in cluster.pairs.iter().enumerate() {
            let Some(pair) = pair else {
                links.push(None);
                continue;
            };
            let (send, receive) = channel();
            ends.push((peer, pair.wire.try_clone()?, receive));
            links.push(Some(Link {
                address: cluster.addresses[peer].clone(),
                out: Mutex::new(Some(send)),
                queued: AtomicUsize::new(0),
                heard: AtomicU64::new(0),
                silence_ms: AtomicU64::new(0),
                full: AtomicBool::new(false),
                lost: Mutex::default(),
                data: pair.data.try_clone()?,
                wire: pair.wire.try_clone()?,
            }));
        }
        let (started, stopping) = (Instant::now(), AtomicBool::new(false));
        let (closed, closes) = (Mutex::default(), Condvar::new());
        let wire = Wire { membership: cluster.membership.clone(), links, started, stopping, closed, closes };
        Ok((Arc::new(wire), Ends(ends)))
    }

    /// Starts the threads.
    pub fn run(self: &Arc<Self>, ends: Ends, station: &Arc<dyn Station>) -> io::Result<()> {
        for (peer, stream, outgoing) in ends.0 {
            let (wire, ours, to) = (self.clone(), station.clone(), stream.try_clone()?);
            let write = move || wire.write(peer, to, &outgoing, ours.as_ref());
            std::thread::Builder::new().name(format!("wire-to-{peer}")).spawn(write)?;
            let (wire, ours) = (self.clone(), station.clone());
            let read = move || wire.read(peer, stream, ours.as_ref());
            std::thread::Builder::new().name(format!("wire-of-{peer}")).spawn(read)?;
        }
        Ok(())
    }

    pub fn process(&self) -> usize {
        self.membership.process
    }

    pub fn processes(&self) -> usize {
        self.membership.processes
    }

    pub fn is_leader(&self) -> bool {
        self.membership.process == 0
    }

    /// Whether a worker of this process owns the key group.
    pub fn owns(&self, group: usize) -> bool {
        let Membership { process, processes, workers, .. } = self.membership;
        group % (processes * workers) / workers == process
    }

    fn links(&self) -> impl Iterator<Item = (usize, &Link)> {
        self.links.iter().enumerate().filter_map(|(peer, link)| link.as_ref().map(|link| (peer, link)))
    }

    /// Tells one process, after all that it was told before.
    pub fn tell(&self, peer: usize, note: Note) {
        if let Some(link) = self.links.get(peer).and_then(Option::as_ref) {
            link.send(&Arc::new(note));
        }
    }

    pub fn tell_leader(&self, note: Note) {
        self.tell(0, note);
    }

    /// Tells all others.
    pub fn tell_all(&self, note: Note) {
        let note = Arc::new(note);
        self.links().for_each(|(_, link)| link.send(&note));
    }

    /// Gives a sign of life at once: what it says has changed.
    pub fn nudge(&self) {
        for (_, link) in self.links() {
            if let Some(out) = &*lock(&link.out) {
                out.send(Outgoing::Nudge).ok();
            }
        }
    }

    /// Whether sources are to wait for another process, or for what is to be sent to one.
    pub fn is_full(&self) -> bool {
        self.links().any(|(_, link)| link.full.load(Ordering::Acquire)) || self.has_queues()
    }

    fn has_queues(&self) -> bool {
        self.links().any(|(_, link)| link.queued.load(Ordering::Acquire) > QUEUED_MAX)
    }

    /// What is known of the other processes.
    pub fn peers(&self) -> Vec<PeerState> {
        let state = |(process, link): (usize, &Link)| {
            let heard = Duration::from_millis(link.heard.load(Ordering::Acquire));
            let workers_silence = Duration::from_millis(link.silence_ms.load(Ordering::Acquire));
            let silence = self.started.elapsed().saturating_sub(heard);
            let (address, lost) = (link.address.clone(), lock(&link.lost).clone());
            PeerState { process, address, silence, workers_silence, lost }
        };
        self.links().map(state).collect()
    }

    /// Something came from a process.
    pub fn heard(&self, peer: usize) {
        if let Some(link) = &self.links[peer] {
            link.heard.store(self.started.elapsed().as_millis() as u64, Ordering::Release);
        }
    }

    /// A connection with a process has ended: so do all of them.
    pub fn cut(&self, peer: usize, why: &str) {
        let Some(link) = &self.links[peer] else { return };
        lock(&link.lost).get_or_insert_with(|| why.to_owned());
        link.shut();
    }

    /// The engine is ending.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Ends all connections. The workers are gone.
    pub fn close(&self) {
        self.stop();
        *lock(&self.closed) = true;
        self.closes.notify_all();
        for (_, link) in self.links() {
            lock(&link.out).take();
            link.shut();
        }
    }

    pub fn is_closed(&self) -> bool {
        *lock(&self.closed)
    }

    /// Waits until the connections have been closed.
    pub fn wait_closed(&self) {
        let mut closed = lock(&self.closed);
        while !*closed {
            closed = self.closes.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, peer: usize, stream: TcpStream, outgoing: &Receiver<Outgoing>, station: &dyn Station) {
        let Some(link) = &self.links[peer] else { return };
        let mut to = BufWriter::with_capacity(1 << 16, stream);
        let mut due = Instant::now();
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            let next = match outgoing.recv_timeout(wait) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => Outgoing::Nudge,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut next = Some(next);
            while let Some(one) = next {
                let written = match one {
                    Outgoing::Note(note) => {
                        let written = write_note(&mut to, &note);
                        link.queued.fetch_sub(1, Ordering::AcqRel);
                        written
                    }
                    Outgoing::Nudge => {
                        due = Instant::now() + BEAT;
                        let silence_ms = station.silence().as_millis() as u64;
                        write_note(&mut to, &Note::Beat { silence_ms, full: station.is_full() || self.has_queues() })
                    }
                };
                if let Err(error) = written {
                    return self.cut(peer, &error.to_string());
                }
                // Where there is always more, beats are not to wait for the end of it.
                next = if Instant::now() >= due { Some(Outgoing::Nudge) } else { outgoing.try_recv().ok() };
            }
            if let Err(error) = to.flush() {
                return self.cut(peer, &error.to_string());
            }
        }
    }

    fn read(&self, peer: usize, stream: TcpStream, station: &dyn Station) {
        let mut from = BufReader::with_capacity(1 << 16, Heard { stream, peer, wire: self });
        let why = loop {
            match read_note(&mut from) {
                Ok(Note::Beat { silence_ms, full }) => {
                    if let Some(link) = &self.links[peer] {
                        link.silence_ms.store(silence_ms, Ordering::Release);
                        link.full.store(full, Ordering::Release);
                    }
                }
                Ok(note) => station.take(peer, note),
                Err(error) => break error.to_string(),
            }
        };
        self.cut(peer, &why);
        if !self.stopping.load(Ordering::Acquire) {
            let lost = self.peers().into_iter().find(|state| state.process == peer);
            let (address, why) = lost.map(|lost| (lost.address, lost.lost.unwrap_or(why))).unwrap_or_default();
            panic!("the connection with process {peer} ({address}) of the cluster is lost: {why}");
        }
    }
}

impl Link {
    fn send(&self, note: &Arc<Note>) {
        if let Some(out) = &*lock(&self.out) {
            self.queued.fetch_add(1, Ordering::AcqRel);
            out.send(Outgoing::Note(note.clone())).ok();
        }
    }

    fn shut(&self) {
        // Either may have ended before.
        self.data.shutdown(Shutdown::Both).ok();
        self.wire.shutdown(Shutdown::Both).ok();
    }
}

/// Notes when something comes.
struct Heard<'w> {
    stream: TcpStream,
    peer: usize,
    wire: &'w Wire,
}

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.wire.heard(self.peer);
        Ok(read)
    }
}

fn write_note(to: &mut impl Write, note: &Note) -> io::Result<()> {
    let body = postcard::to_stdvec(note).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= NOTE_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other(format!("a note of {} bytes is too long", body.len())))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&body)
}

fn read_note(from: &mut impl Read) -> io::Result<Note> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > NOTE_BYTES_MAX {
        return Err(io::Error::other(format!("a note of {length} bytes is too long")));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}
