//! The plain program: one thread that takes a topic's records from librdkafka, and decodes and tallies them
//! where it is told how.

use super::Ran;
use crate::bench::Named;
use crate::bench::plain::Plain;
use crate::bench::process::{self, Machine};
use crate::cli::output;
use anyhow::{anyhow, ensure};
use cpu_time::ProcessTime;
use std::time::{Duration, Instant};
use tallyflow_connectors::log::kafka::KafkaSource;
use tallyflow_connectors::log::kafka::plain::Drain;
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::source::Source;

/// For how long no record may come.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a batch may gather: it ends sooner when it is full.
const GATHER: Duration = Duration::from_millis(20);

/// Reads so many records of a topic and prints what it came to.
pub fn run(brokers: &str, topic: &str, records: u64, workload: Option<Named>) -> anyhow::Result<()> {
    let config = super::config(brokers)?;
    let failed = |error: String| anyhow!("reading {topic}: {error}");
    let state = KafkaSource::open(config.clone()).map_err(failed)?.topic(topic)?;
    let state = state.ok_or_else(|| anyhow!("there is no topic {topic}"))?;
    let from: Vec<Offset> = state.partitions.iter().map(|partition| partition.start).collect();
    let (started, cpu, machine) = (Instant::now(), ProcessTime::now(), Machine::watch());
    let mut drain = Drain::open(&config, topic, &from).map_err(failed)?;
    let mut plain = workload.map(|workload| (workload.spec().plain)());
    let (mut read, mut last) = (0, Instant::now());
    while read < records {
        let taken = match &mut plain {
            None => drain.take(GATHER, &mut |_| ()),
            Some(plain) => drain.take(GATHER, &mut |record| plain.record(&record)),
        };
        match taken.map_err(failed)? {
            0 => ensure!(last.elapsed() < SILENCE_MAX, "{topic} has {read} records, not {records}"),
            taken => {
                read += taken as u64;
                last = Instant::now();
            }
        }
    }
    let (seconds, cpu_s, busy) = (started.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64(), machine.busy());
    let peak_bytes = process::peak_bytes(std::process::id());
    let Plain { tallies, entities, .. } = plain.map_or_else(Plain::default, |plain| plain.finish());
    let ran = Ran { records: read, seconds, cpu_s, peak_bytes, entities, tallies, busy };
    Ok(output::line(serde_json::to_string(&ran)?)?)
}
