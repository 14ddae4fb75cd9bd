//! The numbers as whoever looks holds them, and what must always be so of them.

use crate::fold::lines::{Key, Lines, digest, parse_hundredths, quoted};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// A whole answer: lines with what they stand for.
#[derive(Clone, Debug)]
pub struct Seen {
    pub epoch: u64,
    /// By topic and partition.
    pub offsets: BTreeMap<String, Vec<u64>>,
    pub lines: Lines,
    pub accounting: BTreeMap<String, u64>,
    /// Who saw it.
    pub by: &'static str,
}

#[derive(Deserialize)]
struct Tallies<'a> {
    epoch: u64,
    offsets: BTreeMap<String, Vec<u64>>,
    digest: String,
    accounting: BTreeMap<String, u64>,
    #[serde(borrow)]
    subjects: Vec<Subject<'a>>,
}

#[derive(Deserialize)]
struct Subject<'a> {
    subject: String,
    #[serde(borrow)]
    total: Option<&'a RawValue>,
    #[serde(borrow)]
    tallies: Vec<Line<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    group: &'a RawValue,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(borrow, default)]
    aggregates: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    epoch: u64,
    accounting: BTreeMap<String, u64>,
    #[serde(borrow)]
    changes: Vec<Change<'a>>,
    #[serde(borrow)]
    totals: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct Change<'a> {
    subject: String,
    #[serde(borrow)]
    group: &'a RawValue,
    // A null must be seen as one.
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    was: Option<&'a RawValue>,
    #[serde(borrow, default)]
    aggregates: Option<&'a RawValue>,
}

/// Two sums that must come out even; how many records were read.
fn check_even(accounting: &BTreeMap<String, u64>) -> anyhow::Result<u64> {
    let of = |name: &str| accounting.get(name).copied().with_context(|| format!("{accounting:?} has no {name}"));
    let read = of("read")?;
    ensure!(read == of("rejected")? + of("irrelevant")? + of("matched")?, "{accounting:?} does not come out even");
    let claims = of("counted")? + of("superseded")? + of("duplicate")? + of("late")? + of("voided")?;
    ensure!(of("claims")? == claims, "{accounting:?} does not come out even");
    Ok(read)
}

/// A group as its canonical text: JSON without spaces, with as few escapes as there may be.
fn group(text: &RawValue) -> anyhow::Result<String> {
    Ok(serde_json::from_str::<Value>(text.get())?.to_string())
}

/// The values of a line, in the order of the job's aggregates.
fn values(first: &RawValue, aggregates: Option<&RawValue>) -> anyhow::Result<Vec<String>> {
    let first = first.get().to_owned();
    let Some(aggregates) = aggregates else { return Ok(vec![first]) };
    // The order of an object's members is that of its text.
    let inner = aggregates.get().trim_matches(['{', '}']);
    let values: Option<Vec<String>> =
        inner.split(',').map(|member| Some(member.rsplit_once(':')?.1.to_owned())).collect();
    let values = values.with_context(|| format!("aggregates {}", aggregates.get()))?;
    ensure!(values.first() == Some(&first), "the value {first} is not the first of {}", aggregates.get());
    Ok(values)
}

/// Reads an answer of `tallies`, or the event `snapshot`, and sees that it holds in itself.
pub fn parse(text: &str, by: &'static str) -> anyhow::Result<Seen> {
    let tallies: Tallies = serde_json::from_str(text).with_context(|| format!("the answer {text}"))?;
    check_even(&tallies.accounting)?;
    let mut lines = Lines::new();
    for subject in &tallies.subjects {
        for line in &subject.tallies {
            let key = (quoted(&subject.subject), group(line.group)?);
            let before = lines.insert(key.clone(), values(line.value, line.aggregates)?);
            ensure!(before.is_none(), "the line {key:?} stands twice in epoch {}", tallies.epoch);
        }
    }
    let seen = Seen { epoch: tallies.epoch, offsets: tallies.offsets, lines, accounting: tallies.accounting, by };
    for subject in tallies.subjects.iter().filter(|subject| !subject.tallies.is_empty()) {
        check_total(&seen.lines, &subject.subject, subject.total.map(RawValue::get))?;
    }
    let own = digest(&seen.lines);
    ensure!(own == tallies.digest, "epoch {} says {} and its lines make {own}", seen.epoch, tallies.digest);
    Ok(seen)
}

/// Whether a subject's lines make its total.
fn check_total(lines: &Lines, subject: &str, total: Option<&str>) -> anyhow::Result<()> {
    let name = quoted(subject);
    let of = lines.iter().filter(|((of, _), _)| *of == name);
    let sum: Option<i128> = of.map(|(_, values)| parse_hundredths(&values[0])).sum();
    let total = total.and_then(parse_hundredths);
    ensure!(sum == total, "the lines of {subject:?} make {sum:?}, and the total is {total:?}, in hundredths");
    // A transfer gives to one account what it takes from another.
    ensure!(subject != "bank" || sum == Some(0), "the bank holds {sum:?} hundredths, not 0");
    Ok(())
}

/// A reader of a stream.
#[derive(Debug, Default)]
pub struct Board {
    /// The last id; `None` before the first.
    pub id: Option<u64>,
    lines: Lines,
    totals: BTreeMap<String, String>,
    read: u64,
    /// Whether nothing is held: at first, and after a gap.
    empty: bool,
    pub deltas: u64,
    pub snapshots: u64,
    pub gaps: u64,
}

