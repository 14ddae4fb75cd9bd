//! The look at everything after a round.

use crate::board::{Seen, parse};
use crate::campaign::Campaign;
use crate::feeder::lock;
use crate::fold::lines::Lines;
use crate::fold::{Form, Poll, Void, left, poll_lines, polls_accounting, tally};
use crate::http::Http;
use crate::jobs::{FORMS, JOBS, standing_polls};
use crate::lookers::look;
use crate::stream::TOPICS;
use crate::voids::Voids;
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long all may take to be as it should.
const SETTLED_MAX: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks at everything. An error is what was found.
pub fn all(campaign: &mut Campaign) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLED_MAX;
    let http = campaign.http(SETTLED_MAX)?;
    campaign.broker_is_back()?;
    campaign.quiet(deadline)?;
    campaign.receipts(&http, deadline)?;
    faults(campaign)?;
    read_log(campaign, &http, deadline)?;
    for (job, topics) in JOBS {
        settle(campaign, &http, job, topics, deadline).with_context(|| format!("job {job}"))?;
    }
    find_poll(campaign, &http)?;
    for (job, voids) in &mut campaign.voids {
        voids.find(&http, job)?;
    }
    for (job, topics) in JOBS {
        let last = final_lines(campaign, &http, job, topics, deadline).with_context(|| format!("job {job}"))?;
        check_recount(&http, job, deadline)?;
        check_sink(campaign, job, &last, deadline).with_context(|| format!("the file of {job}"))?;
    }
    check_letters(campaign, &http)?;
    // What was seen on the way, before it is known which of several forms is in force from here on.
    for (job, _) in JOBS {
        for seen in lock(&campaign.noted[job]).take() {
            let meanwhile = if seen.by.ends_with("past") { Meanwhile::Ever } else { Meanwhile::Now };
            is_true(campaign, job, &seen, meanwhile)
                .with_context(|| format!("job {job}, epoch {}, as {} saw it", seen.epoch, seen.by))?;
        }
    }
    settled(campaign, &http)?;
    faults(campaign)
}

fn faults(campaign: &Campaign) -> anyhow::Result<()> {
    match campaign.shared.faults().as_slice() {
        [] => Ok(()),
        faults => bail!("{}", faults.join("\n")),
    }
}

