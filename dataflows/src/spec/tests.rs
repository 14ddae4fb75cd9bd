use super::voids::Voids;
use super::*;
use crate::decode::{Decoder, FormatInfo, Needs};
use proptest::prelude::*;

/// The formats that job files name here; nothing is decoded.
pub(super) struct TestFormats;

impl Formats for TestFormats {
    fn all(&self) -> &[FormatInfo] {
        &[
            FormatInfo { name: "json", message_id: None, claim_id: None },
            FormatInfo { name: "post", message_id: Some("/id"), claim_id: None },
            FormatInfo { name: "vote", message_id: None, claim_id: Some("/id") },
        ]
    }

    fn decoder(&self, _: &str, _: &Needs) -> Box<dyn Decoder> {
        unreachable!("a job file is checked without decoding anything")
    }
}

fn partitions(topic: &str) -> Option<u32> {
    match topic {
        "orders" => Some(4),
        "posts" => Some(2),
        _ => None,
    }
}

pub(super) fn around() -> Surroundings<'static> {
    Surroundings { formats: &TestFormats, partitions: &partitions, topics: vec!["orders".into(), "posts".into()] }
}

pub(super) fn parse(text: &str) -> Result<JobSpec, Vec<Fault>> {
    JobFile::parse_toml(text, &around())
}

fn parse_json(text: &str) -> Result<JobSpec, Vec<Fault>> {
    JobFile::parse_json(text, &around())
}

/// A job that is right but for the lines given for `[tally]`.
fn with_tally(tally: &str) -> Result<TallySpec, Vec<Fault>> {
    let Dataflow::Tally(spec) = parse(&format!("{HEAD}[tally]\n{tally}\n"))?.dataflow else { panic!("is a tally") };
    Ok(spec)
}

const HEAD: &str = "name = 'j'\ndataflow = 'tally'\n[[input]]\ntopic = 'orders'\nformat = 'json'\n";
/// The same over messages.
const POSTS: &str = "name = 'j'\ndataflow = 'tally'\n[[input]]\ntopic = 'posts'\nformat = 'post'\n";

/// The one fault of a text, as `key: message`.
pub(super) fn fault_of(result: Result<impl std::fmt::Debug, Vec<Fault>>) -> String {
    let faults = result.unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    format!("{}: {}", faults[0].key, faults[0].message)
}

fn p(text: &str) -> Pointer {
    Pointer::parse(text).unwrap()
}

fn value(pointer: &str) -> Option<ValueSpec> {
    Some(ValueSpec { pointer: p(pointer), negate: false })
}

const REVENUE: &str = r#"
name     = "revenue"
dataflow = "tally"
[[input]]
topic  = "orders"
format = "json"
[tally]
subject    = "/region"             # JSON Pointer
group      = ["/country"]
entity     = ["/order_id"]
keep       = "last"
order      = "/updated_at"
value      = "/amount"
where      = "event.status == 'paid'"
aggregates = ["sum", "count", "min", "max", "avg", "distinct:/customer", "last"]
top        = 10
[[sink]]
kind  = "sqlite"
path  = "results.db"
every = "1s"
"#;

fn revenue() -> JobSpec {
    JobSpec {
        name: "revenue".into(),
        dataflow: Dataflow::Tally(TallySpec {
            subject: vec![p("/region")],
            entries: vec![EntrySpec { group: vec![p("/country")], value: value("/amount") }],
            entity: vec![p("/order_id")],
            keep: Keep::Last,
            order: Some(p("/updated_at")),
            filter: Some("event.status == 'paid'".into()),
            aggregates: vec![
                Aggregate::Sum,
                Aggregate::Count,
                Aggregate::Min,
                Aggregate::Max,
                Aggregate::Avg,
                Aggregate::Distinct(p("/customer")),
                Aggregate::Last,
            ],
            top: Some(10),
            ahead: Duration::from_secs(3_600),
        }),
        inputs: vec![InputSpec { topic: "orders".into(), format: "json".into(), from: Bound::Beginning, until: None }],
        sinks: vec![SinkSpec::Sqlite {
            path: "results.db".into(),
            every: Duration::from_secs(1),
            history_step: Duration::from_secs(10),
            history_keep: Duration::from_secs(7 * 86_400),
        }],
        voids: Voids::default(),
    }
}

