//! What an operator holds back until the frontier has passed its epoch: a later epoch can arrive from one
//! worker before an earlier one from another.

use std::collections::BTreeMap;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

/// Batches by epoch, each with a capability for every output of the operator.
pub struct Stash<D> {
    outputs: usize,
    held: BTreeMap<u64, Passed<D>>,
}

/// An epoch's batches; once the frontier has passed it, all of them.
pub struct Passed<D> {
    pub epoch: u64,
    /// By output.
    pub capabilities: Vec<Capability<u64>>,
    pub batches: Vec<Vec<D>>,
}

impl<D> Stash<D> {
    /// Of an operator with so many outputs.
    pub fn new(outputs: usize) -> Self {
        Stash { outputs, held: BTreeMap::new() }
    }

    /// Holds a batch back.
    pub fn push(&mut self, capability: InputCapability<u64>, batch: &mut Vec<D>) {
        let epoch = *capability.time();
        let held = self.held.entry(epoch).or_insert_with(|| {
            let capabilities = (0..self.outputs).map(|output| capability.retain(output)).collect();
            Passed { epoch, capabilities, batches: Vec::new() }
        });
        held.batches.push(std::mem::take(batch));
    }

    /// The earliest epoch that the frontier has passed, if there is one.
    pub fn pop(&mut self, frontier: &MutableAntichain<u64>) -> Option<Passed<D>> {
        let entry = self.held.first_entry().filter(|entry| !frontier.less_equal(entry.key()))?;
        Some(entry.remove())
    }
}
