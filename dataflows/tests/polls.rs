//! Polls by hand: one rule a test, through the whole engine.

use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::engine::{PollChange, Refill};
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::results::Filter;
use tallyflow_dataflows::spec::polls::{Choices, Match, Person, Poll, PollInForce, PollKey, PollsSpec, Reposts};
use tallyflow_dataflows::spec::voids::Voids;
use tallyflow_dataflows::spec::{Bound, Dataflow, InputSpec, JobSpec, Keep};
use tallyflow_dataflows::testing::{Bench, Crew, MemoryLog, MemoryRecord, PlainFormats};
use tallyflow_dataflows::update::PollEvent;

const DEADLINE: Duration = Duration::from_secs(20);
const CREWS: [Crew; 4] = [
    Crew { processes: 1, workers: 1 },
    Crew { processes: 1, workers: 2 },
    Crew { processes: 2, workers: 1 },
    Crew { processes: 2, workers: 2 },
];

fn job() -> JobSpec {
    let input = |topic: &str, format: &str| InputSpec {
        topic: topic.into(),
        format: format.into(),
        from: Bound::Beginning,
        until: None,
    };
    let polls = PollsSpec {
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        grace: Duration::from_secs(300),
        ahead: Duration::from_secs(3_600),
    };
    JobSpec {
        name: "polls".into(),
        dataflow: Dataflow::Polls(polls),
        inputs: vec![input("posts", "post"), input("votes", "vote")],
        sinks: vec![],
        voids: Voids::default(),
    }
}

fn poll(id: &str, options: &[&str]) -> Poll {
    Poll {
        id: id.into(),
        title: id.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_ns: 0,
        closes_ns: None,
        grace: Duration::from_secs(300),
    }
}

fn in_force(poll: Poll, version: u32) -> PollInForce {
    PollInForce { poll, version, from: vec![] }
}

struct World {
    log: MemoryLog,
    bench: Bench,
    records: u64,
}

impl World {
    fn new(polls: Vec<PollInForce>, crew: Crew) -> Self {
        let log = MemoryLog::default();
        log.create("posts", 2);
        log.create("votes", 1);
        let bench = Bench::start_crew(&job(), polls, Arc::new(log.clone()), Arc::new(PlainFormats), crew);
        World { log, bench, records: 0 }
    }

    fn append(&mut self, topic: &str, partition: usize, text: String) {
        self.records += 1;
        let timestamp_ms = 1_000 + self.records as i64;
        self.log.append(topic, partition, [MemoryRecord { timestamp_ms, value: text.into_bytes() }]);
    }