#[test]
fn a_whole_job_file_is_read_into_its_spec() {
    assert_eq!(parse(REVENUE), Ok(revenue()));
}

#[test]
fn toml_and_json_of_one_job_give_one_spec() {
    let json: serde_json::Value = serde_json::to_value(toml::from_str::<toml::Value>(REVENUE).unwrap()).unwrap();
    assert_eq!(parse_json(&json.to_string()), Ok(revenue()));
    assert_eq!(parse_json(&serde_json::to_string_pretty(&json).unwrap()), Ok(revenue()));
}

#[test]
fn five_faults_are_told_at_once_with_their_lines_and_keys() {
    let text = r#"name = "no good"
dataflow = "tally"
[[input]]
topick = "orders"
topic = "order"
format = "json"
[tally]
group = 7
aggregates = ["sum", "p50"]
"#;
    let faults = parse(text).unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| (f.line.unwrap(), f.key.as_str())).collect();
    let wanted =
        [(1, "name"), (4, "input[0].topick"), (5, "input[0].topic"), (8, "tally.group"), (9, "tally.aggregates[1]")];
    assert_eq!(places, wanted);
    assert!(faults[0].message.contains("letters, digits"));
    assert!(faults[1].message.contains("did you mean \"topic\"?"), "{}", faults[1].message);
    assert!(faults[2].message.contains("did you mean \"orders\"? (there are orders, posts)"), "{}", faults[2].message);
    assert!(faults[3].message.contains("is a whole number, but must be a JSON Pointer"), "{}", faults[3].message);
    assert!(faults[4].message.contains("there are count, sum, min"), "{}", faults[4].message);
    assert_eq!(faults[0].to_string().split(": ").take(2).collect::<Vec<_>>(), ["line 1", "name"]);
}

#[test]
fn the_same_faults_of_a_json_file_have_lines_too() {
    let text = r#"{
  "name": "no good",
  "dataflow": "tally",
  "input": [
    {"topick": 1,
     "topic": "order", "format": "json"}
  ],
  "tally": {
    "group": 7, "where": null
  }
}"#;
    let faults = parse_json(text).unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| (f.line.unwrap(), f.key.as_str())).collect();
    assert_eq!(places, [(2, "name"), (5, "input[0].topick"), (6, "input[0].topic"), (9, "tally.group")]);
}

#[test]
fn lines_that_are_no_toml_are_told_beside_the_faults_of_the_others() {
    let text = "name = 'a b'\ndataflow = \n[[input]]\ntopic = 'orders'\nformat = 'jsn'\n";
    let faults = parse(text).unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| (f.line.unwrap(), f.key.as_str())).collect();
    assert_eq!(places, [(1, "name"), (2, ""), (5, "input[0].format")], "{faults:#?}");
    assert!(parse("name = 'a'\nname = 'b'\n").unwrap_err().iter().any(|f| f.line == Some(2)));
}

#[test]
fn what_is_no_json_is_told_with_its_line() {
    let faults = parse_json("{\n \"name\": \"j\",\n oops }").unwrap_err();
    assert_eq!((faults.len(), faults[0].line), (1, Some(3)));
    assert!(faults[0].message.starts_with("is no JSON"));
    assert!(fault_of(parse_json("null")).contains("is no job"));
    assert!(fault_of(parse_json("[]")).contains("must be a table"));
    assert!(
        parse_json("{\"name\": \"a\",\n\"name\": \"b\"}")
            .unwrap_err()
            .iter()
            .any(|f| f.message.contains("stands there twice"))
    );
}

#[test]
fn what_must_be_there_is_asked_for() {
    let faults = parse("").unwrap_err();
    let keys: Vec<_> = faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, ["name", "dataflow", "input"]);
    let faults = parse("name='j'\ndataflow='tally'\n[[input]]\n[tally]\n[[sink]]\n").unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| (f.line.unwrap(), f.key.as_str())).collect();
    assert_eq!(places, [(3, "input[0].topic"), (3, "input[0].format"), (5, "sink[0].kind"), (5, "sink[0].path")]);
    assert!(fault_of(parse(HEAD)).starts_with("tally: is missing"));
}

