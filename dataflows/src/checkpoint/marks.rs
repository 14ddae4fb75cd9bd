//! What of a key group has changed since it was last written.

/// The keys that changed, or that all is to be written. Costs nothing before the first checkpoint.
#[derive(Debug)]
pub struct Marks<K> {
    /// Until a group was written once, all of it is to be written.
    keys: Option<Vec<K>>,
    /// How many entries were written since all were.
    since_all: usize,
    /// Whether the group was ever written.
    known: bool,
}

/// What is to be written of a group.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed<K> {
    Nothing,
    Keys(Vec<K>),
    All,
}

impl<K> Default for Marks<K> {
    fn default() -> Self {
        Marks { keys: None, since_all: 0, known: false }
    }
}

impl<K> Marks<K> {
    /// Marks a key that is not marked yet, of a group that holds so many entries: where half of them are
    /// marked, listing them is worth no more.
    pub fn mark(&mut self, key: K, held: usize) {
        if let Some(keys) = &mut self.keys {
            if keys.len() > held / 2 {
                self.keys = None;
            } else {
                keys.push(key);
            }
        }
    }

    /// Whether keys are listed at all.
    pub fn lists(&self) -> bool {
        self.keys.is_some()
    }

    /// All is to be written.
    pub fn mark_all(&mut self) {
        self.keys = None;
    }

    /// The group is as it was written.
    pub fn written(&mut self) {
        self.keys = Some(Vec::new());
        self.known = true;
    }

    /// Whether something is to be written of a group that holds so many entries.
    pub fn has_changed(&self, held: usize) -> bool {
        self.keys.as_ref().map_or(held > 0 || self.known, |keys| !keys.is_empty())
    }

    /// Takes what is to be written. All of a group is written again once as much was written of it piece
    /// by piece; `group` lets that happen at different times.
    pub fn take(&mut self, group: usize, held: usize) -> Changed<K> {
        let all_after = held / 2 + held * (group % 1_024) / 2_048;
        if !self.has_changed(held) {
            return Changed::Nothing;
        }
        self.known = true;
        match self.keys.replace(Vec::new()) {
            Some(keys) if self.since_all + keys.len() <= all_after => {
                self.since_all += keys.len();
                Changed::Keys(keys)
            }
            _ => {
                self.since_all = 0;
                Changed::All
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_written_first_and_again_once_as_much_was_written_in_pieces() {
        let mut marks = Marks::default();
        marks.mark(1, 100);
        assert_eq!(marks.take(0, 100), Changed::All);
        assert_eq!(marks.take(0, 100), Changed::Nothing);
        let mut pieces = 0;
        loop {
            (0..10).for_each(|key| marks.mark(key, 100));
            match marks.take(0, 100) {
                Changed::Keys(keys) => assert_eq!(keys.len(), 10),
                changed => break assert_eq!(changed, Changed::All),
            }
            pieces += 1;
        }
        assert_eq!(pieces, 5);
        (0..60).for_each(|key| marks.mark(key, 100));
        assert!(marks.has_changed(100));
        assert_eq!(marks.take(0, 100), Changed::All, "more than half has changed");
    }
}
