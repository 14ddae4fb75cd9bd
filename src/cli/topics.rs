//! The commands on topics.

use super::Outcome;
use super::args::{Format, TopicTailArgs};
use super::client::{Client, read};
use super::output::{Rows, json_list, line, plain};
use reqwest::Method;
use serde::Deserialize;
use std::time::Duration;

/// How many records of each partition `tail` shows without `--from`.
const TAIL_RECORDS: u64 = 10;

/// How many records `tail` asks for at once.
const TAIL_BATCH: u64 = 1_000;

/// How often `tail --follow` looks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// A topic as the API lists it.
#[derive(Deserialize)]
struct Topic {
    name: String,
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Partition {
    partition: u32,
    start_offset: u64,
    end_offset: u64,
    bytes: Option<u64>,
}

/// A record as the API lists it.
#[derive(Deserialize)]
struct Record {
    offset: u64,
    timestamp: String,
    #[serde(default)]
    key: Option<String>,
    /// As text where the bytes are that.
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    value_base64: Option<String>,
}

/// Lists the topics.
pub async fn list(client: &Client, format: Format) -> anyhow::Result<Outcome> {
    let items = client.list(&["topics"], &[], usize::MAX).await?;
    if format == Format::Json {
        json_list(&items)?;
        return Ok(Outcome::Done);
    }
    let header = ["topic", "partition", "start", "end", "records", "bytes"];
    let mut rows = Rows::new(&header, &header[1..]);
    for item in &items {
        let topic: Topic = read(item.get())?;
        for p in &topic.partitions {
            rows.add([
                topic.name.clone(),
                p.partition.to_string(),
                p.start_offset.to_string(),
                p.end_offset.to_string(),
                p.end_offset.saturating_sub(p.start_offset).to_string(),
                p.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            ]);
        }
    }
    if rows.is_empty() {
        line("no topics; create one with `tallyflow topic create NAME --partitions N`")?;
    } else {
        rows.print()?;
    }
    Ok(Outcome::Done)
}

/// Creates a topic.
pub async fn create(client: &Client, name: &str, partitions: u32) -> anyhow::Result<Outcome> {
    let body = serde_json::json!({"name": name, "partitions": partitions});
    client.send(client.request(Method::POST, &["topics"]).json(&body)).await?;
    line(format_args!(
        "created {} with {partitions} {}",
        plain(name),
        if partitions == 1 { "partition" } else { "partitions" }
    ))?;
    Ok(Outcome::Done)
}

/// Prints a topic's records: partition, offset, time, key and value, one record a line.
pub async fn tail(client: &Client, args: &TopicTailArgs) -> anyhow::Result<Outcome> {
    let items = client.list(&["topics"], &[], usize::MAX).await?;
    let topics = items.iter().map(|item| read(item.get())).collect::<anyhow::Result<Vec<Topic>>>()?;
    let Some(topic) = topics.into_iter().find(|topic| topic.name == args.name) else {
        anyhow::bail!("there is no topic {:?}; `tallyflow topics` lists them", args.name);
    };
    // Where each partition's reading stands, and where it ends when nothing is followed: a topic that
    // is written to has always more.
    let mut places = Vec::new();
    for p in topic.partitions.iter().filter(|p| args.partition.is_none_or(|wanted| wanted == p.partition)) {
        let from = args.from.unwrap_or_else(|| p.end_offset.saturating_sub(TAIL_RECORDS)).max(p.start_offset);
        places.push((p.partition, from, if args.follow { u64::MAX } else { p.end_offset }));
    }
    if places.is_empty() {
        let asked = args.partition.unwrap_or_default();
        anyhow::bail!("topic {:?} has no partition {asked}; `tallyflow topics` lists them", args.name);
    }
    loop {
        let mut found = false;
        for (partition, from, end) in &mut places {
            while from < end {
                let limit = TAIL_BATCH.min(*end - *from);
                let query = [("partition", u64::from(*partition)), ("from", *from), ("limit", limit)];
                let request = client.request(Method::GET, &["topics", &args.name, "records"]).query(&query);
                let (_, page): (_, Records) = client.json(request).await?;
                let Some(last) = page.items.last() else { break };
                *from = last.offset + 1;
                found = true;
                for record in &page.items {
                    let value = match (&record.value, &record.value_base64) {
                        (Some(text), _) => text.clone(),
                        (None, Some(base64)) => format!("base64:{base64}"),
                        (None, None) => "(deleted)".to_owned(),
                    };
                    let key = record.key.as_deref().unwrap_or("-");
                    let place = format!("{partition}/{}", record.offset);
                    line(format_args!("{place}\t{}\t{}\t{}", plain(&record.timestamp), plain(key), plain(&value)))?;
                }
            }
        }
        if !args.follow {
            return Ok(Outcome::Done);
        }
        if !found {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

#[derive(Deserialize)]
struct Records {
    items: Vec<Record>,
}
