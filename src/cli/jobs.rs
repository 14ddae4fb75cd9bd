//! The commands on jobs.

use super::Outcome;
use super::args::{Format, Mode, SubmitArgs};
use super::client::{Client, RequestError, read};
use super::output::{Rows, accounting_lines, json_list, line, plain};
use super::replace;
use super::{voids, why};
use crate::node::job::{CheckpointStatus, JobStatus};
use crate::node::{Difference, Recounted};
use anyhow::{Context, anyhow};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;
use tallyflow_dataflows::number::Decimal;

/// The largest file that is read. The server has bounds of its own.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Starts a job from its file, or replaces one.
pub async fn submit(client: &Client, args: &SubmitArgs) -> anyhow::Result<Outcome> {
    let file = args.file.as_path();
    let (name, text) = read_text(file, "the job file")?;
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let from_stdin = file == Path::new("-");
    let is_json = if from_stdin { text.trim_start().starts_with('{') } else { extension.eq_ignore_ascii_case("json") };
    let mut request = client
        .request(Method::POST, &["jobs"])
        .header("content-type", if is_json { "application/json" } else { "application/toml" })
        .body(text);
    if args.replace {
        request = request.query(&[("replace", "true")]);
    }
    if args.take_over {
        request = request.query(&[("take_over", "true")]);
    }
    let sent = async { Ok(client.send(request).await?) }.await;
    let answer = sent.map_err(|error| with_faults(error, "the job was not started", &name))?;
    let is_new = answer.status() == StatusCode::CREATED;
    let text = answer.text().await.map_err(|e| client.failed(&e))?;
    let job: JobStatus = read(&text)?;
    if is_new {
        match args.format {
            Format::Json => line(text)?,
            Format::Table => line(format_args!("submitted {}; see `tallyflow watch {}`", job.name, job.name))?,
        }
        return Ok(Outcome::Done);
    }
    let (text, job) = replace::wait(client, text, job, &replace::REPLACEMENT).await?;
    match (args.format, job.epoch) {
        (Format::Json, _) => line(text)?,
        (Format::Table, Some(epoch)) => line(format_args!("replaced {}, from epoch {epoch} on", job.name))?,
        (Format::Table, None) => line(format_args!("replaced {}", job.name))?,
    }
    Ok(Outcome::Done)
}

/// Prints every fault of what was refused, and answers the sentence that sums them up.
pub fn with_faults(error: anyhow::Error, failed: &str, name: &str) -> anyhow::Error {
    match error.downcast_ref::<RequestError>() {
        Some(RequestError::Refused { problem, .. }) if !problem.faults.is_empty() => {
            for fault in &problem.faults {
                eprintln_quietly(&format!("{name}: {}", plain(&fault.to_string())));
            }
            let (count, them) = match problem.faults.len() {
                1 => ("1 fault".to_owned(), "it"),
                count => (format!("{count} faults"), "them"),
            };
            anyhow!("{failed}: {name} has {count}; mend {them} and submit again")
        }
        _ => error,
    }
}

/// The text of a file, or of stdin for `-`, and its name; `what` it is, for the error.
pub fn read_text(file: &Path, what: &str) -> anyhow::Result<(String, String)> {
    let from_stdin = file == Path::new("-");
    let name = if from_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        let source: Box<dyn Read> =
            if from_stdin { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(file)?) };
        source.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| format!("{what} {name} can't be read"))?;
    Ok((name, text))
}