    /// A post at a time in ms; without a text it is deleted.
    fn post(&mut self, id: &str, author: &str, text: Option<&str>, at: i64) {
        let text = text.map_or("null".to_owned(), |text| format!("{text:?}"));
        let post = format!(r#"{{"id": "{id}", "author": "{author}", "text": {text}, "at": {at}}}"#);
        self.append("posts", self.records as usize % 2, post);
    }

    fn vote(&mut self, poll: &str, voter: &str, option: Option<&str>, at: i64) {
        let option = option.map_or("null".to_owned(), |text| format!("{text:?}"));
        self.append("votes", 0, format!(r#"{{"poll": "{poll}", "voter": "{voter}", "option": {option}, "at": {at}}}"#));
    }

    fn settle(&mut self) {
        self.bench.run_to(self.records, DEADLINE);
    }

    /// The lines of each poll, as `id: option=n ...`, and the accounting of its claims.
    fn shown(&self) -> Vec<String> {
        let all = self.bench.results.snapshot(&Filter::default()).unwrap();
        assert!(all.accounting.is_even(), "{:?}", all.accounting);
        let subject = |s: &tallyflow_dataflows::results::SubjectTallies| {
            assert!(s.accounting().is_even(), "{s:?}");
            let mut lines: Vec<_> = s.tallies.iter().map(|t| format!("{}={}", t.group.text(), t.value)).collect();
            lines.sort();
            format!("{}: {} ({}/{})", s.subject, lines.join(" "), s.counted, s.claims)
        };
        all.subjects.iter().map(subject).collect()
    }

    fn classes(&self) -> (u64, u64, u64) {
        let a = self.bench.results.accounting();
        (a.matched, a.irrelevant, a.rejected)
    }

    fn refill(&mut self, number: u64, add: Vec<PollInForce>, remove: Vec<PollKey>) {
        self.bench.polls(PollChange::Refill(Refill { number, add, remove }));
        self.bench.run_until(DEADLINE, |b| b.poll_events.contains(&PollEvent::Refilled { number }));
    }
}

#[test]
fn a_refill_outlives_a_log_that_can_not_be_read_for_a_while() {
    let mut world = World::new(vec![], CREWS[3]);
    (0..20).for_each(|n| world.post(&n.to_string(), "ann", Some("happy"), n));
    world.settle();
    world.log.fail_next("posts", 3);
    world.refill(1, vec![in_force(poll("moods", &["happy", "sad"]), 1)], vec![]);
    assert_eq!(world.log.fails("posts"), 0);
    assert_eq!(world.shown(), ["moods: happy=20 sad=0 (20/20)"]);
}

#[test]
fn posts_and_votes_count_edits_replace_and_deletions_withdraw() {
    for crew in CREWS {
        let mut world = World::new(vec![in_force(poll("moods", &["happy", "sad"]), 1)], crew);
        world.post("1", "ann", Some("so happy, not sad"), 1);
        world.post("2", "bob", Some("sad"), 2);
        world.post("2", "bob", Some("happy now"), 3);
        world.post("2", "bob", Some("sad"), 2);
        world.post("3", "cy", Some("happy"), 4);
        world.post("3", "cy", None, 5);
        world.post("4", "di", Some("nothing"), 5);
        world.vote("moods", "eve", Some("happy"), 6);
        world.vote("moods", "eve", Some("none"), 6);
        world.settle();
        assert_eq!(world.shown(), ["moods: happy=3 sad=1 (3/6)"]);
        assert_eq!(world.classes(), (6, 3, 0));
    }
}

#[test]
fn of_an_author_one_message_counts_and_taking_it_away_revives_the_one_before() {
    for crew in CREWS {
        let one = Poll { entity: Some(Person::Author), keep: Keep::Last, ..poll("moods", &["happy", "sad"]) };
        let mut world = World::new(vec![in_force(one, 1)], crew);
        world.post("1", "ann", Some("happy"), 1);
        world.post("2", "ann", Some("sad"), 2);
        world.vote("moods", "ann", Some("sad"), 3);
        world.settle();
        assert_eq!(world.shown(), ["moods: happy=0 sad=2 (2/3)"]);
        world.post("2", "ann", None, 3);
        world.vote("moods", "ann", None, 4);
        world.settle();
        assert_eq!(world.shown(), ["moods: happy=1 sad=0 (2/4)"]);
    }
}

#[test]
fn a_past_poll_is_shown_whole_a_changed_one_swapped_and_a_deleted_one_gone() {
    for crew in CREWS {
        let mut world = World::new(vec![], crew);
        for n in 0..1_000 {
            world.post(&n.to_string(), "ann", Some(["happy", "sad", "glad", "x"][n % 4]), n as i64);
        }
        world.settle();
        assert_eq!(world.classes(), (0, 1_000, 0));
        world.refill(1, vec![in_force(poll("moods", &["happy", "sad"]), 1)], vec![]);
        assert_eq!(world.shown(), ["moods: happy=250 sad=250 (500/500)"]);
        assert_eq!(world.classes(), (500, 500, 0));

        world.refill(2, vec![in_force(poll("moods", &["happy", "glad"]), 2)], vec![]);
        assert_eq!(world.shown(), ["moods: glad=250 happy=250 (500/500)"]);
        world.refill(3, vec![in_force(poll("other", &["x", "sad"]), 1)], vec![]);
        assert_eq!(world.classes(), (1_000, 0, 0));

        world.bench.polls(PollChange::Hide(PollKey { id: "moods".into(), version: 2 }));
        world.bench.run_until(DEADLINE, |b| b.results.snapshot(&Filter::default()).unwrap().subjects.len() == 1);
        world.refill(4, vec![], vec![PollKey { id: "moods".into(), version: 2 }]);
        assert_eq!(world.shown(), ["other: sad=250 x=250 (500/500)"]);
        assert_eq!(world.classes(), (500, 500, 0));
    }
}

/// Records are classed by it until it is removed: a server that goes on from a checkpoint of before that, without the
/// poll, would keep them matched.
#[test]
fn a_checkpoint_names_a_poll_that_was_hidden_before_anybody_saw_it() {
    for crew in CREWS {
        let polls = ["moods", "other"].map(|id| in_force(poll(id, &["happy"]), 1));
        let mut world = World::new(polls.to_vec(), crew);
        // Before the first update.
        world.bench.polls(PollChange::Hide(PollKey { id: "moods".into(), version: 1 }));
        world.post("1", "ann", Some("happy"), 1);
        world.settle();
        assert_eq!(world.shown(), ["other: happy=1 (1/1)"]);
        world.bench.checkpoint();
        world.bench.run_until(DEADLINE, Bench::is_checkpointed);
        let mut names = Vec::new();
        world.bench.store.change(|objects| {
            let manifests = objects.iter().filter(|(name, _)| name.ends_with(".manifest"));
            // A checksum follows on a line of its own.
            let manifests = manifests.map(|(_, bytes)| bytes.split(|byte| *byte == b'\n').next().unwrap());
            let manifests = manifests.map(|json| serde_json::from_slice::<serde_json::Value>(json).unwrap());
            let polls = manifests.filter_map(|manifest| manifest["polls"].as_array().cloned()).flatten();
            names.extend(polls.map(|poll| poll["id"].as_str().unwrap().to_owned()));
        });
        names.sort();
        assert_eq!(names, ["moods", "other"], "{crew:?}");
    }
}

#[test]
fn a_poll_whose_beginning_retention_has_taken_can_be_deleted_and_keeps_no_other_waiting() {
    let mut world = World::new(vec![in_force(poll("old", &["happy"]), 1)], CREWS[3]);
    for n in 0..20 {
        world.post(&n.to_string(), "ann", Some(["happy", "happy", "sad", "sad"][n % 4]), n as i64);
    }
    world.settle();
    assert_eq!(world.classes(), (10, 10, 0));
    // Of each partition's ten posts the first four are gone.
    world.log.take_before("posts", 0, 4);
    world.log.take_before("posts", 1, 4);
    let old = PollKey { id: "old".into(), version: 1 };
    world.bench.polls(PollChange::Hide(old.clone()));
    let from = vec![vec![Offset(6), Offset(6)], vec![Offset(0)]];
    let new = PollInForce { from, ..in_force(poll("new", &["sad"]), 1) };
    world.refill(1, vec![new], vec![old]);
    // From offset 6 on; what is gone stays as it was: two of each partition were happy there.
    assert_eq!(world.shown(), ["new: sad=4 (4/4)"]);
    assert_eq!(world.classes(), (8, 12, 0));
}

#[test]
fn a_poll_that_opens_now_begins_where_reading_stands() {
    for crew in CREWS {
        let mut world = World::new(vec![], crew);
        world.post("1", "ann", Some("happy"), 1);
        world.post("2", "ann", Some("happy"), 2);
        world.settle();
        world.bench.polls(PollChange::Open(in_force(poll("moods", &["happy"]), 1)));
        world.bench.run_until(DEADLINE, |b| !b.poll_events.is_empty());
        let key = PollKey { id: "moods".into(), version: 1 };
        let from = vec![vec![Offset(1), Offset(1)], vec![Offset(0)]];
        assert_eq!(world.bench.poll_events, [PollEvent::Opened { poll: key, from }]);
        world.post("3", "ann", Some("happy"), 3);
        world.post("1", "ann", Some("happy"), 4);
        world.settle();
        assert_eq!(world.shown(), ["moods: happy=2 (2/2)"]);
    }
}

#[test]
fn a_sealed_poll_keeps_its_numbers() {
    let closing = Poll { closes_ns: Some(1_000_000_000), grace: Duration::ZERO, ..poll("moods", &["happy"]) };
    let mut world = World::new(vec![in_force(closing, 1)], CREWS[3]);
    world.post("1", "ann", Some("happy"), 1);
    world.post("2", "bob", Some("happy"), 1_000);
    world.settle();
    // The log's clock stands past 1 s: nothing that comes can count.
    assert_eq!(world.shown(), ["moods: happy=0 (0/0)"]);
    world.bench.polls(PollChange::Seal(vec![PollKey { id: "moods".into(), version: 1 }]));
    world.post("3", "cy", Some("happy"), 1);
    world.settle();
    assert_eq!(world.shown(), ["moods: happy=0 (0/0)"]);
}
