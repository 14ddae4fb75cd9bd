//! The way of events to the node; in a cluster, to that of the process which leads.

use crate::engine::cluster::{Note, Wire};
use crate::update::EngineEvent;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where events go. Shared by all workers; sending never blocks.
#[derive(Clone)]
pub struct Outbox {
    deliver: Arc<dyn Fn(EngineEvent) + Send + Sync>,
    /// Events sent and not yet taken by the node, kept by whoever delivers.
    waiting: Arc<AtomicUsize>,
    /// In a cluster; what its leader sends goes to its node, what others send to nobody.
    pub wire: Option<Arc<Wire>>,
}

impl Outbox {
    /// Sources stop reading while this many events wait.
    const WAITING_MAX: usize = 64;

    /// `waiting` is lowered by the taker for every event it has dealt with.
    pub fn new(deliver: Arc<dyn Fn(EngineEvent) + Send + Sync>, waiting: Arc<AtomicUsize>) -> Self {
        Outbox { deliver, waiting, wire: None }
    }

    /// Of a process of a cluster, if there is a wire.
    pub fn in_cluster(self, wire: Option<Arc<Wire>>) -> Self {
        Outbox { wire, ..self }
    }

    pub fn send(&self, event: EngineEvent) {
        match &self.wire {
            Some(wire) if !wire.is_leader() => return,
            // The others read on no further either.
            Some(wire) => {
                if let EngineEvent::Failed { job, .. } = &event {
                    wire.tell_all(Note::HasFailed { job: *job });
                }
            }
            None => {}
        }
        let waiting = self.waiting.fetch_add(1, Ordering::AcqRel);
        (self.deliver)(event);
        if waiting == Self::WAITING_MAX {
            self.nudge();
        }
    }

    /// The node has dealt with an event.
    pub fn taken(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == Self::WAITING_MAX + 1 {
            self.nudge();
        }
    }

    fn nudge(&self) {
        if let Some(wire) = &self.wire {
            wire.nudge();
        }
    }

    /// Whether the node of this process is behind.
    pub fn is_full_here(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > Self::WAITING_MAX
    }

    /// Whether some node is behind.
    pub fn is_full(&self) -> bool {
        self.is_full_here() || self.wire.as_ref().is_some_and(|wire| wire.is_full())
    }
}
