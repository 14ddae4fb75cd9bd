//! S3, as a server speaks it. `scripts/s3-tests` starts one and runs these.

use crate::world::World;
use std::sync::Arc;
use tallyflow_connectors::checkpoint_store::{CheckpointPlace, ObjectCheckpoints};
use tallyflow_dataflows::checkpoint::CheckpointStore;

/// A prefix of its own in the bucket that is there for tests; none, and a line that says so, where none is.
fn store(test: &str) -> Option<Arc<ObjectCheckpoints>> {
    let Ok(url) = std::env::var("TALLYFLOW_TEST_S3") else {
        println!(
            "SKIPPED: TALLYFLOW_TEST_S3 names no bucket (s3://BUCKET, with AWS_* saying how to reach it); scripts/s3-tests starts a server that speaks S3 and runs this"
        );
        return None;
    };
    if !cfg!(feature = "cloud") {
        println!("SKIPPED: built without the feature `cloud`");
        return None;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let place = CheckpointPlace::parse(&format!("{url}/{test}-{}", since.as_nanos())).unwrap();
    Some(Arc::new(ObjectCheckpoints::at(&place).unwrap()))
}

#[test]
fn objects_come_and_go_in_a_bucket() {
    let Some(store) = store("objects") else { return };
    assert_eq!(store.list("job-1").unwrap(), Vec::<String>::new());
    assert_eq!(store.get("job-1/a").unwrap(), None);
    store.put("job-1/b", b"one").unwrap();
    store.put("job-1/b", b"two").unwrap();
    assert!(store.put_new("job-1/a", b"first").unwrap());
    assert!(!store.put_new("job-1/a", b"second").unwrap());
    assert_eq!(store.get("job-1/a").unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(store.get("job-1/b").unwrap().as_deref(), Some(&b"two"[..]));
    store.put("job-10/c", b"").unwrap();
    assert_eq!(store.list("job-1").unwrap(), ["job-1/a", "job-1/b"]);
    store.delete("job-1/a").unwrap();
    store.delete("job-1/a").unwrap();
    assert_eq!(store.list("job-1").unwrap(), ["job-1/b"]);
}

#[test]
fn a_list_of_several_pages_is_whole() {
    let Some(store) = store("pages") else { return };
    let name = |n: usize| format!("job-1/{n:010}.manifest");
    // S3 answers with a thousand names at a time.
    const NAMES: usize = 1_050;
    std::thread::scope(|scope| {
        for part in 0..4 {
            let store = &store;
            scope.spawn(move || (part..NAMES).step_by(4).for_each(|n| store.put(&name(n), b"x").unwrap()));
        }
    });
    assert_eq!(store.list("job-1").unwrap(), (0..NAMES).map(name).collect::<Vec<_>>());
}

#[test]
fn a_bucket_that_is_not_there_is_an_error_that_names_what_was_asked_for() {
    if store("none").is_none() {
        return;
    }
    let place = CheckpointPlace::parse("s3://tallyflow-no-such-bucket/prefix").unwrap();
    let store = ObjectCheckpoints::at(&place).unwrap();
    let error = store.put_new("tallyflow.json", b"").unwrap_err().to_string();
    assert!(error.contains("tallyflow.json") && error.contains("NoSuchBucket"), "{error}");
}

#[test]
fn a_job_goes_on_from_a_bucket_with_another_number_of_workers() {
    let Some(store) = store("engine") else { return };
    let mut world = World::new(store, 2);
    world.say(0..5_000);
    world.checkpoint();
    for (round, workers) in [(1, 3), (2, 1), (3, 2)] {
        world.say(round * 100..round * 100 + 1_000);
        world.checkpoint();
        world.restart(workers);
    }
}
