//! What the server asks of the node: the one door between them, so that the server can be tested
//! against jobs whose results the test writes.

use crate::node::job::{CheckpointStatus, Job};
use crate::node::polls::{PollError, PollView};
use crate::node::{
    Brokers, CancelMode, ClusterStatus, JobError, JobText, Member, Node, Receipt, RecountError, Recounted,
    RescaleError, SubmitError, Submitted, VoidError, VoidView, WhyAnswer, WhyQuestion, is_internal,
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tallyflow_connectors::dead_letters::DeadLetter;
use tallyflow_connectors::history::HistoryReader;
use tallyflow_connectors::log::{Log, TopicConfig};
use tallyflow_dataflows::spec::voids::Voided;

/// What every process of a cluster answers by itself.
pub trait Shows: Send + Sync + 'static {
    /// All jobs by name.
    fn jobs(&self) -> Vec<Arc<Job>>;
    fn job(&self, name: &str) -> Result<Arc<Job>, JobError>;
    fn cluster(&self) -> ClusterStatus;
    /// Whether the engine runs and every job that should run does.
    fn ready(&self) -> Result<(), String>;
    /// What the engine knows of the brokers of Kafka that it reads from.
    fn brokers(&self) -> Brokers;
}

/// The node as the server sees it. What blocks is called on a thread for blocking work.
pub trait Host: Shows {
    /// Checks a job file and starts the job; with `take_over` its sinks write over what another server left.
    /// Blocks for a durable write.
    fn submit(&self, text: &JobText, take_over: bool) -> Result<Arc<Job>, SubmitError>;
    /// Checks a job file and puts the job in the place of the one of its name, or starts it if there is
    /// none. Blocks for a durable write; the job's status tells how far that has come.
    fn replace(&self, text: &JobText, take_over: bool) -> Result<Submitted, SubmitError>;
    /// Only checks a job file. Blocks.
    fn validate(&self, text: &JobText) -> Result<(), SubmitError>;
    /// Blocks until the job has stopped reading.
    fn pause(&self, name: &str) -> Result<Arc<Job>, JobError>;
    /// Blocks.
    fn resume(&self, name: &str) -> Result<Arc<Job>, JobError>;
    /// Blocks until the job has ended.
    fn cancel(&self, name: &str, mode: CancelMode) -> Result<Arc<Job>, JobError>;
    /// Blocks while it reads the log, until `stop` is set.
    fn recount(&self, name: &str, stop: &AtomicBool) -> Result<Recounted, RecountError>;
    /// Where a number comes from, or what became of a record. Blocks while it reads the log, until `stop` is set.
    fn why(&self, name: &str, question: &WhyQuestion, stop: &AtomicBool) -> Result<WhyAnswer, RecountError>;
    /// Oldest first, from after the place named. Blocks.
    fn dead_letters(
        &self,
        name: &str,
        after: Option<(String, u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JobError>;
    /// Begins to decode all records of the job again. Blocks for a durable write; the job's status tells
    /// how far that has come.
    fn redrive(&self, name: &str) -> Result<Arc<Job>, JobError>;
    /// Polls by id, those of a job where one is named, from after an id, at most so many.
    fn polls(&self, job: Option<&str>, after: Option<&str>, limit: usize) -> Vec<PollView>;
    fn poll(&self, id: &str) -> Result<PollView, PollError>;
    /// Blocks for a durable write, and for the engine where the poll opens now or later.
    fn create_poll(&self, definition: &str) -> Result<PollView, PollError>;
    /// Blocks for a durable write.
    fn change_poll(&self, id: &str, change: &str) -> Result<PollView, PollError>;
    /// Blocks for a durable write.
    fn close_poll(&self, id: &str) -> Result<PollView, PollError>;
    /// Blocks for a durable write.
    fn delete_poll(&self, id: &str) -> Result<(), PollError>;
    /// Blocks until the checkpoint is there.
    fn checkpoint(&self, name: &str) -> Result<CheckpointStatus, JobError>;
    /// Takes a job down and up again, from its newest checkpoint or without. Blocks for a durable write.
    fn restart(&self, name: &str, ignore_state: bool) -> Result<Arc<Job>, JobError>;
    /// Voids records. Blocks for a durable write; the job's status tells how far that has come.
    fn void(&self, name: &str, what: Voided, reason: &str) -> Result<VoidView, VoidError>;
    /// Takes a void back. Likewise.
    fn unvoid(&self, name: &str, id: u64) -> Result<Arc<Job>, VoidError>;
    /// A job's voids by id.
    fn voids(&self, name: &str) -> Result<Vec<VoidView>, JobError>;
    /// What is kept of a job's history; `None`: nothing is.
    fn history(&self, name: &str) -> Result<Option<HistoryReader>, JobError>;
    /// Begins to change the number of workers.
    fn rescale(self: Arc<Self>, workers: u64) -> Result<Receipt, RescaleError>;
    fn receipt(&self, id: u64) -> Result<Receipt, RescaleError>;

    /// What a new topic is made with.
    fn topic_config(&self) -> TopicConfig;
    /// The log; all that is appended goes through it.
    fn log(&self) -> &Arc<dyn Log>;
    /// Whether a topic is the node's own: not listed, not read or written from outside.
    fn is_internal(&self, topic: &str) -> bool;
}

/// Whom the server asks.
pub enum Asked {
    /// The only process, or the one that leads.
    Node(Arc<dyn Host>),
    /// One that does not: what it does not show itself it passes on.
    Member(Arc<Member>),
}

macro_rules! shows {
    ($($who:ty),*) => {$(
        impl Shows for $who {
            fn jobs(&self) -> Vec<Arc<Job>> {
                self.jobs()
            }
            fn job(&self, name: &str) -> Result<Arc<Job>, JobError> {
                self.job(name)
            }
            fn cluster(&self) -> ClusterStatus {
                self.cluster()
            }
            fn ready(&self) -> Result<(), String> {
                self.ready()
            }
            fn brokers(&self) -> Brokers {
                self.brokers()
            }
        }
    )*};
}
shows!(Node, Member);

impl Host for Node {
    fn void(&self, name: &str, what: Voided, reason: &str) -> Result<VoidView, VoidError> {
        self.void(name, what, reason)
    }
    fn unvoid(&self, name: &str, id: u64) -> Result<Arc<Job>, VoidError> {
        self.unvoid(name, id)
    }
    fn voids(&self, name: &str) -> Result<Vec<VoidView>, JobError> {
        self.voids(name)
    }
    fn submit(&self, text: &JobText, take_over: bool) -> Result<Arc<Job>, SubmitError> {
        self.submit(text, take_over)
    }
    fn replace(&self, text: &JobText, take_over: bool) -> Result<Submitted, SubmitError> {
        self.replace(text, take_over)
    }
    fn validate(&self, text: &JobText) -> Result<(), SubmitError> {
        self.validate(text).map(drop)
    }
    fn pause(&self, name: &str) -> Result<Arc<Job>, JobError> {
        self.pause(name)
    }
    fn resume(&self, name: &str) -> Result<Arc<Job>, JobError> {
        self.resume(name)
    }
    fn cancel(&self, name: &str, mode: CancelMode) -> Result<Arc<Job>, JobError> {
        self.cancel(name, mode)
    }
    fn recount(&self, name: &str, stop: &AtomicBool) -> Result<Recounted, RecountError> {
        self.recount(name, stop)
    }
    fn why(&self, name: &str, question: &WhyQuestion, stop: &AtomicBool) -> Result<WhyAnswer, RecountError> {
        self.why(name, question, stop)
    }
    fn dead_letters(
        &self,
        name: &str,
        after: Option<(String, u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JobError> {
        self.dead_letters(name, after, limit)
    }
    fn redrive(&self, name: &str) -> Result<Arc<Job>, JobError> {
        self.redrive(name)
    }
    fn polls(&self, job: Option<&str>, after: Option<&str>, limit: usize) -> Vec<PollView> {
        self.polls(job, after, limit)
    }
    fn poll(&self, id: &str) -> Result<PollView, PollError> {
        self.poll(id)
    }
    fn create_poll(&self, definition: &str) -> Result<PollView, PollError> {
        self.create_poll(definition)
    }
    fn change_poll(&self, id: &str, change: &str) -> Result<PollView, PollError> {
        self.change_poll(id, change)
    }
    fn close_poll(&self, id: &str) -> Result<PollView, PollError> {
        self.close_poll(id)
    }
    fn delete_poll(&self, id: &str) -> Result<(), PollError> {
        self.delete_poll(id)
    }
    fn checkpoint(&self, name: &str) -> Result<CheckpointStatus, JobError> {
        self.checkpoint(name)
    }
    fn restart(&self, name: &str, ignore_state: bool) -> Result<Arc<Job>, JobError> {
        self.restart(name, ignore_state)
    }
    fn history(&self, name: &str) -> Result<Option<HistoryReader>, JobError> {
        self.history(name)
    }
    fn rescale(self: Arc<Self>, workers: u64) -> Result<Receipt, RescaleError> {
        Node::rescale(&self, workers)
    }
    fn receipt(&self, id: u64) -> Result<Receipt, RescaleError> {
        self.receipt(id)
    }
    fn topic_config(&self) -> TopicConfig {
        self.topic_config()
    }
    fn log(&self) -> &Arc<dyn Log> {
        self.log()
    }
    fn is_internal(&self, topic: &str) -> bool {
        is_internal(topic)
    }
}
