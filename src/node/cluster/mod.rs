//! Several processes, one dataflow. Each has an engine; process 0 leads: it has the jobs, gives the commands,
//! feeds the sinks. The others mirror its jobs, so that each answers readers by itself, and pass on what else
//! they are asked.
//!
//! ```text
//!   leader (0) --what is to run, what jobs show--> members 1, 2, ..     a connection with each
//!       |      <--where engines wait, what ended--     |
//!    engine 0 <-------------- timely ---------------> engine 1, 2, ..
//! ```
//!
//! An engine that is lost, frozen or cut off ends all of them: the others notice, or the leader tells. Then all
//! start again once all processes are there, and go on from the newest checkpoint; readers keep their numbers
//! meanwhile, at every process that lives.

mod hello;
mod leader;
mod member;

pub use hello::Us;
pub use leader::Members;
pub use member::Member;

use crate::config::Config;
use crate::node::ClusterStatus;
use crate::node::job::JobHead;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tallyflow_dataflows::update::{EpochUpdate, JobId};

/// How often each side gives a sign of life, and after what time without one it counts as lost.
const BEAT: Duration = Duration::from_millis(200);
const SILENCE_MAX: Duration = crate::node::engine_process::SILENCE_MAX;

/// What all processes must agree on, in words. Brokers may have other names for each.
pub fn configuration(config: &Config, control_topic: &str) -> String {
    let hosts = config.cluster.iter().flat_map(|cluster| &cluster.hosts);
    let hosts: Vec<_> = hosts.map(ToString::to_string).collect();
    let (processes, place) = (hosts.len(), config.checkpoints_place());
    format!("{processes} processes at {}, the topic {control_topic}, checkpoints in {place}", hosts.join(", "))
}

/// From the leader to a member.
#[derive(Debug, Serialize, Deserialize)]
enum ToMember {
    /// A sign of life.
    Beat,
    /// All there is of a job.
    Job(Box<JobHead>),
    /// What has changed in it, oldest first.
    Changes { job: JobId, updates: Vec<EpochUpdate> },
    /// Its status, as JSON.
    Status { job: JobId, status: String },
    /// What [`News`] says, as JSON.
    News(String),
    /// An engine is to be started, and an earlier one ended.
    Start { run: u64, workers: usize, token: [u8; 16] },
    /// Where the engines of that run wait, by process.
    Meet { run: u64, addresses: Vec<String> },
    /// The engine of that run is to be ended.
    Stop { run: u64 },
}

/// From a member to the leader.
#[derive(Debug, Serialize, Deserialize)]
enum ToLeader {
    Beat,
    /// The engine of that run waits at this port.
    Waits {
        run: u64,
        port: u16,
        pid: u32,
    },
    /// The engine of that run has ended, or was not started.
    Ended {
        run: u64,
        why: String,
    },
}

/// What a member tells of the cluster, as the leader sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct News {
    cluster: ClusterStatus,
    /// Why it is not ready; `None`: it is.
    unready: Option<String>,
}
