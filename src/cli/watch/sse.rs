//! Server-Sent Events as bytes become events, by the rules of the HTML standard, "Interpreting an event
//! stream" (<https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>).
//!
//! Written out here because the parser has to tell a `retry` that comes without data and to bound what
//! it holds, however the bytes are cut.

use std::time::Duration;

/// The longest event that is held. A snapshot of 10,000 lines is about a megabyte.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `message` where the server names none.
    pub name: String,
    pub data: String,
}

/// The event, or line of one, is longer than `EVENT_BYTES_MAX` (64 MiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than is held")]
pub struct TooLong;

/// Reads one connection's bytes. Lasts over connections by [`Parser::reconnected`].
#[derive(Debug, Default)]
pub struct Parser {
    /// The line so far.
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_cr: bool,
    /// The first line is over: a byte order mark counts no longer.
    started: bool,
    name: String,
    data: String,
    id: String,
    /// The id of the last event that was whole.
    last_event_id: String,
    retry: Option<Duration>,
}

impl Parser {
    /// Takes bytes, cut anywhere, and adds the events that are whole now.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        for &byte in bytes {
            let ends_line = match byte {
                b'\n' if self.after_cr => {
                    self.after_cr = false;
                    continue;
                }
                b'\n' | b'\r' => true,
                _ => false,
            };
            self.after_cr = byte == b'\r';
            if ends_line {
                self.end_line(events);
            } else {
                self.line.push(byte);
                if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                    return Err(TooLong);
                }
            }
        }
        Ok(())
    }

    /// Forgets what a broken connection left unfinished; the last event id and the retry time stay.
    pub fn reconnected(&mut self) {
        let last_event_id = std::mem::take(&mut self.last_event_id);
        *self = Parser { id: last_event_id.clone(), last_event_id, retry: self.retry, ..Parser::default() };
    }

    /// What to send as `Last-Event-ID`; empty: nothing.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long the server asks to wait before connecting again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        let mut line: &[u8] = &line;
        if !self.started {
            self.started = true;
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.end_event(events);
            return;
        }
        // Cut before decoding: a colon is one byte and no part of another character.
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(0) => return,
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[..0]),
        };
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match field {
            b"event" => self.name = value.into_owned(),
            b"data" => {
                self.data.push_str(&value);
                self.data.push('\n');
            }
            b"id" if !value.contains('\0') => self.id = value.into_owned(),
            b"retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                if let Ok(ms) = value.parse() {
                    self.retry = Some(Duration::from_millis(ms));
                }
            }
            _ => {}
        }
    }

    fn end_event(&mut self, events: &mut Vec<Event>) {
        self.last_event_id.clone_from(&self.id);
        let mut data = std::mem::take(&mut self.data);
        let mut name = std::mem::take(&mut self.name);
        if data.is_empty() {
            return;
        }
        data.pop();
        if name.is_empty() {
            name.push_str("message");
        }
        events.push(Event { name, data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vectors {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        input: String,
        events: Vec<Expected>,
    }

    #[derive(Deserialize)]
    struct Expected {
        r#type: String,
        data: String,
        last_event_id: String,
    }

    /// All events with the last event id as each was whole, the bytes cut into pieces of `piece`.
    fn parse(input: &[u8], piece: usize) -> (Vec<(Event, String)>, Parser) {
        let (mut parser, mut all) = (Parser::default(), Vec::new());
        for bytes in input.chunks(piece) {
            for byte in bytes.chunks(1) {
                let mut events = Vec::new();
                parser.push(byte, &mut events).unwrap();
                let id = parser.last_event_id().to_owned();
                all.extend(events.into_iter().map(|event| (event, id.clone())));
            }
        }
        (all, parser)
    }

    #[test]
    fn the_web_platform_vectors_are_read_as_a_browser_reads_them() {
        let Some(dir) = std::env::var_os("TALLYFLOW_TEST_DATA") else {
            eprintln!("skipped: TALLYFLOW_TEST_DATA names no directory with sse/wpt-eventsource-vectors.json");
            return;
        };
        let path = std::path::Path::new(&dir).join("sse/wpt-eventsource-vectors.json");
        let vectors: Vectors = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(!vectors.cases.is_empty());
        for case in vectors.cases {
            let (read, _) = parse(case.input.as_bytes(), 7);
            let read: Vec<_> = read.iter().map(|(e, id)| (&*e.name, &*e.data, &**id)).collect();
            let expected: Vec<_> = case.events.iter().map(|e| (&*e.r#type, &*e.data, &*e.last_event_id)).collect();
            assert_eq!(read, expected, "{}", case.name);

            // Whole, and in pieces: the same events.
            for piece in [1, 2, 3, case.input.len()] {
                let (mut parser, mut events) = (Parser::default(), Vec::new());
                for bytes in case.input.as_bytes().chunks(piece) {
                    parser.push(bytes, &mut events).unwrap();
                }
                let events: Vec<_> = events.iter().map(|e| (&*e.name, &*e.data)).collect();
                assert_eq!(events, expected.iter().map(|(n, d, _)| (*n, *d)).collect::<Vec<_>>(), "{}", case.name);
            }
        }
    }

    #[test]
    fn a_retry_without_data_is_kept_and_one_that_is_no_number_is_not() {
        let (events, parser) = parse(b"retry: 02000\n\nretry: 1000x\n\nretry: +5\n\n", 4);
        assert!(events.is_empty());
        assert_eq!(parser.retry(), Some(Duration::from_millis(2_000)));
    }

    #[test]
    fn an_id_counts_once_its_event_is_whole_and_outlasts_the_connection() {
        let (_, mut parser) = parse(b"id: 7\ndata: a\n\nid: 8\ndata: b\n", 3);
        assert_eq!(parser.last_event_id(), "7");
        parser.reconnected();
        let mut events = Vec::new();
        parser.push(b"data: c\n\n", &mut events).unwrap();
        assert_eq!(events, [Event { name: "message".into(), data: "c".into() }]);
        assert_eq!(parser.last_event_id(), "7");
    }

    #[test]
    fn an_endless_line_is_given_up_on() {
        let mut parser = Parser::default();
        let megabyte = vec![b'x'; 1 << 20];
        let mut events = Vec::new();
        assert!((0..100).any(|_| parser.push(&megabyte, &mut events) == Err(TooLong)));
    }
}
