//! Values at stable numbers.

use std::ops::{Index, IndexMut};

/// Values at stable numbers, whose places are used again. It grows by pieces: moving all of them would
/// hold up an epoch.
pub struct Slab<T> {
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { pieces: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many values a piece holds.
    const PIECE: usize = 1 << 12;

    /// Keeps a value; answers its number.
    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.pieces[index as usize / Self::PIECE][index as usize % Self::PIECE] = Some(value);
            return index;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == Self::PIECE) {
            self.pieces.push(Vec::with_capacity(Self::PIECE));
        }
        let before = (self.pieces.len() - 1) * Self::PIECE;
        let piece = &mut self.pieces[before / Self::PIECE];
        piece.push(Some(value));
        (before + piece.len() - 1) as u32
    }

    /// Gives up a value; its number is used again.
    pub fn remove(&mut self, index: u32) {
        self.pieces[index as usize / Self::PIECE][index as usize % Self::PIECE] = None;
        self.free.push(index);
    }

    /// How many values are kept.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum::<usize>() - self.free.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The value of a number in use.
impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        let place = &self.pieces[index as usize / Self::PIECE][index as usize % Self::PIECE];
        place.as_ref().expect("a held number is in use until it is released")
    }
}

/// The value of a number in use, to be changed.
impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        let place = &mut self.pieces[index as usize / Self::PIECE][index as usize % Self::PIECE];
        place.as_mut().expect("a held number is in use until it is released")
    }
}
