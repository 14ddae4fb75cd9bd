//! What a request says, checked: nothing unknown, nothing twice, nothing out of bounds.

use crate::server::problem::Problem;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;
use tallyflow_dataflows::results::{Filter, Group};
use tallyflow_dataflows::time::parse_time_text;

/// How many items a list answers unless asked for another number, and at most.
const ITEMS: usize = 100;
const ITEMS_MAX: u64 = 1_000;
/// How many subjects, or jobs, one request may name.
const NAMES_MAX: usize = 100;
/// The slowest pace of a stream.
const EVERY_MAX: Duration = Duration::from_secs(60);
/// The longest step of a series.
const STEP_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The pace of a stream unless it is asked for another.
const EVERY: Duration = Duration::from_millis(100);

/// The one variable part of a path: a job or a topic.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(_) => Err(Problem::bad("the path holds a name that is no UTF-8; encode it with %")),
        }
    }
}

/// The query, to be taken apart parameter by parameter; [`Query::end`] refuses what is left.
pub struct Query {
    pairs: VecDeque<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::parse(parts.uri.query().unwrap_or_default())
    }
}

impl Query {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let pairs: VecDeque<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        // What is no UTF-8 was replaced while decoding; nobody may mean another name than it says.
        let replaced = |s: &str| s.contains(char::REPLACEMENT_CHARACTER);
        let meant = text.to_ascii_uppercase().contains("%EF%BF%BD");
        if !meant && pairs.iter().any(|(name, value)| replaced(name) || replaced(value)) {
            return Err(Problem::bad("the query holds bytes that are no UTF-8"));
        }
        Ok(Query { pairs })
    }

    /// Every value of a parameter that may be repeated.
    pub fn all(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let (these, rest) = std::mem::take(&mut self.pairs).into_iter().partition(|(n, _)| n == name);
        self.pairs = rest;
        let these: VecDeque<(String, String)> = these;
        if these.len() > NAMES_MAX {
            return Err(Problem::bad(format!("at most {NAMES_MAX} times `{name}` in one request")));
        }
        Ok(these.into_iter().map(|(_, value)| value).collect())
    }

    /// The value of a parameter.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut all = self.all(name)?;
        if all.len() > 1 {
            return Err(Problem::bad(format!("`{name}` stands in the query {} times; give it once", all.len())));
        }
        Ok(all.pop())
    }

    /// A whole number within bounds.
    pub fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse().ok().filter(|n| digits && range.contains(n)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (least, most) = range.into_inner();
                Err(Problem::bad(format!("`{name}` must be a whole number from {least} to {most}, not {text:?}")))
            }
        }
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(Problem::bad(format!("`{name}` must be {}, not {text:?}", all.join(" or "))))
            }
        }
    }

    /// `subject` and `limit`.
    pub fn filter(&mut self) -> Result<Filter, Problem> {
        let mut subjects = self.all("subject")?;
        subjects.sort_unstable();
        subjects.dedup();
        let limit = self.number("limit", 1..=Filter::LINES_MAX as u64)?;
        Ok(Filter { subjects, limit: limit.map(|n| n as usize) })
    }

    /// `every`: the pace of a stream.
    pub fn every(&mut self) -> Result<Duration, Problem> {
        let Some(text) = self.text("every")? else { return Ok(EVERY) };
        parse_span(&text).filter(|every| *every <= EVERY_MAX).ok_or_else(|| {
            Problem::bad(format!("`every` must be 0 or a time up to 60s, like 100ms or 1s, not {text:?}"))
        })
    }

    /// A time, as records have it: RFC 3339 or epoch milliseconds; in ms since 1970.
    pub fn time_ms(&mut self, name: &str) -> Result<Option<i64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = text.strip_prefix('-').unwrap_or(&text);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            let ms = text.parse().map_err(|_| Problem::bad(format!("`{name}` is beyond any time: {text:?}")))?;
            return Ok(Some(ms));
        }
        match parse_time_text(&text) {
            Ok(ns) => Ok(Some(ns.div_euclid(1_000_000))),
            Err(what) if text.contains(' ') => {
                Err(Problem::bad(format!("`{name}` {what} (in a URL, + is written %2B)")))
            }
            Err(what) => Err(Problem::bad(format!("`{name}` {what}"))),
        }
    }

    /// `step`: how far apart the points of a series are.
    pub fn step(&mut self) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text("step")? else { return Ok(None) };
        match parse_span(&text).filter(|step| !step.is_zero() && *step <= STEP_MAX) {
            Some(step) => Ok(Some(step)),
            None => Err(Problem::bad(format!("`step` must be a time like 10s, 5m, 1h or 1d, not {text:?}"))),
        }
    }

    /// `group`, as answers have it: of several parts, their JSON array.
    pub fn group(&mut self) -> Result<Option<Group>, Problem> {
        let group = |text: String| match serde_json::from_str::<Vec<String>>(&text) {
            Ok(parts) if !parts.is_empty() => Group(parts),
            _ => Group(vec![text]),
        };
        Ok(self.text("group")?.map(group))
    }

    /// `limit` and `after` of a list.
    pub fn page(&mut self) -> Result<Page, Problem> {
        let limit = self.number("limit", 1..=ITEMS_MAX)?.map_or(ITEMS, |n| n as usize);
        Ok(Page { limit, after: self.text("after")? })
    }

    /// Refuses every parameter that nobody asked for: a slip must not silently change the answer.
    pub fn end(self) -> Result<(), Problem> {
        match self.pairs.front() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::bad(format!("there is no parameter {name:?} here; /docs lists them"))),
        }
    }
}

