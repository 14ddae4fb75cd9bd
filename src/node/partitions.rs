//! Partitions that are added to a topic while a job reads it: the job reads them too, from their beginning.

use crate::node::job::{Job, JobState, Plan};
use crate::node::{Node, lock};
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::engine::job::{InstallInput, Start};
use tallyflow_dataflows::ids::PartitionId;
use tallyflow_dataflows::source::SourceError;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Node {
    /// Starts the thread that looks for new partitions, where the log can get any.
    pub(super) fn watch_partitions(self: &Arc<Self>) -> std::io::Result<()> {
        if self.config.kafka.is_none() {
            return Ok(());
        }
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("partitions".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) else { return };
                for job in node.jobs() {
                    if let Err(error) = node.take_up_partitions(&job) {
                        tracing::warn!(job = job.name(), "partitions that were added are not read yet: {error:#}");
                    }
                }
            }
        })?;
        Ok(())
    }

    /// Has a running job read partitions that were added to its topics since it was submitted.
    fn take_up_partitions(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        // Any other is looked at again when it runs.
        if job.state() != JobState::Running {
            return Ok(());
        }
        let grown = |inputs: &[InstallInput]| -> Result<Option<Vec<InstallInput>>, SourceError> {
            let mut more = inputs.to_vec();
            for input in &mut more {
                self.grow(input)?;
            }
            Ok((more != inputs).then_some(more))
        };
        // Asked without the lock: an answer may take its time.
        match grown(&job.plan().inputs) {
            Ok(Some(_)) => {}
            // What is away is waited for by those who read it.
            Ok(None) | Err(SourceError::Away(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let _one_at_a_time = lock(&self.changing);
        let before = job.plan();
        let free = job.state() == JobState::Running && job.beside().is_none() && job.halt().is_none();
        let Some(inputs) = grown(&before.inputs)?.filter(|_| free) else { return Ok(()) };
        let names: Vec<_> = inputs.iter().map(|i| format!("{} has {}", i.topic, i.partitions.len())).collect();
        tracing::info!(job = job.name(), "partitions were added and are read from now on: {}", names.join(", "));
        let engine_id = self.next_engine_id();
        let graph = self.graph(engine_id, &before.spec, &inputs);
        let plan = Plan { engine_id, spec: before.spec.clone(), form: before.form, inputs, graph };
        self.go_on_as(job, plan)
    }

    /// Adds to an input the partitions that its topic has besides.
    fn grow(&self, input: &mut InstallInput) -> Result<(), SourceError> {
        let topic = self.log.topic(&input.topic)?;
        let same = |incarnation: u64| input.incarnation.is_none_or(|known| known == incarnation);
        let Some(topic) = topic.filter(|topic| same(topic.incarnation)) else { return Ok(()) };
        // An input that ends where its partitions ended then has nothing to read of later ones.
        let is_closed = !input.partitions.is_empty() && input.partitions.iter().all(|start| start.until.is_some());
        for (number, state) in topic.partitions.iter().enumerate().skip(input.partitions.len()) {
            let until = is_closed.then_some(state.start);
            input.partitions.push(Start { partition: PartitionId(number as u32), from: state.start, until });
        }
        Ok(())
    }
}
