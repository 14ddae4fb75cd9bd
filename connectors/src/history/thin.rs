//! Points thin out with age, and the oldest go.

use super::{History, HistoryError, STEPS_MAX, schema};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use std::collections::BTreeSet;

/// How many points one portion looks at, and how many states.
const POINTS_MAX: usize = 500;
const STATES_MAX: usize = 2_000;
/// How much of the file is given back to the disk at a time.
const VACUUM_PAGES: i64 = 256;
/// When the size is too large, what part of the points goes at a time.
const PART: u64 = 32;

/// States that may be needed no more since points went.
struct Thinned {
    item: i64,
    /// The last point kept before those that went; below 0: there is none.
    low: i64,
    /// The next point kept.
    upto: i64,
    done: (i64, i64),
}

impl History {
    /// Lets a portion of what need not be kept go, by the time now in ms since 1970, in one short
    /// transaction. Whether there may be more to do.
    pub fn tidy(&mut self, now_ms: i64) -> Result<bool, HistoryError> {
        let more = self.tidy_portion(now_ms).map_err(|e| schema::error(&self.path, &e))?;
        if more {
            self.measure().map_err(|e| schema::error(&self.path, &e))?;
        }
        Ok(more)
    }

    fn tidy_portion(&mut self, now_ms: i64) -> rusqlite::Result<bool> {
        if self.drop_states()? {
            return Ok(true);
        }
        let Some(newest) = self.newest_point()? else { return Ok(false) };
        for level in 1..self.keep.steps.len() {
            if self.thin(level, newest, now_ms)? {
                return Ok(true);
            }
        }
        Ok(self.drop_old(newest, now_ms)? || self.drop_for_room(newest)?)
    }

    fn newest_point(&self) -> rusqlite::Result<Option<i64>> {
        self.conn.prepare_cached("SELECT max(point) FROM points")?.query_row([], |row| row.get(0))
    }

