//! Printing: tables for people, JSON for programs, and never a panic when the reader has gone.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::{self, Write};
use tallyflow_dataflows::accounting::Accounting;

/// Stdout can't be written to. Where its reader has seen enough, as in `| head`, that is no failure: a
/// type of its own tells it from every other broken pipe.
#[derive(Debug, thiserror::Error)]
#[error("the answer can't be written to stdout: {0}")]
pub struct OutputError(io::Error);

impl OutputError {
    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints a line. Its error is passed up, where a closed pipe ends the program quietly.
pub fn line(text: impl std::fmt::Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(OutputError)
}

/// Prints a text as it is.
pub fn verbatim(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(OutputError)
}

/// Prints a list as the one document that the API would answer without pages.
pub fn json_list(items: &[Box<RawValue>]) -> Result<(), OutputError> {
    let items: Vec<&str> = items.iter().map(|item| item.get()).collect();
    line(format_args!("{{\"items\":[{}],\"next\":null}}", items.join(",")))
}

/// A table under construction. Columns named in `right` are numbers and stand to the right.
pub struct Rows {
    table: Table,
}

impl Rows {
    pub fn new(header: &[&str], right: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.to_vec());
        for (index, name) in header.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if right.contains(name) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Rows { table }
    }

    pub fn add<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| plain(cell.as_ref()).into_owned()).collect();
        self.table.add_row(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub fn print(&self) -> Result<(), OutputError> {
        line(self.table.trim_fmt())
    }
}

/// A text with its control characters written out: what stands in a record must not steer the terminal.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .flat_map(|c| {
            if c.is_control() { Err(c.escape_default()) } else { Ok(c) }
                .map_or_else(|escaped| escaped.collect::<Vec<_>>(), |c| vec![c])
        })
        .collect()
}

/// The two sums of an accounting, as sentences of numbers.
pub fn accounting_lines(a: &Accounting) -> [String; 2] {
    [
        format!("read {} = rejected {} + irrelevant {} + matched {}", a.read, a.rejected, a.irrelevant, a.matched),
        format!(
            "claims {} = counted {} + superseded {} + duplicate {} + late {} + voided {}",
            a.claims, a.counted, a.superseded, a.duplicate, a.late, a.voided
        ),
    ]
}

/// A share as people read it; empty where there is none.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(plain("grün"), "grün");
    }

    #[test]
    fn numbers_stand_to_the_right_and_nothing_trails() {
        let mut rows = Rows::new(&["group", "value"], &["value"]);
        rows.add(["a", "1"]);
        rows.add(["long one", "1000"]);
        assert_eq!(rows.table.trim_fmt(), "group     value\na             1\nlong one   1000");
    }
}
