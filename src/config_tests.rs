use super::*;
use std::io::Write;

fn load(file: Option<&str>, env: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
    let written = file.map(|text| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    });
    let env = env.iter().map(|(name, value)| (name.into(), value.into()));
    Config::load(written.as_ref().map(|f| f.path()), env, flags)
}

fn message(file: Option<&str>, env: &[(&str, &str)], flags: Flags) -> String {
    load(file, env, flags).unwrap_err().to_string()
}

#[test]
fn default_toml_alone_is_a_configuration_with_the_promised_defaults() {
    let config = load(None, &[], Flags::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.data_dir, Path::new("tallyflow-data"));
    assert!((1..=WORKERS_MAX).contains(&config.workers));
    assert_eq!(config.log.record_bytes_max, 1 << 20);
    assert_eq!((config.log.retention_age, config.log.retention_bytes), (None, None));
    assert_eq!(config.server.body_bytes_max, 16 << 20);
    assert_eq!(config.engine.hang, Duration::from_secs(10));
    assert_eq!((config.recount.every, config.recount.memory_max), (None, 512 << 20));
    assert_eq!(config.checkpoints_place(), CheckpointPlace::Folder("tallyflow-data/checkpoints".into()));
}

#[test]
fn checkpoints_lie_where_the_environment_or_a_flag_says() {
    let env = [("TALLYFLOW_CHECKPOINT_URL", "s3://bucket/prefix")];
    let bucket = CheckpointPlace::Bucket("s3://bucket/prefix".into());
    assert_eq!(load(None, &env, Flags::default()).unwrap().checkpoints_place(), bucket);
    let flags = Flags { checkpoint_url: Some("file:///there".into()), ..Flags::default() };
    assert_eq!(load(None, &env, flags).unwrap().checkpoints_place(), CheckpointPlace::Folder("/there".into()));
}

/// `RawConfig` has no defaults of its own and refuses keys that it does not know, so that the file and
/// the structure agree exactly when one reads the other and no key can be left out.
#[test]
fn default_toml_and_the_options_in_code_have_the_same_keys() {
    let all: RawConfig = toml::from_str(DEFAULT_TOML).unwrap();
    assert_eq!(all.workers, 0);
    for key in keys() {
        let mut table = defaults();
        match key.split_once('.') {
            None => table.remove(&key),
            Some((section, key)) => table.get_mut(section).unwrap().as_table_mut().unwrap().remove(key),
        };
        let error = Value::Table(table).try_into::<RawConfig>().unwrap_err().to_string();
        assert!(error.contains("missing field"), "{key} can be left out: {error}");
    }
}

#[test]
fn every_option_of_default_toml_has_a_comment_above_it() {
    let mut above = "";
    for line in DEFAULT_TOML.lines() {
        if !line.is_empty() && !line.starts_with('#') {
            assert!(above.starts_with('#'), "{line:?} has no comment");
        }
        above = line;
    }
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let file = "workers = 2\nlisten = \"127.0.0.1:1\"\ndata_dir = \"a\"\n[log]\nrecord_bytes_max = 10\n";
    let env =
        [("TALLYFLOW_WORKERS", "3"), ("TALLYFLOW_LISTEN", "127.0.0.1:2"), ("TALLYFLOW_LOG_RECORD_BYTES_MAX", "1_000")];
    let flags = Flags { workers: Some(4), ..Flags::default() };
    let config = load(Some(file), &env, flags).unwrap();
    assert_eq!(config.workers, 4);
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.data_dir, Path::new("a"));
    assert_eq!(config.log.record_bytes_max, 1_000);
}

#[test]
fn an_environment_name_that_is_no_option_is_left_alone() {
    // Orchestrators put such names there for a service called tallyflow.
    assert!(
        load(None, &[("TALLYFLOW_PORT", "tcp://10.0.0.1:80"), ("TALLYFLOW_SERVER", "http://x")], Flags::default())
            .is_ok()
    );
}

