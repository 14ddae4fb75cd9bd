//! A job's dataflow on one worker.
//!
//! ```text
//! tally:  Ingest --claims--> Standing --sums--> Tally --lines, totals--> Collect --> node
//!            |                  |--details--> Extremes --values-------------^
//!            |--sums, details (where there is no entity)                    |
//!            '--facts-----------'-------------------------------------------'
//!
//! polls:  Ingest --votes----> Standing -------------sums--> Tally --lines, totals--> Collect --> node
//!            |--messages--> Messages ---------------sums------^                         ^
//!            |                 '--spoken--> People --sums-----'                         |
//!            '--facts-------------'------------'----------------------------------------'
//! ```

use crate::checkpoint::Kind;
use crate::claim::{Claim, EntityHash, LineId};
use crate::engine::collect::Collector;
use crate::engine::facts::Fact;
use crate::engine::ingest::{Ingest, Output};
use crate::engine::job::{Halt, Install, Job};
use crate::engine::pace::Pace;
use crate::engine::restoring::Restoring;
use crate::engine::speaking;
use crate::engine::stash::Stash;
use crate::engine::taking::Taker;
use crate::jobs::polls::book::Book;
use crate::operators::extremes::{Detail, Extremes};
use crate::operators::messages::Version;
use crate::operators::standing::{Keeps, Standing};
use crate::operators::tally::{Sums, tally};
use crate::source::Source;
use crate::spec::{Aggregate, Dataflow, Keep};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
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

pub(super) type VecBuilder<D> = CapacityContainerBuilder<Vec<D>>;

/// A worker's hand on the job's source.
#[derive(Clone)]
pub struct Control {
    /// What bounds its reading, if something does; and whether that is news to the source.
    halt: Rc<RefCell<(Option<Halt>, bool)>>,
    /// Whether the polls have changed since its last turn.
    polls_changed: Rc<Cell<bool>>,
    /// Whether it is to be told where reading stands, though nothing may have been read.
    announce: Rc<Cell<bool>>,
    /// Whether the epoch is to end, though nothing may be in it.
    end_epoch: Rc<Cell<bool>>,
    activator: Rc<Activator>,
}

impl Control {
    /// Bounds reading (told once all workers have come so far) or lets it go on.
    pub fn halt(&self, halt: Option<Halt>) {
        *self.halt.borrow_mut() = (halt, true);
        self.activator.activate();
    }

    /// Lets an epoch close that tells where reading stands.
    pub fn announce(&self) {
        self.announce.set(true);
        self.activator.activate();
    }

    /// Lets the epoch that is open end, whatever is in it. Of an empty one nothing is told.
    pub fn end_epoch(&self) {
        self.end_epoch.set(true);
        self.activator.activate();
    }

    /// Lets the source take notice of changed polls.
    pub fn polls_changed(&self) {
        self.polls_changed.set(true);
        self.activator.activate();
    }
}

