//! The passes against a model of the engine: whatever happens in whatever order, in the end it shows
//! exactly the polls in force, each in its newest version.

use super::passes::{Filling, Opened, Passes};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tallyflow_dataflows::engine::{PollChange, Refill};
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::spec::Keep;
use tallyflow_dataflows::spec::polls::{Choices, Match, Poll, PollInForce, PollKey, Reposts};

fn poll(id: &str, version: u32) -> PollInForce {
    let poll = Poll {
        id: id.to_owned(),
        title: id.to_owned(),
        options: vec!["x".to_owned()],
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_ns: 0,
        closes_ns: None,
        grace: Duration::ZERO,
    };
    PollInForce { poll, version, from: vec![vec![Offset(7)]] }
}

fn key(id: &str, version: u32) -> PollKey {
    PollKey { id: id.to_owned(), version }
}

fn refill(number: u64, add: &[(&str, u32)], remove: &[(&str, u32)]) -> PollChange {
    PollChange::Refill(Refill {
        number,
        add: add.iter().map(|(id, version)| poll(id, *version)).collect(),
        remove: remove.iter().map(|(id, version)| key(id, *version)).collect(),
    })
}

fn installed() -> Passes {
    let mut passes = Passes::default();
    assert!(passes.install().is_empty());
    passes
}

fn shown(passes: &Passes, id: &str) -> Option<u32> {
    passes.shown(id, false).map(|shown| shown.version)
}

#[test]
fn what_comes_while_a_pass_runs_shares_the_next_and_only_the_newest_version_goes() {
    let mut passes = installed();
    assert_eq!(passes.add(poll("a", 1)), [refill(1, &[("a", 1)], &[])]);
    assert!(passes.add(poll("b", 1)).is_empty() && passes.add(poll("a", 2)).is_empty());
    assert!(passes.add(poll("a", 3)).is_empty() && passes.add(poll("c", 1)).is_empty());
    assert!(passes.delete("c").is_empty(), "what only waited is not known to the engine");
    passes.refilling(1, 120, 5_000);
    assert_eq!((passes.progress(), shown(&passes, "a")), (Some((120, 5_000)), None));
    assert_eq!(passes.refilled(1), [refill(2, &[("a", 3), ("b", 1)], &[])]);
    assert_eq!(shown(&passes, "a"), Some(1));
    let waits = Filling { version: 3, records: 0, of: None, error: None };
    assert_eq!(passes.filling("a", false), Some(waits));
    assert!(passes.refilled(1).is_empty(), "a pass ends once");
    assert!(passes.refilled(2).is_empty());
    assert_eq!((shown(&passes, "a"), shown(&passes, "b"), passes.filling("a", false)), (Some(3), Some(1), None));
}

#[test]
fn a_poll_deleted_while_it_is_read_is_hidden_and_removed_by_the_next_pass() {
    let mut passes = installed();
    passes.add(poll("a", 1));
    assert_eq!(passes.delete("a"), [PollChange::Hide(key("a", 1))]);
    assert_eq!(passes.refilled(1), [refill(2, &[], &[("a", 1)])]);
    assert_eq!(shown(&passes, "a"), None);
    assert!(passes.refilled(2).is_empty());
    // One that is shown, too.
    passes.add(poll("b", 1));
    passes.refilled(3);
    assert_eq!(passes.delete("b"), [PollChange::Hide(key("b", 1)), refill(4, &[], &[("b", 1)])]);
}

#[test]
fn a_poll_that_is_opened_is_shown_where_the_engine_says_it_begins() {
    let mut passes = installed();
    assert_eq!(passes.open(poll("a", 1)), Some(PollChange::Open(poll("a", 1))));
    assert_eq!(passes.take_opened(), None);
    passes.opened(&key("other", 1), vec![]);
    assert_eq!(passes.take_opened(), None);
    let from = vec![vec![Offset(9)]];
    passes.opened(&key("a", 1), from.clone());
    let opened = PollInForce { from, ..poll("a", 1) };
    assert_eq!(passes.take_opened(), Some(Opened::At(Box::new(opened.clone()))));
    assert_eq!(shown(&passes, "a"), Some(1));
    passes.engine_gone(false);
    assert_eq!(passes.install(), [opened]);
}

