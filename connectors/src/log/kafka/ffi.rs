//! The few calls of librdkafka that its Rust crate does not wrap. All that is unsafe of the log is here.

use super::client::{Context, Reading};
use rdkafka::admin::AdminClient;
use rdkafka::bindings as sys;
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::Waker;

/// The queue of one partition of a consumer, apart from the consumer's own queue.
pub(super) struct Queue {
    raw: *mut sys::rd_kafka_queue_t,
    /// What is called on arrivals; it has to stay where it is.
    waker: *mut Waker,
    /// Outlives the queue.
    _client: Arc<Reading>,
}

// A queue of librdkafka may be used from any thread.
unsafe impl Send for Queue {}
unsafe impl Sync for Queue {}

impl Queue {
    /// The queue of a partition that is not assigned yet. `waker` is called, on librdkafka's threads, when
    /// something is put into the empty queue.
    pub fn of(client: Arc<Reading>, topic: &CStr, partition: i32, waker: Waker) -> Option<Queue> {
        // SAFETY: the client lives as long as the queue; both pointers are valid during the call.
        let raw = unsafe {
            let rk = client.consumer.client().native_ptr();
            sys::rd_kafka_queue_get_partition(rk, topic.as_ptr(), partition)
        };
        if raw.is_null() {
            return None;
        }
        let waker = Box::into_raw(Box::new(waker));
        // SAFETY: `raw` was just made; `waker` is freed only after the callback was taken away.
        unsafe {
            sys::rd_kafka_queue_forward(raw, std::ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(raw, Some(wake), waker.cast::<c_void>());
        }
        Some(Queue { raw, waker, _client: client })
    }

    /// How many messages and events are in it.
    pub fn len(&self) -> usize {
        // SAFETY: the queue is valid.
        unsafe { sys::rd_kafka_queue_length(self.raw) }
    }

    /// Takes what is there, at most so many, to the end of `batch`. Never waits.
    pub fn take(&self, max: usize, batch: &mut Batch) {
        batch.take(self.raw, Duration::ZERO, max);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: taking the callback away waits for one that runs (both hold the queue's lock), so that the
        // waker can be freed then.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.raw, None, std::ptr::null_mut());
            drop(Box::from_raw(self.waker));
            sys::rd_kafka_queue_destroy(self.raw);
        }
    }
}

/// Where reading a partition goes on after all that was taken of it, markers of transactions among it; `None`:
/// nothing was taken yet. Asks nobody.
pub(super) fn position(client: &Reading, topic: &CStr, partition: i32) -> Option<u64> {
    // SAFETY: the client lives; the list is destroyed after its only element was read.
    unsafe {
        let list = sys::rd_kafka_topic_partition_list_new(1);
        sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition);
        let error = sys::rd_kafka_position(client.consumer.client().native_ptr(), list);
        let element = &*(*list).elems;
        let ok = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let offset = (error == ok && element.err == ok).then_some(element.offset);
        sys::rd_kafka_topic_partition_list_destroy(list);
        offset.and_then(|offset| u64::try_from(offset).ok())
    }
}

/// The end of a partition as the newest answer with records has told it; `None`: there was none yet. Asks nobody.
pub(super) fn heard_end(client: &Reading, topic: &CStr, partition: i32) -> Option<u64> {
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client lives, the name is a C string, and both numbers are written before they are read.
    let error = unsafe {
        let rk = client.consumer.client().native_ptr();
        sys::rd_kafka_get_watermark_offsets(rk, topic.as_ptr(), partition, &mut low, &mut high)
    };
    let is_heard = error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    is_heard.then_some(high).and_then(|high| u64::try_from(high).ok())
}

/// What a client says of itself where its Rust crate does not hear it.
pub(super) enum Said {
    /// A line of its log: how grave it is (as in syslog), where it comes from, and what it says.
    Line(i32, String, String),
    Error(RDKafkaErrorCode, String),
    /// It wants a token to authenticate itself with, and how one is had is configured so.
    WantsToken(String),
}

/// A queue of what a client says, in its order. A line that librdkafka writes before it does something is here
/// before anybody sees what it has done.
pub(super) struct Events {
    raw: *mut sys::rd_kafka_queue_t,
}

// SAFETY: a queue of librdkafka may be used from any thread.
unsafe impl Send for Events {}

