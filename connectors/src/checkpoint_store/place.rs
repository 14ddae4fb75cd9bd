//! What a person names as the place of checkpoints, and the object store that this is.

use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::sync::Arc;
use tallyflow_dataflows::checkpoint::StoreError;
use url::Url;

/// Where checkpoints are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointPlace {
    Folder(PathBuf),
    /// A URL of S3, Google Cloud Storage or Azure. It holds no secret.
    Bucket(String),
}

/// Why a text names no place. None of them repeats the text, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("is empty; name a folder or a URL")]
    Empty,
    #[error("is no URL ({0}); write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or a folder")]
    NoUrl(String),
    #[error(
        "has the scheme {0:?}, which is no store; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///FOLDER or a folder"
    )]
    Scheme(String),
    #[error("names no bucket; write {0}://BUCKET/PREFIX")]
    NoBucket(String),
    #[error("names a folder of another machine; write file:///FOLDER or the folder alone")]
    NotHere,
    #[error(
        "has more than a bucket and a prefix; keys and settings of the store go into the environment (AWS_*, GOOGLE_*, AZURE_*)"
    )]
    More,
}

impl CheckpointPlace {
    /// Reads a folder or a URL.
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        if text.is_empty() {
            return Err(PlaceError::Empty);
        }
        if !text.contains("://") && !text.starts_with("file:") {
            return Ok(CheckpointPlace::Folder(PathBuf::from(text)));
        }
        let url = Url::parse(text).map_err(|error| PlaceError::NoUrl(error.to_string()))?;
        let scheme = url.scheme();
        // Azure's own form names the container before the account.
        let may_have_user = matches!(scheme, "abfs" | "abfss");
        let has_user = !url.username().is_empty() && !may_have_user;
        if has_user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(PlaceError::More);
        }
        match scheme {
            "file" => url.to_file_path().map(CheckpointPlace::Folder).map_err(|()| PlaceError::NotHere),
            "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" => match url.host_str() {
                None | Some("") => Err(PlaceError::NoBucket(scheme.to_owned())),
                Some(_) => Ok(CheckpointPlace::Bucket(text.to_owned())),
            },
            _ => Err(PlaceError::Scheme(scheme.to_owned())),
        }
    }
}

impl Display for CheckpointPlace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointPlace::Folder(folder) => folder.display().fmt(f),
            CheckpointPlace::Bucket(url) => f.write_str(url),
        }
    }
}

/// What a program without the feature `cloud` says.
#[cfg(any(test, not(feature = "cloud")))]
fn not_built(url: &str) -> StoreError {
    StoreError(format!(
        "this tallyflow was built without stores like {url}; build it with `cargo build --release --features cloud`, or keep the checkpoints in a folder"
    ))
}

#[cfg(not(feature = "cloud"))]
pub(super) fn bucket(url: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Err(not_built(url))
}

/// The store of a URL, with whatever the environment says of it (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
#[cfg(feature = "cloud")]
pub(super) fn bucket(url: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    use object_store::prefix::PrefixStore;
    use object_store::{BackoffConfig, ObjectStoreScheme, RetryConfig};
    use std::time::Duration;

    // Shorter than a call may take. What lasts longer is tried again as a whole, and shown.
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        max_retries: 5,
        retry_timeout: Duration::from_secs(30),
    };
    let failed = |error: &dyn Display| {
        StoreError(format!("the store {url} can't be used: {error}; look at the URL and the environment"))
    };
    let parsed = Url::parse(url).map_err(|error| failed(&error))?;
    let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|error| failed(&error))?;
    let store: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            AmazonS3Builder::from_env().with_url(url).with_retry(retry).build().map(|store| Arc::new(store) as _)
        }
        ObjectStoreScheme::GoogleCloudStorage => GoogleCloudStorageBuilder::from_env()
            .with_url(url)
            .with_retry(retry)
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::MicrosoftAzure => {
            MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry).build().map(|store| Arc::new(store) as _)
        }
        _ => return Err(failed(&"it is of another kind")),
    };
    Ok(Arc::new(PrefixStore::new(store.map_err(|error| failed(&error))?, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_urls_are_told_apart() {
        let folder = |path: &str| Ok(CheckpointPlace::Folder(path.into()));
        assert_eq!(CheckpointPlace::parse("some/where"), folder("some/where"));
        assert_eq!(CheckpointPlace::parse("file:///some/where"), folder("/some/where"));
        for url in
            ["s3://bucket", "s3://bucket/a/prefix", "gs://b/p", "az://c/p", "abfs://c@account.dfs.core.windows.net/p"]
        {
            assert_eq!(CheckpointPlace::parse(url), Ok(CheckpointPlace::Bucket(url.to_owned())));
        }
        for (text, said) in [
            ("", "is empty"),
            ("s3://", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("http://host/path", "\"http\", which is no store"),
            ("memory://", "\"memory\", which is no store"),
            ("file://host/path", "another machine"),
            ("s3 3://b", "is no URL"),
        ] {
            let error = CheckpointPlace::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for url in
            ["s3://key:hunter2@bucket/p", "s3://hunter2@bucket/p", "az://c/p?sig=hunter2", "abfs://c:hunter2@a/p"]
        {
            let error = CheckpointPlace::parse(url).unwrap_err();
            assert_eq!(error, PlaceError::More);
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_program_without_such_stores_says_how_to_build_one_with_them() {
        let error = not_built("s3://bucket/p").to_string();
        assert!(error.contains("--features cloud"), "{error}");
    }
}