/// Builds the job on this worker. Every worker builds the same operators in the same order.
pub fn build<'scope>(
    scope: Scope<'scope, u64>,
    job: &Arc<Job>,
    install: &Install,
    source: &Arc<dyn Source>,
    alive: &dyn Fn(),
) -> Control {
    let probe = ProbeHandle::new();
    let place = (scope.index(), scope.peers());
    let from = Restoring::of(job, install.first_epoch, place, alive).unwrap_or_else(|failure| {
        job.fail(failure);
        None
    });
    let from = from.as_ref();
    let (control, ingested) = ingest(scope, job, install, source, probe.clone(), from);
    let Streams { mut sums, mut details, mut facts, claims, messages } = ingested;
    let mut extremes = None;
    let aggregates = match &install.spec.dataflow {
        Dataflow::Tally(spec) => {
            let keep = install.spec.keeping(job.formats.as_ref()).keep;
            if keep != Keep::All {
                let standing = Standing::new(Keeps::Same(keep), spec.order.is_some(), spec.is_detailed());
                let stood = stand(claims, standing, job, from);
                // What the source tells first comes past the standing claims.
                sums = scope.concatenate([sums, stood.sums]);
                details = stood.details;
                facts = scope.concatenate([facts, stood.facts]);
            }
            extremes = Extremes::new(&spec.aggregates, keep == Keep::All);
            spec.aggregates.clone()
        }
        Dataflow::Polls(_) => {
            let keep_of = {
                let job = job.clone();
                move |subject| job.book().map_or(Keep::Last, |book| book.keep_of(subject))
            };
            let stood = stand(claims, Standing::new(Keeps::BySubject(Box::new(keep_of)), true, false), job, from);
            let said = speaking::messages(messages, job, from);
            let spoken = speaking::people(said.spoken, job, from);
            sums = scope.concatenate([sums, stood.sums, said.sums, spoken.sums]);
            facts = scope.concatenate([facts, stood.facts, said.facts, spoken.facts]);
            vec![Aggregate::Count]
        }
    };
    let tallies = tally(sums);
    let lines = tallies.lines.inner.map(|((id, sums), epoch, diff)| Fact::Line { id, sums, diff: diff as i64, epoch });
    let totals = tallies.totals.inner.map(|((subject, sums), epoch, diff)| Fact::Total {
        subject,
        sums,
        diff: diff as i64,
        epoch,
    });
    let mut told = vec![facts, lines, totals];
    if let Some(extremes) = extremes {
        told.push(extreme(details, extremes, job, from));
    }
    let home = job.home(scope.peers());
    let is_home = home == scope.index();
    let collector = Collector::new(job.clone(), aggregates, (scope.peers(), is_home), from.map(|from| from.epoch));
    collect(scope.concatenate(told), collector, home as u64, job).probe_with(&probe);
    control
}

struct Streams<'scope> {
    claims: StreamVec<'scope, u64, Claim>,
    messages: StreamVec<'scope, u64, Version>,
    sums: StreamVec<'scope, u64, (LineId, u64, Sums)>,
    details: StreamVec<'scope, u64, (LineId, Detail, i64)>,
    facts: StreamVec<'scope, u64, Fact>,
}

/// What comes of claims.
struct Stood<'scope> {
    sums: StreamVec<'scope, u64, (LineId, u64, Sums)>,
    details: StreamVec<'scope, u64, (LineId, Detail, i64)>,
    facts: StreamVec<'scope, u64, Fact>,
}