impl Events {
    /// Has all lines of a client's log come here from now on. It has to be dropped before the client.
    pub fn of_log(consumer: &BaseConsumer<Context>) -> Option<Events> {
        // SAFETY: the client lives; the queue that is made is destroyed by `drop`.
        unsafe {
            let rk = consumer.client().native_ptr();
            let raw = sys::rd_kafka_queue_new(rk);
            if raw.is_null() {
                return None;
            }
            let events = Events { raw };
            let error = sys::rd_kafka_set_log_queue(rk, raw);
            (error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(events)
        }
    }

    /// All that a client says which administers: its crate takes answers only. It has to be dropped before the
    /// client.
    pub fn of_admin(admin: &AdminClient<Context>) -> Events {
        // SAFETY: the client lives and has such a queue; what is lent here is given back by `drop`.
        Events { raw: unsafe { sys::rd_kafka_queue_get_main(admin.inner().native_ptr()) } }
    }

    /// Takes what was said next. Never waits.
    pub fn next(&self) -> Option<Said> {
        // SAFETY: the queue is valid; what the event lends is copied before it is destroyed.
        unsafe {
            while sys::rd_kafka_queue_length(self.raw) > 0 {
                let event = sys::rd_kafka_queue_poll(self.raw, 0);
                if event.is_null() {
                    return None;
                }
                let said = match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_LOG => {
                        let (mut facility, mut said, mut level) = (std::ptr::null(), std::ptr::null(), 0);
                        let is_line = sys::rd_kafka_event_log(event, &mut facility, &mut said, &mut level) == 0;
                        is_line.then(|| Said::Line(level, text(facility), text(said)))
                    }
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let code = sys::rd_kafka_event_error(event).into();
                        Some(Said::Error(code, text(sys::rd_kafka_event_error_string(event))))
                    }
                    sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => {
                        Some(Said::WantsToken(text(sys::rd_kafka_event_config_string(event))))
                    }
                    _ => None,
                };
                sys::rd_kafka_event_destroy(event);
                if said.is_some() {
                    return said;
                }
            }
        }
        None
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: it was made or lent by `of_log` or `of_admin` and is destroyed once.
        unsafe { sys::rd_kafka_queue_destroy(self.raw) };
    }
}

/// Gives a client the token that it wants, or says why there is none: it asks again.
pub(super) fn set_token(admin: &AdminClient<Context>, token: Result<OAuthToken, String>) {
    let rk = admin.inner().native_ptr();
    let given = token.and_then(|token| {
        let zero = |_| "the token has a zero byte in it".to_owned();
        let value = CString::new(token.token).map_err(zero)?;
        let principal = CString::new(token.principal_name).map_err(zero)?;
        let mut why: [std::ffi::c_char; 512] = [0; 512];
        // SAFETY: the client lives, the texts end with a zero byte, and the error has as much room as is said.
        unsafe {
            let error = sys::rd_kafka_oauthbearer_set_token(
                rk,
                value.as_ptr(),
                token.lifetime_ms,
                principal.as_ptr(),
                std::ptr::null_mut(),
                0,
                why.as_mut_ptr(),
                why.len(),
            );
            let is_set = error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if is_set { Ok(()) } else { Err(text(why.as_ptr())) }
        }
    });
    if let Err(why) = given {
        let why = CString::new(why.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the client lives, and the text ends with a zero byte.
        unsafe { sys::rd_kafka_oauthbearer_set_token_failure(rk, why.as_ptr()) };
    }
}

/// One queue of some partitions of a consumer, for a program that does nothing but read.
pub(super) struct OneQueue {
    raw: *mut sys::rd_kafka_queue_t,
    /// Outlives the queue.
    consumer: BaseConsumer,
}

impl OneQueue {
    /// Has the partitions from 0 to so many (not included), which are not assigned yet, come by one queue, and
    /// assigns them: `list` says from which offsets.
    pub fn of(
        consumer: BaseConsumer,
        topic: &CStr,
        partitions: i32,
        list: &TopicPartitionList,
    ) -> Result<OneQueue, KafkaError> {
        let rk = consumer.client().native_ptr();
        // SAFETY: the client outlives the queues; those of the partitions are given back at once, which leaves
        // them forwarded.
        let raw = unsafe {
            let raw = sys::rd_kafka_queue_new(rk);
            for partition in 0..partitions {
                let of_one = sys::rd_kafka_queue_get_partition(rk, topic.as_ptr(), partition);
                sys::rd_kafka_queue_forward(of_one, raw);
                sys::rd_kafka_queue_destroy(of_one);
            }
            raw
        };
        let queue = OneQueue { raw, consumer };
        queue.consumer.assign(list)?;
        Ok(queue)
    }

    /// Takes as many as can be had at once, and waits so long until they are so many.
    pub fn take(&self, wait: Duration, max: usize, batch: &mut Batch) {
        batch.take(self.raw, wait, max);
    }
}

impl Drop for OneQueue {
    fn drop(&mut self) {
        // SAFETY: it was made by `of`, and the consumer still lives.
        unsafe { sys::rd_kafka_queue_destroy(self.raw) };
    }
}

/// SAFETY: only called with the opaque of a live [`Queue`].
unsafe extern "C" fn wake(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: see above.
    let waker = unsafe { &*opaque.cast::<Waker>() };
    waker();
}

/// Messages that were taken from a queue and not dealt with yet.
#[derive(Default)]
pub(super) struct Batch {
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// Those before this were dealt with and given back.
    at: usize,
}

// SAFETY: messages may be used from any thread.
unsafe impl Send for Batch {}

/// What is next in a batch.
pub(super) enum Next<'a> {
    Record(RecordRef<'a>),
    /// All up to this offset was read.
    End(Offset),
    Error(RDKafkaErrorCode),
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.at == self.messages.len()
    }

    /// Takes what is in a queue to its end, at most so many, and waits so long until they are so many.
    fn take(&mut self, queue: *mut sys::rd_kafka_queue_t, wait: Duration, max: usize) {
        self.messages.drain(..self.at);
        self.at = 0;
        let before = self.messages.len();
        self.messages.resize(before + max, std::ptr::null_mut());
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is valid, and there is room for `max` pointers from `before` on; what is taken
        // belongs to the batch.
        let taken = unsafe {
            let room = self.messages.as_mut_ptr().add(before);
            sys::rd_kafka_consume_batch_queue(queue, wait_ms, room, max)
        };
        self.messages.truncate(before + usize::try_from(taken).unwrap_or(0));
    }

    /// What is next, if there is something; it is given back by [`Batch::pass`].
    pub fn next(&self) -> Option<Next<'_>> {
        let message = *self.messages.get(self.at)?;
        // SAFETY: it was taken from a queue and not given back; key and payload live as long as it does, that
        // is until `pass`, which needs the batch for itself.
        let (message, timestamp_ms) =
            unsafe { (&*message, sys::rd_kafka_message_timestamp(message, std::ptr::null_mut())) };
        let offset = Offset(u64::try_from(message.offset).unwrap_or(0));
        if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: as above.
            let (key, value) = unsafe { (bytes(message.key, message.key_len), bytes(message.payload, message.len)) };
            // -1: the record has none, as records of brokers before 0.10.
            let timestamp_ms = timestamp_ms.max(0);
            let partition = PartitionId(u32::try_from(message.partition).unwrap_or(0));
            return Some(Next::Record(RecordRef { partition, offset, timestamp_ms, key, value }));
        }
        if message.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF {
            return Some(Next::End(offset));
        }
        Some(Next::Error(message.err.into()))
    }

    /// Gives the next one back.
    pub fn pass(&mut self) {
        if let Some(message) = self.messages.get(self.at) {
            // SAFETY: it was taken from a queue and is given back once.
            unsafe { sys::rd_kafka_message_destroy(*message) };
            self.at += 1;
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.pass();
        }
    }
}

