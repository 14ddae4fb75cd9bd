//! Where checkpoints are kept: a folder, or a bucket of an object store, through `object_store`.

mod place;

use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
pub use place::{CheckpointPlace, PlaceError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::checkpoint::{CheckpointStore, StoreError};
use tokio::runtime::Runtime;

/// How long one call may take, with all that is tried again in it.
const CALL_MAX: Duration = Duration::from_secs(60);

/// Checkpoints as objects. Every call blocks, on whichever thread it is made, which must be none of an
/// asynchronous runtime.
pub struct ObjectCheckpoints {
    store: Arc<dyn ObjectStore>,
    /// Always there; taken when this is dropped.
    runtime: Option<Runtime>,
    call_max: Duration,
}

impl ObjectCheckpoints {
    /// Checkpoints in a place. Of a bucket nothing is asked yet.
    pub fn at(place: &CheckpointPlace) -> Result<Self, StoreError> {
        match place {
            CheckpointPlace::Folder(folder) => Self::in_folder(folder),
            CheckpointPlace::Bucket(url) => Self::over(place::bucket(url)?),
        }
    }

    /// Checkpoints in a folder, which is made where it is missing. What is written is synced.
    pub fn in_folder(folder: &Path) -> Result<Self, StoreError> {
        let failed = |error: &dyn std::fmt::Display| {
            StoreError(format!("the folder {} of checkpoints can't be used: {error}", folder.display()))
        };
        make_folder(folder).map_err(|error| failed(&error))?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(&error))?;
        Self::over(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
    }

    /// Checkpoints in any object store that can put an object where there is none.
    pub fn over(store: Arc<dyn ObjectStore>) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| StoreError(format!("no runtime for the checkpoints: {error}")))?;
        Ok(ObjectCheckpoints { store, runtime: Some(runtime), call_max: CALL_MAX })
    }

    /// With another bound on how long one call may take.
    pub fn with_call_max(mut self, call_max: Duration) -> Self {
        self.call_max = call_max;
        self
    }

    fn call<R>(
        &self,
        what: &str,
        name: &str,
        call: impl Future<Output = object_store::Result<R>>,
    ) -> Result<object_store::Result<R>, StoreError> {
        let runtime = self.runtime.as_ref().ok_or_else(|| StoreError(format!("{what} {name}: no runtime")))?;
        let result = runtime.block_on(async { tokio::time::timeout(self.call_max, call).await });
        match result {
            Err(_) => Err(StoreError(format!("{what} {name}: no answer within {:?}", self.call_max))),
            Ok(Err(
                error @ (object_store::Error::NotFound { .. }
                | object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }),
            )) => Ok(Err(error)),
            Ok(Err(error)) => Err(StoreError(format!("{what} {name}: {error}"))),
            Ok(Ok(value)) => Ok(Ok(value)),
        }
    }
}

/// Whoever is the last to hold it may be a thread of another runtime, where one must not be waited for.
impl Drop for ObjectCheckpoints {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes a folder where it is missing, so that it is there after a power cut too.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let folder = std::path::absolute(folder)?;
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(&folder)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// An answer in place of an object, where the question allows none.
fn unexpected<R>(what: &str, name: &str, result: object_store::Result<R>) -> Result<R, StoreError> {
    result.map_err(|error| StoreError(format!("{what} {name}: {error}")))
}

impl CheckpointStore for ObjectCheckpoints {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = ObjectPath::from(name);
        let put = self.store.put(&path, bytes.to_vec().into());
        unexpected("writing", name, self.call("writing", name, put)?).map(drop)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = ObjectPath::from(name);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.store.put_opts(&path, bytes.to_vec().into(), options);
        match self.call("writing", name, put)? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(StoreError(format!("writing {name}: {error}"))),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = ObjectPath::from(name);
        let get = async { self.store.get(&path).await?.bytes().await };
        match self.call("reading", name, get)? {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError(format!("reading {name}: {error}"))),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = ObjectPath::from(folder);
        let list = self.store.list_with_delimiter(Some(&path));
        let listed = unexpected("listing", folder, self.call("listing", folder, list)?)?;
        let mut names: Vec<String> = listed.objects.into_iter().map(|object| object.location.to_string()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = ObjectPath::from(name);
        match self.call("removing", name, self.store.delete(&path))? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError(format!("removing {name}: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_and_go_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectCheckpoints::in_folder(&dir.path().join("checkpoints")).unwrap();
        assert_eq!(store.list("job-1").unwrap(), Vec::<String>::new());
        assert_eq!(store.get("job-1/a").unwrap(), None);
        store.put("job-1/b", b"one").unwrap();
        store.put("job-1/b", b"two").unwrap();
        assert!(store.put_new("job-1/a", b"first").unwrap());
        assert!(!store.put_new("job-1/a", b"second").unwrap());
        assert_eq!(store.get("job-1/a").unwrap().as_deref(), Some(&b"first"[..]));
        assert_eq!(store.get("job-1/b").unwrap().as_deref(), Some(&b"two"[..]));
        store.put("job-10/c", b"").unwrap();
        assert_eq!(store.list("job-1").unwrap(), ["job-1/a", "job-1/b"]);
        store.delete("job-1/a").unwrap();
        store.delete("job-1/a").unwrap();
        assert_eq!(store.list("job-1").unwrap(), ["job-1/b"]);
    }

    #[test]
    fn it_may_be_dropped_wherever_it_is_last_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectCheckpoints::in_folder(dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move { drop(store) });
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "no folder").unwrap();
        let error = ObjectCheckpoints::in_folder(&file).err().unwrap();
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }
}
