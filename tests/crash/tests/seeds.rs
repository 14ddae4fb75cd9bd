//! What the crash test has found, each as a script of its own; the number is that of the seed which found it.
//! `cargo test -p tallyflow-crash --test seeds` runs them; it builds the server with its fail points first.

use std::path::Path;
use std::sync::OnceLock;
use tallyflow_crash::kafka::Log;
use tallyflow_crash::program;
use tallyflow_crash::script::{Action, Step, play};

fn server() -> &'static Path {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| program::build().unwrap())
}

fn start(fail_points: &'static str) -> Step {
    Step::Start { workers: 2, fail_points }
}

/// A server was started again, and its engine died before it had read as far as the log had reached: the next
/// engine took the nothing that was shown yet for where it had to come, and readers saw numbers fall back.
#[test]
fn seed_1_an_engine_that_ends_while_a_restarted_server_catches_up_shows_no_old_numbers() {
    let mut script = vec![Step::Run(1_500)];
    for fail_points in ["engine::tell=4*off->return", "engine::tell=8*off->return", "engine::tell=16*off->return"] {
        script.extend([start(fail_points), Step::Run(1_500)]);
    }
    script.push(start(""));
    script.push(Step::Check);
    play(server(), 1, &Log::Embedded, &script).unwrap();
}

/// `restart --ignore-state` threw the dead letters away before it was noted that the job begins anew: a server
/// that ended in between went on from the checkpoint, and never met their records again.
#[test]
fn seed_1_a_server_that_ends_in_a_restart_without_state_loses_no_dead_letters() {
    let restart = Action::Restart { job: "firsts", ignore_state: true };
    let script = [
        Step::Run(500),
        Step::Act(Action::Checkpoint("firsts")),
        // The first note is of the epochs that the engine gets.
        start("control::note=1*off->return"),
        Step::Act(restart),
        Step::Check,
    ];
    play(server(), 1, &Log::Embedded, &script).unwrap();
}

/// A job was restarted before the restarted server had shown anything: its epochs began near 0 again, and
/// readers saw ids fall.
#[test]
fn seed_100_a_restart_just_after_the_server_was_started_makes_no_epoch_fall() {
    let restart = |job, ignore_state| Step::Act(Action::Restart { job, ignore_state });
    let script = [
        // The second engine's epochs are far from 0.
        start(""),
        Step::Run(1_000),
        // Nothing is shown for a while.
        start("restore::claim=sleep(150)"),
        restart("firsts", true),
        restart("bank", true),
        restart("orders", false),
        Step::Run(3_000),
        Step::Check,
    ];
    play(server(), 100, &Log::Embedded, &script).unwrap();
}

/// A job was paused while the restarted server caught up: it stopped where it just was, the next server came
/// back to there, and readers saw less than before.
#[test]
fn seed_101_a_job_that_is_paused_while_a_restarted_server_catches_up_shows_no_old_numbers() {
    let script = [
        Step::Run(1_500),
        // The last of the jobs is told to stop as soon as it is installed.
        start("restore::claim=sleep(100)"),
        Step::Act(Action::Pause("polls")),
        start(""),
        Step::Run(1_000),
        Step::Check,
    ];
    play(server(), 101, &Log::Embedded, &script).unwrap();
}

/// Whether there is a broker to be had; that there is none is said.
fn no_kafka() -> bool {
    let none = std::env::var_os("TALLYFLOW_TEST_KAFKA").is_none();
    if none {
        eprintln!("skipped: it wants a Kafka broker; run scripts/kafka-tests");
    }
    none
}

/// The worst moments of an append under a key: before its transaction, when all is written, when it was
/// committed and nobody has been told.
#[test]
fn with_kafka_an_append_is_written_once_wherever_its_server_ends() {
    if no_kafka() {
        return;
    }
    let mut script = vec![Step::Run(1_000)];
    for fail_points in
        ["append::begin=5*off->return", "append::written=5*off->return", "append::committed=5*off->return"]
    {
        script.extend([start(fail_points), Step::Run(20_000), Step::Check]);
    }
    play(server(), 1, &Log::Kafka, &script).unwrap();
}

#[test]
fn with_kafka_a_broker_that_is_killed_and_one_that_stands_still_lose_nothing() {
    if no_kafka() {
        return;
    }
    let script = [
        Step::Run(1_000),
        Step::Act(Action::KillBroker { ms: 500 }),
        // Started while there is no broker.
        start(""),
        Step::Check,
        Step::Act(Action::FreezeBroker { ms: 13_000 }),
        Step::Run(500),
        Step::Check,
    ];
    play(server(), 1, &Log::Kafka, &script).unwrap();
}
