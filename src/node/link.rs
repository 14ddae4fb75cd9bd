//! The node's end of the pipe to one engine process.

use crate::node::wire::{FromEngine, ToEngine, read_frame, write_frame};
use std::collections::{HashMap, VecDeque};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::ids::{Offset, PartitionId};

/// What waits to be sent. New ends of a partition replace older ones, so that a slow engine costs a
/// bounded amount, and an append never waits for the engine.
#[derive(Default)]
struct Waiting {
    frames: VecDeque<ToEngine>,
    ends: HashMap<(String, PartitionId), Offset>,
    closed: bool,
}

/// A running engine process.
pub struct Link {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    child: Mutex<Child>,
    pub pid: u32,
}

impl Link {
    /// Starts an engine. What it says is to be read from the answer's second part.
    pub fn start(start: ToEngine) -> std::io::Result<(Arc<Link>, BufReader<ChildStdout>)> {
        let mut child = Process::new(std::env::current_exe()?)
            .arg("engine")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Ctrl-C is for the node, which ends the engine in its own time.
            .process_group(0)
            .spawn()?;
        let missing = || std::io::Error::other("the engine has no pipe");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let pid = child.id();
        let waiting = Waiting { frames: VecDeque::from([start]), ..Waiting::default() };
        let link = Link { waiting: Mutex::new(waiting), arrived: Condvar::new(), child: Mutex::new(child), pid };
        let link = Arc::new(link);
        let theirs = link.clone();
        std::thread::Builder::new().name("to-engine".to_owned()).spawn(move || theirs.write_all(stdin))?;
        Ok((link, BufReader::with_capacity(1 << 18, stdout)))
    }

    /// Queues a command. Never blocks.
    pub fn command(&self, command: Command) {
        self.send(ToEngine::Command(command));
    }

    /// Tells where the engines of all processes wait for one another.
    pub fn meet(&self, addresses: Vec<String>) {
        self.send(ToEngine::Meet(addresses));
    }

    pub fn ping(&self, ping: u64) {
        self.send(ToEngine::Ping(ping));
    }

    fn send(&self, frame: ToEngine) {
        self.lock().frames.push_back(frame);
        self.arrived.notify_one();
    }

    /// Tells of a partition's new end. Never blocks.
    pub fn appended(&self, topic: &str, partition: PartitionId, end: Offset) {
        self.lock().ends.insert((topic.to_owned(), partition), end);
        self.arrived.notify_one();
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).kill().ok();
        self.close();
    }

    /// Closes the engine's standard input, at which it ends.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for the end of the process and says how it was.
    pub fn wait(&self) -> String {
        match self.child.lock().unwrap_or_else(PoisonError::into_inner).wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, stdin: ChildStdin) {
        let mut out = BufWriter::new(stdin);
        loop {
            let (frames, ends) = {
                let mut waiting = self.lock();
                while waiting.frames.is_empty() && waiting.ends.is_empty() {
                    if waiting.closed {
                        return;
                    }
                    waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                }
                (std::mem::take(&mut waiting.frames), std::mem::take(&mut waiting.ends))
            };
            let ends = ends.into_iter().map(|((topic, partition), end)| ToEngine::Appended { topic, partition, end });
            let sent = frames.into_iter().chain(ends).try_for_each(|frame| write_frame(&mut out, &frame));
            // An engine that is gone is noticed by whoever reads from it.
            if sent.and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}

/// Reads the next frame; `None` when the engine has ended.
pub fn next_frame(from: &mut BufReader<ChildStdout>) -> Option<FromEngine> {
    read_frame(from).unwrap_or_else(|error| {
        tracing::error!("the engine said something that can't be read: {error}");
        None
    })
}
