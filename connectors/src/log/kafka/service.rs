//! Looking after the readers: a thread that opens what they read, asks what becomes of it, and lets
//! librdkafka speak. Readers themselves never wait.

use super::client::{Context, Reading, Shared, connect, lock};
use super::ffi::{Described, Events, Queue};
use super::look::Looker;
use super::reader::{Open, Place, Slot};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::source::SourceError;

/// How often librdkafka is let speak.
const TURN: Duration = Duration::from_millis(50);
/// How often it is looked what becomes of the topics, and of those that can't be read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a client is kept that nobody reads by: the next reader of its topic begins at once.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long a new client is given to connect before it is told what to read.
const CONNECT: Duration = Duration::from_secs(1);

/// What readers ask for.
pub(super) enum Ask {
    /// To be read, and where the queue is to be put.
    Open(Arc<Place>, Slot),
    /// There was an error: what does it mean?
    Look(Arc<Place>),
    /// What arrived is of another topic of the name: to be read by another client, if there still is ours.
    Anew(Arc<Place>),
    Close(Arc<Place>),
}

struct Served {
    place: Arc<Place>,
    slot: Slot,
    /// The topic's id since it was first looked at.
    id: Option<u64>,
    /// `None`: it is not read yet, or has to be read anew.
    client: Option<Arc<Reading>>,
    /// It has to be looked at whether there is what it reads.
    is_doubtful: bool,
}

/// See the module.
pub(super) struct Service {
    shared: Arc<Shared>,
    looker: Arc<Looker>,
    served: Vec<Served>,
    clients: Vec<Arc<Reading>>,
    made: u64,
}

impl Service {
    pub fn new(shared: Arc<Shared>, looker: Arc<Looker>) -> Service {
        Service { shared, looker, served: Vec::new(), clients: Vec::new(), made: 0 }
    }