impl Board {
    pub fn new() -> Board {
        Board { empty: true, ..Board::default() }
    }

    /// Follows an event. What it shows now, if that changed, by epoch.
    pub fn follow(&mut self, kind: &str, id: Option<&str>, data: &str) -> anyhow::Result<Option<Seen>> {
        let (epoch, seen) = match kind {
            "snapshot" => {
                ensure!(self.empty, "a snapshot came unasked for, without a gap before it, after {:?}", self.id);
                let seen = parse(data, "a reader's snapshot")?;
                let tallies: Tallies = serde_json::from_str(data)?;
                self.read_on(&seen.accounting)?;
                self.totals.clear();
                for subject in tallies.subjects {
                    let total = subject.total.map(|total| (subject.subject, total.get().to_owned()));
                    self.totals.extend(total);
                }
                self.lines.clone_from(&seen.lines);
                (self.empty, self.snapshots) = (false, self.snapshots + 1);
                (seen.epoch, Some(seen))
            }
            "delta" => {
                ensure!(!self.empty, "a delta came to one who holds nothing: {data}");
                let delta: Delta = serde_json::from_str(data).with_context(|| format!("the delta {data}"))?;
                self.read_on(&delta.accounting)?;
                let mut touched = BTreeSet::new();
                for change in &delta.changes {
                    let key: Key = (quoted(&change.subject), group(change.group)?);
                    let held = match change.value {
                        Some(value) => self.lines.insert(key.clone(), values(value, change.aggregates)?),
                        None => self.lines.remove(&key),
                    };
                    let held = held.map(|values| values[0].clone());
                    let was = change.was.map(|was| was.get().to_owned());
                    ensure!(held == was, "{key:?} was held as {held:?}, and the delta of {} says {was:?}", delta.epoch);
                    touched.insert(change.subject.as_str());
                }
                self.totals.extend(delta.totals.iter().map(|(name, total)| (name.clone(), total.get().to_owned())));
                for subject in touched {
                    if self.lines.keys().any(|(of, _)| *of == quoted(subject)) {
                        check_total(&self.lines, subject, self.totals.get(subject).map(String::as_str))?;
                    }
                }
                self.deltas += 1;
                (delta.epoch, None)
            }
            "gap" => {
                (self.empty, self.gaps) = (true, self.gaps + 1);
                return Ok(None);
            }
            "status" => return Ok(None),
            other => bail!("an event {other:?}: {data}"),
        };
        ensure!(id == Some(&*epoch.to_string()), "the event of epoch {epoch} has the id {id:?}");
        ensure!(self.id.is_none_or(|before| before < epoch), "after the id {:?} came {epoch}", self.id);
        self.id = Some(epoch);
        Ok(Some(seen.unwrap_or_else(|| Seen {
            epoch,
            offsets: BTreeMap::new(),
            lines: self.lines.clone(),
            accounting: BTreeMap::new(),
            by: "a reader's delta",
        })))
    }

    fn read_on(&mut self, accounting: &BTreeMap<String, u64>) -> anyhow::Result<()> {
        let read = check_even(accounting)?;
        ensure!(read >= self.read, "it fell back from {} records to {read}", self.read);
        self.read = read;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAPSHOT: &str = r#"{"job":"bank","epoch":7,"at":"2026-11-21T10:00:00Z","offsets":{"transfers":[1]},
        "digest":"DIGEST","accounting":{"read":1,"rejected":0,"irrelevant":0,"matched":1,"claims":1,"counted":1,
        "superseded":0,"duplicate":0,"late":0,"voided":0},"subjects":[{"subject":"bank","total":0,
        "tallies":[{"group":"b","value":5},{"group":"a","value":-5}]}]}"#;

    fn delta(epoch: u64, was: i64, total: i64) -> String {
        format!(
            r#"{{"job":"bank","epoch":{epoch},"accounting":{{"read":2,"rejected":0,"irrelevant":0,"matched":2,"claims":2,
            "counted":2,"superseded":0,"duplicate":0,"late":0,"voided":0}},"changes":[{{"subject":"bank","group":"a",
            "value":-6,"was":{was}}},{{"subject":"bank","group":"b","value":6,"was":5}}],"totals":{{"bank":{total}}}}}"#
        )
    }

    fn board() -> Board {
        let lines =
            [("a", "-5"), ("b", "5")].map(|(group, value)| ((quoted("bank"), quoted(group)), vec![value.to_owned()]));
        let snapshot = SNAPSHOT.replace("DIGEST", &digest(&lines.into_iter().collect()));
        let mut board = Board::new();
        board.follow("snapshot", Some("7"), &snapshot).unwrap();
        let again = board.follow("snapshot", Some("7"), &snapshot).unwrap_err();
        assert!(again.to_string().contains("without a gap"), "{again}");
        board
    }

    #[test]
    fn a_reader_follows_what_is_right_and_names_what_is_not() {
        board().follow("delta", Some("9"), &delta(9, -5, 0)).unwrap();
        for (id, data, told) in [
            ("7", delta(7, -5, 0), "came 7"),
            ("6", delta(6, -5, 0), "came 6"),
            ("9", delta(8, -5, 0), "has the id"),
            ("9", delta(9, -4, 0), "was held as"),
            ("9", delta(9, -5, 1), "the total is"),
        ] {
            let error = board().follow("delta", Some(id), &data).unwrap_err().to_string();
            assert!(error.contains(told), "{told:?} in {error:?}");
        }
    }
}
