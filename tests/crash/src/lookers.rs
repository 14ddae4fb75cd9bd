//! Who looks on while the server comes and goes: readers of event streams that resume by id, askers of
//! tallies, readers of the sinks' files.

use crate::board::{Board, Seen, parse};
use crate::feeder::{Shared, lock};
use crate::fold::lines::{Lines, digest, quoted};
use crate::http::Http;
use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What was seen of a job since it was last checked.
#[derive(Default)]
pub struct Sightings {
    /// Whole answers with offsets, not all of them.
    pub samples: Vec<Seen>,
    /// By epoch, the digest of the lines, whoever saw it.
    epochs: BTreeMap<u64, (String, &'static str)>,
    count: u64,
}

/// So many whole answers are kept for the fold, of each job and round.
const SAMPLES_MAX: usize = 8;

impl Sightings {
    /// Notes what was seen. All who see an epoch see the same.
    fn note(&mut self, seen: Seen, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
        let own = digest(&seen.lines);
        if let Some((other, by)) = self.epochs.get(&seen.epoch) {
            let (epoch, by_now) = (seen.epoch, seen.by);
            ensure!(*other == own, "{by} and {by_now} saw different lines in epoch {epoch}: {other}, {own}");
        } else {
            self.epochs.insert(seen.epoch, (own, seen.by));
        }
        if seen.offsets.is_empty() {
            return Ok(());
        }
        self.count += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(seen);
        } else if rng.random_ratio(SAMPLES_MAX as u32, self.count.try_into().unwrap_or(u32::MAX)) {
            let place = rng.random_range(0..SAMPLES_MAX);
            self.samples[place] = seen;
        }
        Ok(())
    }

    /// What there is to check, and forgets it.
    pub fn take(&mut self) -> Vec<Seen> {
        self.count = 0;
        self.epochs.clear();
        std::mem::take(&mut self.samples)
    }
}

/// Where everybody notes what was seen of one job.
pub type Noted = Arc<Mutex<Sightings>>;

/// What a thread of a reader has come to, for the summary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    pub deltas: u64,
    pub snapshots: u64,
    pub gaps: u64,
    pub resumed: u64,
}

/// Starts a reader of a job's events.
pub fn reader(job: &'static str, seed: u64, shared: Arc<Shared>, noted: Noted) -> JoinHandle<Read> {
    std::thread::spawn(move || {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut board, mut resumed) = (Board::new(), 0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = reqwest::Client::builder().no_proxy().build();
        let (Ok(runtime), Ok(client)) = (runtime, client) else {
            shared.fault("a reader can't be started".to_owned());
            return Read::default();
        };
        while !shared.is_stopping() {
            let Some(url) = shared.url() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let every = ["0", "1ms", "100ms"][rng.random_range(0..3)];
            let url = format!("{url}/api/jobs/{job}/events?every={every}");
            // Some leave by themselves and come back.
            let leave = Instant::now() + Duration::from_millis(rng.random_range(50..3_000));
            let is_resuming = board.id.is_some();
            let read = runtime.block_on(read(&client, &url, &mut board, leave, &shared, &noted, &mut rng));
            match read {
                Ok(true) => resumed += u64::from(is_resuming),
                Ok(false) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => {
                    shared.fault(format!("a reader of {job}: {error:#}"));
                    break;
                }
            }
        }
        Read { deltas: board.deltas, snapshots: board.snapshots, gaps: board.gaps, resumed }
    })
}

/// Reads one connection to its end; whether there was one. Errors are faults of the server's.
async fn read(
    client: &reqwest::Client,
    url: &str,
    board: &mut Board,
    leave: Instant,
    shared: &Shared,
    noted: &Noted,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<bool> {
    let mut request = client.get(url);
    if let Some(id) = board.id {
        request = request.header("last-event-id", id.to_string());
    }
    let Ok(Ok(mut response)) = tokio::time::timeout(Duration::from_secs(10), request.send()).await else {
        return Ok(false);
    };
    match response.status().as_u16() {
        200 => {}
        // It catches up, or stops.
        503 => return Ok(false),
        other => anyhow::bail!("{url} was answered {other}: {}", response.text().await.unwrap_or_default()),
    }
    let mut bytes = Vec::new();
    while Instant::now() < leave && !shared.is_stopping() {
        let chunk = match tokio::time::timeout(Duration::from_millis(50), response.chunk()).await {
            Err(_) => continue,
            Ok(Ok(Some(chunk))) => chunk,
            Ok(_) => break,
        };
        bytes.extend_from_slice(&chunk);
        // What is cut off at the end is no event.
        while let Some(end) = bytes.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = bytes.drain(..end + 2).collect();
            let block = std::str::from_utf8(&block)?;
            let (mut kind, mut id, mut data) = ("message", None, None);
            for line in block.lines() {
                let (field, value) = line.split_once(": ").unwrap_or((line, ""));
                match field {
                    "event" => kind = value,
                    "id" => id = Some(value),
                    "data" => data = Some(value),
                    _ => {}
                }
            }
            if let Some(data) = data
                && let Some(seen) = board.follow(kind, id, data)?
            {
                lock(noted).note(seen, rng)?;
            }
        }
    }
    Ok(true)
}

