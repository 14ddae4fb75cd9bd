//! NDJSON: each line that is not empty is a record.

use super::{RECORD_BYTES_MAX, Records, Trouble};
use std::io::{BufRead, Read};

pub(super) struct Lines<R> {
    reader: R,
    line: u64,
}

impl<R: BufRead + Send> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Lines { reader, line: 0 }
    }
}

impl<R: BufRead + Send> Records for Lines<R> {
    fn next(&mut self, value: &mut Vec<u8>) -> Result<bool, Trouble> {
        loop {
            value.clear();
            self.line += 1;
            // The line break, "\r\n" at most, does not count.
            let taken = (&mut self.reader).take(RECORD_BYTES_MAX as u64 + 2).read_until(b'\n', value)?;
            if taken == 0 {
                return Ok(false);
            }
            if value.last() == Some(&b'\n') {
                value.pop();
            }
            if value.last() == Some(&b'\r') {
                value.pop();
            }
            if value.len() > RECORD_BYTES_MAX {
                return Err(Trouble::TooLong);
            }
            if !value.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn record_line(&self) -> u64 {
        self.line
    }
}
