//! Power cuts, as far as checkpoints in a folder go: whatever was not synced is gone, files and names.
//! A library that is preloaded into the server keeps beside it what was synced; after a kill at some
//! moment the folder is made of that alone. The log has a test of its own sync, and is left as it is.

use crate::support::{Server, eventually, preloaded};
use crate::votes::{self, Flow};
use std::path::{Path, PathBuf};

/// What a power cut would leave of a folder.
struct Synced {
    shadow: PathBuf,
}

impl Synced {
    /// Makes a directory of what was synced of the one at `path`, which has had that path before.
    fn restore(&self, path: &Path, to: &Path) {
        std::fs::create_dir(to).unwrap();
        let names = self.shadow.join("names").join(path.to_str().unwrap().replace('/', "%"));
        // One that was never synced has no names.
        for line in std::fs::read_to_string(names).unwrap_or_default().lines() {
            let mut parts = line.splitn(3, ' ');
            let (kind, inode, name) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            if kind == "d" {
                self.restore(&path.join(name), &to.join(name));
            } else {
                // Nor has a file anything in it.
                let bytes = std::fs::read(self.shadow.join("files").join(inode)).unwrap_or_default();
                std::fs::write(to.join(name), bytes).unwrap();
            }
        }
    }
}

#[test]
fn after_a_power_cut_at_any_moment_the_newest_checkpoint_that_was_answered_for_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let world = dir.path().canonicalize().unwrap();
    let (data, place) = (world.join("data"), world.join("place"));
    let synced = Synced { shadow: world.join("shadow") };
    for made in ["names", "files"] {
        std::fs::create_dir_all(synced.shadow.join(made)).unwrap();
    }
    std::fs::create_dir(&place).unwrap();
    let library = preloaded(&world, "only_synced");
    let store = place.join("a/b/store");
    let options = [
        ("TALLYFLOW_CHECKPOINT_EVERY", "1s"),
        ("TALLYFLOW_CHECKPOINT_URL", store.to_str().unwrap()),
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("ONLY_SYNCED_OF", place.to_str().unwrap()),
        ("ONLY_SYNCED_TO", synced.shadow.to_str().unwrap()),
    ];
    let mut written = 0;
    for round in 0..6u64 {
        let server = Server::start_with(&data, 2, &options);
        let http = &server.http;
        if round == 0 {
            http.create_topic("votes", 2);
            http.submit(votes::JOB);
        } else {
            votes::assert_counts(&http.tallies_of("votes", written), written);
            let log = server.stderr();
            assert!(log.contains("goes on from a checkpoint") && !log.contains("is of no use"), "{log}");
        }
        let flow = Flow::start_after(&http.url, written);
        for _ in 0..1 + round % 2 {
            let before = http.job("votes")["checkpoint"]["epoch"].as_u64();
            eventually("a newer checkpoint was answered for", || {
                (http.job("votes")["checkpoint"]["epoch"].as_u64() > before).then_some(())
            });
        }
        // Some are cut in the midst of the next one.
        if round % 3 == 2 {
            http.post("/api/jobs/votes/checkpoint", "").ok();
        }
        let answered = http.job("votes")["checkpoint"]["epoch"].as_u64().unwrap();
        written = flow.stop();
        server.kill();

        let left = world.join("left");
        synced.restore(&place, &left);
        std::fs::remove_dir_all(&place).unwrap();
        std::fs::rename(&left, &place).unwrap();
        assert!(newest_epoch(&store) >= answered, "round {round}: epoch {answered} was answered for");
        // Its names are other files now: none of them is known as synced.
        for made in ["names", "files"] {
            std::fs::remove_dir_all(synced.shadow.join(made)).unwrap();
            std::fs::create_dir(synced.shadow.join(made)).unwrap();
        }
        synced.know(&place);
    }
}

impl Synced {
    /// All of a folder is as if it were synced.
    fn know(&self, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let mut names = String::new();
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            let (inode, name) = (entry.metadata().unwrap().ino(), entry.file_name().into_string().unwrap());
            if entry.path().is_dir() {
                names += &format!("d {inode} {name}\n");
                self.know(&entry.path());
            } else {
                names += &format!("f {inode} {name}\n");
                std::fs::copy(entry.path(), self.shadow.join("files").join(inode.to_string())).unwrap();
            }
        }
        std::fs::write(self.shadow.join("names").join(path.to_str().unwrap().replace('/', "%")), names).unwrap();
    }
}

/// The epoch of the newest manifest that is a checkpoint.
fn newest_epoch(store: &Path) -> u64 {
    let manifests = std::fs::read_dir(store.join("job-1")).unwrap().map(|entry| entry.unwrap().path());
    let epochs = manifests.filter(|path| path.extension().is_some_and(|of| of == "manifest")).filter_map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str::<serde_json::Value>(text.lines().next()?).unwrap()["epoch"].as_u64()
    });
    epochs.max().unwrap_or(0)
}
