//! The engine as a process of its own: the node's child, started from the same binary.
//!
//! It ends at once when its standard input ends, that is when its node is gone, and aborts when any of
//! its threads panics: half an engine is worse than none, and the node starts a new one.

use crate::logging;
use crate::node::wire::{Brokers, FromEngine, LogPlace, Membership, ToEngine, read_frame, write_frame};
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tallyflow_connectors::checkpoint_store::ObjectCheckpoints;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_connectors::log::embedded::EmbeddedReader;
use tallyflow_connectors::log::kafka::KafkaSource;
use tallyflow_dataflows::claim::HashKey;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::engine::cluster::{Cluster, Meeting, PeerState};
use tallyflow_dataflows::engine::{Engine, EngineConfig, cluster};
use tallyflow_dataflows::source::Source;
use tallyflow_dataflows::update::EngineEvent;

/// What goes out through the writer's thread.
enum Outgoing {
    Event(Box<EngineEvent>),
    Frame(FromEngine),
    /// The process ends once what was before it is written.
    End,
}

/// How long the engines of a cluster may take to find one another.
const MEET: Duration = Duration::from_secs(5);
/// A process of the cluster that has been silent for longer is gone or frozen; and how often that is looked at.
/// Both together are less than the two seconds within which it is to be seen.
pub const SILENCE_MAX: Duration = Duration::from_millis(1_700);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs until standard input ends; then the process ends from within.
pub fn run() -> anyhow::Result<()> {
    abort_on_panic();
    let mut input = BufReader::new(std::io::stdin().lock());
    let first = read_frame(&mut input).context("reading the first frame")?;
    let Some(ToEngine::Start { workers, log_level, hash_key, log, checkpoints, cluster }) = first else {
        bail!("the engine is started by `tallyflow serve`, not by hand");
    };
    // It was checked by the server, and is as that has written it.
    logging::to_stderr(log_level.parse().unwrap_or_default());
    let (send, outgoing) = channel();
    let mut early = VecDeque::new();
    let cluster = match cluster.map(|member| meet(&member, workers, &hash_key, &mut input, &mut early)).transpose() {
        Ok(cluster) => cluster,
        Err(error) => return refuse(format!("{error:#}")),
    };
    let reader = match EngineLog::open(log) {
        Ok(reader) => reader,
        Err(error) => return refuse(format!("opening the log: {error}")),
    };
    let checkpoints = match ObjectCheckpoints::at(&checkpoints) {
        Ok(checkpoints) => Arc::new(checkpoints),
        Err(error) => return refuse(error.to_string()),
    };
    let events = send.clone();
    let config = EngineConfig {
        workers,
        hash_key,
        source: reader.source(),
        formats: Arc::new(BuiltinFormats),
        checkpoints: Some(checkpoints),
        deliver: Arc::new(move |event| {
            // The writer's thread ends with the process only.
            events.send(Outgoing::Event(Box::new(event))).ok();
        }),
    };
    let started = match cluster {
        None => Engine::start(config),
        Some(cluster) => Engine::start_in(config, cluster),
    };
    let engine = Arc::new(started.map_err(anyhow::Error::msg)?);
    let theirs = engine.clone();
    std::thread::Builder::new().name("to-node".to_owned()).spawn(move || write_all(&outgoing, &theirs))?;
    watch_peers(&engine, &send)?;
    send.send(Outgoing::Frame(FromEngine::Ready))?;

    let mut next = move || match early.pop_front() {
        Some(frame) => Ok(Some(frame)),
        None => read_frame(&mut input).context("reading from the node"),
    };
    while let Some(frame) = next()? {
        match frame {
            ToEngine::Start { .. } | ToEngine::Meet(_) => bail!("the node sent a second start"),
            ToEngine::Command(command) => engine.command(command),
            ToEngine::Appended { topic, partition, end } => {
                if let EngineLog::Embedded(reader) = &reader {
                    reader.appended(&topic, partition, end);
                }
            }
            ToEngine::Ping(ping) => {
                let elsewhere = engine.peers().into_iter().map(|peer| peer.workers_silence).max();
                let silence_ms = engine.silence().max(elsewhere.unwrap_or_default()).as_millis() as u64;
                let brokers = reader.brokers();
                send.send(Outgoing::Frame(FromEngine::Pong { ping, silence_ms, brokers }))?;
            }
        }
    }
    // The node is gone or wants no more: nothing here is worth a slow end.
    std::process::exit(0);
}

