//! Where a number comes from, and what became of a record: read from the log beside the job.

use super::reading::{Records, Turn};
use super::{Rejections, Shown};
use crate::node::job::Plan;
use crate::node::{Node, RecountError};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::accounting::ClaimAccounting;
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::recount::Verdict;
use tallyflow_dataflows::recount::why::{Answer, At, ClaimFate, Fate, Other, Question, Says, Why};
use tallyflow_dataflows::spec::polls::PollInForce;
use tallyflow_dataflows::spec::written::time_text;
use utoipa::ToSchema;

/// What is asked of a job.
#[derive(Clone, Debug)]
pub enum WhyQuestion {
    /// A line, and how many of the newest claims that speak to it are told.
    Line { subject: String, group: String, limit: usize },
    /// A record.
    At(RecordPlace),
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordPlace {
    pub topic: String,
    pub partition: PartitionId,
    pub offset: Offset,
}

impl FromStr for RecordPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let mut parts = text.rsplitn(3, '/');
        let (offset, partition, topic) = (parts.next(), parts.next(), parts.next());
        let offset = offset.and_then(number);
        let partition = partition.and_then(number).and_then(|n| u32::try_from(n).ok());
        match (topic, partition, offset) {
            (Some(topic), Some(partition), Some(offset)) if !topic.is_empty() => {
                Ok(RecordPlace { topic: topic.to_owned(), partition: PartitionId(partition), offset: Offset(offset) })
            }
            _ => Err(format!("{text:?} is no place of a record; write TOPIC/PARTITION/OFFSET, as in votes/0/812")),
        }
    }
}

/// The answer; which of the two, the question says.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum WhyAnswer {
    Line(WhyLine),
    Record(WhyRecord),
}

/// Where a number comes from.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyLine {
    pub job: String,
    /// The epoch that this is of.
    pub epoch: Epoch,
    pub subject: String,
    pub group: String,
    /// By aggregate; null: no contribution of it stands.
    pub values: Option<Vec<Decimal>>,
    /// Of the subject.
    pub accounting: ClaimAccounting,
    /// Records read to find this, those of all passes.
    pub records: u64,
    /// Of the newest claims that speak to the line, those that count; newest first.
    pub contributions: Vec<WhyClaim>,
    /// And those that do not.
    pub left_out: Vec<WhyClaim>,
}

/// What became of a record.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyRecord {
    pub job: String,
    pub epoch: Epoch,
    #[serde(flatten)]
    pub place: RecordPlace,
    /// Records read to find this, those of all passes.
    pub records: u64,
    /// By input that reads its topic; mostly one.
    pub readings: Vec<WhyReading>,
}

/// What became of a record as one input read it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyReading {
    /// The input's place in the job file, from 0.
    pub input: usize,
    pub class: RecordClass,
    /// Why it is rejected or irrelevant.
    pub reason: Option<String>,
    /// Where it makes no claim and yet took the place of one, as a deletion does: which.
    pub replaced: Option<WhyOther>,
    pub claims: Vec<WhyClaim>,
}

/// The classes of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordClass {
    Rejected,
    Irrelevant,
    Matched,
}

/// A claim and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyClaim {
    #[serde(flatten)]
    pub place: RecordPlace,
    /// What it is ordered by, RFC 3339.
    pub at: String,
    pub subject: String,
    /// None: it is a withdrawal.
    pub lines: Vec<WhyContribution>,
    /// Who or what holds it; null where every event counts.
    pub entity: Option<String>,
    pub class: ClaimClass,
    /// What keeps it from counting.
    pub by: Option<WhyOther>,
    /// What gave way to it.
    pub replaced: Option<WhyOther>,
    /// Where it is voided, by what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<WhyVoid>,
}

/// The void that a claim does not count for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyVoid {
    pub id: u64,
    pub reason: String,
}

/// What a claim adds to a line.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyContribution {
    pub group: String,
    pub value: Decimal,
}

/// The classes of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClaimClass {
    Counted,
    Superseded,
    Duplicate,
    Voided,
}