fn eprintln_quietly(text: &str) {
    use std::io::Write;
    // Nothing is left to be done if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Lists the jobs.
pub async fn list(client: &Client, format: Format) -> anyhow::Result<Outcome> {
    let items = client.list(&["jobs"], &[], usize::MAX).await?;
    if format == Format::Json {
        json_list(&items)?;
        return Ok(Outcome::Done);
    }
    let header = ["job", "state", "epoch", "read", "counted", "lag", "checkpoint", "error or wait"];
    let mut rows = Rows::new(&header, &["epoch", "read", "counted", "lag"]);
    for item in &items {
        let job: JobStatus = read(item.get())?;
        rows.add([
            job.name,
            job.state.name().to_owned(),
            optional(job.epoch),
            job.accounting.read.to_string(),
            job.accounting.counted.to_string(),
            job.inputs.iter().map(|i| i.lag).sum::<u64>().to_string(),
            job.checkpoint.map_or_else(|| "-".to_owned(), |kept| format!("{} s old", age_s(&kept))),
            job.error.or_else(|| job.waits.into_iter().next().map(|wait| wait.why)).unwrap_or_default(),
        ]);
    }
    if rows.is_empty() {
        line("no jobs; start one with `tallyflow submit FILE.toml`")?;
    } else {
        rows.print()?;
    }
    Ok(Outcome::Done)
}

/// How long ago a checkpoint was written, in s.
fn age_s(kept: &CheckpointStatus) -> i64 {
    jiff::Timestamp::now().duration_since(kept.at).as_secs().max(0)
}

/// A record that was the newest of its class.
#[derive(Deserialize)]
struct NewestRecord {
    class: String,
    topic: String,
    partition: u32,
    offset: u64,
    #[serde(default)]
    reason: Option<String>,
}

/// Shows one job.
pub async fn show(client: &Client, name: &str, format: Format) -> anyhow::Result<Outcome> {
    let (text, job): (_, JobStatus) = client.json(client.request(Method::GET, &["jobs", name])).await?;
    if format == Format::Json {
        line(text)?;
        return Ok(Outcome::Done);
    }
    let newest = client.newest(name).await?;
    line(format_args!("job       {}", plain(&job.name)))?;
    line(format_args!("dataflow  {}", plain(&job.dataflow)))?;
    line(format_args!("state     {}", job.state.name()))?;
    if let Some(error) = &job.error {
        line(format_args!("error     {}", plain(error)))?;
    }
    for wait in &job.waits {
        line(format_args!("waits     for {}/{}: {}", plain(&wait.topic), wait.partition, plain(&wait.why)))?;
    }
    line(format_args!("workers   {}", job.workers))?;
    line(format_args!("epoch     {}", optional(job.epoch)))?;
    if let Some(replacing) = &job.replacing {
        match &replacing.error {
            Some(error) => line(format_args!("not replaced: {}", plain(error)))?,
            None => line(format_args!("replacing {} of {} records", replacing.records, replacing.of))?,
        }
    }
    if let Some(kept) = &job.checkpoint {
        let age = age_s(kept);
        line(format_args!(
            "checkpoint at epoch {}, {age} s old: {} bytes added in {} ms, {} bytes in all",
            kept.epoch, kept.bytes, kept.ms, kept.held_bytes
        ))?;
        if let Some(error) = &kept.error {
            line(format_args!("checkpoint can't be written: {}", plain(error)))?;
        }
    }
    if let Some(refill) = job.refill {
        line(format_args!("refill    {} of {} records", refill.records, refill.of))?;
    }

    let mut rows = Rows::new(&["input", "partition", "next", "end", "lag"], &["partition", "next", "end", "lag"]);
    for input in &job.inputs {
        rows.add([
            input.topic.clone(),
            input.partition.to_string(),
            input.next_offset.to_string(),
            input.end_offset.to_string(),
            input.lag.to_string(),
        ]);
    }
    line("")?;
    rows.print()?;
    line("")?;
    for sums in accounting_lines(&job.accounting) {
        line(sums)?;
    }
    if !job.sinks.is_empty() {
        let mut rows = Rows::new(&["sink", "path", "epoch", "error"], &["epoch"]);
        for sink in job.sinks {
            rows.add([sink.kind, sink.path, optional(sink.epoch), sink.error.unwrap_or_default()]);
        }
        line("")?;
        rows.print()?;
    }
    voids::print(client, name).await?;
    if let Some(history) = &job.history {
        let since = history.oldest.as_deref().unwrap_or("-");
        line(format_args!("\nhistory   {} points since {}, {} bytes", history.points, plain(since), history.bytes))?;
        if let Some(error) = &history.error {
            line(format_args!("behind    {}", plain(error)))?;
        }
    }
    if !newest.is_empty() {
        let mut rows = Rows::new(&["newest", "topic", "partition", "offset", "reason"], &["partition", "offset"]);
        for item in &newest {
            let record: NewestRecord = read(item.get())?;
            rows.add([
                record.class,
                record.topic,
                record.partition.to_string(),
                record.offset.to_string(),
                record.reason.unwrap_or_default(),
            ]);
        }
        line("")?;
        rows.print()?;
    }
    Ok(Outcome::Done)
}

/// Pauses or resumes; `what` is the verb.
pub async fn pause_or_resume(client: &Client, name: &str, what: &str) -> anyhow::Result<Outcome> {
    let (_, job): (_, JobStatus) = client.json(client.request(Method::POST, &["jobs", name, what])).await?;
    line(format_args!("{} is {}", plain(&job.name), job.state.name()))?;
    Ok(Outcome::Done)
}

/// Ends a job.
pub async fn cancel(client: &Client, name: &str, mode: Mode) -> anyhow::Result<Outcome> {
    let mode = match mode {
        Mode::Drain => "drain",
        Mode::Checkpoint => "checkpoint",
        Mode::Now => "now",
    };
    let request = client.request(Method::DELETE, &["jobs", name]).query(&[("mode", mode)]);
    client.send(request).await?;
    let on = if mode == "checkpoint" { "; `restart` goes on from its checkpoint" } else { "" };
    line(format_args!("{} is cancelled; its last results stay readable{on}", plain(name)))?;
    Ok(Outcome::Done)
}

/// Recounts a job and compares.
pub async fn recount(client: &Client, name: &str, format: Format) -> anyhow::Result<Outcome> {
    let work = client.json(client.request(Method::POST, &["jobs", name, "recount"]));
    let (text, answer): (_, Recounted) = why::with_progress(client, name, format, work).await?;
    match format {
        Format::Json => line(text)?,
        Format::Table if answer.equal => line(format_args!(
            "recount equal: {} over {} records at epoch {}, in {} ms",
            plain(&answer.job),
            answer.records,
            answer.epoch,
            answer.ms
        ))?,
        Format::Table => {
            let mut rows = Rows::new(&["subject", "group", "tally", "recount"], &["tally", "recount"]);
            for d in &answer.differences {
                rows.add([d.subject.clone(), d.group.text(), values(&d.tally), values(&d.recount)]);
            }
            rows.print()?;
        }
    }
    if let Some(base) = answer.base.as_ref().filter(|_| format == Format::Table) {
        line(format_args!(
            "it went on from what the recount of {} had found equal, at epoch {}: retention has taken what was before",
            plain(&base.at),
            base.epoch
        ))?;
    }
    if answer.redecodable > 0 && format == Format::Table {
        line(format_args!(
            "{} of its dead letters would be taken now; `tallyflow dead-letters {} --redrive` counts them",
            answer.redecodable,
            plain(&answer.job)
        ))?;
    }
    if answer.equal {
        return Ok(Outcome::Done);
    }
    let first = answer.differences.first().map(first_difference);
    let first = first.ok_or_else(|| anyhow!("the recount of {name} differs and names no line; report this"))?;
    eprintln_quietly(&format!(
        "tallyflow: the recount of {} at epoch {} differs: {first}",
        plain(&answer.job),
        answer.epoch
    ));
    Ok(Outcome::Differs)
}

/// A line that differs, in words.
pub fn first_difference(d: &Difference) -> String {
    let (subject, group) = (plain(&d.subject).into_owned(), plain(&d.group.text()).into_owned());
    format!("subject {subject:?}, group {group:?} has tally {} and recount {}", values(&d.tally), values(&d.recount))
}

fn values(values: &Option<Vec<Decimal>>) -> String {
    values
        .as_ref()
        .map_or_else(|| "none".to_owned(), |all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

/// At most so many characters, with an ellipsis where more were there.
pub fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

pub(super) fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}
