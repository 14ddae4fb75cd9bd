//! Which records of an input an operator has voided.

use crate::claim::Position;
use crate::decode::{Event, Needs};
use crate::filter::Filter;
use crate::ids::Offset;
use crate::spec::JobSpec;
use crate::spec::voids::Voided;
use std::collections::HashSet;
use std::hash::Hash;

/// The voids that reach records of one input; entities as the job's kind knows them.
pub struct Voids<E> {
    all: Vec<Voiding<E>>,
    /// By partition, the first offset that none reaches: after it nothing is asked.
    reach: Vec<Offset>,
}

struct Voiding<E> {
    /// By partition.
    until: Vec<Offset>,
    by: By<E>,
}

enum By<E> {
    Entity(HashSet<E>),
    /// In one partition.
    Offsets(usize, Offset, Offset),
    /// With the slots that it reads.
    Where(Filter, Vec<usize>),
}

impl<E: Hash + Eq> Voids<E> {
    /// Those of a job for one of its inputs; what their expressions read is added to `needs`. Errors: an
    /// expression that does not compile, which making the void has ruled out.
    pub fn new(
        job: &JobSpec,
        input: usize,
        needs: &mut Needs,
        entity: impl Fn(&str) -> Option<E>,
    ) -> Result<Self, String> {
        let mut voids = Voids { all: Vec::new(), reach: Vec::new() };
        let Some(input) = job.inputs.get(input) else { return Ok(voids) };
        for void in &job.voids.all {
            let Some(until) = void.until.get(&input.topic) else { continue };
            let by = match &void.what {
                Voided::Entity(entities) => By::Entity(entities.iter().filter_map(|e| entity(e)).collect()),
                Voided::Offsets { topic, .. } if *topic != input.topic => continue,
                Voided::Offsets { partition, from, to, .. } => By::Offsets(partition.0 as usize, *from, *to),
                Voided::Where(source) => {
                    let filter = Filter::compile(source)?;
                    let slots = filter.pointers().iter().map(|pointer| needs.slot(pointer)).collect();
                    By::Where(filter, slots)
                }
            };
            voids.reach.resize(voids.reach.len().max(until.len()), Offset(0));
            for (reach, until) in voids.reach.iter_mut().zip(until) {
                *reach = (*reach).max(*until);
            }
            voids.all.push(Voiding { until: until.clone(), by });
        }
        Ok(voids)
    }

    /// Whether some void reaches the record there. `is_of` says whether it is of one of those entities.
    pub fn reach(&self, position: Position, event: &Event<'_>, is_of: impl Fn(&HashSet<E>) -> bool) -> bool {
        let (partition, offset) = (position.partition().0 as usize, position.offset());
        if self.reach.get(partition).is_none_or(|reach| offset >= *reach) {
            return false;
        }
        self.all.iter().any(|void| {
            void.until.get(partition).is_some_and(|until| offset < *until)
                && match &void.by {
                    By::Entity(entities) => is_of(entities),
                    By::Offsets(of, from, to) => *of == partition && (*from..*to).contains(&offset),
                    By::Where(filter, slots) => {
                        let slot = |i: usize| event.slots.get(slots[i]).and_then(Option::as_ref);
                        filter.matches_with(slot) == Ok(true)
                    }
                }
        })
    }
}