/// Another record, and what it says to the one that it is held against.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyOther {
    #[serde(flatten)]
    pub place: RecordPlace,
    pub says: OtherSays,
}

/// What another record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtherSays {
    /// A contribution of its own.
    Contribution,
    /// That there is none any more.
    Withdrawal,
    /// Nothing that counts: the message was deleted, or edited so that it concerns no line.
    Nothing,
}

impl Node {
    /// Tells where a number comes from, or what became of a record. Blocks while it reads, unless `stop` is
    /// set meanwhile.
    pub fn why(&self, name: &str, question: &WhyQuestion, stop: &AtomicBool) -> Result<WhyAnswer, RecountError> {
        let job = self.job(name)?;
        let turn = Turn::take(&job, stop)?;
        let (shown, polls) = self.shown_and_polls(&job)?;
        let plan = shown.plan.clone();
        let records = Records::new(self, &turn, &plan, (None, &shown.next));
        let rejections = self.rejections(&job, &plan)?;
        let asked = Asked { node: self, plan: &plan, polls: &polls, records: &records, rejections };
        match question {
            WhyQuestion::Line { subject, group, limit } => {
                let all = job.read(|results| results.subjects(subject)).unwrap_or_default();
                let Some((.., accounting)) = all.into_iter().find(|(known, ..)| known == subject) else {
                    return Err(RecountError::Unknown(format!("job {name:?} has no subject {subject:?}")));
                };
                asked.line(name, shown, (subject, group, *limit), accounting).map(WhyAnswer::Line)
            }
            WhyQuestion::At(place) => asked.record(name, shown.epoch, place).map(WhyAnswer::Record),
        }
    }
}

struct Asked<'a> {
    node: &'a Node,
    plan: &'a Plan,
    polls: &'a [PollInForce],
    records: &'a Records<'a>,
    rejections: Rejections,
}

