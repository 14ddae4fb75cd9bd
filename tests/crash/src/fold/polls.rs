//! The polls of this test: one of voters, some of posts.

use super::lines::{Lines, quoted};
use super::{OrderKey, Partition, before};
use std::collections::BTreeMap;

/// A poll of the test. All open before the first event and never close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    pub id: String,
    pub options: Vec<String>,
    /// Whether each voter or author has one say, the last; else each message counts for what it names.
    pub of_people: bool,
}

/// Lines of one poll at these offsets: of votes, of posts.
pub fn poll_lines(poll: &Poll, votes: (&[Partition], &[u64]), posts: (&[Partition], &[u64])) -> Lines {
    let mut counts: BTreeMap<&str, u64> = poll.options.iter().map(|option| (option.as_str(), 0)).collect();
    let mut people: BTreeMap<(bool, String), (OrderKey, Vec<&str>)> = BTreeMap::new();
    if poll.of_people {
        for (partition, offset, event) in before(votes.0, votes.1) {
            let Some(vote) = event.as_ref().filter(|vote| vote["poll"] == *poll.id) else { continue };
            let named = vote["option"].as_str();
            let options: Vec<&str> = poll.options.iter().map(String::as_str).filter(|o| Some(*o) == named).collect();
            // An option that the poll does not have concerns it not; null takes the vote back.
            if options.is_empty() && !vote["option"].is_null() {
                continue;
            }
            let (Some(voter), Some(at)) = (vote["voter"].as_str(), vote["at"].as_u64()) else { continue };
            keep_last(&mut people, (true, voter.to_owned()), (at, 0, partition, offset), options);
        }
    }
    for (key, author, text) in messages(posts) {
        let words: Vec<&str> = text.split(' ').collect();
        let named = poll.options.iter().map(String::as_str).filter(|option| words.contains(option));
        let options: Vec<&str> = named.collect();
        if poll.of_people {
            if !options.is_empty() {
                keep_last(&mut people, (false, author.to_owned()), key, options);
            }
        } else {
            options.into_iter().for_each(|option| *counts.entry(option).or_default() += 1);
        }
    }
    for (_, options) in people.into_values() {
        options.into_iter().for_each(|option| *counts.entry(option).or_default() += 1);
    }
    counts.into_iter().map(|(option, count)| ((quoted(&poll.id), quoted(option)), vec![count.to_string()])).collect()
}

fn keep_last<'a>(
    people: &mut BTreeMap<(bool, String), (OrderKey, Vec<&'a str>)>,
    who: (bool, String),
    key: OrderKey,
    options: Vec<&'a str>,
) {
    let stands = people.entry(who).or_insert((key, Vec::new()));
    if key >= stands.0 {
        *stands = (key, options);
    }
}

/// The messages that are left, each in its last version: its place in the order, its author, its text.
fn messages<'a>((posts, offsets): (&'a [Partition], &'a [u64])) -> Vec<(OrderKey, &'a str, &'a str)> {
    let mut last: BTreeMap<&str, (OrderKey, &str, Option<&str>)> = BTreeMap::new();
    for (partition, offset, event) in before(posts, offsets) {
        let Some(post) = event else { continue };
        let (Some(id), Some(author), Some(at)) = (post["id"].as_str(), post["author"].as_str(), post["at"].as_u64())
        else {
            continue;
        };
        let key = (at, 1, partition, offset);
        let stands = last.entry(id).or_insert((key, author, None));
        if key >= stands.0 {
            *stands = (key, author, post["text"].as_str());
        }
    }
    last.into_values().filter_map(|(key, author, text)| Some((key, author, text?))).collect()
}

/// Records read and rejected, which is all of the accounting that does not depend on the polls.
pub fn polls_accounting(votes: (&[Partition], &[u64]), posts: (&[Partition], &[u64])) -> (u64, u64) {
    let all = before(votes.0, votes.1).chain(before(posts.0, posts.1));
    all.fold((0, 0), |(read, rejected), (_, _, event)| (read + 1, rejected + u64::from(event.is_none())))
}
