//! Real elections and real measurements, replayed by `feed replay` and tallied by the server, against
//! what is known of them. The files lie beside the repository, where TALLYFLOW_TEST_DATA says; the tests
//! say so where they are left out.

use crate::support::{Board, Server, test_data};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use tallyflow_dataflows::number::Decimal;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn decimal(n: i64) -> Decimal {
    Decimal::parse_json(&n.to_string()).unwrap()
}

/// A server with a topic of that name, of three partitions, and a job over it.
fn server(dir: &Path, topic: &str, job: &str) -> Server {
    let server = Server::start(dir, 2);
    server.http.create_topic(topic, 3);
    let head = format!("dataflow = \"tally\"\n[[input]]\ntopic = \"{topic}\"\nformat = \"json\"\n");
    server.http.submit(&format!("name = \"{topic}\"\n{head}{job}"));
    server
}

#[test]
fn arizona_2012_comes_to_the_known_sums_by_candidate() {
    let Some(data) = test_data() else { return };
    let dir = tempfile::tempdir().unwrap();
    // A county says what a candidate has there; said again it replaces what was said before.
    let server = server(
        dir.path(),
        "az2012",
        r#"[tally]
        group = ["/candidate"]
        entity = ["/county", "/office", "/district", "/party", "/candidate"]
        keep = "last"
        value = "/votes"
        where = "event.office == 'President'"
        "#,
    );
    let file = data.join("elections/az/20121106__az__general.csv");
    let rows = csv::Reader::from_path(&file).unwrap().records().count() as u64;
    // Twice: a redelivery changes nothing.
    for times in 1..=2 {
        server.cli_ok(&["feed", "replay", file.to_str().unwrap(), "--topic", "az2012", "--key", "/county"]);
        let tallies = server.http.tallies_of("az2012", times * rows);
        let expected = json(&data.join("expected.json"))["az2012_president"].as_object().unwrap().clone();
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(candidate, votes)| (("az2012".to_owned(), candidate.clone()), decimal(votes.as_i64().unwrap())))
            .collect();
        assert_eq!(Board::of(&tallies).lines, expected);
        assert_eq!(tallies.accounting.rejected, 0, "{:?}", tallies.accounting);
    }
    server.http.recount("az2012");
}

#[test]
fn arizona_2018_by_county_comes_to_its_own_totals_where_those_are_right() {
    let Some(data) = test_data() else { return };
    let expected = json(&data.join("expected.json"));
    let file = data.join("elections/az/20181106__az__general__county.csv");
    let dir = tempfile::tempdir().unwrap();
    // The columns are shifted: the county stands under `precinct`, and TOTAL is none.
    let server = server(
        dir.path(),
        "az2018",
        r#"[tally]
        group = ["/office", "/district", "/candidate", "/party"]
        entity = ["/precinct", "/office", "/district", "/candidate", "/party"]
        keep = "last"
        value = "/votes"
        where = "event.precinct != 'TOTAL'"
        "#,
    );
    server.cli_ok(&["feed", "replay", file.to_str().unwrap(), "--topic", "az2018"]);
    let rows = expected["az2018_rows"].as_u64().unwrap();
    let tallies = server.http.tallies_of("az2018", rows);
    assert_eq!(tallies.accounting.irrelevant, expected["az2018_total_rows"].as_u64().unwrap());
    assert_eq!(tallies.accounting.rejected, 0);

    // The file's own totals, which nobody counted here.
    let mut totals = BTreeMap::new();
    for row in csv::Reader::from_path(&file).unwrap().records() {
        let row = row.unwrap();
        if &row[1] == "TOTAL" {
            let key = [&row[2], &row[3], &row[4], &row[5]].map(str::to_owned).to_vec();
            assert_eq!(totals.insert(key, decimal(row[6].parse().unwrap())), None);
        }
    }
    let lines = &tallies.subjects[0].tallies;
    assert_eq!(lines.len() as u64, expected["az2018_keys"].as_u64().unwrap());
    let differ = lines.iter().filter(|line| totals.get(&line.group.0) != Some(&line.value));
    let differ: BTreeMap<String, (Option<Decimal>, Decimal)> =
        differ.map(|line| (line.group.0.join("|"), (totals.get(&line.group.0).copied(), line.value))).collect();
    let known: BTreeMap<String, (Option<Decimal>, Decimal)> = expected["az2018_mismatch"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, known)| {
            let total = known["TOTAL row"].as_i64().map(decimal);
            (key.clone(), (total, decimal(known["county sum"].as_i64().unwrap())))
        })
        .collect();
    assert_eq!(differ, known);
    let equal = lines.len() - differ.len();
    assert_eq!(equal as u64, expected["az2018_total_equals_county_sum"].as_u64().unwrap());
    server.http.recount("az2018");
}

/// The members of a tar archive (POSIX.1-1988, "ustar": blocks of 512 bytes, the name at 0, the size at
/// 124 in octal) that are files.
fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    let mut at = 0;
    while at + 512 <= tar.len() && tar[at] != 0 {
        let text = |from: usize, to: usize| {
            let field = &tar[at + from..at + to];
            let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
            std::str::from_utf8(&field[..end]).unwrap().trim().to_owned()
        };
        let size = usize::from_str_radix(&text(124, 136), 8).unwrap();
        if matches!(tar[at + 156], b'0' | 0) {
            members.insert(text(0, 100), tar[at + 512..at + 512 + size].to_vec());
        }
        at += 512 + size.div_ceil(512) * 512;
    }
    members
}

