use super::feed::{Feed, Feeds, Portion};
use super::{Job, JobState};
use crate::server::testing;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Filter, JobResults};
use tallyflow_dataflows::spec::Dataflow;
use tallyflow_dataflows::update::Graph;

/// What may happen to a job of the leader, and to the way to a process that mirrors it.
#[derive(Clone, Debug)]
enum Step {
    Update(Vec<(u64, u64, Option<i64>)>),
    /// The engine is started again, and tells all there is in a later epoch.
    EngineAnew,
    /// So is the leader, which has shown nothing then; the connection is another one.
    LeaderAnew,
    Top(Option<usize>),
    /// The connection is another one.
    LinkAnew,
    /// What is to be told is told.
    Tell,
    /// A reader at the mirror takes what is new.
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..3u64, 0..4u64, prop::option::weighted(0.8, 0..5i64));
    prop_oneof![
        6 => prop::collection::vec(change, 0..4).prop_map(Step::Update),
        1 => Just(Step::EngineAnew),
        1 => Just(Step::LeaderAnew),
        1 => prop::option::of(1..3usize).prop_map(Step::Top),
        1 => Just(Step::LinkAnew),
        4 => Just(Step::Tell),
        3 => Just(Step::Read),
    ]
}

/// Lines as a reader holds them.
type Lines = BTreeMap<(String, String), Decimal>;

fn lines(results: &JobResults) -> Lines {
    let snapshot = results.snapshot(&Filter::default()).unwrap();
    let of = |subject: tallyflow_dataflows::results::SubjectTallies| {
        let name = subject.subject;
        subject.tallies.into_iter().map(move |tally| ((name.clone(), tally.group.text()), tally.value))
    };
    snapshot.subjects.into_iter().flat_map(of).collect()
}

/// Follows what the mirror tells, by deltas where it knows where the reader is.
fn read(mirror: &Job, seen: &mut Option<Epoch>, held: &mut Lines) {
    mirror.read(|results| {
        match seen.map(|seen| results.delta(seen, &Filter::default())) {
            Some(Ok(delta)) => {
                for change in delta.changes {
                    let line = (change.subject, change.group.text());
                    let before = match change.value {
                        Some(value) => held.insert(line.clone(), value),
                        None => held.remove(&line),
                    };
                    assert_eq!(before, change.was, "{line:?}");
                }
            }
            Some(Err(_)) | None => *held = lines(results),
        }
        assert_eq!(*held, lines(results));
        *seen = results.epoch();
    });
}

fn tell(leader: &Job, feed: &Feed, mirror: &mut Option<Arc<Job>>) {
    match feed.take(leader) {
        Portion::Whole(head) => match mirror {
            Some(mirror) => mirror.mirror_anew(*head),
            None => *mirror = Some(Arc::new(Job::mirror(*head))),
        },
        Portion::Changes(updates) => {
            let mirror = mirror.as_ref().expect("all there is comes first");
            updates.into_iter().for_each(|update| mirror.mirror_change(update));
        }
    }
}

fn anew(job: &Job, feeds: &Arc<Feeds>) -> Arc<Job> {
    let plan = job.plan();
    let (spec, inputs) = (plan.spec.clone(), plan.inputs.clone());
    Arc::new(Job::new(job.id, spec, inputs, 0, (Graph::default(), 0), 1, feeds.clone()))
}

fn link(feeds: &Feeds, before: Option<&Arc<Feed>>) -> Arc<Feed> {
    if let Some(before) = before {
        feeds.remove(before);
    }
    let feed = Arc::new(Feed::default());
    feeds.add(feed.clone());
    feed
}

fn run(steps: Vec<Step>) {
    let feeds: Arc<Feeds> = Arc::default();
    let mut leader = anew(&testing::job("moods"), &feeds);
    leader.set_state(JobState::Running, None);
    let mut feed = link(&feeds, None);
    let (mut mirror, mut seen, mut held) = (None, None, Lines::new());
    let mut engine = testing::Feed::starting_at(0);
    // What the engine would tell if it were started again.
    let restored = |leader: &Job, engine: &mut testing::Feed| {
        let mut all = leader.read(JobResults::as_update)?;
        engine.epoch += 1_000;
        all.epoch = Epoch(engine.epoch);
        Some(all)
    };
    for step in steps.into_iter().chain([Step::Tell, Step::Read]) {
        match step {
            Step::Update(changes) => drop(leader.apply(leader.id, engine.update(&changes))),
            Step::EngineAnew => {
                if let Some(all) = restored(&leader, &mut engine) {
                    leader.catch_up(leader.offsets());
                    leader.apply(leader.id, all);
                }
            }
            Step::LeaderAnew => {
                if let Some(all) = restored(&leader, &mut engine) {
                    let offsets = leader.offsets();
                    leader = anew(&leader, &feeds);
                    leader.catch_up(offsets);
                    feed = link(&feeds, Some(&feed));
                    tell(&leader, &feed, &mut mirror);
                    leader.apply(leader.id, all);
                }
            }
            Step::Top(top) => {
                let mut spec = leader.plan().spec.clone();
                if let Dataflow::Tally(tally) = &mut spec.dataflow {
                    tally.top = top;
                }
                leader.retune(spec);
            }
            Step::LinkAnew => feed = link(&feeds, Some(&feed)),
            Step::Tell => {
                tell(&leader, &feed, &mut mirror);
                let of = |job: &Job| {
                    job.read(|r| (r.epoch(), r.digest(), *r.accounting(), r.offsets(), r.shape().top, lines(r)))
                };
                assert_eq!(of(mirror.as_ref().unwrap()), of(&leader));
            }
            Step::Read => {
                if let Some(mirror) = &mirror {
                    read(mirror, &mut seen, &mut held);
                }
            }
        }
    }
}

proptest! {
    /// What is mirrored is what the leader shows, and readers of either come to the same.
    #[test]
    fn a_mirror_shows_what_the_leader_shows(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}

#[test]
fn too_many_changes_are_told_as_one_state() {
    let feeds: Arc<Feeds> = Arc::default();
    let leader = anew(&testing::job("moods"), &feeds);
    let feed = link(&feeds, None);
    let mut engine = testing::Feed::starting_at(0);
    leader.apply(leader.id, engine.update(&[(1, 1, Some(1))]));
    let mut mirror = None;
    tell(&leader, &feed, &mut mirror);
    for n in 0..10_000 {
        leader.apply(leader.id, engine.update(&[(1, 1, Some(n))]));
    }
    assert!(matches!(feed.take(&leader), Portion::Whole(_)));
    leader.apply(leader.id, engine.update(&[(1, 1, Some(3))]));
    assert!(matches!(feed.take(&leader), Portion::Changes(updates) if updates.len() == 1));
}
