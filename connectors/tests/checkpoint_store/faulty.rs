//! A store around another one, which does as a test says.

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt::{self, Display, Formatter};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Put,
    Get,
    List,
    Delete,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and it says so.
    Fails,
    /// It is done, and an error is the answer.
    AnswerLost,
    /// It is done, the answer is lost on the way, and the client's own second try finds the object there.
    AnswerLostAndTriedAgain,
    /// It is done late.
    Slow(Duration),
    /// There never is an answer, and nothing is done.
    Hangs,
}

#[derive(Debug)]
struct Rule {
    call: Call,
    /// What the object's name contains.
    of: &'static str,
    fault: Fault,
    times: usize,
}

/// See the module. Clones are of the same store.
#[derive(Clone, Debug)]
pub struct Faulty {
    inner: Arc<InMemory>,
    rule: Arc<Mutex<Option<Rule>>>,
}

impl Faulty {
    pub fn new() -> Self {
        Faulty { inner: Arc::default(), rule: Arc::default() }
    }

    /// The next `times` such calls, of objects whose name contains `of`, come to this.
    pub fn next(&self, call: Call, of: &'static str, fault: Fault, times: usize) {
        *self.rule.lock().unwrap() = Some(Rule { call, of, fault, times });
    }

    /// All goes well from here on.
    pub fn mend(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// How many such calls are still to come.
    pub fn left(&self) -> usize {
        self.rule.lock().unwrap().as_ref().map_or(0, |rule| rule.times)
    }

    fn fault(&self, call: Call, name: &str) -> Option<Fault> {
        let mut rule = self.rule.lock().unwrap();
        let rule = rule.as_mut().filter(|rule| rule.call == call && name.contains(rule.of) && rule.times > 0)?;
        rule.times -= 1;
        Some(rule.fault)
    }
}

fn error() -> Error {
    Error::Generic { store: "faulty", source: "the test said so".into() }
}

/// Does a call, or what the fault makes of it.
async fn with<R>(fault: Option<Fault>, name: &Path, call: impl Future<Output = Result<R>> + Send) -> Result<R> {
    match fault {
        None => call.await,
        Some(Fault::Fails) => Err(error()),
        Some(Fault::AnswerLost) => {
            call.await?;
            Err(error())
        }
        Some(Fault::AnswerLostAndTriedAgain) => {
            call.await?;
            Err(Error::AlreadyExists { path: name.to_string(), source: "the second try finds it".into() })
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            call.await
        }
        Some(Fault::Hangs) => std::future::pending().await,
    }
}

impl Display for Faulty {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty store")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault = self.fault(Call::Put, location.as_ref());
        with(fault, location, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.fault(Call::Get, location.as_ref());
        with(fault, location, self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let fault = store.fault(Call::Delete, location.as_ref());
                    let one = futures_util::stream::once(std::future::ready(Ok(location.clone()))).boxed();
                    let mut deleted = store.inner.delete_stream(one);
                    with(fault, &location, async { deleted.next().await.unwrap_or_else(|| Err(error())) }).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.cloned().unwrap_or_default();
        let fault = self.fault(Call::List, name.as_ref());
        with(fault, &name, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
