//! The log as it can be read back, held against what was acknowledged.

use crate::feeder::Acknowledged;
use crate::http::Http;
use anyhow::{Context, bail, ensure};

/// A topic's records, by partition in the order of their offsets, with the log's time of each.
#[derive(Clone, Debug, Default)]
pub struct Topic {
    pub partitions: Vec<Vec<String>>,
}

impl Topic {
    pub fn new(partitions: u32) -> Topic {
        Topic { partitions: vec![Vec::new(); partitions as usize] }
    }

    pub fn records(&self) -> usize {
        self.partitions.iter().map(Vec::len).sum()
    }

    /// Reads what has come since.
    pub fn read(&mut self, http: &Http, name: &str) -> anyhow::Result<()> {
        for (partition, records) in self.partitions.iter_mut().enumerate() {
            loop {
                let from = records.len();
                let path = format!("/api/topics/{name}/records?partition={partition}&from={from}&limit=1000");
                let answer = http.get(&path)?;
                ensure!(answer.is_ok(), "reading {path}: {answer:?}");
                let items = answer.json()?;
                let items = items["items"].as_array().context("no items")?;
                if items.is_empty() {
                    break;
                }
                for item in items {
                    let offset = item["offset"].as_u64();
                    ensure!(offset == Some(records.len() as u64), "{name}/{partition} goes on with {item}, not {from}");
                    records.push(item["value"].as_str().context("a record without a value")?.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Whether it is what was acknowledged: each record at an offset that was told, once, and nothing else.
    pub fn check(&self, name: &str, book: &[Acknowledged]) -> anyhow::Result<()> {
        let mut told: Vec<Vec<bool>> = self.partitions.iter().map(|records| vec![false; records.len()]).collect();
        for append in book {
            let mut lines = append.lines.iter().collect::<Vec<_>>();
            for (partition, first, end) in &append.ranges {
                // Within a partition, the lines are in their order.
                let mut after = 0;
                for offset in *first as usize..*end as usize {
                    let record = self.partitions.get(*partition).and_then(|records| records.get(offset));
                    let record = record
                        .with_context(|| format!("{name}/{partition}/{offset} was acknowledged and is not there"))?;
                    let place = lines[after..].iter().position(|line| *line == record);
                    let Some(place) = place else {
                        bail!("{name}/{partition}/{offset} is {record}, and was told to be one of {:?}", append.lines)
                    };
                    lines.remove(after + place);
                    after += place;
                    let told = &mut told[*partition][offset];
                    ensure!(!std::mem::replace(told, true), "{name}/{partition}/{offset} was told to two appends");
                }
            }
            ensure!(
                lines.is_empty(),
                "{lines:?} were acknowledged for {name} with {:?} and have no offset",
                append.ranges
            );
        }
        for (partition, told) in told.iter().enumerate() {
            if let Some(offset) = told.iter().position(|told| !told) {
                bail!("nobody wrote {name}/{partition}/{offset}: {}", self.partitions[partition][offset]);
            }
        }
        Ok(())
    }
}
