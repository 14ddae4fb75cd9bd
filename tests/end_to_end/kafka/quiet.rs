//! What is the same as without Kafka, and what nobody gets to see.

use super::{Broker, consumer, job, name, record, serve};
use crate::support::{Server, eventually, tallyflow};
use crate::votes;
use rdkafka::consumer::Consumer;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

#[test]
fn the_same_job_file_comes_to_the_same_digest_in_kafka_and_in_the_embedded_log() {
    let Some(brokers) = Broker::shared() else { return };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let servers = [Server::start(first.path(), 2), serve(second.path(), &brokers, &name("same"))];
    let [embedded, kafka] = servers.map(|server| {
        server.http.create_topic("votes", 3);
        server.http.submit(votes::JOB);
        for from in (0..3_000).step_by(500) {
            server.http.post("/api/topics/votes/records?key=/voter", votes::lines(from, from + 500)).ok();
        }
        let tallies = server.http.tallies_of("votes", 3_000);
        votes::assert_counts(&tallies, 3_000);
        server.http.recount("votes");
        tallies
    });
    assert_eq!(embedded.digest, kafka.digest);
    assert_eq!(embedded.accounting, kafka.accounting);
}

#[test]
fn no_consumer_group_is_joined_or_made() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = name("groups");
    let server = serve(dir.path(), &brokers, &name("groups-server"));
    server.http.create_topic(&topic, 2);
    server.http.submit(&job(&topic));
    server.http.append(&topic, record(1));
    server.http.tallies_of(&topic, 1);
    server.http.recount(&topic);
    let groups = consumer(&brokers).fetch_group_list(None, Duration::from_secs(20)).unwrap();
    let names: Vec<&str> = groups.groups().iter().map(|group| group.name()).collect();
    assert!(names.is_empty(), "{names:?}");
}

const USER: &str = "hush-user-4711";
const PASSWORD: &str = "hush-password-0815";
const CLIENT: &str = "hush-client-1234";

/// A configuration with secrets, in the text, in a file and in the environment, for servers that log all.
fn configure(dir: &Path, brokers: &str, protocol: &str) -> std::path::PathBuf {
    std::fs::write(dir.join("password"), format!("{PASSWORD}\n")).unwrap();
    let text = format!(
        "[kafka]\nbrokers = \"{brokers}\"\nprefix = \"{}\"\n[kafka.properties]\n\
         \"security.protocol\" = \"{protocol}\"\n\"sasl.mechanisms\" = \"PLAIN\"\n\
         \"sasl.username\" = \"{USER}\"\n\"sasl.password\" = {{ file = \"{}\" }}\n\
         \"client.rack\" = {{ env = \"HUSH_RACK\" }}\n\"debug\" = \"all\"\n",
        name("secrets"),
        dir.join("password").display()
    );
    let config = dir.join("tallyflow.toml");
    std::fs::write(&config, text).unwrap();
    config
}

#[track_caller]
fn assert_hushed(what: &str, text: &str) {
    for secret in [USER, PASSWORD, CLIENT] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{what} shows {secret}: {line:?}");
    }
}

#[test]
fn secrets_are_shown_nowhere_while_all_is_well_and_while_it_is_not() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = name("secrets");
    let config = configure(dir.path(), &brokers, "plaintext");
    let options =
        [("TALLYFLOW_CONFIG", config.to_str().unwrap()), ("TALLYFLOW_LOG_LEVEL", "debug"), ("HUSH_RACK", CLIENT)];
    let server = Server::start_with(&dir.path().join("data"), 2, &options);
    let http = &server.http;
    http.create_topic(&topic, 1);
    http.submit(&job(&topic));
    http.append(&topic, record(1));
    http.tallies_of(&topic, 1);
    for path in ["/api/jobs", "/api/topics", "/api/cluster", "/metrics", "/readyz", "/openapi.json"] {
        assert_hushed(path, &http.get(path).ok().text);
    }
    for pid in [server.pid(), http.engine_pid(None)] {
        assert_hushed("the command line", &std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
    }
    let said = server.stderr();
    assert!(said.contains("librdkafka"), "it logs all: {said}");
    assert_hushed("the log", &said);
    drop(server);

    // A broker that takes no password, asked with one.
    let config = configure(dir.path(), &brokers, "sasl_plaintext");
    let said = dir.path().join("stderr");
    let mut child = tallyflow()
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "debug", "--data-dir"])
        .arg(dir.path().join("other"))
        .arg("--config")
        .arg(&config)
        .env("HUSH_RACK", CLIENT)
        .stderr(File::create(&said).unwrap())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let text = eventually("it says what is the matter", || {
        let text = String::from_utf8_lossy(&std::fs::read(&said).unwrap()).into_owned();
        text.contains("waited for").then_some(text)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_hushed("the log", &text);
}
