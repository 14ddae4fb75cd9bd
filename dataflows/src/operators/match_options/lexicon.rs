//! The texts that are looked for, and who looks for them.
//!
//! Each text that is a token or a hashtag of some option is a *symbol*. Options of several tokens are
//! paths of a trie whose edges lie in one hash table, so that a step costs one look-up however many
//! options go on from there. A symbol is the trie's state behind its first token.

use super::filter::Filter;
use crate::operators::slab::Slab;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};

/// An option of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Speaker {
    pub(super) poll: u32,
    pub(super) option: u16,
}

/// Those who look for one thing, in order.
#[derive(Default)]
pub(super) enum Speakers {
    #[default]
    None,
    One(Speaker),
    Many(Box<Crowd>),
}

/// Boxed, because most symbols have one speaker and pay for the size of [`Speakers`].
pub(super) struct Crowd(BTreeSet<Speaker>);

impl Speakers {
    fn is_empty(&self) -> bool {
        matches!(self, Speakers::None)
    }

    fn insert(&mut self, speaker: Speaker) {
        match self {
            Speakers::None => *self = Speakers::One(speaker),
            Speakers::One(one) => *self = Speakers::Many(Box::new(Crowd(BTreeSet::from([*one, speaker])))),
            Speakers::Many(crowd) => {
                crowd.0.insert(speaker);
            }
        }
    }

