//! The recount of a `polls` job: what concerns a poll is collected, and what counts is found at the end.
//!
//! ```text
//! record -> read (rejected, a message, a deletion, a vote) -> each poll in whose range it lies -> counted
//! ```
//!
//! A claim belongs to the share of the person that may hold only so many, and where every message counts
//! to that of the message. Whether a newer version of a message, perhaps another person's, or a deletion,
//! which names none, has taken its place is found by a second pass over the same share:
//!
//! ```text
//! pass 1: the votes, and of each message the newest version that makes a claim
//! pass 2: the messages that have a newer version of any kind go
//! ```

mod matching;
mod poll;
mod read;
#[cfg(test)]
mod tests;
pub(super) mod why;

use super::judge::Order;
use super::share::Share;
use super::{Counts, ENTRY_BYTES, Passes, RecountError, RecountResult, SubjectCounts, Verdict, text_bytes};
use crate::decode::Formats;
use crate::number::Decimal;
use crate::record::RecordRef;
use crate::spec::JobSpec;
use crate::spec::polls::{PollInForce, PollsSpec};
use matching::Reading;
use poll::{Counting, Version};
use read::{Heard, Reader, Said};
use std::collections::HashMap;

/// A recount of polls under way.
pub(super) struct PollsRecount {
    reader: Reader,
    polls: Vec<Counting>,
    counts: Counts,
    /// Of the share, by message: the newest version that makes a claim in a poll, and the poll's place.
    messages: HashMap<String, Vec<(usize, Version)>>,
    share: Share,
    /// Whether it is looked for what has taken the messages' place.
    is_second: bool,
    pass: u64,
    /// Of the messages and the polls' votes.
    bytes: usize,
    bytes_max: usize,
    /// Nothing is looked at any more.
    failed: Option<RecountError>,
}

impl PollsRecount {
    pub fn new(job: &JobSpec, spec: &PollsSpec, formats: &dyn Formats, polls: &[PollInForce]) -> PollsRecount {
        PollsRecount {
            reader: Reader::new(job, spec.ahead, formats),
            polls: polls.iter().map(Counting::new).collect(),
            counts: Counts::default(),
            messages: HashMap::new(),
            share: Share::WHOLE,
            is_second: false,
            pass: 1,
            bytes: 0,
            bytes_max: usize::MAX,
            failed: None,
        }
    }

    pub fn within(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub fn in_parts(&mut self, parts: u32) {
        self.share = Share::one_of(parts);
    }

    pub fn passes(&self) -> Passes {
        let of_each = if self.is_second || !self.messages.is_empty() { 2 } else { 1 };
        let left = self.share.left().saturating_mul(of_each) - u64::from(self.is_second);
        Passes { pass: self.pass, passes: self.pass + left - 1 }
    }

    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) -> Option<Verdict> {
        let said = self.reader.read(input, record);
        if self.is_second {
            if let Ok(Some(Heard { said: Said::Message { id, .. } | Said::Deletion { id }, order, voided: None })) =
                said
            {
                self.replace(&id, order, record.timestamp_ms);
            }
            return None;
        }
        let verdict = match said {
            Err(reason) => Verdict::Rejected(reason),
            Ok(None) => Verdict::Irrelevant,
            Ok(Some(heard)) => match self.claims(heard, record.timestamp_ms) {
                true => Verdict::Matched,
                false => Verdict::Irrelevant,
            },
        };
        self.bound();
        (self.pass == 1).then(|| {
            self.counts.read += 1;
            match verdict {
                Verdict::Rejected(_) => self.counts.rejected += 1,
                Verdict::Irrelevant => self.counts.irrelevant += 1,
                Verdict::Matched => self.counts.matched += 1,
            }
            verdict
        })
    }

    pub fn rejected(&mut self, input: usize, record: &RecordRef<'_>) -> bool {
        if self.pass == 1 {
            self.counts.read += 1;
            self.counts.rejected += 1;
        }
        self.reader.read(input, record).is_ok()
    }