#[test]
fn an_opening_that_nobody_waits_for_leaves_nothing_behind() {
    let mut passes = installed();
    passes.open(poll("a", 1));
    assert_eq!(passes.give_up_opening(), [PollChange::Hide(key("a", 1)), refill(1, &[], &[("a", 1)])]);
    // It answers late.
    passes.opened(&key("a", 1), vec![]);
    assert_eq!((passes.take_opened(), shown(&passes, "a")), (None, None));
    assert!(passes.in_force().is_empty());
    // An engine that goes without an answer has made nothing.
    passes.open(poll("b", 1));
    passes.engine_gone(false);
    assert_eq!(passes.take_opened(), Some(Opened::Lost));
    assert!(passes.install().is_empty());
    // Where none runs there is nobody to ask.
    passes.engine_gone(false);
    assert_eq!(passes.open(poll("c", 1)), None);
}

#[test]
fn a_pass_that_fails_is_tried_part_by_part_and_then_when_asked() {
    let mut passes = installed();
    passes.open(poll("gone", 1));
    passes.give_up_opening();
    passes.add(poll("a", 1));
    passes.add(poll("b", 1));
    passes.refilled(1);
    passes.open(poll("gone", 2));
    assert!(passes.give_up_opening().len() == 1, "a pass runs");
    assert_eq!(passes.refill_failed(2, "why"), [refill(3, &[], &[("gone", 2)])]);
    assert_eq!(passes.refill_failed(3, "why"), [refill(4, &[("a", 1)], &[])]);
    assert_eq!(passes.refilled(4), [refill(5, &[("b", 1)], &[])]);
    assert!(passes.refill_failed(5, "the log is damaged").is_empty());
    assert_eq!((shown(&passes, "a"), shown(&passes, "b")), (Some(1), None));
    assert_eq!(passes.filling("b", false).unwrap().error.as_deref(), Some("the log is damaged"));
    assert_eq!(passes.add(poll("c", 1)), [refill(6, &[("c", 1)], &[])], "others are not held up");
    assert!(passes.refilled(6).is_empty() && passes.has_failed());
    assert_eq!(passes.retry(), [refill(7, &[("b", 1)], &[])]);
    assert_eq!(passes.refilled(7), [refill(8, &[], &[("gone", 2)])]);
    assert!(passes.refilled(8).is_empty() && !passes.has_failed());
}

#[test]
fn while_a_job_catches_up_readers_see_what_was_before() {
    let mut passes = installed();
    passes.add(poll("a", 1));
    passes.refilled(1);
    passes.add(poll("a", 2));
    passes.engine_gone(false);
    let seen = |passes: &Passes, catching_up| passes.shown("a", catching_up).map(|shown| shown.version);
    assert_eq!(seen(&passes, true), Some(1));
    assert_eq!(passes.install(), [poll("a", 2)]);
    assert_eq!((seen(&passes, true), seen(&passes, false)), (Some(1), Some(2)));
    // Gone again before it had caught up.
    passes.engine_gone(true);
    assert_eq!(seen(&passes, true), Some(1));
    assert_eq!(passes.filling("a", true).unwrap().version, 2);
}

#[test]
fn a_poll_is_sealed_once_per_engine_when_all_was_read_and_its_newest_version_is_shown() {
    let mut passes = installed();
    passes.add(poll("a", 1));
    passes.seal_at("a", vec![vec![Offset(20), Offset(5)]]);
    let read = |n: u64| vec![vec![Offset(n), Offset(5)]];
    assert_eq!(passes.seal(&read(30)), None, "its past is still being read");
    passes.refilled(1);
    assert_eq!(passes.seal(&read(19)), None);
    let sealed = Some(PollChange::Seal(vec![key("a", 1)]));
    assert_eq!(passes.seal(&read(20)), sealed);
    assert_eq!((passes.seal(&read(20)), passes.has_to_seal()), (None, false));
    passes.engine_gone(false);
    passes.install();
    assert_eq!(passes.seal(&read(3)), None);
    assert_eq!(passes.seal(&read(20)), sealed);
    // Opened again, it is another version, which may count more.
    passes.add(poll("a", 2));
    assert_eq!((passes.sealed_at("a"), passes.has_to_seal()), (None, false));
}

