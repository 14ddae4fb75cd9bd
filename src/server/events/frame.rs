//! What goes over the wire, encoded once and shared by every reader of a view.

use crate::node::job::JobState;
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::{Change, Delta, Group, Tallies};

/// Sent first on every stream: how long a browser waits before it connects again.
pub const RETRY: Bytes = Bytes::from_static(b"retry: 2000\n\n");

/// Sent after a time of silence, so that proxies and readers know that the connection lives.
pub const COMMENT: Bytes = Bytes::from_static(b": still here\n\n");

/// An event that moves a reader to an epoch. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The epoch that a reader has seen once it has this.
    pub to: Epoch,
    /// The whole event, its `id:` line first.
    pub bytes: Bytes,
    /// Where the `id:` line ends: a stream of several jobs puts its own in that place.
    id_len: usize,
}

impl Frame {
    /// `event: snapshot`.
    pub fn snapshot(tallies: &Tallies) -> Frame {
        Frame::encode("snapshot", tallies.epoch, tallies)
    }

    /// `event: delta`.
    pub fn delta(delta: &Delta) -> Frame {
        Frame::encode("delta", delta.epoch, delta)
    }

    fn encode(event: &str, to: Epoch, data: &impl Serialize) -> Frame {
        let id = format!("id: {to}\n");
        let id_len = id.len();
        Frame { to, bytes: encode(id, event, data), id_len }
    }

    /// The event without its `id:` line, sharing the bytes.
    pub fn without_id(&self) -> Bytes {
        self.bytes.slice(self.id_len..)
    }
}

/// `event: status`, without an id: it moves no position.
pub fn status(job: &str, state: JobState, error: Option<&str>) -> Bytes {
    #[derive(Serialize)]
    struct Status<'a> {
        job: &'a str,
        state: JobState,
        error: Option<&'a str>,
    }
    encode(String::new(), "status", &Status { job, state, error })
}

/// The last event of a stream when the server stops.
pub fn stopping(job: &str) -> Bytes {
    encode(String::new(), "status", &BTreeMap::from([("job", Some(job)), ("state", Some("stopping")), ("error", None)]))
}

/// `event: gap`: what the reader holds can't be brought up to date; a snapshot follows.
pub fn gap(job: &str) -> Bytes {
    encode(String::new(), "gap", &BTreeMap::from([("job", job)]))
}

/// `event: problem`, the last event of a stream that can't go on; the data is a problem document.
pub fn problem(document: &impl Serialize) -> Bytes {
    encode(String::new(), "problem", document)
}

fn encode(mut head: String, event: &str, data: &impl Serialize) -> Bytes {
    head.push_str("event: ");
    head.push_str(event);
    head.push_str("\ndata: ");
    let mut bytes = head.into_bytes();
    // JSON from serde_json has no line break outside of strings, and escapes those within. Our own
    // types always serialise: their keys are strings.
    if let Err(error) = serde_json::to_writer(&mut bytes, data) {
        tracing::error!(%error, "an event could not be encoded");
    }
    bytes.extend_from_slice(b"\n\n");
    Bytes::from(bytes)
}

/// Several deltas, one after another, as one.
pub struct Merge {
    last: Delta,
    changes: BTreeMap<(String, Group), Change>,
}

impl Merge {
    pub fn new(first: &Delta) -> Self {
        let mut merge = Merge { last: Delta { changes: Vec::new(), ..first.clone() }, changes: BTreeMap::new() };
        merge.take(&first.changes);
        merge
    }

    /// Goes on with the delta that starts where the last one ended.
    pub fn add(&mut self, next: &Delta) {
        self.take(&next.changes);
        self.last.epoch = next.epoch;
        self.last.at.clone_from(&next.at);
        self.last.accounting = next.accounting;
        self.last.totals.extend(next.totals.iter().map(|(subject, total)| (subject.clone(), *total)));
    }

    fn take(&mut self, changes: &[Change]) {
        for change in changes {
            self.changes
                .entry((change.subject.clone(), change.group.clone()))
                .and_modify(|kept| {
                    kept.value = change.value;
                    kept.aggregates.clone_from(&change.aggregates);
                })
                .or_insert_with(|| change.clone());
        }
    }

    /// What came and went in between is no change; a line whose other aggregates changed is one.
    pub fn finish(self) -> Delta {
        let told = |c: &Change| c.value != c.was || (c.value.is_some() && c.aggregates.is_some());
        let mut changes: Vec<Change> = self.changes.into_values().filter(told).collect();
        // In the order of every answer: by subject, then value, greatest first, then group.
        changes.sort_by(|a, b| (&a.subject, b.value, &a.group).cmp(&(&b.subject, a.value, &b.group)));
        Delta { changes, ..self.last }
    }
}
