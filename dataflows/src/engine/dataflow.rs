//! The dataflow of a `tally` job on one worker.
//!
//! ```text
//! Ingest --claims--> Standing --sums--> Tally --lines, totals--> Collect --> node
//!    |                  |--details--> Extremes --values-------------^
//!    |--sums, details (where there is no entity)                    |
//!    '--facts-----------'-------------------------------------------'
//! ```

use crate::claim::{Claim, LineId};
use crate::engine::collect::Collector;
use crate::engine::facts::Fact;
use crate::engine::ingest::{Ingest, Output};
use crate::engine::job::{Halt, Install, Job};
use crate::operators::extremes::{Detail, Extremes};
use crate::operators::standing::Standing;
use crate::operators::tally::{Sums, tally};
use crate::source::Source;
use crate::spec::Keep;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concatenate, Operator, Probe};
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::scheduling::Activator;

/// How many epochs may be open at once: exchange queues have no bound of their own.
const EPOCHS_IN_FLIGHT: u64 = 4;
/// How long a source waits that may not read on.
const HOLD: Duration = Duration::from_millis(1);

type VecBuilder<D> = CapacityContainerBuilder<Vec<D>>;

/// A worker's hand on the job's source.
#[derive(Clone)]
pub struct Control {
    /// What bounds its reading, if something does; and whether that is news to the source.
    halt: Rc<RefCell<(Option<Halt>, bool)>>,
    activator: Rc<Activator>,
}

impl Control {
    /// Bounds reading (told once all workers have come so far) or lets it go on.
    pub fn halt(&self, halt: Option<Halt>) {
        *self.halt.borrow_mut() = (halt, true);
        self.activator.activate();
    }
}

/// Builds the job on this worker. Every worker builds the same operators in the same order.
pub fn build<'scope>(scope: Scope<'scope, u64>, job: &Arc<Job>, install: &Install, source: &dyn Source) -> Control {
    let spec = install.tally();
    let keep = install.spec.keeping(job.formats.as_ref()).keep;
    let probe = ProbeHandle::new();

    let (control, ingested) = ingest(scope, job, install, source, probe.clone());
    let Streams { mut sums, mut details, mut facts, claims } = ingested;
    if keep != Keep::All {
        let standing = Standing::new(keep, spec.order.is_some(), spec.is_detailed());
        let stood = stand(claims, standing);
        sums = stood.sums;
        details = stood.details;
        facts = scope.concatenate([facts, stood.facts]);
    }
    let tallies = tally(sums);
    let lines = tallies.lines.inner.map(|((id, sums), epoch, diff)| Fact::Line { id, sums, diff: diff as i64, epoch });
    let totals = tallies.totals.inner.map(|((subject, sums), epoch, diff)| Fact::Total {
        subject,
        sums,
        diff: diff as i64,
        epoch,
    });
    let mut told = vec![facts, lines, totals];
    if let Some(extremes) = Extremes::new(&spec.aggregates, keep == Keep::All) {
        told.push(extreme(details, extremes));
    }
    let collector = Collector::new(job.clone(), spec, scope.peers());
    collect(scope.concatenate(told), collector, install.job.0).probe_with(&probe);
    control
}

struct Streams<'scope> {
    claims: StreamVec<'scope, u64, Claim>,
    sums: StreamVec<'scope, u64, (LineId, u64, Sums)>,
    details: StreamVec<'scope, u64, (LineId, Detail, i64)>,
    facts: StreamVec<'scope, u64, Fact>,
}

fn ingest<'scope>(
    scope: Scope<'scope, u64>,
    job: &Arc<Job>,
    install: &Install,
    source: &dyn Source,
    probe: ProbeHandle<u64>,
) -> (Control, Streams<'scope>) {
    let mut builder = OperatorBuilder::new("Ingest".to_owned(), scope);
    let info = builder.operator_info();
    let (claims_out, claims) = builder.new_output();
    let (sums_out, sums) = builder.new_output();
    let (details_out, details) = builder.new_output();
    let (facts_out, facts) = builder.new_output();
    let mut claims_out = OutputBuilder::<_, VecBuilder<Claim>>::from(claims_out);
    let mut sums_out = OutputBuilder::<_, VecBuilder<(LineId, u64, Sums)>>::from(sums_out);
    let mut details_out = OutputBuilder::<_, VecBuilder<(LineId, Detail, i64)>>::from(details_out);
    let mut facts_out = OutputBuilder::<_, VecBuilder<Fact>>::from(facts_out);

    let activator = Rc::new(scope.activator_for(info.address.clone()));
    let control = Control { halt: Rc::default(), activator: activator.clone() };
    let path = info.address.to_vec();
    let clock_waker = scope.worker().sync_activator_for(path.clone());
    let arrival = std::sync::Mutex::new(scope.worker().sync_activator_for(path));
    let arrival: crate::source::Waker = Arc::new(move || {
        // A worker that has gone needs no waking.
        arrival.lock().unwrap_or_else(std::sync::PoisonError::into_inner).activate().ok();
    });
    job.clock.register(clock_waker);
    let mut ingest = match Ingest::open(job, install, source, (scope.index(), scope.peers()), arrival) {
        Ok(ingest) => Some(ingest),
        Err(failure) => {
            job.fail(failure);
            None
        }
    };

    let (job, halt) = (job.clone(), control.halt.clone());
    builder.build(move |mut capabilities| {
        let mut output = Output::default();
        let mut announced = false;
        // The halt that is still to be told as reached.
        let mut halting = None;
        // The epoch in which something was read that has not ended yet.
        let mut unfinished = None;
        move |_frontiers| {
            let epoch = job.clock.current();
            if *capabilities[0].time() < epoch {
                capabilities.iter_mut().for_each(|capability| capability.downgrade(&epoch));
                unfinished = None;
            }
            let Some(reader) = ingest.as_mut().filter(|_| !job.has_failed()) else { return };
            if !announced {
                announced = true;
                output.facts.extend(reader.positions());
                unfinished = Some(epoch);
            }
            let oldest = probe.with_frontier(|f| f.first().copied()).unwrap_or(epoch);
            let held_back = epoch.saturating_sub(oldest) > EPOCHS_IN_FLIGHT || job.outbox.is_full();
            let mut behind = false;
            if std::mem::take(&mut halt.borrow_mut().1) {
                let halt = &halt.borrow().0;
                reader.halt(halt.as_ref());
                halting = halt.as_ref().map(|halt| halt.number);
            }
            if held_back {
                if reader.has_more() {
                    activator.activate_after(HOLD);
                }
            } else {
                match reader.read(&mut output) {
                    Ok(true) => unfinished = Some(epoch),
                    Ok(false) => {}
                    Err(failure) => return job.fail(failure),
                }
                behind = reader.has_more();
                if let Some(wait) = reader.retry_after() {
                    activator.activate_after(wait);
                }
            }
            if let Some(halt) = halting.filter(|_| reader.is_halted()) {
                halting = None;
                output.facts.push(Fact::Halted { halt });
                unfinished = Some(epoch);
            }
            claims_out.activate().session(&capabilities[0]).give_container(&mut output.claims);
            sums_out
                .activate()
                .session(&capabilities[1])
                .give_iterator(output.sums.drain(..).map(|(line, sums)| (line, epoch, sums)));
            details_out.activate().session(&capabilities[2]).give_container(&mut output.details);
            facts_out.activate().session(&capabilities[3]).give_container(&mut output.facts);
            if let Some(open) = unfinished
                && let Err(wait) = job.clock.end(open, behind)
                && !behind
            {
                activator.activate_after(wait);
            }
            if behind {
                activator.activate();
            }
        }
    });
    (control, Streams { claims, sums, details, facts })
}