    fn remove(&mut self, speaker: Speaker) {
        match self {
            Speakers::None => {}
            Speakers::One(one) if *one == speaker => *self = Speakers::None,
            Speakers::One(_) => {}
            Speakers::Many(crowd) => {
                crowd.0.remove(&speaker);
                if crowd.0.len() == 1 {
                    *self = crowd.0.pop_first().map_or(Speakers::None, Speakers::One);
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Speaker> + '_ {
        let (one, many) = match self {
            Speakers::None => (None, None),
            Speakers::One(one) => (Some(*one), None),
            Speakers::Many(crowd) => (None, Some(crowd.0.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// A text by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Symbol(u32);

impl Symbol {
    pub(super) const NONE: Symbol = Symbol(u32::MAX);
}

/// A sequence of tokens by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State(u32);

impl State {
    pub(super) const NONE: State = State(u32::MAX);
    /// Marks a sequence of several tokens.
    const LONG: u32 = 1 << 31;

    fn kind(self) -> Kind {
        if self.0 & Self::LONG == 0 { Kind::Symbol(Symbol(self.0)) } else { Kind::Long(self.0 & !Self::LONG) }
    }
}

impl From<Symbol> for State {
    fn from(symbol: Symbol) -> State {
        State(symbol.0)
    }
}

enum Kind {
    Symbol(Symbol),
    /// The index of a sequence of several tokens.
    Long(u32),
}

#[derive(Default)]
struct Entry {
    text: Box<str>,
    /// Of whom it is the only token.
    alone: Speakers,
    /// Whose hashtag it is.
    tagged: Speakers,
    /// Sequences of several tokens that it ends.
    ends: u32,
    /// Sequences of two tokens that it begins.
    children: u32,
}

struct Sequence {
    parent: State,
    last: Symbol,
    children: u32,
    speakers: Speakers,
}

impl Default for Sequence {
    fn default() -> Self {
        Sequence { parent: State::NONE, last: Symbol::NONE, children: 0, speakers: Speakers::None }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Lexicon {
    state: RandomState,
    filter: Filter,
    symbols: HashTable<u32>,
    entries: Slab<Entry>,
    edges: HashTable<u32>,
    sequences: Slab<Sequence>,
}

impl Lexicon {
    fn hash(&self, text: &str) -> u64 {
        hash_text(&self.state, text)
    }

    /// The symbol of a text; [`Symbol::NONE`] if nobody looks for it.
    pub(super) fn symbol(&self, text: &str) -> Symbol {
        let hash = self.hash(text);
        if !self.filter.may_hold(hash) {
            return Symbol::NONE;
        }
        let found = self.symbols.find(hash, |index| *self.entries[*index].text == *text);
        found.map_or(Symbol::NONE, |index| Symbol(*index))
    }

    /// Whether longer sequences begin like this one.
    pub(super) fn goes_on(&self, state: State) -> bool {
        match state.kind() {
            Kind::Symbol(symbol) => self.entries[symbol.0].children > 0,
            Kind::Long(index) => self.sequences[index].children > 0,
        }
    }

    /// The sequence that goes on with `next`.
    pub(super) fn step(&self, state: State, next: Symbol) -> Option<State> {
        let is_it = |index: &u32| {
            let sequence = &self.sequences[*index];
            sequence.parent == state && sequence.last == next
        };
        let found = self.edges.find(hash_edge(&self.state, state, next), is_it);
        found.map(|index| State(index | State::LONG))
    }

    /// The sequence but for its last token; none before a single one.
    pub(super) fn parent(&self, state: State) -> Option<State> {
        match state.kind() {
            Kind::Symbol(_) => None,
            Kind::Long(index) => Some(self.sequences[index].parent),
        }
    }

    /// Who looks for this sequence of tokens.
    pub(super) fn speakers(&self, state: State) -> &Speakers {
        match state.kind() {
            Kind::Symbol(symbol) => &self.entries[symbol.0].alone,
            Kind::Long(index) => &self.sequences[index].speakers,
        }
    }

    /// Whether anyone does.
    pub(super) fn speaks(&self, state: State) -> bool {
        !self.speakers(state).is_empty()
    }

    /// Whose hashtag this is.
    pub(super) fn tagged(&self, tag: Symbol) -> &Speakers {
        &self.entries[tag.0].tagged
    }

    /// Adds who looks for a sequence of tokens; none where it is empty.
    pub(super) fn add_words(&mut self, tokens: &[String], speaker: Speaker) -> State {
        let Some((first, rest)) = tokens.split_first() else { return State::NONE };
        let mut state = State::from(self.intern(first));
        for token in rest {
            let last = self.intern(token);
            state = self.extend(state, last);
        }
        self.speakers_mut(state).insert(speaker);
        state
    }

    /// Adds whose hashtag a text is; none where it is empty.
    pub(super) fn add_tag(&mut self, tag: &str, speaker: Speaker) -> Symbol {
        if tag.is_empty() {
            return Symbol::NONE;
        }
        let symbol = self.intern(tag);
        self.entries[symbol.0].tagged.insert(speaker);
        symbol
    }

    /// Undoes [`Lexicon::add_words`].
    pub(super) fn remove_words(&mut self, state: State, speaker: Speaker) {
        if state != State::NONE {
            self.speakers_mut(state).remove(speaker);
            self.prune(state);
        }
    }

    /// Undoes [`Lexicon::add_tag`].
    pub(super) fn remove_tag(&mut self, tag: Symbol, speaker: Speaker) {
        if tag != Symbol::NONE {
            self.entries[tag.0].tagged.remove(speaker);
            self.prune(State::from(tag));
        }
    }

    fn intern(&mut self, text: &str) -> Symbol {
        let hash = self.hash(text);
        if let Some(index) = self.symbols.find(hash, |index| *self.entries[*index].text == *text) {
            return Symbol(*index);
        }
        let index = self.entries.insert(Entry { text: text.into(), ..Entry::default() });
        let (state, entries) = (&self.state, &self.entries);
        self.symbols.insert_unique(hash, index, |index| hash_text(state, &entries[*index].text));
        if !self.filter.insert(hash) {
            let live = self.symbols.iter().map(|index| hash_text(state, &entries[*index].text));
            self.filter = Filter::of(self.symbols.len(), live);
        }
        Symbol(index)
    }

    fn extend(&mut self, parent: State, last: Symbol) -> State {
        if let Some(state) = self.step(parent, last) {
            return state;
        }
        let index = self.sequences.insert(Sequence { parent, last, ..Sequence::default() });
        *self.children_mut(parent) += 1;
        self.entries[last.0].ends += 1;
        let (state, sequences) = (&self.state, &self.sequences);
        self.edges.insert_unique(hash_edge(state, parent, last), index, |index| {
            let sequence = &sequences[*index];
            hash_edge(state, sequence.parent, sequence.last)
        });
        State(index | State::LONG)
    }

    fn speakers_mut(&mut self, state: State) -> &mut Speakers {
        match state.kind() {
            Kind::Symbol(symbol) => &mut self.entries[symbol.0].alone,
            Kind::Long(index) => &mut self.sequences[index].speakers,
        }
    }

    fn children_mut(&mut self, state: State) -> &mut u32 {
        match state.kind() {
            Kind::Symbol(symbol) => &mut self.entries[symbol.0].children,
            Kind::Long(index) => &mut self.sequences[index].children,
        }
    }

    /// Forgets a sequence that is of no use any more, and what was there for its sake.
    fn prune(&mut self, mut state: State) {
        while let Kind::Long(index) = state.kind() {
            let sequence = &self.sequences[index];
            if sequence.children > 0 || !sequence.speakers.is_empty() {
                return;
            }
            let (parent, last) = (sequence.parent, sequence.last);
            let hash = hash_edge(&self.state, parent, last);
            if let Ok(edge) = self.edges.find_entry(hash, |other| *other == index) {
                edge.remove();
            }
            self.sequences.remove(index);
            *self.children_mut(parent) -= 1;
            self.entries[last.0].ends -= 1;
            // Of `a a` both tokens are one symbol, which is looked at below.
            if State::from(last) != parent {
                self.prune_symbol(last);
            }
            state = parent;
        }
        if let Kind::Symbol(symbol) = state.kind() {
            self.prune_symbol(symbol);
        }
    }

    fn prune_symbol(&mut self, symbol: Symbol) {
        let entry = &self.entries[symbol.0];
        if entry.ends > 0 || entry.children > 0 || !entry.alone.is_empty() || !entry.tagged.is_empty() {
            return;
        }
        let hash = self.hash(&entry.text);
        if let Ok(found) = self.symbols.find_entry(hash, |other| *other == symbol.0) {
            found.remove();
        }
        self.entries.remove(symbol.0);
    }
}

fn hash_text(state: &RandomState, text: &str) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}

fn hash_edge(state: &RandomState, parent: State, last: Symbol) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u64(u64::from(parent.0) << 32 | u64::from(last.0));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_the_last_speaker_has_gone_nothing_is_left() {
        let mut lexicon = Lexicon::default();
        let tokens = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let speaker = |poll| Speaker { poll, option: 0 };
        let a = lexicon.add_words(&tokens("new new york new york city"), speaker(1));
        let b = lexicon.add_words(&tokens("new new"), speaker(2));
        let tag = lexicon.add_tag("york", speaker(3));
        lexicon.remove_words(a, speaker(1));
        assert_eq!((lexicon.symbols.len(), lexicon.edges.len()), (2, 1));
        lexicon.remove_words(b, speaker(2));
        assert_eq!((lexicon.symbols.len(), lexicon.edges.len()), (1, 0));
        lexicon.remove_tag(tag, speaker(3));
        assert_eq!((lexicon.symbols.len(), lexicon.edges.len()), (0, 0));
        assert_eq!((lexicon.entries.len(), lexicon.sequences.len()), (0, 0));
    }

    #[test]
    fn a_symbol_takes_56_bytes_and_a_sequence_32() {
        assert_eq!((size_of::<Entry>(), size_of::<Sequence>()), (56, 32));
    }
}
