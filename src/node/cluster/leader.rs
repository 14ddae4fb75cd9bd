//! The leader's side of a cluster: which members are there, what their engines do, and what they are told.

use super::hello::{Purpose, random, read};
use super::{BEAT, News, SILENCE_MAX, ToLeader, ToMember, Us};
use crate::node::engine_process::bind_for;
use crate::node::job::{Feed, Feeds, Job, JobState, JobStatus, Portion};
use crate::node::wire::{Membership, write_frame};
use crate::node::{Node, ProcessStatus, lock};
use anyhow::Context;
use std::collections::{HashMap, HashSet};
use std::io::{BufReader, BufWriter, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::update::JobId;
use tokio::sync::mpsc;

/// How often it is said who is missing.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How often a job's status is told while only its details change.
const DETAILS_EVERY: Duration = Duration::from_millis(250);
/// How many callers may be in the midst of their hello.
const CALLERS_MAX: usize = 64;

/// The members of a cluster as the leader sees them.
pub struct Members {
    us: Us,
    /// Takes the connections over which members pass on what their clients ask.
    forwarded: OnceLock<mpsc::Sender<TcpStream>>,
    feeds: Arc<Feeds>,
    state: Mutex<State>,
    changed: Condvar,
    callers: AtomicUsize,
}

struct State {
    /// By process; the leader's own place stays empty.
    slots: Vec<Option<Slot>>,
    /// The start that is under way or runs.
    run: u64,
    /// By process, the port at which its engine of that run waits, and its process id.
    waits: Vec<Option<(u16, u32)>>,
}

/// A member that is there.
struct Slot {
    /// Tells it from the one that was there before.
    number: u64,
    orders: Sender<ToMember>,
    feed: Arc<Feed>,
    stream: TcpStream,
}

impl Members {
    /// Listens for the members. The error says in one sentence what is in the way.
    pub fn open(us: Us, feeds: Arc<Feeds>) -> anyhow::Result<(Arc<Members>, TcpListener)> {
        let own = us.cluster.own().clone();
        let at = SocketAddr::new(bind_for(&own.name)?.ip(), own.port);
        let listener = TcpListener::bind(at).with_context(|| {
            format!("listening for the other processes at {own} fails; it stands in the hosts file as process 0")
        })?;
        let processes = us.cluster.processes();
        let slots = (0..processes).map(|_| None).collect();
        let state = State { slots, run: 0, waits: vec![None; processes] };
        let members = Members {
            us,
            forwarded: OnceLock::new(),
            feeds,
            state: Mutex::new(state),
            changed: Condvar::new(),
            callers: AtomicUsize::new(0),
        };
        Ok((Arc::new(members), listener))
    }

    /// Has what members pass on served by whoever takes these connections.
    pub fn serve_forwarded(&self, by: mpsc::Sender<TcpStream>) {
        self.forwarded.set(by).ok();
    }

    /// Waits until all members are there, or `is_over`.
    pub fn wait_for_all(&self, is_over: impl Fn() -> bool) {
        let mut said: Option<Instant> = None;
        let mut state = lock(&self.state);
        while !is_over() {
            let missing = self.missing(&state);
            if missing.is_empty() {
                return;
            }
            if said.is_none_or(|at| at.elapsed() > SAY_EVERY) {
                tracing::info!("waiting for {missing}: nothing is computed without");
                said = Some(Instant::now());
            }
            (state, _) = self.changed.wait_timeout(state, BEAT).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Those that are not there, in words; `None`: all are.
    pub fn awaited(&self) -> Option<String> {
        let missing = self.missing(&lock(&self.state));
        (!missing.is_empty()).then_some(missing)
    }

    /// Those that are not there, in words.
    fn missing(&self, state: &State) -> String {
        let slots = state.slots.iter().enumerate().skip(1).filter(|(_, slot)| slot.is_none());
        let named: Vec<_> =
            slots.map(|(process, _)| format!("process {process} ({})", self.us.cluster.hosts[process])).collect();
        named.join(", ")
    }

    /// Has all members start an engine; the leader's own place among them.
    pub fn start(&self, run: u64, workers: usize) -> anyhow::Result<Membership> {
        let token = random()?;
        let mut state = lock(&self.state);
        state.run = run;
        state.waits.iter_mut().for_each(|waits| *waits = None);
        state.tell_all(|| ToMember::Start { run, workers, token });
        let processes = self.us.cluster.processes();
        Ok(Membership { process: 0, processes, token, host: self.us.cluster.own().name.clone() })
    }

    /// An engine waits for the others. Once all do, they are told where.
    pub fn waits(&self, process: usize, run: u64, (port, pid): (u16, u32), node: &Node) {
        let mut state = lock(&self.state);
        if state.run != run {
            return;
        }
        state.waits[process] = Some((port, pid));
        let waiting = state.waits.iter().zip(&self.us.cluster.hosts);
        let addresses: Option<Vec<String>> =
            waiting.map(|(waits, host)| waits.map(|(port, _)| host.with_port(port))).collect();
        let Some(addresses) = addresses else { return };
        // The leader's own engine is among those that wait.
        if let Some(running) = node.running().as_ref().filter(|running| running.run() == run) {
            state.tell_all(|| ToMember::Meet { run, addresses: addresses.clone() });
            running.link.meet(addresses);
        }
    }

    /// The engines of the run have ended here: they are to end everywhere.
    pub fn stop(&self, run: u64) {
        let mut state = lock(&self.state);
        state.waits.iter_mut().for_each(|waits| *waits = None);
        state.tell_all(|| ToMember::Stop { run });
    }

    /// All processes as they are now.
    pub fn status(&self, own: Option<u32>) -> Vec<ProcessStatus> {
        let state = lock(&self.state);
        let of = |(process, host): (usize, &crate::config::Host)| ProcessStatus {
            process,
            address: host.to_string(),
            connected: process == 0 || state.slots[process].is_some(),
            engine_pid: if process == 0 { own } else { state.waits[process].map(|(_, pid)| pid) },
        };
        self.us.cluster.hosts.iter().enumerate().map(of).collect()
    }

    /// Takes members that call, as long as the node lives.
    pub fn listen(self: &Arc<Self>, listener: TcpListener, node: Weak<Node>) -> std::io::Result<()> {
        let members = self.clone();
        let serve = move || {
            for (number, stream) in listener.incoming().enumerate() {
                if node.strong_count() == 0 {
                    return;
                }
                let Ok(stream) = stream else {
                    std::thread::sleep(BEAT);
                    continue;
                };
                // One too many is let go, and calls again.
                if members.callers.load(Ordering::Acquire) >= CALLERS_MAX {
                    continue;
                }
                members.callers.fetch_add(1, Ordering::AcqRel);
                let (members, node) = (members.clone(), node.clone());
                let taken = std::thread::Builder::new()
                    .name("member".to_owned())
                    .spawn(move || members.take(number as u64, stream, &node));
                if let Err(error) = taken {
                    tracing::error!("a member can't be taken: {error}");
                }
            }
        };
        std::thread::Builder::new().name("members".to_owned()).spawn(serve)?;
        Ok(())
    }

    /// Serves one connection until it ends.
    fn take(self: Arc<Self>, number: u64, mut stream: TcpStream, node: &Weak<Node>) {
        let ready = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(SILENCE_MAX)))
            .and_then(|()| stream.set_write_timeout(Some(SILENCE_MAX)));
        let is_there = |process: usize| {
            let is_there = lock(&self.state).slots[process].is_some();
            is_there.then(|| format!("a process {process} is there already; give each its own --process"))
        };
        let greeted = ready.map_err(Into::into).and_then(|()| self.us.answer(&mut stream, is_there));
        self.callers.fetch_sub(1, Ordering::AcqRel);
        let process = match greeted {
            Ok((process, Purpose::Follow)) => process,
            Ok((_, Purpose::Forward)) => {
                // Where there are too many, or nobody takes them yet, it is let go, and the client asks again.
                self.forwarded.get().and_then(|forwarded| forwarded.try_send(stream).ok());
                return;
            }
            Err(error) => {
                tracing::warn!("a process that called is not let in: {error:#}");
                return;
            }
        };
        let why = match self.serve(number, process, stream, node) {
            Ok(()) => return,
            Err(error) => format!("{error:#}"),
        };
        let was_there = {
            let mut state = lock(&self.state);
            let gone = state.slots[process].take_if(|slot| slot.number == number);
            state.waits[process] = None;
            if let Some(slot) = &gone {
                slot.feed.close();
                slot.stream.shutdown(Shutdown::Both).ok();
                self.feeds.remove(&slot.feed);
            }
            gone.is_some()
        };
        if let Some(node) = node.upgrade().filter(|_| was_there) {
            tracing::error!("process {process} ({}) is lost: {why}", self.us.cluster.hosts[process]);
            node.end_engine(None);
        }
    }

    /// Serves a member until it is lost, which the error tells. `Ok`: another one has come first.
    fn serve(
        self: &Arc<Self>,
        number: u64,
        process: usize,
        stream: TcpStream,
        node: &Weak<Node>,
    ) -> anyhow::Result<()> {
        let (orders, ordered) = channel();
        let feed = Arc::new(Feed::default());
        let (from, to) = (stream.try_clone()?, stream.try_clone()?);
        {
            let mut state = lock(&self.state);
            let slot = &mut state.slots[process];
            if slot.is_some() {
                return Ok(());
            }
            *slot = Some(Slot { number, orders, feed: feed.clone(), stream });
        }
        self.feeds.add(feed.clone());
        tracing::info!("process {process} ({}) is there", self.us.cluster.hosts[process]);
        let (theirs, weak) = (feed.clone(), node.clone());
        std::thread::Builder::new().name(format!("to-member-{process}")).spawn(move || {
            let ended = tell(&to, &ordered, &theirs, &weak);
            theirs.close();
            // Whoever reads from it hears of that.
            to.shutdown(Shutdown::Both).ok();
            ended
        })?;
        self.changed.notify_all();
        let mut from = BufReader::with_capacity(1 << 14, from);
        loop {
            match read(&mut from)? {
                ToLeader::Beat => {}
                ToLeader::Waits { run, port, pid } => {
                    let node = node.upgrade().context("the node has ended")?;
                    self.waits(process, run, (port, pid), &node);
                }
                ToLeader::Ended { run, why } => {
                    let node = node.upgrade().context("the node has ended")?;
                    if lock(&self.state).run == run {
                        tracing::error!("the engine of process {process} is gone ({why})");
                        node.end_engine(Some(run));
                    }
                }
            }
        }
    }
}

impl State {
    fn tell_all(&self, order: impl Fn() -> ToMember) {
        for slot in self.slots.iter().flatten() {
            // One that is being lost is seen elsewhere.
            slot.orders.send(order()).ok();
            slot.feed.wake();
        }
    }
}

/// Tells a member what it is to do and what becomes of the jobs, until it is lost or the node ends.
fn tell(stream: &TcpStream, orders: &Receiver<ToMember>, feed: &Feed, node: &Weak<Node>) -> std::io::Result<()> {
    let mut to = BufWriter::with_capacity(1 << 16, stream);
    let mut told = Told::default();
    let mut touched = HashSet::new();
    let mut beaten = Instant::now();
    loop {
        for order in orders.try_iter() {
            write_frame(&mut to, &order)?;
        }
        let Some(now) = node.upgrade() else { return Ok(()) };
        for job in now.jobs().iter().filter(|job| touched.contains(&job.id)) {
            told.job(&mut to, job, feed)?;
        }
        if beaten.elapsed() >= BEAT || told.is_new() {
            beaten = Instant::now();
            told.details(&mut to, &now, feed)?;
            write_frame(&mut to, &ToMember::Beat)?;
        }
        drop(now);
        to.flush()?;
        match feed.wait(BEAT.saturating_sub(beaten.elapsed())) {
            Some(jobs) => touched = jobs,
            None => return Ok(()),
        }
    }
}

/// What a member was told last.
#[derive(Default)]
struct Told {
    news: Option<String>,
    states: HashMap<JobId, (JobState, Option<String>)>,
    statuses: HashMap<JobId, String>,
    detailed: Option<Instant>,
}

impl Told {
    /// What has become of a job.
    fn job(&mut self, to: &mut impl Write, job: &Job, feed: &Feed) -> std::io::Result<()> {
        match feed.take(job) {
            Portion::Whole(head) => write_frame(to, &ToMember::Job(head))?,
            Portion::Changes(updates) if updates.is_empty() => {}
            Portion::Changes(updates) => write_frame(to, &ToMember::Changes { job: job.id, updates })?,
        }
        let status = job.status();
        let state = (status.state, status.error.clone());
        if self.states.get(&job.id) != Some(&state) {
            self.states.insert(job.id, state);
            self.status(to, job.id, status)?;
        }
        Ok(())
    }

    fn status(&mut self, to: &mut impl Write, job: JobId, status: JobStatus) -> std::io::Result<()> {
        // These go by what is shown.
        let status = JobStatus { epoch: None, accounting: Accounting::default(), inputs: Vec::new(), ..status };
        let status = serde_json::to_string(&status)?;
        if self.statuses.get(&job) != Some(&status) {
            write_frame(to, &ToMember::Status { job, status: status.clone() })?;
            self.statuses.insert(job, status);
        }
        Ok(())
    }

    fn is_new(&self) -> bool {
        self.detailed.is_none()
    }

    /// What changes by and by.
    fn details(&mut self, to: &mut impl Write, node: &Node, feed: &Feed) -> std::io::Result<()> {
        let news = News { cluster: node.cluster(), unready: node.ready().err() };
        let news = serde_json::to_string(&news)?;
        if self.news.as_ref() != Some(&news) {
            write_frame(to, &ToMember::News(news.clone()))?;
            self.news = Some(news);
        }
        if self.detailed.is_none_or(|at| at.elapsed() >= DETAILS_EVERY) {
            self.detailed = Some(Instant::now());
            for job in node.jobs() {
                match self.states.contains_key(&job.id) {
                    true => self.status(to, job.id, job.status())?,
                    false => self.job(to, &job, feed)?,
                }
            }
        }
        Ok(())
    }
}