impl Asked<'_> {
    fn why(&self, question: Question) -> Why {
        Why::new(&self.plan.spec, &BuiltinFormats, self.polls, question).within(self.node.config.recount.memory_max)
    }

    /// Reads all records but those that were rejected when the job read them.
    fn read(&self, why: &mut Why) -> Result<(), RecountError> {
        self.records.read(why.passes(), |input, record| {
            if !self.rejections.contains_key(&(input, record.partition, record.offset)) {
                why.record(input, record);
            }
        })
    }

    fn line(
        &self,
        job: &str,
        mut shown: Shown,
        (subject, group, limit): (&str, &str, usize),
        accounting: ClaimAccounting,
    ) -> Result<WhyLine, RecountError> {
        let values = shown.lines.remove(&(subject.to_owned(), group.to_owned())).map(|(_, values)| values);
        let question = Question::Line { subject: subject.to_owned(), group: group.to_owned(), limit };
        let mut why = self.why(question);
        loop {
            self.read(&mut why)?;
            if !why.again()? {
                break;
            }
        }
        let claims = why.finish().claims;
        if values.is_none() && claims.is_empty() {
            let what = format!("subject {subject:?} of job {job:?} has no group {group:?} and never had");
            return Err(RecountError::Unknown(what));
        }
        let (contributions, left_out) =
            claims.into_iter().map(|claim| self.claim(claim)).partition(|claim| claim.class == ClaimClass::Counted);
        Ok(WhyLine {
            job: job.to_owned(),
            epoch: shown.epoch,
            subject: subject.to_owned(),
            group: group.to_owned(),
            values,
            accounting,
            records: self.records.total(),
            contributions,
            left_out,
        })
    }

    fn record(&self, job: &str, epoch: Epoch, place: &RecordPlace) -> Result<WhyRecord, RecountError> {
        let RecordPlace { topic, partition, offset } = place;
        let inputs = self.plan.inputs.iter().enumerate().filter(|(_, input)| input.topic == *topic);
        let mut reads = None;
        let mut readings = Vec::new();
        for (input, _) in inputs {
            let Some((from, next)) = self.records.bounds(input, *partition) else { continue };
            reads = Some((from, next));
            if !(from..next).contains(offset) {
                continue;
            }
            let at = At { input, partition: *partition, offset: *offset };
            if let Some(reason) = self.rejections.get(&(input, *partition, *offset)) {
                let (class, reason) = (RecordClass::Rejected, Some(reason.clone()));
                readings.push(WhyReading { input, class, reason, replaced: None, claims: Vec::new() });
                continue;
            }
            let mut why = self.why(Question::At(at));
            self.records.one(at, |record| why.record(input, record))?;
            while why.again()? {
                self.read(&mut why)?;
            }
            readings.extend(self.reading(input, why.finish()));
        }
        if readings.is_empty() {
            let at = format!("{topic}/{partition}/{offset}");
            return Err(RecountError::Unknown(match reads {
                None => format!("job {job:?} does not read {topic}/{partition}"),
                Some((from, next)) if from >= next => format!("job {job:?} has read nothing of {topic}/{partition}"),
                Some((from, next)) => {
                    format!("job {job:?} has no record {at}: it has read offsets {from} to {} there", next.0 - 1)
                }
            }));
        }
        Ok(WhyRecord { job: job.to_owned(), epoch, place: place.clone(), records: self.records.total(), readings })
    }

    fn reading(&self, input: usize, answer: Answer) -> Option<WhyReading> {
        let record = answer.record?;
        let (class, reason) = match record.verdict {
            Verdict::Rejected(reason) => (RecordClass::Rejected, Some(reason)),
            Verdict::Irrelevant => (RecordClass::Irrelevant, record.reason.map(str::to_owned)),
            Verdict::Matched => (RecordClass::Matched, None),
        };
        let replaced = record.replaced.map(|other| self.other(other));
        let claims = answer.claims.into_iter().map(|claim| self.claim(claim)).collect();
        Some(WhyReading { input, class, reason, replaced, claims })
    }

    fn claim(&self, claim: ClaimFate) -> WhyClaim {
        WhyClaim {
            place: self.place(claim.at),
            at: i64::try_from(claim.time_ns).map(time_text).unwrap_or_default(),
            subject: claim.subject,
            lines: claim.lines.into_iter().map(|(group, value)| WhyContribution { group, value }).collect(),
            entity: claim.entity,
            class: match claim.fate {
                Fate::Counted => ClaimClass::Counted,
                Fate::Superseded => ClaimClass::Superseded,
                Fate::Duplicate => ClaimClass::Duplicate,
                Fate::Voided(_) => ClaimClass::Voided,
            },
            by: claim.by.map(|other| self.other(other)),
            replaced: claim.replaced.map(|other| self.other(other)),
            void: match claim.fate {
                Fate::Voided(id) => {
                    let void = self.plan.spec.voids.all.iter().find(|void| void.id == id);
                    void.map(|void| WhyVoid { id, reason: void.reason.clone() })
                }
                _ => None,
            },
        }
    }

    fn other(&self, other: Other) -> WhyOther {
        let says = match other.says {
            Says::Contribution => OtherSays::Contribution,
            Says::Withdrawal => OtherSays::Withdrawal,
            Says::Nothing => OtherSays::Nothing,
        };
        WhyOther { place: self.place(other.at), says }
    }

    fn place(&self, at: At) -> RecordPlace {
        let topic = self.plan.inputs.get(at.input).map(|input| input.topic.clone()).unwrap_or_default();
        RecordPlace { topic, partition: at.partition, offset: at.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_topic_a_partition_and_an_offset() {
        let place = |topic: &str, partition, offset| {
            Ok(RecordPlace { topic: topic.to_owned(), partition: PartitionId(partition), offset: Offset(offset) })
        };
        assert_eq!("votes/0/812".parse(), place("votes", 0, 812));
        assert_eq!("a/b/3/0".parse(), place("a/b", 3, 0));
        for wrong in [
            "",
            "votes",
            "votes/0",
            "/0/1",
            "votes/x/1",
            "votes/0/-1",
            "votes/+0/1",
            "votes/0/",
            "votes//1",
            "votes/4294967296/1",
        ] {
            let told = wrong.parse::<RecordPlace>().unwrap_err();
            assert!(told.contains("TOPIC/PARTITION/OFFSET"), "{told}");
        }
    }
}
