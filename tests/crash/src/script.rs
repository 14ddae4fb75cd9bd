//! What a seed has found, told step by step: so that it is found again whatever else the test does later.

use crate::campaign::Campaign;
use crate::check;
pub use crate::faults::Action;
use crate::kafka::Log;
use crate::program::Start;
use std::path::Path;
use std::time::Duration;

/// A step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Ends the server that runs as a power cut would, and starts another that may end at these places.
    Start {
        workers: usize,
        fail_points: &'static str,
    },
    /// Lets it run for so many milliseconds, or until it has ended.
    Run(u64),
    Act(Action),
    /// Has it come to rest, on a server that ends nowhere, and looks at everything.
    Check,
}

/// Plays a script on a directory of its own, from a stream of that seed.
pub fn play(program: &Path, seed: u64, log: &Log, script: &[Step]) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut campaign = Campaign::start(program, dir.path(), seed, log)?;
    let mut armed = false;
    for step in script {
        match step {
            Step::Start { workers, fail_points } => {
                campaign.end_server(false)?;
                armed = !fail_points.is_empty();
                campaign.start_server(&Start { workers: *workers, fail_points: (*fail_points).to_owned() })?;
            }
            Step::Run(ms) => {
                for _ in 0..ms / 10 {
                    if campaign.has_ended(armed)? {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Step::Act(action) if !campaign.has_ended(armed)? => campaign.act(action)?,
            Step::Act(_) => {}
            Step::Check => {
                if armed {
                    campaign.end_server(false)?;
                    campaign.start_server(&Start { workers: 2, ..Start::default() })?;
                    armed = false;
                }
                // Shown where the test fails.
                println!("{}", campaign.story.join("\n"));
                check::all(&mut campaign)?;
                campaign.go_on();
            }
        }
    }
    campaign.end().map(drop)
}