#[test]
fn a_data_directory_may_be_named_by_a_number() {
    let config = load(None, &[("TALLYFLOW_DATA_DIR", "2026")], Flags::default()).unwrap();
    assert_eq!(config.data_dir, Path::new("2026"));
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let error = message(Some("workers = 1\n\n[log]\nrecord_bytes = 5\n"), &[], Flags::default());
    assert!(error.contains(", line 4: there is no option \"log.record_bytes\""), "{error}");
    let error = message(Some("[kafak]\nbrokers = \"b\"\n"), &[], Flags::default());
    assert!(error.contains(", line 1: there is no option \"kafak\""), "{error}");
}

#[test]
fn a_wrong_type_is_refused_with_its_line() {
    let error = message(Some("listen = 8080"), &[], Flags::default());
    assert!(error.contains(", line 1: \"listen\" wants a text, not a whole number"), "{error}");
    let error = message(Some("\nlog = 1"), &[], Flags::default());
    assert!(error.contains(", line 2: \"log\" wants a section"), "{error}");
    let error = message(Some("workers = \n"), &[], Flags::default());
    assert!(error.contains(", line 1: "), "{error}");
    let error = message(None, &[("TALLYFLOW_WORKERS", "many")], Flags::default());
    assert_eq!(error, "TALLYFLOW_WORKERS: wants a whole number, not \"many\"");
}

#[test]
fn a_value_out_of_bounds_is_refused_with_its_place_and_the_bounds() {
    let flags = Flags { workers: Some(65), ..Flags::default() };
    assert_eq!(message(None, &[], flags), "--workers: 65 is out of bounds; choose 0 to 64");
    let error = message(Some("[checkpoint]\nurl = \"s3://key:hunter2@b\""), &[], Flags::default());
    assert!(error.contains("checkpoint.url") && error.contains("environment") && !error.contains("hunter2"), "{error}");
    let error = message(Some("[engine]\nhang_s = 0"), &[], Flags::default());
    assert!(error.contains(", line 2, \"engine.hang_s\": 0 is out of bounds; choose 1 to 3600"), "{error}");
    let error = message(Some("dead_letters_max = -1"), &[], Flags::default());
    assert!(error.contains(", line 1, \"dead_letters_max\": is below 0"), "{error}");
    let error = message(Some("[log]\nretention_age_s = 5"), &[], Flags::default());
    assert!(error.contains("choose 0 to keep everything, or 60 and more"), "{error}");
    let error = message(Some("[log]\ninflight_bytes_max = 5"), &[], Flags::default());
    assert!(error.contains("\"log.inflight_bytes_max\": 5 is out of bounds"), "{error}");
}

#[test]
fn an_address_that_is_none_is_refused_with_an_example() {
    for listen in ["8080", "nowhere:80", "127.0.0.1", "1.2.3.4:99999"] {
        let flags = Flags { listen: Some(listen.into()), ..Flags::default() };
        let error = message(None, &[], flags);
        assert!(error.starts_with("--listen: ") && error.contains("127.0.0.1:8080"), "{error}");
    }
}

#[test]
fn a_misspelt_log_level_is_refused() {
    assert!(message(None, &[("TALLYFLOW_LOG_LEVEL", "inof")], Flags::default()).contains("no log level"));
    assert!(load(None, &[("TALLYFLOW_LOG_LEVEL", "warn,tallyflow::server=debug")], Flags::default()).is_ok());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/t.toml")), [], Flags::default()).unwrap_err().to_string();
    assert!(error.contains("/nowhere/t.toml") && error.contains("--config"), "{error}");
}

