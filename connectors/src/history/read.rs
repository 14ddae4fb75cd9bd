//! What was served at a moment, and how a line went. Each answer is read in one transaction: what is
//! written or goes meanwhile does not touch it.

use super::HistoryError;
use super::schema::{self, SUBJECT};
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Filter, Group, JobResults, Past, ReadError, SubjectState, Tallies};

/// A job's history, to be read. Opens the file for each answer.
#[derive(Clone, Debug)]
pub struct HistoryReader {
    path: PathBuf,
    job: String,
}

/// What was served at a point.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub tallies: Tallies,
    /// The names of the aggregates then.
    pub aggregates: Vec<String>,
}

/// A line, or a subject's total.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub subject: String,
    /// `None`: the total.
    pub group: Option<Group>,
    /// Of points, in ms since 1970.
    pub between: RangeInclusive<i64>,
    /// The last point of each such step; `None`: every point.
    pub step: Option<Duration>,
    /// Only points after this epoch.
    pub after: Option<Epoch>,
    pub limit: usize,
}

/// How a line went.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// By epoch.
    pub items: Vec<SeriesItem>,
    /// Whether there are more.
    pub more: bool,
}

/// A line at a point.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesItem {
    pub epoch: Epoch,
    /// In ms since 1970.
    pub at_ms: i64,
    /// `None`: it was not there, or had no total.
    pub value: Option<Decimal>,
    /// Where the job had several aggregates, each.
    pub aggregates: Option<Vec<(String, Decimal)>>,
}

/// A point without its states.
struct Point {
    number: i64,
    epoch: Epoch,
    at_ms: i64,
    aggregates: String,
    has_total: bool,
    top: Option<usize>,
    offsets: String,
    digest: String,
    accounting: String,
}

impl HistoryReader {
    /// The history of a job in a file, which need not be there yet.
    pub fn new(path: PathBuf, job: String) -> HistoryReader {
        HistoryReader { path, job }
    }

    /// What was served at the newest point that is kept at or before a time, and its epoch. `is_known`
    /// says of an epoch that it need not be gathered. Blocks.
    pub fn as_of(
        &self,
        at_ms: i64,
        filter: &Filter,
        is_known: impl FnOnce(Epoch) -> bool,
    ) -> Result<(Epoch, Option<Moment>), HistoryError> {
        let mut conn = schema::open_to_read(&self.path)?;
        let tx = conn.transaction().map_err(|e| self.error(&e))?;
        let found = newest_until(&tx, at_ms).map_err(|e| self.error(&e))?;
        let Some(point) = found else { return Err(self.nothing_before(&tx)) };
        if is_known(point.epoch) {
            return Ok((point.epoch, None));
        }
        let aggregates: Vec<String> = self.parse(&point.aggregates)?;
        let mut past = Past {
            job: self.job.clone(),
            epoch: point.epoch,
            at_ms: point.at_ms,
            aggregates: aggregates.clone(),
            has_total: point.has_total,
            top: point.top,
            offsets: self.parse(&point.offsets)?,
            accounting: self.parse(&point.accounting)?,
            subjects: BTreeMap::new(),
        };
        let bounded = filter.limit.or(point.top).is_some();
        let mut lines = 0;
        let mut take = |subject: String, part: &str, state: &str| -> Result<(), HistoryError> {
            if part == SUBJECT {
                past.subjects.entry(subject).or_default().state =
                    schema::subject(state).map_err(|e| self.damaged(e))?;
                return Ok(());
            }
            lines += 1;
            // Of more than can be answered only the number is told.
            if bounded || lines <= Filter::LINES_MAX {
                let line: (Group, Vec<Decimal>) = (self.parse(part)?, self.parse(state)?);
                past.subjects.entry(subject).or_default().lines.push(line);
            }
            Ok(())
        };
        if filter.subjects.is_empty() {
            self.states(&tx, &point, None, &mut take)?;
        }
        for subject in &filter.subjects {
            self.states(&tx, &point, Some(subject), &mut take)?;
        }
        if !bounded && lines > Filter::LINES_MAX {
            return Err(ReadError::TooManyLines { lines }.into());
        }
        let results = JobResults::of_past(past);
        if filter.subjects.is_empty() && results.digest().to_string() != point.digest {
            return Err(self.damaged(format!("the lines as of epoch {} have another digest", point.epoch)));
        }
        let tallies = Tallies { digest: point.digest, ..results.snapshot(filter)? };
        Ok((point.epoch, Some(Moment { tallies, aggregates })))
    }

    /// How a line went, point by point. Blocks.
    pub fn series(&self, wanted: &Wanted) -> Result<Series, HistoryError> {
        let mut conn = schema::open_to_read(&self.path)?;
        let tx = conn.transaction().map_err(|e| self.error(&e))?;
        let part = wanted.group.as_ref().map_or_else(|| SUBJECT.to_owned(), schema::part_of);
        let found = read_series(&tx, wanted, &part).map_err(|e| self.error(&e))?;
        let Some((points, more)) = found else { return Err(self.nothing_or(&tx, HistoryError::UnknownLine)) };
        let item = |(point, state): (Point, Option<String>)| -> Result<SeriesItem, HistoryError> {
            let (mut value, mut aggregates) = (None, None);
            match state {
                None => {}
                Some(state) if part == SUBJECT => {
                    let SubjectState { total, .. } = schema::subject(&state).map_err(|e| self.damaged(e))?;
                    value = total;
                }
                Some(state) => {
                    let values: Vec<Decimal> = self.parse(&state)?;
                    let names: Vec<String> = self.parse(&point.aggregates)?;
                    value = values.first().copied();
                    aggregates = (values.len() > 1).then(|| names.into_iter().zip(values).collect());
                }
            }
            Ok(SeriesItem { epoch: point.epoch, at_ms: point.at_ms, value, aggregates })
        };
        Ok(Series { items: points.into_iter().map(item).collect::<Result<_, _>>()?, more })
    }

