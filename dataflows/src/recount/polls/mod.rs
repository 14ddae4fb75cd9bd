//! The recount of a `polls` job: what concerns a poll is collected, and what counts is found at the end.
//!
//! ```text
//! record -> read (rejected, a message, a deletion, a vote) -> each poll in whose range it lies -> counted
//! ```

mod matching;
mod poll;
mod read;
#[cfg(test)]
mod tests;

use super::{Counts, RecountResult, SubjectCounts, Verdict};
use crate::decode::Formats;
use crate::number::Decimal;
use crate::record::RecordRef;
use crate::spec::JobSpec;
use crate::spec::polls::{PollInForce, PollsSpec};
use matching::Reading;
use poll::Counting;
use read::{Reader, Said};

/// A recount of polls under way.
pub(super) struct PollsRecount {
    reader: Reader,
    polls: Vec<Counting>,
    counts: Counts,
}

impl PollsRecount {
    pub fn new(job: &JobSpec, spec: &PollsSpec, formats: &dyn Formats, polls: &[PollInForce]) -> PollsRecount {
        let reader = Reader::new(job, spec.ahead, formats);
        PollsRecount { reader, polls: polls.iter().map(Counting::new).collect(), counts: Counts::default() }
    }

    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) -> Verdict {
        self.counts.read += 1;
        let claims = match self.reader.read(input, record) {
            Err(reason) => {
                self.counts.rejected += 1;
                return Verdict::Rejected(reason);
            }
            Ok(None) => false,
            Ok(Some((said, order))) => {
                let in_range = self.polls.iter_mut().filter(|poll| poll.in_range(order, record.timestamp_ms));
                match said {
                    Said::Message { id, author, text, hashtags, repost } => {
                        let reading = Reading::new(&text, &hashtags);
                        let claims = in_range.map(|poll| poll.message(&id, &author, &reading, repost, order));
                        // Each poll is to be told, whatever the one before has made of it.
                        claims.fold(false, |any, claims| any | claims)
                    }
                    Said::Deletion { id } => {
                        in_range.for_each(|poll| poll.deletion(&id, order));
                        false
                    }
                    Said::Vote { poll: of, voter, option, id } => {
                        let mut in_range = in_range.filter(|poll| poll.id() == of);
                        let poll = in_range.next();
                        poll.is_some_and(|poll| poll.vote(&voter, option.as_deref(), id.as_deref(), order))
                    }
                }
            }
        };
        if claims {
            self.counts.matched += 1;
            Verdict::Matched
        } else {
            self.counts.irrelevant += 1;
            Verdict::Irrelevant
        }
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
            let counts = SubjectCounts { claims: counted.claims, counted: counted.counted };
            result.subjects.insert(counted.id, counts);
            result.claims += counts.claims;
            result.counted += counts.counted;
        }
        result.rest = result.claims - result.counted;
        result
    }
}
