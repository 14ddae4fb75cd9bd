//! Engines in one process that are one engine to whoever asks: alone, or a cluster over loopback.

use crate::engine::cluster::{Cluster, Meeting, Membership, PeerState};
use crate::engine::{Command, Engine, EngineConfig};
use crate::update::EngineEvent;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many processes, and how many workers in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    pub processes: usize,
    pub workers: usize,
}

impl Crew {
    /// One process.
    pub fn of(workers: usize) -> Self {
        Crew { processes: 1, workers }
    }
}

/// How long processes on one machine may take to find one another.
const WITHIN: Duration = Duration::from_secs(30);

/// See the module.
pub struct Engines {
    engines: Vec<Engine>,
    /// What the process that leads tells.
    events: Receiver<EngineEvent>,
}

/// Processes of one crew that have found one another.
pub fn meet(crew: Crew) -> Vec<Cluster> {
    let meetings: Vec<Meeting> = (0..crew.processes)
        .map(|_| Meeting::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port is free"))
        .collect();
    let addresses: Vec<String> = meetings.iter().map(|meeting| meeting.address().to_string()).collect();
    let joining: Vec<_> = (meetings.into_iter().enumerate())
        .map(|(process, meeting)| {
            let addresses = addresses.clone();
            let us = Membership {
                process,
                processes: crew.processes,
                workers: crew.workers,
                token: [7; 16],
                digest: "a configuration".to_owned(),
            };
            std::thread::spawn(move || meeting.join(&us, &addresses, WITHIN))
        })
        .collect();
    let joined = joining.into_iter().map(|joining| joining.join().expect("joining does not panic"));
    joined.collect::<Result<_, _>>().expect("the processes find one another")
}

impl Engines {
    /// Starts them.
    pub fn start(config: &EngineConfig, crew: Crew) -> Self {
        let mut clusters = if crew.processes > 1 { meet(crew) } else { Vec::new() }.into_iter();
        let mut engines = Vec::new();
        let (send, events) = channel();
        for process in 0..crew.processes {
            let send = Mutex::new(send.clone());
            let deliver = Arc::new(move |event| {
                assert_eq!(process, 0, "only the process that leads tells: {event:?}");
                // A test that has ended takes no more events.
                send.lock().unwrap_or_else(PoisonError::into_inner).send(event).ok();
            });
            let config = EngineConfig { deliver, workers: crew.workers, ..config.clone() };
            engines.push(match clusters.next() {
                Some(cluster) => Engine::start_in(config, cluster).expect("threads start"),
                None => Engine::start(config).expect("threads start"),
            });
        }
        Engines { engines, events }
    }

    /// Gives a command to the process that leads.
    pub fn command(&self, command: Command) {
        if let Some(leader) = self.engines.first() {
            leader.command(command);
        }
    }

    /// What the processes know of one another.
    pub fn peers(&self) -> Vec<Vec<PeerState>> {
        self.engines.iter().map(Engine::peers).collect()
    }

    /// Ends all of them wherever they are. What they have told can still be taken.
    pub fn end(&mut self) {
        self.engines.iter().for_each(Engine::stop);
        self.engines.clear();
    }

    /// The next event within so long; `None`: there was none.
    pub fn next(&mut self, within: Duration) -> Option<EngineEvent> {
        let event = self.events.recv_timeout(within).ok()?;
        if let Some(leader) = self.engines.first() {
            leader.taken();
        }
        Some(event)
    }

    /// Ends one wherever it is, as if its process were killed.
    pub fn kill(&mut self, process: usize) {
        drop(self.engines.remove(process));
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.end();
    }
}
