//! What was published, held against recounts: every update, and the end.

use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use tallyflow_dataflows::accounting::{Accounting, ClaimAccounting};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::recount::{Recount, RecountError, RecountResult};
use tallyflow_dataflows::results::{Filter, JobResults};
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::spec::polls::PollInForce;
use tallyflow_dataflows::spec::voids::Voids;
use tallyflow_dataflows::testing::{MemoryLog, PlainFormats};

/// What happened, in the order in which it was seen.
#[derive(Clone, Debug)]
pub enum Seen {
    Update(Box<Update>),
    /// Asked for: from the next update on, or any later, the poll may be shown like this.
    May(String, Option<PollInForce>),
    /// The update before this shows these, and has forgotten the hidden polls that were to be removed.
    Refilled {
        added: Vec<PollInForce>,
        removed: usize,
    },
    /// An engine goes on with these polls, whatever was asked for before, and with these voids.
    Restarted(Vec<PollInForce>, Voids),
    /// A poll was hidden, which a refill is to remove.
    Hidden,
}

/// What an update left to be read.
#[derive(Clone, Debug)]
pub struct Update {
    pub offsets: Vec<Vec<u64>>,
    pub accounting: Accounting,
    pub digest: String,
    pub subjects: BTreeMap<String, Subject>,
}

#[derive(Clone, Debug)]
pub struct Subject {
    pub accounting: ClaimAccounting,
    pub total: Option<String>,
    pub lines: BTreeMap<String, String>,
}

impl Update {
    pub fn of(results: &JobResults) -> Update {
        let places = |(_, places): (&str, &[(Offset, Offset)])| places.iter().map(|(next, _)| next.0).collect();
        let snapshot = results.snapshot(&Filter::default()).expect("few lines");
        let subjects = snapshot.subjects.iter().map(|subject| {
            let lines = subject.tallies.iter().map(|tally| (tally.group.text(), tally.value.to_string()));
            let (accounting, total) = (subject.accounting(), subject.total.map(|total| total.to_string()));
            (subject.subject.clone(), Subject { accounting, total, lines: lines.collect() })
        });
        let subjects: BTreeMap<String, Subject> = subjects.collect();
        assert_eq!(subjects.len(), snapshot.subjects.len(), "a subject is there twice");
        let lines: usize = subjects.values().map(|subject| subject.lines.len()).sum();
        assert_eq!(results.lines().count(), lines, "a line is there twice or not shown");
        let (accounting, digest) = (*results.accounting(), results.digest().to_string());
        Update { offsets: results.inputs().map(places).collect(), accounting, digest, subjects }
    }
}

/// What the recount says of the records before these offsets.
fn recount(spec: &JobSpec, log: &MemoryLog, polls: &[PollInForce], offsets: &[Vec<u64>]) -> RecountResult {
    let one = recount_in(Recount::with_polls(spec, &PlainFormats, polls), spec, log, offsets);
    let many = Recount::with_polls(spec, &PlainFormats, polls).in_parts(5).within(20_000);
    assert_eq!(recount_in(many, spec, log, offsets), one, "in many passes");
    one
}

fn recount_in(recount: Recount, spec: &JobSpec, log: &MemoryLog, offsets: &[Vec<u64>]) -> RecountResult {
    let result = recount.over(|recount| {
        for (input, ends) in offsets.iter().enumerate() {
            for (partition, end) in ends.iter().enumerate() {
                let records = log.records(&spec.inputs[input].topic, partition);
                for (offset, record) in records.iter().enumerate().take(*end as usize) {
                    let record = RecordRef {
                        partition: PartitionId(partition as u32),
                        offset: Offset(offset as u64),
                        timestamp_ms: record.timestamp_ms,
                        key: None,
                        value: Some(&record.value),
                    };
                    recount.record(input, &record);
                }
            }
        }
        Ok::<_, RecountError>(())
    });
    result.expect("counts fit")
}