#[test]
fn an_unknown_name_is_refused_with_those_that_there_are() {
    for dataflow in ["races", "metrics", "taly"] {
        let text = HEAD.replace("'tally'", &format!("'{dataflow}'")) + "[tally]\n";
        assert!(fault_of(parse(&text)).contains("there are tally"), "{dataflow}");
    }
    let text = HEAD.replace("'json'", "'x-v2'") + "[tally]\n";
    assert!(fault_of(parse(&text)).contains("there are json, post, vote"));
    let window = fault_of(with_tally("window = { size = '1m' }"));
    assert!(window.starts_with("tally.window: is no key that is known here; there are subject, group"), "{window}");
    assert!(fault_of(with_tally("agregates = ['sum']")).contains("did you mean \"aggregates\"?"));
    let sink = format!("{HEAD}[tally]\n[[sink]]\nkind = 'mysql'\npath = 'a'\n");
    assert!(fault_of(parse(&sink)).contains("there are sqlite, mongodb, topic"));
    for message in [window, fault_of(parse(&sink))] {
        assert!(!message.contains("implemented"));
    }
}

#[test]
fn a_name_is_short_and_plain() {
    for good in ["a", "Az09_-", "_", &"x".repeat(64)] {
        assert!(parse(&(HEAD.replace("'j'", &format!("'{good}'")) + "[tally]\n")).is_ok(), "{good}");
    }
    for bad in ["", "-a", "a b", "ä", "a/b", "a.b", &"x".repeat(65)] {
        let fault = fault_of(parse(&(HEAD.replace("'j'", &format!("'{bad}'")) + "[tally]\n")));
        assert!(fault.starts_with("name: "), "{bad}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let spec = with_tally("").unwrap();
    let entry = EntrySpec { group: vec![], value: None };
    assert_eq!((spec.subject, spec.entity, spec.entries), (vec![], vec![], vec![entry]));
    assert_eq!((spec.keep, spec.order, spec.filter, spec.top), (Keep::All, None, None, None));
    assert_eq!((spec.aggregates, spec.ahead), (vec![Aggregate::Count], Duration::from_secs(3_600)));
    assert_eq!(with_tally("value = '/v'").unwrap().aggregates, [Aggregate::Sum]);
    assert_eq!(with_tally("[[tally.entry]]\n[[tally.entry]]\nvalue = '/v'").unwrap().aggregates, [Aggregate::Sum]);
}

#[test]
fn a_pointer_is_one_text_or_a_list() {
    let one = with_tally("subject = '/a'\ngroup = '/g'\nentity = '/e'\nkeep = 'last'").unwrap();
    let list = with_tally("subject = ['/a']\ngroup = ['/g']\nentity = ['/e']\nkeep = 'last'").unwrap();
    assert_eq!(one, list);
    assert!(fault_of(with_tally("subject = []")).contains("empty list"));
    assert!(fault_of(with_tally("group = ['/a', 'b']")).starts_with("tally.group[1]: \"b\" is no JSON Pointer"));
    assert!(fault_of(with_tally("group = ['/a', 3]")).starts_with("tally.group[1]: is a whole number"));
    assert!(fault_of(with_tally("order = ['/a']")).contains("is a list"));
    let nine = ["'/a'"; 9].join(",");
    assert!(fault_of(with_tally(&format!("group = [{nine}]"))).contains("9 elements, more than the 8"));
    assert!(fault_of(with_tally(&format!("order = '{}'", "/a".repeat(33)))).contains("33 tokens"));
}

#[test]
fn the_keep_rule_and_the_entity_must_agree() {
    assert_eq!(with_tally("keep = 'all'").unwrap().keep, Keep::All);
    for (rule, keep) in [("'first'", Keep::First), ("'last'", Keep::Last), ("'first-n'\nn = 3", Keep::FirstN(3))] {
        assert_eq!(with_tally(&format!("entity = '/e'\nkeep = {rule}")).unwrap().keep, keep);
        assert!(fault_of(with_tally(&format!("keep = {rule}"))).contains("needs an entity"));
    }
    assert!(fault_of(with_tally("entity = '/e'\nkeep = 'all'")).starts_with("tally.keep: \"all\" counts every event"));
    assert!(fault_of(with_tally("entity = '/e'")).starts_with("tally.keep: is missing"));
    assert!(fault_of(with_tally("entity = '/e'\nkeep = 'lst'")).contains("did you mean \"last\"?"));
    assert!(fault_of(with_tally("entity = '/e'\nkeep = 'first-n'")).starts_with("tally.n: is missing"));
    assert!(fault_of(with_tally("entity = '/e'\nkeep = 'last'\nn = 3")).starts_with("tally.n: has no meaning"));
    for n in ["0", "1001", "-1", "99999999999999999999"] {
        assert!(parse(&format!("{HEAD}[tally]\nentity = '/e'\nkeep = 'first-n'\nn = {n}\n")).is_err(), "{n}");
    }
    assert!(fault_of(with_tally("entity = '/e'\nkeep = 'first-n'\nn = 1001")).contains("between 1 and 1000"));
}

#[test]
fn messages_are_kept_by_their_id_unless_an_entity_is_named() {
    let job = |tally: &str| parse(&format!("{POSTS}[tally]\n{tally}\n"));
    for rule in ["", "keep = 'all'", "keep = 'last'"] {
        let spec = job(rule).unwrap();
        let by_id = Keeping { keep: Keep::Last, entities: vec![vec![p("/id")]] };
        assert_eq!(spec.keeping(&TestFormats), by_id, "{rule}");
        let Dataflow::Tally(tally) = spec.dataflow else { panic!("is a tally") };
        assert_eq!((tally.keep, tally.entity), (Keep::All, vec![]));
    }
    let by_author = job("entity = '/author'\nkeep = 'last'").unwrap().keeping(&TestFormats);
    assert_eq!(by_author, Keeping { keep: Keep::Last, entities: vec![vec![p("/author")]] });
    for rule in ["keep = 'first'", "keep = 'first-n'\nn = 2"] {
        assert!(fault_of(job(rule)).contains("leave keep out"), "{rule}");
        assert!(fault_of(job(&format!("entity = '/author'\n{rule}"))).contains("write keep = \"last\""), "{rule}");
    }
    let no_messages = parse(&format!("{HEAD}[tally]\n")).unwrap().keeping(&TestFormats);
    assert_eq!(no_messages, Keeping { keep: Keep::All, entities: vec![vec![]] });
}

#[test]
fn inputs_agree_in_whether_they_are_messages_unless_an_entity_is_named() {
    let both = format!("{HEAD}[[input]]\ntopic = 'posts'\nformat = 'post'\n[tally]\n");
    assert!(fault_of(parse(&both)).contains("name an entity"));
    assert!(parse(&format!("{both}entity = '/e'\nkeep = 'last'\n")).is_ok());
    assert!(fault_of(parse(&format!("{both}entity = '/e'\nkeep = 'first'\n"))).contains("write keep = \"last\""));
}

#[test]
fn entries_stand_instead_of_group_and_value() {
    let spec = with_tally(
        "[[tally.entry]]\ngroup = '/from'\nvalue = '-/amount'\n[[tally.entry]]\ngroup = '/to'\nvalue = '/amount'",
    );
    let taken = EntrySpec { group: vec![p("/from")], value: Some(ValueSpec { pointer: p("/amount"), negate: true }) };
    let given = EntrySpec { group: vec![p("/to")], value: value("/amount") };
    assert_eq!(spec.unwrap().entries, [taken, given]);
    let faults = with_tally("group = '/a'\nvalue = '/b'\n[[tally.entry]]\ngroup = '/c'\nvalu = '/d'\n").unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| (f.line.unwrap(), f.key.as_str())).collect();
    assert_eq!(places, [(7, "tally.group"), (8, "tally.value"), (11, "tally.entry[0].valu")]);
    assert!(fault_of(with_tally(&"[[tally.entry]]\n".repeat(65))).contains("65 elements, more than the 64"));
}

#[test]
fn a_condition_must_compile_and_speak_of_the_event() {
    assert_eq!(with_tally("where = 'event.a == 1'").unwrap().filter.as_deref(), Some("event.a == 1"));
    for (source, reason) in
        [("event.", "no CEL"), ("status == 1", "like event.status"), ("foo(event.a)", "calls foo()")]
    {
        let fault = fault_of(with_tally(&format!("where = '{source}'")));
        assert!(fault.starts_with("tally.where: ") && fault.contains(reason), "{fault}");
    }
}

#[test]
fn aggregates_are_known_and_asked_for_once() {
    assert!(fault_of(with_tally("aggregates = []")).contains("empty list"));
    assert!(fault_of(with_tally("aggregates = 'sum'")).contains("must be a list"));
    assert!(
        fault_of(with_tally("aggregates = ['sum', 'avg', 'sum']")).starts_with("tally.aggregates[2]: \"sum\" is asked")
    );
    assert!(fault_of(with_tally("aggregates = ['distinct:']")).contains("needs a pointer"));
    assert!(fault_of(with_tally("aggregates = ['distinct:a']")).contains("no JSON Pointer"));
    let many: Vec<_> = (0..33).map(|i| format!("'distinct:/{i}'")).collect();
    assert!(fault_of(with_tally(&format!("aggregates = [{}]", many.join(",")))).contains("more than the 32"));
}

#[test]
fn numbers_and_spans_have_bounds() {
    assert_eq!(with_tally("top = 10000").unwrap().top, Some(10_000));
    for top in ["0", "10001", "1.5", "'3'"] {
        assert!(fault_of(with_tally(&format!("top = {top}"))).starts_with("tally.top: "), "{top}");
    }
    for (text, ms) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("7d", 604_800_000)] {
        let spec = with_tally(&format!("order = '/at'\nahead = '{text}'")).unwrap();
        assert_eq!(spec.ahead, Duration::from_millis(ms));
    }
    for text in ["'1'", "'h'", "''", "'1 h'", "'-1s'", "'1.5s'", "'99999999999999999999s'", "3600", "'99999d'"] {
        assert!(fault_of(with_tally(&format!("order = '/at'\nahead = {text}"))).starts_with("tally.ahead: "), "{text}");
    }
    assert!(fault_of(with_tally("ahead = '1h'")).contains("no meaning without order"));
}

