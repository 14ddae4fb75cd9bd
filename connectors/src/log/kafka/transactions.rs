//! Transactions: appends to several partitions and topics, all or nothing.

use super::append::{Appender, Client, Delivery};
use super::client::Shared;
use super::look::ANSWER;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::source::{Appended, NewRecord, ProduceError};

/// Who writes transactions: a later one of the same id ends what an earlier one had begun, and the earlier one
/// writes nothing more.
pub(super) struct Transactions {
    shared: Arc<Shared>,
    id: String,
    /// How long one may take.
    limit: Duration,
    /// `None`: the last one has failed, or none was begun yet.
    client: Option<Client>,
}

/// Why a transaction was not written.
pub(super) struct Broken {
    pub error: ProduceError,
    /// Whether it is known that nothing of it was.
    pub is_undone: bool,
}

impl Transactions {
    pub fn new(shared: Arc<Shared>, id: String, limit: Duration) -> Transactions {
        Transactions { shared, id, limit, client: None }
    }

    /// Whether one can be written: the last one has not failed.
    pub fn is_begun(&self) -> bool {
        self.client.is_some()
    }

    /// Ends what an earlier one of this id had begun, so that it is known what was written. Blocks.
    pub fn begin(&mut self) -> Result<(), ProduceError> {
        if self.client.is_none() {
            let client = Client::new(&self.shared, Some((&self.id, self.limit)));
            let client = client.map_err(|error| ProduceError::Io(error.to_string()))?;
            // One that is connected begins at once.
            client.producer.client().fetch_cluster_id(ANSWER);
            let begun = client.producer.init_transactions(ANSWER);
            begun.map_err(|error| self.away("transactions can't begin", &error))?;
            self.client = Some(client);
        }
        Ok(())
    }

    fn away(&self, what: &str, error: &KafkaError) -> ProduceError {
        ProduceError::Away(self.shared.sentence(what, error))
    }

    /// Writes one, after [`Transactions::begin`]. Blocks until it is committed. After an error it has to be begun
    /// anew.
    pub fn write<T>(
        &mut self,
        appender: &Appender,
        records: impl FnOnce(&Transaction<'_>) -> Result<T, ProduceError>,
    ) -> Result<T, Broken> {
        let Some(client) = &self.client else {
            let error = ProduceError::Away("transactions have not begun".to_owned());
            return Err(Broken { error, is_undone: true });
        };
        let written = client.producer.begin_transaction().map_err(|error| (self.away("no transaction", &error), false));
        let written = written.and_then(|()| {
            records(&Transaction { client, appender, limit: self.limit }).map_err(|error| (error, true))
        });
        let broken = match written {
            Ok(done) => match client.producer.commit_transaction(ANSWER.min(self.limit)) {
                Ok(()) => return Ok(done),
                Err(error) => Broken { error: self.away("a transaction has no answer", &error), is_undone: false },
            },
            Err((error, may_be_undone)) => {
                let is_undone = may_be_undone && client.producer.abort_transaction(ANSWER).is_ok();
                Broken { error, is_undone }
            }
        };
        // After an error librdkafka may begin a new epoch of the producer behind the next transaction's back, and
        // purge what that has sent.
        self.client = None;
        Err(broken)
    }
}

/// One that is being written.
pub(super) struct Transaction<'a> {
    client: &'a Client,
    appender: &'a Appender,
    limit: Duration,
}

impl Transaction<'_> {
    /// Appends to it, and waits until that is written (but not committed).
    pub fn append(&self, topic: &str, records: &[NewRecord<'_>]) -> Result<Appended, ProduceError> {
        let delivery = self.send(topic, records)?;
        self.wait(&delivery, topic, records.len())
    }

    /// Hands over an append's records. After an error nothing of them is.
    pub fn send(&self, topic: &str, records: &[NewRecord<'_>]) -> Result<Arc<Delivery>, ProduceError> {
        self.appender.send(self.client, topic, records)
    }

    /// Waits until so many records of a topic that were handed over are written (but not committed).
    pub fn wait(&self, delivery: &Delivery, topic: &str, records: usize) -> Result<Appended, ProduceError> {
        delivery.wait(self.limit).map_err(|error| self.appender.refused(topic, records, error))
    }
}
