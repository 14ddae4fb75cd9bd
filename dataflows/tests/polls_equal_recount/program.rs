//! What is generated: records, definitions and waits, from so few names and times that versions,
//! changes of mind, duplicates and ties meet all the time.

use proptest::prelude::*;
use std::time::Duration;
use tallyflow_dataflows::spec::Keep;
use tallyflow_dataflows::spec::polls::{Choices, Match, Person, Reposts};

/// The job's `ahead`, in ms: small, so that a poll opened in the past need not begin with the log.
pub const AHEAD_MS: i64 = 1_000;
/// The log's time when a program starts.
pub const START_MS: i64 = 1_000_000;

/// What is done to a log and a job.
#[derive(Clone, Debug)]
pub struct Program {
    /// Of the posts; the votes have two.
    pub partitions: usize,
    /// Whether a reader hands out few records at a time, so that reading lasts.
    pub drip: bool,
    /// In the log before the job starts, and so in the past of its first polls.
    pub before: Vec<Record>,
    /// By poll, where the job starts with it.
    pub first: Vec<Option<(Terms, From)>>,
    pub steps: Vec<(Step, Wait)>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Records(Vec<Record>),
    /// Opens the poll, if there is none of this name.
    Open(usize, Terms, From),
    /// The same, its `opens` so long before.
    OpenPast(usize, Terms, i64),
    /// Changes the poll, if there is one.
    Change(usize, Edit),
    Delete(usize),
    /// Gives up what is held for polls for which no record can come any more.
    Seal,
    /// Asks for a checkpoint, and perhaps waits for it.
    Checkpoint(bool),
    /// The engine ends wherever it is, and another goes on with so many workers.
    Restart(usize),
    /// An operator voids what these say, or takes a void back; the engine goes on anew.
    Void(What),
    Unvoid(u64),
}

/// What is voided.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Entity(&'static str),
    /// Of a partition of the posts or the votes, from such a part of its offsets on to such a part, in 16ths.
    Offsets {
        posts: bool,
        partition: usize,
        from: u64,
        to: u64,
    },
    Where(&'static str),
}

/// What is waited for after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    No,
    Read,
    Idle,
}

/// Which offsets a definition says that a poll begins at.
#[derive(Clone, Copy, Debug)]
pub enum From {
    Beginning,
    End,
}

/// A definition but for its name; times in ms from when it is made.
#[derive(Clone, Debug)]
pub struct Terms {
    pub options: Vec<String>,
    pub matching: Match,
    pub choices: Choices,
    pub keep: Keep,
    pub entity: Option<Person>,
    pub reposts: Reposts,
    pub opens_in_ms: i64,
    pub closes_in_ms: Option<i64>,
    /// Added to `closes`: an end within a millisecond.
    pub closes_ns: i64,
    pub grace: Duration,
}

#[derive(Clone, Debug)]
pub enum Edit {
    Options(Vec<String>),
    Match(Match),
    Choices(Choices),
    Keep(Keep, Option<Person>),
    Reposts(Reposts),
    /// So much later, or earlier.
    Opens(i64),
    /// So long after the change.
    Closes(Option<i64>),
}

#[derive(Clone, Debug)]
pub struct Record {
    /// How much later by the log's clock than the record before it.
    pub after_ms: i64,
    /// Modulo the number of the topic's partitions.
    pub partition: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// JSON members but for `at`, which is so long after the log's time; without a number none is written.
    Post(String, Option<i64>),
    Vote(String, Option<i64>),
    /// The bytes of a record so many before this one, delivered again.
    Again(usize),
}

const OPTIONS: &[&str] = &["happy", "sad", "New York", "new", "york", "C", "C++", "C#", "1", "👍", "Don't know"];
const WORDS: &[&str] = &[
    "happy",
    "SAD,",
    "unhappy",
    "new york",
    "New-York",
    "new",
    "york",
    "C",
    "c++",
    "(C#)",
    "#happy",
    "#NewYork",
    "#C#",
    "-",
    "我爱C++和",
    "nice👍",
    "don’t know",
];
const HASHTAGS: &[&str] =
    &["", "", "", r#"["happy"]"#, r#"["newyork","happy"]"#, r#"["sad","c"]"#, r#"["dontknow"]"#, "[]", "null"];

fn pick<T: Clone + std::fmt::Debug + 'static>(from: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(from.to_vec())
}

