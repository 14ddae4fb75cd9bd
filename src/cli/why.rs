//! `tallyflow why`: where a number comes from, and what became of a record.

use super::Outcome;
use super::args::{Format, WhyArgs};
use super::client::{Client, read};
use super::feed::bar;
use super::output::{Rows, line, plain};
use crate::node::job::JobStatus;
use crate::node::{ClaimClass, OtherSays, RecordClass, RecordPlace, WhyClaim, WhyLine, WhyOther, WhyRecord};
use indicatif::ProgressBar;
use reqwest::Method;
use std::future::Future;
use std::time::Duration;

/// How often it is asked how far the server has come.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Waits for what reads a job's records again, and shows on stderr how far that has come.
pub async fn with_progress<T>(client: &Client, name: &str, format: Format, work: impl Future<Output = T>) -> T {
    let progress = match format {
        Format::Json => ProgressBar::hidden(),
        Format::Table => bar(Some(0), "{bar:30} {human_pos} of {human_len} records, {msg}"),
    };
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            answer = &mut work => {
                progress.finish_and_clear();
                return answer;
            }
            () = tokio::time::sleep(ASK_EVERY), if !progress.is_hidden() => {
                // It is only to be looked at; what fails is told by the work.
                let status = client.json::<JobStatus>(client.request(Method::GET, &["jobs", name])).await;
                if let Some(at) = status.ok().and_then(|(_, job)| job.recount) {
                    progress.set_length(at.of);
                    progress.set_position(at.records);
                    progress.set_message(format!("pass {} of {}", at.pass, at.passes));
                }
            }
        }
    }
}

/// Asks and prints the answer.
pub async fn run(client: &Client, args: &WhyArgs) -> anyhow::Result<Outcome> {
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(args.at.as_ref().map(|at| ("at", place(at))));
    query.extend(args.subject.iter().map(|subject| ("subject", subject.clone())));
    query.extend(args.group.iter().map(|group| ("group", group.clone())));
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    let request = client.request(Method::GET, &["jobs", &args.name, "why"]).query(&query);
    let text = with_progress(client, &args.name, args.format, client.text(request)).await?;
    match (args.format, &args.at) {
        (Format::Json, _) => line(text)?,
        (Format::Table, None) => print_line(&read(&text)?)?,
        (Format::Table, Some(_)) => print_record(&read(&text)?)?,
    }
    Ok(Outcome::Done)
}

fn print_line(answer: &WhyLine) -> anyhow::Result<()> {
    let value = match &answer.values {
        Some(values) => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        None => "not there any more".to_owned(),
    };
    line(format_args!("{}, {}: {value}", plain(&answer.subject), plain(&answer.group)))?;
    let a = &answer.accounting;
    line(format_args!(
        "{} claims on {} = {} counted + {} superseded + {} duplicate + {} late + {} voided",
        a.claims,
        plain(&answer.subject),
        a.counted,
        a.superseded,
        a.duplicate,
        a.late,
        a.voided
    ))?;
    for (title, claims) in [("newest contributions", &answer.contributions), ("left out", &answer.left_out)] {
        if !claims.is_empty() {
            line(format_args!("\n{title}"))?;
            print_claims(claims, Some(&answer.group))?;
        }
    }
    line(format_args!("\nat epoch {}, {} records read", answer.epoch, answer.records))?;
    Ok(())
}

fn print_record(answer: &WhyRecord) -> anyhow::Result<()> {
    for reading in &answer.readings {
        let class = match reading.class {
            RecordClass::Rejected => "rejected",
            RecordClass::Irrelevant => "irrelevant",
            RecordClass::Matched => "matched",
        };
        let reason = reading.reason.as_deref().map(|reason| format!(": {}", plain(reason))).unwrap_or_default();
        let replaced = reading.replaced.as_ref().map(|it| format!(", took the place of {}", place(&it.place)));
        line(format_args!("{} is {class}{reason}{}", plain(&place(&answer.place)), replaced.unwrap_or_default()))?;
        if !reading.claims.is_empty() {
            print_claims(&reading.claims, None)?;
        }
    }
    line(format_args!("\nat epoch {}, {} records read", answer.epoch, answer.records))?;
    Ok(())
}

/// A row of each; of one line only its value.
fn print_claims(claims: &[WhyClaim], group: Option<&str>) -> anyhow::Result<()> {
    let mut rows = Rows::new(&["record", "time", "entity", "value", "what became of it", "replaced"], &["value"]);
    for claim in claims {
        let of_line = claim.lines.iter().filter(|it| group.is_none_or(|group| group == it.group));
        let values: Vec<String> = of_line
            .map(|it| match group {
                Some(_) => it.value.to_string(),
                None => format!("{}, {}: {}", claim.subject, it.group, it.value),
            })
            .collect();
        rows.add([
            place(&claim.place),
            claim.at.clone(),
            claim.entity.clone().unwrap_or_default(),
            if values.is_empty() { "withdrawal".to_owned() } else { values.join("; ") },
            fate(claim),
            claim.replaced.as_ref().map(|other| place(&other.place)).unwrap_or_default(),
        ]);
    }
    rows.print()?;
    Ok(())
}

fn fate(claim: &WhyClaim) -> String {
    let by = |verb: &str, other: &Option<WhyOther>| {
        let Some(WhyOther { place: of, says }) = other else { return verb.to_owned() };
        let how = match says {
            OtherSays::Contribution => "",
            OtherSays::Withdrawal => ", a withdrawal",
            OtherSays::Nothing => ", a deletion or an edit that concerns no line",
        };
        format!("{verb} {}{how}", place(of))
    };
    match claim.class {
        ClaimClass::Counted => "counted".to_owned(),
        ClaimClass::Superseded => by("superseded by", &claim.by),
        ClaimClass::Duplicate => by("duplicate of", &claim.by),
        ClaimClass::Voided => match &claim.void {
            Some(void) => format!("voided by void {}: {}", void.id, void.reason),
            None => "voided".to_owned(),
        },
    }
}

fn place(at: &RecordPlace) -> String {
    format!("{}/{}/{}", at.topic, at.partition, at.offset)
}
