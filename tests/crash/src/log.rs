//! The log as it can be read back, held against what was acknowledged.

use crate::feeder::Acknowledged;
use crate::http::Http;
use crate::stranger::Written;
use anyhow::{Context, bail, ensure};
use std::collections::HashMap;

/// A topic's records, by partition.
#[derive(Clone, Debug, Default)]
pub struct Topic {
    pub partitions: Vec<Partition>,
}

/// A partition's records by their offsets, and where it ends. Offsets may have gaps: Kafka puts the ends of
/// transactions among the records, and what was aborted is not shown.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    pub records: Vec<(u64, String)>,
    pub end: u64,
}

impl Partition {
    /// What comes next; it must lie beyond what is there.
    pub fn push(&mut self, offset: u64, record: String) -> anyhow::Result<()> {
        ensure!(offset >= self.end, "after {} came {offset}: {record}", self.end);
        self.records.push((offset, record));
        self.end = offset + 1;
        Ok(())
    }
}

impl Topic {
    pub fn new(partitions: u32) -> Topic {
        Topic { partitions: vec![Partition::default(); partitions as usize] }
    }

    pub fn records(&self) -> usize {
        self.partitions.iter().map(|partition| partition.records.len()).sum()
    }

    pub fn ends(&self) -> Vec<u64> {
        self.partitions.iter().map(|partition| partition.end).collect()
    }

    /// Reads what has come since to the embedded log, by the server that has it.
    pub fn read(&mut self, http: &Http, name: &str) -> anyhow::Result<()> {
        for (number, partition) in self.partitions.iter_mut().enumerate() {
            loop {
                let from = partition.end;
                let path = format!("/api/topics/{name}/records?partition={number}&from={from}&limit=1000");
                let answer = http.get(&path)?;
                ensure!(answer.is_ok(), "reading {path}: {answer:?}");
                let items = answer.json()?;
                let items = items["items"].as_array().context("no items")?;
                if items.is_empty() {
                    break;
                }
                for item in items {
                    let offset = item["offset"].as_u64();
                    ensure!(offset == Some(partition.end), "{name}/{number} goes on with {item}, not {from}");
                    let record = item["value"].as_str().context("a record without a value")?;
                    partition.push(partition.end, record.to_owned())?;
                }
            }
        }
        Ok(())
    }

    /// Whether it is what was acknowledged: each record within the offsets that were told, once and in its
    /// order, and besides only what the stranger has committed.
    pub fn check(&self, name: &str, book: &[Acknowledged], stranger: &Written) -> anyhow::Result<()> {
        // Each record has a number of its own, so that a text stands for one record.
        let mut places: HashMap<&str, (usize, u64)> = HashMap::new();
        for (number, partition) in self.partitions.iter().enumerate() {
            for (offset, record) in &partition.records {
                if let Some((p, before)) = places.insert(record, (number, *offset)) {
                    bail!("{name}/{number}/{offset} is {record}, which is at {name}/{p}/{before} already");
                }
            }
        }
        for append in book {
            check_append(name, append, &mut places)?;
        }
        for line in &stranger.committed {
            ensure!(places.remove(&**line).is_some(), "{line} was committed to {name} and is not there");
        }
        for lines in &stranger.unknown {
            let found = lines.iter().filter(|line| places.remove(&***line).is_some()).count();
            ensure!(found == 0 || found == lines.len(), "{found} of one transaction in {name} are there: {lines:?}");
        }
        if let Some((record, (partition, offset))) = places.into_iter().next() {
            bail!("nobody wrote {name}/{partition}/{offset}: {record}");
        }
        Ok(())
    }
}

/// Whether an append lies where it was told to, and takes it out of what is left to be told.
fn check_append(name: &str, append: &Acknowledged, left: &mut HashMap<&str, (usize, u64)>) -> anyhow::Result<()> {
    let mut found: Vec<Vec<u64>> = vec![Vec::new(); append.ranges.len()];
    for line in &append.lines {
        let place = left.remove(&**line);
        let told = &append.ranges;
        let (partition, offset) =
            place.with_context(|| format!("{line} was acknowledged for {name} at {told:?} and is not there"))?;
        let range = told.iter().position(|(p, from, end)| *p == partition && (*from..*end).contains(&offset));
        let range = range
            .with_context(|| format!("{line} is at {name}/{partition}/{offset}, and was told to be at {told:?}"))?;
        found[range].push(offset);
    }
    for (offsets, (partition, from, end)) in found.iter().zip(&append.ranges) {
        let right =
            offsets.is_sorted() && offsets.first() == Some(from) && offsets.last() == end.checked_sub(1).as_ref();
        ensure!(right, "an append was told to be at {name}/{partition}/{from} to {end}, and is at {offsets:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(records: &[(u64, &str)]) -> Topic {
        let mut topic = Topic::new(1);
        records.iter().for_each(|(offset, record)| topic.partitions[0].push(*offset, (*record).to_owned()).unwrap());
        topic
    }

    #[test]
    fn what_is_missing_twice_elsewhere_or_nobodys_is_named() {
        let of = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        let book = [Acknowledged { lines: of(&["a", "b"]), ranges: vec![(0, 1, 4)] }];
        let stranger = Written { committed: of(&["s"]), unknown: vec![of(&["u", "v"])] };
        let check = |records: &[(u64, &str)]| topic(records).check("t", &book, &stranger).map_err(|e| e.to_string());
        assert_eq!(check(&[(1, "a"), (2, "s"), (3, "b")]), Ok(()));
        assert_eq!(check(&[(1, "a"), (2, "s"), (3, "b"), (5, "u"), (6, "v")]), Ok(()));
        for (records, told) in [
            (&[(1, "a"), (2, "s")][..], "is not there"),
            (&[(1, "a"), (3, "b")], "was committed"),
            (&[(1, "a"), (2, "s"), (3, "b"), (4, "b")], "already"),
            (&[(1, "a"), (2, "s"), (4, "b")], "told to be at"),
            (&[(1, "b"), (2, "s"), (3, "a")], "told to be at"),
            (&[(1, "a"), (2, "b"), (3, "s")], "told to be at"),
            (&[(1, "a"), (2, "s"), (3, "b"), (5, "u")], "of one transaction"),
            (&[(1, "a"), (2, "s"), (3, "b"), (5, "aborted")], "nobody wrote"),
        ] {
            let error = check(records).unwrap_err();
            assert!(error.contains(told), "{told:?} in {error:?}");
        }
    }
}
