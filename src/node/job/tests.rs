use super::{Job, JobState};
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::engine::job::{Halt, InstallInput, Start};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::spec::{JobFile, Surroundings};
use tallyflow_dataflows::update::{EpochUpdate, Graph, JobId, ReadTo};

const FILE: &str = "name = \"votes\"\ndataflow = \"tally\"\n[[input]]\ntopic = \"votes\"\nformat = \"json\"\n\
                    [tally]\ngroup = \"/option\"\n";

fn job() -> Job {
    let around = Surroundings { formats: &BuiltinFormats, partitions: &|_| Some(1), topics: vec!["votes".to_owned()] };
    let spec = JobFile::parse_toml(FILE, &around).unwrap();
    let start = Start { partition: PartitionId(0), from: Offset(0), until: None };
    let input = InstallInput {
        topic: "votes".to_owned(),
        incarnation: None,
        partitions: vec![start],
        from_ms: None,
        until_ms: None,
    };
    Job::new(JobId(1), spec, vec![input], 0, (Graph::default(), 0), 1, std::sync::Arc::default())
}

fn read_to(job: &Job, epoch: u64, next: u64) {
    let read = ReadTo { input: 0, partition: PartitionId(0), next: Offset(next), end: Offset(next) };
    let update = EpochUpdate { epoch: Epoch(epoch), offsets: vec![read], ..EpochUpdate::default() };
    job.apply(JobId(1), update);
}

#[test]
fn an_engine_that_ends_before_it_was_there_leaves_the_next_one_where_it_should_have_come() {
    let job = job();
    // The server was started again; before that readers saw up to offset 10.
    job.catch_up(vec![vec![Offset(10)]]);
    read_to(&job, 1, 6);
    // The engine ends; nothing is shown yet.
    job.catch_up(job.offsets());
    read_to(&job, 2, 8);
    assert_eq!((job.read(|_| ()), job.state()), (None, JobState::Recovering));
    read_to(&job, 3, 10);
    assert_eq!((job.read(|results| results.epoch()), job.state()), (Some(Some(Epoch(3))), JobState::Running));
}

#[test]
fn a_job_that_is_paused_while_it_catches_up_stops_where_readers_have_seen_it() {
    let job = job();
    job.catch_up(vec![vec![Offset(10)]]);
    let halt = job.set_halt(Some(Halt { number: 1, until: None }), true);
    assert_eq!(halt, Some(Halt { number: 1, until: Some(vec![vec![Offset(10)]]) }));
    assert_eq!(job.halt(), halt);
    read_to(&job, 1, 10);
    let halt = Some(Halt { number: 2, until: None });
    assert_eq!(job.set_halt(halt.clone(), true), halt);
}
