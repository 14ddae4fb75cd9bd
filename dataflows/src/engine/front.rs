//! Commands pass here on their way to the workers: a job that goes on from a checkpoint comes to them with
//! what was read of it. On a thread of its own, since reading may take seconds.

use crate::checkpoint::StoreError;
use crate::checkpoint::manifest::{Checkpoint, Latest, LoadError, Place};
use crate::crash;
use crate::engine::checkpoints::{Message, Piece};
use crate::engine::job::{Install, Origin, Outbox};
use crate::engine::{Command, Shared, lock};
use crate::spec::polls::PollKey;
use crate::update::{EngineEvent, JobId};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How often a store that does not answer is asked, and how long it is left alone in between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Front {
    commands: Sender<Command>,
}

impl Front {
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (commands, passed) = channel();
        std::thread::Builder::new().name("commands".to_owned()).spawn(move || run(&shared, &passed))?;
        Ok(Front { commands })
    }

    /// Passes a command on, after all that came before it.
    pub fn pass(&self, command: Command) {
        // The thread ends when this is dropped.
        self.commands.send(command).ok();
    }
}

fn run(shared: &Shared, commands: &Receiver<Command>) {
    while let Ok(command) = commands.recv() {
        match &command {
            Command::Install(install) => {
                if let Some(place) = &install.keep {
                    let told = take_up(shared, install.job, place, &|checkpoint| is_of_use(install, checkpoint));
                    if let Some(told) = told {
                        Outbox::new(shared.config.deliver.clone(), shared.waiting.clone()).send(told);
                    }
                }
            }
            Command::Keep { job, place } => {
                let of_another_form = |_: &Checkpoint| Err("it is of what was there before".to_owned());
                take_up(shared, *job, place, &of_another_form);
            }
            _ => {}
        }
        shared.push(command);
    }
}

/// Claims a job's place and reads what it goes on from; answers what is to be told of that.
fn take_up(
    shared: &Shared,
    job: JobId,
    place: &Place,
    is_of_use: &dyn Fn(&Checkpoint) -> Result<(), String>,
) -> Option<EngineEvent> {
    let (Some(store), Some(writer)) = (&shared.config.checkpoints, &shared.writer) else { return None };
    let mut tries = 0;
    crash::point("restore::claim");
    let latest = loop {
        tries += 1;
        match place.take_up(store.as_ref(), is_of_use) {
            Err(LoadError::Store(StoreError(why))) if tries < TRIES && !shared.stop.load(Ordering::Acquire) => {
                tracing::warn!("the checkpoints in {} can't be read ({why}); trying again", place.folder);
                std::thread::sleep(PAUSE);
            }
            latest => break latest,
        }
    };
    let Latest { loaded, passed_over, claim } = match latest {
        Ok(latest) => latest,
        Err(error) => {
            lock(&shared.origins).insert(job, Origin::Refused(error.to_string()));
            return None;
        }
    };
    crash::point("restore::claimed");
    let loaded = loaded.map(Arc::new);
    let from = loaded.as_ref().map(|loaded| (loaded.number, loaded.checkpoint.epoch));
    writer.send(Message { job, piece: Piece::TakenUp { place: place.clone(), claim, from: loaded.clone() } }).ok();
    if let Some(loaded) = loaded {
        lock(&shared.origins).insert(job, Origin::Checkpoint(loaded));
    }
    Some(EngineEvent::TakenUp { job, from, passed_over })
}

/// Whether a job can go on from a checkpoint: its polls must be those that were shown then, and such as
/// have opened since.
fn is_of_use(install: &Install, checkpoint: &Checkpoint) -> Result<(), String> {
    let shown: HashSet<&PollKey> = checkpoint.polls.iter().collect();
    let keys: Vec<PollKey> = install.polls.iter().map(|poll| poll.key()).collect();
    if let Some(gone) = checkpoint.polls.iter().find(|shown| !keys.contains(shown)) {
        return Err(format!("poll {:?} was changed or deleted since", gone.id));
    }
    for (poll, key) in install.polls.iter().zip(&keys).filter(|(_, key)| !shown.contains(key)) {
        let has_opened_since = checkpoint.offsets.iter().all(|read| {
            let of_input = poll.from.get(read.input as usize);
            of_input.and_then(|from| from.get(read.partition.0 as usize)).is_some_and(|from| *from >= read.next)
        });
        if !has_opened_since {
            return Err(format!("poll {:?} counts records from before it and is not in it", key.id));
        }
    }
    Ok(())
}
