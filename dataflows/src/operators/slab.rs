//! Values at stable numbers.

/// Values at stable numbers, whose places are used again.
pub struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Keeps a value; answers its number.
    pub fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(value);
                index
            }
            None => {
                self.slots.push(Some(value));
                self.slots.len() as u32 - 1
            }
        }
    }

    /// Gives up a value; its number is used again.
    pub fn remove(&mut self, index: u32) {
        self.slots[index as usize] = None;
        self.free.push(index);
    }

    /// How many values are kept.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a number in use.
    pub fn get(&self, index: u32) -> &T {
        self.slots[index as usize].as_ref().expect("a held number is in use until it is released")
    }

    /// The value of a number in use, to be changed.
    pub fn get_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].as_mut().expect("a held number is in use until it is released")
    }
}
