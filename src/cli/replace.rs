//! Waiting until a job was computed anew.

use super::client::{Client, RequestError};
use super::feed::bar;
use super::output::plain;
use crate::node::job::{JobState, JobStatus};
use anyhow::{anyhow, bail};
use reqwest::{Method, StatusCode};
use std::time::Duration;

/// How often it is asked how far the server has come.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What is waited for, in words.
pub struct Words {
    what: &'static str,
    /// What goes on without whoever waits.
    goes_on: &'static str,
}

pub const REPLACEMENT: Words = Words { what: "the new form", goes_on: "the replacement" };
pub const RESTART: Words = Words { what: "the restart", goes_on: "the restart" };
pub const VOID: Words = Words { what: "the void", goes_on: "counting it" };
pub const REDRIVE: Words = Words { what: "the redrive", goes_on: "the redrive" };

/// Waits until what is computed beside a job has taken its place, or a job of polls was read again; the
/// job's last status. Its first one is `text`, read as `job`.
pub async fn wait(
    client: &Client,
    mut text: String,
    mut job: JobStatus,
    words: &Words,
) -> anyhow::Result<(String, JobStatus)> {
    let name = job.name.clone();
    let progress = bar(Some(0), "{bar:30} {human_pos} of {human_len} records, {msg}");
    progress.set_message(words.what);
    loop {
        if let Some(replacing) = &job.replacing {
            if let Some(error) = &replacing.error {
                progress.finish_and_clear();
                bail!("{} of {} was given up, and what ran before goes on: {}", words.what, plain(&name), plain(error));
            }
            progress.set_length(replacing.of);
            progress.set_position(replacing.records);
        }
        match job.state {
            JobState::Cancelled => {
                progress.finish_and_clear();
                bail!("{} was cancelled meanwhile; submit it again", plain(&name));
            }
            JobState::Failed if job.replacing.is_none() => {
                progress.finish_and_clear();
                let why = job.error.unwrap_or_default();
                bail!("{} has failed: {}; mend its file and submit it again with --replace", plain(&name), plain(&why));
            }
            JobState::Starting | JobState::Recovering => {}
            _ if job.replacing.is_none() => {
                progress.finish_and_clear();
                return Ok((text, job));
            }
            _ => {}
        }
        tokio::time::sleep(ASK_EVERY).await;
        (text, job) = match client.json(client.request(Method::GET, &["jobs", &name])).await {
            Ok(answer) => answer,
            Err(error) => {
                progress.finish_and_clear();
                return Err(lost(error, &name, words));
            }
        };
    }
}

/// What to do where the server can't be asked any more.
fn lost(error: anyhow::Error, name: &str, words: &Words) -> anyhow::Error {
    match error.downcast_ref::<RequestError>() {
        Some(RequestError::Refused { status: StatusCode::NOT_FOUND, .. }) | None => error,
        Some(RequestError::Unreachable { server } | RequestError::Broken { server, .. }) => anyhow!(
            "the connection to {server} is lost; {} goes on there, after a restart too: see how far it is with `tallyflow job {}`",
            words.goes_on,
            plain(name)
        ),
        Some(RequestError::Refused { .. }) => {
            error.context(format!("{} goes on; see how far it is with `tallyflow job {}`", words.goes_on, plain(name)))
        }
    }
}
