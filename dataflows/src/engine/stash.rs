//! What an operator holds back until the frontier has passed its epoch: a later epoch can arrive from one
//! worker before an earlier one from another.

use std::collections::BTreeMap;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

/// Batches by epoch, each with a capability for every output of the operator.
pub struct Stash<D> {
    outputs: usize,
    held: BTreeMap<u64, (Vec<Capability<u64>>, Vec<Vec<D>>)>,
}

/// An epoch that the frontier has passed.
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
        let retain = || (0..self.outputs).map(|output| capability.retain(output)).collect();
        let (_, held) = self.held.entry(*capability.time()).or_insert_with(|| (retain(), Vec::new()));
        held.push(std::mem::take(batch));
    }

    /// The earliest epoch that the frontier has passed, if there is one.
    pub fn pop(&mut self, frontier: &MutableAntichain<u64>) -> Option<Passed<D>> {
        let entry = self.held.first_entry().filter(|entry| !frontier.less_equal(entry.key()))?;
        let (epoch, (capabilities, batches)) = entry.remove_entry();
        Some(Passed { epoch, capabilities, batches })
    }
}
