//! The benchmarks with records in Kafka, over few of them: they come to an end, and what they print is complete.

use super::{Broker, read_topic};
use crate::support::tallyflow;
use serde_json::Value;

fn bench(brokers: &str, args: &[&str]) -> Value {
    let command = ["bench", "--log", "kafka", "--kafka", brokers, "--rounds", "1", "--format", "json"];
    let output = tallyflow().args(command).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[test]
fn the_benchmark_fills_its_topics_once_and_holds_the_server_against_plain_programs() {
    let Some(brokers) = Broker::shared() else { return };
    for _ in 0..2 {
        let reports = bench(&brokers, &["--records", "20000", "--voters", "1000"]);
        let workloads: Vec<&str> =
            reports.as_array().unwrap().iter().map(|r| r["workload"].as_str().unwrap()).collect();
        assert_eq!(workloads, ["hashtags", "votes"]);
        for report in reports.as_array().unwrap() {
            let cases = report["cases"].as_array().unwrap();
            let workers: Vec<Option<u64>> = cases.iter().map(|case| case["workers"].as_u64()).collect();
            assert_eq!(workers, [None, None, Some(1), Some(2)]);
            for case in cases {
                assert!(case["records_per_s"]["median"].as_f64().unwrap() > 0.0, "{case}");
                assert!(case["peak_bytes"].as_u64().unwrap() > 1 << 20, "{case}");
            }
        }
        for topic in ["bench-hashtags-20000", "bench-votes-20000-1000"] {
            assert_eq!(read_topic(&brokers, topic, 4).len(), 20_000);
        }
    }
}

#[test]
fn the_benchmark_of_latency_sees_every_record() {
    let Some(brokers) = Broker::shared() else { return };
    let args = ["--workload", "latency", "--rate", "1000", "--for", "2s", "--workers", "1"];
    let report = bench(&brokers, &args);
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        assert_eq!(case["records"], 2_000);
        let [p50, p99] = ["p50_ms", "p99_ms"].map(|name| case[name].as_f64().unwrap());
        assert!(p50 > 0.0 && p50 <= p99, "{case}");
    }
}
