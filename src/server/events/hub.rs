//! Finds the channel of a view and paces it.

use crate::node::job::Job;
use crate::server::events::channel::{Channel, ChannelKey};
use crate::server::events::reader::Counts;
use crate::server::host::Shows;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Silence after which a comment is sent.
pub const COMMENT_AFTER: Duration = Duration::from_secs(15);

/// How soon a change of state is told while a slow pace waits for its next delta.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// All channels that have readers.
pub struct Hub {
    host: Arc<dyn Shows>,
    channels: Mutex<HashMap<ChannelKey, Weak<Channel>>>,
    stopping: AtomicBool,
    pub counts: Arc<Counts>,
}

impl Hub {
    pub fn new(host: Arc<dyn Shows>) -> Self {
        Hub { host, channels: Mutex::default(), stopping: AtomicBool::new(false), counts: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelKey, Weak<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel of a view, with its pacer running. It ends with its last reader.
    pub fn channel(&self, key: ChannelKey, job: Arc<Job>) -> Arc<Channel> {
        let mut channels = self.lock();
        if let Some(channel) = channels.get(&key).and_then(Weak::upgrade) {
            return channel;
        }
        // Doubling bounds the dead entries to as many as there are live ones.
        if channels.len() == channels.capacity() {
            channels.retain(|_, channel| channel.strong_count() > 0);
        }
        let channel = Arc::new(Channel::new(key.clone(), job));
        channels.insert(key, Arc::downgrade(&channel));
        let pacer = tokio::spawn(pace(Arc::downgrade(&channel), self.host.clone(), channel.key.every));
        channel.set_pacer(pacer.abort_handle());
        if self.stopping.load(Ordering::SeqCst) {
            channel.stop();
        }
        channel
    }

    /// Ends every stream, also those that start from now on.
    pub fn stop(&self) {
        let channels = self.lock();
        self.stopping.store(true, Ordering::SeqCst);
        let all: Vec<_> = channels.values().filter_map(Weak::upgrade).collect();
        drop(channels);
        all.iter().for_each(|channel| channel.stop());
    }
}

/// The first change goes out at once, then at most one in `every`.
async fn pace(channel: Weak<Channel>, host: Arc<dyn Shows>, every: Duration) {
    let Some((mut job, name)) = channel.upgrade().map(|c| (c.job(), c.key.job.clone())) else { return };
    let mut news = job.news();
    let mut told = Instant::now();
    let mut next = told;
    // What was there before this task ran is not yet told.
    news.mark_changed();
    loop {
        let changed = tokio::select! {
            changed = news.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(told + COMMENT_AFTER) => false,
            // The other job may be told a moment before it is there.
            () = tokio::time::sleep(LOOK_EVERY), if job.is_replaced() => false,
        };
        if job.is_replaced()
            && let Ok(now) = host.job(&name)
        {
            job = now;
            news = job.news();
        }
        loop {
            let Some(channel) = channel.upgrade() else { return };
            channel.observe(&job);
            let now = Instant::now();
            if now >= next {
                // An empty delta now and then keeps a quiet view's ids from growing too old.
                let force = now >= told + COMMENT_AFTER;
                if channel.tick(force) {
                    told = now;
                    next = now + every;
                } else if force {
                    channel.comment();
                    told = now;
                }
                break;
            }
            if !changed {
                break;
            }
            // Waits without holding the channel, which its last reader may leave meanwhile.
            drop(channel);
            tokio::time::sleep_until(next.min(now + LOOK_EVERY)).await;
        }
    }
}