    /// Takes what a record says; whether that is a claim in any poll, of whatever share.
    fn claims(&mut self, Heard { said, order, voided }: Heard, timestamp_ms: i64) -> bool {
        let (share, is_first) = (self.share, self.pass == 1);
        let in_range = self.polls.iter_mut().enumerate().filter(|(_, poll)| poll.in_range(order, timestamp_ms));
        match said {
            Said::Deletion { .. } => false,
            Said::Vote { poll: of, voter, option, id } => {
                let Some((_, poll)) = in_range.into_iter().find(|(_, poll)| poll.id() == of) else { return false };
                let Some(option) = poll.voted_for(option.as_deref()) else { return false };
                if is_first {
                    poll.claimed(voided);
                }
                if voided.is_some() {
                    return true;
                }
                let (added, dropped) = poll.vote(share, is_first, (&voter, id.as_deref()), option, order);
                self.bytes = self.bytes + added - dropped;
                true
            }
            Said::Message { id, author, text, hashtags, repost } => {
                let reading = Reading::new(&text, &hashtags);
                let mut any = false;
                for (place, poll) in in_range {
                    let options = poll.spoken_to(&reading, repost);
                    if options.is_empty() {
                        continue;
                    }
                    any = true;
                    if is_first {
                        poll.claimed(voided);
                    }
                    if voided.is_none() && share.holds(poll.share_of(&id, &author)) {
                        let version = Version { author: author.clone(), order, options };
                        let versions = self.messages.entry(id.clone()).or_insert_with(|| {
                            self.bytes += ENTRY_BYTES + text_bytes(&id);
                            Vec::new()
                        });
                        self.bytes += version.bytes();
                        match versions.iter_mut().find(|(of, _)| *of == place) {
                            None => versions.push((place, version)),
                            Some((_, known)) => {
                                let newer = known.order < version.order;
                                let older = if newer { std::mem::replace(known, version) } else { version };
                                self.bytes -= older.bytes();
                            }
                        }
                    }
                }
                any
            }
        }
    }

    /// A message was posted, edited, delivered again or deleted: what it said before does not stand.
    fn replace(&mut self, message: &str, order: Order, timestamp_ms: i64) {
        let Some(versions) = self.messages.get_mut(message) else { return };
        let polls = &self.polls;
        versions.retain(|(place, version)| order <= version.order || !polls[*place].in_range(order, timestamp_ms));
        if versions.is_empty() {
            self.messages.remove(message);
        }
    }

    /// Leaves out entities until what is held is within its bound.
    fn bound(&mut self) {
        while self.bytes > self.bytes_max && self.failed.is_none() {
            let Some(share) = self.share.halved() else {
                self.failed = Some(RecountError::Memory { bytes_max: self.bytes_max });
                self.bytes_max = usize::MAX;
                self.messages.clear();
                self.polls.iter_mut().for_each(Counting::forget_votes);
                return;
            };
            self.share = share;
            let polls = &self.polls;
            self.messages.retain(|message, versions| {
                versions.retain(|(place, version)| share.holds(polls[*place].share_of(message, &version.author)));
                !versions.is_empty()
            });
            let of_message = |(message, versions): (&String, &Vec<(usize, Version)>)| {
                ENTRY_BYTES + text_bytes(message) + versions.iter().map(|(_, version)| version.bytes()).sum::<usize>()
            };
            let messages = self.messages.iter().map(of_message).sum::<usize>();
            self.bytes = messages + self.polls.iter_mut().map(|poll| poll.retain(share)).sum::<usize>();
        }
    }

    pub fn again(&mut self) -> Result<bool, RecountError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.is_second && !self.messages.is_empty() {
            (self.is_second, self.pass) = (true, self.pass + 1);
            return Ok(true);
        }
        let mut standing: Vec<Vec<Version>> = self.polls.iter().map(|_| Vec::new()).collect();
        for (place, version) in std::mem::take(&mut self.messages).into_values().flatten() {
            standing[place].push(version);
        }
        self.polls.iter_mut().zip(standing).for_each(|(poll, messages)| poll.end_of_share(messages));
        self.is_second = false;
        let room = std::mem::take(&mut self.bytes) < self.bytes_max / 3;
        let next = self.share.next(room);
        if let Some(next) = next {
            (self.share, self.pass) = (next, self.pass + 1);
        }
        Ok(next.is_some())
    }

    pub fn finish(self) -> RecountResult {
        let Counts { read, rejected, irrelevant, matched } = self.counts;
        let mut result = RecountResult { read, rejected, irrelevant, matched, ..RecountResult::default() };
        for poll in self.polls {
            let counted = poll.finish();
            let total = counted.lines.iter().map(|(_, count)| count).sum();
            result.totals.insert(counted.id.clone(), Decimal::from_int(total));
            for (option, count) in counted.lines {
                result.lines.insert((counted.id.clone(), option), vec![Some(Decimal::from_int(count))]);
            }
            let counts = SubjectCounts { claims: counted.claims, counted: counted.counted, voided: counted.voided };
            result.subjects.insert(counted.id, counts);
            result.claims += counts.claims;
            result.counted += counts.counted;
            result.voided += counts.voided;
        }
        result.rest = result.claims - result.counted - result.voided;
        result
    }
}