    /// Runs until nobody can ask any more.
    pub fn run(mut self, asks: &Receiver<Ask>) {
        let mut looked = Instant::now();
        loop {
            let mut ask = match asks.recv_timeout(TURN) {
                Ok(ask) => Some(ask),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut news = false;
            while let Some(one) = ask {
                news |= self.take(one);
                ask = asks.try_recv().ok();
            }
            if news || looked.elapsed() > LOOK_EVERY {
                if self.served.is_empty() && self.shared.away().is_some() {
                    // Whoever wants to append is told so until somebody has heard of a broker.
                    self.looker.names().ok();
                }
                self.look();
                self.retire();
                looked = Instant::now();
            }
            self.looker.serve();
            for client in &self.clients {
                // What comes here are errors and statistics: records come by the partitions' own queues.
                while client.consumer.poll(Duration::ZERO).is_some() {}
                client.listen();
            }
        }
    }

    /// Answers whether there is something to be looked at.
    fn take(&mut self, ask: Ask) -> bool {
        match ask {
            Ask::Open(place, slot) => {
                self.served.push(Served { place, slot, id: None, client: None, is_doubtful: true });
                true
            }
            Ask::Look(place) => {
                let served = self.served.iter_mut().find(|served| Arc::ptr_eq(&served.place, &place));
                served.is_some_and(|served| !std::mem::replace(&mut served.is_doubtful, true))
            }
            Ask::Anew(place) => {
                let Some(index) = self.served.iter().position(|served| Arc::ptr_eq(&served.place, &place)) else {
                    return false;
                };
                self.close(&self.served[index]);
                self.served[index].client = None;
                self.served[index].is_doubtful = true;
                true
            }
            Ask::Close(place) => {
                if let Some(index) = self.served.iter().position(|served| Arc::ptr_eq(&served.place, &place)) {
                    let served = self.served.swap_remove(index);
                    self.close(&served);
                }
                false
            }
        }
    }

    fn close(&self, served: &Served) {
        lock(&served.slot).take();
        let Some(client) = &served.client else { return };
        let partition = partition_of(&served.place);
        let mut list = TopicPartitionList::new();
        list.add_partition(&served.place.topic, partition);
        if let Err(error) = client.consumer.incremental_unassign(&list) {
            tracing::debug!("{}/{partition}: {error}", served.place.topic);
        }
        let mut taken = lock(&client.taken);
        taken.partitions.remove(&partition);
        if taken.partitions.is_empty() {
            taken.idle_since = Some(Instant::now());
        }
    }

    /// Lets clients go that nobody has needed for a while.
    fn retire(&mut self) {
        let is_over = |client: &Arc<Reading>| lock(&client.taken).idle_since.is_some_and(|at| at.elapsed() > IDLE_MAX);
        let over: Vec<_> = self.clients.iter().filter(|client| is_over(client)).cloned().collect();
        if over.is_empty() {
            return;
        }
        self.clients.retain(|client| !is_over(client));
        over.iter().for_each(|client| lock(&self.shared.figures).forget(&client.name));
        // Their end may take a second: nobody waits for it.
        let end = std::thread::Builder::new().name("kafka-ends".to_owned());
        end.spawn(move || drop(over)).ok();
    }

    /// Looks what has become of the topics, and opens what can be read by now.
    fn look(&mut self) {
        let topics: BTreeSet<&str> = self.served.iter().map(|served| served.place.topic.as_str()).collect();
        if topics.is_empty() {
            return;
        }
        let topics: Vec<&str> = topics.into_iter().collect();
        let described = match self.looker.describe(&topics) {
            Ok(described) => described,
            Err(error) => {
                // Those that are read may go on with what they have, and come back by themselves.
                for served in self.served.iter().filter(|served| served.is_doubtful) {
                    served.place.say(Some(error.clone()));
                }
                return;
            }
        };
        let mut doubtful = Vec::new();
        for (index, served) in self.served.iter_mut().enumerate() {
            match standing(served, described.get(&served.place.topic)) {
                Ok(()) if served.is_doubtful => doubtful.push(index),
                Ok(()) => served.place.say(None),
                Err(error) => {
                    // A topic that is there again is looked at anew.
                    served.is_doubtful = true;
                    served.place.say(Some(error));
                }
            }
        }
        let places = |served: &[usize], all: &[Served]| -> Vec<(String, u32)> {
            served.iter().map(|index| (all[*index].place.topic.clone(), all[*index].place.partition.0)).collect()
        };
        let asked: HashSet<(String, u32)> = places(&doubtful, &self.served).into_iter().collect();
        let asked: Vec<(&str, u32)> = asked.iter().map(|(topic, partition)| (topic.as_str(), *partition)).collect();
        let bounds = if asked.is_empty() { Ok(HashMap::new()) } else { self.looker.bounds(&asked) };
        for index in doubtful {
            let place = self.served[index].place.clone();
            let found = match &bounds {
                Ok(bounds) => bounds.get(&(place.topic.clone(), place.partition.0)).copied(),
                Err(error) => {
                    place.say(Some(error.clone()));
                    continue;
                }
            };
            let partitions = described.get(&place.topic).map_or(1, |topic| topic.partitions);
            let opened = match found {
                Some(bounds) => within(&place, bounds).and_then(|()| self.open(index, partitions as usize)),
                None => Err(SourceError::Away(format!("{}/{} has no leader just now", place.topic, place.partition))),
            };
            match opened {
                Ok(()) => {
                    self.served[index].is_doubtful = false;
                    place.say(None);
                }
                Err(error) => place.say(Some(error)),
            }
        }
    }

    /// Has the place read from where it goes on.
    fn open(&mut self, index: usize, partitions: usize) -> Result<(), SourceError> {
        let place = self.served[index].place.clone();
        let partition = partition_of(&place);
        let failed = |doing: &str, error: &dyn std::fmt::Display| SourceError::Io(format!("{doing}: {error}"));
        let next = place.next.load(Ordering::Acquire);
        let mut list = TopicPartitionList::new();
        let at = At::Offset(i64::try_from(next).unwrap_or(i64::MAX));
        list.add_partition_offset(&place.topic, partition, at).map_err(|error| failed("an offset", &error))?;
        if let Some(client) = &self.served[index].client {
            // It is read, and stopped by an error: from the same place again, by the same queue.
            client.consumer.incremental_unassign(&list).map_err(|error| failed("reading anew", &error))?;
            return client.consumer.incremental_assign(&list).map_err(|error| failed("reading anew", &error));
        }
        let free = |client: &&Arc<Reading>| {
            let id = place.id.get().and_then(Option::as_deref);
            client.topic == place.topic && client.can_read(id) && !lock(&client.taken).partitions.contains(&partition)
        };
        let client = match self.clients.iter().find(free) {
            Some(client) => client.clone(),
            None => {
                self.made += 1;
                let name = format!("reads {} {}", place.topic, self.made);
                let context = Context::new(&self.shared, name.clone());
                let consumer = self.shared.config.reading(partitions).create_with_context(context);
                let consumer = consumer.map_err(|error| failed("making a client of Kafka", &error))?;
                let consumer: BaseConsumer<Context> = consumer;
                let lines =
                    Events::of_log(&consumer).ok_or_else(|| failed("hearing a client", &"librdkafka refuses"))?;
                connect(&consumer, &place.topic, partitions, CONNECT);
                let client = Reading::new(lines, consumer, name, &place.topic);
                self.clients.push(Arc::new(client));
                self.clients.last().cloned().ok_or_else(|| failed("making a client of Kafka", &"none is there"))?
            }
        };
        let queue = Queue::of(client.clone(), &place.name, partition, place.waker.clone());
        let queue = queue.ok_or_else(|| failed("making a queue", &"librdkafka refuses"))?;
        client.consumer.incremental_assign(&list).map_err(|error| failed("beginning to read", &error))?;
        {
            let mut taken = lock(&client.taken);
            taken.partitions.insert(partition);
            taken.idle_since = None;
        }
        self.served[index].client = Some(client.clone());
        *lock(&self.served[index].slot) = Some(Open { queue, client });
        // Something may have arrived before the reader could see it.
        (place.waker)();
        Ok(())
    }
}

fn partition_of(place: &Place) -> i32 {
    i32::try_from(place.partition.0).unwrap_or(i32::MAX)
}

/// Whether the topic is there as the reader wants it.
fn standing(served: &mut Served, topic: Option<&Described>) -> Result<(), SourceError> {
    let place = &served.place;
    let Some(topic) = topic else {
        return Err(SourceError::Away(format!("there is no topic {:?} at the brokers", place.topic)));
    };
    if place.incarnation.or(served.id).is_some_and(|id| id != topic.id) {
        return Err(SourceError::Recreated { topic: place.topic.clone() });
    }
    served.id = Some(topic.id);
    place.id.get_or_init(|| topic.written.clone());
    if place.partition.0 >= topic.partitions {
        return Err(SourceError::UnknownPartition { topic: place.topic.clone(), partition: place.partition });
    }
    Ok(())
}

/// Whether the partition has what is to be read next, or will have it with the next record.
fn within(place: &Place, (start, end): (Offset, Offset)) -> Result<(), SourceError> {
    let wanted = Offset(place.next.load(Ordering::Acquire));
    place.end.store(end.0, Ordering::Release);
    let (topic, partition) = (place.topic.clone(), place.partition);
    if wanted < start {
        return Err(SourceError::Gone { topic, partition, wanted, start });
    }
    if wanted > end {
        return Err(SourceError::CutShort { topic, partition, wanted, end });
    }
    Ok(())
}