/// Reads the log as it is, and holds it against what was acknowledged.
fn read_log(campaign: &mut Campaign, http: &Http, deadline: Instant) -> anyhow::Result<()> {
    for (index, (name, _)) in TOPICS.iter().enumerate() {
        match &campaign.kafka {
            None => campaign.topics[index].read(http, name)?,
            Some(kafka) => kafka.read(&mut campaign.topics[index], name, deadline)?,
        }
        let (book, stranger) = (campaign.book(index), campaign.written(index));
        campaign.topics[index].check(name, &book, &stranger).context("the log")?;
        for (events, partition) in campaign.events[index].iter_mut().zip(&campaign.topics[index].partitions) {
            let new = partition.records.iter().skip(events.len());
            let new = new.map(|(offset, record)| (*offset, serde_json::from_str(record).ok()));
            events.extend(new.collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// Waits until a job has read all there is and nothing of it is under way.
fn settle(campaign: &Campaign, http: &Http, job: &str, topics: &[usize], deadline: Instant) -> anyhow::Result<()> {
    loop {
        let status = http.get(&format!("/api/jobs/{job}"))?.json()?;
        ensure!(status["state"] != "failed", "it failed: {status}");
        ensure!(status["replacing"]["error"].is_null(), "its replacement failed: {status}");
        if status["state"] == "paused" {
            http.post(&format!("/api/jobs/{job}/resume"), String::new())?;
        }
        let read = |input: &Value| input["next_offset"].as_u64().unwrap_or_default();
        let read: u64 = status["inputs"].as_array().into_iter().flatten().map(read).sum();
        let all: u64 = topics.iter().flat_map(|topic| campaign.topics[*topic].ends()).sum();
        if status["state"] == "running" && status["replacing"].is_null() && status["refill"].is_null() && read == all {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it does not come to the end of its {all} offsets: {status}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What has become of the poll that comes and goes.
fn find_poll(campaign: &mut Campaign, http: &Http) -> anyhow::Result<()> {
    let answer = http.get("/api/polls/moods")?;
    let there = match answer.status {
        404 => None,
        200 => Some(answer.json()?),
        _ => bail!("the poll was answered {answer:?}"),
    };
    let is = |poll: &&Option<Poll>| match (poll, &there) {
        (None, None) => true,
        (Some(poll), Some(there)) => {
            let options = there["options"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let of_people = !there["entity"].is_null();
            options.eq(poll.options.iter().map(String::as_str)) && of_people == poll.of_people
        }
        _ => false,
    };
    match campaign.poll.settled.iter().find(is).cloned() {
        Some(found) => campaign.poll.settled = vec![found],
        None => bail!("the poll is {there:?}, and should be one of {:?}", campaign.poll.settled),
    }
    Ok(())
}

/// The tallies at the end of the log, held against the fold.
fn final_lines(
    campaign: &mut Campaign,
    http: &Http,
    job: &str,
    topics: &[usize],
    deadline: Instant,
) -> anyhow::Result<Seen> {
    loop {
        let answer = http.get(&format!("/api/jobs/{job}/tallies"))?;
        if answer.status == 200 {
            let seen = parse(&answer.text, "the last look")?;
            for topic in topics {
                let ends = campaign.topics[*topic].ends();
                let (name, _) = TOPICS[*topic];
                let at = seen.offsets.get(name);
                ensure!(at == Some(&ends), "its tallies are at {at:?}, and {name} ends at {ends:?}");
            }
            is_true(campaign, job, &seen, Meanwhile::Settled)?;
            return Ok(seen);
        }
        ensure!(answer.status == 503 && Instant::now() < deadline, "its tallies: {answer:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

fn check_recount(http: &Http, job: &str, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let answer = http.post(&format!("/api/jobs/{job}/recount"), String::new())?;
        if answer.status == 200 {
            ensure!(answer.json()?["equal"] == true, "the recount of {job} differs: {}", answer.text);
            return Ok(());
        }
        // One that was asked for before may still run.
        ensure!(answer.status == 409 && Instant::now() < deadline, "the recount of {job}: {answer:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A sink's file comes to the last epoch.
fn check_sink(campaign: &Campaign, job: &str, last: &Seen, deadline: Instant) -> anyhow::Result<()> {
    let file = campaign.data().join(format!("{job}.db"));
    if !["orders", "bank"].contains(&job) {
        return Ok(());
    }
    loop {
        let seen = look(&file, job)?;
        if let Some(seen) = &seen
            && (&seen.lines, &seen.offsets) == (&last.lines, &last.offsets)
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it does not come to {last:?}; it shows {seen:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The dead letters of `firsts` are the records that say nothing to it.
fn check_letters(campaign: &Campaign, http: &Http) -> anyhow::Result<()> {
    let mut found = BTreeSet::new();
    let mut after = String::new();
    loop {
        let answer = http.get(&format!("/api/jobs/firsts/dead-letters?limit=1000{after}"))?;
        ensure!(answer.is_ok(), "dead letters: {answer:?}");
        let letters = answer.json()?;
        for letter in letters["items"].as_array().into_iter().flatten() {
            let place = (letter["partition"].as_u64(), letter["offset"].as_u64());
            ensure!(found.insert(place), "a dead letter is there twice: {letter}");
        }
        match letters["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let is_bad = |event: &Option<Value>| event.as_ref().is_none_or(|event| event["region"].is_null());
    let partitions = campaign.events[0].iter().enumerate();
    let bad = partitions.flat_map(|(partition, events)| {
        let bad = events.iter().filter(move |(_, event)| is_bad(event));
        bad.map(move |(offset, _)| (Some(partition as u64), Some(*offset)))
    });
    let bad: BTreeSet<_> = bad.collect();
    let (missing, needless): (Vec<_>, Vec<_>) =
        (bad.difference(&found).take(5).collect(), found.difference(&bad).take(5).collect());
    ensure!(
        found == bad,
        "{} dead letters, and {} records are such; among those that are missing: {missing:?}, that should not be: \
         {needless:?}",
        found.len(),
        bad.len()
    );
    Ok(())
}

/// What may be in force where something was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Settled,
    Now,
    Ever,
}

/// Whether what was seen is what the records before its offsets come to.
fn is_true(campaign: &Campaign, job: &str, seen: &Seen, meanwhile: Meanwhile) -> anyhow::Result<()> {
    if job == "polls" {
        return is_true_of_polls(campaign, seen, meanwhile);
    }
    let forms: &[Form] = match (job, meanwhile) {
        ("firsts", _) => &[Form::Firsts],
        ("bank", _) => &[Form::Bank],
        (_, Meanwhile::Settled) => &campaign.form.settled,
        (_, Meanwhile::Now) => &campaign.form.shown,
        (_, Meanwhile::Ever) => &FORMS,
    };
    let topic = if job == "bank" { 1 } else { 0 };
    let offsets = seen.offsets.get(TOPICS[topic].0).context("it has no offsets of its topic")?;
    let mut differs = String::new();
    let voids = voids(campaign, job, meanwhile);
    for (form, voids) in forms.iter().flat_map(|form| voids.iter().map(move |voids| (form, voids))) {
        let folded = tally(*form, &campaign.events[topic], offsets, voids);
        let of = |name: &str| seen.accounting.get(name).copied().unwrap_or(u64::MAX);
        let accounting = folded.accounting;
        let same = [
            (of("read"), accounting.read),
            (of("rejected"), accounting.rejected),
            (of("irrelevant"), accounting.irrelevant),
            (of("matched"), accounting.matched),
            (of("claims"), accounting.claims),
            (of("counted"), accounting.counted),
            (of("voided"), accounting.voided),
            (of("late"), 0),
        ];
        if folded.lines == seen.lines && same.iter().all(|(seen, folded)| seen == folded) {
            return Ok(());
        }
        differs = format!(
            "{differs}\n{form:?}, {voids:?}: accounting {:?} (folded: {accounting:?}); {}",
            seen.accounting,
            difference(&seen.lines, &folded.lines)
        );
    }
    bail!("at {offsets:?} it is none of what it may be: {differs}")
}

/// The sets of voids one of which was in force.
fn voids<'a>(campaign: &'a Campaign, job: &str, meanwhile: Meanwhile) -> Vec<Vec<&'a Void>> {
    let Some(voids) = campaign.voids.get(job) else { return vec![Vec::new()] };
    match meanwhile {
        Meanwhile::Settled => voids.settled(),
        Meanwhile::Now => voids.now(),
        Meanwhile::Ever => voids.ever(),
    }
}

fn is_true_of_polls(campaign: &Campaign, seen: &Seen, meanwhile: Meanwhile) -> anyhow::Result<()> {
    let mut differs = String::new();
    for voids in voids(campaign, "polls", meanwhile) {
        match is_true_of_polls_with(campaign, seen, meanwhile, &voids) {
            Ok(()) => return Ok(()),
            Err(error) => differs = format!("{differs}\n{voids:?}: {error:#}"),
        }
    }
    bail!("{differs}")
}

fn is_true_of_polls_with(
    campaign: &Campaign,
    seen: &Seen,
    meanwhile: Meanwhile,
    voids: &[&Void],
) -> anyhow::Result<()> {
    let offsets = |topic: usize| seen.offsets.get(TOPICS[topic].0).context("it has no offsets of a topic");
    let votes = (campaign.events[2].as_slice(), offsets(2)?.as_slice());
    let posts = (campaign.events[3].as_slice(), offsets(3)?.as_slice());
    let of = |name: &str| seen.accounting.get(name).copied().unwrap_or(u64::MAX);
    let folded = polls_accounting(votes, posts);
    ensure!((of("read"), of("rejected")) == folded, "{:?} (folded: {folded:?})", seen.accounting);
    let votes = (left(votes.0, "votes", voids, &["voter"]), votes.1);
    let posts = (left(posts.0, "posts", voids, &["id", "author"]), posts.1);
    let (votes, posts) = ((votes.0.as_slice(), votes.1), (posts.0.as_slice(), posts.1));
    let moods = match meanwhile {
        Meanwhile::Settled => &campaign.poll.settled,
        Meanwhile::Now => &campaign.poll.shown,
        Meanwhile::Ever => &campaign.poll.ever,
    };
    let mut lines = seen.lines.clone();
    for poll in standing_polls() {
        let folded = poll_lines(&poll, votes, posts);
        let shown = take(&mut lines, &poll.id);
        // Its past is counted first, which shows it at once where there is none.
        let may_wait = shown.is_empty() && meanwhile != Meanwhile::Settled;
        ensure!(may_wait || shown == folded, "poll {}: {}", poll.id, difference(&shown, &folded));
    }
    let shown = take(&mut lines, "moods");
    ensure!(lines.is_empty(), "lines of no poll: {lines:?}");
    let mut differs = String::new();
    for poll in moods {
        let folded = poll.as_ref().map(|poll| poll_lines(poll, votes, posts)).unwrap_or_default();
        if shown == folded {
            return Ok(());
        }
        differs = format!("{differs}\n{poll:?}: {}", difference(&shown, &folded));
    }
    // One that was made shows nothing until its past was counted.
    ensure!(shown.is_empty() && meanwhile != Meanwhile::Settled, "poll moods is none of what it may be: {differs}");
    Ok(())
}

fn take(lines: &mut Lines, subject: &str) -> Lines {
    let name = crate::fold::lines::quoted(subject);
    let of: Vec<_> = lines.keys().filter(|(of, _)| *of == name).cloned().collect();
    of.into_iter().filter_map(|key| lines.remove_entry(&key)).collect()
}

/// The first lines that differ.
fn difference(seen: &Lines, folded: &Lines) -> String {
    let keys: BTreeSet<_> = seen.keys().chain(folded.keys()).collect();
    let differ: Vec<String> = keys
        .into_iter()
        .filter(|key| seen.get(*key) != folded.get(*key))
        .map(|key| format!("{key:?}: {:?} (folded: {:?})", seen.get(key), folded.get(key)))
        .collect();
    format!("{} lines differ: {}", differ.len(), differ.into_iter().take(5).collect::<Vec<_>>().join(", "))
}

/// Fixes what is in force from here on.
fn settled(campaign: &mut Campaign, http: &Http) -> anyhow::Result<()> {
    if let [poll] = campaign.poll.settled.clone().as_slice() {
        campaign.poll.found(poll);
    }
    let seen = parse(&http.get("/api/jobs/orders/tallies")?.text, "the last look")?;
    let offsets = seen.offsets.get("orders").context("it has no offsets")?;
    let folds = |form: &&Form| {
        tally(**form, &campaign.events[0], offsets, &campaign.voids["orders"].settled()[0]).lines == seen.lines
    };
    let form = *campaign.form.settled.iter().find(folds).context("the form of orders")?;
    campaign.form.found(&form);
    campaign.voids.values_mut().for_each(Voids::settle);
    Ok(())
}
