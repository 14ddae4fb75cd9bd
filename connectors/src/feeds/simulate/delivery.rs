//! In which order records are sent: most at once, some behind others that were made later.

use super::Made;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Records that wait for their turn, counted in fresh claims.
#[derive(Default)]
pub(super) struct Delivery {
    now: u64,
    /// Which is due next: after which claim, then the first to wait, and where it lies.
    turns: BinaryHeap<Reverse<(u64, u64, usize)>>,
    waited: u64,
    waiting: Vec<Made>,
    free: Vec<usize>,
}

impl Delivery {
    /// A fresh claim was made.
    pub(super) fn step(&mut self) {
        self.now += 1;
    }

    /// Lets a copy of `made` wait until `behind` more claims were made.
    pub(super) fn wait(&mut self, made: &Made, behind: u32) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(Made::default());
            self.waiting.len() - 1
        });
        let kept = &mut self.waiting[place];
        kept.key.clone_from(&made.key);
        kept.value.clone_from(&made.value);
        kept.at_ms = made.at_ms;
        self.waited += 1;
        self.turns.push(Reverse((self.now + u64::from(behind), self.waited, place)));
    }

    /// Puts a record whose turn has come into `made`; false where there is none.
    pub(super) fn due(&mut self, made: &mut Made) -> bool {
        match self.turns.peek() {
            Some(Reverse((turn, _, _))) if *turn <= self.now => self.rest(made),
            _ => false,
        }
    }

    /// Puts the next record into `made`, whether its turn has come or not.
    pub(super) fn rest(&mut self, made: &mut Made) -> bool {
        let Some(Reverse((_, _, place))) = self.turns.pop() else { return false };
        self.free.push(place);
        // Each takes the other's buffers, to be used again.
        std::mem::swap(made, &mut self.waiting[place]);
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}
