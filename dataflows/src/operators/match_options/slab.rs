//! Numbered values whose numbers are used again.

use std::ops::{Index, IndexMut};

/// See the module.
#[derive(Default)]
pub(super) struct Slab<T> {
    values: Vec<T>,
    free: Vec<u32>,
}

impl<T: Default> Slab<T> {
    /// The number that `value` gets. Numbers are below 2^31: at 56 bytes a symbol memory ends before.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.values[index as usize] = value;
            return index;
        }
        // By an eighth: most of the memory of idle polls lies in slabs.
        if self.values.len() == self.values.capacity() {
            self.values.reserve_exact((self.values.len() / 8).max(16));
        }
        self.values.push(value);
        (self.values.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.values[index as usize] = T::default();
        self.free.push(index);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.values[index as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.values[index as usize]
    }
}
