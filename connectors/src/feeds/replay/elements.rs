//! JSON values out of a stream: the elements of one array, or values one after the other.
//!
//! Only where a value ends is found here: brackets are counted outside strings. White space between
//! tokens is dropped, so that a record is one line.

use super::{RECORD_BYTES_MAX, Records, Trouble};
use std::io::BufRead;

pub(super) struct Elements<R> {
    reader: R,
    /// Where the reader stands.
    line: u64,
    /// Where the last value began.
    value_line: u64,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// Within the array, before its first element.
    First,
    /// Within the array, behind an element.
    Behind,
    /// Between values that stand by themselves.
    Between,
    End,
}

impl<R: BufRead + Send> Elements<R> {
    pub(super) fn new(reader: R) -> Self {
        Elements { reader, line: 1, value_line: 1, place: Place::Start }
    }

    /// The next byte, not taken.
    fn peek(&mut self) -> Result<Option<u8>, Trouble> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn take(&mut self, byte: u8) {
        self.line += (byte == b'\n') as u64;
        self.reader.consume(1);
    }

    /// The next byte that is no white space, not taken.
    fn peek_token(&mut self) -> Result<Option<u8>, Trouble> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.take(byte);
        }
        Ok(None)
    }

    fn broken<T>(&mut self, what: &str) -> Result<T, Trouble> {
        self.value_line = self.line;
        Err(Trouble::Broken(what.to_owned()))
    }

    /// Takes what stands between values; false where no other follows.
    fn separator(&mut self) -> Result<bool, Trouble> {
        let token = self.peek_token()?;
        match (self.place, token) {
            (Place::Start, Some(b'[')) => {
                self.take(b'[');
                self.place = Place::First;
                self.separator()
            }
            (Place::Start, Some(_)) => {
                self.place = Place::Between;
                Ok(true)
            }
            (Place::First | Place::Behind, Some(b']')) => {
                self.take(b']');
                self.place = Place::End;
                self.separator()
            }
            (Place::Behind, Some(b',')) => {
                self.take(b',');
                match self.peek_token()? {
                    Some(b']' | b',') => self.broken("a value is missing behind the comma"),
                    Some(_) => Ok(true),
                    None => self.broken("the array is not closed; the file was cut off"),
                }
            }
            (Place::First, Some(_)) => Ok(true),
            (Place::First | Place::Behind, None) => self.broken("the array is not closed; the file was cut off"),
            (Place::Behind, Some(_)) => self.broken("a comma is missing between two values"),
            (Place::Between, Some(_)) => Ok(true),
            (Place::End, Some(_)) => self.broken("something follows the array; put one array into a file"),
            (Place::Start | Place::Between | Place::End, None) => Ok(false),
        }
    }

    /// Takes one value.
    fn value(&mut self, value: &mut Vec<u8>) -> Result<(), Trouble> {
        let mut depth = 0u32;
        let mut string = false;
        let mut escaped = false;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return match depth > 0 || string {
                    true => self.broken("a value is not closed; the file was cut off"),
                    false => Ok(()),
                };
            }
            let mut taken = 0;
            let mut done = false;
            for &byte in buffer {
                if string {
                    string = escaped || byte != b'"';
                    escaped = !escaped && byte == b'\\';
                    done = !string && depth == 0;
                    // A break within a string is no JSON, and would split the record.
                    if byte == b'\n' {
                        return self.broken("a line break within a string");
                    }
                } else {
                    match byte {
                        // A number or word by itself ends before these.
                        b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => {
                            self.reader.consume(taken);
                            return if value.is_empty() { self.broken("expected a value") } else { Ok(()) };
                        }
                        b' ' | b'\t' | b'\r' | b'\n' => {
                            self.line += (byte == b'\n') as u64;
                            taken += 1;
                            continue;
                        }
                        b'"' => string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => {
                            depth -= 1;
                            done = depth == 0;
                        }
                        _ => {}
                    }
                }
                value.push(byte);
                taken += 1;
                if done {
                    break;
                }
            }
            self.reader.consume(taken);
            if value.len() > RECORD_BYTES_MAX {
                return Err(Trouble::TooLong);
            }
            if done {
                return Ok(());
            }
        }
    }
}

impl<R: BufRead + Send> Records for Elements<R> {
    fn next(&mut self, value: &mut Vec<u8>) -> Result<bool, Trouble> {
        if !self.separator()? {
            return Ok(false);
        }
        self.value_line = self.line;
        self.value(value)?;
        if self.place == Place::First {
            self.place = Place::Behind;
        }
        Ok(true)
    }

    fn record_line(&self) -> u64 {
        self.value_line
    }
}