fn stand<'scope>(claims: StreamVec<'scope, u64, Claim>, mut standing: Standing) -> Streams<'scope> {
    let scope = claims.scope();
    let mut builder = OperatorBuilder::new("Standing".to_owned(), scope);
    let mut input = builder.new_input(claims.clone(), Exchange::new(|c: &Claim| c.entity.key_group() as u64));
    let (sums_out, sums) = builder.new_output();
    let (details_out, details) = builder.new_output();
    let (facts_out, facts) = builder.new_output();
    let mut sums_out = OutputBuilder::<_, VecBuilder<(LineId, u64, Sums)>>::from(sums_out);
    let mut details_out = OutputBuilder::<_, VecBuilder<(LineId, Detail, i64)>>::from(details_out);
    let mut facts_out = OutputBuilder::<_, VecBuilder<Fact>>::from(facts_out);
    builder.build(move |_capabilities| {
        let mut stash = BTreeMap::new();
        move |frontiers| {
            input.for_each(|capability, claims| {
                let (_, held) = stash.entry(*capability.time()).or_insert_with(|| {
                    ([capability.retain(0), capability.retain(1), capability.retain(2)], Vec::new())
                });
                held.push(std::mem::take(claims));
            });
            while let Some(entry) = stash.first_entry().filter(|entry| !frontiers[0].less_equal(entry.key())) {
                let (epoch, (capabilities, batches)) = entry.remove_entry();
                for claims in batches {
                    standing.apply(claims);
                }
                let mut changes = standing.take_changes();
                let claims = changes.subjects.drain(..).map(|(subject, changes)| Fact::Claims { subject, changes });
                let newest = standing.take_newest().map(Fact::Newest);
                facts_out.activate().session(&capabilities[2]).give_iterator(claims.chain(newest));
                sums_out
                    .activate()
                    .session(&capabilities[0])
                    .give_iterator(changes.lines.drain(..).map(|(line, sums)| (line, epoch, sums)));
                details_out.activate().session(&capabilities[1]).give_container(&mut changes.details);
            }
        }
    });
    Streams { claims, sums, details, facts }
}

fn extreme<'scope>(
    details: StreamVec<'scope, u64, (LineId, Detail, i64)>,
    mut extremes: Extremes,
) -> StreamVec<'scope, u64, Fact> {
    let exchange = Exchange::new(|(line, ..): &(LineId, Detail, i64)| line.group ^ line.subject);
    details.unary_frontier::<VecBuilder<Fact>, _, _, _>(exchange, "Extremes", |_capability, _info| {
        let mut stash = BTreeMap::new();
        move |(input, frontier), output| {
            input.for_each(|capability, details| {
                let (_, held) = stash.entry(*capability.time()).or_insert_with(|| (capability.retain(0), Vec::new()));
                held.append(details);
            });
            while let Some(entry) = stash.first_entry().filter(|entry| !frontier.less_equal(entry.key())) {
                let (capability, details) = entry.remove();
                let facts = extremes.apply(details).into_iter().map(|(id, extreme)| Fact::Extreme { id, extreme });
                output.session(&capability).give_iterator(facts);
            }
        }
    })
}

fn collect<'scope>(
    facts: StreamVec<'scope, u64, Fact>,
    mut collector: Collector,
    home: u64,
) -> StreamVec<'scope, u64, ()> {
    facts.unary_frontier::<VecBuilder<()>, _, _, _>(Exchange::new(move |_| home), "Collect", |_capability, _info| {
        move |(input, frontier), _output| {
            input.for_each(|capability, facts| collector.gather(*capability.time(), std::mem::take(facts)));
            collector.close(frontier.frontier().first().copied());
        }
    })
}
