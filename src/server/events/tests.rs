//! What readers see, held against the results store: after every event a reader's lines must be those
//! of a snapshot at the event's epoch, whatever its speed, its view and how often it came back.

use crate::node::job::{Job, JobState};
use crate::server::events::channel::{Channel, ChannelKey, Cursor, Item, Progress};
use crate::server::events::hub::Hub;
use crate::server::events::reader::EventStream;
use crate::server::testing::{Feed, TestHost, job};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::Filter;

type Lines = BTreeMap<(String, String), Value>;
type Totals = BTreeMap<String, Value>;

/// An event as a client takes it apart.
#[derive(Debug)]
struct Event {
    id: Option<String>,
    name: String,
    data: Value,
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with("\n\n") && !text.contains('\r'), "{text:?}");
    assert_eq!(text.matches("\n\n").count(), 1, "{text:?}");
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let data = field("data: ")?;
    Some(Event { id: field("id: "), name: field("event: ")?, data: serde_json::from_str(&data).unwrap() })
}

/// A client: a cursor, what it has seen, and what it makes of it.
struct Client {
    cursor: Cursor,
    lines: Lines,
    totals: Totals,
    seen: Option<Epoch>,
    gaps: usize,
}

impl Client {
    fn new(channel: &Channel, seen: Option<Epoch>) -> Self {
        Client { cursor: channel.join(seen), lines: Lines::new(), totals: Totals::new(), seen, gaps: 0 }
    }

    /// Fetches what there is; whether there was anything.
    fn fetch(&mut self, channel: &Channel) -> bool {
        let mut items = Vec::new();
        let progress = channel.advance(&mut self.cursor, Waker::noop(), &mut items);
        for item in items {
            match item {
                Item::Plain(bytes) => {
                    if parse(&bytes).is_some_and(|event| event.name == "gap") {
                        self.gaps += 1;
                    }
                }
                Item::Frame(frame) => {
                    let event = parse(&frame.bytes).unwrap();
                    assert_eq!(event.id.as_deref(), Some(frame.to.to_string().as_str()));
                    self.take(&event);
                    self.seen = Some(frame.to);
                }
            }
        }
        progress != Progress::Waiting
    }

    fn take(&mut self, event: &Event) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        if event.name == "snapshot" {
            (self.lines, self.totals) = shown(&event.data);
            return;
        }
        assert_eq!(event.name, "delta");
        for change in event.data["changes"].as_array().unwrap() {
            let line = (text(&change["subject"]), text(&change["group"]));
            let was = self.lines.get(&line).cloned().unwrap_or(Value::Null);
            assert_eq!(was, change["was"], "{line:?} in {:?}", event.data);
            match &change["value"] {
                Value::Null => self.lines.remove(&line),
                value => self.lines.insert(line, value.clone()),
            };
        }
        for (subject, total) in event.data["totals"].as_object().unwrap() {
            self.totals.insert(subject.clone(), total.clone());
        }
    }
}

/// The lines and totals of a snapshot.
fn shown(tallies: &Value) -> (Lines, Totals) {
    let (mut lines, mut totals) = (Lines::new(), Totals::new());
    for subject in tallies["subjects"].as_array().unwrap() {
        let name = subject["subject"].as_str().unwrap().to_owned();
        totals.insert(name.clone(), subject["total"].clone());
        for tally in subject["tallies"].as_array().unwrap() {
            lines.insert((name.clone(), tally["group"].as_str().unwrap().to_owned()), tally["value"].clone());
        }
    }
    (lines, totals)
}

fn key(filter: Filter) -> ChannelKey {
    ChannelKey { job: "moods".into(), filter, every: Duration::ZERO }
}

#[derive(Clone, Debug)]
enum Step {
    Close(Vec<(u64, u64, Option<i64>)>),
    Tick(bool),
    Fetch(usize),
    /// A reader goes and comes back with its id.
    Resume(usize),
    /// A reader comes anew.
    Join(usize),
    Comment,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let line = (1..4u64, 1..6u64, prop::option::weighted(0.8, 0..5i64));
    let reader = 0..4usize;
    prop::collection::vec(
        prop_oneof![
            4 => prop::collection::vec(line, 0..5).prop_map(Step::Close),
            3 => any::<bool>().prop_map(Step::Tick),
            5 => reader.clone().prop_map(Step::Fetch),
            1 => reader.clone().prop_map(Step::Resume),
            1 => reader.prop_map(Step::Join),
            1 => Just(Step::Comment),
        ],
        1..80,
    )
}