/// Waits for the engines of the other processes, at most for so long; keeps what the node says meanwhile.
fn meet(
    member: &Membership,
    workers: usize,
    hash_key: &HashKey,
    input: &mut impl Read,
    early: &mut VecDeque<ToEngine>,
) -> anyhow::Result<Cluster> {
    let Membership { process, processes, token, ref host } = *member;
    let meeting = Meeting::open(bind_for(host)?).context("listening for the other processes")?;
    let mut out = std::io::stdout().lock();
    write_frame(&mut out, &FromEngine::Waits(meeting.address().port()))?;
    out.flush()?;
    drop(out);
    let addresses = loop {
        match read_frame(input).context("reading from the node")? {
            Some(ToEngine::Meet(addresses)) => break addresses,
            Some(frame) => early.push_back(frame),
            // The node is gone.
            None => std::process::exit(0),
        }
    };
    // The processes have agreed on the configuration; of the key they have not told one another.
    let digest = Sha256::digest(postcard::to_stdvec(hash_key)?);
    let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let us = cluster::Membership { process, processes, workers, token, digest };
    Ok(meeting.join(&us, &addresses, MEET)?)
}

/// Where to listen for others that know this host by that name: only there, where it is an address of this
/// machine, else everywhere.
pub fn bind_for(host: &str) -> anyhow::Result<SocketAddr> {
    let resolved = (host, 0).to_socket_addrs().with_context(|| format!("the host {host} has no address"))?;
    let mut own = resolved.filter(|address| TcpListener::bind(address).is_ok());
    Ok(own.next().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))))
}

/// Ends the process when another one is silent: it is gone or frozen, and nothing closes without it.
fn watch_peers(engine: &Arc<Engine>, send: &Sender<Outgoing>) -> std::io::Result<()> {
    if engine.peers().is_empty() {
        return Ok(());
    }
    let (engine, send) = (engine.clone(), send.clone());
    std::thread::Builder::new().name("peers".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let Some(peer) = engine.peers().into_iter().find(|peer| peer.silence > SILENCE_MAX) else { continue };
            let PeerState { process, address, silence, .. } = peer;
            let why = format!("nothing has come from process {process} ({address}) for {} ms", silence.as_millis());
            send.send(Outgoing::Frame(FromEngine::Refused(why))).ok();
            send.send(Outgoing::End).ok();
            return;
        }
    })?;
    Ok(())
}

/// The log as the engine reads it.
enum EngineLog {
    Embedded(Arc<EmbeddedReader>),
    Kafka(Arc<KafkaSource>),
}

impl EngineLog {
    fn open(place: LogPlace) -> Result<EngineLog, String> {
        match place {
            LogPlace::Embedded(dir) => {
                let reader = EmbeddedReader::open(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
                Ok(EngineLog::Embedded(Arc::new(reader)))
            }
            LogPlace::Kafka(config) => Ok(EngineLog::Kafka(Arc::new(KafkaSource::open(config)?))),
        }
    }

    fn brokers(&self) -> Brokers {
        match self {
            EngineLog::Embedded(_) => Brokers::new(),
            EngineLog::Kafka(source) => source.figures().brokers(),
        }
    }

    fn source(&self) -> Arc<dyn Source> {
        match self {
            EngineLog::Embedded(reader) => reader.clone(),
            EngineLog::Kafka(source) => source.clone(),
        }
    }
}

/// Tells the node why the engine does not start, and ends.
fn refuse(why: String) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write_frame(&mut out, &FromEngine::Refused(why.clone()))?;
    out.flush()?;
    bail!(why)
}

/// Writes what the workers tell, many frames to a flush.
fn write_all(outgoing: &Receiver<Outgoing>, engine: &Engine) {
    let mut out = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
    while let Ok(first) = outgoing.recv() {
        let mut next = Some(first);
        while let Some(one) = next {
            let written = match one {
                Outgoing::Event(event) => {
                    let written = write_frame(&mut out, &FromEngine::Event(event));
                    engine.taken();
                    written
                }
                Outgoing::Frame(frame) => write_frame(&mut out, &frame),
                Outgoing::End => {
                    out.flush().ok();
                    std::process::exit(1);
                }
            };
            if written.is_err() {
                std::process::exit(0);
            }
            next = outgoing.try_recv().ok();
        }
        crash::point("engine::tell");
        if out.flush().is_err() {
            // Nobody reads any more: the node is gone.
            std::process::exit(0);
        }
    }
}

fn abort_on_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
}
