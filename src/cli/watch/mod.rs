//! `tallyflow watch`: live bars in the terminal.
//!
//! ```text
//! server --SSE--> stream (reconnects, resumes) --News--> Board --> screen (terminal) or plain lines
//! ```

mod board;
mod plain;
mod screen;
mod sse;
mod stream;

use super::Outcome;
use super::args::WatchArgs;
use super::client::Client;
use std::io::IsTerminal;
use stream::Subscription;

/// How many pieces of news may wait to be shown. Beyond, the reading waits, and the server merges.
const NEWS_MAX: usize = 64;

/// Follows a job until the user has seen enough.
pub async fn run(client: Client, args: &WatchArgs) -> anyhow::Result<Outcome> {
    let mut query: Vec<(&'static str, String)> = args.subject.iter().map(|s| ("subject", s.clone())).collect();
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    let (sender, mut news) = tokio::sync::mpsc::channel(NEWS_MAX);
    let subscription = Subscription { client, job: args.name.clone(), query };
    let following = tokio::spawn(subscription.follow(sender));
    let shown = if std::io::stdout().is_terminal() {
        screen::run(&args.name, &mut news).await
    } else {
        plain::run(&args.name, &mut news).await
    };
    following.abort();
    shown.map(|()| Outcome::Done)
}