#[test]
fn an_input_is_bounded_by_names_times_or_offsets() {
    let bounds = |lines: &str| parse(&format!("{HEAD}{lines}\n[tally]\n")).map(|mut j| j.inputs.remove(0));
    let from = |text: &str| bounds(&format!("from = {text}")).map(|i| i.from);
    assert_eq!(from("'beginning'"), Ok(Bound::Beginning));
    assert_eq!(from("'end'"), Ok(Bound::End));
    let at = 1_795_255_200_000;
    for text in ["'2026-11-21T10:00:00Z'", "2026-11-21T10:00:00Z", "2026-11-21 10:00:00", "1795255200000"] {
        assert_eq!(from(text), Ok(Bound::Time(at)), "{text}");
    }
    assert_eq!(from("'2026-11-21T10:00:00.0001Z'"), Ok(Bound::Time(at + 1)));
    let offsets = BTreeMap::from([(PartitionId(0), Offset(812)), (PartitionId(3), Offset(790))]);
    assert_eq!(from("{ '0' = 812, '3' = 790 }"), Ok(Bound::Offsets(offsets)));
    assert_eq!(bounds("until = 'end'").unwrap().until, Some(Bound::End));
    for (text, key) in [
        ("'start'", "from: "),
        ("true", "from: "),
        ("{}", "from: "),
        ("'9999-01-01T00:00:00Z'", "from: "),
        ("{ '4' = 0 }", "from.4: there is no partition 4; the topic has 4, from 0 to 3"),
        ("{ 'a' = 0 }", "from.a: "),
        ("{ '01' = 0 }", "from.01: "),
        ("{ '0' = -1 }", "from.0: "),
        ("{ '0' = '1' }", "from.0: "),
    ] {
        let fault = fault_of(from(text));
        assert!(fault.starts_with(&format!("input[0].{key}")), "{text}: {fault}");
    }
    assert!(fault_of(bounds("until = 'beginning'")).contains("nothing to read"));
    assert!(fault_of(bounds("from = 2000\nuntil = 1000")).contains("lies before from"));
    assert!(fault_of(bounds("from = {'0' = 5}\nuntil = {'0' = 4}")).contains("lies before from"));
}