/// What the engine is taken to do with what it is told.
#[derive(Debug, Default)]
struct Engine {
    /// By version: whether it arrives with the pass that runs, whether it is hidden.
    polls: BTreeMap<PollKey, (bool, bool)>,
    running: Option<(u64, Vec<PollKey>)>,
    opening: Option<(PollKey, Vec<Vec<Offset>>)>,
    last_number: u64,
}

impl Engine {
    fn start(polls: Vec<PollInForce>, last_number: u64) -> Engine {
        let polls = polls.into_iter().map(|poll| (poll.key(), (false, false))).collect();
        Engine { polls, last_number, ..Engine::default() }
    }

    fn obey(&mut self, change: PollChange) {
        match change {
            PollChange::Open(poll) => {
                assert!(self.opening.is_none());
                assert!(self.polls.insert(poll.key(), (false, false)).is_none(), "{:?} twice", poll.key());
                self.opening = Some((poll.key(), poll.from));
            }
            PollChange::Refill(refill) => {
                assert!(self.running.is_none(), "two passes at a time");
                assert!(refill.number > self.last_number);
                self.last_number = refill.number;
                let mut leaving = refill.remove;
                assert!(leaving.iter().all(|key| self.polls.get(key).is_none_or(|(_, hidden)| *hidden)));
                for poll in refill.add {
                    let key = poll.key();
                    leaving.extend(self.polls.keys().filter(|other| other.id == key.id).cloned());
                    assert!(self.polls.insert(key.clone(), (true, false)).is_none(), "{key:?} twice");
                }
                self.running = Some((refill.number, leaving));
            }
            PollChange::Hide(key) => self.polls.get_mut(&key).expect("it was told of it").1 = true,
            PollChange::Seal(_) => {}
        }
    }

    fn finish(&mut self, well: bool) -> Option<u64> {
        let (number, leaving) = self.running.take()?;
        if well {
            self.polls.retain(|key, _| !leaving.contains(key));
            self.polls.values_mut().for_each(|(arriving, _)| *arriving = false);
        } else {
            self.polls.retain(|_, (arriving, _)| !*arriving);
        }
        Some(number)
    }

    fn shown(&self) -> Vec<PollKey> {
        let shown = |(key, (arriving, hidden)): (&PollKey, &(bool, bool))| (!arriving && !hidden).then(|| key.clone());
        self.polls.iter().filter_map(shown).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Add(u8),
    Open(u8),
    Opened,
    GiveUp,
    Delete(u8),
    Refilled,
    Failed,
    Retry,
    Restart,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4).prop_map(Step::Add),
        3 => (0u8..4).prop_map(Step::Open),
        3 => Just(Step::Opened),
        1 => Just(Step::GiveUp),
        3 => (0u8..4).prop_map(Step::Delete),
        5 => Just(Step::Refilled),
        1 => Just(Step::Failed),
        1 => Just(Step::Retry),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
    ]
}

/// Everything together, with what ought to be in force beside it.
#[derive(Default)]
struct World {
    passes: Passes,
    engine: Option<Engine>,
    wanted: BTreeMap<String, u32>,
    versions: BTreeMap<String, u32>,
    opening: Option<PollInForce>,
    last_number: u64,
}

impl World {
    fn tell(&mut self, changes: impl IntoIterator<Item = PollChange>) {
        for change in changes {
            self.engine.as_mut().expect("nothing is told where no engine runs").obey(change);
        }
    }

    fn next_version(&mut self, id: &str) -> u32 {
        let version = self.versions.entry(id.to_owned()).or_default();
        *version += 1;
        *version
    }

