//! librdkafka's clients, and what they say of themselves.

use super::config::KafkaConfig;
use super::ffi::{self, Events, Said};
use super::token;
use rdkafka::admin::AdminClient;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long after an answer a client that reaches no broker is not believed: it may tell of a try that was made
/// before, and while brokers are away it tells so again every second.
const DOUBTED: Duration = Duration::from_secs(3);

/// What all clients of a log share: what to hide, and what is the matter.
pub(super) struct Shared {
    pub config: KafkaConfig,
    standing: Mutex<Standing>,
    /// Why a connection was lost, or could not be made, last, since a broker has answered.
    last_loss: Mutex<Option<String>>,
    /// What the clients that read say of themselves, by client.
    pub figures: Mutex<super::figures::Figures>,
}

impl Shared {
    pub fn new(config: KafkaConfig) -> Arc<Shared> {
        Arc::new(Shared { config, standing: Mutex::default(), last_loss: Mutex::default(), figures: Mutex::default() })
    }

    /// What is the matter with the brokers, in a sentence.
    pub fn away(&self) -> Option<String> {
        lock(&self.standing).away.clone()
    }

    /// Notes that the brokers answer.
    pub fn is_back(&self) {
        let why = lock(&self.standing).is_heard(Instant::now());
        lock(&self.last_loss).take();
        if let Some(why) = why {
            tracing::info!("Kafka at {} answers again ({why})", self.config.brokers);
        }
    }

