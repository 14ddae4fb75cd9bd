//! `tallyflow bench --log kafka`: the server on a topic of Kafka, beside plain programs on the same topic.
//!
//! ```text
//! this process: fills the topics, measures CPU time and memory of the others, compares tallies
//!    |--> a plain program that takes the records and looks at none       (its own process)
//!    |--> a plain loop that decodes and tallies them, on one thread      (its own process)
//!    '--> a server with 1 worker and with 2, checkpoints every second    (two: node and engine)
//! ```
//!
//! They take turns, several rounds of them, each from the topic's beginning. What comes out in the end must be
//! the same of all, else nothing is printed.

mod alone;
mod fill;
pub mod latency;
mod report;
mod served;

pub use alone::run as run_alone;

use crate::bench::Named;
use crate::bench::plain::Tallies;
use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tallyflow_connectors::log::kafka::{KafkaConfig, Secret};
use tokio::process::Command;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `HOST:PORT`, several with commas between.
    pub brokers: String,
    pub workloads: Vec<Named>,
    pub records: u64,
    pub voters: u32,
    pub workers: Vec<usize>,
    pub rounds: u32,
    pub json: bool,
}

/// What a case came to.
#[derive(Debug, Serialize, Deserialize)]
struct Ran {
    records: u64,
    /// From the first asking for records to the last being counted.
    seconds: f64,
    cpu_s: f64,
    peak_bytes: u64,
    /// Voters or posts that are held.
    entities: u64,
    /// Empty where records are not looked at.
    tallies: Tallies,
    /// How much of the machine was at work, of 1, the brokers on it too.
    #[serde(default)]
    busy: f64,
}

/// How a case is called, in the order of the report.
const DRAIN: &str = "raw drain";
const LOOP: &str = "plain loop, 1 thread";

/// Brokers without any properties: as everybody reads them.
fn config(brokers: &str) -> anyhow::Result<KafkaConfig> {
    // The brokers keep the records as they come: so do most producers have it.
    let properties = BTreeMap::from([("compression.type".to_owned(), Secret::new("none"))]);
    Ok(KafkaConfig::new(brokers, properties)?)
}

/// Runs the plan and prints what it came to.
pub async fn run(plan: &Plan) -> anyhow::Result<()> {
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    progress.enable_steady_tick(Duration::from_millis(200));
    let mut all = Vec::new();
    for workload in &plan.workloads {
        let topic = fill::Topic::of(*workload, plan.records, plan.voters);
        let (config, theirs, shown) = (config(&plan.brokers)?, topic.clone(), progress.clone());
        tokio::task::spawn_blocking(move || fill::fill(&config, &theirs, &shown)).await??;
        all.push(measure(plan, *workload, &topic, &progress).await?);
    }
    progress.finish_and_clear();
    report::print(&all, plan)
}

/// All rounds of one workload.
async fn measure(
    plan: &Plan,
    workload: Named,
    topic: &fill::Topic,
    progress: &ProgressBar,
) -> anyhow::Result<report::Report> {
    let served: Vec<String> = plan.workers.iter().map(|workers| format!("tallyflow, {workers} workers")).collect();
    let mut cases: Vec<(String, Vec<Ran>)> = vec![(DRAIN.to_owned(), Vec::new()), (LOOP.to_owned(), Vec::new())];
    cases.extend(served.into_iter().map(|name| (name, Vec::new())));
    let mut expected: Option<Tallies> = None;
    for round in 1..=plan.rounds {
        for (case, (name, rans)) in cases.iter_mut().enumerate() {
            progress.set_message(format!("{}: round {round} of {}, {name}", workload.spec().name, plan.rounds));
            let mut ran = match case {
                0 | 1 => alone(plan, workload, topic, case == 1).await?,
                _ => served::run(&plan.brokers, workload, topic, plan.workers[case - 2]).await?,
            };
            ensure!(ran.records == plan.records, "{name} read {} records of {}", ran.records, plan.records);
            if case > 0 {
                let tallies = std::mem::take(&mut ran.tallies);
                ensure!(!tallies.is_empty(), "{name} has counted nothing; this is a defect");
                match &expected {
                    None => expected = Some(tallies),
                    Some(expected) if *expected != tallies => {
                        bail!("{name} and the plain loop came to different tallies; this is a defect")
                    }
                    Some(_) => {}
                }
            }
            rans.push(ran);
        }
    }
    Ok(report::Report::of(workload.spec().name, plan.records, &cases, &plan.workers))
}

/// A plain program in a process of its own.
async fn alone(plan: &Plan, workload: Named, topic: &fill::Topic, decode: bool) -> anyhow::Result<Ran> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench-alone", &plan.brokers, &topic.name, &plan.records.to_string()]);
    if decode {
        command.arg(workload.spec().name);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let said = super::process::first_line(&mut child).await.context("the plain program has failed")?;
    child.wait().await?;
    Ok(serde_json::from_str(&said)?)
}