fn filters() -> impl Strategy<Value = Filter> {
    let subjects = prop::sample::subsequence(vec!["s1".to_owned(), "s2".to_owned(), "none".to_owned()], 0..3);
    (subjects, prop::option::of(1..4usize)).prop_map(|(subjects, limit)| Filter { subjects, limit })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn snapshot_and_deltas_come_to_the_store_at_every_epoch(filter in filters(), steps in steps()) {
        let job = job("moods");
        let mut feed = Feed::default();
        job.apply(job.id, feed.update(&[(1, 1, Some(1))]));
        let channel = Channel::new(key(filter.clone()), job.clone());
        let mut stored: BTreeMap<Epoch, (Lines, Totals)> = BTreeMap::new();
        let note = |stored: &mut BTreeMap<_, _>| {
            let tallies = job.read(|results| results.snapshot(&filter).unwrap()).unwrap();
            stored.insert(tallies.epoch, shown(&serde_json::to_value(&tallies).unwrap()));
        };
        note(&mut stored);
        let mut clients: Vec<Client> = (0..4).map(|_| Client::new(&channel, None)).collect();
        let check = |client: &Client, stored: &BTreeMap<Epoch, (Lines, Totals)>| {
            if let Some(seen) = client.seen {
                assert_eq!((&client.lines, &client.totals), (&stored[&seen].0, &stored[&seen].1), "at {seen}");
            }
        };
        for step in steps {
            match step {
                Step::Close(changes) => {
                    job.apply(job.id, feed.update(&changes));
                    note(&mut stored);
                }
                Step::Tick(force) => {
                    channel.tick(force);
                }
                Step::Fetch(reader) => {
                    clients[reader].fetch(&channel);
                    check(&clients[reader], &stored);
                }
                Step::Resume(reader) => {
                    channel.leave(&clients[reader].cursor);
                    clients[reader].cursor = channel.join(clients[reader].seen);
                }
                Step::Join(reader) => {
                    channel.leave(&clients[reader].cursor);
                    clients[reader] = Client::new(&channel, None);
                }
                Step::Comment => channel.comment(),
            }
        }
        channel.tick(true);
        let newest = stored.values().last().unwrap();
        for client in &mut clients {
            while client.fetch(&channel) {
                check(client, &stored);
            }
            prop_assert_eq!(client.gaps, 0);
            prop_assert_eq!((&client.lines, &client.totals), (&newest.0, &newest.1));
        }
    }
}

fn frames(channel: &Channel, cursor: &mut Cursor) -> Vec<Bytes> {
    let mut items = Vec::new();
    channel.advance(cursor, Waker::noop(), &mut items);
    let bytes = items.into_iter().map(|item| match item {
        Item::Plain(bytes) => bytes,
        Item::Frame(frame) => frame.bytes,
    });
    bytes.collect()
}

fn names(bytes: &[Bytes]) -> Vec<String> {
    bytes.iter().filter_map(|bytes| parse(bytes)).map(|event| event.name).collect()
}

fn running(changes: usize) -> (Arc<Job>, Feed) {
    let job = job("moods");
    job.set_state(JobState::Running, None);
    let mut feed = Feed::default();
    for n in 0..changes {
        job.apply(job.id, feed.update(&[(1, 1, Some(n as i64))]));
    }
    (job, feed)
}

