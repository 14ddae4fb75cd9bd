//! The commands on polls.

pub mod args;

use super::Outcome;
use super::args::Format;
use super::client::{Client, read};
use super::jobs::{read_text, with_faults};
use super::output::{Rows, json_list, line, plain};
use crate::node::polls::{PollFilling, PollState};
use args::{CreateArgs, ListArgs, PollArgs, PollCommand, VoteArgs};
use reqwest::Method;
use serde::Deserialize;
use tallyflow_dataflows::number::Decimal;

/// A poll as the API shows it, as far as it is told here.
#[derive(Deserialize)]
struct Poll {
    id: String,
    job: String,
    #[serde(default)]
    options: Vec<String>,
    state: PollState,
    #[serde(default)]
    refill: Option<PollFilling>,
    /// In a list only.
    #[serde(default)]
    total: Option<Decimal>,
    opens: String,
    #[serde(default)]
    closes: Option<String>,
}

/// Runs a command on polls.
pub async fn run(client: &Client, command: &PollCommand) -> anyhow::Result<Outcome> {
    match command {
        PollCommand::Create(args) => create(client, args).await,
        PollCommand::List(args) => list(client, args).await,
        PollCommand::Close(args) => close(client, args).await,
        PollCommand::Delete(args) => {
            client.send(client.request(Method::DELETE, &["polls", &args.id])).await?;
            line(format_args!("{} is deleted", plain(&args.id)))?;
            Ok(Outcome::Done)
        }
        PollCommand::Vote(args) => vote(client, args).await,
    }
}

async fn create(client: &Client, args: &CreateArgs) -> anyhow::Result<Outcome> {
    let (name, text) = match &args.file {
        Some(file) => read_text(file, "the definition")?,
        None => {
            let definition = args.definition(jiff::Timestamp::now().as_millisecond());
            ("the poll".to_owned(), serde_json::to_string(&definition)?)
        }
    };
    let request = client.request(Method::POST, &["polls"]).header("content-type", "application/json").body(text);
    let made = client.json::<Poll>(request).await;
    let (text, poll) = made.map_err(|error| with_faults(error, "no poll was made", &name))?;
    if args.format == Format::Json {
        line(text)?;
        return Ok(Outcome::Done);
    }
    let (id, job) = (plain(&poll.id), plain(&poll.job));
    let past = if poll.state == PollState::Filling { "; its past is being counted" } else { "" };
    line(format_args!("made {id}{past}; see `tallyflow watch {job} --subject {id}`"))?;
    Ok(Outcome::Done)
}

async fn list(client: &Client, args: &ListArgs) -> anyhow::Result<Outcome> {
    let query: Vec<(&str, String)> = args.job.iter().map(|job| ("job", job.clone())).collect();
    let items = client.list(&["polls"], &query, usize::MAX).await?;
    if args.format == Format::Json {
        json_list(&items)?;
        return Ok(Outcome::Done);
    }
    let mut rows = Rows::new(&["poll", "state", "options", "total", "opens", "closes"], &["options", "total"]);
    for item in &items {
        let poll: Poll = read(item.get())?;
        rows.add([
            poll.id.clone(),
            state(&poll),
            poll.options.len().to_string(),
            poll.total.map_or_else(|| "-".to_owned(), |total| total.to_string()),
            poll.opens.clone(),
            poll.closes.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if rows.is_empty() {
        line("no polls; make one with `tallyflow poll create ID --option A --option B`")?;
    } else {
        rows.print()?;
    }
    Ok(Outcome::Done)
}

/// The state, and how far the next version has been counted.
fn state(poll: &Poll) -> String {
    let name = poll.state.name();
    match &poll.refill {
        None => name.to_owned(),
        Some(PollFilling { error: Some(error), .. }) => format!("{name} ({error})"),
        Some(PollFilling { records, of: Some(of), .. }) => format!("{name} ({records} of {of} records)"),
        Some(PollFilling { of: None, .. }) => format!("{name} (to be counted)"),
    }
}

async fn close(client: &Client, args: &PollArgs) -> anyhow::Result<Outcome> {
    let request = client.request(Method::POST, &["polls", &args.id, "close"]);
    let (text, poll): (_, Poll) = client.json(request).await?;
    if args.format == Format::Json {
        line(text)?;
        return Ok(Outcome::Done);
    }
    let counted = if poll.refill.is_some() { "; its last numbers are being counted" } else { "" };
    line(format_args!("{} takes no more{counted}", plain(&poll.id)))?;
    Ok(Outcome::Done)
}

async fn vote(client: &Client, args: &VoteArgs) -> anyhow::Result<Outcome> {
    let body = serde_json::json!({"voter": args.voter, "option": args.option});
    let text = client.text(client.request(Method::POST, &["polls", &args.id, "votes"]).json(&body)).await?;
    let id = plain(&args.id);
    match (args.format, &args.option) {
        (Format::Json, _) => line(text)?,
        (Format::Table, Some(option)) => line(format_args!("{} voted {} in {id}", plain(&args.voter), plain(option)))?,
        (Format::Table, None) => line(format_args!("{} has no vote in {id} any more", plain(&args.voter)))?,
    }
    Ok(Outcome::Done)
}