/// A poll of the county's feed as records of the `result` format, and its own time.
fn results(poll: &Value) -> (String, Vec<Value>) {
    let at = poll["Timestamp"].as_str().unwrap().to_owned();
    let mut results = Vec::new();
    for group in poll["Election"]["ContestGroups"].as_array().unwrap() {
        for contest in group["Contests"].as_array().unwrap() {
            for candidate in contest["Candidates"].as_array().unwrap() {
                results.push(serde_json::json!({
                    "source": "la-county",
                    "race": format!("{}: {}", group["Name"].as_str().unwrap(), contest["Title"].as_str().unwrap()),
                    "unit": "Los Angeles",
                    "candidate": candidate["Name"],
                    "party": candidate["Party"],
                    "votes": candidate["Votes"],
                    "at": at,
                }));
            }
        }
    }
    (at, results)
}

#[test]
fn los_angeles_2024_follows_the_countys_feed_up_and_down_to_the_certified_result() {
    let Some(data) = test_data() else { return };
    let packed = std::fs::File::open(data.join("elections/la2024/primary/polls.tar.xz")).unwrap();
    let mut tar = Vec::new();
    liblzma::read::XzDecoder::new(packed).read_to_end(&mut tar).unwrap();
    let polls = members(&tar);
    assert_eq!(polls.len(), 50);

    let dir = tempfile::tempdir().unwrap();
    let server = server(
        dir.path(),
        "la2024",
        r#"[tally]
        subject = ["/race"]
        group = ["/candidate", "/party"]
        entity = ["/race", "/unit", "/candidate", "/party"]
        keep = "last"
        order = "/at"
        value = "/votes"
        "#,
    );
    let file = dir.path().join("poll.ndjson");
    // The plain count: of all polls so far, the one with the latest time of the feed.
    let (mut newest, mut read, mut fell) = (None::<(String, Vec<Value>)>, 0, BTreeSet::new());
    let mut held = BTreeMap::new();
    for (name, poll) in &polls {
        let (at, results) = results(&serde_json::from_slice(poll).unwrap());
        let lines: String = results.iter().map(|result| format!("{result}\n")).collect();
        std::fs::write(&file, lines).unwrap();
        server.cli_ok(&["feed", "replay", file.to_str().unwrap(), "--topic", "la2024", "--key", "/race"]);
        read += results.len() as u64;
        if newest.as_ref().is_none_or(|(newest, _)| *newest <= at) {
            newest = Some((at, results));
        }
        let expected: BTreeMap<(String, String), Decimal> = newest
            .iter()
            .flat_map(|(_, results)| results)
            .map(|r| {
                let text = |key: &str| r[key].as_str().unwrap().to_owned();
                let group = serde_json::json!([text("candidate"), text("party")]).to_string();
                ((text("race"), group), decimal(r["votes"].as_i64().unwrap()))
            })
            .collect();
        assert_eq!(expected.len(), 856, "{name}");
        let tallies = server.http.tallies_of("la2024", read);
        assert_eq!(Board::of(&tallies).lines, expected, "after {name}");
        assert_eq!(tallies.accounting.counted, 856);
        fell.extend(expected.iter().filter(|(line, value)| held.get(*line) > Some(*value)).map(|(l, _)| l.clone()));
        held = expected;
    }
    // The county took back figures of 8 candidates on the 22nd, in a poll that was no stale one.
    assert_eq!(fell.len(), 8, "{fell:?}");
    let sum: i128 = held.values().map(|votes| votes.units()).sum();
    assert_eq!(Decimal::from_units(sum), decimal(29_131_704));
    server.http.recount("la2024");
}

#[test]
fn measurements_are_summed_to_the_last_digit() {
    let Some(data) = test_data() else { return };
    let expected = json(&data.join("expected.json"));
    let dir = tempfile::tempdir().unwrap();
    let server = server(
        dir.path(),
        "nab",
        "[tally]\norder = \"/timestamp\"\nvalue = \"/value\"\naggregates = [\"sum\", \"count\", \"max\", \"last\"]\n",
    );
    let (mut read, mut all) = (0, 0i128);
    for name in [
        "realAWSCloudwatch/ec2_cpu_utilization_5f5533",
        "realAWSCloudwatch/elb_request_count_8c0756",
        "realTweets/Twitter_volume_GOOG",
    ] {
        let (file, known) = (data.join(format!("metrics/nab/{name}.csv.gz")), &expected[format!("nab {name}")]);
        server.cli_ok(&["feed", "replay", file.to_str().unwrap(), "--topic", "nab"]);
        read += known["rows"].as_u64().unwrap();
        // By a plain loop over the file's text, in units of the fixed point.
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()).read_to_string(&mut text).unwrap();
        let values = text.lines().skip(1).map(|line| Decimal::parse_json(line.split_once(',').unwrap().1).unwrap());
        let sum: i128 = values.map(Decimal::units).sum();
        // The known sums are floating point.
        assert!((Decimal::from_units(sum).to_f64() - known["sum"].as_f64().unwrap()).abs() < 1e-3, "{name}");
        all += sum;
        let tallies = server.http.tallies_of("nab", read);
        assert_eq!(tallies.accounting.rejected, 0);
        assert_eq!(tallies.subjects[0].tallies[0].value, Decimal::from_units(all), "{name}");
        let aggregates = tallies.subjects[0].tallies[0].aggregates.clone().unwrap();
        assert_eq!(aggregates["count"], decimal(read as i64));
    }
    server.http.recount("nab");
}