/// Starts a thread that asks for the tallies of jobs, now of the one, now of the other.
pub fn asker(jobs: Vec<(&'static str, Noted)>, seed: u64, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut http, mut newest): (Option<Http>, _) = (None, vec![(0u64, 0u64); jobs.len()]);
        while !shared.is_stopping() {
            std::thread::sleep(Duration::from_millis(rng.random_range(0..25)));
            let Some(url) = shared.url() else { continue };
            if http.as_ref().is_none_or(|http| http.url != url) {
                http = Http::new(&url, Duration::from_secs(10)).ok();
            }
            let place = rng.random_range(0..jobs.len());
            let (job, noted) = &jobs[place];
            let ago = rng.random_ratio(1, 6).then(|| rng.random_range(0..5_000));
            let as_of = ago.map(|ago| format!("?as_of={}", now_ms().saturating_sub(ago))).unwrap_or_default();
            let answer = http.as_ref().map(|http| http.get(&format!("/api/jobs/{job}/tallies{as_of}")));
            let Some(Ok(answer)) = answer else { continue };
            let mut check = || {
                // Nothing to show yet, or nothing that is so old.
                if answer.status == 503 || ago.is_some() && answer.status == 404 {
                    return Ok(());
                }
                ensure!(answer.status == 200, "tallies{as_of} were answered {answer:?}");
                if ago.is_some() {
                    return lock(noted).note(parse(&answer.text, "an asker of the past")?, &mut rng);
                }
                let seen = parse(&answer.text, "an asker")?;
                let (epoch, read) = (seen.epoch, seen.accounting["read"]);
                let before = std::mem::replace(&mut newest[place], (epoch, read));
                ensure!(
                    before.0 <= epoch && before.1 <= read,
                    "epoch and records fell from {before:?} to {epoch}, {read}"
                );
                lock(noted).note(seen, &mut rng)
            };
            if let Err(error) = check() {
                shared.fault(format!("tallies of {job}: {error:#}"));
                break;
            }
        }
    })
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

/// Starts a thread that looks into a sink's file.
pub fn looker(job: &'static str, file: PathBuf, seed: u64, shared: Arc<Shared>, noted: Noted) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut newest = 0;
        while !shared.is_stopping() {
            std::thread::sleep(Duration::from_millis(rng.random_range(5..60)));
            let mut check = || {
                let Some(seen) = look(&file, job)? else { return Ok(()) };
                ensure!(seen.epoch >= newest, "the epoch fell from {newest} to {}", seen.epoch);
                newest = seen.epoch;
                lock(&noted).note(seen, &mut rng)
            };
            if let Err(error) = check() {
                shared.fault(format!("the file of {job}: {error:#}"));
                break;
            }
        }
    })
}

/// What a sink's file shows of a job, in one transaction, and sees that it belongs together. `None`: nothing
/// yet, or it can't be read just now.
pub fn look(file: &Path, job: &str) -> anyhow::Result<Option<Seen>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let Ok(mut db) = Connection::open_with_flags(file, flags) else { return Ok(None) };
    db.busy_timeout(Duration::from_secs(10))?;
    let Ok(tx) = db.transaction() else { return Ok(None) };
    let newest = tx.query_row(
        "SELECT epoch, offsets, digest, accounting FROM snapshots WHERE job = ?1 ORDER BY epoch DESC LIMIT 1",
        [job],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?)),
    );
    // The file is being made, or the WAL can't be opened by one who only reads while nobody writes.
    let Ok((epoch, offsets, told, accounting)) = newest else { return Ok(None) };
    let mut query =
        tx.prepare("SELECT subject, \"group\", CAST(value AS TEXT), aggregates, epoch FROM tallies WHERE job = ?1")?;
    let mut rows = query.query([job])?;
    let mut lines = Lines::new();
    while let Some(row) = rows.next()? {
        let (subject, group): (String, String) = (row.get(0)?, row.get(1)?);
        let (value, aggregates): (String, Option<String>) = (row.get(2)?, row.get(3)?);
        let of: i64 = row.get(4)?;
        ensure!(of == epoch, "a line of epoch {of} stands beside the snapshot of {epoch}");
        // A group of several parts is an array already.
        let group = if group.starts_with("[\"") { group } else { quoted(&group) };
        let values = match aggregates {
            None => vec![value],
            Some(all) => {
                let all = all.trim_matches(['{', '}']).split(',').map(|member| Some(member.rsplit_once(':')?.1.trim()));
                all.map(|value| value.map(str::to_owned)).collect::<Option<_>>().context("the aggregates")?
            }
        };
        lines.insert((quoted(&subject), group), values);
    }
    let own = digest(&lines);
    ensure!(own == told, "the snapshot of epoch {epoch} says {told} and the lines make {own}: {lines:?}");
    Ok(Some(Seen {
        epoch: epoch as u64,
        offsets: serde_json::from_str(&offsets)?,
        lines,
        accounting: serde_json::from_str(&accounting)?,
        by: "a reader of the sink's file",
    }))
}
