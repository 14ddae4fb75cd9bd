//! A reader of Server-Sent Events, and a board that follows them.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Delta, Tallies};
use tokio::sync::oneshot;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: String,
    pub id: Option<String>,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {}", self.data))
    }
}

/// A connection that is read by a thread of its own, as fast as it goes.
pub struct Events {
    arrived: Receiver<Event>,
    close: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Events {
    pub fn open(url: &str, path: &str) -> Events {
        let (url, (send, arrived), (close, closed)) = (format!("{url}{path}"), channel(), oneshot::channel());
        let (opened, open) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let started = Instant::now();
                let mut response = loop {
                    let response = client.get(&url).send().await.unwrap();
                    match response.status().as_u16() {
                        200 => break response,
                        503 if started.elapsed() < super::SOON => tokio::time::sleep(Duration::from_millis(5)).await,
                        other => panic!("{url}: {other}, {}", response.text().await.unwrap_or_default()),
                    }
                };
                opened.send(()).unwrap();
                let read = async {
                    let mut bytes = Vec::new();
                    // An end in the middle is an end: what the test wanted to see is missing then.
                    while let Ok(Some(chunk)) = response.chunk().await {
                        bytes.extend_from_slice(&chunk);
                        while let Some(end) = bytes.windows(2).position(|two| two == b"\n\n") {
                            let block: Vec<u8> = bytes.drain(..end + 2).collect();
                            if let Some(event) = parse(std::str::from_utf8(&block).unwrap())
                                && send.send(event).is_err()
                            {
                                return;
                            }
                        }
                    }
                };
                tokio::select! {
                    () = read => {}
                    _ = closed => {}
                }
            });
        });
        open.recv_timeout(super::SOON + super::SOON).expect("the stream opens");
        Events { arrived, close: Some(close), thread: Some(thread) }
    }

    /// The next event; `None` when the stream has ended.
    #[track_caller]
    pub fn next(&self) -> Option<Event> {
        match self.arrived.recv_timeout(super::SOON) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no event within {} s", super::SOON.as_secs()),
        }
    }

    /// The next event if there is one soon.
    pub fn next_within(&self, time: Duration) -> Result<Event, RecvTimeoutError> {
        self.arrived.recv_timeout(time)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(close) = self.close.take() {
            close.send(()).ok();
        }
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}

/// An event of a block of lines; none in a block of comments, or of `retry` alone.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event { kind: "message".to_owned(), id: None, data: String::new() };
    let mut has_data = false;
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.kind = value.to_owned(),
            "id" => event.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut has_data, true) {
                    event.data.push('\n');
                }
                event.data.push_str(value);
            }
            _ => {}
        }
    }
    has_data.then_some(event)
}

/// The numbers as a reader of the stream holds them, and what it has seen on the way. It fails where an
/// event does not follow from what it holds.
#[derive(Debug, Default)]
pub struct Board {
    pub epoch: u64,
    /// By subject and group.
    pub lines: BTreeMap<(String, String), Decimal>,
    pub totals: BTreeMap<String, Decimal>,
    pub accounting: Accounting,
    pub states: Vec<String>,
    pub deltas: u64,
    pub snapshots: u64,
}

impl Board {
    /// The board that a whole answer makes.
    pub fn of(tallies: &Tallies) -> Board {
        let mut board = Board { epoch: tallies.epoch.0, accounting: tallies.accounting, ..Board::default() };
        for subject in &tallies.subjects {
            for tally in &subject.tallies {
                let before = board.lines.insert((subject.subject.clone(), tally.group.text()), tally.value);
                assert_eq!(before, None, "a line stands twice: {tallies:?}");
            }
            if let Some(total) = subject.total.filter(|_| !subject.tallies.is_empty()) {
                board.totals.insert(subject.subject.clone(), total);
            }
        }
        board
    }

    /// Follows an event; whether the numbers moved.
    #[track_caller]
    pub fn follow(&mut self, event: &Event) -> bool {
        let read = self.accounting.read;
        match event.kind.as_str() {
            "snapshot" => {
                let tallies: Tallies = serde_json::from_str(&event.data).unwrap();
                assert!(tallies.epoch.0 > self.epoch, "the epoch fell from {} to {}", self.epoch, tallies.epoch);
                let Board { states, deltas, snapshots, .. } = std::mem::take(self);
                *self = Board { states, deltas, snapshots: snapshots + 1, ..Board::of(&tallies) };
            }
            "delta" => {
                let delta: Delta = serde_json::from_str(&event.data).unwrap();
                assert!(delta.epoch.0 > self.epoch, "the epoch fell from {} to {}", self.epoch, delta.epoch);
                self.epoch = delta.epoch.0;
                for change in delta.changes {
                    let line = (change.subject, change.group.text());
                    let held = match change.value {
                        Some(value) => self.lines.insert(line.clone(), value),
                        None => self.lines.remove(&line),
                    };
                    assert_eq!(held, change.was, "{line:?} was held otherwise than the delta says: {event:?}");
                }
                self.totals.extend(delta.totals);
                let subjects: std::collections::BTreeSet<&String> = self.lines.keys().map(|(s, _)| s).collect();
                self.totals.retain(|subject, _| subjects.contains(subject));
                self.accounting = delta.accounting;
                self.deltas += 1;
            }
            "status" => {
                self.states.push(event.json()["state"].as_str().unwrap().to_owned());
                return false;
            }
            other => panic!("an event {other:?} is not expected: {event:?}"),
        }
        assert_eq!(event.id.as_deref(), Some(&*self.epoch.to_string()));
        assert!(self.accounting.is_even(), "{:?}", self.accounting);
        assert!(self.accounting.read >= read, "it fell back from {read} records to {}", self.accounting.read);
        // A bar and its total belong together.
        for (subject, total) in &self.totals {
            assert_eq!(self.sum(subject), total.units(), "{subject}: the lines don't make the total: {self:?}");
        }
        true
    }

    /// The sum of a subject's lines, in the units of the fixed point.
    pub fn sum(&self, subject: &str) -> i128 {
        self.lines.iter().filter(|((of, _), _)| of == subject).map(|(_, value)| value.units()).sum()
    }

    /// Whether both show the same numbers.
    #[track_caller]
    pub fn assert_shows(&self, tallies: &Tallies) {
        let other = Board::of(tallies);
        assert_eq!((&self.lines, &self.totals), (&other.lines, &other.totals));
        assert_eq!(self.accounting, other.accounting);
    }
}