    /// Notes that a client reaches no broker.
    fn is_away(&self, why: String) {
        if lock(&self.standing).is_missed(Instant::now(), &why) {
            tracing::warn!("Kafka at {} can't be reached: {why}", self.config.brokers);
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

/// Whether the brokers can be reached, of all that the clients say.
#[derive(Default)]
struct Standing {
    /// Why none can be reached, if none can.
    away: Option<String>,
    heard: Option<Instant>,
}

impl Standing {
    /// Answers why none could be reached, where that is over.
    fn is_heard(&mut self, now: Instant) -> Option<String> {
        self.heard = Some(now);
        self.away.take()
    }

    /// Answers whether it is news that none can be reached.
    fn is_missed(&mut self, now: Instant, why: &str) -> bool {
        if self.heard.is_some_and(|at| now.saturating_duration_since(at) < DOUBTED) {
            return false;
        }
        self.away.replace(why.to_owned()).is_none()
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

    /// Passes on what a client has said, and gives it what it wants.
    pub fn hear(&self, said: Said, admin: &AdminClient<Context>) {
        match said {
            Said::Line(level, facility, line) => self.say(level, &facility, &line),
            Said::Error(code, reason) => self.error(KafkaError::Global(code), &reason),
            Said::WantsToken(config) => ffi::set_token(admin, token::read(Some(&config))),
        }
    }

    /// Passes a line of librdkafka's log on. `level` is as in syslog.
    fn say(&self, level: i32, facility: &str, line: &str) {
        if level >= RDKafkaLogLevel::Debug as i32 && !self.shared.config.is_debugged() {
            return;
        }
        let line = self.shared.config.without_secrets(line);
        let client = &self.name;
        // That none can be reached is said once, by what is counted as away.
        let is_told = line.ends_with("brokers are down") || (facility == "FAIL" && self.shared.away().is_some());
        if level <= RDKafkaLogLevel::Error as i32 && !is_told {
            tracing::warn!(client, facility, "librdkafka: {line}");
        } else {
            tracing::debug!(client, facility, "librdkafka: {line}");
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        Ok(token::read(config)?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.say(level as i32, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        lock(&self.shared.figures).take(&self.name, statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.shared.config.without_secrets(reason);
        let code = error.rdkafka_error_code();
        match code {
            // What has become of one of them says more than how many are down, and is not told every time.
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                let last = lock(&self.shared.last_loss).clone();
                self.shared.is_away(last.unwrap_or(reason));
            }
            Some(RDKafkaErrorCode::Authentication) => {
                *lock(&self.shared.last_loss) = Some(reason.clone());
                self.shared.is_away(reason);
            }
            Some(RDKafkaErrorCode::SSL | RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve) => {
                tracing::debug!(client = self.name, "librdkafka: {error}: {reason}");
                *lock(&self.shared.last_loss) = Some(reason);
            }
            _ => tracing::debug!(client = self.name, "librdkafka: {error}: {reason}"),
        }
    }
}

impl ConsumerContext for Context {}

/// A client that reads for jobs: each partition for one of them only.
pub(super) struct Reading {
    /// Is dropped before the client that it is of.
    heard: Mutex<Heard>,
    pub consumer: BaseConsumer<Context>,
    pub name: String,
    pub topic: String,
    pub taken: Mutex<Taken>,
}

/// What a client says of the topic that it reads.
///
/// Where a topic was made again under its name, librdkafka reads on by the new one's id at the old one's offsets.
/// Nothing but a line in its log tells of it. The line is written before it asks for anything by the new id: who
/// takes records first and then the lines knows of every topic that the records may be of.
struct Heard {
    lines: Events,
    /// The id that the topic has had.
    id: Option<Box<str>>,
    /// There was more than one.
    is_another: bool,
}

impl Reading {
    /// `lines` are those of `consumer`.
    pub fn new(lines: Events, consumer: BaseConsumer<Context>, name: String, topic: &str) -> Reading {
        let heard = Mutex::new(Heard { lines, id: None, is_another: false });
        Reading { heard, consumer, name, topic: topic.to_owned(), taken: Mutex::default() }
    }

    /// Whether all that has arrived by now is of the topic with that id.
    pub fn has_read_only(&self, id: Option<&str>) -> bool {
        let heard = self.heard();
        !heard.is_another && heard.id.as_deref() == id
    }

    /// Whether it has read no other topic than the one with that id.
    pub fn can_read(&self, id: Option<&str>) -> bool {
        let heard = self.heard();
        !heard.is_another && heard.id.as_deref().is_none_or(|heard| Some(heard) == id)
    }

    /// Takes the lines of the client's log; to be called now and then.
    pub fn listen(&self) {
        drop(self.heard());
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        let mut heard = lock(&self.heard);
        while let Some(said) = heard.lines.next() {
            let Said::Line(level, facility, line) = said else { continue };
            if let Some(id) = changed_id(&self.topic, &line) {
                heard.is_another |= heard.id.as_deref().is_some_and(|known| known != id);
                heard.id.get_or_insert_with(|| id.into());
            }
            self.consumer.context().say(level, &facility, &line);
        }
        heard
    }
}

/// The id that the topic has from now on, of `[thrd:main]: Topic T changed id from A to B`.
fn changed_id<'a>(topic: &str, line: &'a str) -> Option<&'a str> {
    let (before, ids) = line.split_once(" changed id from ")?;
    let (_, id) = ids.split_once(" to ")?;
    before.strip_suffix(topic)?.ends_with("Topic ").then_some(id.trim_end())
}

/// What a client is read for.
#[derive(Default)]
pub(super) struct Taken {
    /// The partitions that somebody reads.
    pub partitions: HashSet<i32>,
    /// Since when there are none.
    pub idle_since: Option<Instant>,
}

/// Has a new client know the leaders of a topic's partitions, and be connected to them: then it begins to read as
/// soon as it is told what, else up to a second later. Blocks, at most for so long.
pub(super) fn connect(consumer: &BaseConsumer<impl ConsumerContext>, topic: &str, partitions: usize, limit: Duration) {
    // If it has to show a token, it asks for that here.
    consumer.poll(Duration::ZERO);
    let mut ends = TopicPartitionList::with_capacity(partitions);
    for partition in (0..).take(partitions) {
        ends.add_partition_offset(topic, partition, Offset::End).ok();
    }
    consumer.offsets_for_times(ends, limit).ok();
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_that_answer_are_away_once_nothing_is_heard_for_a_while_and_back_with_the_first_answer() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        assert!(standing.is_missed(start, "refused"), "nothing was heard yet");
        assert!(!standing.is_missed(start, "refused"), "that is no news");
        assert_eq!(standing.is_heard(start).as_deref(), Some("refused"));
        assert_eq!(standing.is_heard(start), None);
        assert!(!standing.is_missed(start + DOUBTED / 2, "refused"), "a client tells of an earlier try");
        assert_eq!(standing.away, None);
        assert!(standing.is_missed(start + DOUBTED, "reset"));
        assert_eq!(standing.away.as_deref(), Some("reset"));
    }

    #[test]
    fn the_id_that_a_topic_has_from_now_on_is_read_from_its_line_only() {
        let line = "[thrd:main]: Topic a.b changed id from AAAAAAAAAAAAAAAAAAAAAA to x8/F+20zRRm1Kq0kSQ4q3A";
        assert_eq!(changed_id("a.b", line), Some("x8/F+20zRRm1Kq0kSQ4q3A"));
        assert_eq!(changed_id("b", line), None);
        assert_eq!(changed_id("a.b", "[thrd:main]: Topic a.b [0] Leader 1 Epoch 0"), None);
    }
}
