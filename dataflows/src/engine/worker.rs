//! A worker's loop: step the dataflows, take commands, park.

use crate::claim::HashKey;
use crate::crash;
use crate::engine::dataflow::{Control, build};
use crate::engine::job::{Install, Job, Keeping};
use crate::engine::outbox::Outbox;
use crate::engine::{Command, Shared, Task, lock};
use crate::ids::{Offset, PartitionId};
use crate::source::{PartitionSource, Source, SourceError, TopicState, Waker};
use crate::update::{Graph, GraphChannel, GraphOperator, JobId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use timely::logging::TimelyEvent;
use timely::worker::Worker;

/// How long a worker parks with nothing to do; an arrival or a command wakes it at once.
const PARK: Duration = Duration::from_millis(100);

struct Installed {
    dataflow: usize,
    control: Control,
    job: Arc<Job>,
}

/// Runs until the engine stops.
pub fn run(worker: &mut Worker, shared: &Shared) {
    // Its place among the workers of the process.
    let index = worker.index() % shared.workers();
    lock(&shared.threads)[index] = Some(std::thread::current());
    let mut installed: HashMap<JobId, Installed> = HashMap::new();
    while !shared.stop.load(Ordering::Acquire) {
        shared.beat(index);
        for task in shared.tasks(index) {
            match task {
                Task::Install(job, data) => install(worker, shared, &mut installed, job, &data),
                Task::Other(command) => obey(worker, shared, &mut installed, &command),
            }
        }
        worker.step_or_park(Some(PARK));
        crash::point("worker::step");
    }
    // Dataflows that still hold capabilities would keep the worker from ending.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

fn install(
    worker: &mut Worker,
    shared: &Shared,
    installed: &mut HashMap<JobId, Installed>,
    job: Arc<Job>,
    install: &Install,
) {
    let index = worker.index() % shared.workers();
    let dataflow = worker.next_dataflow_index();
    let source = &shared.config.source;
    let alive = || shared.beat(index);
    let control = worker.dataflow_named(&install.spec.name, |scope| build(scope, &job, install, source, &alive));
    control.halt(install.halt.clone());
    job.built(shared.workers());
    installed.insert(install.job, Installed { dataflow, control, job });
}

fn obey(worker: &mut Worker, shared: &Shared, installed: &mut HashMap<JobId, Installed>, command: &Command) {
    match command {
        Command::Remove(job) => {
            if let Some(gone) = installed.remove(job) {
                worker.drop_dataflow(gone.dataflow);
                if gone.job.taken_down(shared.workers()) {
                    shared.forget(*job);
                }
            }
        }
        Command::Halt { job, halt } => {
            if let Some(job) = installed.get(job) {
                job.control.halt(Some(halt.clone()));
            }
        }
        Command::Resume(job) => {
            if let Some(job) = installed.get(job) {
                job.control.halt(None);
            }
        }
        Command::StepForward { job, at_least } => {
            if let Some(job) = installed.get(job) {
                job.job.step_forward(*at_least);
                job.control.announce();
            }
        }
        // The book is changed.
        Command::Polls { job, .. } => {
            if let Some(job) = installed.get(job) {
                job.control.polls_changed();
            }
        }
        Command::Checkpoint { job, number } => {
            if let Some(job) = installed.get(job) {
                job.job.begin_checkpoint(*number, shared.workers());
                job.control.end_epoch();
            }
        }
        // They were dealt with before they came here.
        Command::Install(_) | Command::Keep { .. } => {}
        Command::RaiseEpochLimit(limit) => {
            for job in installed.values() {
                job.job.clock.raise_limit(*limit);
            }
        }
    }
}

/// A source of a log without topics, to build a dataflow that reads nothing.
struct NoSource;

impl Source for NoSource {
    fn topic(&self, _topic: &str) -> Result<Option<TopicState>, SourceError> {
        Ok(None)
    }

    fn offset_at(&self, topic: &str, _partition: PartitionId, _timestamp_ms: i64) -> Result<Offset, SourceError> {
        Err(SourceError::UnknownTopic { topic: topic.to_owned() })
    }

    fn open(
        &self,
        topic: &str,
        _partition: PartitionId,
        _from: Offset,
        _waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        Err(SourceError::UnknownTopic { topic: topic.to_owned() })
    }
}

/// See [`crate::engine::graph`].
pub fn graph(install: &Install, formats: Arc<dyn crate::decode::Formats>) -> Graph {
    let mut install = install.clone();
    install.inputs.iter_mut().for_each(|input| input.partitions.clear());
    timely::execute_directly(move |worker| {
        let graph = Rc::new(RefCell::new(Graph::default()));
        let ours = graph.clone();
        if let Some(mut register) = worker.log_register() {
            register.insert::<timely::logging::TimelyEventBuilder, _>("timely", move |_, events| {
                let Some(events) = events else { return };
                let mut graph = ours.borrow_mut();
                for (_, event) in events.iter() {
                    match event {
                        // The dataflow itself has an address of one part, its operators of two.
                        TimelyEvent::Operates(o) => {
                            if let [_, id] = o.addr.as_slice() {
                                graph.operators.push(GraphOperator { id: *id as u64, name: o.name.clone() });
                            }
                        }
                        TimelyEvent::Channels(c) => {
                            graph.channels.push(GraphChannel { from: c.source.0 as u64, to: c.target.0 as u64 });
                        }
                        _ => {}
                    }
                }
            });
        }
        let outbox = Outbox::new(Arc::new(|_| {}), Arc::default());
        let job = Arc::new(Job::new(&install, formats, HashKey([0, 0]), outbox, Keeping::default()));
        let source: Arc<dyn Source> = Arc::new(NoSource);
        let dataflow = worker.next_dataflow_index();
        worker.dataflow_named(&install.spec.name, |scope| build(scope, &job, &install, &source, &|| ()));
        worker.step();
        worker.drop_dataflow(dataflow);
        if let Some(mut register) = worker.log_register() {
            register.remove("timely");
        }
        graph.take()
    })
}
