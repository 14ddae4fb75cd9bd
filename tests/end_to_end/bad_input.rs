//! What must not be: broken records, job files full of faults, bodies without end, a full disk.

use crate::support::{Mount, Server, eventually, refused, tallyflow};
use crate::votes;
use base64::prelude::{BASE64_STANDARD, Engine};
use reqwest::Method;
use serde_json::Value;

const MIB: usize = 1 << 20;

#[test]
fn a_record_that_can_not_be_used_is_kept_with_its_bytes_and_the_reason_and_the_job_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("orders", 1);
    http.submit(
        r#"
        name = "orders"
        dataflow = "tally"
        [[input]]
        topic = "orders"
        format = "json"
        [tally]
        group = ["/id"]
        order = "/at"
        value = "/n"
        where = "size(event.tags) < 3"
        "#,
    );
    let good = br#"{"id":"good","n":1.5,"at":"2024-01-01T00:00:00Z","tags":[]}"#;
    let bad: [(&[u8], &str); 9] = [
        (br#"{"id":"a","n":1"#, "JSON"),
        (b"{\"id\":\"\xff\xfe\",\"n\":1,\"at\":1,\"tags\":[]}", "UTF-8"),
        (br#"{"n":5,"at":1,"tags":[]}"#, "/id"),
        (br#"{"id":"d","n":"x","at":1,"tags":[]}"#, "/n"),
        (br#"{"id":"e","n":1e40,"at":1,"tags":[]}"#, "/n"),
        (br#"{"id":"f","n":1,"at":"9999-12-31T23:59:59Z","tags":[]}"#, "/at"),
        (br#"{"id":"g","n":1,"at":"noon","tags":[]}"#, "/at"),
        (br#"{"id":"h","n":1,"at":1}"#, "where"),
        (b"  ", "empty"),
    ];
    let mut body = good.to_vec();
    for (line, _) in bad {
        body.push(b'\n');
        body.extend_from_slice(line);
    }
    body.push(b'\n');
    body.extend_from_slice(good);
    http.append("orders", body);
    let all = bad.len() as u64 + 2;
    let tallies = http.tallies_of("orders", all);
    assert_eq!((tallies.accounting.rejected, tallies.accounting.counted), (bad.len() as u64, 2));
    assert_eq!(tallies.subjects[0].tallies[0].value.to_string(), "3");

    let letters = || -> Vec<Value> {
        let first = http.get("/api/jobs/orders/dead-letters?limit=5").ok().json();
        let after = first["next"].as_str().expect("there are more").to_owned();
        let rest = http.get(&format!("/api/jobs/orders/dead-letters?after={after}")).ok().json();
        [&first, &rest].iter().flat_map(|page| page["items"].as_array().unwrap().clone()).collect()
    };
    let found = letters();
    assert_eq!(found.len(), bad.len(), "{found:#?}");
    for (index, (letter, (line, reason))) in found.iter().zip(bad).enumerate() {
        assert_eq!((&letter["topic"], &letter["partition"]), (&"orders".into(), &0.into()));
        assert_eq!(letter["offset"], index as u64 + 1);
        let bytes = match letter["value"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => BASE64_STANDARD.decode(letter["value_base64"].as_str().unwrap()).unwrap(),
        };
        assert_eq!(bytes, line);
        let said = letter["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{said:?} does not speak of {reason}: {letter}");
    }
    assert_eq!(http.state("orders"), "running");
    http.recount("orders");

    // Read again from the beginning, they are the same letters, not more of them.
    let pid = http.engine_pid(None);
    crate::support::signal(pid, "KILL");
    http.engine_pid(Some(pid));
    http.wait_for_state("orders", "running");
    http.tallies_of("orders", all);
    assert_eq!(letters(), found);
}

#[test]
fn five_faults_of_a_job_file_are_told_at_once_and_nothing_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    server.http.create_topic("posts", 1);
    let file = dir.path().join("job.toml");
    let job = r#"name = "five"
dataflow = "tally"
[[input]]
topic = "post"
format = "jsn"
[tally]
group = ["hashtags"]
keep = "latest"
where = "event.status =="
"#;
    std::fs::write(&file, job).unwrap();
    let output = server.cli(&["submit", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for (line, key) in
        [(4, "input[0].topic"), (5, "input[0].format"), (7, "tally.group"), (8, "tally.keep"), (9, "tally.where")]
    {
        let found = stderr.lines().any(|l| l.contains(&format!("line {line}: {key}")));
        assert!(found, "line {line}, {key} is not told of:\n{stderr}");
    }
    assert!(stderr.contains("has 5 faults") && stderr.lines().count() == 6, "{stderr}");
    assert_eq!(server.http.get("/api/jobs").ok().json()["items"], serde_json::json!([]));
}

#[test]
fn an_unknown_topic_is_named_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let answer = server.http.post("/api/jobs", votes::JOB);
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem = answer.json();
    let fault = &problem["faults"][0];
    assert_eq!((&fault["key"], problem["faults"].as_array().unwrap().len()), (&"input[0].topic".into(), 1));
    assert!(fault["message"].as_str().unwrap().contains("votes"), "{fault}");
    let answer = server.http.post("/api/topics/votes/records", "{}");
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("votes"), "{answer:?}");
    assert_eq!(server.http.get("/api/topics/votes/records").status, 404);
}

/// 100 MiB without a line's end, made as they are sent.
fn endless() -> reqwest::Body {
    let chunk = bytes::Bytes::from(vec![b'x'; MIB]);
    reqwest::Body::wrap_stream(futures_util::stream::iter(
        (0..100).map(move |_| Ok::<_, std::io::Error>(chunk.clone())),
    ))
}

#[test]
fn a_line_of_100_mib_is_refused_with_bounded_memory_and_nothing_is_appended() {
    // The first refuses it for the body's length, the second, which takes long bodies, for the line's.
    let large = [("TALLYFLOW_SERVER_BODY_BYTES_MAX", "268435456"), ("TALLYFLOW_LOG_INFLIGHT_BYTES_MAX", "268435456")];
    for (options, said) in [(&[][..], ""), (&large[..], "line 1")] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), 1, options);
        server.http.create_topic("lines", 1);
        let before = server.peak_memory();
        let sized = [("content-length", "104857600")];
        for headers in [&[][..], &sized[..]] {
            let answer = server.http.send(Method::POST, "/api/topics/lines/records", headers, endless()).unwrap();
            assert_eq!(answer.status, 413, "{answer:?}");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(said), "{detail}");
        }
        let grown = server.peak_memory() - before;
        assert!(grown < 64 * MIB as u64, "it took {} MiB", grown >> 20);
        let records = server.http.get("/api/topics/lines/records").ok().json();
        assert_eq!(records["items"], serde_json::json!([]));
        server.http.append("lines", "one\n\ntwo");
        server.http.get("/healthz").ok();
        let records = server.http.get("/api/topics/lines/records").ok().json();
        assert_eq!(records["items"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_data_directory_that_is_read_only_is_told_in_one_sentence() {
    let Some(mount) = Mount::new("ro,size=1m") else { return };
    let mut serve = tallyflow();
    serve
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--data-dir"])
        .arg(mount.path().join("data"));
    let (status, stderr) = refused(&mut serve);
    assert_eq!((status, stderr.lines().count()), (1, 1), "{stderr}");
    assert!(stderr.contains(mount.path().to_str().unwrap()) && stderr.contains("--data-dir"), "{stderr}");
}

#[test]
fn a_full_disk_refuses_records_and_loses_none_that_were_acknowledged() {
    let Some(mount) = Mount::new("size=24m") else { return };
    // Something to take away later.
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![0; 8 * MIB]).unwrap();
    let data = mount.path().join("data");
    let server = Server::start(&data, 2);
    let http = &server.http;
    http.create_topic("votes", 2);
    http.submit(votes::JOB);
    let padding = "x".repeat(2_000);
    let padded = format!("{{\"padding\":\"{padding}\",\"poll\"");
    let batch = |from: u64| votes::lines(from, from + 50).replace("{\"poll\"", &padded);
    let mut acknowledged = 0;
    let refusal = loop {
        let answer = http.post("/api/topics/votes/records", batch(acknowledged));
        match answer.status {
            200 => acknowledged += 50,
            _ => break answer,
        }
        assert!(acknowledged < 50_000, "the disk does not fill");
    };
    assert_eq!(refusal.status, 507, "{refusal:?}");
    assert_eq!(refusal.headers["content-type"], "application/problem+json");
    assert!(acknowledged > 500);
    // Refused, and still serving: what was acknowledged, and only that, is counted.
    for _ in 0..20 {
        assert_eq!(http.post("/api/topics/votes/records", batch(acknowledged)).status, 507);
    }
    votes::assert_counts(&http.tallies_of("votes", acknowledged), acknowledged);
    http.get("/healthz").ok();
    http.recount("votes");

    std::fs::remove_file(&ballast).unwrap();
    eventually("there is room again", || match http.post("/api/topics/votes/records", batch(acknowledged)).status {
        200 => Some(()),
        507 => None,
        other => panic!("{other}"),
    });
    acknowledged += 50;
    votes::assert_counts(&http.tallies_of("votes", acknowledged), acknowledged);
    server.kill();
    let server = Server::start(&data, 2);
    votes::assert_counts(&server.http.tallies_of("votes", acknowledged), acknowledged);
    server.http.wait_for_state("votes", "running");
}
