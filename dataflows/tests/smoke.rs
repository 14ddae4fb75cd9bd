use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::results::Filter;
use tallyflow_dataflows::spec::*;
use tallyflow_dataflows::testing::*;

fn spec() -> JobSpec {
    let p = |s: &str| Pointer::parse(s).unwrap();
    JobSpec {
        name: "votes".into(),
        dataflow: Dataflow::Tally(TallySpec {
            subject: vec![p("/poll")],
            entries: vec![EntrySpec { group: vec![p("/option")], value: None }],
            entity: vec![p("/poll"), p("/voter")],
            keep: Keep::Last,
            order: None,
            filter: None,
            aggregates: vec![Aggregate::Count],
            top: None,
            ahead: Duration::from_secs(3600),
        }),
        inputs: vec![InputSpec { topic: "votes".into(), format: "json".into(), from: Bound::Beginning, until: None }],
        sinks: vec![],
    }
}

#[test]
fn one_vote_per_voter() {
    for workers in [1, 2, 4] {
        let log = MemoryLog::default();
        log.create("votes", 3);
        let mut n = 0;
        for i in 0..3000u64 {
            let value = format!(r#"{{"poll":"p{}","voter":"v{}","option":"o{}"}}"#, i % 2, i % 500, i % 7).into_bytes();
            log.append("votes", (i % 3) as usize, [MemoryRecord { timestamp_ms: i as i64, value }]);
            n += 1;
        }
        let mut bench = Bench::start(&spec(), Arc::new(log.clone()), Arc::new(PlainFormats), workers);
        bench.check = Box::new(|r| assert!(r.accounting().is_even(), "{:?}", r.accounting()));
        bench.run_to(n, Duration::from_secs(20));
        let t = bench.results.snapshot(&Filter::default()).unwrap();
        println!("{}", serde_json::to_string(&t).unwrap());
        assert_eq!(t.accounting.counted, 500);
    }
}
