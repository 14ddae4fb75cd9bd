//! The operators of a `polls` job that messages pass: which version stands, and whose messages count.

use crate::checkpoint::Kind;
use crate::claim::LineId;
use crate::engine::dataflow::{Sweeper, VecBuilder};
use crate::engine::facts::Fact;
use crate::engine::job::Job;
use crate::engine::restoring::Restoring;
use crate::engine::stash::Stash;
use crate::engine::taking::Taker;
use crate::operators::messages::{Messages, Version};
use crate::operators::people::{People, Spoken};
use crate::operators::tally::Sums;
use std::sync::Arc;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// What comes of messages.
pub struct Said<'scope> {
    pub sums: StreamVec<'scope, u64, (LineId, u64, Sums)>,
    pub facts: StreamVec<'scope, u64, Fact>,
    pub spoken: StreamVec<'scope, u64, Spoken>,
}

/// What comes of people.
pub struct Counted<'scope> {
    pub sums: StreamVec<'scope, u64, (LineId, u64, Sums)>,
    pub facts: StreamVec<'scope, u64, Fact>,
}

pub fn messages<'scope>(
    versions: StreamVec<'scope, u64, Version>,
    job: &Arc<Job>,
    from: Option<&Restoring<'_>>,
) -> Said<'scope> {
    let scope = versions.scope();
    let mut builder = OperatorBuilder::new("Messages".to_owned(), scope);
    let mut sweeper = Sweeper::new(job, scope.activator_for(builder.operator_info().address));
    let mut taker = Taker::new(job, scope.activator_for(builder.operator_info().address));
    let mut messages = Messages::default();
    if let Some(from) = from {
        let groups = from.each_group(Kind::Messages, |group, frames| {
            messages.restore(group, frames, |subject| from.is_kept(subject))
        });
        groups.unwrap_or_else(|failure| job.fail(failure));
    }
    let mut input = builder.new_input(versions, Exchange::new(|v: &Version| v.message.key_group() as u64));
    let (sums_out, sums) = builder.new_output();
    let (facts_out, facts) = builder.new_output();
    let (spoken_out, spoken) = builder.new_output();
    let mut sums_out = OutputBuilder::<_, VecBuilder<(LineId, u64, Sums)>>::from(sums_out);
    let mut facts_out = OutputBuilder::<_, VecBuilder<Fact>>::from(facts_out);
    let mut spoken_out = OutputBuilder::<_, VecBuilder<Spoken>>::from(spoken_out);
    let job = job.clone();
    builder.build(move |_capabilities| {
        let mut stash = Stash::new(3);
        move |frontiers| {
            input.for_each(|capability, versions| stash.push(capability, versions));
            while let Some(passed) = stash.pop(&frontiers[0]) {
                taker.before(passed.epoch, &mut messages);
                if taker.is_taking() {
                    let groups = passed.batches.iter().flatten().map(|version| version.message.key_group());
                    groups.for_each(|group| taker.before_group(group, &mut messages));
                }
                if let Some(book) = job.book() {
                    passed.batches.into_iter().for_each(|versions| messages.apply(versions, &book));
                }
                let (mut changes, mut said) = messages.take_changes();
                let lines = changes.lines.drain(..).map(|(line, sums)| (line, passed.epoch, sums));
                sums_out.activate().session(&passed.capabilities[0]).give_iterator(lines);
                let claims = changes.subjects.drain(..).map(|(subject, changes)| Fact::Claims { subject, changes });
                let newest = messages.take_newest().map(Fact::Newest);
                facts_out.activate().session(&passed.capabilities[1]).give_iterator(claims.chain(newest));
                spoken_out.activate().session(&passed.capabilities[2]).give_container(&mut said);
            }
            taker.go_on(&frontiers[0], &mut messages);
            sweeper.sweep(&taker, |group, book| messages.sweep(group, book));
        }
    });
    Said { sums, facts, spoken }
}

pub fn people<'scope>(
    spoken: StreamVec<'scope, u64, Spoken>,
    job: &Arc<Job>,
    from: Option<&Restoring<'_>>,
) -> Counted<'scope> {
    let scope = spoken.scope();
    let mut builder = OperatorBuilder::new("People".to_owned(), scope);
    let mut sweeper = Sweeper::new(job, scope.activator_for(builder.operator_info().address));
    let mut taker = Taker::new(job, scope.activator_for(builder.operator_info().address));
    let mut people = People::default();
    if let Some(from) = from {
        let groups = from
            .each_group(Kind::People, |group, frames| people.restore(group, frames, |subject| from.is_kept(subject)));
        groups.unwrap_or_else(|failure| job.fail(failure));
    }
    let mut input = builder.new_input(spoken, Exchange::new(|s: &Spoken| s.person.who.key_group() as u64));
    let (sums_out, sums) = builder.new_output();
    let (facts_out, facts) = builder.new_output();
    let mut sums_out = OutputBuilder::<_, VecBuilder<(LineId, u64, Sums)>>::from(sums_out);
    let mut facts_out = OutputBuilder::<_, VecBuilder<Fact>>::from(facts_out);
    let job = job.clone();
    builder.build(move |_capabilities| {
        let mut stash = Stash::new(2);
        move |frontiers| {
            input.for_each(|capability, spoken| stash.push(capability, spoken));
            while let Some(passed) = stash.pop(&frontiers[0]) {
                taker.before(passed.epoch, &mut people);
                if taker.is_taking() {
                    let groups = passed.batches.iter().flatten().map(|spoken| spoken.person.who.key_group());
                    groups.for_each(|group| taker.before_group(group, &mut people));
                }
                if let Some(book) = job.book() {
                    passed.batches.into_iter().for_each(|spoken| people.apply(spoken, &book));
                }
                let mut changes = people.take_changes();
                let lines = changes.lines.drain(..).map(|(line, sums)| (line, passed.epoch, sums));
                sums_out.activate().session(&passed.capabilities[0]).give_iterator(lines);
                let claims = changes.subjects.drain(..).map(|(subject, changes)| Fact::Claims { subject, changes });
                let newest = people.take_newest().map(Fact::Newest);
                facts_out.activate().session(&passed.capabilities[1]).give_iterator(claims.chain(newest));
            }
            taker.go_on(&frontiers[0], &mut people);
            sweeper.sweep(&taker, |group, book| people.sweep(group, book));
        }
    });
    Counted { sums, facts }
}