/// SAFETY: `data` is null or points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: see above.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}

/// What the cluster says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// Its id: another one when a topic of its name was deleted and made again.
    pub id: u64,
    /// The same as librdkafka writes it; `None`: these brokers know of no ids.
    pub written: Option<Box<str>>,
    pub partitions: u32,
}

/// Asks for topics by name; those that there are not are missing in the answer. Blocks. It is the broker of
/// that id that is asked, or the one that the cluster names as its controller.
pub(super) fn describe(
    client: *mut sys::rd_kafka_t,
    broker: Option<i32>,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, Described>, String> {
    let names: Result<Vec<CString>, _> = topics.iter().map(|name| CString::new(*name)).collect();
    let names = names.map_err(|_| "a topic's name has a zero byte in it".to_owned())?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut found = HashMap::new();
    // SAFETY: every object that is made is destroyed; what the event lends is copied before it is.
    unsafe {
        let options =
            sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, std::ptr::null_mut(), 0);
        if let Some(broker) = broker {
            sys::rd_kafka_AdminOptions_set_broker(options, broker, std::ptr::null_mut(), 0);
        }
        let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let queue = sys::rd_kafka_queue_new(client);
        sys::rd_kafka_DescribeTopics(client, collection, options, queue);
        let event = sys::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000));
        sys::rd_kafka_TopicCollection_destroy(collection);
        sys::rd_kafka_AdminOptions_destroy(options);
        let said = read_described(event, &mut found);
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        said?;
    }
    Ok(found)
}

/// SAFETY: `event` is null or a live event.
unsafe fn read_described(
    event: *mut sys::rd_kafka_event_t,
    found: &mut HashMap<String, Described>,
) -> Result<(), String> {
    if event.is_null() {
        return Err("no broker has answered in time".to_owned());
    }
    // SAFETY: the event lives; what it lends is only read here.
    unsafe {
        let error = sys::rd_kafka_event_error(event);
        if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(sys::rd_kafka_event_error_string(event)));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("the answer is of another kind".to_owned());
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for index in 0..count {
            let topic = *topics.add(index);
            let name = text(sys::rd_kafka_TopicDescription_name(topic));
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let code = if error.is_null() {
                RDKafkaErrorCode::NoError
            } else {
                RDKafkaErrorCode::from(sys::rd_kafka_error_code(error))
            };
            match code {
                RDKafkaErrorCode::NoError => {}
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => continue,
                _ => return Err(format!("{name:?}: {}", text(sys::rd_kafka_error_string(error)))),
            }
            let mut partitions = 0;
            sys::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let (most, least) =
                (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id));
            let written = (most, least) != (0, 0);
            let written = written.then(|| text(sys::rd_kafka_Uuid_base64str(id)).into());
            // One half would do; both are random but for six bits.
            let id = most.cast_unsigned() ^ least.cast_unsigned().rotate_left(32);
            let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
            found.insert(name, Described { id, written, partitions });
        }
    }
    Ok(())
}

/// SAFETY: `text` is null or a C string.
unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