fn ingest<'scope>(
    scope: Scope<'scope, u64>,
    job: &Arc<Job>,
    install: &Install,
    source: &Arc<dyn Source>,
    probe: ProbeHandle<u64>,
    from: Option<&Restoring<'_>>,
) -> (Control, Streams<'scope>) {
    let mut builder = OperatorBuilder::new("Ingest".to_owned(), scope);
    let info = builder.operator_info();
    let (claims_out, claims) = builder.new_output();
    let (sums_out, sums) = builder.new_output();
    let (details_out, details) = builder.new_output();
    let (facts_out, facts) = builder.new_output();
    let (messages_out, messages) = builder.new_output();
    let mut claims_out = OutputBuilder::<_, VecBuilder<Claim>>::from(claims_out);
    let mut sums_out = OutputBuilder::<_, VecBuilder<(LineId, u64, Sums)>>::from(sums_out);
    let mut details_out = OutputBuilder::<_, VecBuilder<(LineId, Detail, i64)>>::from(details_out);
    let mut facts_out = OutputBuilder::<_, VecBuilder<Fact>>::from(facts_out);
    let mut messages_out = OutputBuilder::<_, VecBuilder<Version>>::from(messages_out);

    let activator = Rc::new(scope.activator_for(info.address.clone()));
    let (halt, polls_changed, end_epoch) = (Rc::default(), Rc::default(), Rc::default());
    let announce = Rc::new(Cell::new(true));
    let control = Control { halt, polls_changed, announce, end_epoch, activator: activator.clone() };
    let path = info.address.to_vec();
    let clock_waker = scope.worker().sync_activator_for(path.clone());
    let arrival = std::sync::Mutex::new(scope.worker().sync_activator_for(path));
    let arrival: crate::source::Waker = Arc::new(move || {
        // A worker that has gone needs no waking.
        arrival.lock().unwrap_or_else(std::sync::PoisonError::into_inner).activate().ok();
    });
    job.clock.register(clock_waker);
    let offsets = from.map(Restoring::offsets).unwrap_or_default();
    let mut seeds = from.and_then(|from| match from.seeds() {
        Ok(seeds) => Some((from.epoch.0, seeds)),
        Err(failure) => {
            job.fail(failure);
            None
        }
    });
    let place = (scope.index(), scope.peers());
    let mut ingest = match Ingest::open(job, install, source.as_ref(), place, arrival, &offsets) {
        Ok(ingest) => Some(ingest),
        Err(failure) => {
            job.fail(failure);
            None
        }
    };

    let (job, source, worker) = (job.clone(), source.clone(), scope.index());
    let Control { halt, polls_changed, announce, end_epoch, .. } = control.clone();
    builder.build(move |mut capabilities| {
        let mut output = Output::default();
        // The halt that is still to be told as reached.
        let mut halting = None;
        // The epoch in which something was read that has not ended yet.
        let mut unfinished = None;
        let mut turns = 0u64;
        let mut pace = Pace::new(Instant::now());
        move |_frontiers| {
            if let Some((epoch, seeds)) = seeds.take() {
                let sums = seeds.sums.into_iter().map(|(line, sums)| (line, epoch, sums));
                sums_out.activate().session(&capabilities[1].delayed(&epoch)).give_iterator(sums);
                facts_out.activate().session(&capabilities[3].delayed(&epoch)).give_iterator(seeds.facts.into_iter());
            }
            // Of a job that has failed, no more closes, in whichever process that was: what is in its last
            // epoch may not be whole.
            let Some(reader) = ingest.as_mut().filter(|_| !job.has_failed()) else { return };
            let epoch = job.clock.current();
            if *capabilities[0].time() < epoch {
                capabilities.iter_mut().for_each(|capability| capability.downgrade(&epoch));
                unfinished = None;
            }
            if end_epoch.take() {
                unfinished = Some(epoch);
            }
            if announce.take() {
                output.facts.extend(reader.positions());
                unfinished = Some(epoch);
            }
            let oldest = probe.with_frontier(|f| f.first().copied()).unwrap_or(epoch);
            let mut behind = false;
            // How long until the past may have its next turn.
            let mut past_in = None;
            let book = job.book();
            let held_back = epoch.saturating_sub(oldest) > EPOCHS_IN_FLIGHT
                || job.outbox.is_full()
                || job.clock.is_stuck()
                || book.as_deref().is_some_and(Book::is_frozen);
            if polls_changed.take() {
                output.facts.push(Fact::PollsChanged);
                unfinished = Some(epoch);
            }
            if std::mem::take(&mut halt.borrow_mut().1) {
                let halt = &halt.borrow().0;
                reader.halt(halt.as_ref());
                halting = halt.as_ref().map(|halt| halt.number);
            }
            if held_back {
                let refills = book.as_deref().is_some_and(|book| book.refill().is_some());
                if reader.has_more() || refills {
                    activator.activate_after(HOLD);
                }
            } else {
                match reader.read(&mut output, book.as_deref(), job.is_beside()) {
                    Ok(true) => {
                        unfinished = Some(epoch);
                        pace.live(Instant::now());
                    }
                    Ok(false) => {}
                    Err(failure) => return job.fail(failure),
                }
                output.waits.drain(..).for_each(|(input, partition, why)| job.waits(input, partition, why));
                behind = reader.has_more();
                turns += 1;
                // While live reading has much to do, the past has every eighth turn.
                if let Some(book) = book.as_deref().filter(|_| !behind || turns.is_multiple_of(8)) {
                    let now = Instant::now();
                    match pace
                        .next(now, epoch, oldest, behind)
                        .map(|records| reader.refill(&mut output, book, source.as_ref(), (worker, records)))
                    {
                        Ok((more, told)) => {
                            if told {
                                unfinished = Some(epoch);
                                pace.read(epoch, now.elapsed());
                            }
                            past_in = more.then_some(Duration::ZERO);
                        }
                        // One that is not begun yet too.
                        Err(wait) => past_in = book.refill().is_some().then_some(wait),
                    }
                }
                if let Some(wait) = reader.retry_after() {
                    activator.activate_after(wait);
                }
            }
            drop(book);
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
            messages_out.activate().session(&capabilities[4]).give_container(&mut output.messages);
            if let Some(open) = unfinished
                && let Err(wait) = job.clock.end(open, behind)
                && !behind
            {
                activator.activate_after(wait);
            }
            if behind {
                activator.activate();
            } else if let Some(wait) = past_in {
                activator.activate_after(wait);
            }
        }
    });
    (control, Streams { claims, messages, sums, details, facts })
}

