//! The question in a `polls` job.
//!
//! ```text
//! pass 1: the claims that are asked for
//! pass 2: what their persons have voted and claimed in the same polls, and which messages that are
//! pass 3: every version of those messages, whoever wrote it
//! ```

use super::Counting;
use super::matching::Reading;
use super::read::{self, Reader, Said};
use crate::decode::Formats;
use crate::number::Decimal;
use crate::record::RecordRef;
use crate::recount::judge::Order;
use crate::recount::why::{Answer, At, ClaimFate, Fate, Found, Question, RecordFate, Says, Told, fates};
use crate::recount::{ENTRY_BYTES, Verdict, text_bytes};
use crate::spec::polls::{PollInForce, PollsSpec};
use crate::spec::{JobSpec, Keep};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(in crate::recount) struct PollsWhy {
    reader: Reader,
    polls: Vec<Counting>,
    question: Question,
    /// Of the line that is asked for, its poll's place.
    poll: Option<usize>,
    step: Step,
    record: Option<RecordFate>,
    /// Where the record that is asked for is a message without a claim, or a deletion: which one, in which
    /// polls.
    quiet: Option<(String, Order, Vec<usize>)>,
    claims: BTreeMap<(Order, usize), Claim>,
    /// By poll and voter, or a vote's id where every vote counts.
    votes: HashMap<(usize, String), Vec<Told>>,
    /// By poll and author, or message where every message counts: the claims that messages have made.
    authors: HashMap<(usize, String), Vec<(String, Told)>>,
    /// By poll and message.
    messages: HashMap<(usize, String), Vec<Told>>,
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Claims,
    Persons,
    Messages,
}

#[derive(Clone)]
struct Claim {
    poll: usize,
    order: Order,
    /// The author or voter.
    person: String,
    /// Of a vote, its id.
    of: Of,
    options: Vec<usize>,
    /// The void that reaches it.
    voided: Option<u64>,
}

#[derive(Clone)]
enum Of {
    Message(String),
    Vote(Option<String>),
}

impl Claim {
    /// What it contends with other claims for, in its poll; `None` where it contends with none.
    fn holder(&self, keep: Keep) -> Option<String> {
        match (&self.of, keep) {
            (Of::Message(id), Keep::All) => Some(id.clone()),
            (Of::Vote(id), Keep::All) => id.clone(),
            _ => Some(self.person.clone()),
        }
    }

    fn told(&self) -> Told {
        let says = if self.options.is_empty() { Says::Withdrawal } else { Says::Contribution };
        let key = match &self.of {
            Of::Vote(Some(id)) => format!("id {id}"),
            _ => format!("{} {:?}", self.order.0, self.options),
        };
        Told { order: self.order, key, says }
    }

    fn bytes(&self) -> usize {
        let of = match &self.of {
            Of::Message(id) | Of::Vote(Some(id)) => text_bytes(id),
            Of::Vote(None) => 0,
        };
        size_of::<Claim>() + ENTRY_BYTES + of + text_bytes(&self.person) + self.options.len() * size_of::<usize>()
    }
}

/// What a record says, held against the polls.
struct Heard {
    order: Order,
    claims: Vec<Claim>,
    /// Of a message or a deletion: its id, and the polls in whose range it lies.
    message: Option<(String, Vec<usize>)>,
    /// Why it is irrelevant where it makes no claim.
    reason: &'static str,
}

impl PollsWhy {
    pub fn new(
        job: &JobSpec,
        spec: &PollsSpec,
        formats: &dyn Formats,
        polls: &[PollInForce],
        question: Question,
    ) -> PollsWhy {
        let poll = match &question {
            Question::Line { subject, .. } => polls.iter().position(|poll| poll.poll.id == *subject),
            Question::At(_) => None,
        };
        PollsWhy {
            reader: Reader::new(job, spec.ahead, formats),
            polls: polls.iter().map(Counting::new).collect(),
            question,
            poll,
            step: Step::Claims,
            record: None,
            quiet: None,
            claims: BTreeMap::new(),
            votes: HashMap::new(),
            authors: HashMap::new(),
            messages: HashMap::new(),
            bytes: 0,
        }
    }

    pub fn passes(&self) -> u64 {
        3
    }

