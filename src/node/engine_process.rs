//! The engine as a process of its own: the node's child, started from the same binary.
//!
//! It ends at once when its standard input ends, that is when its node is gone, and aborts when any of
//! its threads panics: half an engine is worse than none, and the node starts a new one.

use crate::node::wire::{FromEngine, LogPlace, ToEngine, read_frame, write_frame};
use anyhow::{Context, bail};
use std::io::{BufReader, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use tallyflow_connectors::checkpoint_store::ObjectCheckpoints;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_connectors::log::embedded::EmbeddedReader;
use tallyflow_connectors::log::kafka::KafkaSource;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::engine::{Engine, EngineConfig};
use tallyflow_dataflows::source::Source;
use tallyflow_dataflows::update::EngineEvent;

/// What goes out through the writer's thread.
enum Outgoing {
    Event(Box<EngineEvent>),
    Frame(FromEngine),
}

/// Runs until standard input ends; then the process ends from within.
pub fn run() -> anyhow::Result<()> {
    abort_on_panic();
    let mut input = BufReader::new(std::io::stdin().lock());
    let first = read_frame(&mut input).context("reading the first frame")?;
    let Some(ToEngine::Start { workers, hash_key, log, checkpoints }) = first else {
        bail!("the engine is started by `tallyflow serve`, not by hand");
    };
    let (send, outgoing) = channel();
    let reader = match EngineLog::open(log) {
        Ok(reader) => reader,
        Err(error) => return refuse(format!("opening the log: {error}")),
    };
    let checkpoints = match ObjectCheckpoints::at(&checkpoints) {
        Ok(checkpoints) => Arc::new(checkpoints),
        Err(error) => return refuse(error.to_string()),
    };
    let events = send.clone();
    let engine = Engine::start(EngineConfig {
        workers,
        hash_key,
        source: reader.source(),
        formats: Arc::new(BuiltinFormats),
        checkpoints: Some(checkpoints),
        deliver: Arc::new(move |event| {
            // The writer's thread ends with the process only.
            events.send(Outgoing::Event(Box::new(event))).ok();
        }),
    })
    .map_err(anyhow::Error::msg)?;
    let engine = Arc::new(engine);
    let theirs = engine.clone();
    std::thread::Builder::new().name("to-node".to_owned()).spawn(move || write_all(&outgoing, &theirs))?;
    send.send(Outgoing::Frame(FromEngine::Ready))?;

    while let Some(frame) = read_frame(&mut input).context("reading from the node")? {
        match frame {
            ToEngine::Start { .. } => bail!("the node sent a second start"),
            ToEngine::Command(command) => engine.command(command),
            ToEngine::Appended { topic, partition, end } => {
                if let EngineLog::Embedded(reader) = &reader {
                    reader.appended(&topic, partition, end);
                }
            }
            ToEngine::Ping(ping) => {
                let silence_ms = engine.silence().as_millis() as u64;
                send.send(Outgoing::Frame(FromEngine::Pong { ping, silence_ms }))?;
            }
        }
    }
    // The node is gone or wants no more: nothing here is worth a slow end.
    std::process::exit(0);
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
