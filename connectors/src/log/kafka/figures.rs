//! What librdkafka says of its clients, as far as it is shown.

use rdkafka::Statistics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is known of the brokers from the newest statistics of every client of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    by_client: BTreeMap<String, BTreeMap<String, BrokerFigures>>,
}

/// A broker as a client sees it, over its last five seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BrokerFigures {
    /// From a request to its answer: the mean and the 99th percentile, in microseconds.
    pub rtt_us: (i64, i64),
    /// How long the broker has held answers back, at most, in milliseconds.
    pub throttle_ms: i64,
    /// Connections made so far.
    pub connects: i64,
    /// Bytes that came from it so far.
    pub bytes: u64,
}

impl Figures {
    /// Takes the statistics of a client, in librdkafka's JSON.
    pub(super) fn take(&mut self, client: &str, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let mut brokers = BTreeMap::new();
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            let figures: &mut BrokerFigures = brokers.entry(broker.nodename.clone()).or_default();
            if let Some(rtt) = &broker.rtt {
                figures.rtt_us = (rtt.avg, rtt.p99);
            }
            figures.throttle_ms = broker.throttle.as_ref().map_or(0, |throttle| throttle.max);
            figures.connects = broker.connects.unwrap_or(0);
            figures.bytes = broker.rxbytes;
        }
        self.by_client.insert(client.to_owned(), brokers);
    }

    /// Forgets a client.
    pub(super) fn forget(&mut self, client: &str) {
        self.by_client.remove(client);
    }

    /// By broker: the worst of what its clients see, and the sum of what is counted.
    pub fn brokers(&self) -> BTreeMap<String, BrokerFigures> {
        let mut brokers: BTreeMap<String, BrokerFigures> = BTreeMap::new();
        for (name, figures) in self.by_client.values().flatten() {
            let broker = brokers.entry(name.clone()).or_default();
            broker.rtt_us.0 = broker.rtt_us.0.max(figures.rtt_us.0);
            broker.rtt_us.1 = broker.rtt_us.1.max(figures.rtt_us.1);
            broker.throttle_ms = broker.throttle_ms.max(figures.throttle_ms);
            broker.connects += figures.connects;
            broker.bytes += figures.bytes;
        }
        brokers
    }
}