    fn hear(&self, read::Heard { said, order, voided }: read::Heard, timestamp_ms: i64) -> Heard {
        let only = self.poll;
        let in_range = self
            .polls
            .iter()
            .enumerate()
            .filter(|(place, poll)| only.is_none_or(|only| only == *place) && poll.in_range(order, timestamp_ms));
        match said {
            Said::Deletion { id } => {
                let polls = in_range.map(|(place, _)| place).collect();
                let reason = if voided.is_some() { "a deletion, which is voided" } else { "a deletion" };
                let message = voided.is_none().then_some((id, polls));
                Heard { order, claims: Vec::new(), message, reason }
            }
            Said::Message { id, author, text, hashtags, repost } => {
                let reading = Reading::new(&text, &hashtags);
                let (mut claims, mut polls) = (Vec::new(), Vec::new());
                for (place, poll) in in_range {
                    polls.push(place);
                    let options: Vec<usize> = poll.spoken_to(&reading, repost).into_iter().collect();
                    if !options.is_empty() {
                        let (person, of) = (author.clone(), Of::Message(id.clone()));
                        claims.push(Claim { poll: place, order, person, of, options, voided });
                    }
                }
                let reason = if polls.is_empty() { "it lies in no poll's time" } else { "it speaks to no option" };
                let message = voided.is_none().then_some((id, polls));
                Heard { order, claims, message, reason }
            }
            Said::Vote { poll: of, voter, option, id } => {
                let mut heard =
                    Heard { order, claims: Vec::new(), message: None, reason: "no poll of that name takes it" };
                let mut in_range = in_range.filter(|(_, poll)| poll.id() == of);
                if let Some((place, poll)) = in_range.next() {
                    match poll.voted_for(option.as_deref()) {
                        None => heard.reason = "the poll has no such option, or no withdrawals",
                        Some(option) => {
                            let options = option.into_iter().collect();
                            let of = Of::Vote(id);
                            heard.claims.push(Claim { poll: place, order, person: voter, of, options, voided });
                        }
                    }
                }
                heard
            }
        }
    }

    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) {
        let at = At { input, partition: record.partition, offset: record.offset };
        if self.step == Step::Claims && matches!(&self.question, Question::At(asked) if *asked != at) {
            return;
        }
        let said = self.reader.read(input, record);
        if self.step == Step::Claims && matches!(self.question, Question::At(_)) {
            let (verdict, reason) = match said {
                Err(reason) => (Verdict::Rejected(reason), None),
                Ok(None) => (Verdict::Irrelevant, Some("it is no event")),
                Ok(Some(said)) => {
                    let order = said.order;
                    let heard = self.hear(said, record.timestamp_ms);
                    if heard.claims.is_empty() {
                        self.quiet = heard.message.map(|(id, polls)| (id, order, polls));
                        (Verdict::Irrelevant, Some(heard.reason))
                    } else {
                        self.claims.extend(heard.claims.into_iter().map(|claim| ((order, claim.poll), claim)));
                        (Verdict::Matched, None)
                    }
                }
            };
            self.record = Some(RecordFate { verdict, reason, replaced: None });
            return;
        }
        let Ok(Some(said)) = said else { return };
        let heard = self.hear(said, record.timestamp_ms);
        match self.step {
            Step::Claims => self.keep_newest(heard),
            Step::Persons => heard.claims.into_iter().for_each(|claim| self.of_person(claim)),
            Step::Messages => self.of_message(heard),
        }
    }

    /// Keeps the newest claims that speak to the line.
    fn keep_newest(&mut self, heard: Heard) {
        let Question::Line { group, limit, .. } = &self.question else { return };
        let of_line = |claim: &Claim| {
            self.poll == Some(claim.poll)
                && claim.options.iter().any(|option| self.polls[claim.poll].option(*option) == group)
        };
        for claim in heard.claims.into_iter().filter(of_line) {
            self.bytes += claim.bytes();
            self.claims.insert((heard.order, claim.poll), claim);
            if self.claims.len() > *limit
                && let Some((_, oldest)) = self.claims.pop_first()
            {
                self.bytes -= oldest.bytes();
            }
        }
    }

    fn of_person(&mut self, claim: Claim) {
        if claim.voided.is_some() {
            return;
        }
        let Some(holder) = claim.holder(self.polls[claim.poll].keep()) else { return };
        let key = (claim.poll, holder);
        let bytes = claim.bytes();
        match &claim.of {
            Of::Vote(_) => {
                if let Some(votes) = self.votes.get_mut(&key) {
                    votes.push(claim.told());
                    self.bytes += bytes;
                }
            }
            Of::Message(id) => {
                if let Some(claims) = self.authors.get_mut(&key) {
                    claims.push((id.clone(), claim.told()));
                    self.bytes += bytes;
                }
            }
        }
    }

    fn of_message(&mut self, heard: Heard) {
        let Some((id, polls)) = heard.message else { return };
        for poll in polls {
            let Some(versions) = self.messages.get_mut(&(poll, id.clone())) else { continue };
            let claim = heard.claims.iter().find(|claim| claim.poll == poll).map(Claim::told);
            let nothing = || Told { order: heard.order, key: String::new(), says: Says::Nothing };
            let told = claim.unwrap_or_else(nothing);
            self.bytes += told.bytes();
            versions.push(told);
        }
    }

    pub fn again(&mut self) -> bool {
        match self.step {
            Step::Claims => {
                self.step = Step::Persons;
                for claim in self.claims.values().filter(|claim| claim.voided.is_none()) {
                    let Some(holder) = claim.holder(self.polls[claim.poll].keep()) else { continue };
                    match claim.of {
                        Of::Vote(_) => drop(self.votes.entry((claim.poll, holder)).or_default()),
                        Of::Message(_) => drop(self.authors.entry((claim.poll, holder)).or_default()),
                    };
                }
                !self.votes.is_empty() || !self.authors.is_empty() || self.look_at_messages()
            }
            Step::Persons => self.look_at_messages(),
            Step::Messages => false,
        }
    }

    /// Whether there are messages whose versions are to be looked at.
    fn look_at_messages(&mut self) -> bool {
        self.step = Step::Messages;
        for ((poll, _), claims) in &self.authors {
            for (id, _) in claims {
                self.messages.entry((*poll, id.clone())).or_default();
            }
        }
        if let Some((id, _, polls)) = &self.quiet {
            for poll in polls {
                self.messages.entry((*poll, id.clone())).or_default();
            }
        }
        self.bytes += self.messages.keys().map(|(_, id)| ENTRY_BYTES + text_bytes(id)).sum::<usize>();
        !self.messages.is_empty()
    }

    pub fn finish(self) -> Answer {
        let keep = |poll: usize| self.polls[poll].keep();
        // By poll and message, what became of each version: the last one stands.
        let versions: HashMap<(usize, String), HashMap<Order, Found>> =
            self.messages.into_iter().map(|(key, told)| (key, fates(Keep::Last, told))).collect();
        let version = |poll: usize, id: &str, order: Order| {
            versions.get(&(poll, id.to_owned())).and_then(|of| of.get(&order)).copied()
        };
        // By poll, what became of each author's claims among those that are the last of their messages.
        let mut of_authors: HashMap<(usize, Order), Found> = HashMap::new();
        for ((poll, _), claims) in self.authors {
            let last = claims
                .into_iter()
                .filter(|(id, told)| matches!(version(poll, id, told.order), Some((Fate::Counted, ..))));
            let last = last.map(|(_, told)| told).collect();
            // Equal words of two messages are no duplicates.
            let last: Vec<Told> = last_with_own_keys(last);
            of_authors.extend(fates(keep(poll), last).into_iter().map(|(order, found)| ((poll, order), found)));
        }
        let mut of_votes: HashMap<(usize, Order), Found> = HashMap::new();
        for ((poll, _), told) in self.votes {
            // Where every vote counts, those with one id are one vote, and the last of them.
            let keep = if keep(poll) == Keep::All { Keep::Last } else { keep(poll) };
            of_votes.extend(fates(keep, told).into_iter().map(|(order, found)| ((poll, order), found)));
        }

        let counted = (Fate::Counted, None, None);
        let mut record = self.record;
        if let (Some(record), Some((id, order, polls))) = (&mut record, &self.quiet) {
            let replaced = polls.iter().find_map(|poll| version(*poll, id, *order)?.2);
            record.replaced = replaced.filter(|other| other.says != Says::Nothing);
        }
        let mut claims = Vec::new();
        for claim in self.claims.into_values().rev() {
            let poll = &self.polls[claim.poll];
            let (fate, by, replaced) = match &claim.of {
                _ if let Some(void) = claim.voided => (Fate::Voided(void), None, None),
                Of::Vote(_) => of_votes.get(&(claim.poll, claim.order)).copied().unwrap_or(counted),
                Of::Message(id) => {
                    let (fate, by, before) = version(claim.poll, id, claim.order).unwrap_or(counted);
                    match of_authors.get(&(claim.poll, claim.order)) {
                        Some((kept, kept_by, kept_before)) if fate == Fate::Counted => {
                            (*kept, *kept_by, before.or(*kept_before))
                        }
                        _ => (fate, by, before),
                    }
                }
            };
            let lines: BTreeSet<usize> = claim.options.iter().copied().collect();
            claims.push(ClaimFate {
                at: At::of(claim.order),
                time_ns: claim.order.0,
                subject: poll.id().to_owned(),
                lines: lines.into_iter().map(|option| (poll.option(option).to_owned(), Decimal::ONE)).collect(),
                entity: claim.holder(poll.keep()),
                fate,
                by,
                replaced,
            });
        }
        Answer { record, claims }
    }
}

/// Each claim is the only one of its key.
fn last_with_own_keys(told: Vec<Told>) -> Vec<Told> {
    told.into_iter().map(|told| Told { key: format!("{:?}", told.order), ..told }).collect()
}
