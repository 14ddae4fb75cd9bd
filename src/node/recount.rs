//! The recount: reads the log again and compares.

use crate::node::job::{Job, Plan};
use crate::node::{Difference, Node, RecountError, Recounted, lock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::ids::{Epoch, Offset};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::recount::Recount;
use tallyflow_dataflows::results::Group;
use tallyflow_dataflows::source::{Budget, Source};
use tallyflow_dataflows::spec::Dataflow;
use tallyflow_dataflows::spec::polls::PollInForce;

/// How many differences are named.
const DIFFERENCES_MAX: usize = 100;
/// What one read of the log hands over.
const BUDGET: Budget = Budget { records_max: 10_000, bytes_max: 8 << 20, until: Offset(u64::MAX) };

/// How long a recount waits for polls that are being counted, and how often it looks.
const SETTLE_WAIT: Duration = Duration::from_secs(10);
const SETTLE_AGAIN: Duration = Duration::from_millis(20);

/// What the job shows, to be compared.
struct Shown {
    plan: Arc<Plan>,
    epoch: Epoch,
    next: Vec<Vec<Offset>>,
    read: u64,
    lines: BTreeMap<(String, String), (Group, Vec<Decimal>)>,
    /// Records and claims by class, superseded, duplicate and late in their sum.
    accounting: [u64; 7],
}

impl Node {
    /// Counts the job's records anew, from the log, by a plain fold in memory, and compares with what
    /// it shows now. Blocks while it reads; the job goes on meanwhile.
    pub fn recount(&self, name: &str) -> Result<Recounted, RecountError> {
        let job = self.job(name)?;
        let started = Instant::now();
        let (shown, polls) = match &job.plan().spec.dataflow {
            Dataflow::Tally(_) => (self.shown(&job)?, Vec::new()),
            Dataflow::Polls(_) => self.shown_with_polls(&job)?,
        };
        let max = self.config.recount_records_max;
        // The plan of just these numbers: another form may take the job's place at any time.
        let plan = shown.plan.clone();
        let records: u64 = plan
            .inputs
            .iter()
            .zip(&shown.next)
            .flat_map(|(input, next)| input.partitions.iter().zip(next).map(|(start, next)| next.0 - start.from.0))
            .sum();
        if records > max {
            return Err(RecountError::TooLarge { records, max });
        }
        let mut recount = Recount::with_polls(&plan.spec, &BuiltinFormats, &polls);
        for (number, (input, next)) in plan.inputs.iter().zip(&shown.next).enumerate() {
            for (start, next) in input.partitions.iter().zip(next) {
                let waker: tallyflow_dataflows::source::Waker = Arc::new(|| {});
                let source = self.log.open(&input.topic, start.partition, start.from, waker);
                let mut source = source.map_err(|e| RecountError::Failed(e.to_string()))?;
                let mut at = start.from;
                while at < *next {
                    let budget = Budget { until: *next, ..BUDGET };
                    let polled = source.poll(budget, &mut |record| {
                        let too_early = input.from_ms.is_some_and(|from| record.timestamp_ms < from);
                        if !too_early {
                            recount.record(number, &record);
                        }
                    });
                    let polled = polled.map_err(|e| RecountError::Failed(e.to_string()))?;
                    if polled.next == at {
                        let what = format!("{}/{} ends at {at}, before the job's {next}", input.topic, start.partition);
                        return Err(RecountError::Failed(what));
                    }
                    at = polled.next;
                }
            }
        }
        let counted = recount.finish().map_err(|e| RecountError::Failed(e.to_string()))?;
        let plain = [
            counted.read,
            counted.rejected,
            counted.irrelevant,
            counted.matched,
            counted.claims,
            counted.counted,
            counted.rest,
        ];
        let mut differences = Vec::new();
        let mut tallies = shown.lines;
        for ((subject, group), values) in counted.lines {
            let tally = tallies.remove(&(subject.clone(), group.clone()));
            let recount: Option<Vec<Decimal>> = values.into_iter().collect();
            if tally.as_ref().map(|(_, values)| values) != recount.as_ref() {
                let (group, tally) = tally.map_or((Group(vec![group]), None), |(group, values)| (group, Some(values)));
                differences.push(Difference { subject, group, tally, recount });
            }
        }
        for ((subject, _), (group, tally)) in tallies {
            differences.push(Difference { subject, group, tally: Some(tally), recount: None });
        }
        let equal = differences.is_empty() && plain == shown.accounting;
        if !equal {
            tracing::error!(job = name, ?plain, shown = ?shown.accounting, differences = differences.len(), "a recount differs");
        }
        differences.truncate(DIFFERENCES_MAX);
        let ms = started.elapsed().as_millis() as u64;
        Ok(Recounted { job: name.to_owned(), epoch: shown.epoch, equal, records: shown.read, ms, differences })
    }

    /// What a job of polls shows, and the polls that it shows, as soon as these are all in their newest
    /// versions.
    fn shown_with_polls(&self, job: &Job) -> Result<(Shown, Vec<PollInForce>), RecountError> {
        let deadline = Instant::now() + SETTLE_WAIT;
        loop {
            {
                // Nothing becomes of a poll while this is held.
                let polls = lock(&self.polls);
                if let Some(in_force) = polls.settled(job) {
                    let shown = self.shown(job)?;
                    // One that was just opened has its lines from the next epoch on.
                    let has_lines = |poll: &PollInForce| {
                        let option = poll.poll.options.first().cloned().unwrap_or_default();
                        shown.lines.contains_key(&(poll.poll.id.clone(), option))
                    };
                    if in_force.iter().all(has_lines) {
                        return Ok((shown, in_force));
                    }
                }
            }
            if Instant::now() > deadline {
                return Err(RecountError::Unsettled { job: job.name().to_owned() });
            }
            std::thread::sleep(SETTLE_AGAIN);
        }
    }

    fn shown(&self, job: &Job) -> Result<Shown, RecountError> {
        let shown = job.read_with_plan(|plan, results| {
            let a = *results.accounting();
            let line = |(subject, group, values): (&str, &Group, &[Decimal])| {
                ((subject.to_owned(), group.text()), (group.clone(), values.to_vec()))
            };
            Shown {
                plan: plan.clone(),
                epoch: results.epoch().unwrap_or_default(),
                next: results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect(),
                read: a.read,
                lines: results.lines().map(line).collect(),
                accounting: [
                    a.read,
                    a.rejected,
                    a.irrelevant,
                    a.matched,
                    a.claims,
                    a.counted,
                    a.superseded + a.duplicate + a.late + a.voided,
                ],
            }
        });
        shown.ok_or_else(|| RecountError::Nothing { job: job.name().to_owned() })
    }
}
