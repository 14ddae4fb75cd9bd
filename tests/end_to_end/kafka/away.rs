//! Brokers that are away for a while, for good, or have no room left.

use super::{Broker, Poster, SOON_GIVEN_UP, assert_counted, job, serve};
use crate::support::{Board, Mount, eventually, signal, tallyflow};
use std::fs::File;
use std::io::Read;
use std::process::Child;

#[test]
fn while_the_broker_is_away_writers_are_told_to_come_again_and_readers_keep_what_they_have() {
    let Some(broker) = Broker::start(&SOON_GIVEN_UP) else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &broker.address, "t");
    let http = &server.http;
    http.create_topic("moods", 2);
    http.submit(&job("moods"));
    let (events, mut board) = (server.events("/api/jobs/moods/events?every=0"), Board::default());
    let poster = Poster::start(http, "moods");
    eventually("some is counted", || (http.tallies("moods").accounting.read > 200).then_some(()));
    broker.kill(1);
    eventually("a writer is refused", || (poster.posted().refusals > 0).then_some(()));
    // What was counted is still there to be seen, by those who come and by those who are there.
    let shown = http.tallies("moods");
    while board.accounting.read < shown.accounting.read {
        board.follow(&events.next().expect("the stream goes on"));
    }
    board.assert_shows(&http.tallies("moods"));
    http.get("/api/jobs/moods").ok();
    http.get("/healthz").ok();
    let before = poster.acknowledged();
    broker.revive(1);
    eventually("writers are served again", || (poster.acknowledged() > before + 200).then_some(()));
    let posted = poster.stop();
    let records = assert_counted(http, &broker.address, "moods", 2, &posted);
    while board.accounting.read < records {
        board.follow(&events.next().expect("the stream goes on"));
    }
    board.assert_shows(&http.tallies("moods"));
    assert_eq!(board.snapshots, 1, "the reader has never been cut off");
    http.wait_for_state("moods", "running");
}

#[test]
fn a_server_that_is_started_while_the_broker_is_away_says_so_waits_and_runs() {
    let Some(broker) = Broker::start(&SOON_GIVEN_UP) else { return };
    let dir = tempfile::tempdir().unwrap();
    broker.kill(1);
    let (said, listens) = (dir.path().join("stderr"), dir.path().join("stdout"));
    let start = || {
        tallyflow()
            .args(["serve", "--listen", "127.0.0.1:0", "--kafka", &broker.address, "--data-dir"])
            .arg(dir.path().join("data"))
            .stdout(File::create(&listens).unwrap())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap()
    };
    let read = |path: &std::path::Path| {
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let waits = |child: &mut Child| {
        eventually("it says what it waits for", || {
            assert!(child.try_wait().unwrap().is_none(), "it waits: {}", read(&said));
            let text = read(&said);
            (text.contains(&format!("Kafka at {}", broker.address)) && text.contains("waited for")).then_some(())
        });
    };
    // Asked to end meanwhile, it does so at once, and not with an error when it has waited for long enough.
    let mut child = start();
    waits(&mut child);
    signal(child.id(), "TERM");
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert!(status.success(), "{status}: {}", read(&said));
    let mut child = start();
    waits(&mut child);
    assert_eq!(read(&listens), "");
    broker.revive(1);
    eventually("it listens", || {
        assert!(child.try_wait().unwrap().is_none(), "it runs: {}", read(&said));
        read(&listens).contains("listening on http://").then_some(())
    });
    // It does not change its mind with every try while the broker starts.
    let text = read(&said);
    let (away, back) = (text.matches("can't be reached").count(), text.matches("answers again").count());
    assert!(away == back && away <= 2, "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn with_three_brokers_the_loss_of_one_leader_changes_no_number() {
    let args: Vec<&str> = ["--brokers", "3"].into_iter().chain(SOON_GIVEN_UP).collect();
    let Some(broker) = Broker::start(&args) else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &broker.address, "t");
    server.http.create_topic("moods", 3);
    server.http.submit(&job("moods"));
    let poster = Poster::start(&server.http, "moods");
    eventually("some is counted", || (server.http.tallies("moods").accounting.read > 200).then_some(()));
    // With three partitions each broker leads one.
    broker.kill(2);
    let before = poster.acknowledged();
    eventually("writing goes on", || (poster.acknowledged() > before + 300).then_some(()));
    let read = server.http.tallies("moods").accounting.read;
    eventually("counting goes on", || (server.http.tallies("moods").accounting.read > read).then_some(()));
    let posted = poster.stop();
    assert_counted(&server.http, &broker.address, "moods", 3, &posted);
}

#[test]
fn a_broker_whose_disk_is_full_refuses_and_what_it_had_acknowledged_is_counted() {
    if std::env::var_os("TALLYFLOW_TEST_KAFKA").is_none() {
        eprintln!("skipped: it wants a Kafka broker; run scripts/kafka-tests");
        return;
    }
    let Some(mount) = Mount::new("size=160m") else { return };
    let Some(broker) = Broker::start_in(mount.path(), &SOON_GIVEN_UP) else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &broker.address, "t");
    server.http.create_topic("moods", 1);
    server.http.submit(&job("moods"));
    let poster = Poster::start(&server.http, "moods");
    eventually("some is counted", || (server.http.tallies("moods").accounting.read > 200).then_some(()));
    // All the room that is left.
    let ballast = mount.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let mebibyte = vec![1; 1 << 20];
    while std::io::Write::write_all(&mut file, &mebibyte).is_ok() {}
    eventually("a writer is refused", || (poster.posted().refusals > 0).then_some(()));
    let shown = server.http.tallies("moods");
    assert!(shown.accounting.read > 200);
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    // A broker that can't write its log ends.
    let pid = || broker.pid(1).filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
    eventually("the broker has ended", || pid().is_none().then_some(()));
    let before = poster.acknowledged();
    broker.revive(1);
    eventually("writers are served again", || (poster.acknowledged() > before + 50).then_some(()));
    let posted = poster.stop();
    assert_counted(&server.http, &broker.address, "moods", 1, &posted);
    assert!(server.http.job("moods")["error"].is_null());
    drop(server);
}