fn stand<'scope>(
    claims: StreamVec<'scope, u64, Claim>,
    mut standing: Standing,
    job: &Arc<Job>,
    from: Option<&Restoring<'_>>,
) -> Stood<'scope> {
    let scope = claims.scope();
    let mut builder = OperatorBuilder::new("Standing".to_owned(), scope);
    let mut taker = Taker::new(job, scope.activator_for(builder.operator_info().address));
    let mut restored = None;
    if let Some(from) = from {
        let groups = from.each_group(Kind::Standing, |group, frames| {
            standing.restore(group, frames, |subject| from.is_kept(subject))
        });
        groups.unwrap_or_else(|failure| job.fail(failure));
        restored = Some((from.epoch.0, standing.take_changes().details));
    }
    let mut sweeper = Sweeper::new(job, scope.activator_for(builder.operator_info().address));
    let mut input = builder.new_input(claims, Exchange::new(|c: &Claim| c.entity.key_group() as u64));
    let (sums_out, sums) = builder.new_output();
    let (details_out, details) = builder.new_output();
    let (facts_out, facts) = builder.new_output();
    let mut sums_out = OutputBuilder::<_, VecBuilder<(LineId, u64, Sums)>>::from(sums_out);
    let mut details_out = OutputBuilder::<_, VecBuilder<(LineId, Detail, i64)>>::from(details_out);
    let mut facts_out = OutputBuilder::<_, VecBuilder<Fact>>::from(facts_out);
    builder.build(move |capabilities| {
        let mut stash = Stash::new(3);
        let mut restored = restored.map(|(epoch, details)| (capabilities[1].delayed(&epoch), details));
        drop(capabilities);
        move |frontiers| {
            if let Some((capability, mut details)) = restored.take() {
                details_out.activate().session(&capability).give_container(&mut details);
            }
            input.for_each(|capability, claims| stash.push(capability, claims));
            while let Some(passed) = stash.pop(&frontiers[0]) {
                taker.before(passed.epoch, &mut standing);
                for claims in passed.batches {
                    if taker.is_taking() {
                        claims.iter().for_each(|claim| taker.before_group(claim.entity.key_group(), &mut standing));
                    }
                    standing.apply(claims);
                }
                let mut changes = standing.take_changes();
                let claims = changes.subjects.drain(..).map(|(subject, changes)| Fact::Claims { subject, changes });
                let newest = standing.take_newest().map(Fact::Newest);
                facts_out.activate().session(&passed.capabilities[2]).give_iterator(claims.chain(newest));
                let lines = changes.lines.drain(..).map(|(line, sums)| (line, passed.epoch, sums));
                sums_out.activate().session(&passed.capabilities[0]).give_iterator(lines);
                details_out.activate().session(&passed.capabilities[1]).give_container(&mut changes.details);
            }
            taker.go_on(&frontiers[0], &mut standing);
            sweeper.sweep(&taker, |group, book| {
                standing.sweep(group, |subject| book.entry(subject).is_some_and(|entry| !entry.sealed));
            });
        }
    });
    Stood { sums, details, facts }
}

