//! The recount: reads the log again and compares.

mod bases;
mod periodic;
mod reading;
mod why;

use crate::node::job::{Job, Plan, RecountOutcome};
use crate::node::{Difference, Node, RecountError, Recounted, lock};
pub use bases::RecountBase;
pub use why::{
    ClaimClass, OtherSays, RecordClass, RecordPlace, WhyAnswer, WhyClaim, WhyLine, WhyOther, WhyQuestion, WhyRecord,
};

use reading::{Records, Turn};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::recount::Recount;
pub(super) use tallyflow_dataflows::recount::RecountError as Error;
use tallyflow_dataflows::results::Group;
use tallyflow_dataflows::spec::Dataflow;
use tallyflow_dataflows::spec::polls::PollInForce;

/// Why records were rejected, by input, partition and offset.
type Rejections = HashMap<(usize, PartitionId, Offset), String>;

/// How many dead letters are looked at under one lock.
const LETTERS_AT_ONCE: usize = 1_000;
/// How many differences are named.
const DIFFERENCES_MAX: usize = 100;
/// What is compared of the accounting, in its order.
const CLASSES: &str = "read, rejected, irrelevant, matched, claims, counted, voided, all others";

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
    accounting: [u64; 8],
}

impl Node {
    /// Counts the job's records anew, from the log, by a plain fold, and compares with what it shows now.
    /// Blocks while it reads, unless `stop` is set meanwhile; the job goes on.
    pub fn recount(&self, name: &str, stop: &AtomicBool) -> Result<Recounted, RecountError> {
        let job = self.job(name)?;
        let turn = Turn::take(&job, stop)?;
        let started = Instant::now();
        let form = job.form();
        let (shown, polls) = self.shown_and_polls(&job)?;
        // The plan of just these numbers: another form may take the job's place at any time.
        let plan = shown.plan.clone();
        let base = self.base(&job, &plan, &shown.next)?;
        let records = Records::new(self, &turn, &plan, (base.as_ref().map(|from| &from.base.offsets), &shown.next));
        let letters = self.rejections(&job, &plan)?;
        let mut recount =
            Recount::with_polls(&plan.spec, &BuiltinFormats, &polls).within(self.config.recount.memory_max);
        let at = format!("{:.3}", jiff::Timestamp::now());
        let comes_to = RecountBase { epoch: shown.epoch, at, offsets: shown.next.clone() };
        let keeping = self.keep_base(&job, &plan, &mut recount, comes_to);
        let mut redecodable = 0;
        let counted = recount.over(|recount| {
            let passes = recount.passes();
            if let Some(base) = &base {
                base.read(recount)?;
            }
            records.read(passes, |input, record| {
                if !letters.contains_key(&(input, record.partition, record.offset)) {
                    recount.record(input, record);
                } else if recount.rejected(input, record) && passes.pass == 1 {
                    redecodable += 1;
                }
            })
        })?;
        let plain = [
            counted.read,
            counted.rejected,
            counted.irrelevant,
            counted.matched,
            counted.claims,
            counted.counted,
            counted.voided,
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
        let difference = differences.first().map(|first| {
            let Difference { subject, group, tally, recount } = first;
            let group = group.text();
            format!(
                "subject {subject:?}, group {group:?} has tally {} and recount {}",
                numbers(tally),
                numbers(recount)
            )
        });
        let difference = difference.or_else(|| {
            (plain != shown.accounting)
                .then(|| format!("the accounting is {:?} and by the recount {plain:?} ({CLASSES})", shown.accounting))
        });
        let equal = difference.is_none();
        if let Some(first) = &difference {
            let (epoch, differences) = (shown.epoch.0, differences.len());
            tracing::error!(job = name, epoch, differences, "a recount differs: {first}");
        }
        if let Some(keeping) = keeping.filter(|_| equal) {
            self.kept_base(&job, &plan, keeping);
        }
        differences.truncate(DIFFERENCES_MAX);
        let ms = started.elapsed().as_millis() as u64;
        let at_ms = jiff::Timestamp::now().as_millisecond();
        job.set_recounted(form, RecountOutcome { at_ms, records: shown.read, ms, difference });
        Ok(Recounted {
            job: name.to_owned(),
            epoch: shown.epoch,
            equal,
            records: shown.read,
            redecodable,
            base: base.map(|from| from.base),
            ms,
            differences,
        })
    }

    /// Why records were rejected when they were read, by input, partition and offset: a decoder that has been
    /// mended since may take them. Where two inputs read one topic nobody knows whose a letter is.
    fn rejections(&self, job: &Job, plan: &Plan) -> Result<Rejections, RecountError> {
        let mut rejections = HashMap::new();
        let mut after = None;
        loop {
            let letters = self.dead_letters(job.name(), after.take(), LETTERS_AT_ONCE)?;
            let Some(last) = letters.last() else { return Ok(rejections) };
            after = Some((last.topic.clone(), last.partition, last.offset));
            for letter in letters {
                let mut inputs = plan.inputs.iter().enumerate().filter(|(_, input)| input.topic == letter.topic);
                if let (Some((input, _)), None) = (inputs.next(), inputs.next()) {
                    let place = (input, PartitionId(letter.partition), Offset(letter.offset));
                    rejections.insert(place, letter.reason);
                }
            }
        }
    }

    /// What a job shows, and the polls in force if it has such.
    fn shown_and_polls(&self, job: &Job) -> Result<(Shown, Vec<PollInForce>), RecountError> {
        match &job.plan().spec.dataflow {
            Dataflow::Tally(_) => {
                let shown = shown(job).ok_or_else(|| RecountError::Nothing { job: job.name().to_owned() })?;
                Ok((shown, Vec::new()))
            }
            Dataflow::Polls(_) => self.shown_with_polls(job),
        }
    }

    /// What a job of polls shows, and the polls that it shows, as soon as these are all in their newest
    /// versions.
    fn shown_with_polls(&self, job: &Job) -> Result<(Shown, Vec<PollInForce>), RecountError> {
        let deadline = Instant::now() + SETTLE_WAIT;
        loop {
            {
                // Nothing becomes of a poll while this is held.
                let polls = lock(&self.polls);
                if let Some((in_force, shown)) = polls.settled(job).zip(shown(job)) {
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
            if job.read(|_| ()).is_none() {
                return Err(RecountError::Nothing { job: job.name().to_owned() });
            }
            if Instant::now() > deadline {
                return Err(RecountError::Unsettled { job: job.name().to_owned() });
            }
            std::thread::sleep(SETTLE_AGAIN);
        }
    }
}

fn shown(job: &Job) -> Option<Shown> {
    job.read_with_plan(|plan, results| {
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
                a.voided,
                a.superseded + a.duplicate + a.late,
            ],
        }
    })
}

/// A line's aggregates as they are logged.
fn numbers(values: &Option<Vec<Decimal>>) -> String {
    let all = |all: &Vec<Decimal>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    values.as_ref().map_or_else(|| "none".to_owned(), all)
}
