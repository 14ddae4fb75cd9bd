//! A response body that a reader's connection pulls from, when its socket has room.

use crate::server::events::channel::{Channel, Cursor, Item, Progress};
use crate::server::events::frame;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tallyflow_dataflows::ids::Epoch;

/// Of all streams together.
#[derive(Debug, Default)]
pub struct Counts {
    pub readers: AtomicI64,
    pub frames: AtomicU64,
    pub bytes: AtomicU64,
}

/// The stream of one reader: a position in each of its channels, and what is to be written next.
///
/// The connection asks for more only while the socket takes it. A reader that stops reading so stays
/// where it is, and gets one merged delta when it comes back.
pub struct EventStream {
    parts: Vec<Part>,
    out: VecDeque<Bytes>,
    found: Vec<Item>,
    /// Whether ids name every job's epoch.
    composite: bool,
    ended: bool,
    counts: Arc<Counts>,
}

struct Part {
    channel: Arc<Channel>,
    cursor: Cursor,
    /// What the composite id says of it.
    seen: Option<Epoch>,
    ended: bool,
}

impl EventStream {
    /// A stream over channels, each with the epoch that the reader has seen. `gap`: the reader came
    /// with an id that says nothing.
    pub fn new(
        channels: Vec<(Arc<Channel>, Option<Epoch>)>,
        composite: bool,
        gap: bool,
        counts: Arc<Counts>,
    ) -> EventStream {
        counts.readers.fetch_add(1, Ordering::Relaxed);
        let mut out = VecDeque::from([frame::RETRY]);
        let mut parts = Vec::with_capacity(channels.len());
        for (channel, seen) in channels {
            if gap && seen.is_none() {
                out.push_back(frame::gap(&channel.key.job));
            }
            parts.push(Part { cursor: channel.join(seen), channel, seen, ended: false });
        }
        EventStream { parts, out, found: Vec::new(), composite, ended: false, counts }
    }

    /// Where the stream stands in all of its jobs. Names hold no `:` or `,`.
    fn composite_id(&self) -> Bytes {
        let mut id = String::from("id: ");
        let known = self.parts.iter().filter_map(|part| Some((&part.channel.key.job, part.seen?)));
        for (index, (job, epoch)) in known.enumerate() {
            let separator = if index > 0 { "," } else { "" };
            id.push_str(&format!("{separator}{job}:{epoch}"));
        }
        id.push('\n');
        Bytes::from(id)
    }

    /// Looks at every channel once.
    fn look(&mut self, cx: &Context<'_>) {
        for index in 0..self.parts.len() {
            let part = &mut self.parts[index];
            if part.ended {
                continue;
            }
            let progress = part.channel.advance(&mut part.cursor, cx.waker(), &mut self.found);
            part.ended = progress == Progress::Ended;
            for item in std::mem::take(&mut self.found) {
                match item {
                    Item::Plain(bytes) => self.out.push_back(bytes),
                    Item::Frame(frame) => {
                        self.parts[index].seen = Some(frame.to);
                        if self.composite {
                            self.out.push_back(self.composite_id());
                            self.out.push_back(frame.without_id());
                        } else {
                            self.out.push_back(frame.bytes);
                        }
                    }
                }
            }
        }
        self.ended = self.parts.iter().any(|part| part.ended);
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.out.is_empty() && !this.ended {
            this.look(cx);
        }
        match this.out.pop_front() {
            Some(bytes) => {
                this.counts.frames.fetch_add(1, Ordering::Relaxed);
                this.counts.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None if this.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.out.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.counts.readers.fetch_sub(1, Ordering::Relaxed);
        for part in &self.parts {
            part.channel.leave(&part.cursor);
        }
    }
}
