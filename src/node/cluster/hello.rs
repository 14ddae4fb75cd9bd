//! How a member and the leader come to trust one another: the same program, the same configuration, and both
//! know the secret that lies in Kafka. It is not told.
//!
//! ```text
//!   leader: Greeting{version, nonce}  -->
//!                                     <-- member: Hello{version, process, purpose, configuration, proof, nonce}
//!           Welcome{proof} or Refused{why, is_final} -->
//! ```
//! Each is a length (u32, little endian) and JSON. What follows is of the purpose.

use crate::config::Cluster;
use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::TcpStream;
use tallyflow_dataflows::claim::HashKey;

/// Of the program, and of what its processes tell one another.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "-1");
/// The longest frame of these.
const BYTES_MAX: u32 = 16_384;

/// A process among those of a cluster.
#[derive(Clone)]
pub struct Us {
    pub cluster: Cluster,
    /// What all must agree on, in words.
    pub configuration: String,
    pub hash_key: HashKey,
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    version: String,
    nonce: [u8; 16],
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To follow the leader: the one connection of a member.
    Follow,
    /// To pass on what a client asks: HTTP.
    Forward,
}

#[derive(Serialize, Deserialize)]
struct Hello {
    version: String,
    process: usize,
    purpose: Purpose,
    configuration: String,
    proof: String,
    nonce: [u8; 16],
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Welcome {
        proof: String,
    },
    Refused {
        why: String,
        /// Whether it will be refused again.
        is_final: bool,
    },
}

/// Of any version.
#[derive(Deserialize)]
struct AnyHello {
    version: String,
    #[serde(default)]
    process: usize,
}

/// What a call at the leader came to.
pub enum Called {
    Welcome,
    /// For good: a person has to do something.
    Refused(String),
}

impl Us {
    /// The leader's half: who it is that calls, and for what. `is_there` says why a member can't be taken just
    /// now.
    pub fn answer(
        &self,
        stream: &mut TcpStream,
        is_there: impl FnOnce(usize) -> Option<String>,
    ) -> anyhow::Result<(usize, Purpose)> {
        let nonce = random()?;
        say(stream, &Greeting { version: VERSION.to_owned(), nonce })?;
        let bytes = hear(stream)?;
        let any: AnyHello = serde_json::from_slice(&bytes).context("it is no process of tallyflow")?;
        let from = match stream.peer_addr() {
            Ok(address) => format!("process {} (at {})", any.process, address.ip()),
            Err(_) => format!("process {}", any.process),
        };
        let own = format!("process 0 ({})", self.cluster.own());
        let mut refuse = |why: String, is_final: bool| -> anyhow::Result<(usize, Purpose)> {
            say(stream, &Answer::Refused { why: why.clone(), is_final })?;
            bail!(why)
        };
        if any.version != VERSION {
            let why =
                format!("{from} runs version {}, {own} runs {VERSION}; run the same program everywhere", any.version);
            return refuse(why, true);
        }
        let Hello { process, purpose, configuration, proof, nonce: theirs, .. } =
            serde_json::from_slice(&bytes).context("its hello can't be read")?;
        if configuration != self.configuration {
            let why = format!(
                "{from} is configured for {configuration}, {own} for {}; give all processes the same configuration",
                self.configuration
            );
            return refuse(why, true);
        }
        if proof != self.proof(&nonce, process) {
            let why = format!(
                "{from} does not know what lies in Kafka for {own}; see that both name the same Kafka and `kafka.prefix`"
            );
            return refuse(why, true);
        }
        if process == 0 || process >= self.cluster.processes() {
            return refuse(format!("{from} has a number that no member has; give each its own --process"), true);
        }
        if let Some(why) = (purpose == Purpose::Follow).then(|| is_there(process)).flatten() {
            return refuse(why, false);
        }
        say(stream, &Answer::Welcome { proof: self.proof(&theirs, 0) })?;
        Ok((process, purpose))
    }

    /// The member's half. An error is worth another try.
    pub fn call(&self, stream: &mut TcpStream, purpose: Purpose) -> anyhow::Result<Called> {
        let greeting = hear(stream)?;
        let any: AnyHello = serde_json::from_slice(&greeting).context("it is no process of tallyflow")?;
        let Ok(Greeting { nonce: theirs, .. }) = serde_json::from_slice(&greeting) else {
            return Ok(Called::Refused(format!(
                "process 0 ({}) runs version {}, this one {VERSION}; run the same program everywhere",
                self.cluster.hosts[0], any.version
            )));
        };
        let (process, nonce) = (self.cluster.process, random()?);
        let proof = self.proof(&theirs, process);
        let (version, configuration) = (VERSION.to_owned(), self.configuration.clone());
        say(stream, &Hello { version, process, purpose, configuration, proof, nonce })?;
        match serde_json::from_slice(&hear(stream)?).context("its answer can't be read")? {
            Answer::Welcome { proof } => {
                ensure!(proof == self.proof(&nonce, 0), "it does not know what lies in Kafka");
                Ok(Called::Welcome)
            }
            Answer::Refused { why, is_final: true } => Ok(Called::Refused(why)),
            Answer::Refused { why, is_final: false } => bail!(why),
        }
    }

    /// What shows that a process knows the secret. All that goes into it has a fixed length.
    fn proof(&self, nonce: &[u8; 16], process: usize) -> String {
        let [a, b] = self.hash_key.0;
        let mut digest = Sha256::new();
        for part in [b"tallyflow cluster".as_slice(), &a.to_le_bytes(), &b.to_le_bytes(), nonce] {
            digest.update(part);
        }
        digest.update((process as u64).to_le_bytes());
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Bytes that nobody can guess.
pub fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

fn say(stream: &mut TcpStream, what: &impl Serialize) -> anyhow::Result<()> {
    let body = serde_json::to_vec(what)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= BYTES_MAX).context("it is too long")?;
    let frame = [length.to_le_bytes().as_slice(), &body].concat();
    Ok(stream.write_all(&frame)?)
}

fn hear(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    ensure!(length <= BYTES_MAX, "it is no process of tallyflow");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Reads a frame of [`crate::node::wire`], or says that it is over.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> anyhow::Result<T> {
    match crate::node::wire::read_frame(from) {
        Ok(frame) => frame.context("it has hung up"),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            bail!("nothing has come from it for {} ms", super::SILENCE_MAX.as_millis())
        }
        Err(error) => Err(error.into()),
    }
}
