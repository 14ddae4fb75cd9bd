//! File systems of a test's own.

use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A file system of its own, unmounted when it is dropped. None, and a line that says why, where it may
/// not be made.
pub struct Mount {
    dir: TempDir,
}

impl Mount {
    pub fn new(options: &str) -> Option<Mount> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Mount { dir }),
            other => {
                println!("SKIPPED: a tmpfs can't be mounted here, which takes root: {other:?}");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Mounts it again with other options; whether that could be done.
    pub fn try_remount(&self, options: &str) -> bool {
        let options = format!("remount,{options}");
        Command::new("mount").args(["-o", &options]).arg(self.dir.path()).output().unwrap().status.success()
    }

    pub fn remount(&self, options: &str) {
        assert!(self.try_remount(options), "it can't be mounted with {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: whatever still has a file open there is on its way out.
        Command::new("umount").arg("-l").arg(self.dir.path()).status().ok();
    }
}