#[test]
fn readers_of_one_view_share_the_bytes_of_every_event() {
    let (job, mut feed) = running(1);
    let channel = Channel::new(key(Filter::default()), job.clone());
    let (mut a, mut b) = (channel.join(None), channel.join(None));
    for n in 0..3 {
        let (of_a, of_b) = (frames(&channel, &mut a), frames(&channel, &mut b));
        assert_eq!(of_a.len(), 1);
        assert_eq!(of_a[0].as_ptr(), of_b[0].as_ptr());
        job.apply(job.id, feed.update(&[(1, 1, Some(10 + n))]));
        channel.tick(false);
    }
    // Both two steps late: the merge is shared too.
    job.apply(job.id, feed.update(&[(1, 1, Some(20))]));
    channel.tick(false);
    let (of_a, of_b) = (frames(&channel, &mut a), frames(&channel, &mut b));
    assert_eq!((of_a.len(), of_a[0].as_ptr()), (1, of_b[0].as_ptr()));
    let delta = parse(&of_a[0]).unwrap().data;
    assert_eq!((&delta["changes"][0]["was"], &delta["changes"][0]["value"]), (&11.into(), &20.into()));
}

#[test]
fn a_reader_that_stops_reading_gets_one_merged_delta_and_costs_no_queue() {
    let (job, mut feed) = running(1);
    let channel = Channel::new(key(Filter::default()), job.clone());
    let (mut stalled, mut live) = (channel.join(None), channel.join(None));
    assert_eq!(names(&frames(&channel, &mut stalled)), ["snapshot"]);
    frames(&channel, &mut live);
    // Within the steps that the channel keeps, and far beyond them.
    for rounds in [100, 2_000] {
        for n in 0..rounds {
            job.apply(job.id, feed.update(&[(1, 1, Some(n)), (1, 2, Some(-n))]));
            channel.tick(false);
            assert_eq!(names(&frames(&channel, &mut live)), ["delta"]);
        }
        let caught_up = frames(&channel, &mut stalled);
        assert_eq!(names(&caught_up), ["delta"]);
        assert_eq!(parse(&caught_up[0]).unwrap().data["changes"].as_array().unwrap().len(), 2);
        assert!(frames(&channel, &mut stalled).is_empty());
    }
}

#[test]
fn a_reader_that_comes_too_late_is_told_of_the_gap_and_gets_a_snapshot() {
    let (job, mut feed) = running(1);
    let channel = Channel::new(key(Filter::default()), job.clone());
    for n in 0..5_000 {
        job.apply(job.id, feed.update(&[(1, 1, Some(n))]));
    }
    channel.tick(false);
    assert_eq!(names(&frames(&channel, &mut channel.join(Some(Epoch(1))))), ["gap", "snapshot"]);
    // An epoch that is yet to come is no better.
    assert_eq!(names(&frames(&channel, &mut channel.join(Some(Epoch(9_999))))), ["gap", "snapshot"]);
    // One that is up to date has nothing to hear.
    assert!(frames(&channel, &mut channel.join(Some(Epoch(5_001)))).is_empty());
}

#[test]
fn a_reader_of_a_subject_is_not_woken_for_others_but_its_id_stays_fresh() {
    let (job, mut feed) = running(1);
    let channel = Channel::new(key(Filter { subjects: vec!["s1".into()], limit: None }), job.clone());
    let mut reader = channel.join(None);
    frames(&channel, &mut reader);
    for n in 0..5_000 {
        job.apply(job.id, feed.update(&[(2, 1, Some(n))]));
        assert!(!channel.tick(false));
        assert!(frames(&channel, &mut reader).is_empty());
    }
    job.apply(job.id, feed.update(&[(2, 1, Some(-1))]));
    assert!(channel.tick(true));
    let moved = frames(&channel, &mut reader);
    assert_eq!(names(&moved), ["delta"]);
    assert_eq!(parse(&moved[0]).unwrap().id.as_deref(), Some("5002"));
    job.apply(job.id, feed.update(&[(1, 1, Some(7))]));
    channel.tick(false);
    assert_eq!(names(&frames(&channel, &mut reader)), ["delta"]);
}