fn extreme<'scope>(
    details: StreamVec<'scope, u64, (LineId, Detail, i64)>,
    mut extremes: Extremes,
    job: &Arc<Job>,
    from: Option<&Restoring<'_>>,
) -> StreamVec<'scope, u64, Fact> {
    let scope = details.scope();
    let exchange = Exchange::new(|(line, ..): &(LineId, Detail, i64)| Extremes::group(*line) as u64);
    let fact = |(id, extreme)| Fact::Extreme { id, extreme };
    details.unary_frontier::<VecBuilder<Fact>, _, _, _>(exchange, "Extremes", |capability, info| {
        let mut stash = Stash::new(1);
        let mut taker = (!extremes.is_told_anew()).then(|| Taker::new(job, scope.activator_for(info.address)));
        let mut restored = None;
        if let Some(from) = from.filter(|_| taker.is_some()) {
            let mut told = Vec::new();
            let groups = from.each_group(Kind::Extremes, |group, frames| {
                told.extend(extremes.restore(group, frames)?);
                Ok(())
            });
            groups.unwrap_or_else(|failure| job.fail(failure));
            restored = Some((capability.delayed(&from.epoch.0), told));
        }
        drop(capability);
        move |(input, frontier), output| {
            if let Some((capability, told)) = restored.take() {
                output.session(&capability).give_iterator(told.into_iter().map(fact));
            }
            input.for_each(|capability, details| stash.push(capability, details));
            while let Some(passed) = stash.pop(frontier) {
                let details: Vec<_> = passed.batches.into_iter().flatten().collect();
                if let Some(taker) = &mut taker {
                    taker.before(passed.epoch, &mut extremes);
                    if taker.is_taking() {
                        details.iter().for_each(|(line, ..)| taker.before_group(Extremes::group(*line), &mut extremes));
                    }
                }
                let facts = extremes.apply(details).into_iter().map(fact);
                output.session(&passed.capabilities[0]).give_iterator(facts);
            }
            if let Some(taker) = &mut taker {
                taker.go_on(frontier, &mut extremes);
            }
        }
    })
}

fn collect<'scope>(
    facts: StreamVec<'scope, u64, Fact>,
    mut collector: Collector,
    home: u64,
    job: &Arc<Job>,
) -> StreamVec<'scope, u64, ()> {
    let scope = facts.scope();
    facts.unary_frontier::<VecBuilder<()>, _, _, _>(Exchange::new(move |_| home), "Collect", |_capability, info| {
        let mut taker = Taker::new(job, scope.activator_for(info.address));
        move |(input, frontier), _output| {
            input.for_each(|capability, facts| collector.gather(*capability.time(), std::mem::take(facts)));
            collector.close(frontier.frontier().first().copied(), &mut taker);
        }
    })
}

/// Gives up what operators hold for polls that are sealed or gone, a few key groups at a time.
pub(super) struct Sweeper {
    job: Arc<Job>,
    activator: Activator,
    /// The book's count of sweeps that was last begun, and the key group that is next.
    begun: u64,
    next: usize,
}

impl Sweeper {
    /// Key groups at a time: at ten million entities, less than half a millisecond.
    const GROUPS: usize = 4;

    pub fn new(job: &Arc<Job>, activator: Activator) -> Self {
        Sweeper { job: job.clone(), activator, begun: 0, next: EntityHash::KEY_GROUPS }
    }

    /// Lets `sweep` have the next key groups if there is something to give up; not while a checkpoint is to
    /// have them as they were.
    pub fn sweep(&mut self, taker: &Taker, mut sweep: impl FnMut(usize, &Book)) {
        if !taker.is_idle() {
            return;
        }
        let Some(book) = self.job.book() else { return };
        if book.sweeps() > self.begun {
            self.begun = book.sweeps();
            self.next = 0;
        }
        let end = (self.next + Self::GROUPS).min(EntityHash::KEY_GROUPS);
        (self.next..end).for_each(|group| sweep(group, &book));
        if self.next < end {
            self.next = end;
            self.activator.activate();
        }
    }
}