fn options() -> impl Strategy<Value = Vec<String>> {
    let some = prop::sample::subsequence(OPTIONS.to_vec(), 1..=4).prop_shuffle();
    some.prop_map(|some| some.into_iter().map(str::to_owned).collect())
}

fn keep() -> impl Strategy<Value = (Keep, Option<Person>)> {
    let person = pick(&[Person::Author, Person::Voter]);
    let kept = pick(&[Keep::First, Keep::Last, Keep::Last, Keep::FirstN(1), Keep::FirstN(2)]);
    prop_oneof![1 => Just((Keep::All, None)), 2 => (kept, person).prop_map(|(keep, person)| (keep, Some(person)))]
}

fn closes() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![1 => Just(None), 2 => (-500..1_500i64).prop_map(Some)]
}

fn terms() -> impl Strategy<Value = Terms> {
    let matching = pick(&[Match::Word, Match::Word, Match::Hashtag]);
    let choices = pick(&[Choices::Many, Choices::One]);
    let reposts = pick(&[Reposts::Ignore, Reposts::Count]);
    let times = (0..400i64, closes(), pick(&[0, 0, 1]), pick(&[0u64, 300, 2_000]));
    (options(), matching, choices, keep(), reposts, times).prop_map(
        |(options, matching, choices, (keep, entity), reposts, (opens_in_ms, closes_in_ms, closes_ns, grace))| {
            let grace = Duration::from_millis(grace);
            Terms { options, matching, choices, keep, entity, reposts, opens_in_ms, closes_in_ms, closes_ns, grace }
        },
    )
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        options().prop_map(Edit::Options),
        pick(&[Match::Word, Match::Hashtag]).prop_map(Edit::Match),
        pick(&[Choices::Many, Choices::One]).prop_map(Edit::Choices),
        keep().prop_map(|(keep, entity)| Edit::Keep(keep, entity)),
        pick(&[Reposts::Ignore, Reposts::Count]).prop_map(Edit::Reposts),
        (-1_500..500i64).prop_map(Edit::Opens),
        closes().prop_map(Edit::Closes),
    ]
}

/// Most event times are near the log's, some before every poll, some too far ahead.
fn jitter() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        6 => pick(&[-300i64, -200, -100, 0, 0, 100]),
        6 => -1_500..900i64,
        1 => AHEAD_MS - 1..AHEAD_MS + 2,
    ]
    .prop_map(Some)
}

