//! librdkafka's clients, and what they say of themselves.

use super::config::KafkaConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What all clients of a log share: what to hide, and what is the matter.
pub(super) struct Shared {
    pub config: KafkaConfig,
    /// Why no broker can be reached, if none can.
    away: Mutex<Option<String>>,
    /// What the clients that read say of themselves, by client.
    pub figures: Mutex<super::figures::Figures>,
}

impl Shared {
    pub fn new(config: KafkaConfig) -> Arc<Shared> {
        Arc::new(Shared { config, away: Mutex::default(), figures: Mutex::default() })
    }

    /// What is the matter with the brokers, in a sentence.
    pub fn away(&self) -> Option<String> {
        lock(&self.away).clone()
    }

    /// Notes that the brokers answer.
    pub fn is_back(&self) {
        if let Some(why) = lock(&self.away).take() {
            tracing::info!("Kafka at {} answers again ({why})", self.config.brokers);
        }
    }

    /// A sentence for an error of a call.
    pub fn sentence(&self, doing: &str, error: &impl ToString) -> String {
        let what = self.config.without_secrets(&error.to_string());
        let brokers = &self.config.brokers;
        match self.away() {
            Some(away) => format!("{doing} from Kafka at {brokers}: {what} ({away})"),
            None => format!("{doing} from Kafka at {brokers}: {what}"),
        }
    }
}

/// The context of every client.
#[derive(Clone)]
pub(super) struct Context {
    pub shared: Arc<Shared>,
    /// Tells clients apart in what they say.
    pub name: String,
}

impl Context {
    pub fn new(shared: &Arc<Shared>, name: impl Into<String>) -> Context {
        Context { shared: shared.clone(), name: name.into() }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = self.shared.config.without_secrets(message);
        let client = &self.name;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(client, facility, "librdkafka: {message}");
            }
            _ => tracing::debug!(client, facility, "librdkafka: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        lock(&self.shared.figures).take(&self.name, statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.shared.config.without_secrets(reason);
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication)) {
            let mut away = lock(&self.shared.away);
            if away.is_none() {
                tracing::warn!("Kafka at {} can't be reached: {reason}", self.shared.config.brokers);
            }
            *away = Some(reason);
        } else {
            tracing::debug!(client = self.name, "librdkafka: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

/// A client that reads for jobs: each partition for one of them only.
pub(super) struct Reading {
    pub consumer: BaseConsumer<Context>,
    pub name: String,
    pub topic: String,
    pub taken: Mutex<Taken>,
}

/// What a client is read for.
#[derive(Default)]
pub(super) struct Taken {
    /// The partitions that somebody reads.
    pub partitions: HashSet<i32>,
    /// Since when there are none.
    pub idle_since: Option<Instant>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