/// `0`, `250ms`, `2s`, `5m`, `1h` or `30d`.
fn parse_span(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    match &text[split..] {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

/// Which part of a list is wanted.
pub struct Page {
    pub limit: usize,
    /// The `next` of the answer before.
    pub after: Option<String>,
}

impl Page {
    /// The part of `items`, which are sorted by a key, that this page shows, and the next `after`.
    pub fn cut<T>(&self, items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        let is_new = |item: &T| self.after.as_deref().is_none_or(|after| key(item) > after);
        let mut items = items.into_iter().filter(is_new);
        let page: Vec<T> = items.by_ref().take(self.limit).collect();
        let next = items.next().and(page.last()).map(|last| key(last).to_owned());
        (page, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_apart_strictly() {
        let mut query = Query::parse("subject=b&subject=a&subject=b&limit=5&every=1s").unwrap();
        let filter = query.filter().unwrap();
        assert_eq!(filter, Filter { subjects: vec!["a".into(), "b".into()], limit: Some(5) });
        assert_eq!(query.every().unwrap(), Duration::from_secs(1));
        assert!(query.end().is_ok());
        for bad in ["limit=0", "limit=+1", "limit=10001", "limit=1&limit=2", "limit=", "limit=x"] {
            assert!(Query::parse(bad).unwrap().filter().is_err(), "{bad}");
        }
        for bad in ["every=1", "every=-1s", "every=61s", "every=1.5s", "every=", "every=99999999999999999999s"] {
            assert!(Query::parse(bad).unwrap().every().is_err(), "{bad}");
        }
        for bad in ["step=0", "step=0s", "step=-1s", "step=1", "step=x", "step=99999999999999999999d", "step=9999d"] {
            assert!(Query::parse(bad).unwrap().step().is_err(), "{bad}");
        }
        assert_eq!(Query::parse("step=5m").unwrap().step().unwrap(), Some(Duration::from_secs(300)));
        let time = |text: &str| Query::parse(text).unwrap().time_ms("t").map(Option::unwrap);
        assert_eq!(time("t=1795255445120").unwrap(), 1_795_255_445_120);
        assert_eq!(time("t=2026-11-21T10:04:05.1209Z").unwrap(), 1_795_255_445_120);
        assert_eq!(time("t=2026-11-21T12:04:05.12%2B02:00").unwrap(), 1_795_255_445_120);
        for bad in ["t=", "t=soon", "t=2026-11-21", "t=2026-11-21T12:04:05+02:00", "t=99999999999999999999", "t=-"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        let group = |text: &str| Query::parse(text).unwrap().group().unwrap().unwrap().0;
        assert_eq!(group("group=a"), ["a"]);
        assert_eq!(group("group=%5B%22a%22,%22b%22%5D"), ["a", "b"]);
        assert_eq!((group("group=[1]"), group("group=")), (vec!["[1]".to_owned()], vec![String::new()]));
        assert!(Query::parse("limitt=1").unwrap().end().is_err());
        assert!(Query::parse("subject=%ff").is_err());
    }

    #[test]
    fn a_list_goes_on_where_the_page_before_ended() {
        let names = ["a", "b", "c"];
        let page = |after: Option<&str>| Page { limit: 2, after: after.map(str::to_owned) }.cut(names, |name| name);
        assert_eq!(page(None), (vec!["a", "b"], Some("b".to_owned())));
        assert_eq!(page(Some("b")), (vec!["c"], None));
    }
}
