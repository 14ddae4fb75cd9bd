//! The server and its engine at brokers that want TLS and a password. It wants a build with the feature `tls`:
//! `scripts/kafka-tests --features tls`.

use super::{Broker, Poster, assert_counted, job};
use crate::support::{Server, eventually};

#[test]
fn over_tls_and_with_a_password_a_server_counts_and_goes_on_after_a_restart() {
    let Some(broker) = Broker::start(&["--tls-sasl"]) else { return };
    let secrets = std::fs::read_to_string(broker.file("secrets")).unwrap();
    let secret = |name: &str| secrets.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tallyflow.toml");
    let text = format!(
        "[kafka]\nbrokers = \"{}\"\n[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\n\
         \"ssl.ca.location\" = \"{}\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"{}\"\n\
         \"sasl.password\" = {{ env = \"KAFKA_PASSWORD\" }}\n",
        broker.secure.as_deref().unwrap(),
        broker.file("ca.pem").display(),
        secret("user=")
    );
    std::fs::write(&config, text).unwrap();
    let password = secret("password=");
    let options = [
        ("TALLYFLOW_CONFIG", config.to_str().unwrap()),
        ("KAFKA_PASSWORD", password.as_str()),
        ("TALLYFLOW_CHECKPOINT_EVERY", "1s"),
    ];
    let data = dir.path().join("data");
    let server = Server::start_with(&data, 2, &options);
    server.http.create_topic("moods", 2);
    server.http.submit(&job("moods"));
    let poster = Poster::start(&server.http, "moods");
    eventually("some is counted", || (server.http.tallies("moods").accounting.read > 200).then_some(()));
    let posted = poster.stop();
    // What stands in the topic is read without TLS.
    let records = assert_counted(&server.http, &broker.address, "moods", 2, &posted);
    assert!(!server.stderr().contains(&password), "the password is in the log");
    drop(server);
    let server = Server::start_with(&data, 1, &options);
    assert_eq!(assert_counted(&server.http, &broker.address, "moods", 2, &posted), records);
}
