//! The engine's polls equal the plain recount, for generated programs.
//!
//! Method: a program appends posts, edits, deletions, reposts and votes to a log, and opens, changes,
//! closes and deletes polls, now and in the past, while engines of 1, 2 and 4 workers read; what is read
//! again for one poll goes on beside what arrives. Every update that an engine publishes is compared with
//! a recount of exactly the records before its offsets, by the definitions of that moment: so no poll is
//! ever seen with numbers that are neither those before a change nor those after it, and at the end all is
//! as the definitions in force say. The digest is computed a second time here, with code of its own.
//!
//! `PROPTEST_CASES` sets how many programs are tried.

mod check;
mod node;
mod program;

use program::{From, Kind, Program, Record, Step, Terms, Wait, program};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::time::Duration;
use tallyflow_dataflows::spec::Keep;
use tallyflow_dataflows::spec::polls::{Choices, Match, Reposts};
use tallyflow_dataflows::testing::Crew;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/polls_equal_recount.txt",
        ))),
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 64;
    }
    config
}

fn run_all(program: &Program) {
    for workers in [1, 2, 4] {
        node::run(program, Crew::of(workers), Crew::of);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn polls_equal_a_plain_recount_at_every_epoch_whatever_becomes_of_them(program in program()) {
        run_all(&program);
    }
}

fn clusters() -> impl Strategy<Value = Crew> {
    prop::sample::select(vec![(2, 1), (2, 2), (4, 1), (4, 2)])
        .prop_map(|(processes, workers)| Crew { processes, workers })
}

/// Another crew for each number that a program names.
fn another(number: usize) -> Crew {
    let (processes, workers) = [(2, 1), (1, 2), (4, 1), (2, 2), (3, 1)][number % 5];
    Crew { processes, workers }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn polls_of_a_cluster_equal_a_plain_recount_whatever_becomes_of_them(program in program(), crew in clusters()) {
        node::run(&program, crew, another);
    }
}

// ---- what was found

/// A poll that closes a nanosecond after a whole millisecond: what the log took at that millisecond counts.
#[test]
fn what_reaches_the_log_in_the_millisecond_in_which_a_poll_closes_counts() {
    let terms = Terms {
        options: vec!["happy".into()],
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_in_ms: 0,
        closes_in_ms: Some(100),
        closes_ns: 1,
        grace: Duration::ZERO,
    };
    let happy = |after_ms, id: u32| {
        let kind = Kind::Post(format!(r#""id":{id},"author":"a","text":"happy""#), Some(-50));
        Record { after_ms, partition: 0, kind }
    };
    run_all(&Program {
        partitions: 1,
        drip: false,
        before: Vec::new(),
        first: vec![Some((terms, From::Beginning))],
        steps: vec![(Step::Records(vec![happy(100, 1), happy(1, 2)]), Wait::Idle), (Step::Seal, Wait::Idle)],
    });
}
