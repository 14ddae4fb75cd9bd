//! Following a job's events over broken connections.

use super::sse::{Event, Parser};
use crate::cli::client::{Client, RequestError};
use futures_util::StreamExt;
use reqwest::Method;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// How long to wait before connecting again where the server names no time.
const RETRY_DEFAULT: Duration = Duration::from_secs(2);

/// A connection without a byte for so long is dead: the server sends a comment every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// What following brings.
#[derive(Debug)]
pub enum News {
    Event(Event),
    /// The connection is gone; the next try is after this time.
    Lost {
        why: String,
        retry: Duration,
    },
    /// The server refused for good; nothing follows.
    Refused(anyhow::Error),
}

/// Which events are wanted.
pub struct Subscription {
    pub client: Client,
    pub job: String,
    pub query: Vec<(&'static str, String)>,
}

impl Subscription {
    /// Sends news until the receiver is gone or the server refuses for good. A server that can't be
    /// reached at all is refused at first and waited for later.
    pub async fn follow(self, news: Sender<News>) {
        let mut parser = Parser::default();
        let mut connected_once = false;
        loop {
            let lost = self.read(&mut parser, &mut connected_once, &news).await;
            let Some(error) = lost else { return };
            if !error.retryable() || (!connected_once && matches!(error, RequestError::Unreachable { .. })) {
                // Whether anybody still listens makes no difference here.
                let _ = news.send(News::Refused(error.into())).await;
                return;
            }
            let asked = match &error {
                RequestError::Refused { retry_after, .. } => *retry_after,
                _ => None,
            };
            let retry = asked.or(parser.retry()).unwrap_or(RETRY_DEFAULT);
            if news.send(News::Lost { why: error.to_string(), retry }).await.is_err() {
                return;
            }
            tokio::time::sleep(retry).await;
            parser.reconnected();
        }
    }

    /// Reads one connection to its end. `None`: nobody listens any more.
    async fn read(&self, parser: &mut Parser, connected: &mut bool, news: &Sender<News>) -> Option<RequestError> {
        let mut request = self
            .client
            .request(Method::GET, &["jobs", &self.job, "events"])
            .query(&self.query)
            .header("accept", "text/event-stream");
        if !parser.last_event_id().is_empty() {
            request = request.header("last-event-id", parser.last_event_id());
        }
        let broken = |why: &str| RequestError::Broken { server: self.client.server().to_owned(), why: why.to_owned() };
        let answer = match tokio::time::timeout(SILENCE_MAX, self.client.send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Some(error),
            Err(_) => return Some(broken("no answer")),
        };
        *connected = true;
        let mut bytes = answer.bytes_stream();
        let mut events = Vec::new();
        loop {
            let chunk = match tokio::time::timeout(SILENCE_MAX, bytes.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Some(self.client.failed(&error)),
                Ok(None) => return Some(broken("the server closed it")),
                Err(_) => return Some(broken("it has been silent for too long")),
            };
            let parsed = parser.push(&chunk, &mut events);
            for event in events.drain(..) {
                news.send(News::Event(event)).await.ok()?;
            }
            if let Err(error) = parsed {
                return Some(broken(&error.to_string()));
            }
        }
    }
}
