//! `watch` into a pipe or a file: one line per change.

use super::board::{Applied, Board};
use super::sse::Event;
use super::stream::News;
use crate::cli::output::{line, plain};
use anyhow::anyhow;
use std::io::Write;
use tallyflow_dataflows::results::{Change, Delta};
use tokio::sync::mpsc::Receiver;

/// Prints changes until Ctrl-C or until the server refuses.
pub async fn run(job: &str, news: &mut Receiver<News>) -> anyhow::Result<()> {
    let mut board = Board::new(job);
    loop {
        let next = tokio::select! {
            next = news.recv() => next,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match next {
            Some(News::Event(event)) => {
                let applied = board.apply(&event).map_err(|e| anyhow!("an event is not understood ({e})"))?;
                if applied == Applied::Changed {
                    print(&event, &board)?;
                }
            }
            Some(News::Lost { why, .. }) => {
                // Nothing is left to be done if stderr is closed.
                let _ = writeln!(std::io::stderr(), "tallyflow: {why}; trying again");
            }
            Some(News::Refused(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

/// `EPOCH SUBJECT GROUP VALUE`, separated by tabs; `-` for a line that is gone.
fn print(event: &Event, board: &Board) -> anyhow::Result<()> {
    match event.name.as_str() {
        "delta" => {
            let delta: Delta = serde_json::from_str(&event.data)?;
            for Change { subject, group, value, .. } in delta.changes {
                let value = value.map_or_else(|| "-".to_owned(), |v| v.to_string());
                line(format_args!("{}\t{}\t{}\t{value}", delta.epoch, plain(&subject), plain(&group.text())))?;
            }
        }
        "snapshot" => {
            let epoch = board.epoch.unwrap_or_default();
            for section in board.sections() {
                for shown in section.lines {
                    line(format_args!(
                        "{epoch}\t{}\t{}\t{}",
                        plain(&section.subject),
                        plain(&shown.group),
                        shown.value
                    ))?;
                }
            }
        }
        _ => {
            // Not a change of a line: it would not fit the columns.
            let error = board.error.as_deref().map(|e| format!(": {}", plain(e))).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "{} is {}{error}", plain(&board.job), plain(&board.state));
        }
    }
    Ok(())
}
