//! What node and engine say to each other over the engine's standard input and output: frames of a
//! length (u32, little endian) and a postcard body.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use tallyflow_connectors::checkpoint_store::CheckpointPlace;
use tallyflow_connectors::log::kafka::{BrokerFigures, KafkaConfig};
use tallyflow_dataflows::claim::HashKey;
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::update::EngineEvent;

/// Brokers of Kafka by `host:port`, as those see them who read.
pub type Brokers = BTreeMap<String, BrokerFigures>;

/// Where the log is that the engine reads.
#[derive(Debug, Serialize, Deserialize)]
pub enum LogPlace {
    /// The embedded one, in this directory.
    Embedded(PathBuf),
    Kafka(KafkaConfig),
}

/// An engine's place among those of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub process: usize,
    pub processes: usize,
    /// A secret of this start.
    pub token: [u8; 16],
    /// The name or address of this process's host.
    pub host: String,
}

/// From the node to the engine.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToEngine {
    /// The first frame.
    Start {
        workers: usize,
        /// What it logs, as the server does.
        log_level: String,
        hash_key: HashKey,
        log: LogPlace,
        checkpoints: CheckpointPlace,
        /// `None`: it is the only one.
        cluster: Option<Membership>,
    },
    /// Where the engines of all processes wait for one another, by process. Commands before it are kept.
    Meet(Vec<String>),
    Command(Command),
    /// A partition has a new end.
    Appended {
        topic: String,
        partition: PartitionId,
        end: Offset,
    },
    /// To be answered with a `Pong` of the same number.
    Ping(u64),
}

/// From the engine to the node.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromEngine {
    /// In a cluster: it waits for the others at this port.
    Waits(u16),
    /// The workers run.
    Ready,
    Event(Box<EngineEvent>),
    /// The answer to a ping: for how long the slowest worker has not come round, and what is known of the brokers
    /// that it reads from.
    Pong {
        ping: u64,
        silence_ms: u64,
        brokers: Brokers,
    },
    /// The engine could not start, or can't go on.
    Refused(String),
}

/// No frame is longer: an epoch's changes are told in pieces well below it.
const FRAME_BYTES_MAX: u32 = 1 << 30;

/// Writes a frame; the caller flushes.
pub fn write_frame(to: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|n| *n <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other(format!("a frame of {} bytes is too long", body.len())))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&body)
}

/// Reads a frame; `None` at the end of the stream.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes is too long")));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_a_cut_one_is_an_error() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &ToEngine::Ping(7)).unwrap();
        let whole = bytes.clone();
        assert!(matches!(read_frame(&mut whole.as_slice()).unwrap(), Some(ToEngine::Ping(7))));
        assert!(read_frame::<ToEngine>(&mut &whole[..whole.len() - 1]).is_err());
        assert!(read_frame::<ToEngine>(&mut &[][..]).unwrap().is_none());
    }
}