#[test]
fn a_change_of_state_is_told_and_another_job_of_the_name_begins_with_a_snapshot() {
    let (old, _) = running(3);
    let channel = Channel::new(key(Filter::default()), old.clone());
    let mut reader = channel.join(None);
    frames(&channel, &mut reader);
    old.set_state(JobState::Failed, Some("a sum is beyond the fixed point".into()));
    channel.observe(&old);
    let told = parse(&frames(&channel, &mut reader)[0]).unwrap();
    assert_eq!((told.name.as_str(), &told.data["state"], told.id), ("status", &"failed".into(), None));
    assert!(told.data["error"].as_str().unwrap().contains("fixed point"));
    let new = job("moods");
    channel.observe(&new);
    assert_eq!(names(&frames(&channel, &mut reader)), ["status", "gap"]);
    assert!(frames(&channel, &mut reader).is_empty());
    new.apply(new.id, Feed::starting_at(100).update(&[(1, 1, Some(1))]));
    assert!(channel.tick(false));
    assert_eq!(names(&frames(&channel, &mut reader)), ["snapshot"]);
}

async fn next(stream: &mut EventStream) -> Bytes {
    let frame = tokio::time::timeout(Duration::from_secs(5), stream.frame()).await.expect("an event in time");
    frame.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn the_first_change_goes_out_at_once_and_then_one_delta_in_each_interval() {
    let host = TestHost::new();
    let job = host.add("moods");
    let mut feed = Feed::default();
    job.apply(job.id, feed.update(&[(1, 1, Some(0))]));
    let hub = Hub::new(host);
    let every = Duration::from_millis(200);
    let channel = hub.channel(ChannelKey { every, ..key(Filter::default()) }, job.clone());
    let mut stream = EventStream::new(vec![(channel, None)], false, false, hub.counts.clone());
    assert_eq!(next(&mut stream).await, "retry: 2000\n\n");
    assert_eq!(parse(&next(&mut stream).await).unwrap().name, "snapshot");
    let started = std::time::Instant::now();
    job.apply(job.id, feed.update(&[(1, 1, Some(1))]));
    assert_eq!(parse(&next(&mut stream).await).unwrap().data["changes"][0]["value"], 1);
    assert!(started.elapsed() < every / 2, "{:?}", started.elapsed());
    for n in 2..10 {
        job.apply(job.id, feed.update(&[(1, 1, Some(n))]));
    }
    let merged = parse(&next(&mut stream).await).unwrap();
    assert!(started.elapsed() >= every, "{:?}", started.elapsed());
    assert_eq!((&merged.data["changes"][0]["was"], &merged.data["changes"][0]["value"]), (&1.into(), &9.into()));
    // The server stops.
    hub.stop();
    assert_eq!(parse(&next(&mut stream).await).unwrap().data["state"], "stopping");
    assert!(stream.frame().await.is_none());
}

#[tokio::test]
async fn a_stream_of_several_jobs_has_ids_that_resume_each_of_them() {
    let host = TestHost::new();
    let mut feeds = [Feed::default(), Feed::starting_at(50)];
    let jobs = [host.add("moods"), host.add("votes")];
    for (job, feed) in jobs.iter().zip(&mut feeds) {
        job.apply(job.id, feed.update(&[(1, 1, Some(1))]));
    }
    let hub = Hub::new(host);
    let of = |seen: [Option<Epoch>; 2]| {
        let parts = jobs.iter().zip(seen).map(|(job, seen)| {
            (hub.channel(ChannelKey { job: job.name().into(), ..key(Filter::default()) }, job.clone()), seen)
        });
        EventStream::new(parts.collect(), true, false, hub.counts.clone())
    };
    let mut stream = of([None, None]);
    let mut text = Vec::new();
    for _ in 0..5 {
        text.extend_from_slice(&next(&mut stream).await);
    }
    let text = String::from_utf8(text).unwrap();
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["moods:1", "moods:1,votes:51"]);
    jobs[1].apply(jobs[1].id, feeds[1].update(&[(1, 1, Some(2))]));
    let mut resumed = of([Some(Epoch(1)), Some(Epoch(51))]);
    assert_eq!(next(&mut resumed).await, "retry: 2000\n\n");
    assert_eq!(next(&mut resumed).await, "id: moods:1,votes:52\n");
    assert!(next(&mut resumed).await.starts_with(b"event: delta\ndata: {\"job\":\"votes\""));
}
