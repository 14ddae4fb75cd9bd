//! A store that fails, answers late, loses its answers or hangs.

use crate::faulty::{Call, Fault, Faulty};
use crate::world::{DEADLINE, World};
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tallyflow_connectors::checkpoint_store::ObjectCheckpoints;
use tallyflow_dataflows::checkpoint::manifest::Place;
use tallyflow_dataflows::update::CheckpointEvent;

fn over(store: &Faulty) -> Arc<ObjectCheckpoints> {
    let store = ObjectCheckpoints::over(Arc::new(store.clone())).unwrap();
    Arc::new(store.with_call_max(Duration::from_millis(300)))
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn calls_of_every_kind_that_fail_for_a_while_cost_nothing() {
    let store = Faulty::new();
    let mut world = World::new(over(&store), 2);
    world.say(0..500);
    for (call, of) in [(Call::Put, "frames"), (Call::Put, "manifest"), (Call::List, ""), (Call::Delete, "")] {
        for fault in [Fault::Fails, Fault::AnswerLost] {
            world.say(0..100);
            world.checkpoint();
            store.next(call, of, fault, 2);
            world.bench.checkpoint();
            // What is said meanwhile is tallied meanwhile.
            world.say(200..300);
            let ended = world.ended();
            assert!(matches!(ended, CheckpointEvent::Taken { .. }), "{call:?} {of} {fault:?}: {ended:?}");
            store.mend();
        }
    }
    world.checkpoint();
    // An engine that is started then reads again until the store answers.
    for (call, of) in [(Call::List, ""), (Call::Put, "manifest"), (Call::Get, "manifest"), (Call::Get, "frames")] {
        store.next(call, of, Fault::Fails, 2);
        world.restart(3);
        assert_eq!(store.left(), 0, "{call:?} {of}");
    }
}

#[test]
fn a_manifest_whose_answer_was_lost_is_the_engines_own_and_fences_nobody() {
    for fault in [Fault::AnswerLost, Fault::AnswerLostAndTriedAgain] {
        let store = Faulty::new();
        let mut world = World::new(over(&store), 2);
        world.say(0..500);
        world.checkpoint();
        world.say(0..50);
        store.next(Call::Put, "manifest", fault, 1);
        world.checkpoint();
        assert_eq!(store.left(), 0);
        world.say(50..100);
        world.checkpoint();
        // So it is with a claim.
        store.next(Call::Put, "manifest", fault, 1);
        world.restart(3);
        assert_eq!(store.left(), 0);
        world.say(0..50);
        world.checkpoint();
        world.restart(1);
    }
}

#[test]
fn an_engine_that_lost_an_answer_and_its_job_since_is_fenced() {
    let store = Faulty::new();
    let mut world = World::new(over(&store), 2);
    world.say(0..500);
    world.checkpoint();
    world.say(0..50);
    // The manifest is there, the engine does not know, and another one takes the job up from it.
    store.next(Call::Put, "manifest", Fault::AnswerLost, 1);
    world.bench.checkpoint();
    eventually("the manifest is written", || store.left() == 0);
    let place = Place { folder: "job-1".into(), form: "a form".into() };
    let other = place.take_up(over(&store).as_ref(), |_| Ok(())).unwrap();
    assert!(other.loaded.is_some());
    assert_eq!(world.ended(), CheckpointEvent::Fenced);
}

#[test]
fn a_store_that_hangs_holds_up_the_checkpoint_and_nothing_else() {
    let store = Faulty::new();
    let mut world = World::new(over(&store), 2);
    world.say(0..500);
    world.checkpoint();
    world.say(0..50);
    store.next(Call::Put, "", Fault::Hangs, usize::MAX);
    let began = world.bench.checkpoint();
    world.say(50..400);
    world.bench.run_until(DEADLINE, |bench| bench.checkpoint_events.last().is_some_and(|(number, _)| *number == began));
    let (_, told) = world.bench.checkpoint_events.last().unwrap();
    assert!(matches!(told, CheckpointEvent::Failed { error, again: true } if error.contains("no answer within")));
    for round in 0..20 {
        world.say(round..round + 100);
    }
    assert_eq!(world.failures(), 1, "it is told once");
    store.mend();
    let ended = world.ended();
    assert!(matches!(ended, CheckpointEvent::Taken { .. }), "{ended:?}");
    world.checkpoint();
    world.restart(2);
}

#[test]
fn a_slow_store_holds_up_the_checkpoint_and_nothing_else() {
    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_millis(400),
        wait_list_with_delimiter_per_call: Duration::from_millis(100),
        wait_get_per_call: Duration::from_millis(50),
        wait_delete_per_call: Duration::from_millis(50),
        ..ThrottleConfig::default()
    };
    let throttled = ThrottledStore::new(InMemory::new(), slow);
    let mut world = World::new(Arc::new(ObjectCheckpoints::over(Arc::new(throttled)).unwrap()), 2);
    world.say(0..500);
    world.checkpoint();
    world.say(0..50);
    world.bench.checkpoint();
    let mut rounds = 0;
    while !world.bench.is_checkpointed() {
        world.say(rounds..rounds + 100);
        rounds += 1;
    }
    assert!(rounds > 3, "{rounds} rounds were tallied meanwhile");
    assert_eq!(world.failures(), 0);
    world.checkpoint();
    world.restart(3);
}

#[test]
fn a_put_that_is_only_late_is_not_taken_for_anothers() {
    let store = Faulty::new();
    let mut world = World::new(over(&store), 2);
    world.say(0..500);
    // Later than a call may take: the engine has given it up, and tries again.
    store.next(Call::Put, "manifest", Fault::Slow(Duration::from_millis(400)), 2);
    world.checkpoint();
    assert_eq!(world.failures(), 1);
    world.say(0..100);
    world.checkpoint();
    world.restart(2);
}