    /// As the node does when an opening has ended: without an engine, the poll is kept all the same.
    fn look_at_opening(&mut self) {
        let Some(asked) = &self.opening else { return };
        let (id, version) = (asked.poll.id.clone(), asked.version);
        match self.passes.take_opened() {
            Some(Opened::At(_)) => drop(self.wanted.insert(id, version)),
            Some(Opened::Lost) => {
                self.wanted.insert(id, version);
                let changes = self.passes.add(asked.clone());
                self.tell(changes);
            }
            None => return,
        }
        self.opening = None;
    }

    fn stop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.last_number = engine.last_number;
        }
        self.passes.engine_gone(false);
        self.look_at_opening();
    }

    fn step(&mut self, step: Step) {
        // One change at a time, as the node has it.
        let busy = self.opening.is_some();
        match step {
            Step::Add(n) if !busy => {
                let id = format!("p{n}");
                let version = self.next_version(&id);
                self.wanted.insert(id.clone(), version);
                let changes = self.passes.add(poll(&id, version));
                self.tell(changes);
            }
            Step::Open(n) if !busy && !self.wanted.contains_key(&format!("p{n}")) => {
                let id = format!("p{n}");
                let version = self.next_version(&id);
                match self.passes.open(poll(&id, version)) {
                    Some(change) => {
                        self.opening = Some(poll(&id, version));
                        self.tell([change]);
                    }
                    None => {
                        self.wanted.insert(id.clone(), version);
                        let changes = self.passes.add(poll(&id, version));
                        self.tell(changes);
                    }
                }
            }
            Step::Opened => {
                if let Some((key, from)) = self.engine.as_mut().and_then(|engine| engine.opening.take()) {
                    self.passes.opened(&key, from);
                    self.look_at_opening();
                }
            }
            Step::GiveUp if busy => {
                self.opening = None;
                let changes = self.passes.give_up_opening();
                self.tell(changes);
                // Its answer comes late, or not at all.
                if let Some((key, from)) = self.engine.as_mut().and_then(|engine| engine.opening.take()) {
                    self.passes.opened(&key, from);
                }
            }
            Step::Delete(n) if !busy => {
                let id = format!("p{n}");
                if self.wanted.remove(&id).is_some() {
                    let changes = self.passes.delete(&id);
                    self.tell(changes);
                }
            }
            Step::Refilled | Step::Failed => {
                let well = matches!(step, Step::Refilled);
                if let Some(number) = self.engine.as_mut().and_then(|engine| engine.finish(well)) {
                    let changes =
                        if well { self.passes.refilled(number) } else { self.passes.refill_failed(number, "no") };
                    self.tell(changes);
                }
            }
            Step::Retry => {
                let changes = self.passes.retry();
                self.tell(changes);
            }
            Step::Restart => {
                self.stop();
                self.engine = Some(Engine::start(self.passes.install(), self.last_number));
            }
            Step::Stop => self.stop(),
            Step::Add(_) | Step::Open(_) | Step::GiveUp | Step::Delete(_) => {}
        }
        for (id, version) in &self.wanted {
            assert_eq!(self.passes.in_force()[id].version, *version);
        }
    }
}

proptest! {
    #[test]
    fn in_the_end_the_engine_shows_exactly_the_polls_in_force(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::default();
        world.step(Step::Restart);
        for step in steps {
            world.step(step);
        }
        if world.engine.is_none() {
            world.step(Step::Restart);
        }
        // Whatever still waits comes to its end.
        world.step(Step::Opened);
        world.step(Step::Retry);
        while world.engine.as_ref().is_some_and(|engine| engine.running.is_some()) {
            world.step(Step::Refilled);
        }
        let wanted: Vec<PollKey> = world.wanted.iter().map(|(id, version)| key(id, *version)).collect();
        let engine = world.engine.as_ref().unwrap();
        prop_assert_eq!(engine.shown(), wanted.clone());
        prop_assert_eq!(engine.polls.len(), wanted.len(), "nothing hidden is left");
        for poll in wanted {
            prop_assert_eq!(world.passes.shown(&poll.id, false).map(|shown| shown.version), Some(poll.version));
            prop_assert_eq!(world.passes.filling(&poll.id, false), None);
        }
    }
}
