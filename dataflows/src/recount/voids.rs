//! Which records an operator has voided, as plainly as can be.

use crate::decode::{Event, Needs};
use crate::filter::Filter;
use crate::record::RecordRef;
use crate::spec::JobSpec;
use crate::spec::voids::{Void, Voided};

/// The voids of a job, for one of its inputs.
pub(super) struct Voids {
    topic: String,
    all: Vec<Voiding>,
}

struct Voiding {
    void: Void,
    /// Where it has one, with the slots that it reads.
    expression: Option<(Filter, Vec<usize>)>,
}

impl Voids {
    pub fn new(job: &JobSpec, input: usize, needs: &mut Needs) -> Voids {
        let all = job.voids.all.iter().map(|void| {
            let filter = match &void.what {
                Voided::Where(source) => Filter::compile(source).ok(),
                _ => None,
            };
            let expression = filter.map(|filter| {
                let slots = filter.pointers().iter().map(|pointer| needs.slot(pointer)).collect();
                (filter, slots)
            });
            Voiding { void: void.clone(), expression }
        });
        Voids { topic: job.inputs.get(input).map(|i| i.topic.clone()).unwrap_or_default(), all: all.collect() }
    }

    /// The first void that reaches a record, which is of one of these entities.
    pub fn of(&self, record: &RecordRef<'_>, event: &Event<'_>, entities: &[&str]) -> Option<u64> {
        let partition = record.partition.0 as usize;
        let reaches = |voiding: &&Voiding| {
            let Voiding { void, expression } = voiding;
            let until = void.until.get(&self.topic).and_then(|until| until.get(partition));
            if until.is_none_or(|until| record.offset >= *until) {
                return false;
            }
            match (&void.what, expression) {
                (Voided::Entity(voided), _) => entities.iter().any(|entity| voided.contains(*entity)),
                (Voided::Offsets { topic, partition, from, to }, _) => {
                    *topic == self.topic
                        && *partition == record.partition
                        && *from <= record.offset
                        && record.offset < *to
                }
                (Voided::Where(_), Some((filter, slots))) => {
                    let slot = |i: usize| event.slots.get(slots[i]).and_then(Option::as_ref);
                    filter.matches_with(slot).unwrap_or(false)
                }
                (Voided::Where(_), None) => false,
            }
        };
        self.all.iter().find(reaches).map(|voiding| voiding.void.id)
    }
}