/// The digest of the lines: SHA-256 of each, added as 256-bit numbers, byte by byte.
fn digest(subjects: &BTreeMap<String, Subject>) -> String {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let mut sum = [0u8; 32];
    for (subject, of) in subjects {
        for (option, value) in &of.lines {
            let mut carry = 0;
            let line = Sha256::digest(format!("[{},{},{value}]", json(subject), json(option)));
            for (sum, byte) in sum.iter_mut().zip(line).rev() {
                let added = u16::from(*sum) + u16::from(byte) + carry;
                *sum = added as u8;
                carry = added >> 8;
            }
        }
    }
    format!("sha256:{}", sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Holds updates against recounts of what may be in force.
pub struct Check<'a> {
    spec: JobSpec,
    log: &'a MemoryLog,
    /// By poll, how it was shown last and what was asked for since.
    may: BTreeMap<String, Vec<Option<PollInForce>>>,
    /// Hidden polls that no refill has removed yet: the class of some records may still be by them.
    hidden: usize,
}

impl<'a> Check<'a> {
    pub fn new(spec: &JobSpec, log: &'a MemoryLog, polls: &[PollInForce]) -> Self {
        let may = polls.iter().map(|poll| (poll.poll.id.clone(), vec![Some(poll.clone())])).collect();
        Check { spec: spec.clone(), log, may, hidden: 0 }
    }

    /// All that was seen, and at the end exactly these polls.
    pub fn all(mut self, seen: &[Seen], in_force: &[PollInForce]) {
        for (at, what) in seen.iter().enumerate() {
            match what {
                Seen::May(id, state) => {
                    let never = || vec![None];
                    self.may.entry(id.clone()).or_insert_with(never).push(state.clone());
                }
                Seen::Hidden => self.hidden += 1,
                Seen::Restarted(polls, voids) => {
                    self.spec.voids = voids.clone();
                    let state = |poll: &PollInForce| (poll.poll.id.clone(), vec![Some(poll.clone())]);
                    self.may = polls.iter().map(state).collect();
                    self.hidden = 0;
                }
                Seen::Refilled { .. } => {}
                Seen::Update(update) => {
                    // Events that are told right behind an update may speak of it.
                    let behind = seen[at + 1..].iter().take_while(|next| !matches!(next, Seen::Update(_)));
                    for next in behind {
                        if let Seen::Refilled { added, removed } = next {
                            self.hidden -= removed;
                            for poll in added {
                                self.may.insert(poll.poll.id.clone(), vec![Some(poll.clone())]);
                            }
                        }
                    }
                    self.update(update, &format!("update {at} of {seen:#?}"));
                }
            }
        }
        for poll in in_force {
            assert!(self.may.contains_key(&poll.poll.id), "poll {} was never shown", poll.poll.id);
        }
        for (id, states) in &self.may {
            let last = states.last().expect("one at least");
            assert_eq!(*last, in_force.iter().find(|poll| poll.poll.id == *id).cloned(), "poll {id} at the end");
        }
        for states in self.may.values_mut() {
            states.drain(..states.len() - 1);
        }
        assert_eq!(self.hidden, 0, "every hidden poll was removed");
        let last = seen.iter().rev().find_map(|what| if let Seen::Update(u) = what { Some(u) } else { None });
        if let Some(last) = last {
            self.update(last, &format!("the end of {seen:#?}"));
        }
    }

    fn update(&mut self, update: &Update, told: &str) {
        assert_eq!(update.digest, digest(&update.subjects), "digest at {told}");
        let a = &update.accounting;
        assert!(a.is_even(), "{a:?} at {told}");
        let sum = |of: fn(&ClaimAccounting) -> u64| update.subjects.values().map(|s| of(&s.accounting)).sum::<u64>();
        let of_subjects = [sum(|a| a.claims), sum(|a| a.counted), sum(|a| a.superseded), sum(|a| a.duplicate)];
        assert_eq!([a.claims, a.counted, a.superseded, a.duplicate], of_subjects, "sums over subjects at {told}");
        assert_eq!((a.late, a.voided), (0, sum(|a| a.voided)), "{told}");
        for subject in update.subjects.keys() {
            assert!(self.may.contains_key(subject), "{subject} is shown at {told}");
        }

        for (id, states) in &mut self.may {
            let shown = update.subjects.get(id);
            let differences: Vec<Option<String>> =
                states.iter().map(|state| difference(&self.spec, self.log, update, shown, state.as_ref())).collect();
            match differences.iter().position(Option::is_none) {
                // What was before does not come back.
                Some(is) => drop(states.drain(..is)),
                None => panic!(
                    "poll {id}: {} at {told}",
                    differences.into_iter().flatten().collect::<Vec<_>>().join(" or ")
                ),
            }
        }
        if self.hidden == 0 && self.may.values().all(|states| states.len() == 1) {
            let polls: Vec<PollInForce> = self.may.values().filter_map(|states| states[0].clone()).collect();
            let want = recount(&self.spec, self.log, &polls, &update.offsets);
            let rest = a.superseded + a.duplicate;
            let is = [a.read, a.rejected, a.irrelevant, a.matched, a.claims, a.counted, a.voided, rest];
            let w = &want;
            let w = [w.read, w.rejected, w.irrelevant, w.matched, w.claims, w.counted, w.voided, w.rest];
            assert_eq!(is, w, "read, rejected, irrelevant, matched, claims, counted, voided, rest at {told}");
        }
    }
}

/// How what is shown differs from what it should be; `None` if it does not.
fn difference(
    spec: &JobSpec,
    log: &MemoryLog,
    update: &Update,
    shown: Option<&Subject>,
    state: Option<&PollInForce>,
) -> Option<String> {
    let (shown, poll) = match (shown, state) {
        (None, None) => return None,
        (Some(_), None) => return Some("it is shown".into()),
        (None, Some(poll)) => return Some(format!("version {} is not shown", poll.version)),
        (Some(shown), Some(poll)) => (shown, poll),
    };
    let id = &poll.poll.id;
    let want = recount(spec, log, std::slice::from_ref(poll), &update.offsets);
    let lines = want.lines.iter().map(|((_, option), values)| {
        let value = values.first().copied().flatten().expect("a count");
        (option.clone(), value.to_string())
    });
    let counts = want.subjects[id];
    let a = &shown.accounting;
    let is = (&shown.lines, shown.total.clone(), a.claims, a.counted, a.voided, a.is_even());
    let lines = lines.collect();
    let wanted = (&lines, Some(want.totals[id].to_string()), counts.claims, counts.counted, counts.voided, true);
    (is != wanted).then(|| format!("version {} is {is:?}, should be {wanted:?}", poll.version))
}
