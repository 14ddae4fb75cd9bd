//! What `watch` knows of a job: the last snapshot with all deltas since.

use super::sse::Event;
use serde::Deserialize;
use std::collections::BTreeMap;
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Delta, Group, Tallies};

/// A job's lines as a reader of its events has them.
#[derive(Debug, Default)]
pub struct Board {
    pub job: String,
    /// `None` until there is a snapshot.
    pub epoch: Option<Epoch>,
    pub at: String,
    /// As the last `status` event said; empty before one.
    pub state: String,
    pub error: Option<String>,
    pub accounting: Accounting,
    subjects: BTreeMap<String, Subject>,
}

#[derive(Debug, Default)]
struct Subject {
    total: Option<Decimal>,
    lines: BTreeMap<Group, Decimal>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub group: String,
    pub value: Decimal,
    /// Of the total, where there is one that is not 0.
    pub share: Option<f64>,
    /// The bar's length, 0 to 1: the value by the greatest of its subject.
    pub length: f64,
}

/// A subject as it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    pub subject: String,
    pub total: Option<Decimal>,
    pub lines: Vec<Line>,
}

/// A `status` event.
#[derive(Deserialize)]
struct Status {
    state: String,
    #[serde(default)]
    error: Option<String>,
}

/// What an event did to the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The numbers or the state are others now.
    Changed,
    /// A snapshot follows.
    Gap,
    /// It has no meaning here.
    Ignored,
}

impl Board {
    pub fn new(job: &str) -> Self {
        Board { job: job.to_owned(), ..Board::default() }
    }

    /// Applies an event. An error means that the server's answer is not understood.
    pub fn apply(&mut self, event: &Event) -> serde_json::Result<Applied> {
        match event.name.as_str() {
            "snapshot" => self.replace(serde_json::from_str(&event.data)?),
            "delta" => self.change(serde_json::from_str(&event.data)?),
            "status" => {
                let status: Status = serde_json::from_str(&event.data)?;
                self.state = status.state;
                self.error = status.error;
            }
            "gap" => return Ok(Applied::Gap),
            _ => return Ok(Applied::Ignored),
        }
        Ok(Applied::Changed)
    }

    fn replace(&mut self, tallies: Tallies) {
        self.job = tallies.job;
        self.epoch = Some(tallies.epoch);
        self.at = tallies.at;
        self.accounting = tallies.accounting;
        self.subjects = tallies
            .subjects
            .into_iter()
            .map(|s| {
                let lines = s.tallies.into_iter().map(|t| (t.group, t.value)).collect();
                (s.subject, Subject { total: s.total, lines })
            })
            .collect();
    }

    fn change(&mut self, delta: Delta) {
        self.epoch = Some(delta.epoch);
        self.at = delta.at;
        self.accounting = delta.accounting;
        for change in delta.changes {
            let subject = self.subjects.entry(change.subject).or_default();
            match change.value {
                Some(value) => subject.lines.insert(change.group, value),
                None => subject.lines.remove(&change.group),
            };
        }
        for (subject, total) in delta.totals {
            self.subjects.entry(subject).or_default().total = Some(total);
        }
        self.subjects.retain(|_, subject| !subject.lines.is_empty());
    }

    /// The subjects by name, their lines by value, greatest first, then by group.
    pub fn sections(&self) -> Vec<Section> {
        self.subjects.iter().map(|(name, subject)| section(name, subject)).collect()
    }
}

fn section(name: &str, subject: &Subject) -> Section {
    let mut lines: Vec<(&Group, Decimal)> = subject.lines.iter().map(|(group, value)| (group, *value)).collect();
    lines.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let total = subject.total.filter(|total| *total != Decimal::ZERO).map(Decimal::to_f64);
    let greatest = lines.iter().map(|(_, value)| value.to_f64().abs()).fold(0.0, f64::max);
    let lines = lines
        .into_iter()
        .map(|(group, value)| Line {
            group: group.text(),
            value,
            share: total.map(|total| value.to_f64() / total),
            length: if greatest > 0.0 { (value.to_f64() / greatest).clamp(0.0, 1.0) } else { 0.0 },
        })
        .collect();
    Section { subject: name.to_owned(), total: subject.total, lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    const NOTHING: &str = r#"{"read":0,"rejected":0,"irrelevant":0,"matched":0,"claims":0,"counted":0,"superseded":0,"duplicate":0,"late":0,"voided":0}"#;

    fn snapshot() -> Event {
        let counts = r#""claims":3,"counted":3,"superseded":0,"duplicate":0,"late":0,"voided":0"#;
        event(
            "snapshot",
            &format!(
                r#"{{"job":"j","epoch":5,"at":"2026-11-21T10:00:00Z","offsets":{{}},"digest":"sha256:0","accounting":{NOTHING},
                "subjects":[{{"subject":"s","total":3,{counts},"tallies":[
                {{"group":"a","value":2,"share":0.66}},{{"group":["b","c"],"value":1,"share":0.33}}]}}]}}"#
            ),
        )
    }

    #[test]
    fn deltas_change_add_and_take_away_lines_and_shares_follow_the_total() {
        let mut board = Board::new("j");
        assert_eq!(board.apply(&snapshot()).unwrap(), Applied::Changed);
        let delta = format!(
            r#"{{"job":"j","epoch":6,"at":"2026-11-21T10:00:01Z","accounting":{NOTHING},"totals":{{"s":8}},"changes":[
            {{"subject":"s","group":"a","value":null,"was":2}},
            {{"subject":"s","group":["b","c"],"value":6,"was":1}},
            {{"subject":"s","group":"d","value":2,"was":null}}]}}"#
        );
        board.apply(&event("delta", &delta)).unwrap();
        let [section] = board.sections().try_into().unwrap();
        assert_eq!(board.epoch, Some(Epoch(6)));
        assert_eq!(section.total.unwrap().to_string(), "8");
        let lines: Vec<_> = section.lines.iter().map(|l| (l.group.as_str(), l.value.to_string(), l.share)).collect();
        assert_eq!(lines, [("[\"b\",\"c\"]", "6".into(), Some(0.75)), ("d", "2".into(), Some(0.25))]);
        assert_eq!(section.lines[0].length, 1.0);
    }

    #[test]
    fn a_subject_goes_with_its_last_line() {
        let mut board = Board::new("j");
        board.apply(&snapshot()).unwrap();
        let delta = format!(
            r#"{{"job":"j","epoch":6,"at":"","accounting":{NOTHING},"totals":{{"s":0}},"changes":[
            {{"subject":"s","group":"a","value":null,"was":2}},{{"subject":"s","group":["b","c"],"value":null,"was":1}}]}}"#
        );
        board.apply(&event("delta", &delta)).unwrap();
        assert!(board.sections().is_empty());
    }

    #[test]
    fn a_status_is_shown_and_an_unknown_event_is_not_an_error() {
        let mut board = Board::new("j");
        board.apply(&event("status", r#"{"job":"j","state":"failed","error":"gone"}"#)).unwrap();
        assert_eq!((board.state.as_str(), board.error.as_deref()), ("failed", Some("gone")));
        assert_eq!(board.apply(&event("gap", "{}")).unwrap(), Applied::Gap);
        assert_eq!(board.apply(&event("news", "x")).unwrap(), Applied::Ignored);
        assert!(board.apply(&event("delta", "x")).is_err());
    }
}