#[test]
fn what_is_kept_of_the_past_is_checked_with_its_place() {
    let config = load(None, &[], Flags::default()).unwrap();
    let keep = config.history.unwrap();
    assert_eq!((keep.steps.len(), keep.bytes_max), (3, 1 << 30));
    assert_eq!(load(None, &[("TALLYFLOW_HISTORY_KEEP", "")], Flags::default()).unwrap().history, None);
    let error = message(Some("[history]\nkeep = \"1s\"\n"), &[], Flags::default());
    assert!(error.contains("line 2") && error.contains("1s for 1h"), "{error}");
    let error = message(None, &[("TALLYFLOW_HISTORY_BYTES_MAX", "5")], Flags::default());
    assert!(error.starts_with("TALLYFLOW_HISTORY_BYTES_MAX: 5 is out of bounds"), "{error}");
}

#[test]
fn recounts_are_off_or_come_at_a_time_within_bounds() {
    let every = |text: &str| {
        load(Some(&format!("[recount]\nevery = {text:?}")), &[], Flags::default()).map(|config| config.recount.every)
    };
    assert_eq!(every("off"), Ok(None));
    assert_eq!(every("1h"), Ok(Some(Duration::from_secs(3_600))));
    assert_eq!(every("365d"), Ok(Some(Duration::from_secs(365 * 86_400))));
    for wrong in ["", "1", "h", "999ms", "0s", "366d", "1 h", "never"] {
        let told = every(wrong).unwrap_err().to_string();
        assert!(told.contains("recount.every") && told.contains("write off, or a time"), "{told}");
    }
    let told = message(None, &[("TALLYFLOW_RECOUNT_MEMORY_MAX", "1000")], Flags::default());
    assert!(told.contains("choose 1048576 to"), "{told}");
}

#[test]
fn kafka_is_the_log_where_brokers_are_named_and_its_properties_come_from_where_they_stand() {
    assert_eq!(load(None, &[], Flags::default()).unwrap().kafka, None);
    let flags = || Flags { kafka: Some("a:9092, b:9093".into()), ..Flags::default() };
    let kafka = load(None, &[("TALLYFLOW_KAFKA_PREFIX", "mine")], flags()).unwrap().kafka.unwrap();
    assert_eq!((kafka.config.brokers.as_str(), kafka.prefix.as_str()), ("a:9092,b:9093", "mine"));
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret, "very-secret").unwrap();
    let path = secret.path().display();
    let file = format!("[kafka.properties]\n\"client.rack\" = {{ file = \"{path}\" }}\n\"socket.timeout.ms\" = 5000\n");
    let config = load(Some(&file), &[], flags()).unwrap();
    assert!(!format!("{config:?}").contains("very-secret"));
    let kafka = config.kafka.unwrap();
    assert_eq!(kafka.config.without_secrets("very-secret, 5000"), "***, ***", "both are known as they stand there");
    for (file, said) in [
        ("[kafka]\nbrokers = \"here\"", "\"here\" is no broker"),
        ("[kafka]\nprefix = \"a b\"", "can't begin a topic's name"),
        ("[kafka]\ndead_letters = \"__letters\"", "can't be a topic's name"),
        ("[kafka.properties]\n\"isolation.level\" = \"read_uncommitted\"", "what was not committed is not counted"),
        ("[kafka.properties]\nsocket_timeout = 1", "\"socket_timeout\" is refused by librdkafka"),
        (
            "[kafka.properties]\n\"sasl.password\" = { env = \"NO_SUCH_VARIABLE\" }",
            "as NO_SUCH_VARIABLE, and is not there",
        ),
        (
            "[kafka.properties]\n\"sasl.password\" = { file = \"/no/such\" }",
            "in the file /no/such, which can't be read",
        ),
        ("[kafka.properties]\n\"sasl.password\" = { env = \"A\", file = \"b\" }", "wants a text, or where it stands"),
    ] {
        let flags = if file.contains("brokers") { Flags::default() } else { flags() };
        let error = message(Some(file), &[], flags);
        assert!(error.contains(said), "{file}: {error}");
    }
}
