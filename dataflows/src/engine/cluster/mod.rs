//! One dataflow over several processes.
//!
//! Each process has an engine; process 0 leads. Between each two of them there are two connections: one
//! carries timely's channels, the other, the wire, carries notes between the engines themselves, written
//! and read by threads of their own, so that they pass while workers restore or are busy.
//!
//! ```text
//!   node 0 --commands--> front 0 --orders--> front 1, 2, ..      what is to be done, in one order
//!   workers of I --------clock, failures, parts of checkpoints--> the others
//!   collector (on 0) --events--> node 0                          what is told
//!   every process ------beats--> every other one                 five times a second
//! ```
//!
//! What workers of one process share through memory holds over processes as follows.
//!
//! * **Commands** are given to the leader. Its front orders them to the fronts of all, which hand them to
//!   their workers: one author and connections that keep their order make one order everywhere. The leader
//!   alone takes a job up from the store; the others read the checkpoint that it names.
//! * **Epochs.** Each process has a clock of each job. Who ends an epoch tells the number of the next one,
//!   and a clock goes by the greatest number that it was told. A source holds its capability at the clock
//!   of its process, so an epoch closes once all have heard that it has ended. Nothing read, nothing told.
//!   A process that makes a job's clock asks the others where theirs are.
//! * **Checkpoints.** A process whose workers have all brought the command holds its clock and tells the
//!   leader where it stands. The greatest of these is the checkpoint's epoch: nothing of a later one is
//!   there yet. The leader tells it, and the clocks go on. Each process writes files of its own key groups;
//!   the leader puts the manifest once it knows those of all.
//! * **Polls.** Where a poll or a refill begins where reading stands, the leader has the sources of all
//!   processes stop, merges where they stand, has all change their book, and only then lets them read on:
//!   no claim comes to a worker that does not know its poll. A refill ends in the leader's book, with the
//!   epoch that shows it, and a moment later in the others; what they judge meanwhile is told with the
//!   number of the refill and counted by it.
//! * **Results.** All collectors that gather something are on the leader, and events go to its node.
//! * **Failures.** A source whose job has failed keeps its capability, so no epoch after the failure
//!   closes anywhere, whether the others have heard of it or not.
//! * **Bounds.** Epochs in flight bound the exchange, as within a process. Each process says in its beats
//!   whether its node is behind or what it has to send piles up, and the sources of all wait for that.
//!
//! A process that is lost or silent ends all: nothing closes without it. A lost connection panics, and
//! [`Engine::peers`](crate::engine::Engine::peers) tells of silence.

mod meeting;
mod stream;
mod wire;

pub use meeting::{Cluster, JoinError, Meeting, Membership};
pub use wire::PeerState;
pub(super) use wire::{Due, Note, Order, PartFrame, Station, Taken, Wire};

use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::initialize::Hooks;

use std::sync::Arc;
use stream::DataStream;

/// Timely's part of the connections: what its workers are built of, and its threads.
pub(super) fn channels(cluster: &Cluster, wire: &Arc<Wire>) -> std::io::Result<(Vec<AllocatorBuilder>, CommsGuard)> {
    let Membership { process, workers, .. } = cluster.membership;
    let hooks = Hooks::default();
    let within = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
    let mut streams = Vec::new();
    for (peer, pair) in cluster.pairs.iter().enumerate() {
        streams.push(match pair {
            Some(pair) => Some(DataStream::new(pair.data.try_clone()?, peer, wire.clone())),
            None => None,
        });
    }
    let (builders, threads) = initialize_networking_from_sockets(within, streams, process, workers, hooks)?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), threads))
}
