//! Prometheus metrics: what the server counts itself, and what jobs and topics are when asked.

use crate::node::job::{CheckpointStatus, RecountOutcome};
use crate::server::Shared;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use tallyflow_dataflows::source::TopicState;

/// The media type of [`render`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted as it happens.
pub struct Metrics {
    registry: Registry,
    /// Requests by route and status.
    pub requests: Family<RequestLabels, Counter>,
    /// From a body read to its records being durable.
    pub append_seconds: Histogram,
    pub connections: Gauge,
}

/// The labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub method: Method,
    /// The route, not the path: its cardinality is that of the API.
    pub route: String,
    pub status: u16,
}

/// The methods that routes take; all others are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub &'static str);

impl Method {
    pub fn of(method: &axum::http::Method) -> Self {
        Method(match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        })
    }
}

impl EncodeLabelValue for Method {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.0)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tallyflow");
        let requests = Family::default();
        registry.register("http_requests", "Requests by route and status", requests.clone());
        let bounds = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];
        let append_seconds = Histogram::new(bounds);
        let help = "From a body read to its records being durable";
        registry.register("append_seconds", help, append_seconds.clone());
        let connections = Gauge::default();
        registry.register("http_connections", "Open connections", connections.clone());
        Metrics { registry, requests, append_seconds, connections }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfJob {
    job: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    job: String,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    job: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfInput {
    job: String,
    topic: String,
    partition: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBroker {
    broker: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    topic: String,
    partition: u32,
}

/// All metrics as OpenMetrics text.
pub fn render(shared: &Shared, topics: &[TopicState]) -> Result<String, std::fmt::Error> {
    let mut now = Registry::with_prefix("tallyflow");
    jobs(shared, &mut now);
    log(topics, &mut now);
    engine_and_streams(shared, &mut now);
    brokers(shared, &mut now);
    let mut text = String::new();
    encode_registry(&mut text, &shared.metrics.registry)?;
    encode_registry(&mut text, &now)?;
    encode_eof(&mut text)?;
    Ok(text)
}

fn jobs(shared: &Shared, registry: &mut Registry) {
    let records: Family<OfClass, Counter> = Family::default();
    let claims: Family<OfClass, Gauge> = Family::default();
    let (epoch, lines) = (Family::<OfJob, Gauge>::default(), Family::<OfJob, Gauge>::default());
    let closed: Family<OfJob, Gauge<f64, AtomicU64>> = Family::default();
    let lag: Family<OfInput, Gauge> = Family::default();
    let states: Family<OfState, Gauge> = Family::default();
    let (history_points, history_bytes) = (Family::<OfJob, Gauge>::default(), Family::<OfJob, Gauge>::default());
    let (history_oldest, history_behind) = (Family::<OfJob, Gauge>::default(), Family::<OfJob, Gauge>::default());
    let recounts = Recounts::default();
    let checkpoints = Checkpoints::default();
    for job in shared.shows.jobs() {
        let status = job.status();
        let name = || status.name.clone();
        let a = status.accounting;
        let of_records = [("rejected", a.rejected), ("irrelevant", a.irrelevant), ("matched", a.matched)];
        for (class, n) in of_records {
            records.get_or_create(&OfClass { job: name(), class }).inc_by(n);
        }
        let of_claims = [
            ("counted", a.counted),
            ("superseded", a.superseded),
            ("duplicate", a.duplicate),
            ("late", a.late),
            ("voided", a.voided),
        ];
        for (class, n) in of_claims {
            claims.get_or_create(&OfClass { job: name(), class }).set(n as i64);
        }
        epoch.get_or_create(&OfJob { job: name() }).set(status.epoch.map_or(0, |e| e.0 as i64));
        let (count, at_ms) = job.read(|results| (results.line_count(), results.at_ms())).unwrap_or_default();
        closed.get_or_create(&OfJob { job: name() }).set(at_ms as f64 / 1e3);
        lines.get_or_create(&OfJob { job: name() }).set(count as i64);
        for input in &status.inputs {
            let labels = OfInput { job: name(), topic: input.topic.clone(), partition: input.partition.0 };
            lag.get_or_create(&labels).set(input.lag as i64);
        }
        if let Some(history) = &status.history {
            history_points.get_or_create(&OfJob { job: name() }).set(history.points as i64);
            history_bytes.get_or_create(&OfJob { job: name() }).set(history.bytes as i64);
            let oldest_s = history.oldest_ms.map_or(0, |ms| ms.div_euclid(1_000));
            history_oldest.get_or_create(&OfJob { job: name() }).set(oldest_s);
            history_behind.get_or_create(&OfJob { job: name() }).set(i64::from(history.error.is_some()));
        }
        states.get_or_create(&OfState { job: name(), state: status.state.name() }).set(1);
        if let Some(checkpoint) = &status.checkpoint {
            checkpoints.add(OfJob { job: name() }, checkpoint);
        }
        if let Some(outcome) = job.recounted() {
            recounts.add(OfJob { job: name() }, &outcome);
        }
    }
    registry.register("job_records", "Records read, by what became of them", records);
    registry.register("job_claims", "Claims, by what they are now", claims);
    registry.register("job_epoch", "The newest closed epoch", epoch);
    let help = "When the newest epoch was closed, in seconds since 1970; 0 before the first";
    registry.register("job_epoch_timestamp_seconds", help, closed);
    registry.register("job_lines", "Lines of all subjects", lines);
    registry.register("job_lag_records", "Records that are there and not yet read", lag);
    registry.register("history_points", "Points kept of the past", history_points);
    registry.register("history_bytes", "What the file of the history holds", history_bytes);
    let help = "When the oldest point was closed, in seconds since 1970; 0 before the first";
    registry.register("history_oldest_timestamp_seconds", help, history_oldest);
    registry.register("history_behind", "1 while points can't be written", history_behind);
    registry.register("job_state", "1 for the state that the job is in", states);
    recounts.register(registry);
    checkpoints.register(registry);
}

/// The newest checkpoint of each job that has one.
#[derive(Default)]
struct Checkpoints {
    epoch: Family<OfJob, Gauge>,
    at: Family<OfJob, Gauge<f64, AtomicU64>>,
    seconds: Family<OfJob, Gauge<f64, AtomicU64>>,
    stall: Family<OfJob, Gauge<f64, AtomicU64>>,
    bytes: Family<OfJob, Gauge>,
    held_bytes: Family<OfJob, Gauge>,
    failing: Family<OfJob, Gauge>,
}

impl Checkpoints {
    fn add(&self, job: OfJob, checkpoint: &CheckpointStatus) {
        self.epoch.get_or_create(&job).set(checkpoint.epoch.0 as i64);
        self.at.get_or_create(&job).set(checkpoint.at.as_millisecond() as f64 / 1e3);
        self.seconds.get_or_create(&job).set(checkpoint.ms as f64 / 1e3);
        self.stall.get_or_create(&job).set(checkpoint.stall_us as f64 / 1e6);
        self.bytes.get_or_create(&job).set(checkpoint.bytes as i64);
        self.held_bytes.get_or_create(&job).set(checkpoint.held_bytes as i64);
        self.failing.get_or_create(&job).set(i64::from(checkpoint.error.is_some()));
    }

    fn register(self, registry: &mut Registry) {
        registry.register("job_checkpoint_epoch", "The epoch of the newest checkpoint", self.epoch);
        let help = "When the newest checkpoint was whole, in seconds since 1970";
        registry.register("job_checkpoint_timestamp_seconds", help, self.at);
        registry.register("job_checkpoint_seconds", "How long the newest checkpoint took", self.seconds);
        let help = "How long the newest checkpoint has kept an operator from its work at one time, at most";
        registry.register("job_checkpoint_stall_seconds", help, self.stall);
        registry.register("job_checkpoint_bytes", "What the newest checkpoint has added", self.bytes);
        registry.register("job_checkpoint_held_bytes", "What all that it needs takes", self.held_bytes);
        registry.register("job_checkpoint_failing", "1 while the next one can't be written", self.failing);
    }
}

/// The last recount of each job that has had one.
#[derive(Default)]
struct Recounts {
    equal: Family<OfJob, Gauge>,
    at: Family<OfJob, Gauge<f64, AtomicU64>>,
    records: Family<OfJob, Gauge>,
    seconds: Family<OfJob, Gauge<f64, AtomicU64>>,
}

impl Recounts {
    fn add(&self, job: OfJob, outcome: &RecountOutcome) {
        self.equal.get_or_create(&job).set(i64::from(outcome.difference.is_none()));
        self.at.get_or_create(&job).set(outcome.at_ms as f64 / 1e3);
        self.records.get_or_create(&job).set(outcome.records as i64);
        self.seconds.get_or_create(&job).set(outcome.ms as f64 / 1e3);
    }

    fn register(self, registry: &mut Registry) {
        registry.register("job_recount_equal", "Whether the last recount was equal: 1, or 0", self.equal);
        registry.register("job_recount_timestamp_seconds", "When the last recount ended", self.at);
        registry.register("job_recount_records", "Records that the last recount counted", self.records);
        registry.register("job_recount_seconds", "How long the last recount took", self.seconds);
    }
}

fn log(topics: &[TopicState], registry: &mut Registry) {
    let ends: Family<OfPartition, Gauge> = Family::default();
    let bytes: Family<OfPartition, Gauge> = Family::default();
    for topic in topics {
        for (partition, p) in topic.partitions.iter().enumerate() {
            let labels = OfPartition { topic: topic.name.clone(), partition: partition as u32 };
            ends.get_or_create(&labels).set(p.end.0 as i64);
            if let Some(held) = p.bytes {
                bytes.get_or_create(&labels).set(held as i64);
            }
        }
    }
    registry.register("log_end_offset", "One past the last offset", ends);
    registry.register("log_held_bytes", "Bytes of keys and values held", bytes);
}

/// What librdkafka tells of brokers, over its last five seconds; nothing where the log is the embedded one.
fn brokers(shared: &Shared, registry: &mut Registry) {
    let (mean, p99) =
        (Family::<OfBroker, Gauge<f64, AtomicU64>>::default(), Family::<OfBroker, Gauge<f64, AtomicU64>>::default());
    let throttle: Family<OfBroker, Gauge<f64, AtomicU64>> = Family::default();
    let (connects, bytes): (Family<OfBroker, Counter>, Family<OfBroker, Counter>) = Default::default();
    let known = shared.shows.brokers();
    if known.is_empty() {
        return;
    }
    for (broker, figures) in known {
        let of = OfBroker { broker };
        mean.get_or_create(&of).set(figures.rtt_us.0 as f64 / 1e6);
        p99.get_or_create(&of).set(figures.rtt_us.1 as f64 / 1e6);
        throttle.get_or_create(&of).set(figures.throttle_ms as f64 / 1e3);
        connects.get_or_create(&of).inc_by(u64::try_from(figures.connects).unwrap_or(0));
        bytes.get_or_create(&of).inc_by(figures.bytes);
    }
    let help = "From a request of the engine to the broker's answer, on average; a fetch is held for 100 ms where there is nothing";
    registry.register("kafka_rtt_seconds", help, mean);
    registry.register("kafka_rtt_p99_seconds", "Likewise, the 99th percentile", p99);
    registry.register("kafka_throttle_seconds", "How long the broker has held answers back, at most", throttle);
    registry.register("kafka_connects", "Connections that the engine's clients have made", connects);
    registry.register("kafka_received_bytes", "Bytes that came from the broker", bytes);
}

fn engine_and_streams(shared: &Shared, registry: &mut Registry) {
    let cluster = shared.shows.cluster();
    let restarts: Counter = Counter::default();
    restarts.inc_by(cluster.engine_restarts);
    registry.register("engine_restarts", "How often the engine was started again", restarts);
    let workers: Gauge = Gauge::default();
    workers.set(cluster.workers as i64);
    registry.register("engine_workers", "Worker threads of the engine", workers);
    let counts = &shared.hub.counts;
    let readers: Gauge = Gauge::default();
    readers.set(counts.readers.load(Ordering::Relaxed));
    registry.register("sse_readers", "Open event streams", readers);
    let frames: Counter = Counter::default();
    frames.inc_by(counts.frames.load(Ordering::Relaxed));
    registry.register("sse_frames", "Frames handed to connections", frames);
    let bytes: Counter = Counter::default();
    bytes.inc_by(counts.bytes.load(Ordering::Relaxed));
    registry.register("sse_sent_bytes", "Bytes of frames handed to connections", bytes);
}
