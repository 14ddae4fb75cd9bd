//! TLS, and every way to say who one is. It wants a build with the feature `tls`: `scripts/kafka-tests --features tls`.

use crate::{Broker, Read, name, topic, until, values};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallyflow_connectors::log::kafka::{KafkaConfig, KafkaLog, Progress, Secret};
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::source::{Producer, Source};

/// A broker that is reached by TLS, and a user that it knows.
struct Secured {
    broker: Broker,
    address: String,
    ca: String,
    user: String,
    password: String,
    token: PathBuf,
}

impl Secured {
    fn start() -> Option<Secured> {
        let broker = Broker::start(&["--tls-sasl"])?;
        let secrets = std::fs::read_to_string(broker.file("secrets")).unwrap();
        let secret = |name: &str| {
            let line = secrets.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
            line.unwrap().to_owned()
        };
        let secured = Secured {
            address: broker.secure.clone().unwrap(),
            ca: broker.file("ca.pem").to_str().unwrap().to_owned(),
            user: secret("user"),
            password: secret("password"),
            token: broker.file("token"),
            broker,
        };
        write_token(&secured.token, &secured.user, Duration::from_secs(3600));
        Some(secured)
    }

    fn properties(&self, mechanism: &str, password: &str) -> BTreeMap<String, Secret> {
        let mut properties = vec![
            ("security.protocol", "SASL_SSL".to_owned()),
            ("ssl.ca.location", self.ca.clone()),
            ("sasl.mechanism", mechanism.to_owned()),
        ];
        match mechanism {
            "OAUTHBEARER" => properties.push(("sasl.oauthbearer.config", format!("file={}", self.token.display()))),
            _ => properties.extend([("sasl.username", self.user.clone()), ("sasl.password", password.to_owned())]),
        }
        properties.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect()
    }

    fn log(&self, mechanism: &str, password: &str) -> KafkaLog {
        let properties = self.properties(mechanism, password);
        KafkaLog::open(KafkaConfig::new(&self.address, properties).unwrap(), "tallyflow-test").unwrap()
    }
}

/// A token that nobody has signed, which this broker takes.
fn write_token(path: &Path, subject: &str, lives: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = serde_json::json!({"sub": subject, "iat": now.as_secs_f64(), "exp": (now + lives).as_secs_f64()});
    let encode = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
    let token = format!("{}.{}.", encode(r#"{"alg":"none"}"#.to_owned()), encode(claims.to_string()));
    let beside = path.with_extension("new");
    std::fs::write(&beside, token).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

#[test]
fn all_that_a_server_does_with_kafka_goes_by_every_mechanism() {
    let Some(secured) = Secured::start() else { return };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] {
        let log = secured.log(mechanism, &secured.password);
        let topic = topic(&log, "t", 2);
        // By a transaction the second time.
        for (text, key) in [("a", None), ("b", Some("key"))] {
            let (partition, from, to) = log.append(&topic, &values(&[text]), key).unwrap().ranges[0];
            let mut read = Read::open(&log, &topic, partition.0, from.0);
            read.until(to.0);
            assert_eq!(read.texts(), [text], "{mechanism}");
        }
        let ends: Vec<u64> = log.topic(&topic).unwrap().unwrap().partitions.iter().map(|p| p.end.0).collect();
        let config = KafkaConfig::new(&secured.address, secured.properties(mechanism, &secured.password)).unwrap();
        let progress = Progress::of(&config, &name("group")).unwrap();
        let offsets = BTreeMap::from([(topic, ends.into_iter().map(Offset).collect())]);
        until("offsets are committed", || progress.commit(&offsets).ok());
    }
}

#[test]
fn who_is_refused_is_told_why_and_no_secret_with_it() {
    let Some(secured) = Secured::start() else { return };
    let tell = |log: &KafkaLog, what: &str| {
        let said = until("it is said what is the matter", || {
            let error = log.topic("t").err()?.to_string();
            error.contains(what).then_some(error)
        });
        assert!(said.contains(&secured.address), "{said}");
        said
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let log = secured.log(mechanism, "not-the-password");
        let said = tell(&log, "uthentication fail");
        assert!(!said.contains("not-the-password"), "{said}");
    }
    std::fs::write(&secured.token, "not-a-token").unwrap();
    let said = tell(&secured.log("OAUTHBEARER", ""), "no JSON Web Token");
    assert!(said.contains(secured.token.to_str().unwrap()) && !said.contains("not-a-token"), "{said}");
    // One that trusts others.
    let mut properties = secured.properties("PLAIN", &secured.password);
    properties.remove("ssl.ca.location");
    let log = KafkaLog::open(KafkaConfig::new(&secured.address, properties).unwrap(), "tallyflow-test").unwrap();
    tell(&log, "certificate verify failed");
}

#[test]
fn a_token_is_read_anew_before_it_ends() {
    let Some(secured) = Secured::start() else { return };
    let lives = Duration::from_secs(8);
    let ends = SystemTime::now() + lives;
    write_token(&secured.token, &secured.user, lives);
    let log = secured.log("OAUTHBEARER", "");
    let topic = topic(&log, "t", 1);
    log.append(&topic, &values(&["a"]), None).unwrap();
    let mut read = Read::open(&log, &topic, 0, 0);
    read.until(1);
    write_token(&secured.token, &secured.user, Duration::from_secs(3600));
    // Whoever connects has to show a token; the first one is over by then.
    secured.broker.kill(1);
    until("the first token has ended", || (SystemTime::now() > ends).then_some(()));
    secured.broker.revive(1);
    let appended = until("it can be appended again", || log.append(&topic, &values(&["b"]), None).ok());
    read.until(appended.ranges[0].2.0);
    assert_eq!((read.texts()[0], *read.texts().last().unwrap()), ("a", "b"));
}
