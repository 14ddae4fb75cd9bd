//! `tallyflow results`.

use super::Outcome;
use super::args::{ResultsArgs, ResultsFormat};
use super::client::Client;
use super::output::{OutputError, Rows, accounting_lines, line, percent, plain, verbatim};
use reqwest::Method;
use std::collections::BTreeSet;
use tallyflow_dataflows::results::{SubjectTallies, Tallies};

/// Prints a job's tallies.
pub async fn show(client: &Client, args: &ResultsArgs) -> anyhow::Result<Outcome> {
    let mut request = client.request(Method::GET, &["jobs", &args.name, "tallies"]);
    for subject in &args.subject {
        request = request.query(&[("subject", subject)]);
    }
    if let Some(limit) = args.limit {
        request = request.query(&[("limit", limit)]);
    }
    if let Some(as_of) = &args.as_of {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        request = request.query(&[("as_of", as_of.text(now_ms))]);
    }
    match args.format {
        ResultsFormat::Csv => {
            verbatim(&client.text(request.query(&[("format", "csv")])).await?)?;
        }
        ResultsFormat::Json => line(client.text(request).await?)?,
        ResultsFormat::Table => {
            let (_, tallies) = client.json(request).await?;
            print(&tallies)?;
        }
    }
    Ok(Outcome::Done)
}

fn print(tallies: &Tallies) -> Result<(), OutputError> {
    line(format_args!("{} at epoch {}, {}", plain(&tallies.job), tallies.epoch, plain(&tallies.at)))?;
    for sums in accounting_lines(&tallies.accounting) {
        line(sums)?;
    }
    if tallies.subjects.is_empty() {
        line("\nno subject has a tally yet")?;
    }
    for subject in &tallies.subjects {
        line(format_args!("\n{}", plain(&subject.subject)))?;
        table(subject).print()?;
    }
    Ok(())
}

/// One subject's lines, and the total below.
fn table(subject: &SubjectTallies) -> Rows {
    // The first aggregate stands as the value already.
    let names: BTreeSet<&String> = subject
        .tallies
        .iter()
        .flat_map(|t| t.aggregates.iter().flatten().filter(|(_, aggregate)| **aggregate != t.value))
        .map(|(name, _)| name)
        .collect();
    let mut header = vec!["group", "value"];
    if subject.total.is_some() {
        header.push("share");
    }
    let shared = header.len();
    header.extend(names.iter().map(|name| name.as_str()));
    let mut rows = Rows::new(&header, &header[1..]);
    for tally in &subject.tallies {
        let mut cells = vec![tally.group.text(), tally.value.to_string()];
        if subject.total.is_some() {
            cells.push(percent(tally.share));
        }
        cells.resize(shared, String::new());
        for name in &names {
            let aggregate = tally.aggregates.as_ref().and_then(|all| all.get(*name));
            cells.push(aggregate.map(ToString::to_string).unwrap_or_default());
        }
        rows.add(cells);
    }
    if let Some(total) = subject.total {
        rows.add(["= total".to_owned(), total.to_string()]);
    }
    rows
}