    /// Of the points that are old enough for the next step, keeps the last of each.
    fn thin(&mut self, level: usize, newest: i64, now_ms: i64) -> rusqlite::Result<bool> {
        let old_enough = now_ms.saturating_sub(millis(self.keep.steps[level - 1].age));
        let step = millis(self.keep.steps[level].step).max(1);
        // Only whole steps: what is the last of one is known then.
        let before = old_enough.div_euclid(step).saturating_mul(step);
        let points: Vec<(i64, i64)> = self
            .conn
            .prepare_cached(
                "SELECT at_ms, point FROM points WHERE level = ?1 AND at_ms < ?2 AND point < ?3
                 ORDER BY at_ms, point LIMIT ?4",
            )?
            .query_map((level as i64 - 1, before, newest, POINTS_MAX as i64), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let Some(&last) = points.last() else { return Ok(false) };
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for pair in points.windows(2) {
            let [(at, point), (next_at, _)] = *pair else { continue };
            let is_last = at.div_euclid(step) != next_at.div_euclid(step);
            if is_last { kept.push((at, point)) } else { gone.push(point) }
        }
        // Where there are more, the next portion begins with this one.
        if points.len() < POINTS_MAX {
            kept.push(last);
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (at, point) in kept {
            // Of a step that was thinned before this one was old enough, an earlier point was kept.
            let from = at.div_euclid(step) * step;
            let sql = "SELECT point FROM points WHERE level = ?1 AND at_ms >= ?2 AND at_ms < ?3 AND point < ?4";
            let mut statement = tx.prepare_cached(sql)?;
            let earlier = statement.query_map((level as i64, from, from + step, point), |row| row.get(0))?;
            gone.extend(earlier.collect::<rusqlite::Result<Vec<i64>>>()?);
            tx.prepare_cached("UPDATE points SET level = ?2 WHERE point = ?1")?.execute((point, level as i64))?;
        }
        remove(&tx, &gone)?;
        tx.commit()?;
        Ok(true)
    }

    /// Lets points go that are beyond the greatest age.
    fn drop_old(&mut self, newest: i64, now_ms: i64) -> rusqlite::Result<bool> {
        let Some(last) = self.keep.steps.last() else { return Ok(false) };
        let before = now_ms.saturating_sub(millis(last.age));
        let mut gone: Vec<i64> = Vec::new();
        for level in 0..STEPS_MAX {
            let sql = "SELECT point FROM points WHERE level = ?1 AND at_ms < ?2 AND point < ?3 LIMIT ?4";
            let mut statement = self.conn.prepare_cached(sql)?;
            let found = statement.query_map((level as i64, before, newest, POINTS_MAX as i64), |row| row.get(0))?;
            gone.extend(found.collect::<rusqlite::Result<Vec<i64>>>()?);
        }
        self.remove(&gone)
    }

    /// Lets the oldest points go where the file has become too large, and gives back what is free of it.
    fn drop_for_room(&mut self, newest: i64) -> rusqlite::Result<bool> {
        // Room for what comes until the next look.
        let bytes = self.keep.bytes_max - self.keep.bytes_max / 8;
        if self.extent.bytes > bytes {
            let part = (self.extent.points / PART).clamp(1, POINTS_MAX as u64);
            let gone: Vec<i64> = self
                .conn
                .prepare_cached("SELECT point FROM points WHERE point < ?1 ORDER BY point LIMIT ?2")?
                .query_map((newest, part as i64), |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            return self.remove(&gone);
        }
        let number = |what: &str| self.conn.prepare_cached(what)?.query_row([], |row| row.get::<_, i64>(0));
        let free = number("PRAGMA freelist_count")?;
        let file = number("PRAGMA page_count")? * number("PRAGMA page_size")?;
        if free == 0 || (file as u64) <= bytes {
            return Ok(false);
        }
        let mut vacuum = self.conn.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
        Ok(true)
    }

    fn remove(&mut self, gone: &[i64]) -> rusqlite::Result<bool> {
        if gone.is_empty() {
            return Ok(false);
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        remove(&tx, gone)?;
        tx.commit()?;
        Ok(true)
    }

    /// Looks at a portion of the states that may be needed no more.
    fn drop_states(&mut self) -> rusqlite::Result<bool> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let thinned = tx
            .prepare_cached("SELECT item, low, upto, done_point, done_entry FROM thinned ORDER BY item LIMIT 1")?
            .query_row([], |row| {
                let done = (row.get(3)?, row.get(4)?);
                Ok(Thinned { item: row.get(0)?, low: row.get(1)?, upto: row.get(2)?, done })
            })
            .optional()?;
        let Some(thinned) = thinned else { return Ok(false) };
        let states: Vec<(i64, i64)> = tx
            .prepare_cached(
                "SELECT point, entry FROM states INDEXED BY states_by_point
                 WHERE (point, entry) > (?1, ?2) AND point <= ?3 ORDER BY point, entry LIMIT ?4",
            )?
            .query_map((thinned.done.0, thinned.done.1, thinned.upto, STATES_MAX as i64), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for &(point, entry) in &states {
            supersede(&tx, thinned.low, point, entry)?;
        }
        match states.last() {
            Some(last) if states.len() == STATES_MAX => tx
                .prepare_cached("UPDATE thinned SET done_point = ?2, done_entry = ?3 WHERE item = ?1")?
                .execute((thinned.item, last.0, last.1))?,
            _ => tx.prepare_cached("DELETE FROM thinned WHERE item = ?1")?.execute([thinned.item])?,
        };
        tx.commit()?;
        Ok(true)
    }
}

/// An entry has a state at this point, and no point is kept between `low` and this one or the next:
/// those before it have no one who reads them.
fn supersede(conn: &Connection, low: i64, point: i64, entry: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM states WHERE entry = ?1 AND point > ?2 AND point < ?3")?
        .execute((entry, low, point))?;
    if low >= 0 {
        return Ok(());
    }
    // Where nothing was before, that it is gone need not be said.
    let forgotten = conn
        .prepare_cached("DELETE FROM states WHERE entry = ?1 AND point = ?2 AND state IS NULL")?
        .execute((entry, point))?;
    if forgotten > 0 {
        conn.prepare_cached(
            "DELETE FROM entries WHERE entry = ?1 AND NOT EXISTS (SELECT 1 FROM states WHERE states.entry = ?1)",
        )?
        .execute([entry])?;
    }
    Ok(())
}

/// Removes points, none of them the newest, and notes which states are to be looked at for that.
fn remove(conn: &Connection, gone: &[i64]) -> rusqlite::Result<()> {
    let mut sorted = gone.to_vec();
    sorted.sort_unstable();
    for point in &sorted {
        conn.prepare_cached("DELETE FROM points WHERE point = ?1")?.execute([point])?;
    }
    let mut noted: BTreeSet<(i64, i64)> = BTreeSet::new();
    for point in sorted {
        let (low, upto): (Option<i64>, Option<i64>) = conn
            .prepare_cached(
                "SELECT (SELECT max(point) FROM points WHERE point < ?1), (SELECT min(point) FROM points WHERE point > ?1)",
            )?
            .query_row([point], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some(upto) = upto else { continue };
        let (low, after) = match low {
            Some(low) => (low, low),
            // It was the oldest. What is from it or before stays until something comes after it.
            None => (-1, point),
        };
        if noted.insert((low, upto)) {
            // From the first entry of the point after `after` on.
            conn.prepare_cached("INSERT INTO thinned (low, upto, done_point, done_entry) VALUES (?1, ?2, ?3, ?4)")?
                .execute((low, upto, after, i64::MAX))?;
        }
    }
    Ok(())
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
