//! The command line from outside: what it offers, and how it ends when something is wrong.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs the program, without what the surroundings may have set.
fn tallyflow(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyflow"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TALLYFLOW_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An address at which nothing listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Every command, and an option that its help must name.
const COMMANDS: [(&[&str], &str); 32] = [
    (&["demo"], "--data-dir"),
    (&["serve"], "--config"),
    (&["submit"], "--take-over"),
    (&["jobs"], "--format"),
    (&["job"], "--format"),
    (&["pause"], "--server"),
    (&["resume"], "--server"),
    (&["cancel"], "--mode"),
    (&["checkpoint"], "--format"),
    (&["restart"], "--ignore-state"),
    (&["scale"], "--server"),
    (&["results"], "--subject"),
    (&["watch"], "--limit"),
    (&["recount"], "--format"),
    (&["why"], "--at"),
    (&["void"], "--reason"),
    (&["unvoid"], "--server"),
    (&["poll"], "vote"),
    (&["poll", "create"], "--opens"),
    (&["poll", "list"], "--job"),
    (&["poll", "close"], "--format"),
    (&["poll", "delete"], "--server"),
    (&["poll", "vote"], "--withdraw"),
    (&["dead-letters"], "--format"),
    (&["topics"], "--format"),
    (&["topic"], "tail"),
    (&["topic", "create"], "--partitions"),
    (&["topic", "tail"], "--from"),
    (&["feed"], "simulate"),
    (&["feed", "replay"], "--speed"),
    (&["feed", "simulate", "posts"], "--seed"),
    (&["feed", "simulate", "votes"], "--expect"),
];

#[test]
fn every_command_explains_itself() {
    for (command, option) in COMMANDS {
        let output = tallyflow(&[command, &["--help"]].concat());
        assert!(output.status.success(), "{command:?}: {}", stderr(&output));
        assert!(stdout(&output).contains(option), "{command:?} does not name {option}:\n{}", stdout(&output));
    }
}

#[test]
fn the_help_lists_exactly_the_commands_there_are() {
    let help = stdout(&tallyflow(&["--help"]));
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let there: Vec<&str> = COMMANDS.iter().filter(|(c, _)| c.len() == 1).map(|(c, _)| c[0]).collect();
    assert_eq!(
        listed.iter().filter(|name| **name != "bench").copied().collect::<std::collections::BTreeSet<_>>(),
        there.into_iter().collect(),
        "{help}"
    );
}

#[test]
fn wrong_usage_ends_with_status_2_and_says_what_is_wrong() {
    let wrong: [&[&str]; 31] = [
        &[],
        &["nonsense"],
        &["jobs", "--nonsense"],
        &["job"],
        &["submit"],
        &["cancel", "a", "--mode", "gently"],
        &["results", "a", "--format", "xml"],
        &["results", "a", "--limit", "few"],
        &["jobs", "--format", "csv"],
        &["jobs", "--server", "nowhere"],
        &["jobs", "--server", "https://127.0.0.1"],
        &["poll"],
        &["poll", "create"],
        &["poll", "create", "moods"],
        &["poll", "create", "moods", "--option", "a", "--match", "words"],
        &["poll", "create", "moods", "--option", "a", "--opens", "soon"],
        &["poll", "create", "moods", "--option", "a", "--file", "f.json"],
        &["poll", "list", "--format", "csv"],
        &["poll", "close"],
        &["poll", "vote", "moods", "happy"],
        &["poll", "vote", "moods", "--voter", "ada"],
        &["poll", "vote", "moods", "happy", "--withdraw", "--voter", "ada"],
        &["topic", "create", "t"],
        &["topic", "create", "t", "--partitions", "0"],
        &["feed", "replay", "--topic", "t"],
        &["feed", "replay", "f", "--topic", "t", "--speed", "60x"],
        &["feed", "replay", "f", "--topic", "t", "--time", "/at", "--speed", "60x", "--rate", "5"],
        &["feed", "replay", "f", "--topic", "t", "--key", "no-pointer"],
        &["feed", "simulate", "votes", "--for", "soon"],
        &["serve", "--workers", "65"],
        &["serve", "--listen", "somewhere"],
    ];
    for args in wrong {
        let output = tallyflow(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_status_2_and_one_sentence() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "workers = 1\nkafak = \"b:9092\"").unwrap();
    let path = file.path().to_str().unwrap();
    let output = tallyflow(&["serve", "--config", path]);
    assert_eq!(output.status.code(), Some(2));
    let expected = format!("tallyflow: {path}, line 2: there is no option \"kafak\"; default.toml lists them all\n");
    assert_eq!(stderr(&output), expected);
}

#[test]
fn a_server_that_does_not_answer_is_named_with_what_to_do() {
    let server = nobody();
    let commands: [&[&str]; 20] = [
        &["jobs"],
        &["job", "a"],
        &["pause", "a"],
        &["resume", "a"],
        &["cancel", "a"],
        &["results", "a"],
        &["watch", "a"],
        &["recount", "a"],
        &["why", "a", "s", "g"],
        &["why", "a", "--at", "t/0/1"],
        &["dead-letters", "a"],
        &["poll", "create", "a", "--option", "b"],
        &["poll", "list"],
        &["poll", "close", "a"],
        &["poll", "delete", "a"],
        &["poll", "vote", "a", "b", "--voter", "c"],
        &["topics"],
        &["topic", "create", "t", "--partitions", "2"],
        &["topic", "tail", "t"],
        &["feed", "simulate", "votes", "--records", "10"],
    ];
    for command in commands {
        let output = tallyflow(&[command, &["--server", &server]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let expected = format!(
            "tallyflow: no tallyflow server answers at {server}; start one with `tallyflow serve` or name it with --server\n"
        );
        assert_eq!(stderr(&output), expected, "{command:?}");
        assert!(output.stdout.is_empty(), "{command:?}");
    }
}

#[test]
fn the_server_can_be_named_in_the_environment() {
    let server = nobody();
    let output = command(&["jobs"]).env("TALLYFLOW_SERVER", &server).output().unwrap();
    assert!(stderr(&output).contains(&server));
}

#[test]
fn a_job_file_that_is_not_there_is_named() {
    let output = tallyflow(&["submit", "/nowhere/job.toml", "--server", &nobody()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("tallyflow: the job file /nowhere/job.toml can't be read"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output).lines().count(), 1);
}

#[test]
fn a_port_that_is_taken_is_told_before_the_data_directory_is_touched() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let output = tallyflow(&["serve", "--listen", &addr, "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("{addr} is taken by another program")), "{}", stderr(&output));
    assert!(!data_dir.exists());
}

#[test]
fn a_data_directory_that_can_not_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("data");
    let output = tallyflow(&["serve", "--listen", "127.0.0.1:0", "--data-dir", below.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(below.to_str().unwrap()) && text.contains("--data-dir"), "{text}");
    assert!(output.stdout.is_empty());
}