#[test]
fn sinks_have_bounds_and_files_of_their_own() {
    let sinks = |lines: &str| parse(&format!("{HEAD}[tally]\n[[sink]]\nkind = 'sqlite'\n{lines}\n")).map(|j| j.sinks);
    let sink = sinks("path = 'a'\nevery = '100ms'\nhistory_step = '1m'\nhistory_keep = '30d'").unwrap().remove(0);
    let SinkSpec::Sqlite { every, history_step, history_keep, .. } = sink else { panic!("{sink:?}") };
    let spans = (Duration::from_millis(100), Duration::from_secs(60), Duration::from_secs(30 * 86_400));
    assert_eq!((every, history_step, history_keep), spans);
    for lines in [
        "path = ''",
        "path = 3",
        "path = 'a'\nevery = '99ms'",
        "path = 'a'\nevery = '2h'",
        "path = 'a'\nhistory_keep = '1s'",
    ] {
        assert!(fault_of(sinks(lines)).starts_with("sink[0]."), "{lines}");
    }
    assert!(
        fault_of(sinks("path = 'a'\n[[sink]]\nkind = 'sqlite'\npath = 'a'")).starts_with("sink[1].path: is the file")
    );
    let many = "path = 'a'\n".to_string() + &"[[sink]]\n".repeat(16);
    assert!(fault_of(sinks(&many)).contains("17 elements, more than the 16"));
}