    /// Hands over every entry that was there at a point, of a subject or of all.
    fn states(
        &self,
        conn: &Connection,
        point: &Point,
        subject: Option<&str>,
        take: &mut impl FnMut(String, &str, &str) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let sql = |e: rusqlite::Error| self.error(&e);
        let newest = "SELECT e.subject, e.part, s.state FROM entries e JOIN states s ON s.entry = e.entry AND s.point =
             (SELECT max(point) FROM states WHERE entry = e.entry AND point <= ?1) WHERE s.state IS NOT NULL";
        let mut statement = match subject {
            None => conn.prepare(newest).map_err(sql)?,
            Some(_) => conn.prepare(&format!("{newest} AND e.subject = ?2")).map_err(sql)?,
        };
        let mut rows = match subject {
            None => statement.query([point.number]),
            Some(subject) => statement.query((point.number, subject)),
        }
        .map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
            take(row.get(0).map_err(sql)?, text(1).map_err(sql)?, text(2).map_err(sql)?)?;
        }
        Ok(())
    }

    /// No point is old enough.
    fn nothing_before(&self, conn: &Connection) -> HistoryError {
        let oldest = conn.query_row("SELECT min(at_ms) FROM points", [], |row| row.get::<_, Option<i64>>(0));
        match oldest {
            Ok(Some(oldest_ms)) => HistoryError::Before { oldest_ms },
            Ok(None) => HistoryError::NoneYet,
            Err(e) => self.error(&e),
        }
    }

    /// That error, if there is any point at all.
    fn nothing_or(&self, conn: &Connection, other: HistoryError) -> HistoryError {
        match self.nothing_before(conn) {
            HistoryError::Before { .. } => other,
            nothing => nothing,
        }
    }

    fn parse<'a, T: serde::Deserialize<'a>>(&self, json: &'a str) -> Result<T, HistoryError> {
        serde_json::from_str(json).map_err(|e| self.damaged(e))
    }

    fn damaged(&self, what: impl ToString) -> HistoryError {
        schema::damaged(&self.path, what)
    }

    fn error(&self, error: &rusqlite::Error) -> HistoryError {
        let path: &Path = &self.path;
        schema::error(path, error)
    }
}

const POINT: &str = "SELECT point, epoch, at_ms, aggregates, has_total, top, offsets, digest, accounting FROM points";

impl Point {
    fn read(row: &Row<'_>) -> rusqlite::Result<Point> {
        Ok(Point {
            number: row.get(0)?,
            epoch: Epoch(row.get::<_, i64>(1)? as u64),
            at_ms: row.get(2)?,
            aggregates: row.get(3)?,
            has_total: row.get(4)?,
            top: row.get::<_, Option<i64>>(5)?.map(|top| top as usize),
            offsets: row.get(6)?,
            digest: row.get(7)?,
            accounting: row.get(8)?,
        })
    }
}

/// The newest point at or before a time. Epochs tell which is newer; a clock may have been put back.
fn newest_until(conn: &Connection, at_ms: i64) -> rusqlite::Result<Option<Point>> {
    conn.prepare(&format!("{POINT} WHERE at_ms <= ?1 ORDER BY point DESC LIMIT 1"))?
        .query_row([at_ms], Point::read)
        .optional()
}

type Shown = (Vec<(Point, Option<String>)>, bool);

/// The points wanted, with what the entry came to at each, and whether there are more; nothing if there is
/// no such entry.
fn read_series(conn: &Connection, wanted: &Wanted, part: &str) -> rusqlite::Result<Option<Shown>> {
    let entry = conn
        .prepare("SELECT entry FROM entries WHERE subject = ?1 AND part = ?2")?
        .query_row((&wanted.subject, part), |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(entry) = entry else { return Ok(None) };
    let step = wanted.step.map_or(1, |step| i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1));
    let is_slot = wanted.step.is_some();
    let mut statement =
        conn.prepare(&format!("{POINT} WHERE epoch > ?1 AND at_ms BETWEEN ?2 AND ?3 ORDER BY point"))?;
    let after = wanted.after.map_or(0, |epoch| epoch.0 as i64);
    let mut rows = statement.query((after, *wanted.between.start(), *wanted.between.end()))?;
    let mut points: Vec<Point> = Vec::new();
    let mut more = false;
    while let Some(row) = rows.next()? {
        let point = Point::read(row)?;
        let slot = point.at_ms.div_euclid(step);
        if is_slot && points.last().is_some_and(|last| last.at_ms.div_euclid(step) == slot) {
            points.pop();
        } else if points.len() == wanted.limit {
            more = true;
            break;
        }
        points.push(point);
    }
    let mut newest =
        conn.prepare("SELECT state FROM states WHERE entry = ?1 AND point <= ?2 ORDER BY point DESC LIMIT 1")?;
    let mut shown = Vec::with_capacity(points.len());
    for point in points {
        let state = newest.query_row((entry, point.number), |row| row.get::<_, Option<String>>(0)).optional()?;
        shown.push((point, state.flatten()));
    }
    Ok(Some((shown, more)))
}
