//! The boundary to where checkpoints are kept.

/// Objects by name, as an object store or a folder has them. Shared; every call blocks.
///
/// **Crash.** What `put` or `put_new` has answered for is durable. One that did not answer has left the
/// whole object or nothing.
pub trait CheckpointStore: Send + Sync {
    /// Writes an object, or writes it over.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Writes an object where there is none of that name; whether there was none.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError>;

    /// Reads an object; `None`: there is none of that name.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// The names of all objects in a folder, the folder's name before each, sorted.
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError>;

    /// Removes an object; one that is not there is no error.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// Why the store did not do as asked. Trying again may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);
