//! The topics that are read: simulated records, made once. What is there already is left out.

use crate::bench::Named;
use anyhow::{anyhow, bail};
use indicatif::ProgressBar;
use std::time::Duration;
use tallyflow_connectors::feeds::simulate::{SimulateOptions, Simulation};
use tallyflow_connectors::log::kafka::plain::Sender;
use tallyflow_connectors::log::kafka::{KafkaConfig, KafkaLog};
use tallyflow_connectors::log::{Log, TopicConfig, partition_of};
use tallyflow_dataflows::source::Source;

/// In how many partitions the records lie.
pub const PARTITIONS: u32 = 4;
/// How long the producer gathers records, and how long the last of them may take.
const LINGER: Duration = Duration::from_millis(5);
const FINISH: Duration = Duration::from_secs(120);

/// A topic of simulated records: its name says what is in it.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub records: u64,
    workload: Named,
    voters: u32,
}

impl Topic {
    pub fn of(workload: Named, records: u64, voters: u32) -> Topic {
        let name = match workload {
            Named::Votes => format!("bench-votes-{records}-{voters}"),
            _ => format!("bench-{}-{records}", workload.spec().name),
        };
        Topic { name, records, workload, voters }
    }
}

/// Fills a topic, or goes on with one that was filled in part: the records are the same in every run, and those
/// of a partition come in order.
pub fn fill(config: &KafkaConfig, topic: &Topic, progress: &ProgressBar) -> anyhow::Result<()> {
    let log = KafkaLog::open(config.clone(), "tallyflow-bench").map_err(|error| anyhow!(error))?;
    let name = &topic.name;
    if log.topic(name)?.is_none() {
        log.create_topic(name, PARTITIONS, TopicConfig::default())?;
    }
    let state = log.topic(name)?.ok_or_else(|| anyhow!("the topic {name} was made and is not there"))?;
    let mut there: Vec<u64> = state.partitions.iter().map(|partition| partition.end.0).collect();
    let before: u64 = there.iter().sum();
    if there.len() != PARTITIONS as usize || state.partitions.iter().any(|partition| partition.start.0 > 0) {
        bail!("the topic {name} is not as this benchmark makes it; delete it");
    }
    if before >= topic.records {
        if before > topic.records {
            bail!("the topic {name} has {before} records, more than {}; delete it", topic.records);
        }
        return Ok(());
    }
    let spec = topic.workload.spec();
    let mut options =
        SimulateOptions { records: Some(topic.records), voters: topic.voters, ..SimulateOptions::default() };
    (spec.simulate)(&mut options);
    let mut simulation = Simulation::new(spec.workload, options);
    let sender = Sender::open(config, LINGER).map_err(|error| anyhow!(error))?;
    let (mut made, mut value) = (0u64, Vec::new());
    while let Some(record) = simulation.generate() {
        made += 1;
        if made.is_multiple_of(100_000) {
            progress.set_message(format!("filling {name}: {made} of {} records", topic.records));
        }
        let partition = partition_of(record.key, PARTITIONS);
        match &mut there[partition.0 as usize] {
            0 => {
                value.clear();
                (spec.write)(record.value, &mut value);
                sender.send(name, partition, Some(record.key), &value).map_err(|error| anyhow!(error))?;
            }
            skip => *skip -= 1,
        }
    }
    sender.finish(FINISH).map_err(|error| anyhow!("filling {name}: {error}"))
}
