//! What a run is told as: the median of the rounds, the least and the most, and ratios.

use super::{DRAIN, LOOP, Plan, Ran};
use crate::cli::output::{self, Rows};
use serde::Serialize;

/// One workload.
#[derive(Debug, Serialize)]
pub struct Report {
    pub workload: &'static str,
    log: &'static str,
    records: u64,
    rounds: usize,
    cases: Vec<Case>,
}

#[derive(Debug, Serialize)]
struct Case {
    name: String,
    /// Threads of the engine; `None`: it is a plain program.
    workers: Option<usize>,
    records_per_s: Spread,
    cpu_s_per_million: Spread,
    /// Of the medians.
    ratio_to_loop: f64,
    ratio_to_drain: f64,
    cpu_to_loop: f64,
    /// The most in any round.
    peak_bytes: u64,
    /// Of the whole machine, of 1, the brokers on it too.
    busy: Spread,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let (half, last) = (values.len() / 2, values.len().saturating_sub(1));
        // Of an even number of them, the mean of the two in the middle.
        let median =
            if values.len().is_multiple_of(2) { (at(half.saturating_sub(1)) + at(half)) / 2.0 } else { at(half) };
        Spread { median, min: at(0), max: at(last) }
    }

    fn text(self, unit: f64, digits: usize) -> String {
        let Spread { median, min, max } = self;
        format!("{:.digits$} ({:.digits$}-{:.digits$})", median / unit, min / unit, max / unit)
    }
}

impl Report {
    pub fn of(workload: &'static str, records: u64, cases: &[(String, Vec<Ran>)], workers: &[usize]) -> Report {
        let per_s = |rans: &[Ran]| Spread::of(rans.iter().map(|ran| ran.records as f64 / ran.seconds));
        let cpu = |rans: &[Ran]| Spread::of(rans.iter().map(|ran| ran.cpu_s * 1e6 / ran.records as f64));
        let of = |name: &str| cases.iter().find(|(case, _)| case == name).map_or(&[][..], |(_, rans)| rans);
        let (drain_per_s, loop_per_s) = (per_s(of(DRAIN)).median, per_s(of(LOOP)).median);
        let loop_cpu = cpu(of(LOOP)).median;
        let case = |(index, (name, rans)): (usize, &(String, Vec<Ran>))| {
            let (records_per_s, cpu_s_per_million) = (per_s(rans), cpu(rans));
            Case {
                name: name.clone(),
                workers: index.checked_sub(2).and_then(|index| workers.get(index)).copied(),
                records_per_s,
                cpu_s_per_million,
                ratio_to_loop: records_per_s.median / loop_per_s,
                ratio_to_drain: records_per_s.median / drain_per_s,
                cpu_to_loop: cpu_s_per_million.median / loop_cpu,
                peak_bytes: rans.iter().map(|ran| ran.peak_bytes).max().unwrap_or_default(),
                busy: Spread::of(rans.iter().map(|ran| ran.busy)),
            }
        };
        let rounds = cases.first().map_or(0, |(_, rans)| rans.len());
        Report { workload, log: "kafka", records, rounds, cases: cases.iter().enumerate().map(case).collect() }
    }
}

/// Prints all workloads.
pub fn print(reports: &[Report], plan: &Plan) -> anyhow::Result<()> {
    if plan.json {
        return Ok(output::line(serde_json::to_string(reports)?)?);
    }
    for report in reports {
        output::line(format_args!(
            "{} of {} records in Kafka, median (least-most) of {} rounds",
            report.workload, report.records, report.rounds
        ))?;
        let right =
            ["M records/s", "to the loop", "to the drain", "CPU s per M", "to the loop's", "peak MB", "machine"];
        let mut rows = Rows::new(&[&[""], &right[..]].concat(), &right);
        for case in &report.cases {
            rows.add([
                case.name.clone(),
                case.records_per_s.text(1e6, 2),
                format!("{:.2}", case.ratio_to_loop),
                format!("{:.2}", case.ratio_to_drain),
                case.cpu_s_per_million.text(1.0, 2),
                format!("{:.2}", case.cpu_to_loop),
                format!("{:.0}", case.peak_bytes as f64 / 1e6),
                format!("{:.0} %", case.busy.median * 100.0),
            ]);
        }
        rows.print()?;
    }
    output::line("records and tallies of all are equal; CPU and memory are of the reading processes, without brokers")?;
    Ok(())
}
