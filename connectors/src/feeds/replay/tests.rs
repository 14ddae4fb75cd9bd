//! Files in every form, made here, and real ones where `TALLYFLOW_TEST_DATA` says that they lie.

use super::*;
use std::io::Write;
use tallyflow_dataflows::number::Decimal;
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn open(path: &Path) -> Replay {
    Replay::open(&[path.to_owned()]).unwrap()
}

fn texts(path: &Path) -> Vec<String> {
    open(path).map(|r| String::from_utf8(r.unwrap().value).unwrap()).collect()
}

/// What came before the error, and the error as a person reads it, from the file's name on.
fn failure(path: &Path) -> (usize, String) {
    let results: Vec<_> = open(path).collect();
    let error = results.last().unwrap().as_ref().unwrap_err().to_string();
    let folder = format!("{}/", path.parent().unwrap().display());
    (results.len() - 1, error.replace(&folder, ""))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn each_line_that_is_not_empty_is_a_record_as_it_stands() {
    let files = Files::new();
    let path = files.put("a.ndjson", b"\xef\xbb\xbf{\"a\":1}\r\n\n  \nno json\n{\"a\": 2}");
    assert_eq!(texts(&path), ["{\"a\":1}", "no json", "{\"a\": 2}"]);
    assert_eq!(texts(&files.put("empty.ndjson", b"")), [""; 0]);
    assert_eq!(texts(&files.put("empty", b" \n")), [""; 0]);
}

#[test]
fn an_array_is_streamed_element_by_element_each_as_one_line() {
    let files = Files::new();
    let array = b" [ {\"a\": [1, {\"b\" :\"x \\\" ] y\"}]\n} ,2, \"three\" , null,[ ]\n]\n";
    let expected = ["{\"a\":[1,{\"b\":\"x \\\" ] y\"}]}", "2", "\"three\"", "null", "[]"];
    assert_eq!(texts(&files.put("a.json", array)), expected);
    assert_eq!(texts(&files.put("b", array)), expected, "without a name to go by");
    assert_eq!(texts(&files.put("c.json", b"[]")), [""; 0]);
    assert_eq!(texts(&files.put("d.json", b"{\n \"a\": 1\n}\n{\"a\" :2} 3")), ["{\"a\":1}", "{\"a\":2}", "3"]);
    assert_eq!(texts(&files.put("e.json", b"{\"a\": 1}\n{\"b\n")), ["{\"a\": 1}", "{\"b"], "a value on each line");
}

#[test]
fn an_element_across_buffers_stays_whole() {
    let files = Files::new();
    let long = "x\\\\".repeat(60_000);
    let array = format!("[{}]", vec![format!("{{\"t\":\"{long}\"}}"); 5].join(",\n"));
    assert_eq!(texts(&files.put("a.json", array.as_bytes())), vec![format!("{{\"t\":\"{long}\"}}"); 5]);
}

#[test]
fn a_row_becomes_an_object_in_the_order_of_its_columns() {
    let files = Files::new();
    let csv = files.put("a.csv", b"\xef\xbb\xbfz,\"a \"\"b\"\"\"\r\n1,\"x,\r\ny\"\r\n,\t\r\n");
    assert_eq!(texts(&csv), [r#"{"z":1,"a \"b\"":"x,\r\ny"}"#, r#"{"z":"","a \"b\"":"\t"}"#]);
    let tsv = b"a\tb\n1,5\t\x01\n";
    let expected = [r#"{"a":"1,5","b":"\u0001"}"#];
    assert_eq!(texts(&files.put("b.tsv", tsv)), expected);
    assert_eq!(texts(&files.put("c.txt", tsv)), expected, "without a name to go by");
    assert_eq!(texts(&files.put("d", b"a,b\n1,2\n")), [r#"{"a":1,"b":2}"#]);
}

#[test]
fn a_field_that_reads_as_a_json_number_is_one_digit_for_digit() {
    let files = Files::new();
    let value = |field: &str| {
        let text = texts(&files.put("n.csv", format!("a,b\n\"{field}\",\n").as_bytes())).pop().unwrap();
        text.strip_prefix("{\"a\":").and_then(|rest| rest.strip_suffix(",\"b\":\"\"}")).unwrap().to_owned()
    };
    for number in ["0", "-0", "7", "-12.50", "51.846000000000004", "1e5", "0.1E-7", "2E+3", "12345678901234567890123"] {
        assert_eq!(value(number), number);
        assert!(serde_json::from_str::<serde_json::Number>(number).is_ok(), "{number}");
    }
    for text in
        ["", "007", "-", "+1", "1.", ".5", "1e", "1e+", "1,5", " 1", "1 ", "0x10", "NaN", "--1", "1.2.3", "2012-11-06"]
    {
        assert_eq!(value(text), format!("\"{text}\""));
        assert!(serde_json::from_str::<serde_json::Number>(text.trim()).is_err() || text != text.trim(), "{text}");
    }
}

#[test]
fn packed_files_are_told_by_name_or_by_their_first_bytes() {
    let files = Files::new();
    let plain = b"{\"a\":1}\n{\"a\":2}\n";
    let twice = [gzip(b"{\"a\":1}\n"), gzip(b"{\"a\":2}\n")].concat();
    let zst = zstd::encode_all(&plain[..], 1).unwrap();
    for (name, bytes) in [
        ("a.ndjson.gz", twice.clone()),
        ("a.ndjson.xz", xz(plain)),
        ("a.jsonl.ZST", zst.clone()),
        ("b", twice),
        ("c", xz(plain)),
        ("d.json", zst),
    ] {
        assert_eq!(texts(&files.put(name, &bytes)), ["{\"a\":1}", "{\"a\":2}"], "{name}");
    }
}

#[test]
fn a_break_in_the_structure_is_told_by_file_and_line_and_ends_the_replay() {
    let files = Files::new();
    for (name, bytes, before, error) in [
        (
            "a.csv",
            &b"a,b\n1,2\n1\n3,4\n"[..],
            1,
            "a.csv line 3: the row has 1 fields, the header 2; mend the row, or its quotes",
        ),
        ("b.csv", b"a,b,a\n", 0, "b.csv line 1: the header names the column \"a\" twice; rename one"),
        ("a.json", b"[1,\n2\n 3]", 2, "a.json line 3: a comma is missing between two values"),
        ("b.json", b"[1,\n{\"a\":", 1, "b.json line 2: a value is not closed; the file was cut off"),
        ("c.json", b"[1,\n", 1, "c.json line 2: the array is not closed; the file was cut off"),
        ("d.json", b"[1,]", 1, "d.json line 1: a value is missing behind the comma"),
        ("e.json", b"[1]\n[2]", 1, "e.json line 2: something follows the array; put one array into a file"),
        ("f.json", b"[\"a\n\"]", 0, "f.json line 1: a line break within a string"),
        ("g.json", b"[}", 0, "g.json line 1: expected a value"),
        (
            "h.txt",
            b"hello\n",
            0,
            "h.txt: cannot tell its format; name it .ndjson, .json, .csv or .tsv (and .gz, .xz or .zst)",
        ),
    ] {
        assert_eq!(failure(&files.put(name, bytes)), (before, error.to_owned()));
    }
    let cut = gzip(b"{\"a\":1}\n{\"a\":2}\n");
    let (_, error) = failure(&files.put("cut.ndjson.gz", &cut[..cut.len() - 9]));
    assert!(error.starts_with("cut.ndjson.gz") && error.ends_with("check that the file is whole"), "{error}");
}

#[test]
fn a_record_beyond_the_bound_is_an_error_whatever_the_format() {
    let files = Files::new();
    let long = "x".repeat(3 * RECORD_BYTES_MAX);
    for (name, text, before, line) in [
        ("a.ndjson", format!("1\n{long}\n"), 1, 2),
        ("a.json", format!("[1,\n\"{long}\"]"), 1, 2),
        ("a.csv", format!("a\n1\n{long}\n"), 1, 3),
        ("b.csv", format!("a\n1\n\"{}", "x\n".repeat(2 * RECORD_BYTES_MAX)), 1, 3),
    ] {
        let (records, error) = failure(&files.put(name, text.as_bytes()));
        assert_eq!(records, before);
        assert!(error.starts_with(&format!("{name} line {line}: the record is longer than 1048576 bytes")), "{error}");
    }
    let most = "x".repeat(RECORD_BYTES_MAX);
    assert_eq!(texts(&files.put("b.ndjson", format!("{most}\r\n1").as_bytes())), [most.as_str(), "1"]);
}

#[test]
fn what_cannot_be_opened_is_told_before_anything_is_read() {
    let files = Files::new();
    let good = files.put("a.ndjson", b"1\n");
    let error = |path: &Path| Replay::open(&[good.clone(), path.to_owned()]).err().unwrap().to_string();
    assert!(error(&files.0.path().join("none.csv")).contains("none.csv: No such file"));
    assert!(error(files.0.path()).contains("it is a folder"));
    assert!(error(&files.put("a.tar.xz", b"")).contains("unpack it first"));
}

#[test]
fn keys_and_times_come_from_where_the_pointers_lead() {
    let files = Files::new();
    let lines = br#"{"id":"a","at":"1970-01-01T00:00:01Z"}
{"id":7.50,"at":2000}
{"id":true,"at":"1970-01-01 00:00:03"}
{"id":null,"at":"4000"}
{"id":[1],"at":5000}
"#;
    let pointer = |text: &str| Some(Pointer::parse(text).unwrap());
    let path = files.put("a.ndjson", lines);
    let records: Vec<_> = open(&path).with_fields(pointer("/id"), pointer("/at")).map(Result::unwrap).collect();
    let keys: Vec<_> = records.iter().map(|r| r.key.as_deref()).collect();
    assert_eq!(keys, [Some(&b"a"[..]), Some(b"7.50"), Some(b"true"), None, None]);
    assert_eq!(records.iter().map(|r| r.time_ms.unwrap()).collect::<Vec<_>>(), [1000, 2000, 3000, 4000, 5000]);

    let path = files.put("b.ndjson", b"no json\n{\"at\":\"noon\"}");
    assert!(open(&path).with_fields(pointer("/id"), None).all(|r| r.unwrap().key.is_none()));
    let error = open(&path).with_fields(None, pointer("/at")).next().unwrap().unwrap_err().to_string();
    assert!(error.ends_with("b.ndjson line 1: no time at \"/at\" to go by; name the member that holds one with --time, or leave --speed out"), "{error}");
}

#[test]
fn several_files_follow_one_another_and_progress_counts_their_bytes() {
    let files = Files::new();
    let paths = [files.put("a.csv", b"a\n1\n"), files.put("b.ndjson.gz", &gzip(b"2\n3\n"))];
    let total = paths.iter().map(|p| std::fs::metadata(p).unwrap().len()).sum();
    let mut replay = Replay::open(&paths).unwrap();
    assert_eq!(replay.progress(), Progress { bytes_read: 0, bytes_total: Some(total) });
    let values: Vec<_> = replay.by_ref().map(|r| r.unwrap().value).collect();
    assert_eq!(values, [&b"{\"a\":1}"[..], b"2", b"3"]);
    assert_eq!(replay.progress(), Progress { bytes_read: total, bytes_total: Some(total) });
    assert_eq!(Replay::open(&[PathBuf::from("-")]).unwrap().progress().bytes_total, None);
}

#[test]
fn real_files_have_the_rows_and_sums_that_are_known_of_them() {
    let Some(data) = std::env::var_os("TALLYFLOW_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: TALLYFLOW_TEST_DATA does not name the folder of the test data");
        return;
    };
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data.join("expected.json")).unwrap()).unwrap();
    let rows = |path: &str| -> Vec<serde_json::Value> {
        open(&data.join(path)).map(|r| serde_json::from_slice(&r.unwrap().value).unwrap()).collect()
    };

    // With every digit, which a float has not.
    let values = |name: &str| -> Vec<Decimal> {
        let records = open(&data.join(format!("metrics/nab/{name}.csv.gz"))).map(|r| r.unwrap().value);
        let value = |record: Vec<u8>| {
            #[derive(serde::Deserialize)]
            struct Row {
                value: Box<serde_json::value::RawValue>,
            }
            Decimal::parse_json(serde_json::from_slice::<Row>(&record).unwrap().value.get()).unwrap()
        };
        records.map(value).collect()
    };

    let az = rows("elections/az/20121106__az__general.csv");
    let mut president = serde_json::Map::new();
    for row in az.iter().filter(|r| r["office"] == "President") {
        let votes: i64 = row["votes"].as_i64().unwrap();
        let sum = president.entry(row["candidate"].as_str().unwrap()).or_insert(0.into());
        *sum = (sum.as_i64().unwrap() + votes).into();
    }
    assert_eq!(serde_json::Value::Object(president), expected["az2012_president"]);

    let az = rows("elections/az/20181106__az__general__county.csv");
    assert_eq!(az.len() as u64, expected["az2018_rows"].as_u64().unwrap());
    let totals = az.iter().filter(|r| r["precinct"] == "TOTAL").count();
    assert_eq!(totals as u64, expected["az2018_total_rows"].as_u64().unwrap());

    for name in [
        "realAWSCloudwatch/ec2_cpu_utilization_5f5533",
        "realAWSCloudwatch/elb_request_count_8c0756",
        "realTweets/Twitter_volume_GOOG",
    ] {
        let rows = rows(&format!("metrics/nab/{name}.csv.gz"));
        let known = &expected[format!("nab {name}")];
        assert_eq!(rows.len() as u64, known["rows"].as_u64().unwrap(), "{name}");
        let sum: i128 = values(name).iter().map(|value| value.units()).sum();
        assert!((Decimal::from_units(sum).to_f64() - known["sum"].as_f64().unwrap()).abs() < 1e-3, "{name}");
        assert!(rows.iter().all(|r| parse_time_ms(r["timestamp"].as_str().unwrap()).is_some()), "{name}");
    }
    assert_eq!(rows("elections/nyt2020/georgia-state-changes.csv").len(), 226);
}
