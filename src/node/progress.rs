//! How far jobs have read, told to Kafka for tools that show the lag of consumer groups.

use crate::node::Node;
use crate::node::supervise::is_live;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tallyflow_connectors::log::kafka::Progress;
use tallyflow_dataflows::ids::Offset;

/// How often it is told, where it has changed.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A job's group, and what was last told of it.
struct Told {
    group: Progress,
    offsets: BTreeMap<String, Vec<Offset>>,
}

impl Node {
    /// Starts the thread that tells it, where that is wanted.
    pub(super) fn tell_progress(self: &Arc<Self>) -> std::io::Result<()> {
        let Some(kafka) = self.config.kafka.as_ref().filter(|kafka| kafka.lag_groups.is_some()) else { return Ok(()) };
        let (config, prefix) = (kafka.config.clone(), kafka.lag_groups.clone().unwrap_or_default());
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
            let mut told: HashMap<String, Told> = HashMap::new();
            let mut is_behind = false;
            while let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) {
                let jobs: Vec<_> = node.jobs().into_iter().filter(|job| is_live(job.state())).collect();
                drop(node);
                told.retain(|name, _| jobs.iter().any(|job| job.name() == name));
                let mut failed = None;
                for job in jobs {
                    let Some(offsets) = job.read(|results| results.offsets()) else { continue };
                    let name = job.name().to_owned();
                    if told.get(&name).is_some_and(|told| told.offsets == offsets) {
                        continue;
                    }
                    let group = match told.remove(&name) {
                        Some(told) => Ok(told.group),
                        None => Progress::of(&config, &format!("{prefix}{name}")),
                    };
                    match group.and_then(|group| group.commit(&offsets).map(|()| group)) {
                        Ok(group) => drop(told.insert(name, Told { group, offsets })),
                        Err(error) => failed = Some(error),
                    }
                }
                if let Some(error) = failed.as_ref().filter(|_| !is_behind) {
                    tracing::warn!("tools that show lag see an old one: {error}");
                }
                is_behind = failed.is_some();
                std::thread::sleep(TELL_EVERY);
            }
        })?;
        Ok(())
    }
}
