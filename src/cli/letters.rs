//! The records that a job could not use.

use super::Outcome;
use super::args::{DeadLettersArgs, Format};
use super::client::{Client, read};
use super::jobs::shortened;
use super::output::{Rows, json_list, line, plain};
use super::replace;
use reqwest::Method;
use serde::Deserialize;

/// A dead letter; `value` is the record's bytes as text where they are that, else in `value_base64`.
#[derive(Deserialize)]
struct DeadLetterItem {
    topic: String,
    partition: u32,
    offset: u64,
    timestamp: String,
    reason: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    value_base64: Option<String>,
}

/// How much of a dead letter's bytes a table shows.
const SHOWN_CHARS: usize = 80;

/// Prints a job's dead letters, or redrives them.
pub async fn run(client: &Client, args: &DeadLettersArgs) -> anyhow::Result<Outcome> {
    if args.redrive { redrive(client, args).await } else { list(client, args).await }
}

async fn redrive(client: &Client, args: &DeadLettersArgs) -> anyhow::Result<Outcome> {
    let count = async || {
        Ok::<_, anyhow::Error>(client.list(&["jobs", &args.name, "dead-letters"], &[], usize::MAX).await?.len())
    };
    let before = count().await?;
    let request = client.request(Method::POST, &["jobs", &args.name, "dead-letters", "redrive"]);
    let (text, job) = client.json(request).await?;
    let (text, _) = replace::wait(client, text, job, &replace::REDRIVE).await?;
    let left = count().await?;
    match args.format {
        Format::Json => line(text)?,
        Format::Table => line(format_args!("redrove {}: of {before} dead letters {left} are left", plain(&args.name)))?,
    }
    Ok(Outcome::Done)
}

async fn list(client: &Client, args: &DeadLettersArgs) -> anyhow::Result<Outcome> {
    let items = client.list(&["jobs", &args.name, "dead-letters"], &[], args.limit).await?;
    if args.format == Format::Json {
        json_list(&items)?;
        return Ok(Outcome::Done);
    }
    let mut rows = Rows::new(&["time", "topic", "partition", "offset", "reason", "record"], &["partition", "offset"]);
    for item in &items {
        let letter: DeadLetterItem = read(item.get())?;
        let record = letter.value.or(letter.value_base64.map(|b| format!("base64:{b}"))).unwrap_or_default();
        rows.add([
            letter.timestamp,
            letter.topic,
            letter.partition.to_string(),
            letter.offset.to_string(),
            letter.reason,
            shortened(&record, SHOWN_CHARS),
        ]);
    }
    if rows.is_empty() {
        line(format_args!("{} has no dead letters", plain(&args.name)))?;
    } else {
        rows.print()?;
    }
    Ok(Outcome::Done)
}
