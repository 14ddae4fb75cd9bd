//! CSV and TSV with a header: a row becomes a JSON object in the order of the columns.
//!
//! A field that reads as a JSON number is one, digit for digit, so that a job can sum it; every other is a
//! string. `007` and `1,5` so stay texts. As a part of a subject, a group or an entity either reads alike.

use super::{RECORD_BYTES_MAX, Records, Trouble};
use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the CSV reader may have read ahead.
const AHEAD_BYTES: usize = 64 << 10;

pub(super) struct Rows<R> {
    reader: Reader<Metered<R>>,
    allowance: Arc<AtomicUsize>,
    /// The columns' names as JSON strings, each with its colon.
    names: Vec<Vec<u8>>,
    row: ByteRecord,
    line: u64,
}

impl<R: BufRead + Send> Rows<R> {
    pub(super) fn new(reader: R, delimiter: u8) -> Self {
        let allowance = Arc::new(AtomicUsize::new(0));
        let metered = Metered { reader, allowance: Arc::clone(&allowance) };
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .buffer_capacity(AHEAD_BYTES)
            .from_reader(metered);
        Rows { reader, allowance, names: Vec::new(), row: ByteRecord::new(), line: 0 }
    }

    /// Reads a row; false at the end.
    fn read(&mut self) -> Result<bool, Trouble> {
        // A quote that is never closed makes the rest of the file one row.
        self.allowance.store(RECORD_BYTES_MAX + AHEAD_BYTES, Ordering::Relaxed);
        self.line = self.reader.position().line();
        let result = self.reader.read_byte_record(&mut self.row);
        if let Some(position) = self.row.position() {
            self.line = position.line();
        }
        match result {
            Ok(read) => Ok(read),
            Err(e) => Err(match e.into_kind() {
                ErrorKind::Io(_) if self.allowance.load(Ordering::Relaxed) == 0 => Trouble::TooLong,
                ErrorKind::Io(cause) => Trouble::Io(cause),
                ErrorKind::UnequalLengths { expected_len, len, pos } => {
                    self.line = pos.map_or(self.line, |pos| pos.line());
                    Trouble::Broken(format!(
                        "the row has {len} fields, the header {expected_len}; mend the row, or its quotes"
                    ))
                }
                other => Trouble::Broken(format!("no CSV: {other:?}")),
            }),
        }
    }

    fn header(&mut self) -> Result<bool, Trouble> {
        if !self.read()? {
            return Ok(false);
        }
        for (i, name) in self.row.iter().enumerate() {
            if self.row.iter().take(i).any(|other| other == name) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(Trouble::Broken(format!("the header names the column {name:?} twice; rename one")));
            }
            let mut json = Vec::with_capacity(name.len() + 3);
            write_string(name, &mut json);
            json.push(b':');
            self.names.push(json);
        }
        Ok(true)
    }
}

impl<R: BufRead + Send> Records for Rows<R> {
    fn next(&mut self, value: &mut Vec<u8>) -> Result<bool, Trouble> {
        if self.names.is_empty() && !self.header()? || !self.read()? {
            return Ok(false);
        }
        value.push(b'{');
        for (i, (name, field)) in self.names.iter().zip(&self.row).enumerate() {
            if i > 0 {
                value.push(b',');
            }
            value.extend_from_slice(name);
            if is_number(field) {
                value.extend_from_slice(field);
            } else {
                write_string(field, value);
            }
        }
        value.push(b'}');
        if value.len() > RECORD_BYTES_MAX {
            return Err(Trouble::TooLong);
        }
        Ok(true)
    }

    fn record_line(&self) -> u64 {
        self.line
    }
}

/// Whether it is a number by JSON's grammar (RFC 8259, section 6).
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let n = text.iter().take_while(|b| b.is_ascii_digit()).count();
        (n > 0).then(|| &text[n..])
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let Some(mut rest) = text.strip_prefix(b"0").or_else(|| digits(text)) else { return false };
    if let Some(fraction) = rest.strip_prefix(b".") {
        let Some(after) = digits(fraction) else { return false };
        rest = after;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let Some(after) = digits(exponent) else { return false };
        rest = after;
    }
    rest.is_empty()
}

/// Writes a JSON string. Bytes that are no UTF-8 stay: the record is rejected where it is decoded.
fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Fails once its allowance is used up.
struct Metered<R> {
    reader: R,
    allowance: Arc<AtomicUsize>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        let left = self.allowance.load(Ordering::Relaxed).saturating_sub(n);
        self.allowance.store(left, Ordering::Relaxed);
        if n > 0 && left == 0 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the row is too long"));
        }
        Ok(n)
    }
}
