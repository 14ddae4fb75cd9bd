//! Server-Sent Events: everyone who watches the same view of a job shares what is sent.
//!
//! ```text
//!   Job --news--> pacer --tick--> Channel (View: steps, each encoded once)
//!                                    ^  wakes            pulls when the socket has room
//!                                    '------- EventStream (an epoch seen) <------- connection
//! ```
//!
//! There is no queue for a reader. A channel keeps the steps from epoch to epoch, a reader keeps the
//! epoch it has seen; a late one fetches the merge of what it missed, and one that is too late for
//! that a `gap` and a snapshot.
//!
//! Besides `snapshot`, `delta`, `status` and `gap` there is `problem`: a snapshot is needed and the
//! view has meanwhile grown past what is answered at once. Its data is a problem document, and the
//! stream ends with it.

pub mod channel;
pub mod frame;
pub mod hub;
pub mod reader;
pub mod routes;
pub mod view;

#[cfg(test)]
mod tests;