fn post() -> impl Strategy<Value = Kind> {
    let text = prop::collection::vec(pick(WORDS), 0..4).prop_map(|words| words.join(" "));
    let repost = pick(&["", "", "", "", r#","repost":true"#, r#","repost":false"#, r#","repost":null"#]);
    (0..5u32, 0..3u32, text, pick(HASHTAGS), repost, jitter()).prop_map(|(id, author, text, hashtags, repost, at)| {
        let hashtags = if hashtags.is_empty() { String::new() } else { format!(r#","hashtags":{hashtags}"#) };
        Kind::Post(format!(r#""id":{id},"author":"a{author}","text":"{text}"{hashtags}{repost}"#), at)
    })
}

fn deletion() -> impl Strategy<Value = Kind> {
    let at = prop_oneof![2 => jitter(), 1 => Just(None)];
    (0..5u32, at).prop_map(|(id, at)| Kind::Post(format!(r#""id":{id},"text":null"#), at))
}

fn vote() -> impl Strategy<Value = Kind> {
    let known = pick(OPTIONS).prop_map(|option| format!("{option:?}"));
    let option =
        prop_oneof![6 => known, 2 => Just("null".into()), 1 => Just("1".into()), 1 => Just(r#""none""#.into())];
    let poll = pick(&["p0", "p0", "p1", "p1", "p2", "p3"]);
    let id = pick(&["", "", r#","id":"i0""#, r#","id":"i1""#, r#","id":null"#]);
    (poll, 0..3u32, option, id, jitter()).prop_map(|(poll, voter, option, id, at)| {
        Kind::Vote(format!(r#""poll":"{poll}","voter":"a{voter}","option":{option}{id}"#), at)
    })
}

/// What lacks something, or is of the wrong type.
fn bad() -> impl Strategy<Value = Kind> {
    let posts = [
        r#""author":"a0","text":"happy""#,
        r#""id":true,"author":"a0","text":"happy""#,
        r#""id":1,"text":"happy""#,
        r#""id":1,"author":{},"text":"happy""#,
        r#""id":1,"author":"a0""#,
        r#""id":1,"author":"a0","text":["happy"]"#,
        r#""id":1,"author":"a0","text":"happy","hashtags":"happy""#,
        r#""id":1,"author":"a0","text":"happy","hashtags":["happy",1]"#,
        r#""id":1,"author":"a0","text":"happy","repost":"yes""#,
        r#""text":null"#,
        // No message, and so no version of one.
        r#""id":1,"text":7"#,
    ];
    let votes = [
        r#""voter":"a0","option":"happy""#,
        r#""poll":[],"voter":"a0","option":"happy""#,
        r#""poll":"p0","voter":null,"option":"happy""#,
        r#""poll":"p0","voter":"a0""#,
        r#""poll":"p0","voter":"a0","option":["happy"]"#,
        r#""poll":"none","voter":"a0","option":{}"#,
        r#""poll":"p0","voter":"a0","option":"happy","id":true"#,
    ];
    prop_oneof![
        3 => (pick(&posts), jitter()).prop_map(|(post, at)| Kind::Post(post.to_owned(), at)),
        2 => (pick(&votes), jitter()).prop_map(|(vote, at)| Kind::Vote(vote.to_owned(), at)),
        1 => Just(Kind::Post(r#""id":1,"author":"a0","text":"happy""#.into(), None)),
        1 => Just(Kind::Post(r#""id":1,"author":"a0","text":"happy","at":"soon""#.into(), None)),
        1 => Just(Kind::Vote(r#""poll":"p0","voter":"a0","option":"happy","at":null"#.into(), None)),
        1 => Just(Kind::Vote("no JSON".into(), None)),
    ]
}

fn records(most: usize) -> impl Strategy<Value = Vec<Record>> {
    let kind = prop_oneof![
        8 => post(),
        2 => deletion(),
        7 => vote(),
        1 => bad(),
        2 => (0..12usize).prop_map(Kind::Again),
    ];
    let record = (pick(&[0i64, 0, 1, 50, 100, 400]), 0..6usize, kind);
    let record = record.prop_map(|(after_ms, partition, kind)| Record { after_ms, partition, kind });
    prop::collection::vec(record, 0..most)
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![Just(From::Beginning), Just(From::End)]
}

fn what() -> impl Strategy<Value = What> {
    let offsets = (any::<bool>(), 0..3usize, 0..16u64, 1..17u64);
    prop_oneof![
        3 => pick(&["a0", "a1", "0", "1", "2"]).prop_map(What::Entity),
        2 => offsets.prop_map(|(posts, partition, from, to)| What::Offsets { posts, partition, from, to }),
        2 => pick(&["event.author == 'a0'", "event.option == 'happy'", "event.id == 1 || event.id == 'i0'"])
            .prop_map(What::Where),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let poll = || 0..3usize;
    prop_oneof![
        6 => records(14).prop_map(Step::Records),
        2 => (poll(), terms(), from()).prop_map(|(poll, terms, from)| Step::Open(poll, terms, from)),
        3 => (poll(), terms(), 0..2_500i64).prop_map(|(poll, terms, ago)| Step::OpenPast(poll, terms, ago)),
        4 => (poll(), edit()).prop_map(|(poll, edit)| Step::Change(poll, edit)),
        2 => poll().prop_map(Step::Delete),
        2 => Just(Step::Seal),
        2 => any::<bool>().prop_map(Step::Checkpoint),
        2 => (1..4usize).prop_map(Step::Restart),
        2 => what().prop_map(Step::Void),
        1 => (1..4u64).prop_map(Step::Unvoid),
    ]
}

pub fn program() -> impl Strategy<Value = Program> {
    let first = prop::collection::vec(prop::option::of((terms(), from())), 3);
    let wait = prop_oneof![4 => Just(Wait::No), 1 => Just(Wait::Read), 1 => Just(Wait::Idle)];
    let steps = prop::collection::vec((step(), wait), 1..12);
    (2..4usize, any::<bool>(), records(12), first, steps).prop_map(|(partitions, drip, before, first, steps)| Program {
        partitions,
        drip,
        before,
        first,
        steps,
    })
}
