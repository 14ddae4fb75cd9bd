//! Checkpoints, restarts and the number of workers.

use super::Outcome;
use super::args::{CheckpointArgs, Format, RestartArgs, ScaleArgs};
use super::client::Client;
use super::jobs::optional;
use super::output::{Rows, line, plain};
use super::replace::{self, RESTART};
use crate::node::job::{CheckpointStatus, JobStatus};
use crate::node::{Receipt, ReceiptState};
use anyhow::bail;
use reqwest::Method;
use std::time::Duration;

/// How often it is asked how far a change of workers has come.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Writes a checkpoint of a job.
pub async fn checkpoint(client: &Client, args: &CheckpointArgs) -> anyhow::Result<Outcome> {
    let request = client.request(Method::POST, &["jobs", &args.name, "checkpoint"]);
    let (text, checkpoint): (_, CheckpointStatus) = client.json(request).await?;
    match args.format {
        Format::Json => line(text)?,
        Format::Table => line(format_args!(
            "checkpoint of {} at epoch {}: {} bytes added, {} bytes in all, in {} ms",
            plain(&args.name),
            checkpoint.epoch,
            checkpoint.bytes,
            checkpoint.held_bytes,
            checkpoint.ms
        ))?,
    }
    Ok(Outcome::Done)
}

/// Takes a job down and up again.
pub async fn restart(client: &Client, args: &RestartArgs) -> anyhow::Result<Outcome> {
    let request = client.request(Method::POST, &["jobs", &args.name, "restart"]);
    let request = request.query(&[("ignore_state", args.ignore_state)]);
    let (text, job): (_, JobStatus) = client.json(request).await?;
    let (_, job) = replace::wait(client, text, job, &RESTART).await?;
    line(format_args!("{} is {} again, at epoch {}", plain(&job.name), job.state.name(), optional(job.epoch)))?;
    Ok(Outcome::Done)
}

/// Changes the number of workers, and waits for it.
pub async fn scale(client: &Client, args: &ScaleArgs) -> anyhow::Result<Outcome> {
    let body = serde_json::json!({"workers": args.workers});
    let (mut text, mut receipt): (_, Receipt) =
        client.json(client.request(Method::PATCH, &["cluster"]).json(&body)).await?;
    while receipt.state == ReceiptState::Running {
        tokio::time::sleep(ASK_EVERY).await;
        let request = client.request(Method::GET, &["cluster", "receipts", &receipt.id.to_string()]);
        (text, receipt) = client.json(request).await?;
    }
    if args.format == Format::Json {
        line(text)?;
    } else if receipt.state == ReceiptState::Done {
        let pause = receipt.pause_ms.unwrap_or_default();
        line(format_args!("{} workers instead of {}, after a pause of {pause} ms", receipt.to, receipt.from))?;
        let mut rows = Rows::new(&["job", "epoch", "digest before", "digest after"], &["epoch"]);
        for (job, of_job) in receipt.jobs {
            let after = of_job.digest_after.unwrap_or_default();
            rows.add([job, of_job.epoch.to_string(), of_job.digest_before, after]);
        }
        if !rows.is_empty() {
            line("")?;
            rows.print()?;
        }
        return Ok(Outcome::Done);
    }
    match receipt.error {
        Some(error) => bail!("the workers stay {}: {}", receipt.from, plain(&error)),
        None => Ok(Outcome::Done),
    }
}
