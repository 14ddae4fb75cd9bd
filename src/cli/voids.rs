//! Voids: what an operator takes out of a job, and takes back.

use super::Outcome;
use super::args::{Format, UnvoidArgs, VoidArgs};
use super::client::{Client, read};
use super::output::{Rows, line, plain};
use super::replace::{self, VOID};
use crate::node::job::JobStatus;
use crate::node::{RecordPlace, VoidState, VoidView};
use reqwest::Method;
use serde_json::json;

/// Makes a void, and waits until it counts.
pub async fn make(client: &Client, args: &VoidArgs) -> anyhow::Result<Outcome> {
    let mut body = json!({"reason": args.reason});
    match (&args.from, args.to, &args.expression) {
        (Some(RecordPlace { topic, partition, offset }), Some(to), _) => {
            body["offsets"] = json!({"topic": topic, "partition": partition, "from": offset, "to": to});
        }
        (_, _, Some(expression)) => body["where"] = json!(expression),
        _ => body["entity"] = json!(args.entity),
    }
    let request = client.request(Method::POST, &["jobs", &args.name, "voids"]).json(&body);
    let (_, void): (_, VoidView) = client.json(request).await?;
    let id = void.id.to_string();
    let job = wait(client, &args.name).await?;
    let text = client.text(client.request(Method::GET, &["jobs", &args.name, "voids", &id])).await?;
    match args.format {
        Format::Json => line(text)?,
        Format::Table => line(format_args!(
            "void {id} of {} is in force: {} of its {} claims are voided in all",
            plain(&args.name),
            job.accounting.voided,
            job.accounting.claims
        ))?,
    }
    Ok(Outcome::Done)
}

/// Takes a void back, and waits until what it voided counts again.
pub async fn take_back(client: &Client, args: &UnvoidArgs) -> anyhow::Result<Outcome> {
    let id = args.id.to_string();
    client.send(client.request(Method::DELETE, &["jobs", &args.name, "voids", &id])).await?;
    let job = wait(client, &args.name).await?;
    line(format_args!(
        "void {id} of {} is taken back: {} of its {} claims are voided still",
        plain(&args.name),
        job.accounting.voided,
        job.accounting.claims
    ))?;
    Ok(Outcome::Done)
}

async fn wait(client: &Client, name: &str) -> anyhow::Result<JobStatus> {
    let (text, job) = client.json(client.request(Method::GET, &["jobs", name])).await?;
    Ok(replace::wait(client, text, job, &VOID).await?.1)
}

/// A table of a job's voids, where it has any.
pub async fn print(client: &Client, name: &str) -> anyhow::Result<()> {
    let items = client.list(&["jobs", name, "voids"], &[], usize::MAX).await?;
    if items.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(&["void", "state", "made", "what", "reason"], &["void"]);
    for item in &items {
        let void: VoidView = read(item.get())?;
        let state = match void.state {
            VoidState::Counting => "being counted",
            VoidState::InForce => "in force",
            VoidState::TakingBack => "being taken back",
        };
        rows.add([void.id.to_string(), state.to_owned(), void.at.clone(), what(&void), void.reason]);
    }
    line("")?;
    rows.print()?;
    Ok(())
}

fn what(void: &VoidView) -> String {
    if let Some(of) = &void.offsets {
        return format!("{}/{} from {} to before {}", of.topic, of.partition, of.from, of.to);
    }
    if let Some(expression) = &void.expression {
        return format!("where {expression}");
    }
    const NAMED: usize = 3;
    let named = void.entity.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match void.entities.unwrap_or_default().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