#[test]
fn a_mongodb_sink_names_its_server_in_one_of_three_ways_and_no_fault_shows_it() {
    let sink = |lines: &str| parse(&format!("{HEAD}[tally]\n[[sink]]\nkind = 'mongodb'\n{lines}\n")).map(|j| j.sinks);
    let whole = "database = 'd'\ncollection = 'c.x'\nevery = '2s'\ntransactions = true";
    let wanted = |uri: Uri| MongodbSpec {
        uri,
        database: "d".into(),
        collection: "c.x".into(),
        every: Duration::from_secs(2),
        transactions: true,
        shape: MongodbShape::Tallies,
    };
    for (line, uri) in [
        ("uri = 'mongodb://u:p@h'", Uri::Text("mongodb://u:p@h".into())),
        ("uri_env = 'MONGODB_URI'", Uri::Env("MONGODB_URI".into())),
        ("uri_file = 'secrets/uri'", Uri::File("secrets/uri".into())),
    ] {
        assert_eq!(sink(&format!("{line}\n{whole}")), Ok(vec![SinkSpec::Mongodb(wanted(uri))]));
    }
    // As socialpoll has it, unless said.
    let SinkSpec::Mongodb(polls) = &sink("uri = 'mongodb://h'\nshape = 'socialpoll'").unwrap()[0] else { panic!() };
    assert_eq!((&*polls.database, &*polls.collection, polls.transactions), ("ballots", "polls", false));
    for (lines, key) in [
        ("database = 'd'\ncollection = 'c'", "sink[0].uri: is missing"),
        ("uri = 'mongodb://h'\ncollection = 'c'", "sink[0].database: is missing"),
        ("uri = 'mongodb://h'\ndatabase = 'a.b'\ncollection = 'c'", "sink[0].database: is no name"),
        ("uri = 'mongodb://h'\ndatabase = 'd'\ncollection = 'system.c'", "sink[0].collection: is no name"),
        ("uri = 'mongodb://h'\nuri_env = 'A'\ndatabase = 'd'\ncollection = 'c'", "sink[0].uri_env: stands beside uri"),
        ("uri_env = 'A B'\ndatabase = 'd'\ncollection = 'c'", "sink[0].uri_env: is no name of a variable"),
        ("uri = 'hunter2://h'\ndatabase = 'd'\ncollection = 'c'", "sink[0].uri: must begin with mongodb://"),
        ("uri = 'mongodb://h'\ndatabase = 'd'\ncollection = 'c'\ntransactions = 1", "sink[0].transactions: must be"),
        ("uri = 'mongodb://h'\ndatabase = 'd'\ncollection = 'c'\nshape = 'table'", "sink[0].shape: "),
        ("uri = 'mongodb://h'\ndatabase = 'd'\ncollection = 'c'\npath = 'x'", "sink[0].path: is no key"),
    ] {
        let fault = fault_of(sink(lines));
        assert!(fault.starts_with(key) && !fault.contains("hunter2"), "{lines}: {fault}");
    }
    let twice = format!("uri = 'mongodb://h'\n{whole}\n[[sink]]\nkind = 'mongodb'\nuri = 'mongodb://h'\n{whole}");
    assert!(fault_of(sink(&twice)).starts_with("sink[1].collection: is the collection of sink[0] already"));
    let shown = format!("{:?}", sink(&format!("uri = 'mongodb://u:hunter2@h'\n{whole}")));
    assert!(shown.contains("Mongodb") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_job_file_that_is_too_long_or_all_faults_gets_a_bounded_answer() {
    assert!(fault_of(parse(&"#".repeat(JOB_FILE_BYTES_MAX + 1))).contains("262145 bytes"));
    let many: String = (0..5_000).map(|i| format!("k{i} = 1\n")).collect();
    let faults = parse(&many).unwrap_err();
    assert_eq!(faults.len(), 101);
    assert_eq!(faults[100].message, "and 4903 more faults");
    assert!(parse(&format!("{HEAD}[tally]\ngroup = {}1{}", "[".repeat(50_000), "]".repeat(50_000))).is_err());
    assert!(parse_json(&"[".repeat(200_000)).is_err());
}

#[test]
fn a_spec_survives_its_own_serialisation() {
    let json = serde_json::to_string(&revenue()).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&json).unwrap(), revenue());
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in ".{0,200}") {
        let _ = parse(&text);
        let _ = parse_json(&text);
    }

    #[test]
    fn a_job_file_with_any_damage_gets_an_answer(at in 0usize..600, cut in 0usize..40, put in ".{0,10}") {
        let floor = |i: usize| (0..=i.min(REVENUE.len())).rev().find(|i| REVENUE.is_char_boundary(*i)).unwrap();
        let damaged = format!("{}{put}{}", &REVENUE[..floor(at)], &REVENUE[floor(at + cut)..]);
        if let Err(faults) = parse(&damaged) {
            prop_assert!(!faults.is_empty());
        }
        let _ = parse_json(&damaged);
    }
}

#[test]
fn a_sink_in_a_topic_has_a_name_of_its_own() {
    let sink = |lines: &str| parse(&format!("{HEAD}[tally]\n[[sink]]\nkind = 'topic'\n{lines}\n")).map(|j| j.sinks);
    let spec = SinkSpec::Topic { topic: "results".into(), every: Duration::from_secs(1) };
    assert_eq!(sink("topic = 'results'").unwrap(), [spec]);
    for name in ["", "__results", "a b", ".."] {
        assert!(fault_of(sink(&format!("topic = '{name}'"))).starts_with("sink[0].topic: is no name"), "{name}");
    }
    let input = parse(&format!("{HEAD}[tally]\n")).unwrap().inputs[0].topic.clone();
    assert!(fault_of(sink(&format!("topic = '{input}'"))).contains("is read by this job"));
    assert!(fault_of(sink("topic = 'a'\n[[sink]]\nkind = 'topic'\ntopic = 'a'")).contains("is the topic of sink[0]"));
    assert!(fault_of(sink("topic = 'a'\npath = 'b'")).starts_with("sink[0].path: is no key"));
}
